"""Scaled dot-product attention that never holds more than a block of scores beyond what backward needs, and a
transformer's block as one node of the tape.

The scores are made block by block: some of the stacked problems (batch and heads), some of their queries, all
keys. A block has whole rows, so its softmax is finished at once. If the weights of the whole call are small, they
are kept for the backward pass. Otherwise only the largest score and the sum of each row are kept, and the backward
pass makes the same block again with the same bits (the recomputation of FlashAttention, Dao et al. 2022, arXiv
2205.14135; its running maximum is not needed with whole rows). The definitions are in nn.

The largest score of a row is subtracted so that no exponential overflows. Where |q| |k| bounds every score by
SAFE, none can, and the two passes that find and subtract it, a fifth of the forward pass, are left out.

Index letters: N stacked problems, Q queries, L keys, d features of queries and keys, e features of values.
"""

import math

import numpy as np

from . import activation, norm
from .products import column_sums, product, products
from .tape import on_tape
from .threads import each

BLOCK = 1 << 18  # scores in a block, which the second-level cache holds; one row of L scores at least
KEEP = 1 << 24  # bytes of weights that a call may keep for its backward pass
SAFE = 16.0  # e^16 and e^-16 are far from float32's ends, times millions of keys as well


def attention(q, k, v, *, causal=False, mask=None):  # (..., Q, d), (..., L, d), (..., L, e) -> (..., Q, e)
    """softmax(q k^T / sqrt(d)) v. `causal`: query i sees keys 0..i, Q = L. `mask` (..., Q, L): True is seen."""
    return attend(q, k, v, mask=checked(np.shape(q), np.shape(k), np.shape(v), causal, mask))


def checked(Q: tuple, K: tuple, V: tuple, causal: bool, mask: np.ndarray | None) -> np.ndarray | None:
    """The mask with causal in it, its last two axes written out; ValueError for shapes and masks that do not fit.

    The leading axes are repeated later, block by block.
    """
    fit = min(len(Q), len(K), len(V)) >= 2 and Q[:-2] == K[:-2] == V[:-2] and Q[-1] == K[-1] and K[-2] == V[-2]
    if not fit or 0 in K[-2:]:
        raise ValueError(
            "attention needs q (..., Q, d), k (..., L, d) and v (..., L, e) with equal leading axes, one key and "
            f"one feature at least, got q {Q}, k {K}, v {V}"
        )
    if causal and Q[-2] != K[-2]:
        raise ValueError(
            "causal attention needs as many queries as keys (which keys would a query see?), "
            f"got {Q[-2]} queries and {K[-2]} keys"
        )
    if mask is not None:
        mask, shape = np.asarray(mask), (*Q[:-1], K[-2])
        fits = all(m in (1, n) for m, n in zip(mask.shape[::-1], shape[::-1], strict=False))
        if mask.dtype != bool or mask.ndim > len(shape) or not fits:
            raise ValueError(f"attention needs mask boolean and to fit {shape}, got {mask.dtype} of {mask.shape}")
        mask = np.broadcast_to(mask, np.broadcast_shapes(mask.shape, shape[-2:]))
    if causal:
        mask = np.tri(Q[-2], dtype=bool) & (True if mask is None else mask)
    if mask is not None and not mask.any(axis=-1).all():
        raise ValueError("mask leaves a query without a key to see: its softmax would be 0 / 0")
    return mask


@on_tape("attention")
def attend(q, k, v, *, wanted, mask):
    """With E = exp(scores - row maximum), or exp(scores) where that is safe, and n = row sum of E, the weights are
    P = E / n and y = (E v) / n. Backward, with h = g / n: dv = E^T h; dS = E * (h v^T - rowsum(h * y));
    dq = dS k / sqrt(d); dk = dS^T q / sqrt(d). P itself is never formed.
    """
    lead, (Q, d), (L, e) = q.shape[:-2], q.shape[-2:], v.shape[-2:]
    N, scale = math.prod(lead), q.dtype.type(d**-0.5)
    q = q.reshape(N, Q, d) * scale  # Q d products; scaling the scores would take Q L products
    k, v = k.reshape(N, L, d), v.reshape(N, L, e)
    y, total = np.empty((N, Q, e), q.dtype), np.empty((N, Q, 1), q.dtype)
    longest = [np.sqrt(np.vecdot(x, x).max(initial=0)) for x in (q, k)]
    top = None if longest[0] * longest[1] <= SAFE else np.empty_like(total)
    masks = None if mask is None else np.broadcast_to(mask, (*(lead or (1,)), Q, L))
    kept = {} if wanted and N * Q * L * q.itemsize <= KEEP else None
    most, queries = max(1, BLOCK // (max(1, Q) * L)), max(1, BLOCK // L)
    groups = [slice(n, n + most) for n in range(0, N, most)]
    blocks = [slice(i, i + queries) for i in range(0, Q, queries)]

    def scores(n, i):
        S = np.matmul(q[n, i], k[n].swapaxes(-1, -2))
        if masks is not None:
            problems = np.unravel_index(np.arange(N)[n], lead or (1,))
            S += np.where(masks[*problems, i], S.dtype.type(0), S.dtype.type(-np.inf))
        return S

    def forward(n):
        for i in blocks:
            E = scores(n, i)
            if top is not None:
                E -= np.max(E, axis=-1, keepdims=True, out=top[n, i])
            np.exp(E, out=E)
            total[n, i] = np.matmul(E, np.ones((L, 1), E.dtype))  # BLAS adds short rows faster than np.sum
            y[n, i] = np.matmul(E, v[n])
            y[n, i] /= total[n, i]
            if kept is not None:
                kept[n.start, i.start] = E

    each(forward, groups)

    def back(g):
        h = g.reshape(y.shape) / total
        along = np.einsum("nqe,nqe->nq", h, y)[..., None]
        dq, dk, dv = np.empty_like(q), np.zeros_like(k), np.zeros_like(v)

        def work(n):
            for i in blocks:
                if kept is not None:
                    E = kept[n.start, i.start]
                else:  # not the logarithm of the sum instead of both: at scores of 1e4 that would lose digits
                    E = scores(n, i)
                    if top is not None:
                        E -= top[n, i]
                    np.exp(E, out=E)
                dv[n] += np.matmul(E.swapaxes(-1, -2), h[n, i])
                dS = np.matmul(h[n, i], v[n].swapaxes(-1, -2))
                dS -= along[n, i]
                dS *= E
                dq[n, i] = np.matmul(dS, k[n])
                dk[n] += np.matmul(dS.swapaxes(-1, -2), q[n, i])

        each(work, groups)
        np.multiply(dq, scale, out=dq)  # dk needs no such factor: q was kept scaled
        return [d.reshape(*lead, *d.shape[1:]) for d in ((dq, dk, dv)[n] for n in wanted)]

    return y.reshape(*lead, Q, e), back


# ------------------------------------------------------------------------------------------ a transformer's block
#
# Node by node, a block takes some 25 operations of the tape with 10 to 20 us each, and as many arrays for the sums
# along its residual path: a third of ExViT's step, whose arrays are small. Here queries, keys and values also come
# from one product, and sums, dropout's factors and biases are added in place.

ACTIVATIONS = {"gelu": activation.fill_gelu, "quick_gelu": activation.fill_quick_gelu}


def transformer_block(
    x, norm1, qkv, out, norm2, up, down, *, heads, activation, causal=False, mask=None, keep=None
):
    # (N, L, W), pairs of weight and bias -> (N, L, W)
    """x <- x + keep1 out(attention(qkv(LN(x)))), then x + keep3 down(keep2 activation(up(LN(x)))).

    Queries, keys and values lie side by side in qkv (3 I, W), I a multiple of the heads; its bias may be None.
    `keep` are dropout's factors, or None.
    """
    shape = (len(x), heads, np.shape(x)[1], len(qkv[0]) // 3 // heads)
    mask = checked(shape, shape, shape, causal, mask)
    arrays = [*norm1, qkv[0], *out, *norm2, *up, *down, *([] if qkv[1] is None else [qkv[1]])]
    return _block(x, *arrays, heads=heads, fill=ACTIVATIONS[activation], mask=mask, keep=keep or (None,) * 3)


@on_tape("transformer_block")
def _block(x, *arrays, wanted, heads, fill, mask, keep):
    """The chain of these kernels, and of their ways back in reverse; at each sum the gradient goes both ways."""
    w1, b1, W_qkv, W_out, b_out, w2, b2, W_up, b_up, W_down, b_down, b_qkv = (*arrays, None)[:12]
    (N, L, width), every = x.shape, (0, 1, 2) if wanted else ()  # layer_norm's and attention's arguments
    rows = x.reshape(N * L, width)
    h1, back_norm1 = norm.normalise_rows.kernel(rows, w1, b1, wanted=every, eps=1e-5)
    qkv = product(h1, W_qkv.T, b_qkv).reshape(N, L, 3, heads, -1).transpose(2, 0, 3, 1, 4)
    a, back_attention = attend.kernel(*qkv, wanted=every, mask=mask)
    a = a.transpose(0, 2, 1, 3).reshape(N * L, -1)
    y = _times(product(a, W_out.T, b_out), keep[0])
    y += rows
    h2, back_norm2 = norm.normalise_rows.kernel(y, w2, b2, wanted=every, eps=1e-5)
    u, back_fill = activation.kernel(product(h2, W_up.T, b_up), wanted=wanted, fill=fill)
    u = _times(u, keep[1])
    z = _times(product(u, W_down.T, b_down), keep[2])
    z += y

    def back(g):
        g, d = np.ascontiguousarray(g).reshape(N * L, width), {}
        du, d[10], d[11] = _back_linear(g if keep[2] is None else g * keep[2].reshape(g.shape), W_down, u)
        dh, d[8], d[9] = _back_linear(back_fill(_times(du, keep[1]))[0], W_up, h2)
        dy, d[6], d[7] = back_norm2(dh)
        dy += g
        da, d[4], d[5] = _back_linear(dy if keep[0] is None else dy * keep[0].reshape(dy.shape), W_out, a)
        da = np.ascontiguousarray(da.reshape(N, L, heads, -1).transpose(0, 2, 1, 3))
        dqkv = np.empty((N, L, 3, heads, da.shape[3]), g.dtype)
        for part, gradient in enumerate(back_attention(da)):
            dqkv[:, :, part] = gradient.transpose(0, 2, 1, 3)
        dh, d[3], d[12] = _back_linear(dqkv.reshape(N * L, -1), W_qkv, h1)
        dx, d[1], d[2] = back_norm1(dh)
        dx += dy
        d[0] = dx.reshape(N, L, width)
        return [d[n] for n in wanted]

    return z.reshape(x.shape), back


def _times(y, keep):
    """y times dropout's factors, in place."""
    return y if keep is None else np.multiply(y, keep.reshape(y.shape), out=y)


def _back_linear(g, weight, rows):
    """dx, dW and db of rows W^T + b."""
    return *products((g, weight), (g.T, rows)), column_sums(g)

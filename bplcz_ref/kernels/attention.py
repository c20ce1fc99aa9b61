"""Scaled dot-product attention that never holds more than a block of scores beyond what backward needs.

The scores are made block by block: some of the stacked problems (batch and heads), some of their queries, all
keys that these queries see. A block has whole rows, so its softmax is finished at once. If the weights of the
whole call are small, they are kept for the backward pass. Otherwise only the largest score and the sum of each row
are kept, and the backward pass makes the same block again with the same bits (the recomputation of FlashAttention,
Dao et al. 2022, arXiv 2205.14135; its running maximum is not needed with whole rows). Both ways are exact and give
the same bits on any number of threads. The definition is nn.attention.

The largest score of a row is subtracted so that no exponential overflows. Where |q| |k| bounds every score by
SAFE, none can, and the two passes that find and subtract it, a fifth of the forward pass, are left out.

Index letters: N stacked problems, Q queries, L keys, d features of queries and keys, e features of values.
"""

import math
from collections.abc import Callable

import numpy as np

from .scheduler import each
from .tape import on_tape

BLOCK = 1 << 18  # scores in a block; one row of L scores at least
KEEP = 1 << 24  # bytes of weights that a call may keep for its backward pass
SAFE = 16.0  # e^16 and e^-16 are far from float32's ends, times millions of keys as well


def attention(
    q: np.ndarray, k: np.ndarray, v: np.ndarray, *, causal: bool = False, mask: np.ndarray | None = None
) -> np.ndarray:  # (..., Q, d), (..., L, d), (..., L, e) -> (..., Q, e)
    """softmax(q k^T / sqrt(d)) v. `causal`: query i sees keys 0..i, and Q = L. `mask` (..., Q, L): True is seen.

    With E = exp(scores - row maximum), or exp(scores) where that is safe, and n = row sum of E, the weights are
    P = E / n and y = (E v) / n. Backward, with h = g / n: dv = E^T h; dS = E * (h v^T - rowsum(h * y));
    dq = dS k / sqrt(d); dk = dS^T q / sqrt(d). P itself is never formed.
    """
    mask, causal = checked(np.shape(q), np.shape(k), np.shape(v), causal, mask)
    return _attention(q, k, v, causal=causal, mask=mask)


def checked(
    Q: tuple, K: tuple, V: tuple, causal: bool, mask: np.ndarray | None
) -> tuple[
    np.ndarray | None, bool
]:  # shapes of q, k, v -> the mask, with causal in it if both are given, and causal
    """ValueError for shapes and masks that do not fit."""
    if min(len(Q), len(K), len(V)) < 2 or not Q[:-2] == K[:-2] == V[:-2] or Q[-1] != K[-1] or K[-2] != V[-2]:
        raise ValueError(
            "attention needs q (..., Q, d), k (..., L, d) and v (..., L, e) with equal leading axes, "
            f"got q {Q}, k {K}, v {V}"
        )
    if K[-2] == 0 or K[-1] == 0:
        raise ValueError(f"attention needs one key and one feature at least, got q {Q}, k {K}")
    if causal and Q[-2] != K[-2]:
        raise ValueError(
            f"causal attention needs as many queries as keys (which keys would a query see?), got {Q[-2]} "
            f"queries and {K[-2]} keys"
        )
    if mask is not None:
        mask = _written_out(mask, (*Q[:-1], K[-2]))
        if causal:
            mask, causal = mask & np.tri(Q[-2], dtype=bool), False
        if not mask.any(axis=-1).all():
            raise ValueError("mask leaves a query without a key to see: its softmax would be 0 / 0")
    return mask, causal


def _written_out(mask, shape):
    """The mask with its last two axes written out; the leading ones are repeated later, block by block."""
    mask = np.asarray(mask)
    fits = mask.ndim <= len(shape) and all(
        m in (1, n) for m, n in zip(mask.shape[::-1], shape[::-1], strict=False)
    )
    if mask.dtype != bool or not fits:
        raise ValueError(f"attention needs mask boolean and to fit {shape}, got {mask.dtype} of {mask.shape}")
    return np.broadcast_to(mask, np.broadcast_shapes(mask.shape, shape[-2:]))


def _groups(N, Q, L):
    """Slices of the stacked problems: as many at a time as fit a block."""
    step = max(1, BLOCK // (max(1, Q) * L))
    return [slice(i, i + step) for i in range(0, N, step)]


def _blocks(Q, L, causal):
    """A group's blocks, as (queries, number of keys that these queries see)."""
    step = max(1, min(Q, BLOCK // L))
    for i in range(0, Q, step):
        end = min(i + step, Q)
        yield slice(i, end), end if causal else L


def _hider(lead, Q, L, causal, mask, dtype) -> Callable:
    """A function hide(S, n, i) that adds -inf to the hidden scores of the block of problems n and queries i."""
    m = min(Q, max(1, BLOCK // L))  # queries of a block
    corner = np.triu(np.full((m, m), -np.inf, dtype), 1) if causal else None
    lead = lead or (1,)
    masks = None if mask is None else np.broadcast_to(mask, (*lead, Q, L))

    def hide(S, n, i):
        if corner is not None:  # the keys after the block's last query are cut already; hide those in between
            m = S.shape[-2]
            S[..., -m:] += corner[:m, :m]
        if masks is not None:
            problems = np.unravel_index(np.arange(math.prod(lead))[n], lead)
            S += np.where(masks[*problems, i], dtype.type(0), dtype.type(-np.inf))
        return S

    return hide


def _longest(x):
    return np.sqrt(np.vecdot(x, x).max(initial=0))


def forward(q, k, v, *, wanted, causal, mask):
    lead, (Q, d), (L, e) = q.shape[:-2], q.shape[-2:], v.shape[-2:]
    N = math.prod(lead)
    q = q.reshape(N, Q, d) * q.dtype.type(d**-0.5)  # Q d products; scaling the scores would take Q L products
    k, v = k.reshape(N, L, d), v.reshape(N, L, e)
    y = np.empty((N, Q, e), q.dtype)
    total = np.empty((N, Q, 1), q.dtype)
    top = None if _longest(q) * _longest(k) <= SAFE else np.empty_like(total)
    hide = _hider(lead, Q, L, causal, mask, q.dtype)
    small = N * Q * L * q.itemsize <= KEEP
    weights = {} if wanted and small else None

    def work(n):
        for i, seen in _blocks(Q, L, causal):
            E = hide(np.matmul(q[n, i], k[n, :seen].swapaxes(-1, -2)), n, i)
            if top is not None:
                np.max(E, axis=-1, keepdims=True, out=top[n, i])
                E -= top[n, i]
            np.exp(E, out=E)
            total[n, i] = np.matmul(E, np.ones((seen, 1), E.dtype))  # BLAS adds short rows faster than np.sum
            y[n, i] = np.matmul(E, v[n, :seen])
            y[n, i] /= total[n, i]
            if weights is not None:
                weights[n.start, i.start] = E

    each(work, _groups(N, Q, L))
    return y.reshape(*lead, Q, e), (q, k, v, y, top, total, weights) if wanted else None


def backward(g, wanted, kept, *, causal, mask):
    q, k, v, y, top, total, weights = kept
    lead, (N, Q, d), L = g.shape[:-2], q.shape, k.shape[1]
    h = g.reshape(y.shape) / total
    along = np.einsum("nqe,nqe->nq", h, y)[..., None]
    dq, dk, dv = np.zeros_like(q), np.zeros_like(k), np.zeros_like(v)
    hide = _hider(lead, Q, L, causal, mask, q.dtype)

    def work(n):
        for i, seen in _blocks(Q, L, causal):
            if weights is not None:
                E = weights[n.start, i.start]
            else:
                E = hide(np.matmul(q[n, i], k[n, :seen].swapaxes(-1, -2)), n, i)
                if top is not None:
                    E -= top[n, i]  # not the logarithm of the sum as well: at scores of 1e4 that would lose digits
                np.exp(E, out=E)
            if 2 in wanted:
                dv[n, :seen] += np.matmul(E.swapaxes(-1, -2), h[n, i])
            if 0 in wanted or 1 in wanted:
                dS = np.matmul(h[n, i], v[n, :seen].swapaxes(-1, -2))
                dS -= along[n, i]
                dS *= E
                if 0 in wanted:
                    dq[n, i] = np.matmul(dS, k[n, :seen])
                if 1 in wanted:
                    dk[n, :seen] += np.matmul(dS.swapaxes(-1, -2), q[n, i])

    each(work, _groups(N, Q, L))
    dq *= q.dtype.type(d**-0.5)  # dk needs no such factor: q was kept scaled
    return [(dq, dk, dv)[n].reshape(lead + (dq, dk, dv)[n].shape[1:]) for n in wanted]


_attention = on_tape("attention", forward, backward)

"""A transformer's block as one node of the tape: forward and backward of its kernels in turn.

The definition is nn.transformer_block. Node by node, a block takes some 25 operations of the tape with 10 to 20 us
each, and as many arrays for the sums along its residual path: a third of ExViT's step, whose arrays are small.
Here queries, keys and values also come from one product, and sums, dropout's factors and biases are added in
place.
"""

import numpy as np

from . import attention, gelu, layer_norm
from .products import product, products
from .tape import on_tape

ACTIVATIONS = {"gelu": gelu.fill_gelu, "quick_gelu": gelu.fill_quick_gelu}
ALL = (0, 1, 2)  # layer_norm's and attention's arguments, each of which carries a gradient here


def transformer_block(
    x: np.ndarray,
    norm1: tuple,
    qkv: tuple,
    out: tuple,
    norm2: tuple,
    up: tuple,
    down: tuple,
    *,
    heads: int,
    activation: str,
    causal: bool = False,
    mask: np.ndarray | None = None,
    keep: tuple | None = None,
) -> np.ndarray:  # (N, L, W) -> (N, L, W)
    """x <- x + keep1 out(attention(qkv(LN(x)))), then x + keep3 down(keep2 activation(up(LN(x)))).

    Backward is the chain rule of these kernels, in reverse order; at each sum the gradient goes both ways.
    """
    N, L, width = np.shape(x)
    inner = np.shape(qkv[0])[0] // 3
    if np.shape(qkv[0]) != (3 * inner, width) or inner % heads or np.shape(out[0]) != (width, inner):
        raise ValueError(
            f"transformer_block: x {np.shape(x)} with {heads} heads needs qkv (3 I, {width}) and out ({width}, "
            f"I), I a multiple of the heads; found {np.shape(qkv[0])} and {np.shape(out[0])}"
        )
    shape = (N, heads, L, inner // heads)
    mask, causal = attention.checked(shape, shape, shape, causal, mask)
    arrays = [*norm1, qkv[0], *out, *norm2, *up, *down]
    if qkv[1] is not None:
        arrays.append(qkv[1])
    return _block(x, *arrays, heads=heads, activation=activation, causal=causal, mask=mask, keep=keep)


def _forward(x, w1, b1, W_qkv, W_out, b_out, w2, b2, W_up, b_up, W_down, b_down, b_qkv=None, *, wanted, **options):
    N, L, width = x.shape
    heads, keep = options["heads"], options["keep"] or (None,) * 3
    rows = x.reshape(N * L, width)
    h1, norm1 = layer_norm.forward(rows, w1, b1, wanted=ALL if wanted else (), eps=1e-5)
    qkv = product(h1, W_qkv.T, b_qkv).reshape(N, L, 3, heads, -1).transpose(2, 0, 3, 1, 4)
    seen = {"causal": options["causal"], "mask": options["mask"]}
    a, attended = attention.forward(*qkv, wanted=ALL if wanted else (), **seen)
    a = a.transpose(0, 2, 1, 3).reshape(N * L, -1)
    y = _times(product(a, W_out.T, b_out), keep[0])
    y += rows
    h2, norm2 = layer_norm.forward(y, w2, b2, wanted=ALL if wanted else (), eps=1e-5)
    fill = ACTIVATIONS[options["activation"]]
    u, slope = gelu.forward(product(h2, W_up.T, b_up), wanted=wanted, fill=fill)
    u = _times(u, keep[1])
    z = _times(product(u, W_down.T, b_down), keep[2])
    z += y
    weights = W_qkv, W_out, W_up, W_down
    kept = (h1, norm1, attended, a, h2, norm2, slope, u, weights, keep) if wanted else None
    return z.reshape(x.shape), kept


def _backward(g, wanted, kept, **options):
    h1, norm1, attended, a, h2, norm2, slope, u, (W_qkv, W_out, W_up, W_down), keep = kept
    N, L, width = g.shape
    g = np.ascontiguousarray(g).reshape(N * L, width)
    d = {}

    dz = g if keep[2] is None else g * keep[2].reshape(g.shape)
    du, d[10], d[11] = _linear(dz, W_down, u)
    du = np.multiply(_times(du, keep[1]), slope.reshape(du.shape), out=du)
    dh, d[8], d[9] = _linear(du, W_up, h2)
    dy, d[6], d[7] = layer_norm.backward(dh, ALL, norm2, eps=1e-5)
    dy += g

    da, d[4], d[5] = _linear(dy if keep[0] is None else dy * keep[0].reshape(dy.shape), W_out, a)
    da = da.reshape(N, L, options["heads"], -1).transpose(0, 2, 1, 3)
    seen = {"causal": options["causal"], "mask": options["mask"]}
    dqkv = np.empty((N, L, 3, *da.shape[1::2]), g.dtype)
    for part, gradient in enumerate(attention.backward(np.ascontiguousarray(da), ALL, attended, **seen)):
        dqkv[:, :, part] = gradient.transpose(0, 2, 1, 3)
    dh, d[3], d[12] = _linear(dqkv.reshape(N * L, -1), W_qkv, h1)
    dx, d[1], d[2] = layer_norm.backward(dh, ALL, norm1, eps=1e-5)
    dx += dy
    d[0] = dx.reshape(N, L, width)
    return [d[n] for n in wanted]


def _times(y, keep):
    """y times dropout's factors, in place."""
    return y if keep is None else np.multiply(y, keep.reshape(y.shape), out=y)


def _linear(g, weight, rows):
    """dx, dW and db of rows W^T + b."""
    dx, dW = products((g, weight, None), (g.T, rows, None))
    return dx, dW, np.dot(np.ones(len(g), g.dtype), g)


_block = on_tape("transformer_block", _forward, _backward)

"""Normalisation over the last axis, in blocks of rows that stay in cache; sums over features and rows by BLAS.

The definition is nn.layer_norm.
"""

import math

import numpy as np

from .cores import workspace
from .scheduler import NUMBERS, each, pieces
from .tape import on_tape


def layer_norm(
    x: np.ndarray, weight: np.ndarray, bias: np.ndarray, eps: float = 1e-5
) -> np.ndarray:  # (..., d), (d,), (d,) -> (..., d)
    """y = x_hat * weight + bias, x_hat = (x - mean) r, r = 1 / sqrt(var + eps), var divided by d.

    Backward, with q = g * weight: dx = r (q - mean(q) - x_hat mean(q x_hat)), means over d;
    dweight = sum g x_hat and dbias = sum g over the rows. x_hat and r are kept; x is not.
    """
    d = np.shape(x)[-1] if np.ndim(x) else 0
    if d == 0:
        raise ValueError(f"layer_norm needs a last axis of 1 or more features, got x {np.shape(x)}")
    for name, p in (("weight", weight), ("bias", bias)):
        if np.shape(p) != (d,):
            raise ValueError(f"layer_norm needs {name} of shape ({d},) for x {np.shape(x)}, got {np.shape(p)}")
    return _layer_norm(x, weight, bias, eps=eps)


def _rows(a):
    return a.reshape(math.prod(a.shape[:-1]), a.shape[-1])


def _blocks(rows):
    """Slices of about NUMBERS numbers, which the cores share."""
    return pieces(len(rows), max(1, NUMBERS // rows.shape[1]), 1 << 30)


def _repeated(cuts, *vectors):
    """The vectors as rows of a whole block: NumPy is faster on two blocks than on a block and a row."""
    rows = max(cut.stop - cut.start for cut in cuts)
    wide = np.empty((len(vectors), rows, len(vectors[0])), vectors[0].dtype)
    for k, vector in enumerate(vectors):
        wide[k] = vector
    return wide


def forward(x, weight, bias, *, wanted, eps):
    rows = _rows(x)
    y = np.empty(rows.shape, x.dtype)
    x_hat = np.empty(rows.shape, x.dtype) if wanted else y  # not kept: y's memory serves
    r = np.empty((len(rows), 1), x.dtype)
    share = np.full(rows.shape[1], 1 / rows.shape[1], x.dtype)  # a mean over d is a product with it, by BLAS
    cuts = _blocks(rows)
    weights, biases = _repeated(cuts, weight, bias)

    def work(s):
        c = np.subtract(rows[s], np.dot(rows[s], share)[:, None], out=x_hat[s])
        r[s, 0] = (np.vecdot(c, c) / rows.shape[1] + eps) ** -0.5  # of centred values: E[x^2] - mean^2 cancels
        c *= r[s]
        out = np.multiply(c, weights[: len(c)], out=y[s])
        out += biases[: len(c)]

    each(work, cuts)
    return y.reshape(x.shape), (x_hat, r, weight) if wanted else None


def backward(g, wanted, kept, *, eps):
    x_hat, r, weight = kept
    shape, g = g.shape, _rows(g)
    dx = np.empty(g.shape, g.dtype) if 0 in wanted else None
    share = weight / weight.dtype.type(len(weight))
    cuts = _blocks(g)
    (weights,) = _repeated(cuts, weight)

    def work(s):
        ones = np.ones(s.stop - s.start, g.dtype)
        term = np.multiply(g[s], x_hat[s], out=workspace("term", g[s].shape, g.dtype))
        sums = np.dot(ones, term), np.dot(ones, g[s])
        if dx is not None:
            mean_q, mean_q_x_hat = np.dot(g[s], share)[:, None], np.dot(term, share)[:, None]
            q = np.multiply(g[s], weights[: len(ones)], out=dx[s])
            q -= mean_q
            q -= np.multiply(x_hat[s], mean_q_x_hat, out=term)
            q *= r[s]
        return sums

    d_weight, d_bias = (sum(parts[1:], parts[0]) for parts in zip(*each(work, cuts), strict=True))
    return [dx.reshape(shape) if n == 0 else (d_weight, d_bias)[n - 1] for n in wanted]


_layer_norm = on_tape("layer_norm", forward, backward)

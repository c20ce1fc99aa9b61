"""Normalisation over the last axis, in blocks of rows that stay in cache; sums over features and rows by BLAS.

The definition is nn.layer_norm.
"""

import math

import numpy as np

from .tape import on_tape

BLOCK = 1 << 15  # values handled at a time: a few arrays of this size fit a core's second-level cache


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


def _blocks(rows, *vectors):
    """Slices of the rows, each with the vectors repeated to its shape: whole blocks multiply faster than rows."""
    step = max(1, min(len(rows), BLOCK // rows.shape[1]))
    tiles = [np.tile(v, (step, 1)) for v in vectors]
    for i in range(0, len(rows), step):
        n = min(step, len(rows) - i)
        yield slice(i, i + n), *(t[:n] for t in tiles)


def _forward(x, weight, bias, *, wanted, eps):
    rows = _rows(x)
    y = np.empty(rows.shape, x.dtype)
    x_hat = np.empty(rows.shape, x.dtype) if wanted else y  # not kept: y's memory serves
    r = np.empty((len(rows), 1), x.dtype)
    share = np.full(rows.shape[1], 1 / rows.shape[1], x.dtype)  # a mean over d is a product with it, by BLAS
    for s, weights, biases in _blocks(rows, weight, bias):
        c = np.subtract(rows[s], np.dot(rows[s], share)[:, None], out=x_hat[s])
        r[s, 0] = (np.vecdot(c, c) / rows.shape[1] + eps) ** -0.5  # of centred values: E[x^2] - mean^2 cancels
        c *= r[s]
        np.multiply(c, weights, out=y[s])
        y[s] += biases
    return y.reshape(x.shape), (x_hat, r, weight) if wanted else None


def _backward(g, wanted, kept, *, eps):
    x_hat, r, weight = kept
    shape, g = g.shape, _rows(g)
    dx = np.empty(g.shape, g.dtype) if 0 in wanted else None
    d_weight, d_bias = np.zeros_like(weight), np.zeros_like(weight)
    share = weight / weight.dtype.type(len(weight))
    for s, weights in _blocks(g, weight):
        ones = np.ones(len(weights), g.dtype)
        term = g[s] * x_hat[s]
        d_weight += np.dot(ones, term)
        d_bias += np.dot(ones, g[s])
        if dx is not None:
            mean_q, mean_q_x_hat = np.dot(g[s], share)[:, None], np.dot(term, share)[:, None]
            q = np.multiply(g[s], weights, out=dx[s])
            q -= mean_q
            q -= np.multiply(x_hat[s], mean_q_x_hat, out=term)
            q *= r[s]
    return [dx.reshape(shape) if n == 0 else (d_weight, d_bias)[n - 1] for n in wanted]


_layer_norm = on_tape("layer_norm", _forward, _backward)

"""Normalisation over the last axis, backward in one sweep over rows that stay in cache.

The definition is nn.layer_norm.
"""

import math

import numpy as np

from .tape import on_tape

BLOCK = 1 << 15  # values handled at a time: a few arrays of this size fit in a core's second-level cache


def layer_norm(x, weight, bias, eps=1e-5):  # (..., d), (d,), (d,) -> (..., d)
    """y = x_hat * weight + bias, x_hat = (x - mean) r, r = 1 / sqrt(var + eps), var divided by d.

    Backward, with q = g * weight: dx = r (q - mean(q) - x_hat mean(q x_hat)), means over d;
    dweight = sum g x_hat and dbias = sum g over the rows. mean and r are kept, two numbers a row.
    """
    d = np.shape(x)[-1] if np.ndim(x) else 0
    if d == 0:
        raise ValueError(f"layer_norm needs a last axis of 1 or more features, got x {np.shape(x)}")
    for name, p in (("weight", weight), ("bias", bias)):
        if np.shape(p) != (d,):
            raise ValueError(f"layer_norm needs {name} of shape ({d},) for x {np.shape(x)}, got {np.shape(p)}")
    return _layer_norm(x, weight, bias, eps=eps)


def _blocks(rows):
    step = max(1, BLOCK // rows.shape[1])
    return [slice(i, i + step) for i in range(0, len(rows), step)]


def _forward(x, weight, bias, *, wanted, eps):
    d = x.shape[-1]
    rows = x.reshape(math.prod(x.shape[:-1]), d)
    y = np.empty_like(rows)
    mean = np.empty((len(rows), 1), x.dtype)
    r = np.empty((len(rows), 1), x.dtype)
    for s in _blocks(rows):
        out = y[s]
        np.mean(rows[s], axis=1, keepdims=True, out=mean[s])
        np.subtract(rows[s], mean[s], out=out)  # centred first: E[x^2] - mean^2 would cancel
        r[s, 0] = (np.einsum("nd,nd->n", out, out) / d + eps) ** -0.5
        out *= r[s]
        out *= weight
        out += bias
    return y.reshape(x.shape), (rows, weight, mean, r)


def _backward(g, wanted, kept, *, eps):
    rows, weight, mean, r = kept
    shape, d = g.shape, rows.shape[1]
    g = g.reshape(rows.shape)
    dx = np.empty_like(rows)
    d_weight, d_bias = np.zeros_like(weight), np.zeros_like(weight)
    for s in _blocks(rows):
        x_hat = rows[s] - mean[s]
        x_hat *= r[s]
        if 1 in wanted:
            d_weight += np.einsum("nd,nd->d", g[s], x_hat)
        if 2 in wanted:
            d_bias += np.dot(np.ones(len(x_hat), g.dtype), g[s])
        if 0 in wanted:
            q = np.multiply(g[s], weight, out=dx[s])
            along = np.einsum("nd,nd->n", q, x_hat)[:, None] / d
            q -= np.mean(q, axis=1, keepdims=True)
            x_hat *= along
            q -= x_hat
            q *= r[s]
    return [(dx.reshape(shape), d_weight, d_bias)[n] for n in wanted]


_layer_norm = on_tape("layer_norm", _forward, _backward)

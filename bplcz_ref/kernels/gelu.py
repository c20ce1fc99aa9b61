"""GELU and QuickGELU in one pass over values that stay in cache; only the slope is kept for the way back.

The definitions are nn.gelu and nn.quick_gelu.
"""

import numpy as np
from scipy.special import erf

from .tape import on_tape

BLOCK = 1 << 14  # values handled at a time: a few arrays of this size fit in a core's second-level cache


def gelu(x):
    """x Phi(x), Phi(x) = (1 + erf(x / sqrt 2)) / 2; slope Phi(x) + x phi(x), phi(x) = exp(-x^2/2) / sqrt(2 pi)."""
    return _gelu(x)


def quick_gelu(x):
    """x s with s = sigma(1.702 x); slope s + 1.702 x s (1 - s) = s (1 + 1.702 (x - x s))."""
    return _quick_gelu(x)


def _fill_gelu(x, y, slope):
    Phi = erf(x * x.dtype.type(2**-0.5))
    Phi += 1
    Phi *= 0.5
    np.multiply(x, Phi, out=y)
    if slope is not None:
        np.multiply(x, x, out=slope)
        slope *= -0.5
        np.exp(slope, out=slope)
        slope *= x.dtype.type((2 * np.pi) ** -0.5)
        slope *= x
        slope += Phi


def _fill_quick_gelu(x, y, slope):
    s = np.tanh(x * x.dtype.type(0.851))  # sigma(z) = (1 + tanh(z/2)) / 2: no overflow at either end
    s += 1
    s *= 0.5
    np.multiply(x, s, out=y)
    if slope is not None:
        np.subtract(x, y, out=slope)
        slope *= x.dtype.type(1.702)
        slope += 1
        slope *= s


def _pointwise(name, fill):
    def forward(x, *, wanted):
        values = x.reshape(-1)
        y = np.empty_like(values)
        slope = np.empty_like(values) if wanted else None
        for i in range(0, len(values), BLOCK):
            s = slice(i, i + BLOCK)
            fill(values[s], y[s], slope[s] if wanted else None)
        return y.reshape(x.shape), slope

    def backward(g, wanted, slope):
        return [g * slope.reshape(g.shape)]

    return on_tape(name, forward, backward)


_gelu = _pointwise("gelu", _fill_gelu)
_quick_gelu = _pointwise("quick_gelu", _fill_quick_gelu)

"""GELU and QuickGELU in one pass over blocks that stay in cache; backward is one product with the slope.

Only the slope is kept for it, not x. The definitions are nn.gelu and nn.quick_gelu. This is the exact GELU, to the
rounding of the dtype, not the common approximation 0.5 x (1 + tanh(0.798 (x + 0.0447 x^3))), which is wrong by up
to 5e-4.
"""

from functools import partial

import numpy as np
from scipy.special import erf

from .scheduler import NUMBERS, each, pieces
from .tape import on_tape

# Phi(x) = 1 / (1 + exp(x q(s))), s = x^2, q(s) = A + B s + C / (s + D + E / (s + F)): a weighted minimax fit to
# -2 atanh(2 Phi(x) - 1) / x over s <= 31, with error 6e-8 in Phi, which float32 itself rounds by 6e-8. Beyond,
# Phi is 0 or 1 in float32, and so is the fit, where B s decides. A polynomial as good takes twelve operations,
# this eight. scipy's erf takes many times longer, and tanh twice as long as exp where there is no AVX-512.
A, B, C = -2.36663118433296, -0.03627599064916148, 5.3338275224799485
D, E, F = -23.59191320964863, 1382.4723688972058, 45.31028368393051


def gelu(x: np.ndarray) -> np.ndarray:
    """x Phi(x), Phi(x) = (1 + erf(x / sqrt 2)) / 2; slope Phi(x) + x exp(-x^2 / 2) / sqrt(2 pi)."""
    return _gelu(x)


def quick_gelu(x: np.ndarray) -> np.ndarray:
    """x s with s = sigma(1.702 x); slope s + 1.702 x s (1 - s) = s (1 + 1.702 (x - x s))."""
    return _quick_gelu(x)


def _inverse_cdf_in_float32(x, square):
    """1 / Phi(x)."""
    u = square + F
    np.divide(E, u, out=u)
    u += square
    u += D
    np.divide(C, u, out=u)
    straight = square * B
    straight += A
    u += straight
    u *= x
    np.exp(u, out=u)
    u += 1
    return u


def fill_gelu(x, y, slope):
    square = x * x
    if x.dtype == np.float32:
        inverse = _inverse_cdf_in_float32(x, square)
        np.divide(x, inverse, out=y)
        if slope is not None:
            Phi = np.divide(1, inverse, out=inverse)
    else:
        Phi = erf(x * 2**-0.5)
        Phi += 1
        Phi *= 0.5
        np.multiply(x, Phi, out=y)
    if slope is not None:
        square *= -0.5
        np.exp(square, out=square)
        square *= x
        square *= x.dtype.type((2 * np.pi) ** -0.5)
        np.add(Phi, square, out=slope)


def fill_quick_gelu(x, y, slope):
    s = x * x.dtype.type(-1.702)
    np.exp(s, out=s)  # where it overflows, s is 0, as it should be
    s += 1
    np.divide(1, s, out=s)
    np.multiply(x, s, out=y)
    if slope is not None:
        np.subtract(x, y, out=slope)
        slope *= x.dtype.type(1.702)
        slope += 1
        slope *= s


def _blocks(n):
    return pieces(n, NUMBERS, 1 << 30)


def forward(x, *, wanted, fill):
    values = x.reshape(-1)
    y = np.empty_like(values)
    slope = np.empty_like(values) if wanted else None
    with np.errstate(over="ignore", under="ignore"):  # where a square or an exp overflows, Phi and s are 0 or 1
        each(lambda s: fill(values[s], y[s], slope[s] if wanted else None), _blocks(len(values)))
    return y.reshape(x.shape), slope


def backward(g, wanted, slope, *, fill):
    values, dx = np.ascontiguousarray(g).reshape(-1), np.empty_like(slope)
    each(lambda s: np.multiply(values[s], slope[s], out=dx[s]), _blocks(len(values)))
    return [dx.reshape(g.shape)]


_gelu = partial(on_tape("gelu", forward, backward), fill=fill_gelu)
_quick_gelu = partial(on_tape("quick_gelu", forward, backward), fill=fill_quick_gelu)

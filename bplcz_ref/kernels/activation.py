"""relu, GELU and QuickGELU: one pass over blocks that stay in cache; backward is one product with the slope.

This is the exact GELU, to the rounding of the dtype, not the common approximation 0.5 x (1 + tanh(0.798 (x +
0.0447 x^3))), which is wrong by up to 5e-4. The definitions are in nn.
"""

import numpy as np
from scipy.special import erf

from .tape import on_tape
from .threads import each, pieces

NUMBERS = 1 << 17  # of a block: a dozen operations go over it, so it should stay in the second-level cache

# Phi(x) = 1 / (1 + exp(x q(s))), s = x^2, q(s) = A + B s + C / (s + D + E / (s + F)): a weighted minimax fit to
# -2 atanh(2 Phi(x) - 1) / x over s <= 31, with error 6e-8 in Phi, which float32 itself rounds by 6e-8. Beyond,
# Phi is 0 or 1 in float32, and so is the fit, where B s decides. A polynomial as good takes twelve operations,
# this eight. scipy's erf takes many times longer, and tanh twice as long as exp where there is no AVX-512.
A, B, C = -2.36663118433296, -0.03627599064916148, 5.3338275224799485
D, E, F = -23.59191320964863, 1382.4723688972058, 45.31028368393051


@on_tape("relu")
def _relu(x, *, wanted):
    y = np.maximum(x, 0)
    return y, lambda g: [g * (y > 0)]  # the slope is y > 0 exactly where x > 0; the next layer keeps y anyway


def fill_gelu(x, y, slope):
    """y = x Phi(x), Phi(x) = (1 + erf(x / sqrt 2)) / 2; slope = Phi(x) + x exp(-x^2 / 2) / sqrt(2 pi)."""
    square = x * x
    if x.dtype == np.float32:
        u = square + F
        np.divide(E, u, out=u)
        u += square
        u += D
        np.divide(C, u, out=u)
        straight = square * B
        straight += A
        u += straight
        u *= x
        inverse = np.exp(u, out=u)
        inverse += 1  # 1 / Phi
        np.divide(x, inverse, out=y)
        Phi = inverse if slope is None else np.divide(1, inverse, out=inverse)
    else:
        Phi = 0.5 * (1 + erf(x * 2**-0.5))
        np.multiply(x, Phi, out=y)
    if slope is not None:
        square *= -0.5
        np.exp(square, out=square)
        square *= x
        square *= x.dtype.type((2 * np.pi) ** -0.5)
        np.add(Phi, square, out=slope)


def fill_quick_gelu(x, y, slope):
    """y = x s, s = sigma(1.702 x); slope = s + 1.702 x s (1 - s) = s (1 + 1.702 (x - x s))."""
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


def kernel(x, *, wanted, fill):
    """`fill` computes a block; only the slope is kept for the way back, not x."""
    values, shape = x.reshape(-1), x.shape
    y, slope = np.empty_like(values), np.empty_like(values) if wanted else None
    blocks = pieces(len(values), NUMBERS)
    with np.errstate(over="ignore", under="ignore"):  # where a square or an exp overflows, Phi and s are 0 or 1
        each(lambda s: fill(values[s], y[s], slope[s] if wanted else None), blocks)

    def back(g):
        given, dx = g.reshape(-1), np.empty_like(slope)
        each(lambda s: np.multiply(given[s], slope[s], out=dx[s]), blocks)
        return [dx.reshape(shape)]

    return y.reshape(shape), back


_gelu, _quick_gelu = on_tape("gelu")(kernel), on_tape("quick_gelu")(kernel)


def relu(x: np.ndarray) -> np.ndarray:
    return _relu(x)


def gelu(x: np.ndarray) -> np.ndarray:
    return _gelu(x, fill=fill_gelu)


def quick_gelu(x: np.ndarray) -> np.ndarray:
    return _quick_gelu(x, fill=fill_quick_gelu)

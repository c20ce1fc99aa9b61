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

# tanh(x p(x^2)) = 2 Phi(x) - 1 with these coefficients of p, lowest power first: a weighted minimax fit to
# atanh(2 Phi(x) - 1) / x over x^2 <= 30, with error 7e-8 in Phi, which float32 itself rounds by 6e-8. Beyond, Phi
# is 0 or 1 in float32, and so is the fit, as p only rises. scipy's erf takes many times longer.
COEFFICIENTS = (
    7.978844930870069e-1,
    3.6333910280588244e-2,
    -3.295400578878923e-5,
    -5.527816528006028e-5,
    3.973144141715617e-6,
    -1.3364882737927726e-7,
    1.8094086708392317e-9,
)


def gelu(x: np.ndarray) -> np.ndarray:
    """x Phi(x), Phi(x) = (1 + erf(x / sqrt 2)) / 2; slope Phi(x) + x exp(-x^2 / 2) / sqrt(2 pi)."""
    return _gelu(x)


def quick_gelu(x: np.ndarray) -> np.ndarray:
    """x s with s = sigma(1.702 x); slope s + 1.702 x s (1 - s) = s (1 + 1.702 (x - x s))."""
    return _quick_gelu(x)


def _normal_cdf(x, square):
    if x.dtype != np.float32:
        Phi = erf(x * 2**-0.5)
    else:  # tanh(x p(x^2)), p by Horner's rule
        Phi = square * np.float32(COEFFICIENTS[-1])
        for c in COEFFICIENTS[-2:0:-1]:
            Phi += np.float32(c)
            Phi *= square
        Phi += np.float32(COEFFICIENTS[0])
        Phi *= x
        np.tanh(Phi, out=Phi)
    Phi += 1
    Phi *= 0.5
    return Phi


def fill_gelu(x, y, slope):
    square = x * x
    Phi = _normal_cdf(x, square)
    np.multiply(x, Phi, out=y)
    if slope is not None:
        square *= -0.5
        np.exp(square, out=square)
        square *= x
        square *= x.dtype.type((2 * np.pi) ** -0.5)
        np.add(Phi, square, out=slope)


def fill_quick_gelu(x, y, slope):
    s = x * x.dtype.type(0.851)  # sigma(z) = (1 + tanh(z/2)) / 2: no overflow at either end
    np.tanh(s, out=s)
    s += 1
    s *= 0.5
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
    with np.errstate(over="ignore", under="ignore"):  # where x^2 overflows, Phi is 0 or 1
        each(lambda s: fill(values[s], y[s], slope[s] if wanted else None), _blocks(len(values)))
    return y.reshape(x.shape), slope


def backward(g, wanted, slope, *, fill):
    values, dx = np.ascontiguousarray(g).reshape(-1), np.empty_like(slope)
    each(lambda s: np.multiply(values[s], slope[s], out=dx[s]), _blocks(len(values)))
    return [dx.reshape(g.shape)]


_gelu = partial(on_tape("gelu", forward, backward), fill=fill_gelu)
_quick_gelu = partial(on_tape("quick_gelu", forward, backward), fill=fill_quick_gelu)

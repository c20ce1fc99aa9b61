"""How tests compare numbers: relative to the scale of the values, so that small ones earn no allowance."""

import numpy as np


def grid(seed, *shape):
    """Numbers on a grid of 1/32 within [-2, 2], exact in every dtype."""
    return np.random.default_rng(seed).integers(-64, 65, shape) / 32


def agree(found, expected, tolerance=1e-12):
    """Same shapes, and each array within `tolerance` of the largest value of its counterpart; nan never agrees."""
    found, expected = leaves(found), leaves(expected)
    if [a.shape for a in found] != [b.shape for b in expected]:
        return False
    with np.errstate(invalid="ignore"):
        pairs = zip(found, expected, strict=True)
        return all(np.abs(a - b).max() <= tolerance * np.abs(b).max() for a, b in pairs)


def leaves(result):
    """The arrays of a result: one, or a tuple of several."""
    return [np.asarray(x, float) for x in (result if isinstance(result, tuple) else (result,))]


def slopes(f, x, h=1e-5):
    """The gradient of f at the array x by central differences: of floats, or of Decimals with their h."""
    found = np.zeros(x.shape, x.dtype)
    for at in np.ndindex(x.shape):
        up, down = x.copy(), x.copy()
        up[at] += h
        down[at] -= h
        found[at] = (f(up) - f(down)) / (2 * h)
    return found

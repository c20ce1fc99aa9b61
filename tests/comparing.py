"""How tests compare numbers: relative to the scale of the values, so that small ones earn no allowance."""

import numpy as np

from bplcz_ref.storage import weights


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


def slope_errors(loss, params, gradients, names=None, h=1e-4):
    """{name: |difference quotient - gradient . direction| / |gradient|} of the leaves of nested dicts.

    The direction is half random and half along the gradient, so that an error in its length shows too. Differences
    are of the fourth order. A gradient too small to tell has the error inf.
    """
    flat, gradients = weights.named(params), weights.named(gradients)
    rng, found = np.random.default_rng(2), {}
    largest = max(np.abs(g).max() for g in gradients.values())
    for name in names or flat:
        norm = np.linalg.norm(gradients[name])
        if norm < 1e-6 * largest:
            found[name] = np.inf
            continue
        direction = rng.standard_normal(flat[name].shape)
        direction = direction / np.linalg.norm(direction) + gradients[name] / norm

        def value(step, name=name, direction=direction):
            return loss(weights.nested(flat | {name: flat[name] + step * direction}))

        numeric = (8 * (value(h) - value(-h)) - (value(2 * h) - value(-2 * h))) / (12 * h)
        found[name] = abs(np.sum(gradients[name] * direction) - numeric) / norm
    return found

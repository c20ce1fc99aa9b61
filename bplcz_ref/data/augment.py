"""Flips and quarter turns of training patches: one of the square's eight symmetries for each, drawn at random.

Pixels move, their values stay: a simplification for what depends on direction, such as shadows, bright walls, the
correlation of speckle, and the phases of the complex SAR channels (docs/readings.md, "turns").
"""

import numpy as np


def turned(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:  # (b, H, W, C) -> (b, H, W, C)
    """Each patch turned by 0 to 3 quarters and, in half of the cases, mirrored; H = W. A new array.

    >>> x = np.arange(4.0).reshape(1, 2, 2, 1)
    >>> found = {tuple(turned(x, np.random.default_rng(s)).ravel().astype(int).tolist()) for s in range(60)}
    >>> len(found), (0, 1, 2, 3) in found, (2, 0, 3, 1) in found, (1, 0, 3, 2) in found
    (8, True, True, True)
    """
    quarters, mirrored = rng.integers(0, 4, len(x)), rng.integers(0, 2, len(x))
    out = np.empty_like(x)
    for b, (patch, k, m) in enumerate(zip(x, quarters, mirrored, strict=True)):
        turn = np.rot90(patch, k)  # over rows and columns
        out[b] = turn[:, ::-1] if m else turn
    return out

"""Flips and quarter turns of training patches: one of the square's eight symmetries for each, drawn at random.

Pixels move, their values stay. That is sound for reflectances and for intensities. It is a simplification for what
depends on direction: shadows (the sun) and bright walls (the radar's look) may then come from any side, speckle is
correlated along rows as well as columns, and a mirrored patch keeps the phases of its complex SAR channels and of
the covariance, which a sensor that looks at a mirrored scene would not measure so. docs/readings.md names it.

Index letters: b patches, H W = 32, C channels.
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

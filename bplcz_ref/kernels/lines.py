"""Arrays of pixels as long lines: several whole pixels side by side, with values per channel repeated along them.

NumPy's loop over the channels of one pixel is short, and beginning it costs more than 16 numbers take. A line of
LINE numbers is as fast as whole blocks are. (Not 1024 to 4096: on an AMD EPYC without AVX-512, an operation with
such a line repeated takes six times longer at a third of all addresses; with 8192 at none of those tried.) The
lines are cut into blocks that fit a core's second-level cache, which the cores share.
"""

from collections.abc import Sequence

import numpy as np

from .scheduler import NUMBERS, pieces

LINE = 8192  # numbers


def as_lines(*arrays: np.ndarray) -> list[np.ndarray]:  # (..., C), contiguous -> views (n, k C)
    """k pixels to a line: the largest power of 2 that divides their number and keeps to LINE."""
    shape = arrays[0].shape
    pixels, k = arrays[0].size // shape[-1], 1
    while 2 * k * shape[-1] <= LINE and pixels % (2 * k) == 0 and pixels:
        k *= 2
    return [a.reshape(pixels // k, k * shape[-1]) for a in arrays]


def blocks(lines: np.ndarray) -> list[slice]:
    """Slices of the lines, each of about NUMBERS numbers."""
    return pieces(len(lines), max(1, NUMBERS // lines.shape[1]), 1 << 30)


def repeated(lines: np.ndarray, *values: np.ndarray) -> np.ndarray:  # (C,) each -> (len(values), k C)
    """Values per channel along a line, in the dtype of the lines."""
    wide = np.empty((len(values), lines.shape[1] // len(values[0]), len(values[0])), lines.dtype)
    for k, value in enumerate(values):  # a few calls of np.tile would take longer than the lines
        wide[k] = value
    return wide.reshape(len(values), lines.shape[1])


def per_channel(sums: Sequence[np.ndarray], channels: int) -> np.ndarray:  # (k C,) each -> (C,) in float64
    """Sums along lines, one for each block, added in the order of the blocks."""
    total = sums[0].astype(np.float64)
    for part in sums[1:]:
        total += part
    return total.reshape(-1, channels).sum(0)

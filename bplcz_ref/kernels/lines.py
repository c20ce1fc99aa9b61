"""Arrays of pixels as long lines: several whole pixels side by side, with values per channel repeated along them.

NumPy's loop over the channels of one pixel is short, and beginning it costs more than 16 numbers take. The lines
are cut into blocks, which the cores share.
"""

import numpy as np

from .threads import NUMBERS, each, pieces

# Numbers of a line. Not 1024 to 4096: on an AMD EPYC without AVX-512, an operation with such a line repeated takes
# six times longer at a third of all addresses; with 8192 at none of those tried.
LINE = 8192


def as_lines(*arrays: np.ndarray) -> tuple[list[np.ndarray], list[slice]]:
    """(..., C), contiguous -> views (n, k C), and slices of the n lines, each of about NUMBERS numbers.

    k pixels make a line: the largest power of 2 that divides their number and keeps to LINE.
    """
    channels = arrays[0].shape[-1]
    pixels, k = arrays[0].size // channels, 1
    while 2 * k * channels <= LINE and pixels % (2 * k) == 0 and pixels:
        k *= 2
    lines = [a.reshape(pixels // k, k * channels) for a in arrays]
    return lines, pieces(pixels // k, max(1, NUMBERS // (k * channels)))


def repeated(lines: np.ndarray, *values: np.ndarray) -> np.ndarray:  # (C,) each -> (len(values), k C)
    """Values per channel along a line, in the dtype of the lines."""
    wide = np.empty((len(values), lines.shape[1] // len(values[0]), len(values[0])), lines.dtype)
    for k, value in enumerate(values):  # a few calls of np.tile would take longer than the lines
        wide[k] = value
    return wide.reshape(len(values), lines.shape[1])


def per_channel(parts: list, channels: int) -> list[np.ndarray]:  # (k C,) each -> (C,) each in float64
    """Sums along lines, a tuple of them for each block, added in the order of the blocks."""
    totals = [sum(part.astype(np.float64) for part in sums) for sums in zip(*parts, strict=True)]
    return [total.reshape(-1, channels).sum(0) for total in totals]


def add_per_channel(y: np.ndarray, bias: np.ndarray) -> None:  # (..., C) contiguous, (C,)
    """y += bias."""
    (lines,), blocks = as_lines(y)
    (biases,) = repeated(lines, bias)
    each(lambda s: np.add(lines[s], biases, out=lines[s]), blocks)

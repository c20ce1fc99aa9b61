"""Arrays of pixels as long lines: several whole pixels side by side, with values per channel repeated along them.

NumPy's loop over the channels of one pixel is short, and beginning it costs more than 16 numbers take. The lines
are cut into blocks, which the cores share.
"""

from collections.abc import Callable, Sequence

import numpy as np

from .threads import NUMBERS, each, pieces

# Numbers of a line. Not 1024 to 4096: on an AMD EPYC without AVX-512, an operation with such a line repeated takes
# six times longer at a third of all addresses; with 8192 at none of those tried.
LINE = 8192


def as_lines(*arrays: np.ndarray) -> tuple[list[np.ndarray], Sequence[slice]]:
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


def sums_per_channel(work: Callable, blocks: Sequence, lines: np.ndarray, channels: int) -> np.ndarray:
    # -> (2, C) in float64
    """Two sums along lines of all blocks, of which work(block, out (2, k C)) fills those of one.

    The blocks share the cores; their sums are added in order.
    """
    parts = np.empty((len(blocks), 2, lines.shape[1]), lines.dtype)
    each(lambda pair: work(*pair), list(zip(blocks, parts, strict=True)))
    return parts.sum(0, np.float64).reshape(2, -1, channels).sum(1)


def add_per_channel(y: np.ndarray, bias: np.ndarray) -> None:  # (..., C) contiguous, (C,)
    """y += bias."""
    (lines,), blocks = as_lines(y)
    (biases,) = repeated(lines, bias)
    each(lambda s: np.add(lines[s], biases, out=lines[s]), blocks)

"""The output of a sliding window, cut into tiles whose working memory fits the cache."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.lib.stride_tricks import as_strided

from .cores import workspace


class Window(NamedTuple):
    """Output (i, j) sees the kh rows of x from i*stride - top on, and the kw columns from j*stride - left on."""

    kh: int
    kw: int
    stride: int
    top: int
    left: int


def tiles(
    x: np.ndarray, window: Window, rows: int, columns: int, size: int
) -> Iterator[tuple[slice, slice, np.ndarray]]:
    """Cut `rows` x `columns` outputs of every image of x (B, H, W, C) into tiles of about `size` outputs.

    Yields (images, output rows, windows): two slices, and what these outputs see, a view (b, i, j, kh, kw, C)
    of scratch memory, zero outside of x. The view is valid until the next tile. A tile is rows of one image, or
    several whole images.
    """
    kh, kw, stride, top, left = window
    batch, height, width, channels = x.shape
    tall = min(rows, max(1, size // columns))  # output rows of a tile
    deep = max(1, size // (rows * columns)) if tall == rows else 1  # images of a tile
    wide = (columns - 1) * stride + kw
    padded = workspace("padded", (deep, (tall - 1) * stride + kh, wide, channels), x.dtype)
    a, b = max(0, left), min(wide, left + width)  # where the columns of x lie in `padded`
    padded[:, :, :a] = padded[:, :, b:] = 0
    # Windows overlap, so they are a view: one step to the next output is `stride` steps in `padded`.
    s = padded.strides
    windows = as_strided(
        padded,
        (deep, tall, columns, kh, kw, channels),
        (s[0], stride * s[1], stride * s[2], s[1], s[2], s[3]),
    )
    for first in range(0, batch, deep):
        images = slice(first, min(first + deep, batch))
        n = images.stop - first
        for i in range(0, rows, tall):
            lines = slice(i, min(i + tall, rows))
            start = i * stride - top  # the row of x that is row 0 of `padded`
            need = (lines.stop - i - 1) * stride + kh
            lo, hi = max(0, -start), max(0, min(need, height - start))  # rows of `padded` that x fills
            padded[:n, :lo, a:b] = padded[:n, hi:need, a:b] = 0
            padded[:n, lo:hi, a:b] = x[images, start + lo : start + hi, a - left : b - left]
            yield images, lines, windows[:n, : lines.stop - i]

"""Per-channel mean and standard deviation of the training part, and standardisation with them.

The paper states no normalisation; sen1's scale is 20 to 200 times sen2's and heavy-tailed, so each channel is
brought to mean 0 and deviation 1 with the training part's statistics. Other readings: none, or min-max scaling.

Index letters: b rows, H W = 32, 18 channels.
"""

from typing import NamedTuple

import numpy as np

from bplcz_ref.bands import BANDS
from bplcz_ref.data.so2sat import Patches, chunks
from bplcz_ref.paper import CHANNELS


class Statistics(NamedTuple):
    """mean, std (18,) float64, per channel of x; clip_sen1: the bound to which sen1 was clipped first, or None."""

    mean: np.ndarray
    std: np.ndarray
    clip_sen1: float | None = None


def statistics(patches: Patches, index: np.ndarray, clip_sen1: float | None = None) -> Statistics:  # (b,)
    """Mean and standard deviation of each channel over all pixels of the rows `index` (of the training part).

    std divides by the number of values. (Other reading: by one less; the relative difference is under 1e-3 from
    one patch on.) clip_sen1: bounds sen1's channels to +-clip_sen1 first, since a few pixels in the thousands
    otherwise carry the whole deviation; `standardise` then does the same.
    """
    if len(index) == 0:
        raise ValueError("index is empty: statistics need at least one row")
    moments = Moments(clip_sen1)
    for rows in chunks(index):
        moments.add(patches.images(rows, np.float64))
    return moments.statistics()


def standardise(x: np.ndarray, statistics: Statistics) -> np.ndarray:  # (..., 18) -> (..., 18)
    """(clip(x) - mean) / std per channel; the clip on sen1 is the one the statistics were taken with.

    A channel with std 0 is divided by 1: it becomes 0 where it has its constant value. A new array, dtype of x.

    >>> ones = np.ones((1, 32, 32, 18), np.float32)
    >>> y = standardise(3 * ones, Statistics(mean=np.ones(18), std=np.full(18, 4.0)))
    >>> float(y.min()), float(y.max()), y.dtype
    (0.5, 0.5, dtype('float32'))
    """
    if x.shape[-1:] != (len(BANDS),) or x.dtype.kind != "f":
        raise ValueError(f"x has shape {x.shape} ({x.dtype}); expected floating point (..., {len(BANDS)})")
    std = np.where(statistics.std > 0, statistics.std, 1.0)
    y = _clipped(x, statistics.clip_sen1) - statistics.mean.astype(x.dtype)
    y /= std.astype(x.dtype)
    return y


class Moments:
    """Running count, mean, sum of squares about the mean, minimum and maximum of each channel, in float64.

    Values are shifted by the first pixel, so a constant channel has std exactly 0; sums of squares about each
    chunk's own mean are merged by Chan's rule: Chan, Golub, LeVeque, The American Statistician 37(3), 1983.
    """

    def __init__(self, clip_sen1: float | None = None) -> None:
        if clip_sen1 is not None and not 0 < clip_sen1 < np.inf:
            raise ValueError(f"clip_sen1 is {clip_sen1!r}; expected a positive bound, or None for no clipping")
        self.clip_sen1, self.n = clip_sen1, 0

    def add(self, x: np.ndarray) -> None:  # (b, H, W, 18) float64
        """Take in b more rows."""
        v = _clipped(x, self.clip_sen1).reshape(-1, len(BANDS))
        if self.n == 0:
            self.shift, self.min, self.max = v[0].copy(), v[0], v[0]
            self.mean, self.m2 = np.zeros(len(BANDS)), np.zeros(len(BANDS))
        self.min, self.max = np.minimum(self.min, v.min(0)), np.maximum(self.max, v.max(0))
        v = v - self.shift  # a constant channel becomes exactly 0
        n, mean = len(v), v.mean(0)
        v -= mean
        delta, total = mean - self.mean, self.n + n
        self.m2 = self.m2 + np.einsum("ij,ij->j", v, v) + delta**2 * (self.n * n / total)
        self.mean, self.n = self.mean + delta * (n / total), total

    def statistics(self) -> Statistics:
        """Mean and standard deviation of all rows so far."""
        return Statistics(self.shift + self.mean, np.sqrt(self.m2 / self.n), self.clip_sen1)


def _clipped(x, clip_sen1):
    if clip_sen1 is None:
        return x
    bound = np.full(len(BANDS), np.inf, x.dtype)
    bound[: CHANNELS["sen1"]] = clip_sen1
    return np.clip(x, -bound, bound)

"""A file's channels beside So2Sat's published statistics: what looks permuted or scaled (`inspect --compare`).

Published are the mean and deviation of each channel of training.h5; quantiles are not, so a file's own stand
beside them. sen1's deviations hang on few pixels with values in the thousands and are not compared. Besides, four
traits of the data need no statistics: 20 m bands are copies of 2 x 2 pixels, B8A follows B7 more closely than B11
and B12 do, the darkest pixels of the darkest band are near 0, and an intensity is the mean of a squared amplitude.

Index letters: b rows, H W = 32; c one of 18 channels.
"""

import numpy as np
from scipy.optimize import linear_sum_assignment

from bplcz_ref.bands import BANDS
from bplcz_ref.data.layout import SEN1, SEN2
from bplcz_ref.data.standardise import Moments

# Per channel in the order of BANDS; source: torchgeo's So2Sat data set, from training.h5.
MEAN = np.array(
    [-3.59e-5, -7.66e-6, 5.94e-5, 2.52e-5, 0.04420, 0.25761, 7.56e-4, 1.35e-3]
    + [0.12376, 0.10928, 0.10109, 0.11424, 0.15927, 0.18147, 0.17457, 0.19502, 0.15428, 0.10905]
)
STD = np.array(
    [0.17555, 0.17556, 0.45999, 0.45599, 2.85599, 8.32480, 2.44988, 1.46474]
    + [0.03959, 0.04778, 0.06637, 0.06359, 0.07744, 0.09102, 0.09218, 0.10165, 0.09992, 0.08781]
)
SHARES = {"1 %": 0.01, "median": 0.5, "99 %": 0.99}  # of the quantiles
COARSE = np.array([name in ("B5", "B6", "B7", "B8A", "B11", "B12") for name in BANDS[SEN2]])
EQUAL = 0.25  # share of equal neighbours that makes a band a coarse one: they have 0.5, the others below 0.1
ROWS = 50  # from this many rows on, means are compared
DARKEST, BRIGHTEST = 0.15, 4.0  # of a file's means beside the published ones: water has 0.3, sand and snow 2 to 3
DARK = -0.02, 0.07  # of the darkest band's 1 %: water and shadow have 0.01, and haze does not reach B12
FOLLOWS = 0.95, 0.005  # correlation with B7 that makes a band B8A, and by how much it must be ahead
GAIN, FIT = 0.25, 0.6  # squares of logarithms: what a permutation must improve, and what may be left then


class Sums(Moments):
    """Moments, and what else the comparison needs of all rows looked at."""

    def __init__(self) -> None:
        super().__init__()
        self.rows, self.equal = 0, np.zeros(len(COARSE))
        self.amplitudes, self.intensities = np.zeros(2), np.zeros(2)  # of VH and VV, summed
        self.pixels: list[np.ndarray] = []

    def add(self, x: np.ndarray) -> None:  # (b, 32, 32, 18) float64
        """Take in b more rows; every eighth pixel each way is kept for the quantiles."""
        super().add(x)
        self.rows += len(x)
        self.equal += (x[:, :, 1:, SEN2] == x[:, :, :-1, SEN2]).mean((1, 2)).sum(0)
        self.amplitudes += [np.sum(x[..., k : k + 2] ** 2) for k in (0, 2)]
        self.intensities += [np.sum(x[..., k]) for k in (4, 5)]
        self.pixels.append(x[:, ::8, ::8].reshape(-1, x.shape[-1]))

    def quantiles(self) -> dict[str, np.ndarray]:  # -> {name of SHARES: (18,)}
        """The quantiles of the pixels that were kept."""
        found = np.quantile(np.concatenate(self.pixels), list(SHARES.values()), axis=0)
        return dict(zip(SHARES, found, strict=True))

    def problems(self) -> list[str]:
        """What looks permuted or scaled, each with its remedy; silent on what few rows cannot tell."""
        mean, std, _ = self.statistics()
        sen2 = _scaled(self, mean[SEN2]) or _permuted(self, mean[SEN2], std[SEN2])
        return [problem for problem in (sen2, _exchanged(self)) if problem]


def _scaled(sums, mean):  # (10,)
    """A factor or an offset, whichever fits the means better; an offset shows in the darkest pixels too."""
    if sums.rows < ROWS:
        return ""
    dark = sums.quantiles()["1 %"][SEN2].min()
    factor, offset = float(np.median(mean / MEAN[SEN2])), float(np.median(mean - MEAN[SEN2]))
    scaled = not DARKEST < factor < BRIGHTEST
    multiplied, added = (np.square(fit).mean() for fit in (mean - factor * MEAN[SEN2], mean - offset - MEAN[SEN2]))
    if dark < DARK[0] or (dark > DARK[1] and (added < multiplied or not scaled)):
        return (
            f"sen2 looks shifted: the darkest 1 % of its darkest band reach {dark:.3g}, expected about 0.01, and"
            f" its means are {offset:+.3g} beside the published ones; from processing baseline 04.00 on,"
            " reflectance is (DN - 1000) / 10000"
        )
    if scaled and factor > 0:
        return f"sen2 looks scaled: its means are {factor:.3g} times the published ones; reflectance is DN / 10000"
    return ""


def _permuted(sums, mean, std):  # (10,), (10,)
    """The order of sen2 that fits the published means and deviations, and the coarse bands, best.

    An exchange of B11 and B12 changes too little to be told from another choice of scenes.
    """
    names = np.array(BANDS[SEN2])
    order = f"; the order is {', '.join(names)}"
    coarse = sums.equal / sums.rows > EQUAL
    tells = coarse.sum() == COARSE.sum()  # otherwise the bands were resampled in another way
    if sums.rows < ROWS or (mean <= 0).any() or (std <= 0).any():
        if not tells or (coarse == COARSE).all():
            return ""
        return (
            "sen2 looks permuted: its 20 m bands, whose pixels come in equal pairs, are at the places of"
            f" {', '.join(names[coarse])}; expected {', '.join(names[COARSE])}{order}"
        )
    scale = np.median(mean / MEAN[SEN2])
    cost = np.log(mean[:, None] / scale / MEAN[SEN2]) ** 2 + np.log(std[:, None] / scale / STD[SEN2]) ** 2
    cost = cost + tells * (coarse[:, None] != COARSE)
    _, fit = linear_sum_assignment(cost)
    best, own = cost[np.arange(10), fit].sum(), np.trace(cost)
    if own - best > GAIN and best < FIT:
        moved = [f"{names[fit[k]]} at the place of {names[k]}" for k in range(10) if fit[k] != k]
        return f"sen2 looks permuted: {', '.join(moved)}{order}"
    like_B7 = np.corrcoef(np.concatenate(sums.pixels)[:, SEN2].T)[5, 7:]
    best = like_B7.argmax()
    if best and like_B7[best] > max(FOLLOWS[0], like_B7[0] + FOLLOWS[1]):
        return f"sen2 looks permuted: what is at the place of {names[7 + best]} follows B7 as B8A does{order}"
    return ""


def _exchanged(sums):
    """VH and VV intensities against the squared amplitudes beside them."""
    if (sums.intensities <= 0).any() or (sums.amplitudes <= 0).any():
        return ""
    ratios = sums.intensities / sums.amplitudes
    own = np.abs(np.log(ratios)).max()
    other = np.abs(np.log(sums.intensities[::-1] / sums.amplitudes)).max()
    if own <= np.log(3) or other <= own / 2:  # the latter: VV is first in one of the two, which layout.py says
        return ""
    return (
        f"sen1 looks permuted or scaled: its intensities are {ratios[0]:.3g} (VH) and {ratios[1]:.3g} (VV)"
        f" times the squared amplitudes; expected about 1. The order is {', '.join(BANDS[SEN1])}"
    )

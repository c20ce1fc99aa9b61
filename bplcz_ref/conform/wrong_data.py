"""Wrong readings of the data's side: band groups, figures of merit, statistics, split, classes.

A function has the signature of the formula that it replaces.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy

from bplcz_ref import paper
from bplcz_ref.conform import exact as xp
from bplcz_ref.conform import ops as right
from bplcz_ref.conform.exact import Array


class Accepted(NamedTuple):
    """Another way that is no mistake: it is recognised and listed, and passes.

    worst(e) is the same way with what a rounding error of e makes of it, where it loses digits by cancellation.
    """

    function: Callable
    worst: Callable | None = None


# ---------------------------------------------------------------- reading files


def column_major(f: dict, a: Array) -> dict:
    return right.read_array(f, xp.transpose(xp.reshape(a, a.shape[::-1]), (2, 1, 0)))


def reversed_axes(f: dict, a: Array) -> dict:
    return {name: sums.T for name, sums in right.read_array(f, a.T).items()}


READING = {
    "read_array": {
        "data taken as column-major": column_major,
        "axes counted from the last, as in Julia or Fortran": reversed_axes,
    }
}

# ---------------------------------------------------------------- II-A

GROUPS = {name: (group["sensor"], group["bands"]) for name, group in paper.GROUPS.items()}
SAR_FIRST = dict(zip(GROUPS, [*list(GROUPS.values())[4:], *list(GROUPS.values())[:4]], strict=True))


def grouped(changed: dict, first: int = 1) -> Callable:
    """The band groups with other sensors and bands; the number of the first band is `first`.

    A number out of range means the last band, as some frameworks have it.
    """

    def band_groups(f, sen1, sen2):
        out = {}
        for name, (sensor, bands) in (GROUPS | changed).items():
            pixels = sen1 if sensor == "sen1" else sen2
            last = pixels.shape[-1] - 1
            out[f"X_{name}"] = pixels[..., [min(band - first, last) for band in bands]]
        return out

    return band_groups


BANDS = {
    "band_groups": {
        "band numbers taken as 0-based": grouped({}, first=0),
        "bands 7 and 8 swapped": grouped({"VRE": ("sen2", (4, 5, 6, 7)), "NIR": ("sen2", (8,))}),
        "real part for the intensity": grouped({"VH": ("sen1", (1, 2, 1)), "VV": ("sen1", (3, 4, 3))}),
        "intensities of VH and VV swapped": grouped({"VH": ("sen1", (1, 2, 6)), "VV": ("sen1", (3, 4, 5))}),
        "real and imaginary parts grouped": grouped({"VH": ("sen1", (1, 3, 5)), "VV": ("sen1", (2, 4, 6))}),
        "SAR groups first": grouped(SAR_FIRST),
        "red first in RGB": grouped({"RGB": ("sen2", (3, 2, 1))}),
        "sensors swapped": grouped(
            {
                n: ("sen1" if s == "sen2" else "sen2", tuple(min(b, 8) for b in bands))
                for n, (s, bands) in GROUPS.items()
            }
        ),
        "rows and columns swapped": lambda f, sen1, sen2: right.band_groups(
            f, xp.transpose(sen1, (0, 2, 1, 3)), xp.transpose(sen2, (0, 2, 1, 3))
        ),
    }
}

# ---------------------------------------------------------------- III-B


def scored(change: Callable) -> Callable:
    """The figures of merit with those that change(right ones, confusion matrix) gives in place of the right."""

    def metrics(f, y, y_hat, K):
        out = right.metrics(f, y, y_hat, K)
        return out | change(out, numpy.asarray(out["confusion"]))

    return metrics


def kappa_of(chance: Callable) -> Callable:
    def change(out, C):
        p_e = xp.exact(1) * chance(C) / int(C.sum()) ** 2
        return {"kappa": (out["overall_accuracy"] - p_e) / (1 - p_e)}

    return change


def average_over_all(out: dict, C: numpy.ndarray) -> dict:
    rows = numpy.maximum(C.sum(1), 1)
    shares = [xp.exact(int(C[k, k])) / int(rows[k]) for k in range(len(C))]
    return {"average_accuracy": xp.sum(xp.stack(shares)) / len(C)}


def shares(C: numpy.ndarray, of: Callable) -> Array:
    """C[k, k] / of(C)[k] of each class, 0 where that is 0."""
    n = numpy.maximum(of(C), 1)
    return xp.stack([xp.exact(int(C[k, k])) / int(n[k]) for k in range(len(C))])


def precision(out: dict, C: numpy.ndarray) -> dict:
    kept = [k for k in range(len(C)) if C[k].sum()]
    return {"average_accuracy": xp.mean(shares(C, lambda C: C.sum(0))[numpy.array(kept)])}


def weighted_kappa(out: dict, C: numpy.ndarray) -> dict:
    """Cohen's kappa with weights |j - k|."""
    weights = abs(numpy.subtract.outer(numpy.arange(len(C)), numpy.arange(len(C))))
    chance = numpy.outer(C.sum(1), C.sum(0))
    return {"kappa": 1 - xp.exact(int((weights * C).sum())) * int(C.sum()) / int((weights * chance).sum())}


METRICS = {
    "metrics": {
        "kappa from the truth's marginals alone": scored(kappa_of(lambda C: int((C.sum(1) ** 2).sum()))),
        "kappa against 1 / K": scored(kappa_of(lambda C: xp.exact(int(C.sum()) ** 2) / len(C))),
        "kappa not below 0": scored(lambda out, C: {"kappa": out["kappa"] * int(xp.value(out["kappa"]) > 0)}),
        "kappa with linear weights": scored(weighted_kappa),
        "overall accuracy for kappa": scored(lambda out, C: {"kappa": out["overall_accuracy"]}),
        "average accuracy for overall": scored(lambda out, C: {"overall_accuracy": out["average_accuracy"]}),
        "overall accuracy for average": scored(lambda out, C: {"average_accuracy": out["overall_accuracy"]}),
        "absent classes counted as 0": scored(average_over_all),
        "precision for recall": scored(precision),
        "percent for fractions": scored(
            lambda out, C: {name: x * 100 for name, x in out.items() if name.endswith("accuracy")}
        ),
        "rows are predictions": lambda f, y, y_hat, K: right.metrics(f, y_hat, y, K),
    }
}

# ---------------------------------------------------------------- III-A: statistics, split, classes


def about(mean: Callable, spread: Callable) -> Callable:
    """Statistics of other axes or of another spread: mean(x), spread(x, mean)."""

    def statistics(f, x):
        m = mean(x)
        return {"mean": m, "std": spread(x, m)}

    return statistics


over_all = lambda x: xp.mean(x, (0, 1, 2))
variance = lambda x, m: xp.mean((x - m) * (x - m), (0, 1, 2))


def of_a_draw(change: Callable) -> Callable:
    """A split whose counts of rows change(out, counts of the classes)."""

    def split(f, y, **settings):
        out = right.split(f, y, **settings)
        return out if "refused" in out else out | change(out, numpy.bincount(y, minlength=17), settings)

    return split


def balanced(out: dict, counts: numpy.ndarray, settings: dict) -> dict:
    each = settings["test"] // 17
    return {"test": numpy.minimum(counts - out["train"], each)}


def natural(out: dict, counts: numpy.ndarray, settings: dict) -> dict:
    """Training rows in proportion to the classes."""
    train = counts * int(out["train"].sum()) // int(counts.sum())
    return {"train": train, "test": counts - train}


BEFORE_AND_AFTER = {
    "statistics": {
        "the variance for its root": about(over_all, variance),
        "divided by one less": about(
            over_all, lambda x, m: xp.sqrt(variance(x, m) * (x.size // x.shape[-1]) / (x.size // x.shape[-1] - 1))
        ),
        "mean of the samples' deviations": about(
            over_all,
            lambda x, m: xp.mean(
                xp.sqrt(xp.mean((x - (c := xp.mean(x, (1, 2), keepdims=True))) * (x - c), (1, 2))), 0
            ),
        ),
        "one mean for all channels": about(
            lambda x: over_all(x) * 0 + xp.mean(x), lambda x, m: xp.sqrt(variance(x, m))
        ),
    },
    "standardise": {
        "divided by the variance": lambda f, x, mean, std: right.standardise(f, x, mean, std * std),
        "not centred": lambda f, x, mean, std: right.standardise(f, x, mean * 0, std),
        "not divided": lambda f, x, mean, std: {"y": x - mean},
        "an eps added to std": lambda f, x, mean, std: {"y": (x - mean) / (std + xp.like(x, "1e-3"))},
        "0 for a channel with std 0": lambda f, x, mean, std: {
            "y": right.standardise(f, x, mean, std)["y"] * xp.mask(xp.value(std) != 0, x)
        },
    },
    "split": {
        "test rows drawn from all rows": of_a_draw(
            lambda out, counts, s: {"test": counts * s["test"] // int(counts.sum()), "common": 1}
        ),
        "a balanced test": of_a_draw(balanced),
        "training rows in proportion to the classes": of_a_draw(natural),
        "training rows drawn with replacement": of_a_draw(lambda out, counts, s: {"repeated": 1}),
        "what cannot be drawn is drawn in part": lambda f, y, **s: {
            "train": numpy.minimum(numpy.bincount(y, minlength=17), s["per_class"]),
            "test": numpy.bincount(y, minlength=17)
            - numpy.minimum(numpy.bincount(y, minlength=17), s["per_class"]),
            "repeated": 0,
            "common": 0,
        },
    },
    "predict": {
        "of equals the last": lambda f, c_hat: {
            "y_hat": c_hat.shape[1] - 1 - numpy.argmax(xp.value(c_hat)[:, ::-1], axis=1)
        },
        "the smallest logit": lambda f, c_hat: {"y_hat": numpy.argmin(xp.value(c_hat), axis=1)},
        "the largest size": lambda f, c_hat: {"y_hat": numpy.argmax(abs(xp.value(c_hat)), axis=1)},
        "classes counted from 1": lambda f, c_hat: {"y_hat": numpy.argmax(xp.value(c_hat), axis=1) + 1},
        "over the rows": lambda f, c_hat: {"y_hat": numpy.argmax(xp.value(c_hat), axis=0)},
    },
}

DATA = READING | BANDS | METRICS | BEFORE_AND_AFTER

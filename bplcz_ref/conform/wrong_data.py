"""Wrong readings of the data's side: band groups, prompts, tokenizer, figures of merit.

A function has the signature of the formula that it replaces.
"""

from collections.abc import Callable

import numpy

from bplcz_ref import paper
from bplcz_ref.conform import exact as xp
from bplcz_ref.conform import networks
from bplcz_ref.conform import ops as right
from bplcz_ref.conform.exact import Array
from bplcz_ref.conform.networks import filled

# ---------------------------------------------------------------- reading files


def column_major(f: dict, a: Array) -> dict:
    return right.read_array(f, numpy.ravel(a).reshape(a.shape, order="F"))


def reversed_axes(f: dict, a: Array) -> dict:
    return {name: sums.T for name, sums in right.read_array(f, numpy.asarray(a).T).items()}


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
    }
}

# ---------------------------------------------------------------- II-B1


def prompted(of: Callable) -> Callable:
    """A prompt by of(identity of the class, its description, name of the group, text of the group)."""

    def prompt(f, class_index, group):
        identity, _ = paper.CLASSES[int(class_index)]
        return {"text": of(identity, paper.DESCRIPTIONS[identity], group, paper.GROUPS[group]["text"])}

    return prompt


def of_next_class(identity: str, description: str, group: str, words: str) -> str:
    known = list(paper.DESCRIPTIONS)
    return filled(paper.DESCRIPTIONS[known[(known.index(identity) + 1) % len(known)]], words)


def without_article(identity: str, description: str, group: str, words: str) -> str:
    return filled(description, words).replace("photo of a ", "photo of ")


PIECES: dict = {  # options of networks.pre_tokens
    "no lower-casing": {"lower": False},
    "numbers as runs": {"numbers": 99},
    "contractions not split off": {"contractions": False},
    "entities resolved once": {"unescape": 1},
}
TOKENS: dict = {  # options of networks.tokenize
    "no </w> at the end of a piece": {"end": ""},
    "merges from the left, not by rank": {"by_rank": False},
    "EOT missing": {"eot": False},
    "padded with EOT": {"fill_eot": True},
    "the last position pooled": {"pool_last": True},
}

TEXT = {
    "prompt": {
        "class name for description": prompted(
            lambda identity, description, group, words: filled(dict(paper.CLASSES)[identity], words)
        ),
        "group name for its text": prompted(
            lambda identity, description, group, words: filled(description, group)
        ),
        "another class's description": prompted(of_next_class),
        "the word bands left out": prompted(
            lambda identity, description, group, words: filled(description, words).removesuffix(" bands")
        ),
        "article left out": (prompted(without_article), "prompt-grammar", "corrected"),
    },
    "pre_tokens": {name: networks.varied(networks.pre_tokens, **options) for name, options in PIECES.items()},
    "tokenize": {
        name: networks.varied(networks.tokenize, **options) for name, options in (PIECES | TOKENS).items()
    },
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


METRICS = {
    "metrics": {
        "kappa from the truth's marginals alone": scored(kappa_of(lambda C: int((C.sum(1) ** 2).sum()))),
        "kappa against 1 / K": scored(kappa_of(lambda C: xp.exact(int(C.sum()) ** 2) / len(C))),
        "average accuracy for overall": scored(lambda out, C: {"overall_accuracy": out["average_accuracy"]}),
        "absent classes counted as 0": scored(average_over_all),
        "rows are predictions": lambda f, y, y_hat, K: right.metrics(f, y_hat, y, K),
    }
}

DATA = READING | BANDS | TEXT | METRICS

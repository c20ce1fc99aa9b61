"""Wrong readings of the data's side: band groups, prompts, tokenizer, figures of merit. See wrong.py."""

import numpy

from bplcz_ref import paper
from bplcz_ref.conform import definitions as right
from bplcz_ref.conform import exact as xp
from bplcz_ref.conform.text import pieces_as, tokenize_as
from bplcz_ref.conform.wrong import Wrong

# ---------------------------------------------------------------- reading files


def column_major(f, a):
    return right.read_array(f, numpy.ravel(a).reshape(a.shape, order="F"))


def reversed_axes(f, a):
    out = right.read_array(f, numpy.asarray(a).T)
    return {"sum_0": out["sum_0"].T, "sum_1": out["sum_1"].T, "sum_2": out["sum_2"].T}


READING = [
    Wrong("read_array", "data taken as column-major", column_major),
    Wrong("read_array", "axes counted from the last, as in Julia or Fortran", reversed_axes),
]


# ---------------------------------------------------------------- II-A, III-B


def grouped(numbers, first=1):
    """The band groups with other band numbers; out of range means the last band, as some frameworks have it."""

    def band_groups(f, sen1, sen2):
        sensors = {"sen1": sen1, "sen2": sen2}
        out = {}
        for name, group in paper.GROUPS.items():
            source = paper.GROUPS[numbers[name]] if isinstance(numbers.get(name), str) else group
            bands = source["bands"] if isinstance(numbers.get(name, name), str) else numbers[name]
            sensor = sensors[source["sensor"]]
            out[f"X_{name}"] = sensor[..., [min(b - first, sensor.shape[-1] - 1) for b in bands]]
        return out

    return band_groups


ROTATED = dict(zip(paper.GROUPS, [*list(paper.GROUPS)[4:], *list(paper.GROUPS)[:4]], strict=True))

BANDS = [
    Wrong("band_groups", "band numbers taken as 0-based", grouped({}, first=0)),
    Wrong("band_groups", "bands 7 and 8 swapped", grouped({"VRE": (4, 5, 6, 7), "NIR": (8,)})),
    Wrong("band_groups", "real part for the intensity", grouped({"VH": (1, 2, 1), "VV": (3, 4, 3)})),
    Wrong("band_groups", "intensities of VH and VV swapped", grouped({"VH": (1, 2, 6), "VV": (3, 4, 5)})),
    Wrong("band_groups", "real and imaginary parts grouped", grouped({"VH": (1, 3, 5), "VV": (2, 4, 6)})),
    Wrong("band_groups", "SAR groups first", grouped(ROTATED)),
    Wrong("band_groups", "red first in RGB", grouped({"RGB": (3, 2, 1)})),
]


def scored(change):
    def metrics(f, y, y_hat, K):
        out = right.metrics(f, y, y_hat, K)
        C = numpy.asarray(out["confusion"])
        return out | change(out, C, int(C.sum()))

    return metrics


def kappa_of(chance):
    def change(out, C, N):
        p = xp.exact(1) * chance(C) / (N * N)
        return {"kappa": (out["overall_accuracy"] - p) / (1 - p)}

    return change


def average_over_all(out, C, N):
    rows = numpy.maximum(C.sum(1), 1)
    shares = [xp.exact(int(C[k, k])) / int(rows[k]) for k in range(len(C))]
    return {"average_accuracy": xp.sum(xp.stack(shares)) / len(C)}


METRICS = [
    Wrong(
        "metrics", "kappa from the truth's marginals alone", scored(kappa_of(lambda C: int((C.sum(1) ** 2).sum())))
    ),
    Wrong("metrics", "kappa against 1 / K", scored(kappa_of(lambda C: xp.exact(int(C.sum()) ** 2) / len(C)))),
    Wrong(
        *("metrics", "average accuracy for overall"),
        scored(lambda out, C, N: {"overall_accuracy": out["average_accuracy"]}),
    ),
    Wrong("metrics", "absent classes counted as 0", scored(average_over_all)),
    Wrong("metrics", "rows are predictions", lambda f, y, y_hat, K: right.metrics(f, y_hat, y, K)),
]

# ---------------------------------------------------------------- II-B1


def prompted(of):
    def prompt(f, class_index, group):
        k = int(class_index)
        return {"text": of(k, paper.CLASSES[k][0], group, paper.GROUPS[group]["text"])}

    return prompt


def filled(description, words):
    return f"a photo of a {description} with {words} bands"


def neighbour(k, identity, group, words):
    known = list(paper.DESCRIPTIONS)
    return filled(paper.DESCRIPTIONS[known[(known.index(identity) + 1) % len(known)]], words)


def cut(**options):
    return lambda f, text: {"pieces": pieces_as(text, **options)}


def tokenized(**options):
    return lambda f, text, context, truncate: tokenize_as(text, context, truncate, **options)


D = paper.DESCRIPTIONS
TEXT = [
    Wrong("prompt", "class name for description", prompted(lambda k, i, g, w: filled(paper.CLASSES[k][1], w))),
    Wrong("prompt", "group name for its text", prompted(lambda k, i, g, w: filled(D[i], g))),
    Wrong("prompt", "another class's description", prompted(neighbour)),
    Wrong(
        "prompt", "the word bands left out", prompted(lambda k, i, g, w: filled(D[i], w).removesuffix(" bands"))
    ),
    Wrong(
        *("prompt", "article left out"),
        prompted(lambda k, i, g, w: filled(D[i], w).replace("photo of a ", "photo of ")),
        reading=("prompt-grammar", "corrected"),
    ),
]
for name, options in {
    "no lower-casing": {"lower": False},
    "numbers as runs": {"numbers": 99},
    "contractions not split off": {"contractions": False},
    "entities resolved once": {"unescape": 1},
}.items():
    TEXT += [Wrong("pre_tokens", name, cut(**options)), Wrong("tokenize", name, tokenized(**options))]
for name, options in {
    "no </w> at the end of a piece": {"end": ""},
    "merges from the left, not by rank": {"order": "left"},
    "EOT missing": {"eot": False},
    "padded with EOT": {"fill": "eot"},
    "the last position pooled": {"pooled": "last"},
}.items():
    TEXT.append(Wrong("tokenize", name, tokenized(**options)))

DATA = [*READING, *BANDS, *TEXT, *METRICS]

"""Wrong readings of the data's side: band groups, prompts, tokenizer, figures of merit.

A function has the signature of the formula that it replaces.
"""

import html
import unicodedata
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy

from bplcz_ref import paper
from bplcz_ref.conform import exact as xp
from bplcz_ref.conform import ops as right
from bplcz_ref.conform import words
from bplcz_ref.conform.exact import Array
from bplcz_ref.conform.words import ROW, RULE, category, filled


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


def ascii_lower(text: str) -> str:
    return "".join(chr(ord(c) + 32) if "A" <= c <= "Z" else c for c in text)


def lower_letter_by_letter(text: str) -> str:
    """Without the rule for the sigma at a word's end, and one letter for one."""
    return "".join(c.lower() if len(c.lower()) == 1 else c for c in text)


def three_entities(text: str) -> str:
    return text.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")


def with_semicolon(text: str) -> str:
    """Only references that end in a semicolon."""
    parts = text.split("&")
    resolved = [
        html.unescape(f"&{p.split(';')[0]};") + p.partition(";")[2] if ";" in p else f"&{p}" for p in parts[1:]
    ]
    return parts[0] + "".join(resolved)


def straightened(text: str) -> str:
    """Curly quotes made straight, as ftfy does."""
    return text.translate(dict(zip(map(ord, "\u2018\u2019\u201c\u201d"), "''\"\"", strict=True)))


def composed(form: Any) -> Callable:
    return lambda text: unicodedata.normalize(form, text)


def bare(text: str) -> str:
    """Accents stripped, as some tokenizers do."""
    return "".join(c for c in unicodedata.normalize("NFD", text) if category(c) != "M")


ASCII = frozenset(" \t\n\r\v\f")
PIECES: dict = {
    "no lower-casing": RULE._replace(lower=str),
    "lower case for A to Z alone": RULE._replace(lower=ascii_lower),
    "case folded, not lower case": RULE._replace(lower=str.casefold),
    "lower case letter by letter": RULE._replace(lower=lower_letter_by_letter),
    "lower case before the entities": RULE._replace(lower_first=True),
    "numbers as runs": RULE._replace(numbers=99),
    "numbers are 0 to 9 alone": RULE._replace(number=lambda c: c in "0123456789"),
    "numbers are decimal digits alone": RULE._replace(number=str.isdecimal),
    "numbers joined to letters": RULE._replace(letter=lambda c: category(c) in "LN", number=lambda c: False),
    "letters are a to z alone": RULE._replace(letter=lambda c: c.isascii() and c.isalpha()),
    "letters are those with a case": RULE._replace(letter=lambda c: c.lower() != c.upper()),
    "marks count as letters": RULE._replace(letter=lambda c: category(c) in "LM"),
    "the underscore counts as a letter": RULE._replace(letter=lambda c: category(c) == "L" or c == "_"),
    "others one by one": RULE._replace(others=1),
    "contractions not split off": RULE._replace(contractions=()),
    "contractions not split off, the apostrophe a letter": RULE._replace(
        contractions=(), letter=lambda c: category(c) == "L" or c == "'"
    ),
    "'s and 't alone are contractions": RULE._replace(contractions=("'s", "'t")),
    "'n and 'em are contractions too": RULE._replace(contractions=(*RULE.contractions, "'n", "'em")),
    "contractions inside a run of others": RULE._replace(anywhere=True),
    "contractions only at a word's end": RULE._replace(whole_words=True),
    "whitespace is ASCII's alone": RULE._replace(space=ASCII.__contains__),
    "U+0085 no whitespace, U+FEFF whitespace, as in JavaScript": RULE._replace(
        space=lambda c: c == "\ufeff" or (c in words.WHITE_SPACE and c != "\x85")
    ),
    "U+200B counts as whitespace": RULE._replace(space=lambda c: c in words.WHITE_SPACE or c == "\u200b"),
    "entities not resolved": RULE._replace(times=0),
    "entities resolved once": RULE._replace(times=1),
    "entities resolved until none is left": RULE._replace(times=9),
    "of the entities amp, lt and gt alone": RULE._replace(entities=three_entities),
    "entities only with a semicolon": RULE._replace(entities=with_semicolon),
    "quotes straightened, as by ftfy": RULE._replace(repaired=straightened),
    "composed to NFC": RULE._replace(repaired=composed("NFC")),
    "compatibility forms folded (NFKC)": RULE._replace(repaired=composed("NFKC")),
    "accents stripped": RULE._replace(repaired=bare),
}
TOKENS: dict = {
    "no </w> at the end of a piece": ROW._replace(end=""),
    "</w> at the end of the text alone": ROW._replace(end_of_text=True),
    "characters of Latin-1 for bytes of UTF-8": ROW._replace(encoding="latin-1"),
    "bytes of UTF-16": ROW._replace(encoding="utf-16-le"),
    "bytes in the order 0 to 255": ROW._replace(in_order=True),
    "merges from the left, not by rank": ROW._replace(choose=words.first_pair),
    "the longest symbol merged first": ROW._replace(choose=words.longest_pair),
    "the longest symbol from the left, as in WordPiece": ROW._replace(choose=None),
    "no merges": ROW._replace(choose=lambda symbols, ranks: None),
    "equal pairs merged from the right": ROW._replace(step=-1),
    "SOT missing": ROW._replace(sot=False),
    "EOT missing": ROW._replace(eot=False),
    "SOT and EOT exchanged": ROW._replace(swapped=True),
    "padded with EOT": ROW._replace(fill=lambda EOT: EOT),
    "padded on the left": ROW._replace(left=True),
    "cut without EOT at the end": ROW._replace(cut=lambda row, L, EOT: row[:L]),
    "cut at the front": ROW._replace(cut=lambda row, L, EOT: [row[0], *row[1 - L :]]),
    "cut where it should be refused": ROW._replace(refuse=False),
    "a full row refused": ROW._replace(most=1),
    "the last position pooled": ROW._replace(place=lambda row, L, EOT: L - 1),
    "the place before the first 0": ROW._replace(place=lambda row, L, EOT: (row.index(0) if 0 in row else L) - 1),
    "as many places as ids other than 0": ROW._replace(place=lambda row, L, EOT: L - row.count(0) - 1),
    "the place after EOT": ROW._replace(place=lambda row, L, EOT: row.index(EOT) + 1),
    "special tokens taken from the text": ROW._replace(special=True),
}


def pieced(rule: words.Rule) -> Callable:
    return lambda f, text: words.pre_tokens(f, text, rule)


def tokenized(rule: words.Rule, how: words.Row = ROW) -> Callable:
    return lambda f, text, context, truncate: words.tokenize(f, text, context, truncate, rule, how)


def worded(of: Callable) -> Callable:
    """The right prompt, changed."""
    return lambda f, **i: {"text": of(words.prompt(f, **i)["text"])}


TEXT = {
    "prompt": {
        "class name for description": prompted(
            lambda identity, description, group, words: filled(dict(paper.CLASSES)[identity], words)
        ),
        "group name for its text": prompted(
            lambda identity, description, group, words: filled(description, group)
        ),
        "another class's description": prompted(of_next_class),
        "the word bands left out": worded(lambda text: text.removesuffix(" bands")),
        "article left out": (prompted(without_article), "prompt-grammar", "corrected"),
        "a capital at the beginning": worded(str.capitalize),
        "a full stop at the end": worded(lambda text: text + "."),
        "an image for a photo": worded(lambda text: text.replace("a photo", "an image")),
    },
    "pre_tokens": {name: pieced(rule) for name, rule in PIECES.items()},
    "tokenize": {name: tokenized(rule) for name, rule in PIECES.items()}
    | {name: tokenized(RULE, how) for name, how in TOKENS.items()},
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

DATA = READING | BANDS | TEXT | METRICS | BEFORE_AND_AFTER

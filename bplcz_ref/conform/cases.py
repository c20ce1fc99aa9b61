# ruff: noqa: E501  (a case a line)
"""The cases: inputs, and the reason for each. No expected value is typed in.

Seed 0 is the public set. Another seed draws other numbers, labels, words and longer axes by the same rules, so that
nobody has seen its answers: no case of it has the inputs of a public one. What a case isolates is said in its
`why`. Where answers are text, labels or bands, the cases that fail are the diagnosis.

Ordinary numbers are k / 32 within [-2, 2], the same in every dtype. The case `full` of an operation has all 53 bits:
only there does rounding to a coarser dtype show. Sizes are not square where the mathematics allows, and labels are
unbalanced. Each character of a text has had its kind (letter, number, other, whitespace) since Unicode 4.1, or is
an emoji, which counts as other where it is unknown: any table of a library will do.

To add a case, yield (name, why, inputs, the inputs whose gradients are asked for) below, then run
`python -m bplcz_ref conform regenerate bplcz_ref/vectors` and raise exchange.VERSION.
"""

from collections.abc import Callable, Iterator

import numpy as np

from bplcz_ref import paper
from bplcz_ref.conform.numbers import Draw
from bplcz_ref.conform.ops import OPS, Case, is_float, worked_out

ATTEMPTS = 50


def drawn(seed: int = 0) -> list[Case]:
    """All cases of a seed in the order of OPS, without what they expect."""
    return [case for op in OPS for case in cases_of(op, seed)]


def cases_of(op: str, seed: int) -> Iterator[Case]:
    """The cases of one operation. What equals a public case by chance is drawn again."""
    public = [*cases_of(op, 0)] if seed else []
    rows = list(MAKERS[op](Draw(seed, op)))
    for place in range(len(rows)):
        for attempt in range(ATTEMPTS):
            name, why, inputs, slopes, needs = rows[place] + ("", 1.0)[len(rows[place]) - 3 :]
            case = Case(f"{op}/{name}", why, inputs, tuple(slopes.split()), needs=needs)
            case = with_cotangents(case, Draw(seed, f"{case.id} {attempt}"))
            if not any(alike(case, other) for other in public):
                yield case
                break
            rows = list(MAKERS[op](Draw(seed, f"{op} {attempt}")))
        else:
            raise ValueError(f"seed {seed}: {op} came out as in the public set; take another seed")


def with_cotangents(case: Case, draw: Draw) -> Case:
    """The case with a weight for each number of its outputs; none is 0."""
    if not case.slopes:
        return case
    out = {o: x for o, x in worked_out(OPS[case.op].run, case._replace(slopes=())).items() if is_float(x)}
    odd = lambda *shape: (2 * draw.whole(-16, 15, *shape) + 1) / 32
    weights = draw.full if case.id.endswith("/full") else odd
    return case._replace(cotangents={o: weights(*x.shape) for o, x in out.items() if not o.startswith("new_")})


def alike(case: Case, other: Case) -> bool:
    """Whether two cases have the same inputs, or the same cotangents."""
    same = lambda a, b: bool(a) and a.keys() == b.keys() and all(np.array_equal(a[n], b[n]) for n in a)
    return same(case.inputs, other.inputs) or same(case.cotangents, other.cotangents)


# ---------------------------------------------------------------- the file, II-A


def read_array(d):
    first = d.one(1, 9) * 1000 if d.seed else 0
    a = np.einsum("nxyz,n->xyz", np.indices((2, 3, 4)), [100.0, 10, 1])
    why = "data are row-major, and `shape` lists the slowest axis first"
    yield "digits", f"{why}: a[x, y, z] = {first} + 100 x + 10 y + z", {"a": first + a}
    yield "exponents", "numbers with an exponent, as 1e-05", {"a": d(*d.sizes(2, 2, 3)) * 1e-5}
    yield "full", "all 53 bits", {"a": d.full(*d.sizes(3, 2, 2))}


def band_groups(d):
    first = d.one(2, 90) if d.seed else 1
    each = lambda make: {sensor: make(n) for sensor, n in paper.CHANNELS.items()}
    ramp = each(lambda n: np.broadcast_to(first + np.arange(0.0, n), (1, 2, 3, n)).copy())
    why = "bands are counted from 1 and stay in the printed order; each group has its own sensor, bands and name"
    yield "index", f"{why}: each band is filled with its own number, from {first}", ramp
    unlike = each(lambda n: first - 1 + np.arange(12.0 * n).reshape(2, 2, 3, n) + 100 * (n > 8))
    yield "all-different", "samples, rows and columns stay where they are: no two values are alike", unlike
    yield "full", "all 53 bits: values are copied", each(lambda n: d.full(1, 2, 2, n))


# ---------------------------------------------------------------- II-B1: text

SAMPLES = (  # name, text, why
    ("words", "compact high-rise", "a piece ends with </w>, and a hyphen is a piece"),
    ("capitals", "Dense TREES and Water", "lower case first"),
    ("numbers", "12,117 samples in 2024", "each digit is a piece"),
    ("contractions", "it's what they'll map, don't", "'s 'll 't are pieces"),
    ("accents", "Café naïve Zürich", "accented letters are letters, of two bytes, and nothing is stripped"),
    ("emoji", "a wave 👋 of water", "four bytes a character"),
    ("spaces", "  short \t wave\n infrared  ", "whitespace only separates"),
    ("entities", "built &amp;amp; paved &lt;b&gt;", "entities are resolved twice"),
    ("punctuation", "lakes, or seas...(blue)!", "runs of what is no letter and no number"),
    ("empty", "", "no piece at all"),
    ("example", paper.EXAMPLE_PROMPT, "the prompt that the paper prints"),
    ("all-contractions", "i'm we're you've he'd she'll it's can't", "all seven contractions are pieces"),
    ("other-apostrophes", "rock'n'roll o'clock 'em y'all'x", "an apostrophe is otherwise a run of others"),
    ("apostrophe-runs", "!'s 'tis a''s --'re (it's) 'seas", "a contraction is one where a piece begins, word or not"),
    ("capital-contractions", "IT'S DON'T WE'LL", "lower case comes before the contractions"),
    ("curly-quotes", "it’s “blue” ‘sea’", "curly quotes stay, and are others"),
    ("other-numbers", "½ of ²³ Ⅷ x³! m²½", "category N: fractions, superscripts, Roman numerals, one by one"),
    ("other-digits", "٣٤ १२ ８", "digits of every script, one by one"),
    ("digits-and-letters", "b8a 3d lcz10 10m", "letters and numbers part"),
    ("underscore", "open_low rise_2 _a", "the underscore is an other"),
    ("greek", "ΟΔΟΣ ΣΑΣ", "the sigma at a word's end is ς"),
    ("cyrillic", "Плотная ЗАСТРОЙКА", "lower case is that of every script"),
    ("german", "Straße MÜHLE", "ß stays: lower case, not case folding"),
    ("turkish", "İzmir ılık", "İ becomes i and a combining dot, which is an other: lower case in full"),
    ("chinese", "水体与城市 日本", "letters without case are letters"),
    ("arabic", "ماء عميق", "letters without case, from right to left"),
    ("hindi", "जल क्षेत्र", "vowel signs and the virama are marks, and marks are others"),
    ("korean", "물 도시", "letters of three bytes"),
    ("modifier-letters", "ʰa nª ǅ", "modifier, ordinal and title case letters are letters: category L"),
    ("combining", "cafe\u0301 e\u0301e\u0301", "a combining accent is an other: nothing is composed"),
    ("wide", "ＡＢｃ ﬁre ①", "full-width letters and ligatures stay: compatibility forms are not folded"),
    ("symbols", "5€ +- 20° §7 ©™ ~^`|", "symbols of every kind are others, in runs"),
    ("emoji-runs", "🌊🌊 👩\u200d🚀!", "emoji, joiners and punctuation are one run"),
    ("wide-spaces", "a\u00a0b\u3000c\u2003d\u2028e\u1680f", "every White_Space separates"),
    ("next-line", "a\u0085b!\u0085!", "U+0085 is White_Space"),
    ("no-spaces", "a\ufeffb !\u200b! c\u200bd", "U+FEFF and U+200B are no White_Space but others"),
    ("controls", "a\u0001b \u007f!", "control characters are others"),
    ("entities-thrice", "a &amp;amp;amp;lt; b", "entities are resolved twice, not until none is left"),
    ("entities-numeric", "&#65;&#x42;&#233; &#8364;", "decimal and hexadecimal references are resolved"),
    ("entities-named", "&Eacute;t&eacute; &Dagger; &nbsp;x&nbsp;y", "HTML's names, before the lower case"),
    ("entities-open", "&ltb&gt &copy 2024 &ampx", "some names need no semicolon"),
    ("entities-unknown", "&bogus; &; a&b", "what is no reference stays"),
    ("ascii", "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~", "every other of ASCII in one run"),
    ("repeats", "oooo ooooo pppp mmmm", "of equal pairs that overlap, the left one is merged"),
    ("bytes", "¡¢£ ¬® ±´ ¿ ÀÁ ðþÿ ãí", "bytes of UTF-8, every kind from 0xA1 to 0xFF, numbered in CLIP's order"),
    ("id-zero", "!? !a !!!", "id 0 is the byte !, not only padding; `end` is the place of EOT"),
    ("merges", "accompanied agreement activity amsterdam banana", "the lowest rank first, not the leftmost or longest"),
    ("long-words", "characterized representing backscatter uniform", "many merges a word"),
    ("one-letter", "a b z", "one letter is a piece with </w>"),
    ("order-of-words", "water blue water", "a piece comes as often as it stands there"),
)  # fmt: skip
LONG = "bare soil or sand and bare rock or paved"
EDGES = (  # name, text, context, truncate, why
    ("too-long", LONG, 6, 0, "more tokens than the context: refused (the answer is refused = 1)"),
    ("cut", LONG, 6, 1, "cut to the context, the last id set to EOT"),
    ("exact-fit", "; 7 7", 5, 0, "SOT, three bytes, EOT fill the context to its end"),
    ("exact-fit-cut", "; 7 7", 5, 1, "what fits is not cut"),
    ("one-too-long", "; 7 7", 4, 0, "one id more than fit"),
    ("one-too-long-cut", "; 7 7", 4, 1, "one id more than fit, cut"),
    ("empty-fit", "", 2, 0, "SOT and EOT alone fill the context"),
    ("special", "water <|endoftext|> trees", 40, 0, "a text with a special token is refused"),
    ("special-capitals", "a <|StartOfText|> b", 40, 1, "in capitals too: it is in lower case that it counts"),
    ("nearly-special", "a <|endof text|> b <|end|>", 40, 0, "only the whole token is special"),
)  # fmt: skip


def fresh_text(d: Draw, text: str) -> str:
    """For other seeds a text with the same point: a new word after it, or other signs of one token each."""
    if not d.seed:
        return text
    if text == "; 7 7":
        return " ".join([";:?!=+"[d.one(0, 5)], str(d.one(0, 9)), str(d.one(0, 9))])
    if not text:
        return "".join(" \t\n\u00a0\u3000"[d.one(0, 4)] for _ in range(d.one(3, 9)))
    return f"{text} {d.word()}"


def prompt(d):
    printed = [0, 8, 16]
    others = [k for k in range(17) if k not in printed]
    for k in printed if not d.seed else sorted(others[i] for i in np.argsort(d.full(len(others)))[:3]):
        for group in paper.GROUPS:
            identity = paper.CLASSES[k][0]
            why = f"the description of class index {k}, which is LCZ {identity}, and the words of {group}"
            yield f"{identity}-{group}", f"{why}, in the template's grammar", {"class_index": k, "group": group}


def pre_tokens(d):
    for name, text, why in SAMPLES:
        yield name, why, {"text": fresh_text(d, text)}


def tokenize(d):
    for name, text, why in SAMPLES:
        context = 77 if len(text) > 30 else 40
        yield name, why, {"text": fresh_text(d, text), "context": context, "truncate": 0}
    for name, text, context, truncate, why in EDGES:
        yield name, why, {"text": fresh_text(d, text), "context": context, "truncate": truncate}


# ---------------------------------------------------------------- layers


def linear(d):
    for name, why, draw, plain in (
        ("ordinary", "weight is (out, in), and the bias is added", d, (4, 3, 5)),
        ("square", "as many outputs as inputs: a transpose of the weight shows", d, (2, 4, 4)),
        ("one", "a batch of 1, one output", d, (1, 3, 1)),
        ("full", "all 53 bits", d.full, (3, 5, 4)),
    ):
        B, n, O = (1, *d.sizes(3), 1) if name == "one" else d.sizes(*plain)
        n = O if name == "square" else n
        yield name, why, {"x": draw(B, n), "weight": draw(O, n), "bias": draw(O)}, "x weight bias"


def conv2d(d):
    start = d.one(2, 90) if d.seed else 1
    picture = start + np.arange(0.0, 12).reshape(1, 3, 4, 1)
    weight = np.zeros((2, 1, 3, 3))
    weight[0, 0, *((0, 1) if not d.seed else (0, d.one(0, 2)))] = 1
    weight[1, 0, *((1, 2) if not d.seed else (d.one(1, 2), 2))] = 1
    why = "the kernel is not flipped: one with a single 1 moves the picture"
    yield "one-hot", why, {"x": picture, "weight": weight, "stride": 1, "padding": 1}
    for name, why, stride, padding, size, (O, *k) in (
        ("ordinary", "3 by 3, zeros around the picture", 1, 1, (2, 4, 5, 3), (2, 3, 3)),
        ("stride-2", "stride 2 in both directions, even sizes: padding 1 on both sides", 2, 1, (1, 6, 4, 2), (2, 3, 3)),
        ("stride-2-odd", "stride 2, odd sizes: the last row is used", 2, 1, (1, 5, 7, 2), (3, 3, 3)),
        ("stride-2-mixed", "stride 2, rows even and columns odd", 2, 0, (2, 6, 5, 1), (2, 3, 3)),
        ("no-padding", "3 by 3 without padding", 1, 0, (1, 4, 5, 2), (2, 3, 3)),
        ("padding-2", "stride 3, padding 2: neither is built in", 3, 2, (1, 5, 6, 2), (2, 3, 3)),
        ("not-square", "2 by 3, even: no middle row", 1, 1, (1, 4, 5, 2), (3, 2, 3)),
        ("pointwise", "1 by 1: a linear map of each pixel", 1, 0, (2, 2, 3, 3), (2, 1, 1)),
        ("one-pixel", "a single pixel and its zeros", 1, 1, (2, 1, 1, 2), (2, 3, 3)),
        ("full", "all 53 bits", 1, 1, (2, 3, 4, 2), (3, 3, 3)),
    ):  # fmt: skip
        draw = d.full if name == "full" else d
        B, H, W, C = size if name == "one-pixel" else [n + 2 * (d.seed > 0) * d.one(0, 1) for n in size]
        yield name, why, {"x": draw(B, H, W, C), "weight": draw(O, C, *k), "stride": stride, "padding": padding}, "x weight"  # fmt: skip


def max_pool2d(d):
    order = lambda n, step: (np.argsort(d.full(n)) if d.seed else np.arange(n) * step % (n + 1)) - n // 2
    distinct = order(96, 37).reshape(2, 4, 6, 2) / 32  # equal values have their own case
    yield "ordinary", "4 by 6: the largest of each window, and windows do not overlap", {"x": distinct}, "x"
    odd = order(70, 41).reshape(1, 5, 7, 2) / 32
    yield "odd", "5 by 7: the last row and column are dropped", {"x": odd}, "x"
    yield "negative", "all below 0: zeros at an edge show, as there is no padding", {"x": distinct[:1] - 2.0}, "x"
    why = "equal values in every window: any of them may have the gradient, so none is asked"
    yield "ties", why, {"x": d.whole(0, 1, 1, 4, 6, 2) / 2}
    near = order(32, 13).reshape(2, 4, 4, 1) / 32  # no two are equal after rounding to 8 bits
    yield "full", "all 53 bits", {"x": near * (1 + d.full(2, 4, 4, 1) / 1000)}, "x"


def affine(d: Draw, C: int) -> dict:
    return {"weight": d(C, low=16), "bias": d(C)}


def batch_norm(d):
    shape = (2, 2, 3, 2)
    plain, small = d(*shape), d(*shape, low=-8, high=8)
    kept, narrow = (d(2), d(2, low=16)), (d(2, low=-8, high=8) / 64, d.near([2.0**-17, 2.0**-15]))
    for name, why, x, (mean, var), train in (
        ("training", "biased to normalise, unbiased to remember, a share of 0.1; statistics have a gradient", plain, kept, 1),
        ("evaluation", "the running statistics are used and kept", plain, kept, 0),
        ("flat", "standard deviation 0.002: only here does eps show, 1e-5 inside the root", small / 64, kept, 1),
        ("flat-evaluation", "running variances of 1e-5: eps shows", small / 64, narrow, 0),
        ("far", "means of 4 and -6, a small spread: E[x^2] - E[x]^2 cancels, and passes", small / 8 + [4.0, -6.0], kept, 1),
        ("two-values", "a batch of 1, two pixels", d(1, 1, 2, 2), kept, 1),
        ("one-pixel", "four samples of one pixel", d(4, 1, 1, 2), kept, 1),
    ):  # fmt: skip
        yield name, why, {"x": x} | affine(d, 2) | {"running_mean": mean, "running_var": var, "train": train}, "x weight bias"  # fmt: skip
    for name, train in (("full", 1), ("full-evaluation", 0)):
        x = {"x": d.full(3, 2, 2, 2), "weight": d.full(2, low=16), "bias": d.full(2)}
        x |= {"running_mean": d.full(2), "running_var": d.full(2, low=16), "train": train}
        yield name, "all 53 bits", x, "x weight bias"


def layer_norm(d):
    n, *_ = d.sizes(5)
    small, far = d(3, n, low=-8, high=8), np.array([[4.0], [-6.0], [3.0]])
    for name, why, x, needs in (
        ("ordinary", "the last axis: centred, divided by the root of the biased variance, which has a gradient", d(3, n), 1.0),
        ("tokens", "2 texts of 3 tokens: each token by itself", d(2, 3, n), 1.0),
        ("flat", "features that hardly differ: eps shows, 1e-5 inside the root", small / 64, 1.0),
        ("far", "means of 3 to 6, a small spread: E[x^2] - E[x]^2 cancels, and passes", small / 8 + far, 1.0),
        ("equal-features", "a row without any spread: y is the bias", d(3, n) * [[1], [0], [1]] + d.near([[0], [0.75], [0]]), 1e-5),
    ):  # fmt: skip
        yield name, why, {"x": x} | affine(d, n), "x weight bias", needs
    x = {"x": d.full(3, 6), "weight": d.full(6, low=16), "bias": d.full(6)}
    yield "full", "all 53 bits", x, "x weight bias"


def relu(d):
    numbers = [[-4.0, -2.5, -1.5, -1.0, -0.5, -0.25], [0.25, 0.5, 1.0, 1.5, 2.5, 4.0]]
    below, above = [-24.0, -12.0, -8.0, -6.0, -5.0, -3.0, -(2.0**-9), 0.0], [2.0**-9, 3.0, 5.0, 6.0, 6.5, 8.0, 12.0, 24.0]  # fmt: skip
    yield "ordinary", "both signs, up to 4: the form of the curve", {"x": d.near(numbers)}, "x"
    yield "wide", "0 itself and its slope, and sizes up to 24, not capped", {"x": d.near([below, above])}, "x"
    yield "full", "all 53 bits", {"x": d.full(*d.sizes(3, 5), low=-96, high=96)}, "x"


def gelu(d):
    """What relu has, and where e^x is far out or the curves are close together."""
    yield from relu(d)
    far, small = [[-448.0, -104.0, -60.0], [448.0, 104.0, 60.0]], [[-1.0, -0.5, -0.25], [0.25, 0.5, 1.0]]
    yield "far", "sizes from 60: e^x overflows, and the tails are 0 or x", {"x": d.near(far)}, "x"
    yield "small", "near 0, where the curves differ least", {"x": d.near(small) / 16}, "x"


def attention(d):
    parts = {"in_proj_weight": (3, 1), "in_proj_bias": (3,), "out_weight": (1, 1), "out_bias": (1,)}
    shape = lambda W, times: [n * W for n in times]
    weights = lambda draw, W, n: {p: draw(*shape(W, times), low=-n, high=n) for p, times in parts.items()}
    for name, why, (N, L), heads, W in (
        ("two-heads", "token l sees 0..l; scores over sqrt(W / heads); q, k, v; biases; out", (2, 5), 2, 6),
        ("one-head", "one head: how heads are split does not matter", (1, 4), 1, 6),
        ("three-heads", "3 heads of 2, runs of features: heads and their size cannot be exchanged", (1, 4), 3, 6),
        ("one-token", "one token: it sees itself alone", (2, 1), 2, 6),
        ("full", "all 53 bits", (2, 4), 2, 4),
    ):
        draw, size = (d.full, 32) if name == "full" else (d, 24)
        yield name, why, {"x": draw(N, L, W)} | weights(draw, W, size) | {"heads": heads}, f"x {' '.join(parts)}"
    steep = np.concatenate([16 * np.eye(6), 12 * np.eye(6)])
    x = d.near([[3, 2, 1, 3, 1, 2], [3, 2, 1, 3, 2, 1], [2, 3, 1, 3, 2, 2], [-2, -3, -1, 2, 2, 3]])
    for name, why, times, sign, heads in (
        ("large-scores", "scores up to 2500, several near the largest: e^score overflows without the shift", [1.0] * 4, 1, 2),
        ("masked-larger", "seen scores far below 0, masked ones far above: masked weights are 0 whatever the score", [2.5, 1.25, -2.5, -1.25], -1, 1),
    ):  # fmt: skip
        w = weights(d, 6, 24)
        w["in_proj_weight"][:12] = steep * np.array([[1.0]] * 6 + [[sign]] * 6)
        w["in_proj_bias"] *= 0
        asked = "" if name == "large-scores" else f"x {' '.join(parts)}"  # slopes of several largest are noise
        yield name, why, {"x": (x * np.array(times)[:, None])[None]} | w | {"heads": heads}, asked


# ---------------------------------------------------------------- II-B2, Eqs. (3)-(11)


def similarity(d):
    B, P, n = d.sizes(4, 3, 5)
    I, T = d(B, n), d(P, n)
    I[:, 0], T[:, 0] = 1.5, -1.25  # no feature of zeros but in its own case
    alive = (np.arange(B) != d.one(0, B - 1) if d.seed else np.arange(B) != 1)[:, None]
    lengths = 2.0 ** np.resize([-9, 0, 9, 4], B)[:, None]
    both = "I_i T_i"
    for name, why, x, y, slopes, needs in (
        ("ordinary", "both sides normalised, a row for each image; a transpose shows", I, T, both, 1.0),
        ("tiny", "features of length 2e-6: an epsilon that is added, or inside the root, shows", I * 2.0**-20, T * 2.0**-20, "", 1.0),
        ("between", "lengths of 1e-10, between 1e-12 and 1e-8, are still brought to 1", I * 2.0**-34, T * 2.0**-34, both, 1e-12),
        ("below", "lengths of 1e-14 are divided by 1e-12, and so is their gradient", I * 2.0**-47, T, both, 1e-12),
        ("zero-feature", "a feature of zeros has similarity 0, not nan (its gradient is not asked for)", I * alive, T, "", 1e-12),
        ("lengths", "lengths from 0.003 to 800", I * lengths, T, both, 1.0),
        ("one", "one image, one prompt", d(1, 3) + [[2.0, 0, 0]], d(1, 3) + [[2.0, 0, 0]], both, 1.0),
        ("full", "all 53 bits", d.full(3, 6), d.full(2, 6), both, 1.0),
    ):  # fmt: skip
        yield name, why, {"I_i": x, "T_i": y}, slopes, needs


def fuse(d):
    for name, why, draw, plain, alpha in (
        ("ordinary", "7 groups are added, and alpha 0.25 multiplies the sum", d, (7, 4, 3), 0.25),
        ("other-alpha", "3 groups, alpha 0.75: neither is built in", d, (3, 2, 5), 0.75),
        ("one", "one group, one pair", d, (1, 1, 1), 1.5),
        ("full", "all 53 bits", d.full, (7, 2, 3), 0.2871093827101223),
    ):
        n, B, P = plain if name == "one" else (plain[0], *d.sizes(*plain[1:]))
        yield name, why, {"S_groups": draw(n, B, P) + (name == "one") * 2, "alpha": alpha}, "S_groups"


def supervised_matrix(d):
    near = [0, 1, 1, 2, 16, 15]
    for name, why, y in (
        ("duplicates", "1 where labels agree, 0 elsewhere; six samples of three classes, not sorted", d.renamed([3, 8, 3, 16, 8, 3])),
        ("one-class", "all ones", d.renamed([4] * d.sizes(3)[0])),
        ("all-different", "the identity: without duplicates nothing tells W from I", d.renamed(range(*d.sizes(4)))),
        ("neighbours", "labels that differ by one are not equal", d.mixed(near) if d.one(0, 1) else 16 - d.mixed(near)),
        ("one", "a batch of 1", d.renamed([0])),
        ("all-classes", "17 classes, two of them twice", d.renamed([0, *range(17), 16])),
    ):  # fmt: skip
        yield name, why, {"y": y if d.seed or name != "neighbours" else np.array(near)}


def same(y: np.ndarray) -> np.ndarray:  # (B,) -> (B, B)
    return (y[:, None] == y).astype(np.int64)


def bce(d):
    W, eye = same(d.mixed([0, 1, 2, 0, 3])), np.eye(3, dtype=np.int64)
    B, P = d.sizes(3, 5)
    wrong = np.where(W == 1, -1.0, 1.0) * d.near([40.0, 24, 32, 28, 36])
    for name, why, S, own in (
        ("ordinary", "logits within alpha n = 1.75: a plain mean of natural logarithms", d(5, 5, low=-56, high=56), W),
        ("not-square", "3 by 5: the mean is over all entries", d(B, P, low=-56, high=56), d.whole(0, 1, B, P)),
        ("saturated", "every pair wrong, |S| from 24: the only place where log(p + eps) and log(1 - p) show", wrong, W),
        ("beyond", "|S| from 112: e^|S| overflows in float32, a clamp of each logarithm at -100 shows", wrong * [4, 5, 4, 5, 4], W),
        ("far", "|S| from 768: e^|S| overflows in float64", np.where(eye, -1, 1) * d.near([768.0, 1024, 896]), eye),
        ("all-equal", "W all ones: no negative", d(3, 3, low=-56, high=56), eye * 0 + 1),
        ("zero", "S = 0: the loss is ln 2", np.zeros(d.sizes(1, 1)), np.ones(d.sizes(1, 1), int)[:1, :1]),
        ("full", "all 53 bits", d.full(3, 4, low=-96, high=96), d.whole(0, 1, 3, 4)),
    ):  # fmt: skip
        if name == "zero":
            own = d.whole(0, 1, *S.shape) if d.seed else np.ones((1, 1), np.int64)
        yield name, why, {"S": S, "W": own}, "S"


def contrastive_loss(d):
    for name, why, y in (
        ("ordinary", "each direction counts half, and both have a gradient", d.mixed([0, 1, 2, 0, 3])),
        ("all-equal", "every label equal: W is all ones", np.zeros(3)),
        ("all-different", "every label different: W is the identity", np.arange(4)),
        ("one", "a batch of 1", np.zeros(1)),
        ("full", "all 53 bits", d.mixed([0, 1, 2, 0, 3])),
    ):
        draw = d.full if name == "full" else d
        yield name, why, {"S": draw(len(y), len(y), low=-56, high=56), "W": same(y)}, "S"


def concat(d):
    for name, why, draw, plain in (
        ("ordinary", "7 groups of width 2 in the order of the prompts: group after group, as they came", d, (4, 2)),
        ("one", "a batch of 1 keeps its axis", d, (1, 3)),
        ("full", "all 53 bits", d.full, (2, 2)),
    ):  # fmt: skip
        B, n = (1, *d.sizes(3)) if name == "one" else d.sizes(*plain)
        yield name, why, {"I_groups": draw(7, B, n)}, "I_groups"


def total_loss(d):
    for name, why, L_cls, L_con, beta in (
        ("ordinary", "beta multiplies L_con", *d.near([2.84375, 0.71875]).tolist(), 2.0),
        ("other-beta", "beta 0.5: it is not built in", *d.near([0.25, 1.53125]).tolist(), 0.5),
        ("full", "all 53 bits", *d.full(3, low=7, high=60).tolist()),
    ):
        yield name, why, {"L_cls": L_cls, "L_con": L_con, "beta": beta}, "L_cls L_con"


def cross_entropy(d):
    B, K = d.sizes(4, 6)
    c = d.mixed([K - 1, 0, K - 1, 2]) if B == 4 else np.resize(d.mixed([K - 1, 0, K - 1, 2]), B)
    logits = lambda *shape: d(*shape, low=-64, high=64)
    for name, why, c_hat, own in (
        ("ordinary", "a mean over all samples of logits; classes 0 and K - 1 present, one twice", logits(B, K), c),
        ("large", "logits up to 128: e^c_hat overflows in float32, and an epsilon in the logarithm shows", logits(3, K) * 64, d.mixed([1, 4, 4])),
        ("far", "logits up to 2048: e^c_hat overflows in float64", logits(3, 4) * 1024, d.mixed([3, 0, 1])),
        ("one", "a batch of 1", logits(1, 4), d.renamed([2], 4)),
        ("all-equal", "every sample of one class", logits(3, 4), d.renamed([0, 0, 0], 4)),
        ("uniform", "17 equal logits: ln 17", np.zeros((2, 17)), d.renamed([16, 3])),
        ("full", "all 53 bits", d.full(4, 5, low=-96, high=96), d.mixed([4, 1, 1, 0])),
    ):  # fmt: skip
        if name in ("large", "far"):
            own[0] = np.argmin(c_hat[0])  # were all right, the slopes would be nothing but rounding
        yield name, why, {"c_hat": c_hat, "c": own}, "c_hat"


# ---------------------------------------------------------------- III-A, III-B


def sgd(d):
    w, g = d(*d.sizes(5)) + 1 / 64, d(4, 9)
    g = g[:, : len(w)]
    alternate = np.resize([1, 0, 1, 0, 1.0], len(w))
    for name, why, lr, momentum, decay, part in (
        ("plain", "no momentum, no decay: the rate times the gradient is taken off", [0.5] * 4, 0.0, 0.0, 1.0),
        ("momentum", "momentum 0.9 at a constant rate: v = 0.9 v + g, and the first v is g", [0.25] * 4, 0.9, 0.0, 1.0),
        ("decay", "decay w is added to the gradient, whole, beside momentum", [0.25] * 4, 0.9, 0.125, 1.0),
        ("rate-changes", "only here does the place of the rate in the rule show in w", [0.5, 0.125, 0.75, 0.25], 0.9, 0.125, 1.0),
        ("paper", "the paper's 0.0001, 0.9 and 0.002", [0.0001] * 4, 0.9, 0.002, 1.0),
        ("no-gradient", "gradients of 0: the parameter still decays and moves; momentum 0.75 is not built in",
         [0.25] * 4, 0.75, 0.25, alternate * [[1], [1], [0], [1]]),
        ("large", "gradients beyond 1 are not clipped; no momentum", [0.5, 0.25], 0.0, 0.5, 4.0),
    ):  # fmt: skip
        inputs = {"w": w, "gradients": (g * part)[: len(lr)], "lr": np.array(lr)}
        yield name, why, inputs | {"momentum": momentum, "weight_decay": decay}
    inputs = {"w": d.full(4), "gradients": d.full(5, 4), "lr": d.full(5, low=3, high=19)}
    yield "full", "all 53 bits", inputs | {"momentum": 0.8372615243719283, "weight_decay": 0.1129384761029387}


def metrics(d):
    N, *_ = d.sizes(40)
    y, y_hat, agree = d.whole(0, 4, N), d.whole(0, 4, N), d.whole(0, 2, N)
    y = np.where(y == 3, 0, y)
    worse = [(0, 1), (0, 1), (1, 0), (1, 2), (2, 0)]
    few = d.renamed([0, 1, 1, 2, 2, 2, 3], 4)
    many, guess = d.whole(0, 16, 119), d.whole(0, 16, 119)
    for name, why, true, found, K in (
        ("unbalanced", "rows are the truth; class 3, absent from it but predicted, counts in kappa, not in the average",
         y, np.where(agree > 0, y, y_hat), 5),
        ("worse-than-chance", "kappa below 0", *zip(*(worse[i] for i in d.mixed(range(5))), strict=True), 3),
        ("perfect", "all right: OA and kappa are 1", few, few, 4),
        ("one-predicted", "one class predicted for all: kappa 0", few, np.full(len(few), 2), 5),
        ("seventeen", "the 17 classes", many, np.where(d.whole(0, 3, 119) > 0, many, guess), 17),
    ):  # fmt: skip
        yield name, why, {"y": np.array(true), "y_hat": np.array(found), "K": K}


def statistics(d):
    x = scaled_channels(d)
    yield "ordinary", "each channel over samples and pixels together; std is a root, divided by N", {"x": x}
    yield "constant", "a channel without spread has std 0", {"x": without_spread(d, x)}
    yield "full", "all 53 bits", {"x": d.full(2, 2, 3, 2)}


def scaled_channels(d: Draw) -> np.ndarray:
    return d(*d.sizes(3), 2, 2, 3) * [1.0, 4.0, 0.25] + [0.0, 3.0, -1.0]


def without_spread(d: Draw, x: np.ndarray) -> np.ndarray:
    return x * [1, 0, 1] + d.near([0, 0.75, 0])


def standardise(d):
    x = scaled_channels(d)
    given = {"mean": d.near([0.5, 3.0, -1.0]), "std": d.near([0.75, 4.0, 0.25])}
    yield "ordinary", "each channel by its own: centred, then divided by std", {"x": x} | given, "x"
    constant = {"mean": d.near([0.5, 0.5, -1.0]), "std": np.array([0.75, 0.0, 2.0**-9])}
    why = "std 0: divided by 1, so not always 0; and a std of 0.002, to which no eps is added"
    yield "constant", why, {"x": without_spread(d, x)} | constant, "x"
    full = {"x": d.full(2, 2, 2, 3), "mean": d.full(3), "std": d.full(3, low=10, high=42)}
    yield "full", "all 53 bits", full, "x"


def split(d):
    y = np.repeat(np.arange(17), [3 + (k * 7 + d.seed) % 5 for k in range(17)])
    y = y[np.argsort(d.full(len(y)))]
    for name, why, per_class, test in (
        ("all", "2 rows of each class, all others in the test, whose classes are unbalanced", 2, len(y) - 34),
        ("three", "every row of the rarest classes; no row comes twice", 3, len(y) - 51),
        ("too-few", "4 of each class where one has 3: refused", 4, 1),
        ("too-many", "one test row more than are left: refused", 2, len(y) - 33),
    ):
        yield name, why, {"y": y, "per_class": per_class, "test": test, "seed": 47 + d.seed}


def predict(d):
    why = "4 rows, 6 classes from 0; the largest size is not the largest"
    yield "ordinary", why, {"c_hat": d(*d.sizes(4, 6))}
    ties = np.array([[1.0, 2.0, 2.0], [-1.0, -1.0, -2.0], [0.0, 0.0, 0.0], [3.0, 1.0, 3.0]])
    moved = ties * d.near(1.0) + (d.one(1, 40) / 32 if d.seed else 0)
    yield "ties", "of equal logits the first class", {"c_hat": moved}


MAKERS: dict[str, Callable] = {"quick_gelu": gelu} | {
    maker.__name__: maker
    for maker in (
        read_array, band_groups, prompt, pre_tokens, tokenize, linear, conv2d, batch_norm, layer_norm, relu,
        max_pool2d, gelu, attention, similarity, fuse, supervised_matrix, bce, contrastive_loss, concat,
        cross_entropy, total_loss, sgd, metrics, statistics, standardise, split, predict,
    )
}  # fmt: skip

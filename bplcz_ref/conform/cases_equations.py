"""The kit's cases, first part: reading the file, Eqs. (3)-(11), SGD, bands, text. No expected value is here.

Inputs lie on a grid of 1/32 within [-2, 2] where they can, so that float64, float32, float16 and bfloat16 start
from the same numbers. Shapes are not square where the mathematics allows, and labels are unbalanced. To add a
case, yield it here or in cases_encoders.py, and regenerate the vectors.
"""

from collections.abc import Iterator

import numpy as np

from bplcz_ref import paper
from bplcz_ref.conform.kit import Case, grid, whole
from bplcz_ref.conform.ops import FORMULAS


def with_gradient(case: Case, *names: str, of: str | None = None) -> Case:
    """The case, asking for gradients by the inputs `names` of every output, or of the output `of` alone."""
    out = FORMULAS[case.op](FORMULAS, **case.inputs)  # in floats, for the shapes
    outputs = {name: np.shape(y) for name, y in out.items() if of in (None, name)}
    cotangents = {name: grid(f"{case.id} cotangent {name}", shape, -32, 32) for name, shape in outputs.items()}
    return case._replace(cotangents=cotangents, gradients=names)


def cases() -> Iterator[Case]:
    """All of this file, in the order of the vectors."""
    for make in (canaries, similarity, losses, supervised_matrix, sgd, bands, text):
        yield from make()


def canaries() -> Iterator[Case]:
    """Suite 0: read the file right, count bands from 1, do not flip."""
    a = np.array([100 * x + 10 * y + z for x in range(2) for y in range(3) for z in range(4)]).reshape(2, 3, 4)
    yield Case("read_array/digits", "a[x, y, z] = 100 x + 10 y + z: data are row-major", {"a": a}, flag="CANARY")
    sen1 = np.broadcast_to(np.arange(1.0, 9.0), (1, 2, 3, 8)).copy()
    sen2 = np.broadcast_to(np.arange(1.0, 11.0), (1, 2, 3, 10)).copy()
    yield Case(
        "band_groups/index",
        "every band is filled with its own 1-based number",
        {"sen1": sen1, "sen2": sen2},
        flag="CANARY",
    )
    weight = np.zeros((2, 1, 3, 3))
    weight[0, 0, 0, 1], weight[1, 0, 1, 2] = 1, 1
    yield Case(
        "conv2d/one-hot",
        "a kernel with a single 1 moves the picture: down, and to the left",
        {"x": np.arange(1.0, 13.0).reshape(1, 3, 4, 1), "weight": weight, "stride": 1, "padding": 1},
        flag="CANARY",
        shows=("kernel flipped",),
    )


B, P, d, n, K = 4, 3, 5, 7, 6


def similarity() -> Iterator[Case]:
    """Suite 1, II-B2 and Eqs. (3), (4)."""
    features = {"I_i": grid("I_i", (B, d)), "T_i": grid("T_i", (P, d))}
    ordinary = Case("similarity/ordinary", "4 images, 3 prompts: a transpose shows", features)
    yield with_gradient(ordinary, "I_i", "T_i")
    yield Case(
        "similarity/tiny",
        "features of length 2e-6: only here does an epsilon that is added, or inside the root, show",
        {name: x * 2.0**-20 for name, x in features.items()},
        flag="EDGE",
        shows=("epsilon inside the root", "epsilon added to the norm"),
    )
    dead = features["I_i"].copy()
    dead[1] = 0
    yield Case(
        "similarity/zero-feature",
        "a feature of zeros has similarity 0, not nan (its gradient is not asked for)",
        features | {"I_i": dead},
        flag="EDGE",
        shows=("no bound below the norm",),
    )
    seven = {"S_groups": grid("S_groups", (n, B, P), -32, 32), "alpha": 0.25}
    yield with_gradient(Case("fuse/ordinary", "7 groups, alpha 0.25", seven), "S_groups")
    three = {"S_groups": grid("S_groups 3", (3, 2, 5), -32, 32), "alpha": 0.75}
    yield with_gradient(Case("fuse/other-alpha", "3 groups, alpha 0.75: neither is built in", three), "S_groups")


def losses() -> Iterator[Case]:
    """Suite 1, Eqs. (6)-(11)."""
    W = np.array([[1, 0, 0, 1, 0], [0, 1, 0, 0, 0], [0, 0, 1, 0, 0], [1, 0, 0, 1, 0], [0, 0, 0, 0, 1]])
    S = grid("S", (5, 5), -56, 56)
    yield with_gradient(Case("bce/ordinary", "logits within alpha n = 1.75", {"S": S, "W": W}), "S")
    wide = {"S": grid("S wide", (3, 5), -56, 56), "W": whole("W wide", (3, 5), 0, 1)}
    yield with_gradient(Case("bce/not-square", "3 by 5: the mean is over 15", wide), "S")
    saturated = np.where(W == 1, -1, 1) * np.array([40.0, 24.0, 32.0, 28.0, 36.0])
    case = Case(
        "bce/saturated",
        "every pair wrong with |S| from 24 to 40: the only place where log(p + eps) shows",
        {"S": saturated, "W": W},
        flag="EDGE",
        shows=("log(p + 1e-8)", "of probabilities in float32, as by torch.nn.BCELoss"),
    )
    yield with_gradient(case, "S")
    case = Case(
        "bce/beyond",
        "|S| from 112 to 180: e^|S| overflows in float32, a clamp of each logarithm at -100 shows",
        {"S": saturated * np.array([4.0, 5.0, 4.0, 5.0, 4.0]), "W": W},
        flag="EDGE",
        shows=("each logarithm at least -100",),
    )
    yield with_gradient(case, "S")
    case = Case("contrastive_loss/ordinary", "S_hat is S^T; the gradient has both sides", {"S": S, "W": W})
    yield with_gradient(case, "S")
    features = {"I_groups": grid("I_groups", (n, B, 2))}
    case = Case("concat/ordinary", "7 groups of width 2: group-major, not feature-major", features)
    yield with_gradient(case, "I_groups")
    case = Case("total_loss/ordinary", "beta 2", {"L_cls": 2.84375, "L_con": 0.71875, "beta": 2.0})
    yield with_gradient(case, "L_cls", "L_con")
    case = Case("total_loss/other-beta", "beta 0.5", {"L_cls": 0.25, "L_con": 1.53125, "beta": 0.5})
    yield with_gradient(case, "L_cls", "L_con")
    logits = {"c_hat": grid("c_hat", (B, K), -64, 64), "c": np.array([5, 0, 5, 2])}
    case = Case("cross_entropy/ordinary", "classes 0 and K - 1 present, one twice", logits)
    yield with_gradient(case, "c_hat")
    large = {"c_hat": grid("c_hat large", (3, K), -64, 64) * 64, "c": np.array([1, 4, 4])}
    case = Case("cross_entropy/large", "logits up to 128: e^c_hat overflows in float32", large, flag="EDGE")
    yield with_gradient(case, "c_hat")


def supervised_matrix() -> Iterator[Case]:
    """Suite 2: Eq. (5)."""
    for name, why, y in (
        ("duplicates", "three classes for six samples, not sorted", [3, 8, 3, 16, 8, 3]),
        ("one-class", "all ones", [4, 4, 4]),
        ("all-different", "the identity: without duplicates nothing tells W from I", [2, 0, 16, 9]),
        ("neighbours", "labels that differ by one", [0, 1, 1, 2, 16, 15]),
    ):
        yield Case(f"supervised_matrix/{name}", why, {"y": np.array(y)})


def sgd() -> Iterator[Case]:
    """Suite 3: four steps with momentum, decay, and a rate that changes."""
    w, g = grid("sgd w", (5,)), grid("sgd g", (4, 5))
    for name, why, lr, momentum, decay, shows in (
        ("plain", "no momentum, no decay", [0.5] * 4, 0.0, 0.0, ()),
        ("momentum", "momentum 0.9 at a constant rate", [0.25] * 4, 0.9, 0.0, ("Nesterov",)),
        ("decay", "momentum and decay", [0.25] * 4, 0.9, 0.125, ("decoupled decay",)),
        (
            "rate-changes",
            "everything on and the rate changing: only here does its place in the rule show in w",
            [0.5, 0.125, 0.75, 0.25],
            0.9,
            0.125,
            ("rate inside the velocity",),
        ),
        ("paper", "the paper's 0.0001, 0.9 and 0.002", [0.0001] * 4, 0.9, 0.002, ()),
    ):
        inputs = {"w": w, "gradients": g, "lr": np.array(lr), "momentum": momentum, "weight_decay": decay}
        yield Case(f"sgd/{name}", why, inputs, shows=shows)


def bands() -> Iterator[Case]:
    """Suite 4."""
    sen1 = np.arange(2 * 2 * 3 * 8).reshape(2, 2, 3, 8) * 1.0
    sen2 = 100 + np.arange(2 * 2 * 3 * 10).reshape(2, 2, 3, 10) * 1.0
    why = "no two values alike: an order of pixels or samples shows too"
    yield Case("band_groups/all-different", why, {"sen1": sen1, "sen2": sen2})


def text() -> Iterator[Case]:
    """Suite 5: prompts of the paper's own three descriptions, pieces, ids."""
    for k in (0, 8, 16):
        for group in paper.GROUPS:
            identity = paper.CLASSES[k][0]
            why = f"class index {k} is LCZ {identity}"
            yield Case(f"prompt/{identity}-{group}", why, {"class_index": k, "group": group})
    samples = {
        "words": ("compact high-rise", "a hyphen is a piece"),
        "capitals": ("Dense TREES and Water", "lower case first"),
        "numbers": ("12,117 samples in 2024", "each digit is a piece"),
        "contractions": ("it's what they'll map, don't", "'s 'll 't are pieces"),
        "accents": ("Café naïve Zürich", "two bytes a letter"),
        "emoji": ("a wave 👋 of water", "four bytes a character"),
        "spaces": ("  short \t wave\n infrared  ", "whitespace only separates"),
        "entities": ("built &amp;amp; paved &lt;b&gt;", "entities are resolved twice"),
        "punctuation": ("lakes, or seas...(blue)!", "runs of what is no letter and no number"),
        "empty": ("", "no piece at all"),
        "example": (paper.EXAMPLE_PROMPT, "the prompt that the paper prints"),
    }
    for name, (sample, why) in samples.items():
        yield Case(f"pre_tokens/{name}", why, {"text": sample})
        context = 77 if name == "example" else 32
        yield Case(f"tokenize/{name}", why, {"text": sample, "context": context, "truncate": 0})
    long = "bare soil or sand and bare rock or paved"
    for name, why, sample, context, truncate in (
        ("too-long", "more tokens than the context: refused (the answer is refused = 1)", long, 6, 0),
        ("cut", "cut to the context, the last id set to EOT", long, 6, 1),
        ("exact-fit", "SOT, three bytes, EOT fill the context to its end", "; 7 7", 5, 0),
    ):
        inputs = {"text": sample, "context": context, "truncate": truncate}
        yield Case(f"tokenize/{name}", why, inputs, flag="EDGE")

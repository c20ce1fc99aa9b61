"""The kit's cases: names, inputs, cotangents and the reason for each. No expected value stands here.

Inputs lie on a grid of 1/32 within [-2, 2] where they can, so that float64, float32, float16 and bfloat16
start from the same numbers; shapes are not square where the mathematics allows, labels are unbalanced.
Numbers come from a small generator of our own, seeded by a name: the same on every platform and with every
version of NumPy.
"""

import zlib
from typing import NamedTuple

import numpy as np

from bplcz_ref import paper


class Case(NamedTuple):
    id: str
    op: str
    why: str
    inputs: dict  # name -> float array, int array, number or text
    cotangents: dict = {}  # output -> float array; empty where no gradient is asked for
    gradients: tuple = ()  # the inputs whose gradients are asked for
    flag: str = "ORDINARY"  # or CANARY, EDGE
    shows: tuple = ()  # wrong readings that this case is there for
    taps: tuple = ()  # outputs kept of an operation with many; all where empty


def grid(name, shape, low=-48, high=48):
    """Numbers k / 32 with whole k from low to high, from a linear congruential generator seeded by `name`."""
    state, numbers = zlib.crc32(name.encode()), []
    for _ in range(int(np.prod(shape))):
        state = (6364136223846793005 * state + 1442695040888963407) % 2**64
        numbers.append((low + (state >> 33) % (high - low + 1)) / 32)
    return np.array(numbers).reshape(shape)


def whole(name, shape, low, high):
    """Whole numbers from low to high."""
    return np.rint(32 * grid(name, shape, low, high)).astype(np.int64)


def with_gradient(case, outputs, gradients):
    """The case with a cotangent on the grid for each output {name: shape}."""
    cotangents = {name: grid(f"{case.id} cotangent {name}", shape, -32, 32) for name, shape in outputs.items()}
    return case._replace(cotangents=cotangents, gradients=tuple(gradients))


def canaries():
    """Suite 0: read the file right, count bands from 1, do not flip."""
    a = np.array([100 * x + 10 * y + z for x in range(2) for y in range(3) for z in range(4)]).reshape(2, 3, 4)
    yield Case(
        "read_array/digits",
        "read_array",
        "a[x, y, z] = 100 x + 10 y + z: data are row-major",
        {"a": a},
        flag="CANARY",
    )
    sen1 = np.broadcast_to(np.arange(1.0, 9.0), (1, 2, 3, 8)).copy()
    sen2 = np.broadcast_to(np.arange(1.0, 11.0), (1, 2, 3, 10)).copy()
    yield Case(
        "band_groups/index",
        "band_groups",
        "every band is filled with its own 1-based number",
        {"sen1": sen1, "sen2": sen2},
        flag="CANARY",
    )
    weight = np.zeros((2, 1, 3, 3))
    weight[0, 0, 0, 1], weight[1, 0, 1, 2] = 1, 1
    yield Case(
        "conv2d/one-hot",
        "conv2d",
        "a kernel with a single 1 moves the picture: down, and to the left",
        {"x": np.arange(1.0, 13.0).reshape(1, 3, 4, 1), "weight": weight, "stride": 1, "padding": 1},
        flag="CANARY",
        shows=("kernel flipped",),
    )


def equations():
    """Suite 1: Eqs. (3)-(11), each isolated, value and gradient."""
    B, P, d, n, K = 4, 3, 5, 7, 6
    sizes = {"S_i": (B, P), "S_hat_i": (P, B)}
    both = {"I_i": grid("I_i", (B, d)), "T_i": grid("T_i", (P, d))}
    yield with_gradient(
        Case("similarity/ordinary", "similarity", "4 images, 3 prompts: a transpose shows", both), sizes, both
    )
    tiny = {"I_i": grid("I_i", (B, d)) * 2.0**-20, "T_i": grid("T_i", (P, d)) * 2.0**-20}
    yield Case(
        "similarity/tiny",
        "similarity",
        "features of length 2e-6: only here does an epsilon that is added, or inside the root, show",
        tiny,
        flag="EDGE",
        shows=("epsilon inside the root", "epsilon added to the norm"),
    )
    dead = {"I_i": grid("I_i", (B, d)), "T_i": grid("T_i", (P, d))}
    dead["I_i"][1] = 0
    yield Case(
        "similarity/zero-feature",
        "similarity",
        "a feature of zeros has similarity 0, not nan (its gradient is not asked for)",
        dead,
        flag="EDGE",
        shows=("no bound below the norm",),
    )
    groups = {"S_groups": grid("S_groups", (n, B, P), -32, 32), "alpha": 0.25}
    yield with_gradient(Case("fuse/ordinary", "fuse", "7 groups, alpha 0.25", groups), {"S": (B, P)}, ["S_groups"])
    three = {"S_groups": grid("S_groups 3", (3, 2, 5), -32, 32), "alpha": 0.75}
    yield with_gradient(
        Case("fuse/other-alpha", "fuse", "3 groups, alpha 0.75: neither is built in", three),
        {"S": (2, 5)},
        ["S_groups"],
    )
    W = np.array([[1, 0, 0, 1, 0], [0, 1, 0, 0, 0], [0, 0, 1, 0, 0], [1, 0, 0, 1, 0], [0, 0, 0, 0, 1]])
    S = grid("S", (5, 5), -56, 56)
    yield with_gradient(
        Case("bce/ordinary", "bce", "logits within alpha n = 1.75", {"S": S, "W": W}), {"L": ()}, ["S"]
    )
    wide = {"S": grid("S wide", (3, 5), -56, 56), "W": whole("W wide", (3, 5), 0, 1)}
    yield with_gradient(Case("bce/not-square", "bce", "3 by 5: the mean is over 15", wide), {"L": ()}, ["S"])
    saturated = np.where(W == 1, -1, 1) * np.array([40.0, 24.0, 32.0, 28.0, 36.0])
    yield with_gradient(
        Case(
            "bce/saturated",
            "bce",
            "every pair wrong with |S| from 24 to 40: the only place where log(p + eps) shows",
            {"S": saturated, "W": W},
            flag="EDGE",
            shows=("log(p + 1e-8)", "of probabilities in float32, as by torch.nn.BCELoss"),
        ),
        {"L": ()},
        ["S"],
    )
    beyond = saturated * np.array([4.0, 5.0, 4.0, 5.0, 4.0])
    yield with_gradient(
        Case(
            "bce/beyond",
            "bce",
            "|S| from 112 to 180: e^|S| overflows in float32, a clamp of each logarithm at -100 shows",
            {"S": beyond, "W": W},
            flag="EDGE",
            shows=("each logarithm at least -100",),
        ),
        {"L": ()},
        ["S"],
    )
    yield with_gradient(
        Case(
            "contrastive_loss/ordinary",
            "contrastive_loss",
            "S_hat is S^T; the gradient has both sides",
            {"S": S, "W": W},
        ),
        {"L_i2t": (), "L_t2i": (), "L_con": ()},
        ["S"],
    )
    features = {"I_groups": grid("I_groups", (n, B, 2))}
    yield with_gradient(
        Case("concat/ordinary", "concat", "7 groups of width 2: group-major, not feature-major", features),
        {"I": (B, 2 * n)},
        features,
    )
    yield with_gradient(
        Case("total_loss/ordinary", "total_loss", "beta 2", {"L_cls": 2.84375, "L_con": 0.71875, "beta": 2.0}),
        {"L": ()},
        ["L_cls", "L_con"],
    )
    yield with_gradient(
        Case("total_loss/other-beta", "total_loss", "beta 0.5", {"L_cls": 0.25, "L_con": 1.53125, "beta": 0.5}),
        {"L": ()},
        ["L_cls", "L_con"],
    )
    logits = {"c_hat": grid("c_hat", (B, K), -64, 64), "c": np.array([5, 0, 5, 2])}
    yield with_gradient(
        Case("cross_entropy/ordinary", "cross_entropy", "classes 0 and K - 1 present, one twice", logits),
        {"L_cls": ()},
        ["c_hat"],
    )
    large = {"c_hat": grid("c_hat large", (3, K), -64, 64) * 64, "c": np.array([1, 4, 4])}
    yield with_gradient(
        Case(
            "cross_entropy/large",
            "cross_entropy",
            "logits up to 128: e^c_hat overflows in float32",
            large,
            flag="EDGE",
        ),
        {"L_cls": ()},
        ["c_hat"],
    )


def supervised_matrix():
    """Suite 2: Eq. (5)."""
    for name, why, y in (
        ("duplicates", "three classes for six samples, not sorted", [3, 8, 3, 16, 8, 3]),
        ("one-class", "all ones", [4, 4, 4]),
        ("all-different", "the identity: without duplicates nothing tells W from I", [2, 0, 16, 9]),
        ("neighbours", "labels that differ by one", [0, 1, 1, 2, 16, 15]),
    ):
        yield Case(f"supervised_matrix/{name}", "supervised_matrix", why, {"y": np.array(y)})


def sgd():
    """Suite 3: three and four steps with momentum, decay, and a rate that changes."""
    w, g = grid("sgd w", (5,)), grid("sgd g", (4, 5))
    for name, why, lr, momentum, decay, shows in (
        ("plain", "no momentum, no decay", [0.5, 0.5, 0.5, 0.5], 0.0, 0.0, ()),
        ("momentum", "momentum 0.9 at a constant rate", [0.25, 0.25, 0.25, 0.25], 0.9, 0.0, ("Nesterov",)),
        ("decay", "momentum and decay", [0.25, 0.25, 0.25, 0.25], 0.9, 0.125, ("decoupled decay",)),
        (
            *(
                "rate-changes",
                "everything on and the rate changing: only here does its place in the rule show in w",
            ),
            *([0.5, 0.125, 0.75, 0.25], 0.9, 0.125, ("rate inside the velocity",)),
        ),
        ("paper", "the paper's 0.0001, 0.9 and 0.002", [0.0001] * 4, 0.9, 0.002, ()),
    ):
        inputs = {"w": w, "gradients": g, "lr": np.array(lr), "momentum": momentum, "weight_decay": decay}
        yield Case(f"sgd/{name}", "sgd", why, inputs, shows=shows)


def bands():
    """Suite 4."""
    sen1 = np.arange(2 * 2 * 3 * 8).reshape(2, 2, 3, 8) * 1.0
    sen2 = 100 + np.arange(2 * 2 * 3 * 10).reshape(2, 2, 3, 10) * 1.0
    yield Case(
        "band_groups/all-different",
        "band_groups",
        "no two values alike: an order of pixels or samples shows too",
        {"sen1": sen1, "sen2": sen2},
    )


def text():
    """Suite 5: prompts of the paper's own three descriptions, pieces, ids."""
    for k in (0, 8, 16):
        for group in paper.GROUPS:
            yield Case(
                f"prompt/{paper.CLASSES[k][0]}-{group}",
                "prompt",
                f"class index {k} is LCZ {paper.CLASSES[k][0]}",
                {"class_index": k, "group": group},
            )
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
        yield Case(f"pre_tokens/{name}", "pre_tokens", why, {"text": sample})
        context = 77 if name == "example" else 32
        yield Case(f"tokenize/{name}", "tokenize", why, {"text": sample, "context": context, "truncate": 0})
    long = "bare soil or sand and bare rock or paved"
    yield Case(
        "tokenize/too-long",
        "tokenize",
        "more tokens than the context: refused (the answer is refused = 1)",
        {"text": long, "context": 6, "truncate": 0},
        flag="EDGE",
    )
    yield Case(
        "tokenize/cut",
        "tokenize",
        "cut to the context, the last id set to EOT",
        {"text": long, "context": 6, "truncate": 1},
        flag="EDGE",
    )
    yield Case(
        "tokenize/exact-fit",
        "tokenize",
        "SOT, three bytes, EOT fill the context to its end",
        {"text": "; 7 7", "context": 5, "truncate": 0},
        flag="EDGE",
    )

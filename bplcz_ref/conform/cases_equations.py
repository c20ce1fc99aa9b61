"""The kit's cases, first part: reading the file, Eqs. (3)-(11), SGD, bands. No expected value is here.

Ordinary inputs lie on a grid of 1/32 within [-2, 2], so that float64, float32, float16 and bfloat16 start from the
same numbers. Inputs of the cases with the flag PRECISION have all 53 bits of float64: only there does rounding to
a coarser dtype show. Shapes are not square where the mathematics allows, and labels are unbalanced. To add a case,
yield it here or in cases_encoders.py, name the clause that it shows in clauses.py, and regenerate the vectors.
"""

from collections.abc import Iterator

import numpy as np

from bplcz_ref.conform.kit import Case, full, grid, whole
from bplcz_ref.conform.ops import FORMULAS


def with_gradient(case: Case, *names: str, of: str | None = None) -> Case:
    """The case, asking for gradients by the inputs `names` of every output, or of the output `of` alone."""
    out = FORMULAS[case.op](FORMULAS, **case.inputs)  # in floats, for the shapes
    outputs = {name: np.shape(y) for name, y in out.items() if of in (None, name)}
    draw = full if case.flag == "PRECISION" else lambda name, shape: grid(name, shape, -32, 32)
    cotangents = {name: draw(f"{case.id} cotangent {name}", shape) for name, shape in outputs.items()}
    return case._replace(cotangents=cotangents, gradients=names)


def precise(name: str, inputs: dict, *gradients: str, of: str | None = None, why: str = "") -> Case:
    """A case whose floats have 53 bits: `op/full`."""
    why = why or "all 53 bits: rounding of inputs, products or sums to a coarser dtype shows"
    case = Case(name, why, inputs, flag="PRECISION")
    return with_gradient(case, *gradients, of=of) if gradients else case


def cases() -> Iterator[Case]:
    """All of this file, in the order of the vectors."""
    for make in (canaries, similarity, losses_of_pairs, losses_of_classes, supervised_matrix, sgd, bands):
        yield from make()


def canaries() -> Iterator[Case]:
    """Suite 0: read the file right, count bands from 1, do not flip."""
    a = np.array([100 * x + 10 * y + z for x in range(2) for y in range(3) for z in range(4)]).reshape(2, 3, 4)
    yield Case("read_array/digits", "a[x, y, z] = 100 x + 10 y + z: data are row-major", {"a": a}, flag="CANARY")
    small = grid("read small", (2, 2, 3)) * 1e-5
    why = "numbers with an exponent, as 1e-05"
    yield Case("read_array/exponents", why, {"a": small}, flag="EDGE")
    yield precise("read_array/full", {"a": full("read full", (3, 2, 2))})
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
        "features of length 2e-6: an epsilon that is added, or inside the root, shows in float32 too",
        {name: x * 2.0**-20 for name, x in features.items()},
        flag="EDGE",
        shows=("epsilon inside the root", "epsilon added to the norm"),
    )
    case = Case(
        "similarity/between",
        "lengths of some 1e-10, between 1e-12 and 1e-8: they are still brought to 1",
        {name: x * 2.0**-34 for name, x in features.items()},
        flag="EDGE",
        shows=("bound 1e-8, as of torch.nn.CosineSimilarity",),
        needs=1e-12,
    )
    yield with_gradient(case, "I_i", "T_i")
    case = Case(
        "similarity/below",
        "lengths of some 1e-14 are divided by 1e-12, and so is their gradient",
        {"I_i": features["I_i"] * 2.0**-47, "T_i": features["T_i"]},
        flag="EDGE",
        shows=("no bound below the norm",),
        needs=1e-12,
    )
    yield with_gradient(case, "I_i", "T_i")
    dead = features["I_i"].copy()
    dead[1] = 0
    yield Case(
        "similarity/zero-feature",
        "a feature of zeros has similarity 0, not nan (its gradient is not asked for)",
        features | {"I_i": dead},
        flag="EDGE",
        shows=("no bound below the norm",),
        needs=1e-12,
    )
    lengths = np.array([[2.0**-9], [1.0], [2.0**9], [2.0**4]])
    case = Case("similarity/lengths", "lengths from 0.003 to 800", features | {"I_i": features["I_i"] * lengths})
    yield with_gradient(case, "I_i", "T_i")
    one = {"I_i": grid("I one", (1, 3)), "T_i": grid("T one", (1, 3))}
    yield with_gradient(Case("similarity/one", "one image, one prompt", one, flag="EDGE"), "I_i", "T_i")
    yield precise("similarity/full", {"I_i": full("I f", (3, 6)), "T_i": full("T f", (2, 6))}, "I_i", "T_i")
    seven: dict = {"S_groups": grid("S_groups", (n, B, P), -32, 32), "alpha": 0.25}
    yield with_gradient(Case("fuse/ordinary", "7 groups, alpha 0.25", seven), "S_groups")
    three: dict = {"S_groups": grid("S_groups 3", (3, 2, 5), -32, 32), "alpha": 0.75}
    yield with_gradient(Case("fuse/other-alpha", "3 groups, alpha 0.75: neither is built in", three), "S_groups")
    single: dict = {"S_groups": grid("S_groups 1", (1, 1, 1), 8, 32), "alpha": 1.5}
    yield with_gradient(Case("fuse/one", "one group, one pair", single, flag="EDGE"), "S_groups")
    yield precise("fuse/full", {"S_groups": full("S_g f", (7, 2, 3)), "alpha": 0.2871093827101223}, "S_groups")


def losses_of_pairs() -> Iterator[Case]:
    """Suite 1, Eqs. (6)-(8)."""
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
    far = np.where(np.eye(3) == 1, -1, 1) * np.array([768.0, 1024.0, 896.0])
    case = Case(
        "bce/far", "|S| from 768: e^|S| overflows in float64", {"S": far, "W": np.eye(3, dtype=int)}, flag="EDGE"
    )
    yield with_gradient(case, "S")
    ones = {"S": grid("S ones", (3, 3), -56, 56), "W": np.ones((3, 3), int)}
    yield with_gradient(Case("bce/all-equal", "W all ones: no negative", ones, flag="EDGE"), "S")
    one = {"S": np.array([[0.0]]), "W": np.array([[1]])}
    yield with_gradient(Case("bce/zero", "one pair, S = 0: the loss is ln 2", one, flag="EDGE"), "S")
    yield precise("bce/full", {"S": full("bce f", (3, 4), -3, 3), "W": whole("bce W f", (3, 4), 0, 1)}, "S")
    case = Case("contrastive_loss/ordinary", "S_hat is S^T; the gradient has both sides", {"S": S, "W": W})
    yield with_gradient(case, "S")
    for name, why, size, labels in (
        ("all-equal", "every label equal: W is all ones", 3, [0, 0, 0]),
        ("all-different", "every label different: W is the identity", 4, [0, 1, 2, 3]),
        ("one", "a batch of 1", 1, [0]),
    ):
        own = {
            "S": grid(f"S {name}", (size, size), -56, 56),
            "W": FORMULAS["supervised_matrix"]({}, y=labels)["W"],
        }
        yield with_gradient(Case(f"contrastive_loss/{name}", why, own, flag="EDGE"), "S")
    yield precise("contrastive_loss/full", {"S": full("con f", (5, 5), -2, 2), "W": W}, "S")


def losses_of_classes() -> Iterator[Case]:
    """Suite 1, Eqs. (9)-(11)."""
    features = {"I_groups": grid("I_groups", (n, B, 2))}
    case = Case("concat/ordinary", "7 groups of width 2: group-major, not feature-major", features)
    yield with_gradient(case, "I_groups")
    one = {"I_groups": grid("I_groups one", (n, 1, 3))}
    yield with_gradient(Case("concat/one", "a batch of 1 keeps its axis", one, flag="EDGE"), "I_groups")
    yield precise("concat/full", {"I_groups": full("I_groups f", (n, 2, 2))}, "I_groups")
    case = Case("total_loss/ordinary", "beta 2", {"L_cls": 2.84375, "L_con": 0.71875, "beta": 2.0})
    yield with_gradient(case, "L_cls", "L_con")
    case = Case("total_loss/other-beta", "beta 0.5", {"L_cls": 0.25, "L_con": 1.53125, "beta": 0.5})
    yield with_gradient(case, "L_cls", "L_con")
    sums = {"L_cls": 1.3731260127381927, "L_con": 0.8192738401928373, "beta": 1.1729384756102937}
    yield precise("total_loss/full", sums, "L_cls", "L_con")
    logits = {"c_hat": grid("c_hat", (B, K), -64, 64), "c": np.array([5, 0, 5, 2])}
    case = Case("cross_entropy/ordinary", "classes 0 and K - 1 present, one twice", logits)
    yield with_gradient(case, "c_hat")
    large = {"c_hat": grid("c_hat large", (3, K), -64, 64) * 64, "c": np.array([1, 4, 4])}
    case = Case("cross_entropy/large", "logits up to 128: e^c_hat overflows in float32", large, flag="EDGE")
    yield with_gradient(case, "c_hat")
    far = {"c_hat": grid("c_hat far", (3, 4), -64, 64) * 1024, "c": np.array([3, 0, 1])}
    case = Case("cross_entropy/far", "logits up to 2048: e^c_hat overflows in float64", far, flag="EDGE")
    yield with_gradient(case, "c_hat")
    for name, why, rows, c in (
        ("one", "a batch of 1", 1, [2]),
        ("all-equal", "every sample of class 0", 3, [0, 0, 0]),
    ):
        own = {"c_hat": grid(f"c_hat {name}", (rows, 4), -64, 64), "c": np.array(c)}
        yield with_gradient(Case(f"cross_entropy/{name}", why, own, flag="EDGE"), "c_hat")
    equal = {"c_hat": np.zeros((2, 17)), "c": np.array([16, 3])}
    yield with_gradient(Case("cross_entropy/uniform", "17 equal logits: ln 17", equal, flag="EDGE"), "c_hat")
    own = {"c_hat": full("ce f", (4, 5), -3, 3), "c": np.array([4, 1, 1, 0])}
    yield precise("cross_entropy/full", own, "c_hat")


def supervised_matrix() -> Iterator[Case]:
    """Suite 2: Eq. (5)."""
    for name, why, y in (
        ("duplicates", "three classes for six samples, not sorted", [3, 8, 3, 16, 8, 3]),
        ("one-class", "all ones", [4, 4, 4]),
        ("all-different", "the identity: without duplicates nothing tells W from I", [2, 0, 16, 9]),
        ("neighbours", "labels that differ by one", [0, 1, 1, 2, 16, 15]),
        ("one", "a batch of 1", [0]),
        ("all-classes", "17 classes, the first and the last twice", [0, *range(17), 16]),
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
    still = g * np.array([1, 0, 1, 0, 1.0]) * np.array([[1.0], [1.0], [0.0], [1.0]])
    inputs = {"w": w * np.array([1, 1, 0, 1, 1]), "gradients": still, "lr": np.array([0.25] * 4)}
    inputs |= {"momentum": 0.75, "weight_decay": 0.25}
    why = "gradients of 0: the parameter still decays, and the velocity still moves it; momentum 0.75"
    yield Case("sgd/no-gradient", why, inputs, flag="EDGE", shows=("no decay where the gradient is 0",))
    inputs = {"w": w, "gradients": 4 * g[:2], "lr": np.array([0.5, 0.25]), "momentum": 0.0, "weight_decay": 0.5}
    yield Case("sgd/large", "no momentum, decay, gradients beyond 1", inputs, flag="EDGE")
    inputs = {
        "w": full("sgd w f", (4,)),
        "gradients": full("sgd g f", (5, 4)),
        "lr": full("sgd lr f", (5,), 0.1, 0.6),
    }
    inputs |= {"momentum": 0.8372615243719283, "weight_decay": 0.1129384761029387}
    yield precise("sgd/full", inputs)


def bands() -> Iterator[Case]:
    """Suite 4."""
    sen1 = np.arange(2 * 2 * 3 * 8).reshape(2, 2, 3, 8) * 1.0
    sen2 = 100 + np.arange(2 * 2 * 3 * 10).reshape(2, 2, 3, 10) * 1.0
    why = "no two values alike: an order of pixels or samples shows too"
    yield Case("band_groups/all-different", why, {"sen1": sen1, "sen2": sen2})
    yield precise(
        "band_groups/full", {"sen1": full("sen1 f", (1, 2, 2, 8)), "sen2": full("sen2 f", (1, 2, 2, 10))}
    )

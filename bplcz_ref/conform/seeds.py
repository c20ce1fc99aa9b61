"""Fresh cases of the same operations: shapes, values, labels and texts are drawn from a seed, by rule.

The rule: every kind of case of the package with other numbers, other labels and other texts, and more cases whose
shapes are drawn. A set is certified like the package's own: the cases of an operation are drawn again until every
wrong reading of it lies ten budgets away in one of them. The same seed gives the same bytes everywhere.
"""

from collections.abc import Iterator

import numpy as np

from bplcz_ref.conform import generate, kit
from bplcz_ref.conform.cases_equations import precise, with_gradient
from bplcz_ref.conform.kit import Case, full, grid, whole
from bplcz_ref.conform.ops import FORMULAS, OPS

SIZES = {"small": (2, 4), "medium": (3, 7)}  # the least and the largest length of a drawn axis
ATTEMPTS = 20
CHAIN = "training"  # its near misses take minutes: fresh sets have none of them, and grading works some out itself


def fresh(seed: int, size: str = "small") -> dict:
    """{suite: [CASE, ...]} of a seed; ValueError if the draws of an operation do not show all readings."""
    suites: dict = {suite: [] for suite in kit.SUITES}
    draws: dict = {}  # attempt -> all kinds of case of the package with the numbers of that attempt
    for op in OPS:
        for attempt in range(ATTEMPTS):
            with kit.salted(f"seed {seed} {size} {attempt} "):
                if attempt not in draws:
                    draws[attempt] = [case for members in generate.all_cases().values() for case in members]
                cases = [*_again(draws[attempt], op), *_drawn(draws[attempt], op, *SIZES[size])]
                try:
                    made = [generate.as_json(case, near=op != CHAIN) for case in cases]
                except ValueError:  # a case that does not show what it is there for
                    continue
            if op == CHAIN or not any(w.op == op for w in generate.unseen({0: made})):
                break
        else:
            raise ValueError(
                f"seed {seed}: {ATTEMPTS} draws of {op} did not show every wrong reading; take another seed"
            )
        for case in made:
            suites[0 if case["flag"] == "CANARY" else OPS[op].suite].append(case)
    return suites


def blind(suites: dict) -> dict:
    """The same cases without expected values: the outputs that are asked for, by name alone."""
    hidden = lambda case: case | {"expect": dict.fromkeys(case["expect"], {}), "near_misses": []}
    return {suite: [hidden(case) for case in made] for suite, made in suites.items()}


def _integer(name, low, high):
    return int(whole(name, (), low, high)[()])


def _again(cases, op) -> Iterator[Case]:
    """The package's kinds of case, with what `grid` and its like give under the salt, and the rest moved."""
    for case in cases:
        if case.op == op:
            yield case._replace(inputs={name: _moved(case, name) for name in case.inputs})


FIXED = {"heads", "stride", "padding", "train", "context", "truncate", "K", "per_class", "test", "group"}
FIXED |= {"class_index", "ids", "W"}  # what another number would make another kind of case, or would not fit


def _moved(case, name):
    """An input that no salt reaches, changed so that its kind stays: another factor, other labels, other words."""
    x = case.inputs[name]
    if case.flag == "CANARY" or name in FIXED:
        return x
    drawn = f"{case.id} {name}"
    if isinstance(x, str):
        return _text(case, x, drawn)
    if isinstance(x, float):
        return (
            x * (1 + _integer(drawn, 1, 12) / 32) if name != "momentum" else x * (1 - _integer(drawn, 0, 4) / 32)
        )
    if isinstance(x, np.ndarray) and x.dtype.kind == "f":
        return x * (1 + _integer(drawn, 0, 4) / 32)
    if isinstance(x, np.ndarray) and case.op in ("supervised_matrix", "split"):
        return x[np.argsort(full(drawn, x.shape))]
    return x


def _text(case, text, drawn):
    """Words of the text in another order, with a word of our own at one end where the text is long enough."""
    words = text.split(" ")
    if case.flag == "EDGE" or len(words) < 2 or case.op == "prompt":
        return text
    more = ("water", "sea7", "old's", "d'une", "n°5", "Réunion", "roofs!", "tree_a")
    order = np.argsort(full(drawn, (len(words),)))
    return " ".join([*(words[i] for i in order), more[_integer(drawn + " more", 0, len(more) - 1)]])


def _drawn(cases, op, least, most) -> Iterator[Case]:
    """Two more cases with drawn shapes, with all 53 bits and on the grid; gradients as the package's cases ask."""
    if op not in SHAPES:
        return
    asked = next((case for case in cases if case.op == op and case.gradients), Case(op, "", {}))
    of = next(iter(asked.cotangents)) if len(asked.cotangents) == 1 else None
    for n, (draw, low, high) in enumerate(((grid, -48, 48), (full, -1.5, 1.5))):
        size = lambda name, n=n: _integer(f"{op} {n} {name}", least, most)
        array = lambda name, *shape, n=n, draw=draw, ends=(low, high): draw(f"{op} {n} {name}", shape, *ends)
        inputs = SHAPES[op](size, array)
        if draw is full:
            yield precise(f"{op}/drawn-full", inputs, *asked.gradients, of=of, why="drawn shapes, all 53 bits")
        else:
            case = Case(f"{op}/drawn", "drawn shapes", inputs)
            yield with_gradient(case, *asked.gradients, of=of) if asked.gradients else case


# ---------------------------------------------------------------- inputs by size(name) and array(name, *shape)


def _conv(size, array):
    C, k, stride = size("C"), (size("kh") % 3 + 1, size("kw") % 3 + 1), size("stride") % 3 + 1
    x = {"x": array("x", size("B"), size("H") + 3, size("W") + 4, C), "weight": array("w", size("O"), C, *k)}
    return x | {"stride": stride, "padding": size("padding") % 3}


def _linear(size, array):
    d, out = size("d"), size("out")
    return {"x": array("x", size("B"), d), "weight": array("w", out, d), "bias": array("b", out)}


def _batch_norm(size, array):
    C = size("C")
    x = {"x": array("x", size("B"), size("H"), size("W"), C), "weight": array("w", C), "bias": array("b", C)}
    return x | {"running_mean": array("m", C), "running_var": array("v", C) ** 2 + 0.5, "train": 1}


def _layer_norm(size, array):
    d = size("d") + 1
    return {"x": array("x", size("B"), size("L"), d), "weight": array("w", d), "bias": array("b", d)}


def _attention(size, array):
    heads, each = size("heads"), size("each")
    W = heads * each
    x = {"x": array("x", size("B"), size("L"), W) / 4, "in_proj_weight": array("w", 3 * W, W) / 4}
    x |= {"in_proj_bias": array("b", 3 * W), "out_weight": array("ow", W, W), "out_bias": array("ob", W)}
    return x | {"heads": heads}


def _similarity(size, array):
    d = size("d") + 1
    return {"I_i": array("I", size("B"), d), "T_i": array("T", size("P"), d)}


def _fuse(size, array):
    return {"S_groups": array("S", size("n"), size("B"), size("P")), "alpha": size("alpha") / 8}


def _bce(size, array):
    S = array("S", size("B"), size("P"))
    return {"S": S, "W": np.array(array("W", *S.shape) > 0).astype(int)}


def _labels(size, rows, classes):
    return np.array([size(f"label {j}") % classes for j in range(rows)])


def _contrastive(size, array):
    B = size("B")
    W = FORMULAS["supervised_matrix"](FORMULAS, y=_labels(size, B, 2))["W"]
    return {"S": array("S", B, B), "W": W}


def _cross_entropy(size, array):
    B, K = size("B"), size("K")
    return {"c_hat": array("c_hat", B, K), "c": _labels(size, B, K)}


def _sgd(size, array):
    n, steps = size("n"), size("steps")
    drawn = {"w": array("w", n), "gradients": array("g", steps, n), "lr": abs(array("lr", steps)) / 4}
    return drawn | {"momentum": size("momentum") / 8, "weight_decay": size("decay") / 16}


def _rows(size, array):
    return {"x": array("x", size("B"), size("d"))}


SHAPES = {
    "conv2d": _conv,
    "linear": _linear,
    "batch_norm": _batch_norm,
    "layer_norm": _layer_norm,
    "attention": _attention,
    "similarity": _similarity,
    "fuse": _fuse,
    "bce": _bce,
    "contrastive_loss": _contrastive,
    "cross_entropy": _cross_entropy,
    "sgd": _sgd,
    "concat": lambda size, array: {"I_groups": array("I", size("n"), size("B"), size("d"))},
    "max_pool2d": lambda size, array: {"x": array("x", size("B"), 2 * size("H") + 1, size("W"), size("C"))},
    "relu": _rows,
    "gelu": _rows,
    "quick_gelu": _rows,
    "statistics": lambda size, array: {"x": array("x", size("B"), size("H"), size("W"), size("C"))},
}

"""Every number of a tiny batch, by its symbol in the paper, and its gradient: `python -m bplcz_ref explain`.

The batch is made of small whole numbers over 4, so that each line can be followed with pencil and paper. The
features take the place of what encoders would give; everything after them is `in_one_file.objective`, which the
tests hold to the equations that train. docs/mathematics/ works with the same batch.

Index letters: B samples, d = 2 features, n = 7 groups, 3 classes.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from bplcz_ref import in_one_file, paper, prompts

CLASSES = [0, 8, 16]  # compact high-rise, sparsely built, water: the three that Table I prints
PATTERN = [16, 0, 16, 8, 0, 16]  # the labels of the first six samples; more samples repeat them
SAMPLES, LARGEST = 6, paper.BATCH
FEATURES = 2
SHOWN = ("RGB", "VH")  # a multispectral and a radar group


class Batch(NamedTuple):
    """What enters Eq. (3): labels, features by group, and the weights of a linear D without bias."""

    y: np.ndarray  # (B,) class numbers
    c: np.ndarray  # (B,) the same as columns of D
    I_i: dict  # {group: (B, d)}
    T_i: dict  # {group: (B, d)}
    D: np.ndarray  # (n d, 3)


class Line(NamedTuple):
    """A symbol with its formula and its value, under the number of its equation."""

    equation: int
    symbol: str
    formula: str
    value: np.ndarray
    group: str | None = None


def batch(seed: int = paper.SEED, samples: int = SAMPLES) -> Batch:
    """The batch of a seed. Errors: ValueError unless 1 <= samples <= 32 and seed >= 0.

    >>> made = batch()
    >>> made.y.tolist(), made.I_i["NIR"][:2].tolist()
    ([16, 0, 16, 8, 0, 16], [[1.5, -1.0], [1.0, 2.0]])
    """
    if not 1 <= samples <= LARGEST:
        raise ValueError(f"samples: found {samples}, expected 1 to {LARGEST}")
    if seed < 0:
        raise ValueError(f"seed: found {seed}, expected a whole number, 0 or more")
    rng = np.random.default_rng(seed)
    y = np.resize(PATTERN, samples)
    texts = {group: rng.integers(-8, 9, (len(prompts.DESCRIPTIONS), FEATURES)) / 4 for group in paper.GROUPS}
    D = rng.integers(-4, 5, (len(paper.GROUPS) * FEATURES, len(CLASSES))) / 16
    I_i = {group: rng.integers(-8, 9, (samples, FEATURES)) / 4 for group in paper.GROUPS}
    return Batch(y, np.searchsorted(CLASSES, y), I_i, {group: T[y] for group, T in texts.items()}, D)


# Equation, symbol, its formula, the formula of dL/d(symbol); * is a group. In the order of computation.
SYMBOLS = (
    (1, "I_*", "E_m(X_*): here whole numbers over 4 in place of an encoder's",
     "the columns of dL/dI for *, plus (g - u (u . g)) / |I_*|, row by row, g = dL/du_*"),
    (2, "T_*", "E_t(t_*): whole numbers over 4 as well; equal labels share a prompt",
     "(g - v (v . g)) / |T_*|, row by row, g = dL/dv_*"),
    (3, "u_*", "I_* / |I_*|, row by row", "(dL/dS_* + (dL/dS_hat_*)^T) v_*"),
    (3, "v_*", "T_* / |T_*|, row by row", "(dL/dS_* + (dL/dS_hat_*)^T)^T u_*"),
    (3, "S_*", "u_* v_*^T, cosines of images (rows) and texts (columns)", "alpha dL/dS"),
    (3, "S", "alpha (sum of S_i over {n} groups), alpha = {alpha}", "beta/2 (sigma(S) - W) / B^2"),
    (4, "S_hat_*", "v_* u_*^T, the transpose of S_*", "alpha dL/dS_hat"),
    (4, "S_hat", "alpha (sum of S_hat_i over {n} groups), the transpose of S", "beta/2 (sigma(S_hat) - W) / B^2"),
    (5, "W", "1 where labels agree; labels {y}", ""),
    (7, "sigma(S)", "1 / (1 + e^-S), the probability that a pair is positive",
     "beta/2 (sigma(S) - W) / (sigma(S) (1 - sigma(S)) B^2)"),
    (7, "L_i2t", "mean of -(W log sigma(S) + (1 - W) log(1 - sigma(S)))", "beta/2"),
    (8, "sigma(S_hat)", "1 / (1 + e^-S_hat)",
     "beta/2 (sigma(S_hat) - W) / (sigma(S_hat) (1 - sigma(S_hat)) B^2)"),
    (8, "L_t2i", "the same mean with S_hat; equal to L_i2t, because S_hat = S^T and W = W^T", "beta/2"),
    (6, "L_con", "(L_i2t + L_t2i) / 2", "beta"),
    (9, "I", "the features of the groups side by side", "dL/dc_hat D^T"),
    (11, "D", "weights of the linear D, a column for each of the classes {columns}; no bias here",
     "I^T dL/dc_hat"),
    (11, "c_hat", "I D, logits of the classes {columns}", "(softmax(c_hat) - onehot(c)) / B"),
    (11, "L_cls", "mean of -log softmax(c_hat)[c], c = {c}", "1"),
    (10, "L", "L_cls + beta L_con, beta = {beta}", "1"),
)  # fmt: skip


def values(made: Batch) -> tuple[dict, dict]:
    """{symbol: value} and {symbol: dL/d(symbol)}; what each group has is a dict by group."""
    p = {"weight": made.D.T, "bias": np.zeros(len(CLASSES))}
    x, g = in_one_file.objective(p, made.I_i, made.T_i, made.c)
    x |= {"D": made.D, "u_i": {}, "v_i": {}}
    g |= {"D": g["D"]["weight"].T, "S_i": {}, "S_hat_i": {}, "u_i": {}, "v_i": {}}
    g |= {"L": 1.0, "L_cls": 1.0, "L_con": paper.BETA, "L_i2t": paper.BETA / 2, "L_t2i": paper.BETA / 2}
    for S in ("S", "S_hat"):
        x[f"sigma({S})"] = sigma = in_one_file.sigma(x[S])
        g[f"sigma({S})"] = g[S] / (sigma * (1 - sigma))  # the slope of sigma is sigma (1 - sigma)
    for i in made.I_i:
        x["u_i"][i], x["v_i"][i] = (in_one_file.unit_rows(side[i])[0] for side in (made.I_i, made.T_i))
        g["S_i"][i], g["S_hat_i"][i] = paper.ALPHA * g["S"], paper.ALPHA * g["S_hat"]
        both = g["S_i"][i] + g["S_hat_i"][i].T
        g["u_i"][i], g["v_i"][i] = both @ x["v_i"][i], both.T @ x["u_i"][i]
    return x, g


def lines(made: Batch, found: dict, name: str, rows: Sequence[tuple], formula: int) -> list[Line]:
    """The symbols of `found` in the order of the rows, each as `name` puts it, with one of its two formulas."""
    columns = [paper.CLASSES[k][0] for k in CLASSES]
    known = {"n": len(paper.GROUPS), "alpha": paper.ALPHA, "beta": paper.BETA, "columns": columns}
    known |= {"y": made.y.tolist(), "c": made.c.tolist()}
    each = []
    for equation, symbol, *formulas in rows:
        value = found.get(symbol.replace("*", "i"))
        if value is None:  # W has no gradient
            continue
        text = formulas[formula].format(**known)
        for i, x in value.items() if isinstance(value, dict) else [(None, value)]:
            own = i or ""  # the name of the group in the place of *
            called = name.format(symbol).replace("*", own)
            each.append(Line(equation, called, text.replace("*", own), np.asarray(x), i))
    return each


def trace(made: Batch) -> list[Line]:
    """Every symbol in the order in which it is computed.

    >>> [line.symbol for line in trace(batch()) if line.equation in (5, 6, 7)]
    ['W', 'sigma(S)', 'L_i2t', 'L_con']
    """
    return lines(made, values(made)[0], "{}", SYMBOLS, formula=0)


def gradients(made: Batch) -> list[Line]:
    """dL/d(symbol) of every symbol of `trace` except for W, which has none, in the reverse order.

    >>> [line.symbol for line in gradients(batch()) if line.group is None][:5]
    ['dL/dL', 'dL/dL_cls', 'dL/dc_hat', 'dL/dD', 'dL/dI']
    """
    return lines(made, values(made)[1], "dL/d{}", SYMBOLS[::-1], formula=1)


def page(
    equation: int | None = None,
    *,
    groups: Sequence[str] = SHOWN,
    with_gradients: bool = False,
    seed: int = paper.SEED,
    samples: int = SAMPLES,
) -> str:
    """The trace as text, of one equation or of all, for these groups; then the gradients where asked.

    Errors: ValueError for an equation or a group that there is not, and as `batch`.

    >>> print(page(5, samples=3))
    Eq. (5)  W = 1 where labels agree; labels [16, 0, 16]
      1.0000   0.0000   1.0000
      0.0000   1.0000   0.0000
      1.0000   0.0000   1.0000
    >>> print(page(6, with_gradients=True))
    Eq. (6)  L_con = (L_i2t + L_t2i) / 2
      0.7715
    Eq. (6)  dL/dL_con = beta
      2.000000
    """
    if equation not in (None, *range(1, 12)):
        raise ValueError(f"equation: found {equation}, expected 1 to 11, or None for all")
    if unknown := [group for group in groups if group not in paper.GROUPS]:
        raise ValueError(f"groups: found {unknown}, expected names among {', '.join(paper.GROUPS)}")
    made = batch(seed, samples)
    found = trace(made)
    parts = [written(found, equation, groups, digits=4)]
    if with_gradients:
        parts.append(written(gradients(made), equation, groups, digits=6))
    hidden = [group for group in paper.GROUPS if group not in groups]
    if hidden and any(line.group for line in found if equation in (None, line.equation)):
        parts.append(f"Groups not shown: {', '.join(hidden)} (--groups all)")
    return "\n".join(parts)


def written(shown: list[Line], equation: int | None, groups: Sequence[str], digits: int) -> str:
    """Each line as its formula and the rows of its value."""
    text = []
    for number, symbol, formula, value, group in shown:
        if equation in (None, number) and (group is None or group in groups):
            text.append(f"Eq. ({number})  {symbol} = {formula}")
            rows = np.atleast_2d(value) + 0.0  # no -0
            text += ["".join(f"{x:{digits + 4}.{digits}f} " for x in row).rstrip() for row in rows]
    return "\n".join(text)

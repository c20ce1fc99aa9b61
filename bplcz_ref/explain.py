"""Every number of a tiny batch, by its symbol in the paper, and its gradient: `python -m bplcz_ref explain`.

The batch is made of small whole numbers over 4, so that each line can be followed with pencil and paper. The
features take the place of what encoders would give; everything after them is `equations.objective` as it trains.
docs/mathematics/ works with the same batch. Gradients are the formulas that are printed beside them.

Index letters: B samples, d = 2 features, n = 7 groups, 3 classes.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from bplcz_ref import equations, paper, prompts

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


def trace(made: Batch) -> list[Line]:
    """Every symbol in the order in which it is computed.

    >>> [line.symbol for line in trace(batch()) if line.equation in (5, 6, 7)]
    ['W', 'sigma(S)', 'L_i2t', 'L_con']
    """
    y, c, I_i, T_i, D = made
    I = equations.concat(list(I_i.values()))  # Eq. (9)
    t = equations.objective(I_i, T_i, c, I @ D, paper.ALPHA, paper.BETA)
    columns = [paper.CLASSES[k][0] for k in CLASSES]

    def each(equation, symbol, formula, values):  # a line per group
        return [Line(equation, f"{symbol}_{i}", formula.replace("*", i), x, i) for i, x in values.items()]

    u, v = ({i: equations.unit_rows(x) for i, x in side.items()} for side in (I_i, T_i))
    return [
        *each(1, "I", "E_m(X_*): here whole numbers over 4 in place of an encoder's", I_i),
        *each(2, "T", "E_t(t_*): whole numbers over 4 as well; equal labels share a prompt", T_i),
        *each(3, "u", "I_* / |I_*|, row by row", u),
        *each(3, "v", "T_* / |T_*|, row by row", v),
        *each(3, "S", "u_* v_*^T, cosines of images (rows) and texts (columns)", t["S_i"]),
        Line(3, "S", f"alpha (sum of S_i over {len(I_i)} groups), alpha = {paper.ALPHA}", t["S"]),
        *each(4, "S_hat", "v_* u_*^T, the transpose of S_*", t["S_hat_i"]),
        Line(4, "S_hat", f"alpha (sum of S_hat_i over {len(I_i)} groups), the transpose of S", t["S_hat"]),
        Line(5, "W", f"1 where labels agree; labels {y.tolist()}", t["W"]),
        Line(7, "sigma(S)", "1 / (1 + e^-S), the probability that a pair is positive", sigma(t["S"])),
        Line(7, "L_i2t", "mean of -(W log sigma(S) + (1 - W) log(1 - sigma(S)))", t["L_i2t"]),
        Line(8, "sigma(S_hat)", "1 / (1 + e^-S_hat)", sigma(t["S_hat"])),
        Line(8, "L_t2i", "the same mean with S_hat; equal to L_i2t, because S_hat = S^T and W = W^T", t["L_t2i"]),
        Line(6, "L_con", "(L_i2t + L_t2i) / 2", t["L_con"]),
        Line(9, "I", "the features of the groups side by side", I),
        Line(11, "D", f"weights of the linear D, a column for each of the classes {columns}; no bias here", D),
        Line(11, "c_hat", f"I D, logits of the classes {columns}", I @ D),
        Line(11, "L_cls", f"mean of -log softmax(c_hat)[c], c = {c.tolist()}", t["L_cls"]),
        Line(10, "L", f"L_cls + beta L_con, beta = {paper.BETA}", t["L"]),
    ]


def gradients(made: Batch) -> list[Line]:
    """dL/d(symbol) of every symbol of `trace` except for W, which has none, in the reverse order.

    >>> [line.symbol for line in gradients(batch()) if line.group is None][:5]
    ['dL/dL', 'dL/dL_cls', 'dL/dc_hat', 'dL/dD', 'dL/dI']
    """
    x = {line.symbol: line.value for line in trace(made)}
    B, groups = len(made.y), list(made.I_i)
    c_hat = (np.exp(equations.log_softmax(x["c_hat"])) - np.eye(len(CLASSES))[made.c]) / B
    D, I = x["I"].T @ c_hat, c_hat @ made.D.T
    from_D = dict(zip(groups, np.split(I, len(groups), axis=1), strict=True))
    half = paper.BETA / 2
    S, S_hat = (half * (x[f"sigma({symbol})"] - x["W"]) / B**2 for symbol in ("S", "S_hat"))
    both = paper.ALPHA * (S + S_hat.T)  # dL/dS_i + dL/dS_hat_i^T, the same in every group
    u, v = ({i: g @ x[f"{other}_{i}"] for i in groups} for g, other in ((both, "v"), (both.T, "u")))

    def each(equation, symbol, formula, value):
        return [Line(equation, f"dL/d{symbol}_{i}", formula.replace("*", i), value(i), i) for i in groups]

    def of_probabilities(symbol, slope):  # through d sigma / dS = sigma (1 - sigma)
        p = x[f"sigma({symbol})"]
        return Line(
            7 if symbol == "S" else 8,
            f"dL/dsigma({symbol})",
            f"beta/2 (sigma({symbol}) - W) / (sigma({symbol}) (1 - sigma({symbol})) B^2)",
            slope / (p * (1 - p)),
        )

    return [
        Line(10, "dL/dL", "1", np.ones(())),
        Line(11, "dL/dL_cls", "1", np.ones(())),
        Line(11, "dL/dc_hat", "(softmax(c_hat) - onehot(c)) / B", c_hat),
        Line(11, "dL/dD", "I^T dL/dc_hat", D),
        Line(9, "dL/dI", "dL/dc_hat D^T", I),
        Line(6, "dL/dL_con", "beta", np.array(paper.BETA)),
        Line(8, "dL/dL_t2i", "beta/2", np.array(half)),
        of_probabilities("S_hat", S_hat),
        Line(7, "dL/dL_i2t", "beta/2", np.array(half)),
        of_probabilities("S", S),
        Line(4, "dL/dS_hat", "beta/2 (sigma(S_hat) - W) / B^2", S_hat),
        *each(4, "S_hat", "alpha dL/dS_hat", lambda i: paper.ALPHA * S_hat),
        Line(3, "dL/dS", "beta/2 (sigma(S) - W) / B^2", S),
        *each(3, "S", "alpha dL/dS", lambda i: paper.ALPHA * S),
        *each(3, "v", "(dL/dS_* + (dL/dS_hat_*)^T)^T u_*", v.get),
        *each(3, "u", "(dL/dS_* + (dL/dS_hat_*)^T) v_*", u.get),
        *each(2, "T", "(g - v (v . g)) / |T_*|, row by row, g = dL/dv_*", lambda i: turned(made.T_i[i], v[i])),
        *each(
            1,
            "I",
            "the columns of dL/dI for *, plus (g - u (u . g)) / |I_*|, row by row, g = dL/du_*",
            lambda i: from_D[i] + turned(made.I_i[i], u[i]),
        ),
    ]


def turned(x: np.ndarray, g: np.ndarray) -> np.ndarray:  # (B, d), (B, d) -> (B, d)
    """The gradient at x from g, the one at u = x / max(|x|, eps): (g - u (u . g)) / |x|, or g / eps below eps.

    >>> turned(np.array([[3.0, 4.0]]), np.array([[1.0, 0.0]])).round(3).tolist()
    [[0.128, -0.096]]
    """
    length = np.linalg.norm(x, axis=1, keepdims=True)
    r = np.maximum(length, equations.EPS)
    u = x / r
    return (g - u * (u * g).sum(axis=1, keepdims=True) * (length > equations.EPS)) / r


def sigma(s: np.ndarray) -> np.ndarray:
    """1 / (1 + e^-s)."""
    return 1 / (1 + np.exp(-s))


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


def written(lines: list[Line], equation: int | None, groups: Sequence[str], digits: int) -> str:
    """Each line as its formula and the rows of its value."""
    text = []
    for number, symbol, formula, value, group in lines:
        if equation in (None, number) and (group is None or group in groups):
            text.append(f"Eq. ({number})  {symbol} = {formula}")
            rows = np.atleast_2d(value) + 0.0  # no -0
            text += ["".join(f"{x:{digits + 4}.{digits}f} " for x in row).rstrip() for row in rows]
    return "\n".join(text)

"""Every number of a tiny batch, by its symbol in the paper, and its gradient: `python -m bplcz_ref explain`.

The batch is made of small whole numbers over 4, so that each line can be followed with pencil and paper. The
features take the place of what encoders would give; everything after them is `in_one_file.objective`, which the
tests hold to the equations that train. docs/mathematics/ works with the same batch. A line that begins with "pair"
is the arithmetic of image 0 and text 0: one pair, followed from its features to L and back.

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
SHOWN = ("RGB",)


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
    (8, "L_t2i", "the same mean with S_hat; L_i2t again, because S_hat = S^T and W = W^T", "beta/2"),
    (6, "L_con", "(L_i2t + L_t2i) / 2", "beta"),
    (9, "I", "the features of the groups side by side", "dL/dc_hat D^T"),
    (11, "D^T", "weights of the linear D, a row for each of the classes {columns}; no bias here",
     "(dL/dc_hat)^T I"),
    (11, "c_hat", "I D, logits of the classes {columns}", "(softmax(c_hat) - onehot(c)) / B"),
    (11, "L_cls", "mean of -log softmax(c_hat)[c], c = {c}", "1"),
    (10, "L", "L_cls + beta L_con, beta = {beta}", "1"),
)  # fmt: skip
# What the page of all equations leaves out: the direction that repeats the other, and simple slopes.
REPEATED = ("S_hat_*", "S_hat", "sigma(S_hat)")
REPEATED_SLOPES = (*REPEATED, "sigma(S)", "S_*", "L", "L_cls", "L_t2i")


def values(made: Batch) -> tuple[dict, dict]:
    """{symbol: value} and {symbol: dL/d(symbol)}; what each group has is a dict by group."""
    p = {"weight": made.D.T, "bias": np.zeros(len(CLASSES))}
    x, g = in_one_file.objective(p, made.I_i, made.T_i, made.c)
    x |= {"D^T": made.D.T, "u_i": {}, "v_i": {}}
    g |= {"D^T": g["D"]["weight"], "S_i": {}, "S_hat_i": {}, "u_i": {}, "v_i": {}}
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


def trace(made: Batch, gradient: bool = False) -> list[Line]:
    """Every symbol in the order of computation; or dL/d(symbol), for all but W, in the reverse order.

    >>> [line.symbol for line in trace(batch()) if line.equation in (5, 6, 7)]
    ['W', 'sigma(S)', 'L_i2t', 'L_con']
    >>> [line.symbol for line in trace(batch(), gradient=True) if line.group is None][:5]
    ['dL/dL', 'dL/dL_cls', 'dL/dc_hat', 'dL/dD^T', 'dL/dI']
    """
    found, columns = values(made)[gradient], [paper.CLASSES[k][0] for k in CLASSES]
    known = {"n": len(paper.GROUPS), "alpha": paper.ALPHA, "beta": paper.BETA, "columns": columns}
    known |= {"y": made.y.tolist(), "c": made.c.tolist()}
    each = []
    for equation, symbol, *formulas in SYMBOLS[::-1] if gradient else SYMBOLS:
        value = found.get(symbol.replace("*", "i"))
        if value is None:  # W has no gradient
            continue
        name, text = f"dL/d{symbol}" if gradient else symbol, formulas[gradient].format(**known)
        for i, x in value.items() if isinstance(value, dict) else [(None, value)]:
            own = i or ""  # the name of the group in the place of *
            each.append(Line(equation, name.replace("*", own), text.replace("*", own), np.asarray(x), i))
    return each


def pair(made: Batch) -> dict[str, str]:
    """The arithmetic of image 0 and text 0, by symbol."""
    x, g = values(made)
    said, N, alpha = {}, made.y.size**2, paper.ALPHA
    row = lambda numbers: "(" + ", ".join(f"{value:.4f}" for value in numbers) + ")"
    s, sigma, dS = x["S"][0, 0], x["sigma(S)"][0, 0], g["S"][0, 0]
    for i in made.I_i:
        u, v, du = x["u_i"][i][0], x["v_i"][i][0], g["u_i"][i]
        from_S = in_one_file.unit_rows(made.I_i[i])[1](du)[0]
        said[f"u_{i}"] = f"{row(made.I_i[i][0])} / {np.hypot(*made.I_i[i][0]):.4f} = {row(u)}"
        said[f"S_{i}"] = f"{row(u)} . {row(v)} = {u @ v:.4f}"
        said[f"dL/du_{i}"] = f"text 0 gives 2 x {alpha} ({dS:.6f}) {row(v)}, each other text its part as well"
        said[f"dL/dI_{i}"] = f"u . g = {u @ du[0]:.6f}; L_con gives {row(from_S)}, D the columns of dL/dI"
    said["S"] = f"{alpha} ({' '.join(f'{S_i[0, 0]:+.4f}' for S_i in x['S_i'].values())}) = {s:.4f}"
    said["sigma(S)"] = f"1 / (1 + e^{-s:.4f}) = {sigma:.4f}"
    said["L_i2t"] = f"-log {sigma:.4f} / {N} = {-np.log(sigma) / N:.4f}"
    said["dL/dS"] = f"{paper.BETA}/2 ({sigma:.4f} - 1) / {N} = {dS:.6f}, and as much by the other direction"
    return said


def page(
    equation: int | None = None,
    *,
    groups: Sequence[str] = SHOWN,
    with_gradients: bool = False,
    seed: int = paper.SEED,
    samples: int = SAMPLES,
) -> str:
    """The trace as text, of one equation or of all, for these groups; then the gradients where asked.

    Of all equations, what repeats another direction is left out; `equation` shows it.
    Errors: ValueError for an equation or a group that there is not, and as `batch`.

    >>> print(page(5, samples=3))
    Eq. (5)  W = 1 where labels agree; labels [16, 0, 16]
      1.0000   0.0000   1.0000
      0.0000   1.0000   0.0000
      1.0000   0.0000   1.0000
    >>> print(page(6, with_gradients=True))
    Eq. (6)  L_con = (L_i2t + L_t2i) / 2:  0.7715
    Eq. (6)  dL/dL_con = beta:  2.000000
    >>> print(page(7).splitlines()[7])
    pair 0, 0: 1 / (1 + e^0.2415) = 0.4399
    """
    if equation not in (None, *range(1, 12)):
        raise ValueError(f"equation: found {equation}, expected 1 to 11, or None for all")
    if unknown := [group for group in groups if group not in paper.GROUPS]:
        raise ValueError(f"groups: found {unknown}, expected names among {', '.join(paper.GROUPS)}")
    made = batch(seed, samples)
    said, text = pair(made), []
    for gradient in (False, True)[: 1 + with_gradients]:
        hidden, digits = (REPEATED_SLOPES, 6) if gradient else (REPEATED, 4)
        for number, symbol, formula, value, group in trace(made, gradient):
            plain = symbol.removeprefix("dL/d").replace(group or "*", "*")
            if group not in (None, *groups) or (plain in hidden if equation is None else number != equation):
                continue
            rows = [" ".join(f"{x:{digits + 4}.{digits}f}" for x in row) for row in np.atleast_2d(value) + 0.0]
            text.append(f"Eq. ({number})  {symbol} = {formula}" + ("" if value.ndim else f":{rows.pop()}"))
            text += [*rows, *([f"pair 0, 0: {said[symbol]}"] if symbol in said else [])]
    if equation is None:
        text.append("Not shown: S_hat and what comes of it, which repeat S (--equation 4, --equation 8)")
    hidden_groups = [group for group in paper.GROUPS if group not in groups]
    if hidden_groups and equation in (None, 1, 2, 3, 4):
        text.append(f"Groups not shown: {', '.join(hidden_groups)} (--groups all)")
    return "\n".join(text)

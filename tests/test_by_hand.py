"""Numbers worked out by hand, which every form of the mathematics must give: loops, arrays, and the one file."""

import math

import numpy as np
import pytest
from comparing import agree

from bplcz_ref import equations, in_one_file, loops, optim

ln = math.log
A = ln(3)  # sigma(ln 3) = 3/4

OBJECTIVE = (  # two groups, two samples, alpha 0.25, beta 2; c_hat = (0, ln 3), so that softmax is 1/4, 3/4
    {"a": [[3.0, 4.0], [0.0, -2.0]], "b": [[2.0, 0.0], [0.0, 1.0]]},
    {"a": [[1.0, 0.0], [0.0, 5.0]], "b": [[1.0, 0.0], [0.0, 1.0]]},
    [1, 0],
    [[0.0, A], [0.0, A]],
    0.25,
    2,
)
# S_a = [.6 .8; 0 -1], S_b = [1 0; 0 1]: their sum is [1.6 .8; 0 0]
L_CON = (ln(1 + math.exp(-0.4)) + ln(1 + math.exp(0.2)) + 2 * ln(2)) / 4
L_CLS = (ln(4 / 3) + ln(4)) / 2
STEP = (0.9, 0.002)  # momentum, decay

# function, arguments, result
TABLE = [
    # (-18 + 32) / (5 x 10) = .28
    ("similarity", ([[3.0, 4.0], [0.0, -2.0]], [[1.0, 0.0], [0.0, 5.0], [-6.0, 8.0]]),
     ([[0.6, 0.8, 0.28], [0, -1, -0.8]], [[0.6, 0], [0.8, -1], [0.28, -0.8]])),
    ("similarity", ([[0.0, 0.0]], [[3.0, 4.0]]), ([[0]], [[0]])),
    ("fuse", ([[[1.0, -1.0]], [[0.5, 0.5]], [[0.5, 0.0]]], 0.25), [[0.5, -0.125]]),
    ("supervised_matrix", ([16, 2, 16],), [[1, 0, 1], [0, 1, 0], [1, 0, 1]]),
    ("bce", ([[A, A, 0.0], [-A, -A, 0.0]], [[1, 0, 1], [1, 0, 0]]),
     (ln(4 / 3) + ln(4) + ln(4) + ln(4 / 3) + 2 * ln(2)) / 6),
    ("contrastive_loss", ([[A]], [[0.0]], [[1]]), (ln(4 / 3), ln(2), ln(8 / 3) / 2)),
    ("concat", ([[[1.0, 2.0], [5.0, 6.0]], [[3.0], [7.0]]],), [[1, 2, 3], [5, 6, 7]]),
    ("total_loss", (2.5, 0.25, 2), 3),
    # softmax(ln 1, ln 2, ln 5) = 1/8, 2/8, 5/8
    ("cross_entropy", ([[0.0, ln(2), ln(5)], [0.0, ln(2), ln(5)]], [2, 0]), (ln(8 / 5) + ln(8)) / 2),
    ("cross_entropy", ([[0.0] * 17], [16]), ln(17)),
    ("objective", OBJECTIVE,
     ([[0.4, 0.2], [0, 0]], [[0.4, 0], [0.2, 0]], [[1, 0], [0, 1]], *[L_CON] * 3, L_CLS, L_CLS + 2 * L_CON)),
    # g = 1 + .002 x 2 = 1.004 = v;  w = 2 - .1 x 1.004
    ("sgd", ([2.0], [1.0], None, 0.1, *STEP), ([1.8996], [1.004])),
    # g = 1 + .002 x 1.8996;  v = .9 x 1.004 + 1.0037992;  w = 1.8996 - .01 x 1.9073992
    ("sgd", ([1.8996], [1.0], [1.004], 0.01, *STEP), ([1.880526008], [1.9073992])),
]  # fmt: skip
SYMBOLS = ("S", "S_hat", "W", "L_i2t", "L_t2i", "L_con", "L_cls", "L")


def arrays(x):
    """Lists of numbers as arrays, within dicts and lists of matrices too."""
    if isinstance(x, dict):
        return {name: np.array(value) for name, value in x.items()}
    return np.array(x) if isinstance(x, list) else x


def by_loops(name, given):
    found = getattr(loops, name)(*given)
    return tuple(found[symbol] for symbol in SYMBOLS) if name == "objective" else found


def by_arrays(name, given):
    if name == "sgd":
        w, g, v, *rule = map(arrays, given)
        rule = dict(zip(("learning_rate", "momentum", "weight_decay"), rule, strict=True))
        return tuple(tree["w"] for tree in optim.sgd({"w": w}, v if v is None else {"w": v}, {"w": g}, **rule))
    groups = name in ("fuse", "concat")  # a list of arrays, not all of one shape
    given = [list(map(np.array, given[0])), *given[1:]] if groups else map(arrays, given)
    found = getattr(equations, name)(*given)
    return tuple(found[symbol] for symbol in SYMBOLS) if name == "objective" else found


def by_the_file(name, given):
    """What the file has as a function; the rest of Eqs. (3) to (10) is in its objective."""
    given = list(map(arrays, given))
    if name == "similarity":
        S_i, _ = in_one_file.similarity(*given)
        return S_i, S_i.T
    if name in ("bce", "cross_entropy"):
        return getattr(in_one_file, name)(*given)[0]
    if name == "objective":
        I_i, T_i, y, c_hat, *_ = given
        found, _ = in_one_file.objective({"weight": np.zeros((2, 4)), "bias": c_hat[0]}, I_i, T_i, y)
        return tuple(found[symbol] for symbol in SYMBOLS)
    w, g, v, eta, *_ = given
    return in_one_file.sgd(w, v, g, eta)


IN_THE_FILE = ("similarity", "bce", "cross_entropy", "objective", "sgd")
ROWS = [(form, *row) for row in TABLE for form in (by_loops, by_arrays, by_the_file)
        if form is not by_the_file or row[0] in IN_THE_FILE]  # fmt: skip


@pytest.mark.parametrize(
    ("form", "name", "given", "expected"), ROWS, ids=[f"{r[1]} {r[0].__name__}" for r in ROWS]
)
def test_numbers_by_hand(form, name, given, expected):
    assert agree(form(name, given), expected, 1e-15)

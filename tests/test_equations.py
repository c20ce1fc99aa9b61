"""The equations on arrays: against the loops, gradients three ways, extremes, wrong code."""

import inspect
import math
from decimal import Decimal, localcontext

import autograd.numpy as anp
import numpy as np
import pytest
from autograd import grad
from comparing import agree, grid, slopes

from bplcz_ref import equations, in_one_file, loops, paper
from bplcz_ref.conform.mistakes import LISTED
from bplcz_ref.conform.ops import OPS


def decimals(tree):
    if isinstance(tree, (list, tuple)) or np.ndim(tree):
        return [decimals(x) for x in tree]
    return int(tree) if isinstance(tree, (int, np.integer)) else Decimal(float(tree))


# ---------------------------------------------------------------- the loop twin, and mistakes against it
# The features hold a zero row and two short ones, the logits saturate, no matrix is its own transpose.

I_I, T_I = grid(1, 5, 3), grid(2, 4, 3)
I_I[1], T_I[2], T_I[3] = 0, T_I[2] * 2.0**-17, T_I[3] * 2.0**-30
GROUPS = [grid(s, 5, 4) for s in (3, 4, 5)]
S, W = grid(6, 5, 4), np.random.default_rng(7).integers(0, 2, (5, 4))
SATURATED = S * np.where(grid(8, 5, 4) > 1, 400, 1)
Y = np.array([2, 0, 2, 16, 0, 1])
MSM = (Y[:, None] == Y[None, :]).astype(float)
SQUARE, SQUARE_HAT = grid(9, 6, 6), grid(10, 6, 6)
FEATURES = [grid(11, 5, 2), grid(12, 5, 3), grid(13, 5, 1)]
C_HAT, C = grid(14, 5, 4) * 3, np.array([3, 0, 2, 2, 1])

ARGUMENTS = {  # case -> (function, arguments)
    "similarity": ("similarity", (I_I, T_I)),
    "fuse": ("fuse", (GROUPS, 0.25)),
    "supervised_matrix": ("supervised_matrix", (Y,)),
    "bce": ("bce", (S, W)),
    "bce, saturated": ("bce", (SATURATED, W)),
    "contrastive_loss": ("contrastive_loss", (SQUARE, SQUARE_HAT, MSM)),
    "contrastive_loss of S": ("contrastive_loss", (SQUARE, SQUARE.T, MSM)),
    "concat": ("concat", (FEATURES,)),
    "concat, 7 groups alike": ("concat", ([grid(s, 5, 2) for s in range(60, 67)],)),
    "total_loss": ("total_loss", (2.5, 0.375, 2)),
    "cross_entropy": ("cross_entropy", (C_HAT, C)),
}


def as_lists(x):
    if isinstance(x, list):
        return [as_lists(part) for part in x]
    return x.tolist() if isinstance(x, np.ndarray) else x


def twin(case):
    name, arguments = ARGUMENTS[case]
    return getattr(loops, name)(*[as_lists(x) for x in arguments])


@pytest.mark.parametrize("case", ARGUMENTS)
def test_array_form_is_the_loop(case):
    name, arguments = ARGUMENTS[case]
    assert agree(getattr(equations, name)(*arguments), twin(case))


OWN = {  # the cases whose inputs the kit's operation takes, where these are not the case of its name alone
    "bce": ("bce", "bce, saturated"),
    "contrastive_loss": ("contrastive_loss of S",),
    "concat": ("concat, 7 groups alike",),
}
OPERATIONS = dict.fromkeys(name for name, _ in ARGUMENTS.values())
MISTAKES = [(op, what) for op in OPERATIONS for what in LISTED[op] if "gradient" not in what]


@pytest.mark.parametrize(("op", "what"), MISTAKES)
def test_a_known_mistake_does_not_pass_the_twin(op, what):
    """The formulas that the kit lists as what people get wrong, on these inputs."""
    passed = []
    for case in OWN.get(op, (op,)):
        given = [np.stack(x) if isinstance(x, list) else x for x in ARGUMENTS[case][1]]
        given = given[::2] if op == "contrastive_loss" else given  # the kit's takes S and W
        with np.errstate(all="ignore"):
            found = LISTED[op][what](**dict(zip(inspect.signature(OPS[op].run).parameters, given, strict=True)))
        passed.append(agree(tuple(found.values()), twin(case), 1e-9))
    assert not all(passed)


def test_the_comparison_sees_nan_and_shapes():
    assert not agree(np.array([np.nan]), np.array([1.0]))
    assert not agree(np.ones((2, 1)), np.ones((1, 2)))
    assert not agree(np.array([1e-9]), np.array([1e-7]))  # small values earn no allowance
    assert agree(np.array([1.0]), np.array([1.0]))


# ---------------------------------------------------------------- gradients, three ways


def weighed(found, weights):
    """The sum of products of two results: arrays, Decimals, or sequences of them."""
    if isinstance(found, (list, tuple)):
        return sum(weighed(a, b) for a, b in zip(found, weights, strict=True))
    return anp.sum(found * weights)


def replaced(given, place, x):
    """`given`, nested sequences, with x at the place."""
    head, *rest = place
    part = replaced(given[head], rest, x) if rest else x
    return [*given[:head], part, *given[head + 1 :]]


G, G_HAT = grid(20, 5, 4), grid(21, 4, 5)
PLAIN_I, PLAIN_T = grid(22, 5, 3) + 0.015625, grid(23, 4, 3) + 0.015625  # no zero row
M = G + G_HAT.T
SIDES = (SQUARE[:3, :3], SQUARE_HAT[:3, :3], MSM[:3, :3])
GRADIENTS = {  # name: (function, arguments, place of the input, weights of the output, the same by the one file)
    "similarity, I_i": ("similarity", (PLAIN_I, PLAIN_T), (0,), (G, G_HAT),
                        lambda: in_one_file.similarity(PLAIN_I, PLAIN_T)[1](M)[0]),
    "similarity, T_i": ("similarity", (PLAIN_I, PLAIN_T), (1,), (G, G_HAT),
                        lambda: in_one_file.similarity(PLAIN_I, PLAIN_T)[1](M)[1]),
    "fuse": ("fuse", (GROUPS, 0.25), (0, 1), G, lambda: 0.25 * G),
    "fuse, alpha": ("fuse", (GROUPS, np.array(0.25)), (1,), G, lambda: (G * sum(GROUPS)).sum()),
    "bce": ("bce", (S, W), (0,), 3, lambda: in_one_file.bce(S, W)[1](3)),
    "contrastive_loss, S": ("contrastive_loss", SIDES, (0,), (0, 0, 3),
                            lambda: in_one_file.bce(SIDES[0], SIDES[2])[1](1.5)),
    "contrastive_loss, S_hat": ("contrastive_loss", SIDES, (1,), (0, 0, 3),
                                lambda: in_one_file.bce(SIDES[1], SIDES[2])[1](1.5)),
    "concat": ("concat", (FEATURES,), (0, 1), grid(24, 5, 6), lambda: grid(24, 5, 6)[:, 2:5]),
    "total_loss, L_con": ("total_loss", (2.5, np.array(0.375), 2), (1,), 3, lambda: np.array(6.0)),
    "cross_entropy": ("cross_entropy", (C_HAT, C), (0,), 3, lambda: in_one_file.cross_entropy(C_HAT, C)[1](3)),
}  # fmt: skip


@pytest.mark.parametrize("name", GRADIENTS)
def test_gradient_by_autograd_by_hand_and_by_differences_in_50_digits(name):
    function, given, place, weights, by_hand = GRADIENTS[name]
    x = given[place[0]] if len(place) == 1 else given[place[0]][place[1]]

    def by_arrays(x):
        return weighed(getattr(equations, function)(*replaced(given, place, x)), weights)

    def by_loops(x):
        found = getattr(loops, function)(*replaced(decimals(given), place, x.tolist()))
        return weighed(found, decimals(weights))

    found = grad(by_arrays)(x)
    with localcontext() as context:
        context.prec = 50
        exact = slopes(by_loops, np.array(decimals(x), object), Decimal("1e-16")).astype(float)
    assert agree(found, by_hand(), 1e-13)
    assert agree(found, exact, 1e-13)
    assert not agree(1.001 * found, exact, 1e-8)  # a wrong factor would show


def test_the_objective_is_the_loop_and_its_gradient_the_one_by_hand():
    """Eqs. (3)-(11) together: every symbol against the loops, the gradients of all features by in_one_file."""
    y = np.array([1, 0, 1, 2])
    I = {i: grid(30 + i, 4, 3) + 0.015625 for i in range(3)}
    T = {i: (grid(40 + i, 3, 3) + 0.015625)[y] for i in range(3)}
    D = grid(50, 9, 3)

    def trace(I, T):
        c_hat = equations.concat(list(I.values())) @ D
        return equations.objective(I, T, y, c_hat, paper.ALPHA, paper.BETA) | {"c_hat": c_hat}

    found = trace(I, T)
    lists = [{i: x.tolist() for i, x in side.items()} for side in (I, T)]
    expected = loops.objective(*lists, y.tolist(), found["c_hat"].tolist(), paper.ALPHA, paper.BETA)
    assert list(found) == [*expected, "c_hat"]
    assert np.abs(found["S"]).max() <= 3 * paper.ALPHA  # |S| <= alpha n
    assert abs(found["L_i2t"] - found["L_t2i"]) < 1e-15
    for symbol, value in expected.items():
        ours, theirs = (x if symbol.endswith("_i") else {0: x} for x in (found[symbol], value))
        assert all(agree(ours[i], theirs[i]) for i in theirs), symbol
    _, by_hand = in_one_file.objective({"weight": D.T, "bias": np.zeros(3)}, I, T, y)
    slopes_I, slopes_T = grad(lambda sides: trace(*sides)["L"])((I, T))
    for i in range(3):
        assert agree(slopes_I[i], by_hand["I_i"][i], 1e-13)
        assert agree(slopes_T[i], by_hand["T_i"][i], 1e-13)


# -------------------------------------------- zero features, large logits


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_zero_feature(dtype):
    I, T = np.zeros((2, 3), dtype), np.array([[0, 3, 4]], dtype)
    S_i, S_hat_i = equations.similarity(I, T)
    assert S_i.tolist() == [[0], [0]]
    assert S_hat_i.tolist() == [[0, 0]]
    slope = grad(lambda x: anp.sum(equations.similarity(x, T)[0]))(I)
    assert slope.dtype == dtype
    assert agree(slope, [[0, 6e11, 8e11]] * 2, 1e-6)
    wide_I, wide_T = I.astype(np.float64), T.astype(np.float64)
    assert agree(slopes(lambda x: float(equations.similarity(x, wide_T)[0].sum()), wide_I, 1e-14), slope, 1e-6)
    assert grad(lambda x: anp.sum(equations.similarity(I, x)[0]))(T).tolist() == [[0, 0, 0]]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_large_logits(dtype):
    S, W = np.array([[1e4, -1e4], [1e4, -1e4]], dtype), np.array([[1, 0], [0, 1]])
    with np.errstate(all="raise", under="ignore"):
        assert equations.bce(S, W) == 5e3
        assert grad(equations.bce)(S, W).tolist() == [[0, 0], [0.25, -0.25]]
        assert equations.cross_entropy(S, [0, 1]) == 1e4
        assert grad(equations.cross_entropy)(S, [0, 1]).tolist() == [[0, 0], [0.5, -0.5]]
    tail = equations.bce(np.array([[40.0, -40.0]], dtype), np.array([[1, 0]]))
    assert abs(tail / math.exp(-40) - 1) < 1e-5  # softplus(S) - W S would give 0


def test_underflow_is_no_error_whatever_numpy_is_told():
    """e^-1000 is 0: a caller's np.seterr(under="raise") does not stop the objective."""
    one = {"RGB": np.array([[1e-200, 1.0], [1.0, 0.0]])}
    c_hat = np.array([[0.0, -745.0, -1e4], [1e4, 0.0, -700.0]])
    with np.errstate(all="raise"):
        assert np.isfinite(equations.objective(one, one, np.array([2, 0]), c_hat, alpha=1000.0, beta=2)["L"])


# ---------------------------------------------------------------- what is wrong with an input

X, EYE, HALF, ONE_WAY = np.ones((2, 3)), np.eye(2), np.array([[0, 0.5], [0, 1]]), np.array([[1, 1], [0, 1]])
BAD = [  # what checks.py says for each equation; test_checks.py has the rules themselves
    ("similarity", (X, X.T), r"T_i: found shape \(3, 2\), expected \(P, d\) with d = 3, as in I_i"),
    ("fuse", ([], 0.25), "S_groups: found no array"),
    ("fuse", ([X, X.T], 0.25), r"S_groups\[1\]: found shape \(3, 2\), expected \(B, P\) with B = 2"),
    ("supervised_matrix", (np.eye(3, dtype=int),), "y: found shape .* one-hot"),
    ("bce", (X, X.T), r"W: found shape \(3, 2\)"),
    ("bce", (EYE, HALF), r"W: entry \(0, 1\) is 0.5"),
    ("contrastive_loss", (X, X, X), r"S: found shape \(2, 3\), expected \(B, B\)"),
    ("contrastive_loss", (EYE, EYE, ONE_WAY), "W: .*not symmetric"),
    ("contrastive_loss", (EYE, np.eye(3), EYE), "S_hat: found shape"),
    ("concat", ([X, X.T],), r"I_groups\[1\]: found shape"),
    ("total_loss", (np.float32(1), np.float64(1), 2), "L_con: found dtype float64, expected float32, as in L_cls"),
    ("cross_entropy", (X, [0, 3]), "c: row 1 has class 3, expected 0..2"),
]


@pytest.mark.parametrize(("name", "given", "message"), BAD, ids=[f"{name}: {message}" for name, _, message in BAD])
def test_bad_input_is_named(name, given, message):
    with pytest.raises(ValueError, match=message):
        getattr(equations, name)(*given)


def test_groups_as_one_array_or_a_list_within_a_gradient():
    stack = np.stack(GROUPS)
    assert agree(grad(lambda x: anp.sum(G * equations.fuse(x, 0.25)))(stack), np.stack([0.25 * G] * 3))
    for slope in grad(lambda x: anp.sum(G * equations.fuse(x, 0.25)))(GROUPS):
        assert agree(slope, 0.25 * G)

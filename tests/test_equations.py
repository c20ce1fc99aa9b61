"""The equations on arrays: by hand, against loops, gradients four ways, float32, extremes, wrong code."""

import math
from decimal import Decimal, localcontext

import autograd.numpy as anp
import numpy as np
import pytest
from autograd import grad, make_vjp
from comparing import agree, grid, slopes

from bplcz_ref import equations, loops, paper

R = paper.ALPHA * len(paper.GROUPS)  # 1.75


def decimals(tree):
    if isinstance(tree, (list, tuple)):
        return [decimals(x) for x in tree]
    if isinstance(tree, np.ndarray) and tree.ndim:
        return [decimals(x) for x in tree]
    return int(tree) if isinstance(tree, (int, np.integer)) else Decimal(float(tree))


# ---------------------------------------------------------------- literal numbers, no helper


def test_similarity_by_hand():
    I_i, T_i = np.array([[3.0, 4.0], [0.0, -2.0]]), np.array([[1.0, 0.0], [0.0, 5.0], [-6.0, 8.0]])
    S_i, S_hat_i = equations.similarity(I_i, T_i)
    assert np.abs(S_i - [[0.6, 0.8, 0.28], [0.0, -1.0, -0.8]]).max() < 1e-15
    assert np.abs(S_hat_i - [[0.6, 0.0], [0.8, -1.0], [0.28, -0.8]]).max() < 1e-15


def test_fuse_by_hand():  # Eqs. (3), (4)
    S = equations.fuse([np.array([[1.0, -1.0]]), np.array([[0.5, 0.5]]), np.array([[0.5, 0.0]])], 0.25)
    assert S.tolist() == [[0.5, -0.125]]


def test_losses_by_hand():  # Eqs. (6)-(8): sigma(ln 3) = 3/4
    L = equations.contrastive_loss(np.array([[math.log(3)]]), np.array([[0.0]]), np.array([[1]]))
    assert round(float(L.L_i2t), 8) == 0.28768207  # ln(4/3)
    assert round(float(L.L_t2i), 8) == 0.69314718  # ln 2
    assert round(float(L.L_con), 8) == 0.49041463


def test_cross_entropy_by_hand():  # Eq. (11): softmax(ln 1, ln 2, ln 5) = 1/8, 2/8, 5/8
    c_hat = np.log([[1.0, 2.0, 5.0], [1.0, 2.0, 5.0]])
    assert abs(equations.cross_entropy(c_hat, [2, 0]) - (math.log(8 / 5) + math.log(8)) / 2) < 1e-15


# ---------------------------------------------------------------- the loop twin, and wrong code against it
# The features hold a zero row and two short ones, the logits saturate, no matrix is its own transpose.

I_I, T_I = grid(1, 5, 3), grid(2, 4, 3)
I_I[1], T_I[2], T_I[3] = 0, T_I[2] * 2.0**-17, T_I[3] * 2.0**-30
GROUPS = [grid(s, 5, 4) for s in (3, 4, 5)]
S, W = grid(6, 5, 4), np.random.default_rng(7).integers(0, 2, (5, 4))
SATURATED = S * np.where(grid(8, 5, 4) > 1, 400, 1)
Y = np.array([2, 0, 2, 16, 0, 2])
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
    "concat": ("concat", (FEATURES,)),
    "total_loss": ("total_loss", (2.5, 0.375, 2)),
    "cross_entropy": ("cross_entropy", (C_HAT, C)),
}


def as_lists(x):
    return (
        [as_lists(part) for part in x] if isinstance(x, list) else x.tolist() if isinstance(x, np.ndarray) else x
    )


def twin(case):
    name, arguments = ARGUMENTS[case]
    return getattr(loops, name)(*[as_lists(x) for x in arguments])


@pytest.mark.parametrize("case", ARGUMENTS)
def test_array_form_is_the_loop(case):
    name, arguments = ARGUMENTS[case]
    assert agree(getattr(equations, name)(*arguments), twin(case))


def unit(x):
    return x / np.maximum(np.sqrt((x * x).sum(1, keepdims=True)), 1e-12)


def cosine(norm):
    def similarity(I, T):
        u, v = (x / norm((x * x).sum(1, keepdims=True)) for x in (I, T))
        return u @ v.T, v @ u.T

    return similarity


def sigmoid(s):
    with np.errstate(over="ignore"):
        return 1 / (1 + np.exp(-s))


def terms(S, W):
    return np.logaddexp(0, S) - W * S


def bce_eps(S, W):
    p = sigmoid(S)
    return -(W * np.log(p + 1e-8) + (1 - W) * np.log(1 - p + 1e-8)).mean()


def bce_clamped(S, W):  # as where each logarithm is kept above -100
    p = sigmoid(S)
    with np.errstate(divide="ignore"):
        return -(W * np.maximum(np.log(p), -100) + (1 - W) * np.maximum(np.log(1 - p), -100)).mean()


def ce(c_hat, c, reduce=np.mean):
    return reduce(np.log(np.exp(c_hat).sum(1)) - c_hat[np.arange(len(c)), c])


def ce_smoothed(c_hat, c):
    log_p = c_hat - np.log(np.exp(c_hat).sum(1, keepdims=True))
    return 0.9 * ce(c_hat, c) - 0.1 * log_p.mean()


WRONG = [
    ("similarity", "not normalised", lambda I, T: (I @ T.T, T @ I.T)),
    ("similarity", "eps inside the root", cosine(lambda q: np.sqrt(q + 1e-12))),
    ("similarity", "eps added to the norm", cosine(lambda q: np.sqrt(q) + 1e-12)),
    ("similarity", "no eps", cosine(np.sqrt)),
    ("similarity", "eps 1e-4", cosine(lambda q: np.maximum(np.sqrt(q), 1e-4))),
    ("similarity", "sides exchanged", lambda I, T: equations.similarity(I, T)[::-1]),
    ("similarity", "only the images normalised", lambda I, T: (unit(I) @ T.T, T @ unit(I).T)),
    ("similarity", "S_hat not transposed", lambda I, T: (unit(I) @ unit(T).T,) * 2),
    ("fuse", "mean over the groups", lambda S, alpha: alpha * np.mean(S, 0)),
    ("fuse", "alpha left out", lambda S, alpha: np.sum(S, 0)),
    ("fuse", "last group left out", lambda S, alpha: alpha * np.sum(S[:-1], 0)),
    ("fuse", "alpha on the first group only", lambda S, alpha: alpha * S[0] + S[1] + S[2]),
    ("supervised_matrix", "identity", lambda y: np.eye(len(y))),
    ("supervised_matrix", "inverted", lambda y: 1.0 - MSM),
    ("supervised_matrix", "diagonal left out", lambda y: MSM - np.eye(len(y))),
    ("supervised_matrix", "rows normalised", lambda y: MSM / MSM.sum(1, keepdims=True)),
    ("bce", "sum for mean", lambda S, W: terms(S, W).sum()),
    ("bce", "sum over the row", lambda S, W: terms(S, W).sum(1).mean()),
    ("bce", "W inverted", lambda S, W: terms(S, 1 - W).mean()),
    ("bce", "positives only", lambda S, W: (W * terms(S, W)).sum() / W.sum()),
    (
        "bce",
        "positives and negatives weigh the same",
        lambda S, W: (terms(S, W)[W == 1].mean() + terms(S, W)[W == 0].mean()) / 2,
    ),
    ("bce", "base 2", lambda S, W: terms(S, W).mean() / math.log(2)),
    ("bce", "sigmoid twice", lambda S, W: terms(sigmoid(S), W).mean()),
    ("bce, saturated", "log(p + 1e-8)", bce_eps),
    ("bce, saturated", "logarithms clamped", bce_clamped),
    (
        "contrastive_loss",
        "half of one direction",
        lambda S, H, W: (terms(S, W).mean(), 0.0, terms(S, W).mean() / 2),
    ),
    (
        "contrastive_loss",
        "sum of the directions",
        lambda S, H, W: (*[terms(x, W).mean() for x in (S, H)], terms(S, W).mean() + terms(H, W).mean()),
    ),
    ("contrastive_loss", "S for both", lambda S, H, W: (terms(S, W).mean(),) * 3),
    ("contrastive_loss", "directions exchanged", lambda S, H, W: equations.contrastive_loss(H, S, W)),
    ("contrastive_loss", "W = I", lambda S, H, W: equations.contrastive_loss(S, H, np.eye(6))),
    ("concat", "normalised features", lambda I: np.concatenate([unit(x) for x in I], 1)),
    ("concat", "groups reversed", lambda I: np.concatenate(I[::-1], 1)),
    ("concat", "batch axis", lambda I: np.concatenate([x.T for x in I]).reshape(5, 6)),
    ("total_loss", "beta left out", lambda a, b, beta: a + b),
    ("total_loss", "beta on the other term", lambda a, b, beta: beta * a + b),
    ("total_loss", "weighted mean", lambda a, b, beta: (a + beta * b) / (1 + beta)),
    ("cross_entropy", "sum for mean", lambda x, c: ce(x, c, np.sum)),
    ("cross_entropy", "softmax twice", lambda x, c: ce(np.exp(x) / np.exp(x).sum(1, keepdims=True), c)),
    ("cross_entropy", "classes from 1", lambda x, c: ce(x, (c + 1) % 4)),
    ("cross_entropy", "label smoothing", ce_smoothed),
    (
        "cross_entropy",
        "softmax over the batch",
        lambda x, c: (np.log(np.exp(x).sum(0))[c] - x[np.arange(5), c]).mean(),
    ),
]


@pytest.mark.parametrize(("case", "mistake", "wrong"), WRONG, ids=[f"{w[0]}: {w[1]}" for w in WRONG])
def test_wrong_code_does_not_pass_the_twin(case, mistake, wrong):
    with np.errstate(invalid="ignore", divide="ignore"):
        found = wrong(*ARGUMENTS[case][1])
    assert not agree(found, twin(case), tolerance=1e-9), mistake


def test_the_comparison_sees_nan_and_shapes():
    assert not agree(np.array([np.nan]), np.array([1.0]))
    assert not agree(np.ones((2, 1)), np.ones((1, 2)))
    assert not agree(np.array([1e-9]), np.array([1e-7]))  # small values earn no allowance
    assert agree(np.array([1.0]), np.array([1.0]))


# ---------------------------------------------------------------- gradients, four ways


def dot(found, weights):
    return sum(anp.sum(a * b) for a, b in zip(found, weights, strict=True))


def normalise_slope(x, g):
    u = unit(x)
    return (g - u * (u * g).sum(1, keepdims=True)) / np.sqrt((x * x).sum(1, keepdims=True))


def softmax(x):
    return np.exp(x) / np.exp(x).sum(1, keepdims=True)


G, G_HAT = grid(20, 5, 4), grid(21, 4, 5)
PLAIN_I, PLAIN_T = grid(22, 5, 3) + 0.015625, grid(23, 4, 3) + 0.015625  # no zero row
M = G + G_HAT.T
BLOCKS = grid(24, 5, 6)
v = decimals
LOOP = {  # name -> the same function by the loops, of Decimals
    "similarity, I_i": lambda x: weighed(loops.similarity(x, v(PLAIN_T)), (v(G), v(G_HAT))),
    "similarity, T_i": lambda x: weighed(loops.similarity(v(PLAIN_I), x), (v(G), v(G_HAT))),
    "fuse": lambda x: weighed(loops.fuse([v(GROUPS[0]), x, v(GROUPS[2])], 0.25), v(G)),
    "fuse, alpha": lambda x: weighed(loops.fuse(v(GROUPS), x), v(G)),
    "bce": lambda x: 3 * loops.bce(x, v(W)),
    "contrastive_loss, S": lambda x: 3 * loops.contrastive_loss(x, v(SQUARE_HAT), v(MSM))[2],
    "contrastive_loss, S_hat": lambda x: 3 * loops.contrastive_loss(v(SQUARE), x, v(MSM))[2],
    "concat": lambda x: weighed(loops.concat([v(FEATURES[0]), x, v(FEATURES[2])]), v(BLOCKS)),
    "total_loss, L_con": lambda x: 3 * loops.total_loss(Decimal("2.5"), x, 2),
    "cross_entropy": lambda x: 3 * loops.cross_entropy(x, v(C)),
}


def weighed(found, weights):
    """The sum of products of two nested lists of Decimals."""
    if isinstance(found, (list, tuple)):
        return sum(weighed(a, b) for a, b in zip(found, weights, strict=True))
    return found * weights


def slopes_of_decimals(f, x, h=Decimal("1e-16")):
    """df/dx of nested lists by central differences; with 50 digits their error is near 1e-30."""
    if not isinstance(x, list):
        return (f(x + h) - f(x - h)) / (2 * h)
    at = lambda k, z: [*x[:k], z, *x[k + 1 :]]
    return [slopes_of_decimals(lambda z, k=k: f(at(k, z)), entry, h) for k, entry in enumerate(x)]


GRADIENTS = {  # name -> (scalar function of one input, that input, the docstring's formula)
    "similarity, I_i": (
        lambda x: dot(equations.similarity(x, PLAIN_T), (G, G_HAT)),
        PLAIN_I,
        lambda: normalise_slope(PLAIN_I, M @ unit(PLAIN_T)),
    ),
    "similarity, T_i": (
        lambda x: dot(equations.similarity(PLAIN_I, x), (G, G_HAT)),
        PLAIN_T,
        lambda: normalise_slope(PLAIN_T, M.T @ unit(PLAIN_I)),
    ),
    "fuse": (lambda x: anp.sum(G * equations.fuse([GROUPS[0], x, GROUPS[2]], 0.25)), GROUPS[1], lambda: 0.25 * G),
    "fuse, alpha": (
        lambda x: anp.sum(G * equations.fuse(GROUPS, x)),
        np.array(0.25),
        lambda: (G * sum(GROUPS)).sum(),
    ),
    "bce": (lambda x: 3 * equations.bce(x, W), S, lambda: 3 * (sigmoid(S) - W) / 20),
    "contrastive_loss, S": (
        lambda x: 3 * equations.contrastive_loss(x, SQUARE_HAT, MSM).L_con,
        SQUARE,
        lambda: 3 * (sigmoid(SQUARE) - MSM) / 72,
    ),
    "contrastive_loss, S_hat": (
        lambda x: 3 * equations.contrastive_loss(SQUARE, x, MSM).L_con,
        SQUARE_HAT,
        lambda: 3 * (sigmoid(SQUARE_HAT) - MSM) / 72,
    ),
    "concat": (
        lambda x: anp.sum(BLOCKS * equations.concat([FEATURES[0], x, FEATURES[2]])),
        FEATURES[1],
        lambda: BLOCKS[:, 2:5],
    ),
    "total_loss, L_con": (lambda x: 3 * equations.total_loss(2.5, x, 2), np.array(0.375), lambda: np.array(6.0)),
    "cross_entropy": (
        lambda x: 3 * equations.cross_entropy(x, C),
        C_HAT,
        lambda: 3 * (softmax(C_HAT) - np.eye(4)[C]) / 5,
    ),
}


@pytest.mark.parametrize("name", GRADIENTS)
def test_gradient_four_ways(name):
    f, x, formula = GRADIENTS[name]
    found = grad(f)(x)
    with localcontext() as context:
        context.prec = 50
        exact = np.array(slopes_of_decimals(LOOP[name], decimals(x))).astype(float)
    assert agree(found, formula(), 1e-13)
    assert agree(found, exact, 1e-13)
    assert agree(slopes(lambda z: float(f(z)), x), exact, 1e-8)


@pytest.mark.parametrize("factor", [0.5, 1.001, -1.0])
def test_the_gradient_check_rejects_a_wrong_factor(factor):
    for name, (f, x, _) in GRADIENTS.items():
        assert not agree(factor * grad(f)(x), slopes(lambda z, f=f: float(f(z)), x), 1e-8), name


def test_the_objective_is_the_loop_and_its_gradient_the_one_by_hand():
    """Eqs. (3)-(11) together: every symbol against the loops, dL/dI_1 by hand, by autograd and by differences."""
    y, n, alpha, beta = np.array([1, 0, 1, 2]), 3, 0.25, 2
    I = [grid(30 + i, 4, 3) + 0.015625 for i in range(n)]
    T = [(grid(40 + i, 3, 3) + 0.015625)[y] for i in range(n)]
    D, texts = grid(50, n * 3, 3), dict(enumerate(T))

    def trace(x):
        features = {0: x, 1: I[1], 2: I[2]}
        c_hat = equations.concat(list(features.values())) @ D
        return equations.objective(features, texts, y, c_hat, alpha, beta) | {"c_hat": c_hat}

    found = trace(I[0])
    lists = [{i: x.tolist() for i, x in enumerate(side)} for side in (I, T)]
    expected = loops.objective(*lists, y.tolist(), found["c_hat"].tolist(), alpha, beta)
    assert list(found) == [*expected, "c_hat"]
    for symbol, value in expected.items():
        pairs = (
            [(found[symbol][i], x) for i, x in value.items()]
            if symbol.endswith("_i")
            else [(found[symbol], value)]
        )
        assert all(agree(ours, theirs) for ours, theirs in pairs), symbol

    W = equations.supervised_matrix(y)
    S = alpha * sum(unit(a) @ unit(t).T for a, t in zip(I, T, strict=True))
    through_S = normalise_slope(I[0], beta * alpha * (sigmoid(S) - W) / 16 @ unit(T[0]))
    through_D = (softmax(np.concatenate(I, 1) @ D) - np.eye(3)[y]) / 4 @ D[:3].T
    assert agree(grad(lambda x: trace(x)["L"])(I[0]), through_S + through_D, 1e-13)
    assert agree(slopes(lambda x: trace(x)["L"], I[0]), through_S + through_D, 1e-8)


def test_without_prompts_the_objective_is_the_cross_entropy():
    trace = equations.objective({"RGB": X}, None, Y[:5] % 4, C_HAT, 0.25, 2)
    assert trace == {"L_cls": equations.cross_entropy(C_HAT, Y[:5] % 4), "L": trace["L_cls"]}


# -------------------------------------------- float32, zero features, large logits, a batch of one

F = np.float32
ONES = np.eye(3)[[0, 1, 0]] @ np.eye(3)[[0, 1, 0]].T
SINGLE = {  # name -> (function of float32 input(s); coefficients and W are float64 on purpose), inputs
    "similarity": (lambda I, T: dot(equations.similarity(I, T), (F(1), F(2))), (grid(60, 3, 4), grid(61, 2, 4))),
    "fuse": (lambda a, b: anp.sum(equations.fuse([a, b], np.float64(0.25))), (grid(62, 3, 4), grid(63, 3, 4))),
    "bce": (lambda s: equations.bce(s, np.eye(3)), (grid(64, 3, 3),)),
    "contrastive_loss": (
        lambda s, h: equations.contrastive_loss(s, h, ONES).L_con,
        (grid(65, 3, 3), grid(66, 3, 3)),
    ),
    "concat": (lambda a, b: anp.sum(equations.concat([a, b])), (grid(67, 3, 2), grid(68, 3, 4))),
    "total_loss": (lambda a, b: equations.total_loss(a, b, np.float64(2)), (np.array(1.5), np.array(0.5))),
    "cross_entropy": (lambda x: equations.cross_entropy(x, [1, 0, 3]), (grid(69, 3, 4),)),
}


@pytest.mark.parametrize("name", SINGLE)
def test_float32_stays_float32_in_value_and_gradient(name):
    f, inputs = SINGLE[name]
    for q in range(len(inputs)):
        results = {}
        for dtype in (np.float32, np.float64):
            cast = [x.astype(dtype) for x in inputs]
            vjp, value = make_vjp(f, q)(*cast)
            slope = vjp(np.ones_like(value))
            assert value.dtype == dtype
            assert slope.dtype == dtype
            results[dtype] = (value, slope)
        assert agree(results[np.float32], results[np.float64], 2e-6)


def test_the_float32_check_sees_an_up_cast():
    """What equations.py avoids does return float64 gradients; once autograd mends it, avoid it no more."""
    x = grid(70, 3, 4).astype(F)
    assert grad(lambda z: anp.mean(z))(x).dtype == np.float64
    assert grad(lambda z: anp.sum(anp.maximum(z, F(0))))(x).dtype == np.float64


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


def test_batch_of_one():
    S_i, S_hat_i = equations.similarity(np.array([[3.0, 4.0]]), np.array([[4.0, 3.0]]))
    W = equations.supervised_matrix(np.array([5]))
    L = equations.contrastive_loss(equations.fuse([S_i] * 7, 0.25), equations.fuse([S_hat_i] * 7, 0.25), W)
    assert abs(L.L_con - math.log1p(math.exp(-1.75 * 0.96))) < 1e-15
    assert equations.cross_entropy(np.zeros((1, 17)), [16]) == pytest.approx(math.log(17), rel=1e-15)


# ---------------------------------------------------------------- what is wrong with an input

X, X32, EYE = np.ones((2, 3)), np.ones((2, 3), F), np.eye(2)
BAD = [  # what checks.py says for each equation; test_checks.py has the rules themselves
    (
        r"T_i: found shape \(2, 4\), expected \(P, d\) with d = 3, as in I_i",
        lambda: equations.similarity(X, np.ones((2, 4))),
    ),
    ("T_i: found dtype float32, expected float64, as in I_i", lambda: equations.similarity(X, X32)),
    ("S_groups: found no array", lambda: equations.fuse([], 0.25)),
    (r"S_groups\[1\]: found shape \(3, 2\), expected \(B, P\) with B = 2", lambda: equations.fuse([X, X.T], 0.25)),
    ("y: found shape .* one-hot", lambda: equations.supervised_matrix(np.eye(3, dtype=int))),
    (r"W: found shape \(3, 2\)", lambda: equations.bce(X, X.T)),
    (r"W: entry \(0, 1\) is 0.5", lambda: equations.bce(EYE, np.array([[0, 0.5], [0, 1]]))),
    ("W: entry .* is nan", lambda: equations.bce(EYE, np.array([[0, np.nan], [0, 1]]))),
    (r"S: found shape \(2, 3\), expected \(B, B\)", lambda: equations.contrastive_loss(X, X, X)),
    ("W: .*not symmetric", lambda: equations.contrastive_loss(EYE, EYE, np.array([[1, 1], [0, 1]]))),
    ("S_hat: found shape", lambda: equations.contrastive_loss(EYE, np.eye(3), EYE)),
    (r"I_groups\[1\]: found shape", lambda: equations.concat([X, np.ones((3, 1))])),
    (
        "L_con: found dtype float64, expected float32, as in L_cls",
        lambda: equations.total_loss(F(1), np.float64(1), 2),
    ),
    ("L_con: found shape .* expected one number", lambda: equations.total_loss(1.0, EYE, 2)),
    ("c: row 1 has class 3, expected 0..2", lambda: equations.cross_entropy(X, [0, 3])),
    ("c: found shape", lambda: equations.cross_entropy(X, [0, 1, 2])),
]


@pytest.mark.parametrize(("message", "call"), BAD, ids=[f"{q}: {b[0]}" for q, b in enumerate(BAD)])
def test_bad_input_is_named(message, call):
    with pytest.raises(ValueError, match=message):
        call()


def test_groups_as_one_array_or_a_list_within_a_gradient():
    stack = np.stack(GROUPS)
    assert agree(grad(lambda x: anp.sum(G * equations.fuse(x, 0.25)))(stack), np.stack([0.25 * G] * 3))
    for slope in grad(lambda x: anp.sum(G * equations.fuse(x, 0.25)))(GROUPS):
        assert agree(slope, 0.25 * G)


def test_bad_input_is_named_inside_a_gradient():
    with pytest.raises(ValueError, match="T_i: found shape"):
        grad(lambda x: anp.sum(equations.similarity(x, np.ones((2, 4)))[0]))(X)


# ---------------------------------------------------------------- what the paper's loss is like


def batch(seed, n=7, B=8, d=5, alpha=paper.ALPHA):
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 4, B)
    both = [equations.similarity(rng.normal(size=(B, d)), rng.normal(size=(4, d))[y]) for _ in range(n)]
    S, S_hat = (equations.fuse([pair[k] for pair in both], alpha) for k in (0, 1))
    return S, S_hat, equations.supervised_matrix(y)


def test_both_directions_are_equal_and_logits_bounded():
    for seed in range(5):
        S, S_hat, W = batch(seed)
        assert np.abs(S_hat - S.T).max() < 1e-15
        L = equations.contrastive_loss(S, S_hat, W)
        assert abs(L.L_i2t - L.L_t2i) < 1e-15
        assert np.abs(S).max() <= R
        assert L.L_con > math.log1p(math.exp(-R))
    u = np.ones((1, 3))
    assert equations.fuse([equations.similarity(u, u)[0]] * 7, paper.ALPHA)[0, 0] == pytest.approx(R, rel=1e-15)


def test_start_value_is_ln_2_and_the_least_value_of_a_pair():
    W = batch(0)[2]
    assert equations.contrastive_loss(0 * W, 0 * W, W).L_con == pytest.approx(math.log(2), rel=1e-15)
    best = R * (2 * W - 1)
    assert round(float(equations.contrastive_loss(best, best.T, W).L_con), 6) == 0.160224

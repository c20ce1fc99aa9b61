"""theory.py and the theorems of docs/mathematics/, chapters 4, 5 and 7: a test fails if its theorem is false."""

import itertools
import math

import autograd.numpy as anp
import numpy as np
import pytest
from autograd import grad, value_and_grad
from scipy import optimize

from bplcz_ref import equations, in_one_file, nn, paper, theory, variants

ALPHA, n, K, B = paper.ALPHA, len(paper.GROUPS), len(paper.CLASSES), paper.BATCH
R = ALPHA * n  # 1.75
EXPECTED_P = 1 / B + (1 - 1 / B) / K  # mean(W) at B = 32 with 17 equally likely classes


@pytest.fixture(autouse=True)
def one_blas_thread():
    """The matrices are small: on a busy machine more threads cost a multiple."""
    with nn.one_blas_thread():
        yield


def descend(f, size, seed):
    """The least value of f that a descent from a random start finds, its gradient by autograd."""
    start = np.random.default_rng(seed).normal(size=size)
    options = {"ftol": 0, "gtol": 1e-10, "maxcor": 20, "maxiter": 2000, "maxfun": 4000}
    return optimize.minimize(value_and_grad(f), start, jac=True, method="L-BFGS-B", options=options).fun


def directions(x):
    return x / anp.sqrt(anp.sum(x * x, axis=-1, keepdims=True))


def mean_cosines(u, v):  # (n, K, d), (n, K, d) of unit rows -> (K, K), the mean over the groups
    return sum(anp.dot(u_i, v_i.T) for u_i, v_i in zip(u, v, strict=True)) / len(u)


def balanced_loss(M, p):
    """The expected L_con of K equally likely classes with cosines M, and a share p of positive pairs."""
    own = np.eye(len(M)) == 1
    weight = np.where(own, p / len(M), (1 - p) / (len(M) * (len(M) - 1)))
    return anp.sum(weight * anp.logaddexp(0, (1 - 2 * own) * R * M))


def uneven(seed, size=B):
    return np.random.default_rng(seed).integers(K, size=size)


# ---------------------------------------------------------------- the segment and the expected optimum


@pytest.mark.slow
def test_no_unit_features_are_below_the_segment_and_some_are_on_it():
    """In each direction of the (a, b)-plane, descent on free unit vectors ends at the segment's best point."""
    for classes, groups, (x, y) in [(3, 1, (1, 1)), (5, 1, (1, 3)), (5, 2, (1, 2)), (8, 1, (1, 0.5))]:
        own = np.eye(classes) == 1

        def height(flat, shape=(2, groups, classes, classes), own=own, x=x, y=y):
            M = mean_cosines(*directions(anp.reshape(flat, shape)))
            return y * anp.mean(M[~own]) - x * anp.mean(M[own])  # lower b, higher a

        ends = [theory.segment(1, classes, t) for t in (0, 1)]
        best = min(y * b - x * a for a, b in ends)  # a linear function is least at an end
        assert abs(descend(height, 2 * groups * classes * classes, seed=classes) - best) < 1e-7


def test_the_segments_inequality_holds_for_random_features_in_the_unit_ball():
    rng = np.random.default_rng(0)
    for classes, d in itertools.product((2, 3, 9), (1, 2, 5)):
        u = directions(rng.normal(size=(1, classes, d)))
        for closeness in (-1, -0.9, 0, 1):  # v near u, or near its opposite
            v = directions(closeness * u + 0.2 * rng.normal(size=u.shape)) * rng.uniform(0.5, 1)
            M, own = mean_cosines(u, v), np.eye(classes) == 1
            t = (1 - M[own].mean()) / 2
            assert M[~own].mean() >= theory.segment(1, classes, t)[1] - 1e-12


OPTIMA = [
    (17, 1 / 17, 0.2632, -1.75, -1.75, True),
    (17, EXPECTED_P, 0.3128, -1.444, -1.607, False),
    (32, 1 / 32, 0.2149, -1.75, -1.75, True),  # W = I at B = 32, if no two texts are equal
    (2, 1 / 2, 0.1602, 1.75, -1.75, False),
    (5, 0, 0.1602, -1.75, -1.75, True),  # no positive pair
    (5, 1, 0.1602, 1.75, -0.438, False),  # nothing but positive pairs
]


@pytest.mark.parametrize(("classes", "p", "value", "a", "b", "collapsed"), OPTIMA)
def test_expected_optimum_literals(classes, p, value, a, b, collapsed):
    best = theory.expected_optimum(R, classes, p)
    assert (round(best.L_con, 4), round(best.a, 3), round(best.b, 3)) == (value, a, b)
    assert best.collapsed is collapsed


def test_collapse_begins_at_14_equally_frequent_classes():
    """K >= 2 + 2 e^R, in the closed form and in the criterion of a batch with one sample per class."""
    expected = [False, False, True, True]
    assert [theory.expected_optimum(R, k, 1 / k).collapsed for k in (12, 13, 14, 15)] == expected
    assert [theory.collapse_is_optimal(np.arange(k), R) for k in (12, 13, 14, 15)] == expected


def test_no_point_of_the_segment_is_below_the_expected_optimum():
    for alpha_n, classes, p in itertools.product((0.5, R), (2, 3, 9, 17), (0.02, 0.1, 0.5)):
        best = theory.expected_optimum(alpha_n, classes, p).L_con
        for t in np.linspace(0, 1, 101):
            a, b = theory.segment(alpha_n, classes, t)
            assert p * np.logaddexp(0, -a) + (1 - p) * np.logaddexp(0, b) >= best - 1e-15


# ---------------------------------------------------------------- the floor of a batch


@pytest.mark.slow
@pytest.mark.parametrize("msm", [True, False])
@pytest.mark.parametrize(("size", "groups", "d"), [(8, 1, 8), (10, 2, 6)])
def test_free_features_of_every_sample_reach_the_floor_and_do_not_pass_it(size, groups, d, msm):
    """Eqs. (3) to (8) themselves, with a free feature for every image and for every text of a class."""
    y = uneven(seed=size, size=size)
    _, place = np.unique(y, return_inverse=True)
    W = equations.supervised_matrix(y) if msm else np.eye(size)
    texts = place.max() + 1

    def L(x):
        I_i = anp.reshape(x[: groups * size * d], (groups, size, d))
        T_i = anp.reshape(x[groups * size * d :], (groups, texts, d))
        S, S_hat = zip(*(equations.similarity(I_i[i], T_i[i][place]) for i in range(groups)), strict=True)
        fused = (equations.fuse(X, R / groups) for X in (S, S_hat))
        return equations.contrastive_loss(*fused, W).L_con

    floor = theory.batch_floor(y, R, msm)
    assert floor.lower - 1e-12 <= descend(L, groups * (size + texts) * d, seed=3) < floor.attained + 2e-6


@pytest.mark.parametrize("alpha_n", [R, *(pytest.param(a, marks=pytest.mark.slow) for a in (0.05, 0.5, 3.5, 14))])
def test_the_floor_of_a_batch_is_certified(alpha_n):
    for size, classes, msm in itertools.product((1, 2, 3, 8, 40), (1, 2, 17), (True, False)):
        y = np.random.default_rng(size).integers(classes, size=size)
        floor = theory.batch_floor(y, alpha_n, msm)
        assert 0 <= floor.attained - floor.lower < 1e-8
    assert theory.batch_floor(y, alpha_n, msm) == floor  # the same bits again


def test_the_certificate_is_a_lower_bound_from_any_cosines_and_tight_at_the_optimum():
    rng = np.random.default_rng(1)
    for seed, msm in itertools.product(range(2), (True, False)):
        weights = theory.pair_weights(uneven(seed), msm)
        best, floor = theory.least_cosines(*weights, R), theory.batch_floor(uneven(seed), R, msm)
        bound = theory.lower_bound(best, *weights, R)
        assert floor.attained - 1e-9 < bound < floor.attained + 1e-15
        for mixed in (0.01, 0.3, 1):
            u = directions(rng.normal(size=(len(best), 5)))
            bound = theory.lower_bound((1 - mixed) * best + mixed * u @ u.T, *weights, R)
            assert bound < floor.attained - 1e-6


def test_floor_literals():
    """One class: all cosines 1. Two samples of two classes: opposite. One sample per class: `expected_optimum`."""
    one = theory.batch_floor(np.zeros(5, int), R)
    assert one.attained == pytest.approx(math.log1p(math.exp(-R)), rel=1e-15)
    assert math.isnan(one.b)
    two = theory.batch_floor(np.array([4, 9]), R)
    assert (round(two.attained, 4), round(two.a, 6), round(two.b, 6)) == (0.1602, 1.75, -1.75)
    for size in (5, 13, 20):
        best, floor = theory.expected_optimum(R, size, 1 / size), theory.batch_floor(np.arange(size), R)
        assert floor.lower - 1e-15 <= best.L_con <= floor.attained + 1e-12
        assert (floor.a, floor.b) == pytest.approx((best.a, best.b), abs=1e-4)


def test_the_optimum_has_the_form_that_the_descent_assumes():
    """M is symmetric, and M + h h^T has no negative eigenvalue, with h_c^2 = (1 - M_cc) / 2.

    diag(delta) - A is singular where images and texts differ; where they do not, all h_c are 0.
    """
    for y, msm in itertools.product([np.array([0, 1]), *map(uneven, range(3))], (True, False)):
        weights = theory.pair_weights(y, msm)
        M = theory.least_cosines(*weights, R)
        h = np.sqrt(np.maximum(1 - np.diag(M), 0) / 2)
        assert np.abs(M - M.T).max() < 1e-12
        assert np.linalg.eigvalsh(M + np.outer(h, h))[0] > -1e-6
        A = theory._loss(M, *weights, R)[1]
        least = np.linalg.eigvalsh(-np.diag((A * M).sum(axis=1)) - A)[0]
        if len(y) == 2:
            assert (round(least, 4), h.max() < 1e-6) == (0.1295, True)
        else:
            assert (abs(least) < 1e-6, h.min() > 0.1) == (True, True)


def test_bad_input_is_named():
    for message, function, arguments in (
        ("K: found 1", theory.expected_optimum, (1.75, 1, 0.1)),
        ("p: found 2", theory.expected_optimum, (1.75, 17, 2)),
        ("alpha_n: found 0", theory.batch_floor, (np.arange(3), 0)),
    ):
        with pytest.raises(ValueError, match=message):
            function(*arguments)


# ---------------------------------------------------------------- collapse of a batch


@pytest.mark.slow
def test_the_criterion_of_a_batch_says_where_the_floor_is_at_collapse():
    threshold, met = 1 / (1 + math.exp(R)) / 2, []
    batches = [uneven(seed, size) for seed, size in itertools.product(range(3), (12, 32, 200))]
    batches += [np.array([0] * 3 + list(range(1, size - 2))) for size in (38, 39, 40, 41)]
    batches += [np.arange(size) % 16 for size in (16, 33, 48)]
    for y in batches:
        share = np.unique(y, return_counts=True)[1] / len(y)
        met.append(optimal := theory.collapse_is_optimal(y, R))
        above = theory.softplus(-R) + R * sum(share**2) - theory.batch_floor(y, R).attained
        assert abs(above) < 1e-12 if optimal else above > 1e-7
        assert optimal or max(share) > threshold
        assert not optimal or sum(share > threshold) < 2
    assert 3 < sum(met) < len(met) - 3


# ---------------------------------------------------------------- the number of dimensions


def test_seven_groups_of_five_dimensions_hold_the_optimum_of_17_classes():
    """Frequency f of the simplex, a circle, in group f mod 7; a last coordinate, +-h, makes the length 1."""
    best = theory.expected_optimum(R, K, EXPECTED_P)
    t = (1 - best.a / R) / 2
    angle = 2 * np.pi * np.arange(1, 9)[:, None] * np.arange(K) / K  # (frequency, class)
    circles = np.sqrt(n * (1 - t) / 8) * np.stack([np.cos(angle), np.sin(angle)], axis=2)
    u, v = np.zeros((2, n, K, 5))
    for f, circle in enumerate(circles):
        place = 2 * (f // n)
        u[f % n, :, place : place + 2] = v[f % n, :, place : place + 2] = circle
    h = np.sqrt(1 - (u**2).sum(-1))
    u[..., -1], v[..., -1] = h, -h
    assert np.abs((u**2).sum(-1) - 1).max() < 1e-14
    assert abs(balanced_loss(mean_cosines(u, v), EXPECTED_P) - best.L_con) < 1e-14


DIMENSIONS = [
    (2, 1, 2, 1 / 2, 0),
    pytest.param(4, 1, 3, 1 / 4, 2.418e-2, marks=pytest.mark.slow),  # d - 1 < K - 1
    pytest.param(17, 1, 17, EXPECTED_P, 0, marks=pytest.mark.slow),
    pytest.param(17, 7, 4, EXPECTED_P, 0, marks=pytest.mark.slow),  # 21 dimensions for 16
    pytest.param(17, 7, 3, EXPECTED_P, 1.394e-5, marks=pytest.mark.long),  # 14 dimensions for 16
]


@pytest.mark.parametrize(("classes", "groups", "d", "p", "miss"), DIMENSIONS)
def test_free_unit_vectors_reach_the_expected_optimum_if_they_have_the_dimensions(classes, groups, d, p, miss):
    def L(x):
        return balanced_loss(mean_cosines(*directions(anp.reshape(x, (2, groups, classes, d)))), p)

    found = descend(L, 2 * groups * classes * d, seed=0)
    assert found - theory.expected_optimum(R, classes, p).L_con == pytest.approx(miss, rel=1e-3, abs=1e-9)


# ---------------------------------------------------------------- what needs no class, and what costs nothing


def test_the_classless_optimum_is_the_best_single_logit():
    for alpha_n, p in itertools.product((0.5, 1.75, 7), (0, 0.03, 0.5, 0.9, 1)):
        s = np.linspace(-alpha_n, alpha_n, 2001)
        L = p * np.logaddexp(0, -s) + (1 - p) * np.logaddexp(0, s)
        assert theory.classless_optimum(alpha_n, p) == pytest.approx(L.min(), abs=1e-6)
    assert theory.classless_optimum(R, 0.05) == pytest.approx(theory.softplus(-R) + 0.05 * R, rel=1e-14)


def test_L_con_collapses_at_no_cost_to_L_cls():
    """Texts without class, then proj.bias - M T in each branch, and D's bias takes back what that adds."""
    rng, y = np.random.default_rng(1), np.arange(6)
    params, state = in_one_file.initial(rng, 6, width=2, d=4, V=30, W=8, layers=1, context=5)
    X_i = in_one_file.grouped(rng.normal(size=(6, 8, 8, 8)), rng.normal(size=(6, 8, 8, 10)))
    t = rng.integers(1, 29, size=(6, n, 5))
    params["text"]["ln_final"] = {"weight": np.zeros(8), "bias": np.ones(8)}
    T = params["text"]["text_projection"].sum(axis=0)  # every text, of any class and group
    traces = []
    for M in (0, 1e2, 1e6):
        moved = params | {"branches": {i: dict(p) for i, p in params["branches"].items()}}
        for p in moved["branches"].values():
            p["proj"] = p["proj"] | {"bias": p["proj"]["bias"] - M * T}
        D = params["classifier"]
        moved["classifier"] = D | {"bias": D["bias"] + M * D["weight"] @ np.tile(T, n)}
        traces.append(in_one_file.loss_and_gradients(moved, state, X_i, t, y, heads=2)[0])
    assert np.abs([trace["L_cls"] - traces[0]["L_cls"] for trace in traces]).max() < 1e-9
    assert traces[1]["L_con"] < traces[0]["L_con"] - 0.1
    W = equations.supervised_matrix(y)
    assert traces[2]["L_con"] == pytest.approx(theory.softplus(-R) + W.mean() * R, abs=1e-6)


def test_the_common_pull_vanishes_at_the_features():
    """One angle in every group: the gradient has length alpha / (B |x|) |sigma(s) - row mean of W| sin(theta)."""
    y, rng = np.array([0, 1, 0, 2]), np.random.default_rng(5)
    W = equations.supervised_matrix(y)
    v, aside = np.linalg.qr(rng.normal(size=(4, 2)))[0].T

    def L(I_i, T):
        S, S_hat = zip(*(equations.similarity(I_i[i], T) for i in range(n)), strict=True)
        return equations.contrastive_loss(equations.fuse(S, ALPHA), equations.fuse(S_hat, ALPHA), W).L_con

    for s in (0.0, -1.6, -1.74):
        cosine = s / R
        x = 2.5 * (cosine * v + math.sqrt(1 - cosine**2) * aside)
        gradient = np.linalg.norm(grad(L)(np.tile(x, (n, 4, 1)), np.tile(v, (4, 1))), axis=2)
        sine, sigma = math.sqrt(1 - cosine**2), 1 / (1 + math.exp(-s))
        expected = ALPHA / (4 * 2.5) * np.abs(sigma - W.mean(axis=1)) * sine
        assert gradient == pytest.approx(np.tile(expected, (n, 1)), rel=1e-9)


# ---------------------------------------------------------------- the neighbours


def test_infonce_is_at_least_ln_m_by_row_for_images_and_by_class_for_texts():
    rng, below = np.random.default_rng(3), 0
    for _ in range(50):
        y = rng.integers(3, size=8)
        texts = rng.normal(size=(3, 3))[y]  # equal within a class
        C = rng.normal(size=(8, 3)) @ texts.T
        rows = [-np.diag(equations.log_softmax(X)) for X in (C, C.T)]  # each image, each text
        m = (y[:, None] == y).sum(axis=1)
        assert np.all(rows[0] >= np.log(m) - 1e-12)
        below += np.sum(rows[1] < np.log(m) - 1e-6)
        for c in set(y):
            assert rows[1][y == c].mean() >= np.log(m[y == c][0]) - 1e-12
    assert below > 0  # single texts do go below ln m


def test_unicl_is_infonce_where_texts_are_shared_and_only_there():
    rng, y = np.random.default_rng(6), np.array([0, 1, 0, 2, 1, 0])
    W = equations.supervised_matrix(y)

    def loss(name, texts):
        variant = variants.VARIANTS[name]
        return lambda I: variant.loss(variant.init(np.float64), *equations.similarity(I, texts), W, 1.0).L_con

    I, own = rng.normal(size=(6, 4)), rng.normal(size=(6, 4))
    shared = own[[0, 1, 0, 3, 1, 0]]
    assert loss("infonce", shared)(I) == pytest.approx(loss("unicl", shared)(I), rel=1e-14)
    assert np.abs(grad(loss("infonce", shared))(I) - grad(loss("unicl", shared))(I)).max() < 1e-14
    assert abs(loss("infonce", own)(I) - loss("unicl", own)(I)) > 1e-2

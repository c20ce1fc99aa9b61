"""theory.py: literal values, and descent on free unit vectors to the same floor."""

import itertools
import math

import autograd.numpy as anp
import numpy as np
import pytest
from autograd import grad
from scipy.optimize import minimize

from bplcz_ref import equations, paper, theory

R = paper.ALPHA * len(paper.GROUPS)  # 1.75
EXPECTED_P = 1 / 32 + 31 / 32 / 17  # mean(W) at B = 32 from 17 classes alike


@pytest.mark.parametrize(
    ("K", "p", "value", "a", "b", "collapsed"),
    [
        (17, 1 / 17, 0.2632, -1.75, -1.75, True),
        (17, EXPECTED_P, 0.3128, -1.444, -1.607, False),
        (32, 1 / 32, 0.2149, -1.75, -1.75, True),  # W = I at B = 32
        (2, 1 / 2, 0.1602, 1.75, -1.75, False),
    ],
)
def test_floor_literals(K, p, value, a, b, collapsed):
    floor = theory.contrastive_floor(R, K, p)
    assert (round(floor.L_con, 4), round(floor.a, 3), round(floor.b, 3)) == (value, a, b)
    assert floor.collapsed is collapsed


def test_collapse_begins_at_14_classes():
    assert [theory.contrastive_floor(R, K, 1 / K).collapsed for K in (12, 13, 14, 15)] == [
        False,
        False,
        True,
        True,
    ]
    assert 13 < 2 + 2 * math.exp(R) < 14


def descend(f, size, seed):
    start = np.random.default_rng(seed).normal(size=size)
    options = {"maxiter": 4000, "ftol": 1e-15, "gtol": 1e-10}
    return minimize(f, start, jac=grad(f), method="L-BFGS-B", options=options)


@pytest.mark.parametrize(
    ("K", "p"), [(2, 0.5), (3, 1 / 3), (6, 0.3), (13, 1 / 13), (17, 1 / 17), (17, EXPECTED_P)]
)
def test_floor_is_what_free_unit_vectors_reach(K, p):
    weight = np.where(np.eye(K) == 1, p / K, (1 - p) / (K * (K - 1)))

    def L(x):
        u, v = anp.reshape(x, (2, K, K))
        return anp.sum(weight * anp.logaddexp(0, (1 - 2 * np.eye(K)) * R * equations.similarity(u, v)[0]))

    assert abs(descend(L, 2 * K * K, seed=K).fun - theory.contrastive_floor(R, K, p).L_con) < 1e-6


def test_floor_is_what_seven_groups_of_features_reach():
    """Through Eqs. (3)-(8) themselves: 8 samples of 4 classes, 7 groups, each feature free."""
    W = equations.supervised_matrix(np.arange(8) % 4)

    def L(x):
        I, T = anp.reshape(x, (2, 7, 8, 5))
        both = [equations.similarity(I[i], T[i]) for i in range(7)]
        return equations.contrastive_loss(
            *(equations.fuse(list(s), 0.25) for s in zip(*both, strict=True)), W
        ).L_con

    assert abs(descend(L, 2 * 7 * 8 * 5, seed=1).fun - theory.contrastive_floor(R, 4, 1 / 4).L_con) < 1e-6


def test_no_feasible_point_is_below_the_floor():
    """Random unit vectors never pass it, and neither does any other point of the segment."""
    rng = np.random.default_rng(3)
    for K, p in itertools.product((2, 3, 9, 17), (0.02, 0.1, 0.5)):
        floor = theory.contrastive_floor(R, K, p).L_con
        for t in np.linspace(0, 1, 101):
            a, b = R * (1 - 2 * t), -R * (1 + t * (K - 2)) / (K - 1)
            assert p * np.logaddexp(0, -a) + (1 - p) * np.logaddexp(0, b) >= floor - 1e-15
        s = R * equations.similarity(rng.normal(size=(K, K)), rng.normal(size=(K, K)))[0]
        own = np.eye(K) == 1
        assert p * np.logaddexp(0, -s[own]).mean() + (1 - p) * np.logaddexp(0, s[~own]).mean() > floor


@pytest.mark.parametrize(
    ("message", "alpha_n", "K", "p"),
    [("alpha_n: found 0", 0, 17, 0.1), ("K: found 1", 1.75, 1, 0.1), ("p: found 2", 1.75, 17, 2)],
)
def test_bad_input_is_named(message, alpha_n, K, p):
    with pytest.raises(ValueError, match=message):
        theory.contrastive_floor(alpha_n, K, p)


def test_the_ends_of_the_domain():
    """R below 1; no positive pair: every negative at the simplex' cosine or lower; nothing but positive pairs."""
    assert theory.contrastive_floor(0.5, 3, 0.4).collapsed is False
    none = theory.contrastive_floor(R, 5, 0)
    assert (none.b, none.collapsed) == (-R, True)
    assert none.L_con == pytest.approx(math.log1p(math.exp(-R)), rel=1e-15)
    every = theory.contrastive_floor(R, 5, 1)
    assert (every.a, every.b) == (R, -R / 4)
    assert every.L_con == pytest.approx(math.log1p(math.exp(-R)), rel=1e-15)

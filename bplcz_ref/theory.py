"""What L_con wants: the least values that Eq. (6) can take on unit features, and when they tell no class apart.

`batch_floor` is the floor of one batch, certified; `expected_optimum` is a closed form for an idealised case.
The proofs are in docs/mathematics/, in 4-what-l-con-wants.md and 7-harder-theorems.md.

Index letters: B samples, K classes (in a batch: those that occur, c), n groups. R = alpha n is the bound of |S|:
1.75 in the paper. q_c is the share of class c in the batch, x any unit vector.
"""

import math
from typing import NamedTuple

import numpy as np

from bplcz_ref.checks import takes

MOST_STEPS = 10_000  # of the descent; 20 to 400 are usual


class Floor(NamedTuple):
    """The least L_con of a batch lies between `lower`, which is proved, and `attained`, which features reach."""

    lower: float
    attained: float
    a: float  # mean logit of the pairs with W = 1, where `attained` is reached
    b: float  # mean logit of the pairs with W = 0; nan if there is none


class Optimum(NamedTuple):
    """The least L_con, and the logits of all positive and of all negative pairs where it is taken."""

    L_con: float
    a: float  # logit of a positive pair
    b: float  # logit of a negative pair
    collapsed: bool  # a = b = -R: every image opposite to every text


# ---------------------------------------------------------------- a batch, by its labels


@takes(y="labels B", alpha_n="positive")
def batch_floor(y: np.ndarray, alpha_n: float, msm: bool = True) -> Floor:
    """The floor of Eq. (6) for one batch: its least value over all unit features, texts shared within a class.

    Formula:  the least sum_cd positive_cd softplus(-R M_cd) + negative_cd softplus(R M_cd) over the cosines
              M_cd = u_c . v_d of the images and texts of classes, with the weights of `pair_weights`; a descent
              (`least_cosines`) gives `attained`, weak duality (`lower_bound`) gives `lower`.
    Returns:  Floor; at the paper's R the gap is below 1e-8, mostly 1e-10. `attained` is reached at d = K + 1.
    Settings: W is Eq. (5)'s, or I without msm. With W = I and a text per sample: batch_floor(arange(B), alpha_n).
    Errors:   ValueError for labels that are not integers and for alpha_n that is not positive.
    Source:   derived for this project.

    >>> lower, attained, a, b = batch_floor(np.arange(32) % 17, 1.75)  # 15 classes twice and two classes once
    >>> round(attained, 6), bool(attained - lower < 1e-9), round(a, 3), round(b, 3)
    (0.266181, True, -1.75, -1.75)
    """
    positive, negative = pair_weights(y, msm)
    M = least_cosines(positive, negative, alpha_n)
    attained, _ = _loss(M, positive, negative, alpha_n)
    lower = min(attained, lower_bound(M, positive, negative, alpha_n))  # the gap may be less than its rounding
    p, S = positive.sum(), alpha_n * M
    b = float((negative * S).sum() / (1 - p)) if negative.any() else math.nan
    return Floor(float(lower), float(attained), float((positive * S).sum() / p), b)


def pair_weights(y: np.ndarray, msm: bool = True) -> tuple[np.ndarray, np.ndarray]:  # (B,) -> (K, K), (K, K)
    """The shares of the B^2 pairs that have W = 1 and W = 0, by the class of the image and of the text.

    Formula:  q_c q_d pairs in all; those with W = 1 are the q_c^2 of each class, or q_c / B of them if W = I.

    >>> positive, negative = pair_weights(np.array([3, 3, 8]), msm=False)
    >>> (9 * positive).round(12).tolist(), (9 * negative).round(12).tolist()
    ([[2.0, 0.0], [0.0, 1.0]], [[2.0, 2.0], [2.0, 0.0]])
    """
    _, counts = np.unique(y, return_counts=True)
    q = counts / counts.sum()
    positive = np.diag(q**2 if msm else q / counts.sum())
    # Where a class has one sample, rounding must leave no negative pair of the class with itself.
    return positive, np.where((counts == 1) & np.eye(len(q), dtype=bool), 0, np.outer(q, q) - positive)


def least_cosines(positive: np.ndarray, negative: np.ndarray, alpha_n: float) -> np.ndarray:
    # (K, K), (K, K) -> (K, K)
    """The cosines M at the least L_con, by descent on unit vectors u_c = (z_c, h_c), v_d = (z_d, -h_d).

    Every optimum has this form, with h_c >= 0 (by Perron and Frobenius; the proof is with the theorems). After a
    step s that changes the gradient by y, the next is (s . y) / (y . y) times the gradient (Barzilai and Borwein
    1988). That compares no losses, so it goes on where these have no more digits, and SciPy's minimisers stop.
    Whether the descent ended at the optimum is what `batch_floor` certifies.
    """
    K = len(positive)
    sign = np.append(np.ones(K), -1)  # M = Z Z^T - h h^T

    def unit(x):  # (K, K + 1) -> the same at unit length, the lengths
        length = np.linalg.norm(x, axis=1, keepdims=True)
        return x / length, length

    def gradient(x):
        u, length = unit(x)
        _, A = _loss((u * sign) @ u.T, positive, negative, alpha_n)
        g = 2 * (A @ u) * sign
        return (g - u * (u * g).sum(axis=1, keepdims=True)) / length

    # The start is near the segment, with a little noise, without which equal classes would stay equal.
    z = 0.5 * (np.eye(K) - 1 / K) + 0.01 * np.random.default_rng(0).standard_normal((K, K))
    x, step = np.hstack([z, np.ones((K, 1))]), 1.0
    g = gradient(x)
    for _ in range(MOST_STEPS):
        if np.abs(g).max() < 1e-12:
            break
        s, before = -step * g, g
        x = x + s
        g = gradient(x)
        y = g - before
        step = abs((s * y).sum()) / (y * y).sum()
    u, _ = unit(x)
    return (u * sign) @ u.T


def lower_bound(M: np.ndarray, positive: np.ndarray, negative: np.ndarray, alpha_n: float) -> float:
    # (K, K) x 3 -> scalar
    """A value that L_con is never below, whatever the unit features; at the optimal M it is L(M) itself.

    Formula:  L(M) - sum(A M) - sum(delta) for any symmetric M, with A = dL/dM and any delta >= 0 for which
              diag(delta) + A and diag(delta) - A have no negative eigenvalue. It holds for features of any size,
              in any number of groups.
    Source:   derived for this project: convexity in M and weak duality.

    >>> weights = pair_weights(np.array([0, 1]))
    >>> round(lower_bound(np.zeros((2, 2)), *weights, alpha_n=1.0), 4), round(softplus(-1.0), 4)
    (0.1931, 0.3133)
    """
    L, A = _loss(M, positive, negative, alpha_n)
    delta = np.maximum(-(A * M).sum(axis=1), 0)  # the multipliers of the lengths, where M is the optimum
    # What the two matrices lack is added to delta, with room for the rounding of their eigenvalues.
    lacking = -min(np.linalg.eigvalsh(np.diag(delta) + sign * A)[0] for sign in (1, -1))
    delta = delta + max(lacking, 0) + len(delta) * np.finfo(float).eps * np.abs(A).max()
    return float(L - (A * M).sum() - delta.sum())


def _loss(M, positive, negative, R):  # (K, K) x 3 -> L, dL/dM (K, K)
    S, weight = R * M, positive + negative
    sigma = (1 + np.tanh(S / 2)) / 2
    L = (weight * np.logaddexp(0, S) - positive * S).sum()  # softplus(-S) = softplus(S) - S
    return L, R * (weight * sigma - positive)


@takes(y="labels B", alpha_n="positive")
def collapse_is_optimal(y: np.ndarray, alpha_n: float, msm: bool = True) -> bool:
    """Whether the least L_con of this batch is at collapse: every image at cosine -1 to every text.

    Formula:  with s = sigma(-R) and r_c the share of W = 1 in a row of class c (q_c, or 1/B if W = I), exactly if
              diag(q_c (s - 2 r_c)) + s q q^T has no negative eigenvalue: if every r_c <= s/2, which is 0.0740
              at R = 1.75, and never if two r_c are above s/2.
    Source:   derived for this project.

    >>> [collapse_is_optimal(np.repeat(np.arange(16), m), 1.75) for m in (1, 2)]  # 16 classes: 1/16 < 0.0740
    [True, True]
    >>> collapse_is_optimal(np.array([0, 0, 0, *range(1, 30)]), 1.75)  # 3 of 32 in one class
    False
    """
    positive, negative = pair_weights(y, msm)
    q, s = (positive + negative).sum(axis=1), 1 / (1 + math.exp(alpha_n))
    matrix = np.diag(q * s - 2 * np.diag(positive)) + s * np.outer(q, q)
    return bool(np.linalg.eigvalsh(matrix)[0] >= -1e-15)


# ---------------------------------------------------------------- K equally likely classes, in expectation


def segment(alpha_n: float, K: int, t: float) -> tuple[float, float]:
    """The lowest b for each a: mean logits a of positive, b of negative pairs that K >= 2 classes can have.

    Formula:  a(t) = R (1 - 2t),  b(t) = -R (1 + t (K - 2)) / (K - 1),  0 <= t <= 1: from the simplex, t = 0, to
              collapse, t = 1.
    Source:   Lee, Chang, Sohn 2024 (arXiv 2402.12613) with t = 1 - delta^2.

    >>> segment(1.75, K=8, t=0), segment(1.75, K=8, t=1)
    ((1.75, -0.25), (-1.75, -1.75))
    """
    return alpha_n * (1 - 2 * t), -alpha_n * (1 + t * (K - 2)) / (K - 1)


@takes(alpha_n="positive", K="size")
def expected_optimum(alpha_n: float, K: int, p: float) -> Optimum:
    """The least expected L_con of a fixed map from classes to features, for K equally likely classes.

    Assumes:  each class has one image and one text feature, in every batch the same (d >= K, or enough groups);
              a pair is positive with probability p, and all classes, and all pairs of classes, are equally likely.
              A batch has other shares, so its own least value may be below this one (`batch_floor`).
    Formula:  on the `segment` L(t) = p softplus(-a) + (1 - p) softplus(b) is convex, and least where
              2 p sigma(-a) = (1 - p) (K - 2)/(K - 1) sigma(b).
              Collapse, t = 1, is the best exactly when (1 - p) (K - 2)/(K - 1) >= 2 p e^R;
              at p = 1/K that is K >= 2 + 2 e^R, which is K >= 14 at the paper's R = 1.75.
    Errors:   ValueError unless R > 0, K >= 2 is a whole number and 0 <= p <= 1.
    Source:   derived for this project; at p = 1/K by Lee, Chang, Sohn 2024 (arXiv 2402.12613).

    >>> best = expected_optimum(1.75, K=17, p=1 / 17)
    >>> round(best.L_con, 4), best.a, best.b, best.collapsed
    (0.2632, -1.75, -1.75, True)
    """
    R = alpha_n
    if K < 2:
        raise ValueError(f"K: found {K}, expected at least 2 classes")
    if not 0 <= p <= 1:
        raise ValueError(f"p: found {p}, expected the fraction of ones in W, between 0 and 1")

    def slope(t):  # of L(t) / R; increasing, since L is convex
        a, b = segment(R, K, t)
        return 2 * p / (1 + math.exp(a)) - (1 - p) * (K - 2) / (K - 1) / (1 + math.exp(-b))

    collapsed = bool(slope(1.0) <= 0)
    low, high = float(collapsed), 1.0
    for _ in range(60):  # halving, down to neighbouring numbers
        middle = (low + high) / 2
        low, high = (middle, high) if slope(middle) < 0 else (low, middle)
    a, b = segment(R, K, high)
    return Optimum(float(p * softplus(-a) + (1 - p) * softplus(b)), a, b, collapsed)


# ---------------------------------------------------------------- without any class


def classless_optimum(alpha_n: float, p: float) -> float:
    """The least L_con when all pairs have one logit s, |s| <= R, and p = mean(W): no class is told apart.

    Formula:  p softplus(-s) + (1 - p) softplus(s) at s = log(p / (1 - p)), or at the end of [-R, R] nearest to it.
              At s = -R it is softplus(-R) + p R, collapse.

    >>> round(classless_optimum(1.75, p=3 / 34), 4)  # p as expected at B = 32, K = 17; at the start it is ln 2
    0.3146
    """
    log_odds = -math.inf if p == 0 else math.inf if p == 1 else math.log(p / (1 - p))
    s = min(max(log_odds, -alpha_n), alpha_n)
    return p * softplus(-s) + (1 - p) * softplus(s)


def softplus(x: float) -> float:
    """log(1 + e^x), which never overflows.

    >>> softplus(0.0) == math.log(2), softplus(1e4)
    (True, 10000.0)
    """
    return float(np.logaddexp(0, x))

"""Eqs. (3)-(11) on arrays through autograd.numpy, in the paper's order, and `objective`, which joins them.

Eqs. (1) and (2), the encoders, are in encoders/; loops.py has the same equations one number at a time. The line
`@takes(...)` above a function says what its arguments must be (checks.py): what they are not raises ValueError.

Index letters: B images (index j), P prompts (index k; P = B in the paper), d feature size, n band groups
(index i), K classes. G is dL/d(output). Every function is differentiable in its floating arguments, and float32
stays float32 in every value and gradient.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import autograd.numpy as np
import numpy as onp
from autograd.extend import defvjp, primitive
from autograd.tracer import getval
from numpy.typing import DTypeLike

from bplcz_ref.checks import takes

EPS = 1e-12  # the least norm that a feature is divided by


class ContrastiveLoss(NamedTuple):
    """Eqs. (6), (7), (8): three numbers."""

    L_i2t: np.ndarray
    L_t2i: np.ndarray
    L_con: np.ndarray


# ---------------------------------------------------------------- II-B: band group prompting


@takes(I_i="B d", T_i="P d")
def similarity(I_i: np.ndarray, T_i: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    # (B, d), (P, d) -> (B, P), (P, B)
    """II-B2, before Eq. (3): the cosine similarities of one band group, image-text S_i and text-image S_hat_i.

    Formula:  u_j = I_i^j / max(||I_i^j||, 1e-12),  v_k = T_i^k / max(||T_i^k||, 1e-12);
              S_i[j, k] = u_j . v_k,  S_hat_i[k, j] = v_k . u_j, the transpose of S_i.
    Gradient: with M = G + G_hat^T:  dL/du = M v,  dL/dv = M^T u,  and through a norm
              dL/dx = (g - u (u . g)) / ||x||, which is orthogonal to x, so the length of a feature is free.
              At x = 0 the value is 0 and dL/dx = g / 1e-12: exact, finite, large (a dead ReLU multiplies it by 0).
    Range:    norms up to 1e19 in float32.
    Source:   II-B2. The bound 1e-12 is ours; a plain division gives nan for a feature of zeros.

    >>> S_i, S_hat_i = similarity(onp.array([[3.0, 4.0]]), onp.array([[1.0, 0.0], [0.0, 2.0]]))
    >>> S_i.tolist(), S_hat_i.tolist()
    ([[0.6, 0.8]], [[0.6], [0.8]])
    """
    u, v = unit_rows(I_i), unit_rows(T_i)
    return np.dot(u, v.T), np.dot(v, u.T)


def unit_rows(x: np.ndarray) -> np.ndarray:  # (B, d) -> (B, d)
    """x / max(||x||, EPS), row by row. EPS is outside the root; inside it, every feature would shrink.

    >>> unit_rows(onp.array([[3.0, 4.0], [0.0, 0.0]])).tolist()
    [[0.6, 0.8], [0.0, 0.0]]
    """
    norm = root(np.sum(x * x, axis=1, keepdims=True))
    return x / np.maximum(norm, EPS)


@primitive
def root(x: np.ndarray) -> np.ndarray:
    """The square root, whose gradient is 0 where x is 0 and has the dtype of x, whatever comes back."""
    return onp.sqrt(x)


# np.sqrt would return 0 / 0 for a feature of zeros; np.maximum returns float64 for float32.
defvjp(root, lambda ans, x: lambda g: (g * (x > 0)).astype(x.dtype) * 0.5 * (x + (x == 0)) ** -0.5)


@takes(S_groups="[B P]", alpha="coefficient")
def fuse(S_groups: Sequence[np.ndarray], alpha: float) -> np.ndarray:  # n x (B, P), scalar -> (B, P)
    """Eq. (3) and Eq. (4): S = alpha sum_i S_i, and S_hat = alpha sum_i S_hat_i by the same function.

    Formula:  S[j, k] = alpha sum_{i=1..n} S_i[j, k], so |S| <= alpha n = 0.25 x 7 = 1.75 in the paper.
    Gradient: dL/dS_i = alpha G for every i;  dL/dalpha = sum(G * sum_i S_i), should alpha be learnt.
    Reading:  the sum over groups, as printed; the other reading, the mean, makes S seven times smaller.
    Source:   Eqs. (3), (4); alpha = 0.25 in III-A, a constant.

    >>> fuse([onp.array([[1.0, -0.5]]), onp.array([[0.5, -1.0]])], alpha=0.25).tolist()
    [[0.375, -0.375]]
    """
    return alpha * sum(S_groups[1:], start=S_groups[0])


# ---------------------------------------------------------------- II-C: multivariate supervised matrix


@takes(y="labels B")
def supervised_matrix(y: np.ndarray, dtype: DTypeLike = onp.float64) -> onp.ndarray:  # (B,) -> (B, B)
    """Eq. (5): the multivariate supervised matrix, W[j, k] = 1 if y_j = y_k, else 0.

    It is symmetric, with ones on the diagonal, and has no gradient.
    Source:   Eq. (5). "Without MSM" (Table III) is read as W = I: variants.VARIANTS["identity"].

    >>> supervised_matrix(onp.array([3, 8, 3]), onp.float32).tolist()
    [[1.0, 0.0, 1.0], [0.0, 1.0, 0.0], [1.0, 0.0, 1.0]]
    """
    return (y[:, None] == y[None, :]).astype(dtype)


@takes(S="B P", W="binary B P")
def bce(S: np.ndarray, W: np.ndarray) -> np.ndarray:  # (B, P), (B, P) -> scalar
    """Eq. (7) and Eq. (8): BCE(sigma(S), W), the binary cross-entropy of logits S against W.

    Formula:  mean over j, k of -(W log sigma(S) + (1 - W) log(1 - sigma(S))), where 1 - sigma(S) = sigma(-S).
    Gradient: dL/dS = G (sigma(S) - W) / (B P).
    Reading:  the mean over all B P entries; the other readings are their sum, and the sum over rows per sample.
    Source:   Eqs. (7), (8); the reduction is unstated.

    >>> bce(onp.array([[0.0, 1e4], [-1e4, 0.0]]), onp.array([[1, 1], [0, 0]])).item()  # ln(2) / 2
    0.34657359027997264
    """
    return -np.sum(W * log_sigma(S) + (1 - W) * log_sigma(-S)) / W.size


def log_sigma(S: np.ndarray) -> np.ndarray:
    """log sigma(S) = -log(1 + e^-S), also where sigma(S) itself would be rounded to 0 or 1.

    >>> log_sigma(onp.array([0.0, -1e4])).round(6).tolist()
    [-0.693147, -10000.0]
    """
    return -np.logaddexp(0, -S)


@takes(S="B B", S_hat="B B", W="symmetric B B")
def contrastive_loss(S: np.ndarray, S_hat: np.ndarray, W: np.ndarray) -> ContrastiveLoss:
    # (B, B), (B, B), (B, B) -> three scalars
    """Eq. (6), with Eq. (7) and Eq. (8): the contrastive loss and its two directions.

    Formula:  L_i2t = BCE(sigma(S), W),  L_t2i = BCE(sigma(S_hat), W),  L_con = (L_i2t + L_t2i) / 2.
    Gradient: dL/dS = G (sigma(S) - W) / (2 B^2), and likewise for S_hat. Since S_hat = S^T and W = W^T, the two
              sides add up to dL/dS_i = G alpha (sigma(S) - W) / B^2 at each group, and L_i2t = L_t2i.
    Source:   Eqs. (6)-(8). W must be symmetric, since Eq. (8) uses the one W beside the transposed matrix.

    >>> L = contrastive_loss(onp.zeros((2, 2)), onp.zeros((2, 2)), onp.eye(2))
    >>> [round(float(x), 12) for x in L]  # ln 2 at S = 0
    [0.69314718056, 0.69314718056, 0.69314718056]
    """
    L_i2t = bce(S, W)
    L_t2i = bce(S_hat, W)
    return ContrastiveLoss(L_i2t, L_t2i, (L_i2t + L_t2i) / 2)


# ---------------------------------------------------------------- II-D: classification


@takes(I_groups="[B *]")
def concat(I_groups: Sequence[np.ndarray]) -> np.ndarray:  # n x (B, d_i) -> (B, sum d_i)
    """Eq. (9): I = Concat([I_1, ..., I_n]), the fused feature of each sample.

    Formula:  the features of the groups side by side, in the order given (the paper's prompt list: RGB first).
    Gradient: dL/dI_i is the block of columns of G that came from I_i.
    Source:   Eq. (9). Features as they left E_m; the other reading normalises them (II-B2).

    >>> concat([onp.array([[1.0, 2.0]]), onp.array([[3.0]])]).tolist()
    [[1.0, 2.0, 3.0]]
    """
    return np.concatenate(I_groups, axis=1)


@takes(L_cls="", L_con="", beta="coefficient")
def total_loss(L_cls: np.ndarray, L_con: np.ndarray, beta: float) -> np.ndarray:  # scalars -> scalar
    """Eq. (10): L = L_cls + beta L_con.

    Gradient: dL/dL_cls = G,  dL/dL_con = beta G,  dL/dbeta = L_con G, should beta be learnt.
    Source:   Eq. (10); beta = 2 in III-A.

    >>> total_loss(2.5, 0.25, beta=2)
    3.0
    """
    return L_cls + beta * L_con


@takes(c_hat="B K", c="labels B < K")
def cross_entropy(c_hat: np.ndarray, c: np.ndarray) -> np.ndarray:  # (B, K), (B,) -> scalar
    """Eq. (11): CE(c_hat, c), the cross-entropy of the classifier's logits c_hat = D(I) against the classes c.

    Formula:  mean over j of -log softmax(c_hat_j)[c_j] = mean(log sum_k e^(c_hat[j, k]) - c_hat[j, c_j]).
    Gradient: dL/dc_hat = G (softmax(c_hat) - onehot(c)) / B.
    Reading:  the mean over the batch; the other reading is the sum. No label smoothing, no class weights.
    Source:   Eq. (11), which calls the labels c* (y* in Eq. 5: the same labels).

    >>> cross_entropy(onp.array([[0.0, 0.0], [1e4, 0.0]]), onp.array([0, 0])).item()  # ln(2) / 2
    0.34657359027997264
    """
    return -np.sum(log_softmax(c_hat)[onp.arange(len(c)), c]) / len(c)


def log_softmax(x: np.ndarray) -> np.ndarray:  # (B, K) -> (B, K)
    """x - log sum exp(x) over each row, shifted by the row's largest entry so that nothing overflows.

    >>> log_softmax(onp.array([[0.0, 0.0]])).round(6).tolist()
    [[-0.693147, -0.693147]]
    """
    z = x - onp.max(getval(x), axis=1, keepdims=True)  # the shift cancels, in value and in gradient
    return z - np.log(np.sum(np.exp(z), axis=1, keepdims=True))


# ---------------------------------------------------------------- Fig. 1 after the encoders


def objective(
    I_i: dict[str, np.ndarray],
    T_i: dict[str, np.ndarray] | None,
    y: np.ndarray,
    c_hat: np.ndarray,
    alpha: float,
    beta: float,
    *,
    matrix: Callable = supervised_matrix,
    contrastive: Callable = contrastive_loss,
) -> dict:  # {group: (B, d)}, {group: (B, d)}, (B,), (B, K) -> {symbol: value}
    """Fig. 1 after the encoders and the classifier: Eqs. (3)-(8), (10), (11), every symbol by name.

    I_i and T_i hold one feature matrix per band group. T_i = None is training without prompts, Table III's first
    row: L = L_cls. `matrix(y, dtype)` is Eq. (5) and `contrastive(S, S_hat, W)` Eq. (6), for the variants that
    people compare with the paper's (variants.py).

    >>> one = {"RGB": onp.array([[1.0, 0.0], [0.0, 1.0]])}
    >>> trace = objective(one, one, onp.array([4, 7]), onp.zeros((2, 17)), alpha=0.25, beta=2)
    >>> list(trace)
    ['S_i', 'S_hat_i', 'S', 'S_hat', 'W', 'L_i2t', 'L_t2i', 'L_con', 'L_cls', 'L']
    >>> trace["S"].tolist(), round(trace["L"].item(), 4)
    ([[0.25, 0.0], [0.0, 0.25]], 4.1023)
    """
    L_cls = cross_entropy(c_hat, y)  # Eq. (11)
    if T_i is None:
        return {"L_cls": L_cls, "L": L_cls}
    both = {group: similarity(I_i[group], T_i[group]) for group in I_i}
    S_i, S_hat_i = ({group: pair[k] for group, pair in both.items()} for k in (0, 1))
    S = fuse(list(S_i.values()), alpha)  # Eq. (3)
    S_hat = fuse(list(S_hat_i.values()), alpha)  # Eq. (4)
    W = matrix(y, getval(S).dtype)  # Eq. (5)
    L_i2t, L_t2i, L_con = contrastive(S, S_hat, W)  # Eqs. (7), (8), (6)
    L = total_loss(L_cls, L_con, beta)  # Eq. (10)
    trace = {"S_i": S_i, "S_hat_i": S_hat_i, "S": S, "S_hat": S_hat, "W": W}
    return trace | {"L_i2t": L_i2t, "L_t2i": L_t2i, "L_con": L_con, "L_cls": L_cls, "L": L}

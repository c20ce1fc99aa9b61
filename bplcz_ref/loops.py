"""Eqs. (1)-(11) and the SGD rule as scalar loops over nested lists, as the paper prints them, number by number.

The functions run alike on `float` and on `decimal.Decimal`, so that the same lines give a value to 16 digits or to
50. Give one kind of number only: Decimal does not mix with float. This file is the yardstick of values for
equations.py and for other implementations: it is never optimised and never NumPy. It checks sizes alone;
equations.py says what is wrong with an input, and in_one_file.py derives the gradients by hand.

Index letters: B images (index j), P prompts (index k; P = B in the paper), d feature size (index q), n band groups
(index i), K classes. A matrix is a list of rows.

>>> from decimal import Decimal
>>> S_i, S_hat_i = similarity([[3.0, 4.0]], [[1.0, 0.0], [0.0, 2.0]])
>>> S_i, S_hat_i
([[0.6, 0.8]], [[0.6], [0.8]])
>>> print(bce([[Decimal(0)]], [[1]]))  # ln 2, to the digits of decimal's context
0.6931471805599453094172321215
"""

import math
from collections.abc import Callable
from decimal import Decimal, getcontext
from typing import Any

Number = Any  # float or Decimal, one kind in a call
Vector = list  # of Numbers
Matrix = list  # of rows


def exp(x: Number) -> Number:
    return x.exp() if isinstance(x, Decimal) else math.exp(x)


def log(x: Number) -> Number:
    return x.ln() if isinstance(x, Decimal) else math.log(x)


def sqrt(x: Number) -> Number:
    return x.sqrt() if isinstance(x, Decimal) else math.sqrt(x)


def log1p(x: Number) -> Number:
    """log(1 + x) that keeps the digits of a small x, for either kind of number."""
    if not isinstance(x, Decimal):
        return math.log1p(x)
    tiny = x != 0 and x.adjusted() < -getcontext().prec // 3  # three terms of the series then reach every digit
    return x - x * x / 2 + x * x * x / 3 if tiny else (1 + x).ln()


def number(value: Number | str | int, like: Number) -> Number:
    """`value` in the number type of `like`, so that alpha = 0.25 or eps = "1e-12" serve both kinds."""
    return Decimal(value) if isinstance(like, Decimal) else float(value)


def sigmoid(s: Number) -> Number:
    """sigma(s) = 1 / (1 + e^-s), never with a positive exponent, so that no float overflows."""
    return 1 / (1 + exp(-s)) if s >= 0 else exp(s) / (1 + exp(s))


def log_sigmoid(s: Number) -> Number:
    """log sigma(s), also where sigma(s) itself would round to 0 or 1."""
    return -log1p(exp(-s)) if s >= 0 else s - log1p(exp(s))


def size(*matrices: Matrix) -> tuple[int, int]:
    """(rows, columns) of matrices of one size."""
    found = {(len(A), len(row)) for A in matrices for row in A}
    if len(found) != 1:
        raise ValueError(f"found rows of matrices of the sizes {sorted(found)}, expected one size")
    return found.pop()


def transpose(A: Matrix) -> Matrix:  # (B, P) -> (P, B)
    return [list(column) for column in zip(*A, strict=True)]


# ---------------------------------------------------------------- II-B: band group prompting


def image_features(E_m: Callable, X_i: list) -> Matrix:  # B samples of group i -> (B, d)
    """Eq. (1)  I_i = E_m(X_i): the encoder of group i, applied to each sample of the batch."""
    return [E_m(X) for X in X_i]


def text_features(E_t: Callable, t_i: list) -> Matrix:  # B prompts of group i -> (B, d)
    """Eq. (2)  T_i = E_t(t_i): the text encoder, one for all groups, applied to each prompt of the batch."""
    return [E_t(t) for t in t_i]


def normalise(x: Vector, eps: str = "1e-12") -> Vector:  # (d,) -> (d,)
    """II-B2: x / max(||x||, eps). eps is outside the root, so a vector of ordinary length loses no digit."""
    norm = max(sqrt(sum(x_q * x_q for x_q in x)), number(eps, x[0]))
    return [x_q / norm for x_q in x]


def similarity(I_i: Matrix, T_i: Matrix) -> tuple[Matrix, Matrix]:  # (B, d), (P, d) -> (B, P), (P, B)
    """II-B2: S_i[j][k] = cos(I_i^j, T_i^k) and S_hat_i[k][j] = cos(T_i^k, I_i^j)."""
    B, P, (_, d) = len(I_i), len(T_i), size(I_i + T_i)
    u = [normalise(x) for x in I_i]
    v = [normalise(x) for x in T_i]
    S_i = [[sum(u[j][q] * v[k][q] for q in range(d)) for k in range(P)] for j in range(B)]
    S_hat_i = [[sum(v[k][q] * u[j][q] for q in range(d)) for j in range(B)] for k in range(P)]
    return S_i, S_hat_i


def fuse(S_groups: list[Matrix], alpha: float) -> Matrix:  # n x (B, P) -> (B, P)
    """Eq. (3) and Eq. (4)  S[j][k] = alpha sum_i S_i[j][k]: a sum over the groups, not a mean."""
    n, (B, P) = len(S_groups), size(*S_groups)
    S = [[0] * P for j in range(B)]
    for j in range(B):
        for k in range(P):
            S_jk = sum(S_groups[i][j][k] for i in range(n))
            S[j][k] = number(alpha, S_jk) * S_jk
    return S


# ---------------------------------------------------------------- II-C: multivariate supervised matrix


def supervised_matrix(y: list[int]) -> Matrix:  # (B,) -> (B, B)
    """Eq. (5)  W[j][k] = 1 if y_j = y_k, else 0 (integers, which both kinds of number multiply exactly)."""
    B = len(y)
    return [[1 if y[j] == y[k] else 0 for k in range(B)] for j in range(B)]


def bce(S: Matrix, W: Matrix) -> Number:  # (B, P), (B, P) -> scalar
    """Eq. (7) and Eq. (8)  BCE(sigma(S), W) = mean of -(W log sigma(S) + (1 - W) log(1 - sigma(S))).

    As printed, with 1 - sigma(s) written sigma(-s), which saves the digits that the subtraction loses near 1.
    """
    B, P = size(S, W)
    total = 0
    for j in range(B):
        for k in range(P):
            total -= W[j][k] * log_sigmoid(S[j][k]) + (1 - W[j][k]) * log_sigmoid(-S[j][k])
    return total / (B * P)  # the mean; the other reading is the sum


def contrastive_loss(
    S: Matrix, S_hat: Matrix, W: Matrix
) -> tuple[Number, Number, Number]:  # (B, B) x 3 -> three scalars
    """Eq. (6), (7), (8)  L_i2t = BCE(sigma(S), W), L_t2i = BCE(sigma(S_hat), W), L_con = (L_i2t + L_t2i) / 2."""
    L_i2t = bce(S, W)
    L_t2i = bce(S_hat, W)
    return L_i2t, L_t2i, (L_i2t + L_t2i) / 2


# ---------------------------------------------------------------- II-D: classification


def concat(I_groups: list[Matrix]) -> Matrix:  # n x (B, d_i) -> (B, sum d_i)
    """Eq. (9)  I = Concat([I_1, ..., I_n]), sample by sample, features as they left E_m (not normalised)."""
    return [[x for I_i in sample for x in I_i] for sample in zip(*I_groups, strict=True)]


def total_loss(L_cls: Number, L_con: Number, beta: float) -> Number:
    """Eq. (10)  L = L_cls + beta L_con."""
    return L_cls + number(beta, L_con) * L_con


def cross_entropy(c_hat: Matrix, c: list[int]) -> Number:  # (B, K), (B,) -> scalar
    """Eq. (11)  CE(c_hat, c) = mean of -log softmax(c_hat_j)[c_j], classes counted from 0."""
    total = 0
    for x, c_j in zip(c_hat, c, strict=True):
        m = max(x)  # taken from every logit: softmax stays the same, and no float overflows
        total += log(sum(exp(x_k - m) for x_k in x)) - (x[c_j] - m)
    return total / len(c)  # the mean over the batch; the other reading is the sum


# ---------------------------------------------------------------- Fig. 1 after the encoders


def objective(
    I_i: dict, T_i: dict, y: list[int], c_hat: Matrix, alpha: float, beta: float
) -> dict:  # {group: (B, d)}, {group: (B, d)}, (B,), (B, K) -> {symbol: value}
    """Eqs. (3) to (8), (10) and (11) in a chain: every symbol by name."""
    S_i, S_hat_i = {}, {}
    for i in I_i:
        S_i[i], S_hat_i[i] = similarity(I_i[i], T_i[i])
    S = fuse(list(S_i.values()), alpha)
    S_hat = fuse(list(S_hat_i.values()), alpha)
    W = supervised_matrix(y)
    L_i2t, L_t2i, L_con = contrastive_loss(S, S_hat, W)
    L_cls = cross_entropy(c_hat, y)
    L = total_loss(L_cls, L_con, beta)
    trace = {"S_i": S_i, "S_hat_i": S_hat_i, "S": S, "S_hat": S_hat, "W": W}
    return trace | {"L_i2t": L_i2t, "L_t2i": L_t2i, "L_con": L_con, "L_cls": L_cls, "L": L}


# ---------------------------------------------------------------- III-A: stochastic gradient descent


def sgd(
    w: Vector, gradient: Vector, v: Vector | None, lr: float, momentum: float, weight_decay: float
) -> tuple[Vector, Vector]:  # lists of equal length -> (new w, new v)
    """One step: g = gradient + weight_decay w;  v = momentum v + g;  w = w - lr v.

    `v` is None at the first step, which takes v = g. This is PyTorch's rule. Other readings:
    v = momentum v - lr g, which differs once lr changes, and Nesterov's.
    """
    g = [g_q + number(weight_decay, w_q) * w_q for g_q, w_q in zip(gradient, w, strict=True)]
    if v is None:
        v = g
    else:
        v = [number(momentum, v_q) * v_q + g_q for v_q, g_q in zip(v, g, strict=True)]
    return [w_q - number(lr, w_q) * v_q for w_q, v_q in zip(w, v, strict=True)], v

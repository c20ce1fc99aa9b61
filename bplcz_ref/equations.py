"""Eqs. (3)-(11) on arrays through autograd.numpy, in the paper's order: what the model uses.

Eqs. (1) and (2), the encoders, are in `encoders/`; `loops.py` has the same equations one number at a time.
Not here: layers, parameters of encoders, and any speed-up that hides the formula.

Index letters: B images (index j), P prompts (index k; P = B in the paper), d feature size, n band groups
(index i), K classes. Arrays are float32 or float64. What goes in as float32 stays float32 in every value and every
gradient, so `max`, `where` and `mean`, whose gradients autograd returns in float64, are not used. Every function
takes autograd's boxes and is differentiable in its floating arguments. G stands for dL/d(output) below.
"""

from typing import NamedTuple

import autograd.numpy as np
import numpy as onp
from autograd.tracer import getval, isbox

EPS = 1e-12  # the least norm that a feature is divided by


class ContrastiveLoss(NamedTuple):
    L_i2t: object
    L_t2i: object
    L_con: object


def _floating(name, x, ndim):
    """x as an array (a box stays a box), checked to be float32 or float64 with `ndim` axes."""
    x = x if isbox(x) else onp.asarray(x)
    value = getval(x)
    if value.dtype not in (onp.float32, onp.float64):
        raise ValueError(f"{name}: found dtype {value.dtype}, expected float32 or float64; convert it with astype")
    if value.ndim != ndim:
        raise ValueError(f"{name}: found shape {value.shape}, expected {ndim} axes")
    if value.size == 0:
        raise ValueError(f"{name}: found the empty shape {value.shape}, expected at least one entry")
    return x


def _same(what, names, values):
    """Check that `what` (a shape or a dtype) agrees."""
    if any(value != values[0] for value in values):
        found = ", ".join(f"{name} {value}" for name, value in zip(names, values, strict=True))
        raise ValueError(f"{what} must agree, found {found}")


def _scalar(name, x, like):
    """A coefficient: NumPy's float64 numbers would turn float32 arrays into float64, Python's do not."""
    if not isbox(x):
        return float(x)
    if hasattr(getval(x), "dtype"):
        _same("dtypes", (name, "the array"), (getval(x).dtype, onp.asarray(getval(like)).dtype))
    return x


def _labels(name, y, K=None):
    """Integer labels of shape (B,), within 0..K-1 where K is given."""
    y = onp.asarray(getval(y))
    if y.ndim != 1 or y.size == 0:
        raise ValueError(
            f"{name}: found shape {y.shape}, expected one class number a sample, shape (B,), B >= 1; "
            "for one-hot labels take argmax(axis=1)"
        )
    if y.dtype.kind not in "iu":
        raise ValueError(f"{name}: found dtype {y.dtype}, expected integer class numbers; use astype(int)")
    if K is not None and (y.min() < 0 or y.max() >= K):
        row = int(onp.flatnonzero((y < 0) | (y >= K))[0])
        raise ValueError(
            f"{name}: row {row} has class {y[row]}, expected 0..{K - 1}; classes are counted from 0, "
            f"one for each of the {K} columns of c_hat"
        )
    return y


def _binary(W, S, S_name):
    """W in the dtype of S (exact, since its entries are 0 and 1)."""
    W, S = onp.asarray(getval(W)), getval(S)
    if W.shape != S.shape:
        raise ValueError(f"W: found shape {W.shape}, expected that of {S_name}, {S.shape}")
    if not onp.all((W == 0) | (W == 1)):
        bad = tuple(int(q) for q in onp.argwhere(~((W == 0) | (W == 1)))[0])
        raise ValueError(f"W: entry {bad} is {W[bad]}, expected 0 or 1; build W with supervised_matrix (Eq. 5)")
    return W.astype(S.dtype)


# ---------------------------------------------------------------- II-B: band group prompting


def _normalise(x):  # (B, d) -> (B, d)
    """x / max(||x||, EPS), row by row. EPS stands outside the root; inside it, every feature would shrink."""
    square = np.sum(x * x, axis=1, keepdims=True)
    # A 0/1 factor, since the gradient of `maximum` is float64.
    above = (getval(square) > EPS**2).astype(getval(x).dtype)
    norm = np.sqrt(square * above + (1 - above))  # 1 where the norm is not used: the root has no slope at 0
    return x / (norm * above + EPS * (1 - above))


def similarity(I_i, T_i):  # (B, d), (P, d) -> (B, P), (P, B)
    """II-B2, before Eq. (3): the cosine similarities of one band group, image-text S_i and text-image S_hat_i.

    Formula:  u_j = I_i^j / max(||I_i^j||, 1e-12),  v_k = T_i^k / max(||T_i^k||, 1e-12);
              S_i[j, k] = u_j . v_k,  S_hat_i[k, j] = v_k . u_j, the transpose of S_i.
    Gradient: with M = G + G_hat^T:  dL/du = M v,  dL/dv = M^T u,
              dL/dx = (g - u (u . g)) / ||x|| through a norm: at right angles to x, so its length is free.
              At x = 0 the value is 0 and dL/dx = g / 1e-12: exact, finite, large (a dead ReLU multiplies it by 0).
    Shapes:   any B and P; d must agree. float32 or float64, both alike; in float32 norms up to 1e19.
    Errors:   ValueError for other ranks, dtypes or sizes.
    Source:   arXiv 2412.18235, II-B2. The bound 1e-12 is ours; a plain division gives nan for a zero feature.

    >>> S_i, S_hat_i = similarity(onp.array([[3.0, 4.0]]), onp.array([[1.0, 0.0], [0.0, 2.0]]))
    >>> S_i.tolist(), S_hat_i.tolist()
    ([[0.6, 0.8]], [[0.6], [0.8]])
    """
    I_i, T_i = _floating("I_i", I_i, 2), _floating("T_i", T_i, 2)
    _same("feature sizes", ("I_i", "T_i"), (I_i.shape[1], T_i.shape[1]))
    _same("dtypes", ("I_i", "T_i"), (getval(I_i).dtype, getval(T_i).dtype))
    u, v = _normalise(I_i), _normalise(T_i)
    return np.dot(u, v.T), np.dot(v, u.T)


def fuse(S_groups, alpha):  # n x (B, P), scalar -> (B, P)
    """Eq. (3) and Eq. (4): S = alpha sum_i S_i, and S_hat = alpha sum_i S_hat_i by the same function.

    Formula:  S[j, k] = alpha sum_{i=1..n} S_i[j, k], so |S| <= alpha n = 0.25 x 7 = 1.75 in the paper.
    Gradient: dL/dS_i = alpha G for every i;  dL/dalpha = sum(G * sum_i S_i), should alpha be learnt.
    Shapes:   n >= 1 matrices of one shape and dtype.
    Reduction: the sum over groups, as printed; the other reading, the mean, makes S seven times smaller.
    Errors:   ValueError for no group at all and for groups that differ in shape or dtype.
    Source:   arXiv 2412.18235, Eqs. (3), (4); alpha = 0.25 in III-A, a constant.

    >>> fuse([onp.array([[1.0, -0.5]]), onp.array([[0.5, -1.0]])], alpha=0.25).tolist()
    [[0.375, -0.375]]
    """
    S_groups = [_floating(f"S_groups[{i}]", S_i, 2) for i, S_i in enumerate(S_groups)]
    if not S_groups:
        raise ValueError("S_groups: found no band group, expected at least one similarity matrix")
    names = [f"S_groups[{i}]" for i in range(len(S_groups))]
    _same("shapes", names, [S_i.shape for S_i in S_groups])
    _same("dtypes", names, [getval(S_i).dtype for S_i in S_groups])
    total = S_groups[0]
    for S_i in S_groups[1:]:
        total = total + S_i
    return _scalar("alpha", alpha, total) * total


# ---------------------------------------------------------------- II-C: multivariate supervised matrix


def supervised_matrix(y, dtype=onp.float64):  # (B,) -> (B, B)
    """Eq. (5): the multivariate supervised matrix, W[j, k] = 1 if y_j = y_k, else 0.

    Shapes:   integer labels (B,) -> (B, B) of `dtype`, symmetric, with ones on the diagonal. No gradient.
    Errors:   ValueError for labels that are not integers of shape (B,) and for a dtype that is not floating.
    Source:   arXiv 2412.18235, Eq. (5). "Without MSM" (Table III) is read as W = I: CONTRASTIVE["identity"].

    >>> supervised_matrix(onp.array([3, 8, 3]), onp.float32).tolist()
    [[1.0, 0.0, 1.0], [0.0, 1.0, 0.0], [1.0, 0.0, 1.0]]
    """
    y = _labels("y", y)
    if onp.dtype(dtype) not in (onp.float32, onp.float64):
        raise ValueError(f"dtype: found {onp.dtype(dtype)}, expected float32 or float64")
    return (y[:, None] == y[None, :]).astype(dtype)


def bce(S, W):  # (B, P), (B, P) -> scalar
    """Eq. (7) and Eq. (8): BCE(sigma(S), W), the binary cross-entropy of logits S against W.

    Formula:  mean over j, k of -(W log sigma(S) + (1 - W) log(1 - sigma(S)))
              = mean(log(1 + e^S) - W S) = mean(log(1 + e^((1 - 2W) S))), the last for W in {0, 1}, which keeps
              the digits of a saturated pair.
    Gradient: dL/dS = G (sigma(S) - W) / (B P).
    Shapes:   S and W alike; W of any dtype is taken in that of S.
    Reduction: the mean over all B P entries; the other readings are their sum, and the sum over rows per sample.
    Errors:   ValueError for shapes that differ and for W that is not 0 or 1.
    Source:   arXiv 2412.18235, Eqs. (7), (8); the reduction is unstated.

    >>> bce(onp.array([[0.0, 1e4], [-1e4, 0.0]]), onp.array([[1, 1], [0, 0]])).item()  # ln(2) / 2
    0.34657359027997264
    """
    S = _floating("S", S, 2)
    W = _binary(W, S, "S")
    return np.sum(np.logaddexp(0, (1 - 2 * W) * S)) / W.size


def contrastive_loss(S, S_hat, W):  # (B, B) x 3 -> three scalars
    """Eq. (6), with Eq. (7) and Eq. (8): the contrastive loss and its two directions.

    Formula:  L_i2t = BCE(sigma(S), W),  L_t2i = BCE(sigma(S_hat), W),  L_con = (L_i2t + L_t2i) / 2.
    Gradient: dL/dS = G (sigma(S) - W) / (2 B^2), and likewise for S_hat. Since S_hat = S^T and W = W^T, the two
              sides add up to dL/dS_i = G alpha (sigma(S) - W) / B^2 at each group, and L_i2t = L_t2i.
    Shapes:   square; returns (L_i2t, L_t2i, L_con), a named tuple.
    Errors:   ValueError for shapes or dtypes that differ, W not 0 or 1, or not symmetric: Eq. (8) sets the one W
              beside the transposed matrix.
    Source:   arXiv 2412.18235, Eqs. (6)-(8).

    >>> L = contrastive_loss(onp.zeros((2, 2)), onp.zeros((2, 2)), onp.eye(2))
    >>> [round(float(x), 12) for x in L]  # ln 2 at S = 0
    [0.69314718056, 0.69314718056, 0.69314718056]
    """
    S, S_hat, W = _square(S, S_hat, W)
    return _halves(bce(S, W), bce(S_hat, W))


def _square(S, S_hat, W):
    """The arguments of a contrastive loss, checked."""
    S, S_hat = _floating("S", S, 2), _floating("S_hat", S_hat, 2)
    if S.shape[0] != S.shape[1]:
        raise ValueError(f"S: found shape {S.shape}, expected (B, B): one prompt a sample")
    _same("shapes", ("S", "S_hat"), (S.shape, S_hat.shape))
    _same("dtypes", ("S", "S_hat"), (getval(S).dtype, getval(S_hat).dtype))
    W = _binary(W, S, "S")
    if not onp.array_equal(W, W.T):
        raise ValueError("W: found a matrix that is not symmetric, expected W of Eq. (5), where W = W^T")
    return S, S_hat, W


def _halves(L_i2t, L_t2i):
    """Eq. (6)."""
    return ContrastiveLoss(L_i2t, L_t2i, (L_i2t + L_t2i) / 2)


# ---------------------------------------------------------------- II-D: classification


def concat(I_groups):  # n x (B, d_i) -> (B, sum d_i)
    """Eq. (9): I = Concat([I_1, ..., I_n]), the fused feature of each sample.

    Formula:  the features of the groups side by side, in the order given (the paper's prompt list: RGB first).
    Gradient: dL/dI_i is the block of columns of G that came from I_i.
    Shapes:   one B and one dtype; widths may differ.
    Errors:   ValueError for no group and for groups that differ in B or dtype.
    Source:   arXiv 2412.18235, Eq. (9). Features as they left E_m; the other reading normalises them (II-B2).

    >>> concat([onp.array([[1.0, 2.0]]), onp.array([[3.0]])]).tolist()
    [[1.0, 2.0, 3.0]]
    """
    I_groups = [_floating(f"I_groups[{i}]", I_i, 2) for i, I_i in enumerate(I_groups)]
    if not I_groups:
        raise ValueError("I_groups: found no band group, expected at least one feature matrix")
    names = [f"I_groups[{i}]" for i in range(len(I_groups))]
    _same("numbers of samples", names, [I_i.shape[0] for I_i in I_groups])
    _same("dtypes", names, [getval(I_i).dtype for I_i in I_groups])
    return np.concatenate(I_groups, axis=1)


def total_loss(L_cls, L_con, beta):  # scalars -> scalar
    """Eq. (10): L = L_cls + beta L_con.

    Gradient: dL/dL_cls = G,  dL/dL_con = beta G,  dL/dbeta = L_con G, should beta be learnt.
    Errors:   ValueError for an L_cls or L_con that is not one number, and for dtypes that differ.
    Source:   arXiv 2412.18235, Eq. (10); beta = 2 in III-A.

    >>> total_loss(2.5, 0.25, beta=2)
    3.0
    """
    for name, x in (("L_cls", L_cls), ("L_con", L_con)):
        if onp.shape(getval(x)) != ():
            raise ValueError(f"{name}: found shape {onp.shape(getval(x))}, expected one number; reduce it first")
    numbers = [getval(x) for x in (L_cls, L_con) if hasattr(getval(x), "dtype")]  # Python's numbers take either
    _same("dtypes", ("L_cls", "L_con")[: len(numbers)], [x.dtype for x in numbers])
    return L_cls + _scalar("beta", beta, L_con) * L_con


def _log_softmax(x):  # (B, K) -> (B, K), over each row
    z = x - onp.max(getval(x), axis=1, keepdims=True)  # a constant that cancels, in value and in gradient
    return z - np.log(np.sum(np.exp(z), axis=1, keepdims=True))


def cross_entropy(c_hat, c):  # (B, K), (B,) -> scalar
    """Eq. (11): CE(c_hat, c), the cross-entropy of the classifier's logits c_hat = D(I) against the classes c.

    Formula:  mean over j of -log softmax(c_hat_j)[c_j] = mean(log sum_k e^(c_hat[j, k]) - c_hat[j, c_j]).
    Gradient: dL/dc_hat = G (softmax(c_hat) - onehot(c)) / B.
    Shapes:   c holds integer classes 0..K-1.
    Reduction: the mean over the batch; the other reading is the sum. No label smoothing, no class weights.
    Errors:   ValueError for labels out of range, one-hot or of another length.
    Source:   arXiv 2412.18235, Eq. (11), which calls the labels c* (y* in Eq. 5: the same labels).

    >>> cross_entropy(onp.array([[0.0, 0.0], [1e4, 0.0]]), onp.array([0, 0])).item()  # ln(2) / 2
    0.34657359027997264
    """
    c_hat = _floating("c_hat", c_hat, 2)
    c = _labels("c", c, c_hat.shape[1])
    _same("numbers of samples", ("c_hat", "c"), (c_hat.shape[0], c.shape[0]))
    return -np.sum(_log_softmax(c_hat)[onp.arange(len(c)), c]) / len(c)

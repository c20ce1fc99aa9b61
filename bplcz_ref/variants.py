"""The contrastive losses that people compare with the paper's, by name: what takes the place of Eqs. (5) to (8).

Adding one is one entry of VARIANTS: the setting `contrastive`, the command line and the tests over all variants
read it there. Each docstring says in what the loss differs from the paper's.

Every loss is called as `loss(params, S, S_hat, W, alpha_n)`: S, S_hat of Eqs. (3), (4), W of Eq. (5), alpha_n =
alpha times n. Published temperatures belong to cosines in [-1, 1]. Here C = S / (alpha n), the mean cosine of the
groups, takes that place; the other reading, their sum, would make every published temperature n times sharper.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import autograd.numpy as np
import numpy as onp
from autograd.tracer import getval
from numpy.typing import DTypeLike

from bplcz_ref import paper
from bplcz_ref.checks import takes
from bplcz_ref.equations import ContrastiveLoss, bce, contrastive_loss, log_softmax, supervised_matrix

MAX_SCALE = 100.0  # CLIP's bound on its learnable scale

matrices = takes(S="B B", S_hat="B B", W="symmetric B B", alpha_n="positive")


class Variant(NamedTuple):
    """A contrastive loss with its own parameters, and the W that it is compared with."""

    loss: Callable  # params, S, S_hat, W, alpha_n -> ContrastiveLoss
    init: Callable = lambda dtype: {}  # dtype -> params, a dict of 0-d arrays
    matrix: Callable = supervised_matrix  # y, dtype -> W


def paper_loss(
    params: dict, S: np.ndarray, S_hat: np.ndarray, W: np.ndarray, alpha_n: float
) -> ContrastiveLoss:  # (B, B) x 3 -> three scalars
    """Source: arXiv 2412.18235, Eqs. (6)-(8). The paper's loss itself; it needs neither parameters nor alpha_n."""
    return contrastive_loss(S, S_hat, W)


def identity_matrix(y: np.ndarray, dtype: DTypeLike = onp.float64) -> onp.ndarray:  # (B,) -> (B, B)
    """W = I: Table III's row "BGP without MSM", as read here. Each sample is positive with its own prompt alone.

    >>> identity_matrix(onp.array([3, 3])).tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """
    return onp.eye(len(y), dtype=dtype)


@matrices
def infonce(params: dict, S: np.ndarray, S_hat: np.ndarray, W: np.ndarray, alpha_n: float) -> ContrastiveLoss:
    """Source: CLIP (Radford et al. 2021, the paper's reference [12]). Start: logit_scale = ln(1 / 0.07).

    L_i2t = mean_j -log softmax_k(s C[j, :])[j],  L_t2i the same on S_hat,  s = e^logit_scale <= 100.
    Differs from the paper's loss: a softmax over each row in place of a sigmoid for each pair; only the diagonal
    is positive, W is not used; a learnable scale. A row with m equal texts cannot have a loss below ln m.
    """
    s, own = clip_scale(params, S), onp.arange(W.shape[0])
    return mean_of_directions(*(-np.sum(log_softmax(s * (X / alpha_n))[own, own]) / len(own) for X in (S, S_hat)))


@matrices
def unicl(params: dict, S: np.ndarray, S_hat: np.ndarray, W: np.ndarray, alpha_n: float) -> ContrastiveLoss:
    """Source: UniCL (Yang et al. 2022). Start: logit_scale = ln(1 / 0.07).

    L_i2t = mean_j -(1 / |P(j)|) sum_{k in P(j)} log softmax_k(s C[j, :])[k],  P(j) = {k: W[j, k] = 1}.
    Differs from the paper's loss: a softmax over each row, compared with W / rowsum(W); a learnable scale.
    UniCL adds its two directions; here they are averaged as in Eq. (6), so that beta means the same.
    """
    positives = onp.sum(W, axis=1, keepdims=True)
    if not onp.all(positives > 0):
        raise ValueError(f"W: row {int(onp.argmin(positives))} has no positive, expected at least its diagonal")
    s, share = clip_scale(params, S), W / positives
    return mean_of_directions(*(-np.sum(share * log_softmax(s * (X / alpha_n))) / len(W) for X in (S, S_hat)))


@matrices
def siglip(params: dict, S: np.ndarray, S_hat: np.ndarray, W: np.ndarray, alpha_n: float) -> ContrastiveLoss:
    """Source: SigLIP (Zhai et al. 2023). Start: logit_scale t' = ln 10, logit_bias b = -10.

    L_i2t = (1 / B) sum_jk log(1 + e^(-z (e^t' C + b))),  z = 2W - 1.
    Differs from the paper's loss: learnable scale and bias, so that the loss tends to 0; the sum over a row in
    place of its mean (B times larger). SigLIP has positives on the diagonal only; here z follows W.
    """
    t, b = np.exp(learnt(params, "logit_scale", S)), learnt(params, "logit_bias", S)
    return mean_of_directions(*(len(W) * bce(t * (X / alpha_n) + b, W) for X in (S, S_hat)))


@matrices
def bce_scale_bias(
    params: dict, S: np.ndarray, S_hat: np.ndarray, W: np.ndarray, alpha_n: float
) -> ContrastiveLoss:
    """Source: the paper's loss with SigLIP's two parameters. Start: t' = 0, b = logit(expected mean(W)) = -2.335.

    L_i2t = BCE(sigma(e^t' S + b), W).
    Differs from the paper's loss by these two parameters only; at t' = 0, b = 0 it is the paper's.
    """
    t, b = np.exp(learnt(params, "logit_scale", S)), learnt(params, "logit_bias", S)
    return contrastive_loss(t * S + b, t * S_hat + b, W)


def mean_of_directions(L_i2t: np.ndarray, L_t2i: np.ndarray) -> ContrastiveLoss:
    """Eq. (6): L_con = (L_i2t + L_t2i) / 2."""
    return ContrastiveLoss(L_i2t, L_t2i, (L_i2t + L_t2i) / 2)


# ---------------------------------------------------------------- learnable scale and bias


def learnt(params: dict, name: str, S: np.ndarray) -> np.ndarray:
    """The parameter `name`; in another dtype than S it would turn the whole loss into that dtype."""
    if name not in params:
        raise ValueError(f"params: found {sorted(params)}, expected {name!r}; start from the variant's init")
    dtypes = [onp.asarray(getval(x)).dtype for x in (params[name], S)]
    if dtypes[0] != dtypes[1]:
        raise ValueError(f"{name}: found dtype {dtypes[0]}, expected {dtypes[1]}, as in S")
    return params[name]


def clip_scale(params: dict, S: np.ndarray) -> np.ndarray | float:
    """e^logit_scale, at most 100, without slope above; the other reading clips the parameter after each step."""
    logit_scale = learnt(params, "logit_scale", S)
    return np.exp(logit_scale) if getval(logit_scale) <= math.log(MAX_SCALE) else MAX_SCALE


def starting(**values: float) -> Callable:
    """The init of a variant whose parameters start with these values."""
    return lambda dtype: {name: onp.array(value, dtype) for name, value in values.items()}


CLIP = starting(logit_scale=math.log(1 / 0.07))  # a temperature of 0.07
# The expected mean(W) at the paper's B = 32, K = 17: 1/B of the entries are the diagonal, of the others one in K
# is positive. With its logit as the bias, the loss starts without a common push.
MEAN_W = 1 / paper.BATCH + (1 - 1 / paper.BATCH) / len(paper.CLASSES)
VARIANTS = {
    "paper": Variant(paper_loss),
    "identity": Variant(paper_loss, matrix=identity_matrix),
    "infonce": Variant(infonce, CLIP),
    "unicl": Variant(unicl, CLIP),
    "siglip": Variant(siglip, starting(logit_scale=math.log(10), logit_bias=-10)),
    "bce-scale-bias": Variant(bce_scale_bias, starting(logit_scale=0, logit_bias=math.log(MEAN_W / (1 - MEAN_W)))),
}

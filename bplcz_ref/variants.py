"""The contrastive losses that people would compare with the paper's, by name and with one signature."""

import math
from collections.abc import Callable
from typing import NamedTuple

import autograd.numpy as np
import numpy as onp
from autograd.tracer import getval

from bplcz_ref import paper
from bplcz_ref.equations import _halves, _log_softmax, _same, _square, bce, contrastive_loss

# All take `loss(params, S, S_hat, W, alpha_n)`: S, S_hat of Eqs. (3), (4), W of Eq. (5), alpha_n = alpha times n.
# Published temperatures belong to cosines in [-1, 1]. Here C = S / (alpha n), the mean cosine of the groups, takes
# that place; the other reading, their sum, would make every published temperature n times sharper.


class Contrastive(NamedTuple):
    init: Callable  # dtype -> params, a dict of 0-d arrays
    loss: Callable  # params, S, S_hat, W, alpha_n -> ContrastiveLoss


MAX_SCALE = 100.0  # CLIP's bound on its learnable scale


def _learnt(params, name, S):
    """The parameter `name`, in the dtype of S: a float64 one would make the whole loss float64."""
    if name not in params:
        raise ValueError(f"params: found {sorted(params)}, expected {name!r}; start from the variant's init")
    _same("dtypes", (name, "S"), (onp.asarray(getval(params[name])).dtype, getval(S).dtype))
    return params[name]


def _no_parameters(dtype):
    return {}


def _paper(params, S, S_hat, W, alpha_n):
    """Source: arXiv 2412.18235, Eqs. (6)-(8). The paper's loss itself; no parameters, alpha_n is not needed."""
    return contrastive_loss(S, S_hat, W)


def _identity(params, S, S_hat, W, alpha_n):
    """Source: Table III's row "BGP without MSM", as read here. Differs from the paper's loss: W = identity."""
    return contrastive_loss(S, S_hat, onp.eye(len(onp.asarray(getval(W)))))


def _mean_cosine(S, S_hat, alpha_n):
    alpha_n = float(alpha_n)
    if not 0 < alpha_n < math.inf:
        raise ValueError(f"alpha_n: found {alpha_n}, expected alpha times the number of groups, above 0")
    return S / alpha_n, S_hat / alpha_n


def _clip_init(dtype):
    return {"logit_scale": onp.array(math.log(1 / 0.07), dtype)}


def _clip_scale(params, S):
    """e^logit_scale, at most 100, without slope above; the other reading clips the parameter after each step."""
    logit_scale = _learnt(params, "logit_scale", S)
    return np.exp(logit_scale) if getval(logit_scale) <= math.log(MAX_SCALE) else MAX_SCALE


def _infonce(params, S, S_hat, W, alpha_n):
    """Source: CLIP (Radford et al. 2021, the paper's reference [12]). Start: logit_scale = ln(1 / 0.07).

    L_i2t = mean_j -log softmax_k(s C[j, :])[j],  L_t2i the same on S_hat,  s = e^logit_scale <= 100.
    Differs from the paper's loss: a softmax over each row in place of a sigmoid for each pair; only the diagonal
    is positive, W is not used; a learnable scale. A row with m texts alike cannot do better than ln m.
    """
    S, S_hat, W = _square(S, S_hat, W)
    s, own = _clip_scale(params, S), onp.arange(W.shape[0])
    i2t, t2i = (-np.sum(_log_softmax(s * C)[own, own]) / len(own) for C in _mean_cosine(S, S_hat, alpha_n))
    return _halves(i2t, t2i)


def _unicl(params, S, S_hat, W, alpha_n):
    """Source: UniCL (Yang et al. 2022). Start: logit_scale = ln(1 / 0.07).

    L_i2t = mean_j -(1 / |P(j)|) sum_{k in P(j)} log softmax_k(s C[j, :])[k],  P(j) = {k: W[j, k] = 1}.
    Differs from the paper's loss: a softmax over each row, compared with W / rowsum(W); a learnable scale.
    UniCL adds its two directions; here they are averaged as in Eq. (6), so that beta means the same.
    """
    S, S_hat, W = _square(S, S_hat, W)
    positives = onp.sum(W, axis=1, keepdims=True)
    if not onp.all(positives > 0):
        raise ValueError(f"W: row {int(onp.argmin(positives))} has no positive, expected at least its diagonal")
    s, share = _clip_scale(params, S), W / positives
    i2t, t2i = (-np.sum(share * _log_softmax(s * C)) / len(W) for C in _mean_cosine(S, S_hat, alpha_n))
    return _halves(i2t, t2i)


def _siglip_init(dtype):
    return {"logit_scale": onp.array(math.log(10), dtype), "logit_bias": onp.array(-10, dtype)}


def _siglip(params, S, S_hat, W, alpha_n):
    """Source: SigLIP (Zhai et al. 2023). Start: logit_scale t' = ln 10, logit_bias b = -10.

    L_i2t = (1 / B) sum_jk log(1 + e^(-z (e^t' C + b))),  z = 2W - 1.
    Differs from the paper's loss: learnable scale and bias, so that the loss can reach 0; the sum over a row in
    place of its mean (B times larger). SigLIP has positives on the diagonal only; here z follows W.
    """
    S, S_hat, W = _square(S, S_hat, W)
    t, b = np.exp(_learnt(params, "logit_scale", S)), _learnt(params, "logit_bias", S)
    i2t, t2i = (len(W) * bce(t * C + b, W) for C in _mean_cosine(S, S_hat, alpha_n))
    return _halves(i2t, t2i)


def _bce_init(dtype):
    # The expected mean(W): 1/B on the diagonal and one in K beside it, at the paper's B = 32 and K = 17.
    p = 1 / paper.BATCH + (1 - 1 / paper.BATCH) / len(paper.CLASSES)
    return {"logit_scale": onp.array(0, dtype), "logit_bias": onp.array(math.log(p / (1 - p)), dtype)}


def _bce_scale_bias(params, S, S_hat, W, alpha_n):
    """Source: the paper's loss with SigLIP's two parameters. Start: t' = 0, b = logit(expected mean(W)) = -2.335.

    L_i2t = BCE(sigma(e^t' S + b), W).
    Differs from the paper's loss: by these two only; at t' = 0, b = 0 it is the paper's. alpha_n is not needed.
    """
    S, S_hat, W = _square(S, S_hat, W)
    t, b = np.exp(_learnt(params, "logit_scale", S)), _learnt(params, "logit_bias", S)
    return contrastive_loss(t * S + b, t * S_hat + b, W)


VARIANTS = {
    "paper": Contrastive(_no_parameters, _paper),
    "identity": Contrastive(_no_parameters, _identity),
    "infonce": Contrastive(_clip_init, _infonce),
    "unicl": Contrastive(_clip_init, _unicl),
    "siglip": Contrastive(_siglip_init, _siglip),
    "bce-scale-bias": Contrastive(_bce_init, _bce_scale_bias),
}

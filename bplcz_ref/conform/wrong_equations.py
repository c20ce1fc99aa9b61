"""Wrong readings of Eqs. (3)-(11) and of SGD. A function has the signature of the formula that it replaces."""

from collections.abc import Callable

import numpy

from bplcz_ref.conform import exact as xp
from bplcz_ref.conform import ops as right
from bplcz_ref.conform.exact import Array, like
from bplcz_ref.conform.ops import bce_terms, log_softmax, normalise

# ---------------------------------------------------------------- II-B2, Eqs. (3), (4)


def cosine(images: Callable, texts: Callable) -> Callable:
    """Cosine similarity with another normalisation of either side."""

    def similarity(f, I_i, T_i):
        u, v = images(I_i), texts(T_i)
        return {"S_i": u @ v.T, "S_hat_i": v @ u.T}

    return similarity


def over(norm: Callable, axis: int = 1) -> Callable:
    """x divided by a function of its squared length."""
    return lambda x: x / norm(xp.sum(x * x, axis=axis, keepdims=True))


def transposed(f: dict, I_i: Array, T_i: Array) -> dict:
    out = right.similarity(f, I_i, T_i)
    return {"S_i": out["S_hat_i"], "S_hat_i": out["S_i"]}


def centred(x: Array) -> Array:
    return normalise(x - xp.mean(x, 1, keepdims=True))


same = lambda x: x
inside = over(lambda square: xp.sqrt(square + like(square, "1e-12")))
added = over(lambda square: xp.sqrt(square) + like(square, "1e-8"))
unbounded, squared, over_batch = over(xp.sqrt), over(same), over(xp.sqrt, axis=0)


def fused(combine: Callable) -> Callable:
    return lambda f, S_groups, alpha: {"S": combine(S_groups, like(S_groups, alpha))}


SIMILARITY = {
    "similarity": {
        "no normalisation": cosine(same, same),
        "only the images normalised": cosine(normalise, same),
        "only the texts normalised": cosine(same, normalise),
        "divided by the squared norm": cosine(squared, squared),
        "transposed": transposed,
        "epsilon inside the root": (cosine(inside, inside), "similarity-eps", "inside"),
        "epsilon added to the norm": (cosine(added, added), "similarity-eps", "added"),
        "no bound below the norm": (cosine(unbounded, unbounded), "similarity-eps", "none"),
        "normalised over the batch": cosine(over_batch, over_batch),
        "features centred first": cosine(centred, centred),
    },
    "fuse": {
        "alpha left out": fused(lambda S, alpha: xp.sum(S, axis=0)),
        "mean over the groups": (fused(lambda S, alpha: xp.mean(S, 0) * alpha), "group-sum", "mean"),
        "mean over the groups without alpha": fused(lambda S, alpha: xp.mean(S, 0)),
        "last group left out": fused(lambda S, alpha: xp.sum(S[: S.shape[0] - 1], axis=0) * alpha),
        "alpha applied twice": fused(lambda S, alpha: xp.sum(S, axis=0) * alpha * alpha),
    },
}
# ---------------------------------------------------------------- Eq. (5)


def matrix(of: Callable) -> Callable:
    return lambda f, y: {"W": numpy.asarray(of(numpy.asarray(y)))}


def equal(y: numpy.ndarray) -> numpy.ndarray:
    return (y[:, None] == y[None, :]).astype(int)


MATRIX = {
    "supervised_matrix": {
        "W is the identity": matrix(lambda y: numpy.eye(len(y), dtype=int)),
        "W without its diagonal": (
            matrix(lambda y: equal(y) - numpy.eye(len(y), dtype=int)),
            "msm-diagonal",
            "zero",
        ),
        "labels compared with column numbers": matrix(lambda y: (y[:, None] == numpy.arange(len(y))).astype(int)),
        "labels that differ by one count as equal": matrix(lambda y: (abs(y[:, None] - y) <= 1).astype(int)),
        "0 where labels agree": matrix(lambda y: 1 - equal(y)),
        "all ones": matrix(lambda y: equal(y) * 0 + 1),
    },
}
# ---------------------------------------------------------------- Eqs. (6)-(8)


def of_probabilities(log_p: Array, log_q: Array, W: Array) -> dict:
    """The BCE as printed, of the logarithms of p and 1 - p."""
    W = xp.mask(W, log_p)
    return {"L": -xp.mean(log_p * W + log_q * (1 - W))}


def softmax(x: Array) -> Array:
    return xp.exp(log_softmax(x))


def reduced(reduce: Callable) -> Callable:
    """A BCE with other terms, or another reduction than the mean."""
    return lambda f, S, W: {"L": reduce(S, W)}


def bce_sum(f: dict, S: Array, W: Array) -> dict:
    return {"L": xp.sum(bce_terms(S, W))}


def bce_row_sum(f: dict, S: Array, W: Array) -> dict:
    return {"L": xp.sum(bce_terms(S, W)) / S.shape[0]}


def bce_positives(f: dict, S: Array, W: Array) -> dict:
    return {"L": xp.sum(bce_terms(S, W) * xp.mask(W, S)) / int(numpy.sum(W))}


def bce_eps(f: dict, S: Array, W: Array) -> dict:
    e = like(S, "1e-8")
    return of_probabilities(xp.log(xp.sigmoid(S) + e), xp.log(xp.sigmoid(-S) + e), W)


def bounded(t: Array, limit: Array) -> Array:
    """The terms, at most `limit`, without slope above."""
    below = xp.mask(xp.value(t) < limit, t)
    return t * below + (1 - below) * limit


def bce_clamped(f: dict, S: Array, W: Array) -> dict:
    return {"L": xp.mean(bounded(bce_terms(S, W), 100))}


MINUS_LOG_1E_7 = "16.11809565095831978812594953668212747"


def bce_clipped(f: dict, S: Array, W: Array) -> dict:
    return {"L": xp.mean(bounded(bce_terms(S, W), like(S, MINUS_LOG_1E_7)))}


def bce_rounded(f: dict, S: Array, W: Array) -> dict:
    """torch.nn.BCELoss after a sigmoid in float32: p is 1 from S = 25 ln 2 = 17.33 on, where the term is clamped.

    The slope holds p (1 - p) twice, above and below the line; below, it is kept above 1e-12 and does not cancel.
    """
    t, p = bounded(bce_terms(S, W), 100), xp.value(xp.sigmoid(S))
    one = xp.mask((xp.value(S) > like(S, "17.33")) & (numpy.asarray(W) == 0), S)
    kept = numpy.minimum(p * (1 - p) / like(S, "1e-12"), 1) * (1 - one)
    fixed = xp.value(t) * (1 - one) + 100 * one - xp.value(t) * kept  # has no slope; completes the value
    return {"L": xp.mean(t * kept + fixed)}


def bce_softmax(f: dict, S: Array, W: Array) -> dict:
    p = softmax(S)
    return of_probabilities(xp.log(p), xp.log(1 - p), W)


def bce_rows(f: dict, S: Array, W: Array) -> dict:
    chosen = log_softmax(S) * xp.mask(W, S)
    rows = [xp.sum(chosen[j]) / max(int(n), 1) for j, n in enumerate(numpy.sum(W, axis=1))]
    return {"L": -xp.mean(xp.stack(rows))}


def bce_smoothed(f: dict, S: Array, W: Array) -> dict:
    return {"L": xp.mean(xp.softplus(S) - S * xp.mask(W, S) * like(S, "0.9") - S * like(S, "0.05"))}


def bce_signs(f: dict, S: Array, W: Array) -> dict:
    return {"L": xp.mean(xp.softplus(S) - S * (2 * xp.mask(W, S) - 1))}


def directions(combine: Callable) -> Callable:
    def contrastive_loss(f, S, W):
        a, b = f["bce"](f, S=S, W=W)["L"], f["bce"](f, S=S.T, W=W)["L"]
        return {"L_i2t": a, "L_t2i": b, "L_con": combine(a, b)}

    return contrastive_loss


def within(bce: Callable) -> Callable:
    """Eq. (6) with a BCE of its own, whatever the table's."""
    return lambda f, S, W: right.contrastive_loss(f | {"bce": bce}, S, W)


LOSS = {
    "bce": {
        "sum for mean": (bce_sum, "bce-reduction", "sum"),
        "sum over a row, mean over rows": (bce_row_sum, "bce-reduction", "row-sum"),
        "mean over the positives only": bce_positives,
        "log(p + 1e-8)": (bce_eps, "bce-logarithm", "eps"),
        "each logarithm at least -100": (bce_clamped, "bce-logarithm", "clamped"),
        "probabilities kept 1e-7 from 0 and 1, as in Keras": bce_clipped,
        "of probabilities in float32, as by torch.nn.BCELoss": bce_rounded,
        "sigmoid twice": reduced(lambda S, W: xp.mean(bce_terms(xp.sigmoid(S), W))),
        "softmax for sigmoid": bce_softmax,
        "softmax cross-entropy over each row": bce_rows,
        "labels smoothed by 0.1": bce_smoothed,
        "labels -1 and 1 for 0 and 1": bce_signs,
        "W and 1 - W exchanged": reduced(lambda S, W: xp.mean(bce_terms(-S, W))),
    },
    "contrastive_loss": {
        "one direction dropped, the half kept": directions(lambda a, b: a / 2),
        "the half left out": directions(lambda a, b: a + b),
        "sum for mean": (within(bce_sum), "bce-reduction", "sum"),
        "sum over a row, mean over rows": (within(bce_row_sum), "bce-reduction", "row-sum"),
    },
}

# ---------------------------------------------------------------- Eqs. (9)-(11)


def interleaved(f: dict, I_groups: Array) -> dict:
    n, B, d = I_groups.shape
    return {"I": xp.reshape(xp.transpose(I_groups, (1, 2, 0)), (B, d * n))}


def sar_first(f: dict, I_groups: Array) -> dict:
    order = [4, 5, 6, 0, 1, 2, 3] if I_groups.shape[0] == 7 else range(I_groups.shape[0])
    return {"I": xp.concat([I_groups[i] for i in order], 1)}


def normalised(f: dict, I_groups: Array) -> dict:
    return right.concat(f, normalise(I_groups))


def along_batch(f: dict, I_groups: Array) -> dict:
    n, B, d = I_groups.shape
    return {"I": xp.reshape(I_groups, (B, n * d))}


def classified(combine: Callable) -> Callable:
    return lambda f, c_hat, c: {"L_cls": combine(c_hat, right.classes(c))}


def each(c_hat: Array, c: list) -> Array:
    """The cross-entropy of each row."""
    return -right.pick(log_softmax(c_hat), c)


def smoothed(c_hat: Array, c: list) -> Array:
    z = log_softmax(c_hat)
    return -xp.mean(right.pick(z, c) * like(z, "0.9") + xp.mean(z, 1) * like(z, "0.1"))


def one_against_rest(c_hat: Array, c: list) -> Array:
    return xp.mean(bce_terms(c_hat, numpy.arange(c_hat.shape[1]) == numpy.array(c)[:, None]))


TOTAL = {
    "concat": {
        "feature-major": interleaved,
        "SAR groups first": (sar_first, "concat-order", "bands"),
        "features normalised": (normalised, "features-in-concat", "normalised"),
        "batch and groups mixed by a reshape": along_batch,
    },
    "cross_entropy": {
        "sum for mean": (classified(lambda x, c: xp.sum(each(x, c))), "ce", "sum"),
        "a softmax before the cross-entropy": (
            classified(lambda x, c: xp.mean(each(softmax(x), c))),
            "ce",
            "probabilities",
        ),
        "labels smoothed by 0.1": classified(smoothed),
        "logits normalised": classified(lambda x, c: xp.mean(each(normalise(x), c))),
        "classes counted from 1": classified(lambda x, c: xp.mean(each(x, [k - 1 for k in c]))),
        "binary cross-entropy of one-hot labels": classified(one_against_rest),
    },
    "total_loss": {
        "beta on the other term": lambda f, L_cls, L_con, beta: {"L": L_cls * beta + L_con},
        "beta left out": lambda f, L_cls, L_con, beta: {"L": L_cls + L_con},
        "a weighted mean": lambda f, L_cls, L_con, beta: {"L": (L_cls + L_con * beta) / (1 + beta)},
    },
}

# ---------------------------------------------------------------- III-A: (w, v, g, lr, momentum, decay) -> w, v


def nesterov(w: Array, v: Array, g: Array, lr: Array, momentum: Array, decay: Array) -> tuple:
    g = g + w * decay
    v = g if v is None else v * momentum + g
    return w - (g + v * momentum) * lr, v


def decoupled(w: Array, v: Array, g: Array, lr: Array, momentum: Array, decay: Array) -> tuple:
    v = g if v is None else v * momentum + g
    return w - w * (decay * lr) - v * lr, v


def decay_without_rate(w: Array, v: Array, g: Array, lr: Array, momentum: Array, decay: Array) -> tuple:
    v = g if v is None else v * momentum + g
    return w - w * decay - v * lr, v


def dampened(w: Array, v: Array, g: Array, lr: Array, momentum: Array, decay: Array) -> tuple:
    g = g + w * decay
    v = g if v is None else v * momentum + g * (1 - momentum)
    return w - v * lr, v


def average(w: Array, v: Array, g: Array, lr: Array, momentum: Array, decay: Array) -> tuple:
    g = (g + w * decay) * (1 - momentum)
    v = g if v is None else v * momentum + g
    return w - v * lr, v


def rate_inside(w: Array, v: Array, g: Array, lr: Array, momentum: Array, decay: Array) -> tuple:
    g = (g + w * decay) * lr
    v = -g if v is None else v * momentum - g
    return w + v, v


def first_scaled(w: Array, v: Array, g: Array, lr: Array, momentum: Array, decay: Array) -> tuple:
    g = g + w * decay
    v = g * (1 - momentum) if v is None else v * momentum + g
    return w - v * lr, v


def no_momentum(w: Array, v: Array, g: Array, lr: Array, momentum: Array, decay: Array) -> tuple:
    g = g + w * decay
    return w - g * lr, g


def decay_halved(w: Array, v: Array, g: Array, lr: Array, momentum: Array, decay: Array) -> tuple:
    return right.sgd_step(w, v, g, lr, momentum, decay / 2)


SGD = {
    "sgd_step": {
        "Nesterov": (nesterov, "momentum", "nesterov"),
        "decoupled decay": (decoupled, "weight-decay", "decoupled"),
        "decay without the rate": decay_without_rate,
        "(1 - momentum) on later gradients": (dampened, "momentum", "damped"),
        "(1 - momentum) on every gradient": average,
        "rate inside the velocity": (rate_inside, "momentum", "rate-inside"),
        "first velocity scaled by 1 - momentum": first_scaled,
        "no momentum": no_momentum,
        "decay halved, as of a penalty without the 2": decay_halved,
    },
}

EQUATIONS = SIMILARITY | MATRIX | LOSS | TOTAL | SGD

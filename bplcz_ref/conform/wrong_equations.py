"""Wrong readings of Eqs. (3)-(11) and of SGD. A function has the signature of the formula that it replaces."""

from collections.abc import Callable
from typing import NamedTuple

import numpy

from bplcz_ref import paper
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


def over(norm: Callable) -> Callable:
    """x divided by a function of its squared length."""
    return lambda x: x / norm(xp.sum(x * x, axis=1, keepdims=True))


same = lambda x: x
squared, unbounded, over_batch = over(same), over(xp.sqrt), lambda x: normalise(x.T).T
inside = over(lambda square: xp.sqrt(square + like(square, "1e-12")))
added = over(lambda square: xp.sqrt(square) + like(square, "1e-8"))
centred = lambda x: normalise(x - xp.mean(x, 1, keepdims=True))


def by_absolute_sum(x: Array) -> Array:
    return x / xp.sum(x * (2 * xp.mask(xp.value(x) > 0, x) - 1), axis=1, keepdims=True)


def at_least(bound: str) -> Callable:
    """x divided by its norm, which is at least `bound`."""
    return lambda x: normalise(x, bound)


def in_range(change: Callable) -> Callable:
    """The right similarities, changed."""
    return lambda f, **i: {name: change(S) for name, S in right.similarity(f, **i).items()}


def fused(combine: Callable) -> Callable:
    """Another sum over the groups."""
    return lambda f, S_groups, alpha: {"S": combine(S_groups, like(S_groups, alpha))}


SIMILARITY = {
    "similarity": {
        "no normalisation": cosine(same, same),
        "only the images normalised": cosine(normalise, same),
        "only the texts normalised": cosine(same, normalise),
        "divided by the squared norm": cosine(squared, squared),
        "transposed": lambda f, I_i, T_i: right.similarity(f, T_i, I_i),
        "epsilon inside the root": (cosine(inside, inside), "similarity-eps", "inside"),
        "epsilon added to the norm": (cosine(added, added), "similarity-eps", "added"),
        "no bound below the norm": (cosine(unbounded, unbounded), "similarity-eps", "none"),
        "normalised over the batch": cosine(over_batch, over_batch),
        "features centred first": cosine(centred, centred),
        "bound 1e-8, as of torch.nn.CosineSimilarity": cosine(at_least("1e-8"), at_least("1e-8")),
        "bound 1e-6": cosine(at_least("1e-6"), at_least("1e-6")),
        "divided by the sum of absolute values": cosine(by_absolute_sum, by_absolute_sum),
        "S_hat not transposed": lambda f, I_i, T_i: {
            "S_i": (S := right.similarity(f, I_i, T_i)["S_i"]),
            "S_hat_i": S,
        },
        "S_hat of its own": lambda f, I_i, T_i: (
            right.similarity(f, I_i, T_i) | {"S_hat_i": softmax(right.similarity(f, I_i, T_i)["S_hat_i"])}
        ),
        "negative similarities set to 0": in_range(lambda S: S * xp.mask(xp.value(S) > 0, S)),
        "divided by a temperature of 0.07": in_range(lambda S: S / like(S, "0.07")),
        "(1 + cos) / 2": in_range(lambda S: (1 + S) / 2),
    },
    "fuse": {
        "alpha left out": fused(lambda S, alpha: xp.sum(S, axis=0)),
        "mean over the groups": (fused(lambda S, alpha: xp.mean(S, 0) * alpha), "group-sum", "mean"),
        "mean over the groups without alpha": fused(lambda S, alpha: xp.mean(S, 0)),
        "last group left out": fused(lambda S, alpha: xp.sum(S[: S.shape[0] - 1], axis=0) * alpha),
        "alpha applied twice": fused(lambda S, alpha: xp.sum(S, axis=0) * alpha * alpha),
        "divided by alpha": fused(lambda S, alpha: xp.sum(S, axis=0) / alpha),
        "alpha 0.25 built in": fused(lambda S, alpha: xp.sum(S, axis=0) * like(S, "0.25")),
        "7 groups built in": fused(lambda S, alpha: xp.mean(S, axis=0) * alpha * 7),
        "the first group alone": fused(lambda S, alpha: S[0] * alpha),
    },
}

# ---------------------------------------------------------------- Eq. (5)


def matrix(of: Callable) -> Callable:
    """Another W, of the labels and of the right W."""
    return lambda f, y: {"W": numpy.asarray(of(numpy.asarray(y), right.supervised_matrix(f, y)["W"]))}


identity = lambda y: numpy.eye(len(y), dtype=int)
normalised_rows = lambda W: xp.exact(W) / xp.exact(W.sum(1, keepdims=True))

MATRIX = {
    "supervised_matrix": {
        "W is the identity": matrix(lambda y, W: identity(y)),
        "W without its diagonal": (matrix(lambda y, W: W - identity(y)), "msm-diagonal", "zero"),
        "labels compared with column numbers": matrix(lambda y, W: 1 * (y[:, None] == numpy.arange(len(y)))),
        "labels that differ by one count as equal": matrix(lambda y, W: 1 * (abs(y[:, None] - y) <= 1)),
        "0 where labels agree": matrix(lambda y, W: 1 - W),
        "all ones": matrix(lambda y, W: W * 0 + 1),
        "-1 where labels differ": matrix(lambda y, W: 2 * W - 1),
        "rows divided by their sums": lambda f, y: {"W": normalised_rows(right.supervised_matrix(f, y)["W"])},
        "only the part below the diagonal": matrix(lambda y, W: numpy.tril(W)),
        "built and natural types alone told apart": matrix(lambda y, W: 1 * ((y < 10)[:, None] == (y < 10))),
        "the first sample of a class alone has pairs": matrix(
            lambda y, W: (
                identity(y) * 1 | (W & (numpy.array([list(y).index(k) for k in y]) == numpy.arange(len(y))))
            )
        ),
    },
}

# ---------------------------------------------------------------- Eqs. (6)-(8)


def loss(of: Callable) -> Callable:
    """A BCE of other terms, or with another reduction than the mean."""
    return lambda f, S, W: {"L": of(S, W)}


def printed(W: Array, log_p: Array, log_q: Array) -> Array:
    """The BCE as printed, of the logarithms of p and 1 - p."""
    W = xp.mask(W, log_p)
    return -xp.mean(log_p * W + log_q * (1 - W))


def softmax(x: Array) -> Array:
    return xp.exp(log_softmax(x))


def bounded(t: Array, limit: Array) -> Array:
    """The terms, at most `limit`, without slope above."""
    below = xp.mask(xp.value(t) < limit, t)
    return t * below + (1 - below) * limit


MINUS_LOG_1E_7 = "16.11809565095831978812594953668212747"


def rounded(S: Array, W: Array) -> Array:
    """torch.nn.BCELoss after a sigmoid in float32: p is 1 from S = 25 ln 2 = 17.33 on, where the term is clamped.

    The slope holds p (1 - p) twice, above and below the line; below, it is kept above 1e-12 and does not cancel.
    """
    t, p = bounded(bce_terms(S, W), 100), xp.value(xp.sigmoid(S))
    one = xp.mask((xp.value(S) > like(S, "17.33")) & (numpy.asarray(W) == 0), S)
    kept = numpy.minimum(p * (1 - p) / like(S, "1e-12"), 1) * (1 - one)
    fixed = xp.value(t) * (1 - one) + 100 * one - xp.value(t) * kept  # completes the value and has no slope
    return xp.mean(t * kept + fixed)


def row_by_row(S: Array, W: Array) -> Array:
    chosen = log_softmax(S) * xp.mask(W, S)
    rows = [xp.sum(chosen[j]) / max(int(n), 1) for j, n in enumerate(numpy.sum(W, axis=1))]
    return -xp.mean(xp.stack(rows))


def smoothed(S: Array, W: Array) -> Array:
    return xp.mean(xp.softplus(S) - S * xp.mask(W, S) * like(S, "0.9") - S * like(S, "0.05"))


LN_2 = "0.6931471805599453094172321214581765680755"


def balanced(S: Array, W: Array) -> Array:
    positive, t = xp.mask(W, S), bce_terms(S, W)
    n = max(int(numpy.sum(W)), 1), max(int(numpy.sum(1 - numpy.asarray(W))), 1)
    return (xp.sum(t * positive) / n[0] + xp.sum(t * (1 - positive)) / n[1]) / 2


def rarity_weighted(S: Array, W: Array) -> Array:
    n = int(numpy.sum(W))
    positive, t = xp.mask(W, S), bce_terms(S, W)
    return xp.mean(t * (1 - positive) + t * positive * (S.size - n) / max(n, 1))


def focal(S: Array, W: Array) -> Array:
    missing = xp.sigmoid((1 - 2 * xp.mask(W, S)) * S)
    return xp.mean(bce_terms(S, W) * missing * missing)


def numpy_diagonal(t: Array) -> Array:
    n = numpy.arange(min(t.shape))
    return t[n, n]


def directions(combine: Callable) -> Callable:
    """Eq. (6) with its two directions combined another way."""

    def contrastive_loss(f, S, W):
        out = right.contrastive_loss(f, S, W)
        return out | {"L_con": combine(out["L_i2t"], out["L_t2i"])}

    return contrastive_loss


def stopped_direction(f: dict, S: Array, W: Array) -> dict:
    L_i2t, L_t2i = f["bce"](f, S=S, W=W)["L"], f["bce"](f, S=xp.without_history(S).T, W=W)["L"]
    return {"L_i2t": L_i2t, "L_t2i": L_t2i, "L_con": (L_i2t + L_t2i) / 2}


def within(bce: Callable) -> Callable:
    """Eq. (6) with a BCE of its own, whatever the table's."""
    return lambda f, S, W: right.contrastive_loss(f | {"bce": bce}, S, W)


bce_sum = loss(lambda S, W: xp.sum(bce_terms(S, W)))
bce_row_sum = loss(lambda S, W: xp.sum(bce_terms(S, W)) / S.shape[0])
log_plus_eps = lambda p: xp.log(p + like(p, "1e-8"))
up_to_1e_7 = lambda t: bounded(t, like(t, MINUS_LOG_1E_7))

LOSS = {
    "bce": {
        "sum for mean": (bce_sum, "bce-reduction", "sum"),
        "sum over a row, mean over rows": (bce_row_sum, "bce-reduction", "row-sum"),
        "mean over the positives only": loss(
            lambda S, W: xp.sum(bce_terms(S, W) * xp.mask(W, S)) / int(numpy.sum(W))
        ),
        "log(p + 1e-8)": (
            loss(lambda S, W: printed(W, log_plus_eps(xp.sigmoid(S)), log_plus_eps(xp.sigmoid(-S)))),
            "bce-logarithm",
            "eps",
        ),
        "each logarithm at least -100": (
            loss(lambda S, W: xp.mean(bounded(bce_terms(S, W), 100))),
            "bce-logarithm",
            "clamped",
        ),
        "probabilities kept 1e-7 from 0 and 1, as in Keras": loss(
            lambda S, W: xp.mean(up_to_1e_7(bce_terms(S, W)))
        ),
        "of probabilities in float32, as by torch.nn.BCELoss": loss(rounded),
        "sigmoid twice": loss(lambda S, W: xp.mean(bce_terms(xp.sigmoid(S), W))),
        "softmax for sigmoid": loss(lambda S, W: printed(W, xp.log(softmax(S)), xp.log(1 - softmax(S)))),
        "softmax cross-entropy over each row": loss(row_by_row),
        "labels smoothed by 0.1": loss(smoothed),
        "labels -1 and 1 for 0 and 1": loss(lambda S, W: xp.mean(xp.softplus(S) - S * (2 * xp.mask(W, S) - 1))),
        "W and 1 - W exchanged": loss(lambda S, W: xp.mean(bce_terms(-S, W))),
        "mean over the negatives only": loss(
            lambda S, W: (
                xp.sum(bce_terms(S, W) * (1 - xp.mask(W, S))) / max(int(numpy.sum(1 - numpy.asarray(W))), 1)
            )
        ),
        "positives and negatives weighted alike": loss(balanced),
        "positives weighted by negatives / positives": loss(rarity_weighted),
        "focal, (1 - p)^2": loss(focal),
        "logarithm to base 2": loss(lambda S, W: xp.mean(bce_terms(S, W)) / like(S, LN_2)),
        "the pair's own entry alone": loss(lambda S, W: xp.mean(numpy_diagonal(bce_terms(S, W)))),
        "exponents at most 80": loss(lambda S, W: xp.mean(bounded(bce_terms(S, W), 80))),
    },
    "contrastive_loss": {
        "one direction dropped, the half kept": directions(lambda a, b: a / 2),
        "the half left out": directions(lambda a, b: a + b),
        "sum for mean": (within(bce_sum), "bce-reduction", "sum"),
        "sum over a row, mean over rows": (within(bce_row_sum), "bce-reduction", "row-sum"),
        "softmax cross-entropy in both directions, as CLIP": within(loss(row_by_row)),
        "W is the identity": lambda f, S, W: right.contrastive_loss(f, S, numpy.eye(S.shape[0], dtype=int)),
        "the other direction's gradient stopped": stopped_direction,
    },
}

# ---------------------------------------------------------------- Eqs. (9)-(11)


def joined(of: Callable) -> Callable:
    """Another order or shape of I, of the groups' features (n, B, d)."""
    return lambda f, I_groups: {"I": of(I_groups, *I_groups.shape)}


def sar_first(f: dict, I_groups: Array) -> dict:
    order = [4, 5, 6, 0, 1, 2, 3] if I_groups.shape[0] == 7 else range(I_groups.shape[0])
    return {"I": xp.concat([I_groups[i] for i in order], 1)}


def in_order(of: Callable) -> Callable:
    """The groups in another order, of(their names, or their numbers where they are not seven)."""

    def concat(f, I_groups):
        names = list(paper.GROUPS) if I_groups.shape[0] == 7 else list(range(I_groups.shape[0]))
        return {"I": xp.concat([I_groups[i] for i in of(names)], 1)}

    return concat


def classified(combine: Callable) -> Callable:
    """Another loss of logits and classes."""
    return lambda f, c_hat, c: {"L_cls": combine(c_hat, right.classes(c))}


def each(c_hat: Array, c: list) -> Array:
    """The cross-entropy of each row."""
    return -right.pick(log_softmax(c_hat), c)


def smoothed_classes(c_hat: Array, c: list) -> Array:
    z = log_softmax(c_hat)
    return -xp.mean(right.pick(z, c) * like(z, "0.9") + xp.mean(z, 1) * like(z, "0.1"))


def one_against_rest(c_hat: Array, c: list) -> Array:
    return xp.mean(bce_terms(c_hat, numpy.arange(c_hat.shape[1]) == numpy.array(c)[:, None]))


def without_class_0(x: Array, c: list) -> Array:
    kept = [j for j, k in enumerate(c) if k]
    return xp.sum(xp.stack([each(x, c)[j] for j in kept])) / len(kept) if kept else xp.sum(x * 0)


def rare_first(x: Array, c: list) -> Array:
    weights = numpy.array([len(c) // c.count(k) for k in c])
    return xp.sum(each(x, c) * weights) / int(weights.sum())


def focal_classes(x: Array, c: list) -> Array:
    missing = 1 - right.pick(softmax(x), c)
    return xp.mean(each(x, c) * missing * missing)


def squared_error(x: Array, c: list) -> Array:
    hot = 1 * (numpy.arange(x.shape[1]) == numpy.array(c)[:, None])
    return xp.mean((softmax(x) - hot) * (softmax(x) - hot))


def top_stopped(x: Array) -> Array:
    top = xp.mask(xp.value(x) == xp.value(x).max(axis=1, keepdims=True), x)
    return x * (1 - top) + xp.without_history(x) * top


softmax_first = classified(lambda x, c: xp.mean(each(softmax(x), c)))

CLASSIFICATION = {
    "concat": {
        "feature-major": joined(lambda x, n, B, d: xp.reshape(xp.transpose(x, (1, 2, 0)), (B, d * n))),
        "SAR groups first": (sar_first, "concat-order", "bands"),
        "features normalised": (
            lambda f, I_groups: right.concat(f, normalise(I_groups)),
            "features-in-concat",
            "normalised",
        ),
        "batch and groups mixed by a reshape": joined(lambda x, n, B, d: xp.reshape(x, (B, n * d))),
        "groups from the last to the first": in_order(lambda names: list(range(len(names)))[::-1]),
        "groups in the order of the alphabet": in_order(
            lambda names: (
                sorted(range(len(names)), key=lambda i: names[i]) if len(names) == 7 else range(len(names))
            )
        ),
        "gradients to the groups stopped but for the first": lambda f, I_groups: {
            "I": xp.concat(
                [I_groups[0], *(xp.without_history(I_groups[i]) for i in range(1, I_groups.shape[0]))], 1
            )
        },
    },
    "cross_entropy": {
        "sum for mean": (classified(lambda x, c: xp.sum(each(x, c))), "ce", "sum"),
        "a softmax before the cross-entropy": (softmax_first, "ce", "probabilities"),
        "labels smoothed by 0.1": classified(smoothed_classes),
        "logits normalised": classified(lambda x, c: xp.mean(each(normalise(x), c))),
        "classes counted from 1": classified(lambda x, c: xp.mean(each(x, [k - 1 for k in c]))),
        "binary cross-entropy of one-hot labels": classified(one_against_rest),
        "class 0 ignored": classified(without_class_0),
        "classes weighted by their rarity": classified(rare_first),
        "mean over classes too": classified(lambda x, c: xp.mean(each(x, c)) / x.shape[1]),
        "logarithm to base 2": classified(lambda x, c: xp.mean(each(x, c)) / like(x, LN_2)),
        "softmax over the batch": classified(lambda x, c: -xp.mean(right.pick(log_softmax(x.T).T, c))),
        "focal, (1 - p)^2": classified(focal_classes),
        "squared error of the softmax": classified(squared_error),
        "log(p + 1e-8)": classified(lambda x, c: -xp.mean(log_plus_eps(right.pick(softmax(x), c)))),
        "the largest logit has no gradient": classified(lambda x, c: xp.mean(each(top_stopped(x), c))),
    },
    "total_loss": {
        "beta on the other term": lambda f, L_cls, L_con, beta: {"L": L_cls * beta + L_con},
        "beta left out": lambda f, L_cls, L_con, beta: {"L": L_cls + L_con},
        "a weighted mean": lambda f, L_cls, L_con, beta: {"L": (L_cls + L_con * beta) / (1 + beta)},
        "(1 - beta) L_cls + beta L_con": lambda f, L_cls, L_con, beta: {"L": L_cls * (1 - beta) + L_con * beta},
        "beta halved": lambda f, L_cls, L_con, beta: {"L": L_cls + L_con * (beta / 2)},
        "beta 2 built in": lambda f, L_cls, L_con, beta: {"L": L_cls + L_con * 2},
        "beta squared": lambda f, L_cls, L_con, beta: {"L": L_cls + L_con * (beta * beta)},
        "L_con without gradient": lambda f, L_cls, L_con, beta: {"L": L_cls + xp.without_history(L_con) * beta},
    },
}

# ---------------------------------------------------------------- III-A


class Settings(NamedTuple):
    lr: Array
    momentum: Array
    decay: Array


def rule(
    gradient: Callable = lambda g, w, s: g + w * s.decay,
    first: Callable = lambda g, s: g,
    later: Callable = lambda v, g, s: v * s.momentum + g,
    update: Callable = lambda w, v, g, s: w - v * s.lr,
) -> Callable:
    """PyTorch's rule with some of its four lines changed; s are the settings."""

    def sgd_step(w, v, g, lr, momentum, weight_decay):
        s = Settings(lr, momentum, weight_decay)
        g = gradient(g, w, s)
        v = first(g, s) if v is None else later(v, g, s)
        return update(w, v, g, s), v

    return sgd_step


sign = lambda w: xp.mask(xp.value(w) > 0, w) - xp.mask(xp.value(w) < 0, w)


def cut(g: Array) -> Array:
    small = xp.mask(abs(xp.value(g)) < 1, g)
    return g * small + sign(g) * (1 - small)


alone = lambda g, w, s: g  # the gradient without the decay
nesterov = rule(update=lambda w, v, g, s: w - (g + v * s.momentum) * s.lr)
decoupled = rule(gradient=alone, update=lambda w, v, g, s: w - w * (s.decay * s.lr) - v * s.lr)
damped = rule(later=lambda v, g, s: v * s.momentum + g * (1 - s.momentum))
rate_inside = rule(gradient=lambda g, w, s: -(g + w * s.decay) * s.lr, update=lambda w, v, g, s: w + v)

SGD = {
    "sgd_step": {
        "Nesterov": (nesterov, "momentum", "nesterov"),
        "decoupled decay": (decoupled, "weight-decay", "decoupled"),
        "decay without the rate": rule(gradient=alone, update=lambda w, v, g, s: w - w * s.decay - v * s.lr),
        "(1 - momentum) on later gradients": (damped, "momentum", "damped"),
        "(1 - momentum) on every gradient": rule(gradient=lambda g, w, s: (g + w * s.decay) * (1 - s.momentum)),
        "rate inside the velocity": (rate_inside, "momentum", "rate-inside"),
        "first velocity scaled by 1 - momentum": rule(first=lambda g, s: g * (1 - s.momentum)),
        "no momentum": rule(later=lambda v, g, s: g),
        "decay halved, as of a penalty without the 2": rule(gradient=lambda g, w, s: g + w * (s.decay / 2)),
        "decay doubled, as of a penalty without the half": rule(gradient=lambda g, w, s: g + w * (s.decay * 2)),
        "no decay": rule(gradient=alone),
        "decay of the sign": rule(gradient=lambda g, w, s: g + sign(w) * s.decay),
        "decay taken off": rule(gradient=lambda g, w, s: g - w * s.decay),
        "no decay where the gradient is 0": rule(
            gradient=lambda g, w, s: g + w * xp.mask(xp.value(g) != 0, w) * s.decay
        ),
        "the gradient added, not taken off": rule(update=lambda w, v, g, s: w + v * s.lr),
        "momentum 0.9 built in": rule(later=lambda v, g, s: v * like(v, "0.9") + g),
        "each gradient cut at 1": rule(gradient=lambda g, w, s: cut(g) + w * s.decay),
    },
}

EQUATIONS = SIMILARITY | MATRIX | LOSS | CLASSIFICATION | SGD

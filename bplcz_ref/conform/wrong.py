"""Wrong readings of the equations: each a mistake that a competent person makes in a port, as one function.

A wrong reading replaces one entry of a table of operations (ops.EXACT or consumer.PARTS). Over
Decimals it gives the near misses of the vectors, over floats the mutants of the self-test. Those with a
`reading` are choices that docs/readings.md names: who declares one in a profile is graded on it. Those of
data and text are in wrong_data.py, those of the networks in wrong_layers.py.
"""

from typing import NamedTuple

import numpy

from bplcz_ref.conform import definitions as right
from bplcz_ref.conform import exact as xp
from bplcz_ref.conform.definitions import like


class Wrong(NamedTuple):
    op: str  # the operation whose cases show it
    name: str
    function: object
    replaces: str = ""  # the entry that it replaces, where not `op`
    reading: tuple = ()  # (name, word) in docs/readings.md

    @property
    def entry(self):
        return self.replaces or self.op


READINGS = {  # the project's own word for each reading that the kit can grade another way
    "similarity-eps": "max",
    "group-sum": "sum",
    "msm-diagonal": "one",
    "bce-reduction": "mean",
    "bce-logarithm": "exact",
    "features-in-concat": "raw",
    "concat-order": "prompts",
    "ce": "logits",
    "prompt-grammar": "printed",
    "momentum": "pytorch",
    "weight-decay": "coupled",
    "decayed": "all",
}


def terms(S, W):
    """The B P terms of the BCE."""
    return xp.softplus((1 - 2 * xp.mask(W, S)) * S)


def of_probabilities(log_p, log_q, W):
    W = xp.mask(W, log_p)
    return {"L": -xp.mean(log_p * W + log_q * (1 - W))}


def softmax(x):
    return xp.exp(right.log_softmax(x))


# ---------------------------------------------------------------- Eqs. (6)-(8)


def bce_positives(f, S, W):
    return {"L": xp.sum(terms(S, W) * xp.mask(W, S)) / int(numpy.sum(W))}


def bce_eps(f, S, W):
    e = like(S, "1e-8")
    return of_probabilities(xp.log(xp.sigmoid(S) + e), xp.log(xp.sigmoid(-S) + e), W)


def bounded(t, limit):
    """The terms, at most `limit`, without slope above."""
    below = xp.mask(xp.value(t) < limit, t)
    return t * below + (1 - below) * limit


def bce_clamped(f, S, W):
    return {"L": xp.mean(bounded(terms(S, W), 100))}


def bce_clipped(f, S, W):
    return {"L": xp.mean(bounded(terms(S, W), like(S, "16.11809565095831978812594953668212747")))}  # -log 1e-7


def bce_rounded(f, S, W):
    """Torch's BCELoss after a sigmoid: p is 1 from S = 25 ln 2 on; the slope has p (1 - p) twice, once kept above
    1e-12."""
    t, p = bounded(terms(S, W), 100), xp.value(xp.sigmoid(S))
    one = xp.mask((xp.value(S) > like(S, "17.33")) & (numpy.asarray(W) == 0), S)
    kept = numpy.minimum(p * (1 - p) / like(S, "1e-12"), 1) * (1 - one)
    fixed = xp.value(t) * (1 - one) + 100 * one - xp.value(t) * kept
    return {"L": xp.mean(t * kept + fixed)}


def bce_softmax(f, S, W):
    p = softmax(S)
    return of_probabilities(xp.log(p), xp.log(1 - p), W)


def bce_rows(f, S, W):
    chosen = right.log_softmax(S) * xp.mask(W, S)
    return {
        "L": -xp.mean(xp.stack([xp.sum(chosen[j]) / max(int(n), 1) for j, n in enumerate(numpy.sum(W, axis=1))]))
    }


def bce_smoothed(f, S, W):
    return {"L": xp.mean(xp.softplus(S) - S * xp.mask(W, S) * like(S, "0.9") - S * like(S, "0.05"))}


def bce_signs(f, S, W):
    return {"L": xp.mean(xp.softplus(S) - S * (2 * xp.mask(W, S) - 1))}


def directions(combine):
    def contrastive_loss(f, S, W):
        a, b = f["bce"](f, S=S, W=W)["L"], f["bce"](f, S=S.T, W=W)["L"]
        return {"L_i2t": a, "L_t2i": b, "L_con": combine(a, b)}

    return contrastive_loss


def bce_sum(f, S, W):
    return {"L": xp.sum(terms(S, W))}


def bce_row_sum(f, S, W):
    return {"L": xp.sum(terms(S, W)) / S.shape[0]}


def within(bce):
    """Eq. (6) with a BCE of its own, whatever the table's."""
    return lambda f, S, W: right.contrastive_loss(f | {"bce": bce}, S, W)


SUM, ROW_SUM = ("bce-reduction", "sum"), ("bce-reduction", "row-sum")

LOSS = [
    Wrong("bce", "sum for mean", bce_sum, reading=SUM),
    Wrong("bce", "sum over a row, mean over rows", bce_row_sum, reading=ROW_SUM),
    Wrong("bce", "mean over the positives only", bce_positives),
    Wrong("bce", "log(p + 1e-8)", bce_eps, reading=("bce-logarithm", "eps")),
    Wrong("bce", "each logarithm at least -100", bce_clamped, reading=("bce-logarithm", "clamped")),
    Wrong("bce", "probabilities kept 1e-7 from 0 and 1, as in Keras", bce_clipped),
    Wrong("bce", "of probabilities in float32, as by torch.nn.BCELoss", bce_rounded),
    Wrong("bce", "sigmoid twice", lambda f, S, W: {"L": xp.mean(terms(xp.sigmoid(S), W))}),
    Wrong("bce", "softmax for sigmoid", bce_softmax),
    Wrong("bce", "softmax cross-entropy over each row", bce_rows),
    Wrong("bce", "labels smoothed by 0.1", bce_smoothed),
    Wrong("bce", "labels -1 and 1 for 0 and 1", bce_signs),
    Wrong("bce", "W and 1 - W exchanged", lambda f, S, W: {"L": xp.mean(terms(-S, W))}),
    Wrong("contrastive_loss", "one direction dropped, the half kept", directions(lambda a, b: a / 2)),
    Wrong("contrastive_loss", "the half left out", directions(lambda a, b: a + b)),
    Wrong("contrastive_loss", "sum for mean", within(bce_sum), reading=SUM),
    Wrong("contrastive_loss", "sum over a row, mean over rows", within(bce_row_sum), reading=ROW_SUM),
]


# ---------------------------------------------------------------- II-B2, Eqs. (3), (4)


def cosine(images, texts):
    def similarity(f, I_i, T_i):
        u, v = images(I_i), texts(T_i)
        return {"S_i": u @ v.T, "S_hat_i": v @ u.T}

    return similarity


def over(norm):
    """x divided by a function of its squared length."""
    return lambda x: x / norm(xp.sum(x * x, axis=1, keepdims=True))


def transposed(f, I_i, T_i):
    out = right.similarity(f, I_i, T_i)
    return {"S_i": out["S_hat_i"], "S_hat_i": out["S_i"]}


def centred(x):
    return right.normalise(x - xp.mean(x, 1, keepdims=True))


def over_batch(x):
    return x / xp.sqrt(xp.sum(x * x, axis=0, keepdims=True))


as_is = lambda x: x
inside = over(lambda q: xp.sqrt(q + like(q, "1e-12")))
added = over(lambda q: xp.sqrt(q) + like(q, "1e-8"))
unbounded = over(xp.sqrt)
squared = over(as_is)

SIMILARITY = [
    Wrong("similarity", "no normalisation", cosine(as_is, as_is)),
    Wrong("similarity", "only the images normalised", cosine(right.normalise, as_is)),
    Wrong("similarity", "only the texts normalised", cosine(as_is, right.normalise)),
    Wrong("similarity", "divided by the squared norm", cosine(squared, squared)),
    Wrong("similarity", "transposed", transposed),
    Wrong("similarity", "epsilon inside the root", cosine(inside, inside), reading=("similarity-eps", "inside")),
    Wrong("similarity", "epsilon added to the norm", cosine(added, added), reading=("similarity-eps", "added")),
    Wrong(
        "similarity", "no bound below the norm", cosine(unbounded, unbounded), reading=("similarity-eps", "none")
    ),
    Wrong("similarity", "normalised over the batch", cosine(over_batch, over_batch)),
    Wrong("similarity", "features centred first", cosine(centred, centred)),
]


def fused(combine):
    return lambda f, S_groups, alpha: {"S": combine(S_groups, like(S_groups, alpha))}


FUSE = [
    Wrong("fuse", "alpha left out", fused(lambda S, alpha: xp.sum(S, axis=0))),
    Wrong(
        "fuse",
        "mean over the groups",
        fused(lambda S, alpha: xp.mean(S, 0) * alpha),
        reading=("group-sum", "mean"),
    ),
    Wrong("fuse", "mean over the groups without alpha", fused(lambda S, alpha: xp.mean(S, 0))),
    Wrong("fuse", "last group left out", fused(lambda S, alpha: xp.sum(S[: S.shape[0] - 1], axis=0) * alpha)),
    Wrong("fuse", "alpha applied twice", fused(lambda S, alpha: xp.sum(S, axis=0) * alpha * alpha)),
]


# ---------------------------------------------------------------- Eq. (5)


def matrix(of):
    return lambda f, y: {"W": numpy.asarray(of(numpy.asarray(y)))}


def equal(y):
    return (y[:, None] == y[None, :]).astype(int)


MATRIX = [
    Wrong("supervised_matrix", "W is the identity", matrix(lambda y: numpy.eye(len(y), dtype=int))),
    Wrong(
        *("supervised_matrix", "W without its diagonal"),
        matrix(lambda y: equal(y) - numpy.eye(len(y), dtype=int)),
        reading=("msm-diagonal", "zero"),
    ),
    Wrong(
        *("supervised_matrix", "labels compared with column numbers"),
        matrix(lambda y: (y[:, None] == numpy.arange(len(y))).astype(int)),
    ),
    Wrong(
        *("supervised_matrix", "labels that differ by one count as equal"),
        matrix(lambda y: (abs(y[:, None] - y) <= 1).astype(int)),
    ),
    Wrong("supervised_matrix", "0 where labels agree", matrix(lambda y: 1 - equal(y))),
    Wrong("supervised_matrix", "all ones", matrix(lambda y: equal(y) * 0 + 1)),
]


# ---------------------------------------------------------------- Eqs. (9)-(11)


def interleaved(f, I_groups):
    n, B, d = I_groups.shape
    return {"I": xp.reshape(xp.transpose(I_groups, (1, 2, 0)), (B, d * n))}


def sar_first(f, I_groups):
    order = [4, 5, 6, 0, 1, 2, 3] if I_groups.shape[0] == 7 else range(I_groups.shape[0])
    return {"I": xp.concat([I_groups[i] for i in order], 1)}


def normalised(f, I_groups):
    return right.concat(f, right.normalise(I_groups))


def along_batch(f, I_groups):
    n, B, d = I_groups.shape
    return {"I": xp.reshape(I_groups, (B, n * d))}


def classified(combine):
    return lambda f, c_hat, c: {"L_cls": combine(c_hat, right.classes(c))}


def each(c_hat, c):
    return -right.pick(right.log_softmax(c_hat), c)


def smoothed(c_hat, c):
    z = right.log_softmax(c_hat)
    return -xp.mean(right.pick(z, c) * like(z, "0.9") + xp.mean(z, 1) * like(z, "0.1"))


def one_against_rest(c_hat, c):
    W = numpy.arange(c_hat.shape[1]) == numpy.array(c)[:, None]
    return xp.mean(terms(c_hat, W))


TOTAL = [
    Wrong("concat", "feature-major", interleaved),
    Wrong("concat", "SAR groups first", sar_first, reading=("concat-order", "bands")),
    Wrong("concat", "features normalised", normalised, reading=("features-in-concat", "normalised")),
    Wrong("concat", "batch and groups mixed by a reshape", along_batch),
    Wrong("cross_entropy", "sum for mean", classified(lambda x, c: xp.sum(each(x, c))), reading=("ce", "sum")),
    Wrong(
        *("cross_entropy", "a softmax before the cross-entropy"),
        classified(lambda x, c: xp.mean(each(softmax(x), c))),
        reading=("ce", "probabilities"),
    ),
    Wrong("cross_entropy", "labels smoothed by 0.1", classified(smoothed)),
    Wrong("cross_entropy", "logits normalised", classified(lambda x, c: xp.mean(each(right.normalise(x), c)))),
    Wrong(
        "cross_entropy", "classes counted from 1", classified(lambda x, c: xp.mean(each(x, [k - 1 for k in c])))
    ),
    Wrong("cross_entropy", "binary cross-entropy of one-hot labels", classified(one_against_rest)),
    Wrong("total_loss", "beta on the other term", lambda f, L_cls, L_con, beta: {"L": L_cls * beta + L_con}),
    Wrong("total_loss", "beta left out", lambda f, L_cls, L_con, beta: {"L": L_cls + L_con}),
    Wrong(
        *("total_loss", "a weighted mean"),
        lambda f, L_cls, L_con, beta: {"L": (L_cls + L_con * beta) / (1 + beta)},
    ),
]


# ---------------------------------------------------------------- III-A


def nesterov(w, v, g, lr, momentum, decay):
    g = g + w * decay
    v = g if v is None else v * momentum + g
    return w - (g + v * momentum) * lr, v


def decoupled(w, v, g, lr, momentum, decay):
    v = g if v is None else v * momentum + g
    return w - w * (decay * lr) - v * lr, v


def decay_without_rate(w, v, g, lr, momentum, decay):
    v = g if v is None else v * momentum + g
    return w - w * decay - v * lr, v


def dampened(w, v, g, lr, momentum, decay):
    g = g + w * decay
    v = g if v is None else v * momentum + g * (1 - momentum)
    return w - v * lr, v


def average(w, v, g, lr, momentum, decay):
    g = (g + w * decay) * (1 - momentum)
    v = g if v is None else v * momentum + g
    return w - v * lr, v


def rate_inside(w, v, g, lr, momentum, decay):
    g = (g + w * decay) * lr
    v = -g if v is None else v * momentum - g
    return w + v, v


def first_scaled(w, v, g, lr, momentum, decay):
    g = g + w * decay
    v = g * (1 - momentum) if v is None else v * momentum + g
    return w - v * lr, v


def no_momentum(w, v, g, lr, momentum, decay):
    g = g + w * decay
    return w - g * lr, g


def decay_halved(w, v, g, lr, momentum, decay):
    return right.sgd_step(w, v, g, lr, momentum, decay / 2)


SGD = [
    Wrong("sgd", "Nesterov", nesterov, "sgd_step", ("momentum", "nesterov")),
    Wrong("sgd", "decoupled decay", decoupled, "sgd_step", ("weight-decay", "decoupled")),
    Wrong("sgd", "decay without the rate", decay_without_rate, "sgd_step"),
    Wrong("sgd", "(1 - momentum) on later gradients", dampened, "sgd_step", ("momentum", "damped")),
    Wrong("sgd", "(1 - momentum) on every gradient", average, "sgd_step"),
    Wrong("sgd", "rate inside the velocity", rate_inside, "sgd_step", ("momentum", "rate-inside")),
    Wrong("sgd", "first velocity scaled by 1 - momentum", first_scaled, "sgd_step"),
    Wrong("sgd", "no momentum", no_momentum, "sgd_step"),
    Wrong("sgd", "decay halved, as of a penalty without the 2", decay_halved, "sgd_step"),
]


EQUATIONS = [*LOSS, *SIMILARITY, *FUSE, *MATRIX, *TOTAL, *SGD]

CANNOT_SHOW = [
    {
        "op": "contrastive_loss",
        "name": "one direction alone, without the half",
        "why": "S_hat = S^T and W = W^T, so L_t2i = L_i2t = L_con for every S: the readings are one",
    },
    {
        "op": "cross_entropy",
        "name": "a constant added to each row of logits",
        "why": "the softmax does not see it: value and gradient are the same",
    },
    {
        "op": "text_encoder",
        "name": "the context cut after the longest row's EOT",
        "why": "the causal mask: no token sees what follows it, so T_i is the same",
    },
]

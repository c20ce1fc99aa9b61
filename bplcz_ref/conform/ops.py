"""Every operation of the kit: its place in the paper, its formula as text and as code, and what it rests on.

    OPS[op]       what the kit knows about an operation; OPS is in topological order
    FORMULAS[op]  its code: FORMULAS[op](f, **inputs) returns {output: array}

A formula runs on Decimals and on floats alike (exact.py). What is made of other operations asks the table `f`
for them, so that replacing one entry of f replaces it wherever it is used. The formulas are the yardstick of the
kit's layers and networks. For the equations they are a second opinion: `loops` gives their yardstick, the scalar
loops of loops.py over Decimals with gradients derived by hand. Nothing in the package but the kit uses the
formulas.

Index letters: B images, P prompts, N sequences, L tokens, d features, n groups, H W rows and columns, C channels,
K classes. In `loops`, i are the inputs and g the cotangents, as nested lists.
"""

import inspect
import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy

from bplcz_ref import loops as scalar
from bplcz_ref.conform import exact as xp
from bplcz_ref.conform import networks, words
from bplcz_ref.conform.exact import Array, like

EPS_NORM, EPS_VARIANCE = "1e-12", "1e-5"


class Op(NamedTuple):
    suite: int
    equation: int | str | None  # its number, or the section of the paper
    symbol: str
    formula: str
    parents: tuple = ()
    loops: Callable | None = None  # (inputs, cotangents) -> {output: nested list}
    copies: bool = False  # its outputs are copies: whole numbers have to be equal, not near
    picks: bool = False  # it picks values by their order and computes nothing
    exponential: bool = False  # e^x is uncertain by |x| eps, however it is computed
    tapped: bool = False  # it has a tap after each sub-layer, dozens of outputs


OPS: dict = {}
FORMULAS: dict = {"matmul": operator.matmul}  # an entry of its own: products are where hardware rounds


def operation(**entry: Any) -> Callable:
    """Enter a function in the two tables; the first paragraph of its docstring is the formula that readers get."""

    def enter(function):
        formula = (inspect.getdoc(function) or "").split("\n\n")[0]  # python -OO has no docstrings
        OPS[function.__name__], FORMULAS[function.__name__] = Op(formula=formula, **entry), function
        return function

    return enter


def rests_on(op: str) -> set:
    """An operation and all that it rests on."""
    return {op}.union(*(rests_on(parent) for parent in OPS[op].parents))


def classes(y: Array) -> list:
    return [int(k) for k in numpy.asarray(y).ravel()]


# ---------------------------------------------------------------- bands, text


@operation(suite=0, equation=None, symbol="a")
def read_array(f: dict, a: Array) -> dict:
    """sum_0[y, z] = sum_x a[x, y, z], and sum_1, sum_2 likewise; data are row-major

    Sums over each axis: wrong as soon as the flat data are read in another order.
    """
    return {f"sum_{axis}": xp.sum(a, axis=axis) for axis in range(3)}


@operation(suite=4, equation="II-A", symbol="X_i", parents=("read_array",), copies=True, picks=True)
def band_groups(f: dict, sen1: Array, sen2: Array) -> dict:
    """X_i = the group's bands, 1-based as printed, channels last"""
    bands = {
        "RGB": (sen2, (1, 2, 3)),
        "VRE": (sen2, (4, 5, 6, 8)),
        "NIR": (sen2, (7,)),
        "SWIR": (sen2, (9, 10)),
        "VH": (sen1, (1, 2, 5)),
        "VV": (sen1, (3, 4, 6)),
        "PolSAR": (sen1, (7, 8)),
    }
    return {f"X_{name}": sensor[..., [b - 1 for b in numbers]] for name, (sensor, numbers) in bands.items()}


operation(suite=5, equation="II-B1", symbol="t_i")(words.prompt)
operation(suite=5, equation="II-B1", symbol="pieces")(words.pre_tokens)
operation(suite=5, equation="II-B1", symbol="ids", parents=("pre_tokens",))(words.tokenize)

# ---------------------------------------------------------------- layers


@operation(suite=6, equation="II-D", symbol="D", parents=("read_array",))
def linear(f: dict, x: Array, weight: Array, bias: Array) -> dict:
    """y = x weight^T + bias"""
    return {"y": f["matmul"](x, weight.T) + bias}


def windows(x: Array, kh: int, kw: int, stride: int, before: int, after: int, spread: int = 1) -> dict:
    """{(u, v): the pixels under tap (u, v)}; zeros `before` the first and `after` the last row and column."""
    x = xp.pad(x, ((0, 0), (before, after), (before, after), (0, 0)))
    count = lambda size, k: (size - spread * (k - 1) - 1) // stride + 1
    rows, columns = count(x.shape[1], kh), count(x.shape[2], kw)
    at = lambda u, n: slice(spread * u, spread * u + stride * (n - 1) + 1, stride)
    return {(u, v): x[:, at(u, rows), at(v, columns)] for u in range(kh) for v in range(kw)}


@operation(suite=6, equation=1, symbol="conv", parents=("read_array",))
def conv2d(
    f: dict, x: Array, weight: Array, stride: int = 1, padding: int = 1, before: int | None = None, spread: int = 1
) -> dict:
    """y[b, i, j, o] = sum_uvc x_pad[b, stride i + u, stride j + v, c] weight[o, c, u, v]; not flipped

    Channels last, weight (O, C, kh, kw), zeros on both sides (`before` and `spread` are for wrong readings).
    """
    stride, padding = int(stride), int(padding)
    before, total = padding if before is None else before, None
    for (u, v), pixels in windows(x, weight.shape[2], weight.shape[3], stride, before, padding, spread).items():
        part = f["matmul"](pixels, weight[:, :, u, v].T)
        total = part if total is None else total + part
    return {"y": total}


@operation(suite=6, equation=1, symbol="BN", parents=("read_array",))
def batch_norm(
    f: dict, x: Array, weight: Array, bias: Array, running_mean: Array, running_var: Array, train: int = 1
) -> dict:
    """(x - mean) / sqrt(var + 1e-5) weight + bias, var / N; running: 0.9 old + 0.1 new, var / (N - 1)

    Normalised by the biased variance; the running one takes a tenth of the unbiased.
    """
    n = x.size // x.shape[-1]
    new_mean, new_var = running_mean, running_var
    mean, var = running_mean, running_var
    if int(train):
        axes = tuple(range(x.ndim - 1))
        mean = xp.mean(x, axes)
        var = xp.mean((x - mean) * (x - mean), axes)
        share, rest = like(x, "0.1"), like(x, "0.9")
        new_mean = running_mean * rest + mean * share
        new_var = running_var * rest + var * n / (n - 1) * share
    y = (x - mean) / xp.sqrt(var + like(x, EPS_VARIANCE)) * weight + bias
    return {"y": y, "new_running_mean": new_mean, "new_running_var": new_var}


@operation(suite=6, equation=2, symbol="LN", parents=("read_array",))
def layer_norm(f: dict, x: Array, weight: Array, bias: Array) -> dict:
    """(x - mean) / sqrt(var + 1e-5) weight + bias over the last axis"""
    centred = x - xp.mean(x, -1, keepdims=True)
    var = xp.mean(centred * centred, -1, keepdims=True)
    return {"y": centred / xp.sqrt(var + like(x, EPS_VARIANCE)) * weight + bias}


@operation(suite=6, equation=1, symbol="ReLU", parents=("read_array",))
def relu(f: dict, x: Array) -> dict:
    """max(x, 0), slope 0 at 0"""
    return {"y": x * xp.mask(xp.value(x) > 0, x)}


def first_of_equals(equal: Array) -> Array:
    """Of the places that hold the largest value (taps first), the first in row order."""
    return equal * (numpy.cumsum(equal, axis=0) == 1)


@operation(suite=6, equation=1, symbol="max-pool", parents=("read_array",), picks=True)
def max_pool2d(f: dict, x: Array, chosen: Callable = first_of_equals, stride: int = 2) -> dict:
    """the largest of each whole 2 x 2 window; of equals the first in row order has the gradient

    A last row or column without a partner is dropped. `chosen` gives the share of each of the equals.
    """
    taps = list(windows(x, 2, 2, stride, 0, 0).values())
    values = numpy.stack([xp.value(t) for t in taps])
    largest = values.max(axis=0)
    share = chosen((values == largest).astype(int))
    surplus, total = xp.mask(share.sum(axis=0) > 1, x) * (share.sum(axis=0) - 1), None
    for k in range(4):
        part = taps[k] * (share[k] if isinstance(x, xp.Exact) else share[k].astype(values.dtype))
        total = part if total is None else total + part
    return {"y": total - xp.without_history(taps[0] * 0 + largest) * surplus if surplus.any() else total}


@operation(suite=6, equation="ExViT", symbol="GELU", parents=("read_array",))
def gelu(f: dict, x: Array) -> dict:
    """x (1 + erf(x / sqrt 2)) / 2, exact"""
    return {"y": x * (1 + xp.erf(x / xp.root(2, x))) / 2}


@operation(suite=6, equation=2, symbol="QuickGELU", parents=("read_array",))
def quick_gelu(f: dict, x: Array) -> dict:
    """x sigma(1.702 x)"""
    return {"y": x * xp.sigmoid(x * like(x, "1.702"))}


def split_heads(x: Array, heads: int) -> Array:  # (N, L, W) -> (N, heads, L, W / heads)
    N, L, W = x.shape
    return xp.transpose(xp.reshape(x, (N, L, heads, W // heads)), (0, 2, 1, 3))


def join_heads(x: Array) -> Array:  # (N, heads, L, W / heads) -> (N, L, W)
    N, heads, L, each = x.shape
    return xp.reshape(xp.transpose(x, (0, 2, 1, 3)), (N, L, heads * each))


def masked_softmax(scores: Array, seen: Array, axis: int = -1) -> Array:  # (N, heads, L, L), (L, L)
    """The softmax over the keys that are `seen`, shifted by the largest of them."""
    plain = xp.value(scores)
    shown = numpy.where(seen == 1, plain, plain.min())  # the largest of what is seen; it cancels
    e = xp.exp((scores - shown.max(axis=axis, keepdims=True)) * seen) * seen
    return e / xp.sum(e, axis, keepdims=True)


@operation(suite=6, equation=2, symbol="MHA", parents=("linear",))
def attention(
    f: dict, x: Array, in_proj_weight: Array, in_proj_bias: Array, out_weight: Array, out_bias: Array, heads: int,
    divide: bool = True, reach: int = 0, split: Callable = split_heads, order: str = "qkv",
    weigh: Callable = masked_softmax, join: Callable = join_heads,
) -> dict:  # fmt: skip
    """softmax(q k^T / sqrt(W / heads)) v, token l sees 0..l; in_proj holds q, k, v; then out

    CLIP's self-attention, W / heads features for each head. The options are for wrong readings; the right one
    takes their defaults.
    """
    W, L, times, parts = x.shape[-1], x.shape[-2], f["matmul"], {}
    for i, name in enumerate(order):
        rows = slice(i * W, (i + 1) * W)
        parts[name] = split(times(x, in_proj_weight[rows].T) + in_proj_bias[rows], int(heads))
    scores = times(parts["q"], xp.transpose(parts["k"], (0, 1, 3, 2)))
    if divide:
        scores = scores / xp.root(W // int(heads), x)
    seen = xp.mask(numpy.tril(numpy.ones((L, L)), reach), x)
    return {"y": times(join(times(weigh(scores, seen), parts["v"])), out_weight.T) + out_bias}


# ---------------------------------------------------------------- Eqs. (1)-(11)

operation(
    suite=6,
    equation=1,
    symbol="I_i",
    tapped=True,
    parents=("conv2d", "batch_norm", "relu", "max_pool2d", "linear"),
)(networks.image_encoder)
operation(
    suite=6, equation=2, symbol="T_i", tapped=True, parents=("layer_norm", "attention", "quick_gelu", "linear")
)(networks.text_encoder)


def normalise(x: Array, bound: str = EPS_NORM) -> Array:
    """II-B2: x / max(||x||, bound), row by row."""
    square = xp.sum(x * x, axis=-1, keepdims=True)
    above = xp.mask(xp.value(square) > like(x, bound) ** 2, x)
    norm = xp.sqrt(square * above + (1 - above))  # 1 under the root where the bound holds: its slope is finite
    return x / (norm * above + (1 - above) * like(x, bound))


def _similarity_loops(i, g):
    out = dict(zip(("S_i", "S_hat_i"), scalar.similarity(i["I_i"], i["T_i"]), strict=True))
    if g:
        out["grad.I_i"], out["grad.T_i"] = scalar.similarity_vjp(i["I_i"], i["T_i"], g["S_i"], g["S_hat_i"])
    return out


@operation(suite=1, equation="II-B2", symbol="S_i", parents=("read_array",), loops=_similarity_loops)
def similarity(f: dict, I_i: Array, T_i: Array) -> dict:
    """S_i[j, k] = cos(I_i^j, T_i^k), S_hat_i = S_i^T; x / max(||x||, 1e-12)"""
    u, v = normalise(I_i), normalise(T_i)
    return {"S_i": f["matmul"](u, v.T), "S_hat_i": f["matmul"](v, u.T)}


@operation(
    suite=1,
    equation=3,
    symbol="S",
    parents=("read_array",),
    loops=lambda i, g: {
        "S": scalar.fuse(i["S_groups"], i["alpha"]),
        "grad.S_groups": scalar.fuse_vjp(i["S_groups"], i["alpha"], g["S"])[0],
    },
)
def fuse(f: dict, S_groups: Array, alpha: Array) -> dict:
    """S = alpha sum_i S_i; Eq. (4) is the same for S_hat"""
    return {"S": xp.sum(S_groups, axis=0) * like(S_groups, alpha)}


@operation(suite=2, equation=5, symbol="W", loops=lambda i, g: {"W": scalar.supervised_matrix(i["y"])})
def supervised_matrix(f: dict, y: Array) -> dict:
    """W[j, k] = 1 if y_j = y_k else 0"""
    y = numpy.asarray(y)
    return {"W": (y[:, None] == y[None, :]).astype(int)}


@operation(
    suite=1,
    equation=7,
    symbol="L_i2t",
    parents=("read_array",),
    exponential=True,
    loops=lambda i, g: {"L": scalar.bce(i["S"], i["W"]), "grad.S": scalar.bce_vjp(i["S"], i["W"], g["L"])},
)
def bce(f: dict, S: Array, W: Array) -> dict:
    """mean of -(W log sigma(S) + (1 - W) log(1 - sigma(S))); Eq. (8) likewise"""
    return {"L": xp.mean(bce_terms(S, W))}


def bce_terms(S: Array, W: Array) -> Array:
    """The B P terms: log(1 + e^-S) where W is 1, log(1 + e^S) where it is 0."""
    return xp.softplus((1 - 2 * xp.mask(W, S)) * S)


def _contrastive_loss_loops(i, g):
    S, S_hat, W = i["S"], scalar.transpose(i["S"]), i["W"]
    L_i2t, L_t2i, L_con = scalar.contrastive_loss(S, S_hat, W)
    dS = scalar.bce_vjp(S, W, g["L_i2t"] + g["L_con"] / 2)
    dS_hat = scalar.transpose(scalar.bce_vjp(S_hat, W, g["L_t2i"] + g["L_con"] / 2))
    grad = [[a + b for a, b in zip(p, q, strict=True)] for p, q in zip(dS, dS_hat, strict=True)]
    return {"L_i2t": L_i2t, "L_t2i": L_t2i, "L_con": L_con, "grad.S": grad}


@operation(suite=1, equation=6, symbol="L_con", parents=("bce",), exponential=True, loops=_contrastive_loss_loops)
def contrastive_loss(f: dict, S: Array, W: Array) -> dict:
    """(BCE(S, W) + BCE(S^T, W)) / 2"""
    L_i2t, L_t2i = f["bce"](f, S=S, W=W)["L"], f["bce"](f, S=S.T, W=W)["L"]
    return {"L_i2t": L_i2t, "L_t2i": L_t2i, "L_con": (L_i2t + L_t2i) / 2}


@operation(
    suite=1,
    equation=9,
    symbol="I",
    parents=("read_array",),
    picks=True,
    loops=lambda i, g: {
        "I": scalar.concat(i["I_groups"]),
        "grad.I_groups": scalar.concat_vjp(i["I_groups"], g["I"]),
    },
)
def concat(f: dict, I_groups: Array) -> dict:
    """I = Concat([I_1, ..., I_n]), features as they left E_m"""
    return {"I": xp.concat([I_groups[i] for i in range(I_groups.shape[0])], 1)}


def log_softmax(x: Array) -> Array:
    z = x - xp.value(x).max(axis=-1, keepdims=True)
    return z - xp.log(xp.sum(xp.exp(z), axis=-1, keepdims=True))


def pick(x: Array, c: list) -> Array:
    """x[j, c_j], one entry of each row."""
    return x[numpy.arange(len(c)), numpy.array(c)]


@operation(
    suite=1,
    equation=11,
    symbol="L_cls",
    parents=("read_array",),
    exponential=True,
    loops=lambda i, g: {
        "L_cls": scalar.cross_entropy(i["c_hat"], i["c"]),
        "grad.c_hat": scalar.cross_entropy_vjp(i["c_hat"], i["c"], g["L_cls"]),
    },
)
def cross_entropy(f: dict, c_hat: Array, c: Array) -> dict:
    """mean over j of -log softmax(c_hat_j)[c_j]"""
    return {"L_cls": -xp.mean(pick(log_softmax(c_hat), classes(c)))}


def _total_loss_loops(i, g):
    L_cls, L_con, _ = scalar.total_loss_vjp(i["L_cls"], i["L_con"], i["beta"], g["L"])
    L = scalar.total_loss(i["L_cls"], i["L_con"], i["beta"])
    return {"L": L, "grad.L_cls": L_cls, "grad.L_con": L_con}


@operation(suite=1, equation=10, symbol="L", loops=_total_loss_loops)
def total_loss(f: dict, L_cls: Array, L_con: Array, beta: Array) -> dict:
    """L = L_cls + beta L_con"""
    return {"L": L_cls + L_con * like(L_con, beta)}


# ---------------------------------------------------------------- III: optimiser, figures of merit, Fig. 1


def sgd_step(w: Array, v: Array | None, g: Array, lr: Array, momentum: Array, weight_decay: Array) -> tuple:
    """PyTorch's rule, -> new w, new v; v is None at the first step."""
    g = g + w * weight_decay
    v = g if v is None else v * momentum + g
    return w - v * lr, v


FORMULAS["sgd_step"] = sgd_step  # no operation with cases of its own: `sgd` and `training` ask the table for it


def _sgd_loops(i, g):
    w, v, ws, vs = i["w"], None, [], []
    for gradient, lr in zip(i["gradients"], i["lr"], strict=True):
        w, v = scalar.sgd(w, gradient, v, lr, i["momentum"], i["weight_decay"])
        ws.append(w)
        vs.append(v)
    return {"w": ws, "v": vs}


@operation(suite=3, equation="III-A", symbol="w", parents=("read_array",), loops=_sgd_loops)
def sgd(f: dict, w: Array, gradients: Array, lr: Array, momentum: Array, weight_decay: Array) -> dict:
    """g += decay w; v = momentum v + g (first v = g); w -= lr v

    Parameters and velocity after each of len(lr) steps.
    """
    w_all, v_all, v = [], [], None
    for t, rate in enumerate(numpy.asarray(lr).tolist()):
        w, v = f["sgd_step"](w, v, gradients[t], like(w, rate), like(w, momentum), like(w, weight_decay))
        w_all.append(w)
        v_all.append(v)
    return {"w": xp.stack(w_all), "v": xp.stack(v_all)}


@operation(suite=8, equation="III-B", symbol="OA, kappa")
def metrics(f: dict, y: Array, y_hat: Array, K: int) -> dict:
    """OA = trace / N; kappa = (OA - p_e) / (1 - p_e), p_e = sum row column / N^2"""
    K, true, found = int(K), classes(y), classes(y_hat)
    C = numpy.zeros((K, K), int)
    for j, k in zip(true, found, strict=True):
        C[j, k] += 1
    N, agree = len(true), int(numpy.trace(C))
    rows, columns = C.sum(1), C.sum(0)
    present = [k for k in range(K) if rows[k]]
    one = xp.exact(1)
    chance = int((rows * columns).sum())
    average = xp.sum(xp.stack([one * int(C[k, k]) / int(rows[k]) for k in present])) / len(present)
    return {
        "confusion": C,
        "overall_accuracy": one * agree / N,
        "average_accuracy": average,
        "kappa": one * (N * agree - chance) / (N * N - chance),
    }


_OUTSIDE = ("read_array", "prompt", "pre_tokens", "tokenize", "gelu", "metrics")  # Fig. 1 has no use for these
operation(
    suite=7, equation="Fig. 1", symbol="L", tapped=True, parents=tuple(op for op in OPS if op not in _OUTSIDE)
)(networks.training)

# ---------------------------------------------------------------- before and after the training


@operation(suite=9, equation="III-A", symbol="mean, std", parents=("read_array",))
def statistics(f: dict, x: Array) -> dict:
    """mean and std of each channel over samples, rows and columns; std = sqrt(sum (x - mean)^2 / N)"""
    axes = tuple(range(x.ndim - 1))
    mean = xp.mean(x, axes)
    return {"mean": mean, "std": xp.sqrt(xp.mean((x - mean) * (x - mean), axes))}


@operation(suite=9, equation="III-A", symbol="X", parents=("read_array",))
def standardise(f: dict, x: Array, mean: Array, std: Array) -> dict:
    """(x - mean) / std of each channel; a channel with std 0 is divided by 1"""
    none = xp.mask(xp.value(std) == 0, std)
    return {"y": (x - mean) / (std + none)}


@operation(suite=9, equation="III-A", symbol="train, test")
def split(f: dict, y: Array, per_class: int, test: int, seed: int) -> dict:
    """how many rows of each of the 17 classes a split of the labels y draws, and how many rows come twice

    Training takes per_class rows of each class, the test takes `test` of all the others. Cases ask for all that
    are left, so that the counts do not depend on the draw. `repeated` are rows that training or test hold twice,
    `common` those that are in both. What cannot be drawn is answered by {"refused": 1}.
    """
    counts = numpy.bincount(numpy.asarray(y), minlength=17)
    if counts.min() < int(per_class) or len(y) - 17 * int(per_class) < int(test):
        return {"refused": 1}
    train = numpy.full(17, int(per_class))
    return {"train": train, "test": counts - train, "repeated": 0, "common": 0}


@operation(suite=9, equation=9, symbol="class")
def predict(f: dict, c_hat: Array) -> dict:
    """y_hat[j] = the class of the largest logit of row j; of equals the first"""
    return {"y_hat": numpy.argmax(xp.value(c_hat), axis=1)}


operation(suite=9, equation=9, symbol="c_hat", tapped=True, parents=("image_encoder", "predict"))(
    networks.inference
)

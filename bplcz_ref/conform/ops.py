"""Every operation that the kit asks for: its computation, its place in the paper, its formula, what it rests on.

The yardstick is the package itself, by its definitions and not by its kernels. Tests hold these to loops.py in
Decimal, to in_one_file.py, and to programs in other languages. A mistake is another `run`.

Index letters: B images, P prompts, N sequences, L tokens, d features, n groups, H W rows and columns, C channels,
K classes.
"""

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import autograd.numpy as np
import numpy as onp
from autograd import make_vjp
from autograd.tracer import getval

from bplcz_ref import bands, equations, nn, optim, prompts, tokenizer
from bplcz_ref import metrics as figures


class Op(NamedTuple):
    run: Callable  # (**inputs) -> {output: array, number or text}, in the dtype of its inputs
    place: str  # "Eq. (7)", or a section; "" for what the paper does not have
    symbol: str
    formula: str
    parents: tuple = ()  # what it rests on
    picks: bool = False  # chooses among values, so that equal ones have to stay equal
    exponent: Callable | None = None  # inputs -> the largest |x| of its e^x, which is uncertain by |x| eps
    also: Callable | None = None  # another right way whose rounding counts too
    size: float = 0.0  # outputs count as this large at least


class Case(NamedTuple):
    """What is computed, from what, and what it is there for; the id is operation/name."""

    id: str
    why: str
    inputs: dict  # name -> float array, whole array, number or text
    slopes: tuple = ()  # the inputs of which gradients are asked
    cotangents: dict = {}  # output -> float array
    needs: float = 1.0  # the smallest constant of the formula that decides here
    expect: dict = {}  # output -> (value, allowed), once it is worked out: numbers.solved

    @property
    def op(self) -> str:
        return self.id.split("/")[0]


def rests_on(op: str) -> set:
    """An operation and all that it rests on."""
    return {op}.union(*(rests_on(parent) for parent in OPS[op].parents))


def is_float(x: Any) -> bool:
    return isinstance(x, float) or (isinstance(x, onp.ndarray) and x.dtype.kind == "f")


def worked_out(run: Callable, case: Case, dtype: str = "float64", move: Callable = lambda x: x) -> dict:
    """{output: array or text} of a case by `run`, gradients among them; `move` is applied to every float given."""
    cast = lambda x: float(move(x)) if isinstance(x, float) else move(x).astype(dtype)
    given = {name: cast(x) if is_float(x) else x for name, x in case.inputs.items()}
    weights = {o: cast(onp.asarray(g)) for o, g in case.cotangents.items()}
    kept: dict[str, Any] = {}

    def weighed(varied):
        out = run(**(given | {name: varied[name] for name in case.slopes}))
        kept.update(plain(out))
        return sum(np.sum(out[o] * g) for o, g in weights.items())

    with onp.errstate(all="ignore"), warnings.catch_warnings():  # mistakes divide by zero, and stop gradients
        warnings.simplefilter("ignore")
        if not case.slopes:
            return plain(run(**given))
        try:
            pull, y = make_vjp(weighed)({name: onp.asarray(given[name], dtype) for name in case.slopes})
            return kept | {f"grad.{name}": onp.asarray(g) for name, g in pull(onp.ones_like(y)).items()}
        except ValueError:  # a shape that the cotangents do not fit: the values alone show it
            return plain(run(**given))


def plain(outputs: dict) -> dict:
    """Outputs without autograd's boxes: text and lists as they are, all else as arrays."""
    return {o: x if isinstance(x, (str, list)) else onp.asarray(getval(x)) for o, x in outputs.items()}


def tokenize(text, context, truncate):
    try:
        ids = tokenizer.Tokenizer.bundled().batch([text], context_length=context, truncate=bool(truncate))[0]
    except ValueError:
        return {"refused": 1}
    return {"ids": ids, "end": int(onp.argmax(ids))}


def in_one_pass(x, weight, bias, axes):
    """A norm whose variance is E[x^2] - E[x]^2, as Flax has it: right, but off by an eps of E[x^2]."""
    mean, square = np.mean(x, axes, keepdims=True), np.mean(x * x, axes, keepdims=True)
    eps = onp.asarray([1e-5, onp.finfo(getval(x).dtype).eps], getval(x).dtype)
    var = square - mean * mean + eps[1] * getval(square)
    return (x - mean) / np.sqrt(var * (getval(var) > 0) + eps[0]) * weight + bias, var


def batch_norm(x, weight, bias, running_mean, running_var, train, **options):
    state = {"running_mean": running_mean, "running_var": running_var, "num_batches_tracked": 0}
    y, new = nn.batch_norm.definition(x, weight, bias, state, train=bool(train), **options)
    return {"y": y, "new_running_mean": new["running_mean"], "new_running_var": new["running_var"]}


def batch_norm_in_one_pass(x, weight, bias, running_mean, running_var, train):
    right = batch_norm(x, weight, bias, running_mean, running_var, train)
    if not train:
        return right
    y, var = in_one_pass(x, weight, bias, (0, 1, 2))
    N = x.size // x.shape[-1]
    return right | {"y": y, "new_running_var": 0.9 * running_var + 0.1 * getval(var).ravel() * N / (N - 1)}


def queries_keys_values(x, in_proj_weight, in_proj_bias, heads):  # (N, L, W) -> 3 of (N, heads, L, W / heads)
    N, L, W = x.shape
    qkv = np.reshape(nn.linear.definition(x, in_proj_weight, in_proj_bias), (N, L, 3, heads, W // heads))
    return [np.transpose(qkv[:, :, i], (0, 2, 1, 3)) for i in range(3)]


def attention(x, in_proj_weight, in_proj_bias, out_weight, out_bias, heads):
    q, k, v = queries_keys_values(x, in_proj_weight, in_proj_bias, heads)
    y = np.transpose(nn.attention.definition(q, k, v, causal=True), (0, 2, 1, 3))
    return {"y": nn.linear.definition(np.reshape(y, x.shape), out_weight, out_bias)}


def attention_by_logarithms(x, in_proj_weight, in_proj_bias, out_weight, out_bias, heads):
    """The softmax as e^(score - log sum e^score)."""
    q, k, v = queries_keys_values(x, in_proj_weight, in_proj_bias, heads)
    scores = np.matmul(q, np.swapaxes(k, -1, -2)) * q.shape[-1] ** -0.5
    scores = np.where(onp.tril(onp.ones(scores.shape[-2:], bool)), scores, -onp.inf)
    y = np.matmul(np.exp(scores - log_sum_exp(scores)[..., None]), v)
    y = np.reshape(np.transpose(y, (0, 2, 1, 3)), x.shape)
    return {"y": nn.linear.definition(y, out_weight, out_bias)}


def largest_score(x, in_proj_weight, in_proj_bias, heads, **_):
    """Beyond 100 the softmax is saturated, and its slopes cancel: 32 times the scores, which are sums."""
    q, k, _v = queries_keys_values(x, in_proj_weight, in_proj_bias, heads)
    score = onp.abs(onp.matmul(q, onp.swapaxes(k, -1, -2))).max() / q.shape[-1] ** 0.5
    return 32 * score if score > 100 else 0.0


def log_sum_exp(x):  # (..., K) -> (...)
    shift = getval(x).max(-1)
    return np.log(np.sum(np.exp(x - shift[..., None]), axis=-1)) + shift


def largest_logit(S=0.0, c_hat=0.0, **_):
    return max(onp.abs(S).max(), onp.abs(c_hat).max())


def bce_by_parts(S, W):
    """The mean of log(1 + e^S) - W S."""
    return {"L": np.sum(np.logaddexp(0, S) - W * S) / W.size}


def cross_entropy_by_parts(c_hat, c):
    """The mean of log sum e^c_hat - c_hat[c], which cancels where the class is right."""
    return {"L_cls": np.sum(log_sum_exp(c_hat) - c_hat[onp.arange(len(c)), c]) / len(c)}


def sgd(w, gradients, lr, momentum, weight_decay):
    """Parameters and velocity after each of len(lr) steps."""
    steps, at, v, rule = [], {"w": w}, None, {"momentum": momentum, "weight_decay": weight_decay}
    for g, rate in zip(gradients, lr, strict=True):
        at, v = optim.sgd.definition(at, v, {"w": g}, learning_rate=rate, **rule)
        steps.append((at["w"], v["w"]))
    return {"w": onp.stack([w for w, _ in steps]), "v": onp.stack([v for _, v in steps])}


def metrics(y, y_hat, K):
    C = figures.confusion_matrix(y, y_hat, K)
    found = figures.summary(C)
    return {"confusion": C} | {n: onp.float64(found[n]) for n in ("overall_accuracy", "average_accuracy", "kappa")}


CHANNELS = len(bands.BANDS)  # what data/standardise.py takes; a case has fewer


def padded(x):  # (..., C) -> (..., 18)
    rest = onp.ones((*x.shape[:-1], CHANNELS - x.shape[-1]), getval(x).dtype)
    return np.concatenate([x, rest], axis=-1)


def statistics(x):
    from bplcz_ref.data.standardise import Moments  # it reads HDF5, which most commands do without

    moments = Moments()
    for rows in (x[:1], x[1:]):
        moments.add(padded(rows))
    found = moments.statistics()
    return {"mean": found.mean[: x.shape[-1]], "std": found.std[: x.shape[-1]]}


def standardise(x, mean, std):
    from bplcz_ref.data import standardise as data

    return {"y": data.standardise(padded(x), data.Statistics(padded(mean), padded(std)))[..., : x.shape[-1]]}


def split(y, per_class, test, seed):
    """Training takes per_class rows of each class, the test takes `test` of all the others.

    Cases ask for all that are left, so that the counts do not depend on the draw. `repeated` are rows that
    training or test hold twice, `common` those in both. What cannot be drawn is answered by {"refused": 1}.
    """
    from bplcz_ref.data import so2sat

    try:
        train, rest = so2sat.split(y, per_class, test, seed)
    except ValueError:
        return {"refused": 1}
    count = lambda rows: onp.bincount(y[rows], minlength=17)
    repeated = len(train) + len(rest) - len(set(train)) - len(set(rest))
    common = len(set(train) & set(rest))
    return {"train": count(train), "test": count(rest), "repeated": repeated, "common": common}


READ = ("read_array",)
OPS: dict[str, Op] = {  # in topological order
    "read_array": Op(
        lambda a: {f"sum_{axis}": np.sum(a, axis=axis) for axis in range(3)},
        "", "a", "sum_0[y, z] = sum_x a[x, y, z], and sum_1, sum_2 likewise; data are row-major"),
    "band_groups": Op(
        lambda sen1, sen2: {f"X_{name}": x for name, x in bands.grouped(sen1, sen2).items()},
        "II-A", "X_i", "X_i = the group's bands, 1-based as printed, channels last", READ, picks=True),
    "prompt": Op(
        lambda class_index, group: {"text": prompts.prompt(class_index, group)},
        "II-B1", "t_i", '"a photo of a {class} with {group} bands", {class} its description'),
    "pre_tokens": Op(
        lambda text: {"pieces": tokenizer.pre_tokens(text)}, "II-B1", "pieces",
        "entities twice, lower case, then pieces: contractions, runs of letters, ONE number, runs of others"),
    "tokenize": Op(
        tokenize, "II-B1", "ids",
        """[SOT] byte pairs, lowest rank first, </w> at a piece's end [EOT] 0 0 ...; else {"refused": 1}""",
        ("pre_tokens",)),
    "linear": Op(
        lambda x, weight, bias: {"y": nn.linear.definition(x, weight, bias)},
        "II-D", "D", "y = x weight^T + bias", READ),
    "conv2d": Op(
        lambda x, weight, stride, padding: {"y": nn.conv2d.definition(x, weight, stride=stride, padding=padding)},
        "Eq. (1)", "conv",
        "y[b, i, j, o] = sum_uvc x_pad[b, stride i + u, stride j + v, c] weight[o, c, u, v]; not flipped", READ),
    "batch_norm": Op(
        batch_norm, "Eq. (1)", "BN",
        "(x - mean) / sqrt(var + 1e-5) weight + bias, var / N; running: 0.9 old + 0.1 new, var / (N - 1)",
        READ, also=batch_norm_in_one_pass),
    "layer_norm": Op(
        lambda x, weight, bias: {"y": nn.layer_norm.definition(x, weight, bias)},
        "Eq. (2)", "LN", "(x - mean) / sqrt(var + 1e-5) weight + bias over the last axis", READ,
        also=lambda x, weight, bias: {"y": in_one_pass(x, weight, bias, -1)[0]}),
    "relu": Op(lambda x: {"y": nn.relu.definition(x)}, "Eq. (1)", "ReLU", "max(x, 0), slope 0 at 0", READ),
    "max_pool2d": Op(
        lambda x: {"y": nn.max_pool2d.definition(x, 2)}, "Eq. (1)", "max-pool",
        "the largest of each whole 2 x 2 window; an odd last row or column is dropped", READ, picks=True),
    "gelu": Op(
        lambda x: {"y": nn.gelu.definition(x)}, "ExViT", "GELU", "x (1 + erf(x / sqrt 2)) / 2, exact", READ),
    "quick_gelu": Op(
        lambda x: {"y": nn.quick_gelu.definition(x)}, "Eq. (2)", "QuickGELU", "x sigma(1.702 x)", READ,
        exponent=lambda x: 1.702 * onp.abs(x).max()),
    "attention": Op(
        attention, "Eq. (2)", "MHA",
        "softmax(q k^T / sqrt(W / heads)) v, token l sees 0..l; in_proj holds q, k, v; then out",
        ("linear",), exponent=largest_score, also=attention_by_logarithms),
    "similarity": Op(
        lambda I_i, T_i: dict(zip(("S_i", "S_hat_i"), equations.similarity(I_i, T_i), strict=True)),
        "II-B2", "S_i", "S_i[j, k] = cos(I_i^j, T_i^k), S_hat_i = S_i^T; x / max(||x||, 1e-12)", READ),
    "fuse": Op(
        lambda S_groups, alpha: {"S": equations.fuse(list(S_groups), alpha)},
        "Eq. (3)", "S", "S = alpha sum_i S_i; Eq. (4) is the same for S_hat", READ),
    "supervised_matrix": Op(
        lambda y: {"W": equations.supervised_matrix(y).astype(int)},
        "Eq. (5)", "W", "W[j, k] = 1 if y_j = y_k else 0"),
    "bce": Op(
        lambda S, W: {"L": equations.bce(S, W)},
        "Eq. (7)", "L_i2t", "mean of -(W log sigma(S) + (1 - W) log(1 - sigma(S))); Eq. (8) likewise", READ,
        exponent=largest_logit, also=bce_by_parts),
    "contrastive_loss": Op(
        lambda S, W: equations.contrastive_loss(S, S.T, W)._asdict(),
        "Eq. (6)", "L_con", "(BCE(S, W) + BCE(S^T, W)) / 2", ("bce",), exponent=largest_logit),
    "concat": Op(
        lambda I_groups: {"I": equations.concat(list(I_groups))},
        "Eq. (9)", "I", "I = Concat([I_1, ..., I_n]), features as they left E_m", READ, picks=True),
    "cross_entropy": Op(
        lambda c_hat, c: {"L_cls": equations.cross_entropy(c_hat, c)},
        "Eq. (11)", "L_cls", "mean over j of -log softmax(c_hat_j)[c_j]", READ,
        exponent=largest_logit, also=cross_entropy_by_parts),
    "total_loss": Op(
        lambda L_cls, L_con, beta: {"L": equations.total_loss(L_cls, L_con, beta)},
        "Eq. (10)", "L", "L = L_cls + beta L_con"),
    "sgd": Op(sgd, "III-A", "w", "g += decay w; v = momentum v + g (first v = g); w -= lr v", READ),
    "metrics": Op(
        metrics, "III-B", "OA, kappa",
        "OA = trace / N; kappa = (OA - p_e) / (1 - p_e), p_e = sum row column / N^2", size=1.0),
    "statistics": Op(
        statistics, "III-A", "mean, std",
        "mean and std of each channel over samples, rows and columns; std = sqrt(sum (x - mean)^2 / N)", READ),
    "standardise": Op(
        standardise, "III-A", "X", "(x - mean) / std of each channel; a channel with std 0 is divided by 1", READ),
    "split": Op(
        split, "III-A", "train, test",
        "how many rows of each of the 17 classes a split of the labels y draws, and how many rows come twice"),
    "predict": Op(
        lambda c_hat: {"y_hat": onp.argmax(getval(c_hat), axis=1)},
        "Eq. (9)", "class", "y_hat[j] = the class of the largest logit of row j; of equals the first"),
}  # fmt: skip

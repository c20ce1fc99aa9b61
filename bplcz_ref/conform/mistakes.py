# ruff: noqa: E501  (a mistake a line)
"""How answers may have come about that are not the right ones. A mistake is another way to run an operation:
{output: array} of the same inputs, like `run` in ops.OPS. It is named if it gives all the answers (verdict.py).

    LISTED[op]           other formulas, by name: what a competent person gets wrong in a port
    as_if(run, inputs)   by rule: the right formula of other inputs (beta 1, the weight transposed, no gradient ...)
    after(run, ...)      by rule: the right outputs changed (transposed, negative, rounded, exchanged ...)
    scales(case)         by rule: numbers that an output may be multiplied by, such as the length of an axis
    READINGS             the readings of docs/readings.md that a consumer may declare in place of ours

A listed mistake is one entry of LISTED, in a line where that is possible.
"""

from collections.abc import Callable, Iterator
from typing import Any

import autograd.numpy as np
import numpy as onp
from autograd.extend import defvjp, primitive
from autograd.tracer import getval

from bplcz_ref import equations, nn, paper
from bplcz_ref.conform.numbers import coarse
from bplcz_ref.conform.ops import OPS, Case, is_float

# ---------------------------------------------------------------- by rule


@primitive
def with_gradient(x: Any, change: Callable) -> Any:
    """x, but its gradient g becomes change(g)."""
    return x


defvjp(with_gradient, lambda y, x, change: change, argnums=(0,))


def rounded(dtype: str) -> Callable:
    """x rounded to a coarser dtype; its gradient passes."""
    return lambda x: x + (coarse(getval(x), dtype) - getval(x))


def slopes_rounded(dtype: str) -> Callable:
    """x, whose gradient is rounded to a coarser dtype."""
    return lambda x: with_gradient(x, lambda g: coarse(g, dtype))


SHORT = {"bfloat16": "bfloat16", "float16": "TF32 or float16"}
PRECISION = {f"rounded to {name}": rounded(dtype) for dtype, name in SHORT.items()}
PRECISION |= {f"with a gradient rounded to {name}": slopes_rounded(dtype) for dtype, name in SHORT.items()}
mean = lambda x, axis: np.mean(x, axis=axis, keepdims=True)
length = lambda x: np.sqrt(np.sum(x * x, axis=-1, keepdims=True))
ARRAYS = PRECISION | {
    "0": lambda x: x * 0, "1": lambda x: x * 0 + 1, "1 more": lambda x: x + 1, "negative": lambda x: -x,
    "doubled": lambda x: 2 * x, "halved": lambda x: x / 2, "squared": lambda x: x * x, "by its sign": np.sign,
    "of absolute values": np.abs, "not negative": lambda x: np.maximum(x, 0), "at most 1 in size": lambda x: np.clip(x, -1, 1),
    "transposed": lambda x: np.swapaxes(x, 0, 1), "exchanged in its last two axes": lambda x: np.swapaxes(x, -1, -2),
    "turned by 180 degrees in its last two axes": lambda x: x[..., ::-1, ::-1],
    "in reverse order": lambda x: x[::-1], "reversed along its second axis": lambda x: x[:, ::-1],
    "reversed along its third axis": lambda x: x[:, :, ::-1], "reversed along its last axis": lambda x: x[..., ::-1],
    "rolled by one": lambda x: np.concatenate([x[-1:], x[:-1]], 0),
    "without its last": lambda x: x[:-1], "its first alone": lambda x: x[:1],
    "centred": lambda x: x - mean(x, -1), "of length 1": lambda x: x / length(x),
    "a softmax": nn.softmax.definition, "a sigmoid": lambda x: 0.5 * (1 + np.tanh(x / 2)),
    "the identity": lambda x: x * 0 + onp.eye(*x.shape[-2:]), "without gradient": getval,
}  # fmt: skip
NUMBERS = {
    "0": lambda x: 0.0, "1": lambda x: 1.0, "halved": lambda x: x / 2, "doubled": lambda x: 2 * x, "negative": lambda x: -x,
    "squared": lambda x: x * x, "its root": lambda x: x**0.5, "inverted": lambda x: 1 / x, "taken from 1": lambda x: 1 - x,
}  # fmt: skip
WHOLE = {"0": lambda n: 0, "1": lambda n: 1, "1 more": lambda n: n + 1}
LABELS = {
    "1 less": lambda c: c - 1, "taken from 1": lambda W: 1 - W, "1 everywhere": lambda W: W * 0 + 1,
    "the identity": lambda W: onp.eye(*W.shape).astype(int), "in reverse order": lambda y: y[::-1],
}  # fmt: skip
BUILT_IN = {"alpha": 0.25, "beta": 2.0, "momentum": 0.9, "weight_decay": 0.002}


def changes(name: str, x: Any) -> dict[str, Callable]:
    """{in words: change} of an input, by its kind."""
    if isinstance(x, float):
        built_in = {f"{BUILT_IN[name]:g}, as in the paper": lambda x: BUILT_IN[name]} if name in BUILT_IN else {}
        traced = {k: ARRAYS[k] for k in (*PRECISION, "without gradient")}
        return NUMBERS | built_in | traced
    if isinstance(x, int):
        return WHOLE
    kind = getattr(x, "dtype", onp.dtype("O")).kind
    return ARRAYS if kind == "f" else LABELS if kind == "i" else {}


def as_if(run: Callable, inputs: dict) -> Iterator[tuple[str, Callable]]:
    """(name, way): the formula of inputs that are changed, alone, all together, or exchanged."""
    arrays = [name for name, x in inputs.items() if onp.ndim(x)]
    floats = [name for name, x in inputs.items() if is_float(x)]
    for words, change in PRECISION.items() if len(floats) > 1 else ():
        yield f"all inputs {words}", lambda _c=change, **i: run(**i | {n: _c(i[n]) for n in floats})
    for name, x in inputs.items():
        for words, change in changes(name, x).items():
            yield f"{name} {words}", lambda _n=name, _c=change, **i: run(**i | {_n: _c(i[_n])})
    for k, a in enumerate(arrays):
        for b in arrays[k + 1 :]:
            yield f"{a} and {b} exchanged", lambda _a=a, _b=b, **i: run(**i | {_a: i[_b], _b: i[_a]})


def after(run: Callable, outputs: list, inputs: dict) -> Iterator[tuple[str, Callable]]:
    """(name, way): the outputs changed, all of them or one; or another output or an input in place of one."""
    for which in [outputs, *([o] for o in outputs if len(outputs) > 1)]:
        for words, change in ARRAYS.items():
            way = lambda _w=which, _c=change, **i: (out := run(**i)) | {o: _c(out[o]) for o in _w}
            yield f"{' and '.join(which)} {words}", way
    for a in outputs:
        for b in outputs:
            if a != b:
                yield f"{b} given for {a}", lambda _a=a, _b=b, **i: (out := run(**i)) | {_a: out[_b]}
        for n, x in inputs.items():
            if onp.ndim(x):
                yield f"{n} given for {a}", lambda _a=a, _n=n, **i: run(**i) | {_a: i[_n]}


def scales(case: Case) -> dict[str, float]:
    """{in words: number} that an output of a case may have been multiplied by."""
    known = {"times 2": 2.0, "halved": 0.5, "times 100": 100.0, "by logarithms to base 2": 1 / onp.log(2.0)}
    for name, x in case.inputs.items():
        sizes = {f"the size of {name}": onp.size(x)} if onp.ndim(x) else {}
        sizes |= {f"axis {k} of {name}": n for k, n in enumerate(onp.shape(x))}
        sizes |= {name: x} if isinstance(x, float) and x else {}
        known |= {f"times {words}": float(n) for words, n in sizes.items()}
        known |= {f"divided by {words}": 1 / n for words, n in sizes.items()}
    return known


# ---------------------------------------------------------------- listed: what the lines below are made of


def one(output: str) -> Callable:
    """From f(**inputs) -> array to a way that gives one output."""
    return lambda f: lambda **i: {output: f(**i)}


y, S, L = map(one, ("y", "S", "L"))


def changed(op: str, f: Callable) -> Callable:
    """The right outputs of an operation with those that f(out, **inputs) gives in place of theirs."""
    return lambda **i: (out := OPS[op].run(**i)) | f(out, **i)


def again(op: str, **others: Callable) -> Callable:
    """The right formula with some inputs replaced by functions of themselves."""
    return lambda **i: OPS[op].run(**i | {name: f(i[name]) for name, f in others.items()})


def grouped(first: int = 1, **bands: tuple) -> Callable:
    """The band groups with other sensors and bands, or with bands counted from another number than 1."""

    def band_groups(sen1, sen2):
        out = {}
        for name, group in paper.GROUPS.items():
            sensor, numbers = bands.get(name, (group["sensor"], group["bands"]))
            pixels = sen1 if sensor == "sen1" else sen2
            out[f"X_{name}"] = pixels[..., [min(b - first, pixels.shape[-1] - 1) for b in numbers]]
        return out

    return band_groups


def edged(mode: str) -> Callable:
    """conv2d with the picture's own pixels around it."""

    def conv2d(x, weight, stride, padding):
        rows, columns = (onp.pad(onp.arange(n), padding, mode) for n in x.shape[1:3])
        return {"y": nn.conv2d.definition(x[:, rows][:, :, columns], weight, stride=stride)}

    return conv2d


def one_sided(x, weight, stride, padding):
    if stride > 1:
        x, padding = np.pad(x, ((0, 0), (0, padding), (0, padding), (0, 0)), "constant"), 0
    return {"y": nn.conv2d.definition(x, weight, stride=stride, padding=padding)}


def dilated(x, weight, stride, padding):
    O, C, kh, kw = weight.shape
    spread = onp.zeros((kh, stride * (kh - 1) + 1, kw, stride * (kw - 1) + 1))
    for u in range(kh):
        spread[u, u * stride, range(kw), range(0, stride * kw, stride)] = 1
    wide = np.einsum("ocuv,uhvw->ochw", weight, spread)
    return {"y": nn.conv2d.definition(x, wide, stride=stride, padding=padding)}


def norm(axes=-1, eps=1e-5, root=None, less=0, centred=True, stop="", affine=lambda z, w, b: z * w + b):
    """A layer norm, or of axes (0, 1, 2) a batch norm in training, with one of its parts changed."""

    def layer_norm(x, weight, bias, **_):
        axis = tuple(range(1, x.ndim)) if axes is None else axes
        n = onp.prod([x.shape[a] for a in onp.atleast_1d(axis)])
        middle = getval(mean(x, axis)) if "mean" in stop else mean(x, axis)
        c = x - middle if centred else x
        var = np.sum(c * c, axis, keepdims=True) / (n - less)
        var = getval(var) if "var" in stop else var
        return {"y": affine(c / (root(var) if root else np.sqrt(var + eps)), weight, bias)}

    return layer_norm


def bn(axes=(0, 1, 2), **part):
    """Batch norm with one of its parts changed, in evaluation too."""

    def f(out, x, weight, bias, running_mean, running_var, train):
        if train:
            return norm(axes, **part)(x, weight, bias)
        root = part.get("root") or (lambda v: np.sqrt(v + part.get("eps", 1e-5)))
        affine = part.get("affine", lambda z, w, b: z * w + b)
        return {"y": affine((x - running_mean) / root(running_var), weight, bias)}

    return changed("batch_norm", f)


def kept(share=0.1, of=lambda var: var, less=1, always=False):
    """Running values by another rule."""

    def f(out, x, running_mean, running_var, train, **_):
        flat = getval(x).reshape(-1, x.shape[-1])
        batch = flat.mean(0), of(flat.var(0) * len(flat) / (len(flat) - less))
        new = [(1 - share) * a + share * b for a, b in zip((running_mean, running_var), batch, strict=True)]
        return {"new_running_mean": new[0], "new_running_var": new[1]} if train or always else {}

    return changed("batch_norm", f)


def as_in(train: int) -> Callable:
    """The values of batch norm in training (1) or evaluation (0), whatever is asked."""
    return changed("batch_norm", lambda out, **i: {"y": OPS["batch_norm"].run(**i | {"train": train})["y"]})


NORM: dict[str, dict] = {f"eps {e:g}": {"eps": e} for e in (1e-3, 1e-6, 1e-12)} | {
    "eps outside the root": {"root": lambda v: np.sqrt(v) + 1e-5},
    "the variance divided by one less": {"less": 1},
    "the variance without gradient": {"stop": "var"},
    "statistics without gradient": {"stop": "mean var"},
    "the bias before the weight": {"affine": lambda z, w, b: (z + b) * w},
    "1 added to the weight": {"affine": lambda z, w, b: z * (w + 1) + b},
}
sigma = lambda x: 0.5 * (1 + np.tanh(x / 2))
above = lambda x: getval(x) > 0
gelu_tanh = y(lambda x: x * 0.5 * (1 + np.tanh((2 / onp.pi) ** 0.5 * (x + 0.044715 * x**3))))
slope = lambda below=0.0, at_0=0.0: y(lambda x: x * (above(x) + (getval(x) == 0) * at_0 + (getval(x) < 0) * below))


def pooled(combine=lambda t: OPS["max_pool2d"].run(t), widths=lambda n: (0, 0), fill=0.0):
    """max_pool2d of a picture with a border, or with another rule than the largest."""

    def max_pool2d(x):
        pads = [(0, 0), *(widths(n) for n in x.shape[1:3]), (0, 0)]
        return combine(np.pad(x, pads, "constant", constant_values=fill))

    return max_pool2d


def attend(
    scale=lambda W, h: (W // h) ** -0.5,
    weigh=lambda s, seen: nn.softmax.definition(np.where(seen, s, -np.inf)),
    split=lambda a, N, T, h, d: np.transpose(np.reshape(a, (N, T, h, d)), (0, 2, 1, 3)),
    join=lambda a: np.transpose(a, (0, 2, 1, 3)),
    query=lambda q, bias: q,
):
    """Attention with another scale, softmax, or splitting into heads; the defaults are right."""

    def attention(x, in_proj_weight, in_proj_bias, out_weight, out_bias, heads):
        N, T, W = x.shape
        parts = list(np.split(nn.linear.definition(x, in_proj_weight, in_proj_bias), 3, -1))
        parts[0] = query(parts[0], in_proj_bias[:W])
        q, k, v = (split(a, N, T, heads, W // heads) for a in parts)
        seen = onp.tril(onp.ones((T, T), bool))
        P = weigh(np.matmul(q, np.swapaxes(k, -1, -2)) * scale(W, heads), seen)
        return {"y": nn.linear.definition(np.reshape(join(np.matmul(P, v)), (N, T, W)), out_weight, out_bias)}

    return attention


def rows(order: Callable) -> Callable:
    """in_proj read in another order: order(its rows in thirds, heads) are its rows."""

    def attention(in_proj_weight, in_proj_bias, heads, **i):
        n = order(onp.arange(len(in_proj_bias)).reshape(3, -1), heads).ravel()
        i |= {"in_proj_weight": in_proj_weight[n], "in_proj_bias": in_proj_bias[n], "heads": heads}
        return OPS["attention"].run(**i)

    return attention


def to_see(reach: int) -> Callable:
    """The weights of a token that sees `reach` tokens beyond itself."""
    seen_then = lambda seen: onp.tril(onp.ones(seen.shape), reach)
    return lambda s, seen: nn.softmax.definition(np.where(seen_then(seen), s, -1e30)) * seen_then(seen)


turned = lambda s: np.swapaxes(s, -1, -2)
of_queries = lambda s, seen: turned(nn.softmax.definition(turned(np.where(seen, s, -np.inf))))
less = lambda amount: lambda s, seen: nn.softmax.definition(s - amount * ~seen)


def cosine(images: Callable, texts: Callable | None = None) -> Callable:
    """Cosine similarity with another normalisation of either side."""

    def similarity(I_i, T_i):
        u, v = images(I_i), (texts or images)(T_i)
        return {"S_i": np.dot(u, v.T), "S_hat_i": np.dot(v, u.T)}

    return similarity


def at_least(bound: float) -> Callable:
    """x divided by its norm, which is at least `bound`."""

    def f(x):
        far = getval(length(x)) > bound
        return np.where(far, x / length(np.where(far, x, 1.0)), x / bound)

    return f


unit = equations.unit_rows
each_S = lambda f: lambda **i: {o: f(s) for o, s in OPS["similarity"].run(**i).items()}
matrix = lambda f: lambda y: {"W": f(y, (y[:, None] == y).astype(int))}
terms = lambda S, W: np.logaddexp(0, (1 - 2 * W) * S)
printed = lambda W, p, q: -np.mean(W * np.log(p) + (1 - W) * np.log(q))
row_by_row = lambda S, W: -np.mean(np.sum(equations.log_softmax(S) * W, axis=1) / np.maximum(W.sum(1), 1))
share_of = lambda S, W, part: np.sum(terms(S, W) * part) / max(part.sum(), 1)
capped = lambda limit: L(lambda S, W: np.mean(np.where(getval(terms(S, W)) < limit, terms(S, W), limit)))


def of_probabilities(S, W):
    """torch.nn.BCELoss after a sigmoid in float32: p is 1 from S = 25 ln 2 on, where the term is clamped.

    The slope holds p (1 - p) twice, above and below the line; below, it is kept above 1e-12 and does not cancel.
    """
    p, t = getval(sigma(S)), getval(terms(S, W))
    one = (getval(S) > 17.33) & (W == 0)
    slopes = np.minimum(p * (1 - p) / 1e-12, 1) * ~one * (t < 100)
    return np.mean(terms(S, W) * slopes + (np.minimum(t, 100) * ~one + 100.0 * one - t * slopes))


def within(loss: Callable) -> Callable:
    """Eq. (6) with a BCE of its own."""

    def contrastive_loss(S, W):
        a, b = loss(S, W), loss(S.T, W)
        return {"L_i2t": a, "L_t2i": b, "L_con": (a + b) / 2}

    return contrastive_loss


def stopped_direction(out, S, W):
    b = np.mean(terms(getval(S).T, W))
    return {"L_t2i": b, "L_con": (out["L_i2t"] + b) / 2}


joined = lambda f: lambda I_groups: {"I": f(I_groups, *I_groups.shape)}
each = lambda x, c: -equations.log_softmax(x)[onp.arange(len(c)), c]
hot = lambda x, c: 1.0 * (onp.arange(x.shape[1]) == c[:, None])
cls = lambda f: lambda c_hat, c: {"L_cls": f(c_hat, c)}
rare = lambda c: onp.array([len(c) // list(c).count(k) for k in c])
at_top = lambda x: getval(x) == getval(x).max(1, keepdims=True)


def rule(
    g=lambda g, w, d, lr: g + d * w,
    first=lambda g, m: g,
    v=lambda v, g, m: m * v + g,
    w=lambda w, v, g, lr, m, d: w - lr * v,
):
    """PyTorch's rule with some of its four lines changed."""

    def sgd(gradients, lr, momentum, weight_decay, **given):
        at, velocity, steps = given["w"], None, []
        for gradient, rate in zip(gradients, lr, strict=True):
            own = g(gradient, at, weight_decay, rate)
            velocity = first(own, momentum) if velocity is None else v(velocity, own, momentum)
            at = w(at, velocity, own, rate, momentum, weight_decay)
            steps.append((at, velocity))
        return {"w": onp.stack([w for w, _ in steps]), "v": onp.stack([v for _, v in steps])}

    return sgd


alone = lambda g, w, d, lr: g  # the gradient without the decay
beyond = lambda OA, p: {"kappa": (OA - p) / (1 - p)}
kappa = lambda f: changed("metrics", lambda out, **_: beyond(out["overall_accuracy"], f(out["confusion"])))
average = lambda f: changed("metrics", lambda out, **_: {"average_accuracy": f(out["confusion"])})
recall = lambda C, axis: onp.diag(C) / onp.maximum(C.sum(axis), 1)


def weighted_kappa(out, **_):
    C = out["confusion"]
    weights = abs(onp.subtract.outer(range(len(C)), range(len(C))))
    return {"kappa": 1 - (weights * C).sum() * C.sum() / (weights * onp.outer(C.sum(1), C.sum(0))).sum()}


over = lambda x: onp.mean(x, (0, 1, 2))
spread = lambda f: changed("statistics", lambda out, x: {"std": f(x)})
rows_of = lambda y: onp.bincount(y, minlength=17)
of_split = lambda f: changed("split", lambda out, **i: {} if "refused" in out else f(rows_of(i["y"]), **i))
picked = lambda f: lambda c_hat: {"y_hat": f(c_hat)}

# ---------------------------------------------------------------- listed

LISTED: dict[str, dict[str, Callable]] = {
    "read_array": {
        "data taken as column-major": lambda a: OPS["read_array"].run(np.transpose(np.reshape(a, a.shape[::-1]), (2, 1, 0))),
        "axes counted from the last, as in Julia or Fortran": lambda a: {o: s.T for o, s in OPS["read_array"].run(a.T).items()},
    },
    "band_groups": {
        "band numbers taken as 0-based": grouped(first=0),
        "bands 7 and 8 swapped": grouped(VRE=("sen2", (4, 5, 6, 7)), NIR=("sen2", (8,))),
        "real part for the intensity": grouped(VH=("sen1", (1, 2, 1)), VV=("sen1", (3, 4, 3))),
        "intensities of VH and VV swapped": grouped(VH=("sen1", (1, 2, 6)), VV=("sen1", (3, 4, 5))),
        "real and imaginary parts grouped": grouped(VH=("sen1", (1, 3, 5)), VV=("sen1", (2, 4, 6))),
        "red first in RGB": grouped(RGB=("sen2", (3, 2, 1))),
        "rows and columns swapped": lambda sen1, sen2: OPS["band_groups"].run(np.swapaxes(sen1, 1, 2), np.swapaxes(sen2, 1, 2)),
    },
    "prompt": {
        "article left out": changed("prompt", lambda out, **_: {"text": out["text"].replace("a photo of a ", "a photo of ")}),
    },
    "conv2d": {
        "padding on one side, as for even sizes": one_sided,
        "the stride also between the taps": dilated,
        "edges repeated for zeros": edged("edge"),
        "edges mirrored for zeros": edged("reflect"),
        "edges wrapped around for zeros": edged("wrap"),
        "stride for the rows alone": y(lambda x, weight, stride, padding: nn.conv2d.definition(x, weight, padding=padding)[:, ::stride]),
    },
    "batch_norm": {name: bn(**part) for name, part in NORM.items()} | {
        "statistics of each sample": bn(axes=(1, 2)),
        "statistics of each pixel over the batch": bn(axes=(0,)),
        "biased variance remembered": kept(less=0),
        "variances swapped": lambda **i: kept(less=0)(**i) | {"y": bn(less=1)(**i)["y"]},
        "standard deviation remembered": kept(of=onp.sqrt),
        "running statistics by a share of 0.9": kept(0.9),
        "running statistics by a share of 0.01, as in Keras": kept(0.01),
        "running statistics not moved": kept(0.0),
        "running statistics moved in evaluation": kept(always=True),
        "running statistics used in training": as_in(train=0),
        "the batch's statistics in evaluation": as_in(train=1),
    },
    "layer_norm": {name: norm(**part) for name, part in NORM.items()} | {
        "over the rows": norm(axes=0),
        "over all but the batch": norm(axes=None),
        "not centred, as RMS norm": norm(centred=False),
    },
    "relu": {
        "slope 0.01 below 0": slope(0.01),
        "slope 0.1 below 0": slope(0.1),
        "slope 1 at 0": slope(at_0=1.0),
        "slope 1/2 at 0": slope(at_0=0.5),
        "capped at 6": y(lambda x: np.where(getval(x) < 6, x * above(x), 6.0)),
        "ELU": y(lambda x: x * above(x) + np.exp(x * ~above(x)) - 1),
        "softplus": y(lambda x: np.logaddexp(0, x)),
        "GELU": OPS["gelu"].run,
    },
    "max_pool2d": {
        "average": pooled(lambda x: {"y": nn.avg_pool2d.definition(x, 2)}),
        "the smallest": lambda x: {"y": -OPS["max_pool2d"].run(-x)["y"]},
        "the odd last row and column kept": pooled(widths=lambda n: (0, n % 2), fill=-1e6),
        "zeros in the odd last row and column": pooled(widths=lambda n: (0, n % 2)),
        "zeros around the picture": pooled(widths=lambda n: (1, 1 + n % 2)),
        "stride 1": pooled(lambda x: {"y": nn.max_pool2d.definition(x, 2, 1)}),
    },
    "gelu": {
        "tanh approximation": gelu_tanh,
        "QuickGELU": OPS["quick_gelu"].run,
        "SiLU": y(lambda x: x * sigma(x)),
        "ReLU": OPS["relu"].run,
        "1 / sqrt 2 left out": y(lambda x: x * (1 + nn.erf(x)) / 2),
        "Phi without x": y(lambda x: (1 + nn.erf(x * 2**-0.5)) / 2),
    },
    "quick_gelu": {
        "GELU": OPS["gelu"].run,
        "GELU by tanh": gelu_tanh,
        "SiLU, without 1.702": y(lambda x: x * sigma(x)),
        "1.7 for 1.702": y(lambda x: x * sigma(1.7 * x)),
        "ReLU": OPS["relu"].run,
    },
    "attention": {
        "no mask": attend(weigh=lambda s, seen: nn.softmax.definition(s)),
        "the next token is seen": attend(weigh=to_see(1)),
        "a token does not see itself": attend(weigh=to_see(-1)),
        "masked scores are 0": attend(weigh=lambda s, seen: nn.softmax.definition(s * seen)),
        "100 taken off masked scores": attend(weigh=less(100.0)),
        "10000 taken off masked scores": attend(weigh=less(10000.0)),
        "masked after the softmax": attend(weigh=lambda s, seen: nn.softmax.definition(s) * seen),
        "softmax over the queries": attend(weigh=of_queries),
        "1 / sqrt(d) left out": attend(scale=lambda W, h: 1.0),
        "divided by the root of the whole width": attend(scale=lambda W, h: W**-0.5),
        "divided by d, not its root": attend(scale=lambda W, h: h / W),
        "1 / sqrt(d) on the queries' weight, not on their bias": lambda heads, **i: attend(
            scale=lambda W, h: 1.0, query=lambda q, b: (q - b) * (i["x"].shape[-1] // heads) ** -0.5 + b)(heads=heads, **i),
        "heads split the other way": attend(split=lambda a, N, T, h, d: np.transpose(np.reshape(a, (N, T, d, h)), (0, 3, 1, 2))),
        "heads split by a reshape alone": attend(split=lambda a, N, T, h, d: np.reshape(a, (N, h, T, d))),
        "heads joined by a reshape alone": attend(join=lambda a: a),
        "keys before queries in in_proj": rows(lambda n, h: n[[1, 0, 2]]),
        "values before keys in in_proj": rows(lambda n, h: n[[0, 2, 1]]),
        "in_proj read head by head": rows(lambda n, h: n.reshape(h, 3, -1).transpose(1, 0, 2)),
        "the last linear layer left out": again("attention", out_weight=lambda w: w * 0 + onp.eye(len(w)), out_bias=lambda b: b * 0),
    },
    "similarity": {
        "no normalisation": cosine(lambda x: x),
        "only the images normalised": cosine(unit, lambda x: x),
        "only the texts normalised": cosine(lambda x: x, unit),
        "divided by the squared norm": cosine(lambda x: x / length(x) ** 2),
        "divided by the sum of absolute values": cosine(lambda x: x / np.sum(np.abs(x), axis=1, keepdims=True)),
        "no bound below the norm": cosine(lambda x: x / length(x)),
        "bound 1e-8, as of torch.nn.CosineSimilarity": cosine(at_least(1e-8)),
        "bound 1e-6": cosine(at_least(1e-6)),
        "epsilon inside the root": cosine(lambda x: x / np.sqrt(np.sum(x * x, axis=1, keepdims=True) + 1e-12)),
        "epsilon added to the norm": cosine(lambda x: x / (length(x) + 1e-8)),
        "normalised over the batch": cosine(lambda x: unit(x.T).T),
        "features centred first": cosine(lambda x: unit(x - mean(x, 1))),
        "S_hat not transposed": changed("similarity", lambda out, **_: {"S_hat_i": out["S_i"]}),
        "divided by a temperature of 0.07": each_S(lambda s: s / 0.07),
        "(1 + cos) / 2": each_S(lambda s: (1 + s) / 2),
    },
    "fuse": {
        "mean over the groups": S(lambda S_groups, alpha: alpha * np.mean(S_groups, axis=0)),
        "mean over the groups without alpha": S(lambda S_groups, alpha: np.mean(S_groups, axis=0)),
        "7 groups built in": S(lambda S_groups, alpha: 7 * alpha * np.mean(S_groups, axis=0)),
        "the largest of the groups": S(lambda S_groups, alpha: alpha * np.max(S_groups, axis=0)),
    },
    "supervised_matrix": {
        "W is the identity": matrix(lambda y, W: onp.eye(len(y), dtype=int)),
        "W without its diagonal": matrix(lambda y, W: W - onp.eye(len(y), dtype=int)),
        "labels compared with column numbers": matrix(lambda y, W: 1 * (y[:, None] == onp.arange(len(y)))),
        "labels that differ by one count as equal": matrix(lambda y, W: 1 * (abs(y[:, None] - y) <= 1)),
        "0 where labels agree": matrix(lambda y, W: 1 - W),
        "all ones": matrix(lambda y, W: W * 0 + 1),
        "-1 where labels differ": matrix(lambda y, W: 2 * W - 1),
        "rows divided by their sums": matrix(lambda y, W: W / W.sum(1, keepdims=True)),
        "only the part below the diagonal": matrix(lambda y, W: onp.tril(W)),
        "built and natural types alone told apart": matrix(lambda y, W: 1 * ((y < 10)[:, None] == (y < 10))),
    },
    "bce": {
        "sum for mean": L(lambda S, W: np.sum(terms(S, W))),
        "sum over a row, mean over rows": L(lambda S, W: np.sum(terms(S, W)) / len(W)),
        "softmax cross-entropy over each row": L(row_by_row),
        "mean over the positives only": L(lambda S, W: share_of(S, W, W)),
        "mean over the negatives only": L(lambda S, W: share_of(S, W, 1 - W)),
        "the pair's own entry alone": L(lambda S, W: np.mean(terms(S, W)[(onp.arange(min(S.shape)),) * 2])),
        "positives and negatives weighted alike": L(lambda S, W: (share_of(S, W, W) + share_of(S, W, 1 - W)) / 2),
        "positives weighted by negatives / positives": L(lambda S, W: np.mean(terms(S, W) * (1 - W + W * (1 - W).sum() / max(W.sum(), 1)))),
        "focal, (1 - p)^2": L(lambda S, W: np.mean(terms(S, W) * sigma((1 - 2 * W) * S) ** 2)),
        "log(p + 1e-8)": L(lambda S, W: printed(W, sigma(S) + 1e-8, sigma(-S) + 1e-8)),
        "each logarithm at least -100": capped(100.0),
        "probabilities kept 1e-7 from 0 and 1, as in Keras": capped(16.118095650958320),
        "exponents at most 80": capped(80.0),
        "of probabilities in float32, as by torch.nn.BCELoss": L(of_probabilities),
        "sigmoid twice": L(lambda S, W: np.mean(terms(sigma(S), W))),
        "softmax for sigmoid": L(lambda S, W: printed(W, nn.softmax.definition(S), 1 - nn.softmax.definition(S))),
        "labels smoothed by 0.1": L(lambda S, W: np.mean(np.logaddexp(0, S) - (0.9 * W + 0.05) * S)),
        "labels -1 and 1 for 0 and 1": L(lambda S, W: np.mean(np.logaddexp(0, S) - (2 * W - 1) * S)),
    },
    "contrastive_loss": {
        "one direction dropped, the half kept": changed("contrastive_loss", lambda out, **_: {"L_con": out["L_i2t"] / 2}),
        "the half left out": changed("contrastive_loss", lambda out, **_: {"L_con": 2 * out["L_con"]}),
        "sum for mean": within(lambda S, W: np.sum(terms(S, W))),
        "sum over a row, mean over rows": within(lambda S, W: np.sum(terms(S, W)) / len(W)),
        "softmax cross-entropy in both directions, as CLIP": within(row_by_row),
        "W is the identity": lambda S, W: OPS["contrastive_loss"].run(S, onp.eye(len(W), dtype=int)),
        "the other direction's gradient stopped": changed("contrastive_loss", stopped_direction),
    },
    "concat": {
        "feature-major": joined(lambda x, n, B, d: np.reshape(np.transpose(x, (1, 2, 0)), (B, n * d))),
        "batch and groups mixed by a reshape": joined(lambda x, n, B, d: np.reshape(x, (B, n * d))),
        "SAR groups first": again("concat", I_groups=lambda x: x[[4, 5, 6, 0, 1, 2, 3]]),
        "groups in the order of the alphabet": again("concat", I_groups=lambda x: x[onp.argsort(list(paper.GROUPS))]),
        "features normalised": again("concat", I_groups=lambda x: x / np.maximum(length(x), 1e-12)),
        "gradients to the groups stopped but for the first": again("concat", I_groups=lambda x: np.concatenate([x[:1], getval(x)[1:]])),
    },
    "cross_entropy": {
        "sum for mean": cls(lambda x, c: np.sum(each(x, c))),
        "a softmax before the cross-entropy": cls(lambda x, c: np.mean(each(nn.softmax.definition(x), c))),
        "class 0 ignored": cls(lambda x, c: np.sum(each(x, c) * (c > 0)) / max((c > 0).sum(), 1)),
        "classes weighted by their rarity": cls(lambda x, c: np.sum(each(x, c) * rare(c)) / rare(c).sum()),
        "labels smoothed by 0.1": cls(lambda x, c: np.mean(0.9 * each(x, c) - 0.1 * np.mean(equations.log_softmax(x), axis=1))),
        "binary cross-entropy of one-hot labels": cls(lambda x, c: np.mean(terms(x, hot(x, c)))),
        "softmax over the batch": cls(lambda x, c: -np.mean(equations.log_softmax(x.T).T[onp.arange(len(c)), c])),
        "focal, (1 - p)^2": cls(lambda x, c: np.mean(each(x, c) * (1 - np.exp(-each(x, c))) ** 2)),
        "squared error of the softmax": cls(lambda x, c: np.mean((nn.softmax.definition(x) - hot(x, c)) ** 2)),
        "log(p + 1e-8)": cls(lambda x, c: -np.mean(np.log(np.sum(nn.softmax.definition(x) * hot(x, c), axis=1) + 1e-8))),
        "classes counted from 1": cls(lambda x, c: np.mean(each(x, c - 1))),
        "mean over classes too": cls(lambda x, c: np.mean(each(x, c)) / x.shape[1]),
        "the largest logit has no gradient": cls(lambda x, c: np.mean(each(np.where(at_top(x), getval(x), x), c))),
    },
    "total_loss": {
        "beta on the other term": L(lambda L_cls, L_con, beta: beta * L_cls + L_con),
        "a weighted mean": L(lambda L_cls, L_con, beta: (L_cls + beta * L_con) / (1 + beta)),
        "(1 - beta) L_cls + beta L_con": L(lambda L_cls, L_con, beta: (1 - beta) * L_cls + beta * L_con),
    },
    "sgd": {
        "the gradient added, not taken off": rule(w=lambda w, v, g, lr, m, d: w + lr * v),
        "Nesterov": rule(w=lambda w, v, g, lr, m, d: w - lr * (g + m * v)),
        "decoupled decay": rule(g=alone, w=lambda w, v, g, lr, m, d: w - lr * d * w - lr * v),
        "decay without the rate": rule(g=alone, w=lambda w, v, g, lr, m, d: w - d * w - lr * v),
        "(1 - momentum) on later gradients": rule(v=lambda v, g, m: m * v + (1 - m) * g),
        "(1 - momentum) on every gradient": rule(first=lambda g, m: (1 - m) * g, v=lambda v, g, m: m * v + (1 - m) * g),
        "first velocity scaled by 1 - momentum": rule(first=lambda g, m: (1 - m) * g),
        "rate inside the velocity": rule(g=lambda g, w, d, lr: -lr * (g + d * w), w=lambda w, v, g, lr, m, d: w + v),
        "decay of the sign": rule(g=lambda g, w, d, lr: g + d * onp.sign(w)),
        "no decay where the gradient is 0": rule(g=lambda g, w, d, lr: g + d * w * (g != 0)),
        "each gradient cut at 1": rule(g=lambda g, w, d, lr: onp.clip(g, -1, 1) + d * w),
    },
    "metrics": {
        "kappa from the truth's marginals alone": kappa(lambda C: (C.sum(1) ** 2).sum() / C.sum() ** 2),
        "kappa against 1 / K": kappa(lambda C: 1 / len(C)),
        "kappa not below 0": changed("metrics", lambda out, **_: {"kappa": max(out["kappa"], 0.0)}),
        "kappa with linear weights": changed("metrics", weighted_kappa),
        "absent classes counted as 0": average(lambda C: recall(C, 1).mean()),
        "precision for recall": average(lambda C: recall(C, 0)[C.sum(1) > 0].mean()),
    },
    "statistics": {
        "the variance for its root": spread(lambda x: onp.var(x, (0, 1, 2))),
        "divided by one less": spread(lambda x: onp.std(x, (0, 1, 2), ddof=1)),
        "mean of the samples' deviations": spread(lambda x: onp.std(x, (1, 2)).mean(0)),
        "one mean for all channels": changed("statistics", lambda out, x: {"mean": over(x) * 0 + x.mean()}),
    },
    "standardise": {
        "divided by the variance": again("standardise", std=lambda std: std * std),
        "an eps added to std": y(lambda x, mean, std: (x - mean) / (std + 1e-3)),
        "0 for a channel with std 0": changed("standardise", lambda out, x, mean, std: {"y": out["y"] * (std != 0)}),
    },
    "split": {
        "test rows drawn from all rows": of_split(lambda n, test, **_: {"test": n * test // n.sum(), "common": 1}),
        "a balanced test": of_split(lambda n, per_class, test, **_: {"test": onp.minimum(n - per_class, test // 17)}),
        "training rows drawn with replacement": of_split(lambda n, **_: {"repeated": 1}),
    },
    "predict": {
        "of equals the last": picked(lambda c: c.shape[1] - 1 - onp.argmax(c[:, ::-1], axis=1)),
        "classes counted from 1": picked(lambda c: onp.argmax(c, axis=1) + 1),
        "over the rows": picked(lambda c: onp.argmax(c, axis=0)),
    },
}  # fmt: skip
assert set(LISTED) <= set(OPS)

# ---------------------------------------------------------------- readings that a consumer may declare

# reading: the word for ours, the operations that it changes, {another word: the mistake that it then is not}
READINGS: dict[str, tuple[str, tuple, dict[str, str]]] = {
    "similarity-eps": ("max", ("similarity",), {
        "inside": "epsilon inside the root", "added": "epsilon added to the norm", "none": "no bound below the norm"}),
    "group-sum": ("sum", ("fuse",), {"mean": "mean over the groups"}),
    "msm-diagonal": ("one", ("supervised_matrix",), {"zero": "W without its diagonal"}),
    "bce-reduction": ("mean", ("bce", "contrastive_loss"), {"sum": "sum for mean", "row-sum": "sum over a row, mean over rows"}),
    "bce-logarithm": ("exact", ("bce",), {"eps": "log(p + 1e-8)", "clamped": "each logarithm at least -100"}),
    "features-in-concat": ("raw", ("concat",), {"normalised": "features normalised"}),
    "concat-order": ("prompts", ("concat",), {"bands": "SAR groups first"}),
    "ce": ("logits", ("cross_entropy",), {"sum": "sum for mean", "probabilities": "a softmax before the cross-entropy"}),
    "prompt-grammar": ("printed", ("prompt",), {"corrected": "article left out"}),
    "momentum": ("pytorch", ("sgd",), {
        "nesterov": "Nesterov", "damped": "(1 - momentum) on later gradients", "rate-inside": "rate inside the velocity"}),
    "weight-decay": ("coupled", ("sgd",), {"decoupled": "decoupled decay"}),
}  # fmt: skip


def chosen(readings: dict) -> dict[str, Callable]:
    """{operation: its way} under readings that differ from ours; ValueError for what cannot be graded."""
    ways: dict[str, Callable] = {}
    for name, word in readings.items():
        if name not in READINGS:
            known = ", ".join(READINGS)
            raise ValueError(f"readings: {name!r} is no reading that this kit grades; it knows {known}")
        own, ops, others = READINGS[name]
        if word not in (own, *others):
            raise ValueError(f"readings: {name} is {word!r}; expected one of {', '.join((own, *others))}")
        if word == own:
            continue
        if ways.keys() & set(ops):
            said = "changes what another reading changes; they cannot be graded together"
            raise ValueError(f"readings: {name} {said}")
        ways |= {op: LISTED[op][others[word]] for op in ops}
    return ways

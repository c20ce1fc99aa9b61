"""Wrong readings of layers. A function has the signature of the formula that it replaces."""

from collections.abc import Callable
from typing import Any

import numpy

from bplcz_ref.conform import exact as xp
from bplcz_ref.conform import ops as right
from bplcz_ref.conform.exact import Array, like
from bplcz_ref.conform.networks import varied
from bplcz_ref.conform.wrong_data import Accepted


def with_kernel(turned: Callable) -> Callable:
    """conv2d with another kernel made of its own."""
    return lambda f, x, weight, **options: right.conv2d(f, x, turned(weight), **options)


def one_sided(f: dict, x: Array, weight: Array, stride: int, padding: int) -> dict:
    """Where the stride is above 1, the first row and column get no zeros: padding "same" of even sizes."""
    return right.conv2d(f, x, weight, stride, padding, before=0 if int(stride) > 1 else None)


def edged(rows: Callable) -> Callable:
    """conv2d with other pixels than zeros around the picture: rows(n, p) are those of n for p before and after."""

    def conv2d(f, x, weight, stride, padding):
        p = int(padding)
        x = x[:, rows(x.shape[1], p)][:, :, rows(x.shape[2], p)]
        return right.conv2d(f, x, weight, stride, 0)

    return conv2d


def _of(index: Callable) -> Callable:
    return lambda n, p: numpy.array([index(i, n) for i in range(-p, n + p)])


def rows_strided(f: dict, x: Array, weight: Array, stride: int, padding: int) -> dict:
    y = right.conv2d(f, x, weight, 1, padding)["y"]
    return {"y": y[:, :: int(stride)]}


def in_one_pass(x: Array, axes: Any, error: float = 0.0) -> Array:
    """E[x^2] - E[x]^2, at least 0: as in Flax. It is the variance, but cancels where the mean is far from 0.

    `error` is that of the two terms, as a part of E[x^2].
    """
    mean, square = xp.mean(x, axes, keepdims=True), xp.mean(x * x, axes, keepdims=True)
    var = square - mean * mean
    var = var + error * xp.value(square) if error else var
    return var * xp.mask(xp.value(var) > 0, var)


def bn(
    centre: Callable = lambda x, axes: xp.mean(x, axes, keepdims=True),
    unbiased: bool = False,
    kept_biased: bool = False,
    share: str = "0.1",
    root: Callable = lambda var: xp.sqrt(var + like(var, "1e-5")),
    frozen: bool = False,
    live: bool = False,
    moving: bool = False,
    axes: tuple = (0, 1, 2),
    stop: str = "",
    deviations: bool = False,
    kept: bool = True,
    affine: Callable = lambda z, weight, bias: z * weight + bias,
    one_pass: bool = False,
    error: float = 0.0,
) -> Callable:
    """batch_norm with one of its parts changed.

    `frozen` normalises by the running statistics in training too, `live` by the batch's in evaluation; `moving`
    moves the running ones in evaluation; `stop` names the statistics ("mean", "var") that get no gradient;
    `deviations` keeps the standard deviation in place of the variance; without `kept` nothing is remembered.
    """

    def batch_norm(f, x, weight, bias, running_mean, running_var, train=1):
        n = int(numpy.prod([x.shape[a] for a in axes]))
        mean = centre(x, axes)
        var = in_one_pass(x, axes, error) if one_pass else xp.mean((x - mean) * (x - mean), axes, keepdims=True)
        mean = xp.without_history(mean) if "mean" in stop else mean
        var = xp.without_history(var) if "var" in stop else var
        unbiased_var, new, old = var * n / (n - 1), like(x, share), 1 - like(x, share)
        by_running = frozen or not (int(train) or live)
        use = unbiased_var if unbiased else var
        middle, spread = (running_mean, running_var) if by_running else (mean, use)
        y = affine((x - middle) / root(spread), weight, bias)
        flat = lambda a: xp.reshape(xp.mean(a, tuple(range(a.ndim - 1))), (x.shape[-1],))
        if not (int(train) or moving) or not kept:
            return {"y": y, "new_running_mean": running_mean, "new_running_var": running_var}
        remembered = flat(var if kept_biased else unbiased_var)
        remembered = xp.sqrt(remembered) if deviations else remembered
        new_mean = running_mean * old + flat(mean) * new
        return {"y": y, "new_running_mean": new_mean, "new_running_var": running_var * old + remembered * new}

    return batch_norm


def ln(
    unbiased: bool = False,
    root: Callable = lambda var: xp.sqrt(var + like(var, "1e-5")),
    axis: Any = -1,
    centred: bool = True,
    stop: bool = False,
    affine: Callable = lambda z, weight, bias: z * weight + bias,
    one_pass: bool = False,
    error: float = 0.0,
) -> Callable:
    """layer_norm with one of its parts changed."""

    def layer_norm(f, x, weight, bias):
        axes = tuple(range(1, x.ndim)) if axis is None else axis
        mean = xp.mean(x, axes, keepdims=True)
        c = x - mean if centred else x
        n = int(numpy.prod([x.shape[a] for a in numpy.atleast_1d(axes)]))
        var = in_one_pass(x, axes, error) if one_pass else xp.sum(c * c, axes, keepdims=True) / (n - unbiased)
        return {"y": affine(c / root(xp.without_history(var) if stop else var), weight, bias)}

    return layer_norm


def roots(*eps: str) -> dict:
    """{name: root} for other eps in the variance, and for eps beside the root."""
    inside = {f"eps {e} in the variance": lambda var, e=e: xp.sqrt(var + like(var, e)) for e in eps}
    return inside | {"eps outside the root": lambda var: xp.sqrt(var) + like(var, "1e-5")}


EPS = roots("1e-3", "1e-6", "1e-12")

ROOT_2_OVER_PI = "0.7978845608028653558798921198687637369517"  # sqrt(2 / pi)


def gelu_tanh(f: dict, x: Array) -> dict:
    z = (x + x * x * x * like(x, "0.044715")) * like(x, ROOT_2_OVER_PI)
    return {"y": x * (1 + xp.tanh(z)) / 2}


def sigmoid_gate(factor: str) -> Callable:
    """x sigma(factor x)."""
    return lambda f, x: {"y": x * xp.sigmoid(x * like(x, factor))}


def rectified(slope: Callable) -> Callable:
    """x times a slope that depends on the value."""
    return lambda f, x: {"y": x * slope(xp.value(x), x)}


def capped(f: dict, x: Array) -> dict:
    y = right.relu(f, x)["y"]
    below = xp.mask(xp.value(y) < 6, x)
    return {"y": y * below + 6 * (1 - below)}


def at_zero(slope: str) -> Callable:
    """ReLU with a slope at 0."""
    return rectified(lambda v, x: xp.mask(v > 0, x) + xp.mask(v == 0, x) * like(x, slope))


def elu(f: dict, x: Array) -> dict:
    above = xp.mask(xp.value(x) > 0, x)
    return {"y": x * above + (xp.exp(x * (1 - above)) - 1) * (1 - above)}


def average_pool(f: dict, x: Array) -> dict:
    taps = list(right.windows(x, 2, 2, 2, 0, 0).values())
    return {"y": (taps[0] + taps[1] + taps[2] + taps[3]) / 4}


def padded_pool(ceil: bool, fill: int) -> Callable:
    """Windows over the edge: with the odd last row and column, or with `fill` around the picture."""

    def max_pool2d(f, x):
        widths = [(0, n % 2) if ceil else (1, 1 + n % 2) for n in x.shape[1:3]]
        edge = lambda n, a, b: numpy.arange(-a, n + b)
        rows, columns = (edge(n, *w) for n, w in zip(x.shape[1:3], widths, strict=True))
        outside = ((rows < 0) | (rows >= x.shape[1]))[:, None] | ((columns < 0) | (columns >= x.shape[2]))
        inside = xp.mask(~outside[None, :, :, None], x)
        padded = x[:, rows.clip(0, x.shape[1] - 1)][:, :, columns.clip(0, x.shape[2] - 1)]
        return right.max_pool2d(f, padded * inside + (1 - inside) * fill)

    return max_pool2d


def last_of_equals(equal: Array) -> Array:
    return right.first_of_equals(equal[::-1])[::-1]


POOL = right.max_pool2d
least = lambda f, x: {"y": -POOL(f, -x)["y"]}


def split_other_way(x: Array, heads: int) -> Array:
    N, L, W = x.shape
    return xp.transpose(xp.reshape(x, (N, L, W // heads, heads)), (0, 3, 1, 2))


def split_by_reshape(x: Array, heads: int) -> Array:
    N, L, W = x.shape
    return xp.reshape(x, (N, heads, L, W // heads))


def joined_by_reshape(x: Array) -> Array:
    N, heads, L, each = x.shape
    return xp.reshape(x, (N, L, heads * each))


def interleaved(f: dict, x: Array, in_proj_weight: Array, in_proj_bias: Array, heads: int, **out: Array) -> dict:
    """in_proj read head by head: q, k, v of the first head, then of the second."""
    W = x.shape[-1]
    rows = numpy.arange(3 * W).reshape(int(heads), 3, W // int(heads)).transpose(1, 0, 2).ravel()
    return right.attention(f, x, in_proj_weight[rows], in_proj_bias[rows], heads=heads, **out)


def scaled_queries(scale: Callable, bias: bool = True) -> Callable:
    """Scores multiplied by a number of (W, heads, x), through the queries; their bias is scaled too, or not."""

    def attention(f, x, in_proj_weight, in_proj_bias, heads, **out):
        W = x.shape[-1]
        s = scale(W, int(heads), x)
        weight = xp.concat([in_proj_weight[:W] * s, in_proj_weight[W:]], 0)
        if bias:
            in_proj_bias = xp.concat([in_proj_bias[:W] * s, in_proj_bias[W:]], 0)
        return right.attention(f, x, weight, in_proj_bias, heads=heads, **out)

    return attention


def without(*names: str) -> Callable:
    """attention or linear with some of its parameters 0."""

    def changed(function):
        return lambda f, **i: function(f, **{n: x * 0 if n in names else x for n, x in i.items()})

    return changed


def masked_by(product: bool = False, added: int = 0) -> Callable:
    """A mask that multiplies the scores by 0, or adds a number to them."""
    return lambda scores, seen: right.masked_softmax(
        scores * seen if product else scores + (1 - seen) * added, seen * 0 + 1
    )


def after_softmax(scores: Array, seen: Array) -> Array:
    return right.masked_softmax(scores, seen * 0 + 1) * seen


NO_MASK = 10**6  # tokens ahead that are seen: all of them
attend = lambda **options: varied(right.attention, **options)

LAYERS = {
    "conv2d": {
        "kernel flipped": with_kernel(lambda weight: weight[:, :, ::-1, ::-1]),
        "kernel's rows and columns swapped": with_kernel(lambda weight: xp.transpose(weight, (0, 1, 3, 2))),
        "stride-2 padding on one side": one_sided,
        "edges repeated for zeros": edged(_of(lambda i, n: min(max(i, 0), n - 1))),
        "edges mirrored for zeros": edged(
            _of(lambda i, n: min(max(abs(i) if i < n else 2 * (n - 1) - i, 0), n - 1))
        ),
        "edges wrapped around for zeros": edged(_of(lambda i, n: i % n)),
        "no padding": varied(right.conv2d, padding=0),
        "padding 1 whatever is asked": varied(right.conv2d, padding=1),
        "stride 1 whatever is asked": varied(right.conv2d, stride=1),
        "stride for the rows alone": rows_strided,
        "the stride also between the taps": lambda f, stride, **i: right.conv2d(
            f, **i, stride=stride, spread=int(stride)
        ),
        "input and output channels of the kernel swapped": with_kernel(
            lambda weight: xp.transpose(weight, (1, 0, 2, 3)) if weight.shape[0] == weight.shape[1] else weight
        ),
    },
    "batch_norm": {
        "variances swapped": bn(unbiased=True, kept_biased=True),
        "unbiased variance to normalise": bn(unbiased=True),
        "biased variance remembered": bn(kept_biased=True),
        "running statistics with 0.9 for 0.1": bn(share="0.9"),
        "running statistics with 0.01 for 0.1, as in Keras": bn(share="0.01"),
        **{name: bn(root=root) for name, root in EPS.items()},
        "running statistics used in training": bn(frozen=True),
        "the batch's statistics in evaluation": bn(live=True),
        "running statistics moved in evaluation": bn(moving=True),
        "running statistics not moved": bn(kept=False),
        "standard deviation remembered for the variance": bn(deviations=True),
        "statistics of each sample": bn(axes=(1, 2)),
        "statistics of each pixel over the batch": bn(axes=(0,)),
        "statistics without gradient": bn(stop="mean var"),
        "the variance without gradient": bn(stop="var"),
        "weight and bias left out": bn(affine=lambda z, weight, bias: z + (weight + bias) * 0),
        "bias left out": bn(affine=lambda z, weight, bias: z * weight + bias * 0),
        "1 added to the weight": bn(affine=lambda z, weight, bias: z * (weight + 1) + bias),
        "the bias before the weight": bn(affine=lambda z, weight, bias: (z + bias) * weight),
        "variance in one pass, E[x^2] - E[x]^2": Accepted(bn(one_pass=True), lambda e: bn(one_pass=True, error=e)),
    },
    "layer_norm": {
        "unbiased variance": ln(unbiased=True),
        **{name: ln(root=root) for name, root in EPS.items()},
        "over the rows": ln(axis=0),
        "over all but the batch": ln(axis=None),
        "not centred, as RMS norm": ln(centred=False),
        "the variance without gradient": ln(stop=True),
        "weight left out": ln(affine=lambda z, weight, bias: z + weight * 0 + bias),
        "bias left out": ln(affine=lambda z, weight, bias: z * weight + bias * 0),
        "1 added to the weight": ln(affine=lambda z, weight, bias: z * (weight + 1) + bias),
        "variance in one pass, E[x^2] - E[x]^2": Accepted(ln(one_pass=True), lambda e: ln(one_pass=True, error=e)),
    },
    "relu": {
        "slope 0.01 below 0": rectified(lambda v, x: xp.mask(v > 0, x) + xp.mask(v <= 0, x) * like(x, "0.01")),
        "slope 0.1 below 0": rectified(lambda v, x: xp.mask(v > 0, x) + xp.mask(v <= 0, x) * like(x, "0.1")),
        "capped at 6": capped,
        "slope 1 at 0": at_zero("1"),
        "slope 1/2 at 0": at_zero("0.5"),
        "the absolute value": rectified(lambda v, x: xp.mask(v > 0, x) - xp.mask(v < 0, x)),
        "ELU": elu,
        "softplus": lambda f, x: {"y": xp.softplus(x)},
        "GELU": right.gelu,
    },
    "max_pool2d": {
        "average": average_pool,
        "the smallest": least,
        "the odd last row and column kept": padded_pool(ceil=True, fill=-(10**6)),
        "zeros around the picture": padded_pool(ceil=False, fill=0),
        "zeros in the odd last row and column": padded_pool(ceil=True, fill=0),
        "stride 1": varied(POOL, stride=1),
        "every equal value has the whole gradient": varied(POOL, chosen=lambda equal: equal),
        "the last of equal values has the gradient": Accepted(varied(POOL, chosen=last_of_equals)),
        "equal values share the gradient": Accepted(varied(POOL, chosen=lambda e: e / e.sum(axis=0))),
    },
    "gelu": {
        "tanh approximation": gelu_tanh,
        "QuickGELU": right.quick_gelu,
        "SiLU": sigmoid_gate("1"),
        "ReLU": right.relu,
        "1 / sqrt 2 left out": lambda f, x: {"y": x * (1 + xp.erf(x)) / 2},
        "Phi without x": lambda f, x: {"y": (1 + xp.erf(x / xp.root(2, x))) / 2},
    },
    "quick_gelu": {
        "GELU": right.gelu,
        "GELU by tanh": gelu_tanh,
        "SiLU, without 1.702": sigmoid_gate("1"),
        "1.7 for 1.702": sigmoid_gate("1.7"),
        "ReLU": right.relu,
    },
    "attention": {
        "mask off by one: the next token is seen": attend(reach=1),
        "mask off by one: a token does not see itself": attend(reach=-1),
        "no mask": attend(reach=NO_MASK),
        "masked scores are 0": attend(weigh=masked_by(product=True)),
        "100 taken off masked scores": attend(weigh=masked_by(added=-100)),
        "10000 taken off masked scores": attend(weigh=masked_by(added=-10000)),
        "masked after the softmax, rows do not sum to 1": attend(weigh=after_softmax),
        "softmax over the queries": attend(weigh=lambda s, seen: right.masked_softmax(s, seen, axis=-2)),
        "1 / sqrt(d) left out": attend(divide=False),
        "divided by the root of the whole width": scaled_queries(lambda W, h, x: 1 / xp.root(h, x)),
        "divided by d, not its root": scaled_queries(lambda W, h, x: 1 / xp.root(W // h, x)),
        "1 / sqrt(d) on the queries' weight, not on their bias": lambda f, **i: scaled_queries(
            lambda W, h, x: 1 / xp.root(W // h, x), bias=False
        )(f, divide=False, **i),
        "heads split the other way": attend(split=split_other_way),
        "heads split by a reshape alone": attend(split=split_by_reshape),
        "heads joined by a reshape alone": attend(join=joined_by_reshape),
        "one head whatever is asked": varied(right.attention, heads=1),
        "keys before queries in in_proj": attend(order="kqv"),
        "values before keys in in_proj": attend(order="qvk"),
        "in_proj read head by head": interleaved,
        "in_proj's bias left out": without("in_proj_bias")(right.attention),
        "the last bias left out": without("out_bias")(right.attention),
        "the last linear layer left out": lambda f, out_weight, out_bias, **i: right.attention(
            f, out_weight=out_weight * 0 + numpy.eye(out_weight.shape[0], dtype=int), out_bias=out_bias * 0, **i
        ),
    },
    "linear": {
        "bias left out": without("bias")(right.linear),
        "weight (in, out)": lambda f, x, weight, bias: {
            "y": x @ (weight if weight.shape[0] == weight.shape[1] else weight.T) + bias
        },
        "bias taken off": lambda f, x, weight, bias: {"y": x @ weight.T - bias},
    },
}

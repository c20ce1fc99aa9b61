"""Wrong readings of layers, encoders and training. A function has the signature of the formula it replaces."""

from collections.abc import Callable

import numpy

from bplcz_ref.conform import exact as xp
from bplcz_ref.conform import networks
from bplcz_ref.conform import ops as right
from bplcz_ref.conform.exact import Array, like
from bplcz_ref.conform.networks import varied

# ---------------------------------------------------------------- layers


def with_kernel(turned: Callable) -> Callable:
    """conv2d with another kernel made of its own."""
    return lambda f, x, weight, **options: right.conv2d(f, x, turned(weight), **options)


def bn(
    biased: bool = True,
    kept_biased: bool = False,
    share: str = "0.1",
    eps: str = "1e-5",
    frozen: bool = False,
    axes: tuple = (0, 1, 2),
    stop: bool = False,
) -> Callable:
    """batch_norm with another variance to normalise or to keep, another momentum or eps, or over other axes.

    `frozen` normalises by the running statistics in training too; `stop` gives the statistics no gradient.
    """

    def batch_norm(f, x, weight, bias, running_mean, running_var, train=1):
        n = int(numpy.prod([x.shape[a] for a in axes]))
        mean = xp.mean(x, axes, keepdims=True)
        var = xp.mean((x - mean) * (x - mean), axes, keepdims=True)
        if stop:
            mean, var = xp.without_history(mean), xp.without_history(var)
        unbiased, new, old = var * n / (n - 1), like(x, share), 1 - like(x, share)
        running = frozen or not int(train)
        centre, spread = (running_mean, running_var) if running else (mean, var if biased else unbiased)
        flat = lambda a: xp.reshape(xp.mean(a, (0,)), (x.shape[-1],))
        y = (x - centre) / xp.sqrt(spread + like(x, eps)) * weight + bias
        if not int(train):
            return {"y": y, "new_running_mean": running_mean, "new_running_var": running_var}
        new_mean = running_mean * old + flat(mean) * new
        new_var = running_var * old + flat(var if kept_biased else unbiased) * new
        return {"y": y, "new_running_mean": new_mean, "new_running_var": new_var}

    return batch_norm


def ln(unbiased: bool = False, eps: str = "1e-5", outside: bool = False, axis: int = -1) -> Callable:
    """layer_norm with another variance, eps or axis."""

    def layer_norm(f, x, weight, bias):
        c = x - xp.mean(x, axis, keepdims=True)
        var = xp.sum(c * c, axis, keepdims=True) / (x.shape[axis] - unbiased)
        e = like(x, eps)
        return {"y": c / (xp.sqrt(var) + e if outside else xp.sqrt(var + e)) * weight + bias}

    return layer_norm


ROOT_2_OVER_PI = "0.7978845608028653558798921198687637369517"  # sqrt(2 / pi)


def gelu_tanh(f: dict, x: Array) -> dict:
    z = (x + x * x * x * like(x, "0.044715")) * like(x, ROOT_2_OVER_PI)
    return {"y": x * (1 + xp.tanh(z)) / 2}


def average_pool(f: dict, x: Array) -> dict:
    taps = list(right.windows(x, 2, 2, 2, 0, 0).values())
    return {"y": (taps[0] + taps[1] + taps[2] + taps[3]) / 4}


def leaky(f: dict, x: Array) -> dict:
    above = xp.mask(xp.value(x) > 0, x)
    return {"y": x * above + x * (1 - above) * like(x, "0.01")}


def split_other_way(x: Array, heads: int) -> Array:
    N, L, W = x.shape
    return xp.transpose(xp.reshape(x, (N, L, W // heads, heads)), (0, 3, 1, 2))


def split_by_reshape(x: Array, heads: int) -> Array:
    N, L, W = x.shape
    return xp.reshape(x, (N, heads, L, W // heads))


def scale_of_width(f: dict, x: Array, in_proj_weight: Array, in_proj_bias: Array, **rest: Array) -> dict:
    """Divided by sqrt(W): the queries get the missing 1 / sqrt(heads) beforehand."""
    W, root = x.shape[-1], xp.root(int(rest["heads"]), x)
    weight = xp.concat([in_proj_weight[:W] / root, in_proj_weight[W:]], 0)
    bias = xp.concat([in_proj_bias[:W] / root, in_proj_bias[W:]], 0)
    return right.attention(f, x, weight, bias, **rest)


NO_MASK = 10**6  # tokens ahead that are seen: all of them

LAYERS = {
    "conv2d": {
        "kernel flipped": with_kernel(lambda weight: weight[:, :, ::-1, ::-1]),
        "kernel's rows and columns swapped": with_kernel(lambda weight: xp.transpose(weight, (0, 1, 3, 2))),
        "stride-2 padding on one side": varied(right.conv2d, one_sided=True),
    },
    "batch_norm": {
        "variances swapped": bn(biased=False, kept_biased=True),
        "unbiased variance to normalise": bn(biased=False),
        "biased variance remembered": bn(kept_biased=True),
        "running statistics with 0.9 for 0.1": bn(share="0.9"),
        "eps 1e-3 in the variance": bn(eps="1e-3"),
        "running statistics used in training": bn(frozen=True),
        "statistics of each sample": bn(axes=(1, 2)),
        "statistics without gradient": bn(stop=True),
    },
    "layer_norm": {
        "unbiased variance": ln(unbiased=True),
        "eps 1e-3 in the variance": ln(eps="1e-3"),
        "eps outside the root": ln(outside=True),
        "over the rows": ln(axis=0),
    },
    "relu": {"slope 0.01 below 0": leaky},
    "max_pool2d": {"average": average_pool},
    "gelu": {"tanh approximation": gelu_tanh, "QuickGELU": right.quick_gelu},
    "quick_gelu": {
        "GELU": right.gelu,
        "GELU by tanh": gelu_tanh,
        "SiLU, without 1.702": lambda f, x: {"y": x * xp.sigmoid(x)},
    },
    "attention": {
        "mask off by one: the next token is seen": varied(right.attention, reach=1),
        "no mask": varied(right.attention, reach=NO_MASK),
        "1 / sqrt(d) left out": varied(right.attention, divide=False),
        "divided by the root of the whole width": scale_of_width,
        "heads split the other way": varied(right.attention, split=split_other_way),
        "heads split by a reshape alone": varied(right.attention, split=split_by_reshape),
        "keys before queries in in_proj": varied(right.attention, order="kqv"),
    },
    "linear": {
        "bias left out": lambda f, x, weight, bias: {"y": x @ weight.T + bias * 0},
    },
}

# ---------------------------------------------------------------- encoders, training


def post_norm(f: dict, x: Array, heads: int, w: dict, tap: Callable) -> Array:
    """The norm after the sum, as in the first transformers."""
    tap("ln_1", x)
    x = tap("residual_1", networks.norm(f, x + networks.self_attention(f, x, heads, w, tap), w, "ln_1"))
    tap("ln_2", x)
    return tap("residual_2", networks.norm(f, x + networks.mlp(f, x, w, tap), w, "ln_2"))


def residual_of_norm(f: dict, x: Array, heads: int, w: dict, tap: Callable) -> Array:
    """What is added to is the normalised x."""
    x = tap("ln_1", networks.norm(f, x, w, "ln_1"))
    x = tap("residual_1", x + networks.self_attention(f, x, heads, w, tap))
    x = tap("ln_2", networks.norm(f, x, w, "ln_2"))
    return tap("residual_2", x + networks.mlp(f, x, w, tap))


def last(ids: numpy.ndarray) -> numpy.ndarray:
    return numpy.full(len(ids), ids.shape[1] - 1)


def summed(x: Array) -> Array:
    return xp.sum(x, (1, 2))


NETWORKS = LAYERS | {
    "text_encoder": {
        "norm after the residual sum": varied(networks.text_encoder, block=post_norm),
        "residual taken after the norm": varied(networks.text_encoder, block=residual_of_norm),
        "the last position pooled": varied(networks.text_encoder, pooled=last),
        "positions left out": varied(networks.text_encoder, positions=False),
        "final norm left out": varied(networks.text_encoder, final=False),
    },
    "image_encoder": {
        "sum for the mean over rows and columns": varied(networks.image_encoder, pooled=summed),
        "ReLU before batch norm": varied(networks.image_encoder, order=("relu", "bn")),
    },
    "training": {
        "no decay for biases and norms": (
            varied(networks.training, decays=lambda x: x.ndim > 1),
            "decayed",
            "weights",
        ),
        "velocity forgotten between steps": varied(networks.training, forget=True),
        "gradients added up over the steps": varied(networks.training, accumulate=True),
    },
}

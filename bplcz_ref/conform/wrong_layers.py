"""Wrong readings of layers, encoders and training, and the list of all; see wrong.py."""

import numpy

from bplcz_ref.conform import definitions as right
from bplcz_ref.conform import exact as xp
from bplcz_ref.conform import wiring
from bplcz_ref.conform.definitions import like
from bplcz_ref.conform.wrong import EQUATIONS, Wrong
from bplcz_ref.conform.wrong_data import DATA

# ---------------------------------------------------------------- layers


def conv(flip=False, swap=False, before=None):
    """conv2d with a kernel turned or swapped, or with other zeros around."""

    def conv2d(f, x, weight, stride=1, padding=1):
        k, p = weight.shape[2], int(padding)
        first, last = (p, p) if before is None or int(stride) == 1 else before
        total = None
        for (u, v), pixels in right.windows(x, k, k, int(stride), first, last).items():
            u, v = (k - 1 - u, k - 1 - v) if flip else (u, v)
            u, v = (v, u) if swap else (u, v)
            part = pixels @ weight[:, :, u, v].T
            total = part if total is None else total + part
        return {"y": total}

    return conv2d


def bn(biased=(True, False), share="0.1", eps="1e-5", frozen=False, axes=None, stop=False):
    """batch_norm with other variances (to normalise, to remember), momentum, eps or axes."""

    def batch_norm(f, x, weight, bias, running_mean, running_var, train=1):
        if not int(train):
            y = (x - running_mean) / xp.sqrt(running_var + like(x, eps)) * weight + bias
            return {"y": y, "new_running_mean": running_mean, "new_running_var": running_var}
        over = tuple(range(x.ndim - 1)) if axes is None else axes
        n = int(numpy.prod([x.shape[a] for a in over]))
        m = xp.mean(x, over, keepdims=True)
        v = xp.mean((x - m) * (x - m), over, keepdims=True)
        if stop:
            m, v = (xp.exact(a.value) if isinstance(a, xp.Exact) else xp.value(a) for a in (m, v))
        new, old = like(x, share), 1 - like(x, share)
        used = v if biased[0] else v * n / (n - 1)
        kept = v if biased[1] else v * n / (n - 1)
        flat = lambda a: xp.reshape(xp.mean(a, (0,)), (x.shape[-1],))
        centre, spread = (running_mean, running_var) if frozen else (m, used)
        return {
            "y": (x - centre) / xp.sqrt(spread + like(x, eps)) * weight + bias,
            "new_running_mean": running_mean * old + flat(m) * new,
            "new_running_var": running_var * old + flat(kept) * new,
        }

    return batch_norm


def ln(unbiased=False, eps="1e-5", outside=False, axis=-1):
    def layer_norm(f, x, weight, bias):
        c = x - xp.mean(x, axis, keepdims=True)
        var = xp.sum(c * c, axis, keepdims=True) / (x.shape[axis] - unbiased)
        e = like(x, eps)
        return {"y": c / (xp.sqrt(var) + e if outside else xp.sqrt(var + e)) * weight + bias}

    return layer_norm


def gelu_tanh(f, x):
    z = (x + x * x * x * like(x, "0.044715")) * like(x, "0.7978845608028653558798921198687637369517")
    return {"y": x * (1 + xp.tanh(z)) / 2}


def average_pool(f, x):
    taps = list(right.windows(x, 2, 2, 2, 0, 0).values())
    return {"y": (taps[0] + taps[1] + taps[2] + taps[3]) / 4}


def leaky(f, x):
    above = xp.mask(xp.value(x) > 0, x)
    return {"y": x * above + x * (1 - above) * like(x, "0.01")}


def split_other_way(x, heads):
    N, L, W = x.shape
    return xp.transpose(xp.reshape(x, (N, L, W // heads, heads)), (0, 3, 1, 2))


def split_by_reshape(x, heads):
    N, L, W = x.shape
    return xp.reshape(x, (N, heads, L, W // heads))


def mha(**options):
    def attention(f, x, in_proj_weight, in_proj_bias, out_weight, out_bias, heads):
        w = dict(
            in_proj_weight=in_proj_weight, in_proj_bias=in_proj_bias, out_weight=out_weight, out_bias=out_bias
        )
        return right.attention(f, x=x, heads=heads, **w, **options)

    return attention


def scale_of_width(f, x, in_proj_weight, in_proj_bias, out_weight, out_bias, heads):
    """Divided by sqrt(W): the queries get the missing 1 / sqrt(heads) beforehand."""
    W, h = x.shape[-1], int(heads)
    root = xp.root(h, x)
    q = slice(0, W)
    weight = xp.concat([in_proj_weight[q] / root, in_proj_weight[W:]], 0)
    bias = xp.concat([in_proj_bias[q] / root, in_proj_bias[W:]], 0)
    return right.attention(f, x, weight, bias, out_weight, out_bias, heads)


LAYERS = [
    Wrong("conv2d", "kernel flipped", conv(flip=True)),
    Wrong("conv2d", "kernel's rows and columns swapped", conv(swap=True)),
    Wrong("conv2d", "stride-2 padding on one side", conv(before=(0, 1))),
    Wrong("batch_norm", "variances swapped", bn(biased=(False, True))),
    Wrong("batch_norm", "unbiased variance to normalise", bn(biased=(False, False))),
    Wrong("batch_norm", "biased variance remembered", bn(biased=(True, True))),
    Wrong("batch_norm", "running statistics with 0.9 for 0.1", bn(share="0.9")),
    Wrong("batch_norm", "eps 1e-3 in the variance", bn(eps="1e-3")),
    Wrong("batch_norm", "running statistics used in training", bn(frozen=True)),
    Wrong("batch_norm", "statistics of each sample", bn(axes=(1, 2))),
    Wrong("batch_norm", "statistics without gradient", bn(stop=True)),
    Wrong("layer_norm", "unbiased variance", ln(unbiased=True)),
    Wrong("layer_norm", "eps 1e-3 in the variance", ln(eps="1e-3")),
    Wrong("layer_norm", "eps outside the root", ln(outside=True)),
    Wrong("layer_norm", "over the rows", ln(axis=0)),
    Wrong("relu", "slope 0.01 below 0", leaky),
    Wrong("max_pool2d", "average", average_pool),
    Wrong("gelu", "tanh approximation", gelu_tanh),
    Wrong("gelu", "QuickGELU", right.quick_gelu),
    Wrong("quick_gelu", "GELU", right.gelu),
    Wrong("quick_gelu", "GELU by tanh", gelu_tanh),
    Wrong("quick_gelu", "SiLU, without 1.702", lambda f, x: {"y": x * xp.sigmoid(x)}),
    Wrong("attention", "mask off by one: the next token is seen", mha(reach=1)),
    Wrong("attention", "no mask", mha(causal=False)),
    Wrong("attention", "1 / sqrt(d) left out", mha(divide=False)),
    Wrong("attention", "divided by the root of the whole width", scale_of_width),
    Wrong("attention", "heads split the other way", mha(split=split_other_way)),
    Wrong("attention", "heads split by a reshape alone", mha(split=split_by_reshape)),
    Wrong("attention", "keys before queries in in_proj", mha(order="kqv")),
    Wrong("linear", "bias left out", lambda f, x, weight, bias: {"y": x @ weight.T + bias * 0}),
]


# ---------------------------------------------------------------- encoders, training


def post_norm(f, x, heads, w, tap):
    """The norm after the sum, as in the first transformers."""
    tap("ln_1", x)
    x = tap("residual_1", wiring.norm(f, x + wiring.self_attention(f, x, heads, w, tap), w, "ln_1"))
    tap("ln_2", x)
    return tap("residual_2", wiring.norm(f, x + wiring.mlp(f, x, w, tap), w, "ln_2"))


def residual_of_norm(f, x, heads, w, tap):
    """What is added to is the normalised x."""
    x = tap("ln_1", wiring.norm(f, x, w, "ln_1"))
    x = tap("residual_1", x + wiring.self_attention(f, x, heads, w, tap))
    x = tap("ln_2", wiring.norm(f, x, w, "ln_2"))
    return tap("residual_2", x + wiring.mlp(f, x, w, tap))


def encoded(**options):
    return lambda f, ids, heads, **w: wiring.text_encoder(f, ids, heads, **options, **w)


def last(ids):
    return numpy.full(len(ids), ids.shape[1] - 1)


def no_final_norm(f, ids, heads, **w):
    taps = wiring.text_encoder(f, ids, heads, final=False, **w)
    names = list(taps)
    at = names.index("at_eot")
    return {n: taps[n] for n in names[:at]} | {"ln_final": taps[names[at - 1]]} | {n: taps[n] for n in names[at:]}


NETWORKS = [
    Wrong("text_encoder", "norm after the residual sum", encoded(block=post_norm)),
    Wrong("text_encoder", "residual taken after the norm", encoded(block=residual_of_norm)),
    Wrong("text_encoder", "the last position pooled", encoded(pooled=last)),
    Wrong("text_encoder", "positions left out", encoded(positions=False)),
    Wrong("text_encoder", "final norm left out", no_final_norm),
    Wrong(
        *("image_encoder", "sum for the mean over rows and columns"),
        lambda f, x, **w: wiring.image_encoder(f, x, pooled=lambda x: xp.sum(x, (1, 2)), **w),
    ),
    Wrong(
        *("image_encoder", "ReLU before batch norm"),
        lambda f, x, **w: wiring.image_encoder(f, x, order=("relu", "bn"), **w),
    ),
    Wrong(
        *("training", "no decay for biases and norms"),
        lambda f, **i: wiring.training(f, decays=lambda name, x: x.ndim > 1, **i),
        reading=("decayed", "weights"),
    ),
    Wrong("training", "velocity forgotten between steps", lambda f, **i: wiring.training(f, forget=True, **i)),
    Wrong(
        "training", "gradients added up over the steps", lambda f, **i: wiring.training(f, accumulate=True, **i)
    ),
]

WRONG = [*EQUATIONS, *DATA, *LAYERS, *NETWORKS]

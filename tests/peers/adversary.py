# ruff: noqa: E501
"""Mistakes that real ports contain and the kit has no wrong reading for: how many it catches, locates and misnames.

`python tests/peers/adversary.py 5` prints it for five seeds and both dtypes, for the right variants of
adversary_port.py too, in a quarter of an hour.
"""

import sys
from collections import Counter

import torch
import torch.overrides
from adversary_port import (
    PORT,
    RIGHT,
    attention,
    batch_norm,
    both,
    cls,
    contrastive_loss,
    cos,
    first,
    graded,
    last,
    layer,
    loss,
    masked,
    sgd_of,
    sgd_step,
    tri,
    unit,
    weighed,
)  # fmt: skip
from torch.nn import functional as F

# ---------------------------------------------------------------- coarse arithmetic


def tf32(name):
    """An operation of the port whose matrix products have rounded factors, in the backward pass too."""

    def run(T, *args, **inputs):
        with ShortProducts():
            return PORT[name](T, *args, **inputs)

    return run


class ShortProducts(torch.overrides.TorchFunctionMode):
    """In it, the factors of matrix products have 11 bits, as in TF32."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        name = getattr(function, "__name__", "")
        if name in ("matmul", "__matmul__", "linear", "conv2d"):
            x, w = (low(a, 11) for a in args[:2])
            y = function(x, w, *args[2:], **(kwargs or {}))
            return low(y, 11, False, True)
        return function(*args, **(kwargs or {}))


PRODUCTS = [(op, "TF32 products of 11 bits", {op: tf32(op)}) for op in ("linear", "conv2d", "similarity")]


class Coarse(torch.autograd.Function):
    """Rounded to some bits, forward, backward, or both."""

    @staticmethod
    def forward(ctx, x, bits, forward, backward):
        ctx.bits = bits if backward else 0
        return rounded(x, bits) if forward else x.clone()

    @staticmethod
    def backward(ctx, g):
        return rounded(g, ctx.bits) if ctx.bits else g, None, None, None


def rounded(x, bits):
    mantissa, exponent = torch.frexp(x)
    return torch.ldexp(torch.round(mantissa * 2.0**bits), exponent - bits).to(x.dtype)


def low(x, bits, forward=True, backward=False):
    floating = isinstance(x, torch.Tensor) and x.is_floating_point()
    return Coarse.apply(x, bits, forward, backward) if floating else x


def coarse(op, bits, where):
    """An operation whose inputs, outputs or gradients are rounded."""

    def run(T, *args, **inputs):
        if where == "inputs":
            args, inputs = [low(x, bits) for x in args], {n: low(x, bits) for n, x in inputs.items()}
        out = PORT[op](T, *args, **inputs)
        if where == "outputs":
            out = {name: low(x, bits) for name, x in out.items()}
        if where == "gradients":
            out = {name: low(x, bits, False, True) if x.requires_grad else x for name, x in out.items()}
        return out

    return run


PRECISION = [
    (op, f"{where} of {bits} bits", {op: coarse(op, bits, where)})
    for op in (
        "linear",
        "conv2d",
        "batch_norm",
        "layer_norm",
        "relu",
        "max_pool2d",
        "gelu",
        "quick_gelu",
        "similarity",
    )
    + ("fuse", "bce", "concat", "cross_entropy", "total_loss", "sgd", "attention", "band_groups", "standardise")
    for bits in (8, 11)
    for where in ("inputs", "outputs", "gradients")
    if not (where == "gradients" and op in ("sgd", "band_groups"))
]

# ---------------------------------------------------------------- mistakes without a name


def padded(mode):
    def conv2d(T, x, weight, stride, padding):
        p = int(padding)
        return {"y": last(F.conv2d(F.pad(first(x), (p, p, p, p), mode=mode), weight, stride=int(stride)))}

    return conv2d


def conv(**changes):
    def conv2d(T, x, weight, stride, padding):
        options = {"stride": int(stride), "padding": int(padding)} | changes
        return {"y": last(F.conv2d(first(x), weight, **options))}

    return conv2d


def bn(change):
    def run(T, x, weight, bias, running_mean, running_var, train):
        out = batch_norm(T, x, weight, bias, running_mean, running_var, train)
        return out | change(out, x, weight, bias, running_mean, running_var, int(train))

    return run


def unshifted(s):
    e = s.exp() * tri(s)
    return e / e.sum(-1, keepdim=True)


class Mean(torch.autograd.Function):
    """A hand-written backward pass that takes means over the batch."""

    @staticmethod
    def forward(ctx, x, weight, bias):
        ctx.save_for_backward(x, weight)
        return F.linear(x, weight, bias)

    @staticmethod
    def backward(ctx, g):
        x, weight = ctx.saved_tensors
        flat = g.flatten(0, -2)
        return g @ weight, flat.T @ x.flatten(0, -2) / len(flat), flat.mean(0)


p_of = torch.sigmoid

WRONG = [
    layer("linear", "means in the backward pass", lambda x, weight, bias: Mean.apply(x, weight, bias)),
    layer("linear", "bias doubled", lambda x, weight, bias: F.linear(x, weight, 2 * bias)),
    layer("linear", "weight without gradient", lambda x, weight, bias: F.linear(x, weight.detach(), bias)),
    layer("linear", "weight clipped to 1", lambda x, weight, bias: F.linear(x, weight.clamp(-1, 1), bias)),
    ("conv2d", "reflect", {"conv2d": padded("replicate")}),
    ("conv2d", "dilated", {"conv2d": conv(dilation=2)}),
    ("conv2d", "stride for columns alone", {"conv2d": lambda T, x, weight, stride, padding: {
        "y": last(F.conv2d(first(x), weight, stride=(1, int(stride)), padding=int(padding)))}}),
    ("conv2d", "padding for rows alone", {"conv2d": lambda T, x, weight, stride, padding: {
        "y": last(F.conv2d(first(x), weight, stride=int(stride), padding=(int(padding), 0)))}}),
    ("conv2d", "kernel flipped in rows", {"conv2d": lambda T, x, weight, stride, padding: PORT["conv2d"](
        T, x, weight.flip(2), stride, padding)}),
    ("conv2d", "kernel's channels reversed", {"conv2d": lambda T, x, weight, stride, padding: PORT["conv2d"](
        T, x, weight.flip(1), stride, padding)}),
    ("conv2d", "x without gradient", {"conv2d": lambda T, x, weight, stride, padding: PORT["conv2d"](
        T, x.detach(), weight, stride, padding)}),
    ("batch_norm", "eps 1e-4", {"batch_norm": lambda T, *a, **i: batch_norm(T, *a, eps=1e-4, **i)}),
    ("batch_norm", "eps 1e-8", {"batch_norm": lambda T, *a, **i: batch_norm(T, *a, eps=1e-8, **i)}),
    ("batch_norm", "momentum 0.2", {"batch_norm": lambda T, *a, **i: batch_norm(T, *a, momentum=0.2, **i)}),
    ("batch_norm", "mean not moved", {"batch_norm": bn(lambda o, x, w, b, m, v, t: {"new_running_mean": m})}),
    ("batch_norm", "mean remembered alone", {"batch_norm": bn(
        lambda o, x, w, b, m, v, t: {"new_running_mean": x.mean((0, 1, 2)).detach()} if t else {})}),
    ("batch_norm", "absolute weight", {"batch_norm": lambda T, x, weight, *a, **i: batch_norm(T, x, -weight, *a, **i)}),
    ("batch_norm", "mean without gradient", {"batch_norm": bn(lambda o, x, w, b, m, v, t: {
        "y": (x - x.mean((0, 1, 2)).detach()) / (x.var((0, 1, 2), correction=0) + 1e-5).sqrt() * w + b} if t else {})}),
    layer("layer_norm", "eps 1e-4", lambda x, weight, bias: F.layer_norm(x, x.shape[-1:], weight, bias, 1e-4)),
    layer("layer_norm", "eps 1e-7", lambda x, weight, bias: F.layer_norm(x, x.shape[-1:], weight, bias, 1e-7)),
    layer("layer_norm", "mean without gradient", lambda x, weight, bias: (x - x.mean(-1, True).detach()) / (
        x.var(-1, correction=0, keepdim=True) + 1e-5).sqrt() * weight + bias),
    layer("layer_norm", "bias before weight", lambda x, weight, bias: (
        F.layer_norm(x, x.shape[-1:]) + bias) * weight),
    layer("relu", "leaky 0.2", lambda x: F.leaky_relu(x, 0.2)),
    layer("relu", "clamp", lambda x: x.clamp(min=0)),
    layer("relu", "capped at 20", lambda x: x.clamp(0, 20)),
    layer("relu", "above 1e-3", lambda x: torch.where(x > 0.3, x, 0 * x)),
    layer("relu", "straight through", lambda x: x + (F.relu(x) - x).detach()),
    layer("max_pool2d", "of sizes", lambda x: last(F.max_pool2d(first(x).abs(), 2))),
    layer("max_pool2d", "3 by 3", lambda x: last(F.max_pool2d(first(x), 3, 2, 1))),
    layer("max_pool2d", "L2", lambda x: last(F.lp_pool2d(first(x), 2.0, 2))),
    layer("max_pool2d", "rows alone", lambda x: last(F.max_pool2d(first(x), (2, 1)))),
    layer("max_pool2d", "the first pixel", lambda x: x[:, : x.shape[1] // 2 * 2 : 2, : x.shape[2] // 2 * 2 : 2]),
    layer("gelu", "1.702", lambda x: x * torch.sigmoid(1.7 * x)),
    layer("gelu", "a hard gate", lambda x: F.hardswish(x)),
    layer("gelu", "mish", lambda x: F.mish(x)),
    layer("gelu", "0.7 for 1 / sqrt 2", lambda x: x * (1 + torch.erf(0.7 * x)) / 2),
    layer("quick_gelu", "1.704", lambda x: x * torch.sigmoid(1.704 * x)),
    layer("quick_gelu", "hard", lambda x: F.hardswish(x)),
    layer("quick_gelu", "e^x overflows", lambda x: x * (1.702 * x).exp() / (1 + (1.702 * x).exp())),
    ("attention", "unshifted", weighed(unshifted)),
    ("attention", "mask of -1e4", weighed(lambda s: (s - 1e4 * ~tri(s)).softmax(-1))),
    ("attention", "sigmoid", weighed(lambda s: s.sigmoid() * tri(s))),
    ("attention", "sharpened", weighed(lambda s: masked(1.1 * s).softmax(-1))),
    ("attention", "a window of 2", weighed(lambda s: masked(s).masked_fill(tri(s).tril(-2), -torch.inf).softmax(-1))),
    ("attention", "probabilities without gradient", weighed(lambda s: masked(s).softmax(-1).detach())),
    ("attention", "clipped scores", weighed(lambda s: masked(s.clamp(-5, 5)).softmax(-1))),
    ("attention", "soft cap", weighed(lambda s: masked(30 * torch.tanh(s / 30)).softmax(-1))),
    ("attention", "one more weight", weighed(lambda s: masked(s).exp() / (1 + masked(s).exp().sum(-1, True)))),
    ("attention", "the output doubled", {"attention": lambda T, *a, **i: attention(T, *a, after=lambda y: 2 * y, **i)}),
    cos("eps 1e-10", lambda a, b: both(unit(a, eps=1e-10) @ unit(b, eps=1e-10).T)),
    cos("eps 1e-4", lambda a, b: both(unit(a, eps=1e-4) @ unit(b, eps=1e-4).T)),
    cos("L1", lambda a, b: both(unit(a, p=1) @ unit(b, p=1).T)),
    cos("largest", lambda a, b: both(unit(a, p=float("inf")) @ unit(b, p=float("inf")).T)),
    cos("product of norms bounded", lambda a, b: both(a @ b.T / (
        a.norm(dim=1)[:, None] * b.norm(dim=1)).clamp(min=1e-8))),
    cos("distance", lambda a, b: both(-torch.cdist(unit(a), unit(b)) ** 2 / 2)),
    cos("norm without gradient", lambda a, b: both((a / a.norm(dim=1, keepdim=True).clamp(min=1e-12).detach()) @ unit(b).T)),
    cos("clipped at 0.99", lambda a, b: both((unit(a) @ unit(b).T).clamp(-0.5, 0.5))),
    cos("float texts detached", lambda a, b: both(unit(a) @ unit(b).T.detach())),
    ("fuse", "softmax", {"fuse": lambda T, S_groups, alpha: {"S": alpha * S_groups.softmax(0).sum(0)}}),
    ("fuse", "largest", {"fuse": lambda T, S_groups, alpha: {"S": alpha * S_groups.max(0).values}}),
    ("fuse", "root of n", {"fuse": lambda T, S_groups, alpha: {"S": alpha * S_groups.sum(0) / len(S_groups) ** 0.5}}),
    ("fuse", "root of alpha", {"fuse": lambda T, S_groups, alpha: {"S": alpha**0.5 * S_groups.sum(0)}}),
    ("supervised_matrix", "above the diagonal", {"supervised_matrix": lambda T, y: {"W": (y[:, None] == y).long().triu()}}),
    ("supervised_matrix", "of remainders", {"supervised_matrix": lambda T, y: {"W": (y[:, None] % 8 == y % 8).long()}}),
    loss("clamped p", lambda S, W: F.binary_cross_entropy(p_of(S).clamp(1e-6, 1 - 1e-6), W)),
    loss("log p + 1e-12", lambda S, W: -(W * (p_of(S) + 1e-12).log() + (1 - W) * (1 - p_of(S) + 1e-12).log()).mean()),
    loss("naive", lambda S, W: (torch.log(1 + S.exp()) - S * W).mean()),
    loss("slope 0 at S = 0 of relu and of abs", lambda S, W: (F.relu(S) - S * W + torch.log1p((-S.abs()).exp())).mean()),
    loss("hinge", lambda S, W: F.relu(1 - (2 * W - 1) * S).mean()),
    loss("squared", lambda S, W: (p_of(S) - W).square().mean()),
    loss("pos_weight 2", lambda S, W: F.binary_cross_entropy_with_logits(S, W, pos_weight=torch.tensor(2.0).to(S))),
    loss("smoothed 0.05", lambda S, W: F.binary_cross_entropy_with_logits(S, 0.95 * W + 0.025)),
    loss("median", lambda S, W: F.binary_cross_entropy_with_logits(S, W, reduction="none").flatten().median()),
    loss("tanh", lambda S, W: F.binary_cross_entropy_with_logits(torch.tanh(S) * 2, W)),
    ("contrastive_loss", "the larger", {"contrastive_loss": lambda T, S, W: (o := contrastive_loss(T, S, W)) | {
        "L_con": 1.5 * o["L_con"]}}),
    ("contrastive_loss", "no gradient in L_t2i", {"contrastive_loss": lambda T, S, W: (o := contrastive_loss(T, S, W)) | {
        "L_t2i": o["L_t2i"].detach()}}),
    ("concat", "stacked by pairs", {"concat": lambda T, I_groups: {"I": torch.cat(list(I_groups.roll(1, 0)), 1)}}),
    ("concat", "scaled", {"concat": lambda T, I_groups: {"I": torch.cat(list(I_groups), 1) / len(I_groups)}}),
    ("concat", "rectified", {"concat": lambda T, I_groups: {"I": F.relu(torch.cat(list(I_groups), 1))}}),
    cls("smoothing 0.05", lambda x, c: F.cross_entropy(x, c, label_smoothing=0.05)),
    cls("last class ignored", lambda x, c: F.cross_entropy(x, c, ignore_index=x.shape[1] - 1)),
    cls("temperature 2", lambda x, c: F.cross_entropy(x / 2, c)),
    cls("naive", lambda x, c: (x.exp().sum(1).log() - x[torch.arange(len(c)), c]).mean()),
    cls("nll of a sigmoid", lambda x, c: F.nll_loss(F.logsigmoid(x), c)),
    cls("margin", F.multi_margin_loss),
    cls("half", lambda x, c: F.cross_entropy(x, c) / 2),
    ("total_loss", "root", {"total_loss": lambda T, L_cls, L_con, beta: {"L": L_cls + beta**0.5 * L_con}}),
    ("total_loss", "product", {"total_loss": lambda T, L_cls, L_con, beta: {"L": L_cls * (1 + beta * L_con)}}),
    ("total_loss", "inverse", {"total_loss": lambda T, L_cls, L_con, beta: {"L": L_cls + L_con / beta}}),
    ("sgd", "momentum squared", sgd_of(lambda w, v, g, lr, m, d: sgd_step(w, v, g, lr, m * m, d))),
    ("sgd", "decay on the new w", sgd_of(lambda w, v, g, lr, m, d: (
        (x := sgd_step(w, v, g, lr, m, 0 * d))[0] * (1 - lr * d), x[1]))),
    ("sgd", "signs", sgd_of(lambda w, v, g, lr, m, d: sgd_step(w, v, g.sign(), lr, m, d))),
    ("sgd", "v in w", sgd_of(lambda w, v, g, lr, m, d: (
        (x := sgd_step(w, v, g, lr, m, d))[0], x[1] + 0.01 * w))),
    ("sgd", "first step without momentum's decay", sgd_of(lambda w, v, g, lr, m, d: sgd_step(w, v, g, lr, m, d * (v is not None)))),
    ("statistics", "of rows", {"statistics": lambda T, x: {"mean": x.mean((0, 1, 2)), "std": x.std((0, 1), correction=0).mean(0)}}),
    ("standardise", "eps", {"standardise": lambda T, x, mean, std: {"y": (x - mean) / (std + 1e-6)}}),
    ("predict", "the second", {"predict": lambda T, c_hat: {"y_hat": c_hat.topk(2, 1).indices[:, 1]}}),
]  # fmt: skip

TRUE_NAMES = {  # what the kit may call a mistake: what it is, in the kit's words
    ("linear", "means in the backward pass"): "grad.weight and grad.bias divided by axis 0 of x",
    ("linear", "bias doubled"): "bias doubled",
    ("linear", "weight without gradient"): "weight without gradient",
    ("linear", "weight clipped to 1"): "weight at most 1 in size",
    ("conv2d", "reflect"): "edges repeated for zeros",
    ("conv2d", "kernel flipped in rows"): "weight reversed along its third axis",
    ("conv2d", "kernel's channels reversed"): (
        "weight reversed along its second axis",
        "x reversed along its last axis",
    ),
    ("conv2d", "x without gradient"): "x without gradient",
    ("batch_norm", "mean not moved"): "running_mean given for new_running_mean",
    ("batch_norm", "absolute weight"): "weight negative",
    ("layer_norm", "bias before weight"): "the bias before the weight",
    ("relu", "clamp"): "slope 1 at 0",
    ("max_pool2d", "of sizes"): "x of absolute values",
    ("attention", "mask of -1e4"): "10000 taken off masked scores",
    ("attention", "the output doubled"): "y doubled",
    ("similarity", "float texts detached"): "T_i without gradient",
    ("fuse", "largest"): "the largest of the groups",
    ("fuse", "root of alpha"): "alpha its root",
    ("contrastive_loss", "no gradient in L_t2i"): "L_t2i without gradient",
    ("concat", "stacked by pairs"): "I_groups rolled by one",
    ("concat", "scaled"): "I and grad.I_groups divided by axis 0 of I_groups",
    ("concat", "rectified"): "I_groups not negative",
    ("cross_entropy", "temperature 2"): "c_hat halved",
    ("cross_entropy", "half"): "L_cls halved",
    ("total_loss", "root"): "beta its root",
    ("total_loss", "inverse"): "beta inverted",
    ("sgd", "momentum squared"): "momentum squared",
    ("sgd", "signs"): "gradients by its sign",
}


def true_of(name, op, what):
    """Whether a name says what a variant is."""
    for bits, words in ((" of 8 bits", "bfloat16"), (" of 11 bits", "TF32 or float16")):
        if bits in what:
            return f"rounded to {words}" in name
    known = TRUE_NAMES.get((op, what), ())
    return name == known or (isinstance(known, tuple) and name in known)


def names_of(r):
    return tuple(name for f in r.findings if f.state == "guilty" for name in f.names)


def tally(dtype, variants, seed=0):
    """(Counter, lines): what was caught, located and named, and the variants for which it was not as it should be."""
    count, lines = Counter(), []
    for op, what, changes in variants:
        r = graded(op, changes, dtype, seed)
        fault = [f.op for f in r.findings if f.state == "guilty"]
        names = names_of(r)
        caught, located = r.exit_code != 0, fault == [op]
        false = [name for name in names if not true_of(name, op, what)]
        count.update(
            {"all": 1, "caught": caught, "located": located, "named": bool(names), "misnamed": bool(false)}
        )
        if caught != (variants is not RIGHT) or caught != located or false:
            lines.append(f"{op}: {what}: caught {caught}, guilty {fault}, named {names}\n{r}")
    return count, lines


if __name__ == "__main__":
    for dtype in ("float32", "float64"):
        for seed in range(int(sys.argv[1]) if sys.argv[1:] else 1):
            for title, variants in (("wrong", WRONG), ("precision", PRECISION + PRODUCTS), ("right", RIGHT)):
                count, lines = tally(dtype, variants, seed)
                print(f"{title}, {dtype}, seed {seed}: {dict(count)}", *lines, sep="\n  ", flush=True)

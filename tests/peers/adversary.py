# ruff: noqa: E501
"""A port of BP-LCZ to PyTorch with many mistakes that the kit has no wrong reading for, and some right variants.

`PORT` is a consumer of the kit: {operation: function of tensors}. What is made of other operations asks the table
for them, as one program would. WRONG are mistakes, (operation, what, {entry: function}); RIGHT are correct variants.
`python tests/peers/adversary.py float32` prints how many are caught, located and misnamed.
"""

import sys
from collections import Counter

import numpy as np
import torch
import torch.overrides
from torch.nn import functional as F

from bplcz_ref import paper
from bplcz_ref.conform import kit, reference, verdict
from bplcz_ref.conform.grading import Answers, profile_of
from bplcz_ref.conform.ops import OPS, rests_on

KIT = kit.load()
first, last = (lambda x: x.movedim(-1, 1)), (lambda x: x.movedim(1, -1))
TEXT = ("prompt", "pre_tokens", "tokenize", "split", "metrics")  # no tensors: the package answers


def attention(
    T,
    x,
    in_proj_weight,
    in_proj_bias,
    out_weight,
    out_bias,
    heads,
    scale=None,
    weigh=None,
    groups=3,
    after=lambda y: y,
):
    qkv = T["linear"](T, x, in_proj_weight, in_proj_bias)["y"].unflatten(-1, (groups, int(heads), -1))
    q, k, v = qkv.permute(2, 0, 3, 1, 4)
    if weigh is None:
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale)
    else:
        y = weigh(q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5) @ v
    return {"y": after(T["linear"](T, y.transpose(1, 2).flatten(2), out_weight, out_bias)["y"])}


def batch_norm(T, x, weight, bias, running_mean, running_var, train, **options):
    running = running_mean.clone(), running_var.clone()
    y = F.batch_norm(first(x), *running, weight, bias, training=bool(train), **options)
    return {"y": last(y), "new_running_mean": running[0], "new_running_var": running[1]}


def sgd_step(w, v, g, lr, momentum, decay):
    g = g + decay * w
    v = g if v is None else momentum * v + g
    return w - lr * v, v


def sgd(T, w, gradients, lr, momentum, weight_decay):
    v, ws, vs = None, [], []
    for g, rate in zip(gradients, lr, strict=True):
        w, v = T["sgd_step"](w, v, g, rate, momentum, weight_decay)
        ws.append(w)
        vs.append(v)
    return {"w": torch.stack(ws), "v": torch.stack(vs)}


def below(w, prefix):
    return {name[len(prefix) + 1 :]: x for name, x in w.items() if name.startswith(prefix + ".")}


def image_encoder(T, x, running=None, train=1, **w):
    taps = {}
    for k in range(1, 7):
        taps[f"conv{k}"] = x = T["conv2d"](T, x, w[f"conv{k}.weight"], 1, 1)["y"]
        own = running or {
            f"bn{k}.running_mean": 0 * w[f"bn{k}.bias"],
            f"bn{k}.running_var": 0 * w[f"bn{k}.bias"] + 1,
        }
        kept = own[f"bn{k}.running_mean"].detach(), own[f"bn{k}.running_var"].detach()
        out = T["batch_norm"](T, x, w[f"bn{k}.weight"], w[f"bn{k}.bias"], *kept, train)
        if running is not None:
            running |= {f"bn{k}.running_{s}": out[f"new_running_{s}"] for s in ("mean", "var")}
        taps[f"bn{k}"], taps[f"relu{k}"] = out["y"], T["relu"](T, out["y"])["y"]
        x = taps[f"relu{k}"]
        if k in (2, 4):
            taps[f"pool{k}"] = x = T["max_pool2d"](T, x)["y"]
    taps["mean"] = x.mean((1, 2))
    return taps | {"I_i": T["linear"](T, taps["mean"], w["proj.weight"], w["proj.bias"])["y"]}


def text_encoder(T, ids, heads, final="ln_final", place=lambda ids: ids.argmax(1), scale=1.0, **w):
    taps = {}
    norm = lambda x, name: T["layer_norm"](T, x, w[f"{name}.weight"], w[f"{name}.bias"])["y"]
    taps["embedding"] = x = scale * w["token_embedding.weight"][ids] + w["positional_embedding"][: ids.shape[1]]
    for k in range(len({n.split(".")[2] for n in w if n.startswith("transformer.")})):
        b, own = f"block{k}.", below(w, f"transformer.resblocks.{k}")
        at = lambda name, b=f"transformer.resblocks.{k}": f"{b}.{name}"
        taps[b + "ln_1"] = norm(x, at("ln_1"))
        parts = {"in_proj_weight": own["attn.in_proj_weight"], "in_proj_bias": own["attn.in_proj_bias"]}
        parts |= {"out_weight": own["attn.out_proj.weight"], "out_bias": own["attn.out_proj.bias"]}
        taps[b + "attn"] = T["attention"](T, taps[b + "ln_1"], heads=heads, **parts)["y"]
        taps[b + "residual_1"] = x = x + taps[b + "attn"]
        taps[b + "ln_2"] = norm(x, at("ln_2"))
        y = T["linear"](T, taps[b + "ln_2"], own["mlp.c_fc.weight"], own["mlp.c_fc.bias"])["y"]
        taps[b + "gelu"] = T["quick_gelu"](T, y)["y"]
        taps[b + "mlp"] = T["linear"](T, taps[b + "gelu"], own["mlp.c_proj.weight"], own["mlp.c_proj.bias"])["y"]
        taps[b + "residual_2"] = x = x + taps[b + "mlp"]
    taps["ln_final"] = norm(x, final)
    taps["at_eot"] = taps["ln_final"][torch.arange(len(ids)), place(ids)]
    return taps | {"T_i": taps["at_eot"] @ w["text_projection"]}


def contrastive_loss(T, S, W):
    a, b = T["bce"](T, S, W)["L"], T["bce"](T, S.T, W)["L"]
    return {"L_i2t": a, "L_t2i": b, "L_con": (a + b) / 2}


def inference(T, batches, x, **w):
    running = {
        f"bn{k}.running_{s}": (s == "var") + 0 * w[f"bn{k}.bias"] for k in range(1, 7) for s in ("mean", "var")
    }
    branch = {n: v for n, v in w.items() if not n.startswith("classifier")}
    for batch in batches:
        T["image_encoder"](T, batch, running=running, **branch)
    I_i = T["image_encoder"](T, x, running=dict(running), train=0, **branch)["I_i"]
    c_hat = T["linear"](T, I_i, w["classifier.weight"], w["classifier.bias"])["y"]
    return running | {"I_i": I_i, "c_hat": c_hat, **T["predict"](T, c_hat)}


def training(T, sen1, sen2, y, ids, lr, momentum, weight_decay, alpha, beta, heads, change=lambda w, g, t: g, **w):
    X, groups, out, velocity = T["band_groups"](T, sen1, sen2), list(paper.GROUPS), {}, {}
    for t, rate in enumerate(lr):
        w = {name: x.detach().requires_grad_() for name, x in w.items()}
        taps = {f"I_{g}": T["image_encoder"](T, X[f"X_{g}"], **below(w, f"branches.{g}"))["I_i"] for g in groups}
        for i, g in enumerate(groups):
            taps[f"T_{g}"] = T["text_encoder"](T, ids[y, i], heads, **below(w, "text"))["T_i"]
            taps[f"S_{g}"], taps[f"S_hat_{g}"] = T["similarity"](T, taps[f"I_{g}"], taps[f"T_{g}"]).values()
        for s in ("S", "S_hat"):
            taps[s] = T["fuse"](T, torch.stack([taps[f"{s}_{g}"] for g in groups]), alpha)["S"]
        taps |= T["supervised_matrix"](T, y)
        taps |= T["contrastive_loss"](T, taps["S"], taps["W"])
        taps |= T["concat"](T, torch.stack([taps[f"I_{g}"] for g in groups]))
        taps["c_hat"] = T["linear"](T, taps["I"], w["classifier.weight"], w["classifier.bias"])["y"]
        taps |= T["cross_entropy"](T, taps["c_hat"], y)
        taps |= T["total_loss"](T, taps["L_cls"], taps["L_con"], beta)
        grads = dict(zip(w, torch.autograd.grad(taps["L"], list(w.values()), allow_unused=True), strict=True))
        grads = {name: torch.zeros_like(w[name]) if g is None else g for name, g in grads.items()}
        out |= {f"L_step{t + 1}": taps["L"]} if t else taps | {f"grad.{name}": g for name, g in grads.items()}
        for name, g in change(w, grads, t).items():
            w[name], velocity[name] = T["sgd_step"](w[name], velocity.get(name), g, rate, momentum, weight_decay)
    return out | {f"after.{name}": x for name, x in w.items()}


PORT = {f.__name__: f for f in (attention, batch_norm, sgd, image_encoder, text_encoder, contrastive_loss)} | {
    "inference": inference,
    "training": training,
    "sgd_step": sgd_step,
    "read_array": lambda T, a: {f"sum_{axis}": a.sum(axis) for axis in range(3)},
    "band_groups": lambda T, sen1, sen2: {
        f"X_{g}": {"sen1": sen1, "sen2": sen2}[own["sensor"]][..., [b - 1 for b in own["bands"]]]
        for g, own in paper.GROUPS.items()
    },
    "similarity": lambda T, I_i, T_i: {"S_i": (S := F.normalize(I_i) @ F.normalize(T_i).T), "S_hat_i": S.T},
    "fuse": lambda T, S_groups, alpha: {"S": alpha * S_groups.sum(0)},
    "supervised_matrix": lambda T, y: {"W": (y[:, None] == y).long()},
    "bce": lambda T, S, W: {"L": F.binary_cross_entropy_with_logits(S, W.to(S))},
    "concat": lambda T, I_groups: {"I": torch.cat(list(I_groups), 1)},
    "cross_entropy": lambda T, c_hat, c: {"L_cls": F.cross_entropy(c_hat, c)},
    "total_loss": lambda T, L_cls, L_con, beta: {"L": L_cls + beta * L_con},
    "conv2d": lambda T, x, weight, stride, padding: {
        "y": last(F.conv2d(first(x), weight, stride=int(stride), padding=int(padding)))
    },
    "max_pool2d": lambda T, x: {"y": last(F.max_pool2d(first(x), 2))},
    "linear": lambda T, x, weight, bias: {"y": F.linear(x, weight, bias)},
    "layer_norm": lambda T, x, weight, bias: {"y": F.layer_norm(x, x.shape[-1:], weight, bias)},
    "relu": lambda T, x: {"y": F.relu(x)},
    "gelu": lambda T, x: {"y": F.gelu(x)},
    "quick_gelu": lambda T, x: {"y": x * torch.sigmoid(1.702 * x)},
    "statistics": lambda T, x: {"mean": x.mean((0, 1, 2)), "std": x.std((0, 1, 2), correction=0)},
    "standardise": lambda T, x, mean, std: {"y": (x - mean) / torch.where(std == 0, 1.0, std)},
    "predict": lambda T, c_hat: {"y_hat": torch.tensor(np.argmax(c_hat.detach().numpy(), 1))},
}


# ---------------------------------------------------------------- answering and grading


def answer(data, T, dtype):
    """{output: array} of a CASE."""
    case = kit.case_of(data, dtype)
    if case.op in TEXT:
        return reference.as_read(reference.answer(data, reference.PARTS, dtype))
    convert = lambda x: (
        torch.tensor(x, dtype=getattr(torch, dtype)) if isinstance(x, float) else torch.as_tensor(x)
    )
    inputs = {name: convert(x) for name, x in case.inputs.items()}
    leaves = {name: inputs[name].clone().requires_grad_() for name in case.gradients}
    out = T[case.op](T, **(inputs | leaves))
    if leaves:
        try:
            L = sum((out[o] * torch.as_tensor(g)).sum() for o, g in case.cotangents.items())
        except RuntimeError:  # a shape that the cotangent does not fit: the values alone then show it
            return {name: x.detach().numpy() for name, x in out.items()}
        grads = torch.autograd.grad(L, list(leaves.values()), allow_unused=True)
        zero = {name: torch.zeros_like(x) for name, x in leaves.items()}
        out |= {f"grad.{n}": zero[n] if g is None else g for n, g in zip(leaves, grads, strict=True)}
    return {name: x.detach().numpy() for name, x in out.items()}


def everything(dtype):
    return {name: answer(data, PORT, dtype) for name, data in KIT.cases.items()}


def graded(right, op, changes, dtype, **profile):
    """The Report on the port with some entries changed."""
    given, T, affected = dict(right), PORT | changes, {op} | {o for o in OPS if op in rests_on(o)}
    for name, data in KIT.cases.items():
        if data["op"] in affected:
            try:
                given[name] = answer(data, T, dtype)
            except (RuntimeError, IndexError, ValueError):  # a shape that the next layer refuses
                given.pop(name)
    return verdict.report(KIT, Answers(given, []), dtype, profile_of(profile))


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

# ---------------------------------------------------------------- mistakes without a name, and right variants


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


def weighed(of):
    return {"attention": lambda T, *a, **i: attention(T, *a, weigh=of, **i)}


tri = lambda s: torch.ones(s.shape[-1], s.shape[-1], dtype=torch.bool).tril()
masked = lambda s, value=-torch.inf: s.masked_fill(~tri(s), value)


def unshifted(s):
    e = s.exp() * tri(s)
    return e / e.sum(-1, keepdim=True)


def sgd_of(step):
    return {"sgd_step": step}


def trained(change):
    return {"training": lambda T, **i: training(T, change=change, **i)}


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


one = lambda name, f: (name, lambda T, **i: {"y": f(**i)})
layer = lambda op, what, f: (op, what, {op: lambda T, *a, **i: {"y": f(*a, **i)}})
loss = lambda what, f: ("bce", what, {"bce": lambda T, S, W: {"L": f(S, W.to(S))}})
cls = lambda what, f: ("cross_entropy", what, {"cross_entropy": lambda T, c_hat, c: {"L_cls": f(c_hat, c)}})
cos = lambda what, f: ("similarity", what, {"similarity": lambda T, I_i, T_i: f(I_i, T_i)})
both = lambda S: {"S_i": S, "S_hat_i": S.T}
unit = F.normalize
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
    ("image_encoder", "a dead branch", {"image_encoder": lambda T, x, **w: image_encoder(T, x.flip(1), **w)}),
    ("image_encoder", "bn2 used twice", {"image_encoder": lambda T, x, **w: image_encoder(
        T, x, **(w | {"bn1.weight": w["bn2.weight"]}))}),
    ("image_encoder", "GELU", {"image_encoder": lambda T, x, **w: image_encoder(T | {"relu": T["gelu"]}, x, **w)}),
    ("text_encoder", "GELU", {"text_encoder": lambda T, *a, **i: text_encoder(T | {"quick_gelu": T["gelu"]}, *a, **i)}),
    ("text_encoder", "embeddings scaled", {"text_encoder": lambda T, *a, **i: text_encoder(T, *a, scale=2.0, **i)}),
    ("text_encoder", "length minus one", {"text_encoder": lambda T, *a, **i: text_encoder(T, *a, place=lambda ids: (ids != 0).sum(1) - 1, **i)}),
    ("training", "clipped values", trained(lambda w, g, t: {n: x.clamp(-0.01, 0.01) for n, x in g.items()})),
    ("training", "classifier frozen", trained(lambda w, g, t: {n: x for n, x in g.items() if "classifier" not in n})),
    ("training", "text at a tenth", trained(lambda w, g, t: {n: x / (10 if "text" in n else 1) for n, x in g.items()})),
    ("training", "noise", trained(lambda w, g, t: {n: x * (1 + 0.01 * t) for n, x in g.items()})),
    ("statistics", "of rows", {"statistics": lambda T, x: {"mean": x.mean((0, 1, 2)), "std": x.std((0, 1), correction=0).mean(0)}}),
    ("standardise", "eps", {"standardise": lambda T, x, mean, std: {"y": (x - mean) / (std + 1e-6)}}),
    ("predict", "the second", {"predict": lambda T, c_hat: {"y_hat": c_hat.topk(2, 1).indices[:, 1]}}),
]  # fmt: skip


def fft_conv(T, x, weight, stride, padding):
    p, s = int(padding), int(stride)
    x = F.pad(first(x), (p, p, p, p))
    H, W, (kh, kw) = *x.shape[2:], weight.shape[2:]
    product = torch.einsum("bchw,ochw->bohw", torch.fft.rfft2(x), torch.fft.rfft2(weight, (H, W)).conj())
    return {"y": last(torch.fft.irfft2(product, (H, W))[:, :, : H - kh + 1 : s, : W - kw + 1 : s])}


def unfold_conv(T, x, weight, stride, padding):
    p, s, (kh, kw) = int(padding), int(stride), weight.shape[2:]
    H, W = ((n + 2 * p - k) // s + 1 for n, k in zip(x.shape[1:3], (kh, kw), strict=True))
    y = weight.flatten(1) @ F.unfold(first(x), (kh, kw), padding=p, stride=s)
    return {"y": last(y.unflatten(-1, (H, W)))}


def one_pass(T, x, weight, bias):
    var = (x.square().mean(-1, True) - x.mean(-1, True).square()).clamp(min=0)
    return {"y": (x - x.mean(-1, True)) * torch.rsqrt(var + 1e-5) * weight + bias}


def folded(T, x, weight, bias, running_mean, running_var, train):
    out = batch_norm(T, x, weight, bias, running_mean, running_var, train)
    m, v = (x.mean((0, 1, 2)), x.var((0, 1, 2), correction=0)) if train else (running_mean, running_var)
    scale = weight * torch.rsqrt(v + 1e-5)
    return out | {"y": x * scale + (bias - m * scale)}


def bn_one_pass(T, x, weight, bias, running_mean, running_var, train):
    out = batch_norm(T, x, weight, bias, running_mean, running_var, train)
    if not train:
        return out
    m, n = x.mean((0, 1, 2)), x.numel() / x.shape[-1]
    var = (x.square().mean((0, 1, 2)) - m.square()).clamp(min=0)
    y = (x - m) * torch.rsqrt(var + 1e-5) * weight + bias
    return out | {"y": y, "new_running_var": (0.9 * running_var + 0.1 * var * n / (n - 1)).detach()}


def torch_sgd(T, w, gradients, lr, momentum, weight_decay):
    w, ws, vs = w.clone(), [], []
    optimiser = torch.optim.SGD([w], momentum=momentum.item(), weight_decay=weight_decay.item())
    for rate, w.grad in zip(lr.tolist(), gradients, strict=True):
        optimiser.param_groups[0]["lr"], decayed = rate, w.grad + weight_decay * w
        optimiser.step()
        vs.append(optimiser.state[w]["momentum_buffer"].clone() if momentum else decayed)
        ws.append(w.clone())
    return {"w": torch.stack(ws), "v": torch.stack(vs)}


def by_rsqrt(x):
    return x * torch.rsqrt(x.square().sum(1, keepdim=True).clamp(min=1e-24))


RIGHT = [
    ("sgd", "torch.optim.SGD", {"sgd": torch_sgd}),
    ("sgd", "decay beside the product", sgd_of(lambda w, v, g, lr, m, d: (
        w - lr * (x := (d * w if v is None else d * w + m * v) + g), x))),
    layer("linear", "one term after another", lambda x, weight, bias: (
        x[..., None, :] * weight).cumsum(-1)[..., -1] + bias),
    loss("log of sigmoid", lambda S, W: -(W * F.logsigmoid(S) + (1 - W) * F.logsigmoid(-S)).mean()),
    cls("logsumexp", lambda x, c: (x.logsumexp(1) - x.gather(1, c[:, None])[:, 0]).sum() / len(c)),
    cos("one product of rsqrt", lambda a, b: both(by_rsqrt(a) @ by_rsqrt(b).T)),
    cos("cosine_similarity of units", lambda a, b: both(F.linear(unit(a), unit(b)))),
    ("contrastive_loss", "one direction", {"contrastive_loss": lambda T, S, W: {
        "L_i2t": (L := T["bce"](T, S, W)["L"]), "L_t2i": L, "L_con": L}}),
    ("concat", "by copies", {"concat": lambda T, I_groups: {"I": I_groups.transpose(0, 1).flatten(1)}}),
    ("statistics", "channel by channel", {"statistics": lambda T, x: {
        "mean": x.flatten(0, 2).flip(0).sum(0) / x[..., 0].numel(), "std": x.flatten(0, 2).var(0, correction=0).sqrt()}}),
    ("conv2d", "FFT", {"conv2d": fft_conv}),
    ("conv2d", "unfolded", {"conv2d": unfold_conv}),
    ("layer_norm", "one pass", {"layer_norm": one_pass}),
    ("batch_norm", "folded", {"batch_norm": folded}),
    ("batch_norm", "one pass", {"batch_norm": bn_one_pass}),
    ("attention", "plain softmax", weighed(lambda s: masked(s).softmax(-1))),
    ("attention", "mask of -1e30", weighed(lambda s: masked(s, -1e30).softmax(-1))),
    layer("linear", "reversed sums", lambda x, weight, bias: F.linear(x.flip(-1), weight.flip(-1), bias)),
    layer("linear", "einsum", lambda x, weight, bias: torch.einsum("...i,oi->...o", x, weight) + bias),
    layer("relu", "where", lambda x: torch.where(x > 0, x, torch.zeros_like(x))),
    layer("quick_gelu", "tanh", lambda x: x * (1 + torch.tanh(0.851 * x)) / 2),
    layer("gelu", "erfc", lambda x: x * torch.special.erfc(-x / 2**0.5) / 2),
    cos("rsqrt", lambda a, b: both(unit(a).flip(1) @ unit(b).flip(1).T)),
    loss("logsigmoid of the signed score", lambda S, W: -F.logsigmoid((2 * W - 1) * S).mean()),
    loss("logaddexp", lambda S, W: (torch.logaddexp(torch.zeros_like(S), S) - W * S).mean()),
    cls("log_softmax", lambda x, c: -F.log_softmax(x.flip(0), 1)[torch.arange(len(c)), c.flip(0)].mean()),
    (
        "fuse",
        "einsum",
        {"fuse": lambda T, S_groups, alpha: {"S": torch.einsum("gbp->bp", alpha * S_groups.flip(0))}},
    ),
    layer("max_pool2d", "amax", lambda x: first(x).unfold(2, 2, 2).unfold(3, 2, 2).amax((-1, -2)).movedim(1, -1)),
]  # fmt: skip


TRUE_NAMES = {  # what the kit may call a mistake: what it is, in its own words
    ("linear", "weight without gradient"): "zeros for the gradient",
    ("conv2d", "reflect"): "edges repeated for zeros",
    ("conv2d", "x without gradient"): "zeros for the gradient",
    ("batch_norm", "mean not moved"): "an input returned",
    ("similarity", "float texts detached"): "zeros for the gradient",
    ("text_encoder", "GELU"): "quick_gelu: GELU",
    ("image_encoder", "GELU"): "relu: GELU",
    ("relu", "clamp"): "slope 1 at 0",
    ("attention", "mask of -1e4"): "10000 taken off masked scores",
    ("concat", "stacked by pairs"): "the right numbers in another order",
    ("text_encoder", "length minus one"): "as many tokens as ids other than 0",
}


def true_names(op, what):
    """The beginning of each name that is true of a variant."""
    if " of 8 bits" in what:
        return ("rounded as in bfloat16",)
    if " of 11 bits" in what:
        return ("rounded as in float16",)
    return (TRUE_NAMES.get((op, what), "no name is true of it"),)


def tally(dtype, variants, right):
    """(Counter, lines): what was caught, located, misnamed, and the variants for which it was not as it should be."""
    count, lines = Counter(), []
    for op, what, changes in variants:
        r = graded(right, op, changes, dtype)
        fault = [f for f in r.findings if f.state in ("guilty", "drift")]
        names = {name for f in fault for name in f.names}
        caught = r.exit_code != 0
        located = caught and fault and {f.op for f in fault} == {op}
        misnamed = {name for name in names if not name.startswith(true_names(op, what))}
        found = {"caught": caught, "located": bool(located), "named": bool(names), "misnamed": bool(misnamed)}
        count.update({"all": 1} | found)
        if caught != (variants is not RIGHT) or (caught and not located) or misnamed:
            lines.append(
                f"{op}: {what}: { {k: v for k, v in found.items() if k != 'named'} } {[(f.op, f.output) for f in fault][:3]} {sorted(names)}"
            )
    return count, lines


if __name__ == "__main__":
    dtype = sys.argv[1]
    right = everything(dtype)
    print(verdict.report(KIT, Answers(right, []), dtype))
    for title, variants in (("wrong", WRONG), ("precision", PRECISION + PRODUCTS), ("right", RIGHT)):
        count, lines = tally(dtype, variants, right)
        print(title, dict(count), *lines, sep="\n  ")

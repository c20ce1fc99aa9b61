# ruff: noqa: E501
"""A port of BP-LCZ to PyTorch that the kit has never seen, its right variants, and mistakes that real ports contain.

`PORT` is {operation: function of tensors}. What is made of other operations asks the table for them, as one program
would, so that another form of one shows wherever it is used. A variant is (operation, what, {entry: function}):

    RIGHT    other orders of summation, formulas, layouts: they have to pass in both dtypes
    WRONG    mistakes; where the kit has a name for one, "what" is that name, and no other may be said
    NAMED    options of PyTorch's own functions for other readings: these have to be named
    PRODUCTS    matrix products with fewer bits
"""

from collections import Counter

import numpy as np
import torch
import torch.overrides
from torch.nn import functional as F

from bplcz_ref import paper
from bplcz_ref.conform import verdict
from bplcz_ref.conform.exchange import Answers, load
from bplcz_ref.conform.ops import OPS, rests_on, worked_out

first, last = (lambda x: x.movedim(-1, 1)), (lambda x: x.movedim(1, -1))
TEXT = ("prompt", "pre_tokens", "tokenize", "split", "metrics")  # no tensors: the package answers


def attention(T, x, heads, weigh=None, after=lambda y: y, options=(("is_causal", True),), **p):
    qkv = T["linear"](T, x, p["in_proj_weight"], p["in_proj_bias"])["y"].unflatten(-1, (3, int(heads), -1))
    q, k, v = qkv.permute(2, 0, 3, 1, 4)
    if weigh is None:
        y = F.scaled_dot_product_attention(q, k, v, **dict(options))
    else:
        y = weigh(q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5) @ v
    return {"y": after(T["linear"](T, y.transpose(1, 2).flatten(2), p["out_weight"], p["out_bias"])["y"])}


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


def contrastive_loss(T, S, W):
    a, b = T["bce"](T, S, W)["L"], T["bce"](T, S.T, W)["L"]
    return {"L_i2t": a, "L_t2i": b, "L_con": (a + b) / 2}


PORT = {f.__name__: f for f in (attention, batch_norm, sgd, contrastive_loss)} | {
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


def answer(case, T, dtype):
    """{output: array} of a case."""
    if case.op in TEXT:
        return worked_out(OPS[case.op].run, case, dtype)
    floats = getattr(torch, dtype)

    def convert(x):
        x = torch.as_tensor(x, dtype=floats if isinstance(x, float) else None)
        return x.to(floats) if x.is_floating_point() else x

    inputs = {name: convert(x) for name, x in case.inputs.items()}
    leaves = {name: inputs[name].clone().requires_grad_() for name in case.slopes}
    out = T[case.op](T, **(inputs | leaves))
    if leaves:
        try:
            L = sum((out[o] * convert(g)).sum() for o, g in case.cotangents.items())
        except RuntimeError:  # a shape that the cotangent does not fit: the values alone then show it
            return {name: x.detach().numpy() for name, x in out.items()}
        grads = torch.autograd.grad(L, list(leaves.values()), allow_unused=True)
        zero = {name: torch.zeros_like(x) for name, x in leaves.items()}
        out |= {f"grad.{n}": zero[n] if g is None else g for n, g in zip(leaves, grads, strict=True)}
    return {name: x.detach().numpy() for name, x in out.items()}


def graded(op, changes, dtype, seed=0, called=None):
    """The Report on the port with some entries changed; `called` is another dtype that it is declared to be of."""
    T, affected = PORT | changes, {op} | {o for o in OPS if op in rests_on(o)}
    cases = [case for case in load(seed) if case.op in affected]
    given = {}
    for case in cases:
        try:
            given[case.id] = answer(case, T, dtype)
        except (RuntimeError, IndexError, ValueError):  # a shape that the next layer refuses
            continue
    return verdict.report(cases, Answers(given, called or dtype, seed))


# ---------------------------------------------------------------- variants: (operation, what, {entry: function})

tri = lambda s: torch.ones(s.shape[-1], s.shape[-1], dtype=torch.bool).tril()
masked = lambda s, value=-torch.inf: s.masked_fill(~tri(s), value)
layer = lambda op, what, f: (op, what, {op: lambda T, *a, **i: {"y": f(*a, **i)}})
loss = lambda what, f: ("bce", what, {"bce": lambda T, S, W: {"L": f(S, W.to(S))}})
cls = lambda what, f: ("cross_entropy", what, {"cross_entropy": lambda T, c_hat, c: {"L_cls": f(c_hat, c)}})
cos = lambda what, f: ("similarity", what, {"similarity": lambda T, I_i, T_i: f(I_i, T_i)})
both = lambda S: {"S_i": S, "S_hat_i": S.T}
unit = F.normalize


def weighed(of):
    return {"attention": lambda T, *a, **i: attention(T, *a, weigh=of, **i)}


def in_double(x, weight, bias):
    """Products added up in float64 and rounded once."""
    return F.linear(x.double(), weight.double(), bias.double()).to(x)


def unfold_conv(T, x, weight, stride, padding):
    p, s, (kh, kw) = int(padding), int(stride), weight.shape[2:]
    H, W = ((n + 2 * p - k) // s + 1 for n, k in zip(x.shape[1:3], (kh, kw), strict=True))
    y = weight.flatten(1) @ F.unfold(first(x), (kh, kw), padding=p, stride=s)
    return {"y": last(y.unflatten(-1, (H, W)))}


def winograd_conv(T, x, weight, stride, padding):
    """F(2 x 2, 3 x 3) where it applies: 16 products for 4 pixels in place of 36."""
    p, (kh, kw) = int(padding), weight.shape[2:]
    H, W = x.shape[1] + 2 * p - 2, x.shape[2] + 2 * p - 2
    if (int(stride), kh, kw) != (1, 3, 3):
        return PORT["conv2d"](T, x, weight, stride, padding)
    B = torch.tensor([[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1.0]]).to(x)
    G = torch.tensor([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1.0]]).to(x)
    A = torch.tensor([[1, 1, 1, 0], [0, 1, -1, -1.0]]).to(x)
    tiles = F.pad(first(x), (p, p + W % 2, p, p + H % 2)).unfold(2, 4, 2).unfold(3, 4, 2)
    y = torch.einsum("ocuv,bcijuv->boijuv", G @ weight @ G.T, B @ tiles @ B.T)
    y = (A @ y @ A.T).permute(0, 1, 2, 4, 3, 5).flatten(4, 5).flatten(2, 3)
    return {"y": last(y[:, :, :H, :W])}


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


def of_module(T, x, in_proj_weight, in_proj_bias, out_weight, out_bias, heads):
    """torch.nn.functional.multi_head_attention_forward, as torch.nn.MultiheadAttention calls it: tokens first."""
    x, unseen = x.transpose(0, 1), ~torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).tril()
    y, _ = F.multi_head_attention_forward(
        x, x, x, x.shape[-1], int(heads), in_proj_weight, in_proj_bias, None, None, False, 0.0, out_weight, out_bias,
        attn_mask=unseen, need_weights=False,
    )  # fmt: skip
    return {"y": y.transpose(0, 1)}


def online(s):
    """The softmax in blocks of two keys with a running largest, as flash attention has it."""
    s, largest, total = masked(s), torch.full_like(s[..., :1], -torch.inf), torch.zeros_like(s[..., :1])
    for block in s.split(2, -1):
        new = torch.maximum(largest, block.detach().amax(-1, keepdim=True))
        total = total * (largest - new).exp() + (block - new).exp().sum(-1, keepdim=True)
        largest = new
    return (s - largest).exp() / total


def torch_sgd(T, w, gradients, lr, momentum, weight_decay, **how):
    w, ws, vs = w.clone(), [], []
    how = how if momentum else {}
    optimiser = torch.optim.SGD([w], momentum=momentum.item(), weight_decay=weight_decay.item(), **how)
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
    layer("linear", "one term after another", lambda x, weight, bias: (
        x[..., None, :] * weight).cumsum(-1)[..., -1] + bias),
    loss("log of sigmoid", lambda S, W: -(W * F.logsigmoid(S) + (1 - W) * F.logsigmoid(-S)).mean()),
    cls("logsumexp", lambda x, c: (x.logsumexp(1) - x.gather(1, c[:, None])[:, 0]).sum() / len(c)),
    cos("one product of rsqrt", lambda a, b: both(by_rsqrt(a) @ by_rsqrt(b).T)),
    ("contrastive_loss", "one direction", {"contrastive_loss": lambda T, S, W: {
        "L_i2t": (L := T["bce"](T, S, W)["L"]), "L_t2i": L, "L_con": L}}),
    ("statistics", "channel by channel", {"statistics": lambda T, x: {
        "mean": x.flatten(0, 2).flip(0).sum(0) / x[..., 0].numel(), "std": x.flatten(0, 2).var(0, correction=0).sqrt()}}),
    ("conv2d", "unfolded", {"conv2d": unfold_conv}),
    ("layer_norm", "one pass", {"layer_norm": one_pass}),
    ("batch_norm", "folded", {"batch_norm": folded}),
    ("batch_norm", "one pass", {"batch_norm": bn_one_pass}),
    ("attention", "plain softmax", weighed(lambda s: masked(s).softmax(-1))),
    ("attention", "mask of -1e30", weighed(lambda s: masked(s, -1e30).softmax(-1))),
    layer("relu", "where", lambda x: torch.where(x > 0, x, torch.zeros_like(x))),
    layer("quick_gelu", "tanh", lambda x: x * (1 + torch.tanh(0.851 * x)) / 2),
    layer("gelu", "erfc", lambda x: x * torch.special.erfc(-x / 2**0.5) / 2),
    ("fuse", "einsum", {"fuse": lambda T, S_groups, alpha: {"S": torch.einsum("gbp->bp", alpha * S_groups.flip(0))}}),
    layer("linear", "in float64, rounded once", in_double),
    ("conv2d", "Winograd", {"conv2d": winograd_conv}),
    ("attention", "torch.nn.MultiheadAttention", {"attention": of_module}),
    ("attention", "online softmax", weighed(online)),
    ("standardise", "times the inverse", {"standardise": lambda T, x, mean, std: {
        "y": x * (scale := 1 / torch.where(std == 0, 1.0, std)) - mean * scale}}),
    cos("one product of lengths", lambda a, b: both(a @ b.T / (
        a.norm(dim=1).clamp(min=1e-12)[:, None] * b.norm(dim=1).clamp(min=1e-12)))),
    loss("softplus", lambda S, W: F.softplus((1 - 2 * W) * S, threshold=40).mean()),
    loss("maximum and log1p", lambda S, W: (torch.maximum(S, 0 * S) - S * W + torch.log1p((-S.abs()).exp())).mean()),
    cls("one-hot product", lambda x, c: -(F.one_hot(c, x.shape[1]) * x.log_softmax(1)).sum() / len(c)),
    ("total_loss", "addcmul", {"total_loss": lambda T, L_cls, L_con, beta: {"L": torch.addcmul(L_cls, L_con, beta)}}),
    layer("max_pool2d", "amax", lambda x: first(x).unfold(2, 2, 2).unfold(3, 2, 2).amax((-1, -2)).movedim(1, -1)),
]  # fmt: skip


def tf32(name):
    """An operation of the port whose matrix products have rounded factors, in the backward pass too."""

    def run(T, *args, **inputs):
        with ShortProducts():
            return PORT[name](T, *args, **inputs)

    return run


def short(x):
    """x in 11 bits; its gradient passes."""
    mantissa, exponent = torch.frexp(x.detach())
    return x + (torch.ldexp(torch.round(mantissa * 2.0**11), exponent - 11).to(x.dtype) - x.detach())


class ShortProducts(torch.overrides.TorchFunctionMode):
    """In it, the factors of matrix products have 11 bits, as in TF32."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if getattr(function, "__name__", "") not in ("matmul", "__matmul__", "linear", "conv2d"):
            return function(*args, **(kwargs or {}))
        y = function(*map(short, args[:2]), *args[2:], **(kwargs or {}))
        if y.requires_grad:
            y.register_hook(short)
        return y


PRODUCTS = [(op, {op: tf32(op)}) for op in ("linear", "conv2d", "similarity")]


# ---------------------------------------------------------------- mistakes


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
    layer("linear", "grad.weight and grad.bias divided by axis 0 of x", lambda x, weight, bias: Mean.apply(x, weight, bias)),
    layer("linear", "bias doubled", lambda x, weight, bias: F.linear(x, weight, 2 * bias)),
    layer("linear", "weight without gradient", lambda x, weight, bias: F.linear(x, weight.detach(), bias)),
    ("conv2d", "edges repeated for zeros", {"conv2d": padded("replicate")}),
    ("conv2d", "dilated", {"conv2d": conv(dilation=2)}),
    ("conv2d", "stride for columns alone", {"conv2d": lambda T, x, weight, stride, padding: {
        "y": last(F.conv2d(first(x), weight, stride=(1, int(stride)), padding=int(padding)))}}),
    ("conv2d", "padding for rows alone", {"conv2d": lambda T, x, weight, stride, padding: {
        "y": last(F.conv2d(first(x), weight, stride=int(stride), padding=(int(padding), 0)))}}),
    ("conv2d", "weight reversed along its third axis", {"conv2d": lambda T, x, weight, stride, padding: PORT["conv2d"](
        T, x, weight.flip(2), stride, padding)}),
    ("conv2d", "x without gradient", {"conv2d": lambda T, x, weight, stride, padding: PORT["conv2d"](
        T, x.detach(), weight, stride, padding)}),
    ("batch_norm", "eps 1e-4", {"batch_norm": lambda T, *a, **i: batch_norm(T, *a, eps=1e-4, **i)}),
    ("batch_norm", "mean without gradient", {"batch_norm": bn(lambda o, x, w, b, m, v, t: {
        "y": (x - x.mean((0, 1, 2)).detach()) / (x.var((0, 1, 2), correction=0) + 1e-5).sqrt() * w + b} if t else {})}),
    layer("layer_norm", "eps 1e-7", lambda x, weight, bias: F.layer_norm(x, x.shape[-1:], weight, bias, 1e-7)),
    layer("layer_norm", "mean without gradient", lambda x, weight, bias: (x - x.mean(-1, True).detach()) / (
        x.var(-1, correction=0, keepdim=True) + 1e-5).sqrt() * weight + bias),
    layer("layer_norm", "the bias before the weight", lambda x, weight, bias: (
        F.layer_norm(x, x.shape[-1:]) + bias) * weight),
    layer("relu", "leaky 0.2", lambda x: F.leaky_relu(x, 0.2)),
    layer("relu", "slope 1 at 0", lambda x: x.clamp(min=0)),
    layer("relu", "straight through", lambda x: x + (F.relu(x) - x).detach()),
    layer("max_pool2d", "3 by 3", lambda x: last(F.max_pool2d(first(x), 3, 2, 1))),
    layer("max_pool2d", "rows alone", lambda x: last(F.max_pool2d(first(x), (2, 1)))),
    layer("max_pool2d", "the first pixel", lambda x: x[:, : x.shape[1] // 2 * 2 : 2, : x.shape[2] // 2 * 2 : 2]),
    layer("gelu", "a hard gate", lambda x: F.hardswish(x)),
    layer("gelu", "0.7 for 1 / sqrt 2", lambda x: x * (1 + torch.erf(0.7 * x)) / 2),
    layer("quick_gelu", "1.704", lambda x: x * torch.sigmoid(1.704 * x)),
    layer("quick_gelu", "e^x overflows", lambda x: x * (1.702 * x).exp() / (1 + (1.702 * x).exp())),
    ("attention", "unshifted", weighed(unshifted)),
    ("attention", "10000 taken off masked scores", weighed(lambda s: (s - 1e4 * ~tri(s)).softmax(-1))),
    ("attention", "a window of 2", weighed(lambda s: masked(s).masked_fill(tri(s).tril(-2), -torch.inf).softmax(-1))),
    ("attention", "probabilities without gradient", weighed(lambda s: masked(s).softmax(-1).detach())),
    ("attention", "clipped scores", weighed(lambda s: masked(s.clamp(-5, 5)).softmax(-1))),
    ("attention", "y doubled", {"attention": lambda T, *a, **i: attention(T, *a, after=lambda y: 2 * y, **i)}),
    cos("eps 1e-10", lambda a, b: both(unit(a, eps=1e-10) @ unit(b, eps=1e-10).T)),
    cos("L1", lambda a, b: both(unit(a, p=1) @ unit(b, p=1).T)),
    cos("product of norms bounded", lambda a, b: both(a @ b.T / (
        a.norm(dim=1)[:, None] * b.norm(dim=1)).clamp(min=1e-8))),
    cos("clipped at 0.99", lambda a, b: both((unit(a) @ unit(b).T).clamp(-0.5, 0.5))),
    cos("T_i without gradient", lambda a, b: both(unit(a) @ unit(b).T.detach())),
    ("fuse", "the largest of the groups", {"fuse": lambda T, S_groups, alpha: {"S": alpha * S_groups.max(0).values}}),
    ("fuse", "root of n", {"fuse": lambda T, S_groups, alpha: {"S": alpha * S_groups.sum(0) / len(S_groups) ** 0.5}}),
    ("supervised_matrix", "above the diagonal", {"supervised_matrix": lambda T, y: {"W": (y[:, None] == y).long().triu()}}),
    ("supervised_matrix", "of remainders", {"supervised_matrix": lambda T, y: {"W": (y[:, None] % 8 == y % 8).long()}}),
    loss("clamped p", lambda S, W: F.binary_cross_entropy(p_of(S).clamp(1e-6, 1 - 1e-6), W)),
    loss("naive", lambda S, W: (torch.log(1 + S.exp()) - S * W).mean()),
    loss("slope 0 at S = 0 of relu and of abs", lambda S, W: (F.relu(S) - S * W + torch.log1p((-S.abs()).exp())).mean()),
    loss("hinge", lambda S, W: F.relu(1 - (2 * W - 1) * S).mean()),
    loss("pos_weight 2", lambda S, W: F.binary_cross_entropy_with_logits(S, W, pos_weight=torch.tensor(2.0).to(S))),
    loss("smoothed 0.05", lambda S, W: F.binary_cross_entropy_with_logits(S, 0.95 * W + 0.025)),
    ("contrastive_loss", "L_t2i without gradient", {"contrastive_loss": lambda T, S, W: (o := contrastive_loss(T, S, W)) | {
        "L_t2i": o["L_t2i"].detach()}}),
    ("concat", "I_groups rolled by one", {"concat": lambda T, I_groups: {"I": torch.cat(list(I_groups.roll(1, 0)), 1)}}),
    ("concat", "I and grad.I_groups divided by axis 0 of I_groups", {"concat": lambda T, I_groups: {"I": torch.cat(list(I_groups), 1) / len(I_groups)}}),
    cls("smoothing 0.05", lambda x, c: F.cross_entropy(x, c, label_smoothing=0.05)),
    cls("last class ignored", lambda x, c: F.cross_entropy(x, c, ignore_index=x.shape[1] - 1)),
    cls("naive", lambda x, c: (x.exp().sum(1).log() - x[torch.arange(len(c)), c]).mean()),
    cls("nll of a sigmoid", lambda x, c: F.nll_loss(F.logsigmoid(x), c)),
    cls("L_cls halved", lambda x, c: F.cross_entropy(x, c) / 2),
    ("total_loss", "beta its root", {"total_loss": lambda T, L_cls, L_con, beta: {"L": L_cls + beta**0.5 * L_con}}),
    ("total_loss", "beta inverted", {"total_loss": lambda T, L_cls, L_con, beta: {"L": L_cls + L_con / beta}}),
    ("sgd", "decay on the new w", {"sgd_step": lambda w, v, g, lr, m, d: (
        (x := sgd_step(w, v, g, lr, m, 0 * d))[0] * (1 - lr * d), x[1])}),
    ("sgd", "gradients by its sign", {"sgd_step": lambda w, v, g, lr, m, d: sgd_step(w, v, g.sign(), lr, m, d)}),
    ("sgd", "v in w", {"sgd_step": lambda w, v, g, lr, m, d: (
        (x := sgd_step(w, v, g, lr, m, d))[0], x[1] + 0.01 * w)}),
    ("sgd", "first step without momentum's decay", {"sgd_step": lambda w, v, g, lr, m, d: sgd_step(w, v, g, lr, m, d * (v is not None))}),
    ("statistics", "of rows", {"statistics": lambda T, x: {"mean": x.mean((0, 1, 2)), "std": x.std((0, 1), correction=0).mean(0)}}),
    ("standardise", "eps", {"standardise": lambda T, x, mean, std: {"y": (x - mean) / (std + 1e-6)}}),
    ("predict", "the second", {"predict": lambda T, c_hat: {"y_hat": c_hat.topk(2, 1).indices[:, 1]}}),
]  # fmt: skip


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
        false = [name for name in names if name not in what.split(" | ")]
        found = {"caught": caught, "located": located, "named": bool(names), "misnamed": bool(false)}
        count.update({"all": 1} | found)
        if caught != (variants is not RIGHT) or caught != located or false:
            lines.append(f"{op}: {what}: caught {caught}, guilty {fault}, named {names}\n{r}")
    return count, lines


def causal(**options):
    return {"attention": lambda T, *a, **i: attention(T, *a, options={"is_causal": True} | options, **i)}


NAMED = [
    loss("sum for mean", lambda S, W: F.binary_cross_entropy_with_logits(S, W, reduction="sum")),
    loss("of probabilities in float32, as by torch.nn.BCELoss", lambda S, W: F.binary_cross_entropy(p_of(S), W)),
    loss("log(p + 1e-8)", lambda S, W: -(W * (p_of(S) + 1e-8).log() + (1 - W) * (1 - p_of(S) + 1e-8).log()).mean()),
    loss("probabilities kept 1e-7 from 0 and 1, as in Keras", lambda S, W: F.binary_cross_entropy(
        p_of(S).clamp(1e-7, 1 - 1e-7), W)),
    cos("normalised over the batch", lambda a, b: both(unit(a, dim=0) @ unit(b, dim=0).T)),
    cos("no bound below the norm", lambda a, b: both(unit(a, eps=0.0) @ unit(b, eps=0.0).T)),
    cls("sum for mean", lambda x, c: F.cross_entropy(x, c, reduction="sum")),
    cls("labels smoothed by 0.1", lambda x, c: F.cross_entropy(x, c, label_smoothing=0.1)),
    cls("a softmax before the cross-entropy", lambda x, c: F.cross_entropy(x.softmax(1), c)),
    ("sgd", "Nesterov", {"sgd": lambda T, **i: torch_sgd(T, nesterov=True, **i)}),
    ("sgd", "(1 - momentum) on later gradients", {"sgd": lambda T, **i: torch_sgd(T, dampening=i["momentum"].item(), **i)}),
    ("conv2d", "weight turned by 180 degrees in its last two axes", {"conv2d": lambda T, weight, **i: PORT["conv2d"](
        T, weight=weight.flip(2, 3), **i)}),
    ("batch_norm", "running statistics by a share of 0.9", {"batch_norm": lambda T, **i: batch_norm(T, momentum=0.9, **i)}),
    ("batch_norm", "eps 0.001", {"batch_norm": lambda T, **i: batch_norm(T, eps=1e-3, **i)}),
    layer("layer_norm", "eps 0.001", lambda x, weight, bias: F.layer_norm(x, x.shape[-1:], weight, bias, 1e-3)),
    layer("gelu", "tanh approximation", lambda x: F.gelu(x, approximate="tanh")),
    layer("max_pool2d", "average", lambda x: last(F.avg_pool2d(first(x), 2))),
    layer("relu", "slope 0.01 below 0", lambda x: F.leaky_relu(x)),
    ("attention", "no mask", causal(is_causal=False)),
    ("attention", "1 / sqrt(d) left out", causal(scale=1.0)),
]  # fmt: skip

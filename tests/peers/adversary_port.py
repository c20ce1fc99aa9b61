# ruff: noqa: E501
"""A port of BP-LCZ to PyTorch, a consumer of the kit whose operations can be exchanged, its grading, and its RIGHT
variants: other orders of summation, other formulas of the same values, other layouts, threads.

`PORT` is {operation: function of tensors}. What is made of other operations asks the table for them, as one
program would, so that another form of one shows wherever it is used. RIGHT has to pass in both dtypes.
"""

from functools import reduce

import numpy as np
import torch
from torch.nn import functional as F

from bplcz_ref import paper
from bplcz_ref.conform import verdict
from bplcz_ref.conform.exchange import Answers, load
from bplcz_ref.conform.ops import OPS, rests_on, worked_out

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
    mask=False,
):
    qkv = T["linear"](T, x, in_proj_weight, in_proj_bias)["y"].unflatten(-1, (groups, int(heads), -1))
    q, k, v = qkv.permute(2, 0, 3, 1, 4)
    if mask:
        y = F.scaled_dot_product_attention(
            q, k, v, attn_mask=torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).tril()
        )
    elif weigh is None:
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


# ---------------------------------------------------------------- answering and grading


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


def sgd_of(step):
    return {"sgd_step": step}


# ---------------------------------------------------------------- sums and products


def pairwise(x):
    """The sum over the last axis, of halves."""
    n = x.shape[-1]
    return x[..., 0] if n == 1 else pairwise(x[..., : n // 2]) + pairwise(x[..., n // 2 :])


def kahan(x):
    """The sum over the last axis with what each addition has lost."""
    total = lost = torch.zeros_like(x[..., 0])
    for term in x.unbind(-1):
        term = term - lost
        new = total + term
        total, lost = new, ((new - total) - term).detach()
    return total


def blocked(x, size=3):
    """The sum over the last axis, of the sums of blocks."""
    return sum(block.sum(-1) for block in x.split(size, -1))


def summed_by(total):
    return lambda x, weight, bias: total(x[..., None, :] * weight) + bias


def in_double(x, weight, bias):
    """Products added up in float64 and rounded once."""
    return F.linear(x.double(), weight.double(), bias.double()).to(x)


# ---------------------------------------------------------------- convolutions


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


def taps_conv(T, x, weight, stride, padding):
    """A sum over the taps from the last to the first, of weights laid out (kh, kw, C, O)."""
    p, s = int(padding), int(stride)
    x, w = F.pad(x, (0, 0, p, p, p, p)), weight.permute(2, 3, 1, 0).contiguous()
    H, W = ((n - k) // s + 1 for n, k in zip(x.shape[1:3], w.shape[:2], strict=True))
    at = lambda n, k: slice(k, k + s * (n - 1) + 1, s)
    taps = [(u, v) for u in range(w.shape[0]) for v in range(w.shape[1])][::-1]
    return {"y": sum(x[:, at(H, u), at(W, v)] @ w[u, v] for u, v in taps)}


def channels_last_conv(T, x, weight, stride, padding):
    layout = {"memory_format": torch.channels_last}
    x, weight = first(x).contiguous(**layout), weight.contiguous(**layout)
    return {"y": last(F.conv2d(x, weight, stride=int(stride), padding=int(padding)))}


# ---------------------------------------------------------------- norms


def by_variance(T, x, weight, bias):
    var, mean = torch.var_mean(x, -1, correction=0, keepdim=True)
    return {"y": (x - mean) * torch.rsqrt(var + 1e-5) * weight + bias}


def bn_by_rsqrt(T, x, weight, bias, running_mean, running_var, train):
    """By rsqrt, the scale folded into the weight; the running statistics moved by lerp."""
    if not train:
        y = (x - running_mean) * (weight * torch.rsqrt(running_var + 1e-5)) + bias
        return {"y": y, "new_running_mean": running_mean, "new_running_var": running_var}
    mean, n = x.mean((0, 1, 2)), x.numel() / x.shape[-1]
    var = (x - mean).square().mean((0, 1, 2))
    moved = {
        "new_running_mean": running_mean.lerp(mean, 0.1),
        "new_running_var": running_var.lerp(var * n / (n - 1), 0.1),
    }
    y = torch.addcmul(bias, x - mean, weight * torch.rsqrt(var + 1e-5))
    return {"y": y} | {name: a.detach() for name, a in moved.items()}


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


# ---------------------------------------------------------------- attention


def of_module(T, x, in_proj_weight, in_proj_bias, out_weight, out_bias, heads):
    """torch.nn.functional.multi_head_attention_forward, as torch.nn.MultiheadAttention calls it: tokens first."""
    x, unseen = x.transpose(0, 1), ~torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).tril()
    y, _ = F.multi_head_attention_forward(
        x, x, x, x.shape[-1], int(heads), in_proj_weight, in_proj_bias, None, None, False, 0.0, out_weight, out_bias,
        attn_mask=unseen, need_weights=False,
    )  # fmt: skip
    return {"y": y.transpose(0, 1)}


def by_logsumexp(s):
    return (masked(s) - masked(s).logsumexp(-1, keepdim=True)).exp()


def online(s):
    """The softmax in blocks of two keys with a running largest, as flash attention has it."""
    s, largest, total = masked(s), torch.full_like(s[..., :1], -torch.inf), torch.zeros_like(s[..., :1])
    for block in s.split(2, -1):
        new = torch.maximum(largest, block.detach().amax(-1, keepdim=True))
        total = total * (largest - new).exp() + (block - new).exp().sum(-1, keepdim=True)
        largest = new
    return (s - largest).exp() / total


def scaled_before(T, x, in_proj_weight, in_proj_bias, out_weight, out_bias, heads):
    """q and k each multiplied by d^(-1/4); weights transposed; heads one by one."""
    W, d = x.shape[-1], x.shape[-1] // int(heads)
    q, k, v = (x @ in_proj_weight.T.contiguous() + in_proj_bias).split(W, -1)
    q, k, out = q * d**-0.25, k * d**-0.25, []
    for part in (slice(h * d, h * d + d) for h in range(int(heads))):
        out.append(masked(q[..., part] @ k[..., part].transpose(1, 2)).softmax(-1) @ v[..., part])
    return {"y": torch.addmm(out_bias, torch.cat(out, -1).flatten(0, 1), out_weight.T).unflatten(0, x.shape[:2])}


# ---------------------------------------------------------------- encoders, SGD, the rest


def threaded(op):
    """An operation of the port in two threads."""

    def run(T, *args, **inputs):
        before = torch.get_num_threads()
        torch.set_num_threads(2)
        try:
            return PORT[op](T, *args, **inputs)
        finally:
            torch.set_num_threads(before)

    return op, "two threads", {op: run}


def merged(x):
    """Mean and spread of the samples one after another, merged as by Chan, Golub and LeVeque."""
    n, mean, M2 = 0, 0.0, 0.0
    for sample in x.flatten(1, 2):
        m = len(sample)
        step = sample.mean(0) - mean
        M2 = M2 + (sample - sample.mean(0)).square().sum(0) + step.square() * n * m / (n + m)
        mean, n = mean + step * m / (n + m), n + m
    return {"mean": mean, "std": (M2 / n).sqrt()}


def of_norms(a, b):
    length = lambda x: x.norm(dim=1, keepdim=True).clamp(min=1e-12)
    return both(a / length(a) @ (b / length(b)).T)


def torch_sgd(T, w, gradients, lr, momentum, weight_decay, **how):
    w, ws, vs = w.clone(), [], []
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
    layer("linear", "pairwise sums", summed_by(pairwise)),
    layer("linear", "Kahan's sums", summed_by(kahan)),
    layer("linear", "sums of blocks", summed_by(blocked)),
    layer("linear", "in float64, rounded once", in_double),
    layer("linear", "bias in the product, weight transposed", lambda x, weight, bias: torch.addmm(
        bias, x.flatten(0, -2), weight.T.contiguous()).unflatten(0, x.shape[:-1])),
    threaded("linear"),
    threaded("conv2d"),
    ("conv2d", "Winograd", {"conv2d": winograd_conv}),
    ("conv2d", "tap by tap, weight (kh, kw, C, O)", {"conv2d": taps_conv}),
    ("conv2d", "channels-last in memory", {"conv2d": channels_last_conv}),
    ("layer_norm", "rsqrt of var_mean", {"layer_norm": by_variance}),
    ("batch_norm", "rsqrt, folded weight, lerp", {"batch_norm": bn_by_rsqrt}),
    ("attention", "torch.nn.MultiheadAttention", {"attention": of_module}),
    ("attention", "SDPA with a mask of booleans", {"attention": lambda T, *a, **i: attention(T, *a, mask=True, **i)}),
    ("attention", "logsumexp", weighed(by_logsumexp)),
    ("attention", "online softmax", weighed(online)),
    ("attention", "scaled before the product, head by head", {"attention": scaled_before}),
    ("sgd", "torch.optim.SGD, foreach", {"sgd": lambda T, *a, **i: torch_sgd(T, *a, foreach=True, **i)}),
    ("sgd", "torch.optim.SGD, fused", {"sgd": lambda T, *a, **i: torch_sgd(T, *a, fused=True, **i)}),
    ("statistics", "sample by sample", {"statistics": lambda T, x: merged(x)}),
    ("standardise", "times the inverse", {"standardise": lambda T, x, mean, std: {
        "y": x * (scale := 1 / torch.where(std == 0, 1.0, std)) - mean * scale}}),
    cos("lengths by norm", of_norms),
    cos("one product of lengths", lambda a, b: both(a @ b.T / (
        a.norm(dim=1).clamp(min=1e-12)[:, None] * b.norm(dim=1).clamp(min=1e-12)))),
    ("fuse", "Kahan's sums", {"fuse": lambda T, S_groups, alpha: {"S": alpha * kahan(S_groups.movedim(0, -1))}}),
    ("fuse", "one after another", {"fuse": lambda T, S_groups, alpha: {"S": sum(alpha * S for S in S_groups)}}),
    loss("softplus", lambda S, W: F.softplus((1 - 2 * W) * S, threshold=40).mean()),
    loss("maximum and log1p", lambda S, W: (torch.maximum(S, 0 * S) - S * W + torch.log1p((-S.abs()).exp())).mean()),
    loss("sums of rows", lambda S, W: F.binary_cross_entropy_with_logits(S, W, reduction="none").sum(1).sum(0) / S.numel()),
    cls("logaddexp of one class after another", lambda x, c: (
        reduce(torch.logaddexp, x.unbind(1)) - x.gather(1, c[:, None])[:, 0]).mean()),
    cls("of differences to the class", lambda x, c: (x - x.gather(1, c[:, None])).logsumexp(1).mean()),
    cls("one-hot product", lambda x, c: -(F.one_hot(c, x.shape[1]) * x.log_softmax(1)).sum() / len(c)),
    ("total_loss", "addcmul", {"total_loss": lambda T, L_cls, L_con, beta: {"L": torch.addcmul(L_cls, L_con, beta)}}),
    layer("gelu", "x times ndtr", lambda x: x * torch.special.ndtr(x)),
    layer("quick_gelu", "silu", lambda x: F.silu(1.702 * x) / 1.702),
    layer("relu", "threshold", lambda x: F.threshold(x, 0.0, 0.0)),
    layer("max_pool2d", "rows, then columns", lambda x: last(F.max_pool2d(F.max_pool2d(first(x), (2, 1)), (1, 2)))),
    layer("max_pool2d", "amax", lambda x: first(x).unfold(2, 2, 2).unfold(3, 2, 2).amax((-1, -2)).movedim(1, -1)),
]  # fmt: skip

"""A port of BP-LCZ to PyTorch, a consumer of the kit whose operations can be exchanged, and its grading.

`PORT` is {operation: function of tensors}. What is made of other operations asks the table for them, as one
program would, so that another form of one shows wherever it is used.
"""

import numpy as np
import torch
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

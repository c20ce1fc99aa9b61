"""Answers the conformance kit with PyTorch's own layers, optimiser and autograd, in float32.

Usage: python examples/conform_pytorch.py SET.json ANSWERS.json
conform_text.py beside it answers for texts.
"""

import json
import sys
from pathlib import Path

import torch
from conform_text import pre_tokens, prompter, tokenizer
from torch.nn import functional as F

given, out = json.loads(Path(sys.argv[1]).read_bytes()), Path(sys.argv[2])
GROUPS = {"RGB": [8, 9, 10], "VRE": [11, 12, 13, 15], "NIR": [14], "SWIR": [16, 17]}  # in the order of Eq. (9)
GROUPS |= {"VH": [0, 1, 4], "VV": [2, 3, 5], "PolSAR": [6, 7]}  # from 0: the 8 bands of sen1, then the 10 of sen2
DTYPES = {"int64": torch.int64, "float64": torch.float32}  # what we compute in
first, last = (lambda x: x.movedim(-1, 1)), (lambda x: x.movedim(1, -1))  # channels; the kit has them last
bce = lambda S, W: F.binary_cross_entropy_with_logits(S, W.to(S))
first_largest = lambda c_hat: (c_hat == c_hat.amax(1, keepdim=True)).int().argmax(1)  # argmax takes any of equals
L_con = lambda S, W: (bce(S, W) + bce(S.T, W)) / 2


def tensor(t):
    if t["dtype"] == "string":
        return t["data"][0]
    return torch.tensor(t["data"], dtype=DTYPES[t["dtype"]]).reshape(t["shape"])


def written(y):
    if isinstance(y, torch.Tensor):
        return {"shape": list(y.shape), "data": y.flatten().tolist()}
    return {"shape": [len(y)], "data": y} if isinstance(y, list) else {"shape": [], "data": [y]}


def sgd(w, gradients, lr, momentum, weight_decay):
    w, steps = w.clone(), {"w": [], "v": []}
    optimiser = torch.optim.SGD([w], momentum=momentum.item(), weight_decay=weight_decay.item())
    for rate, w.grad in zip(lr.tolist(), gradients, strict=True):
        optimiser.param_groups[0]["lr"], decayed = rate, w.grad + weight_decay * w
        optimiser.step()  # without momentum it keeps no velocity, which then is the decayed gradient
        steps["v"].append(optimiser.state[w]["momentum_buffer"].clone() if momentum else decayed)
        steps["w"].append(w.clone())
    return {name: torch.stack(x) for name, x in steps.items()}


def attention(x, in_proj_weight, in_proj_bias, out_weight, out_bias, heads):
    q, k, v = F.linear(x, in_proj_weight, in_proj_bias).unflatten(-1, (3, int(heads), -1)).permute(2, 0, 3, 1, 4)
    y = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)
    return {"y": F.linear(y, out_weight, out_bias)}


def batch_norm(x, weight, bias, running_mean, running_var, train):
    y = F.batch_norm(first(x), running_mean, running_var, weight, bias, training=bool(train))
    return {"y": last(y), "new_running_mean": running_mean, "new_running_var": running_var}


def split(y, per_class, test, seed):  # our own draw; the answer counts its rows
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(seed.item()))
    train = torch.cat([order[y[order] == k][:per_class] for k in range(17)])
    rest = order[~torch.isin(order, train)]
    if len(train) < 17 * per_class or len(rest) < test:
        return {"refused": 1}
    rest = rest[:test]
    count = lambda rows: torch.bincount(y[rows], minlength=17)
    repeated = len(train) - len(train.unique()) + len(rest) - len(rest.unique())
    common = torch.isin(rest, train).sum()
    return {"train": count(train), "test": count(rest), "repeated": repeated, "common": common}


def metrics(y, y_hat, K):
    C = torch.bincount(y * K + y_hat, minlength=int(K) ** 2).reshape(int(K), -1)
    p, rows, columns = C.diag().sum() / C.sum(), C.sum(1), C.sum(0)
    chance = (rows * columns).sum() / C.sum() ** 2
    each = (C.diag() / rows)[rows > 0].mean()  # absent classes are left out
    return {"confusion": C, "overall_accuracy": p, "average_accuracy": each, "kappa": (p - chance) / (1 - chance)}


def chain(weights, x, y, tokens, alpha, beta, heads, learning_rate, momentum, weight_decay, expect):
    """The small model of the set: two steps of SGD on its batch, and the logits afterwards."""
    state = {n: a for n, a in weights.items() if ".running_" in n or n.endswith("tracked")}
    p = {n: a.requires_grad_() for n, a in weights.items() if n not in state}
    pair = lambda name: (p[f"{name}.weight"], p[f"{name}.bias"])
    layer_norm = lambda x, name: F.layer_norm(x, x.shape[-1:], *pair(name))

    def image_features(group, x, train):
        for k in range(1, 7):
            bn = f"branches.{group}.bn{k}"
            x = F.conv2d(x, p[f"branches.{group}.conv{k}.weight"], padding=1)
            running = state[f"{bn}.running_mean"], state[f"{bn}.running_var"]
            x = F.relu(F.batch_norm(x, *running, *pair(bn), training=train))
            x = F.max_pool2d(x, 2) if k in (2, 4) else x
        return F.linear(x.mean((2, 3)), *pair(f"branches.{group}.proj"))

    def logits(train):
        I = {group: image_features(group, first(x[..., i]), train) for group, i in GROUPS.items()}
        return I, F.linear(torch.cat(list(I.values()), 1), *pair("classifier"))

    def text_features(ids):
        block = "text.transformer.resblocks.0"
        x = p["text.token_embedding.weight"][ids] + p["text.positional_embedding"]
        in_proj = p[f"{block}.attn.in_proj_weight"], p[f"{block}.attn.in_proj_bias"]
        x = x + attention(layer_norm(x, f"{block}.ln_1"), *in_proj, *pair(f"{block}.attn.out_proj"), heads)["y"]
        h = F.linear(layer_norm(x, f"{block}.ln_2"), *pair(f"{block}.mlp.c_fc"))
        x = x + F.linear(h * torch.sigmoid(1.702 * h), *pair(f"{block}.mlp.c_proj"))
        return layer_norm(x, "text.ln_final")[torch.arange(len(ids)), ids.argmax(1)] @ p["text.text_projection"]

    optimiser = torch.optim.SGD(p.values(), learning_rate, momentum, weight_decay=weight_decay)
    W, found = y[:, None] == y, {}
    for _ in range(2):
        I, c_hat = logits(True)
        T = text_features(tokens[y].flatten(0, 1)).unflatten(0, (len(y), -1))
        S = alpha * sum(F.normalize(I[g]) @ F.normalize(T[:, i]).T for i, g in enumerate(GROUPS))
        L_cls, L_i2t, L_t2i = F.cross_entropy(c_hat, y), bce(S, W), bce(S.T, W)
        L = L_cls + beta * (L_i2t + L_t2i) / 2
        first_step = {"W": W.long(), "S": S, "S_hat": S.T, "c_hat": c_hat, "L_i2t": L_i2t, "L_t2i": L_t2i, "L": L}
        found = found or first_step | {"L_con": (L_i2t + L_t2i) / 2, "L_cls": L_cls}
        optimiser.zero_grad()
        L.backward()
        optimiser.step()
        state |= {n: a + 1 for n, a in state.items() if n.endswith("tracked")}
    found |= {f"step2.velocity.{n}": optimiser.state[w]["momentum_buffer"] for n, w in p.items()}
    found |= {f"step2.{n}": a for n, a in (p | state).items()} | {"eval.c_hat": logits(False)[1]}
    return {name: found[name] for name in expect}


OPERATIONS = {f.__name__: f for f in (sgd, attention, batch_norm, split, metrics, pre_tokens)} | {
    "prompt": prompter(given["descriptions"]),
    "tokenize": tokenizer(given["merges"]),
    "read_array": lambda a: {f"sum_{axis}": a.sum(axis) for axis in range(3)},
    "band_groups": lambda sen1, sen2: {f"X_{g}": torch.cat((sen1, sen2), -1)[..., i] for g, i in GROUPS.items()},
    "similarity": lambda I_i, T_i: {"S_i": (S_i := F.normalize(I_i) @ F.normalize(T_i).T), "S_hat_i": S_i.T},
    "fuse": lambda S_groups, alpha: {"S": alpha * S_groups.sum(0)},
    "supervised_matrix": lambda y: {"W": (y[:, None] == y).long()},
    "bce": lambda S, W: {"L": bce(S, W)},
    "contrastive_loss": lambda S, W: {"L_i2t": bce(S, W), "L_t2i": bce(S.T, W), "L_con": L_con(S, W)},
    "concat": lambda I_groups: {"I": torch.cat(list(I_groups), 1)},
    "cross_entropy": lambda c_hat, c: {"L_cls": F.cross_entropy(c_hat, c)},
    "total_loss": lambda L_cls, L_con, beta: {"L": L_cls + beta * L_con},
    "conv2d": lambda x, weight, **options: {"y": last(F.conv2d(first(x), weight, **options))},
    "max_pool2d": lambda x: {"y": last(F.max_pool2d(first(x), 2))},
    "linear": lambda x, weight, bias: {"y": F.linear(x, weight, bias)},
    "layer_norm": lambda x, weight, bias: {"y": F.layer_norm(x, x.shape[-1:], weight, bias)},
    "relu": lambda x: {"y": F.relu(x)},
    "gelu": lambda x: {"y": F.gelu(x)},
    "quick_gelu": lambda x: {"y": x * torch.sigmoid(1.702 * x)},
    "statistics": lambda x: {"mean": x.mean((0, 1, 2)), "std": x.std((0, 1, 2), correction=0)},
    "standardise": lambda x, mean, std: {"y": (x - mean) / torch.where(std == 0, 1, std)},
    "predict": lambda c_hat: {"y_hat": first_largest(c_hat)},
}
answers = {}
for case in given["cases"]:
    inputs = {name: tensor(t) for name, t in case["inputs"].items()}
    asked = {}
    if "cotangents" in case:
        asked = {name: inputs[name[5:]].requires_grad_() for name in case["expect"] if name.startswith("grad.")}
    outputs = OPERATIONS[case["op"]](**inputs)
    if asked:
        L = sum((tensor(t) * outputs[name]).sum() for name, t in case["cotangents"].items())
        outputs |= zip(asked, torch.autograd.grad(L, list(asked.values())), strict=True)
    answers[case["id"]] = {name: written(y) for name, y in outputs.items()}
given_chain = {n: tensor(t) if "shape" in t else t for n, t in given["chain"].items() if isinstance(t, dict)}
given_chain |= {n: number for n, number in given["chain"].items() if not isinstance(number, dict)}
given_chain["weights"] = {n: tensor(t) for n, t in given["chain"]["weights"].items()}
chained = {name: written(y) for name, y in chain(**given_chain).items()}
head = {"kit": given["kit"], "seed": given["seed"], "dtype": "float32"}
out.write_text(json.dumps(head | {"answers": answers, "chain": chained}))

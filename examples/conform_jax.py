"""Answers the conformance kit with JAX in float64; gradients by jax.vjp.

Usage: python examples/conform_jax.py VECTORS/ ANSWERS/, then check --dtype float64 --profile ANSWERS/profile.json
"""

import hashlib
import json
import sys
from pathlib import Path

import jax
import numpy as np
from jax import numpy as jnp

jax.config.update("jax_enable_x64", True)
PROFILE = {"suites": [0, 1, 2, 3, 4, 6, 8, 9], "without": ["text_encoder", "inference", "split"]}
GROUPS = {"VH": [0, 1, 4], "VV": [2, 3, 5], "PolSAR": [6, 7], "RGB": [8, 9, 10], "VRE": [11, 12, 13, 15]}
GROUPS |= {"NIR": [14], "SWIR": [16, 17]}  # from 0: the 8 bands of sen1, then the 10 of sen2
tensor = lambda t: jnp.asarray(np.array(t["data"], dtype=t["dtype"]).reshape(t["shape"]))
unit = lambda x: x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-12)
bce = lambda S, W: jnp.mean(jax.nn.softplus(jnp.where(W == 1, -S, S)))
L_con = lambda S, W: (bce(S, W) + bce(S.T, W)) / 2


def sgd(w, gradients, lr, momentum, weight_decay):
    v, steps = 0 * w, []
    for gradient, rate in zip(gradients, lr, strict=True):
        v = momentum * v + gradient + weight_decay * w
        steps.append({"w": (w := w - rate * v), "v": v})
    return jax.tree.map(lambda *x: jnp.stack(x), *steps)


def attention(x, in_proj_weight, in_proj_bias, out_weight, out_bias, heads):
    split = lambda x: x.reshape(*x.shape[:2], int(heads), -1).swapaxes(1, 2)
    q, k, v = map(split, jnp.split(x @ in_proj_weight.T + in_proj_bias, 3, axis=-1))
    scores = q @ k.swapaxes(2, 3) / jnp.sqrt(q.shape[-1])  # jax.nn.dot_product_attention takes float32 here
    p = jax.nn.softmax(jnp.where(jnp.tri(x.shape[1]), scores, -jnp.inf))
    return {"y": (p @ v).swapaxes(1, 2).reshape(x.shape) @ out_weight.T + out_bias}


def layer_norm(x, weight, bias):
    centred = x - x.mean(-1, keepdims=True)  # jax.nn.standardize: E[x^2] - E[x]^2, which cancels
    return {"y": centred / jnp.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5) * weight + bias}


def conv2d(x, weight, stride, padding):
    padding, layout = 2 * [2 * [int(padding)]], ("NHWC", "OIHW", "NHWC")
    return {"y": jax.lax.conv_general_dilated(x, weight, 2 * [int(stride)], padding, dimension_numbers=layout)}


def batch_norm(x, weight, bias, running_mean, running_var, train):
    axes, N = tuple(range(x.ndim - 1)), x.size // x.shape[-1]
    mean, var = (x.mean(axes), x.var(axes)) if train else (running_mean, running_var)
    y = (x - mean) / jnp.sqrt(var + 1e-5) * weight + bias
    if train:
        running_mean, running_var = 0.9 * running_mean + 0.1 * mean, 0.9 * running_var + 0.1 * var * N / (N - 1)
    return {"y": y, "new_running_mean": running_mean, "new_running_var": running_var}


def max_pool2d(x):
    rows, columns = x.shape[1] // 2, x.shape[2] // 2  # a last odd row or column is dropped
    x = x[:, : 2 * rows, : 2 * columns]
    return {"y": x.reshape(len(x), rows, 2, columns, 2, x.shape[3]).max((2, 4))}


def image_encoder(x, **w):  # EB-CNN's branch in training mode, with what every layer gives
    out = {}
    for k in "123456":
        out[f"conv{k}"] = x = conv2d(x, w[f"conv{k}.weight"], 1, 1)["y"]
        out[f"bn{k}"] = x = batch_norm(x, w[f"bn{k}.weight"], w[f"bn{k}.bias"], 0, 1, train=1)["y"]
        out[f"relu{k}"] = x = jax.nn.relu(x)
        if k in "24":
            out[f"pool{k}"] = x = max_pool2d(x)["y"]
    out["mean"] = x.mean((1, 2))
    return out | {"I_i": out["mean"] @ w["proj.weight"].T + w["proj.bias"]}


def metrics(y, y_hat, K):
    C = jnp.zeros((int(K), int(K)), int).at[y, y_hat].add(1)
    p, rows, columns = jnp.trace(C) / C.sum(), C.sum(1), C.sum(0)
    chance = (rows * columns).sum() / C.sum() ** 2
    each = jnp.mean((jnp.diag(C) / rows)[rows > 0])  # absent classes are left out
    return {"confusion": C, "overall_accuracy": p, "average_accuracy": each, "kappa": (p - chance) / (1 - chance)}


def band_groups(sen1, sen2):
    return {f"X_{g}": jnp.concatenate((sen1, sen2), -1)[..., jnp.array(i)] for g, i in GROUPS.items()}


FUNCTIONS = (sgd, attention, layer_norm, conv2d, batch_norm, max_pool2d, image_encoder, metrics, band_groups)
OPERATIONS = {f.__name__: f for f in FUNCTIONS} | {
    "read_array": lambda a: {f"sum_{axis}": a.sum(axis) for axis in range(3)},
    "similarity": lambda I_i, T_i: {"S_i": unit(I_i) @ unit(T_i).T, "S_hat_i": unit(T_i) @ unit(I_i).T},
    "fuse": lambda S_groups, alpha: {"S": alpha * S_groups.sum(0)},
    "supervised_matrix": lambda y: {"W": (y[:, None] == y).astype(int)},
    "bce": lambda S, W: {"L": bce(S, W)},
    "contrastive_loss": lambda S, W: {"L_i2t": bce(S, W), "L_t2i": bce(S.T, W), "L_con": L_con(S, W)},
    "concat": lambda I_groups: {"I": jnp.concat(list(I_groups), axis=1)},
    "cross_entropy": lambda c_hat, c: {"L_cls": -jax.nn.log_softmax(c_hat)[jnp.arange(len(c)), c].mean()},
    "total_loss": lambda L_cls, L_con, beta: {"L": L_cls + beta * L_con},
    "linear": lambda x, weight, bias: {"y": x @ weight.T + bias},
    "relu": lambda x: {"y": jax.nn.relu(x)},
    "gelu": lambda x: {"y": jax.nn.gelu(x, approximate=False)},
    "quick_gelu": lambda x: {"y": x * jax.nn.sigmoid(1.702 * x)},
    "statistics": lambda x: {"mean": x.mean((0, 1, 2)), "std": x.std((0, 1, 2))},
    "standardise": lambda x, mean, std: {"y": (x - mean) / jnp.where(std == 0, 1, std)},
    "predict": lambda c_hat: {"y_hat": c_hat.argmax(1)},
}
vectors, folder = map(Path, sys.argv[1:])
manifest = (vectors / "manifest.json").read_bytes()
answers = {"kit": json.loads(manifest)["kit"], "manifest": hashlib.sha256(manifest).hexdigest(), "answers": {}}
for case in [c for path in vectors.glob("[0-9]-*.json") for c in json.loads(path.read_bytes())["cases"]]:
    if case["op"] in OPERATIONS:
        inputs = {name: tensor(t) for name, t in case["inputs"].items()}
        asked = {name[5:]: inputs.pop(name[5:]) for name in case["expect"] if name.startswith("grad.")}
        compiled = jax.jit(lambda x: OPERATIONS[case["op"]](**inputs, **x)) if asked else None  # noqa: B023
        outputs, pull_back = jax.vjp(compiled, asked) if asked else (OPERATIONS[case["op"]](**inputs), None)
        if asked:
            given = {name: tensor(t) for name, t in case["cotangents"].items()}
            (gradients,) = pull_back({name: given.get(name, jnp.zeros_like(y)) for name, y in outputs.items()})
            outputs |= {f"grad.{name}": g for name, g in gradients.items()}
        tensors = {name: {"shape": list(y.shape), "data": np.ravel(y).tolist()} for name, y in outputs.items()}
        answers["answers"][case["id"]] = tensors
folder.mkdir(exist_ok=True)
(folder / "answers.json").write_text(json.dumps(answers))
(folder / "profile.json").write_text(json.dumps(PROFILE))

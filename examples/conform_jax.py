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
PROFILE = {"suites": [0, 1, 2, 3, 6], "without": ["band_groups", "batch_norm", "image_encoder", "text_encoder"]}
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


OPERATIONS = {f.__name__: f for f in (sgd, attention, layer_norm, conv2d)} | {
    "read_array": lambda a: {f"sum_{axis}": a.sum(axis) for axis in range(3)},
    "similarity": lambda I_i, T_i: {"S_i": unit(I_i) @ unit(T_i).T, "S_hat_i": unit(T_i) @ unit(I_i).T},
    "fuse": lambda S_groups, alpha: {"S": alpha * S_groups.sum(0)},
    "supervised_matrix": lambda y: {"W": (y[:, None] == y).astype(int)},
    "bce": lambda S, W: {"L": bce(S, W)},
    "contrastive_loss": lambda S, W: {"L_i2t": bce(S, W), "L_t2i": bce(S.T, W), "L_con": L_con(S, W)},
    "concat": lambda I_groups: {"I": jnp.concat(list(I_groups), axis=1)},
    "cross_entropy": lambda c_hat, c: {"L_cls": -jax.nn.log_softmax(c_hat)[jnp.arange(len(c)), c].mean()},
    "total_loss": lambda L_cls, L_con, beta: {"L": L_cls + beta * L_con},
    "max_pool2d": lambda x: {"y": x.reshape(len(x), x.shape[1] // 2, 2, -1, 2, x.shape[3]).max((2, 4))},
    "linear": lambda x, weight, bias: {"y": x @ weight.T + bias},
    "relu": lambda x: {"y": jax.nn.relu(x)},
    "gelu": lambda x: {"y": jax.nn.gelu(x, approximate=False)},
    "quick_gelu": lambda x: {"y": x * jax.nn.sigmoid(1.702 * x)},
}
vectors, folder = map(Path, sys.argv[1:])
manifest = (vectors / "manifest.json").read_bytes()
answers = {"kit": json.loads(manifest)["kit"], "manifest": hashlib.sha256(manifest).hexdigest(), "answers": {}}
for case in [c for path in vectors.glob("[0-9]-*.json") for c in json.loads(path.read_bytes())["cases"]]:
    if case["op"] in OPERATIONS:
        inputs = {name: tensor(t) for name, t in case["inputs"].items()}
        asked = {name[5:]: inputs.pop(name[5:]) for name in case["expect"] if name.startswith("grad.")}
        outputs, pull_back = jax.vjp(jax.jit(lambda x: OPERATIONS[case["op"]](**inputs, **x)), asked)  # noqa: B023
        if asked:
            (gradients,) = pull_back({name: tensor(t) for name, t in case["cotangents"].items()})
            outputs |= {f"grad.{name}": g for name, g in gradients.items()}
        tensors = {name: {"shape": list(y.shape), "data": np.ravel(y).tolist()} for name, y in outputs.items()}
        answers["answers"][case["id"]] = tensors
folder.mkdir(exist_ok=True)
(folder / "answers.json").write_text(json.dumps(answers))
(folder / "profile.json").write_text(json.dumps(PROFILE))

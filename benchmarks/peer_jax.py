"""EB-CNN's training step in JAX, compiled as one function, with our weights by the same names.

Images and feature maps are channels-last. The update is SGD's of the paper, and its memory is handed over
("donated"), so that parameters and velocity are written in place.
"""

import jax
import jax.numpy as np
from jax import lax

from bplcz_ref import bands, weights

jax.config.update("jax_enable_x64", True)  # float32 arrays stay float32
LAYOUT = ("NHWC", "OIHW", "NHWC")


def conv_bn_relu(p, k, x):
    x = lax.conv_general_dilated(x, p[f"conv{k}.weight"], (1, 1), "SAME", dimension_numbers=LAYOUT)
    mean = x.mean((0, 1, 2))
    var = np.square(x - mean).mean((0, 1, 2))
    x = (x - mean) * lax.rsqrt(var + 1e-5) * p[f"bn{k}.weight"] + p[f"bn{k}.bias"]
    n = x.size // x.shape[-1]
    return np.maximum(x, 0), {f"bn{k}.running_mean": mean, f"bn{k}.running_var": var * n / (n - 1)}


def branch(p, x):  # (B, H, W, C) -> (B, d), statistics
    new = {}
    for k in range(1, 7):
        x, measured = conv_bn_relu(p, k, x)
        new |= measured
        if k in (2, 4):
            x = lax.reduce_window(x, -np.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
    return x.mean((1, 2)) @ p["proj.weight"].T + p["proj.bias"], new


def loss(params, x, y):
    sensors, features, measured = {"sen1": x[..., :8], "sen2": x[..., 8:]}, [], {}
    for group, index in bands.INDEX.items():
        prefix = f"branches.{group}."
        own = {name.removeprefix(prefix): a for name, a in params.items() if name.startswith(prefix)}
        I, new = branch(own, sensors[bands.GROUPS[group]["sensor"]][..., np.array(index)])
        features.append(I)
        measured |= {prefix + name: a for name, a in new.items()}
    c_hat = np.concatenate(features, 1) @ params["classifier.weight"].T + params["classifier.bias"]
    return -jax.nn.log_softmax(c_hat)[np.arange(len(y)), y].mean(), measured


class Peer:
    """EB-CNN with our weights, a batch and SGD: one step."""

    def __init__(self, settings, params, state, x, y):
        self.x, self.y = np.asarray(x), np.asarray(y)
        self.params = {name: np.array(a) for name, a in weights.named(params).items()}
        self.running = {n: np.array(a) for n, a in weights.named(state).items() if "num_batches" not in n}
        self.velocity = {name: np.zeros_like(a) for name, a in self.params.items()}
        rate, momentum, decay = settings.learning_rate, settings.momentum, settings.weight_decay

        def update(params, velocity, running, x, y):
            (L, measured), g = jax.value_and_grad(loss, has_aux=True)(params, x, y)
            velocity = {n: momentum * velocity[n] + g[n] + decay * params[n] for n in params}
            params = {n: params[n] - rate * velocity[n] for n in params}
            return params, velocity, {n: 0.9 * running[n] + 0.1 * a for n, a in measured.items()}, L

        self.update = jax.jit(update, donate_argnums=(0, 1, 2))

    def step(self):
        self.params, self.velocity, self.running, self.loss = self.update(
            self.params, self.velocity, self.running, self.x, self.y
        )
        jax.block_until_ready(self.params)

"""JAX in its default float32, jitted, through the kit: right forms that differ from ours and from the example's.

None may fail, a variance in one pass, as Flax has it, included.
"""

import numpy as np
import pytest

from bplcz_ref import conform

jax = pytest.importorskip("jax")
jnp, lax, nn = jax.numpy, jax.lax, jax.nn

pytestmark = pytest.mark.long  # every shape is compiled

SETTINGS = {"conv2d": ("stride", "padding"), "batch_norm": "train", "attention": "heads"}  # constants of a program


def linear(x, weight, bias):
    return jnp.einsum("...i,oi->...o", x, weight) + bias


def conv2d(x, weight, stride, padding):
    """Images in NCHW."""
    numbers, sides = ("NCHW", "OIHW", "NCHW"), [(padding, padding)] * 2
    x = x.transpose(0, 3, 1, 2)
    y = lax.conv_general_dilated(x, weight, (stride, stride), sides, dimension_numbers=numbers)
    return y.transpose(0, 2, 3, 1)


def batch_norm(x, weight, bias, running_mean, running_var, train):
    if not train:
        return (x - running_mean) * lax.rsqrt(running_var + 1e-5) * weight + bias, running_mean, running_var
    mean, n = x.mean((0, 1, 2)), x.size // x.shape[-1]
    var = jnp.maximum((x * x).mean((0, 1, 2)) - mean**2, 0)
    moved = 0.9 * running_mean + 0.1 * mean, 0.9 * running_var + 0.1 * var * n / (n - 1)
    return (x - mean) * lax.rsqrt(var + 1e-5) * weight + bias, *moved


def max_pool2d(x):
    B, H, W, C = x.shape
    return x[:, : H // 2 * 2, : W // 2 * 2].reshape(B, H // 2, 2, W // 2, 2, C).max((2, 4))


def attention(x, in_proj_weight, in_proj_bias, out_weight, out_bias, heads):
    N, L, W = x.shape
    qkv = linear(x, in_proj_weight, in_proj_bias).reshape(N, L, 3, heads, W // heads)
    y = nn.dot_product_attention(*(qkv[:, :, k] for k in range(3)), is_causal=True)
    return linear(y.reshape(N, L, W), out_weight, out_bias)


def similarity(I_i, T_i):
    unit = lambda x: x * lax.rsqrt(jnp.maximum((x * x).sum(1, keepdims=True), 1e-24))
    return unit(I_i) @ unit(T_i).T, unit(T_i) @ unit(I_i).T


def cross_entropy(c_hat, c):
    return (nn.logsumexp(c_hat, axis=1) - jnp.take_along_axis(c_hat, c[:, None], 1)[:, 0]).mean()


FORMS = {f.__name__: f for f in (linear, conv2d, batch_norm, max_pool2d, attention, similarity, cross_entropy)} | {
    "layer_norm": lambda x, weight, bias: nn.standardize(x, epsilon=1e-5) * weight + bias,
    "relu": lambda x: jnp.where(x > 0, x, 0),
    "gelu": lambda x: x * jax.scipy.stats.norm.cdf(x),
    "quick_gelu": lambda x: nn.silu(1.702 * x) / 1.702,
    "bce": lambda S, W: -(W * nn.log_sigmoid(S) + (1 - W) * nn.log_sigmoid(-S)).mean(),
}


def reverse(f, inputs, names, cotangents):
    out, pull = jax.vjp(lambda own: f(**(inputs | own)), {name: inputs[name] for name in names})
    wanted = {o: jnp.asarray(cotangents[o]) if o in cotangents else jnp.zeros_like(x) for o, x in out.items()}
    return pull(wanted)[0]


def test_right_forms_pass_in_float32_jitted():
    jitted = {op: jax.jit(f, static_argnames=SETTINGS.get(op, ())) for op, f in FORMS.items()}
    functions = {op: lambda _f=f, **inputs: _f(**inputs) for op, f in jitted.items()}
    report = conform.check(functions, gradients=reverse, from_numpy=jnp.asarray, to_numpy=np.asarray)
    assert report.exit_code == 0, str(report)
    assert {g.case.op for g in report.of("pass")} == set(FORMS)

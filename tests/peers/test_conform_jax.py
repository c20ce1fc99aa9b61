"""JAX in its default float32 through the kit: several right forms of each operation, as they are and jitted.

None may fail, a variance in one pass included.
"""

import numpy as np
import pytest

from bplcz_ref import conform

jax = pytest.importorskip("jax")
jnp, lax, nn = jax.numpy, jax.lax, jax.nn

pytestmark = pytest.mark.slow  # every shape is compiled

SETTINGS = {"conv2d": ("stride", "padding"), "batch_norm": "train", "attention": "heads"}  # constants of a program


def linear(x, weight, bias):
    return x @ weight.T + bias


def correlated(layout):
    """conv2d with images in another layout."""
    to = {"NHWC": lambda x: x, "NCHW": lambda x: x.transpose(0, 3, 1, 2)}[layout]
    back = {"NHWC": lambda x: x, "NCHW": lambda x: x.transpose(0, 2, 3, 1)}[layout]

    def conv2d(x, weight, stride, padding):
        numbers = (layout, "OIHW", layout)
        sides = [(padding, padding)] * 2
        return back(lax.conv_general_dilated(to(x), weight, (stride, stride), sides, dimension_numbers=numbers))

    return conv2d


def patches(x, weight, stride, padding):
    """conv2d as one product of patches."""
    sides, size = [(padding, padding)] * 2, weight.shape[2:]
    numbers = ("NHWC", "OIHW", "NHWC")
    cut = lax.conv_general_dilated_patches(x, size, (stride, stride), sides, dimension_numbers=numbers)
    return jnp.einsum("bijk,ok->bijo", cut, weight.reshape(len(weight), -1))


def batch_norm(spread):
    def run(x, weight, bias, running_mean, running_var, train):
        if not train:
            return (x - running_mean) * lax.rsqrt(running_var + 1e-5) * weight + bias, running_mean, running_var
        mean, var, n = x.mean((0, 1, 2)), spread(x, (0, 1, 2)), x.size // x.shape[-1]
        moved = 0.9 * running_mean + 0.1 * mean, 0.9 * running_var + 0.1 * var * n / (n - 1)
        return (x - mean) * lax.rsqrt(var + 1e-5) * weight + bias, *moved

    return run


def in_one_pass(x, axes):
    """As Flax has it."""
    return jnp.maximum((x * x).mean(axes) - x.mean(axes) ** 2, 0)


def pool(x):
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")


def pool_by_reshape(x):
    B, H, W, C = x.shape
    return x[:, : H // 2 * 2, : W // 2 * 2].reshape(B, H // 2, 2, W // 2, 2, C).max((2, 4))


def attention(weigh):
    def run(x, in_proj_weight, in_proj_bias, out_weight, out_bias, heads):
        N, L, W = x.shape
        qkv = linear(x, in_proj_weight, in_proj_bias).reshape(N, L, 3, heads, W // heads)
        return linear(weigh(*(qkv[:, :, k] for k in range(3))).reshape(N, L, W), out_weight, out_bias)

    return run


def softmax(q, k, v):
    scores = jnp.einsum("nqhd,nkhd->nhqk", q, k) / q.shape[-1] ** 0.5
    scores = jnp.where(jnp.tril(jnp.ones(scores.shape[-2:], bool)), scores, -jnp.inf)
    return jnp.einsum("nhqk,nkhd->nqhd", nn.softmax(scores), v)


def cosine(unit):
    return lambda I_i, T_i: (unit(I_i) @ unit(T_i).T, unit(T_i) @ unit(I_i).T)


logaddexp = lambda S, W: jnp.logaddexp(0, (1 - 2 * W) * S).mean()
log_sigmoid = lambda S, W: -(W * nn.log_sigmoid(S) + (1 - W) * nn.log_sigmoid(-S)).mean()
softplus = lambda S, W: nn.softplus((1 - 2 * W) * S).mean()
FORMS = [
    {
        "linear": linear,
        "conv2d": correlated("NHWC"),
        "batch_norm": batch_norm(jnp.var),
        "max_pool2d": pool,
        "gelu": lambda x: nn.gelu(x, approximate=False),
        "attention": attention(softmax),
        "similarity": cosine(lambda x: x / jnp.maximum(jnp.linalg.norm(x, axis=1, keepdims=True), 1e-12)),
        "bce": logaddexp,
        "cross_entropy": lambda c_hat, c: -nn.log_softmax(c_hat)[jnp.arange(len(c)), c].mean(),
        "total_loss": lambda L_cls, L_con, beta: L_cls + beta * L_con,
    },
    {
        "linear": lambda x, weight, bias: jnp.einsum("...i,oi->...o", x, weight) + bias,
        "conv2d": correlated("NCHW"),
        "batch_norm": batch_norm(in_one_pass),
        "layer_norm": lambda x, weight, bias: nn.standardize(x, epsilon=1e-5) * weight + bias,
        "relu": lambda x: jnp.where(x > 0, x, 0),
        "max_pool2d": pool_by_reshape,
        "gelu": lambda x: x * jax.scipy.stats.norm.cdf(x),
        "quick_gelu": lambda x: nn.silu(1.702 * x) / 1.702,
        "attention": attention(lambda q, k, v: nn.dot_product_attention(q, k, v, is_causal=True)),
        "similarity": cosine(lambda x: x * lax.rsqrt(jnp.maximum((x * x).sum(1, keepdims=True), 1e-24))),
        "bce": log_sigmoid,
        "cross_entropy": lambda c_hat, c: (
            nn.logsumexp(c_hat, axis=1) - jnp.take_along_axis(c_hat, c[:, None], 1)[:, 0]
        ).mean(),
    },
    {
        "linear": lambda x, weight, bias: jax.vmap(lambda row: weight @ row + bias)(x),
        "conv2d": patches,
        "gelu": lambda x: x * lax.erfc(-x / 2**0.5) / 2,
        "bce": softplus,
        "cross_entropy": lambda c_hat, c: -(nn.one_hot(c, c_hat.shape[1]) * nn.log_softmax(c_hat)).sum() / len(c),
    },
]


def reverse(f, inputs, names, cotangents):
    varied = {name: inputs[name] for name in names}
    out, pull = jax.vjp(lambda own: f(**(inputs | own)), varied)
    wanted = {o: jnp.asarray(cotangents[o]) if o in cotangents else jnp.zeros_like(x) for o, x in out.items()}
    return pull(wanted)[0]


def check(functions):
    report = conform.check(functions, gradients=reverse, from_numpy=jnp.asarray, to_numpy=np.asarray)
    assert report.exit_code == 0, str(report)
    assert {g.case.op for g in report.of("pass")} == set(functions)


@pytest.mark.parametrize("form", range(len(FORMS)))
def test_right_forms_pass_in_float32_jitted(form):
    jitted = {op: jax.jit(f, static_argnames=SETTINGS.get(op, ())) for op, f in FORMS[form].items()}
    check({op: lambda _f=f, **inputs: _f(**inputs) for op, f in jitted.items()})


def test_right_forms_pass_in_float32_operation_by_operation():
    """Without jit nothing is fused; every primitive is compiled for every shape, so few are run."""
    check({op: FORMS[0][op] for op in ("linear", "similarity", "cross_entropy")})

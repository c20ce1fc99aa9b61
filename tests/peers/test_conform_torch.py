"""PyTorch through the conformance kit: its functions pass, and its own options for other readings are named.

The kit's own mistakes are variants of its formulas; here the wrong values come from elsewhere.
"""

import warnings

import numpy as np
import pytest

from bplcz_ref import conform

torch = pytest.importorskip("torch")
F = torch.nn.functional
FLOATS = {"float64": torch.float64, "float32": torch.float32, "bfloat16": torch.bfloat16}


def reverse(f, inputs, names, cotangents):
    """The gradients of any function of tensors."""
    leaves = {name: torch.as_tensor(inputs[name]).clone().requires_grad_() for name in names}
    out = f(**(inputs | leaves))
    L = sum((out[o] * torch.as_tensor(g)).sum() for o, g in cotangents.items())
    return dict(zip(names, torch.autograd.grad(L, list(leaves.values())), strict=True))


def check(functions, dtype="float32"):
    convert = lambda x: torch.from_numpy(x).to(FLOATS[dtype]) if x.dtype.kind == "f" else torch.from_numpy(x)
    back = lambda x: x.detach().to(torch.float64).numpy() if isinstance(x, torch.Tensor) else np.asarray(x)
    return conform.check(functions, gradients=reverse, from_numpy=convert, to_numpy=back, dtype=dtype)


first, last = (lambda x: x.movedim(-1, 1)), (lambda x: x.movedim(1, -1))  # the kit has channels last


def bce(**options):
    return lambda S, W: F.binary_cross_entropy_with_logits(S, W.to(S.dtype), **options)


def cosine(**options):
    return lambda I_i, T_i: (
        F.normalize(I_i, **options) @ F.normalize(T_i, **options).T,
        F.normalize(T_i, **options) @ F.normalize(I_i, **options).T,
    )


def sgd(dampened=False, **options):
    def run(w, gradients, lr, momentum, weight_decay):
        w, ws, vs = w.clone(), [], []
        own = options | ({"dampening": float(momentum)} if dampened else {}) if momentum else {}
        optimiser = torch.optim.SGD([w], momentum=momentum, weight_decay=weight_decay, **own)
        for rate, g in zip(lr.tolist(), gradients, strict=True):
            optimiser.param_groups[0]["lr"], w.grad = rate, g.clone()
            decayed = g + weight_decay * w
            optimiser.step()
            ws.append(w.clone())
            vs.append(optimiser.state[w]["momentum_buffer"].clone() if momentum else decayed)
        return torch.stack(ws), torch.stack(vs)

    return run


def conv2d(flip=False):
    def run(x, weight, stride, padding):
        weight = weight.flip(2, 3) if flip else weight
        return last(F.conv2d(first(x), weight, stride=stride, padding=padding))

    return run


def batch_norm(**options):
    def run(x, weight, bias, running_mean, running_var, train):
        running = running_mean.clone(), running_var.clone()
        y = F.batch_norm(first(x), *running, weight, bias, training=bool(train), **options)
        return last(y), *running

    return run


def layer_norm(**options):
    return lambda x, weight, bias: F.layer_norm(x, x.shape[-1:], weight, bias, **options)


def attention(**options):
    def run(x, in_proj_weight, in_proj_bias, out_weight, out_bias, heads):
        qkv = F.linear(x, in_proj_weight, in_proj_bias).unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(*qkv, **({"is_causal": True} | options)).transpose(1, 2).flatten(2)
        return F.linear(y, out_weight, out_bias)

    return run


RIGHT = {
    "similarity": cosine(),
    "bce": bce(),
    "contrastive_loss": lambda S, W: (bce()(S, W), bce()(S.T, W), bce()(S, W) / 2 + bce()(S.T, W) / 2),
    "cross_entropy": lambda c_hat, c: F.cross_entropy(c_hat, c),
    "sgd": sgd(),
    "conv2d": conv2d(),
    "batch_norm": batch_norm(),
    "layer_norm": layer_norm(),
    "relu": lambda x: F.relu(x),
    "max_pool2d": lambda x: last(F.max_pool2d(first(x), 2)),
    "gelu": lambda x: F.gelu(x),
    "linear": lambda x, weight, bias: F.linear(x, weight, bias),
    "attention": attention(),
}


def probabilities(loss):
    return lambda S, W: loss(torch.sigmoid(S), W.to(S.dtype))


def keras(p, W):
    return F.binary_cross_entropy(p.clamp(1e-7, 1 - 1e-7), W)


def with_eps(p, W):
    return -(W * torch.log(p + 1e-8) + (1 - W) * torch.log(1 - p + 1e-8)).mean()


WRONG = [
    ("bce", "sum for mean", bce(reduction="sum")),
    ("bce", "of probabilities in float32, as by torch.nn.BCELoss", probabilities(F.binary_cross_entropy)),
    ("bce", "log(p + 1e-8)", probabilities(with_eps)),
    ("similarity", "normalised over the batch", cosine(dim=0)),
    ("similarity", "no bound below the norm", cosine(eps=0.0)),
    ("cross_entropy", "sum for mean", lambda c_hat, c: F.cross_entropy(c_hat, c, reduction="sum")),
    ("cross_entropy", "labels smoothed by 0.1", lambda c_hat, c: F.cross_entropy(c_hat, c, label_smoothing=0.1)),
    ("cross_entropy", "a softmax before the cross-entropy", lambda c_hat, c: F.cross_entropy(c_hat.softmax(1), c)),
    ("sgd", "Nesterov", sgd(nesterov=True)),
    ("sgd", "(1 - momentum) on later gradients", sgd(dampened=True)),
    ("conv2d", "weight turned by 180 degrees in its last two axes", conv2d(flip=True)),
    ("batch_norm", "running statistics by a share of 0.9", batch_norm(momentum=0.9)),
    ("batch_norm", "eps 0.001", batch_norm(eps=1e-3)),
    ("layer_norm", "eps 0.001", layer_norm(eps=1e-3)),
    ("gelu", "tanh approximation", lambda x: F.gelu(x, approximate="tanh")),
    ("max_pool2d", "average", lambda x: last(F.avg_pool2d(first(x), 2))),
    ("relu", "slope 0.01 below 0", lambda x: F.leaky_relu(x)),
    ("attention", "no mask", attention(is_causal=False)),
    ("attention", "1 / sqrt(d) left out", attention(scale=1.0)),
]


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_pytorchs_functions_pass(dtype):
    report = check(RIGHT, dtype)
    assert report.exit_code == 0, str(report)


@pytest.mark.parametrize(("op", "name", "function"), WRONG, ids=lambda x: x if isinstance(x, str) else "")
def test_pytorchs_other_options_are_named(op, name, function):
    report = check({op: function})
    assert [(f.state, f.op, f.names) for f in report.findings] == [("guilty", op, (name,))], str(report)


def test_probabilities_clipped_as_in_keras_are_named_in_float64():
    """In float32 1 - 1e-7 is 1 - 1.2e-7, which has another logarithm."""
    report = check({"bce": probabilities(keras)}, "float64")
    assert report.findings[0].names == ("probabilities kept 1e-7 from 0 and 1, as in Keras",)


def test_bfloat16_does_not_diverge_and_does_not_pass_where_it_cannot_tell():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        report = check(
            {op: RIGHT[op] for op in ("bce", "cross_entropy", "gelu", "linear", "max_pool2d")}, "bfloat16"
        )
    assert report.exit_code == 0, str(report)
    assert "gelu/ordinary" in {g.case.id for g in report.of("cannot discriminate")}

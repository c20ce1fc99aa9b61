"""layers.py: lists and their names, what kernels compute at once against the same list unfused, and watching."""

import autograd.numpy as anp
import numpy as np
import pytest
from networks import errors, started, worst

from bplcz_ref import layers, nn
from bplcz_ref.encoders import exvit, text
from bplcz_ref.layers import add, batch_norm, conv, dense, layer_norm, linear, max_pool, relu, serial
from bplcz_ref.storage import weights

BN = ("norm", batch_norm(4))
EPS = layers.plain(nn.batch_norm, batch_norm(4).init, needs=("state", "train"), eps=1e-3)
STEM = serial(BN, relu, max_pool(2))
RESIDUAL = serial(add(("conv", conv(4, 4)), BN), relu)
STRIDED, DOWN = ("conv", conv(4, 6, stride=2)), ("down", conv(4, 6, 1, stride=2))
PROJECTED = serial(add(STRIDED, ("norm", batch_norm(6)), shortcut=DOWN), relu)
((_, blocks),) = exvit.transformer(1, exvit.Size(width=6, heads=2, head=3, hidden=5)).parts
((_, EXVIT_BLOCK),) = blocks.parts


def dense_layer(channels):
    first, second = ("norm1", batch_norm(channels)), ("norm2", batch_norm(8))
    return dense(first, relu, ("conv1", conv(channels, 8, 1)), second, relu, ("conv2", conv(8, 3)))


# name: (network, shape of x, how many steps its list runs in)
ROWS = {
    "batch norm, relu": (serial(BN, relu), (3, 5, 5, 4), 1),
    "batch norm, relu, pool": (STEM, (3, 6, 4, 4), 2),
    "batch norm, relu, pool, odd": (STEM, (3, 5, 4, 4), 2),
    "sum, relu": (RESIDUAL, (3, 5, 5, 4), 1),
    "projected sum, relu": (PROJECTED, (3, 6, 6, 4), 1),
    "dense block": (serial(("a", dense_layer(4)), ("b", dense_layer(7)), relu), (3, 5, 5, 4), 2),
    "CLIP's block": (text.block(8, 2, causal=True), (3, 5, 8), 1),
    "ExViT's block": (EXVIT_BLOCK, (3, 5, 6), 1),
    "a list in a list": (serial(("inner", serial(BN, relu)), ("outer", serial(("a", RESIDUAL)))), (3, 5, 5, 4), 2),
}
ALONE = {  # what looks like a row and is none: every part is computed by itself
    "batch norm, pool": serial(BN, max_pool(2)),
    "another pool": serial(max_pool(3, 2, 1), relu),
    "a batch norm of another eps": serial(("norm", EPS), relu),
    "sum without relu": serial(add(("conv", conv(4, 4)), BN)),
    "sum of relus": serial(add(("conv", conv(4, 4)), BN, relu), relu),
    "dense, a bias": serial(
        dense(
            ("norm1", batch_norm(4)), relu, ("conv1", conv(4, 8, 1, bias=True)),
            ("norm2", batch_norm(8)), relu, ("conv2", conv(8, 3)),
        )
    ),
    "another eps": serial(
        add(("ln", layer_norm(4, eps=1e-6)), ("qkv", linear(4, 12)), layers.attend(2), ("out", linear(4, 4))),
        add(("ln2", layer_norm(4)), ("up", linear(4, 8)), layers.quick_gelu, ("down", linear(8, 4))),
    ),
}  # fmt: skip


def results(network, params, state, x, train):
    """{quantity: array}: value, new state, and gradients by parameters and x."""
    R = np.random.default_rng(4).standard_normal(network.apply(params, state, x, train=False)[0].shape)

    def loss(given):
        y, new = network.apply(given["p"], state, given["x"], train=train, rng=np.random.default_rng(5))
        return anp.sum(R * y), {"y": y, "state": new}

    _, gradients, found = nn.value_and_gradients(loss, {"p": params, "x": x})
    return weights.named({"gradient": gradients} | found)


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("name", ROWS)
def test_what_is_computed_at_once_equals_the_list(name, train):
    network, shape, steps = ROWS[name]
    assert len(layers.fused(list(network.parts))) == steps
    params, state = started(network)
    x = np.random.default_rng(1).standard_normal(shape)
    at_once = results(network, params, state, x, train)
    with layers.watching(lambda call: call.run()):
        one_by_one = results(network, params, state, x, train)
    assert list(at_once) == list(one_by_one)
    apart = errors(at_once, one_by_one)
    assert max(apart.values()) < 1e-11, worst(apart)


@pytest.mark.parametrize("name", ALONE)
def test_what_is_no_row_of_the_table_is_computed_part_by_part(name):
    assert layers.fused(list(ALONE[name].parts)) == list(ALONE[name].parts)


def test_a_layer_is_answered_by_whoever_watches():
    network = serial(("a", linear(3, 3)), relu, ("b", serial(("c", linear(3, 2)))))
    params, state = network.init(np.random.default_rng(0), "float64")
    x = np.array([[1.0, -2.0, 0.5]])
    seen = {}

    def watch(call):
        seen[call.name, call.layer.kind] = call.x
        if call.name == "b.c":
            return call.run(call.x * 0)
        return (call.x, {}) if call.name == "a" else call.run()

    with layers.watching(watch):
        y, _ = network.apply(params, state, x, train=True)
    np.testing.assert_array_equal(y, params["b"]["c"]["bias"][None])
    assert [*seen] == [("a", "linear"), ("", "relu"), ("b", "serial"), ("b.c", "linear")]
    np.testing.assert_array_equal(seen["b.c", "linear"], [[1.0, 0.0, 0.5]])
    assert not layers.watched()

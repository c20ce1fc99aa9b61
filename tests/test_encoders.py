"""encoders/ebcnn, text, prefixes: gradients by differences, and the exact savings of the text tower."""

import autograd.numpy as anp
import numpy as np
import pytest
from autograd import grad
from comparing import slope_errors

from bplcz_ref import layers, weights
from bplcz_ref.encoders import ebcnn, prefixes, text
from bplcz_ref.streams import stream


def small_text():
    network = text.encoder(vocabulary=30, width=12, layers=2, heads=3, features=5, context=9)
    params, state = network.init(stream(0, "init"), np.float64)
    return network, params, state


def small_ebcnn():
    network = ebcnn.encoder(3, width=2, features=4)
    return network, *network.init(stream(0, "init"), np.float64)


@pytest.mark.parametrize(
    ("made", "x"),
    [
        (small_text, np.array([[28, 3, 4, 29, 0], [28, 5, 29, 0, 0]])),
        (small_ebcnn, np.random.default_rng(0).standard_normal((3, 8, 8, 3))),
    ],
)
def test_every_gradient_by_differences(made, x):
    network, params, state = made()
    loss = lambda p: np_sum_square(network.apply(p, state, x, train=True)[0])
    errors = slope_errors(loss, params, grad(loss)(params), h=1e-5)
    assert max(errors.values()) < 1e-5, errors


def np_sum_square(x):
    return anp.sum(x * x) / 2


def test_tokens_after_eot_do_not_matter():
    network, params, state = small_text()
    ids = np.array([[28, 3, 4, 29, 0, 0, 0]])
    whole = network.apply(params, state, ids, train=False)[0]
    cut = network.apply(params, state, ids[:, :4], train=False)[0]
    other = network.apply(params, state, np.array([[28, 3, 4, 29, 7, 8, 2]]), train=False)[0]
    assert np.abs(whole - cut).max() < 1e-14
    assert np.abs(whole - other).max() < 1e-14
    before = network.apply(params, state, np.array([[28, 7, 4, 29]]), train=False)[0]
    assert np.abs(whole - before).max() > 1e-3


def test_the_row_at_eot_is_read_not_the_last():
    network, params, state = small_text()
    ids = np.array([[28, 3, 29, 4, 4]])
    read = network.apply(params, state, ids, train=False)[0]
    moved = network.apply(params, state, np.array([[28, 3, 4, 4, 29]]), train=False)[0]
    assert np.abs(read - moved).max() > 1e-4


def test_bad_shapes_are_named():
    network = ebcnn.encoder(3, width=1, features=2)
    params, state = network.init(stream(0, "init"), np.float64)
    with pytest.raises(ValueError, match="divisible by 4"):
        network.apply(params, state, np.zeros((1, 6, 6, 3)), train=False)
    with pytest.raises(ValueError, match="multiple of heads"):
        text.encoder(10, width=10, heads=3)
    network, params, state = small_text()
    with pytest.raises(ValueError, match="context is 9 tokens, found 10"):
        network.apply(params, state, np.arange(10)[None], train=False)


def test_dense_is_linear():
    params, state = layers.linear(3, 2).init(stream(0, "init"), np.float64)
    y, _ = layers.linear(3, 2).apply(params, state, np.eye(3), train=False)
    assert np.abs(y - (params["weight"].T + params["bias"])).max() == 0


def prompts_of_two_classes():
    """(2, 3, 8): a common beginning in each class, endings of different lengths, one sequence inside another."""
    return np.array([
        [[28, 5, 6, 7, 8, 29, 0, 0], [28, 5, 6, 9, 29, 0, 0, 0], [28, 5, 6, 7, 29, 0, 0, 0]],
        [[28, 5, 6, 3, 29, 0, 0, 0], [28, 5, 6, 3, 2, 2, 4, 29], [28, 4, 29, 0, 0, 0, 0, 0]],
    ])  # fmt: skip


def test_the_prefix_tree_is_exact():
    """Values and gradients of the tree are those of the sequences one by one, and it holds each prefix once."""
    network, params, state = small_text()
    ids = prompts_of_two_classes()
    weight = np.random.default_rng(3).standard_normal((2, 3, 5))
    tree = prefixes.pack(ids)
    beginnings = [{tuple(row[: i + 1]) for row in rows for i in range(list(row).index(29) + 1)} for rows in ids]
    assert tree.ids.shape[1] == max(map(len, beginnings))

    def packed(p):
        return anp.sum(prefixes.encoder(network).apply(p, state, tree, train=True)[0] * weight)

    def one_by_one(p):
        return sum(
            anp.sum(network.apply(p, state, ids[k, i : i + 1], train=True)[0] * weight[k, i])
            for k in range(2)
            for i in range(3)
        )

    assert abs(packed(params) - one_by_one(params)) < 1e-13
    fast, slow = weights.named(grad(packed)(params)), weights.named(grad(one_by_one)(params))
    for name in slow:
        assert np.abs(fast[name] - slow[name]).max() <= 1e-12 * max(np.abs(slow[name]).max(), 1e-3), name


@pytest.mark.parametrize("wrong", ["position", "seen", "eot"])
def test_a_wrong_tree_is_seen(wrong):
    network, params, state = small_text()
    tree = prefixes.pack(prompts_of_two_classes())
    network = prefixes.encoder(network)
    right = network.apply(params, state, tree, train=True)[0]
    broken = {
        "position": np.maximum(tree.position - 1, 0),  # counted from the token after SOT
        "seen": np.tril(np.ones_like(tree.seen)),  # causal over the slots: one ending sees another
        "eot": np.full_like(tree.eot, tree.ids.shape[1] - 1),
    }[wrong]
    other = network.apply(params, state, tree._replace(**{wrong: broken}), train=True)[0]
    assert np.abs(right - other).max() > 1e-4


def test_text_initial_values():
    """CLIP's: each tensor's standard deviation by its rule, biases and norms exactly."""
    W, layers = 64, 3
    params, _ = text.encoder(vocabulary=500, width=W, layers=layers, heads=2, features=80).init(
        stream(0, "init"), np.float64
    )
    named = weights.named(params)
    block = "transformer.resblocks.2"
    rules = {
        "token_embedding.weight": 0.02,
        "positional_embedding": 0.01,
        "text_projection": W**-0.5,
        f"{block}.attn.in_proj_weight": W**-0.5,
        f"{block}.attn.out_proj.weight": (W * 2 * layers) ** -0.5,
        f"{block}.mlp.c_fc.weight": (2 * W) ** -0.5,
        f"{block}.mlp.c_proj.weight": (W * 2 * layers) ** -0.5,
        f"{block}.mlp.c_fc.bias": (3 * W) ** -0.5,  # uniform within 1 / sqrt(W)
        f"{block}.mlp.c_proj.bias": (3 * 4 * W) ** -0.5,
    }
    for name, std in rules.items():
        spread = 5 / (2 * named[name].size) ** 0.5  # five standard errors of a standard deviation
        assert abs(named[name].std() / std - 1) < spread, name
    for name in ("attn.in_proj_bias", "attn.out_proj.bias", "ln_1.bias", "ln_2.bias"):
        assert not named[f"{block}.{name}"].any()
    assert (named["ln_final.weight"] == 1).all()


def test_bad_tokens_are_named():
    network, params, state = small_text()
    packed = prefixes.encoder(network)
    too_long = prefixes.pack(np.arange(10)[None, None])
    with pytest.raises(ValueError, match="context is 9 tokens, found 10"):
        packed.apply(params, state, too_long, train=False)
    packed.apply(params, state, prefixes.pack(np.arange(9)[None, None]), train=False)
    with pytest.raises(ValueError, match=r"found shape \(3,\), expected \(N, L\)"):
        network.apply(params, state, np.arange(3), train=False)
    for ids in (np.zeros((1, 2, 3)), np.zeros((2, 3), int), np.zeros((1, 0, 3), int)):
        with pytest.raises(ValueError, match=r"expected integers \(K, n, L\)"):
            prefixes.pack(ids)

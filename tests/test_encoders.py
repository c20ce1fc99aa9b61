"""encoders/: parameter counts, names, gradients by differences, and the exact savings of the text tower."""

import numpy as np
import pytest
from autograd import grad

from bplcz_ref import bands, nn, weights
from bplcz_ref.encoders import ebcnn, text
from bplcz_ref.streams import stream


@pytest.mark.parametrize(("width", "features", "count"), [(32, 512, 2534609), (32, 128, 2142161), (16, 64, 542449)])
def test_ebcnn_parameters(width, features, count):
    # 9*18*w + 7*(279 w^2 + 28 w + 4 w d + d) + 7 d 17 + 17
    branches = [ebcnn.encoder(len(index), width, features) for index in bands.INDEX.values()]
    total = sum(weights.count(b.init(stream(0, "init"), np.float32)[0]) for b in branches)
    assert total + 7 * features * 17 + 17 == count


def test_text_parameters():
    network = text.encoder(vocabulary=49408)
    params, _ = network.init(stream(0, "init"), np.float32)
    assert weights.count(params) == 63428096
    names = weights.named(params)
    assert names["transformer.resblocks.11.attn.in_proj_weight"].shape == (1536, 512)
    assert names["transformer.resblocks.0.mlp.c_fc.bias"].shape == (2048,)
    assert names["text_projection"].shape == (512, 512)


def small_text():
    network = text.encoder(vocabulary=30, width=12, layers=2, heads=3, features=5, context=9)
    params, state = network.init(stream(0, "init"), np.float64)
    return network, params, state


def directional(f, params, seed=1, eps=1e-6):
    """(df along a random direction by central differences, the same from autograd's gradient)."""
    rng = np.random.default_rng(seed)
    names = weights.named(params)
    direction = {name: rng.standard_normal(np.shape(leaf)) for name, leaf in names.items()}

    def moved(step):
        return weights.nested({name: leaf + step * direction[name] for name, leaf in names.items()})

    numeric = (f(moved(eps)) - f(moved(-eps))) / (2 * eps)
    gradient = weights.named(grad(f)(params))
    return numeric, sum(np.sum(gradient[name] * direction[name]) for name in names)


def test_text_gradient():
    network, params, state = small_text()
    ids = np.array([[28, 3, 4, 29, 0], [28, 5, 29, 0, 0]])
    numeric, exact = directional(lambda p: np_sum_square(network.apply(p, state, ids, train=True)[0]), params)
    assert abs(numeric - exact) < 1e-6 * abs(exact)


def test_ebcnn_gradient():
    network = ebcnn.encoder(3, width=2, features=4)
    params, state = network.init(stream(0, "init"), np.float64)
    x = np.random.default_rng(0).standard_normal((3, 8, 8, 3))
    numeric, exact = directional(
        lambda p: np_sum_square(network.apply(p, state, x, train=True)[0]), params, eps=1e-7
    )
    assert abs(numeric - exact) < 1e-5 * abs(exact)


def np_sum_square(x):
    import autograd.numpy as anp

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
    with pytest.raises(ValueError, match="context is 9 tokens, got 10"):
        network.apply(params, state, np.zeros((1, 10), int), train=False)


def test_dense_is_linear():
    params, state = nn.dense(3, 2).init(stream(0, "init"), np.float64)
    y, _ = nn.dense(3, 2).apply(params, state, np.eye(3), train=False)
    assert np.abs(y - (params["weight"].T + params["bias"])).max() == 0

"""encoders/exvit.py: names, starts, gradients by differences, dropout, and the two readings for band groups.

test_encoders_single_stream.py has its counts and its numbers by PyTorch, tests/peers the twin in PyTorch.
"""

import math

import numpy as np
import pytest
from comparing import slope_errors

from bplcz_ref import bands, equations, model, systems, weights
from bplcz_ref.encoders import exvit, text
from bplcz_ref.streams import stream

TINY = exvit.Size(stem=2, width=5, layers=2, joint=1, heads=2, head=3, hidden=4, dropout=0.0)
PATCH, GRID, K, B = 4, 2, 3, 3


def moved(params, state, seed=3):
    """Parameters and running statistics away from their start, so that a weight of 1 cannot hide."""
    rng = np.random.default_rng(seed)
    params = {n: a + 0.4 * rng.standard_normal(a.shape) for n, a in weights.named(params).items()}
    state = {
        n: a + 5 if a.ndim == 0 else a + rng.uniform(0.1, 0.5, a.shape) for n, a in weights.named(state).items()
    }
    return weights.nested(params), weights.nested(state)


def small(size=TINY, dtype=np.float64, batch=B):
    network = exvit.two_modalities(3, 2, PATCH, GRID, K, size)
    params, state = moved(*network.init(stream(0, "init"), np.float64))
    params = weights.nested({n: a.astype(dtype) for n, a in weights.named(params).items()})
    state = weights.nested({n: a.astype(dtype) if a.ndim else a for n, a in weights.named(state).items()})
    rng = np.random.default_rng(1)
    return (
        network,
        params,
        state,
        tuple(rng.standard_normal((batch, PATCH, PATCH, c)).astype(dtype) for c in (3, 2)),
    )


# ------------------------------------------------------------------------------------- counts, names, starts


def both_readings(grid, patch=32, features=512, size=exvit.SIZE, **options):
    return tuple(systems.exvit_bplcz(reading, features, patch, grid, size=size, **options) for reading in "AB")


def test_names_are_those_of_the_public_code():
    network = exvit.two_modalities(144, 1, patch=13, grid=1, classes=15)
    params, state = network.init(stream(0, "init"), np.float32)
    found = {name: leaf.shape for name, leaf in (weights.named(params) | weights.named(state)).items()}
    assert len(found) == 177  # tensors in the released checkpoint
    expected = {
        "pos_embedding": (1, 169, 64),
        "separable1.0.weight": (144, 1, 3, 3),
        "separable1.1.weight": (16, 144, 1, 1),
        "separable2.9.bias": (64,),
        "separable2.10.running_var": (64,),
        "separable2.10.num_batches_tracked": (),
        "to_patch_embedding2c.weight": (64, 64),
        "transformer.layers.1.0.fn.fn.to_qkv.weight": (192, 64),
        "transformer1.layers.3.0.fn.fn.to_out.0.bias": (64,),
        "transformer2.layers.3.1.fn.norm.weight": (64,),
        "transformer2.layers.3.1.fn.fn.net.3.weight": (64, 32),
        "mlp_head0.1.weight": (1, 64),
        "mlp_head1.1.bias": (15,),
    }
    assert {name: found.get(name) for name in expected} == expected


def test_start():
    params, _ = exvit.exvit().init(stream(47, "init"), np.float64)
    for name, leaf in weights.named(params).items():
        if name == "pos_embedding":
            assert abs(leaf.std() - 1) < 0.05
            assert abs(leaf.mean()) < 0.05
        elif (
            ".norm." in name
            or name.startswith("mlp_head")
            and ".0." in name
            or name.split(".")[1] in ("2", "6", "10")
        ):
            assert np.all(leaf == name.endswith("weight")), name
        else:  # uniform within 1 / sqrt(fan in), weight and bias alike
            weight = weights.named(params)[name.rsplit(".", 1)[0] + ".weight"]
            bound = math.prod(weight.shape[1:]) ** -0.5
            assert np.abs(leaf).max() <= bound, name
            assert leaf.size < 60 or np.abs(leaf).max() > 0.9 * bound, name
            assert leaf.size < 1000 or abs(leaf.std() / (bound / 3**0.5) - 1) < 0.06, name


# ----------------------------------------------------------------------------------------------- gradients


def cross_entropy_of(network, x, seed=None):
    def loss(params, state, y):
        rng = None if seed is None else np.random.default_rng(seed)
        c_hat, new = network.apply(params, state, x, train=True, rng=rng)
        return equations.cross_entropy(c_hat, y), {"state": new}

    return loss


def silent(name):
    """Biases that a later step takes away: batch norm's mean, softmax over the tokens."""
    conv = name.startswith("separable") and name.split(".")[1] in ("0", "1", "4", "5", "8", "9")
    return name.endswith("bias") and (conv or name.startswith("mlp_head0"))


@pytest.mark.slow
@pytest.mark.parametrize("rate", [0.0, 0.4])
def test_every_gradient_by_differences(rate):
    """With dropout, the same masks each time."""
    network, params, state, x = small(TINY._replace(dropout=rate))
    whole, y = cross_entropy_of(network, x, seed=8), np.array([2, 0, 1])
    gradients = model.loss_and_gradients(whole, params, state, y)[1]
    loss = lambda p: whole(p, state, y)[0]
    flat = weights.named(gradients)
    assert set(flat) == set(weights.named(params))
    largest = max(np.abs(g).max() for g in flat.values())
    assert all(np.abs(g).max() < 1e-10 * max(largest, 1) for name, g in flat.items() if silent(name))
    names = [name for name in flat if not silent(name)]
    errors = slope_errors(loss, params, gradients, names)
    assert max(errors.values()) < 1e-6, errors
    some = ["pos_embedding", "transformer.layers.0.0.fn.fn.to_qkv.weight", "separable2.0.weight"]
    wrong = weights.nested(flat | {name: 1.0001 * flat[name] for name in some})
    assert min(slope_errors(loss, params, wrong, some).values()) > 1e-5


# ----------------------------------------------------------------------------- training, dropout, arithmetic


def test_every_batch_norm_is_measured_in_training_only():
    network, params, state, x = small()
    old, new = (weights.named(tree) for tree in (state, network.apply(params, state, x, train=True)[1]))
    assert list(old) == list(new)
    assert all(np.all(new[name] != old[name]) for name in old)
    assert network.apply(params, state, x, train=False)[1] == state


def test_a_batch_of_one_trains_and_equals_its_row_in_evaluation():
    network, params, state, x = small()
    one = tuple(part[1:2] for part in x)
    assert network.apply(params, state, one, train=True)[0].shape == (1, K)
    row = network.apply(params, state, one, train=False)[0]
    assert np.abs(row - network.apply(params, state, x, train=False)[0][1:2]).max() < 1e-13


def test_dropout_needs_a_generator_and_is_the_same_for_the_same_seed(monkeypatch):
    network, params, state, x = small(TINY._replace(dropout=0.5), batch=exvit.PART + 2)
    with pytest.raises(ValueError, match="dropout in training needs rng"):
        network.apply(params, state, x, train=True)

    def run(seed, threads):
        monkeypatch.setenv("BPLCZ_THREADS", threads)
        return network.apply(params, state, x, train=True, rng=np.random.default_rng(seed))[0]

    assert np.array_equal(run(5, "1"), run(5, "3"))
    assert np.abs(run(5, "1") - run(6, "1")).max() > 1e-3
    evaluated = network.apply(params, state, x, train=False)[0]
    assert np.array_equal(evaluated, network.apply(params, state, x, train=False, rng=np.random.default_rng(5))[0])


def test_every_place_of_dropout_draws(monkeypatch):
    """Embedding once a modality; three times a layer: after attention, inside and after the perceptron."""
    network, params, state, x = small(TINY._replace(dropout=0.25))
    drawn = []
    draw = exvit.nn.dropout_factors
    spy = lambda rng, shape, rate, dtype: drawn.append((rate, shape)) or draw(rng, shape, rate, dtype)
    monkeypatch.setattr(exvit.nn, "dropout_factors", spy)
    network.apply(params, state, x, train=True, rng=np.random.default_rng(0))
    N = (PATCH // GRID) ** 2
    own = [(B, N, 5)] + TINY.layers * [(B, N, 5), (B, N, 4), (B, N, 5)]
    shared = TINY.joint * [(B, 2 * N, 5), (B, 2 * N, 4), (B, 2 * N, 5)]
    assert sorted(shape for _, shape in drawn) == sorted(2 * own + shared)
    assert {rate for rate, _ in drawn} == {0.25}


def test_samples_taken_in_parts_give_what_they_give_at_once(monkeypatch):
    network, params, state, x = small(batch=5)
    y = np.array([0, 1, 2, 2, 1])
    L, gradients, _ = model.loss_and_gradients(cross_entropy_of(network, x), params, state, y)
    monkeypatch.setattr(exvit, "PART", 2)
    L_parts, in_parts, _ = model.loss_and_gradients(cross_entropy_of(network, x), params, state, y)
    assert abs(L - L_parts) < 1e-14
    in_parts = weights.named(in_parts)
    largest = max(np.abs(g).max() for g in in_parts.values())
    for name, gradient in weights.named(gradients).items():
        scale = largest if silent(name) else np.abs(gradient).max()
        assert np.abs(gradient - in_parts[name]).max() < 1e-12 * scale, name


def test_so2sat_takes_sen2_first():
    network, pair = (
        exvit.exvit(PATCH, GRID, K, TINY),
        exvit.two_modalities(10, 8, PATCH, GRID, K, TINY),
    )
    params, state = network.init(stream(0, "init"), np.float64)
    assert params["separable1"]["0"]["weight"].shape == (10, 1, 3, 3)
    x = np.random.default_rng(0).standard_normal((B, PATCH, PATCH, 18))
    c_hat, _ = network.apply(params, state, x, train=False)
    assert np.array_equal(c_hat, pair.apply(params, state, (x[..., 8:], x[..., :8]), train=False)[0])


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="grid=3, patch=32"):
        exvit.exvit(grid=3)
    network, params, state, x = small()
    with pytest.raises(ValueError, match=r"expects images \(B, 4, 4, 3\), as it was built, got \(3, 4, 4, 2\)"):
        network.apply(params, state, x[::-1], train=False)
    with pytest.raises(ValueError, match=r"got \(3, 6, 4, 3\)"):
        network.apply(params, state, (np.zeros((3, 6, 4, 3)), x[1]), train=False)


# ------------------------------------------------------------------------------------------ ExViT (BP-LCZ)

LABELS = np.array([3, 16, 3])


def prompted():
    ids = np.zeros((17, 7, 4), int)
    ids[:] = [28, 1, 1, 29]
    ids[:, :, 1] += np.arange(17)[:, None]
    ids[:, :, 2] += np.arange(7)
    tower = text.encoder(30, width=4, layers=1, heads=2, features=3, context=4)
    return both_readings(GRID, PATCH, 3, TINY, text=tower, tokens=ids)


def images():
    return np.random.default_rng(1).standard_normal((B, PATCH, PATCH, 18))


@pytest.mark.slow
@pytest.mark.parametrize("reading", ["A", "B"])
def test_readings_by_hand_and_by_differences(reading):
    made = dict(zip("AB", prompted(), strict=True))[reading]
    params, state = moved(*made.init(stream(0, "init"), np.float64))
    L, gradients, trace = model.loss_and_gradients(made.loss, params, state, (images(), LABELS))

    groups = bands.split(*bands.separate(images()))
    I_i, tokens = {}, []
    for group, index in bands.INDEX.items():
        own = params["branches"][group] | {"pos_embedding": params["shared"]["pos_embedding"]}
        body = exvit.tokens(len(index), PATCH, GRID, TINY)
        tokens.append(body.apply(own, state["branches"][group], groups[group], train=True)[0])
        head = own if reading == "A" else params["vectors"][group]
        I_i[group] = exvit.vector(3, TINY).apply(head, {}, tokens[-1], train=True)[0]
        assert np.abs(trace["I_i"][group] - I_i[group]).max() < 1e-13
    if reading == "A":
        c_hat = exvit.head(21, 17).apply(
            params["classifier"], {}, np.concatenate(list(I_i.values()), 1), train=True
        )[0]
    else:
        c_hat = exvit.joint(17, TINY).apply(params["classifier"], {}, np.concatenate(tokens, 1), train=True)[0]
    assert np.abs(trace["c_hat"] - c_hat).max() < 1e-12

    assert set(weights.named(params)) == set(weights.named(gradients))
    loss = lambda p: made.loss(p, state, (images(), LABELS))[0]
    names = [
        "shared.pos_embedding",
        "branches.NIR.to_patch_embedding2.weight",
        "branches.VV.transformer1.layers.1.0.fn.fn.to_qkv.weight",
        "text.text_projection",
        "branches.VH.mlp_head1.1.weight" if reading == "A" else "vectors.VH.mlp_head1.1.weight",
        "classifier.1.weight" if reading == "A" else "classifier.mlp_head1.1.weight",
    ]
    errors = slope_errors(loss, params, gradients, names)
    assert max(errors.values()) < 1e-6, errors


def test_names_with_a_shared_table():
    A, B = prompted()
    names = {
        reading: list(weights.named(made.init(stream(0, "init"), np.float32)[0]))
        for reading, made in zip("AB", (A, B), strict=True)
    }
    for reading in "AB":
        assert [n for n in names[reading] if n.endswith("pos_embedding")] == ["shared.pos_embedding"]
        assert "branches.RGB.transformer1.layers.1.1.fn.fn.net.3.bias" in names[reading]
        assert "branches.PolSAR.separable1.0.weight" in names[reading]
    assert {"branches.RGB.mlp_head1.1.weight", "classifier.0.weight", "classifier.1.weight"} <= set(names["A"])
    assert {"vectors.RGB.mlp_head1.1.weight", "classifier.transformer.layers.0.0.fn.norm.bias"} <= set(names["B"])
    assert "classifier.mlp_head0.1.weight" in names["B"]


def test_only_in_reading_b_do_groups_meet_before_the_fusion():
    """With another NIR image, what the classifier sees of VH stays; the classifier of B lets its tokens meet."""
    A, B = prompted()
    for made, axes in ((A, 2), (B, 3)):
        params, state = moved(*made.init(stream(0, "init"), np.float64))
        other = images()
        other[..., bands.BANDS.index("B8")] = 0
        I, other = (made.loss(params, state, (x, LABELS))[1]["I"] for x in (images(), other))
        each = I.shape[1] // 7
        changed = [np.abs(I - other)[:, i * each : (i + 1) * each].max() > 1e-6 for i in range(7)]
        assert changed == [group == "NIR" for group in bands.INDEX]
        assert I.ndim == axes
    params = params["classifier"]
    x = np.random.default_rng(0).standard_normal((1, 6, TINY.width))
    over_all = exvit.transformer(TINY.joint, TINY)
    mixed, alone = (over_all.apply(params["transformer"], {}, part, train=False)[0] for part in (x, x[:, :3]))
    assert np.abs(mixed[:, :3] - alone).max() > 1e-3


def test_prediction_needs_neither_text_nor_vectors():
    for made in prompted():
        params, state = made.init(stream(0, "init"), np.float64)
        c_hat, _ = made.apply(params, state, images(), train=False)
        bare = {part: params[part] for part in ("branches", "shared", "classifier")}
        assert np.array_equal(c_hat, made.apply(bare, state, images(), train=False)[0])

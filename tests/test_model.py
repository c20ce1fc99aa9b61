"""model.py: Fig. 1 against the scalar loops, its exact savings against doing the work, and dtypes throughout."""

import numpy as np
import pytest
from comparing import slope_errors

from bplcz_ref import bands, equations, layers, loops, model, nn, optim, variants, weights
from bplcz_ref.encoders import ebcnn, text
from bplcz_ref.streams import stream

K, n, L, d = 17, 7, 6, 3
B = 5
ALPHA, BETA = 0.25, 2.0


def tokens():
    """Distinct prompts of 4 to 6 tokens: SOT 28, words, EOT 29, zeros."""
    ids = np.zeros((K, n, L), int)
    for k in range(K):
        for i in range(n):
            row = [28, 1 + k, 1 + (k + 3 * i) % 27, *([1 + i] * (i % 2)), 29]
            ids[k, i, : len(row)] = row
    return ids


def network(contrastive="paper", prompted=True):
    encoders = {group: ebcnn.encoder(len(i), width=2, features=d) for group, i in bands.INDEX.items()}
    classifier = layers.linear(n * d, K)
    if not prompted:
        return model.bplcz(encoders, classifier)
    tower = text.encoder(30, width=8, layers=2, heads=2, features=d, context=9)
    return model.bplcz(
        encoders, classifier, text=tower, tokens=tokens(), alpha=ALPHA, beta=BETA, contrastive=contrastive
    )


def batch(dtype=np.float64):
    x = np.random.default_rng(1).standard_normal((B, 8, 8, 18)).astype(dtype)
    return x, np.array([3, 16, 3, 0, 8])


def start(made, dtype=np.float64):
    return made.init(stream(47, "init"), np.dtype(dtype))


def test_every_symbol_is_in_the_trace_and_equals_the_loops():
    made = network()
    params, state = start(made)
    L, trace = made.loss(params, state, batch())
    sides = [{group: x.tolist() for group, x in trace[symbol].items()} for symbol in ("I_i", "T_i")]
    I = loops.concat(list(sides[0].values()))
    w, b = params["classifier"]["weight"].tolist(), params["classifier"]["bias"].tolist()
    c_hat = [[b[k] + sum(I[j][q] * w[k][q] for q in range(n * d)) for k in range(K)] for j in range(B)]
    expected = loops.objective(*sides, batch()[1].tolist(), c_hat, ALPHA, BETA) | {"I": I, "c_hat": c_hat}
    assert list(trace) == ["I_i", "T_i", "I", "c_hat", *list(expected)[:-2], "state"]
    for symbol, value in expected.items():
        groups = value if symbol in ("S_i", "S_hat_i") else {None: value}
        for group, x in groups.items():
            found = trace[symbol] if group is None else trace[symbol][group]
            assert np.abs(np.asarray(found) - np.asarray(x)).max() < 1e-12, symbol
    assert L == trace["L"]


def test_equal_labels_have_equal_texts_and_others_do_not():
    made = network()
    params, state = start(made)
    T = made.loss(params, state, batch())[1]["T_i"]["NIR"]
    assert np.array_equal(T[0], T[2])
    assert np.abs(T[0] - T[1]).max() > 1e-3


def test_encoding_distinct_prompts_once_is_exact():
    """Against the paper's own way: every sample's seven prompts encoded for itself, padded to the full context."""
    made = network()
    params, state = start(made)
    x, y = batch()
    tower = text.encoder(30, width=8, layers=2, heads=2, features=d, context=9)

    def as_printed(p, state, batch):
        x, y = batch
        groups = bands.split(*bands.separate(x))
        S_i, S_hat_i, I_i = [], [], []
        for i, group in enumerate(groups):
            encoder = ebcnn.encoder(len(bands.INDEX[group]), width=2, features=d)
            I, _ = encoder.apply(p["branches"][group], state["branches"][group], groups[group], train=True)
            ids = np.pad(tokens()[y, i], ((0, 0), (0, 9 - L)))
            T, _ = tower.apply(p["text"], {}, ids, train=True)
            S, S_hat = equations.similarity(I, T)
            S_i, S_hat_i, I_i = [*S_i, S], [*S_hat_i, S_hat], [*I_i, I]
        L_con = equations.contrastive_loss(
            equations.fuse(S_i, ALPHA), equations.fuse(S_hat_i, ALPHA), equations.supervised_matrix(y)
        ).L_con
        c_hat = nn.linear(equations.concat(I_i), p["classifier"]["weight"], p["classifier"]["bias"])
        return equations.total_loss(equations.cross_entropy(c_hat, y), L_con, BETA), {}

    value, gradients, _ = model.loss_and_gradients(made.loss, params, state, (x, y))
    printed, slow, _ = model.loss_and_gradients(as_printed, params, state, (x, y))
    assert abs(value - printed) < 1e-13
    slow = weights.named(slow)
    for name, gradient in weights.named(gradients).items():
        assert np.abs(gradient - slow[name]).max() <= 1e-11 * max(np.abs(slow[name]).max(), 1e-6), name
    assert np.abs(slow["text.token_embedding.weight"]).max() > 1e-6


def test_gradients_by_differences():
    made = network()
    params, state = start(made)
    _, gradients, _ = model.loss_and_gradients(made.loss, params, state, batch())
    names = ["branches.NIR.conv1.weight", "text.token_embedding.weight", "text.ln_final.bias", "classifier.weight"]
    errors = slope_errors(lambda p: made.loss(p, state, batch())[0], params, gradients, names, h=1e-6)
    assert max(errors.values()) < 1e-4, errors


@pytest.mark.parametrize("contrastive", variants.VARIANTS)
def test_a_float32_step_stays_float32(contrastive):
    made = network(contrastive)
    params, state = start(made, np.float32)
    value, gradients, trace = model.loss_and_gradients(made.loss, params, state, batch(np.float32))
    stepped, velocity = optim.sgd(params, None, gradients, learning_rate=0.1, momentum=0.9, weight_decay=0.002)
    stepped, velocity = optim.sgd(
        stepped, velocity, gradients, learning_rate=0.1, momentum=0.9, weight_decay=0.002
    )
    floats = {
        name: np.asarray(leaf).dtype
        for tree in (gradients, stepped, velocity, trace, {"value": value})
        for name, leaf in weights.named(tree).items()
        if not name.endswith("num_batches_tracked")
    }
    assert set(floats.values()) == {np.dtype(np.float32)}, {k: v for k, v in floats.items() if v != np.float32}
    assert all(np.isfinite(leaf).all() for leaf in weights.named(gradients).values())
    assert set(weights.named(gradients)) == set(weights.named(params))


@pytest.mark.slow
def test_learnable_variants_have_gradients_there():
    for name in ("infonce", "unicl", "siglip", "bce-scale-bias"):
        made = network(name)
        params, state = start(made)
        _, gradients, _ = model.loss_and_gradients(made.loss, params, state, batch())
        assert all(abs(float(g)) > 0 for g in gradients["contrastive"].values()), name


def test_without_text_the_loss_is_cross_entropy_and_the_start_is_the_same():
    plain, prompted = network(prompted=False), network()
    params, state = start(plain)
    both, _ = start(prompted)
    for name, leaf in weights.named(params).items():
        assert np.array_equal(leaf, weights.named(both)[name]), name
    L, trace = plain.loss(params, state, batch())
    assert L == trace["L_cls"] == prompted.loss(both, state, batch())[1]["L_cls"]
    assert "S" not in trace


def test_prediction_needs_no_text():
    made = network()
    params, state = start(made)
    c_hat, _ = made.apply(params, state, batch()[0], train=False)
    del params["text"]
    again, same = made.apply(params, state, batch()[0], train=False)
    assert np.array_equal(c_hat, again)
    assert np.array_equal(same["branches"]["NIR"]["bn1"]["running_mean"], np.zeros(2))


def test_the_state_moves_in_training():
    made = network()
    params, state = start(made)
    _, _, trace = model.loss_and_gradients(made.loss, params, state, batch())
    moved = trace["state"]["branches"]["SWIR"]["bn3"]
    assert moved["num_batches_tracked"] == 1
    assert np.abs(moved["running_mean"]).max() > 0
    assert np.array_equal(state["branches"]["SWIR"]["bn3"]["running_mean"], np.zeros(4))


def test_without_msm_the_target_is_the_identity():
    made = network("identity")
    params, state = start(made)
    assert np.array_equal(made.loss(params, state, batch())[1]["W"], np.eye(B))


def test_bad_options_are_named():
    with pytest.raises(ValueError, match="'clip'; expected one of paper, identity"):
        network("clip")
    with pytest.raises(ValueError, match="belong together"):
        model.bplcz({}, None, text=1)


def test_gradients_are_those_of_autograd_itself():
    made = network("infonce")
    params, state = start(made)
    L, gradients, trace = model.loss_and_gradients(made.loss, params, state, batch())
    value, slow, aux = nn.value_and_gradients.definition(lambda p: made.loss(p, state, batch()), params)
    assert L == value
    assert trace["L"] == aux["L"]
    for name, gradient in weights.named(slow).items():
        ours = weights.named(gradients)[name]
        assert np.abs(ours - gradient).max() <= 1e-13 * max(np.abs(gradient).max(), 1e-6), name
    assert list(weights.named(gradients)) == list(weights.named(params))


def test_what_the_loss_does_not_use_has_gradient_zero():
    _, gradients, _ = nn.value_and_gradients(lambda p: p["a"] * 2.0, {"a": np.array(1.0), "b": np.ones(3)})
    assert gradients["a"] == 2.0
    assert gradients["b"].tolist() == [0.0, 0.0, 0.0]
    with pytest.raises(ValueError, match="one number"):
        nn.value_and_gradients(lambda p: p * 2.0, np.ones(3))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_raw_reflectances_and_a_missing_batch_axis_are_named(dtype):
    made = network()
    params, state = start(made, dtype)
    raw, _ = batch(dtype)
    raw[..., 8:] = np.round(np.random.default_rng(2).uniform(0.01, 3, raw[..., 8:].shape), 4)
    for x, message in ((raw, "as they are in the files"), (batch(dtype)[0][0], r"for one patch give x\[None\]")):
        with pytest.raises(ValueError, match=message):
            made.apply(params, state, x, train=False)
        with pytest.raises(ValueError, match=message):
            made.loss(params, state, (x, batch()[1]))
    for other in (raw - np.float32(0.11), raw * np.float32(1.01), np.ones_like(raw)):
        made.apply(params, state, other, train=False)
    single = model.classification(layers.Network(None, lambda p, s, x, **options: (np.zeros((len(x), 17)), s)))
    with pytest.raises(ValueError, match="as they are in the files"):
        single.apply({}, {}, raw, train=False)


def test_the_classifier_trains_in_training_alone():
    seen = []

    def apply(params, state, x, *, train, rng=None):
        seen.append(train)
        return dense.apply(params, state, x, train=train)

    dense = layers.linear(n * d, K)
    encoders = {group: ebcnn.encoder(len(i), width=1, features=d) for group, i in bands.INDEX.items()}
    made = model.bplcz(encoders, layers.Network(dense.init, apply))
    params, state = start(made)
    made.loss(params, state, batch())
    made.apply(params, state, batch()[0], train=False)
    assert seen == [True, False]


def test_each_part_starts_from_its_own_stream():
    params, _ = start(network())
    streams = stream(47, "init").spawn(n + 2)
    encoders = [ebcnn.encoder(len(i), width=2, features=d) for i in bands.INDEX.values()]
    tower = text.encoder(30, width=8, layers=2, heads=2, features=d, context=9)
    made = [encoder.init(own, np.float64)[0] for encoder, own in zip(encoders, streams, strict=False)]
    parts = {"branches": dict(zip(bands.INDEX, made, strict=True))}
    parts["classifier"] = layers.linear(n * d, K).init(streams[n], np.float64)[0]
    parts["text"] = tower.init(streams[n + 1], np.float64)[0]
    expected, found = weights.named(parts), weights.named(params)
    assert list(found) == list(expected)
    assert all(np.array_equal(found[name], expected[name]) for name in found)

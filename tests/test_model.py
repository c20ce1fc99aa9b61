"""model.py: what test_in_one_file.py, which compares values, gradients and steps of the whole, does not see."""

import numpy as np
import pytest

from bplcz_ref import bands, layers, model, nn
from bplcz_ref.data.streams import stream
from bplcz_ref.encoders import ebcnn, text
from bplcz_ref.storage import weights

K, n, d, B = 17, 7, 3, 5
TOKENS = np.tile([28, 1, 29], (K, n, 1))
TOKENS[..., 1] += np.arange(K)[:, None]


def network(prompted=True, classifier=None, **options):
    encoders = {group: ebcnn.encoder(len(i), width=2, features=d) for group, i in bands.INDEX.items()}
    if prompted:
        options |= {"text": text.encoder(30, width=8, layers=2, heads=2, features=d, context=9), "tokens": TOKENS}
    return model.bplcz(encoders, classifier or layers.linear(n * d, K), **options)


def batch(dtype=np.float64):
    x = np.random.default_rng(1).standard_normal((B, 8, 8, 18)).astype(dtype)
    return x, np.array([3, 16, 3, 0, 8])


def start(made, dtype=np.float64):
    return made.init(stream(47, "init"), np.dtype(dtype))


def test_without_text_the_loss_is_cross_entropy_and_the_start_is_the_same():
    plain, prompted = network(prompted=False), network()
    params, state = start(plain)
    both, _ = start(prompted)
    assert list(both) == [*params, "text"]
    named = weights.named(both)
    assert all(np.array_equal(leaf, named[name]) for name, leaf in weights.named(params).items())
    L, trace = plain.loss(params, state, batch())
    assert L == trace["L_cls"] == prompted.loss(both, state, batch())[1]["L_cls"]
    assert list(trace) == ["I_i", "I", "c_hat", "L_cls", "L", "state"]


@pytest.mark.parametrize(
    ("options", "message"),
    [({"contrastive": "clip"}, "'clip'; expected one of paper, identity"),
     ({"prompted": False, "text": 1}, "belong together"), ({"prompted": False, "tokens": 1}, "belong together"),
     ({"prompted": False, "text": 1, "tokens": TOKENS[:, :6]}, r"tokens: found shape .*6, 3\), .* n = 7 groups")],
)  # fmt: skip
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        network(**options)


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
    raw, y = batch(dtype)
    raw[..., 8:] = np.round(np.random.default_rng(2).uniform(0.01, 3, raw[..., 8:].shape), 4)
    for x, message in ((raw, "as they are in the files"), (batch(dtype)[0][0], r"for one patch give x\[None\]")):
        with pytest.raises(ValueError, match=message):
            made.apply(params, state, x, train=False)
        with pytest.raises(ValueError, match=message):
            made.loss(params, state, (x, y))
    for other in (raw - np.float32(0.11), raw * np.float32(1.01), np.ones_like(raw)):
        made.apply(params, state, other, train=False)
    single = model.classification(layers.Network(None, lambda p, s, x, **options: (np.zeros((len(x), 17)), s)))
    with pytest.raises(ValueError, match="as they are in the files"):
        single.apply({}, {}, raw, train=False)


def test_the_classifier_trains_in_training_alone():
    seen, dense = [], layers.linear(n * d, K)

    def apply(params, state, x, *, train, rng=None):
        seen.append(train)
        return dense.apply(params, state, x, train=train)

    made = network(classifier=layers.Network(dense.init, apply))
    params, state = start(made)
    made.loss(params, state, batch())
    made.apply(params, state, batch()[0], train=False)
    assert seen == [True, False]


def test_what_branches_share_starts_as_the_first_ones_and_its_gradients_add():
    plain, made = network(prompted=False), network(prompted=False, shared="proj")
    (params, state), (common, _) = start(plain), start(made)
    first = params["branches"]["RGB"]["proj"]
    assert all(np.array_equal(leaf, first[name]) for name, leaf in common["shared"]["proj"].items())
    for own in params["branches"].values():
        own["proj"] = first
    L, gradients, _ = model.loss_and_gradients(plain.loss, params, state, batch())
    L_shared, found, _ = model.loss_and_gradients(made.loss, common, state, batch())
    assert L == L_shared
    total = sum(own["proj"]["weight"] for own in gradients["branches"].values())
    np.testing.assert_allclose(found["shared"]["proj"]["weight"], total, rtol=1e-12)

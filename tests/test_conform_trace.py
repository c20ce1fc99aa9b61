"""conform/tape.py and tracing.py: every layer is seen, with training's gradients; tolerances are measured."""

import json

import numpy as np
import pytest

from bplcz_ref import layers, model, nn, optim, systems, weights
from bplcz_ref.__main__ import main
from bplcz_ref.conform import tape, tracing
from bplcz_ref.encoders import resnet

SMALL = systems.SMALL._replace(width=2, features=6, text_width=8, text_layers=1, grid=8)
RULE = {"learning_rate": 0.1, "momentum": 0.9, "weight_decay": 0.01}


def batch(B=3, side=32, seed=1):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((B, side, side, 18)), np.array([3, 5, 3, 0, 1, 2][:B])


def small(dtype="float64"):
    network = model.classification(resnet.resnet(18, 17, depths=(1,), widths=(2,)))
    return network, *network.init(np.random.default_rng(0), dtype)


@pytest.fixture(scope="module")
def traced():
    network, params, state = small()
    return tracing.trace(network, params, state, batch(side=16), dtype="float64", **RULE)


def meta(found):
    return json.loads(bytes(found[tracing.META]))


@pytest.mark.slow
@pytest.mark.parametrize("name", systems.SYSTEMS)
def test_the_tape_sees_every_layer_of_every_system_and_changes_nothing(name, monkeypatch):
    network = systems.build(name, SMALL)
    params, state = network.init(np.random.default_rng(0), np.float64)
    x, y = batch()
    step = tape.step(network.loss, params, state, (x, y))
    monkeypatch.setattr(nn, "dropout", lambda x, rate, **_: x)  # the tape leaves it out
    monkeypatch.setattr(nn, "dropout_factors", lambda rng, shape, rate, dtype: np.ones(shape, dtype))
    L, gradients, trace = model.loss_and_gradients(network.loss, params, state, (x, y))
    assert step.values["L"] == pytest.approx(L, rel=1e-12)
    flat = weights.named(gradients)
    rounding = 2.0**-50 * max(np.abs(g).max() for g in flat.values())  # all that a bias before a batch norm has
    for parameter, g in flat.items():
        assert np.abs(step.gradients[parameter] - g).max() <= 1e-9 * np.abs(g).max() + rounding, parameter
    modules = {n.removesuffix(".weight") for n in weights.named(params) if n.endswith(".weight")}
    assert modules <= {*step.graph}, "every module with a weight has its output there"
    for each in modules - {n for n in modules if n.endswith("token_embedding")}:
        assert f"{each}.input" in step.graph
        assert {f"{each}.weight"} <= {*step.graph[each]["from"]}, each
    assert {"state"}.isdisjoint(step.values)
    assert weights.named(trace["state"]).keys() == step.state.keys()


def test_gradients_of_outputs_are_finite_differences(monkeypatch):
    """dL/d(conv2's output), by adding a small constant to one entry of it."""
    network, params, state = small()
    x, y = batch(side=16)
    step = tape.step(network.loss, params, state, (x, y))

    class Nudged(tape.Tap):
        def note(self, op, given, y):
            super().note(op, given, y)
            if self.events[-1].name == "layer1.0.conv2":
                y._value[0, 1, 2, 1] += self.nudge  # before anything has read it

    def loss(nudge):
        Nudged.nudge = nudge
        monkeypatch.setattr(tape, "Tap", Nudged)
        return float(tape.step(network.loss, params, state, (x, y)).values["L"])

    slope = (loss(1e-5) - loss(-1e-5)) / 2e-5
    assert slope == pytest.approx(step.gradients["layer1.0.conv2"][0, 1, 2, 1], rel=1e-5)


def test_the_tap_is_gone_after_a_step_even_after_an_error():
    def fails(params, state, batch):
        raise ValueError("of the model")

    with pytest.raises(ValueError, match="of the model"):
        tape.step(fails, {"w": np.ones(2)}, {}, batch())
    assert nn.TAP.get() is None


def test_a_batch_norm_shows_what_it_gives_before_its_relu_and_the_next_layer_takes_it_after(traced):
    y, x = traced["layer1.0.bn1"], traced["layer1.0.conv2.input"]
    assert (y < 0).any()
    np.testing.assert_array_equal(x, np.maximum(y, 0))
    assert meta(traced)["graph"]["layer1.0.conv2.input"] == {"from": ["layer1.0.bn1"], "by": "relu"}


def test_names_come_in_the_order_of_computation(traced):
    names = meta(traced)["names"]
    inputs = ["x", "step0.conv1.weight", "conv1", "layer1.0.conv2", "fc", "L", "grad.L"]
    later = ["grad.fc.weight", "grad.layer1.0.conv2", "grad.conv1.weight", "step1.velocity.conv1.weight"]
    expected = [*inputs, *later, "step1.conv1.weight", "step2.velocity.fc.bias", "step2.bn1.running_var"]
    assert sorted(expected, key=names.index) == expected


def test_the_steps_are_those_of_SGD(traced):
    v, w, g = (traced[f"step{k}"] for k in ("1.velocity.fc.weight", "0.fc.weight", "0.fc.weight"))
    g = traced["grad.fc.weight"] + 0.01 * w
    np.testing.assert_allclose(v, g, rtol=1e-12)
    np.testing.assert_allclose(traced["step1.fc.weight"], w - 0.1 * g, rtol=1e-12)
    network, params, state = small()
    velocity = None
    for _ in range(2):
        _, gradients, trace = model.loss_and_gradients(network.loss, params, state, batch(side=16))
        params, velocity = optim.sgd(params, velocity, gradients, **RULE)
        state = trace["state"]
    np.testing.assert_allclose(traced["step2.conv1.weight"], params["conv1"]["weight"], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(traced["step2.bn1.running_var"], state["bn1"]["running_var"], rtol=1e-9)


def test_tolerances_cover_float32_and_are_far_below_the_values(traced):
    """A float32 run of the kernels, in their own order of summation, lies within; a thousandth does not."""
    network, params, state = small("float32")
    x, y = batch(side=16)
    _, gradients, _ = model.loss_and_gradients(network.loss, params, state, (x.astype("f"), y))
    tolerance = meta(traced)["tolerance"]["float32"]
    for name, g in weights.named(gradients).items():
        ours = traced[f"grad.{name}"]
        rms, largest = tracing.size(g - ours)
        assert rms <= tolerance[f"grad.{name}"][0], name
        assert largest <= tolerance[f"grad.{name}"][1], name
    for name in ("conv1", "layer1.0.bn2", "fc", "L_cls"):
        assert tolerance[name][0] < 1e-4 * tracing.size(traced[name])[0], name
        assert meta(traced)["tolerance"]["float64"][name][0] < 1e-6 * tolerance[name][0], name


def test_a_gate_that_rounding_may_turn_widens_what_its_gradient_may_be():
    """One pre-activation within rounding of 0: the gradient there may be all or nothing, and is allowed to be."""

    def run(distance):
        def apply(params, state, x, *, train, rng=None):
            return nn.linear(nn.relu(nn.linear(nn.spatial_mean(x), **params["a"])), **params["b"]), state

        network = model.classification(layers.Network(lambda rng, dtype: ({}, {}), apply))
        rng = np.random.default_rng(0)
        a = {"weight": rng.standard_normal((3, 18)), "bias": np.zeros(3)}
        x = np.repeat(rng.standard_normal((2, 1, 1, 18)), 4, 1)
        a["bias"][1] = distance - a["weight"][1] @ x[0, 0, 0]
        params = {"a": a, "b": {"weight": rng.standard_normal((17, 3)), "bias": np.zeros(17)}}
        found = tracing.trace(network, params, {}, (x, np.array([1, 2])), steps=1)
        return meta(found)["tolerance"]["float32"]["grad.a"][1] / np.abs(found["grad.a"]).max()

    assert run(distance=0.5) < 1e-4
    assert run(distance=1e-8) > 0.1


def test_only_patterns_are_kept_and_a_pattern_without_names_is_an_error():
    network, params, state = small()
    found = tracing.trace(network, params, state, batch(side=16), steps=1, only=["layer1.*", "L"])
    kept = {name.split(".")[0] for name in found if name != tracing.META}
    assert kept == {"layer1"}, "L is L_cls here, which is not asked for"
    with pytest.raises(ValueError, match="no name matches layer9"):
        tracing.trace(network, params, state, batch(side=16), steps=1, only=["layer9.*"])


@pytest.mark.parametrize(("options", "said"), [({"steps": 0}, "steps is 0"), ({"dtype": "float16"}, "'float16'")])
def test_other_arguments_are_refused(options, said):
    with pytest.raises(ValueError, match=said):
        tracing.trace(*small(), batch(side=16), **options)


# ----------------------------------------------------------------------------------------------------- from files


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("ebcnn", {"width": 2, "features": 6}),
        ("ebcnn-bplcz", {"width": 2, "features": 6, "text_width": 8, "text_layers": 1, "text_heads": 1}),
        ("exvit", {"grid": 8, "published": False}),
        ("exvit-bplcz", {"grid": 16, "published": True, "reading": "A", "features": 6}),
        ("exvit-bplcz", {"grid": 16, "published": False, "reading": "B", "features": 6}),
        ("resnet50", {"published": False}),
        ("resnext50", {"published": False}),
        ("densenet121", {"published": False}),
        ("convnext", {"published": False}),
    ],
)
def test_system_and_sizes_are_told_from_the_weights(name, settings, tmp_path):
    text = {"text_width": 8, "text_layers": 1, "text_heads": 1}
    network = systems.build(name, systems.PAPER._replace(**{**text, **settings}))
    params, state = network.init(np.random.default_rng(0), "float32")
    arrays = weights.named(params) | weights.named(state)
    assert tracing.system_of(arrays, "w.npz") == name
    found = tracing.settings_of(arrays, name, {})
    assert {key: getattr(found, key) for key in settings} == settings
    weights.load(arrays, systems.build(name, found))


def test_the_heads_are_CLIPs_and_a_setting_outranks_what_is_told():
    arrays = {"text.token_embedding.weight": np.zeros((3, 512))}
    arrays["text.transformer.resblocks.0.ln_1.weight"] = np.ones(512)
    assert tracing.settings_of(arrays, "ebcnn-bplcz", {}).text_heads == 8
    assert tracing.settings_of(arrays, "ebcnn-bplcz", {"text_heads": 4}).text_heads == 4


def test_weights_of_no_system_are_refused(tmp_path, capsys):
    np.savez(tmp_path / "w.npz", a=np.ones(2))
    assert main(["conform", "trace", str(tmp_path / "w.npz"), "b.npz", str(tmp_path / "o.npz")]) == 2
    assert "its names fit no system; give --system" in capsys.readouterr().err
    assert not (tmp_path / "o.npz").exists()


X, Y = np.zeros((2, 32, 32, 18), "f"), np.array([0, 16])
WRONG = {
    "no labels": ({"x": X}, "found x; expected y"),
    "half of it": ({"sen1": X[..., :8], "y": Y}, "expected y, and x or both sen1 and sen2"),
    "channels first": ({"x": np.moveaxis(X, -1, 1), "y": Y}, "channels last"),
    "not a number": ({"x": np.full_like(X, np.nan), "y": Y}, "expected finite floats"),
    "classes from 1": ({"x": X, "y": Y + 1}, "classes from 0 to 16"),
    "one-hot": ({"x": X, "y": np.eye(17)[Y]}, "expected 2 whole numbers"),
    "few tokens": ({"x": X, "y": Y, "tokens": np.zeros((17, 7, 3), int)}, r"expected whole numbers \(17, 7\)"),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_batch_that_does_not_fit_is_named(what, tmp_path):
    arrays, said = WRONG[what]
    np.savez(tmp_path / "b.npz", **arrays)
    with pytest.raises(ValueError, match=said):
        tracing.read_batch(tmp_path / "b.npz", "ebcnn-bplcz", systems.PAPER)


def test_the_two_sensors_are_joined_and_tokens_may_have_more_padding(tmp_path):
    tokens = systems.prompt_tokens(systems.tokenizer(None))
    longer = np.pad(tokens, ((0, 0), (0, 0), (0, 77 - tokens.shape[-1])))
    rng = np.random.default_rng(0)
    sen1, sen2 = rng.standard_normal((2, 32, 32, 8)), rng.standard_normal((2, 32, 32, 10))
    np.savez(tmp_path / "b.npz", sen1=sen1, sen2=sen2, y=Y, tokens=longer)
    x, y = tracing.read_batch(tmp_path / "b.npz", "ebcnn-bplcz", systems.PAPER)
    np.testing.assert_array_equal(x, np.concatenate([sen1, sen2], -1))
    longer[3, 4, 2] += 1
    np.savez(tmp_path / "b.npz", sen1=sen1, sen2=sen2, y=Y, tokens=longer)
    with pytest.raises(ValueError, match="differ from ours in 1 of 119 prompts, first in 'a photo of a "):
        tracing.read_batch(tmp_path / "b.npz", "ebcnn-bplcz", systems.PAPER)


def test_a_setting_that_does_not_exist_is_refused(capsys):
    for word, message in (
        ("epoch=3", "did you mean epochs?"),
        ("width", "'width' is no setting; expected name=value"),
    ):
        assert main(["conform", "trace", "w.npz", "b.npz", "o.npz", "--set", word]) == 2
        assert message in capsys.readouterr().err

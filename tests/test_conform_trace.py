"""conform/tracing.py, given.py, chain.py, difference.py, layouts.py: every layer is seen, tolerances are measured,
what a trace is given; what differs, what only follows, what is wrong by itself, and its name."""

import json

import numpy as np
import pytest

from bplcz_ref import conform, layers, model, nn, systems
from bplcz_ref.__main__ import main
from bplcz_ref.conform import chain, given, layouts, tracing, verdict
from bplcz_ref.encoders import convnext, resnet
from bplcz_ref.storage import weights

SMALL = systems.SMALL._replace(width=2, features=6, text_width=8, text_layers=1, grid=8)
RULE = {"learning_rate": 0.1, "momentum": 0.9, "weight_decay": 0.01}


def batch(B=3, side=32, seed=1):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((B, side, side, 18)), np.array([3, 5, 3, 0, 1, 2][:B])


NETWORK = model.classification(resnet.resnet(18, 17, depths=(1,), widths=(2,)))


def small(dtype="float64"):
    return NETWORK, *NETWORK.init(np.random.default_rng(0), dtype)


def trace_of(network, dtype="float64"):
    start = network.init(np.random.default_rng(0), "float64")
    return conform.trace(network, *start, batch(side=16), dtype=dtype, **RULE)


@pytest.fixture(scope="module")
def traced():
    return trace_of(NETWORK)


def meta(found):
    return json.loads(bytes(found[tracing.META]))


@pytest.mark.slow
@pytest.mark.parametrize("name", [*systems.SYSTEMS, "exvit-bplcz, B"])
def test_a_step_shows_every_layer_of_every_system_and_changes_nothing(name, monkeypatch):
    """A trace has no dropout, fuses nothing and encodes prompts one by one; the network by itself does."""
    monkeypatch.setattr(systems, "SMALL_EXVIT", systems.SMALL_EXVIT._replace(dropout=0.0))
    network = systems.build(name.split(",")[0], SMALL._replace(reading="B") if name.endswith("B") else SMALL)
    params, state = network.init(np.random.default_rng(0), np.float64)
    step = tracing.step(network.loss, params, state, batch(), [])
    L, gradients, trace = model.loss_and_gradients(network.loss, params, state, batch())
    assert step.values[step.same.get("L", "L")] == pytest.approx(L, rel=1e-12)
    flat = weights.named(gradients)
    rounding = 2.0**-50 * max(np.abs(g).max() for g in flat.values())  # all that a bias before a batch norm has
    for parameter, g in flat.items():
        assert np.abs(step.gradients[parameter] - g).max() <= 1e-9 * np.abs(g).max() + rounding, parameter
    modules = {n.removesuffix("weight").rstrip("._") for n in weights.named(params) if n.endswith("weight")}
    assert modules <= {*step.layers}, "every module with a weight has its output there"
    assert {n for layer in step.layers.values() for n in layer["parameters"].values()} <= {*flat}
    assert weights.named(trace["state"]).keys() == weights.named(step.state).keys()
    assert not layers.watched()


def test_gradients_of_outputs_give_those_of_parameters(traced):
    np.testing.assert_allclose(traced["grad.fc"].T @ traced["fc.input"], traced["grad.fc.weight"], rtol=1e-9)
    deep = traced["grad.layer1.0.bn2"].sum((0, 1, 2))
    np.testing.assert_allclose(deep, traced["grad.layer1.0.bn2.bias"], rtol=1e-9)


def test_a_batch_norm_shows_what_it_gives_before_its_relu_and_the_next_layer_takes_it_after(traced):
    y, x = traced["layer1.0.bn1"], traced["layer1.0.conv2.input"]
    assert (y < 0).any()
    np.testing.assert_array_equal(x, np.maximum(y, 0))
    assert meta(traced)["same"]["layer1.0.bn1.input"] == "layer1.0.conv1", "an array is stored once"


def test_names_come_in_the_order_of_computation(traced):
    names = meta(traced)["names"]
    inputs = ["x", "step0.conv1.weight", "conv1", "layer1.0.conv2", "fc", "L", "grad.L"]
    later = ["grad.fc.weight", "grad.layer1.0.conv2", "grad.conv1.weight", "step1.velocity.conv1.weight"]
    expected = [*inputs, *later, "step1.conv1.weight", "step2.velocity.fc.bias", "step2.bn1.running_var"]
    assert sorted(expected, key=names.index) == expected
    floats = [n for n, a in traced.items() if a.dtype.kind == "f"]
    assert [*meta(traced)["tolerance"]["float32"]] == floats, "the same bytes from run to run"


def test_tolerances_cover_float32_and_are_far_below_the_values(traced):
    """A float32 run of the kernels, in their own order of summation, lies within; a thousandth does not."""
    network, params, state = small("float32")
    x, y = batch(side=16)
    _, gradients, _ = model.loss_and_gradients(network.loss, params, state, (x.astype("f"), y))
    tolerance = meta(traced)["tolerance"]["float32"]
    for name, g in weights.named(gradients).items():
        assert (tracing.size(g - traced[f"grad.{name}"]) <= tolerance[f"grad.{name}"]).all(), name
    for name in ("conv1", "layer1.0.bn2", "fc", "L_cls"):
        assert tolerance[name][0] < 1e-4 * tracing.size(traced[name])[0], name
        assert meta(traced)["tolerance"]["float64"][name][0] < 1e-6 * tolerance[name][0], name


def test_a_gate_that_rounding_may_turn_widens_what_its_gradient_may_be():
    """One pre-activation within rounding of 0: the gradient there may be all or nothing, and is allowed to be."""

    def allowed(distance):
        gate = layers.serial(layers.spatial_mean, ("a", layers.linear(18, 1)), layers.relu)
        network = model.classification(layers.serial(gate, ("fc", layers.linear(1, 17))))
        params, state = network.init(np.random.default_rng(0), "float64")
        x, y = batch(B=1, side=4)
        params["a"]["bias"] = -x.mean((1, 2))[0] @ params["a"]["weight"][0] + np.array([distance])
        found = tracing.trace(network, params, state, (x, y), dtype="float32")
        return meta(found)["tolerance"]["float32"]["grad.a.weight"][0] / tracing.size(found["grad.a.weight"])[0]

    assert allowed(1e-9) > 1
    assert allowed(1e-2) < 1e-3


def test_only_patterns_are_kept_and_other_arguments_are_refused():
    arguments = *small(), batch(side=16)
    found = tracing.trace(*arguments, steps=1, only=("conv1*", "grad.fc.*"))
    assert {n.removeprefix("grad.").partition(".")[0] for n in found if n != tracing.META} == {"conv1", "fc"}
    for options, said in (
        ({"only": ("cnv*",)}, "no name matches cnv"),
        ({"steps": 0}, "steps is 0"),
        ({"dtype": "float16"}, "'float16'"),
    ):
        with pytest.raises(ValueError, match=said):
            tracing.trace(*arguments, **options)


# ------------------------------------------------------------------------------------------- what a trace is given


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("ebcnn-bplcz", SMALL._replace(preset="paper", text_heads=1)),
        ("exvit-bplcz", SMALL._replace(preset="paper", reading="B", text_heads=1)),
        pytest.param("resnext50", SMALL._replace(preset="paper"), marks=pytest.mark.slow),
    ],
)
def test_system_and_sizes_are_told_from_the_weights(name, settings):
    params, state = systems.build(name, settings).init(np.random.default_rng(0), np.float32)
    arrays = weights.named(params) | weights.named(state)
    assert given.system_of(arrays, "w.npz") == name
    weights.load(arrays, systems.build(name, given.settings_of(arrays, name, {})))
    assert given.settings_of(arrays, name, {"beta": 3.0}).beta == 3.0


@pytest.mark.slow
def test_files_that_do_not_fit_are_told_in_one_line(tmp_path, capsys):
    network = systems.build("ebcnn", SMALL)
    weights.save(tmp_path / "w.npz", *network.init(np.random.default_rng(0), np.float32))
    x, y = batch()
    sen = {"sen1": x[..., :8], "sen2": x[..., 8:], "y": y}
    command = ["conform", "trace", *(str(tmp_path / f) for f in ("w.npz", "b.npz", "o.npz")), "--steps", "1"]
    for arrays, said in (
        ({"x": x}, "expected y, and x or both sen1 and sen2"),
        ({"x": np.moveaxis(x, -1, 1), "y": y}, "channels last: 8 of sen1, then 10 of sen2"),
        ({"x": np.full_like(x, np.nan), "y": y}, "expected finite floats"),
        (sen | {"y": y + 15}, "classes from 0 to 16"),
        (sen, ""),
    ):
        np.savez(tmp_path / "b.npz", **arrays)
        assert main(command) == (2 if said else 0)
        printed = capsys.readouterr()
        assert (said in printed.err, printed.err.count("\n")) == (True, 1 if said else 0)
    assert "ebcnn, " in printed.out
    with pytest.raises(ValueError, match="its names fit no system; give --system"):
        given.system_of({"a": np.ones(3)}, "strange.npz")


def test_other_prompts_than_ours_are_told(tmp_path):
    words = systems.prompt_tokens(systems.tokenizer(None))
    padded = np.pad(words, ((0, 0), (0, 0), (0, 4)))
    given.check_tokens("b.npz", padded, words)
    padded[2, 3, 4] += 1
    with pytest.raises(ValueError, match="tokens differ from ours in 1 of 119 prompts, first in 'a photo of"):
        given.check_tokens("b.npz", padded, words)
    with pytest.raises(ValueError, match="with L of"):
        given.check_tokens("b.npz", words[..., :-1], words)


# ---------------------------------------------------------------------------------------------- the chain of a set


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 5])
def test_a_float32_program_passes_the_chain_and_a_wrong_step_is_found(seed):
    """The kernels in float32 against the trace; then with another rate."""
    found = chain.answered(seed, "float32")
    difference, lacking = chain.judge(found, seed, "float32")
    assert difference.ok, str(difference)
    assert lacking == []
    wrong = chain.answered(seed, "float32", chain.RULE | {"learning_rate": 0.05})
    assert chain.judge(wrong, seed, "float32")[0].guilty[0].name.startswith("step1.")
    assert chain.judge({"L": found["L"]}, seed, "float32")[1][0] == "S"


@pytest.mark.slow
def test_the_chain_in_process():
    def answer(weights, x, y, tokens, **numbers):
        assert x.dtype == weights["classifier.bias"].dtype == np.float32
        assert {*numbers} == {"alpha", "beta", "heads", *chain.RULE}
        return chain.answered(0, "float32")

    found = conform.check({"chain": answer})
    assert (found.ok, str(found).count("AGREES")) == (True, 1), str(found)
    found = conform.check({"chain": lambda **given: answer(**given) | {"S": np.zeros((5, 5))}})
    assert found.exit_code == 1
    assert "chain: DIVERGES in value: S is the first" in str(found)
    assert "chain: GUILTY   S: " in str(found)
    found = conform.check({"chain": lambda **given: answer(**given) | {"S": np.zeros((4, 4))}})
    (guilty, *_) = json.loads(json.dumps(verdict.as_json(found), allow_nan=False))["chain"]["guilty"]
    assert (guilty["name"], guilty["error"]) == ("S", "Infinity"), "another shape is written too"
    found = conform.check({"chain": lambda **given: 1 / 0})
    assert found.exit_code == 2
    assert "chain: raised ZeroDivisionError" in str(found)
    assert conform.check({"chain": lambda **given: {"L": answer(**given)["L"]}}).exit_code == 2


# ---------------------------------------------------------------------------------------------------- differences


def changed(ours, name, change):
    return {n: a for n, a in ours.items() if n != tracing.META} | {name: change(ours[name])}


def first(found):
    return found.guilty[0].name


@pytest.mark.slow
def test_a_trace_agrees_with_itself_in_both_precisions(traced):
    short = {n: a.astype("float32") for n, a in traced.items() if a.dtype.kind == "f"}
    found = conform.diff(traced, short)
    assert (found.ok, found.dtype, found.exit_code) == (True, "float32", 0)
    assert not conform.diff(traced, short, dtype="float64").ok, "float32 numbers are not within float64's rounding"


@pytest.mark.parametrize("name", ["layer1.0.conv2", "step2.velocity.conv1.weight", "L_cls"])
def test_the_tolerance_is_the_line(traced, name):
    allowed = json.loads(bytes(traced[tracing.META]))["tolerance"]["float32"][name][0]
    theirs = lambda times: {name: traced[name] + times * allowed}  # alone, so that no relation is worked out
    assert conform.diff(traced, theirs(0.9), dtype="float32").ok
    assert first(conform.diff(traced, theirs(1.1), dtype="float32")) == name


@pytest.mark.slow
def test_what_follows_is_not_guilty_and_two_mistakes_are_both_found(traced):
    """The first that differs, and a layer that is wrong from their own input, far behind it."""
    theirs = changed(traced, "layer1.0.conv1.input", lambda a: a + 1)
    theirs["L_cls"] = 3 * traced["L_cls"]
    theirs["fc"] = -traced["fc"]
    found = conform.diff(traced, theirs)
    assert [f.name for f in found.guilty] == ["layer1.0.conv1.input", "layer1.0.conv1", "fc"]
    assert found.guilty[0].names == ("ours 1 more",)
    assert found.guilty[-1].names == ("y negative",)
    assert found.blocked == ["L_cls"]
    alone = conform.diff(traced, changed(traced, "step0.fc.weight", lambda a: 2 * a))
    assert [(f.name, f.names) for f in alone.guilty][0] == ("step0.fc.weight", ("ours doubled",))


def test_a_part_of_the_names_is_enough_and_a_second_name_counts(traced):
    found = conform.diff(traced, {"conv1": traced["conv1"], "c_hat": traced["fc"], "L": 2 * traced["L_cls"]})
    assert (first(found), found.agree) == ("L", ["conv1", "c_hat"])
    assert found.missing > 100


def test_names_that_match_nothing_are_told_with_the_nearest(traced):
    found = conform.diff(traced, {"layer1.0.covn2": traced["layer1.0.conv2"], "module.fc": traced["fc"]})
    assert found.exit_code == 2
    assert str(found).startswith("NOTHING COMPARED")
    assert found.unknown["layer1.0.covn2"] == "layer1.0.conv2"
    assert conform.diff(traced, {"layer1.0": traced["fc"], "fc": traced["fc"]}).unknown == {}, (
        "a container is none"
    )


def test_images_may_come_channels_first_and_weights_may_not(traced):
    theirs = {n: np.moveaxis(a, -1, 1) if a.ndim == 4 and "weight" not in n else a for n, a in traced.items()}
    found = conform.diff(traced, theirs)
    assert found.ok, str(found)
    assert [*found.layouts] == [layouts.FIRST]
    wrong = theirs | {"layer1.0.conv2": -theirs["layer1.0.conv2"]}
    assert "weight negative" in conform.diff(traced, wrong).guilty[0].names
    assert not conform.diff(traced, {"step0.conv1.weight": np.moveaxis(traced["step0.conv1.weight"], -1, 1)}).ok


def test_prompts_of_every_sample_are_those_of_their_class():
    rng = np.random.default_rng(0)
    labels, o = np.array([5, 2, 5]), rng.standard_normal((2 * 7, 4, 3))
    per_sample = o.reshape(2, 7, 4, 3)[[1, 0, 1]]  # classes in ascending order: 2, 5
    padded = np.pad(per_sample, ((0, 0), (0, 0), (0, 2), (0, 0)), constant_values=9)
    limit = np.full(2, 1e-9)
    for theirs in (padded, np.swapaxes(padded, 0, 1), padded.reshape(21, 6, 3)):
        found = layouts.compare("text.ln", o, theirs, limit, labels, True)
        assert found.agrees, found.layout
    wrong = padded.copy()
    wrong[2, 3, 1, 0] += 1
    assert not layouts.compare("text.ln", o, wrong, limit, labels, True).agrees
    g = np.zeros_like(padded)
    g[:, :, :4] = per_sample * np.array([0.25, 1, 0.75])[:, None, None, None]  # the two of class 5 add up
    assert layouts.compare("grad.text.ln", o, g, limit, labels, True).agrees


@pytest.mark.slow
def test_a_layer_is_worked_out_again_from_their_input():
    """ConvNeXt: a bias, groups and another eps, which no operation of the kit has; and a wrong eps behind it."""
    ours = trace_of(model.classification(convnext.convnext(depths=(1,), widths=(4,))))
    norm = "features.1.0.block.2"
    given = [ours[n] for n in ("features.1.0.block.0", f"step0.{norm}.weight", f"step0.{norm}.bias")]
    found = conform.diff(ours, changed(ours, norm, lambda _: nn.layer_norm(*given, eps=1e-3)))
    assert [(f.name, f.op) for f in found.guilty] == [(norm, "layer_norm")]


def test_what_is_no_trace_or_no_number_is_refused(traced):
    short = trace_of(NETWORK, "float32")
    for arguments, line in (
        (({"conv1": traced["conv1"]}, traced), "the first file is no trace"),
        ((traced, {"conv1": np.array("a")}), "conv1 is <U1; expected real numbers"),
        ((traced | {tracing.META: traced[tracing.META][:-9]}, traced), "it is damaged or of another version"),
        ((short, traced, "float64"), "this trace judges float32; for float64 trace again"),
    ):
        with pytest.raises(ValueError, match=line):
            conform.diff(*arguments[:2], dtype=arguments[2] if len(arguments) > 2 else None)


def test_the_command_writes_the_report_and_its_exit_code_tells(traced, tmp_path, capsys):
    for name, arrays in (("o", traced), ("t", changed(traced, "fc", lambda a: 2 * a))):
        np.savez(tmp_path / f"{name}.npz", **arrays)
    o, t, r = (str(tmp_path / name) for name in ("o.npz", "t.npz", "r.json"))
    assert main(["conform", "diff", o, t, "--json", r]) == 1
    said = capsys.readouterr().out
    assert said.startswith("DIVERGES in value: fc is the first of ")
    assert 'GUILTY   fc: this is "y doubled"' in said
    assert len(said.splitlines()) <= 24
    report = json.loads((tmp_path / "r.json").read_text("utf-8"))
    assert (report["exit_code"], report["guilty"][0]["name"]) == (1, "fc")
    assert main(["conform", "diff", o, o]) == 0
    assert capsys.readouterr().out.startswith("AGREES")

"""conform/difference.py, layouts.py, layers.py, recognise.py: what differs, what only follows, how it looks."""

import json

import numpy as np
import pytest

from bplcz_ref import conform, model, nn
from bplcz_ref.__main__ import main
from bplcz_ref.conform import difference, layers, layouts, recognise, tracing
from bplcz_ref.conform.numbers import coarse
from bplcz_ref.encoders import resnet

RULE = {"learning_rate": 0.1, "momentum": 0.9, "weight_decay": 0.01}


@pytest.fixture(scope="module")
def ours():
    rng = np.random.default_rng(1)
    network = model.classification(resnet.resnet(18, 17, depths=(1,), widths=(2,)))
    params, state = network.init(np.random.default_rng(0), "float64")
    x, y = rng.standard_normal((3, 16, 16, 18)), np.array([3, 5, 3])
    return conform.trace(network, params, state, (x, y), dtype="float64", **RULE)


def changed(ours, name, change):
    return {n: a for n, a in ours.items() if n != tracing.META} | {name: change(ours[name])}


def first(found):
    return found.guilty[0].name


def test_a_trace_agrees_with_itself_in_both_precisions(ours):
    assert conform.diff(ours, ours).dtype == "float64"
    short = {n: a.astype("float32") for n, a in ours.items() if a.dtype.kind == "f"}
    found = conform.diff(ours, short)
    assert (found.ok, found.dtype, found.exit_code) == (True, "float32", 0)
    assert not conform.diff(ours, short, dtype="float64").ok, "float32 numbers are not within float64's rounding"


@pytest.mark.parametrize(
    "name", ["layer1.0.conv2", "grad.layer1.0.conv2.weight", "step2.velocity.conv1.weight", "L_cls"]
)
def test_the_tolerance_is_the_line(ours, name):
    allowed = json.loads(bytes(ours[tracing.META]))["tolerance"]["float32"][name][0]
    theirs = lambda times: {name: ours[name] + times * allowed}  # alone, so that no layer is computed again
    assert conform.diff(ours, theirs(0.9), dtype="float32").ok
    assert first(conform.diff(ours, theirs(1.1), dtype="float32")) == name


def test_what_follows_is_blocked_and_two_mistakes_are_both_guilty(ours):
    names = ("layer1.0.conv1", "layer1.0.bn3", "fc.input", "L_cls", "grad.fc.weight", "step1.fc.bias")
    theirs = {name: 2 * ours[name] for name in names} | {"conv1": ours["conv1"]}
    theirs["layer1.0.conv1.input"] = ours["layer1.0.conv1.input"] + 1
    found = conform.diff(ours, theirs)
    assert first(found) == "layer1.0.conv1.input"
    assert found.blocked == ["layer1.0.bn3", "fc.input", "L_cls", "grad.fc.weight", "step1.fc.bias"]
    assert [(f.name, f.itself) for f in found.guilty[1:]] == [("layer1.0.conv1", True)], (
        "not 2 times of another input"
    )
    two = changed(ours, "step0.conv1.weight", lambda a: -a) | {"step0.fc.weight": 2 * ours["step0.fc.weight"]}
    assert [f.name for f in conform.diff(ours, two).guilty] == ["step0.conv1.weight", "step0.fc.weight"]


def test_a_part_of_the_names_is_enough_and_the_nearest_ones_before_are_given(ours):
    found = conform.diff(
        ours, {name: ours[name] for name in ("conv1", "L_cls")} | {"fc.input": ours["fc.input"] + 1}
    )
    (guilty,) = found.guilty
    assert (guilty.name, guilty.made_of) == ("fc.input", ("conv1",))
    assert guilty.looks == "ours shifted by 1"
    assert found.missing > 100


def test_the_second_name_of_an_array_is_compared_too(ours):
    theirs = changed(ours, "layer1.0.bn1.input", lambda a: a) if "layer1.0.bn1.input" in ours else dict(ours)
    theirs["layer1.0.bn1.input"] = ours["layer1.0.conv1"] + 1  # something came between conv1 and bn1
    assert first(conform.diff(ours, theirs)) == "layer1.0.bn1.input"
    alone = conform.diff(ours, {"c_hat": ours["fc"], "L": ours["L_cls"] * 2})
    assert first(alone) == "L"


def test_names_that_match_nothing_are_told_with_the_nearest(ours):
    found = conform.diff(ours, {"layer1.0.covn2": ours["layer1.0.conv2"], "module.fc": ours["fc"]})
    assert found.exit_code == 2
    assert str(found).startswith("NOTHING COMPARED")
    assert found.unknown == {"layer1.0.covn2": "layer1.0.conv2", "module.fc": found.unknown["module.fc"]}
    assert conform.diff(ours, {"layer1.0": ours["fc"], "fc": ours["fc"]}).unknown == {}, "a container is none"


# -------------------------------------------------------------------------------------- layouts and likenesses


def test_images_may_come_channels_first(ours):
    theirs = {n: np.moveaxis(a, -1, 1) if a.ndim == 4 and "weight" not in n else a for n, a in ours.items()}
    found = conform.diff(ours, theirs)
    assert found.ok
    assert [*found.layouts] == ["channels first (B, C, H, W), ours last"]
    weight = {"step0.conv1.weight": np.transpose(ours["step0.conv1.weight"], (2, 3, 1, 0))}
    assert "transposed: of shape (7, 7, 18, 2)" in conform.diff(ours, weight).guilty[0].looks, "weights may not"


def test_prompts_of_every_sample_are_those_of_their_class():
    rng = np.random.default_rng(0)
    labels, o = np.array([5, 2, 5]), rng.standard_normal((2 * 7, 4, 3))
    per_sample = o.reshape(2, 7, 4, 3)[[1, 0, 1]]  # classes in ascending order: 2, 5
    padded = np.pad(per_sample, ((0, 0), (0, 0), (0, 2), (0, 0)), constant_values=9)
    graph, limit = {"text.ln": {"from": [], "by": ""}}, np.full(2, 1e-9)
    for theirs in (padded, np.swapaxes(padded, 0, 1), padded.reshape(21, 6, 3)):
        found = layouts.compare("text.ln", o, theirs, limit, labels, graph)
        assert found.agrees, found.layout
    wrong = padded.copy()
    wrong[2, 3, 1, 0] += 1
    assert not layouts.compare("text.ln", o, wrong, limit, labels, graph).agrees
    g = np.zeros_like(padded)
    g[:, :, :4] = per_sample * np.array([0.25, 1, 0.75])[:, None, None, None]  # the two of class 5 add up
    assert layouts.compare("grad.text.ln", o, g, limit, labels, graph).agrees


MAP = np.random.default_rng(0).standard_normal((3, 4, 5, 6))
KEPT = np.random.default_rng(1).random(MAP.shape) > 0.2
LOOKS = {
    "ours with the sign flipped": -MAP,
    "3 times ours": 3 * MAP,
    "ours divided by 6": MAP / 6,
    "1 - momentum = 0.1 times ours": 0.1 * MAP,
    "1.23457 times ours": 1.234567 * MAP,
    "ours shifted by 0.25": MAP + 0.25,
    "transposed: of shape (3, 5, 4, 6)": np.swapaxes(MAP, 1, 2),
    "the same numbers of shape (12, 30)": MAP.reshape(12, 30),
    "permuted along axis 3 (reversed)": MAP[..., ::-1],
    "permuted along axis 0 (entry 0 is at 1, 1 is at 0)": MAP[[1, 0, 2]],
    "permuted along axis 1 (rolled by 1)": np.roll(MAP, 1, 1),
    "shifted by 1 rows and 0 columns": np.concatenate([MAP[:, :1] * 0 + 7, MAP[:, :-1]], 1),
    "stored in bfloat16": coarse(MAP, "bfloat16"),
    "stored in float16": coarse(MAP, "float16"),
    "dropout: ": np.where(KEPT, MAP / 0.8, 0),
    "ours shifted by a constant for each channel": MAP + np.arange(6),
    "ours times a factor for each channel": MAP * np.arange(1, 7),
    "different only at the border (top": np.concatenate([MAP[:, :1] + np.sin(MAP[:, :1]), MAP[:, 1:]], 1),
    "different only at 2 of axis 0": np.concatenate([MAP[:2], MAP[2:] ** 2]),
    "0 everywhere": 0 * MAP,
    "not finite in 1 of 360": np.where(MAP == MAP[1, 2, 3, 4], np.nan, MAP),
    "about as far from ours as bfloat16": MAP * (1 + 2.0**-8 * np.random.default_rng(2).uniform(-1, 1, MAP.shape)),
}


@pytest.mark.parametrize("words", LOOKS)
def test_a_likeness_is_named(words):
    meta = {"rule": RULE, "graph": {}}
    found = recognise.looks("a", {}, MAP, LOOKS[words], np.array([1e-6, 4e-6]), None, meta)
    assert found.startswith(words)


def test_noise_is_called_nothing():
    meta, other = {"rule": RULE, "graph": {}}, np.random.default_rng(9).standard_normal(MAP.shape)
    for theirs in (other, MAP + 0.3 * other, np.abs(MAP)):
        assert recognise.looks("a", {}, MAP, theirs, np.array([1e-6, 4e-6]), None, meta) == ""


def test_a_single_number_is_not_called_a_multiple_unless_the_factor_tells_something():
    meta, allowed = {"rule": RULE, "graph": {}}, np.array([1e-6, 1e-6])
    looks = lambda t: recognise.looks("L", {}, np.array(2.5), np.array(t), allowed, None, meta)
    assert looks(2.5 * 36) == "36 times ours"
    assert looks(3.21) == ""


def normalised(x, axes, eps=1e-5):
    return (x - x.mean(axes, keepdims=True)) / np.sqrt(x.var(axes, keepdims=True) + eps)


ALL, EACH = (0, 1, 2), (1, 2)
READINGS = {
    "eps = 0.001; expected 1e-05": lambda x, w, b: normalised(x, ALL, 1e-3) * w + b,
    "statistics of each sample": lambda x, w, b: normalised(x, EACH) * w + b,
    "followed by ReLU already": lambda x, w, b: np.maximum(normalised(x, ALL) * w + b, 0),
    "the running statistics": lambda x, w, b: x / np.sqrt(1 + 1e-5) * w + b,
    "the variance divided by N - 1": lambda x, w, b: normalised(x, ALL) * np.sqrt(47 / 48) * w + b,
    "": lambda x, w, b: np.tanh(normalised(x, ALL) * w + b),
}


@pytest.mark.parametrize("reading", READINGS)
def test_a_layer_is_computed_again_from_their_input(reading):
    rng = np.random.default_rng(0)
    x, w, b = rng.standard_normal((3, 4, 4, 5)), rng.standard_normal(5), rng.standard_normal(5)
    call = {"op": "batch_norm", "arguments": {"weight": "bn.weight", "bias": "bn.bias"}, "options": {}}
    y, given = READINGS[reading](x, w, b), {"step0.bn.weight": w, "step0.bn.bias": b}
    layer = layers.alone("bn", x, y, given, {"bn": {"call": call}}, False, False)
    right, limit = layers.output(layer, "float32")
    expected = normalised(x, ALL) * w + b
    np.testing.assert_allclose(right, expected, rtol=1e-11)
    assert layouts.judged(right, expected + limit[0] / 2, limit).agrees
    assert not layouts.judged(right, y, limit).agrees
    looks = recognise.looks("bn", given, right, y, limit, layer, {"rule": RULE, "graph": {}})
    assert looks.startswith(reading) if reading else looks == ""


def test_a_layers_reading_is_named_before_a_factor_that_tells_nothing():
    """Channels of one variance: another eps is a factor too."""
    x = np.where(np.arange(96).reshape(2, 4, 4, 3) // 3 % 2, 1.0, -1.0)
    call = {"op": "batch_norm", "arguments": {"weight": "bn.weight", "bias": "bn.bias"}, "options": {}}
    y, given = normalised(x, ALL, 1e-3), {"step0.bn.weight": np.ones(3), "step0.bn.bias": np.zeros(3)}
    layer = layers.alone("bn", x, y, given, {"bn": {"call": call}}, False, False)
    right, limit = layers.output(layer, "float32")
    looks = recognise.looks("bn", given, right, y, limit, layer, {"rule": RULE, "graph": {}})
    assert looks.startswith("eps = 0.001")


# ------------------------------------------------------------------------------------------ files of strangers


def test_what_is_no_trace_or_no_number_is_refused(ours, tmp_path, capsys):
    with pytest.raises(ValueError, match="is no trace: it has no entry trace.json"):
        conform.diff({"fc": ours["fc"]}, ours)
    with pytest.raises(ValueError, match="fc is complex128; expected real numbers"):
        conform.diff(ours, {"fc": ours["fc"] * 1j})
    with pytest.raises(ValueError, match="trace again with --dtype float16"):
        conform.diff(ours, {"fc": ours["fc"]}, dtype="float16")
    np.savez(tmp_path / "o.npz", **ours)
    np.savez(tmp_path / "t.npz", fc=np.array([{}], object))
    assert main(["conform", "diff", str(tmp_path / "o.npz"), str(tmp_path / "t.npz")]) == 2
    assert "t.npz: fc holds Python objects" in capsys.readouterr().err


DAMAGE = {
    "cut": lambda meta: json.dumps(meta)[:-9],
    "another format": lambda meta: json.dumps(meta | {"format": 2}),
    "no graph": lambda meta: json.dumps({k: v for k, v in meta.items() if k != "graph"}),
    "a graph of text": lambda meta: json.dumps(meta | {"graph": {"fc": "conv1"}}),
    "names gone": lambda meta: json.dumps(meta | {"names": ["fc"]}),
    "tolerance gone": lambda meta: json.dumps(meta | {"tolerance": {"float32": {}}}),
    "tolerance of text": lambda meta: json.dumps(meta | {"tolerance": {"float32": {"fc": ["a", "b"]}}}),
    "made of nothing": lambda meta: json.dumps(
        meta | {"graph": meta["graph"] | {"fc": {"from": ["q"], "by": ""}}}
    ),
    "nested": lambda meta: "[" * 10**5,
}


@pytest.mark.parametrize("what", DAMAGE)
def test_a_damaged_trace_is_refused(ours, what):
    meta = json.loads(bytes(ours[tracing.META]))
    damaged = ours | {tracing.META: np.frombuffer(DAMAGE[what](meta).encode(), np.uint8)}
    with pytest.raises(ValueError, match="trace again"):
        conform.diff(damaged, {"fc": ours["fc"]})


def test_the_command_writes_the_report_and_its_exit_code_tells(ours, tmp_path, capsys):
    np.savez(tmp_path / "o.npz", **ours)
    np.savez(tmp_path / "t.npz", **{"fc": ours["fc"] * 2, "fc.input": ours["fc.input"], "L": ours["L_cls"]})
    files = [str(tmp_path / f"{name}.npz") for name in "ot"]
    assert main(["conform", "diff", *files, "--json", str(tmp_path / "r.json")]) == 1
    said = capsys.readouterr().out
    assert "DIVERGES in value: fc is the first of 3 compared names that differs (float64)" in said
    assert "computed again from their own input it is another" in said
    report = json.loads((tmp_path / "r.json").read_text("utf-8"))
    assert (report["exit_code"], report["guilty"][0]["name"], report["guilty"][0]["stage"]) == (1, "fc", "value")
    np.savez(tmp_path / "t.npz", other=np.ones(2))
    assert main(["conform", "diff", *files]) == 2


def test_a_name_tells_its_stage():
    assert difference.stage("step0.fc.weight") == difference.stage("x") == "what was given"
    assert [difference.stage(n) for n in ("fc", "grad.fc", "step2.fc.weight")] == [
        "value",
        "gradient",
        "after step 2",
    ]
    assert nn.TAP.get() is None

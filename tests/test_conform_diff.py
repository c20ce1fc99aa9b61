"""conform/difference.py and layouts.py: what differs, what only follows, what is wrong by itself, and its name."""

import json

import numpy as np
import pytest

from bplcz_ref import conform, layers, model, nn
from bplcz_ref.__main__ import main
from bplcz_ref.conform import layouts, tracing
from bplcz_ref.encoders import convnext, resnet

RULE = {"learning_rate": 0.1, "momentum": 0.9, "weight_decay": 0.01}


def traced(network, side=16, dtype="float64"):
    rng = np.random.default_rng(1)
    params, state = network.init(np.random.default_rng(0), "float64")
    x, y = rng.standard_normal((3, side, side, 18)), np.array([3, 5, 3])
    return conform.trace(network, params, state, (x, y), dtype=dtype, **RULE)


NETWORK = model.classification(resnet.resnet(18, 17, depths=(1,), widths=(2,)))


@pytest.fixture(scope="module")
def ours():
    return traced(NETWORK)


def changed(ours, name, change):
    return {n: a for n, a in ours.items() if n != tracing.META} | {name: change(ours[name])}


def first(found):
    return found.guilty[0].name


@pytest.mark.slow
def test_a_trace_agrees_with_itself_in_both_precisions(ours):
    short = {n: a.astype("float32") for n, a in ours.items() if a.dtype.kind == "f"}
    found = conform.diff(ours, short)
    assert (found.ok, found.dtype, found.exit_code) == (True, "float32", 0)
    assert not conform.diff(ours, short, dtype="float64").ok, "float32 numbers are not within float64's rounding"


@pytest.mark.parametrize("name", ["layer1.0.conv2", "step2.velocity.conv1.weight", "L_cls"])
def test_the_tolerance_is_the_line(ours, name):
    allowed = json.loads(bytes(ours[tracing.META]))["tolerance"]["float32"][name][0]
    theirs = lambda times: {name: ours[name] + times * allowed}  # alone, so that no relation is worked out
    assert conform.diff(ours, theirs(0.9), dtype="float32").ok
    assert first(conform.diff(ours, theirs(1.1), dtype="float32")) == name


@pytest.mark.slow
def test_what_follows_is_not_guilty_and_two_mistakes_are_both_found(ours):
    """The first that differs, and a layer that is wrong from their own input, far behind it."""
    theirs = changed(ours, "layer1.0.conv1.input", lambda a: a + 1)
    theirs["L_cls"] = 3 * ours["L_cls"]
    theirs["fc"] = -ours["fc"]
    found = conform.diff(ours, theirs)
    assert [f.name for f in found.guilty] == ["layer1.0.conv1.input", "layer1.0.conv1", "fc"]
    assert found.guilty[0].names == ("ours 1 more",)
    assert found.guilty[-1].names == ("y negative",)
    assert found.blocked == ["L_cls"]
    alone = conform.diff(ours, changed(ours, "step0.fc.weight", lambda a: 2 * a))
    assert [(f.name, f.names) for f in alone.guilty][0] == ("step0.fc.weight", ("ours doubled",))


def test_a_part_of_the_names_is_enough_and_a_second_name_counts(ours):
    found = conform.diff(ours, {"conv1": ours["conv1"], "c_hat": ours["fc"], "L": 2 * ours["L_cls"]})
    assert (first(found), found.agree) == ("L", ["conv1", "c_hat"])
    assert found.missing > 100


def test_names_that_match_nothing_are_told_with_the_nearest(ours):
    found = conform.diff(ours, {"layer1.0.covn2": ours["layer1.0.conv2"], "module.fc": ours["fc"]})
    assert found.exit_code == 2
    assert str(found).startswith("NOTHING COMPARED")
    assert found.unknown["layer1.0.covn2"] == "layer1.0.conv2"
    assert conform.diff(ours, {"layer1.0": ours["fc"], "fc": ours["fc"]}).unknown == {}, "a container is none"


def test_images_may_come_channels_first_and_weights_may_not(ours):
    theirs = {n: np.moveaxis(a, -1, 1) if a.ndim == 4 and "weight" not in n else a for n, a in ours.items()}
    found = conform.diff(ours, theirs)
    assert found.ok, str(found)
    assert [*found.layouts] == [layouts.FIRST]
    wrong = theirs | {"layer1.0.conv2": -theirs["layer1.0.conv2"]}
    assert "weight negative" in conform.diff(ours, wrong).guilty[0].names
    assert not conform.diff(ours, {"step0.conv1.weight": np.moveaxis(ours["step0.conv1.weight"], -1, 1)}).ok


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
    network = model.classification(convnext.convnext(depths=(1,), widths=(4,)))

    def other_eps(params, state, batch, *, rng=None):
        """The loss with another eps in one layer, for whoever watches."""
        seen = layers.WATCH.get()

        def watch(call):
            if call.name == "features.1.0.block.2":
                y = nn.layer_norm(call.x, **call.params, eps=1e-3)
                call = call._replace(layer=call.layer._replace(apply=lambda *_, **__: (y, {})))
            return seen[0](call)

        with layers.watching(watch):
            return network.loss(params, state, batch)

    found = conform.diff(traced(network), traced(network._replace(loss=other_eps)))
    assert [(f.name, f.op) for f in found.guilty] == [("features.1.0.block.2", "layer_norm")]


def test_what_is_no_trace_or_no_number_is_refused(ours):
    short = traced(NETWORK, dtype="float32")
    for arguments, line in (
        (({"conv1": ours["conv1"]}, ours), "the first file is no trace"),
        ((ours, {"conv1": np.array("a")}), "conv1 is <U1; expected real numbers"),
        ((ours | {tracing.META: ours[tracing.META][:-9]}, ours), "it is damaged or of another version"),
        ((short, ours, "float64"), "this trace judges float32; for float64 trace again"),
    ):
        with pytest.raises(ValueError, match=line):
            conform.diff(*arguments[:2], dtype=arguments[2] if len(arguments) > 2 else None)


def test_the_command_writes_the_report_and_its_exit_code_tells(ours, tmp_path, capsys):
    for name, arrays in (("o", ours), ("t", changed(ours, "fc", lambda a: 2 * a))):
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

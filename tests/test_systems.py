"""systems.py: nine rows through one code path."""

import re

import numpy as np
import pytest
from small import TINY

from bplcz_ref import equations, model, settings, systems, weights
from bplcz_ref.streams import stream

QUICK = ("exvit", "ebcnn", "ebcnn-bgp", "ebcnn-bplcz")


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in systems.SYSTEMS]
)
def test_each_system_takes_a_step(name):
    """At reduced sizes: a finite loss, gradients for every parameter, and a prediction."""
    made = systems.build(name, TINY)
    params, state = made.init(stream(0, "init"), np.dtype("float32"))
    x = np.random.default_rng(0).standard_normal((4, 32, 32, 18)).astype(np.float32)
    y = np.array([0, 3, 3, 16])
    L, gradients, trace = model.loss_and_gradients(made.loss, params, state, (x, y), rng=stream(0, "dropout"))
    assert np.isfinite(L)
    assert L.dtype == np.float32
    assert set(weights.named(gradients)) == set(weights.named(params))
    assert {np.asarray(g).dtype for g in weights.named(gradients).values()} == {np.dtype(np.float32)}
    assert ("L_con" in trace) == systems.SYSTEMS[name].prompting
    assert made.apply(params, trace["state"], x, train=False)[0].shape == (4, 17)


@pytest.mark.parametrize("name", [name for name, system in systems.SYSTEMS.items() if system.prompting])
def test_settings_and_rows_reach_the_loss(name):
    """alpha, beta and the supervised matrix of each row, at values that are nobody's default."""
    made = systems.build(name, TINY._replace(alpha=0.4, beta=0.5))
    params, state = made.init(stream(0, "init"), np.dtype("float64"))
    x, y = np.random.default_rng(0).standard_normal((4, 32, 32, 18)), np.array([0, 3, 3, 16])
    L, trace = made.loss(params, state, (x, y), rng=stream(0, "dropout"))
    assert np.allclose(trace["S"], 0.4 * sum(trace["S_i"].values()), rtol=1e-12)
    assert np.isclose(L, trace["L_cls"] + 0.5 * trace["L_con"], rtol=1e-12)
    W = np.eye(4) if name == "ebcnn-bgp" else (y[:, None] == y).astype(float)
    assert np.isclose(trace["L_i2t"], equations.bce(trace["S"], W), rtol=1e-12)
    assert np.array_equal(trace["W"], W)


@pytest.mark.slow
def test_dropout_does_not_depend_on_the_number_of_threads(monkeypatch):
    """Each branch draws from a stream of its own, so timing cannot change the masks."""
    made = systems.build("exvit-bplcz", TINY)
    params, state = made.init(stream(0, "init"), np.dtype("float32"))
    x, y = np.random.default_rng(0).standard_normal((4, 32, 32, 18)).astype("f4"), np.array([0, 3, 3, 16])
    values = set()
    for threads in ("1", "2", "1", "2", "2"):
        monkeypatch.setenv("BPLCZ_THREADS", threads)
        values.add(float(model.loss_and_gradients(made.loss, params, state, (x, y), rng=stream(0, "dropout"))[0]))
    assert len(values) == 1
    other = model.loss_and_gradients(made.loss, params, state, (x, y), rng=stream(1, "dropout"))[0]
    assert float(other) not in values


def test_exvit_bplcz_by_both_readings():
    small_text = {"text_layers": 1, "text_width": 64, "text_heads": 1}
    for reading, count in (("A", 945724), ("B", 685622)):
        made = systems.build("exvit-bplcz", systems.PAPER._replace(reading=reading, **small_text))
        params, _ = made.init(stream(0, "init"), np.dtype("float32"))
        image = {part: tree for part, tree in params.items() if part not in ("text", "vectors")}
        assert weights.count(image) == count
    with pytest.raises(ValueError, match="reading is 'C'"):
        systems.build("exvit-bplcz", systems.PAPER._replace(reading="C"))


SMALL_PARAMETERS = {
    "resnet50": 526865,
    "resnext50": 560209,
    "convnext": 599945,
    "densenet121": 190799,
    "exvit": 39142,
    "exvit-bplcz": 336708,
    "ebcnn": 542449,
    "ebcnn-bgp": 748465,
    "ebcnn-bplcz": 748465,
}


def test_the_small_preset_keeps_its_sizes():
    found = {}
    for name in systems.SYSTEMS:
        params, _ = systems.build(name, systems.SMALL).init(stream(0, "init"), np.dtype("float32"))
        found[name] = weights.count(params)
    assert found == SMALL_PARAMETERS


def test_each_setting_has_its_meaning_and_its_rule():
    assert list(settings.TABLE) == list(systems.SETTINGS) == list(systems.Settings._fields)
    for preset in systems.PRESETS.values():
        systems.check(preset)


@pytest.mark.parametrize(
    ("words", "value"),
    [("published=false", False), ("clip_sen1=None", None), ("batch=16", 16), ("learning_rate=1e-3", 1e-3),
     ("vocabulary=none", None), ("vocabulary=m.txt", "m.txt"), ("contrastive=none", "none"), ("alpha=1", 1.0)],
)  # fmt: skip
def test_a_setting_is_read_by_its_kind(words, value):
    (found,) = systems.chosen([words]).values()
    assert found == value
    assert type(found) is type(value)


SLIPS = {
    "lr=0.1": "learning_rate", "wd=0": "weight_decay", "l2=0": "weight_decay", "bs=8": "batch", "lambda=1": "beta",
    "batch_size=8": "batch", "learning-rate=1": "learning_rate", "Alpha=0.5": "alpha", "SEED=3": "seed",
    "seeds=3": "seed", "random_seed=3": "seed", "epoch": "epochs", "contrastve=unicl": "contrastive",
    "contrastive=UniCL": "unicl", "contrastive=focal": "", "reading=a": "A", "optimizer=adam": "", "gpu=0": "",
}  # fmt: skip


@pytest.mark.parametrize(("words", "meant"), SLIPS.items())
def test_a_slip_gets_a_hint_that_helps(words, meant):
    with pytest.raises(ValueError, match="no setting|expected one of") as error:
        systems.chosen([words])
    found = re.findall(r"did you mean (\w+)\?", str(error.value))
    assert found == [meant] * bool(meant)
    assert meant != words.partition("=")[0]
    with pytest.raises(ValueError, match=re.escape(str(error.value))):
        systems.varied(f"{words},2" if "=" in words else words)


@pytest.mark.parametrize(
    ("words", "message"),
    [("alpha", "alpha has no value; expected alpha=VALUE, such as alpha=0.25"), ("gpu=1", "runs on the CPU"),
     ("preset=paper", "an option of its own: --preset paper"), ("optimizer=adam", "it is SGD, with learning_rate"),
     ("epochs=1.5", "expected a whole"), ("published=1", "expected true"), ("alpha=x", "expected a finite number"),
     ("split=none", "expected one of file, random, city"), ("contrastive=focal", "registered first, by --import")],
)  # fmt: skip
def test_what_is_no_setting_is_refused(words, message):
    with pytest.raises(ValueError, match=message):
        systems.chosen([words])


def test_values_that_are_varied_are_two_or_more():
    with pytest.raises(ValueError, match="alpha has no value"):
        systems.varied("alpha")
    with pytest.raises(ValueError, match="expected two values or more, each once"):
        systems.varied("alpha=1,1.0")


def test_a_row_that_fixes_its_loss_is_named_before_any_is_trained():
    unicl = systems.SMALL._replace(contrastive="unicl")
    systems.check(unicl, "ebcnn", "ebcnn-bplcz")
    with pytest.raises(ValueError, match="contrastive is 'unicl', but ebcnn-bgp .* has W = I"):
        systems.check(unicl, *systems.TABLE_III)


def test_what_fuses_is_known_without_building_it(monkeypatch):
    expected = {name: systems.build(name, systems.SMALL).fused is not None for name in systems.SYSTEMS}
    monkeypatch.setattr(systems, "build", None)
    assert {name: systems.fuses(name) for name in systems.SYSTEMS} == expected


def test_a_model_says_what_it_is():
    assert repr(systems.build("ebcnn-bgp", TINY)).startswith(
        "<ebcnn-bgp: EB-CNN + BGP, no MSM of preset small, width 1"
    )
    assert "L_cls + 2 L_con (identity)>" in repr(systems.build("ebcnn-bgp", TINY))
    assert repr(systems.build("ebcnn-bplcz", TINY._replace(contrastive="none"))).endswith("L_cls>")

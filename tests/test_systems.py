"""systems.py and settings.py: nine rows through one code path, and settings as people type them."""

import re

import numpy as np
import pytest
from small import TINY

from bplcz_ref import equations, model, optim, systems, variants
from bplcz_ref.data.streams import stream
from bplcz_ref.storage import weights

QUICK = ("exvit", "ebcnn", "ebcnn-bgp", "ebcnn-bplcz")
ROWS = [
    *[(name, "paper") if name in QUICK else pytest.param(name, "paper", marks=pytest.mark.slow)
      for name in systems.SYSTEMS],
    *[pytest.param("ebcnn-bplcz", loss, marks=pytest.mark.slow) for loss in variants.VARIANTS
      if loss not in ("paper", "identity")],
]  # fmt: skip
X, Y = np.random.default_rng(0).standard_normal((4, 32, 32, 18)), np.array([0, 3, 3, 16])


def started(name, chosen=TINY, dtype="float32"):
    made = systems.build(name, chosen)
    return made, *made.init(stream(0, "init"), np.dtype(dtype))


@pytest.mark.parametrize(("name", "loss"), ROWS)
def test_each_system_takes_a_float32_step(name, loss):
    """At reduced sizes: every number stays float32, and every parameter has a gradient."""
    made, params, state = started(name, TINY._replace(contrastive=loss))
    x = X.astype(np.float32)
    L, gradients, trace = model.loss_and_gradients(made.loss, params, state, (x, Y), rng=stream(0, "dropout"))
    stepped, velocity = params, None
    for _ in range(2):
        stepped, velocity = optim.sgd(stepped, velocity, gradients, learning_rate=0.1, momentum=0.9)
    seen = {"L": L, "gradients": gradients, "trace": trace, "stepped": stepped, "velocity": velocity}
    named = {key: np.asarray(leaf) for key, leaf in weights.named(seen).items() if "num_batches" not in key}
    assert {key: leaf.dtype for key, leaf in named.items() if leaf.dtype != np.float32} == {}
    assert all(np.isfinite(leaf).all() for leaf in named.values())
    assert set(weights.named(gradients)) == set(weights.named(params))
    assert all(abs(g) > 0 for g in gradients.get("contrastive", {}).values())
    assert ("L_con" in trace) == systems.SYSTEMS[name].prompting
    assert made.apply(params, trace["state"], x, train=False)[0].shape == (4, 17)


@pytest.mark.parametrize("name", [name for name, system in systems.SYSTEMS.items() if system.prompting])
def test_settings_and_rows_reach_the_loss(name):
    """alpha, beta and the supervised matrix of each row, at values that are nobody's default."""
    made, params, state = started(name, TINY._replace(alpha=0.4, beta=0.5), "float64")
    assert repr(made).endswith(f"L_cls + 0.5 L_con ({'identity' if name == 'ebcnn-bgp' else 'paper'})>")
    L, trace = made.loss(params, state, (X, Y), rng=stream(0, "dropout"))
    assert np.allclose(trace["S"], 0.4 * sum(trace["S_i"].values()), rtol=1e-12)
    assert np.isclose(L, trace["L_cls"] + 0.5 * trace["L_con"], rtol=1e-12)
    W = np.eye(4) if name == "ebcnn-bgp" else (Y[:, None] == Y).astype(float)
    assert np.isclose(trace["L_i2t"], equations.bce(trace["S"], W), rtol=1e-12)
    assert np.array_equal(trace["W"], W)


def test_a_loss_of_cosines_is_given_the_bound_of_the_fused_logits():
    """S / (n alpha) has the mean cosines, which the losses other than the paper's scale themselves."""
    made, params, state = started("ebcnn-bplcz", TINY._replace(alpha=0.4, contrastive="infonce"), "float64")
    _, trace = made.loss(params, state, (X, Y))
    expected = variants.infonce(params["contrastive"], trace["S"], trace["S_hat"], trace["W"], 7 * 0.4)
    assert np.isclose(trace["L_con"], expected.L_con, rtol=1e-12)


SMALL_PARAMETERS = {
    "resnet50": 526865, "resnext50": 560209, "convnext": 599945, "densenet121": 190799, "exvit": 39142,
    "exvit-bplcz": 336708, "ebcnn": 542449, "ebcnn-bgp": 748465, "ebcnn-bplcz": 748465,
}  # fmt: skip


def test_the_small_preset_keeps_its_sizes_and_what_fuses_is_known_without_building_it():
    built = {name: started(name, systems.SMALL) for name in systems.SYSTEMS}
    assert {name: weights.count(params) for name, (_, params, _) in built.items()} == SMALL_PARAMETERS
    assert {name: made.fused is not None for name, (made, *_) in built.items()} == {
        name: systems.fuses(name) for name in systems.SYSTEMS
    }


# ---------------------------------------------------------------- settings


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
    assert re.findall(r"did you mean (\w+)\?", str(error.value)) == [meant] * bool(meant)
    with pytest.raises(ValueError, match=re.escape(str(error.value))):
        systems.varied(f"{words},2" if "=" in words else words)


UNICL = systems.SMALL._replace(contrastive="unicl")
BAD = [
    (lambda: systems.chosen(["alpha"]), "alpha has no value; expected alpha=VALUE, such as alpha=0.25"),
    (lambda: systems.chosen(["gpu=1"]), "runs on the CPU"),
    (lambda: systems.chosen(["preset=paper"]), "an option of its own: --preset paper"),
    (lambda: systems.chosen(["optimizer=adam"]), "it is SGD, with learning_rate"),
    (lambda: systems.chosen(["epochs=1.5"]), "expected a whole"),
    (lambda: systems.chosen(["published=1"]), "expected true"),
    (lambda: systems.chosen(["alpha=x"]), "expected a finite number"),
    (lambda: systems.chosen(["alpha=nan"]), "alpha is nan; expected a finite number, above 0"),
    (lambda: systems.chosen(["momentum=1"]), "^momentum is 1.0; expected a finite number, 0 or more, below 1$"),
    (lambda: systems.chosen([f"seed={2**63}"]), f"a whole number, 0 to {2**63 - 1}"),  # that an HDF5 file can note
    (lambda: systems.check(TINY._replace(alpha=True)), "alpha is True; expected a finite number"),
    (lambda: systems.check(TINY._replace(alpha=10**400)), "alpha is 1000.*; expected a finite number"),
    (lambda: systems.check(TINY._replace(vocabulary="")), "vocabulary is ''; expected a path, or null"),
    (lambda: systems.check(TINY._replace(warmup=4, epochs=4)), "warmup is 4; expected fewer than the 4 epochs"),
    (lambda: systems.chosen(["split=none"]), "expected one of file, random, city"),
    (lambda: systems.chosen(["contrastive=focal"]), "registered first, by --import"),
    (lambda: systems.varied("alpha"), "alpha has no value"),
    (lambda: systems.varied("alpha=1,1.0"), "expected two values or more, each once"),
    (lambda: systems.build("exvit-bplcz", systems.PAPER._replace(reading="C")), "reading is 'C'"),
    (lambda: systems.check(UNICL, *systems.TABLE_III), "contrastive is 'unicl', but ebcnn-bgp .* has W = I"),
]


@pytest.mark.parametrize(("call", "message"), BAD)
def test_what_is_wrong_is_named(call, message):
    systems.check(UNICL, "ebcnn", "ebcnn-bplcz")
    with pytest.raises(ValueError, match=message):
        call()

"""docs/figures.py: the data drawn are what is computed today, and they show what the text says of them.

docs/recorded/ holds runs that take minutes; what is drawn and printed of them is compared with the records. That
record.py makes such records is tested on a run of a few steps.
"""

import json

import numpy as np
import pytest
from scripts import DOCS, script

from bplcz_ref import paper, systems
from bplcz_ref.report import explain


@pytest.fixture(scope="module")
def figures():
    return script("docs/figures")


@pytest.fixture(scope="module")
def records():
    found = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in (DOCS / "recorded").iterdir()}
    assert found.keys() == {"small", "losses"}
    return found


@pytest.fixture(scope="module")
def drawn():
    return json.loads((DOCS / "figures" / "data.json").read_text(encoding="utf-8"))


def close(found, expected):
    """Whether two trees of numbers agree to the 6 digits that data.json keeps."""
    if isinstance(expected, dict):
        return found.keys() == expected.keys() and all(close(found[key], expected[key]) for key in expected)
    if found == expected:  # names too
        return True
    return np.allclose(np.array(found, float), np.array(expected, float), rtol=0, atol=2e-6)


SAMPLES = pytest.param("samples", marks=pytest.mark.slow)


@pytest.mark.parametrize("name", ["batch", "cosine", "plane", "share", SAMPLES, "pulls", "texts"])
def test_the_committed_figures_show_what_is_computed_today(figures, drawn, name):
    assert drawn.keys() == figures.FIGURES.keys()
    assert close(json.loads(json.dumps(figures.FIGURES[name][0]())), drawn[name])


def test_the_figures_show_what_the_text_says(drawn):
    plane, samples = drawn["plane"], drawn["samples"]
    assert len(plane["path"]["a"]) == 16
    assert plane["path"]["a"][-1] - plane["path"]["b"][-1] < 0.05  # along a = b, and it ends before its optimum
    assert min(plane["path"]["a"]) > plane["optima"]["64"][0] + 0.3
    for B in (32, 64):  # classes below the threshold stay near collapse, others leave it
        for count, least, _, largest in samples[str(B)]:
            assert largest < -0.9 if count < samples["threshold"] * B else least > -0.95
    pulls = {name: np.array(values) for name, values in drawn["pulls"].items()}
    assert pulls["con_common"][-1] < pulls["con_common"][0] / 10
    assert pulls["cls"].min() > 0.9 * pulls["cls"][0]
    texts = drawn["texts"]
    assert min(texts["paper"][4:]) > 0.96
    assert dict(zip(texts["step"], texts["paper, alpha = 1"], strict=True))[120] < 0.9
    assert min(texts["identity"][8:]) > 0.99
    assert max(texts["infonce"][-8:]) < 0.3


# ---------------------------------------------------------------- the records


def test_recorded_pulls_are_the_gradients_that_explain_prints():
    record, made = script("docs/record"), explain.batch()
    x = {line.symbol: line.value for line in explain.trace(made)}
    g = {line.symbol: line.value for line in explain.trace(made, gradient=True)}
    trace = {"I_i": made.I_i, "T_i": made.T_i, "I": x["I"], "c_hat": x["c_hat"]}
    params = {"classifier": {"weight": made.D.T, "bias": np.zeros(3)}}
    found = record.pulls(params, trace, made.c, systems.PAPER)
    from_D = np.split(g["dL/dI"], len(paper.GROUPS), axis=1)
    from_con = np.stack([g[f"dL/dI_{i}"] - part for i, part in zip(paper.GROUPS, from_D, strict=True)])
    assert found["cls"] == pytest.approx(np.linalg.norm(g["dL/dI"]), rel=1e-12)
    energy = sum(found[name] ** 2 for name in ("con_common", "con_by_class", "con_within"))
    assert energy == pytest.approx(np.sum(from_con**2), rel=1e-12)
    assert found["con_common"] == pytest.approx(6**0.5 * np.linalg.norm(from_con.mean(axis=1)), rel=1e-12)


@pytest.mark.long
def test_the_script_records_what_the_figures_read(monkeypatch, tmp_path, records):
    record = script("docs/record")
    few = {"epochs": 1, "per_class": 2, "test": 20}
    monkeypatch.setattr(record, "FOLDER", tmp_path)
    monkeypatch.setattr(record, "SEEDS", (47,))
    monkeypatch.setattr(record, "REDUCED", record.REDUCED._replace(**few))
    monkeypatch.setattr(record, "LOSSES", {name: record.LOSSES[name] for name in ("none", "paper")})
    small = record.systems.SMALL._replace(**few)
    monkeypatch.setattr(record.systems, "SMALL", small)
    monkeypatch.setattr(record.systems, "PAPER", small)
    record.main([])
    for name, kept in records.items():
        made = json.loads((tmp_path / f"{name}.json").read_text(encoding="utf-8"))
        assert made.keys() == kept.keys()
        if name == "small":
            assert made["steps"].keys() == kept["steps"].keys()
            assert made["paper_at_start"].keys() == kept["paper_at_start"].keys()
        else:
            for loss, entry in made["losses"].items():
                assert entry["runs"][0].keys() == kept["losses"][loss]["runs"][0].keys()


@pytest.mark.slow
def test_the_script_draws_every_figure(figures, drawn, tmp_path):
    pytest.importorskip("matplotlib")
    figures.main(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in (DOCS / "figures").iterdir()}
    assert close(json.loads((tmp_path / "data.json").read_text(encoding="utf-8")), drawn)
    for name in drawn:
        assert (tmp_path / f"{name}.svg").read_text(encoding="utf-8").startswith("<?xml")

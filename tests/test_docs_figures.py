"""docs/figures.py: the data drawn are what is computed today, and they prove the number that each figure shows."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parent.parent / "docs"


@pytest.fixture(scope="module")
def figures():
    spec = importlib.util.spec_from_file_location("docs_figures", ROOT / "figures.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def drawn():
    return json.loads((ROOT / "figures" / "data.json").read_text(encoding="utf-8"))


def close(found, expected):
    """Whether two trees of numbers agree to the 6 digits that data.json keeps."""
    if isinstance(expected, dict):
        return found.keys() == expected.keys() and all(close(found[key], expected[key]) for key in expected)
    return np.allclose(np.array(found, float), np.array(expected, float), rtol=0, atol=2e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["plane", "samples", "cosine"])
def test_the_committed_figures_show_what_is_computed_today(figures, drawn, name):
    assert drawn.keys() == figures.FIGURES.keys()
    assert close(json.loads(json.dumps(figures.FIGURES[name][0]())), drawn[name])


def test_the_optima_of_the_plane_are_on_the_edge_and_approach_collapse(drawn):
    (a0, b0), (a1, b1) = drawn["plane"]["edge"]
    margins = {B: best["a"] - best["b"] for B, best in drawn["plane"]["optima"].items()}
    for best in drawn["plane"]["optima"].values():
        assert best["b"] == pytest.approx(b0 + (best["a"] - a0) * (b1 - b0) / (a1 - a0), abs=2e-6)
    assert {B: round(margin, 2) for B, margin in margins.items()} == {"8": 0.79, "16": 0.44, "32": 0.16, "64": 0}


def test_classes_below_the_threshold_stay_near_collapse_and_others_leave_it(drawn):
    threshold = drawn["samples"]["threshold"]
    assert round(threshold, 4) == 0.0740
    for B in (32, 64):
        for count, least, median, largest in drawn["samples"][str(B)]:
            assert least <= median <= largest
            if count < threshold * B:
                assert largest < -0.9
            else:
                assert least > -0.95


def test_the_gradient_of_a_cosine_is_tangent_and_halves_at_twice_the_length(drawn):
    short, long = (np.array(drawn["cosine"][length]["gradient"]) for length in "12")
    x = np.array(drawn["cosine"]["1"]["x"])
    assert np.abs((x * short).sum(axis=1)).max() < 2e-6
    assert np.abs(short - 2 * long).max() < 3e-6
    assert np.linalg.norm(short, axis=1) == pytest.approx(x[:, 1], abs=2e-6)  # sin(theta)


@pytest.mark.slow
def test_the_script_draws_every_figure(figures, drawn, tmp_path):
    pytest.importorskip("matplotlib")
    figures.main(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in (ROOT / "figures").iterdir()}
    assert close(json.loads((tmp_path / "data.json").read_text(encoding="utf-8")), drawn)
    for name in drawn:
        assert (tmp_path / f"{name}.svg").read_text(encoding="utf-8").startswith("<?xml")

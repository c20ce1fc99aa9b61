"""examples/map_scene.py: short, and a map of the classes at the windows' places."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

SCRIPT = Path(__file__).parent.parent / "examples" / "map_scene.py"


@pytest.fixture(scope="module")
def example():
    pytest.importorskip("matplotlib")
    spec = importlib.util.spec_from_file_location("map_scene", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_it_is_at_most_60_lines():
    assert len(SCRIPT.read_text(encoding="utf-8").splitlines()) <= 60


@pytest.mark.slow
def test_windows_are_where_they_should_be(example, whole, monkeypatch):
    """With a classifier that names the zone of a window's first pixel, at a stride of a whole window."""
    sen1, sen2, truth = example.simulated_scene(2, 2)
    assert sen1.shape == (128, 128, 8)
    zones = {sen2[i, j].tobytes(): truth[i, j] for i in range(0, 128, 32) for j in range(0, 128, 32)}
    sizes = []

    def classify(trained, a, b):
        sizes.append(a.shape)
        return np.array([zones[window[0, 0].tobytes()] for window in b]), None

    monkeypatch.setattr(example, "classify", classify)
    monkeypatch.setattr(example, "STEP", 32)
    found = example.mapped(whole, sen1, sen2)
    assert found.tolist() == truth[::32, ::32].tolist()
    assert sizes == 4 * [(4, 32, 32, 8)]  # a row of windows at a time


@pytest.mark.slow
def test_a_map_is_drawn(example, whole, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(example, "STEP", 64)
    example.main(whole, tmp_path / "scene.png")
    assert (tmp_path / "scene.png").read_bytes().startswith(b"\x89PNG")
    assert "% of windows have the class at their middle" in capsys.readouterr().out

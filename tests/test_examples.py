"""examples/map_scene.py: a map of the classes at the windows' places."""

import numpy as np
import pytest
from scripts import script


@pytest.mark.slow
def test_windows_are_where_they_should_be(whole, tmp_path, monkeypatch, capsys):
    """With a classifier that names the zone of a window's first pixel, at a stride of a whole window."""
    pytest.importorskip("matplotlib")
    example = script("examples/map_scene")
    sen1, sen2, truth = example.simulated_scene(2, 2)
    zones = {sen2[i, j].tobytes(): truth[i, j] for i in range(0, 128, 32) for j in range(0, 128, 32)}

    def classify(trained, a, b):
        assert a.shape == (4, 32, 32, 8)  # a row of windows at a time
        return np.array([zones[window[0, 0].tobytes()] for window in b]), None

    with monkeypatch.context() as patch:
        patch.setattr(example, "classify", classify)
        patch.setattr(example, "STEP", 32)
        assert example.mapped(whole, sen1, sen2).tolist() == truth[::32, ::32].tolist()
    monkeypatch.setattr(example, "STEP", 64)
    example.main(whole, tmp_path / "scene.png")
    assert (tmp_path / "scene.png").read_bytes().startswith(b"\x89PNG")
    assert "% of windows have the class at their middle" in capsys.readouterr().out

"""examples/pytorch_classify.py gives the probabilities of bplcz_ref.classify."""

import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

torch = pytest.importorskip("torch")

import bplcz_ref  # noqa: E402
from bplcz_ref.storage import weights  # noqa: E402
from bplcz_ref.training import evaluate  # noqa: E402


@pytest.mark.parametrize("clip", [1.0, None])
def test_an_exported_run_in_pytorch(whole, small_file, tmp_path, monkeypatch, capsys, clip):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "examples"))
    import pytorch_classify as example

    trained = evaluate.load(whole)
    trained = trained._replace(statistics=trained.statistics._replace(clip_sen1=clip))
    weights.export(trained, tmp_path / "run.npz")
    with h5py.File(small_file) as file:
        sen1, sen2 = 4 * file["sen1"][:6], file["sen2"][:6]  # values that are clipped
    _, p = bplcz_ref.classify(trained, sen1, sen2)
    q = example.classify(tmp_path / "run.npz", torch.from_numpy(sen1).float(), torch.from_numpy(sen2).float())
    assert np.abs(q.numpy() - p).max() < 1e-5
    example.main(tmp_path / "run.npz", small_file)
    assert capsys.readouterr().out.count("class number") == 16
    sys.modules.pop("pytorch_round_trip", None)

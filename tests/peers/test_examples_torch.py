"""The examples in PyTorch run as their first lines say, and one stops where a module is not the same network."""

import copy

import h5py
import numpy as np
import pytest

torch = pytest.importorskip("torch")

import pytorch_classify  # noqa: E402
import pytorch_round_trip as example  # noqa: E402

import bplcz_ref  # noqa: E402
from bplcz_ref.storage import weights  # noqa: E402
from bplcz_ref.training import evaluate  # noqa: E402


@pytest.mark.parametrize("clip", [1.0, None])
def test_an_exported_run_in_pytorch(whole, small_file, tmp_path, capsys, clip):
    trained = evaluate.load(whole)
    trained = trained._replace(statistics=trained.statistics._replace(clip_sen1=clip))
    weights.export(trained, tmp_path / "run.npz")
    with h5py.File(small_file) as file:
        sen1, sen2 = 4 * file["sen1"][:6], file["sen2"][:6]  # values that are clipped
    _, p = bplcz_ref.classify(trained, sen1, sen2)
    there = (torch.from_numpy(x).float() for x in (sen1, sen2))
    assert np.abs(pytorch_classify.classify(tmp_path / "run.npz", *there).numpy() - p).max() < 1e-5
    pytorch_classify.main(tmp_path / "run.npz", small_file)
    assert capsys.readouterr().out.count("class number") == 16


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(example, "SETTINGS", example.SETTINGS._replace(width=2, features=4, text_width=8))


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("kind", ["safetensors", "npz"])
def test_weights_go_there_and_back(monkeypatch, capsys, kind):
    """As safetensors, or as a .npz where that library is missing."""
    if kind == "npz":
        monkeypatch.setattr(example, "safetensors", None)
    elif example.safetensors is None:
        pytest.skip("safetensors is not installed")
    example.main()
    first, there, equal, _, back, again, moved, last = capsys.readouterr().out.splitlines()
    assert there.startswith(f"bplcz.{kind}: PyTorch has loaded")
    assert back.startswith(f"finetuned.{kind}: loaded here")
    assert equal.startswith("the logits are equal")
    assert again.startswith("the logits are equal")
    assert float(moved.split()[-1]) > 1e-3  # otherwise the second comparison repeats the first
    L = [float(line.removeprefix("a step here: L = ").split()[0]) for line in (first, last)]
    assert L[1] < L[0]  # same batch: both steps must have come through


@pytest.mark.usefixtures("small")
def test_a_module_of_another_eps_is_not_the_same_network(monkeypatch):
    original = torch.nn.BatchNorm2d
    monkeypatch.setattr(torch.nn, "BatchNorm2d", lambda channels: original(channels, eps=1e-3))
    with pytest.raises(SystemExit, match="logits differ"):
        example.main()


@pytest.mark.usefixtures("small")
def test_running_statistics_left_behind_are_seen(monkeypatch):
    write = example.write

    def forgetful(path, module):
        module = copy.deepcopy(module)
        for part in module.modules():
            if isinstance(part, torch.nn.BatchNorm2d):
                part.reset_running_stats()
        write(path, module)

    monkeypatch.setattr(example, "write", forgetful)
    with pytest.raises(SystemExit, match="logits differ"):
        example.main()

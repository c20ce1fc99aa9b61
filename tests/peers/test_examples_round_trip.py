"""examples/pytorch_round_trip.py runs as its first lines say, and stops where a module is not the same network."""

import copy
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")


@pytest.fixture
def example(monkeypatch):
    """The script as a module, at small sizes."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "examples"))
    monkeypatch.delitem(sys.modules, "pytorch_round_trip", raising=False)
    import pytorch_round_trip as module

    module.SETTINGS = module.SETTINGS._replace(width=2, features=4, text_width=8)
    yield module
    del sys.modules["pytorch_round_trip"]


@pytest.mark.parametrize("kind", ["safetensors", "npz"])
def test_weights_go_there_and_back(example, monkeypatch, capsys, kind):
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


def test_a_module_of_another_eps_is_not_the_same_network(example, monkeypatch):
    original = torch.nn.BatchNorm2d
    monkeypatch.setattr(example.nn, "BatchNorm2d", lambda channels: original(channels, eps=1e-3))
    with pytest.raises(SystemExit, match="logits differ"):
        example.main()


def test_running_statistics_left_behind_are_seen(example, monkeypatch):
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

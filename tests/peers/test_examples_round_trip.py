"""examples/pytorch_round_trip.py runs as its first lines say, and stops where a module is not the same network."""

import copy
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

SCRIPT = Path(__file__).parents[2] / "examples" / "pytorch_round_trip.py"


def run(*arguments):
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, env=environment)


def check(done, kind):
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line.split(":")[0] for line in lines] == [
        "a step here",
        f"bplcz.{kind}",
        "the logits are equal",
        "a step in PyTorch",
        f"finetuned.{kind}",
        "the logits are equal",
        lines[6],
        "a step here",
    ]
    assert float(lines[6].split()[-1]) > 1e-3  # otherwise the second comparison repeats the first
    first, last = (float(lines[i].split()[5]) for i in (0, 7))
    assert last < first  # same batch: both steps must have come through


def test_with_safetensors():
    pytest.importorskip("safetensors")
    check(run(str(SCRIPT)), "safetensors")


def test_without_the_library_it_is_an_npz():
    code = "import runpy, sys; sys.modules['safetensors'] = sys.modules['safetensors.torch'] = None; "
    code += f"sys.argv = [{str(SCRIPT)!r}]; runpy.run_path({str(SCRIPT)!r}, run_name='__main__')"
    check(run("-c", code), "npz")


@pytest.fixture
def example():
    spec = importlib.util.spec_from_file_location("pytorch_round_trip", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.SETTINGS = module.SETTINGS._replace(width=2, features=4, text_width=8)
    return module


def test_a_module_of_another_eps_is_not_the_same_network(example, monkeypatch):
    original = torch.nn.BatchNorm2d
    monkeypatch.setattr(example.nn, "BatchNorm2d", lambda channels: original(channels, eps=1e-3))
    with pytest.raises(SystemExit, match="logits differ"):
        example.main(["--kind", "npz"])


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
        example.main(["--kind", "npz"])


def test_a_missing_name_is_an_error(example, monkeypatch):
    monkeypatch.setattr(example, "EBCNN", lambda *sizes: torch.nn.Linear(7 * 4, 17))
    with pytest.raises(RuntimeError, match="Missing key"):
        example.main(["--kind", "npz"])

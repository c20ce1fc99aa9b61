"""checkpoint.py: written whole; what is not the checkpoint of this run is named."""

import shutil

import numpy as np
import pytest
from small import TINY, bits, copied, quiet, rewritten

from bplcz_ref.training import checkpoint, evaluate, train


@pytest.mark.slow
def test_a_failed_write_keeps_the_last_checkpoint(whole, tmp_path, monkeypatch):
    at = evaluate.load(whole)
    progress = checkpoint.Progress(
        config="0f" * 32,
        step=5,
        sums=dict.fromkeys(checkpoint.SUMS, 0.0),
        params=at.params,
        velocity=None,
        state=at.state,
        statistics=at.statistics,
        trained_on=at.trained_on,
    )
    checkpoint.save(tmp_path, progress)
    before = bits(tmp_path)

    def full(file, **arrays):
        file.write(b"PK half of it")
        raise OSError("no space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(ValueError, match=r"checkpoint\.npz cannot be written \(no space"):
        checkpoint.save(tmp_path, progress._replace(step=6))
    assert bits(tmp_path) == before
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint.npz"]


@pytest.fixture
def run(whole, tmp_path):
    """A copy of the uninterrupted run as it was before metrics.json was written: 6 of 6 steps."""
    (copied(whole, tmp_path / "run") / "metrics.json").unlink()
    return tmp_path / "run"


def refused(run, small_file, message):
    """By evaluation and by training alike, in one line that names the file."""
    for use in (evaluate.load, lambda run: train.train(run, small_file, "ebcnn-bplcz", TINY, say=quiet)):
        with pytest.raises(ValueError, match=rf"checkpoint\.npz.*{message}") as error:
            use(run)
        assert "\n" not in str(error.value)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"config": np.zeros(32, np.uint8)}, "belongs to another config.json"),
        ({"step": None}, "cannot be read .KeyError: 'step'.; restore the file from a copy"),
        ({"sums": np.zeros(12)}, "cannot be read"),  # of another version
        ({"params/classifier.bias": None}, "params does not fit this network: missing: classifier.bias"),
        ({"params/classifier.bias": np.ones(16, np.float32)}, r"classifier.bias: shape \(16,\), expected \(17,\)"),
    ],
)
def test_what_no_run_has_written_is_refused(run, small_file, arrays, message):
    rewritten(run, **arrays)
    refused(run, small_file, message)


@pytest.mark.slow
@pytest.mark.parametrize("end", [0, 1000])
def test_a_cut_checkpoint_is_named_with_honest_advice(run, small_file, end):
    (run / "checkpoint.npz").write_bytes((run / "checkpoint.npz").read_bytes()[:end])
    refused(run, small_file, "restore the file from a copy; without one, train again in another folder")


def test_no_checkpoint_yet_and_one_of_an_earlier_step(whole, run, tmp_path):
    shutil.copytree(whole, tmp_path / "complete")
    rewritten(tmp_path / "complete", step=np.array(3))
    with pytest.raises(ValueError, match="is of step 3, though the run is complete"):
        evaluate.load(tmp_path / "complete")
    (run / "checkpoint.npz").unlink()
    with pytest.raises(ValueError, match="has no checkpoint.npz yet"):
        evaluate.load(run)

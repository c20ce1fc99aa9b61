"""checkpoint.py: written whole; what is not the checkpoint of this run, on its way or done, is named."""

import shutil
import zipfile

import numpy as np
import pytest
from small import TINY, bits, copied, quiet, rewritten

from bplcz_ref import archives
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


PARAMETER = "params/classifier.bias"
VELOCITY = "velocity/classifier.bias"
FORGED = [
    ({"step": np.array(10**12)}, "step is 1000000000000; expected a whole number, 0 to 6"),
    ({"step": np.array(7)}, "step is 7; expected a whole number, 0 to 6"),
    ({"step": np.array(-1)}, "step is -1; expected"),
    ({"step": np.array(2.7)}, r"step is float64 \(\); expected int64 \(\)"),
    ({"step": np.array([6])}, r"step is int64 \(1,\); expected int64 \(\)"),
    ({"step": np.array("6")}, r"step is <U1 \(\); expected"),
    ({"step": np.array(0)}, "it has a velocity at step 0; expected one from step 1 on"),
    ({"step": None}, "lacks step"),
    ({"sums": np.array(0.0)}, r"sums is float64 \(\); expected float64 \(11,\)"),
    ({"sums": np.zeros(12)}, r"sums is float64 \(12,\)"),
    ({"sums": np.full(11, np.nan)}, "sums holds nan; expected finite values"),
    ({"sums": np.ones(11)}, "sums: samples is 1.0; expected a finite number, 0 or more, 0 or less"),
    ({"sums": np.r_[np.zeros(10), -1.0]}, "sums: seconds is -1.0; expected"),
    ({"statistics/mean": np.zeros(1)}, r"statistics/mean is float64 \(1,\); expected float64 \(18,\)"),
    ({"statistics/mean": np.full(18, np.inf)}, "statistics/mean holds inf"),
    ({"statistics/std": -np.ones(18)}, r"statistics/std holds -1\.0; expected finite values, 0 or more"),
    ({"statistics/std": np.ones(18, np.float32)}, "statistics/std is float32"),
    ({"statistics/median": np.ones(18)}, "holds also statistics/median"),
    ({PARAMETER: np.full(17, np.nan, np.float32)}, f"{PARAMETER} holds nan"),
    ({PARAMETER: np.ones(17, np.float16)}, f"{PARAMETER} is float16"),
    ({PARAMETER: np.ones(17, np.complex64)}, f"{PARAMETER} is complex64"),
    ({PARAMETER: np.full(17, "a")}, f"{PARAMETER} is <U1"),
    ({PARAMETER: np.ones(16, np.float32)}, rf"{PARAMETER} is float32 \(16,\); expected float32 \(17,\)"),
    ({PARAMETER: None}, f"lacks {PARAMETER}"),
    ({"trained_on": np.zeros(35, np.uint64)}, r"trained_on is uint64 \(35,\); expected uint64 \(34,\)"),
    ({VELOCITY: None}, f"lacks {VELOCITY}"),
    ({VELOCITY: np.full(17, np.inf, np.float32)}, f"{VELOCITY} holds inf"),
    ({"config": np.zeros(32, np.uint8)}, "belongs to another config.json"),
    ({"config": None}, "belongs to another config.json"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("arrays", "message"), FORGED, ids=[f"{k}" for k in range(len(FORGED))])
def test_what_no_run_has_written_is_refused(run, small_file, arrays, message):
    rewritten(run, **arrays)
    refused(run, small_file, message)


@pytest.mark.slow
def test_a_negative_variance_is_refused(run, small_file):
    with np.load(run / "checkpoint.npz") as file:
        name = next(name for name in file if name.endswith("running_var"))
        values = file[name].copy()
    values[-1] = -0.25  # the value at fault is named, not the first one
    rewritten(run, **{name: values})
    refused(run, small_file, f"{name} holds -0.25; expected finite values, 0 or more")


@pytest.mark.slow
def test_a_checkpoint_without_velocity_is_only_of_step_0(run, small_file):
    with np.load(run / "checkpoint.npz") as file:
        names = [name for name in file if name.startswith("velocity/")]
    rewritten(run, **dict.fromkeys(names))
    refused(run, small_file, "it has no velocity at step 6")
    rewritten(run, step=np.array(0))
    assert evaluate.load(run)


@pytest.mark.slow
def test_sums_within_an_epoch_must_be_of_its_steps(run, small_file):
    rewritten(run, step=np.array(5))
    refused(run, small_file, r"sums: samples is 0\.0; expected a finite number, 32 or more, 32 or less")


def bare(path, data):
    with open(path, "wb") as file:
        np.save(file, np.zeros(3))


def packed(path, data):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as file:
        file.writestr("config.npy", b"\x93NUMPY")
    path.write_bytes(path.read_bytes().replace(b"\x0e\x00", b"\x63\x00"))  # compression that no one knows


@pytest.mark.slow
@pytest.mark.parametrize(
    "spoil",
    [
        lambda path, data: path.write_bytes(data[:1000]),
        lambda path, data: path.write_bytes(b""),
        lambda path, data: path.write_bytes(data[:200] + bytes(200) + data[400:]),
        bare,
        packed,
    ],
    ids=["cut", "empty", "damaged", "bare npy", "compression"],
)
def test_a_damaged_checkpoint_is_named_with_honest_advice(run, small_file, spoil):
    spoil(run / "checkpoint.npz", (run / "checkpoint.npz").read_bytes())
    refused(run, small_file, r"Restore the file from a copy; without one, train again in another folder")


@pytest.mark.slow
def test_no_memory_is_taken_before_the_names_are_known(run, small_file, monkeypatch):
    rewritten(run, extra=np.zeros(10**6))
    monkeypatch.setattr(archives.np.lib.format, "read_array", reading_small(archives.np.lib.format.read_array))
    refused(run, small_file, "holds also extra")


def reading_small(read_array):
    def read(file, **options):
        array = read_array(file, **options)
        assert array.size == 32  # the digest alone
        return array

    return read


def test_no_checkpoint_yet_and_one_of_an_earlier_step(whole, run, tmp_path):
    shutil.copytree(whole, tmp_path / "complete")
    rewritten(tmp_path / "complete", step=np.array(3))
    with pytest.raises(ValueError, match="is of step 3, though the run is complete"):
        evaluate.load(tmp_path / "complete")
    (run / "checkpoint.npz").unlink()
    with pytest.raises(ValueError, match="has no checkpoint.npz yet"):
        evaluate.load(run)

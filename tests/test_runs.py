"""runs.py: run folders are complete, honest and written whole; damage and other runs are named."""

import shutil

import h5py
import numpy as np
import pytest
from small import TINY, bits, copied, quiet

from bplcz_ref import files, metrics, systems, theory
from bplcz_ref.data import so2sat
from bplcz_ref.training import evaluate, runs, train


def test_a_run_folder_is_complete_and_honest(whole):
    config, result = runs.read_config(whole), runs.read_metrics(whole)
    assert config["settings"] == TINY._asdict()
    assert config["data"]["simulated"]
    assert result["data_simulated"]
    rows = runs.read_log(whole)
    assert [row["epoch"] for row in rows] == [1, 2]
    assert rows[-1] == result["last_epoch"]
    assert result["L_con_floor"] < rows[-1]["L_con"]
    table = np.loadtxt(whole / "confusion.csv", delimiter=",", skiprows=1, usecols=range(1, 18), dtype=int)
    assert np.array_equal(table, runs.read_confusion(whole))
    assert table.sum() == result["test_samples"] == 40
    assert metrics.overall_accuracy(table) == result["overall_accuracy"]
    assert metrics.kappa(table) == result["kappa"]


def test_no_test_sample_is_trained_on(small_file):
    with so2sat.open_file(small_file) as patches:
        rows, test = runs.parts(patches, TINY)
    assert not set(rows) & set(test)


def test_the_split_of_a_subset_is_its_own(subset):
    """Whatever the preset says; what was chosen must agree, and split "random" draws anew."""
    small, own = systems.SMALL, {"per_class": 2, "test": 30}
    with so2sat.open_file(subset) as patches:
        settings = runs.settle(patches, small)
        assert settings == small._replace(**own)
        assert runs.parts(patches, settings) is patches.parts
        assert runs.settle(patches, small._replace(**own), given=own) == settings
        for given in (["test"], ["per_class", "epochs"]):
            with pytest.raises(
                ValueError, match=r"its own split, per_class 2 and test 30; (test 1000|per_class 60)"
            ):
                runs.settle(patches, small, given)
        with pytest.raises(ValueError, match="per_class 2 and test 40 asked for: leave that out"):
            runs.settle(patches, TINY)  # what differs from the preset was chosen
        with pytest.raises(ValueError, match="its own split"):
            runs.parts(patches, small)
        drawn = TINY._replace(per_class=1, test=40, split="random")
        assert runs.settle(patches, drawn) == drawn
        assert set(runs.parts(patches, drawn)[1]) & set(patches.parts[0])
        for training in (np.arange(33), np.arange(64)):
            patches.parts = training, np.arange(len(training), 64)
            with pytest.raises(ValueError, match="expected the same number of each class, and 1 test row or more"):
                runs.settle(patches, small)


def test_another_run_in_the_folder_is_refused(whole, small_file, tmp_path):
    with pytest.raises(ValueError, match="settings.seed is 47 there and 48 now"):
        train.train(whole, small_file, "ebcnn-bplcz", TINY._replace(seed=48))
    with pytest.raises(ValueError, match="holds a run already"):
        train.train(whole, small_file, "ebcnn-bplcz", TINY, resume=False)
    other = tmp_path / "other.h5"
    shutil.copy(small_file, other)
    with h5py.File(other, "a") as file:
        file["sen2"][...] = 1 - file["sen2"][...]
    with pytest.raises(ValueError, match="data.pixels is"):
        train.train(whole, other, "ebcnn-bplcz", TINY)
    (tmp_path / "run").mkdir()
    shutil.copy(whole / "checkpoint.npz", tmp_path / "run")
    with pytest.raises(ValueError, match="checkpoint.npz without config.json"):
        train.train(tmp_path / "run", small_file, "ebcnn-bplcz", TINY)


def test_a_failed_write_keeps_the_last_checkpoint(whole, tmp_path, monkeypatch):
    at = evaluate.load(whole)
    progress = runs.Progress(5, dict.fromkeys(runs.SUMS, 0.0), at.params, None, at.state, at.statistics)
    runs.save_checkpoint(tmp_path, progress)
    before = bits(tmp_path)

    def full(file, **arrays):
        file.write(b"PK half of it")
        raise OSError("no space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(ValueError, match=r"checkpoint\.npz cannot be written \(no space"):
        runs.save_checkpoint(tmp_path, progress._replace(step=6))
    assert bits(tmp_path) == before
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint.npz"]


def test_a_damaged_checkpoint_is_named(whole, small_file, tmp_path):
    run = copied(whole, tmp_path / "run")
    (run / "metrics.json").unlink()
    (run / "checkpoint.npz").write_bytes((whole / "checkpoint.npz").read_bytes()[:1000])
    with pytest.raises(ValueError, match="checkpoint.npz cannot be read"):
        train.train(run, small_file, "ebcnn-bplcz", TINY, say=quiet)
    (run / "checkpoint.npz").unlink()
    with pytest.raises(ValueError, match="has no checkpoint.npz yet"):
        evaluate.load(run)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text.replace("truth \\ predicted", "predicted \\ truth"), "expected the header"),
        (lambda text: text.replace("\n2,", "\nX,"), "expected the header"),
        (lambda text: text.rsplit("\n", 2)[0], "expected the header"),
        (lambda text: text.replace("\n2,", "\n2,-1"), "must hold counts"),
        (lambda text: text.replace("\n2,", "\n2,0.5"), "invalid literal"),
        (lambda text: text.replace("\n2,", "\n2,1,"), "confusion.csv"),
        (lambda text: "", "expected the header"),
    ],
)
def test_a_damaged_confusion_matrix_is_named(whole, tmp_path, change, message):
    text = (whole / "confusion.csv").read_text(encoding="utf-8")
    (tmp_path / "confusion.csv").write_text(change(text), encoding="utf-8")
    with pytest.raises(ValueError, match=message) as error:
        runs.read_confusion(tmp_path)
    assert str(tmp_path / "confusion.csv") in str(error.value)


def test_a_damaged_log_is_named(whole, tmp_path):
    (tmp_path / "log.jsonl").write_text((whole / "log.jsonl").read_text() + "{")
    with pytest.raises(ValueError, match="log.jsonl, line 3: not valid JSON"):
        runs.read_log(tmp_path)
    assert runs.read_log(tmp_path / "nothing") == []


def test_a_foreign_config_is_named(whole, tmp_path):
    for content in ("{}", "[1]"):
        (tmp_path / "config.json").write_text(content)
        with pytest.raises(ValueError, match="config.json does not belong to a run"):
            runs.read_config(tmp_path)
    with pytest.raises(ValueError, match="system is 'vgg'; expected one of resnet50"):
        runs.read_config(copied(whole, tmp_path / "vgg", system="vgg"))


def test_settings_of_another_version_are_named(whole):
    config = files.read_json(whole / "config.json")
    del config["settings"]["grid"]
    with pytest.raises(ValueError, match="settings differ from this one's in grid: train it again"):
        runs.settings_of(whole, config)


@pytest.mark.slow
def test_the_floor_without_msm_takes_the_identity_that_was_used(small_file, tmp_path):
    result = train.train(tmp_path, small_file, "ebcnn-bgp", TINY._replace(epochs=1), say=quiet)
    fraction = (2 * 16 + 2) / (2 * 16 * 16 + 2 * 2)  # batches of 16, 16 and 2: B ones in B^2 entries
    assert abs(result["last_epoch"]["positive_fraction"] - fraction) < 1e-15
    assert result["L_con_floor"] == theory.contrastive_floor(1.75, 17, fraction).L_con

"""training/runs.py: run folders are complete, honest and written whole; damage and other runs are named."""

import itertools
import os
import shutil

import h5py
import pytest
from small import TINY, bits, edited, quiet, rewritten, steady

from bplcz_ref import metrics, tokenizer
from bplcz_ref.storage import files
from bplcz_ref.training import evaluate, runs, train


def test_a_run_folder_is_complete_and_honest(whole):
    config, result = runs.read_config(whole), runs.read_metrics(whole)
    assert config["settings"] == TINY._asdict()
    assert config["data"]["simulated"] is result["data_simulated"] is True
    rows = runs.read_log(whole)
    assert [row["epoch"] for row in rows] == [1, 2]
    assert rows[-1] == result["last_epoch"]
    assert rows[1]["L"] < rows[0]["L"]
    assert abs(rows[1]["L"] - (rows[1]["L_cls"] + 2 * rows[1]["L_con"])) < 1e-5
    assert 0.1 < result["last_epoch"]["L_con_floor"] < rows[-1]["L_con"]
    assert result["split"] == "random split"
    assert result["training_samples"] == 34
    C = runs.read_confusion(whole)
    assert C.sum() == result["test_samples"] == 40
    assert metrics.overall_accuracy(C) == result["overall_accuracy"]
    assert metrics.kappa(C) == result["kappa"]


def test_another_run_in_the_folder_is_refused(whole, small_file, tmp_path):
    with pytest.raises(ValueError, match="settings.seed is 47 there and 48 now"):
        train.train(whole, small_file, "ebcnn-bplcz", TINY._replace(seed=48))
    other = tmp_path / "other.h5"
    shutil.copy(small_file, other)
    with h5py.File(other, "a") as file:
        file["sen2"][...] = 1 - file["sen2"][...]
    with pytest.raises(ValueError, match="data.pixels is"):
        train.train(whole, other, "ebcnn-bplcz", TINY)
    (tmp_path / "run").mkdir()
    shutil.copy(whole / "metrics.json", tmp_path / "run")
    with pytest.raises(ValueError, match=r"metrics\.json without config\.json"):
        train.train(tmp_path / "run", small_file, "ebcnn-bplcz", TINY)


@pytest.mark.long
def test_a_run_that_is_killed_at_any_write_ends_with_the_same_bits(small_file, tmp_path, monkeypatch):
    """Before the k-th file is renamed into place, for every k that there is, and before what follows the last."""

    class Killed(BaseException):
        pass

    def one(run, writes=10**6):
        replace, left = os.replace, iter(range(writes))

        def dying(*paths):
            if next(left, None) is None:
                raise Killed
            replace(*paths)

        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", dying)
            patch.setattr(train, "CHECKPOINT_SECONDS", 0)
            train.train(run, small_file, "ebcnn", TINY, say=quiet)
        return bits(run), steady(run), runs.read_confusion(run).tolist()

    whole = one(tmp_path / "whole")
    for k in itertools.count():
        try:
            one(tmp_path / str(k), writes=k)
        except Killed:
            assert not runs.complete(tmp_path / str(k))
            assert one(tmp_path / str(k)) == whole, k
        else:
            break
    assert k >= 10  # a config, six checkpoints, two logs, a confusion matrix, metrics


# ------------------------------------------------------------------------------------------ damaged, edited, gone


DAMAGE = [  # file, what becomes of its bytes, who reads it, message
    ("config.json", lambda b: b.replace(b'"alpha"', b'"a"'), runs.read_config, "settings differ .* in a, alpha:"),
    ("config.json", lambda b: b.replace(b"ebcnn-bplcz", b"vgg"), runs.read_config, "'vgg', which is not regis"),
    ("config.json", lambda b: b.replace(b'"seed": 47', b'"seed": 48'), runs.read_metrics, "another config.json"),
    ("log.jsonl", lambda b: b.splitlines()[1], runs.read_log, "expected a line for each epoch from 1 on"),
    ("checkpoint.npz", lambda b: b[:1000], evaluate.load, "restore the file from a copy; without one, train"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "change", "read", "message"), DAMAGE)
def test_a_damaged_file_is_named(whole, tmp_path, name, change, read, message):
    run = shutil.copytree(whole, tmp_path / "run")
    (run / name).write_bytes(change((run / name).read_bytes()))
    with pytest.raises(ValueError, match=message) as error:
        read(run)
    assert str(error.value).startswith(str(run))
    assert "\n" not in str(error.value)


def test_where_files_are_may_be_edited_and_what_was_trained_may_not(whole, tmp_path):
    run = shutil.copytree(whole, tmp_path / "run")
    config = runs.read_config(run)
    files.write_json(run / "config.json", edited(config, "data", {"path": "elsewhere.h5"}))
    assert evaluate.load(run).config["data"]["path"] == "elsewhere.h5"
    assert runs.read_metrics(run)
    files.write_json(run / "config.json", edited(config, "data", {"labels": "0" * 64}))
    for read in (evaluate.load, runs.read_metrics):
        with pytest.raises(ValueError, match="belongs to another config.json than the one beside it"):
            read(run)


def test_metrics_that_are_removed_are_computed_again(whole, small_file, tmp_path):
    """The remedy that the message names; of the checkpoint, if it is the run's."""
    run = shutil.copytree(whole, tmp_path / "run")
    (run / "metrics.json").unlink()
    (run / "confusion.csv").write_text("damaged")
    assert train.train(run, small_file, "ebcnn-bplcz", TINY, say=quiet) == runs.read_metrics(whole)
    (run / "metrics.json").unlink()
    rewritten(run, **{"params/classifier.bias": None})
    for use in (evaluate.load, lambda run: train.train(run, small_file, "ebcnn-bplcz", TINY, say=quiet)):
        with pytest.raises(ValueError, match=r"checkpoint\.npz.*params does not fit .*missing: classifier.bias"):
            use(run)
    (run / "checkpoint.npz").unlink()
    with pytest.raises(ValueError, match="has no checkpoint.npz yet"):
        evaluate.load(run)
    assert runs.read_log(tmp_path) == []


def merges_file(path, count):
    lines = (tokenizer.vocabulary_folder() / tokenizer.MACHINE_FILE).read_text(encoding="utf-8").splitlines()
    path.write_text("\n".join([f"{tokenizer.OWN_HEADER}{count}", *lines[1 : count + 1]]) + "\n", encoding="utf-8")


@pytest.mark.slow
def test_another_vocabulary_is_another_run(small_file, tmp_path):
    """The merges count, not the path of their file: an exchanged file is refused, a moved one is not."""
    merges, run = tmp_path / "merges.txt", tmp_path / "run"
    merges_file(merges, 900)
    settings = TINY._replace(epochs=1, vocabulary=str(merges))
    result = train.train(run, small_file, "ebcnn-bplcz", settings, say=quiet)
    moved = merges.rename(tmp_path / "moved.txt")
    now = settings._replace(vocabulary=str(moved))
    assert train.train(run, small_file, "ebcnn-bplcz", now, say=quiet) == result
    merges_file(merges, 899)
    with pytest.raises(ValueError, match="holds another run: vocabulary is"):
        train.train(run, small_file, "ebcnn-bplcz", settings, say=quiet)
    with pytest.raises(ValueError, match="was trained with other merges than .*merges.txt has now"):
        evaluate.load(run)

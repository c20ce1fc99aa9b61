"""runs.py: run folders are complete, honest and written whole; damage and other runs are named."""

import shutil

import h5py
import numpy as np
import pytest
from small import TINY, bits, edited, quiet

from bplcz_ref import files, metrics, theory, tokenizer
from bplcz_ref.data import so2sat
from bplcz_ref.streams import stream
from bplcz_ref.training import evaluate, runs, split, train


def test_a_run_folder_is_complete_and_honest(whole):
    config, result = runs.read_config(whole), runs.read_metrics(whole)
    assert config["settings"] == TINY._asdict()
    assert config["data"]["simulated"]
    assert result["data_simulated"]
    rows = runs.read_log(whole)
    assert [row["epoch"] for row in rows] == [1, 2]
    assert rows[-1] == result["last_epoch"]
    assert 0.1 < result["last_epoch"]["L_con_floor"] < rows[-1]["L_con"]
    assert result["split"] == "random split"
    assert result["training_samples"] == 34
    table = np.loadtxt(whole / "confusion.csv", delimiter=",", skiprows=1, usecols=range(1, 18), dtype=int)
    assert np.array_equal(table, runs.read_confusion(whole))
    assert table.sum() == result["test_samples"] == 40
    assert metrics.overall_accuracy(table) == result["overall_accuracy"]
    assert metrics.kappa(table) == result["kappa"]


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
    for name in ("metrics.json", "checkpoint.npz"):
        shutil.copy(whole / name, tmp_path / "run")
        with pytest.raises(ValueError, match=f"{name} without config.json"):
            train.train(tmp_path / "run", small_file, "ebcnn-bplcz", TINY)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("confusion.csv", lambda text: text.replace("truth \\ predicted", "predicted"), "expected the header"),
        ("confusion.csv", lambda text: text.replace("\n2,", "\n2,-"), "row 2 is '-.*'; expected 17 counts"),
        ("confusion.csv", lambda text: text.replace("\n2,", "\n2,1,"), "row 2 is '1,.*'; expected 17 counts"),
        ("log.jsonl", lambda text: text + "{", "line 3: it is not JSON"),
        ("log.jsonl", lambda text: text.replace('"L":', '"M":', 1), "line 1 lacks L"),
        ("log.jsonl", lambda text: text.replace('"L_cls": ', '"L_cls": -', 1), "line 1: L_cls is -"),
        (
            "log.jsonl",
            lambda text: text.splitlines()[1],
            "line 1: epoch is 2; expected 1, as each epoch has its line",
        ),
        ("config.json", lambda text: "{}", "does not belong to a run"),
        (
            "config.json",
            lambda text: text.replace("ebcnn-bplcz", "vgg"),
            "system is 'vgg', which is not registered",
        ),
        (
            "config.json",
            lambda text: text.replace('"alpha"', '"a"'),
            "settings differ from this one's in a, alpha",
        ),
        ("metrics.json", lambda text: text.replace('"kappa": ', '"kappa": 2e5, "a": '), "has also a"),
        ("metrics.json", lambda text: text[:200], "cannot be read .JSONDecodeError"),
    ],
)
def test_a_damaged_file_is_named(whole, tmp_path, name, change, message):
    readers = {"confusion.csv": runs.read_confusion, "log.jsonl": runs.read_log, "config.json": runs.read_config}
    text = (whole / name).read_text(encoding="utf-8")
    shutil.copy(whole / "config.json", tmp_path)
    (tmp_path / name).write_text(change(text), encoding="utf-8")
    with pytest.raises(ValueError, match=rf"{name}.*{message}") as error:
        readers.get(name, runs.read_metrics)(tmp_path)
    assert str(tmp_path / name) in str(error.value)


def test_a_log_that_is_not_there_is_empty(tmp_path):
    assert runs.read_log(tmp_path) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "value"),
    [("clip_sen1", 2.0), ("seed", 48), ("data", {"labels": "0" * 64})],
)
def test_an_edited_config_is_refused_by_what_was_trained_with_it(whole, small_file, tmp_path, name, value):
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    files.write_json(run / "config.json", edited(files.read_json(run / "config.json"), name, value))
    with pytest.raises(ValueError, match="checkpoint.npz belongs to another config.json than the one beside it"):
        evaluate.load(run)
    with pytest.raises(ValueError, match="metrics.json belongs to another config.json than the one beside it"):
        runs.read_metrics(run)


def test_a_result_of_fewer_epochs_is_not_taken_for_one_of_more(whole, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    files.write_json(run / "config.json", edited(files.read_json(run / "config.json"), "epochs", 5))
    for read in (runs.read_metrics, evaluate.load):
        with pytest.raises(
            ValueError, match="belongs to another config.json|is of step 6, though the run is complete"
        ):
            read(run)


def test_where_files_are_may_be_edited(whole, small_file, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    config = edited(files.read_json(run / "config.json"), "data", {"path": "elsewhere.h5"})
    files.write_json(run / "config.json", config)
    assert evaluate.load(run).config == config
    assert runs.read_metrics(run)


@pytest.mark.slow
def test_metrics_that_are_removed_are_computed_again(whole, small_file, tmp_path):
    """The remedy that the message names."""
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    (run / "metrics.json").unlink()
    (run / "confusion.csv").write_text("damaged")
    assert train.train(run, small_file, "ebcnn-bplcz", TINY, say=quiet) == runs.read_metrics(whole)


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
    moved = tmp_path / "moved.txt"
    merges.rename(moved)
    now = settings._replace(vocabulary=str(moved))
    assert train.train(run, small_file, "ebcnn-bplcz", now, say=quiet) == result
    merges_file(merges, 899)
    with pytest.raises(ValueError, match="holds another run: vocabulary is"):
        train.train(run, small_file, "ebcnn-bplcz", settings, say=quiet)
    with pytest.raises(ValueError, match="was trained with other merges than .*merges.txt has now"):
        evaluate.load(run)


@pytest.mark.slow
def test_the_floor_is_that_of_the_very_batches(small_file, tmp_path):
    """Of the labels in each batch, with W = I without MSM; weighted by the samples, as L_con is."""
    settings = TINY._replace(epochs=1)
    with so2sat.open_file(small_file) as patches:
        rows, _ = split.parts(patches, settings)
        order = stream(47, "shuffle", 0).permutation(rows)
        labels = [patches.labels[order[start : start + 16]] for start in (0, 16, 32)]
    for system, msm in (("ebcnn-bgp", False), ("ebcnn-bplcz", True)):
        last = train.train(tmp_path / system, small_file, system, settings, say=quiet)["last_epoch"]
        floors = [len(y) * theory.batch_floor(y, 1.75, msm).lower for y in labels]
        assert abs(last["L_con_floor"] - sum(floors) / 34) < 1e-9
        assert last["L_con_floor"] < last["L_con"]
    other = train.train(
        tmp_path / "unicl", small_file, "ebcnn-bplcz", settings._replace(contrastive="unicl"), say=quiet
    )
    assert other["last_epoch"]["L_con_floor"] is None
    none = train.train(
        tmp_path / "none", small_file, "ebcnn-bplcz", settings._replace(contrastive="none"), say=quiet
    )
    plain = train.train(tmp_path / "plain", small_file, "ebcnn", settings, say=quiet)
    assert none["last_epoch"]["L_con"] is None
    assert bits(tmp_path / "none").keys() == bits(tmp_path / "plain").keys()
    same = [{n: a for n, a in bits(tmp_path / run).items() if n.startswith("params")} for run in ("none", "plain")]
    assert same[0] == same[1]
    assert none["parameters"] == plain["parameters"]

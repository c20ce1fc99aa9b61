"""runs.py: run folders are complete, honest and written whole; damage and other runs are named."""

import shutil

import h5py
import numpy as np
import pytest
from small import TINY, bits, edited, quiet

from bplcz_ref import files, metrics, schema, theory, tokenizer
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
    ("change", "message"),
    [
        (lambda text: text.replace("truth \\ predicted", "predicted \\ truth"), "expected the header"),
        (lambda text: text.replace("\n2,", "\nX,"), "expected the header"),
        (lambda text: text.rsplit("\n", 2)[0], "expected the header"),
        (lambda text: text.replace("\n2,", "\n2,-"), "row 2, column 1 is '-.*'; expected a count"),
        (lambda text: text.replace("\n2,", "\n2,0.5"), r"row 2, column 1 is '0\.5.*'; expected a count"),
        (lambda text: text.replace("\n2,", "\n2," + 20 * "9"), "row 2, column 1 is '999.*'; expected a count"),
        (lambda text: text.replace("\n2,", "\n2,\u0663"), "row 2, column 1 is .*; expected a count"),
        (lambda text: text.replace("\n2,", "\n2,1,"), "row 2 has 18 counts; expected 17"),
        (lambda text: text + " " * (1 << 20), "more than the 1,048,576 bytes"),
        (lambda text: "", "expected the header"),
    ],
)
def test_a_damaged_confusion_matrix_is_named(whole, tmp_path, change, message):
    text = (whole / "confusion.csv").read_text(encoding="utf-8")
    (tmp_path / "confusion.csv").write_text(change(text), encoding="utf-8")
    with pytest.raises(ValueError, match=message) as error:
        runs.read_confusion(tmp_path)
    assert str(tmp_path / "confusion.csv") in str(error.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: [*rows, "{"], "line 3: not valid JSON"),
        (lambda rows: [rows[0], "[" * 100_000], r"line 2: not valid JSON \(nested too deeply\)"),
        (lambda rows: [*rows, "[1]"], r"line 3 is \[1\]; expected an object"),
        (lambda rows: [rows[0].replace('"L":', '"M":')], "line 1 lacks L"),
        (lambda rows: [rows[0].replace('"epoch": 1', '"epoch": true')], "line 1: epoch is True"),
        (lambda rows: [rows[0].replace('"epoch": 1', '"epoch": 1' + "0" * 5000)], "line 1: not valid JSON"),
        (lambda rows: [rows[0].replace('"L_cls": ', '"L_cls": -')], "line 1: L_cls is -"),
        (lambda rows: [rows[0].replace('"seconds": ', '"seconds": NaN, "x": ')], "NaN is no number"),
        (lambda rows: [rows[1]], "line 1: epoch is 2; expected 1"),
        (lambda rows: [rows[0], rows[0]], "line 2: epoch is 1; expected 2"),
        (lambda rows: [""], "line 1: not valid JSON"),
    ],
)
def test_a_damaged_log_is_named(whole, tmp_path, change, message):
    lines = change((whole / "log.jsonl").read_text().splitlines())
    (tmp_path / "log.jsonl").write_text("\n".join(lines))
    with pytest.raises(ValueError, match=rf"log\.jsonl, .*{message}"):
        runs.read_log(tmp_path)
    (tmp_path / "log.jsonl").write_text((whole / "log.jsonl").read_text(), encoding="utf-16")
    with pytest.raises(ValueError, match="log.jsonl: it is not UTF-8 text"):
        runs.read_log(tmp_path)
    assert runs.read_log(tmp_path / "nothing") == []


BAD_CONFIGS = [
    (lambda c: {}, "does not belong to a run"),
    (lambda c: [1], "does not belong to a run"),
    (lambda c: c | {"settings": [1]}, "does not belong to a run"),
    (lambda c: c | {"system": "vgg"}, "system is 'vgg', which is not registered: import the file"),
    (lambda c: c | {"system": ["ebcnn"]}, r"system is \['ebcnn'\]; expected text"),
    (lambda c: c | {"dtype": 32}, "dtype is 32; expected one of float32, float64"),
    (lambda c: c | {"dtype": "float16"}, "dtype is 'float16'"),
    (lambda c: c | {"data": None}, "data is None; expected an object"),
    (lambda c: c | {"vocabulary": "x"}, "vocabulary is 'x'; expected a SHA-256 digest"),
    (lambda c: edited(c, "data", {"path": "a\0b"}), "data.path is .*; expected a path"),
    (lambda c: edited(c, "data", {"simulated": "false"}), "data.simulated is 'false'; expected true or false"),
    (lambda c: edited(c, "data", {"labels": 1}), "data.labels is 1"),
    (lambda c: edited(c, "data", {"split": {}}), "data.split lacks"),
    (lambda c: edited(c, "features", 10**30), "settings.features is 1000.*; expected a whole number, 1 to 65536"),
    (lambda c: edited(c, "features", 4.0), r"settings.features is 4\.0"),
    (lambda c: edited(c, "epochs", True), "settings.epochs is True"),
    (lambda c: edited(c, "learning_rate", "0.1"), "settings.learning_rate is '0.1'"),
    (lambda c: edited(c, "vocabulary", 3), "vocabulary is 3"),
    (lambda c: edited(c, "test", 41), "data.split has 34 training and 40 test rows; expected 34 and 41"),
    (lambda c: edited(c, "settings", {"epochs": 2}), "settings differ from this one's in alpha, .*train the run"),
    (lambda c: {n: v for n, v in c.items() if n != "vocabulary"}, "differ from this one's in vocabulary"),
    (lambda c: c | {"more": 1}, "differ from this one's in more"),
]


@pytest.mark.parametrize(("change", "message"), BAD_CONFIGS, ids=[message for _, message in BAD_CONFIGS])
def test_a_foreign_config_is_named(whole, tmp_path, change, message):
    files.write_json(tmp_path / "config.json", change(files.read_json(whole / "config.json")))
    with pytest.raises(ValueError, match=rf"config\.json.*{message}"):
        runs.read_config(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "value"),
    [("clip_sen1", 2.0), ("seed", 48), ("learning_rate", 1.0), ("alpha", 0.5), ("data", {"labels": "0" * 64})],
)
def test_an_edited_config_is_refused_by_what_was_trained_with_it(whole, small_file, tmp_path, name, value):
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    files.write_json(run / "config.json", edited(files.read_json(run / "config.json"), name, value))
    with pytest.raises(ValueError, match="checkpoint.npz belongs to another config.json than the one beside it"):
        evaluate.load(run)
    with pytest.raises(ValueError, match=r"metrics.json: config is '.*'; the files beside it give"):
        runs.read_metrics(run)


def test_where_files_are_may_be_edited(whole, small_file, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    config = edited(files.read_json(run / "config.json"), "data", {"path": "elsewhere.h5"})
    files.write_json(run / "config.json", config)
    assert evaluate.load(run).config == config
    assert runs.read_metrics(run)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"overall_accuracy": 0.99}, "overall_accuracy is 0.99; the files beside it give 0"),
        ({"kappa": None}, "kappa is None; the files beside it give"),
        ({"test_samples": 41}, "test_samples is 41; the files beside it give 40"),
        ({"data_simulated": False}, "data_simulated is False"),
        ({"training_seconds": 0.001}, "training_seconds is 0.001"),
        ({"split": "city split, 2 cities left out"}, "split is 'city split.*; the files beside it give 'random"),
        ({"training_samples": 35}, "training_samples is 35"),
        ({"system": "ebcnn"}, "system is 'ebcnn'; the files beside it give 'ebcnn-bplcz'"),
        ({"settings": TINY._replace(seed=48)._asdict()}, "settings.seed is 48; the files beside it give 47"),
        ({"overall_accuracy": "1"}, "overall_accuracy is '1'; expected a finite number, 0 or more, 1 or less"),
        ({"samples": 40.5}, "samples is 40.5; expected a whole number"),
        ({"last_epoch": []}, r"last_epoch is \[\]; expected an object"),
        ({"more": 1}, "has also more"),
    ],
)
def test_figures_that_the_files_beside_do_not_give_are_refused(whole, tmp_path, change, message):
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    files.write_json(run / "metrics.json", files.read_json(run / "metrics.json") | change)
    with pytest.raises(ValueError, match=rf"metrics\.json:? {message}"):
        runs.read_metrics(run)


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


ROW = {
    "epoch": 1, "L": -0.5, "L_cls": 0.0, "L_con": None, "L_con_floor": 0.0, "training_accuracy": 0.0,
    "validation_accuracy": 1.0, "positive_fraction": 1.0, "S_positive": -9.0, "S_negative": 9.0, "seconds": 0.0,
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "value"),
    [("epoch", 0), ("L_cls", -0.1), ("L_con_floor", -0.1), ("training_accuracy", 1.1), ("positive_fraction", 1.1)],
)
def test_the_edges_of_a_line_of_the_log(name, value):
    schema.check(ROW, runs.ROW, "log.jsonl")
    with pytest.raises(ValueError, match=f"{name} is {value}"):
        schema.check(ROW | {name: value}, runs.ROW, "log.jsonl")


def test_the_edges_of_a_result():
    kappa, split = runs.METRICS["kappa"], runs.CONFIG["data"]["split"]
    for value in (-1, 0.5, 1, None):
        schema.check(value, kappa, "kappa")
    for value in (-1.5, 1.5):
        with pytest.raises(ValueError, match="kappa"):
            schema.check(value, kappa, "kappa")
    for name in ("training", "test"):
        schema.check(1, split[name], name)
        with pytest.raises(ValueError, match=name):
            schema.check(0, split[name], name)

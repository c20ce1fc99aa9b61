"""__main__.py: each command as a user calls it, and errors as one line with code 2."""

import csv

import h5py
import numpy as np
import pytest

from bplcz_ref import __main__ as command_line
from bplcz_ref import files
from bplcz_ref.data import so2sat

COMMANDS = [
    "simulate",
    "inspect",
    "subset",
    "train",
    "evaluate",
    "predict",
    "report",
    "tables",
    "explain",
    "conform",
    "tokenizer",
]
SMALL = ("--epochs", "1", "--per-class", "2", "--test", "20", "--batch", "8")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "simulated.h5"
    assert command_line.main(["simulate", str(path), "--per-class", "4", "--seed", "3"]) == 0
    return path


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "ebcnn"
    assert (
        command_line.main(["train", "--data", str(data), "--system", "ebcnn", "--out", str(folder), *SMALL]) == 0
    )
    return folder


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example(command, capsys):
    with pytest.raises(SystemExit) as stop:
        command_line.main([command, "--help"])
    assert stop.value.code == 0
    assert f"python -m bplcz_ref {command}" in capsys.readouterr().out


def test_inspect_says_simulated(data, capsys):
    assert command_line.main(["inspect", str(data)]) == 0
    text = capsys.readouterr().out
    assert "68 rows" in text
    assert "SIMULATED" in text


def test_inspect_fails_on_a_bad_file(tmp_path, capsys):
    (tmp_path / "x.h5").write_bytes(b"not HDF5")
    assert command_line.main(["inspect", str(tmp_path / "x.h5")]) == 1
    assert "not an HDF5 file" in capsys.readouterr().out


def test_subset_then_train_on_its_own_parts(data, tmp_path, capsys):
    out = tmp_path / "part.h5"
    assert command_line.main(["subset", str(data), str(out), "--per-class", "2", "--test", "20"]) == 0
    with so2sat.open_file(out) as patches:
        assert len(patches) == 54
        assert np.bincount(patches.labels[patches.parts[0]]).tolist() == [2] * 17


def test_evaluate_and_predict_agree(run, tmp_path, capsys):
    other = tmp_path / "other.h5"
    assert command_line.main(["simulate", str(other), "--per-class", "2", "--rows", "9", "--seed", "4"]) == 0
    assert command_line.main(["evaluate", str(run), "--data", str(other)]) == 0
    line = capsys.readouterr().out
    assert "ebcnn trained on SIMULATED data" in line
    assert "43 SIMULATED samples: all 43 rows" in line
    out = tmp_path / "labels.csv"
    assert command_line.main(["predict", str(run), "--data", str(other), "--out", str(out)]) == 0
    with open(out, encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    with so2sat.open_file(other) as patches:
        truth = [command_line.paper.CLASSES[k][0] for k in patches.labels]
    right = sum(row["class"] == name for row, name in zip(rows, truth, strict=True))
    assert f"OA {100 * right / len(rows):.2f} %" in line
    assert {row["simulated"] for row in rows} == {"true"}


def test_predict_needs_no_labels(run, data, tmp_path, capsys):
    bare = tmp_path / "bare.h5"
    with h5py.File(data) as source, h5py.File(bare, "w") as file:
        for name in ("sen1", "sen2"):
            source.copy(name, file)
    out = tmp_path / "labels.csv"
    assert command_line.main(["predict", str(run), "--data", str(bare), "--out", str(out)]) == 0
    assert out.read_text(encoding="utf-8").count("\n") == 69
    assert command_line.main(["predict", str(run), "--data", str(bare), "--out", str(tmp_path)]) == 2
    assert "is a folder; expected a file" in capsys.readouterr().err


def test_evaluate_on_the_training_file_takes_its_test_part(run, data, capsys):
    assert command_line.main(["evaluate", str(run), "--data", str(data)]) == 0
    text = capsys.readouterr().out
    kappa = files.read_json(run / "metrics.json")["kappa"]
    assert "on 20 SIMULATED samples: the test part" in text
    assert f"kappa {100 * kappa:.2f} %" in text


def test_no_data_file_is_written_over(run, data, tmp_path, capsys):
    before = data.read_bytes()
    for command in (
        ["simulate", str(data), "--per-class", "1"],
        ["subset", str(data), str(data), "--per-class", "1", "--test", "1"],
        ["predict", str(run), "--data", str(data), "--out", str(data)],
    ):
        assert command_line.main(command) == 2
    assert data.read_bytes() == before


def test_a_half_trained_run_is_called_so(run, data, tmp_path, capsys):
    half = tmp_path / "half"
    half.mkdir()
    for name in ("config.json", "checkpoint.npz", "log.jsonl"):
        (half / name).write_bytes((run / name).read_bytes())
    assert command_line.main(["evaluate", str(half), "--data", str(data)]) == 0
    assert "NOT complete: epoch 1 of 1" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("option", "value"),
    [("--epochs", "0"), ("--batch", "-5"), ("--test", "0"), ("--learning-rate", "nan"), ("--learning-rate", "-1")],
)
def test_settings_that_cannot_be_meant_are_refused_before_anything_is_written(
    data, tmp_path, capsys, option, value
):
    out = tmp_path / "run"
    asked = ["train", "--data", str(data), "--system", "ebcnn", "--out", str(out), *SMALL, option, value]
    assert command_line.main(asked) == 2
    assert option[2:].replace("-", "_") in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize("content", ["{}", "[1]", "{"])
def test_a_foreign_run_folder_is_named(tmp_path, data, capsys, content):
    (tmp_path / "config.json").write_text(content)
    assert command_line.main(["evaluate", str(tmp_path), "--data", str(data)]) == 2
    assert "config.json" in capsys.readouterr().err


def test_an_existing_run_needs_resume(run, data, capsys):
    again = ["train", "--data", str(data), "--system", "ebcnn", "--out", str(run), *SMALL]
    assert command_line.main(again) == 2
    assert "holds a run already" in capsys.readouterr().err
    assert command_line.main([*again, "--resume"]) == 0


def test_errors_are_one_line(tmp_path, capsys):
    assert command_line.main(["evaluate", str(tmp_path), "--data", "no.h5"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "config.json: there is no such file" in error


def test_explain_prints_one_equation(capsys):
    assert command_line.main(["explain", "--equation", "7"]) == 0
    assert "L_i2t" in capsys.readouterr().out


def test_tokenizer_encode(capsys):
    assert command_line.main(["tokenizer", "encode", "near infrared"]) == 0
    assert "infrared" in capsys.readouterr().out


def test_tokenizer_train_writes_the_bundled_files(tmp_path, capsys):
    assert command_line.main(["tokenizer", "train", "--out", str(tmp_path)]) == 0
    assert list(tmp_path.iterdir())

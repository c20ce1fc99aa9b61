"""__main__.py: each command as a user calls it, and errors as one line with code 2."""

import csv
import os

import h5py
import numpy as np
import pytest
from small import copied

from bplcz_ref import __main__ as command_line
from bplcz_ref import files, paper, systems
from bplcz_ref.data import so2sat
from bplcz_ref.training import tables

COMMANDS = [
    "explain",
    "simulate",
    "inspect",
    "subset",
    "train",
    "evaluate",
    "predict",
    "report",
    "tables",
    "conform",
]
COMMANDS += ["tokenizer"]
SMALL = ("--epochs", "1", "--set", "per_class=1", "test=20", "batch=8")


def train(data, out, *more):
    asked = ["train", "--data", str(data), "--system", "ebcnn", "--out", str(out), *SMALL, *more]
    return command_line.main(asked)


@pytest.fixture
def run(runs):
    return runs[0]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example(command, capsys):
    with pytest.raises(SystemExit) as stop:
        command_line.main([command, "--help"])
    assert stop.value.code == 0
    assert f"python -m bplcz_ref {command}" in capsys.readouterr().out


def test_simulate_then_inspect_then_subset(tmp_path, capsys):
    data, out = tmp_path / "simulated.h5", tmp_path / "part.h5"
    assert command_line.main(["simulate", str(data), "--per-class", "3", "--seed", "3"]) == 0
    assert command_line.main(["inspect", str(data)]) == 0
    text = capsys.readouterr().out
    assert "51 rows" in text
    assert "SIMULATED" in text
    assert command_line.main(["subset", str(data), str(out), "--per-class", "2", "--test", "15"]) == 0
    with so2sat.open_file(out) as patches:
        assert len(patches) == 49
        assert np.bincount(patches.labels[patches.parts[0]]).tolist() == [2] * 17


def test_inspect_fails_on_a_bad_file(tmp_path, capsys):
    (tmp_path / "x.h5").write_bytes(b"not HDF5")
    assert command_line.main(["inspect", str(tmp_path / "x.h5")]) == 1
    assert "not an HDF5 file" in capsys.readouterr().out


def test_options_that_are_not_given_are_the_presets():
    asked = ["train", "--data", "x.h5", "--system", "ebcnn", "--out", "run"]
    parse = command_line.parser().parse_args
    assert command_line.settings_from(parse(asked)) == systems.SMALL
    own = ["--preset", "paper", "--set", "batch=8", "vocabulary=m", "--epochs", "3", "--set", "alpha=0.5"]
    chosen = command_line.settings_from(parse([*asked, *own]))
    assert chosen == systems.PAPER._replace(batch=8, vocabulary="m", epochs=3, alpha=0.5)


def test_settings_are_listed_and_wrong_names_find_the_nearest(small_file, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        command_line.main(["train", "--settings"])  # without what training needs
    assert stop.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:]] == list(systems.Settings._fields)
    assert any(line.split()[:3] == ["learning_rate", "0.0001", "0.02"] for line in lines)
    assert train(small_file, tmp_path / "run", "--set", "contrastve=unicl") == 2
    assert "no setting 'contrastve'; did you mean contrastive?" in capsys.readouterr().err


def test_evaluate_and_predict_agree(run, tmp_path, capsys):
    other = tmp_path / "other.h5"
    assert command_line.main(["simulate", str(other), "--per-class", "2", "--rows", "9", "--seed", "4"]) == 0
    assert command_line.main(["evaluate", str(run), "--data", str(other)]) == 0
    line = capsys.readouterr().out
    assert "ebcnn trained on SIMULATED data" in line
    assert "No sample of class " in line
    assert "43 SIMULATED samples: all 43 rows" in line
    out = tmp_path / "labels.csv"
    assert command_line.main(["predict", str(run), "--data", str(other), "--out", str(out)]) == 0
    with open(out, encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    with so2sat.open_file(other) as patches:
        truth = [paper.CLASSES[k][0] for k in patches.labels]
    right = sum(row["class"] == name for row, name in zip(rows, truth, strict=True))
    assert f"OA {100 * right / len(rows):.2f} %" in line
    assert {row["simulated"] for row in rows} == {"true"}


@pytest.mark.slow
def test_predict_needs_no_labels(run, small_file, tmp_path, capsys):
    bare, out = tmp_path / "bare.h5", tmp_path / "labels.csv"
    with h5py.File(small_file) as source, h5py.File(bare, "w") as file:
        for name in ("sen1", "sen2"):
            source.copy(name, file)
    assert command_line.main(["predict", str(run), "--data", str(bare), "--out", str(out)]) == 0
    assert out.read_text(encoding="utf-8").count("\n") == 137
    assert command_line.main(["predict", str(run), "--data", str(bare), "--out", str(tmp_path)]) == 2
    assert "is a folder; expected a file" in capsys.readouterr().err


def test_predict_names_an_ending_of_embeddings_before_it_works(run, small_file, tmp_path, capsys):
    asked = ["predict", str(run), "--data", str(small_file), "--out", str(tmp_path / "l.csv")]
    assert command_line.main([*asked, "--embeddings", str(tmp_path / "I.csv")]) == 2
    assert "I.csv" in capsys.readouterr().err
    assert not (tmp_path / "l.csv").exists()


@pytest.mark.slow
def test_predict_says_that_a_sensor_is_empty(run, small_file, tmp_path, capsys):
    with h5py.File(small_file) as source, h5py.File(tmp_path / "bare.h5", "w") as file:
        source.copy("sen2", file)
        file["sen1"] = np.zeros(source["sen1"].shape)
    out = tmp_path / "labels.csv"
    assert command_line.main(["predict", str(run), "--data", str(tmp_path / "bare.h5"), "--out", str(out)]) == 0
    error = capsys.readouterr().err
    assert "bare.h5: sen1, all 8 channels, is 0, constant at every pixel of the 136 rows looked at" in error
    assert error.count("\n") == 1


@pytest.mark.slow
def test_predict_writes_labels_when_all_else_is_known_and_never_to_a_device(run, small_file, tmp_path, capsys):
    bad, out = copied(run, tmp_path / "bad"), tmp_path / "new" / "labels.csv"
    (bad / "log.jsonl").write_text("[]\n")
    assert command_line.main(["predict", str(bad), "--data", str(small_file), "--out", str(out)]) == 2
    assert "log.jsonl, line 1 is []; expected an object" in capsys.readouterr().err
    assert not out.parent.exists()
    if os.name == "posix":
        before = os.stat("/dev/null").st_mode
        assert command_line.main(["predict", str(run), "--data", str(small_file), "--out", "/dev/null"]) == 2
        assert "/dev/null is a device or a pipe" in capsys.readouterr().err
        assert os.stat("/dev/null").st_mode == before


def test_evaluate_on_the_training_file_takes_its_test_part(run, small_file, capsys):
    assert command_line.main(["evaluate", str(run), "--data", str(small_file)]) == 0
    text = capsys.readouterr().out
    kappa = files.read_json(run / "metrics.json")["kappa"]
    assert "on 40 SIMULATED samples: the test part" in text
    assert "the network was trained on the file's training part" in text
    assert f"kappa {100 * kappa:.2f} %" in text


def test_no_data_file_is_written_over(run, small_file, capsys):
    before = small_file.read_bytes()
    for command in (
        ["simulate", str(small_file), "--per-class", "1"],
        ["subset", str(small_file), str(small_file), "--per-class", "1", "--test", "1"],
        ["predict", str(run), "--data", str(small_file), "--out", str(small_file)],
    ):
        assert command_line.main(command) == 2
    assert small_file.read_bytes() == before


@pytest.mark.slow
def test_a_half_trained_run_is_called_so(run, small_file, tmp_path, capsys):
    half = copied(run, tmp_path / "half")
    (half / "metrics.json").unlink()
    assert command_line.main(["evaluate", str(half), "--data", str(small_file)]) == 0
    assert "NOT complete: epoch 2 of 2" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "value"), [("epochs", "0"), ("batch", "-5"), ("learning_rate", "nan"), ("published", "yes")]
)
def test_an_invalid_setting_is_refused_before_anything_is_written(small_file, tmp_path, capsys, name, value):
    assert train(small_file, tmp_path / "run", "--set", f"{name}={value}") == 2
    assert f"{name} is " in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_size_that_conflicts_with_a_subset_is_refused(subset, tmp_path, capsys):
    asked = ["train", "--data", str(subset), "--system", "ebcnn", "--out", str(tmp_path / "run")]
    assert command_line.main([*asked, "--set", "per_class=60"]) == 2  # the preset's own number, but chosen
    assert "its own split, per_class 2 and test 30; per_class 60 asked for" in capsys.readouterr().err
    assert not (tmp_path / "run" / "config.json").exists()
    drawn = ["--split", "random", "--epochs", "1", "--set", "per_class=1", "test=40"]
    assert command_line.main([*asked, *drawn]) == 0
    assert "on 40 SIMULATED samples" in capsys.readouterr().out
    tables_ = ["tables", "--data", str(subset), "--out", str(tmp_path / "t"), "--systems", "ebcnn"]
    assert command_line.main([*tables_, "--set", "test=9"]) == 2
    assert "test 9 asked for" in capsys.readouterr().err


@pytest.mark.slow
def test_train_needs_resume_for_an_existing_run(small_file, tmp_path, capsys):
    run = tmp_path / "run"
    assert train(small_file, run) == 0
    printed = capsys.readouterr()
    assert "on 20 SIMULATED samples, random split" in printed.out
    assert "ebcnn, 542,449 parameters (branches 534,816, classifier 7,633); 17 training and 20 test" in printed.err
    assert train(small_file, run) == 2
    assert "holds a run already" in capsys.readouterr().err
    assert command_line.main(["train", "--resume", str(run)]) == 0
    assert capsys.readouterr().out == printed.out
    assert command_line.main(["train", "--resume", str(run), "--set", "alpha=1"]) == 2
    assert "--resume takes all from the run's folder" in capsys.readouterr().err
    assert command_line.main(["train", "--resume", str(run), "--epochs", "2"]) == 0
    assert len(files.read_json(run / "config.json")["settings"]) == len(systems.Settings._fields)
    assert (run / "log.jsonl").read_text().count("\n") == 2
    assert command_line.main(["train", "--data", str(small_file)]) == 2
    assert "--system is missing; expected --data, --system and --out, or --resume RUN" in capsys.readouterr().err


def test_errors_are_one_line(tmp_path, capsys):
    assert command_line.main(["evaluate", str(tmp_path), "--data", "no.h5"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "config.json: there is no such file" in error


def test_tables_are_printed_and_written(table, tmp_path, capsys, monkeypatch):
    """Training is replaced by a table that is complete, and the estimate of a paper run by one day."""
    asked = []
    monkeypatch.setattr(tables, "tables", lambda *a, **options: asked.append((*a, options)) or table[1])
    monkeypatch.setattr(tables, "run_seconds", lambda name, settings: 86400.0)
    names = ["ebcnn-bplcz", "ebcnn"]
    command = ["tables", "--data", "x.h5", "--out", str(tmp_path), "--systems", *names, "--seeds", "2"]
    assert command_line.main([*command, "--workers", "3"]) == 0
    (data, out, chosen, seeds, settings, options) = asked[0]
    assert (data, out, chosen, list(seeds)) == ("x.h5", tmp_path, ["ebcnn", "ebcnn-bplcz"], [47, 48])
    given = {"given": {}, "vary": None, "test_data": None, "geo": None, "workers": 3, "dask": None}
    assert (settings, options) == (systems.SMALL, given)
    text = capsys.readouterr().out
    assert (tmp_path / "tables.md").read_text(encoding="utf-8") == text
    assert "about 2.0 days here" in text
    assert (tmp_path / "tables.csv").read_text(encoding="utf-8").count("\n") == 3
    assert command_line.main([*command[:-1], "0"]) == 2
    assert "--seeds is 0; expected 1 or more" in capsys.readouterr().err
    varied = ["tables", "--data", "x.h5", "--out", str(tmp_path), "--vary", "contrastive=paper,none"]
    assert command_line.main(varied) == 0
    assert asked[1][2] == ["ebcnn-bplcz"]
    assert asked[1][5]["vary"] == ("contrastive", ["paper", "none"])
    assert asked[1][5]["given"] == {"contrastive": None}
    assert "less ebcnn" in capsys.readouterr().out
    assert command_line.main([*varied[:-1], "contrastive=paper"]) == 2
    assert "expected two values or more, each once" in capsys.readouterr().err


def test_explain_prints_one_equation(capsys):
    assert command_line.main(["explain", "--equation", "7"]) == 0
    assert "L_i2t" in capsys.readouterr().out


def test_tokenizer_encode(capsys):
    assert command_line.main(["tokenizer", "encode", "near infrared"]) == 0
    assert "infrared" in capsys.readouterr().out


@pytest.mark.slow
def test_tokenizer_train_writes_the_bundled_files(tmp_path, capsys):
    assert command_line.main(["tokenizer", "train", "--out", str(tmp_path)]) == 0
    assert list(tmp_path.iterdir())

"""__main__.py and commands.py: each command as a user calls it, and errors as one line with code 2."""

import csv
import os
import subprocess
import sys

import h5py
import numpy as np
import pytest
from small import copied

from bplcz_ref import __main__ as command_line
from bplcz_ref import commands, files, paper, systems
from bplcz_ref.data import so2sat
from bplcz_ref.training import tables

SMALL = ("--epochs", "1", "--set", "per_class=1", "test=20", "batch=8")
TRAIN = ["train", "--data", "x.h5", "--system", "ebcnn", "--out", "run"]
CALLED = "python -m bplcz_ref"


def train(data, out, *more):
    return command_line.main(["train", "--data", str(data), "--system", "ebcnn", "--out", str(out), *SMALL, *more])


@pytest.fixture
def run(runs):
    return runs[0]


def test_every_command_has_a_help_with_an_example(capsys):
    for command in command_line.COMMANDS:
        assert hasattr(commands, f"run_{command.__name__}")
        with pytest.raises(SystemExit) as stop:
            command_line.main([command.__name__, "--help"])
        assert stop.value.code == 0
        assert f"examples:\n  {CALLED} {command.__name__} " in capsys.readouterr().out


def test_help_is_light():
    """Neither the kit nor SciPy's statistics, which take most of a second; for --help, not even what trains."""
    for script, heavy in (
        (
            "from bplcz_ref.__main__ import parser; parser([]).format_help()",
            ("scipy", "autograd", "bplcz_ref.conform"),
        ),
        ("import bplcz_ref.commands", ("scipy.stats", "bplcz_ref.conform")),
    ):
        asked = [sys.executable, "-c", f"import sys; {script}; print(*sys.modules)"]
        loaded = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.split()
        assert not [name for name in loaded if name.startswith(heavy)]


# ------------------------------------------------------------------------------------------------- data, settings


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
    (tmp_path / "x.h5").write_bytes(b"not HDF5")
    assert command_line.main(["inspect", str(tmp_path / "x.h5")]) == 1
    assert "not an HDF5 file" in capsys.readouterr().out


def test_no_data_file_is_written_over(run, small_file):
    before = small_file.read_bytes()
    for command in (
        ["simulate", str(small_file), "--per-class", "1"],
        ["subset", str(small_file), str(small_file), "--per-class", "1", "--test", "1"],
        ["predict", str(run), "--data", str(small_file), "--out", str(small_file)],
    ):
        assert command_line.main(command) == 2
    assert small_file.read_bytes() == before


def test_options_that_are_not_given_are_the_presets():
    def chosen(*more):
        return commands.chosen_settings(command_line.parser(TRAIN).parse_args([*TRAIN, *more]))

    assert chosen() == (systems.SMALL, {})
    own = ["--preset", "paper", "--set", "batch=8", "vocabulary=m", "--epochs", "3", "--set", "alpha=0.5"]
    given = {"batch": 8, "vocabulary": "m", "epochs": 3, "alpha": 0.5}
    assert chosen(*own) == (systems.PAPER._replace(**given), given)


@pytest.mark.parametrize("command", ["train", "tables"])
def test_settings_are_listed_with_their_words(command, capsys):
    with pytest.raises(SystemExit) as stop:
        command_line.main([command, "--settings"])  # without what training needs
    assert stop.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:]] == list(systems.Settings._fields)
    assert any(line.split()[:3] == ["learning_rate", "0.0001", "0.02"] for line in lines)
    assert any("[paper, identity, infonce, unicl, siglip, bce-scale-bias, " in line for line in lines)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("epochs=0", "epochs is 0"),
        ("lr=0.1", "did you mean learning_rate"),
        ("published=yes", "published is 'yes'"),
    ],
)
def test_an_invalid_setting_is_refused_before_anything_is_written(small_file, tmp_path, capsys, name, message):
    assert train(small_file, tmp_path / "run", "--set", name) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


# ------------------------------------------------------------------------------------------------------- one run


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
    assert (run / "log.jsonl").read_text().count("\n") == 2
    assert command_line.main(["train", "--data", str(small_file)]) == 2
    assert "--system is missing; expected --data, --system and --out, or --resume RUN" in capsys.readouterr().err
    assert train(small_file, tmp_path / "new", "--system", "EBCNN") == 2
    assert "there is no system 'EBCNN'; did you mean ebcnn?" in capsys.readouterr().err


def test_evaluate_on_the_training_file_takes_its_test_part(run, small_file, tmp_path, capsys):
    assert command_line.main(["evaluate", str(run), "--data", str(small_file)]) == 0
    text = capsys.readouterr().out
    kappa = files.read_json(run / "metrics.json")["kappa"]
    assert "on 40 SIMULATED samples: the test part" in text
    assert "the network was trained on the file's training part" in text
    assert f"kappa {100 * kappa:.2f} %" in text
    half = copied(run, tmp_path / "half")
    (half / "metrics.json").unlink()
    assert command_line.main(["evaluate", str(half), "--data", str(small_file)]) == 0
    assert "NOT complete: epoch 2 of 2" in capsys.readouterr().out


def test_evaluate_does_not_write_into_a_run(run, small_file, capsys):
    before = (run / "confusion.csv").read_bytes()
    assert command_line.main(["evaluate", str(run), "--data", str(small_file), "--out", str(run)]) == 2
    assert "is a run folder, with a confusion.csv of its own" in capsys.readouterr().err
    assert (run / "confusion.csv").read_bytes() == before


def test_evaluate_and_predict_agree(run, tmp_path, capsys):
    other, out = tmp_path / "other.h5", tmp_path / "labels.csv"
    assert command_line.main(["simulate", str(other), "--per-class", "2", "--rows", "9", "--seed", "4"]) == 0
    assert command_line.main(["evaluate", str(run), "--data", str(other)]) == 0
    line = capsys.readouterr().out
    assert "ebcnn trained on SIMULATED data" in line
    assert "No sample of class " in line
    assert "43 SIMULATED samples: all 43 rows" in line
    assert command_line.main(["predict", str(run), "--data", str(other), "--out", str(out)]) == 0
    with open(out, encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    with so2sat.open_file(other) as patches:
        truth = [paper.CLASSES[k][0] for k in patches.labels]
    right = sum(row["class"] == name for row, name in zip(rows, truth, strict=True))
    assert f"OA {100 * right / len(rows):.2f} %" in line
    assert {row["simulated"] for row in rows} == {"true"}


@pytest.mark.slow
def test_predict_needs_no_labels_and_says_that_a_sensor_is_empty(run, small_file, tmp_path, capsys):
    bare, out = tmp_path / "bare.h5", tmp_path / "labels.csv"
    with h5py.File(small_file) as source, h5py.File(bare, "w") as file:
        source.copy("sen2", file)
        file["sen1"] = np.zeros(source["sen1"].shape)
    assert command_line.main(["predict", str(run), "--data", str(bare), "--out", str(out)]) == 0
    assert out.read_text(encoding="utf-8").count("\n") == 137
    error = capsys.readouterr().err
    assert "bare.h5: sen1, all 8 channels, is 0, constant at every pixel of the 136 rows looked at" in error
    assert error.count("\n") == 1


@pytest.mark.slow
def test_predict_writes_labels_when_all_else_is_known_and_to_a_plain_file_alone(run, small_file, tmp_path, capsys):
    bad, out = copied(run, tmp_path / "bad"), tmp_path / "new" / "labels.csv"
    (bad / "log.jsonl").write_text("[]\n")
    assert command_line.main(["predict", str(bad), "--data", str(small_file), "--out", str(out)]) == 2
    assert "log.jsonl: it cannot be read" in capsys.readouterr().err
    asked = ["predict", str(run), "--data", str(small_file), "--out"]
    assert command_line.main([*asked, str(out), "--embeddings", str(tmp_path / "I.csv")]) == 2
    assert "I.csv" in capsys.readouterr().err
    assert not out.parent.exists()
    assert command_line.main([*asked, str(tmp_path)]) == 2
    assert "is a folder; expected a file" in capsys.readouterr().err
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe")
        assert command_line.main([*asked, str(tmp_path / "pipe")]) == 2
        assert "is a device or a pipe" in capsys.readouterr().err


# -------------------------------------------------------------------------------------------------- several runs


def test_tables_are_printed_and_written(table, tmp_path, capsys, monkeypatch):
    """Training is replaced by a table that is complete, and the estimate of a paper run by one day."""
    asked = {}

    def trained(data, out, names, seeds, settings, **options):
        asked.update(names=names, seeds=list(seeds), settings=settings, **options)
        return table[1]

    monkeypatch.setattr(tables, "tables", trained)
    monkeypatch.setattr(tables, "run_seconds", lambda name, settings: 86400.0)
    command = ["tables", "--data", "x.h5", "--out", str(tmp_path)]
    of_two = [*command, "--systems", "ebcnn-bplcz", "ebcnn", "--workers", "3", "--seeds", "2"]
    assert command_line.main(of_two) == 0
    assert (asked["names"], asked["seeds"], asked["workers"]) == (["ebcnn", "ebcnn-bplcz"], [47, 48], 3)
    text = capsys.readouterr().out
    assert (tmp_path / "tables.md").read_text(encoding="utf-8") == text
    assert "about 2.0 days here" in text
    assert (tmp_path / "tables.csv").read_text(encoding="utf-8").count("\n") == 3
    assert command_line.main([*command, "--vary", "contrastive=paper,none"]) == 0
    assert (asked["names"], asked["vary"]) == (["ebcnn-bplcz"], ("contrastive", ["paper", "none"]))
    assert asked["given"] == {"contrastive": None}
    assert "less ebcnn" in capsys.readouterr().out
    for more, message in (
        (["--seeds", "0"], "--seeds is 0; expected 1 or more"),
        (["--systems", "vgg"], "there is no system 'vgg'"),
        (["--vary", "contrastive=paper"], "expected two values or more, each once"),
        (["--vary", "lr=1,2"], "did you mean learning_rate?"),
        (["--vary", "alpha"], "alpha has no value"),
    ):
        assert command_line.main([*command, *more]) == 2
        assert message in capsys.readouterr().err


def test_explain_and_tokenizer_print(capsys):
    assert command_line.main(["explain", "--equation", "7"]) == 0
    assert "L_i2t" in capsys.readouterr().out
    assert command_line.main(["tokenizer", "encode", "near infrared"]) == 0
    assert "infrared" in capsys.readouterr().out


# -------------------------------------------------------------------------------------------- how a command ends


@pytest.mark.parametrize(
    "words",
    ["simulate @", "inspect @", "subset @ out.h5", "subset x.h5 @", "train --data @", "train --out @",
     "train --test-data @", "train --validation @", "train --geo @", "train --resume @", "train --import @",
     "evaluate @ --data x.h5", "evaluate run --data x.h5 --out @", "predict run --embeddings @", "report @",
     "report run --out @", "tables --data @", "tokenizer train --out @", "tokenizer encode a --merges @"],
)  # fmt: skip
def test_an_empty_path_is_refused(words, capsys):
    with pytest.raises(SystemExit) as stop:
        command_line.main(["" if word == "@" else word for word in words.split()])
    assert stop.value.code == 2
    assert "the path is empty" in capsys.readouterr().err


def ending(arguments, error, capsys, monkeypatch):
    def stop(options):
        raise error

    monkeypatch.setattr(commands, f"run_{arguments[0]}", stop)
    return command_line.main(arguments), capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "error", "code", "line"),
    [
        (["tables", "--data", "x.h5", "--out", "t"], KeyboardInterrupt, 130,
         "tables: interrupted; the same command goes on where it stopped"),
        (["inspect", "x.h5"], KeyboardInterrupt, 130, "inspect: interrupted"),
        (TRAIN, MemoryError, 2, "train: needs more memory than there is"),
        (["inspect", "x.h5"], PermissionError(13, "Permission denied", "/x/y"), 2,
         "inspect: /x/y: Permission denied"),
    ],
)  # fmt: skip
def test_how_a_command_ends(arguments, error, code, line, capsys, monkeypatch):
    assert ending(arguments, error, capsys, monkeypatch) == (code, f"{CALLED} {line}\n")


def test_an_interrupted_run_says_how_it_goes_on(tmp_path, capsys, monkeypatch):
    """By the command as it was called, with the run's path, and from what there is."""
    run = tmp_path / "my run"
    command = ["train", "--data", "x.h5", "--system", "ebcnn", "--out", str(run)]
    _, line = ending(command, KeyboardInterrupt, capsys, monkeypatch)
    assert line == f"{CALLED} train: interrupted before anything was kept; the same command begins again\n"
    run.mkdir()
    (run / "config.json").touch()
    monkeypatch.setattr(sys, "argv", ["/somewhere/bin/bplcz-ref", "train"])
    _, line = ending(command, KeyboardInterrupt, capsys, monkeypatch)
    assert line == f"bplcz-ref train: interrupted; `bplcz-ref train --resume '{run}'` goes on from the start\n"
    (run / "checkpoint.npz").touch()
    _, line = ending(["train", "--resume", str(run)], KeyboardInterrupt, capsys, monkeypatch)
    assert line.endswith("goes on from the last checkpoint\n")


def test_errors_are_one_line(tmp_path, capsys):
    assert command_line.main(["evaluate", str(tmp_path), "--data", "no.h5"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "config.json: there is no such file" in error


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="pipes of POSIX")
def test_a_reader_that_has_seen_enough_is_no_error_and_a_full_disk_is_said_once():
    asked = [sys.executable, "-m", "bplcz_ref", "tokenizer", "encode", "a lake"]
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as closed:
        done = subprocess.run(asked, stdout=closed, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    if os.path.exists("/dev/full"):
        with open("/dev/full", "w") as full:
            done = subprocess.run(asked, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
        assert (done.returncode, done.stderr) == (2, f"{CALLED} tokenizer: the output: No space left on device\n")

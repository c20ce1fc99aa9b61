"""__main__.py and commands.py: each command as a user calls it, and errors as one line with code 2."""

import os
import subprocess
import sys

import numpy as np
import pytest
from small import TINY, call, copied

from bplcz_ref import __main__ as command_line
from bplcz_ref import commands, systems
from bplcz_ref.data import so2sat
from bplcz_ref.storage import files
from bplcz_ref.training import runs, tables

SMALL = ("--epochs", 1, "--set", "per_class=1", "test=20", "batch=8")
TRAIN = ["train", "--data", "x.h5", "--system", "ebcnn", "--out", "run"]
CALLED = "python -m bplcz_ref"


def train(data, out, *more):
    return call("train", "--data", data, "--system", "ebcnn", "--out", out, *SMALL, *more)


@pytest.fixture
def run(runs):
    return runs[0]


def test_every_command_has_a_help_with_an_example(capsys):
    for command in (declare.__name__.rstrip("_") for declare in command_line.COMMANDS):
        assert hasattr(commands, f"run_{command}")
        assert call(command, "--help") == 0
        assert f"examples:\n  {CALLED} {command} " in capsys.readouterr().out


@pytest.mark.slow
def test_help_is_light():
    """Neither the kit nor SciPy's statistics, which take most of a second; for --help, not even what trains."""
    shown = "bplcz_ref.__main__; bplcz_ref.__main__.parser([]).format_help()"
    for script, heavy in (
        (shown, ("scipy", "autograd", "bplcz_ref.conform")),
        ("bplcz_ref.commands", ("scipy.stats", "bplcz_ref.conform")),
    ):
        asked = [sys.executable, "-c", f"import sys, {script}; print(*sys.modules)"]
        loaded = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.split()
        assert not [name for name in loaded if name.startswith(heavy)]


# ------------------------------------------------------------------------------------------------- data, settings


def test_simulate_then_inspect_then_subset(tmp_path, capsys):
    data, out = tmp_path / "simulated.h5", tmp_path / "part.h5"
    assert call("simulate", data, "--per-class", 3, "--seed", 3) == 0
    assert call("inspect", data) == 0
    assert "51 rows, SIMULATED" in capsys.readouterr().out
    assert call("subset", data, out, "--per-class", 2, "--test", 15) == 0
    with so2sat.open_file(out) as patches:
        assert len(patches) == 49
        assert np.bincount(patches.labels[patches.parts[0]]).tolist() == [2] * 17
    (tmp_path / "x.h5").write_bytes(b"not HDF5")
    assert call("inspect", tmp_path / "x.h5") == 1
    assert "not an HDF5 file" in capsys.readouterr().out


@pytest.mark.slow
def test_no_data_file_is_written_over(run, small_file):
    before = small_file.read_bytes()
    assert call("simulate", small_file, "--per-class", 1) == 2
    assert call("subset", small_file, small_file, "--per-class", 1, "--test", 1) == 2
    for more in ((), ("--overwrite",)):
        assert call("predict", run, "--data", small_file, "--out", small_file, *more) == 2
    assert small_file.read_bytes() == before


def test_options_that_are_not_given_are_the_presets():
    def chosen(*more):
        return commands.chosen_settings(command_line.parser(TRAIN).parse_args([*TRAIN, *more]))

    assert chosen() == (systems.SMALL, {})
    own = ["--preset", "paper", "--set", "batch=8", "vocabulary=m", "--epochs", "3", "--set", "alpha=0.5"]
    given = {"batch": 8, "vocabulary": "m", "epochs": 3, "alpha": 0.5}
    assert chosen(*own) == (systems.PAPER._replace(**given), given)


def test_settings_are_listed_with_their_words(capsys):
    assert call("train", "--settings") == 0  # without what training needs
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:]] == list(systems.Settings._fields)
    assert any(line.split()[:3] == ["learning_rate", "0.0001", "0.02"] for line in lines)
    assert any("[paper, identity, infonce, unicl, siglip, bce-scale-bias, " in line for line in lines)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--set", "epochs=0"), "epochs is 0"),
        (("--system", "EBCNN"), "there is no system 'EBCNN'; did you mean ebcnn?"),
        (("--resume", "run"), "--resume takes all from the run's folder"),
    ],
)
def test_a_slip_is_refused_before_anything_is_written(small_file, tmp_path, capsys, more, message):
    assert train(small_file, tmp_path / "run", *more) == 2
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
    assert call("train", "--resume", run) == 0
    assert capsys.readouterr().out == printed.out
    assert call("train", "--resume", run, "--epochs", 2) == 0
    assert (run / "log.jsonl").read_text().count("\n") == 2
    assert call("train", "--data", small_file) == 2
    assert "--system is missing; expected --data, --system and --out, or --resume RUN" in capsys.readouterr().err


def test_evaluate_takes_the_test_part_or_all_rows_of_another_file(run, small_file, tmp_path, capsys):
    half, other = copied(run, tmp_path / "half"), tmp_path / "other.h5"
    (half / "metrics.json").unlink()
    assert call("simulate", other, "--per-class", 2, "--rows", 9, "--seed", 4) == 0
    kappa = files.read_json(run / "metrics.json")["kappa"]
    of_test = ("on 40 SIMULATED samples: the test part", "the file's training part", f"{100 * kappa:.2f} %")
    of_other = ("ebcnn trained on SIMULATED data", "recall 0: none of the ", "43 SIMULATED samples: all 43 rows")
    for folder, data, expected in (
        (run, small_file, of_test),
        (half, small_file, ["NOT complete: epoch 2 of 2"]),
        (run, other, of_other),
    ):
        assert call("evaluate", folder, "--data", data) == 0
        text = capsys.readouterr().out
        assert [words for words in expected if words not in text] == []
    (tmp_path / "confusion.csv").touch()
    before = (run / "confusion.csv").read_bytes()
    for out, message in (
        (tmp_path, "confusion.csv exists already: remove it, or name another place, or add --overwrite"),
        (run, "is a run folder, with a confusion.csv of its own"),
    ):
        assert call("evaluate", run, "--data", small_file, "--out", out) == 2
        assert message in capsys.readouterr().err
    assert (run / "confusion.csv").read_bytes() == before


def test_predict_writes_nothing_before_all_is_known(run, small_file, tmp_path, capsys):
    bad, out = copied(run, tmp_path / "bad"), tmp_path / "new" / "labels.csv"
    (bad / "log.jsonl").write_text("[]\n")
    for folder, place, more, message in (
        (bad, out, (), "log.jsonl: it cannot be read"),
        (run, out, ("--embeddings", tmp_path / "I.csv"), "I.csv"),
        (run, tmp_path, (), "is a folder; expected a file"),
    ):
        assert call("predict", folder, "--data", small_file, "--out", place, *more) == 2
        assert message in capsys.readouterr().err
    assert not out.parent.exists()


@pytest.mark.long
def test_weights_go_out_into_a_run_again_and_into_a_trace(run, tmp_path, capsys):
    file, new = tmp_path / "w.npz", tmp_path / "new"
    assert call("export", run, file) == 0
    assert call("export", run, file) == 2
    assert "w.npz exists already" in capsys.readouterr().err
    assert call("import", run, file, new) == 0
    assert call("import", run, file, new) == 2
    assert "holds a run already" in capsys.readouterr().err
    assert runs.load_checkpoint(new, systems.build("ebcnn", TINY), runs.read_config(new)).step == 0
    batch, ours = tmp_path / "batch.npz", tmp_path / "ours.npz"
    rng = np.random.default_rng(0)
    np.savez(batch, x=rng.standard_normal((2, 32, 32, 18)), y=np.array([3, 5]))
    for given in (file, run / "checkpoint.npz", run):
        assert call("conform", "trace", given, batch, ours, "--overwrite", "--steps", 1) == 0
        for theirs in (file, new, ours):
            assert call("conform", "diff", ours, theirs) == 0
    assert "AGREES" in capsys.readouterr().out


# -------------------------------------------------------------------------------------------------- several runs


def test_tables_are_printed_and_written(table, tmp_path, capsys, monkeypatch):
    """Training is replaced by a table that is complete, and the estimate of a paper run by one day."""
    asked = {}

    def trained(data, out, names, seeds, settings, **options):
        asked.update(names=names, seeds=list(seeds), settings=settings, **options)
        return table[1]

    monkeypatch.setattr(tables, "tables", trained)
    monkeypatch.setattr(tables, "run_seconds", lambda name, settings: 86400.0)
    command = ["tables", "--data", "x.h5", "--out", tmp_path]
    assert call(*command, "--systems", "ebcnn-bplcz", "ebcnn", "--workers", 3, "--seeds", 2) == 0
    assert (asked["names"], asked["seeds"], asked["workers"]) == (["ebcnn", "ebcnn-bplcz"], [47, 48], 3)
    text = capsys.readouterr().out
    assert (tmp_path / "tables.md").read_text(encoding="utf-8") == text
    assert "about 2.0 days here" in text
    monkeypatch.setenv("BPLCZ_THREADS", "7")
    assert (tmp_path / "tables.csv").read_text(encoding="utf-8").count("\n") == 3
    assert call(*command, "--vary", "contrastive=paper,none") == 0
    assert (asked["names"], asked["vary"]) == (["ebcnn-bplcz"], ("contrastive", ["paper", "none"]))
    assert (asked["given"], asked["workers"]) == ({"contrastive": None}, 7)
    assert "less ebcnn" in capsys.readouterr().out
    for option, value, message in (
        ("--seeds", "0", "--seeds is 0; expected 1 or more"),
        ("--systems", "vgg", "there is no system 'vgg'"),
        ("--vary", "alpha", "alpha has no value"),
    ):
        assert call(*command, option, value) == 2
        assert message in capsys.readouterr().err


def test_tokenizer_prints(capsys):
    assert call("tokenizer", "encode", "near infrared") == 0
    assert "infrared" in capsys.readouterr().out


# -------------------------------------------------------------------------------------------- how a command ends


@pytest.mark.parametrize(
    "words",
    ["simulate @", "subset @ out.h5", "train --data @", "train --out @", "train --import @",
     "evaluate @ --data x.h5", "report run --out @", "tokenizer encode a --merges @"],
)  # fmt: skip
def test_an_empty_path_is_refused(words, capsys):
    assert call(*("" if word == "@" else word for word in words.split())) == 2
    assert "the path is empty" in capsys.readouterr().err


ENDINGS = [
    (["tables", "--data", "x.h5", "--out", "t"], KeyboardInterrupt, 130,
     "tables: interrupted; the same command goes on where it stopped"),
    (["inspect", "x.h5"], KeyboardInterrupt, 130, "inspect: interrupted"),
    (TRAIN, MemoryError, 2, "train: needs more memory than there is"),
    (["inspect", "x.h5"], PermissionError(13, "Permission denied", "/x/y"), 2, "inspect: /x/y: Permission denied"),
]  # fmt: skip


def ending(arguments, error, capsys, monkeypatch):
    def stop(options):
        raise error

    monkeypatch.setattr(commands, f"run_{arguments[0]}", stop)
    return call(*arguments), capsys.readouterr().err


@pytest.mark.parametrize(("arguments", "error", "code", "line"), ENDINGS)
def test_how_a_command_ends(arguments, error, code, line, capsys, monkeypatch):
    assert ending(arguments, error, capsys, monkeypatch) == (code, f"{CALLED} {line}\n")


def test_an_interrupted_run_says_how_it_goes_on(tmp_path, capsys, monkeypatch):
    """By the command as it was called, with the run's path, and from what there is."""
    run = tmp_path / "my run"
    command = ["train", "--data", "x.h5", "--system", "ebcnn", "--out", run]
    _, line = ending(command, KeyboardInterrupt, capsys, monkeypatch)
    assert line == f"{CALLED} train: interrupted before anything was kept; the same command begins again\n"
    run.mkdir()
    (run / "config.json").touch()
    monkeypatch.setattr(sys, "argv", ["/somewhere/bin/bplcz-ref.exe", "train"])
    _, line = ending(command, KeyboardInterrupt, capsys, monkeypatch)
    assert line == f"bplcz-ref train: interrupted; `bplcz-ref train --resume '{run}'` goes on from the start\n"
    (run / "checkpoint.npz").touch()
    monkeypatch.setattr(sys, "argv", ["/home/bplcz-ref/bplcz_ref/__main__.py", "train"])  # a clone's folder
    _, line = ending(["train", "--resume", run], KeyboardInterrupt, capsys, monkeypatch)
    assert line.endswith(f"`{CALLED} train --resume '{run}'` goes on from the last checkpoint\n")


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="pipes of POSIX")
def test_a_reader_that_has_seen_enough_is_no_error():
    read, write = os.pipe()
    os.close(read)
    asked = [sys.executable, "-m", "bplcz_ref", "tokenizer", "encode", "a lake"]
    with os.fdopen(write, "w") as closed:
        done = subprocess.run(asked, stdout=closed, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")

"""__main__.py: empty paths, interruptions, too little memory, and a reader that is gone."""

import os
import subprocess
import sys

import pytest

from bplcz_ref import __main__ as command_line

TRAIN = ["train", "--data", "x.h5", "--system", "ebcnn", "--out", "run"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["simulate", ""],
        ["inspect", ""],
        ["subset", "", "out.h5"],
        ["subset", "x.h5", ""],
        ["train", "--data", "", "--system", "ebcnn", "--out", "run"],
        ["train", "--data", "x.h5", "--system", "ebcnn", "--out", ""],
        [*TRAIN, "--test-data", ""],
        [*TRAIN, "--validation", ""],
        [*TRAIN, "--geo", ""],
        ["train", "--resume", ""],
        ["evaluate", "run", "--data", "x.h5", "--out", ""],
        ["predict", "run", "--data", "x.h5", "--out", "l.csv", "--embeddings", ""],
        ["evaluate", "", "--data", "x.h5"],
        ["evaluate", "run", "--data", ""],
        ["predict", "run", "--data", "x.h5", "--out", ""],
        ["tables", "--data", "", "--out", "t"],
        ["tables", "--data", "x.h5", "--out", ""],
        ["report", ""],
        ["report", "run", "--out", ""],
        ["report", "run", "--data", ""],
        ["tokenizer", "train", "--out", ""],
        ["tokenizer", "encode", "a", "--merges", ""],
    ],
)
def test_an_empty_path_is_refused(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        command_line.parser().parse_args(arguments)
    assert stop.value.code == 2
    assert "the path is empty" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "error", "code", "line"),
    [
        (TRAIN, KeyboardInterrupt, 130,
         "train: interrupted; `bplcz_ref train --resume RUN` goes on from the last checkpoint"),
        (["tables", "--data", "x.h5", "--out", "t"], KeyboardInterrupt, 130,
         "tables: interrupted; the same command goes on where it stopped"),
        (["inspect", "x.h5"], KeyboardInterrupt, 130, "inspect: interrupted"),
        (TRAIN, MemoryError, 2, "train: needs more memory than there is"),
    ],
)  # fmt: skip
def test_how_a_command_ends(arguments, error, code, line, capsys, monkeypatch):
    def stop(options):
        raise error

    monkeypatch.setattr(command_line, f"run_{arguments[0]}", stop)
    assert command_line.main(arguments) == code
    assert capsys.readouterr().err == f"bplcz_ref {line}\n"


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="pipes of POSIX")
def test_a_reader_that_has_seen_enough_is_no_error():
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as closed:
        asked = [sys.executable, "-m", "bplcz_ref", "tokenizer", "encode", "a lake"]
        done = subprocess.run(asked, stdout=closed, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a device that is always full")
def test_an_output_that_is_full_is_said_once():
    with open("/dev/full", "w") as full:
        asked = [sys.executable, "-m", "bplcz_ref", "tokenizer", "encode", "a lake"]
        done = subprocess.run(asked, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (2, "bplcz_ref tokenizer: the output: No space left on device\n")


def test_an_error_of_the_system_names_its_file(capsys, monkeypatch):
    def stop(options):
        raise PermissionError(13, "Permission denied", "/x/y")

    monkeypatch.setattr(command_line, "run_inspect", stop)
    assert command_line.main(["inspect", "x.h5"]) == 2
    assert capsys.readouterr().err == "bplcz_ref inspect: /x/y: Permission denied\n"

"""files.py: a file is whole or not there, whatever happens while it is written."""

import errno
import os
import subprocess
import sys

import pytest

from bplcz_ref import files


def test_an_error_leaves_the_old_file_and_no_other(tmp_path):
    target = tmp_path / "a.json"
    files.write_json(target, {"x": 1})

    def fail():
        with files.whole(target) as path:
            path.write_text("half")
            raise RuntimeError("stopped")

    with pytest.raises(RuntimeError):
        fail()
    assert files.read_json(target) == {"x": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_nan_is_not_written(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        files.write_json(tmp_path / "a.json", {"x": float("nan")})
    assert not (tmp_path / "a.json").exists()


def test_broken_json_is_named(tmp_path):
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(ValueError, match="a.json: not valid JSON"):
        files.read_json(tmp_path / "a.json")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"[" * 100_000, "nested too deeply"),
        (b"9" * 5000, "not valid JSON .*digits"),
        ('{"a": 1}'.encode("utf-16"), "not UTF-8 text"),
        (b'{"a": NaN}', "NaN is no number of JSON"),
        (b'{"a": -Infinity}', "-Infinity is no number of JSON"),
        (b'{"a": 1, "b": {"c": 1, "c": 2}}', "the name 'c' twice"),
        (b" " * 101, "more than the 100 bytes"),
    ],
)
def test_hostile_json_is_named(tmp_path, data, message):
    path = tmp_path / "a.json"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=rf"a\.json.*{message}"):
        files.read_json(path, 100 if "bytes" in message else files.JSON_BYTES)


POSIX = pytest.mark.skipif(os.name != "posix", reason="devices, pipes and links of POSIX")


@POSIX
def test_only_regular_files_are_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", "/dev/zero"):
        with pytest.raises(ValueError, match=f"{path} is a device, pipe or socket; expected a file"):
            files.read_json(path)
    with pytest.raises(ValueError, match="holds a null character"):
        files.read_json("a\0b")


@POSIX
def test_only_regular_files_are_replaced(tmp_path):
    """A link is followed: what it leads to is replaced, unless that is a device, and the link stays."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "device").symlink_to("/dev/null")
    (tmp_path / "loop").symlink_to("loop")
    for name, message in (("pipe", "a device"), ("device", "a device"), ("loop", "a loop of links")):
        with pytest.raises(ValueError, match=f"{name} is {message}"):
            write(tmp_path / name)
        with pytest.raises(ValueError, match=f"{name} is {message}"), files.whole_folder(tmp_path) as made:
            (made / name).write_text("x")
    (tmp_path / "old").write_text("old")
    (tmp_path / "link").symlink_to("old")
    (tmp_path / "dangling").symlink_to("new")
    for name in ("link", "dangling"):
        write(tmp_path / name)
        assert (tmp_path / name).is_symlink()
    assert (tmp_path / "old").read_text() == (tmp_path / "new").read_text() == "x"
    assert not list(tmp_path.glob(".*"))


def test_the_root_folder_is_refused():
    for folder in ("/", "/..", "//"):
        with pytest.raises(ValueError, match="is the root folder of the system"), files.alone(folder):
            pass


@POSIX
def test_a_lock_that_is_a_link_or_a_pipe_is_left_alone(tmp_path, monkeypatch):
    (tmp_path / "other").write_text("kept")
    (tmp_path / ".lock").symlink_to("other")
    with pytest.raises(ValueError, match=r"\.lock cannot be opened"), files.alone(tmp_path):
        pass
    assert (tmp_path / "other").read_text() == "kept"


def full(*arguments, **options):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("stage", ["write", "fsync", "replace"])
def test_a_full_disk_names_the_path_and_leaves_the_old_file(tmp_path, monkeypatch, stage):
    (tmp_path / "a.json").write_text("old")
    if stage != "write":
        monkeypatch.setattr(os, stage, full)
    with pytest.raises(ValueError, match=r"a\.json cannot be written \(No space left on device\)"):
        write(tmp_path / "a.json", full if stage == "write" else None)
    if stage != "write":
        with (
            pytest.raises(ValueError, match="new cannot be written"),
            files.whole_folder(tmp_path / "new") as made,
        ):
            (made / "a").write_text("x")
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("a.json", "old")]


def test_an_error_of_another_file_keeps_its_name(tmp_path):
    with pytest.raises(FileNotFoundError, match="nothing"), files.whole(tmp_path / "a"):
        open(tmp_path / "nothing").close()
    with pytest.raises(ValueError, match="cannot be written.*File name too long"):
        write(tmp_path / ("a" * 300))


LIMITED = """
import resource, sys
import numpy as np
from bplcz_ref import files, weights
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))  # a disk that is full after 100 kB
for name in ("w.npz", "w.h5", "w.json"):
    try:
        if name == "w.json":
            files.write_json(f"{sys.argv[1]}/{name}", [1] * 100_000)
        else:
            weights.save(f"{sys.argv[1]}/{name}", {"w": np.ones(100_000)})
    except (ValueError, OSError) as error:
        print(error)
"""


@POSIX
@pytest.mark.slow
def test_no_room_for_a_large_file(tmp_path):
    """A real limit of the system instead of a replaced function, at every way of writing."""
    done = subprocess.run([sys.executable, "-c", LIMITED, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert [line.split(" cannot be written")[0] for line in lines] == [
        str(tmp_path / name) for name in ("w.npz", "w.h5", "w.json")
    ]
    assert not list(tmp_path.iterdir())


def write(path, then=None):
    with files.whole(path) as temporary:
        temporary.write_text("x")
        if then:
            then()


def test_a_path_that_cannot_be_written_is_named_as_it_was_given(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("kept")
    (tmp_path / "folder").mkdir()
    with pytest.raises(ValueError, match=r"folder is a folder; expected a file to write$"):
        write(tmp_path / "folder")
    for below in ("file/a.json", "file/b/c/a.json"):
        with pytest.raises(ValueError, match=r"/file is a file; expected a folder$"):
            write(tmp_path / below)
    for name in ("file", "file/run"):
        with pytest.raises(ValueError, match=r"/file is a file; expected a folder$"), files.alone(tmp_path / name):
            pass
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder"]
    assert (tmp_path / "file").read_text() == "kept"
    monkeypatch.setattr("os.access", lambda path, mode: False)  # the superuser may write anywhere
    for name in ("a.json", "new/a.json"):
        with pytest.raises(ValueError, match=f"^{tmp_path}: no permission to write there$"):
            write(tmp_path / name)
    with pytest.raises(ValueError, match="no permission to write there"), files.alone(tmp_path / "run"):
        pass
    assert not (tmp_path / "new").exists()


def test_folders_are_made_and_kept(tmp_path, monkeypatch):
    assert files.make_folder(tmp_path / "a" / "b") == files.make_folder(tmp_path / "a" / "b")
    write(tmp_path / "c" / "d" / "x")
    assert (tmp_path / "c" / "d" / "x").is_file()
    monkeypatch.chdir(tmp_path)
    write("here")
    files.make_folder(".")
    files.make_folder("e/f")
    assert (tmp_path / "here").is_file()
    assert (tmp_path / "e" / "f").is_dir()


def test_what_cannot_be_read_as_a_file_is_named(tmp_path):
    (tmp_path / "file").write_text("1")
    with pytest.raises(ValueError, match=r"config.json: there is no such file, as a part of this path"):
        files.read_json(tmp_path / "file" / "config.json")
    with pytest.raises(ValueError, match="is a folder; expected a file"):
        files.read_json(tmp_path)

"""files.py: a file is whole or not there, whatever happens while it is written."""

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


def write(path):
    with files.whole(path) as temporary:
        temporary.write_text("x")


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
    with pytest.raises(ValueError, match="is a folder; expected a JSON file"):
        files.read_json(tmp_path)

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

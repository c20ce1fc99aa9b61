"""layout.py: an error names what is wrong with a file or an argument, and the remedy."""

import gzip

import h5py
import numpy as np
import pytest
from so2sat_files import make, replacing, setting, swap

from bplcz_ref.data import inspection, layout, so2sat


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.pop("label"), r"no data set label; found \['sen1', 'sen2'\]"),
        (swap, "swapped"),
        (  # one sensor alone with the other's channels is not a swap
            replacing("sen1", lambda a: np.concatenate([a, a[..., :2]], -1)),
            r"sen1 has shape \(20, 32, 32, 10\); expected \(N, 32, 32, 8\)",
        ),
        (
            replacing("sen2", lambda a: np.moveaxis(a, -1, 1)),
            r"sen2 has shape \(20, 10, 32, 32\).*channels are first",
        ),
        (replacing("sen1", lambda a: a.T.copy()), r"sen1 has shape \(8, 32, 32, 20\).*reversed"),
        (replacing("sen2", lambda a: a[..., :9]), r"sen2 has shape \(20, 32, 32, 9\); expected \(N, 32, 32, 10\)"),
        (replacing("label", lambda a: a.argmax(1)), r"label has shape \(20,\); expected \(N, 17\)"),
        (replacing("label", lambda a: a[:7]), "sen1 20, sen2 20, label 7"),
        (lambda d: d.update({k: v[:0] for k, v in d.items()}), "sen1 0, sen2 0"),
        (setting("label", (3, 5), 1), r"label row 3 is \[0.0, .*expected one 1"),
        (setting("label", 4, 0), "label row 4"),
        (setting("label", (3, 3), 0.5), "label row 3"),
        (setting("label", (3, 4), np.nan), "label row 3"),
        (replacing("sen2", lambda a: np.round(a * 1e4)), "digital numbers.*divide sen2 by 10000"),
        (replacing("sen2", lambda a: (a - a.mean()) / a.std() - 0.1), "sen2.*standardised already"),
        (replacing("sen1", lambda a: 10 * np.log10(abs(a) + 1e-3)), r"decibels.*10 \*\* \(dB / 10\)"),
        (replacing("sen1", lambda a: (a - a.mean()) / 10 - 0.1), "sen1.*standardised already"),
    ],
)
def test_bad_content_is_named_with_its_remedy(tmp_path, change, message):
    make(path := tmp_path / "bad.h5", rows=20, change=change)
    with pytest.raises(ValueError, match=message) as error, so2sat.open_file(path):
        pass
    assert "bad.h5" in str(error.value)
    if "no data set label" in message:
        return  # which is no problem for `inspect`
    assert any(str(error.value).endswith(p) or p in str(error.value) for p in inspection.inspect(path).problems)


def test_bad_files(tmp_path, plain):
    cut, damaged = tmp_path / "cut.h5", tmp_path / "damaged.h5"
    raw = plain[0].read_bytes()
    cut.write_bytes(raw[: len(raw) // 2])
    damaged.write_bytes(raw[:200] + b"\xff" * 3000 + raw[3200:])
    (tmp_path / "empty.h5").touch()
    (tmp_path / "packed.h5").write_bytes(gzip.compress(raw[:1000]))
    (tmp_path / "text.h5").write_text("sen1 sen2 label")
    for name, message in {
        "missing.h5": "no such file",
        ".": "is a folder",
        "empty.h5": r"empty \(0 bytes\)",
        "text.h5": r"it is not an HDF5 file; expected So2Sat's layout with sen1, sen2, label\)",
        "packed.h5": "is packed by gzip: unpack it first",
        "cut.h5": "cut short",
        "damaged.h5": "damaged.h5",
    }.items():
        with pytest.raises(ValueError, match=message), so2sat.open_file(tmp_path / name) as patches:
            patches.images([0])
        assert inspection.inspect(tmp_path / name).problems


def test_a_damaged_chunk_is_an_error_of_that_file(tmp_path):
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        for name, c in (("sen1", 8), ("sen2", 10)):
            file.create_dataset(name, data=np.random.default_rng(1).random((40, 32, 32, c)), compression="gzip")
        file["label"] = np.eye(17)[np.arange(40) % 17]
        where = file["sen2"].id.get_chunk_info(0).byte_offset
    raw = bytearray(path.read_bytes())
    raw[where : where + 400] = b"\x00" * 400
    path.write_bytes(raw)
    with pytest.raises(ValueError, match=r"x\.h5: it cannot be read"), so2sat.open_file(path) as patches:
        patches.images([0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f.create_dataset("sen2", (20, 32, 32, 10), "f8"), "its values were never written"),
        (lambda f: f.__setitem__("sen2", h5py.SoftLink("/none")), "no data set sen2"),
        (lambda f: f.__setitem__("sen2", h5py.ExternalLink("none.h5", "sen2")), "no data set sen2"),
        (lambda f: f.__setitem__("sen2", h5py.Empty("f8")), r"sen2 has shape \(\)"),
    ],
)
def test_a_sensor_without_values_is_named(tmp_path, change, message):
    make(path := tmp_path / "x.h5", rows=20)
    with h5py.File(path, "a") as file:
        del file["sen2"]
        change(file)
    with pytest.raises(ValueError, match=rf"x\.h5.*{message}") as error, so2sat.open_file(path):
        pass
    assert str(error.value) in inspection.inspect(path).problems


def test_a_wrong_mark_of_parts_is_refused(tmp_path):
    make(path := tmp_path / "x.h5", rows=20)
    for value in (0, 21, 2.5):
        with h5py.File(path, "a") as file:
            file.attrs["train_rows"] = value
        with pytest.raises(ValueError, match="train_rows is .*1 to 20"), so2sat.open_file(path):
            pass


def test_no_class_number_is_a_list_of_them():
    layout.check_classes("y", np.zeros(0, int))
    with pytest.raises(ValueError, match="y is int64 .*N >= 1"):
        layout.check_classes("y", np.zeros(0, int), least=1)


@pytest.mark.parametrize(
    ("factor", "message"),
    [(1, None), (1e4, "divide sen2 by 10000"), (1e4 / 255, "multiply sen2 by 255"), (1 / 255, "divided by 255")],
)
def test_a_scale_of_sen2_is_named_with_its_remedy(factor, message):
    x = np.full((2, 32, 32, 18), 0.13)
    x[..., 8:] *= factor
    found = layout.scale_problems(x)
    assert (not found) if message is None else (len(found) == 1 and message in found[0])


def test_one_channel_in_decibels_is_enough():
    x = np.full((2, 32, 32, 18), 0.13)
    x[..., 4] = -17.0
    (problem,) = layout.scale_problems(x)
    assert "decibels" in problem


@pytest.mark.parametrize("y", [np.zeros((2, 2), int), np.zeros(3), np.array([0, 17]), np.array([-1, 0])])
def test_class_numbers_are_one_axis_of_whole_numbers_below_17(y):
    with pytest.raises(ValueError, match=r"y is .*; expected class numbers 0\.\.16"):
        layout.check_classes("y", y)


@pytest.mark.parametrize(("level", "problem"), [(0.0, None), (-0.5, "cannot be negative"), (-2.5, "decibels")])
def test_the_scale_of_intensities(level, problem):
    x = np.full((2, 32, 32, 18), 0.1)
    x[..., layout.INTENSITIES] = level
    found = layout.scale_problems(x)
    assert found == [] if problem is None else len(found) == 1 and problem in found[0]


@pytest.mark.parametrize(
    ("chunks", "words"),
    [
        ((16, 32, 32, 10), "16 x 32 x 32 x 10: a row unpacks 16 times"),
        ((7, 32, 32, 10), ""),
        ((10, 20, 32, 10), "10 x 20 x 32 x 10: a row unpacks 12 times"),  # 2 chunks of 20 lines for 32
        (None, ""),
    ],
)
def test_chunks_that_hold_many_rows_are_slow(tmp_path, chunks, words):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        found = layout.storage(file.create_dataset("sen2", (40, 32, 32, 10), "f4", chunks=chunks))
    assert words in found if words else found == ""

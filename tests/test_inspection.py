"""inspection.py: what a file holds, and every problem of it at once."""

import h5py
import numpy as np
import pytest
from so2sat_files import N, make, setting

from bplcz_ref.data import inspection, so2sat


def test_inspect(plain):
    found, whole = inspection.inspect(plain[0], rows=100), inspection.inspect(plain[0], rows=None)
    assert (found.rows, found.problems, found.counts.tolist()) == (N, (), [20] * 17)
    x = np.concatenate((plain[1]["sen1"], plain[1]["sen2"]), -1)
    for name, expected in (("mean", x.mean((0, 1, 2))), ("std", x.std((0, 1, 2)))):
        np.testing.assert_allclose(whole.channels[name], expected, rtol=1e-10)
    for name, expected in (("min", x.min((0, 1, 2))), ("max", x.max((0, 1, 2)))):
        np.testing.assert_array_equal(whole.channels[name], expected)
    text = str(whole)
    for words in ("340 rows", "340 of 340 rows looked at", "class 9 sparsely built", "no problem found", "B8A"):
        assert words in text
    assert "100 of 340 rows looked at" in str(found)


def test_constant_channels_are_named_when_a_file_is_inspected_or_opened(tmp_path):
    def constant(data):
        data["sen1"][..., 6:8] = 0.1  # whose mean of squares less squared mean is not exactly 0
        data["sen2"][..., 3] = 0

    make(path := tmp_path / "x.h5", rows=20, change=constant)
    words = "constant at every pixel of the 16 rows looked at: C re 0.1, C im 0.1, B5 0; possibly padding"
    assert inspection.inspect(path).problems == (f"{words}, or never written",)
    with pytest.warns(UserWarning, match=f"x.h5: {words}"), so2sat.open_file(path):
        pass


ROWS = [
    ("sen2", (11, 4, 9, 7), 1e300, "row 11, channel B8A, pixel (4, 9) is 1e+300"),
    ("sen2", (11, 4, 9, 7), np.nan, "row 11, channel B8A, pixel (4, 9) is nan"),
    ("sen2", (11, slice(16), slice(16)), -9999, "row 11, channel B2, pixel (0, 0) is -9999.0"),
    ("sen2", (11, 0, 0, 0), -0.9999, "row 11, channel B2, pixel (0, 0) is -0.9999"),
    ("sen2", (11, 31, 31, 9), 6.5535, "row 11, channel B12, pixel (31, 31) is 6.5535"),
    ("sen2", 11, 300, "row 11, channel B2, pixel (0, 0) is 300.0"),  # digital numbers of water
    ("sen2", 11, 2e-5, "row 11, channel B2 is 2e-05 to 2e-05 at all pixels"),  # divided by 10000 twice
    ("sen1", (11, 4, 9, 4), -9999, "row 11, channel VH int, pixel (4, 9) is -9999.0"),
    ("sen1", (11, ..., 5), -12, "row 11, channel VV int is -12 to -12 at all pixels"),  # decibels
    ("sen2", 11, 0, "row 11, each channel of sen2 is constant (0, ...): padding?"),
    ("sen2", (11, slice(16)), 0, "row 11, sen2 is 0 in all channels of 512 pixels: padding?"),
    ("sen1", 11, np.arange(8) + 1, "row 11, each channel of sen1 is constant (1, ...): padding?"),
    ("sen1", (11, 4, 9, 5), 12702, None),  # the published extremes
    ("sen1", (11, 4, 9, 7), -5007, None),
    ("sen2", (11, 4, 9, 0), 2.8, None),
    ("sen2", (11, 4, 9, 0), -0.1, None),
]


@pytest.mark.parametrize(("key", "where", "value", "words"), ROWS)
def test_one_row_that_cannot_be_used_is_named_and_left_out_of_the_statistics(tmp_path, key, where, value, words):
    make(path := tmp_path / "x.h5", rows=20, change=setting(key, where, value))
    found = inspection.inspect(path)
    assert np.isfinite(found.channels["std"]).all()
    assert found.channels["max"][8:].max() < 3
    if words is None:
        assert found.problems == ()
        return
    (problem,) = found.problems
    assert problem.startswith(f"1 of 20 rows read cannot be used, the first: {words}; expected")
    with so2sat.open_file(path) as patches:
        if "padding" in words:
            assert len(patches.images([3, 11])) == 2  # a network may be trained on it
        else:
            with pytest.raises(ValueError, match=r"x\.h5: row 11, .*; expected .*`subset --skip-bad` leaves"):
                patches.images([3, 11], np.float64)


def test_rows_with_the_same_pixels_are_counted(tmp_path):
    def twice(data):
        data["sen1"][[12, 15]], data["sen2"][[12, 15]] = data["sen1"][3], data["sen2"][3]
        data["sen2"][[4, 5]] = 0  # padding is no twin

    make(path := tmp_path / "x.h5", rows=20, change=twice)
    found = inspection.inspect(path)
    assert found.twins == ("row 12 is row 3", "row 15 is row 3")
    assert "  2 of the 20 rows looked at are copies of others, the first: row 12 is row 3; a split" in str(found)
    assert len(found.problems) == 1


def test_a_file_without_labels_is_no_problem(tmp_path):
    make(path := tmp_path / "x.h5", rows=20, change=lambda data: data.pop("label"))
    found = inspection.inspect(path)
    assert (found.rows, found.counts, found.problems) == (20, None, ())
    assert "no labels: `predict` takes such a file" in str(found)


def test_chunks_that_make_training_slow_are_said(tmp_path):
    data = make(tmp_path / "x.h5", rows=32)
    for chunks, words in (
        ((16, 32, 32, 10), "sen2 is stored in chunks of 16 x 32 x 32 x 10: a row unpacks 16 times its values"),
        ((10, 20, 32, 10), "10 x 20 x 32 x 10: a row unpacks 12 times"),  # 2 chunks of 20 lines for 32
        ((7, 32, 32, 10), None),
        (None, None),
    ):
        with h5py.File(path := tmp_path / "y.h5", "w") as file:
            file["sen1"], file["label"] = data["sen1"], data["label"]
            file.create_dataset("sen2", data=data["sen2"], chunks=chunks)
        text = str(inspection.inspect(path))
        assert ("in chunks of" not in text) if words is None else words in text
        assert "no problem found" in text

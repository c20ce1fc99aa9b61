"""inspection.py: what a file holds, and every problem of it at once."""

import h5py
import numpy as np
import pytest
from so2sat_files import REAL, N, make, setting

from bplcz_ref.bands import BANDS
from bplcz_ref.data import inspection, layout, so2sat


def test_inspect(plain):
    found, whole = inspection.inspect(plain[0], rows=100), inspection.inspect(plain[0], rows=None)
    assert (found.rows, found.sampled, found.problems, found.counts.tolist()) == (N, 100, (), [20] * 17)
    x = np.concatenate((plain[1]["sen1"], plain[1]["sen2"]), -1)
    for name, expected in (("mean", x.mean((0, 1, 2))), ("std", x.std((0, 1, 2)))):
        np.testing.assert_allclose(whole.channels[name], expected, rtol=1e-10)
    for name, expected in (("min", x.min((0, 1, 2))), ("max", x.max((0, 1, 2)))):
        np.testing.assert_array_equal(whole.channels[name], expected)
    text = str(whole)
    for words in ("340 rows", "340 of 340 rows looked at", "class 9 sparsely built", "no problem found", "B8A"):
        assert words in text
    assert "100 of 340 rows looked at" in str(found)


def test_a_bad_scale_in_few_rows_is_seen_by_inspect_only(tmp_path):
    """The check at opening reads 16 rows; one odd row in 100 passes it; its maximum shows in inspect."""
    make(path := tmp_path / "x.h5", rows=100, change=setting("sen2", 7, 3000.0))
    with so2sat.open_file(path):
        pass
    assert inspection.inspect(path).channels["max"][8:].min() == 3000


def test_each_constant_channel_is_named(tmp_path):
    def constant(data):
        data["sen1"][..., 1] = 0.1  # whose mean of squares less squared mean is not exactly 0
        data["sen2"][..., 3] = 0

    make(path := tmp_path / "x.h5", rows=20, change=constant)
    first, second = inspection.inspect(path, rows=10).problems
    words = "constant at every pixel of the 10 rows looked at: possibly padding, or never written"
    assert (first, second) == (f"channel {BANDS[1]} is 0.1, {words}", f"channel {BANDS[11]} is 0, {words}")
    make(path, rows=20, change=lambda data: data.update({k: 0 * data[k] for k in layout.SHAPES}))
    text = str(inspection.inspect(path))
    for sensor in ("sen1, all 8 channels,", "sen2, all 10 channels,"):
        assert f"\n  PROBLEM {sensor} is 0, constant at every pixel of the 20 rows" in text
    assert "no problem found" not in text
    with so2sat.open_file(path, labels=False) as patches:
        assert len(inspection.constant_channels(patches, 5)) == 2
    with so2sat.open_file(REAL) as patches:  # one row, and it varies
        assert inspection.constant_channels(patches) == []


@pytest.mark.parametrize("value", [1e300, -1e11, np.inf, np.nan])
def test_values_that_cannot_be_are_named_and_left_out_of_the_statistics(tmp_path, value):
    make(path := tmp_path / "x.h5", rows=20, change=setting("sen2", (11, 4, 9, 7), value))
    found = inspection.inspect(path)
    (problem,) = found.problems
    assert problem.startswith(
        "1 of 20 rows read have values that are not finite or beyond 1e+10; row 11, channel B8A"
    )
    assert np.isfinite(found.channels["std"]).all()
    assert found.channels["max"].max() < 1
    make(path, rows=20, change=setting("sen2", (11, 4, 9, 7), 9e9))  # odd, but the caller's
    assert inspection.inspect(path).channels["max"].max() == 9e9


def test_a_file_without_labels_is_no_problem_and_one_that_is_not_there_is(tmp_path):
    make(path := tmp_path / "x.h5", rows=20, change=lambda data: data.pop("label"))
    found = inspection.inspect(path)
    assert (found.rows, found.counts, found.problems) == (20, None, ())
    assert "no labels: `predict` takes such a file" in str(found)
    missing = tmp_path / "missing.h5"
    assert str(inspection.inspect(missing)) == f"PROBLEM {missing}: there is no such file"


def test_chunks_that_make_training_slow_are_said(tmp_path):
    """A chunk of 16 rows and a quarter of each way: a row unpacks 16 times its values."""
    data = make(tmp_path / "x.h5", rows=32)
    with h5py.File(path := tmp_path / "y.h5", "w") as file:
        file["sen1"], file["label"] = data["sen1"], data["label"]
        file.create_dataset("sen2", data=data["sen2"], chunks=(16, 8, 8, 2), compression="gzip")
    text = str(inspection.inspect(path))
    assert "  sen2 is stored in chunks of 16 x 8 x 8 x 2: a row unpacks 16 times its values" in text
    assert "sen1 is stored" not in text
    assert "no problem found" in text

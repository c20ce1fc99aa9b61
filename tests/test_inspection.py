"""inspection.py: what a file holds, and every problem of it at once."""

import h5py
import numpy as np
import pytest
from so2sat_files import REAL, N, make, setting

from bplcz_ref.bands import BANDS
from bplcz_ref.data import inspection, layout, so2sat


def test_a_bad_scale_in_few_rows_is_seen_by_inspect_only(tmp_path):
    """The check at opening reads 16 rows; one odd row in 100 passes it; its maximum shows in inspect."""
    make(path := tmp_path / "x.h5", rows=100, change=setting("sen2", 7, 3000.0))
    with so2sat.open_file(path):
        pass
    assert inspection.inspect(path).max[8:].min() == 3000


def test_inspect(plain):
    found = inspection.inspect(plain[0], rows=100)
    assert (found.rows, found.sampled, found.problems) == (N, 100, ())
    assert found.counts.tolist() == [20] * 17
    whole = inspection.inspect(plain[0], rows=None)
    x = np.concatenate((plain[1]["sen1"], plain[1]["sen2"]), -1)
    np.testing.assert_allclose(whole.mean, x.mean((0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(whole.std, x.std((0, 1, 2)), rtol=1e-10)
    np.testing.assert_array_equal([whole.min, whole.max], [x.min((0, 1, 2)), x.max((0, 1, 2))])
    text = str(whole)
    assert "340 rows" in text
    assert "340 of 340 rows looked at" in text
    assert "100 of 340 rows looked at" in str(found)
    assert "class 9 sparsely built" in text
    assert "no problem found" in text
    assert "B8A" in text


def test_inspect_names_each_constant_channel(tmp_path):
    def constant(data):
        data["sen1"][..., 1] = 0.1  # whose mean of squares less squared mean is not exactly 0
        data["sen2"][..., 3] = 0

    make(path := tmp_path / "x.h5", rows=20, change=constant)
    problems = inspection.inspect(path, rows=10).problems
    assert len(problems) == 2
    assert (
        f"channel {BANDS[1]} is 0.1, constant at every pixel of the 10 rows looked at: possibly padding"
        in problems[0]
    )
    assert f"channel {BANDS[11]} is 0, constant at" in problems[1]
    make(path, rows=20, change=lambda data: data.update({k: 0 * data[k] for k in layout.SHAPES}))
    text = str(inspection.inspect(path))
    assert text.count("\n  PROBLEM ") == 2
    assert "PROBLEM sen1, all 8 channels, is 0, constant at every pixel of the 20 rows" in text
    assert "PROBLEM sen2, all 10 channels, is 0" in text
    assert "no problem found" not in text
    assert inspection.inspect(REAL).problems == ()  # one row, and it varies


@pytest.mark.parametrize("value", [1e300, -1e11, np.inf])
def test_inspect_names_absurd_values_and_leaves_them_out_of_the_statistics(tmp_path, value):
    make(path := tmp_path / "x.h5", rows=20, change=setting("sen2", (11, 4, 9, 7), value))
    found = inspection.inspect(path)
    (problem,) = found.problems
    assert f"first row 11, channel B8A: {value:.5g}" in problem
    assert ("1 of 20 rows read have values beyond 1e+10" in problem) == np.isfinite(value)
    assert np.isfinite(found.std).all()
    assert found.max.max() < 1
    make(path, rows=20, change=setting("sen2", (11, 4, 9, 7), 9e9))  # odd, but the caller's
    assert inspection.inspect(path).max.max() == 9e9


def test_a_file_without_labels_is_no_problem(tmp_path):
    make(path := tmp_path / "x.h5", rows=20, change=lambda data: data.pop("label"))
    found = inspection.inspect(path)
    assert (found.rows, found.counts, found.problems) == (20, None, ())
    assert "no labels: `predict` takes such a file" in str(found)
    assert "no problem found" in str(found)


@pytest.mark.parametrize("rows", [5, 20, 4096])
def test_constant_channels_are_said_for_any_open_file(tmp_path, rows):
    def spoil(data):
        data["sen1"][:] = 0
        data["sen2"][..., 3] = 0.25

    make(path := tmp_path / "x.h5", rows=20, change=spoil)
    with so2sat.open_file(path, labels=False) as patches:
        sensor, channel = inspection.constant_channels(patches, rows)
    assert sensor.startswith(f"sen1, all 8 channels, is 0, constant at every pixel of the {min(rows, 20)} rows")
    assert channel.startswith(f"channel {BANDS[11]} is 0.25, constant")
    with so2sat.open_file(REAL) as patches:
        assert inspection.constant_channels(patches) == []


def test_inspect_of_a_file_that_cannot_be_opened_shows_the_problem_alone(tmp_path):
    missing = tmp_path / "missing.h5"
    assert str(inspection.inspect(missing)) == f"PROBLEM {missing}: there is no such file"


def test_chunks_that_make_training_slow_are_said(tmp_path):
    """A chunk of 16 rows and a quarter of each way: a row unpacks 16 times its values."""
    make(tmp_path / "x.h5", rows=32, chunks=None)
    assert "is stored in chunks" not in str(inspection.inspect(tmp_path / "x.h5"))
    for rows, slow in ((16, True), (4, False)):
        path = tmp_path / f"{rows}.h5"
        with h5py.File(tmp_path / "x.h5") as source, h5py.File(path, "w") as file:
            for name in ("sen1", "sen2", "label"):
                chunks = (rows, 8, 8, 2) if name != "label" else None
                file.create_dataset(
                    name, data=source[name][:], chunks=chunks, compression="gzip" if chunks else None
                )
        text = str(inspection.inspect(path))
        assert ("sen1 is stored in chunks of 16 x 8 x 8 x 2: a row unpacks 16 times its values" in text) == slow
        assert "no problem found" in text

"""so2sat.py: values by row, the split, files written and taken apart."""

import itertools
import tracemalloc

import h5py
import numpy as np
import pytest
from so2sat_files import REAL, N, make

from bplcz_ref import bands
from bplcz_ref.data import so2sat, standardise


def refused(path, message, **options):
    with pytest.raises(ValueError, match=message), so2sat.open_file(path, **options):
        pass


@pytest.mark.parametrize("storage", ["f4", ">f8", "gzip", "external link"])
def test_rows_come_in_the_order_asked_for(storage, tmp_path):
    path = tmp_path / "x.h5"
    options = {"compression": "gzip", "chunks": True} if storage == "gzip" else {}
    data = make(path, rows=40, dtype=storage if storage in ("f4", ">f8") else "f8", **options)
    if storage == "external link":
        with h5py.File(path := tmp_path / "y.h5", "w") as file:
            for name in data:
                file[name] = h5py.ExternalLink("x.h5", name)
    stored = np.float32 if storage == "f4" else np.float64
    indices = [30, 2, 2, 39, 0, 17, 30, 16, 18], range(39, -1, -1), []  # the second is longer than a slice
    with so2sat.open_file(path) as patches:
        assert patches.dtype == stored
        for index, dtype in itertools.product(indices, (np.float32, np.float64)):
            index = np.array(index, int)
            x = patches.images(index, dtype)
            assert (x.shape, x.dtype) == ((len(index), 32, 32, 18), dtype)
            for name, found in zip(("sen1", "sen2"), bands.separate(x), strict=True):
                np.testing.assert_array_equal(found, data[name][index].astype(stored).astype(dtype))
        assert patches.images([30])[0, 3, 5, 2] == -30 != patches.images([30])[0, 5, 3, 2]


def test_the_real_patch():
    with so2sat.open_file(REAL) as patches, h5py.File(REAL) as file:
        assert (patches.labels.tolist(), patches.simulated, patches.parts) == ([16], False, None)
        for name, values in zip(("sen1", "sen2"), bands.separate(patches.images([0], np.float64)), strict=True):
            np.testing.assert_array_equal(values, file[name][:])
        assert patches.attributes["sen1_half_quantum"].shape == (8,)


def test_errors_within_the_block(plain):
    """Row numbers that cannot be are named; an error of the caller's stays as it is."""
    with so2sat.open_file(plain[0]) as patches:
        for index, dtype, message in (
            ([0, -1], "f4", "index holds -1; .*rows 0 to 339"),
            ([0, 340], "f4", "index holds 340"),
            (np.ones(N, bool), "f4", "flatnonzero"),
            ([0.0, 1.0], "f4", "float64"),
            (3, "f4", r"\[row, ...\]"),
            ([0], "i4", "float32 or float64"),
        ):
            with pytest.raises(ValueError, match=message):
                patches.images(index, dtype)
    with pytest.raises(KeyError, match="mine"), so2sat.open_file(plain[0]):
        raise KeyError("mine")


@pytest.mark.slow
def test_memory_is_that_of_the_rows_asked_for(plain):
    with so2sat.open_file(plain[0]) as patches:
        tracemalloc.start()
        patches.images(range(32))
        images = tracemalloc.get_traced_memory()[1]
        tracemalloc.reset_peak()
        standardise.statistics(patches, range(N))
        walk = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    slices = 2 * so2sat.SLICE * 8 * 10  # of sen2 in float64: one is read while the last one is still there
    assert images < 1.05 * 32 * 32 * (32 * 4 * 18 + slices)
    assert walk < 4.5 * so2sat.CHUNK * 32 * 32 * 18 * 8


# --- split -----------------------------------------------------------------------------------------------------

LABELS = np.repeat(np.arange(17), np.arange(17) * 10 + 20)  # 20, 30, ... 180 rows: 1700 in all


def test_split():
    train, test = so2sat.split(LABELS, per_class=12, test=700, seed=47)
    assert np.bincount(LABELS[train], minlength=17).tolist() == [12] * 17
    assert (len(test), len(set(train) | set(test))) == (700, 12 * 17 + 700)
    again = so2sat.split(LABELS, per_class=12, test=700, seed=47)
    np.testing.assert_array_equal(np.concatenate(again), np.concatenate((train, test)))
    assert set(so2sat.split(LABELS, per_class=12, test=700, seed=48)[0]) != set(train)
    # uniform over the remainder: class k's share of the test rows follows its share of what is left
    left = np.bincount(LABELS) - 12
    found = np.mean([np.bincount(LABELS[so2sat.split(LABELS, 12, 700, s)[1]]) for s in range(60)], axis=0)
    expected = 700 * left / left.sum()
    assert np.all(abs(found - expected) < 5 * np.sqrt(expected / 60))
    everything = so2sat.split(LABELS, 12, 1700 - 204, seed=1)
    assert len(set(everything[0]) | set(everything[1])) == 1700
    assert len(so2sat.split(LABELS, 20, 0, seed=1)[1]) == 0


def test_split_says_what_would_fit():
    for labels, per_class, test, message in (
        (LABELS, 21, 10, "class 1 compact high-rise has 20 rows.*per_class=20 would fit"),
        (LABELS[20:], 5, 10, "class 1 compact high-rise has 0 rows.*at least one row"),
        (LABELS, 41, 10, r"too few: 1, 2, 3\)"),
        (LABELS, 12, 1497, "leave 1496"),
        (LABELS, 2.5, 10, "per_class is 2.5"),
        (LABELS, 2, -1, "test is -1"),
        (LABELS + 1, 2, 1, "labels: row 1520 has class 17, expected 0..16; .*subtract 1"),
        (np.eye(17), 2, 1, "for one-hot labels take argmax"),
    ):
        with pytest.raises(ValueError, match=message):
            so2sat.split(labels, per_class, test, seed=1)


# --- write, subset ------------------------------------------------------------------------------------------


def pieces(data, sizes):
    y, ends = data["label"].argmax(1), np.cumsum(sizes)
    for a, b in zip(ends - sizes, ends, strict=True):
        yield data["sen1"][a:b], data["sen2"][a:b], y[a:b]


def test_write_is_native_and_exact(plain, tmp_path):
    path = tmp_path / "out.h5"
    path.write_text("an older file of that name")
    so2sat.write_file(path, 40, pieces(plain[1], [7, 32, 1]), {"simulated": True, "seed": 47, "of": "\u00e4.h5"})
    with h5py.File(path) as file:
        assert file.attrs["of"].dtype.kind == "S"  # of a fixed length
        assert sorted(file) == ["label", "sen1", "sen2"]
        for name in file:
            assert (file[name].dtype, file[name].chunks) == (np.float64, None)
            np.testing.assert_array_equal(file[name][:], plain[1][name][:40])
    with so2sat.open_file(path) as patches:
        found = patches.attributes
    assert (patches.simulated, found["seed"], found["of"]) == (True, 47, "\u00e4.h5")
    assert [p.name for p in tmp_path.iterdir()] == ["out.h5"]
    path.write_bytes(path.read_bytes().replace(np.eye(17)[6].tobytes(), np.eye(17)[7].tobytes(), 1))
    refused(path, r"out\.h5: label .*the file is damaged")  # although every row is one-hot still


def test_write_refuses_and_leaves_nothing(plain, tmp_path):
    (path := tmp_path / "out.h5").write_text("kept")
    sen1, sen2, y = next(pieces(plain[1], [5]))
    broken = sen2.copy()
    broken[2, 0, 0, 0] = np.nan
    whole, single = (sen1, sen2, y), (sen1.astype("f4"), sen2.astype("f4"), y)
    for rows, batches, message in (
        (6, [whole], "hold 5 rows, 6"),
        (4, [whole], "hold 5 rows, 4"),
        (10, [whole, single], "5 rows of float32 .*and float64"),
        (5, [(sen1.astype("f2"), sen2.astype("f2"), y)], "sen1 is float16 .*expected float64"),
        (5, [(sen1[:, :8], sen2[:, :8], y)], r"sen1 is float64 \(5, 8, 32, 8\)"),
        (5, [(sen1, broken, y)], r"out\.h5: row 2, channel B2, pixel \(0, 0\) is nan"),
        (5, [(sen1, sen2, y + 17)], "y: row 0 has class 17"),
        (5, [(sen1, sen2, y[:4])], "have 4 labels"),
        (10, [whole, (sen1, sen2, None)], "have no labels, from row 5 on"),
    ):
        with pytest.raises(ValueError, match=message):
            so2sat.write_file(path, rows, batches)
        assert [p.read_text() for p in tmp_path.iterdir()] == ["kept"]


@pytest.mark.parametrize("dtype", ["f8", "f4"])
def test_subset_keeps_values_and_marks_the_parts(tmp_path, dtype):
    data = make(path := tmp_path / "all.h5", rows=102, dtype=dtype, attributes={"simulated": True})
    so2sat.subset(path, out := tmp_path / "part.h5", per_class=2, test=50, seed=47)
    rows = np.concatenate(so2sat.split(data["label"].argmax(1), 2, 50, 47))
    with h5py.File(out) as file:
        for name in ("sen1", "sen2", "label"):
            assert file[name].dtype == dtype
            np.testing.assert_array_equal(file[name][:], data[name][rows].astype(dtype))
    with so2sat.open_file(out) as patches:
        assert patches.simulated  # carried over from the source
        notes = {"subset_of": "all.h5", "per_class": 2, "seed": 47, "train_rows": 34, "test_rows": 50}
        assert notes.items() <= patches.attributes.items()
        assert [part.tolist() for part in patches.parts] == [list(range(34)), list(range(34, 84))]
        assert np.bincount(patches.labels[:34]).tolist() == [2] * 17


def test_subset_leaves_out_rows_that_cannot_be_used(tmp_path):
    def spoil(data):
        data["sen2"][3, 4, 9, 7], data["sen2"][40], data["sen1"][41] = np.nan, 3000, 0

    data = make(path := tmp_path / "all.h5", rows=102, change=spoil)
    with pytest.raises(ValueError, match=r"all\.h5: row .*`subset --skip-bad` leaves them out"):
        so2sat.subset(path, tmp_path / "part.h5", per_class=2, test=68, seed=47)
    left = so2sat.subset(path, out := tmp_path / "part.h5", per_class=2, test=65, seed=47, skip_bad=True)
    assert [words.split(",")[0] for words in left] == ["row 3", "row 40", "row 41"]
    with so2sat.open_file(out) as patches:
        found = patches.images(range(99), np.float64)[:, 5, 5, 0]  # which tells the row
        assert sorted(found) == np.delete(data["sen1"][:, 5, 5, 0], [3, 40, 41]).tolist()
        assert patches.attributes["rows_left_out"] == 3


@pytest.mark.parametrize(
    ("name", "value", "read"),
    [("simulated", True, True), ("simulated", np.uint8(1), True), ("simulated", 0, False)]
    + [("simulated", v, "expected true or false as a boolean, or 1 or 0") for v in ("false", 2, np.array([1]))]
    + [("train_rows", v, f"train_rows is {v}; .*1 to 20") for v in (0, 21, 2.5)],
)
def test_an_attribute_says_plainly_what_a_file_is(tmp_path, name, value, read):
    """The text "false" would count as true."""
    make(path := tmp_path / "x.h5", rows=20, attributes={name: value})
    if isinstance(read, str):
        refused(path, read)
    else:
        with so2sat.open_file(path) as patches:
            assert patches.simulated is read


def test_subset_does_not_overwrite_its_source(plain, tmp_path):
    (link := tmp_path / "same.h5").hardlink_to(plain[0])
    with pytest.raises(ValueError, match="source itself"):
        so2sat.subset(plain[0], link, 2, 2, 47)


NAMES = [("Köln", "Rome")[i % 2] for i in range(85)]
CITIES = [
    ("city", NAMES, NAMES),
    ("city", [f" {name.upper() if i > 2 else name}\t" for i, name in enumerate(NAMES)], NAMES),  # no other cities
    ("city", [name.replace("ö", "o\u0308") for name in NAMES], NAMES),
    ("city", np.char.encode(NAMES, "utf-8"), NAMES),
    ("city", np.arange(85)[:, None] % 3, [str(i % 3) for i in range(85)]),
    ("city", np.zeros(84, int), "city is int64 .84,.; expected a name or a number for 85 rows"),
    ("city", np.array([b"", *84 * [b"x"]]), "row 0 has no city"),
    ("coord", np.zeros(85), "no data set city; found .*coord.*before March 2026"),
]


def test_cities_come_from_the_file_beside_and_stay_with_a_subset(tmp_path):
    """As text or numbers; other shapes, other numbers of rows and older releases are named."""
    make(source := tmp_path / "training.h5", rows=85)
    geo, out = tmp_path / "training_geo.h5", tmp_path / "subset.h5"
    for name, values, expected in CITIES:
        with h5py.File(geo, "w") as file:
            file[name] = values
        if isinstance(expected, str):
            refused(source, expected, geo=geo)
        else:
            with so2sat.open_file(source, geo=geo) as patches:
                assert patches.cities.tolist() == expected
            so2sat.subset(source, out, per_class=2, test=10, seed=1, geo=geo)
            with so2sat.open_file(out) as patches:
                rows = np.concatenate(so2sat.split(np.arange(85) % 17, 2, 10, seed=1))
                assert patches.cities.tolist() == [expected[i] for i in rows]

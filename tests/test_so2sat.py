"""so2sat.py: values by row, split, files written and taken apart; each check is tried on wrong code."""

import itertools
import tracemalloc

import h5py
import numpy as np
import pytest
from so2sat_files import REAL, N, make, setting, swap

from bplcz_ref import bands
from bplcz_ref.data import inspection, so2sat, standardise

INDICES = (
    [30, 2, 2, 39, 0, 17, 30, 16, 18],
    range(39, -1, -1),  # more consecutive rows than one slice holds
    [],
)


@pytest.mark.parametrize("storage", ["f8", "f4", ">f8", "gzip", "userblock", "external link"])
def test_rows_come_in_the_order_asked_for(storage, tmp_path):
    path = tmp_path / "x.h5"
    data = make(path, rows=40, dtype=storage if storage in ("f4", ">f8") else "f8")
    if storage == "gzip":
        make(path, rows=40, compression="gzip", chunks=True)
    elif storage == "userblock":
        with h5py.File(path) as a, h5py.File(path := tmp_path / "y.h5", "w", userblock_size=1024) as b:
            for name in a:
                b[name] = a[name][:]
    elif storage == "external link":
        with h5py.File(linking := tmp_path / "y.h5", "w") as file:
            for name in data:
                file[name] = h5py.ExternalLink(path, name)
        path = linking
    stored = np.float32 if storage == "f4" else np.float64
    with so2sat.open_file(path) as patches:
        assert patches.dtype == stored
        for index, dtype in itertools.product(INDICES, (np.float32, np.float64)):
            index = np.array(index, int)
            x = patches.images(index, dtype)
            assert x.shape == (len(index), 32, 32, 18)
            assert x.dtype == dtype
            for name, found in zip(("sen1", "sen2"), bands.separate(x), strict=True):
                np.testing.assert_array_equal(found, data[name][index].astype(stored).astype(dtype))
        x = patches.images([30])
        assert x[0, 3, 5, 2] == -30
        assert x[0, 5, 3, 2] != -30


def test_the_real_patch():
    with so2sat.open_file(REAL) as patches, h5py.File(REAL) as file:
        assert patches.labels.tolist() == [16]
        assert (patches.simulated, patches.parts) == (False, None)
        sen1, sen2 = bands.separate(patches.images([0], np.float64))
        np.testing.assert_array_equal(sen1, file["sen1"][:])
        np.testing.assert_array_equal(sen2, file["sen2"][:])
        assert patches.attributes["sen1_half_quantum"].shape == (8,)


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ([0, -1], "index holds -1; .*rows 0 to 339"),
        ([0, 340], "index holds 340"),
        (np.ones(N, bool), "flatnonzero"),
        ([0.0, 1.0], "float64"),
        (3, r"\[row\]"),
        ([[1]], r"index is int64 \(1, 1\)"),
    ],
)
def test_bad_index(plain, index, message):
    with so2sat.open_file(plain[0]) as patches:
        with pytest.raises(ValueError, match=message):
            patches.images(index)
        with pytest.raises(ValueError, match="float32 or float64"):
            patches.images([0], np.int32)


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


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("value", "dtype"), [(np.nan, "f8"), (-np.inf, "f8"), (1e300, "f4"), (1e300, "f8")])
def test_values_that_are_not_finite(tmp_path, value, dtype):
    make(path := tmp_path / "x.h5", rows=20, change=setting("sen2", (11, 4, 9, 7), value))
    with so2sat.open_file(path) as patches:
        patches.images([10, 12])
        with pytest.raises(ValueError, match=r"row 11, channel B8A, pixel \(4, 9\) is -?(nan|inf|1e\+300)"):
            patches.images([3, 11], dtype)
        with pytest.raises(ValueError, match="row 11"):
            standardise.statistics(patches, range(20))
    problems = inspection.inspect(path).problems
    assert "1 of 20 rows" in problems[0]
    assert "row 11" in problems[0]


def test_an_error_in_the_callers_block_is_the_callers(plain):
    with pytest.raises(KeyError, match="mine"), so2sat.open_file(plain[0]):
        raise KeyError("mine")


def test_a_file_without_labels(tmp_path, plain):
    make(path := tmp_path / "x.h5", rows=20, change=lambda data: data.pop("label"))
    with so2sat.open_file(path, labels=False) as patches:
        assert patches.labels is None
        assert len(patches) == 20
        with so2sat.open_file(plain[0], labels=False) as whole:
            np.testing.assert_array_equal(patches.images([3, 7]), whole.images([3, 7]))
            assert whole.labels is None
    make(path, rows=20, change=lambda data: (data.pop("label"), swap(data)))
    with pytest.raises(ValueError, match="swapped"), so2sat.open_file(path, labels=False):
        pass


def test_a_file_without_labels_can_be_written(tmp_path, plain):
    sen1, sen2 = plain[1]["sen1"][:5], plain[1]["sen2"][:5]
    path = tmp_path / "x.h5"
    so2sat.write_file(path, 10, [(sen1, sen2, None), (sen1, sen2, None)])
    with h5py.File(path) as file:
        assert sorted(file) == ["sen1", "sen2"]
    with so2sat.open_file(path, labels=False) as patches:
        np.testing.assert_array_equal(patches.images([7], np.float64)[..., :8], sen1[2:3])
    for first, second in ((None, np.zeros(5, int)), (np.zeros(5, int), None)):
        with pytest.raises(ValueError, match="labels for some rows only"):
            so2sat.write_file(path, 10, [(sen1, sen2, first), (sen1, sen2, second)])


# --- split -----------------------------------------------------------------------------------------------------

LABELS = np.repeat(np.arange(17), np.arange(17) * 10 + 20)  # 20, 30, ... 180 rows: 1700 in all


def split_is_right(split):
    train, test = split(LABELS, per_class=12, test=700, seed=47)
    assert np.bincount(LABELS[train], minlength=17).tolist() == [12] * 17
    assert len(test) == 700
    assert len(np.unique(np.concatenate((train, test)))) == 12 * 17 + 700
    again = split(LABELS, per_class=12, test=700, seed=47)
    np.testing.assert_array_equal(np.concatenate(again), np.concatenate((train, test)))
    assert set(split(LABELS, per_class=12, test=700, seed=48)[0]) != set(train)
    # uniform over the remainder: class k's share of the test rows follows its share of what is left
    left = np.bincount(LABELS, minlength=17) - 12
    found = np.mean([np.bincount(LABELS[split(LABELS, 12, 700, s)[1]], minlength=17) for s in range(60)], axis=0)
    expected = 700 * left / left.sum()
    assert np.all(abs(found - expected) < 5 * np.sqrt(expected / 60))


def test_split():
    split_is_right(so2sat.split)
    train, test = so2sat.split(LABELS, 12, 1700 - 204, seed=1)  # everything
    assert len(set(train) | set(test)) == 1700
    assert len(so2sat.split(LABELS, 20, 0, seed=1)[1]) == 0


def balanced_test(labels, per_class, test, seed):
    rng = np.random.default_rng(seed)
    rows = [rng.permutation(np.flatnonzero(labels == k)) for k in range(17)]
    rest = [r[per_class:] for r in rows]
    n = [test // 17 + (k < test % 17) for k in range(17)]
    return np.concatenate([r[:per_class] for r in rows]), np.concatenate(
        [r[np.arange(m) % len(r)] for r, m in zip(rest, n, strict=True)]
    )


def overlapping(labels, per_class, test, seed):
    train, _ = so2sat.split(labels, per_class, 0, seed)
    return train, np.random.default_rng(seed).choice(len(labels), test, replace=False)


def unseeded(labels, per_class, test, seed):
    return so2sat.split(labels, per_class, test, int(np.random.default_rng().integers(1 << 30)))


def training_not_balanced(labels, per_class, test, seed):
    rows = np.random.default_rng(seed).permutation(len(labels))
    return rows[: 17 * per_class], rows[17 * per_class :][:test]


@pytest.mark.parametrize("wrong", [balanced_test, overlapping, unseeded, training_not_balanced])
def test_the_split_check_fails_on_wrong_code(wrong):
    with pytest.raises(AssertionError):
        split_is_right(wrong)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((LABELS, 21, 10, 1), "class 1 compact high-rise has 20 rows.*per_class=20 would fit"),
        ((LABELS[20:], 5, 10, 1), "class 1 compact high-rise has 0 rows.*at least one row"),
        ((LABELS, 41, 10, 1), r"too few: 1, 2, 3\)"),
        ((LABELS, 12, 1497, 1), "leave 1496"),
        ((LABELS, 0, 10, 1), "per_class is 0"),
        ((LABELS, 2.5, 10, 1), "per_class is 2.5"),
        ((LABELS, 2, -1, 1), "test is -1"),
        ((LABELS, 2, 1, -1), "seed is -1"),
        ((LABELS, 2, 1, True), "seed is True"),
        ((LABELS + 1, 2, 1, 1), "class numbers 0..16"),
        ((np.eye(17), 2, 1, 1), r"\(N,\)"),
    ],
)
def test_split_says_what_would_fit(arguments, message):
    with pytest.raises(ValueError, match=message):
        so2sat.split(*arguments)


# --- write, subset ------------------------------------------------------------------------------------------


def pieces(data, sizes):
    y = data["label"].argmax(1)
    ends = np.cumsum(sizes)
    for a, b in zip(ends - sizes, ends, strict=True):
        yield data["sen1"][a:b], data["sen2"][a:b], y[a:b]


def test_write_is_native_and_exact(plain, tmp_path):
    path = tmp_path / "out.h5"
    path.write_text("an older file of that name")
    so2sat.write_file(path, 40, pieces(plain[1], [7, 32, 1]), {"simulated": True, "seed": 47, "of": "\u00e4.h5"})
    with h5py.File(path) as file:
        assert all(
            h5py.check_string_dtype(file.attrs.get_id(name).dtype) is None
            or h5py.check_string_dtype(file.attrs.get_id(name).dtype).length
            for name in file.attrs
        )
        assert sorted(file) == ["label", "sen1", "sen2"]
        for name in file:
            assert (file[name].dtype, file[name].chunks) == (np.float64, None)
            np.testing.assert_array_equal(file[name][:], plain[1][name][:40])
    with so2sat.open_file(path) as patches:
        assert patches.simulated
        assert patches.attributes["seed"] == 47
        assert patches.attributes["of"] == "\u00e4.h5"
    assert "SIMULATED" in str(inspection.inspect(path))
    assert [p.name for p in tmp_path.iterdir()] == ["out.h5"]


@pytest.mark.parametrize("name", ["label", "metadata"])
def test_damage_to_what_was_written_is_noticed_wherever_there_is_a_checksum(plain, tmp_path, name):
    so2sat.write_file(path := tmp_path / "x.h5", 40, pieces(plain[1], [40]), {"train_rows": 34})
    data = bytearray(path.read_bytes())
    row = np.eye(17)[6].tobytes()
    at = data.find(row if name == "label" else b"train_rows")
    if name == "label":
        data[at : at + len(row)] = np.eye(17)[7].tobytes()  # one-hot still
    else:
        data[at + data[at:].find((34).to_bytes(8, "little"))] = 33
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"x\.h5: .*damaged"), so2sat.open_file(path):
        pass


def test_write_refuses_and_leaves_nothing(plain, tmp_path):
    data = plain[1]
    path = tmp_path / "out.h5"
    path.write_text("kept")
    sen1, sen2, y = next(pieces(data, [5]))
    broken = sen2.copy()
    broken[2, 0, 0, 0] = np.nan
    for rows, batch, message in (
        (6, (sen1, sen2, y), "hold 5 rows, 6"),
        (4, (sen1, sen2, y), "ends at row 5, 4 were announced"),
        (5, (sen2, sen1, y), "sen1 is"),
        (5, (sen1, sen2.astype(np.float32), y), "sen2 is .* float32"),
        (5, (sen1, broken, y), "sen2 holds values that are not finite or beyond 1e.10, first nan in its row 2"),
        (5, (sen1, sen2, y + 17), "class numbers"),
        (0, (sen1, sen2, y), "at least one"),
    ):
        with pytest.raises(ValueError, match=message):
            so2sat.write_file(path, rows, [batch])
        assert path.read_text() == "kept"
        assert len(list(tmp_path.iterdir())) == 1
    with pytest.raises(ValueError, match="is a folder"):
        so2sat.write_file(tmp_path, 5, [(sen1, sen2, y)])


@pytest.mark.parametrize("dtype", ["f8", "f4"])
def test_subset_keeps_values_and_marks_the_parts(tmp_path, dtype):
    data = make(path := tmp_path / "all.h5", rows=102, dtype=dtype)
    with h5py.File(path, "a") as file:
        file.attrs["simulated"] = True
    out = tmp_path / "part.h5"
    so2sat.subset(path, out, per_class=2, test=50, seed=47)
    train, test = so2sat.split(data["label"].argmax(1), 2, 50, 47)
    rows = np.concatenate((train, test))
    with h5py.File(out) as file:
        for name in ("sen1", "sen2", "label"):
            assert file[name].dtype == dtype
            np.testing.assert_array_equal(file[name][:], data[name][rows].astype(dtype))
    with so2sat.open_file(out) as patches:
        assert patches.simulated  # carried over from the source
        assert {
            k: patches.attributes[k] for k in ("subset_of", "per_class", "seed", "train_rows", "test_rows")
        } == {
            "subset_of": "all.h5",
            "per_class": 2,
            "seed": 47,
            "train_rows": 34,
            "test_rows": 50,
        }
        assert [len(part) for part in patches.parts] == [34, 50]
        assert np.bincount(patches.labels[patches.parts[0]]).tolist() == [2] * 17
        assert patches.parts[1][0] == 34


@pytest.mark.parametrize(
    ("value", "read"),
    [(True, True), (np.uint8(1), True), (0, False), ("false", None), ("true", None), (b"x", None), (2, None),
     (np.array([1]), None), (0.0, None), (h5py.Empty("f8"), None)],
)  # fmt: skip
def test_a_file_says_plainly_whether_it_is_simulated(tmp_path, value, read):
    """The text "false" would count as true."""
    make(tmp_path / "x.h5", rows=17)
    with h5py.File(tmp_path / "x.h5", "a") as file:
        file.attrs["simulated"] = value
    if read is None:
        with pytest.raises(ValueError, match="simulated is .*; expected true or false as a boolean, or 1 or 0"):
            so2sat.open_file(tmp_path / "x.h5").__enter__()
    else:
        with so2sat.open_file(tmp_path / "x.h5") as patches:
            assert patches.simulated is read


def test_subset_does_not_overwrite_its_source(plain, tmp_path):
    link = tmp_path / "same.h5"
    link.hardlink_to(plain[0])
    with pytest.raises(ValueError, match="source itself"):
        so2sat.subset(plain[0], link, 2, 2, 47)
    with pytest.raises(ValueError, match="has 20 rows"):
        so2sat.subset(plain[0], tmp_path / "out.h5", 21, 2, 47)
    assert not (tmp_path / "out.h5").exists()


def test_cities_come_from_the_file_beside_and_stay_with_a_subset(tmp_path):
    """As text or numbers; other shapes, other numbers of rows and older releases are named."""
    make(source := tmp_path / "training.h5", rows=85)
    geo, out = tmp_path / "training_geo.h5", tmp_path / "subset.h5"
    names = [("Köln", "Rome")[i % 2] for i in range(85)]
    for values, expected in (
        (np.array(names, object), names),
        (np.array([name.encode() for name in names]), names),
        (np.arange(85)[:, None] % 3, [str(i % 3) for i in range(85)]),
    ):
        with h5py.File(geo, "w") as file:
            kind = h5py.string_dtype() if values.dtype == object else None
            file.create_dataset("city", data=values, dtype=kind)
        with so2sat.open_file(source, geo=geo) as patches:
            assert patches.cities.tolist() == expected
    out.unlink(missing_ok=True)
    so2sat.subset(source, out, per_class=2, test=10, seed=1, geo=geo)
    rows = np.concatenate(so2sat.split(np.arange(85) % 17, 2, 10, seed=1))
    with so2sat.open_file(out) as patches:
        assert patches.cities.tolist() == [str(i % 3) for i in rows]
    for values, message in ((np.zeros(84, int), "city is int64 .84,.; expected a name or a number for 85 rows"),
                            (np.array([b"", *85 * [b"x"]])[:85], "row 0 has no city")):  # fmt: skip
        with h5py.File(geo, "w") as file:
            file["city"] = values
        with pytest.raises(ValueError, match=message), so2sat.open_file(source, geo=geo):
            pass
    with h5py.File(geo, "w") as file:
        file["coord"] = np.zeros(85)
    with (
        pytest.raises(ValueError, match="no data set city; found .*coord.*before March 2026"),
        so2sat.open_file(source, geo=geo),
    ):
        pass

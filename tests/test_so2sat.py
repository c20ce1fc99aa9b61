"""so2sat.py: values by row, split, what is refused and how; each check is tried on wrong code."""

import contextlib
import tracemalloc
from pathlib import Path

import h5py
import numpy as np
import pytest

from bplcz_ref.data import so2sat, standardise

REAL = Path(__file__).parent / "data" / "so2sat_validation0.h5"
N = 340


def make(path, rows=N, dtype="f8", change=None, **storage):
    """A file by h5py alone. Row i: sen1's channel c is (i + c / 8) / 1000, sen2's .1 + (i + c / 10) / 1000."""
    i = np.arange(rows)[:, None, None, None]
    data = {
        "sen1": (i + np.arange(8) / 8) / 1000 + np.zeros((rows, 32, 32, 1)),
        "sen2": 0.1 + (i + np.arange(10) / 10) / 1000 + np.zeros((rows, 32, 32, 1)),
        "label": np.eye(17)[np.arange(rows) % 17],
    }
    data["sen1"][:, 3, 5, 2] = -np.arange(rows)  # one pixel tells rows from columns
    if change:
        change(data)
    with h5py.File(path, "w") as file:
        for name, values in data.items():
            file.create_dataset(name, data=values.astype(dtype), **storage)
    return data


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    path = tmp_path_factory.mktemp("so2sat") / "plain.h5"
    return path, make(path)


INDEX = [300, 2, 2, 339, 0, 17, 300, 16, 18]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("storage", ["plain", "f4", ">f8", "gzip", "userblock", "h5py"])
def test_rows_come_in_the_order_asked_for(plain, storage, dtype, tmp_path, monkeypatch):
    path, data = plain
    if storage in ("f4", ">f8"):
        data = make(path := tmp_path / "x.h5", dtype=storage)
    elif storage == "gzip":
        make(path := tmp_path / "x.h5", compression="gzip", chunks=True)
    elif storage == "userblock":  # offsets would be out by the block's size
        with h5py.File(path) as a, h5py.File(path := tmp_path / "x.h5", "w", userblock_size=1024) as b:
            for name in a:
                b[name] = a[name][:]
    elif storage == "h5py":
        monkeypatch.delattr("os.preadv")
    with so2sat.open_file(path) as patches:
        fast = storage in ("plain", "f4", ">f8")
        assert (patches._offsets is not None) == fast
        x = patches.images(INDEX, dtype)
        sen1, sen2 = patches.read(INDEX, dtype)
        assert patches.images(np.array([], int)).shape == (0, 32, 32, 18)
    assert x.shape == (9, 32, 32, 18)
    assert x.dtype == sen1.dtype == sen2.dtype == dtype
    stored = np.float32 if storage == "f4" else np.float64
    for name, found in (("sen1", sen1), ("sen2", sen2)):
        np.testing.assert_array_equal(found, data[name][INDEX].astype(stored).astype(dtype))
    np.testing.assert_array_equal(np.concatenate((sen1, sen2), -1), x)
    assert x[0, 3, 5, 2] == -300
    assert x[0, 5, 3, 2] != -300


def test_the_real_patch():
    with so2sat.open_file(REAL) as patches, h5py.File(REAL) as file:
        assert patches.labels.tolist() == [16]
        assert (patches.simulated, patches.parts) == (False, None)
        sen1, sen2 = patches.read([0], np.float64)
        np.testing.assert_array_equal(sen1, file["sen1"][:])
        np.testing.assert_array_equal(sen2, file["sen2"][:])
        assert patches.attributes["sen1_half_quantum"].shape == (8,)


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ([0, -1], r"index\[1\] is -1; .*rows 0 to 339"),
        ([0, 340], r"index\[1\] is 340"),
        (np.ones(N, bool), "flatnonzero"),
        ([0.0, 1.0], "float64"),
        (3, r"\[row\]"),
        ([[1]], "shape"),
    ],
)
def test_bad_index(plain, index, message):
    with so2sat.open_file(plain[0]) as patches:
        with pytest.raises(ValueError, match=message):
            patches.images(index)
        with pytest.raises(ValueError, match="float32 or float64"):
            patches.images([0], np.int32)


def test_memory_is_that_of_the_rows_asked_for(plain):
    with so2sat.open_file(plain[0]) as patches:
        tracemalloc.start()
        patches.images(range(32))
        images = tracemalloc.get_traced_memory()[1]
        tracemalloc.reset_peak()
        standardise.statistics(patches, range(N))
        walk = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert images < 1.5 * 32 * 32 * 32 * 18 * 4
    assert walk < 4.5 * so2sat.CHUNK * 32 * 32 * 18 * 8


# --- what is refused -------------------------------------------------------------------------------------------


def setting(key, where, value):
    def change(data):
        data[key][where] = value

    return change


def replacing(key, f):
    return lambda data: data.update({key: f(data[key])})


def swap(data):
    data["sen1"], data["sen2"] = data["sen2"], data["sen1"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.pop("label"), r"no data set label; found \['sen1', 'sen2'\]"),
        (swap, "swapped"),
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
    assert any(str(error.value).endswith(p) or p in str(error.value) for p in so2sat.inspect(path).problems)


def test_a_bad_scale_in_few_rows_is_seen_by_inspect_only(tmp_path):
    """The check at opening reads 16 rows; one odd row in 340 passes it; its maximum shows in inspect."""
    make(path := tmp_path / "x.h5", change=setting("sen2", 7, 3000.0))
    with so2sat.open_file(path):
        pass
    assert so2sat.inspect(path).max[8:].min() == 3000


@pytest.mark.filterwarnings("ignore:(overflow|invalid):RuntimeWarning")  # 1e300 squared, in inspect
@pytest.mark.parametrize(("value", "dtype"), [(np.nan, "f8"), (-np.inf, "f8"), (1e300, "f4")])
def test_values_that_are_not_finite(tmp_path, value, dtype):
    make(path := tmp_path / "x.h5", rows=20, change=setting("sen2", (11, 4, 9, 7), value))
    with so2sat.open_file(path) as patches:
        patches.images([10, 12])
        with pytest.raises(ValueError, match=r"row 11, channel B8A, pixel \(4, 9\) is -?(nan|inf)"):
            patches.images([3, 11], dtype)
        with pytest.raises(ValueError, match="row 11") if dtype == "f8" else contextlib.nullcontext():
            standardise.statistics(patches, range(20))
    problems = so2sat.inspect(path).problems
    assert (problems == ()) if dtype == "f4" else ("1 of 20 rows" in problems[0] and "row 11" in problems[0])


def test_bad_files(tmp_path, plain):
    cut, damaged = tmp_path / "cut.h5", tmp_path / "damaged.h5"
    raw = plain[0].read_bytes()
    cut.write_bytes(raw[: len(raw) // 2])
    damaged.write_bytes(raw[:200] + b"\xff" * 3000 + raw[3200:])
    (tmp_path / "empty.h5").touch()
    (tmp_path / "text.h5").write_text("sen1 sen2 label")
    for name, message in {
        "missing.h5": "no such file",
        ".": "is a folder",
        "empty.h5": r"empty \(0 bytes\)",
        "text.h5": "not an HDF5 file",
        "cut.h5": "cut short",
        "damaged.h5": "damaged.h5",
    }.items():
        with pytest.raises(ValueError, match=message), so2sat.open_file(tmp_path / name) as patches:
            patches.images([0])
        assert so2sat.inspect(tmp_path / name).problems


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
    with pytest.raises(ValueError, match=r"x\.h5: cannot be read"), so2sat.open_file(path) as patches:
        patches.images([0])


def test_an_error_in_the_callers_block_is_the_callers(plain):
    with pytest.raises(KeyError, match="mine"), so2sat.open_file(plain[0]):
        raise KeyError("mine")


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


def test_a_wrong_mark_of_parts_is_refused(tmp_path):
    make(path := tmp_path / "x.h5", rows=20)
    for value in (0, 21, 2.5):
        with h5py.File(path, "a") as file:
            file.attrs["train_rows"] = value
        with pytest.raises(ValueError, match="train_rows is .*1 to 20"), so2sat.open_file(path):
            pass


# --- inspect, write, subset ------------------------------------------------------------------------------------


def test_inspect(plain):
    found = so2sat.inspect(plain[0], rows=100)
    assert (found.rows, found.sampled, found.problems) == (N, 100, ())
    assert found.counts.tolist() == [20] * 17
    whole = so2sat.inspect(plain[0], rows=None)
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
    problems = so2sat.inspect(path, rows=10).problems
    assert len(problems) == 2
    assert f"channel {so2sat.BANDS[1]} is 0.1 at every pixel of the 10 of 20 rows looked at" in problems[0]
    assert f"channel {so2sat.BANDS[11]} is 0 at" in problems[1]
    make(path, rows=20, change=lambda data: data.update({k: 0 * data[k] for k in so2sat.SHAPES}))
    text = str(so2sat.inspect(path))
    assert text.count("\n  PROBLEM channel ") == 18
    assert "no problem found" not in text
    assert so2sat.inspect(REAL).problems == ()  # one row, and it varies


def test_inspect_of_a_file_that_cannot_be_opened_shows_the_problem_alone(tmp_path):
    missing = tmp_path / "missing.h5"
    assert str(so2sat.inspect(missing)) == f"PROBLEM {missing}: no such file"


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


def pieces(data, sizes):
    y = data["label"].argmax(1)
    ends = np.cumsum(sizes)
    for a, b in zip(ends - sizes, ends, strict=True):
        yield data["sen1"][a:b], data["sen2"][a:b], y[a:b]


def test_write_is_native_and_exact(plain, tmp_path):
    path = tmp_path / "out.h5"
    path.write_text("an older file of that name")
    so2sat.write_file(path, 40, pieces(plain[1], [7, 32, 1]), {"simulated": True, "seed": 47})
    with h5py.File(path) as file:
        assert sorted(file) == ["label", "sen1", "sen2"]
        for name in file:
            assert (file[name].dtype, file[name].chunks) == (np.float64, None)
            np.testing.assert_array_equal(file[name][:], plain[1][name][:40])
    with so2sat.open_file(path) as patches:
        assert patches.simulated
        assert patches.attributes["seed"] == 47
    assert "SIMULATED" in str(so2sat.inspect(path))
    assert [p.name for p in tmp_path.iterdir()] == ["out.h5"]


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
        (5, (sen1, broken, y), "sen2 holds values that are not finite"),
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
def test_subset_keeps_values_and_tells_the_parts(tmp_path, dtype):
    data = make(path := tmp_path / "all.h5", dtype=dtype)
    with h5py.File(path, "a") as file:
        file.attrs["simulated"] = True
    out = tmp_path / "part.h5"
    so2sat.subset(path, out, per_class=8, test=150, seed=47)
    train, test = so2sat.split(data["label"].argmax(1), 8, 150, 47)
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
            "per_class": 8,
            "seed": 47,
            "train_rows": 136,
            "test_rows": 150,
        }
        assert [len(part) for part in patches.parts] == [136, 150]
        assert np.bincount(patches.labels[patches.parts[0]]).tolist() == [8] * 17
        assert patches.parts[1][0] == 136


def test_subset_does_not_overwrite_its_source(plain, tmp_path):
    link = tmp_path / "same.h5"
    link.symlink_to(plain[0])
    with pytest.raises(ValueError, match="source itself"):
        so2sat.subset(plain[0], link, 2, 2, 47)
    with pytest.raises(ValueError, match="has 20 rows"):
        so2sat.subset(plain[0], tmp_path / "out.h5", 21, 2, 47)
    assert not (tmp_path / "out.h5").exists()

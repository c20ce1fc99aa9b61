"""training/split.py: the split belongs to the file, and no test sample is trained on."""

import shutil
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
from small import TINY, call, quiet
from so2sat_files import part

from bplcz_ref import systems
from bplcz_ref.data import so2sat
from bplcz_ref.training import evaluate, runs, split, train

CITY = TINY._replace(split="city", per_class=1, test=10)


def test_the_split_of_a_subset_is_its_own(subset):
    """Whatever the preset says; what was chosen must agree, and split "random" draws anew."""
    small, own = systems.SMALL, {"per_class": 2, "test": 30}
    with so2sat.open_file(subset) as patches:
        found = split.decide(patches, small)
        assert found.settings == small._replace(**own)
        assert found[:2] == patches.parts
        assert split.decide(patches, small._replace(**own), given=own).settings == found.settings
        own_split = r"its own split, per_class 2 and test 30; (test 1000|per_class 60)"
        for given in (["test"], ["per_class", "epochs"], ["per_class", "test"]):
            with pytest.raises(ValueError, match=own_split):
                split.decide(patches, small, given)
        with pytest.raises(ValueError, match="per_class 2 and test 40 asked for: leave that out"):
            split.decide(patches, TINY)  # what differs from the preset was chosen
        drawn = TINY._replace(per_class=1, test=40, split="random")
        found = split.decide(patches, drawn)
        assert found.settings == drawn
        assert set(found.test) & set(patches.parts[0])
        patches.parts = np.arange(33), np.arange(33, 64)
        with pytest.raises(ValueError, match="has 1 to 2 rows per class; expected the same number of each"):
            split.decide(patches, small)


# --------------------------------------------------------------------------------------- rows with the same pixels


@pytest.fixture(scope="module")
def doubled(small_file, tmp_path_factory):
    """Every row of `small_file` twice, the second time in float32's precision; row i + 136 is a copy of row i."""
    path = tmp_path_factory.mktemp("doubled") / "doubled.h5"
    with h5py.File(small_file) as source, h5py.File(path, "w") as file:
        for name in ("sen1", "sen2", "label"):
            file[name] = np.concatenate((source[name][:], source[name][:].astype("f4")))
        file["city"] = np.array([b"A", b"B", b"C", b"D"])[np.arange(272) // 68]  # copies are in other cities
    return path


@pytest.mark.parametrize("kind", ["random", "city", "subset"])
def test_copies_are_on_one_side_of_every_split(doubled, tmp_path, kind):
    for seed in (1, 2):
        path = doubled
        settings = TINY._replace(split=kind, per_class=1 if kind == "city" else 3, test=20, seed=seed)
        if kind == "subset":
            so2sat.subset(doubled, path := tmp_path / f"{seed}.h5", per_class=3, test=20, seed=seed)
            settings = settings._replace(split="file")
        with so2sat.open_file(path) as patches:
            training, test, *_ = split.decide(patches, settings)
            assert len(test) == len(set(test)) == 20
            assert not set(patches.digests(training)) & set(patches.digests(test))
            if kind == "random":
                plain = so2sat.split(patches.labels, 3, 20, seed)
                assert np.array_equal(training, plain[0])
                assert set(training % 136) & set(plain[1] % 136)  # as it was drawn before
                too_many = r"test asks for 221 rows; \d+ have no copy in the training part"
                with pytest.raises(ValueError, match=too_many):
                    split.decide(patches, settings._replace(test=221))


@pytest.mark.slow
def test_copies_in_a_test_file_are_refused_or_left_out(small_file, subset, tmp_path, capsys):
    """The number stands beside the accuracy, and the same rows are left out when the run is evaluated again."""
    places = (tmp_path / f"{name}.h5" for name in ("training", "testing", "validation"))
    some = slice(0, 90), slice(80, 120), slice(88, 136)
    data, test, validation = (part(path, small_file, rows) for path, rows in zip(places, some, strict=True))
    asked = ["train", "--data", data, "--test-data", test, "--validation", validation, "--system", "ebcnn"]
    asked += ["--set", "width=1", "features=2", "epochs=1", "--out", run := tmp_path / "run"]
    assert call(*asked) == 2
    assert "10 of its 40 rows are in the training part, the first is row 0; " in (error := capsys.readouterr().err)
    assert "leave them out with --twins drop" in error
    assert call(*asked, "--twins", "drop") == 0
    label = "official separate files, 10 copies of training rows left out"
    assert f"on 30 test samples, {label}" in capsys.readouterr().out
    assert runs.read_metrics(run)["split"] == label
    assert runs.read_config(run)["data"]["split"]["twins"] == list(range(10))
    trained = evaluate.load(run)
    with so2sat.open_file(test) as patches:
        rows, words = evaluate.rows_to_evaluate(trained, patches, None)
        assert rows.tolist() == list(range(10, 40))
        assert label in words
    with so2sat.open_file(validation) as patches:
        C = evaluate.confusion(trained, patches, np.arange(2, 48))
        assert runs.read_metrics(run)["last_epoch"]["validation_accuracy"] == np.trace(C) / 46
    own = TINY._replace(twins="drop")
    with pytest.raises(ValueError, match="all its 64 rows are copies of training rows, so none is left"):
        train.train(tmp_path / "a", small_file, "ebcnn", own, test_data=subset, given=[], say=quiet)


def test_a_subset_whose_parts_share_a_row_is_refused(subset, tmp_path):
    shutil.copy(subset, path := tmp_path / "shared.h5")
    with h5py.File(path, "a") as file:
        for name in ("sen1", "sen2"):
            file[name][40] = file[name][3]
    message = "1 of its 30 rows are in the training part, the first is row 40; .*--split random"
    with pytest.raises(ValueError, match=message):
        train.train(tmp_path / "run", path, "ebcnn", TINY, given=[], say=quiet)


# ------------------------------------------------------------------------------------------------ separate files


def test_separate_files_are_trained_and_tested_as_wholes(small_file, subset, tmp_path):
    so2sat.subset(small_file, path := tmp_path / "part.h5", per_class=2, test=0, seed=1)
    with (
        so2sat.open_file(small_file) as patches,
        so2sat.open_file(subset) as other,
        so2sat.open_file(path) as training,
    ):
        for file, tested, settings, given, sizes in (
            (patches, other, systems.SMALL, None, (None, None, 136, 64)),
            (patches, other, TINY._replace(per_class=1, test=9), ["per_class", "test"], (1, 9, 17, 9)),
            (other, patches, systems.SMALL, [], (2, None, 34, 136)),  # a subset's training part
            (training, other, systems.SMALL, [], (2, None, 34, 64)),
        ):
            rows, test, settled, *_ = split.decide(file, settings, given, tested)
            assert (settled.per_class, settled.test, len(rows), len(test)) == sizes
        for asked, message in (
            ((patches, CITY, None, other), "split is 'city', and the test part is"),
            ((training, systems.SMALL, []), "has no test rows: name a file with --test-data FILE"),
            ((patches, TINY._replace(test=None)), "per_class or test is none, all rows, which is for separate"),
        ):
            with pytest.raises(ValueError, match=message):
                split.decide(*asked)
    seen = "{} of its 64 rows are in the training part, the first is row 0"
    with pytest.raises(ValueError, match=seen.format(64)):
        train.train(tmp_path / "a", small_file, "ebcnn", TINY, test_data=subset, given=[], say=quiet)
    with pytest.raises(ValueError, match=seen.format(34)):
        train.train(tmp_path / "b", subset, "ebcnn", TINY, validation=subset, given=[], say=quiet)


@pytest.mark.slow
def test_a_run_on_separate_files_is_evaluated_on_the_test_file(small_file, tmp_path):
    """Its test file is known wherever it is, and it is resumed by its folder."""
    parts = [tmp_path / f"{name}.h5" for name in ("training", "testing", "validation")]
    for path, rows in zip(parts, (slice(0, 90), slice(90, 120), slice(120, 136)), strict=True):
        part(path, small_file, rows, "f4")
    settings, run = TINY._replace(epochs=1), tmp_path / "run"
    files_ = {"test_data": parts[1], "validation": parts[2]}
    result = train.train(run, parts[0], "ebcnn", settings, given=["epochs"], say=quiet, **files_)
    assert (result["training_samples"], result["test_samples"]) == (90, 30)
    assert result["split"] == "official separate files"
    trained = evaluate.load(run)
    moved = parts[1].rename(tmp_path / "moved.h5")
    with so2sat.open_file(moved) as patches:
        rows, words = evaluate.rows_to_evaluate(trained, patches, None)
        assert len(rows) == 30
        assert "the test part of" in words
        assert np.array_equal(evaluate.confusion(trained, patches, rows), runs.read_confusion(run))
    with pytest.raises(ValueError, match=r"is not there now: say where it is \(--test-data FILE.h5\)"):
        train.resume(run, epochs=2, say=quiet)
    assert train.resume(run, epochs=2, say=quiet, test_data=moved)["last_epoch"]["epoch"] == 2


# --------------------------------------------------------------------------------------------------------- cities


@pytest.mark.slow
def test_a_city_split_leaves_whole_cities_out_and_says_so_everywhere(small_file, tmp_path, capsys):
    geo, run = tmp_path / "patches_geo.h5", tmp_path / "run"
    with h5py.File(geo, "w") as file:  # 7 cities, in text of variable length
        names = np.array([f"c\u00f6ln {i}" for i in range(7)], object)[np.arange(136) * 5 // 97]
        file.create_dataset("city", data=names, dtype=h5py.string_dtype())
    with so2sat.open_file(small_file, geo=geo) as patches:
        rows, test, _, _, out, _ = split.decide(patches, CITY)
        cities, labels = patches.cities, patches.labels
        assert out != split.held_out(patches, CITY._replace(seed=50))
        with pytest.raises(ValueError, match="test asks for 130 rows; the cities left out together has"):
            split.decide(patches, CITY._replace(test=130))
    assert set(cities[test]) <= set(out)
    assert not set(cities[rows]) & set(out)
    assert np.bincount(labels[rows], minlength=17).tolist() == [1] * 17
    assert len(set(test)) == 10
    asked = ["train", "--data", small_file, "--split", "city", "--system", "ebcnn", "--out", run]
    asked += ["--set", "per_class=1", "test=10", "epochs=1", "width=1", "features=2"]
    assert call(*asked) == 2
    assert "name its *_geo.h5 with --geo FILE" in capsys.readouterr().err
    assert call(*asked, "--geo", geo) == 0
    printed = capsys.readouterr()
    noted = runs.read_config(run)["data"]["split"]
    assert noted["from"] == "city"
    assert f"city split, 2 cities left out ({', '.join(noted['cities'])})" in printed.err
    assert "on 10 SIMULATED samples, city split, 2 cities left out" in printed.out
    assert call("evaluate", run, "--data", small_file) == 0  # cities by the noted file
    assert "the test part of" in capsys.readouterr().out


def test_one_city_in_five_is_left_out():
    def count(cities):
        patches = SimpleNamespace(path="x.h5", cities=np.array([f"c{k}" for k in range(cities)]))
        return len(set(split.held_out(patches, CITY)))

    assert [count(cities) for cities in (2, 5, 6, 7, 42)] == [1, 1, 2, 2, 9]
    with pytest.raises(ValueError, match="all rows are of c0; a city split needs 2 cities or more"):
        count(1)

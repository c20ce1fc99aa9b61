"""split.py: the split belongs to the file, and no test sample is trained on."""

from types import SimpleNamespace

import h5py
import numpy as np
import pytest
from small import TINY, quiet

from bplcz_ref import __main__ as command_line
from bplcz_ref import systems
from bplcz_ref.data import so2sat
from bplcz_ref.training import evaluate, runs, split, train


def test_no_test_sample_is_trained_on(small_file):
    with so2sat.open_file(small_file) as patches:
        rows, test = split.parts(patches, TINY)
    assert not set(rows) & set(test)


def test_the_split_of_a_subset_is_its_own(subset):
    """Whatever the preset says; what was chosen must agree, and split "random" draws anew."""
    small, own = systems.SMALL, {"per_class": 2, "test": 30}
    with so2sat.open_file(subset) as patches:
        settings = split.settle(patches, small)
        assert settings == small._replace(**own)
        assert split.parts(patches, settings) is patches.parts
        assert split.settle(patches, small._replace(**own), given=own) == settings
        for given in (["test"], ["per_class", "epochs"]):
            with pytest.raises(
                ValueError, match=r"its own split, per_class 2 and test 30; (test 1000|per_class 60)"
            ):
                split.settle(patches, small, given)
        with pytest.raises(ValueError, match="per_class 2 and test 40 asked for: leave that out"):
            split.settle(patches, TINY)  # what differs from the preset was chosen
        with pytest.raises(ValueError, match="its own split"):
            split.parts(patches, small)
        drawn = TINY._replace(per_class=1, test=40, split="random")
        assert split.settle(patches, drawn) == drawn
        assert set(split.parts(patches, drawn)[1]) & set(patches.parts[0])
        patches.parts = np.arange(33), np.arange(33, 64)
        with pytest.raises(ValueError, match="has 1 to 2 rows per class; expected the same number of each"):
            split.settle(patches, small)


def test_a_subset_without_test_rows_trains_beside_a_test_file(small_file, subset, tmp_path):
    so2sat.subset(small_file, path := tmp_path / "part.h5", per_class=2, test=0, seed=1)
    with so2sat.open_file(path) as patches, so2sat.open_file(subset) as other:
        settled = split.settle(patches, systems.SMALL, [], other)
        assert (settled.per_class, settled.test) == (2, None)
        assert [len(rows) for rows in split.parts(patches, settled, other)] == [34, 64]
        with pytest.raises(ValueError, match="has no test rows: name a file with --test-data FILE"):
            split.settle(patches, systems.SMALL, [])


@pytest.fixture(scope="module")
def geo(small_file, tmp_path_factory):
    """The *_geo.h5 of `small_file`: 7 cities, in text of variable length."""
    path = tmp_path_factory.mktemp("geo") / "patches_geo.h5"
    with h5py.File(path, "w") as file:
        names = np.array([f"c\u00f6ln {i}" for i in range(7)], object)[np.arange(136) * 5 // 97]
        file.create_dataset("city", data=names, dtype=h5py.string_dtype())
        file["epsg"] = np.full(136, 32632)
    return path


CITY = TINY._replace(split="city", per_class=1, test=10)


def test_a_city_split_leaves_whole_cities_out(small_file, geo):
    with so2sat.open_file(small_file, geo=geo) as patches:
        out = split.held_out(patches, CITY)
        rows, test = split.parts(patches, CITY)
        cities, labels = patches.cities, patches.labels
        assert len(out) == 2  # one in five of 7, rounded up
        assert out != split.held_out(patches, CITY._replace(seed=50))
        for size, message in (({"test": 130}, "test asks for 130 rows; the cities left out together has"),):
            with pytest.raises(ValueError, match=message):
                split.parts(patches, CITY._replace(**size))
    assert set(cities[test]) <= set(out)
    assert not set(cities[rows]) & set(out)
    assert np.bincount(labels[rows], minlength=17).tolist() == [1] * 17
    assert len(set(test)) == 10
    with (
        so2sat.open_file(small_file) as patches,
        pytest.raises(ValueError, match="name its .*_geo.h5 with --geo FILE"),
    ):
        split.parts(patches, CITY)


@pytest.mark.slow
def test_a_run_on_a_city_split_says_so_everywhere(small_file, geo, tmp_path, capsys):
    run = tmp_path / "run"
    asked = ["train", "--data", str(small_file), "--geo", str(geo), "--split", "city", "--system", "ebcnn"]
    sizes = ["--out", str(run), "--set", "per_class=1", "test=10", "epochs=1", "width=1", "features=2"]
    assert command_line.main([*asked, *sizes]) == 0
    printed = capsys.readouterr()
    config = runs.read_config(run)
    assert config["data"]["split"]["from"] == "city"
    assert f"left out for the test: {', '.join(config['data']['split']['cities'])}" in printed.err
    assert "on 10 SIMULATED samples, city split, 2 cities left out" in printed.out
    assert runs.read_metrics(run)["split"] == "city split, 2 cities left out"
    assert (
        command_line.main(["evaluate", str(run), "--data", str(small_file)]) == 0
    )  # the cities by the noted file
    assert "the test part of" in capsys.readouterr().out


def test_separate_files_are_trained_and_tested_as_wholes(small_file, subset, tmp_path):
    with so2sat.open_file(small_file) as patches, so2sat.open_file(subset) as other:
        settled = split.settle(patches, systems.SMALL, tested=other)
        assert (settled.per_class, settled.test) == (None, None)
        rows, test = split.parts(patches, settled, other)
        assert (len(rows), len(test)) == (136, len(other))
        some = split.settle(patches, TINY._replace(per_class=1, test=9), ["per_class", "test"], other)
        rows, test = split.parts(patches, some, other)
        assert (len(rows), len(test), some.test) == (17, 9, 9)
        own = split.settle(other, systems.SMALL, [], patches)  # a subset's training part
        assert (own.per_class, own.test) == (2, None)
        assert split.parts(other, own, patches)[0].tolist() == list(range(34))
        with pytest.raises(ValueError, match="split is 'city', and the test part is"):
            split.settle(patches, CITY, tested=other)
    with so2sat.open_file(small_file) as patches, pytest.raises(ValueError, match="for separate files"):
        split.settle(patches, TINY._replace(test=None))
    with pytest.raises(ValueError, match="64 of its 64 rows are in the training part, the first is row 0"):
        train.train(tmp_path, small_file, "ebcnn", TINY, test_data=subset, given=[], say=quiet)
    with pytest.raises(
        ValueError, match="subset.h5: 34 of its 64 rows are in the training part, the first is row 0"
    ):
        train.train(tmp_path, subset, "ebcnn", TINY, validation=subset, given=[], say=quiet)


@pytest.mark.slow
def test_a_run_on_separate_files_is_evaluated_on_the_test_file(small_file, tmp_path):
    """Its validation accuracy is noted, its test file is known wherever it is, and it is resumed by its folder."""
    parts = [tmp_path / f"{name}.h5" for name in ("training", "testing", "validation")]
    with h5py.File(small_file) as source:
        for path, some in zip(parts, (slice(0, 90), slice(90, 120), slice(120, 136)), strict=True):
            with h5py.File(path, "w") as file:
                for name in ("sen1", "sen2", "label"):
                    file[name] = source[name][some].astype("f4")
    settings, run = TINY._replace(epochs=1), tmp_path / "run"
    files_ = {"test_data": parts[1], "validation": parts[2]}
    result = train.train(run, parts[0], "ebcnn", settings, given=["epochs"], say=quiet, **files_)
    assert (result["training_samples"], result["test_samples"]) == (90, 30)
    assert result["split"] == "official separate files"
    trained = evaluate.load(run)
    with so2sat.open_file(parts[2]) as patches:
        C = evaluate.confusion(trained, patches, np.arange(16))
    assert result["last_epoch"]["validation_accuracy"] == np.trace(C) / 16
    moved = parts[1].rename(tmp_path / "moved.h5")
    with so2sat.open_file(moved) as patches:
        rows, words = evaluate.rows_to_evaluate(trained, patches, None)
        assert len(rows) == 30
        assert "the test part of" in words
        assert np.array_equal(evaluate.confusion(trained, patches, rows), runs.read_confusion(run))
    with (
        so2sat.open_file(parts[0]) as patches,
        pytest.raises(ValueError, match="90 of its 90 rows were trained on"),
    ):
        evaluate.rows_to_evaluate(trained, patches, None)
    with pytest.raises(ValueError, match="is not there now: say where it is"):
        train.resume(run, epochs=2, say=quiet)
    assert train.resume(run, epochs=2, say=quiet, test_data=moved)["last_epoch"]["epoch"] == 2


@pytest.mark.parametrize(("cities", "left_out"), [(2, 1), (5, 1), (6, 2), (42, 9)])
def test_one_city_in_five_is_left_out(cities, left_out):
    patches = SimpleNamespace(path="x.h5", cities=np.array([f"c{k}" for k in range(cities)]))
    found = split.held_out(patches, CITY)
    assert len(found) == left_out == len(set(found))

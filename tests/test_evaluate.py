"""evaluate.py: evaluation mode, whatever the chunks, and the numbers that were reported."""

import csv
import multiprocessing
import shutil
from concurrent.futures import ProcessPoolExecutor

import h5py
import numpy as np
import pytest
from small import TINY, call, quiet
from so2sat_files import part

import bplcz_ref
from bplcz_ref import metrics
from bplcz_ref.data import so2sat, standardise
from bplcz_ref.storage import files, weights
from bplcz_ref.training import evaluate, runs, split, train


@pytest.mark.slow
def test_evaluation_is_in_evaluation_mode_and_gives_the_reported_metrics(whole, small_file, monkeypatch):
    """A sample's logits do not depend on its batch, and are those of apply with train=False."""
    trained = evaluate.load(whole)
    rows = np.arange(12)
    with so2sat.open_file(small_file) as patches:
        ((_, many),) = evaluate.logits(trained, patches, rows)
        with monkeypatch.context() as patch:
            patch.setattr(evaluate, "ROWS_AT_ONCE", 1)
            one = np.concatenate([c_hat for _, c_hat in evaluate.logits(trained, patches, rows)])
        x = standardise.standardise(patches.images(rows), trained.statistics)
        I = evaluate.fused(trained, patches, rows)
        C = evaluate.confusion(trained, patches, split.decide(patches, TINY).test)
    plain, _ = trained.network.apply(trained.params, trained.state, x, train=False)
    expected = trained.network.fused(trained.params, trained.state, x)
    for found, right in ((one, many), (plain, many), (I, expected)):
        assert np.abs(found - right).max() < 1e-4 * np.abs(right).max()
    assert np.array_equal(C, runs.read_confusion(whole))
    assert metrics.summary(C)["kappa"] == runs.read_metrics(whole)["kappa"]


def test_a_logit_that_is_not_finite_has_no_class(whole, small_file):
    trained = evaluate.load(whole)
    trained.params["classifier"]["bias"][2] = np.nan
    with so2sat.open_file(small_file) as patches, pytest.raises(ValueError, match="are not finite for row 7"):
        evaluate.confusion(trained, patches, np.array([7, 8]))


@pytest.mark.slow
def test_classify_is_the_class_and_probability_that_predict_writes(whole, small_file, tmp_path):
    with h5py.File(small_file) as file:
        sen1, sen2 = file["sen1"][:70], file["sen2"][:70]
    classes, p = bplcz_ref.classify(whole, sen1, sen2)  # in two pieces
    out, I = tmp_path / "labels.csv", tmp_path / "I.npz"
    asked = ("--data", small_file, "--out", out, "--probabilities", "--embeddings", I)
    assert call("predict", whole, *asked) == 0
    with open(out, encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    columns = [f"p_{name}" for name, _ in bplcz_ref.paper.CLASSES]
    written = np.array([[float(row[name]) for name in columns] for row in rows])
    assert written.shape == (136, 17)
    assert np.abs(written[:70] - p).max() < 1e-5
    assert np.allclose(p.sum(axis=1), 1, atol=1e-12)
    assert [row["class"] for row in rows[:70]] == [bplcz_ref.paper.CLASSES[k][0] for k in classes]
    trained = evaluate.load(whole)
    with so2sat.open_file(small_file) as patches:
        assert np.abs(weights.read_arrays(I)["I"] - evaluate.fused(trained, patches, np.arange(136))).max() < 1e-6
    again, _ = bplcz_ref.classify(trained, sen1[:3], sen2[:3])
    assert again.tolist() == classes[:3].tolist()


BAD_PATCHES = [
    (lambda a, b: (a[0], b[0]), r"sen1 has shape \(32, 32, 8\); .* for one patch give sen1\[None\]"),
    (lambda a, b: (b, a), r"sen1 has shape \(2, 32, 32, 10\); expected \(B, 32, 32, 8\)"),
    (lambda a, b: (a, b[:1]), "one B for both"),
    (lambda a, b: (a[:0], b[:0]), r"sen1 has shape \(0, 32, 32, 8\)"),
    (lambda a, b: (a, 1e4 * b), "digital numbers where reflectance .* divide sen2 by 10000"),
    (lambda a, b: (np.where(a > 2, np.nan, a), b), "classify: row 0, channel VH re, .* is nan; expected finite"),
    (lambda a, b: (a, np.where(a[..., :1] > 2, -9999, b)), "classify: row 0, channel B2, .* is -9999"),
    (lambda a, b: (a, b * np.array([1, 0])[:, None, None, None]), "row 1, each channel of sen2 is constant"),
    (lambda a, b: (a, np.ma.masked_less(b, 0.1)), "sen2: found a masked array"),
]


def test_classify_names_what_cannot_be_classified(whole, small_file):
    with h5py.File(small_file) as file:
        sen1, sen2 = file["sen1"][:2], file["sen2"][:2]
    sen1[0, 0, 0, 0] = 3.0
    trained = evaluate.load(whole)
    for change, message in BAD_PATCHES:
        with pytest.raises(ValueError, match=message):
            bplcz_ref.classify(trained, *change(sen1, sen2))
    sen1[..., :4] = 0
    with pytest.warns(UserWarning, match="constant at every pixel of the 2 rows looked at: VH re 0, VH im 0"):
        bplcz_ref.classify(trained, sen1, sen2)


@pytest.mark.slow
def test_rows_without_data_have_no_answer_from_predict(whole, small_file, tmp_path, capsys):
    bare, out, I = (tmp_path / name for name in ("bare.h5", "labels.csv", "I.npz"))
    with h5py.File(small_file) as file:
        so2sat.write_file(bare, 20, [(file["sen1"][:20], file["sen2"][:20], None)])  # without labels
    with h5py.File(bare, "a") as file:
        file["sen1"][3], file["sen2"][7, :9], file["sen2"][9] = 0, -9999, 1e4 * file["sen2"][9]
    asked = ("predict", whole, "--data", bare, "--out", out)
    assert call(*asked, "--embeddings", I, "--probabilities") == 0
    words = "bare.h5: 3 of 20 rows have no answer, the first: row 3, each channel of sen1 is constant (0, ...)"
    assert words in capsys.readouterr().err
    with open(out, encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    empty = [3, 7, 9]
    assert [k for k, row in enumerate(rows) if row["class"] == row["number"] == row["p_G"] == ""] == empty
    ids = [name for name, _ in bplcz_ref.paper.CLASSES]
    assert all(ids[int(row["number"]) - 1] == row["class"] for k, row in enumerate(rows) if k not in empty)
    assert np.flatnonzero(np.isnan(weights.read_arrays(I)["I"]).all(1)).tolist() == empty
    with h5py.File(bare, "a") as file:
        file["sen1"][...] = 0
    for more, code, message in (
        (["--embeddings", I], 2, "no row can be used, so there is no feature I: row 0, each channel of sen1"),
        ([], 0, "bare.h5: 20 of 20 rows have no answer, the first: row 0, each channel of sen1 is constant"),
    ):
        assert call(*asked, "--overwrite", *more) == code
        assert message in capsys.readouterr().err
    assert out.read_text(encoding="utf-8").splitlines()[1:] == [f"{row},,,,true" for row in range(20)]


@pytest.mark.slow
def test_a_loaded_run_goes_to_a_worker(whole, small_file):
    trained = evaluate.load(whole)
    with h5py.File(small_file) as file:
        sen1, sen2 = file["sen1"][:3], file["sen2"][:3]
    with np.errstate(under="raise"):
        _, here = bplcz_ref.classify(trained, sen1, sen2)
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        _, there = pool.submit(bplcz_ref.classify, trained, sen1, sen2).result()
    assert np.array_equal(here, there)


@pytest.mark.slow
def test_evaluate_writes_its_result(whole, small_file, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    out = tmp_path / "out"
    assert call("evaluate", whole, "--data", small_file, "--out", out) == 0
    assert sorted(path.name for path in out.iterdir()) == ["confusion.csv", "confusion.png", "evaluation.json"]
    C = runs.read_confusion(out)
    assert np.array_equal(C, runs.read_confusion(whole))
    found = files.read_json(out / "evaluation.json")
    assert found["simulated"]
    assert found["macro_f1"] == metrics.macro_f1(C)
    assert found["kappa_95_bootstrap"] == list(metrics.kappa_interval(C))
    assert [each["support"] for each in found["classes"]] == C.sum(axis=1).tolist()
    printed = capsys.readouterr().out
    low, high = (f"{100 * value:.2f}" for value in found["kappa_95_bootstrap"])
    assert f"kappa: 95 % bootstrap interval {low} to {high} %" in printed


@pytest.mark.slow
@pytest.mark.parametrize("clip", [None, 1.0])
def test_an_exported_run_comes_back(whole, small_file, tmp_path, clip):
    trained = evaluate.load(whole)
    trained = trained._replace(statistics=trained.statistics._replace(clip_sen1=clip))
    weights.export(trained, tmp_path / "run.npz")
    blank = trained._replace(
        params=weights.nested({n: 0 * a for n, a in weights.named(trained.params).items()}),
        statistics=standardise.Statistics(np.zeros(18), np.ones(18), 0.5),
    )
    back = weights.imported(blank, tmp_path / "run.npz")
    assert back.statistics.clip_sen1 == clip
    with h5py.File(small_file) as file:
        sen1, sen2 = 4 * file["sen1"][:5], file["sen2"][:5]
    p, q = (bplcz_ref.classify(run, sen1, sen2)[1] for run in (trained, back))
    assert np.array_equal(p, q)
    arrays = weights.read_arrays(tmp_path / "run.npz")
    for change, message in (
        ({"input.std": None}, "lacks input.std: it was not written by weights.export"),
        ({"input.mean": np.zeros(3)}, r"input.mean is \(3,\), .*expected \(18,\) twice"),
        ({"classifier.bias": np.zeros(3)}, "does not fit this network"),
    ):
        spoilt = {name: a for name, a in (arrays | change).items() if a is not None}
        weights.save(tmp_path / "bad.npz", weights.nested(spoilt))
        with pytest.raises(ValueError, match=message):
            weights.imported(trained, tmp_path / "bad.npz")


@pytest.fixture(scope="module")
def of_subset(subset, tmp_path_factory):
    """A run on 34 rows of `subset`, which are rows of `small_file` too; the preset's sizes give way to its own."""
    run, preset, said = tmp_path_factory.mktemp("of_subset") / "run", TINY._replace(per_class=60, epochs=1), []
    result = train.train(run, subset, "ebcnn", preset, given=["epochs"], say=said.append)
    assert "34 training and 30 test rows, the subset's own random split" in said[0]
    assert train.train(run, subset, "ebcnn", preset, given=["epochs"], say=quiet) == result
    return run


@pytest.mark.slow
def test_rows_that_were_trained_on_are_known_in_other_files(of_subset, subset, small_file, tmp_path, capsys):
    """In the file that the subset was drawn from, and in another subset of that, in float32."""
    trained = evaluate.load(of_subset)
    with so2sat.open_file(small_file) as patches:
        training, _ = so2sat.split(patches.labels, 2, 30, seed=5)
        sources = training.tolist()
        labels = patches.labels
    for more, code, words in (
        ([], 2, f"34 of its 136 rows were trained on, the first is row {min(sources)}; results on them"),
        (["--training-rows", "skip"], 0, "on 102 SIMULATED samples: the 102 rows of"),
        (["--training-rows", "include"], 0, "34 of which were TRAINED ON"),
    ):
        assert call("evaluate", of_subset, "--data", small_file, *more) == code
        assert words in "".join(capsys.readouterr())
    with so2sat.open_file(small_file) as patches:
        rows, _ = evaluate.rows_to_evaluate(trained, patches, "skip")
        assert sorted([*rows, *sources]) == list(range(136))
    other, narrow = tmp_path / "other.h5", tmp_path / "narrow.h5"
    so2sat.subset(small_file, other, per_class=1, test=40, seed=6)
    expected = np.isin(np.concatenate(so2sat.split(labels, 1, 40, seed=6)), sources)
    with so2sat.open_file(part(narrow, other, dtype="f4")) as patches:
        rows, words = evaluate.rows_to_evaluate(trained, patches, "skip")
        assert rows.tolist() == np.flatnonzero(~expected).tolist()
        assert 0 < expected.sum() < 57
        assert f"{expected.sum()} are left out" in words


@pytest.mark.slow
def test_a_file_that_leaves_no_test_row_is_refused(of_subset, subset, tmp_path):
    """Its parts were moved, so that rows trained on would count as the test part; or it has no other rows."""
    trained, moved, alone = evaluate.load(of_subset), tmp_path / "moved.h5", tmp_path / "alone.h5"
    shutil.copy(subset, moved)
    part(alone, subset, slice(34))
    with h5py.File(moved, "a") as file:
        file.attrs["train_rows"] = 17
    for path, message in ((moved, r"moved\.h5"), (alone, "all its 34 rows were trained on, so none is left")):
        with so2sat.open_file(path) as patches, pytest.raises(ValueError, match=message):
            evaluate.rows_to_evaluate(trained, patches, "skip")

"""evaluate.py: evaluation mode, whatever the chunks, and the numbers that were reported."""

import shutil

import h5py
import numpy as np
import pytest
from small import TINY, quiet

from bplcz_ref import __main__ as command_line
from bplcz_ref import metrics
from bplcz_ref.data import so2sat, standardise
from bplcz_ref.training import evaluate, runs, split, train


@pytest.mark.slow
def test_evaluation_is_in_evaluation_mode(whole, small_file):
    """A sample's logits do not depend on its batch, and are those of apply with train=False."""
    trained = evaluate.load(whole)
    rows = np.arange(12)
    with so2sat.open_file(small_file) as patches:
        one = np.concatenate([c_hat for _, c_hat in evaluate.logits(trained, patches, rows, size=1)])
        many = np.concatenate([c_hat for _, c_hat in evaluate.logits(trained, patches, rows, size=12)])
        x = standardise.standardise(patches.images(rows), trained.statistics)
        I = evaluate.fused(trained, patches, rows)
    plain, _ = trained.network.apply(trained.params, trained.state, x, train=False)
    assert np.abs(one - many).max() < 1e-4 * np.abs(many).max()
    assert np.abs(plain - many).max() < 1e-4 * np.abs(many).max()
    expected = trained.network.fused(trained.params, trained.state, x)
    assert np.abs(I - expected).max() < 1e-4 * np.abs(expected).max()


@pytest.mark.slow
def test_the_reported_metrics_come_from_the_saved_weights(whole, small_file):
    trained = evaluate.load(whole)
    with so2sat.open_file(small_file) as patches:
        _, test = split.parts(patches, TINY)
        C = evaluate.confusion(trained, patches, test)
    assert np.array_equal(C, runs.read_confusion(whole))
    assert metrics.summary(C)["kappa"] == runs.read_metrics(whole)["kappa"]


def test_a_logit_that_is_not_finite_has_no_class(whole, small_file):
    trained = evaluate.load(whole)
    trained.params["classifier"]["bias"][2] = np.nan
    with (
        so2sat.open_file(small_file) as patches,
        pytest.raises(ValueError, match="values that are not finite for row 7"),
    ):
        evaluate.confusion(trained, patches, np.array([7, 8]))


@pytest.fixture(scope="module")
def of_subset(subset, tmp_path_factory):
    """A run on 34 rows of `subset`, which are rows of `small_file` too."""
    run = tmp_path_factory.mktemp("of_subset") / "run"
    train.train(run, subset, "ebcnn", TINY._replace(per_class=2, test=30, epochs=1), say=quiet)
    return run


@pytest.mark.slow
def test_rows_that_were_trained_on_are_known_in_other_files(of_subset, subset, small_file, tmp_path, capsys):
    """In the file that the subset was drawn from, and in another subset of that, in float32."""
    trained = evaluate.load(of_subset)
    with so2sat.open_file(subset) as patches:
        sources = patches.source_rows[:34]
    asked = ["evaluate", str(of_subset), "--data", str(small_file)]
    assert command_line.main(asked) == 2
    error = capsys.readouterr().err
    assert f"34 of its 136 rows were trained on, the first is row {min(sources)}; results on them" in error
    assert "--training-rows skip" in error
    assert command_line.main([*asked, "--training-rows", "skip"]) == 0
    assert "on 102 SIMULATED samples: the 102 rows of" in capsys.readouterr().out
    assert command_line.main([*asked, "--training-rows", "include"]) == 0
    assert "34 of which were TRAINED ON" in capsys.readouterr().out
    with so2sat.open_file(small_file) as patches:
        rows, _ = evaluate.rows_to_evaluate(trained, patches, "skip")
        assert sorted([*rows, *sources]) == list(range(136))
    other, narrow = tmp_path / "other.h5", tmp_path / "narrow.h5"
    so2sat.subset(small_file, other, per_class=1, test=40, seed=6)
    with h5py.File(other) as wide, h5py.File(narrow, "w") as file:
        for name in ("sen1", "sen2", "label"):
            file[name] = wide[name][:].astype("f4")
        expected = np.isin(wide["source_rows"][:], sources)
    with so2sat.open_file(narrow) as patches:
        rows, words = evaluate.rows_to_evaluate(trained, patches, "skip")
        assert rows.tolist() == np.flatnonzero(~expected).tolist()
        assert 0 < expected.sum() < 57
        assert f"{expected.sum()} are left out" in words


@pytest.mark.slow
def test_a_file_whose_parts_were_moved_is_refused(of_subset, subset, tmp_path):
    """Otherwise rows that were trained on would count as the test part."""
    moved = tmp_path / "moved.h5"
    shutil.copy(subset, moved)
    with h5py.File(moved, "a") as file:
        file.attrs["train_rows"] = 17
    with so2sat.open_file(moved) as patches, pytest.raises(ValueError, match=r"moved\.h5"):
        evaluate.rows_to_evaluate(evaluate.load(of_subset), patches, None)


@pytest.mark.slow
def test_all_rows_of_a_file_of_training_rows_leave_nothing(of_subset, subset, tmp_path):
    with h5py.File(subset) as source, h5py.File(tmp_path / "x.h5", "w") as file:
        for name in ("sen1", "sen2", "label"):
            file[name] = source[name][:34]
    with so2sat.open_file(tmp_path / "x.h5") as patches, pytest.raises(ValueError, match="none is left"):
        evaluate.rows_to_evaluate(evaluate.load(of_subset), patches, "skip")

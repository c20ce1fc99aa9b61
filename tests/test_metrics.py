"""metrics.py: numbers worked by hand, a published result, and degenerate cases."""

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from bplcz_ref import metrics

DATA = Path(__file__).parent / "data" / "so2sat_testing_labels_and_sen2lcz_predictions.npz"

# 3 classes, 20 samples. Rows: truth.  8 of class 0 (6 right), 10 of class 1 (5 right), 2 of class 2 (0 right).
C3 = [[6, 1, 1], [4, 5, 1], [1, 1, 0]]


def test_by_hand():
    assert metrics.overall_accuracy(C3) == 11 / 20
    np.testing.assert_array_equal(metrics.recalls(C3), [6 / 8, 5 / 10, 0.0])
    assert metrics.average_accuracy(C3) == pytest.approx((0.75 + 0.5 + 0.0) / 3, rel=1e-15)
    # rows 8 10 2, columns 11 7 2: pe = (88 + 70 + 4) / 400 = .405; kappa = (.55 - .405) / .595 = 29/119
    assert metrics.kappa(C3) == pytest.approx(29 / 119, rel=1e-15)
    # f1 = 2 hits / (row + column): 12/19, 10/17, 0/4
    assert metrics.macro_f1(C3) == pytest.approx((12 / 19 + 10 / 17) / 3, rel=1e-15)
    found = metrics.summary(C3)
    assert found.pop("samples") == 20
    assert found == {name: getattr(metrics, name)(C3) for name in found}
    # a fourth class that is neither there nor predicted; the third is never found
    shares = [[6 / 11, 6 / 8, 12 / 19, 8], [5 / 7, 5 / 10, 10 / 17, 10], [0, 0, 0, 2], [None, None, None, 0]]
    assert [list(row.values()) for row in metrics.by_class(np.pad(C3, (0, 1)))] == shares


def test_published_predictions():
    with np.load(DATA, allow_pickle=False) as z:
        C = metrics.confusion_matrix(z["y_true"], z["y_pred"])
    assert C.sum() == 24188
    assert C.sum(axis=1)[0] == 266  # truth of class 1 in testing.h5
    assert round(metrics.overall_accuracy(C), 5) == 0.69369
    assert round(metrics.average_accuracy(C), 5) == 0.58675
    assert round(metrics.kappa(C), 5) == 0.66437


def test_kappa_is_exact_for_large_counts():
    C = [[10**9, 1], [2, 10**9]]  # N^2 does not fit int64; float products would lose the off-diagonal
    N, agree = 2 * 10**9 + 3, 2 * 10**9
    pe = Fraction((10**9 + 1) * (10**9 + 2) + (10**9 + 2) * (10**9 + 1), N * N)
    assert metrics.kappa(C) == float((Fraction(agree, N) - pe) / (1 - pe))


def test_degenerate():
    one = metrics.confusion_matrix([4, 4], [4, 4])
    assert np.isnan(metrics.kappa(one))  # 0/0
    assert metrics.summary(one)["kappa"] is None
    assert metrics.overall_accuracy(one) == metrics.average_accuracy(one) == 1.0
    for y_hat, kappa in (([0, 1], 1.0), ([1, 0], -1.0), ([0, 0], 0.0)):  # a constant prediction is chance
        assert metrics.kappa(metrics.confusion_matrix([0, 1], y_hat)) == kappa
    # class 2 absent from the truth: not averaged, whatever was predicted
    assert metrics.average_accuracy(metrics.confusion_matrix([0, 1, 1], [0, 1, 2], K=3)) == 0.75


def test_bad_labels_and_matrices_are_named():
    for y, y_hat, K, message in (
        ([0, 1], [0], 17, r"y_hat: found shape \(1,\), expected \(N,\) with N = 2, as in y"),
        ([0.0], [0], 17, "y: found dtype float64"),
        ([0], [17], 17, "y_hat: row 0 has class 17"),
        ([0], [0], 2.0, "K: found 2.0, expected a whole number"),  # which bincount would not take
    ):
        with pytest.raises(ValueError, match=message):
            metrics.confusion_matrix(y, y_hat, K)
    for figure in (metrics.overall_accuracy, metrics.kappa, metrics.summary, metrics.by_class):
        with pytest.raises(ValueError, match="C: .* not all 0"):
            figure([[0, 0], [0, 0]])


def test_the_interval_is_that_of_rows_drawn_again():
    """Against the bootstrap written out: rows with replacement, kappa of each draw."""
    C = np.array([[30, 8, 2], [6, 20, 4], [1, 2, 7]])
    y, y_hat = (np.repeat(index.ravel(), C.ravel()) for index in np.indices(C.shape))
    rng, found = np.random.default_rng(1), []
    for _ in range(1500):
        rows = rng.integers(0, len(y), len(y))
        found.append(metrics.kappa(metrics.confusion_matrix(y[rows], y_hat[rows], 3)))
    low, high = metrics.kappa_interval(C)
    assert abs(low - np.quantile(found, 0.025)) < 0.02
    assert abs(high - np.quantile(found, 0.975)) < 0.02
    assert (low, high) == metrics.kappa_interval(C)  # the same draws again
    wide, narrow = (np.ptp(metrics.kappa_interval(n * C)) for n in (1, 100))
    assert 8 < wide / narrow < 12  # by the root of the rows
    assert np.isnan(metrics.kappa_interval(np.diag([5, 0]))).all()
    low, high = metrics.kappa_interval(np.diag([3, 1]))  # a third of the draws has one class alone: left out
    assert low == high == 1

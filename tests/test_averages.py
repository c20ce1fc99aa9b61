"""training/averages.py: an epoch's line, from two batches by hand."""

import re
import time

import numpy as np
import pytest
from small import TINY

from bplcz_ref import theory
from bplcz_ref.training import averages
from bplcz_ref.training.checkpoint import SUMS, Progress

BATCHES = [
    {  # labels 3, 3, 5: five pairs of equal labels, four of different ones
        "L": 2.0,
        "L_cls": 1.0,
        "L_con": 0.5,
        "c_hat": np.eye(17)[[3, 4, 5]],
        "S": np.array([[1.0, 1.0, -1.0], [1.0, 1.0, -1.0], [-2.0, -2.0, 1.0]]),
        "W": np.eye(3),
    },
    {  # one label alone
        "L": 4.0,
        "L_cls": 3.0,
        "L_con": 0.25,
        "c_hat": np.eye(17)[[0]],
        "S": np.array([[-1.0]]),
        "W": np.eye(1),
    },
]
LABELS = [np.array([3, 3, 5]), np.array([0])]


def sums(count):
    found = dict.fromkeys(SUMS, 0.0)
    for trace, y in list(zip(BATCHES, LABELS, strict=True))[:count]:
        found = averages.added(found, trace, y, seconds=1.5)
    return found


def test_the_line_of_an_epoch():
    assert averages.log_row(4, sums(2)) == {
        "epoch": 5,
        "L": (3 * 2.0 + 4.0) / 4,
        "L_cls": (3 * 1.0 + 3.0) / 4,
        "L_con": (3 * 0.5 + 0.25) / 4,
        "training_accuracy": 3 / 4,
        "positive_fraction": 4 / 10,  # of the W that was used: here the identity
        "S_positive": (5 - 1) / 6,
        "S_negative": (-1 - 1 - 2 - 2) / 4,
        "seconds": 3.0,
    }


def test_an_epoch_without_pairs_of_a_kind_has_no_mean_of_them():
    only = averages.added(dict.fromkeys(SUMS, 0.0), BATCHES[1], LABELS[1], seconds=1.5)
    assert averages.log_row(0, only)["S_negative"] is None
    plain = {name: BATCHES[0][name] for name in ("L", "L_cls", "c_hat")}
    row = averages.log_row(0, averages.added(dict.fromkeys(SUMS, 0.0), plain, LABELS[0], seconds=1.5))
    assert [name for name, value in row.items() if value is None] == [
        "L_con", "positive_fraction", "S_positive", "S_negative"
    ]  # fmt: skip


def test_where_an_epoch_is(monkeypatch):
    monkeypatch.setattr(time, "perf_counter", lambda: 110.0)
    at = Progress({}, 12, sums(2), {}, None, {}, {}, np.zeros(0))
    settings = TINY._replace(epochs=3, batch=8)
    line = averages.where(at, epoch=1, steps=10, total=30, settings=settings, first=7, began=100.0)
    assert line == "epoch 2/3  step 2/10  L 2.5000  4 samples/s  36 s left"  # 5 steps took 10 s, 18 are left


@pytest.mark.parametrize("msm", [True, False])
def test_a_floor_hangs_on_counts_alone(msm):
    y = np.array([7, 2, 7, 7, 11, 2])
    assert averages.floor((1, 2, 3), 1.75, msm) == pytest.approx(theory.batch_floor(y, 1.75, msm).lower, abs=1e-9)


def test_what_people_read():
    row = averages.log_row(0, sums(2)) | {"validation_accuracy": 0.625}
    assert re.sub(" +", " ", averages.said(row, 9)) == (
        "epoch 1/9 L_cls 1.5000 L_con 0.4375 training accuracy 75.0 % validation 62.5 %"
    )

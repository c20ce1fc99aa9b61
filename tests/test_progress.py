"""training/progress.py: an epoch's averages from two batches by hand, and how lines reach a terminal or a pipe."""

import io
import multiprocessing
import re
import sys
import time
from types import SimpleNamespace

import numpy as np
from small import TINY

from bplcz_ref.training import progress, train
from bplcz_ref.training.progress import ERASE, NO_SUMS, Reporter

BATCHES = [
    {"L": 2.0, "L_cls": 1.0, "L_con": 0.5, "c_hat": np.eye(17)[[3, 4, 5]], "W": np.eye(3),
     "S": np.array([[1.0, 1.0, -1.0], [1.0, 1.0, -1.0], [-2.0, -2.0, 1.0]])},
    {"L": 4.0, "L_cls": 3.0, "L_con": 0.25, "c_hat": np.eye(17)[[0]], "S": np.array([[-1.0]]), "W": np.eye(1)},
]  # fmt: skip
LABELS = [np.array([3, 3, 5]), np.array([0])]  # five pairs of equal labels and four of different ones; one pair


def sums(batches, labels):
    found = NO_SUMS
    for trace, y in zip(batches, labels, strict=True):
        found = progress.added(found, trace, y, seconds=1.5)
    return found


def test_the_line_of_an_epoch():
    assert progress.log_row(4, sums(BATCHES, LABELS)) == {
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
    assert progress.log_row(0, sums(BATCHES[1:], LABELS[1:]))["S_negative"] is None
    plain = {name: BATCHES[0][name] for name in ("L", "L_cls", "c_hat")}
    row = progress.log_row(0, sums([plain], LABELS[:1]))
    absent = ["L_con", "positive_fraction", "S_positive", "S_negative"]
    assert [name for name, value in row.items() if value is None] == absent


def test_what_people_read(monkeypatch):
    row = progress.log_row(0, sums(BATCHES, LABELS)) | {"validation_accuracy": 0.625}
    assert re.sub(" +", " ", progress.said(row, 9)) == (
        "epoch 1/9 L_cls 1.5000 L_con 0.4375 training accuracy 75.0 % validation 62.5 %"
    )
    monkeypatch.setattr(time, "perf_counter", lambda: 110.0)
    run = SimpleNamespace(folder="runs/a", settings=TINY._replace(epochs=3, batch=8), steps=10)
    line = train.where(run, SimpleNamespace(step=12, sums=sums(BATCHES, LABELS)), begun=(7, 100.0))
    # 5 steps took 10 s, 18 are left
    assert line == "runs/a: epoch 2/3  step 2/10  L 2.5000  4 samples/s  36 s left"


def reporter(monkeypatch, terminal, say=None):
    """A Reporter whose clock advances by an hour at each look, and what it writes to."""
    clock = iter(range(0, 10**6, 3600))
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    monkeypatch.setenv("COLUMNS", "20")
    out = io.StringIO()
    out.isatty = lambda: terminal
    monkeypatch.setattr(sys, "stderr", out)
    return Reporter(say), out


def test_on_a_terminal_a_step_is_written_over_and_in_a_pipe_or_a_worker_it_is_a_line(monkeypatch):
    for terminal, worker in ((True, None), (False, None), (True, "parent")):
        monkeypatch.setattr(multiprocessing, "parent_process", lambda: worker)  # noqa: B023
        report, out = reporter(monkeypatch, terminal)
        report.step(lambda: "step 1")
        report.step(lambda: "step 2 " + 40 * "x")  # on a terminal it is cut: a broken line cannot be written over
        report.wait = 10**6
        report.step(lambda: "too soon")
        report.line("epoch 1")
        report.end()
        renewed = f"{ERASE}step 1{ERASE}step 2 {12 * 'x'}{ERASE}epoch 1\n"
        said = []
        reporter(monkeypatch, terminal, said.append)[0].step(lambda: "a function takes whole lines alone")
        assert said == []
        assert out.getvalue() == (f"step 1\nstep 2 {40 * 'x'}\nepoch 1\n" if worker or not terminal else renewed)

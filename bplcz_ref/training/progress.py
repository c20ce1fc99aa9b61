"""What training says on the way: an epoch's averages for log.jsonl, and lines for people.

On a terminal the line of a step is renewed a few times per second; into a file or a pipe it is written as a line
of its own, at most once per minute.

Index letters: B samples of a batch.
"""

import functools
import multiprocessing
import shutil
import sys
import time
from collections.abc import Callable

import numpy as np

from bplcz_ref import paper, systems, theory

# What is summed over an epoch, in the order of the checkpoint; `added` says what each is.
SUMS = ["samples", "L", "L_cls", "L_con", "correct"]
SUMS += ["pairs", "targets", "positive", "S_positive", "S_negative", "seconds"]
NO_SUMS = dict.fromkeys(SUMS, 0.0)
ON_A_TERMINAL, ELSEWHERE = 0.2, 60.0  # seconds between two lines of steps
ERASE = "\r\x1b[K"  # to the start of the line, and what is right of it


def added(sums: dict, trace: dict, y: np.ndarray, seconds: float) -> dict:
    """The epoch's sums with one batch more. L and L_con are means over a batch, so they are weighted by B."""
    B = len(y)
    new = {
        "samples": B,
        "L": B * float(trace["L"]),
        "L_cls": B * float(trace["L_cls"]),
        "correct": float(np.sum(np.argmax(trace["c_hat"], axis=1) == y)),
        "seconds": seconds,
    }
    if "S" in trace:
        same = y[:, None] == y[None, :]
        S = np.asarray(trace["S"], np.float64)
        new |= {
            "L_con": B * float(trace["L_con"]),
            "pairs": float(same.size),
            "targets": float(trace["W"].sum()),
            "positive": float(same.sum()),
            "S_positive": float(S[same].sum()),
            "S_negative": float(S[~same].sum()),
        }
    return {name: value + new.get(name, 0.0) for name, value in sums.items()}


def log_row(epoch: int, sums: dict) -> dict:
    """A line of log.jsonl except for L_con_floor and validation_accuracy: averages, None where there are none.

    positive_fraction: mean(W) of the W that the loss used, the identity without MSM.
    S_positive, S_negative: means of S over pairs of equal and of different labels.
    """
    n, pairs, positive = sums["samples"], sums["pairs"], sums["positive"]
    return {
        "epoch": epoch + 1,
        "L": sums["L"] / n,
        "L_cls": sums["L_cls"] / n,
        "L_con": sums["L_con"] / n if pairs else None,
        "training_accuracy": sums["correct"] / n,
        "positive_fraction": sums["targets"] / pairs if pairs else None,
        "S_positive": sums["S_positive"] / positive if positive else None,
        "S_negative": sums["S_negative"] / (pairs - positive) if pairs > positive else None,
        "seconds": sums["seconds"],
    }


def L_con_floor(name: str, settings: systems.Settings, batches: list[np.ndarray]) -> float | None:
    """The mean over an epoch's batches of the least L_con that their labels permit, weighted as L_con is.

    Only the paper's loss has such a floor, with W of Eq. (5) or the identity; None for all others.
    """
    system = systems.SYSTEMS[name]
    if not systems.prompted(system, settings) or settings.contrastive not in ("paper", "identity"):
        return None
    msm = system.msm and settings.contrastive == "paper"
    alpha_n = settings.alpha * len(paper.GROUPS)
    floors = [
        len(y) * floor(tuple(sorted(np.unique(y, return_counts=True)[1].tolist())), alpha_n, msm) for y in batches
    ]
    return sum(floors) / sum(map(len, batches))


@functools.lru_cache(maxsize=10_000)
def floor(counts: tuple[int, ...], alpha_n: float, msm: bool) -> float:
    """theory.batch_floor of a batch by the samples of each of its classes, whichever classes they are."""
    return theory.batch_floor(np.repeat(np.arange(len(counts)), counts), alpha_n, msm).lower


def said(row: dict, epochs: int) -> str:
    """A line of the log, for people."""
    words = [f"epoch {row['epoch']}/{epochs}", f"L_cls {row['L_cls']:.4f}"]
    if row["L_con"] is not None:
        words.append(f"L_con {row['L_con']:.4f}")
    words.append(f"training accuracy {100 * row['training_accuracy']:.1f} %")
    if row["validation_accuracy"] is not None:
        words.append(f"validation {100 * row['validation_accuracy']:.1f} %")
    return "  ".join(words)


def duration(seconds: float) -> str:
    """A time for people.

    >>> duration(41.6), duration(125), duration(7300)
    ('42 s', '2 min 05 s', '2 h 01 min')
    """
    minutes, seconds = divmod(round(seconds), 60)
    if not minutes:
        return f"{seconds} s"
    return f"{minutes} min {seconds:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


class Reporter:
    """`line` says a whole line, `step` where an epoch is, `end` leaves the terminal at the start of a line.

    A `say` function takes the whole lines in the place of stderr, and no steps.
    """

    def __init__(self, say: Callable[[str], None] | None = None) -> None:
        self.write = functools.partial(print, file=sys.stderr, flush=True)
        self.say = say
        several = multiprocessing.parent_process() is not None  # they do not share a terminal's one line
        self.terminal = say is None and sys.stderr.isatty() and not several
        self.wait = ON_A_TERMINAL if self.terminal else ELSEWHERE
        self.last, self.open = time.perf_counter(), False

    def line(self, words: str) -> None:
        """A whole line."""
        self.end()
        self.last = time.perf_counter()
        (self.say or self.write)(words)

    def step(self, words: Callable[[], str]) -> None:
        """Where an epoch is, unless something was said a moment ago; `words` is called only if it is needed."""
        if self.say is not None or time.perf_counter() - self.last < self.wait:
            return
        if not self.terminal:
            self.line(words())
            return
        width = shutil.get_terminal_size().columns - 1
        self.write(ERASE + words()[:width], end="")
        self.last, self.open = time.perf_counter(), True

    def end(self) -> None:
        """Remove the line of a step, if there is one."""
        if self.open:
            self.write(ERASE, end="")
            self.open = False

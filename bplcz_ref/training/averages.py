"""An epoch's averages: what a line of log.jsonl says, and the lines that say it to people.

Index letters: B samples of a batch.
"""

import functools
import time

import numpy as np

from bplcz_ref import paper, systems, theory
from bplcz_ref.training import runs
from bplcz_ref.training.checkpoint import Progress
from bplcz_ref.training.progress import duration


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


def L_con_floor(config: dict, batches: list[np.ndarray]) -> float | None:
    """The mean over an epoch's batches of the least L_con that their labels permit, weighted as L_con is.

    Only the paper's loss has such a floor, with W of Eq. (5) or the identity; None for all others.
    """
    system, settings = systems.SYSTEMS[config["system"]], runs.settings_of(config)
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


# ------------------------------------------------------------------------------------------------------- words


def said(row: dict, epochs: int) -> str:
    """A line of the log, for people."""
    parts = [f"epoch {row['epoch']}/{epochs}", f"L_cls {row['L_cls']:.4f}"]
    if row["L_con"] is not None:
        parts.append(f"L_con {row['L_con']:.4f}")
    parts.append(f"training accuracy {100 * row['training_accuracy']:.1f} %")
    if row["validation_accuracy"] is not None:
        parts.append(f"validation {100 * row['validation_accuracy']:.1f} %")
    return "  ".join(parts)


def where(
    at: Progress, epoch: int, steps: int, total: int, settings: systems.Settings, first: int, began: float
) -> str:
    """Where an epoch is: step, mean L so far, samples per second and time left, both since the start."""
    each = (time.perf_counter() - began) / (at.step - first)
    done = at.step - epoch * steps
    return (
        f"epoch {epoch + 1}/{settings.epochs}  step {done}/{steps}  L {at.sums['L'] / at.sums['samples']:.4f}"
        f"  {settings.batch / each:.0f} samples/s  {duration(each * (total - at.step))} left"
    )

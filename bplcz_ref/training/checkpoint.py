"""A run's checkpoint.npz: all that the next step depends on, written whole.

It holds the digest of the config.json that it belongs to: with another one beside it, it is refused.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from bplcz_ref import files, model, weights
from bplcz_ref.data import standardise
from bplcz_ref.streams import stream
from bplcz_ref.training import runs

# What is summed over an epoch, in the order of the checkpoint: averages.py's `added` says what each is.
# fmt: off
SUMS = ["samples", "L", "L_cls", "L_con", "correct", "pairs", "targets", "positive", "S_positive", "S_negative",
        "seconds"]
# fmt: on
ADVICE = "restore the file from a copy; without one, train again in another folder"


class Progress(NamedTuple):
    """How far a run has come: all that the next step depends on, and the sums of the current epoch."""

    config: str  # identity(config.json) of the run
    step: int
    sums: dict
    params: dict
    velocity: dict | None  # None before the first step
    state: dict
    statistics: standardise.Statistics
    trained_on: np.ndarray  # (training rows,) uint64, their split.row_digests


def save(run: Path, at: Progress) -> None:
    """Write all of `at`, whole: until then the last checkpoint stays."""
    arrays = {
        "config": np.frombuffer(bytes.fromhex(at.config), np.uint8),
        "step": np.array(at.step, np.int64),
        "sums": np.array([at.sums[name] for name in SUMS]),
        "statistics/mean": at.statistics.mean,
        "statistics/std": at.statistics.std,
        "trained_on": at.trained_on,
    }
    for part in ("params", "velocity", "state"):
        arrays |= {f"{part}/{name}": leaf for name, leaf in weights.named(getattr(at, part) or {}).items()}
    with files.whole(run / "checkpoint.npz") as temporary, open(temporary, "wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]


def load(run: str | Path, network: model.Model, config: dict) -> Progress | None:
    """Progress as saved, or None without a checkpoint. Errors: ValueError if it is damaged or does not fit."""
    path = Path(run) / "checkpoint.npz"
    if not path.exists():
        return None
    with files.reading(path, ADVICE):
        arrays = files.read_npz(path, ADVICE)
        if arrays["config"].tobytes().hex() != runs.identity(config):
            raise ValueError(
                f"{path} belongs to another config.json than the one beside it, which was edited or exchanged:"
                " restore that, or train again in another folder"
            )
        if runs.complete(run) and arrays["step"] < last_step(config):
            raise ValueError(f"{path} is of step {arrays['step']}, though the run is complete: it was exchanged")
        params, state = network.init(stream(config["settings"]["seed"], "init"), np.dtype(config["dtype"]))

        def part(name, tree):
            own = {key.removeprefix(f"{name}/"): a for key, a in arrays.items() if key.startswith(f"{name}/")}
            return weights.like(tree, own, name)

        return Progress(
            config=runs.identity(config),
            step=int(arrays["step"]),
            sums=dict(zip(SUMS, arrays["sums"].tolist(), strict=True)),
            params=part("params", params),
            velocity=part("velocity", params) if arrays["step"] else None,
            state=part("state", state),
            statistics=standardise.Statistics(
                arrays["statistics/mean"], arrays["statistics/std"], config["settings"]["clip_sen1"]
            ),
            trained_on=arrays["trained_on"],
        )


def steps_per_epoch(config: dict) -> int:
    """The steps of an epoch: an incomplete last batch counts."""
    return -(-config["data"]["split"]["training"] // config["settings"]["batch"])


def last_step(config: dict) -> int:
    """The step at which a run is complete."""
    return config["settings"]["epochs"] * steps_per_epoch(config)

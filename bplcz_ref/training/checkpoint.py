"""A run's checkpoint.npz: all that the next step depends on, written whole and read with suspicion.

It is read in three steps, each of which may refuse it: the digest of the config.json that it belongs to; names,
shapes and dtypes, which the network knows; then the numbers, which must be finite and in range.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from bplcz_ref import archives, files, model, schema, weights
from bplcz_ref.bands import BANDS
from bplcz_ref.data import standardise
from bplcz_ref.streams import stream
from bplcz_ref.training import runs

# What is summed over an epoch, in the order of the checkpoint: averages.py's `added` says what each is.
SUMS = [
    "samples",
    "L",
    "L_cls",
    "L_con",
    "correct",
    "pairs",
    "targets",
    "positive",
    "S_positive",
    "S_negative",
    "seconds",
]
NOT_NEGATIVE = ("samples", "L_cls", "correct", "pairs", "targets", "positive", "seconds")


class Progress(NamedTuple):
    """How far a run has come: all that the next step depends on, and the sums of the current epoch."""

    config: str  # identity(config.json) of the run
    step: int
    sums: dict
    params: dict
    velocity: dict | None  # None before the first step
    state: dict
    statistics: standardise.Statistics
    trained_on: np.ndarray  # (17 per_class,) uint64, row_digests of the training part


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
    with advising():
        stored = archives.read_npz(path, only=("config",)).get("config", np.zeros(0, np.uint8))
    if stored.tobytes().hex() != runs.identity(config):
        raise ValueError(
            f"{path} belongs to another config.json than the one beside it, which was edited or exchanged:"
            " restore that, or train again in another folder"
        )
    params, state = network.init(stream(config["settings"]["seed"], "init"), np.dtype(config["dtype"]))
    with advising():
        arrays = archives.read_npz(path, lambda entries: check_declared(path, entries, params, state, config))
        check_values(path, arrays, config)
        if runs.complete(run) and arrays["step"] < last_step(config):
            raise ValueError(f"{path} is of step {arrays['step']}, though the run is complete: it was exchanged")

    def part(name):
        return {key.removeprefix(f"{name}/"): a for key, a in arrays.items() if key.startswith(f"{name}/")}

    velocity = part("velocity")
    return Progress(
        config=runs.identity(config),
        step=int(arrays["step"]),
        sums=dict(zip(SUMS, arrays["sums"].tolist(), strict=True)),
        params=weights.like(params, part("params"), str(path)),
        velocity=weights.like(params, velocity, str(path)) if velocity else None,
        state=weights.like(state, part("state"), str(path)),
        statistics=standardise.Statistics(**part("statistics"), clip_sen1=config["settings"]["clip_sen1"]),
        trained_on=arrays["trained_on"],
    )


def steps_per_epoch(config: dict) -> int:
    """The steps of an epoch: an incomplete last batch counts."""
    return -(-config["data"]["split"]["training"] // config["settings"]["batch"])


def last_step(config: dict) -> int:
    """The step at which a run is complete."""
    return config["settings"]["epochs"] * steps_per_epoch(config)


@contextlib.contextmanager
def advising() -> Iterator[None]:
    """A checkpoint that is damaged cannot be repaired: an error says what is left to do."""
    try:
        yield
    except ValueError as error:
        raise ValueError(
            f"{error}. Restore the file from a copy; without one, train again in another folder"
        ) from None


def check_declared(path: Path, entries: list[archives.Entry], params: dict, state: dict, config: dict) -> None:
    """ValueError unless a checkpoint declares what the network and its optimiser have; nothing is read yet."""
    leaves: dict[str, np.ndarray] = {
        "config": np.zeros(32, np.uint8),
        "step": np.zeros((), np.int64),
        "sums": np.zeros(len(SUMS)),
        "statistics/mean": np.zeros(len(BANDS)),
        "statistics/std": np.zeros(len(BANDS)),
        "trained_on": np.zeros(config["data"]["split"]["training"], np.uint64),
    }
    leaves |= {f"params/{name}": leaf for name, leaf in weights.named(params).items()}
    leaves |= {f"state/{name}": leaf for name, leaf in weights.named(state).items()}
    if any(entry.name.startswith("velocity/") for entry in entries):  # all of it, or, before the first step, none
        leaves |= {f"velocity/{name}": leaf for name, leaf in weights.named(params).items()}
    found = {entry.name: f"{entry.dtype} {entry.shape}" for entry in entries}
    expected = {name: f"{np.asarray(leaf).dtype} {np.shape(leaf)}" for name, leaf in leaves.items()}
    for problem, names in (("lacks", expected.keys() - found), ("holds also", found.keys() - expected)):
        if names:
            raise ValueError(f"{path} {problem} {schema.brief(', '.join(sorted(names)))[1:-1]}")
    for name, words in found.items():
        if words != expected[name]:
            raise ValueError(f"{path}: {name} is {words}; expected {expected[name]}")


def check_values(path: Path, arrays: dict, config: dict) -> None:
    """ValueError unless the numbers of a checkpoint are those of a run with these settings, on the way or done."""
    for name, values in arrays.items():
        not_negative = name == "statistics/std" or name.endswith(("running_var", weights.COUNT))
        if not np.isfinite(values).all() or (not_negative and (values < 0).any()):
            expected = "finite values, 0 or more" if not_negative else "finite values"
            bad = values[~np.isfinite(values) | ((values < 0) if not_negative else False)].flat[0]
            raise ValueError(f"{path}: {name} holds {bad}; expected {expected}")
    step = int(arrays["step"])
    schema.check(step, schema.whole(0, last_step(config)), f"{path}: step")
    if (step > 0) != any(name.startswith("velocity/") for name in arrays):
        has = "no" if step else "a"
        raise ValueError(f"{path}: it has {has} velocity at step {step}; expected one from step 1 on")
    sums = dict(zip(SUMS, arrays["sums"].tolist(), strict=True))
    steps, batch = steps_per_epoch(config), config["settings"]["batch"]
    samples = step % steps * batch  # of this epoch so far; only the batch that ends it may be smaller
    limits = {name: schema.number(0) for name in NOT_NEGATIVE} | {
        "samples": schema.number(samples, samples),
        "correct": schema.number(0, samples),
    }
    for name, rule in limits.items():
        schema.check(sums[name], rule, f"{path}: sums: {name}")

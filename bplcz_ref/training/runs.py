"""A run folder: its five files, each with one writer and one reader here.

config.json     what was asked: system, settings, dtype, data; written first
log.jsonl       a line per epoch: losses, accuracy, seconds
checkpoint.npz  everything that a resumption needs (Progress)
confusion.csv   the confusion matrix on the test part
metrics.json    the result; written last, so its presence says that the run is complete
"""

import json
import zipfile
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

import numpy as np

from bplcz_ref import __version__, files, metrics, model, paper, systems, theory, weights
from bplcz_ref.data import so2sat, standardise
from bplcz_ref.data.so2sat import Patches
from bplcz_ref.streams import stream

# What is summed over an epoch, in the order of the checkpoint: train.py's `added` says what each is.
SUMS = (
    *("samples", "L", "L_cls", "L_con", "correct", "pairs", "targets"),
    *("positive", "S_positive", "S_negative", "seconds"),
)
PROBED = 16  # rows, spread over a file, whose pixels are compared to tell two files apart


class Progress(NamedTuple):
    """How far a run has come: all that the next step depends on, and the sums of the current epoch."""

    step: int
    sums: dict
    params: dict
    velocity: dict | None  # None before the first step
    state: dict
    statistics: standardise.Statistics


# ------------------------------------------------------------------------------------------------------ the split


def settle(patches: Patches, settings: systems.Settings, given: Collection[str] | None = None) -> systems.Settings:
    """The settings with the sizes of the split that is used: on a subset those of its own parts.

    given: names of the settings that somebody chose; default: those that differ from the preset's.
    Errors: ValueError if a chosen per_class or test conflicts with the file's parts.
    """
    if settings.split == "random" or patches.parts is None:
        return settings
    given = systems.changed(settings) if given is None else given
    own = dict(zip(("per_class", "test"), own_sizes(patches), strict=True))
    asked = {name: getattr(settings, name) for name in own if name in given}
    if any(own[name] != value for name, value in asked.items()):
        raise ValueError(
            f"{patches.path} has its own split, {words(own)}; {words(asked)} asked for: leave that out to use the"
            " file's split, or draw a new one from all its rows with split random (--split random)"
        )
    return settings._replace(**own)


def own_sizes(patches: Patches) -> tuple[int, int]:
    """(training rows per class, test rows) of a subset's own parts; ValueError if they are no split."""
    training, test = patches.parts
    counts = np.bincount(patches.labels[training], minlength=len(paper.CLASSES))
    if counts.min() < counts.max() or not len(test):
        raise ValueError(
            f"{patches.path}: its parts have {counts.min()} to {counts.max()} training rows per class and"
            f" {len(test)} test rows; expected the same number of each class, and 1 test row or more, as `subset`"
            " writes them: draw a new split with split random (--split random)"
        )
    return int(counts[0]), len(test)


def words(sizes: dict) -> str:
    """Sizes of a split for people.

    >>> words({"per_class": 100, "test": 1500})
    'per_class 100 and test 1500'
    """
    return " and ".join(f"{name} {size}" for name, size in sizes.items())


def parts(patches: Patches, settings: systems.Settings) -> tuple[np.ndarray, np.ndarray]:
    """(training, test) row numbers: a subset's own parts, or a draw where it has none or split is "random".

    Errors: ValueError if the settings have other sizes than the file's parts.
    """
    if settings.split == "file" and patches.parts is not None:
        settle(patches, settings, given=("per_class", "test"))
        return patches.parts
    return so2sat.split(patches.labels, settings.per_class, settings.test, settings.seed)


# ------------------------------------------------------------------------------------------------- a run's life


def describe(patches: Patches, system: str, settings: systems.Settings, dtype: str) -> dict:
    """What config.json holds: enough to see whether a run folder belongs to what is asked now."""
    training, test = parts(patches, settings)
    source = "file" if settings.split == "file" and patches.parts is not None else "random"
    return {
        "bplcz_ref": __version__,
        "system": system,
        "settings": settings._asdict(),
        "dtype": str(np.dtype(dtype)),
        "data": {
            "path": str(Path(patches.path).resolve()),
            "samples": len(patches),
            "labels": files.digest(patches.labels),
            "pixels": files.digest(patches.images(so2sat.spread_rows(len(patches), PROBED), np.float64)),
            "split": {"from": source, "training": len(training), "test": len(test)},
            "parts": [files.digest(rows) for rows in (training, test)],
            "simulated": patches.simulated,
        },
    }


def claim(run: Path, config: dict, resume: bool) -> dict | None:
    """None if there is work to do in `run`, or the metrics of a complete run.

    Errors: ValueError if the folder holds another run, or a run at all with resume=False.
    """
    if not (run / "config.json").exists():
        if (run / "checkpoint.npz").exists():
            raise ValueError(
                f"{run} has checkpoint.npz without config.json, so it is not clear which run it belongs to:"
                " name another folder"
            )
        return None
    if not resume:
        raise ValueError(f"{run} holds a run already: resume it, or name another folder")
    old, new = weights.named(read_config(run)), weights.named(config)
    free = ("bplcz_ref", "data.path")  # another version or place of the file is no other run
    differs = [
        f"{name} is {old.get(name)!r} there and {value!r} now"
        for name, value in new.items()
        if name not in free and old.get(name) != value
    ]
    if differs:
        raise ValueError(f"{run} holds another run: {'; '.join(differs)}. Name another folder")
    return read_metrics(run) if complete(run) else None


def finish(run: Path, config: dict, at: Progress, C: np.ndarray) -> dict:
    """Write confusion.csv, then metrics.json; returns the metrics."""
    rows = read_log(run)
    if not rows:
        raise ValueError(f"{run}: log.jsonl is gone; name another folder, or restore it")
    settings = settings_of(run, config)
    result = {
        "system": config["system"],
        "preset": settings.preset,
        "data_simulated": config["data"]["simulated"],
        "settings": config["settings"],
        **metrics.summary(C),
        "test_samples": int(C.sum()),
        "parameters": weights.count(at.params),
        "training_seconds": sum(row["seconds"] for row in rows),
        "last_epoch": rows[-1],
        "L_con_floor": L_con_floor(settings, rows[-1]["positive_fraction"]),
    }
    write_confusion(run, C)
    files.write_json(run / "metrics.json", result)
    return result


def L_con_floor(settings: systems.Settings, positive_fraction: float | None) -> float | None:
    """The least value of L_con on free unit vectors at this fraction of positive pairs; None without L_con.

    Only the paper's loss has this floor, with W of Eq. (5) or the identity; other variants have None.
    """
    if positive_fraction is None or settings.contrastive not in ("paper", "identity"):
        return None
    alpha_n, K = settings.alpha * len(paper.GROUPS), len(paper.CLASSES)
    return theory.contrastive_floor(alpha_n, K, positive_fraction).L_con


# --------------------------------------------------------------------------------------------------- config.json


def read_config(run: str | Path) -> dict:
    """A run's config.json. Errors: ValueError if it is not one, or of a system that does not exist."""
    path = Path(run) / "config.json"
    config = files.read_json(path)
    keys = ("bplcz_ref", "system", "settings", "dtype", "data")
    if not isinstance(config, dict) or not all(key in config for key in keys):
        raise ValueError(f"{path} does not belong to a run: expected an object with {', '.join(keys)}")
    if config["system"] not in systems.SYSTEMS:
        raise ValueError(f"{path}: system is {config['system']!r}; expected one of {', '.join(systems.SYSTEMS)}")
    return config


def settings_of(run: str | Path, config: dict) -> systems.Settings:
    """The settings in a run's config.json. Errors: ValueError if a version with other settings wrote them."""
    differs = set(config["settings"]) ^ set(systems.Settings._fields)
    if differs:
        raise ValueError(
            f"{run} was written by bplcz_ref {config['bplcz_ref']}, whose settings differ from this one's in "
            f"{', '.join(sorted(differs))}: train it again"
        )
    return systems.Settings(**config["settings"])


# ----------------------------------------------------------------------------------------------------- log.jsonl


def write_log(run: Path, row: dict) -> None:
    """Put `row` at its place; rows that a killed run wrote after its last checkpoint are replaced."""
    rows = [old for old in read_log(run) if old["epoch"] < row["epoch"]] + [row]
    files.write_text(run / "log.jsonl", "".join(json.dumps(r, allow_nan=False) + "\n" for r in rows))


def read_log(run: str | Path) -> list[dict]:
    """The rows of a run's log.jsonl, oldest first; none if there is no such file yet."""
    path = Path(run) / "log.jsonl"
    if not path.exists():
        return []
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}, line {number}: not valid JSON ({error})") from None
    return rows


# ------------------------------------------------------------------------------------------------ checkpoint.npz


def save_checkpoint(run: Path, at: Progress) -> None:
    """Write all of `at`, whole: until then the last checkpoint stays."""
    arrays = {"step": np.array(at.step), "sums": np.array([at.sums[name] for name in SUMS])}
    arrays |= {"statistics/mean": at.statistics.mean, "statistics/std": at.statistics.std}
    for part in ("params", "velocity", "state"):
        arrays |= {f"{part}/{name}": leaf for name, leaf in weights.named(getattr(at, part) or {}).items()}
    with files.whole(run / "checkpoint.npz") as temporary, open(temporary, "wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]


def load_checkpoint(
    run: str | Path, network: model.Model, settings: systems.Settings, dtype: str
) -> Progress | None:
    """Progress as saved, or None without a checkpoint. Errors: ValueError if it is damaged or does not fit."""
    path = Path(run) / "checkpoint.npz"
    if not path.exists():
        return None
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = dict(file)
    except (OSError, ValueError, zipfile.BadZipFile, EOFError) as error:
        raise ValueError(f"{path} cannot be read ({error}): remove it to begin the run anew") from None
    lacking = [name for name in ("step", "sums", "statistics/mean", "statistics/std") if name not in arrays]
    if lacking or len(arrays["sums"]) != len(SUMS):
        what = f"has no {', '.join(lacking)}" if lacking else "is of another version"
        raise ValueError(f"{path} {what}: remove it to begin the run anew")

    def part(name):
        return {key.removeprefix(f"{name}/"): a for key, a in arrays.items() if key.startswith(f"{name}/")}

    params, state = network.init(stream(settings.seed, "init"), np.dtype(dtype))
    velocity = part("velocity")
    return Progress(
        step=int(arrays["step"]),
        sums=dict(zip(SUMS, arrays["sums"].tolist(), strict=True)),
        params=weights.like(params, part("params"), f"{path} (params)"),
        velocity=weights.like(params, velocity, f"{path} (velocity)") if velocity else None,
        state=weights.like(state, part("state"), f"{path} (state)"),
        statistics=standardise.Statistics(**part("statistics"), clip_sen1=settings.clip_sen1),
    )


# ------------------------------------------------------------------------------------------------- confusion.csv

IDS = [name for name, _ in paper.CLASSES]
HEADER = ["truth \\ predicted", *IDS]


def write_confusion(run: Path, C: np.ndarray) -> None:  # (17, 17)
    """Write the counts: rows the truth, columns the prediction."""
    lines = [HEADER, *([name, *map(str, counts)] for name, counts in zip(IDS, C.tolist(), strict=True))]
    files.write_text(run / "confusion.csv", "".join(",".join(line) + "\n" for line in lines))


def read_confusion(run: str | Path) -> np.ndarray:  # -> (17, 17)
    """The counts of a run's confusion.csv. Errors: ValueError if it is not there or not such a matrix."""
    path = Path(run) / "confusion.csv"
    if not path.exists():
        raise ValueError(f"{path}: there is no such file; it appears when the run is complete")
    header, *lines = [line.split(",") for line in path.read_text(encoding="utf-8").splitlines() or [""]]
    if header != HEADER or [line[0] for line in lines] != IDS:
        raise ValueError(f"{path}: expected the header '{', '.join(HEADER)}', then a row for each class")
    try:
        C = np.array([[int(cell) for cell in line[1:]] for line in lines])
        metrics.overall_accuracy(C)  # ValueError for what is not a matrix of counts
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return C


# -------------------------------------------------------------------------------------------------- metrics.json


def complete(run: str | Path) -> bool:
    """Whether a run has ended."""
    return (Path(run) / "metrics.json").exists()


def read_metrics(run: str | Path) -> dict:
    """The result of a complete run, as `finish` wrote it."""
    return files.read_json(Path(run) / "metrics.json")

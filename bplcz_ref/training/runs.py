"""A run folder: its five files, each with one writer and one reader.

config.json     what was asked: system, settings, dtype, data; written first
log.jsonl       a line per epoch: losses, accuracy, seconds
checkpoint.npz  everything that a resumption needs
confusion.csv   the confusion matrix on the test part
metrics.json    the result; written last, so its presence says that the run is complete

checkpoint.npz and metrics.json hold the digest of the config.json that they belong to: files of another run, and a
config.json that was edited, are refused.
"""

import hashlib
import json
from pathlib import Path
from typing import NamedTuple

import numpy as np

from bplcz_ref import __version__, metrics, model, paper, program, systems
from bplcz_ref.data import so2sat, standardise
from bplcz_ref.data.so2sat import Patches
from bplcz_ref.data.streams import stream
from bplcz_ref.storage import files, weights
from bplcz_ref.training.progress import NO_SUMS, SUMS
from bplcz_ref.training.split import Split

PROBED = 16  # rows, spread over a file, whose pixels are compared to tell two files apart
# Another version, or place of a file, is no other run.
FREE = ("bplcz_ref", "data.path", "data.test.path", "data.validation.path", "data.geo", "settings.vocabulary")
KEYS = {"bplcz_ref", "system", "settings", "dtype", "vocabulary", "data"}
EDITED = "belongs to another config.json than the one beside it, which was edited or exchanged: restore"


class Checkpoint(NamedTuple):
    """How far a run has come: all that the next step depends on, and the sums of the current epoch."""

    params: dict
    state: dict
    statistics: standardise.Statistics
    trained_on: np.ndarray  # (training rows,) uint64, their so2sat.digests
    velocity: dict | None = None  # before the first step
    step: int = 0
    sums: dict = NO_SUMS


# ------------------------------------------------------------------------------------------------- a run's life


def describe(
    patches: Patches, system: str, parts: Split, dtype: str, geo: str | Path | None, **others: Patches | None
) -> dict:
    """What config.json holds: enough to see whether a run folder belongs to what is asked now.

    others: the open files `test` and `validation`, or None.
    """
    return {
        "bplcz_ref": __version__,
        "system": system,
        "settings": parts.settings._asdict(),
        "dtype": str(np.dtype(dtype)),
        "vocabulary": systems.vocabulary_digest(system, parts.settings),
        "data": {
            **one_file(patches),
            **{name: None if file is None else one_file(file) for name, file in others.items()},
            "geo": None if geo is None else str(Path(geo).resolve()),
            "split": {
                "from": parts.origin,
                "cities": parts.cities,
                "twins": parts.twins,
                "training": len(parts.training),
                "test": len(parts.test),
                "training_rows": files.digest(parts.training),
                "test_rows": files.digest(parts.test),
            },
            "simulated": any(file.simulated for file in (patches, *others.values()) if file is not None),
        },
    }


def one_file(patches: Patches) -> dict:
    """What config.json notes of a file: its place, and digests of all labels and of the pixels of PROBED rows."""
    probed = patches.images(so2sat.spread_rows(len(patches), PROBED), np.float64)
    own = {"labels": files.digest(patches.labels), "pixels": files.digest(probed)}
    return {"path": str(Path(patches.path).resolve()), "samples": len(patches), **own}


def same_data(config: dict, patches: Patches) -> bool:
    """Whether a run's test part is of this file, wherever it is now."""
    noted = test_file(config)
    return all(noted[name] == found for name, found in one_file(patches).items() if name != "path")


def test_file(config: dict) -> dict:
    """What config.json notes of the file that a run's test part is of."""
    return config["data"]["test"] or config["data"]


def split_label(config: dict) -> str:
    """What a run's split is called beside every accuracy, since those of different splits do not compare.

    >>> split_label({"data": {"split": {"from": "city", "cities": ["Jena", "Ulm"], "twins": []}}})
    'city split, 2 cities left out'
    """
    origin, cities, twins = (config["data"]["split"][name] for name in ("from", "cities", "twins"))
    copies = f", {len(twins)} {'copy' if len(twins) == 1 else 'copies'} of training rows left out" * bool(twins)
    return {
        "official": "official separate files" + copies,
        "file": "the subset's own random split",
        "random": "random split",
        "city": f"city split, {len(cities)} {'city' if len(cities) == 1 else 'cities'} left out",
    }[origin]


def counted(config: dict) -> dict:
    """{dotted name: value} of what makes a run another run."""
    return {name: value for name, value in weights.named(config).items() if name not in FREE}


def identity(config: dict) -> str:
    """The SHA-256 of what makes a run another run: where its files are may be edited in config.json, no more.

    At a constant rate a run of more epochs begins as one of fewer, so their number is left out then.
    """
    found = counted(config)
    if config["settings"]["schedule"] == "constant":
        del found["settings.epochs"]
    return hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()


def claim(run: Path, config: dict, resume: bool) -> dict | None:
    """None if there is work to do in `run`, or the metrics of a complete run.

    Errors: ValueError if the folder holds another run, or a run at all with resume=False.
    """
    if not (run / "config.json").exists():
        others = ("checkpoint.npz", "log.jsonl", "confusion.csv", "metrics.json")
        if left := [name for name in others if (run / name).exists()]:
            raise ValueError(
                f"{run} has {left[0]} without config.json, so it is not clear which run it belongs to:"
                " name another folder"
            )
        return None
    if not resume:
        raise ValueError(
            f"{run} holds a run already: `{program('train', '--resume', run)}` goes on with it, or name another"
        )
    there = read_config(run)
    old, new = counted(there), counted(config)
    differs = [name for name in (old | new) if old.get(name) != new.get(name)]
    if differs == ["settings.epochs"]:
        prolong(run, there, config)
    elif differs:
        said = [f"{name} is {old.get(name)!r} there and {new.get(name)!r} now" for name in differs]
        raise ValueError(f"{run} holds another run: {'; '.join(said)}. Name another folder")
    return read_metrics(run) if complete(run) else None


def prolong(run: Path, there: dict, config: dict) -> None:
    """Let a run have another number of epochs, more than it has finished; what was its result goes.

    Errors: ValueError for no more epochs than are done, and under a schedule, whose rate depends on their number.
    """
    done, old, new = len(read_log(run)), there["settings"]["epochs"], config["settings"]["epochs"]
    if config["settings"]["schedule"] != "constant":
        raise ValueError(
            f"{run} has a {config['settings']['schedule']} rate over {old} epochs, so {new} epochs are another run"
            " from the first step on: train it in another folder"
        )
    if new <= done:
        raise ValueError(f"{run} has {done} epochs already; ask for more than that, not for {new}")
    for name in ("metrics.json", "confusion.csv"):  # in this order a kill leaves a run that can be resumed
        (run / name).unlink(missing_ok=True)
    files.write_json(run / "config.json", config)


def finish(run: Path, config: dict, parameters: int, C: np.ndarray) -> dict:  # (17, 17)
    """Write confusion.csv, then metrics.json, which says what the files beside it say; returns the metrics."""
    rows, asked = read_log(run), config["settings"]["epochs"]
    if len(rows) != asked:
        raise ValueError(f"{run / 'log.jsonl'} has {len(rows)} of {asked} epochs: restore it, or train again")
    result = {
        "system": config["system"],
        "preset": config["settings"]["preset"],
        "data_simulated": config["data"]["simulated"],
        "split": split_label(config),
        "config": identity(config),
        "settings": config["settings"],
        **metrics.summary(C),
        "training_samples": config["data"]["split"]["training"],
        "test_samples": int(C.sum()),
        "parameters": parameters,
        "training_seconds": sum(row["seconds"] for row in rows),
        "last_epoch": rows[-1],
    }
    write_confusion(run, C)
    files.write_json(run / "metrics.json", result)
    return result


# ------------------------------------------------------------------------------------------ readers and writers


def read_config(run: str | Path) -> dict:
    """A run's config.json. Errors: ValueError if it is not one, or a version with other settings wrote it."""
    path = Path(run) / "config.json"
    config = files.read_json(path)
    with files.reading(path):
        asked = config["settings"]
        if differs := (config.keys() ^ KEYS) | (asked.keys() ^ set(systems.Settings._fields)):
            raise ValueError(
                f"{path} was written by bplcz_ref {config['bplcz_ref']}, whose settings differ from this one's in"
                f" {', '.join(sorted(differs))}: train the run again"
            )
        systems.registered(config["system"], asked["contrastive"], str(path))
        systems.check(settings_of(config), config["system"])
    return config


def settings_of(config: dict) -> systems.Settings:
    """The settings in a run's config.json."""
    return systems.Settings(**config["settings"])


def write_log(run: Path, row: dict) -> None:
    """Put `row` at its place; rows that a killed run wrote after its last checkpoint are replaced."""
    rows = [old for old in read_log(run) if old["epoch"] < row["epoch"]] + [row]
    files.write_text(run / "log.jsonl", "".join(json.dumps(r, allow_nan=False) + "\n" for r in rows))


def read_log(run: str | Path) -> list[dict]:
    """The rows of a run's log.jsonl, one per epoch from the first on; none if there is no such file yet."""
    path = Path(run) / "log.jsonl"
    if not path.exists():
        return []
    with files.reading(path):
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        if [row["epoch"] for row in rows] != list(range(1, len(rows) + 1)):
            raise ValueError("expected a line for each epoch from 1 on")
    return rows


def save_checkpoint(run: Path, config: dict, at: Checkpoint) -> None:
    """Write all of `at`, whole: until then the last checkpoint stays."""
    arrays = {
        "config": np.frombuffer(bytes.fromhex(identity(config)), np.uint8),
        "step": np.array(at.step, np.int64),
        "sums": np.array([at.sums[name] for name in SUMS]),
        "statistics/mean": at.statistics.mean,
        "statistics/std": at.statistics.std,
        "trained_on": at.trained_on,
    }
    for key in ("params", "velocity", "state"):
        arrays |= {f"{key}/{name}": leaf for name, leaf in weights.named(getattr(at, key) or {}).items()}
    with files.whole(run / "checkpoint.npz") as temporary, open(temporary, "wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]


def load_checkpoint(run: str | Path, network: model.Model, config: dict) -> Checkpoint | None:
    """What was saved, or None without a checkpoint. Errors: ValueError if it is damaged or does not fit."""
    path = Path(run) / "checkpoint.npz"
    if not path.exists():
        return None
    advice = "restore the file from a copy; without one, train again in another folder"
    with files.reading(path, advice):
        arrays = files.read_npz(path, advice)
        if arrays["config"].tobytes().hex() != identity(config):
            raise ValueError(f"{path} {EDITED} that, or train again in another folder")
        params, state = network.init(stream(config["settings"]["seed"], "init"), np.dtype(config["dtype"]))

        def like(name, tree):
            own = {key.removeprefix(f"{name}/"): a for key, a in arrays.items() if key.startswith(f"{name}/")}
            return weights.like(tree, own, name)

        return Checkpoint(
            step=int(arrays["step"]),
            sums=dict(zip(SUMS, arrays["sums"].tolist(), strict=True)),
            params=like("params", params),
            velocity=like("velocity", params) if arrays["step"] else None,
            state=like("state", state),
            statistics=standardise.Statistics(
                arrays["statistics/mean"], arrays["statistics/std"], config["settings"]["clip_sen1"]
            ),
            trained_on=arrays["trained_on"],
        )


IDS = [name for name, _ in paper.CLASSES]


def write_confusion(run: Path, C: np.ndarray) -> None:  # (17, 17)
    """Write the counts: rows the truth, columns the prediction."""
    rows = [["truth \\ predicted", *IDS], *([name, *map(str, n)] for name, n in zip(IDS, C.tolist(), strict=True))]
    files.write_text(run / "confusion.csv", "".join(",".join(row) + "\n" for row in rows))


def read_confusion(run: str | Path) -> np.ndarray:  # -> (17, 17)
    """The counts of a run's confusion.csv. Errors: ValueError if it is not there or not such a matrix."""
    path, K = Path(run) / "confusion.csv", len(IDS)
    if not path.exists():
        raise ValueError(f"{path}: there is no such file; it appears when the run is complete")
    with files.reading(path):
        rows = [line.split(",")[1:] for line in path.read_text(encoding="utf-8").splitlines()[1:]]
        return np.array(rows).astype(np.int64).reshape(K, K)


def complete(run: str | Path) -> bool:
    """Whether a run has ended."""
    return (Path(run) / "metrics.json").exists()


def read_metrics(run: str | Path) -> dict:
    """The result of a complete run. Errors: ValueError if it does not belong to the config.json beside it."""
    path = Path(run) / "metrics.json"
    result, config = files.read_json(path), read_config(run)  # which names a part that is not registered
    with files.reading(path):
        epochs = config["settings"]["epochs"]  # which the identity may leave out
        if result["config"] != identity(config) or result["last_epoch"]["epoch"] != epochs:
            raise ValueError(
                f"{path} {EDITED} it, or remove metrics.json and call `{program('train', '--resume', run)}`,"
                " which evaluates the checkpoint again"
            )
    return result

"""A run folder: its five files, each with one writer and one reader, here or in checkpoint.py.

config.json     what was asked: system, settings, dtype, data; written first
log.jsonl       a line per epoch: losses, accuracy, seconds
checkpoint.npz  everything that a resumption needs (checkpoint.py)
confusion.csv   the confusion matrix on the test part
metrics.json    the result; written last, so its presence says that the run is complete

Each reader checks names, types and ranges. checkpoint.npz and metrics.json hold the digest of the config.json that
they belong to, so files of another run, and a config.json that was edited, are refused.
"""

import hashlib
import json
import os
from pathlib import Path

import numpy as np

from bplcz_ref import __version__, files, metrics, paper, program, schema, systems, weights
from bplcz_ref.data import so2sat
from bplcz_ref.data.so2sat import Patches
from bplcz_ref.training import split

PROBED = 16  # rows, spread over a file, whose pixels are compared to tell two files apart
# Another version, or place of a file, is no other run.
FREE = ("bplcz_ref", "data.path", "data.test.path", "data.validation.path", "data.geo", "settings.vocabulary")

# ------------------------------------------------------------------------------------------- what each file holds

FILE = {"path": schema.PATH, "samples": schema.whole(1), "labels": schema.DIGEST, "pixels": schema.DIGEST}
CONFIG = {
    "bplcz_ref": schema.TEXT,
    "system": schema.TEXT,
    "settings": systems.SETTINGS,
    "dtype": schema.one_of(("float32", "float64")),
    "vocabulary": schema.optional(schema.DIGEST),
    "data": {
        **FILE,
        "test": schema.optional(FILE),  # official files that are not the training part's
        "validation": schema.optional(FILE),
        "geo": schema.optional(schema.PATH),
        "split": {
            "from": schema.one_of(("official", "file", "random", "city")),
            "cities": [schema.TEXT],  # left out for the test
            **dict.fromkeys(("training", "test"), schema.whole(1)),
            **dict.fromkeys(("training_rows", "test_rows"), schema.DIGEST),
        },
        "simulated": schema.BOOLEAN,
    },
}
SHARE = schema.number(0, 1)
ROW = {
    "epoch": schema.whole(1),
    "L": schema.number(),
    **dict.fromkeys(("L_cls", "seconds"), schema.number(0)),
    "training_accuracy": SHARE,
    **dict.fromkeys(("L_con", "S_positive", "S_negative"), schema.optional(schema.number())),
    **dict.fromkeys(("validation_accuracy", "positive_fraction"), schema.optional(SHARE)),
    "L_con_floor": schema.optional(schema.number(0)),
}
METRICS = {
    "system": schema.TEXT,
    "preset": schema.one_of(systems.PRESETS),
    "data_simulated": schema.BOOLEAN,
    "split": schema.TEXT,
    "config": schema.DIGEST,
    "settings": systems.SETTINGS,
    **dict.fromkeys(("overall_accuracy", "average_accuracy", "macro_f1"), SHARE),
    "kappa": schema.optional(schema.number(-1, 1)),
    **dict.fromkeys(("samples", "training_samples", "test_samples", "parameters"), schema.whole(1)),
    "training_seconds": schema.number(0),
    "last_epoch": ROW,
}


# ------------------------------------------------------------------------------------------------- a run's life


def describe(
    patches: Patches,
    system: str,
    settings: systems.Settings,
    dtype: str,
    *,
    tested: Patches | None = None,
    validation: Patches | None = None,
    geo: str | Path | None = None,
) -> dict:
    """What config.json holds: enough to see whether a run folder belongs to what is asked now."""
    training, test = split.parts(patches, settings, tested)
    opened = [found for found in (patches, tested, validation) if found is not None]
    return {
        "bplcz_ref": __version__,
        "system": system,
        "settings": settings._asdict(),
        "dtype": str(np.dtype(dtype)),
        "vocabulary": systems.vocabulary_digest(system, settings),
        "data": {
            **one_file(patches),
            "test": None if tested is None else one_file(tested),
            "validation": None if validation is None else one_file(validation),
            "geo": None if geo is None else str(Path(geo).resolve()),
            "split": {
                "from": split.origin(patches, settings, tested),
                "cities": split.held_out(patches, settings),
                "training": len(training),
                "test": len(test),
                "training_rows": files.digest(training),
                "test_rows": files.digest(test),
            },
            "simulated": any(found.simulated for found in opened),
        },
    }


def one_file(patches: Patches) -> dict:
    """What config.json notes of a file."""
    return {"path": str(Path(patches.path).resolve()), "samples": len(patches), **content(patches)}


def content(patches: Patches) -> dict:
    """What tells a file from another one: digests of all labels, and of the pixels of PROBED rows."""
    probed = patches.images(so2sat.spread_rows(len(patches), PROBED), np.float64)
    return {"labels": files.digest(patches.labels), "pixels": files.digest(probed)}


def same_data(config: dict, patches: Patches) -> bool:
    """Whether a run's test part is of this file, wherever it is now."""
    return content(patches).items() <= test_file(config).items()


def test_file(config: dict) -> dict:
    """What config.json notes of the file that a run's test part is of: path, samples, labels, pixels."""
    return config["data"]["test"] or config["data"]


def split_label(config: dict) -> str:
    """What a run's split is called beside its figures."""
    found = config["data"]["split"]
    return split.label(found["from"], len(found["cities"]))


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
        for name in ("checkpoint.npz", "log.jsonl", "confusion.csv", "metrics.json"):
            if (run / name).exists():
                raise ValueError(
                    f"{run} has {name} without config.json, so it is not clear which run it belongs to:"
                    " name another folder"
                )
        return None
    if not resume:
        raise ValueError(
            f"{run} holds a run already: `{program()} train --resume {run}` goes on with it, or name another"
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
        if (run / name).exists():
            os.remove(run / name)
    files.write_json(run / "config.json", config)


def finish(run: Path, config: dict, params: dict, C: np.ndarray) -> dict:
    """Write confusion.csv, then metrics.json; returns the metrics."""
    rows = read_log(run)
    asked = config["settings"]["epochs"]
    if len(rows) != asked:
        raise ValueError(f"{run / 'log.jsonl'} has {len(rows)} of {asked} epochs: restore it, or train again")
    result = result_of(config, C, rows, weights.count(params))
    write_confusion(run, C)
    files.write_json(run / "metrics.json", result)
    return result


def result_of(config: dict, C: np.ndarray, rows: list[dict], parameters: int) -> dict:  # (17, 17)
    """What metrics.json says, from what the files beside it say."""
    settings = settings_of(config)
    return {
        "system": config["system"],
        "preset": settings.preset,
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


# --------------------------------------------------------------------------------------------------- config.json


def read_config(run: str | Path) -> dict:
    """A run's config.json. Errors: ValueError if it is not one, or a version with other settings wrote it."""
    path = Path(run) / "config.json"
    config = files.read_json(path)
    if not isinstance(config, dict) or not isinstance(config.get("settings"), dict) or "bplcz_ref" not in config:
        raise ValueError(f"{path} does not belong to a run: expected an object with {', '.join(CONFIG)}")
    for found, expected in ((config, CONFIG), (config["settings"], systems.SETTINGS)):
        if differs := set(found) ^ set(expected):
            raise ValueError(
                f"{path} was written by bplcz_ref {schema.brief(config['bplcz_ref'])[1:-1]}, whose settings differ"
                f" from this one's in {schema.brief(', '.join(sorted(differs)))[1:-1]}: train the run again"
            )
    systems.registered(config["system"], config["settings"]["contrastive"], str(path))
    schema.check(config, CONFIG, str(path))
    return config


def settings_of(config: dict) -> systems.Settings:
    """The settings in a run's config.json."""
    return systems.Settings(**config["settings"])


def check_vocabulary(run: str | Path, config: dict) -> None:
    """ValueError if the merges file that a run's prompts were written in has other merges now."""
    settings = settings_of(config)
    now = systems.vocabulary_digest(config["system"], settings)
    if now != config["vocabulary"]:
        raise ValueError(
            f"{run} was trained with other merges than {settings.vocabulary or 'the bundled vocabulary'} has now:"
            f" digest {config['vocabulary']} there and {now} now. Put the right merges file in its place"
        )


# ----------------------------------------------------------------------------------------------------- log.jsonl


def write_log(run: Path, row: dict) -> None:
    """Put `row` at its place; rows that a killed run wrote after its last checkpoint are replaced."""
    rows = [old for old in read_log(run) if old["epoch"] < row["epoch"]] + [row]
    files.write_text(run / "log.jsonl", "".join(json.dumps(r, allow_nan=False) + "\n" for r in rows))


def read_log(run: str | Path) -> list[dict]:
    """The rows of a run's log.jsonl, one per epoch from the first on; none if there is no such file yet."""
    path = Path(run) / "log.jsonl"
    if not path.exists():
        return []
    rows = []
    with files.reading(path):
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            try:
                rows.append(json.loads(line))
            except ValueError as error:
                raise ValueError(f"{path}, line {number}: it is not JSON ({error})") from None
            epoch = schema.one_of([number])._replace(expected=f"{number}, as each epoch has its line")
            schema.check(rows[-1], ROW | {"epoch": epoch}, f"{path}, line {number}")
    return rows


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
    with files.reading(path):
        lines = [line.split(",") for line in path.read_text(encoding="utf-8").splitlines()]
        if lines[:1] != [HEADER] or [line[0] for line in lines[1:]] != IDS:
            raise ValueError(f"{path}: expected the header '{', '.join(HEADER)}', then a row for each class")
        for name, *cells in lines[1:]:
            if len(cells) != len(IDS) or not all(cell.isdecimal() for cell in cells):
                raise ValueError(
                    f"{path}: row {name} is {schema.brief(','.join(cells))}; expected {len(IDS)} counts"
                )
        return np.array([line[1:] for line in lines[1:]]).astype(np.int64)


# -------------------------------------------------------------------------------------------------- metrics.json


def complete(run: str | Path) -> bool:
    """Whether a run has ended."""
    return (Path(run) / "metrics.json").exists()


def read_metrics(run: str | Path) -> dict:
    """The result of a complete run. Errors: ValueError if it does not belong to the config.json beside it."""
    path = Path(run) / "metrics.json"
    result, config = files.read_json(path), read_config(run)  # which names a part that is not registered
    schema.check(result, METRICS, str(path))
    epochs = config["settings"]["epochs"]  # which the identity may leave out
    if result["config"] != identity(config) or result["last_epoch"]["epoch"] != epochs:
        raise ValueError(
            f"{path} belongs to another config.json than the one beside it, which was edited or exchanged: restore"
            " it, or remove metrics.json and train with --resume, which evaluates the checkpoint again"
        )
    return result

"""Settings with which a run takes a second, and what tests of run folders share."""

import shutil

import numpy as np

from bplcz_ref import __main__ as command_line
from bplcz_ref import systems
from bplcz_ref.storage import files
from bplcz_ref.training import runs

# 34 training samples: two batches of 16 and one of 2
TINY = systems.SMALL._replace(
    width=1, features=4, grid=16, text_width=8, text_layers=1, text_heads=1,
    epochs=2, per_class=2, test=40, batch=16,
)  # fmt: skip
NAMES = ["ebcnn", "ebcnn-bplcz"]


def call(*words):
    """The exit code of a command, argparse's own too."""
    try:
        return command_line.main([str(word) for word in words])
    except SystemExit as stop:
        return stop.code


def quiet(line):
    pass


def bits(run):
    """The arrays of a run's checkpoint, without the seconds it took."""
    with np.load(run / "checkpoint.npz", allow_pickle=False) as file:
        return {name: value.tobytes() for name, value in file.items() if name != "sums"}


def copied(run, folder, **changes):
    """A run folder copied, as if it had been trained with other settings, system or entries of `data`."""
    shutil.copytree(run, folder)
    config = files.read_json(folder / "config.json")
    for name, value in changes.items():
        config = edited(config, name, value)
    files.write_json(folder / "config.json", config)
    parameters = files.read_json(run / "metrics.json")["parameters"]
    runs.finish(folder, config, parameters, runs.read_confusion(run))
    rewritten(folder, config=np.frombuffer(bytes.fromhex(runs.identity(config)), np.uint8))
    return folder


def edited(config, name, value):
    """A config with another system, setting or entry of `data`."""
    if name == "data":
        return config | {"data": config["data"] | value}
    return config | ({name: value} if name in config else {"settings": config["settings"] | {name: value}})


def rewritten(run, **arrays):
    """Exchange arrays of a checkpoint; None leaves one out."""
    with np.load(run / "checkpoint.npz", allow_pickle=False) as file:
        found = dict(file) | arrays
    np.savez(run / "checkpoint.npz", **{name: array for name, array in found.items() if array is not None})


def steady(run):
    """The rows of a run's log, without the seconds they took."""
    return [row | {"seconds": 0} for row in runs.read_log(run)]

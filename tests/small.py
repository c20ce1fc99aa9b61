"""Settings with which a run takes a second, and what tests of run folders share."""

import shutil

import numpy as np

from bplcz_ref import files, systems

# 34 training samples: two batches of 16 and one of 2
TINY = systems.SMALL._replace(
    width=1,
    features=4,
    grid=16,
    text_width=8,
    text_layers=1,
    text_heads=1,
    epochs=2,
    per_class=2,
    test=40,
    batch=16,
)
NAMES = ["ebcnn", "ebcnn-bplcz"]


def quiet(line):
    pass


def bits(run):
    """The arrays of a run's checkpoint, without the seconds it took."""
    with np.load(run / "checkpoint.npz", allow_pickle=False) as file:
        return {name: value.tobytes() for name, value in file.items() if name != "sums"}


def copied(run, folder, **changes):
    """A run folder copied, with other settings, system or data in its config.json."""
    shutil.copytree(run, folder)
    config = files.read_json(folder / "config.json")
    for name, value in changes.items():
        place = config if name in config else config["settings"]
        place[name] = value
    files.write_json(folder / "config.json", config)
    return folder

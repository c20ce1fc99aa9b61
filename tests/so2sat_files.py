"""So2Sat files written by h5py alone, and changes that spoil them: for the tests of data/."""

from pathlib import Path

import h5py
import numpy as np

REAL = Path(__file__).parent / "data" / "so2sat_validation0.h5"
N = 340


def make(path, rows=N, dtype="f8", change=None, attributes=(), **storage):
    """A file by h5py alone. Row i: sen1's channel c is (i + c / 8) / 1000, sen2's .1 + (i + c / 10) / 1000."""
    i = np.arange(rows)[:, None, None, None]
    data = {
        "sen1": (i + np.arange(8) / 8) / 1000 + np.zeros((rows, 32, 32, 1)),
        "sen2": 0.1 + (i + np.arange(10) / 10) / 1000 + np.zeros((rows, 32, 32, 1)),
        "label": np.eye(17)[np.arange(rows) % 17],
    }
    data["sen1"][:, 3, 5, 2] = -np.arange(rows)  # one pixel tells rows from columns
    data["sen2"][:, 0, 0] += 0.01  # no row is constant
    if change:
        change(data)
    with h5py.File(path, "w") as file:
        for name, values in data.items():
            file.create_dataset(name, data=values.astype(dtype), **storage)
        file.attrs.update(attributes)
    return data


def setting(key, where, value):
    return lambda data: data[key].__setitem__(where, value)


def replacing(key, f):
    return lambda data: data.update({key: f(data[key])})


def swap(data):
    data["sen1"], data["sen2"] = data["sen2"], data["sen1"]


def part(path, source, rows=slice(None), dtype=None):
    """Some rows of a file as a file of its own."""
    with h5py.File(source) as whole, h5py.File(path, "w") as file:
        for name in whole:
            file[name] = whole[name][rows].astype(dtype or whole[name].dtype)
    return path

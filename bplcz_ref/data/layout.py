"""So2Sat LCZ42's layout, and every check of a file or an argument against it.

`sen1` (N, 32, 32, 8), `sen2` (N, 32, 32, 10), `label` (N, 17) one-hot: float64 as published, float32 in copies.

Index letters: N rows of a file, b rows asked for, K = 17 classes.
"""

import math
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from bplcz_ref import files
from bplcz_ref.paper import CHANNELS, CLASSES, PATCH
from bplcz_ref.schema import brief

SHAPES = {name: (PATCH, PATCH, channels) for name, channels in CHANNELS.items()}
K = len(CLASSES)
INTENSITIES = slice(4, 6)  # sen1's Lee-filtered intensities
LABEL_ROWS = 65536  # read at a time
LARGEST = 1e10  # of a value's size: the brightest reflectors stay below 1e7, 16-bit amplitudes squared below 5e9


def class_name(k: int) -> str:
    """The name of class k, as in '10 heavy industry'."""
    return " ".join(CLASSES[k])


# ------------------------------------------------------------------------------------------------ arguments


def check_classes(name: str, y: np.ndarray, least: int = 0) -> None:  # (b,)
    """ValueError unless y holds class numbers, `least` or more of them."""
    if y.ndim != 1 or y.dtype.kind not in "iu" or len(y) < least or (y.size and not 0 <= y.min() <= y.max() < K):
        raise ValueError(
            f"{name} is {y.dtype} {y.shape}; expected class numbers 0..{K - 1}, (N,) with N >= {least}"
        )


def row_numbers(index: np.ndarray, N: int, path: str | Path) -> np.ndarray:  # (b,) -> (b,) int64
    """`index` as int64, or ValueError unless it is a list of row numbers of the file."""
    index = np.asarray(index)
    if index.ndim != 1 or (index.size and index.dtype.kind not in "iu"):
        raise ValueError(
            f"index is {index.dtype} {index.shape}; expected a list of row numbers (for one row, [row]; for a"
            " mask, numpy.flatnonzero(mask))"
        )
    if bad := [n for n in index.tolist() if not 0 <= n < N]:
        raise ValueError(f"index holds {bad[0]}; {path} has rows 0 to {N - 1}")
    return index.astype(np.int64)


def check_piece(where: str, sen1: np.ndarray, sen2: np.ndarray, y: np.ndarray | None, dtype: np.dtype) -> None:
    """ValueError unless these are b sound rows of `dtype`, and y their class numbers or None: to be written."""
    if y is not None:
        check_classes(f"{where}: y", y)
    for name, values in (("sen1", sen1), ("sen2", sen2)):
        expected = (len(sen1 if y is None else y), *SHAPES[name])
        if values.shape != expected or values.dtype != dtype or dtype.kind != "f":
            raise ValueError(f"{where}: {name} is {values.shape} {values.dtype}; expected {expected} {dtype}")
        if bad := first_absurd(values):
            b, i, j, c = bad
            raise ValueError(
                f"{where}: {name} holds values that are not finite or beyond {LARGEST:g}, first {values[bad]} in"
                f" its row {b}, channel {c}, pixel ({i}, {j})"
            )


def first_absurd(x: np.ndarray) -> tuple | None:  # (b, ...) -> its place in x
    """The place of the first value that is no measurement: not finite, or beyond LARGEST; None if there is none.

    One value of 1e300 makes every mean and deviation of its channel useless.

    >>> first_absurd(np.array([[1.0, -3e4], [0.0, 1e300]]))
    (1, 1)
    """
    if not x.size or (x.min() >= -LARGEST and x.max() <= LARGEST):  # false for NaN too
        return None
    return tuple(int(n) for n in np.unravel_index(np.argmin(np.abs(x) <= LARGEST), x.shape))


# ----------------------------------------------------------------------------------------------------- files


def datasets(path: Path, file: h5py.File, labels: bool) -> dict[str, h5py.Dataset]:
    """The file's data sets; ValueError unless names, shapes and dtypes are So2Sat's and all values are stored."""
    shapes: dict[str, tuple] = SHAPES | {"label": (K,)} if labels else SHAPES
    sets = {key: file[key] for key in shapes if isinstance(file.get(key), h5py.Dataset)}
    if missing := [key for key in shapes if key not in sets]:
        hint = "; BP-LCZ fuses both sensors: the file needs sen1's 8 SAR channels too" * (missing == ["sen1"])
        raise ValueError(f"{path}: no data set {', '.join(missing)}; found {brief(sorted(map(str, file)))}{hint}")
    found: dict[str, tuple] = {key: data.shape or () for key, data in sets.items()}
    if found["sen1"][1:] == SHAPES["sen2"] and found["sen2"][1:] == SHAPES["sen1"]:
        raise ValueError(f"{path}: sen1 has 10 channels and sen2 has 8: the two are swapped")
    for key, shape in shapes.items():
        if len(found[key]) != len(shape) + 1 or found[key][1:] != shape:
            expected = ", ".join(map(str, shape))
            raise ValueError(
                f"{path}: {key} has shape {found[key]}; expected (N, {expected}){_layout_hint(found[key], shape)}"
            )
        if sets[key].dtype.kind != "f" or sets[key].dtype.itemsize not in (4, 8):
            raise ValueError(f"{path}: {key} has dtype {sets[key].dtype}; expected float64 or float32")
    if len({shape[0] for shape in found.values()}) != 1 or found["sen1"][0] == 0:
        rows = ", ".join(f"{key} {shape[0]}" for key, shape in found.items())
        raise ValueError(f"{path}: rows are {rows}; expected the same number, 1 or more, in each")
    for key, data in sets.items():
        files.check_stored(data, f"{path}: {key}")
    return sets


SLOW = 8  # times as many values unpacked as used, from which a file is worth a copy


def storage(data: h5py.Dataset) -> str:
    """A sentence if rows of a data set are slow to read at random, since chunks hold parts of many, or nothing."""
    if data.chunks is None:
        return ""
    touched = math.prod(-(-n // m) * m for n, m in zip(data.shape[1:], data.chunks[1:], strict=True))
    times = data.chunks[0] * touched / math.prod(data.shape[1:])
    if times < SLOW:
        return ""
    return (
        f"is stored in chunks of {' x '.join(map(str, data.chunks))}: a row unpacks {times:.0f} times its values,"
        " which makes training slow; `subset` writes a copy that is read at once"
    )


def _layout_hint(found, shape):
    if len(shape) == 3 and found[1:] == (shape[2], *shape[:2]):
        return "; channels are first: move axis 1 to the end"
    if found[:-1] == shape[::-1]:
        return "; the axes are reversed (written column-major): reverse them"
    return ""


LABELS_DIGEST = "labels_sha256"  # attribute of files that so2sat.py writes: a damaged row can be one-hot still


def labels_digest(labels: np.ndarray) -> str:  # (N,)
    """The SHA-256 of class numbers, as hexadecimal text."""
    return files.digest(labels.astype("<i8"))


def class_numbers(path: Path, one_hot: h5py.Dataset, digest: str | None = None) -> np.ndarray:
    # (N, 17) -> (N,) int64
    """The class of every row. Errors: ValueError for a row that is not one-hot, and for another digest of all."""
    labels = np.empty(len(one_hot), np.int64)
    for start in range(0, len(one_hot), LABEL_ROWS):
        rows = one_hot[start : start + LABEL_ROWS]
        bad = np.flatnonzero(((rows == 1).sum(1) != 1) | ((rows != 0).sum(1) != 1))
        if bad.size:
            raise ValueError(
                f"{path}: label row {start + bad[0]} is {rows[bad[0]].tolist()}; expected one 1, else zeros"
            )
        labels[start : start + len(rows)] = rows.argmax(1)
    if digest is not None and not np.array_equal(digest, labels_digest(labels)):
        raise ValueError(
            f"{path}: label is not what was written with the attribute {LABELS_DIGEST}: the file is damaged. If"
            " the labels were changed on purpose, delete that attribute"
        )
    return labels


def subset_parts(path: Path, N: int, train: int | None) -> tuple[np.ndarray, np.ndarray] | None:
    """(train, test) row numbers by a subset's attribute `train_rows`; None if the file has no such attribute."""
    if train is None:
        return None
    if not isinstance(train, int | np.integer) or not 0 < train <= N:
        raise ValueError(f"{path}: attribute train_rows is {train!r}; expected a whole number, 1 to {N}")
    return np.arange(train), np.arange(train, N)


def cities(path: Path, file: h5py.File, N: int) -> np.ndarray | None:  # -> (N,) text
    """The name of each row's city, as in the *_geo.h5 files of So2Sat's fourth version; None without `city`.

    Text or whole numbers, (N,) or (N, 1), are taken, since the version's notes do not say which.
    """
    data = file.get("city")
    if data is None:
        return None
    found = np.asarray(data)
    if found.shape not in ((N,), (N, 1)) or found.dtype.kind not in "OSiu":
        raise ValueError(f"{path}: city is {found.dtype} {found.shape}; expected a name or a number for {N} rows")
    names = [value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value) for value in found.flat]
    if "" in names:
        raise ValueError(f"{path}: row {names.index('')} has no city; expected a name for each row")
    return np.array(names)


def flag(path: Path, name: str, value: Any) -> bool:
    """A yes or no that a file says of itself; ValueError for anything else, such as the text "false"."""
    if isinstance(value, bool | int | np.bool_ | np.integer) and value in (0, 1):
        return bool(value)
    raise ValueError(f"{path}: attribute {name} is {brief(value)}; expected true or false as a boolean, or 1 or 0")


# What sen2's median over some rows says, up to each bound: real scenes lie between 0.005 (water) and 1 (snow).
SCALES = (
    (3e-3, "reflectance divided by 255 or by 10000 once more", "give reflectance as published, 0 to about 1"),
    (1.5, None, None),
    (10.0, "digital numbers divided by 255", "multiply sen2 by 255 / 10000"),
    (np.inf, "digital numbers where reflectance (0 to about 1) is expected", "divide sen2 by 10000"),
)


def scale_problems(x: np.ndarray) -> list[str]:  # (b, 32, 32, 18) float64
    """What is wrong with the scale of these rows, each with its remedy; decided by medians.

    >>> x = np.full((1, 32, 32, 18), 0.1)
    >>> scale_problems(x), scale_problems(x * 1e4 / 255)
    ([], ["sen2's median is 3.922: digital numbers divided by 255; multiply sen2 by 255 / 10000"])
    """
    reflectance = np.median(x[..., CHANNELS["sen1"] :])
    problems = []
    if reflectance < 0:
        problems.append(
            f"sen2's median is {reflectance:.4g}: not reflectance (standardised already?);"
            " give values as published"
        )
    elif reflectance > 0:  # 0: never written, which `constant_channels` names
        _, what, remedy = next(scale for scale in SCALES if reflectance <= scale[0])
        problems += [f"sen2's median is {reflectance:.4g}: {what}; {remedy}"] if what else []
    intensity = min(np.median(x[..., c]) for c in range(*INTENSITIES.indices(CHANNELS["sen1"])))
    if intensity < -2:
        problems.append(
            f"sen1's filtered intensities have median {intensity:.4g}: decibels where linear values are expected;"
            " use 10 ** (dB / 10), and take the complex channels from the original"
        )
    elif intensity < 0:
        problems.append(
            f"sen1's filtered intensities have median {intensity:.4g}: an intensity cannot be negative"
            " (standardised already, or other channels?); give values as published"
        )
    return problems

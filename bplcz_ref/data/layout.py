"""So2Sat LCZ42's layout, and every check of rows, labels and data sets against it.

`sen1` (N, 32, 32, 8), `sen2` (N, 32, 32, 10), `label` (N, 17) one-hot: float64 as published, float32 in copies.
Rows that are read, written or classified pass `check_rows`; what a value may be is said in `bad_value` alone.

Index letters: N rows of a file, b some of them, K = 17 classes.
"""

import math
from pathlib import Path

import h5py
import numpy as np

from bplcz_ref import checks, files
from bplcz_ref.bands import BANDS
from bplcz_ref.paper import CHANNELS, CLASSES, PATCH
from bplcz_ref.schema import brief

SHAPES = {name: (PATCH, PATCH, channels) for name, channels in CHANNELS.items()}
K = len(CLASSES)
INTENSITIES = slice(4, 6)  # sen1's Lee-filtered intensities
LABELS_DIGEST = "labels_sha256"  # attribute of files that so2sat.py writes: a damaged row can be one-hot still
LARGEST = 1e10  # of a value's size: the brightest reflectors stay below 1e7, 16-bit amplitudes squared below 5e9
SLOW = 8  # times as many values unpacked as used, from which a file is worth a copy


# ------------------------------------------------------------------------------------------------ rows, labels


def bad_value(x: np.ndarray, rows: np.ndarray) -> str | None:  # (b, H, W, 18), (b,)
    """Words for the first value that is no measurement: not finite, or beyond LARGEST; None if there is none.

    One value of 1e300 makes every mean and deviation of its channel useless. rows: their numbers in the file.

    >>> x = np.zeros((2, 32, 32, 18))
    >>> x[1, 4, 9, 15] = 1e300
    >>> bad_value(x, [7, 11])
    'row 11, channel B8A, pixel (4, 9) is 1e+300'
    """
    if not x.size or (x.min() >= -LARGEST and x.max() <= LARGEST):  # false for NaN too
        return None
    b, i, j, c = np.unravel_index(np.argmin(np.abs(x) <= LARGEST), x.shape)
    return f"row {rows[b]}, channel {BANDS[c]}, pixel ({i}, {j}) is {x[b, i, j, c]}"


def check_rows(x: np.ndarray, rows: np.ndarray, where: object) -> None:  # (b, H, W, 18), (b,)
    """ValueError unless every value can be a measurement: of rows that are read, written or classified."""
    if bad := bad_value(x, rows):
        raise ValueError(
            f"{where}: {bad} in {x.dtype}; expected finite values, at most {LARGEST:g} in size. Leave such rows"
            " out; `inspect` counts those of a file"
        )


def check_classes(name: str, y: np.ndarray) -> np.ndarray:  # (b,) -> (b,)
    """y as an array. Errors: ValueError unless it holds class numbers, one at least."""
    return checks.labels(name, np.asarray(y), "N < K", {"K": (K, "So2Sat")})


# What a median over some rows says, up to each bound, and the remedy. Real scenes have 0.005 (water) to 1 (snow)
# in sen2; of sen1's filtered intensities the smaller median counts. 0 is never written, which `inspect` names.
AS_PUBLISHED = "give values as published"
SCALES = {
    "sen2's median is": (
        (0.0, f"not reflectance (standardised already?); {AS_PUBLISHED}"),
        (3e-3, "reflectance divided by 255 or by 10000 once more; give reflectance as published, 0 to about 1"),
        (1.5, None),
        (10.0, "digital numbers divided by 255; multiply sen2 by 255 / 10000"),
        (np.inf, "digital numbers where reflectance (0 to about 1) is expected; divide sen2 by 10000"),
    ),
    "sen1's filtered intensities have median": (
        (-2.0, "decibels where linear values are expected; use 10 ** (dB / 10), and take the complex channels from"
         " the original"),
        (0.0, "an intensity cannot be negative (standardised already, or other channels?); " + AS_PUBLISHED),
    ),
}  # fmt: skip


def scale_problems(x: np.ndarray) -> list[str]:  # (b, 32, 32, 18) float64
    """What is wrong with the scale of these rows, each with its remedy; decided by medians.

    >>> x = np.full((1, 32, 32, 18), 0.1)
    >>> scale_problems(x), scale_problems(x * 1e4 / 255)
    ([], ["sen2's median is 3.922: digital numbers divided by 255; multiply sen2 by 255 / 10000"])
    """
    reflectance = np.median(x[..., CHANNELS["sen1"] :])
    intensity = np.median(x[..., INTENSITIES].reshape(-1, 2), axis=0).min()
    problems = []
    for (subject, scales), median in zip(SCALES.items(), (reflectance, intensity), strict=True):
        says = next((words for bound, words in scales if median <= bound), None)
        if says and median != 0:
            problems.append(f"{subject} {median:.4g}: {says}")
    return problems


# --------------------------------------------------------------------------------------------------- data sets


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
        if found[key][1:] != shape:
            first = found[key][1:] == (shape[-1], *shape[:-1])
            hint = "; channels are first: move axis 1 to the end" * first
            hint += "; the axes are reversed (written column-major): reverse them" * (
                found[key][:-1] == shape[::-1]
            )
            expected = ", ".join(map(str, shape))
            raise ValueError(f"{path}: {key} has shape {found[key]}; expected (N, {expected}){hint}")
        if sets[key].dtype.kind != "f" or sets[key].dtype.itemsize not in (4, 8):
            raise ValueError(f"{path}: {key} has dtype {sets[key].dtype}; expected float64 or float32")
    if len({shape[0] for shape in found.values()}) != 1 or found["sen1"][0] == 0:
        rows = ", ".join(f"{key} {shape[0]}" for key, shape in found.items())
        raise ValueError(f"{path}: rows are {rows}; expected the same number, 1 or more, in each")
    for key, data in sets.items():
        files.check_stored(data, f"{path}: {key}")
    return sets


def storage(data: h5py.Dataset) -> str:
    """A sentence if rows of a data set are slow to read at random, since chunks hold parts of many; or nothing."""
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


def class_numbers(path: Path, one_hot: h5py.Dataset, digest: str | None) -> np.ndarray:  # (N, 17) -> (N,)
    """The class of every row. Errors: ValueError for a row that is not one-hot, and for another digest of all."""
    rows = one_hot[:]
    bad = np.flatnonzero(((rows == 1).sum(1) != 1) | ((rows != 0).sum(1) != 1))
    if bad.size:
        raise ValueError(f"{path}: label row {bad[0]} is {rows[bad[0]].tolist()}; expected one 1, else zeros")
    labels = rows.argmax(1)
    if digest is not None and not np.array_equal(digest, files.digest(labels.astype("<i8"))):
        raise ValueError(
            f"{path}: label is not what was written with the attribute {LABELS_DIGEST}: the file is damaged. If"
            " the labels were changed on purpose, delete that attribute"
        )
    return labels


def cities(path: Path, file: h5py.File, N: int) -> np.ndarray | None:  # -> (N,) text
    """The name of each row's city, as in the *_geo.h5 files of So2Sat's fourth version; None without `city`.

    Text or whole numbers, (N,) or (N, 1), are taken, since the version's notes do not say which.
    """
    if "city" not in file:
        return None
    found = np.asarray(file["city"])
    if found.shape not in ((N,), (N, 1)) or found.dtype.kind not in "OSiu":
        raise ValueError(f"{path}: city is {found.dtype} {found.shape}; expected a name or a number for {N} rows")
    names = [value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value) for value in found.flat]
    if "" in names:
        raise ValueError(f"{path}: row {names.index('')} has no city; expected a name for each row")
    return np.array(names)

"""So2Sat LCZ42's layout, and every check of rows, labels and data sets against it.

`sen1` (N, 32, 32, 8), `sen2` (N, 32, 32, 10), `label` (N, 17) one-hot: float64 as published, float32 in copies.
What makes a row useless is decided in `faults` alone.

Index letters: N rows of a file, b some of them, K = 17 classes.
"""

import math
import unicodedata
from pathlib import Path

import h5py
import numpy as np

from bplcz_ref import checks
from bplcz_ref.bands import BANDS
from bplcz_ref.paper import CHANNELS, CLASSES, PATCH
from bplcz_ref.storage import files
from bplcz_ref.storage.schema import brief

SHAPES = {name: (PATCH, PATCH, channels) for name, channels in CHANNELS.items()}
ROW = PATCH, PATCH, len(BANDS)
K = len(CLASSES)
SEN1, SEN2 = slice(CHANNELS["sen1"]), slice(CHANNELS["sen1"], None)
INTENSITIES = slice(4, 6)  # sen1's Lee-filtered intensities
LABELS_DIGEST = "labels_sha256"  # attribute of files that so2sat.py writes: a damaged row can be one-hot still
# What a value may be, by channel. sen1 reaches -5,007 and 12,702 in training.h5; the brightest reflectors stay
# below 1e7, 16-bit amplitudes squared below 5e9: so -9999 for no data is out, and what overflows sums. sen2 has
# 0.0001 to 2.8, and a processing offset adds or takes 0.1: -9999 and 65535 are out, divided by 10000 or not.
LEAST = np.array([-9998.0] * CHANNELS["sen1"] + [-0.5] * CHANNELS["sen2"])
MOST = np.array([1e10] * CHANNELS["sen1"] + [5.0] * CHANNELS["sen2"])
EXPECTED = "expected finite values: sen1 above -9999, at most 1e10; sen2 -0.5 to 5 (reflectance)"
DARK = 3e-3  # of sen2: haze alone gives 0.05 in B2
BRIGHTER = 1.25  # VH over VV, from which on they are exchanged: training.h5's means are 0.044 and 0.258
SLOW = 8  # times as many values unpacked as used, from which a file is worth a copy


def faults(x: np.ndarray, rows: np.ndarray, padding: bool = True) -> list[str]:  # (b, H, W, 18), (b,) -> b texts
    """For each row why it cannot be used: a value that is no measurement, or padding; "" for a sound row.

    No measurement: a value that is not finite or not in LEAST..MOST, an intensity that is negative all over a row,
    a row of sen2 that is darker than any water. Padding: a sensor that is constant in all its channels, a pixel of
    which a sensor has zeros alone. rows: their numbers in the file.

    >>> x = np.linspace(0, 1, 3 * 32 * 32 * 18).reshape(3, 32, 32, 18)
    >>> x[1, ..., 8:], x[2, 5, 5, 12] = 0, np.nan
    >>> faults(x, [4, 5, 6])
    ['', 'row 5, each channel of sen2 is constant (0, ...): padding?', 'row 6, channel B6, pixel (5, 5) is nan']
    """
    b, H, W, C = x.shape
    lines = x.reshape(b, H, W * C)  # the extremes over long lines first, which is fast
    least, most = lines.min(1).reshape(b, W, C).min(1), lines.max(1).reshape(b, W, C).max(1)
    bad = ~((least >= LEAST) & (most <= MOST))  # a NaN is neither
    bad[:, INTENSITIES] |= most[:, INTENSITIES] < 0
    brightest = most[:, SEN2].max(1, keepdims=True)
    bad[:, SEN2] |= (brightest > 0) & (brightest < DARK)
    found = []
    for patch, row, wrong, low, high in zip(x, rows, bad, least, most, strict=True):
        words = ""
        if wrong.any():
            words = _bad_value(patch, int(wrong.argmax()))
        elif padding:
            words = _padding(patch, low, high)
        found.append(f"row {row}, {words}" * bool(words))
    return found


def _bad_value(patch, c):  # (H, W, 18), a channel
    values = patch[..., c]
    odd = ~((values >= LEAST[c]) & (values <= MOST[c]))
    if not odd.any():
        return f"channel {BANDS[c]} is {values.min():.4g} to {values.max():.4g} at all pixels"
    i, j = np.argwhere(odd)[0]
    return f"channel {BANDS[c]}, pixel ({i}, {j}) is {values[i, j]}"


def _padding(patch, least, most):  # (H, W, 18), (18,), (18,)
    for sensor, own in (("sen1", SEN1), ("sen2", SEN2)):
        if (least[own] == most[own]).all():
            return f"each channel of {sensor} is constant ({least[own][0]:.5g}, ...): padding?"
        possible = ((least[own] <= 0) & (most[own] >= 0)).all()  # which is known at once
        if possible and (empty := (patch[..., own] == 0).all(-1)).any():
            return f"{sensor} is 0 in all channels of {empty.sum()} pixels: padding?"
    return ""


def check_rows(x: np.ndarray, rows: np.ndarray, where: object) -> np.ndarray:  # (b, H, W, 18), (b,) -> x
    """x as it is; ValueError unless every value can be a measurement: of rows that are read or written."""
    for words in filter(None, faults(x, rows, padding=False)):
        raise ValueError(
            f"{where}: {words}; {EXPECTED}: no data, or another unit (decibels, digital numbers)?"
            " `inspect` counts such rows, and `subset --skip-bad` leaves them out"
        )
    return x


def check_classes(name: str, y: np.ndarray) -> np.ndarray:  # (b,) -> (b,)
    """y as an array. Errors: ValueError unless it holds class numbers, one at least."""
    return checks.labels(name, checks.array(name, y), "N < K", {"K": (K, "So2Sat")})


# What a median over some rows says, up to each bound, and the remedy. Real scenes have 0.005 (water) to 1 (snow)
# in sen2; of sen1's filtered intensities the smaller median counts. 0 is never written, which `inspect` names.
AS_PUBLISHED = "give values as published"
SCALES = {
    "sen2's median is": (
        (0.0, f"not reflectance (standardised already?); {AS_PUBLISHED}"),
        (DARK, "reflectance divided by 255 or by 10000 once more; give reflectance as published, 0 to about 1"),
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
    """What is wrong with the scale of these rows, or VV before VH, each with its remedy; decided by medians.

    >>> x = np.full((1, 32, 32, 18), 0.1)
    >>> scale_problems(x), scale_problems(x * 1e4 / 255)
    ([], ["sen2's median is 3.922: digital numbers divided by 255; multiply sen2 by 255 / 10000"])
    """
    powers = {
        "complex values": (x[..., :4] ** 2).reshape(-1, 2, 2).sum(-1),
        "filtered intensities": x[..., INTENSITIES].reshape(-1, 2),
    }
    medians = {name: np.median(power, axis=0) for name, power in powers.items()}  # of VH and VV
    found = np.median(x[..., SEN2]), medians["filtered intensities"].min()
    problems = []
    for (subject, scales), median in zip(SCALES.items(), found, strict=True):
        says = next((words for bound, words in scales if median <= bound), None)
        if says and median != 0:
            problems.append(f"{subject} {median:.4g}: {says}")
    if swapped := [name for name, (vh, vv) in medians.items() if vh > BRIGHTER * vv > 0]:
        problems.append(
            f"sen1's VH is brighter than its VV ({' and '.join(swapped)}), which is hardly ever so: is VV first?"
            f" The order is {', '.join(BANDS[SEN1])}"
        )
    return problems


def constant_channels(x: np.ndarray) -> list[str]:  # (b, 32, 32, 18)
    """A sentence on the channels that have one value at every pixel of these rows, if there are any.

    >>> x = np.linspace(0, 1, 32 * 32 * 18).reshape(1, 32, 32, 18)
    >>> x[..., :2] = 0
    >>> constant_channels(x)
    ['constant at every pixel of the 1 rows looked at: VH re 0, VH im 0; possibly padding, or never written']
    """
    least, most = x.min((0, 1, 2)), x.max((0, 1, 2))
    named = [f"{name} {a:.5g}" for name, a, b in zip(BANDS, least, most, strict=True) if a == b]
    found = f"constant at every pixel of the {len(x)} rows looked at: {', '.join(named)}"
    return [f"{found}; possibly padding, or never written"] * bool(named)


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
        given, dtype = found[key], sets[key].dtype
        if given[1:] != shape:
            hint = ""
            if given[1:] == (shape[-1], *shape[:-1]):
                hint = "; channels are first: move axis 1 to the end"
            elif given[:-1] == shape[::-1]:
                hint = "; the axes are reversed (written column-major): reverse them"
            elif key == "label" and given in ((found["sen2"][0],), (found["sen2"][0], 1)):
                hint = "; class numbers from 0 to 16 become one-hot rows by `np.eye(17)[label.ravel()]`"
            expected = ", ".join(map(str, shape))
            raise ValueError(f"{path}: {key} has shape {given}; expected (N, {expected}){hint}")
        usual = dtype.newbyteorder("=") in (np.float32, np.float64)
        if not usual and (key != "label" or dtype.kind not in "bfiu"):
            raise ValueError(f"{path}: {key} has dtype {dtype}; expected float64 or float32: use astype")
        files.check_stored(sets[key], f"{path}: {key}")
    if len({shape[0] for shape in found.values()}) != 1 or found["sen1"][0] == 0:
        rows = ", ".join(f"{key} {shape[0]}" for key, shape in found.items())
        raise ValueError(f"{path}: rows are {rows}; expected the same number, 1 or more, in each")
    return sets


def storage(data: h5py.Dataset) -> str:
    """A sentence if rows of a data set are slow to read at random, since chunks hold parts of many; or nothing."""
    if data.chunks is None:
        return ""
    touched = math.prod(-(-n // m) * m for n, m in zip(data.shape[1:], data.chunks[1:], strict=True))
    times = data.chunks[0] * touched / math.prod(data.shape[1:])
    words = (
        f"is stored in chunks of {' x '.join(map(str, data.chunks))}: a row unpacks {times:.0f} times its values,"
        " which makes training slow; `subset` writes a copy that is read at once"
    )
    return words if times >= SLOW else ""


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

    Text or whole numbers, (N,) or (N, 1), are taken, since the version's notes do not say which. Names that differ
    in case or blanks alone are one city, spelled as in its first row.
    """
    if "city" not in file:
        return None
    found = np.asarray(file["city"])
    if found.shape not in ((N,), (N, 1)) or found.dtype.kind not in "OSiu":
        raise ValueError(f"{path}: city is {found.dtype} {found.shape}; expected a name or a number for {N} rows")
    names = [value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value) for value in found.flat]
    names = [" ".join(unicodedata.normalize("NFC", name).split()) for name in names]
    if "" in names:
        raise ValueError(f"{path}: row {names.index('')} has no city; expected a name for each row")
    first = {name.casefold(): name for name in reversed(names)}
    return np.array([first[name.casefold()] for name in names])

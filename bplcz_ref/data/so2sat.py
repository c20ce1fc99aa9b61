"""So2Sat LCZ42's HDF5 files: open, check, read by row, split, write, and take a part of one.

Native layout: `sen1` (N, 32, 32, 8), `sen2` (N, 32, 32, 10), `label` (N, 17) one-hot, float64, contiguous.
training.h5 is 52 GB: only rows that are asked for enter memory. float32, chunked and gzip copies are read too.
Refuses to repair: what is missing, mis-scaled or not finite is an error that says where, never a silent fix.

Index letters: N rows, b rows asked for, H W = 32, C channels (8 + 10 = 18, in the order of `bands.BANDS`).
"""

import contextlib
import os
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np

from bplcz_ref.bands import BANDS
from bplcz_ref.data.standardise import CHUNK, Moments
from bplcz_ref.files import whole
from bplcz_ref.paper import CHANNELS, CLASSES, PATCH
from bplcz_ref.streams import stream

SHAPES = {"sen1": (PATCH, PATCH, CHANNELS["sen1"]), "sen2": (PATCH, PATCH, CHANNELS["sen2"])}
K = len(CLASSES)


class Patches:
    """The rows of one open file: `len()`, `.labels` (N,) int64, `.simulated`, `.attributes`, `.read`, `.images`.

    `.labels` is None where the file was opened with labels=False.
    `.parts` is (train, test), two index arrays, if the file was written by `subset`; otherwise None.
    Made by `open_file`; closed with it.
    """

    def __init__(self, path, file, labels=True):
        self.path, self._data = path, {name: file[name] for name in SHAPES}
        self.attributes = dict(file.attrs)
        self.simulated = bool(self.attributes.get("simulated", False))
        self.labels = _labels(path, file["label"]) if labels else None
        self.parts = _parts(path, len(self), self.attributes.get("train_rows"))
        # Contiguous rows are read by offset: 2 to 5 times faster than through HDF5's selections.
        plain = file.userblock_size == 0 and all(
            d.chunks is None and d.external is None and not d.is_virtual for d in self._data.values()
        )
        offsets = {name: d.id.get_offset() for name, d in self._data.items()} if plain else {}
        self._offsets = offsets if offsets and None not in offsets.values() and hasattr(os, "preadv") else None
        self._descriptor = os.open(path, os.O_RDONLY) if self._offsets else None

    def __len__(self):
        return len(self._data["sen1"])

    def images(self, index, dtype=np.float32):  # (b,) -> (b, 32, 32, 18)
        """x of the rows `index`, in that order, duplicates allowed: sen1's 8 channels, then sen2's 10.

        dtype: float32 or float64. Errors: ValueError for an index that is not whole, negative or past the end;
        for a value that is not finite (in `dtype`), with its row and channel; for a file that cannot be read.
        """
        x = self._images(index, dtype)
        if not np.isfinite(x).all():
            b, i, j, c = np.argwhere(~np.isfinite(x))[0]
            raise ValueError(
                f"{self.path}: row {np.asarray(index)[b]}, channel {BANDS[c]}, pixel ({i}, {j}) is {x[b, i, j, c]}"
                f" in {x.dtype}; expected finite values. Leave the row out (`inspect` counts such rows)"
            )
        return x

    def read(self, index, dtype=np.float32):  # (b,) -> (b, 32, 32, 8), (b, 32, 32, 10)
        """sen1, sen2 of the rows `index`: the two parts of `images(index, dtype)`, as views."""
        x = self.images(index, dtype)
        return x[..., : CHANNELS["sen1"]], x[..., CHANNELS["sen1"] :]

    def _images(self, index, dtype):
        if np.dtype(dtype) not in (np.float32, np.float64):
            raise ValueError(f"dtype is {dtype}; expected float32 or float64")
        index = _rows(index, len(self), self.path)
        x = np.empty((len(index), PATCH, PATCH, len(BANDS)), dtype)
        with np.errstate(over="ignore"), _readable(self.path):  # an overflow to float32 is found as not finite
            for name, part in (("sen1", x[..., : CHANNELS["sen1"]]), ("sen2", x[..., CHANNELS["sen1"] :])):
                row_by_row = self._by_offset if self._offsets else self._by_hdf5
                row_by_row(name, index, part)
        return x

    def _by_offset(self, name, index, out):
        data = self._data[name]
        row = np.empty(SHAPES[name], data.dtype)  # one row stays in the processor's cache while it is cast
        raw, size, start = memoryview(row).cast("B"), row.nbytes, self._offsets[name]
        for j, i in enumerate(index.tolist()):
            done = 0
            while done < size:  # the system may hand over less than was asked for
                got = os.preadv(self._descriptor, [raw[done:]], start + i * size + done)
                if not got:
                    raise OSError(f"row {i} of {name} ends after {done} of {size} bytes")
                done += got
            out[j] = row

    def _by_hdf5(self, name, index, out):
        data = self._data[name]
        order = np.argsort(index, kind="stable")  # ascending: a chunk is unpacked once for all its rows
        row, last = np.empty(SHAPES[name], data.dtype), None
        for j in order:
            if index[j] != last:
                last = index[j]
                data.read_direct(row, np.s_[int(last)])
            out[j] = row

    def close(self):
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


@contextlib.contextmanager
def open_file(path, labels=True):  # -> Patches
    """Context manager: a So2Sat file, checked. Keys, shapes, one-hot labels of all rows; scale on up to 16 rows.

    labels=False: `label` is neither needed nor looked at, and `.labels` is None: patches yet to be classified.

    Errors: ValueError that names the file and what is wrong: missing, a folder, empty, not HDF5, cut short, a key
    missing, a shape (swapped sensors, channels first), labels not one-hot, digital numbers instead of reflectance,
    decibels instead of linear values.

    >>> with open_file("tests/data/so2sat_validation0.h5") as patches:
    ...     len(patches), patches.labels, patches.simulated, patches.images([0, 0]).shape
    (1, array([16]), False, (2, 32, 32, 18))
    """
    with _opened(path, labels) as patches:
        problems = _scale(patches)
        if problems:
            raise ValueError(f"{path}: {'; '.join(problems)}")
        yield patches


def split(labels, per_class, test, seed):  # (N,) -> (17 per_class,), (test,)
    """III-A: (train, test), two ascending arrays of row numbers without a common row.

    Training: exactly `per_class` rows of each class, drawn without replacement. Test: `test` rows drawn uniformly
    from all the others, hence with natural class frequencies. (Other reading: a balanced test set; the chance
    agreement implied by the OA and kappa of Tables II and III speaks against it.) Stream "split" of `seed`.
    Errors: ValueError that names the class with too few rows, and what would fit.

    >>> train, test = split(np.repeat(np.arange(17), 5), per_class=3, test=20, seed=47)
    >>> len(train), len(test), set(train) & set(test)
    (51, 20, set())
    """
    labels = np.asarray(labels)
    if (
        labels.ndim != 1
        or labels.dtype.kind not in "iu"
        or not labels.size
        or labels.min() < 0
        or labels.max() >= K
    ):
        raise ValueError(f"labels ({labels.dtype}, {labels.shape}) must be (N,) class numbers 0..{K - 1}, N >= 1")
    for name, value, least in (("per_class", per_class, 1), ("test", test, 0)):
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
            raise ValueError(f"{name} is {value!r}; expected a whole number, {least} or more")
    counts = np.bincount(labels, minlength=K)
    if counts.min() < per_class:
        k, most = int(counts.argmin()), int(counts.min())
        hint = f"per_class={most} would fit" if most else "every class needs at least one row"
        raise ValueError(
            f"class {_class(k)} has {most} rows, per_class asks for {per_class} of each class; {hint}"
            f" (classes with too few: {', '.join(CLASSES[j][0] for j in np.flatnonzero(counts < per_class))})"
        )
    if len(labels) - K * per_class < test:
        raise ValueError(
            f"test asks for {test} rows; {len(labels)} rows less {K} x {per_class} for training leave"
            f" {len(labels) - K * per_class}: ask for at most that, or for a smaller per_class"
        )
    rng = stream(seed, "split")
    rows = [rng.choice(np.flatnonzero(labels == k), per_class, replace=False) for k in range(K)]
    train = np.sort(np.concatenate(rows))
    rest = np.setdiff1d(np.arange(len(labels)), train, assume_unique=True)
    return train, np.sort(rng.choice(rest, test, replace=False))


class Inspection(NamedTuple):
    """What `inspect` found; `print` shows it. Per-channel arrays are (18,), over the `sampled` rows."""

    path: str
    rows: int = 0
    sampled: int = 0
    counts: np.ndarray | None = None
    simulated: bool = False
    attributes: dict | None = None
    mean: np.ndarray | None = None
    std: np.ndarray | None = None
    min: np.ndarray | None = None
    max: np.ndarray | None = None
    problems: tuple = ()

    def __str__(self):
        if not self.rows:  # it could not be opened: the problem names the file, and nothing else is known
            return "\n".join(f"PROBLEM {problem}" for problem in self.problems)
        lines = [f"{self.path}: {self.rows} rows, {'SIMULATED' if self.simulated else 'not marked as simulated'}"]
        if self.counts is not None:
            lines += [f"  class {_class(k):<24}{n:>8}" for k, n in enumerate(self.counts.tolist())]
            lines += [f"  {name}: {value}" for name, value in sorted(self.attributes.items())]
        if self.mean is not None:
            lines.append(
                f"  {'channel':<8}{'min':>13}{'mean':>13}{'std':>13}{'max':>13}"
                f"   {self.sampled} of {self.rows} rows looked at"
            )
            table = zip(BANDS, self.min, self.mean, self.std, self.max, strict=True)
            lines += [f"  {name:<8}" + "".join(f"{value:>13.5g}" for value in values) for name, *values in table]
        lines += [f"  PROBLEM {problem}" for problem in self.problems] or ["  no problem found"]
        return "\n".join(lines)


def inspect(path, rows=4096):  # -> Inspection
    """What is in a file, and what is wrong with it: never raises for a bad file, lists its problems instead.

    Labels are checked on all rows; channels and finiteness on at most `rows` rows spread evenly (None: all).

    >>> found = inspect("tests/data/so2sat_validation0.h5")
    >>> found.rows, found.counts[16], found.problems, round(found.mean[8], 4)
    (1, np.int64(1), (), np.float64(0.117))
    """
    try:
        with _opened(path) as patches:
            return _inspected(patches, path, rows)
    except ValueError as error:
        return Inspection(str(path), problems=(str(error),))


def write_file(path, rows, batches, attributes=None):
    """A file in the native layout from `batches`, an iterable of (sen1, sen2, y) that adds up to `rows` rows.

    y (b,) class numbers become one-hot rows; values are stored exactly, in the dtype of the first piece (float64
    is native). One piece is in memory at a time. The file appears whole or not at all; an older one is replaced.
    Errors: ValueError for a piece of another shape or dtype, not finite, or a number of rows other than `rows`.
    """
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"{path} is a folder; expected the name of a file to write")
    if rows < 1:
        raise ValueError(f"{path}: {rows} rows to write; a file needs at least one")
    with whole(path) as part, h5py.File(part, "w") as file:
        file.attrs.update(attributes or {})
        done, data = 0, None
        for piece in batches:
            sen1, sen2, y = map(np.asarray, piece)
            if data is None:
                data = {name: file.create_dataset(name, (rows, *SHAPES[name]), sen1.dtype) for name in SHAPES}
                data["label"] = file.create_dataset("label", (rows, K), sen1.dtype)
            _check_piece(path, sen1, sen2, y, data["sen1"].dtype, done, rows)
            for name, values in (("sen1", sen1), ("sen2", sen2), ("label", np.eye(K)[y])):
                data[name][done : done + len(y)] = values
            done += len(y)
        if done != rows:
            raise ValueError(f"{path}: the batches hold {done} rows, {rows} were announced")


def subset(path, out, per_class, test, seed):
    """A smaller file in the native layout: the paper's split of `path`, training rows first, then the test rows.

    Values and the width of storage are kept exactly; rows keep the source's order within each part. Attributes:
    those of the source, and `subset_of`, `train_rows`, `test_rows`, `per_class`, `seed`. Memory: CHUNK rows.
    Opened again, its `Patches.parts` gives the two parts. Errors: as `open_file`, `split` and `write`.
    """
    if Path(out).exists() and Path(path).exists() and os.path.samefile(path, out):
        raise ValueError(f"{out} is the source itself; give another name for the subset")
    with open_file(path) as patches:
        train, chosen = split(patches.labels, per_class, test, seed)
        index = np.concatenate((train, chosen))
        dtype = np.float32 if all(d.dtype.itemsize == 4 for d in patches._data.values()) else np.float64
        pieces = (index[i : i + CHUNK] for i in range(0, len(index), CHUNK))
        notes = {"subset_of": Path(path).name, "train_rows": len(train), "test_rows": len(chosen)}
        notes |= {"per_class": per_class, "seed": seed}
        batches = ((*patches.read(piece, dtype), patches.labels[piece]) for piece in pieces)
        write_file(out, len(index), batches, patches.attributes | notes)


@contextlib.contextmanager
def _readable(path):
    """Whatever HDF5 or the system says while reading becomes a ValueError that names the file."""
    try:
        yield
    except (OSError, RuntimeError, KeyError) as error:
        raise ValueError(
            f"{path}: cannot be read ({error}); it may be damaged or cut short: compare its size with the source's"
        ) from error


@contextlib.contextmanager
def _opened(path, labels=True):
    """Patches after every check of form; the scale is left to the caller."""
    path = Path(path)
    if not path.exists():
        raise ValueError(f"{path}: no such file")
    if path.is_dir():
        raise ValueError(f"{path} is a folder; give the name of one HDF5 file in it")
    if not os.access(path, os.R_OK):
        raise ValueError(f"{path}: no permission to read it; change its mode or its owner")
    with _readable(path):
        if path.stat().st_size == 0:
            raise ValueError(f"{path} is empty (0 bytes); fetch or write it again")
        if not h5py.is_hdf5(path):
            raise ValueError(f"{path} is not an HDF5 file; expected So2Sat's layout with sen1, sen2, label")
        file = h5py.File(path, "r", locking="best-effort", rdcc_nbytes=64 << 20)
    with file:
        with _readable(path):
            _check_layout(path, file, labels)
            patches = Patches(path, file, labels)
        try:
            yield patches
        finally:
            patches.close()


def _check_layout(path, file, labels):
    shapes = SHAPES | {"label": (K,)} if labels else SHAPES
    missing = [key for key in shapes if not isinstance(file.get(key), h5py.Dataset)]
    if missing:
        raise ValueError(f"{path}: no data set {', '.join(missing)}; found {sorted(file)}")
    found = {key: file[key].shape for key in shapes}
    if found["sen1"][1:] == SHAPES["sen2"] and found["sen2"][1:] == SHAPES["sen1"]:
        raise ValueError(f"{path}: sen1 has 10 channels and sen2 has 8: the two are swapped")
    for key, shape in shapes.items():
        if found[key][1:] != shape or len(found[key]) != len(shape) + 1:
            hint = ""
            if key != "label" and found[key][1:] == (shape[2], *shape[:2]):
                hint = "; channels are first: move axis 1 to the end"
            elif found[key][:-1] == shape[::-1]:
                hint = "; the axes are reversed (written column-major): reverse them"
            raise ValueError(
                f"{path}: {key} has shape {found[key]}; expected (N, {', '.join(map(str, shape))}){hint}"
            )
        if file[key].dtype.kind != "f" or file[key].dtype.itemsize not in (4, 8):
            raise ValueError(f"{path}: {key} has dtype {file[key].dtype}; expected float64 or float32")
    if len({shape[0] for shape in found.values()}) != 1 or found["sen1"][0] == 0:
        rows = ", ".join(f"{key} {shape[0]}" for key, shape in found.items())
        raise ValueError(f"{path}: rows are {rows}; expected the same number, 1 or more, in each")


def _parts(path, N, train):
    if train is None:
        return None
    if not isinstance(train, int | np.integer) or not 0 < train <= N:
        raise ValueError(f"{path}: attribute train_rows is {train!r}; expected a whole number, 1 to {N}")
    return tuple(np.split(np.arange(N), [train]))


def _labels(path, data):
    labels = np.empty(len(data), np.int64)
    for start in range(0, len(data), 65536):
        one_hot = data[start : start + 65536]
        bad = np.flatnonzero(((one_hot == 1).sum(1) != 1) | ((one_hot != 0).sum(1) != 1))
        if bad.size:
            raise ValueError(
                f"{path}: label row {start + bad[0]} is {one_hot[bad[0]].tolist()}; expected one 1, else zeros"
            )
        labels[start : start + len(one_hot)] = one_hot.argmax(1)
    return labels


def _scale(patches):
    """What is wrong with the scale of up to 16 rows spread over the file, with the remedy."""
    x = patches._images(np.unique(np.linspace(0, len(patches) - 1, 16).astype(int)), np.float64)
    optical, intensity, problems = np.median(x[..., CHANNELS["sen1"] :]), np.median(x[..., 4:6]), []
    if optical > 10:
        problems.append(
            f"sen2's median is {optical:.4g}: digital numbers where reflectance (0 to about 1) is expected;"
            " divide sen2 by 10000"
        )
    elif optical < 0:
        problems.append(
            f"sen2's median is {optical:.4g}: not reflectance (standardised already?); give values as published"
        )
    if intensity < -2:
        problems.append(
            f"sen1's filtered intensities have median {intensity:.4g}: decibels where linear values are expected;"
            " use 10 ** (dB / 10), and take the complex channels from the original"
        )
    elif intensity < 0:
        problems.append(
            f"sen1's filtered intensities have median {intensity:.4g}: an intensity cannot be negative"
            " (standardised already?); give values as published"
        )
    return problems


def _inspected(patches, path, rows):
    N = len(patches)
    index = np.arange(N) if rows is None or rows >= N else np.linspace(0, N - 1, rows).astype(int)
    moments, bad = Moments(), []
    for start in range(0, len(index), CHUNK):
        piece = index[start : start + CHUNK]
        x = patches._images(piece, np.float64)
        finite = np.isfinite(x).all(axis=(1, 2, 3))
        bad += piece[~finite].tolist()
        if finite.any():
            moments.add(x[finite])
    problems = _scale(patches)
    counts = np.bincount(patches.labels, minlength=K)
    if bad:
        problems.append(
            f"{len(bad)} of {len(index)} rows read have values that are not finite, first row {bad[0]}"
        )
    found = Inspection(
        str(path), N, len(index), counts, patches.simulated, patches.attributes, problems=tuple(problems)
    )
    if not moments.n:
        return found
    mean, std, _ = moments.statistics()
    flat = [  # by min and max, as rounding may leave a std of 1e-17
        f"channel {BANDS[c]} is {moments.min[c]:.5g} at every pixel of the {len(index)} of {N} rows looked at"
        " (std 0): it tells nothing; was it filled, or not written?"
        for c in np.flatnonzero(moments.min == moments.max)
    ]
    found = found._replace(problems=found.problems + tuple(flat))
    return found._replace(mean=mean, std=std, min=moments.min, max=moments.max)


def _rows(index, N, path):
    index = np.asarray(index)
    if index.ndim != 1:
        raise ValueError(f"index has shape {index.shape}; expected a list of row numbers (for one row, [row])")
    if index.dtype == bool:
        raise ValueError("index is boolean; give row numbers: numpy.flatnonzero(mask)")
    if index.dtype.kind not in "iu" and index.size:
        raise ValueError(f"index has dtype {index.dtype}; expected whole row numbers")
    bad = np.flatnonzero((index < 0) | (index >= N))
    if bad.size:
        raise ValueError(f"index[{bad[0]}] is {index[bad[0]]}; {path} has rows 0 to {N - 1}")
    return index.astype(np.int64)


def _check_piece(path, sen1, sen2, y, dtype, done, rows):
    where = f"{path}: the piece from row {done}"
    if y.ndim != 1 or y.dtype.kind not in "iu" or (len(y) and (y.min() < 0 or y.max() >= K)):
        raise ValueError(f"{where}: y must be (b,) class numbers 0..{K - 1}")
    for name, values in (("sen1", sen1), ("sen2", sen2)):
        if values.shape != (len(y), *SHAPES[name]) or values.dtype != dtype or dtype.kind != "f":
            raise ValueError(
                f"{where}: {name} is {values.shape} {values.dtype}; expected {(len(y), *SHAPES[name])} {dtype}"
            )
        if not np.isfinite(values).all():
            raise ValueError(f"{where}: {name} holds values that are not finite")
    if done + len(y) > rows:
        raise ValueError(f"{where} ends at row {done + len(y)}, {rows} were announced")


def _class(k):
    return f"{CLASSES[k][0]} {CLASSES[k][1]}"

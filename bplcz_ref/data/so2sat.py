"""So2Sat LCZ42's HDF5 files: open one, read rows of it, split it, write one, and take a part of one.

training.h5 is 52 GB: only the rows that are asked for enter memory. Nothing is repaired: what is missing, wrongly
scaled or not finite is an error that names the place (layout.py has the checks).

Index letters: N rows, b rows asked for, H W = 32, C channels (8 + 10 = 18, in the order of `bands.BANDS`).
"""

import hashlib
import os
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import DTypeLike

from bplcz_ref import bands, checks
from bplcz_ref.data import layout
from bplcz_ref.data.layout import ROW, SHAPES, K
from bplcz_ref.data.streams import stream
from bplcz_ref.paper import CLASSES
from bplcz_ref.storage import schema
from bplcz_ref.storage.files import HDF5_FORMAT, digest, reading, whole

CHUNK = 256  # rows in memory at a time, in walks over a file
SLICE = 16  # rows of one sensor read at once: about 1 MB, which stays in the processor's cache while it is cast
CHUNK_CACHE = 64 << 20  # bytes of unpacked chunks that HDF5 keeps
SCALE_ROWS = 16  # rows, spread over the file, whose scale is checked when it is opened
ADVICE = "it may be damaged or cut short: compare its size with the source's"
YES_OR_NO = schema.Rule("true or false as a boolean, or 1 or 0", lambda x: type(x) in (bool, int) and x in (0, 1))

# ----------------------------------------------------------------------------------------------------- reading


class Patches:
    """The rows of one open file: `len()`, `images`, and

    labels      (N,) int64, or None where they were not read
    parts       (train, test), two arrays of row numbers, if `subset` wrote the file; otherwise None
    cities      (N,) text, the city of each row, from the file itself or its *_geo.h5; otherwise None
    simulated   whether the file says that it is simulated
    attributes  {name: value}: text as str, single numbers as Python's
    storage     {sensor: words} where rows are slow to read at random
    dtype       float32 if both sensors are stored so, otherwise float64
    """

    labels: np.ndarray
    cities: np.ndarray | None
    parts: tuple[np.ndarray, np.ndarray] | None = None

    def __init__(self, path: Path, file: h5py.File, labels: bool = True) -> None:
        sets = layout.datasets(path, file, labels)
        self._data = {name: sets[name] for name in SHAPES}
        self.path = path
        self._digests: dict[int, int] = {}
        values = {name: v.item() if isinstance(v, np.generic) else v for name, v in file.attrs.items()}
        self.attributes = {n: v.decode(errors="replace") if isinstance(v, bytes) else v for n, v in values.items()}
        simulated, train = self.attributes.get("simulated", False), self.attributes.get("train_rows")
        schema.check(simulated, YES_OR_NO, f"{path}: attribute simulated")
        self.simulated = bool(simulated)
        if train is not None:
            schema.check(train, schema.whole(1, len(self)), f"{path}: attribute train_rows")
            self.parts = np.arange(train), np.arange(train, len(self))
        self.labels = None  # type: ignore[assignment]
        if labels:
            self.labels = layout.class_numbers(path, sets["label"], self.attributes.get(layout.LABELS_DIGEST))
        self.cities = layout.cities(path, file, len(self))
        self.storage = {name: words for name, data in self._data.items() if (words := layout.storage(data))}
        self.dtype = np.result_type(np.float32, *(data.dtype for data in self._data.values()))

    def __len__(self) -> int:
        return len(self._data["sen1"])

    def images(self, index: np.ndarray, dtype: DTypeLike = np.float32) -> np.ndarray:  # (b,) -> (b, 32, 32, 18)
        """x of the rows `index`, in that order, duplicates allowed: sen1's 8 channels, then sen2's 10.

        dtype: float32 or float64. Errors: ValueError for a bad row number, for a value that cannot be (with its
        row and channel), and for a file that cannot be read.
        """
        return layout.check_rows(self.stored(index, dtype), index, self.path)

    def digests(self, index: np.ndarray) -> np.ndarray:  # (b,) -> (b,) uint64
        """`digests` of the rows `index`, each of which is read once. Errors: as `images`."""
        new = np.array([row for row in np.asarray(index).tolist() if row not in self._digests], int)
        for some in chunks(new):
            self._digests |= zip(some.tolist(), digests(self.images(some)).tolist(), strict=True)
        return np.array([self._digests[row] for row in np.asarray(index).tolist()], np.uint64)

    def faults(self) -> np.ndarray:  # -> (N,) text
        """Why each row is of no use, in float64: layout.faults."""
        pieces = chunks(np.arange(len(self)))
        return np.array([words for rows in pieces for words in layout.faults(self.stored(rows, np.float64), rows)])

    def stored(self, index: np.ndarray, dtype: DTypeLike) -> np.ndarray:  # (b,) -> (b, 32, 32, 18)
        """As `images`, but values that cannot be are returned as they are."""
        index = checks.array("index", index)
        if index.ndim != 1 or (index.size and index.dtype.kind not in "iu"):
            raise ValueError(
                f"index is {index.dtype} {index.shape}; expected [row, ...] or numpy.flatnonzero(mask)"
            )
        if (outside := index[(index < 0) | (index >= len(self))]).size:
            raise ValueError(f"index holds {outside[0]}; {self.path} has rows 0 to {len(self) - 1}")
        if np.dtype(dtype) not in (np.float32, np.float64):
            raise ValueError(f"dtype is {dtype}; expected float32 or float64")
        x = np.empty((len(index), *ROW), dtype)
        # Values too large for float32 become inf, which `images` finds, like every nan.
        with np.errstate(over="ignore", invalid="ignore"), reading(self.path, ADVICE):
            for name, part in zip(SHAPES, bands.separate(x), strict=True):
                _read(self._data[name], index, part)
        return x


def digests(x: np.ndarray) -> np.ndarray:  # (b, 32, 32, 18) -> (b,) uint64
    """8 bytes of BLAKE2b of the float32 pixels of each row: rows with the same digest are twins.

    They tell whether a row of any file was trained on: of the same file, of its source, of another subset, and of
    a copy in float32 of a file in float64.
    """
    with np.errstate(over="ignore"):
        found = [hashlib.blake2b(row.tobytes(), digest_size=8).digest() for row in x.astype("<f4")]
    return np.frombuffer(b"".join(found), "<u8").astype(np.uint64)


def _read(data, index, out):  # (N, H, W, C), (b,), (b, H, W, C)
    """Copy the rows `index` into `out`, in the file's order: consecutive rows as one slice, up to SLICE rows."""
    if not len(index):
        return
    order = np.argsort(index, kind="stable")
    ends = (np.diff(index[order]) > 1) | (np.arange(1, len(index)) % SLICE == 0)
    for places in np.split(order, np.flatnonzero(ends) + 1):
        first, last = int(index[places[0]]), int(index[places[-1]])
        rows = data[first : last + 1]
        for place in places.tolist():  # one row at a time is cast in the cache, 3 times faster than by fancy index
            out[place] = rows[index[place] - first]


@contextmanager
def open_file(
    path: str | Path, labels: bool | None = True, scale: bool = True, geo: str | Path | None = None
) -> Iterator[Patches]:
    """Context manager: a So2Sat file, checked. Keys, shapes, one-hot labels of all rows; scale on up to 16 rows,
    and a warning for channels that are constant there, such as a complex part of SAR that was not delivered.

    labels=False: `label` is neither needed nor read (patches yet to be classified); None: read if it is there.
    scale=False: the scale is not checked. geo: the *_geo.h5 beside the file, which has the city of each row.
    Errors: ValueError that names the file and what is wrong: cut short or not HDF5, a missing key, another shape
    (sensors swapped, channels first), labels not one-hot, digital numbers, decibels, VV before VH.

    >>> import tempfile
    >>> path, y = Path(tempfile.mkdtemp()) / "x.h5", np.array([3, 16])
    >>> write_file(path, 2, [(np.ones((2, 32, 32, 8)), np.full((2, 32, 32, 10), 0.1), y)])
    >>> with open_file(path) as patches:
    ...     len(patches), patches.labels, patches.simulated, patches.images([0, 0]).shape
    (2, array([ 3, 16]), False, (2, 32, 32, 18))
    """
    path = Path(path)
    with opened(path) as file:
        with reading(path, ADVICE):
            patches = Patches(path, file, "label" in file if labels is None else labels)
        if geo is not None:
            patches.cities = read_cities(Path(geo), len(patches))
        if scale:
            x = patches.stored(spread_rows(len(patches), SCALE_ROWS), np.float64)
            if problems := layout.scale_problems(x):
                raise ValueError(f"{path}: {'; '.join(problems)}")
            for words in layout.constant_channels(x):
                warnings.warn(f"{path}: {words}", stacklevel=1)  # one place, so once a file
        yield patches


def opened(path: Path) -> h5py.File:
    """An HDF5 file to read from."""
    with reading(path, ADVICE):
        if not h5py.is_hdf5(path):
            raise ValueError("it is not an HDF5 file; expected So2Sat's layout with sen1, sen2, label")
        return h5py.File(path, "r", locking="best-effort", rdcc_nbytes=CHUNK_CACHE)


def read_cities(path: Path, N: int) -> np.ndarray:  # -> (N,) text
    """The city of each of N rows, of a *_geo.h5 file. Errors: ValueError if it does not have N of them."""
    with opened(path) as file, reading(path, ADVICE):
        found, names = layout.cities(path, file, N), sorted(map(str, file))
    if found is None:
        hint = "; releases before March 2026 have `coord` in its place: fetch the file again" * ("coord" in names)
        raise ValueError(f"{path}: no data set city; found {schema.brief(names)}{hint}")
    return found


def chunks(rows: np.ndarray, size: int = CHUNK) -> list[np.ndarray]:  # (N,) -> [(b,)]
    """Row numbers in pieces of `size`, the last one perhaps shorter.

    >>> [some.tolist() for some in chunks(np.arange(5), size=2)]
    [[0, 1], [2, 3], [4]]
    """
    return np.split(np.asarray(rows), range(size, len(rows), size))


def spread_rows(N: int, count: int) -> np.ndarray:  # -> (min(N, count),)
    """Numbers of at most `count` rows, spread evenly over N.

    >>> spread_rows(9, 3).tolist(), spread_rows(2, 16).tolist()
    ([0, 4, 8], [0, 1])
    """
    return np.unique(np.linspace(0, N - 1, count).astype(int))


def split(
    labels: np.ndarray, per_class: int, test: int, seed: int, digests: Callable | None = None
) -> tuple[np.ndarray, np.ndarray]:  # (N,) -> (17 per_class,), (test,)
    """III-A: (train, test), two ascending arrays of row numbers without a common row.

    Training: exactly `per_class` rows of each class, drawn without replacement. Test: `test` rows drawn uniformly
    from all the others, hence with natural class frequencies. (Other reading: a balanced test set; the chance
    agreement implied by the OA and kappa of Tables II and III speaks against it.) Stream "split" of `seed`.
    digests: a function of row numbers, such as Patches.digests; twins then are on one side (`keep_apart`).
    Errors: ValueError that names the class with too few rows, and what would fit.

    >>> train, test = split(np.repeat(np.arange(17), 5), per_class=3, test=20, seed=47)
    >>> len(train), len(test), set(train) & set(test)
    (51, 20, set())
    """
    labels = layout.check_classes("labels", labels)
    schema.check(per_class, schema.whole(1), "per_class")
    schema.check(test, schema.whole(0), "test")
    counts = np.bincount(labels, minlength=K)
    if (most := int(counts.min())) < per_class:
        hint = f"per_class={most} would fit" if most else "every class needs at least one row"
        few = ", ".join(CLASSES[k][0] for k in np.flatnonzero(counts < per_class))
        raise ValueError(
            f"class {' '.join(CLASSES[counts.argmin()])} has {most} rows, per_class asks for {per_class} of each"
            f" class; {hint} (classes with too few: {few})"
        )
    left = len(labels) - K * per_class
    if left < test:
        raise ValueError(
            f"test asks for {test} rows; {len(labels)} rows less {K} x {per_class} for training leave"
            f" {left}: ask for at most that, or for a smaller per_class"
        )
    rng = stream(seed, "split")
    rows = [rng.choice(np.flatnonzero(labels == k), per_class, replace=False) for k in range(K)]
    train = np.sort(np.concatenate(rows))
    rest = np.setdiff1d(np.arange(len(labels)), train, assume_unique=True)
    drawn = np.sort(rng.choice(rest, test, replace=False))
    return train, drawn if digests is None else keep_apart(train, drawn, rest, seed, digests)


def keep_apart(
    train: np.ndarray, test: np.ndarray, rest: np.ndarray, seed: int, digests: Callable
) -> np.ndarray:  # (n,), (t,), (r,) -> (t,)
    """The rows `test`, but other rows of `rest` in place of those with a twin in `train`.

    Without twins nothing changes. Stream "split twins" of `seed`. Errors: ValueError if too few have no twin.

    >>> keep_apart(np.array([0, 1]), np.array([2, 3]), np.arange(2, 6), 47, lambda rows: rows % 3)
    array([2, 5])
    """
    asked, rng, trained_on = len(test), stream(seed, "split twins"), digests(train)
    while (twins := np.isin(digests(test), trained_on)).any():
        rest, test = np.setdiff1d(rest, test), test[~twins]
        count = int(twins.sum())
        if count > len(rest):
            sound = len(test) + np.count_nonzero(~np.isin(digests(rest), trained_on))
            raise ValueError(
                f"test asks for {asked} rows; {sound} have no copy in the training part: ask for at most that"
            )
        test = np.sort(np.concatenate((test, rng.choice(rest, count, replace=False))))
    return test


# ----------------------------------------------------------------------------------------------------- writing


def write_attributes(file: h5py.File, values: dict) -> None:
    """Write attributes, text in a fixed length: that of variable length lies in a heap without checksum."""
    for name, v in values.items():
        file.attrs[name] = np.bytes_(v.encode(errors="surrogateescape")) if isinstance(v, str) else v


def write_file(
    path: str | Path,
    rows: int,
    batches: Iterable[tuple],
    attributes: dict | None = None,
    cities: np.ndarray | None = None,
) -> None:
    """A file in So2Sat's layout from `batches`, an iterable of (sen1, sen2, y) that adds up to `rows` rows.

    y (b,) class numbers become one-hot rows; with y None in every batch the file has no labels. Values are stored
    exactly, in the dtype of the first batch. One batch is in memory at a time. The file appears whole or not at
    all; an older one is replaced. cities (rows,): the city of each row, kept beside the values.
    Errors: ValueError for a batch of another shape or dtype, values that cannot be, another number of rows.
    """
    path = Path(path)
    with whole(path) as part, h5py.File(part, "w", libver=HDF5_FORMAT) as file:
        write_attributes(file, attributes or {})
        if cities is not None:  # in a fixed length, as write_attributes says why
            file["city"] = np.char.encode(np.asarray(cities, str), "utf-8")
        done, labels = 0, []
        for sen1, sen2, y in batches:
            x, values = bands.join(sen1, sen2), {"sen1": sen1, "sen2": sen2}
            if y is not None:
                labels.append(layout.check_classes(f"{path}: y", y))
                values["label"] = np.eye(K)[labels[-1]]
            if not done:
                shapes = SHAPES | {"label": (K,)}
                sets = {name: file.create_dataset(name, (rows, *shapes[name]), x.dtype) for name in values}
            start, done = done, done + len(x)
            if x.shape[1:] != ROW or x.dtype not in (np.float32, np.float64):
                raise ValueError(f"{path}: sen1 is {x.dtype} {sen1.shape}; expected float64 (b, 32, 32, 8)")
            of_all = {len(v) for v in values.values()} == {len(x)}
            if not of_all or values.keys() != sets.keys() or x.dtype != sets["sen1"].dtype:
                found = "no" if y is None else len(y)
                raise ValueError(
                    f"{path}: {len(x)} rows of {x.dtype} have {found} labels, from row {start} on; expected one"
                    f" each or None, and {sets['sen1'].dtype}, in every batch"
                )
            if done > rows:
                break
            layout.check_rows(x, np.arange(start, done), path)
            for name, own in values.items():
                sets[name][start:done] = own
        if done != rows:
            raise ValueError(f"{path}: the batches hold {done} rows, {rows} were announced")
        file.attrs.pop(layout.LABELS_DIGEST, None)  # of the source of a subset
        if labels:
            write_attributes(file, {layout.LABELS_DIGEST: digest(np.concatenate(labels).astype("<i8"))})


def subset(
    path: str | Path,
    out: str | Path,
    per_class: int,
    test: int,
    seed: int,
    geo: str | Path | None = None,
    skip_bad: bool = False,
) -> list[str]:
    """A smaller file in the same layout: the paper's split of `path`, training rows first, then the test rows.

    Values and the width of storage are kept exactly; rows keep the source's order within each part, and twins are
    in one part alone. Attributes: those of the source, and `subset_of`, `train_rows`, `test_rows`, `per_class`,
    `seed`; the data set `city` has the cities, where the source or `geo`, its *_geo.h5, has them. `Patches.parts`
    of the new file gives the two parts. skip_bad: rows that `layout.faults` finds are not drawn, and what is wrong
    with each is returned. Errors: as `open_file`, `split` and `write_file`; for the source itself as `out`.
    """
    if Path(out).exists() and Path(path).exists() and os.path.samefile(path, out):
        raise ValueError(f"{out} is the source itself; give another name for the subset")
    with open_file(path, geo=geo) as patches:
        usable, left_out = np.arange(len(patches)), []
        if skip_bad:
            found = patches.faults()
            usable, left_out = np.flatnonzero(found == ""), found[found != ""].tolist()
        drawn = split(patches.labels[usable], per_class, test, seed, lambda rows: patches.digests(usable[rows]))
        parts = [usable[part] for part in drawn]
        index = np.concatenate(parts)
        batches = (
            (*bands.separate(patches.images(rows, patches.dtype)), patches.labels[rows]) for rows in chunks(index)
        )
        notes = {"subset_of": Path(path).name, "train_rows": len(parts[0]), "test_rows": len(parts[1])}
        notes |= {"per_class": per_class, "seed": seed} | ({"rows_left_out": len(left_out)} if skip_bad else {})
        cities = None if patches.cities is None else patches.cities[index]
        write_file(out, len(index), batches, patches.attributes | notes, cities)
    return left_out

"""Arrays from .npz files that anybody may have written: what they declare is looked at before it takes memory.

An archive is read in two passes. The first sees names, shapes, dtypes and sizes alone, a few bytes per entry; what
it finds must fit the caller's rule and a bound in bytes. Only then are the numbers read.
"""

import contextlib
import math
import os
import stat
import zipfile
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

LIMIT = 8 << 30  # bytes that the arrays of one archive may take; PAPER's largest checkpoint has 0.5 GB


class Entry(NamedTuple):
    """What an archive declares of one array."""

    name: str
    shape: tuple
    dtype: np.dtype

    @property
    def size(self) -> int:
        """Bytes in memory."""
        return math.prod(self.shape) * self.dtype.itemsize


def read_npz(
    path: str | Path,
    accept: Callable[[list[Entry]], None] | None = None,
    limit: int = LIMIT,
    only: Collection[str] | None = None,
) -> dict:
    """{name: array} of an .npz file; `accept` sees what it declares, and raises ValueError for what is not wanted.

    only: the names whose arrays are read, of those that are there; default: all.
    Errors: ValueError that names the file, the entry, what was found and what was expected; nothing is unpickled.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "a.npz"
    >>> np.savez(path, w=np.ones((2, 3)))
    >>> read_npz(path)["w"].shape
    (2, 3)
    >>> read_npz(path, limit=10)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
      ...
    ValueError: ...a.npz: its arrays declare 48 bytes, more than the 10 that are read
    """
    path = regular_file(path)
    with reading(path, "the archive"):
        archive = zipfile.ZipFile(path)
    with archive:
        entries = [declared(path, archive, info) for info in archive.infolist()]
        names = [entry.name for entry in entries]
        if len(set(names)) != len(names):
            raise ValueError(f"{path}: it holds {next(n for n in names if names.count(n) > 1)!r} twice")
        total = sum(entry.size for entry in entries if only is None or entry.name in only)
        if total > limit:
            raise ValueError(f"{path}: its arrays declare {total:,} bytes, more than the {limit:,} that are read")
        if accept is not None:
            accept(entries)
        arrays = {}
        for info, entry in zip(archive.infolist(), entries, strict=True):
            if only is not None and entry.name not in only:
                continue
            with reading(path, entry.name), archive.open(info) as file:
                arrays[entry.name] = np.lib.format.read_array(file, allow_pickle=False)
        return arrays


def regular_file(path: str | Path) -> Path:
    """`path` as a Path. Errors: ValueError unless it is a regular file, or a link to one, that this user may read.

    Devices and pipes are none: reading them may never end.

    >>> regular_file("/dev/null")
    Traceback (most recent call last):
      ...
    ValueError: /dev/null: it is no regular file but a device, a pipe or a socket; copy what it gives into a file
    """
    path = plain_path(path)
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        raise ValueError(f"{path}: there is no such file") from None
    except (OSError, UnicodeEncodeError) as error:  # a circle of links, a name that is too long, a lone surrogate
        raise ValueError(f"{str(path)[:200]!r} cannot be opened ({error}); give the path of a file") from None
    if stat.S_ISDIR(mode):
        raise ValueError(f"{path} is a folder; expected a file")
    if not stat.S_ISREG(mode):
        raise ValueError(
            f"{path}: it is no regular file but a device, a pipe or a socket; copy what it gives into a file"
        )
    if not os.access(path, os.R_OK):
        raise ValueError(f"{path}: no permission to read it; change its mode or its owner")
    return path


def plain_path(path: str | Path) -> Path:
    """`path` as a Path. Errors: ValueError for a null byte, of which the system would say "embedded null byte"."""
    if "\0" in str(path):
        raise ValueError(f"{str(path)!r} holds a null byte, which no path can have; give the path of a file")
    return Path(path)


def declared(path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Entry:
    """What one entry says of its array, checked against its length in the archive."""
    name = info.filename.removesuffix(".npy")
    if info.flag_bits & 1:
        raise ValueError(f"{path}: {name} is encrypted; expected an archive as numpy.savez writes it")
    with reading(path, name), archive.open(info) as file:
        version = np.lib.format.read_magic(file)
        readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        if version not in readers:
            raise ValueError(f"version {version} of the .npy format, expected 1.0 or 2.0")
        shape, _, dtype = readers[version](file)
        head = file.tell()
    entry = Entry(name, shape, dtype)
    if dtype.hasobject:
        raise ValueError(f"{path}: {name} holds Python objects, which are pickled; expected numbers")
    if any(n < 0 for n in shape) or entry.size != info.file_size - head:
        raise ValueError(
            f"{path}: {name} declares shape {shape} of {dtype}, {entry.size:,} bytes; the archive holds "
            f"{info.file_size - head:,}: it is damaged"
        )
    return entry


@contextlib.contextmanager
def reading(path: Path, what: str) -> Iterator[None]:
    """Whatever goes wrong while foreign bytes are read becomes a ValueError that names the file and the place."""
    try:
        yield
    except Exception as error:
        raise ValueError(f"{path}: {what} cannot be read ({error or type(error).__name__})") from None

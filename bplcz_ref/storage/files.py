"""Files: what goes wrong in reading one is said in one line, and what is written appears whole or not at all.

Reading is left to the libraries (json, NumPy, h5py, safetensors). Nothing is unpickled. What is written has a
temporary name until it is complete; if the path is a link, the file that it leads to is replaced.
"""

import argparse
import contextlib
import errno
import hashlib
import io
import json
import math
import os
import re
import time
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from h5py import h5z

try:
    import fcntl
except ImportError:  # on Windows
    fcntl = None  # type: ignore[assignment]

LOCK_SECONDS = 3.0  # a folder's last process may need this long to end after it was killed
HDF5_FORMAT = ("v108", "v108")  # libver of h5py.File: HDF5 1.8 is the first whose metadata has checksums
LACKING = {errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.ENOLCK}  # in answer to a call
WITHOUT = {
    "lock": "take care that no two processes write into one run folder",
    **dict.fromkeys(("sync a file", "sync a folder"), "after a power cut the last files may be incomplete"),
}
DAMAGED = "it may be cut short, damaged or of another kind"

# What people have in a file's place, by its first bytes (in small letters) at a position.
ZIP = b"pk\x03\x04"
KINDS = (
    (0, b"\x1f\x8b", "packed by gzip: unpack it first, as `gzip -dk {path}` does"),
    (0, ZIP, "a ZIP archive: unpack it first, as `unzip {path}` does"),
    (257, b"ustar", "a tar archive: unpack it first, as `tar -xf {path}` does"),
    (0, (b"bzh", b"\xfd7zxz", b"(\xb5/\xfd"), "packed by bzip2, xz or zstd: unpack it first"),
    (0, (b"7z\xbc\xaf", b"rar!"), "a 7z or RAR archive: unpack it first"),
    (0, b"version https://git-lfs", "a pointer of Git LFS: `git lfs pull` fetches the file that it stands for"),
    (0, (b"<!doctype", b"<html", b"<?xml"), "a web page, such as a login or an error: fetch the file again"),
)
# What HDF5 says of files that are not damaged.
OF_HDF5 = {
    "unable to lock file": "another process has it open for writing; wait until that has ended",
    "already open for write": "another process has it open for writing, or a killed one had it: wait for the one,"
    " or clear the other's mark by `h5clear -s {path}`",
    "truncated file": "it is cut short: its download, copy or writer was stopped; fetch it, or write it, again",
}

# ------------------------------------------------------------------------------------------------------ reading


@contextlib.contextmanager
def reading(path: str | Path, advice: str = DAMAGED) -> Iterator[None]:
    """Whatever goes wrong while `path` is read becomes a ValueError of one line: the file, the cause, the advice.

    A ValueError that begins with the path is a check of our own and stays as it is.

    >>> with reading("no-such-run/config.json"):
    ...     open("no-such-run/config.json")
    Traceback (most recent call last):
      ...
    ValueError: no-such-run/config.json: there is no such file
    """
    try:
        yield
    except Exception as error:
        if type(error) is ValueError and str(error).startswith(str(path)):
            raise
        raise ValueError(_why(path, error, advice)) from error


def _why(path, error, advice):
    """The sentence for an error: what a person can see of the file comes first."""
    if not os.path.exists(path):
        return f"{path}: there is no such file"
    if os.path.isdir(path):
        return f"{path} is a folder; expected a file"
    if isinstance(error, PermissionError):
        return f"{path}: no permission to read it; change its mode or its owner"
    if os.path.getsize(path) == 0:
        return f"{path} is empty (0 bytes); {advice}"
    with contextlib.suppress(OSError), open(path, "rb") as file:
        head = file.read(512)
        head = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower() or head
        for at, beginning, says in KINDS:
            if head[at:].startswith(beginning) and not (beginning is ZIP and str(path).endswith(".npz")):
                return f"{path} is {says.format(path=path)}"
    for sign, says in OF_HDF5.items():
        if sign in str(error):
            return f"{path}: {says.format(path=path)}"
    kind = "" if type(error) in (ValueError, OSError) else f"{type(error).__name__}: "
    cause = kind + " ".join(str(error).split())[:500]
    return f"{path}: it cannot be read ({cause.removesuffix(': ')}); {advice}"


def read_json(path: str | Path) -> Any:
    """The value of a JSON file."""
    with reading(path):
        return json.loads(Path(path).read_text(encoding="utf-8"), parse_constant=_no_constant)


def _no_constant(name):
    raise ValueError(f"{name} is no number of JSON, which can write it as text only")


def read_npz(path: str | Path, advice: str = DAMAGED) -> dict:
    """{name: array} of an .npz file. Each entry is read to its end, where its checksum is compared."""
    with reading(path, advice), zipfile.ZipFile(path) as archive:
        return {
            name.removesuffix(".npy"): np.lib.format.read_array(io.BytesIO(archive.read(name)), allow_pickle=False)
            for name in archive.namelist()
        }


def check_stored(data: Any, where: str) -> None:
    """ValueError unless an h5py.Dataset has its values in its file: in place of others HDF5 gives zeros."""
    if data.is_virtual or data.external:
        raise ValueError(f"{where} has its values in other files; copy them into a plain data set, as with h5py")
    filters = data.id.get_create_plist()
    for code, *_, name in map(filters.get_filter, range(filters.get_nfilters())):
        if not h5z.filter_avail(code):
            raise ValueError(
                f"{where} is packed by the HDF5 filter {code} {name.decode(errors='replace')}, which is not here:"
                " write a copy where it is, such as by `h5repack -f GZIP=4`, or `pip install hdf5plugin` and set"
                " HDF5_PLUGIN_PATH in the environment to hdf5plugin.PLUGIN_PATH"
            )
    expected, stored, unit = data.nbytes, data.id.get_storage_size(), "bytes"
    if data.chunks is not None:
        expected = math.prod(-(-n // m) for n, m in zip(data.shape, data.chunks, strict=True))
        stored, unit = data.id.get_num_chunks(), "chunks"
    if stored < expected:
        raise ValueError(
            f"{where} declares {expected:,} {unit} and {stored:,} are stored: its values were never written,"
            " or not all of them; write the file again"
        )


def digest(array: np.ndarray) -> str:
    """The SHA-256 of an array's dtype, shape and bytes, as hexadecimal text."""
    head = f"{array.dtype.str}{array.shape}".encode()
    return hashlib.sha256(head + array.tobytes()).hexdigest()


# ------------------------------------------------------------------------------------------------------ writing


@contextlib.contextmanager
def whole(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path in `path`'s folder; on success it becomes `path`, on any error it is removed.

    The rename is atomic and happens after fsync, so a reader, or a restart after a kill at any moment, finds
    either the old file or the complete new one.
    Errors: ValueError that names `path` if it cannot be written (no room, no permission, a device, a folder).
    """
    target = replaceable(path)
    if not target.parent.is_dir():
        make_folder(target.parent)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        yield temporary
        with open(temporary, "rb+") as file:
            offered("sync a file", os.fsync, file.fileno())
        os.replace(temporary, target)
    except OSError as error:
        if error.filename is not None and not str(error.filename).startswith(str(temporary)):
            raise  # of another file, in the caller's block
        of_hdf5 = re.search("error message = '(.*?)'", str(error))  # h5py's text has many lines
        cause = of_hdf5[1] if of_hdf5 else error.strerror or str(error)
        raise ValueError(
            f"{path} cannot be written ({cause}); nothing of it was kept: make room, or choose another place"
        ) from error
    finally:
        with contextlib.suppress(OSError):  # the error that led here says more
            temporary.unlink(missing_ok=True)
    if os.name == "posix":  # the rename must survive a power cut too
        with contextlib.suppress(OSError):  # the file is in its place
            folder = os.open(target.parent, os.O_RDONLY)
            try:
                offered("sync a folder", os.fsync, folder)
            finally:
                os.close(folder)


def offered(what: str, call: Callable, *arguments: Any) -> None:
    """Call the system; what a file system lacks, as some network folders do, is warned of once and no error."""
    try:
        call(*arguments)
    except OSError as error:
        if error.errno not in LACKING:
            raise
        warnings.warn(f"the file system cannot {what} ({error.strerror}): {WITHOUT[what]}", stacklevel=1)


def replaceable(path: str | Path) -> Path:
    """The file to write for `path`: what a link leads to. Errors: ValueError for a folder or a device."""
    target = Path(os.path.realpath(path) if os.path.islink(path) else path)
    if os.path.isdir(target):
        raise ValueError(f"{path} is a folder; expected a file to write")
    if os.path.exists(target) and not os.path.isfile(target):
        raise ValueError(f"{path} is a device or a pipe, which is not written over; name a file to write")
    return target


def make_folder(folder: str | Path) -> Path:
    """Make a folder to write into, and those above it, unless it is there; returns it as a Path.

    Errors: ValueError that names the file in its place or above it, or the system's reason; for the root folder.
    """
    folder = Path(folder)
    if folder.resolve() == folder.resolve().parent:
        raise ValueError(f"{folder} is the root folder of the system; name a folder of its own")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        for place in (folder, *folder.parents):
            if place.is_file():
                raise ValueError(f"{place} is a file; expected a folder") from None
        raise ValueError(f"{folder} cannot be made ({error.strerror}); name another folder") from None
    return folder


def write_text(path: str | Path, text: str) -> None:
    """Write text as UTF-8 with the same line ends on every system, whole."""
    with whole(path) as temporary:
        temporary.write_bytes(text.encode("utf-8"))


def write_json(path: str | Path, value: Any) -> None:
    """Write a value as indented JSON, whole."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


@contextlib.contextmanager
def alone(folder: str | Path) -> Iterator[None]:
    """Hold `folder` for this process: a second process that asks for it gets a ValueError.

    Removes partial files left by a killed process. The lock is the system's: it ends with the process, however
    that ends. On Windows, and on file systems without locks (with a warning), nothing is locked.
    """
    folder = make_folder(folder)
    try:
        lock = open(folder / ".lock", "ab")  # noqa: SIM115 - the `with` is outside of the `try`
    except OSError as error:
        raise ValueError(f"{folder} cannot be written into ({error.strerror}); name another folder") from None
    deadline = time.monotonic() + LOCK_SECONDS
    with lock:
        while fcntl is not None:
            try:
                offered("lock", fcntl.flock, lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    busy = f"{folder}: another process is at work there; wait, or name another folder"
                    raise ValueError(busy) from None
                time.sleep(0.05)
        for left in folder.glob(".*.part"):
            left.unlink(missing_ok=True)
        yield


def path(text: str) -> Path:
    """A path option of the command line: an empty one would mean the folder that the command is called from."""
    if not text:
        raise argparse.ArgumentTypeError("the path is empty")
    return Path(text)


def overwrite_option(c: argparse.ArgumentParser) -> None:
    """--overwrite, of commands whose files can be made again."""
    c.add_argument(
        "--overwrite", action="store_true", help="replace files that are there; without it they are refused"
    )


def refuse_existing(options: argparse.Namespace, *paths: Path | None) -> None:
    """ValueError for a file that is there already, unless --overwrite is given; data files have no such option."""
    for there in filter(None, paths):
        if there.is_file() and not getattr(options, "overwrite", False):
            more = ", or add --overwrite" if hasattr(options, "overwrite") else ""
            raise ValueError(f"{there} exists already: remove it, or name another place{more}")

"""Files that appear whole or not at all, and small files that are read whole, such as JSON.

Writing: under a temporary name, synced, then renamed into place. A path must be free or name a regular file: a
device, pipe or socket is refused. If it is a link, the file that it leads to is replaced, and the link stays.
Reading: regular files alone, which end, and no more bytes of them than the caller expects.
"""

import argparse
import contextlib
import hashlib
import json
import os
import re
import shutil
import stat
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

try:
    import fcntl
except ImportError:
    fcntl = None  # type: ignore[assignment]

JSON_BYTES = 16 << 20  # of a JSON file; the largest that the project writes has a few thousand
LOCK_SECONDS = 3.0  # a folder's last process may need this long to end after it was killed


@contextlib.contextmanager
def whole(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path in `path`'s folder; on success it becomes `path`, on any error it is removed.

    The rename is atomic and happens after fsync, so a reader, or a restart after a kill at any moment, finds
    either the old file or the complete new one.
    Errors: ValueError that names `path` if it cannot be written (no room, no permission, a device, a folder).

    >>> import tempfile
    >>> target = Path(tempfile.mkdtemp()) / "a.txt"
    >>> with whole(target) as path:
    ...     _ = path.write_text("all of it")
    >>> target.read_text(), [p.name for p in target.parent.iterdir()]
    ('all of it', ['a.txt'])
    """
    target = replaceable(path)
    _make(target.parent)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.part")
    with written(path, temporary):
        try:
            yield temporary
            with open(temporary, "rb+") as file:
                os.fsync(file.fileno())
            os.replace(temporary, target)
        finally:
            with contextlib.suppress(OSError):  # the error that led here says more
                temporary.unlink(missing_ok=True)
        sync_folder(target.parent)


@contextlib.contextmanager
def whole_folder(folder: str | Path) -> Iterator[Path]:
    """Yield a temporary folder for files; on success it becomes `folder`, on any error it is removed.

    So neither a full disk nor a kill leaves a new folder half written. If `folder` is there already, the files are
    moved into it one by one when all are written: those of the same names are replaced, others stay.

    >>> import tempfile
    >>> target = Path(tempfile.mkdtemp()) / "vectors"
    >>> with whole_folder(target) as made:
    ...     _ = (made / "a.txt").write_text("all of it")
    >>> [p.name for p in target.iterdir()], [p.name for p in target.parent.iterdir()]
    (['a.txt'], ['vectors'])
    """
    check_path(folder)
    target, new = Path(folder), not os.path.exists(folder)
    place = _make(target.parent) if new else make_folder(target)
    temporary = place / f".{target.name}.{os.getpid()}.part"
    with written(folder, temporary):
        temporary.mkdir()
        try:
            yield temporary
            made = sorted(temporary.iterdir())
            for file in made:
                replaceable(target / file.name)
                with open(file, "rb+") as opened:
                    os.fsync(opened.fileno())
            for old, fresh in [(temporary, target)] if new else [(file, target / file.name) for file in made]:
                os.replace(old, fresh)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        sync_folder(place)


def replaceable(path: str | Path) -> Path:
    """The file to write for `path`: itself, or what it leads to if it is a link.

    Errors: ValueError for a folder, a device, a pipe, a socket, a loop of links, a path with a null character.
    """
    check_path(path)
    target = Path(os.path.realpath(path) if os.path.islink(path) else path)
    if os.path.islink(target):
        raise ValueError(f"{path} is a loop of links; expected a file to write")
    if os.path.isdir(target):
        raise ValueError(f"{path} is a folder; expected a file to write")
    if os.path.exists(target) and not os.path.isfile(target):
        raise ValueError(f"{path} is a device, pipe or socket, which is not written over; name a file to write")
    return target


@contextlib.contextmanager
def written(path: str | Path, temporary: Path) -> Iterator[None]:
    """An error of the system while `temporary` is written becomes a ValueError that names `path` and the cause."""
    try:
        yield
    except OSError as error:
        own = error.filename is None or str(error.filename).startswith(str(temporary))
        if not own:
            raise
        of_hdf5 = re.search("error message = '(.*?)'", str(error))  # h5py's text has many lines
        cause = of_hdf5[1] if of_hdf5 else error.strerror or str(error)
        raise ValueError(
            f"{path} cannot be written ({cause}); nothing of it was kept: make room or choose another place, and "
            "run the command again"
        ) from error


def sync_folder(folder: Path) -> None:
    """A rename must survive a power cut too."""
    if os.name == "posix":
        opened = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)


def check_path(path: str | Path) -> None:
    """ValueError for a path that no system has.

    >>> check_path("a\\0b")
    Traceback (most recent call last):
      ...
    ValueError: the path 'a\\x00b' holds a null character
    """
    if "\0" in str(path):
        raise ValueError(f"the path {str(path)!r} holds a null character")


def path(text: str) -> Path:
    """A path option of the command line: an empty one would mean the folder that the command is called from.

    >>> path("")
    Traceback (most recent call last):
      ...
    argparse.ArgumentTypeError: the path is empty
    """
    if not text:
        raise argparse.ArgumentTypeError("the path is empty")
    try:
        check_path(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return Path(text)


def make_folder(folder: str | Path) -> Path:
    """Make a folder to write into, and those above it, unless it is there; returns it as a Path.

    Errors: ValueError that names the file in its place or above it, or the folder without write permission; for
    the system's root folder.

    >>> make_folder("README.md/runs")
    Traceback (most recent call last):
      ...
    ValueError: README.md is a file; expected a folder
    """
    check_path(folder)
    real = os.path.realpath(folder)
    if real == os.path.dirname(real):
        raise ValueError(f"{folder} is the root folder of the system; name a folder of its own")
    return _make(Path(folder))


def _make(folder):
    there = next(place for place in (folder, *folder.parents) if os.path.exists(place) or not place.name)
    if os.path.exists(there) and not there.is_dir():
        raise ValueError(f"{there} is a file; expected a folder")
    if not os.access(there, os.W_OK | os.X_OK):  # of the folder itself, or of the one it is to be made in
        raise ValueError(f"{there}: no permission to write there")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:  # no room, a name that is too long, a link that leads nowhere
        raise ValueError(f"{folder} cannot be made ({error.strerror})") from None
    return folder


@contextlib.contextmanager
def alone(folder: str | Path) -> Iterator[None]:
    """Hold `folder` for this process: a second process that asks for it gets a ValueError.

    Removes partial files left by a killed process. The lock is the system's: it ends with the process, however
    that ends, and a process that is just ending is waited for. Without fcntl (on Windows) nothing is locked.
    """
    folder = make_folder(folder)
    path = folder / ".lock"
    try:  # not truncated, no link followed: whatever has this name stays
        opened = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
    except OSError as error:
        raise ValueError(f"{path} cannot be opened ({error.strerror}); expected a file of this project") from None
    with open(opened, "rb+", buffering=0):
        deadline = time.monotonic() + LOCK_SECONDS
        while not locked(opened):
            if time.monotonic() > deadline:
                raise ValueError(f"{folder}: another process is at work there; wait, or name another folder")
            time.sleep(0.05)
        for left in folder.glob(".*.part"):
            if not left.is_dir():
                left.unlink(missing_ok=True)
        yield


def locked(opened: int) -> bool:
    """Whether an open file could be locked for this process, which then holds the lock until it ends."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def write_text(path: str | Path, text: str) -> None:
    """Write text as UTF-8, whole."""
    with whole(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | Path, value: Any) -> None:
    """Write a value as indented JSON, whole."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def read_bytes(path: str | Path, limit: int) -> bytes:
    """A regular file of `limit` bytes at most.

    >>> read_bytes("README.md", 10)
    Traceback (most recent call last):
      ...
    ValueError: README.md has more than the 10 bytes that are read; is it the right file?
    """
    check_path(path)
    try:
        mode = os.stat(path).st_mode
        if not stat.S_ISREG(mode):  # a pipe would wait for ever, a device may never end
            what = "a folder" if stat.S_ISDIR(mode) else "a device, pipe or socket"
            raise ValueError(f"{path} is {what}; expected a file")
        with open(path, "rb") as file:
            data = file.read(limit + 1)
    except FileNotFoundError:
        raise ValueError(f"{path}: there is no such file") from None
    except NotADirectoryError:
        raise ValueError(f"{path}: there is no such file, as a part of this path is itself a file") from None
    except PermissionError:
        raise ValueError(f"{path}: no permission to read it") from None
    except OSError as error:
        raise ValueError(f"{path}: it cannot be read ({error.strerror})") from None
    if len(data) > limit:
        raise ValueError(f"{path} has more than the {limit:,} bytes that are read; is it the right file?")
    return data


def read_text(path: str | Path, limit: int) -> str:
    """A regular file of UTF-8 text of `limit` bytes at most."""
    try:
        return read_bytes(path, limit).decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: it is not UTF-8 text ({error.reason} at byte {error.start})") from None


def read_json(path: str | Path, limit: int = JSON_BYTES) -> Any:
    """Read a JSON file; an error names the file and the place in it.

    >>> read_json("no-such-run/config.json")
    Traceback (most recent call last):
      ...
    ValueError: no-such-run/config.json: there is no such file
    """
    return parse_json(read_text(path, limit), str(path))


def parse_json(text: str, where: str) -> Any:
    """A JSON value by the standard: no NaN, no name twice in an object. An error names `where` and the place.

    >>> parse_json('{"a": 1, "a": 2}', "a.json")
    Traceback (most recent call last):
      ...
    ValueError: a.json: not valid JSON (the name 'a' twice in one object)
    """
    try:
        return json.loads(text, object_pairs_hook=_object, parse_constant=_no_constant)
    except RecursionError:
        raise ValueError(f"{where}: not valid JSON (nested too deeply)") from None
    except ValueError as error:  # of the syntax; a number with thousands of digits
        raise ValueError(f"{where}: not valid JSON ({error})") from None


def _object(pairs):
    made = dict(pairs)
    if len(made) < len(pairs):
        times = Counter(name for name, _ in pairs)
        raise ValueError(f"the name {next(n for n in times if times[n] > 1)[:80]!r} twice in one object")
    return made


def _no_constant(name):
    raise ValueError(f"{name} is no number of JSON, which can write it as text only")


def digest(array: np.ndarray) -> str:
    """The SHA-256 of an array's dtype, shape and bytes, as hexadecimal text.

    >>> digest(np.arange(3)) == digest(np.arange(3)), digest(np.arange(3)) == digest(np.arange(4))
    (True, False)
    """
    head = f"{array.dtype.str}{array.shape}".encode()
    return hashlib.sha256(head + array.tobytes()).hexdigest()

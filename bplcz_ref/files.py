"""Files that appear whole or not at all: written under a temporary name, synced, then renamed into place."""

import argparse
import contextlib
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

try:
    import fcntl
except ImportError:
    fcntl = None  # type: ignore[assignment]


@contextlib.contextmanager
def whole(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path in `path`'s folder; on success it becomes `path`, on any error it is removed.

    The rename is atomic and happens after fsync, so a reader, or a restart after a kill at any moment, finds
    either the old file or the complete new one.

    >>> import tempfile
    >>> target = Path(tempfile.mkdtemp()) / "a.txt"
    >>> with whole(target) as path:
    ...     _ = path.write_text("all of it")
    >>> target.read_text(), [p.name for p in target.parent.iterdir()]
    ('all of it', ['a.txt'])
    """
    path = Path(path)
    if os.path.isdir(path):
        raise ValueError(f"{path} is a folder; expected a file to write")
    make_folder(path.parent)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    if os.name == "posix":  # the rename itself must survive a power cut too
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def path(text: str) -> Path:
    """A path option of the command line: an empty one would mean the folder that the command is called from.

    >>> path("")
    Traceback (most recent call last):
      ...
    argparse.ArgumentTypeError: the path is empty
    """
    if not text:
        raise argparse.ArgumentTypeError("the path is empty")
    return Path(text)


def make_folder(folder: str | Path) -> Path:
    """Make a folder to write into, and those above it, unless it is there; returns it as a Path.

    Errors: ValueError that names the file in its place or above it, or the folder without write permission.

    >>> make_folder("README.md/runs")
    Traceback (most recent call last):
      ...
    ValueError: README.md is a file; expected a folder
    """
    folder = Path(folder)
    there = next(place for place in (folder, *folder.parents) if os.path.exists(place) or not place.name)
    if os.path.exists(there) and not there.is_dir():
        raise ValueError(f"{there} is a file; expected a folder")
    if not os.access(there, os.W_OK | os.X_OK):  # of the folder itself, or of the one it is to be made in
        raise ValueError(f"{there}: no permission to write there")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextlib.contextmanager
def alone(folder: str | Path) -> Iterator[None]:
    """Hold `folder` for this process: a second process that asks for it gets a ValueError.

    Removes partial files left by a killed process. The lock is the system's: it ends with the process, however
    that ends. Without fcntl (on Windows) nothing is locked.
    """
    folder = make_folder(folder)
    with open(folder / ".lock", "w", encoding="utf-8") as file:
        if fcntl is not None:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ValueError(
                    f"{folder}: another process is at work there; wait, or name another folder"
                ) from None
        for left in folder.glob(".*.part"):
            left.unlink(missing_ok=True)
        yield


def write_text(path: str | Path, text: str) -> None:
    """Write text as UTF-8, whole."""
    with whole(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | Path, value: Any) -> None:
    """Write a value as indented JSON, whole."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def read_json(path: str | Path) -> Any:
    """Read a JSON file; an error names the file and the place in it.

    >>> read_json("no-such-run/config.json")
    Traceback (most recent call last):
      ...
    ValueError: no-such-run/config.json: there is no such file
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{path}: there is no such file") from None
    except NotADirectoryError:
        raise ValueError(f"{path}: there is no such file, as a part of this path is itself a file") from None
    except IsADirectoryError:
        raise ValueError(f"{path} is a folder; expected a JSON file") from None
    except PermissionError:
        raise ValueError(f"{path}: no permission to read it") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not valid JSON ({error})") from None


def digest(array: np.ndarray) -> str:
    """The SHA-256 of an array's dtype, shape and bytes, as hexadecimal text.

    >>> digest(np.arange(3)) == digest(np.arange(3)), digest(np.arange(3)) == digest(np.arange(4))
    (True, False)
    """
    head = f"{array.dtype.str}{array.shape}".encode()
    return hashlib.sha256(head + array.tobytes()).hexdigest()

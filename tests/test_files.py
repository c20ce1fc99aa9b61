"""files.py: an error of reading is one line that names the file; a file that is written is whole or not there."""

import bz2
import errno
import gzip
import os
import stat
import subprocess
import sys

import h5py
import numpy as np
import pytest

from bplcz_ref.storage import files

POSIX = pytest.mark.skipif(os.name != "posix", reason="devices, links and locks of POSIX")


FAULTS = [
    (None, "a.json: there is no such file"),
    (b"", r"a.json is empty \(0 bytes\)"),
    (b'{"a": 1', r"a.json: it cannot be read \(JSONDecodeError: Expecting .* line 1 column 8"),
    ('{"a": 1}'.encode("utf-16"), "cannot be read .UnicodeDecodeError"),
    (b'{"a": NaN}', "NaN is no number of JSON"),
    (gzip.compress(b"{}", mtime=0), "a.json is packed by gzip: unpack it first, as `gzip -dk .*a.json` does"),
    (bz2.compress(b"{}"), "a.json is packed by bzip2, xz or zstd: unpack it first"),
    (b"PK\x03\x04 and more", "a.json is a ZIP archive: unpack it first, as `unzip .*a.json` does"),
    (bytes(257) + b"ustar", "a.json is a tar archive"),
    (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "a pointer of Git LFS: `git lfs pull`"),
    (b"\xef\xbb\xbf\n<!DOCTYPE html>", "a.json is a web page, such as a login or an error"),
    (b"<?xml version='1.0'?><Error><Code>AccessDenied", "a.json is a web page"),
]


@pytest.mark.parametrize(("data", "message"), FAULTS)
def test_what_is_wrong_with_a_file_is_said_in_one_line(tmp_path, data, message):
    if data is not None:
        (tmp_path / "a.json").write_bytes(data)
    with pytest.raises(ValueError, match=message) as error:
        files.read_json(tmp_path / "a.json")
    assert str(error.value).startswith(str(tmp_path / "a.json"))
    assert "\n" not in str(error.value)


def test_a_folder_in_the_place_of_a_file_is_named(tmp_path):
    with pytest.raises(ValueError, match="is a folder; expected a file"):
        files.read_npz(tmp_path)


def test_a_pickle_in_an_archive_is_not_opened(tmp_path):
    np.savez(path := tmp_path / "w.npz", w=np.array([{}], object))
    with pytest.raises(ValueError, match=r"w\.npz: it cannot be read \(Object arrays .* allow_pickle=False"):
        files.read_npz(path)


def test_values_that_are_not_stored_are_refused(tmp_path):
    """HDF5 gives zeros for each of them."""
    with h5py.File(tmp_path / "x.h5", "w") as file:
        for name, options in (("whole", {}), ("chunked", {"chunks": (4,), "fletcher32": True})):
            file.create_dataset(name, data=np.ones(7), **options)
        virtual = h5py.VirtualLayout((7,), "f8")
        virtual[:] = h5py.VirtualSource("missing.h5", "w", (7,))
        file.create_virtual_dataset("virtual", virtual)
        file.create_dataset("external", data=np.ones(7), external=[(tmp_path / "raw", 0, 56)])
        file.create_dataset("never", (7,), "f8")
        file.create_dataset("half", (7,), "f4", chunks=(4,), compression="gzip")[:4] = 1
        blosc = {"chunks": (7,), "compression": 32001, "allow_unknown_filter": True}
        file.create_dataset("blosc", (7,), "f8", **blosc).id.write_direct_chunk((0,), b"packed elsewhere")
        file.flush()
        files.check_stored(file["whole"], "x.h5: w")
        files.check_stored(file["chunked"], "x.h5: w")
        for name, message in (
            ("virtual", "w has its values in other files"),
            ("external", "w has its values in other files"),
            ("never", "w declares 56 bytes and 0 are stored: its values were never"),
            ("half", "w declares 2 chunks and 1 are stored"),
            ("blosc", "w is packed by the HDF5 filter 32001 .*which is not here: write a copy .*h5repack"),
        ):
            with pytest.raises(ValueError, match=message):
                files.check_stored(file[name], "x.h5: w")


# ------------------------------------------------------------------------------------------------------ writing


def write(path, then=None):
    with files.whole(path) as temporary:
        temporary.write_text("x")
        if then:
            then()


@POSIX
@pytest.mark.parametrize("what", ["sync a folder", "sync a file", "lock"])
def test_a_network_folder_that_cannot_be_synced_or_locked_is_written_into(tmp_path, monkeypatch, what):
    """SMB and VirtualBox refuse to sync a folder, some FUSE file systems to sync at all, Lustre to lock a file."""
    sync = os.fsync

    def refuse(*arguments):
        raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))

    only = {"sync a folder": stat.S_ISDIR, "sync a file": stat.S_ISREG}.get(what, lambda mode: False)
    monkeypatch.setattr(os, "fsync", lambda f: refuse() if only(os.fstat(f).st_mode) else sync(f))
    if what == "lock":
        monkeypatch.setattr(files.fcntl, "flock", refuse)
    with pytest.warns(UserWarning, match=f"the file system cannot {what} "), files.alone(tmp_path / "run"):
        write(tmp_path / "run" / "a")
    assert (tmp_path / "run" / "a").read_text() == "x"


def test_an_error_of_another_kind_or_file_stays_as_it_is(tmp_path):
    for error, cause in (
        (FileNotFoundError, lambda: (tmp_path / "nothing").read_bytes()),
        (ZeroDivisionError, lambda: 1 / 0),
    ):
        with pytest.raises(error):
            write(tmp_path / "a", cause)
    with pytest.raises(ValueError, match="JSON"):
        files.write_json(tmp_path / "a", {"x": float("nan")})
    assert not list(tmp_path.iterdir())


LIMITED = """
import resource, sys
import numpy as np
from bplcz_ref.storage import weights
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))  # a disk that is full after 100 kB
for path in sys.argv[1:]:
    try:
        weights.save(path, {"w": np.ones(100_000)})
    except ValueError as error:
        print(error)
"""


@POSIX
@pytest.mark.slow
def test_no_room_for_a_large_file(tmp_path):
    """A real limit of the system instead of a replaced function; NumPy and HDF5 report it in ways of their own."""
    paths = [str(tmp_path / name) for name in ("w.npz", "w.h5")]
    (tmp_path / "w.npz").write_text("old")
    done = subprocess.run([sys.executable, "-c", LIMITED, *paths], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert [line.split(" cannot be written")[0] for line in done.stdout.splitlines()] == paths
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("w.npz", "old")]


@POSIX
def test_a_link_stays_and_no_device_is_replaced(tmp_path):
    (tmp_path / "device").symlink_to("/dev/null")
    with pytest.raises(ValueError, match="device is a device or a pipe, which is not written over"):
        write(tmp_path / "device")
    (tmp_path / "old").write_text("old")
    for name, target in (("link", "old"), ("dangling", "new")):
        (tmp_path / name).symlink_to(target)
        write(tmp_path / name)
        assert (tmp_path / name).is_symlink()
        assert (tmp_path / target).read_text() == "x"
    assert not list(tmp_path.glob(".*"))


def test_a_path_that_cannot_be_written_is_named_as_it_was_given(tmp_path):
    (tmp_path / "file").write_text("kept")
    for place, message in (
        ("", "is a folder; expected a file to write"),
        ("a" * 300, "cannot be written.*name"),
        ("file/a.json", "file is a file; expected a folder"),
        ("file/b/c/a.json", "file is a file; expected a folder"),
    ):
        with pytest.raises(ValueError, match=message):
            write(tmp_path / place)
    with pytest.raises(ValueError, match="file is a file; expected a folder"), files.alone(tmp_path / "file/run"):
        pass
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("file", "kept")]
    with pytest.raises(ValueError, match="is the root folder of the system; name a folder of its own"):
        files.make_folder(os.sep)


def test_text_has_the_same_line_ends_on_every_system(tmp_path):
    files.write_json(tmp_path / "a.json", {"a": 1})
    assert (tmp_path / "a.json").read_bytes() == b'{\n  "a": 1\n}\n'

"""archives.py: what was written comes back; a damaged or hostile archive is named before it takes memory."""

import io
import os
import struct
import zipfile

import numpy as np
import pytest
from damage import npy

from bplcz_ref.archives import read_npz


def archive(path, entries, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as file:
        for name, data in entries:
            file.writestr(name, data)
    return path


def test_what_is_written_comes_back(tmp_path):
    arrays = {"a/b": np.arange(6.0).reshape(2, 3).T, "n": np.array(3), "empty": np.zeros((0, 2), np.float32)}
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "w.npz", **arrays)
        found = read_npz(tmp_path / "w.npz")
        assert list(found) == list(arrays)
        for name, array in arrays.items():
            assert np.array_equal(found[name], array)
            assert found[name].dtype == array.dtype
        assert list(read_npz(tmp_path / "w.npz", limit=8, only=("n", "m"))) == ["n"]


ONE = npy(np.ones(4))
BAD = [
    ("cannot be read", lambda path: path.write_bytes(b"")),
    ("cannot be read", lambda path: path.write_bytes(ONE)),  # a bare .npy
    ("declares shape", lambda path: archive(path, [("w.npy", ONE[:-8])])),
    ("declares shape", lambda path: archive(path, [("w.npy", ONE + b"12345678")])),
    ("declares shape", lambda path: archive(path, [("w.npy", ONE.replace(b"(4,)", b"(9,)"))])),
    (
        "w cannot be read",
        lambda path: archive(
            path,
            [
                ("w.npy", ONE.replace(b"(4,)", b"((((")),
            ],
        ),
    ),
    ("w cannot be read", lambda path: archive(path, [("w.npy", b"not an array")])),
    ("version", lambda path: archive(path, [("w.npy", ONE[:6] + b"\x03" + ONE[7:])])),
    ("Python objects", lambda path: archive(path, [("w.npy", npy(np.array([{}], object)))])),
    ("holds 'w' twice", lambda path: archive(path, [("w.npy", ONE), ("w", ONE)])),
    ("no such file", lambda path: None),
    ("no regular file", lambda path: os.mkfifo(path)),
]


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize(("message", "make"), BAD, ids=[f"{k}: {message}" for k, (message, _) in enumerate(BAD)])
def test_what_cannot_be_read_is_named(tmp_path, message, make):
    make(tmp_path / "w.npz")
    with pytest.raises(ValueError, match=rf"w\.npz: .*{message}"):
        read_npz(tmp_path / "w.npz")


@pytest.mark.slow
def test_a_huge_declaration_takes_no_memory(tmp_path):
    """A hundred kilobytes that expand to 100 MB: the size is known from the header, before any number is read."""
    path, head = tmp_path / "w.npz", io.BytesIO()
    declared = {"descr": "<f8", "fortran_order": False, "shape": (12_500_000,)}
    np.lib.format.write_array_header_1_0(head, declared)
    archive(path, [("w.npy", head.getvalue() + bytes(100_000_000))], zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 200_000
    with pytest.raises(ValueError, match="declare 100,000,000 bytes, more than the 1,000,000 that are read"):
        read_npz(path, limit=1_000_000)


def test_an_encrypted_entry_is_named(tmp_path):
    path = archive(tmp_path / "w.npz", [("w.npy", ONE)])
    data = bytearray(path.read_bytes())
    for signature, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):  # the flags of the entry, at both places
        at = data.index(signature) + place
        data[at : at + 2] = struct.pack("<H", 1)
    path.write_bytes(data)
    with pytest.raises(ValueError, match="w is encrypted"):
        read_npz(path)


def test_what_the_caller_does_not_accept_is_not_read(tmp_path):
    np.savez(tmp_path / "w.npz", w=np.ones((2, 3), np.float32))

    def accept(entries):
        assert [(entry.name, entry.shape, entry.dtype, entry.size) for entry in entries] == [
            ("w", (2, 3), "f4", 24)
        ]
        raise ValueError("not wanted")

    with pytest.raises(ValueError, match="^not wanted$"):
        read_npz(tmp_path / "w.npz", accept)

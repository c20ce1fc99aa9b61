"""hdf5.py and what rests on it: values that are not in the file, or not numbers as h5py takes them, are errors."""

import os

import h5py
import numpy as np
import pytest
from h5py import h5d, h5p, h5s, h5t
from so2sat_files import make

from bplcz_ref import hdf5, weights
from bplcz_ref.data import inspection, so2sat

SEN2 = 0.1 + np.random.default_rng(0).random((20, 32, 32, 10))


def fields(at):
    """A float64 of the same size whose sign, exponent and fraction lie elsewhere."""
    kind = h5t.IEEE_F64LE.copy()
    kind.set_fields(*at)
    return kind


def virtual(file):
    layout = h5py.VirtualLayout(SEN2.shape, "f8")
    layout[:] = h5py.VirtualSource("missing.h5", "sen2", SEN2.shape)
    file.create_virtual_dataset("sen2", layout)


def elsewhere(file):
    file.create_dataset("sen2", data=SEN2, external=[(file.filename + ".raw", 0, h5py.h5f.UNLIMITED)])


def other_format(kind):
    def write(file):
        space = h5s.create_simple(SEN2.shape)
        data = h5d.create(file.id, b"sen2", kind, space)
        data.write(h5s.ALL, h5s.ALL, SEN2, mtype=h5t.IEEE_F64LE)

    return write


def never(rows, **storage):
    return lambda file: file.create_dataset("sen2", (rows, 32, 32, 10), "f8", **storage)


def half(file):
    never(20, chunks=(5, 32, 32, 10), compression="gzip")(file)
    file["sen2"][:10] = SEN2[:10]


def link(target):
    def write(file):
        file["sen2"] = target
        file["back"] = h5py.SoftLink("/sen2")

    return write


def pipe(file):
    os.mkfifo(file.filename + ".pipe")
    file["sen2"] = h5py.ExternalLink(file.filename + ".pipe", "sen2")


def chunked(file):
    file.create_dataset("sen2", (2**14, 32, 32, 10), "f8", chunks=(2**14, 32, 32, 10))


BAD = {
    "virtual": (virtual, "sen2 is a virtual data set"),
    "in another file": (elsewhere, r"has its values in another file, .*x\.h5\.raw"),
    "shifted fields": (other_format(fields((0, 1, 11, 12, 52))), "in a number format of 8 bytes that is not IEEE"),
    "never written": (never(20), "declares 1,638,400 bytes and 0 are stored"),
    "never written, huge": (never(2**27), "rows are sen1 20, sen2 134217728"),
    "chunks never written": (never(20, chunks=(1, 32, 32, 10)), "declares 20 chunks and 0 are stored"),
    "half the chunks": (half, "declares 4 chunks and 2 are stored"),
    "huge chunks": (chunked, "rows are sen1 20, sen2 16384"),
    "null": (lambda file: file.__setitem__("sen2", h5py.Empty("f8")), r"sen2 has shape \(\)"),
    "a circle": (link(h5py.SoftLink("/back")), "sen2 is a link that leads nowhere"),
    "a link to nothing": (link(h5py.SoftLink("/none")), "no data set sen2"),
    "an external circle": (link(h5py.ExternalLink("x.h5", "sen2")), "no data set sen2"),
    "an external pipe": (pipe, r"x\.h5\.pipe: it is no regular file"),
}


@pytest.mark.parametrize("kind", BAD)
def test_values_that_are_not_stored_here_are_refused_before_any_is_read(tmp_path, kind, monkeypatch):
    change, message = BAD[kind]
    make(path := tmp_path / "x.h5", rows=20)
    with h5py.File(path, "a") as file:
        del file["sen2"]
        change(file)
    monkeypatch.setattr(h5py.Dataset, "__getitem__", lambda *_: pytest.fail("values were read"))
    with pytest.raises(ValueError, match=message) as error, so2sat.open_file(path):
        pass
    assert "x.h5" in str(error.value)
    assert str(error.value) in inspection.inspect(path).problems


@pytest.mark.parametrize("labels", [True, False])
def test_a_small_file_that_declares_many_rows_takes_no_memory(tmp_path, labels):
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        for name, shape in (("sen1", (32, 32, 8)), ("sen2", (32, 32, 10)), ("label", (17,))):
            file.create_dataset(name, (2**27, *shape), "f8")
    assert path.stat().st_size < 3000
    message = "0 are stored: its values were never written"
    with pytest.raises(ValueError, match=message), so2sat.open_file(path, labels=labels):
        pass


def test_a_chunk_of_gigabytes_is_refused(tmp_path):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        chunked(file)
        with pytest.raises(ValueError, match="chunks of 1,342,177,280 bytes, more than the 1,073,741,824"):
            hdf5.check_stored(file["sen2"], "x.h5: sen2")


def test_a_chunk_without_bytes_is_refused(tmp_path):
    """HDF5 2.0 ends the interpreter when it checks the sum of no bytes."""
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("w", data=np.arange(7.0), chunks=(7,), fletcher32=True)
    data = bytearray(path.read_bytes())
    at = data.find((60).to_bytes(4, "little") + bytes(4))  # the size of the chunk, then its filter mask
    data[at] = 0
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"w: the chunk at \(0,\) has 0 bytes: the file is damaged"):
        weights.load(path)


def test_values_that_would_lie_beyond_the_file_are_refused(tmp_path):
    """Damage moves the address of a contiguous array; newer releases of HDF5 refuse to open it."""
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        file["w"] = np.arange(7.0)
        place = file["w"].id.get_offset().to_bytes(8, "little") + (56).to_bytes(8, "little")
    data = path.read_bytes()
    assert data.count(place) == 1
    path.write_bytes(data.replace(place, (len(data) - 8).to_bytes(8, "little") + place[8:]))
    with pytest.raises(ValueError, match="w (declares 56 bytes, which end beyond the file|cannot be read .*size)"):
        weights.load(path)


def test_a_tree_may_hold_whole_numbers(tmp_path):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["bn/num_batches_tracked"] = np.array(3)
        assert [(name, item[()]) for name, item in hdf5.tree(tmp_path / "x.h5", file)] == [
            ("bn.num_batches_tracked", 3)
        ]


@pytest.mark.parametrize("kind", ["IEEE_F64LE", "IEEE_F64BE", "IEEE_F32LE", "IEEE_F32BE"])
@pytest.mark.parametrize("layout", ["contiguous", "chunked", "through an external link"])
def test_ieee_numbers_are_read_as_they_are(tmp_path, kind, layout):
    values = SEN2.astype("f4" if "32" in kind else "f8")
    make(path := tmp_path / "x.h5", rows=20)
    with h5py.File(tmp_path / "y.h5", "w") as other:
        other["before"] = np.ones(1000)  # so that the offset differs from that in x.h5
        with h5py.File(path, "a") as file:
            del file["sen2"]
            place = other if "link" in layout else file
            plist = h5p.create(h5p.DATASET_CREATE)
            if layout == "chunked":
                plist.set_chunk((3, 32, 32, 10))
            data = h5d.create(place.id, b"sen2", getattr(h5t, kind), h5s.create_simple(values.shape), plist)
            data.write(h5s.ALL, h5s.ALL, np.ascontiguousarray(values))
            if place is other:
                file["sen2"] = h5py.ExternalLink("y.h5", "sen2")
    with so2sat.open_file(path) as patches:
        np.testing.assert_array_equal(patches.images(range(20), np.float64)[..., 8:], values)


@pytest.mark.parametrize("kind", [f"{end}{sign}{size}" for end in "<>" for sign in "iu" for size in (1, 2, 4, 8)])
def test_whole_numbers_of_every_size_are_known(kind):
    assert any(h5t.py_create(np.dtype(kind)).equal(known) for known in hdf5.WHOLES)

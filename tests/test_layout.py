"""layout.py: an error names what is wrong with a file or an argument, and the remedy."""

import re
import subprocess
import sys

import h5py
import numpy as np
import pytest
from so2sat_files import make, replacing, setting, swap

from bplcz_ref.data import inspection, layout, so2sat


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.pop("label"), r"no data set label; found \['sen1', 'sen2'\]"),
        (lambda d: d.pop("sen1"), "no data set sen1; .*the file needs sen1's 8 SAR channels too"),
        (swap, "swapped"),
        (replacing("sen1", lambda a: np.concatenate([a, a[..., :2]], -1)),  # this alone is not a swap
         r"sen1 has shape \(20, 32, 32, 10\); expected \(N, 32, 32, 8\)"),
        (replacing("sen2", lambda a: np.moveaxis(a, -1, 1)), r"\(20, 10, 32, 32\).*channels are first"),
        (replacing("sen1", lambda a: a.T.copy()), r"sen1 has shape \(8, 32, 32, 20\).*reversed"),
        (replacing("label", lambda a: a.argmax(1)), r"label has shape \(20,\); expected .*`np\.eye\(17\)\[label"),
        (replacing("label", lambda a: a[:7]), "sen1 20, sen2 20, label 7"),
        (lambda d: d.update({k: v[:0] for k, v in d.items()}), "sen1 0, sen2 0"),
        (setting("label", (3, 5), 1), r"label row 3 is \[0.0, .*expected one 1"),
        (setting("label", 4, 0), "label row 4"),
        (setting("label", (3, 4), np.nan), "label row 3"),
        (replacing("sen2", lambda a: np.round(a * 1e4)), "digital numbers.*divide sen2 by 10000"),
        (replacing("sen1", lambda a: 10 * np.log10(abs(a) + 1e-3)), r"decibels.*10 \*\* \(dB / 10\)"),
    ],
)  # fmt: skip
def test_bad_content_is_named_with_its_remedy(tmp_path, change, message):
    make(path := tmp_path / "bad.h5", rows=20, change=change)
    with pytest.raises(ValueError, match=rf"bad\.h5.*{message}") as error, so2sat.open_file(path):
        pass
    problems = inspection.inspect(path).problems
    assert any(p in str(error.value) for p in problems) != ("no data set label" in message)  # no problem there


def test_bad_files(tmp_path, plain):
    raw = plain[0].read_bytes()
    with h5py.File(plain[0]) as source, h5py.File(tmp_path / "chunk.h5", "w") as file:
        for name in source:
            file.create_dataset(name, data=source[name][:40], compression=None if name == "label" else "gzip")
        at = file["sen2"].id.get_chunk_info(0).byte_offset
    packed = (tmp_path / "chunk.h5").read_bytes()
    for name, data, message in (
        ("text.h5", b"sen1 sen2", r"it is not an HDF5 file; expected So2Sat's layout with sen1, sen2, label\)"),
        ("cut.h5", raw[: len(raw) // 2], "cut short"),
        ("damaged.h5", raw[:200] + b"\xff" * 3000 + raw[3200:], "it cannot be read"),
        ("chunk.h5", packed[:at] + bytes(400) + packed[at + 400 :], "it cannot be read"),
    ):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(ValueError, match=message), so2sat.open_file(tmp_path / name, scale=False) as patches:
            patches.images([0])
        assert inspection.inspect(tmp_path / name).problems


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f.create_dataset("sen2", (20, 32, 32, 10), "f8"), "its values were never written"),
        (lambda f: f.__setitem__("sen2", h5py.ExternalLink("none.h5", "sen2")), "no data set sen2"),
        (lambda f: f.__setitem__("sen2", h5py.Empty("f8")), r"sen2 has shape \(\)"),
    ],
)
def test_a_sensor_without_values_is_named(tmp_path, change, message):
    make(path := tmp_path / "x.h5", rows=20, change=lambda d: d.pop("sen2"))
    with h5py.File(path, "a") as file:
        change(file)
    (problem,) = inspection.inspect(path).problems
    assert re.search(rf"x\.h5.*{message}", problem)


def test_a_scale_is_named_with_its_remedy():
    for channels, value, message in (
        (slice(8, 18), 0.13, None),
        (slice(8, 18), 0.0, None),
        (slice(8, 18), 5.1, "multiply sen2 by 255"),
        (slice(8, 18), 5e-4, "divided by 255"),
        (slice(8, 18), -0.1, "standardised already"),
        (4, -17.0, "decibels"),  # one of the two is enough
        (slice(4, 6), 0.0, None),
        (slice(4, 6), -0.5, "cannot be negative"),
        (4, 0.2, "VH is brighter than its VV (filtered intensities)"),
        (0, 0.2, "VH is brighter than its VV (complex values)"),
        (2, 0.2, None),
        (slice(4), 0.0, None),  # was not delivered, which is said elsewhere
    ):
        x = np.full((2, 32, 32, 18), 0.13)
        x[..., channels] = value
        found = layout.scale_problems(x)
        assert found == [] if message is None else len(found) == 1 and message in found[0], (channels, value)


@pytest.mark.parametrize("dtype", ["u1", "?", "f4", ">i4"])
def test_one_hot_labels_of_any_dtype_are_taken(tmp_path, dtype):
    data = make(path := tmp_path / "x.h5", rows=20)
    with h5py.File(path, "a") as file:
        del file["label"]
        file["label"] = data["label"].astype(dtype)
    so2sat.subset(path, tmp_path / "y.h5", per_class=1, test=3, seed=1)
    with so2sat.open_file(path) as patches, so2sat.open_file(tmp_path / "y.h5") as part:
        assert patches.labels.tolist() == data["label"].argmax(1).tolist()
        assert len(part.labels) == 20


KILLED = "import os, sys, h5py; f = h5py.File(sys.argv[1], 'r+', libver='latest'); f.flush(); os._exit(0)"


@pytest.mark.slow
def test_a_file_with_a_writer_is_not_called_damaged(tmp_path):
    """Locked by another writer, then left open by one that was killed."""
    fcntl = pytest.importorskip("fcntl", reason="locks of POSIX")
    with h5py.File(path := tmp_path / "x.h5", "w", libver="latest") as file:
        file["w"] = 1
    with open(path, "rb") as writer:
        fcntl.flock(writer, fcntl.LOCK_EX)
        (open_elsewhere,) = inspection.inspect(path).problems
    subprocess.run([sys.executable, "-c", KILLED, path], check=True)
    (left,) = inspection.inspect(path).problems
    assert open_elsewhere == f"{path}: another process has it open for writing; wait until that has ended"
    assert left.endswith(f"killed one had it: wait for the one, or clear the other's mark by `h5clear -s {path}`")

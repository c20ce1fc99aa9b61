"""Every reader of the package on spoilt files: a ValueError of one line, or what it would have read.

Bytes are flipped, files are cut, and values of JSON files become others. Where a digest or a checksum stands, a
result that differs is wrong too; pixels of So2Sat files, weights in .h5 and .safetensors, and text have none.
"""

import gzip
import json
import shutil

import numpy as np
import pytest

from bplcz_ref import tokenizer
from bplcz_ref.conform import exchange
from bplcz_ref.conform.ops import OPS, worked_out
from bplcz_ref.data import inspection, so2sat
from bplcz_ref.encoders import ebcnn
from bplcz_ref.storage import files, weights
from bplcz_ref.training import evaluate, runs

CASES = 12  # of each reader
ODD = [None, True, -1, 2.5, 10**400, "", "text", [], {}, [[1]], {"a": 1}]


def answers(path):
    cases = [case for case in exchange.load() if "bce" in case.id]
    made = {case.id: worked_out(OPS[case.op].run, case, "float32") for case in cases}
    tensors = {id: {o: exchange.tensor(x) for o, x in out.items()} for id, out in made.items()}
    files.write_json(path, {"kit": exchange.VERSION, "seed": 0, "dtype": "float32", "answers": tensors})


def rows(path):
    with so2sat.open_file(path, scale=False) as patches:
        patches.stored(range(17), np.float64)
        return patches.labels.tolist(), str(patches.parts), patches.simulated


def seventeen(path):
    values = (np.random.default_rng(0).random((17, 32, 32, c), "f4") for c in (8, 10))
    so2sat.write_file(path, 17, [(*values, np.arange(17))], {"simulated": True, "train_rows": 10})


def merges(path):
    path.write_bytes(gzip.compress((tokenizer.vocabulary_folder() / tokenizer.MACHINE_FILE).read_bytes()))


def saved(path):
    weights.save(path, ebcnn.encoder(3, width=1, features=2).init(np.random.default_rng(0), np.dtype("f4"))[0])


def bits(path):
    return {name: (a.shape, a.tobytes()) for name, a in weights.read_arrays(path).items()}


def trained(path):
    found = evaluate.load(path.parent)
    return {name: a.tobytes() for tree in (found.params, found.state) for name, a in weights.named(tree).items()}


# file: how it is written (None: a file of a run), how it is read, and whether what is read must be the same
READERS = {
    "x.h5": (seventeen, rows, True),
    "y.h5": (seventeen, lambda path: str(inspection.inspect(path)), False),
    "w.npz": (saved, bits, True),
    "w.h5": (saved, lambda path: sorted(bits(path)), True),
    "w.safetensors": (saved, bits, False),
    "merges.gz": (merges, lambda path: tokenizer.Tokenizer.from_merges(path).merges, True),
    "answers.json": (answers, exchange.read, False),
    "checkpoint.npz": (None, trained, True),
    "config.json": (None, trained, False),
    "log.jsonl": (None, lambda path: runs.read_log(path.parent), False),
    "metrics.json": (None, lambda path: runs.read_metrics(path.parent), False),
    "confusion.csv": (None, lambda path: runs.read_confusion(path.parent).tolist(), False),
}
SLOW = ("checkpoint.npz", "config.json")  # which build the network each time


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (n in SLOW)) for n in READERS])
def test_damage_is_named_in_one_line(name, tmp_path, monkeypatch, request):
    if name.endswith(".safetensors"):
        pytest.importorskip("safetensors")
    make, read, protected = READERS[name]
    path = tmp_path / "run" / name
    if make is None:
        shutil.copytree(request.getfixturevalue("whole"), path.parent)
    else:
        path.parent.mkdir()
        make(path)
    for way in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(f"pickle.{way}", lambda *a, **k: pytest.fail("a pickle was opened"))
    sound, right = path.read_bytes(), read(path)
    for k in range(CASES):
        path.write_bytes(spoilt(np.random.default_rng(k), k, name, sound))
        found = result(read, path)
        if isinstance(found, ValueError):
            plain = type(found) is ValueError and str(path.parent) in str(found) and "\n" not in str(found)
            assert plain, (k, found)
        else:
            assert not protected or found == right, (k, "another result was accepted")


def result(read, path):
    try:
        return read(path)
    except ValueError as error:
        return error


def spoilt(rng, k, name, data):
    """Case k: cut, or a few bytes flipped; values of JSON edited; a part of HDF5's own records flipped."""
    if k % 3 == 0:
        return data[: int(rng.integers(len(data)))]
    if k % 3 == 1 and "json" in name:
        first, *others = data.decode().splitlines() if name.endswith("l") else [data.decode()]
        return "\n".join([json.dumps(edited(rng, json.loads(first))), *others]).encode()
    spoilt, end = bytearray(data), min(len(data), 4096) if k % 3 == 1 else len(data)
    for at in rng.integers(end, size=3).tolist():
        spoilt[at] ^= int(rng.integers(1, 256))
    return bytes(spoilt)


def edited(rng, value):
    """One value somewhere becomes another of an odd kind, or is missing."""
    keys = list(value) if isinstance(value, dict) else list(range(len(value)))
    key = keys[rng.integers(len(keys))]
    if isinstance(value[key], dict | list) and value[key] and rng.random() < 0.7:
        value[key] = edited(rng, value[key])
    elif rng.random() < 0.2:
        del value[key]
    else:
        value[key] = ODD[rng.integers(len(ODD))]
    return value

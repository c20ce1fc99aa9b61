"""How files are spoilt: bytes, the leaves of JSON, the arrays of .npz and the data sets of HDF5. For test_fuzz.py.

Each function takes a random generator and returns what it did to the file in words.
"""

import io
import json
import zipfile
from pathlib import Path

import h5py
import numpy as np

# ------------------------------------------------------------------------------------------------------- bytes


def spoil_bytes(rng, path: Path, inside: list[tuple[int, int]]) -> str:
    """One to three changes, each of 1 to 64 bytes or a cut, whose first byte is in one of the ranges `inside`."""
    data, said = bytearray(path.read_bytes()), []
    for _ in range(rng.integers(1, 4)):
        first, last = inside[rng.integers(len(inside))]
        at = int(rng.integers(first, max(first + 1, min(last, len(data)))))
        length = int(2 ** rng.integers(0, 7))
        kind = ("bit", "byte", "zeros", "ones", "noise", "repeat", "delete", "insert", "cut")[rng.integers(9)]
        piece = bytes(data[at : min(at + length, last)])
        if kind == "bit" and piece:
            data[at] ^= 1 << int(rng.integers(8))
        elif kind == "byte" and piece:
            data[at] = int(rng.integers(256))
        elif kind in ("zeros", "ones", "noise"):
            new = {"zeros": bytes(len(piece)), "ones": b"\xff" * len(piece), "noise": rng.bytes(len(piece))}[kind]
            data[at : at + len(piece)] = new
        elif kind == "repeat":
            room = max(0, min(last, len(data)) - at - length)
            data[at + length : at + 2 * length] = piece[:room] + data[at + length + room : at + 2 * length]
        elif kind == "delete":
            del data[at : at + length]
        elif kind == "insert":
            data[at:at] = rng.bytes(length)
        elif kind == "cut":
            del data[at:]
        said.append(f"{kind} {length} at {at}")
    path.write_bytes(data)
    return ", ".join(said)


# -------------------------------------------------------------------------------------------------------- JSON

RAW = {  # JSON text of values that json.dumps would not write, or that take long to write
    "deep": "[" * 100_000 + "]" * 100_000,
    "deep objects": '{"a":' * 5_000 + "1" + "}" * 5_000,
    "unclosed": "[" * 100_000,
    "5000 digits": "9" * 5_000,
    "400 digits": "9" * 400,
    "long text": '"' + "x" * 100_000 + '"',
    "surrogate": '"\\ud800"',
    "null byte": '"a\\u0000b"',
    "NaN": "NaN",
    "infinite": "1e999",
    "minus": "-Infinity",
}
RAW |= {
    repr(value): json.dumps(value)
    for value in (
        *(None, True, False, "", "2", "text", "/dev/zero", [], {}, [[]], [1, "a"], {"a": 1}),
        *(0, 1, -1, 2, 17, 2**31, 2**63, 2**64, 10**15, 0.5, -0.5, 1.0, 2.7, 1e-300, 1e300, -1e300),
    )
}
MARK = "\0here\0"


def places(value, path=()):
    """The path of each part of a JSON value, itself included."""
    yield path
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in parts:
        yield from places(part, (*path, key))


def spoil_json(rng, text: str) -> tuple[str, str]:
    """(text, words): one part replaced, taken out, or there twice under another name."""
    value = json.loads(text)
    every = list(places(value))
    by_depth = sorted({len(p) for p in every})
    depth = by_depth[rng.integers(len(by_depth))]  # or long arrays would get all
    chosen = [p for p in every if len(p) == depth]
    path = chosen[rng.integers(len(chosen))]
    kind = ("replace", "replace", "replace", "remove", "add")[rng.integers(5)]
    parent = value
    for key in path[:-1]:
        parent = parent[key]
    if kind == "add" and path and isinstance(parent, dict):
        parent[f"{path[-1]}2"] = parent[path[-1]]
        return json.dumps(value), f"add beside {path}"
    if kind == "remove" and path:
        del parent[path[-1]]
        return json.dumps(value), f"remove {path}"
    name = list(RAW)[rng.integers(len(RAW))]
    if not path:
        return RAW[name], f"all is {name}"
    parent[path[-1]] = MARK
    return json.dumps(value).replace(json.dumps(MARK), RAW[name]), f"{path} is {name}"


def spoil_json_file(rng, path: Path) -> str:
    text, words = spoil_json(rng, path.read_text(encoding="utf-8"))
    path.write_text(text, encoding="utf-8")
    return words


def spoil_json_lines(rng, path: Path) -> str:
    """One line of a file of JSON lines: its value, or its order."""
    lines = path.read_text(encoding="utf-8").splitlines()
    k = int(rng.integers(len(lines)))
    kind = ("value", "value", "value", "twice", "swap", "empty", "remove")[rng.integers(7)]
    words = kind
    if kind == "value":
        lines[k], words = spoil_json(rng, lines[k])
    elif kind == "twice":
        lines.insert(k, lines[k])
    elif kind == "swap":
        lines[0], lines[k] = lines[k], lines[0]
    elif kind == "empty":
        lines[k] = ""
    else:
        del lines[k]
    text = "\n".join(lines) + "\n"
    path.write_bytes(text.encode("utf-16" if rng.integers(20) == 0 else "utf-8"))
    return f"line {k}: {words}"


def spoil_csv(rng, path: Path) -> str:
    """One cell of a table."""
    cells = [line.split(",") for line in path.read_text(encoding="utf-8").splitlines()]
    i = int(rng.integers(len(cells)))
    j = int(rng.integers(len(cells[i])))
    values = ("", "-1", "1.5", "nan", "inf", "x", "9" * 30, "9" * 5000, "\u00b2", "1_0", " 1", "1,1", "\0", "\n")
    cells[i][j] = values[rng.integers(len(values))]
    path.write_text("\n".join(map(",".join, cells)) + "\n", encoding="utf-8")
    return f"row {i}, cell {j} is {cells[i][j][:20]!r}"


# ------------------------------------------------------------------------------------------------------ arrays


def odd_array(rng, array: np.ndarray) -> tuple[np.ndarray, str]:
    """An array of another type, shape or value."""
    array = np.asarray(array)
    one = array.copy()
    if one.size:
        one = one.astype(float)
        one.flat[rng.integers(one.size)] = (np.nan, np.inf, -np.inf, 1e300, -1e300, -1.0)[rng.integers(6)]
    with np.errstate(over="ignore"):  # the digests of rows are beyond float16
        half = array.astype("f2")
    odd = {
        "a value": one,
        "float16": half,
        "longdouble": array.astype(np.longdouble),
        "whole": array.astype("i8"),
        "unsigned": array.astype("u1"),
        "complex": array.astype("c16"),
        "boolean": array.astype("?"),
        "text": array.astype("U"),
        "bytes": np.full(array.shape, b"ab"),
        "dates": array.astype("i8").astype("M8[s]"),
        "records": np.zeros(array.shape, "f8,i4"),
        "big-endian": array.astype(array.dtype.newbyteorder(">")),
        "empty": array.ravel()[:0],
        "one axis more": array[None],
        "flat": array.ravel(),
        "a scalar": np.float64(0.5),
        "one number": np.ones((1,)),
        "wide": np.concatenate((array.ravel(), array.ravel())),
        "reversed": array.T[..., None],
        "zeros": array * 0,
        "huge": np.full(array.shape, 1e18),
    }
    name = list(odd)[rng.integers(len(odd))]
    return odd[name], name


def npy(array: np.ndarray) -> bytes:
    """An .npy file; of an array of objects its header, after which such files hold a pickle, and zeros."""
    file, array = io.BytesIO(), np.asarray(array)
    if array.dtype.hasobject:
        header = {"descr": "|O", "fortran_order": False, "shape": array.shape}
        np.lib.format.write_array_header_1_0(file, header)
        file.write(bytes(8 * array.size))
    else:
        np.lib.format.write_array(file, array, allow_pickle=False)
    return file.getvalue()


def spoil_npz(rng, path: Path) -> str:
    """One entry of an archive: its array, name, header or packing."""
    with zipfile.ZipFile(path) as archive:
        entries = [(info.filename, archive.read(info)) for info in archive.infolist()]
    k = int(rng.integers(len(entries)))
    name, data = entries[k]
    array = np.lib.format.read_array(io.BytesIO(data))
    kinds = ("array",) * 8 + ("remove", "add", "twice", "name", "header", "objects", "not npy", "bomb", "bare")
    kind = words = kinds[rng.integers(len(kinds))]
    if kind == "array":
        array, words = odd_array(rng, array)
        entries[k] = (name, npy(array))
    elif kind == "remove":
        del entries[k]
    elif kind == "add":
        entries.append(("more/of/it.npy", data))
    elif kind == "twice":
        entries.append((name, npy(array * 0)))
    elif kind == "name":
        entries[k] = ((".npy", "../x.npy", "step", name + ".npy", "/", "params/.npy")[rng.integers(6)], data)
    elif kind == "header":
        head = (b"(99999999999,)", b"(-1,)", b"(1e9,)", b"()", b"(2**40,)", b"'a'")[rng.integers(6)]
        start = data.find(b"'shape': ") + 9
        stop = data.find(b")", start) + 1
        entries[k] = (name, data[:start] + head.ljust(stop - start)[: stop - start] + data[stop:])
    elif kind == "objects":
        entries[k] = (name, npy(np.array([None, "a"], dtype=object)))
    elif kind == "not npy":
        entries[k] = (name, b"what is this")
    elif kind == "bomb":
        entries[k] = (name, npy(np.zeros(1 << 22)))
    if kind == "bare":
        path.write_bytes(data)
        return f"a bare .npy of {name}"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for entry, content in entries:
            archive.writestr(entry, content)
    return f"{name}: {words}"


def spoil_hdf5(rng, path: Path) -> str:
    """One data set or attribute of a file."""
    with h5py.File(path, "r+") as file:
        names: list = []
        file.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None)
        name = names[rng.integers(len(names))]
        if rng.integers(4) == 0:
            values = (
                0,
                -1,
                2.5,
                "false",
                "x" * 1000,
                True,
                np.arange(3),
                h5py.Empty("f8"),
                2**63 - 1,
                b"\xff",
                np.nan,
            )
            key = ("train_rows", "test_rows", "simulated", "source_rows", "more")[rng.integers(5)]
            file.attrs[key] = values[rng.integers(len(values))]
            return f"attribute {key}"
        array = file[name][()]
        del file[name]
        kind = ("array",) * 6 + ("group", "soft", "circle", "external", "null", "never", "halves", "text")
        words = kind[rng.integers(len(kind))]
        if words == "array":
            array, words = odd_array(rng, array)
            if array.dtype.kind in "UM":
                array, words = array.astype("S"), "bytes"
            file[name] = array
        elif words == "group":
            file.create_group(name)["in"] = 1
        elif words == "soft":
            file[name] = h5py.SoftLink("/nowhere")
        elif words == "circle":
            file[name] = h5py.SoftLink(f"/{name}")
        elif words == "external":
            file[name] = h5py.ExternalLink(("/dev/zero", path.name, "none.h5")[rng.integers(3)], name)
        elif words == "null":
            file[name] = h5py.Empty("f8")
        elif words == "never":
            file.create_dataset(name, (2**27, *array.shape[1:]), "f8")
        elif words == "halves" and array.size > 1:
            half = file.create_dataset(name, array.shape, "f8", chunks=(1, *array.shape[1:]))
            half[: len(array) // 2] = 0
        else:
            file[name] = "text"
        return f"{name}: {words}"


def spoil_safetensors(rng, path: Path) -> str:
    """One part of the header."""
    data = path.read_bytes()
    end = 8 + int.from_bytes(data[:8], "little")
    header, words = spoil_json(rng, data[8:end].decode())
    raw = header.encode()
    path.write_bytes(len(raw).to_bytes(8, "little") + raw + data[end:])
    return words

"""What the kit is made of: tensors, cases, their inputs, the packaged vectors, and the error that is allowed.

The JSON formats are described in bplcz_ref/conform/__init__.py. Nothing here computes an expected value.
"""

import contextlib
import functools
import hashlib
import json
import math
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bplcz_ref import schema
from bplcz_ref.conform.exact import Array, Exact

VERSION = "2.0.0"  # MAJOR: the formats; MINOR: cases or near misses; PATCH: a case that was wrong
VECTORS = Path(__file__).resolve().parent.parent / "vectors"
MERGES = VECTORS / "merges.txt"
SUITES = {
    0: "canaries",
    1: "equations",
    2: "supervised-matrix",
    3: "sgd",
    4: "bands",
    5: "text",
    6: "encoders",
    7: "chain",
    8: "metrics",
    9: "inference",
}

# ---------------------------------------------------------------- the error that is allowed

EPS = {"float64": 2.0**-52, "float32": 2.0**-23, "float16": 2.0**-10, "bfloat16": 2.0**-7}
BITS = {"bfloat16": 8, "float16": 11, "float32": 24}  # of the mantissa; TF32 has float16's
RANGES = {
    "float64": (2.0**-1022, 1.79e308),
    "float32": (2.0**-126, 3.4e38),
}  # the smallest with all bits, the largest
RANGES |= {"float16": (2.0**-14, 65504.0), "bfloat16": (2.0**-126, 3.4e38)}
FACTOR = 8  # a sum of some hundred terms in another order is wrong by a few eps of its scale, not by more
MARGIN = 10  # a wrong reading shows where it lies this many budgets of float32 from the right value


def budget(expected: dict, dtype: str) -> float:
    """The largest error that passes, in units of the output's scale: FACTOR x amplification x eps."""
    return FACTOR * expected["amplification"] * EPS[dtype]


def coarse(x: Any, dtype: str) -> Any:
    """Numbers rounded to the bits of a coarser dtype (to nearest, ties to even); what is no float is unchanged.

    >>> coarse(np.array([1.0, 1.001, 1.01]), "bfloat16").tolist()
    [1.0, 1.0, 1.0078125]
    """
    if not isinstance(x, (float, np.ndarray)) or np.asarray(x).dtype.kind != "f":
        return x
    mantissa, exponent = np.frexp(x)
    rounded = np.ldexp(np.rint(np.ldexp(mantissa, BITS[dtype])), exponent - BITS[dtype])
    return float(rounded) if isinstance(x, float) else rounded


# ---------------------------------------------------------------- tensors

WORDS = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
LARGEST, MOST_AXES = 10_000_000, 16  # entries and axes of one tensor
ALL_DIGITS = 17  # significant digits that tell any two float64 numbers apart


def tensor(x: Array, digits: int = ALL_DIGITS) -> dict:
    """A TENSOR of an Exact, an array, a number or text; floats to `digits` digits.

    >>> tensor(np.array([[1.5, 2.0]]))
    {'dtype': 'float64', 'shape': [1, 2], 'data': [1.5, 2.0]}
    >>> tensor("vh")
    {'dtype': 'string', 'shape': [], 'data': ['vh']}
    """
    if isinstance(x, str):
        return {"dtype": "string", "shape": [], "data": [x]}
    if isinstance(x, (list, tuple)) and all(isinstance(s, str) for s in x):
        return {"dtype": "string", "shape": [len(x)], "data": list(x)}
    array = x.value if isinstance(x, Exact) else np.asarray(x)
    if array.dtype.kind in "iub":
        return {"dtype": "int64", "shape": list(array.shape), "data": [int(v) for v in array.ravel()]}
    return {"dtype": "float64", "shape": list(array.shape), "data": [_written(v, digits) for v in array.ravel()]}


def _written(v, digits):
    """A float, or the word for what JSON has no number for."""
    v = float(v)
    if not math.isfinite(v):
        return "NaN" if math.isnan(v) else "Infinity" if v > 0 else "-Infinity"
    return v + 0.0 if digits >= ALL_DIGITS else float(f"{v:.{digits}g}")  # + 0.0 turns -0.0 into 0.0


def array(t: dict, where: str) -> np.ndarray | str | list:
    """The array of a TENSOR, or text, or a list of text; ValueError names `where` and what is wrong.

    >>> array({"shape": [1, 2], "data": [1, "NaN"]}, "answers.json: bce/ordinary: S").tolist()
    [[1.0, nan]]
    """
    if not isinstance(t, dict) or not {"shape", "data"} <= set(t):
        raise ValueError(f'{where}: expected {{"shape": [...], "data": [...]}}, found {brief(t)}')
    shape, data = t["shape"], t["data"]
    if not isinstance(shape, list) or len(shape) > MOST_AXES or not all(map(_is_length, shape)):
        raise ValueError(
            f"{where}: shape is {brief(shape)}, expected a list of whole numbers, at most {MOST_AXES}, each up to"
            f" {LARGEST:,}"
        )
    if not isinstance(data, list):
        raise ValueError(f"{where}: data is {brief(data)}, expected one flat list")
    if len(data) > LARGEST or math.prod(shape) != len(data):
        raise ValueError(f"{where}: shape {brief(shape)} means {math.prod(shape)} entries, found {len(data)}")
    if data and all(type(v) is str and v not in WORDS for v in data):
        return data if shape else data[0]
    if not data and t.get("dtype") == "string":
        return []
    if data and all(type(v) is int and abs(v) < 2**63 for v in data):  # JavaScript writes 1e20 without a point
        return np.array(data, dtype=np.int64).reshape(shape)
    numbers = []
    for place, v in enumerate(data):
        if type(v) is str and v in WORDS:
            v = WORDS[v]
        if type(v) not in (int, float):
            raise ValueError(f'{where}: entry {place} is {brief(v)}, expected a number or "NaN", "Infinity"')
        try:
            numbers.append(float(v))
        except OverflowError:
            raise ValueError(f"{where}: entry {place} is beyond float64") from None
    return np.array(numbers, dtype=np.float64).reshape(shape)


def _is_length(n):
    return type(n) is int and 0 <= n <= LARGEST  # bool is an int to isinstance, but no number here


def floats(t: dict) -> np.ndarray:
    """The numbers of one of the kit's own TENSORs as float64, in its shape."""
    data = [WORDS[v] if isinstance(v, str) else v for v in t["data"]]
    return np.array(data, dtype=np.float64).reshape(t["shape"])


def distance(a: np.ndarray, r: np.ndarray, scale: float) -> float:
    """max |a - r| / scale; equal infinities, and a nan for a nan, have the distance 0."""
    if not a.size:
        return 0.0
    with np.errstate(invalid="ignore", over="ignore"):
        gap = np.abs(a.astype(np.float64) - r)
    gap = np.where((a == r) | (np.isnan(a) & np.isnan(r)), 0.0, gap)
    return math.inf if np.isnan(gap).any() else float(gap.max()) / scale


def brief(x: Any) -> str:
    """A value as short text."""
    return schema.brief(x, 60)


# ---------------------------------------------------------------- cases


class Case(NamedTuple):
    """What is computed, from what, and why. The operation is the part of the id before the slash."""

    id: str
    why: str
    inputs: dict  # name -> float array, int array, number or text
    cotangents: dict = {}  # output -> float array; empty where no gradient is asked for
    gradients: tuple = ()  # the inputs whose gradients are asked for
    flag: str = "ORDINARY"  # or CANARY, EDGE, PRECISION
    shows: tuple = ()  # wrong readings that this case is there for
    needs: float = 1.0  # the smallest constant of the formula that decides here
    least: float = 1.0  # the least amplification, where rounding alone would be measured as too small

    @property
    def op(self) -> str:
        return self.id.split("/")[0]


def case_of(data: dict, dtype: str = "float64") -> Case:
    """The Case of a CASE of the vectors, with arrays of floats in `dtype`."""
    inputs: dict = {}
    for name, t in data["inputs"].items():
        x = array(t, f"{data['id']}: {name}")
        if isinstance(x, np.ndarray):
            x = x.astype(dtype) if x.dtype.kind == "f" and x.shape else x if x.shape else x.item()
        inputs[name] = x
    cotangents = {name: floats(t).astype(dtype) for name, t in data.get("cotangents", {}).items()}
    named = [output.removeprefix("grad.") for output in data["expect"] if output.startswith("grad.")]
    gradients = tuple(name for name in named if name in inputs) if cotangents else ()
    return Case(data["id"], data["why"], inputs, cotangents, gradients, flag=data["flag"])


_salt = ""  # before the names below: fresh cases have one


@contextlib.contextmanager
def salted(salt: str) -> Iterator[None]:
    """Other numbers for the same names, for fresh cases."""
    global _salt
    before, _salt = _salt, salt
    try:
        yield
    finally:
        _salt = before


def _start(name):
    return zlib.crc32((_salt + name).encode())


def grid(name: str, shape: tuple, low: int = -48, high: int = 48) -> np.ndarray:
    """Numbers k / 32 with whole k from low to high, from a linear congruential generator seeded by `name`.

    They are the same on every platform and with every version of NumPy, and exact in each of the four dtypes.
    """
    state, numbers = _start(name), []
    for _ in range(math.prod(shape)):
        state = (6364136223846793005 * state + 1442695040888963407) % 2**64
        numbers.append((low + (state >> 33) % (high - low + 1)) / 32)
    return np.array(numbers).reshape(shape)


def full(name: str, shape: tuple, low: float = -1.5, high: float = 1.5) -> np.ndarray:
    """Numbers from low to high with all of float64's 53 bits, likewise: coarser dtypes have to round them."""
    state, numbers = _start(name), []
    for _ in range(math.prod(shape)):
        for _ in range(2):  # the upper bits of two states
            state = (6364136223846793005 * state + 1442695040888963407) % 2**64
        numbers.append(low + (high - low) * ((state >> 11 | 1) / 2**53))
    return np.array(numbers).reshape(shape)


def whole(name: str, shape: tuple, low: int, high: int) -> np.ndarray:
    """Whole numbers from low to high, likewise."""
    return np.rint(32 * grid(name, shape, low, high)).astype(np.int64)


# ---------------------------------------------------------------- the packaged vectors


class Kit(NamedTuple):
    manifest: dict
    digest: str  # SHA-256 of manifest.json
    cases: dict  # id -> CASE, in order
    suites: dict  # id -> suite number


@functools.cache
def load(folder: Path = VECTORS) -> Kit:
    """The vectors of a folder; ValueError names the file that is missing or was changed."""
    text = _read(folder / "manifest.json")
    manifest = json.loads(text)
    data = {name: _read(folder / name) for name in listed(manifest)}
    for name, entry in (manifest["files"] | manifest["other_files"]).items():
        if hashlib.sha256(data[name]).hexdigest() != entry["sha256"]:
            raise ValueError(f"{folder / name}: checksum differs from manifest.json; install the package again")
    return assembled(text, data)


def listed(manifest: dict) -> list:
    """The names of all files of a kit except for its manifest."""
    return [*manifest["files"], *manifest["other_files"]]


def assembled(text: bytes, data: dict) -> Kit:
    """The Kit of its manifest and of the contents of its files."""
    manifest = json.loads(text)
    cases, suites = {}, {}
    for name in manifest["files"]:
        suite = json.loads(data[name])
        for case in suite["cases"]:
            cases[case["id"]], suites[case["id"]] = case, suite["suite"]
    return Kit(manifest, hashlib.sha256(text).hexdigest(), cases, suites)


def _read(path):
    try:
        return path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror}); install the package again") from None

"""Arrays as the kit's JSON has them, {"dtype", "shape", "data"}, flat and row-major, and back, checked."""

import math

import numpy as np

from bplcz_ref.conform.exact import Exact

WORDS = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
LARGEST = 10_000_000  # entries of one tensor


def tensor(x, digits=17):
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
    return {"dtype": "float64", "shape": list(array.shape), "data": [written(v, digits) for v in array.ravel()]}


def written(v, digits=17):
    """A float, or the word for what JSON has no number for."""
    v = float(v)
    if not math.isfinite(v):
        return "NaN" if math.isnan(v) else "Infinity" if v > 0 else "-Infinity"
    return v + 0.0 if digits >= 17 else float(f"{v:.{digits}g}")


def array(t, where):
    """The array of a TENSOR (a list of str for text); ValueError that names `where` and what is wrong.

    >>> array({"shape": [1, 2], "data": [1, "NaN"]}, "answers.json: bce/ordinary: S").tolist()
    [[1.0, nan]]
    """
    if not isinstance(t, dict) or not {"shape", "data"} <= set(t):
        raise ValueError(f'{where}: expected {{"shape": [...], "data": [...]}}, found {brief(t)}')
    shape, data = t["shape"], t["data"]
    if not isinstance(shape, list) or not all(type(n) is int and n >= 0 for n in shape):
        raise ValueError(f"{where}: shape is {brief(shape)}, expected a list of whole numbers")
    if not isinstance(data, list):
        raise ValueError(f"{where}: data is {brief(data)}, expected one flat list")
    if len(data) > LARGEST or math.prod(shape) != len(data):
        raise ValueError(f"{where}: shape {shape} means {math.prod(shape)} entries, found {len(data)}")
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


def brief(x):
    """A value as short text."""
    text = repr(x)
    return text if len(text) <= 60 else text[:57] + "..."

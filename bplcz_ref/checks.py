"""What the arguments of an equation must be: one line above a function, so that its body shows the formula alone.

    @takes(S="B P", W="binary B P")
    def bce(S, W): ...

A specification names the axes of its argument. A letter has one size throughout a call; "*" is of any size.

    "B d"              an array, float32 or float64, with at least one entry; all arrays of a call have one dtype
    "[B d]"            a sequence of one or more such arrays
    ""                 one number, such as a loss
    "coefficient"      a number such as alpha, which takes the dtype of the arrays; "positive" must be above 0
    "size"             a whole number of 1 or more: the argument K is the size of the letter K
    "labels B"         integer class numbers; "labels B < K" must lie in 0..K-1
    "binary B P"       zeros and ones, converted to the dtype of the arrays; "symmetric B B" equals its transpose
    "counts K K"       whole numbers, not negative and not all 0, converted to int64

What fails raises ValueError: the argument, what was found, what was expected. autograd's boxes pass through.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
from autograd.tracer import getval, isbox

Function = TypeVar("Function", bound=Callable)


def takes(**specifications: str) -> Callable[[Function], Function]:
    """A decorator that checks and converts the named arguments, in this order, before the function runs.

    >>> double = takes(x="B d")(lambda x: 2 * x)
    >>> double(np.ones((1, 2))).tolist()
    [[2.0, 2.0]]
    >>> double(np.ones(2))
    Traceback (most recent call last):
      ...
    ValueError: x: found shape (2,), expected (B, d)
    """

    def decorate(function):
        signature = inspect.signature(function)

        @functools.wraps(function)
        def checked(*args, **kwargs):
            call = signature.bind(*args, **kwargs)
            call.apply_defaults()
            seen: dict = {}
            for name, specification in specifications.items():
                call.arguments[name] = argument(name, call.arguments[name], specification, seen)
            with np.errstate(under="ignore"):  # e^-1000 is 0, whatever the caller has set
                return function(*call.args, **call.kwargs)

        return checked

    return decorate


def argument(name: str, x: Any, specification: str, seen: dict) -> Any:
    """The argument as its function takes it; `seen` has sizes and dtype so far, each with what set it."""
    if specification.startswith("["):
        parts = [argument(f"{name}[{i}]", part, specification[1:-1], seen) for i, part in enumerate(x)]
        require(parts, f"{name}: found no array, expected at least one")
        return parts
    kind, _, axes = specification.partition(" ")
    if kind == "size":
        require((integer(x) or 0) > 0, f"{name}: found {x!r}, expected a whole number of 1 or more")
        seen[name] = int(x), f"the argument {name}"
        return int(x)
    value = array(name, getval(x))
    if kind in ("coefficient", "positive"):
        require(kind == "coefficient" or 0 < value < np.inf, f"{name}: found {x}, expected a number above 0")
        if not isbox(x):
            return float(x)  # NumPy's own float64 numbers would turn float32 arrays into float64
        if hasattr(getval(x), "dtype"):
            same_dtype(name, value.dtype, seen)
        return x
    if kind in CONVERTED:
        return CONVERTED[kind](name, value, axes, seen)
    plain = type(x) in (int, float)  # a Python number takes any dtype; NumPy's numbers have one
    if not plain:
        same_dtype(name, value.dtype, seen)
    fit(name, value.shape, specification, seen)
    return x if isbox(x) or plain else value


def require(truth: Any, message: str) -> None:
    if not truth:
        raise ValueError(message)


def array(name: str, x: Any) -> np.ndarray:
    """x as an array. Errors: ValueError for a masked one, whose fill values would count as data."""
    parts = x if isinstance(x, list | tuple) else [x]
    masked = any(isinstance(part, np.ma.MaskedArray) for part in parts)
    require(not masked, f"{name}: found a masked array, expected a plain one; leave masked samples out first")
    return np.asarray(x)


def integer(value: object) -> int | None:
    """The int of an integer (NumPy's too), None for anything else, True and False included."""
    return int(value) if isinstance(value, (int, np.integer)) and not isinstance(value, bool) else None


def fit(name: str, shape: tuple, axes: str, seen: dict) -> None:
    letters = axes.split()
    expected = f"({', '.join(letters)}{',' * (len(letters) == 1)})" if letters else "one number"
    require(len(shape) == len(letters), f"{name}: found shape {shape}, expected {expected}")
    require(0 not in shape, f"{name}: found the empty shape {shape}, expected at least one entry")
    for letter, size in zip(letters, shape, strict=True):
        known, where = seen.setdefault(letter, (size, name))
        fits = letter == "*" or known == size
        require(fits, f"{name}: found shape {shape}, expected {expected} with {letter} = {known}, as in {where}")


def same_dtype(name: str, dtype: np.dtype, seen: dict) -> None:
    known = dtype in (np.float32, np.float64)
    require(known, f"{name}: found dtype {dtype}, expected float32 or float64; convert it with astype")
    first, where = seen.setdefault("dtype", (dtype, name))
    require(dtype == first, f"{name}: found dtype {dtype}, expected {first}, as in {where}")


def labels(name: str, y: np.ndarray, axes: str, seen: dict) -> np.ndarray:
    axes, _, classes = axes.partition(" < ")
    one_hot = "one class number per sample; for one-hot labels take argmax(axis=1)"
    require(y.ndim == 1 and y.size, f"{name}: found shape {y.shape}, expected ({axes},), {one_hot}")
    require(y.dtype.kind in "iu", f"{name}: found dtype {y.dtype}, expected class numbers; use astype(int)")
    fit(name, y.shape, axes, seen)
    if classes:
        K, where = seen[classes]
        row = int(np.argmax((y < 0) | (y >= K)))  # the first outside, if any is
        shifted = "; subtract 1 from labels that count from 1" if y.min() == 1 and y.max() == K else ""
        message = f"{name}: row {row} has class {y[row]}, expected 0..{K - 1}; classes are counted from 0, "
        require(0 <= y[row] < K, f"{message}and there are {K}, as in {where}{shifted}")
    return y


def binary(name: str, W: np.ndarray, axes: str, seen: dict) -> np.ndarray:
    fit(name, W.shape, axes, seen)
    for place in np.argwhere((W != 0) & (W != 1))[:1]:
        found = f"{name}: entry {tuple(place.tolist())} is {W[tuple(place)]}"
        raise ValueError(f"{found}, expected 0 or 1; supervised_matrix (Eq. 5) builds W")
    return W.astype(seen["dtype"][0]) if "dtype" in seen else W


def symmetric(name: str, W: np.ndarray, axes: str, seen: dict) -> np.ndarray:
    W = binary(name, W, axes, seen)
    mirrored = f"{name}: found a matrix that is not symmetric, expected W = W^T, as Eq. (5) builds it"
    require(np.array_equal(W, W.T), mirrored)
    return W


def counts(name: str, C: np.ndarray, axes: str, seen: dict) -> np.ndarray:
    fit(name, C.shape, axes, seen)
    counted = C.dtype.kind in "iu" and C.min() >= 0 and C.max() > 0
    found = f"{name}: found {C.dtype} values from {C.min()} to {C.max()}, expected counts: whole, not negative"
    require(counted, f"{found}, not all 0; a normalised matrix has lost them")
    return C.astype(np.int64)


CONVERTED = {"labels": labels, "binary": binary, "symmetric": symmetric, "counts": counts}

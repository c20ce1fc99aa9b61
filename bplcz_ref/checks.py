"""What the arguments of an equation must be: one line above a function, so that its body shows the formula alone.

    @takes(S="B P", W="binary B P")
    def bce(S, W): ...

A specification names the axes of its argument. A letter has one size throughout a call; "*" is of any size.

    "B d"              an array, float32 or float64, with at least one entry; all arrays of a call have one dtype
    "[B d]"            a sequence of one or more such arrays
    ""                 one number, such as a loss
    "coefficient"      a number such as alpha, which takes the dtype of the arrays; "positive" must be above 0
    "labels B"         integer class numbers; "labels B < K" must lie in 0..K-1
    "binary B P"       zeros and ones, converted to the dtype of the arrays; "symmetric B B" equals its transpose

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
            call, seen = signature.bind(*args, **kwargs), Seen()
            call.apply_defaults()
            for name, specification in specifications.items():
                call.arguments[name] = seen.argument(name, call.arguments[name], specification)
            return function(*call.args, **call.kwargs)

        return checked

    return decorate


class Seen:
    """The sizes and the dtype of the arguments of one call so far, each with the argument that set it."""

    def __init__(self) -> None:
        self.sizes: dict[str, tuple[int, str]] = {}
        self.dtype: tuple[np.dtype, str] | None = None

    def argument(self, name: str, x: Any, specification: str) -> Any:
        """The argument as its function takes it."""
        kind, _, rest = specification.partition(" ")
        if kind in ("coefficient", "positive"):
            if kind == "positive" and not 0 < getval(x) < np.inf:
                raise ValueError(f"{name}: found {x}, expected a number above 0")
            return self.coefficient(name, x)
        if kind == "labels":
            return self.labels(name, x, *rest.split(" < "))
        if kind in ("binary", "symmetric"):
            return self.binary(name, x, rest, symmetric=kind == "symmetric")
        if specification.startswith("["):
            parts = [self.array(f"{name}[{i}]", part, specification[1:-1]) for i, part in enumerate(x)]
            if not parts:
                raise ValueError(f"{name}: found no array, expected at least one")
            return parts
        return self.array(name, x, specification)

    def array(self, name: str, x: Any, axes: str) -> Any:
        plain = type(x) in (int, float)  # a Python number takes any dtype; NumPy's numbers have one
        x = x if isbox(x) or plain else np.asarray(x)
        value = np.asarray(getval(x))
        if not plain:
            self.same_dtype(name, value.dtype)
        self.fit(name, value.shape, axes)
        return x

    def fit(self, name: str, shape: tuple, axes: str) -> None:
        letters = axes.split()
        expected = f"({', '.join(letters)}{',' * (len(letters) == 1)})" if letters else "one number"
        if len(shape) != len(letters):
            raise ValueError(f"{name}: found shape {shape}, expected {expected}")
        if 0 in shape:
            raise ValueError(f"{name}: found the empty shape {shape}, expected at least one entry")
        for letter, size in zip(letters, shape, strict=True):
            known, where = self.sizes.setdefault(letter, (size, name))
            if letter != "*" and known != size:
                raise ValueError(
                    f"{name}: found shape {shape}, expected {expected} with {letter} = {known}, as in {where}"
                )

    def same_dtype(self, name: str, dtype: np.dtype) -> None:
        if dtype not in (np.float32, np.float64):
            raise ValueError(f"{name}: found dtype {dtype}, expected float32 or float64; convert it with astype")
        self.dtype = self.dtype or (dtype, name)
        if dtype != self.dtype[0]:
            raise ValueError(f"{name}: found dtype {dtype}, expected {self.dtype[0]}, as in {self.dtype[1]}")

    def coefficient(self, name: str, x: Any) -> Any:
        if isbox(x):
            if hasattr(getval(x), "dtype"):
                self.same_dtype(name, getval(x).dtype)
            return x
        return float(x)  # NumPy's own float64 numbers would turn float32 arrays into float64

    def labels(self, name: str, y: Any, axes: str, classes: str | None = None) -> np.ndarray:
        y = np.asarray(getval(y))
        if y.ndim != 1 or y.size == 0:
            raise ValueError(
                f"{name}: found shape {y.shape}, expected (B,), one class number per sample; "
                "for one-hot labels take argmax(axis=1)"
            )
        if y.dtype.kind not in "iu":
            raise ValueError(f"{name}: found dtype {y.dtype}, expected integer class numbers; use astype(int)")
        self.fit(name, y.shape, axes)
        if classes is not None:
            K, where = self.sizes[classes]
            outside = np.flatnonzero((y < 0) | (y >= K))
            if outside.size:
                raise ValueError(
                    f"{name}: row {outside[0]} has class {y[outside[0]]}, expected 0..{K - 1}; classes are "
                    f"counted from 0, one for each of the {K} columns of {where}"
                )
        return y

    def binary(self, name: str, W: Any, axes: str, *, symmetric: bool) -> np.ndarray:
        W = np.asarray(getval(W))
        self.fit(name, W.shape, axes)
        other = np.argwhere((W != 0) & (W != 1))
        if other.size:
            place = tuple(map(int, other[0]))
            raise ValueError(
                f"{name}: entry {place} is {W[place]}, expected 0 or 1; supervised_matrix (Eq. 5) builds W"
            )
        if symmetric and not np.array_equal(W, W.T):
            raise ValueError(
                f"{name}: found a matrix that is not symmetric, expected W = W^T, as Eq. (5) builds it"
            )
        return W if self.dtype is None else W.astype(self.dtype[0])

"""Sizes of differences, and numbers with fewer significant bits."""

import numpy as np

BITS = {"bfloat16": 8, "float16": 11}  # of a number, the leading one included; TF32 has 11 too


def size(a: np.ndarray) -> np.ndarray:
    """(root of the mean square, largest magnitude).

    >>> size(np.array([3.0, -4.0, 0.0, 0.0])).tolist()
    [2.5, 4.0]
    """
    return np.array([np.sqrt(np.mean(np.square(a))), np.max(np.abs(a))]) if a.size else np.zeros(2)


def rounded(x: np.ndarray, bits: int) -> np.ndarray:
    """x rounded to nearest, with `bits` significant bits.

    >>> rounded(np.array([1 + 2**-7, 1 + 2**-9]), 8).tolist()
    [1.0078125, 1.0]
    """
    mantissa, exponent = np.frexp(x)
    return np.ldexp(np.rint(mantissa * 2.0**bits), exponent - bits)

"""Matrix products that the cores share, and wide products in strips.

A product is cut into pieces of PIECE multiplications, at places that its shape alone decides. A piece takes 0.1 to
0.2 ms; below that, waking a helper costs what it gains. Two products of one call, such as dx and dW of a layer,
keep two cores busy without being cut.
"""

from functools import partial

import numpy as np

from .lines import as_lines, repeated
from .scheduler import pieces, run

PIECE = 1 << 23  # multiplications
PIECES, LEAST = 4, 32  # the most pieces of a product, and the fewest rows or columns of one
STRIP = 256  # columns


def product(a: np.ndarray, b: np.ndarray, bias: np.ndarray | None = None) -> np.ndarray:
    # (M, K), (K, N), (N,) -> (M, N)
    """a b + bias."""
    return products((a, b, bias))[0]


def products(*factors: tuple) -> list[np.ndarray]:
    """[a b + bias for a, b, bias in factors], side by side; a bias may be None.

    The longer side of the result is cut. Where the sum is far longer than the result is wide, as in the dW of many
    pixels and few channels, the sum is cut, and its parts are added in order.
    """
    tasks, ends = [], []
    for a, b, bias in factors:
        (M, K), N = a.shape, b.shape[1]
        count = max(1, min(PIECES // len(factors), M * K * N // PIECE))
        if count > 1 and K > 8 * max(M, N):
            cuts = pieces(K, LEAST, count)
            parts = np.empty((len(cuts), M, N), np.result_type(a, b))
            tasks += [partial(_piece, a[:, k], b[k], None, part) for k, part in zip(cuts, parts, strict=True)]
            ends.append(partial(_total, parts, bias))
            continue
        y = np.empty((M, N), np.result_type(a, b))
        if M >= N:
            tasks += [partial(_piece, a[m], b, bias, y[m]) for m in pieces(M, LEAST, count)]
        else:
            for n in pieces(N, LEAST, count):
                tasks.append(partial(_piece, a, b[:, n], None if bias is None else bias[n], y[:, n]))
        ends.append(partial(_total, y[None], None))
    run(tasks)
    return [end() for end in ends]


def _piece(a, b, bias, out):
    np.matmul(a, b, out=out)
    if bias is not None:
        _add(out, bias)


def _total(parts, bias):
    y = parts[0]
    for part in parts[1:]:
        y += part
    if bias is not None:
        _add(y, bias)
    return y


def _add(y, bias):
    """y += bias for every row, along long lines where the memory allows (lines.py)."""
    if y.flags.c_contiguous and y.size:
        (y,) = as_lines(y)
        (bias,) = repeated(y, bias)
    y += bias


def narrow(matrix: np.ndarray, columns: np.ndarray, out: np.ndarray) -> np.ndarray:
    # (m, k), (k, N) -> (m, N)
    """matrix columns by strips, for m and k of some dozens and a large N; written to `out`.

    Up to M N K = 10^6 OpenBLAS multiplies matrices as they stand; above, it packs them first, which for
    m = k = 36 takes half of the time (50 against 99 GFLOP/s). The strips are views, and one call does them all.
    """
    whole = columns.shape[1] // STRIP * STRIP

    def strips(a):  # (n, whole) -> (whole / STRIP, n, STRIP)
        return a[:, :whole].reshape(len(a), -1, STRIP).transpose(1, 0, 2)

    np.matmul(matrix, strips(columns), out=strips(out))
    if whole < columns.shape[1]:
        np.matmul(matrix, columns[:, whole:], out=out[:, whole:])
    return out

"""Matrix products that the cores share, and nn.linear by them.

A product is cut at places that its shape alone decides. Two products of one call, such as dx and dW of a layer,
keep two cores busy without being cut.
"""

import math
from functools import partial

import numpy as np

from .lines import add_per_channel
from .tape import on_tape
from .threads import in_order, pieces, run

PIECE = 1 << 23  # multiplications of a piece: 0.1 to 0.2 ms; below, waking a helper costs what it gains
PIECES, LEAST = 4, 32  # the most pieces of a product, and the fewest rows or columns of one


def products(*factors: tuple) -> list[np.ndarray]:  # (M, K), (K, N) each -> (M, N) each
    """[a b for a, b in factors], side by side.

    The longer side of a result is cut. Where the sum is far longer than the result is wide, as in the dW of many
    pixels and few channels, the sum is cut, and its parts are added in order.
    """
    tasks, results = [], []
    for a, b in factors:
        (M, K), N = a.shape, b.shape[1]
        count = min(PIECES // len(factors), M * K * N // PIECE)
        long = count > 1 and K > 8 * max(M, N)
        cuts = pieces(K if long else max(M, N), LEAST, count)
        y = np.empty((len(cuts) if long else 1, M, N), np.result_type(a, b))
        for k, s in enumerate(cuts):
            if long:
                tasks.append(partial(np.matmul, a[:, s], b[s], out=y[k]))
            elif M >= N:
                tasks.append(partial(np.matmul, a[s], b, out=y[0, s]))
            else:
                tasks.append(partial(np.matmul, a, b[:, s], out=y[0, :, s]))
        results.append(y)
    run(tasks)
    return [in_order(y) for y in results]


def product(a: np.ndarray, b: np.ndarray, bias: np.ndarray | None = None) -> np.ndarray:
    # (M, K), (K, N), (N,) -> (M, N)
    """a b + bias."""
    (y,) = products((a, b))
    if bias is not None:
        add_per_channel(y, bias)
    return y


def column_sums(g: np.ndarray) -> np.ndarray:  # (n, C) -> (C,)
    """The sum of the rows, which BLAS adds faster than np.sum does."""
    return np.dot(np.ones(len(g), g.dtype), g)


def rows_of(a: np.ndarray) -> np.ndarray:  # (..., C) -> (n, C)
    """All leading axes as one axis of rows."""
    return a.reshape(math.prod(a.shape[:-1]), a.shape[-1])


def linear(x, weight, bias=None):  # (..., C), (O, C), (O,) -> (..., O)
    """y = x W^T + b: one product forward, one for each of dx = g W and dW = g^T x backward."""
    arrays = [x, weight] if bias is None else [x, weight, bias]
    seen, (*outputs, inputs), *more = [np.shape(a) for a in arrays]
    if seen[-1:] != (inputs,) or len(outputs) != 1 or more not in ([], [tuple(outputs)]):
        shapes = ", ".join(str(np.shape(a)) for a in arrays)
        raise ValueError(f"linear needs x (..., C), weight (O, C) and bias (O,), got {shapes}")
    return _linear(*arrays)


@on_tape("linear")
def _linear(x, weight, bias=None, *, wanted):
    rows = rows_of(x)

    def back(g):
        g = rows_of(g)
        factors = (g, weight), (g.T, rows), (np.ones((1, len(g)), g.dtype), g)
        shapes = x.shape, weight.shape, weight.shape[:1]
        return [d.reshape(shapes[n]) for n, d in zip(wanted, products(*(factors[n] for n in wanted)), strict=True)]

    return product(rows, weight.T, bias).reshape(*x.shape[:-1], len(weight)), back

"""Matrix products over the last axis as one GEMM each, and rows of a table whose gradient is a sorted sum.

The definitions are nn.linear and nn.embedding.
"""

import math

import numpy as np
from scipy.sparse import csr_array

from .products import product, products
from .tape import on_tape


def linear(
    x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None = None
) -> np.ndarray:  # (..., C), (O, C), (O,) -> (..., O)
    """y = x W^T + b: one GEMM forward, one for each of dx = g W and dW = g^T x backward.

    Gradients are computed only for the arguments that carry them, and only what those need is kept.
    """
    if np.ndim(weight) != 2:
        raise ValueError(f"linear needs weight of shape (out, in), got {np.shape(weight)}")
    if np.ndim(x) < 1 or np.shape(x)[-1] != np.shape(weight)[1]:
        raise ValueError(
            f"linear needs x of shape (..., {np.shape(weight)[1]}) for weight {np.shape(weight)} (out, in), "
            f"got {np.shape(x)}"
        )
    if bias is None:
        return _linear(x, weight)
    if np.shape(bias) != np.shape(weight)[:1]:
        raise ValueError(
            f"linear needs bias of shape {np.shape(weight)[:1]} for weight {np.shape(weight)} (out, in), "
            f"got {np.shape(bias)}"
        )
    return _linear(x, weight, bias)


def _rows(a):
    return a.reshape(math.prod(a.shape[:-1]), a.shape[-1])


def forward(x, weight, bias=None, *, wanted):
    rows = _rows(x)
    y = product(rows, weight.T, bias)
    kept = (weight if 0 in wanted else None, rows if 1 in wanted else None, x.shape)
    return y.reshape(*x.shape[:-1], weight.shape[0]), kept


def backward(g, wanted, kept):
    weight, rows, shape = kept
    g = _rows(g)
    factors = {0: (g, weight, None), 1: (g.T, rows, None), 2: (np.ones((1, len(g)), g.dtype), g, None)}
    gradients = products(*(factors[n] for n in wanted))
    shapes = {0: shape, 1: (g.shape[1], shape[-1]), 2: (g.shape[1],)}
    return [d.reshape(shapes[n]) for n, d in zip(wanted, gradients, strict=True)]


_linear = on_tape("linear", forward, backward)


def embedding(table: np.ndarray, ids: np.ndarray) -> np.ndarray:  # (V, d), integers (...) -> (..., d)
    """Rows ids of a table. The gradient of row r is the sum of g over the places where ids = r.

    The sum is a sparse matrix product, in the order of the places: the same bits on every run. Negative ids,
    which NumPy would count from the end, raise an error.
    """
    if np.ndim(table) != 2:
        raise ValueError(f"embedding needs a table of shape (V, d), got {np.shape(table)}")
    ids = np.asarray(ids)
    if not np.issubdtype(ids.dtype, np.integer):
        raise ValueError(f"embedding needs integer ids, got {ids.dtype}")
    V = np.shape(table)[0]
    if ids.size and not (0 <= ids.min() and ids.max() < V):
        raise ValueError(
            f"embedding needs ids in 0..{V - 1} for a table of {V} rows, got {ids.min()}..{ids.max()}"
        )
    return _embedding(table, ids=ids)


def _embedding_forward(table, *, wanted, ids):
    return table[ids], table.shape


def _embedding_backward(g, wanted, shape, *, ids):
    places = ids.ravel()
    order = np.argsort(places, kind="stable")
    rows, starts = np.unique(places[order], return_index=True)
    d_table = np.zeros(shape, g.dtype)
    # Row k of the matrix has ones at the places of id rows[k]; times g it adds those rows of g.
    ones = csr_array(
        (np.ones(len(order), g.dtype), order, np.append(starts, len(order))), shape=(len(rows), len(order))
    )
    d_table[rows] = ones @ g.reshape(len(order), shape[1])
    return [d_table]


_embedding = on_tape("embedding", _embedding_forward, _embedding_backward)

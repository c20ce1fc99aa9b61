"""3x3 convolution at stride 1 by Winograd's F(4x4, 3x3): 36 multiplications for 16 outputs instead of 144.

    y = A^T [ sum_c (G w G^T) * (B^T d B) ] A     per tile: d is 6x6, w is 3x3, y is 4x4

(Winograd 1980; Lavin and Gray 2016.) Its sums cancel, so in float32 it rounds about four times more than the
direct sum does; the points 0, +-1/sqrt(2), +-sqrt(2), infinity keep that factor small (0, +-1, +-2 give ten).
An infinity in x makes its whole tile nan, where the direct sum would spare some outputs.
Not for float64, which is the exact mode: convolution.py asks only for float32.
"""

import functools

import numpy as np

from .pooling import framed, strided
from .threads import each, in_order, pieces

TILES, NUMBERS = 256, 8192  # 6x6 tiles worked on at a time; of few channels, as many as have NUMBERS channels
PIXELS = 1024  # at least, in a part of the images: a millisecond or more
STRIP = 256  # columns


def transforms(points: tuple, m: int = 4, r: int = 3) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A^T (m, n), G (n, r), B^T (n, n) of F(m, r) for these n - 1 points and infinity, n = m + r - 1; float64.

    Toom and Cook: the product of polynomials by its values at points, transposed. Each of the n products may be
    scaled freely among the three factors; the rows are balanced to equal lengths.

    >>> A, G, B = transforms((0, 1, -1), m=2)
    >>> d, w = np.array([1.0, 2.0, 3.0, 5.0]), np.array([1.0, 10.0, 100.0])
    >>> (A @ ((G @ w) * (B @ d))).round(9).tolist()
    [321.0, 532.0]
    """
    n, p = m + r - 1, np.array(points, np.float64)
    A, G, B = np.zeros((m, n)), np.zeros((n, r)), np.zeros((n, n))
    for j in range(n - 1):
        others = np.delete(p, j)
        A[:, j] = p[j] ** np.arange(m)
        G[j] = p[j] ** np.arange(r) / np.prod(p[j] - others)
        B[j, : n - 1] = np.poly(others)[::-1]
    A[-1, -1] = G[-1, -1] = 1
    B[-1] = np.poly(p)[::-1]
    lengths = [np.linalg.norm(A, axis=0), np.linalg.norm(G, axis=1), np.linalg.norm(B, axis=1)]
    even = np.prod(lengths, axis=0) ** (1 / 3)
    return A * (even / lengths[0]), G * (even / lengths[1])[:, None], B * (even / lengths[2])[:, None]


@functools.cache
def _squared(dtype):
    """The transforms of both image axes at once, as (16, 36), (36, 9) and (36, 36): one matrix product each.

    A^T M A over a 6x6 tile M is kron(A^T, A^T) times M written as a column of 36, and so are the others.
    """
    root = 2**0.5
    return [np.kron(M, M).astype(dtype) for M in transforms((0, root / 2, -root / 2, root, -root))]


def narrow(matrix: np.ndarray, columns: np.ndarray) -> np.ndarray:  # (m, k), (k, N) -> (m, N)
    """matrix columns by strips, for m and k of some dozens and a large N.

    Up to M N K = 10^6 OpenBLAS multiplies matrices as they stand; above, it packs them first, which for
    m = k = 36 takes half of the time (50 against 99 GFLOP/s). The strips are views, and one call does them all.
    """
    out, whole = np.empty((len(matrix), columns.shape[1]), columns.dtype), columns.shape[1] // STRIP * STRIP

    def strips(a):  # (n, whole) -> (whole / STRIP, n, STRIP)
        return a[:, :whole].reshape(len(a), -1, STRIP).transpose(1, 0, 2)

    np.matmul(matrix, strips(columns), out=strips(out))
    if whole < columns.shape[1]:
        np.matmul(matrix, columns[:, whole:], out=out[:, whole:])
    return out


def correlate(x: np.ndarray, weight: np.ndarray, pixels: np.ndarray | None = None) -> tuple:
    """y (B, H, W, O) of x (B, H, W, C) and weight (3, 3, C, O) with padding 1; H and W divisible by 4.

    With `pixels` (B, H, W, O), also the gradient of sum(y * pixels) by weight: -> y, gradient or None.
    With A, G, B the transforms of `_squared`, and T tiles of x as columns of 36 numbers:

        U = G w      V = B d      M[k] = V[k] U[k] for each of the 36 places k      y = A M
        P = A^T pixels            dU[k] = sum over tiles of V[k]^T P[k]             dw = G^T dU

    The same V serves both lines: x is transformed once. Images are cut into parts, which the cores share.
    """
    (A, G, B), (_, H, W, C), O = _squared(x.dtype), x.shape, weight.shape[3]
    U = np.matmul(G, weight.reshape(9, C * O)).reshape(36, C, O)
    y = np.empty((*x.shape[:3], O), x.dtype)
    few = 16 * max(TILES, NUMBERS // max(C, O)) // (H * W)  # images worked on at a time

    def work(part):
        dU = []
        for s in pieces(len(x[part]), few):
            V, tiles = narrow(B, _windows(x[part][s])).reshape(36, -1, C), _as_tiles(y[part][s])
            tiles[...] = narrow(A, np.matmul(V, U).reshape(36, -1)).reshape(tiles.shape)
            if pixels is not None:
                P = narrow(A.T, _as_tiles(pixels[part][s]).reshape(16, -1)).reshape(36, -1, O)
                dU = [in_order([*dU, np.matmul(V.transpose(0, 2, 1), P)])]
        return dU

    parts = each(work, pieces(len(x), max(1, PIXELS // (H * W)), 8))
    if pixels is None:
        return y, None
    return y, np.matmul(G.T, in_order([dU for (dU,) in parts]).reshape(36, C * O)).reshape(3, 3, C, O)


def _windows(x):  # (b, 4i, 4j, C) -> (36, b i j C)
    """The 6x6 pixels that each 4x4 tile of outputs sees; the next tile begins 4 pixels further."""
    (b, H, W, C), row = x.shape, (x.shape[2] + 2) * x.shape[3]
    shape, steps = (b, H // 4, W // 4, C), ((H + 2) * row, 4 * row, 4 * C, 1)
    return strided(framed(x, 1), (6, 6, *shape), (row, C, *steps)).reshape(36, -1)


def _as_tiles(y):  # (b, 4i, 4j, O) -> a view (4, 4, b, i, j, O)
    b, h, w, O = y.shape
    return y.reshape(b, h // 4, 4, w // 4, 4, O).transpose(2, 4, 0, 1, 3, 5)


def winograd(p, x, weight, wants_x):
    def back(g):
        if not wants_x:  # the transform of x serves dw
            return None, correlate(x, weight, g)[1]
        dx, dw = correlate(g, np.ascontiguousarray(weight[::-1, ::-1].transpose(0, 1, 3, 2)), x)
        return dx, dw[::-1, ::-1].transpose(0, 1, 3, 2)

    return correlate(x, weight)[0], back

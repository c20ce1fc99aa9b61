"""3x3 convolution at stride 1 by Winograd's F(4x4, 3x3): 36 multiplications for 16 outputs instead of 144.

    y = A^T [ sum_c (G w G^T) * (B^T d B) ] A     per tile: d is 6x6, w is 3x3, y is 4x4

(Winograd 1980; Lavin and Gray 2016.) Its sums cancel, so in float32 it rounds about four times more than the
direct sum does; the points 0, +-1/sqrt(2), +-sqrt(2), infinity keep that factor small (0, +-1, +-2 give ten).
Its transforms are products of small matrices by strips (products.narrow), a tenth of EB-CNN's step.
An infinity in x makes its whole tile nan, where the direct sum would spare some outputs.
Not for float64, which is the exact mode: convolution.py asks only for float32.
"""

import functools

import numpy as np

from .columns import in_order
from .cores import workspace
from .products import narrow
from .scheduler import each, pieces
from .tiles import Window, tiles

TILES, NUMBERS = 256, 8192  # 6x6 tiles worked on at a time; of few channels, as many as have NUMBERS channels
PIXELS = 1024  # at least, in a part of the images


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


def correlate(
    x: np.ndarray, weight: np.ndarray, window: Window, rows: int, columns: int, pixels: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray | None]:
    """y (B, rows, columns, O) of x (B, H, W, C) and weight (3, 3, C, O); rows and columns divisible by 4.

    `window` is that of the convolution: 3x3 of stride 1, with top and left.
    With `pixels` (B, rows, columns, O), also the gradient of sum(y * pixels) by weight: -> y, gradient or None.
    With A, G, B the transforms of `_squared`, and T tiles of x as columns of 36 numbers:

        U = G w      V = B d      M[k] = V[k] U[k] for each of the 36 places k      y = A M
        P = A^T pixels            dU[k] = sum over tiles of V[k]^T P[k]             dw = G^T dU

    The same V serves both lines: x is transformed once. Images are cut into parts, which the cores share.
    """
    A, G, B = _squared(x.dtype)
    C, O = weight.shape[2:]
    U = np.matmul(G, weight.reshape(9, C * O)).reshape(36, C, O)
    y = np.empty((len(x), rows, columns, O), x.dtype)
    # A 4x4 tile of outputs sees 6x6 pixels, and the next tile begins 4 pixels further.
    window = window._replace(kh=6, kw=6, stride=4)
    size = max(TILES, NUMBERS // max(C, O))

    def work(part):
        dU = None
        for images, lines, windows in tiles(x[part], window, rows // 4, columns // 4, size):
            b, i, j = windows.shape[:3]
            T = b * i * j
            D = workspace("D", (6, 6, b, i, j, C), x.dtype)
            V, M = workspace("V", (36, T * C), x.dtype), workspace("M", (36, T * O), x.dtype)
            Y = workspace("Y", (16, T * O), x.dtype)
            np.copyto(D, windows.transpose(3, 4, 0, 1, 2, 5))
            narrow(B, D.reshape(36, T * C), V)
            np.matmul(V.reshape(36, T, C), U, out=M.reshape(36, T, O))
            narrow(A, M, Y)
            place = np.s_[images, 4 * lines.start : 4 * lines.stop]
            _as_tiles(y[part][place])[...] = Y.reshape(4, 4, b, i, j, O)
            if pixels is not None:
                # Y and M are used up by now; their memory takes the pixels and P.
                Y.reshape(4, 4, b, i, j, O)[...] = _as_tiles(pixels[part][place])
                P = narrow(A.T, Y, M).reshape(36, T, O)
                V_T = V.reshape(36, T, C).transpose(0, 2, 1)
                if dU is None:
                    dU = np.matmul(V_T, P)
                else:
                    dU += np.matmul(V_T, P, out=workspace("dU", dU.shape, x.dtype))
        return dU

    parts = each(work, pieces(len(x), max(1, PIXELS // (rows * columns))))
    if pixels is None:
        return y, None
    dU = in_order(parts)
    return y, np.matmul(G.T, dU.reshape(36, C * O)).reshape(3, 3, C, O)


def _as_tiles(y):  # (b, 4i, 4j, O) -> a view (4, 4, b, i, j, O)
    b, h, w, O = y.shape
    return y.reshape(b, h // 4, 4, w // 4, 4, O).transpose(2, 4, 0, 1, 3, 5)

"""Convolution by columns, the general case: the windows that outputs see become rows of a matrix.

    y = columns(x) W,   dW = columns(x)^T g,   dx: what each window saw, g W^T, added where it saw it

One tile of outputs is done at a time, so that its columns stay in the second-level cache. Images are cut into
parts, which the cores share. With groups there is one product for each. Small groups are merged: several of them
make one block, whose weight is block-diagonal, with zeros between the channels of different groups. The zeros cost
multiplications, but a few larger products are faster than many small ones.
"""

import numpy as np

from .cores import workspace
from .scheduler import each, pieces
from .tiles import tiles

ROWS = 512  # output pixels per tile, or more of them where their columns are short:
NUMBERS = 1 << 18  # numbers that the columns of a tile should have


def _rows(p, channels):
    return max(ROWS, NUMBERS // (p.kh * p.kw * channels) // ROWS * ROWS)


def _parts(p):
    """Ranges of whole images, each worth a tile or more."""
    return pieces(p.batch, -(-ROWS // (2 * p.rows * p.columns)))


def _columns(windows, blocks):
    """Windows (b, i, j, u, v, C) as one matrix per block: (blocks, b*i*j, u*v*C/blocks), in scratch memory."""
    b, i, j, u, v, channels = windows.shape
    c = channels // blocks
    columns = workspace("columns", (blocks, b, i, j, u, v, c), windows.dtype)
    np.copyto(columns, windows.reshape(b, i, j, u, v, blocks, c).transpose(5, 0, 1, 2, 3, 4, 6))
    return columns.reshape(blocks, b * i * j, u * v * c)


def _blocks(pixels, blocks):  # (b, i, j, C) contiguous -> a view (blocks, b*i*j, C/blocks)
    b, i, j, channels = pixels.shape
    return pixels.reshape(b * i * j, blocks, channels // blocks).transpose(1, 0, 2)


def block_matrices(p, weight):
    """The weight (kh, kw, C/groups, O) as (blocks, kh, kw, C/blocks, O/blocks), zero between groups of a block."""
    if p.groups == 1:
        return weight[None]
    merged, c, o = p.groups // p.blocks, p.channels // p.groups, p.outputs // p.groups
    w = weight.reshape(p.kh, p.kw, c, p.blocks, merged, o).transpose(3, 0, 1, 4, 2, 5)
    matrix = np.zeros((p.blocks, p.kh, p.kw, merged, c, merged, o), weight.dtype)
    for k in range(merged):  # the k-th group of every block: its channels to its outputs
        matrix[:, :, :, k, :, k] = w[:, :, :, k]
    return matrix.reshape(p.blocks, p.kh, p.kw, merged * c, merged * o)


def from_block_matrices(p, matrix):
    """(blocks, kh, kw, C/blocks, O/blocks) -> (kh, kw, C/groups, O): the transpose of `block_matrices`."""
    if p.groups == 1:
        return matrix.reshape(p.kh, p.kw, p.channels, p.outputs)
    merged, c, o = p.groups // p.blocks, p.channels // p.groups, p.outputs // p.groups
    matrix = matrix.reshape(p.blocks, p.kh, p.kw, merged, c, merged, o)
    w = np.stack([matrix[:, :, :, k, :, k] for k in range(merged)], 1)  # (blocks, merged, kh, kw, c, o)
    return w.transpose(2, 3, 4, 0, 1, 5).reshape(p.kh, p.kw, c, p.outputs)


def forward(p, x, weight):
    y = np.empty((p.batch, p.rows, p.columns, p.outputs), x.dtype)
    matrix = block_matrices(p, weight).reshape(p.blocks, -1, p.outputs // p.blocks)

    def work(part):
        for images, lines, windows in tiles(x[part], p.window, p.rows, p.columns, _rows(p, p.channels)):
            np.matmul(_columns(windows, p.blocks), matrix, out=_blocks(y[part][images, lines], p.blocks))

    each(work, _parts(p))
    return y


def backward(p, x, weight, g, wants_x, wants_weight):
    if wants_x and p.stride == 1:
        return _backward_by_g(p, x, weight, g, wants_weight)
    matrix = block_matrices(p, weight)
    matrix = matrix.reshape(p.blocks, -1, p.outputs // p.blocks)
    s = p.stride
    padded = None
    if wants_x:  # the gradient of x with its padding, to which every window adds what it saw
        tall = max(p.top + p.height, (p.rows - 1) * s + p.kh)
        wide = max(p.left + p.width, (p.columns - 1) * s + p.kw)
        padded = np.zeros((p.batch, tall, wide, p.channels), x.dtype)

    def work(part):
        total = np.zeros(matrix.shape, x.dtype) if wants_weight else None
        for images, lines, windows in tiles(x[part], p.window, p.rows, p.columns, _rows(p, p.channels)):
            dy = _blocks(g[part][images, lines], p.blocks)
            if wants_weight:
                total += np.matmul(_columns(windows, p.blocks).transpose(0, 2, 1), dy)
            if wants_x:
                b, i, j, u, v, _ = windows.shape
                seen = np.matmul(dy, matrix.transpose(0, 2, 1))
                seen = seen.reshape(p.blocks, b, i, j, u, v, -1).transpose(4, 5, 1, 2, 3, 0, 6)
                down = slice(lines.start * s, (lines.stop - 1) * s + 1, s)
                for u, v in np.ndindex(p.kh, p.kw):
                    rows, columns = slice(down.start + u, down.stop + u, s), slice(v, v + (j - 1) * s + 1, s)
                    pixels = padded[part][images, rows, columns]
                    pixels += seen[u, v].reshape(pixels.shape)
        return total

    totals = each(work, _parts(p))
    dx = None
    if wants_x:
        dx = np.ascontiguousarray(padded[:, p.top : p.top + p.height, p.left : p.left + p.width])
    return dx, from_block_matrices(p, in_order(totals)) if wants_weight else None


def _backward_by_g(p, x, weight, g, wants_weight):
    """Stride 1: dx is g correlated with the flipped kernel, and the same columns of g give dW, flipped too.

    So g is cut into windows instead of x, and one set of columns serves both products:
    dx = columns(g) flipped(W), and flipped(dW) = x^T columns(g).
    """
    flipped = block_matrices(p, weight)[:, ::-1, ::-1].transpose(0, 1, 2, 4, 3)
    flipped = flipped.reshape(p.blocks, -1, p.channels // p.blocks)
    dx = np.empty((p.batch, p.height, p.width, p.channels), g.dtype)

    def work(part):
        total = np.zeros((p.blocks, flipped.shape[2], flipped.shape[1]), x.dtype) if wants_weight else None
        for images, lines, windows in tiles(g[part], p.window_back, p.height, p.width, _rows(p, p.outputs)):
            columns = _columns(windows, p.blocks)
            np.matmul(columns, flipped, out=_blocks(dx[part][images, lines], p.blocks))
            if wants_weight:
                pixels = _blocks(x[part][images, lines], p.blocks).transpose(0, 2, 1)
                total += np.matmul(pixels, columns, out=workspace("product", total.shape, x.dtype))
        return total

    totals = each(work, _parts(p))
    if not wants_weight:
        return dx, None
    dflipped = in_order(totals).reshape(p.blocks, -1, p.kh, p.kw, p.outputs // p.blocks)
    return dx, from_block_matrices(p, np.ascontiguousarray(dflipped.transpose(0, 2, 3, 1, 4)[:, ::-1, ::-1]))


def in_order(parts):
    """The sum of the parts, first to last, in the memory of the first."""
    total = parts[0]
    for part in parts[1:]:
        total += part
    return total

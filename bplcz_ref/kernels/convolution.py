"""conv2d: tiles that fit the cache, one matrix product per tile, and the vector-Jacobian product by hand.

The definition is nn.conv2d. There is no dilation, no transposed convolution, and one layout: channels-last images
and weights (O, C/groups, kh, kw).

Every strategy is a pair forward(plan, x, weight) -> y and backward(plan, x, weight, g, wants_x, wants_weight)
-> (dx, dweight); `_strategy` is the one place that chooses.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.lib.stride_tricks import as_strided

from .cores import workspace
from .tape import on_tape
from .tiles import Window, tiles
from .winograd import correlate

ROWS = 512  # output pixels per tile: columns and products then stay in the second-level cache
MERGED = 32  # channels that a block of a grouped convolution should have: below, a product is mostly overhead


class Plan(NamedTuple):
    """One convolution's geometry, without the taps that see only padding (on small maps there are some)."""

    batch: int
    height: int
    width: int
    channels: int
    outputs: int
    kh: int  # taps left
    kw: int
    u0: int  # the first tap left, in the weight that was given
    v0: int
    stride: int
    top: int  # rows of padding above what the first output sees
    left: int
    rows: int  # of the output
    columns: int
    groups: int
    blocks: int  # groups merged into this many block-diagonal products

    @property
    def window(self):
        return Window(self.kh, self.kw, self.stride, self.top, self.left)

    @property
    def window_back(self):
        """At stride 1: the outputs that see a pixel."""
        return Window(self.kh, self.kw, 1, self.kh - 1 - self.top, self.kw - 1 - self.left)


@functools.lru_cache(maxsize=1024)
def _plan(x, weight, stride, padding, groups):
    if len(x) != 4 or len(weight) != 4:
        raise ValueError(
            f"conv2d: x must be (B, H, W, C) and weight (O, C/groups, kh, kw), found x {x} and weight {weight}"
        )
    batch, height, width, channels = x
    outputs, each, kh, kw = weight
    if stride < 1 or padding < 0 or groups < 1:
        raise ValueError(
            f"conv2d: stride and groups must be 1 or more and padding 0 or more, found stride {stride}, "
            f"groups {groups}, padding {padding}"
        )
    if channels != each * groups or outputs % groups:
        raise ValueError(
            f"conv2d: x has {channels} channels and weight {outputs} outputs of {each} channels each in "
            f"{groups} groups; expected C = groups * {each} = {groups * each} and O divisible by groups"
        )
    if kh < 1 or kw < 1 or height + 2 * padding < kh or width + 2 * padding < kw:
        raise ValueError(
            f"conv2d: a {kh} x {kw} kernel does not fit into {height} x {width} pixels with padding {padding}"
        )
    rows = (height + 2 * padding - kh) // stride + 1
    columns = (width + 2 * padding - kw) // stride + 1
    # Tap u of output row i sees row i*stride - padding + u of x. It sees a pixel for some i if u0 <= u < u1.
    u0, u1 = max(0, padding - (rows - 1) * stride), min(kh, height + padding)
    v0, v1 = max(0, padding - (columns - 1) * stride), min(kw, width + padding)
    blocks = groups
    while blocks % 2 == 0 and channels // blocks < MERGED and outputs // blocks < MERGED:
        blocks //= 2
    kh, kw, top, left = max(0, u1 - u0), max(0, v1 - v0), padding - u0, padding - v0
    return Plan(
        batch, height, width, channels, outputs, kh, kw, u0, v0, stride, top, left, rows, columns, groups, blocks
    )


class Strategy(NamedTuple):
    forward: Callable
    backward: Callable


def _strategy(p, dtype):
    if p.groups == p.channels == p.outputs > 1:
        return depthwise
    if p.kh == p.kw == p.groups == 1 and p.top == p.left == 0:
        return pointwise
    by_four = not any(n % 4 for n in (p.height, p.width, p.rows, p.columns))
    if dtype == np.float32 and (p.kh, p.kw, p.stride, p.groups) == (3, 3, 1, 1) and by_four:
        # Multiplications per tile of 16 outputs: transforms of input and output, and the products between them.
        work = 36 * 36 * p.channels + 16 * 36 * p.outputs + 36 * p.channels * p.outputs
        direct = 16 * 9 * p.channels * p.outputs
        return winograd if work < 0.7 * direct else tiled  # 0.7: its copies cost time as well
    return tiled


def conv2d(
    x: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray | None = None,
    *,
    stride: int = 1,
    padding: int = 0,
    groups: int = 1,
) -> np.ndarray:  # (B, H, W, C), (O, C/groups, kh, kw), (O,) -> (B, H', W', O)
    """y[b, i, j, o] = bias[o] + sum_{u, v, c} x_pad[b, i*stride + u, j*stride + v, c] * weight[o, c, u, v].

    Backward: dweight[o, c, u, v] = sum_{b, i, j} g[b, i, j, o] x_pad[b, i*stride + u, j*stride + v, c]; dx is the
    same sum over o instead, which at stride 1 is g correlated with the kernel flipped in rows and columns;
    dbias = sum of g over pixels.
    """
    p = _plan(np.shape(x), np.shape(weight), stride, padding, groups)
    if bias is not None and np.shape(bias) != (p.outputs,):
        raise ValueError(f"conv2d: bias must be ({p.outputs},) for {p.outputs} outputs, found {np.shape(bias)}")
    return _conv2d(x, weight, plan=p) if bias is None else _conv2d(x, weight, bias, plan=p)


def _forward(x, weight, bias=None, *, wanted, plan):
    x = np.ascontiguousarray(x)
    y = _strategy(plan, x.dtype).forward(plan, x, _taps(plan, weight))
    if bias is not None:
        y += bias
    return y, (x, weight)


def _backward(g, wanted, kept, *, plan):
    x, weight = kept
    g = np.ascontiguousarray(g)
    gradients = {}
    if 0 in (plan.kh, plan.kw):  # the taps that are left see padding only
        gradients = {0: np.zeros(x.shape, g.dtype), 1: np.zeros(weight.shape, g.dtype)}
    elif 0 in wanted or 1 in wanted:
        wants = 0 in wanted, 1 in wanted
        gradients[0], taps = _strategy(plan, x.dtype).backward(plan, x, _taps(plan, weight), g, *wants)
        if 1 in wanted:
            gradients[1] = np.zeros(weight.shape, g.dtype)
            _taps(plan, gradients[1])[...] = taps
    if 2 in wanted:
        gradients[2] = g.reshape(-1, plan.outputs).sum(0)
    return [gradients[n] for n in wanted]


_conv2d = on_tape("conv2d", _forward, _backward)


def _taps(p, weight):
    return weight[:, :, p.u0 : p.u0 + p.kh, p.v0 : p.v0 + p.kw]


# ----------------------------------------------------------------------------- 1 x 1: one matrix product


def _pointwise_forward(p, x, weight):
    pixels = x[:, :: p.stride, :: p.stride].reshape(-1, p.channels)
    return np.matmul(pixels, weight[:, :, 0, 0].T).reshape(p.batch, p.rows, p.columns, p.outputs)


def _pointwise_backward(p, x, weight, g, wants_x, wants_weight):
    g = g.reshape(-1, p.outputs)
    dx = dweight = None
    if wants_weight:
        pixels = x[:, :: p.stride, :: p.stride].reshape(-1, p.channels)
        dweight = np.matmul(g.T, pixels)[:, :, None, None]
    if wants_x:
        dx = np.matmul(g, weight[:, :, 0, 0]).reshape(p.batch, p.rows, p.columns, p.channels)
        if p.stride > 1:
            seen, dx = dx, np.zeros((p.batch, p.height, p.width, p.channels), g.dtype)
            dx[:, :: p.stride, :: p.stride] = seen
    return dx, dweight


pointwise = Strategy(_pointwise_forward, _pointwise_backward)


# -------------------------------------------------------------------- the general case: tiles of columns
#
# Per tile, the windows that its outputs see are written out as the rows of a matrix ("columns"); one product with
# the weight gives the outputs. With groups there is one product for each. Small groups are merged: several of them
# make one block, whose weight is block-diagonal, with zeros between the channels of different groups. The zeros
# cost multiplications, but a few larger products are faster than many small ones.


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


def _matrix(p, weight):
    """The weight as (blocks, kh, kw, C/blocks, O/blocks), zero between groups that share a block."""
    merged, c, o = p.groups // p.blocks, p.channels // p.groups, p.outputs // p.groups
    w = weight.reshape(p.blocks, merged, o, c, p.kh, p.kw).transpose(0, 4, 5, 1, 3, 2)
    matrix = np.zeros((p.blocks, p.kh, p.kw, merged, c, merged, o), weight.dtype)
    for k in range(merged):  # the k-th group of every block: its channels to its outputs
        matrix[:, :, :, k, :, k] = w[:, :, :, k]
    return matrix.reshape(p.blocks, p.kh, p.kw, merged * c, merged * o)


def _unmatrix(p, matrix):
    """(blocks, kh, kw, C/blocks, O/blocks) -> (O, C/groups, kh, kw): the transpose of `_matrix`."""
    merged, c, o = p.groups // p.blocks, p.channels // p.groups, p.outputs // p.groups
    matrix = matrix.reshape(p.blocks, p.kh, p.kw, merged, c, merged, o)
    w = np.stack([matrix[:, :, :, k, :, k] for k in range(merged)], 1)
    return w.transpose(0, 1, 5, 4, 2, 3).reshape(p.outputs, c, p.kh, p.kw)


def _tiled_forward(p, x, weight):
    y = np.empty((p.batch, p.rows, p.columns, p.outputs), x.dtype)
    matrix = _matrix(p, weight).reshape(p.blocks, -1, p.outputs // p.blocks)
    for images, lines, windows in tiles(x, p.window, p.rows, p.columns, ROWS):
        np.matmul(_columns(windows, p.blocks), matrix, out=_blocks(y[images, lines], p.blocks))
    return y


def _tiled_backward(p, x, weight, g, wants_x, wants_weight):
    if wants_x and p.stride == 1:
        return _tiled_backward_by_g(p, x, weight, g, wants_weight)
    matrix = _matrix(p, weight)
    dmatrix = np.zeros((p.blocks, p.kh * p.kw * matrix.shape[3], matrix.shape[4]), x.dtype)
    padded = None
    if wants_x:  # the gradient of x with its padding, to which every window adds what it saw
        tall = max(p.top + p.height, (p.rows - 1) * p.stride + p.kh)
        wide = max(p.left + p.width, (p.columns - 1) * p.stride + p.kw)
        padded = np.zeros((p.batch, tall, wide, p.channels), x.dtype)
        back = matrix.reshape(dmatrix.shape).transpose(0, 2, 1)
    s = p.stride
    for images, lines, windows in tiles(x, p.window, p.rows, p.columns, ROWS):
        dy = _blocks(g[images, lines], p.blocks)
        if wants_weight:
            dmatrix += np.matmul(_columns(windows, p.blocks).transpose(0, 2, 1), dy)
        if wants_x:
            b, i, j, u, v, _ = windows.shape
            seen = np.matmul(dy, back).reshape(p.blocks, b, i, j, u, v, -1).transpose(4, 5, 1, 2, 3, 0, 6)
            down = slice(lines.start * s, (lines.stop - 1) * s + 1, s)
            for u, v in np.ndindex(p.kh, p.kw):
                part = padded[images, down.start + u : down.stop + u : s, v : v + (j - 1) * s + 1 : s]
                part += seen[u, v].reshape(part.shape)
    dx = None
    if wants_x:
        dx = np.ascontiguousarray(padded[:, p.top : p.top + p.height, p.left : p.left + p.width])
    return dx, _unmatrix(p, dmatrix)


def _tiled_backward_by_g(p, x, weight, g, wants_weight):
    """Stride 1: dx is g correlated with the flipped kernel, and the same columns of g give dweight, flipped too.

    So g is cut into windows instead of x, and one set of columns serves both products:
    dx = columns(g) flipped(weight), and flipped(dweight) = x^T columns(g).
    """
    flipped = _matrix(p, weight)[:, ::-1, ::-1].transpose(0, 1, 2, 4, 3)
    flipped = flipped.reshape(p.blocks, -1, p.channels // p.blocks)
    dflipped = np.zeros((p.blocks, p.channels // p.blocks, flipped.shape[1]), x.dtype)
    product = workspace("product", dflipped.shape, x.dtype)
    dx = np.empty((p.batch, p.height, p.width, p.channels), g.dtype)
    for images, lines, windows in tiles(g, p.window_back, p.height, p.width, ROWS):
        columns = _columns(windows, p.blocks)
        np.matmul(columns, flipped, out=_blocks(dx[images, lines], p.blocks))
        if wants_weight:
            pixels = _blocks(x[images, lines], p.blocks)
            np.matmul(pixels.transpose(0, 2, 1), columns, out=product)
            dflipped += product
    dmatrix = dflipped.reshape(p.blocks, -1, p.kh, p.kw, p.outputs // p.blocks)[:, :, ::-1, ::-1]
    return dx, _unmatrix(p, np.ascontiguousarray(dmatrix.transpose(0, 2, 3, 1, 4)))


tiled = Strategy(_tiled_forward, _tiled_backward)


# ----------------------------------------------------------------------------- 3 x 3 at stride 1, float32


def _winograd_forward(p, x, weight):
    return correlate(x, weight, p.window, p.rows, p.columns)[0]


def _winograd_backward(p, x, weight, g, wants_x, wants_weight):
    if not wants_x:
        return _tiled_backward(p, x, weight, g, wants_x, wants_weight)
    flipped = weight[:, :, ::-1, ::-1].transpose(1, 0, 2, 3)
    pixels = x if wants_weight else None
    dx, dflipped = correlate(g, flipped, p.window_back, p.height, p.width, pixels)
    return dx, dflipped[:, :, ::-1, ::-1].transpose(1, 0, 2, 3) if wants_weight else None


winograd = Strategy(_winograd_forward, _winograd_backward)


# --------------------------------------------------------------------- depthwise: shifted multiply-adds


def _line(pixels, stride):  # (b, i, j, C) -> (b, i, j*C) at stride 1
    """At stride 1 the pixels of a row lie next to each other in memory, so NumPy can loop over whole rows."""
    b, i, j, c = pixels.shape
    if stride > 1:
        return pixels
    return as_strided(pixels, (b, i, j * c), (*pixels.strides[:2], pixels.strides[3]))


def _depthwise_forward(p, x, weight):
    y = np.empty((p.batch, p.rows, p.columns, p.channels), x.dtype)
    taps = _tap_lines(weight, p.columns if p.stride == 1 else 1)
    for images, lines, windows in tiles(x, p.window, p.rows, p.columns, ROWS):
        _shift_add(windows, taps, p.stride, _line(y[images, lines], p.stride))
    return y


def _tap_lines(weight, columns):  # (C, 1, kh, kw) -> (kh, kw, columns*C)
    return np.tile(weight[:, 0].transpose(1, 2, 0), columns)


def _shift_add(windows, taps, stride, out):
    """out = the sum over taps (u, v) of the pixels that tap sees, times its weight."""
    term = workspace("term", out.shape, out.dtype)
    out[...] = 0
    for u, v in np.ndindex(*taps.shape[:2]):
        np.multiply(_line(windows[:, :, :, u, v], stride), taps[u, v], out=term)
        np.add(out, term, out=out)


def _depthwise_backward(p, x, weight, g, wants_x, wants_weight):
    if p.stride > 1:  # the same as stride 1 on a gradient with zeros between its pixels
        seen, shape = g, ((p.rows - 1) * p.stride + 1, (p.columns - 1) * p.stride + 1)
        g = np.zeros((p.batch, *shape, p.outputs), g.dtype)
        g[:, :: p.stride, :: p.stride] = seen
    dx = np.empty((p.batch, p.height, p.width, p.channels), g.dtype)
    flipped = _tap_lines(weight[:, :, ::-1, ::-1], p.width)
    dflipped = np.zeros((p.kh, p.kw, p.channels), x.dtype)
    for images, lines, windows in tiles(g, p.window_back, p.height, p.width, ROWS):
        if wants_x:
            _shift_add(windows, flipped, 1, _line(dx[images, lines], 1))
        if wants_weight:
            pixels = _line(x[images, lines], 1)
            for u, v in np.ndindex(p.kh, p.kw):
                line = np.einsum("bik,bik->k", _line(windows[:, :, :, u, v], 1), pixels)
                dflipped[u, v] += line.reshape(p.width, p.channels).sum(0)
    return dx, dflipped[::-1, ::-1].transpose(2, 0, 1)[:, None]


depthwise = Strategy(_depthwise_forward, _depthwise_backward)

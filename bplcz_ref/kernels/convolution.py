"""conv2d: its geometry, the choice between seven ways to compute it, and four of them.

The definition is nn.conv2d. There is no dilation, no transposed convolution, and one layout: channels-last images
and weights (O, C/groups, kh, kw). A way is a function (plan, x, w, wants_x) -> y, back with back(g) -> dx or None,
dw, on weights in the order (kh, kw, C/groups, O). `choose` is the one place that chooses.
"""

import functools
from collections import namedtuple
from functools import partial

import numpy as np

from . import depthwise
from .lines import add_per_channel
from .pooling import framed, strided
from .products import column_sums, products
from .tape import on_tape
from .threads import each, in_order, pieces, run
from .winograd import winograd

MERGED = 32  # channels that a block of a grouped convolution should have: below, a product is mostly overhead
SHORT = 48  # numbers of a sum, below which products are slow: 3 channels to 64 at 32x32 take 1.6 times as long
NUMBERS = 1 << 18  # of the windows of a few images, which the second-level cache should hold
WORTH = 1 << 25  # multiplications of a part of the images that a thread takes: half a millisecond


# A convolution's geometry: x (batch, height, width, channels) to (batch, rows, columns, outputs); its groups are
# merged into `blocks` block-diagonal products.
Plan = namedtuple("Plan", "batch height width channels rows columns outputs kh kw stride padding groups blocks")


@functools.lru_cache(maxsize=1024)
def plan_of(x: tuple, weight: tuple, stride: int, padding: int, groups: int) -> Plan:
    """The geometry for an x and a weight of these shapes; ValueError where they do not fit."""
    if len(x) != 4 or len(weight) != 4:
        raise ValueError(
            f"conv2d: x must be (B, H, W, C) and weight (O, C/groups, kh, kw), found x {x} and weight {weight}"
        )
    (batch, height, width, channels), (outputs, own, kh, kw) = x, weight
    if stride < 1 or padding < 0 or groups < 1:
        raise ValueError(
            f"conv2d: stride and groups must be 1 or more and padding 0 or more, found stride {stride}, "
            f"groups {groups}, padding {padding}"
        )
    if channels != own * groups or outputs % groups:
        raise ValueError(
            f"conv2d: x has {channels} channels and weight {outputs} outputs of {own} channels each in "
            f"{groups} groups; expected C = groups * {own} = {groups * own} and O divisible by groups"
        )
    if kh < 1 or kw < 1 or height + 2 * padding < kh or width + 2 * padding < kw:
        raise ValueError(
            f"conv2d: a {kh} x {kw} kernel does not fit into {height} x {width} pixels with padding {padding}"
        )
    rows, columns = ((n + 2 * padding - k) // stride + 1 for n, k in ((height, kh), (width, kw)))
    blocks = groups
    while blocks % 2 == 0 and channels // blocks < MERGED and outputs // blocks < MERGED:
        blocks //= 2
    return Plan(batch, height, width, channels, rows, columns, outputs, kh, kw, stride, padding, groups, blocks)


def conv2d(x, weight, bias=None, *, stride=1, padding=0, groups=1):
    # (B, H, W, C), (O, C/groups, kh, kw), (O,) -> (B, H', W', O)
    """y[b, i, j, o] = bias[o] + sum_{u, v, c} x_pad[b, i*stride + u, j*stride + v, c] * weight[o, c, u, v]."""
    p = plan_of(np.shape(x), np.shape(weight), stride, padding, groups)
    if bias is not None and np.shape(bias) != (p.outputs,):
        raise ValueError(f"conv2d: bias must be ({p.outputs},) for {p.outputs} outputs, found {np.shape(bias)}")
    return convolve(x, weight, plan=p) if bias is None else convolve(x, weight, bias, plan=p)


def choose(p, dtype, wants_x):
    """The way to compute a convolution. Times are milliseconds forward + backward on one thread, B = 32."""
    if p.groups == p.channels == p.outputs > 1 and p.stride == 1 and p.padding < min(p.kh, p.kw):
        # One matrix per channel up to 64 pixels (7x7 taps, 96 channels at 8x8: 1.7 + 3.3, shifts 6.3 + 9.1).
        return depthwise.by_matrix if p.height * p.width <= 64 else depthwise.shifted
    if (p.kh, p.kw, p.groups, p.padding) == (1, 1, 1, 0):
        return pointwise
    if p.rows * p.columns <= 16 and p.outputs >= 32:
        return by_taps  # 4x4, 128 channels: 1.3 + 2.6, Winograd 1.9 + 3.2
    if dtype == np.float32 and (p.kh, p.kw, p.stride, p.padding, p.groups) == (3, 3, 1, 1, 1):
        # Multiplications per tile of 16 outputs: transforms of input and output, and the products between them.
        # Rows copy x three times, Winograd 2.25 times.
        work = 36 * 36 * p.channels + 16 * 36 * p.outputs + 36 * p.channels * p.outputs
        if not (p.height % 4 or p.width % 4) and work < 1.1 * 16 * 9 * p.channels * p.outputs:
            return winograd
    return by_rows if wants_x or p.groups > 1 or p.kw * p.channels > SHORT else by_columns


@on_tape("conv2d")
def convolve(x, weight, bias=None, *, wanted, plan):
    x, w = np.ascontiguousarray(x), in_kernel_order(weight)
    y, back_way = choose(plan, x.dtype, 0 in wanted)(plan, x, w, 0 in wanted)
    if bias is not None:
        add_per_channel(y, bias)

    def back(g):
        g = np.ascontiguousarray(g)
        dx, dw = back_way(g)
        gradients = dx, np.ascontiguousarray(dw).transpose(3, 2, 0, 1), column_sums(g.reshape(-1, plan.outputs))
        return [gradients[n] for n in wanted]

    return y, back


def in_kernel_order(weight: np.ndarray) -> np.ndarray:
    # (O, C/groups, kh, kw) -> (kh, kw, C/groups, O), contiguous
    """The order that every way multiplies by as it stands: a tap is a C x O matrix, all taps that of windows.

    A weight whose memory has this order is not copied. The gradients have it, and SGD keeps it (sgd.py). Copying
    256x256x3x3 numbers into it takes as long as their product with a 2x2 map.
    """
    return np.ascontiguousarray(weight.transpose(2, 3, 1, 0))


# ------------------------------------------------------------------------------------------------- the ways


def pointwise(p, x, weight, wants_x):
    """1 x 1: one product of all pixels with the weight."""
    pixels = x[:, :: p.stride, :: p.stride].reshape(-1, p.channels)

    def back(g):
        g = g.reshape(-1, p.outputs)
        dw, *dx = products((pixels.T, g), *[(g, weight[0, 0].T)] * wants_x)
        if not wants_x:
            return None, dw.reshape(weight.shape)
        dx = dx[0].reshape(p.batch, p.rows, p.columns, p.channels)
        if p.stride > 1:
            seen, dx = dx, np.zeros(x.shape, g.dtype)
            dx[:, :: p.stride, :: p.stride] = seen
        return dx, dw.reshape(weight.shape)

    return products((pixels, weight[0, 0]))[0].reshape(p.batch, p.rows, p.columns, p.outputs), back


def by_columns(p, x, weight, wants_x):
    """Few channels: one product with whole windows, kh kw copies of x, where its gradient is not wanted."""
    W, y = weight.reshape(-1, p.outputs), np.empty((p.batch, p.rows, p.columns, p.outputs), x.dtype)
    parts = pieces(p.batch, max(1, NUMBERS // (p.rows * p.columns * len(W))))

    def windows(s):
        padded = framed(x[s], p.padding)
        (b, high, _, C), row = padded.shape, padded.shape[2] * p.channels
        shape = b, p.rows, p.columns, p.kh, p.kw * C
        return strided(padded, shape, (high * row, p.stride * row, p.stride * C, row, 1)).reshape(-1, len(W))

    each(lambda s: np.matmul(windows(s), W, out=y[s].reshape(-1, p.outputs)), parts)

    def back(g):
        dW = each(lambda s: np.matmul(windows(s).T, g[s].reshape(-1, p.outputs)), parts)
        return None, in_order(dW).reshape(weight.shape)

    return y, back


def by_rows(p, x, weight, wants_x, taps=False):
    """Any other convolution: windows are cut along the rows of pixels, and each row u of the kernel has a product.

        R[h, j] = what output column j sees of row h, kw C numbers       (kw copies of x)
        y[i] = sum over u of R[i s + u - padding] W[u]
        dW[u] = R[h]^T g[i]    dR[h] += g[i] W[u]^T, and dx folds dR

    By taps, where pixels are few and channels many, R is x itself, and there is a product for each tap (u, v): on
    a 2x2 map a 3x3 kernel's taps meet 16 pixels, where rows have room for 24. Rows, or pixels, come before images,
    so that what a product meets is one matrix, and padding above and below (by taps: all of it) is not multiplied.

    With groups there is one product for each. Small groups are merged: several of them make one block, whose
    weight is block-diagonal, with zeros between the channels of different groups. The zeros cost multiplications,
    but a few larger products are faster than many small ones.
    """
    matrix, met = block_matrices(p, weight), _meetings(p, taps)
    W = matrix.reshape(p.blocks, p.kh * p.kw if taps else p.kh, -1, p.outputs // p.blocks)
    y = np.empty((p.batch, p.rows, p.columns, p.outputs), x.dtype)
    numbers = p.height * p.channels * (p.width if taps else p.columns * p.kw)  # of an image's R
    few = max(1, NUMBERS // numbers)  # images worked on at a time
    least = max(1, min(few, WORTH // (p.rows * p.columns * W.size)))  # images of a thread's part

    def forward(part):
        for s in pieces(len(x[part]), few):
            R, out = _cut(p, x[part][s], taps), _laid(p, y[part][s], taps)
            sums = np.zeros(out.shape, x.dtype)
            for k, i, h in met:
                _add_product(sums[:, *i], R[:, *h], W[:, k])
            out[...] = sums

    each(forward, pieces(p.batch, least, 8))

    def to_weight(R, G):
        dW = (np.empty if len(met) == W.shape[1] else np.zeros)(W.shape, x.dtype)
        for k, i, h in met:
            np.matmul(_flat(R[:, *h]).swapaxes(1, 2), _flat(G[:, *i]), out=dW[:, k])
        return dW

    def to_x(R, G, dx):
        dR = np.zeros_like(R)
        for k, i, h in met:
            _add_product(dR[:, *h], G[:, *i], W[:, k].swapaxes(1, 2))
        _fold(p, dR, dx, taps)

    def back(g):
        dx = np.empty(x.shape, x.dtype) if wants_x else None

        def work(part):
            dW = []
            for s in pieces(len(x[part]), few):
                R, G = _cut(p, x[part][s], taps), np.ascontiguousarray(_laid(p, g[part][s], taps))
                tasks = [partial(to_weight, R, G), *([partial(to_x, R, G, dx[part][s])] if wants_x else [])]
                dW = [in_order([*dW, run(tasks)[0]])]
            return dW[0]

        # The gradients of the parts are added, so a part should have as many numbers as the weight.
        parts = each(work, pieces(p.batch, max(least, -(-W.size // numbers)), 8))
        return dx, _within_groups(p, in_order(parts)).reshape(weight.shape)  # the transpose of block_matrices

    return y, back


def by_taps(p, x, weight, wants_x):
    return by_rows(p, x, weight, wants_x, taps=True)


def _add_product(sums, a, w):
    sums += np.matmul(_flat(a), w).reshape(sums.shape)


def _meetings(p, taps):
    """(k, outputs, pixels): the outputs that see a pixel through row or tap k of the kernel, and what they see."""
    down = overlaps(p.kh, p.padding, p.stride, p.rows, p.height)
    if not taps:
        return [(u, (i,), (h,)) for u, i, h in down]
    across = overlaps(p.kw, p.padding, p.stride, p.columns, p.width)
    return [(u * p.kw + v, (i, j), (h, w)) for u, i, h in down for v, j, w in across]


@functools.lru_cache(maxsize=1024)
def overlaps(kernel: int, padding: int, stride: int, outputs: int, pixels: int) -> list[tuple[int, slice, slice]]:
    """Along one axis, for each tap that sees a pixel: the outputs that see one through it, and these pixels.

    >>> overlaps(3, 1, 1, 2, 1)
    [(0, slice(1, 2, None), slice(0, 1, 1)), (1, slice(0, 1, None), slice(0, 1, 1))]
    """
    found = []
    for u in range(kernel):
        pixel = [i * stride + u - padding for i in range(outputs)]
        i = [k for k, h in enumerate(pixel) if 0 <= h < pixels]
        if i:
            found.append((u, slice(i[0], i[-1] + 1), slice(pixel[i[0]], pixel[i[-1]] + 1, stride)))
    return found


def _flat(a):  # (blocks, ..., k) -> (blocks, n, k)
    return a.reshape(len(a), -1, a.shape[-1])


def _laid(p, x, taps):  # (b, H, W, C) -> a view (blocks, H, b, W, c), or by taps (blocks, H, W, b, c)
    return x.reshape(*x.shape[:3], p.blocks, -1).transpose(3, 1, *((2, 0) if taps else (0, 2)), 4)


def _padded(p, shape, dtype):  # zeros (blocks, H, b, W + 2 padding, c), and the pixels in them
    zeros = np.zeros((*shape[:3], shape[3] + 2 * p.padding, shape[4]), dtype)
    return zeros, zeros[..., p.padding : p.padding + p.width, :]


def _cut(p, x, taps):  # (b, H, W, C) -> R (blocks, H, b, W', kw c), or by taps x as it is laid
    x = _laid(p, x, taps)
    if not taps:
        (n, h, b, _, c), (padded, pixels) = x.shape, _padded(p, x.shape, x.dtype)
        pixels[...] = x
        row = padded.shape[3] * c
        # kw pixels of c channels lie one after the other
        x = strided(padded, (n, h, b, p.columns, p.kw * c), (h * b * row, b * row, row, p.stride * c, 1))
    return np.ascontiguousarray(x)


def _fold(p, dR, dx, taps):
    """dx (b, H, W, C) = the gradient of each pixel, added up over the windows that saw it."""
    out = _laid(p, dx, taps)
    if not taps:
        padded, pixels = _padded(p, out.shape, dx.dtype)
        for v in range(p.kw):
            seen = padded[..., v : v + (p.columns - 1) * p.stride + 1 : p.stride, :]
            seen += dR.reshape(*dR.shape[:4], p.kw, -1)[..., v, :]
        dR = pixels
    out[...] = dR


def block_matrices(p, weight):
    """The weight (kh, kw, C/groups, O) as (blocks, kh, kw, C/blocks, O/blocks), zero between groups of a block."""
    if p.groups == 1:
        return weight[None]
    matrix = np.zeros((p.blocks, p.kh, p.kw, p.channels // p.blocks, p.outputs // p.blocks), weight.dtype)
    inner = _within_groups(p, matrix)
    inner[...] = weight.reshape(inner.shape)
    return matrix


def _within_groups(p, matrix):  # -> a view (kh, kw, C/groups, blocks, groups of a block, O/groups)
    merged = p.groups // p.blocks
    matrix = matrix.reshape(p.blocks, p.kh, p.kw, merged, p.channels // p.groups, merged, -1)
    return np.einsum("buvgcgo->uvcbgo", matrix)

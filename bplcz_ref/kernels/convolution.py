"""conv2d: its geometry, and the choice between six ways to compute it.

The definition is nn.conv2d. There is no dilation, no transposed convolution, and one layout: channels-last images
and weights (O, C/groups, kh, kw).

Every strategy is a pair forward(plan, x, w) -> y and backward(plan, x, w, g, wants_x, wants_weight) -> (dx, dw)
on weights w and dw in the order (kh, kw, C/groups, O); `_choose` is the one place that chooses.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from . import by_tap, columns, depthwise
from .lines import as_lines, blocks, repeated
from .products import product, products
from .scheduler import each
from .tape import on_tape
from .tiles import Window
from .winograd import correlate

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
def plan_of(x, weight, stride, padding, groups):
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
    p = plan_of(np.shape(x), np.shape(weight), stride, padding, groups)
    if bias is not None and np.shape(bias) != (p.outputs,):
        raise ValueError(f"conv2d: bias must be ({p.outputs},) for {p.outputs} outputs, found {np.shape(bias)}")
    return _conv2d(x, weight, plan=p) if bias is None else _conv2d(x, weight, bias, plan=p)


class Strategy(NamedTuple):
    forward: Callable
    backward: Callable


def _choose(p, dtype):
    """The one place that chooses. Times are milliseconds forward + backward on one thread, B = 32."""
    outputs = p.rows * p.columns
    if p.groups == p.channels == p.outputs > 1:
        # One matrix per channel up to 64 pixels (7x7 taps, 96 channels at 8x8: 1.7 + 3.3, shifts 6.3 + 9.1).
        small = 1 < p.height * p.width <= 64 and p.kh * p.kw > 1
        return by_matrix if small else shifted
    if p.kh == p.kw == p.groups == 1 and p.top == p.left == 0:
        return pointwise
    if p.groups > 1:  # by tap, 2x2 pixels of 512 channels in 32 groups take as long, and larger maps longer
        return in_columns
    if outputs <= 16 and p.outputs >= 32:
        # Few pixels (4x4, 128 channels: 1.3 + 2.6, Winograd 1.9 + 3.2; 2x2, 128 channels to 32: 0.2 + 0.3, columns
        # 0.3 + 0.4).
        return taps
    by_four = not any(n % 4 for n in (p.height, p.width, p.rows, p.columns))
    if dtype == np.float32 and (p.kh, p.kw, p.stride) == (3, 3, 1) and by_four and outputs > 16:
        # Multiplications per tile of 16 outputs: transforms of input and output, and the products between them.
        # Equal numbers are the threshold: columns copy x nine times, Winograd 2.25 times.
        work = 36 * 36 * p.channels + 16 * 36 * p.outputs + 36 * p.channels * p.outputs
        return winograd if work < 16 * 9 * p.channels * p.outputs else in_columns
    return in_columns


def forward(x, weight, bias=None, *, wanted, plan):
    if plan.kh and plan.kw:
        x = np.ascontiguousarray(x)
        y = _choose(plan, x.dtype).forward(plan, x, _seen(plan, in_kernel_order(weight)))
    else:  # every tap sees padding only
        y = np.zeros((plan.batch, plan.rows, plan.columns, plan.outputs), x.dtype)
    if bias is not None:
        (lines,) = as_lines(y)
        (biases,) = repeated(lines, bias)
        each(lambda block: np.add(lines[block], biases, out=lines[block]), blocks(lines))
    return y, (x, weight)


def backward(g, wanted, kept, *, plan):
    x, weight = kept
    g = np.ascontiguousarray(g)
    gradients = {}
    if 2 in wanted:
        gradients[2] = np.dot(np.ones(g.size // plan.outputs, g.dtype), g.reshape(-1, plan.outputs))
    if not (plan.kh and plan.kw):
        gradients |= {0: np.zeros(x.shape, g.dtype), 1: np.zeros(weight.shape, g.dtype)}
    elif 0 in wanted or 1 in wanted:
        w = _seen(plan, in_kernel_order(weight))
        gradients[0], dw = _choose(plan, x.dtype).backward(plan, x, w, g, 0 in wanted, 1 in wanted)
        if 1 in wanted:
            gradients[1] = _whole(plan, dw, weight.shape).transpose(3, 2, 0, 1)
    return [gradients[n] for n in wanted]


def _whole(p, dw, shape):
    """dw (kh, kw, C/groups, O) of the taps that see a pixel -> of all taps, contiguous; the others have none."""
    if dw.shape[:2] == shape[2:]:
        return np.ascontiguousarray(dw)
    whole = np.zeros((*shape[2:], *dw.shape[2:]), dw.dtype)
    _seen(p, whole)[...] = dw
    return whole


_conv2d = on_tape("conv2d", forward, backward)


def in_kernel_order(
    weight: np.ndarray,
) -> np.ndarray:  # (O, C/groups, kh, kw) -> (kh, kw, C/groups, O), contiguous
    """The order that every strategy multiplies by as it stands: a tap is a C x O matrix, all taps that of columns.

    A weight whose memory has this order is not copied. The gradients have it, and SGD keeps it (sgd.py). Copying
    256x256x3x3 numbers into it takes as long as their product with a 2x2 map.
    """
    return np.ascontiguousarray(weight.transpose(2, 3, 1, 0))


def _seen(p, w):  # the taps that see a pixel
    return w[p.u0 : p.u0 + p.kh, p.v0 : p.v0 + p.kw]


# ----------------------------------------------------------------------------- 1 x 1: one matrix product


def _pixels(p, x):  # (B, H, W, C) -> (B H' W', C), those that a 1 x 1 kernel sees
    return x[:, :: p.stride, :: p.stride].reshape(-1, p.channels)


def _pointwise_forward(p, x, weight):
    return product(_pixels(p, x), weight[0, 0]).reshape(p.batch, p.rows, p.columns, p.outputs)


def _pointwise_backward(p, x, weight, g, wants_x, wants_weight):
    g = g.reshape(-1, p.outputs)
    factors = [(_pixels(p, x).T, g, None)] if wants_weight else []
    done = products(*factors, *([(g, weight[0, 0].T, None)] if wants_x else []))
    dweight = done[0][None, None] if wants_weight else None
    if not wants_x:
        return None, dweight
    dx = done[-1].reshape(p.batch, p.rows, p.columns, p.channels)
    if p.stride > 1:
        seen, dx = dx, np.zeros((p.batch, p.height, p.width, p.channels), g.dtype)
        dx[:, :: p.stride, :: p.stride] = seen
    return dx, dweight


# ----------------------------------------------------------------------------- 3 x 3 at stride 1, float32


def _winograd_forward(p, x, weight):
    return correlate(x, weight, p.window, p.rows, p.columns)[0]


def _winograd_backward(p, x, weight, g, wants_x, wants_weight):
    if not wants_x:
        return columns.backward(p, x, weight, g, wants_x, wants_weight)
    flipped = np.ascontiguousarray(weight[::-1, ::-1].transpose(0, 1, 3, 2))
    dx, dflipped = correlate(g, flipped, p.window_back, p.height, p.width, x if wants_weight else None)
    return dx, dflipped[::-1, ::-1].transpose(0, 1, 3, 2) if wants_weight else None


pointwise = Strategy(_pointwise_forward, _pointwise_backward)
winograd = Strategy(_winograd_forward, _winograd_backward)
in_columns = Strategy(columns.forward, columns.backward)
taps = Strategy(by_tap.forward, by_tap.backward)
shifted = Strategy(depthwise.shifted_forward, depthwise.shifted_backward)
by_matrix = Strategy(depthwise.by_matrix_forward, depthwise.by_matrix_backward)

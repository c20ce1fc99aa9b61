"""max_pool2d, avg_pool2d and spatial_mean, with their vector-Jacobian products by hand. The definitions are in nn.

Square windows only; padding only for the maximum, where it counts as -infinity.
"""

import numpy as np

from .scheduler import NUMBERS, each, pieces
from .tape import on_tape


def _check(name, shape, size, stride, padding):
    if len(shape) != 4:
        raise ValueError(f"{name}: x must be (B, H, W, C), found shape {shape}")
    if size < 1 or stride < 1 or not 0 <= padding <= size // 2:
        raise ValueError(
            f"{name}: size and stride must be 1 or more and padding at most size // 2, found size {size}, "
            f"stride {stride}, padding {padding}"
        )
    if min(shape[1:3]) + 2 * padding < size:
        raise ValueError(
            f"{name}: a {size} x {size} window does not fit into {shape[1]} x {shape[2]} pixels "
            f"with padding {padding}"
        )


def _taps(x, size, stride):
    """For each place in the window, in row order, the pixels of x found there: views (B, H', W', C)."""
    rows, columns = ((n - size) // stride * stride + 1 for n in x.shape[1:3])
    return [x[:, u : u + rows : stride, v : v + columns : stride] for u in range(size) for v in range(size)]


def max_pool2d(
    x: np.ndarray, size: int, stride: int | None = None, padding: int = 0
) -> np.ndarray:  # (B, H, W, C) -> (B, H', W', C)
    """The largest value of each window; the first of equal values takes the gradient."""
    stride = size if stride is None else stride
    _check("max_pool2d", np.shape(x), size, stride, padding)
    return _max_pool2d(x, size=size, stride=stride, padding=padding)


def _images(x):
    """Slices of whole images, of about twice NUMBERS numbers of x, which the cores share."""
    return pieces(len(x), max(1, 2 * NUMBERS * len(x) // max(1, x.size)), 1 << 30)


def _padded(x, padding):
    if padding == 0:
        return x
    b, h, w, c = x.shape
    wide = np.full((b, h + 2 * padding, w + 2 * padding, c), -np.inf, x.dtype)
    wide[:, padding : padding + h, padding : padding + w] = x
    return wide


def _max_forward(x, *, wanted, size, stride, padding):
    rows, columns = ((n + 2 * padding - size) // stride + 1 for n in x.shape[1:3])
    y = np.empty((len(x), rows, columns, x.shape[3]), x.dtype)

    def work(images):
        first, *others = _taps(_padded(x[images], padding), size, stride)
        peak = y[images]
        peak[...] = first
        for tap in others:
            np.maximum(peak, tap, out=peak)

    each(work, _images(x))
    return y, (x, y)


def _max_backward(g, wanted, kept, *, size, stride, padding):
    """Tap by tap: g goes where x equals the window's maximum, unless an earlier tap has taken it."""
    x, y = kept
    b, h, w, c = x.shape
    apart = stride >= size  # windows share no pixel: every place of dx is written at most once
    # windows that cover every pixel write every place of dx, so it need not be zero first
    whole = apart and padding == 0 and size == stride and h % size == 0 and w % size == 0
    dx = (np.empty if whole else np.zeros)((b, h + 2 * padding, w + 2 * padding, c), x.dtype)

    def work(images):
        peak, dy = y[images], g[images]
        hit, part = np.empty(peak.shape, bool), None if apart else np.empty(peak.shape, x.dtype)
        free = np.ones(peak.shape, bool)  # windows whose maximum has not been met yet
        taps = _taps(_padded(x[images], padding), size, stride), _taps(dx[images], size, stride)
        for tap, dtap in zip(*taps, strict=True):
            np.equal(tap, peak, out=hit)
            hit &= free
            free ^= hit
            if apart:
                np.multiply(dy, hit, out=dtap)
            else:
                dtap += np.multiply(dy, hit, out=part)

    each(work, _images(x))
    return [np.ascontiguousarray(dx[:, padding : padding + h, padding : padding + w])]


_max_pool2d = on_tape("max_pool2d", _max_forward, _max_backward)


def avg_pool2d(
    x: np.ndarray, size: int, stride: int | None = None
) -> np.ndarray:  # (B, H, W, C) -> (B, H', W', C)
    """The mean of each window; every pixel of it takes an equal share of the gradient."""
    stride = size if stride is None else stride
    _check("avg_pool2d", np.shape(x), size, stride, 0)
    return _avg_pool2d(x, size=size, stride=stride)


def _avg_forward(x, *, wanted, size, stride):
    """Rows are added first, which are long, then pixels."""
    rows, columns = ((n - size) // stride + 1 for n in x.shape[1:3])
    y = np.empty((len(x), rows, columns, x.shape[3]), x.dtype)

    def work(images):
        part, down = x[images], (rows - 1) * stride + 1
        lines = (
            part[:, :down:stride].copy() if size == 1 else part[:, :down:stride] + part[:, 1 : down + 1 : stride]
        )
        for u in range(2, size):
            lines += part[:, u : u + down : stride]
        across = (columns - 1) * stride + 1
        total = y[images]
        total[...] = lines[:, :, :across:stride]
        for v in range(1, size):
            total += lines[:, :, v : v + across : stride]
        total *= 1 / size**2

    each(work, _images(x))
    return y, x.shape


def _avg_backward(g, wanted, shape, *, size, stride):
    share = g * g.dtype.type(1 / size**2)
    b, h, w, c = shape
    if stride == size and h % size == 0 and w % size == 0:  # every pixel is in one window
        dx = np.empty((b, h // size, size, w // size, size, c), g.dtype)
        dx[...] = share[:, :, None, :, None]
        return [dx.reshape(shape)]
    dx = np.zeros(shape, g.dtype)
    for tap in _taps(dx, size, stride):
        tap += share
    return [dx]


_avg_pool2d = on_tape("avg_pool2d", _avg_forward, _avg_backward)


def spatial_mean(x: np.ndarray) -> np.ndarray:  # (B, H, W, C) -> (B, C)
    """The mean over rows and columns; every pixel takes an equal share of the gradient."""
    if np.ndim(x) != 4 or 0 in np.shape(x)[1:3]:
        raise ValueError(f"spatial_mean: x must be (B, H, W, C) with pixels, found shape {np.shape(x)}")
    return _spatial_mean(x)


def _mean_forward(x, *, wanted):
    b, h, w, c = x.shape
    pixels = np.ascontiguousarray(x).reshape(b, h * w, c)  # one order of summing, whatever the memory's
    return pixels.sum(1) * x.dtype.type(1 / (h * w)), x.shape


def _mean_backward(g, wanted, shape):
    b, h, w, c = shape
    share = g * g.dtype.type(1 / (h * w))
    return [np.repeat(share[:, None], h * w, axis=1).reshape(shape)]


_spatial_mean = on_tape("spatial_mean", _mean_forward, _mean_backward)

"""max_pool2d, avg_pool2d and spatial_mean. The definitions are in nn.

Square windows only; padding only for the maximum, where it counts as -infinity.
"""

import numpy as np

from .tape import on_tape
from .threads import NUMBERS, each, pieces


def max_pool2d(x, size, stride=None, padding=0):  # (B, H, W, C) -> (B, H', W', C)
    stride = size if stride is None else stride
    _check("max_pool2d", np.shape(x), size, stride, padding)
    return _max_pool2d(x, size=size, stride=stride, padding=padding)


def avg_pool2d(x, size, stride=None):  # (B, H, W, C) -> (B, H', W', C)
    stride = size if stride is None else stride
    _check("avg_pool2d", np.shape(x), size, stride, 0)
    return _avg_pool2d(x, size=size, stride=stride)


def spatial_mean(x):  # (B, H, W, C) -> (B, C)
    if np.ndim(x) != 4 or 0 in np.shape(x)[1:3]:
        raise ValueError(f"spatial_mean: x must be (B, H, W, C) with pixels, found shape {np.shape(x)}")
    return _spatial_mean(x)


def _check(name, shape, size, stride, padding):
    if len(shape) != 4:
        raise ValueError(f"{name}: x must be (B, H, W, C), found shape {shape}")
    if size < 1 or stride < 1 or not 0 <= padding <= size // 2 or min(shape[1:3]) + 2 * padding < size:
        raise ValueError(
            f"{name}: size and stride must be 1 or more, padding at most size // 2, and a window must fit into "
            f"the padded pixels; found {shape[1]} x {shape[2]} pixels, size {size}, stride {stride}, "
            f"padding {padding}"
        )


def _taps(x, size, stride):
    """For each place in the window, in row order, the pixels of x found there: views (B, H', W', C)."""
    rows, columns = ((n - size) // stride * stride + 1 for n in x.shape[1:3])
    return [x[:, u : u + rows : stride, v : v + columns : stride] for u in range(size) for v in range(size)]


def framed(x: np.ndarray, padding: int, fill: float = 0.0) -> np.ndarray:  # (B, H, W, C)
    """Images with `padding` rows and columns of the value `fill` on every side; faster than np.pad."""
    b, h, w, c = x.shape
    wide = np.full((b, h + 2 * padding, w + 2 * padding, c), fill, x.dtype)
    wide[:, padding : padding + h, padding : padding + w] = x
    return wide


def strided(x: np.ndarray, shape: tuple, steps: tuple) -> np.ndarray:
    """A view of contiguous x, of which an index moves by `steps` numbers along each axis: windows that overlap.

    NumPy's sliding_window_view takes ten times longer per call.
    """
    return np.ndarray(shape, x.dtype, x, strides=[n * x.itemsize for n in steps])


@on_tape("max_pool2d")
def _max_pool2d(x, *, wanted, size, stride, padding):
    inner = np.s_[:, padding : padding + x.shape[1], padding : padding + x.shape[2]]
    x = framed(x, padding, -np.inf) if padding else x
    y = _taps(x, size, stride)[0].copy()
    parts = pieces(len(x), max(1, NUMBERS * len(x) // max(1, x.size)))  # whole images, which the cores share

    def forward(s):
        for tap in _taps(x[s], size, stride)[1:]:
            np.maximum(y[s], tap, out=y[s])

    each(forward, parts)

    def back(g):
        """Tap by tap: g goes where x equals the window's maximum, unless an earlier tap has taken it."""
        apart = stride >= size  # windows share no pixel: every place of dx is written at most once
        whole = y.size * size**2 == x.size and apart  # windows that cover every pixel write every place
        dx = (np.empty if whole else np.zeros)(x.shape, x.dtype)

        def work(s):
            free = np.ones(y[s].shape, bool)  # windows whose maximum has not been met yet
            for tap, dtap in zip(_taps(x[s], size, stride), _taps(dx[s], size, stride), strict=True):
                hit = tap == y[s]
                hit &= free
                free ^= hit
                if apart:
                    np.multiply(g[s], hit, out=dtap)
                else:
                    dtap += g[s] * hit

        each(work, parts)
        return [np.ascontiguousarray(dx[inner])]

    return y, back


@on_tape("avg_pool2d")
def _avg_pool2d(x, *, wanted, size, stride):
    share, shape = x.dtype.type(1 / size**2), x.shape

    def back(g):
        dx = np.zeros(shape, g.dtype)
        for tap in _taps(dx, size, stride):
            tap += g * share
        return [dx]

    return sum(_taps(x, size, stride)) * share, back


@on_tape("spatial_mean")
def _spatial_mean(x, *, wanted):
    b, h, w, c = shape = x.shape
    share = x.dtype.type(1 / (h * w))
    pixels = np.ascontiguousarray(x).reshape(b, h * w, c)  # one order of summing, whatever the memory's
    return pixels.sum(1) * share, lambda g: [np.repeat((g * share)[:, None], h * w, axis=1).reshape(shape)]

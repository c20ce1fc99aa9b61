"""max_pool2d(batch_norm(x, relu=True), 2) as one kernel that pools first, which leaves a quarter of the numbers.

The definition is nn.batch_norm_relu_pool. Normalising and relu are monotone in x, so the largest of a window's
results comes from t, its largest pixel; from its smallest, where the channel's weight is negative; and where that
is 0 all are equal, and the first pixel counts. So

    forward    statistics of x, then y = relu((t - mean) r weight + bias) on a quarter
    backward   with d = g where y > 0: dbias = sum d,  dweight = sum d (t - mean) r, both on a quarter, and
               dx = weight r (d at the pixel that is t, 0 elsewhere - mean(d) - (x - mean) r^2 mean(d (t - mean)))

Two pixels whose results are equal only by rounding are told apart here, while after rounding the first would
count.
"""

import numpy as np

from .batch_norm import along, centred, moments, shift_of
from .cores import workspace
from .lines import as_lines, repeated
from .scheduler import NUMBERS, each, pieces
from .tape import on_tape


def batch_norm_relu_pool(
    x: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray,
    state: dict,
    *,
    train: bool,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> tuple[np.ndarray, dict]:  # (B, H, W, C) -> (B, H / 2, W / 2, C), new state
    """The largest of each 2x2 window of max((x - mean) / sqrt(var + eps) * weight + bias, 0); also the state."""
    shape = np.shape(x)
    if len(shape) != 4 or shape[1] % 2 or shape[2] % 2:
        raise ValueError(f"batch_norm_relu_pool: x must be (B, H, W, C) with even H and W, found shape {shape}")
    mean, var, new = moments(x, weight, bias, state, train=train, momentum=momentum)
    return _kernel(x, weight, bias, mean=mean, inverse=1 / np.sqrt(var + eps), train=train), new


def _images(x):
    return pieces(len(x), max(1, 2 * NUMBERS * len(x) // max(1, x.size)), 1 << 30)


def _lines(x):  # (B, H, W, C), contiguous -> (B, n, k C): lines that end with an image
    return x.reshape(len(x), *as_lines(x[:1])[0].shape)


def _taps(x):  # the four pixels of every window, in row order
    return [x[:, u::2, v::2] for u in (0, 1) for v in (0, 1)]


def _forward(x, weight, bias, *, wanted, mean, inverse, train):
    b, h, w, c = x.shape
    x = np.ascontiguousarray(x)
    t, y = np.empty((2, b, h // 2, w // 2, c), x.dtype)
    scale, shift = weight * inverse, shift_of(mean, inverse, x.dtype)
    t_lines, y_lines = _lines(t), _lines(y)
    shifts = along(t_lines[0], shift)
    scales, offsets, zeros = repeated(t_lines[0], scale, bias - (mean - shift) * scale, np.zeros(c))

    def work(images):
        rows = x[images].reshape(-1, h // 2, 2, w * c)
        larger = np.maximum(rows[:, :, 0], rows[:, :, 1]).reshape(-1, h // 2, w // 2, 2, c)
        peak = np.maximum(larger[:, :, :, 0], larger[:, :, :, 1], out=t[images])
        first, *others = _taps(x[images])
        if (weight < 0).any():
            least = first.copy()
            for tap in others:
                np.minimum(least, tap, out=least)
            np.copyto(peak, least, where=weight < 0)
        if (weight == 0).any():
            np.copyto(peak, first, where=weight == 0)
        out = y_lines[images]
        np.multiply(centred(t_lines[images], shifts, out), scales, out=out)
        np.add(out, offsets, out=out)
        np.maximum(out, zeros, out=out)

    each(work, _images(x))
    return y, (x, t, y, weight) if wanted else None


def _backward(g, wanted, kept, *, mean, inverse, train):
    x, t, y, weight = kept
    b, h, w, c = x.shape
    dtype, n = x.dtype, x.size // c
    shift, scale = shift_of(mean, inverse, dtype), weight * inverse
    d = np.multiply(g, y > 0)
    t_lines, d_lines = as_lines(t, d)
    peaks = centred(t_lines, along(t_lines, shift), np.empty_like(t_lines))
    total = np.dot(np.ones(len(d_lines), dtype), d_lines).reshape(-1, c).sum(0, dtype=np.float64)
    moment = np.einsum("lk,lk->k", peaks, d_lines).reshape(-1, c).sum(0, dtype=np.float64)
    moment -= (mean - shift) * total
    gradients = {1: moment * inverse, 2: total}
    if 0 not in wanted:
        return [gradients[k] for k in wanted]
    scaled = np.multiply(d_lines, repeated(d_lines, scale), out=d_lines).reshape(d.shape)
    dx = np.empty(x.shape, dtype)
    x_lines, dx_lines = _lines(x), _lines(dx)
    slope = -scale * moment * inverse**2 / n
    shifts = along(x_lines[0], shift)
    slopes, offsets = repeated(x_lines[0], slope, -scale * total / n - slope * (mean - shift))

    def work(images):
        out = dx_lines[images]
        if train:
            np.multiply(centred(x_lines[images], shifts, out), slopes, out=out)
            np.add(out, offsets, out=out)
        else:
            out[...] = 0
        peak, dy = t[images], scaled[images]
        hit, part = workspace("hit", peak.shape, bool), workspace("part", peak.shape, dtype)
        free = np.ones(peak.shape, bool)  # windows whose t has not been met yet
        for tap, dtap in zip(_taps(x[images]), _taps(dx[images]), strict=True):
            np.equal(tap, peak, out=hit)
            hit &= free
            free ^= hit
            dtap += np.multiply(dy, hit, out=part)

    each(work, _images(x))
    gradients[0] = dx
    return [gradients[k] for k in wanted]


_kernel = on_tape("batch_norm_relu_pool", _forward, _backward)

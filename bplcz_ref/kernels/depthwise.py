"""Depthwise convolution, one kernel per channel, in two ways.

`shifted`, for maps of any size: at stride 1 an image with its padding is one run of numbers in memory, and a tap
sees that run a fixed number of places further on. So one multiplication and one addition of whole runs for each
tap give all outputs, and between them, where a window would wrap around an edge, numbers that are not used:

    run(y) = sum over taps (u, v) of w[u, v] * run(x) shifted by (u * width + v) pixels

`by_matrix`, for maps of few pixels: a channel's convolution is a matrix T from its pixels to its outputs,

    y = x T,  dx = g T^T,  dT = x^T g,     T = w E,  dw = dT E^T,     E[tap, pixel and output] = 0 or 1

with E[t, (p, q)] = 1 where output q sees pixel p through tap t: one small product per channel in the place of two
operations for each of 49 taps. Measured with 7x7 taps on 8x8 pixels of 96 channels, B = 32, one thread:
1.7 + 3.3 ms forward and backward, against 6.3 + 9.1 by shifts.
"""

import functools

import numpy as np

from .columns import in_order
from .cores import workspace
from .scheduler import NUMBERS, each, pieces


class _Runs:
    """Runs of several images (b, height, width, C) with `kh` - 1 rows and `kw` - 1 columns of padding."""

    def __init__(self, kh, kw, rows, columns, channels):
        self.kh, self.kw, self.tall, self.wide, self.channels = kh, kw, rows + kh - 1, columns + kw - 1, channels
        self.line = self.wide * channels

    def images(self, batch):
        """Slices of images whose runs have NUMBERS numbers; with half as many, 32 channels take a fifth longer."""
        return pieces(batch, max(1, NUMBERS // (self.tall * self.line)), 1 << 30)

    def placed(self, name, x, top, left):
        """The run of x (b, h, w, C), with its first pixel at (top, left) and zeros around it."""
        b, h, w, _ = x.shape
        lines = workspace(name, (b * self.tall + 1, self.line), x.dtype)  # a line more: the last tap's reach
        lines[...] = 0
        image = lines[:-1].reshape(b, self.tall, self.wide, self.channels)
        up, across = max(0, -top), max(0, -left)  # negative where taps that see padding only were left out
        h, w = min(h, up + self.tall - max(0, top)), min(w, across + self.wide - max(0, left))
        image[:, max(0, top) : top + h, max(0, left) : left + w] = x[:, up:h, across:w]
        return lines.reshape(-1)

    def shifts(self, run):
        """For each tap (u, v), the run that far on, as lines; all as long as the last one is."""
        n = len(run) // self.line - self.kh
        for u, v in np.ndindex(self.kh, self.kw):
            start = (u * self.wide + v) * self.channels
            yield u, v, run[start : start + n * self.line].reshape(n, self.line)

    def repeated(self, taps):  # (kh, kw, C) -> (kh, kw, line)
        return np.tile(taps, self.wide)

    def correlate(self, run, lines, out):
        """`out` (b, rows, columns, C) = the sum over taps of the shifted run times the tap's line."""
        b, rows, columns, _ = out.shape
        total = workspace("total", (b * self.tall, self.line), out.dtype)
        for u, v, seen in self.shifts(run):
            if u == v == 0:
                np.multiply(seen, lines[0, 0], out=total[: len(seen)])
                continue
            term = np.multiply(seen, lines[u, v], out=workspace("term", seen.shape, out.dtype))
            np.add(total[: len(seen)], term, out=total[: len(seen)])
        out[...] = total.reshape(b, self.tall, self.wide, self.channels)[:, :rows, :columns]


def shifted_forward(p, x, weight):
    s, rows, columns = p.stride, (p.rows - 1) * p.stride + 1, (p.columns - 1) * p.stride + 1
    y = np.empty((p.batch, rows, columns, p.channels), x.dtype)
    runs = _Runs(p.kh, p.kw, rows, columns, p.channels)
    lines = runs.repeated(weight[:, :, 0])
    each(lambda b: runs.correlate(runs.placed("run", x[b], p.top, p.left), lines, y[b]), runs.images(p.batch))
    return y if s == 1 else np.ascontiguousarray(y[:, ::s, ::s])


def shifted_backward(p, x, weight, g, wants_x, wants_weight):
    """dx is the padded g correlated with the flipped taps; the same shifts of g, times x, give dW, flipped."""
    if p.stride > 1:  # the same as stride 1 on a gradient with zeros between its pixels
        seen, shape = g, ((p.rows - 1) * p.stride + 1, (p.columns - 1) * p.stride + 1)
        g = np.zeros((p.batch, *shape, p.outputs), g.dtype)
        g[:, :: p.stride, :: p.stride] = seen
    dx = np.empty(x.shape, g.dtype)
    runs = _Runs(p.kh, p.kw, p.height, p.width, p.channels)
    back, flipped = p.window_back, runs.repeated(weight[::-1, ::-1, 0])

    def work(b):
        run = runs.placed("run", g[b], back.top, back.left)
        if wants_x:
            runs.correlate(run, flipped, dx[b])
        if not wants_weight:
            return None
        sums = np.empty((p.kh, p.kw, runs.line), x.dtype)
        pixels = runs.placed("pixels", x[b], 0, 0).reshape(-1, runs.line)
        for u, v, seen in runs.shifts(run):
            np.einsum("lk,lk->k", seen, pixels[: len(seen)], out=sums[u, v])
        return sums.reshape(p.kh, p.kw, runs.wide, p.channels).sum(2)

    parts = each(work, runs.images(p.batch))
    return dx, in_order(parts)[::-1, ::-1, None] if wants_weight else None


@functools.lru_cache(maxsize=64)
def _which_tap(p, dtype):  # -> E (kh kw, H W H' W')
    E = np.zeros((p.kh, p.kw, p.height, p.width, p.rows, p.columns), dtype)
    for u, v, i, j in np.ndindex(p.kh, p.kw, p.rows, p.columns):
        h, w = i * p.stride + u - p.top, j * p.stride + v - p.left
        if 0 <= h < p.height and 0 <= w < p.width:
            E[u, v, h, w, i, j] = 1
    return E.reshape(p.kh * p.kw, -1)


def _channels_first(x, c):  # (B, H, W, C) -> (channels c, B, H W), contiguous
    return np.ascontiguousarray(x.reshape(len(x), -1, x.shape[3])[:, :, c].transpose(2, 0, 1))


def _matrices(p, weight, c):  # -> T (channels c, H W, H' W')
    T = np.matmul(weight.reshape(-1, p.channels)[:, c].T, _which_tap(p, weight.dtype))
    return T.reshape(-1, p.height * p.width, p.rows * p.columns)


def by_matrix_forward(p, x, weight):
    y = np.empty((p.batch, p.rows * p.columns, p.channels), x.dtype)

    def work(c):
        y[:, :, c] = np.matmul(_channels_first(x, c), _matrices(p, weight, c)).transpose(1, 2, 0)

    each(work, pieces(p.channels, 32))
    return y.reshape(p.batch, p.rows, p.columns, p.channels)


def by_matrix_backward(p, x, weight, g, wants_x, wants_weight):
    dx = np.empty((p.batch, p.height * p.width, p.channels), x.dtype)
    dweight = np.empty((p.kh * p.kw, p.channels), x.dtype)

    def work(c):
        dy = _channels_first(g, c)
        if wants_x:
            dx[:, :, c] = np.matmul(dy, _matrices(p, weight, c).transpose(0, 2, 1)).transpose(1, 2, 0)
        if wants_weight:
            dT = np.matmul(_channels_first(x, c).transpose(0, 2, 1), dy)
            dweight[:, c] = np.matmul(_which_tap(p, x.dtype), dT.reshape(len(dy), -1).T)

    each(work, pieces(p.channels, 32))
    return dx.reshape(x.shape), dweight.reshape(p.kh, p.kw, 1, p.channels)

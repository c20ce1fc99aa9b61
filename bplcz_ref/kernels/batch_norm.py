"""batch_norm, with relu fused into it: two passes over x forward, two over (x, g) backward.

It refuses to be the definition (nn.batch_norm.definition). The work goes by tiles that fit the cache; within a
tile, rows are as long as possible, so that NumPy's loops over channels are not loops over 16 numbers.
"""

import numpy as np
from autograd.tracer import getval

from .tape import on_tape
from .threads import workspace

LINE = 2048  # numbers in a row of a tile: whole pixels, as many as fit
TILE = 32768  # numbers in a tile


def batch_norm(x, weight, bias, state, *, train, momentum=0.1, eps=1e-5, relu=False):
    # (..., C), (C,), (C,) -> (..., C), new state
    """nn.batch_norm, fast. The statistics are summed tile by tile around each tile's own mean, so that a mean
    far larger than the deviation does not cost the variance its digits."""
    shape = np.shape(x)
    channels = shape[-1] if shape else 0
    for name, value in (("weight", weight), ("bias", bias), *state.items()):
        if name != "num_batches_tracked" and np.shape(value) != (channels,):
            raise ValueError(f"batch_norm: {name} must be ({channels},) for x {shape}, found {np.shape(value)}")
    n = int(np.prod(shape[:-1]))
    if train and n < 2:
        raise ValueError(f"batch_norm in training needs 2 or more values per channel, got {n} (x is {shape})")
    if train:
        mean, var = _statistics(getval(x))
        new = {
            "running_mean": _moved(getval(state["running_mean"]), mean, momentum),
            "running_var": _moved(getval(state["running_var"]), var * (n / (n - 1)), momentum),
            "num_batches_tracked": getval(state["num_batches_tracked"]) + 1,
        }
    else:
        mean, var = (np.asarray(getval(state[k]), np.float64) for k in ("running_mean", "running_var"))
        new = state
    return _normalise(x, weight, bias, mean=mean, inverse=1 / np.sqrt(var + eps), train=train, relu=relu), new


def _moved(running, batch, momentum):
    return ((1 - momentum) * running + momentum * batch).astype(np.asarray(running).dtype)


def _tiles(*arrays):
    """The arrays as rows of whole pixels, cut into tiles: yields one (rows, L*C) view of each array a time.

    The last tile may be one of shorter rows.
    """
    channels = arrays[0].shape[-1]
    flat = [a.reshape(-1) for a in arrays]
    line = max(1, LINE // channels) * channels
    whole = flat[0].size // line * line
    step = max(1, TILE // line) * line
    for start in range(0, whole, step):
        yield [a[start : min(start + step, whole)].reshape(-1, line) for a in flat]
    if whole < flat[0].size:
        yield [a[whole:].reshape(1, -1) for a in flat]


class _Spread:
    """Values per channel, repeated to whole tiles: NumPy works on two whole tiles faster than on one and a row."""

    def __init__(self, dtype, *values):
        self.values, self.tiles = [np.asarray(v, dtype) for v in values], {}

    def over(self, tile):
        if tile.shape not in self.tiles:
            self.tiles[tile.shape] = [np.tile(v, tile.size // len(v)).reshape(tile.shape) for v in self.values]
        return self.tiles[tile.shape]


def _per_channel(line, channels):  # (L*C,) -> (C,) in float64
    return line.reshape(-1, channels).sum(0, dtype=np.float64)


def _statistics(x):
    """Mean and biased variance per channel in float64.

    Each tile is summed around the mean of its first row, so nothing large cancels; Chan's rule joins the tiles.
    """
    x = np.ascontiguousarray(x)
    channels = x.shape[-1]
    count, mean, squares = 0, np.zeros(channels), np.zeros(channels)
    for (tile,) in _tiles(x):
        n = tile.size // channels
        shift = (_per_channel(tile[0], channels) / (tile.shape[1] // channels)).astype(x.dtype)
        d = workspace("deviation", tile.shape, x.dtype)
        np.subtract(tile, np.tile(shift, tile.shape[1] // channels), out=d)
        off = _per_channel(d.sum(0), channels) / n
        part = shift + off
        part_squares = np.maximum(_per_channel(np.einsum("lk,lk->k", d, d), channels) - n * off**2, 0)
        delta = part - mean
        squares += part_squares + delta**2 * (count * n / (count + n))
        mean += delta * (n / (count + n))
        count += n
    return mean, squares / count


def _forward(x, weight, bias, *, wanted, mean, inverse, train, relu):
    """(x - mean) * inverse * weight + bias; `train` only says whether mean and inverse move with x."""
    x = np.ascontiguousarray(x)
    y = np.empty(x.shape, x.dtype)
    scale = weight * inverse
    shift = mean.astype(x.dtype)
    spread = _Spread(x.dtype, shift, scale, bias - (mean - shift) * scale, np.zeros(len(shift)))
    for tile, out in _tiles(x, y):
        shifts, scales, offsets, zeros = spread.over(tile)
        np.subtract(tile, shifts, out=out)
        np.multiply(out, scales, out=out)
        np.add(out, offsets, out=out)
        if relu:
            np.maximum(out, zeros, out=out)
    return y, (x, y if relu else None, weight)


def _backward(g, wanted, kept, *, mean, inverse, train, relu):
    """With d = g where y passed the relu and z = (x - mean) * inverse, sums and means over a channel:

    dbias = sum d,   dweight = sum d z,   dx = weight * inverse * (d - mean(d) - z mean(d z)),

    the two means in training alone, where the statistics move with x.
    """
    x, y, weight = kept
    g = np.ascontiguousarray(g)
    channels, n = len(weight), g.size // len(weight)
    dx = np.empty(g.shape, g.dtype)
    shift = mean.astype(g.dtype)
    spread = _Spread(g.dtype, shift)
    total, moment = np.zeros(channels), np.zeros(channels)  # sum of d and of d * (x - mean)
    for tile, g_tile, d, *passed in _tiles(x, g, dx, *([y] if relu else [])):
        if relu:
            mask = np.greater(passed[0], 0, out=workspace("mask", tile.shape, bool))
            g_tile = np.multiply(g_tile, mask, out=d)
        total += _per_channel(g_tile.sum(0), channels)
        term = np.subtract(tile, *spread.over(tile), out=workspace("deviation", tile.shape, g.dtype))
        moment += _per_channel(np.einsum("lk,lk->k", term, g_tile), channels)
    moment -= (mean - shift) * total
    gradients = {1: moment * inverse, 2: total}
    if 0 in wanted:
        scale = weight * inverse
        slope = -scale * moment * inverse**2 / n
        spread = _Spread(g.dtype, shift, scale, slope, -scale * total / n - slope * (mean - shift))
        for tile, g_tile, d in _tiles(x, g, dx):
            shifts, scales, slopes, offsets = spread.over(tile)
            np.multiply(d if relu else g_tile, scales, out=d)
            if train:
                term = np.subtract(tile, shifts, out=workspace("deviation", tile.shape, g.dtype))
                np.multiply(term, slopes, out=term)
                np.add(term, offsets, out=term)
                np.add(d, term, out=d)
        gradients[0] = dx
    return [gradients[k] for k in wanted]


_normalise = on_tape("batch_norm", _forward, _backward)

"""batch_norm, with relu fused into it: two passes over x forward, two over (x, g) backward.

The definition is nn.batch_norm. The work is done in tiles that fit the cache. A line of a tile holds as many whole
pixels as fit: values per channel are repeated along it, and NumPy's inner loops run over about LINE numbers
instead of the channels of one pixel.
"""

import numpy as np
from autograd.tracer import getval

from .cores import workspace
from .tape import on_tape

LINE = 2048  # numbers in a line of a tile: whole pixels, as many as fit
TILE = 65536  # numbers in a tile


def batch_norm(
    x: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray,
    state: dict,
    *,
    train: bool,
    momentum: float = 0.1,
    eps: float = 1e-5,
    relu: bool = False,
) -> tuple[np.ndarray, dict]:  # (..., C), (C,), (C,) -> (..., C), new state
    """y = (x - mean) / sqrt(var + eps) * weight + bias per channel, then max(y, 0) if `relu`; also the state."""
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


def _tiled(*arrays):
    """The arrays (..., C), contiguous, as tiles: a list of regions, each with one view of every array.

    All views are (tiles, lines, L*C) with L pixels per line. Three regions hold everything: whole tiles, then one
    tile of the whole lines that are left, then one line of the pixels that are left.
    """
    channels = arrays[0].shape[-1]
    flat = [a.reshape(-1) for a in arrays]
    line = max(1, LINE // channels) * channels
    tile = max(1, TILE // line) * line
    ends = [flat[0].size // tile * tile, flat[0].size // line * line, flat[0].size]
    shapes = [(-1, tile // line, line), (1, -1, line), (1, 1, -1)]
    starts = [0, *ends[:2]]
    return [
        [a[start:end].reshape(shape) for a in flat]
        for start, end, shape in zip(starts, ends, shapes, strict=True)
        if end > start
    ]


def _repeated(dtype, shape, *values):
    """Values per channel repeated over a whole tile: NumPy is faster on two tiles than on a tile and a row."""
    return [np.tile(np.asarray(v, dtype), shape[0] * shape[1] // len(v)).reshape(shape) for v in values]


def _per_channel(lines, channels):  # (tiles, L*C) -> (tiles, C) in float64
    return lines.reshape(len(lines), -1, channels).sum(1, dtype=np.float64)


def _statistics(x):
    """Mean and biased variance per channel in float64.

    Each tile is summed around the mean of its first line, so a mean far larger than the deviation does not cost
    the variance its digits; then the tiles t of n_t values are joined by
    sum (x - mean)^2 = sum over tiles of sum (x - mean_t)^2 + n_t (mean_t - mean)^2.
    """
    x = np.ascontiguousarray(x)
    channels = x.shape[-1]
    counts, means, squares = [], [], []
    for (region,) in _tiled(x):
        first = _per_channel(region[:, 0], channels) / (region.shape[2] // channels)
        shift = first.astype(x.dtype)
        shifts = np.tile(shift, region.shape[2] // channels)
        totals, powers = np.empty(shifts.shape, x.dtype), np.empty(shifts.shape, x.dtype)
        d = workspace("deviation", region.shape[1:], x.dtype)
        for t, tile in enumerate(region):
            np.subtract(tile, shifts[t], out=d)
            np.add.reduce(d, 0, out=totals[t])
            np.einsum("lk,lk->k", d, d, out=powers[t])
        n = region[0].size // channels
        off = _per_channel(totals, channels) / n
        counts += [n] * len(region)
        means.append(shift + off)
        squares.append(_per_channel(powers, channels) - n * off**2)
    counts, means = np.array(counts, np.float64)[:, None], np.concatenate(means)
    mean = (counts * means).sum(0) / counts.sum()
    total = np.concatenate(squares).sum(0) + (counts * (means - mean) ** 2).sum(0)
    return mean, np.maximum(total / counts.sum(), 0)


def _forward(x, weight, bias, *, wanted, mean, inverse, train, relu):
    """(x - mean) * inverse * weight + bias; `train` says whether mean and inverse move with x.

    mean is float64 and x may be float32: shift is the mean in the dtype of x, and the offset makes up for its
    rounding.
    """
    x = np.ascontiguousarray(x)
    y = np.empty(x.shape, x.dtype)
    scale = weight * inverse
    shift = mean.astype(x.dtype)
    values = shift, scale, bias - (mean - shift) * scale, np.zeros(len(shift))
    for x_region, y_region in _tiled(x, y):
        shifts, scales, offsets, zeros = _repeated(x.dtype, x_region.shape[1:], *values)
        for tile, out in zip(x_region, y_region, strict=True):
            np.subtract(tile, shifts, out=out)
            np.multiply(out, scales, out=out)
            np.add(out, offsets, out=out)
            if relu:
                np.maximum(out, zeros, out=out)
    return y, (x, y if relu else x, weight)  # y is only asked what passed the relu; without relu it is not kept


def _backward(g, wanted, kept, *, mean, inverse, train, relu):
    """With d = g where y passed the relu, otherwise 0, and z = (x - mean) * inverse, sums and means per channel:

    dbias = sum d,   dweight = sum d z,   dx = weight * inverse * (d - mean(d) - z mean(d z)),

    the two means only in training, where the statistics move with x. The second pass computes dx as
    d * scale + (x - shift) * slope + offset, one number of each kind per channel.
    """
    x, y, weight = kept
    g = np.ascontiguousarray(g)
    dtype, channels, n = g.dtype, len(weight), g.size // len(weight)
    dx = np.empty(g.shape, dtype)
    shift = mean.astype(dtype)
    total, moment = 0, 0  # sum of d and of d * (x - mean)
    regions = _tiled(x, y, g, dx)
    for region in regions:
        shape = region[0].shape[1:]
        totals, moments = (np.empty((len(region[0]), shape[1]), dtype) for _ in range(2))
        term, mask = workspace("deviation", shape, dtype), workspace("mask", shape, bool)
        (shifts,) = _repeated(dtype, shape, shift)
        for t, (tile, y_tile, d, out) in enumerate(zip(*region, strict=True)):
            if relu:  # the factors 0 and 1 of the relu; d is kept in dx's memory for the second pass
                d = np.multiply(d, np.greater(y_tile, 0, out=mask), out=out)
            np.add.reduce(d, 0, out=totals[t])
            np.subtract(tile, shifts, out=term)
            np.einsum("lk,lk->k", term, d, out=moments[t])
        total = total + _per_channel(totals, channels).sum(0)
        moment = moment + _per_channel(moments, channels).sum(0)
    moment = moment - (mean - shift) * total
    gradients = {1: moment * inverse, 2: total}
    if 0 in wanted:
        scale = weight * inverse
        slope = -scale * moment * inverse**2 / n
        values = shift, scale, slope, -scale * total / n - slope * (mean - shift)
        for x_region, _, g_region, dx_region in regions:
            shape = x_region.shape[1:]
            term = workspace("deviation", shape, dtype)
            shifts, scales, slopes, offsets = _repeated(dtype, shape, *values)
            for tile, d, out in zip(x_region, g_region, dx_region, strict=True):
                np.multiply(out if relu else d, scales, out=out)
                if train:
                    np.subtract(tile, shifts, out=term)
                    np.multiply(term, slopes, out=term)
                    np.add(term, offsets, out=term)
                    np.add(out, term, out=out)
        gradients[0] = dx
    return [gradients[k] for k in wanted]


_normalise = on_tape("batch_norm", _forward, _backward)

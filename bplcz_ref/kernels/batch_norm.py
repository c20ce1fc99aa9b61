"""batch_norm, with a sum and relu fused into it: two passes over x forward, two over (x, g) backward.

The definition is nn.batch_norm. The work goes along long lines (lines.py), block by block, so that the three to
five operations of a pass find their numbers in the cache.
"""

import numpy as np
from autograd.tracer import getval

from .cores import workspace
from .lines import as_lines, blocks, per_channel, repeated
from .scheduler import each
from .tape import on_tape

NEAR = 4.0  # deviations


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
    plus: np.ndarray | None = None,
) -> tuple[np.ndarray, dict]:  # (..., C), (C,), (C,) -> (..., C), new state
    """y = (x - mean) / sqrt(var + eps) * weight + bias + plus, then max(y, 0) if `relu`; also the state."""
    mean, var, new = moments(x, weight, bias, state, train=train, momentum=momentum)
    arrays: tuple = (x, weight, bias)
    if plus is not None:
        if np.shape(plus) != np.shape(x):
            raise ValueError(f"batch_norm: plus must have the shape of x, {np.shape(x)}, found {np.shape(plus)}")
        arrays = (*arrays, plus)
    return _normalise(*arrays, mean=mean, inverse=1 / np.sqrt(var + eps), train=train, relu=relu), new


def moments(
    x: np.ndarray, weight: np.ndarray, bias: np.ndarray, state: dict, *, train: bool, momentum: float
) -> tuple[np.ndarray, np.ndarray, dict]:  # -> (C,), (C,) in float64, new state
    """The mean and variance to normalise by, this batch's or the running ones, and the state after it."""
    check(np.shape(x), weight, bias, state, train)
    if not train:
        return *running(state), state
    mean, var = statistics(getval(x))
    return mean, var, moved(state, mean, var, int(np.prod(np.shape(x)[:-1])), momentum)


def check(shape: tuple, weight: np.ndarray, bias: np.ndarray, state: dict, train: bool) -> None:
    """ValueError unless these belong to an x of this shape, and training has values enough."""
    channels, n = shape[-1] if shape else 0, int(np.prod(shape[:-1]))
    for name, value in (("weight", weight), ("bias", bias), *state.items()):
        if name != "num_batches_tracked" and np.shape(value) != (channels,):
            raise ValueError(f"batch_norm: {name} must be ({channels},) for x {shape}, found {np.shape(value)}")
    if train and n < 2:
        raise ValueError(f"batch_norm in training needs 2 or more values per channel, got {n} (x is {shape})")


def running(state: dict) -> tuple[np.ndarray, np.ndarray]:
    """The running mean and variance in float64."""
    mean, var = (np.asarray(getval(state[k]), np.float64) for k in ("running_mean", "running_var"))
    return mean, var


def moved(state: dict, mean: np.ndarray, var: np.ndarray, n: int, momentum: float) -> dict:
    """The state after a batch of n values per channel with this mean and biased variance."""

    def towards(name, batch):
        running = np.asarray(getval(state[name]))
        return ((1 - momentum) * running + momentum * batch).astype(running.dtype)

    return {
        "running_mean": towards("running_mean", mean),
        "running_var": towards("running_var", var * (n / (n - 1))),
        "num_batches_tracked": getval(state["num_batches_tracked"]) + 1,
    }


def statistics(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:  # (..., C) -> (C,), (C,) in float64
    """Mean and biased variance per channel, by sums of x and its square around `shift`.

    shift is the mean of eight lines spread over x, so that a mean far larger than the deviation does not cost the
    variance its digits: var = mean of (x - shift)^2 - (mean - shift)^2.
    """
    channels, n = x.shape[-1], x.size // x.shape[-1]
    (lines,) = as_lines(np.ascontiguousarray(x))
    shift = lines[:: -(-len(lines) // 8)].reshape(-1, channels).mean(0)
    (shifts,) = repeated(lines, shift)

    def sums(block):
        d = np.subtract(lines[block], shifts, out=workspace("deviation", lines[block].shape, x.dtype))
        return np.dot(np.ones(len(d), x.dtype), d), np.einsum("lk,lk->k", d, d)

    totals, squares = zip(*each(sums, blocks(lines)), strict=True)
    off, square = (per_channel(parts, channels) / n for parts in (totals, squares))
    return shift.astype(np.float64) + off, np.maximum(square - off**2, 0)


def shift_of(mean: np.ndarray, inverse: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """What x is reduced by before it is multiplied: its mean in the dtype of x, or 0 where all means are small.

    x * scale + offset rounds x * scale, which is up to NEAR deviations larger than (x - mean) * scale.
    """
    near = (np.abs(mean) * inverse <= NEAR).all()
    return np.zeros(len(mean), dtype) if near else mean.astype(dtype)


def along(lines: np.ndarray, shift: np.ndarray) -> np.ndarray | None:
    """The shift repeated along a line; None where it is 0."""
    return repeated(lines, shift)[0] if shift.any() else None


def centred(lines: np.ndarray, shifts: np.ndarray | None, out: np.ndarray) -> np.ndarray:
    """lines - shifts, in `out`; without shifts the lines as they are."""
    return lines if shifts is None else np.subtract(lines, shifts, out=out)


def forward(x, weight, bias, plus=None, *, wanted, mean, inverse, train, relu):
    """(x - mean) * inverse * weight + bias + plus; `train` says whether mean and inverse move with x.

    mean is float64 and x may be float32: the offset makes up for the rounding of the shift.
    """
    x = np.ascontiguousarray(x)
    y = np.empty(x.shape, x.dtype)
    scale, shift = weight * inverse, shift_of(mean, inverse, x.dtype)
    lines, out, added = as_lines(x, y, x if plus is None else np.ascontiguousarray(plus))
    shifts = along(lines, shift)
    scales, offsets, zeros = repeated(lines, scale, bias - (mean - shift) * scale, np.zeros(len(shift)))

    def work(block):
        part = np.multiply(centred(lines[block], shifts, out[block]), scales, out=out[block])
        np.add(part, offsets, out=part)
        if plus is not None:
            np.add(part, added[block], out=part)
        if relu:
            np.maximum(part, zeros, out=part)

    each(work, blocks(lines))
    return y, (x, y if relu else None, weight)  # y says what passed the relu


def backward(g, wanted, kept, *, mean, inverse, train, relu):
    """With d = g where y passed the relu, otherwise 0, and z = (x - mean) * inverse, sums and means per channel:

    dplus = d,  dbias = sum d,  dweight = sum d z,  dx = weight * inverse * (d - mean(d) - z mean(d z)),

    the two means only in training, where the statistics move with x. The second pass computes dx as
    d * scale + (x - shift) * slope + offset, one number of each kind per channel.
    """
    x, y, weight = kept
    g = np.ascontiguousarray(g)
    dtype, channels, n = g.dtype, len(weight), g.size // len(weight)
    d = np.empty(g.shape, dtype) if relu else g
    dx = np.empty(g.shape, dtype) if 3 in wanted or not relu else d  # d is dplus, or not needed afterwards
    scale, shift = weight * inverse, shift_of(mean, inverse, dtype)
    x_lines, y_lines, g_lines, d_lines, dx_lines = as_lines(x, y if relu else x, g, d, dx)
    cuts = blocks(x_lines)
    shifts = along(x_lines, shift)

    def sums(block):
        part = d_lines[block]
        if relu:
            mask = np.greater(y_lines[block], 0, out=workspace("mask", part.shape, bool))
            np.multiply(g_lines[block], mask, out=part)
        z = centred(x_lines[block], shifts, workspace("deviation", part.shape, dtype))
        return np.dot(np.ones(len(part), dtype), part), np.einsum("lk,lk->k", z, part)

    totals, products = zip(*each(sums, cuts), strict=True)
    total, moment = per_channel(totals, channels), per_channel(products, channels)
    moment -= (mean - shift) * total  # sum of d * (x - mean)
    gradients = {1: moment * inverse, 2: total, 3: d}
    if 0 in wanted:
        slope = -scale * moment * inverse**2 / n
        values = scale, slope, -scale * total / n - slope * (mean - shift)
        scales, slopes, offsets = repeated(x_lines, *values)

        def work(block):
            part = np.multiply(d_lines[block], scales, out=dx_lines[block])
            if train:
                term = workspace("deviation", part.shape, dtype)
                np.multiply(centred(x_lines[block], shifts, term), slopes, out=term)
                np.add(term, offsets, out=term)
                np.add(part, term, out=part)

        each(work, cuts)
        gradients[0] = dx
    return [gradients[k] for k in wanted]


_normalise = on_tape("batch_norm", forward, backward)

"""batch_norm, with a sum and relu fused into it, and layer_norm, in blocks that the cores share.

The definitions are in nn. Both compute (x - mean) / sqrt(var + eps) * weight + bias and, backward, with d the
gradient of that and z = (x - mean) / sqrt(var + eps),

    dbias = sum d,  dweight = sum d z,  dx = (q - mean(q) - z mean(q z)) / sqrt(var + eps) with q = d weight

where batch norm takes its means over all pixels of a channel, and layer norm over the features of a row.
"""

import math

import numpy as np
from autograd.tracer import getval

from .lines import as_lines, repeated, sums_per_channel
from .products import rows_of
from .tape import on_tape
from .threads import NUMBERS, each, in_order, pieces

NEAR = 4.0  # deviations


def batch_norm(x, weight, bias, state, *, train, momentum=0.1, eps=1e-5, relu=False, plus=None):
    # (..., C), (C,), (C,) -> (..., C), new state
    """y = (x - mean) / sqrt(var + eps) * weight + bias + plus, then max(y, 0) if `relu`; also the state."""
    if plus is not None and np.shape(plus) != np.shape(x):
        raise ValueError(f"batch_norm: plus must have the shape of x, {np.shape(x)}, found {np.shape(plus)}")
    check(np.shape(x), weight, bias, state, train)
    if train:
        mean, var = statistics(getval(x))
        state = moved(state, mean, var, math.prod(np.shape(x)[:-1]), momentum)
    else:
        mean, var = (np.asarray(getval(state[k]), np.float64) for k in ("running_mean", "running_var"))
    options = {"mean": mean, "inverse": 1 / np.sqrt(var + eps), "train": train, "relu": relu}
    return normalise(x, weight, bias, *([] if plus is None else [plus]), **options), state


def check(shape: tuple, weight: np.ndarray, bias: np.ndarray, state: dict, train: bool) -> None:
    """ValueError unless these belong to an x of this shape, and training has values enough."""
    channels, n = shape[-1] if shape else 0, math.prod(shape[:-1])
    for name, value in (("weight", weight), ("bias", bias), *state.items()):
        if name != "num_batches_tracked" and np.shape(value) != (channels,):
            raise ValueError(f"batch_norm: {name} must be ({channels},) for x {shape}, found {np.shape(value)}")
    if train and n < 2:
        raise ValueError(f"batch_norm in training needs 2 or more values per channel, got {n} (x is {shape})")


def moved(state: dict, mean: np.ndarray, var: np.ndarray, n: int, momentum: float) -> dict:
    """The state after a batch of n values per channel with this mean and biased variance."""
    new = {}
    for name, batch in (("running_mean", mean), ("running_var", var * (n / (n - 1)))):
        old = np.asarray(getval(state[name]))
        new[name] = ((1 - momentum) * old + momentum * batch).astype(old.dtype)
    return new | {"num_batches_tracked": getval(state["num_batches_tracked"]) + 1}


def statistics(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:  # (..., C) -> (C,), (C,) in float64
    """Mean and biased variance per channel, by sums of x - shift and its square.

    shift is the mean of eight lines spread over x, so that a mean far larger than the deviation does not cost the
    variance its digits: var = mean of (x - shift)^2 - (mean - shift)^2.
    """
    channels, n = x.shape[-1], x.size // x.shape[-1]
    (lines,), blocks = as_lines(np.ascontiguousarray(x))
    near = lines[:: -(-len(lines) // 8)].reshape(-1, channels)
    shift = near.sum(0) / len(near)
    (shifts,) = repeated(lines, shift)

    def sums(s, out):
        d = lines[s] - shifts
        np.dot(np.ones(len(d), x.dtype), d, out=out[0])
        np.einsum("lk,lk->k", d, d, out=out[1])

    off, square = sums_per_channel(sums, blocks, lines, channels) / n
    return shift.astype(np.float64) + off, np.maximum(square - off**2, 0)


@on_tape("batch_norm")
def normalise(x, weight, bias, plus=None, *, wanted, mean, inverse, train, relu):
    """x * scale + offset; `train` says whether mean and inverse = 1 / sqrt(var + eps) move with x.

    That rounds x * scale, so x is first reduced by its mean in the dtype of x, unless all means are less than NEAR
    deviations; the offset makes up for what the mean was rounded by. Backward is two passes: sums, and dx as
    d * scale + (x - shift) * slope + end, one number of each kind per channel.
    """
    x, y, n = np.ascontiguousarray(x), np.empty(x.shape, x.dtype), x.size // len(mean)
    near, scale = (np.abs(mean) * inverse <= NEAR).all(), weight * inverse
    shift = np.zeros(len(mean), x.dtype) if near else mean.astype(x.dtype)
    off = mean - shift
    (lines, out, added), blocks = as_lines(x, y, x if plus is None else np.ascontiguousarray(plus))
    shifts, scales, offsets, zeros = repeated(lines, shift, scale, bias - off * scale, np.zeros(len(mean)))

    def forward(s):
        centred = lines[s] if near else np.subtract(lines[s], shifts, out=out[s])
        part = np.multiply(centred, scales, out=out[s])
        np.add(part, offsets, out=part)
        if plus is not None:
            np.add(part, added[s], out=part)
        if relu:
            np.maximum(part, zeros, out=part)  # with the number 0 it takes twice as long

    each(forward, blocks)

    def back(g):  # lines are repeated again: kept for every layer, they would be a good part of all memory
        g = np.ascontiguousarray(g)
        d = np.empty_like(g) if relu else g
        (given, passed, ds), _ = as_lines(g, y, d)
        shifts, scales = repeated(lines, shift, scale)

        def centred(s):
            return lines[s] if near else lines[s] - shifts

        def sums(s, out):
            part = np.multiply(given[s], passed[s] > 0, out=ds[s]) if relu else ds[s]
            np.dot(np.ones(len(part), x.dtype), part, out=out[0])
            np.einsum("lk,lk->k", centred(s), part, out=out[1])

        total, moment = sums_per_channel(sums, blocks, lines, len(mean))
        moment -= off * total  # sum of d * (x - mean)
        gradients = {1: moment * inverse, 2: total, 3: d}
        if 0 in wanted:
            gradients[0] = dx = np.empty_like(d) if 3 in wanted or not relu else d
            (dxs,), _ = as_lines(dx)
            slope = -scale * moment * inverse**2 / n
            slopes, ends = repeated(lines, slope, -scale * total / n - slope * off)

            def spread(s):
                part = np.multiply(ds[s], scales, out=dxs[s])
                if train:
                    term = np.multiply(centred(s), slopes)
                    np.add(term, ends, out=term)
                    np.add(part, term, out=part)

            each(spread, blocks)
        return [gradients[k] for k in wanted]

    return y, back


# -------------------------------------------------------------------------------------------------- layer norm


def layer_norm(x, weight, bias, eps=1e-5):  # (..., d), (d,), (d,) -> (..., d)
    """y = z * weight + bias, z = (x - mean) / sqrt(var + eps) over the last axis, var divided by d."""
    shapes = [np.shape(a) for a in (x, weight, bias)]
    if shapes[0][-1:] in ((), (0,)) or shapes[1:] != [shapes[0][-1:]] * 2:
        raise ValueError(
            "layer_norm needs x (..., d), d 1 or more, weight (d,), bias (d,), got {}, {}, {}".format(*shapes)
        )
    return normalise_rows(x, weight, bias, eps=eps)


@on_tape("layer_norm")
def normalise_rows(x, weight, bias, *, wanted, eps):
    """z and 1 / sqrt(var + eps) are kept; x is not."""
    rows, shape = rows_of(x), x.shape
    y, r = np.empty(rows.shape, x.dtype), np.empty((len(rows), 1), x.dtype)
    z = np.empty(rows.shape, x.dtype) if wanted else y
    share = np.full(rows.shape[1], 1 / rows.shape[1], x.dtype)  # a mean over d is a product with it, by BLAS
    blocks = pieces(len(rows), max(1, NUMBERS // rows.shape[1]))

    def forward(s):
        c = np.subtract(rows[s], np.dot(rows[s], share)[:, None], out=z[s])
        r[s, 0] = (np.vecdot(c, c) / rows.shape[1] + eps) ** -0.5  # of centred values: E[x^2] - mean^2 cancels
        c *= r[s]
        out = np.multiply(c, weight, out=y[s])
        out += bias

    each(forward, blocks)

    def back(g):
        g = rows_of(g)
        dx, part = np.empty(g.shape, g.dtype), weight / x.dtype.type(len(weight))

        def work(s):
            ones = np.ones(len(g[s]), g.dtype)
            term = g[s] * z[s]
            sums = np.dot(ones, term), np.dot(ones, g[s])
            mean_q, mean_qz = np.dot(g[s], part)[:, None], np.dot(term, part)[:, None]
            q = np.multiply(g[s], weight, out=dx[s])
            q -= mean_q
            q -= np.multiply(z[s], mean_qz, out=term)
            q *= r[s]
            return sums

        dweight, dbias = (in_order(sums) for sums in zip(*each(work, blocks), strict=True))
        return [(dx.reshape(shape), dweight, dbias)[n] for n in wanted]

    return y.reshape(shape), back

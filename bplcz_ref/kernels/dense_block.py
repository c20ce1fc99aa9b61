"""A dense block as one node of the tape, on one buffer whose channels come first.

The definition is nn.dense_block. Every layer normalises all channels before it, with weights of its own, but in
training a channel's mean and variance are the same in each of these layers. So

    X[c]     = (x[c] - mean) r, r = 1 / sqrt(var + eps), is made once, when channel c is
    layer k    sees A = relu(w_k X + b_k)                        on the channels before it, a contiguous part of X
    backward   Q[c] = sum over layers of w_k d_k, where d_k is the gradient of layer k by w_k X + b_k
               dx = r (Q - mean(Q) - X mean(Q X)),               once, when all layers that see c are done

while layer by layer each of DenseNet121's 58 concatenations copies what it has, and each channel's statistics are
taken, and their gradient spread, up to 24 times. In evaluation the running values may differ from layer to layer:
then X is x as it is, and the layer's own mean and r are in its w_k and b_k.
"""

from collections.abc import Sequence

import numpy as np

from . import batch_norm, convolution
from .cores import workspace
from .products import product, products
from .scheduler import NUMBERS, each, pieces
from .tape import on_tape

PARTS = 6  # arrays of a layer


def dense_block(
    x: np.ndarray,
    layers: Sequence[dict],
    states: Sequence[dict],
    *,
    train: bool,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> tuple[np.ndarray, list]:  # (B, H, W, c) -> (B, H, W, c + sum of growths), new states
    """x <- [x, conv3x3(relu(BN(conv1x1(relu(BN(x))))))] for each layer, new channels last."""
    n = int(np.prod(np.shape(x)[:-1]))
    channels = np.shape(x)[-1]
    for k, (p, state) in enumerate(zip(layers, states, strict=True), 1):
        (m, c, *_), (growth, inner, *_) = np.shape(p["conv1"]["weight"]), np.shape(p["conv2"]["weight"])
        if c != channels or inner != m:
            raise ValueError(
                f"dense_block: layer {k} sees {channels} channels; conv1 has {c}, conv2 {inner} of conv1's {m}"
            )
        for name, size in (("norm1", c), ("norm2", m)):
            weight, bias = _pair(p[name])
            batch_norm.check((*np.shape(x)[:-1], size), weight, bias, state[name], train)
        channels += growth
    arrays = [
        a
        for p in layers
        for norm, conv in ("11", "22")
        for a in (*_pair(p[f"norm{norm}"]), p[f"conv{conv}"]["weight"])
    ]
    given = None  # in evaluation, the (mean, 1 / sqrt(var + eps)) of norm1 and norm2 of each layer
    if not train:
        pairs = [[batch_norm.running(s[name]) for name in ("norm1", "norm2")] for s in states]
        given = [[(mean, 1 / np.sqrt(var + eps)) for mean, var in pair] for pair in pairs]
    measured: list[dict] = []  # {norm: (mean, var)} of each layer; `_forward` fills it
    y = _block(x, *arrays, given=given, eps=eps, measured=measured)
    if not train:
        return y, list(states)
    return y, [
        {name: batch_norm.moved(s[name], mean, var, n, momentum) for name, (mean, var) in found.items()}
        for s, found in zip(states, measured, strict=True)
    ]


def _pair(norm):
    return norm["weight"], norm["bias"]


def _rows(channels, n):
    """Slices of the channels, each of about NUMBERS numbers, which the cores share."""
    return pieces(channels, max(1, NUMBERS // n), 1 << 30)


def _forward(x, *arrays, wanted, given, eps, measured):
    B, h, w, c = x.shape
    n, layers = B * h * w, [arrays[i : i + PARTS] for i in range(0, len(arrays), PARTS)]
    total = c + sum(len(layer[-1]) for layer in layers)
    X, y = np.empty((total, n), x.dtype), np.empty((n, total), x.dtype)
    mean, var, zeros = np.zeros(total), np.zeros(total), np.zeros(n, x.dtype)
    kept = []

    def take(pixels, first):  # (n, k): new channels, from `first` on
        own = slice(first, first + pixels.shape[1])
        y[:, own] = pixels
        X[own] = pixels.T
        if given is None:
            mean[own], var[own] = _normalise(X[own], eps)

    take(x.reshape(n, c), 0)
    for k, (w1, b1, W1, w2, b2, W2) in enumerate(layers):
        scale, offset = (w1, b1) if given is None else _affine(w1, b1, *given[k][0])
        A = np.empty((c, n), x.dtype)

        def work(s, A=A, scale=scale, offset=offset):
            out = np.multiply(X[s], scale[s, None], out=A[s])
            np.add(out, offset[s, None], out=out)
            np.maximum(out, zeros, out=out)  # with the number 0 it takes twice as long

        each(work, _rows(c, n))
        z = product(A.T, convolution.in_kernel_order(W1)[0, 0]).reshape(B, h, w, -1)
        mean2, var2 = batch_norm.statistics(z) if given is None else (given[k][1][0], None)
        inverse = 1 / np.sqrt(var2 + eps) if given is None else given[k][1][1]
        norm2 = {"mean": mean2, "inverse": inverse, "train": given is None, "relu": True}
        a, seen = batch_norm.forward(z, w2, b2, wanted=wanted, **norm2)
        plan = convolution.plan_of(a.shape, W2.shape, 1, 1, 1)
        grown, met = convolution.forward(a, W2, wanted=wanted, plan=plan)
        if given is None:
            measured.append({"norm1": (mean[:c].copy(), var[:c].copy()), "norm2": (mean2, var2)})
        if wanted:
            kept.append((c, A, scale, W1, seen, norm2, met, plan))
        take(grown.reshape(n, -1), c)
        c += len(W2)
    return y.reshape(B, h, w, total), (X, 1 / np.sqrt(var + eps), kept, x.shape) if wanted else None


def _affine(weight, bias, mean, inverse):
    """w and b of w x + b = weight (x - mean) inverse + bias."""
    scale = weight * inverse
    return scale.astype(weight.dtype), (bias - mean * scale).astype(weight.dtype)


def _normalise(X, eps):  # (k, n) -> (k,), (k,) in float64
    """X <- (X - mean) / sqrt(var + eps) along its rows, in place; and the mean and the biased variance."""
    n, ones = X.shape[1], np.ones(X.shape[1], X.dtype)
    shift = np.dot(X, ones) / X.dtype.type(n)
    X -= shift[:, None]
    off = np.dot(X, ones).astype(np.float64) / n  # what rounding left
    var = np.maximum(np.vecdot(X, X).astype(np.float64) / n - off**2, 0)
    X -= off.astype(X.dtype)[:, None]
    X *= (1 / np.sqrt(var + eps)).astype(X.dtype)[:, None]
    return shift.astype(np.float64) + off, var


def _backward(g, wanted, kept, *, given, eps, measured):
    X, r, layers, shape = kept
    total, n = X.shape
    g = np.ascontiguousarray(g).reshape(n, total)
    Q, ones, gradients = np.zeros_like(X), np.ones(n, X.dtype), {}
    sums = np.zeros((2, total))  # of Q and of Q X

    def finished(own):  # -> (n, k): the whole gradient of these channels
        dx = Q[own]
        if given is None:
            by_mean, by_X = (sums[:, own] / n).astype(X.dtype)
            dx -= by_mean[:, None]
            dx -= X[own] * by_X[:, None]
            dx *= r[own].astype(X.dtype)[:, None]
        return g[:, own] + dx.T

    for k, (c, A, scale, W1, seen, norm2, met, plan) in reversed(list(enumerate(layers))):
        d = finished(slice(c, c + plan.outputs)).reshape(*shape[:3], -1)
        da, dW2 = convolution.backward(d, (0, 1), met, plan=plan)
        dz, dw2, db2 = batch_norm.backward(da, (0, 1, 2), seen, **norm2)
        dz = dz.reshape(n, -1)
        dA, dW1 = products((convolution.in_kernel_order(W1)[0, 0], dz.T, None), (A, dz, None))
        db, dw = np.empty((2, c), X.dtype)

        def work(s, A=A, dA=dA, scale=scale, db=db, dw=dw):
            mask = np.greater(A[s], 0, out=workspace("mask", A[s].shape, bool))
            d = np.multiply(dA[s], mask, out=dA[s])
            np.dot(d, ones, out=db[s])
            np.vecdot(X[s], d, out=dw[s])
            np.multiply(d, scale[s, None], out=d)
            np.add(Q[s], d, out=Q[s])

        each(work, _rows(c, n))
        sums[:, :c] += scale * db, scale * dw
        if given is not None:
            mean, inverse = given[k][0]
            dw = (dw - mean * db) * inverse
        dW1 = dW1[None, None].transpose(3, 2, 0, 1)
        gradients |= dict(enumerate((dw, db, dW1, dw2, db2, dW2), 1 + PARTS * k))
    gradients[0] = finished(slice(0, shape[-1])).reshape(shape)
    return [gradients[k] for k in wanted]


_block = on_tape("dense_block", _forward, _backward)

"""A dense block in training as one node of the tape, on one buffer whose channels come first.

Every layer normalises all channels before it, with weights of its own, but a channel's mean and variance in the
batch are the same in each of these layers. So

    X[c]     = (x[c] - mean) r, r = 1 / sqrt(var + eps), is made once, when channel c is
    layer k    sees A = relu(w_k X + b_k)                        on the channels before it, a contiguous part of X
    backward   Q[c] = sum over layers of w_k d_k, where d_k is the gradient of layer k by w_k X + b_k
               dx = r (Q - mean(Q) - X mean(Q X)),               once, when all layers that see c are done

while layer by layer each of DenseNet121's 58 concatenations copies what it has, and each channel's statistics are
taken, and their gradient spread, up to 24 times. (In evaluation the layers one by one are as fast.)
"""

import math

import numpy as np

from . import convolution, norm
from .products import product, products
from .tape import on_tape
from .threads import NUMBERS, each, pieces

PARTS = 6  # arrays of a layer


def dense_block(x, layers, states, *, momentum=0.1, eps=1e-5):
    # (B, H, W, c), a dict of each layer, of arrays and of running values -> (B, H, W, c + growths), new states
    """x <- [x, conv2(relu(norm2(conv1(relu(norm1(x))))))] for each layer, 1x1 and 3x3, new channels last."""
    shape, arrays, plans = np.shape(x), [], []
    for p, state in zip(layers, states, strict=True):
        first = convolution.plan_of(shape, np.shape(p["conv1"]["weight"]), 1, 0, 1)
        inner = (*shape[:3], first.outputs)
        plans.append(convolution.plan_of(inner, np.shape(p["conv2"]["weight"]), 1, 1, 1))
        for norm_, conv, seen in ("norm1", "conv1", shape), ("norm2", "conv2", inner):
            norm.check(seen, p[norm_]["weight"], p[norm_]["bias"], state[norm_], True)
            arrays += [p[norm_]["weight"], p[norm_]["bias"], p[conv]["weight"]]
        shape = (*shape[:3], shape[3] + plans[-1].outputs)
    measured: list[dict] = []  # {norm: (mean, var)} of each layer; the kernel fills it
    y, n = _block(x, *arrays, plans=plans, eps=eps, measured=measured), math.prod(shape[:3])
    return y, [
        {name: norm.moved(state[name], mean, var, n, momentum) for name, (mean, var) in found.items()}
        for state, found in zip(states, measured, strict=True)
    ]


@on_tape("dense_block")
def _block(x, *arrays, wanted, plans, eps, measured):
    B, h, w, c = shape = x.shape
    n, layers = B * h * w, [arrays[i : i + PARTS] for i in range(0, len(arrays), PARTS)]
    total = c + sum(p.outputs for p in plans)
    X, y = np.empty((total, n), x.dtype), np.empty((n, total), x.dtype)
    mean, var, zeros, ones = np.zeros(total), np.ones(total), np.zeros(n, x.dtype), np.ones(n, x.dtype)
    kept = []

    def channels(c):  # slices of about NUMBERS numbers, which the cores share
        return pieces(c, max(1, NUMBERS // n))

    def take(pixels, first):  # (n, k): new channels, from `first` on
        own = slice(first, first + pixels.shape[1])
        y[:, own], X[own] = pixels, pixels.T
        mean[own], var[own] = _normalise(X[own], eps)

    take(x.reshape(n, c), 0)
    for k, (w1, b1, W1, w2, b2, W2) in enumerate(layers):
        A = np.empty((c, n), x.dtype)

        def forward(s, A=A, w=w1, b=b1):
            out = np.multiply(X[s], w[s, None], out=A[s])
            np.add(out, b[s, None], out=out)
            np.maximum(out, zeros, out=out)  # with the number 0 it takes twice as long

        each(forward, channels(c))
        z = product(A.T, convolution.in_kernel_order(W1)[0, 0]).reshape(B, h, w, -1)
        mean2, var2 = norm.statistics(z)
        options = {"mean": mean2, "inverse": 1 / np.sqrt(var2 + eps), "train": True, "relu": True}
        a, back_norm = norm.normalise.kernel(z, w2, b2, wanted=(0, 1, 2), **options)
        grown, back_conv = convolution.convolve.kernel(a, W2, wanted=(0, 1) if wanted else (), plan=plans[k])
        measured.append({"norm1": (mean[:c].copy(), var[:c].copy()), "norm2": (mean2, var2)})
        if wanted:
            kept.append((c, A, w1, W1, back_norm, back_conv))
        take(grown.reshape(n, -1), c)
        c += plans[k].outputs

    def back(g):
        g, r = np.ascontiguousarray(g).reshape(n, total), (1 / np.sqrt(var + eps)).astype(x.dtype)
        Q, sums, gradients = np.zeros_like(X), np.zeros((2, total)), {}  # sums: of Q and of Q X

        def finished(own):  # -> (n, k): the whole gradient of these channels
            by_mean, by_X = (sums[:, own] / n).astype(X.dtype)
            dx = Q[own]
            dx -= by_mean[:, None]
            dx -= X[own] * by_X[:, None]
            dx *= r[own, None]
            return g[:, own] + dx.T

        for k, (c, A, w1, W1, back_norm, back_conv) in reversed(list(enumerate(kept))):
            da, dW2 = back_conv(finished(slice(c, c + plans[k].outputs)).reshape(B, h, w, -1))
            dz, dw2, db2 = back_norm(da)
            dz = dz.reshape(n, -1)
            dA, dW1 = products((convolution.in_kernel_order(W1)[0, 0], dz.T), (A, dz))
            db, dw = np.empty((2, c), X.dtype)

            def backward(s, A=A, dA=dA, w=w1, db=db, dw=dw):
                d = np.multiply(dA[s], A[s] > 0, out=dA[s])
                np.dot(d, ones, out=db[s])
                np.vecdot(X[s], d, out=dw[s])
                np.multiply(d, w[s, None], out=d)
                np.add(Q[s], d, out=Q[s])

            each(backward, channels(c))
            sums[:, :c] += w1 * db, w1 * dw
            dW1 = dW1.reshape(1, 1, c, -1).transpose(3, 2, 0, 1)
            gradients |= dict(enumerate((dw, db, dW1, dw2, db2, dW2), 1 + PARTS * k))
        gradients[0] = finished(slice(0, shape[3])).reshape(shape)
        return [gradients[k] for k in wanted]

    return y.reshape(B, h, w, total), back


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

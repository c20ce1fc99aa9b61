"""SGD: large arrays in blocks that the cores share, all small ones in one task; the definition is optim.sgd.

Each new array lies in memory as its gradient does, so that both are read in one run from end to end. The kernels
give the gradient of a convolution's weight in the order (kh, kw, C, O) that they multiply by (convolution.py);
after the first step the weights have it too, wherever they came from.
"""

import numpy as np

from .threads import each, pieces

SMALL = 1 << 14  # numbers: with fewer, calling NumPy takes longer than computing
NUMBERS = 1 << 17  # of a block: five operations go over it, so it should stay in the second-level cache


def sgd(params, velocity, gradient, *, learning_rate, momentum=0.0, weight_decay=0.0, in_place=False):
    """optim.sgd: g <- gradient + weight_decay w,  v <- momentum v + g,  w <- w - learning_rate v."""
    # NumPy's own float64 numbers would turn float32 parameters into float64; Python's do not.
    learning_rate, momentum, weight_decay = float(learning_rate), float(momentum), float(weight_decay)
    tasks: list[list] = [[]]  # lists of (w, v, g, new w, new v); the first one has all small arrays

    def step(w, v, g, new_w, new_v):
        term = np.multiply(w, weight_decay, out=np.empty_like(new_w))
        term += g
        if v is None:
            new_v[...] = term
        else:
            np.multiply(v, momentum, out=new_v)
            new_v += term
        np.multiply(new_v, learning_rate, out=term)
        np.subtract(w, term, out=new_w)

    def planned(w, v, g):  # -> new w, new v, which the tasks fill
        if isinstance(w, dict):
            pairs = {k: planned(w[k], v and v[k], g[k]) for k in w}
            return tuple({k: pair[n] for k, pair in pairs.items()} for n in (0, 1))
        w, g = np.asarray(w), np.asarray(g)
        like = g if w.size < SMALL else np.empty_like(g, w.dtype)  # in the order of g's memory, without gaps
        new = tuple(
            a
            if in_place and a is not None and a.strides == like.strides and a.flags.writeable
            else np.empty_like(like, w.dtype)
            for a in (w, v)
        )
        if w.size < SMALL:
            tasks[0].append((w, v, g, *new))
        else:
            lines = [None if a is None else _line(a, like) for a in (w, v, g, *new)]
            tasks.extend([[None if a is None else a[s] for a in lines]] for s in pieces(w.size, NUMBERS))
        return new

    new = planned(params, velocity, gradient)
    each(lambda task: [step(*arrays) for arrays in task], tasks)
    return new


def _line(a, like):
    """`a` as one run of numbers, in the order of like's memory: a view of what has that order."""
    if a.strides != like.strides:
        a, other = np.empty_like(like, a.dtype), a
        a[...] = other
    return a.ravel("K")

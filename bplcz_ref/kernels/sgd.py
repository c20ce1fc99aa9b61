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
        if w.size < SMALL:
            free = [in_place and a is not None and a.flags.writeable and a.strides == g.strides for a in (w, v)]
            new = tuple(a if own else np.empty_like(g, w.dtype) for a, own in zip((w, v), free, strict=True))
            tasks[0].append((w, v, g, *new))
            return new
        order = sorted(range(g.ndim), key=lambda k: -abs(g.strides[k]))  # from the longest step in memory
        lines = [None if a is None else np.ascontiguousarray(a.transpose(order)).reshape(-1) for a in (w, v, g)]
        for a, line in zip((w, v), lines[:2], strict=True):  # a line is a view of what lies as g does, else a copy
            free = line is not None and (in_place and a.flags.writeable or not np.may_share_memory(line, a))
            lines.append(line if free else np.empty(w.size, w.dtype))
        tasks.extend([[None if a is None else a[s] for a in lines]] for s in pieces(w.size, NUMBERS))
        shape, back = [g.shape[k] for k in order], np.argsort(order)
        return tuple(line.reshape(shape).transpose(back) for line in lines[3:])

    new = planned(params, velocity, gradient)
    each(lambda task: [step(*arrays) for arrays in task], tasks)
    return new

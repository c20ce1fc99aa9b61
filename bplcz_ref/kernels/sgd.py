"""SGD in blocks that fit the cache, shared by the cores; the definition is optim.sgd.

Each new array lies in memory as its gradient does, so that both are read in one run from end to end. The kernels
give the gradient of a convolution's weight in the order (kh, kw, C, O) that they multiply by (convolution.py);
after the first step the weights have it too, wherever they came from. In place, the new values replace the old
ones wherever these have that order already.
"""

import numpy as np

from .cores import workspace
from .scheduler import NUMBERS, each, pieces


def sgd(
    params: dict,
    velocity: dict | None,
    gradient: dict,
    *,
    learning_rate: float,
    momentum: float = 0.0,
    weight_decay: float = 0.0,
    in_place: bool = False,
) -> tuple[dict, dict]:
    """optim.sgd: g <- gradient + weight_decay w,  v <- momentum v + g,  w <- w - learning_rate v."""
    # NumPy's own float64 numbers would turn float32 parameters into float64; Python's do not.
    learning_rate, momentum, weight_decay = float(learning_rate), float(momentum), float(weight_decay)
    blocks: list[list] = []
    result = _tree(params, velocity, gradient, blocks, in_place)

    def work(part):
        for block in blocks[part]:
            _step(*block, learning_rate=learning_rate, momentum=momentum, weight_decay=weight_decay)

    each(work, pieces(len(blocks), 1, 16))
    return result


def _tree(w, v, g, blocks, in_place):
    """The new (params, velocity), not yet filled, and in `blocks` the parts to fill them from."""
    if not isinstance(w, dict):
        return _leaf(w, v, g, blocks, in_place)
    pairs = {k: _tree(w[k], None if v is None else v[k], g[k], blocks, in_place) for k in w}
    return {k: pair[0] for k, pair in pairs.items()}, {k: pair[1] for k, pair in pairs.items()}


def _leaf(w, v, g, blocks, in_place):
    w, g = np.asarray(w), np.asarray(g)
    # the axes of g from the longest step in memory to the shortest, and back
    axes = range(g.ndim) if g.flags.c_contiguous else sorted(range(g.ndim), key=lambda k: -abs(g.strides[k]))
    back = np.argsort(axes)
    shape = [g.shape[k] for k in axes]

    def target(a):  # `a` itself, if it may be overwritten, or new memory; in g's order
        if in_place and a is not None and a.flags.writeable and (old := a.transpose(axes)).flags.c_contiguous:
            return old
        return np.empty(shape, w.dtype)

    new_w, new_v = target(w), target(v)
    arrays = [None if a is None else np.ascontiguousarray(a.transpose(axes)).reshape(-1) for a in (w, v, g)]
    arrays += new_w.reshape(-1), new_v.reshape(-1)
    for i in range(0, g.size, NUMBERS):
        blocks.append([None if a is None else a[i : i + NUMBERS] for a in arrays])
    return new_w.transpose(back), new_v.transpose(back)


def _step(w, v, g, new_w, new_v, *, learning_rate, momentum, weight_decay):
    term = np.multiply(w, weight_decay, out=workspace("term", w.shape, w.dtype))
    if v is None:
        np.add(term, g, out=new_v)
    else:
        np.add(term, g, out=term)
        np.multiply(v, momentum, out=new_v)
        np.add(new_v, term, out=new_v)
    np.multiply(new_v, learning_rate, out=term)
    np.subtract(w, term, out=new_w)

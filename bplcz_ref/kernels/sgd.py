"""SGD: large arrays in blocks that the cores share, all small ones as one vector; the definition is optim.sgd.

Each new array lies in memory as its gradient does, so that both are read in one run from end to end. The kernels
give the gradient of a convolution's weight in the order (kh, kw, C, O) that they multiply by (convolution.py);
after the first step the weights have it too, wherever they came from.
"""

import itertools

import numpy as np

from .threads import each

SMALL = 1 << 14  # numbers: with fewer, calling NumPy takes longer than computing
NUMBERS = 1 << 17  # of a block: five operations go over it, so it should stay in the second-level cache


def sgd(params, velocity, gradient, *, learning_rate, momentum=0.0, weight_decay=0.0, in_place=False):
    """optim.sgd: g <- gradient + weight_decay w,  v <- momentum v + g,  w <- w - learning_rate v."""
    # NumPy's own float64 numbers would turn float32 parameters into float64; Python's do not.
    learning_rate, momentum, weight_decay = float(learning_rate), float(momentum), float(weight_decay)

    def step(w, v, g, new_w, new_v):
        term = w * weight_decay
        term += g
        if v is None:
            new_v[...] = term
        else:
            np.multiply(v, momentum, out=new_v)
            new_v += term
        np.multiply(new_v, learning_rate, out=term)
        np.subtract(w, term, out=new_w)

    leaves = list(_leaves(params, velocity, gradient))
    axes = [_axes(g) for _, _, g in leaves]
    groups: dict = {}  # the numbers of the leaves that make one vector: one, or small ones of the same dtypes
    for k, (w, _, g) in enumerate(leaves):
        groups.setdefault((w.dtype, g.dtype) if w.size < SMALL else k, []).append(k)
    blocks, new = [], {}
    for own in groups.values():
        old = [_vector([leaves[k][n] for k in own], [axes[k] for k in own]) for n in range(3)]
        # What may be overwritten: copies, or the caller's arrays if that is allowed.
        free = [len(own) > 1 or (in_place and a is not None and a.flags.writeable) for a in leaves[own[0]]]
        into = [
            a if a is not None and may else np.empty_like(old[0]) for a, may in zip(old[:2], free, strict=False)
        ]
        for i in range(0, len(old[0]), NUMBERS):
            blocks.append([None if a is None else a[i : i + NUMBERS] for a in (*old, *into)])
        ends = [0, *itertools.accumulate(leaves[k][0].size for k in own)]
        new |= {k: [a[i:j] for a in into] for k, (i, j) in zip(own, itertools.pairwise(ends), strict=True)}
    each(lambda block: step(*block), blocks)
    return tuple(
        _tree(params, (_shaped(new[k][n], g, axes[k]) for k, (_, _, g) in enumerate(leaves))) for n in (0, 1)
    )


def _leaves(w, v, g):
    """(w, v, g) of every array; v may be None."""
    if not isinstance(w, dict):
        yield np.asarray(w), v, np.asarray(g)
    else:
        for k in w:
            yield from _leaves(w[k], None if v is None else v[k], g[k])


def _tree(like, leaves):
    return {k: _tree(v, leaves) for k, v in like.items()} if isinstance(like, dict) else next(leaves)


def _axes(g):
    """The axes of g from the longest step in memory to the shortest."""
    return list(range(g.ndim)) if g.flags.c_contiguous else sorted(range(g.ndim), key=lambda k: -abs(g.strides[k]))


def _vector(arrays, axes):
    """The arrays one after the other, each with its axes in this order; None if there are none."""
    if arrays[0] is None:
        return None
    vectors = [np.ascontiguousarray(a.transpose(order)).reshape(-1) for a, order in zip(arrays, axes, strict=True)]
    return vectors[0] if len(vectors) == 1 else np.concatenate(vectors)


def _shaped(vector, g, axes):
    """A vector whose numbers are in this order of g's axes, in g's shape."""
    return vector.reshape([g.shape[k] for k in axes]).transpose(sorted(axes, key=axes.__getitem__))

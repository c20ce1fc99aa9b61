"""How the tests of kernels compare a layer with its definition: value, and gradient by every argument."""

import numpy as np
from autograd.core import make_vjp


def by_hand(f, args, g):
    """[value of f, the gradient of sum(f * g) by every argument, each taken alone]."""
    alone = [make_vjp(lambda a, i=i: f(*args[:i], a, *args[i + 1 :]), args[i])[0](g) for i in range(len(args))]
    return [f(*args), *alone]


def gap(f, definition, *args, seed=1):
    """The largest difference in value and gradients, each relative to the largest entry of the definition's."""
    g = np.random.default_rng(seed).standard_normal(np.shape(definition(*args)))[()]
    worst = 0.0
    for ours, theirs in zip(by_hand(f, args, g), by_hand(definition, args, g), strict=True):
        if np.shape(ours) != np.shape(theirs):
            return np.inf
        worst = max(worst, np.max(abs(ours - theirs)) / (np.max(abs(theirs)) or 1.0))
    return worst

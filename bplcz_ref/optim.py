"""Stochastic gradient descent with momentum and weight decay, by PyTorch's rule. No Nesterov, no dampening.

The paper (III-A) names SGD with momentum 0.9 and weight decay 0.002 and prints no formula; loops.py has this
reading as scalar loops.
"""

from collections.abc import Callable

from bplcz_ref.kernels.sgd import sgd as sgd_kernel
from bplcz_ref.nn import runs


@runs(sgd_kernel)
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
    """One step on nested dicts of arrays -> (params, velocity).

    g <- gradient + weight_decay * w    decay is added to the gradient (not decoupled, as in AdamW)
    v <- momentum * v + g               v = g at the first step (the other reading scales g by 1 - momentum)
    w <- w - learning_rate * v          the rate is outside the velocity

    `velocity` is None at the first step. Every parameter decays, biases and normalisation weights too (the
    paper names no exception). dtypes are kept.
    Nothing is changed in place, unless the caller allows it by `in_place`: then the memory of params and velocity
    may take the new values, so the caller must keep only what is returned. The numbers are the same bits.

    >>> import numpy as np
    >>> w, v, g = {"w": np.array([1.0])}, None, {"w": np.array([0.5])}
    >>> for _ in range(2):
    ...     w, v = sgd(w, v, g, learning_rate=0.1, momentum=0.9, weight_decay=0.1)
    >>> float(v["w"][0].round(6)), float(w["w"][0].round(6))
    (1.134, 0.8266)
    """
    # NumPy's own float64 numbers would turn float32 parameters into float64; Python's do not.
    learning_rate, momentum, weight_decay = float(learning_rate), float(momentum), float(weight_decay)

    def new_velocity(w, gradient, v=None):
        g = gradient + weight_decay * w
        return g if v is None else momentum * v + g

    trees = (params, gradient) if velocity is None else (params, gradient, velocity)
    velocity = leaves(new_velocity, *trees)
    return leaves(lambda w, v: w - learning_rate * v, params, velocity), velocity


def leaves(function: Callable, tree: dict, *others: dict) -> dict:
    """function(leaf, ...) for every leaf of nested dicts of one shape, in that shape.

    >>> leaves(lambda a, b: a + b, {"x": {"y": 1}}, {"x": {"y": 2}})
    {'x': {'y': 3}}
    """
    return {
        key: leaves(function, leaf, *(other[key] for other in others))
        if isinstance(leaf, dict)
        else function(leaf, *(other[key] for other in others))
        for key, leaf in tree.items()
    }

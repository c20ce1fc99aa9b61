"""Stochastic gradient descent with momentum and weight decay, by PyTorch's rule. No nesterov, no dampening.

The paper (III-A) names SGD with momentum 0.9 and weight decay 0.002 and prints no formula; loops.py has this
reading as scalar loops.
"""


def sgd(params, velocity, gradient, *, learning_rate, momentum=0.0, weight_decay=0.0):
    """One step on nested dicts of arrays -> (params, velocity); nothing is changed in place.

    g <- gradient + weight_decay * w    decay is added to the gradient (not decoupled, as in AdamW)
    v <- momentum * v + g               v = g at the first step (the other reading scales g by 1 - momentum)
    w <- w - learning_rate * v          the rate stays outside the velocity

    `velocity` is None at the first step. Every parameter decays, biases and normalisation weights too (the
    paper names no exception). dtypes are kept.

    >>> import numpy as np
    >>> w, v, g = {"w": np.array([1.0])}, None, {"w": np.array([0.5])}
    >>> for _ in range(2):
    ...     w, v = sgd(w, v, g, learning_rate=0.1, momentum=0.9, weight_decay=0.1)
    >>> float(v["w"][0].round(6)), float(w["w"][0].round(6))
    (1.134, 0.8266)
    """
    # NumPy's own float64 numbers would turn float32 parameters into float64; Python's do not
    learning_rate, momentum, weight_decay = float(learning_rate), float(momentum), float(weight_decay)
    new_params, new_velocity = {}, {}
    for key, w in params.items():
        v = None if velocity is None else velocity[key]
        if isinstance(w, dict):
            new_params[key], new_velocity[key] = sgd(
                w, v, gradient[key], learning_rate=learning_rate, momentum=momentum, weight_decay=weight_decay
            )
            continue
        g = w * weight_decay
        g += gradient[key]
        if v is not None:
            g += momentum * v
        new_velocity[key] = g
        step = g * learning_rate
        new_params[key] = w - step
    return new_params, new_velocity

"""Nested parameter dicts and their flat, dotted names: the names of the public implementations' state_dicts."""

import numpy as np


def named(tree, prefix=""):
    """{dotted name: leaf} of a nested dict, in order.

    >>> named({"conv1": {"weight": 1, "bias": 2}, "scale": 3})
    {'conv1.weight': 1, 'conv1.bias': 2, 'scale': 3}
    """
    flat = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat |= named(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def nested(flat):
    """The inverse of `named`.

    >>> nested({"conv1.weight": 1, "conv1.bias": 2, "scale": 3})
    {'conv1': {'weight': 1, 'bias': 2}, 'scale': 3}
    """
    tree = {}
    for name, leaf in flat.items():
        *path, last = name.split(".")
        node = tree
        for key in path:
            node = node.setdefault(key, {})
        node[last] = leaf
    return tree


def like(tree, flat, source):
    """`flat` arrays in the shape of `tree`, each in the dtype of its place; every difference named at once.

    >>> import numpy as np
    >>> like({"w": np.zeros(2), "b": np.zeros(1)}, {"w": np.zeros(3), "c": np.zeros(1)}, "here.npz")
    Traceback (most recent call last):
      ...
    ValueError: here.npz does not fit this network:
      missing: b
      unexpected: c
      w: shape (3,), expected (2,)
    """
    want = named(tree)
    missing = [name for name in want if name not in flat]
    unexpected = [name for name in flat if name not in want]
    wrong = [
        f"{name}: shape {np.shape(flat[name])}, expected {np.shape(want[name])}"
        for name in want
        if name in flat and np.shape(flat[name]) != np.shape(want[name])
    ]
    lines = [f"missing: {', '.join(missing)}"] * bool(missing)
    lines += [f"unexpected: {', '.join(unexpected)}"] * bool(unexpected) + wrong
    if lines:
        raise ValueError("\n  ".join([f"{source} does not fit this network:", *lines]))
    return nested({name: np.asarray(flat[name], dtype=np.asarray(leaf).dtype) for name, leaf in want.items()})


def count(params):
    """How many numbers a nested dict of arrays holds.

    >>> import numpy as np
    >>> count({"weight": np.zeros((2, 3)), "bias": np.zeros(2)})
    8
    """
    return sum(np.size(leaf) for leaf in named(params).values())

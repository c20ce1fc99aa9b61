"""One seed, many independent streams of random numbers, each by name: what one part draws never shifts another.

The same seed gives the same numbers on every machine; a stream of an epoch or step is made afresh from its
number, so that nothing of it has to be stored in a checkpoint.
"""

import numpy as np

NAMES = ("init", "split", "shuffle", "dropout", "simulate")


def stream(seed, name, *index):
    """The generator of `name` (one of NAMES) under `seed`; `index` numbers an epoch, a step or a row in it.

    >>> a, b = stream(47, "shuffle", 0), stream(47, "shuffle", 1)
    >>> a.integers(100, size=3).tolist() == b.integers(100, size=3).tolist()
    False
    """
    key = (NAMES.index(name), *index)
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))

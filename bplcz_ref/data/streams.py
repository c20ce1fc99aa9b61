"""One seed, many independent streams of random numbers, each by name: what one part draws never shifts another.

A stream of an epoch, a step or a row is made afresh from its number, so nothing of it is stored in a checkpoint.
"""

import numpy as np

from bplcz_ref.settings import SEED
from bplcz_ref.storage import schema


def stream(seed: int, name: str, *numbers: int) -> np.random.Generator:
    """The random stream `name` of `seed`, for the epoch, step or row `numbers`; always the same.

    SeedSequence(seed, spawn_key = the name's bytes, then `numbers`): no stream depends on how many others exist.

    >>> a, b = stream(47, "shuffle", 0), stream(47, "shuffle", 1)
    >>> a.integers(100, size=3).tolist() == b.integers(100, size=3).tolist()
    False
    """
    schema.check(seed, SEED, "seed")
    return np.random.default_rng(np.random.SeedSequence(int(seed), spawn_key=(*name.encode(), *numbers)))

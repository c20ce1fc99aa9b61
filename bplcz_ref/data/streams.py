"""One seed, many independent streams of random numbers, each by name: what one part draws never shifts another.

A stream of an epoch, a step or a row is made afresh from its number, so nothing of it is stored in a checkpoint.
"""

import numpy as np


def stream(seed: int, name: str, *numbers: int) -> np.random.Generator:
    """The random stream `name` of `seed`, for the epoch, step or row `numbers`; always the same.

    SeedSequence(seed, spawn_key = the name's bytes, then `numbers`): no stream depends on how many others exist.

    >>> a, b = stream(47, "shuffle", 0), stream(47, "shuffle", 1)
    >>> a.integers(100, size=3).tolist() == b.integers(100, size=3).tolist()
    False
    """
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or not 0 <= seed < 2**63:
        raise ValueError(  # HDF5 files store the seed as a signed 64-bit number
            f"seed is {seed!r}; expected a whole number, 0 or more, below 2**63 = {2**63}"
        )
    return np.random.default_rng(np.random.SeedSequence(int(seed), spawn_key=(*name.encode(), *numbers)))

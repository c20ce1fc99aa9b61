"""augment.py: eight symmetries, each patch for itself, no value changed."""

import numpy as np

from bplcz_ref.data import augment


def test_each_patch_is_one_of_its_eight_symmetries():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((40, 5, 5, 3)).astype(np.float32)
    before = x.copy()
    y = augment.turned(x, rng)
    assert y.dtype == np.float32
    assert np.array_equal(x, before)
    seen = set()
    for patch, found in zip(x, y, strict=True):
        eight = [turn[:, ::m] for k in range(4) for turn in [np.rot90(patch, k)] for m in (1, -1)]
        (which,) = [i for i, expected in enumerate(eight) if np.array_equal(found, expected)]
        seen.add(which)
    assert len(seen) == 8  # of 40 patches; one turn for the whole batch would be seen

"""streams.py: the same numbers by name, and seeds that no file could note are refused."""

import numpy as np
import pytest

from bplcz_ref.data.streams import stream


def test_a_stream_depends_on_seed_name_and_numbers_alone():
    draws = [stream(*key).integers(2**62) for key in ((1, "a"), (2, "a"), (1, "b"), (1, "a", 0), (1, "a", 1))]
    assert len(set(draws)) == 5
    assert stream(np.int64(1), "a").integers(2**62) == draws[0]


def test_a_seed_that_cannot_be_noted_is_refused():
    stream(2**63 - 1, "a")  # the largest
    for seed in (-1, 2**63, 1.0, True, "1", None):
        with pytest.raises(ValueError, match="seed is .*; expected a whole number, 0 to 9223372036854775807"):
            stream(seed, "a")

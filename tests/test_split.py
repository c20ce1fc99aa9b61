"""split.py: the split belongs to the file, and no test sample is trained on."""

import numpy as np
import pytest
from small import TINY

from bplcz_ref import systems
from bplcz_ref.data import so2sat
from bplcz_ref.training import split


def test_no_test_sample_is_trained_on(small_file):
    with so2sat.open_file(small_file) as patches:
        rows, test = split.parts(patches, TINY)
    assert not set(rows) & set(test)


def test_the_split_of_a_subset_is_its_own(subset):
    """Whatever the preset says; what was chosen must agree, and split "random" draws anew."""
    small, own = systems.SMALL, {"per_class": 2, "test": 30}
    with so2sat.open_file(subset) as patches:
        settings = split.settle(patches, small)
        assert settings == small._replace(**own)
        assert split.parts(patches, settings) is patches.parts
        assert split.settle(patches, small._replace(**own), given=own) == settings
        for given in (["test"], ["per_class", "epochs"]):
            with pytest.raises(
                ValueError, match=r"its own split, per_class 2 and test 30; (test 1000|per_class 60)"
            ):
                split.settle(patches, small, given)
        with pytest.raises(ValueError, match="per_class 2 and test 40 asked for: leave that out"):
            split.settle(patches, TINY)  # what differs from the preset was chosen
        with pytest.raises(ValueError, match="its own split"):
            split.parts(patches, small)
        drawn = TINY._replace(per_class=1, test=40, split="random")
        assert split.settle(patches, drawn) == drawn
        assert set(split.parts(patches, drawn)[1]) & set(patches.parts[0])
        for training in (np.arange(33), np.arange(64)):
            patches.parts = training, np.arange(len(training), 64)
            with pytest.raises(ValueError, match="expected the same number of each class, and 1 test row or more"):
                split.settle(patches, small)

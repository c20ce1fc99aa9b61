"""prompts.py against the printed words of II-B1 and Table I, in the order of the labels."""

import numpy as np
import pytest

from bplcz_ref import paper, prompts


def test_the_papers_example_and_the_descriptions_of_table_i_are_in_their_places():
    assert prompts.prompt(16, "RGB") == paper.EXAMPLE_PROMPT
    assert [prompts.DESCRIPTIONS[k] for k in (0, 8, 16)] == list(paper.DESCRIPTIONS.values())


def test_order_is_that_of_the_labels():
    """One word which only that class can have, so that two swapped descriptions fail here."""
    telling = {
        "1": "vertical", "2": "streets", "3": "mosaic", "4": "towers", "5": "apartment", "6": "suburbs",
        "7": "shelters", "8": "warehouses", "9": "isolated", "10": "chimneys", "A": "canopy", "B": "savannas",
        "C": "shrubs", "D": "pastures", "E": "asphalt", "F": "dunes", "G": "water",
    }  # fmt: skip
    assert [name for name, _ in paper.CLASSES] == list(telling)
    for k, word in enumerate(telling.values()):
        assert [j for j, text in enumerate(prompts.DESCRIPTIONS) if word in text] == [k], word


def test_a_wrong_class_or_group_is_named():
    assert prompts.prompt(np.int8(16), "VV") == prompts.prompt(16, "VV")
    for k in (-1, 17, 1.0, "G", True):
        with pytest.raises(ValueError, match=r"class_index is .*expected an integer 0\.\.16.*16: G"):
            prompts.prompt(k, "RGB")
    for group in ("rgb", "red green blue", None, ["RGB"]):
        with pytest.raises(ValueError, match="group is .*expected one of RGB, VRE, NIR, SWIR, VH, VV, PolSAR"):
            prompts.prompt(0, group)

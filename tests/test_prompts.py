"""prompts.py against the printed words of II-B1 and Table I, and against what 119 usable prompts must be."""

import itertools
import re

import numpy as np
import pytest

from bplcz_ref import paper, prompts

GROUP_TEXTS = ("red green blue", "vegetation red edge", "near infrared", "short wave infrared", "vh", "vv", "pol")


def test_the_papers_example_and_the_descriptions_of_table_i_are_in_their_places():
    assert prompts.prompt(16, "RGB") == paper.EXAMPLE_PROMPT
    assert [prompts.DESCRIPTIONS[k] for k in (0, 8, 16)] == list(paper.DESCRIPTIONS.values())


def test_all_119_prompts_are_distinct_and_class_major():
    every = prompts.prompts()
    assert len(every) == len(set(every)) == 17 * 7
    for k, (i, text) in itertools.product(range(17), enumerate(GROUP_TEXTS)):
        assert every[7 * k + i] == f"a photo of a {prompts.DESCRIPTIONS[k]} with {text} bands"


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


def test_descriptions_are_of_the_papers_manner():
    """Plain lower-case ASCII of the printed three's length (12 to 16 words), without figures or a class ID."""
    ids = {name.lower() for name, _ in paper.CLASSES} - {"a"}  # "a" is an article
    for text in prompts.DESCRIPTIONS:
        assert re.fullmatch(r"[a-z]+(,? [a-z]+)*", text), text
        assert 12 <= len(text.split()) <= 16, text
        assert not ids & set(text.replace(",", "").split()), text
        assert not re.search(r"\b(lcz|class|zone|high-rise|low-rise|mid-rise)\b", text), text


def test_descriptions_tell_the_classes_apart():
    """No two share more than a quarter of their content words: E_t must have something to hold on to."""
    common = {"of", "or", "and", "with", "as", "such", "a", "on", "by", "the", "in", "to"}
    words = [set(text.replace(",", "").split()) - common for text in prompts.DESCRIPTIONS]
    for (j, a), (k, b) in itertools.combinations(enumerate(words), 2):
        assert len(a & b) <= len(a | b) / 4, (j, k, a & b)


def test_a_wrong_class_or_group_is_named():
    assert prompts.prompt(np.int8(16), "VV") == prompts.prompt(16, "VV")
    for k in (-1, 17, 1.0, "G", True):
        with pytest.raises(ValueError, match=r"class_index is .*expected an integer 0\.\.16.*16: G"):
            prompts.prompt(k, "RGB")
    for group in ("rgb", "red green blue", None, ["RGB"]):
        with pytest.raises(ValueError, match="group is .*expected one of RGB, VRE, NIR, SWIR, VH, VV, PolSAR"):
            prompts.prompt(0, group)

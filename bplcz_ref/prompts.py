"""Section II-B1: the 17 extended descriptions, the template, and the 119 prompts t_i (17 classes x 7 groups).

This file makes text; `tokenizer.py` turns it into ids. The wording is part of the experiment, so other
descriptions cannot be passed: two runs of the same version used the same words.

Table I prints three of the descriptions ("only three LCZ categories are given"), those of classes 1, 9 and G;
`paper.DESCRIPTIONS` has them word for word. The other fourteen are ours. They follow the paper's three in length
and manner: a noun phrase for the height and spacing of the buildings or for the surface cover, then how the place
looks or what it is, after the definitions of the local climate zone scheme (Stewart and Oke 2012,
doi 10.1175/BAMS-D-11-00019.1).
"""

from bplcz_ref import paper
from bplcz_ref.checks import integer

# Heights and densities are put in words, not figures: a digit could be read as the name of a class.
_OURS = {
    "2": "tightly packed buildings of medium height lining narrow streets, with paved ground and hardly any trees",
    "3": "closely spaced houses of few storeys along narrow lanes, appearing as a fine mosaic of roofs",
    "4": "tall towers standing far apart among lawns and trees, casting long shadows over open grounds",
    "5": "medium height apartment blocks set well apart, with lawns, gardens, and trees filling the space between",
    "6": "detached houses with private gardens, forming leafy suburbs where small roofs alternate with greenery",
    "7": "crowded single storey shelters of wood or corrugated metal, typical of informal settlements",
    "8": "broad flat roofed halls such as warehouses, malls, or depots, surrounded by extensive paved yards",
    "10": "industrial complexes of chimneys, storage tanks, and steel frames, connected by pipes and conveyors",
    "A": "heavily wooded areas under a closed canopy of crowns, such as natural forests or plantations",
    "B": "lightly wooded land where single crowns stand apart on grass, such as parks, orchards, or savannas",
    "C": "open arrangements of shrubs and short woody plants with bare patches between, as in dry heathland",
    "D": "continuous covers of grass, herbs, or crops without trees, such as meadows, pastures, or farmland",
    "E": "hard impervious surfaces of stone, concrete, or asphalt, such as outcrops, runways, or squares",
    "F": "loose exposed ground with almost no vegetation, such as deserts, beaches, dunes, or fallow fields",
}

# The 17 descriptions in the order of the labels, paper.CLASSES: DESCRIPTIONS[k] belongs to the one-hot column k.
DESCRIPTIONS = tuple((paper.DESCRIPTIONS | _OURS)[name] for name, _ in paper.CLASSES)


def prompt(class_index: int, group: str) -> str:
    """t_i = "a photo of a {class} with {group} bands": the prompt of one class and one band group.

    `class_index` is the 0-based column of the one-hot label (0..16 for LCZ 1..10, A..G; not a class ID such as
    "G", since "1" and 1 would then be two classes); `group` is a name of `paper.GROUPS`.
    Errors: ValueError for a class that is not an integer in 0..16, and for a name that is not a band group.
    Source: II-B1. The grammar is as printed in the paper ("a photo of a bodies of water").

    >>> prompt(16, "RGB")  # doctest: +ELLIPSIS
    'a photo of a bodies of water such as rivers, lakes, or seas, ... with red green blue bands'
    >>> prompt(0, "PolSAR")  # doctest: +ELLIPSIS
    'a photo of a dense clusters of vertical edifices ... representing urban centers with pol bands'
    """
    k = integer(class_index)
    if k is None or not 0 <= k < len(DESCRIPTIONS):
        raise ValueError(
            f"class_index is {class_index!r}; expected an integer 0..{len(DESCRIPTIONS) - 1}, the column of the "
            f"one-hot label ({', '.join(f'{i}: {name}' for i, (name, _) in enumerate(paper.CLASSES))})"
        )
    if not isinstance(group, str) or group not in paper.GROUPS:
        raise ValueError(f"group is {group!r}; expected one of {', '.join(paper.GROUPS)}")
    return paper.TEMPLATE.format(**{"class": DESCRIPTIONS[k], "group": paper.GROUPS[group]["text"]})


def prompts() -> tuple[str, ...]:  # (K n,)
    """All K n = 119 prompts, flat, class-major: class k and group i are at index 7 k + i.

    Classes are in the order of the labels (`paper.CLASSES`), groups in the paper's order (`paper.GROUPS`), so
    token ids of shape (119, L) become (17, 7, L) by a reshape. All 119 are distinct.
    Source: II-B1.

    >>> len(prompts()), len(set(prompts()))
    (119, 119)
    >>> prompts()[7 * 16 + 0] == prompt(16, "RGB")
    True
    """
    return tuple(prompt(k, group) for k in range(len(DESCRIPTIONS)) for group in paper.GROUPS)

"""schema.py: each rule holds for what it should and for nothing else, and the place of a breach is named."""

import math

import pytest

from bplcz_ref import settings, systems
from bplcz_ref.storage import schema

RULES = [  # rule, what holds, what does not
    (settings.NOT_NEGATIVE, [0, 0.0, 2, 1e299], [-1e-300, True, None, "1", math.nan, math.inf, [1], 10**400]),
    (settings.POSITIVE, [1e-300, 1], [0, 0.0, -1]),
    (settings.SHARE, [0, 0.999], [1, 1.5]),
    (schema.whole(1), [1, 10**299], [0, 1.0, True, "1", 10**400]),
    (schema.whole(0, 16), [0, 16], [-1, 17]),
    (schema.one_of(("A", "B")), ["A"], ["C", "a", ["A"], None]),
    (schema.optional(schema.BOOLEAN), [None, False], [0, []]),
    (schema.PATH, ["a", "/x/\udcff"], ["", "a\0b", None]),
    (schema.BOOLEAN, [True, False], [0, 1, "true", None]),
]


@pytest.mark.parametrize(("rule", "good", "bad"), RULES, ids=[rule.expected for rule, _, _ in RULES])
def test_rules(rule, good, bad):
    assert all(rule.holds(x) for x in good)
    assert not any(rule.holds(x) for x in bad)


def test_every_preset_passes_and_the_largest_seed_is_that_of_the_streams():
    for preset in systems.PRESETS.values():
        systems.check(preset._replace(seed=2**63 - 1))
    for changes, message in (
        ({"momentum": 1}, "^momentum is 1; expected a finite number, 0 or more, below 1$"),
        ({"contrastive": "clip"}, "^contrastive is 'clip'; expected one of paper, identity, infonce"),
        ({"seed": 2**63}, "^seed is 9223372036854775808; expected"),
    ):
        with pytest.raises(ValueError, match=message):
            systems.check(systems.PAPER._replace(**changes))

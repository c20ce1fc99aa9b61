"""What a value from a file or from a user must be, as plain data, and one error that names the place."""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from bplcz_ref.checks import integer

BEYOND = 1e300  # of all sizes; a whole number of JSON may have thousands of digits


class Rule(NamedTuple):
    """`holds(value)` decides; `expected` says it in words."""

    expected: str
    holds: Callable[[Any], bool]


def check(value: Any, rule: Rule, where: str) -> None:
    """Raises ValueError if `value` breaks the rule: the place, what was found, what was expected.

    >>> check(0, whole(1), "log.jsonl, line 1: epoch")
    Traceback (most recent call last):
      ...
    ValueError: log.jsonl, line 1: epoch is 0; expected a whole number, 1 or more
    """
    if not rule.holds(value):
        raise ValueError(f"{where} is {brief(value)}; expected {rule.expected}")


def brief(value: Any, length: int = 80) -> str:
    """A value as short text.

    >>> brief("a" * 100, 12)
    "'aaaaaaaa..."
    """
    text = repr(value)
    return text if len(text) <= length else text[: length - 3] + "..."


def number(words: str, holds: Callable[[Any], bool]) -> Rule:
    """A finite number, not a bool, for which `holds`; NaN and whole numbers of hundreds of digits are none.

    >>> share = number("0 or more, below 1", lambda x: 0 <= x < 1)
    >>> share.expected, share.holds(0), share.holds(1), share.holds(True)
    ('a finite number, 0 or more, below 1', True, False, False)
    """
    plain = lambda x: isinstance(x, int | float) and not isinstance(x, bool) and abs(x) < BEYOND
    return Rule(f"a finite number, {words}", lambda x: plain(x) and holds(x))


def whole(least: int, most: int | None = None) -> Rule:
    """A whole number in a range.

    >>> whole(1).holds(True), whole(0, 16).expected
    (False, 'a whole number, 0 to 16')
    """
    words = f"{least} or more" if most is None else f"{least} to {most}"
    highest = BEYOND if most is None else most
    return Rule(f"a whole number, {words}", lambda x: integer(x) is not None and bool(least <= x <= highest))


def one_of(names: Iterable[str]) -> Rule:
    """One of a few words."""
    known = list(names)
    return Rule(f"one of {', '.join(known)}", lambda x: x in known)


def optional(rule: Rule) -> Rule:
    """What the rule takes, or None (null in JSON)."""
    return Rule(f"{rule.expected}, or null", lambda x: x is None or rule.holds(x))


PATH = Rule("a path", lambda x: isinstance(x, str) and x != "" and "\0" not in x)
BOOLEAN = Rule("true or false", lambda x: isinstance(x, bool))

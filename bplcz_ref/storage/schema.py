"""What a value from a file or from a user must be, as plain data, and one error that names the place.

A schema is a `Rule`, a dict of schemas by key (every key must be there, and no other), or a list of one schema for
every entry of a list.
"""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from bplcz_ref.checks import integer

BEYOND = 1e300  # of all sizes; a whole number of JSON may have thousands of digits


class Rule(NamedTuple):
    """`holds(value)` decides; `expected` says it in words."""

    expected: str
    holds: Callable[[Any], bool]


def check(value: Any, schema: Any, where: str) -> None:
    """Raises ValueError for the first part of `value` that breaks `schema`: the place, what was found, expected.

    >>> check({"epoch": 0, "L": 1.5}, {"epoch": whole(1), "L": number()}, "log.jsonl, line 1")
    Traceback (most recent call last):
      ...
    ValueError: log.jsonl, line 1: epoch is 0; expected a whole number, 1 or more
    """
    if broken := first_broken(value, schema):
        path, message = broken
        raise ValueError(f"{': '.join(filter(None, (where, path)))} {message}")


def first_broken(value: Any, schema: Any, path: str = "") -> tuple[str, str] | None:
    """(path, message) of the first part that breaks the schema, or None.

    >>> first_broken([1, "a"], [number()])
    ('[1]', "is 'a'; expected a finite number")
    """
    if isinstance(schema, Rule):
        return None if schema.holds(value) else (path, f"is {brief(value)}; expected {schema.expected}")
    if not isinstance(value, type(schema)):
        return path, f"is {brief(value)}; expected {'an object' if isinstance(schema, dict) else 'a list'}"
    if isinstance(schema, list):
        parts = [(f"{path}[{i}]", part, schema[0]) for i, part in enumerate(value)]
    else:
        for problem, names in (
            ("lacks", schema.keys() - value.keys()),
            ("has also", value.keys() - schema.keys()),
        ):
            if names:
                return path, f"{problem} {brief(', '.join(sorted(names)))[1:-1]}"
        parts = [(f"{path}.{key}" if path else key, value[key], schema[key]) for key in schema]
    return next((broken for place, part, own in parts if (broken := first_broken(part, own, place))), None)


def brief(value: Any, length: int = 80) -> str:
    """A value as short text.

    >>> brief("a" * 100, 12)
    "'aaaaaaaa..."
    """
    text = repr(value)
    return text if len(text) <= length else text[: length - 3] + "..."


def number(least: float = -BEYOND, most: float = BEYOND, *, above: float = -BEYOND, below: float = BEYOND) -> Rule:
    """A finite number, `least` or more, `most` or less, above `above`, below `below`; not a bool.

    >>> number(0, below=1).expected, number(0, below=1).holds(1)
    ('a finite number, 0 or more, below 1', False)
    """
    words = ["a finite number"]
    words += [f"{least:g} or more"] * (least > -BEYOND) + [f"{most:g} or less"] * (most < BEYOND)
    words += [f"above {above:g}"] * (above > -BEYOND) + [f"below {below:g}"] * (below < BEYOND)
    return Rule(
        ", ".join(words),
        lambda x: type(x) is not bool and isinstance(x, int | float) and least <= x <= most and above < x < below,
    )


def whole(least: int, most: int | None = None) -> Rule:
    """A whole number in a range.

    >>> whole(1).holds(True), whole(0, 16).expected
    (False, 'a whole number, 0 to 16')
    """
    words = f"{least} or more" if most is None else f"{least} to {most}"
    highest = BEYOND if most is None else most
    return Rule(f"a whole number, {words}", lambda x: integer(x) is not None and bool(least <= x <= highest))


def one_of(names: Iterable) -> Rule:
    """One of a few values, of the same type.

    >>> one_of(["A", "B"]).expected
    'one of A, B'
    """
    known = [(type(name), name) for name in names]
    return Rule(f"one of {', '.join(str(name) for _, name in known)}", lambda x: (type(x), x) in known)


def optional(schema: Any) -> Rule:
    """What the schema takes, or None (null in JSON).

    >>> optional(number()).holds(None)
    True
    """
    words = schema.expected if isinstance(schema, Rule) else f"an object with {', '.join(schema)}"
    return Rule(f"{words}, or null", lambda x: x is None or first_broken(x, schema) is None)


TEXT = Rule("text", lambda x: isinstance(x, str))
PATH = Rule("a path", lambda x: isinstance(x, str) and x != "" and "\0" not in x)
BOOLEAN = Rule("true or false", lambda x: isinstance(x, bool))
DIGEST = Rule(
    "a SHA-256 digest of 64 hexadecimal digits",
    lambda x: isinstance(x, str) and len(x) == 64 and set(x) <= set("0123456789abcdef"),
)

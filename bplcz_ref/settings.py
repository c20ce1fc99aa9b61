"""The settings of a run in one table: value in each preset, what it may be, what it means, and how people type it.

What a setting may be holds for settings from a user and from a run's config.json alike. Upper bounds are far above
anything that is trained: beyond them are slips of the keyboard, and sizes that no array can have.
"""

import contextlib
import difflib
from collections.abc import Iterable
from typing import Annotated, Any, NamedTuple, get_args, get_type_hints

from bplcz_ref import paper, program
from bplcz_ref.storage import schema
from bplcz_ref.variants import VARIANTS

SIZE, COUNT = schema.whole(1, 2**16), schema.whole(1, 10**9)
SEED = schema.whole(0, 2**63 - 1)  # an HDF5 file notes its seed as a signed number of 64 bits
POSITIVE = schema.number("above 0", lambda x: x > 0)
NOT_NEGATIVE = schema.number("0 or more", lambda x: x >= 0)
SHARE = schema.number("0 or more, below 1", lambda x: 0 <= x < 1)
LATER = schema.whole(0, 10**9)
MANY, PATH = schema.optional(COUNT), schema.optional(schema.PATH)


def losses() -> list[str]:
    """The names that `contrastive` may have by now: those of variants.py, and those that a user registered."""
    return [*VARIANTS, "none"]


class Row(NamedTuple):
    """A setting: its value in each preset, what it may be, what it means, and other names that people type."""

    paper: Any
    small: Any  # ...: as in the paper
    rule: Any  # a schema.Rule; or words, one of which it is, or a function that gives them
    meaning: str
    also: str = ""


class Settings(NamedTuple):
    """Everything that a run depends on beside its data and its system.

    The column `paper` is as the paper states it; where it is silent (network sizes), our reading: CLIP ViT-B text,
    d = 512, ExViT on 4 x 4 pixels per token with one encoder per group (reading A). The column `small` learns
    within about a minute per row on 2 cores: a small network and data set, and a larger learning rate, since it
    takes 128 steps and not 138,800.
    """

    # fmt: off
    preset: Annotated[str, Row("paper", "small", ("paper", "small"), "the preset that the others start from")]
    width: Annotated[int, Row(32, 16, SIZE, "EB-CNN: channels of the first stage, w")]
    features: Annotated[int, Row(512, 64, SIZE, "size d of a group's feature I_i and of the text's T_i", "d")]
    grid: Annotated[int, Row(4, ..., SIZE, "ExViT: pixels per token in each direction")]
    reading: Annotated[str, Row("A", ..., "AB", "ExViT (BP-LCZ): the reading exvit-groups of docs/readings.md")]
    published: Annotated[bool, Row(True, False, schema.BOOLEAN, "other networks at published sizes, or reduced")]
    text_width: Annotated[int, Row(512, 64, SIZE, "text tower: width")]
    text_layers: Annotated[int, Row(12, 2, SIZE, "text tower: layers")]
    text_heads: Annotated[int, Row(8, 1, SIZE, "text tower: attention heads")]
    vocabulary: Annotated[str | None, Row(None, ..., PATH, "a merges file, such as CLIP's; none: the bundled one")]
    alpha: Annotated[float, Row(paper.ALPHA, ..., POSITIVE, "weight of a group's similarity, Eqs. (3) and (4)")]
    beta: Annotated[float, Row(paper.BETA, ..., NOT_NEGATIVE, "weight of L_con in L, Eq. (10)", "lambda lam")]
    contrastive: Annotated[str, Row("paper", ..., losses, "in the place of Eqs. (5) to (8); none: L_cls alone,"
                                    " without a text tower", "loss")]
    epochs: Annotated[int, Row(paper.EPOCHS, 4, COUNT, "passes over the training part", "n_epochs")]
    learning_rate: Annotated[float, Row(paper.LEARNING_RATE, 0.02, POSITIVE, "SGD: the rate, or the highest of a"
                                        " schedule", "lr eta")]
    schedule: Annotated[str, Row("constant", ..., ("constant", "cosine"), "the rate by step; cosine falls to 0")]
    warmup: Annotated[int, Row(0, ..., LATER, "epochs in which the rate first rises by equal steps")]
    momentum: Annotated[float, Row(paper.MOMENTUM, ..., SHARE, "SGD: momentum", "mu")]
    weight_decay: Annotated[float, Row(paper.WEIGHT_DECAY, ..., NOT_NEGATIVE, "SGD: weight decay, added to the"
                                       " gradient", "wd l2")]
    batch: Annotated[int, Row(paper.BATCH, ..., COUNT, "batch size: the samples in each step of SGD", "bs")]
    augmentation: Annotated[str, Row("none", ..., ("none", "turns"), "turns: each training patch is mirrored and"
                                     " rotated by 0, 90, 180 or 270 degrees at random", "aug")]
    per_class: Annotated[int | None, Row(paper.TRAIN_PER_CLASS, 60, MANY, "training rows of each class; none, with"
                                         " --test-data: all rows")]
    test: Annotated[int | None, Row(paper.TEST, 1000, MANY, "test rows; none, with --test-data: all rows")]
    split: Annotated[str, Row("file", ..., ("file", "random", "city"), "file: a subset's own parts, or a random"
                              " draw; random: a new draw; city: whole cities are the test")]
    twins: Annotated[str, Row("refuse", ..., ("refuse", "drop"), "copies of training rows in --test-data or"
                              " --validation: the file is refused, or they are left out")]
    clip_sen1: Annotated[float | None, Row(None, 1.0, schema.optional(POSITIVE), "sen1 is clipped to +- this"
                                           " before it is standardised; none: it is not", "clip")]
    seed: Annotated[int, Row(paper.SEED, ..., SEED, "of the start, the split, the order and all other draws",
                             "seeds random_seed rng")]
    # fmt: on


TABLE: dict[str, Row] = {n: get_args(kind)[1] for n, kind in get_type_hints(Settings, include_extras=True).items()}
KINDS = {name: get_args(kind) or (kind,) for name, kind in get_type_hints(Settings).items()}
PAPER = Settings(*(row.paper for row in TABLE.values()))
SMALL = Settings(*(row.paper if row.small is ... else row.small for row in TABLE.values()))
PRESETS = {"paper": PAPER, "small": SMALL}
ALSO = {other: name for name, row in TABLE.items() for other in row.also.split()}
# What people look for, and what there is.
ABSENT = dict.fromkeys(("gpu", "cuda", "device"), "everything runs on the CPU. ")
ABSENT |= dict.fromkeys(("optimizer", "optim"), "it is SGD, with learning_rate, momentum and weight_decay. ")


def words(name: str) -> list[str]:
    """The values that a setting has by name, as a user may have added to them; none for a number or a path."""
    found = TABLE[name].rule
    return [] if isinstance(found, schema.Rule) else list(found() if callable(found) else found)


def check(settings: Settings) -> None:
    """Raises ValueError for the first invalid setting.

    >>> check(PAPER)
    >>> check(PAPER._replace(epochs=0))
    Traceback (most recent call last):
      ...
    ValueError: epochs is 0; expected a whole number, 1 to 1000000000
    """
    for name, found in settings._asdict().items():
        check_value(name, found)
    if settings.warmup and settings.warmup >= settings.epochs:
        raise ValueError(f"warmup is {settings.warmup}; expected fewer than the {settings.epochs} epochs")


def check_value(name: str, found: Any) -> None:
    """Raises ValueError unless a setting may have this value."""
    known = words(name)
    rule = schema.one_of(known) if known else TABLE[name].rule
    if not rule.holds(found):
        hint = meant(str(found), known).rstrip()
        if not hint and name == "contrastive":
            hint = "a loss of your own is registered first, by --import FILE.py"
        raise ValueError(f"{name} is {schema.brief(found)}; expected {rule.expected}{'; ' * bool(hint)}{hint}")


def meant(typed: str, names: Iterable[str], also: dict[str, str] | None = None) -> str:
    """A question for the name that was probably meant, or nothing where none is near.

    >>> meant("Alpha", ["alpha", "beta"]), meant("wd", ["alpha"], {"wd": "weight_decay"}), meant("x", ["alpha"])
    ('did you mean alpha? ', 'did you mean weight_decay? ', '')
    """
    plain = {name.lower().replace("-", "_"): name for name in names} | (also or {})
    near = difflib.get_close_matches(typed.lower().replace("-", "_"), plain, 1)
    return f"did you mean {plain[near[0]]}? " if near else ""


def chosen(given: Iterable[str]) -> dict[str, Any]:
    """{name: value} of settings typed as "name=value", each checked; none is None where that is allowed.

    >>> chosen(["alpha=0.5", "clip_sen1=none", "contrastive=unicl"])
    {'alpha': 0.5, 'clip_sen1': None, 'contrastive': 'unicl'}
    >>> chosen(["lr=0.1"])
    Traceback (most recent call last):
      ...
    ValueError: there is no setting 'lr'; did you mean learning_rate? All: python -m bplcz_ref train --settings
    """
    found: dict[str, Any] = {}
    for word in given:
        name, equals, typed = word.partition("=")
        if name == "preset":
            raise ValueError("preset is an option of its own: --preset paper or --preset small")
        if name not in TABLE:
            hint = ABSENT.get(name.lower()) or meant(name, TABLE, ALSO)
            raise ValueError(f"there is no setting {name!r}; {hint}All: {program()} train --settings")
        if not equals:
            raise ValueError(f"{name} has no value; expected {name}=VALUE, such as {name}={said(name, PAPER)}")
        value: Any = {"true": True, "false": False, "none": None}.get(typed.lower(), typed)
        if type(value) not in KINDS[name]:
            kind, value = KINDS[name][0], typed
            with contextlib.suppress(ValueError):
                value = kind(typed) if kind in (int, float) else typed
        check_value(name, value)
        found[name] = value
    return found


def varied(given: str) -> tuple[str, list]:
    """(setting, values) of "NAME=V1,V2,...".

    >>> varied("beta=0.5,2")
    ('beta', [0.5, 2.0])
    """
    name, equals, values = given.partition("=")
    found = [chosen([name + equals + each])[name] for each in values.split(",")]
    if len(set(found)) < max(2, len(found)):
        raise ValueError(f"{given}: expected two values or more, each once, such as contrastive=paper,none")
    return name, found


def said(name: str, settings: Settings) -> str:
    """The value of a setting as the command line takes it, such as none or true."""
    found = getattr(settings, name)
    return str(found).lower() if found is None or isinstance(found, bool) else str(found)


def changed(settings: Settings) -> dict:
    """{name: value} of what differs from the preset whose name the settings have, except for the seed.

    >>> changed(PAPER._replace(epochs=1, seed=48))
    {'epochs': 1}
    """
    preset = PRESETS[settings.preset]._asdict()
    return {name: v for name, v in settings._asdict().items() if v != preset[name] and name != "seed"}

"""Which rows train a network and which test it: official files, a subset's own parts, a draw, or whole cities.

The split belongs to the file: one that `subset` wrote has parts, and they are used unless split is "random" or
"city". Official files are separate: one to train on, one to test on.
"""

from collections.abc import Collection
from typing import Any, NamedTuple

import numpy as np

from bplcz_ref import paper
from bplcz_ref.data import so2sat
from bplcz_ref.data.so2sat import Patches
from bplcz_ref.data.streams import stream
from bplcz_ref.systems import Settings, changed

CITIES_PER_TEST_CITY = 5  # one city in five is left out for the test


class Split(NamedTuple):
    """The rows that train and those that test, and how they were found."""

    training: np.ndarray
    test: np.ndarray  # of the test file, where there is one
    settings: Settings  # with the sizes of this split
    origin: str  # "official", "file", "random" or "city"
    cities: list[str]  # left out for the test
    twins: list[int]  # rows of the test file that are left out


def decide(
    patches: Patches, settings: Settings, given: Collection[str] | None = None, tested: Patches | None = None
) -> Split:
    """The split of a file under these settings, with the sizes of its own parts on a subset.

    given: names of the settings that somebody chose; default: those that differ from the preset's.
    tested: an official test file; per_class and test then are None, all rows, unless they were chosen.
    Errors: ValueError if a chosen per_class or test conflicts with the file's parts, or a split with `tested`, or
    if a part asks for more rows than there are.
    """
    settings = settle(patches, settings, given, tested)
    per_class: Any = settings.per_class  # numbers wherever rows are drawn, as `settle` sees to
    size: Any = settings.test
    origin, seed, cities, twins = settings.split, settings.seed, [], []
    if origin == "city":
        cities = held_out(patches, settings)
        outside = np.isin(patches.cities, cities)  # type: ignore[arg-type]
        inside, rest = np.flatnonzero(~outside), np.flatnonzero(outside)
        chosen, _ = so2sat.split(patches.labels[inside], per_class, 0, seed)
        training, test = inside[chosen], some_of(rest, settings, "the cities left out together")
        test = so2sat.keep_apart(training, test, rest, seed, patches.digests)
    elif origin == "file" and patches.parts is not None:
        training, test = patches.parts
    elif tested is None:
        origin = "random"
        training, test = so2sat.split(patches.labels, per_class, size, seed, patches.digests)
    elif per_class is None:
        training = np.arange(len(patches))
    else:
        training, _ = so2sat.split(patches.labels, per_class, 0, seed)
    if tested is not None:
        origin, new = "official", new_rows(tested, patches, training, settings)
        twins = np.setdiff1d(np.arange(len(tested)), new).tolist()
        test = some_of(new, settings, "the test file")
    return Split(training, test, settings, origin, cities, twins)


def settle(
    patches: Patches, settings: Settings, given: Collection[str] | None, tested: Patches | None
) -> Settings:
    """The settings with the sizes of the split that is used; as `decide`."""
    given = changed(settings) if given is None else given
    chosen: dict[str, Any] = {name: getattr(settings, name) for name in ("per_class", "test") if name in given}
    of_file = settings.split == "file" and patches.parts is not None
    if tested is not None:
        if settings.split != "file":
            raise ValueError(
                f"split is {settings.split!r}, and the test part is {tested.path}: leave one of the two out"
            )
        settings = settings._replace(**{"per_class": None, "test": None} | chosen)
    elif not of_file and None in (settings.per_class, settings.test):
        raise ValueError(
            "per_class or test is none, all rows, which is for separate files: name the test file with"
            " --test-data, or give both numbers"
        )
    if not of_file:
        return settings
    training, test = patches.parts  # type: ignore[misc]
    counts = np.bincount(patches.labels[training], minlength=len(paper.CLASSES))
    if counts.min() < counts.max():
        raise ValueError(
            f"{patches.path}: its training part has {counts.min()} to {counts.max()} rows per class; expected the"
            " same number of each, as `subset` writes them: draw a new split with --split random"
        )
    own: dict[str, Any] = {"per_class": int(counts[0])}
    if tested is None:
        own["test"] = len(test)
        if not len(test):
            raise ValueError(
                f"{patches.path} has no test rows: name a file with --test-data FILE, or draw a split"
                " of all its rows with --split random"
            )
    asked = {name: size for name, size in chosen.items() if name in own}
    if not asked.items() <= own.items():
        there, now = (" and ".join(f"{name} {size}" for name, size in sizes.items()) for sizes in (own, asked))
        raise ValueError(
            f"{patches.path} has its own split, {there}; {now} asked for: leave that out to use the file's split,"
            " or draw a new one from all its rows with split random (--split random)"
        )
    return settings._replace(**own)


def new_rows(other: Patches, patches: Patches, training: np.ndarray, settings: Settings) -> np.ndarray:
    # (n,) -> (r,)
    """All rows of a test or validation file; if settings.twins is "drop", without copies of training rows."""
    rows = np.arange(len(other))
    if settings.twins == "refuse":
        return rows
    seen = np.isin(other.digests(rows), patches.digests(training))
    if seen.all():
        raise ValueError(f"{other.path}: all its {len(rows)} rows are copies of training rows, so none is left")
    return rows[~seen]


def some_of(rows: np.ndarray, settings: Settings, where: str) -> np.ndarray:  # (N,) -> (test,)
    """`test` of these rows at random, ascending, or all where test is None."""
    if settings.test is None:
        return rows
    if settings.test > len(rows):
        raise ValueError(f"test asks for {settings.test} rows; {where} has {len(rows)}: ask for at most that")
    return np.sort(stream(settings.seed, "split test").choice(rows, settings.test, replace=False))


def held_out(patches: Patches, settings: Settings) -> list[str]:
    """The cities that a city split leaves out for the test, one in five, drawn by the seed."""
    if patches.cities is None:
        raise ValueError(
            f"{patches.path} does not say which city a row is of: name its *_geo.h5 with --geo FILE, or draw the"
            " split with --split random"
        )
    names = np.unique(patches.cities)
    if len(names) < 2:
        raise ValueError(f"{patches.path}: all rows are of {names[0]}; a city split needs 2 cities or more")
    count = -(-len(names) // CITIES_PER_TEST_CITY)
    return sorted(stream(settings.seed, "split city").permutation(names)[:count].tolist())

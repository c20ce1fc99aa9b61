"""Which rows train a network and which test it: official files, a subset's own parts, a draw, or whole cities.

The split belongs to the file: one that `subset` wrote has parts, and they are used unless split is "random" or
"city". Official files are separate: one to train on, one to test on.
"""

from collections.abc import Collection
from typing import Any

import numpy as np

from bplcz_ref import paper
from bplcz_ref.data import so2sat
from bplcz_ref.data.so2sat import Patches
from bplcz_ref.data.streams import stream
from bplcz_ref.systems import Settings, changed

CITIES_PER_TEST_CITY = 5  # one city in five is left out for the test


def settle(
    patches: Patches, settings: Settings, given: Collection[str] | None = None, tested: Patches | None = None
) -> Settings:
    """The settings with the sizes of the split that is used: on a subset those of its own parts.

    given: names of the settings that somebody chose; default: those that differ from the preset's.
    tested: an official test file; per_class and test then are None, all rows, unless they were chosen.
    Errors: ValueError if a chosen per_class or test conflicts with the file's parts, or a split with `tested`.
    """
    given = changed(settings) if given is None else given
    of_file = settings.split == "file" and patches.parts is not None
    if tested is not None:
        if settings.split != "file":
            raise ValueError(
                f"split is {settings.split!r}, and the test part is {tested.path}: leave one of the two out"
            )
        own: dict[str, Any] = {name: None for name in ("per_class", "test") if name not in given}
        settings = settings._replace(**own)
    elif not of_file and None in (settings.per_class, settings.test):
        raise ValueError(
            "per_class or test is none, all rows, which is for separate files: name the test file with"
            " --test-data, or give both numbers"
        )
    if not of_file:
        return settings
    own = own_sizes(patches)
    if tested is not None:
        del own["test"]
    elif not own["test"]:
        raise ValueError(
            f"{patches.path} has no test rows: name a file with --test-data FILE, or draw a split"
            " of all its rows with --split random"
        )
    asked = {name: getattr(settings, name) for name in own if name in given}
    if asked != {name: own[name] for name in asked}:
        there, now = (" and ".join(f"{name} {size}" for name, size in sizes.items()) for sizes in (own, asked))
        raise ValueError(
            f"{patches.path} has its own split, {there}; {now} asked for: leave that out to use the file's split,"
            " or draw a new one from all its rows with split random (--split random)"
        )
    return settings._replace(**own)


def own_sizes(patches: Patches) -> dict[str, Any]:
    """per_class and test of a subset's own parts; ValueError if classes differ in its training part."""
    training, test = patches.parts  # type: ignore[misc]
    counts = np.bincount(patches.labels[training], minlength=len(paper.CLASSES))
    if counts.min() < counts.max():
        raise ValueError(
            f"{patches.path}: its training part has {counts.min()} to {counts.max()} rows per class; expected the"
            " same number of each, as `subset` writes them: draw a new split with --split random"
        )
    return {"per_class": int(counts[0]), "test": len(test)}


def origin(patches: Patches, settings: Settings, tested: Patches | None = None) -> str:
    """Where the split comes from: "official", "file", "random" or "city"."""
    if tested is not None:
        return "official"
    return "random" if settings.split == "file" and patches.parts is None else settings.split


def label(origin: str, cities: int = 0, twins: int = 0) -> str:
    """What a split is called beside every accuracy, since those of different splits do not compare.

    >>> label("random"), label("city", 9)
    ('random split', 'city split, 9 cities left out')
    """
    copies = f", {twins} {'copy' if twins == 1 else 'copies'} of training rows left out" * (twins > 0)
    return {
        "official": "official separate files" + copies,
        "file": "the subset's own random split",
        "random": "random split",
        "city": f"city split, {cities} {'city' if cities == 1 else 'cities'} left out",
    }[origin]


def parts(patches: Patches, settings: Settings, tested: Patches | None = None) -> tuple[np.ndarray, np.ndarray]:
    """(training, test) row numbers: the test rows are those of `tested` where that is given.

    Errors: ValueError if the settings have other sizes than the file's parts, or more than it has rows.
    """
    settings = settle(patches, settings, ("per_class", "test"), tested)
    per_class, test, seed = settings.per_class, settings.test, settings.seed
    if settings.split == "city":
        return by_city(patches, settings)
    if settings.split == "file" and patches.parts is not None:
        rows = patches.parts
    elif tested is None:
        rows = so2sat.split(patches.labels, per_class, test, seed, patches.digests)  # type: ignore[arg-type]
    elif per_class is None:
        rows = np.arange(len(patches)), np.arange(0)
    else:
        rows = so2sat.split(patches.labels, per_class, 0, seed)
    if tested is None:
        return rows
    return rows[0], some_of(new_rows(tested, patches, rows[0], settings), settings, "the test file")


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
    """The cities that a city split leaves out for the test, one in five, drawn by the seed; [] for others."""
    if settings.split != "city":
        return []
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


def by_city(patches: Patches, settings: Settings) -> tuple[np.ndarray, np.ndarray]:
    """(training, test): per_class rows of each class from the cities that stay, test rows from those left out."""
    left_out = held_out(patches, settings)
    assert patches.cities is not None
    outside = np.isin(patches.cities, left_out)
    inside = np.flatnonzero(~outside)
    assert settings.per_class is not None
    chosen, _ = so2sat.split(patches.labels[inside], settings.per_class, 0, settings.seed)
    rest = np.flatnonzero(outside)
    test = some_of(rest, settings, "the cities left out together")
    return inside[chosen], so2sat.keep_apart(inside[chosen], test, rest, settings.seed, patches.digests)

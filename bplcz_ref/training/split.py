"""Which rows train a network and which test it: a subset's own parts, or a draw.

The split belongs to the file: one that `subset` wrote has parts, and they are used unless split is "random".
"""

import hashlib
from collections.abc import Collection

import numpy as np

from bplcz_ref import paper, systems
from bplcz_ref.data import so2sat
from bplcz_ref.data.so2sat import Patches


def settle(patches: Patches, settings: systems.Settings, given: Collection[str] | None = None) -> systems.Settings:
    """The settings with the sizes of the split that is used: on a subset those of its own parts.

    given: names of the settings that somebody chose; default: those that differ from the preset's.
    Errors: ValueError if a chosen per_class or test conflicts with the file's parts.
    """
    if settings.split == "random" or patches.parts is None:
        return settings
    given = systems.changed(settings) if given is None else given
    per_class, test = own_sizes(patches, *patches.parts)
    own = {"per_class": per_class, "test": test}
    asked = {name: getattr(settings, name) for name in own if name in given}
    if any(own[name] != value for name, value in asked.items()):
        raise ValueError(
            f"{patches.path} has its own split, {words(own)}; {words(asked)} asked for: leave that out to use the"
            " file's split, or draw a new one from all its rows with split random (--split random)"
        )
    return settings._replace(per_class=per_class, test=test)


def own_sizes(patches: Patches, training: np.ndarray, test: np.ndarray) -> tuple[int, int]:
    """(training rows per class, test rows) of a subset's own parts; ValueError if they are no split."""
    counts = np.bincount(patches.labels[training], minlength=len(paper.CLASSES))
    if counts.min() < counts.max() or not len(test):
        raise ValueError(
            f"{patches.path}: its parts have {counts.min()} to {counts.max()} training rows per class and"
            f" {len(test)} test rows; expected the same number of each class, and 1 test row or more, as `subset`"
            " writes them: draw a new split with split random (--split random)"
        )
    return int(counts[0]), len(test)


def words(sizes: dict) -> str:
    """Sizes of a split for people.

    >>> words({"per_class": 100, "test": 1500})
    'per_class 100 and test 1500'
    """
    return " and ".join(f"{name} {size}" for name, size in sizes.items())


def parts(patches: Patches, settings: systems.Settings) -> tuple[np.ndarray, np.ndarray]:
    """(training, test) row numbers: a subset's own parts, or a draw where it has none or split is "random".

    Errors: ValueError if the settings have other sizes than the file's parts.
    """
    if settings.split == "file" and patches.parts is not None:
        settle(patches, settings, given=("per_class", "test"))
        return patches.parts
    return so2sat.split(patches.labels, settings.per_class, settings.test, settings.seed)


def row_digests(patches: Patches, rows: np.ndarray) -> np.ndarray:  # (b,) -> (b,) uint64
    """8 bytes of BLAKE2b of the float32 pixels of each row.

    They tell whether a row of any file was trained on: of the same file, of its source, of another subset, and of
    a copy in float32 of a file in float64.
    """
    found = [
        hashlib.blake2b(row.tobytes(), digest_size=8).digest()
        for some in so2sat.chunks(rows)
        for row in patches.images(some, np.float32).astype("<f4", copy=False)
    ]
    return np.frombuffer(b"".join(found), "<u8").astype(np.uint64)

"""What is in a So2Sat file, and everything that is wrong with it: `python -m bplcz_ref inspect FILE.h5`."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from bplcz_ref.bands import BANDS
from bplcz_ref.data import comparison, layout, so2sat
from bplcz_ref.data.standardise import Moments
from bplcz_ref.paper import CLASSES

ROWS = 4096  # looked at, spread over a file, unless all are asked for


class Inspection(NamedTuple):
    """What `inspect` found; `print` shows it.

    counts is None for a file without labels, attributes for one that could not be opened.
    """

    path: str
    problems: tuple
    rows: int = 0
    sampled: int = 0
    counts: np.ndarray | None = None
    simulated: bool = False
    attributes: dict | None = None
    storage: dict = {}  # {sensor: words} where rows are slow to read
    twins: tuple = ()  # words for each of the `sampled` rows that has the pixels of an earlier one
    channels: dict = {}  # {"mean": (18,), ...} of the sound ones of the `sampled` rows

    def __str__(self) -> str:
        problems = [f"PROBLEM {problem}" for problem in self.problems]
        if self.attributes is None:
            return "\n".join(problems)
        lines = [f"{self.path}: {self.rows} rows, {'SIMULATED' if self.simulated else 'not marked as simulated'}"]
        if self.counts is None:
            lines.append("  no labels: `predict` takes such a file; `train` and `evaluate` need them")
        else:
            lines += [f"  class {' '.join(c):<24}{n:>8}" for c, n in zip(CLASSES, self.counts, strict=True)]
        lines += [f"  {name}: {value}" for name, value in sorted(self.attributes.items())]
        lines += [f"  {name} {words}" for name, words in self.storage.items()]
        if self.twins:
            lines.append(
                f"  {len(self.twins)} of the {self.sampled} rows looked at are copies of others, the first:"
                f" {self.twins[0]}; a split that is drawn here keeps copies on one side"
            )
        if self.channels:
            head = "".join(f"{name:>14}" for name in self.channels)
            lines.append(f"  {'channel':<8}{head}   {self.sampled} of {self.rows} rows looked at")
            for name, values in zip(BANDS, np.transpose(list(self.channels.values())), strict=True):
                lines.append(f"  {name:<8}" + "".join(f"{value:>14.5g}" for value in values))
        return "\n".join([*lines, *(f"  {line}" for line in problems or ["no problem found"])])


def inspect(path: str | Path, rows: int | None = ROWS, compare: bool = False) -> Inspection:
    """What is in a file, and what is wrong with it: problems of the file are listed, not raised.

    Labels, if there are any, are checked on all rows; channels and values on at most `rows` rows spread evenly
    (None: all). compare: against the published statistics too, comparison.py says how.

    >>> import tempfile
    >>> path, y = Path(tempfile.mkdtemp()) / "x.h5", np.array([3, 16])
    >>> so2sat.write_file(path, 2, [(np.ones((2, 32, 32, 8)), np.full((2, 32, 32, 10), 0.1), y)])
    >>> found = inspect(path)
    >>> found.rows, found.counts[16], found.problems[0][:65]
    (2, np.int64(1), 'constant at every pixel of the 2 rows looked at: VH re 1, VH im 1')
    """
    try:
        with so2sat.open_file(path, labels=None, scale=False) as patches:
            return _inspected(patches, rows, compare)
    except ValueError as error:
        return Inspection(str(path), (str(error),))


def _inspected(patches, rows, compare):
    index = so2sat.spread_rows(len(patches), rows or len(patches))
    x = patches.stored(so2sat.spread_rows(len(patches), so2sat.SCALE_ROWS), np.float64)
    problems = layout.scale_problems(x)
    problems += filter(None, [layout.constant_channels(x)])
    sums, channels = comparison.Sums() if compare else Moments(), {}
    faults, twins, first = [], [], {}  # words, words, {digest: row}
    for piece in so2sat.chunks(index):
        x = patches.stored(piece, np.float64)
        words = np.array(layout.faults(x, piece))
        faults += words[words != ""].tolist()
        x, piece = x[words == ""], piece[words == ""]
        if len(x):
            sums.add(x)
        for row, digest in zip(piece.tolist(), so2sat.digests(x).tolist(), strict=True):
            if first.setdefault(digest, row) != row:
                twins.append(f"row {row} is row {first[digest]}")
    if faults:
        problems.append(
            f"{len(faults)} of {len(index)} rows read cannot be used, the first: {faults[0]}; {layout.EXPECTED}."
            " They are left out below, and `subset --skip-bad` leaves them out of a copy"
        )
    if sums.n:
        mean, std, _ = sums.statistics()
        channels = {"min": sums.min, "mean": mean, "std": std, "max": sums.max}
    if sums.n and compare:
        problems += sums.problems()
        channels = sums.quantiles() | {"mean": mean, "published": comparison.MEAN}
        channels |= {"std": std, "published std": comparison.STD}
    return Inspection(
        path=str(patches.path),
        problems=tuple(problems),
        rows=len(patches),
        sampled=len(index),
        counts=None if patches.labels is None else np.bincount(patches.labels, minlength=layout.K),
        simulated=patches.simulated,
        attributes=patches.attributes,
        storage=patches.storage,
        twins=tuple(twins),
        channels=channels,
    )

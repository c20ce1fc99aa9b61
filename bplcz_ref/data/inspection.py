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
    """What `inspect` found; `print` shows `text`. Of a file that cannot be opened there is a problem alone."""

    text: str
    problems: tuple
    rows: int = 0
    simulated: bool = False
    counts: np.ndarray | None = None  # rows of each class; None for a file without labels
    twins: tuple = ()  # words for each row looked at that has the pixels of an earlier one
    channels: dict = {}  # {"mean": (18,), ...} of the sound ones of the rows looked at

    def __str__(self) -> str:
        return self.text


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
        return Inspection(f"PROBLEM {error}", (str(error),))


def _inspected(patches, rows, compare):
    N = len(patches)
    x = patches.stored(so2sat.spread_rows(N, so2sat.SCALE_ROWS), np.float64)
    problems = layout.scale_problems(x) + layout.constant_channels(x)
    index = so2sat.spread_rows(N, rows or N)
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

    counts = None  # from here on, what is said of it
    lines = [f"{patches.path}: {N} rows, {'SIMULATED' if patches.simulated else 'not marked as simulated'}"]
    if patches.labels is None:
        lines.append("  no labels: `predict` takes such a file; `train` and `evaluate` need them")
    else:
        counts = np.bincount(patches.labels, minlength=layout.K)
        lines += [f"  class {' '.join(c):<24}{n:>8}" for c, n in zip(CLASSES, counts, strict=True)]
    lines += [f"  {name}: {value}" for name, value in sorted(patches.attributes.items())]
    lines += [f"  {name} {words}" for name, words in patches.storage.items()]
    if twins:
        lines.append(
            f"  {len(twins)} of the {len(index)} rows looked at are copies of others, the first: {twins[0]};"
            " a split that is drawn here keeps copies on one side"
        )
    if channels:
        head = "".join(f"{name:>14}" for name in channels)
        lines.append(f"  {'channel':<8}{head}   {len(index)} of {N} rows looked at")
        for name, values in zip(BANDS, np.transpose(list(channels.values())), strict=True):
            lines.append(f"  {name:<8}" + "".join(f"{value:>14.5g}" for value in values))
    lines += [f"  PROBLEM {problem}" for problem in problems] or ["  no problem found"]
    text = "\n".join(lines)
    return Inspection(text, tuple(problems), N, patches.simulated, counts, tuple(twins), channels)

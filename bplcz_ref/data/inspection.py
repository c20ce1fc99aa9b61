"""What is in a So2Sat file, and everything that is wrong with it: `python -m bplcz_ref inspect FILE.h5`."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bplcz_ref.bands import BANDS
from bplcz_ref.data import comparison, layout, so2sat
from bplcz_ref.data.standardise import Moments
from bplcz_ref.paper import CHANNELS


class Inspection(NamedTuple):
    """What `inspect` found; `print` shows it. Per-channel arrays are (18,), over the `sampled` rows.

    counts is None for a file without labels; attributes is None for one that could not be opened.
    """

    path: str
    problems: tuple
    rows: int = 0
    sampled: int = 0
    counts: np.ndarray | None = None
    simulated: bool = False
    attributes: dict | None = None
    mean: np.ndarray | None = None
    std: np.ndarray | None = None
    min: np.ndarray | None = None
    max: np.ndarray | None = None
    storage: dict | None = None  # {sensor: words} where rows are slow to read
    quantiles: np.ndarray | None = None  # (3, 18), where the file was compared

    def __str__(self) -> str:
        problems = [f"PROBLEM {problem}" for problem in self.problems]
        if self.attributes is None:  # it could not be opened: nothing else is known
            return "\n".join(problems)
        lines = [f"{self.path}: {self.rows} rows, {'SIMULATED' if self.simulated else 'not marked as simulated'}"]
        if self.counts is None:
            lines.append("  no labels: `predict` takes such a file; `train` and `evaluate` need them")
        else:
            lines += [f"  class {layout.class_name(k):<24}{n:>8}" for k, n in enumerate(self.counts.tolist())]
        lines += [f"  {name}: {value}" for name, value in sorted(self.attributes.items())]
        lines += [f"  {name} {words}" for name, words in (self.storage or {}).items()]
        if self.mean is not None:
            columns: dict[str, Any] = {"min": self.min, "mean": self.mean, "std": self.std, "max": self.max}
            if self.quantiles is not None:
                columns = {
                    **dict(zip(("1 %", "median", "99 %"), self.quantiles, strict=True)),
                    "mean": self.mean,
                    "published": comparison.MEAN,
                    "std": self.std,
                    "published std": comparison.STD,
                }
            head = "".join(f"{name:>14}" for name in columns)
            lines.append(f"  {'channel':<8}{head}   {self.sampled} of {self.rows} rows looked at")
            for c, name in enumerate(BANDS):
                lines.append(f"  {name:<8}" + "".join(f"{values[c]:>14.5g}" for values in columns.values()))
        return "\n".join([*lines, *(f"  {line}" for line in problems or ["no problem found"])])


def inspect(path: str | Path, rows: int | None = 4096, compare: bool = False) -> Inspection:
    """What is in a file, and what is wrong with it: problems of the file are listed, not raised.

    Labels, if there are any, are checked on all rows; channels and values on at most `rows` rows spread evenly
    (None: all). compare: against the published statistics too, comparison.py says how.

    >>> import tempfile
    >>> path, y = Path(tempfile.mkdtemp()) / "x.h5", np.array([3, 16])
    >>> so2sat.write_file(path, 2, [(np.ones((2, 32, 32, 8)), np.full((2, 32, 32, 10), 0.1), y)])
    >>> found = inspect(path)
    >>> found.rows, found.counts[16], found.problems[0][:65]
    (2, np.int64(1), 'sen1, all 8 channels, is 1, constant at every pixel of the 2 rows')
    """
    try:
        with so2sat.open_file(path, labels=None, scale=False) as patches:
            return _inspected(patches, rows, compare)
    except ValueError as error:
        return Inspection(str(path), (str(error),))


def _inspected(patches, rows, compare):
    index = _sample(patches, rows)
    problems = so2sat.scale_problems(patches)
    moments, sums = Moments(), comparison.Sums()
    bad = {"that are not finite": [], f"beyond {layout.LARGEST:g}": []}
    for piece in so2sat.chunks(index):
        x = patches.stored(piece, np.float64)
        left_out = []
        for b, row in enumerate(x):
            if (place := layout.first_absurd(row)) is not None:
                kind = "that are not finite" if not np.isfinite(row).all() else f"beyond {layout.LARGEST:g}"
                bad[kind].append((piece[b], BANDS[place[-1]], row[place]))
                left_out.append(b)
        if len(left_out) < len(x):
            x = np.delete(x, left_out, axis=0) if left_out else x
            moments.add(x)
            if compare:
                sums.add(x)
    problems += [
        f"{len(found)} of {len(index)} rows read have values {kind}, first row {found[0][0]}, channel"
        f" {found[0][1]}: {found[0][2]:.5g}; leave such rows out (they are left out below)"
        for kind, found in bad.items()
        if found
    ]
    found = {
        "path": str(patches.path),
        "rows": len(patches),
        "sampled": len(index),
        "counts": None if patches.labels is None else np.bincount(patches.labels, minlength=layout.K),
        "simulated": patches.simulated,
        "attributes": patches.attributes,
        "storage": patches.storage,
    }
    if moments.n:
        mean, std, _ = moments.statistics()
        found |= {"mean": mean, "std": std, "min": moments.min, "max": moments.max}
        problems += _constant(moments.min, moments.max, len(index))
        if compare:
            found["quantiles"], looks = comparison.compare(sums, mean, std)
            problems += looks
    return Inspection(problems=tuple(problems), **found)


def constant_channels(patches: so2sat.Patches, rows: int = so2sat.CHUNK) -> list[str]:
    """A sentence for each channel or sensor that has one value at every pixel of `rows` rows, spread evenly.

    A network answers such input too, with classes that mean nothing.
    """
    index = _sample(patches, rows)
    least, most = np.full(len(BANDS), np.inf), np.full(len(BANDS), -np.inf)
    for piece in so2sat.chunks(index):
        x = patches.stored(piece, np.float64)
        least, most = np.minimum(least, x.min((0, 1, 2))), np.maximum(most, x.max((0, 1, 2)))
    return _constant(least, most, len(index))


def _sample(patches, rows):
    N = len(patches)
    return np.arange(N) if rows is None or rows >= N else so2sat.spread_rows(N, rows)


def _constant(least, most, n):  # (18,), (18,)
    """By minimum and maximum, as rounding may leave a deviation of 1e-17."""
    same = [c for c in range(len(BANDS)) if least[c] == most[c]]
    named, first = {}, 0
    for sensor, channels in CHANNELS.items():
        own = range(first, first + channels)
        if set(own) <= set(same) and len({least[c] for c in own}) == 1:
            named[f"{sensor}, all {channels} channels,"] = first
        else:
            named |= {f"channel {BANDS[c]}": c for c in own if c in same}
        first += channels
    return [
        f"{name} is {least[c]:.5g}, constant at every pixel of the {n} rows looked at: possibly padding, or never"
        " written"
        for name, c in named.items()
    ]

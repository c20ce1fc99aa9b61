"""What is in a So2Sat file, and everything that is wrong with it: `python -m bplcz_ref inspect FILE.h5`."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from bplcz_ref.bands import BANDS
from bplcz_ref.data import layout, so2sat
from bplcz_ref.data.standardise import Moments


class Inspection(NamedTuple):
    """What `inspect` found; `print` shows it. Per-channel arrays are (18,), over the `sampled` rows."""

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

    def __str__(self) -> str:
        problems = [f"PROBLEM {problem}" for problem in self.problems]
        if self.counts is None or self.attributes is None:  # it could not be opened: nothing else is known
            return "\n".join(problems)
        lines = [f"{self.path}: {self.rows} rows, {'SIMULATED' if self.simulated else 'not marked as simulated'}"]
        lines += [f"  class {layout.class_name(k):<24}{n:>8}" for k, n in enumerate(self.counts.tolist())]
        lines += [f"  {name}: {value}" for name, value in sorted(self.attributes.items())]
        if self.mean is not None:
            lines.append(
                f"  {'channel':<8}{'min':>13}{'mean':>13}{'std':>13}{'max':>13}"
                f"   {self.sampled} of {self.rows} rows looked at"
            )
            columns = np.stack((self.min, self.mean, self.std, self.max), axis=1)  # type: ignore[arg-type]
            for name, values in zip(BANDS, columns, strict=True):
                lines.append(f"  {name:<8}" + "".join(f"{value:>13.5g}" for value in values))
        return "\n".join([*lines, *(f"  {line}" for line in problems or ["no problem found"])])


def inspect(path: str | Path, rows: int | None = 4096) -> Inspection:
    """What is in a file, and what is wrong with it: problems of the file are listed, not raised.

    Labels are checked on all rows; channels and finiteness on at most `rows` rows spread evenly (None: all).

    >>> found = inspect("tests/data/so2sat_validation0.h5")
    >>> found.rows, found.counts[16], found.problems, round(found.mean[8], 4)
    (1, np.int64(1), (), np.float64(0.117))
    """
    try:
        with so2sat.open_file(path, scale=False) as patches:
            return _inspected(patches, rows)
    except ValueError as error:
        return Inspection(str(path), (str(error),))


def _inspected(patches, rows):
    N = len(patches)
    index = np.arange(N) if rows is None or rows >= N else so2sat.spread_rows(N, rows)
    problems = so2sat.scale_problems(patches)
    moments, bad = Moments(), []
    for piece in so2sat.chunks(index):
        x = patches.stored(piece, np.float64)
        finite = np.isfinite(x).all(axis=(1, 2, 3))
        bad += piece[~finite].tolist()
        if finite.any():
            moments.add(x[finite])
    if bad:
        problems.append(
            f"{len(bad)} of {len(index)} rows read have values that are not finite, first row {bad[0]}"
        )
    found = {
        "path": str(patches.path),
        "rows": N,
        "sampled": len(index),
        "counts": np.bincount(patches.labels, minlength=layout.K),
        "simulated": patches.simulated,
        "attributes": patches.attributes,
    }
    if moments.n:
        mean, std, _ = moments.statistics()
        found |= {"mean": mean, "std": std, "min": moments.min, "max": moments.max}
        problems += [  # by min and max, as rounding may leave a std of 1e-17
            f"channel {BANDS[c]} is {moments.min[c]:.5g}, constant at every pixel of the {len(index)} rows"
            " looked at: possibly padding, or never written"
            for c in np.flatnonzero(moments.min == moments.max)
        ]
    return Inspection(problems=tuple(problems), **found)

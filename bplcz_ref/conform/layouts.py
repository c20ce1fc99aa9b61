"""One name on both sides, in one layout and compared: theirs may lay out images, tokens and prompts otherwise."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from bplcz_ref.conform.tracing import size

FIRST = "channels first (B, C, H, W), ours last"


class Comparison(NamedTuple):
    """One name on both sides, laid out alike."""

    ours: np.ndarray
    theirs: np.ndarray
    limit: np.ndarray | None  # root mean square and largest magnitude of what rounding may change; None: nothing
    agrees: bool
    error: float  # root mean square of the difference, as a part of that of ours
    allowed: float  # likewise
    layout: str = ""
    free: bool = False  # whether it may be laid out otherwise


def compare(
    name: str, o: np.ndarray, t: np.ndarray, limit: np.ndarray | None, labels: np.ndarray | None, free: bool
) -> Comparison:
    """The first layout in which the two agree, or the first whose shapes fit; whole numbers have to be equal."""
    o, t = o.astype(np.float64), t.astype(np.float64)
    plain = ("", o.ravel(), t.ravel()) if o.size == 1 else ("", o, t)
    others = layouts(name, o, t, labels) if free else ()
    found = [judged(mine, other, limit, words) for words, mine, other in (plain, *others)]
    fits = [c for c in found if c.ours.shape == c.theirs.shape] or found
    best = next((c for c in fits if c.agrees), min(fits, key=lambda c: c.error))
    return best._replace(free=free)


def judged(o: np.ndarray, t: np.ndarray, limit: np.ndarray | None, layout: str) -> Comparison:
    """Two arrays, compared."""
    bound = np.zeros(2) if limit is None else limit
    scale = max(size(o)[0], np.finfo(np.float64).tiny)
    error = size(t - o) if o.shape == t.shape else np.full(2, np.inf)
    agrees = bool(np.isfinite(t).all() and (error <= bound).all())
    return Comparison(o, t, limit, agrees, float(error[0] / scale), float(bound[0] / scale), layout)


def layouts(name: str, o: np.ndarray, t: np.ndarray, labels: np.ndarray | None) -> Iterator[tuple]:
    """(words, ours, theirs) for each other way to lay them out: images, tokens, rows of prompts."""
    if o.ndim == 4 and t.ndim == 4:
        yield FIRST, o, np.moveaxis(t, 1, -1)
    if o.ndim == 3 and t.ndim == 3:
        yield "tokens first (L, N, d), ours second", o, np.swapaxes(t, 0, 1)[:, : o.shape[1]]
    if "text." in name and o.ndim == 3 and labels is not None and t.shape[-1] == o.shape[-1] and t.ndim > 2:
        yield from prompt_rows(name, o, t, labels)


def prompt_rows(name: str, o: np.ndarray, t: np.ndarray, labels: np.ndarray) -> Iterator[tuple]:
    """Ours has the prompts of each class once, (classes n, L, d); theirs may have those of every sample.

    In a causal transformer what follows EOT changes nothing before it, so more padding is cut off. The gradients
    at the prompts of equal labels add up to ours.
    """
    classes, place = np.unique(labels, return_inverse=True)
    n, L, d = len(o) // len(classes), *o.shape[1:]
    each = o.reshape(len(classes), n, L, d)
    if t.ndim == 3:
        yield "more padding after EOT than ours", o, t[:, :L]
    for order, shape in (("samples, then groups", (len(labels), n)), ("groups, then samples", (n, len(labels)))):
        if t.shape[-2] >= L and t.size == len(labels) * n * t.shape[-2] * d:
            rows = t.reshape(*shape, t.shape[-2], d)[:, :, :L]
            rows = rows if shape[0] == len(labels) else np.swapaxes(rows, 0, 1)
            words = f"the prompts of every sample ({order}), ours of every class once"
            if not name.startswith("grad."):
                yield words, each[place], rows
            else:
                folded = np.zeros_like(each)
                np.add.at(folded, place, rows)
                yield words, each, folded


def as_ours(t: np.ndarray, c: Comparison, compared: dict[str, Comparison]) -> np.ndarray:
    """Their array with its channels last; rows of prompts stay, as they are alike in what enters and leaves."""
    if c.free and t.ndim == 4 == c.ours.ndim:
        moved = np.moveaxis(t, 1, -1)
        either = t.shape == moved.shape and not c.agrees and any(d.layout == FIRST for d in compared.values())
        if c.layout == FIRST or either:
            t = moved
    return t.astype(np.float64) if t.dtype.kind == "f" else t

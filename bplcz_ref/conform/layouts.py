"""One name on both sides, in one layout and compared: theirs may lay out images, tokens and prompts otherwise."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from bplcz_ref.conform import layers
from bplcz_ref.conform.tracing import size

SYMBOLS = ("I_i.", "T_i.", "S_i.", "S_hat_i.", "I", "c_hat", "S", "S_hat", "W")  # their layout is the paper's


class Comparison(NamedTuple):
    """One name on both sides, laid out alike."""

    ours: np.ndarray
    theirs: np.ndarray
    limit: np.ndarray | None  # root mean square and largest magnitude of what rounding may change; None: nothing
    agrees: bool
    error: float
    allowed: float
    layout: str = ""
    layer: layers.Alone | None = None

    @property
    def undecided(self) -> bool:
        """Whether rounding may change it by its own size."""
        return bool(self.allowed > 1)


def judged(
    o: np.ndarray, t: np.ndarray, limit: np.ndarray, layout: str = "", layer: layers.Alone | None = None
) -> Comparison:
    """Two arrays, compared."""
    scale = max(size(o)[0], np.finfo(np.float64).tiny)
    with np.errstate(invalid="ignore", over="ignore"):
        error = size(t - o) if o.shape == t.shape else np.full(2, np.inf)
    agrees = bool(np.isfinite(t).all() and (error <= limit).all())
    return Comparison(o, t, limit, agrees, float(error[0] / scale), float(limit[0] / scale), layout, layer)


def compare(
    name: str, o: np.ndarray, t: np.ndarray, limit: np.ndarray | None, labels: np.ndarray | None, graph: dict
) -> Comparison:
    """The first layout in which the two agree, or the first whose shapes fit; whole numbers have to be equal."""
    whole = o.dtype.kind != "f" or limit is None
    o, t, best = o.astype(np.float64), t.astype(np.float64), None
    limit = np.zeros(2) if limit is None else limit
    for words, mine, other in layouts(name, o, t, labels, graph):
        this = judged(mine, other, limit, words)
        if this.agrees:
            return this
        best = best or this
    best = best or judged(o, t, limit)
    return best._replace(limit=None) if whole else best


def layouts(
    name: str, o: np.ndarray, t: np.ndarray, labels: np.ndarray | None, graph: dict
) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """(words, ours, theirs) for each way in which theirs may be laid out: images, tokens, rows of prompts."""
    if o.shape == t.shape:
        yield "", o, t
    if o.size == t.size == 1:
        yield "", o.reshape(()), t.reshape(())
    own = name.removeprefix("grad.")
    if own not in ("x", *graph) or own.startswith(SYMBOLS[:4]) or own in SYMBOLS:
        return  # parameters and symbols have one layout
    if o.ndim == 4 and t.ndim == 4 and np.moveaxis(t, 1, -1).shape == o.shape:
        yield "channels first (B, C, H, W), ours last", o, np.moveaxis(t, 1, -1)
    if o.ndim == 3 and t.ndim == 3 and t.shape[0] != o.shape[0]:
        t_ = np.swapaxes(t, 0, 1)
        if t_.shape[0] == o.shape[0] and t_.shape[1] >= o.shape[1] and t_.shape[2] == o.shape[2]:
            yield "tokens first (L, N, d), ours second", o, t_[:, : o.shape[1]]
    if own.startswith("text.") and o.ndim == 3 and labels is not None and t.shape[-1] == o.shape[-1]:
        yield from prompt_rows(name, o, t, labels)


def prompt_rows(
    name: str, o: np.ndarray, t: np.ndarray, labels: np.ndarray
) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Ours has the prompts of each class once, (classes n, L, d); theirs may have those of every sample.

    In a causal transformer what follows EOT changes nothing before it, so more padding is cut off. The gradients
    at the prompts of equal labels add up to ours.
    """
    classes, place = np.unique(labels, return_inverse=True)
    n, L, d = len(o) // len(classes), *o.shape[1:]
    each = o.reshape(len(classes), n, L, d)
    longer = t.shape[-2] >= L
    if longer and t.ndim == 3 and len(t) == len(o):
        yield "more padding after EOT than ours", o, t[:, :L]
    for order, axes in (("samples, then groups", (0, 1)), ("groups, then samples", (1, 0))):
        shape = (len(labels), n) if axes == (0, 1) else (n, len(labels))
        if longer and t.size == len(labels) * n * t.shape[-2] * d and t.shape[-2:] == t.shape[-2:]:
            rows = np.moveaxis(t.reshape(*shape, t.shape[-2], d), axes, (0, 1))[:, :, :L]
            words = f"the prompts of every sample ({order}), ours of every class once"
            if not name.startswith("grad."):
                yield words, each[place], rows
            else:
                folded = np.zeros_like(each)
                np.add.at(folded, place, rows)
                yield words, each, folded

"""Numbers -> matplotlib Figures: a confusion matrix, t-SNE points, curves. figures.py takes them from run folders.

Figures are made without pyplot: no window, nothing kept in memory. matplotlib is imported where it is used;
without it `canvas` says what to install.

Index letters: K = 17 classes, m samples of a t-SNE figure.
"""

import itertools
import string
import textwrap
from typing import TYPE_CHECKING

import numpy as np

from bplcz_ref import metrics, paper
from bplcz_ref.report import pages

if TYPE_CHECKING:
    from matplotlib.figure import Figure

K, BUILT = len(paper.CLASSES), paper.BUILT
IDS = [name for name, _ in paper.CLASSES]
EXTRA = "python -m pip install matplotlib scikit-learn"  # the extra [report]

# Okabe and Ito's colours, which most colour-blind people tell apart; their yellow only where it has an outline.
BLACK, ORANGE, SKY, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
YELLOW, BLUE, VERMILION, PURPLE = "#F0E442", "#0072B2", "#D55E00", "#CC79A7"
LINES = (BLACK, ORANGE, BLUE, GREEN, VERMILION, PURPLE, SKY)
MARKERS = "os^Dv"  # of lines, so that a colour is never all that tells two apart; 5 and 7 make 35 pairs
# Nobody tells 17 colours apart: the marker says the family of the class, the colour which one of it.
MARKS = {
    "^": (BLACK, VERMILION, ORANGE),  # 1-3, compact
    "s": (BLUE, PURPLE, SKY),  # 4-6, open
    "o": (ORANGE, BLUE, PURPLE, BLACK),  # 7-10, the other built types
    "P": (GREEN, ORANGE, YELLOW, SKY),  # A-D, plants
    "D": (BLACK, VERMILION, BLUE),  # E-G, bare land and water
}
CLASS_MARKS = [(marker, colour) for marker, colours in MARKS.items() for colour in colours]

# Panels of the curves: what is drawn, the entries of log.jsonl as a solid and a dashed line, what these two are.
PANELS = (
    ("classification loss $L_{cls}$, Eq. (11)", "L_cls", ""),
    ("accuracy in training, %", "training_accuracy", "validation_accuracy", "training part; validation file"),
    ("contrastive loss $L_{con}$, Eq. (6)", "L_con", "L_con_floor", "$L_{con}$; the floor of the epoch's batches"),
    ("mean entry of $S$, Eq. (3)", "S_positive", "S_negative", "pairs of one class; pairs of two classes"),
    ("mean $S$ of pairs of one class\nminus mean $S$ of pairs of two classes", "margin", ""),
)


def confusion(C: np.ndarray, label: str, samples: str = "test samples") -> "Figure":  # (K, K)
    """Counts in the cells; rows the truth, columns the prediction; colours are shares of a row, not a column.

    Recall stands at the right, precision below. label and samples: what was trained, and which samples these are.
    """
    support = C.sum(axis=1)
    shares = np.divide(C, support[:, None], out=np.full(C.shape, np.nan), where=support[:, None] > 0)
    figure = canvas(8.6, 6.9)
    axes = figure.subplots()
    axes.set_facecolor("0.85")  # seen where there is nothing to share
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for j, k in np.argwhere(C > 0):
        colour = "white" if shares[j, k] > 0.55 else "black"
        axes.text(k, j, str(C[j, k]), ha="center", va="center", fontsize=8, color=colour)
    axes.axhline(BUILT - 0.5, color="black", linewidth=1.2)
    axes.axvline(BUILT - 0.5, color="black", linewidth=1.2)
    axes.text((BUILT - 1) / 2, -0.7, "built types", ha="center", va="bottom", fontsize=9)
    axes.text((BUILT + K - 1) / 2, -0.7, "land cover types", ha="center", va="bottom", fontsize=9)
    precisions = ["-" if np.isnan(p) else f"{100 * p:.0f}" for p in metrics.precisions(C)]
    axes.set_xticks(range(K), [f"{name}\n{p}" for name, p in zip(IDS, precisions, strict=True)])
    axes.set_yticks(range(K), [f"{words}  {name}" for name, words in paper.CLASSES])
    axes.set(xlabel="predicted class; below it the precision, %", ylabel="true class")
    right = axes.secondary_yaxis("right")
    recalls = zip(metrics.recalls(C), support, strict=True)
    right.set_yticks(range(K), [f"{100 * r:.0f} % of {n:,}" if n else "no sample" for r, n in recalls])
    right.set_ylabel("recall of the true class", fontsize=9)
    for side in (axes, right):
        side.tick_params(length=0, labelsize=9)
    figure.colorbar(image, ax=axes, shrink=0.5, pad=0.02, label="share of the true class")
    measures = pages.measures(metrics.summary(C), pages.TABLED)
    axes.set_title(f"{label}\n{measures} on {C.sum():,} {samples}", fontsize=11, pad=24)
    figure.supxlabel(errors(C), fontsize=9)
    figure.draw_without_rendering()  # one layout more: after the first alone, "true class" is cut off at the left
    return figure


def errors(C: np.ndarray) -> str:  # (K, K)
    """In words, the share of errors that stay within the built or within the land cover types.

    Formula:  share = sum of C[j, k], j != k of one type / sum of C[j, k], j != k;
              even: the same if the errors of each class fell evenly on the 16 others: 9/16 of those of a built
              class and 6/16 of those of a land cover class stay within.
    Source:   III-B reads Fig. 2 by `share`; `even` is ours: most classes are built, so much is within by chance.

    >>> C = np.zeros((17, 17), int)
    >>> C[0, 1], C[0, 16], C[16, 10], C[5, 5] = 3, 1, 4, 100    # 3 and 4 of 8 within; (4 * 9/16 + 4 * 6/16) / 8
    >>> print(errors(C))
    Of 8 errors, 88 % stay within the built or within the land cover types;
    47 % would if the errors of each class fell evenly on the 16 others.
    """
    wrong, built = np.where(np.eye(K), 0, C), np.arange(K) < BUILT
    if not wrong.any():
        return "No errors."
    share = wrong[built[:, None] == built].sum() / wrong.sum()
    even = wrong.sum(axis=1) @ (np.where(built, BUILT, K - BUILT) - 1) / (K - 1) / wrong.sum()
    return (
        f"Of {wrong.sum():,} errors, {100 * share:.0f} % stay within the built or within the land cover types;\n"
        f"{100 * even:.0f} % would if the errors of each class fell evenly on the {K - 1} others."
    )


def tsne(
    points: list[np.ndarray], y: np.ndarray, titles: list[str], captions: list[str], note: str
) -> "Figure":  # [(m, 2)], (m,)
    """A panel for each entry of `points`, `titles` and `captions`; `note` is printed below."""
    columns = min(3, len(points))
    lines = -(-len(points) // columns)
    figure = canvas(2.1 + 4.2 * columns, 1.0 + 4.4 * lines)
    from matplotlib.patheffects import withStroke

    panels = figure.subplots(lines, columns, squeeze=False).ravel()
    counts = np.bincount(y, minlength=K)
    present = np.flatnonzero(counts)
    letter = {"fontweight": "bold", "path_effects": [withStroke(linewidth=2.5, foreground="white")]}
    for axes in panels[len(points) :]:
        axes.set_axis_off()
    for k, (axes, xy, title, caption) in enumerate(zip(panels, points, titles, captions, strict=False)):
        for c in present:
            marker, colour = CLASS_MARKS[c]
            name = f"{IDS[c]}  {paper.CLASSES[c][1]} ({counts[c]})"
            style = {"marker": marker, "color": colour, "edgecolors": "0.25", "linewidths": 0.3}
            axes.scatter(*xy[y == c].T, s=16, label=name, **style)
        middles = np.array([np.median(xy[y == c], axis=0) for c in present])
        for c, middle in zip(present, apart(middles, 0.045 * np.ptp(xy)), strict=True):
            axes.annotate(IDS[c], middle, (0, 3), textcoords="offset points", ha="center", va="bottom", **letter)
        title = f"({string.ascii_lowercase[k]}) {title}" if len(points) > 1 else title
        axes.set_title(wrapped(title, 42), fontsize=11)  # no wider than its panel
        axes.set_xlabel(caption, fontsize=9)
        axes.set(xticks=[], yticks=[])
        axes.set_aspect("equal", adjustable="datalim")
    place: dict = {"loc": "outside right center", "frameon": False, "markerscale": 1.4, "fontsize": 9}
    figure.legend(*panels[0].get_legend_handles_labels(), title="class (samples)", **place)
    figure.supxlabel(note, fontsize=9)
    return figure


def apart(places: np.ndarray, least: float) -> np.ndarray:  # (K, 2) -> (K, 2)
    """Places of letters that would cover each other, moved until about `least` is between any two.

    >>> apart(np.array([[0.0, 0.0], [0.5, 0.0], [9.0, 9.0]]), 1.0).round(6).tolist()
    [[-0.25, 0.0], [0.75, 0.0], [9.0, 9.0]]
    """
    places = np.array(places, float)
    for j, k in 20 * list(itertools.combinations(range(len(places)), 2)):
        step = places[k] - places[j] + (1e-9, 0)  # two at one place need a direction
        length = np.hypot(*step)
        push = step / length * max(0, least - length) / 2
        places[j] -= push
        places[k] += push
    return places


def curves(logs: list[list[dict]], labels: list[str]) -> "Figure":
    """PANELS of the rows of each run's log.jsonl, as far as one of the runs has what is drawn in them."""
    shown = [panel for panel in PANELS if any(np.isfinite(column(rows, panel[1])).any() for rows in logs)]
    lines, labels = -(-len(shown) // 2), [wrapped(label, 50) for label in labels]
    figure = canvas(9.4, 0.9 + 3.2 * lines)
    from matplotlib.lines import Line2D

    panels = figure.subplots(lines, 2, squeeze=False).ravel()
    solid: dict = {"linewidth": 1.4, "markersize": 3.5}
    dashed = solid | {"linestyle": "--", "linewidth": 1.1, "markerfacecolor": "white"}
    legend = {"fontsize": 9, "frameon": False}
    for letter, axes, (name, *entries, words) in zip(string.ascii_lowercase, panels, shown, strict=False):
        key = {}
        axes.set_title(f"({letter})", loc="left", x=-0.12, fontsize=11)
        for k, (rows, label) in enumerate(zip(logs, labels, strict=True)):
            colour, marker = LINES[k % len(LINES)], MARKERS[k % len(MARKERS)]
            for entry, style, meaning in zip(entries, (solid, dashed), words.split("; "), strict=False):
                values = column(rows, entry)
                if np.isfinite(values).any():
                    style = style | {"marker": marker, "markevery": max(1, len(rows) // 20), "label": label}
                    axes.plot([row["epoch"] for row in rows], values, color=colour, **style)
                    key[meaning] = style | {"marker": "o", "label": meaning}
        if len(key) > 1:  # whatever the colour; above the panel, where it covers no line
            handles = [Line2D([], [], color="0.3", **style) for style in key.values()]
            axes.legend(handles=handles, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, **legend)
        axes.set(xlabel="epoch", ylabel=name)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.margins(y=0.12)
        axes.grid(color="0.9", linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
        if max(map(len, logs)) == 1:  # a point each: not in an axis from 0.96 to 1.04
            axes.set(xlim=(0.5, 1.5), xticks=[1])
    figure.align_ylabels(panels)
    handles = panels[0].get_legend_handles_labels()
    prompted = all(np.isfinite(column(rows, "L_con")).any() for rows in logs)
    note = None if prompted else "(c) to (e): only the runs with prompts"
    for axes in panels[len(shown) :]:
        axes.set_axis_off()
        axes.legend(*handles, loc="center", title=note, **legend)
    if len(shown) == len(panels):
        figure.legend(*handles, loc="outside upper center", ncols=min(2, len(logs)), **legend)
    return figure


def column(rows: list[dict], name: str) -> np.ndarray:  # -> (epochs,)
    """An entry of each row, nan where there was nothing to average; accuracies in percent, and the margin of S.

    >>> rows = [{"S_positive": -1.0, "S_negative": -1.5}, {"S_positive": -1.0, "S_negative": None}]
    >>> column(rows, "margin").tolist(), column([{"training_accuracy": 0.25}], "training_accuracy").tolist()
    ([0.5, nan], [25.0])
    """
    if name == "margin":
        return column(rows, "S_positive") - column(rows, "S_negative")
    return pages.floats(rows, name) * (100 if name.endswith("accuracy") else 1)


def wrapped(text: str, width: int) -> str:
    """Lines of at most `width` characters, in which the name of a run stays whole."""
    return textwrap.fill(text, width, break_on_hyphens=False)


def canvas(width: float, height: float) -> "Figure":
    """An empty Figure, `width` by `height` inches; ValueError without matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ValueError(f"figures need matplotlib ({error}): {EXTRA}") from None
    return Figure(figsize=(width, height), layout="constrained")

"""Numbers -> matplotlib Figures: a confusion matrix, t-SNE points, curves. figures.py takes them from run folders.

Figures are made without pyplot: no window, nothing kept in memory. matplotlib is imported where it is used;
without it `canvas` says what to install. Except for shares of a confusion matrix, nothing is computed here.

Index letters: K = 17 classes, m samples of a t-SNE figure.
"""

import textwrap
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from bplcz_ref import metrics, paper
from bplcz_ref.report import text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
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
# The colours in which maps of local climate zones are drawn (WUDAPT's), in the order of the classes.
LCZ_COLOURS = (
    *(
        "#910613",
        "#D9081C",
        "#FF0A22",
        "#C54F1E",
        "#FF6628",
        "#FF985E",
        "#FDED3F",
        "#BBBBBB",
        "#FFCBAB",
        "#565656",
    ),
    *("#006A18", "#00A926", "#628432", "#B5DA7F", "#000000", "#FCF7B1", "#656BFA"),
)
CLASS_MARKS = [(marker, colour) for marker, colours in MARKS.items() for colour in colours]


class Curve(NamedTuple):
    """A run's label and the rows of its log.jsonl."""

    label: str
    rows: list


class Neighbours(NamedTuple):
    """The mean share of a sample's k nearest samples that are of its class, and what chance would give."""

    same: float
    chance: float
    k: int


def draw_confusion(C: np.ndarray, label: str, samples: str = "test samples") -> "Figure":  # (K, K)
    """Counts in the cells; rows the truth, columns the prediction; colours are shares of a row, not a column.

    Recall stands at the right, precision below. label and samples: what was trained, and which samples these are.
    """
    support = C.sum(axis=1)
    shares = np.divide(C, support[:, None], out=np.full(C.shape, np.nan), where=support[:, None] > 0)
    figure = canvas(8.6, 6.9)
    axes = figure.subplots()
    image = axes.imshow(shares, cmap=_white_to_blue(), vmin=0, vmax=1)
    for j, k in np.argwhere(C > 0):
        colour = "white" if shares[j, k] > 0.55 else "black"
        axes.text(k, j, str(C[j, k]), ha="center", va="center", fontsize=8, color=colour)
    axes.axhline(BUILT - 0.5, color="black", linewidth=1.2)
    axes.axvline(BUILT - 0.5, color="black", linewidth=1.2)
    precisions = ["-" if np.isnan(p) else f"{100 * p:.0f}" for p in metrics.precisions(C)]
    axes.set_xticks(range(K), [f"{name}\n{p}" for name, p in zip(IDS, precisions, strict=True)])
    axes.set_yticks(range(K), [f"{words}  {name}" for name, words in paper.CLASSES])
    axes.set_xlabel("predicted class; below it the precision, %")
    axes.set_ylabel("true class")
    for middle, words in (((BUILT - 1) / 2, "built types"), ((BUILT + K - 1) / 2, "land cover types")):
        axes.text(middle, -0.7, words, ha="center", va="bottom", fontsize=9)
    right = axes.secondary_yaxis("right")
    recalls = zip(metrics.recalls(C), support, strict=True)
    right.set_yticks(range(K), [f"{100 * r:.0f} % of {n:,}" if n else "no sample" for r, n in recalls])
    right.set_ylabel("recall of the true class", fontsize=9)
    for side in (axes, right):
        side.tick_params(length=0, labelsize=9)
    figure.colorbar(image, ax=axes, shrink=0.5, pad=0.02).set_label("share of the true class")
    measures = ("overall_accuracy", "kappa", "macro_f1")
    OA, kappa, f1 = (text.percent([metrics.summary(C)[name]]) for name in measures)
    title = f"{label}\nOA {OA} %, kappa {kappa} %, macro-F1 {f1} % on {C.sum():,} {samples}"
    axes.set_title(title, fontsize=11, pad=24)
    figure.supxlabel(errors(C), fontsize=9)
    figure.draw_without_rendering()  # one layout more: after the first alone, "true class" is cut off at the left
    return figure


def errors(C: np.ndarray) -> str:  # (K, K)
    """What III-B reads from Fig. 2, in words, with the number that it needs to be judged."""
    wrong = int(C.sum() - np.trace(C))
    if not wrong:
        return "No errors."
    share, even = within_types(C)
    return (
        f"Of {wrong:,} errors, {100 * share:.0f} % stay within the built or within the land cover types;\n"
        f"{100 * even:.0f} % would if the errors of each class fell evenly on the {K - 1} others."
    )


def within_types(C: np.ndarray) -> tuple[float, float]:  # (K, K) -> share, even
    """The share of errors that stay within the built or within the land cover types, and what evenness would give.

    Formula:  share = sum of C[j, k], j != k of one type / sum of C[j, k], j != k;
              even: the same if the errors of each class fell evenly on the 16 others: 9/16 of those of a built
              class and 6/16 of those of a land cover class stay within. (nan, nan) without errors.
    Source:   III-B reads Fig. 2 by `share`; `even` is ours: most classes are built, so much is within by chance.

    >>> C = np.zeros((17, 17), int)
    >>> C[0, 1], C[0, 16], C[16, 10], C[5, 5] = 3, 1, 4, 100    # 3 and 4 of 8 within; (4 * 9/16 + 4 * 6/16) / 8
    >>> within_types(C)
    (0.875, 0.46875)
    """
    wrong = np.asarray(C) * (1 - np.eye(K, dtype=int))
    built = np.arange(K) < BUILT
    if not wrong.any():
        return float("nan"), float("nan")
    within = wrong[built][:, built].sum() + wrong[~built][:, ~built].sum()
    even = (wrong[built].sum() * (BUILT - 1) + wrong[~built].sum() * (K - BUILT - 1)) / (K - 1)
    return float(within / wrong.sum()), float(even / wrong.sum())


def draw_tsne(
    points: list[np.ndarray], y: np.ndarray, titles: list[str], same: list[Neighbours], note: str
) -> "Figure":  # [(m, 2)], (m,)
    """A panel for each entry of `points`, `titles` and `same`; `note` is printed below."""
    columns = min(3, len(points))
    lines = -(-len(points) // columns)
    figure = canvas(2.1 + 4.2 * columns, 1.0 + 4.4 * lines)
    panels = figure.subplots(lines, columns, squeeze=False).ravel()
    counts = np.bincount(y, minlength=K)
    present = np.flatnonzero(counts)
    for axes in panels[len(points) :]:
        axes.set_axis_off()
    for k, (axes, xy, title, near) in enumerate(zip(panels, points, titles, same, strict=False)):
        for c in present:
            marker, colour = CLASS_MARKS[c]
            name = f"{IDS[c]}  {paper.CLASSES[c][1]} ({counts[c]})"
            style = {"marker": marker, "color": colour, "edgecolors": "0.25", "linewidths": 0.3}
            axes.scatter(*xy[y == c].T, s=16, label=name, **style)
        middles = np.array([np.median(xy[y == c], axis=0) for c in present])
        for c, middle in zip(present, apart(middles, 0.045 * np.ptp(xy)), strict=True):
            style = {"fontsize": 10, "fontweight": "bold", "path_effects": _white_outline()}
            axes.annotate(IDS[c], middle, ha="center", va="center", **style)
        title = f"({chr(ord('a') + k)}) {title}" if len(points) > 1 else title
        axes.set_title(textwrap.fill(title, 42), fontsize=11)  # no wider than its panel
        axes.set_xlabel(
            f"{100 * near.same:.0f} % of a sample's {near.k} nearest in I are of its class\n"
            f"({100 * near.chance:.0f} % by chance)",
            fontsize=9,
        )
        axes.set_xticks([])
        axes.set_yticks([])
        axes.set_aspect("equal", adjustable="datalim")
    key = {"title": "class (samples)", "frameon": False, "markerscale": 1.4, "fontsize": 9}
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right center", **key)
    figure.supxlabel(note, fontsize=9)
    return figure


def apart(places: np.ndarray, least: float) -> np.ndarray:  # (K, 2) -> (K, 2)
    """Places of letters that would cover each other, moved until about `least` is between any two.

    >>> apart(np.array([[0.0, 0.0], [0.5, 0.0], [9.0, 9.0]]), 1.0).round(6).tolist()
    [[-0.25, 0.0], [0.75, 0.0], [9.0, 9.0]]
    """
    places = np.array(places, float)
    for _ in range(20):
        for j in range(len(places)):
            for k in range(j):
                step = places[j] - places[k] if (places[j] != places[k]).any() else np.array([1e-9, 0.0])
                length = np.hypot(*step)
                if length < least:
                    push = step / length * (least - length) / 2
                    places[j] += push
                    places[k] -= push
    return places


def draw_curves(found: list[Curve]) -> "Figure":
    """L_cls and accuracy; below, for band group prompting, L_con with its floor, S, and the margin of S."""
    prompted = [curve for curve in found if curve.rows[0]["L_con"] is not None]
    watched = any(row["validation_accuracy"] is not None for curve in found for row in curve.rows)
    names = ["classification loss $L_{cls}$, Eq. (11)", "accuracy on the training part, %"]
    names[1] = "accuracy, %" if watched else names[1]
    if prompted:
        names += [
            "contrastive loss $L_{con}$, Eq. (6)",
            "mean entry of $S$, Eq. (3)",
            "margin of $S$: one class less two",
        ]
    figure = canvas(9.4, 0.9 + 3.2 * -(-len(names) // 2))
    panels = figure.subplots(-(-len(names) // 2), 2, squeeze=False).ravel()
    for k, curve in enumerate(found):
        epochs, rows = [row["epoch"] for row in curve.rows], curve.rows
        solid = {"color": LINES[k % len(LINES)], "linewidth": 1.4, "label": curve.label, "markersize": 3.5}
        solid |= {"marker": MARKERS[k % len(MARKERS)], "markevery": max(1, len(epochs) // 20)}
        dashed = solid | {"linestyle": "--", "linewidth": 1.1, "markerfacecolor": "white"}
        panels[0].plot(epochs, numbers(rows, "L_cls"), **solid)
        panels[1].plot(epochs, 100 * numbers(rows, "training_accuracy"), **solid)
        if rows[0]["validation_accuracy"] is not None:
            panels[1].plot(epochs, 100 * numbers(rows, "validation_accuracy"), **dashed)
        if rows[0]["L_con"] is not None:
            S = [numbers(rows, name) for name in ("S_positive", "S_negative")]
            panels[2].plot(epochs, numbers(rows, "L_con"), **solid)
            panels[2].plot(epochs, numbers(rows, "L_con_floor"), **dashed)
            panels[3].plot(epochs, S[0], **solid)
            panels[3].plot(epochs, S[1], **dashed)
            panels[4].plot(epochs, S[0] - S[1], **solid)
    if watched:
        key(panels[1], "training part", "validation file")
    if prompted:
        key(panels[2], "$L_{con}$", "the floor of the epoch's batches")
        key(panels[3], "pairs of one class", "pairs of two classes")
    for axes, name in zip(panels, names, strict=False):
        axes.set_ylabel(name)
        axes.set_xlabel("epoch")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.margins(y=0.12)
        axes.grid(color="0.9", linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
        if max(len(curve.rows) for curve in found) == 1:  # a point each: not in an axis from 0.96 to 1.04
            axes.set_xlim(0.5, 1.5)
            axes.set_xticks([1])
    figure.align_ylabels(panels)
    style = {"fontsize": 9, "frameon": False}
    handles = panels[0].get_legend_handles_labels()
    if prompted:  # in the place of a sixth panel
        panels[5].set_axis_off()
        panels[5].legend(*handles, loc="center", **style)
    else:
        figure.legend(*handles, loc="outside upper center", ncols=min(2, len(found)), **style)
    return figure


def numbers(rows: list[dict], name: str) -> np.ndarray:  # -> (epochs,)
    """A column of a log; nan where there was nothing to average.

    >>> numbers([{"S_negative": -1.5}, {"S_negative": None}], "S_negative").tolist()
    [-1.5, nan]
    """
    return np.array([np.nan if row[name] is None else row[name] for row in rows], float)


def key(axes: "Axes", solid: str, dashed: str) -> None:
    """What solid and dashed lines are, whatever their colour; above the panel, where it covers no line."""
    from matplotlib.lines import Line2D

    style: dict = {"color": "0.3", "marker": "o", "markersize": 3.5}
    handles = [
        Line2D([], [], linestyle="-", label=solid, **style),
        Line2D([], [], linestyle="--", label=dashed, markerfacecolor="white", **style),
    ]
    place: dict = {"loc": "lower center", "bbox_to_anchor": (0.5, 1.0), "ncols": 2}
    axes.legend(handles=handles, fontsize=9, frameon=False, **place)


def canvas(width: float, height: float) -> "Figure":
    """An empty Figure, `width` by `height` inches; ValueError without matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ValueError(f"figures need matplotlib ({error}): {EXTRA}") from None
    return Figure(figsize=(width, height), layout="constrained")


def _white_to_blue():
    """Colours of shares; grey where there is nothing to share."""
    from matplotlib import colormaps

    return colormaps["Blues"].with_extremes(bad="0.85")


def _white_outline():
    """White around letters, so that they can be read on points."""
    from matplotlib import patheffects

    return [patheffects.withStroke(linewidth=2.5, foreground="white")]

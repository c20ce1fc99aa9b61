"""Draws the figures of docs/mathematics/: python docs/figures.py writes docs/figures/*.svg and data.json.

Each figure has a function that computes its data, which tests/test_docs_figures.py compares with data.json and
with the numbers in the text, and one that draws them. Only drawing needs matplotlib (the extra "report").
"""

import json
from pathlib import Path

import numpy as np

from bplcz_ref import nn, paper, theory

FOLDER = Path(__file__).parent / "figures"
K = len(paper.CLASSES)
R = paper.ALPHA * len(paper.GROUPS)
BLUE, ORANGE, RED, GREEN, GREY = "#1f6fb4", "#d9730d", "#c0392b", "#2e8b57", "#777777"


def expected_p(B: int) -> float:
    """The expected mean of W for B samples of K equally likely classes."""
    return 1 / B + (1 - 1 / B) / K


# ---------------------------------------------------------------- the (a, b)-plane


def plane() -> dict:
    """The edge that no unit features pass, and the optimum on it by batch size."""
    optima = {str(B): theory.expected_optimum(R, K, expected_p(B))[:3] for B in (8, 16, 32, 64)}
    return {
        "edge": [theory.segment(R, K, t) for t in (0, 1)],
        "optima": {B: {"L_con": L, "a": a, "b": b} for B, (L, a, b) in optima.items()},
    }


def draw_plane(data: dict, axes) -> None:
    a, b = np.meshgrid(np.linspace(-1.9, 1.9, 200), np.linspace(-1.9, 0.25, 150))
    p = expected_p(32)
    edge_a, edge_b = zip(*data["edge"], strict=True)
    edge = np.interp(a[0], edge_a[::-1], edge_b[::-1])
    reached = (b >= edge) & (np.abs(a) <= R)
    L = np.ma.masked_where(~reached, p * np.logaddexp(0, -a) + (1 - p) * np.logaddexp(0, b))
    levels = axes.contour(a, b, L, levels=[0.33, 0.37, 0.45, 0.55, 0.65], colors=GREY, linewidths=0.7)
    axes.clabel(levels, fontsize=8, fmt="%g")
    axes.fill([*edge_a, R], [*edge_b, -R], color="#e6e6e6", linewidth=0)
    axes.plot(edge_a, edge_b, color="black", linewidth=1.5)
    axes.text(
        1.12,
        -0.86,
        "no unit features, if classes\nare equally frequent\n(Theorem 1)",
        ha="center",
        va="center",
        color="#444444",
    )
    for (B, best), color in zip(data["optima"].items(), (BLUE, ORANGE, RED, GREEN), strict=True):
        label = f"optimum, B = {B}: a - b = {best['a'] - best['b']:.2f}"
        axes.plot(best["a"], best["b"], "o", color=color, markersize=7, label=label)
    axes.plot(*data["edge"][0], "s", color="black", markerfacecolor="white", label="simplex: the softmax ideal")
    axes.plot(0, 0, "+", color="black", markersize=10, label="start: ln 2")
    axes.set(xlabel="a: mean logit of positive pairs", ylabel="b: mean logit of negative pairs")
    axes.set(xlim=(-1.9, 1.9), ylim=(-1.9, 0.25))
    axes.legend(loc="lower right", fontsize=8, framealpha=1)


# ---------------------------------------------------------------- samples of a class


def samples() -> dict:
    """Over random batches, by the samples of a class: the cosine of its images and text at the batch's optimum.

    [samples, least, median, largest cosine] for each batch size, and the threshold of Theorem 5 as a share of B.
    """
    found: dict = {"threshold": 1 / (1 + np.exp(R)) / 2}
    with nn.one_blas_thread():
        for B in (32, 64):
            cosines: dict = {}
            for seed in range(20):
                y = np.random.default_rng(seed).integers(K, size=B)
                M = theory.least_cosines(*theory.pair_weights(y), R)
                for count, of_class in zip(np.unique(y, return_counts=True)[1].tolist(), np.diag(M), strict=True):
                    cosines.setdefault(count, []).append(of_class)
            found[str(B)] = [
                [m, float(min(c)), float(np.median(c)), float(max(c))] for m, c in sorted(cosines.items())
            ]
    return found


def draw_samples(data: dict, axes) -> None:
    for B, color, shift in (("32", RED, -0.12), ("64", BLUE, 0.12)):
        count, least, median, largest = np.array(data[B]).T
        axes.vlines(count + shift, least, largest, color=color, linewidth=2)
        axes.plot(count + shift, median, "o", color=color, markersize=6, label=f"B = {B}")
        at = data["threshold"] * int(B)
        axes.axvline(at, color=color, linestyle="--", linewidth=1)
        axes.text(at + 0.08, 0.36, f"{at:.2f}", color=color)
    axes.set(xlabel="samples of the class in the batch", ylabel="cosine, image to text, at the optimum")
    axes.set(ylim=(-1.06, 0.5), xlim=(0.4, 10.6))
    axes.set_xticks(range(1, 11))
    axes.legend(loc="lower right")


# ---------------------------------------------------------------- the gradient of a cosine


def cosine() -> dict:
    """Features of two lengths at some angles to v = (1, 0), and the gradient of the cosine there."""
    found = {}
    for length in (1, 2):
        angles = np.radians([20, 50, 80, 110, 140, 170])
        u = np.stack([np.cos(angles), np.sin(angles)], axis=1)
        gradient = (np.array([1.0, 0.0]) - u[:, :1] * u) / length
        found[str(length)] = {"x": (length * u).tolist(), "gradient": gradient.tolist()}
    return found


def draw_cosine(data: dict, axes) -> None:
    turn = np.linspace(0, np.pi, 100)
    for (length, points), color in zip(data.items(), (BLUE, ORANGE), strict=True):
        axes.plot(float(length) * np.cos(turn), float(length) * np.sin(turn), color="#bbbbbb", linewidth=1)
        x, g = np.array(points["x"]), 0.6 * np.array(points["gradient"])
        axes.quiver(*x.T, *g.T, color=color, angles="xy", scale_units="xy", scale=1, width=0.006, zorder=3)
        axes.plot(*x.T, "o", color=color, markersize=4, label=f"|x| = {length}")
    axes.annotate("", (2.7, 0), (0, 0), arrowprops={"arrowstyle": "->", "color": "black"})
    axes.text(2.72, 0.06, "v")
    axes.set(xlim=(-2.3, 2.9), ylim=(-0.2, 2.3), aspect="equal")
    axes.set_axis_off()
    axes.legend(loc="upper right", frameon=False)


FIGURES = {  # name: (data, drawing, size in inches)
    "plane": (plane, draw_plane, (7, 4.3)),
    "samples": (samples, draw_samples, (7, 3.6)),
    "cosine": (cosine, draw_cosine, (6, 2.9)),
}


def main(folder: Path = FOLDER) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    # Text stays text, and the same data give the same bytes. The white ground is readable on dark pages too.
    style = {"svg.fonttype": "none", "svg.hashsalt": "bplcz_ref", "font.size": 10, "axes.spines.top": False}
    style |= {"axes.spines.right": False, "font.family": "sans-serif", "savefig.facecolor": "white"}
    folder.mkdir(exist_ok=True)
    found = {name: data() for name, (data, _, _) in FIGURES.items()}
    with pyplot.rc_context(style):
        for name, (_, draw, size) in FIGURES.items():
            figure, axes = pyplot.subplots(figsize=size, layout="constrained")
            draw(found[name], axes)
            figure.savefig(folder / f"{name}.svg", metadata={"Date": None, "Creator": None})
            pyplot.close(figure)
    rounded = json.loads(json.dumps(found), parse_float=lambda text: round(float(text), 6))
    (folder / "data.json").write_text(json.dumps(rounded) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

"""Draws the figures of docs/mathematics/: python docs/figures.py writes docs/figures/*.svg and data.json.

Each figure has a function that computes its data, which tests/test_docs_figures.py compares with data.json, and
one that draws them. What takes minutes to compute is read from docs/recorded/, where record.py writes it. Only
drawing needs matplotlib (the extra "report").
"""

import io
import json
import re
from pathlib import Path

import numpy as np

from bplcz_ref import nn, paper, theory
from bplcz_ref.report import explain

FOLDER = Path(__file__).parent / "figures"
RECORDED = Path(__file__).parent / "recorded"
K = len(paper.CLASSES)
R = paper.ALPHA * len(paper.GROUPS)
BLUE, ORANGE, RED, GREEN, GREY, PURPLE = "#1f6fb4", "#c8650b", "#c0392b", "#2e7d4f", "#666666", "#7d4fb0"


def expected_p(B: int) -> float:
    """The expected mean of W for B samples of K equally likely classes."""
    return 1 / B + (1 - 1 / B) / K


def recorded(name: str) -> dict:
    """A record of record.py."""
    return json.loads((RECORDED / f"{name}.json").read_text(encoding="utf-8"))


def means(values: list, size: int) -> list:
    """The means of `size` values each."""
    return np.mean(np.reshape(values, (-1, size)), axis=1).tolist()


def note(axes, text: str, at: tuple, color: str, shift: tuple = (7, 4), **how) -> None:
    """A text in the colour of what it names, `shift` points beside it."""
    axes.annotate(text, at, xytext=shift, textcoords="offset points", color=color, **how)


def plane() -> dict:
    """The edge, the expected optimum by batch size, the optima of chapter 4's batches, the run `small`."""
    steps = recorded("small")["steps"]
    with nn.one_blas_thread():
        floors = [theory.batch_floor(y, R) for y in np.random.default_rng(47).integers(K, size=(20, 32))]
    return {
        "path": {"a": means(steps["S_positive"], 8), "b": means(steps["S_negative"], 8)},
        "edge": [theory.segment(R, K, t) for t in (0, 1)],
        "optima": {str(B): theory.expected_optimum(R, K, expected_p(B))[1:3] for B in (8, 16, 32, 64)},
        "batches": [[floor.a, floor.b] for floor in floors],
    }


def draw_plane(data: dict, axes) -> None:
    a, b = np.meshgrid(np.linspace(-1.9, 1.9, 200), np.linspace(-1.9, 0.25, 150))
    p = expected_p(32)
    edge_a, edge_b = zip(*data["edge"], strict=True)
    outside = (b < np.interp(a[0], edge_a[::-1], edge_b[::-1])) | (np.abs(a) > R)
    L = np.ma.masked_where(outside, p * np.logaddexp(0, -a) + (1 - p) * np.logaddexp(0, b))
    levels = axes.contour(a, b, L, levels=[0.33, 0.37, 0.45, 0.55, 0.65], colors=GREY, linewidths=0.7)
    axes.clabel(levels, fontsize=8, fmt="%g")
    axes.fill([*edge_a, R], [*edge_b, -R], color="#e6e6e6", linewidth=0)
    axes.plot(edge_a, edge_b, color="black", linewidth=1.5)
    words = "no unit features, if classes\nare equally frequent\n(Theorem 1)"
    axes.text(1.12, -0.92, words, ha="center", va="center", color="#444444")
    axes.plot(*zip(*data["batches"], strict=True), "o", color=GREEN, markerfacecolor="none", markersize=4)
    note(axes, "best features of 20 random\nbatches, B = 32 (uneven)", (-0.55, -1.42), GREEN, (10, -18))
    for B, shift in (("8", (7, -10)), ("16", (7, -9)), ("32", (-38, 7))):
        axes.plot(*data["optima"][B], "o", color=RED, markersize=6)
        note(axes, f"{'expected optimum, ' if B == '8' else ''}B = {B}", data["optima"][B], RED, shift)
    path = data["path"]
    axes.plot([0, *path["a"]], [0, *path["b"]], ".-", color=PURPLE, linewidth=1, markersize=4)
    axes.plot(path["a"][-1], path["b"][-1], "*", color=PURPLE, markersize=10)
    note(axes, "a run on\nSIMULATED data", (path["a"][1], path["b"][1]), PURPLE, (-12, 0), ha="right")
    axes.plot(0, 0, "+", color="black", markersize=10)
    note(axes, "start: ln 2", (0, 0), "black")
    axes.plot(*data["edge"][0], "s", color="black", markerfacecolor="white")
    note(axes, "simplex: the softmax ideal", data["edge"][0], "black", (6, 22), ha="right")
    axes.plot(*data["edge"][1], "s", color="black")
    note(axes, "collapse: expected optimum from B = 58 on", data["edge"][1], "black", (6, -13))
    axes.set(xlabel="a: mean logit of positive pairs", ylabel="b: mean logit of negative pairs")
    axes.set(xlim=(-1.95, 1.9), ylim=(-1.9, 0.25))


def samples() -> dict:
    """Over random batches, by the samples of a class: the cosine of its images and text at the batch's optimum.

    [samples, least, median, largest cosine] for each batch size, and the threshold of Theorem 8 as a share of B.
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
            found[str(B)] = [[m, min(c), float(np.median(c)), max(c)] for m, c in sorted(cosines.items())]
    return found


def draw_samples(data: dict, axes) -> None:
    for B, color, marker, shift in ((32, RED, "o", -0.12), (64, BLUE, "s", 0.12)):
        count, least, median, largest = np.array(data[str(B)]).T
        axes.vlines(count + shift, least, largest, color=color, linewidth=2)
        axes.plot(count + shift, median, marker, color=color, markersize=6, label=f"B = {B}: median and range")
        at = data["threshold"] * B
        axes.axvline(at, color=color, linestyle="--", linewidth=1)
        note(axes, f"{data['threshold']:.1%} of {B}", (at, 0.4), color, (4, 0))
    axes.set(xlabel="samples of the class in the batch", ylabel="cosine, image to text, at the optimum")
    axes.set(ylim=(-1.06, 0.5), xlim=(0.4, 10.6), xticks=range(1, 11))
    axes.legend(loc="lower right", frameon=False)


def share() -> dict:
    """The share of the fall of L_con, from ln 2 to its expected optimum, that one logit for all pairs reaches."""
    p, n = expected_p(paper.BATCH), len(paper.GROUPS)
    alphas = [0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.5, 0.6, 0.7, 0.8, 1.0, 1.25, 1.5, 1.75, 2.0]

    def of(alpha):
        least = theory.expected_optimum(alpha * n, K, p).L_con
        return (np.log(2) - theory.classless_optimum(alpha * n, p)) / (np.log(2) - least)

    return {"alpha": alphas, "share": [float(of(alpha)) for alpha in alphas]}


def draw_share(data: dict, axes) -> None:
    axes.plot(data["alpha"], 100 * np.array(data["share"]), color=BLUE, linewidth=2)
    for alpha, color in ((0.25, RED), (0.5, GREY), (1.0, GREY)):
        value = 100 * data["share"][data["alpha"].index(alpha)]
        axes.plot(alpha, value, "o", color=color)
        paper_s = ", the paper" if color == RED else ""
        note(axes, f"alpha = {alpha:g}{paper_s}: {value:.1f} %", (alpha, value), color)
    axes.set(xlabel="alpha", ylabel="% of the fall of L_con\nthat needs no class", ylim=(0, 110), xlim=(0, 2))


def batch() -> dict:
    """W, S and sigma(S) - W of the batch of `python -m bplcz_ref explain`."""
    made = explain.batch()
    x = {line.symbol: np.asarray(line.value) for line in explain.trace(made)}
    matrices = {"W": x["W"], "S": x["S"], "sigma(S) - W": x["sigma(S)"] - x["W"]}
    names = [paper.CLASSES[k][0] for k in made.y]
    return {"classes": names, "matrices": {name: matrix.tolist() for name, matrix in matrices.items()}}


def draw_batch(data: dict, axes) -> None:
    titles = ("W: what is asked", "S: what the features answer", "sigma(S) - W: the slope")
    middle = np.arange(6) + 0.5
    for place, (name, matrix), title in zip(axes, data["matrices"].items(), titles, strict=True):
        bound = 2.2 * np.abs(matrix).max()  # pale, so that a black number can be read on it, on dark pages too
        place.pcolormesh(matrix, cmap="RdBu_r", vmin=-bound, vmax=bound, edgecolor="white", linewidth=1)
        for (j, k), value in np.ndenumerate(matrix):
            text = f"{value:.0f}" if name == "W" else f"{value:.2f}"
            place.text(k + 0.5, j + 0.5, text, ha="center", va="center", fontsize=9)
        place.set_xticks(middle, data["classes"])
        place.set_yticks(middle, data["classes"])
        place.tick_params(length=0)
        place.spines[:].set_visible(False)
        place.invert_yaxis()
        place.set(title=title, aspect="equal", xlabel="text, by its class")
    axes[0].set_ylabel("image, by its class")


def pulls() -> dict:
    """Lengths of the gradients at the features of a batch: means of 4 steps of the run `small`."""
    steps = recorded("small")["steps"]
    return {name: means(steps[name], 4) for name in ("cls", "con_common", "con_by_class", "con_within")}


def draw_pulls(data: dict, axes) -> None:
    lines = {  # name: (colour, line, label, the step where it is written, points above)
        "cls": (BLUE, "-", "L_cls", 60, 6),
        "con_common": (RED, "-", "beta L_con, common to all images", 8, 6),
        "con_by_class": (ORANGE, "--", "beta L_con, by class", 80, 6),
        "con_within": (GREY, ":", "beta L_con, within classes", 80, -14),
    }
    for name, (color, line, label, step, above) in lines.items():
        axes.semilogy(np.arange(len(data[name])) * 4 + 1.5, data[name], line, color=color, linewidth=1.8)
        note(axes, label, (step, data[name][step // 4]), color, (6, above))
    axes.set(xlabel="step", ylabel="length of the gradient at I", xlim=(0, 128), ylim=(1e-3, 0.3))
    axes.set_title("preset small, SIMULATED data", fontsize=10)


def texts() -> dict:
    """The mean cosine between the texts of two classes by step: means over seeds, for four losses."""
    losses, found = recorded("losses")["losses"], {}
    for name in ("identity", "paper", "paper, alpha = 1", "infonce"):
        series = [run["texts_by_step"] for run in losses[name]["runs"]]
        found["step"] = [step for step, _ in series[0]]
        found[name] = np.mean([[cosine for _, cosine in one] for one in series], axis=0).tolist()
    return found


def draw_texts(data: dict, axes) -> None:
    lines = {
        "identity": (GREY, ":", "W = I", 5),
        "paper": (RED, "-", "paper", -13),
        "paper, alpha = 1": (ORANGE, "--", "alpha = 1", 0),
        "infonce": (BLUE, "-.", "InfoNCE, UniCL", 6),
    }
    for name, (color, line, label, above) in lines.items():
        axes.plot(data["step"], data[name], line, color=color, linewidth=1.8)
        note(axes, label, (data["step"][-1], data[name][-1]), color, (4, above), annotation_clip=False)
    axes.set(xlabel="step", ylabel="cosine between two classes' texts", ylim=(0, 1.05), xlim=(0, 245))
    axes.set_title("three seeds each, SIMULATED data", fontsize=10)


def cosine() -> dict:
    """Features of two lengths at some angles to v = (1, 0), and the gradient of the cosine there."""
    angles, found = np.radians([20, 50, 80, 110, 140, 170]), {}
    u = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    for length in (1, 2):
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
    axes.text(-2.25, 2.2, "arrows at 0.6 of the\ngradient's length", fontsize=8, va="top")
    axes.set(xlim=(-2.3, 2.9), ylim=(-0.2, 2.3), aspect="equal")
    axes.set_axis_off()
    axes.legend(loc="upper right", frameon=False)


FIGURES = {  # name: (data, drawing, size in inches, number of axes side by side)
    "batch": (batch, draw_batch, (9, 3.4), 3),
    "cosine": (cosine, draw_cosine, (6, 2.9), 1),
    "plane": (plane, draw_plane, (7, 4.6), 1),
    "share": (share, draw_share, (6, 3), 1),
    "samples": (samples, draw_samples, (7, 3.6), 1),
    "pulls": (pulls, draw_pulls, (7, 3.4), 1),
    "texts": (texts, draw_texts, (7, 3.4), 1),
}


def main(folder: Path = FOLDER) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    # Text stays text, and the same data give the same bytes. The white ground is readable on dark pages too.
    style = {"svg.fonttype": "none", "svg.hashsalt": "bplcz_ref", "font.size": 10, "axes.spines.top": False}
    style |= {"axes.spines.right": False, "font.family": "sans-serif", "savefig.facecolor": "white"}
    folder.mkdir(exist_ok=True)
    found = {name: data() for name, (data, *_) in FIGURES.items()}
    with pyplot.rc_context(style):
        for name, (_, draw, size, columns) in FIGURES.items():
            figure, axes = pyplot.subplots(ncols=columns, figsize=size, layout="constrained")
            draw(found[name], axes)
            file = io.StringIO()
            figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
            pyplot.close(figure)
            svg = re.sub(r"\d+\.\d{3,}", lambda number: f"{float(number[0]):.2f}", file.getvalue())
            (folder / f"{name}.svg").write_text(svg, encoding="utf-8")
    rounded = json.loads(json.dumps(found), parse_float=lambda text: round(float(text), 6))
    (folder / "data.json").write_text(json.dumps(rounded) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

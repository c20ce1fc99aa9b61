"""python examples/map_scene.py RUN scene.png: slide a trained run over a scene, and draw the map beside the truth.

The scene is SIMULATED, in squares of one zone. One row of windows is classified at a time, so sen1 (H, W, 8) and
sen2 (H, W, 10) of a scene of your own can be opened by numpy.memmap, however large it is.
"""

import sys

import numpy as np
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.patheffects import withStroke

from bplcz_ref import classify, paper
from bplcz_ref.data import simulate
from bplcz_ref.training import evaluate

SIZE, BLOCK, STEP = paper.PATCH, 2, 16  # pixels of a window; windows per side of a zone; pixels between windows
# The colours in which maps of local climate zones are drawn (WUDAPT's), in the order of the classes.
# fmt: off
LCZ_COLOURS = (
    "#910613", "#D9081C", "#FF0A22", "#C54F1E", "#FF6628", "#FF985E", "#FDED3F", "#BBBBBB", "#FFCBAB", "#565656",
    "#006A18", "#00A926", "#628432", "#B5DA7F", "#000000", "#FCF7B1", "#656BFA",
)
# fmt: on
OUTLINE = [withStroke(linewidth=1.5, foreground="white")]


def simulated_scene(rows, columns, seed=47):  # -> (H, W, 8), (H, W, 10), (H, W)
    zones = np.random.default_rng(seed).permutation(np.resize(np.arange(17), rows * columns))
    zones = zones.reshape(rows, columns).repeat(BLOCK, 0).repeat(BLOCK, 1)
    sensors, truth = simulate.patches(zones.ravel(), seed), zones.repeat(SIZE, 0).repeat(SIZE, 1)
    tiles = (x.reshape(*zones.shape, SIZE, SIZE, -1).swapaxes(1, 2) for x in sensors)
    return *(x.reshape(*truth.shape, -1) for x in tiles), truth


def mapped(run, sen1, sen2):  # (H, W, 8), (H, W, 10) -> the class of every window
    trained, (H, W), lines = evaluate.load(run), sen1.shape[:2], []
    for top in range(0, H - SIZE + 1, STEP):
        places = [np.s_[top : top + SIZE, left : left + SIZE] for left in range(0, W - SIZE + 1, STEP)]
        lines.append(
            classify(trained, np.stack([sen1[p] for p in places]), np.stack([sen2[p] for p in places]))[0]
        )
    return np.array(lines)


def main(run, path):
    sen1, sen2, truth = simulated_scene(4, 5)
    found = mapped(run, sen1, sen2)
    middles = truth[SIZE // 2 :: STEP, SIZE // 2 :: STEP][: found.shape[0], : found.shape[1]]
    said = f"map: {100 * np.mean(found == middles):.0f} % of windows have the class at their middle"
    figure, (H, W), zone = Figure(figsize=(12, 4.6), layout="constrained"), truth.shape, BLOCK * SIZE
    # Both panels in pixels of the scene: a window's class is drawn around the window's middle.
    panels = (("truth, SIMULATED", truth[::zone, ::zone], 0, zone), (said, found, (SIZE - STEP) / 2, STEP))
    for axes, (title, values, first, cell) in zip(figure.subplots(1, 2), panels, strict=True):
        rows, columns = np.multiply(values.shape, cell) + first
        axes.imshow(
            values, ListedColormap(LCZ_COLOURS), vmin=-0.5, vmax=16.5, extent=(first, columns, rows, first)
        )
        axes.set(title=title, xticks=[], yticks=[], xlim=(0, W), ylim=(H, 0))
        for (y, x), k in np.ndenumerate(values):  # colours alone do not tell every reader every class
            place = first + cell * (x + 0.5), first + cell * (y + 0.5)
            axes.text(*place, paper.CLASSES[k][0], fontsize=7, ha="center", va="center", path_effects=OUTLINE)
    legend = [Patch(fc=LCZ_COLOURS[k], ec="0.3", label=" ".join(name)) for k, name in enumerate(paper.CLASSES)]
    figure.legend(handles=legend, loc="outside right center", frameon=False)
    figure.savefig(path, dpi=120)
    print(f"{path}: {said}")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(f"usage: {__doc__}")
    main(*sys.argv[1:])

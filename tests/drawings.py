"""Reading matplotlib Figures back: for the tests of plots.py and figures.py."""

import numpy as np

from bplcz_ref import paper

IDS = [name for name, _ in paper.CLASSES]


def words(figure):
    """All text in a figure."""
    import matplotlib.text

    return "\n".join(text.get_text() for text in figure.findobj(matplotlib.text.Text))


def shows(figure, C):
    """Whether a figure shows C: colours, the numbers in the cells and their places, the names on the axes."""
    axes = figure.axes[0]
    (image,) = axes.images
    colours = np.ma.filled(np.ma.masked_invalid(image.get_array()), -1)
    for j in range(17):
        n = sum(int(C[j, k]) for k in range(17))
        for k in range(17):
            if abs(colours[j, k] - (C[j, k] / n if n else -1)) > 1e-12:
                return False
    cells = {text.get_position()[::-1]: text.get_text() for text in axes.texts if text.get_text().isdigit()}
    if cells != {(j, k): str(C[j, k]) for j in range(17) for k in range(17) if C[j, k]}:
        return False
    columns = [label.get_text().split()[0] for label in axes.get_xticklabels()]
    below = [label.get_text().split()[-1] for label in axes.get_xticklabels()]
    for k in range(17):
        n = sum(int(C[j, k]) for j in range(17))
        if below[k] != (f"{100 * C[k, k] / n:.0f}" if n else "-"):
            return False
    rows = [label.get_text().split()[-1] for label in axes.get_yticklabels()]
    upright = axes.yaxis_inverted() and not axes.xaxis_inverted()
    words = axes.get_xlabel().startswith("predicted class") and axes.get_ylabel() == "true class"
    return columns == rows == IDS and upright and words

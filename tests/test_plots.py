"""plots.py: what is drawn is what was given; wrong drawings are seen."""

import numpy as np
import pytest
from drawings import shows, words

from bplcz_ref.report import plots

C = np.random.default_rng(3).integers(0, 9, (17, 17)) * (np.arange(17)[:, None] != 6)  # no sample of class 7
C[0, :2], C[16, 0], C[0, 16] = (300, 40), 0, 7


@pytest.mark.slow
def test_the_matrix_is_drawn_as_it_is():
    pytest.importorskip("matplotlib")
    figure = plots.draw_confusion(C, "EB-CNN")
    assert shows(figure, C)
    (image,) = figure.axes[0].images
    assert image.get_clim() == (0, 1)  # shares: white is none of the class, blue all of it
    right = [label.get_text() for label in figure.axes[0].child_axes[0].get_yticklabels()]
    assert right[0] == f"{100 * 300 / C[0].sum():.0f} % of {C[0].sum()}"
    assert right[6] == "no sample"
    across, down = figure.axes[0].lines
    assert list(across.get_ydata()) == list(down.get_xdata()) == [9.5, 9.5]  # between class 10 and class A
    assert "built types\nland cover types" in words(figure)


@pytest.mark.slow
@pytest.mark.parametrize("largest", [3, *(pytest.param(n, marks=pytest.mark.slow) for n in (9, 99, 999, 9999))])
def test_no_word_of_the_matrix_is_cut_off(largest):
    """Whatever the supports: at those of two digits, "true class" once was."""
    pytest.importorskip("matplotlib")
    from matplotlib.text import Text

    counts = np.random.default_rng(3).integers(0, largest + 1, (17, 17))
    figure = plots.draw_confusion(counts, "EB-CNN (BP-LCZ), SIMULATED data")
    figure.set_dpi(200)
    figure.draw_without_rendering()
    for text in figure.findobj(lambda artist: isinstance(artist, Text) and artist.get_text()):
        box = text.get_window_extent()
        assert box.x0 >= 0, text
        assert box.y0 >= 0, text
        assert box.x1 <= figure.bbox.width, text
        assert box.y1 <= figure.bbox.height, text


@pytest.mark.slow
def test_wrong_matrices_are_seen():
    """A transposed matrix, shares of the columns or of all, and swapped names must not pass as C."""
    pytest.importorskip("matplotlib")
    assert not shows(plots.draw_confusion(C.T, "EB-CNN"), C)
    figure = plots.draw_confusion(C, "EB-CNN")
    right = figure.axes[0].images[0].get_array()
    for wrong in (C / np.maximum(C.sum(axis=0), 1), C / C.sum(), C / C.max()):
        figure.axes[0].images[0].set_data(wrong)
        assert not shows(figure, C)
    figure.axes[0].images[0].set_data(right)
    assert shows(figure, C)
    figure.axes[0].set_xticks(range(17), [*map(str, range(1, 18))])
    assert not shows(figure, C)


@pytest.mark.slow
def test_the_title_and_the_note_by_hand():
    """200 samples: 90 + 60 right, 20 wrong within built, 10 within land cover, 20 across."""
    pytest.importorskip("matplotlib")
    D = np.zeros((17, 17), int)
    D[0, 0], D[0, 9], D[0, 10] = 90, 20, 10
    D[16, 16], D[16, 10], D[16, 9] = 60, 10, 10
    text = words(plots.draw_confusion(D, "EB-CNN (BP-LCZ), SIMULATED data, random split"))
    # pe = (120 * 90 + 80 * 60) / 200^2 = .39, kappa = (.75 - .39) / .61 = .590164
    # evenly: (30 * 9 + 20 * 6) / 16 = 24.4 of 50
    # F1 of class 1: 180 / (120 + 90), of class G: 120 / (80 + 60); macro over the two that are in the truth
    assert "EB-CNN (BP-LCZ), SIMULATED data, random split\nOA 75.00 %, kappa 59.02 %, macro-F1 85.71 %" in text
    assert "on 200 test samples" in text
    assert "Of 50 errors, 60 % stay within" in text
    assert "49 % would if the errors of each class fell evenly on the 16 others" in text
    assert "No errors." in words(plots.draw_confusion(np.eye(17, dtype=int), "EB-CNN"))
    one_class = np.diag([0] * 16 + [5])
    text = words(plots.draw_confusion(one_class, "EB-CNN", "given samples"))
    assert "OA 100.00 %, kappa undefined %, macro-F1 100.00 % on 5 given samples" in text


def test_within_types_against_pairs_one_by_one():
    within = wrong = even = 0
    for j in range(17):
        for k in range(17):
            if j != k:
                wrong += C[j, k]
                within += C[j, k] * ((j < 10) == (k < 10))
                even += C[j, k] * sum(1 for m in range(17) if m != j and (m < 10) == (j < 10)) / 16
    assert plots.within_types(C) == pytest.approx((within / wrong, even / wrong), rel=1e-12)


def test_an_epoch_without_negatives_is_a_gap():
    pytest.importorskip("matplotlib")
    row = {
        "epoch": 1,
        "L_cls": 1.0,
        "L_con": 0.5,
        "L_con_floor": 0.1,
        "training_accuracy": 0.5,
        "validation_accuracy": None,
        "S_positive": -1.0,
        "S_negative": None,
    }
    figure = plots.draw_curves([plots.Curve("a", [row, row | {"epoch": 2, "S_negative": -2.0}])])
    (line,) = [line for line in figure.axes[3].lines if line.get_linestyle() == "--"]
    assert np.isnan(line.get_ydata()[0])
    assert line.get_ydata()[1] == -2.0
    assert figure.axes[4].lines[0].get_ydata()[1] == 1.0  # the margin


def test_one_epoch_can_be_read():
    """A point each, in an axis of one epoch: a line without markers would be nothing to see."""
    pytest.importorskip("matplotlib")
    row = {"epoch": 1, "L_cls": 1.0, "L_con": 0.5, "L_con_floor": 0.3, "S_positive": -1.0, "S_negative": -1.2}
    row |= {"training_accuracy": 0.5, "validation_accuracy": 0.4}
    figure = plots.draw_curves([plots.Curve("a", [row])])
    for axes in figure.axes[:5]:
        assert axes.get_xlim() == (0.5, 1.5)
        assert axes.get_xticks().tolist() == [1]
        assert all(line.get_marker() == "o" for line in axes.lines)
    accuracies = {line.get_linestyle(): line.get_ydata().tolist() for line in figure.axes[1].lines}
    assert accuracies == {"-": [50.0], "--": [40.0]}


@pytest.mark.slow
def test_no_title_of_tsne_covers_its_neighbour():
    """At the longest labels that there are."""
    pytest.importorskip("matplotlib")
    rng = np.random.default_rng(0)
    y = np.arange(34) % 17
    titles = ["EB-CNN + BGP, no MSM, SIMULATED data, city split, 9 cities left out"] * 3
    same = [plots.Neighbours(0.5, 0.1, 10)] * 3
    figure = plots.draw_tsne([rng.standard_normal((34, 2)) for _ in titles], y, titles, same, "note")
    figure.draw_without_rendering()
    boxes = [axes.title.get_window_extent() for axes in figure.axes]
    assert all(left.x1 < right.x0 for left, right in zip(boxes, boxes[1:], strict=False))
    assert " ".join(figure.axes[1].title.get_text().split()) == f"(b) {titles[1]}"
    letters = [text.get_window_extent() for text in figure.axes[0].texts]
    area = [box.width * box.height for box in letters]
    for j in range(len(letters)):
        for k in range(j):
            common = letters[j].intersection(letters[j], letters[k])
            covered = 0 if common is None else common.width * common.height
            assert covered < 0.5 * min(area[j], area[k])


# Machado, Oliveira, Fernandes 2009, severity 1, on linear RGB: no red cones, no green cones.
BLIND = (
    [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
)
TO_XYZ = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]


def distance(first, second, seen):
    """CIE 1976 difference of two colours, after the matrix `seen` on linear RGB."""

    def lab(colour):
        rgb = np.array([int(colour[k : k + 2], 16) for k in (1, 3, 5)]) / 255
        rgb = np.where(rgb > 0.04045, ((rgb + 0.055) / 1.055) ** 2.4, rgb / 12.92)
        xyz = TO_XYZ @ np.clip(seen @ rgb, 0, 1) / np.sum(TO_XYZ, axis=1)
        f = np.where(xyz > 216 / 24389, np.cbrt(xyz), (24389 / 27 * xyz + 16) / 116)
        return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])

    return np.linalg.norm(lab(first) - lab(second))


def least(colours):
    eyes = [np.eye(3), *map(np.array, BLIND)]
    return min(distance(a, b, eye) for eye in eyes for a in colours for b in colours if a != b)


def test_marks_can_be_told_apart_with_any_eyes():
    assert len(set(plots.CLASS_MARKS)) == 17
    for colours in (*plots.MARKS.values(), plots.LINES):
        assert len(set(colours)) == len(colours)
        assert least(colours) > 12
    assert least(("#00A000", "#A06000")) < 12  # a green and a brown that green-blind people confuse: seen

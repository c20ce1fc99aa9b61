"""figures.py, plots.py and model.fused: what is drawn is what was measured, and simulated data says so."""

import sys

import numpy as np
import pytest
from small import TINY, call, copied, quiet

from bplcz_ref import bands, nn, paper, systems
from bplcz_ref.data import so2sat
from bplcz_ref.data.streams import stream
from bplcz_ref.encoders import exvit
from bplcz_ref.report import figures, plots
from bplcz_ref.storage import files
from bplcz_ref.training import evaluate, split

SIMULATED = "SIMULATED data, random split"


@pytest.fixture(autouse=True)
def _matplotlib(request):
    if "fused" not in request.node.name:
        pytest.importorskip("matplotlib")


def words(figure):
    """All text in a figure."""
    from matplotlib.text import Text

    return "\n".join(text.get_text() for text in figure.findobj(Text))


# ---------------------------------------------------------------------------------- Eq. (9) in evaluation mode


def moved(name, dtype, **settings):
    """A system with a state that is no longer the initial one, patches, and their band groups."""
    made = systems.build(name, TINY._replace(**settings))
    params, state = made.init(stream(47, "init"), np.dtype(dtype))
    x = np.random.default_rng(1).standard_normal((5, 32, 32, 18)).astype(dtype)
    for _ in range(3):
        state = made.loss(params, state, (x, np.arange(5)), rng=np.random.default_rng(2))[1]["state"]
    return made, params, state, x, bands.grouped(*bands.separate(x))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_fused_is_what_the_classifier_sees_in_evaluation(dtype):
    """The logits of I are those of evaluation, to the bit; test_in_one_file.py has the order of the groups."""
    made, params, state, x, _ = moved("ebcnn-bplcz", dtype)
    I = made.fused(params, state, x)
    assert I.dtype == dtype
    c_hat = nn.linear(I, params["classifier"]["weight"], params["classifier"]["bias"])
    assert np.array_equal(c_hat, made.apply(params, state, x, train=False)[0])


@pytest.mark.slow
def test_fused_of_reading_b_are_the_contrastive_vectors():
    made, params, state, x, groups = moved("exvit-bplcz", "float64", reading="B")
    I, size = made.fused(params, state, x), systems.SMALL_EXVIT
    first = exvit.tokens(len(bands.INDEX["RGB"]), grid=16, size=size)
    own = params["branches"]["RGB"] | params["shared"]
    z, _ = first.apply(own, state["branches"]["RGB"], groups["RGB"], train=False)
    I_rgb, _ = exvit.vector(TINY.features, size).apply(params["vectors"]["RGB"], {}, z, train=False)
    assert np.abs(I[:, : TINY.features] - I_rgb).max() < 1e-12
    without_text = systems.exvit_bplcz("B", TINY.features, grid=16, size=size)
    with pytest.raises(ValueError, match="no I_i to fuse"):
        without_text.fused(*without_text.init(stream(47, "init"), np.dtype("float64")), x)


# ------------------------------------------------------------------------------------------- confusion matrix

C = np.random.default_rng(3).integers(0, 9, (17, 17)) * (np.arange(17)[:, None] != 6)  # no sample of class 7
C[0, :2], C[16, 0], C[0, 16] = (300, 40), 0, 7


@pytest.mark.slow
def test_the_matrix_is_drawn_as_it_is():
    axes, *_ = plots.confusion(C, "EB-CNN").axes
    with np.errstate(invalid="ignore"):
        shares, precisions = C / C.sum(axis=1, keepdims=True), np.diag(C) / C.sum(axis=0)  # of a row: of the truth
    (image,) = axes.images
    assert np.array_equal(np.ma.filled(image.get_array(), np.nan), shares, equal_nan=True)
    assert image.get_clim() == (0, 1)  # white is none of the class, blue all of it
    cells = {text.get_position()[::-1]: text.get_text() for text in axes.texts if text.get_text().isdigit()}
    assert cells == {at: str(n) for at, n in np.ndenumerate(C) if n}
    ticks = (axes.get_xticklabels(), axes.get_yticklabels(), axes.child_axes[0].get_yticklabels())
    for k, (below, left, right) in enumerate(zip(*ticks, strict=True)):
        name, n = paper.CLASSES[k][0], C[k].sum()
        assert below.get_text() == f"{name}\n{100 * precisions[k]:.0f}"
        assert left.get_text() == f"{paper.CLASSES[k][1]}  {name}"
        assert right.get_text() == (f"{100 * shares[k, k]:.0f} % of {n}" if n else "no sample")
    assert axes.yaxis_inverted()  # class 1 above
    assert axes.get_xlabel().startswith("predicted class")
    assert axes.get_ylabel() == "true class"
    across, down = axes.lines
    assert list(across.get_ydata()) == list(down.get_xdata()) == [9.5, 9.5]  # between class 10 and class A


@pytest.mark.slow
def test_no_word_of_the_matrix_is_cut_off():
    """At supports of two digits "true class" once was."""
    from matplotlib.text import Text

    counts = np.random.default_rng(3).integers(0, 100, (17, 17))
    figure = plots.confusion(counts, f"EB-CNN (BP-LCZ), {SIMULATED}")
    figure.set_dpi(figures.DPI)
    figure.draw_without_rendering()
    for text in figure.findobj(lambda artist: isinstance(artist, Text) and artist.get_text()):
        box = text.get_window_extent()
        inside = box.x0 >= 0 and box.y0 >= 0 and box.x1 <= figure.bbox.width and box.y1 <= figure.bbox.height
        assert inside, text


@pytest.mark.slow
def test_the_title_and_the_note_by_hand():
    """200 samples: 90 + 60 right, 20 wrong within built, 10 within land cover, 20 across."""
    D = np.zeros((17, 17), int)
    D[0, 0], D[0, 9], D[0, 10] = 90, 20, 10
    D[16, 16], D[16, 10], D[16, 9] = 60, 10, 10
    text = words(plots.confusion(D, "EB-CNN"))
    # pe = (120 * 90 + 80 * 60) / 200^2 = .39, kappa = (.75 - .39) / .61 = .590164
    # evenly: (30 * 9 + 20 * 6) / 16 = 24.4 of 50
    # F1 of class 1: 180 / (120 + 90), of class G: 120 / (80 + 60); macro over the two that are in the truth
    assert "EB-CNN\nOA 75.00 %, kappa 59.02 %, macro-F1 85.71 % on 200 test samples" in text
    assert "Of 50 errors, 60 % stay within" in text
    assert "49 % would if the errors of each class fell evenly on the 16 others" in text
    text = words(plots.confusion(np.diag([0] * 16 + [5]), "EB-CNN", "samples"))
    assert "OA 100.00 %, kappa undefined %, macro-F1 100.00 % on 5 samples" in text
    assert "No errors." in text


# ------------------------------------------------------------------------------------------------------ curves


def row(epoch, **more):
    """A row of log.jsonl of a run without prompts."""
    names = ("L_con", "L_con_floor", "S_positive", "S_negative", "validation_accuracy")
    return {"epoch": epoch, "L_cls": 1 / epoch, "training_accuracy": 0.5, **dict.fromkeys(names), **more}


def test_curves_are_the_log():
    prompted = {"L_con": 0.5, "L_con_floor": 0.1, "S_positive": -1.0, "validation_accuracy": 0.4}
    rows = [row(1, **prompted), row(2, **prompted, S_negative=-2.0)]  # a first epoch without negatives: a gap
    figure = plots.curves([[row(1), row(2)], rows], ["a", "b"])
    lines = [(k, line) for k, axes in enumerate(figure.axes) for line in axes.lines]
    drawn = {(k, line.get_label(), line.get_linestyle()): line.get_ydata() for k, line in lines}
    # fmt: off
    expected = {
        (0, "a", "-"): [1, 0.5], (1, "a", "-"): [50, 50],
        (0, "b", "-"): [1, 0.5], (1, "b", "-"): [50, 50], (1, "b", "--"): [40, 40],
        (2, "b", "-"): [0.5, 0.5], (2, "b", "--"): [0.1, 0.1],
        (3, "b", "-"): [-1, -1], (3, "b", "--"): [np.nan, -2], (4, "b", "-"): [np.nan, 1],
    }
    # fmt: on
    assert drawn.keys() == expected.keys()
    for line, values in expected.items():
        np.testing.assert_allclose(drawn[line], values, rtol=1e-12)
    meanings = [text.get_text() for text in figure.axes[1].get_legend().get_texts()]
    assert meanings == ["training part", "validation file"]
    assert not figure.axes[5].axison  # the legend's place
    assert figure.axes[5].get_legend().get_title().get_text() == "(c) to (e): only the runs with prompts"
    assert [axes.get_title("left") for axes in figure.axes[:5]] == ["(a)", "(b)", "(c)", "(d)", "(e)"]
    assert len(plots.curves([[row(1), row(2)]], ["a"]).axes) == 2  # without prompting


def test_one_epoch_can_be_read():
    """A point each, in an axis of one epoch: a line without markers would be nothing to see."""
    for axes in plots.curves([[row(1)]], ["a"]).axes:
        assert axes.get_xlim() == (0.5, 1.5)
        assert axes.get_xticks().tolist() == [1]
        assert [line.get_marker() for line in axes.lines] == ["o"]


@pytest.mark.slow
def test_runs_are_told_apart_and_simulated_data_is_called_so(runs, tmp_path):
    real = copied(runs[0], tmp_path / "real", data={"simulated": False})
    reduced, name = copied(runs[0], tmp_path / "seed-47", system="resnet50"), f"{tmp_path.name}-seed-47"
    labels = [run.label for run in figures.labelled([runs[0], real])]
    assert labels == [f"EB-CNN, run seed-47, {SIMULATED}", "EB-CNN, run real, random split"]
    assert figures.labelled([runs[0], reduced])[1].label == f"ResNet50, reduced, run {name}, {SIMULATED}"
    found = 100 * files.read_json(runs[1] / "metrics.json")["overall_accuracy"]
    text = words(figures.confusion(runs[1]))
    assert f"EB-CNN (BP-LCZ), run seed-47, {SIMULATED}\nOA {found:.2f} %" in text


# ------------------------------------------------------------------------------------------------------- t-SNE


@pytest.mark.slow
def test_tsne_shows_the_same_test_samples_of_each_run(runs, small_file, monkeypatch):
    manifold = pytest.importorskip("sklearn.manifold")
    seen, fit = [], manifold.TSNE.fit_transform

    def noted(self, I):
        seen.append((I, fit(self, I)))
        return seen[-1][1]

    monkeypatch.setattr(manifold.TSNE, "fit_transform", noted)
    figure = figures.tsne(runs, small_file, per_class=3, seed=5)
    with so2sat.open_file(small_file) as patches:
        rows = figures.sample(patches.labels, split.decide(patches, TINY).test, 3, 5)
        expected = [evaluate.fused(evaluate.load(run), patches, rows) for run in runs]
        y = patches.labels[rows]
    for axes, own, (I, points) in zip(figure.axes, expected, seen, strict=True):
        assert np.array_equal(I, own)
        for scatter, c in zip(axes.collections, np.unique(y), strict=True):
            assert np.array_equal(scatter.get_offsets(), points[y == c])
            assert scatter.get_label() == "{}  {} ({})".format(*paper.CLASSES[c], np.sum(y == c))
    text = " ".join(words(figure).split())
    assert f"(a) EB-CNN, run ebcnn-seed-47, {SIMULATED}" in text
    assert f"(b) EB-CNN (BP-LCZ), run ebcnn-bplcz-seed-47, {SIMULATED}" in text
    assert f"{len(rows)} samples of the test part: 3 of each class, or all where there are fewer." in text
    assert "(a)" not in words(figures.tsne(runs[:1], small_file, per_class=3, seed=5))
    assert np.array_equal(seen[0][1], seen[2][1])  # the same picture again


@pytest.mark.slow
def test_no_title_of_tsne_covers_its_neighbour_and_no_letter_the_only_sample_of_its_class():
    """At the longest labels that there are."""
    title = "EB-CNN + BGP, no MSM, run bgp, SIMULATED data, city split, 9 cities left out"
    points = np.random.default_rng(0).standard_normal((3, 34, 2))
    figure = plots.tsne(list(points), np.arange(34) % 17, [title] * 3, ["caption"] * 3, "note")
    figure.draw_without_rendering()
    boxes = [axes.title.get_window_extent() for axes in figure.axes]
    assert boxes[0].x1 < boxes[1].x0
    assert boxes[1].x1 < boxes[2].x0
    points = np.argwhere(np.ones((4, 5)))[:17]
    figure = plots.tsne([points], np.arange(17), ["title"], ["caption"], "note")
    figure.draw_without_rendering()
    for text, (_, height) in zip(figure.axes[0].texts, figure.axes[0].transData.transform(points), strict=True):
        assert text.get_window_extent().y0 > height


@pytest.mark.slow
def test_runs_that_cannot_be_compared_are_named(runs, small_file, plain, tmp_path):
    """And nothing is drawn of a run on another file than was asked for."""
    pytest.importorskip("sklearn")
    with pytest.raises(ValueError, match="plain.h5 is another file; figures show a run's own test part"):
        figures.write_figures(runs[:1], tmp_path / "out", plain[0])
    assert not (tmp_path / "out").exists()
    parts = files.read_json(runs[1] / "config.json")["data"]["split"] | {"test_rows": "0" * 64}
    elsewhere = {"path": "b.h5", "labels": "0" * 64}
    for name, data, message in (
        ("a", elsewhere, "was tested on b.h5, and"),
        ("b", {"split": parts}, "another test part than"),
    ):
        other = copied(runs[1], tmp_path / name, data=data)
        with pytest.raises(ValueError, match=message):
            figures.tsne([runs[0], other], small_file)


# ------------------------------------------------------------------------------------------------ files, command


def report(out, *arguments):
    return call("report", *arguments, "--out", out)


@pytest.mark.long
def test_report_writes_all_figures(runs, tmp_path, capsys):
    pytest.importorskip("sklearn")
    assert report(tmp_path, *runs, runs[0]) == 0  # a run named twice; the file from config.json
    printed = capsys.readouterr().out
    names = ["confusion-ebcnn-bplcz-seed-47.png", "confusion-ebcnn-seed-47.png", "curves.png", "tsne.png"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    assert all(str(tmp_path / name) in printed for name in names)
    assert printed.count("on 40 SIMULATED samples, random split") == 2
    assert all((tmp_path / name).read_bytes().startswith(b"\x89PNG\r\n") for name in names)
    assert report(tmp_path, runs[0]) == 2
    assert "curves.png exists already: remove it, or name another place, or add" in capsys.readouterr().err
    for more in (["--overwrite", "--format", "svg"], ["--overwrite"]):
        assert report(tmp_path, runs[0], *more) == 0
    assert b"<svg" in (tmp_path / "curves.svg").read_bytes()


@pytest.mark.slow
def test_report_makes_what_it_can(runs, tmp_path, capsys):
    pytest.importorskip("sklearn")
    begun = copied(runs[0], tmp_path / "begun", data={"path": str(tmp_path / "gone.h5")})
    for name in ("metrics.json", "confusion.csv"):
        (begun / name).unlink()
    assert report(tmp_path / "out", begun) == 1
    first, second = capsys.readouterr().err.splitlines()
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["curves.png"]
    assert "it appears when the run is complete" in first
    assert "gone.h5, on which" in second
    assert report(tmp_path / "out", tmp_path / "nothing") == 2
    assert len(figures.curves([begun]).axes[0].lines[0].get_ydata()) == 2
    (begun / "log.jsonl").unlink()
    with pytest.raises(ValueError, match="has no epoch yet"):
        figures.curves([begun])


@pytest.mark.slow
def test_figures_of_one_system_do_not_overwrite_each_other(runs, tmp_path, capsys):
    found = [copied(runs[0], tmp_path / f"run-{seed}", system="resnet50", seed=seed) for seed in (47, 48)]
    assert report(tmp_path, *found) == 0  # nothing failed
    *written, last = capsys.readouterr().out.splitlines()[-4:]
    names = ("confusion-run-47.png", "confusion-run-48.png", "curves.png")
    assert written == [str(tmp_path / name) for name in names]
    said = "ResNet50, reduced, run run-47; ResNet50, reduced, run run-48"
    assert last == f"not in tsne.png: {said} (no fused feature I of Eq. (9))"
    with pytest.raises(ValueError, match="run-47; ResNet50, reduced, run run-48: no fused feature I"):
        figures.tsne(found)
    others = figures.tsne([runs[0], found[0]], per_class=3)
    assert "Not shown, since they have no I: ResNet50, reduced, run run-47." in words(others)


@pytest.mark.slow
def test_what_to_install_is_said_and_the_rest_is_drawn(runs, small_file, tmp_path, monkeypatch, capsys):
    for module, line, drawn in (
        ("sklearn.manifold", "no tsne.png: t-SNE needs scikit-learn", ["confusion-seed-47.png", "curves.png"]),
        ("matplotlib.figure", "figures need matplotlib", []),
    ):
        monkeypatch.setitem(sys.modules, module, None)
        (missing,) = figures.write_figures(runs[:1], tmp_path / module, small_file, say=quiet)
        assert missing.startswith(line)
        assert missing.endswith(plots.EXTRA)
        assert sorted(path.name for path in (tmp_path / module).glob("*")) == drawn
    assert report(tmp_path / "out", runs[0]) == 1
    assert len(capsys.readouterr().out.splitlines()) == 1  # the accuracy; no figure is written without matplotlib

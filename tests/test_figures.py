"""figures.py, plots.py and model.fused: what is drawn is what was measured, and simulated data says so."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest

from bplcz_ref import __main__ as command_line
from bplcz_ref import bands, exvit_bplcz, files, model, nn, paper, systems, theory
from bplcz_ref.data import so2sat
from bplcz_ref.encoders import ebcnn, exvit
from bplcz_ref.report import figures, plots
from bplcz_ref.streams import stream
from bplcz_ref.training import train

TINY = systems.SMALL._replace(
    width=1,
    features=4,
    grid=16,
    text_width=8,
    text_layers=1,
    text_heads=1,
    epochs=2,
    per_class=2,
    test=60,
    batch=17,
)
IDS = [name for name, _ in paper.CLASSES]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """136 patches whose classes differ in brightness; class G is rare in what is left for the test part."""
    path = tmp_path_factory.mktemp("data") / "patches.h5"
    rng = np.random.default_rng(0)
    y = np.concatenate([np.repeat(np.arange(17), 2), rng.permutation(np.resize(np.arange(16), 100)), [16, 16]])
    sen2 = rng.uniform(0.1, 0.2, (136, 32, 32, 10)) + 0.02 * y[:, None, None, None]
    sen1 = np.abs(rng.normal(0, 0.2, (136, 32, 32, 8)))
    so2sat.write_file(path, 136, [(sen1, sen2, y)], {"simulated": True})
    return path


@pytest.fixture(scope="module")
def runs(data, tmp_path_factory):
    """Two complete runs: EB-CNN, EB-CNN (BP-LCZ)."""
    out = tmp_path_factory.mktemp("runs")
    for system in ("ebcnn", "ebcnn-bplcz"):
        train.train(out / system, data, system, TINY, say=lambda line: None)
    return [out / "ebcnn", out / "ebcnn-bplcz"]


@pytest.fixture
def drawn(monkeypatch):
    """The Figures that are saved, in order, instead of files."""
    pytest.importorskip("matplotlib")
    kept = []
    monkeypatch.setattr(figures, "save", lambda figure, path: kept.append(figure) or path)
    return kept


def copied(run, folder, **changes):
    """A run folder copied, with other settings, system or data in its config.json."""
    shutil.copytree(run, folder)
    config = files.read_json(folder / "config.json")
    for name, value in changes.items():
        place = config if name in config else config["settings"]
        place[name] = value
    files.write_json(folder / "config.json", config)
    return folder


def words(figure):
    """All text in a figure."""
    import matplotlib.text

    return "\n".join(text.get_text() for text in figure.findobj(matplotlib.text.Text))


# ---------------------------------------------------------------------------------- Eq. (9) in evaluation mode


def moved(made, dtype):
    """Parameters and a state that is no longer the initial one."""
    params, state = made.init(stream(47, "init"), np.dtype(dtype))
    x = np.random.default_rng(1).standard_normal((5, 32, 32, 18)).astype(dtype)
    for _ in range(3):
        state = made.loss(params, state, (x, np.arange(5)), rng=np.random.default_rng(2))[1]["state"]
    return params, state, x


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_fused_is_what_the_classifier_sees_in_evaluation(dtype):
    made = systems.build("ebcnn-bplcz", TINY)
    params, state, x = moved(made, dtype)
    I = made.fused(params, state, x)
    assert I.shape == (5, 7 * TINY.features)
    assert I.dtype == dtype
    c_hat = nn.linear(I, params["classifier"]["weight"], params["classifier"]["bias"])
    assert np.array_equal(c_hat, made.apply(params, state, x, train=False)[0])
    in_training = made.loss(params, state, (x, np.arange(5)))[1]["I"]
    assert np.abs(I - in_training).max() > 1e-3 * np.abs(I).max()  # training mode would be seen


def test_fused_has_the_groups_in_the_papers_order():
    encoders = {group: ebcnn.encoder(len(i), width=1, features=3) for group, i in bands.INDEX.items()}
    made = model.bplcz(encoders, nn.dense(21, 17))
    params, state, x = moved(made, "float64")
    I = made.fused(params, state, x)
    parts = bands.split(*bands.separate(x))
    for k, group in enumerate(paper.GROUPS):
        alone, _ = encoders[group].apply(
            params["branches"][group], state["branches"][group], parts[group], train=False
        )
        assert np.abs(I[:, 3 * k : 3 * k + 3] - alone).max() < 1e-14


def test_fused_of_reading_b_are_the_contrastive_vectors():
    settings = TINY._replace(reading="B")
    made = systems.build("exvit-bplcz", settings)
    params, state = made.init(stream(47, "init"), np.dtype("float64"))
    x = np.random.default_rng(1).standard_normal((2, 32, 32, 18))
    I = made.fused(params, state, x)
    assert I.shape == (2, 7 * settings.features)
    parts, size = bands.split(*bands.separate(x)), systems.SMALL_EXVIT
    first = exvit.tokens(len(bands.INDEX["RGB"]), grid=16, size=size)
    z, _ = first.apply(
        params["branches"]["RGB"] | params["shared"], state["branches"]["RGB"], parts["RGB"], train=False
    )
    I_rgb, _ = exvit.vector(settings.features, size).apply(params["vectors"]["RGB"], {}, z, train=False)
    assert np.abs(I[:, : settings.features] - I_rgb).max() < 1e-12
    without_text = exvit_bplcz.reading_b(settings.features, grid=settings.grid, size=size)
    params, state = without_text.init(stream(47, "init"), np.dtype("float64"))
    with pytest.raises(ValueError, match="no I_i to fuse"):
        without_text.fused(params, state, x)


def test_a_network_of_all_bands_fuses_nothing():
    assert systems.build("resnet50", TINY).fused is None
    assert systems.build("exvit", TINY).fused is None


# ------------------------------------------------------------------------------------------- confusion matrix

C = np.random.default_rng(3).integers(0, 9, (17, 17)) * (np.arange(17)[:, None] != 6)  # no sample of class 7
C[0, :2], C[16, 0], C[0, 16] = (300, 40), 0, 7


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
    columns = [label.get_text() for label in axes.get_xticklabels()]
    rows = [label.get_text().split()[-1] for label in axes.get_yticklabels()]
    upright = axes.yaxis_inverted() and not axes.xaxis_inverted()
    words = (axes.get_xlabel(), axes.get_ylabel()) == ("predicted class", "true class")
    return columns == rows == IDS and upright and words


def test_the_matrix_is_drawn_as_it_is():
    pytest.importorskip("matplotlib")
    figure = plots.confusion(C, "EB-CNN")
    assert shows(figure, C)
    right = [label.get_text() for label in figure.axes[0].child_axes[0].get_yticklabels()]
    assert right[0] == f"{100 * 300 / C[0].sum():.0f} % of {C[0].sum()}"
    assert right[6] == "no sample"
    across, down = figure.axes[0].lines
    assert list(across.get_ydata()) == list(down.get_xdata()) == [9.5, 9.5]  # between class 10 and class A
    assert "built types\nland cover types" in words(figure)


def test_wrong_matrices_are_seen():
    """A transposed matrix, shares of the columns or of all, and swapped names must not pass as C."""
    pytest.importorskip("matplotlib")
    assert not shows(plots.confusion(C.T, "EB-CNN"), C)
    for wrong in (C / np.maximum(C.sum(axis=0), 1), C / C.sum(), C / C.max()):
        figure = plots.confusion(C, "EB-CNN")
        figure.axes[0].images[0].set_data(wrong)
        assert not shows(figure, C)
    figure = plots.confusion(C, "EB-CNN")
    figure.axes[0].set_xticks(range(17), [*map(str, range(1, 18))])
    assert not shows(figure, C)


def test_the_title_and_the_note_by_hand():
    """200 samples: 90 + 60 right, 20 wrong within built, 10 within land cover, 20 across."""
    pytest.importorskip("matplotlib")
    D = np.zeros((17, 17), int)
    D[0, 0], D[0, 9], D[0, 10] = 90, 20, 10
    D[16, 16], D[16, 10], D[16, 9] = 60, 10, 10
    text = words(plots.confusion(D, "EB-CNN (BP-LCZ), SIMULATED data"))
    # pe = (120 * 90 + 80 * 60) / 200^2 = .39, kappa = (.75 - .39) / .61 = .590164
    # evenly: (30 * 9 + 20 * 6) / 16 = 24.4 of 50
    assert "EB-CNN (BP-LCZ), SIMULATED data: OA 75.00 %, kappa 59.02 % on 200 test samples" in text
    assert "Of 50 errors, 60 % stay within" in text
    assert "49 % would if the errors of each class fell evenly on the 16 others" in text
    assert "No errors." in words(plots.confusion(np.eye(17, dtype=int), "EB-CNN"))
    one_class = np.diag([0] * 16 + [5])
    assert "OA 100.00 %, kappa undefined % on 5 test samples" in words(plots.confusion(one_class, "EB-CNN"))


def test_within_types_against_pairs_one_by_one():
    within = wrong = even = 0
    for j in range(17):
        for k in range(17):
            if j != k:
                wrong += C[j, k]
                within += C[j, k] * ((j < 10) == (k < 10))
                even += C[j, k] * sum(1 for m in range(17) if m != j and (m < 10) == (j < 10)) / 16
    assert plots.within_types(C) == pytest.approx((within / wrong, even / wrong), rel=1e-12)


def test_confusion_of_a_run(runs, drawn, tmp_path):
    assert figures.confusion(runs[1], tmp_path / "fig2") == tmp_path / "fig2.png"
    counts = np.loadtxt(runs[1] / "confusion.csv", delimiter=",", skiprows=1, usecols=range(1, 18), dtype=int)
    assert counts.sum() == 60
    assert shows(drawn[0], counts)
    result = files.read_json(runs[1] / "metrics.json")
    assert f"EB-CNN (BP-LCZ), SIMULATED data: OA {100 * result['overall_accuracy']:.2f} %" in words(drawn[0])


def test_simulated_is_said_only_of_simulated_data(runs, drawn, tmp_path):
    real = files.read_json(runs[0] / "config.json")["data"] | {"simulated": False}
    figures.confusion(copied(runs[0], tmp_path / "real", data=real), tmp_path / "a.png")
    assert "SIMULATED" not in words(drawn[0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text.replace("truth \\ predicted", "predicted \\ truth"), "expected the header"),
        (lambda text: text.replace("\n2,", "\nX,"), "expected the header"),
        (lambda text: text.rsplit("\n", 2)[0], "expected the header"),
        (lambda text: text.replace("\n2,", "\n2,-"), "must hold counts"),
        (lambda text: text.replace("\n2,", "\n2,0.5"), "invalid literal"),
        (lambda text: text.replace("\n2,", "\n2,1,"), "confusion.csv"),
        (lambda text: "", "expected the header"),
    ],
)
def test_a_damaged_confusion_matrix_is_named(runs, tmp_path, change, message):
    text = (runs[0] / "confusion.csv").read_text(encoding="utf-8")
    (tmp_path / "confusion.csv").write_text(change(text), encoding="utf-8")
    with pytest.raises(ValueError, match=message) as error:
        figures.read_confusion(tmp_path)
    assert str(tmp_path / "confusion.csv") in str(error.value)


# ------------------------------------------------------------------------------------------------------- t-SNE


def test_tsne_shows_the_same_test_samples_of_each_run(runs, data, drawn, tmp_path, monkeypatch):
    pytest.importorskip("sklearn")
    seen, embedding = [], figures.embedding

    def spy(seed):
        embed = embedding(seed)
        return lambda I: seen.append((I, embed(I))) or seen[-1][1]

    monkeypatch.setattr(figures, "embedding", spy)
    figures.tsne(runs, data, tmp_path / "a.png", per_class=3, seed=5)
    with so2sat.open_file(data) as patches:
        test = train.parts(patches, TINY)[1]
        rows = figures.sample(patches.labels, test, 3, 5)
        x = [train.batch(patches, rows, train.load(run).statistics, "float32")[0] for run in runs]
        y = patches.labels[rows]
    for k, (run, (I, points)) in enumerate(zip(runs, seen, strict=True)):
        trained = train.load(run)
        whole = trained.network.fused(trained.params, trained.state, x[k])
        assert np.abs(I - whole).max() < 1e-5 * np.abs(whole).max()
        for scatter in drawn[0].axes[k].collections:
            c = IDS.index(scatter.get_label().split()[0])
            assert np.array_equal(scatter.get_offsets(), points[y == c])
            assert scatter.get_label() == f"{IDS[c]}  {paper.CLASSES[c][1]} ({(y == c).sum()})"
        assert len(drawn[0].axes[k].collections) == len(set(y.tolist()))
    text = words(drawn[0])
    assert "(a) EB-CNN, SIMULATED data" in text
    assert "(b) EB-CNN (BP-LCZ), SIMULATED data" in text
    assert f"{len(rows)} samples of the test part: 3 of each class, or all where there are fewer." in text
    figures.tsne(runs[:1], data, tmp_path / "a.png", per_class=3, seed=5)
    assert np.array_equal(seen[0][1], seen[2][1])  # the same picture again
    assert "(a)" not in words(drawn[1])


def test_samples_are_of_the_test_part_and_no_more_than_asked(data):
    with so2sat.open_file(data) as patches:
        training, test = train.parts(patches, TINY)
        labels = patches.labels
    rows = figures.sample(labels, test, 3, 47)
    assert len(set(rows)) == len(rows)
    assert set(rows) <= set(test)
    assert not set(rows) & set(training)
    available = np.bincount(labels[test], minlength=17)
    assert available[16] < 3 < available.max()
    assert np.bincount(labels[rows], minlength=17).tolist() == np.minimum(available, 3).tolist()
    assert figures.sample(labels, test, 3, 48).tolist() != rows.tolist()
    with pytest.raises(ValueError, match="per_class is 0"):
        figures.sample(labels, test, 0, 47)


def test_neighbours_against_a_loop():
    rng = np.random.default_rng(0)
    I, y = rng.standard_normal((30, 4)), rng.integers(0, 3, 30)
    same, chance = [], []
    for j in range(30):
        others = sorted((m for m in range(30) if m != j), key=lambda m: float(np.sum((I[j] - I[m]) ** 2)))
        same.append(sum(y[m] == y[j] for m in others[:10]) / 10)
        chance.append(sum(y[m] == y[j] for m in others) / 29)
    found = figures.neighbours(I, y)
    assert found == pytest.approx((np.mean(same), np.mean(chance), 10), rel=1e-12)
    assert figures.neighbours(I[:5], y[:5]).k == 4


def test_runs_that_cannot_stand_side_by_side_are_named(runs, data, tmp_path):
    pytest.importorskip("matplotlib")
    pytest.importorskip("sklearn")
    other_seed = copied(runs[1], tmp_path / "seed", seed=48)
    with pytest.raises(ValueError, match="another test part than"):
        figures.tsne([runs[0], other_seed], data, tmp_path / "a.png")
    other_data = copied(runs[1], tmp_path / "data", data={"path": "b.h5", "labels": "0", "simulated": True})
    with pytest.raises(ValueError, match=r"was trained on b.h5.*has other labels"):
        figures.tsne([runs[0], other_data], data, tmp_path / "a.png")
    all_bands = copied(runs[1], tmp_path / "all", system="resnet50")
    with pytest.raises(ValueError, match="resnet50 takes all bands at once"):
        figures.tsne([runs[0], all_bands], data, tmp_path / "a.png")
    assert not (tmp_path / "a.png").exists()


def test_few_samples_get_a_smaller_perplexity():
    assert figures.perplexity(1190) == 30
    assert figures.perplexity(31) == 10


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


# ------------------------------------------------------------------------------------------------------ curves


def test_curves_are_the_log(runs, drawn, tmp_path):
    figures.curves(runs, tmp_path / "a.png")
    panels = drawn[0].axes
    assert len(panels) == 4
    rows = [train.read_log(run) for run in runs]
    for axes, name, scale in ((panels[0], "L_cls", 1), (panels[1], "training_accuracy", 100)):
        assert [line.get_label() for line in axes.lines] == [
            "EB-CNN, SIMULATED data",
            "EB-CNN (BP-LCZ), SIMULATED data",
        ]
        for line, log in zip(axes.lines, rows, strict=True):
            assert list(line.get_xdata()) == [1, 2]
            assert line.get_ydata().tolist() == pytest.approx([scale * row[name] for row in log], rel=1e-12)
    floors = [train.floor("ebcnn-bplcz", TINY, row["positive_fraction"]) for row in rows[1]]
    expected = {
        (2, "-"): [row["L_con"] for row in rows[1]],
        (2, "--"): floors,
        (3, "-"): [row["S_positive"] for row in rows[1]],
        (3, "--"): [row["S_negative"] for row in rows[1]],
    }
    for (k, style), values in expected.items():
        (line,) = [line for line in panels[k].lines if line.get_linestyle() == style]
        assert list(line.get_ydata()) == pytest.approx(values, rel=1e-12)
    assert floors[0] == pytest.approx(
        theory.expected_optimum(1.75, 17, rows[1][0]["positive_fraction"]).L_con, rel=1e-12
    )
    keys = [[text.get_text() for text in panels[k].get_legend().get_texts()] for k in (2, 3)]
    assert keys[0][0] == "$L_{con}$"
    assert keys[1] == ["pairs of one class", "pairs of two classes"]


def test_without_prompting_there_are_two_panels(runs, drawn, tmp_path):
    figures.curves(runs[0], tmp_path / "a.png")
    assert len(drawn[0].axes) == 2


def test_an_epoch_without_negatives_is_a_gap(drawn):
    row = {
        "epoch": 1,
        "L_cls": 1.0,
        "L_con": 0.5,
        "training_accuracy": 0.5,
        "S_positive": -1.0,
        "S_negative": None,
    }
    figure = plots.curves([plots.Curve("a", [row, row | {"epoch": 2, "S_negative": -2.0}], [0.1, 0.1])])
    (line,) = [line for line in figure.axes[3].lines if line.get_linestyle() == "--"]
    assert np.isnan(line.get_ydata()[0])
    assert line.get_ydata()[1] == -2.0


def test_curves_of_an_interrupted_run_and_of_none(runs, drawn, tmp_path):
    begun = copied(runs[0], tmp_path / "begun")
    (begun / "metrics.json").unlink()
    (begun / "log.jsonl").write_text(json.dumps(train.read_log(runs[0])[0]) + "\n", encoding="utf-8")
    figures.curves(begun, tmp_path / "a.png")
    assert len(drawn[0].axes[0].lines[0].get_ydata()) == 1
    (begun / "log.jsonl").unlink()
    with pytest.raises(ValueError, match="has no epoch yet"):
        figures.curves(begun, tmp_path / "a.png")


def test_runs_of_one_system_are_told_apart(runs, drawn, tmp_path):
    other = copied(runs[0], tmp_path / "other", seed=48)
    same = copied(runs[0], tmp_path / "same")
    figures.curves([runs[0], other, same, runs[0]], tmp_path / "a.png")
    names = [line.get_label() for line in drawn[0].axes[0].lines]
    assert names == [
        f"EB-CNN, seed 47, {runs[0]}, SIMULATED data",
        "EB-CNN, seed 48, SIMULATED data",
        f"EB-CNN, seed 47, {same}, SIMULATED data",
    ]


def test_settings_of_another_version_are_named(runs, tmp_path):
    config = files.read_json(runs[0] / "config.json")
    del config["settings"]["grid"]
    with pytest.raises(ValueError, match="settings differ from this one's in grid: train it again"):
        train.settings_of(runs[0], config)


def test_the_matrix_of_a_run_of_another_version_is_still_drawn(runs, tmp_path):
    pytest.importorskip("sklearn")
    pytest.importorskip("matplotlib")
    old, written = copied(runs[0], tmp_path / "old"), []
    config = files.read_json(old / "config.json")
    del config["settings"]["grid"]
    files.write_json(old / "config.json", config)
    missing = figures.write(old, tmp_path / "out", say=written.append)
    assert written == [str(tmp_path / "out" / "confusion-ebcnn.png")]
    assert [line.split(":")[0] for line in missing] == ["no curves.png", "no tsne.png"]
    assert all("train it again" in line for line in missing)


# ------------------------------------------------------------------------------------------------ files, command


def test_report_writes_all_figures(runs, data, tmp_path, capsys):
    pytest.importorskip("sklearn")
    pytest.importorskip("matplotlib")
    out = tmp_path / "out"
    assert command_line.main(["report", *map(str, runs), "--out", str(out)]) == 0  # the file from config.json
    printed = capsys.readouterr().out
    names = ["confusion-ebcnn.png", "confusion-ebcnn-bplcz.png", "curves.png", "tsne.png"]
    assert sorted(path.name for path in out.iterdir()) == sorted(names)
    assert all(str(out / name) in printed for name in names)
    assert printed.count("on 60 SIMULATED samples") == 2
    assert all((out / name).read_bytes().startswith(b"\x89PNG\r\n") for name in names)


def test_report_makes_what_it_can(runs, tmp_path, capsys):
    pytest.importorskip("sklearn")
    pytest.importorskip("matplotlib")
    moved = files.read_json(runs[0] / "config.json")["data"] | {"path": str(tmp_path / "gone.h5")}
    begun = copied(runs[0], tmp_path / "begun", data=moved)
    for name in ("metrics.json", "confusion.csv"):
        (begun / name).unlink()
    out = tmp_path / "out"
    assert command_line.main(["report", str(begun), "--out", str(out)]) == 1
    errors = capsys.readouterr().err.splitlines()
    assert [path.name for path in out.iterdir()] == ["curves.png"]
    assert len(errors) == 2
    assert "it appears when the run is complete" in errors[0]
    assert "gone.h5, on which" in errors[1]
    assert command_line.main(["report", str(tmp_path / "nothing")]) == 2


def test_report_has_help(capsys):
    with pytest.raises(SystemExit):
        command_line.main(["report", "--help"])
    assert "python -m bplcz_ref report" in capsys.readouterr().out


def test_figures_of_one_system_do_not_overwrite_each_other(runs, tmp_path):
    pytest.importorskip("matplotlib")
    other = copied(runs[0], tmp_path / "ebcnn", system="resnet50")
    again = copied(runs[0], tmp_path / "again", system="resnet50", seed=48)
    written = []
    missing = figures.write([other, again], tmp_path / "out", say=written.append)
    assert missing == ["no tsne.png: none of these systems fuses band groups by Eq. (9)"]
    names = ["confusion-resnet50-seed-47.png", "confusion-resnet50-seed-48.png", "curves.png"]
    assert written == [str(tmp_path / "out" / name) for name in names]


def test_without_matplotlib_one_line_names_the_extra(runs, data, tmp_path, monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    missing = figures.write(runs, tmp_path, data)
    assert len(missing) == 1
    assert "figures need matplotlib" in missing[0]
    assert 'pip install "bplcz-ref[report]"' in missing[0]
    assert not list(tmp_path.iterdir())
    for draw in (lambda: figures.confusion(runs[0], "a.png"), lambda: figures.tsne(runs, data, "a.png")):
        with pytest.raises(ValueError, match="figures need matplotlib"):
            draw()


def test_without_scikit_learn_the_rest_is_drawn(runs, data, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    monkeypatch.setitem(sys.modules, "sklearn.manifold", None)
    missing = figures.write(runs[:1], tmp_path, data, say=lambda line: None)
    assert len(missing) == 1
    assert "no tsne.png: t-SNE needs scikit-learn" in missing[0]
    assert "bplcz-ref[report]" in missing[0]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["confusion-ebcnn.png", "curves.png"]


@pytest.mark.parametrize(("ending", "start"), [(".pdf", b"%PDF"), (".svg", b"<?xml"), (".PNG", b"\x89PNG")])
def test_the_ending_decides_the_format(runs, tmp_path, ending, start):
    pytest.importorskip("matplotlib")
    path = figures.curves(runs[0], tmp_path / f"a{ending}")
    assert path.read_bytes().startswith(start)


def test_an_unknown_ending_is_named(runs, tmp_path):
    pytest.importorskip("matplotlib")
    with pytest.raises(ValueError, match=r"a\.bmp: no figure ends in '\.bmp'; expected one of .*pdf.*png"):
        figures.curves(runs[0], tmp_path / "a.bmp")


def test_a_failed_write_keeps_the_old_figure(runs, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    from matplotlib.figure import Figure

    (tmp_path / "a.png").write_bytes(b"old")

    def full(self, path, **options):
        path.write_bytes(b"\x89PNG half")
        raise OSError("no space left on device")

    monkeypatch.setattr(Figure, "savefig", full)
    with pytest.raises(OSError, match="no space"):
        figures.curves(runs[0], tmp_path / "a.png")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("a.png", b"old")]


def test_pyplot_is_never_touched(runs, tmp_path):
    pytest.importorskip("matplotlib")
    code = "import sys; from bplcz_ref.report import figures\n"
    code += "assert 'matplotlib' not in sys.modules\n"
    code += f"figures.confusion({str(runs[0])!r}, {str(tmp_path / 'a.png')!r})\n"
    code += f"figures.curves({str(runs[0])!r}, {str(tmp_path / 'b.png')!r})\n"
    code += "assert 'matplotlib' in sys.modules and 'matplotlib.pyplot' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr

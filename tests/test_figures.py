"""figures.py and model.fused: what is drawn is what was measured, and simulated data says so."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from drawings import IDS, shows, words
from small import TINY, copied

from bplcz_ref import __main__ as command_line
from bplcz_ref import bands, files, layers, model, nn, paper, systems
from bplcz_ref.data import so2sat, standardise
from bplcz_ref.encoders import ebcnn, exvit
from bplcz_ref.report import figures, plots
from bplcz_ref.streams import stream
from bplcz_ref.training import evaluate, split
from bplcz_ref.training import runs as folders


@pytest.fixture
def drawn(monkeypatch):
    """The Figures that are saved, in order, instead of files."""
    pytest.importorskip("matplotlib")
    kept = []
    monkeypatch.setattr(figures, "save", lambda figure, path: kept.append(figure) or path)
    return kept


# ---------------------------------------------------------------------------------- Eq. (9) in evaluation mode


def moved(made, dtype):
    """Parameters and a state that is no longer the initial one."""
    params, state = made.init(stream(47, "init"), np.dtype(dtype))
    x = np.random.default_rng(1).standard_normal((5, 32, 32, 18)).astype(dtype)
    for _ in range(3):
        state = made.loss(params, state, (x, np.arange(5)), rng=np.random.default_rng(2))[1]["state"]
    return params, state, x


@pytest.mark.slow
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
    made = model.bplcz(encoders, layers.linear(21, 17))
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
    without_text = systems.exvit_bplcz("B", settings.features, grid=settings.grid, size=size)
    params, state = without_text.init(stream(47, "init"), np.dtype("float64"))
    with pytest.raises(ValueError, match="no I_i to fuse"):
        without_text.fused(params, state, x)


def test_a_network_of_all_bands_fuses_nothing():
    assert systems.build("resnet50", TINY).fused is None
    assert systems.build("exvit", TINY).fused is None


# ------------------------------------------------------------------------------------------- confusion matrix


@pytest.mark.slow
def test_confusion_of_a_run(runs, drawn, tmp_path):
    assert figures.confusion_figure(runs[1], tmp_path / "fig2") == tmp_path / "fig2.png"
    counts = np.loadtxt(runs[1] / "confusion.csv", delimiter=",", skiprows=1, usecols=range(1, 18), dtype=int)
    assert counts.sum() == 40
    assert shows(drawn[0], counts)
    result = files.read_json(runs[1] / "metrics.json")
    text = words(drawn[0])
    assert "EB-CNN (BP-LCZ), SIMULATED data, random split" in text
    assert f"OA {100 * result['overall_accuracy']:.2f} %" in text


@pytest.mark.slow
def test_simulated_is_said_only_of_simulated_data(runs, drawn, tmp_path):
    real = copied(runs[0], tmp_path / "real", data={"simulated": False})
    figures.confusion_figure(real, tmp_path / "a.png")
    assert "SIMULATED" not in words(drawn[0])


# ------------------------------------------------------------------------------------------------------- t-SNE


@pytest.mark.slow
def test_tsne_shows_the_same_test_samples_of_each_run(runs, small_file, drawn, tmp_path, monkeypatch):
    pytest.importorskip("sklearn")
    seen, embedding = [], figures.embedding

    def spy(seed):
        embed = embedding(seed)
        return lambda I: seen.append((I, embed(I))) or seen[-1][1]

    monkeypatch.setattr(figures, "embedding", spy)
    figures.tsne_figure(runs, small_file, tmp_path / "a.png", per_class=3, seed=5)
    with so2sat.open_file(small_file) as patches:
        test = split.parts(patches, TINY)[1]
        rows = figures.sample(patches.labels, test, 3, 5)
        x = [standardise.standardise(patches.images(rows), evaluate.load(run).statistics) for run in runs]
        y = patches.labels[rows]
    for k, (run, (I, points)) in enumerate(zip(runs, seen, strict=True)):
        trained = evaluate.load(run)
        whole = trained.network.fused(trained.params, trained.state, x[k])
        assert np.abs(I - whole).max() < 1e-5 * np.abs(whole).max()
        for scatter in drawn[0].axes[k].collections:
            c = IDS.index(scatter.get_label().split()[0])
            assert np.array_equal(scatter.get_offsets(), points[y == c])
            assert scatter.get_label() == f"{IDS[c]}  {paper.CLASSES[c][1]} ({(y == c).sum()})"
        assert len(drawn[0].axes[k].collections) == len(set(y.tolist()))
    text = " ".join(words(drawn[0]).split())
    assert "(a) EB-CNN, SIMULATED data" in text
    assert "(b) EB-CNN (BP-LCZ), SIMULATED data" in text
    assert f"{len(rows)} samples of the test part: 3 of each class, or all where there are fewer." in text
    figures.tsne_figure(runs[:1], small_file, tmp_path / "a.png", per_class=3, seed=5)
    assert np.array_equal(seen[0][1], seen[2][1])  # the same picture again
    assert "(a)" not in words(drawn[1])


def test_samples_are_of_the_test_part_and_no_more_than_asked(small_file):
    with so2sat.open_file(small_file) as patches:
        training, test = split.parts(patches, TINY)
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


@pytest.mark.slow
def test_runs_that_cannot_be_compared_are_named(runs, small_file, drawn, tmp_path, monkeypatch):
    monkeypatch.setattr(figures, "embedding", lambda seed: None)  # not reached; scikit-learn takes long to import
    parts = files.read_json(runs[1] / "config.json")["data"]["split"] | {"test_rows": "0" * 64}
    other_seed = copied(runs[1], tmp_path / "seed", data={"split": parts})
    with pytest.raises(ValueError, match="another test part than"):
        figures.tsne_figure([runs[0], other_seed], small_file, tmp_path / "a.png")
    other_data = copied(runs[1], tmp_path / "data", data={"path": "b.h5", "labels": "0" * 64})
    with pytest.raises(ValueError, match=r"was tested on b.h5, and .* is another file"):
        figures.tsne_figure([runs[0], other_data], small_file, tmp_path / "a.png")
    all_bands = copied(runs[1], tmp_path / "all", system="resnet50")
    with pytest.raises(ValueError, match="resnet50 takes all bands at once"):
        figures.tsne_figure([runs[0], all_bands], small_file, tmp_path / "a.png")
    assert not drawn


# ------------------------------------------------------------------------------------------------------ curves


@pytest.mark.slow
def test_curves_are_the_log(runs, drawn, tmp_path):
    figures.curves_figure(runs, tmp_path / "a.png")
    panels = drawn[0].axes
    assert len(panels) == 6
    assert not panels[5].axison  # the legend's place
    rows = [folders.read_log(run) for run in runs]
    for axes, name, scale in ((panels[0], "L_cls", 1), (panels[1], "training_accuracy", 100)):
        assert [line.get_label() for line in axes.lines] == [
            "EB-CNN, SIMULATED data, random split",
            "EB-CNN (BP-LCZ), SIMULATED data, random split",
        ]
        for line, log in zip(axes.lines, rows, strict=True):
            assert list(line.get_xdata()) == [1, 2]
            assert line.get_ydata().tolist() == pytest.approx([scale * row[name] for row in log], rel=1e-12)
    expected = {
        (2, "-"): [row["L_con"] for row in rows[1]],
        (2, "--"): [row["L_con_floor"] for row in rows[1]],
        (3, "-"): [row["S_positive"] for row in rows[1]],
        (3, "--"): [row["S_negative"] for row in rows[1]],
        (4, "-"): [row["S_positive"] - row["S_negative"] for row in rows[1]],
    }
    for (k, style), values in expected.items():
        (line,) = [line for line in panels[k].lines if line.get_linestyle() == style]
        assert list(line.get_ydata()) == pytest.approx(values, rel=1e-12)
    keys = [[text.get_text() for text in panels[k].get_legend().get_texts()] for k in (2, 3)]
    assert keys[0][0] == "$L_{con}$"
    assert keys[1] == ["pairs of one class", "pairs of two classes"]


@pytest.mark.slow
def test_without_prompting_there_are_two_panels(runs, drawn, tmp_path):
    figures.curves_figure(runs[0], tmp_path / "a.png")
    assert len(drawn[0].axes) == 2


def test_curves_of_an_interrupted_run_and_of_none(runs, drawn, tmp_path):
    begun = copied(runs[0], tmp_path / "begun")
    (begun / "metrics.json").unlink()
    (begun / "log.jsonl").write_text(json.dumps(folders.read_log(runs[0])[0]) + "\n", encoding="utf-8")
    figures.curves_figure(begun, tmp_path / "a.png")
    assert len(drawn[0].axes[0].lines[0].get_ydata()) == 1
    (begun / "log.jsonl").unlink()
    with pytest.raises(ValueError, match="has no epoch yet"):
        figures.curves_figure(begun, tmp_path / "a.png")


def test_runs_of_one_system_are_told_apart(runs, drawn, tmp_path):
    other = copied(runs[0], tmp_path / "other", seed=48)
    same = copied(runs[0], tmp_path / "same")
    figures.curves_figure([runs[0], other, same, runs[0]], tmp_path / "a.png")
    names = [line.get_label() for line in drawn[0].axes[0].lines]
    assert names == [
        f"EB-CNN, seed 47, {runs[0]}, SIMULATED data, random split",
        "EB-CNN, seed 48, SIMULATED data, random split",
        f"EB-CNN, seed 47, {same}, SIMULATED data, random split",
    ]


# ------------------------------------------------------------------------------------------------ files, command


@pytest.mark.slow
def test_report_writes_all_figures(runs, small_file, tmp_path, capsys):
    pytest.importorskip("sklearn")
    pytest.importorskip("matplotlib")
    out = tmp_path / "out"
    assert command_line.main(["report", *map(str, runs), "--out", str(out)]) == 0  # the file from config.json
    printed = capsys.readouterr().out
    names = ["confusion-ebcnn.png", "confusion-ebcnn-bplcz.png", "curves.png", "tsne.png"]
    assert sorted(path.name for path in out.iterdir()) == sorted(names)
    assert all(str(out / name) in printed for name in names)
    assert printed.count("on 40 SIMULATED samples, random split") == 2
    assert all((out / name).read_bytes().startswith(b"\x89PNG\r\n") for name in names)


@pytest.mark.slow
def test_report_draws_no_other_file_than_was_asked_for(runs, plain, small_file, tmp_path, capsys):
    """The figures show the test part of the run's own file, so another --data is refused; its copy is not."""
    out = tmp_path / "out"
    with pytest.raises(ValueError, match="and .*plain.h5 is another file; figures show a run's own test part"):
        figures.write_figures(runs[0], out, plain[0])
    assert command_line.main(["report", str(runs[0]), "--data", str(plain[0]), "--out", str(out)]) == 2
    assert not capsys.readouterr().out
    with pytest.raises(ValueError, match="plain.h5 is another file"):
        figures.tsne_figure(runs[0], plain[0], out / "a.png")
    assert not out.exists()
    shutil.copy(small_file, tmp_path / "copy.h5")
    figures.check_data([runs[0]], [folders.read_config(runs[0])], tmp_path / "copy.h5")


def test_the_root_folder_is_refused(runs, capsys):
    pytest.importorskip("matplotlib")
    assert command_line.main(["report", str(runs[0]), "--out", "/"]) == 2
    assert "/ is the root folder of the system; name a folder" in capsys.readouterr().err


@pytest.mark.slow
def test_report_makes_what_it_can(runs, tmp_path, capsys):
    pytest.importorskip("sklearn")
    pytest.importorskip("matplotlib")
    begun = copied(runs[0], tmp_path / "begun", data={"path": str(tmp_path / "gone.h5")})
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


@pytest.mark.slow
def test_figures_of_one_system_do_not_overwrite_each_other(runs, tmp_path):
    pytest.importorskip("matplotlib")
    other = copied(runs[0], tmp_path / "ebcnn", system="resnet50")
    again = copied(runs[0], tmp_path / "again", system="resnet50", seed=48)
    written = []
    missing = figures.write_figures([other, again], tmp_path / "out", say=written.append)
    assert not missing
    names = ["confusion-resnet50-seed-47.png", "confusion-resnet50-seed-48.png", "curves.png"]
    paths = [str(tmp_path / "out" / name) for name in names]
    assert written == [*paths, "no tsne.png: none of these systems fuses band groups by Eq. (9)"]
    assert command_line.main(["report", str(other), "--out", str(tmp_path / "again")]) == 0  # nothing failed


def test_without_matplotlib_one_line_says_what_to_install(runs, small_file, tmp_path, monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    missing = figures.write_figures(runs, tmp_path, small_file)
    assert len(missing) == 1
    assert "figures need matplotlib" in missing[0]
    assert plots.EXTRA in missing[0]
    assert not list(tmp_path.iterdir())
    for draw in (
        lambda: figures.confusion_figure(runs[0], "a.png"),
        lambda: figures.tsne_figure(runs, small_file, "a.png"),
    ):
        with pytest.raises(ValueError, match="figures need matplotlib"):
            draw()


@pytest.mark.slow
def test_without_scikit_learn_the_rest_is_drawn(runs, small_file, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    monkeypatch.setitem(sys.modules, "sklearn.manifold", None)
    missing = figures.write_figures(runs[:1], tmp_path, small_file, say=lambda line: None)
    assert len(missing) == 1
    assert "no tsne.png: t-SNE needs scikit-learn" in missing[0]
    assert plots.EXTRA in missing[0]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["confusion-ebcnn.png", "curves.png"]


@pytest.mark.slow
@pytest.mark.parametrize(("ending", "start"), [(".pdf", b"%PDF"), (".svg", b"<?xml"), (".PNG", b"\x89PNG")])
def test_the_ending_decides_the_format(runs, tmp_path, ending, start):
    pytest.importorskip("matplotlib")
    path = figures.curves_figure(runs[0], tmp_path / f"a{ending}")
    assert path.read_bytes().startswith(start)


def test_an_unknown_ending_is_named(runs, tmp_path):
    pytest.importorskip("matplotlib")
    with pytest.raises(ValueError, match=r"a\.bmp: no figure ends in '\.bmp'; expected one of .*pdf.*png"):
        figures.curves_figure(runs[0], tmp_path / "a.bmp")


def test_a_failed_write_keeps_the_old_figure(runs, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    from matplotlib.figure import Figure

    (tmp_path / "a.png").write_bytes(b"old")

    def full(self, path, **options):
        path.write_bytes(b"\x89PNG half")
        raise OSError("no space left on device")

    monkeypatch.setattr(Figure, "savefig", full)
    with pytest.raises(ValueError, match=r"a\.png cannot be written \(no space"):
        figures.curves_figure(runs[0], tmp_path / "a.png")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("a.png", b"old")]


@pytest.mark.slow
def test_pyplot_is_never_touched(runs, tmp_path):
    pytest.importorskip("matplotlib")
    code = "import sys; from bplcz_ref.report import figures\n"
    code += "assert 'matplotlib' not in sys.modules\n"
    code += f"figures.confusion_figure({str(runs[0])!r}, {str(tmp_path / 'a.png')!r})\n"
    code += f"figures.curves_figure({str(runs[0])!r}, {str(tmp_path / 'b.png')!r})\n"
    code += "assert 'matplotlib' in sys.modules and 'matplotlib.pyplot' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr

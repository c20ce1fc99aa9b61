"""register.py: parts of a user's own through training, tables, report, evaluation and the command line."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from small import TINY, quiet

import bplcz_ref
from bplcz_ref import __main__ as command_line
from bplcz_ref import layers, register, systems, variants
from bplcz_ref.data import so2sat
from bplcz_ref.report import figures, pages
from bplcz_ref.training import evaluate, runs, tables, train

EXAMPLE = Path(__file__).parent.parent / "examples" / "own_loss_and_encoder.py"
FIRST = layers.Network(layers.nothing, lambda params, state, x, *, train, rng=None: (x[..., :1], state))
FOCAL = TINY._replace(contrastive="focal", epochs=1)


@pytest.fixture
def own(monkeypatch):
    """Whatever a test registers is gone after it, and a file may be imported again."""
    for registry in (variants.VARIANTS, systems.SYSTEMS, systems.ENCODERS, systems.NETWORKS):
        for name in ("focal", "tiny-bplcz", "mlp"):
            monkeypatch.setitem(registry, name, None)  # noted: it is removed at the end
            del registry[name]
    monkeypatch.setattr(register, "imported", [])


@pytest.mark.long
def test_the_example_runs_as_it_stands():
    here = os.environ | {"PYTHONPATH": str(EXAMPLE.parent.parent)}
    done = subprocess.run([sys.executable, EXAMPLE], env=here, capture_output=True, text=True, check=True)
    assert "% on 100 SIMULATED samples" in done.stdout
    assert "epoch 4/4" in done.stderr


@pytest.mark.slow
def test_parts_of_a_user_s_own_go_through_everything(own, small_file, tmp_path, capsys):
    """Refused before the file is imported, then trained, reported, used; one line when it is not registered."""
    run = tmp_path / "run"
    command = ["train", "--data", str(small_file), "--system", "tiny-bplcz", "--out", str(run), "--epochs", "1"]
    command += ["--set", "contrastive=focal", "features=4", "per_class=2", "test=40"]
    command += ["text_width=8", "text_layers=1"]
    assert command_line.main(command) == 2
    assert "contrastive is 'focal'; expected one of paper" in capsys.readouterr().err
    assert command_line.main([*command, "--import", str(EXAMPLE)]) == 0
    assert "40 SIMULATED samples" in capsys.readouterr().out
    assert train.resume(run, epochs=2, say=quiet)["last_epoch"]["epoch"] == 2
    assert str(evaluate.load(run).network).startswith("<tiny-bplcz: Tiny (BP-LCZ) of preset small, features 4")
    x = np.random.default_rng(0).uniform(0.01, 1, (2, 32, 32, 18))
    assert bplcz_ref.classify(run, x[..., :8], x[..., 8:])[1].shape == (2, 17)
    (shown,) = figures.labelled([run])
    assert shown.label == f"Tiny (BP-LCZ), run {run.name}, SIMULATED data, random split"
    assert systems.fuses("tiny-bplcz")
    page = pages.tables_markdown({"tiny-bplcz": [runs.read_metrics(run)]}, 0.0)
    assert "## Not in the paper" in page
    assert "| Tiny (BP-LCZ) |                 - |" in page
    for registry, name in ((systems.SYSTEMS, "tiny-bplcz"), (variants.VARIANTS, "focal")):
        part = registry.pop(name)
        for load in (evaluate.load, train.resume, runs.read_metrics):
            with pytest.raises(ValueError, match=rf"is '{name}', which is not registered: import .*--import"):
                load(run)
        registry[name] = part


@pytest.mark.long
def test_workers_of_a_table_import_the_same_files(own, small_file, tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "step_seconds", lambda name, settings: 1.0)
    register.import_file(EXAMPLE)
    results = tables.tables(small_file, tmp_path, ["tiny-bplcz"], [47, 48], FOCAL, workers=2, say=quiet)
    assert len(results["tiny-bplcz"]) == 2


def test_a_network_of_all_channels(own, small_file, tmp_path):
    def mlp(settings):
        return layers.serial(layers.spatial_mean, ("fc", layers.linear(18, 17)))

    register.network("mlp", mlp)
    assert train.train(tmp_path, small_file, "mlp", TINY, say=quiet)["parameters"] == 18 * 17 + 17
    with pytest.raises(ValueError, match="takes all bands at once"):
        evaluate.fused(evaluate.load(tmp_path), None, np.arange(2))
    register.network("mlp", lambda settings: layers.serial(layers.spatial_mean, ("fc", layers.linear(18, 5))))
    with pytest.raises(ValueError, match=r"the network mlp gives shape \(16, 5\); expected \(B, 17\)"):
        train.train(tmp_path / "wrong", small_file, "mlp", TINY, say=quiet)


def test_an_encoder_without_parameters_or_statistics_comes_back_from_its_file(own, small_file, tmp_path):
    first = layers.serial(layers.spatial_mean, FIRST)
    register.encoder("tiny-bplcz", lambda channels, settings: first, prompting=False)
    with pytest.raises(ValueError, match=r"the encoder of tiny-bplcz gives shape \(16, 1\); expected \(B, 4\)"):
        train.train(tmp_path / "wrong", small_file, "tiny-bplcz", TINY, say=quiet)
    train.train(tmp_path, small_file, "tiny-bplcz", TINY._replace(features=1, epochs=1), say=quiet)
    with so2sat.open_file(small_file) as patches:
        assert evaluate.confusion(evaluate.load(tmp_path), patches, np.arange(9)).sum() == 9
    assert train.resume(tmp_path, epochs=2, say=quiet)["last_epoch"]["epoch"] == 2


@pytest.mark.parametrize("name", ["ebcnn", "paper", "none", "a b", "", "../x", "a,b", "a=b"])
def test_names_that_are_taken_or_no_names(own, name):
    with pytest.raises(ValueError, match="is a part of the package|is no name"):
        register.encoder(name, None) if name == "ebcnn" else register.loss(name, None)


@pytest.mark.parametrize(
    ("code", "message"),
    [("x = 1\nx.y\n", "mine.py, line 2: AttributeError: 'int'"), ("def f(:\n", "mine.py: SyntaxError: invalid"),
     ("import no_such_module", "mine.py, line 1: ModuleNotFoundError"), (None, "mine.py: there is no such file")],
)  # fmt: skip
def test_a_file_that_cannot_be_imported_is_named(own, tmp_path, capsys, code, message):
    path = tmp_path / "mine.py"
    if code is not None:
        path.write_text(code)
    with pytest.raises(ValueError, match=message):
        register.import_file(path)
    with pytest.raises(SystemExit):
        command_line.main(["evaluate", "run", "--data", "x.h5", "--import", str(path)])
    assert f"argument --import: {path}" in capsys.readouterr().err

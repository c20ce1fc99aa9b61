"""tables.py and systems.py: nine rows through one code path, resumed after kills, the same on every executor."""

import csv
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from bplcz_ref import equations, files, model, systems, weights
from bplcz_ref.data import simulate
from bplcz_ref.streams import stream
from bplcz_ref.training import tables

TINY = systems.SMALL._replace(
    width=1,
    features=4,
    grid=16,
    text_width=8,
    text_layers=1,
    text_heads=1,
    epochs=2,
    per_class=2,
    test=20,
    batch=17,
)
NAMES = ["densenet121", "ebcnn", "ebcnn-bplcz"]


def quiet(line):
    pass


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "simulated.h5"
    simulate.write_file(path, per_class=2, rows=30, seed=5)
    return path


@pytest.fixture(scope="module")
def alone(data, tmp_path_factory):
    """The table of one process."""
    out = tmp_path_factory.mktemp("tables") / "alone"
    text = tables.tables(data, out, NAMES, [47, 48], TINY, say=quiet)
    return out, text


def bits(out):
    """Every checkpoint of a table without the seconds it took, and every figure."""
    found = {}
    for path in sorted(out.glob("*/seed-*/checkpoint.npz")):
        with np.load(path, allow_pickle=False) as file:
            found[str(path.relative_to(out))] = {n: v.tobytes() for n, v in file.items() if n != "sums"}
    for path in sorted(out.glob("*/seed-*/metrics.json")):
        found[str(path.relative_to(out))] = files.read_json(path)["overall_accuracy"]
    return found


@pytest.mark.parametrize("name", systems.SYSTEMS)
def test_each_system_takes_a_step(name):
    """At reduced sizes: a finite loss, gradients for every parameter, and a prediction."""
    made = systems.build(name, TINY)
    params, state = made.init(stream(0, "init"), np.dtype("float32"))
    x = np.random.default_rng(0).standard_normal((4, 32, 32, 18)).astype(np.float32)
    y = np.array([0, 3, 3, 16])
    L, gradients, trace = model.loss_and_gradients(made.loss, params, state, (x, y), rng=stream(0, "dropout"))
    assert np.isfinite(L)
    assert L.dtype == np.float32
    assert set(weights.named(gradients)) == set(weights.named(params))
    assert {np.asarray(g).dtype for g in weights.named(gradients).values()} == {np.dtype(np.float32)}
    assert ("L_con" in trace) == systems.SYSTEMS[name].prompting
    assert made.apply(params, trace["state"], x, train=False)[0].shape == (4, 17)


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("resnet50", 23589905),
        ("resnext50", 23061777),
        ("convnext", 27856241),
        ("densenet121", 7018321),
        ("exvit", 230022),
        ("ebcnn", 2534609),
    ],
)
def test_published_sizes(name, count):
    params, _ = systems.build(name, systems.PAPER).init(stream(0, "init"), np.dtype("float32"))
    assert weights.count(params) == count


@pytest.mark.parametrize("name", [name for name, system in systems.SYSTEMS.items() if system.prompting])
def test_settings_and_rows_reach_the_loss(name):
    """alpha, beta and the supervised matrix of each row, at values that are nobody's default."""
    made = systems.build(name, TINY._replace(alpha=0.4, beta=0.5))
    params, state = made.init(stream(0, "init"), np.dtype("float64"))
    x, y = np.random.default_rng(0).standard_normal((4, 32, 32, 18)), np.array([0, 3, 3, 16])
    L, trace = made.loss(params, state, (x, y), rng=stream(0, "dropout"))
    assert np.allclose(trace["S"], 0.4 * sum(trace["S_i"].values()), rtol=1e-12)
    assert np.isclose(L, trace["L_cls"] + 0.5 * trace["L_con"], rtol=1e-12)
    W = np.eye(4) if name == "ebcnn-bgp" else (y[:, None] == y).astype(float)
    assert np.isclose(trace["L_i2t"], equations.bce(trace["S"], W), rtol=1e-12)
    assert np.array_equal(trace["W"], W)


def test_dropout_does_not_depend_on_the_number_of_threads(monkeypatch):
    """Each branch draws from a stream of its own, so timing cannot change the masks."""
    made = systems.build("exvit-bplcz", TINY)
    params, state = made.init(stream(0, "init"), np.dtype("float32"))
    x, y = np.random.default_rng(0).standard_normal((4, 32, 32, 18)).astype("f4"), np.array([0, 3, 3, 16])
    values = set()
    for threads in ("1", "2", "1", "2", "2"):
        monkeypatch.setenv("BPLCZ_THREADS", threads)
        values.add(float(model.loss_and_gradients(made.loss, params, state, (x, y), rng=stream(0, "dropout"))[0]))
    assert len(values) == 1
    other = model.loss_and_gradients(made.loss, params, state, (x, y), rng=stream(1, "dropout"))[0]
    assert float(other) not in values


def test_exvit_bplcz_by_both_readings():
    small_text = {"text_layers": 1, "text_width": 64, "text_heads": 1}
    for reading, count in (("A", 945724), ("B", 685622)):
        made = systems.build("exvit-bplcz", systems.PAPER._replace(reading=reading, **small_text))
        params, _ = made.init(stream(0, "init"), np.dtype("float32"))
        image = {part: tree for part, tree in params.items() if part not in ("text", "vectors")}
        assert weights.count(image) == count
    with pytest.raises(ValueError, match="reading is 'C'"):
        systems.build("exvit-bplcz", systems.PAPER._replace(reading="C"))


def test_the_tables_say_what_they_are(alone):
    out, text = alone
    assert (out / "tables.md").read_text(encoding="utf-8") == text + "\n"
    assert "SIMULATED" in text
    assert re.search(r"EB-CNN \(BP-LCZ\)\s*\|\s*86.69 \|\s*85.40 \|\s*[\d.]+ ± [\d.]+", text)
    assert "only from the real 52 GB file" in text
    assert "python -m bplcz_ref tables --data training.h5 --preset paper" in text
    with open(out / "tables.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["system"] for row in rows] == [name for name in NAMES for _ in range(2)]
    assert float(rows[0]["paper_kappa"]) == 0.6168


def test_a_complete_table_is_not_trained_again(alone, data):
    out, text = alone
    before = {path: path.stat().st_mtime_ns for path in out.glob("*/*/checkpoint.npz")}
    said = []
    tables.tables(data, out, NAMES, [47, 48], TINY, say=said.append)
    assert "6 runs" in said[0]
    assert "6 complete already" in said[0]
    assert before == {path: path.stat().st_mtime_ns for path in out.glob("*/*/checkpoint.npz")}


def test_a_killed_worker_process_changes_nothing(alone, data, tmp_path):
    victims = []

    def kill():
        wait_for(lambda: any(tmp_path.glob("*/*/config.json")))
        child = multiprocessing.active_children()[0]
        child.kill()
        victims.append(child.pid)

    watcher = threading.Thread(target=kill)
    watcher.start()
    said = []
    tables.tables(data, tmp_path, NAMES, [47, 48], TINY, workers=2, say=said.append)
    watcher.join()
    assert victims
    assert any("go on from their checkpoints" in line for line in said)
    assert bits(tmp_path) == bits(alone[0])


def test_an_unreadable_file_is_said_by_the_worker(tmp_path):
    with pytest.raises(ValueError, match=r"worker .* cannot read .*missing.h5: the data path"):
        tables.one_run(str(tmp_path / "run"), str(tmp_path / "missing.h5"), "ebcnn", TINY._asdict())
    with pytest.raises(ValueError, match="missing.h5: no such file"):
        tables.tables(tmp_path / "missing.h5", tmp_path, ["ebcnn"], [47], TINY, say=quiet)


def test_a_failed_run_is_named_and_costs_no_other(data, tmp_path, monkeypatch):
    def one(run, *arguments):
        if "densenet121" in run:
            raise ValueError("the loss became nan")
        return real(run, *arguments)

    real = tables.one_run
    monkeypatch.setattr(tables, "one_run", one)
    said = []
    with pytest.raises(ValueError, match=r"1 of 2 runs failed, .*\n  densenet121, seed 47: the loss became nan"):
        tables.tables(data, tmp_path, ["densenet121", "ebcnn"], [47], TINY, say=said.append)
    assert (tmp_path / "ebcnn" / "seed-47" / "metrics.json").exists()
    assert any("densenet121, seed 47: failed: the loss became nan" in line for line in said)


class Dying(tables.Inline):
    """A pool in which every worker dies before it has done anything."""

    rounds = 0

    def submit(self, function, /, *arguments, **options):
        future = tables.Future()
        future.set_exception(tables.BrokenProcessPool("killed"))
        return future

    def restart(self):
        self.rounds += 1


def test_a_table_gives_up_only_when_nothing_comes_further(tmp_path):
    pool, jobs = Dying(), {("ebcnn", 47): (str(tmp_path / "run"),)}
    with pytest.raises(ValueError, match="died 3 times and no run came further; left: ebcnn seed 47"):
        tables.finished(pool, jobs, quiet)
    assert pool.rounds == 2


def test_dask_with_a_killed_worker_gives_the_same_table(alone, data, tmp_path):
    """A real scheduler and two worker processes on this machine; one dies in mid-run."""
    pytest.importorskip("distributed")
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1", "BPLCZ_THREADS": "1"}
    address = tmp_path / "scheduler.json"  # any free port: the scheduler writes its address here
    log = open(tmp_path / "dask.log", "w")  # noqa: SIM115
    options = {"env": environment, "stdout": log, "stderr": log, "cwd": tmp_path}
    common = ["--scheduler-file", str(address), "--no-dashboard"]
    scheduler = ["-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", "0", *common]
    worker = ["-m", "distributed.cli.dask_worker", "--nthreads", "1", "--no-nanny", *common]
    processes = [subprocess.Popen([sys.executable, *scheduler], **options)]
    wait_for(address.exists)
    processes += [subprocess.Popen([sys.executable, *worker], **options) for _ in range(2)]
    out = tmp_path / "out"
    stop = threading.Thread(
        target=lambda: (wait_for(lambda: any(out.glob("*/*/config.json"))), processes[1].kill())
    )
    try:
        stop.start()
        where = files.read_json(address)["address"]
        tables.tables(data, out, NAMES, [47, 48], TINY, dask=where, say=quiet)
        stop.join()
        assert processes[1].wait(timeout=30) == -signal.SIGKILL
        assert bits(out) == bits(alone[0])
    finally:
        for process in processes:
            process.kill()
        log.close()


def wait_for(condition, seconds=120):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and not condition():
        time.sleep(0.01)

"""tables.py: resumed after kills, failures named, the same on every executor."""

import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import pytest
from small import NAMES, TINY, bits, quiet

from bplcz_ref import files
from bplcz_ref.training import runs, tables

SEEDS = [47, 48]  # 47 is compared with the table of one process


def job(run, system="ebcnn", data="x.h5"):
    return tables.Job(str(run), str(data), system, TINY)


def test_the_estimate_of_a_run(monkeypatch):
    """Of 17 classes 3 samples each twice, and 30 test samples at a third: 112 samples, 28 steps of 4."""
    monkeypatch.setattr(tables, "step_seconds", lambda name, settings: 2.0)
    settings = TINY._replace(per_class=3, epochs=2, test=30, batch=4)
    assert tables.run_seconds("ebcnn", settings) == 56
    assert tables.run_seconds("ebcnn", settings, training=10) == 15


def same_bits(out, table):
    """Whether the runs of `table` are in `out` too, and all are complete."""
    assert all(runs.complete(out / name / f"seed-{seed}") for name in NAMES for seed in SEEDS)
    return all(bits(run) == bits(out / run.relative_to(table[0])) for run in table[0].glob("*/seed-47"))


def test_results_are_those_of_the_run_folders(table):
    out, results = table
    assert list(results) == NAMES
    assert results == {name: [runs.read_metrics(out / name / "seed-47")] for name in NAMES}
    assert [r["system"] for of_seeds in results.values() for r in of_seeds] == NAMES


def test_a_complete_table_is_not_trained_again(table, small_file, tmp_path):
    out, results = table
    shutil.copytree(out, tmp_path, dirs_exist_ok=True)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/*/checkpoint.npz")}
    said = []
    assert tables.tables(small_file, tmp_path, NAMES, [47], TINY, say=said.append) == results
    assert "2 runs" in said[0]
    assert "2 complete already" in said[0]
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/*/checkpoint.npz")}


def test_a_job_trains_with_sizes_that_are_settled(small_file, monkeypatch):
    """A size that is the preset's own number would otherwise count as not chosen, and give way to a test file."""
    asked = []
    monkeypatch.setattr(tables, "train", lambda *a, **options: asked.append((a, options)))
    tables.one_run(tables.Job("run", str(small_file), "ebcnn", TINY, "a row", "t.h5", "g.h5"))
    ((arguments, options),) = asked
    assert arguments == ("run", str(small_file), "ebcnn", TINY)
    assert options == {"given": ("per_class", "test"), "test_data": "t.h5", "geo": "g.h5", "say": None}


@pytest.mark.slow
def test_a_setting_is_varied(table, small_file, tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "step_seconds", lambda name, settings: 1.0)
    vary = ("contrastive", ["paper", "none"])
    results = tables.tables(small_file, tmp_path, ["ebcnn-bplcz"], [47], TINY, vary=vary, say=quiet)
    assert list(results) == ["ebcnn-bplcz, contrastive paper", "ebcnn-bplcz, contrastive none"]
    assert bits(tmp_path / "ebcnn-bplcz" / "contrastive=paper" / "seed-47") == bits(
        table[0] / NAMES[1] / "seed-47"
    )
    (none,) = results["ebcnn-bplcz, contrastive none"]
    assert none["last_epoch"]["L_con"] is None
    with pytest.raises(ValueError, match="seed is not varied"):
        tables.tables(small_file, tmp_path, NAMES, [47], TINY, vary=("seed", [1, 2]), say=quiet)


@pytest.mark.slow
def test_a_killed_worker_process_changes_nothing(table, small_file, tmp_path):
    victims, before = [], dict(os.environ)

    def kill():
        wait_for(lambda: any(tmp_path.glob("*/*/config.json")))
        child = multiprocessing.active_children()[0]
        child.kill()
        victims.append(child.pid)

    watcher = threading.Thread(target=kill)
    watcher.start()
    said = []
    tables.tables(small_file, tmp_path, NAMES, SEEDS, TINY, workers=2, say=said.append)
    watcher.join()
    assert victims
    assert any("go on from their checkpoints" in line for line in said)
    assert same_bits(tmp_path, table)
    assert dict(os.environ) == before


PARENT = """
import json, sys
from bplcz_ref import systems
from bplcz_ref.training import tables
if __name__ == "__main__":
    settings = systems.Settings(**json.loads(sys.argv[3]))
    tables.tables(sys.argv[1], sys.argv[2], ["ebcnn", "ebcnn-bplcz"], [47, 48], settings, workers=2)
"""


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc/self/environ"), reason="SIGKILL, /proc")
def test_workers_end_with_a_killed_parent_and_a_second_start_works(table, small_file, tmp_path):
    """The workers are found by the environment that they inherit; the run itself would take far longer."""
    script, out = tmp_path / "table.py", tmp_path / "out"
    script.write_text(PARENT)
    mark = f"TABLE_OF_THIS_TEST={os.getpid()}-{time.monotonic_ns()}"
    environment = os.environ | dict([mark.split("=")])
    settings = TINY._replace(epochs=200)
    command = [sys.executable, str(script), str(small_file), str(out), json.dumps(settings._asdict())]
    parent = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
    try:
        wait_for(lambda: len(list(out.glob("*/*/checkpoint.npz"))) >= 2)
        assert len(living(mark)) >= 3
        parent.kill()
        killed = time.monotonic()
        parent.wait()
        with pytest.MonkeyPatch.context() as patch:  # a second start, at once
            patch.setattr(tables, "step_seconds", lambda name, settings: 1.0)
            patch.setattr(
                tables, "in_this_process", lambda jobs, note, say: [note(j, locked_once(j)) for j in jobs]
            )
            assert tables.tables(small_file, out, NAMES, SEEDS, settings, say=quiet)
        wait_for(lambda: not living(mark), seconds=20)
        assert time.monotonic() - killed < 10
    finally:
        for process in living(mark):
            os.kill(int(process), signal.SIGKILL)


def locked_once(job):
    with files.alone(job.run):
        return {}


def living(mark):
    """The processes with this entry in their environment."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            state = (process / "stat").read_text().rsplit(") ", 1)[1][0]
            if state != "Z" and mark.encode() in (process / "environ").read_bytes().split(b"\0"):
                found.append(process.name)
        except OSError:
            continue
    return found


@pytest.mark.skipif(os.name != "posix", reason="links of POSIX")
def test_a_loop_of_links_is_no_data_file(tmp_path):
    (tmp_path / "a.h5").symlink_to("b.h5")
    (tmp_path / "b.h5").symlink_to("a.h5")
    with pytest.raises(ValueError, match=r"[ab]\.h5"):
        tables.tables(tmp_path / "a.h5", tmp_path / "out", ["ebcnn"], [47], TINY, say=quiet)
    assert not (tmp_path / "out").exists()


def test_an_unreadable_file_is_said_by_the_worker(tmp_path):
    with pytest.raises(ValueError, match=r"worker .* cannot read .*missing.h5: the data path"):
        tables.one_run(job(tmp_path / "run", data=tmp_path / "missing.h5"))
    with pytest.raises(ValueError, match="missing.h5: there is no such file"):
        tables.tables(tmp_path / "missing.h5", tmp_path, ["ebcnn"], [47], TINY, say=quiet)


def test_a_failed_run_is_named_and_costs_no_other(tmp_path, monkeypatch):
    def one_run(job, say):
        if job.system == "densenet121":
            raise ValueError("the loss became nan")
        return {}

    monkeypatch.setattr(tables, "one_run", one_run)
    said, jobs = [], [job(tmp_path / name, name) for name in ("densenet121", "ebcnn")]
    with pytest.raises(ValueError, match=r"1 of 2 runs failed, .*\n  densenet121, seed 47: the loss became nan"):
        tables.run_all(jobs, 1, None, said.append)
    assert "densenet121, seed 47: failed: the loss became nan" in said[0]
    assert "ebcnn, seed 47: done" in said[1]


def test_a_table_gives_up_only_when_nothing_makes_progress(tmp_path, monkeypatch):
    """In pools whose workers die at once; the first death comes after a checkpoint was written."""
    pools = []

    class Dying:
        def __init__(self, workers, mp_context, initializer):
            pools.append(self)
            if len(pools) == 1:
                (tmp_path / "checkpoint.npz").touch()

        def submit(self, function, job):
            future = Future()
            future.set_exception(BrokenProcessPool("killed"))
            return future

        def shutdown(self, wait, cancel_futures):
            pass

    monkeypatch.setattr(tables, "ProcessPoolExecutor", Dying)
    with pytest.raises(ValueError, match="died 3 times and no run made progress; left: ebcnn, seed 47"):
        tables.run_all([job(tmp_path)], 2, None, quiet)
    assert len(pools) == 1 + tables.TRIES


@pytest.mark.slow
def test_dask_with_a_killed_worker_gives_the_same_table(table, small_file, tmp_path):
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
        tables.tables(small_file, out, NAMES, SEEDS, TINY, dask=where, say=quiet)
        stop.join()
        assert processes[1].wait(timeout=30) == -signal.SIGKILL
        assert same_bits(out, table)
    finally:
        for process in processes:
            process.kill()
        log.close()


def wait_for(condition, seconds=120):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and not condition():
        time.sleep(0.01)

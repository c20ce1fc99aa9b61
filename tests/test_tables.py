"""tables.py: resumed after interruptions and kills, failures named, the same on every executor."""

import contextlib
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from small import NAMES, TINY, bits, quiet

from bplcz_ref import files, nn
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


def same_bits(out, table, seeds=SEEDS):
    """Whether the runs of `table` are in `out` too, and all are complete."""
    assert all(runs.complete(out / name / f"seed-{seed}") for name in NAMES for seed in seeds)
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


def test_any_executor_gives_the_same_table(table, small_file, tmp_path):
    with ThreadPoolExecutor(1) as pool:
        assert (
            tables.tables(small_file, tmp_path, NAMES, [47], TINY, executor=pool, say=quiet).keys()
            == table[1].keys()
        )
    assert same_bits(tmp_path, table, [47])


@pytest.mark.long
def test_a_killed_worker_process_costs_a_second_start(table, small_file, tmp_path):
    def kill():
        wait_for(lambda: any(tmp_path.glob("*/*/config.json")))
        multiprocessing.active_children()[0].kill()

    watcher, before = threading.Thread(target=kill), dict(os.environ)
    watcher.start()
    with pytest.raises(ValueError, match="a worker died, .*: the same command goes on from here"):
        tables.tables(small_file, tmp_path, NAMES, SEEDS, TINY, workers=2, say=quiet)
    watcher.join()
    assert dict(os.environ) == before
    tables.tables(small_file, tmp_path, NAMES, SEEDS, TINY, workers=2, say=quiet)
    assert same_bits(tmp_path, table)


def test_workers_share_the_cores_that_this_process_may_use(monkeypatch):
    monkeypatch.setattr(nn, "thread_count", lambda: 6)
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    with tables.cores_shared_by(2):
        assert {os.environ[name] for name in tables.THREAD_LIMITS} == {"3"}


PARENT = """
import json, sys
from bplcz_ref import systems
from bplcz_ref.training import tables
def main():
    settings = systems.Settings(**json.loads(sys.argv[3]))
    tables.tables(sys.argv[1], sys.argv[2], ["ebcnn", "ebcnn-bplcz"], [47, 48], settings, workers=2)
"""
GUARD = "if __name__ == '__main__':\n    "


@contextlib.contextmanager
def started(script, small_file, out, **settings):
    """(a process with a table of long runs, the mark by which its workers are found) in a group of their own."""
    path = out.parent / "table.py"
    path.write_text(script)
    mark = f"TABLE_OF_THIS_TEST={os.getpid()}-{time.monotonic_ns()}"
    command = [
        sys.executable,
        str(path),
        str(small_file),
        str(out),
        json.dumps(TINY._replace(**settings)._asdict()),
    ]
    here = os.environ | dict([mark.split("=")]) | {"PYTHONPATH": str(Path(__file__).parent.parent)}
    options = {"env": here, "stderr": subprocess.PIPE, "start_new_session": True}
    parent = subprocess.Popen(command, text=True, **options)
    try:
        yield parent, mark
    finally:
        for process in living(mark):
            os.kill(int(process), signal.SIGKILL)


@pytest.mark.long
@pytest.mark.skipif(not os.path.exists("/proc/self/environ"), reason="workers are found in /proc")
@pytest.mark.parametrize("how", ["Ctrl-C", "an interruption of the parent", "a kill of the parent"])
def test_workers_end_with_their_table_at_once(small_file, tmp_path, how, monkeypatch):
    """Their run folders are free then: a second start, at once, works."""
    out, settings = tmp_path / "out", TINY._replace(epochs=200)
    with started(f"{PARENT}\n{GUARD}main()\n", small_file, out, epochs=200) as (parent, mark):
        wait_for(lambda: len(list(out.glob("*/*/checkpoint.npz"))) >= 2)
        assert len(living(mark)) >= 3
        ended = time.monotonic()
        if how == "Ctrl-C":
            os.killpg(parent.pid, signal.SIGINT)
        else:
            parent.send_signal(signal.SIGKILL if "kill" in how else signal.SIGINT)
        parent.communicate(timeout=20)
        monkeypatch.setattr(tables, "step_seconds", lambda name, settings: 1.0)
        monkeypatch.setattr(tables, "one_run", lambda job, say: locked_once(job))
        assert tables.tables(small_file, out, NAMES, SEEDS, settings, say=quiet)
        wait_for(lambda: not living(mark), seconds=20)
        assert not living(mark)
        assert time.monotonic() - ended < 20


@pytest.mark.long
def test_a_script_without_a_main_guard_is_told_so(small_file, tmp_path):
    with started(f"{PARENT}\nmain()\n", small_file, tmp_path / "out") as (parent, _):
        _, error = parent.communicate(timeout=120)
    assert "each worker imports this script: put what it does under\nif __name__ == '__main__':" in error
    assert "a worker died" in error.splitlines()[-1]
    assert len(error.splitlines()) < 40


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
        tables.run_all(jobs, None, said.append)
    assert "densenet121, seed 47: failed: the loss became nan" in said[0]
    assert "ebcnn, seed 47: done" in said[1]


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
        with tables.on_dask(where) as executor:
            tables.tables(small_file, out, NAMES, SEEDS, TINY, executor=executor, say=quiet)
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

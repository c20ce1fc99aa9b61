"""training/tables.py: resumed after interruptions and kills, failures named, the same on every executor."""

import contextlib
import itertools
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

from bplcz_ref import nn
from bplcz_ref.storage import files
from bplcz_ref.training import runs, tables

SEEDS = [47, 48]  # 47 is compared with the table of one process


def job(run, system="ebcnn", data="x.h5"):
    return tables.Job(system, str(run), str(data), system, TINY)


def same_bits(out, table):
    """Whether the runs of `table` are in `out` too, and all are complete."""
    assert all(runs.complete(out / name / f"seed-{seed}") for name in NAMES for seed in SEEDS)
    return all(bits(run) == bits(out / run.relative_to(table[0])) for run in table[0].glob("*/seed-47"))


def wait_for(condition, seconds=120):
    """Whether the condition came true in time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and not condition():
        time.sleep(0.01)
    return condition()


def test_the_estimate_of_a_run(monkeypatch):
    """Of 17 classes 3 samples each twice, and 30 test samples at a third: 112 samples, 28 steps of 4."""
    monkeypatch.setattr(tables, "step_seconds", lambda name, settings: 2.0)
    settings = TINY._replace(per_class=3, epochs=2, test=30, batch=4)
    assert tables.run_seconds("ebcnn", settings) == 56
    assert tables.run_seconds("ebcnn", settings, training=10) == 15


def test_a_complete_table_is_that_of_its_run_folders_and_not_trained_again(table, small_file, tmp_path):
    out, results = table
    assert list(results) == NAMES
    assert results == {name: [runs.read_metrics(out / name / "seed-47")] for name in NAMES}
    shutil.copytree(out, tmp_path, dirs_exist_ok=True)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/*/checkpoint.npz")}
    said = []
    assert tables.tables(small_file, tmp_path, NAMES, [47], TINY, say=said.append) == results
    assert said[0] == f"2 runs in {tmp_path}, 2 complete already"
    assert said[1].endswith("seed-47: complete already, not trained again")
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/*/checkpoint.npz")}


@pytest.mark.slow
def test_a_setting_is_varied(table, small_file, tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "step_seconds", lambda name, settings: 1.0)
    vary = ("contrastive", ["paper", "none"])
    results = tables.tables(small_file, tmp_path, ["ebcnn-bplcz"], [47], TINY, vary=vary, say=quiet)
    assert list(results) == ["ebcnn-bplcz, contrastive paper", "ebcnn-bplcz, contrastive none"]
    first = tmp_path / "ebcnn-bplcz" / "contrastive=paper" / "seed-47"
    assert bits(first) == bits(table[0] / NAMES[1] / "seed-47")
    (none,) = results["ebcnn-bplcz, contrastive none"]
    assert none["last_epoch"]["L_con"] is None
    with pytest.raises(ValueError, match="seed is not varied"):
        tables.tables(small_file, tmp_path, NAMES, [47], TINY, vary=("seed", [1, 2]), say=quiet)


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


def test_an_unreadable_file_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"worker .* cannot read .*missing.h5: every worker must see the data"):
        tables.one_run(job(tmp_path / "run", data=tmp_path / "missing.h5"))
    with pytest.raises(ValueError, match="missing.h5: there is no such file"):
        tables.tables(tmp_path / "missing.h5", tmp_path / "out", ["ebcnn"], [47], TINY, say=quiet)
    assert not (tmp_path / "out").exists()


# -------------------------------------------------------------------------------------------------- executors


@pytest.mark.slow
def test_any_executor_gives_the_same_table(table, small_file, tmp_path):
    """In folders without seeds, as run_small.py has them."""
    with ThreadPoolExecutor(1) as pool:
        found = tables.tables(small_file, tmp_path, NAMES, [47], TINY, executor=pool, by_seed=False, say=quiet)
    assert list(found) == NAMES
    assert all(bits(tmp_path / name) == bits(table[0] / name / "seed-47") for name in NAMES)


def test_workers_share_the_cores_and_the_last_runs_those_of_workers_that_have_none(
    small_file, tmp_path, monkeypatch
):
    threads, before = [], dict(os.environ)

    def run_all(jobs, pool, say):
        assert {os.environ[name] for name in tables.THREAD_LIMITS} == {"2"}
        threads.extend(job.threads for job in jobs)
        return {job: {} for job in jobs}

    monkeypatch.setattr(tables, "run_all", run_all)
    monkeypatch.setattr(tables, "step_seconds", lambda name, settings: 1.0)
    monkeypatch.setattr(nn, "thread_count", lambda: 6)
    tables.tables(small_file, tmp_path, ["ebcnn"], range(47, 52), TINY, workers=3, say=quiet)
    assert threads == [None, None, None, 3, 3]
    assert dict(os.environ) == before


@pytest.mark.long
def test_a_killed_worker_process_costs_a_second_start(table, small_file, tmp_path):
    def kill():
        wait_for(lambda: any(tmp_path.glob("*/*/config.json")))
        multiprocessing.active_children()[0].kill()

    watcher = threading.Thread(target=kill)
    watcher.start()
    with pytest.raises(ValueError, match="a worker died, .*: the same command goes on from here"):
        tables.tables(small_file, tmp_path, NAMES, SEEDS, TINY, workers=2, say=quiet)
    watcher.join()
    tables.tables(small_file, tmp_path, NAMES, SEEDS, TINY, workers=2, say=quiet)
    assert same_bits(tmp_path, table)


PARENT = """
import json, sys
from bplcz_ref import systems
from bplcz_ref.training import tables
def main():
    settings = systems.Settings(**json.loads(sys.argv[3]))
    tables.tables(sys.argv[1], sys.argv[2], ["ebcnn", "ebcnn-bplcz"], [47, 48], settings, workers=2)
"""


@contextlib.contextmanager
def started(last_line, small_file, out, settings):
    """A process in a group of its own with a table of two workers; the group is killed at the end."""
    path = out.parent / "table.py"
    path.write_text(f"{PARENT}\n{last_line}\n")
    command = [sys.executable, str(path), str(small_file), str(out), json.dumps(settings._asdict())]
    here = os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent)}
    options = {"env": here, "stderr": subprocess.PIPE, "text": True, "start_new_session": True}
    with subprocess.Popen(command, **options) as parent:
        try:
            yield parent
        finally:
            with contextlib.suppress(OSError):
                os.killpg(parent.pid, signal.SIGKILL) if os.name == "posix" else parent.kill()


@pytest.mark.long
@pytest.mark.skipif(os.name != "posix", reason="signals and locks of POSIX")
@pytest.mark.parametrize("how", ["Ctrl-C", "an interruption of the parent", "a kill of the parent"])
def test_workers_end_with_their_table_at_once(small_file, tmp_path, how):
    """Their run folders are free then, so that a second start, at once, works."""
    out, settings = tmp_path / "out", TINY._replace(epochs=200)
    with started("if __name__ == '__main__': main()", small_file, out, settings) as parent:
        assert wait_for(lambda: len(list(out.glob("*/*/checkpoint.npz"))) >= 2)
        if how == "Ctrl-C":
            os.killpg(parent.pid, signal.SIGINT)
        else:
            parent.send_signal(signal.SIGKILL if "kill" in how else signal.SIGINT)
        parent.wait(timeout=20)
        for name, seed in itertools.product(NAMES, SEEDS):
            with files.alone(out / name / f"seed-{seed}"):
                assert not runs.complete(out / name / f"seed-{seed}")
        assert wait_for(lambda: gone(parent.pid), seconds=20)


def gone(group):
    """Whether no process of a group is left."""
    try:
        os.killpg(group, 0)
    except OSError:
        return True
    return False


@pytest.mark.long
def test_a_script_without_a_main_guard_is_told_so(small_file, tmp_path):
    with started("main()", small_file, tmp_path / "out", TINY) as parent:
        _, error = parent.communicate(timeout=120)
    assert "each worker imports this script: put what it does under\nif __name__ == '__main__':" in error
    assert "a worker died" in error.splitlines()[-1]
    assert len(error.splitlines()) < 40


@pytest.mark.long
def test_dask_with_a_killed_worker_gives_the_same_table(table, small_file, tmp_path):
    """A real scheduler and two worker processes on this machine; one dies in mid-run."""
    pytest.importorskip("distributed")
    address = tmp_path / "scheduler.json"  # any free port: the scheduler writes its address here
    common = ["--scheduler-file", str(address), "--no-dashboard"]
    scheduler = ["-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", "0", *common]
    worker = ["-m", "distributed.cli.dask_worker", "--nthreads", "1", "--no-nanny", *common]
    out, processes = tmp_path / "out", []
    with open(tmp_path / "dask.log", "w") as log, contextlib.ExitStack() as ended:

        def begin(command):
            environment = os.environ | {"OPENBLAS_NUM_THREADS": "1", "BPLCZ_THREADS": "1"}
            options = {"env": environment, "stdout": log, "stderr": log, "cwd": tmp_path}
            processes.append(subprocess.Popen([sys.executable, *command], **options))
            ended.callback(processes[-1].kill)

        begin(scheduler)
        wait_for(address.exists)
        begin(worker)
        begin(worker)
        stop = threading.Thread(
            target=lambda: (wait_for(lambda: any(out.glob("*/*/config.json"))), processes[1].kill())
        )
        stop.start()
        with tables.on_dask(files.read_json(address)["address"]) as executor:
            tables.tables(small_file, out, NAMES, SEEDS, TINY, executor=executor, say=quiet)
        stop.join()
        assert processes[1].wait(timeout=30) != 0
        assert same_bits(out, table)

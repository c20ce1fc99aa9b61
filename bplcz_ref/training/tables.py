"""Tables II and III: systems x seeds, each a run folder; on one machine, on several processes, or on Dask.

A run folder that is complete is skipped and one that is not is resumed, so an interrupted table goes on where it
stopped, and so does a run whose worker died. The seed of a run draws its split, start, order and dropout; on a
file written by `subset` the split is the file's own for every seed.
"""

import multiprocessing
import os
import socket
import time
from concurrent.futures import Executor, Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import numpy as np

from bplcz_ref import files, model, optim, systems
from bplcz_ref.data import so2sat
from bplcz_ref.report import text as report
from bplcz_ref.streams import stream
from bplcz_ref.training import train

TRIES = 3  # rounds in a row in which a worker dies and no run comes further, before the table gives up


def tables(data, out, names, seeds, settings, *, workers=1, dask=None, say=train.to_stderr):
    """Train every system of `names` with every seed; write and return the tables (text).

    Run folders are out/SYSTEM/seed-N; tables.md and tables.csv are written in `out` at the end.
    workers  processes on this machine (1: in this one); BLAS and branch threads are divided among them
    dask     address of a scheduler, "tcp://host:8786"; the workers must see `data` and `out` under these paths
    """
    out, data = Path(out).resolve(), Path(data).resolve()
    systems.check(settings)
    with so2sat.open_file(data) as patches:
        for seed in seeds:
            train.parts(patches, settings._replace(seed=seed))  # a file that is too small is told at once
    jobs = {
        (name, seed): (str(out / name / f"seed-{seed}"), str(data), name, settings._replace(seed=seed)._asdict())
        for seed in seeds
        for name in names
    }
    left = [job for job, (run, *_) in jobs.items() if not (Path(run) / "metrics.json").exists()]
    say(f"{len(jobs)} runs in {out}, {len(jobs) - len(left)} complete already")
    if left:
        say("timing a step of each system for an estimate")
        seconds = {name: step_seconds(name, settings) for name in dict.fromkeys(name for name, _ in left)}
        total = sum(run_seconds(seconds[name], settings) for name, _ in left)
        place = f"on {dask}, if it had one worker" if dask else f"on {workers} process(es)"
        say(f"about {train.duration(total / workers)} to come, {place}")
    with executor(workers, dask) as pool:
        results = finished(pool, jobs, say)
    rows = {name: [results[name, seed] for seed in seeds] for name in names}
    with files.whole(out / "tables.csv") as temporary:
        temporary.write_text(report.tables_csv(rows), encoding="utf-8")
    text = report.tables(rows, footer(rows, settings))
    with files.whole(out / "tables.md") as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")
    return text


def one_run(run, data, name, settings):
    """One cell's training, in whatever process; returns its metrics."""
    if not Path(data).is_file():
        who = f"worker {socket.gethostname()} (process {os.getpid()})"
        raise ValueError(f"{who} cannot read {data}: the data path must be visible to every worker by this name")
    return train.train(run, data, name, systems.Settings(**settings))


def finished(pool, jobs, say):
    """{job: metrics} of all jobs; a job whose worker died is started again, in the same run folder."""
    results, began = {}, time.perf_counter()

    def said(job, future):
        if future.cancelled() or isinstance(future.exception(), BrokenProcessPool):
            return
        after = f"{train.duration(time.perf_counter() - began)} after the start"
        error = future.exception()
        say(f"{job[0]}, seed {job[1]}: {'done' if error is None else f'failed: {error}'}, {after}")

    failed, fruitless = {}, 0
    while len(results) + len(failed) < len(jobs):
        before, futures = progress(jobs), {}
        with suppress(BrokenProcessPool):
            for job, arguments in jobs.items():
                if job not in results and job not in failed:
                    future = pool.submit(one_run, *arguments)
                    futures[future] = job
                    future.add_done_callback(partial(said, job))
        for future in as_completed(futures):
            try:
                results[futures[future]] = future.result()
            except BrokenProcessPool:
                continue  # its worker died, or another's, which breaks the whole pool
            except Exception as error:
                failed[futures[future]] = error
        left = [job for job in jobs if job not in results and job not in failed]
        if left:
            fruitless = fruitless + 1 if progress(jobs) == before else 0
            if fruitless == TRIES:
                names = ", ".join(f"{name} seed {seed}" for name, seed in left)
                raise ValueError(f"a worker died {TRIES} times and no run came further; left: {names}")
            say(f"a worker died; {len(left)} runs go on from their checkpoints")
            pool.restart()
    if failed:
        lines = [f"{name}, seed {seed}: {error}" for (name, seed), error in failed.items()]
        raise ValueError(
            "\n  ".join([f"{len(failed)} of {len(jobs)} runs failed, the others are complete:", *lines])
        )
    return results


def progress(jobs):
    """When each run last wrote a checkpoint: what changes as long as a table gets on."""
    paths = [Path(run) / "checkpoint.npz" for run, *_ in jobs.values()]
    return [path.stat().st_mtime_ns if path.exists() else 0 for path in paths]


class Inline(Executor):
    """An executor that runs each task at once, in this process: one worker needs no other."""

    def submit(self, function, /, *arguments, **options):
        future = Future()
        try:
            future.set_result(function(*arguments, **options))
        except Exception as error:
            future.set_exception(error)
        return future


class Processes(Executor):
    """A process pool that can be restarted after a worker died."""

    def __init__(self, workers):
        self.workers = workers
        self.restart()

    def restart(self):
        # spawned, so that each worker loads NumPy afresh, with its share of the cores
        context = multiprocessing.get_context("spawn")
        self.pool = ProcessPoolExecutor(self.workers, mp_context=context)

    def submit(self, function, /, *arguments, **options):
        return self.pool.submit(function, *arguments, **options)

    def shutdown(self, wait=True, *, cancel_futures=False):
        self.pool.shutdown(wait, cancel_futures=cancel_futures)


@contextmanager
def executor(workers, dask):
    """The concurrent.futures.Executor that the runs go through."""
    if dask is not None:
        try:
            from distributed import Client
        except ImportError:
            raise ValueError('--dask needs Dask: python -m pip install "bplcz-ref[cluster]"') from None
        with Client(dask, timeout="30s") as client:
            yield client.get_executor(pure=False)
        return
    if workers == 1:
        yield Inline()
        return
    share = str(max(1, (os.cpu_count() or 1) // workers))
    before = {name: os.environ.get(name) for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "BPLCZ_THREADS")}
    os.environ.update(dict.fromkeys(before, share))  # inherited by the workers; our own NumPy is loaded already
    pool = Processes(workers)
    try:
        yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


# ---------------------------------------------------------------------------------------------- estimates


def step_seconds(name, settings):
    """Seconds of one training step at `settings`, the second of two, on random numbers."""
    network = systems.build(name, settings)
    params, state = network.init(stream(settings.seed, "init"), np.dtype("float32"))
    rng = stream(settings.seed, "estimate")
    x = rng.standard_normal((settings.batch, 32, 32, 18), np.float32)
    y = rng.integers(0, 17, settings.batch)
    for _ in range(2):
        began = time.perf_counter()
        _, gradients, _ = model.loss_and_gradients(network.loss, params, state, (x, y), rng=rng)
        optim.sgd(params, params, gradients, learning_rate=0.0, momentum=0.9, weight_decay=0.002)
        seconds = time.perf_counter() - began
    return seconds


def run_seconds(step, settings):
    """Seconds of a run, its evaluation counted as a third of the same samples' training."""
    samples = 17 * settings.per_class * settings.epochs + settings.test / 3
    return step * samples / settings.batch


def footer(rows, settings):
    """What the figures are, and what it takes to reproduce the paper's: lines of text."""
    results = [result for row in rows.values() for result in row]
    lines = []
    if any(result["data_simulated"] for result in results):
        lines.append("Ours is from SIMULATED data: it says that the systems run and learn, nothing about So2Sat.")
    lines += [f"Ours: {report.protocol(results[0])}.", report.OURS]
    total = sum(run_seconds(step_seconds(name, systems.PAPER), systems.PAPER) for name in rows)
    return [
        *lines,
        "The accuracies of Tables II and III can be reproduced only from the real 52 GB file, So2Sat LCZ42's "
        "training.h5:",
        f"  python -m bplcz_ref tables --data training.h5 --preset paper --systems {' '.join(rows)} --seeds 1 "
        "--out runs/tables",
        f"which would take about {total / 86400:.1f} days here ({os.cpu_count()} cores), by the time of one step.",
    ]

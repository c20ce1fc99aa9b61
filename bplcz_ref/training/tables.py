"""Tables: every system, or every value of one setting, with every seed; in this process, or on an executor.

A complete run is skipped and an incomplete one resumed, so a table that was interrupted, or whose worker died,
goes on where it stopped. The seed of a run draws its split, start, order and dropout; on a file written by
`subset` the split is the file's own for every seed.
"""

import contextlib
import itertools
import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from multiprocessing.connection import wait
from pathlib import Path
from typing import NamedTuple

import numpy as np

from bplcz_ref import model, nn, optim, paper, register, systems
from bplcz_ref.bands import BANDS
from bplcz_ref.data import so2sat
from bplcz_ref.data.streams import stream
from bplcz_ref.storage import files
from bplcz_ref.training import runs, split
from bplcz_ref.training.progress import Reporter, duration
from bplcz_ref.training.train import train

THREAD_LIMITS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "BPLCZ_THREADS")


class Job(NamedTuple):
    """One cell of the table; it travels to a worker process."""

    row: str  # of the table: the system, and what is varied
    run: str
    data: str
    system: str
    settings: systems.Settings
    training: int = 0  # rows
    test_data: str | None = None
    geo: str | None = None
    imports: tuple[str, ...] = ()  # files of a user that register parts
    threads: int | None = None  # of its kernels; None: those of its process

    def __str__(self) -> str:
        return f"{self.row}, seed {self.settings.seed}"


def tables(
    data: str | Path,
    out: str | Path,
    names: list[str],
    seeds: range | list[int],
    settings: systems.Settings,
    *,
    given: Collection[str] | None = None,
    vary: tuple[str, list] | None = None,
    test_data: str | Path | None = None,
    geo: str | Path | None = None,
    workers: int = 1,
    executor: Executor | None = None,
    by_seed: bool = True,
    say: Callable[[str], None] | None = None,
) -> dict[str, list[dict]]:
    """Train every system of `names` with every seed into out/SYSTEM/seed-N; {row: metrics of each seed}.

    vary     (setting, values): each value with every seed into out/SYSTEM/SETTING=VALUE/seed-N; the rows then are
             "SYSTEM, SETTING VALUE"
    given, test_data, geo
             as in `train`
    workers  processes on this machine (1: this one alone); its cores are divided among them
    by_seed  False: the folders are out/SYSTEM, for one seed
    executor any of concurrent.futures in the place of `workers`, such as on_dask's; its workers must see `data`
             and `out` under these paths
    say      takes lines of progress; the default prints them to stderr
    Errors: ValueError that lists the runs that failed, after all others are complete.
    """
    if getattr(multiprocessing.current_process(), "_inheriting", False):  # in a worker that imports the script
        sys.exit("each worker imports this script: put what it does under\nif __name__ == '__main__':")
    line = Reporter(say=say).line
    place = os.path.realpath if executor else os.fspath  # workers elsewhere need whole paths
    out, data = Path(place(out)), Path(place(data))
    test, geo_ = (None if path is None else place(path) for path in (test_data, geo))
    kinds, jobs = variations(settings, vary), []
    with contextlib.ExitStack() as opened:
        patches = opened.enter_context(so2sat.open_file(data, geo=geo))
        tested = None if test_data is None else opened.enter_context(so2sat.open_file(test_data))
        for kind in kinds.values():
            systems.check(kind, *names)
        for seed, name, words in itertools.product(seeds, names, kinds):
            # A file that is too small is an error at once.
            parts = split.decide(patches, kinds[words]._replace(seed=seed), given, tested)
            row, run = f"{name}, {words}" if words else name, out / name / words.replace(" ", "=")
            run = run / f"seed-{seed}" if by_seed else run
            others = test, geo_, tuple(register.imported)
            jobs.append(Job(row, str(run), str(data), name, parts.settings, len(parts.training), *others))
    files.make_folder(out)
    left = [job for job in jobs if not runs.complete(job.run)]
    workers = 1 if executor else max(1, min(workers, len(left)))
    if workers > 1 and (last := len(left) % workers):  # the last runs share the cores of workers that have none
        share = max(1, nn.thread_count() // last)
        jobs = [job._replace(threads=share) if job in left[-last:] else job for job in jobs]
    line(f"{len(jobs)} runs in {out}, {len(jobs) - len(left)} complete already")
    with cores_shared_by(workers):
        if left:
            line("timing a step of each system for an estimate")
            timed = {job.row: job for job in left}  # one of each row
            seconds = {row: run_seconds(job.system, job.settings, job.training) for row, job in timed.items()}
            where = "on the executor, if it had one worker" if executor else f"on {workers} process(es)"
            line(f"about {duration(sum(seconds[job.row] for job in left) / workers)} to come, {where}")
        with processes(workers) if workers > 1 else contextlib.nullcontext(executor) as pool:
            results = run_all(jobs, pool, say)
    rows = dict.fromkeys(job.row for name in names for job in jobs if job.system == name)
    return {row: [results[job] for job in jobs if job.row == row] for row in rows}


def variations(settings: systems.Settings, vary: tuple[str, list] | None) -> dict[str, systems.Settings]:
    """{words: settings} of each value that a setting takes; without `vary`, {"": settings}.

    >>> list(variations(systems.SMALL, ("alpha", [0.25, 1.0])))
    ['alpha 0.25', 'alpha 1.0']
    """
    if vary is None:
        return {"": settings}
    name, values = vary
    if name in ("seed", "preset", "vocabulary"):
        raise ValueError(f"{name} is not varied: seeds are --seeds, a preset or vocabulary is one for a table")
    return {f"{name} {value}": settings._replace(**{name: value}) for value in values}


def one_run(job: Job, say: Callable[[str], None] | None = None) -> dict:
    """One cell's training, in whatever process; returns its metrics. say: as in `train`."""
    if not Path(job.data).is_file():
        raise ValueError(
            f"worker {socket.gethostname()} cannot read {job.data}: every worker must see the data under this path"
        )
    if job.threads is not None:
        os.environ["BPLCZ_THREADS"] = str(job.threads)
    for path in job.imports:
        register.import_file(path)
    sizes = ("per_class", "test")  # are settled
    own = job.run, job.data, job.system, job.settings
    return train(*own, test_data=job.test_data, geo=job.geo, given=sizes, say=say)


# ------------------------------------------------------------------------------------------ where the jobs run


def run_all(jobs: list[Job], pool: Executor | None, say: Callable[[str], None] | None) -> dict[Job, dict]:
    """The metrics of all jobs, on the pool or one after the other; a ValueError names those that failed."""
    results: dict[Job, dict] = {}
    failed: list[str] = []
    line, began = Reporter(say=say).line, time.perf_counter()
    outcomes: Iterable[tuple[Job, Callable]] = ((job, partial(one_run, job, say)) for job in jobs)
    if pool is not None:
        futures = {pool.submit(one_run, job): job for job in jobs}
        outcomes = ((futures[done], done.result) for done in as_completed(futures))
    for job, outcome in outcomes:
        try:
            results[job] = outcome()
            how = "done"
        except BrokenProcessPool:
            raise ValueError(
                "a worker died, and the others with it: the same command goes on from here, with fewer --workers"
                " if memory was short"
            ) from None
        except Exception as error:
            failed.append(f"{job}: {error}")
            how = f"failed: {error}"
        line(f"{job}: {how}, {duration(time.perf_counter() - began)} after the start")
    if failed:
        head = f"{len(failed)} of {len(jobs)} runs failed, the others are complete:"
        raise ValueError("\n  ".join([head, *failed]))
    return results


@contextlib.contextmanager
def processes(workers: int) -> Iterator[Executor]:
    """An executor of processes of this machine. An interruption ends them at once, which is safe at any moment."""
    # Spawned, not forked: each worker loads NumPy afresh, which then sees its share of the cores.
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), initializer=in_a_worker)
    try:
        yield pool
    except BaseException:
        for child in multiprocessing.active_children():
            child.terminate()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def in_a_worker() -> None:
    """A worker ends by Ctrl-C, and with its parent, however that ended; otherwise it would hold its run folder."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    parent = multiprocessing.parent_process()
    if parent is not None:
        watch = threading.Thread(target=lambda: wait([parent.sentinel]) and os._exit(1), daemon=True)
        watch.start()


@contextlib.contextmanager
def on_dask(address: str) -> Iterator[Executor]:
    """An executor of a Dask cluster, which itself gives the job of a worker that died to another."""
    try:
        from distributed import Client
    except ImportError:
        raise ValueError('--dask needs Dask: python -m pip install "dask[distributed]"') from None
    with Client(address, timeout="30s") as client:
        yield client.get_executor(pure=False)


@contextlib.contextmanager
def cores_shared_by(workers: int) -> Iterator[None]:
    """The environment in which each of `workers` processes takes its share of the cores."""
    before = {name: os.environ[name] for name in THREAD_LIMITS if name in os.environ}
    share = str(max(1, nn.thread_count() // workers))
    os.environ.update(dict.fromkeys(THREAD_LIMITS, share))  # this process has read its own values already
    try:
        yield
    finally:
        for name in THREAD_LIMITS:
            del os.environ[name]
        os.environ.update(before)


# ---------------------------------------------------------------------------------------------------- estimates


def run_seconds(name: str, settings: systems.Settings, training: int | None = None) -> float:
    """An estimate of a run's seconds from one step, in which evaluation costs a third of training per sample.

    training: the rows trained on; default: those of per_class.
    """
    training = len(paper.CLASSES) * (settings.per_class or 0) if training is None else training
    samples = training * settings.epochs + (settings.test or 0) / 3
    return step_seconds(name, settings) * samples / settings.batch


def step_seconds(name: str, settings: systems.Settings) -> float:
    """Seconds of one training step at `settings`, the second of two, on random numbers."""
    network = systems.build(name, settings)
    params, state = network.init(stream(settings.seed, "init"), np.dtype("float32"))
    rng = stream(settings.seed, "estimate")
    x = rng.standard_normal((settings.batch, paper.PATCH, paper.PATCH, len(BANDS)), np.float32)
    y = rng.integers(0, len(paper.CLASSES), settings.batch)
    for _ in range(2):
        began = time.perf_counter()
        _, gradients, _ = model.loss_and_gradients(network.loss, params, state, (x, y), rng=rng)
        optim.sgd(params, params, gradients, learning_rate=0.0, momentum=0.9, weight_decay=0.002)
        seconds = time.perf_counter() - began
    return seconds

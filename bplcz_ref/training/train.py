"""Train one system on a So2Sat file: each batch from the file to the update, and resumption to the same bits.

The run folder (runs.py) holds all that a resumption needs, so a run that is killed at any moment and started again
ends with the bits of an uninterrupted one. Test samples are evaluated once, at the end, with the weights of the
last epoch: no epoch is chosen by its test or validation accuracy.

Index letters: B samples of a batch.
"""

import contextlib
import functools
import math
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import NamedTuple

import numpy as np

from bplcz_ref import files, metrics, model, nn, optim, systems, weights
from bplcz_ref.data import augment, so2sat, standardise
from bplcz_ref.data.so2sat import Patches
from bplcz_ref.streams import stream
from bplcz_ref.training import averages, checkpoint, evaluate, runs, split
from bplcz_ref.training.checkpoint import SUMS, Progress
from bplcz_ref.training.progress import Reporter, duration

CHECKPOINT_SECONDS = 60.0  # within an epoch; another checkpoint is written after each epoch


class Run(NamedTuple):
    """What stays the same while a run is trained; `Progress` is what changes."""

    folder: Path
    config: dict
    patches: Patches
    rows: np.ndarray  # of `patches`, the training part
    network: model.Model
    settings: systems.Settings
    validation: Patches | None
    checkpoint_seconds: float


def train(
    run: str | Path,
    data: str | Path,
    system: str,
    settings: systems.Settings,
    *,
    dtype: str = "float32",
    test_data: str | Path | None = None,
    validation: str | Path | None = None,
    geo: str | Path | None = None,
    given: Collection[str] | None = None,
    resume: bool = True,
    say: Callable[[str], None] | None = None,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
) -> dict:
    """Train `system` with `settings` on the file `data`; returns the metrics, which are in run/metrics.json too.

    A complete run is not repeated; an interrupted one goes on from its last checkpoint, and one with fewer epochs
    goes on to those of `settings` (with resume=False, an existing run is an error instead).
    test_data: an official test file; all of `data` is trained on then, or per_class rows of each class.
    validation: a file whose accuracy is noted in each epoch and used for nothing. geo: the *_geo.h5 of `data`, for
    split "city". The split of a subset file is its own: settings.per_class and settings.test then are the file's,
    unless split is "random" or "city". `given` names the settings that somebody chose (default: those that differ
    from the preset's). `say` takes lines of progress; the default prints them to stderr, with a line that is
    renewed.
    Errors: ValueError if the run folder belongs to another system, setting or data file, a file is unfit or holds
    rows that are trained on, or a chosen per_class or test conflicts with the file's own parts.
    """
    run, report = Path(run), Reporter(say=say)
    systems.check(settings, system)
    with contextlib.ExitStack() as lock:
        with contextlib.ExitStack() as opened:
            patches = opened.enter_context(so2sat.open_file(data, geo=geo))
            tested, watched = (
                None if path is None else opened.enter_context(so2sat.open_file(path))
                for path in (test_data, validation)
            )
            opened.callback(report.end)
            settings = own_split(patches, settings, given, report.line, tested)
            config = runs.describe(patches, system, settings, dtype, tested=tested, validation=watched, geo=geo)
            lock.enter_context(files.alone(run))
            found = runs.claim(run, config, resume)
            if found is not None:
                report.line(f"{run}: complete already, not trained again")
                return found
            nn.keep_memory()
            rows, test_rows = split.parts(patches, settings, tested)
            if system in systems.NEED_TWO and (settings.batch == 1 or len(rows) % settings.batch == 1):
                raise ValueError(
                    f"{len(rows)} samples in batches of {settings.batch} leave a last batch of one, which "
                    f"{system} cannot normalise (its last maps are 1x1): choose another number of samples or batch"
                )
            if settings.batch > len(rows):
                report.line(f"batch is {settings.batch}: every step takes all {len(rows)} training rows")
            network = systems.build(system, settings)
            job = Run(run, config, patches, rows, network, settings, watched, checkpoint_seconds)
            at = checkpoint.load(run, network, config)
            if at is None:
                at = start(job, tested, test_rows)
                files.write_json(run / "config.json", config)
                report.line(f"{run}: {beginning(config, at.params)}")
            else:
                report.line(f"{run}: resumed at step {at.step}")
            at = fit(job, at, report)
            report.line(f"{run}: evaluating on {len(test_rows)} test samples")
            C = evaluate.confusion(trained(job, at), tested or patches, test_rows)
        noted = config["data"]
        for path, old in ((data, noted), (test_data, noted["test"]), (validation, noted["validation"])):
            if path is not None:
                check_unchanged(run, path, old)
        return runs.finish(run, config, at.params, C)


def resume(
    run: str | Path,
    *,
    epochs: int | None = None,
    say: Callable[[str], None] | None = None,
    **moved: str | Path | None,
) -> dict:
    """Go on with a run by its folder alone; returns the metrics.

    epochs: another number than the run's, above those that it has finished; it ends with the bits of a run that
    had this number from the start (a cosine rate depends on the number, so such a run refuses another).
    moved: data, test_data, validation or geo, where a file is not at the place any more that the run notes.
    """
    config = runs.read_config(run)
    noted = config["data"]
    settings = runs.settings_of(config)
    places = {name: (noted[key] or {}).get("path") for name, key in (("test_data", "test"), ("validation",) * 2)}
    places |= {"data": noted["path"], "geo": noted["geo"]}
    places |= {name: path for name, path in moved.items() if path is not None}
    for path in places.values():
        if path is not None and not Path(path).exists():
            raise ValueError(
                f"{path}, which {run} was trained on, is not there now: say where it is (--data FILE.h5)"
            )
    if epochs is not None:
        settings = settings._replace(epochs=epochs)
    own = {"system": config["system"], "settings": settings, "dtype": config["dtype"]}
    return train(run, **own, **places, given=("per_class", "test"), say=say)  # type: ignore[arg-type]


def check_unchanged(run: Path, data: str | Path, old: dict) -> None:
    """ValueError if the file `data` is another one than the run noted, as far as `runs.content` sees.

    It is opened anew, as HDF5 keeps what it has read.
    """
    with so2sat.open_file(data) as patches:
        now = runs.content(patches)
    differs = [name for name, value in now.items() if old[name] != value]
    if differs:
        raise ValueError(
            f"{data}: its {' and '.join(differs)} changed while {run} was trained on it, so the run is of no one"
            " file and has no result: train again in another folder, on a file that stays as it is"
        )


def own_split(
    patches: Patches,
    settings: systems.Settings,
    given: Collection[str] | None,
    say: Callable[[str], None],
    tested: Patches | None = None,
) -> systems.Settings:
    """split.settle, and a line where the split is not the preset's random draw."""
    settled = split.settle(patches, settings, given, tested)
    origin = split.origin(patches, settled, tested)
    if origin == "city":
        say(f"{patches.path}: left out for the test: {', '.join(split.held_out(patches, settled))}")
    elif origin == "official":
        rows, test_rows = split.parts(patches, settled, tested)
        assert tested is not None
        say(f"{len(rows)} rows of {patches.path} train, {len(test_rows)} of {tested.path} test")
    elif settled != settings:
        sizes = split.words({"per_class": settled.per_class, "test": settled.test})
        say(f"{patches.path}: its own split is used, {sizes}")
    return settled


def beginning(config: dict, params: dict) -> str:
    """What is about to be trained, in a line: parameters by part, rows, split."""
    parts = ", ".join(f"{part} {count:,}" for part, count in weights.parts(params).items())
    rows = config["data"]["split"]
    return (
        f"{config['system']}, {weights.count(params):,} parameters ({parts}); {rows['training']:,} training and"
        f" {rows['test']:,} test rows, {runs.split_label(config)}"
    )


def start(job: Run, tested: Patches | None, test_rows: np.ndarray) -> Progress:
    """Step 0: initial parameters, the statistics of the training part; every row that will be read is sound."""
    dtype, settings = job.config["dtype"], job.settings
    if tested is None:
        for some in so2sat.chunks(test_rows):
            job.patches.images(some, dtype)  # a value that is not finite is found now, not after all the training
    params, state = job.network.init(stream(settings.seed, "init"), np.dtype(dtype))
    trained_on = split.row_digests(job.patches, job.rows)
    for other, rows in ((tested, test_rows), (job.validation, None)):
        if other is not None:
            check_unseen(other, np.arange(len(other)) if rows is None else rows, trained_on)
    return Progress(
        config=runs.identity(job.config),
        step=0,
        sums=dict.fromkeys(SUMS, 0.0),
        params=params,
        velocity=None,
        state=state,
        statistics=standardise.statistics(job.patches, job.rows, settings.clip_sen1),
        trained_on=trained_on,
    )


def check_unseen(patches: Patches, rows: np.ndarray, trained_on: np.ndarray) -> None:
    """ValueError if rows of a test or validation file are trained on."""
    seen = np.isin(split.row_digests(patches, rows), trained_on)
    if seen.any():
        raise ValueError(
            f"{patches.path}: {seen.sum()} of its {len(rows)} rows are in the training part, the first is row"
            f" {rows[np.argmax(seen)]}; results on them say nothing about new data: name another file"
        )


def fit(job: Run, at: Progress, report: Reporter) -> Progress:
    """All remaining epochs; writes the log and the checkpoints.

    Errors: ValueError once the loss, a parameter or a buffer is not finite; the last checkpoint stays.
    """
    run, settings = job.folder, job.settings
    steps = -(-len(job.rows) // settings.batch)  # of an epoch: the incomplete last batch counts
    total = settings.epochs * steps
    first, began, saved = at.step, time.perf_counter(), time.perf_counter()
    while at.step < total:
        epoch, done = divmod(at.step, steps)
        order = stream(settings.seed, "shuffle", epoch).permutation(job.rows)
        batches = so2sat.chunks(order, settings.batch)
        for batch in batches[done:]:
            at = one_step(job.patches, batch, job.network, settings, at, job.config["dtype"])
            report.step(functools.partial(averages.where, at, epoch, steps, total, settings, first, began))
            if time.perf_counter() - saved > job.checkpoint_seconds and at.step % steps:
                check_finite(at)
                checkpoint.save(run, at)
                saved = time.perf_counter()
        check_finite(at)
        row = averages.log_row(epoch, at.sums)
        row["L_con_floor"] = averages.L_con_floor(job.config, [job.patches.labels[batch] for batch in batches])
        row["validation_accuracy"] = validation_accuracy(job, at)
        runs.write_log(run, row)
        at = at._replace(sums=dict.fromkeys(SUMS, 0.0))
        checkpoint.save(run, at)
        saved = time.perf_counter()
        left = (saved - began) / (at.step - first) * (total - at.step)
        report.line(f"{run}: {averages.said(row, settings.epochs)}  {duration(left)} left")
    return at


def one_step(
    patches: Patches, rows: np.ndarray, network: model.Model, settings: systems.Settings, at: Progress, dtype: str
) -> Progress:
    """One batch: read, standardise, loss, gradients, SGD."""
    began = time.perf_counter()
    x = standardise.standardise(patches.images(rows, dtype), at.statistics)
    if settings.augmentation == "turns":
        x = augment.turned(x, stream(settings.seed, "augmentation", at.step))
    y = patches.labels[rows]
    rng = stream(settings.seed, "dropout", at.step)
    rate = learning_rate(settings, at.step, -(-len(at.trained_on) // settings.batch))
    with np.errstate(all="ignore"):  # what becomes infinite is found below, or at the next checkpoint
        _, gradients, trace = model.loss_and_gradients(network.loss, at.params, at.state, (x, y), rng=rng)
        if not np.isfinite(trace["L"]):
            raise ValueError(f"the loss became {trace['L']} at step {at.step}: try a smaller learning rate")
        params, velocity = optim.sgd(
            at.params,
            at.velocity,
            gradients,
            learning_rate=rate,
            momentum=settings.momentum,
            weight_decay=settings.weight_decay,
            in_place=True,  # nothing but `at`, which ends here, holds them
        )
    sums = averages.added(at.sums, trace, y, time.perf_counter() - began)
    return at._replace(step=at.step + 1, sums=sums, params=params, velocity=velocity, state=trace["state"])


def learning_rate(settings: systems.Settings, step: int, steps: int) -> float:
    """The rate of a step, the first is 0; an epoch has `steps`.

    Formula:  lr (step + 1) / w in the w = warmup * steps first ones; then lr, or for the schedule "cosine"
              lr (1 + cos(pi (step - w) / (epochs * steps - w))) / 2, which is near 0 at the last step.

    >>> cosine = systems.SMALL._replace(schedule="cosine", warmup=1, epochs=3, learning_rate=0.5)
    >>> [round(learning_rate(cosine, step, 2), 4) for step in range(6)]
    [0.25, 0.5, 0.5, 0.4268, 0.25, 0.0732]
    """
    w, total = settings.warmup * steps, settings.epochs * steps
    if step < w:
        return settings.learning_rate * (step + 1) / w
    if settings.schedule == "cosine":
        return settings.learning_rate * (1 + math.cos(math.pi * (step - w) / (total - w))) / 2
    return settings.learning_rate


def trained(job: Run, at: Progress) -> evaluate.Trained:
    """The network as it is now."""
    return evaluate.Trained(
        job.network, at.params, at.state, at.statistics, at.trained_on, job.config["dtype"], job.config
    )


def validation_accuracy(job: Run, at: Progress) -> float | None:
    """The overall accuracy on the validation file, if there is one, in evaluation mode."""
    if job.validation is None:
        return None
    C = evaluate.confusion(trained(job, at), job.validation, np.arange(len(job.validation)))
    return metrics.overall_accuracy(C)


def check_finite(at: Progress) -> None:
    """ValueError if training has diverged: a finite loss can still come with an update that is not."""
    for part, tree in (("parameter", at.params), ("velocity", at.velocity or {}), ("buffer", at.state)):
        for name, leaf in weights.named(tree).items():
            if not np.isfinite(leaf).all():
                raise ValueError(
                    f"the {part} {name} is not finite after step {at.step}: try a smaller learning rate"
                )

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

from bplcz_ref import metrics, model, nn, optim, systems
from bplcz_ref.data import augment, so2sat, standardise
from bplcz_ref.data.so2sat import Patches
from bplcz_ref.data.streams import stream
from bplcz_ref.storage import files, weights
from bplcz_ref.training import evaluate, progress, runs, split
from bplcz_ref.training.progress import NO_SUMS, Reporter
from bplcz_ref.training.runs import Checkpoint

CHECKPOINT_SECONDS = 60.0  # within an epoch; another checkpoint is written after each epoch


class Run(NamedTuple):
    """What stays the same while a run is trained; `Checkpoint` is what changes."""

    folder: Path
    config: dict
    patches: Patches
    rows: np.ndarray  # of `patches`, the training part
    network: model.Model
    settings: systems.Settings
    validation: Patches | None = None
    validation_rows: np.ndarray = np.arange(0)

    @property
    def steps(self) -> int:
        """The steps of an epoch: an incomplete last batch counts."""
        return -(-len(self.rows) // self.settings.batch)


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
    folder, report = Path(run), Reporter(say=say)
    systems.check(settings, system)
    with contextlib.ExitStack() as opened:
        patches = opened.enter_context(so2sat.open_file(data, geo=geo))
        tested, watched = (
            None if path is None else opened.enter_context(so2sat.open_file(path))
            for path in (test_data, validation)
        )
        opened.callback(report.end)
        parts = split.decide(patches, settings, given, tested)
        rows, test_rows, settings, *_ = parts
        config = runs.describe(patches, system, parts, dtype, geo, test=tested, validation=watched)
        opened.enter_context(files.alone(folder))
        found = runs.claim(folder, config, resume)
        if found is not None:
            report.line(f"{folder}: complete already, not trained again")
            return found
        nn.keep_memory()
        if system in systems.NEED_TWO and (settings.batch == 1 or len(rows) % settings.batch == 1):
            raise ValueError(
                f"{len(rows)} samples in batches of {settings.batch} leave a last batch of one, which "
                f"{system} cannot normalise (its last maps are 1x1): choose another number of samples or batch"
            )
        if settings.batch > len(rows):
            report.line(f"batch is {settings.batch}: every step takes all {len(rows)} training rows")
        network = systems.build(system, settings)
        own = np.arange(0) if watched is None else split.new_rows(watched, patches, rows, settings)
        training = Run(folder, config, patches, rows, network, settings, watched, own)
        at = runs.load_checkpoint(folder, network, config)
        if at is None:
            at = start(training, tested, test_rows)
            files.write_json(folder / "config.json", config)
            report.line(f"{folder}: {beginning(config, at.params)}")
        else:
            report.line(f"{folder}: resumed at step {at.step}")
        at = fit(training, at, report)
        report.line(f"{folder}: evaluating on {len(test_rows)} test samples")
        C = evaluate.confusion(evaluate.of_checkpoint(network, at, config), tested or patches, test_rows)
        return runs.finish(folder, config, weights.count(at.params), C)


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
    settings, noted = runs.settings_of(config), config["data"]
    places = {"data": noted, "test_data": noted["test"], "validation": noted["validation"]}
    places = {name: file and file["path"] for name, file in places.items()} | {"geo": noted["geo"]}
    places |= {name: path for name, path in moved.items() if path is not None}
    for name, path in places.items():
        if path is not None and not Path(path).exists():
            option = name.replace("_", "-")
            raise ValueError(f"{path}, which {run} needs, is not there now: say where it is (--{option} FILE.h5)")
    if epochs is not None:
        settings = settings._replace(epochs=epochs)
    own = {"dtype": config["dtype"], "given": ("per_class", "test"), "say": say}
    return train(run, system=config["system"], settings=settings, **own, **places)  # type: ignore[arg-type]


def imported(run: str | Path, file: str | Path, out: str | Path) -> None:
    """Write a new run folder `out`: the run's settings at step 0, with the weights of a file by weights.export.

    It is evaluated as it is, or trained from there. Errors: ValueError for a file that does not fit the run, and
    for a folder that holds a run.
    """
    trained, folder = weights.imported(evaluate.load(run), file), Path(out)
    clip = {"clip_sen1": trained.statistics.clip_sen1}
    config = trained.config | {"settings": trained.config["settings"] | clip}
    with files.alone(folder):
        runs.claim(folder, config, resume=False)
        at = Checkpoint(trained.params, trained.state, trained.statistics, trained.trained_on)
        runs.save_checkpoint(folder, config, at)
        files.write_json(folder / "config.json", config)


def beginning(config: dict, params: dict) -> str:
    """What is about to be trained, in a line: parameters, rows, split, cities left out."""
    sizes = ", ".join(f"{name} {count:,}" for name, count in weights.sizes(params).items())
    noted = config["data"]["split"]
    cities = f" ({', '.join(noted['cities'])})" if noted["cities"] else ""
    return (
        f"{config['system']}{systems.reduced(config)}, {weights.count(params):,} parameters ({sizes});"
        f" {noted['training']:,} training and {noted['test']:,} test rows, {runs.split_label(config)}{cities}"
    )


def start(run: Run, tested: Patches | None, test_rows: np.ndarray) -> Checkpoint:
    """Step 0: initial parameters, the statistics of the training part; every row that will be read is sound.

    Errors: ValueError for a value that cannot be, and for test or validation rows that train.
    """
    settings, trained_on = run.settings, run.patches.digests(run.rows)
    for other, rows in ((tested or run.patches, test_rows), (run.validation, run.validation_rows)):
        if other is None:
            continue
        seen = np.isin(other.digests(rows), trained_on)
        if seen.any():
            remedy = "leave them out with --twins drop, or name another file"
            if other is run.patches:
                remedy = "draw a new split with --split random, or write the subset again"
            raise ValueError(
                f"{other.path}: {seen.sum()} of its {len(rows)} rows are in the training part, the first is row"
                f" {rows[np.argmax(seen)]}; results on them say nothing about new data: {remedy}"
            )
    params, state = run.network.init(stream(settings.seed, "init"), np.dtype(run.config["dtype"]))
    statistics = standardise.statistics(run.patches, run.rows, settings.clip_sen1)
    return Checkpoint(params, state, statistics, trained_on)


def fit(run: Run, at: Checkpoint, report: Reporter, watch: Callable | None = None) -> Checkpoint:
    """All remaining epochs; writes the log and the checkpoints.

    `watch(step, params, trace, y)` is called with each batch before its update, which may change params in place.
    Errors: ValueError once the loss, a parameter or a buffer is not finite; the last checkpoint stays.
    """
    settings, steps = run.settings, run.steps
    total = settings.epochs * steps
    begun = at.step, time.perf_counter()
    saved = begun[1]
    while at.step < total:
        epoch, done = divmod(at.step, steps)
        order = stream(settings.seed, "shuffle", epoch).permutation(run.rows)
        batches = so2sat.chunks(order, settings.batch)
        for batch in batches[done:]:
            at = one_step(run, at, batch, watch)
            report.step(functools.partial(where, run, at, begun))
            if time.perf_counter() - saved > CHECKPOINT_SECONDS and at.step % steps:
                check_finite(at)
                runs.save_checkpoint(run.folder, run.config, at)
                saved = time.perf_counter()
        check_finite(at)
        row = progress.log_row(epoch, at.sums)
        labels = [run.patches.labels[batch] for batch in batches]
        row["L_con_floor"] = progress.L_con_floor(run.config["system"], settings, labels)
        row["validation_accuracy"] = None
        if (watched := run.validation) is not None:
            network = evaluate.of_checkpoint(run.network, at, run.config)
            C = evaluate.confusion(network, watched, run.validation_rows)
            row["validation_accuracy"] = metrics.overall_accuracy(C)
        runs.write_log(run.folder, row)
        at = at._replace(sums=NO_SUMS)
        runs.save_checkpoint(run.folder, run.config, at)
        saved = time.perf_counter()
        left = (saved - begun[1]) / (at.step - begun[0]) * (total - at.step)
        report.line(f"{run.folder}: {progress.said(row, settings.epochs)}  {progress.duration(left)} left")
    return at


def where(run: Run, at: Checkpoint, begun: tuple[int, float]) -> str:
    """Where an epoch is: step, mean L so far, samples per second and time left, both since `begun`: step, time."""
    epoch, done = divmod(at.step - 1, run.steps)
    each = (time.perf_counter() - begun[1]) / (at.step - begun[0])
    left = progress.duration(each * (run.settings.epochs * run.steps - at.step))
    return (
        f"{run.folder}: epoch {epoch + 1}/{run.settings.epochs}  step {done + 1}/{run.steps}"
        f"  L {at.sums['L'] / at.sums['samples']:.4f}  {run.settings.batch / each:.0f} samples/s  {left} left"
    )


def one_step(run: Run, at: Checkpoint, rows: np.ndarray, watch: Callable | None = None) -> Checkpoint:
    """One batch: read, standardise, loss, gradients, SGD."""
    began, settings = time.perf_counter(), run.settings
    x = standardise.standardise(run.patches.images(rows, run.config["dtype"]), at.statistics)
    if settings.augmentation == "turns":
        x = augment.turned(x, stream(settings.seed, "augmentation", at.step))
    y = run.patches.labels[rows]
    rng = stream(settings.seed, "dropout", at.step)
    with np.errstate(all="ignore"):  # what becomes infinite is found below, or at the next checkpoint
        _, gradients, trace = model.loss_and_gradients(run.network.loss, at.params, at.state, (x, y), rng=rng)
        if not np.isfinite(trace["L"]):
            raise ValueError(f"the loss became {trace['L']} at step {at.step}: try a smaller learning rate")
        if watch is not None:
            watch(at.step, at.params, trace, y)
        params, velocity = optim.sgd(
            at.params,
            at.velocity,
            gradients,
            learning_rate=learning_rate(settings, at.step, run.steps),
            momentum=settings.momentum,
            weight_decay=settings.weight_decay,
            in_place=True,  # nothing but `at`, which ends here, holds them
        )
    sums = progress.added(at.sums, trace, y, time.perf_counter() - began)
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


def check_finite(at: Checkpoint) -> None:
    """ValueError if training has diverged: a finite loss can still come with an update that is not."""
    for kind, tree in (("parameter", at.params), ("velocity", at.velocity or {}), ("buffer", at.state)):
        for name, leaf in weights.named(tree).items():
            if not np.isfinite(leaf).all():
                raise ValueError(
                    f"the {kind} {name} is not finite after step {at.step}: try a smaller learning rate"
                )

"""Train one system on a So2Sat file: each batch from the file to the update, and resumption to the same bits.

The run folder (runs.py) holds all that a resumption needs, so a run that is killed at any moment and started again
ends with the bits of an uninterrupted one. Test samples are evaluated once, at the end, with the weights of the
last epoch: no epoch is chosen by its test accuracy.

Index letters: B samples of a batch.
"""

import contextlib
import sys
import time
from collections.abc import Callable, Collection
from pathlib import Path

import numpy as np

from bplcz_ref import files, model, optim, systems, weights
from bplcz_ref.data import so2sat, standardise
from bplcz_ref.data.so2sat import Patches
from bplcz_ref.streams import stream
from bplcz_ref.training import checkpoint, evaluate, runs, split
from bplcz_ref.training.checkpoint import SUMS, Progress

CHECKPOINT_SECONDS = 60.0  # within an epoch; another checkpoint is written after each epoch


def train(
    run: str | Path,
    data: str | Path,
    system: str,
    settings: systems.Settings,
    *,
    dtype: str = "float32",
    given: Collection[str] | None = None,
    resume: bool = True,
    say: Callable[[str], None] | None = None,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
) -> dict:
    """Train `system` with `settings` on the file `data`; returns the metrics, which are in run/metrics.json too.

    A complete run is not repeated; an interrupted one goes on from its last checkpoint (with resume=False, an
    existing run is an error instead). `say` takes lines of progress; the default prints them to stderr.
    The split of a subset file is its own: settings.per_class and settings.test then are the file's, unless split
    is "random". `given` names the settings that somebody chose (default: those that differ from the preset's).
    Errors: ValueError if the run folder belongs to another system, setting or data file, the file is unfit, or
    a chosen per_class or test conflicts with the file's own parts.
    """
    run, say = Path(run), say or to_stderr
    systems.check(settings)
    with contextlib.ExitStack() as lock:
        with so2sat.open_file(data) as patches:
            settings = own_split(patches, settings, given, say)
            config = runs.describe(patches, system, settings, dtype)
            lock.enter_context(files.alone(run))
            metrics = runs.claim(run, config, resume)
            if metrics is not None:
                say(f"{run}: complete already, not trained again")
                return metrics
            rows, test_rows = split.parts(patches, settings)
            if system in systems.NEED_TWO and (settings.batch == 1 or len(rows) % settings.batch == 1):
                raise ValueError(
                    f"{len(rows)} samples in batches of {settings.batch} leave a last batch of one, which "
                    f"{system} cannot normalise (its last maps are 1x1): choose another number of samples or batch"
                )
            network = systems.build(system, settings)
            at = checkpoint.load(run, network, config)
            if at is None:
                at = start(patches, rows, test_rows, network, settings, dtype, runs.identity(config))
                files.write_json(run / "config.json", config)
            else:
                say(f"{run}: resumed at step {at.step}")
            at = fit(run, patches, rows, network, settings, at, dtype, say, checkpoint_seconds)
            trained = evaluate.Trained(network, at.params, at.state, at.statistics, at.trained_on, dtype, config)
            say(f"{run}: evaluating on {len(test_rows)} test samples")
            C = evaluate.confusion(trained, patches, test_rows)
        check_unchanged(run, data, config)
        return runs.finish(run, config, at.params, C)


def check_unchanged(run: Path, data: str | Path, config: dict) -> None:
    """ValueError if the file `data` is another one than when the run began, as far as `runs.content` sees.

    It is opened anew, as HDF5 keeps what it has read.
    """
    with so2sat.open_file(data) as patches:
        now = runs.content(patches)
    differs = [name for name, value in now.items() if config["data"][name] != value]
    if differs:
        raise ValueError(
            f"{data}: its {' and '.join(differs)} changed while {run} was trained on it, so the run is of no one"
            " file and has no result: train again in another folder, on a file that stays as it is"
        )


def own_split(
    patches: Patches, settings: systems.Settings, given: Collection[str] | None, say: Callable[[str], None]
) -> systems.Settings:
    """split.settle, and a line where the file's split takes the place of the preset's sizes."""
    settled = split.settle(patches, settings, given)
    if settled != settings:
        sizes = split.words({"per_class": settled.per_class, "test": settled.test})
        say(f"{patches.path}: its own split is used, {sizes}")
    return settled


def start(
    patches: Patches,
    rows: np.ndarray,
    test_rows: np.ndarray,
    network: model.Model,
    settings: systems.Settings,
    dtype: str,
    config: str,
) -> Progress:
    """Step 0: initial parameters, and the statistics of the training part."""
    for some in so2sat.chunks(test_rows):
        patches.images(some, dtype)  # a value that is not finite is found now, not after all the training
    params, state = network.init(stream(settings.seed, "init"), np.dtype(dtype))
    statistics = standardise.statistics(patches, rows, settings.clip_sen1)
    return Progress(
        config=config,
        step=0,
        sums=dict.fromkeys(SUMS, 0.0),
        params=params,
        velocity=None,
        state=state,
        statistics=statistics,
        trained_on=split.row_digests(patches, rows),
    )


def fit(
    run: Path,
    patches: Patches,
    rows: np.ndarray,
    network: model.Model,
    settings: systems.Settings,
    at: Progress,
    dtype: str,
    say: Callable[[str], None],
    checkpoint_seconds: float,
) -> Progress:
    """All remaining epochs; writes the log and the checkpoints.

    Errors: ValueError once the loss, a parameter or a buffer is not finite; the last checkpoint stays.
    """
    steps = -(-len(rows) // settings.batch)  # of an epoch: the incomplete last batch counts
    total = settings.epochs * steps
    first, began, saved = at.step, time.perf_counter(), time.perf_counter()
    while at.step < total:
        epoch, done = divmod(at.step, steps)
        order = stream(settings.seed, "shuffle", epoch).permutation(rows)
        for batch in so2sat.chunks(order, settings.batch)[done:]:
            at = one_step(patches, batch, network, settings, at, dtype)
            if time.perf_counter() - saved > checkpoint_seconds and at.step % steps:
                check_finite(at)
                checkpoint.save(run, at)
                saved = time.perf_counter()
        check_finite(at)
        row = log_row(epoch, at.sums)
        runs.write_log(run, row)
        at = at._replace(sums=dict.fromkeys(SUMS, 0.0))
        checkpoint.save(run, at)
        saved = time.perf_counter()
        L_con = "" if row["L_con"] is None else f"  L_con {row['L_con']:.4f}"
        left = (saved - began) / (at.step - first) * (total - at.step)
        say(
            f"{run}: epoch {epoch + 1}/{settings.epochs}  L_cls {row['L_cls']:.4f}{L_con}  training accuracy "
            f"{100 * row['training_accuracy']:.1f} %  {duration(left)} left"
        )
    return at


def one_step(
    patches: Patches, rows: np.ndarray, network: model.Model, settings: systems.Settings, at: Progress, dtype: str
) -> Progress:
    """One batch: read, standardise, loss, gradients, SGD."""
    began = time.perf_counter()
    x = standardise.standardise(patches.images(rows, dtype), at.statistics)
    y = patches.labels[rows]
    rng = stream(settings.seed, "dropout", at.step)
    with np.errstate(all="ignore"):  # what becomes infinite is found below, or at the next checkpoint
        _, gradients, trace = model.loss_and_gradients(network.loss, at.params, at.state, (x, y), rng=rng)
        if not np.isfinite(trace["L"]):
            raise ValueError(f"the loss became {trace['L']} at step {at.step}: try a smaller learning rate")
        params, velocity = optim.sgd(
            at.params,
            at.velocity,
            gradients,
            learning_rate=settings.learning_rate,
            momentum=settings.momentum,
            weight_decay=settings.weight_decay,
            in_place=True,  # nothing but `at`, which ends here, holds them
        )
    sums = added(at.sums, trace, y, time.perf_counter() - began)
    return at._replace(step=at.step + 1, sums=sums, params=params, velocity=velocity, state=trace["state"])


def check_finite(at: Progress) -> None:
    """ValueError if training has diverged: a finite loss can still come with an update that is not."""
    for part, tree in (("parameter", at.params), ("velocity", at.velocity or {}), ("buffer", at.state)):
        for name, leaf in weights.named(tree).items():
            if not np.isfinite(leaf).all():
                raise ValueError(
                    f"the {part} {name} is not finite after step {at.step}: try a smaller learning rate"
                )


# ------------------------------------------------------------------------------------------- an epoch's averages


def added(sums: dict, trace: dict, y: np.ndarray, seconds: float) -> dict:
    """The epoch's sums with one batch more. L and L_con are means over a batch, so they are weighted by B."""
    B = len(y)
    new = {
        "samples": B,
        "L": B * float(trace["L"]),
        "L_cls": B * float(trace["L_cls"]),
        "correct": float(np.sum(np.argmax(trace["c_hat"], axis=1) == y)),
        "seconds": seconds,
    }
    if "S" in trace:
        same = y[:, None] == y[None, :]
        S = np.asarray(trace["S"], np.float64)
        new |= {
            "L_con": B * float(trace["L_con"]),
            "pairs": float(same.size),
            "targets": float(trace["W"].sum()),
            "positive": float(same.sum()),
            "S_positive": float(S[same].sum()),
            "S_negative": float(S[~same].sum()),
        }
    return {name: value + new.get(name, 0.0) for name, value in sums.items()}


def log_row(epoch: int, sums: dict) -> dict:
    """A line of log.jsonl: averages over an epoch, None where there is nothing to average.

    positive_fraction: mean(W) of the W that the loss used, the identity without MSM.
    S_positive, S_negative: means of S over pairs of equal and of different labels.
    """
    n, pairs, positive = sums["samples"], sums["pairs"], sums["positive"]
    return {
        "epoch": epoch + 1,
        "L": sums["L"] / n,
        "L_cls": sums["L_cls"] / n,
        "L_con": sums["L_con"] / n if pairs else None,
        "training_accuracy": sums["correct"] / n,
        "positive_fraction": sums["targets"] / pairs if pairs else None,
        "S_positive": sums["S_positive"] / positive if positive else None,
        "S_negative": sums["S_negative"] / (pairs - positive) if pairs > positive else None,
        "seconds": sums["seconds"],
    }


# ------------------------------------------------------------------------------------------------------- words


def duration(seconds: float) -> str:
    """A time for people.

    >>> duration(41.6), duration(125), duration(7300)
    ('42 s', '2 min 05 s', '2 h 01 min')
    """
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60:02d} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60:02d} min"


def to_stderr(line: str) -> None:
    """Print a line of progress."""
    print(line, file=sys.stderr, flush=True)

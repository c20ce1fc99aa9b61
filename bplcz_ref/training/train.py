"""Train one system on a So2Sat file into a run folder, resume it after any interruption, evaluate, predict.

A run folder holds config.json (what was asked), log.jsonl (a line per epoch), checkpoint.npz (everything that a
resumption needs, so that a run killed at any moment ends with the same bits), and, once complete, metrics.json
and confusion.csv. Test samples are read once, at the end, with the weights of the last epoch: no epoch is
chosen by its test accuracy.
"""

import json
import sys
import time
import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np

from bplcz_ref import __version__, files, metrics, model, nn, optim, paper, systems, theory, weights
from bplcz_ref.data import so2sat, standardise
from bplcz_ref.streams import stream

CHECKPOINT_SECONDS = 60.0  # within an epoch; another is written after each epoch
SUMS = ("samples", "L", "L_cls", "L_con", "correct", "pairs", "targets")
SUMS += ("positive", "S_positive", "S_negative", "seconds")


class Trained(NamedTuple):
    """A network with its parameters, what its input is standardised with, and the config.json it came from."""

    network: model.Model
    params: dict
    state: dict
    statistics: standardise.Statistics
    dtype: str
    config: dict


def train(
    run, data, system, settings, *, dtype="float32", resume=True, say=None, checkpoint_seconds=CHECKPOINT_SECONDS
):
    """Train `system` with `settings` on the file `data`; returns the metrics, which are in run/metrics.json too.

    A complete run is not repeated, an interrupted one goes on where its last checkpoint stands (`resume=False`
    refuses to touch an existing run instead). `say` takes a line of progress; the default prints to stderr.

    Errors: ValueError if the run folder belongs to another system, setting or data file, or the file is unfit.
    """
    run, say = Path(run), say or to_stderr
    systems.check(settings)
    with so2sat.open_file(data) as patches, files.alone(run):
        config = describe(patches, system, settings, dtype)
        done = claim(run, config, resume)
        if done is not None:
            say(f"{run}: complete already, not trained again")
            return done
        train_index, test_index = parts(patches, settings)
        if system in systems.NEED_TWO and (settings.batch == 1 or len(train_index) % settings.batch == 1):
            raise ValueError(
                f"{len(train_index)} samples in batches of {settings.batch} leave a last batch of one, which "
                f"{system} cannot normalise (its last maps are 1x1): choose another number of samples or batch"
            )
        network = systems.build(system, settings)
        at = load_checkpoint(run, network, settings, dtype)
        if at is None:
            for rows in np.split(test_index, range(standardise.CHUNK, len(test_index), standardise.CHUNK)):
                patches.images(rows, dtype)  # what is not finite is found now, not after all the training
            params, state = network.init(stream(settings.seed, "init"), np.dtype(dtype))
            statistics = standardise.statistics(patches, train_index, settings.clip_sen1)
            at = Progress(0, dict.fromkeys(SUMS, 0.0), params, None, state, statistics)
            files.write_json(run / "config.json", config)
        else:
            say(f"{run}: resumed at step {at.step}")
        at = fit(run, patches, train_index, network, settings, at, dtype, say, checkpoint_seconds)
        trained = Trained(network, at.params, at.state, at.statistics, dtype, config)
        say(f"{run}: evaluating on {len(test_index)} test samples")
        C = confusion(trained, patches, test_index)
    return finish(run, config, C, at)


class Progress(NamedTuple):
    """Where a run stands: all that the next step depends on, and the sums of the epoch under way."""

    step: int
    sums: dict
    params: dict
    velocity: dict | None
    state: dict
    statistics: standardise.Statistics


def fit(run, patches, index, network, settings, at, dtype, say, checkpoint_seconds):
    """All remaining epochs -> Progress; writes the log and checkpoints."""
    steps = -(-len(index) // settings.batch)  # the incomplete last batch counts
    total = settings.epochs * steps
    first, began, saved = at.step, time.perf_counter(), time.perf_counter()
    while at.step < total:
        epoch, k = divmod(at.step, steps)
        order = stream(settings.seed, "shuffle", epoch).permutation(index)
        for rows in np.split(order, range(settings.batch, len(order), settings.batch))[k:]:
            at = one_step(patches, rows, network, settings, at, dtype)
            if time.perf_counter() - saved > checkpoint_seconds and at.step % steps:
                save_checkpoint(run, at)
                saved = time.perf_counter()
        row = log_row(epoch, at.sums)
        write_log(run, row)
        at = at._replace(sums=dict.fromkeys(SUMS, 0.0))
        save_checkpoint(run, at)
        saved = time.perf_counter()
        left = (saved - began) / (at.step - first) * (total - at.step)
        con = "" if row["L_con"] is None else f"  L_con {row['L_con']:.4f}"
        say(
            f"{run}: epoch {epoch + 1}/{settings.epochs}  L_cls {row['L_cls']:.4f}{con}  training accuracy "
            f"{100 * row['training_accuracy']:.1f} %  {duration(left)} left"
        )
    return at


def one_step(patches, rows, network, settings, at, dtype):
    """One batch: read, standardise, loss, gradients, SGD."""
    began = time.perf_counter()
    x, y = batch(patches, rows, at.statistics, dtype)
    rng = stream(settings.seed, "dropout", at.step)
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
    )
    sums = added(at.sums, trace, y, time.perf_counter() - began)
    return at._replace(step=at.step + 1, sums=sums, params=params, velocity=velocity, state=trace["state"])


def added(sums, trace, y, seconds):
    """The epoch's sums with one batch more. L_con is a mean over pairs, so it is weighted by B, as L is."""
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


def log_row(epoch, sums):
    """A line of log.jsonl. positive_fraction: mean(W) of the W that the loss used, the identity without MSM;
    S_positive and S_negative: means of S over pairs of equal and of different labels."""
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


def write_log(run, row):
    """The log with `row` in its place; rows that a killed run wrote after its checkpoint are replaced."""
    rows = [r for r in read_log(run) if r["epoch"] < row["epoch"]] + [row]
    with files.whole(run / "log.jsonl") as temporary:
        temporary.write_text("".join(json.dumps(r, allow_nan=False) + "\n" for r in rows), encoding="utf-8")


def read_log(run):
    """The rows of a run's log.jsonl, oldest first."""
    path = Path(run) / "log.jsonl"
    if not path.exists():
        return []
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}, line {number}: not valid JSON ({error})") from None
    return rows


# ------------------------------------------------------------------------------------- data and evaluation


def parts(patches, settings):
    """(train, test) row numbers: those that a subset file was written with if the sizes agree, or a new draw."""
    sizes = (settings.per_class * len(paper.CLASSES), settings.test)
    if patches.parts is not None and tuple(map(len, patches.parts)) == sizes:
        return patches.parts
    return so2sat.split(patches.labels, settings.per_class, settings.test, settings.seed)


def batch(patches, rows, statistics, dtype):
    """Rows of the file -> x (b, 32, 32, 18) standardised, y (b,)."""
    return standardise.standardise(patches.images(rows, dtype), statistics), patches.labels[rows]


def logits(trained, patches, index, size=64):
    """c_hat of the rows of `index`, in chunks of `size`: evaluation mode, the image side alone."""
    for rows in np.split(index, range(size, len(index), size)):
        x = standardise.standardise(patches.images(rows, trained.dtype), trained.statistics)
        with nn.one_blas_thread():
            c_hat, _ = trained.network.apply(trained.params, trained.state, x, train=False)
        yield rows, c_hat


def confusion(trained, patches, index):
    """The confusion matrix (17, 17) on the rows of `index`."""
    C = np.zeros((len(paper.CLASSES), len(paper.CLASSES)), np.int64)
    for rows, c_hat in logits(trained, patches, index):
        C += metrics.confusion_matrix(patches.labels[rows], np.argmax(c_hat, axis=1))
    return C


# ----------------------------------------------------------------------------------------- the run folder


def describe(patches, system, settings, dtype):
    """What config.json says: enough to tell whether a run folder belongs to what is asked now."""
    spread = np.unique(np.linspace(0, len(patches) - 1, 16).astype(int))  # 16 rows tell two files apart
    return {
        "bplcz_ref": __version__,
        "system": system,
        "settings": settings._asdict(),
        "dtype": str(np.dtype(dtype)),
        "data": {
            "path": str(Path(patches.path).resolve()),
            "samples": len(patches),
            "labels": files.digest(patches.labels),
            "pixels": files.digest(patches.images(spread, np.float64)),
            "parts": [files.digest(rows) for rows in parts(patches, settings)],
            "simulated": patches.simulated,
        },
    }


def claim(run, config, resume):
    """None if there is work to do in `run`, or the metrics of a run that is complete."""
    if not (run / "config.json").exists():
        if (run / "checkpoint.npz").exists():
            raise ValueError(
                f"{run} has checkpoint.npz without config.json: whose it is cannot be told; name another"
            )
        return None
    if not resume:
        raise ValueError(f"{run} holds a run already: resume it, or name another folder")
    found = read_config(run)
    differs = [
        f"{name} is {old!r} there and {new!r} now"
        for name, new in weights.named(config).items()
        if name not in ("bplcz_ref", "data.path") and (old := weights.named(found).get(name)) != new
    ]
    if differs:
        raise ValueError(f"{run} holds another run: {'; '.join(differs)}. Name another folder")
    return files.read_json(run / "metrics.json") if (run / "metrics.json").exists() else None


def save_checkpoint(run, at):
    """Everything of `at` as one npz, whole; the last one stays until then."""
    arrays = {"step": np.array(at.step), "sums": np.array([at.sums[name] for name in SUMS])}
    arrays |= {"statistics/mean": at.statistics.mean, "statistics/std": at.statistics.std}
    for part in ("params", "velocity", "state"):
        arrays |= {f"{part}/{name}": leaf for name, leaf in weights.named(getattr(at, part) or {}).items()}
    with files.whole(run / "checkpoint.npz") as temporary, open(temporary, "wb") as file:
        np.savez(file, **arrays)


def load_checkpoint(run, network, settings, dtype):
    """Progress as saved, or None where there is no checkpoint yet."""
    path = run / "checkpoint.npz"
    if not path.exists():
        return None
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = dict(file)
    except (OSError, ValueError, zipfile.BadZipFile, EOFError) as error:
        raise ValueError(f"{path} cannot be read ({error}): remove it to begin the run anew") from None
    trees = {"params": {}, "velocity": {}, "state": {}, "statistics": {}}
    for name, value in arrays.items():
        tree, _, rest = name.partition("/")
        if tree in trees:
            trees[tree][rest] = value
    lacking = [name for name in ("step", "sums", "statistics/mean", "statistics/std") if name not in arrays]
    if lacking or len(arrays["sums"]) != len(SUMS):
        what = f"has no {', '.join(lacking)}" if lacking else "is of another version"
        raise ValueError(f"{path} {what}: remove it to begin the run anew")
    params, state = network.init(stream(settings.seed, "init"), np.dtype(dtype))
    return Progress(
        step=int(arrays["step"]),
        sums=dict(zip(SUMS, arrays["sums"].tolist(), strict=True)),
        params=weights.like(params, trees["params"], f"{path} (params)"),
        velocity=weights.like(params, trees["velocity"], f"{path} (velocity)") if trees["velocity"] else None,
        state=weights.like(state, trees["state"], f"{path} (state)"),
        statistics=standardise.Statistics(**trees["statistics"], clip_sen1=settings.clip_sen1),
    )


def load(run):
    """The trained network of a run folder, complete or not: Trained."""
    config = read_config(run)
    settings = settings_of(run, config)
    network = systems.build(config["system"], settings)
    at = load_checkpoint(Path(run), network, settings, config["dtype"])
    if at is None:
        raise ValueError(f"{run} has no checkpoint.npz yet: train it first")
    return Trained(network, at.params, at.state, at.statistics, config["dtype"], config)


def read_config(run):
    """A run's config.json, with what every reader of it needs."""
    config = files.read_json(Path(run) / "config.json")
    parts = ("bplcz_ref", "system", "settings", "dtype", "data")
    if not isinstance(config, dict) or not all(part in config for part in parts):
        raise ValueError(f"{run}/config.json is not a run's: expected an object with {', '.join(parts)}")
    return config


def settings_of(run, config):
    """The systems.Settings of a run folder; one written by a version with other settings is refused by name."""
    differs = set(config["settings"]) ^ set(systems.Settings._fields)
    if differs:
        raise ValueError(
            f"{run} was written by bplcz_ref {config['bplcz_ref']}, whose settings differ from this one's in "
            f"{', '.join(sorted(differs))}: train it again"
        )
    return systems.Settings(**config["settings"])


def finish(run, config, C, at):
    """Write confusion.csv, then metrics.json, whose presence says that the run is complete."""
    rows = read_log(run)
    if not rows:
        raise ValueError(f"{run}: log.jsonl is gone; name another folder, or restore it")
    settings = systems.Settings(**config["settings"])
    result = {
        "system": config["system"],
        "preset": settings.preset,
        "data_simulated": config["data"]["simulated"],
        "settings": config["settings"],
        **metrics.summary(C),
        "test_samples": int(C.sum()),
        "parameters": weights.count(at.params),
        "training_seconds": sum(row["seconds"] for row in rows),
        "last_epoch": rows[-1],
        "L_con_floor": floor(config["system"], settings, rows[-1]["positive_fraction"]),
    }
    header = ",".join(["truth \\ predicted", *(name for name, _ in paper.CLASSES)])
    lines = [
        ",".join([name, *map(str, counts)]) for (name, _), counts in zip(paper.CLASSES, C.tolist(), strict=True)
    ]
    with files.whole(run / "confusion.csv") as temporary:
        temporary.write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
    files.write_json(run / "metrics.json", result)
    return result


def floor(system, settings, positive_fraction):
    """The least value that L_con can take on free unit vectors at this fraction of positive pairs, or None."""
    if not systems.SYSTEMS[system].prompting:
        return None
    n, K = len(paper.GROUPS), len(paper.CLASSES)
    return theory.expected_optimum(settings.alpha * n, K, positive_fraction).L_con


# -------------------------------------------------------------------------------------------------- words


def duration(seconds):
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


def to_stderr(line):
    print(line, file=sys.stderr, flush=True)

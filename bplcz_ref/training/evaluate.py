"""A trained network on rows of a file, in evaluation mode: logits, the fused feature I, the confusion matrix.

Index letters: b rows of a chunk, K = 17 classes, n d = the length of I.
"""

import csv
import io
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bplcz_ref import bands, checks, metrics, model, nn, paper, systems
from bplcz_ref.data import layout, so2sat, standardise
from bplcz_ref.data.so2sat import Patches
from bplcz_ref.storage import files, weights
from bplcz_ref.training import runs, split

ROWS_AT_ONCE = 64  # through the network


class Trained(NamedTuple):
    """A network with its parameters, the statistics that standardise its input, and what it was trained on.

    trained_on (training rows,) uint64: their so2sat.digests. config: the run's config.json.
    """

    network: model.Model
    params: dict
    state: dict
    statistics: standardise.Statistics
    trained_on: np.ndarray
    dtype: str
    config: dict

    def __reduce__(self) -> tuple:
        """What travels to a worker process: all but the network, whose functions are made again there."""
        return of_config, tuple(self[1:])


def of_config(*values: Any) -> Trained:
    """A Trained from its values after the network, the last of which is the config."""
    config = values[-1]
    return Trained(systems.build(config["system"], runs.settings_of(config)), *values)


def load(run: str | Path) -> Trained:
    """The trained network of a run folder, complete or not.

    Errors: ValueError without a checkpoint, or if the merges file of the run's prompts has other merges now.
    """
    config = runs.read_config(run)
    settings, noted = runs.settings_of(config), config["vocabulary"]
    if (now := systems.vocabulary_digest(config["system"], settings)) != noted:
        raise ValueError(
            f"{run} was trained with other merges than {settings.vocabulary or 'the bundled vocabulary'} has now:"
            f" digest {noted} there and {now} now. Put the right merges file in its place"
        )
    network = systems.build(config["system"], settings)
    at = runs.load_checkpoint(run, network, config)
    if at is None:
        raise ValueError(f"{run} has no checkpoint.npz yet: train it first")
    return of_checkpoint(network, at, config)


def of_checkpoint(network: model.Model, at: runs.Checkpoint, config: dict) -> Trained:
    """The network as a checkpoint has it."""
    return Trained(network, at.params, at.state, at.statistics, at.trained_on, config["dtype"], config)


def rows_to_evaluate(trained: Trained, patches: Patches, training_rows: str | None) -> tuple[np.ndarray, str]:
    """(row numbers, words for them): the test part of the file that was trained on, or all rows of another file.

    Rows of another file that were trained on, as in the file that a subset was drawn from, say nothing about new
    data: training_rows "skip" leaves them out, "include" takes them in, None refuses the file.
    """
    N, path = len(patches), patches.path
    if runs.same_data(trained.config, patches):
        words = f"the test part of {path} ({runs.split_label(trained.config)})"
        if trained.config["data"]["test"] is None:
            words += "; the network was trained on the file's training part"
        return test_rows(trained.config, patches), words
    rows = np.arange(N)
    seen = np.isin(patches.digests(rows), trained.trained_on)
    count = int(seen.sum())
    if not count:
        return rows, f"all {N} rows of {path}"
    if training_rows == "include":
        return rows, f"all {N} rows of {path}, {count} of which were TRAINED ON"
    if training_rows is None:
        raise ValueError(
            f"{path}: {count} of its {N} rows were trained on, the first is row {np.argmax(seen)}; results on them"
            " say nothing about new data. Leave them out with --training-rows skip, or count them with"
            " --training-rows include"
        )
    if count == N:
        raise ValueError(f"{path}: all its {N} rows were trained on, so none is left to evaluate")
    return rows[~seen], f"the {N - count} rows of {path} that were not trained on; {count} are left out"


def test_rows(config: dict, patches: Patches) -> np.ndarray:
    """The rows of a run's test part, in the file that it is of. Errors: ValueError if they are others by now."""
    settings, noted = runs.settings_of(config), config["data"]
    if noted["test"] is not None:
        every = np.setdiff1d(np.arange(len(patches)), noted["split"]["twins"])
        rows = split.some_of(every, settings, str(patches.path))
    else:
        if settings.split == "city" and patches.cities is None and noted["geo"] is not None:
            patches.cities = so2sat.read_cities(Path(noted["geo"]), len(patches))
        rows = split.decide(patches, settings, ("per_class", "test")).test
    if files.digest(rows) != noted["split"]["test_rows"]:
        raise ValueError(
            f"{patches.path}: its test part is another now than in training; restore the file, or its attribute"
            " train_rows"
        )
    return rows


Pieces = Iterator[tuple[np.ndarray, np.ndarray]]  # row numbers (b,), and what there is of each row


def inputs(trained: Trained, patches: Patches, rows: np.ndarray) -> Pieces:  # -> (b,), (b, 32, 32, 18)
    """`rows` in pieces of ROWS_AT_ONCE, each with its standardised images."""
    for some in so2sat.chunks(rows, ROWS_AT_ONCE):
        yield some, standardise.standardise(patches.images(some, trained.dtype), trained.statistics)


def logits(trained: Trained, patches: Patches, rows: np.ndarray) -> Pieces:  # -> (b,), (b, K)
    """(rows, c_hat) of each piece of `rows`: the image side alone.

    Errors: ValueError if a logit is not finite, since the class of such a row would be of no meaning.
    """
    for some, x in inputs(trained, patches, rows):
        yield some, sound_logits(trained, x, some, str(patches.path))


def sound_logits(trained: Trained, x: np.ndarray, rows: np.ndarray, where: str) -> np.ndarray:
    # (b, 32, 32, 18), (b,) -> (b, K)
    """c_hat of standardised images; ValueError that names the row if one is not finite."""
    with nn.one_blas_thread(), np.errstate(all="ignore"):
        c_hat, _ = trained.network.apply(trained.params, trained.state, x, train=False)
    bad = ~np.isfinite(c_hat).all(axis=1)
    if bad.any():
        raise ValueError(
            f"{where}: the network gives values that are not finite for row {rows[np.argmax(bad)]}: its training"
            " diverged (try a smaller learning rate), or the row is unlike what it was trained on"
        )
    return c_hat


def classify(run: str | Path | Trained, sen1: np.ndarray, sen2: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    # (B, 32, 32, 8), (B, 32, 32, 10) -> (B,), (B, K)
    """bplcz_ref.classify: class numbers and probabilities of raw patches, ROWS_AT_ONCE of them at a time."""
    trained = run if isinstance(run, Trained) else load(run)
    sen1, sen2 = checks.array("sen1", sen1), checks.array("sen2", sen2)
    for name, values in (("sen1", sen1), ("sen2", sen2)):
        if values.shape[-3:] != layout.SHAPES[name] or values.ndim != 4 or len(sen1) != len(sen2) or not len(sen1):
            expected = ", ".join(map(str, layout.SHAPES[name]))
            one = f"; for one patch give {name}[None]" * (values.shape == layout.SHAPES[name])
            raise ValueError(f"{name} has shape {values.shape}; expected (B, {expected}), one B for both{one}")
    found: list[np.ndarray] = []
    for rows in so2sat.chunks(np.arange(len(sen1)), ROWS_AT_ONCE):
        x = bands.join(sen1[rows].astype(trained.dtype), sen2[rows].astype(trained.dtype))
        if not found:  # the first piece tells
            if problems := layout.scale_problems(x):
                raise ValueError("; ".join(problems))
            for words in layout.constant_channels(x):
                warnings.warn(f"classify: {words}", stacklevel=3)
        if faults := list(filter(None, layout.faults(x, rows))):
            raise ValueError(f"classify: {faults[0]}; {layout.EXPECTED}. Leave such rows out")
        x = standardise.standardise(x, trained.statistics)
        found.append(probabilities(sound_logits(trained, x, rows, "classify")))
    p = np.concatenate(found)
    return np.argmax(p, axis=1), p


def probabilities(c_hat: np.ndarray) -> np.ndarray:  # (b, K) -> (b, K)
    """softmax(c_hat) in float64: the probabilities that L_cls of Eq. (11) trains; they are not calibrated."""
    with np.errstate(under="ignore"):
        return nn.softmax(c_hat.astype(np.float64))


def fused(trained: Trained, patches: Patches, rows: np.ndarray) -> np.ndarray:  # (N,) -> (N, n d)
    """I of Eq. (9) for `rows`. Errors: ValueError for a network that fuses no band groups."""
    network, params, state = trained[:3]
    if network.fused is None:
        raise ValueError(f"{network}: it takes all bands at once and has no feature I of Eq. (9)")
    return np.concatenate([network.fused(params, state, x) for _, x in inputs(trained, patches, rows)])


def confusion(trained: Trained, patches: Patches, rows: np.ndarray) -> np.ndarray:  # (N,) -> (K, K)
    """The confusion matrix on `rows`; as in metrics.py, its rows are the truth and its columns the prediction."""
    C = np.zeros((len(paper.CLASSES), len(paper.CLASSES)), np.int64)
    for some, c_hat in logits(trained, patches, rows):
        C += metrics.confusion_matrix(patches.labels[some], np.argmax(c_hat, axis=1))
    return C


def origin(run: str | Path, trained: Trained) -> str:
    """In a line, what a trained network's results rest on."""
    on = "SIMULATED data" if trained.config["data"]["simulated"] else trained.config["data"]["path"]
    epochs, asked = len(runs.read_log(run)), trained.config["settings"]["epochs"]
    unfinished = "" if runs.complete(run) else f", NOT complete: epoch {epochs} of {asked}"
    reduced = systems.reduced(trained.config)
    return f"{run}: {trained.config['system']}{reduced}{',' * bool(reduced)} trained on {on}{unfinished}"


def predict(
    run: str | Path,
    data: str | Path,
    out: Path,
    embeddings: Path | None = None,
    with_probabilities: bool = False,
    *,
    warn: Callable[[str], None],
) -> list[str]:
    """Write the class of every row of a file, which needs no labels, into a CSV file; returns what was done.

    embeddings: a file for the fused feature I of each row too. with_probabilities: a column for each class too.
    Rows that layout.faults finds have no class, and NaN as their I; `warn` takes a line on them. Nothing is
    written before all is known.
    """
    for path in filter(None, (out, embeddings)):
        if path.exists() and Path(data).exists() and path.samefile(data):
            raise ValueError(f"{path} is the data itself: name another file for the labels")
        files.replaceable(path)
    if embeddings is not None:
        weights.check_ending(embeddings)
    trained = load(run)
    columns = [f"p_{name}" for name, _ in paper.CLASSES]
    with so2sat.open_file(data, labels=False) as patches:
        simulated = str(patches.simulated or trained.config["data"]["simulated"]).lower()
        N = len(patches)
        faults = patches.faults()
        sound, bad = np.flatnonzero(faults == ""), faults[faults != ""]
        if len(bad):
            warn(f"{data}: {len(bad)} of {N} rows have no answer, the first: {bad[0]}; {layout.EXPECTED}")
        p = np.full((N, len(columns)), np.nan)
        for rows, c_hat in logits(trained, patches, sound) if len(sound) else ():
            p[rows] = probabilities(c_hat)
        if embeddings is not None and not len(sound):
            raise ValueError(f"{data}: no row can be used, so there is no feature I: {bad[0]}")
        if embeddings is not None:
            of_sound = fused(trained, patches, sound)
            I = np.full((N, of_sound.shape[1]), np.nan, of_sound.dtype)
            I[sound] = of_sound
    head, text = ["row", "class", "number", "name", "simulated"], io.StringIO()
    table = csv.DictWriter(text, head + columns * with_probabilities, extrasaction="ignore", lineterminator="\n")
    table.writeheader()
    for row, shares in enumerate(p):
        cells = {"row": row, "simulated": simulated}
        if not np.isnan(shares).any():
            k = np.argmax(shares)
            cells |= {"class": paper.CLASSES[k][0], "number": k + 1, "name": paper.CLASSES[k][1]}
            cells |= {column: f"{share:.6f}" for column, share in zip(columns, shares, strict=True)}
        table.writerow(cells)
    done = [origin(run, trained), f"{out}: the classes of {len(sound)} rows"]
    files.write_text(out, text.getvalue())
    if embeddings is not None:
        weights.save(embeddings, {"I": I})
        done.append(f"{embeddings}: I {I.shape}")
    return done

"""Figs. 2 and 3 of the paper drawn from our own runs, and curves: confusion matrix, t-SNE, losses by epoch.

`confusion`, `tsne` and `curves` read run folders and return a matplotlib Figure; `write_figures` writes all that
is possible, as .png, .pdf or .svg. They need matplotlib, t-SNE scikit-learn too: the extra [report]. A figure from
simulated data says SIMULATED. The paper's own figures are not redrawn: their numbers were not published.

Index letters: N samples of a file, M of a test part, m of a figure; n d = the length of I.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy.spatial.distance import cdist

from bplcz_ref import paper, program, systems
from bplcz_ref.data import so2sat
from bplcz_ref.data.streams import stream
from bplcz_ref.report import plots
from bplcz_ref.storage import files
from bplcz_ref.training import evaluate, runs

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PER_CLASS = 70  # III-B: "we randomly selected 70 samples per class for t-SNE visualization"
PERPLEXITY = 30  # scikit-learn's default; the paper states none
DPI = 200


class Labelled(NamedTuple):
    """A run folder, and what it is called in figures."""

    folder: Path
    config: dict
    name: str  # of the folder, with as many folders above it as tell all apart
    title: str  # the system in the paper's words, and the name
    label: str  # the title, and the data and the split that the run's figures are of


def labelled(folders: list) -> list[Labelled]:
    """Run folders with their names. Errors: ValueError if one holds no run."""
    paths = [Path(run).resolve().parts[1:] for run in folders]
    n = next(n for n in range(1, 1 + max(map(len, paths))) if len({path[-n:] for path in paths}) == len({*paths}))
    found = []
    for run, path in zip(folders, paths, strict=True):
        config, name = runs.read_config(run), "-".join(path[-n:])
        title = f"{systems.SYSTEMS[config['system']].label}{systems.reduced(config)}, run {name}"
        label = f"{title}, {'SIMULATED data, ' * config['data']['simulated']}{runs.split_label(config)}"
        found.append(Labelled(run, config, name, title, label))
    return found


def write_figures(
    folders: list,
    out: str | Path,
    data: str | Path | None = None,
    *,
    ending: str = "png",
    check: Callable | None = None,
    say: Callable = print,
) -> list[str]:
    """Write every figure that the run folders allow into `out`; returns a line for each one that failed.

    confusion-RUN.png of each run by its folder's name, curves.png of all, tsne.png of those that fuse band groups;
    `ending` may be pdf or svg too. `data` is the file that they were trained on; without it, the path in their
    config.json. `check` is given all paths before anything is drawn; `say` takes each path written, and a line for
    what t-SNE leaves out.
    Errors: ValueError if a folder holds no run, for another file than the one that the runs were trained on, and
    for the root folder as `out`.
    """
    found, out = labelled(list({Path(run).resolve(): Path(run) for run in folders}.values())), Path(out)
    if data is not None:
        check_data(found, data)
    try:
        plots.canvas(1, 1)
    except ValueError as error:
        return [str(error)]
    folders = [run.folder for run in found]
    jobs: dict[str, Callable[[], Figure]] = {
        f"confusion-{run.name}": partial(confusion, run.folder) for run in found
    }
    jobs["curves"] = partial(curves, folders)
    without = [run.title for run in found if not fuses(run)]
    if len(without) < len(found):
        jobs["tsne"] = partial(tsne, folders, data)
    if check is not None:
        check(*(out / f"{name}.{ending}" for name in jobs))
    files.make_folder(out)
    missing = []
    for name, draw in jobs.items():
        try:
            say(str(save(draw(), out / f"{name}.{ending}")))
        except ValueError as error:
            missing.append(f"no {name}.{ending}: {error}")
    if without:  # nothing failed
        say(f"not in tsne.{ending}: {'; '.join(without)} (no fused feature I of Eq. (9))")
    return missing


def save(figure: "Figure", path: Path) -> Path:
    """Write a Figure whole, in the format of the path's ending; returns the path."""
    with files.whole(path) as temporary:
        figure.savefig(temporary, format=path.suffix[1:], dpi=DPI)
    return path


def confusion(run: str | Path, C: np.ndarray | None = None, samples: str = "test samples") -> "Figure":  # (17, 17)
    """Fig. 2: the confusion matrix of a complete run, or its counts C on the `samples` of another file.

    Errors: ValueError without matplotlib, for a run that is not complete.
    """
    (found,) = labelled([run])
    return plots.confusion(runs.read_confusion(run) if C is None else C, found.label, samples)


def curves(folders: list) -> "Figure":
    """L_cls, accuracies, L_con with its floor, mean S and its margin by epoch, a line for each run.

    Errors: ValueError without matplotlib, for a run without a whole epoch.
    """
    logs = [runs.read_log(run) for run in folders]
    for run, rows in zip(folders, logs, strict=True):
        if not rows:
            raise ValueError(f"{Path(run) / 'log.jsonl'} has no epoch yet: train the run further")
    return plots.curves(logs, [run.label for run in labelled(folders)])


def tsne(
    folders: list, data: str | Path | None = None, *, per_class: int = PER_CLASS, seed: int = paper.SEED
) -> "Figure":
    """Fig. 3: t-SNE of the fused feature I, Eq. (9), one panel per run that has it; a note names the others.

    The samples, the same in each panel, are drawn at random from the test part of `data` (other reading of
    III-B: from all samples): `per_class` of each class, or all where a class has fewer; the legend has the
    numbers. I is in evaluation mode and not scaled. Euclidean distances, perplexity 30, from a start at the
    principal components, by scikit-learn.
    data: the file that the runs were tested on; default: the path in the first one's config.json.
    Errors: ValueError without matplotlib or scikit-learn; if no run has I; for a run of another file, or of
    another test part than the first.
    """
    try:
        from sklearn.manifold import TSNE
        from threadpoolctl import threadpool_limits
    except ImportError as error:
        raise ValueError(f"t-SNE needs scikit-learn ({error}): {plots.EXTRA}") from None
    every = labelled(folders)
    found, left_out = list(filter(fuses, every)), "; ".join(run.title for run in every if not fuses(run))
    if not found:
        raise ValueError(f"{left_out}: no fused feature I of Eq. (9)")
    first = found[0]
    if data is None:
        data = runs.test_file(first.config)["path"]
        if not Path(data).exists():
            raise ValueError(
                f"{data}, on which {first.folder} was tested, is not there now: name it with --data FILE.h5"
            )
    check_data(found, data)
    for run in found:
        if run.config["data"]["split"]["test_rows"] != first.config["data"]["split"]["test_rows"]:
            raise ValueError(
                f"{run.folder} has another test part than {first.folder}: compare runs of one seed, per_class and"
                " test"
            )
    with so2sat.open_file(data) as patches:
        rows = sample(patches.labels, evaluate.test_rows(first.config, patches), per_class, seed)
        features = [evaluate.fused(evaluate.load(run.folder), patches, rows) for run in found]
        y = patches.labels[rows]
    # t-SNE looks three times as far as the perplexity, so few samples need a smaller one.
    method = TSNE(perplexity=min(PERPLEXITY, (len(y) - 1) / 3), init="pca", random_state=seed)
    with threadpool_limits(1):  # its threads wait for each other busily: 10 times slower on a busy machine
        points = [method.fit_transform(I) for I in features]
    same = ", of the same samples in each panel" if len(found) > 1 else ""
    fewer = ", or all where there are fewer" if np.bincount(y, minlength=plots.K).min() < per_class else ""
    note = (
        f"t-SNE (perplexity {method.perplexity:.0f}, seed {seed}) of the fused feature I, Eq. (9){same}.\n"
        f"{len(y):,} samples of the test part: {per_class} of each class{fewer}."
    )
    if left_out:
        note += "\n" + plots.wrapped(f"Not shown, since they have no I: {left_out}.", 90)
    return plots.tsne(points, y, [run.label for run in found], [neighbours(I, y) for I in features], note)


def sample(y: np.ndarray, rows: np.ndarray, per_class: int, seed: int) -> np.ndarray:  # (N,), (M,) -> (m,)
    """Of `rows`, `per_class` of each class at random, or all where there are fewer; sorted.

    >>> y, rows = np.array([0, 0, 0, 1, 1, 0]), np.array([0, 1, 2, 3])
    >>> [sample(y, rows, per_class=2, seed=seed).tolist() for seed in (47, 48)]
    [[0, 2, 3], [0, 1, 3]]
    """
    rng = stream(seed, "tsne")
    of_class = [rows[y[rows] == c] for c in np.unique(y[rows])]
    return np.sort(np.concatenate([rng.permutation(own)[:per_class] for own in of_class]))


def neighbours(I: np.ndarray, y: np.ndarray, k: int = 10) -> str:  # (m, n d), (m,)
    """In words, how far classes keep together in I itself, which t-SNE's picture only suggests.

    Formula:  by Euclidean distances
              same = mean over samples j of the share of the k nearest others l with y_l = y_j;
              chance = mean over j of (N_c - 1) / (m - 1), N_c the samples of j's class.

    >>> I, y = np.array([[0.0], [1.0], [5.0], [6.5], [7.0]]), np.array([2, 2, 9, 2, 2])
    >>> neighbours(I, y)[:28]                                     # there are no more than 4 others
    "60 % of a sample's 4 nearest"
    >>> print(neighbours(I, y, k=1))                              # all agree but 5, whose nearest is 6.5
    80 % of a sample's 1 nearest in I are of its class
    (60 % by chance)
    """
    k = min(k, len(y) - 1)
    distances = cdist(I, I)
    np.fill_diagonal(distances, np.inf)
    nearest = np.argpartition(distances, k - 1, axis=1)[:, :k]
    same, chance = np.mean(y[nearest] == y[:, None]), np.mean(np.bincount(y)[y] - 1) / (len(y) - 1)
    return f"{100 * same:.0f} % of a sample's {k} nearest in I are of its class\n({100 * chance:.0f} % by chance)"


def fuses(run: Labelled) -> bool:
    """Whether its network has the fused feature I of Eq. (9)."""
    return systems.fuses(run.config["system"])


def check_data(found: list[Labelled], data: str | Path) -> None:
    """ValueError unless every run was tested on `data`, since a figure shows a run's own test part."""
    with so2sat.open_file(data) as patches:
        for run in found:
            if not runs.same_data(run.config, patches):
                raise ValueError(
                    f"{run.folder} was tested on {runs.test_file(run.config)['path']}, and {data} is another file;"
                    " figures show a run's own test part."
                    f" `{program('evaluate', run.folder, '--data', data)}` gives the accuracy"
                )

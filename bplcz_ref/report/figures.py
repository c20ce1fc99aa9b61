"""Figs. 2 and 3 of the paper drawn from our own runs, and curves: confusion matrix, t-SNE, losses by epoch.

`confusion`, `tsne` and `curves` read run folders and return a matplotlib Figure, whose savefig("fig2.pdf") writes
any format; `write_figures` writes all that is possible as .png. They need matplotlib, t-SNE scikit-learn too: the
extra [report]. A figure from simulated data says SIMULATED. The paper's own figures are not redrawn: their numbers
were not published.

Index letters: N samples of a file, M of a test part, m of a figure; n d = the length of I.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from scipy.spatial.distance import cdist

from bplcz_ref import files, paper, program, systems
from bplcz_ref.data import so2sat
from bplcz_ref.report import pages, plots
from bplcz_ref.streams import stream
from bplcz_ref.training import evaluate, runs

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PER_CLASS = 70  # III-B: "we randomly selected 70 samples per class for t-SNE visualization"
PERPLEXITY = 30  # scikit-learn's default; the paper states none
DPI = 200


def write_figures(
    folders: list, out: str | Path, data: str | Path | None = None, *, say: Callable = print
) -> list[str]:
    """Write every figure that the run folders allow into `out`; returns a line for each one that failed.

    confusion-SYSTEM.png of each run, curves.png of all, tsne.png of those that fuse band groups. `data` is the
    file that they were trained on; without it, the path in their config.json. `say` takes each path written, and a
    line where t-SNE does not apply.
    Errors: ValueError if a folder holds no run, for another file than the one that the runs were trained on, and
    for the root folder as `out`.
    """
    folders, out = list(dict.fromkeys(map(Path, folders))), Path(out)
    configs = [runs.read_config(run) for run in folders]
    if data is not None:
        check_data(folders, configs, data)
    try:
        plots.canvas(1, 1)
    except ValueError as error:
        return [str(error)]
    files.make_folder(out)
    numbers = map(str, range(1, len(folders) + 1))
    names = distinct("-", [config["system"] for config in configs], seeds(configs, "-"), numbers)
    jobs: dict[str, Callable[[], Figure]] = {
        f"confusion-{name}.png": partial(confusion, run) for name, run in zip(names, folders, strict=True)
    }
    jobs["curves.png"] = partial(curves, folders)
    fusing = [run for run, config in zip(folders, configs, strict=True) if systems.fuses(config["system"])]
    if fusing:
        jobs["tsne.png"] = partial(tsne, fusing, data)
    missing = []
    for name, draw in jobs.items():
        try:
            say(str(save(draw(), out / name)))
        except ValueError as error:
            missing.append(f"no {name}: {error}")
    if not fusing:  # nothing failed
        say("no tsne.png: none of these systems fuses band groups by Eq. (9)")
    return missing


def save(figure: "Figure", path: Path) -> Path:
    """Write a Figure whole, as .png; returns the path."""
    with files.whole(path) as temporary:
        figure.savefig(temporary, format="png", dpi=DPI)
    return path


def confusion(run: str | Path, C: np.ndarray | None = None, samples: str = "test samples") -> "Figure":  # (17, 17)
    """Fig. 2: the confusion matrix of a complete run, or its counts C on the `samples` of another file.

    Errors: ValueError without matplotlib, for a run that is not complete.
    """
    (label,) = labels([run], [runs.read_config(run)])
    return plots.confusion(runs.read_confusion(run) if C is None else C, label, samples)


def curves(folders: list) -> "Figure":
    """L_cls, accuracies, L_con with its floor, mean S and its margin by epoch, a line for each run.

    Errors: ValueError without matplotlib, for a run without a whole epoch.
    """
    logs = [runs.read_log(run) for run in folders]
    for run, rows in zip(folders, logs, strict=True):
        if not rows:
            raise ValueError(f"{Path(run) / 'log.jsonl'} has no epoch yet: train the run further")
    return plots.curves(logs, labels(folders, [runs.read_config(run) for run in folders]))


def tsne(
    folders: list, data: str | Path | None = None, *, per_class: int = PER_CLASS, seed: int = paper.SEED
) -> "Figure":
    """Fig. 3: t-SNE of the fused feature I, Eq. (9), one panel per run.

    The samples, the same in each panel, are drawn at random from the test part of `data` (other reading of
    III-B: from all samples): `per_class` of each class, or all where a class has fewer; the legend has the
    numbers. I is in evaluation mode and not scaled. Euclidean distances, perplexity 30, from a start at the
    principal components, by scikit-learn.
    data: the file that the runs were tested on; default: the path in the first one's config.json.
    Errors: ValueError without matplotlib or scikit-learn; for a run without I, of another file, or of another
    test part than the first.
    """
    try:
        from sklearn.manifold import TSNE
        from threadpoolctl import threadpool_limits
    except ImportError as error:
        raise ValueError(f"t-SNE needs scikit-learn ({error}): {plots.EXTRA}") from None
    configs = [runs.read_config(run) for run in folders]
    if data is None:
        data = runs.test_file(configs[0])["path"]
        if not Path(data).exists():
            raise ValueError(
                f"{data}, on which {folders[0]} was tested, is not there now: name it with --data FILE.h5"
            )
    check_data(folders, configs, data)
    for run, config in zip(folders, configs, strict=True):
        if not systems.fuses(config["system"]):
            raise ValueError(f"{run}: {config['system']} takes all bands at once and has no feature I of Eq. (9)")
        if config["data"]["split"]["test_rows"] != configs[0]["data"]["split"]["test_rows"]:
            raise ValueError(
                f"{run} has another test part than {folders[0]}: compare runs of one seed, per_class and test"
            )
    with so2sat.open_file(data) as patches:
        rows = sample(patches.labels, evaluate.test_rows(configs[0], patches), per_class, seed)
        features = [evaluate.fused(evaluate.load(run), patches, rows) for run in folders]
        y = patches.labels[rows]
    # t-SNE looks three times as far as the perplexity, so few samples need a smaller one.
    method = TSNE(perplexity=min(PERPLEXITY, (len(y) - 1) / 3), init="pca", random_state=seed)
    with threadpool_limits(1):  # its threads wait for each other busily: 10 times slower on a busy machine
        points = [method.fit_transform(I) for I in features]
    same = ", of the same samples in each panel" if len(folders) > 1 else ""
    fewer = ", or all where there are fewer" if np.bincount(y, minlength=plots.K).min() < per_class else ""
    note = (
        f"t-SNE (perplexity {method.perplexity:.0f}, seed {seed}) of the fused feature I, Eq. (9){same}.\n"
        f"{len(y):,} samples of the test part: {per_class} of each class{fewer}."
    )
    return plots.tsne(points, y, labels(folders, configs), [neighbours(I, y) for I in features], note)


# ----------------------------------------------------------------------------------------------------- features


def sample(y: np.ndarray, rows: np.ndarray, per_class: int, seed: int) -> np.ndarray:  # (N,), (M,) -> (m,)
    """Of `rows`, `per_class` of each class at random, or all where there are fewer; sorted.

    >>> sample(np.array([0, 0, 0, 1, 1, 0]), np.array([0, 1, 3]), per_class=2, seed=47).tolist()
    [0, 1, 3]
    """
    rng = stream(seed, "tsne")
    of_class = [rows[y[rows] == c] for c in np.unique(y[rows])]
    return np.sort(np.concatenate([rng.permutation(own)[:per_class] for own in of_class]))


def neighbours(I: np.ndarray, y: np.ndarray, k: int = 10) -> str:  # (m, n d), (m,)
    """In words, how far classes keep together in I itself, which t-SNE's picture only suggests.

    Formula:  by Euclidean distances
              same = mean over samples j of the share of the k nearest others l with y_l = y_j;
              chance = mean over j of (N_c - 1) / (m - 1), N_c the samples of j's class.

    >>> I = np.array([[0.0], [1.0], [5.0], [6.5]])
    >>> print(neighbours(I, np.array([2, 2, 9, 2]), k=1))      # 0-1 and 1-0 agree, 5-6.5 and 6.5-5 do not
    50 % of a sample's 1 nearest in I are of its class
    (50 % by chance)
    """
    k = min(k, len(y) - 1)
    distances = cdist(I, I)
    np.fill_diagonal(distances, np.inf)
    nearest = np.argpartition(distances, k - 1, axis=1)[:, :k]
    same, chance = np.mean(y[nearest] == y[:, None]), np.mean(np.bincount(y)[y] - 1) / (len(y) - 1)
    return f"{100 * same:.0f} % of a sample's {k} nearest in I are of its class\n({100 * chance:.0f} % by chance)"


def check_data(folders: list, configs: list[dict], data: str | Path) -> None:
    """ValueError unless every run was tested on `data`, since a figure shows a run's own test part."""
    with so2sat.open_file(data) as patches:
        for run, config in zip(folders, configs, strict=True):
            if not runs.same_data(config, patches):
                raise ValueError(
                    f"{run} was tested on {runs.test_file(config)['path']}, and {data} is another file; figures"
                    f" show a run's own test part. `{program('evaluate', run, '--data', data)}` gives the accuracy"
                )


# -------------------------------------------------------------------------------------------------------- names


def labels(folders: list, configs: list[dict]) -> list[str]:
    """What each run is called in a figure: its system in the paper's words, its seed or folder where needed."""
    systems_ = [systems.SYSTEMS[config["system"]].label + pages.reduced(config) for config in configs]
    names = distinct(", ", systems_, seeds(configs, " "), map(str, folders))
    simulated = ["SIMULATED data, " * config["data"]["simulated"] for config in configs]
    splits = map(runs.split_label, configs)
    return [f"{name}, {data}{split}" for name, data, split in zip(names, simulated, splits, strict=True)]


def seeds(configs: list[dict], space: str) -> list[str]:
    """A word for the seed of each run."""
    return [f"seed{space}{config['settings']['seed']}" for config in configs]


def distinct(separator: str, names: list[str], *more) -> list[str]:
    """`names`, followed by the words in each of `more` where two would still be the same.

    >>> distinct(", ", ["EB-CNN", "EB-CNN", "ExViT"], ["seed 47", "seed 48", "seed 47"])
    ['EB-CNN, seed 47', 'EB-CNN, seed 48', 'ExViT']
    """
    for words in more:
        pairs = zip(names, words, strict=True)
        names = [f"{name}{separator}{word}" if names.count(name) > 1 else name for name, word in pairs]
    return names

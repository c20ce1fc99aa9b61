"""Figs. 2 and 3 of the paper drawn from our own runs, and curves: confusion matrix, t-SNE, losses by epoch.

Each function reads run folders and writes one file; `write_figures` writes all that is possible. They need
matplotlib, t-SNE scikit-learn too: the extra [report]. A figure from simulated data says SIMULATED. The paper's
own figures are not redrawn: their numbers were not published.

Index letters: N samples of a file, M of a test part, m of a figure; n d = the length of I.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from scipy.spatial.distance import cdist

from bplcz_ref import files, paper, systems
from bplcz_ref.data import so2sat
from bplcz_ref.data.so2sat import Patches
from bplcz_ref.report import plots
from bplcz_ref.streams import stream
from bplcz_ref.training import evaluate, runs

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PER_CLASS = 70  # III-B: "we randomly selected 70 samples per class for t-SNE visualization"
PERPLEXITY = 30  # scikit-learn's default; the paper states none
DPI = 200


def evaluation_figure(C: np.ndarray, run: str | Path, samples: str, path: str | Path) -> Path:
    """The confusion matrix of a run on any rows, such as `evaluate` counts it; returns the path written."""
    path, (label,) = checked(path), labels([run], [runs.read_config(run)])
    return save(plots.draw_confusion(C, label, samples), path)


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
    folders, out = distinct_folders(folders), Path(out)
    configs = [runs.read_config(run) for run in folders]
    if data is not None:
        check_data(folders, configs, data)
    try:
        plots.canvas(1, 1)
    except ValueError as error:
        return [str(error)]
    files.make_folder(out)
    numbers = map(str, range(1, len(folders) + 1))
    names = distinct("-", [config["system"] for config in configs], seeds(configs), numbers)
    jobs: dict[str, Callable[[Path], Path]] = {}
    for run, name in zip(folders, names, strict=True):
        jobs[f"confusion-{name.replace(' ', '-')}.png"] = partial(confusion_figure, run)
    jobs["curves.png"] = partial(curves_figure, folders)
    fusing = [run for run, config in zip(folders, configs, strict=True) if systems.fuses(config["system"])]
    missing = []
    if fusing:
        jobs["tsne.png"] = lambda path: tsne_figure(fusing, data or tested_on(fusing[0]), path)
    for file, make in jobs.items():
        try:
            say(str(make(out / file)))
        except ValueError as error:
            missing.append(f"no {file}: {error}")
    if not fusing:  # nothing failed
        say("no tsne.png: none of these systems fuses band groups by Eq. (9)")
    return missing


def confusion_figure(run: str | Path, path: str | Path) -> Path:
    """Fig. 2: the confusion matrix of a complete run as a figure; returns the path written.

    Errors: ValueError without matplotlib, for an ending that it cannot write, for a run that is not complete.
    """
    config = runs.read_config(run)
    path, (label,) = checked(path), labels([run], [config])
    return save(plots.draw_confusion(runs.read_confusion(run), label), path)


def tsne_figure(
    folders: list, data: str | Path, path: str | Path, *, per_class: int = PER_CLASS, seed: int = paper.SEED
) -> Path:
    """Fig. 3: t-SNE of the fused feature I, Eq. (9), one panel per run; returns the path written.

    The samples, the same in each panel, are drawn at random from the test part of `data` (other reading of
    III-B: from all samples): `per_class` of each class, or all where a class has fewer; the legend has the
    numbers. I is in evaluation mode and not scaled. Euclidean distances, perplexity 30, from a start at the
    principal components, by scikit-learn.
    Errors: ValueError without matplotlib or scikit-learn; for a run without I, of another file, or of another
    test part than the first.
    """
    path, folders, embed = checked(path), distinct_folders(folders), embedding(seed)
    configs = [runs.read_config(run) for run in folders]
    for run, config in zip(folders, configs, strict=True):
        if not systems.fuses(config["system"]):
            raise ValueError(f"{run}: {config['system']} takes all bands at once and has no feature I of Eq. (9)")
    check_data(folders, configs, data)
    with so2sat.open_file(data) as patches:
        rows = sample(patches.labels, common_test(folders, configs, patches), per_class, seed)
        features = [evaluate.fused(evaluate.load(run), patches, rows) for run in folders]
        y = patches.labels[rows]
    fewer = np.bincount(y, minlength=len(paper.CLASSES)).min() < per_class
    note = (
        f"t-SNE (perplexity {perplexity(len(y)):.0f}, seed {seed}) of the fused feature I, Eq. (9)"
        f"{', of the same samples in each panel' if len(folders) > 1 else ''}.\n"
        f"{len(y):,} samples of the test part: {per_class} of each class"
        f"{', or all where there are fewer' if fewer else ''}."
    )
    points, same = [embed(I) for I in features], [neighbours(I, y) for I in features]
    return save(plots.draw_tsne(points, y, labels(folders, configs), same, note), path)


def curves_figure(folders: list, path: str | Path) -> Path:
    """L_cls, accuracies, L_con with its floor, mean S and its margin by epoch, a line for each run; the path.

    Errors: ValueError without matplotlib, for an ending that it cannot write, for a run without a whole epoch.
    """
    path, folders = checked(path), distinct_folders(folders)
    configs, found = [runs.read_config(run) for run in folders], []
    for run, label in zip(folders, labels(folders, configs), strict=True):
        rows = runs.read_log(run)
        if not rows:
            raise ValueError(f"{run / 'log.jsonl'} has no epoch yet: train the run further")
        found.append(plots.Curve(label, rows))
    return save(plots.draw_curves(found), path)


# ----------------------------------------------------------------------------------------------------- features


def sample(labels: np.ndarray, rows: np.ndarray, per_class: int, seed: int) -> np.ndarray:  # (N,), (M,) -> (m,)
    """Of `rows`, `per_class` of each class at random, or all where there are fewer; sorted.

    >>> sample(np.array([0, 0, 0, 1, 1, 0]), np.array([0, 1, 3]), per_class=2, seed=47).tolist()
    [0, 1, 3]
    """
    if per_class < 1:
        raise ValueError(f"per_class is {per_class}; expected 1 or more")
    rng = stream(seed, "tsne")
    of_class = [rows[labels[rows] == c] for c in np.unique(labels[rows])]
    return np.sort(np.concatenate([rng.permutation(own)[:per_class] for own in of_class]))


def check_data(folders: list[Path], configs: list[dict], data: str | Path) -> None:
    """ValueError unless every run was tested on `data`, since a figure shows a run's own test part."""
    with so2sat.open_file(data) as patches:
        for run, config in zip(folders, configs, strict=True):
            if not runs.same_data(config, patches):
                raise ValueError(
                    f"{run} was tested on {runs.test_file(config)['path']}, and {data} is another file; figures"
                    " show a run's own test part. `evaluate` gives the accuracy on others"
                )


def common_test(folders: list[Path], configs: list[dict], patches: Patches) -> np.ndarray:  # -> (M,)
    """The rows that every run was tested on; ValueError if their test parts differ."""
    tested = [config["data"]["split"]["test_rows"] for config in configs]
    for run, digest in zip(folders, tested, strict=True):
        if digest != tested[0]:
            raise ValueError(
                f"{run} has another test part than {folders[0]}: compare runs of one seed, per_class and test"
            )
    return evaluate.test_rows(configs[0], patches)


def embedding(seed: int) -> Callable[[np.ndarray], np.ndarray]:  # -> function of I (m, n d) -> (m, 2)
    """t-SNE by scikit-learn, or a ValueError that names the extra."""
    try:
        from sklearn.manifold import TSNE
        from threadpoolctl import threadpool_limits
    except ImportError as error:
        raise ValueError(f"t-SNE needs scikit-learn ({error}): {plots.EXTRA}") from None

    def embed(I):
        if len(I) < 4:
            raise ValueError(f"t-SNE of {len(I)} samples: expected 4 or more")
        method = TSNE(perplexity=perplexity(len(I)), init="pca", random_state=seed)
        with threadpool_limits(1):  # its threads wait for each other busily: 10 times slower on a busy machine
            return method.fit_transform(I)

    return embed


def perplexity(m: int) -> float:
    """PERPLEXITY, or a third of the other samples where they are few, since t-SNE looks three times as far."""
    return min(PERPLEXITY, (m - 1) / 3)


def neighbours(I: np.ndarray, y: np.ndarray, k: int = 10) -> plots.Neighbours:  # (m, n d), (m,)
    """How far classes keep together in I itself, which t-SNE's picture only suggests. Euclidean distances.

    Formula:  same = mean over samples j of the share of the k nearest others l with y_l = y_j;
              chance = mean over j of (N_c - 1) / (m - 1), N_c the samples of j's class.

    >>> I = np.array([[0.0], [1.0], [5.0], [6.5]])
    >>> neighbours(I, np.array([2, 2, 9, 2]), k=1)             # 0-1 and 1-0 agree, 5-6.5 and 6.5-5 do not
    Neighbours(same=0.5, chance=0.5, k=1)
    """
    k = min(k, len(y) - 1)
    distances = cdist(I, I)
    np.fill_diagonal(distances, np.inf)
    nearest = np.argpartition(distances, k - 1, axis=1)[:, :k]
    chance = np.mean(np.bincount(y)[y] - 1) / (len(y) - 1)
    return plots.Neighbours(float(np.mean(y[nearest] == y[:, None])), float(chance), k)


# -------------------------------------------------------------------------------------------------------- names


def distinct_folders(folders: list | str | Path) -> list[Path]:
    """One run folder or several, each once."""
    found = [Path(run) for run in ([folders] if isinstance(folders, str | Path) else folders)]
    if not found:
        raise ValueError("there is no run to draw: name at least one run folder")
    return list(dict.fromkeys(found))


def tested_on(run: Path) -> str:
    """The path of the file that a run's test part is of."""
    path = runs.test_file(runs.read_config(run))["path"]
    if not Path(path).exists():
        raise ValueError(f"{path}, on which {run} was tested, is not there now: name it with --data FILE.h5")
    return path


def labels(folders: list, configs: list[dict]) -> list[str]:
    """What each run is called in a figure: its system in the paper's words, its seed or folder where needed."""
    systems_ = [systems.SYSTEMS[config["system"]].label for config in configs]
    names = distinct(", ", systems_, seeds(configs), map(str, folders))
    marks = [
        f", {'SIMULATED data, ' * config['data']['simulated']}{runs.split_label(config)}" for config in configs
    ]
    return [name + mark for name, mark in zip(names, marks, strict=True)]


def seeds(configs: list[dict]) -> list[str]:
    """A word for the seed of each run."""
    return [f"seed {config['settings']['seed']}" for config in configs]


def distinct(separator: str, names: list[str], *more) -> list[str]:
    """`names`, followed by the words in each of `more` where two would still be the same.

    >>> distinct(", ", ["EB-CNN", "EB-CNN", "ExViT"], ["seed 47", "seed 48", "seed 47"])
    ['EB-CNN, seed 47', 'EB-CNN, seed 48', 'ExViT']
    """
    for words in more:
        pairs = list(zip(names, words, strict=True))
        names = [f"{name}{separator}{word}" if names.count(name) > 1 else name for name, word in pairs]
    return names


# -------------------------------------------------------------------------------------------------------- files


def checked(path: str | Path) -> Path:
    """The path of a figure, .png if it has no ending; ValueError without matplotlib or for an unknown ending."""
    known = plots.canvas(1, 1).canvas.get_supported_filetypes()
    path = Path(path)
    path = path if path.suffix else path.with_name(path.name + ".png")
    if path.suffix[1:].lower() not in known:
        raise ValueError(f"{path}: no figure ends in {path.suffix!r}; expected one of {', '.join(sorted(known))}")
    return path


def save(figure: "Figure", path: Path) -> Path:
    """Write a Figure whole, in the format of the path's ending; returns the path."""
    with files.whole(path) as temporary:
        figure.savefig(temporary, format=path.suffix[1:].lower(), dpi=DPI)
    return path

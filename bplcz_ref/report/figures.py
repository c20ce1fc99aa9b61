"""Figs. 2 and 3 of the paper drawn from our own runs, and curves: confusion matrix, t-SNE, losses by epoch.

`confusion`, `tsne` and `curves` read run folders and write one file each, `write` all that is possible. They need
matplotlib, t-SNE scikit-learn too: python -m pip install "bplcz-ref[report]". What comes from simulated data says
SIMULATED in the figure itself. Refuses to redraw the paper's own figures, whose numbers were not published.
"""

from pathlib import Path

import numpy as np
from scipy.spatial.distance import cdist

from bplcz_ref import files, metrics, paper, systems
from bplcz_ref.data import so2sat
from bplcz_ref.report import plots
from bplcz_ref.streams import stream
from bplcz_ref.training import train

PER_CLASS = 70  # III-B: "we randomly selected 70 samples per class for t-SNE visualization"
PERPLEXITY = 30  # scikit-learn's default; the paper states none
DPI = 200


def write(runs, out, data=None, *, say=print):
    """Every figure that `runs` allow, into the folder `out`; returns a line for each that could not be made.

    confusion-SYSTEM.png of each run, curves.png of all, tsne.png of those that fuse band groups. `data` is the
    file that they were trained on; without it, the path in their config.json. `say` takes each path written.
    Errors: ValueError if a folder of `runs` holds no run.
    """
    runs, out = folders(runs), Path(out)
    configs = [read(run) for run in runs]
    try:
        plots.canvas(1, 1)
    except ValueError as error:
        return [str(error)]
    names = distinct("-", [c["system"] for c in configs], seeds(configs), map(str, range(1, len(runs) + 1)))
    jobs = [
        (confusion, run, out / f"confusion-{name.replace(' ', '-')}.png")
        for run, name in zip(runs, names, strict=True)
    ]
    jobs.append((curves, runs, out / "curves.png"))
    missing, fusing = [], [run for run, c in zip(runs, configs, strict=True) if fuses(c)]
    if fusing:
        jobs.append((lambda runs, path: tsne(runs, data or trained_on(runs[0]), path), fusing, out / "tsne.png"))
    else:
        missing.append("no tsne.png: none of these systems fuses band groups by Eq. (9)")
    for make, source, path in jobs:
        try:
            say(str(make(source, path)))
        except ValueError as error:
            missing.append(f"no {path.name}: {error}")
    return missing


def confusion(run, path):
    """Fig. 2: the confusion matrix of a complete run as a figure; returns the path written.

    Errors: ValueError without matplotlib, for an ending that it cannot write, for a run that is not complete.
    """
    path, (label,) = checked(path), labels([run], [read(run)])
    return save(plots.confusion(read_confusion(run), label), path)


def tsne(runs, data, path, *, per_class=PER_CLASS, seed=paper.SEED):
    """Fig. 3: t-SNE of the fused feature I, Eq. (9), a panel for each run; returns the path written.

    The samples, the same in each panel, are drawn at random from the test part of `data` (other reading of
    III-B: from all samples): `per_class` of each class, or all where a class has fewer; the legend has the
    numbers. I is in evaluation mode and not scaled. Euclidean distances, perplexity 30, from a start at the
    principal components, by scikit-learn.
    Errors: ValueError without matplotlib or scikit-learn; for a run without I, of another file, or of another
    test part than the first.
    """
    path, runs, embed = checked(path), folders(runs), embedding(seed)
    configs = [read(run) for run in runs]
    for run, config in zip(runs, configs, strict=True):
        if not fuses(config):
            raise ValueError(f"{run}: {config['system']} takes all bands at once and has no feature I of Eq. (9)")
    with so2sat.open_file(data) as patches:
        rows = sample(patches.labels, common_test(runs, configs, patches), per_class, seed)
        features = [fused(run, patches, rows) for run in runs]
        y = patches.labels[rows]
    fewer = np.bincount(y, minlength=len(paper.CLASSES)).min() < per_class
    note = (
        f"t-SNE (perplexity {perplexity(len(y)):.0f}, seed {seed}) of the fused feature I, Eq. (9)"
        f"{', of the same samples in each panel' if len(runs) > 1 else ''}.\n{len(y):,} samples of the test part: "
        f"{per_class} of each class{', or all where there are fewer' if fewer else ''}."
    )
    points, same = [embed(I) for I in features], [neighbours(I, y) for I in features]
    return save(plots.tsne(points, y, labels(runs, configs), same, note), path)


def curves(runs, path):
    """L_cls, training accuracy, L_con with its floor, and mean S by epoch, a line a run; returns the path written.

    Errors: ValueError without matplotlib, for an ending that it cannot write, for a run without a whole epoch.
    """
    path, runs = checked(path), folders(runs)
    configs, found = [read(run) for run in runs], []
    for run, config, label in zip(runs, configs, labels(runs, configs), strict=True):
        rows, chosen = train.read_log(run), train.settings_of(run, config)
        if not rows:
            raise ValueError(f"{run / 'log.jsonl'} has no epoch yet: train the run further")
        floors = [train.floor(config["system"], chosen, row["positive_fraction"]) for row in rows]
        found.append(plots.Curve(label, rows, floors))
    return save(plots.curves(found), path)


# ------------------------------------------------------------------------------------------------------ features


def sample(labels, rows, per_class, seed):  # (N,), (M,) -> (m,)
    """Of `rows`, `per_class` of each class at random, or all where there are fewer; sorted.

    >>> sample(np.array([0, 0, 0, 1, 1, 0]), np.array([0, 1, 3]), per_class=2, seed=47).tolist()
    [0, 1, 3]
    """
    if per_class < 1:
        raise ValueError(f"per_class is {per_class}; expected 1 or more")
    rng = stream(seed, "tsne")
    of_class = [rows[labels[rows] == c] for c in np.unique(labels[rows])]
    return np.sort(np.concatenate([rng.permutation(own)[:per_class] for own in of_class]))


def common_test(runs, configs, patches):  # -> (M,)
    """The rows that every one of `runs` was tested on; ValueError if their files or test parts differ."""
    first = None
    for run, config in zip(runs, configs, strict=True):
        if config["data"]["labels"] != files.digest(patches.labels):
            raise ValueError(
                f"{run} was trained on {config['data']['path']}, and {patches.path} has other labels: "
                "give the file that it was trained on, whose test part is known"
            )
        _, rows = train.parts(patches, train.settings_of(run, config))
        first = rows if first is None else first
        if not np.array_equal(np.sort(rows), np.sort(first)):
            raise ValueError(
                f"{run} has another test part than {runs[0]}: compare runs of one seed, per_class and test"
            )
    return first


def fuses(config):
    """Whether a run's system has the fused feature I; that depends on no setting."""
    return systems.build(config["system"], systems.PAPER).fused is not None


def fused(run, patches, rows):  # -> (N, n d)
    """I of Eq. (9) for `rows`, in evaluation mode."""
    network, params, state, statistics, dtype, _ = train.load(run)
    chunks = np.split(rows, range(64, len(rows), 64))
    return np.concatenate(
        [network.fused(params, state, train.batch(patches, some, statistics, dtype)[0]) for some in chunks]
    )


def embedding(seed):  # -> function of I (N, n d) -> (N, 2)
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


def perplexity(N):
    """PERPLEXITY, or a third of the other samples where they are few, since t-SNE looks three times as far."""
    return min(PERPLEXITY, (N - 1) / 3)


def neighbours(I, y, k=10):  # (N, d), (N,) -> plots.Neighbours
    """How far classes keep together in I itself, which t-SNE's picture only suggests. Euclidean distances.

    Formula:  same = mean over samples j of the share of the k nearest others l with y_l = y_j;
              chance = mean over j of (N_c - 1) / (N - 1), N_c the samples of j's class.

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


# --------------------------------------------------------------------------------------------------- run folders


def folders(runs):
    """One run folder or several -> [Path], each once."""
    found = list(dict.fromkeys(Path(run) for run in ([runs] if isinstance(runs, str | Path) else runs)))
    if not found:
        raise ValueError("there is no run to draw: name at least one run folder")
    return found


def read(run):
    """A run's config.json."""
    path = Path(run) / "config.json"
    config = files.read_json(path)
    system = config.get("system") if isinstance(config, dict) else None
    if system not in systems.SYSTEMS:
        raise ValueError(f"{path}: system is {system!r}; expected one of {', '.join(systems.SYSTEMS)}")
    return config


def trained_on(run):
    """The path of the file that a run was trained on."""
    path = read(run)["data"]["path"]
    if not Path(path).exists():
        raise ValueError(f"{path}, on which {run} was trained, is not there now: name it with --data FILE.h5")
    return path


def read_confusion(run):  # -> (17, 17)
    """The counts of a run's confusion.csv: rows the truth, columns the prediction."""
    path, names = Path(run) / "confusion.csv", [name for name, _ in paper.CLASSES]
    if not path.exists():
        raise ValueError(f"{path}: there is no such file; it appears when the run is complete")
    header, *lines = [line.split(",") for line in path.read_text(encoding="utf-8").splitlines() or [""]]
    if header != ["truth \\ predicted", *names] or [line[0] for line in lines] != names:
        raise ValueError(
            f"{path}: expected the header 'truth \\ predicted', {', '.join(names)}, then a row for each"
        )
    try:
        C = np.array([[int(cell) for cell in line[1:]] for line in lines])
        metrics.overall_accuracy(C)  # refuses what is not a matrix of counts
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return C


def labels(runs, configs):
    """What each run is called in a figure: its system in the paper's words, its seed or folder where needed."""
    names = distinct(", ", [systems.SYSTEMS[c["system"]].label for c in configs], seeds(configs), map(str, runs))
    marks = [", SIMULATED data" if config["data"]["simulated"] else "" for config in configs]
    return [name + mark for name, mark in zip(names, marks, strict=True)]


def seeds(configs):
    """A word for the seed of each run."""
    return [f"seed {config['settings']['seed']}" for config in configs]


def distinct(separator, names, *more):
    """`names`, followed by the words in each of `more` where two would still be the same.

    >>> distinct(", ", ["EB-CNN", "EB-CNN", "ExViT"], ["seed 47", "seed 48", "seed 47"])
    ['EB-CNN, seed 47', 'EB-CNN, seed 48', 'ExViT']
    """
    for words in more:
        pairs = list(zip(names, words, strict=True))
        names = [f"{name}{separator}{word}" if names.count(name) > 1 else name for name, word in pairs]
    return names


# --------------------------------------------------------------------------------------------------------- files


def checked(path):
    """The path of a figure, .png if it has no ending; ValueError without matplotlib or for an unknown ending."""
    known = plots.canvas(1, 1).canvas.get_supported_filetypes()
    path = Path(path)
    path = path if path.suffix else path.with_name(path.name + ".png")
    if path.suffix[1:].lower() not in known:
        raise ValueError(f"{path}: no figure ends in {path.suffix!r}; expected one of {', '.join(sorted(known))}")
    return path


def save(figure, path):
    """Write a Figure whole, in the format of the path's ending; returns the path."""
    with files.whole(path) as temporary:
        figure.savefig(temporary, format=path.suffix[1:].lower(), dpi=DPI)
    return path

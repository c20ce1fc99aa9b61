"""Records the training runs of chapter 5: python docs/record.py [small] [losses] writes docs/recorded/*.json.

small    the preset `small` with the paper's loss: both pulls on the features at every step (about 1 minute)
losses   a smaller network with each contrastive loss and three seeds: accuracy, cosines (about 10 minutes)

All data are simulated, and trained on by `training.train.fit`. A run is the same bits again on one machine and
version; elsewhere roundings differ, and after many steps so do the digits.
"""

import json
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from autograd import grad

from bplcz_ref import __version__, equations, metrics, nn, paper, systems, theory, variants
from bplcz_ref.data import simulate, so2sat, standardise
from bplcz_ref.data.streams import stream
from bplcz_ref.encoders import prefixes
from bplcz_ref.training import split, train
from bplcz_ref.training.progress import Reporter

FOLDER = Path(__file__).parent / "recorded"
SEEDS = (47, 48, 49)
# The runs of `losses`: 16 x 16 pixels, the means of 2 x 2, and a smaller network than the preset `small`.
REDUCED = systems.SMALL._replace(width=8, features=32, text_width=32, epochs=6, test=500)
LOSSES = {  # name: (system, settings that differ)
    "none": ("ebcnn", {}),
    "paper": ("ebcnn-bplcz", {}),
    "paper, alpha = 1": ("ebcnn-bplcz", {"alpha": 1.0}),
    **{name: ("ebcnn-bplcz", {"contrastive": name}) for name in variants.VARIANTS if name != "paper"},
    "siglip, beta = 2/32": ("ebcnn-bplcz", {"contrastive": "siglip", "beta": paper.BETA / paper.BATCH}),
}
EVERY = 4  # steps between two records of a run of `losses`


# ---------------------------------------------------------------- what is measured


def of_classes(features: np.ndarray, y: np.ndarray) -> np.ndarray:  # (n, B, d), (B,) -> (n, K', d)
    """The mean feature of each class that occurs; for texts, which are equal within a class, its text."""
    return np.stack([features[:, y == c].mean(axis=1) for c in np.unique(y)], axis=1)


def between(texts: np.ndarray) -> float:  # (n, K', d) -> scalar
    """The mean cosine between the texts of two classes."""
    v = texts / np.linalg.norm(texts, axis=-1, keepdims=True)
    return float((v @ v.swapaxes(1, 2))[:, *np.triu_indices(v.shape[1], 1)].mean())


def lengths(gradient: np.ndarray, y: np.ndarray) -> list[float]:  # (n, B, d) -> lengths
    """The lengths of three parts at right angles: common to all images, differing by class, within classes."""
    common = gradient.mean(axis=1, keepdims=True)
    by_class = of_classes(gradient, y)[:, np.unique(y, return_inverse=True)[1]]
    parts = common + 0 * gradient, by_class - common, gradient - by_class
    return [float(np.linalg.norm(part)) for part in parts]


def pulls(params: dict, trace: dict, y: np.ndarray, settings: systems.Settings) -> dict:
    """Lengths of dL_cls/dI and of the parts of beta dL_con/dI, over the features of a batch."""
    I_i, T_i, c_hat = trace["I_i"], trace["T_i"], trace["c_hat"]

    def L_con(I_i):
        return equations.objective(I_i, T_i, y, c_hat, settings.alpha, settings.beta)["L_con"]

    def L_cls(I):
        return equations.cross_entropy(nn.linear(I, **params["classifier"]), y)

    from_con = settings.beta * np.stack(list(grad(L_con)(I_i).values()))
    common, by_class, within = lengths(from_con, y)
    from_cls = float(np.linalg.norm(grad(L_cls)(trace["I"])))
    return {"cls": from_cls, "con_common": common, "con_by_class": by_class, "con_within": within}


def mean_logits(S: np.ndarray, y: np.ndarray) -> dict:
    """The means of S over positive and over negative pairs."""
    same = y[:, None] == y
    return {"S_positive": float(S[same].mean()), "S_negative": float(S[~same].mean())}


# ---------------------------------------------------------------- data and the loop


def data(settings: systems.Settings, pool: int) -> tuple:
    """((x, y) of the training part, (x, y) of the test part), standardised, pool x pool pixels as their mean."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "simulated.h5"
        simulate.write_file(path, per_class=settings.per_class, rows=settings.test, seed=paper.SEED)
        with so2sat.open_file(path) as patches:
            rows = split.decide(patches, settings)[:2]
            statistics = standardise.statistics(patches, rows[0], settings.clip_sen1)
            x = [standardise.standardise(patches.images(some), statistics) for some in rows]
            y = [patches.labels[some] for some in rows]
    side = paper.PATCH // pool
    x = [images.reshape(-1, side, pool, side, pool, images.shape[-1]).mean(axis=(2, 4)) for images in x]
    return tuple(zip(x, y, strict=True))


def trained(system: str, settings: systems.Settings, x: np.ndarray, y: np.ndarray, watch) -> tuple:
    """(network, params, state) after all epochs; `watch(step, params, trace, labels)` sees each batch first."""
    network = systems.build(system, settings)
    config = {"system": system, "settings": settings._asdict(), "dtype": "float32"}
    # In the place of an open file:
    patches = SimpleNamespace(labels=y, images=lambda rows, dtype: x[rows], digests=lambda rows: rows)
    as_it_is = standardise.Statistics(np.zeros(x.shape[-1]), np.ones(x.shape[-1]))
    with tempfile.TemporaryDirectory() as folder:
        run = train.Run(Path(folder), config, patches, np.arange(len(y)), network, settings)
        at = train.start(run, None, np.arange(0))._replace(statistics=as_it_is)
        at = train.fit(run, at, Reporter(say=lambda line: None), watch)
    return network, at.params, at.state


# ---------------------------------------------------------------- the records


def small() -> dict:
    """Every step of the preset `small`, and the paper's preset at its first batch."""
    settings, R = systems.SMALL, systems.SMALL.alpha * len(paper.GROUPS)
    (x, y), _ = data(settings, pool=1)
    rows = []

    def watch(step, params, trace, labels):
        I_i, T_i = (np.stack(list(trace[name].values())) for name in ("I_i", "T_i"))
        row = {"step": step, "L_cls": float(trace["L_cls"]), "L_con": float(trace["L_con"])}
        row["floor"] = theory.batch_floor(labels, R).lower
        row["classless"] = theory.classless_optimum(R, float(trace["W"].mean()))
        row |= pulls(params, trace, labels, settings) | mean_logits(trace["S"], labels)
        row["length"] = float(np.linalg.norm(I_i, axis=-1).mean())
        rows.append(row | {"texts": between(of_classes(T_i, labels))})

    trained("ebcnn-bplcz", settings, x, y, watch)
    first = stream(settings.seed, "shuffle", 0).permutation(len(y))[: systems.PAPER.batch]
    network = systems.build("ebcnn-bplcz", systems.PAPER)
    params, state = network.init(stream(settings.seed, "init"), np.dtype("float32"))
    trace = nn.value_and_gradients(lambda p: network.loss(p, state, (x[first], y[first])), params)[2]
    return {
        "seeds": [settings.seed],
        "settings": {"system": "ebcnn-bplcz", "preset": "small"},
        "paper_at_start": pulls(params, trace, y[first], systems.PAPER),
        "steps": {name: [row[name] for row in rows] for name in rows[0]},
    }


def losses() -> dict:
    """Each contrastive loss with each seed: its results, and the texts' cosine by step."""
    found: dict = {name: [] for name in LOSSES}
    for seed in SEEDS:
        training, test = data(REDUCED._replace(seed=seed), pool=2)
        for name, (system, changes) in LOSSES.items():
            settings = REDUCED._replace(seed=seed, **changes)
            found[name].append(one_run(system, settings, training, test))
            print(f"{name}, seed {seed}: OA {found[name][-1]['OA']:.1%}", file=sys.stderr)
    named = {name: {"system": system} | changes for name, (system, changes) in LOSSES.items()}
    return {
        "seeds": list(SEEDS),
        "settings": systems.changed(REDUCED) | {"preset": "small", "pixels": paper.PATCH // 2},
        "losses": {name: named[name] | {"runs": runs} for name, runs in found.items()},
    }


def one_run(system: str, settings: systems.Settings, training: tuple, test: tuple) -> dict:
    """OA on the test part; with texts also OA by prompts, the last epoch's mean logits, and the texts' cosines."""
    by_step, logits = [], []

    def watch(step, params, trace, labels):
        if "S" in trace:
            logits.append(mean_logits(trace["S"], labels))
        if "S" in trace and step % EVERY == 0:
            by_step.append([step, between(of_classes(np.stack(list(trace["T_i"].values())), labels))])

    network, params, state = trained(system, settings, *training, watch)
    found = {"OA": accuracy(network.apply(params, state, test[0], train=False)[0], test[1])}
    if by_step:
        n = len(paper.GROUPS)
        made = systems.prompting(systems.find(system), settings)
        trees = prefixes.pack(made["tokens"])
        T, _ = prefixes.encoder(made["text"]).apply(params["text"], {}, trees, train=False)
        u = network.fused(params, state, test[0]).reshape(len(test[1]), n, -1)
        v, u = (x / np.linalg.norm(x, axis=-1, keepdims=True) for x in (T, u))
        found["OA_by_prompts"] = accuracy(np.einsum("jid,kid->jk", u, v), test[1])
        last_epoch = logits[-len(logits) // settings.epochs :]
        found |= {name: float(np.mean([row[name] for row in last_epoch])) for name in logits[0]}
        found |= {"texts": between(T.swapaxes(0, 1)), "texts_by_step": by_step}
    return found


def accuracy(scores: np.ndarray, y: np.ndarray) -> float:  # (N, K), (N,)
    """Overall accuracy of the class with the largest score."""
    return float(metrics.overall_accuracy(metrics.confusion_matrix(y, scores.argmax(axis=1))))


RECORDS = {"small": small, "losses": losses}


def main(names: list[str]) -> None:
    FOLDER.mkdir(exist_ok=True)
    for name in names or RECORDS:
        began = time.perf_counter()
        with nn.one_blas_thread():
            found = RECORDS[name]()
        head = {"data": "simulated", "command": f"python docs/record.py {name}", "bplcz_ref": __version__}
        found = head | {"seconds": time.perf_counter() - began} | found
        digits = json.loads(json.dumps(found), parse_float=lambda text: float(f"{float(text):.5g}"))
        (FOLDER / f"{name}.json").write_text(json.dumps(digits) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])

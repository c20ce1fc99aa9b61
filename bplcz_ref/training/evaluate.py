"""A trained network on rows of a file, in evaluation mode: logits, the fused feature I, the confusion matrix.

Index letters: b rows of a chunk, K = 17 classes, n d = the length of I.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from bplcz_ref import metrics, model, nn, paper, systems
from bplcz_ref.data import so2sat, standardise
from bplcz_ref.data.so2sat import Patches
from bplcz_ref.training import checkpoint, runs

ROWS_AT_ONCE = 64  # through the network


class Trained(NamedTuple):
    """A network with its parameters, the statistics that standardise its input, and its run's config.json."""

    network: model.Model
    params: dict
    state: dict
    statistics: standardise.Statistics
    dtype: str
    config: dict


def load(run: str | Path) -> Trained:
    """The trained network of a run folder, complete or not. Errors: ValueError without a checkpoint."""
    config = runs.read_config(run)
    runs.check_vocabulary(run, config)
    network = systems.build(config["system"], runs.settings_of(config))
    at = checkpoint.load(run, network, config)
    if at is None:
        raise ValueError(f"{run} has no checkpoint.npz yet: train it first")
    return Trained(network, at.params, at.state, at.statistics, config["dtype"], config)


def inputs(
    trained: Trained, patches: Patches, rows: np.ndarray, size: int = ROWS_AT_ONCE
) -> Iterator[tuple[np.ndarray, np.ndarray]]:  # -> (b,), (b, 32, 32, 18)
    """`rows` in pieces of `size`, each with its standardised images."""
    for some in so2sat.chunks(rows, size):
        yield some, standardise.standardise(patches.images(some, trained.dtype), trained.statistics)


def logits(
    trained: Trained, patches: Patches, rows: np.ndarray, size: int = ROWS_AT_ONCE
) -> Iterator[tuple[np.ndarray, np.ndarray]]:  # -> (b,), (b, K)
    """(rows, c_hat) of each piece of `rows`: the image side alone."""
    for some, x in inputs(trained, patches, rows, size):
        with nn.one_blas_thread():
            c_hat, _ = trained.network.apply(trained.params, trained.state, x, train=False)
        yield some, c_hat


def fused(trained: Trained, patches: Patches, rows: np.ndarray) -> np.ndarray:  # (N,) -> (N, n d)
    """I of Eq. (9) for `rows`, of a network that fuses band groups."""
    network, params, state = trained[:3]
    return np.concatenate([network.fused(params, state, x) for _, x in inputs(trained, patches, rows)])


def confusion(trained: Trained, patches: Patches, rows: np.ndarray) -> np.ndarray:  # (N,) -> (K, K)
    """The confusion matrix on `rows`; as in metrics.py, its rows are the truth and its columns the prediction."""
    C = np.zeros((len(paper.CLASSES), len(paper.CLASSES)), np.int64)
    for some, c_hat in logits(trained, patches, rows):
        C += metrics.confusion_matrix(patches.labels[some], np.argmax(c_hat, axis=1))
    return C

"""evaluate.py: evaluation mode, whatever the chunks, and the numbers that were reported."""

import numpy as np
from small import TINY

from bplcz_ref import metrics
from bplcz_ref.data import so2sat, standardise
from bplcz_ref.training import evaluate, runs, split


def test_evaluation_is_in_evaluation_mode(whole, small_file):
    """A sample's logits do not depend on its batch, and are those of apply with train=False."""
    trained = evaluate.load(whole)
    rows = np.arange(12)
    with so2sat.open_file(small_file) as patches:
        one = np.concatenate([c_hat for _, c_hat in evaluate.logits(trained, patches, rows, size=1)])
        many = np.concatenate([c_hat for _, c_hat in evaluate.logits(trained, patches, rows, size=12)])
        x = standardise.standardise(patches.images(rows), trained.statistics)
        I = evaluate.fused(trained, patches, rows)
    plain, _ = trained.network.apply(trained.params, trained.state, x, train=False)
    assert np.abs(one - many).max() < 1e-4 * np.abs(many).max()
    assert np.abs(plain - many).max() < 1e-4 * np.abs(many).max()
    expected = trained.network.fused(trained.params, trained.state, x)
    assert np.abs(I - expected).max() < 1e-4 * np.abs(expected).max()


def test_the_reported_metrics_come_from_the_saved_weights(whole, small_file):
    trained = evaluate.load(whole)
    with so2sat.open_file(small_file) as patches:
        _, test = split.parts(patches, TINY)
        C = evaluate.confusion(trained, patches, test)
    assert np.array_equal(C, runs.read_confusion(whole))
    assert metrics.summary(C)["kappa"] == runs.read_metrics(whole)["kappa"]

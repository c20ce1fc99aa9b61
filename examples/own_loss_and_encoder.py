"""A loss and an encoder of one's own by name: trained, resumed, evaluated and used, on simulated patches.

On the command line: --import examples/own_loss_and_encoder.py --system tiny-bplcz --set contrastive=focal
"""

import tempfile
from pathlib import Path

import autograd.numpy as np

import bplcz_ref
from bplcz_ref import metrics, register, systems, variants
from bplcz_ref.data import simulate, so2sat
from bplcz_ref.layers import batch_norm, conv, linear, relu, serial, spatial_mean
from bplcz_ref.training import evaluate, train


def focal(params, S, S_hat, W, alpha_n):
    """Lin et al. (2017) in the place of Eq. (7): the mean of -(1 - p)^2 log p over the pairs."""

    def one_direction(S):
        log_p = -np.logaddexp(0, (1 - 2 * W) * S)  # p = sigma(S) where W is 1, 1 - sigma(S) where it is 0
        return np.mean((1 - np.exp(log_p)) ** 2 * -log_p)

    return variants.mean_of_directions(one_direction(S), one_direction(S_hat))


def tiny(channels, settings):  # (B, 32, 32, channels) -> (B, settings.features)
    head = spatial_mean, ("proj", linear(8, settings.features))
    return serial(("conv", conv(channels, 8, stride=2)), ("bn", batch_norm(8)), relu, *head)


register.loss("focal", focal)
register.encoder("tiny-bplcz", tiny, label="Tiny (BP-LCZ)")

if __name__ == "__main__":
    here = Path(tempfile.mkdtemp())
    data, run = here / "data.h5", here / "run"
    simulate.write_file(data, per_class=10, rows=100)
    small = {"features": 16, "text_width": 32, "text_layers": 1, "epochs": 2, "per_class": 10, "test": 100}
    train.train(run, data, "tiny-bplcz", systems.SMALL._replace(contrastive="focal", **small))
    train.resume(run, epochs=4)
    with so2sat.open_file(data) as patches:
        trained = evaluate.load(run)
        C = evaluate.confusion(trained, patches, evaluate.test_rows(trained.config, patches))
    print(f"OA {100 * metrics.overall_accuracy(C):.1f} % on {C.sum()} SIMULATED samples")
    water_and_trees = simulate.patches(np.array([16, 10]), seed=5)
    print("water, dense trees:", bplcz_ref.classify(run, *water_and_trees)[0].tolist())

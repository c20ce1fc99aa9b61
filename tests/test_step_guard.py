"""What a training step costs, counted instead of timed: matrix products, memory, and the width of its numbers.

The bounds are what a step of the small preset takes now. A change that needs more must say why and raise them.
"""

import tracemalloc

import numpy as np
import pytest

from bplcz_ref import model, systems, weights

# system: products, megabytes at the peak (above parameters and images)
BOUNDS = {
    "resnet50": (239, 6.0),
    "convnext": (231, 5.3),
    "densenet121": (435, 5.6),
    "exvit": (298, 57),
    "ebcnn": (1287, 63),
    "ebcnn-bplcz": (1368, 72),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", BOUNDS)
def test_a_step_takes_no_more_products_and_memory_than_it_needs(name, monkeypatch):
    monkeypatch.setenv("BPLCZ_THREADS", "1")
    network, rng = systems.build(name, systems.SMALL), np.random.default_rng(0)
    params, state = network.init(rng, "float32")
    batch = rng.standard_normal((16, 32, 32, 18)).astype("float32"), np.arange(16) % 17

    def step():
        return model.loss_and_gradients(network.loss, params, state, batch, rng=np.random.default_rng(1))

    _, gradients, trace = step()  # scratch memory is made
    leaves = weights.named({"gradients": gradients, "trace": trace})
    assert not [name for name, leaf in leaves.items() if np.ndim(leaf) and leaf.dtype == np.float64]
    del gradients, trace, leaves
    tracemalloc.start()
    step()
    megabytes = tracemalloc.get_traced_memory()[1] / 1e6
    tracemalloc.stop()
    products = []
    for product in ("matmul", "dot"):
        plain = getattr(np, product)
        monkeypatch.setattr(np, product, lambda *a, plain=plain, **k: products.append(1) or plain(*a, **k))
    step()
    assert len(products) <= BOUNDS[name][0]
    assert megabytes <= BOUNDS[name][1]

"""What a training step holds in memory at its peak, measured by tracemalloc; nothing is timed.

The bounds are what a step of the small preset takes now. A change that needs more must say why and raise them.
"""

import tracemalloc

import numpy as np
import pytest

from bplcz_ref import model, systems

# system: megabytes above parameters and images
BOUNDS = {"resnet50": 6.0, "convnext": 5.3, "densenet121": 5.6, "exvit": 57, "ebcnn": 63, "ebcnn-bplcz": 72}


@pytest.mark.slow
@pytest.mark.parametrize("name", BOUNDS)
def test_a_step_takes_no_more_memory_than_it_needs(name, monkeypatch):
    monkeypatch.setenv("BPLCZ_THREADS", "1")
    network, rng = systems.build(name, systems.SMALL), np.random.default_rng(0)
    params, state = network.init(rng, "float32")
    batch = rng.standard_normal((16, 32, 32, 18)).astype("float32"), np.arange(16) % 17

    def step():
        model.loss_and_gradients(network.loss, params, state, batch, rng=np.random.default_rng(1))

    step()  # scratch memory is made
    tracemalloc.start()
    step()
    megabytes = tracemalloc.get_traced_memory()[1] / 1e6
    tracemalloc.stop()
    assert megabytes <= BOUNDS[name]

"""What a training step costs, counted instead of timed: products, tape operations, memory, text slots, dtypes.

The bounds are what a step of the small preset takes now. A change that needs more must say why and raise them.
"""

import tracemalloc

import numpy as np
import pytest
from autograd import core

from bplcz_ref import model, nn, systems

# system: products, operations on tapes, megabytes at the peak (above parameters and images)
BOUNDS = {
    "resnet50": (239, 46, 6.0),
    "convnext": (231, 60, 5.3),
    "densenet121": (435, 28, 5.6),
    "exvit": (298, 82, 57),
    "ebcnn": (1287, 131, 63),
    "ebcnn-bplcz": (1368, 320, 72),
}


class Count:
    """Products and tape operations while it watches, and float64 arrays of two or more axes on a tape."""

    def __init__(self, monkeypatch):
        self.products = self.operations = 0
        self.wide = []
        for name in ("matmul", "dot"):
            monkeypatch.setattr(np, name, self._product(getattr(np, name)))
        begin = core.VJPNode.__init__

        def node(this, value, fun, args, kwargs, argnums, parents):
            self.operations += 1
            self._look(fun.__name__, value)
            begin(this, value, fun, args, kwargs, argnums, parents)
            vjp = this.vjp

            def watched(g):
                gradients = list(vjp(g))
                for d in (g, *gradients):
                    self._look(f"backward of {fun.__name__}", d)
                return gradients

            this.vjp = watched

        monkeypatch.setattr(core.VJPNode, "__init__", node)

    def _product(self, function):
        def product(*arguments, **options):
            self.products += 1
            return function(*arguments, **options)

        return product

    def _look(self, where, value):
        for a in value if isinstance(value, tuple) else (value,):
            # The column of lengths may be float64 on its way back, until equations.root casts it.
            if isinstance(a, np.ndarray) and a.ndim and a.dtype == np.float64 and a.shape[1:] != (1,):
                self.wide.append((where, a.shape))


def a_step(name, B=16):
    network = systems.build(name, systems.SMALL)
    rng = np.random.default_rng(0)
    params, state = network.init(rng, "float32")
    x = rng.standard_normal((B, 32, 32, 18)).astype("float32")
    batch = x, np.arange(B) % 17
    return lambda: model.loss_and_gradients(network.loss, params, state, batch, rng=np.random.default_rng(1))


@pytest.mark.slow
@pytest.mark.parametrize("name", BOUNDS)
def test_a_step_takes_no_more_products_operations_and_memory_than_it_needs(name, monkeypatch):
    monkeypatch.setenv("BPLCZ_THREADS", "1")
    step = a_step(name)
    step()
    tracemalloc.start()
    step()
    megabytes = tracemalloc.get_traced_memory()[1] / 1e6
    tracemalloc.stop()
    count = Count(monkeypatch)
    step()
    found = count.products, count.operations, megabytes
    assert count.wide == []
    assert all(f <= bound for f, bound in zip(found, BOUNDS[name], strict=True)), found


def test_the_guard_notices_a_float64_array_and_an_operation_more(monkeypatch):
    count = Count(monkeypatch)
    double = lambda p: np.float64(2.0) * p["w"]
    nn.value_and_gradients(lambda p: nn.linear(double(p), np.ones((1, 3), "f"))[0], {"w": np.ones(3, "f")})
    assert count.wide  # NumPy's float64 number has turned a float32 array into float64
    assert count.operations >= 3
    assert count.products >= 1

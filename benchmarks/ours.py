"""One of the nine systems with a batch of simulated patches: a training step, or logits in evaluation.

Noise costs what images cost. A step is forward, backward and SGD on a batch in memory, as in training/train.py.
"""

import numpy as np

from bplcz_ref import model, nn, optim, paper, systems
from bplcz_ref.data.streams import stream


def batch(size, dtype="float32"):
    """(x (B, 32, 32, 18), y (B,)), simulated."""
    rng = np.random.default_rng(paper.SEED)
    return rng.standard_normal((size, 32, 32, 18)).astype(dtype), rng.integers(0, 17, size)


class Ours:
    """A system on a batch; the weights begin as those of a run with the settings' seed."""

    def __init__(self, name, settings, x, y):
        nn.keep_memory()  # as training does; PyTorch takes its memory from the same place and gains as well
        self.network = systems.build(name, settings)
        self.params, self.state = self.network.init(stream(settings.seed, "init"), x.dtype)
        self.velocity, self.x, self.y, self.steps, self.seed = None, x, y, 0, settings.seed
        self.rule = {name: getattr(settings, name) for name in ("learning_rate", "momentum", "weight_decay")}

    def gradients(self):
        rng = stream(self.seed, "dropout", self.steps)
        return model.loss_and_gradients(self.network.loss, self.params, self.state, (self.x, self.y), rng=rng)

    def step(self):
        _, gradients, trace = self.gradients()
        self.state = trace["state"]
        self.params, self.velocity = optim.sgd(self.params, self.velocity, gradients, **self.rule, in_place=True)
        self.steps += 1

    def logits(self):
        return self.network.apply(self.params, self.state, self.x, train=False)[0]

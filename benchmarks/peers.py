"""The nine systems in PyTorch, as their users would write them for speed, with our weights by the same names.

The networks are those of tests/peers/twins.py, which are compared with ours there. What is added here is a step,
with fused SGD, the memory layout, and a whole run. `Tree` also has the saving that is ours, the trees of common
beginnings.
"""

import sys
from pathlib import Path

import torch
from ours import Ours

from bplcz_ref.data import so2sat, standardise
from bplcz_ref.data.streams import stream
from bplcz_ref.encoders.prefixes import pack
from bplcz_ref.kernels.threads import thread_count
from bplcz_ref.training import split
from bplcz_ref.training.evaluate import ROWS_AT_ONCE

sys.path += [str(Path(__file__).parents[1] / folder) for folder in ("tests/peers", "examples")]
import twins  # noqa: E402


class Tree(twins.FastTower):
    """The text tower on one tree of slots per class, where prompts that begin alike share their beginning."""

    def __init__(self, *sizes, ids):
        super().__init__(*sizes, ids=ids)
        self.trees = pack(ids)

    def forward(self, classes):
        ids, position, seen, eot, *_ = (torch.from_numpy(part) for part in self.trees.of(classes.numpy()))
        x = self.token_embedding(ids) + self.positional_embedding[position]
        for block in self.transformer["resblocks"]:
            x = block(x, attn_mask=seen[:, None])
        x = torch.gather(x, 1, eot[:, :, None].expand(-1, -1, x.shape[2]))
        return self.ln_final(x) @ self.text_projection


class Peer:
    """A network with our weights, a batch and an optimiser: one step, or logits in evaluation."""

    def __init__(self, name, settings, ours, layout="NCHW", tree=False):
        self.module = twins.system(name, settings, Tree if tree else twins.FastTower)
        self.loss_of = twins.loss_of
        twins.loaded(self.module, ours.params, ours.state)
        self.kept = {"memory_format": torch.channels_last if layout == "NHWC" else torch.contiguous_format}
        self.module.to(**self.kept)
        self.take(ours.x, ours.y)
        rate, momentum, decay = ours.rule.values()
        self.optimiser = torch.optim.SGD(
            self.module.parameters(), lr=rate, momentum=momentum, weight_decay=decay, fused=True
        )

    def take(self, x, y):
        """(B, 32, 32, 18), (B,): the batch that is next."""
        self.x = torch.from_numpy(x).permute(0, 3, 1, 2).contiguous(**self.kept)
        self.y = torch.from_numpy(y)

    def compile(self):
        """From now on the loss runs as torch.compile makes it, and so does its backward pass."""
        self.loss_of = torch.compile(self.loss_of)

    def loss(self):
        """The loss in training; its gradients are in the parameters."""
        self.module.train()
        self.optimiser.zero_grad(set_to_none=True)
        L = self.loss_of(self.module, self.x, self.y)
        L.backward()
        return L.item()

    def step(self):
        self.loss()
        self.optimiser.step()

    def logits(self):
        self.module.eval()
        with torch.inference_mode():
            return self.module(self.x)


def run(name, settings, data, layout="NHWC"):
    """OA on the test part of a file after training as ours does: the same start, batches, rates and test rows."""
    torch.set_num_threads(thread_count())
    with so2sat.open_file(data) as patches:
        rows, test, *_ = split.decide(patches, settings)
        found = standardise.statistics(patches, rows, settings.clip_sen1)

        def images(some):
            return standardise.standardise(patches.images(some, "float32"), found), patches.labels[some]

        peer = Peer(name, settings, Ours(name, settings, *images(rows[: settings.batch])), layout)
        for epoch in range(settings.epochs):
            order = stream(settings.seed, "shuffle", epoch).permutation(rows)
            for some in so2sat.chunks(order, settings.batch):
                peer.take(*images(some))
                peer.step()
        right = 0
        for some in so2sat.chunks(test, ROWS_AT_ONCE):
            peer.take(*images(some))
            right += int((peer.logits().argmax(1) == peer.y).sum())
    return right / len(test)

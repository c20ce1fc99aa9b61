"""Dumps what `conform diff` compares: every module's input and output, every gradient, SGD's steps, by name.

    python -m bplcz_ref conform trace WEIGHTS.npz BATCH.npz OURS.npz --system ebcnn
    python examples/trace_pytorch.py WEIGHTS.npz BATCH.npz THEIRS.npz
    python -m bplcz_ref conform diff OURS.npz THEIRS.npz

`record` serves any module whose parameters have our names; the rest is the EB-CNN of pytorch_round_trip.py.
"""

import sys
from functools import partial
from pathlib import Path

import numpy as np
import torch
from pytorch_round_trip import EBCNN, read


def record(module, loss, optimiser, steps=2):
    """{name: array}; loss() -> (L, {symbol: tensor}), the symbols being S, c_hat, I_i.RGB and so on."""
    calls, found = {}, {}  # calls: {name: [(value, [its gradient]), ...]}

    def keep(name, tensor):
        calls.setdefault(name, []).append((tensor.detach().clone(), []))  # cloned: a ReLU in place may follow
        if tensor.requires_grad:
            tensor.register_hook(calls[name][-1][1].append)

    def hook(name, part, inputs, output):
        keep(f"{name}.input", inputs[0])
        keep(name, output[0] if isinstance(output, tuple) else output)

    parts = [(name, part) for name, part in module.named_modules() if part._parameters]
    hooks = [part.register_forward_hook(partial(hook, name)) for name, part in parts]
    for step in range(steps):
        found |= {f"step{step}.{name}": a.clone() for name, a in module.state_dict().items()}
        L, symbols = loss()
        optimiser.zero_grad()
        if step == 0:  # the layers of the first step are enough
            [keep(name, tensor) for name, tensor in {**symbols, "L": L}.items()]
            [each.remove() for each in hooks]
        L.backward()
        if step == 0:
            found |= {f"grad.{n}": w.grad.clone() for n, w in module.named_parameters() if w.grad is not None}
        optimiser.step()
        velocity = {n: optimiser.state[w].get("momentum_buffer") for n, w in module.named_parameters()}
        found |= {f"step{step + 1}.velocity.{n}": v.clone() for n, v in velocity.items() if v is not None}
    found |= {f"step{steps}.{name}": a for name, a in module.state_dict().items()}
    join = lambda arrays: torch.cat(arrays) if arrays[0].ndim else arrays[0]  # of a module that is called twice
    found |= {name: join([value for value, _ in each]) for name, each in calls.items()}
    found |= {f"grad.{n}": join([g for _, (g,) in each]) for n, each in calls.items() if all(g for _, g in each)}
    return {name: a.numpy() for name, a in found.items()}


if __name__ == "__main__":
    weights, batch, out = map(Path, sys.argv[1:])
    tensors, x, y = read(weights), read(batch)["x"], read(batch)["y"]
    module = EBCNN(len(tensors["branches.RGB.conv1.weight"]), len(tensors["branches.RGB.proj.weight"]))
    module.load_state_dict({name: a for name, a in tensors.items() if not name.startswith("text.")})
    sgd, L_cls = torch.optim.SGD(module.parameters(), 1e-4, 0.9, weight_decay=0.002), torch.nn.CrossEntropyLoss()
    np.savez(out, **record(module, lambda: (L_cls(module(x), y), {}), sgd))

"""Dumps what `conform diff` compares: every module's input and output, every gradient, SGD's steps, by name.

    python -m bplcz_ref conform trace WEIGHTS.npz BATCH.npz OURS.npz --system ebcnn
    python examples/trace_pytorch.py WEIGHTS.npz BATCH.npz THEIRS.npz
    python -m bplcz_ref conform diff OURS.npz THEIRS.npz

`record` serves any module whose parameters have our names; the rest is the EB-CNN of pytorch_round_trip.py.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from pytorch_round_trip import EBCNN, read


def record(module, loss, optimiser, steps=2):
    """{name: array}. loss() -> L, or (L, {symbol: tensor}) with symbols such as S, c_hat, I_i.RGB."""
    values, gradients, found = {}, {}, {}

    def keep(name, tensor):
        values.setdefault(name, []).append(tensor.detach().clone())  # cloned: a ReLU in place may follow
        if tensor.requires_grad:
            called = gradients.setdefault(name, {})
            number = len(values[name])
            tensor.register_hook(lambda g: called.update({number: g.clone()}))

    def hook(name):
        def keep_both(_, inputs, output):
            if inputs[0].is_floating_point():  # ids of tokens are none
                keep(f"{name}.input", inputs[0])
            keep(name, output[0] if isinstance(output, tuple) else output)

        return keep_both

    own = [(name, part) for name, part in module.named_modules() if part._parameters]
    hooks = [part.register_forward_hook(hook(name)) for name, part in own]
    for step in range(steps):
        found |= {f"step{step}.{name}": a.clone() for name, a in module.state_dict().items()}
        result = loss()
        L, symbols = result if isinstance(result, tuple) else (result, {})
        for name, tensor in {**symbols, "L": L}.items() if step == 0 else ():
            keep(name, tensor)
        optimiser.zero_grad()
        L.backward()
        if step == 0:  # the layers of the first step are enough
            [each.remove() for each in hooks]
            found |= {f"grad.{n}": w.grad.clone() for n, w in module.named_parameters() if w.grad is not None}
            found |= {name: torch.cat(calls) if calls[0].ndim else calls[0] for name, calls in values.items()}
            for name, calls in gradients.items():
                parts = [calls[k] for k in sorted(calls)]
                if len(parts) == len(values[name]):  # a gradient has reached each of its calls
                    found[f"grad.{name}"] = torch.cat(parts) if parts[0].ndim else parts[0]
        optimiser.step()
        kept = {name: optimiser.state[w].get("momentum_buffer") for name, w in module.named_parameters()}
        found |= {f"step{step + 1}.velocity.{n}": v.clone() for n, v in kept.items() if v is not None}
    found |= {f"step{steps}.{name}": a for name, a in module.state_dict().items()}
    return {name: a.numpy() for name, a in found.items()}


if __name__ == "__main__":
    weights, batch, out = map(Path, sys.argv[1:])
    tensors, (x, y) = read(weights), (torch.from_numpy(np.load(batch)[name]) for name in ("x", "y"))
    module = EBCNN(len(tensors["branches.RGB.conv1.weight"]), len(tensors["branches.RGB.proj.weight"]))
    module.load_state_dict({name: a for name, a in tensors.items() if not name.startswith("text.")})
    sgd = torch.optim.SGD(module.parameters(), lr=0.0005, momentum=0.9, weight_decay=0.002)
    np.savez(out, **record(module, lambda: torch.nn.functional.cross_entropy(module(x), y.long()), sgd))

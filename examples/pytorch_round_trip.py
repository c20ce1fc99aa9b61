"""Weights to PyTorch and back: build EB-CNN (BP-LCZ) here, take a training step there, go on here.

    python -m pip install torch==2.13.0 safetensors && python examples/pytorch_round_trip.py

The names and layouts of the weights are those of PyTorch's modules, so nothing is converted on the way: one side
saves a file, the other loads it, and the logits of the same patches must be equal. PyTorch gets the image side;
the text tower is needed only in training and stays here. Without the library safetensors the file is a .npz.
The patches are noise: the example shows that weights can be exchanged, not how good they are.
"""

import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import nn

from bplcz_ref import bands, model, optim, systems
from bplcz_ref.data.streams import stream
from bplcz_ref.storage import weights

try:
    import safetensors.torch
except ImportError:
    safetensors = None

SETTINGS = systems.SMALL  # 17 classes; EB-CNN of width 16 and 64 features per band group


class BandEncoder(nn.Module):
    """Eq. (1) for one band group: the layers of encoders/ebcnn.py under its names."""

    def __init__(self, channels, width, features):
        super().__init__()
        for k, outputs in enumerate([width, width, 2 * width, 2 * width, 4 * width, 4 * width], 1):
            setattr(self, f"conv{k}", nn.Conv2d(channels, outputs, 3, padding=1, bias=False))
            setattr(self, f"bn{k}", nn.BatchNorm2d(outputs))
            channels = outputs
        self.proj = nn.Linear(channels, features)

    def forward(self, x):  # (B, C_i, H, W) -> (B, d)
        for k in range(1, 7):
            x = torch.relu(getattr(self, f"bn{k}")(getattr(self, f"conv{k}")(x)))
            if k in (2, 4):
                x = nn.functional.max_pool2d(x, 2)
        return self.proj(x.mean((2, 3)))


class EBCNN(nn.Module):
    """The image side of Fig. 1: one BandEncoder per group, Eq. (9), a linear classifier."""

    def __init__(self, width, features):
        super().__init__()
        self.branches = nn.ModuleDict(
            {group: BandEncoder(len(index), width, features) for group, index in bands.INDEX.items()}
        )
        self.classifier = nn.Linear(len(self.branches) * features, 17)

    def forward(self, x):  # (B, H, W, 18) -> (B, 17)
        groups = bands.grouped(*bands.separate(x))  # plain indexing, so it takes tensors
        return self.classifier(
            torch.cat([self.branches[k](X.permute(0, 3, 1, 2)) for k, X in groups.items()], dim=1)
        )


def write(path, module):
    """PyTorch's side of weights.save."""
    tensors = module.state_dict()
    if path.suffix == ".npz":
        np.savez(path, **{name: tensor.numpy() for name, tensor in tensors.items()})
    else:
        safetensors.torch.save_file(tensors, path)


def read(path):
    """PyTorch's side of weights.load."""
    if path.suffix == ".npz":
        with np.load(path) as arrays:
            return {name: torch.from_numpy(array) for name, array in arrays.items()}
    return safetensors.torch.load_file(path)


def train_here(network, params, state, batch):
    """One step of BP-LCZ, both losses."""
    L, gradients, trace = model.loss_and_gradients(network.loss, params, state, batch)
    params, _ = optim.sgd(params, None, gradients, learning_rate=SETTINGS.learning_rate)
    print(f"a step here: L = {L:.4f} (L_cls {trace['L_cls']:.4f}, L_con {trace['L_con']:.4f})")
    return params, trace["state"]


def train_there(module, x, y):
    """One step on the cross-entropy alone: PyTorch has no text."""
    optimiser = torch.optim.SGD(module.parameters(), lr=SETTINGS.learning_rate)
    L = nn.functional.cross_entropy(module.train()(torch.from_numpy(x)), torch.from_numpy(y))
    L.backward()
    optimiser.step()
    print(f"a step in PyTorch: L_cls = {L.item():.4f}")


def equal_logits(network, params, state, module, x):
    here, _ = network.apply(params, state, x, train=False)
    with torch.no_grad():
        there = module.eval()(torch.from_numpy(x)).numpy()
    difference = np.abs(here - there).max() / np.abs(here).max()
    if not difference < 1e-5:  # float32; nan fails too
        raise SystemExit(f"the logits differ: by {difference:.1e} of the largest; expected below 1e-05")
    print(f"the logits are equal: they differ by {difference:.0e} of the largest (float32)")
    return there


def main():
    kind = "safetensors" if safetensors else "npz"
    rng = np.random.default_rng(SETTINGS.seed)
    x, y = rng.standard_normal((16, 32, 32, 18), dtype=np.float32), rng.integers(0, 17, 16)
    network = systems.build("ebcnn-bplcz", SETTINGS)
    params, state = network.init(stream(SETTINGS.seed, "init"), np.float32)
    params, state = train_here(network, params, state, (x, y))

    with tempfile.TemporaryDirectory() as folder:
        ours, theirs = Path(folder) / f"bplcz.{kind}", Path(folder) / f"finetuned.{kind}"
        weights.save(ours, params, state)
        module = EBCNN(SETTINGS.width, SETTINGS.features)
        image_side = {name: tensor for name, tensor in read(ours).items() if not name.startswith("text.")}
        module.load_state_dict(image_side)  # strict: every name must be there, and no other
        print(f"{ours.name}: PyTorch has loaded the image side, {len(image_side)} tensors")
        before = equal_logits(network, params, state, module, x)

        train_there(module, x, y)
        write(theirs, module)
        # Back here: the text tower from our file, the image side from PyTorch's; load checks names and shapes.
        params, state = weights.load(weights.read_arrays(ours) | weights.read_arrays(theirs), network)
        print(f"{theirs.name}: loaded here, beside the text tower of {ours.name}")
    after = equal_logits(network, params, state, module, x)
    print(f"the step in PyTorch moved the logits by up to {np.abs(after - before).max():.4f}")
    train_here(network, params, state, (x, y))


if __name__ == "__main__":
    main()

"""A trained run in PyTorch: open what weights.export wrote, standardise as it was trained, classify patches.

    python -c "from bplcz_ref import weights; from bplcz_ref.training import evaluate; \\
               weights.export(evaluate.load('runs/ebcnn'), 'ebcnn.npz')"
    python examples/pytorch_classify.py ebcnn.npz FILE.h5

For the systems ebcnn, ebcnn-bgp and ebcnn-bplcz; the text tower is needed in training alone and is left out. Only
the layers come from pytorch_round_trip.py: reading, standardising and classifying is done without bplcz_ref.
"""

import sys

import h5py
import numpy as np
import torch
from pytorch_round_trip import EBCNN


def opened(path):
    """(module in evaluation mode, mean, std, clip_sen1) of an exported .npz."""
    with np.load(path) as file:
        tensors = {name: torch.from_numpy(file[name]) for name in file.files if not name.startswith("text.")}
    mean, std, clip = (tensors.pop(f"input.{name}").float() for name in ("mean", "std", "clip_sen1"))
    image_side = {name: t for name, t in tensors.items() if name.startswith(("branches.", "classifier."))}
    features, width = image_side["branches.RGB.proj.weight"].shape
    module = EBCNN(width // 4, features)
    module.load_state_dict(image_side)
    return module.eval(), mean, std, clip


def classify(path, sen1, sen2):  # (B, 32, 32, 8), (B, 32, 32, 10) -> (B, 17) probabilities
    module, mean, std, clip = opened(path)
    x = torch.cat([torch.clamp(sen1, -clip, clip), sen2], dim=-1)  # clip is inf where sen1 was not clipped
    x = (x - mean) / torch.where(std > 0, std, 1.0)
    with torch.no_grad():
        return torch.softmax(module(x), dim=1)


def main(path, data):
    with h5py.File(data) as file:
        sen1, sen2 = (torch.from_numpy(file[name][:16]).float() for name in ("sen1", "sen2"))
    for row, p in enumerate(classify(path, sen1, sen2)):
        print(f"row {row}: class number {int(p.argmax())}, p = {float(p.max()):.4f}")


if __name__ == "__main__":
    main(*sys.argv[1:])

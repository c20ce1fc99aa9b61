"""How networks are compared: on hashed numbers, in every quantity; and torchvision's numbers for that, kept."""

from functools import partial
from types import SimpleNamespace

import numpy as np
from autograd import make_vjp

from bplcz_ref.encoders import convnext, densenet, exvit, resnet
from bplcz_ref.storage import weights

FULL = {  # the four of Table II
    "resnet50": resnet.resnet50,
    "resnext50_32x4d": resnet.resnext50_32x4d,
    "convnext_tiny": convnext.convnext_tiny,
    "densenet121": densenet.densenet121,
}
NETWORKS = FULL | {"exvit": partial(exvit.exvit, size=exvit.SIZE._replace(dropout=0.0))}
OTHERS = {  # other published sizes, built by the general forms
    "resnext101_64x4d": partial(resnet.resnet, depths=(3, 4, 23, 3), groups=64, width_per_group=4),
    "wide_resnet50_2": partial(resnet.resnet, depths=(3, 4, 6, 3), width_per_group=128),
    "convnext_base": partial(convnext.convnext, depths=(3, 3, 27, 3), widths=(128, 256, 512, 1024)),
    "densenet161": partial(densenet.densenet, depths=(6, 12, 36, 24), growth=48, width=96),
}

# gist() of torchvision 0.28.0's own models and, for ExViT, of the twin in tests/peers, on hashed parameters and
# images (4, 32, 32, 18) (torch 2.13.0, float64).
LITERALS = {
    "resnet50": [
        793.6989931108, -479.7998161847, -277.1669547715, -1.048121861437, -4.954454592627, 0.1402325797732,
        148779.9635107, 179371.1316685, 47.00108701267, 179.6154985184,
    ],
    "resnext50_32x4d": [
        -375.3434264014, -224.6381437341, -155.0831888971, 6.012156863056, -4.551904831365, 3.585185197373,
        269807.6891779, 294314.4298395, 53.19736169249, 204.1100426640,
    ],
    "convnext_tiny": [
        0.4300477100141, -1.201114418910, -0.9200842086581, 0.3893298567802, -1.112310331367, -1.068165461200,
        19.34788653110, 223.4355166278, 0, 0,
    ],
    "densenet121": [
        1.043538526877, -0.3903033851474, -0.3603336506274, 0.1872126177242, -0.07677103316722, 0.5090954769847,
        6193.993509282, 8278.087350544, 54.31395424304, 199.2373844407,
    ],
    "exvit": [
        0.5115737970637, -1.334781359098, -1.991812156877, 0.842571139564, -1.954062305303, -1.959225994504,
        1.215931084453, 48.33209565196, 4.158243690537, 16.17239030776,
    ],
}  # fmt: skip


def hashed(seed, shape, dtype=np.float64):
    """Numbers within +-1/2 that depend on seed and place alone, by splitmix64: the same bits on every machine."""
    z = np.arange(1, int(np.prod(shape)) + 1, dtype=np.uint64) + np.uint64(seed << 40)
    z *= np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z ^= z >> np.uint64(31)
    return ((z >> np.uint64(11)) * 2.0**-53).reshape(shape).astype(dtype) - dtype(0.5)


images = partial(hashed, 1000)


class Unwritten(np.ndarray):
    """A zero spread over a shape, which stays that under the arithmetic of initialisers: shapes without memory."""

    def __mul__(self, other):
        return self

    def astype(self, dtype):
        return self


def outline(network):
    """params, state of a network whose drawn tensors have shapes alone; takes no time at any size."""

    def draw(shape):
        return np.broadcast_to(np.float32(0), shape).view(Unwritten)

    rng = SimpleNamespace(standard_normal=draw, uniform=lambda low, high, shape: draw(shape))
    rng.spawn = lambda n: [rng] * n
    return network.init(rng, np.float32)


def started(network, dtype=np.float64):
    """params, state of hashed numbers, none at its neutral value, so that nothing can hide: running statistics
    other than 0 and 1, a layer scale that lets the blocks speak."""
    trees = []
    for base, tree in zip((0, 500), outline(network), strict=True):
        flat = {}
        for k, (name, leaf) in enumerate(weights.named(tree).items(), base):
            shape = np.shape(leaf)
            if name.endswith("num_batches_tracked"):
                flat[name] = np.array(7)
            elif len(shape) > 1 and not name.endswith("layer_scale"):
                flat[name] = hashed(k, shape, dtype) * dtype(
                    (24 / np.prod(shape[1:])) ** 0.5
                )  # variance 2 / fan_in
            else:
                flat[name] = hashed(k, shape, dtype) + dtype(not name.endswith(("bias", "running_mean")))
        trees.append(weights.nested(flat))
    return trees


def everything(network, params, state, x, seed=None):
    """{quantity: array}: outputs in both modes, new state, and the gradients of sum(R * output in training), R of
    hashed numbers; `seed` is dropout's."""
    found, kept = {"eval": network.apply(params, state, x, train=False)[0]}, {}

    def run(p):
        rng = None if seed is None else np.random.default_rng(seed)
        y, kept["state"] = network.apply(p, state, x, train=True, rng=rng)
        return y

    vjp, found["train"] = make_vjp(run)(params)
    gradients = vjp(hashed(1001, found["train"].shape, found["train"].dtype.type))
    found |= {f"state {name}": np.asarray(leaf) for name, leaf in weights.named(kept["state"]).items()}
    return found | {f"gradient {name}": leaf for name, leaf in weights.named(gradients).items()}


def gist(found):
    """Ten numbers of `everything`: three logits of each mode, and the lengths of the first gradient, the whole
    gradient, the running means and the running variances."""
    gradients = [leaf for name, leaf in found.items() if name.startswith("gradient")]
    measured = [
        [leaf.ravel() for name, leaf in found.items() if name.startswith("state") and name.endswith(kind)]
        for kind in ("mean", "var")
    ]
    return [
        *(*found["eval"][0, :3], *found["train"][1, :3], np.linalg.norm(gradients[0])),
        np.sqrt(sum(np.sum(g**2) for g in gradients)),
        *(np.linalg.norm(np.concatenate([[0.0], *kind])) for kind in measured),
    ]


def relative(a, b, floor=0.0):
    """||a - b|| / ||b||, b no shorter than `floor`; 0 / 0 is 0."""
    assert np.shape(a) == np.shape(b)
    norm, apart = max(np.linalg.norm(b), floor), np.linalg.norm(np.asarray(a, np.float64) - b)
    return apart / norm if norm else (0.0 if apart == 0 else np.inf)


def errors(found, expected):
    """{quantity: relative error}. Gradients that vanish, as of a bias that a later norm takes away, are judged by
    a ten-thousandth of the largest gradient."""
    assert found.keys() == expected.keys()
    lengths = [np.linalg.norm(b) for name, b in expected.items() if name.startswith("gradient")]
    floors = {name: 1e-4 * max(lengths) if name.startswith("gradient") else 0.0 for name in expected}
    return {name: relative(found[name], expected[name], floors[name]) for name in expected}


def worst(apart):
    """(the largest error, its quantity)."""
    return max((error, name) for name, error in apart.items())

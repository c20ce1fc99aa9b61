"""Every encoder beside its twin in PyTorch: names, outputs, running statistics, the gradient of every parameter.

The twins are written from the publications; where torchvision is installed, its own models are compared as well.
In float64 each quantity is judged by itself; test_gradient_error.py is about float32.
"""

from functools import partial

import numpy as np
import pytest
from networks import FULL, LITERALS, NETWORKS, errors, everything, gist, hashed, images, outline, started, worst

from bplcz_ref.encoders import convnext, densenet, ebcnn, exvit, resnet, text
from bplcz_ref.storage import weights

torch = pytest.importorskip("torch")

import twins  # noqa: E402


def channels_first(x):
    """A batch as the twins take it: images, a pair of them, or token ids."""
    if isinstance(x, tuple):
        return tuple(map(channels_first, x))
    return torch.tensor(x.transpose(0, 3, 1, 2) if x.ndim == 4 else x)


def theirs(module, params, state, x, **options):
    """networks.everything by PyTorch; `options` are for the forward pass in training."""
    module, x = twins.loaded(module, params, state), channels_first(x)
    module.zero_grad()
    with torch.no_grad():
        found = {"eval": module.eval()(x)}
    found["train"] = y = module.train()(x, **options)
    found |= {f"state {name}": value for name, value in module.named_buffers()}
    (y * torch.tensor(hashed(1001, y.shape))).sum().backward()
    zero = torch.zeros(())
    for name, p in module.named_parameters():
        found[f"gradient {name}"] = zero.expand_as(p) if p.grad is None else p.grad
    return {name: value.detach().numpy().copy() for name, value in found.items()}


def same_names(network, module, order=list):
    """Names and shapes; with order=sorted, in whatever order."""
    for tree, flat in zip(outline(network), (module.named_parameters(), module.named_buffers()), strict=True):
        ours = [(name, np.shape(a)) for name, a in weights.named(tree).items()]
        assert order(ours) == order((name, tuple(a.shape)) for name, a in flat)


def sequences(vocabulary, lengths):
    """One row a length: SOT, words, EOT (the largest id); then other words and, in every second row, EOT again."""
    ids = np.random.default_rng(3).integers(0, vocabulary - 2, (len(lengths), max(lengths) + 2))
    ids[:, 0] = vocabulary - 2
    for row, length in enumerate(lengths):
        ids[row, length - 1 : length + row % 2] = vocabulary - 1
    return ids


# ----------------------------------------------------------------------------------------------------- the cases

RES = {"depths": (2, 1, 1), "widths": (8, 16, 24)}
GROUPS = {"groups": 4, "width_per_group": 32}
CNX = {"depths": (1, 2, 1), "widths": (8, 12, 20)}
DNS = {"depths": (2, 1, 3), "growth": 6, "width": 10, "bottleneck": 3}
IMAGES = {  # name: (ours, twin)
    "bottleneck": (resnet.resnet(**RES), twins.ResNet(18, 17, **RES)),
    "grouped": (resnet.resnet(**RES, **GROUPS), twins.ResNet(18, 17, **RES, **GROUPS)),
    "convnext": (convnext.convnext(**CNX), twins.ConvNeXt(18, 17, **CNX)),
    "densenet": (densenet.densenet(**DNS), twins.DenseNet(18, 17, **DNS)),
    "ebcnn": (ebcnn.encoder(18, 3, 5), twins.BandEncoder(18, 3, 5)),
}
SIZES = [(4, 32, 32, 18), (2, 64, 64, 18), (3, 33, 47, 18), (1, 64, 64, 18)]

TINY = exvit.Size(stem=2, width=6, layers=2, joint=1, heads=2, head=4, hidden=5, dropout=0.0)
ONE_HEAD = TINY._replace(heads=1, head=6, layers=1, joint=2)
EXVIT = {  # name: channels, patch, grid, classes, size, batch
    "tiny": ((3, 2), 8, 2, 5, TINY, 3),
    "one of a batch": ((3, 2), 8, 4, 5, TINY, 1),
    "every pixel a token, odd patch": ((4, 1), 5, 1, 3, ONE_HEAD, 2),
    "so2sat, grid 4": ((10, 8), 32, 4, 17, exvit.SIZE._replace(dropout=0.0), 2),
    "dropout, more than one part": ((3, 2), 6, 2, 5, TINY._replace(dropout=0.3), exvit.PART + 3),
    "public sizes, dropout": ((5, 1), 7, 1, 15, exvit.SIZE, 2),
}
TEXT = {  # name: (vocabulary, width, layers, heads, features, context), lengths of the prompts
    "one block": ((12, 8, 1, 2, 4, 9), (3, 7, 5)),
    "a head of width 1": ((12, 6, 2, 6, 6, 14), (12, 2, 2)),
    "one head": ((40, 10, 3, 1, 17, 20), (18, 5, 9, 9)),
    "one prompt of two tokens": ((5, 4, 2, 2, 3, 77), (2,)),
    "whole context": ((60, 24, 4, 3, 10, 77), (75, 31, 40)),
    "twelve blocks": ((90, 32, 12, 4, 16, 77), (26, 30, 24, 28)),
}
SEED = 11  # dropout's


def case(name, size):
    """(ours, the twin, x)."""
    if name in IMAGES:
        return *IMAGES[name], images((3, 36, 48, 18) if name == "ebcnn" and size[1] % 4 else size)
    if name in EXVIT:
        channels, patch, grid, classes, size, batch = EXVIT[name]
        x = tuple(images((batch, patch, patch, c)) for c in channels)
        network = exvit.two_modalities(*channels, patch, grid, classes, size)
        return network, twins.ExViT(channels, patch, grid, classes, size), x
    sizes, lengths = TEXT[name]
    return text.encoder(*sizes), twins.Tower(*sizes), sequences(sizes[0], lengths)


def dropped(name):
    """{drops: ...}: the factors of exvit.two_modalities for a Generator of SEED, drawn as its docstring says."""
    if name not in EXVIT or not EXVIT[name][4].dropout:
        return {}
    rate, batch = EXVIT[name][4].dropout, EXVIT[name][5]
    *own, third = np.random.default_rng(SEED).spawn(3)
    parts = [len(range(i, min(i + exvit.PART, batch))) for i in range(0, batch, exvit.PART)]
    streams = [[(g, batch)] for g in own] + [list(zip(third.spawn(len(parts)), parts, strict=True))]

    def drop(k, t):
        keep = [g.random((n, *t.shape[1:]), dtype=np.float32) >= rate for g, n in streams[k]]
        return t * torch.from_numpy(np.concatenate(keep) / (1 - rate))

    return {"drops": [partial(drop, k) for k in range(3)]}


CASES = [(name, None) for name in (*EXVIT, *TEXT)] + [(name, size) for name in IMAGES for size in SIZES]


@pytest.mark.parametrize(("name", "size"), CASES, ids=str)
def test_float64_equals_torch(name, size):
    network, twin, x = case(name, size)
    same_names(network, twin, list if name in IMAGES else sorted)
    inputs, options = started(network), dropped(name)
    found = everything(network, *inputs, x, SEED if options else None)
    error = worst(errors(found, theirs(twin, *inputs, x, **options)))
    assert error[0] < 1e-10, error


# ----------------------------------------------------------------------------------------------------- full size


@pytest.mark.long
@pytest.mark.parametrize("name", NETWORKS)
def test_full_size(name):
    """The twins give the numbers that are kept, and so do ours."""
    twin = dict(zip(FULL, twins.PUBLISHED.values(), strict=True)).get(name)
    size = exvit.SIZE._replace(dropout=0.0)
    module = twin(18, 17) if twin else twins.So2SatExViT([10, 8], 32, 4, 17, size)
    network, x = NETWORKS[name](), images(SIZES[0])
    same_names(network, module, sorted if name == "exvit" else list)
    inputs = started(network)
    expected = theirs(module, *inputs, x)
    error = worst(errors(everything(network, *inputs, x), expected))
    assert error[0] < 1e-10, error
    np.testing.assert_allclose(gist(expected), LITERALS[name], rtol=1e-10)


@pytest.mark.long
@pytest.mark.parametrize("name", FULL)
def test_numbers_are_torchvisions(name):
    models = pytest.importorskip("torchvision.models")
    options = {"stochastic_depth_prob": 0.0} if name.startswith("convnext") else {}
    module = getattr(models, name)(num_classes=17, **options)
    path, conv = next((n, part) for n, part in module.named_modules() if isinstance(part, torch.nn.Conv2d))
    keep = conv.kernel_size, conv.stride, conv.padding, 1, 1, conv.bias is not None
    module.set_submodule(path, torch.nn.Conv2d(18, conv.out_channels, *keep))  # there is no argument for channels
    inputs = started(FULL[name]())
    np.testing.assert_allclose(gist(theirs(module, *inputs, images(SIZES[0]))), LITERALS[name], rtol=1e-10)

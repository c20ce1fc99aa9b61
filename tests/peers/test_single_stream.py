"""ResNet, ResNeXt, ConvNeXt and DenseNet beside PyTorch: names, outputs, running statistics, every gradient.

The peers below are written from the publications in torch.nn; where torchvision is installed, its own models are
compared as well.
"""

import functools
import sys
from pathlib import Path

import numpy as np
import pytest

from bplcz_ref import weights
from bplcz_ref.encoders import convnext, densenet, resnet

torch = pytest.importorskip("torch")
tnn = torch.nn
F = torch.nn.functional

sys.path.append(str(Path(__file__).parents[1]))
from test_encoders_single_stream import FULL, LITERALS, OTHERS, case, everything, gist, outline  # noqa: E402

# ---------------------------------------------------------------------------------------------------- the peers


def conv_bn(i, o, k, stride=1, groups=1):
    return tnn.Conv2d(i, o, k, stride, k // 2, groups=groups, bias=False), tnn.BatchNorm2d(o)


class Residual(tnn.Module):
    def __init__(self, i, planes, stride, groups, width):
        super().__init__()
        m, self.o = planes * width // 64 * groups, 4 * planes
        self.conv1, self.bn1 = conv_bn(i, m, 1)
        self.conv2, self.bn2 = conv_bn(m, m, 3, stride, groups)
        self.conv3, self.bn3 = conv_bn(m, self.o, 1)
        if stride != 1 or i != self.o:
            self.downsample = tnn.Sequential(*conv_bn(i, self.o, 1, stride))

    def forward(self, x):
        y = F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))))
        y = self.bn3(self.conv3(y))
        return F.relu(y + (self.downsample(x) if hasattr(self, "downsample") else x))


class ResNet(tnn.Module):
    def __init__(self, c, classes, depths, widths, groups=1, width_per_group=64):
        super().__init__()
        self.conv1 = tnn.Conv2d(c, widths[0], 7, 2, 3, bias=False)
        self.bn1 = tnn.BatchNorm2d(widths[0])
        i = widths[0]
        for s, (depth, planes) in enumerate(zip(depths, widths, strict=True), 1):
            blocks = []
            for k in range(depth):
                stride = 2 if s > 1 and k == 0 else 1
                blocks.append(Residual(i, planes, stride, groups, width_per_group))
                i = blocks[-1].o
            setattr(self, f"layer{s}", tnn.Sequential(*blocks))
        self.fc = tnn.Linear(i, classes)
        self.stages = len(depths)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 3, 2, 1)
        for s in range(1, self.stages + 1):
            x = getattr(self, f"layer{s}")(x)
        return self.fc(x.mean((2, 3)))


EPS = 1e-6  # of ConvNeXt's layer norms


class ChannelNorm(tnn.LayerNorm):
    def forward(self, x):
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


class ConvNeXtBlock(tnn.Module):
    def __init__(self, d):
        super().__init__()
        self.layer_scale = tnn.Parameter(torch.full((d, 1, 1), 1e-6))
        up, down = tnn.Linear(d, 4 * d), tnn.Linear(4 * d, d)
        dw = tnn.Conv2d(d, d, 7, padding=3, groups=d)
        same = tnn.Identity()  # so that the numbers in the names are the published ones
        self.block = tnn.Sequential(dw, same, tnn.LayerNorm(d, EPS), up, tnn.GELU(), down)

    def forward(self, x):
        dw, _, *rest = self.block
        y = tnn.Sequential(*rest)(dw(x).movedim(1, -1)).movedim(-1, 1)
        return x + self.layer_scale * y


class ConvNeXt(tnn.Module):
    def __init__(self, c, classes, depths, widths):
        super().__init__()
        layers = [tnn.Sequential(tnn.Conv2d(c, widths[0], 4, 4), ChannelNorm(widths[0], EPS))]
        for s, (depth, d) in enumerate(zip(depths, widths, strict=True)):
            layers.append(tnn.Sequential(*[ConvNeXtBlock(d) for _ in range(depth)]))
            if s + 1 < len(depths):
                layers.append(tnn.Sequential(ChannelNorm(d, EPS), tnn.Conv2d(d, widths[s + 1], 2, 2)))
        self.features = tnn.Sequential(*layers)
        self.classifier = tnn.Sequential(
            tnn.LayerNorm(widths[-1], EPS), tnn.Identity(), tnn.Linear(widths[-1], classes)
        )

    def forward(self, x):
        return self.classifier(self.features(x).mean((2, 3)))


class DenseLayer(tnn.Module):
    def __init__(self, c, growth, bottleneck):
        super().__init__()
        self.norm1, self.conv1 = tnn.BatchNorm2d(c), tnn.Conv2d(c, bottleneck * growth, 1, bias=False)
        self.norm2 = tnn.BatchNorm2d(bottleneck * growth)
        self.conv2 = tnn.Conv2d(bottleneck * growth, growth, 3, padding=1, bias=False)

    def forward(self, x):
        new = self.conv2(F.relu(self.norm2(self.conv1(F.relu(self.norm1(x))))))
        return torch.cat([x, new], 1)


class Transition(tnn.Module):
    def __init__(self, c):
        super().__init__()
        self.norm, self.conv = tnn.BatchNorm2d(c), tnn.Conv2d(c, c // 2, 1, bias=False)

    def forward(self, x):
        return F.avg_pool2d(self.conv(F.relu(self.norm(x))), 2)


class DenseNet(tnn.Module):
    def __init__(self, c, classes, depths, growth=32, width=64, bottleneck=4):
        super().__init__()
        self.features = tnn.Sequential()
        self.features.conv0 = tnn.Conv2d(c, width, 7, 2, 3, bias=False)
        self.features.norm0 = tnn.BatchNorm2d(width)
        self.features.relu0, self.features.pool0 = tnn.ReLU(), tnn.MaxPool2d(3, 2, 1)
        c = width
        for b, depth in enumerate(depths, 1):
            block = tnn.Sequential()
            for k in range(depth):
                block.add_module(f"denselayer{k + 1}", DenseLayer(c, growth, bottleneck))
                c += growth
            self.features.add_module(f"denseblock{b}", block)
            if b < len(depths):
                self.features.add_module(f"transition{b}", Transition(c))
                c //= 2
        self.features.norm5 = tnn.BatchNorm2d(c)
        self.classifier = tnn.Linear(c, classes)

    def forward(self, x):
        return self.classifier(F.relu(self.features(x)).mean((2, 3)))


# ----------------------------------------------------------------------------------------------- the comparison


def numbers(tree):
    """{name: torch tensor} of a nested dict; a copy, as torch writes into its buffers."""
    return {name: torch.tensor(np.asarray(leaf)) for name, leaf in weights.named(tree).items()}


def theirs(module, params, state, x, R, *, gradients=True):
    """test_encoders_single_stream.everything by torch, in the dtype of x."""
    module = module.to(torch.float64 if x.dtype == np.float64 else torch.float32)
    module.load_state_dict(numbers(params) | numbers(state), strict=True)
    images = torch.tensor(x.transpose(0, 3, 1, 2))
    with torch.no_grad():
        found = {"eval": module.eval()(images)}
    module.zero_grad()
    with torch.set_grad_enabled(gradients):
        found["train"] = module.train()(images)
    found |= {f"state {name}": value for name, value in module.named_buffers()}
    if gradients:
        (found["train"] * torch.tensor(R)).sum().backward()
        unused = torch.zeros(())
        for name, p in module.named_parameters():
            found[f"gradient {name}"] = unused.expand_as(p) if p.grad is None else p.grad
    return {name: value.detach().numpy().copy() for name, value in found.items()}


def errors(a, b):
    """{quantity: ||a - b|| / ||b||}; where b is 0 throughout, so must a be."""
    assert a.keys() == b.keys()
    found = {}
    for name in b:
        assert a[name].shape == b[name].shape, name
        norm, off = np.linalg.norm(b[name]), np.linalg.norm(a[name].astype(np.float64) - b[name])
        found[name] = off / norm if norm else (0.0 if off == 0 else np.inf)
    return found


def worst(found):
    name = max(found, key=found.get)
    return found[name], name


def same_names(network, module):
    params, state = outline(network)
    assert list(weights.named(params)) == [name for name, _ in module.named_parameters()]
    assert list(weights.named(state)) == [name for name, _ in module.named_buffers()]
    shapes = {name: np.shape(leaf) for name, leaf in (weights.named(params) | weights.named(state)).items()}
    assert shapes == {name: tuple(value.shape) for name, value in module.state_dict().items()}


RES = {"depths": (2, 1, 1), "widths": (8, 16, 24)}
CNX = {"depths": (1, 2, 1), "widths": (8, 12, 20)}
DNS = {"depths": (2, 1, 3), "growth": 6, "width": 10, "bottleneck": 3}
SMALL = {  # name: (ours, theirs)
    "bottleneck": (lambda: resnet.resnet(**RES), lambda: ResNet(18, 17, **RES)),
    "grouped": (
        lambda: resnet.resnet(groups=4, width_per_group=32, **RES),
        lambda: ResNet(18, 17, groups=4, width_per_group=32, **RES),
    ),
    "convnext": (lambda: convnext.convnext(**CNX), lambda: ConvNeXt(18, 17, **CNX)),
    "densenet": (lambda: densenet.densenet(**DNS), lambda: DenseNet(18, 17, **DNS)),
}
SHAPES = [(4, 32, 32, 18), (2, 64, 64, 18), (3, 33, 47, 18), (1, 64, 64, 18)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", SMALL)
def test_small_float64(name, shape):
    network, module = SMALL[name][0](), SMALL[name][1]()
    same_names(network, module)
    inputs = case(network, shape)
    error = worst(errors(everything(network, *inputs), theirs(module, *inputs)))
    assert error[0] < 1e-10, error


STEP = 2.0**-20  # sixteen roundings of float32: a path through a network has some tens of them, of either sign


def expected_in_float32(module, params, state, x, R, draws, gradients):
    """(quantities in float64, {quantity: error that float32 may have}), from the network's own conditioning.

    Every parameter, statistic and pixel is moved by a random +-2^-20 of itself, all else in float64, and the
    largest change of a quantity is what float32 may lose of it. Where a step flips a relu or the choice of a
    maximum, the gradient jumps, and the change says how far; a rounding can flip it as well.
    """
    exact = theirs(module, params, state, x, R, gradients=gradients)
    largest = dict.fromkeys(exact, 2.0**-22)
    rng = np.random.default_rng(0)

    def moved(a):
        return a * (1 + STEP * rng.choice([-1.0, 1.0], a.shape)) if a.dtype.kind == "f" else a

    for _ in range(draws):
        found = theirs(module, each(params, moved), each(state, moved), moved(x), R, gradients=gradients)
        largest = {name: max(largest[name], error) for name, error in errors(found, exact).items()}
    return exact, largest


def each(tree, f):
    return weights.nested({name: f(np.asarray(leaf)) for name, leaf in weights.named(tree).items()})


def cast(dtype):
    return lambda a: a.astype(dtype) if a.dtype.kind == "f" else a


def float32_errors(network, module, shape, *, draws=8, gradients=True):
    """{quantity: error in float32 / what may be expected}; every float of the result must be float32."""
    params, state, x, R = case(network, shape, np.float32)
    found = everything(network, params, state, x, R)
    assert {str(a.dtype) for name, a in found.items() if "num_batches" not in name} == {"float32"}
    double = each(params, cast(np.float64)), each(state, cast(np.float64)), np.float64(x), np.float64(R)
    exact, expected = expected_in_float32(module, *double, draws, gradients)
    assert expected["eval"] < 1e-4, "a bound as loose as this would not see a wrong layer"
    off = errors({name: found[name] for name in exact}, exact)
    return {name: off[name] / expected[name] for name in exact}


@pytest.mark.parametrize("name", SMALL)
def test_small_float32(name):
    error = worst(float32_errors(SMALL[name][0](), SMALL[name][1](), (4, 32, 32, 18)))
    assert error[0] < 2, error  # 1 where a jump, the same on both sides, is all there is


# ---------------------------------------------------------------------------------------------------- full size

TWINS = {
    "resnet50": functools.partial(ResNet, depths=(3, 4, 6, 3), widths=(64, 128, 256, 512)),
    "resnext50_32x4d": functools.partial(
        ResNet, depths=(3, 4, 6, 3), widths=(64, 128, 256, 512), groups=32, width_per_group=4
    ),
    "convnext_tiny": functools.partial(ConvNeXt, depths=(3, 3, 9, 3), widths=(96, 192, 384, 768)),
    "densenet121": functools.partial(DenseNet, depths=(6, 12, 24, 16)),
}


@pytest.mark.parametrize("name", FULL)
def test_full_size(name):
    network, module = FULL[name](), TWINS[name](18, 17)
    same_names(network, module)
    inputs = case(network, (4, 32, 32, 18))
    a, b = everything(network, *inputs), theirs(module, *inputs)
    error = worst(errors(a, b))
    assert error[0] < 1e-10, error
    np.testing.assert_allclose(gist(b), LITERALS[name], rtol=1e-10)


@pytest.mark.parametrize("name", FULL)
def test_full_size_float32(name):
    """Logits and statistics. Single gradients of random networks as deep as these hang on flipped relus: torch's
    own float32 is off by 0.04 of some; float64 settles them above."""
    network, module = FULL[name](), TWINS[name](18, 17)
    error = worst(float32_errors(network, module, (4, 32, 32, 18), draws=2, gradients=False))
    assert error[0] < 2, error


def torchvision_module(name, channels, classes, **options):
    module = getattr(pytest.importorskip("torchvision.models"), name)(num_classes=classes, **options)
    for path, conv in module.named_modules():
        if isinstance(conv, tnn.Conv2d):  # the first one; torchvision has no argument for the channels
            keep = conv.kernel_size, conv.stride, conv.padding, 1, 1, conv.bias is not None
            parent, _, last = path.rpartition(".")
            setattr(module.get_submodule(parent), last, tnn.Conv2d(channels, conv.out_channels, *keep))
            return module
    raise AssertionError(f"{name} has no convolution")


@pytest.mark.parametrize("name", FULL | OTHERS)
def test_names_are_torchvisions(name):
    models = pytest.importorskip("torchvision.models")
    with torch.device("meta"):
        module = getattr(models, name)()
    same_names((FULL | OTHERS)[name](3, 1000), module)


@pytest.mark.parametrize("name", FULL)
def test_numbers_are_torchvisions(name):
    options = {"stochastic_depth_prob": 0.0} if name.startswith("convnext") else {}
    module = torchvision_module(name, 18, 17, **options)
    network = FULL[name]()
    inputs = case(network, (4, 32, 32, 18))
    a, b = everything(network, *inputs), theirs(module, *inputs)
    error = worst(errors(a, b))
    assert error[0] < 1e-10, error
    np.testing.assert_allclose(gist(b), LITERALS[name], rtol=1e-10)

"""DenseNet: blocks in which every layer sees the outputs of all before it, of any depths, growth and width.

Huang et al., "Densely Connected Convolutional Networks" (arXiv:1608.06993), the bottleneck form with compression
("DenseNet-BC"), built and named as in torchvision 0.28.0, so that its weights load unchanged. Architecture only:
no trained weights, no dropout. The paper's Table II names DenseNet121, the constructor at the end.

Index letters: B batch, H W rows and columns, c channels, K classes.
"""

from collections.abc import Sequence
from functools import partial

import numpy as np

from bplcz_ref import layers
from bplcz_ref.layers import Network, avg_pool, batch_norm, dense, linear, max_pool, relu, serial, spatial_mean

conv = partial(layers.conv, start=layers.fan_in)


def densenet(
    in_channels: int = 18,
    classes: int = 17,
    *,
    depths: Sequence[int],
    growth: int = 32,
    width: int = 64,
    bottleneck: int = 4,
) -> Network:  # (B, H, W, in_channels) -> (B, K)
    """A DenseNet: stem, one dense block per entry of `depths`, transitions between them, BN, ReLU, mean, linear.

    Stem: 7x7 convolution of stride 2 to `width` channels, BN, ReLU, max pool 3x3 of stride 2 padded by 1.
    Layer of a block: x <- [x, conv3x3(relu(BN(conv1x1(relu(BN(x))))))], the 1x1 to bottleneck * growth channels,
    the 3x3 (padded by 1) to growth; new channels come last.
    Transition: BN, ReLU, 1x1 to half the channels (rounded down), mean over 2x2. Convolutions have no bias.
    At 32x32 the maps are 8x8, 4x4, 2x2 and 1x1; H and W must be 29 or more for four blocks. Batch norm in training
    needs 2 or more values per channel, so a batch of one needs a last map larger than 1x1.

    Initial values: convolutions normal with standard deviation sqrt(2 / fan_in); batch norm 1 and 0; linear
    weight uniform within 1 / sqrt(fan_in), bias 0.

    Source: torchvision/models/densenet.py; names, shapes and order of its state_dict. The weight files that
    torchvision downloads write `norm.1`, `conv.1`, `norm.2`, `conv.2` for this state_dict's `norm1` to `conv2`.

    >>> densenet161 = densenet(depths=(6, 12, 36, 24), growth=48, width=96)
    >>> network = densenet(3, 5, depths=(1, 2), growth=4, width=6)
    >>> params, state = network.init(np.random.default_rng(0), np.float32)
    >>> list(params["features"])
    ['conv0', 'norm0', 'denseblock1', 'transition1', 'denseblock2', 'norm5']
    """
    m = bottleneck * growth

    def layer(c):
        return dense(
            ("norm1", batch_norm(c)), relu, ("conv1", conv(c, m, 1)),
            ("norm2", batch_norm(m)), relu, ("conv2", conv(m, growth, 3)),
        )  # fmt: skip

    blocks, c = [], width
    for b, depth in enumerate(depths, 1):
        inside = [(f"denselayer{k + 1}", layer(c + k * growth)) for k in range(depth)]
        blocks.append((f"denseblock{b}", serial(*inside)))
        c += depth * growth
        if b < len(depths):
            between = serial(("norm", batch_norm(c)), relu, ("conv", conv(c, c // 2, 1)), avg_pool(2))
            blocks.append((f"transition{b}", between))
            c //= 2
    features = serial(
        ("conv0", conv(in_channels, width, 7, stride=2)), ("norm0", batch_norm(width)), relu,
        max_pool(3, stride=2, padding=1),
        *blocks,
        ("norm5", batch_norm(c)), relu,  # torchvision's name for any depth
    )  # fmt: skip
    return serial(("features", features), spatial_mean, ("classifier", linear(c, classes, start=bias_0)))


def bias_0(rng: np.random.Generator, shape: tuple) -> tuple:
    """Weight uniform within 1 / sqrt(fan_in), bias 0."""
    return layers.uniform(rng, shape)[0], np.zeros(shape[0])


def densenet121(in_channels: int = 18, classes: int = 17) -> Network:
    """Table II, DenseNet121: 7,018,321 parameters; 7,978,856 as published, with 3 channels and 1000 classes."""
    return densenet(in_channels, classes, depths=(6, 12, 24, 16))

"""DenseNet: blocks in which every layer sees the outputs of all before it, of any depths, growth and width.

Huang et al., "Densely Connected Convolutional Networks" (arXiv:1608.06993), the bottleneck form with compression
("DenseNet-BC"), built and named as in torchvision 0.28.0, so that its weights load unchanged. Architecture only:
no trained weights, no dropout, no recomputation to save memory.

The paper's Table II names DenseNet121, which is the constructor at the end.

Index letters: B batch, H W rows and columns, c channels, K classes.
"""

from collections.abc import Sequence

import numpy as np

from bplcz_ref import nn


def densenet(
    in_channels: int = 18,
    classes: int = 17,
    *,
    depths: Sequence[int],
    growth: int = 32,
    width: int = 64,
    bottleneck: int = 4,
) -> nn.Network:  # (B, H, W, in_channels) -> (B, K)
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

    Other published sizes are built in the same way; their names are torchvision's:

    >>> densenet161 = densenet(depths=(6, 12, 36, 24), growth=48, width=96)
    >>> network = densenet(3, 5, depths=(1, 2), growth=4, width=6)
    >>> params, state = network.init(np.random.default_rng(0), np.float32)
    >>> list(params["features"])
    ['conv0', 'norm0', 'denseblock1', 'transition1', 'denseblock2', 'norm5']
    """
    if not depths or min(depths) < 1:
        raise ValueError(f"depths need one entry per block, each 1 or more, got {depths}")

    def init(rng, dtype):
        features, state, c = {}, {}, width
        features["conv0"] = nn.conv_init(rng, in_channels, c, 7, dtype, fan=in_channels * 7**2)
        features["norm0"], state["norm0"] = nn.batch_norm_init(c, dtype)
        for b, depth in enumerate(depths, 1):
            block, measured = features[f"denseblock{b}"], state[f"denseblock{b}"] = {}, {}
            for k in range(1, depth + 1):
                layer = f"denselayer{k}"
                block[layer], measured[layer] = layer_init(rng, c, bottleneck * growth, growth, dtype)
                c += growth
            if b < len(depths):
                conv = nn.conv_init(rng, c, c // 2, 1, dtype, fan=c)
                norm, measured = nn.batch_norm_init(c, dtype)
                features[f"transition{b}"], state[f"transition{b}"] = (
                    {"norm": norm, "conv": conv},
                    {"norm": measured},
                )
                c //= 2
        features["norm5"], state["norm5"] = nn.batch_norm_init(c, dtype)  # torchvision's name for any depth
        classifier = nn.linear_init(rng, c, classes, dtype) | {"bias": np.zeros(classes, dtype)}
        return {"features": features, "classifier": classifier}, {"features": state}

    def apply(params, state, x, *, train, rng=None):
        p, old, new = params["features"], state["features"], {}
        x = nn.conv2d(x, **p["conv0"], stride=2, padding=3)
        x, new["norm0"] = nn.batch_norm(x, **p["norm0"], state=old["norm0"], train=train, relu=True)
        x = nn.max_pool2d(x, 3, stride=2, padding=1)
        for b, depth in enumerate(depths, 1):
            name = f"denseblock{b}"
            names = [f"denselayer{k}" for k in range(1, depth + 1)]
            block = p[name]  # looked up once: in a traced dict each look-up costs its size
            x, states = nn.dense_block(x, [block[k] for k in names], [old[name][k] for k in names], train=train)
            new[name] = dict(zip(names, states, strict=True))
            if b < len(depths):
                name = f"transition{b}"
                x, measured = nn.batch_norm(x, **p[name]["norm"], state=old[name]["norm"], train=train, relu=True)
                x, new[name] = nn.avg_pool2d(nn.conv2d(x, **p[name]["conv"]), 2), {"norm": measured}
        x, new["norm5"] = nn.batch_norm(x, **p["norm5"], state=old["norm5"], train=train, relu=True)
        return nn.linear(nn.spatial_mean(x), **params["classifier"]), {"features": new}

    return nn.Network(init, apply)


def layer_init(
    rng: np.random.Generator, inputs: int, middle: int, growth: int, dtype: np.dtype
) -> tuple[dict, dict]:
    """Parameters and state of one layer of a dense block."""
    norm1, measured1 = nn.batch_norm_init(inputs, dtype)
    conv1 = nn.conv_init(rng, inputs, middle, 1, dtype, fan=inputs)
    norm2, measured2 = nn.batch_norm_init(middle, dtype)
    conv2 = nn.conv_init(rng, middle, growth, 3, dtype, fan=middle * 3**2)
    params = {"norm1": norm1, "conv1": conv1, "norm2": norm2, "conv2": conv2}
    return params, {"norm1": measured1, "norm2": measured2}


def densenet121(in_channels: int = 18, classes: int = 17) -> nn.Network:
    """Table II, DenseNet121: 7,018,321 parameters; 7,978,856 as published, with 3 channels and 1000 classes."""
    return densenet(in_channels, classes, depths=(6, 12, 24, 16))

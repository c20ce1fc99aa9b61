"""DenseNet: blocks in which every layer sees the outputs of all before it, of any depths, growth and width.

Huang et al., "Densely Connected Convolutional Networks" (arXiv:1608.06993), the bottleneck form with compression
("DenseNet-BC"), as torchvision 0.28.0 builds it, name by name, so that its weights load as they are. Architecture
only: no trained weights, no dropout, no recomputation to save memory.

The paper (Table II) names DenseNet and no more: that it is densenet121 is our reading.
"""

import autograd.numpy as np

from bplcz_ref import nn


def densenet(
    in_channels=18,
    classes=17,
    *,
    depths,
    growth=32,
    width=64,
    bottleneck=4,
):  # (B, H, W, in_channels) -> (B, classes)
    """A DenseNet: stem, one dense block an entry of `depths`, transitions between them, BN, ReLU, mean, linear.

    Stem: 7x7 convolution of stride 2 to `width` channels, BN, ReLU, max pool 3x3 stride 2 padded by 1.
    Layer of a block: x <- [x, conv3x3(relu(BN(conv1x1(relu(BN(x))))))], the 1x1 to bottleneck * growth channels,
    the 3x3 (padded by 1) to growth; what is new stands at the end of the channels.
    Transition: BN, ReLU, 1x1 to half the channels (rounded down), mean over 2x2. Convolutions have no bias.
    At 32x32 the maps are 8x8, 4x4, 2x2 and 1x1; H and W must be 29 or more for four blocks.

    Initial values: convolutions normal with standard deviation sqrt(2 / fan_in); batch norm 1 and 0; linear
    weight uniform within 1 / sqrt(fan_in), bias 0.
    Batch norm in training needs 2 or more values per channel, so a batch of one needs a last map larger than 1x1.

    Source: torchvision/models/densenet.py; its state_dict's names, shapes and order. The weight files that
    torchvision downloads write `norm.1`, `conv.1`, `norm.2`, `conv.2` for this state_dict's `norm1` to `conv2`.

    >>> import numpy
    >>> network = densenet(3, 5, depths=(1, 2), growth=4, width=6)
    >>> params, state = network.init(numpy.random.default_rng(0), numpy.float32)
    >>> list(params["features"])
    ['conv0', 'norm0', 'denseblock1', 'transition1', 'denseblock2', 'norm5']
    >>> logits, _ = network.apply(params, state, numpy.zeros((2, 16, 16, 3), numpy.float32), train=False)
    >>> logits.shape, logits.dtype
    ((2, 5), dtype('float32'))
    """
    if not depths or min(depths) < 1:
        raise ValueError(f"depths need one entry a block, each 1 or more, got {depths}")

    def init(rng, dtype):
        features, state, c = {"conv0": conv_init(rng, in_channels, width, 7, dtype)}, {}, width
        features["norm0"], state["norm0"] = nn.batch_norm_init(c, dtype)
        for b, depth in enumerate(depths, 1):
            layers = {f"denselayer{k + 1}": layer_init(rng, c + k * growth, dtype) for k in range(depth)}
            features[f"denseblock{b}"] = {name: params for name, (params, _) in layers.items()}
            state[f"denseblock{b}"] = {name: measured for name, (_, measured) in layers.items()}
            c += depth * growth
            if b < len(depths):
                norm, measured = nn.batch_norm_init(c, dtype)
                features[f"transition{b}"] = {"norm": norm, "conv": conv_init(rng, c, c // 2, 1, dtype)}
                state[f"transition{b}"] = {"norm": measured}
                c //= 2
        features["norm5"], state["norm5"] = nn.batch_norm_init(c, dtype)  # torchvision's name for any depth
        classifier = nn.linear_init(rng, c, classes, dtype)
        classifier["bias"] = np.zeros(classes, dtype)
        return {"features": features, "classifier": classifier}, {"features": state}

    def layer_init(rng, c, dtype):
        middle = bottleneck * growth
        norm1, measured1 = nn.batch_norm_init(c, dtype)
        conv1 = conv_init(rng, c, middle, 1, dtype)
        norm2, measured2 = nn.batch_norm_init(middle, dtype)
        conv2 = conv_init(rng, middle, growth, 3, dtype)
        params = {"norm1": norm1, "conv1": conv1, "norm2": norm2, "conv2": conv2}
        return params, {"norm1": measured1, "norm2": measured2}

    def apply(params, state, x, *, train, rng=None):
        p, old, new = params["features"], state["features"], {}
        x = nn.conv2d(x, p["conv0"]["weight"], stride=2, padding=3)
        x, new["norm0"] = bn_relu(p["norm0"], old["norm0"], x, train)
        x = nn.max_pool2d(x, 3, 2, 1)
        for b, depth in enumerate(depths, 1):
            name = f"denseblock{b}"
            block, new[name] = p[name], {}  # looked up once: in a traced dict each look-up costs its size
            for k in range(1, depth + 1):
                layer = f"denselayer{k}"
                grown, new[name][layer] = dense_layer(block[layer], old[name][layer], x, train)
                x = np.concatenate([x, grown], axis=-1)
            if b < len(depths):
                name = f"transition{b}"
                transition = p[name]
                x, measured = bn_relu(transition["norm"], old[name]["norm"], x, train)
                x, new[name] = nn.conv2d(x, transition["conv"]["weight"]), {"norm": measured}
                x = nn.avg_pool2d(x, 2)
        x, new["norm5"] = bn_relu(p["norm5"], old["norm5"], x, train)
        return nn.linear(nn.spatial_mean(x), **params["classifier"]), {"features": new}

    return nn.Network(init, apply)


def dense_layer(p, state, x, train):  # (B, H, W, c) -> (B, H, W, growth), new state
    """conv3x3(relu(BN(conv1x1(relu(BN(x)))))): what the layer adds to the end of x's channels."""
    y, norm1 = bn_relu(p["norm1"], state["norm1"], x, train)
    y = nn.conv2d(y, p["conv1"]["weight"])
    y, norm2 = bn_relu(p["norm2"], state["norm2"], y, train)
    return nn.conv2d(y, p["conv2"]["weight"], padding=1), {"norm1": norm1, "norm2": norm2}


def bn_relu(p, state, x, train):
    return nn.batch_norm(x, p["weight"], p["bias"], state, train=train, relu=True)


def conv_init(rng, inputs, outputs, kernel, dtype):
    shape = (outputs, inputs, kernel, kernel)
    return {"weight": nn.normal(rng, shape, (2 / (inputs * kernel**2)) ** 0.5, dtype)}


# The published sizes under torchvision's names. Parameters: at 18 channels and 17 classes; at 3 and 1000.


def densenet121(in_channels=18, classes=17):
    """Table II, DenseNet: 7,018,321 parameters; 7,978,856 as published."""
    return densenet(in_channels, classes, depths=(6, 12, 24, 16))


def densenet161(in_channels=18, classes=17):
    """DenseNet-161 (growth 48, width 96): 26,580,113 parameters; 28,681,000 as published."""
    return densenet(in_channels, classes, depths=(6, 12, 36, 24), growth=48, width=96)


def densenet169(in_channels=18, classes=17):
    """DenseNet-169: 12,559,825 parameters; 14,149,480 as published."""
    return densenet(in_channels, classes, depths=(6, 12, 32, 32))


def densenet201(in_channels=18, classes=17):
    """DenseNet-201: 18,172,625 parameters; 20,013,928 as published."""
    return densenet(in_channels, classes, depths=(6, 12, 48, 32))

"""ResNet and ResNeXt: residual stages of basic blocks or bottlenecks, plain or grouped, of any depth and width.

He et al., "Deep Residual Learning for Image Recognition" (arXiv:1512.03385), and Xie et al., "Aggregated Residual
Transformations" (arXiv:1611.05431), as torchvision 0.28.0 builds them, name by name, so that its weights load as
they are. Architecture only: no trained weights, no dilation, no other normalisation than batch norm.

The paper (Table II) names ResNet50 and ResNeXt and no more: that the 18 channels enter the first convolution
together, and that ResNeXt is resnext50_32x4d, is our reading.
"""

from typing import NamedTuple

from bplcz_ref import nn


class Conv(NamedTuple):
    """A convolution without bias, padded by kernel // 2, that batch norm follows."""

    kernel: int
    inputs: int
    outputs: int
    stride: int = 1
    groups: int = 1


def basic(inputs, planes, stride, groups=1, width_per_group=64):
    """The block of ResNet-18 and -34: 3x3 (stride), 3x3.

    >>> basic(64, 128, 2)
    [Conv(kernel=3, inputs=64, outputs=128, stride=2, groups=1),
     Conv(kernel=3, inputs=128, outputs=128, stride=1, groups=1)]
    """
    if groups != 1 or width_per_group != 64:
        raise ValueError(
            f"the basic block has no groups and no other width: expected groups=1 and width_per_group=64, "
            f"got groups={groups} and width_per_group={width_per_group}; use block=bottleneck"
        )
    return [Conv(3, inputs, planes, stride), Conv(3, planes, planes)]


def bottleneck(inputs, planes, stride, groups=1, width_per_group=64):
    """The block of all others: 1x1 to m channels, 3x3 in groups (stride), 1x1 to 4 planes.

    m = planes * width_per_group / 64 * groups.
    The stride sits on the 3x3, as in torchvision ("v1.5"); the other reading, of the first publication, is the
    1x1 before it.

    >>> [conv.outputs for conv in bottleneck(256, 64, 1, groups=32, width_per_group=4)]
    [128, 128, 256]
    """
    m = int(planes * (width_per_group / 64)) * groups
    if m < 1:
        raise ValueError(
            f"a bottleneck of {planes} planes and width_per_group={width_per_group} has no channel inside: "
            "planes * width_per_group must be 64 or more"
        )
    return [Conv(1, inputs, m), Conv(3, m, m, stride, groups), Conv(1, m, 4 * planes)]


def resnet(
    in_channels=18,
    classes=17,
    *,
    depths,
    block=bottleneck,
    widths=(64, 128, 256, 512),
    groups=1,
    width_per_group=64,
    stem="imagenet",
):  # (B, H, W, in_channels) -> (B, classes)
    """A residual network: stem, one stage an entry of `depths`, mean over the map, linear.

    stem "imagenet": 7x7 stride 2, BN, ReLU, max pool 3x3 stride 2 padded by 1. "cifar": 3x3 stride 1, BN, ReLU,
    which keeps 32x32 patches at 32x32, 16x16, 8x8 and 4x4, where "imagenet" leaves 8x8, 4x4, 2x2 and 1x1.
    Stage s has depths[s] blocks of widths[s] planes; every stage but the first begins with stride 2.
    Block: y = relu(F(x) + x), F the block's convolutions, each with batch norm, relu between them; where shapes
    change, a 1x1 convolution of the block's stride with batch norm stands for x ("downsample").

    Initial values: convolutions normal with standard deviation sqrt(2 / fan_out), fan_out = outputs * k * k,
    grouped or not; batch norm 1 and 0, in every block's last too (timm starts those at 0); linear uniform within
    1 / sqrt(fan_in).
    Any H and W; batch norm in training needs 2 or more values per channel, so a batch of one needs a last map
    larger than 1x1.

    Source: torchvision/models/resnet.py; state_dict's names, shapes and order.

    >>> import numpy as np
    >>> network = resnet(3, 5, depths=(1, 1), widths=(4, 8), block=basic)
    >>> params, state = network.init(np.random.default_rng(0), np.float32)
    >>> list(params), list(params["layer2"]["0"])
    (['conv1', 'bn1', 'layer1', 'layer2', 'fc'], ['conv1', 'bn1', 'conv2', 'bn2', 'downsample'])
    >>> logits, _ = network.apply(params, state, np.zeros((2, 16, 16, 3), np.float32), train=False)
    >>> logits.shape, logits.dtype
    ((2, 5), dtype('float32'))
    """
    if len(depths) != len(widths) or not depths or min(depths) < 1:
        raise ValueError(
            f"depths and widths need one entry a stage, depths of 1 or more: got {depths} and {widths}"
        )
    if stem not in ("imagenet", "cifar"):
        raise ValueError(f"stem is {stem!r}; expected 'imagenet' or 'cifar'")
    first = Conv(7, in_channels, widths[0], 2) if stem == "imagenet" else Conv(3, in_channels, widths[0])
    stages, inputs = {}, widths[0]  # {"layer1": [(convolutions, shortcut or None) of each block]}
    for s, (depth, planes) in enumerate(zip(depths, widths, strict=True), 1):
        stages[f"layer{s}"] = []
        for k in range(depth):
            stride = 2 if s > 1 and k == 0 else 1
            convolutions = block(inputs, planes, stride, groups, width_per_group)
            outputs = convolutions[-1].outputs
            shortcut = Conv(1, inputs, outputs, stride) if stride > 1 or inputs != outputs else None
            stages[f"layer{s}"].append((convolutions, shortcut))
            inputs = outputs
    features = inputs

    def init(rng, dtype):
        params, state = {}, {}
        params["conv1"] = conv_init(rng, first, dtype)
        params["bn1"], state["bn1"] = nn.batch_norm_init(first.outputs, dtype)
        for name, blocks in stages.items():
            params[name], state[name] = {}, {}
            for k, (convolutions, shortcut) in enumerate(blocks):
                p = params[name][str(k)] = {}
                s = state[name][str(k)] = {}
                for i, conv in enumerate(convolutions, 1):
                    p[f"conv{i}"] = conv_init(rng, conv, dtype)
                    p[f"bn{i}"], s[f"bn{i}"] = nn.batch_norm_init(conv.outputs, dtype)
                if shortcut:
                    bn, measured = nn.batch_norm_init(shortcut.outputs, dtype)
                    p["downsample"] = {"0": conv_init(rng, shortcut, dtype), "1": bn}
                    s["downsample"] = {"1": measured}
        params["fc"] = nn.linear_init(rng, features, classes, dtype)
        return params, state

    def apply(params, state, x, *, train, rng=None):
        new = {}
        x, new["bn1"] = conv_bn(params["conv1"], params["bn1"], state["bn1"], x, first, train=train, relu=True)
        if stem == "imagenet":
            x = nn.max_pool2d(x, 3, 2, 1)
        for name, blocks in stages.items():
            p, new[name] = params[name], {}  # looked up once: in a traced dict each look-up costs its size
            for k, (convolutions, shortcut) in enumerate(blocks):
                x, new[name][str(k)] = residual(
                    p[str(k)], state[name][str(k)], x, convolutions, shortcut, train=train
                )
        return nn.linear(nn.spatial_mean(x), **params["fc"]), new

    return nn.Network(init, apply)


def residual(p, state, x, convolutions, shortcut, *, train):  # (B, H, W, C) -> (B, H', W', O), new state
    """relu(F(x) + x), or relu(F(x) + BN(conv(x))) where a shortcut is given; F ends in batch norm, not in relu."""
    y, new = x, {}
    for i, conv in enumerate(convolutions, 1):
        y, new[f"bn{i}"] = conv_bn(
            *(p[f"conv{i}"], p[f"bn{i}"], state[f"bn{i}"], y, conv), train=train, relu=i < len(convolutions)
        )
    if shortcut:
        down, measured = p["downsample"], state["downsample"]["1"]
        x, measured = conv_bn(down["0"], down["1"], measured, x, shortcut, train=train, relu=False)
        new["downsample"] = {"1": measured}
    return nn.relu(y + x), new


def conv_bn(p, bn, state, x, conv, *, train, relu):  # (B, H, W, C) -> (B, H', W', O), new state
    """Convolution, batch norm and, if `relu`, max(y, 0)."""
    y = nn.conv2d(x, p["weight"], stride=conv.stride, padding=conv.kernel // 2, groups=conv.groups)
    return nn.batch_norm(y, bn["weight"], bn["bias"], state, train=train, relu=relu)


def conv_init(rng, conv, dtype):
    """Normal with standard deviation sqrt(2 / fan_out), fan_out = outputs * k * k, grouped or not.

    This is torchvision's rule; the other reading counts outputs / groups, what one input reaches.
    """
    shape = (conv.outputs, conv.inputs // conv.groups, conv.kernel, conv.kernel)
    return {"weight": nn.normal(rng, shape, (2 / (conv.outputs * conv.kernel**2)) ** 0.5, dtype)}


# The published sizes under torchvision's names. Parameters: at 18 channels and 17 classes; at 3 and 1000.


def resnet18(in_channels=18, classes=17, *, stem="imagenet"):
    """ResNet-18: 11,232,273 parameters; 11,689,512 as published."""
    return resnet(in_channels, classes, depths=(2, 2, 2, 2), block=basic, stem=stem)


def resnet34(in_channels=18, classes=17, *, stem="imagenet"):
    """ResNet-34: 21,340,433 parameters; 21,797,672 as published."""
    return resnet(in_channels, classes, depths=(3, 4, 6, 3), block=basic, stem=stem)


def resnet50(in_channels=18, classes=17, *, stem="imagenet"):
    """Table II, ResNet50: 23,589,905 parameters (23,543,825 with stem="cifar"); 25,557,032 as published."""
    return resnet(in_channels, classes, depths=(3, 4, 6, 3), stem=stem)


def resnet101(in_channels=18, classes=17, *, stem="imagenet"):
    """ResNet-101: 42,582,033 parameters; 44,549,160 as published."""
    return resnet(in_channels, classes, depths=(3, 4, 23, 3), stem=stem)


def resnet152(in_channels=18, classes=17, *, stem="imagenet"):
    """ResNet-152: 58,225,681 parameters; 60,192,808 as published."""
    return resnet(in_channels, classes, depths=(3, 8, 36, 3), stem=stem)


def resnext50_32x4d(in_channels=18, classes=17, *, stem="imagenet"):
    """Table II, ResNeXt: 23,061,777 parameters; 25,028,904 as published."""
    return resnet(in_channels, classes, depths=(3, 4, 6, 3), groups=32, width_per_group=4, stem=stem)


def resnext101_32x8d(in_channels=18, classes=17, *, stem="imagenet"):
    """ResNeXt-101 32x8d: 86,824,209 parameters; 88,791,336 as published."""
    return resnet(in_channels, classes, depths=(3, 4, 23, 3), groups=32, width_per_group=8, stem=stem)


def resnext101_64x4d(in_channels=18, classes=17, *, stem="imagenet"):
    """ResNeXt-101 64x4d: 81,488,145 parameters; 83,455,272 as published."""
    return resnet(in_channels, classes, depths=(3, 4, 23, 3), groups=64, width_per_group=4, stem=stem)


def wide_resnet50_2(in_channels=18, classes=17, *, stem="imagenet"):
    """ResNet-50 with 3x3 twice as wide (arXiv:1605.07146): 66,916,113 parameters; 68,883,240 as published."""
    return resnet(in_channels, classes, depths=(3, 4, 6, 3), width_per_group=128, stem=stem)


def wide_resnet101_2(in_channels=18, classes=17, *, stem="imagenet"):
    """ResNet-101 with 3x3 twice as wide: 124,919,569 parameters; 126,886,696 as published."""
    return resnet(in_channels, classes, depths=(3, 4, 23, 3), width_per_group=128, stem=stem)

"""ResNet and ResNeXt: residual stages of basic blocks or bottlenecks, plain or grouped, of any depth and width.

He et al., "Deep Residual Learning for Image Recognition" (arXiv:1512.03385), and Xie et al., "Aggregated Residual
Transformations" (arXiv:1611.05431), built and named as in torchvision 0.28.0, so that its weights load unchanged.
Architecture only: no trained weights, no dilation, no normalisation other than batch norm.

The paper (Table II) names ResNet50 and ResNeXt without details. Our reading: the 18 channels enter the first
convolution together, and ResNeXt is resnext50_32x4d.

Index letters: B batch, H W rows and columns, C channels, O output channels, K classes.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from bplcz_ref import nn


class Conv(NamedTuple):
    """A convolution without bias, padded by kernel // 2; batch norm follows it."""

    kernel: int
    inputs: int
    outputs: int
    stride: int = 1
    groups: int = 1


class Block(NamedTuple):
    """The convolutions of F, and the one that replaces x in the sum where shapes change."""

    convolutions: list[Conv]
    shortcut: Conv | None


def basic(inputs: int, planes: int, stride: int, groups: int = 1, width_per_group: int = 64) -> list[Conv]:
    """The block of ResNet-18 and -34: 3x3 (stride), 3x3.

    >>> basic(64, 128, 2)
    [Conv(kernel=3, inputs=64, outputs=128, stride=2, groups=1),
     Conv(kernel=3, inputs=128, outputs=128, stride=1, groups=1)]
    """
    if groups != 1 or width_per_group != 64:
        raise ValueError(
            f"the basic block has no groups and one width: expected groups=1 and width_per_group=64, "
            f"got groups={groups} and width_per_group={width_per_group}; use block=bottleneck"
        )
    return [Conv(3, inputs, planes, stride), Conv(3, planes, planes)]


def bottleneck(inputs: int, planes: int, stride: int, groups: int = 1, width_per_group: int = 64) -> list[Conv]:
    """The block of all others: 1x1 to m channels, 3x3 in groups (stride), 1x1 to 4 planes.

    m = planes * width_per_group / 64 * groups.
    The 3x3 carries the stride, as in torchvision ("v1.5"); in the first publication the 1x1 before it does.

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
    in_channels: int = 18,
    classes: int = 17,
    *,
    depths: Sequence[int],
    block: Callable[..., list[Conv]] = bottleneck,
    widths: Sequence[int] = (64, 128, 256, 512),
    groups: int = 1,
    width_per_group: int = 64,
) -> nn.Network:  # (B, H, W, in_channels) -> (B, K)
    """A residual network: stem, one stage per entry of `depths`, mean over the map, linear.

    Stem: 7x7 convolution of stride 2, BN, ReLU, max pool 3x3 of stride 2 padded by 1.
    Stage s: depths[s] blocks of widths[s] planes; every stage except the first begins with stride 2.
    Block: y = relu(F(x) + x), F the block's convolutions, each with batch norm, ReLU between them. Where shapes
    change, a 1x1 convolution of the block's stride with batch norm replaces x ("downsample").
    At 32x32 the maps of four stages are 8x8, 4x4, 2x2 and 1x1. Any H and W; batch norm in training needs 2 or
    more values per channel, so a batch of one needs a last map larger than 1x1.

    Initial values: convolutions normal with standard deviation sqrt(2 / fan_out); batch norm 1 and 0, in every
    block's last one too (timm starts those at 0); linear uniform within 1 / sqrt(fan_in).

    Source: torchvision/models/resnet.py; names, shapes and order of its state_dict.

    Other published sizes are built in the same way; their names are torchvision's:

    >>> resnet18 = resnet(depths=(2, 2, 2, 2), block=basic)
    >>> wide_resnet50_2 = resnet(depths=(3, 4, 6, 3), width_per_group=128)
    >>> params, state = resnet18.init(np.random.default_rng(0), np.float32)
    >>> list(params), list(params["layer2"]["0"])
    (['conv1', 'bn1', 'layer1', 'layer2', 'layer3', 'layer4', 'fc'],
     ['conv1', 'bn1', 'conv2', 'bn2', 'downsample'])
    """
    if len(depths) != len(widths) or not depths or min(depths) < 1:
        raise ValueError(
            f"depths and widths need one entry per stage, depths of 1 or more: got {depths} and {widths}"
        )
    stem = Conv(7, in_channels, widths[0], stride=2)
    stages: dict[str, list[Block]] = {}
    channels = widths[0]
    for s, (depth, planes) in enumerate(zip(depths, widths, strict=True), 1):
        stages[f"layer{s}"] = []
        for k in range(depth):
            stride = 2 if s > 1 and k == 0 else 1
            convolutions = block(channels, planes, stride, groups, width_per_group)
            outputs = convolutions[-1].outputs
            shortcut = Conv(1, channels, outputs, stride) if stride > 1 or channels != outputs else None
            stages[f"layer{s}"].append(Block(convolutions, shortcut))
            channels = outputs

    def init(rng, dtype):
        params, state = {}, {}
        params["conv1"], params["bn1"], state["bn1"] = conv_bn_init(rng, stem, dtype)
        for name, blocks in stages.items():
            params[name], state[name] = {}, {}
            for k, each in enumerate(blocks):
                params[name][str(k)], state[name][str(k)] = block_init(rng, each, dtype)
        params["fc"] = nn.linear_init(rng, channels, classes, dtype)
        return params, state

    def apply(params, state, x, *, train, rng=None):
        new = {}
        x, new["bn1"] = conv_bn(params["conv1"], params["bn1"], state["bn1"], x, stem, train=train, relu=True)
        x = nn.max_pool2d(x, 3, stride=2, padding=1)
        for name, blocks in stages.items():
            stage, new[name] = params[name], {}  # looked up once: in a traced dict each look-up costs its size
            for k, each in enumerate(blocks):
                x, new[name][str(k)] = residual(stage[str(k)], state[name][str(k)], x, each, train=train)
        return nn.linear(nn.spatial_mean(x), **params["fc"]), new

    return nn.Network(init, apply)


def residual(
    p: dict, state: dict, x: np.ndarray, block: Block, *, train: bool
) -> tuple[np.ndarray, dict]:  # (B, H, W, C) -> (B, H', W', O), new state
    """relu(F(x) + x), or relu(F(x) + BN(conv(x))) with a shortcut; F ends in batch norm, whose call adds the x."""
    y, new = x, {}
    *inner, last = enumerate(block.convolutions, 1)
    for i, conv in inner:
        y, new[f"bn{i}"] = conv_bn(p[f"conv{i}"], p[f"bn{i}"], state[f"bn{i}"], y, conv, train=train, relu=True)
    i, conv = last
    shortcut = {}
    if block.shortcut:
        down, measured = p["downsample"], state["downsample"]["1"]
        x, measured = conv_bn(down["0"], down["1"], measured, x, block.shortcut, train=train, relu=False)
        shortcut = {"downsample": {"1": measured}}
    y, new[f"bn{i}"] = conv_bn(
        p[f"conv{i}"], p[f"bn{i}"], state[f"bn{i}"], y, conv, train=train, relu=True, plus=x
    )
    return y, new | shortcut


def conv_bn(
    p: dict,
    bn: dict,
    state: dict,
    x: np.ndarray,
    conv: Conv,
    *,
    train: bool,
    relu: bool,
    plus: np.ndarray | None = None,
) -> tuple[np.ndarray, dict]:  # (B, H, W, C) -> (B, H', W', O), new state
    """Convolution, batch norm, + plus and, if `relu`, max(y, 0)."""
    y = nn.conv2d(x, **p, stride=conv.stride, padding=conv.kernel // 2, groups=conv.groups)
    return nn.batch_norm(y, **bn, state=state, train=train, relu=relu, plus=plus)


def block_init(rng: np.random.Generator, block: Block, dtype: np.dtype) -> tuple[dict, dict]:
    """Parameters and state of one block."""
    p, state = {}, {}
    for i, conv in enumerate(block.convolutions, 1):
        p[f"conv{i}"], p[f"bn{i}"], state[f"bn{i}"] = conv_bn_init(rng, conv, dtype)
    if block.shortcut:
        weight, bn, measured = conv_bn_init(rng, block.shortcut, dtype)
        p["downsample"], state["downsample"] = {"0": weight, "1": bn}, {"1": measured}
    return p, state


def conv_bn_init(rng: np.random.Generator, conv: Conv, dtype: np.dtype) -> tuple[dict, dict, dict]:
    """Parameters of the convolution and of its batch norm, and the state of the latter."""
    # fan_out counts all groups, as in torchvision. The other reading is what one input reaches: outputs / groups.
    fan_out = conv.outputs * conv.kernel**2
    weight = nn.conv_init(rng, conv.inputs // conv.groups, conv.outputs, conv.kernel, dtype, fan=fan_out)
    return weight, *nn.batch_norm_init(conv.outputs, dtype)


def resnet50(in_channels: int = 18, classes: int = 17) -> nn.Network:
    """Table II, ResNet50: 23,589,905 parameters; 25,557,032 as published, with 3 channels and 1000 classes."""
    return resnet(in_channels, classes, depths=(3, 4, 6, 3))


def resnext50_32x4d(in_channels: int = 18, classes: int = 17) -> nn.Network:
    """Table II, ResNeXt: 23,061,777 parameters; 25,028,904 as published, with 3 channels and 1000 classes."""
    return resnet(in_channels, classes, depths=(3, 4, 6, 3), groups=32, width_per_group=4)

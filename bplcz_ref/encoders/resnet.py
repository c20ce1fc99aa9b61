"""ResNet and ResNeXt: residual stages of bottlenecks, plain or grouped, of any depth and width.

He et al., "Deep Residual Learning for Image Recognition" (arXiv:1512.03385), and Xie et al., "Aggregated Residual
Transformations" (arXiv:1611.05431), built and named as in torchvision 0.28.0, so that its weights load unchanged.
Architecture only: no trained weights, no dilation, no normalisation other than batch norm, and not the blocks of
ResNet-18 and -34. The paper (Table II) names ResNet50 and ResNeXt without details. Our reading: the 18 channels
enter the first convolution together, and ResNeXt is resnext50_32x4d.

Index letters: B batch, H W rows and columns, C channels, O output channels, K classes.
"""

from collections.abc import Sequence

from bplcz_ref.layers import Network, add, batch_norm, conv, linear, max_pool, relu, serial, spatial_mean


def resnet(
    in_channels: int = 18,
    classes: int = 17,
    *,
    depths: Sequence[int],
    widths: Sequence[int] = (64, 128, 256, 512),
    groups: int = 1,
    width_per_group: int = 64,
) -> Network:  # (B, H, W, in_channels) -> (B, K)
    """A residual network: stem, one stage per entry of `depths`, mean over the map, linear.

    Stem: 7x7 convolution of stride 2, BN, ReLU, max pool 3x3 of stride 2 padded by 1.
    Stage s: depths[s] blocks of widths[s] planes; every stage except the first begins with stride 2.
    At 32x32 the maps of four stages are 8x8, 4x4, 2x2 and 1x1. Any H and W; batch norm in training needs 2 or
    more values per channel, so a batch of one needs a last map larger than 1x1.

    Initial values: convolutions normal with standard deviation sqrt(2 / fan_out); batch norm 1 and 0, in every
    block's last one too (timm starts those at 0); linear uniform within 1 / sqrt(fan_in).

    Source: torchvision/models/resnet.py; names, shapes and order of its state_dict.

    >>> import numpy as np
    >>> wide_resnet50_2 = resnet(depths=(3, 4, 6, 3), width_per_group=128)
    >>> params, state = resnet(depths=(1, 1), widths=(4, 8)).init(np.random.default_rng(0), np.float32)
    >>> list(params), list(params["layer2"]["0"])
    (['conv1', 'bn1', 'layer1', 'layer2', 'fc'],
     ['conv1', 'bn1', 'conv2', 'bn2', 'conv3', 'bn3', 'downsample'])
    """
    stages, channels = [], widths[0]
    for s, (depth, planes) in enumerate(zip(depths, widths, strict=True), 1):
        blocks = []
        for k in range(depth):
            stride = 2 if s > 1 and k == 0 else 1
            blocks.append((f"{k}", bottleneck(channels, planes, stride, groups, width_per_group)))
            channels = 4 * planes
        stages.append((f"layer{s}", serial(*blocks)))
    w = widths[0]
    return serial(
        ("conv1", conv(in_channels, w, 7, stride=2)), ("bn1", batch_norm(w)), relu, max_pool(3, 2, padding=1),
        *stages,
        spatial_mean, ("fc", linear(channels, classes)),
    )  # fmt: skip


def bottleneck(
    inputs: int, planes: int, stride: int, groups: int, width_per_group: int
) -> Network:  # (B, H, W, C) -> (B, H', W', 4 planes)
    """relu(F(x) + x), F a 1x1 to m channels, a 3x3 in groups, a 1x1 to 4 planes, each with batch norm.

    m = planes * width_per_group / 64 * groups. The 3x3 carries the stride, as in torchvision ("v1.5"); in the
    first publication the 1x1 before it does. Where shapes change, a 1x1 convolution of the block's stride with
    batch norm replaces x ("downsample").
    """
    m, outputs = planes * width_per_group // 64 * groups, 4 * planes
    downsample = serial(("0", conv(inputs, outputs, 1, stride)), ("1", batch_norm(outputs)))
    return serial(
        add(
            ("conv1", conv(inputs, m, 1)), ("bn1", batch_norm(m)), relu,
            ("conv2", conv(m, m, 3, stride, groups)), ("bn2", batch_norm(m)), relu,
            ("conv3", conv(m, outputs, 1)), ("bn3", batch_norm(outputs)),
            shortcut=("downsample", downsample) if stride > 1 or inputs != outputs else None,
        ),
        relu,
    )  # fmt: skip


def resnet50(in_channels: int = 18, classes: int = 17) -> Network:
    """Table II, ResNet50: 23,589,905 parameters; 25,557,032 as published, with 3 channels and 1000 classes."""
    return resnet(in_channels, classes, depths=(3, 4, 6, 3))


def resnext50_32x4d(in_channels: int = 18, classes: int = 17) -> Network:
    """Table II, ResNeXt: 23,061,777 parameters; 25,028,904 as published, with 3 channels and 1000 classes."""
    return resnet(in_channels, classes, depths=(3, 4, 6, 3), groups=32, width_per_group=4)

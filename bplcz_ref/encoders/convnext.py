"""ConvNeXt: stages of depthwise 7x7 convolutions and per-pixel MLPs, of any depths and widths.

Liu et al., "A ConvNet for the 2020s" (arXiv:2201.03545), built and named as in torchvision 0.28.0, so that its
weights load unchanged. Architecture only: no trained weights, no stochastic depth, no ConvNeXt V2. The paper
(Table II) names ConvNeXt without details. Our reading: it is convnext_tiny.

Index letters: B batch, H W rows and columns, d channels, K classes.
"""

from collections.abc import Sequence
from functools import partial

import autograd.numpy as np

from bplcz_ref import layers
from bplcz_ref.layers import Network, add, gelu, parameter, plain, serial, spatial_mean

START = layers.normal(0.02)  # the rule of all initial weights
conv = partial(layers.conv, padding=0, bias=True, start=START)
linear = partial(layers.linear, start=START)
layer_norm = partial(layers.layer_norm, eps=1e-6)  # PyTorch's default is 1e-5


def convnext(
    in_channels: int = 18,
    classes: int = 17,
    *,
    depths: Sequence[int],
    widths: Sequence[int],
    layer_scale: float = 1e-6,
) -> Network:  # (B, H, W, in_channels) -> (B, K)
    """A ConvNeXt: stem, one stage per entry of `depths`, mean over the map, layer norm, linear.

    Stem: 4x4 convolution of stride 4, layer norm. Between stages: layer norm, 2x2 convolution of stride 2.
    Block: y = x + gamma * W2 gelu(W1 LN(dw(x))), dw a 7x7 depthwise convolution padded by 3, W1 from d to 4d, W2
    back, gelu exact (erf), gamma one number per channel, at first `layer_scale`. Layer norms are over the channels
    with eps 1e-6. Convolutions and linear maps have biases. At 32x32 the maps are 8x8, 4x4, 2x2 and 1x1; H and W
    must be 32 or more for four stages. Rows and columns that a stride leaves over are not seen.

    Initial values: convolutions and linear maps normal with standard deviation 0.02 (torchvision cuts them at +-2,
    100 deviations away, which never happens), biases 0; layer norm 1 and 0. There is no state.

    Source: torchvision/models/convnext.py; names, shapes and order of its state_dict.

    >>> convnext_base = convnext(depths=(3, 3, 27, 3), widths=(128, 256, 512, 1024))
    >>> network = convnext(3, 5, depths=(1, 1), widths=(4, 8))
    >>> params, state = network.init(np.random.default_rng(0), np.float32)
    >>> list(params["features"]), list(params["features"]["1"]["0"]), state
    (['0', '1', '2', '3'], ['layer_scale', 'block'], {})
    """
    smallest = 4 * 2 ** (len(depths) - 1)

    def large_enough(x):
        if min(x.shape[1:3]) < smallest:
            raise ValueError(
                f"ConvNeXt of {len(depths)} stages divides height and width by {smallest}: "
                f"each must be {smallest} or more, got {x.shape}"
            )
        return x

    stem = serial(("0", conv(in_channels, widths[0], 4, stride=4)), ("1", layer_norm(widths[0])))
    stages = [("0", stem)]
    for s, (depth, d) in enumerate(zip(depths, widths, strict=True), 1):
        stages.append((f"{2 * s - 1}", serial(*((str(k), block(d, layer_scale)) for k in range(depth)))))
        if s < len(depths):
            stages.append((f"{2 * s}", serial(("0", layer_norm(d)), ("1", conv(d, widths[s], 2, stride=2)))))
    classifier = serial(("0", layer_norm(d)), ("2", linear(d, classes)))
    return serial(plain(large_enough), ("features", serial(*stages)), spatial_mean, ("classifier", classifier))


def block(d: int, layer_scale: float) -> Network:  # (B, H, W, d) -> (B, H, W, d)
    """x + gamma * W2 gelu(W1 LN(dw(x)))."""
    body = serial(
        ("0", conv(d, d, 7, padding=3, groups=d)), ("2", layer_norm(d)),
        ("3", linear(d, 4 * d)), gelu, ("5", linear(4 * d, d)),
    )  # fmt: skip

    def scaled(y, gamma):
        return np.reshape(gamma, (-1,)) * y  # stored as (d, 1, 1), for channels-first images

    gamma = parameter(scaled, (d, 1, 1), lambda rng, shape: (np.full(shape, layer_scale), None))
    return add(("block", body), ("layer_scale", gamma), first="layer_scale")


def convnext_tiny(in_channels: int = 18, classes: int = 17) -> Network:
    """Table II, ConvNeXt: 27,856,241 parameters; 28,589,128 as published, with 3 channels and 1000 classes."""
    return convnext(in_channels, classes, depths=(3, 3, 9, 3), widths=(96, 192, 384, 768))

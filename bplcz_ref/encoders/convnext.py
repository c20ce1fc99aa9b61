"""ConvNeXt: stages of depthwise 7x7 convolutions and per-pixel MLPs, of any depths and widths.

Liu et al., "A ConvNet for the 2020s" (arXiv:2201.03545), built and named as in torchvision 0.28.0, so that its
weights load unchanged. Architecture only: no trained weights, no stochastic depth, no ConvNeXt V2.

The paper (Table II) names ConvNeXt without details. Our reading: it is convnext_tiny.

Index letters: B batch, H W rows and columns, d channels, K classes.
"""

from collections.abc import Sequence

import autograd.numpy as np

from bplcz_ref import nn

EPS = 1e-6  # of every layer norm here; PyTorch's default is 1e-5


def convnext(
    in_channels: int = 18,
    classes: int = 17,
    *,
    depths: Sequence[int],
    widths: Sequence[int],
    layer_scale: float = 1e-6,
) -> nn.Network:  # (B, H, W, in_channels) -> (B, K)
    """A ConvNeXt: stem, one stage per entry of `depths`, mean over the map, layer norm, linear.

    Stem: 4x4 convolution of stride 4, layer norm. Between stages: layer norm, 2x2 convolution of stride 2.
    Block: y = x + gamma * W2 gelu(W1 LN(dw(x))), dw a 7x7 depthwise convolution padded by 3, W1 from d to 4d, W2
    back, gelu exact (erf), gamma one number per channel, at first `layer_scale`. Layer norms are over the channels
    with eps 1e-6. Convolutions and linear maps have biases. At 32x32 the maps are 8x8, 4x4, 2x2 and 1x1; H and W
    must be 32 or more for four stages. Rows and columns that a stride leaves over are not seen.

    Initial values: convolutions and linear maps normal with standard deviation 0.02 (torchvision cuts them at +-2,
    100 deviations away, which never happens), biases 0; layer norm 1 and 0. There is no state.

    Source: torchvision/models/convnext.py; names, shapes and order of its state_dict.

    Other published sizes are built in the same way; their names are torchvision's:

    >>> import numpy
    >>> convnext_base = convnext(depths=(3, 3, 27, 3), widths=(128, 256, 512, 1024))
    >>> network = convnext(3, 5, depths=(1, 1), widths=(4, 8))
    >>> params, state = network.init(numpy.random.default_rng(0), numpy.float32)
    >>> list(params["features"]), list(params["features"]["1"]["0"]), state
    (['0', '1', '2', '3'], ['layer_scale', 'block'], {})
    """
    if len(depths) != len(widths) or not depths or min(depths) < 1:
        raise ValueError(
            f"depths and widths need one entry per stage, depths of 1 or more: got {depths} and {widths}"
        )
    smallest = 4 * 2 ** (len(depths) - 1)

    # In `features`, "0" is the stem, odd names are the stages, and even names the steps between them.
    def init(rng, dtype):
        stem = weight_init(rng, (widths[0], in_channels, 4, 4), dtype)
        features = {"0": {"0": stem, "1": nn.layer_norm_init(widths[0], dtype)}}
        for s, (depth, d) in enumerate(zip(depths, widths, strict=True)):
            features[f"{2 * s + 1}"] = {str(k): block_init(rng, d, layer_scale, dtype) for k in range(depth)}
            if s + 1 < len(depths):
                down = weight_init(rng, (widths[s + 1], d, 2, 2), dtype)
                features[f"{2 * s + 2}"] = {"0": nn.layer_norm_init(d, dtype), "1": down}
        linear = weight_init(rng, (classes, widths[-1]), dtype)
        classifier = {"0": nn.layer_norm_init(widths[-1], dtype), "2": linear}
        return {"features": features, "classifier": classifier}, {}

    def apply(params, state, x, *, train, rng=None):
        if min(x.shape[1:3]) < smallest:
            raise ValueError(
                f"ConvNeXt of {len(depths)} stages divides height and width by {smallest}: "
                f"each must be {smallest} or more, got {x.shape}"
            )
        features, classifier = params["features"], params["classifier"]
        x = nn.conv2d(x, **features["0"]["0"], stride=4)
        x = nn.layer_norm(x, **features["0"]["1"], eps=EPS)
        for s, depth in enumerate(depths):
            stage = features[f"{2 * s + 1}"]  # looked up once: in a traced dict each look-up costs its size
            for k in range(depth):
                x = x + branch(stage[str(k)], x)
            if s + 1 < len(depths):
                down = features[f"{2 * s + 2}"]
                x = nn.conv2d(nn.layer_norm(x, **down["0"], eps=EPS), **down["1"], stride=2)
        x = nn.layer_norm(nn.spatial_mean(x), **classifier["0"], eps=EPS)
        return nn.linear(x, **classifier["2"]), state

    return nn.Network(init, apply)


def branch(p: dict, x: np.ndarray) -> np.ndarray:  # (B, H, W, d) -> (B, H, W, d)
    """gamma * W2 gelu(W1 LN(dw(x))): what a block adds to x."""
    block = p["block"]
    y = nn.conv2d(x, **block["0"], padding=3, groups=x.shape[-1])
    y = nn.layer_norm(y, **block["2"], eps=EPS)
    y = nn.gelu(nn.linear(y, **block["3"]))  # (B, H, W, 4d)
    y = nn.linear(y, **block["5"])
    return np.reshape(p["layer_scale"], (-1,)) * y  # stored as (d, 1, 1), for channels-first images


def block_init(rng: np.random.Generator, d: int, layer_scale: float, dtype: np.dtype) -> dict:
    """Parameters of one block."""
    block = {
        "0": weight_init(rng, (d, 1, 7, 7), dtype),
        "2": nn.layer_norm_init(d, dtype),
        "3": weight_init(rng, (4 * d, d), dtype),
        "5": weight_init(rng, (d, 4 * d), dtype),
    }
    return {"layer_scale": np.full((d, 1, 1), layer_scale, dtype), "block": block}


def weight_init(rng: np.random.Generator, shape: tuple[int, ...], dtype: np.dtype) -> dict:
    """A convolution or a linear map: weight normal with standard deviation 0.02, bias 0."""
    return {"weight": nn.normal(rng, shape, 0.02, dtype), "bias": np.zeros(shape[0], dtype)}


def convnext_tiny(in_channels: int = 18, classes: int = 17) -> nn.Network:
    """Table II, ConvNeXt: 27,856,241 parameters; 28,589,128 as published, with 3 channels and 1000 classes."""
    return convnext(in_channels, classes, depths=(3, 3, 9, 3), widths=(96, 192, 384, 768))

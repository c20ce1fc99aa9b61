"""ConvNeXt: stages of depthwise 7x7 convolutions and per-pixel MLPs, of any depths and widths.

Liu et al., "A ConvNet for the 2020s" (arXiv:2201.03545), as torchvision 0.28.0 builds it, name by name, so that
its weights load as they are. Architecture only: no trained weights, and not ConvNeXt V2.

The paper (Table II) names ConvNeXt and no more: that it is convnext_tiny is our reading.
"""

import autograd.numpy as np

from bplcz_ref import nn

EPS = 1e-6  # of every layer norm here; PyTorch's default is 1e-5


def convnext(
    in_channels=18,
    classes=17,
    *,
    depths,
    widths,
    layer_scale=1e-6,
    stochastic_depth_prob=0.0,
):  # (B, H, W, in_channels) -> (B, classes)
    """A ConvNeXt: stem, one stage an entry of `depths`, mean over the map, layer norm, linear.

    Stem: 4x4 convolution of stride 4, layer norm. Between stages: layer norm, 2x2 convolution of stride 2.
    Block: y = x + drop(gamma * W2 gelu(W1 LN(dw(x)))), dw a 7x7 depthwise convolution padded by 3, W1 from d to
    4d, W2 back, gelu exact (erf), gamma one number a channel, at first `layer_scale`; layer norms over the
    channels, eps 1e-6. Convolutions and linears have biases. At 32x32 the maps are 8x8, 4x4, 2x2 and 1x1; H and W
    must be 32 or more for four stages; rows and columns that the strides leave over are not seen.

    stochastic_depth_prob: in training, drop makes a sample's branch 0 with probability p and divides it by 1 - p
    otherwise (torchvision's mode "row"), p rising linearly from 0 in the first block to this value in the last;
    draws come from `rng`, one a sample and block. 0 is our choice, as the paper states none; torchvision's
    convnext_tiny has 0.1.

    Initial values: convolutions and linears normal with standard deviation 0.02 (torchvision cuts them at +-2,
    100 deviations away: never met), biases 0; layer norm 1 and 0.

    Source: torchvision/models/convnext.py; state_dict's names, shapes and order. There is no state.

    >>> import numpy
    >>> network = convnext(3, 5, depths=(1, 1), widths=(4, 8))
    >>> params, state = network.init(numpy.random.default_rng(0), numpy.float32)
    >>> list(params["features"]), list(params["features"]["1"]["0"]), state
    (['0', '1', '2', '3'], ['layer_scale', 'block'], {})
    >>> logits, _ = network.apply(params, state, numpy.zeros((1, 8, 8, 3), numpy.float32), train=True)
    >>> logits.shape, logits.dtype
    ((1, 5), dtype('float32'))
    """
    if len(depths) != len(widths) or not depths or min(depths) < 1:
        raise ValueError(
            f"depths and widths need one entry a stage, depths of 1 or more: got {depths} and {widths}"
        )
    if not 0 <= stochastic_depth_prob < 1:
        raise ValueError(f"stochastic_depth_prob must lie in [0, 1), got {stochastic_depth_prob}")
    rise = stochastic_depth_prob / max(1, sum(depths) - 1)
    smallest = 4 * 2 ** (len(depths) - 1)

    def init(rng, dtype):
        features = {"0": {"0": conv_init(rng, in_channels, widths[0], 4, dtype)}}
        features["0"]["1"] = nn.layer_norm_init(widths[0], dtype)
        for s, (depth, d) in enumerate(zip(depths, widths, strict=True)):
            features[f"{2 * s + 1}"] = {str(k): block_init(rng, d, layer_scale, dtype) for k in range(depth)}
            if s + 1 < len(depths):
                norm = nn.layer_norm_init(d, dtype)
                features[f"{2 * s + 2}"] = {"0": norm, "1": conv_init(rng, d, widths[s + 1], 2, dtype)}
        norm = nn.layer_norm_init(widths[-1], dtype)
        classifier = {"0": norm, "2": linear_init(rng, widths[-1], classes, dtype)}
        return {"features": features, "classifier": classifier}, {}

    def apply(params, state, x, *, train, rng=None):
        if min(x.shape[1:3]) < smallest:
            raise ValueError(
                f"ConvNeXt of {len(depths)} stages divides height and width by {smallest}: "
                f"each must be {smallest} or more, got {x.shape}"
            )
        if train and rise and rng is None:
            raise ValueError("stochastic depth in training needs rng, a numpy.random.Generator")
        features = params["features"]
        stem, drop = features["0"], 0.0
        x = normalised(stem["1"], nn.conv2d(x, **stem["0"], stride=4))
        for s, depth in enumerate(depths):
            stage = features[f"{2 * s + 1}"]  # looked up once: in a traced dict each look-up costs its size
            for k in range(depth):
                branch = block(stage[str(k)], x)
                x = x + (kept_rows(branch, drop, rng) if train and drop else branch)
                drop += rise
            if s + 1 < len(depths):
                down = features[f"{2 * s + 2}"]
                x = nn.conv2d(normalised(down["0"], x), **down["1"], stride=2)
        classifier = params["classifier"]
        return nn.linear(normalised(classifier["0"], nn.spatial_mean(x)), **classifier["2"]), state

    return nn.Network(init, apply)


def block(p, x):  # (B, H, W, d) -> (B, H, W, d)
    """gamma * W2 gelu(W1 LN(dw(x))): what the block adds to x."""
    layers = p["block"]
    y = nn.conv2d(x, **layers["0"], padding=3, groups=x.shape[-1])
    y = normalised(layers["2"], y)
    y = nn.gelu(nn.linear(y, **layers["3"]))  # (B, H, W, 4d)
    y = nn.linear(y, **layers["5"])
    return np.reshape(p["layer_scale"], (-1,)) * y  # stored as (d, 1, 1), for channels-first images


def normalised(p, x):  # (..., d) -> (..., d)
    """Layer norm over the channels."""
    return nn.layer_norm(x, p["weight"], p["bias"], EPS)


def kept_rows(x, rate, rng):  # (B, ...) -> (B, ...)
    """Each sample as a whole is 0 with probability `rate`, otherwise divided by 1 - rate.

    >>> import numpy
    >>> kept_rows(numpy.ones((4, 2)), 0.5, numpy.random.default_rng(0)).tolist()
    [[2.0, 2.0], [0.0, 0.0], [0.0, 0.0], [0.0, 0.0]]
    """
    keep = (rng.random(len(x)) >= rate) / (1 - rate)
    return x * keep.astype(x.dtype).reshape((-1,) + (1,) * (x.ndim - 1))


def block_init(rng, d, layer_scale, dtype):
    return {
        "layer_scale": np.full((d, 1, 1), layer_scale, dtype),
        "block": {
            "0": conv_init(rng, 1, d, 7, dtype),
            "2": nn.layer_norm_init(d, dtype),
            "3": linear_init(rng, d, 4 * d, dtype),
            "5": linear_init(rng, 4 * d, d, dtype),
        },
    }


def conv_init(rng, inputs, outputs, kernel, dtype):
    weight = nn.normal(rng, (outputs, inputs, kernel, kernel), 0.02, dtype)
    return {"weight": weight, "bias": np.zeros(outputs, dtype)}


def linear_init(rng, inputs, outputs, dtype):
    return {"weight": nn.normal(rng, (outputs, inputs), 0.02, dtype), "bias": np.zeros(outputs, dtype)}


# The published sizes under torchvision's names. Parameters: at 18 channels and 17 classes; at 3 and 1000.


def convnext_tiny(in_channels=18, classes=17, *, stochastic_depth_prob=0.0):
    """Table II, ConvNeXt: 27,856,241 parameters; 28,589,128 as published."""
    return convnext(
        *(in_channels, classes),
        depths=(3, 3, 9, 3),
        widths=(96, 192, 384, 768),
        stochastic_depth_prob=stochastic_depth_prob,
    )


def convnext_small(in_channels=18, classes=17, *, stochastic_depth_prob=0.0):
    """ConvNeXt-Small: 49,490,801 parameters; 50,223,688 as published."""
    return convnext(
        *(in_channels, classes),
        depths=(3, 3, 27, 3),
        widths=(96, 192, 384, 768),
        stochastic_depth_prob=stochastic_depth_prob,
    )


def convnext_base(in_channels=18, classes=17, *, stochastic_depth_prob=0.0):
    """ConvNeXt-Base: 87,614,609 parameters; 88,591,464 as published."""
    return convnext(
        *(in_channels, classes),
        depths=(3, 3, 27, 3),
        widths=(128, 256, 512, 1024),
        stochastic_depth_prob=stochastic_depth_prob,
    )


def convnext_large(in_channels=18, classes=17, *, stochastic_depth_prob=0.0):
    """ConvNeXt-Large: 196,302,545 parameters; 197,767,336 as published."""
    return convnext(
        *(in_channels, classes),
        depths=(3, 3, 27, 3),
        widths=(192, 384, 768, 1536),
        stochastic_depth_prob=stochastic_depth_prob,
    )

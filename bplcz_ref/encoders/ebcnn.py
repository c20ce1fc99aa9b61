"""EB-CNN's encoder of one band group: a small stack of 3x3 convolutions.

The layers of EB-CNN (Feng et al., IGARSS 2019) are not published where they can be read, and BP-LCZ states none.
The paper says: seven groups, a dedicated encoder for each (no weights are shared), features concatenated, then a
classifier. The layers below are our plainest reading of "small convolutional encoder per band group", so a result
obtained with them can be compared with the paper's but does not reproduce it.

Index letters: B batch, H W rows and columns, C_i channels of group i, d features, w width.
"""

from bplcz_ref import nn


def encoder(in_channels: int, width: int = 32, features: int = 512) -> nn.Network:  # (B, H, W, C_i) -> (B, d)
    """Eq. (1), E_m for one group: twice conv-BN-ReLU, max-pool, twice, max-pool, twice, mean, linear.

    Convolutions are 3x3, padding 1, without bias, of widths w, w, 2w, 2w, 4w, 4w; the linear map has a bias.
    At H = W = 32 the maps are 32x32, 16x16 and 8x8; H and W must be divisible by 4. Parameters:
    9 C_i w + 279 w^2 + 28 w + 4 w d + d.

    Initial values: convolutions normal with standard deviation sqrt(2 / fan_out), batch norm 1 and 0, linear
    uniform within 1 / sqrt(fan_in).

    >>> import numpy as np
    >>> params, state = encoder(3, width=2, features=5).init(np.random.default_rng(0), np.float32)
    >>> list(params)[:3], params["conv1"]["weight"].shape
    (['conv1', 'bn1', 'conv2'], (2, 3, 3, 3))
    """
    widths = [width, width, 2 * width, 2 * width, 4 * width, 4 * width]

    def init(rng, dtype):
        params, state, channels = {}, {}, in_channels
        for k, out in enumerate(widths, 1):
            params[f"conv{k}"] = nn.conv_init(rng, channels, out, 3, dtype, fan=9 * out)
            params[f"bn{k}"], state[f"bn{k}"] = nn.batch_norm_init(out, dtype)
            channels = out
        params["proj"] = nn.linear_init(rng, channels, features, dtype)
        return params, state

    def apply(params, state, x, *, train, rng=None):
        if x.shape[1] % 4 or x.shape[2] % 4:
            raise ValueError(f"EB-CNN pools twice by 2: height and width must be divisible by 4, got {x.shape}")
        new = {}
        for k in range(1, 7):
            x = nn.conv2d(x, **params[f"conv{k}"], padding=1)
            bn, options = params[f"bn{k}"], {"state": state[f"bn{k}"], "train": train}
            if k in (2, 4):
                x, new[f"bn{k}"] = nn.batch_norm_relu_pool(x, **bn, **options)
            else:
                x, new[f"bn{k}"] = nn.batch_norm(x, **bn, **options, relu=True)
        return nn.linear(nn.spatial_mean(x), **params["proj"]), new

    return nn.Network(init, apply)

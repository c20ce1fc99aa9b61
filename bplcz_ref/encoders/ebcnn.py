"""EB-CNN's encoder of one band group: a small stack of 3x3 convolutions.

The layers of EB-CNN (Feng et al., IGARSS 2019) are not published where they can be read, and BP-LCZ states none.
The paper says: seven groups, a dedicated encoder for each (no weights are shared), features concatenated, then a
classifier. The layers below are our plainest reading of "small convolutional encoder per band group", so a result
obtained with them can be compared with the paper's but does not reproduce it.

Index letters: B batch, H W rows and columns, C_i channels of group i, d features, w width.
"""

import numpy as np

from bplcz_ref.layers import Network, batch_norm, conv, linear, max_pool, plain, relu, serial, spatial_mean


def encoder(in_channels: int, width: int = 32, features: int = 512) -> Network:  # (B, H, W, C_i) -> (B, d)
    """Eq. (1), E_m for one group: twice conv-BN-ReLU, max-pool, twice, max-pool, twice, mean, linear.

    Convolutions are 3x3, padding 1, without bias, of widths w, w, 2w, 2w, 4w, 4w; the linear map has a bias.
    At H = W = 32 the maps are 32x32, 16x16 and 8x8; H and W must be divisible by 4. Parameters:
    9 C_i w + 279 w^2 + 28 w + 4 w d + d.

    Initial values: convolutions normal with standard deviation sqrt(2 / fan_out), batch norm 1 and 0, linear
    uniform within 1 / sqrt(fan_in).

    >>> params, state = encoder(3, width=2, features=5).init(np.random.default_rng(0), np.float32)
    >>> list(params)[:3], params["conv1"]["weight"].shape
    (['conv1', 'bn1', 'conv2'], (2, 3, 3, 3))
    """
    w = width
    return serial(
        plain(divisible_by_4),
        ("conv1", conv(in_channels, w)), ("bn1", batch_norm(w)), relu,
        ("conv2", conv(w, w)), ("bn2", batch_norm(w)), relu, max_pool(2),
        ("conv3", conv(w, 2 * w)), ("bn3", batch_norm(2 * w)), relu,
        ("conv4", conv(2 * w, 2 * w)), ("bn4", batch_norm(2 * w)), relu, max_pool(2),
        ("conv5", conv(2 * w, 4 * w)), ("bn5", batch_norm(4 * w)), relu,
        ("conv6", conv(4 * w, 4 * w)), ("bn6", batch_norm(4 * w)), relu,
        spatial_mean, ("proj", linear(4 * w, features)),
    )  # fmt: skip


def divisible_by_4(x: np.ndarray) -> np.ndarray:
    """x as it is; ValueError for a height or width that two pools by 2 would cut."""
    if x.shape[1] % 4 or x.shape[2] % 4:
        raise ValueError(f"EB-CNN pools twice by 2: height and width must be divisible by 4, got {x.shape}")
    return x

"""ExViT: convolutional stems, a transformer for each modality, one over all tokens, and a weighted mean of tokens.

ExViT's public code layer by layer (Yao et al. 2023, github.com/jingyao16/ExViT) and with its names, so that its
weights load unchanged. Known differences: the public code takes every pixel as a token, while `grid` here averages
grid x grid pixels first (grid=1 is the public code); it fails on a batch of one, while this does not; it cuts its
position table to a smaller image, while this raises an error.

The paper does not say how it adopts ExViT for band groups. There are two readings:

A   `encoder` maps each group to its vector I_i, and `head` classifies their concatenation, Eq. (9) to the letter.
B   `tokens` maps each group to its tokens, and `joint` classifies the tokens of all groups together, so that they
    attend to one another. `vector` maps the tokens of each group to the I_i that the contrastive loss needs.

In both, all groups share one table of positions, as the two modalities of ExViT do.

Index letters: B batch, P rows or columns of a patch, C channels, N tokens, w width of a token, d features,
K classes, n groups.
"""

from functools import partial
from typing import NamedTuple

import autograd.numpy as np

from bplcz_ref import bands, layers, nn, paper
from bplcz_ref.layers import Call, Network, add, batch_norm, conv, dropout, gelu, layer_norm, linear, plain, serial


class Size(NamedTuple):
    """The sizes of ExViT; the defaults are those of its public code."""

    stem: int = 16  # channels after the stem's first block; each of the next two blocks doubles them
    width: int = 64  # w
    layers: int = 4  # of the transformer of each modality
    joint: int = 2  # layers of the transformer over all tokens
    heads: int = 4
    head: int = 16  # width of one head
    hidden: int = 32  # of the two-layer perceptron
    dropout: float = 0.1


SIZE = Size()
CLASSES = len(paper.CLASSES)

PART = 8  # samples that `joint` takes at a time; the parts run side by side on the machine's cores

# The parts of each modality, under the public code's names; the encoder of a band group uses the first's.
FIRST = ("separable1", "to_patch_embedding2", "transformer1")
SECOND = ("separable2", "to_patch_embedding2c", "transformer2")


# ----------------------------------------------------------------------------------------------- networks


def exvit(
    patch: int = paper.PATCH, grid: int = 4, classes: int = CLASSES, size: Size = SIZE
) -> Network:  # (B, P, P, 18) -> (B, K)
    """ExViT on So2Sat's patches: `two_modalities` with sen2's 10 channels first and sen1's 8 second.

    We chose this order; only the names of the weights depend on it. Parameters (tests/test_encoders.py counts
    them): 291,462 at grid=1 (1024 tokens per modality), 242,310 at grid=2, 230,022 at grid=4 (64 tokens).
    """
    pair = two_modalities(paper.CHANNELS["sen2"], paper.CHANNELS["sen1"], patch, grid, classes, size)

    def apply(params, state, x, *, train, rng=None):
        sen1, sen2 = bands.separate(x)
        return pair.apply(params, state, (sen2, sen1), train=train, rng=rng)

    return Network(pair.init, apply)


def two_modalities(
    first: int, second: int, patch: int, grid: int, classes: int, size: Size = SIZE
) -> Network:  # ((B, P, P, first), (B, P, P, second)) -> (B, K)
    """ExViT of two images of the same place; `first` and `second` are their numbers of channels.

    `tokens` of each image, with separate weights and one position table; then `joint` over the 2 N tokens,
    the first modality's before the second's. Dropout draws from three streams spawned from rng: the first
    modality's, the second's, the joint layers'.

    Houston 2013, as published (144 hyperspectral bands, one of elevation, patches of 13 x 13, 15 classes):

    >>> network = two_modalities(144, 1, patch=13, grid=1, classes=15)  # 239,914 parameters
    >>> params, state = network.init(np.random.default_rng(0), np.float32)
    >>> images = np.zeros((1, 13, 13, 144)), np.zeros((1, 13, 13, 1))
    >>> network.apply(params, state, images, train=False)[0].shape
    (1, 15)
    """
    modalities = [tokens(c, patch, grid, size, names) for c, names in ((first, FIRST), (second, SECOND))]
    over_all = joint(classes, size)

    def init(rng, dtype):
        (params, state), (p, s) = (network.init(rng, dtype) for network in modalities)
        p["pos_embedding"] = params["pos_embedding"]
        return params | p | over_all.init(rng, dtype)[0], state | s

    def apply(params, state, x, *, train, rng=None):
        streams = [None] * 3 if rng is None else rng.spawn(3)
        calls = []
        for k, names in enumerate((FIRST, SECOND)):
            own = {name: params[name] for name in ("pos_embedding", *names)}
            calls.append(Call("", modalities[k], own, state, x[k], train, streams[k]))
        Z, (first_state, second_state) = layers.side_by_side(calls)
        c_hat, _ = over_all.apply(params, {}, np.concatenate(Z, axis=1), train=train, rng=streams[2])
        return c_hat, first_state | second_state

    return Network(init, apply)


def encoder(
    in_channels: int, patch: int = paper.PATCH, grid: int = 4, features: int = 512, size: Size = SIZE
) -> Network:  # (B, P, P, C_i) -> (B, d)
    """Eq. (1), E_m for one band group, reading A of ExViT (BP-LCZ): `tokens`, then `vector`.

    There is no attention across groups: Eq. (9) concatenates the vectors I_i. Parameters at the public sizes:
    26 C_i + 3,376 stem, 4,160 projection, 64 N positions, 83,584 transformer, 193 weighting, 33,408 vector at
    d = 512. With one position table for all seven groups, they have 873,515 and the table 64 N.

    >>> params, state = encoder(3, patch=8, features=5).init(np.random.default_rng(0), np.float32)
    >>> list(params)
    ['pos_embedding', 'separable1', 'to_patch_embedding2', 'transformer1', 'mlp_head0', 'mlp_head1']
    """
    return serial(tokens(in_channels, patch, grid, size), vector(features, size))


def tokens(
    in_channels: int,
    patch: int = paper.PATCH,
    grid: int = 4,
    size: Size = SIZE,
    names: tuple[str, str, str] = FIRST,
) -> Network:  # (B, P, P, C) -> (B, N, w)
    """One modality's part of ExViT, from pixels to tokens; N = (P / grid)^2, row by row.

    Stem; then the mean of grid x grid pixels, a linear map to w, plus the position table, dropout, and the layers
    of `transformer`. The position table is normal with mean 0 and deviation 1; the rest has PyTorch's default.
    """
    if grid < 1 or patch % grid:
        raise ValueError(
            f"grid must divide patch, as each token is the mean of grid x grid pixels; got {grid=}, {patch=}"
        )

    def as_built(x):
        if np.shape(x)[1:] != (patch, patch, in_channels):
            raise ValueError(
                f"ExViT expects images (B, {patch}, {patch}, {in_channels}), as it was built, got {np.shape(x)}; "
                "build it with this patch and these channels (its position table has one row per token)"
            )
        return x

    def in_one_row(x):  # (B, H, W, C) -> (B, H W, C)
        return np.reshape(x, (len(x), -1, x.shape[-1]))

    N = (patch // grid) ** 2
    positions = layers.parameter(lambda x, table: x + table, (1, N, size.width), layers.normal(1.0))
    return serial(
        plain(as_built),
        (names[0], stem(in_channels, size.stem)),
        *([layers.avg_pool(grid)] if grid > 1 else []),
        plain(in_one_row),
        (names[1], linear(4 * size.stem, size.width)),
        ("pos_embedding", positions),
        dropout(size.dropout),
        (names[2], transformer(size.layers, size)),
        first="pos_embedding",
    )


def stem(channels: int, width: int) -> Network:  # (B, H, W, C) -> (B, H, W, 4 width)
    """Three times: depthwise 3x3, pointwise 1x1, both with bias and nothing in between, batch norm, GELU."""
    parts: list = []
    biased = partial(conv, bias=True, start=layers.uniform)
    for k, outputs in enumerate((width, 2 * width, 4 * width)):
        parts += [
            (f"{4 * k}", biased(channels, channels, groups=channels)),
            (f"{4 * k + 1}", biased(channels, outputs, kernel=1)),
            (f"{4 * k + 2}", batch_norm(outputs)),
            gelu,
        ]
        channels = outputs
    return serial(*parts)


def transformer(depth: int, size: Size) -> Network:  # (B, N, w) -> (B, N, w)
    """`depth` times x = x + drop(attention(LN(x))); x = x + drop(W2 drop(GELU(W1 LN(x)))). No norm at the end."""
    w, inner, drop = size.width, size.heads * size.head, dropout(size.dropout)

    def half(fn):
        return add(("fn", serial(("norm", layer_norm(w)), ("fn", fn))))

    def layer():
        out = serial(("0", linear(inner, w)), drop)
        qkv = ("to_qkv", linear(w, 3 * inner, bias=False))
        attention = serial(qkv, layers.attend(size.heads), ("to_out", out))
        net = serial(("0", linear(w, size.hidden)), gelu, drop, ("3", linear(size.hidden, w)), drop)
        return serial(("0", half(attention)), ("1", half(serial(("net", net)))))

    return serial(("layers", serial(*((str(k), layer()) for k in range(depth)))))


def joint(outputs: int, size: Size = SIZE) -> Network:  # (B, n N, w) -> (B, outputs)
    """ExViT's attention across modalities, then `vector`: a transformer over the tokens of all of them.

    This is plain self-attention over the union, as in the public code; there is no cross-attention between single
    modalities. In reading B of ExViT (BP-LCZ) it is the classifier, over the 7 N tokens of seven groups.
    Dropout draws from one stream spawned from rng for every `PART` samples.
    """
    network = serial(("transformer", transformer(size.joint, size)), vector(outputs, size))

    def apply(params, state, x, *, train, rng=None):
        own = {name: params[name] for name in ("transformer", "mlp_head0", "mlp_head1")}
        parts = np.split(x, range(PART, len(x), PART))  # no layer here mixes samples
        streams = [None] * len(parts) if rng is None else rng.spawn(len(parts))
        calls = [
            Call("", network, own, {}, part, train, stream) for part, stream in zip(parts, streams, strict=True)
        ]
        return np.concatenate(layers.side_by_side(calls)[0], axis=0), state

    return Network(network.init, apply)


def vector(outputs: int, size: Size = SIZE) -> Network:  # (B, N, w) -> (B, outputs)
    """Token fusion and head: z = sum_t a_t x_t with a = softmax over the tokens of Linear(LN(x_t)); Linear(LN(z)).

    At the end of ExViT `outputs` is K; in the encoder of a band group it is d, and the result is I_i.
    """
    score = serial(("mlp_head0", head(size.width, 1)))

    def fuse(params, state, x, *, train, rng=None):  # (B, N, w) -> (B, w)
        scores, state = score.apply(params, state, x, train=train, rng=rng)  # (B, N, 1)
        a = nn.softmax(np.swapaxes(scores, 1, 2))  # (B, 1, N)
        return np.matmul(a, x)[:, 0], state

    mean = Network(score.init, fuse, "weighted mean", score.parts)
    return serial(mean, ("mlp_head1", head(size.width, outputs)))


def head(inputs: int, outputs: int) -> Network:  # (..., inputs) -> (..., outputs)
    """Linear(LN(x)): in both heads of ExViT, and D of reading A on the concatenated I_i of Eq. (9)."""
    return serial(("0", layer_norm(inputs)), ("1", linear(inputs, outputs)))

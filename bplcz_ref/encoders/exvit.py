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

from typing import NamedTuple

import autograd.numpy as np

from bplcz_ref import bands, nn, paper


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
) -> nn.Network:  # (B, P, P, 18) -> (B, K)
    """ExViT on So2Sat's patches: `two_modalities` with sen2's 10 channels first and sen1's 8 second.

    We chose this order; only the names of the weights depend on it. Parameters: 291,462 at grid=1 (1024 tokens
    per modality), 242,310 at grid=2, 230,022 at grid=4 (64 tokens).

    >>> import numpy
    >>> from bplcz_ref import weights
    >>> weights.count(exvit().init(numpy.random.default_rng(0), numpy.float32)[0])
    230022
    """
    pair = two_modalities(paper.CHANNELS["sen2"], paper.CHANNELS["sen1"], patch, grid, classes, size)

    def apply(params, state, x, *, train, rng=None):
        sen1, sen2 = bands.separate(x)
        return pair.apply(params, state, (sen2, sen1), train=train, rng=rng)

    return nn.Network(pair.init, apply)


def two_modalities(
    first: int, second: int, patch: int, grid: int, classes: int, size: Size = SIZE
) -> nn.Network:  # ((B, P, P, first), (B, P, P, second)) -> (B, K)
    """ExViT of two images of the same place; `first` and `second` are their numbers of channels.

    `tokens` of each image, with separate weights and one position table; then `joint` over the 2 N tokens,
    the first modality's before the second's. Dropout draws from three streams spawned from rng: the first
    modality's, the second's, the joint layers'.

    Houston 2013, as published (144 hyperspectral bands, one of elevation, patches of 13 x 13, 15 classes):

    >>> import numpy
    >>> from bplcz_ref import weights
    >>> network = two_modalities(144, 1, patch=13, grid=1, classes=15)
    >>> params, state = network.init(numpy.random.default_rng(0), numpy.float32)
    >>> weights.count(params)
    239914
    >>> images = numpy.zeros((1, 13, 13, 144)), numpy.zeros((1, 13, 13, 1))
    >>> network.apply(params, state, images, train=False)[0].shape
    (1, 15)
    """
    names = FIRST, SECOND
    modalities = [tokens(channels, patch, grid, size) for channels in (first, second)]
    over_all = joint(classes, size)

    def init(rng, dtype):
        params, state = {}, {}
        for network, own in zip(modalities, names, strict=True):
            p, s = network.init(rng, dtype)
            params.setdefault("pos_embedding", p["pos_embedding"])
            params |= {name: p[part] for name, part in zip(own, FIRST, strict=True)}
            state[own[0]] = s[FIRST[0]]
        return params | over_all.init(rng, dtype)[0], state

    def apply(params, state, x, *, train, rng=None):
        streams = [None] * 3 if rng is None else rng.spawn(3)

        def modality(k):  # the k-th network as a function of its parameters and image, and these
            own = {part: params[name] for name, part in zip(names[k], FIRST, strict=True)}
            own["pos_embedding"] = params["pos_embedding"]
            measured = {FIRST[0]: state[names[k][0]]}

            def run(given):
                p, image = given
                return modalities[k].apply(p, measured, image, train=train, rng=streams[k])

            return run, (own, x[k])

        functions, parameters = zip(*(modality(k) for k in range(2)), strict=True)
        both, states = nn.concurrently(functions, parameters)
        c_hat, _ = over_all.apply(params, {}, np.concatenate(both, axis=1), train=train, rng=streams[2])
        return c_hat, {own[0]: s[FIRST[0]] for own, s in zip(names, states, strict=True)}

    return nn.Network(init, apply)


def encoder(
    in_channels: int, patch: int = paper.PATCH, grid: int = 4, features: int = 512, size: Size = SIZE
) -> nn.Network:  # (B, P, P, C_i) -> (B, d)
    """Eq. (1), E_m for one band group, reading A of ExViT (BP-LCZ): `tokens`, then `vector`.

    There is no attention across groups: Eq. (9) concatenates the vectors I_i. Parameters at the public sizes:
    26 C_i + 3,376 stem, 4,160 projection, 64 N positions, 83,584 transformer, 193 weighting, 33,408 vector at
    d = 512. With one position table for all seven groups, they have 873,515 and the table 64 N.

    >>> import numpy
    >>> network = encoder(3, patch=8, features=5)
    >>> params, state = network.init(numpy.random.default_rng(0), numpy.float32)
    >>> list(params)
    ['pos_embedding', 'separable1', 'to_patch_embedding2', 'transformer1', 'mlp_head0', 'mlp_head1']
    >>> network.apply(params, state, numpy.zeros((2, 8, 8, 3), "f"), train=False)[0].shape
    (2, 5)
    """
    body, fusion = tokens(in_channels, patch, grid, size), vector(features, size)

    def init(rng, dtype):
        params, state = body.init(rng, dtype)
        return params | fusion.init(rng, dtype)[0], state

    def apply(params, state, x, *, train, rng=None):
        x, state = body.apply(params, state, x, train=train, rng=rng)
        return fusion.apply(params, {}, x, train=train)[0], state

    return nn.Network(init, apply)


def tokens(
    in_channels: int, patch: int = paper.PATCH, grid: int = 4, size: Size = SIZE
) -> nn.Network:  # (B, P, P, C) -> (B, N, w)
    """One modality's part of ExViT, from pixels to tokens; N = (P / grid)^2, row by row.

    Stem, three times: depthwise 3x3, pointwise 1x1, both with bias and nothing in between, batch norm, GELU.
    Then the mean of grid x grid pixels, a linear map to w, plus the position table, dropout, and the layers of
    `_transformer`. The position table is normal with mean 0 and deviation 1; the rest has PyTorch's default.
    """
    if grid < 1 or patch % grid:
        raise ValueError(
            f"grid must divide patch, as each token is the mean of grid x grid pixels; got {grid=}, {patch=}"
        )
    stem, embedding, transformer = FIRST

    def init(rng, dtype):
        params = {"pos_embedding": nn.normal(rng, (1, (patch // grid) ** 2, size.width), 1.0, dtype)}
        params[stem], state = _stem_init(rng, in_channels, size.stem, dtype)
        params[embedding] = nn.linear_init(rng, 4 * size.stem, size.width, dtype)
        params[transformer] = _transformer_init(rng, size.layers, size, dtype)
        return params, {stem: state}

    def apply(params, state, x, *, train, rng=None):
        if np.shape(x)[1:] != (patch, patch, in_channels):
            raise ValueError(
                f"ExViT expects images (B, {patch}, {patch}, {in_channels}), as it was built, got {np.shape(x)}; "
                "build it with this patch and these channels (its position table has one row per token)"
            )
        x, measured = _stem(params[stem], state[stem], x, train)
        if grid > 1:
            x = nn.avg_pool2d(x, grid)
        x = nn.linear(np.reshape(x, (len(x), -1, 4 * size.stem)), **params[embedding])
        x = nn.dropout(x + params["pos_embedding"], size.dropout, train=train, rng=rng)
        return _transformer(params[transformer], x, size, train, rng), {stem: measured}

    return nn.Network(init, apply)


def vector(outputs: int, size: Size = SIZE) -> nn.Network:  # (B, N, w) -> (B, outputs)
    """Token fusion and head: z = sum_t a_t x_t with a = softmax over the tokens of Linear(LN(x_t)); Linear(LN(z)).

    At the end of ExViT `outputs` is K; in the encoder of a band group it is d, and the result is I_i.

    >>> import numpy
    >>> params, _ = vector(5).init(numpy.random.default_rng(0), numpy.float32)
    >>> vector(5).apply(params, {}, numpy.zeros((1, 7, 64), "f"), train=False)[0].shape
    (1, 5)
    """
    weighting, result = head(size.width, 1), head(size.width, outputs)

    def init(rng, dtype):
        return {"mlp_head0": weighting.init(rng, dtype)[0], "mlp_head1": result.init(rng, dtype)[0]}, {}

    def apply(params, state, x, *, train, rng=None):
        scores, _ = weighting.apply(params["mlp_head0"], {}, x, train=train)  # (B, N, 1)
        a = nn.softmax(np.swapaxes(scores, 1, 2))  # (B, 1, N)
        z = np.matmul(a, x)[:, 0]  # (B, w)
        return result.apply(params["mlp_head1"], state, z, train=train)

    return nn.Network(init, apply)


def head(inputs: int, outputs: int) -> nn.Network:  # (..., inputs) -> (..., outputs)
    """Linear(LN(x)): in both heads of ExViT, and D of reading A on the concatenated I_i of Eq. (9).

    >>> import numpy
    >>> from bplcz_ref import weights
    >>> weights.count(head(7 * 512, 17).init(numpy.random.default_rng(0), numpy.float32)[0])
    68113
    """

    def init(rng, dtype):
        return {"0": nn.layer_norm_init(inputs, dtype), "1": nn.linear_init(rng, inputs, outputs, dtype)}, {}

    def apply(params, state, x, *, train, rng=None):
        return nn.linear(nn.layer_norm(x, **params["0"]), **params["1"]), state

    return nn.Network(init, apply)


def joint(outputs: int, size: Size = SIZE) -> nn.Network:  # (B, n N, w) -> (B, outputs)
    """ExViT's attention across modalities, then `vector`: a transformer over the tokens of all of them.

    This is plain self-attention over the union, as in the public code; there is no cross-attention between single
    modalities. In reading B of ExViT (BP-LCZ) it is the classifier, over the 7 N tokens of seven groups.
    Dropout draws from one stream spawned from rng for every `PART` samples.

    >>> import numpy
    >>> params, _ = joint(17).init(numpy.random.default_rng(0), numpy.float32)
    >>> joint(17).apply(params, {}, numpy.zeros((2, 3 * 4, 64), "f"), train=False)[0].shape
    (2, 17)
    """
    fusion = vector(outputs, size)

    def init(rng, dtype):
        return {"transformer": _transformer_init(rng, size.joint, size, dtype)} | fusion.init(rng, dtype)[0], {}

    def apply(params, state, x, *, train, rng=None):
        own = {part: params[part] for part in ("transformer", "mlp_head0", "mlp_head1")}
        parts = np.split(x, range(PART, len(x), PART))  # no layer here mixes samples
        streams = [None] * len(parts) if rng is None else rng.spawn(len(parts))

        def part(stream):
            def run(given):
                p, x = given
                return fusion.apply(p, {}, _transformer(p["transformer"], x, size, train, stream), train=train)

            return run

        y, _ = nn.concurrently([part(stream) for stream in streams], [(own, x) for x in parts])
        return np.concatenate(y, axis=0), state

    return nn.Network(init, apply)


# -------------------------------------------------------------------------------------------------- parts

STEM = (0, 4, 8)  # where the three blocks of the stem begin in the public code's nn.Sequential


def _stem_init(rng, channels, stem, dtype):
    """PyTorch's default for convolutions: weight and bias uniform within 1 / sqrt(inputs of one output)."""

    def convolution(outputs, each, kernel):
        p = nn.linear_init(rng, each * kernel * kernel, outputs, dtype)
        return p | {"weight": p["weight"].reshape(outputs, each, kernel, kernel)}

    params, state = {}, {}
    for k, outputs in zip(STEM, (stem, 2 * stem, 4 * stem), strict=True):
        params[f"{k}"] = convolution(channels, 1, 3)
        params[f"{k + 1}"] = convolution(outputs, channels, 1)
        params[f"{k + 2}"], state[f"{k + 2}"] = nn.batch_norm_init(outputs, dtype)
        channels = outputs
    return params, state


def _stem(params, state, x, train):  # (B, H, W, C) -> (B, H, W, 4 stem), new state
    new = {}
    for k in STEM:
        depthwise, pointwise, norm = (params[f"{k + i}"] for i in range(3))  # the fourth is GELU
        x = nn.conv2d(x, **depthwise, padding=1, groups=x.shape[-1])
        x = nn.conv2d(x, **pointwise)
        x, new[f"{k + 2}"] = nn.batch_norm(x, **norm, state=state[f"{k + 2}"], train=train)
        x = nn.gelu(x)
    return x, new


def _transformer_init(rng, layers, size, dtype):
    inner = size.heads * size.head

    def layer():
        qkv = {"weight": nn.linear_init(rng, size.width, 3 * inner, dtype)["weight"]}  # no bias
        attention = {"to_qkv": qkv, "to_out": {"0": nn.linear_init(rng, inner, size.width, dtype)}}
        net = {
            "0": nn.linear_init(rng, size.width, size.hidden, dtype),
            "3": nn.linear_init(rng, size.hidden, size.width, dtype),
        }
        halves = {"0": attention, "1": {"net": net}}
        return {k: {"fn": {"norm": nn.layer_norm_init(size.width, dtype), "fn": p}} for k, p in halves.items()}

    return {"layers": {str(k): layer() for k in range(layers)}}


def _transformer(params, x, size, train, rng):  # (B, N, w) -> (B, N, w)
    """Each layer: x = x + drop(attention(LN(x))); x = x + drop(W2 drop(GELU(W1 LN(x)))). No norm at the end."""

    def pair(p):
        return p["weight"], p["bias"]

    for k in range(len(params["layers"])):
        attention, perceptron = (params["layers"][str(k)][half]["fn"] for half in "01")
        attend, net = attention["fn"], perceptron["fn"]["net"]
        keep = None
        if train and size.dropout:
            widths = size.width, size.hidden, size.width  # of the three places, in the order in which they draw
            keep = [nn.dropout_factors(rng, (*x.shape[:2], w), size.dropout, x.dtype) for w in widths]
        x = nn.transformer_block(
            x,
            pair(attention["norm"]),
            (attend["to_qkv"]["weight"], None),
            pair(attend["to_out"]["0"]),
            pair(perceptron["norm"]),
            pair(net["0"]),
            pair(net["3"]),
            heads=size.heads,
            activation="gelu",
            keep=keep,
        )
    return x

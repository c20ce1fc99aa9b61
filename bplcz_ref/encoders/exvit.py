"""ExViT: convolutional stems, a transformer for each modality, one over all tokens, and a weighted mean of tokens.

Layer by layer and name by name ExViT's public code (Yao et al. 2023, github.com/jingyao16/ExViT), so that its
weights load as they are. Known differences: the public code takes every pixel as a token, here `grid` averages
grid x grid pixels first (grid=1 is the public code); it fails on a batch of one, this does not; it cuts its
position table to a smaller image, this refuses.

How the paper adopts ExViT for band groups it does not say. `encoder` is reading A, Eq. (9) to the letter;
`tokens`, `vector` and `joint` are reading B, with attention over the tokens of all groups:

    A = model.bplcz({group: encoder(C_i)}, head(7 * 512, 17), shared=("pos_embedding",), ...)
    B = model.bplcz({group: tokens(C_i)}, joint(17), vector=vector(512), shared=("pos_embedding",), ...)

Index letters: B batch, H W rows and columns, C channels, N tokens, w width of a token, d features, K classes.
"""

from typing import NamedTuple

import autograd.numpy as np

from bplcz_ref import bands, nn, paper


class Size(NamedTuple):
    """The sizes of ExViT; the defaults are those of its public code."""

    stem: int = 16  # channels after the stem's first block; the next two double it
    width: int = 64  # w
    layers: int = 4  # of the transformer that a modality has for itself
    joint: int = 2  # layers of the transformer over all tokens
    heads: int = 4
    head: int = 16  # width of one head
    hidden: int = 32  # of the two-layer perceptron
    dropout: float = 0.1


SIZE = Size()
CLASSES = len(paper.CLASSES)

PART = 8  # samples that `joint` takes at a time, side by side on the machine's cores

# What a modality has for itself, under the public code's names; a band group's encoder bears the first's.
FIRST = ("separable1", "to_patch_embedding2", "transformer1")
SECOND = ("separable2", "to_patch_embedding2c", "transformer2")
JOINT = ("transformer", "mlp_head0", "mlp_head1")


# ----------------------------------------------------------------------------------------------- networks


def exvit(patch=paper.PATCH, grid=4, classes=CLASSES, size=SIZE):  # (B, P, P, 18) -> (B, K)
    """ExViT on So2Sat's patches: `two_modalities` with sen2's 10 channels first and sen1's 8 second.

    Which of the two is first is our choice; only the names of the weights depend on it. Parameters:
    291,462 at grid=1 (1024 tokens a modality), 242,310 at grid=2, 230,022 at grid=4 (64 tokens).

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


def two_modalities(first, second, patch, grid, classes, size=SIZE):
    # ((B, P, P, first), (B, P, P, second)) -> (B, K)
    """ExViT of two images of the same place; `first` and `second` are their numbers of channels.

    `tokens` of each, with weights of its own but one position table for both; then `joint` over the 2 N tokens,
    the first modality's before the second's. Dropout draws from three streams spawned from rng: the first
    modality's, the second's, the joint layers'.

    Houston 2013, as published (144 hyperspectral bands, one of elevation, patches of 13 x 13, 15 classes):

    >>> import numpy
    >>> from bplcz_ref import weights
    >>> network = two_modalities(144, 1, patch=13, grid=1, classes=15)
    >>> params, state = network.init(numpy.random.default_rng(0), numpy.float32)
    >>> weights.count(params)
    239914
    >>> c_hat, _ = network.apply(
    ...     params, state, (numpy.zeros((1, 13, 13, 144)), numpy.zeros((1, 13, 13, 1))), train=False
    ... )
    >>> c_hat.shape
    (1, 15)
    """
    own = [tokens(channels, patch, grid, size) for channels in (first, second)]
    over_all = joint(classes, size)

    def init(rng, dtype):
        params, state = {}, {}
        for network, names in zip(own, (FIRST, SECOND), strict=True):
            p, s = network.init(rng, dtype)
            params.setdefault("pos_embedding", p["pos_embedding"])
            params |= {name: p[part] for name, part in zip(names, FIRST, strict=True)}
            state[names[0]] = s[FIRST[0]]
        return params | over_all.init(rng, dtype)[0], state

    def apply(params, state, x, *, train, rng=None):
        streams = [None] * 3 if rng is None else rng.spawn(3)

        def modality(network, names, stream):
            measured = {FIRST[0]: state[names[0]]}
            return lambda given: network.apply(given[0], measured, given[1], train=train, rng=stream)

        functions = [modality(*each) for each in zip(own, (FIRST, SECOND), streams[:2], strict=True)]
        parameters = [
            {part: params[name] for name, part in zip(names, FIRST, strict=True)}
            | {"pos_embedding": params["pos_embedding"]}
            for names in (FIRST, SECOND)
        ]
        both, states = nn.concurrently(functions, list(zip(parameters, x, strict=True)))
        c_hat, _ = over_all.apply(params, {}, np.concatenate(both, axis=1), train=train, rng=streams[2])
        return c_hat, {names[0]: s[FIRST[0]] for names, s in zip((FIRST, SECOND), states, strict=True)}

    return nn.Network(init, apply)


def encoder(in_channels, patch=paper.PATCH, grid=4, features=512, size=SIZE):  # (B, P, P, C_i) -> (B, d)
    """Eq. (1), E_m for one band group, reading A of ExViT (BP-LCZ): `tokens`, then `vector`.

    There is no attention across groups: Eq. (9) concatenates the vectors I_i. Parameters at the public sizes:
    26 C_i + 3,376 stem, 4,160 projection, 64 N positions, 83,584 transformer, 193 weighting, 33,408 vector at
    d = 512. model.bplcz(..., shared=("pos_embedding",)) lets the seven groups share one position table, as the
    two modalities of ExViT do: then all seven have 873,515 and the table 64 N.

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


def tokens(in_channels, patch=paper.PATCH, grid=4, size=SIZE):  # (B, P, P, C) -> (B, N, w)
    """One modality's part of ExViT, from pixels to tokens; N = (P / grid)^2, row by row.

    Stem, three times: depthwise 3x3, pointwise 1x1, both with bias and nothing in between, batch norm, GELU.
    Then the mean of grid x grid pixels, a linear map to w, plus the position table, dropout, and the layers of
    `_transformer`. The position table is normal with mean 0 and deviation 1, all else PyTorch's default.
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
                "build it with this patch and these channels (its position table has one row a token)"
            )
        x, measured = _stem(params[stem], state[stem], x, train)
        if grid > 1:
            x = nn.avg_pool2d(x, grid)
        x = _linear(params[embedding], np.reshape(x, (len(x), -1, 4 * size.stem)))
        x = nn.dropout(x + params["pos_embedding"], size.dropout, train=train, rng=rng)
        return _transformer(params[transformer], x, size, train, rng), {stem: measured}

    return nn.Network(init, apply)


def vector(outputs, size=SIZE):  # (B, N, w) -> (B, outputs)
    """Token fusion and head: z = sum_t a_t x_t with a = softmax over the tokens of Linear(LN(x_t)); Linear(LN(z)).

    In ExViT `outputs` is K and this is the end of it; in a band group's encoder it is d, and gives I_i.

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


def head(inputs, outputs):  # (..., inputs) -> (..., outputs)
    """Linear(LN(x)): in both heads of ExViT, and D of reading A on the concatenated I_i of Eq. (9).

    >>> import numpy
    >>> from bplcz_ref import weights
    >>> weights.count(head(7 * 512, 17).init(numpy.random.default_rng(0), numpy.float32)[0])
    68113
    """

    def init(rng, dtype):
        return {"0": nn.layer_norm_init(inputs, dtype), "1": nn.linear_init(rng, inputs, outputs, dtype)}, {}

    def apply(params, state, x, *, train, rng=None):
        return _linear(params["1"], _layer_norm(params["0"], x)), state

    return nn.Network(init, apply)


def joint(outputs, size=SIZE):  # (B, n N, w) -> (B, outputs)
    """ExViT's attention across modalities, then `vector`: a transformer over the tokens of all of them.

    Plain self-attention over the union, as in the public code; no modality asks another alone. As the
    classifier of model.bplcz it is reading B of ExViT (BP-LCZ), over the 7 N tokens of seven groups.
    Dropout draws from a stream spawned from rng for every `PART` samples.

    >>> import numpy
    >>> params, _ = joint(17).init(numpy.random.default_rng(0), numpy.float32)
    >>> joint(17).apply(params, {}, numpy.zeros((2, 3 * 4, 64), "f"), train=False)[0].shape
    (2, 17)
    """
    fusion = vector(outputs, size)

    def init(rng, dtype):
        return {"transformer": _transformer_init(rng, size.joint, size, dtype)} | fusion.init(rng, dtype)[0], {}

    def apply(params, state, x, *, train, rng=None):
        own = {part: params[part] for part in JOINT}
        parts = np.split(x, range(PART, len(x), PART))  # no layer here mixes samples
        streams = [None] * len(parts) if rng is None else rng.spawn(len(parts))

        def part(stream):
            return lambda given: fusion.apply(
                given[0], {}, _transformer(given[0]["transformer"], given[1], size, train, stream), train=train
            )

        y, _ = nn.concurrently([part(stream) for stream in streams], [(own, x) for x in parts])
        return np.concatenate(y, axis=0), state

    return nn.Network(init, apply)


# -------------------------------------------------------------------------------------------------- parts


def _stem_init(rng, channels, stem, dtype):
    """PyTorch's default for convolutions: weight and bias uniform within 1 / sqrt(inputs of one output)."""

    def convolution(outputs, each, kernel):
        p = nn.linear_init(rng, each * kernel * kernel, outputs, dtype)
        return p | {"weight": p["weight"].reshape(outputs, each, kernel, kernel)}

    params, state = {}, {}
    for k, outputs in zip((0, 4, 8), (stem, 2 * stem, 4 * stem), strict=True):
        params[f"{k}"] = convolution(channels, 1, 3)
        params[f"{k + 1}"] = convolution(outputs, channels, 1)
        params[f"{k + 2}"], state[f"{k + 2}"] = nn.batch_norm_init(outputs, dtype)
        channels = outputs
    return params, state


def _stem(params, state, x, train):  # (B, H, W, C) -> (B, H, W, 4 stem), new state
    new = {}
    for k in (0, 4, 8):  # places in the public code's nn.Sequential; the fourth of each block is GELU
        depthwise, pointwise, norm = (params[f"{k + i}"] for i in range(3))
        x = nn.conv2d(x, depthwise["weight"], depthwise["bias"], padding=1, groups=x.shape[-1])
        x = nn.conv2d(x, pointwise["weight"], pointwise["bias"])
        x, new[f"{k + 2}"] = nn.batch_norm(x, norm["weight"], norm["bias"], state[f"{k + 2}"], train=train)
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
        norms = [nn.layer_norm_init(size.width, dtype) for _ in range(2)]
        parts = zip("01", norms, (attention, {"net": net}), strict=True)
        return {k: {"fn": {"norm": norm, "fn": part}} for k, norm, part in parts}

    return {"layers": {str(k): layer() for k in range(layers)}}


def _transformer(params, x, size, train, rng):  # (B, N, w) -> (B, N, w)
    """Each layer: x = x + drop(attention(LN(x))); x = x + drop(W2 drop(GELU(W1 LN(x)))). No norm at the end."""

    def drop(x):
        return nn.dropout(x, size.dropout, train=train, rng=rng)

    for k in range(len(params["layers"])):
        attention, perceptron = (params["layers"][str(k)][part]["fn"] for part in "01")
        x = x + drop(_attend(attention["fn"], _layer_norm(attention["norm"], x), size))
        first, second = (perceptron["fn"]["net"][part] for part in "03")
        h = drop(nn.gelu(_linear(first, _layer_norm(perceptron["norm"], x))))
        x = x + drop(_linear(second, h))
    return x


def _attend(p, x, size):  # (B, N, w) -> (B, N, w)
    B, N, _ = x.shape
    inner = size.heads * size.head

    def heads(part):  # q, k, v each by their rows of to_qkv, so that no array of all three is on the tape
        y = nn.linear(x, p["to_qkv"]["weight"][part * inner : (part + 1) * inner])
        return np.transpose(np.reshape(y, (B, N, size.heads, size.head)), (0, 2, 1, 3))

    y = nn.attention(heads(0), heads(1), heads(2))  # (B, heads, N, head)
    return _linear(p["to_out"]["0"], np.reshape(np.transpose(y, (0, 2, 1, 3)), (B, N, inner)))


def _linear(p, x):
    return nn.linear(x, p["weight"], p["bias"])


def _layer_norm(p, x):
    return nn.layer_norm(x, p["weight"], p["bias"])

"""CLIP's text transformer, of any width, depth, number of heads and vocabulary: E_t of Eq. (2).

Layer by layer and name by name it is openai/CLIP's model.py, so that its weights load without conversion. It is
the architecture only: CLIP's trained weights are not part of this project, and the paper does not say whether it
began from them (it trains both encoders jointly).

`encoder` computes each prompt by itself, as CLIP does. Training runs the same layers on trees, which is faster:
encoders/prefixes.py.

Index letters: N prompts, L tokens, W width, d features.
"""

import autograd.numpy as np
import numpy as onp

from bplcz_ref import nn
from bplcz_ref.layers import (
    Network,
    add,
    attend,
    embedding,
    layer_norm,
    linear,
    normal,
    parameter,
    quick_gelu,
    serial,
)

CONTEXT = 77
KIND = "CLIP's text transformer"


def encoder(
    vocabulary: int,
    width: int = 512,
    layers: int = 12,
    heads: int = 8,
    features: int = 512,
    context: int = CONTEXT,
) -> Network:  # ints (N, L) -> (N, d)
    """Eq. (2), E_t: token and position embeddings, pre-norm causal blocks, the row at EOT, a projection.

    x = token_embedding[ids] + positional_embedding[:L]
    repeat: x = x + attention(LN(x)); x = x + c_proj(QuickGELU(c_fc(LN(x))))
    T = LN(x)[EOT] text_projection

    EOT is the largest id of a row, at its first place. Parameters: V W + 77 W + layers (12 W^2 + 13 W) + 2 W
    + W d; CLIP ViT-B/32's text tower (V = 49408, W = d = 512, 12 layers) has 63,428,096.

    >>> network = encoder(vocabulary=20, width=8, layers=1, heads=2, features=4)
    >>> params, state = network.init(onp.random.default_rng(0), onp.float64)
    >>> T, _ = network.apply(params, state, onp.array([[18, 3, 19, 0], [18, 5, 7, 19]]), train=True)
    >>> T.shape
    (2, 4)
    """
    if width % heads:
        raise ValueError(f"width must be a multiple of heads, found width={width} and heads={heads}")
    embed = serial(
        ("token_embedding", embedding(vocabulary, width, normal(0.02))),
        ("positional_embedding", parameter(lambda x, p: x + p[: x.shape[1]], (context, width), normal(0.01))),
    )
    blocks = [(str(k), block(width, heads, layers, causal=True)) for k in range(layers)]
    transform = serial(("transformer", serial(("resblocks", serial(*blocks)))), ("ln_final", layer_norm(width)))
    project = serial(("text_projection", parameter(np.dot, (width, features), normal(width**-0.5))))

    def init(rng, dtype):
        first, last = (part.init(rng, dtype)[0] for part in (embed, project))  # CLIP draws these before the blocks
        return first | transform.init(rng, dtype)[0] | last, {}

    def apply(params, state, ids, *, train, rng=None):
        ids = checked(ids, context)
        x, _ = embed.apply(params, state, ids, train=train)  # (N, L, W)
        x, _ = transform.apply(params, state, x, train=train)
        x = take(x, onp.argmax(ids, axis=1)[:, None])[:, 0]  # (N, W)
        return project.apply(params, state, x, train=train)

    return Network(init, apply, KIND, options={"heads": heads, "context": context})


def block(width: int, heads: int, layers: int = 1, **seen) -> Network:  # (N, L, W) -> (N, L, W)
    """One of `layers` blocks: x + attention(LN(x)), then x + mlp(LN(x)); `seen` is nn.attention's causal or mask.

    in_proj holds the rows of queries, keys and values, in this order; mlp is 4 W wide inside.
    """
    residual = width**-0.5 * (2 * layers) ** -0.5  # smaller the more layers add to the residual path
    attention = serial(
        ("in_proj_", linear(width, 3 * width, start=normal(width**-0.5))),
        attend(heads, **seen),
        ("out_proj", linear(width, width, start=normal(residual))),
    )
    mlp = serial(("c_fc", linear(width, 4 * width)), quick_gelu, ("c_proj", linear(4 * width, width)))
    first = add(("ln_1", layer_norm(width)), ("attn", attention))
    second = add(("ln_2", layer_norm(width)), ("mlp", mlp))

    def init(rng, dtype):
        p, _ = second.init(rng, dtype)
        for name, std in (("c_fc", (2 * width) ** -0.5), ("c_proj", residual)):  # CLIP draws these weights anew
            p["mlp"][name]["weight"] = normal(std)(rng, p["mlp"][name]["weight"].shape)[0].astype(dtype)
        p |= first.init(rng, dtype)[0]
        return {name: p[name] for name in ("attn", "ln_1", "mlp", "ln_2")}, {}

    return serial(first, second)._replace(init=init)


def checked(ids: onp.ndarray, context: int) -> onp.ndarray:
    """Token ids as an array (N, L), L within the context."""
    ids = onp.asarray(ids)
    if ids.ndim != 2:
        raise ValueError(f"token ids: found shape {ids.shape}, expected (N, L)")
    if ids.shape[1] > context:
        raise ValueError(f"the text encoder's context is {context} tokens, found {ids.shape[1]}")
    return ids


def take(x: np.ndarray, rows: np.ndarray) -> np.ndarray:  # (N, L, W), ints (N, Q) -> (N, Q, W)
    """x[i, rows[i]] for every i."""
    N, L, width = x.shape
    return nn.embedding(np.reshape(x, (N * L, width)), rows + L * onp.arange(N)[:, None])

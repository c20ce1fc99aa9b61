"""CLIP's text transformer, of any width, depth, head count and vocabulary.

Layer by layer and name by name openai/CLIP's model.py, so that its weights load as they are. It is the
architecture only: CLIP's trained weights are not part of this project, and the paper does not say whether it
began from them (it trains both encoders jointly).
"""

import autograd.numpy as np
from autograd.tracer import getval

from bplcz_ref import nn

CONTEXT = 77


def encoder(
    vocabulary, width=512, layers=12, heads=8, features=512, context=CONTEXT
):  # ints (N, L) -> (N, d)
    """Eq. (2), E_t: token and position embeddings, pre-norm causal blocks, the row at EOT, a projection.

    x = token_embedding[ids] + positional_embedding[:L]
    repeat: x = x + attention(LN(x)); x = x + c_proj(QuickGELU(c_fc(LN(x))))
    T = LN(x)[EOT] text_projection

    EOT is where a row has its largest id, the first such place. A context cut to L <= 77 tokens gives the same
    features, as no row sees what follows it. Parameters: V W + 77 W + layers (12 W^2 + 13 W) + 2 W + W d;
    CLIP ViT-B/32's text tower (V = 49408, W = d = 512, 12 layers) has 63,428,096.

    >>> import numpy
    >>> network = encoder(vocabulary=20, width=8, layers=1, heads=2, features=4)
    >>> params, state = network.init(numpy.random.default_rng(0), numpy.float64)
    >>> T, _ = network.apply(params, state, numpy.array([[18, 3, 19, 0], [18, 5, 7, 19]]), train=True)
    >>> T.shape
    (2, 4)
    """
    if width % heads:
        raise ValueError(f"width must be a multiple of heads, got width={width} and heads={heads}")

    def init(rng, dtype):
        attention_std = width**-0.5
        residual_std = width**-0.5 * (2 * layers) ** -0.5
        params = {
            "token_embedding": {"weight": nn.normal(rng, (vocabulary, width), 0.02, dtype)},
            "positional_embedding": nn.normal(rng, (context, width), 0.01, dtype),
            "transformer": {"resblocks": {}},
            "ln_final": nn.layer_norm_init(width, dtype),
            "text_projection": nn.normal(rng, (width, features), width**-0.5, dtype),
        }
        for k in range(layers):
            c_fc = nn.linear_init(rng, width, 4 * width, dtype)
            c_proj = nn.linear_init(rng, 4 * width, width, dtype)
            params["transformer"]["resblocks"][str(k)] = {
                "attn": {
                    "in_proj_weight": nn.normal(rng, (3 * width, width), attention_std, dtype),
                    "in_proj_bias": np.zeros(3 * width, dtype),
                    "out_proj": {
                        "weight": nn.normal(rng, (width, width), residual_std, dtype),
                        "bias": np.zeros(width, dtype),
                    },
                },
                "ln_1": nn.layer_norm_init(width, dtype),
                "mlp": {
                    "c_fc": {"weight": nn.normal(rng, (4 * width, width), (2 * width) ** -0.5, dtype)}
                    | {"bias": c_fc["bias"]},
                    "c_proj": {"weight": nn.normal(rng, (width, 4 * width), residual_std, dtype)}
                    | {"bias": c_proj["bias"]},
                },
                "ln_2": nn.layer_norm_init(width, dtype),
            }
        return params, {}

    def attend(p, x):  # (N, L, W) -> (N, L, W)
        N, L, _ = x.shape
        qkv = nn.linear(x, p["in_proj_weight"], p["in_proj_bias"])
        qkv = np.transpose(np.reshape(qkv, (N, L, 3, heads, width // heads)), (2, 0, 3, 1, 4))
        out = nn.attention(qkv[0], qkv[1], qkv[2], causal=True)  # (N, heads, L, W/heads)
        out = np.reshape(np.transpose(out, (0, 2, 1, 3)), (N, L, width))
        return nn.linear(out, p["out_proj"]["weight"], p["out_proj"]["bias"])

    def apply(params, state, ids, *, train, rng=None):
        ids = np.asarray(getval(ids))
        L = ids.shape[1]
        if L > context:
            raise ValueError(f"the text encoder's context is {context} tokens, got {L}")
        x = nn.embedding(params["token_embedding"]["weight"], ids) + params["positional_embedding"][:L]
        for k in range(layers):
            p = params["transformer"]["resblocks"][str(k)]
            x = x + attend(p["attn"], nn.layer_norm(x, p["ln_1"]["weight"], p["ln_1"]["bias"]))
            h = nn.layer_norm(x, p["ln_2"]["weight"], p["ln_2"]["bias"])
            h = nn.quick_gelu(nn.linear(h, p["mlp"]["c_fc"]["weight"], p["mlp"]["c_fc"]["bias"]))
            x = x + nn.linear(h, p["mlp"]["c_proj"]["weight"], p["mlp"]["c_proj"]["bias"])
        x = x[
            np.arange(len(ids)), np.argmax(ids, axis=1)
        ]  # the row at EOT; LN acts on rows, so it may follow
        x = nn.layer_norm(x, params["ln_final"]["weight"], params["ln_final"]["bias"])
        return np.matmul(x, params["text_projection"]), state

    return nn.Network(init, apply)

"""CLIP's text transformer, of any width, depth, head count and vocabulary.

Layer by layer and name by name openai/CLIP's model.py, so that its weights load as they are. It is the
architecture only: CLIP's trained weights are not part of this project, and the paper does not say whether it
began from them (it trains both encoders jointly).

The 119 prompts are 17 descriptions times 7 endings. As no token sees what follows it, prompts that begin alike
have equal states there: `pack` lays the prompts of a class out as a tree in which each common beginning stands
once, and the encoder walks that tree. Values and gradients are those of the prompts one by one.
"""

from typing import NamedTuple

import autograd.numpy as np
import numpy as onp

from bplcz_ref import nn

CONTEXT = 77


class Packed(NamedTuple):
    """n token sequences of each of K classes as K trees of S slots; a slot without a token sees itself."""

    ids: onp.ndarray  # (K, S) the token in each slot
    position: onp.ndarray  # (K, S) its place in its sequences
    seen: onp.ndarray  # (K, S, S) seen[k, i, j]: slot j is slot i or comes before it in its sequences
    eot: onp.ndarray  # (K, n) the slot where each sequence ends

    def of(self, classes):
        """The trees of these classes only."""
        return Packed(*(part[classes] for part in self))


def pack(ids):  # ints (K, n, L) -> Packed
    """The prefix tree of each class's n sequences, each up to and with its EOT (its largest id, the first place).

    >>> tree = pack(onp.array([[[8, 3, 4, 9, 0], [8, 3, 5, 5, 9]]]))
    >>> tree.ids.tolist(), tree.position.tolist(), tree.eot.tolist()
    ([[8, 3, 4, 9, 5, 5, 9]], [[0, 1, 2, 3, 2, 3, 4]], [[3, 6]])
    >>> tree.seen[0, 4].astype(int).tolist()  # the first 5 comes after 8 and 3, not after 4
    [1, 1, 0, 0, 1, 0, 0]
    """
    ids = onp.asarray(ids)
    if ids.ndim != 3 or ids.dtype.kind not in "iu" or 0 in ids.shape:
        raise ValueError(f"token ids are integers (K, n, L), got {ids.dtype} of shape {ids.shape}")
    trees = []
    for sequences in ids:
        slots, before, ends = {}, [], []  # (token so far, ...) -> slot; the slots that each slot sees
        for sequence in sequences.tolist():
            path = []
            for length in range(1, sequence.index(max(sequence)) + 2):
                slot = slots.setdefault(tuple(sequence[:length]), len(slots))
                path = [*path, slot]
                if slot == len(before):
                    before.append(path)
            ends.append(path[-1])
        trees.append((slots, before, ends))
    S = max(len(slots) for slots, _, _ in trees)
    packed = Packed(
        onp.zeros((len(ids), S), int),
        onp.zeros((len(ids), S), int),
        onp.tile(onp.eye(S, dtype=bool), (len(ids), 1, 1)),
        onp.array([ends for _, _, ends in trees]),
    )
    for k, (slots, before, _) in enumerate(trees):
        for (*_, token), slot in slots.items():
            packed.ids[k, slot], packed.position[k, slot] = token, len(before[slot]) - 1
            packed.seen[k, slot, before[slot]] = True
    return packed


def encoder(vocabulary, width=512, layers=12, heads=8, features=512, context=CONTEXT):
    # Packed of (K, n) sequences -> (K, n, d); ints (N, L) -> (N, d)
    """Eq. (2), E_t: token and position embeddings, pre-norm causal blocks, the row at EOT, a projection.

    x = token_embedding[ids] + positional_embedding[:L]
    repeat: x = x + attention(LN(x)); x = x + c_proj(QuickGELU(c_fc(LN(x))))
    T = LN(x)[EOT] text_projection

    What the last block computes at other rows than EOT is not read, so it is not computed. Parameters:
    V W + 77 W + layers (12 W^2 + 13 W) + 2 W + W d; CLIP ViT-B/32's text tower (V = 49408, W = d = 512,
    12 layers) has 63,428,096.

    >>> network = encoder(vocabulary=20, width=8, layers=1, heads=2, features=4)
    >>> params, state = network.init(onp.random.default_rng(0), onp.float64)
    >>> T, _ = network.apply(params, state, onp.array([[18, 3, 19, 0], [18, 5, 7, 19]]), train=True)
    >>> T.shape
    (2, 4)
    """
    if width % heads:
        raise ValueError(f"width must be a multiple of heads, got width={width} and heads={heads}")

    def init(rng, dtype):
        residual_std = width**-0.5 * (2 * layers) ** -0.5
        params = {
            "token_embedding": {"weight": nn.normal(rng, (vocabulary, width), 0.02, dtype)},
            "positional_embedding": nn.normal(rng, (context, width), 0.01, dtype),
            "transformer": {"resblocks": {}},
            "ln_final": nn.layer_norm_init(width, dtype),
            "text_projection": nn.normal(rng, (width, features), width**-0.5, dtype),
        }
        for k in range(layers):
            c_fc, c_proj = (nn.linear_init(rng, *s, dtype) for s in ((width, 4 * width), (4 * width, width)))
            c_fc["weight"] = nn.normal(rng, (4 * width, width), (2 * width) ** -0.5, dtype)
            c_proj["weight"] = nn.normal(rng, (width, 4 * width), residual_std, dtype)
            params["transformer"]["resblocks"][str(k)] = {
                "attn": {
                    "in_proj_weight": nn.normal(rng, (3 * width, width), width**-0.5, dtype),
                    "in_proj_bias": onp.zeros(3 * width, dtype),
                    "out_proj": {
                        "weight": nn.normal(rng, (width, width), residual_std, dtype),
                        "bias": onp.zeros(width, dtype),
                    },
                },
                "ln_1": nn.layer_norm_init(width, dtype),
                "mlp": {"c_fc": c_fc, "c_proj": c_proj},
                "ln_2": nn.layer_norm_init(width, dtype),
            }
        return params, {}

    def split(x, parts):  # (K, S, parts W) -> parts x (K, heads, S, W / heads)
        K, S, _ = x.shape
        x = np.transpose(np.reshape(x, (K, S, parts, heads, width // heads)), (2, 0, 3, 1, 4))
        return [x[i] for i in range(parts)]

    def block(p, x, seen, rows):  # (K, S, W) -> (K, Q, W): the states of the slots `rows` (K, Q), or of all
        h = nn.layer_norm(x, p["ln_1"]["weight"], p["ln_1"]["bias"])
        weight, bias = p["attn"]["in_proj_weight"], p["attn"]["in_proj_bias"]
        if rows is None:
            q, k, v = split(nn.linear(h, weight, bias), 3)
        else:
            k, v = split(nn.linear(h, weight[width:], bias[width:]), 2)
            x, seen = take(x, rows), onp.take_along_axis(seen, rows[:, :, None], axis=1)
            (q,) = split(nn.linear(take(h, rows), weight[:width], bias[:width]), 1)
        h = nn.attention(q, k, v, mask=seen[:, None])  # (K, heads, Q, W / heads)
        h = np.reshape(np.transpose(h, (0, 2, 1, 3)), x.shape)
        x = x + nn.linear(h, p["attn"]["out_proj"]["weight"], p["attn"]["out_proj"]["bias"])
        h = nn.layer_norm(x, p["ln_2"]["weight"], p["ln_2"]["bias"])
        h = nn.quick_gelu(nn.linear(h, p["mlp"]["c_fc"]["weight"], p["mlp"]["c_fc"]["bias"]))
        return x + nn.linear(h, p["mlp"]["c_proj"]["weight"], p["mlp"]["c_proj"]["bias"])

    def take(x, rows):  # (K, S, W), (K, Q) -> (K, Q, W)
        K, S, _ = x.shape
        return nn.embedding(np.reshape(x, (K * S, width)), rows + S * onp.arange(K)[:, None])

    def apply(params, state, ids, *, train, rng=None):
        tree = ids if isinstance(ids, Packed) else pack(onp.asarray(ids)[:, None])
        longest = int(tree.position.max()) + 1
        if longest > context:
            raise ValueError(f"the text encoder's context is {context} tokens, got {longest}")
        x = nn.embedding(params["token_embedding"]["weight"], tree.ids)
        x = x + nn.embedding(params["positional_embedding"], tree.position)
        for k in range(layers):
            x = block(
                params["transformer"]["resblocks"][str(k)], x, tree.seen, tree.eot if k == layers - 1 else None
            )
        x = nn.layer_norm(x, params["ln_final"]["weight"], params["ln_final"]["bias"])
        T = np.reshape(np.dot(np.reshape(x, (-1, width)), params["text_projection"]), (*tree.eot.shape, features))
        return (T if isinstance(ids, Packed) else T[:, 0]), state

    return nn.Network(init, apply)

"""CLIP's text transformer, of any width, depth, number of heads and vocabulary: E_t of Eq. (2).

Layer by layer and name by name it is openai/CLIP's model.py, so that its weights load without conversion. It is
the architecture only: CLIP's trained weights are not part of this project, and the paper does not say whether it
began from them (it trains both encoders jointly).

The file has the encoder twice: `text_features`, as CLIP computes it, each prompt by itself; and `tree_features`,
the faster way that training takes, which computes each common beginning of the prompts of a class once.

Index letters: N prompts, L tokens, W width, d features; K classes, n groups, S slots of a tree.
"""

from typing import NamedTuple

import autograd.numpy as np
import numpy as onp
from numpy.typing import DTypeLike

from bplcz_ref import nn

CONTEXT = 77


def encoder(
    vocabulary: int,
    width: int = 512,
    layers: int = 12,
    heads: int = 8,
    features: int = 512,
    context: int = CONTEXT,
) -> nn.Network:  # ints (N, L) -> (N, d); or Packed (K, n) prompts -> (K, n, d)
    """Eq. (2), E_t: token and position embeddings, pre-norm causal blocks, the row at EOT, a projection.

    x = token_embedding[ids] + positional_embedding[:L]
    repeat: x = x + attention(LN(x)); x = x + c_proj(QuickGELU(c_fc(LN(x))))
    T = LN(x)[EOT] text_projection

    `apply` takes token ids (N, L), or the trees that `pack` makes of them. Parameters: V W + 77 W +
    layers (12 W^2 + 13 W) + 2 W + W d; CLIP ViT-B/32's text tower (V = 49408, W = d = 512, 12 layers) has
    63,428,096.

    >>> network = encoder(vocabulary=20, width=8, layers=1, heads=2, features=4)
    >>> params, state = network.init(onp.random.default_rng(0), onp.float64)
    >>> T, _ = network.apply(params, state, onp.array([[18, 3, 19, 0], [18, 5, 7, 19]]), train=True)
    >>> T.shape
    (2, 4)
    """
    if width % heads:
        raise ValueError(f"width must be a multiple of heads, found width={width} and heads={heads}")

    def init(rng, dtype):
        params = {
            "token_embedding": {"weight": nn.normal(rng, (vocabulary, width), 0.02, dtype)},
            "positional_embedding": nn.normal(rng, (context, width), 0.01, dtype),
            "transformer": {"resblocks": {}},
            "ln_final": nn.layer_norm_init(width, dtype),
            "text_projection": nn.normal(rng, (width, features), width**-0.5, dtype),
        }
        for k in range(layers):
            params["transformer"]["resblocks"][str(k)] = block_init(rng, width, layers, dtype)
        return params, {}

    def apply(params, state, ids, *, train, rng=None):
        if not isinstance(ids, Packed) and onp.ndim(ids) != 2:
            raise ValueError(f"token ids: found shape {onp.shape(ids)}, expected (N, L)")
        longest = ids.longest if isinstance(ids, Packed) else onp.shape(ids)[1]
        if longest > context:
            raise ValueError(f"the text encoder's context is {context} tokens, found {longest}")
        if isinstance(ids, Packed):
            return prompt_features(params, ids, heads), state
        return text_features(params, onp.asarray(ids), heads), state

    return nn.Network(init, apply)


def text_features(params: dict, ids: np.ndarray, heads: int) -> np.ndarray:  # (N, L) -> (N, d)
    """Eq. (2) as CLIP computes it. EOT is the largest id of a row, at its first place."""
    x = nn.embedding(params["token_embedding"]["weight"], ids)  # (N, L, W)
    x = x + params["positional_embedding"][: ids.shape[1]]
    for k in range(len(params["transformer"]["resblocks"])):
        x = block(params["transformer"]["resblocks"][str(k)], x, heads, causal=True)
    x = nn.layer_norm(x, **params["ln_final"])
    return np.dot(take(x, onp.argmax(ids, axis=1)[:, None])[:, 0], params["text_projection"])


def block(p: dict, x: np.ndarray, heads: int, **seen) -> np.ndarray:  # (N, L, W) -> (N, L, W)
    """x + attention(LN(x)), then x + mlp(LN(x)); `seen` is nn.attention's causal=True or mask=...

    in_proj holds the rows of queries, keys and values, in this order.
    """
    attn, perceptron = p["attn"], p["mlp"]
    pairs = p["ln_1"], attn["out_proj"], p["ln_2"], perceptron["c_fc"], perceptron["c_proj"]
    ln_1, out, ln_2, c_fc, c_proj = ((pair["weight"], pair["bias"]) for pair in pairs)
    qkv = attn["in_proj_weight"], attn["in_proj_bias"]
    options = {"heads": heads, "activation": "quick_gelu"} | seen
    return nn.transformer_block(x, ln_1, qkv, out, ln_2, c_fc, c_proj, **options)


def mlp(p: dict, x: np.ndarray) -> np.ndarray:  # (..., W) -> (..., W)
    """c_proj(QuickGELU(c_fc(x))), 4 W wide inside."""
    return nn.linear(nn.quick_gelu(nn.linear(x, **p["c_fc"])), **p["c_proj"])


def split(x: np.ndarray, parts: int, heads: int) -> list:  # (N, L, parts W) -> parts x (N, heads, L, W / heads)
    """Queries, keys, values side by side -> each by its heads."""
    N, L, width = x.shape
    x = np.transpose(np.reshape(x, (N, L, parts, heads, width // parts // heads)), (2, 0, 3, 1, 4))
    return [x[i] for i in range(parts)]


def join(x: np.ndarray) -> np.ndarray:  # (N, heads, L, W / heads) -> (N, L, W)
    """The heads side by side: the inverse of `split` for one part."""
    N, heads, L, each = x.shape
    return np.reshape(np.transpose(x, (0, 2, 1, 3)), (N, L, heads * each))


def take(x: np.ndarray, rows: np.ndarray) -> np.ndarray:  # (N, L, W), ints (N, Q) -> (N, Q, W)
    """x[i, rows[i]] for every i."""
    N, L, width = x.shape
    return nn.embedding(np.reshape(x, (N * L, width)), rows + L * onp.arange(N)[:, None])


def block_init(rng: onp.random.Generator, width: int, layers: int, dtype: DTypeLike) -> dict:
    """CLIP's initial values: what is added to the residual path starts smaller the more layers there are."""
    residual_std = width**-0.5 * (2 * layers) ** -0.5
    c_fc, c_proj = nn.linear_init(rng, width, 4 * width, dtype), nn.linear_init(rng, 4 * width, width, dtype)
    c_fc["weight"] = nn.normal(rng, (4 * width, width), (2 * width) ** -0.5, dtype)
    c_proj["weight"] = nn.normal(rng, (width, 4 * width), residual_std, dtype)
    return {
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


# ------------------------------------------------------------------------- the same by the tree of beginnings
#
# The 119 prompts are 17 descriptions with 7 endings each, so the prompts of a class begin alike. Computing a
# common beginning once is exact. In every block, the state of token l is made of the states of tokens 0..l alone:
# the causal mask lets attention see no others, and layer norm, linear maps and the activation work row by row. So,
# by induction over the blocks, the state at l is a function of the tokens 0..l: prompts that agree up to l have
# one state there, and one slot of a tree can hold it for all of them. A slot's attention runs over the slots of
# its own beginning, which are the keys and values that it would see in its prompt, in the same order. By the chain
# rule the gradient at a shared slot is the sum over the prompts that pass through it, which is what the tape adds.


class Packed(NamedTuple):
    """n token sequences of each of K classes as K trees of S slots; a slot without a token sees itself."""

    ids: onp.ndarray  # (K, S) the token in each slot
    position: onp.ndarray  # (K, S) its place in its sequences
    seen: onp.ndarray  # (K, S, S) seen[k, i, j]: slot j is slot i or comes before it in its sequences
    eot: onp.ndarray  # (K, n) the slot where each sequence ends

    @property
    def longest(self) -> int:
        """The number of tokens of the longest sequence."""
        return int(self.position.max()) + 1

    def of(self, classes: onp.ndarray) -> "Packed":
        """The trees of these classes only."""
        return Packed(*(part[classes] for part in self))


def pack(ids: onp.ndarray) -> Packed:  # ints (K, n, L)
    """The prefix tree of each class's n sequences, each up to and with its EOT (its largest id, the first place).

    >>> tree = pack(onp.array([[[8, 3, 4, 9, 0], [8, 3, 5, 5, 9]]]))
    >>> tree.ids.tolist(), tree.position.tolist(), tree.eot.tolist()
    ([[8, 3, 4, 9, 5, 5, 9]], [[0, 1, 2, 3, 2, 3, 4]], [[3, 6]])
    >>> tree.seen[0, 4].astype(int).tolist()  # the first 5 comes after 8 and 3, not after 4
    [1, 1, 0, 0, 1, 0, 0]
    """
    ids = onp.asarray(ids)
    if ids.ndim != 3 or ids.dtype.kind not in "iu" or 0 in ids.shape:
        raise ValueError(f"token ids: found {ids.dtype} of shape {ids.shape}, expected integers (K, n, L)")
    trees = [grow(sequences.tolist()) for sequences in ids]
    S = max(len(slots) for slots, _, _ in trees)
    packed = Packed(
        ids=onp.zeros((len(ids), S), int),
        position=onp.zeros((len(ids), S), int),
        seen=onp.tile(onp.eye(S, dtype=bool), (len(ids), 1, 1)),
        eot=onp.array([ends for _, _, ends in trees]),
    )
    for k, (slots, paths, _) in enumerate(trees):
        for (*_, token), slot in slots.items():
            packed.ids[k, slot], packed.position[k, slot] = token, len(paths[slot]) - 1
            packed.seen[k, slot, paths[slot]] = True
    return packed


def grow(sequences: list) -> tuple[dict, list, list]:
    """One tree: {beginning: slot}, the slots that each slot sees, and the slot where each sequence ends."""
    slots: dict[tuple, int] = {}
    paths: list[list[int]] = []
    ends = []
    for sequence in sequences:
        path: list[int] = []
        for length in range(1, sequence.index(max(sequence)) + 2):
            slot = slots.setdefault(tuple(sequence[:length]), len(slots))
            path = [*path, slot]
            if slot == len(paths):
                paths.append(path)
        ends.append(path[-1])
    return slots, paths, ends


def unpack(tree: Packed) -> onp.ndarray:  # -> ints (K, n, L)
    """The sequences of the trees, each up to its EOT and then 0.

    >>> unpack(pack(onp.array([[[8, 3, 4, 9, 0], [8, 3, 5, 5, 9]]]))).tolist()
    [[[8, 3, 4, 9, 0], [8, 3, 5, 5, 9]]]
    """
    ids = onp.zeros((*tree.eot.shape, tree.longest), int)
    for k, i in onp.ndindex(tree.eot.shape):
        path = onp.flatnonzero(tree.seen[k, tree.eot[k, i]])  # a slot has a larger number than those before it
        ids[k, i, : len(path)] = tree.ids[k, path]
    return ids


def tree_features(params: dict, tree: Packed, heads: int) -> np.ndarray:  # (K, n) prompts -> (K, n, d)
    """`prompt_features`, each common beginning computed once."""
    x = nn.embedding(params["token_embedding"]["weight"], tree.ids)  # (K, S, W)
    x = x + nn.embedding(params["positional_embedding"], tree.position)
    *inner, last = (
        params["transformer"]["resblocks"][str(k)] for k in range(len(params["transformer"]["resblocks"]))
    )
    for p in inner:
        x = block(p, x, heads, mask=tree.seen[:, None])
    x = block_at(last, x, heads, tree.seen, tree.eot)
    x = nn.layer_norm(x, **params["ln_final"])
    T = np.dot(np.reshape(x, (-1, x.shape[-1])), params["text_projection"])
    return np.reshape(T, (*tree.eot.shape, -1))


def block_at(p: dict, x: np.ndarray, heads: int, seen: np.ndarray, rows: np.ndarray) -> np.ndarray:
    # (K, S, W), bool (K, S, S), ints (K, n) -> (K, n, W)
    """`block` at the slots `rows` alone: of the last block nothing else is read, so nothing else is computed."""
    width = x.shape[-1]
    weight, bias = p["attn"]["in_proj_weight"], p["attn"]["in_proj_bias"]
    h = nn.layer_norm(x, **p["ln_1"])
    (q,) = split(nn.linear(take(h, rows), weight[:width], bias[:width]), 1, heads)
    k, v = split(nn.linear(h, weight[width:], bias[width:]), 2, heads)
    seen = onp.take_along_axis(seen, rows[:, :, None], axis=1)
    x = take(x, rows) + nn.linear(join(nn.attention(q, k, v, mask=seen[:, None])), **p["attn"]["out_proj"])
    return x + mlp(p["mlp"], nn.layer_norm(x, **p["ln_2"]))


@nn.runs(tree_features)
def prompt_features(params: dict, tree: Packed, heads: int) -> np.ndarray:  # (K, n) prompts -> (K, n, d)
    """`text_features` of every prompt in the trees."""
    ids = unpack(tree)
    T = text_features(params, np.reshape(ids, (-1, ids.shape[-1])), heads)
    return np.reshape(T, (*tree.eot.shape, -1))

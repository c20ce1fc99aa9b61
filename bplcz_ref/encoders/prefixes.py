"""Another way to run the layers of text.py: on trees, in which common beginnings of prompts are computed once.

The 119 prompts are 17 descriptions with 7 endings each, so the prompts of a class begin alike. Computing a
common beginning once is exact. In every block, the state of token l is made of the states of tokens 0..l alone:
the causal mask lets attention see no others, and layer norm, linear maps and the activation work row by row. So,
by induction over the blocks, the state at l is a function of the tokens 0..l: prompts that agree up to l have
one state there, and one slot of a tree can hold it for all of them. A slot's attention runs over the slots of
its own beginning, which are the keys and values that it would see in its prompt, in the same order. By the chain
rule the gradient at a shared slot is the sum over the prompts that pass through it, which is what the tape adds.

Index letters: K classes, n prompts of each, L tokens, S slots of a tree, W width, d features.
"""

from typing import NamedTuple

import autograd.numpy as np
import numpy as onp

from bplcz_ref import nn
from bplcz_ref.encoders import text
from bplcz_ref.layers import Network, in_heads, watched


def encoder(tower: Network) -> Network:  # Packed of (K, n) prompts -> (K, n, d)
    """`tower`, a text encoder of token ids (N, L), on the trees that `pack` makes of them.

    CLIP's tower computes each common beginning once. Any other one, and one that is watched (layers.watching),
    computes each prompt by itself.
    """

    def apply(params, state, tree, *, train, rng=None):
        text.checked(tree.ids[:, : tree.longest], tower.options.get("context", tree.longest))
        if tower.kind == text.KIND and not watched():
            return features(params, tree, tower.options["heads"]), state
        ids = unpack(tree)
        T, state = tower.apply(params, state, onp.reshape(ids, (-1, ids.shape[-1])), train=train, rng=rng)
        return np.reshape(T, (*tree.eot.shape, -1)), state

    return Network(tower.init, apply)


def features(params: dict, tree: "Packed", heads: int) -> np.ndarray:  # (K, n) prompts -> (K, n, d)
    """E_t of every prompt in the trees, each common beginning computed once."""
    x = nn.embedding(params["token_embedding"]["weight"], tree.ids)  # (K, S, W)
    x = x + nn.embedding(params["positional_embedding"], tree.position)
    blocks = params["transformer"]["resblocks"]
    *inner, last = (blocks[str(k)] for k in range(len(blocks)))
    block = text.block(x.shape[-1], heads, mask=tree.seen[:, None])
    for p in inner:
        x, _ = block.apply(p, {}, x, train=True)
    x = block_at(last, x, heads, tree.seen, tree.eot)
    x = nn.layer_norm(x, **params["ln_final"])
    T = np.dot(np.reshape(x, (-1, x.shape[-1])), params["text_projection"])
    return np.reshape(T, (*tree.eot.shape, -1))


def block_at(p: dict, x: np.ndarray, heads: int, seen: np.ndarray, rows: np.ndarray) -> np.ndarray:
    # (K, S, W), bool (K, S, S), ints (K, n) -> (K, n, W)
    """A block at the slots `rows` alone: of the last block nothing else is read, so nothing else is computed."""
    K, n = rows.shape
    width = x.shape[-1]
    attn, mlp = p["attn"], p["mlp"]
    weight, bias = attn["in_proj_weight"], attn["in_proj_bias"]
    h = nn.layer_norm(x, **p["ln_1"])
    q = in_heads(nn.linear(text.take(h, rows), weight[:width], bias[:width]), heads)
    kv = np.reshape(nn.linear(h, weight[width:], bias[width:]), (K, -1, 2, heads, width // heads))
    k, v = np.transpose(kv, (2, 0, 3, 1, 4))
    seen = onp.take_along_axis(seen, rows[:, :, None], axis=1)
    y = np.transpose(nn.attention(q, k, v, mask=seen[:, None]), (0, 2, 1, 3))
    x = text.take(x, rows) + nn.linear(np.reshape(y, (K, n, width)), **attn["out_proj"])
    h = nn.quick_gelu(nn.linear(nn.layer_norm(x, **p["ln_2"]), **mlp["c_fc"]))
    return x + nn.linear(h, **mlp["c_proj"])


# ----------------------------------------------------------------------------------------------- the trees


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

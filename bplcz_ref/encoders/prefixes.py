"""Another way to run the layers of text.py: on trees, in which common beginnings of prompts are computed once.

The 119 prompts are 17 descriptions with 7 endings each, so the prompts of a class begin alike. Computing a
common beginning once is exact: the mask is causal and every other layer works row by row, so, by induction over
the blocks, the state at token l depends on tokens 0..l alone. One slot of a tree holds it for all prompts that
agree up to l; its gradient is the sum over them, which is what the tape adds.

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
        longest = tree.position.max() + 1  # of these classes
        ids = onp.reshape(tree.sequences[..., :longest], (-1, longest))
        if tower.kind == text.KIND and not watched():
            text.checked(ids, tower.options["context"])
            return features(params, tree, tower.options["heads"]), state
        T, state = tower.apply(params, state, ids, train=train, rng=rng)
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
    sequences: onp.ndarray  # (K, n, L) the sequences, each up to its EOT and then 0

    def of(self, classes: onp.ndarray) -> "Packed":
        """The trees of these classes only."""
        return Packed(*(part[classes] for part in self))


def pack(ids: onp.ndarray) -> Packed:  # ints (K, n, L)
    """The prefix tree of each class's n sequences, each up to and with its EOT (its largest id, the first place).

    >>> tree = pack(onp.array([[[8, 3, 4, 9, 0, 0], [8, 3, 5, 5, 9, 7]]]))
    >>> tree.ids.tolist(), tree.position.tolist(), tree.eot.tolist()
    ([[8, 3, 4, 9, 5, 5, 9]], [[0, 1, 2, 3, 2, 3, 4]], [[3, 6]])
    >>> tree.seen[0, 4].astype(int).tolist()  # the first 5 comes after 8 and 3, not after 4
    [1, 1, 0, 0, 1, 0, 0]
    >>> tree.sequences.tolist()
    [[[8, 3, 4, 9, 0], [8, 3, 5, 5, 9]]]
    """
    ids = onp.asarray(ids)
    if ids.ndim != 3 or ids.dtype.kind not in "iu" or 0 in ids.shape:
        raise ValueError(f"token ids: found {ids.dtype} of shape {ids.shape}, expected integers (K, n, L)")
    lengths = ids.argmax(axis=2) + 1
    rows = [[tuple(row[: row.index(max(row)) + 1]) for row in sequences] for sequences in ids.tolist()]
    trees = []  # of each class {beginning: its slot}, in the order in which the beginnings come
    for sequences in rows:
        beginnings = (sequence[: n + 1] for sequence in sequences for n in range(len(sequence)))
        trees.append({beginning: slot for slot, beginning in enumerate(dict.fromkeys(beginnings))})
    K, S, L = len(ids), max(map(len, trees)), lengths.max()
    packed = Packed(
        ids=onp.zeros((K, S), int),
        position=onp.zeros((K, S), int),
        seen=onp.tile(onp.eye(S, dtype=bool), (K, 1, 1)),
        eot=onp.array([[tree[s] for s in sequences] for tree, sequences in zip(trees, rows, strict=True)]),
        sequences=onp.where(onp.arange(L) < lengths[:, :, None], ids[:, :, :L], 0),
    )
    for k, tree in enumerate(trees):
        for beginning, slot in tree.items():
            packed.ids[k, slot], packed.position[k, slot] = beginning[-1], len(beginning) - 1
            packed.seen[k, slot, [tree[beginning[: n + 1]] for n in range(len(beginning))]] = True
    return packed

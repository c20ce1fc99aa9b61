"""Prompts, tokens, the two encoders and the training of Fig. 1 in their plainest form: joints between operations.

Like the formulas of ops.py these run on Decimals and on floats, and they ask the table `f` for every operation
that they join. The encoders return a tap after each sub-layer, in the order of computation. The options of a
function are for wrong readings; the right reading takes their defaults.

The kit keeps this chain of its own although the package has `equations.objective`: an oracle that calls the code
which it judges proves nothing. reference.py holds the package's networks to the same cases.
"""

import functools
import html
import unicodedata
from collections.abc import Callable
from typing import Any

import numpy

from bplcz_ref import paper
from bplcz_ref.conform import exact as xp
from bplcz_ref.conform.exact import Array
from bplcz_ref.conform.kit import MERGES


def varied(function: Callable, **options: Any) -> Callable:
    """A function of a table with some of its options set: a wrong reading."""
    return lambda f, **inputs: function(f, **inputs, **options)


# ---------------------------------------------------------------- II-B1: text


def filled(description: str, words: str) -> str:
    """The template of a prompt, filled in."""
    return f"a photo of a {description} with {words} bands"


def prompt(f: dict, class_index: int, group: str) -> dict:
    """ "a photo of a {class} with {group} bands", {class} its description

    Only classes that the paper itself describes are asked for.
    """
    identity, _ = paper.CLASSES[int(class_index)]
    return {"text": filled(paper.DESCRIPTIONS[identity], paper.GROUPS[group]["text"])}


def pre_tokens(
    f: dict, text: str, lower: bool = True, numbers: int = 1, contractions: bool = True, unescape: int = 2
) -> dict:
    """entities twice, lower case, contractions, letters, ONE number, others

    Whitespace separates pieces: contractions, runs of letters, single numbers, runs of anything else.
    """
    for _ in range(unescape):
        text = html.unescape(text)
    text = text.lower() if lower else text
    pieces, at = [], 0
    while at < len(text):
        if text[at].isspace():
            at += 1
            continue
        short = [s for s in ("'s", "'t", "'re", "'ve", "'m", "'ll", "'d") if text[at:].startswith(s)]
        if short and contractions:
            end = at + len(short[0])
        else:
            end, longest = at + 1, numbers if _kind(text[at]) == "N" else len(text)
            while end < len(text) and _kind(text[end]) == _kind(text[at]) and end - at < longest:
                end += 1
        pieces.append(text[at:end])
        at = end
    return {"pieces": pieces}


def _kind(character):
    """L letter, N number, O other; a space for whitespace."""
    if character.isspace():
        return " "
    category = unicodedata.category(character)[0]
    return category if category in "LN" else "O"


@functools.cache
def _vocabulary():
    """(byte -> character, pair -> rank, symbol -> id, SOT, EOT) of the kit's merges."""
    own = [*range(33, 127), *range(161, 173), *range(174, 256)]
    table, spare = {b: chr(b) for b in own}, 256
    for b in range(256):
        if b not in table:
            table[b], spare = chr(spare), spare + 1
    lines = MERGES.read_text(encoding="utf-8").split("\n")[1:]
    pairs = [tuple(line.split(" ")) for line in lines if line]
    symbols = [*table.values(), *(c + "</w>" for c in table.values()), *("".join(p) for p in pairs)]
    ranks, ids = {p: r for r, p in enumerate(pairs)}, {s: i for i, s in enumerate(symbols)}
    return table, ranks, ids, len(symbols), len(symbols) + 1


def _merged(symbols, ranks, by_rank):
    """Merge pairs while any has a rank: the lowest rank first, or (wrongly) the first from the left."""
    while True:
        ranked = [p for p in zip(symbols, symbols[1:], strict=False) if p in ranks]
        if not ranked:
            return symbols
        a, b = min(ranked, key=ranks.get) if by_rank else ranked[0]
        out, at = [], 0
        while at < len(symbols):
            pair = symbols[at : at + 2] == [a, b]
            out.append(a + b if pair else symbols[at])
            at += 2 if pair else 1
        symbols = out


def tokenize(
    f: dict,
    text: str,
    context: int,
    truncate: int,
    end: str = "</w>",
    by_rank: bool = True,
    eot: bool = True,
    fill_eot: bool = False,
    pool_last: bool = False,
    **pieces: Any,
) -> dict:
    """[SOT] byte pairs, lowest rank first, </w> at a piece's end [EOT] 0 0 ...; end: EOT's place

    A text that does not fit into `context` is cut if `truncate` is 1; otherwise the answer is {"refused": 1}.
    """
    table, ranks, ids, SOT, EOT = _vocabulary()
    row = [SOT]
    for piece in pre_tokens(f, text, **pieces)["pieces"]:
        characters = [table[b] for b in piece.encode()]
        characters[-1] += end
        row += [ids[s] for s in _merged(characters, ranks, by_rank)]
    row += [EOT] if eot else []
    if len(row) > int(context):
        if not int(truncate):
            return {"refused": 1}
        row = row[: int(context) - 1] + [EOT]
    last = len(row) - 1  # the place of EOT
    row += [EOT if fill_eot else 0] * (int(context) - len(row))
    return {"ids": row, "end": int(context) - 1 if pool_last else last}


# ---------------------------------------------------------------- Eqs. (1), (2): the encoders


def under(w: dict, prefix: str) -> dict:
    """The weights below a name, with the rest of their names."""
    return {name[len(prefix) + 1 :]: x for name, x in w.items() if name.startswith(prefix + ".")}


def _recorder(taps, prefix=""):
    """tap(name, y) keeps y under its name and returns it."""

    def tap(name, y):
        taps[prefix + name] = y
        return y

    return tap


def over_pixels(x: Array) -> Array:  # (B, H, W, C) -> (B, C)
    return xp.mean(x, (1, 2))


def image_encoder(
    f: dict, x: Array, pooled: Callable = over_pixels, order: tuple = ("bn", "relu"), **w: Array
) -> dict:
    """I_i = E_m(X_i), EB-CNN's branch in training mode

    Eq. (1): conv-BN-ReLU twice, max-pool, twice, max-pool, twice, mean, linear.
    """
    taps: dict = {}
    tap = _recorder(taps)
    for k in range(1, 7):
        x = tap(f"conv{k}", f["conv2d"](f, x=x, weight=w[f"conv{k}.weight"], stride=1, padding=1)["y"])
        bias = w[f"bn{k}.bias"]
        weights = {"weight": w[f"bn{k}.weight"], "bias": bias}
        weights |= {"running_mean": bias * 0, "running_var": bias * 0 + 1}  # training mode does not read them
        for layer in order:
            if layer == "bn":
                x = tap(f"bn{k}", f["batch_norm"](f, x=x, train=1, **weights)["y"])
            else:
                x = tap(f"relu{k}", f["relu"](f, x=x)["y"])
        if k in (2, 4):
            x = tap(f"pool{k}", f["max_pool2d"](f, x=x)["y"])
    x = tap("mean", pooled(x))
    tap("I_i", f["linear"](f, x=x, weight=w["proj.weight"], bias=w["proj.bias"])["y"])
    return taps


def pre_norm(f: dict, x: Array, heads: int, w: dict, tap: Callable) -> Array:
    """One block of CLIP's text transformer: x + attention(LN(x)), then x + c_proj(QuickGELU(c_fc(LN(x))))."""
    x = tap("residual_1", x + self_attention(f, tap("ln_1", norm(f, x, w, "ln_1")), heads, w, tap))
    return tap("residual_2", x + mlp(f, tap("ln_2", norm(f, x, w, "ln_2")), w, tap))


def norm(f: dict, x: Array, w: dict, name: str) -> Array:
    return f["layer_norm"](f, x=x, weight=w[f"{name}.weight"], bias=w[f"{name}.bias"])["y"]


def self_attention(f: dict, x: Array, heads: int, w: dict, tap: Callable) -> Array:
    weights = {"in_proj_weight": w["attn.in_proj_weight"], "in_proj_bias": w["attn.in_proj_bias"]}
    weights |= {"out_weight": w["attn.out_proj.weight"], "out_bias": w["attn.out_proj.bias"]}
    return tap("attn", f["attention"](f, x=x, heads=heads, **weights)["y"])


def mlp(f: dict, x: Array, w: dict, tap: Callable) -> Array:
    x = f["linear"](f, x=x, weight=w["mlp.c_fc.weight"], bias=w["mlp.c_fc.bias"])["y"]
    x = tap("gelu", f["quick_gelu"](f, x=x)["y"])
    return tap("mlp", f["linear"](f, x=x, weight=w["mlp.c_proj.weight"], bias=w["mlp.c_proj.bias"])["y"])


def at_end(ids: numpy.ndarray) -> numpy.ndarray:  # (N, L) -> (N,)
    """The first place of each row's largest id, which is EOT."""
    return numpy.argmax(ids, axis=1)


def text_encoder(
    f: dict,
    ids: numpy.ndarray,
    heads: int,
    block: Callable = pre_norm,
    pooled: Callable = at_end,
    positions: bool = True,
    final: bool = True,
    **w: Array,
) -> dict:
    """T_i = E_t(t_i), CLIP's text transformer, the row of EOT

    Eq. (2): ids (N, L), L at most the number of positions.
    """
    ids = numpy.asarray(ids)
    taps: dict = {}
    tap = _recorder(taps)
    x = w["token_embedding.weight"][ids]
    if positions:
        x = x + w["positional_embedding"][: ids.shape[1]]
    tap("embedding", x)
    blocks = under(w, "transformer.resblocks")
    for k in range(len({name.split(".")[0] for name in blocks})):
        x = block(f, x, heads, under(blocks, str(k)), _recorder(taps, f"block{k}."))
    x = tap("ln_final", norm(f, x, w, "ln_final") if final else x)
    x = tap("at_eot", x[numpy.arange(len(ids)), pooled(ids)])
    tap("T_i", x @ w["text_projection"])
    return taps


# ---------------------------------------------------------------- Fig. 1


def figure_1(
    f: dict,
    w: dict,
    X: dict,
    labels: numpy.ndarray,
    ids: numpy.ndarray,
    alpha: Array,
    beta: Array,
    heads: int,
) -> tuple:
    """(L, every symbol of Fig. 1): bands X (group -> B H W C) and labels (B,) to the loss, by the weights w."""
    classes, place = numpy.unique(labels, return_inverse=True)  # T_i of each class is worked out once
    n, L, groups = len(paper.GROUPS), ids.shape[2], list(paper.GROUPS)
    taps = {}
    for g in groups:
        taps[f"I_{g}"] = f["image_encoder"](f, x=X[f"X_{g}"], **under(w, f"branches.{g}"))["I_i"]
    T = f["text_encoder"](f, ids=ids[classes].reshape(-1, L), heads=heads, **under(w, "text"))["T_i"]
    for i, g in enumerate(groups):
        taps[f"T_{g}"] = T[place * n + i]
    for g in groups:
        S = f["similarity"](f, I_i=taps[f"I_{g}"], T_i=taps[f"T_{g}"])
        taps[f"S_{g}"], taps[f"S_hat_{g}"] = S["S_i"], S["S_hat_i"]
    stacked = lambda symbol: xp.stack([taps[f"{symbol}_{g}"] for g in groups])
    for symbol in ("S", "S_hat"):
        taps[symbol] = f["fuse"](f, S_groups=stacked(symbol), alpha=alpha)["S"]
    taps |= f["supervised_matrix"](f, y=labels)
    taps |= f["contrastive_loss"](f, S=taps["S"], W=taps["W"])
    taps |= f["concat"](f, I_groups=stacked("I"))
    taps["c_hat"] = f["linear"](f, x=taps["I"], **under(w, "classifier"))["y"]
    taps |= f["cross_entropy"](f, c_hat=taps["c_hat"], c=labels)
    taps |= f["total_loss"](f, L_cls=taps["L_cls"], L_con=taps["L_con"], beta=beta)
    return taps["L"], taps


def training(
    f: dict,
    sen1: Array,
    sen2: Array,
    y: numpy.ndarray,
    ids: numpy.ndarray,
    lr: Array,
    momentum: Array,
    weight_decay: Array,
    alpha: Array,
    beta: Array,
    heads: int,
    decays: Callable = lambda x: True,
    forget: bool = False,
    accumulate: bool = False,
    **w: Array,
) -> dict:
    """all of Fig. 1 on one batch, its gradients, and three steps of SGD

    Every symbol and gradient at the first step, then L at each step and the parameters after the last.
    """
    X = f["band_groups"](f, sen1=sen1, sen2=sen2)
    labels, ids = numpy.asarray(y), numpy.asarray(ids)
    loss = lambda p: figure_1(f, p, X, labels, ids, alpha, beta, heads)
    out: dict = {}
    velocity: dict = dict.fromkeys(w)
    before: dict = {}
    for t, rate in enumerate(numpy.asarray(lr).tolist()):
        L, taps, grads = xp.differentiate(loss, w)
        if t == 0:
            out = taps | {f"grad.{name}": g for name, g in grads.items()}
        else:
            out[f"L_step{t + 1}"] = L
        if accumulate:
            grads = {name: g + before[name] if before else g for name, g in grads.items()}
            before = grads
        for name, g in grads.items():
            settings = [xp.like(g, x) for x in (rate, momentum, weight_decay if decays(g) else 0)]
            w[name], velocity[name] = f["sgd_step"](w[name], None if forget else velocity[name], g, *settings)
    return out | {f"after.{name}": x for name, x in w.items()}


# ---------------------------------------------------------------- which operation makes a tap, and from what

_GROUPS = tuple(paper.GROUPS)
_CHAIN = {  # symbol of Fig. 1 -> its operation and what it is computed from
    **{f"I_{g}": ("image_encoder", ()) for g in _GROUPS},
    **{f"T_{g}": ("text_encoder", ()) for g in _GROUPS},
    **{f"S_{g}": ("similarity", (f"I_{g}", f"T_{g}")) for g in _GROUPS},
    **{f"S_hat_{g}": ("similarity", (f"I_{g}", f"T_{g}")) for g in _GROUPS},
    "S": ("fuse", tuple(f"S_{g}" for g in _GROUPS)),
    "S_hat": ("fuse", tuple(f"S_hat_{g}" for g in _GROUPS)),
    "W": ("supervised_matrix", ()),
    "L_i2t": ("contrastive_loss", ("S", "W")),
    "L_t2i": ("contrastive_loss", ("S_hat", "W")),
    "L_con": ("contrastive_loss", ("L_i2t", "L_t2i")),
    "I": ("concat", tuple(f"I_{g}" for g in _GROUPS)),
    "c_hat": ("linear", ("I",)),
    "L_cls": ("cross_entropy", ("c_hat",)),
    "L": ("total_loss", ("L_cls", "L_con")),
}


def origin(output: str, before: tuple) -> tuple:
    """(operation, names of outputs): what computes an output of `training`, and from which of those before it."""
    if output.startswith("grad."):
        return "training", tuple(o for o in before if not o.startswith("grad."))
    if output in _CHAIN:
        return _CHAIN[output]
    return "sgd", tuple(o for o in before if o in _CHAIN or o.startswith("grad."))

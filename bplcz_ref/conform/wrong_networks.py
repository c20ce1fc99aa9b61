"""Wrong readings of the encoders, of training and of inference.

A function has the signature of the formula that it replaces.
"""

from collections.abc import Callable
from typing import Any

import numpy

from bplcz_ref.conform import exact as xp
from bplcz_ref.conform import networks
from bplcz_ref.conform import ops as right
from bplcz_ref.conform.exact import Array
from bplcz_ref.conform.networks import varied
from bplcz_ref.conform.wrong_layers import attend

# ---------------------------------------------------------------- encoders


def post_norm(f: dict, x: Array, heads: int, w: dict, tap: Callable) -> Array:
    """The norm after the sum, as in the first transformers."""
    tap("ln_1", x)
    x = tap("residual_1", networks.norm(f, x + networks.self_attention(f, x, heads, w, tap), w, "ln_1"))
    tap("ln_2", x)
    return tap("residual_2", networks.norm(f, x + networks.mlp(f, x, w, tap), w, "ln_2"))


def residual_of_norm(f: dict, x: Array, heads: int, w: dict, tap: Callable) -> Array:
    """What is added to is the normalised x."""
    x = tap("ln_1", networks.norm(f, x, w, "ln_1"))
    x = tap("residual_1", x + networks.self_attention(f, x, heads, w, tap))
    x = tap("ln_2", networks.norm(f, x, w, "ln_2"))
    return tap("residual_2", x + networks.mlp(f, x, w, tap))


def block(attended: bool = True, first: bool = True, second: bool = True, parallel: bool = False, **swap: str):
    """CLIP's block without one of its sums, or with both branches fed by x, or with weights of other names."""

    def changed(f, x, heads, w, tap):
        w = w | {swap[n.split(".")[0]] + n[4:]: v for n, v in w.items() if n.split(".")[0] in swap}
        branch = networks.self_attention(f, tap("ln_1", networks.norm(f, x, w, "ln_1")), heads, w, tap)
        y = tap("residual_1", (x + branch if attended else x) if first else branch)
        branch = networks.mlp(f, tap("ln_2", networks.norm(f, x if parallel else y, w, "ln_2")), w, tap)
        return tap("residual_2", y + branch if second else branch)

    return changed


def unless_zero(f: dict, ids: numpy.ndarray, **rest: Array) -> dict:
    """Keys of id 0 are masked as padding."""
    real = (numpy.asarray(ids) != 0).astype(int)[:, None, None, :]
    weigh = lambda scores, seen: right.masked_softmax(scores, seen * real)
    return networks.text_encoder(f | {"attention": attend(weigh=weigh)}, ids, **rest)


def without_row(row: int) -> Callable:
    """The embedding of one id has no gradient, as a framework's padding index."""

    def embedded(table, ids):
        own = (ids == row)[..., None]
        still = xp.without_history(table)[ids]
        return table[ids] * xp.mask(~own, table) + still * xp.mask(own, table)

    return embedded


def _last(ids: numpy.ndarray) -> numpy.ndarray:
    return numpy.full(len(ids), ids.shape[1] - 1)


def _last_eot(ids: numpy.ndarray) -> numpy.ndarray:
    return ids.shape[1] - 1 - numpy.argmax(ids[:, ::-1], axis=1)


def _before_first_zero(ids: numpy.ndarray) -> numpy.ndarray:
    return numpy.where((ids == 0).any(1), numpy.argmax(ids == 0, axis=1), ids.shape[1]) - 1


summed = lambda x: xp.sum(x, (1, 2))
text = lambda **options: varied(networks.text_encoder, **options)
image = lambda **options: varied(networks.image_encoder, **options)
at = lambda places: text(pooled=networks.rows_at(places))


def largest(x: Array) -> Array:
    """The largest over rows and columns, of which the first has the gradient."""
    flat = xp.reshape(x, (x.shape[0], x.shape[1] * x.shape[2], x.shape[3]))
    first = numpy.argmax(xp.value(flat), axis=1)
    return flat[numpy.arange(x.shape[0])[:, None], first, numpy.arange(x.shape[3])[None]]


ENCODERS = {
    "text_encoder": {
        "norm after the residual sum": text(block=post_norm),
        "residual taken after the norm": text(block=residual_of_norm),
        "no sum around the attention": text(block=block(first=False)),
        "no sum around the MLP": text(block=block(second=False)),
        "attention left out": text(block=block(attended=False)),
        "attention and MLP side by side": text(block=block(parallel=True)),
        "one norm for both branches": text(block=block(ln_1="ln_2")),
        "the last position pooled": at(_last),
        "the first position pooled": at(lambda ids: numpy.zeros(len(ids), int)),
        "the token before EOT pooled": at(lambda ids: numpy.argmax(ids, axis=1) - 1),
        "the last EOT pooled": at(_last_eot),
        "the token before the first id 0 pooled": at(_before_first_zero),
        "as many tokens as ids other than 0": at(lambda ids: numpy.sum(ids != 0, axis=1) - 1),
        "the mean over tokens": text(pooled=lambda x, ids: xp.mean(x, 1)),
        "id 0 masked as padding": unless_zero,
        "id 0 without gradient, as a padding index": text(embedded=without_row(0)),
        "positions left out": text(positions=lambda table, L: table[:L] * 0),
        "positions counted from 1": text(positions=lambda table, L: table[1 : L + 1]),
        "positions from the end": text(positions=lambda table, L: table[:L][::-1]),
        "final norm left out": text(final=False),
        "blocks in reverse order": text(order=lambda r: list(r)[::-1]),
        "the last block left out": text(order=lambda r: list(r)[:-1]),
        "one block's weights for all": text(order=lambda r: [0 for _ in r]),
    },
    "image_encoder": {
        "sum for the mean over rows and columns": image(pooled=summed),
        "largest for the mean over rows and columns": image(pooled=largest),
        "ReLU before batch norm": image(order=("relu", "bn")),
        "no batch norm": image(order=("relu",)),
        "no ReLU after the last batch norm": image(rectified=range(1, 6)),
        "a ReLU only after each second convolution": image(rectified=range(2, 7, 2)),
        "no second max-pool": image(pools=(2,)),
        "max-pool one convolution early": image(pools=(1, 3)),
        "batch norm in evaluation mode": image(train=0),
    },
}

# ---------------------------------------------------------------- training and inference


def _is_norm(name: str) -> bool:
    return any(part[:2] in ("bn", "ln") for part in name.split("."))


def decayed(which: Callable) -> Callable:
    """training in which `which` of (name, w) decay."""
    return trained(decays=lambda name, w, g: int(which(name, w)))


def trained(**changes: Any) -> Callable:
    return varied(networks.training, how=networks.Steps(**changes))


def touched(name: str, w: Array, g: Array) -> numpy.ndarray | int:
    """1 for rows with a gradient, as of a sparse embedding.

    A vector has no rows: some of its gradients are 0 except for rounding, in which programs differ. In exact
    arithmetic these are 0, and the near misses of kit 2 count them as rows.
    """
    v = numpy.abs(xp.value(g).astype(float))
    if v.ndim == 1 and not isinstance(g, xp.Exact):
        return 1
    largest = v.reshape(len(v), -1).max(1).reshape(-1, *[1] * (v.ndim - 1))
    return numpy.broadcast_to(largest > 0, v.shape).astype(int)


def added_up(grads: dict, before: dict, B: int) -> dict:
    return {name: g + before[name] if before else g for name, g in grads.items()}


def clipped(grads: dict, before: dict, B: int) -> dict:
    """All gradients together at most of length 1."""
    square = sum(xp.sum(g * g) for g in grads.values())
    long = float(xp.value(square)) > 1
    return {name: g / xp.sqrt(square) if long else g for name, g in grads.items()}


def divided(grads: dict, before: dict, B: int) -> dict:
    return {name: g / B for name, g in grads.items()}


def stopped(images: bool, texts: bool) -> Callable:
    stop = lambda x, asked: xp.without_history(x) if asked else x
    return varied(networks.training, contrasted=lambda I_i, T_i: (stop(I_i, images), stop(T_i, texts)))


def in_evaluation(f: dict, **i: Array) -> dict:
    return networks.training(f | {"image_encoder": image(train=0)}, **i)


BANDS_FIRST = [4, 5, 6, 0, 1, 2, 3]  # the order of II-A: the SAR groups, then the others

TRAINING = {
    "training": {
        "no decay for biases and norms": (decayed(lambda name, w: w.ndim > 1), "decayed", "weights"),
        "no decay for norms": decayed(lambda name, w: not _is_norm(name)),
        "no decay for biases": decayed(lambda name, w: not name.endswith("bias")),
        "no decay for embeddings and positions": decayed(lambda name, w: "embedding" not in name),
        "no decay for the text tower": decayed(lambda name, w: not name.startswith("text.")),
        "no decay for rows without gradient": trained(decays=touched),
        "the text tower frozen": trained(moves=lambda name: not name.startswith("text.")),
        "the text embedding frozen": trained(moves=lambda name: "token_embedding" not in name),
        "velocity forgotten between steps": trained(forget=True),
        "gradients added up over the steps": trained(gradients=added_up),
        "gradients clipped to norm 1": trained(gradients=clipped),
        "gradients divided by B once more": trained(gradients=divided),
        "the first rate kept": trained(rate=lambda lr, t: lr[0]),
        "the rate of the step before": trained(rate=lambda lr, t: lr[max(t - 1, 0)]),
        "alpha 0.25 built in": varied(networks.training, alpha=0.25),
        "beta 2 built in": varied(networks.training, beta=2.0),
        "momentum 0.9 built in": varied(networks.training, momentum=0.9),
        "no gradient from L_con to the images": stopped(images=True, texts=False),
        "no gradient from L_con to the texts": stopped(images=False, texts=True),
        "batch norm in evaluation mode": in_evaluation,
        "prompts of the next class": varied(networks.training, prompts=lambda ids: numpy.roll(ids, -1, axis=0)),
        "prompts in the order of II-A, SAR first": varied(
            networks.training, prompts=lambda ids: ids[:, numpy.argsort(BANDS_FIRST)]
        ),
    },
    "inference": {
        "batch norm in training mode": varied(networks.inference, train=1),
        "running variance begins at 0": varied(networks.inference, start=0.0),
        "only the last batch remembered": lambda f, batches, **i: networks.inference(f, batches[-1:], **i),
        "the images counted among the batches": lambda f, batches, x, **i: networks.inference(
            f, xp.concat([batches, xp.reshape(x, (1, *x.shape))], 0), x, **i
        ),
    },
}

NETWORKS = ENCODERS | TRAINING

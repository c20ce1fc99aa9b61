"""How the tests of kernels compare a layer with its definition, and definitions of what kernels fuse."""

import autograd.numpy as anp
import numpy as np
from autograd.core import make_vjp

from bplcz_ref import nn
from bplcz_ref.kernels import dense_block as dense_blocks
from bplcz_ref.kernels import norm, transformer
from bplcz_ref.layers import in_heads


def by_hand(f, args, g):
    """[value of f, the gradient of sum(f * g) by every argument, each taken alone]."""
    alone = [make_vjp(lambda a, i=i: f(*args[:i], a, *args[i + 1 :]), args[i])[0](g) for i in range(len(args))]
    return [f(*args), *alone]


def largest(a):
    """The largest entry's size; 0 of none."""
    return np.max(abs(a), initial=0)


def gap(f, definition, *args, seed=1):
    """The largest difference in value and gradients, each relative to the largest entry of the definition's."""
    g = np.random.default_rng(seed).standard_normal(np.shape(definition(*args)))[()]
    worst = 0.0
    for ours, theirs in zip(by_hand(f, args, g), by_hand(definition, args, g), strict=True):
        if np.shape(ours) != np.shape(theirs):
            return np.inf
        worst = max(worst, largest(ours - theirs) / (largest(theirs) or 1.0))
    return worst


@nn.runs(norm.batch_norm)
def batch_norm(x, weight, bias, state, *, train, relu=False, plus=None, **options):
    y, state = nn.batch_norm.definition(x, weight, bias, state, train=train, **options)
    y = y if plus is None else y + plus
    return (nn.relu.definition(y) if relu else y), state


@nn.runs(dense_blocks.dense_block)
def dense_block(x, layers, states):
    new = []
    for p, s in zip(layers, states, strict=True):
        y, norm1 = batch_norm.definition(x, **p["norm1"], state=s["norm1"], train=True, relu=True)
        y = nn.conv2d.definition(y, **p["conv1"])
        y, norm2 = batch_norm.definition(y, **p["norm2"], state=s["norm2"], train=True, relu=True)
        x = anp.concatenate([x, nn.conv2d.definition(y, **p["conv2"], padding=1)], axis=-1)
        new.append({"norm1": norm1, "norm2": norm2})
    return x, new


@nn.runs(transformer.transformer_block)
def transformer_block(x, norm1, qkv, out, norm2, up, down, *, heads, activation, keep=None, **seen):
    linear, layer_norm = nn.linear.definition, nn.layer_norm.definition
    keep = keep or (1.0, 1.0, 1.0)
    q, k, v = (in_heads(y, heads) for y in anp.split(linear(layer_norm(x, *norm1), *qkv), 3, axis=-1))
    y = anp.transpose(nn.attention.definition(q, k, v, **seen), (0, 2, 1, 3))
    x = x + keep[0] * linear(anp.reshape(y, (*x.shape[:2], -1)), *out)
    y = keep[1] * getattr(nn, activation).definition(linear(layer_norm(x, *norm2), *up))
    return x + keep[2] * linear(y, *down)

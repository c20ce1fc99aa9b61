"""Fused kernels and their definitions, which are compositions of plain layers."""

import autograd.numpy as np

from bplcz_ref import nn
from bplcz_ref.kernels.batch_norm import batch_norm as batch_norm_kernel
from bplcz_ref.kernels.batch_norm_pool import batch_norm_relu_pool as batch_norm_relu_pool_kernel
from bplcz_ref.kernels.dense_block import dense_block as dense_block_kernel
from bplcz_ref.kernels.transformer import transformer_block as transformer_block_kernel
from bplcz_ref.layers import in_heads


@nn.runs(batch_norm_kernel)
def batch_norm(x, weight, bias, state, *, train, relu=False, plus=None, **options):
    y, state = nn.batch_norm.definition(x, weight, bias, state, train=train, **options)
    y = y if plus is None else y + plus
    return (nn.relu.definition(y) if relu else y), state


@nn.runs(batch_norm_relu_pool_kernel)
def batch_norm_relu_pool(x, weight, bias, state, *, train):
    y, state = batch_norm.definition(x, weight, bias, state, train=train, relu=True)
    return nn.max_pool2d.definition(y, 2), state


@nn.runs(dense_block_kernel)
def dense_block(x, layers, states, *, train):
    new = []
    for p, s in zip(layers, states, strict=True):
        y, norm1 = batch_norm.definition(x, **p["norm1"], state=s["norm1"], train=train, relu=True)
        y = nn.conv2d(y, **p["conv1"])
        y, norm2 = batch_norm.definition(y, **p["norm2"], state=s["norm2"], train=train, relu=True)
        x = np.concatenate([x, nn.conv2d(y, **p["conv2"], padding=1)], axis=-1)
        new.append({"norm1": norm1, "norm2": norm2})
    return x, new


@nn.runs(transformer_block_kernel)
def transformer_block(x, norm1, qkv, out, norm2, up, down, *, heads, activation, keep=None, **seen):
    keep = keep or (1.0, 1.0, 1.0)
    q, k, v = (in_heads(y, heads) for y in np.split(nn.linear(nn.layer_norm(x, *norm1), *qkv), 3, axis=-1))
    y = np.transpose(nn.attention.definition(q, k, v, **seen), (0, 2, 1, 3))
    x = x + keep[0] * nn.linear(np.reshape(y, (*x.shape[:2], -1)), *out)
    y = keep[1] * getattr(nn, activation)(nn.linear(nn.layer_norm(x, *norm2), *up))
    return x + keep[2] * nn.linear(y, *down)

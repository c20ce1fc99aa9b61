"""The cases of test_kernels.py and the convolutions of test_kernels_image.py beside PyTorch, in float64."""

import numpy as np
import pytest
from autograd.core import make_vjp
from test_kernels import CASES, draw
from test_kernels import batch_norm as our_batch_norm
from test_kernels_image import CONVOLUTIONS, case_of

from bplcz_ref import nn

torch = pytest.importorskip("torch")
F = torch.nn.functional
EXACT = 1e-12  # float64, relative to the largest entry


def channels_last(f):
    """A layer of PyTorch, which takes images as (B, C, H, W), on images as we have them."""
    return lambda x, *others, **options: f(x.movedim(-1, 1), *others, **options).movedim(1, -1)


def layer_norm(x, w, b, eps=1e-5):
    return F.layer_norm(x, w.shape, w, b, eps)


def attention(*qkv, causal=False, mask=None):
    seen = None if mask is None else torch.tensor(np.tril(mask) if causal else mask)
    return F.scaled_dot_product_attention(*qkv, attn_mask=seen, is_causal=causal and mask is None)


def batch_norm(x, w, b, state, *, train, relu, plus):
    running = (torch.tensor(state[key]) for key in ("running_mean", "running_var"))
    y = channels_last(F.batch_norm)(x, *running, w, b, training=train)
    y = y if plus is None else y + plus
    return F.relu(y) if relu else y, None


THEIRS = {
    nn.linear: F.linear,
    nn.layer_norm: layer_norm,
    nn.relu: F.relu,
    nn.gelu: F.gelu,
    nn.quick_gelu: lambda x: x * torch.sigmoid(1.702 * x),
    nn.attention: attention,
    nn.conv2d: channels_last(F.conv2d),
    nn.max_pool2d: channels_last(F.max_pool2d),
    nn.avg_pool2d: channels_last(F.avg_pool2d),
    nn.spatial_mean: lambda x: x.mean((1, 2)),
    our_batch_norm: batch_norm,
}


def compare(ours, theirs, args, exact=EXACT):
    """The value, and the gradient by every argument, relative to the largest entry of PyTorch's."""
    tensors = [torch.tensor(a, requires_grad=True) for a in args]
    expected = theirs(*tensors)
    g = np.random.default_rng(1).standard_normal(expected.shape)
    expected.backward(torch.tensor(g))
    vjp, y = make_vjp(lambda a: ours(*a), tuple(args))
    for mine, other in zip((y, *vjp(g)), (expected, *(t.grad for t in tensors)), strict=True):
        other = other.detach().numpy()
        assert np.shape(mine) == other.shape
        assert np.abs(mine - other).max(initial=0) <= exact * np.abs(other).max(initial=1e-30)


@pytest.mark.parametrize("name", [name for name, (_, layer, _) in CASES.items() if layer in THEIRS])
def test_kernels_equal_pytorch(name):
    call, layer, shapes = CASES[name]
    args = draw(shapes)
    if name.startswith(("relu", "max_pool2d")):
        args = [np.round(a) for a in args]  # zeros, and ties, whose first maximum takes the gradient
    exact = 10 * EXACT if name == "batch_norm, two values" else EXACT  # there the gradient at x nearly cancels
    compare(lambda *a: call(layer, *a), lambda *a: call(THEIRS[layer], *a), args, exact)


@pytest.mark.parametrize("case", CONVOLUTIONS, ids=str)
def test_conv2d_equals_pytorch(case):
    args, options = case_of(*case)
    compare(lambda *a: nn.conv2d(*a, **options), lambda *a: THEIRS[nn.conv2d](*a, **options), args)

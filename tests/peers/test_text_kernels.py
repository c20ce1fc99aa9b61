"""The transformer's layers beside PyTorch's, value and every gradient, in float64."""

import numpy as np
import pytest
from autograd.core import make_vjp

from bplcz_ref import nn

torch = pytest.importorskip("torch")
F = torch.nn.functional

EXACT = 1e-12
IDS = np.array([[3, 0, 3, 8], [8, 8, 1, 3]])
MASK = np.tri(5, 6, 1, dtype=bool)

# name: ours, PyTorch's, shapes
PAIRS = {
    "linear": (nn.linear, F.linear, [(3, 5, 7), (4, 7), (4,)]),
    "embedding": (lambda t: nn.embedding(t, IDS), lambda t: F.embedding(torch.tensor(IDS), t), [(9, 5)]),
    "layer_norm": (
        lambda x, w, b: nn.layer_norm(x, w, b, eps=1e-3),
        lambda x, w, b: F.layer_norm(x, w.shape, w, b, eps=1e-3),
        [(3, 5, 7), (7,), (7,)],
    ),
    "gelu": (nn.gelu, F.gelu, [(50, 7)]),
    "quick_gelu": (nn.quick_gelu, lambda x: x * torch.sigmoid(1.702 * x), [(50, 7)]),
    "attention": (
        nn.attention,
        F.scaled_dot_product_attention,
        [(2, 3, 5, 4), (2, 3, 6, 4), (2, 3, 6, 2)],
    ),
    "attention, causal": (
        lambda *a: nn.attention(*a, causal=True),
        lambda *a: F.scaled_dot_product_attention(*a, is_causal=True),
        [(2, 3, 6, 4)] * 3,
    ),
    "attention, mask": (
        lambda *a: nn.attention(*a, mask=MASK),
        lambda *a: F.scaled_dot_product_attention(*a, attn_mask=torch.tensor(MASK)),
        [(2, 3, 5, 4), (2, 3, 6, 4), (2, 3, 6, 4)],
    ),
    "attention, long": (nn.attention, F.scaled_dot_product_attention, [(3, 1024, 8)] * 3),
}


@pytest.mark.parametrize("name", PAIRS)
def test_equals_pytorch(name):
    ours, theirs, shapes = PAIRS[name]
    r = np.random.default_rng(0)
    args = [2 * r.standard_normal(s) for s in shapes]
    tensors = [torch.tensor(a, requires_grad=True) for a in args]
    expected = theirs(*tensors)
    g = r.standard_normal(expected.shape)
    expected.backward(torch.tensor(g))
    vjp, y = make_vjp(lambda a: ours(*a), tuple(args))
    for mine, other in zip((y, *vjp(g)), (expected, *(t.grad for t in tensors)), strict=True):
        other = other.detach().numpy()
        assert np.max(np.abs(mine - other)) < EXACT * np.max(np.abs(other))

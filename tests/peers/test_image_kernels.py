"""The image layers against PyTorch's, value and gradient, where it is installed."""

import numpy as np
import pytest
from autograd.core import make_vjp

from bplcz_ref import nn

torch = pytest.importorskip("torch")
F = torch.nn.functional

# batch, size, channels, outputs, groups, kernel, stride, padding: the shapes of the encoders, made small
CONVOLUTIONS = [
    (2, 16, 3, 8, 1, 3, 1, 1),
    (2, 8, 24, 32, 1, 3, 1, 1),
    (2, 16, 18, 8, 1, 7, 2, 3),
    (2, 8, 8, 16, 1, 1, 2, 0),
    (2, 2, 16, 16, 1, 3, 2, 1),
    (2, 8, 64, 64, 32, 3, 1, 1),
    (2, 8, 64, 64, 32, 3, 2, 1),
    (2, 8, 12, 12, 12, 7, 1, 3),
    (2, 16, 18, 8, 1, 4, 4, 0),
]


def channels_first(a):
    return torch.from_numpy(np.ascontiguousarray(a)).permute(0, 3, 1, 2) if a.ndim == 4 else torch.from_numpy(a)


def compare(ours, theirs, x, others, tolerance):
    """Values and gradients by x and by every other argument, relative to the largest entry of PyTorch's."""
    tensors = [channels_first(x).detach().requires_grad_(True)]
    tensors += [torch.from_numpy(a.copy()).requires_grad_(True) for a in others]
    y = theirs(*tensors)
    g = np.random.default_rng(1).standard_normal(y.shape)
    slopes = torch.autograd.grad(y, tensors, torch.from_numpy(g).to(y.dtype))
    last = (lambda t: t.permute(0, 2, 3, 1)) if y.ndim == 4 else (lambda t: t)
    g = last(torch.from_numpy(g).to(y.dtype)).numpy()
    pairs = [(ours(x, *others), last(y.detach()))]
    for i, slope in enumerate(slopes):
        args = [x, *others]
        vjp, _ = make_vjp(lambda a, i=i, args=args: ours(*args[:i], a, *args[i + 1 :]), args[i])
        pairs.append((vjp(g), slope.permute(0, 2, 3, 1) if i == 0 else slope))
    for a, b in pairs:
        assert a.shape == b.shape
        assert np.abs(a - b.numpy()).max() <= tolerance * max(float(b.abs().max()), 1e-30)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-12), ("float32", 1e-4)])
@pytest.mark.parametrize("case", CONVOLUTIONS, ids=str)
def test_conv2d(case, dtype, tolerance):
    B, size, C, O, groups, k, stride, padding = case
    r = np.random.default_rng(0)
    x, w, b = (r.standard_normal(s).astype(dtype) for s in ((B, size, size, C), (O, C // groups, k, k), (O,)))
    options = {"stride": stride, "padding": padding, "groups": groups}
    compare(lambda *a: nn.conv2d(*a, **options), lambda *a: F.conv2d(*a, **options), x, [w, b], tolerance)


@pytest.mark.parametrize("train", [True, False])
def test_batch_norm_and_its_running_values(train):
    r = np.random.default_rng(0)
    x, w, b = r.standard_normal((4, 6, 5, 7)) * 2 + 1, r.standard_normal(7), r.standard_normal(7)
    mean, var = r.standard_normal(7), r.random(7) + 0.5
    state = {"running_mean": mean, "running_var": var, "num_batches_tracked": np.array(0)}
    moved = torch.from_numpy(mean.copy()), torch.from_numpy(var.copy())
    compare(
        lambda *a: nn.relu(nn.batch_norm(*a, state, train=train)[0]),
        lambda x, w, b: F.relu(F.batch_norm(x, *(m.clone() for m in moved), w, b, training=train)),
        x,
        [w, b],
        1e-12,
    )
    F.batch_norm(channels_first(x), *moved, training=train)
    new = nn.batch_norm(x, w, b, state, train=train)[1]
    np.testing.assert_allclose(new["running_mean"], moved[0].numpy(), rtol=1e-12)
    np.testing.assert_allclose(new["running_var"], moved[1].numpy(), rtol=1e-12)


def test_pooling_and_relu():
    r = np.random.default_rng(0)
    ties = r.integers(-2, 3, (2, 9, 8, 5)).astype(float)  # ties: PyTorch's first maximum takes the gradient
    compare(lambda x: nn.max_pool2d(x, 2), lambda x: F.max_pool2d(x, 2), ties, [], 1e-12)
    compare(lambda x: nn.max_pool2d(x, 3, 2, 1), lambda x: F.max_pool2d(x, 3, 2, 1), ties, [], 1e-12)
    compare(lambda x: nn.avg_pool2d(x, 2), lambda x: F.avg_pool2d(x, 2), ties, [], 1e-12)
    compare(nn.spatial_mean, lambda x: x.mean((2, 3)), ties, [], 1e-12)
    compare(nn.relu, F.relu, ties, [], 1e-12)

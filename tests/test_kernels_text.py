"""What test_kernels.py does not cover of the transformer's kernels: blocks, memory, ranges, edges, messages."""

import tracemalloc

import numpy as np
import pytest
from autograd import elementwise_grad
from autograd.core import make_vjp
from scipy.special import ndtr
from test_kernels import CASES, EXACT, both, by_hand, draw, gap

from bplcz_ref import nn
from bplcz_ref.kernels import transformer

ATTENTION = [name for name in CASES if name.startswith("attention")]
# (scores a block, bytes kept, safe): the ways of attention, in blocks that do not divide the shapes
FORCED = [(1 << 18, 0, 16), (20, 1 << 24, 16), (20, 0, 16), (20, 0, 0), (1, 0, 0), (70, 1 << 24, 0), (70, 0, 0)]


def forced(monkeypatch, *values):
    for name, value in zip(("BLOCK", "KEEP", "SAFE"), values, strict=False):
        monkeypatch.setattr(transformer, name, value)


@pytest.mark.parametrize("name", ATTENTION)
@pytest.mark.parametrize("values", FORCED, ids=str)
def test_attention_is_the_same_kept_or_computed_again_in_blocks_of_any_size(name, values, monkeypatch):
    forced(monkeypatch, *values)
    kernel, definition, shapes = both(name)
    assert gap(kernel, definition, *draw(shapes)) < EXACT


@pytest.mark.slow
@pytest.mark.parametrize(
    "options", [{}, {"causal": True}, {"mask": np.tri(1024, dtype=bool)}], ids=["full", "causal", "mask"]
)
def test_attention_never_holds_the_map_when_it_is_large(options, monkeypatch):
    monkeypatch.setenv("BPLCZ_THREADS", "2")
    q, k, v = draw([(4, 4, 1024, 16)] * 3, np.float32)
    array, block, whole = q.nbytes, 4 * transformer.BLOCK, 4 * 4 * 1024 * 1024 * 4
    assert whole > transformer.KEEP
    tracemalloc.start()
    vjp, y = make_vjp(lambda a: nn.attention(*a, **options), (q, k, v))
    vjp(y)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # 12 arrays: scaled q, copies, y, h, three gradients; 5 blocks a thread: scores, weights, mask
    assert peak < 12 * array + 2 * 5 * block < whole / 2


def test_gelu_in_float32_is_within_two_roundings_of_the_exact_one():
    x = np.concatenate([np.linspace(-14, 14, 200_001), [0, 1e-30, 1e10, -1e10, 1e25, -1e25]]).astype("f4")
    wide = x.astype(np.float64)
    with np.errstate(all="raise", under="ignore"):
        y, slope = nn.gelu(x), elementwise_grad(nn.gelu)(x)
    with np.errstate(over="ignore"):
        density = np.exp(-(wide**2) / 2) / np.sqrt(2 * np.pi)
    assert (abs(y - wide * ndtr(wide)) <= 2**-22 * abs(wide)).all()
    assert (abs(slope - ndtr(wide) - wide * density) <= 2**-22).all()
    assert np.isnan(nn.gelu(np.float32([np.nan]))).all()


@pytest.mark.parametrize("length", [15.9, 16.1, 400.0])
def test_one_long_query_and_one_long_key_decide_whether_scores_are_safe(length):
    rng = np.random.default_rng(3)
    q, k, v = (rng.standard_normal((2, 5, 4)).astype(np.float32) * np.float32(0.01) for _ in range(3))
    q[1, 3], k[1, 2] = [2.0, 0, 0, 0], [length, 0, 0, 0]  # one score of `length` after the division by 2
    with np.errstate(over="raise", invalid="raise"):
        y = nn.attention(q, k, v)
    exact = nn.attention.definition(*(a.astype(np.float64) for a in (q, k, v)))
    assert abs(y - exact).max() < 1e-6 * abs(exact).max()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("keep", [1 << 24, 0])
def test_scores_of_ten_thousand_neither_overflow_nor_lose_the_sum(dtype, causal, keep, monkeypatch):
    forced(monkeypatch, 1 << 18, keep)
    q, k, v = draw([(2, 6, 4)] * 3, dtype)
    q *= dtype(1e4)
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        y, *gradients = by_hand(lambda *a: nn.attention(*a, causal=causal), (q, k, v), np.ones_like(q))
    assert all(np.isfinite(a).all() for a in (y, *gradients))
    # The gradient of sum(y) by v adds up to the number of queries, as the weights of each add up to 1.
    np.testing.assert_allclose(gradients[2].sum(axis=1), 6, rtol=8 * np.finfo(dtype).eps)
    if dtype == np.float64:
        true = by_hand(lambda *a: nn.attention.definition(*a, causal=causal), (q, k, v), np.ones_like(q))
        sizes = [abs(v).max(), abs(v).max() * abs(k).max(), abs(v).max() * abs(q).max(), 6]  # of what is added
        for ours, theirs, size in zip((y, *gradients), true, sizes, strict=True):
            assert abs(ours - theirs).max() < 1e-8 * size  # a score of 1e4 is rounded 1e4 times as much


def test_layer_norm_far_from_zero_keeps_its_variance():
    x = draw([(4, 64)])[0] + 1e6  # E[x^2] - mean^2 would keep 4 digits of the variance
    y = nn.layer_norm(x, np.ones(64), np.zeros(64))
    np.testing.assert_allclose(y, nn.layer_norm(x - 1e6, np.ones(64), np.zeros(64)), atol=1e-8)

"""What test_kernels.py does not cover of the image kernels: every way of convolution, ties, means, messages."""

import autograd.numpy as anp
import numpy as np
import pytest
from autograd import grad
from test_kernels import EXACT, by_hand, draw, gap

from bplcz_ref import nn
from bplcz_ref.kernels import convolution, depthwise, winograd

# B, H, W, C, O, groups, kernel, stride, padding; each row is a path or an edge of one
CONVOLUTIONS = [
    (2, 5, 7, 3, 4, 1, 3, 1, 1),
    (1, 8, 8, 16, 16, 1, 3, 1, 1),
    (2, 33, 31, 3, 4, 1, 3, 1, 1),
    (41, 5, 5, 3, 4, 1, 3, 1, 1),
    (2, 7, 7, 3, 5, 1, 7, 2, 3),
    (2, 33, 31, 20, 4, 1, 3, 2, 1),
    (2, 8, 8, 3, 4, 1, 4, 4, 0),  # ConvNeXt's stem
    (2, 5, 5, 4, 4, 1, 1, 2, 0),
    (3, 5, 4, 3, 7, 1, 1, 1, 0),
    (2, 5, 5, 4, 4, 1, 1, 1, 1),  # padding around a 1 x 1
    (1, 3, 1, 3, 2, 1, 1, 3, 1),  # every tap sees padding alone
    (2, 5, 5, 4, 4, 1, 2, 1, 3),  # outputs that see padding alone
    (2, 3, 3, 2, 3, 1, 2, 5, 2),
    (2, 1, 1, 4, 4, 1, 3, 1, 1),  # only the centre tap sees a pixel
    (2, 2, 2, 4, 6, 1, 3, 1, 1),
    (3, 1, 5, 4, 6, 1, 3, 1, 1),
    (1, 8, 8, 4, 6, 2, 3, 1, 1),
    (3, 6, 5, 4, 8, 4, 3, 2, 1),
    (2, 4, 5, 64, 64, 16, 3, 1, 1),  # groups merged into blocks
    (2, 5, 4, 64, 96, 32, 3, 2, 1),
    (2, 4, 4, 6, 6, 3, 1, 1, 0),
    (1, 40, 17, 4, 4, 4, 3, 1, 1),  # depthwise by shifts
    (5, 9, 9, 3, 3, 3, 3, 1, 1),
    (2, 12, 10, 4, 4, 4, 5, 1, 0),
    (2, 70, 1, 3, 3, 3, 3, 1, 1),
    (2, 2, 2, 4, 4, 4, 7, 1, 3),  # depthwise by matrix
    (3, 8, 8, 5, 5, 5, 7, 1, 3),
    (2, 4, 6, 6, 6, 6, 5, 1, 3),
    (2, 9, 8, 6, 6, 6, 3, 2, 1),  # depthwise with a stride, with a multiplier, with more padding than kernel
    (2, 5, 5, 6, 12, 6, 3, 1, 1),
    (1, 9, 10, 2, 2, 2, 3, 1, 4),
    (3, 2, 2, 5, 64, 1, 3, 1, 1),  # by taps
    (2, 4, 4, 3, 130, 1, 3, 1, 1),
    (3, 4, 4, 5, 66, 1, 3, 2, 1),
    (1, 2, 2, 140, 64, 1, 3, 2, 1),
    (2, 1, 1, 4, 64, 1, 3, 1, 1),
    (2, 3, 4, 3, 64, 1, 2, 1, 0),
    (2, 2, 2, 64, 64, 16, 3, 1, 1),
    (2, 8, 12, 16, 32, 1, 3, 1, 1),  # in float32 by Winograd, all but the last
    (40, 8, 8, 32, 20, 1, 3, 1, 1),
    (3, 8, 8, 20, 24, 1, 3, 1, 0),
]


def case_of(B, H, W, C, O, groups, k, stride, padding, dtype=np.float64):
    shapes = (B, H, W, C), (O, C // groups, k, k), (O,)
    return draw(shapes, dtype), {"stride": stride, "padding": padding, "groups": groups}


def applies(way, case, wants_x=False):
    _, H, W, C, O, groups, k, stride, padding = case
    return {
        "pointwise": (k, groups, padding) == (1, 1, 0),
        "by_columns": groups == 1 and not wants_x,
        "by_matrix": groups == C == O and stride == 1 and padding < k,
        "shifted": groups == C == O and stride == 1 and padding < k,
        "winograd": (k, stride, padding, groups, H % 4, W % 4) == (3, 1, 1, 1, 0, 0),
    }.get(way, True)


@pytest.mark.slow
@pytest.mark.parametrize(
    "way", [None, "pointwise", "by_columns", "by_rows", "by_taps", "by_matrix", "shifted", "winograd"]
)
def test_every_way_is_the_definition_wherever_it_applies(way, monkeypatch):
    """In float64, chosen and forced, also where another would be chosen."""
    choose, function = convolution.choose, way and (getattr(convolution, way, None) or getattr(depthwise, way))
    cases = [case for case in CONVOLUTIONS if way is None or applies(way, case)]
    assert len(cases) >= 2
    for case in cases:
        args, options = case_of(*case)

        def forced(p, dtype, wants_x, case=case):
            return function if way and applies(way, case, wants_x) else choose(p, dtype, wants_x)

        monkeypatch.setattr(convolution, "choose", forced)
        kernel, definition = (lambda *a, f=f, o=options: f(*a, **o) for f in (nn.conv2d, nn.conv2d.definition))
        assert gap(kernel, definition, *args[: 2 + (way is None)]) < EXACT, case


def test_each_way_is_chosen_for_some_case():
    chosen = set()
    for case in CONVOLUTIONS:
        args, options = case_of(*case)
        p = convolution.plan_of(args[0].shape, args[1].shape, *options.values())
        chosen |= {convolution.choose(p, np.dtype("f"), wants_x).__name__ for wants_x in (True, False)}
    assert chosen == {"pointwise", "by_columns", "by_rows", "by_taps", "by_matrix", "shifted", "winograd"}


def test_images_in_parts_and_blocks_give_the_same(monkeypatch):
    args, options = case_of(37, 6, 4, 3, 32, 1, 3, 1, 1)
    definition = lambda *a: nn.conv2d.definition(*a, **options)
    monkeypatch.setattr(convolution, "NUMBERS", 400)
    monkeypatch.setattr(convolution, "WORTH", 1)
    for way in (convolution.by_rows, convolution.by_taps):
        monkeypatch.setattr(convolution, "choose", lambda p, dtype, wants_x, way=way: way)
        assert gap(lambda *a: nn.conv2d(*a, **options), definition, *args) < EXACT


def test_winograd_rounds_less_than_ten_times_what_the_direct_sum_does():
    x, w = draw([(4, 16, 16, 64), (3, 3, 64, 64)])
    p = convolution.plan_of(x.shape, (64, 64, 3, 3), 1, 1, 1)
    true = convolution.by_rows(p, x, w / 24, True)[0]
    x, w = x.astype("f"), (w / 24).astype("f")
    rms = [
        np.sqrt(np.mean((way(p, x, w, True)[0] - true) ** 2)) for way in (winograd.winograd, convolution.by_rows)
    ]
    assert rms[0] < 10 * rms[1]
    assert rms[0] < 3e-6 * true.std()


def test_bits_do_not_depend_on_the_memory_order_of_a_weight():
    """So a run resumed from a checkpoint, whose arrays lie in C order, has the bits of one that never ended."""
    for case in CONVOLUTIONS:
        (x, w, _), options = case_of(*case, np.float32)
        ordered = convolution.in_kernel_order(w).transpose(3, 2, 0, 1)
        y, *first = by_hand(lambda x, w, o=options: nn.conv2d(x, w, **o), (x, w), nn.conv2d(x, w, **options))
        z, *other = by_hand(lambda x, w, o=options: nn.conv2d(x, w, **o), (x, ordered), y)
        assert all((a == b).all() for a, b in zip((y, *first), (z, *other), strict=True))
        assert all(a.dtype == np.float32 for a in (y, *first))
        # the gradient has the kernels' order, which SGD keeps, so that no later step copies a weight
        assert convolution.in_kernel_order(first[1]).base is not None


# ------------------------------------------------------------------------------------------------ batch norm


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("mean", [0, 3.9, 4.1, 1e4], ids=str)
def test_batch_norm_subtracts_a_mean_first_only_where_it_is_large(mean, train):
    """One channel has this mean, in deviations, and the other one a small mean: a large one alone decides."""
    x, g = draw([(8, 8, 8, 2)] * 2)
    args = x + np.array([0.5, mean]), np.array([1.5, -0.7]), np.array([0.2, 1.0])
    state = {"running_mean": np.array([0.5, mean]), "running_var": np.ones(2), "num_batches_tracked": np.array(1)}
    # In float64 the definition's own mean is rounded by u times it; for float32 the definition is exact.
    for dtype, u in ((np.float64, 2**-53 * (1 + mean)), (np.float32, 2**-24)):
        given = [a.astype(dtype) for a in (*args, g)]
        found, right = (
            by_hand(lambda *a, f=f: f(*a, state, train=train)[0], arrays[:3], arrays[3])
            for f, arrays in ((nn.batch_norm, given), (nn.batch_norm.definition, [a.astype(float) for a in given]))
        )
        for ours, true in zip(found, right, strict=True):
            assert abs(ours - true).max() <= 64 * u * abs(true).max()


# ---------------------------------------------------------------------------------------- pooling, activation


@pytest.mark.parametrize(
    ("size", "stride", "padding"), [(2, 2, 0), (2, 1, 0), (3, 2, 1), (3, 3, 0), (2, 3, 1), (3, 1, 1)]
)
@pytest.mark.parametrize("shape", [(2, 8, 8, 3), (1, 5, 7, 2), (3, 4, 6, 33)], ids=str)
def test_max_pool2d_is_its_definition_with_and_without_ties(shape, size, stride, padding):
    r = np.random.default_rng(0)
    distinct = r.permutation(int(np.prod(shape))).reshape(shape).astype(float)
    ties = r.integers(0, 3, shape).astype(float) - 1
    kernel, definition = (
        lambda x, f=f: f(x, size, stride, padding) for f in (nn.max_pool2d, nn.max_pool2d.definition)
    )
    for x in (distinct, ties, -abs(distinct)):
        assert gap(kernel, definition, x) < EXACT


def test_among_equal_values_the_first_takes_the_gradient():
    slope = grad(lambda x: anp.sum(nn.max_pool2d(x, 2)))(np.ones((1, 2, 2, 1)))
    assert slope.ravel().tolist() == [1.0, 0.0, 0.0, 0.0]
    ties = np.random.default_rng(0).integers(0, 2, (2, 4, 4, 3)).astype(float)
    last = lambda x: nn.max_pool2d(x[:, ::-1, ::-1], 2)[:, ::-1, ::-1]
    shared = lambda x: anp.max(anp.reshape(x, (2, 2, 2, 2, 2, 3)), axis=(2, 4))
    for wrong in (last, shared):
        assert gap(wrong, lambda x: nn.max_pool2d.definition(x, 2), ties) > 0.1
    zero = np.zeros((1, 2))
    assert grad(lambda x: anp.sum(nn.relu(x)))(zero).tolist() == [[0.0, 0.0]]  # the slope at 0


def test_nan_is_not_hidden():
    x = np.array([np.nan, -1.0]).reshape(1, 1, 2, 1)
    for relu in (nn.relu, nn.relu.definition):
        assert np.isnan(relu(x)).ravel().tolist() == [True, False]
    assert np.isnan(nn.max_pool2d(np.full((1, 2, 2, 1), np.nan), 2)).all()

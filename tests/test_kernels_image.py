"""The image kernels equal their definitions, value and gradient; and the comparison used here notices mistakes."""

import autograd.numpy as np
import fused
import numpy as onp
import pytest
from autograd import grad
from autograd.core import make_vjp
from kernel_checks import by_hand, gap

from bplcz_ref import nn
from bplcz_ref.kernels import by_tap, convolution
from bplcz_ref.kernels.tape import on_tape

EXACT = 2e-12  # float64, relative to the largest entry


def rng(seed=0):
    return onp.random.default_rng(seed)


# B, H, W, C, O, groups, kernel, stride, padding; each row is a path or an edge of one
CONVOLUTIONS = [
    (2, 5, 7, 3, 4, 1, 3, 1, 1),
    (1, 8, 8, 16, 16, 1, 3, 1, 1),
    (2, 33, 31, 3, 4, 1, 3, 1, 1),  # tiles that do not divide the rows
    (41, 5, 5, 3, 4, 1, 3, 1, 1),  # nor the images
    (2, 7, 7, 3, 5, 1, 7, 2, 3),
    (2, 33, 31, 4, 4, 1, 3, 2, 1),
    (2, 8, 8, 3, 4, 1, 4, 4, 0),  # ConvNeXt's stem
    (2, 5, 5, 4, 4, 1, 1, 2, 0),
    (2, 5, 5, 4, 4, 1, 1, 1, 1),  # padding around a 1 x 1
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
    (1, 40, 17, 4, 4, 4, 3, 1, 1),  # depthwise
    (2, 2, 2, 4, 4, 4, 7, 1, 3),
    (2, 9, 8, 6, 6, 6, 3, 2, 1),
    (2, 5, 5, 6, 12, 6, 3, 1, 1),  # depthwise with a multiplier
    (3, 2, 2, 5, 64, 1, 3, 1, 1),  # by tap
    (2, 4, 4, 3, 130, 1, 3, 1, 1),
    (3, 4, 4, 5, 66, 1, 3, 2, 1),
    (1, 2, 2, 140, 64, 1, 3, 2, 1),
    (2, 1, 1, 4, 64, 1, 3, 1, 1),
    (2, 3, 4, 3, 64, 1, 2, 1, 0),
    (3, 8, 8, 5, 5, 5, 7, 1, 3),  # depthwise by matrix
    (2, 4, 6, 6, 6, 6, 5, 1, 3),
    (2, 7, 8, 3, 3, 3, 3, 2, 1),
    (5, 9, 9, 3, 3, 3, 3, 1, 1),  # depthwise by runs
    (2, 12, 10, 4, 4, 4, 5, 1, 0),
    (1, 9, 10, 2, 2, 2, 3, 3, 2),
    (2, 70, 1, 3, 3, 3, 3, 1, 1),  # taps that see padding alone are left out
]


def convolution_case(B, H, W, C, O, groups, k, stride, padding, dtype=onp.float64):
    r = rng()
    args = (r.standard_normal((B, H, W, C)), r.standard_normal((O, C // groups, k, k)), r.standard_normal(O))
    options = {"stride": stride, "padding": padding, "groups": groups}
    return [a.astype(dtype) for a in args], options


@pytest.mark.parametrize("case", CONVOLUTIONS, ids=str)
def test_conv2d_is_its_definition(case):
    args, options = convolution_case(*case)
    kernel, definition = (lambda *a, f=f: f(*a, **options) for f in (nn.conv2d, nn.conv2d.definition))
    assert gap(kernel, definition, *args) < EXACT
    assert gap(kernel, definition, *args[:2]) < EXACT  # without bias


@pytest.mark.slow
@pytest.mark.parametrize(
    "case", [*CONVOLUTIONS, (2, 8, 12, 16, 32, 1, 3, 1, 1), (3, 8, 8, 20, 24, 1, 3, 1, 0)], ids=str
)
def test_conv2d_in_float32_stays_float32_and_within_the_rounding_of_its_sums(case):
    args, options = convolution_case(*case, onp.float32)
    y = nn.conv2d(*args, **options)
    found = by_hand(lambda *a: nn.conv2d(*a, **options), args, y)
    assert all(a.dtype == onp.float32 for a in found)
    exact, g = [a.astype(onp.float64) for a in args], y.astype(onp.float64)
    true = by_hand(lambda *a: nn.conv2d.definition(*a, **options), exact, g)
    # A sum of n products is off by at most n u sum |terms|: the same sums over absolute values. n <= the number
    # of terms of the longest sum; Winograd's transforms make the terms larger, by less than 50.
    sizes = by_hand(lambda *a: nn.conv2d.definition(*a, **options), [abs(a) for a in exact], abs(g))
    n = max(args[1][0].size, args[1].size, y[..., 0].size) + 2
    growth = 50 if case[6:8] == (3, 1) else 1
    for ours, right, size in zip(found, true, sizes, strict=True):
        assert (abs(ours - right) <= growth * n * 2**-24 * size + 1e-30).all()


# B, H, W, C, O, groups, kernel, stride, padding
STRATEGIES = {
    "pointwise": [(3, 5, 4, 3, 7, 1, 1, 1, 0), (2, 5, 5, 4, 2, 1, 1, 2, 0), (1, 1, 1, 1, 1, 1, 1, 1, 0)],
    "in_columns": [(2, 5, 7, 3, 4, 1, 3, 1, 1), (1, 4, 4, 1, 64, 1, 3, 1, 1), (3, 6, 5, 4, 8, 4, 3, 2, 1)],
    "taps": [(2, 5, 7, 3, 4, 1, 3, 1, 1), (1, 9, 8, 1, 1, 1, 3, 2, 1), (2, 6, 6, 2, 300, 1, 2, 2, 0)],
    "shifted": [(2, 5, 7, 3, 3, 3, 3, 1, 1), (1, 8, 8, 1, 1, 1, 7, 1, 3), (3, 6, 5, 4, 4, 4, 3, 2, 1)],
    "by_matrix": [(2, 5, 7, 3, 3, 3, 3, 1, 1), (1, 8, 8, 1, 1, 1, 7, 1, 3), (3, 6, 5, 16, 16, 16, 3, 2, 1)],
    "winograd": [(2, 8, 12, 5, 7, 1, 3, 1, 1), (1, 4, 4, 1, 1, 1, 3, 1, 1), (40, 8, 8, 3, 2, 1, 3, 1, 1)],
}


@pytest.mark.parametrize("name", STRATEGIES)
def test_every_strategy_is_the_definition_wherever_it_applies(name, monkeypatch):
    """In float64 and with each choice forced, also where another would be chosen."""
    strategy, cases = getattr(convolution, name), STRATEGIES[name]
    chosen = []
    monkeypatch.setattr(convolution, "_choose", lambda p, dtype: chosen.append(p) or strategy)
    for case in cases:
        args, options = convolution_case(*case)
        kernel, definition = (lambda *a, f=f, o=options: f(*a, **o) for f in (nn.conv2d, nn.conv2d.definition))
        assert gap(kernel, definition, *args) < EXACT
        wide = [onp.asfortranarray(onp.repeat(a, 2, axis=0))[::2] for a in args]  # strided, in another order
        assert gap(kernel, definition, *wide) < EXACT
    assert len(chosen) > len(cases)


def test_images_cut_by_tap_give_the_same(monkeypatch):
    r = rng(11)
    x, w = r.standard_normal((37, 3, 2, 3)), r.standard_normal((3, 3, 3, 4))
    p = convolution.plan_of(x.shape, (4, 3, 3, 3), 1, 1, 1)
    whole = by_tap.forward(p, x, w)
    monkeypatch.setattr(by_tap, "WORTH", 1)
    assert abs(by_tap.forward(p, x, w) - whole).max() < EXACT * abs(whole).max()


def test_bits_do_not_depend_on_the_memory_order_of_a_weight():
    """So a run resumed from a checkpoint, whose arrays lie in C order, has the bits of one that never ended."""
    for case in CONVOLUTIONS:
        (x, w, _), options = convolution_case(*case, onp.float32)
        ordered = convolution.in_kernel_order(w).transpose(3, 2, 0, 1)
        found = [make_vjp(lambda w, x=x, o=options: nn.conv2d(x, w, **o), a) for a in (w, ordered)]
        assert (found[0][1] == found[1][1]).all()
        gradients = [vjp(found[0][1]) for vjp, _ in found]
        assert (gradients[0] == gradients[1]).all()
        by_x = [make_vjp(lambda x, w=w, o=options: nn.conv2d(x, w, **o), x)[0](found[0][1]) for w in (w, ordered)]
        assert (by_x[0] == by_x[1]).all()
        # the gradient has the kernels' order, which SGD keeps, so that no later step copies a weight
        assert convolution.in_kernel_order(gradients[0]).base is not None


def test_winograd_rounds_less_than_ten_times_what_the_direct_sum_does():
    r = rng()
    x, w = r.standard_normal((4, 16, 16, 64)), r.standard_normal((64, 64, 3, 3)) / 24
    p = convolution.plan_of(x.shape, w.shape, 1, 1, 1)
    w = convolution.in_kernel_order(w)
    true = convolution.in_columns.forward(p, x, w)
    rms = [
        onp.sqrt(onp.mean((s.forward(p, x.astype("f4"), w.astype("f4")) - true) ** 2))
        for s in (convolution.winograd, convolution.in_columns)
    ]
    assert rms[0] < 10 * rms[1]
    assert rms[0] < 3e-6 * true.std()
    assert convolution._choose(p, onp.dtype("f4")) is convolution.winograd  # and it is what runs


def pad_before(x, w, b):  # all padding above and to the left
    x = np.pad(x, ((0, 0), (2, 0), (2, 0), (0, 0)), "constant")
    return nn.conv2d.definition(x, w, b)


def doubled(name):
    """conv2d with the right value and one gradient twice too large."""

    def backward(g, wanted, kept, *, plan):
        gradients = convolution.backward(g, wanted, kept, plan=plan)
        return [d * (2 if n == name else 1) for n, d in zip(wanted, gradients, strict=True)]

    kernel = on_tape("wrong", convolution.forward, backward)
    return lambda x, w, b: kernel(x, w, b, plan=convolution.plan_of(x.shape, w.shape, 1, 1, 1))


WRONG_CONVOLUTIONS = {
    "a flipped kernel": lambda x, w, b: nn.conv2d(x, w[:, :, ::-1, ::-1], b, padding=1),
    "padding on one side": pad_before,
    "dx twice": doubled(0),
    "dw twice": doubled(1),
    "db twice": doubled(2),
}


@pytest.mark.parametrize("name", WRONG_CONVOLUTIONS)
def test_the_comparison_notices_a_wrong_convolution(name):
    args, _ = convolution_case(2, 5, 5, 4, 4, 1, 3, 1, 1)
    assert gap(WRONG_CONVOLUTIONS[name], lambda *a: nn.conv2d.definition(*a, padding=1), *args) > 1e6 * EXACT


def test_conv2d_by_hand():
    x = onp.array([[1.0, 2.0], [3.0, 4.0]]).reshape(1, 2, 2, 1)
    w = onp.array([[1.0, 0.0], [0.0, 10.0]]).reshape(1, 1, 2, 2)
    assert nn.conv2d(x, w).tolist() == [[[[41.0]]]]  # 1*1 + 4*10
    assert nn.conv2d(x, w, onp.array([0.5]), stride=2, padding=1).ravel().tolist() == [10.5, 0.5, 0.5, 4.5]
    dw = grad(lambda w: np.sum(nn.conv2d(x, w)))(w)
    assert dw.ravel().tolist() == [1.0, 2.0, 3.0, 4.0]


def test_conv2d_says_what_does_not_fit():
    x, w = onp.zeros((1, 4, 4, 6)), onp.zeros((4, 3, 3, 3))
    with pytest.raises(ValueError, match=r"6 channels .* 3 channels each in 1 groups"):
        nn.conv2d(x, w)
    with pytest.raises(ValueError, match="O divisible by groups"):
        nn.conv2d(onp.zeros((1, 4, 4, 9)), w, groups=3)
    with pytest.raises(ValueError, match="3 x 3 kernel does not fit into 2 x 4 pixels with padding 0"):
        nn.conv2d(x[:, :2], w, groups=2)
    with pytest.raises(ValueError, match=r"bias must be \(4,\)"):
        nn.conv2d(x, w, onp.zeros(3), groups=2)
    with pytest.raises(ValueError, match="stride"):
        nn.conv2d(x, w, groups=2, stride=0)
    with pytest.raises(ValueError, match=r"x must be \(B, H, W, C\)"):
        nn.conv2d(x[0], w)


# ------------------------------------------------------------------------------------------------ batch norm


def bn_case(shape, dtype=onp.float64):
    r, C = rng(), shape[-1]
    state = {
        "running_mean": r.standard_normal(C),
        "running_var": r.random(C) + 0.5,
        "num_batches_tracked": onp.array(3),
    }
    state = {k: v if v.ndim == 0 else v.astype(dtype) for k, v in state.items()}
    return [
        a.astype(dtype) for a in (r.standard_normal(shape) + 3, r.standard_normal(C), r.standard_normal(C))
    ], state


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize(
    "shape", [(4, 8, 8, 16), (3, 5, 7, 3), (2, 1), (1, 3, 1, 5), (40, 16, 16, 24), (2, 3000)], ids=str
)
def test_batch_norm_is_its_definition(shape, train, relu):
    args, state = bn_case(shape)
    kernel, definition = (
        lambda *a, f=f: f(*a, state, train=train, relu=relu)
        for f in (fused.batch_norm, fused.batch_norm.definition)
    )
    assert gap(lambda *a: kernel(*a)[0], lambda *a: definition(*a)[0], *args) < 10 * EXACT
    ours, theirs = kernel(*args)[1], definition(*args)[1]
    for key in theirs:
        onp.testing.assert_allclose(ours[key], theirs[key], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("shape", [(4, 8, 8, 16), (3, 5, 7, 3), (2, 1)], ids=str)
def test_batch_norm_with_a_sum_is_its_definition(shape, train, relu):
    args, state = bn_case(shape)
    args.append(rng(9).standard_normal(shape))
    kernel, definition = (
        lambda x, w, b, p, f=f: f(x, w, b, state, train=train, relu=relu, plus=p)[0]
        for f in (fused.batch_norm, fused.batch_norm.definition)
    )
    assert gap(kernel, definition, *args) < 10 * EXACT
    after = lambda x, w, b, p: fused.batch_norm.definition(x, w, b, state, train=train, relu=relu)[0] + p
    if relu:  # the sum comes before the relu
        assert gap(kernel, after, *args) > 1e6 * EXACT
    with pytest.raises(ValueError, match="plus must have the shape of x"):
        fused.batch_norm(*args[:3], state, train=False, plus=args[3][..., :1] if shape[-1] > 1 else args[3][:1])


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("shape", [(4, 8, 8, 16), (3, 2, 6, 3), (1, 2, 2, 1), (9, 16, 16, 40)], ids=str)
def test_pooling_before_batch_norm_is_the_definition_for_any_sign_of_the_weight(shape, train):
    (x, weight, bias), state = bn_case(shape)
    weight[::3] = 0  # all results of a window are equal then, and the first pixel takes the gradient
    bias = abs(bias) + 0.1 if shape[-1] < 4 else bias
    ties = onp.round(2 * x) / 2
    for pixels in (x, ties):
        kernel, definition = (
            lambda *a, f=f: f(*a, state, train=train)[0]
            for f in (fused.batch_norm_relu_pool, fused.batch_norm_relu_pool.definition)
        )
        for sign in (1, -1):
            assert gap(kernel, definition, pixels, sign * weight, bias) < 20 * EXACT
    new, right = (
        f(x, weight, bias, state, train=train)[1]
        for f in (fused.batch_norm_relu_pool, fused.batch_norm_relu_pool.definition)
    )
    for key in right:
        onp.testing.assert_allclose(new[key], right[key], rtol=1e-12, atol=1e-14)
    largest_only = lambda *a: fused.batch_norm(nn.max_pool2d(a[0], 2), *a[1:], state, train=False, relu=True)[0]
    if not train and shape[-1] > 3:
        assert gap(largest_only, lambda *a: definition(*a), x, weight, bias) > 1e6 * EXACT
    with pytest.raises(ValueError, match="even H and W"):
        fused.batch_norm_relu_pool(x[:, 1:], weight, bias, state, train=train)


def dense_case(c, depth, growth, m, dtype=onp.float64):
    r, layers, states = rng(5), [], []
    for _ in range(depth):
        sizes = {"norm1": c, "norm2": m}
        layers.append(
            {n: {"weight": r.standard_normal(k), "bias": r.standard_normal(k)} for n, k in sizes.items()}
            | {"conv1": {"weight": r.standard_normal((m, c, 1, 1))}}
            | {"conv2": {"weight": r.standard_normal((growth, m, 3, 3))}}
        )
        states.append({n: bn_case((2, k))[1] for n, k in sizes.items()})
        c += growth
    cast = lambda tree: {k: cast(v) if isinstance(v, dict) else v.astype(dtype) for k, v in tree.items()}
    return [cast(p) for p in layers], states


def dense(f, layers, states, train):
    """dense_block as a function of x and of every array of its layers."""
    places = [(n, k, part) for n, p in enumerate(layers) for k in p for part in p[k]]

    def call(x, *arrays):
        given = [{k: dict(p[k]) for k in p} for p in layers]
        for (n, k, part), array in zip(places, arrays, strict=True):
            given[n][k][part] = array
        return f(x, given, states, train=train)[0]

    return call, [layers[n][k][part] for n, k, part in places]


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize(
    ("shape", "depth", "growth", "m"),
    [((2, 4, 4, 6), 3, 4, 8), ((3, 1, 5, 1), 1, 1, 1), ((2, 1, 1, 5), 2, 3, 2)],
    ids=str,
)
def test_dense_block_is_its_definition(shape, depth, growth, m, train):
    layers, states = dense_case(shape[-1], depth, growth, m)
    layers[0]["norm1"]["weight"][0] = 0
    x = rng(6).standard_normal(shape) + 2
    kernel, arrays = dense(fused.dense_block, layers, states, train)
    definition, _ = dense(fused.dense_block.definition, layers, states, train)
    assert gap(kernel, definition, x, *arrays) < 100 * EXACT
    assert kernel(x, *arrays).shape == (*shape[:-1], shape[-1] + depth * growth)
    new, right = (f(x, layers, states, train=train)[1] for f in (fused.dense_block, fused.dense_block.definition))
    for ours, theirs in zip(new, right, strict=True):
        for norm in theirs:
            for key in theirs[norm]:
                onp.testing.assert_allclose(ours[norm][key], theirs[norm][key], rtol=1e-11, atol=1e-13)
    if train and shape[1] > 1:  # the statistics move with x: the comparison sees it if they do not
        frozen, _ = dense(fused.dense_block.definition, layers, new, False)
        assert gap(kernel, frozen, x, *arrays) > 1e6 * EXACT


@pytest.mark.slow
def test_dense_block_in_float32_is_as_near_to_float64_as_its_definition():
    layers, states = dense_case(16, 4, 8, 16, onp.float32)
    x = (rng(6).standard_normal((4, 8, 8, 16)) + 30).astype(onp.float32)  # a mean far above the deviation
    kernel, arrays = dense(fused.dense_block, layers, states, True)
    definition, _ = dense(fused.dense_block.definition, layers, states, True)
    g = rng(7).standard_normal(kernel(x, *arrays).shape).astype(onp.float32)
    found = by_hand(kernel, (x, *arrays), g)
    assert all(a.dtype == onp.float32 for a in found)
    true = by_hand(definition, [a.astype(onp.float64) for a in (x, *arrays)], g.astype(onp.float64))
    other = by_hand(definition, (x, *arrays), g)

    def off(arrays):
        return sum(onp.sum((a - b) ** 2.0) / onp.sum(b**2) for a, b in zip(arrays, true, strict=True)) ** 0.5

    assert off(found) < 1.5 * off(other)


def test_dense_block_says_what_does_not_fit():
    layers, states = dense_case(4, 2, 3, 2)
    with pytest.raises(ValueError, match="layer 1 sees 5 channels; conv1 has 4"):
        fused.dense_block(onp.zeros((2, 4, 4, 5)), layers, states, train=True)
    with pytest.raises(ValueError, match="2 or more values per channel, got 1"):
        fused.dense_block(onp.zeros((1, 1, 1, 4)), layers, states, train=True)


def test_batch_norm_state_by_hand():
    """Values 0 and 2: mean 1, biased variance 1, unbiased 2; a momentum of 0.1 is the share of the new batch."""
    state = {
        "running_mean": onp.array([10.0]),
        "running_var": onp.array([10.0]),
        "num_batches_tracked": onp.array(4),
    }
    y, new = nn.batch_norm(
        onp.array([[0.0], [2.0]]), onp.array([3.0]), onp.array([0.5]), state, train=True, eps=0.0
    )
    assert y.tolist() == [[-2.5], [3.5]]
    onp.testing.assert_allclose(new["running_mean"], [0.9 * 10 + 0.1 * 1])  # not 0.1 * 10 + 0.9 * 1
    onp.testing.assert_allclose(new["running_var"], [0.9 * 10 + 0.1 * 2])  # not + 0.1 * 1, the biased one
    assert new["num_batches_tracked"] == 5
    assert state["running_mean"] == 10.0
    y, same = nn.batch_norm(onp.array([[0.0], [2.0]]), onp.ones(1), onp.zeros(1), new, train=False)
    assert same is new


def test_batch_norm_state_is_plain_and_keeps_its_dtype_while_traced():
    args, state = bn_case((4, 4, 4, 3), onp.float32)
    seen = {}

    def f(x):
        y, seen["state"] = nn.batch_norm(x, *args[1:], state, train=True)
        return np.sum(y)

    assert grad(f)(args[0]).dtype == onp.float32
    for key, value in seen["state"].items():
        assert type(value) is not np.numpy_boxes.ArrayBox
        assert onp.asarray(value).dtype == state[key].dtype


def test_a_mean_far_above_the_deviation_keeps_the_variance():
    """float32, mean 1000, deviation 0.1: sum(x^2)/n - mean^2 would be all rounding."""
    x = (1000 + 0.1 * rng().standard_normal((16, 8, 8, 5))).astype(onp.float32)
    C = onp.zeros(5, onp.float32)
    state = {"running_mean": C, "running_var": C, "num_batches_tracked": onp.array(0)}
    y, new = nn.batch_norm(x, C + 1, C, state, train=True, momentum=1.0, eps=0.0)
    true = x.astype(onp.float64).reshape(-1, 5)
    onp.testing.assert_allclose(new["running_var"], true.var(0, ddof=1), rtol=1e-6)
    assert abs(y.reshape(-1, 5) - (true - true.mean(0)) / true.std(0)).max() < 1e-5
    naive = onp.mean(x**2, (0, 1, 2), dtype=onp.float32) - onp.mean(x, (0, 1, 2), dtype=onp.float32) ** 2
    assert abs(naive / true.var(0) - 1).max() > 1e-2  # the mistake that this input is made for


@pytest.mark.parametrize("norm", [fused.batch_norm, fused.batch_norm_relu_pool], ids=["alone", "pool"])
@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("mean", [0, 3.9, 4.1, 1e4], ids=str)
def test_batch_norm_subtracts_a_mean_first_only_where_it_is_large(mean, train, norm):
    """One channel has this mean, in deviations, and the other one a small mean: a large one alone decides."""
    x = rng(4).standard_normal((8, 8, 8, 2)) + onp.array([0.5, mean])
    args = x, onp.array([1.5, -0.7]), onp.array([0.2, 1.0])
    state = {"running_mean": onp.array([0.5, mean]), "running_var": onp.ones(2)}
    state["num_batches_tracked"] = onp.array(1)
    g = rng(5).standard_normal(norm(*args, state, train=train)[0].shape)

    # In float64 the definition's own mean is rounded by u times it; for float32 the definition is exact.
    for dtype, u in ((onp.float64, 2**-53 * (1 + mean)), (onp.float32, 2**-24)):
        given = [a.astype(dtype) for a in (*args, g)]
        exact = [a.astype(onp.float64) for a in given]
        found, right = (
            by_hand(lambda *a, f=f: f(*a, state, train=train)[0], arrays[:3], arrays[3])
            for f, arrays in ((norm, given), (norm.definition, exact))
        )
        for ours, true in zip(found, right, strict=True):
            assert abs(ours - true).max() <= 64 * u * abs(true).max()


def test_batch_norm_says_what_does_not_fit():
    args, state = bn_case((4, 3))
    with pytest.raises(ValueError, match="2 or more values per channel, got 1"):
        nn.batch_norm(args[0][:1], *args[1:], state, train=True)
    with pytest.raises(ValueError, match=r"weight must be \(3,\)"):
        nn.batch_norm(args[0], onp.ones(2), args[2], state, train=True)
    with pytest.raises(ValueError, match=r"running_var must be \(3,\)"):
        nn.batch_norm(*args, state | {"running_var": onp.ones(4)}, train=False)


# ---------------------------------------------------------------------------------------- pooling, activation

POOLS = [(2, 2, 0), (2, 1, 0), (3, 2, 1), (3, 3, 0), (1, 1, 0), (2, 3, 1), (3, 1, 1)]


@pytest.mark.parametrize(("size", "stride", "padding"), POOLS)
@pytest.mark.parametrize("shape", [(2, 8, 8, 3), (1, 5, 7, 2), (3, 4, 6, 33)], ids=str)
def test_max_pool2d_is_its_definition(shape, size, stride, padding):
    distinct = rng().permutation(int(onp.prod(shape))).reshape(shape).astype(float)
    ties = rng().integers(0, 3, shape).astype(float) - 1
    kernel, definition = (
        lambda x, f=f: f(x, size, stride, padding) for f in (nn.max_pool2d, nn.max_pool2d.definition)
    )
    for x in (distinct, ties, -abs(distinct)):
        assert gap(kernel, definition, x) < EXACT


def test_among_equal_values_the_first_takes_the_gradient():
    x = onp.ones((1, 2, 2, 1))
    slope = grad(lambda x: np.sum(nn.max_pool2d(x, 2)))(x)
    assert slope.ravel().tolist() == [1.0, 0.0, 0.0, 0.0]

    def last(x):
        return nn.max_pool2d(x[:, ::-1, ::-1], 2)[:, ::-1, ::-1]  # ties to the last

    ties = rng().integers(0, 2, (2, 4, 4, 3)).astype(float)
    assert gap(last, lambda x: nn.max_pool2d.definition(x, 2), ties) > 1e6 * EXACT

    def shared(x):
        return np.max(np.reshape(x, (2, 2, 2, 2, 2, 3)), axis=(2, 4))  # ties share it

    assert gap(shared, lambda x: nn.max_pool2d.definition(x, 2), ties) > 1e6 * EXACT


@pytest.mark.parametrize(("size", "stride"), [(2, 2), (2, None), (3, 2), (2, 1), (1, 1), (2, 3)])
def test_avg_pool2d_is_its_definition(size, stride):
    x = rng().standard_normal((2, 5, 6, 3))
    assert (
        gap(lambda x: nn.avg_pool2d(x, size, stride), lambda x: nn.avg_pool2d.definition(x, size, stride), x)
        < EXACT
    )
    assert gap(lambda x: nn.avg_pool2d(x, 2), lambda x: nn.max_pool2d.definition(x, 2), x) > 1e6 * EXACT


@pytest.mark.parametrize("shape", [(2, 3, 5, 4), (1, 1, 1, 1), (4, 8, 8, 32)], ids=str)
def test_spatial_mean_and_relu_are_their_definitions(shape):
    x = rng().standard_normal(shape)
    x.flat[0] = 0.0
    assert gap(nn.spatial_mean, nn.spatial_mean.definition, x) < EXACT
    assert gap(nn.relu, nn.relu.definition, x) < EXACT
    assert gap(lambda x: np.where(x >= 0, x, 0), nn.relu.definition, x) > 1e6 * EXACT  # slope 1 at 0


def test_nan_is_not_hidden():
    x = onp.array([onp.nan, -1.0]).reshape(1, 1, 2, 1)
    for relu in (nn.relu, nn.relu.definition):
        assert onp.isnan(relu(x)).ravel().tolist() == [True, False]
    assert onp.isnan(nn.max_pool2d(onp.full((1, 2, 2, 1), onp.nan), 2)).all()


def test_pools_say_what_does_not_fit():
    with pytest.raises(ValueError, match="3 x 3 window does not fit into 2 x 5"):
        nn.max_pool2d(onp.zeros((1, 2, 5, 1)), 3)
    with pytest.raises(ValueError, match="padding at most"):
        nn.max_pool2d(onp.zeros((1, 8, 8, 1)), 2, 2, 2)
    with pytest.raises(ValueError, match=r"avg_pool2d: x must be \(B, H, W, C\)"):
        nn.avg_pool2d(onp.zeros((8, 8, 1)), 2)
    with pytest.raises(ValueError, match="spatial_mean"):
        nn.spatial_mean(onp.zeros((2, 0, 3, 1)))


# ------------------------------------------------------------------------------------------ all image kernels


def layers(dtype):
    """Every image layer as a function of x (3, 6, 8, 4), with what else it is given."""
    r = rng(3)
    w, v = r.standard_normal((4, 4, 3, 3)).astype(dtype), r.standard_normal((4, 1, 3, 3)).astype(dtype)
    one = r.standard_normal((6, 4, 1, 1)).astype(dtype)
    (_, gamma, beta), state = bn_case((4, 4), dtype)
    return {
        "conv2d": lambda x: nn.conv2d(x, w, padding=1),
        "conv2d stride": lambda x: nn.conv2d(x, w, padding=1, stride=2),
        "conv2d 1x1": lambda x: nn.conv2d(x, one),
        "conv2d depthwise": lambda x: nn.conv2d(x, v, padding=1, groups=4),
        "batch_norm": lambda x: fused.batch_norm(x, gamma, beta, state, train=True, relu=True)[0],
        "batch_norm_relu_pool": lambda x: fused.batch_norm_relu_pool(x, gamma, beta, state, train=True)[0],
        "dense_block": lambda x: fused.dense_block(x, *dense_case(4, 2, 3, 2, dtype), train=True)[0],
        "batch_norm evaluation": lambda x: fused.batch_norm(x, gamma, beta, state, train=False)[0],
        "relu": nn.relu,
        "max_pool2d": lambda x: nn.max_pool2d(x, 2),
        "max_pool2d padded": lambda x: nn.max_pool2d(x, 3, 2, 1),
        "avg_pool2d": lambda x: nn.avg_pool2d(x, 2),
        "spatial_mean": nn.spatial_mean,
    }


LAYERS = list(layers(onp.float64))


@pytest.mark.parametrize("name", LAYERS)
def test_strided_input_changes_nothing_and_nothing_is_changed(name):
    f, x = layers(onp.float64)[name], rng(7).standard_normal((3, 6, 8, 4))
    strided = onp.asfortranarray(onp.pad(x, ((0, 0), (1, 1), (0, 0), (0, 0))))[:, 1:-1]
    assert not strided.flags.c_contiguous
    for a in (strided, x):
        a.flags.writeable = False
    vjp, y = make_vjp(f, x)
    g = rng(8).standard_normal(y.shape)
    g.flags.writeable = False
    kept = y.copy()
    dx = vjp(g)
    other, z = make_vjp(f, strided)
    assert (z == y).all()
    assert (other(onp.asfortranarray(g)) == dx).all()
    assert not onp.shares_memory(y, x)
    assert not any(onp.shares_memory(dx, a) for a in (x, y, g))
    dx[...] = 0  # as autograd may, adding to it
    assert (y == kept).all()
    assert (vjp(g) == other(g)).all()  # a second time, too


def test_no_gradient_is_computed_for_an_image_that_carries_none(monkeypatch):
    asked = []
    tiled = convolution.in_columns.backward
    spy = convolution.in_columns._replace(backward=lambda *a: asked.append(a[4:]) or tiled(*a))
    monkeypatch.setattr(convolution, "in_columns", spy)
    x, w = rng().standard_normal((2, 5, 5, 3)), rng().standard_normal((4, 3, 3, 3))
    grad(lambda w: np.sum(nn.conv2d(x, w) ** 2))(w)
    grad(lambda x: np.sum(nn.conv2d(x, w) ** 2))(x)
    assert asked == [(False, True), (True, False)]


def test_a_layer_runs_its_kernel_and_keeps_its_definition():
    called = []
    layer = nn.runs(lambda *a: called.append(a) or 5)(lambda x: 6)
    assert (layer(1), layer.definition(1), called) == (5, 6, [(1,)])
    for image_layer in (nn.conv2d, nn.batch_norm, nn.relu, nn.max_pool2d, nn.avg_pool2d, nn.spatial_mean):
        assert image_layer.definition is not image_layer


def test_where_every_tap_sees_padding_only_the_gradient_is_zero():
    """A 1x1 kernel with stride 3 and padding 1 over a map of one column meets no pixel of it."""
    x, w = rng().standard_normal((1, 3, 1, 3)), rng().standard_normal((2, 3, 1, 1))
    found = by_hand(lambda x, w: nn.conv2d(x, w, stride=3, padding=1), (x, w), onp.ones((1, 2, 1, 2)))
    assert not any(a.any() for a in found)

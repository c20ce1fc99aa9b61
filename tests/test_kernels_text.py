"""The transformer's kernels equal their definitions, value and gradient; and the comparison notices mistakes."""

import gc
import tracemalloc

import autograd.numpy as np
import fused
import numpy as onp
import pytest
from autograd import elementwise_grad, grad
from autograd.core import make_vjp
from kernel_checks import by_hand, gap
from scipy.special import ndtr

from bplcz_ref import nn
from bplcz_ref.kernels import attention as attention_module
from bplcz_ref.kernels import gelu as gelu_module
from bplcz_ref.kernels import layer_norm as layer_norm_module
from bplcz_ref.kernels.tape import on_tape

EXACT = 1e-12  # float64, relative to the largest entry

IDS = onp.array([[3, 0, 3, 8], [8, 8, 1, 3]])  # rows that come once, often and never
TREE = onp.array([[1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [1, 0, 1, 0, 0], [1, 1, 0, 1, 0], [1, 0, 1, 0, 1]], bool)

# name: (function of arrays and nn.layer or its definition, shapes of the arrays)
CASES = {
    "linear": (lambda f, *a: f(*a), "linear", [(3, 5, 7), (4, 7), (4,)]),
    "linear, no bias": (lambda f, *a: f(*a), "linear", [(6, 7), (4, 7)]),
    "linear, one row": (lambda f, *a: f(*a), "linear", [(7,), (4, 7), (4,)]),
    "linear, 1 x 1": (lambda f, *a: f(*a), "linear", [(1, 1, 1), (1, 1), (1,)]),
    "embedding": (lambda f, t: f(t, IDS), "embedding", [(9, 5)]),
    "embedding, one id": (lambda f, t: f(t, 2), "embedding", [(3, 5)]),
    "embedding, bytes": (lambda f, t: f(t, IDS.astype(onp.uint8)), "embedding", [(9, 1)]),
    "layer_norm": (lambda f, *a: f(*a), "layer_norm", [(3, 5, 7), (7,), (7,)]),
    "layer_norm, eps": (lambda f, *a: f(*a, eps=0.3), "layer_norm", [(1, 2), (2,), (2,)]),
    "layer_norm, one row": (lambda f, *a: f(*a), "layer_norm", [(16,), (16,), (16,)]),
    "gelu": (lambda f, x: f(3 * x), "gelu", [(3, 5, 7)]),
    "gelu, a number": (lambda f, x: f(x), "gelu", [()]),
    "quick_gelu": (lambda f, x: f(3 * x), "quick_gelu", [(3, 5, 7)]),
    "quick_gelu, a number": (lambda f, x: f(x), "quick_gelu", [()]),
    "attention": (lambda f, *a: f(*a), "attention", [(2, 3, 5, 4), (2, 3, 6, 4), (2, 3, 6, 2)]),
    "attention, flat": (lambda f, *a: f(*a), "attention", [(5, 4), (2, 4), (2, 3)]),
    "attention, batch 1": (lambda f, *a: f(*a), "attention", [(1, 1, 4), (1, 9, 4), (1, 9, 4)]),
    "attention, causal": (lambda f, *a: f(*a, causal=True), "attention", [(2, 3, 7, 4)] * 3),
    "attention, causal, flat": (lambda f, *a: f(*a, causal=True), "attention", [(9, 1)] * 3),
    "attention, tree": (lambda f, *a: f(*a, mask=TREE), "attention", [(2, 3, 5, 4)] * 3),
    "attention, a mask a batch": (
        lambda f, *a: f(*a, mask=onp.stack([TREE, TREE | TREE.T])[:, None]),
        "attention",
        [(2, 3, 5, 4)] * 3,
    ),
    "attention, hidden keys": (
        lambda f, *a: f(*a, mask=onp.array([True, False, True])),
        "attention",
        [(4, 4), (3, 4), (3, 2)],
    ),
    "attention, mask and causal": (
        lambda f, *a: f(*a, mask=TREE | TREE.T, causal=True),
        "attention",
        [(2, 5, 4)] * 3,
    ),
}
FORCED = [  # (scores a block, bytes kept, safe): the ways of attention, in blocks that do not divide the shapes
    (1 << 18, 1 << 24, 16),
    (1 << 18, 0, 16),
    (20, 1 << 24, 16),
    (20, 0, 16),
    (20, 0, 0),
    (1, 0, 0),
    (70, 1 << 24, 0),
    (70, 0, 0),
]


def draw(shapes, dtype=onp.float64, seed=0):
    r = onp.random.default_rng(seed)
    return [(r.standard_normal(s) + (0.5 if s else 0.3)).astype(dtype)[()] for s in shapes]


def both(name):
    call, layer, shapes = CASES[name]
    layer = getattr(nn, layer)
    return (lambda *a: call(layer, *a)), (lambda *a: call(layer.definition, *a)), shapes


@pytest.mark.parametrize("name", CASES)
def test_kernels_are_their_definitions(name):
    kernel, definition, shapes = both(name)
    assert gap(kernel, definition, *draw(shapes)) < EXACT


@pytest.mark.parametrize("name", [n for n in CASES if n.startswith("attention")])
@pytest.mark.parametrize("forced", FORCED, ids=str)
def test_attention_is_the_same_kept_or_computed_again_in_blocks_of_any_size(name, forced, monkeypatch):
    monkeypatch.setattr(attention_module, "BLOCK", forced[0])
    monkeypatch.setattr(attention_module, "KEEP", forced[1])
    monkeypatch.setattr(attention_module, "SAFE", forced[2])
    kernel, definition, shapes = both(name)
    assert gap(kernel, definition, *draw(shapes)) < EXACT


def test_blocks_that_do_not_divide_the_values_change_nothing(monkeypatch):
    monkeypatch.setattr(layer_norm_module, "NUMBERS", 15)  # two rows of 7
    monkeypatch.setattr(gelu_module, "NUMBERS", 4)
    for name in ("layer_norm", "gelu", "quick_gelu"):
        kernel, definition, shapes = both(name)
        assert gap(kernel, definition, *draw(shapes)) < EXACT


@pytest.mark.parametrize("name", CASES)
def test_gradients_of_all_arguments_at_once_are_those_taken_alone(name):
    kernel, _, shapes = both(name)
    args = draw(shapes)
    value, *alone = by_hand(kernel, args, kernel(*args))
    together = make_vjp(lambda a: kernel(*a), tuple(args))[0](value)
    assert all(onp.array_equal(a, b) for a, b in zip(alone, together, strict=True))


@pytest.mark.parametrize("name", CASES)
def test_arguments_of_any_memory_order_give_the_same_and_nothing_is_written_to(name):
    kernel, _, shapes = both(name)
    args = draw(shapes)
    strided = []
    for a in args:
        wide = onp.full([2 * n for n in onp.shape(a)][::-1], onp.nan)
        view = wide[tuple(slice(None, None, 2) for _ in onp.shape(a))].T if onp.ndim(a) else a
        if onp.ndim(a):
            view[...] = a
            view.setflags(write=False)
        strided.append(view)
    value = kernel(*args)
    g = onp.array(value)
    g.setflags(write=False)
    for a, b in zip(by_hand(kernel, args, g), by_hand(kernel, strided, g), strict=True):
        assert onp.max(abs(a - b)) <= EXACT * onp.max(abs(a))
    vjp, y = make_vjp(lambda a: kernel(*a), tuple(strided))  # twice from one tape: what was kept is intact
    assert all(onp.array_equal(a, b) for a, b in zip(vjp(g), vjp(g), strict=True))
    assert onp.allclose(y, value, rtol=EXACT)


@pytest.mark.parametrize("name", CASES)
def test_float32_stays_float32_and_is_as_accurate_as_the_definition(name):
    kernel, definition, shapes = both(name)
    single = draw(shapes, onp.float32)
    g = onp.asarray(draw([onp.shape(definition(*single))], onp.float32, seed=3)[0])
    ours, theirs = by_hand(kernel, single, g), by_hand(definition, single, g)
    true = by_hand(definition, [onp.asarray(a, onp.float64)[()] for a in single], onp.asarray(g, onp.float64))
    for k, d, t in zip(ours, theirs, true, strict=True):
        assert k.dtype == onp.float32
        # Both round a few times to 2^-24 of what they add; the sums of these shapes have at most 64 terms.
        size = onp.max(abs(t))
        assert onp.max(abs(k - t)) <= 3 * onp.max(abs(d - t)) + 4 * 2**-24 * size


@pytest.mark.parametrize("name", CASES)
def test_a_float64_cotangent_or_neighbour_does_not_change_the_dtype_of_a_gradient(name):
    kernel, definition, shapes = both(name)
    single = draw(shapes, onp.float32)
    value = onp.asarray(kernel(*single), onp.float64)
    assert all(d.dtype == onp.float32 for d in make_vjp(lambda a: kernel(*a), tuple(single))[0](value))
    if len(shapes) > 1:  # float32 by float64 gives float64, as NumPy does; the gradient keeps its argument's
        mixed = [single[0], *draw(shapes[1:])]
        y, *gradients = by_hand(kernel, mixed, value)
        assert y.dtype == definition(*mixed).dtype == onp.float64
        assert [d.dtype for d in gradients] == [a.dtype for a in mixed]


# ----------------------------------------------------------------------------------------------- wrong code


def one_too_many(q, k, v):  # causal, but query i also sees key i + 1
    return nn.attention(q, k, v, mask=onp.tri(7, 7, 1, dtype=bool))


def embedding_with(scatter):
    def backward(g, wanted, shape):
        table = onp.zeros(shape)
        scatter(table, g)
        return [table]

    return on_tape("wrong", lambda table, *, wanted: (table[IDS], table.shape), backward)


def plus_equals(table, g):
    table[IDS] += g  # looks like addition; each row is read once and the last sum wins


def tanh_gelu(x):
    return 1.5 * x * (1 + np.tanh((2 / np.pi) ** 0.5 * (3 * x + 0.044715 * (3 * x) ** 3)))


def without_density(x):  # GELU with the slope Phi(x) alone
    forward = lambda x, *, wanted: (x * ndtr(x), x)
    return on_tape("wrong", forward, lambda g, wanted, x: [g * ndtr(x)])(3 * x)


MISTAKES = {
    "mask lets the next token through": ("attention, causal", one_too_many),
    "tanh for erf": ("gelu", tanh_gelu),
    "no density in GELU's slope": ("gelu", without_density),
    "another eps": ("layer_norm", lambda *a: nn.layer_norm(*a, eps=1.01e-5)),
    "table[ids] += g": ("embedding", embedding_with(plus_equals)),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_the_comparison_notices(mistake):
    name, wrong = MISTAKES[mistake]
    _, definition, shapes = both(name)
    assert gap(wrong, definition, *draw(shapes)) > 1e3 * EXACT


def test_the_wrong_embedding_is_right_without_its_mistake():
    _, definition, shapes = both("embedding")
    right = embedding_with(lambda table, g: onp.add.at(table, IDS, g))
    assert gap(right, definition, *draw(shapes)) < EXACT


# -------------------------------------------------------------------------------------------- known numbers


def test_numbers_worked_by_hand():
    x = onp.array([[1.0, 2.0, 6.0]])  # mean 3, deviations -2 -1 3, var 14/3
    y = nn.layer_norm(x, onp.ones(3), onp.zeros(3), eps=13 / 3)  # var + eps = 9
    assert onp.allclose(y, [[-2 / 3, -1 / 3, 1]], rtol=EXACT)
    assert grad(lambda t: nn.embedding(t, [1, 1, 0])[:, 0].sum())(onp.zeros((3, 1))).tolist() == [[1], [2], [0]]
    q, k, v = onp.array([[2.0]]), onp.array([[onp.log(3.0) / 2], [0.0]]), onp.array([[4.0], [8.0]])
    assert onp.allclose(nn.attention(q, k, v), 3 / 4 * 4 + 1 / 4 * 8, rtol=EXACT)
    assert elementwise_grad(nn.gelu)(onp.zeros(2)).tolist() == [0.5, 0.5]
    assert elementwise_grad(nn.quick_gelu)(onp.zeros(2)).tolist() == [0.5, 0.5]


def test_gelu_in_float32_is_within_two_roundings_of_the_exact_one():
    x = onp.concatenate([onp.linspace(-14, 14, 200_001), [0, 1e-30, 1e10, -1e10, 1e25, -1e25]]).astype("f4")
    wide = x.astype(onp.float64)
    with onp.errstate(all="raise", under="ignore"):
        y, slope = nn.gelu(x), elementwise_grad(nn.gelu)(x)
    with onp.errstate(over="ignore"):
        density = onp.exp(-(wide**2) / 2) / onp.sqrt(2 * onp.pi)
    assert (abs(y - wide * ndtr(wide)) <= 2**-22 * abs(wide)).all()
    assert (abs(slope - ndtr(wide) - wide * density) <= 2**-22).all()
    assert onp.isnan(nn.gelu(onp.float32([onp.nan]))).all()


@pytest.mark.parametrize("length", [15.9, 16.1, 400.0])
def test_one_long_query_and_one_long_key_decide_whether_scores_are_safe(length):
    rng = onp.random.default_rng(3)
    q, k, v = (rng.standard_normal((2, 5, 4)).astype(onp.float32) * onp.float32(0.01) for _ in range(3))
    q[1, 3], k[1, 2] = [2.0, 0, 0, 0], [length, 0, 0, 0]  # one score of `length` after the division by 2
    y = attention_module.attention(q, k, v)
    exact = nn.attention.definition(*(a.astype(onp.float64) for a in (q, k, v)))
    assert abs(y - exact).max() < 1e-6 * abs(exact).max()
    *_, top, _, _ = attention_module.forward(q, k, v, wanted=(0,), causal=False, mask=None)[1]
    assert (top is None) == (length < 16), "the two passes are left out only where no score can overflow"


@pytest.mark.parametrize("dtype", [onp.float32, onp.float64])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("keep", [1 << 24, 0])
def test_scores_of_ten_thousand_neither_overflow_nor_lose_the_sum(dtype, causal, keep, monkeypatch):
    monkeypatch.setattr(attention_module, "KEEP", keep)
    q, k, v = (a.astype(dtype) for a in draw([(2, 6, 4)] * 3))
    q *= dtype(1e4)
    with onp.errstate(over="raise", invalid="raise", divide="raise"):
        y, *gradients = by_hand(lambda *a: nn.attention(*a, causal=causal), (q, k, v), onp.ones_like(q))
    assert all(onp.isfinite(a).all() for a in (y, *gradients))
    # The gradient of sum(y) by v adds up to the number of queries, as the weights of each add up to 1.
    assert onp.allclose(gradients[2].sum(axis=1), 6, rtol=8 * onp.finfo(dtype).eps)
    if dtype == onp.float64:
        true = by_hand(lambda *a: nn.attention.definition(*a, causal=causal), (q, k, v), onp.ones_like(q))
        sizes = [abs(v).max(), abs(v).max() * abs(k).max(), abs(v).max() * abs(q).max(), 6]  # of what is added
        for ours, theirs, size in zip((y, *gradients), true, sizes, strict=True):
            assert abs(ours - theirs).max() < 1e4 * EXACT * size  # a score of 1e4 is rounded 1e4 times as much


def test_layer_norm_far_from_zero_keeps_its_variance():
    x = draw([(4, 64)])[0] + 1e6  # E[x^2] - mean^2 would keep 4 digits of the variance
    y = nn.layer_norm(x, onp.ones(64), onp.zeros(64))
    assert onp.allclose(y, nn.layer_norm(x - 1e6, onp.ones(64), onp.zeros(64)), atol=1e-8)


# -------------------------------------------------------------------------------------- memory, tape, threads


def traced(action):
    gc.collect()
    tracemalloc.start()
    result = action()
    gc.collect()
    current, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return result, current, peak


@pytest.mark.slow
@pytest.mark.parametrize(
    "options", [{}, {"causal": True}, {"mask": onp.tri(1024, dtype=bool)}], ids=["full", "causal", "mask"]
)
def test_attention_never_holds_the_map_when_it_is_large(options, monkeypatch):
    monkeypatch.setenv("BPLCZ_THREADS", "2")
    q, k, v = (a.astype(onp.float32) for a in draw([(4, 4, 1024, 16)] * 3))
    array, block, whole = q.nbytes, 4 * attention_module.BLOCK, 4 * 4 * 1024 * 1024 * 4
    assert whole > attention_module.KEEP

    def step():
        vjp, y = make_vjp(lambda a: nn.attention(*a, **options), (q, k, v))
        return vjp(y)

    _, _, peak = traced(step)
    # 12 arrays: scaled q, copies, y, h, three gradients; 5 blocks a thread: scores, weights, mask
    assert peak < 12 * array + 2 * 5 * block < whole / 2


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["linear", "embedding", "layer_norm", "gelu", "quick_gelu", "attention", "attention, tree"]
)
def test_nothing_is_kept_without_a_tape_and_nothing_after_the_tape(name):
    call, layer, shapes = CASES[name]
    layer, args = getattr(nn, layer), draw(shapes)
    if name in ("gelu", "quick_gelu"):
        args = [onp.ones(50_000)]
    make_vjp(lambda a: call(layer, *a), tuple(args))
    y, current, _ = traced(lambda: call(layer, *args))
    assert current < y.nbytes + 4000

    def steps():  # often enough that a few forgotten numbers a step would show
        for _ in range(60):
            make_vjp(lambda a: call(layer, *a), tuple(args))[0](y)

    _, current, _ = traced(steps)
    assert current < 4000


@pytest.mark.parametrize("options", [{}, {"causal": True}, {"mask": TREE}], ids=["full", "causal", "mask"])
def test_large_attention_is_the_same_bits_on_any_number_of_threads(options, monkeypatch):
    monkeypatch.setattr(attention_module, "KEEP", 0)
    monkeypatch.setattr(attention_module, "BLOCK", 40)
    args = draw([(11, 5, 4)] * 3)
    results = []
    for number in ("1", "2", "5"):
        monkeypatch.setenv("BPLCZ_THREADS", number)
        results.append(by_hand(lambda *a: nn.attention(*a, **options), args, args[0]))
    for other in results[1:]:
        assert all(onp.array_equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize("layer", ["linear", "layer_norm", "gelu", "quick_gelu", "attention"])
def test_second_derivatives_are_an_error_in_the_kernel_and_work_in_the_definition(layer):
    kernel, definition, shapes = both(layer)
    x, *rest = draw(shapes)
    for loss in (
        lambda f: lambda c: np.sum(grad(lambda a: np.sum(f(a, *rest) ** 2))(c)),  # through the argument
        lambda f: lambda c: np.sum(grad(lambda a: np.sum(f(a, *rest) * np.sum(c)))(x)),  # through the cotangent
    ):
        with pytest.raises(NotImplementedError, match=f"nn.{layer}.definition"):
            grad(loss(kernel))(x)
        assert onp.isfinite(grad(loss(definition))(x)).all()


# ------------------------------------------------------------------------------------------- edges and errors


def test_empty_batches_give_empty_results_and_zero_gradients():
    w, b = draw([(4, 7), (4,)])
    y, dx, dw, db = by_hand(nn.linear, (onp.zeros((0, 3, 7)), w, b), onp.zeros((0, 3, 4)))
    assert (y.shape, dx.shape) == ((0, 3, 4), (0, 3, 7))
    assert not dw.any()
    assert not db.any()
    assert nn.linear(onp.zeros((2, 0)), onp.zeros((4, 0)), b).tolist() == [b.tolist()] * 2
    y, dt = by_hand(lambda t: nn.embedding(t, onp.zeros((2, 0), int)), (w,), onp.zeros((2, 0, 7)))
    assert y.shape == (2, 0, 7)
    assert not dt.any()
    y, dx, dw, db = by_hand(nn.layer_norm, (onp.zeros((0, 4)), b, b), onp.zeros((0, 4)))
    assert (y.shape, dx.shape, dw.tolist(), db.tolist()) == ((0, 4), (0, 4), [0] * 4, [0] * 4)
    y, dx = by_hand(nn.gelu, (onp.zeros((0, 4)),), onp.zeros((0, 4)))
    assert y.shape == dx.shape == (0, 4)
    for lead, Q in (((0, 2), 5), ((3,), 0)):
        args = onp.zeros((*lead, Q, 4)), onp.zeros((*lead, 5, 4)), onp.zeros((*lead, 5, 2))
        y, *gradients = by_hand(nn.attention, args, onp.zeros((*lead, Q, 2)))
        assert y.shape == (*lead, Q, 2)
        assert [d.shape for d in gradients] == [a.shape for a in args]
        assert not any(d.any() for d in gradients)


Z = onp.zeros


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: nn.linear(Z((2, 3)), Z((4, 5))), r"x of shape \(\.\.\., 5\).*got \(2, 3\)"),
        (lambda: nn.linear(Z((2, 3)), Z((4, 3)), Z(3)), r"bias of shape \(4,\).*got \(3,\)"),
        (lambda: nn.embedding(Z((3, 2)), [0, 3]), r"ids in 0\.\.2.*got 0\.\.3"),
        (lambda: nn.embedding(Z((3, 2)), [0.0]), "integer ids, got float64"),
        (lambda: nn.embedding(Z(3), [0]), r"table of shape \(V, d\), got \(3,\)"),
        (lambda: nn.layer_norm(Z((2, 3)), Z(2), Z(3)), r"weight of shape \(3,\).*got \(2,\)"),
        (lambda: nn.layer_norm(Z((2, 0)), Z(0), Z(0)), r"1 or more features, got x \(2, 0\)"),
        (lambda: nn.attention(Z((2, 3)), Z((4, 2)), Z((4, 3))), r"got q \(2, 3\), k \(4, 2\), v \(4, 3\)"),
        (lambda: nn.attention(Z((2, 2, 3)), Z((1, 4, 3)), Z((1, 4, 3))), "equal leading axes"),
        (lambda: nn.attention(Z((2, 3)), Z((0, 3)), Z((0, 3))), "one key"),
        (lambda: nn.attention(Z((2, 3)), Z((4, 3)), Z((4, 3)), causal=True), "2 queries and 4 keys"),
        (lambda: nn.attention(Z((2, 3)), Z((4, 3)), Z((4, 3)), mask=Z((2, 4))), "boolean.*float64"),
        (lambda: nn.attention(Z((2, 3)), Z((4, 3)), Z((4, 3)), mask=Z((3, 4), bool)), r"\(2, 4\).*\(3, 4\)"),
        (lambda: nn.attention(Z((2, 3)), Z((4, 3)), Z((4, 3)), mask=Z((2, 4), bool)), "without a key"),
        (lambda: nn.attention(*[Z((2, 3))] * 3, mask=~onp.eye(2, dtype=bool), causal=True), "without a key"),
    ],
)
def test_errors_name_the_shapes(call, words):
    with pytest.raises(ValueError, match=words):
        call()


# ---------------------------------------------------------------------------------------- a transformer's block


def block_case(N, L, width, heads, each, hidden, bias=True, keep=False):
    r = onp.random.default_rng(2)
    inner = heads * each
    shapes = [
        (width,),
        (width,),
        (3 * inner, width),
        (width, inner),
        (width,),
        (width,),
        (width,),
        (hidden, width),
    ]
    arrays = [
        r.standard_normal(s) / 2
        for s in ((N, L, width), *shapes, (hidden,), (width, hidden), (width,), (3 * inner,))
    ]
    factors = [(r.random((N, L, w)) > 0.3) / 0.7 for w in (width, hidden, width)] if keep else None

    def call(f, **options):
        def block(x, w1, b1, W_qkv, W_out, b_out, w2, b2, W_up, b_up, W_down, b_down, b_qkv=None):
            pairs = (w1, b1), (W_qkv, b_qkv), (W_out, b_out), (w2, b2), (W_up, b_up), (W_down, b_down)
            return f(x, *pairs, heads=heads, keep=factors, **options)

        return block

    return arrays if bias else arrays[:-1], call


SEEN = onp.tril(onp.ones((5, 5), bool)) & (onp.arange(5)[:, None] - onp.arange(5) != 2)
BLOCKS = {
    "ExViT's": ((2, 6, 5, 2, 3, 7, False, True), {"activation": "gelu"}),
    "CLIP's": ((3, 5, 8, 2, 4, 9), {"activation": "quick_gelu", "causal": True}),
    "on a tree": ((3, 5, 8, 2, 4, 9), {"activation": "quick_gelu", "mask": SEEN}),
    "a tree each": (
        (2, 5, 4, 1, 4, 3),
        {"activation": "quick_gelu", "mask": onp.stack([SEEN, SEEN.T | SEEN])[:, None]},
    ),
    "of ones": ((1, 1, 1, 1, 1, 1, True, True), {"activation": "gelu"}),
}


@pytest.mark.parametrize("name", BLOCKS)
def test_transformer_block_is_its_definition(name):
    sizes, options = BLOCKS[name]
    arrays, call = block_case(*sizes)
    kernel, definition = (
        call(f, **options) for f in (fused.transformer_block, fused.transformer_block.definition)
    )
    assert gap(kernel, definition, *arrays) < 20 * EXACT
    x, *rest = arrays
    strided = onp.asfortranarray(onp.repeat(x, 2, axis=1))[:, ::2]
    assert gap(kernel, definition, strided, *rest) < 20 * EXACT
    value, *alone = by_hand(kernel, arrays, kernel(*arrays))
    together = make_vjp(lambda a: kernel(*a), tuple(arrays))[0](value)
    assert all(onp.array_equal(a, b) for a, b in zip(alone, together, strict=True))
    single = [a.astype(onp.float32) for a in arrays]
    sizes_in = block_case(*sizes)[1](fused.transformer_block, **options)
    assert all(a.dtype == onp.float32 for a in by_hand(sizes_in, single, kernel(*arrays).astype(onp.float32)))


def test_the_comparison_notices_a_wrong_block():
    sizes, options = BLOCKS["ExViT's"]
    arrays, call = block_case(*sizes)
    definition = call(fused.transformer_block.definition, **options)

    def wrong(change):
        return lambda *a, **o: call(lambda *b, **p: change(b, p), **options)(*a, **o)

    def post_norm(b, p):
        return fused.transformer_block.definition(nn.layer_norm(b[0], *b[1]), *b[1:], **p)

    def keys_before_queries(b, p):
        w = b[2][0]
        k = len(w) // 3
        swapped = (np.concatenate([w[k : 2 * k], w[:k], w[2 * k :]]), b[2][1])
        return fused.transformer_block.definition(b[0], b[1], swapped, *b[3:], **p)

    def no_dropout(b, p):
        return fused.transformer_block.definition(*b, **p | {"keep": None})

    for change in (post_norm, keys_before_queries, no_dropout):
        assert gap(wrong(change), definition, *arrays) > 1e6 * EXACT


def test_transformer_block_says_what_does_not_fit():
    arrays, call = block_case(2, 5, 8, 2, 4, 9)
    block = call(fused.transformer_block, activation="gelu")
    with pytest.raises(ValueError, match=r"2 heads needs qkv \(3 I, 7\)"):
        block(arrays[0][..., :7], *arrays[1:])
    with pytest.raises(ValueError, match="a query without a key"):
        call(fused.transformer_block, activation="gelu", mask=onp.zeros((5, 5), bool))(*arrays)

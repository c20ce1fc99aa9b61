"""Every kernel equals its definition in nn, value and gradient; and the comparison used here notices mistakes."""

import gc
import tracemalloc

import autograd.numpy as anp
import numpy as np
import pytest
from autograd import grad
from autograd.core import make_vjp
from scipy.special import ndtr

from bplcz_ref import nn
from bplcz_ref.kernels import activation, lines, norm, transformer
from bplcz_ref.kernels import dense_block as dense_blocks
from bplcz_ref.kernels.tape import on_tape
from bplcz_ref.layers import in_heads

EXACT = 1e-11  # float64, relative to the largest entry
TREE = np.array([[1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [1, 0, 1, 0, 0], [1, 1, 0, 1, 0], [1, 0, 1, 0, 1]], bool)
KEYS = np.array([True, False, True])
STATE = {"running_mean": np.array([0.5, 1.0, -2.0]), "running_var": np.array([1.0, 0.3, 2.0])}
STATE["num_batches_tracked"] = np.array(3)

# ----------------------------------------------------- the comparison; definitions of what kernels fuse


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


# --------------------------------------------------------------------------------------------------- cases


def state_of(channels):
    return {k: v if v.ndim == 0 else np.resize(v, channels) for k, v in STATE.items()}


def normed(train, relu=False):
    def call(f, x, w, b, plus=None):
        return f(x, w, b, state_of(x.shape[-1]), train=train, relu=relu, plus=plus)[0]

    return call


def dense(f, x, *arrays):
    layers, states = [], []
    for w1, b1, W1, w2, b2, W2 in zip(*[iter(arrays)] * 6, strict=True):
        first, second = {"weight": w1, "bias": b1}, {"weight": w2, "bias": b2}
        layers.append({"norm1": first, "conv1": {"weight": W1}, "norm2": second, "conv2": {"weight": W2}})
        states.append({"norm1": state_of(len(w1)), "norm2": state_of(len(w2))})
    return f(x, layers, states)[0]


def layer(c, m, growth):  # shapes of a layer of a dense block
    return [(c,), (c,), (m, c, 1, 1), (m,), (m,), (growth, m, 3, 3)]


def block(keep=False, heads=2, **options):
    def call(f, x, w1, b1, W_qkv, W_out, b_out, w2, b2, W_up, b_up, W_down, b_down, b_qkv=None):
        pairs = (w1, b1), (W_qkv, b_qkv), (W_out, b_out), (w2, b2), (W_up, b_up), (W_down, b_down)
        r, width, hidden = np.random.default_rng(2), x.shape[2], len(b_up)
        factors = [((r.random((*x.shape[:2], w)) > 0.3) / 0.7).astype(x.dtype) for w in (width, hidden, width)]
        return f(x, *pairs, heads=heads, keep=factors if keep else None, **options)

    return call


def blocks(N, L, width, inner, hidden, bias=True):  # shapes of a transformer's block
    shapes = [(N, L, width), (width,), (width,), (3 * inner, width), (width, inner), (width,), (width,), (width,)]
    return [*shapes, (hidden, width), (hidden,), (width, hidden), (width,), *([(3 * inner,)] if bias else [])]


CLIP = {"activation": "quick_gelu"}
SELF = [(2, 3, 5, 4)] * 3
# name: (how a layer f is called with arrays, the layer, the arrays' shapes)
# fmt: off
CASES = {
    "linear": (lambda f, *a: f(*a), nn.linear, [(3, 5, 7), (4, 7), (4,)]),
    "linear, no bias": (lambda f, *a: f(*a), nn.linear, [(6, 7), (4, 7)]),
    "linear, one row": (lambda f, *a: f(*a), nn.linear, [(7,), (4, 7), (4,)]),
    "linear, 1 x 1": (lambda f, *a: f(*a), nn.linear, [(1, 1, 1), (1, 1), (1,)]),
    "layer_norm": (lambda f, *a: f(*a), nn.layer_norm, [(3, 5, 7), (7,), (7,)]),
    "layer_norm, eps": (lambda f, *a: f(*a, eps=0.3), nn.layer_norm, [(1, 2), (2,), (2,)]),
    "layer_norm, one row": (lambda f, *a: f(*a), nn.layer_norm, [(16,), (16,), (16,)]),
    "relu": (lambda f, x: f(x), nn.relu, [(2, 3, 5, 4)]),
    "gelu": (lambda f, x: f(3 * x), nn.gelu, [(3, 5, 7)]),
    "gelu, a number": (lambda f, x: f(x), nn.gelu, [()]),
    "quick_gelu": (lambda f, x: f(3 * x), nn.quick_gelu, [(3, 5, 7)]),
    "quick_gelu, a number": (lambda f, x: f(x), nn.quick_gelu, [()]),
    "attention": (lambda f, *a: f(*a), nn.attention, [(2, 3, 5, 4), (2, 3, 6, 4), (2, 3, 6, 2)]),
    "attention, flat": (lambda f, *a: f(*a), nn.attention, [(5, 4), (2, 4), (2, 3)]),
    "attention, batch 1": (lambda f, *a: f(*a), nn.attention, [(1, 1, 4), (1, 9, 4), (1, 9, 4)]),
    "attention, causal": (lambda f, *a: f(*a, causal=True), nn.attention, [(2, 3, 7, 4)] * 3),
    "attention, causal, flat": (lambda f, *a: f(*a, causal=True), nn.attention, [(9, 1)] * 3),
    "attention, tree": (lambda f, *a: f(*a, mask=TREE), nn.attention, SELF),
    "attention, a mask a batch": (
        lambda f, *a: f(*a, mask=np.stack([TREE, TREE | TREE.T])[:, None]), nn.attention, SELF),
    "attention, hidden keys": (lambda f, *a: f(*a, mask=KEYS), nn.attention, [(4, 4), (3, 4), (3, 2)]),
    "attention, mask and causal": (
        lambda f, *a: f(*a, mask=TREE | TREE.T, causal=True), nn.attention, [(2, 5, 4)] * 3),
    "conv2d": (lambda f, *a: f(*a, padding=1), nn.conv2d, [(3, 6, 8, 4), (4, 4, 3, 3), (4,)]),
    "conv2d, stride": (lambda f, *a: f(*a, padding=1, stride=2), nn.conv2d, [(3, 6, 8, 4), (4, 4, 3, 3)]),
    "conv2d, 1x1": (lambda f, *a: f(*a), nn.conv2d, [(3, 6, 8, 4), (6, 4, 1, 1)]),
    "conv2d, few pixels": (lambda f, *a: f(*a, padding=1), nn.conv2d, [(3, 2, 4, 4), (32, 4, 3, 3)]),
    "conv2d, depthwise": (lambda f, *a: f(*a, padding=1, groups=4), nn.conv2d, [(3, 9, 8, 4), (4, 1, 3, 3), (4,)]),
    "conv2d, depthwise, few": (lambda f, *a: f(*a, padding=1, groups=4), nn.conv2d, [(3, 6, 8, 4), (4, 1, 3, 3)]),
    "max_pool2d": (lambda f, x: f(x, 2), nn.max_pool2d, [(3, 6, 8, 4)]),
    "max_pool2d, padded": (lambda f, x: f(x, 3, 2, 1), nn.max_pool2d, [(3, 5, 7, 4)]),
    "avg_pool2d": (lambda f, x: f(x, 2), nn.avg_pool2d, [(3, 6, 8, 4)]),
    "avg_pool2d, overlapping": (lambda f, x: f(x, 3, 2), nn.avg_pool2d, [(3, 6, 7, 4)]),
    "avg_pool2d, of one": (lambda f, x: f(x, 1, 3), nn.avg_pool2d, [(2, 5, 6, 3)]),
    "spatial_mean": (lambda f, x: f(x), nn.spatial_mean, [(3, 6, 8, 4)]),
    "batch_norm": (normed(True), batch_norm, [(3, 5, 7, 3), (3,), (3,)]),
    "batch_norm, evaluation": (normed(False), batch_norm, [(3, 5, 7, 3), (3,), (3,)]),
    "batch_norm, two values": (normed(True), batch_norm, [(2, 1), (1,), (1,)]),
    "batch_norm, lines": (normed(True, True), batch_norm, [(40, 16, 16, 24), (24,), (24,)]),
    "batch_norm, relu": (normed(True, True), batch_norm, [(1, 3, 1, 5), (5,), (5,)]),
    "batch_norm, relu, evaluation": (normed(False, True), batch_norm, [(2, 3000), (3000,), (3000,)]),
    "batch_norm, sum": (normed(True), batch_norm, [(3, 5, 7, 3), (3,), (3,), (3, 5, 7, 3)]),
    "batch_norm, sum, relu": (normed(True, True), batch_norm, [(4, 8, 8, 16), (16,), (16,), (4, 8, 8, 16)]),
    "batch_norm, sum, evaluation": (normed(False, True), batch_norm, [(3, 7, 3), (3,), (3,), (3, 7, 3)]),
    "dense_block": (dense, dense_block, [(2, 4, 4, 6), *layer(6, 8, 4), *layer(10, 8, 4), *layer(14, 8, 4)]),
    "dense_block, of ones": (dense, dense_block, [(3, 1, 5, 1), *layer(1, 1, 1)]),
    "ExViT's block": (block(True, activation="gelu"), transformer_block, blocks(2, 6, 5, 6, 7, False)),
    "CLIP's block": (block(causal=True, **CLIP), transformer_block, blocks(3, 5, 8, 8, 9)),
    "CLIP's block on a tree": (block(mask=TREE, **CLIP), transformer_block, blocks(3, 5, 8, 8, 9)),
    "a tree each": (
        block(heads=1, mask=np.stack([TREE, TREE | TREE.T])[:, None], **CLIP),
        transformer_block, blocks(2, 5, 4, 4, 3)),
    "linear, empty": (lambda f, *a: f(*a), nn.linear, [(0, 3, 7), (4, 7), (4,)]),
    "linear, no features": (lambda f, *a: f(*a), nn.linear, [(2, 0), (4, 0)]),
    "layer_norm, empty": (lambda f, *a: f(*a), nn.layer_norm, [(0, 4), (4,), (4,)]),
    "gelu, empty": (lambda f, x: f(x), nn.gelu, [(0, 4)]),
    "attention, empty": (lambda f, *a: f(*a), nn.attention, [(0, 2, 5, 4), (0, 2, 5, 4), (0, 2, 5, 2)]),
    "attention, no query": (lambda f, *a: f(*a), nn.attention, [(3, 0, 4), (3, 5, 4), (3, 5, 2)]),
    "a block of ones": (block(True, 1, activation="gelu"), transformer_block, blocks(1, 1, 1, 1, 1)),
}
# fmt: on
SMOOTH = [n for n in CASES if not n.startswith(("relu", "max_pool")) and "lines" not in n]


def draw(shapes, dtype=np.float64, seed=0):
    r = np.random.default_rng(seed)
    return [(r.standard_normal(s) + (0.5 if s else 0.3)).astype(dtype)[()] for s in shapes]


def both(name):
    call, layer, shapes = CASES[name]
    return (lambda *a: call(layer, *a)), (lambda *a: call(layer.definition, *a)), shapes


@pytest.mark.parametrize("name", CASES)
def test_kernels_are_their_definitions(name):
    kernel, definition, shapes = both(name)
    assert gap(kernel, definition, *draw(shapes)) < EXACT


@pytest.mark.parametrize("name", CASES)
def test_any_memory_order_gives_the_same_and_nothing_is_changed(name):
    """Gradients of all arguments at once are those taken alone, and a second way back gives the same bits."""
    kernel, _, shapes = both(name)
    args = draw(shapes)
    strided = []
    for a in args:
        wide = np.full([2 * n for n in np.shape(a)][::-1], np.nan)
        view = wide[tuple(slice(None, None, 2) for _ in np.shape(a))].T if np.ndim(a) else a
        if np.ndim(a):
            view[...] = a
            view.setflags(write=False)
        strided.append(view)
    value = kernel(*args)
    g = np.array(value)
    g.setflags(write=False)
    for a, b in zip(by_hand(kernel, args, g), by_hand(kernel, strided, np.asfortranarray(g)), strict=True):
        assert largest(a - b) <= EXACT * largest(a)
    vjp, y = make_vjp(lambda a: kernel(*a), tuple(args))
    first, kept = vjp(g), np.array(y)
    again = [np.array(a) for a in first]
    for a, alone in zip(first, by_hand(kernel, args, g)[1:], strict=True):
        assert largest(a - alone) <= EXACT * largest(alone)
        if np.ndim(a):
            assert not any(np.shares_memory(a, b) for b in (*args, y, g))
            a[...] = 0  # as autograd may, adding to it
    assert (y == kept).all()
    assert all((a == b).all() for a, b in zip(vjp(g), again, strict=True))


@pytest.mark.parametrize("name", SMOOTH)
def test_float32_stays_float32_and_is_as_accurate_as_the_definition(name):
    kernel, definition, shapes = both(name)
    single = draw(shapes, np.float32)
    g = np.asarray(draw([np.shape(kernel(*single))], np.float32, seed=3)[0])
    ours, theirs = by_hand(kernel, single, g), by_hand(definition, single, g)
    true = by_hand(definition, [np.asarray(a, np.float64)[()] for a in single], np.asarray(g, np.float64))
    for k, d, t in zip(ours, theirs, true, strict=True):
        assert k.dtype == np.float32
        roundings = 64 if "block" in name or "tree each" in name else 8  # in a chain of layers each adds its own
        assert largest(k - t) <= 3 * largest(d - t) + roundings * 2**-24 * largest(t)
    value = np.asarray(ours[0], np.float64)
    assert all(d.dtype == np.float32 for d in make_vjp(lambda a: kernel(*a), tuple(single))[0](value))
    if len(shapes) > 1:  # float32 by float64 gives float64, as NumPy does; the gradient keeps its argument's
        mixed = [single[0], *draw(shapes[1:])]
        y, *gradients = by_hand(kernel, mixed, value)
        assert y.dtype == np.float64
        assert [d.dtype for d in gradients] == [a.dtype for a in mixed]


def test_blocks_that_do_not_divide_the_values_change_nothing(monkeypatch):
    monkeypatch.setattr(norm, "NUMBERS", 15)  # two rows of 7
    monkeypatch.setattr(lines, "NUMBERS", 15)
    monkeypatch.setattr(activation, "NUMBERS", 4)
    for name in ("layer_norm", "gelu", "quick_gelu", "batch_norm", "batch_norm, sum, relu"):
        kernel, definition, shapes = both(name)
        assert gap(kernel, definition, *draw(shapes)) < EXACT


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_nothing_is_kept_after_the_tape(name, monkeypatch):
    """And there is no cycle, whose arrays would stay until the collector comes."""
    monkeypatch.setenv("BPLCZ_THREADS", "1")  # a thread that begins keeps a kilobyte
    kernel, _, shapes = both(name)
    args = draw(shapes)
    y = kernel(*args)

    def step():
        make_vjp(lambda a: kernel(*a), tuple(args))[0](y)

    step()
    gc.collect()
    gc.disable()
    step()
    assert gc.collect() == 0
    gc.enable()
    tracemalloc.start()
    for _ in range(30):  # often enough that a few forgotten numbers a step would show
        step()
    gc.collect()
    kept = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert kept < 15_000


@pytest.mark.parametrize("name", ["linear", "layer_norm", "gelu", "quick_gelu", "attention", "conv2d", "relu"])
def test_second_derivatives_are_an_error_in_the_kernel_and_work_in_the_definition(name):
    kernel, definition, shapes = both(name)
    x, *rest = draw(shapes)
    for loss in (
        lambda f: lambda c: anp.sum(grad(lambda a: anp.sum(f(a, *rest) ** 2))(c)),  # through the argument
        lambda f: lambda c: anp.sum(grad(lambda a: anp.sum(f(a, *rest) * anp.sum(c)))(x)),  # through the cotangent
    ):
        with pytest.raises(NotImplementedError, match=f"nn.{name}.definition"):
            grad(loss(kernel))(x)
        assert np.isfinite(grad(loss(definition))(x)).all()


# -------------------------------------------------------------------------------------------------- messages

Z = np.zeros
X, W = Z((1, 4, 4, 6)), Z((4, 3, 3, 3))
# fmt: off
MESSAGES = [
    (lambda: nn.linear(Z((2, 3)), Z((4, 5))), r"weight \(O, C\).*got \(2, 3\), \(4, 5\)"),
    (lambda: nn.linear(Z((2, 3)), Z((4, 3)), Z(3)), r"bias \(O,\), got .*, \(3,\)"),
    (lambda: nn.embedding(Z((3, 2)), [0, 3]), r"ids in 0\.\.2.*got 0\.\.3"),
    (lambda: nn.embedding(Z((3, 2)), [0.0]), "integer ids, got float64"),
    (lambda: nn.embedding(Z((3, 2)), [-1]), r"ids in 0\.\.2.*got -1\.\.-1"),
    (lambda: nn.layer_norm(Z((2, 3)), Z(2), Z(3)), r"weight \(d,\).*got \(2, 3\), \(2,\), \(3,\)"),
    (lambda: nn.layer_norm(Z((2, 0)), Z(0), Z(0)), r"d 1 or more.*got \(2, 0\)"),
    (lambda: nn.attention(Z((2, 3)), Z((4, 2)), Z((4, 3))), r"got q \(2, 3\), k \(4, 2\), v \(4, 3\)"),
    (lambda: nn.attention(Z((2, 2, 3)), Z((1, 4, 3)), Z((1, 4, 3))), "equal leading axes"),
    (lambda: nn.attention(Z((2, 3)), Z((0, 3)), Z((0, 3))), "one key"),
    (lambda: nn.attention(Z((2, 3)), Z((4, 3)), Z((4, 3)), causal=True), "2 queries and 4 keys"),
    (lambda: nn.attention(Z((2, 3)), Z((4, 3)), Z((4, 3)), mask=Z((2, 4))), "boolean.*float64"),
    (lambda: nn.attention(Z((2, 3)), Z((4, 3)), Z((4, 3)), mask=Z((3, 4), bool)), r"\(2, 4\).*\(3, 4\)"),
    (lambda: nn.attention(Z((2, 3)), Z((4, 3)), Z((4, 3)), mask=Z((2, 4), bool)), "without a key"),
    (lambda: nn.attention(*[Z((2, 3))] * 3, mask=~np.eye(2, dtype=bool), causal=True), "without a key"),
    (lambda: nn.conv2d(X, W), r"6 channels .* 3 channels each in 1 groups"),
    (lambda: nn.conv2d(Z((1, 4, 4, 9)), W, groups=3), "O divisible by groups"),
    (lambda: nn.conv2d(X[:, :2], W, groups=2), "3 x 3 kernel does not fit into 2 x 4 pixels with padding 0"),
    (lambda: nn.conv2d(X, W, Z(3), groups=2), r"bias must be \(4,\)"),
    (lambda: nn.conv2d(X, W, groups=2, stride=0), "stride"),
    (lambda: nn.conv2d(X[0], W), r"x must be \(B, H, W, C\)"),
    (lambda: nn.batch_norm(Z((1, 3)), *Z((2, 3)), STATE, train=True), "2 or more values per channel, got 1"),
    (lambda: nn.batch_norm(Z((4, 3)), Z(2), Z(3), STATE, train=True), r"weight must be \(3,\)"),
    (lambda: nn.batch_norm(Z((4, 2)), *Z((2, 2)), STATE, train=False), r"running_mean must be \(2,\)"),
    (lambda: batch_norm(Z((4, 3)), *Z((2, 3)), STATE, train=False, plus=Z((4, 1))), "plus must have the shape"),
    (lambda: dense(dense_block, Z((2, 4, 4, 5)), *map(Z, layer(4, 3, 2))), "x has 5 channels"),
    (lambda: dense(dense_block, Z((1, 1, 1, 4)), *map(Z, layer(4, 3, 2))), "2 or more values per channel"),
    (lambda: nn.max_pool2d(Z((1, 2, 5, 1)), 3), "must fit into .*found 2 x 5 pixels, size 3"),
    (lambda: nn.max_pool2d(Z((1, 8, 8, 1)), 2, 2, 2), "padding at most"),
    (lambda: nn.avg_pool2d(Z((8, 8, 1)), 2), r"avg_pool2d: x must be \(B, H, W, C\)"),
    (lambda: nn.spatial_mean(Z((2, 0, 3, 1))), "spatial_mean"),
]
# fmt: on


@pytest.mark.parametrize(("call", "words"), MESSAGES)
def test_errors_name_the_shapes(call, words):
    with pytest.raises(ValueError, match=words):
        call()


# ----------------------------------------------------------------------------------------------- wrong code


def without_density(x):  # GELU with the slope Phi(x) alone
    return on_tape("wrong")(lambda x, *, wanted: (x * ndtr(x), lambda g: [g * ndtr(x)]))(3 * x)


def one_sided(x, w, b):  # all padding above and to the left
    x = anp.pad(x, ((0, 0), (2, 0), (2, 0), (0, 0)), "constant")
    return nn.conv2d.definition(x, w, b)


def post_norm(f, x, norm1, *rest, **options):
    return transformer_block.definition(nn.layer_norm(x, *norm1), norm1, *rest, **options)


def keys_first(f, x, norm1, qkv, *rest, **options):
    q, k, v = anp.split(qkv[0], 3)
    return transformer_block.definition(x, norm1, (anp.concatenate([k, q, v]), qkv[1]), *rest, **options)


def in_block(wrong):
    call, f, _ = CASES["ExViT's block"]
    return lambda *a: call(lambda *b, **o: wrong(f, *b, **o), *a)


MISTAKES = {  # what is wrong: (the case, the wrong layer)
    "mask lets the next token through": (
        "attention, causal",
        lambda *a: nn.attention(*a, mask=np.tri(7, 7, 1) > 0),
    ),
    "tanh for erf": (
        "gelu",
        lambda x: 1.5 * x * (1 + anp.tanh((2 / np.pi) ** 0.5 * (3 * x + 0.044715 * (3 * x) ** 3))),
    ),
    "no density in GELU's slope": ("gelu", without_density),
    "another eps": ("layer_norm", lambda *a: nn.layer_norm(*a, eps=1.01e-5)),
    "a flipped kernel": ("conv2d", lambda x, w, b: nn.conv2d(x, w[:, :, ::-1, ::-1], b, padding=1)),
    "padding on one side": ("conv2d", one_sided),
    "frozen statistics": ("batch_norm", lambda *a: normed(False)(batch_norm, *a)),
    "the sum after relu": ("batch_norm, sum, relu", lambda *a: normed(True, True)(batch_norm, *a[:3]) + a[3]),
    "the largest for the mean": ("avg_pool2d", lambda x: nn.max_pool2d(x, 2)),
    "post-norm": ("ExViT's block", in_block(post_norm)),
    "keys before queries": ("ExViT's block", in_block(keys_first)),
    "no dropout": ("ExViT's block", in_block(lambda f, *a, keep, **o: f.definition(*a, **o))),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_the_comparison_notices(mistake):
    name, wrong = MISTAKES[mistake]
    _, definition, shapes = both(name)
    assert gap(wrong, definition, *draw(shapes)) > 1e2 * EXACT

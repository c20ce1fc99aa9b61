"""A network is a list of named layers: its initial values, its names and its value all come from the list.

    encoder = serial(
        ("conv1", conv(3, 8)), ("bn1", batch_norm(8)), relu, max_pool(2),
        spatial_mean, ("proj", linear(8, 5)),
    )

A layer is a Network, two pure functions; so is a list of layers, and whatever else has the two functions may stand
in a list. The names are those of the parameters: ("conv1", conv(3, 8)) has "conv1.weight".

    serial      y = f_n(... f_2(f_1(x)))
    add         y = x + F(x), F a list; with a shortcut, y = shortcut(x) + F(x)
    dense       y = [x, F(x)], the new channels last

Layers compute what nn.py defines. What a kernel computes at once, such as batch norm and relu, is
decided by the table FUSED at the end of this file from what follows what in the list, and nowhere else.

`watching` shows every layer of a network to a function, which may also answer in its place.

Index letters are those of nn.py: B batch, H W rows and columns, C channels, O output channels, L tokens.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import takewhile
from typing import Any, NamedTuple

import autograd.numpy as np
from numpy.random import Generator
from numpy.typing import DTypeLike

from bplcz_ref import nn
from bplcz_ref.kernels.dense_block import dense_block as dense_block_kernel
from bplcz_ref.kernels.norm import batch_norm as batch_norm_kernel
from bplcz_ref.kernels.transformer import transformer_block as transformer_block_kernel

Part = tuple[str, "Network"]


class Network(NamedTuple):
    """A layer, or a network of layers, as two pure functions.

    init(rng, dtype) -> (params, state): nested dicts of arrays; params are trained, state is measured.
    apply(params, state, x, *, train, rng=None) -> (y, new state): rng is needed only for dropout in training.

    The rest is for networks made in this file: kind is what FUSED goes by, parts are the named layers of a list,
    options are the arguments of a plain layer beside arrays.
    """

    init: Callable
    apply: Callable
    kind: str = "network"
    parts: tuple[Part, ...] = ()
    options: dict = {}


# ---------------------------------------------------------------------------------------------------- lists


def serial(*parts: Part | Network, first: str | None = None) -> Network:
    """One layer after the other. A part is (name, layer), or a layer alone, whose names then belong to the list.

    A name that ends in "_" is joined to the layer's own: ("in_proj_", linear(...)) has "in_proj_weight".
    `first` is the part whose initial values are drawn first and whose names come first, where the public
    state_dict has them so.

    >>> network = serial(("conv1", conv(3, 4)), ("bn1", batch_norm(4)), relu, spatial_mean, ("fc", linear(4, 2)))
    >>> params, state = network.init(np.random.default_rng(0), "float32")
    >>> {name: list(own) for name, own in params.items()}
    {'conv1': ['weight'], 'bn1': ['weight', 'bias'], 'fc': ['weight', 'bias']}
    >>> y, state = network.apply(params, state, np.ones((5, 8, 8, 3), "f"), train=True)
    >>> y.shape, list(state)
    ((5, 2), ['bn1'])
    """
    named: list[Part] = [("", part) if isinstance(part, Network) else part for part in parts]
    steps = fused(named)

    def init(rng, dtype):
        params, state = {}, {}
        for name, layer in sorted(named, key=lambda part: first is not None and part[0] != first):
            own, measured = layer.init(rng, dtype)
            params |= outside(name, own)
            state |= outside(name, measured)
        return params, state

    def apply(params, state, x, *, train, rng=None):
        new: dict = {}
        for name, layer in named if watched() else steps:
            x, own = Call(name, layer, inside(name, params), inside(name, state), x, train, rng).answer()
            new |= outside(name, own)
        return x, new

    return Network(init, apply, "serial", tuple(named))


FUSED: list[Callable] = []  # the table, at the end of this file


def fused(parts: list[Part]) -> list[Part]:
    """The parts, those that a kernel computes at once as one."""
    steps = []
    while parts:
        found = (row(parts) for row in FUSED)
        n, step = next(filter(None, found), (1, parts[0]))
        steps.append(step)
        parts = parts[n:]
    return steps


def nothing(rng: Generator, dtype: DTypeLike) -> tuple[dict, dict]:
    """The initial values of a layer without parameters."""
    return {}, {}


def add(*body: Part | Network, shortcut: Part | None = None, first: str | None = None) -> Network:
    """x + F(x), F the body; or shortcut(x) + F(x), where F changes the shape of x."""
    F, S = serial(*body, first=first), serial(shortcut) if shortcut else identity
    both = serial(F, S)

    def apply(params, state, x, *, train, rng=None):
        y, new = F.apply(params, state, x, train=train, rng=rng)
        x, own = S.apply(params, state, x, train=train, rng=rng)
        return x + y, new | own

    return Network(both.init, apply, "add", both.parts)


def dense(*body: Part | Network) -> Network:  # (..., C) -> (..., C + O)
    """[x, F(x)] along the last axis, F the body: what comes after sees both."""
    F = serial(*body)

    def apply(params, state, x, *, train, rng=None):
        y, new = F.apply(params, state, x, train=train, rng=rng)
        return np.concatenate([x, y], axis=-1), new

    return Network(F.init, apply, "dense", F.parts)


def inside(name: str, tree: Any) -> Any:
    """What `tree` has under a part's name."""
    if not name:
        return tree
    if name.endswith("_"):
        return {key.removeprefix(name): tree[key] for key in tree if key.startswith(name)}
    return tree.get(name, {})


def outside(name: str, own: Any) -> dict:
    """The inverse of `inside`: a part's own tree under its name; nothing for a part that has nothing."""
    if isinstance(own, dict) and (not own or not name):
        return own
    return {name + key: leaf for key, leaf in own.items()} if name.endswith("_") else {name: own}


# ------------------------------------------------------------------------------------------- to see a layer


class Call(NamedTuple):
    """A layer at work: its name, what it is, and what it is given. Those who watch see the dotted name."""

    name: str
    layer: Network
    params: Any
    state: dict
    x: Any
    train: bool
    rng: Generator | None = None

    def answer(self) -> tuple[Any, dict]:
        """(y, new state), by whoever watches; a list without a name is not shown, only the layers inside it."""
        seen = WATCH.get()
        if seen is None or (self.layer.parts and not self.name):
            return self.layer.apply(self.params, self.state, self.x, train=self.train, rng=self.rng)
        watch, path = seen
        return watch(self._replace(name=".".join(filter(None, (path, self.name.rstrip("_"))))))

    def run(self, x: Any = None) -> tuple[Any, dict]:
        """(y, new state) of the layer as it is, for its x or another; the layers inside it are seen in turn."""
        watch, _ = WATCH.get()  # type: ignore[misc]
        with watching(watch, self.name):
            x = self.x if x is None else x
            return self.layer.apply(self.params, self.state, x, train=self.train, rng=self.rng)


def side_by_side(calls: Sequence[Call]) -> tuple[list, list]:  # -> every y, every new state
    """Networks that share nothing, on as many cores as there are; the same bits as one after the other."""

    def function(call):
        return lambda given: call._replace(params=given[0], x=given[1]).answer()

    run = nn.concurrently.definition if watched() else nn.concurrently  # whoever watches does so in one thread
    return run([function(call) for call in calls], [(call.params, call.x) for call in calls])


WATCH: ContextVar[tuple[Callable, str] | None] = ContextVar("WATCH", default=None)  # (the function, where it is)


@contextmanager
def watching(watch: Callable[[Call], tuple[Any, dict]], under: str = "") -> Iterator[None]:
    """In this context every layer is answered by watch(call) -> (y, new state), in the order of computation.

    The plain answer is call.run(). Lists that have a name are shown before the layers inside them; a layer without
    a name has that of its list. Nothing is fused, and everything runs in one thread. `under` precedes all names.

    >>> def watch(call):
    ...     y, state = call.run()
    ...     print(call.name, call.layer.kind, call.x.shape, "->", y.shape)
    ...     return y, state
    >>> head = serial(("norm", layer_norm(4)), ("fc", linear(4, 2)), gelu)
    >>> params, _ = head.init(np.random.default_rng(0), "float32")
    >>> with watching(watch):
    ...     y, _ = head.apply(params, {}, np.ones((3, 4), "f"), train=True)
    norm layer_norm (3, 4) -> (3, 4)
    fc linear (3, 4) -> (3, 2)
     gelu (3, 2) -> (3, 2)
    """
    token = WATCH.set((watch, under))
    try:
        yield
    finally:
        WATCH.reset(token)


def watched() -> bool:
    """Whether somebody watches in this context."""
    return WATCH.get() is not None


# ------------------------------------------------------------------------------------------- initial values
#
# A rule is a function of (rng, the shape of a weight) -> (weight, bias) in float64, so that both dtypes start from
# the same numbers. A weight's shape is (outputs, inputs, ...); with groups, the inputs of one group.


def normal(std: float) -> Callable:
    """Weights normal with this standard deviation, biases 0."""

    def rule(rng, shape):
        return rng.standard_normal(shape) * std, np.zeros(shape[0])

    return rule


def fan_out(rng: Generator, shape: tuple) -> tuple:
    """He et al. (2015): normal with standard deviation sqrt(2 / n), n the weights that leave one input.

    n = outputs * kh * kw counts all groups, as in torchvision; the other reading is what one input reaches.
    """
    return normal((2 / (shape[0] * math.prod(shape[2:]))) ** 0.5)(rng, shape)


def fan_in(rng: Generator, shape: tuple) -> tuple:
    """He et al. (2015): normal with standard deviation sqrt(2 / n), n the weights that enter one output."""
    return normal((2 / math.prod(shape[1:])) ** 0.5)(rng, shape)


def uniform(rng: Generator, shape: tuple) -> tuple:
    """PyTorch's default: weights and biases uniform within 1 / sqrt(n), n the weights that enter one output."""
    bound = math.prod(shape[1:]) ** -0.5
    return rng.uniform(-bound, bound, shape), rng.uniform(-bound, bound, shape[0])


def neutral(rng: Generator, shape: tuple) -> tuple:
    """Weights 1, biases 0."""
    return np.ones(shape), np.zeros(shape)


def weight_and_bias(rule: Callable, shape: tuple, bias: bool = True) -> Callable:
    """The init of a layer with "weight" and "bias"; a bias that is not wanted is drawn all the same."""

    def init(rng, dtype):
        weight, offset = (array.astype(dtype) for array in rule(rng, shape))
        weight = kernel_order(weight) if len(shape) == 4 else weight
        return {"weight": weight} | ({"bias": offset} if bias else {}), {}

    return init


def kernel_order(weight: np.ndarray) -> np.ndarray:  # (O, C, kh, kw) -> the same
    """The same weight, in memory as (kh, kw, C, O): convolutions multiply by it as it is, without a copy.

    >>> weight = np.arange(12.0).reshape(3, 1, 2, 2)
    >>> bool((kernel_order(weight) == weight).all()), kernel_order(weight).transpose(2, 3, 1, 0).flags.c_contiguous
    (True, True)
    """
    return np.ascontiguousarray(weight.transpose(2, 3, 1, 0)).transpose(3, 2, 0, 1)


# ---------------------------------------------------------------------------------------------- plain layers


def plain(
    op: Callable, init: Callable | None = None, kind: str = "", needs: tuple = (), **options: Any
) -> Network:
    """A layer that calls op(x, **params, **options); `needs` names what op takes of state, train and rng.

    Its kind has the options, so that a kernel that knows none of them does not take the layer (FUSED).
    """

    def apply(params, state, x, *, train, rng=None):
        given = {"state": state, "train": train, "rng": rng}
        own = params if init else {}  # a layer without a name is handed what its list has
        y = op(x, **own, **options, **{name: given[name] for name in needs})
        return y if isinstance(y, tuple) else (y, {})

    kind = kind or f"{getattr(op, '__name__', 'layer')} {options or ''}".rstrip()
    return Network(init or nothing, apply, kind, options=options)


def parameter(op: Callable, shape: tuple, start: Callable) -> Network:
    """A layer whose only parameter is an array, under the name of the layer itself: op(x, array)."""
    return Network(
        lambda rng, dtype: (start(rng, shape)[0].astype(dtype), {}),
        lambda params, state, x, *, train, rng=None: (op(x, params), {}),
        "parameter",
    )


relu, gelu, quick_gelu, spatial_mean = (plain(f) for f in (nn.relu, nn.gelu, nn.quick_gelu, nn.spatial_mean))
identity = plain(lambda x: x, kind="identity")


def linear(inputs: int, outputs: int, *, bias: bool = True, start: Callable = uniform) -> Network:
    """nn.linear over the last axis; weight (outputs, inputs), bias (outputs,)."""
    kind = "linear" if bias else "linear without bias"
    return plain(nn.linear, weight_and_bias(start, (outputs, inputs), bias), kind)


def conv(
    inputs: int,
    outputs: int,
    kernel: int = 3,
    stride: int = 1,
    groups: int = 1,
    *,
    padding: int | None = None,
    bias: bool = False,
    start: Callable = fan_out,
) -> Network:  # (B, H, W, inputs) -> (B, H', W', outputs)
    """nn.conv2d; padding defaults to kernel // 2, which keeps H and W of an odd kernel at stride 1."""
    init = weight_and_bias(start, (outputs, inputs // groups, kernel, kernel), bias)
    options: dict = {"stride": stride, "padding": kernel // 2 if padding is None else padding, "groups": groups}
    return plain(nn.conv2d, init, f"conv2d {kernel}x{kernel} {options}{' with bias' * bias}", **options)


def batch_norm(channels: int) -> Network:
    """nn.batch_norm. Weight 1, bias 0; running mean 0, running variance 1, no batch seen."""

    def init(rng, dtype):
        state = {
            "running_mean": np.zeros(channels, dtype),
            "running_var": np.ones(channels, dtype),
            "num_batches_tracked": np.array(0),
        }
        return weight_and_bias(neutral, (channels,))(rng, dtype)[0], state

    return plain(nn.batch_norm, init, needs=("state", "train"))


def layer_norm(features: int, eps: float = 1e-5) -> Network:
    """nn.layer_norm over the last axis. Weight 1, bias 0."""
    kind = "layer_norm" if eps == 1e-5 else f"layer_norm {eps}"
    return plain(nn.layer_norm, weight_and_bias(neutral, (features,)), kind, eps=eps)


def embedding(rows: int, width: int, start: Callable) -> Network:  # ints (...) -> (..., width)
    """nn.embedding: rows of a table by their numbers."""
    init = weight_and_bias(start, (rows, width), bias=False)
    return plain(lambda ids, weight: nn.embedding(weight, ids), init, "embedding")


def max_pool(size: int, stride: int | None = None, padding: int = 0) -> Network:
    """nn.max_pool2d; stride defaults to size."""
    options: dict = {"size": size, "stride": stride or size, "padding": padding}
    return plain(nn.max_pool2d, **options)


def avg_pool(size: int) -> Network:
    """nn.avg_pool2d of windows side by side."""
    return plain(nn.avg_pool2d, size=size)


def dropout(rate: float) -> Network:
    """nn.dropout: in training, each value is 0 with probability `rate`, otherwise divided by 1 - rate."""
    return plain(nn.dropout, kind="dropout", needs=("train", "rng"), rate=rate)


def attend(heads: int, **seen: Any) -> Network:  # (N, L, 3 I) -> (N, L, I)
    """nn.attention of queries, keys and values that lie side by side, each by its heads.

    `seen` is nn.attention's causal=True or mask=...; without it every token sees every other.
    """

    def attention(x):
        N, L, _ = x.shape
        q, k, v = (in_heads(part, heads) for part in np.split(x, 3, axis=-1))
        return np.reshape(np.transpose(nn.attention(q, k, v, **seen), (0, 2, 1, 3)), (N, L, -1))

    return plain(attention)._replace(options={"heads": heads} | seen)


def in_heads(x: np.ndarray, heads: int) -> np.ndarray:  # (N, L, I) -> (N, heads, L, I / heads)
    """The features of each token by heads, and these before the tokens."""
    N, L, _ = x.shape
    return np.transpose(np.reshape(x, (N, L, heads, -1)), (0, 2, 1, 3))


# -------------------------------------------------------------------- what kernels compute at once: the table
#
# A row is a function of the next parts of a list -> (n, part): the part computes the first n of them at once, from
# the same parameters; None where its kernel does not take them. Value and gradients are those of the parts one by
# one: tests/test_layers.py compares every row with the same list under `watching`.

Found = tuple[int, Part] | None
NORM_RELU = batch_norm(1), relu
DENSE = dense(
    ("norm1", batch_norm(1)), relu, ("conv1", conv(1, 1, 1)),
    ("norm2", batch_norm(1)), relu, ("conv2", conv(1, 1, 3)),
)  # fmt: skip
CLIPS_BLOCK = (
    add(layer_norm(1), linear(1, 3), attend(1), linear(1, 1)),
    add(layer_norm(1), linear(1, 1), quick_gelu, linear(1, 1)),
)
EXVITS_BLOCK = (
    add(layer_norm(1), linear(1, 3, bias=False), attend(1), linear(1, 1), dropout(0.1)),
    add(layer_norm(1), linear(1, 1), gelu, dropout(0.1), linear(1, 1), dropout(0.1)),
)


def norm_relu(parts: list[Part]) -> Found:
    """relu(batch_norm(x))."""
    if not like(parts, NORM_RELU):
        return None
    name, norm = parts[0]
    return 2, (name, plain(batch_norm_kernel, norm.init, needs=("state", "train"), relu=True))


def norm_sum_relu(parts: list[Part]) -> Found:
    """relu(x + F(x)), or with shortcut(x), where F ends in a batch norm: this also adds and takes the relu."""
    if [layer.kind for _, layer in parts[:2]] != ["add", "relu"]:
        return None
    name, residual = parts[0]
    (_, F), (_, shortcut) = residual.parts
    *inner, (last, norm) = F.parts
    if norm.kind != "batch_norm":
        return None
    start = serial(*inner)

    def apply(params, state, x, *, train, rng=None):
        y, new = start.apply(params, state, x, train=train, rng=rng)
        x, measured = shortcut.apply(params, state, x, train=train, rng=rng)
        own, moving = inside(last, params), inside(last, state)
        y, moved = batch_norm_kernel(y, **own, state=moving, train=train, plus=x, relu=True)
        return y, new | outside(last, moved) | measured

    return 2, (name, Network(nothing, apply))


def dense_block(parts: list[Part]) -> Found:
    """x <- [x, conv2(relu(norm2(conv1(relu(norm1(x))))))], as often as it comes, under torchvision's names."""

    def outline(layer):
        return layer.kind, [(name, part.kind) for name, part in layer.parts]

    block = [*takewhile(lambda part: outline(part[1]) == outline(DENSE), parts)]
    names = [name for name, _ in block]

    def apply(params, state, x, *, train, rng=None):
        if not train:
            for name, layer in block:
                x, _ = layer.apply(params[name], state[name], x, train=False)
            return x, {name: state[name] for name in names}
        y, new = dense_block_kernel(x, *([tree[name] for name in names] for tree in (params, state)))
        return y, dict(zip(names, new, strict=True))

    return (len(block), ("", Network(nothing, apply))) if block else None


def transformer_block(parts: list[Part]) -> Found:
    """x <- x + attention(LN(x)), then x + perceptron(LN(x)), with or without dropout."""
    if not (like(parts, CLIPS_BLOCK) or like(parts, EXVITS_BLOCK)):
        return None
    block = parts[:2]
    inner = [layer for layer, _ in leaves(block, {})]
    seen = next(layer.options for layer in inner if layer.kind == "attention")
    activation = next(layer.kind for layer in inner if layer.kind in ("gelu", "quick_gelu"))
    rates = [layer.options["rate"] for layer in inner if layer.kind == "dropout"]

    def apply(params, state, x, *, train, rng=None):
        pairs = [(own["weight"], own.get("bias")) for _, own in leaves(block, params) if own]
        keep = None
        if train and any(rates):
            N, L, width = x.shape
            widths = width, pairs[4][0].shape[0], width  # in the order in which the parts draw
            shapes = [((N, L, w), rate) for w, rate in zip(widths, rates, strict=True)]
            keep = [nn.dropout_factors(rng, shape, rate, x.dtype) for shape, rate in shapes]
        return transformer_block_kernel(x, *pairs, activation=activation, keep=keep, **seen), {}

    return 2, ("", Network(nothing, apply))


def leaves(parts: Sequence[Part], tree: Any) -> list[tuple[Network, Any]]:
    """Each plain layer of the parts, in order, with what `tree` has for it; {} for those without parameters."""
    found: list = []
    for name, layer in parts:
        own = {} if layer.init is nothing else inside(name, tree)
        found += leaves(layer.parts, own) if layer.parts else [(layer, own)]
    return found


def like(parts: list[Part], layers: Sequence[Network]) -> bool:
    """Whether the parts begin with such layers, of any sizes."""
    return [structure(layer) for _, layer in parts[: len(layers)]] == [structure(layer) for layer in layers]


def structure(layer: Network) -> Any:
    """What a layer is: its kind; for lists, add and dense a tuple of their kind and the structures inside.

    >>> structure(dense(("norm", layer_norm(4)), serial(("fc", linear(4, 4)), gelu)))
    ('dense', 'layer_norm', 'linear', 'gelu')
    """
    if not layer.parts:
        return layer.kind
    found: list = []
    for _, part in layer.parts:
        own = structure(part)
        found += own[1:] if part.kind == "serial" else [own]
    return (layer.kind, *found)


FUSED += [norm_relu, norm_sum_relu, dense_block, transformer_block]

"""One layer computed again from the input that theirs has: whether it is right by itself, and if not, how it errs.

What a layer gives may differ only because of what it took. Computed again from their own input it must agree
within its own rounding alone, which is much less than what all layers before it may have gathered; and if it does
not, the ways in which such a layer is got wrong can be tried on that same input.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from autograd import make_vjp

from bplcz_ref import nn
from bplcz_ref.conform.numbers import BITS, EPS, FACTOR, coarse
from bplcz_ref.conform.tracing import FEW, size


class Alone(NamedTuple):
    """A layer by itself, from their input; all arrays are laid out as ours."""

    name: str
    op: str
    options: dict
    given: dict  # x, weight, bias
    parameters: dict  # weight -> its name
    state: dict  # a batch norm's running values before the step
    y: np.ndarray  # theirs
    first: bool  # whether theirs came with its channels first


def alone(
    name: str, x: np.ndarray, y: np.ndarray, ours: dict, graph: dict, x_first: bool, y_first: bool
) -> Alone | None:
    """The layer `name` with their input and output, each perhaps channels-first; None if it cannot be computed."""
    call = graph.get(name, {}).get("call")
    if not call or not all(f"step0.{parameter}" in ours for parameter in call["arguments"].values()):
        return None
    given = {key: np.asarray(ours[f"step0.{n}"], np.float64) for key, n in call["arguments"].items()}
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    takes = given["weight"].shape[-1 if call["op"] == "linear" else 0]
    if call["op"] == "conv2d":
        takes = given["weight"].shape[1] * call["options"].get("groups", 1)
    x = np.moveaxis(x, 1, -1) if x_first and x.ndim == 4 else x
    y = np.moveaxis(y, 1, -1) if y_first and y.ndim == 4 else y
    if x.ndim < 2 or x.shape[-1] != takes or not np.isfinite(x).all():
        return None
    state: dict[str, Any] = {"num_batches_tracked": 0}
    for key, neutral in (("running_mean", 0.0), ("running_var", 1.0)):
        kept = ours.get(f"step0.{name}.{key}")
        state[key] = np.full(takes, neutral) if kept is None else np.asarray(kept, np.float64)
    return Alone(name, call["op"], call["options"], {"x": x} | given, call["arguments"], state, y, y_first)


def computed(layer: Alone, given: dict) -> np.ndarray:
    """The layer as it is."""
    if layer.op == "batch_norm":
        return nn.batch_norm(**given, state=layer.state, **{"train": True} | layer.options)[0]
    return getattr(nn, layer.op)(**given, **layer.options)


def disturbed(a: np.ndarray, dtype: str, rng: np.random.Generator) -> np.ndarray:
    """`a` in a dtype, each number off by up to eps."""
    return (a * (1 + EPS[dtype] * rng.uniform(-1, 1, a.shape))).astype(dtype)


def output(layer: Alone, dtype: str) -> tuple[np.ndarray, np.ndarray]:
    """(what the layer gives from their input, what rounding may change of it)."""
    right = computed(layer, layer.given)
    terms = layer.given["weight"][0].size  # of the sum behind one number
    if layer.op in ("batch_norm", "layer_norm"):
        x = layer.given["x"]
        terms = x.shape[-1] if layer.op == "layer_norm" else x.size // x.shape[-1]
    rng = np.random.default_rng(0)
    near = {key: disturbed(a, dtype, rng) for key, a in layer.given.items()}
    return right, allowed(right, computed(layer, near), terms, dtype)


def allowed(
    right: np.ndarray, near: np.ndarray, terms: int, dtype: str, uncancelled: np.ndarray | None = None
) -> np.ndarray:
    """What rounding may change, from a run with a rounding error in every number that enters.

    Errors of n terms, each of eps of its term, add up to about eps sqrt(n) t for terms of size t. A sum taken term
    by term is rounded n times, at partial sums that grow like sqrt(k) t, which adds up to eps n t / 4: sqrt(n) / 4
    times as much. Twice that is allowed, and never less than FACTOR times the measured error. `uncancelled` is a
    sum of the same terms with signs at random: how large partial sums are where the terms cancel in the end.
    """
    factor = max(FACTOR, terms**0.5 / 2)
    scale = size(right) if uncancelled is None else np.maximum(size(right), size(uncancelled))
    return factor * size(near.astype(np.float64) - right) + factor / 2 * EPS[dtype] * scale


def gradients(layer: Alone, g: np.ndarray, dtype: str) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """{parameter: (its gradient, what rounding may change of it)}, from their input and gradient at the output."""
    g = np.asarray(g, np.float64)
    if layer.first and g.ndim == 4:
        g = np.moveaxis(g, 1, -1)
    if g.shape != layer.y.shape or not np.isfinite(g).all():
        return {}
    rng = np.random.default_rng(0)
    near = slopes(layer, {k: disturbed(a, dtype, rng) for k, a in layer.given.items()}, disturbed(g, dtype, rng))
    right, signs = slopes(layer, layer.given, g), rng.choice([-1.0, 1.0], g.shape)
    loose = slopes(layer, layer.given, g * signs)
    terms = g.size // g.shape[-1]
    if (
        layer.op == "batch_norm"
    ):  # the mean's own rounding moves z at all places alike, so it is multiplied by sum g
        x, axes = layer.given["x"], tuple(range(g.ndim - 1))
        moved = x.mean(axes) / np.sqrt(x.var(axes) + layer.options.get("eps", 1e-5))
        loose["weight"] = np.maximum(np.abs(loose["weight"]), np.abs(moved * right["bias"]))
    return {
        name: (right[key], FEW * allowed(right[key], near[key], terms, dtype, loose[key]))
        for key, name in layer.parameters.items()
    }


def slopes(layer: Alone, given: dict, g: np.ndarray) -> dict:
    """The gradients of the layer's parameters for g at its output."""
    x, parameters = given["x"], {key: a for key, a in given.items() if key != "x"}
    vjp, _ = make_vjp(lambda own: computed(layer, {"x": x, **{key: own[key] for key in parameters}}))(parameters)
    return vjp(g)


def reading(layer: Alone, fits: Callable) -> Iterator[str]:
    """The wrong reading that comes nearest to their output, if any fits; then formats with fewer bits."""
    fitting = {}
    for words, wrong in READINGS[layer.op](layer.given, layer.options, layer.state):
        with np.errstate(all="ignore"):
            y = wrong()
        if fits(y, layer.y):
            fitting[words] = size(y - layer.y)[0]
    if fitting:
        yield min(fitting, key=lambda words: fitting[words])
    right = computed(layer, layer.given)
    if layer.y.shape != right.shape:
        return
    distance = size(layer.y - right)[0]
    for short, also in (("bfloat16", ""), ("float16", ", as TF32 has them")):
        given = {key: coarse(a, short) if key in ("x", "weight") else a for key, a in layer.given.items()}
        result = computed(layer, given)
        if any(size(layer.y - r)[0] < distance / 4 for r in (result, coarse(result, short))):
            yield f"computed in {short}: it is ours with input and weight of {BITS[short]} bits{also}"


# ------------------------------------------------------------------------------------------------- wrong readings


def linear_readings(given: dict, options: dict, state: dict) -> Iterator[tuple[str, Callable]]:
    """Wrong linear maps."""
    x, w, b = given["x"], given["weight"], given.get("bias", 0.0)
    if w.shape[0] == w.shape[1]:
        yield "the weight transposed", lambda: x @ w + b
    if "bias" in given:
        yield "the bias left out", lambda: x @ w.T
        yield "the bias added twice", lambda: x @ w.T + 2 * b


def conv2d_readings(given: dict, options: dict, state: dict) -> Iterator[tuple[str, Callable]]:
    """Wrong convolutions."""
    x, w, p = given["x"], given["weight"], options.get("padding", 0)
    b = given.get("bias")
    stride, groups = options.get("stride", 1), options.get("groups", 1)

    def conv(x, w, b=b, **changed):
        return nn.conv2d(x, w, b, **{"stride": stride, "padding": 0, "groups": groups} | changed)

    def padded(before, after, mode="constant"):
        return np.pad(x, ((0, 0), (before, after), (before, after), (0, 0)), mode)  # type: ignore[call-overload]

    if w.shape[2] > 1:
        yield (
            "the kernel flipped: a convolution in the mathematical sense",
            lambda: conv(padded(p, p), w[:, :, ::-1, ::-1]),
        )
        yield "the kernel's rows and columns exchanged", lambda: conv(padded(p, p), np.swapaxes(w, 2, 3))
    if w.shape[0] == w.shape[1]:
        yield "the weight's inputs and outputs exchanged", lambda: conv(padded(p, p), np.swapaxes(w, 0, 1))
    if p and stride > 1:
        for before, after in [(k, k + 1) for k in range(p)] + [(k, 2 * p - k) for k in range(2 * p + 1) if k != p]:
            words = f"padding of {before} before and {after} after; expected {p} on both sides"
            yield words, lambda before=before, after=after: conv(padded(before, after), w)
    if p:
        for mode in ("reflect", "edge", "wrap"):
            yield f"padding by {mode} in place of zeros", lambda mode=mode: conv(padded(p, p, mode), w)
    if b is not None:
        yield "the bias left out", lambda: conv(padded(p, p), w, None)


EPSILONS = {1e-12: "1e-08 or less"} | {e: f"{e:g}" for e in (1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2)}


def layer_norm_readings(given: dict, options: dict, state: dict) -> Iterator[tuple[str, Callable]]:
    """Wrong layer norms."""
    x, w, b, eps = given["x"], given["weight"], given["bias"], options.get("eps", 1e-5)
    for other, written in EPSILONS.items():
        if other != eps:
            yield f"eps = {written}; expected {eps:g}", lambda e=other: nn.layer_norm(x, w, b, e)
    centred = x - x.mean(-1, keepdims=True)
    d = x.shape[-1]
    yield (
        "the variance divided by d - 1",
        lambda: centred / np.sqrt((centred**2).sum(-1, keepdims=True) / (d - 1) + eps) * w + b,
    )
    yield "eps outside the root", lambda: centred / (centred.std(-1, keepdims=True) + eps) * w + b
    yield "the mean not subtracted (RMS norm)", lambda: x / np.sqrt((x * x).mean(-1, keepdims=True) + eps) * w + b
    yield "weight and bias left out", lambda: centred / np.sqrt((centred**2).mean(-1, keepdims=True) + eps)


def batch_norm_readings(given: dict, options: dict, state: dict) -> Iterator[tuple[str, Callable]]:
    """Wrong batch norms."""
    x, w, b, eps = given["x"], given["weight"], given["bias"], options.get("eps", 1e-5)
    axes, N = tuple(range(x.ndim - 1)), x.size // x.shape[-1]
    mean, var = x.mean(axes), x.var(axes)

    def norm(mean=mean, var=var, eps=eps, w=w, b=b):
        return (x - mean) / np.sqrt(var + eps) * w + b

    for other, written in EPSILONS.items():
        if other != eps:
            yield f"eps = {written}; expected {eps:g}", lambda e=other: norm(eps=e)
    yield "the running statistics (evaluation mode)", lambda: norm(state["running_mean"], state["running_var"])
    if N > 1:
        yield "the variance divided by N - 1", lambda: norm(var=var * N / (N - 1))
    m = 0.1
    moved = {
        k: (1 - m) * state[f"running_{k}"] + m * v for k, v in (("mean", mean), ("var", var * N / max(1, N - 1)))
    }
    yield "the running statistics, moved by this batch first", lambda: norm(moved["mean"], moved["var"])
    yield "eps outside the root", lambda: (x - mean) / (np.sqrt(var) + eps) * w + b
    yield "weight and bias left out", lambda: norm(w=1.0, b=0.0)
    yield "weight + 1 in place of weight", lambda: norm(w=w + 1)
    if x.ndim == 4:
        per = x.mean((1, 2), keepdims=True), x.var((1, 2), keepdims=True)
        yield "statistics of each sample (instance norm)", lambda: norm(*per)
    yield "followed by ReLU already", lambda: np.maximum(norm(), 0)


READINGS = {
    "linear": linear_readings,
    "conv2d": conv2d_readings,
    "layer_norm": layer_norm_readings,
    "batch_norm": batch_norm_readings,
}

"""What a difference looks like: transposed, permuted, scaled, shifted, rounded, or one layer's known wrong reading.

A likeness is named only if theirs, with it undone or ours with it done, agrees within the tolerance that the name
has anyway; so of two likenesses that fit, the first of the list is named, the plainer one.
"""

import itertools
from collections.abc import Callable, Iterator

import numpy as np

from bplcz_ref import nn
from bplcz_ref.conform.kit import EPS, FACTOR
from bplcz_ref.conform.tracing import size

BITS = {"bfloat16": 8, "float16": 11, "TF32": 11}  # of a number, the leading one included
SLACK = 2  # tolerances: a wrong reading may amplify rounding a little more than the right one


def looks(name: str, ours: dict, o: np.ndarray, t: np.ndarray, allowed: np.ndarray | None, meta: dict) -> str:
    """The words for the difference of t from o; "" if it looks like nothing known."""
    if allowed is None:  # whole numbers
        return "another number" if o.shape == t.shape else f"of shape {t.shape}; expected {o.shape}"
    near = SLACK * allowed  # and much nearer than they are to each other
    if o.shape == t.shape:
        near = np.minimum(near, size(t - o) / 4)
    fits = lambda a, b: a.shape == b.shape and bool((size(a - b) <= near).all())
    if not np.isfinite(t).all():
        return f"not finite in {np.count_nonzero(~np.isfinite(t))} of {t.size} entries"
    if o.shape != t.shape:
        return shapes(o, t, fits)
    if not t.any() and o.any():
        return "0 everywhere"
    candidates = itertools.chain(
        after_a_step(name, ours, t, fits, meta),
        scalings(o, t, fits, meta),
        arrangements(o, t, fits),
        stored(o, t),
        of_layer(name, ours, o, t, fits, meta),
        dropouts(o, t, fits),
        channels(o, t, fits),
        places(o, t, allowed),
        magnitudes(o, t, allowed),
    )
    return next(candidates, "")


# ------------------------------------------------------------------------------------------- the array as a whole


def shapes(o: np.ndarray, t: np.ndarray, fits: Callable) -> str:
    """Another shape: the same numbers with axes exchanged, or in another order of rows, or neither."""
    words = f"of shape {t.shape}; expected {o.shape}"
    if o.ndim == t.ndim <= 4:
        for axes in itertools.permutations(range(t.ndim)):
            if fits(np.transpose(t, axes), o):
                return f"transposed: {words}, and axes {axes} of it agree"
    if o.size == t.size and fits(t.reshape(o.shape), o):
        return f"the same numbers {words}"
    return words


def scalings(o: np.ndarray, t: np.ndarray, fits: Callable, meta: dict) -> Iterator[str]:
    """Sign, factor, constant. Of a single number any factor would fit, so only a telling one is named."""
    if fits(-t, o):
        yield "ours with the sign flipped"
    square = float(np.sum(o * o))
    c = float(np.sum(o * t)) / square if square else 0.0
    telling = factor_words(c, meta)
    if (
        c
        and abs(c - 1) > 1e-6
        and (o.size > 1 or telling)
        and fits(t / c, o)
        and fits((t - c * o) / max(1, abs(c)), 0 * o)
    ):
        yield telling or f"{c:.6g} times ours"
    shift = float(np.mean(t - o))
    if o.size > 1 and fits(t - shift, o):
        yield f"ours shifted by {shift:.6g}"


def factor_words(c: float, meta: dict) -> str:
    """Words for a factor that tells something: a whole number, its inverse, or a number of SGD's rule."""
    momentum = meta["rule"]["momentum"]
    named = {1 - momentum: "1 - momentum", 1 + momentum: "1 + momentum"} if momentum else {}
    for value, words in named.items():
        if abs(c - value) < 1e-4 * value:
            return f"{words} = {value:.6g} times ours"
    for value, inverse in ((c, False), (1 / c if c else 0.0, True)):
        whole = round(value)
        if abs(whole) > 1 and abs(value - whole) < 1e-4 * abs(whole):
            return f"ours divided by {whole}" if inverse else f"{whole} times ours"
    return ""


def arrangements(o: np.ndarray, t: np.ndarray, fits: Callable) -> Iterator[str]:
    """Axes exchanged, or the entries along one axis in another order."""
    for axes in itertools.permutations(range(o.ndim)):
        if 1 < o.ndim <= 4 and axes != tuple(range(o.ndim)) and fits(np.transpose(t, axes), o):
            yield f"transposed: axes {axes} of theirs agree"
    for axis in range(o.ndim):
        order = permutation(o, t, axis)
        if order is not None and fits(np.take(t, order, axis), o):
            yield f"permuted along axis {axis} ({order_words(order)})"
    if o.ndim == 4:
        for dy, dx in itertools.product((-1, 0, 1), repeat=2):
            a, b = (x[:, max(0, s * dy) : x.shape[1] + min(0, s * dy)] for x, s in ((t, 1), (o, -1)))
            a, b = (x[:, :, max(0, s * dx) : x.shape[2] + min(0, s * dx)] for x, s in ((a, 1), (b, -1)))
            if (dy or dx) and a.size and fits(a, b):
                yield f"shifted by {dy} rows and {dx} columns"


def permutation(o: np.ndarray, t: np.ndarray, axis: int) -> np.ndarray | None:
    """The order of theirs along an axis in which its entries come nearest to ours; None if it is ours."""
    rows = [np.moveaxis(x, axis, 0).reshape(o.shape[axis], -1) for x in (o, t)]
    if len(rows[0]) < 2 or not rows[0].size:
        return None
    direction = np.random.default_rng(0).standard_normal(rows[0].shape[1])
    first, second = (np.argsort(x @ direction, kind="stable") for x in rows)
    order = np.empty(len(first), int)
    order[first] = second
    return None if np.array_equal(order, np.arange(len(order))) else order


def order_words(order: np.ndarray) -> str:
    """An order in few words."""
    if np.array_equal(order, np.arange(len(order))[::-1]):
        return "reversed"
    step = (order - np.arange(len(order))) % len(order)
    if (step == step[0]).all():
        return f"rolled by {step[0]}"
    moved = np.flatnonzero(order != np.arange(len(order)))
    listed = ", ".join(f"{i} is at {order[i]}" for i in moved[:4])
    return f"entry {listed}{', ...' if len(moved) > 4 else ''}"


def stored(o: np.ndarray, t: np.ndarray) -> Iterator[str]:
    """Every number of theirs is one of a short format, and ours are not."""
    for precision, bits in (("bfloat16", 8), ("float16", 11)):
        if np.array_equal(rounded(t, bits), t) and not np.array_equal(rounded(o, bits), o):
            yield f"stored in {precision}: no number of theirs has more than {bits} significant bits"


def rounded(x: np.ndarray, bits: int) -> np.ndarray:
    """x with so many significant bits, to nearest.

    >>> rounded(np.array([1 + 2**-7, 1 + 2**-9]), 8).tolist()
    [1.0078125, 1.0]
    """
    mantissa, exponent = np.frexp(x)
    return np.ldexp(np.rint(mantissa * 2.0**bits), exponent - bits)


def dropouts(o: np.ndarray, t: np.ndarray, fits: Callable) -> Iterator[str]:
    """Some entries 0, the others larger by what is missing."""
    zero = (t == 0) & (o != 0)
    share = float(zero.mean())
    if 0.005 < share < 0.95 and not zero.all():
        kept = np.where(zero, 0, t)
        square = float(np.sum(np.where(zero, 0, o) ** 2))
        c = float(np.sum(kept * o)) / square if square else 0.0
        if c > 1.001 and fits(kept / c, np.where(zero, 0, o)):
            yield f"dropout: {share:.0%} of the entries are 0, the others {c:.4g} times ours"


def channels(o: np.ndarray, t: np.ndarray, fits: Callable) -> Iterator[str]:
    """A factor, or a constant, for each entry of the last axis."""
    rows = o.size // o.shape[-1] if o.ndim else 0
    if rows < 4:
        return
    axes = tuple(range(o.ndim - 1))
    if fits(t - np.mean(t - o, axis=axes), o):
        yield "ours shifted by a constant for each channel"
    square = np.sum(o * o, axis=axes)
    c = np.sum(o * t, axis=axes) / np.where(square > 0, square, 1)
    if fits(c * o, t):
        yield f"ours times a factor for each channel, {c.min():.4g} to {c.max():.4g}"


def places(o: np.ndarray, t: np.ndarray, allowed: np.ndarray) -> Iterator[str]:
    """Where it differs, if that is a part only."""
    wrong = np.abs(t - o) > allowed[1]
    if not wrong.any() or wrong.all() or o.ndim == 0:
        return
    if o.ndim == 4 and min(o.shape[1:3]) > 2 and not wrong[:, 1:-1, 1:-1].any():
        sides = {"top": wrong[:, 0], "bottom": wrong[:, -1], "left": wrong[:, :, 0], "right": wrong[:, :, -1]}
        yield f"different only at the border ({', '.join(k for k, part in sides.items() if part.mean() > 0.1)})"
    for axis in range(o.ndim):
        hit = np.flatnonzero(wrong.any(axis=tuple(k for k in range(o.ndim) if k != axis)))
        if len(hit) <= o.shape[axis] // 2:
            listed = ", ".join(map(str, hit[:6])) + ", ..." * (len(hit) > 6)
            yield f"different only at {listed} of axis {axis}, which has {o.shape[axis]}"


def magnitudes(o: np.ndarray, t: np.ndarray, allowed: np.ndarray) -> Iterator[str]:
    """An error as large as a shorter format would make it; weaker evidence than the others."""
    times = float(size(t - o)[0]) / max(float(allowed[0]), np.finfo(float).tiny) * FACTOR
    unit = EPS["float32"] if allowed[0] > 1e-10 * max(size(o)[0], 1e-300) else EPS["float64"]
    for precision, bits in (("bfloat16", 8), ("TF32 or float16", 11), ("float32", 24)):
        here = 2.0 ** (1 - bits) / unit
        if here > FACTOR and here / 4 < times < here * 4:
            yield f"about as far from ours as {precision} arithmetic would be"


# ------------------------------------------------------------------------------------------- readings of a layer


def of_layer(name: str, ours: dict, o: np.ndarray, t: np.ndarray, fits: Callable, meta: dict) -> Iterator[str]:
    """The layer computed again from what ours has for its input and parameters, in the ways it is got wrong."""
    graph = meta["graph"]
    call = graph.get(name, {}).get("call")
    if not call:
        return
    entry = f"{name}.input"
    wanted = {"x": graph.get(entry, {}).get("same", entry)}
    wanted |= {key: f"step0.{parameter}" for key, parameter in call["arguments"].items()}
    if not all(n in ours for n in wanted.values()):
        return
    given = {key: np.asarray(ours[n], np.float64) for key, n in wanted.items()}
    for words, wrong in READINGS[call["op"]](given, call["options"], name, ours):
        with np.errstate(all="ignore"):
            found = wrong()
        if fits(found, t):
            yield words
    right = size(t - o)[0]
    for precision, bits in BITS.items():
        short = {key: rounded(a, bits) if key in ("x", "weight") else a for key, a in given.items()}
        found = normal(call["op"], short, call["options"], name, ours)
        for result in (found, rounded(found, bits)):
            if result.shape == t.shape and size(t - result)[0] < right / 4:
                also = " (TF32 has as many bits)" if precision == "float16" else ""
                yield f"computed in {precision}: with input and weight of {bits} bits ours is near{also}"


def normal(op: str, given: dict, options: dict, name: str, ours: dict) -> np.ndarray:
    """The layer as it is."""
    if op == "batch_norm":
        return nn.batch_norm(**given, state=statistics(name, ours), **{"train": True} | options)[0]
    return getattr(nn, op)(**given, **options)


def statistics(name: str, ours: dict) -> dict:
    """A batch norm's running values before the step; zeros and ones where they are not kept."""
    found = {key: ours.get(f"step0.{name}.{key}") for key in ("running_mean", "running_var")}
    neutral = {"running_mean": 0.0, "running_var": 1.0}
    return {k: neutral[k] if a is None else np.asarray(a, np.float64) for k, a in found.items()} | {
        "num_batches_tracked": 0
    }


def linear_readings(given: dict, options: dict, name: str, ours: dict) -> Iterator[tuple[str, Callable]]:
    """Wrong linear maps."""
    x, w, b = given["x"], given["weight"], given.get("bias", 0.0)
    if w.shape[0] == w.shape[1]:
        yield "the weight transposed", lambda: x @ w + b
    if "bias" in given:
        yield "the bias left out", lambda: x @ w.T
        yield "the bias added twice", lambda: x @ w.T + 2 * b


def conv2d_readings(given: dict, options: dict, name: str, ours: dict) -> Iterator[tuple[str, Callable]]:
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
        for side in range(2 * p + 1):
            if side != p:
                words = f"padding of {side} before and {2 * p - side} after, as stride {stride} with SAME padding has it"
                yield words, lambda side=side: conv(padded(side, 2 * p - side), w)
        for before in range(p):
            words = (
                f"padding of {before} before and {before + 1} after, as stride {stride} with SAME padding has it"
            )
            yield words, lambda before=before: conv(padded(before, before + 1), w)
    if p:
        for mode in ("reflect", "edge", "wrap"):
            yield f"padding by {mode} in place of zeros", lambda mode=mode: conv(padded(p, p, mode), w)
    if b is not None:
        yield "the bias left out", lambda: conv(padded(p, p), w, None)


EPSILONS = (0.0, 1e-12, 1e-8, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2)


def layer_norm_readings(given: dict, options: dict, name: str, ours: dict) -> Iterator[tuple[str, Callable]]:
    """Wrong layer norms."""
    x, w, b, eps = given["x"], given["weight"], given["bias"], options.get("eps", 1e-5)
    for other in EPSILONS:
        if other != eps:
            yield f"eps = {other:g}; expected {eps:g}", lambda e=other: nn.layer_norm(x, w, b, e)
    centred = x - x.mean(-1, keepdims=True)
    d = x.shape[-1]
    yield (
        "the variance divided by d - 1",
        lambda: centred / np.sqrt((centred**2).sum(-1, keepdims=True) / (d - 1) + eps) * w + b,
    )
    yield "eps outside the root", lambda: centred / (centred.std(-1, keepdims=True) + eps) * w + b
    yield "the mean not subtracted (RMS norm)", lambda: x / np.sqrt((x * x).mean(-1, keepdims=True) + eps) * w + b
    yield "weight and bias left out", lambda: centred / np.sqrt((centred**2).mean(-1, keepdims=True) + eps)


def batch_norm_readings(given: dict, options: dict, name: str, ours: dict) -> Iterator[tuple[str, Callable]]:
    """Wrong batch norms."""
    x, w, b, eps = given["x"], given["weight"], given["bias"], options.get("eps", 1e-5)
    state, axes, N = statistics(name, ours), tuple(range(x.ndim - 1)), x.size // x.shape[-1]
    mean, var = x.mean(axes), x.var(axes)

    def norm(mean=mean, var=var, eps=eps, w=w, b=b):
        return (x - mean) / np.sqrt(var + eps) * w + b

    for other in EPSILONS:
        if other != eps:
            yield f"eps = {other:g}; expected {eps:g}", lambda e=other: norm(eps=e)
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


# ------------------------------------------------------------------------------------------------- SGD's readings


def after_a_step(name: str, ours: dict, t: np.ndarray, fits: Callable, meta: dict) -> Iterator[str]:
    """Other rules for SGD and for running statistics, from what ours has before the step."""
    place, _, rest = name.partition(".")
    if not place.startswith("step") or place == "step0":
        return
    k, own = int(place[4:]), rest.removeprefix("velocity.")
    rate, m, decay = (meta["rule"][key] for key in ("learning_rate", "momentum", "weight_decay"))
    before, after = (ours.get(f"step{j}.{own}") for j in (k - 1, k))
    if own.endswith(("running_mean", "running_var")):
        if before is not None and after is not None:
            yield from buffer_readings(
                own, np.asarray(before, np.float64), np.asarray(after, np.float64), t, fits, ours, meta
            )
        return
    velocity, last = ours.get(f"step{k}.velocity.{own}"), ours.get(f"step{k - 1}.velocity.{own}")
    if velocity is None or before is None or (k > 1 and last is None):
        return
    w, v = np.asarray(before, np.float64), np.asarray(velocity, np.float64)
    u = np.zeros_like(v) if k == 1 else np.asarray(last, np.float64)
    g = v - m * u  # with its decay
    raw = g - decay * w
    forms = {
        "the weight decay left out": m * u + raw,
        "the weight decay subtracted": m * u + raw - decay * w,
        "gradients times 1 - momentum": m * u + (1 - m) * g,
        "momentum 0": g,
        "the rate inside the velocity": rate * v,
    }
    for words, other in forms.items():
        if rest != own and fits(other, t):
            yield words
        if rest == own and fits(w - (other if "inside" in words else rate * other), t):
            yield words
    if rest == own:
        for words, other in {
            "Nesterov's momentum": w - rate * (g + m * v),
            "decoupled weight decay, as in AdamW": w * (1 - rate * decay) - rate * (m * u + raw),
            "no step taken": w,
            "a step up the gradient": w + rate * v,
        }.items():
            if fits(other, t):
                yield words
        moved = float(np.sum((w - t) * v)), float(np.sum(v * v))
        if moved[1] and fits(w - moved[0] / moved[1] * v, t):
            yield f"a learning rate of {moved[0] / moved[1]:.4g}; ours is {rate:.6g}"


def buffer_readings(
    own: str, before: np.ndarray, after: np.ndarray, t: np.ndarray, fits: Callable, ours: dict, meta: dict
) -> Iterator[str]:
    """Running statistics by another rule: running <- (1 - 0.1) running + 0.1 batch is ours."""
    m = 0.1
    batch = (after - (1 - m) * before) / m
    forms = {
        "not moved": before,
        "the batch's own": batch,
        "momentum 0.1 on the running value, not on the batch": m * before + (1 - m) * batch,
        "momentum 0.01": 0.99 * before + 0.01 * batch,
    }
    if own.endswith("running_var"):
        entry = own.removesuffix(".running_var") + ".input"
        x = ours.get(meta["graph"].get(entry, {}).get("same", entry))
        N = np.size(x) // before.size if x is not None else 0
        if N > 1:
            forms["the variance divided by N, not by N - 1"] = (1 - m) * before + m * batch * (N - 1) / N
    for words, other in forms.items():
        if fits(other, t):
            yield words

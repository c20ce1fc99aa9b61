"""What a difference looks like: transposed, permuted, scaled, shifted, rounded, or a layer's known wrong reading.

A likeness is named only if theirs, with it undone or ours with it done, agrees within the tolerance that the name
has anyway; so of two likenesses that fit, the first of the list is named, the plainer one.
"""

import itertools
from collections.abc import Callable, Iterator

import numpy as np

from bplcz_ref.conform import layers
from bplcz_ref.conform.numbers import BITS, EPS, FACTOR, coarse
from bplcz_ref.conform.tracing import size

SLACK = 2  # tolerances: a wrong reading may amplify rounding a little more than the right one


def looks(
    name: str,
    ours: dict,
    o: np.ndarray,
    t: np.ndarray,
    allowed: np.ndarray | None,
    layer: layers.Alone | None,
    meta: dict,
) -> str:
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
    entry = meta["graph"].get(f"{name}.input", {}).get("same", f"{name}.input")
    if layer is None and entry in ours:  # from our own input, which theirs, where it is compared, agrees with
        layer = layers.alone(name, ours[entry], t, ours, meta["graph"], False, False)
    c = multiple(o, t, fits)
    candidates = itertools.chain(
        after_a_step(name, ours, t, fits, meta),
        scalings(o, t, fits, factor_words(c, meta)),
        arrangements(o, t, fits),
        stored(o, t),
        layers.reading(layer, fits) if layer else (),
        [f"{c:.6g} times ours"] if c and o.size > 1 else (),
        of_L(name, ours, t, fits),
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


def multiple(o: np.ndarray, t: np.ndarray, fits: Callable) -> float:
    """The factor that makes theirs of ours, or 0. Unless it is telling, any other explanation says more."""
    square = float(np.sum(o * o))
    c = float(np.sum(o * t)) / square if square else 0.0
    alike = c and abs(c - 1) > 1e-6 and fits(t / c, o) and fits((t - c * o) / max(1, abs(c)), 0 * o)
    return c if alike else 0.0


def scalings(o: np.ndarray, t: np.ndarray, fits: Callable, telling: str) -> Iterator[str]:
    """Sign, telling factor, constant."""
    if fits(-t, o):
        yield "ours with the sign flipped"
    if telling:
        yield telling
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
    for short in ("bfloat16", "float16"):
        if np.array_equal(coarse(t, short), t) and not np.array_equal(coarse(o, short), o):
            yield f"stored in {short}: no number of theirs has more than {BITS[short]} significant bits"


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
    for short in BITS:
        here = EPS[short] / unit
        if here > FACTOR and here / 4 < times < here * 4:
            words = "TF32 or float16" if short == "float16" else short
            yield f"about as far from ours as {words} arithmetic would be"


def of_L(name: str, ours: dict, t: np.ndarray, fits: Callable) -> Iterator[str]:
    """Another weight of L_con in L."""
    if name == "L" and "L_con" in ours and "L_cls" in ours and ours["L_con"]:
        beta, expected = ((float(a) - float(ours["L_cls"])) / float(ours["L_con"]) for a in (t, ours["L"]))
        yield f"L_cls + {beta:.4g} L_con; ours is L_cls + {expected:.4g} L_con"


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
    forms = {  # of the new velocity
        "the weight decay left out": m * u + raw,
        "the weight decay subtracted": m * u + raw - decay * w,
        "gradients times 1 - momentum": m * u + (1 - m) * g,
        "momentum 0": g,
        "the rate inside the velocity": rate * v,
    }
    if rest != own:
        yield from (words for words, other in forms.items() if fits(other, t))
        for words, fixed, free in (("gradients times", m * u, g), ("a momentum of", g, u)):
            square = float(np.sum(free * free))
            c = float(np.sum((t - fixed) * free)) / square if square else 0.0
            if fits(fixed + c * free, t):
                yield f"{words} {c:.4g}"
        return
    forms = {words: w - (other if "inside" in words else rate * other) for words, other in forms.items()} | {
        "Nesterov's momentum": w - rate * (g + m * v),
        "decoupled weight decay, as in AdamW": w * (1 - rate * decay) - rate * (m * u + raw),
        "no step taken": w,
        "a step up the gradient": w + rate * v,
    }
    yield from (words for words, other in forms.items() if fits(other, t))
    moved, square = float(np.sum((w - t) * v)), float(np.sum(v * v))
    if square and fits(w - moved / square * v, t):
        yield f"a learning rate of {moved / square:.4g}; ours is {rate:.6g}"


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

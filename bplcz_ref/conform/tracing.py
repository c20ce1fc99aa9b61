"""`conform trace`: every symbol, layer and gradient of a few steps by name, and what rounding may change of each.

docs/trace.md has the names, such as `step0.conv1.weight`, `conv1.input`, `I_i.RGB`, `grad.conv1` and `eval.c_hat`;
a trace holds them in the order of computation. Images are (B, H, W, 18).

Everything is computed in float64, layer by layer, as `layers.watching` shows them. The tolerance of each name is
measured: the same steps run again, RUNS times, in the other program's precision with a rounding error put into
every layer's output and its gradient; and once more with every ReLU and max-pool turned that rounding could turn.
A value may differ by FACTOR times the most that the first runs changed, plus what the last one changed; gradients,
and what SGD makes of them, by FEW times that, since another program turns some of these gates and not all, and
since a sum over a batch is one number, of which a few runs do not show the largest error.
"""

import fnmatch
import itertools
import json
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from autograd.core import VJPNode, add_outgrads
from autograd.extend import defvjp, primitive
from autograd.tracer import getval, isbox, new_box, toposort, trace_stack

from bplcz_ref import layers, nn, optim, paper
from bplcz_ref.conform.numbers import EPS, FACTOR
from bplcz_ref.model import Model
from bplcz_ref.storage import weights

META = "trace.json"  # the entry of the archive that holds what is no array, as bytes of JSON
FORMAT = 3
FEW = 4
RUNS = 3  # disturbed runs for each precision
PRECISIONS = {"float32": ("float32",), "float64": ("float64", "float32")}  # of a trace: those that it can judge
LAYERS = ("linear", "conv2d", "embedding", "batch_norm", "layer_norm")  # they have a name, and are computed again
GATES = ("relu", "max_pool2d")  # where a rounding error decides which way a gradient goes


class Noise(NamedTuple):
    """How a run is disturbed: every layer's output times 1 + eps u, u uniform in [-1, 1], in value and gradient.

    gates[k] is the input of the k-th gate in the undisturbed run, and reach[k] the farthest that a disturbed run
    was from it. `turn` does the worst that rounding can do there: every input of a ReLU that lies within 2 reach
    of 0 changes its sign, and inputs of max-pools move by up to 2 reach.
    """

    rng: np.random.Generator
    eps: float
    gates: list
    reach: list
    turn: bool = False


class Step(NamedTuple):
    """One step: values and gradients by name, the layers among them, and the new state."""

    values: dict
    gradients: dict
    layers: dict  # name -> {"op", "options", "parameters": {argument: name}}
    same: dict  # a second name of an array -> its first
    state: dict


def trace(
    network: Model,
    params: dict,
    state: dict,
    batch: tuple,
    *,
    steps: int = 2,
    learning_rate: float = paper.LEARNING_RATE,
    momentum: float = paper.MOMENTUM,
    weight_decay: float = paper.WEIGHT_DECAY,
    dtype: str = "float32",
    only: Iterable[str] = ("*",),
) -> dict[str, np.ndarray]:
    """{name: array} of training steps on one batch (x, y), and META: what `diff` needs to judge another program.

    dtype   of the arrays that come back: a float32 trace judges float32 programs and takes half the memory
    only    patterns of names to keep, such as "layer4.*" and "grad.*"; default: all
    Dropout is off, batch normalisation in training mode. The batch is the same in every step.

    >>> from bplcz_ref.layers import linear, serial, spatial_mean
    >>> from bplcz_ref.model import classification
    >>> model = classification(serial(spatial_mean, ("fc", linear(18, 17))))
    >>> params, state = model.init(np.random.default_rng(0), "float64")
    >>> found = trace(model, params, state, (np.ones((2, 4, 4, 18)), np.array([3, 5])), steps=1)
    >>> [name for name in found if not name.startswith(("grad.", "step"))]
    ['x', 'y', 'fc.input', 'fc', 'L_cls', 'eval.c_hat', 'trace.json']
    """
    x, y = np.asarray(batch[0], np.float64), np.asarray(batch[1])
    if steps < 1:
        raise ValueError(f"steps is {steps}; expected 1 or more")
    if dtype not in PRECISIONS:
        raise ValueError(f"dtype is {dtype!r}; expected float32 or float64")
    rule = {"learning_rate": learning_rate, "momentum": momentum, "weight_decay": weight_decay}
    gates: list[list] = [[] for _ in range(steps)]
    run = partial(several_steps, network, (params, state, (x, y)), rule, gates)
    ours, first = run("float64")
    kept = [n for n in ours if any(fnmatch.fnmatchcase(n, pattern) for pattern in only)]
    if not kept:
        raise ValueError(f"no name matches {', '.join(only)}; some names are {', '.join([*ours][:5])} ...")
    arrays = {name: cast(ours[name], dtype) for name in kept}
    tolerance = {p: measured(ours, kept, gates, p, run, first.same) for p in PRECISIONS[dtype]}
    meta = {"format": FORMAT, "names": order(ours, first), "same": first.same, "layers": first.layers}
    meta |= {"tolerance": tolerance, "rule": rule, "steps": steps}
    return arrays | {META: np.frombuffer(json.dumps(meta).encode(), np.uint8)}


def several_steps(
    network: Model, given: tuple, rule: dict, gates: list[list], precision: str, noises: list | None = None
) -> tuple[dict, Step]:
    """({name: array}, the first Step) of as many steps as `gates` has entries; these are filled, or used.

    given is (params, state, (x, y)); noises has one Noise for each step, or is None.
    """
    params, state = (optim.leaves(lambda leaf: cast(leaf, precision), tree) for tree in given[:2])
    batch = cast(given[2][0], precision), given[2][1]
    found: dict[str, np.ndarray] = {}
    velocity, first = None, None
    for k, own in enumerate(gates):
        found |= {f"step{k}.{name}": a for name, a in both(params, state).items()}
        made = step(network.loss, params, state, batch, own, noises[k] if noises else None)
        if first is None:
            first = made
            found |= made.values | {f"grad.{name}": a for name, a in made.gradients.items()}
        gradients = weights.nested({name: made.gradients[name] for name in weights.named(params)})
        params, velocity = optim.sgd(params, velocity, gradients, **rule)
        state = made.state
        found |= {f"step{k + 1}.velocity.{name}": a for name, a in weights.named(velocity).items()}
    assert first is not None
    found |= {f"step{len(gates)}.{name}": a for name, a in both(params, state).items()}
    return found | {"eval.c_hat": network.apply(params, state, batch[0], train=False)[0]}, first


def step(loss: Any, params: dict, state: dict, batch: tuple, gates: list, noise: Noise | None = None) -> Step:
    """loss(params, state, batch) on a tape of which all values are kept. Without noise, `gates` is filled."""
    x, y = batch
    seen: dict[str, list] = {}  # name -> what it was in each call; samples may be taken in parts
    found: dict[str, dict] = {}
    met = itertools.count()  # the numbers of the gates

    def watch(call):
        op = call.layer.kind.split()[0]
        if op == "dropout":
            return call.x, {}
        if op in GATES:
            return call.run(at_gate(op, call.x, next(met)))
        y, new = call.run()
        if op in LAYERS:
            if noise:
                u = noise.rng.uniform(-1, 1, np.shape(y))
                y = disturbed(y, (1 + noise.eps * u).astype(getval(y).dtype))
            if op != "embedding":
                seen.setdefault(f"{call.name}.input", []).append(call.x)
            seen.setdefault(call.name, []).append(y)
            joint = "." if f"{call.name}.weight" in names else "_"  # CLIP's in_proj_weight
            own = {key: f"{call.name}{joint}{key}" for key in call.params}
            found[call.name] = {"op": op, "options": call.layer.options, "parameters": own}
        return y, new

    def at_gate(op, x, k):
        value = np.asarray(getval(x))
        if noise is None:
            gates.append(value)
            return x
        if not noise.turn:
            noise.reach[k] = max(noise.reach[k], float(np.abs(value - noise.gates[k]).max(initial=0)))
            return x
        near = 2 * noise.reach[k]
        if op == "relu":
            turned = np.where(value == 0, near / 2, -2 * value)
            return x + np.where(np.abs(value) < near, turned, 0).astype(value.dtype)
        return x + noise.rng.uniform(-near, near, value.shape).astype(value.dtype)

    names = weights.named(params)
    with nn.one_blas_thread(), trace_stack.new_trace() as level, layers.watching(watch):
        boxed = optim.leaves(lambda leaf: new_box(leaf, level, VJPNode.new_root()), params)
        x = new_box(x, level, VJPNode.new_root())
        L, symbols = loss(boxed, state, (x, y))
    new = symbols.pop("state")
    boxes = {"x": [x]} | seen | {name: [value] for name, value in weights.named(symbols).items()}
    roots = weights.named(boxed)
    slopes = backward(L, {box._node for own in [*boxes.values(), roots.values()] for box in own if isbox(box)})
    slope = lambda box: slopes.get(box._node, np.zeros_like(box._value))
    values, gradients, same = {}, {}, {}
    first: dict = {}  # a node -> the first name of its array
    for name, own in boxes.items():
        known = first.setdefault(id(own[0]._node), name) if isbox(own[0]) and len(own) == 1 else name
        if known != name:
            same[name] = known
            continue
        values[name] = joined([getval(box) for box in own])
        if all(map(isbox, own)):
            gradients[name] = joined([slope(box) for box in own])
    values = {"x": values.pop("x"), "y": np.asarray(y)} | values
    return Step(values, gradients | {name: slope(box) for name, box in roots.items()}, found, same, new)


def joined(parts: list) -> np.ndarray:
    """One array of what was taken in parts."""
    return np.asarray(parts[0]) if len(parts) == 1 else np.concatenate(parts, axis=0)


@primitive
def disturbed(y: np.ndarray, factor: np.ndarray) -> np.ndarray:
    """y * factor, and its gradient too, in y's dtype."""
    return y * factor


defvjp(disturbed, lambda ans, y, factor: lambda g: (g * factor).astype(np.asarray(y).dtype), argnums=(0,))


def backward(L: Any, wanted: set) -> dict:
    """{node: dL/d(its value)} of the wanted nodes."""
    kept = {}
    outgrads = {L._node: (np.ones_like(L._value), False)}
    for node in toposort(L._node):
        g = outgrads.pop(node)[0]
        if node in wanted:
            kept[node] = g
        for parent, ingrad in zip(node.parents, node.vjp(g), strict=False):
            outgrads[parent] = add_outgrads(outgrads.get(parent), ingrad)
    return kept


def order(found: dict, first: Step) -> list[str]:
    """All names in the order of computation, those of arrays that are stored under another name too."""
    after = [name for name in found if name.startswith(("step", "eval."))]
    given = ["x", "y", *(name for name in after if name.startswith("step0."))]
    further = lambda own: [name for name, first_name in first.same.items() if first_name == own]
    values = [name for own in first.values for name in (own, *further(own))]
    parameters = {name: layer["parameters"].values() for name, layer in first.layers.items()}
    slopes = [n for name in reversed(values) for n in (name, *parameters.get(name, ()))] + [*first.gradients]
    known = {name for own in first.gradients for name in (own, *further(own))}
    return list(dict.fromkeys([*given, *values, *(f"grad.{name}" for name in slopes if name in known), *after]))


def both(params: dict, state: dict) -> dict[str, np.ndarray]:
    """Parameters and buffers by name."""
    return {name: np.asarray(a) for name, a in (weights.named(params) | weights.named(state)).items()}


def cast(a: np.ndarray, dtype: str) -> np.ndarray:
    """`a` in this dtype, if it is floating."""
    a = np.asarray(a)
    return a.astype(dtype) if a.dtype.kind == "f" else a


def size(a: np.ndarray) -> np.ndarray:
    """(root of the mean square, largest magnitude).

    >>> size(np.array([3.0, -4.0, 0.0, 0.0])).tolist()
    [2.5, 4.0]
    """
    return np.array([np.sqrt(np.mean(np.square(a))), np.max(np.abs(a))]) if a.size else np.zeros(2)


def measured(ours: dict, kept: list, gates: list[list], precision: str, run: Callable, same: dict) -> dict:
    """{name: [rms, largest]} of the difference from `ours` that a correct program of this precision may have."""
    eps, reach = EPS[precision], [[0.0] * len(own) for own in gates]
    spread = {name: np.zeros(2) for name in kept if ours[name].dtype.kind == "f"}
    turned = dict(spread)
    for seed in range(RUNS + 1):
        turn = seed == RUNS
        rng = np.random.default_rng(seed)
        noises = [Noise(rng, eps, own, far, turn) for own, far in zip(gates, reach, strict=True)]
        found, _ = run(precision, noises)
        into = turned if turn else spread
        for name in spread:
            into[name] = np.maximum(into[name], size(found[name].astype(np.float64) - ours[name]))
    allowed = {}
    for name, changed in spread.items():
        later = name.startswith(("grad.", "step", "eval."))  # made by the backward pass
        limit = (FEW if later else 1) * (FACTOR * changed + turned[name])
        if later and turned[name][0] > changed[0]:  # what a gate turns may be a single entry: only rms counts
            limit[1] = max(limit[1], limit[0] * ours[name].size ** 0.5)
        scale = size(ours[name])
        if ".running_" in name and not name.startswith("step0."):
            # They are sums over a batch of what the layer takes; a disturbed run averages out what rounds them.
            taken = name.partition(".")[2].rpartition(".")[0] + ".input"
            x = size(ours[same.get(taken, taken)])[1]
            scale = scale + (x if name.endswith("mean") else x * x)
        allowed[name] = (limit + FACTOR / 2 * eps * scale).tolist()
    return allowed

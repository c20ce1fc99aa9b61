"""One step of a model on a tape that keeps everything: every layer's output, its gradient, and how it was made.

nn.TAP hands every layer to `Tap`, which runs the layer's definition (not the kernel) and notes its output under
the name of the layer's parameters. The tape's nodes remember their functions, so the way from one name to the next
is known. Dropout is off here: two programs cannot draw the same masks.

A tap can also disturb what it sees, as rounding would: conform/tracing.py measures with it how far a correct
implementation of less precision may be from this one.
"""

import inspect
from typing import Any, NamedTuple

import numpy as np
from autograd.core import VJPNode, add_outgrads
from autograd.extend import defvjp, primitive
from autograd.tracer import getval, isbox, new_box, notrace_primitives, toposort, trace_stack

from bplcz_ref import nn, optim, weights

LAYERS = ("linear", "conv2d", "embedding", "batch_norm", "layer_norm")  # they have parameters, and so a name
NAMELESS = ("relu", "gelu", "quick_gelu", "softmax", "attention", "max_pool2d", "avg_pool2d", "spatial_mean")
UNSEEN = ("", "reshape", "transpose", "array_from_scalar_or_array")  # functions that need no mention
GATES = ("relu", "max_pool2d")  # where a rounding error decides which way a gradient goes


class Node(VJPNode):
    """A node of autograd's tape that remembers its function, a slice's index, and what entered a layer."""

    __slots__ = ("above", "function", "index")

    def __init__(self, value, fun, args, kwargs, parent_argnums, parents):
        super().__init__(value, fun, args, kwargs, parent_argnums, parents)
        self.function = str(getattr(fun, "__name__", fun))
        self.index = str(args[1]) if self.function == "__getitem__" else ""
        self.above = parents  # of the last node of a layer: what entered the layer

    def initialize_root(self):
        super().initialize_root()
        self.function, self.index, self.above = "", "", []


notrace_primitives[Node] = notrace_primitives[VJPNode]  # comparisons and the like, which have no gradient


class Noise(NamedTuple):
    """How a run is disturbed: every layer's output times 1 + eps u, u uniform in [-1, 1], in value and gradient.

    gates[k] is the input of the k-th gate (ReLU, max-pool) in the undisturbed run, and reach[k] the farthest that
    a disturbed run was from it. `turn` does the worst that rounding can do there: every input of a ReLU that lies
    within 2 reach of 0 changes its sign, and inputs of max-pools move by up to 2 reach.
    """

    rng: np.random.Generator
    eps: float
    gates: list
    reach: list
    turn: bool = False


class Event(NamedTuple):
    """A layer was called: its name, the slice of its weight, and one array that it took or gave."""

    name: str
    part: str
    box: Any


class Step(NamedTuple):
    """One step: values and gradients by name; how each name was made; the new state."""

    values: dict
    gradients: dict
    graph: dict  # name -> {"from": names, "by": functions or layer, "same": name, "call": arguments of the layer}
    state: dict


class Tap:
    """What nn.TAP is set to while a step runs."""

    def __init__(self, names: dict, gates: list, noise: Noise | None = None):
        self.names, self.gates, self.noise = names, gates, noise  # names: {id of a root's node: parameter}
        self.events: list[Event] = []
        self.calls: dict[str, dict] = {}
        self.gate = 0

    def __call__(self, definition, args, options):
        op = definition.__name__
        if op == "dropout":
            return args[0]
        if op == "dropout_factors":
            _, shape, _, dtype = args
            return np.ones(shape, dtype)
        if op not in LAYERS + NAMELESS:
            return definition(*args, **options)  # made of layers, which will be seen one by one
        given = inspect.signature(definition).bind(*args, **options).arguments
        if op in GATES:
            given["x"] = self.at_gate(op, given["x"])
        plus, rectified = (given.pop(name, None) if op == "batch_norm" else None for name in ("plus", "relu"))
        if given.get("groups", 1) > 1:  # the definition loops over groups and taps: minutes for a ConvNeXt
            token = nn.TAP.set(None)
            y = nn.conv2d(**given)
            nn.TAP.reset(token)
        else:
            y = definition(**given)
        y, state = y if op == "batch_norm" else (y, None)
        if self.noise:
            u = self.noise.rng.uniform(-1, 1, np.shape(y))
            y = disturbed(y, (1 + self.noise.eps * u).astype(getval(y).dtype))
        if isbox(y):
            y._node.function, y._node.above = op, [value._node for value in given.values() if isbox(value)]
        if op in LAYERS:
            self.note(op, given, y)
        if plus is not None:
            y = y + plus
        if rectified:
            y = nn.relu(y)  # which comes here again
        return y if state is None else (y, state)

    def note(self, op, given, y):
        """Note a layer with parameters, by their names."""
        parameters = {key: self.owner(value) for key, value in given.items() if key not in ("x", "state")}
        parameters = {key: found for key, found in parameters.items() if found}
        first = parameters.get("table" if op == "embedding" else "weight")
        if not first:
            return  # rows taken from an array that is no parameter
        name, part = first[0].removesuffix("weight").rstrip("._"), first[1]
        if op != "embedding":
            self.events.append(Event(f"{name}.input", "", given["x"]))
        self.events.append(Event(name, part, y))
        whole = not any(index for _, index in parameters.values())
        options = {k: v for k, v in given.items() if isinstance(v, (bool, int, float))}
        arguments = {key: parameter for key, (parameter, _) in parameters.items()}
        if whole and name not in self.calls and op != "embedding":
            self.calls[name] = {"op": op, "arguments": arguments, "options": options}
        else:  # several calls, or by slices: what each one took is not stored
            self.calls[name] = {"op": op}

    def owner(self, value):
        """(parameter, index of the slice or "") of an array, or None."""
        node = getattr(value, "_node", None)
        if node is None:
            return None
        if id(node) in self.names:
            return self.names[id(node)], ""
        if node.index and id(node.parents[0]) in self.names:
            return self.names[id(node.parents[0])], node.index
        return None

    def at_gate(self, op, x):
        """x at the next gate: kept in the first run, compared with that or turned in the others."""
        k, value, noise = self.gate, np.asarray(getval(x)), self.noise
        self.gate += 1
        if noise is None:
            self.gates.append(value)
            return x
        if not noise.turn:
            if value.size:
                noise.reach[k] = max(noise.reach[k], float(np.abs(value - noise.gates[k]).max()))
            return x
        near = 2 * noise.reach[k]
        if op == "relu":
            turned = np.where(value == 0, near / 2, -2 * value)
            return x + np.where(np.abs(value) < near, turned, 0).astype(value.dtype)
        return x + noise.rng.uniform(-near, near, value.shape).astype(value.dtype)


@primitive
def disturbed(y: np.ndarray, factor: np.ndarray) -> np.ndarray:
    """y * factor, and its gradient too, in y's dtype."""
    return y * factor


defvjp(disturbed, lambda ans, y, factor: lambda g: (g * factor).astype(np.asarray(y).dtype), argnums=(0,))


def step(
    loss: Any, params: dict, state: dict, batch: tuple, *, gates: list | None = None, noise: Noise | None = None
) -> Step:
    """loss(params, state, batch) on the tape. `gates`, a list to be filled, is what a later Noise needs."""
    x, y = batch
    with nn.one_blas_thread(), trace_stack.new_trace() as level:
        boxed = optim.leaves(lambda leaf: new_box(leaf, level, Node.new_root()), params)
        x = new_box(x, level, Node.new_root())
        roots = weights.named(boxed)
        tap = Tap({id(box._node): name for name, box in roots.items()}, [] if gates is None else gates, noise)
        token = nn.TAP.set(tap)
        try:
            L, symbols = loss(boxed, state, (x, y))
        finally:
            nn.TAP.reset(token)
    state = weights.named(symbols["state"])
    symbols = weights.named({name: value for name, value in symbols.items() if name != "state"})
    events = tap.events + [Event(name, "", value) for name, value in symbols.items()]
    boxes = {"x": {"": [x]}}
    for event in events:
        boxes.setdefault(event.name, {}).setdefault(event.part, []).append(event.box)
    wanted = {box._node for parts in boxes.values() for each in parts.values() for box in each if isbox(box)}
    slopes = backward(L, wanted | {box._node for box in roots.values()})
    values, gradients = {"x": getval(x), "y": np.asarray(y)}, {}
    for name, parts in boxes.items():
        values[name] = joined(parts, getval)
        if all(isbox(box) for each in parts.values() for box in each):
            gradients[name] = joined(parts, lambda box: slopes.get(box._node, np.zeros_like(getval(box))))
    for name, box in roots.items():
        value = np.asarray(getval(box))
        gradients[name] = np.asarray(slopes.get(box._node, np.zeros_like(value)), value.dtype)
    graph = graph_of(boxes, roots)
    for name, call in tap.calls.items():
        if name in graph:
            graph[name] |= {"by": call["op"]} | ({"call": call} if "arguments" in call else {})
    return Step(values, gradients, graph, state)


def joined(parts: dict, of: Any) -> np.ndarray:
    """One array of a layer's calls: batches one below the other, slices of the weight side by side."""
    columns = [[np.asarray(of(box)) for box in each] for each in parts.values()]
    rows = [each[0] if len(each) == 1 else np.concatenate(each, axis=0) for each in columns]
    return rows[0] if len(rows) == 1 else np.concatenate(rows, axis=-1)


def backward(L: Any, wanted: set) -> dict:
    """{node: dL/d(its value)} of the wanted nodes."""
    end, kept = L._node, {}
    outgrads = {end: (np.ones_like(L._value), False)}
    for node in toposort(end):
        g = outgrads.pop(node)[0]
        if node in wanted:
            kept[node] = g
        for parent, ingrad in zip(node.parents, node.vjp(g), strict=False):
            outgrads[parent] = add_outgrads(outgrads.get(parent), ingrad)
    return kept


def graph_of(boxes: dict, roots: dict) -> dict:
    """{name: {"from": the names it is made of, "by": the functions on the way}}; "same" names an equal array."""
    known = {box._node: name for name, box in roots.items()}
    graph: dict[str, dict] = {}
    for name, parts in boxes.items():
        every = [box for each in parts.values() for box in each]
        if not all(isbox(box) for box in every):  # no gradient reaches it: W, made of the labels
            graph[name] = {"from": ["y"], "by": ""}
            continue
        nodes: list[Any] = [box._node for box in every]
        same = {known.get(node) for node in nodes}
        if len(same) == 1 and None not in same:
            graph[name] = {"from": [*same], "by": "", "same": [*same][0]}
            continue
        found: dict[str, None] = {}
        by: dict[str, None] = {}
        seen, queue = set(nodes), list(nodes)
        while queue:
            node = queue.pop(0)
            if node in known:
                found[known[node]] = None
                continue
            if node.function.strip("_") not in UNSEEN:
                by[node.function.strip("_")] = None
            fresh = [parent for parent in node.above if parent not in seen]
            seen.update(fresh)
            queue += fresh
        graph[name] = {"from": list(found), "by": ", ".join(reversed(by))}
        known |= {node: name for node in nodes if node not in known}
    return graph

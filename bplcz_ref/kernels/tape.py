"""Where kernels meet autograd: how a kernel becomes a node of its tape, and tapes in several threads.

A kernel is a function of plain arrays that returns its value and the way back:

    kernel(*arrays, wanted, **options) -> y, back        back(g) -> the gradients by the arguments in `wanted`

`@on_tape(name)` above it makes it a node of the tape. `wanted` numbers the arguments that carry a gradient; it is
empty when nothing is traced, and then `back` is dropped at once. What `back` needs lives in its closure, which
ends with this call's node. All arrays reach a kernel in one floating dtype; each gradient leaves in the dtype of
its argument. Kernels write to no argument, can go back twice, and have first derivatives only: a second one raises
an error.

autograd's tape is not made for several threads. `concurrently` traces each branch in its own thread on a private
tape: every traced value in the branch's parameters enters as a plain array that is traced anew. To the outer tape,
the primitive `_branches` is one node with all those values as arguments; on the way back the private tapes run
side by side again. `value_and_gradients` uses such a tape for a whole network: on autograd's own the gradient of
the parameters would be a dictionary at every step, and dictionaries would be added key by key.
"""

import contextlib
import contextvars
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
from autograd import tracer
from autograd.core import VJPNode, add_outgrads
from autograd.extend import defvjp_argnums, primitive, vspace
from autograd.tracer import getval, isbox, new_box, toposort

from .threads import one_blas_thread, run


def on_tape(name: str) -> Callable:
    """Make a kernel an autograd primitive, called as layer(*arrays, **options); `layer.kernel` is the kernel."""

    def decorate(kernel):
        def cast(*arrays, wanted, **options):
            dtype, dtypes = np.result_type(*arrays), [np.asarray(a).dtype for a in arrays]
            dtype = dtype if dtype.kind in "fc" else np.dtype(float)  # of integers
            y, way_back = kernel(*(np.asarray(a, dtype) for a in arrays), wanted=wanted, **options)

            def back(g):
                found = way_back(np.asarray(g, dtype))
                return [np.asarray(d, dtypes[n])[()] for n, d in zip(wanted, found, strict=True)]

            return y[()], back  # 0-d arrays become scalars, as everywhere in NumPy

        layer = _as_primitive(name, cast)
        layer.kernel = kernel
        return layer

    return decorate


def _as_primitive(name, kernel):
    """The kernel as an autograd primitive, whatever the types of its values."""

    @primitive
    def node(*values, wanted, carrier, options):
        y, back = kernel(*values, wanted=wanted, **options)
        carrier.append(back)  # the list of this one call takes it to make_vjp
        return y

    def make_vjp(wanted, y, values, keywords):
        (back,) = keywords["carrier"]
        nested = any(isbox(v) for v in values)  # an outer trace is differentiating this derivative

        def vjp(g):
            if nested or any(isbox(part) for part in (g if isinstance(g, tuple) else [g])):
                raise NotImplementedError(
                    f"{name} has first derivatives only: its backward pass runs on plain arrays. "
                    f"For higher derivatives call nn.{name}.definition, which autograd differentiates again."
                )
            return back(g)

        return vjp

    defvjp_argnums(node, make_vjp)

    def layer(*values, **options):
        wanted = tuple(n for n, v in enumerate(values) if isbox(v))
        return node(*values, wanted=wanted, carrier=[], options=options)

    return layer


# ------------------------------------------------------------------------------------------ traces in threads
#
# The one change that is made to autograd. It counts how deeply traces are nested in one global: two threads that
# trace at once could give one number to an outer and an inner trace, and gradients would silently be wrong. After
# an exception it forgets to count back. The count here is a context's, and `threads.run` carries it to helpers.

_depth = contextvars.ContextVar("depth", default=tracer.trace_stack.top)  # this module may be imported in a trace


@contextlib.contextmanager
def _new_trace(stack) -> Iterator[int]:
    token = _depth.set(_depth.get() + 1)
    try:
        yield _depth.get()
    finally:
        _depth.reset(token)


tracer.TraceStack.new_trace = _new_trace


# ----------------------------------------------------------------------------------------------- private tapes


def _map(f, tree):
    """f of every leaf, in the containers of `tree`: dict, list, tuple, NamedTuple."""
    if isinstance(tree, dict):
        return {key: _map(f, value) for key, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        values = [_map(f, value) for value in tree]
        return type(tree)(*values) if hasattr(tree, "_fields") else type(tree)(values)
    return f(tree)


def unboxed(tree: Any) -> Any:
    """A tree with autograd's boxes taken off its leaves: plain arrays, which carry no gradient.

    >>> unboxed({"mean": [1.0, None]})
    {'mean': [1.0, None]}
    """
    return _map(lambda leaf: unboxed(getval(leaf)) if isbox(leaf) else leaf, tree)


def value_and_gradients(function: Callable, params: dict) -> tuple:
    """nn.value_and_gradients: every array of `params` is a root of the tape by itself."""
    with one_blas_thread():
        y, aux, back = _traced(function, [params])
        if np.shape(y):
            raise ValueError(f"value_and_gradients needs a function of one number, got an array {np.shape(y)}")
        return y, back(np.ones_like(y), last=True)[0], aux


def concurrently(functions: Sequence[Callable], parameters: Sequence) -> tuple[list, list]:
    """nn.concurrently, in threads: forward and backward of every branch run side by side."""
    if len(functions) != len(parameters):
        raise ValueError(
            f"concurrently needs one tree of parameters per function, got {len(functions)} functions and "
            f"{len(parameters)} trees"
        )
    boxes: list = []
    branches = []  # of each: the function, its tree, and where the tree's boxes are among all
    for function, tree in zip(functions, parameters, strict=True):
        first = len(boxes)
        _map(lambda leaf: boxes.append(leaf) if isbox(leaf) else None, tree)
        branches.append((function, tree, range(first, len(boxes))))
    aux: list = []
    arrays = _branches(*boxes, branches=branches, aux=aux)
    return [arrays[k] for k in range(len(branches))], aux


def _run_branches(*values, wanted, branches, aux):
    """Every branch; `aux` is filled with what else they return."""

    def filled(function, tree, *inside):  # the branch's own traced values in the place of the boxes
        own = iter(inside)
        return function(_map(lambda leaf: next(own) if isbox(leaf) else leaf, tree))

    tasks = [partial(_traced, partial(filled, f, tree), [values[n] for n in own]) for f, tree, own in branches]
    ys, found, ways_back = zip(*run(tasks), strict=True)
    aux += found

    def back(gs):
        own = [numbers for *_, numbers in branches]
        used = [k for k, numbers in enumerate(own) if set(numbers) & set(wanted)]
        done = run([partial(ways_back[k], gs[k]) for k in used])
        gradients = {n: d for k, part in zip(used, done, strict=True) for n, d in zip(own[k], part, strict=True)}
        return [gradients[n] for n in wanted]

    return ys, back


_branches = _as_primitive("concurrently", _run_branches)


def _traced(function, values):
    """function(*values) -> (array, aux, the way back), on a private tape; each array of the values is a root."""
    roots = []  # (node, array) of every leaf, in the order in which `_map` meets them
    with tracer.trace_stack.new_trace() as trace:

        def root(leaf):
            roots.append((VJPNode.new_root(), leaf))
            return new_box(leaf, trace, roots[-1][0])

        result = function(*[_map(root, value) for value in values])
    y, aux = result if isinstance(result, tuple) else (result, None)
    # A result of another trace, or of none, does not depend on the values: it has no end on this tape.
    end = y._node if isbox(y) and y._trace == trace else None
    y = y._value if end is not None else y
    if isbox(y):
        raise ValueError(
            "a branch of concurrently used a traced value that is not in its parameters, so its gradient "
            "would be lost; hand the value over in that branch's tree of parameters"
        )

    def back(g, last=False):
        found = _backward(g, end, last) if end is not None else {}
        flat = iter([found[node] if node in found else vspace(leaf).zeros() for node, leaf in roots])
        return [_map(lambda _: next(flat), value) for value in values]  # `_map` meets the leaves in the same order

    return y, unboxed(aux), back


def _backward(g, end, last):
    """Gradients of every root of the tape that ends in `end`, by node: autograd's backward_pass for many roots.

    The `last` pass gives back what a node kept as soon as it is done, which makes room for the gradients to come.
    """
    outgrads, roots = {end: (g, False)}, {}
    for node in toposort(end):
        outgrad = outgrads.pop(node)
        if not node.parents:
            roots[node] = outgrad[0]
            continue
        for parent, ingrad in zip(node.parents, node.vjp(outgrad[0]), strict=False):
            outgrads[parent] = add_outgrads(outgrads.get(parent), ingrad)
        if last:
            node.vjp = None
    return roots

"""Independent branches side by side, each on a tape of its own; autograd sees all of them as one node.

autograd's tape is not made for several threads, so branches that run at once cannot share one. Here each branch is
traced in its own thread on a private tape:

    forward    Every traced value in a branch's parameters leaves them as a plain array, and the branch traces it
               anew (`_traced`). Its result is plain again.
    outside    The primitive `_branches` takes all those traced values of all branches as arguments and returns all
               results, so the outer tape holds one node for everything.
    backward   The vjp of that node runs each private tape backward, side by side again (`_branches_vjp`).

`value_and_gradients` uses the same private tape for a whole network. On autograd's own tape the gradient of the
parameters would be a dictionary at every step, and dictionaries would be added key by key.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from autograd import tracer
from autograd.core import VJPNode, add_outgrads
from autograd.extend import defvjp_argnums, primitive, vspace
from autograd.tracer import getval, isbox, new_box, toposort

from .cores import one_blas_thread
from .scheduler import run


def concurrently(functions: Sequence[Callable], parameters: Sequence) -> tuple[list, list]:
    """nn.concurrently, in threads: forward and backward of every branch run side by side."""
    if len(functions) != len(parameters):
        raise ValueError(
            f"concurrently needs one tree of parameters per function, got {len(functions)} functions and "
            f"{len(parameters)} trees"
        )
    boxes, trees = [], []  # trees: (the tree with a `_Place` for each box, how many boxes it has)
    for tree in parameters:
        found: list = []
        trees.append((_map(lambda leaf, found=found: _place(leaf, found), tree), len(found)))
        boxes += found
    kept: dict = {}  # filled by `_branches`; its vjp finds the private tapes there
    arrays = _branches(*boxes, functions=functions, trees=trees, kept=kept)
    return [arrays[k] for k in range(len(functions))], list(kept["aux"])


def value_and_gradients(function: Callable, params: dict) -> tuple:
    """nn.value_and_gradients: every array of `params` is a root of the tape by itself."""
    with one_blas_thread():
        y, aux, vjp, _ = _traced(function, _Place(0), [params])
        if np.shape(y):
            raise ValueError(f"value_and_gradients needs a function of one number, got an array {np.shape(y)}")
        return y, vjp(np.ones_like(y), last=True)[0], aux


# ------------------------------------------------------------------------------------------- trees of leaves


class _Place(int):
    """Marks where a box was in a tree: its number among the tree's boxes."""


def _place(leaf, found):
    if not isbox(leaf):
        return leaf
    found.append(leaf)
    return _Place(len(found) - 1)


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


# ------------------------------------------------------------------------------- one node for all branches


@primitive
def _branches(*values, functions, trees, kept):
    """Run every branch; the tuple of arrays is the result, the rest goes into `kept`."""
    tasks, first = [], 0
    for function, (tree, count) in zip(functions, trees, strict=True):
        tasks.append(lambda f=function, t=tree, v=values[first : first + count]: _traced(f, t, v))
        first += count
    done = run(tasks)
    ys, kept["aux"], kept["vjps"], kept["seconds"] = zip(*done, strict=True)
    return ys


def _branches_vjp(argnums, ys, values, keywords):
    vjps, seconds = keywords["kept"]["vjps"], keywords["kept"]["seconds"]
    owner = [k for k, (_, count) in enumerate(keywords["trees"]) for _ in range(count)]  # the branch of each value
    nested = any(isbox(v) for v in values)

    def vjp(gs):
        if nested or any(isbox(g) for g in (gs if isinstance(gs, tuple) else [gs])):
            raise NotImplementedError(
                "concurrently has first derivatives only; for higher ones use nn.concurrently.definition"
            )
        wanted = sorted({owner[n] for n in argnums})
        longest_first = sorted(range(len(wanted)), key=lambda i: -seconds[wanted[i]])
        done = run([lambda k=k: vjps[k](gs[k]) for k in wanted], longest_first)
        gradients = [d for k in range(len(vjps)) for d in (done[wanted.index(k)] if k in wanted else ())]
        held = [n for n, k in enumerate(owner) if k in wanted]  # the values that `gradients` belong to
        return [gradients[held.index(n)] for n in argnums]

    return vjp


defvjp_argnums(_branches, _branches_vjp)


# ---------------------------------------------------------------------------------------- the private tape


def _traced(function, tree, values):
    """-> (array, aux, vjp, seconds taken): one branch on its private tape, if it has values to differentiate by.

    Every array of the values is a root of the tape by itself, so that no dictionary of gradients has to be
    added to another.
    """
    began = time.perf_counter()
    if not values:
        y, aux = _split(function(tree))
        return _plain_result(y), aux, None, 0.0
    roots = []  # (node, array) of every leaf, in the order in which `_map` meets them
    with tracer.trace_stack.new_trace() as trace:

        def root(leaf):
            roots.append((VJPNode.new_root(), leaf))
            return new_box(leaf, trace, roots[-1][0])

        inside = [_map(root, value) for value in values]
        y, aux = _split(function(_map(lambda leaf: inside[leaf] if isinstance(leaf, _Place) else leaf, tree)))
    # A result of another trace, or of none, does not depend on the values: it has no end on this tape.
    end = y._node if isbox(y) and y._trace == trace else None
    y = _plain_result(y._value if end is not None else y)

    def vjp(g, last=False):
        gradients = _backward(g, end, last) if end is not None else {}
        flat = iter([gradients.get(node, None) for node, _ in roots])

        def gradient(leaf):  # `_map` meets the leaves in the same order again
            d = next(flat)
            return vspace(leaf).zeros() if d is None else d

        return [_map(gradient, value) for value in values]

    return y, aux, vjp, time.perf_counter() - began


def _split(result):
    """(array, aux) of what a branch returned: an array, or an array and what else it measured."""
    y, aux = result if isinstance(result, tuple) else (result, None)
    return y, unboxed(aux)


def _plain_result(y):
    if isbox(y):
        raise ValueError(
            "a branch of concurrently used a traced value that is not in its parameters, so its gradient "
            "would be lost; hand the value over in that branch's tree of parameters"
        )
    return y


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

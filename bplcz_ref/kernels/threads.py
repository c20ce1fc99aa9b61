"""Independent branches side by side on the machine's cores, and scratch memory for each thread.

Not a scheduler and not a parallel autograd: one branch runs in one thread, on a tape of its own.

The number of threads is the number of cores this process may use, never more than there are branches; the
environment variable BPLCZ_THREADS overrides it, read at every call. The numbers do not depend on it: while
branches run, NumPy's OpenBLAS works with one thread whether there is one branch at a time or many.
"""

import contextlib
import contextvars
import ctypes
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from autograd import tracer
from autograd.core import VJPNode, add_outgrads
from autograd.extend import defvjp_argnums, primitive, vspace
from autograd.tracer import getval, isbox, new_box, toposort

# ------------------------------------------------------------------------------------ what a thread has alone

_own = threading.local()  # .kept: scratch memory; .inside: true while this thread works for `run`


def workspace(name, shape, dtype):
    """Uninitialised scratch memory of this thread, kept from call to call under `name`.

    The next request under the same name gets the same memory: a kernel uses it up before it returns, and
    never hands it to its caller.
    """
    dtype = np.dtype(dtype)
    size = dtype.itemsize
    for length in shape:
        size *= length
    kept = _own.__dict__.setdefault("kept", {})
    if name not in kept or kept[name].size < size:
        kept[name] = np.empty(size, np.uint8)
    return kept[name][:size].view(dtype).reshape(shape)


class _TraceStack(threading.local):
    """How deeply traces are nested in this thread.

    autograd counts them in one global without a lock, so two threads that trace at once could give one number
    to an outer and an inner trace, and gradients would go astray without a word. It also forgets to count
    back when a traced function raises.
    """

    top = -1

    @contextlib.contextmanager
    def new_trace(self):
        self.top += 1
        try:
            yield self.top
        finally:
            self.top -= 1


if not isinstance(tracer.trace_stack, threading.local):
    outer, tracer.trace_stack = tracer.trace_stack.top, _TraceStack()
    tracer.trace_stack.top = outer  # this module may be imported inside a trace

# ------------------------------------------------------------------------------------------------- the pool

_lock = threading.Lock()
_pool = None
_blas = {"users": 0, "before": 0}


def _after_fork():  # a child has none of its parent's threads, and may have inherited a lock that is held
    global _lock, _pool
    _lock, _pool = threading.Lock(), None
    if _blas["users"]:
        _blas["users"] = 0
        _blas_threads(_blas["before"])


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def _openblas():
    """(get, set) of the number of threads of NumPy's OpenBLAS; None with another BLAS."""
    try:
        from numpy._core import _multiarray_umath

        library = ctypes.CDLL(_multiarray_umath.__file__)  # its symbols include those of the BLAS it links to
    except (ImportError, OSError):
        return None
    for name in ("scipy_openblas_{}64_", "scipy_openblas_{}", "openblas_{}64_", "openblas_{}"):
        with contextlib.suppress(AttributeError):
            get, put = (getattr(library, name.format(f"{verb}_num_threads")) for verb in ("get", "set"))
            get.restype, put.restype, put.argtypes = ctypes.c_int, None, [ctypes.c_int]
            return get, put
    return None


_functions = _openblas()


def _blas_threads(n=None):
    """The number of BLAS threads; with `n`, set it. Without OpenBLAS 0, and nothing is set."""
    if _functions is None:
        return 0
    if n is not None:
        _functions[1](n)
    return _functions[0]()


@contextlib.contextmanager
def one_blas_thread():
    """BLAS threads 1 while anybody is in here, then what they were before.

    The kernels multiply many small matrices: a second BLAS thread gains little on a quiet machine, costs a
    multiple on a busy one, where each product waits for it, and makes the bits depend on the number of cores.
    """
    with _lock:
        if _blas["users"] == 0:
            _blas["before"] = _blas_threads()
            _blas_threads(1)
        _blas["users"] += 1
    try:
        yield
    finally:
        with _lock:
            _blas["users"] = max(0, _blas["users"] - 1)
            if _blas["users"] == 0 and _blas["before"]:
                _blas_threads(_blas["before"])


def thread_count():
    """BPLCZ_THREADS, or the number of cores that this process may use."""
    given = os.environ.get("BPLCZ_THREADS", "").strip()
    if not given:
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if not given.isdigit() or int(given) < 1:
        raise ValueError(f"environment variable BPLCZ_THREADS is {given!r}; expected a whole number, 1 or more")
    return int(given)


def run(tasks, order=None):
    """[task() for task in tasks], side by side; of several exceptions the earliest task's is raised.

    The caller works too. Tasks are begun in the given order of their numbers: with the longest first, the
    threads end at about the same time. A call from inside a task runs in place, one task after the other.
    """
    global _pool
    if getattr(_own, "inside", False):
        return [task() for task in tasks]
    results, errors = [None] * len(tasks), {}
    waiting, claim = iter(range(len(tasks)) if order is None else order), threading.Lock()
    depth = tracer.trace_stack.top

    def work():
        before = tracer.trace_stack.top
        _own.inside, tracer.trace_stack.top = True, depth  # new traces must lie above the caller's
        try:
            while not errors:
                with claim:
                    k = next(waiting, None)
                if k is None:
                    return
                try:
                    results[k] = tasks[k]()
                except BaseException as error:
                    errors[k] = error
        finally:
            _own.inside, tracer.trace_stack.top = False, before

    with one_blas_thread():
        helpers = min(thread_count(), len(tasks)) - 1
        futures = []
        if helpers > 0:
            with _lock:
                if _pool is None:
                    _pool = ThreadPoolExecutor(max_workers=64, thread_name_prefix="bplcz_ref")
            # each in its own copy of the context: np.errstate holds in the threads too
            futures = [_pool.submit(contextvars.copy_context().run, work) for _ in range(helpers)]
        work()
        for future in futures:
            if not future.cancel():
                future.result()
    if errors:
        raise errors[min(errors)]
    return results


# ------------------------------------------------------------------------------------ the differentiable map


def concurrently(functions, parameters):
    """nn.concurrently, in threads: forward and backward of every branch run side by side."""
    if len(functions) != len(parameters):
        raise ValueError(
            f"concurrently needs one tree of parameters a function, got {len(functions)} functions and "
            f"{len(parameters)} trees"
        )
    boxes, trees = [], []
    for tree in parameters:
        found = []
        trees.append((_map(lambda leaf, found=found: _place(leaf, found), tree), len(found)))
        boxes += found
    kept = {}
    arrays = _branches(*boxes, functions=functions, trees=trees, kept=kept)
    return [arrays[k] for k in range(len(functions))], list(kept["aux"])


class _Place(int):
    """Where a box stood in a tree: its number among the tree's boxes."""


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


def unboxed(tree):
    """A tree with autograd's boxes taken off its leaves: plain arrays, which carry no gradient.

    >>> unboxed({"mean": [1.0, None]})
    {'mean': [1.0, None]}
    """
    return _map(lambda leaf: unboxed(getval(leaf)) if isbox(leaf) else leaf, tree)


@primitive
def _branches(*values, functions, trees, kept):
    """Run every branch; the tuple of arrays is the result, the rest goes into `kept`."""
    tasks, first = [], 0
    for function, (tree, count) in zip(functions, trees, strict=True):
        tasks.append(lambda f=function, t=tree, v=values[first : first + count]: _forward(f, t, v))
        first += count
    done = run(tasks)
    ys, kept["aux"], kept["vjps"], kept["seconds"] = zip(*done, strict=True)
    return ys


def _branches_vjp(argnums, ys, values, keywords):
    vjps, seconds = keywords["kept"]["vjps"], keywords["kept"]["seconds"]
    owner = [k for k, (_, count) in enumerate(keywords["trees"]) for _ in range(count)]
    nested = any(isbox(v) for v in values)

    def vjp(gs):
        if nested or any(isbox(g) for g in (gs if isinstance(gs, tuple) else [gs])):
            raise NotImplementedError(
                "concurrently has first derivatives only; for higher ones use nn.concurrently.definition"
            )
        wanted = sorted({owner[n] for n in argnums})
        order = sorted(range(len(wanted)), key=lambda i: -seconds[wanted[i]])
        done = run([lambda k=k: vjps[k](gs[k]) for k in wanted], order)
        gradients = [d for k in range(len(vjps)) for d in (done[wanted.index(k)] if k in wanted else ())]
        held = [n for n, k in enumerate(owner) if k in wanted]
        return [gradients[held.index(n)] for n in argnums]

    return vjp


defvjp_argnums(_branches, _branches_vjp)


def _forward(function, tree, values):
    """-> (array, aux, vjp, seconds taken): one branch, on its own tape if it has values to differentiate by.

    Every array of the values is a root of the tape by itself, so that no dictionary of gradients has to be
    added to another.
    """
    began = time.perf_counter()
    if not values:
        y, aux = _split(function(tree))
        return _plain_result(y), aux, None, 0.0
    roots = []
    with tracer.trace_stack.new_trace() as trace:

        def root(leaf):
            roots.append((VJPNode.new_root(), leaf))
            return new_box(leaf, trace, roots[-1][0])

        inside = [_map(root, value) for value in values]
        y, aux = _split(function(_map(lambda leaf: inside[leaf] if isinstance(leaf, _Place) else leaf, tree)))
    end = y._node if isbox(y) and y._trace == trace else None
    y = _plain_result(y._value if end is not None else y)

    def vjp(g):
        gradients = _backward(g, end) if end is not None else {}
        flat = iter([gradients.get(node, None) for node, _ in roots])

        def gradient(leaf):
            d = next(flat)
            return vspace(leaf).zeros() if d is None else d

        return [_map(gradient, value) for value in values]

    return y, aux, vjp, time.perf_counter() - began


def value_and_gradients(function, params):
    """nn.value_and_gradients: every array of `params` is a root of the tape by itself."""
    with one_blas_thread():
        y, aux, vjp, _ = _forward(function, _Place(0), [params])
        if np.shape(y):
            raise ValueError(f"value_and_gradients needs a function of one number, got an array {np.shape(y)}")
        return y, vjp(np.ones_like(y))[0], aux


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


def _backward(g, end):
    """Gradients of every root of the tape that ends in `end`, by node: autograd's backward_pass, many roots."""
    outgrads, roots = {end: (g, False)}, {}
    for node in toposort(end):
        outgrad = outgrads.pop(node)
        if not node.parents:
            roots[node] = outgrad[0]
            continue
        for parent, ingrad in zip(node.parents, node.vjp(outgrad[0]), strict=False):
            outgrads[parent] = add_outgrads(outgrads.get(parent), ingrad)
    return roots

"""How the kernels use the machine: a pool of threads, one BLAS thread in each, scratch memory per thread.

This is not a scheduler: `run` takes a list of tasks and returns when all are done.

The number of threads is the number of cores this process may use, never more than there are tasks; the
environment variable BPLCZ_THREADS overrides it and is read at every call. Results do not depend on it: while tasks
run, NumPy's OpenBLAS works with one thread, whether there is one task at a time or many.
"""

import contextlib
import contextvars
import ctypes
import os
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from autograd import tracer

# ------------------------------------------------------------------------------------ what a thread has alone

_own = threading.local()  # .kept: scratch memory; .inside: true while this thread works for `run`


def workspace(name: str, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
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
    to an outer and an inner trace, and gradients would silently be wrong. It also forgets to count back when a
    traced function raises an exception.
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

# ------------------------------------------------------------------------------------------------- BLAS

_lock = threading.Lock()
_blas = {"users": 0, "before": 0}  # contexts that are open; the user's number, while it is not set


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


def blas_threads(n: int | None = None) -> int:
    """The number of BLAS threads; with `n`, set it. Without OpenBLAS the number is 0, and nothing is set."""
    if _functions is None:
        return 0
    if n is not None:
        _functions[1](n)
    return _functions[0]()


@contextlib.contextmanager
def one_blas_thread() -> Iterator[None]:
    """A context in which BLAS uses one thread; the last one to leave sets the number back.

    The kernels multiply many small matrices. A second BLAS thread gains little on a quiet machine; on a busy one,
    where each product waits for it, it costs a multiple; and the bits would depend on the number of cores.

    The number is the user's: one that is set while a context is open is what is set back, or left, at the end. (A
    1 that is set meanwhile cannot be told from ours, and ends with it: set it before.) The number is the whole
    process's, so such a setting reaches the contexts that are open in other threads; the next to begin has one
    thread again.
    """
    with _lock:
        if (now := blas_threads()) > 1:  # the first context, or the user has set a number since
            _blas["before"] = now
            blas_threads(1)
        _blas["users"] += 1
    try:
        yield
    finally:
        with _lock:
            _blas["users"] = max(0, _blas["users"] - 1)
            if _blas["users"] == 0:
                _set_back()


def _set_back():
    """The user's number again, unless it was set anew since: then it is no longer our 1."""
    before, _blas["before"] = _blas["before"], 0
    if before and blas_threads() == 1:
        blas_threads(before)


# ------------------------------------------------------------------------------------------------- the pool

_pool = None


def _after_fork():  # a child has none of its parent's threads, and may have inherited a lock that is held
    global _lock, _pool
    _lock, _pool = threading.Lock(), None
    _blas["users"] = 0
    _set_back()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def thread_count() -> int:
    """BPLCZ_THREADS, or the number of cores that this process may use."""
    given = os.environ.get("BPLCZ_THREADS", "").strip()
    if not given:
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if not re.fullmatch("0*[1-9][0-9]{0,5}", given):  # str.isdigit takes a superscript two, int does not
        raise ValueError(
            f"environment variable BPLCZ_THREADS is {given[:80]!r}; expected a whole number, 1 or more"
        )
    return int(given)


def run(tasks: Sequence[Callable], order: Sequence[int] | None = None) -> list:
    """[task() for task in tasks], side by side; of several exceptions the earliest task's is raised.

    The caller works too. Tasks are begun in the given order of their numbers: with the longest first, the
    threads end at about the same time. A call from inside a task runs in place, one task after the other.
    """
    global _pool
    if getattr(_own, "inside", False):
        return [task() for task in tasks]
    results: list = [None] * len(tasks)
    errors: dict[int, BaseException] = {}
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
            if not future.cancel():  # one that has not begun has nothing left to do
                future.result()
    if errors:
        raise errors[min(errors)]
    return results

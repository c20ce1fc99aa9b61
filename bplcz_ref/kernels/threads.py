"""What the kernels take of the machine: threads for their pieces, one BLAS thread in each, memory that is kept.

There are as many threads as cores that this process may use; the environment variable BPLCZ_THREADS overrides the
number and is read at every call. Results do not depend on it: work is cut by its shape alone (`pieces`), partial
sums are added in the order of the pieces, and while kernels run, NumPy's OpenBLAS works with one thread.

Only the outermost call shares its tasks: a call inside of a task does its own one after the other. Helpers work in
a copy of the caller's context (contextvars), so that np.errstate and the depth of traces (tape.py) hold in them.
"""

import contextlib
import contextvars
import ctypes
import functools
import os
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

# Numbers that an array operation should carry. NumPy holds Python's lock while it prepares an operation, so that
# a second thread gains nothing below some 10 us, and waking it takes 60. With AVX-512, 2^19 is faster than 2^17
# (ExViT's step 0.89 to 0.92 of the time); without it both are equal.
NUMBERS = 1 << 19

_inside = contextvars.ContextVar("inside", default=False)  # at work on a task of `run`
MOST_HELPERS = max(8, os.cpu_count() or 1)  # a helper that has not waked yet counts as busy, and another is made
_pool = ThreadPoolExecutor(MOST_HELPERS, "bplcz_ref")


def run(tasks: Sequence[Callable]) -> list:
    """[task() for task in tasks], side by side; of several exceptions the earliest task's is raised.

    A last one that would leave all threads but one without work comes after the others and shares its own pieces.
    """
    if not _single.get():
        with one_blas_thread():
            return run(tasks)
    threads = 1 if len(tasks) < 2 or _inside.get() else thread_count()
    if threads == 1:
        return [task() for task in tasks]
    if len(tasks) % threads == 1:
        return [*run(tasks[:-1]), tasks[-1]()]
    return _side_by_side(tasks, min(threads, len(tasks)) - 1)


def _side_by_side(tasks, helpers):
    results: list = [None] * len(tasks)
    errors: dict[int, BaseException] = {}
    waiting = list(range(len(tasks)))[::-1]

    def work():
        with contextlib.suppress(IndexError):
            while True:
                k = waiting.pop()  # of several threads, each gets another
                try:
                    results[k] = tasks[k]()
                except BaseException as error:
                    errors[k] = error
                    waiting.clear()

    context = contextvars.copy_context()
    context.run(_inside.set, True)
    others = [_pool.submit(context.copy().run, work) for _ in range(helpers)]
    try:
        context.run(work)
    finally:  # Ctrl-C, too, leaves no helper behind
        waiting.clear()
        for other in others:
            if not other.cancel():
                other.result()
    if errors:
        raise errors[min(errors)]
    return results


@functools.lru_cache(maxsize=4096)
def pieces(n: int, least: int, most: int = 1 << 30) -> tuple[slice, ...]:
    """range(n) cut into `most` parts of about equal length, or fewer, so that none is below `least`.

    >>> pieces(7, 3), pieces(2, 3), pieces(0, 3)
    ((slice(0, 3, None), slice(3, 7, None)), (slice(0, 2, None),), (slice(0, 0, None),))
    """
    count = max(1, min(most, n // max(1, least)))
    edges = [n * k // count for k in range(count + 1)]
    return tuple(map(slice, edges, edges[1:]))


def each(work: Callable, parts: Sequence) -> list:
    """[work(part) for part in parts], side by side."""
    return run([partial(work, part) for part in parts])


def in_order(parts: Any) -> Any:
    """The sum of the parts, first to last, in the memory of the first."""
    total = parts[0]
    for part in parts[1:]:
        total += part
    return total


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


def keep_memory() -> bool:
    """Ask the C library to keep memory that is freed, for the arrays to come; False where it is not glibc.

    Each step frees hundreds of megabytes that the next one takes again. By default glibc gives much of it back to
    the system, which hands it out again page by page, zeroed: a fifth of ConvNeXt's step. This holds for the whole
    process, so no layer asks for it: training does, and a loop of your own may.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    return bool(mallopt(-1, 2**31 - 1)) and bool(mallopt(-3, 2**30))  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD


# ------------------------------------------------------------------------------------------------- BLAS

_lock = threading.Lock()
_blas = {"users": 0, "before": 0}  # contexts that are open; the user's number, while it is not set
_single = contextvars.ContextVar("single", default=False)  # this thread is inside of `one_blas_thread`


def openblas(name: str) -> Any:
    """The function openblas_NAME of NumPy's OpenBLAS; None where NumPy has another BLAS."""
    with contextlib.suppress(ImportError, OSError):
        from numpy._core import _multiarray_umath  # type: ignore[attr-defined]

        library = ctypes.CDLL(_multiarray_umath.__file__)  # its symbols include those of the BLAS it links to
        for symbol in (f"{prefix}openblas_{name}{suffix}" for prefix in ("scipy_", "") for suffix in ("64_", "")):
            if hasattr(library, symbol):
                return getattr(library, symbol)
    return None


# The number of BLAS threads, and how to set it; with another BLAS it is 0.
blas_threads: Callable[[], int] = openblas("get_num_threads") or (lambda: 0)
set_blas_threads: Callable[[int], None] = openblas("set_num_threads") or (lambda n: None)


@contextlib.contextmanager
def one_blas_thread() -> Iterator[None]:
    """A context in which BLAS uses one thread; the last one to leave sets the number back.

    The kernels multiply many small matrices. A second BLAS thread gains little on a quiet machine; on a busy one,
    where each product waits for it, it costs a multiple; and the bits would depend on the number of cores.

    The number is the whole process's and the user's: one that is set while a context is open is what is set back,
    or left, at the end; the next context to begin has one thread again.
    """
    if _single.get():
        yield
        return
    with _lock:
        if (now := blas_threads()) > 1:  # the first context, or the user has set a number since
            _blas["before"] = now
            set_blas_threads(1)
        _blas["users"] += 1
    token = _single.set(True)
    try:
        yield
    finally:
        _single.reset(token)
        with _lock:
            _leave()


def _leave():
    """One context less; after the last, the user's number, unless it was set anew: then it is not our 1."""
    _blas["users"] = max(0, _blas["users"] - 1)
    if _blas["users"] == 0:
        if _blas["before"] and blas_threads() == 1:
            set_blas_threads(_blas["before"])
        _blas["before"] = 0


def _after_fork():  # a child has none of its parent's threads, and may have inherited a lock that is held
    global _lock, _pool
    _lock, _pool = threading.Lock(), ThreadPoolExecutor(MOST_HELPERS, "bplcz_ref")
    _inside.set(False)
    _single.set(False)
    _blas["users"] = 0
    _leave()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)

"""What the kernels take of the machine: how many threads, one BLAS thread in each, scratch memory, kept memory.

The number of threads is the number of cores this process may use; the environment variable BPLCZ_THREADS overrides
it and is read at every call. Results do not depend on it: while kernels run, NumPy's OpenBLAS works with one
thread.
"""

import contextlib
import ctypes
import os
import re
import threading
from collections.abc import Iterator

import numpy as np

# ------------------------------------------------------------------------------------ what a thread has alone

_own = threading.local()  # .kept: scratch memory; .contexts: how many `one_blas_thread` this thread is in


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


M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of malloc.h


def keep_memory() -> bool:
    """Ask the C library to keep memory that is freed, for the arrays to come; False where it is not glibc.

    Each step frees hundreds of megabytes that the next one takes again. By default glibc gives much of it back to
    the system, which hands it out again page by page, zeroed: 17,000 pages per step of ConvNeXt beside PyTorch,
    a fifth of the step's time. This holds for the whole process, so no layer asks for it: training does,
    and a loop of your own may.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    return bool(mallopt(M_TRIM_THRESHOLD, 2**31 - 1)) and bool(mallopt(M_MMAP_THRESHOLD, 2**30))


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
    _own.contexts = getattr(_own, "contexts", 0) + 1
    try:
        yield
    finally:
        _own.contexts = max(0, _own.contexts - 1)
        with _lock:
            _blas["users"] = max(0, _blas["users"] - 1)
            if _blas["users"] == 0:
                _set_back()


def in_one_blas_thread() -> bool:
    """True while this thread is inside of `one_blas_thread`."""
    return getattr(_own, "contexts", 0) > 0


def _set_back():
    """The user's number again, unless it was set anew since: then it is no longer our 1."""
    before, _blas["before"] = _blas["before"], 0
    if before and blas_threads() == 1:
        blas_threads(before)


def _after_fork():  # a child may have inherited a lock that is held, and contexts that nobody will leave
    global _lock
    _lock = threading.Lock()
    _blas["users"] = _own.contexts = 0
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

"""How a step of ours and of a peer are timed beside each other, in one process and in turns.

A sample counts only if other processes hardly ran meanwhile (/proc/stat; elsewhere than on Linux every sample
counts). That threads wait for a core does not tell: idle threads of BLAS and OpenMP spin, and that belongs to the
time of a step. Times of another day or machine compare with nothing here: only ratios taken in turns do.
"""

import contextlib
import ctypes
import gc
import os
import platform
import time
from unittest import mock

import numpy as np


class Sampled:
    """Seconds of the samples that count, and of all of them."""

    def __init__(self):
        self.kept, self.all = [], []

    @property
    def times(self):
        return np.array(self.kept if len(self.kept) >= 3 else self.all)  # a busy machine leaves too few

    @property
    def median(self):
        return float(np.median(self.times))

    def __str__(self):
        low, mid, high = np.percentile(self.times, [10, 50, 90]) * 1e3
        return f"{mid:.1f} ({low:.1f} to {high:.1f})"


def others():
    """CPU seconds that the machine has spent on anything but this process and the children that it has waited for.

    0 where /proc/stat is missing.
    """
    try:
        with open("/proc/stat") as f:
            user, nice, system, _, _, *rest = map(int, f.readline().split()[1:9])
    except OSError:
        return 0.0
    children = os.times().children_user + os.times().children_system
    return (user + nice + system + sum(rest)) / os.sysconf("SC_CLK_TCK") - time.process_time() - children


def in_turns(calls, samples, seconds, tolerance=0.05):
    """{name: Sampled} of the calls, one after the other, until each has `samples` that count or time is up."""
    found = {name: Sampled() for name in calls}
    for call in list(calls.values()) * 2:
        call()
    end = time.perf_counter() + seconds
    while min(len(f.kept) for f in found.values()) < samples and time.perf_counter() < end:
        for name, call in calls.items():
            time.sleep(0.02)  # the other side's threads stop spinning
            before, start = others(), time.perf_counter()
            call()
            took = time.perf_counter() - start
            found[name].all.append(took)
            if others() - before <= tolerance * took + 0.02:  # /proc/stat counts in hundredths of a second
                found[name].kept.append(took)
    return found


def resident(field):
    """Megabytes that this process holds (VmRSS), or held at most since it began its program (VmHWM).

    Before the first, free memory is given back to the system, as what comes would not count where it fits in
    there; and the second begins anew.
    Not ru_maxrss of getrusage: that of a child begins with what its parent held.
    """
    if field == "VmRSS":
        gc.collect()
        with contextlib.suppress(AttributeError, OSError):
            ctypes.CDLL(None).malloc_trim(0)
        with contextlib.suppress(OSError), open("/proc/self/clear_refs", "w") as f:
            f.write("5")
    try:
        with open("/proc/self/status") as f:
            return next(int(line.split()[1]) for line in f if line.startswith(field)) / 1e3
    except OSError:
        raise SystemExit("memory: /proc/self/status is missing; it is measured on Linux only") from None


def multiplications(call):
    """Of the matrix products that `call` makes through np.matmul and np.dot, on one thread."""
    total = 0

    def counted(function):
        def product(a, b, *rest, **options):
            nonlocal total
            y = function(a, b, *rest, **options)
            total += y.size * a.shape[-1]
            return y

        return product

    with (
        mock.patch.dict(os.environ, BPLCZ_THREADS="1"),
        mock.patch.object(np, "matmul", counted(np.matmul)),
        mock.patch.object(np, "dot", counted(np.dot)),
    ):
        call()
    return total


def sgemm(n=2048, samples=5):
    """Multiplications per second of one large float32 product, on all threads of BLAS: the best of some."""
    a, b, y = (np.ones((n, n), np.float32) for _ in range(3))
    took = []
    for _ in range(samples):
        start = time.perf_counter()
        np.matmul(a, b, out=y)
        took.append(time.perf_counter() - start)
    return n**3 / min(took)


def machine():
    """The processor, its cores, and the versions that a figure depends on."""
    name = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo") as f:
            name = next(line.split(":", 1)[1].strip() for line in f if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{name}, {cores} cores; Python {platform.python_version()}, NumPy {np.__version__}"

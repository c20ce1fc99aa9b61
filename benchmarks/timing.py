"""How steps of ours and of a peer are timed beside each other, in one process and in turns; and on what machine.

A sample counts only if other processes hardly ran meanwhile (/proc/stat; elsewhere than on Linux every sample
counts). That threads wait for a core does not tell: idle threads of BLAS and OpenMP spin, and that belongs to the
time of a step. Times of another day or machine compare with nothing here: only ratios taken in turns do.
"""

import contextlib
import cProfile
import ctypes
import gc
import os
import platform
import pstats
import time
from pathlib import Path
from unittest import mock

import numpy as np

from bplcz_ref.kernels.threads import openblas

PRODUCTS = ("matmul", "dot", "einsum")
SLOWING = {  # environment variables that make one side slower than it is by itself
    "OPENBLAS_CORETYPE": "NumPy's products run with the kernels of that processor",
    "OPENBLAS_L2_SIZE": "NumPy's products are cut for another cache",
    "OPENBLAS_NUM_THREADS": "it limits the threads of NumPy's large products",
    "OMP_NUM_THREADS": "it limits the threads of both sides, whatever BPLCZ_THREADS says",
    "NPY_DISABLE_CPU_FEATURES": "NumPy leaves instructions of this processor unused",
    "ATEN_CPU_CAPABILITY": "PyTorch leaves instructions of this processor unused",
    "MKL_ENABLE_INSTRUCTIONS": "PyTorch's products leave instructions of this processor unused",
}


def spread(times):
    """The median in milliseconds with the 10th and the 90th percentile."""
    low, middle, high = np.percentile(times, [10, 50, 90]) * 1e3
    return f"{middle:.1f} ({low:.1f} to {high:.1f})"


def others():
    """CPU seconds that the machine has spent on anything but this process and the children that it has waited for.

    0 where /proc/stat is missing.
    """
    try:
        user, nice, system, _, _, *rest = map(int, Path("/proc/stat").read_text().split()[1:9])
    except OSError:
        return 0.0
    children = os.times().children_user + os.times().children_system
    return (user + nice + system + sum(rest)) / os.sysconf("SC_CLK_TCK") - time.process_time() - children


def in_turns(calls, samples, seconds, tolerance=0.05):
    """({name: seconds of its samples}, how many of each count) of the calls, one after the other.

    It ends when each has `samples` that count, or time is up. Where fewer than three count, all are taken.
    """
    kept, every = ({name: [] for name in calls} for _ in range(2))
    for call in list(calls.values()) * 2:
        call()
    end = time.perf_counter() + seconds
    while min(map(len, kept.values())) < samples and time.perf_counter() < end:
        for name, call in calls.items():
            time.sleep(0.02)  # the other side's threads stop spinning
            before, start = others(), time.perf_counter()
            call()
            took = time.perf_counter() - start
            every[name].append(took)
            if others() - before <= tolerance * took + 0.02:  # /proc/stat counts in hundredths of a second
                kept[name].append(took)
    least = min(map(len, kept.values()))
    return (kept if least >= 3 else every), least


def resident(field):
    """Megabytes that this process holds (VmRSS), or held at most since it was last asked what it holds (VmHWM).

    Free memory is given back to the system first, as what comes would not count where it fits in there.
    Not ru_maxrss of getrusage: that of a child begins with what its parent held.
    """
    if field == "VmRSS":
        gc.collect()
        with contextlib.suppress(AttributeError, OSError):
            ctypes.CDLL(None).malloc_trim(0)
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        raise SystemExit("memory: /proc/self/status is missing; it is measured on Linux only") from None
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1e3


# ---------------------------------------------------------------------------------------- where the time goes


def part_of(path, name):
    """The part of a step that a function belongs to, by its file."""
    if path == __file__ or "c_einsum" in name:
        return "products"
    if Path(path).name in ("sgd.py", "optim.py"):
        return "update"
    if "autograd" in path or Path(path).name in ("tape.py", "threads.py"):
        return "tape"
    numpy = path == "~" and ("numpy" in name or "ufunc" in name)
    return "element-wise" if "kernels" in path or numpy else "rest"


def profile(call):
    """({part: its share of CPU time}, multiplications in matrix products) of a call, on one thread.

    cProfile adds to the parts with many small calls, so `tape` and `rest` are upper bounds.
    """
    total = 0

    def counted(function):
        def product(*arguments, **options):
            nonlocal total
            y = function(*arguments, **options)
            total += y.size * arguments[0].shape[-1] if isinstance(arguments[0], np.ndarray) else 0
            return y

        return product

    watch = cProfile.Profile(time.process_time)
    with (
        mock.patch.dict(os.environ, BPLCZ_THREADS="1"),
        mock.patch.multiple(np, **{name: counted(getattr(np, name)) for name in PRODUCTS}),
    ):
        watch.runcall(call)
    found = dict.fromkeys(("products", "element-wise", "update", "tape", "rest"), 0.0)
    for (path, _, name), (_, _, own, _, _) in pstats.Stats(watch).stats.items():
        found[part_of(path, name)] += own
    return {part: seconds / sum(found.values()) for part, seconds in found.items()}, total


# ------------------------------------------------------------------------------------------------- the machine


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
    """The processor, its cores and instructions, NumPy and the kernels that its BLAS has chosen."""
    name, cpuinfo = platform.processor() or platform.machine(), ""
    with contextlib.suppress(OSError, StopIteration):
        cpuinfo = Path("/proc/cpuinfo").read_text()
        name = next(
            line.split(":", 1)[1].strip() for line in cpuinfo.splitlines() if line.startswith("model name")
        )
    used = np.show_config(mode="dicts")["SIMD Extensions"].get("found", [])
    has = "avx512f" in cpuinfo or any("AVX512" in found or found == "X86_V4" for found in used)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return (
        f"{name}, {cores} cores, {'with' if has else 'without'} AVX-512; Python {platform.python_version()}, "
        f"NumPy {np.__version__} (its loops: {' '.join(used) or 'baseline'}; its BLAS: {blas()})"
    )


def blas():
    """The BLAS that NumPy calls, and for OpenBLAS the processor whose kernels it runs."""
    built = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
    if corename := openblas("get_corename"):
        corename.restype = ctypes.c_char_p
        return f"OpenBLAS {built['version']}, kernels of {corename().decode()}"
    return f"{built['name']} {built['version']}"


def warnings():
    """A line for each environment variable that slows one side."""
    return [f"warning: {name}={os.environ[name]}: {why}" for name, why in SLOWING.items() if name in os.environ]

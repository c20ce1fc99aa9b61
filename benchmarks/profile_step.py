"""Where the time of a training step goes, by part; or, with --inference, that of an evaluation of 64 patches.

    python benchmarks/profile_step.py [--rows ebcnn exvit] [--preset paper] [--steps 5] [--inference]

On one thread, by cProfile on CPU time, as shares of the step: `products` (matmul, dot, einsum), `element-wise`
(the rest of the kernels), `update` (SGD), `tape` (autograd, private tapes and trees), `rest` (encoders, losses,
and what Python itself takes). cProfile adds to the parts with many small calls, so `tape` and `rest` are upper
bounds. Without it: `text`, the share of the text tower's forward and backward pass; and on all threads `waiting`,
the part of (threads x time) in which no thread of this process worked. Below the table: what training does before
a step, reading and standardising a batch from a file (simulated, and in the system's page cache).
"""

import argparse
import cProfile
import inspect
import os
import pstats
import tempfile
import time
from functools import partial
from pathlib import Path
from unittest import mock

import numpy as np
from ours import Ours, batch

from bplcz_ref import systems
from bplcz_ref.data import simulate, so2sat, standardise
from bplcz_ref.kernels import tape
from bplcz_ref.kernels.threads import thread_count

PRODUCTS = ("matmul", "dot", "einsum", "vecdot")
TAPE = ("tape.py", "threads.py")


def counted(function):
    def product(*arguments, **options):
        return function(*arguments, **options)

    return product


def part_of(path, name):
    file = os.path.basename(path)
    if path == __file__ or "c_einsum" in name:
        return "products"
    if file == "sgd.py":
        return "update"
    if "autograd" in path or file in TAPE:
        return "tape"
    if "kernels" in path or (path == "~" and ("numpy" in name or "ufunc" in name)):
        return "element-wise"
    return "rest"


def parts(call, steps):
    """{part: CPU seconds of a call} on this thread alone."""
    profile = cProfile.Profile(time.process_time)
    with mock.patch.multiple(np, **{name: counted(getattr(np, name)) for name in PRODUCTS}):
        call()
        profile.enable()
        for _ in range(steps):
            call()
        profile.disable()
    found = dict.fromkeys(("products", "element-wise", "update", "tape", "rest"), 0.0)
    for (path, _, name), (_, _, own, _, _) in pstats.Stats(profile).stats.items():
        found[part_of(path, name)] += own / steps
    return found


def text_seconds(call, steps):
    """CPU seconds of the text branch in a call, forward and backward; this thread alone."""
    spent, traced = [0.0], tape._traced

    def timed(call, *arguments):
        start = time.process_time()
        result = call(*arguments)
        spent[0] += time.process_time() - start
        return result

    def spy(function, values):
        branch = function.args[0] if isinstance(function, partial) else function
        job = inspect.getclosurevars(branch).nonlocals.get("job")  # of layers.side_by_side
        if job is None or job.name != "text":
            return traced(function, values)
        y, aux, back = timed(traced, function, values)
        return y, aux, lambda g: timed(back, g)

    with mock.patch.object(tape, "_traced", spy):
        for _ in range(steps):
            call()
    return spent[0] / steps


def seconds(call, steps):
    """(wall, CPU) seconds of a call."""
    call()
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(steps):
        call()
    return (time.perf_counter() - wall) / steps, (time.process_time() - cpu) / steps


def reading(size=32, batches=30):
    """Median seconds of a batch of random rows, from the file to a network's input."""
    with tempfile.TemporaryDirectory() as folder:
        simulate.write_file(Path(folder) / "training.h5", per_class=10)
        with so2sat.open_file(Path(folder) / "training.h5") as patches:
            measured = standardise.statistics(patches, np.arange(len(patches)))
            rng, times = np.random.default_rng(0), []
            for _ in range(batches):
                rows = rng.permutation(len(patches))[:size]
                start = time.perf_counter()
                standardise.standardise(patches.images(rows), measured)
                times.append(time.perf_counter() - start)
    return float(np.median(times))


def main():
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0], epilog="example: python benchmarks/profile_step.py --rows exvit"
    )
    parser.add_argument("--rows", nargs="+", choices=list(systems.SYSTEMS), default=list(systems.SYSTEMS))
    parser.add_argument("--preset", choices=list(systems.PRESETS), default="paper")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--inference", action="store_true", help="an evaluation of 64 patches in place of a step")
    options = parser.parse_args()
    names = ["products", "element-wise", "update", "tape", "rest"]
    what = "inference" if options.inference else "step"
    columns = [f"{what}, ms, 1 thread", *names, "text", f"{thread_count()} threads, ms", "waiting"]
    print(f"| system | {' | '.join(columns)} |")
    print("|---" * (len(names) + 5) + "|")
    for name in options.rows:
        side = Ours(name, systems.PRESETS[options.preset], *batch(64 if options.inference else 32))
        call = side.logits if options.inference else side.step
        count = thread_count()
        wall, cpu = seconds(call, options.steps)
        with mock.patch.dict(os.environ, BPLCZ_THREADS="1"):
            one = seconds(call, options.steps)[1]
            text = text_seconds(call, options.steps) / one
            found = parts(call, options.steps)
        whole = sum(found.values())
        shares = " | ".join(f"{found[part] / whole:.0%}" for part in names)
        waiting = max(0.0, 1 - cpu / (count * wall))
        print(
            f"| {name} | {one * 1e3:.0f} | {shares} | {text:.0%} | {wall * 1e3:.0f} | {waiting:.0%} |", flush=True
        )
    if not options.inference:
        print(f"\nReading and standardising a batch of 32 from a file: {reading() * 1e3:.1f} ms")


if __name__ == "__main__":
    main()

"""How time and memory of a step grow with the size of the problem; every setting in a process of its own.

    python benchmarks/growth.py [--along batch width prompts grid cores samples] [--steps 5]

`batch`: samples of a step of EB-CNN (BP-LCZ). `width`: EB-CNN's. `prompts`: classes in the batch, with 7 prompts
each. `grid`: pixels per side of a token of ExViT. `cores`: threads, of EB-CNN (BP-LCZ). `samples`: of an
evaluation of EB-CNN, 64 at a time, whose memory must not grow. All at the paper preset, on simulated patches.
Printed are the median time, and the peak resident set beyond what the process had with parameters and images.
"""

import argparse
import os
import subprocess
import sys
import time

import numpy as np
from ours import Ours, batch
from timing import resident

from bplcz_ref import systems

ALONG = {
    "batch": (8, 16, 32, 64, 128),
    "width": (8, 16, 32, 64),
    "prompts": (1, 4, 8, 17),
    "grid": (4, 2, 1),
    "cores": (1, 2, 4, 8),
    "samples": (64, 256, 1024),
}


def measure(along, value, steps):
    """(median seconds, megabytes) of a step, or of an evaluation."""
    settings, name, size = systems.PAPER, "ebcnn-bplcz", 32
    if along == "batch":
        size = value
    elif along in ("width", "samples"):
        name = "ebcnn"
        settings = settings._replace(width=value) if along == "width" else settings
    elif along == "grid":
        name, settings, size = "exvit", settings._replace(grid=value), 8 if value == 1 else 32
    x, y = batch(size)
    if along == "prompts":
        y = y % value
    side = Ours(name, settings, x, y)
    call = side.step
    if along == "samples":
        side.x, call = batch(64)[0], lambda: [side.logits() for _ in range(value // 64)]
    before, times = resident("VmRSS"), []
    for _ in range(steps):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return float(np.median(times)), resident("VmHWM") - before


def main():
    if sys.argv[1:2] == ["--child"]:
        print(*measure(sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
        return
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0], epilog="example: python benchmarks/growth.py --along batch"
    )
    parser.add_argument("--along", nargs="+", choices=list(ALONG), default=list(ALONG))
    parser.add_argument("--steps", type=int, default=5)
    options = parser.parse_args()
    print("| along | value | ms | MB beyond parameters and images |")
    print("|---|---|---|---|")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    for along in options.along:
        for value in ALONG[along]:
            if along == "cores" and value > cores:
                continue
            environment = os.environ | ({"BPLCZ_THREADS": str(value)} if along == "cores" else {})
            command = [sys.executable, __file__, "--child", along, str(value), str(options.steps)]
            out = subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout
            took, memory = map(float, out.split())
            print(f"| {along} | {value} | {took * 1e3:.0f} | {memory:.0f} |", flush=True)


if __name__ == "__main__":
    main()

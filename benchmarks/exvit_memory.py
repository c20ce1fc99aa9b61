"""Peak memory of one training step of ExViT, every setting in its own process.

    python benchmarks/exvit_memory.py [--grid 1 --grid 4] [--batch 32] [--dtype float32]

A step is forward, backward and SGD update on simulated patches: noise takes the same memory as images. The program
prints the largest resident set of the process (getrusage), and its size before the step (interpreter, libraries,
parameters, images). Stored attention weights alone would take 8.6 GB at grid 1, batch 32, float32 (4 x 1024^2 in
eight layers and 4 x 2048^2 in two); nn.attention makes them again in the backward pass instead.
"""

import argparse
import resource
import subprocess
import sys
import time

import numpy as np

from bplcz_ref import model, optim, weights
from bplcz_ref.encoders import exvit


def gigabytes():
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1e9 if sys.platform == "darwin" else 1e6)  # bytes there, kilobytes on Linux


def measure(grid, batch, dtype):
    network = model.classification(exvit.exvit(grid=grid))
    rng = np.random.default_rng(47)
    params, state = network.init(rng, np.dtype(dtype))
    x = rng.standard_normal((batch, 32, 32, 18)).astype(dtype)
    y = rng.integers(0, 17, batch)
    before, start = gigabytes(), time.perf_counter()
    _, gradients, _ = model.loss_and_gradients(network.loss, params, state, (x, y), rng=rng)
    optim.sgd(params, None, gradients, learning_rate=1e-4, momentum=0.9, weight_decay=0.002)
    print(
        f"grid {grid}  {(32 // grid) ** 2:4} tokens per sensor  {weights.count(params):,} parameters  batch "
        f"{batch}  {dtype}  peak {gigabytes():.2f} GB ({before:.2f} before)  {time.perf_counter() - start:.1f} s",
        flush=True,
    )


def main():
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0],
        epilog="example: python benchmarks/exvit_memory.py --grid 1 --batch 8",
    )
    parser.add_argument(
        "--grid", type=int, action="append", help="pixels per side of a token; may be repeated (1 2 4)"
    )
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--dtype", choices=("float32", "float64"), default="float32")
    options = parser.parse_args()
    grids = options.grid or [4, 2, 1]
    if len(grids) == 1:
        measure(grids[0], options.batch, options.dtype)
        return
    for grid in grids:
        command = [sys.executable, __file__, "--grid", str(grid), "--batch", str(options.batch)]
        subprocess.run([*command, "--dtype", options.dtype], check=True)


if __name__ == "__main__":
    main()

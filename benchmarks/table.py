"""Time and memory of every system, ours beside PyTorch on the CPU, as a table in Markdown.

    python benchmarks/table.py [--rows resnet50 ebcnn] [--parts step inference] [--samples 15] [--out table.md]

Parts: `step` (paper preset, batch 32), `small` (the small preset), `inference` (evaluation, batch 64), `float64`
(EB-CNN (BP-LCZ)), `tree` (the same in float32 against PyTorch given our tree of common beginnings), `side` (two
runs at once, one thread each, the small preset), `memory` (peak of a step), `work` (`run_small.py` as a whole, and
a table of two systems and two seeds), `compile` (a step of PyTorch by torch.compile, which needs a C++ compiler
and minutes for each network), `profile` (our step and evaluation alone: parts on one thread, and the time in which
no thread works on all). The peer is peers.py's, in NCHW and in channels-last, whichever is faster. Before anything
is timed, both sides must agree: in the logits, and, without dropout, in loss and gradient.

Printed are medians in milliseconds with the 10th and 90th percentile of samples that other processes did not
disturb; the ratio ours / peer, in which smaller is better; and what part of our time its matrix products would
take at the speed of one large product ("products"). BPLCZ_THREADS sets the threads of both sides. How time and
memory grow with the size of a problem is asked by --set width=64, --set grid=1, --batch 128, BPLCZ_THREADS=1.
"""

import argparse
import itertools
import os
import subprocess
import sys
import tempfile
import time
from datetime import date
from functools import partial
from pathlib import Path

import numpy as np
import timing
import torch
from ours import Ours, batch
from peers import Peer, run, twins

from bplcz_ref import systems
from bplcz_ref.data import simulate
from bplcz_ref.kernels.threads import thread_count
from bplcz_ref.storage import weights
from bplcz_ref.training import runs, tables

PARTS = ("step", "small", "inference", "float64", "tree", "side", "memory", "work", "compile", "profile")
SMALL = ("ebcnn", "ebcnn-bplcz", "exvit")
LAYOUTS = ("NCHW", "NHWC")
SIDE_SECONDS = 15.0
ROOT = Path(__file__).parents[1]


def agree(name, settings, size, tree, dtype):
    """Ours and the two peers; SystemExit unless they compute the same.

    In float32 a few ReLU and max-pool choices fall the other way, which moves the gradient of a deep network by
    per cents on either side: gradients are compared in float64, but for ExViT's, whose dropout draws differently.
    """
    ours = Ours(name, settings, *batch(size, dtype))
    peers = {layout: Peer(name, settings, ours, layout, tree) for layout in LAYOUTS}
    peer, exact = peers["NCHW"], dtype == "float64"
    mine, theirs = ours.logits(), peer.logits().numpy()
    apart = np.abs(mine - theirs).max() / np.abs(theirs).max()
    if exact and systems.find(name).images != "exvit":
        L, gradients, _ = ours.gradients()
        L_peer, flat = peer.loss(), weights.named(gradients)
        g = {k: p.grad.numpy() for k, p in peer.module.named_parameters()}
        whole, whole_peer = (np.concatenate([of[k].ravel() for k in g]) for of in (flat, g))
        far = np.linalg.norm(whole - whole_peer) / np.linalg.norm(whole_peer)
        apart = max(apart, abs(float(L) - L_peer) / abs(L_peer), far)
        twins.loaded(peer.module, ours.params, ours.state)  # the loss has moved running statistics
    bound = 1e-9 if exact else 1e-3
    if not apart < bound:
        raise SystemExit(f"{name}: the two sides compute different things, {apart:.1e} apart, expected < {bound}")
    return ours, peers


def timed(label, name, settings, size, call, options, compiled=False, tree=False, dtype="float32"):
    """A row of the table: the calls timed in turns."""
    agree(name, settings, size, tree, "float64")
    ours, peers = agree(name, settings, size, tree, dtype)
    if compiled:
        peers = {f"{layout}, compiled": p for layout, p in peers.items()}
        for p in peers.values():
            p.compile()
    calls = {side: getattr(who, call) for side, who in [("ours", ours), *peers.items()]}
    times, kept = timing.in_turns(calls, options.samples, options.seconds)
    found = {side: np.median(of) for side, of in times.items()}
    share = f"{timing.profile(calls['ours'])[1] / options.rate / found['ours']:.0%}" if dtype == "float32" else ""
    return row(label, found, {side: timing.spread(of) for side, of in times.items()}, f" {share} | {kept} |")


def row(label, found, said, rest=" | |", best=min):
    """A row: ours and the best of the others, as they are said; a ratio below 1 says that ours is better."""
    side = best((name for name in found if name != "ours"), key=found.get)
    ratio = found["ours"] / found[side] if best is min else found[side] / found["ours"]
    return f"| {label} | {said['ours']} | {said[side]} {side} | {ratio:.2f} |{rest}"


def profiled(name, settings, size, what):
    """Where our time goes."""
    call = getattr(Ours(name, settings, *batch(size)), what)
    call()
    shares, _ = timing.profile(call)
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(3):
        call()
    waiting = 1 - (time.process_time() - cpu) / (time.perf_counter() - wall) / thread_count()
    said = ", ".join(f"{part} {share:.0%}" for part, share in shares.items())
    return f"| profile of {what}, {name} | {said}; waiting {max(0.0, waiting):.0%} | | | | |"


# ------------------------------------------------------------------------------------- processes of their own


def child(side, preset, name, size, seconds, *words):
    """Prints what three steps took of memory, waits for a line, and prints steps per second."""
    settings = systems.PRESETS[preset]._replace(**systems.chosen(words))
    who = ours = Ours(name, settings, *batch(int(size)))
    if side != "ours":
        torch.set_num_threads(thread_count())
        who = Peer(name, settings, ours, side)
    before = timing.resident("VmRSS")
    for _ in range(3):
        who.step()
    print(timing.resident("VmHWM") - before, flush=True)
    sys.stdin.readline()
    steps, start = 0, time.perf_counter()
    while time.perf_counter() - start < float(seconds):
        who.step()
        steps += 1
    print(steps / (time.perf_counter() - start))


def started(*arguments, **environment):
    command = [sys.executable, __file__, "--child", *map(str, arguments)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=os.environ | environment)


def side_by_side(name, size, words):
    """Steps per second of two runs at once, at the small preset; for PyTorch the better of its layouts."""
    rates = {}
    one = {"BPLCZ_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    for side in ("ours", *LAYOUTS):
        pair = [started(side, "small", name, size, SIDE_SECONDS, *words, **one) for _ in range(2)]
        for p in pair:  # both are warm before either is timed
            p.stdout.readline()
        for p in pair:
            p.stdin.write("go\n")
            p.stdin.flush()
        rates[side] = sum(float(p.communicate()[0]) for p in pair)
    said = {side: f"{rate:.2f}" for side, rate in rates.items()}
    return row(f"two runs side by side, small preset, {name}, steps per second", rates, said, best=max)


def memory(name, size, words):
    """Megabytes that a step takes beyond what the process had before."""
    taken = {}
    for side in ("ours", *LAYOUTS):
        taken[side] = float(started(side, "paper", name, size, 0, *words).communicate("go\n")[0].split()[0])
    return row(f"peak memory of a step, {name}, MB", taken, {side: f"{MB:.0f}" for side, MB in taken.items()})


def work(label, command, names, seeds):
    """Seconds of a command that trains and tests these systems at the small preset, and of PyTorch's faster way.

    PyTorch trains them one after the other on all threads, or in a process of one thread on each core. The wholes
    are compared as they are: ours also writes checkpoints, tables and figures.
    """
    small, seconds = systems.SMALL, {}
    jobs = [(name, small._replace(seed=seed)) for name, seed in itertools.product(names, seeds)]
    with tempfile.TemporaryDirectory() as folder:
        data, out = Path(folder) / "simulated.h5", Path(folder) / "runs"
        simulate.write_file(data, per_class=small.per_class, rows=small.test, seed=small.seed)
        began = time.perf_counter()
        subprocess.run([sys.executable, *command, "--data", data, "--out", out], check=True, capture_output=True)
        seconds["ours"] = time.perf_counter() - began
        OA = np.mean([runs.read_metrics(path.parent)["overall_accuracy"] for path in out.rglob("metrics.json")])
        for workers in (1, thread_count()):
            began = time.perf_counter()
            with tables.cores_shared_by(workers), tables.processes(workers) as pool:
                theirs = [pool.submit(run, *job, data) for job in jobs]
                theirs = np.mean([future.result() for future in theirs])
            seconds[f"NHWC, {workers} process{'es' * (workers > 1)}"] = time.perf_counter() - began
            if abs(OA - theirs) > 0.1:
                raise SystemExit(f"{label}: mean OA {OA:.3f} and {theirs:.3f}: that was not the same work")
    return row(f"{label}, s", seconds, {side: f"{taken:.0f}" for side, taken in seconds.items()})


# ---------------------------------------------------------------------------------------------------- the table


def rows(options):
    """The lines of the table, each as soon as it is known."""
    names, size, changed = options.rows or list(systems.SYSTEMS), options.batch, systems.chosen(options.set)
    paper, small = (preset._replace(**changed) for preset in (systems.PAPER, systems.SMALL))
    step, bplcz = partial(timed, call="step", options=options), "ebcnn-bplcz"
    for name in names:
        if "step" in options.parts:
            yield step(f"step, {name}", name, paper, size)
        if "small" in options.parts and name in SMALL:
            yield step(f"step, small preset, {name}", name, small, size)
        if "inference" in options.parts:
            yield timed(f"inference, {name}", name, paper, 2 * size, "logits", options)
        if "compile" in options.parts:
            yield step(f"step, {name}, torch.compile", name, paper, size, compiled=True)
        if "side" in options.parts and name in SMALL:
            yield side_by_side(name, size, options.set)
        if "memory" in options.parts:
            yield memory(name, size, options.set)
        if "profile" in options.parts:
            yield profiled(name, paper, size, "step")
            yield profiled(name, paper, 2 * size, "logits")
    if "work" in options.parts:
        yield work("run_small.py", [ROOT / "run_small.py"], systems.TABLE_III, [small.seed])
        two, seeds = ("ebcnn-bplcz", "exvit"), (small.seed, small.seed + 1)
        command = ["-m", "bplcz_ref", "tables", "--seeds", "2", "--systems", *two]
        yield work(f"tables of {' and '.join(two)}, two seeds", command, two, seeds)
    if bplcz in names and "tree" in options.parts:
        yield step(f"step, {bplcz}, PyTorch with our tree", bplcz, paper, size, tree=True)
    if bplcz in names and "float64" in options.parts:
        yield step(f"step in float64, {bplcz}", bplcz, paper, size, dtype="float64")


def main():
    if sys.argv[1:2] == ["--child"]:
        child(*sys.argv[2:])
        return
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0],
        epilog="example: python benchmarks/table.py --rows exvit --parts step",
    )
    add = parser.add_argument
    add("--rows", nargs="+", choices=list(systems.SYSTEMS), help="systems (default: all nine)")
    add("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="what to measure")
    add("--set", nargs="+", default=[], metavar="NAME=VALUE", help="settings other than the preset's, as of train")
    add("--batch", type=int, default=32, help="patches of a step; an evaluation has twice as many")
    add("--samples", type=int, default=15, help="undisturbed samples wanted of each side")
    add("--seconds", type=float, default=60, help="stop a row after this long with what there is")
    add("--out", help="write the table to this file as well")
    options = parser.parse_args()
    torch.set_num_threads(thread_count())
    options.rate = timing.sgemm()
    began, start = timing.others(), time.perf_counter()
    lines = [
        f"{date.today()}, {timing.machine()}, PyTorch {torch.__version__} "
        f"({torch.backends.cpu.get_cpu_capability()}), {thread_count()} threads on each side; "
        f"one large float32 product: {2e-9 * options.rate:.0f} GFLOP/s. Simulated patches.",
        *timing.warnings(),
        "",
        "| | ours, ms | peer, ms | ratio | products | samples |",
        "|---|---|---|---|---|---|",
    ]
    print("\n".join(lines), flush=True)
    for line in rows(options):
        lines.append(line)
        print(line, flush=True)
    busy = (timing.others() - began) / (time.perf_counter() - start)
    lines.append(f"\nOther processes took {max(0.0, busy):.2f} cores on average meanwhile.")
    print(lines[-1])
    if options.out:
        Path(options.out).write_text("\n".join(lines) + "\n", "utf-8")


if __name__ == "__main__":
    main()

"""Time and memory of every system, ours beside PyTorch on the CPU, as a table in Markdown.

    python benchmarks/table.py [--rows resnet50 ebcnn] [--parts step inference] [--samples 15] [--out table.md]

Parts: `step` (paper preset, batch 32), `small` (the small preset), `inference` (evaluation, batch 64), `float64`
(EB-CNN (BP-LCZ)), `tree` (the same in float32 against PyTorch given our tree of common beginnings), `side` (two
runs at once, one thread each), `memory` (peak of a step), `compile` (a step of PyTorch by torch.compile, which
needs a C++ compiler and minutes for each network), `jax` (EB-CNN by jax.jit). The peer is peers.py's, in NCHW and
in channels-last, whichever is faster. Before anything is timed, both sides must agree: in the logits, and, without
dropout, in loss and gradient.

Printed are medians in milliseconds with the 10th and 90th percentile of samples that other processes did not
disturb; the ratio ours / peer, in which smaller is better; and what part of our time its matrix products would
take at the speed of one large product ("products").
BPLCZ_THREADS sets the threads of both sides.
"""

import argparse
import os
import subprocess
import sys
import time
from datetime import date
from functools import partial

import numpy as np
import torch
from ours import Ours, batch
from peers import Peer
from timing import in_turns, machine, multiplications, others, resident, sgemm

from bplcz_ref import systems, weights
from bplcz_ref.kernels.threads import thread_count

PARTS = ("step", "small", "inference", "float64", "tree", "side", "memory", "compile", "jax")
SMALL = ("ebcnn", "ebcnn-bplcz", "exvit")
SIDE_SECONDS = 15.0


def sides(name, settings, size, dtype="float32", tree=False):
    """Ours, and the two peers, which agree with it: in float64 every gradient, in float32 the logits."""
    if dtype == "float32":
        sides(name, settings, size, "float64", tree)
    x, y = batch(size, dtype)
    ours = Ours(name, settings, x, y)
    peers = {
        layout: Peer(name, settings, ours.params, ours.state, x, y, channels_last=layout == "NHWC", tree=tree)
        for layout in ("NCHW", "NHWC")
    }
    agree(name, ours, peers["NCHW"])
    return ours, peers


def agree(name, ours, peer):
    """SystemExit unless both sides compute the same.

    In float32 a few ReLU and max-pool choices fall the other way, which moves the gradient of a deep network by
    per cents on either side: gradients are compared in float64.
    """
    mine, theirs = ours.logits(), peer.logits().numpy()
    exact = mine.dtype == np.float64
    bound = 1e-9 if exact else 1e-3
    apart = np.abs(mine - theirs).max() / np.abs(theirs).max()
    if exact and systems.find(name).images != "exvit":  # its dropout draws from other streams
        L, gradients, _ = ours.gradients()
        peer.module.train()
        loss = peer.loss()
        loss.backward()
        flat = weights.named(gradients)
        theirs = {k: p.grad.numpy() for k, p in peer.module.named_parameters()}
        norm = sum(float(np.sum(np.square(g))) for g in theirs.values()) ** 0.5
        far = sum(float(np.sum(np.square(flat[k] - g))) for k, g in theirs.items()) ** 0.5
        apart = max(apart, abs(float(L) - loss.item()) / abs(loss.item()), far / norm)
        peer.optimiser.zero_grad(set_to_none=True)
        peer.module.load_state_dict(
            {
                k: torch.tensor(np.array(v))
                for k, v in (weights.named(ours.params) | weights.named(ours.state)).items()
            }
        )
    if not apart < bound:
        raise SystemExit(
            f"{name}: the two sides compute different things, {apart:.1e} apart, expected below {bound}"
        )


def timed(label, name, settings, size, call, options, compiled=False, **peer):
    """A row of the table."""
    ours, peers = sides(name, settings, size, **peer)
    if compiled:
        peers = {f"{layout}, compiled": p for layout, p in peers.items()}
        for p in peers.values():
            p.compile()
    calls = {"ours": getattr(ours, call)} | {layout: getattr(p, call) for layout, p in peers.items()}
    return row(label, calls, ours.x.dtype, options)


def by_jax(options):
    """EB-CNN's step beside JAX's, after a step of both in float64 has given the same loss and parameters."""
    from peer_jax import Peer as Jax

    settings = systems.PAPER
    for dtype in ("float64", "float32"):
        ours = Ours("ebcnn", settings, *batch(32, dtype))
        peer = Jax(settings, ours.params, ours.state, ours.x, ours.y)
        if dtype == "float64":
            L = float(ours.gradients()[0])
            ours.step()
            peer.step()
            mine = weights.named(ours.params)
            apart = max(
                np.abs(mine[k] - np.asarray(a)).max() / np.abs(mine[k]).max() for k, a in peer.params.items()
            )
            if not max(abs(L - float(peer.loss)), apart) < 1e-9:
                raise SystemExit(f"jax: losses {L:.12f} and {float(peer.loss):.12f}, parameters {apart:.1e} apart")
    return row("step, ebcnn, JAX", {"ours": ours.step, "jax.jit": peer.step}, ours.x.dtype, options)


def row(label, calls, dtype, options):
    """The calls timed in turns: ours, and the fastest of the others."""
    found = in_turns(calls, options.samples, options.seconds)
    best = min((name for name in calls if name != "ours"), key=lambda name: found[name].median)
    ratio = found["ours"].median / found[best].median
    kept = min(len(f.kept) for f in found.values())
    share = ""
    if dtype == np.float32:
        share = f"{multiplications(calls['ours']) / options.rate / found['ours'].median:.0%}"
    return f"| {label} | {found['ours']} | {found[best]} {best} | {ratio:.2f} | {share} | {kept} |"


# ------------------------------------------------------------------------------------- processes of their own


def one_run(side, name, seconds):
    """Steps per second of one side with one thread, in this process."""
    torch.set_num_threads(1)
    ours = Ours(name, systems.PAPER, *batch(32))
    step = ours.step
    if side != "ours":
        step = Peer(
            name, systems.PAPER, ours.params, ours.state, ours.x, ours.y, channels_last=side == "NHWC"
        ).step
    for _ in range(3):
        step()
    print("ready", flush=True)
    sys.stdin.readline()
    steps, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        step()
        steps += 1
    print(steps / (time.perf_counter() - start))


def peak(side, name):
    """What a process holds before three steps, and at most during them, in megabytes."""
    ours = Ours(name, systems.PAPER, *batch(32))
    step = ours.step
    if side != "ours":
        step = Peer(
            name, systems.PAPER, ours.params, ours.state, ours.x, ours.y, channels_last=side == "NHWC"
        ).step
    before = resident("VmRSS")
    for _ in range(3):
        step()
    print(before, resident("VmHWM"))


def child(*arguments, **environment):
    return subprocess.Popen(
        [sys.executable, __file__, "--child", *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | environment,
    )


def side_by_side(name):
    """Steps per second of two runs at once; for PyTorch the better of its layouts."""
    rates = {}
    for side in ("ours", "NCHW", "NHWC"):
        pair = [
            child(
                "run", side, name, SIDE_SECONDS, BPLCZ_THREADS="1", OPENBLAS_NUM_THREADS="1", OMP_NUM_THREADS="1"
            )
            for _ in range(2)
        ]
        for p in pair:  # both are warm before either is timed
            p.stdout.readline()
        for p in pair:
            p.stdin.write("go\n")
            p.stdin.flush()
        rates[side] = sum(float(p.communicate()[0]) for p in pair)
    best = max(("NCHW", "NHWC"), key=rates.get)
    return (
        f"| two runs side by side, {name}, steps per second | {rates['ours']:.2f} | {rates[best]:.2f} {best} "
        f"| {rates[best] / rates['ours']:.2f} | | |"
    )


def memory(name):
    """Megabytes that a step takes beyond what the process had before."""
    taken = {}
    for side in ("ours", "NCHW", "NHWC"):
        before, after = map(float, child("peak", side, name).communicate("")[0].split())
        taken[side] = after - before
    best = min(("NCHW", "NHWC"), key=taken.get)
    return (
        f"| peak memory of a step, {name}, MB | {taken['ours']:.0f} | {taken[best]:.0f} {best} "
        f"| {taken['ours'] / taken[best]:.2f} | | |"
    )


# ---------------------------------------------------------------------------------------------------- the table


def rows(options):
    """The lines of the table, each as soon as it is known."""
    names = options.rows or list(systems.SYSTEMS)
    step = partial(timed, call="step", options=options)
    bplcz = "ebcnn-bplcz"
    for name in names:
        if "step" in options.parts:
            yield step(f"step, {name}", name, systems.PAPER, 32)
        if "small" in options.parts and name in SMALL:
            yield step(f"step, small preset, {name}", name, systems.SMALL, 32)
        if "inference" in options.parts:
            yield timed(f"inference, {name}", name, systems.PAPER, 64, "logits", options)
        if "compile" in options.parts:
            yield step(f"step, {name}, torch.compile", name, systems.PAPER, 32, compiled=True)
        if "side" in options.parts:
            yield side_by_side(name)
        if "memory" in options.parts:
            yield memory(name)
    if "ebcnn" in names and "jax" in options.parts:
        yield by_jax(options)
    if bplcz in names and "tree" in options.parts:
        yield step(f"step, {bplcz}, PyTorch with our tree", bplcz, systems.PAPER, 32, tree=True)
    if bplcz in names and "float64" in options.parts:
        yield step(f"step in float64, {bplcz}", bplcz, systems.PAPER, 32, dtype="float64")


def main():
    if sys.argv[1:2] == ["--child"]:
        what, side, name, *rest = sys.argv[2:]
        one_run(side, name, float(rest[0])) if what == "run" else peak(side, name)
        return
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0],
        epilog="example: python benchmarks/table.py --rows exvit --parts step",
    )
    parser.add_argument("--rows", nargs="+", choices=list(systems.SYSTEMS), help="systems (default: all nine)")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="what to measure")
    parser.add_argument("--samples", type=int, default=15, help="undisturbed samples wanted of each side")
    parser.add_argument("--seconds", type=float, default=60, help="stop a row after this long with what there is")
    parser.add_argument("--out", help="write the table to this file as well")
    options = parser.parse_args()
    torch.set_num_threads(thread_count())
    options.rate = sgemm()
    began, start = others(), time.perf_counter()
    lines = [
        f"{date.today()}, {machine()}, PyTorch {torch.__version__}, {thread_count()} threads on each side; "
        f"one large float32 product: {2e-9 * options.rate:.0f} GFLOP/s. Simulated patches.",
        "",
        "| | ours, ms | peer, ms | ratio | products | samples |",
        "|---|---|---|---|---|---|",
    ]
    print("\n".join(lines), flush=True)
    for line in rows(options):
        lines.append(line)
        print(line, flush=True)
    busy = (others() - began) / (time.perf_counter() - start)
    lines.append(f"\nOther processes took {max(0.0, busy):.2f} cores on average meanwhile.")
    print(lines[-1])
    if options.out:
        with open(options.out, "w") as file:
            file.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()

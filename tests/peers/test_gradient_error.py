"""The whole gradient in float32 of every system, at the small preset: as near to float64 as PyTorch's is.

The peers are those that benchmarks/table.py times, so this also says that they compute what ours do.
"""

import sys
from pathlib import Path

import numpy as np
import pytest

from bplcz_ref import systems, weights
from bplcz_ref.kernels import convolution

torch = pytest.importorskip("torch")

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
import ours  # noqa: E402
import peers  # noqa: E402


def without_dropout(monkeypatch):
    monkeypatch.setattr(systems, "SMALL_EXVIT", systems.SMALL_EXVIT._replace(dropout=0.0))


def gradient(name, dtype, side, seed):
    """{name: array} of one side's gradient; both begin with the same weights, given in float32."""
    rng = np.random.default_rng(seed)
    x, y = rng.standard_normal((16, 32, 32, 18)).astype("f").astype(dtype), rng.integers(0, 17, 16)
    mine = ours.Ours(name, systems.SMALL, x.astype("f"), y)
    cast = lambda tree: weights.nested(
        {k: a.astype(dtype) if a.dtype.kind == "f" else a for k, a in weights.named(tree).items()}
    )
    mine.params, mine.state, mine.x = cast(mine.params), cast(mine.state), x
    if side == "ours":
        return weights.named(mine.gradients()[1])
    peer = peers.Peer(name, systems.SMALL, mine.params, mine.state, x, y)
    peer.module.train()
    peer.loss().backward()
    return {k: p.grad.numpy() for k, p in peer.module.named_parameters()}


def apart(a, b):
    """The distance of two gradients, as vectors, relative to the second's length."""
    far, long = (
        sum(float(np.sum(np.square(v, dtype=float))) for v in part)
        for part in ([a[k] - b[k] for k in b], b.values())
    )
    return (far / long) ** 0.5


def errors(name):
    """{side: its distance from float64 for each of three seeds}; in float64 the sides agree."""
    found = {"ours": [], "torch": []}
    for seed in range(3):
        true = gradient(name, np.float64, "ours", seed)
        assert apart(gradient(name, np.float64, "torch", seed), true) < 1e-9
        for side in found:
            found[side].append(apart(gradient(name, np.float32, side, seed), true))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(systems.SYSTEMS.keys() - {"ebcnn-bgp"}))  # one network with two losses
def test_the_error_of_the_whole_gradient_is_no_larger_than_pytorchs(name, monkeypatch):
    """The least of three seeds: where a ReLU or a maximum falls the other way is chance, on both sides."""
    without_dropout(monkeypatch)
    monkeypatch.setattr(convolution, "winograd", convolution.by_rows)
    found = errors(name)
    assert min(found["ours"]) < 1.2 * min(found["torch"]), found


@pytest.mark.slow
def test_what_winograd_adds_to_the_error():
    """It rounds about four times more than sums do, so more of a million ReLUs fall the other way."""
    found = errors("ebcnn")
    assert max(found["ours"]) < 2 * max(*found["torch"], 1e-3), found

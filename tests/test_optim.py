"""optim.py: SGD against its scalar loop, and its fast form; test_by_hand.py has its numbers."""

import numpy as np
import pytest

from bplcz_ref import loops, optim
from bplcz_ref.layers import kernel_order

SETTINGS = {"momentum": 0.9, "weight_decay": 0.1}


def test_equals_the_loop():
    w = {"a": np.array([1.0, -2.0]), "b": {"c": np.array([0.5])}}
    v, seen, rng = None, {"a": (w["a"].tolist(), None), "c": ([0.5], None)}, np.random.default_rng(0)
    for rate in (0.1, 0.1, 0.05, 0.2):  # a changing rate shows a rate that sits inside the velocity
        g = {"a": rng.standard_normal(2), "b": {"c": rng.standard_normal(1)}}
        w, v = optim.sgd(w, v, g, learning_rate=rate, **SETTINGS)
        for name, w_i, g_i in (("a", w["a"], g["a"]), ("c", w["b"]["c"], g["b"]["c"])):
            at, velocity = seen[name]
            seen[name] = loops.sgd(at, g_i.tolist(), velocity, rate, *SETTINGS.values())
            assert np.abs(w_i - seen[name][0]).max() < 1e-15


@pytest.mark.parametrize("in_place", [False, True])
def test_the_fast_form_is_the_definition_to_the_bit_in_any_memory_order(in_place):
    rng = np.random.default_rng(3)
    shapes = {"conv": (8, 5, 3, 3), "wide": (64, 96, 3, 3), "depthwise": (384, 1, 7, 7), "one": (6, 4, 1, 1)}
    shapes |= {"large": (300, 701), "number": (), "none": (0, 3)}

    def tree(arrange):
        made = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
        made |= {name: arrange(made[name]) for name in ("conv", "wide", "depthwise")}
        return made | {"flipped": made["large"][::-1].copy()[::-1]}

    w, v, gradients = tree(np.asarray), None, [tree(kernel_order), tree(np.asarray), tree(kernel_order)]
    u, m = {k: a.copy() for k, a in w.items()}, None
    for g in gradients:
        before = {k: a.copy() for k, a in w.items()}
        u, m = optim.sgd.definition(u, m, g, learning_rate=0.1, **SETTINGS)
        new, v = optim.sgd(w, v, g, learning_rate=0.1, in_place=in_place, **SETTINGS)
        assert in_place or all((w[k] == before[k]).all() for k in w)
        w = new
        for ours, theirs in ((w, u), (v, m)):
            assert all((ours[k] == theirs[k]).all() for k in shapes)
            assert all(np.shape(ours[k]) == np.shape(theirs[k]) for k in shapes)
    assert all(w[name].strides == gradients[-1][name].strides for name in ("conv", "wide"))

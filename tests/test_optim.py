"""optim.py: SGD against its scalar loop and against wrong readings of it; test_by_hand.py has its numbers."""

import numpy as np
import pytest

from bplcz_ref import loops, optim

RATES = [0.1, 0.1, 0.05, 0.2]  # a changing rate shows a rate that sits inside the velocity
SETTINGS = {"momentum": 0.9, "weight_decay": 0.1}


def path(rule):
    """The parameters after each of four steps with seeded gradients."""
    rng = np.random.default_rng(0)
    w, v, seen = {"a": np.array([1.0, -2.0]), "b": {"c": np.array([[0.5]])}}, None, []
    for rate in RATES:
        gradient = {"a": rng.standard_normal(2), "b": {"c": rng.standard_normal((1, 1))}}
        w, v = rule(w, v, gradient, rate)
        seen.append(np.concatenate([w["a"], w["b"]["c"].ravel()]))
    return np.array(seen)


def ours(w, v, gradient, rate):
    return optim.sgd(w, v, gradient, learning_rate=rate, **SETTINGS)


def leafwise(rule):
    """A rule of one array as a rule of the tree."""

    def whole(w, v, gradient, rate):
        v = v or {"a": None, "b": {"c": None}}
        a, va = rule(w["a"], v["a"], gradient["a"], rate)
        c, vc = rule(w["b"]["c"], v["b"]["c"], gradient["b"]["c"], rate)
        return {"a": a, "b": {"c": c}}, {"a": va, "b": {"c": vc}}

    return whole


def test_equals_the_loop():
    def loop(w, v, g, rate):
        w_list, g_list, v_list = (None if a is None else a.ravel().tolist() for a in (w, g, v))
        new, velocity = loops.sgd(w_list, g_list, v_list, rate, 0.9, 0.1)
        return np.reshape(new, w.shape), np.reshape(velocity, w.shape)

    assert np.abs(path(ours) - path(leafwise(loop))).max() < 1e-15


def other_reading(name):
    """A step by another rule: where decay, momentum and rate stand elsewhere."""

    def rule(w, v, g, rate):
        decay = 0.1 * w
        g = g if name in ("decoupled decay", "no decay") else g + decay
        if name == "dampened":
            v = 0.1 * g if v is None else 0.9 * v + 0.1 * g
        elif name == "rate inside the velocity":
            v = rate * g + (0 if v is None else 0.9 * v)
            return w - v, v
        else:
            v = g if v is None else 0.9 * v + g
        step = {"Nesterov": g + 0.9 * v, "decoupled decay": v + decay}
        return w - rate * step.get(name, v), v

    return rule


@pytest.mark.parametrize(
    "name", ["Nesterov", "decoupled decay", "dampened", "rate inside the velocity", "no decay"]
)
def test_wrong_rules_are_seen(name):
    assert np.abs(path(ours) - path(leafwise(other_reading(name)))).max() > 1e-3
    assert np.abs(path(ours) - path(leafwise(other_reading("ours")))).max() < 1e-15


def ordered(weight):
    """The same numbers with the memory order (kh, kw, C, O), as the gradient of a convolution has it."""
    return np.ascontiguousarray(weight.transpose(2, 3, 1, 0)).transpose(3, 2, 0, 1)


@pytest.mark.parametrize("in_place", [False, True])
def test_the_fast_form_is_the_definition_to_the_bit_in_any_memory_order(in_place):
    rng = np.random.default_rng(3)
    shapes = {"conv": (8, 5, 3, 3), "one": (6, 4, 1, 1), "large": (300, 701), "number": (), "none": (0, 3)}

    def tree(arrange):
        made = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
        return made | {"conv": arrange(made["conv"]), "flipped": made["large"][::-1].copy()[::-1]}

    w, v, gradients = tree(np.asarray), None, [tree(ordered), tree(np.asarray), tree(ordered)]
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
    assert w["conv"].strides == gradients[-1]["conv"].strides


def test_in_place_the_memory_stays_once_it_has_the_gradients_order():
    rng = np.random.default_rng(4)
    w = {"w": ordered(rng.standard_normal((8, 5, 3, 3)))}
    g = {"w": ordered(rng.standard_normal((8, 5, 3, 3)))}
    first, v = optim.sgd(w, None, g, learning_rate=0.1, in_place=True, **SETTINGS)
    again, u = optim.sgd(first, v, g, learning_rate=0.1, in_place=True, **SETTINGS)
    assert np.shares_memory(w["w"], again["w"])
    assert np.shares_memory(v["w"], u["w"])
    w["w"].flags.writeable = False
    third, _ = optim.sgd(w, u, g, learning_rate=0.1, in_place=True, **SETTINGS)
    assert not np.shares_memory(w["w"], third["w"])

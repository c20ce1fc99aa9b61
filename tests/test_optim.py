"""optim.py: SGD against its scalar loop, against numbers worked out by hand, and against wrong readings of it."""

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
        a, va = rule(w["a"], None if v is None else v["a"], gradient["a"], rate)
        c, vc = rule(w["b"]["c"], None if v is None else v["b"]["c"], gradient["b"]["c"], rate)
        return {"a": a, "b": {"c": c}}, {"a": va, "b": {"c": vc}}

    return whole


def test_two_steps_by_hand():
    # w = 1, g = 0.5, lr = 0.1, mu = 0.9, wd = 0.1
    # step 1: g = 0.5 + 0.1 = 0.6; v = 0.6; w = 1 - 0.06 = 0.94
    # step 2: g = 0.5 + 0.094 = 0.594; v = 0.54 + 0.594 = 1.134; w = 0.94 - 0.1134 = 0.8266
    w, v = {"w": np.array(1.0)}, None
    w, v = optim.sgd(w, v, {"w": np.array(0.5)}, learning_rate=0.1, momentum=0.9, weight_decay=0.1)
    assert abs(float(w["w"]) - 0.94) < 1e-15
    w, v = optim.sgd(w, v, {"w": np.array(0.5)}, learning_rate=0.1, momentum=0.9, weight_decay=0.1)
    assert abs(float(v["w"]) - 1.134) < 1e-15
    assert abs(float(w["w"]) - 0.8266) < 1e-15


def test_equals_the_loop():
    def loop(w, v, g, rate):
        w_list, g_list, v_list = (None if a is None else a.ravel().tolist() for a in (w, g, v))
        new, velocity = loops.sgd(w_list, g_list, v_list, rate, 0.9, 0.1)
        return np.reshape(new, w.shape), np.reshape(velocity, w.shape)

    assert np.abs(path(ours) - path(leafwise(loop))).max() < 1e-15


def nesterov(w, v, g, rate):
    g = g + 0.1 * w
    v = g if v is None else 0.9 * v + g
    return w - rate * (g + 0.9 * v), v


def decoupled_decay(w, v, g, rate):
    v = g if v is None else 0.9 * v + g
    return w - rate * v - rate * 0.1 * w, v


def damped(w, v, g, rate):
    g = g + 0.1 * w
    v = 0.1 * g if v is None else 0.9 * v + 0.1 * g
    return w - rate * v, v


def rate_inside_velocity(w, v, g, rate):
    v = rate * (g + 0.1 * w) + (0 if v is None else 0.9 * v)
    return w - v, v


def decay_after_momentum(w, v, g, rate):
    v = g if v is None else 0.9 * v + g
    return w - rate * (v + 0.1 * w), v


def no_decay(w, v, g, rate):
    v = g if v is None else 0.9 * v + g
    return w - rate * v, v


@pytest.mark.parametrize(
    "wrong", [nesterov, decoupled_decay, damped, rate_inside_velocity, decay_after_momentum, no_decay]
)
def test_wrong_rules_are_seen(wrong):
    assert np.abs(path(ours) - path(leafwise(wrong))).max() > 1e-3


def test_nothing_is_changed_in_place_and_dtype_stays():
    w = {"w": np.ones(3, np.float32)}
    g = {"w": np.full(3, 0.5, np.float32)}
    v = {"w": np.ones(3, np.float32)}
    new, velocity = optim.sgd(w, v, g, learning_rate=0.1, momentum=0.9, weight_decay=0.002)
    assert w["w"].tolist() == [1.0] * 3
    assert v["w"].tolist() == [1.0] * 3
    assert g["w"].tolist() == [0.5] * 3
    assert new["w"].dtype == velocity["w"].dtype == np.float32


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

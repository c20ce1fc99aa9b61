"""variants.py: each loss against its scalar form, gradients, dtypes, starts, and relations between the losses."""

import math

import numpy as np
import pytest
from autograd import grad
from comparing import agree, slopes

from bplcz_ref import equations, paper, variants

R = paper.ALPHA * len(paper.GROUPS)  # 1.75
EYE, ONE = np.eye(2), np.array(1.0)


def scalar_variant(name, params, S, S_hat, y, alpha_n):
    """The same losses, one number at a time, from the formulas in their papers."""
    s, b = math.exp(params.get("logit_scale", 0.0)), float(params.get("logit_bias", 0.0))
    if name in ("paper", "identity"):
        s, b = 1.0, 0.0

    def side(S):
        B, total = len(S), 0.0
        for j in range(B):
            row = [S[j][k] / alpha_n for k in range(B)]
            log_sum = math.log(sum(math.exp(s * x) for x in row))
            same = [k for k in range(B) if y[k] == y[j]]
            if name == "infonce":
                total += (log_sum - s * row[j]) / B
            elif name == "unicl":
                total += sum(log_sum - s * row[k] for k in same) / len(same) / B
            for k in range(B):
                positive = 1 if (k == j if name == "identity" else k in same) else -1
                if name == "siglip":
                    total += math.log(1 + math.exp(-positive * (s * row[k] + b))) / B
                elif name in ("paper", "identity", "bce-scale-bias"):
                    total += math.log(1 + math.exp(-positive * (s * S[j][k] + b))) / B**2
        return total

    L_i2t, L_t2i = side(S), side(S_hat)
    return L_i2t, L_t2i, (L_i2t + L_t2i) / 2


def prepared():
    y = np.array([0, 1, 0, 2, 1, 0])
    S = np.random.default_rng(4).uniform(-R, R, (6, 6))
    return S, S.T.copy(), equations.supervised_matrix(y), y


@pytest.mark.parametrize("name", variants.VARIANTS)
def test_variant_is_its_scalar_form(name):
    variant = variants.VARIANTS[name]
    S, S_hat, _, y = prepared()
    lists, init = (S.tolist(), S_hat.tolist(), y, R), variant.init(np.float64)
    for params in (init, {key: x * 0.5 + 0.25 for key, x in init.items()}):
        found = variant.loss(params, S, S_hat, variant.matrix(y), R)
        assert found._fields == ("L_i2t", "L_t2i", "L_con")
        assert agree(found, scalar_variant(name, params, *lists))
        start = {**variants.VARIANTS["siglip"].init(np.float64), **params}
        others = [other for other in variants.VARIANTS if other != name]
        assert not any(agree(found, scalar_variant(other, start, *lists), 1e-6) for other in others)


# The losses without parameters, and a scale above its bound, have no slope in them, and autograd says so.
INDEPENDENT = pytest.mark.filterwarnings("ignore:Output seems independent of input")


@INDEPENDENT
@pytest.mark.parametrize("name", variants.VARIANTS)
def test_variant_gradients(name):
    variant = variants.VARIANTS[name]
    S, S_hat, W, _ = prepared()
    params = variant.init(np.float64)

    def L(params, S):
        return variant.loss(params, S, S_hat, W, R).L_con

    assert agree(slopes(lambda x: float(L(params, x)), S), grad(L, 1)(params, S), 1e-7)
    for key, learnt in grad(L)(params, S).items():
        assert params[key].shape == ()
        assert agree(learnt, slopes(lambda x, key=key: float(L(params | {key: x}, S)), params[key]), 1e-7)


def test_starts_of_the_learnable_scales():
    start = {name: variant.init(np.float64) for name, variant in variants.VARIANTS.items()}
    assert start["paper"] == start["identity"] == {}
    for name, s in (("infonce", 1 / 0.07), ("unicl", 1 / 0.07), ("siglip", 10), ("bce-scale-bias", 1)):
        assert math.exp(start[name]["logit_scale"]) == pytest.approx(s, rel=1e-12)
    assert start["siglip"]["logit_bias"] == -10
    expected = 1 / 32 + 31 / 32 / 17  # mean(W) at B = 32 from 17 equally likely classes
    assert abs(1 / (1 + math.exp(-start["bce-scale-bias"]["logit_bias"])) - expected) < 1e-15


def test_relations_between_the_losses():
    S, S_hat, W, _ = prepared()
    losses = {name: variant.loss for name, variant in variants.VARIANTS.items()}
    zero, start = {"logit_scale": np.array(0.0), "logit_bias": np.array(0.0)}, {"logit_scale": np.array(2.0)}
    assert agree(losses["bce-scale-bias"](zero, S, S_hat, W, R), losses["paper"]({}, S, S_hat, W, R))
    assert agree(losses["unicl"](start, S, S_hat, np.eye(6), R), losses["infonce"](start, S, S_hat, W, R))
    for name, loss in losses.items():  # a softmax over rows is not one over columns
        L = loss(variants.VARIANTS["siglip"].init(np.float64), S, S_hat, W, R)
        assert (abs(L.L_i2t - L.L_t2i) > 1e-2) == (name in ("infonce", "unicl"))


@INDEPENDENT
def test_clip_scale_stops_at_100():
    S, S_hat, W, _ = prepared()
    for name in ("infonce", "unicl"):
        loss = variants.VARIANTS[name].loss
        at, above = ({"logit_scale": np.array(x)} for x in (math.log(100), 9.0))
        assert agree(loss(above, S, S_hat, W, R), loss(at, S, S_hat, W, R))
        assert grad(lambda p, loss=loss: loss(p, S, S_hat, W, R).L_con)(above)["logit_scale"] == 0


@pytest.mark.parametrize(
    ("message", "name", "params", "W", "alpha_n"),
    [("alpha_n: found 0", "siglip", {"logit_scale": ONE, "logit_bias": ONE}, EYE, 0),
     ("row 0 has no positive", "unicl", {"logit_scale": ONE}, 0 * EYE, 1),
     ("expected 'logit_scale'", "infonce", {}, EYE, 1),
     ("logit_scale: found dtype float32", "infonce", {"logit_scale": np.float32(1)}, EYE, 1)],
)  # fmt: skip
def test_bad_input_is_named(message, name, params, W, alpha_n):
    with pytest.raises(ValueError, match=message):
        variants.VARIANTS[name].loss(params, EYE, EYE, W, alpha_n)

"""explain.py: its numbers are those of other code, and the page shows them."""

import functools

import autograd.numpy as anp
import numpy as np
import pytest
from autograd import grad
from small import call

from bplcz_ref import equations, loops, paper
from bplcz_ref.report import explain

ALL = list(paper.GROUPS)


def by_symbol(made, gradient=False):
    return {line.symbol: line.value for line in explain.trace(made, gradient)}


def test_the_trace_is_that_of_the_loops():
    made = explain.batch(3, samples=4)
    found, I_i, T_i = by_symbol(made), *({i: x.tolist() for i, x in side.items()} for side in made[2:4])
    I = loops.concat(list(I_i.values()))
    c_hat = [[sum(a * x for a, x in zip(column, row, strict=True)) for column in made.D.T] for row in I]
    expected = loops.objective(I_i, T_i, made.c.tolist(), c_hat, paper.ALPHA, paper.BETA)
    for symbol in ("S", "S_hat", "W", "L_i2t", "L_t2i", "L_con", "L_cls", "L"):
        assert np.array(found[symbol]) == pytest.approx(np.array(expected[symbol]), rel=1e-12), symbol
    for i in ALL:
        assert found[f"S_{i}"] == pytest.approx(np.array(expected["S_i"][i]), rel=1e-12)
    assert found["c_hat"] == pytest.approx(np.array(c_hat), rel=1e-12)
    assert found["sigma(S)"] == pytest.approx(1 / (1 + np.exp(-found["S"])), rel=1e-12)


def test_every_symbol_has_the_gradient_of_automatic_differentiation():
    """The slope of L by a number that is added to each symbol as it is computed."""
    made = explain.batch(5)
    W = equations.supervised_matrix(made.y)

    def L(added):
        plus = lambda symbol, value: value + added[symbol]
        S_i, S_hat_i, I_i = [], [], []
        for i in ALL:
            I, T = plus(f"I_{i}", made.I_i[i]), plus(f"T_{i}", made.T_i[i])
            u, v = plus(f"u_{i}", equations.unit_rows(I)), plus(f"v_{i}", equations.unit_rows(T))
            S_i.append(plus(f"S_{i}", anp.dot(u, v.T)))
            S_hat_i.append(plus(f"S_hat_{i}", anp.dot(v, u.T)))
            I_i.append(I)
        losses = []
        for S, matrices, name in (("S", S_i, "L_i2t"), ("S_hat", S_hat_i, "L_t2i")):
            p = plus(f"sigma({S})", 1 / (1 + anp.exp(-plus(S, equations.fuse(matrices, paper.ALPHA)))))
            losses.append(plus(name, -anp.sum(W * anp.log(p) + (1 - W) * anp.log(1 - p)) / W.size))
        L_con = plus("L_con", sum(losses) / 2)
        c_hat = plus("c_hat", anp.dot(plus("I", equations.concat(I_i)), plus("D^T", made.D.T).T))
        L_cls = plus("L_cls", equations.cross_entropy(c_hat, made.c))
        return plus("L", L_cls + paper.BETA * L_con)

    expected = grad(L)({symbol: 0.0 * value for symbol, value in by_symbol(made).items() if symbol != "W"})
    found = by_symbol(made, gradient=True)
    assert len(found) == len(expected) == 6 * 7 + 12
    for symbol, value in expected.items():
        assert found[f"dL/d{symbol}"] == pytest.approx(value, rel=1e-9, abs=1e-14), symbol


def test_the_page_shows_the_numbers_of_each_equation():
    made, page_of = explain.batch(), functools.cache(lambda k: explain.page(k, groups=ALL, with_gradients=True))
    for gradient, digits in ((False, 4), (True, 6)):
        for line in explain.trace(made, gradient):
            page = page_of(line.equation)
            begin = page.index(f"Eq. ({line.equation})  {line.symbol} = ")
            after = page[begin:].replace(":  ", "\n").splitlines()
            rows = [[float(x) for x in row.split()] for row in after[1 : 1 + len(np.atleast_2d(line.value))]]
            assert np.array(rows) == pytest.approx(np.atleast_2d(line.value), abs=0.51 * 10**-digits), line.symbol


def test_the_default_page_follows_one_pair_in_one_group():
    page = explain.page(with_gradients=True)
    assert len(page.splitlines()) < 150
    assert "pair 0, 0: 0.25 (-0.8682 +0.9610 -0.3363 +0.3714 -0.9806 +0.0830 -0.1961) = -0.2415" in page
    assert "pair 0, 0: -log 0.4399 / 36 = 0.0228" in page
    assert "S_hat_RGB =" not in page
    assert page.splitlines()[-1] == "Groups not shown: VRE, NIR, SWIR, VH, VV, PolSAR (--groups all)"
    assert "not shown" not in explain.page(groups=ALL) + explain.page(5)


def test_bad_input_is_named():
    for given, message in (
        ({"samples": 33}, "samples: found 33, expected 1 to 32"),
        ({"seed": -1}, "seed: found -1"),
        ({"equation": 12}, "equation: found 12, expected 1 to 11"),
        ({"groups": ["SAR"]}, r"groups: found \['SAR'\], expected names among RGB"),
    ):
        with pytest.raises(ValueError, match=message):
            explain.page(**given)


def test_the_command_passes_its_options_on(capsys):
    asked = ("--equation", 3, "--groups", "NIR", "--gradients", "--samples", 2, "--seed", 9)
    assert call("explain", *asked) == 0
    expected = explain.page(3, groups=["NIR"], with_gradients=True, samples=2, seed=9)
    assert capsys.readouterr().out == expected + "\n"
    assert call("explain") == 0
    assert capsys.readouterr().out == explain.page() + "\n"

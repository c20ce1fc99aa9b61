"""explain.py: what it prints is enough to work out S, c_hat, L and every gradient again, by other code."""

import autograd.numpy as anp
import numpy as np
import pytest
from autograd import grad

from bplcz_ref import __main__ as command_line
from bplcz_ref import equations, explain, loops, paper

ALL = list(paper.GROUPS)


def printed(**options):
    """{symbol: rows} read back from the text, so that what is not printed is not there."""
    values = {}
    for line in explain.page(groups=ALL, **options).splitlines():
        if line.startswith("Eq. ("):
            rows = values.setdefault(line.split()[2], [])
        else:
            rows.append([float(x) for x in line.split()])
    return values


@pytest.mark.parametrize(("seed", "samples"), [(paper.SEED, explain.SAMPLES), (3, 4)])
def test_the_printed_numbers_suffice(seed, samples):
    shown = printed(seed=seed, samples=samples)
    unit = lambda row: [x / np.hypot(*row) if any(row) else 0.0 for x in row]
    sides = [{i: shown[f"{symbol}_{i}"] for i in ALL} for symbol in "IT"]
    I = loops.concat(list(sides[0].values()))
    columns = loops.transpose(shown["D"])
    c_hat = [[sum(a * x for a, x in zip(column, row, strict=True)) for column in columns] for row in I]
    c = [explain.CLASSES.index(k) for k in explain.batch(seed, samples).y]
    expected = loops.objective(*sides, c, c_hat, paper.ALPHA, paper.BETA)
    expected |= {"I": I, "c_hat": c_hat, "I_i": sides[0]}
    for name, side in zip(("u_i", "v_i"), sides, strict=True):
        expected[name] = {i: [unit(x) for x in side[i]] for i in ALL}
    expected |= {f"sigma({S})": [[loops.sigmoid(s) for s in row] for row in expected[S]] for S in ("S", "S_hat")}
    for symbol, value in expected.items():
        for i, x in value.items() if symbol.endswith("_i") else [("", value)]:
            near(x if isinstance(x, list) else [[x]], shown[symbol.removesuffix("i") + i if i else symbol])
    assert len(shown) == 6 * 7 + 13  # the symbols of each group and the others: nothing is left unlooked at


def near(value, shown):
    """Equal to the four digits printed; a matrix of another shape is not near."""
    assert [len(row) for row in value] == [len(row) for row in shown]
    for row, shown_row in zip(value, shown, strict=True):
        assert row == pytest.approx(shown_row, rel=0, abs=5.1e-5)


def by_autograd(made):
    """{symbol: dL/d(symbol)}: the slope of L by a number that is added to the symbol as it is computed."""
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
        c_hat = plus("c_hat", anp.dot(plus("I", equations.concat(I_i)), plus("D", made.D)))
        L_cls = plus("L_cls", equations.cross_entropy(c_hat, made.c))
        return plus("L", L_cls + paper.BETA * L_con)

    zeros = {line.symbol: np.zeros(np.shape(line.value)) for line in explain.trace(made) if line.symbol != "W"}
    return {f"dL/d{symbol}": slope for symbol, slope in grad(L)(zeros).items()}


@pytest.mark.parametrize("seed", [paper.SEED, 5])
def test_every_symbol_has_the_gradient_of_automatic_differentiation(seed):
    made = explain.batch(seed)
    expected = by_autograd(made)
    found = {line.symbol: line.value for line in explain.gradients(made)}
    assert found.keys() == expected.keys()
    for symbol, value in found.items():
        assert np.shape(value) == np.shape(expected[symbol]), symbol
        assert value == pytest.approx(expected[symbol], rel=1e-9, abs=1e-14), symbol


def test_the_page_prints_the_gradients_with_six_digits():
    shown = printed(with_gradients=True)
    for line in explain.gradients(explain.batch()):
        assert np.array(shown[line.symbol]) == pytest.approx(np.atleast_2d(line.value), abs=5.1e-7)


@pytest.mark.parametrize("equation", range(1, 12))
def test_one_equation_is_its_part_of_the_whole(equation):
    part = explain.page(equation, groups=ALL)
    assert part.startswith(f"Eq. ({equation}) ")
    blocks = lambda text: text.replace("\nEq. (", "\n\nEq. (").split("\n\n")
    assert set(blocks(part)) <= set(blocks(explain.page(groups=ALL)))


def test_symbols_come_in_the_order_of_computation_under_their_equations():
    found = [(line.equation, line.symbol) for line in explain.trace(explain.batch())]
    groups = lambda symbol: [f"{symbol}_{group}" for group in paper.GROUPS]
    expected = {1: groups("I"), 2: groups("T"), 3: [*groups("u"), *groups("v"), *groups("S"), "S"]}
    expected |= {4: [*groups("S_hat"), "S_hat"], 5: ["W"], 7: ["sigma(S)", "L_i2t"], 8: ["sigma(S_hat)", "L_t2i"]}
    expected |= {6: ["L_con"], 9: ["I"], 11: ["D", "c_hat", "L_cls"], 10: ["L"]}
    assert found == [(equation, symbol) for equation, symbols in expected.items() for symbol in symbols]


def test_two_groups_are_shown_and_the_others_are_named():
    page = explain.page()
    for group in paper.GROUPS:
        assert (f"I_{group} =" in page) == (group in ("RGB", "VH"))
    assert page.splitlines()[-1] == "Groups not shown: VRE, NIR, SWIR, VV, PolSAR (--groups all)"
    assert "not shown" not in explain.page(groups=ALL) + explain.page(5)


def test_the_batch_can_be_followed_with_pencil_and_paper():
    made = explain.batch(1)
    for x, parts in [*((x, 4) for x in (*made.I_i.values(), *made.T_i.values())), (made.D, 16)]:
        assert np.array_equal(parts * x, np.rint(parts * x))
        assert np.abs(x).max() <= 2
    assert made.c.tolist() == [2, 0, 2, 1, 0, 2]
    assert "classes ['1', '9', 'G']" in explain.page(11)  # compact high-rise, sparsely built, water


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"samples": 0}, "samples: found 0, expected 1 to 32"),
        ({"samples": 33}, "samples: found 33"),
        ({"seed": -1}, "seed: found -1"),
        ({"equation": 12}, "equation: found 12, expected 1 to 11"),
        ({"groups": ["SAR"]}, r"groups: found \['SAR'\], expected names among RGB"),
    ],
)
def test_bad_input_is_named(given, message):
    with pytest.raises(ValueError, match=message):
        explain.page(**given)


def test_the_command_passes_its_options_on(capsys):
    asked = ["explain", "--equation", "3", "--groups", "NIR", "--gradients", "--samples", "2", "--seed", "9"]
    assert command_line.main(asked) == 0
    expected = explain.page(3, groups=["NIR"], with_gradients=True, samples=2, seed=9)
    assert capsys.readouterr().out == expected + "\n"
    assert command_line.main(["explain", "--groups", "all"]) == 0
    assert capsys.readouterr().out == explain.page(groups=ALL) + "\n"
    assert command_line.main(["explain", "--samples", "99"]) == 2
    assert "samples: found 99, expected 1 to 32" in capsys.readouterr().err

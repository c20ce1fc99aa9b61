"""explain.py: what it prints is enough to work out S, c_hat, L and every gradient again, by other code."""

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
    pairs = []
    for name in paper.GROUPS:
        I_i, T_i = shown[f"I_{name}"], shown[f"T_{name}"]
        near([[x / np.hypot(*row) if any(row) else 0.0 for x in row] for row in I_i], shown[f"u_{name}"])
        near([[x / np.hypot(*row) if any(row) else 0.0 for x in row] for row in T_i], shown[f"v_{name}"])
        S_i, S_hat_i = loops.similarity(I_i, T_i)
        near(S_i, shown[f"S_{name}"])
        near(S_hat_i, shown[f"S_hat_{name}"])
        pairs.append((S_i, S_hat_i))
    S, S_hat = (loops.fuse(list(side), paper.ALPHA) for side in zip(*pairs, strict=True))
    near(S, shown["S"])
    near(S_hat, shown["S_hat"])
    y = explain.batch(seed, samples).y
    W = loops.supervised_matrix(y.tolist())
    near(W, shown["W"])
    L_i2t, L_t2i, L_con = loops.contrastive_loss(S, S_hat, W)
    for symbol, value in (("L_i2t", L_i2t), ("L_t2i", L_t2i), ("L_con", L_con)):
        near([[value]], shown[symbol])
    for symbol, logits in (("sigma(S)", S), ("sigma(S_hat)", S_hat)):
        near([[loops.sigmoid(s) for s in row] for row in logits], shown[symbol])
    I = loops.concat([shown[f"I_{name}"] for name in paper.GROUPS])
    near(I, shown["I"])
    columns = loops.transpose(shown["D"])
    c_hat = [[sum(a * x for a, x in zip(column, row, strict=True)) for column in columns] for row in I]
    near(c_hat, shown["c_hat"])
    L_cls = loops.cross_entropy(c_hat, [explain.CLASSES.index(k) for k in y])
    near([[L_cls]], shown["L_cls"])
    near([[loops.total_loss(L_cls, L_con, paper.BETA)]], shown["L"])


def near(value, shown):
    """Equal to the four digits printed; a matrix of another shape is not near."""
    assert [len(row) for row in value] == [len(row) for row in shown]
    for row, shown_row in zip(value, shown, strict=True):
        assert row == pytest.approx(shown_row, rel=0, abs=5.1e-5)


def test_near_sees_a_wrong_digit_and_a_wrong_shape():
    for value in ([[1.0, 2.0002]], [[1.0]], [[1.0, 2.0], [1.0, 2.0]]):
        with pytest.raises(AssertionError):
            near(value, [[1.0, 2.0]])


def by_autograd(made):
    """{symbol: dL/d(symbol)}: the symbol is a variable, and what is computed after it follows."""
    alpha, beta, W = paper.ALPHA, paper.BETA, equations.supervised_matrix(made.y)
    x = {line.symbol: line.value for line in explain.trace(made)}
    fuse, concat = equations.fuse, equations.concat

    def after(symbol, values):
        """L where some symbols have other values than in the trace."""
        x_ = x | values
        if symbol == "I_i":
            x_ = x_ | {f"u_{i}": equations.unit_rows(x_[f"I_{i}"]) for i in ALL}
            x_["I"] = concat([x_[f"I_{i}"] for i in ALL])
        if symbol == "T_i":
            x_ = x_ | {f"v_{i}": equations.unit_rows(x_[f"T_{i}"]) for i in ALL}
        if symbol in ("I_i", "T_i", "u_i", "v_i"):
            for i in ALL:
                x_[f"S_{i}"] = equations.np.dot(x_[f"u_{i}"], x_[f"v_{i}"].T)
                x_[f"S_hat_{i}"] = x_[f"S_{i}"].T
        if "S" not in values:
            x_["S"] = fuse([x_[f"S_{i}"] for i in ALL], alpha)
        if "S_hat" not in values:
            x_["S_hat"] = fuse([x_[f"S_hat_{i}"] for i in ALL], alpha)
        for S, p, L in (("S", "sigma(S)", "L_i2t"), ("S_hat", "sigma(S_hat)", "L_t2i")):
            if p in values:  # the printed form of Eqs. (7), (8)
                terms = W * equations.np.log(x_[p]) + (1 - W) * equations.np.log(1 - x_[p])
                x_[L] = -equations.np.sum(terms) / W.size
            elif L not in values:
                x_[L] = equations.bce(x_[S], W)
        if "L_con" not in values:
            x_["L_con"] = (x_["L_i2t"] + x_["L_t2i"]) / 2
        if "c_hat" not in values:
            x_["c_hat"] = equations.np.dot(x_["I"], x_["D"])
        if "L_cls" not in values:
            x_["L_cls"] = equations.cross_entropy(x_["c_hat"], made.c)
        return x_["L"] if "L" in values else equations.total_loss(x_["L_cls"], x_["L_con"], beta)

    found = {}
    for symbol in x:
        if symbol == "W":
            continue
        kind = f"{symbol.rsplit('_', 1)[0]}_i" if symbol.rsplit("_", 1)[-1] in ALL else symbol
        f = lambda value, symbol=symbol, kind=kind: after(kind, {symbol: value})
        found[f"dL/d{symbol}"] = grad(f)(np.asarray(x[symbol], float))
    return found


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


def test_a_feature_of_zeros_has_a_gradient_too():
    assert np.array_equal(explain.turned(np.zeros((1, 2)), np.ones((1, 2))), np.full((1, 2), 1 / equations.EPS))


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
    for seed in (paper.SEED, 1):
        made = explain.batch(seed)
        for x in (*made.I_i.values(), *made.T_i.values()):
            assert np.array_equal(4 * x, np.rint(4 * x))
            assert np.abs(x).max() <= 2
        assert np.array_equal(16 * made.D, np.rint(16 * made.D))
        assert made.c.tolist() == [2, 0, 2, 1, 0, 2]
    assert not np.array_equal(explain.batch(1).D, explain.batch(2).D)
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

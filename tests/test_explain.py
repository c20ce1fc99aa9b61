"""explain.py: what it prints is enough to work out S, c_hat and L again, by the scalar loops."""

import numpy as np
import pytest

from bplcz_ref import explain, loops, paper


def printed():
    """{symbol: rows} read back from the text, so that what is not printed is not there."""
    values = {}
    for line in explain.page().splitlines():
        if line.startswith("Eq. ("):
            rows = values.setdefault(line.split()[2].rstrip(":"), [])
        else:
            rows.append([float(x) for x in line.split()])
    return values


def test_the_printed_numbers_suffice():
    shown = printed()
    pairs = []
    for name in paper.GROUPS:
        S_i, S_hat_i = loops.similarity(shown[f"I_{name}"], shown[f"T_{name}"])
        near(S_i, shown[f"S_{name}"])
        near(S_hat_i, shown[f"S_hat_{name}"])
        pairs.append((S_i, S_hat_i))
    S, S_hat = (loops.fuse(list(side), paper.ALPHA) for side in zip(*pairs, strict=True))
    near(S, shown["S"])
    near(S_hat, shown["S_hat"])
    W = loops.supervised_matrix(explain.LABELS.tolist())
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
    L_cls = loops.cross_entropy(c_hat, [explain.CLASSES.index(k) for k in explain.LABELS])
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


@pytest.mark.parametrize("equation", range(1, 12))
def test_one_equation_is_its_part_of_the_whole(equation):
    part = explain.page(equation)
    assert part.startswith(f"Eq. ({equation}) ")
    assert part in explain.page()


def test_each_symbol_is_under_its_equation():
    found = {}
    for equation, symbol, _, _ in explain.trace():
        found.setdefault(equation, []).append(symbol)
    groups = lambda symbol: [f"{symbol}_{group}" for group in paper.GROUPS]
    assert found == {
        1: groups("I"),
        2: groups("T"),
        3: [*groups("S"), "S"],
        4: [*groups("S_hat"), "S_hat"],
        5: ["W"],
        6: ["L_con"],
        7: ["sigma(S)", "L_i2t"],
        8: ["sigma(S_hat)", "L_t2i"],
        9: ["I"],
        10: ["L"],
        11: ["D", "c_hat", "L_cls"],
    }


def test_the_batch_can_be_followed_with_pencil_and_paper():
    for equation, symbol, meaning, value in explain.trace():
        if equation in (1, 2):
            assert np.array_equal(4 * value, np.rint(4 * value)), symbol
            assert np.abs(value).max() <= 2
        if symbol == "D":
            assert np.array_equal(16 * value, np.rint(16 * value))
            assert "classes ['1', '9', 'G']" in meaning  # compact high-rise, sparsely built, water

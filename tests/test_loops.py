"""The scalar loops: numbers worked by hand, 50 digits of Decimal, and wrong code rejected."""

import math
import subprocess
import sys
from decimal import Decimal, localcontext
from fractions import Fraction

import pytest

from bplcz_ref import loops

D = Decimal


def decimals(tree):
    return [decimals(x) for x in tree] if isinstance(tree, list) else D(tree)


def flat(tree):
    return [x for branch in tree for x in flat(branch)] if isinstance(tree, (list, tuple)) else [tree]


def apart(a, b):
    """The largest difference relative to the largest value: values near 0 earn no allowance of their own."""
    a, b = flat(a), flat(b)
    assert len(a) == len(b)
    return max(abs(x - y) for x, y in zip(a, b, strict=True)) / max(abs(y) for y in b)


@pytest.fixture
def digits():
    with localcontext() as context:
        context.prec = 50
        yield context


# ---------------------------------------------------------------- literal numbers, no helper


def test_features_are_the_encoder_applied_to_each_sample():  # Eqs. (1), (2)
    assert loops.image_features(lambda X: [X, 2 * X], [1.0, 3.0]) == [[1.0, 2.0], [3.0, 6.0]]
    assert loops.text_features(lambda t: [float(len(t))], ["vh", "pol"]) == [[2.0], [3.0]]


def test_similarity_of_two_images_and_three_texts():
    S_i, S_hat_i = loops.similarity([[3.0, 4.0], [0.0, -2.0]], [[1.0, 0.0], [0.0, 5.0], [-6.0, 8.0]])
    assert S_i[0] == pytest.approx([0.6, 0.8, 0.28], rel=1e-15)  # (-18 + 32) / (5 * 10)
    assert S_i[1] == [0.0, -1.0, -0.8]
    assert S_hat_i == [[S_i[j][k] for j in range(2)] for k in range(3)]


def test_similarity_of_a_zero_feature_is_zero():
    assert loops.similarity([[0.0, 0.0]], [[3.0, 4.0]]) == ([[0.0]], [[0.0]])


def test_fuse_is_a_sum_times_alpha():  # Eqs. (3), (4)
    assert loops.fuse([[[1.0, -1.0]], [[0.5, 0.5]], [[0.5, 0.0]]], 0.25) == [[0.5, -0.125]]
    assert loops.fuse([[[D(1)]], [[D(2)]]], 0.25) == [[D("0.75")]]


def test_supervised_matrix_of_three_samples():  # Eq. (5)
    assert loops.supervised_matrix([16, 2, 16]) == [[1, 0, 1], [0, 1, 0], [1, 0, 1]]


def test_bce_by_hand():  # Eq. (7): e^ln 3 = 3, so sigma = 3/4 and 1/4
    s = math.log(3)
    expected = (math.log(4 / 3) + math.log(4) + math.log(4) + math.log(4 / 3) + 2 * math.log(2)) / 6
    assert loops.bce([[s, s, 0.0], [-s, -s, 0.0]], [[1, 0, 1], [1, 0, 0]]) == pytest.approx(expected, rel=1e-15)


def test_contrastive_loss_takes_both_directions():  # Eq. (6): ln(4/3) = .28768207, ln 2 = .69314718
    L_i2t, L_t2i, L_con = loops.contrastive_loss([[math.log(3)]], [[0.0]], [[1]])
    assert round(L_i2t, 8) == 0.28768207
    assert round(L_t2i, 8) == 0.69314718
    assert round(L_con, 8) == 0.49041463


def test_concat_keeps_the_order_of_groups():  # Eq. (9)
    assert loops.concat([[[1, 2], [5, 6]], [[3], [7]]]) == [[1, 2, 3], [5, 6, 7]]


def test_total_loss():  # Eq. (10)
    assert loops.total_loss(2.5, 0.25, 2) == 3.0
    assert loops.total_loss(D("2.5"), D("0.25"), 2.0) == 3


def test_cross_entropy_by_hand():  # Eq. (11): softmax(ln 1, ln 2, ln 5) = 1/8, 2/8, 5/8
    row = [math.log(1), math.log(2), math.log(5)]
    expected = (math.log(8 / 5) + math.log(8)) / 2
    assert loops.cross_entropy([row, row], [2, 0]) == pytest.approx(expected, rel=1e-15)


def test_sgd_by_hand_with_a_changing_rate():  # III-A
    # g = 1 + .5*2 = 2; v = 2; w = 2 - .1*2 = 1.8.  g = 1 + .5*1.8 = 1.9; v = .9*2 + 1.9 = 3.7; w = 1.8 - .01*3.7
    w, v = loops.sgd([D(2)], [D(1)], None, "0.1", "0.9", "0.5")
    assert (w, v) == ([D("1.8")], [D(2)])
    w, v = loops.sgd(w, [D(1)], v, "0.01", "0.9", "0.5")
    assert (w, v) == ([D("1.763")], [D("3.7")])


# ---------------------------------------------------------------- Decimal


def test_the_same_lines_serve_decimal(digits):
    assert str(loops.bce([[D(0)]], [[1]])) == "0.69314718055994530941723212145817656807550013436026"  # ln 2
    third = loops.cross_entropy([[D(0), D(0), D(0)]], [1])
    assert str(third)[:45] == "1.0986122886681096913952452369225257046474905"[:45]  # ln 3
    S_i, _ = loops.similarity([[D(1), D(1)]], [[D(1), D(0)]])
    assert abs(S_i[0][0] ** 2 - D("0.5")) < D("1e-49")


def test_the_form_used_is_the_printed_one(
    digits,
):  # BCE on probabilities, at a precision that 1 - sigma(s) survives
    S = decimals([[-1.75, 0.5, 1.75], [12.0, -30.0, 30.0]])
    W = [[1, 0, 1], [0, 1, 1]]
    used = loops.bce(S, W)
    digits.prec = 80
    P = [[loops.sigmoid(s) for s in row] for row in S]
    printed = -sum(
        (p if w else 1 - p).ln() for P_j, W_j in zip(P, W, strict=True) for p, w in zip(P_j, W_j, strict=True)
    )
    assert abs(used - printed / 6) < D("1e-47")


def test_log1p_keeps_the_digits_of_small_numbers(digits):
    for x in (D("1e-10"), D("1e-16"), D("1e-17"), D("1e-40"), D("-1e-20"), D("1e-4000")):
        used = loops.log1p(x)
        with localcontext() as wide:
            wide.prec = 100
            series = x - x**2 / 2 + x**3 / 3 - x**4 / 4 + x**5 / 5
            assert abs(used - series) <= abs(x) * D("1e-32")
    assert loops.log1p(D(0)) == 0


@pytest.mark.parametrize("kind", [float, Decimal])
def test_saturated_logits(kind):
    S = [[kind(10000), kind(-10000)]]
    assert loops.bce(S, [[1, 0]]) < 1e-300
    assert loops.bce(S, [[0, 1]]) == 10000
    assert loops.cross_entropy([[kind(10000), kind(0)]], [1]) == 10000


def test_numpy_is_not_loaded():
    code = "import sys, importlib.util as u; s = u.spec_from_file_location('l', sys.argv[1])"
    code += "; m = u.module_from_spec(s); s.loader.exec_module(m); print('numpy' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code, loops.__file__], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "False"


def test_sizes_that_differ_stop():
    for call in (
        lambda: loops.bce([[0.0, 0.0]], [[1]]),
        lambda: loops.similarity([[1.0, 2.0]], [[1.0]]),
        lambda: loops.fuse([[[1.0], [2.0]], [[1.0]]], 0.25),
        lambda: loops.cross_entropy([[0.0, 1.0]], [0, 1]),
        lambda: loops.concat([[[1.0]], [[1.0], [2.0]]]),
    ):
        with pytest.raises(ValueError, match="one size|zip"):
            call()


# ---------------------------------------------------------------- SGD, exactly


def test_sgd_is_the_recursion_in_fractions_and_other_forms_differ():
    """Four steps in exact fractions; momentum, decay and a changing rate on, so that no other form can agree."""
    mu, decay, rates, slopes = Fraction(9, 10), Fraction(1, 8), ["0.5", "0.25", "0.5", "0.125"], [1, -2, 3, 1]

    def run(form):
        w, v, first = Fraction(2), Fraction(0), True
        for lr, slope in zip(map(Fraction, rates), slopes, strict=True):
            g = slope + decay * w
            if form == "rate inside":
                v = mu * v - lr * g
                w += v
            elif form == "damped":
                v = mu * v + (1 - mu) * g
                w -= lr * v
            elif form == "nesterov":
                v = g if first else mu * v + g
                w -= lr * (g + mu * v)
            elif form == "decoupled decay":
                v = mu * v + slope
                w -= lr * v + lr * decay * w
            else:
                v = g if first else mu * v + g
                w -= lr * v
            first = False
        return w

    w, v = [D(2)], None
    for lr, slope in zip(rates, slopes, strict=True):
        w, v = loops.sgd(w, [D(slope)], v, lr, "0.9", "0.125")
    got = Fraction(w[0])
    assert abs(got - run("paper")) < Fraction(1, 10**24)
    for form in ("rate inside", "damped", "nesterov", "decoupled decay"):
        assert abs(got - run(form)) > Fraction(1, 100), form


@pytest.mark.parametrize("x", ["1e-14", "1e-15", "9e-18", "1e-18", "-3e-19", "1e-30", "0", "0.5", "-0.5"])
def test_log1p_keeps_every_digit(digits, x):
    """Around the place where the series takes over: each of its three terms is needed, and the others are not."""
    found = loops.log1p(D(x))
    with localcontext() as context:
        context.prec = 150
        expected = (1 + D(x)).ln()
    assert abs(found - expected) <= abs(expected) * D("3e-50") + (D("1e-49") if abs(D(x)) > D("1e-17") else 0)

"""The scalar loops in 50 digits of Decimal, and at the edges of float; test_by_hand.py has their numbers."""

import subprocess
import sys
from decimal import Decimal, localcontext

import pytest

from bplcz_ref import loops

D = Decimal


def decimals(tree):
    return [decimals(x) for x in tree] if isinstance(tree, list) else D(tree)


@pytest.fixture
def digits():
    with localcontext() as context:
        context.prec = 50
        yield context


def test_features_are_the_encoder_applied_to_each_sample():  # Eqs. (1), (2)
    assert loops.image_features(lambda X: [X, 2 * X], [1.0, 3.0]) == [[1.0, 2.0], [3.0, 6.0]]
    assert loops.text_features(lambda t: [float(len(t))], ["vh", "pol"]) == [[2.0], [3.0]]


# ---------------------------------------------------------------- Decimal


def test_the_same_lines_serve_decimal(digits):
    assert str(loops.bce([[D(0)]], [[1]])) == "0.69314718055994530941723212145817656807550013436026"  # ln 2
    third = loops.cross_entropy([[D(0), D(0), D(0)]], [1])
    assert str(third)[:45] == "1.0986122886681096913952452369225257046474905"[:45]  # ln 3
    S_i, _ = loops.similarity([[D(1), D(1)]], [[D(1), D(0)]])
    assert abs(S_i[0][0] ** 2 - D("0.5")) < D("1e-49")
    assert loops.fuse([[[D(1)]], [[D(2)]]], 0.25) == [[D("0.75")]]
    assert loops.total_loss(D("2.5"), D("0.25"), 2.0) == 3
    assert loops.sgd([D("1.8")], [D(1)], [D(2)], "0.01", "0.9", "0.5") == ([D("1.763")], [D("3.7")])


def test_the_form_used_is_the_printed_one(digits):
    """BCE on probabilities, at a precision that 1 - sigma(s) survives."""
    S = decimals([[-1.75, 0.5, 1.75], [12.0, -30.0, 30.0]])
    W = [[1, 0, 1], [0, 1, 1]]
    used = loops.bce(S, W)
    digits.prec = 80
    P = [[loops.sigmoid(s) for s in row] for row in S]
    printed = -sum(
        (p if w else 1 - p).ln() for P_j, W_j in zip(P, W, strict=True) for p, w in zip(P_j, W_j, strict=True)
    )
    assert abs(used - printed / 6) < D("1e-47")


@pytest.mark.parametrize("kind", [float, Decimal])
def test_saturated_logits(kind):
    S = [[kind(10000), kind(-10000)]]
    assert loops.bce(S, [[1, 0]]) < 1e-300
    assert loops.bce(S, [[0, 1]]) == 10000
    assert loops.cross_entropy([[kind(10000), kind(0)]], [1]) == 10000


SIZES = [
    ("bce", ([[0.0, 0.0]], [[1]])),
    ("similarity", ([[1.0, 2.0]], [[1.0]])),
    ("fuse", ([[[1.0], [2.0]], [[1.0]]], 0.25)),
    ("cross_entropy", ([[0.0, 1.0]], [0, 1])),
    ("concat", ([[[1.0]], [[1.0], [2.0]]],)),
]


@pytest.mark.parametrize(("name", "given"), SIZES)
def test_sizes_that_differ_stop(name, given):
    with pytest.raises(ValueError, match="one size|zip"):
        getattr(loops, name)(*given)


def test_numpy_is_not_loaded():
    code = "import sys, importlib.util as u; s = u.spec_from_file_location('l', sys.argv[1])"
    code += "; m = u.module_from_spec(s); s.loader.exec_module(m); print('numpy' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code, loops.__file__], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "False"


@pytest.mark.parametrize("x", ["1e-14", "1e-15", "9e-18", "1e-18", "-3e-19", "1e-30", "0", "0.5", "-0.5"])
def test_log1p_keeps_every_digit(digits, x):
    """Around the place where the series takes over: each of its three terms is needed, and the others are not."""
    found = loops.log1p(D(x))
    with localcontext() as context:
        context.prec = 150
        expected = (1 + D(x)).ln()
    assert abs(found - expected) <= abs(expected) * D("3e-50") + (D("1e-49") if abs(D(x)) > D("1e-17") else 0)

"""checks.py: each rule passes what it should, converts it, and names what it should not."""

import numpy as np
import pytest
from autograd import grad

from bplcz_ref.checks import takes

X, X32 = np.ones((2, 3)), np.ones((2, 3), np.float32)


def returned(**specification):
    """A function that returns its one checked argument."""
    return takes(**specification)(lambda x: x)


BAD = [
    ("x: found dtype int64, expected float32 or float64", "B d", X.astype(int)),
    ("x: found a masked array", "B d", np.ma.array(X)),
    ("x: found a masked array", "labels B", [np.ma.array(1), np.ma.masked]),
    (r"x: found shape \(3,\), expected \(B, d\)", "B d", X[0]),
    (r"x: found the empty shape \(0, 3\)", "B d", X[:0]),
    (r"x: found shape \(2, 3\), expected \(B, B\) with B = 2, as in x", "B B", X),
    (r"x\[1\]: found shape \(3, 2\)", "[B *]", [X, X.T]),
    (r"x\[1\]: found dtype float32", "[B d]", [X, X32]),
    ("x: found no array", "[B d]", []),
    ("x: found shape .* expected one number", "", X),
    ("x: found 0, expected a number above 0", "positive", 0),
    ("x: found inf", "positive", float("inf")),
    ("one-hot", "labels B", np.eye(3, dtype=int)),
    ("use astype", "labels B", np.array([0.0, 1.0])),
    (r"x: entry \(0, 1\) is 2", "binary B P", np.array([[0, 2]])),
    ("x: entry .* is nan", "binary B P", np.array([[0, np.nan]])),
    ("not symmetric", "symmetric B B", np.array([[0, 1], [0, 0]])),
    ("x: found 2.0, expected a whole number of 1 or more", "size", 2.0),
    ("x: found True", "size", True),
    (r"x: found shape \(1, 3\), expected \(K, K\)", "counts K K", [[1, 2, 3]]),
    ("x: found float64 values from 0.0 to 1.0, .* normalised", "counts K K", [[0.5, 0.5], [0, 1]]),
    ("x: found int64 values from -1 to 2, .* not negative", "counts K K", [[-1, 2], [0, 1]]),
    ("x: found int64 values from 0 to 0, .* not all 0", "counts K K", [[0, 0], [0, 0]]),
]


@pytest.mark.parametrize(("message", "rule", "x"), BAD, ids=[f"{rule}: {message}" for message, rule, _ in BAD])
def test_what_breaks_a_rule_is_named(message, rule, x):
    with pytest.raises(ValueError, match=message):
        returned(x=rule)(x)


def test_arguments_agree_with_each_other():
    two = takes(a="B K", b="labels B < K", W="binary B K")(lambda a, b, W: (b, W))
    b, W = two(X32, [2, 0], np.array([[True, False, True]] * 2))
    assert b.tolist() == [2, 0]
    assert (W.dtype, W.tolist()) == (np.float32, [[1, 0, 1]] * 2)  # in the dtype of the arrays
    for wrong, message in (
        ([0, 3], r"b: row 1 has class 3, expected 0\.\.2; .* there are 3, as in a"),
        ([1, 3], "b: row 1 has class 3, .*; subtract 1 from labels that count from 1"),
        ([-1, 0], "b: row 0 has class -1"),
        ([0, 1, 2], r"b: found shape \(3,\), expected \(B,\) with B = 2, as in a"),
    ):
        with pytest.raises(ValueError, match=message):
            two(X, wrong, X)


def test_a_coefficient_leaves_the_dtype():
    scaled = takes(x="B d", alpha="coefficient")(lambda x, alpha: alpha * x)
    assert scaled(X32, np.float64(0.25)).dtype == np.float32
    assert grad(lambda a: scaled(X, a)[0, 0])(np.array(0.25)) == 1  # autograd's boxes pass through
    with pytest.raises(ValueError, match="alpha: found dtype float64, expected float32, as in x"):
        grad(lambda a: scaled(X32, a)[0, 0])(np.array(0.25))

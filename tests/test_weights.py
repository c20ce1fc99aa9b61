"""weights.py: flat names and back, and errors that list every difference at once."""

import numpy as np
import pytest

from bplcz_ref import weights


def test_named_and_nested_are_inverse():
    tree = {"a": {"weight": np.ones(2), "b": {"c": np.zeros(1)}}, "d": np.array(3.0)}
    flat = weights.named(tree)
    assert list(flat) == ["a.weight", "a.b.c", "d"]
    again = weights.nested(flat)
    assert again["a"]["b"]["c"] is tree["a"]["b"]["c"]
    assert list(weights.named(again)) == list(flat)


def test_like_takes_the_dtype_of_its_place():
    tree = {"w": np.zeros((2, 1), np.float32)}
    assert weights.like(tree, {"w": np.ones((2, 1))}, "x")["w"].dtype == np.float32


def test_like_names_all_differences_at_once():
    tree = {"a": np.zeros(2), "b": np.zeros(1), "c": np.zeros((1, 2))}
    with pytest.raises(ValueError, match="missing: b") as error:
        weights.like(tree, {"a": np.zeros(3), "c": np.zeros((2, 1)), "z": np.zeros(1)}, "run/checkpoint.npz")
    text = str(error.value)
    assert "run/checkpoint.npz" in text
    assert "unexpected: z" in text
    assert "a: shape (3,), expected (2,)" in text
    assert "c: shape (2, 1), expected (1, 2)" in text

"""The kit against a port that it has never seen: mistakes without a name are caught, right variants pass.

A part of the variants runs here; `python tests/peers/adversary.py float32` runs all of them, in some minutes.
"""

import pytest

pytest.importorskip("torch")
adversary = pytest.importorskip("adversary")

pytestmark = pytest.mark.slow
CHEAP = [v for v in adversary.WRONG if v[0] != "training"]  # a mistake in the chain takes ten seconds to explain
PARTS = {"float32": CHEAP[::3], "float64": CHEAP[1::5]}


@pytest.fixture(scope="module")
def right():
    """The port's answers in both dtypes."""
    return {dtype: adversary.everything(dtype) for dtype in PARTS}


@pytest.mark.parametrize("dtype", PARTS)
def test_mistakes_without_a_name_are_caught_and_located_and_none_is_misnamed(dtype, right):
    count, lines = adversary.tally(dtype, PARTS[dtype], right[dtype])
    assert count["all"] >= 20
    assert count["caught"] >= 0.99 * count["all"], lines
    assert count["located"] >= 0.97 * count["all"], lines
    assert not count["misnamed"], lines


@pytest.mark.parametrize("dtype", PARTS)
def test_right_variants_pass(dtype, right):
    count, lines = adversary.tally(dtype, adversary.RIGHT, right[dtype])
    assert count["all"] >= 60
    assert count["caught"] == 0, lines


def test_coarse_arithmetic_is_caught_and_named(right):
    few = adversary.PRECISION[::5] + adversary.PRODUCTS
    count, lines = adversary.tally("float32", few, right["float32"])
    assert count["caught"] == count["located"] == count["named"] == count["all"], lines
    assert not count["misnamed"], lines


def test_tf32_products_pass_where_the_profile_declares_them(right):
    for op, _, changes in adversary.PRODUCTS:
        r = adversary.graded(right["float32"], op, changes, "float32", products="tf32")
        assert r.exit_code == 0, str(r)
        assert f"{op}: TF32 products" in str(r)
    op, _, changes = next(v for v in adversary.WRONG if v[:2] == ("linear", "bias doubled"))
    r = adversary.graded(right["float32"], op, changes, "float32", products="tf32")
    assert [f.op for f in r.findings if f.state == "guilty"] == ["linear"], "a mistake is no rounding"

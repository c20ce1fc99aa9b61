"""The kit against a port that it has never seen: mistakes without a name are caught, right variants pass."""

import pytest

pytest.importorskip("torch")
adversary = pytest.importorskip("adversary")

pytestmark = pytest.mark.slow
PARTS = {"float32": adversary.WRONG[::2], "float64": adversary.WRONG[1::2]}


@pytest.mark.parametrize(("dtype", "seed"), [("float32", 0), ("float64", 3)])
def test_mistakes_without_a_name_are_caught_and_located_and_none_is_misnamed(dtype, seed):
    count, lines = adversary.tally(dtype, PARTS[dtype], seed)
    assert count["all"] >= 20
    assert count["caught"] >= 0.99 * count["all"], lines
    assert count["located"] >= 0.97 * count["all"], lines
    assert not count["misnamed"], lines


@pytest.mark.parametrize("dtype", PARTS)
@pytest.mark.parametrize("seed", [0, 4])
def test_right_variants_pass(dtype, seed):
    count, lines = adversary.tally(dtype, adversary.RIGHT, seed)
    assert count["all"] == len(adversary.RIGHT)
    assert count["caught"] == 0, lines


def test_tf32_products_pass_where_they_are_declared():
    for op, changes in adversary.PRODUCTS:
        assert adversary.graded(op, changes, "float32").exit_code == 1
        assert adversary.graded(op, changes, "float32", called="tf32").exit_code == 0
    op, _, changes = next(v for v in adversary.WRONG if v[:2] == ("linear", "bias doubled"))
    r = adversary.graded(op, changes, "float32", called="tf32")
    assert [f.op for f in r.findings if f.state == "guilty"] == ["linear"], "a mistake is no rounding"

"""PyTorch through the conformance kit: right variants pass, mistakes are caught, other options have their names.

The kit's own mistakes are variants of its formulas; here the values come from a port that it has never seen.
"""

import warnings

import numpy as np
import pytest

from bplcz_ref import conform

torch = pytest.importorskip("torch")
adversary = pytest.importorskip("adversary")
PARTS = {"float32": adversary.WRONG[::2], "float64": adversary.WRONG[1::2]}
FLOATS = {"float64": torch.float64, "float32": torch.float32, "bfloat16": torch.bfloat16}


def reverse(f, inputs, names, cotangents):
    """The gradients of any function of tensors."""
    wide = lambda x: torch.float64 if isinstance(x, float) else None  # a number of Python's, not torch's float32
    leaf = lambda x: torch.as_tensor(x, dtype=wide(x)).clone().requires_grad_()
    leaves = {name: leaf(inputs[name]) for name in names}
    out = f(**(inputs | leaves))
    L = sum((out[o] * torch.as_tensor(g)).sum() for o, g in cotangents.items())
    return dict(zip(names, torch.autograd.grad(L, list(leaves.values())), strict=True))


def check(ops, dtype="float32"):
    """The Report on operations of the port."""
    convert = lambda x: torch.from_numpy(x).to(FLOATS[dtype]) if x.dtype.kind == "f" else torch.from_numpy(x)
    back = lambda x: x.detach().to(torch.float64).numpy() if isinstance(x, torch.Tensor) else np.asarray(x)
    functions = {op: lambda _op=op, **inputs: adversary.PORT[_op](adversary.PORT, **inputs) for op in ops}
    return conform.check(functions, gradients=reverse, from_numpy=convert, to_numpy=back, dtype=dtype)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_pytorchs_functions_pass(dtype):
    report = check([op for op in adversary.PORT if op != "sgd_step"], dtype)
    assert report.exit_code == 0, str(report)


@pytest.mark.parametrize("variant", adversary.NAMED, ids=lambda v: f"{v[0]}: {v[1]}")
def test_pytorchs_other_options_are_named(variant):
    op, name, changes = variant
    dtype = "float64" if "Keras" in name else "float32"  # where 1 - 1e-7 is 1 - 1.2e-7, with another logarithm
    assert adversary.names_of(adversary.graded(op, changes, dtype)) == (name,)


def test_bfloat16_does_not_diverge_and_does_not_pass_where_it_cannot_tell():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        report = check(("bce", "cross_entropy", "gelu", "linear", "max_pool2d"), "bfloat16")
    assert report.exit_code == 0, str(report)
    assert "gelu/ordinary" in {g.case.id for g in report.of("cannot discriminate")}


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "seed"), [("float32", 0), ("float64", 3)])
def test_mistakes_without_a_name_are_caught_and_located_and_none_is_misnamed(dtype, seed):
    count, lines = adversary.tally(dtype, PARTS[dtype], seed)
    assert count["all"] >= 20
    assert count["caught"] >= 0.99 * count["all"], lines
    assert count["located"] >= 0.97 * count["all"], lines
    assert not count["misnamed"], lines


@pytest.mark.slow
@pytest.mark.parametrize("dtype", PARTS)
@pytest.mark.parametrize("seed", [0, 4])
def test_right_variants_pass(dtype, seed):
    count, lines = adversary.tally(dtype, adversary.RIGHT, seed)
    assert count["all"] == len(adversary.RIGHT)
    assert count["caught"] == 0, lines


@pytest.mark.slow
def test_tf32_products_pass_where_they_are_declared():
    for op, changes in adversary.PRODUCTS:
        assert adversary.graded(op, changes, "float32").exit_code == 1
        assert adversary.graded(op, changes, "float32", called="tf32").exit_code == 0
    op, _, changes = next(v for v in adversary.WRONG if v[:2] == ("linear", "bias doubled"))
    r = adversary.graded(op, changes, "float32", called="tf32")
    assert [f.op for f in r.findings if f.state == "guilty"] == ["linear"], "a mistake is no rounding"

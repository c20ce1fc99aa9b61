"""PyTorch through the conformance kit in process: its functions pass, its options for other readings are named.

The kit's own mistakes are variants of its formulas; here the wrong values come from elsewhere.
"""

import warnings

import numpy as np
import pytest

from bplcz_ref import conform

torch = pytest.importorskip("torch")
adversary = pytest.importorskip("adversary")
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
    assert adversary.names_of(adversary.graded(op, changes, "float32")) == (name,)


def test_probabilities_clipped_as_in_keras_are_named_in_float64():
    """In float32 1 - 1e-7 is 1 - 1.2e-7, which has another logarithm."""
    op, name, changes = adversary.KERAS
    assert adversary.names_of(adversary.graded(op, changes, "float64")) == (name,)


def test_bfloat16_does_not_diverge_and_does_not_pass_where_it_cannot_tell():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        report = check(("bce", "cross_entropy", "gelu", "linear", "max_pool2d"), "bfloat16")
    assert report.exit_code == 0, str(report)
    assert "gelu/ordinary" in {g.case.id for g in report.of("cannot discriminate")}

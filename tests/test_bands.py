"""bands.py: which channel goes to which group (the doctest of `grouped` has their order), and slips."""

import autograd
import autograd.numpy as anp
import numpy as np
import pytest

from bplcz_ref import bands


def filled(shape=(2, 4, 5)):
    """Every channel filled with its own 0-based position; sen1 from 100, so that a swapped sensor shows."""
    return 100.0 + np.arange(8) * np.ones((*shape, 1)), np.arange(10) * np.ones((*shape, 1))


@pytest.mark.parametrize("shape", [(), (7,), (2, 32, 32), (3, 2, 4, 4)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_any_leading_axes_and_dtype_kept(shape, dtype):
    sen1, sen2 = (a.astype(dtype) for a in filled(shape))
    X = bands.grouped(sen1, sen2)
    assert all(v.dtype == dtype and v.shape[:-1] == shape for v in X.values())
    x = bands.join(sen1, sen2)
    assert (x.dtype, x.shape) == (dtype, (*shape, 18))
    assert all(map(np.array_equal, bands.separate(x), (sen1, sen2)))


def test_gradients_pass_through():
    """The gradient of each channel is the number of its group, RGB 1 ... PolSAR 7."""

    def f(sen1, sen2):
        X = bands.grouped(*bands.separate(bands.join(sen1, sen2)))
        return sum(k * anp.sum(X_i) for k, X_i in enumerate(X.values(), 1))

    found = autograd.grad(f, (0, 1))(*filled(()))
    assert [g.tolist() for g in found] == [[5, 5, 6, 6, 5, 6, 7, 7], [1, 1, 1, 2, 2, 2, 3, 2, 4, 4]]


SEN1, SEN2 = filled()
BAD = [
    (bands.grouped, (SEN2, SEN1), "swapped"),
    (bands.join, (SEN2, SEN1), "swapped"),
    (bands.join, (SEN1[..., :7], SEN2), r"sen1 has shape \(2, 4, 5, 7\).*8 channels"),
    (bands.join, (SEN1, np.moveaxis(SEN2, -1, -3)), "sen2 .*channels first"),
    (bands.join, (SEN1[:1], SEN2), "agree on every axis"),
    (bands.join, (SEN1, SEN2.tolist()), "sen2 is a list"),
    (bands.join, (SEN1.astype(np.float32), SEN2), "float32 and sen2 is float64"),
    (bands.separate, (SEN2,), "18 channels"),
    (bands.separate, (np.zeros((2, 18, 32, 32)),), "channels first"),
]


@pytest.mark.parametrize(("f", "given", "message"), BAD, ids=[f"{f.__name__}: {message}" for f, _, message in BAD])
def test_wrong_input_is_named(f, given, message):
    with pytest.raises(ValueError, match=message):
        f(*given)

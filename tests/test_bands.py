"""bands.py: which channel goes where, by literal numbers; and the slips that must not pass."""

import autograd
import autograd.numpy as anp
import numpy as np
import pytest

from bplcz_ref import bands, paper

# 0-based, written out by hand from II-A; never computed from paper.GROUPS.
BY_HAND = {
    "RGB": ("sen2", [0, 1, 2]),
    "VRE": ("sen2", [3, 4, 5, 7]),
    "NIR": ("sen2", [6]),
    "SWIR": ("sen2", [8, 9]),
    "VH": ("sen1", [0, 1, 4]),
    "VV": ("sen1", [2, 3, 5]),
    "PolSAR": ("sen1", [6, 7]),
}


def filled(shape=(2, 4, 5)):
    """Every channel filled with its own 0-based position; sen1 from 100, so that a swapped sensor shows."""
    return 100.0 + np.arange(8) * np.ones((*shape, 1)), np.arange(10) * np.ones((*shape, 1))


def test_every_group_by_hand():
    X = bands.grouped(*filled())
    assert list(X) == list(BY_HAND)
    for name, (sensor, index) in BY_HAND.items():
        expected = np.array(index) + (100.0 if sensor == "sen1" else 0.0)
        np.testing.assert_array_equal(X[name], np.broadcast_to(expected, (2, 4, 5, len(index))))


def test_names_of_the_bands():
    assert len(bands.BANDS) == len(set(bands.BANDS)) == sum(paper.CHANNELS.values()) == 18
    assert [bands.BANDS[8 + i] for i in bands.INDEX["VRE"]] == ["B5", "B6", "B7", "B8A"]
    assert [bands.BANDS[8 + i] for i in bands.INDEX["NIR"]] == ["B8"]
    assert [bands.BANDS[i] for i in bands.INDEX["VH"]] == ["VH re", "VH im", "VH int"]


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
    *[(f, given, message) for f in (bands.grouped, bands.join) for given, message in (
        ((SEN2, SEN1), "swapped"),
        ((SEN1[..., :7], SEN2), r"sen1 has shape \(2, 4, 5, 7\).*8 channels"),
        ((SEN1, np.moveaxis(SEN2, -1, -3)), "sen2 .*channels first"),
        ((SEN1[:1], SEN2), "agree on every axis"),
        ((SEN1, SEN2.tolist()), "sen2 is a list"),
    )],
    (bands.join, (SEN1.astype(np.float32), SEN2), "float32 and sen2 is float64"),
    (bands.separate, (SEN2,), "18 channels"),
    (bands.separate, (np.zeros((2, 18, 32, 32)),), "channels first"),
]  # fmt: skip


@pytest.mark.parametrize(("f", "given", "message"), BAD, ids=[f"{f.__name__}: {message}" for f, _, message in BAD])
def test_wrong_input_is_named(f, given, message):
    with pytest.raises(ValueError, match=message):
        f(*given)

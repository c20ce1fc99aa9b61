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


def groups_are_right(split):
    sen1, sen2 = filled()
    X = split(sen1, sen2)
    assert list(X) == list(BY_HAND)
    for name, (sensor, index) in BY_HAND.items():
        expected = np.array(index) + (100.0 if sensor == "sen1" else 0.0)
        np.testing.assert_array_equal(X[name], np.broadcast_to(expected, (2, 4, 5, len(index))))


def test_every_group_by_hand():
    groups_are_right(bands.split)


def taking(table):
    return lambda sen1, sen2: {n: {"sen1": sen1, "sen2": sen2}[s][..., i] for n, (s, i) in table.items()}


@pytest.mark.parametrize(
    "wrong",
    [
        # 1-based numbers used as 0-based positions (clipped where they would run out)
        {n: (s, [min(i + 1, 9 if s == "sen2" else 7) for i in ix]) for n, (s, ix) in BY_HAND.items()},
        BY_HAND | {"VRE": ("sen2", [3, 4, 5, 6]), "NIR": ("sen2", [7])},  # B8 and B8A swapped
        BY_HAND | {"RGB": ("sen2", [2, 1, 0])},  # red first
        BY_HAND | {"VH": ("sen1", [2, 3, 5]), "VV": ("sen1", [0, 1, 4])},  # polarisations swapped
        BY_HAND | {"VH": ("sen1", [0, 1, 5]), "VV": ("sen1", [2, 3, 4])},  # filtered intensities swapped
        BY_HAND | {"PolSAR": ("sen1", [7, 6])},
        BY_HAND | {"PolSAR": ("sen2", [6, 7])},  # the other sensor
        {n: BY_HAND[n] for n in sorted(BY_HAND)},  # another order of groups
    ],
)
def test_the_check_fails_on_wrong_code(wrong):
    groups_are_right(taking(BY_HAND))
    with pytest.raises(AssertionError):
        groups_are_right(taking(wrong))


def test_sizes_and_each_band_once():
    X = bands.split(*filled())
    assert [v.shape[-1] for v in X.values()] == [3, 4, 1, 2, 3, 3, 2]
    every = np.concatenate([v[0, 0, 0] for v in X.values()])
    assert sorted(every.tolist()) == [*range(10), *range(100, 108)]
    assert len(bands.BANDS) == len(set(bands.BANDS)) == sum(paper.CHANNELS.values()) == 18
    assert [bands.BANDS[8 + i] for i in bands.INDEX["VRE"]] == ["B5", "B6", "B7", "B8A"]
    assert [bands.BANDS[8 + i] for i in bands.INDEX["NIR"]] == ["B8"]
    assert [bands.BANDS[i] for i in bands.INDEX["VH"]] == ["VH re", "VH im", "VH int"]


@pytest.mark.parametrize("shape", [(), (7,), (2, 32, 32), (3, 2, 4, 4)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_any_leading_axes_and_dtype_kept(shape, dtype):
    sen1, sen2 = (a.astype(dtype) for a in filled(shape))
    X = bands.split(sen1, sen2)
    assert all(v.dtype == dtype and v.shape[:-1] == shape for v in X.values())
    x = bands.join(sen1, sen2)
    assert x.dtype == dtype
    assert x.shape == (*shape, 18)
    back = bands.separate(x)
    np.testing.assert_array_equal(back[0], sen1)
    np.testing.assert_array_equal(back[1], sen2)


def test_gradients_pass_through():
    sen1, sen2 = filled((2,))
    weights = {n: float(k + 1) for k, n in enumerate(BY_HAND)}

    def f(sen1, sen2):
        x = bands.join(sen1, sen2)
        return sum(weights[n] * anp.sum(X_i) for n, X_i in bands.split(*bands.separate(x)).items())

    g1, g2 = autograd.grad(f, (0, 1))(sen1, sen2)
    # each channel's gradient is the number of its group, RGB 1 ... PolSAR 7
    np.testing.assert_array_equal(g1[0], [5, 5, 6, 6, 5, 6, 7, 7])
    np.testing.assert_array_equal(g2[0], [1, 1, 1, 2, 2, 2, 3, 2, 4, 4])


@pytest.mark.parametrize("f", [bands.split, bands.join])
def test_wrong_input_is_named(f):
    sen1, sen2 = filled()
    with pytest.raises(ValueError, match="swapped"):
        f(sen2, sen1)
    with pytest.raises(ValueError, match=r"sen1 has shape \(2, 4, 5, 7\).*8 channels"):
        f(sen1[..., :7], sen2)
    with pytest.raises(ValueError, match="sen2 .*channels first"):
        f(sen1, np.moveaxis(sen2, -1, -3))
    with pytest.raises(ValueError, match="agree on every axis"):
        f(sen1[:1], sen2)
    with pytest.raises(ValueError, match="sen2 is a list"):
        f(sen1, sen2.tolist())


def test_errors_of_join_and_separate():
    sen1, sen2 = filled()
    with pytest.raises(ValueError, match="float32 and sen2 is float64"):
        bands.join(sen1.astype(np.float32), sen2)
    with pytest.raises(ValueError, match="18 channels"):
        bands.separate(sen2)
    with pytest.raises(ValueError, match="channels first"):
        bands.separate(np.zeros((2, 18, 32, 32)))

"""standardise.py: statistics that survive large means, heavy tails and chunking, and standardisation by them."""

import numpy as np
import pytest

from bplcz_ref.data import standardise


class Rows:
    """Stands in for an open file."""

    def __init__(self, x):
        self.x = x

    def images(self, index, dtype):
        return self.x[np.asarray(index)].astype(dtype)


def hard_rows():
    """Channel 0: 1e8 + small noise; 1: constant .1; 2: heavy tails; 600 rows so that three chunks are merged."""
    x = np.random.default_rng(3).normal(size=(600, 4, 4, 18))
    x[..., 0] = 1e8 + 1e-2 * x[..., 0] + np.arange(600)[:, None, None] * 1e-3
    x[..., 1] = 0.1
    x[5, 1, 1, 2] = 12702.0
    return x


def test_statistics():
    """Squares less squared means, float32, the mean of the chunks' deviations, and N - 1 all fail here."""
    x = hard_rows()
    mean, std, _ = standardise.statistics(Rows(x), np.arange(600)[::-1])
    long = x.astype(np.longdouble)
    m = long.mean((0, 1, 2))
    s = np.sqrt(((long - m) ** 2).mean((0, 1, 2)))
    np.testing.assert_allclose(mean - m, 0, atol=1e-12 * float(s[0]) + 2e-8)
    np.testing.assert_allclose(std[[0, *range(2, 18)]], s[[0, *range(2, 18)]].astype(float), rtol=1e-7)
    assert std[1] == 0.0  # exactly, or division would blow rounding up


def test_statistics_by_hand():
    x = np.zeros((2, 1, 2, 18))
    x[0, 0, :, 0], x[1, 0, :, 0] = (1, 3), (5, 7)
    x[..., 9] = [[[2, 2]], [[4, 4]]]
    mean, std, clip = standardise.statistics(Rows(x), [0, 1])
    assert (mean[0], std[0], mean[9], std[9], clip) == (4.0, np.sqrt(5.0), 3.0, 1.0, None)
    # only the rows asked for; a row asked for twice counts twice
    assert standardise.statistics(Rows(x), [1, 1, 0]).mean[0] == pytest.approx(14 / 3)
    # sen1 clipped to +-2: (1, 2, 2, 2); sen2 untouched
    clipped = standardise.statistics(Rows(x), [0, 1], clip_sen1=2.0)
    assert (clipped.mean[0], clipped.mean[9], clipped.std[0]) == (1.75, 3.0, np.sqrt(3 / 16))


def test_standardise_uses_the_clip_of_the_statistics():
    x = hard_rows()
    x[..., 0] -= 1e8
    statistics = standardise.statistics(Rows(x), range(600), clip_sen1=0.5)
    z = standardise.standardise(x, statistics)
    np.testing.assert_allclose(z.mean((0, 1, 2)), 0, atol=1e-12)
    np.testing.assert_allclose(np.delete(z.std((0, 1, 2)), 1), 1, rtol=1e-12)
    assert (z[..., 1] == 0).all()  # the constant channel
    assert x[5, 1, 1, 2] == 12702.0  # the argument is left alone
    z32 = standardise.standardise(x.astype(np.float32), statistics)
    assert z32.dtype == np.float32
    np.testing.assert_allclose(z32, z, atol=2e-5)


def test_statistics_and_standardise_refuse():
    with pytest.raises(ValueError, match="at least one row"):
        standardise.statistics(Rows(hard_rows()), [])
    for bound in (-1, 0, np.inf, np.nan):
        with pytest.raises(ValueError, match=f"clip_sen1 is {bound}"):
            standardise.Moments(bound)
    for x in (np.zeros((2, 17)), np.zeros((2, 18), int)):
        with pytest.raises(ValueError, match="expected floating point"):
            standardise.standardise(x, standardise.Statistics(np.zeros(18), np.ones(18)))

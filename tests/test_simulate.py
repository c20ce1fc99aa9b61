"""simulate.py: the same physical checks pass on simulated patches and the real one, and fail on wrong sensors."""

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
from scipy.optimize import minimize

from bplcz_ref import bands
from bplcz_ref.data import inspection, simulate, so2sat

REAL = Path(__file__).parent / "data" / "so2sat_validation0.h5"
COARSE, SHARP = ["B5", "B6", "B7", "B8A", "B11", "B12"], ["B2", "B3", "B4", "B8"]
DN = 1e-4
# Mean and std of training.h5 by channel (torchgeo's So2Sat page), to compare with. sen1's std hangs on few pixels.
REAL_MEAN = np.array(
    [-3.59e-5, -7.66e-6, 5.94e-5, 2.52e-5, 0.04420, 0.25761, 7.56e-4, 1.35e-3]
    + [0.12376, 0.10928, 0.10109, 0.11424, 0.15927, 0.18147, 0.17457, 0.19502, 0.15428, 0.10905]
)
REAL_STD = np.array(
    [0.17555, 0.17556, 0.45999, 0.45599, 2.85599, 8.32480, 2.44988, 1.46474]
    + [0.03959, 0.04778, 0.06637, 0.06359, 0.07744, 0.09102, 0.09218, 0.10165, 0.09992, 0.08781]
)


@pytest.fixture(scope="module")
def real():
    """sen1, sen2 and half a quantum of sen1: recovered from a figure, sen2 to 1 digital number."""
    with h5py.File(REAL) as file:
        return file["sen1"][:], file["sen2"][:], file.attrs["sen1_half_quantum"]


@pytest.fixture(scope="module")
def simulated():
    y = np.repeat(np.arange(17), 6)
    return (y, *simulate.patches(y, seed=5))


# --- physics ---------------------------------------------------------------------------------------------------


def correlation(a, b):
    """Within each patch, then the mean over patches: one patch alone leaves it uncertain by about .05."""
    return np.mean([np.corrcoef(p.ravel(), q.ravel())[0, 1] for p, q in zip(a, b, strict=True)])


def variation(a):
    return a.std() / a.mean()


def radar_is_consistent(sen1, quantum=np.zeros(8)):  # noqa: B008  # (b, 32, 32, 8)
    """Channels 4 to 7 are what a speckle filter makes of channels 0 to 3, each in its place."""
    vh, vv = sen1[..., 0] + 1j * sen1[..., 1], sen1[..., 2] + 1j * sen1[..., 3]
    cross = vh * vv.conj()
    VH, VV, C = sen1[..., 4], sen1[..., 5], sen1[..., 6] + 1j * sen1[..., 7]
    for raw, filtered in ((abs(vh) ** 2, VH), (abs(vv) ** 2, VV)):
        assert filtered.min() >= 0
        assert 0.75 < raw.mean() / filtered.mean() < 1.35  # filtering keeps the mean
        assert correlation(raw, filtered) > 0.08
        assert variation(filtered) < 0.65 * variation(raw)  # and takes speckle away
    phase, coherence = cross / (abs(cross) + 1e-12), C / np.sqrt(VH * VV + 1e-24)  # bounded: no pixel outweighs
    own = correlation(phase.real, coherence.real) + correlation(phase.imag, coherence.imag)
    assert own > 0.15 + correlation(phase.imag, coherence.real) + correlation(phase.real, coherence.imag)
    # Cauchy-Schwarz, as far as the quanta let one see
    bound = np.sqrt((VH + quantum[4]) * (VV + quantum[5])) + np.hypot(quantum[6], quantum[7])
    assert (abs(C) <= bound * (1 + 1e-9)).all()


def corner(sen2, tolerance):
    """(row, column) of the first whole 20 m pixel: where blocks of all 20 m bands, and of no other, are flat."""

    def flat(name, row, column):
        band = sen2[row : 30 + row, column : 30 + column, bands.BANDS.index(name) - 8]
        blocks = band.reshape(15, 2, 15, 2)
        return np.mean(np.ptp(blocks, axis=(1, 3)) <= tolerance)

    corners = [(row, column) for row in (0, 1) for column in (0, 1)]
    right = [at for at in corners if min(flat(name, *at) for name in COARSE) == 1.0]
    assert len(right) == 1
    assert max(flat(name, *right[0]) for name in SHARP) < 0.3
    return right[0]


def test_the_real_patch(real):
    sen1, sen2, quantum = real
    radar_is_consistent(sen1, quantum)
    assert corner(sen2[0], 2.1 * DN) == (1, 1)


@pytest.mark.slow
def test_simulated_patches(simulated):
    y, sen1, sen2 = simulated
    for k in range(17):
        radar_is_consistent(sen1[y == k])
    corners = {corner(patch, 1e-9) for patch in sen2}
    assert len(corners) == 4  # it differs between cities
    assert sen2.min() > 0
    np.testing.assert_allclose(np.round(sen2 / DN) * DN, sen2, rtol=0, atol=1e-12)  # whole digital numbers


@pytest.mark.slow
@pytest.mark.parametrize(
    "wrong",
    [
        lambda s: s[..., [0, 1, 2, 3, 5, 4, 6, 7]],  # filtered intensities swapped
        lambda s: s[..., [2, 3, 0, 1, 4, 5, 6, 7]],  # complex channels swapped
        lambda s: s[..., [0, 1, 2, 3, 4, 5, 7, 6]],  # real and imaginary part swapped
        lambda s: s * [1, 1, 1, 1, 1, 1, 1, -1],  # VV times conjugate VH
        lambda s: s * [1, 1, 1, 1, 1, 1, 3, 3],  # more covariance than the intensities allow
        lambda s: s * [1, 1, 1, 1, 2, 2, 2, 2],  # |.|^2 doubled
        lambda s: np.concatenate((s[..., :4], np.sqrt(abs(s[..., 4:6])), s[..., 6:]), -1),  # amplitudes
        lambda s: np.concatenate((s[..., :4], 10 * np.log10(s[..., 4:6]), s[..., 6:]), -1),  # decibels
        lambda s: np.stack(  # not filtered
            (*np.moveaxis(s[..., :4], -1, 0), s[..., 0] ** 2 + s[..., 1] ** 2, s[..., 2] ** 2 + s[..., 3] ** 2)
            + (s[..., 6], s[..., 7]),
            -1,
        ),
        lambda s: np.concatenate((s[..., :4], s[:, ::-1, ::-1, 4:]), -1),  # another patch's filtered channels
    ],
)
def test_wrong_radar_is_found(wrong, real, simulated):
    sen1, _, quantum = real
    with pytest.raises(AssertionError):
        radar_is_consistent(wrong(sen1), quantum)
    for k in (2, 10, 16):
        with pytest.raises(AssertionError):
            radar_is_consistent(wrong(simulated[1][simulated[0] == k]))


@pytest.mark.parametrize(
    "wrong",
    [
        lambda s: s[..., [0, 1, 2, 3, 4, 5, 7, 6, 8, 9]],  # B8 and B8A swapped
        lambda s: np.roll(s, 1, axis=-1),
        lambda s: np.concatenate((s[..., :4], s[:, [*range(1, 32), 31], 4:5], s[..., 5:]), -1),  # one band moved
        lambda s: (s + np.roll(s, 1, axis=0)) / 2,  # resampled smoothly instead of copied
    ],
)
def test_wrong_copies_are_found(wrong, real, simulated):
    for patch, tolerance in ((real[1][0], 2.1 * DN), (simulated[2][3], 1e-9), (simulated[2][30], 1e-9)):
        with pytest.raises(AssertionError):
            corner(wrong(patch), tolerance)


def test_speckle_is_correlated_in_azimuth_alone(real, simulated):
    """Lag 1 along rows and columns: .34 and .02 in the real patch, by design the same in simulated water."""
    y, sen1, _ = simulated

    def lag(patches):
        s = patches[..., 2] + 1j * patches[..., 3]
        power = (abs(s) ** 2).mean()
        return (
            abs((s[:, 1:] * s[:, :-1].conj()).mean() / power),
            abs((s[:, :, 1:] * s[:, :, :-1].conj()).mean() / power),
        )

    for patches in (real[0], sen1[y == 16]):
        rows, columns = lag(patches)
        assert 0.25 < rows < 0.45
        assert columns < 0.1


def lee_at(vh, vv, i, j):
    """One pixel of the filter as a loop, away from the border."""
    window = [(a, b) for a in range(i - 3, i + 4) for b in range(j - 3, j + 4)]
    total = [abs(vh[p]) ** 2 + abs(vv[p]) ** 2 for p in window]
    mean = sum(total) / 49
    variation = sum((t - mean) ** 2 for t in total) / 49 / mean**2
    w = min(max((1 - 1 / variation) / 2, 0), 1)
    values = [lambda p: abs(vh[p]) ** 2, lambda p: abs(vv[p]) ** 2]
    values += [lambda p: (vh[p] * vv[p].conjugate()).real, lambda p: (vh[p] * vv[p].conjugate()).imag]
    return [(1 - w) * sum(f(p) for p in window) / 49 + w * f((i, j)) for f in values], w


def test_lee_filter_against_a_loop():
    rng = np.random.default_rng(1)
    vh, vv = rng.normal(size=(2, 16, 16)) + 1j * rng.normal(size=(2, 16, 16))
    vv[8, 8] = 40.0  # a corner reflector: kept, where the window's mean alone would smear it
    filtered = simulate.lee(vh, vv)
    weights = []
    for i, j in ((8, 8), (3, 3), (6, 11), (12, 4)):
        expected, w = lee_at(vh, vv, i, j)
        np.testing.assert_allclose(filtered[:, i, j], expected, rtol=1e-12)
        weights.append(w)
    assert weights[0] > 0.4
    assert min(weights) < 0.1
    # where nothing varies the filter does nothing: by hand, |2|^2, |1j|^2, 2 conj(1j) = -2j
    flat = simulate.lee(np.full((9, 9), 2 + 0j), np.full((9, 9), 1j))
    np.testing.assert_allclose(flat[:, 4, 4], [4, 1, 0, -2], rtol=1e-12)


# --- likeness --------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_bands_lie_near_training_h5():
    """Natural class frequencies, one seed. The intensities' std hangs on few pixels and is not compared."""
    y = simulate.natural(300, seed=1)
    x = np.concatenate(simulate.patches(y, seed=1), axis=-1)
    mean, std = x.mean((0, 1, 2)), x.std((0, 1, 2))
    assert (abs(mean[8:] / REAL_MEAN[8:] - 1) < 0.30).all()
    assert (abs(std[8:] / REAL_STD[8:] - 1) < 0.35).all()
    assert (abs(np.log2(mean[4:6] / REAL_MEAN[4:6])) < 1).all()  # intensities within a factor of 2
    assert (abs(np.log2(std[:4] / REAL_STD[:4])) < 1).all()
    assert (abs(mean[:4]) < 0.02).all()  # speckle has no mean


def test_water_looks_like_the_real_water(real, simulated):
    y, sen1, sen2 = simulated
    found = np.median(sen2[y == 16], axis=(0, 1, 2)) / np.median(real[1], axis=(0, 1, 2))
    assert ((found > 0.5) & (found < 2)).all()
    found = np.median(sen1[y == 16], axis=(0, 1, 2))[4:6] / np.median(real[0], axis=(0, 1, 2))[4:6]
    assert ((found > 1 / 4) & (found < 4)).all()


def test_built_zones_have_the_heavy_tails(simulated):
    y, sen1, _ = simulated
    peak = np.array([p[..., 5].max() / np.median(p[..., 5]) for p in sen1])
    assert np.median(peak[y < 10]) > 3 * np.median(peak[y >= 10])


@pytest.mark.long
def test_band_means_help_but_do_not_settle_the_class():
    """Multinomial logistic regression on the 18 band means: well above chance, well below what texture allows."""
    y = np.concatenate((simulate.balanced(25, seed=3), simulate.natural(250, seed=4)))
    sen1, sen2 = simulate.patches(y, seed=3)
    X = np.concatenate((np.clip(sen1, -0.5, 0.5), sen2), -1).mean((1, 2))
    n = 25 * 17
    fit = slice(n)
    X = np.c_[(X - X[fit].mean(0)) / X[fit].std(0), np.ones(len(X))]

    def accuracy(labels):
        def loss(w):
            z = X[fit] @ w.reshape(19, 17)
            z -= z.max(1, keepdims=True)
            log_p = z - np.log(np.exp(z).sum(1, keepdims=True))
            gradient = X[fit].T @ (np.exp(log_p) - np.eye(17)[labels[fit]]) / n
            return -log_p[np.arange(n), labels[fit]].mean() + 1e-3 * w @ w, gradient.ravel() + 2e-3 * w

        w = minimize(loss, np.zeros(19 * 17), jac=True, method="L-BFGS-B", options={"maxiter": 80}).x
        return np.mean((X[n:] @ w.reshape(19, 17)).argmax(1) == y[n:])

    assert 0.25 < accuracy(y) < 0.62
    assert accuracy(np.random.default_rng(1).permutation(y)) < 0.2  # labels shuffled: chance


# --- files, seeds, errors --------------------------------------------------------------------------------------


def test_values_depend_on_seed_row_and_class_alone(simulated):
    y, sen1, sen2 = simulated
    y, sen1, sen2 = y[:30], sen1[:30], sen2[:30]
    parts = [simulate.patches(y[a:b], seed=5, first=a) for a, b in ((0, 1), (1, 20), (20, 30))]
    assert np.concatenate([p[0] for p in parts]).tobytes() == sen1.tobytes()
    assert np.concatenate([p[1] for p in parts]).tobytes() == sen2.tobytes()
    assert sen1.dtype == sen2.dtype == np.float64
    assert np.isfinite(sen1).all()
    other = simulate.patches(y[:3], seed=6)
    assert not np.isclose(other[0], sen1[:3]).any(axis=(0, 1, 2)).all()
    assert len({p.tobytes() for p in sen1}) == len(y)


@pytest.mark.slow
def test_write_is_native_marked_and_free_of_chunking(tmp_path, monkeypatch):
    simulate.write_file(tmp_path / "a.h5", per_class=1, seed=9)
    monkeypatch.setattr(so2sat, "CHUNK", 5)
    simulate.write_file(tmp_path / "b.h5", per_class=1, seed=9)
    with h5py.File(tmp_path / "a.h5") as a, h5py.File(tmp_path / "b.h5") as b:
        for name in ("sen1", "sen2", "label"):
            assert (a[name].dtype, a[name].chunks) == (np.float64, None)
            assert a[name][:].tobytes() == b[name][:].tobytes()
        assert a.attrs["generator"] == b"bplcz_ref.simulate 1"
    with so2sat.open_file(tmp_path / "a.h5") as patches:
        assert patches.simulated
        assert np.bincount(patches.labels).tolist() == [1] * 17
        assert patches.labels.tolist() != sorted(patches.labels)  # the order mixes classes
        sen1, sen2 = bands.separate(patches.images(range(17), np.float64))
        again = simulate.patches(patches.labels, seed=9)
    np.testing.assert_array_equal(sen1, again[0])
    np.testing.assert_array_equal(sen2, again[1])
    simulate.write_file(tmp_path / "c.h5", rows=7, seed=9)
    assert "SIMULATED" in str(inspection.inspect(tmp_path / "c.h5"))
    simulate.write_file(tmp_path / "d.h5", per_class=1, rows=7, seed=9)  # balanced rows first, then natural ones
    with so2sat.open_file(tmp_path / "d.h5") as patches:
        assert sorted(patches.labels[:17]) == list(range(17))
        assert patches.labels[17:].tolist() == simulate.natural(7, seed=9).tolist()


@pytest.mark.parametrize("asked", [{"per_class": 10**9}, {"rows": 10**12}, {"per_class": 10**30, "rows": 1}])
def test_more_rows_than_the_disk_holds_are_refused_before_any_is_drawn(tmp_path, asked):
    with pytest.raises(ValueError, match=r"x.h5: .* rows of 147,592 bytes need .* MB free, room for"):
        simulate.write_file(tmp_path / "new" / "x.h5", **asked)
    assert not list(tmp_path.iterdir())


def test_the_size_is_that_of_the_file(tmp_path, monkeypatch):
    class Disk:
        free = 18 * 147_592

    monkeypatch.setattr("shutil.disk_usage", lambda place: Disk)
    simulate.write_file(tmp_path / "x.h5", per_class=1, rows=1)
    assert 0 < (tmp_path / "x.h5").stat().st_size - Disk.free < 16384  # HDF5's own headers
    with pytest.raises(ValueError, match="room for 18 rows"):
        simulate.write_file(tmp_path / "y.h5", per_class=1, rows=2)


def test_natural_frequencies():
    assert simulate.NATURAL.sum() == 352366
    found = np.bincount(simulate.natural(50_000, seed=1), minlength=17) / 50_000
    p = simulate.NATURAL / 352366
    assert (abs(found - p) < 5 * np.sqrt(p / 50_000)).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda path: simulate.write_file(path), "both 0"),
        (lambda path: simulate.write_file(path, per_class=-2), "per_class is -2"),
        (lambda path: simulate.write_file(path, rows=2.5), "rows is 2.5"),
        (lambda path: simulate.write_file(path, rows=2, seed=-1), "seed is -1"),
        (lambda path: simulate.patches([0, 17], seed=1), "0..16"),
        (lambda path: simulate.patches([0.5], seed=1), "float64"),
    ],
)
def test_bad_arguments_are_named(tmp_path, call, message):
    with pytest.raises(ValueError, match=message):
        call(tmp_path / "x.h5")
    assert not list(tmp_path.iterdir())


def test_no_constant_of_the_scene_or_the_sensors_has_changed():
    """Two patches of each class against their record, within what another processor's exp may change."""
    recorded = json.loads((REAL.parent / "simulated_channels.json").read_text())
    assert recorded["generator"] == simulate.VERSION
    x = bands.join(*simulate.patches(np.repeat(np.arange(17), 2), seed=recorded["seed"]))
    x = x.reshape(17, -1, 18)
    mean, std = np.array(recorded["mean"]), np.array(recorded["std"])
    assert np.abs((x.mean(1) - mean) / std).max() < 2e-4
    assert np.abs(x.std(1) / std - 1).max() < 1e-3

"""simulate.py: the same physical checks pass on simulated patches and the real one, and fail on wrong sensors."""

import json

import h5py
import numpy as np
import pytest
from so2sat_files import REAL

from bplcz_ref import bands
from bplcz_ref.data import comparison, simulate, so2sat

COARSE, SHARP = ["B5", "B6", "B7", "B8A", "B11", "B12"], ["B2", "B3", "B4", "B8"]
DN = 1e-4


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
    VH, VV, C = sen1[..., 4], sen1[..., 5], sen1[..., 6] + 1j * sen1[..., 7]
    for raw, filtered in ((abs(vh) ** 2, VH), (abs(vv) ** 2, VV)):
        assert filtered.min() >= 0
        assert 0.75 < raw.mean() / filtered.mean() < 1.35  # filtering keeps the mean
        assert correlation(raw, filtered) > 0.08
        assert variation(filtered) < 0.65 * variation(raw)  # and takes speckle away
    cross = vh * vv.conj()
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
        return np.mean(np.ptp(band.reshape(15, 2, 15, 2), axis=(1, 3)) <= tolerance)

    corners = [(row, column) for row in (0, 1) for column in (0, 1)]
    (right,) = [at for at in corners if min(flat(name, *at) for name in COARSE) == 1.0]
    assert max(flat(name, *right) for name in SHARP) < 0.3
    return right


def test_the_real_patch(real):
    sen1, sen2, quantum = real
    radar_is_consistent(sen1, quantum)
    assert corner(sen2[0], 2.1 * DN) == (1, 1)
    with pytest.raises(ValueError, match="unpack"):
        corner(np.roll(sen2[0], 1, axis=-1), 2.1 * DN)


@pytest.mark.slow
def test_simulated_patches(simulated):
    y, sen1, sen2 = simulated
    for k in range(17):
        radar_is_consistent(sen1[y == k])
    assert len({corner(patch, 1e-9) for patch in sen2}) == 4  # it differs between cities
    assert sen2.min() > 0
    np.testing.assert_allclose(np.round(sen2 / DN) * DN, sen2, rtol=0, atol=1e-12)  # whole digital numbers


WRONG = [
    lambda s: s[..., [0, 1, 2, 3, 5, 4, 6, 7]],  # filtered intensities swapped
    lambda s: s[..., [2, 3, 0, 1, 4, 5, 6, 7]],  # complex channels swapped
    lambda s: s[..., [0, 1, 2, 3, 4, 5, 7, 6]],  # real and imaginary part swapped
    lambda s: s * [1, 1, 1, 1, 1, 1, 1, -1],  # VV times conjugate VH
    lambda s: s * [1, 1, 1, 1, 2, 2, 2, 2],  # |.|^2 doubled
    lambda s: np.concatenate((s[..., :4], 10 * np.log10(s[..., 4:6]), s[..., 6:]), -1),  # decibels
    lambda s: np.concatenate((s[..., :4], s[:, ::-1, ::-1, 4:]), -1),  # another patch's filtered channels
]


@pytest.mark.slow
@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_radar_is_found(wrong, real, simulated):
    for sen1, quantum in ((real[0], real[2]), (simulated[1][simulated[0] == 10], np.zeros(8))):
        with pytest.raises(AssertionError):
            radar_is_consistent(wrong(sen1), quantum)


def test_speckle_is_correlated_in_azimuth_alone(real, simulated):
    """Lag 1 along rows and columns: .34 and .02 in the real patch, by design the same in simulated water."""
    for patches in (real[0], simulated[1][simulated[0] == 16]):
        s = patches[..., 2] + 1j * patches[..., 3]
        power = (abs(s) ** 2).mean()
        assert 0.25 < abs((s[:, 1:] * s[:, :-1].conj()).mean() / power) < 0.45
        assert abs((s[:, :, 1:] * s[:, :, :-1].conj()).mean() / power) < 0.1


def test_lee_filter_against_its_formula_at_single_pixels():
    rng = np.random.default_rng(1)
    vh, vv = rng.normal(size=(2, 16, 16)) + 1j * rng.normal(size=(2, 16, 16))
    vv[8, 8] = 40.0  # a corner reflector: kept, where the window's mean alone would smear it
    filtered, weights = simulate.lee(vh, vv), []
    for i, j in ((8, 8), (3, 3), (6, 11), (12, 4)):
        a, b = (s[i - 3 : i + 4, j - 3 : j + 4] for s in (vh, vv))
        total, cross = abs(a) ** 2 + abs(b) ** 2, a * b.conj()
        weights.append(np.clip((1 - total.mean() ** 2 / total.var()) / 2, 0, 1))
        for found, values in zip(filtered, (abs(a) ** 2, abs(b) ** 2, cross.real, cross.imag), strict=True):
            expected = (1 - weights[-1]) * values.mean() + weights[-1] * values[3, 3]
            np.testing.assert_allclose(found[i, j], expected, rtol=1e-12)
    assert weights[0] > 0.4
    assert min(weights) < 0.1
    # where nothing varies the filter does nothing: by hand, |2|^2, |1j|^2, 2 conj(1j) = -2j
    flat = simulate.lee(np.full((9, 9), 2 + 0j), np.full((9, 9), 1j))
    np.testing.assert_allclose(flat[:, 4, 4], [4, 1, 0, -2], rtol=1e-12)


# --- likeness --------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_bands_lie_near_training_h5():
    """Natural class frequencies, one seed. The intensities' std hangs on few pixels and is not compared."""
    x = bands.join(*simulate.patches(simulate.classes(0, 300, seed=1), seed=1))
    mean, std = x.mean((0, 1, 2)), x.std((0, 1, 2))
    assert (abs(mean[8:] / comparison.MEAN[8:] - 1) < 0.30).all()
    assert (abs(std[8:] / comparison.STD[8:] - 1) < 0.35).all()
    assert (abs(np.log2(mean[4:6] / comparison.MEAN[4:6])) < 1).all()  # intensities within a factor of 2
    assert (abs(np.log2(std[:4] / comparison.STD[:4])) < 1).all()
    assert (abs(mean[:4]) < 0.02).all()  # speckle has no mean


def test_no_constant_of_the_scene_or_the_sensors_has_changed():
    """Two patches of each class against their record, within what another processor's exp may change."""
    recorded = json.loads((REAL.parent / "simulated_channels.json").read_text())
    assert recorded["generator"] == simulate.VERSION
    x = bands.join(*simulate.patches(np.repeat(np.arange(17), 2), seed=recorded["seed"])).reshape(17, -1, 18)
    mean, std = np.array(recorded["mean"]), np.array(recorded["std"])
    assert np.abs((x.mean(1) - mean) / std).max() < 2e-4
    assert np.abs(x.std(1) / std - 1).max() < 1e-3


# --- files, seeds, errors --------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_file_is_marked_and_free_of_chunking(tmp_path, monkeypatch):
    simulate.write_file(tmp_path / "a.h5", per_class=1, rows=7, seed=9)
    monkeypatch.setattr(so2sat, "CHUNK", 5)
    simulate.write_file(tmp_path / "b.h5", per_class=1, rows=7, seed=9)
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()
    with so2sat.open_file(tmp_path / "a.h5") as patches:
        assert (patches.simulated, patches.attributes["generator"]) == (True, "bplcz_ref.simulate 1")
        y, x = patches.labels, patches.images(range(24), np.float64)
    assert list(range(17)) == sorted(y[:17]) != y[:17].tolist()  # the order mixes classes
    assert y[17:].tolist() == simulate.classes(0, 7, seed=9).tolist()  # balanced rows first, then natural ones
    assert x.tobytes() == bands.join(*simulate.patches(y, seed=9)).tobytes()
    assert not (x == bands.join(*simulate.patches(y, seed=8))).all(axis=(1, 2, 3)).any()


def test_natural_frequencies():
    assert simulate.NATURAL.sum() == 352366
    found = np.bincount(simulate.classes(0, 50_000, seed=1), minlength=17) / 50_000
    p = simulate.NATURAL / 352366
    assert (abs(found - p) < 5 * np.sqrt(p / 50_000)).all()


def test_what_cannot_be_written_is_named_before_any_is_drawn(tmp_path, monkeypatch):
    class Disk:
        free = 18 * 147_592

    monkeypatch.setattr("shutil.disk_usage", lambda place: Disk)
    simulate.write_file(tmp_path / "x.h5", per_class=1, rows=1)
    assert 0 < (tmp_path / "x.h5").stat().st_size - Disk.free < 16384  # HDF5's own headers
    for arguments, message in (
        ({}, "both 0"),
        ({"per_class": -2}, "per_class is -2"),
        ({"rows": 2.5}, "rows is 2.5"),
        ({"rows": 2, "seed": -1}, "seed is -1"),
        ({"per_class": 1, "rows": 2}, r"y\.h5: 19 rows of 147,592 bytes; .*room for 18 rows"),
        ({"rows": 10**12}, "room for 18 rows"),
    ):
        with pytest.raises(ValueError, match=message):
            simulate.write_file(tmp_path / "new" / "y.h5", **arguments)
    assert [p.name for p in tmp_path.iterdir()] == ["x.h5"]

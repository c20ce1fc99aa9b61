"""comparison.py: what `inspect --compare` says of simulated data, of a real patch, and of the two spoilt."""

import h5py
import numpy as np
import pytest
from so2sat_files import REAL

from bplcz_ref import __main__ as command_line
from bplcz_ref.data import comparison, inspection, simulate


@pytest.fixture(scope="module")
def simulated():
    return simulate.patches(np.tile(np.arange(17), 6), seed=3)


def said(path, sen1, sen2):
    with h5py.File(path, "w") as file:
        file["sen1"], file["sen2"] = sen1, sen2
    return inspection.inspect(path, compare=True).problems


@pytest.mark.slow
def test_what_is_permuted_or_scaled_is_said(simulated, tmp_path):
    sen1, sen2 = simulated
    path = tmp_path / "x.h5"
    assert said(path, sen1, sen2) == ()
    tens_first = [0, 1, 2, 6, 3, 4, 5, 7, 8, 9]  # B2 B3 B4 B8, then the 20 m bands
    (line,) = said(path, sen1, sen2[..., tens_first])
    assert line.startswith(
        "sen2 looks permuted: B8 at the place of B5, B5 at the place of B6, B6 at the place of B7"
    )
    (line,) = said(path, sen1, sen2[..., [2, 1, 0, *range(3, 10)]])
    assert "B4 at the place of B2, B2 at the place of B4; the order is B2, B3" in line
    (line,) = said(path, sen1, 5 * sen2)
    assert "sen2 looks scaled" in line
    (line,) = said(path, sen1[..., [0, 1, 2, 3, 5, 4, 6, 7]], sen2)
    assert "the intensity of VH fits the amplitudes of VV" in line
    (line,) = said(path, sen1[..., [4, 5, 0, 1, 2, 3, 6, 7]] ** 2, sen2)
    assert "sen1 looks permuted or scaled" in line


@pytest.mark.slow
def test_one_class_is_neither_permuted_nor_scaled(tmp_path):
    """Water and vegetation have spectra of their own: nothing is said of what only content explains."""
    for k in (10, 16):
        assert said(tmp_path / "x.h5", *simulate.patches(np.full(60, k), seed=3)) == ()


def test_a_real_patch_is_as_it_should_be_and_its_coarse_bands_tell_an_order(tmp_path, capsys):
    assert command_line.main(["inspect", str(REAL), "--compare"]) == 0
    out = capsys.readouterr().out
    lines = {line[2:10].strip(): line[10:].split() for line in out.splitlines()}
    assert lines["channel"][3:8] == ["99", "%", "mean", "published", "std"]
    for name, mean, std in (
        ("VH int", "0.0442", "2.856"),
        ("VV int", "0.25761", "8.3248"),
        ("B8A", "0.19502", "0.10165"),
    ):
        assert (lines[name][4], lines[name][6]) == (mean, std)
    assert "no problem found" in out
    with h5py.File(REAL) as file:
        sen1, sen2 = file["sen1"][:], file["sen2"][:]
    (line,) = said(tmp_path / "x.h5", sen1, sen2[..., [0, 1, 2, 6, 3, 4, 5, 7, 8, 9]])
    assert "are at the places of B6, B7, B8, B8A, B11, B12; expected B5, B6, B7, B8A, B11, B12" in line


@pytest.mark.slow
def test_quantiles_are_of_the_values(simulated, tmp_path):
    sen1, sen2 = simulated
    sums = comparison.Sums()
    x = np.concatenate([sen1, sen2], axis=-1)[:, :16, :16]
    sums.add(x)
    found = comparison.compare(sums, x.mean((0, 1, 2)), x.std((0, 1, 2)))
    assert np.array_equal(found.quantiles[1], np.median(x[:, ::8, ::8].reshape(-1, 18), axis=0))

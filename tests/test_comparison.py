"""comparison.py: what `inspect --compare` says of simulated data, of a real patch, and of the two spoilt."""

import h5py
import numpy as np
import pytest
from so2sat_files import REAL

from bplcz_ref import __main__ as command_line
from bplcz_ref.data import comparison, inspection, simulate

TENS_FIRST = [0, 1, 2, 6, 3, 4, 5, 7, 8, 9]  # B2 B3 B4 B8, then the 20 m bands


@pytest.fixture
def said(tmp_path):
    def problems(sen1, sen2):
        with h5py.File(tmp_path / "x.h5", "w") as file:
            file["sen1"], file["sen2"] = sen1, sen2
        return inspection.inspect(tmp_path / "x.h5", compare=True).problems

    return problems


@pytest.mark.slow
def test_what_is_permuted_or_scaled_is_said(said):
    sen1, sen2 = simulate.patches(np.tile(np.arange(17), 6), seed=3)
    assert said(sen1, sen2) == ()
    order = "sen2 looks permuted: B8 at the place of B5, B5 at the place of B6, B6 at the place of B7"
    for radar, optical, words in (
        (sen1, sen2[..., TENS_FIRST], order),
        (sen1, sen2[..., [2, 1, 0, *range(3, 10)]], "B4 at the place of B2, B2 at the place of B4; the order"),
        (sen1, 5 * sen2, "sen2 looks scaled"),
        (sen1, sen2[..., [*range(7), 8, 9, 7]], "what is at the place of B12 follows B7 as B8A does"),
        (sen1, sen2[..., [*range(7), 8, 7, 9]], "what is at the place of B11 follows B7 as B8A does"),
        (sen1, sen2 / 10, "sen2 looks scaled: its means are 0.11 times"),
        (sen1, sen2 + 0.1, "sen2 looks shifted: the darkest 1 % of its darkest band reach 0.108"),
        (sen1, sen2 - 0.1, "sen2 looks shifted: the darkest 1 % of its darkest band reach -0.0919"),
        (sen1[..., [2, 3, 0, 1, 5, 4, 6, 7]], sen2, "(complex values and filtered intensities)"),
        (sen1[..., [0, 2, 1, 3, 4, 5, 6, 7]], sen2, "sen1 looks permuted or scaled"),
    ):
        *_, line = said(radar, optical)
        assert words in line
    sums, x = comparison.Sums(), np.concatenate([sen1, sen2], axis=-1)
    sums.add(x)
    assert np.array_equal(sums.quantiles()["median"], np.median(x[:, ::8, ::8].reshape(-1, 18), axis=0))


@pytest.mark.slow
def test_one_class_is_neither_permuted_nor_scaled(said):
    """Water and vegetation have spectra of their own: nothing is said of what only content explains."""
    for k in (10, 16):
        sen1, sen2 = simulate.patches(np.full(60, k), seed=3)
        assert said(sen1, sen2) == ()
        assert "sen2 looks shifted" in str(said(sen1, sen2 + 0.1))


def test_a_real_patch_is_as_it_should_be_and_its_coarse_bands_tell_an_order(said, capsys):
    assert command_line.main(["inspect", str(REAL), "--compare"]) == 0
    out = capsys.readouterr().out
    lines = {line[2:10].strip(): line[10:].split() for line in out.splitlines()}
    assert lines["channel"][3:8] == ["99", "%", "mean", "published", "std"]
    assert (lines["VV int"][4], lines["VV int"][6]) == ("0.25761", "8.3248")
    assert (lines["B8A"][4], lines["B8A"][6]) == ("0.19502", "0.10165")
    assert "no problem found" in out
    with h5py.File(REAL) as file:
        (line,) = said(file["sen1"][:], file["sen2"][:][..., TENS_FIRST])
    assert "are at the places of B6, B7, B8, B8A, B11, B12; expected B5, B6, B7, B8A, B11, B12" in line

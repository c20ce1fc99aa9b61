"""II-A, band grouping: the patches of two sensors -> the seven band groups X_i of the paper, in its order.

This is the one place where the paper's 1-based band numbers become 0-based positions. Networks take one array
x (B, H, W, 18): sen1's 8 channels, then sen2's 10 (`join`, `separate`, `not_raw`). Values are only selected
and copied: no band is rescaled, reordered or filled in.

Index letters: ... any leading axes (B, H, W in this project), C channels, C_i channels of group i.
"""

import autograd.numpy as np
import numpy
from autograd.tracer import getval

from bplcz_ref.paper import CHANNELS, GROUPS

# Short names of the 18 channels of x, in order. 'C' is the filtered covariance S_VH conj(S_VV).
SEN1_BANDS = ("VH re", "VH im", "VV re", "VV im", "VH int", "VV int", "C re", "C im")
SEN2_BANDS = ("B2", "B3", "B4", "B5", "B6", "B7", "B8", "B8A", "B11", "B12")
BANDS = SEN1_BANDS + SEN2_BANDS

# group -> 0-based positions within its sensor. "RGB" keeps the file's order blue, green, red (B2, B3, B4):
# the other reading, red first, would only permute the group's channels.
INDEX = {name: [band - 1 for band in group["bands"]] for name, group in GROUPS.items()}


def grouped(sen1: np.ndarray, sen2: np.ndarray) -> dict:  # (..., 8), (..., 10) -> {group: (..., C_i)}
    """II-A: {X_i}, i = 1..7, as a dict in the paper's order RGB, VRE, NIR, SWIR, VH, VV, PolSAR.

    X_i = the channels `paper.GROUPS[i]["bands"]` (1-based) of the group's sensor; every band is used once.
    Shapes: any leading axes, the same for both; channels last. dtype: kept. autograd boxes pass through.
    Errors: ValueError for a wrong number of channels or for leading axes that differ.
    Source: II-A and II-B1 of the paper.

    >>> sen1 = np.arange(1, 9) * np.ones((2, 32, 32, 1))     # every band filled with its 1-based number
    >>> sen2 = np.arange(1, 11) * np.ones((2, 32, 32, 1))
    >>> {name: X_i[0, 0, 0].astype(int).tolist() for name, X_i in grouped(sen1, sen2).items()}
    {'RGB': [1, 2, 3], 'VRE': [4, 5, 6, 8], 'NIR': [7], 'SWIR': [9, 10],
     'VH': [1, 2, 5], 'VV': [3, 4, 6], 'PolSAR': [7, 8]}
    """
    _check(sen1, sen2)
    sensors = {"sen1": sen1, "sen2": sen2}
    return {name: sensors[group["sensor"]][..., INDEX[name]] for name, group in GROUPS.items()}


def join(sen1: np.ndarray, sen2: np.ndarray) -> np.ndarray:  # (..., 8), (..., 10) -> (..., 18)
    """x, the form that networks take: sen1's 8 channels, then sen2's 10, named in `BANDS`. dtype: kept.

    Errors: ValueError as for `grouped`, and for two different dtypes.

    >>> join(np.zeros((2, 32, 32, 8)), np.zeros((2, 32, 32, 10))).shape
    (2, 32, 32, 18)
    """
    _check(sen1, sen2)
    if sen1.dtype != sen2.dtype:
        raise ValueError(f"sen1 is {sen1.dtype} and sen2 is {sen2.dtype}: cast both to one dtype first")
    return np.concatenate((sen1, sen2), axis=-1)


def separate(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:  # (..., 18) -> (..., 8), (..., 10)
    """sen1, sen2 of x, as views: the inverse of `join`. The groups of x are `grouped(*separate(x))`.

    Errors: ValueError if the last axis of x is not 18.

    >>> sen1, sen2 = separate(np.arange(18.0))
    >>> sen2[0], list(grouped(sen1, sen2)["VH"])
    (np.float64(8.0), [np.float64(0.0), np.float64(1.0), np.float64(4.0)])
    """
    _last_axis("x", x, len(BANDS), ", sen1's 8 then sen2's 10")
    return x[..., : CHANNELS["sen1"]], x[..., CHANNELS["sen1"] :]


def not_raw(x: np.ndarray) -> np.ndarray:  # (B, H, W, 18) -> (B, H, W, 18)
    """x as it is. Errors: ValueError for one patch alone, and for values in the raw scale of the files.

    sen2's reflectances are digital numbers divided by 10,000: positive, each a multiple of 1e-4. A standardised
    patch never is, and a network would answer one class for every raw patch. The first patch of a batch tells.
    """
    shape = np.shape(getval(x))
    if len(shape) == 3:
        raise ValueError(f"x: found shape {shape}, expected (B, H, W, 18); for one patch give x[None]")
    numbers = 1e4 * np.asarray(getval(x)[:1, ..., CHANNELS["sen1"] :], np.float64)
    digital = np.abs(numbers - np.rint(numbers)) < 0.02  # as far as float32 may round one
    if np.all(digital & (numbers > 0)) and len(np.unique(numbers)) > 32:  # constant test images have fewer
        raise ValueError(
            "x: sen2 holds reflectances as they are in the files (multiples of 1/10000); expected standardised "
            "channels: data.standardise.standardise(x, statistics), with the statistics of the training part"
        )
    return x


def _check(sen1, sen2):
    """ValueError unless both are arrays of their channels with the same leading axes."""
    given = {"sen1": sen1, "sen2": sen2}
    for name, a in given.items():
        if not hasattr(a, "shape"):
            raise ValueError(f"{name} is a {type(a).__name__}; expected an array, channels last")
    if [a.shape[-1:] for a in given.values()] == [(CHANNELS["sen2"],), (CHANNELS["sen1"],)]:
        raise ValueError(
            "sen1 has 10 channels and sen2 has 8: the two sensors are swapped; call with (sen1, sen2)"
        )
    for name, a in given.items():
        _last_axis(name, a, CHANNELS[name])
    if sen1.shape[:-1] != sen2.shape[:-1]:
        raise ValueError(
            f"sen1 has shape {sen1.shape} and sen2 {sen2.shape}: they must agree on every axis except the last"
        )


def _last_axis(name, a, channels, names=""):
    """ValueError unless the last axis holds the channels, and nothing is masked."""
    if isinstance(a, numpy.ma.MaskedArray):
        raise ValueError(f"{name}: found a masked array, expected a plain one; leave masked samples out first")
    if a.shape[-1:] != (channels,):
        first = "; this looks like channels first: move axis -3 to the end" * (a.shape[-3:-2] == (channels,))
        raise ValueError(f"{name} has shape {a.shape}; its last axis must hold {channels} channels{names}{first}")

"""So2Sat-like patches from a physical model of scene, sun, sensors and speckle. Never the real data.

A scene (scene.py) is averaged from 3.3 m to 10 m and cut to 32 x 32. sen2: reflectance spectra of materials under
a city's sun and haze, 20 m bands as copies on the 10 m grid, 4 decimals. sen1: circular Gaussian speckle with each
pixel's covariance of (VH, VV), strong point scatterers, and the intensities and covariance of a Lee filter run on
those very values. It is not a data set: classes differ by numbers that were chosen by hand, so a score on it says
that code learns, and nothing about a real city.

Index letters: b patches, H W = 32; fine arrays are (120, 120), 10 m arrays (40, 40) until they are cut.
"""

import shutil
from pathlib import Path

import numpy as np
from scipy.ndimage import uniform_filter

from bplcz_ref.data import layout, so2sat
from bplcz_ref.data.scene import FINE, GRID, MATERIALS, NAMES, ZONES, City, Scene, Zone, city, paint
from bplcz_ref.data.streams import stream
from bplcz_ref.paper import CHANNELS, CLASSES, PATCH, SEED
from bplcz_ref.storage import schema

VERSION = "1"
CITIES = 42  # as many as training.h5 has
# Rows of training.h5 by class (So2Sat LCZ42, second version).
NATURAL = np.array(
    [5068, 24431, 31693, 8651, 16493, 35290, 3269, 39326, 13584, 11954]
    + [42902, 9514, 9165, 41377, 2392, 7898, 49359]
)

ROW_BYTES = 8 * (PATCH * PATCH * sum(CHANNELS.values()) + len(CLASSES))  # float64: sen1, sen2, label
CUT = slice((GRID - PATCH) // 2, (GRID + PATCH) // 2)  # what is kept of GRID pixels
LEE_WINDOW, LOOKS = 7, 1  # pixels; single-look complex data
AZIMUTH = 0.18  # share of a neighbour in azimuth (rows): correlation .34 and .03 at lags 1 and 2, as measured

SPECTRA = np.array([m[0] for m in MATERIALS.values()])
SIGMA = 10 ** (np.array([m[1:] for m in MATERIALS.values()]) / 10)  # linear (VH, VV)
DRY = np.array([1.4, 1.3, 1.9, 1.5, 0.9, 0.85, 0.85, 0.85, 1.35, 1.6])  # dry vegetation's spectrum over green's
# Haze over a dark surface, and transmission down and up: top-of-atmosphere reflectance, as in So2Sat.
PATH = np.array([0.085, 0.056, 0.037, 0.032, 0.027, 0.023, 0.020, 0.017, 0.006, 0.003])
TRANSMISSION = np.array([0.75, 0.80, 0.85, 0.87, 0.89, 0.91, 0.90, 0.93, 0.95, 0.95])
COARSE = [3, 4, 5, 7, 8, 9]  # B5 B6 B7 B8A B11 B12: 20 m bands


def classes(per_class: int, rows: int, seed: int) -> np.ndarray:  # -> (17 per_class + rows,)
    """Class numbers: `per_class` of each, in a random order, then `rows` with the frequencies of training.h5.

    Stream "simulate order" of `seed`, for each of the two.

    >>> y = classes(2, 1000, seed=47)
    >>> np.bincount(y[:34]).tolist() == [2] * 17, y.shape
    (True, (1034,))
    """
    balanced = stream(seed, "simulate order").permutation(np.repeat(np.arange(len(CLASSES)), per_class))
    natural = stream(seed, "simulate order").choice(len(CLASSES), rows, p=NATURAL / NATURAL.sum())
    return np.concatenate((balanced, natural))


def write_file(path: str | Path, per_class: int = 0, rows: int = 0, seed: int = SEED) -> None:
    """A file of simulated patches in So2Sat's layout (float64), marked as simulated; whole or not at all.

    `per_class` rows of each class, then `rows` more with the class frequencies of training.h5. The same arguments
    give the same values. Attributes: `simulated` True, `generator`, `seed`. Errors: ValueError for neither of the
    two, a number that is not whole, or more rows than the disk has room for.
    """
    schema.check(per_class, schema.whole(0), "per_class")
    schema.check(rows, schema.whole(0), "rows")
    if not per_class and not rows:
        raise ValueError("per_class and rows are both 0: give one of them, or both")
    N = len(CLASSES) * per_class + rows
    place = next(place for place in Path(path).absolute().parents if place.exists())
    room = shutil.disk_usage(place).free // ROW_BYTES
    if N > room:  # said before hours of work, not after
        raise ValueError(f"{path}: {N:,} rows of {ROW_BYTES:,} bytes; {place} has room for {room:,} rows")
    y = classes(per_class, rows, seed)
    batches = ((*patches(y[some], seed, some[0]), y[some]) for some in so2sat.chunks(np.arange(N), so2sat.CHUNK))
    attributes = {"simulated": True, "generator": f"bplcz_ref.simulate {VERSION}", "seed": seed}
    so2sat.write_file(path, N, batches, attributes)


def patches(y: np.ndarray, seed: int, first: int = 0) -> tuple[np.ndarray, np.ndarray]:
    # (b,) -> (b, 32, 32, 8), (b, 32, 32, 10)
    """sen1, sen2, float64: row i shows class y[i] and depends on (seed, first + i, y[i]) alone.

    So any chunking gives the same values, bit for bit: rows 100 to 109 are `patches(y[100:110], seed, first=100)`.
    Errors: ValueError for y outside 0..16.

    >>> y = np.array([0, 16])
    >>> sen1, sen2 = patches(y, seed=47)
    >>> sen1.shape, sen2.shape, bool((patches(y[1:], seed=47, first=1)[1] == sen2[1:]).all())
    ((2, 32, 32, 8), (2, 32, 32, 10), True)
    """
    y = layout.check_classes("y", y)
    sen1 = np.empty((len(y), PATCH, PATCH, CHANNELS["sen1"]))
    sen2 = np.empty((len(y), PATCH, PATCH, CHANNELS["sen2"]))
    cities = [city(stream(seed, "simulate city", c)) for c in range(CITIES)]
    for i, k in enumerate(y):
        rng = stream(seed, "simulate patch", first + i)
        here = cities[rng.integers(CITIES)]
        scene = paint(ZONES[k], here, rng)
        sen1[i] = radar(scene, ZONES[k], here, rng)
        sen2[i] = optical(scene, here, rng)
    return sen1, sen2


def optical(scene: Scene, city: City, rng: np.random.Generator) -> np.ndarray:  # -> (32, 32, 10)
    """sen2: mean reflectance over each pixel, under the city's light and haze; 20 m bands as copies."""
    spectra = SPECTRA * np.exp(0.18 * rng.standard_normal((len(SPECTRA), 1)))
    for name in ("grass", "crown", "scrub"):
        spectra[NAMES.index(name)] *= 1 + np.clip(city.dry + 0.2 * rng.standard_normal(), 0, 1) * (DRY - 1)
    spectra[[NAMES.index(name) for name in ("soil", "sand", "rock")]] *= city.soil
    spectra[NAMES.index("water")] *= np.exp(0.5 * rng.standard_normal())
    ground = _cover(scene.material, scene.light) @ spectra
    ground *= np.exp(0.03 * rng.standard_normal((GRID, GRID, 1)))
    toa = city.haze * PATH + TRANSMISSION * city.light * ground + 0.0015 * rng.standard_normal((GRID, GRID, 10))
    rows, columns = (slice(start, start + GRID - 2) for start in city.corner)
    blocks = toa[rows, columns, COARSE].reshape(GRID // 2 - 1, 2, GRID // 2 - 1, 2, len(COARSE))
    toa[rows, columns, COARSE] = blocks.mean((1, 3)).repeat(2, 0).repeat(2, 1)
    return np.round(np.maximum(toa[CUT, CUT], 1e-4), 4)  # digital numbers / 10000


def radar(scene: Scene, zone: Zone, city: City, rng: np.random.Generator) -> np.ndarray:  # -> (32, 32, 8)
    """sen1: S_VH, S_VV with the pixel's covariance, then Lee-filtered |S_VH|^2, |S_VV|^2 and S_VH conj(S_VV).

    The covariance term is VH times conjugate VV. (Other reading: its conjugate, which turns the sign of 'C im';
    the real sample in tests/data agrees with this one.)
    """
    walls = scene.wall.reshape(GRID, FINE, GRID, FINE).mean((1, 3))
    bounce = walls[..., None] * np.exp(0.6 * rng.standard_normal()) * np.array([0.02, 0.25])
    sigma = _cover(scene.material) @ (SIGMA * np.exp(0.30 * rng.standard_normal((len(SIGMA), 1)))) + bounce
    sigma *= 10 ** ((city.db + 1.5 * rng.standard_normal()) / 10)
    # Correlation of VH and VV: near none over natural surfaces, more where walls are at an angle to the look.
    rho = (0.05 + 0.25 * (zone.size > 0) * rng.random()) * np.exp(2j * np.pi * rng.random())
    white = rng.standard_normal((2, 2, GRID, GRID))
    a, b = (white[:, 0] + 1j * white[:, 1]) / np.sqrt(2)
    s = np.stack((rho * a + np.sqrt(1 - abs(rho) ** 2) * b, a), -1)
    s = _azimuth(s) / np.sqrt(1 + 2 * AZIMUTH**2) * np.sqrt(sigma)
    vh, vv = np.moveaxis(s + _azimuth(_points(zone, rng)), -1, 0)
    return np.stack((vh.real, vh.imag, vv.real, vv.imag, *lee(vh, vv)), -1)[CUT, CUT]


def lee(vh: np.ndarray, vv: np.ndarray) -> np.ndarray:  # (H, W), (H, W) complex -> (4, H, W)
    """Lee-filtered |VH|^2, |VV|^2, Re and Im of VH conj(VV), all with one weight from the total intensity.

    mean + w (value - mean), w = (1 - C_u^2 / C_I^2) / (1 + C_u^2) in [0, 1]: C_I the coefficient of variation in
    the window, C_u^2 = 1 / LOOKS that of speckle. One weight for all four keeps the covariance non-negative.
    Source: J.-S. Lee, IEEE Trans. PAMI 2(2), 1980; Lee, Grunes, de Grandi, IEEE Trans. GRS 37(5), 1999.
    """
    cross = vh * vv.conj()
    values = np.stack((abs(vh) ** 2, abs(vv) ** 2, cross.real, cross.imag))
    total = values[:1] + values[1:2]
    window = (0, LEE_WINDOW, LEE_WINDOW)
    means = uniform_filter(np.concatenate((values, total, total**2)), window, mode="reflect")
    mean, first, square = means[:4], means[4], means[5]
    variation = np.maximum(square / first**2 - 1, 1e-12)
    weight = np.clip((1 - 1 / (LOOKS * variation)) / (1 + 1 / LOOKS), 0, 1)
    return mean + weight * (values - mean)


# Of each fine point, the number of its 10 m pixel times the number of materials.
_PIXEL_OF = np.arange(GRID * GRID).reshape(GRID, GRID).repeat(FINE, 0).repeat(FINE, 1) * len(NAMES)


def _cover(material, light=None):  # (120, 120) -> (40, 40, 11)
    """Share of each pixel that each material covers, weighted with its brightness."""
    place = (_PIXEL_OF + material).ravel()
    cover = np.bincount(place, None if light is None else light.ravel(), GRID * GRID * len(NAMES))
    return cover.reshape(GRID, GRID, len(NAMES)) / FINE**2


def _azimuth(s):
    out = s.copy()
    out[1:] += AZIMUTH * s[:-1]
    out[:-1] += AZIMUTH * s[1:]
    return out


def _points(zone, rng):
    """Corner reflectors of built zones: Pareto intensities (exponent 1.2, 3 to 10,000), a random phase each."""
    out = np.zeros((GRID, GRID, 2), complex)
    n = rng.poisson(zone.points * rng.exponential() * (GRID / PATCH) ** 2)
    place = tuple(rng.integers(GRID, size=(2, n)))
    vv = np.minimum(3 * rng.random(n) ** (-1 / 1.2), 1e4)
    vh = vv * 10 ** (-rng.uniform(3, 15, n) / 10)
    out[place] = np.sqrt(np.stack((vh, vv), -1)) * np.exp(2j * np.pi * rng.random((n, 2)))
    return out

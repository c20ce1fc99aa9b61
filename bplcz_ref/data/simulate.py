"""So2Sat-like patches from a physical model of scene, sun, sensors and speckle. Never the real data.

A scene of 400 m x 400 m is painted at 3.3 m (ground, parcels, roads, crowns, buildings, shadows), averaged to 10 m
and cut to 32 x 32. sen2: reflectance spectra of materials under a city's sun and haze, 20 m bands as copies on the
10 m grid, 4 decimals. sen1: circular Gaussian speckle with each pixel's covariance of (VH, VV), strong point
scatterers, and the intensities and covariance of a Lee filter run on those very values.
Refuses to be a data set: classes differ by the ten built and seven natural types' size, spacing, height, cover and
material as given below, chosen by hand; a score on it says that code learns, not how well it does on a real city.

Index letters: b patches, H W = 32; fine arrays are (120, 120), 10 m arrays (40, 40) until they are cut.
"""

import shutil
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.ndimage import uniform_filter

from bplcz_ref.data import so2sat
from bplcz_ref.paper import CHANNELS, CLASSES, PATCH, SEED
from bplcz_ref.streams import stream

VERSION = "1"
CITIES = 42  # as many as training.h5 has
# Rows of training.h5 by class (So2Sat LCZ42, second version).
NATURAL = np.array(
    [5068, 24431, 31693, 8651, 16493, 35290, 3269, 39326, 13584, 11954]
    + [42902, 9514, 9165, 41377, 2392, 7898, 49359]
)
# Mean and std of training.h5 by channel (torchgeo's So2Sat page), to compare with. sen1's std hangs on few pixels.
REAL_MEAN = np.array(
    [-3.59e-5, -7.66e-6, 5.94e-5, 2.52e-5, 0.04420, 0.25761, 7.56e-4, 1.35e-3]
    + [0.12376, 0.10928, 0.10109, 0.11424, 0.15927, 0.18147, 0.17457, 0.19502, 0.15428, 0.10905]
)
REAL_STD = np.array(
    [0.17555, 0.17556, 0.45999, 0.45599, 2.85599, 8.32480, 2.44988, 1.46474]
    + [0.03959, 0.04778, 0.06637, 0.06359, 0.07744, 0.09102, 0.09218, 0.10165, 0.09992, 0.08781]
)

ROW_BYTES = 8 * (PATCH * PATCH * sum(CHANNELS.values()) + len(CLASSES))  # float64: sen1, sen2, label
PIXEL, FINE, GRID, MARGIN = 10.0, 3, 40, 4  # m; fine pixels a pixel; pixels painted; pixels cut away at each side
LEE_WINDOW, LOOKS = 7, 1  # pixels; single-look complex data
AZIMUTH = 0.18  # share of a neighbour in azimuth (rows): correlation .34 and .03 at lags 1 and 2, as measured

# Surface reflectance at B2 B3 B4 B5 B6 B7 B8 B8A B11 B12, and backscatter (VH, VV) in dB.
MATERIALS = {
    "paved": ([0.08, 0.09, 0.10, 0.11, 0.12, 0.12, 0.13, 0.13, 0.15, 0.14], -20, -12.5),
    "concrete": ([0.14, 0.16, 0.18, 0.19, 0.20, 0.21, 0.21, 0.22, 0.24, 0.22], -16, -6.5),
    "tile": ([0.06, 0.09, 0.17, 0.19, 0.20, 0.21, 0.22, 0.23, 0.28, 0.25], -16, -6.5),
    "metal": ([0.25, 0.27, 0.28, 0.29, 0.30, 0.31, 0.31, 0.32, 0.33, 0.29], -16, -5.5),
    "grass": ([0.04, 0.07, 0.06, 0.11, 0.23, 0.28, 0.29, 0.30, 0.22, 0.13], -18, -11.5),
    "crown": ([0.02, 0.04, 0.03, 0.07, 0.19, 0.24, 0.25, 0.26, 0.14, 0.07], -13, -8),
    "scrub": ([0.05, 0.07, 0.08, 0.12, 0.18, 0.21, 0.22, 0.23, 0.23, 0.16], -15.5, -10),
    "soil": ([0.07, 0.10, 0.13, 0.15, 0.17, 0.19, 0.20, 0.21, 0.27, 0.24], -19, -12),
    "sand": ([0.15, 0.19, 0.24, 0.27, 0.29, 0.31, 0.32, 0.33, 0.38, 0.35], -21, -14),
    "rock": ([0.12, 0.14, 0.16, 0.17, 0.18, 0.19, 0.19, 0.20, 0.22, 0.20], -17.5, -10),
    "water": ([0.04, 0.04, 0.03, 0.025, 0.022, 0.022, 0.020, 0.020, 0.012, 0.009], -24, -20.5),
}
NAMES = list(MATERIALS)
SPECTRA = np.array([m[0] for m in MATERIALS.values()])
SIGMA = 10 ** (np.array([m[1:] for m in MATERIALS.values()]) / 10)  # linear (VH, VV)
DRY = np.array([1.4, 1.3, 1.9, 1.5, 0.9, 0.85, 0.85, 0.85, 1.35, 1.6])  # dry vegetation's spectrum over green's
# Haze over a dark surface, and transmission down and up: top-of-atmosphere reflectance, as in So2Sat.
PATH = np.array([0.085, 0.056, 0.037, 0.032, 0.027, 0.023, 0.020, 0.017, 0.006, 0.003])
TRANSMISSION = np.array([0.75, 0.80, 0.85, 0.87, 0.89, 0.91, 0.90, 0.93, 0.95, 0.95])
COARSE = [3, 4, 5, 7, 8, 9]  # B5 B6 B7 B8A B11 B12: 20 m bands


# Of each fine pixel, the number of its 10 m pixel times the number of materials.
_PIXEL_OF = np.arange(GRID * GRID).reshape(GRID, GRID).repeat(FINE, 0).repeat(FINE, 1) * len(NAMES)


class Zone(NamedTuple):
    """What makes a class: lengths in m, the rest shares of 1. Each patch draws its own values around these."""

    spacing: float = 50.0  # of buildings
    size: float = 0.0  # footprint's side as a share of the spacing; 0: no buildings
    built: float = 0.0  # share of lots with a building
    height: float = 0.0
    irregular: float = 0.2  # spread of the buildings' sizes
    ground: tuple = ("grass", "grass")  # materials of the parcels
    second: float = 0.5  # share of parcels of the second material
    parcel: float = 60.0
    trees: float = 0.0  # share of cells with a crown (or bush)
    crown: float = 12.0  # a crown's cell
    plant: str = "crown"
    points: float = 0.0  # strong scatterers a patch


ZONES = (
    Zone(48, 0.68, 0.92, 50, 0.20, ("paved", "concrete"), 0.40, 40, 0.10, points=6),
    Zone(38, 0.74, 0.94, 19, 0.15, ("paved", "concrete"), 0.40, 40, 0.10, points=4),
    Zone(19, 0.76, 0.92, 7, 0.20, ("paved", "soil"), 0.30, 40, 0.12, points=3),
    Zone(72, 0.44, 0.88, 45, 0.20, ("grass", "paved"), 0.50, 30, 0.35, points=5),
    Zone(50, 0.48, 0.90, 17, 0.20, ("grass", "paved"), 0.50, 30, 0.35, points=3.5),
    Zone(27, 0.52, 0.88, 6, 0.25, ("grass", "paved"), 0.45, 30, 0.40, points=2),
    Zone(13, 0.80, 0.92, 4, 0.25, ("soil", "paved"), 0.35, 40, 0.08, points=3),
    Zone(105, 0.72, 0.90, 9, 0.20, ("paved", "concrete"), 0.40, 60, 0.06, points=6),
    Zone(70, 0.24, 0.65, 6, 0.30, ("grass", "soil"), 0.30, 90, 0.35, points=1),
    Zone(60, 0.66, 0.72, 14, 0.60, ("paved", "soil"), 0.40, 50, 0.06, points=10),
    Zone(ground=("grass", "scrub"), parcel=90, trees=0.92, crown=10),
    Zone(ground=("grass", "scrub"), parcel=90, trees=0.40, crown=15, second=0.3),
    Zone(ground=("grass", "soil"), parcel=60, trees=0.55, crown=8, plant="scrub"),
    Zone(ground=("grass", "soil"), parcel=110, trees=0.04, crown=14, second=0.25),
    Zone(ground=("rock", "paved"), parcel=60, trees=0.05, crown=9, plant="scrub"),
    Zone(ground=("soil", "sand"), parcel=100, trees=0.05, crown=9, plant="scrub", second=0.4),
    Zone(ground=("water", "water"), parcel=200),
)


class City(NamedTuple):
    """What the patches of a city share: its sun, haze, season, soils, orbit, and place on the 20 m grid."""

    sun: tuple  # (east, south) m of shadow per m of height
    light: float  # illumination relative to nominal
    haze: float
    dry: float  # 0 green to 1 dry vegetation
    soil: float  # brightness of bare ground
    look: int  # +1 or -1: the radar looks east or west
    db: float  # offset of backscatter
    corner: tuple  # (row, column) of the first whole 20 m pixel, 0 or 1


def balanced(per_class, seed):  # -> (17 per_class,)
    """Class numbers with `per_class` of each class, in a random order (stream "simulate order" of `seed`).

    >>> np.bincount(balanced(2, seed=47)).tolist() == [2] * 17
    True
    """
    if isinstance(per_class, bool) or not isinstance(per_class, int | np.integer) or per_class < 1:
        raise ValueError(f"per_class is {per_class!r}; expected a whole number, 1 or more")
    return stream(seed, "simulate order").permutation(np.repeat(np.arange(len(CLASSES)), per_class))


def natural(rows, seed):  # -> (rows,)
    """Class numbers drawn with the frequencies of training.h5 (stream "simulate order" of `seed`).

    >>> natural(1000, seed=47).shape
    (1000,)
    """
    if isinstance(rows, bool) or not isinstance(rows, int | np.integer) or rows < 1:
        raise ValueError(f"rows is {rows!r}; expected a whole number, 1 or more")
    return stream(seed, "simulate order").choice(len(CLASSES), rows, p=NATURAL / NATURAL.sum())


def patches(y, seed, first=0):  # (b,) -> (b, 32, 32, 8), (b, 32, 32, 10)
    """sen1, sen2, float64: row i shows class y[i] and depends on (seed, first + i, y[i]) alone.

    So any chunking gives the same values, bit for bit: rows 100 to 109 are `patches(y[100:110], seed, first=100)`.
    Errors: ValueError for y outside 0..16.

    >>> y = np.array([0, 16])
    >>> sen1, sen2 = patches(y, seed=47)
    >>> sen1.shape, sen2.shape, bool((patches(y[1:], seed=47, first=1)[1] == sen2[1:]).all())
    ((2, 32, 32, 8), (2, 32, 32, 10), True)
    """
    y = np.asarray(y)
    if y.ndim != 1 or y.dtype.kind not in "iu" or (y.size and (y.min() < 0 or y.max() >= len(CLASSES))):
        raise ValueError(f"y ({y.dtype}, {y.shape}) must be (b,) class numbers 0..{len(CLASSES) - 1}")
    sen1 = np.empty((len(y), PATCH, PATCH, CHANNELS["sen1"]))
    sen2 = np.empty((len(y), PATCH, PATCH, CHANNELS["sen2"]))
    cities = [_city(stream(seed, "simulate city", c)) for c in range(CITIES)]
    for i, k in enumerate(y):
        rng = stream(seed, "simulate patch", first + i)
        city = cities[rng.integers(CITIES)]
        material, light, wall = paint(ZONES[k], city, rng)
        sen1[i] = radar(material, wall, ZONES[k], city, rng)
        sen2[i] = optical(material, light, city, rng)
    return sen1, sen2


def write_file(path, per_class=0, rows=0, seed=SEED):
    """A file of simulated patches in So2Sat's native layout (float64, contiguous), marked as simulated.

    `per_class` rows of each class, then `rows` more with the class frequencies of training.h5. Attributes:
    `simulated` True, `generator`, `seed`. Written in pieces of `so2sat.CHUNK` rows, whole or not at all; the same
    arguments give the same values.
    Errors: ValueError for neither of the two, a number that is not whole, or more rows than the disk has room for.
    """
    for name, value in (("per_class", per_class), ("rows", rows)):
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 0:
            raise ValueError(f"{name} is {value!r}; expected a whole number, 0 or more")
    if not per_class and not rows:
        raise ValueError("per_class and rows are both 0: give one of them, or both")
    check_room(path, len(CLASSES) * int(per_class) + int(rows))
    y = np.concatenate([draw(n, seed) for n, draw in ((per_class, balanced), (rows, natural)) if n])
    attributes = {"simulated": True, "generator": f"bplcz_ref.simulate {VERSION}", "seed": seed}
    pieces = ((i, y[i : i + so2sat.CHUNK]) for i in range(0, len(y), so2sat.CHUNK))
    so2sat.write_file(path, len(y), ((*patches(piece, seed, i), piece) for i, piece in pieces), attributes)


def check_room(path, rows):
    """ValueError if `rows` rows are more than the disk of `path` has room for: before hours of work, not after."""
    place = next(place for place in Path(path).absolute().parents if place.exists())
    need, free = rows * ROW_BYTES, shutil.disk_usage(place).free
    if need > free:
        raise ValueError(
            f"{path}: {rows:,} rows of {ROW_BYTES:,} bytes need {-(-need // 10**6):,} MB;"
            f" {place} has {free // 10**6:,} MB free, room for {free // ROW_BYTES:,} rows"
        )


def compare(sen1, sen2):  # (b, 32, 32, 8), (b, 32, 32, 10) -> (4, 18)
    """Rows: mean simulated, mean of training.h5, std simulated, std of training.h5; columns as `bands.BANDS`.

    Meaningful for y drawn by `natural`, as training.h5 is not balanced. Known to deviate: sen1's filtered channels
    spread less than the real ones, whose deviation hangs on few pixels; short wave bands are a little brighter.
    """
    x = np.concatenate((sen1, sen2), axis=-1).reshape(-1, len(REAL_MEAN))
    return np.stack((x.mean(0), REAL_MEAN, x.std(0), REAL_STD))


def paint(zone, city, rng):  # -> (120, 120) material, light, wall
    """The scene at 3.3 m: material numbers, brightness (shadow and texture), and walls that face the radar.

    Painted in order: parcels, plants, streets, buildings, shadows, and in half of the patches another surface that
    comes in from one side. Every length, share and height is drawn anew around the zone's.
    """

    def around(value, spread):
        return value * np.exp(spread * rng.standard_normal())

    side = GRID * FINE
    axis = ((np.arange(side) + 0.5) * (PIXEL / FINE)).astype(np.float32)
    turn = rng.uniform(0, np.pi / 2)
    east, south = np.meshgrid(axis, axis)
    cos, sin = np.float32(np.cos(turn)), np.float32(np.sin(turn))
    u, v = cos * east + sin * south, cos * south - sin * east

    parcel = around(zone.parcel, 0.25)
    cell, _, _ = _cells(u, v, parcel, parcel * rng.uniform(1, 2), rng)
    second = np.clip(zone.second + 0.35 * rng.standard_normal(), 0, 1)
    first, other = (NAMES.index(name) for name in zone.ground)
    material = np.where(rng.random(1024) < second, other, first)[cell]
    light = np.exp(0.10 * rng.standard_normal(1024))[cell]

    trees = np.clip(zone.trees * np.exp(0.5 * rng.standard_normal()), 0, 1)
    crown = around(zone.crown, 0.3)
    cell, p, q = _cells(u, v, crown, crown, rng)
    p, q = (a + rng.uniform(-0.2, 0.2, 1024)[cell] for a in (p, q))  # off the lattice's points
    radius = np.where(rng.random(1024) < trees, rng.uniform(0.35, 0.65, 1024), 0)[cell]
    plants = p * p + q * q < radius * radius
    material = np.where(plants, NAMES.index(zone.plant), material)
    light = np.where(plants, np.exp(0.15 * rng.standard_normal(1024))[cell], light)
    dark = _cast(plants, city.sun, 0.6 * crown) & ~plants

    wall = np.zeros((side, side))
    if zone.size:
        spacing = around(zone.spacing, 0.25)
        deep = spacing * rng.uniform(1.0, 1.5)
        cell, p, q = _cells(u, v, spacing, deep, rng)
        lots = rng.random(1024) < np.clip(zone.built + 0.12 * rng.standard_normal(), 0.2, 1)
        half = 0.5 * np.clip(around(zone.size, 0.15), 0.1, 0.95)
        width, depth = (np.where(lots, half * np.exp(zone.irregular * rng.standard_normal(1024)), 0) for _ in "uv")
        building = (np.abs(p) < np.minimum(width, 0.49)[cell]) & (np.abs(q) < np.minimum(depth, 0.49)[cell])
        street = rng.integers(2, 5)  # a street along every 2nd to 4th line of lots
        streets = (np.abs(p) > 0.5 - 4 / spacing) & ((cell // 32) % street == 0)
        material = np.where(streets & ~plants, NAMES.index("paved"), material)
        roofs = rng.dirichlet((0.8, 0.8, 0.8, 0.8))
        roof = rng.choice([NAMES.index(n) for n in ("concrete", "tile", "metal", "paved")], 1024, p=roofs)
        material = np.where(building, roof[cell], material)
        bright = around(1, 0.3) * np.exp(0.25 * rng.standard_normal(1024))
        light = np.where(building, bright[cell], light)
        height = around(zone.height, 0.45)
        dark = (dark | _cast(building, city.sun, height)) & ~building
        wall = np.where(_shift(building, -city.look, 0) & ~building, height**0.7, 0.0)
    light = np.where(dark, 0.35 * light, light)

    if rng.random() < 0.5:  # another surface comes in from one side
        reach = np.cos(bearing := rng.uniform(0, 2 * np.pi)) * (east - 200) + np.sin(bearing) * (south - 200)
        over = reach > 160 * (1 - 0.9 * rng.random())
        kind = rng.choice([NAMES.index(n) for n in ("grass", "crown", "soil", "water", "paved")])
        material = np.where(over, kind, material)
        light, wall = np.where(over, 1.0, light), np.where(over, 0.0, wall)
    return material, light, wall


def optical(material, light, city, rng):  # -> (32, 32, 10)
    """sen2: mean reflectance over each pixel, under the city's light and haze; 20 m bands as copies."""
    spectra = SPECTRA * np.exp(0.18 * rng.standard_normal((len(SPECTRA), 1)))
    for name in ("grass", "crown", "scrub"):
        spectra[NAMES.index(name)] *= 1 + np.clip(city.dry + 0.2 * rng.standard_normal(), 0, 1) * (DRY - 1)
    for name in ("soil", "sand", "rock"):
        spectra[NAMES.index(name)] *= city.soil
    spectra[NAMES.index("water")] *= np.exp(0.5 * rng.standard_normal())
    ground = _cover(material, light) @ spectra
    ground *= np.exp(0.03 * rng.standard_normal((GRID, GRID, 1)))
    toa = city.haze * PATH + TRANSMISSION * city.light * ground + 0.0015 * rng.standard_normal((GRID, GRID, 10))
    rows, columns = (slice(start, start + GRID - 2) for start in city.corner)
    blocks = toa[rows, columns, COARSE].reshape(GRID // 2 - 1, 2, GRID // 2 - 1, 2, len(COARSE))
    toa[rows, columns, COARSE] = blocks.mean((1, 3)).repeat(2, 0).repeat(2, 1)
    return np.round(np.maximum(_cut(toa), 1e-4), 4)  # digital numbers / 10000


def radar(material, wall, zone, city, rng):  # -> (32, 32, 8)
    """sen1: S_VH, S_VV with the pixel's covariance, then Lee-filtered |S_VH|^2, |S_VV|^2 and S_VH conj(S_VV).

    The covariance term is VH times conjugate VV. (Other reading: its conjugate, which turns the sign of 'C im';
    the real sample in tests/data agrees with this one.)
    """
    bounce = _average(wall)[..., None] * np.exp(0.6 * rng.standard_normal()) * np.array([0.02, 0.25])
    sigma = _cover(material) @ (SIGMA * np.exp(0.30 * rng.standard_normal((len(SIGMA), 1)))) + bounce
    sigma *= 10 ** ((city.db + 1.5 * rng.standard_normal()) / 10)
    # Correlation of VH and VV: near none over natural surfaces, more where walls stand at an angle to the look.
    rho = (0.05 + 0.25 * (zone.size > 0) * rng.random()) * np.exp(2j * np.pi * rng.random())
    white = rng.standard_normal((2, 2, GRID, GRID))
    a, b = (white[:, 0] + 1j * white[:, 1]) / np.sqrt(2)
    vh, vv = rho * a + np.sqrt(1 - abs(rho) ** 2) * b, a
    s = np.stack((vh, vv), -1)
    s = _azimuth(s) / np.sqrt(1 + 2 * AZIMUTH**2) * np.sqrt(sigma)
    s = s + _azimuth(_points(zone, rng))
    vh, vv = s[..., 0], s[..., 1]
    return _cut(np.stack((vh.real, vh.imag, vv.real, vv.imag, *lee(vh, vv)), -1))


def lee(vh, vv, window=LEE_WINDOW, looks=LOOKS):  # (H, W), (H, W) complex -> 4 x (H, W)
    """Lee-filtered |VH|^2, |VV|^2, Re and Im of VH conj(VV), all with one weight from the total intensity.

    mean + w (value - mean), w = (1 - C_u^2 / C_I^2) / (1 + C_u^2) in [0, 1]: C_I the coefficient of variation in
    the window, C_u^2 = 1 / looks that of speckle. One weight for all four keeps the covariance non-negative.
    Source: J.-S. Lee, IEEE Trans. PAMI 2(2), 1980; Lee, Grunes, de Grandi, IEEE Trans. GRS 37(5), 1999.
    """
    cross = vh * vv.conj()
    values = np.stack((abs(vh) ** 2, abs(vv) ** 2, cross.real, cross.imag))
    total = values[:1] + values[1:2]
    means = uniform_filter(np.concatenate((values, total, total**2)), (0, window, window), mode="reflect")
    mean, first, square = means[:4], means[4], means[5]
    variation = np.maximum(square / first**2 - 1, 1e-12)
    weight = np.clip((1 - 1 / (looks * variation)) / (1 + 1 / looks), 0, 1)
    return mean + weight * (values - mean)


def _city(rng):
    bearing, elevation = rng.uniform(-0.9, 0.9), np.deg2rad(rng.uniform(35, 65))
    return City(
        sun=(-np.sin(bearing) / np.tan(elevation), -np.cos(bearing) / np.tan(elevation)),
        light=np.exp(0.10 * rng.standard_normal()),
        haze=rng.uniform(0.7, 1.15),
        dry=rng.uniform(0, 0.7),
        soil=np.exp(0.15 * rng.standard_normal()),
        look=int(rng.choice([-1, 1])),
        db=rng.standard_normal(),
        corner=(int(rng.integers(2)), int(rng.integers(2))),
    )


def _cells(u, v, width, depth, rng):
    """A lattice: number of each pixel's cell (0..1023, repeating) and the place in it, -.5 to .5 each way."""
    u, v = (a * np.float32(1 / size) + np.float32(64 * rng.random() + 64) for a, size in ((u, width), (v, depth)))
    i, j = u.astype(np.int32), v.astype(np.int32)
    return (i & 31) << 5 | j & 31, u - i - np.float32(0.5), v - j - np.float32(0.5)


def _shift(mask, east, south):
    out = np.zeros_like(mask)
    h, w = mask.shape
    out[max(south, 0) : h + min(south, 0), max(east, 0) : w + min(east, 0)] = mask[
        max(-south, 0) : h + min(-south, 0), max(-east, 0) : w + min(-east, 0)
    ]
    return out


def _cast(mask, sun, height):
    """What the shadow of things of one height covers: the mask moved along the sun's ray, all the way."""
    east, south = (s * height / (PIXEL / FINE) for s in sun)
    steps = int(np.ceil(max(abs(east), abs(south), 1)))
    out = mask
    done = 1
    while done <= steps:  # doubling: after each turn the mask covers `done` steps of the way
        move = min(done, steps + 1 - done)
        out = out | _shift(out, round(east * move / steps), round(south * move / steps))
        done += move
    return out


def _average(fine):  # (120, 120) -> (40, 40)
    return fine.reshape(GRID, FINE, GRID, FINE).mean((1, 3))


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


def _cut(image):
    return image[MARGIN:-MARGIN, MARGIN:-MARGIN]

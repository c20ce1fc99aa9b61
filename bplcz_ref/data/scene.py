"""A scene of 400 m x 400 m as simulated sensors see it: materials, brightness and walls at 3.3 m.

What makes each of the 17 classes is in ZONES: sizes, spacings, heights, covers and materials, chosen by hand.

Arrays are (120, 120): GRID pixels of 10 m, FINE x FINE points each. u, v are the scene's axes, turned at random.
"""

from typing import NamedTuple

import numpy as np

PIXEL, FINE, GRID = 10.0, 3, 40  # m; points per pixel and direction; pixels painted
SIDE = GRID * FINE
CELLS = 1024  # different cells of a lattice: 32 x 32, repeated
SHADE = 0.35  # brightness of what lies in a shadow

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


def city(rng: np.random.Generator) -> City:
    """One city's own values."""
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


class Scene(NamedTuple):
    """(120, 120) each; a layer of the painting takes a Scene and returns the next one."""

    material: np.ndarray  # a number in NAMES
    light: np.ndarray  # brightness: texture, later shadow
    dark: np.ndarray  # whether it lies in a shadow
    wall: np.ndarray  # strength of a wall that faces the radar


def paint(zone: Zone, city: City, rng: np.random.Generator) -> Scene:
    """One scene, painted in order: parcels, plants, streets and buildings, shadows, and in half of the patches
    another surface that comes in from one side. The order of the draws from `rng` is part of the result.
    """
    axis = ((np.arange(SIDE) + 0.5) * (PIXEL / FINE)).astype(np.float32)
    turn = rng.uniform(0, np.pi / 2)
    east, south = np.meshgrid(axis, axis)
    cos, sin = np.float32(np.cos(turn)), np.float32(np.sin(turn))
    u, v = cos * east + sin * south, cos * south - sin * east

    scene = _parcels(zone, u, v, rng)
    scene, plants = _plants(scene, zone, city, u, v, rng)
    if zone.size:
        scene = _buildings(scene, plants, zone, city, u, v, rng)
    scene = scene._replace(light=np.where(scene.dark, SHADE * scene.light, scene.light))
    if rng.random() < 0.5:
        scene = _another_surface(scene, east, south, rng)
    return scene


def _parcels(zone, u, v, rng):
    parcel = _around(zone.parcel, 0.25, rng)
    cell, _, _ = _cells(u, v, parcel, parcel * rng.uniform(1, 2), rng)
    second = np.clip(zone.second + 0.35 * rng.standard_normal(), 0, 1)
    first, other = (NAMES.index(name) for name in zone.ground)
    material = np.where(rng.random(CELLS) < second, other, first)[cell]
    light = np.exp(0.10 * rng.standard_normal(CELLS))[cell]
    return Scene(material, light, dark=np.zeros((SIDE, SIDE), bool), wall=np.zeros((SIDE, SIDE)))


def _plants(scene, zone, city, u, v, rng):  # -> Scene, where the plants are
    trees = np.clip(zone.trees * np.exp(0.5 * rng.standard_normal()), 0, 1)
    crown = _around(zone.crown, 0.3, rng)
    cell, p, q = _cells(u, v, crown, crown, rng)
    p, q = (a + rng.uniform(-0.2, 0.2, CELLS)[cell] for a in (p, q))  # off the lattice's points
    radius = np.where(rng.random(CELLS) < trees, rng.uniform(0.35, 0.65, CELLS), 0)[cell]
    plants = p * p + q * q < radius * radius
    material = np.where(plants, NAMES.index(zone.plant), scene.material)
    light = np.where(plants, np.exp(0.15 * rng.standard_normal(CELLS))[cell], scene.light)
    dark = _cast(plants, city.sun, 0.6 * crown) & ~plants
    return scene._replace(material=material, light=light, dark=dark), plants


def _buildings(scene, plants, zone, city, u, v, rng):
    spacing = _around(zone.spacing, 0.25, rng)
    deep = spacing * rng.uniform(1.0, 1.5)
    cell, p, q = _cells(u, v, spacing, deep, rng)
    lots = rng.random(CELLS) < np.clip(zone.built + 0.12 * rng.standard_normal(), 0.2, 1)
    half = 0.5 * np.clip(_around(zone.size, 0.15, rng), 0.1, 0.95)
    width, depth = (np.where(lots, half * np.exp(zone.irregular * rng.standard_normal(CELLS)), 0) for _ in "uv")
    building = (np.abs(p) < np.minimum(width, 0.49)[cell]) & (np.abs(q) < np.minimum(depth, 0.49)[cell])

    street = rng.integers(2, 5)  # a street along every 2nd to 4th line of lots
    streets = (np.abs(p) > 0.5 - 4 / spacing) & ((cell // 32) % street == 0)
    material = np.where(streets & ~plants, NAMES.index("paved"), scene.material)

    roofs = rng.dirichlet((0.8, 0.8, 0.8, 0.8))
    roof = rng.choice([NAMES.index(n) for n in ("concrete", "tile", "metal", "paved")], CELLS, p=roofs)
    material = np.where(building, roof[cell], material)
    bright = _around(1, 0.3, rng) * np.exp(0.25 * rng.standard_normal(CELLS))
    light = np.where(building, bright[cell], scene.light)
    height = _around(zone.height, 0.45, rng)
    dark = (scene.dark | _cast(building, city.sun, height)) & ~building
    wall = np.where(_shift(building, -city.look, 0) & ~building, height**0.7, 0.0)
    return Scene(material, light, dark, wall)


def _another_surface(scene, east, south, rng):
    """Beyond a line at a random bearing and reach, something else covers everything."""
    bearing, middle = rng.uniform(0, 2 * np.pi), GRID * PIXEL / 2
    reach = np.cos(bearing) * (east - middle) + np.sin(bearing) * (south - middle)
    over = reach > 160 * (1 - 0.9 * rng.random())
    kind = rng.choice([NAMES.index(n) for n in ("grass", "crown", "soil", "water", "paved")])
    return scene._replace(
        material=np.where(over, kind, scene.material),
        light=np.where(over, 1.0, scene.light),
        wall=np.where(over, 0.0, scene.wall),
    )


def _around(value, spread, rng):
    return value * np.exp(spread * rng.standard_normal())


def _cells(u, v, width, depth, rng):
    """A lattice: number of each pixel's cell (0..1023, repeating) and the place in it, -.5 to .5 each way."""
    u, v = (a * np.float32(1 / size) + np.float32(64 * rng.random() + 64) for a, size in ((u, width), (v, depth)))
    i, j = u.astype(np.int32), v.astype(np.int32)
    return (i & 31) << 5 | j & 31, u - i - np.float32(0.5), v - j - np.float32(0.5)


def _shift(mask, east, south):
    """The mask moved by this many points, fewer than SIDE; what comes in from outside is False."""
    return np.pad(mask, SIDE)[SIDE - south : 2 * SIDE - south, SIDE - east : 2 * SIDE - east]


def _cast(mask, sun, height):
    """What the shadow of things of one height covers: the mask moved along the sun's ray, all the way."""
    east, south = (s * height / (PIXEL / FINE) for s in sun)
    steps = int(np.ceil(max(abs(east), abs(south), 1)))
    out, done = mask, 1
    while done <= steps:  # doubling: after each turn the mask covers `done` steps of the way
        move = min(done, steps + 1 - done)
        out = out | _shift(out, round(east * move / steps), round(south * move / steps))
        done += move
    return out

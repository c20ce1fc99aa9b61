"""What rounding may change, whether two outputs are equal up to that, and numbers that are drawn by name.

An answer passes if max |answer - value| <= allowed eps(dtype), both by `expected`.
"""

import math
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np

from bplcz_ref.conform.ops import OPS, Case, is_float, worked_out

EPS = {"float64": 2.0**-52, "float32": 2.0**-23, "tf32": 2.0**-10, "float16": 2.0**-10, "bfloat16": 2.0**-7}
BITS = {"bfloat16": 8, "float16": 11, "float32": 24}  # of the mantissa; TF32 has float16's
RANGES = dict.fromkeys(("float32", "tf32", "bfloat16"), (2.0**-126, 3.3e38)) | {"float16": (2.0**-14, 65504.0)}
RANGES["float64"] = 2.0**-1022, 1.79e308  # the smallest number with all bits, the largest
FACTOR = 8  # a sum of some hundred terms in another order is wrong by a few eps of its size, not by more
RUNS = 8


def coarse(x: Any, dtype: str) -> Any:
    """Numbers rounded to the bits of a coarser dtype (to nearest, ties to even); what is no float is unchanged.

    >>> coarse(np.array([1.0, 1.001, 1.01]), "bfloat16").tolist()
    [1.0, 1.0, 1.0078125]
    """
    if not is_float(x):
        return x
    mantissa, exponent = np.frexp(x)
    rounded = np.ldexp(np.rint(np.ldexp(mantissa, BITS[dtype])), exponent - BITS[dtype])
    return float(rounded) if isinstance(x, float) else rounded


def expected(case: Case, run: Callable | None = None, runs: int = RUNS) -> dict:
    """{output: (value, allowed)} by the definitions in float64; allowed is None for whole numbers and text.

    allowed = FACTOR max(the largest number of the output, the largest error of `runs` runs in float32 over eps).
    The runs start from inputs and cotangents that are off by up to half an eps. Where an operation has another
    right way (Op.also), its errors count too. e^x is uncertain by |x| eps, also where these runs cancel.
    """
    op = OPS[case.op]
    run = run or op.run
    right = worked_out(run, case)
    ways = (run, op.also) if op.also and run is op.run else (run,)

    def rough(way, seed):
        rng = np.random.default_rng(seed)
        off = lambda x: x * (1 + EPS["float32"] / 2 * rng.uniform(-1, 1, np.shape(x)))
        return worked_out(way, case, "float32", (lambda x: x) if op.picks else off)

    found = [rough(way, seed) for seed in range(runs) for way in ways]
    steep = float(op.exponent(**case.inputs)) if op.exponent else 0.0

    def allowed(o, x):
        if not is_float(x):
            return None
        size = max(op.size, largest(x))
        errors = [apart(r[o], x) / EPS["float32"] for r in found if o in r]
        return FACTOR * max(size, size * steep / FACTOR, *filter(math.isfinite, errors))

    return {o: (x, allowed(o, x)) for o, x in right.items()}


def solved(case: Case, run: Callable | None = None) -> Case:
    """The case with what it expects."""
    return case._replace(expect=expected(case, run))


def limit(allowed: float | None, dtype: str) -> float:
    """The largest error that passes."""
    return (allowed or 0.0) * EPS[dtype]


def largest(x: Any) -> float:
    """The size of the largest finite number of an array; 0 for what has none."""
    if not is_float(x):
        return 0.0
    sizes = np.abs(x)
    return float(np.max(sizes[np.isfinite(sizes)], initial=0.0))


def reach(case: Case) -> tuple[float, float]:
    """The smallest and the largest size of numbers that a case cannot do without."""
    sizes = [largest(x) for x in (*case.inputs.values(), *(x for x, _ in case.expect.values()))]
    given = [size for size in map(largest, case.inputs.values()) if size]
    return min(case.needs, 1.0, *given), max(1.0, *sizes)


def apart(a: Any, b: Any) -> float:
    """max |a - b|; infinite for another shape or kind. Text, whole numbers, nan and infinities have to be equal.

    >>> apart(np.array([1.0, np.nan]), np.array([1.5, np.nan])), apart("a", "b"), apart(np.ones(2), np.ones(3))
    (0.5, inf, inf)
    """
    if isinstance(a, (str, list)) or isinstance(b, (str, list)):
        same = type(a) is type(b) and a == b
        empty = [isinstance(x, list) and not x or np.shape(x) == (0,) for x in (a, b)]
        return 0.0 if same or all(empty) else math.inf
    a, b = np.asarray(a), np.asarray(b)
    if a.shape != b.shape:
        return math.inf
    if a.dtype.kind in "iub" and b.dtype.kind in "iub":
        return 0.0 if np.array_equal(a, b) else math.inf
    with np.errstate(invalid="ignore", over="ignore"):
        gap = np.abs(a.astype(np.float64) - b.astype(np.float64))
    gap = np.where((a == b) | (np.isnan(a) & np.isnan(b)), 0.0, gap)
    return math.inf if np.isnan(gap).any() else float(gap.max(initial=0.0))


CONSONANTS, VOWELS = "bdfgklmnprstvz", "aeiou"


class Draw:
    """Numbers, sizes and words of a seed and a name, on every platform. Seed 0 keeps what a case writes out."""

    def __init__(self, seed: int, name: str) -> None:
        self.seed, self.state = seed, zlib.crc32(f"{seed} {name}".encode())

    def bits(self) -> int:
        """31 bits of a linear congruential generator."""
        self.state = (6364136223846793005 * self.state + 1442695040888963407) % 2**64
        return self.state >> 33

    def __call__(self, *shape: int, low: int = -48, high: int = 48) -> np.ndarray:
        """k / 32 with whole k from low to high: exact in each dtype."""
        return self.whole(low, high, *shape) / 32

    def whole(self, low: int, high: int, *shape: int) -> np.ndarray:
        """Whole numbers from low to high."""
        flat = [low + self.bits() % (high - low + 1) for _ in range(math.prod(shape))]
        return np.array(flat, dtype=np.int64).reshape(shape)

    def full(self, *shape: int, low: float = -48, high: float = 48) -> np.ndarray:
        """Numbers from low / 32 to high / 32 with all 53 bits: coarser dtypes have to round them."""
        flat = [((self.bits() << 31 | self.bits()) >> 9 | 1) / 2**53 for _ in range(math.prod(shape))]
        return (low + (high - low) * np.array(flat).reshape(shape)) / 32

    def one(self, low: int, high: int) -> int:
        return int(self.whole(low, high))

    def sizes(self, *plain: int) -> list[int]:
        """The lengths of axes: as they are for seed 0, else up to two more."""
        return [n + self.one(0, 2) if self.seed else n for n in plain]

    def near(self, x: Any) -> Any:
        """Numbers that a case writes out, for other seeds times an eighth or more above 1."""
        return np.asarray(x, float) * ((9 + self.one(0, 3)) / 8 if self.seed else 1)

    def mixed(self, x: Any) -> np.ndarray:
        """Whole numbers that a case writes out, for other seeds in another order."""
        x = np.array(x)
        return x[np.argsort(self.full(len(x)))] if self.seed else x

    def renamed(self, labels: Any, classes: int = 17) -> np.ndarray:
        """Labels that a case writes out, for other seeds of other classes and in another order."""
        names = np.argsort(self.full(classes)) if self.seed else np.arange(classes)
        return self.mixed(names[np.array(labels)])

    def word(self) -> str:
        """A word that is none: it has no meaning in any language that we know.

        >>> Draw(5, "a text").word()
        'fisu'
        """
        letter = lambda letters: letters[self.bits() % len(letters)]
        return "".join(letter(CONSONANTS) + letter(VOWELS) for _ in range(self.one(2, 3)))

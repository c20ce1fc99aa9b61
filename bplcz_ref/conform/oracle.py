"""What a case should give: its outputs in exact arithmetic, with their scales and measured amplifications.

    evaluate(case, f)      the outputs by a table of formulas, with any number of digits
    expectations(case, f)  the `expect` of the vectors: outputs to 17 digits, scale, amplification

All arithmetic is decimal, so the results have the same bits on every platform. The generator works out the vectors
with these functions, and grading uses them again for a consumer that reads the paper another way.
"""

import decimal
from decimal import Decimal

import numpy as np

from bplcz_ref.conform import exact
from bplcz_ref.conform.exact import Array, Exact
from bplcz_ref.conform.kit import FACTOR, Case, tensor, whole
from bplcz_ref.conform.ops import FORMULAS, OPS

DIGITS = 50
ROUGH = (8, 10)  # digits at which the amplification is measured
NOISE = Decimal("1e-35")  # what is smaller than this part of its terms is 0: cancellation left it at 50 digits
AGREEMENT = Decimal("1e-40")  # how far loops.py and a formula may differ, as a part of the terms
FAR = Decimal(10) ** 6  # the distance of outputs that differ in kind or shape, or as whole numbers or text


def evaluate(case: Case, f: dict, digits: int = DIGITS, moved: bool = False) -> dict:
    """{output: Exact, array of ints, or text} of a case by the table f, in decimal arithmetic.

    `moved` shifts every number by half a unit in its last digit, up or down. An error that arises inside the
    computation acts like one in the inputs, and rounding alone may miss it where it happens to be exact.
    """
    with decimal.localcontext(decimal.Context(prec=digits, traps=[], Emax=999999, Emin=-999999)):
        moved = moved and not OPS[case.op].picks  # ties have to stay ties
        half = Decimal(10) ** (1 - digits) / 2 if moved else Decimal(0)
        inputs = {name: _exact_input(case, name, half) for name in case.inputs}
        out = dict(f[case.op](f, **inputs))
        # A wrong reading may give another shape, which no cotangent fits: its values alone then show it.
        if case.cotangents and all(out[name].shape == np.shape(g) for name, g in case.cotangents.items()):
            J = exact.exact(0)
            for name, g in case.cotangents.items():
                J = J + exact.sum(exact.exact(out[name]) * exact.exact(g))
            grads = exact.gradients(J, [inputs[name] for name in case.gradients])
            out |= {f"grad.{name}": g for name, g in zip(case.gradients, grads, strict=True)}
        if OPS[case.op].copies and all((x.value % 1 == 0).all() for x in out.values()):
            out = {name: x.value.astype(int) for name, x in out.items()}
        return out


def _exact_input(case, name, half):
    """An input as an operation takes it: floats as Exacts or Decimals, all else unchanged."""
    x = case.inputs[name]
    is_float = isinstance(x, float) or (isinstance(x, np.ndarray) and x.dtype.kind == "f")
    if not is_float or name == "lr":  # rates are settings: each step takes its own as a number
        return x
    signs = 1 - 2 * whole(f"{case.id} {name}", np.shape(x), 0, 1)
    x = exact.exact(x) * (1 + exact.exact(signs) * half)
    if name in case.gradients:
        return exact.variable(x)
    return x if x.shape else x.value[()]


def distance(a: Array, r: Array, scale: float) -> Decimal:
    """max |a - r| / scale of two outputs, at most FAR; a NaN for a NaN has the distance 0."""
    if not isinstance(r, Exact):
        return Decimal(0) if np.array_equal(a.value if isinstance(a, Exact) else a, r) else FAR
    if not isinstance(a, Exact) or a.shape != r.shape:
        return FAR
    return min(_largest_gap(a.value, r.value) / Decimal(scale), FAR)


def _largest_gap(a, b):
    """max |a - b| of two arrays of Decimals; infinity where only one of them is a NaN."""
    pairs = zip(np.ravel(a), np.ravel(b), strict=True)
    gaps = [abs(x - y) for x, y in pairs if not (x.is_nan() and y.is_nan())]
    return Decimal("Infinity") if any(not gap.is_finite() for gap in gaps) else max(gaps, default=Decimal(0))


def _largest_mass(x):
    """The largest sum of absolute terms, of the entries that are finite."""
    return max((mass for mass in np.ravel(x.mass) if mass.is_finite()), default=Decimal(0))


def settled(x: Array) -> Array:
    """An output as it is written: what differs from 0 only in the last of its digits is 0."""
    if not isinstance(x, Exact) or not x.value.size:
        return x
    noise = _largest_mass(x) * NOISE
    value = np.empty(x.shape, dtype=object)
    for place in np.ndindex(x.shape):
        number = x.value[place]
        value[place] = number if number.is_nan() or abs(number) > noise else Decimal(0)
    return Exact(value, x.mass)


def certified(case: Case, out: dict) -> dict:
    """The outputs by loops.py in place of the formula's, after both were found to agree to 40 digits."""
    with decimal.localcontext(decimal.Context(prec=DIGITS)):
        by_loops = OPS[case.op].loops(_nested(case.inputs), _nested(case.cotangents))
        for name, value in by_loops.items():
            if not isinstance(out[name], Exact):
                agree = np.array_equal(out[name], value)
            else:
                mine = out[name]
                theirs = np.empty(mine.shape, dtype=object)
                theirs[...] = np.asarray(value, dtype=object)
                agree = _largest_gap(mine.value, theirs) <= _largest_mass(mine) * AGREEMENT
                out[name] = Exact(theirs, mine.mass)
            if not agree:
                raise ValueError(f"{case.id}: {name} differs between loops.py and the kit's formula")
    return out


def _nested(arrays):
    """Arrays and numbers as the nested lists of Decimals (or of ints) that loops.py takes."""

    def numbers(x):
        if isinstance(x, list):
            return [numbers(entry) for entry in x]
        return x if isinstance(x, int) else exact.decimal_of(x)

    return {name: numbers(x.tolist() if isinstance(x, np.ndarray) else x) for name, x in arrays.items()}


def expectations(case: Case, f: dict = FORMULAS, also: tuple = ()) -> tuple:
    """({output: TENSOR with scale and amplification}, the outputs themselves).

    The amplification of an output is the largest error, in units of its scale and of the last digit, that
    computing with 8 and with 10 digits has made, by this table and by those in `also`. It is at least 1.
    """
    out = evaluate(case, f)
    if f is FORMULAS and OPS[case.op].loops:
        out = certified(case, out)
    rough = [out for table in (f, *also) for out in roughly(case, table)]
    least = Decimal(_least_amplification(case))
    expect = {}
    for name, r in out.items():
        expect[name] = tensor(settled(r))
        if isinstance(r, Exact):
            mass = _largest_mass(r)
            scale = _rounded_up(mass) if mass else 1.0
            expect[name] |= {"scale": scale, "amplification": amplification(name, r, scale, rough, least)}
    if OPS[case.op].tapped:
        _share_amplifications(expect)
    return expect, out


def roughly(case: Case, f: dict) -> list:
    """[(digits, outputs)] of a case worked out with few digits, its inputs moved in the last of them."""
    return [(digits, evaluate(case, f, digits, moved=True)) for digits in ROUGH]


def amplification(name: str, r: Exact, scale: float, rough: list, least: Decimal = Decimal(1)) -> float:
    """The largest error of an output worked out roughly, in units of the scale and of the last digit."""
    errors = [distance(out[name], r, scale) / Decimal(10) ** (1 - digits) for digits, out in rough]
    return _rounded_up(max(least, *errors), 2)


def _least_amplification(case):
    """What the case asks for, or what an exponential of the largest input needs: budget / eps is that input."""
    if not OPS[case.op].exponential:
        return case.least
    return max(case.least, *(float(np.max(np.abs(x))) / FACTOR for x in case.inputs.values()))


def _share_amplifications(expect: dict) -> None:
    """Give outputs of one kind (taps, gradients, updated parameters) the largest amplification among them.

    Of dozens of outputs some are measured as small by luck: their rounding errors happened to cancel.
    """
    kinds: dict = {}
    for name, t in expect.items():
        if "scale" in t:
            kinds.setdefault(name.split(".")[0] if name.startswith(("grad.", "after.")) else "", []).append(t)
    for members in kinds.values():
        most = max(t["amplification"] for t in members)
        for t in members:
            t["amplification"] = most


def magnitudes(case: Case, out: dict) -> list:
    """[smallest, largest] size of the numbers that a case cannot do without, for dtypes with a small range."""

    def peak(x):
        sizes = np.abs(np.asarray(x, dtype=float))
        return float(np.max(sizes[np.isfinite(sizes)], initial=0.0))

    given = [peak(x) for x in case.inputs.values() if not isinstance(x, str)]
    made = [peak(x.value) for x in out.values() if isinstance(x, Exact)]
    return [float(f"{x:.3g}") for x in (min(case.needs, *filter(None, [1.0, *given])), max([*given, *made, 1.0]))]


def _rounded_up(x, digits=3):
    """A positive Decimal rounded up to a few digits, as a float: a bound that is short to write."""
    return float(Decimal(x).normalize(decimal.Context(prec=digits, rounding=decimal.ROUND_UP)))

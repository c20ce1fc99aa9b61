"""Grades answers: the error of each output in units of its scale, the near misses that fit, the case's state."""

import math
from typing import NamedTuple

import numpy as np

from bplcz_ref.conform import cases as made
from bplcz_ref.conform import tensors
from bplcz_ref.conform.generate import all_cases, budget, expectations
from bplcz_ref.conform.ops import EXACT, OPS
from bplcz_ref.conform.wrong import READINGS
from bplcz_ref.conform.wrong_layers import WRONG

PASS, FAIL, MISSING, UNDECIDED, NOT_RUN = "pass", "fail", "incomplete", "cannot discriminate", "not run"


class Outcome(NamedTuple):
    """One output of one case."""

    passed: bool
    error: float  # max |answer - expected| / scale; infinite for another shape, kind or text
    allowed: float
    digits: float  # decimal digits that agree, relative to the scale
    note: str = ""
    malformed: bool = False  # another shape or kind of data: an answer that cannot be compared


class Graded(NamedTuple):
    """One case."""

    id: str
    op: str
    state: str
    outcomes: dict  # output -> Outcome, in the order of computation
    fits: tuple = ()  # names of the near misses that the answer equals
    unseen: tuple = ()  # near misses that this dtype cannot tell from the right value
    why: str = ""


def outcome(expected, answer, dtype):
    """The Outcome of one answer."""
    if "scale" not in expected:
        want = tensors.array(expected, "vectors")
        if isinstance(want, np.ndarray) and (bad := malformed(answer, expected)):
            return Outcome(False, math.inf, 0.0, 0.0, bad, malformed=True)
        empty = np.shape(answer) == (0,)  # no entries: neither numbers nor text
        if not isinstance(want, np.ndarray) and isinstance(answer, np.ndarray) and not empty:
            return Outcome(False, math.inf, 0.0, 0.0, "numbers for text", malformed=True)
        same = np.shape(answer) == np.shape(want) and np.array_equal(answer, want)
        note = "" if same else f"{tensors.brief(plain(answer))} for {tensors.brief(plain(want))}"
        return Outcome(same, 0.0 if same else math.inf, 0.0, 17.0 if same else 0.0, note)
    allowed = budget(expected, dtype)
    if bad := malformed(answer, expected):
        return Outcome(False, math.inf, allowed, 0.0, bad, malformed=True)
    error = away(answer, np.reshape(numbers(expected), answer.shape), expected["scale"])
    note = "" if np.isfinite(answer).all() else "nan"
    digits = 17.0 if error == 0 else max(0.0, min(17.0, -math.log10(error)))
    return Outcome(error <= allowed, error, allowed, digits, note)


def malformed(answer, expected):
    """What keeps an answer from being compared with numbers, or nothing."""
    if not isinstance(answer, np.ndarray):
        return "text for numbers"
    return "" if list(answer.shape) == expected["shape"] else f"shape {list(answer.shape)} for {expected['shape']}"


def plain(x):
    return x.ravel().tolist() if isinstance(x, np.ndarray) else x


def numbers(t):
    """The data of a TENSOR of the vectors as a flat float array."""
    return np.array([tensors.WORDS.get(v, v) if isinstance(v, str) else v for v in t["data"]], dtype=np.float64)


def away(a, r, scale):
    """max |a - r| / scale; equal infinities and a nan for a nan are no distance."""
    if not a.size:
        return 0.0
    with np.errstate(invalid="ignore", over="ignore"):
        gap = np.abs(a.astype(np.float64) - r)
    gap = np.where((a == r) | (np.isnan(a) & np.isnan(r)), 0.0, gap)
    return math.inf if np.isnan(gap).any() else float(gap.max()) / scale


def fitting(case, answer, outcomes, dtype):
    """Names of the near misses that an answer equals: all that they change fits them, all else is right.

    Where none fits in all, values alone decide: gradients of a wrong formula depend on how it is worked out.
    """
    full, values = [], []
    for near in case["near_misses"]:
        tapped = len(case["expect"]) > 12 and len(near["expect"]) <= 2  # only the first and last change are stored
        fits = {o: equals(case, near, o, answer, dtype) for o in near["expect"] if o in answer}
        fits |= {o: found.passed for o, found in outcomes.items() if o not in near["expect"] and not tapped}
        plain = {o: fit for o, fit in fits.items() if not o.startswith("grad.")}
        if fits and all(fits.values()):
            full.append(near["name"])
        elif all(plain.values()) and set(plain) & set(near["expect"]):
            values.append(near["name"])
    return tuple(full or values)


def equals(case, near, output, answer, dtype):
    wrong, right = near["expect"][output], case["expect"][output]
    if "scale" not in right or wrong["dtype"] != "float64":
        want = tensors.array(wrong, "vectors")
        return np.shape(want) == np.shape(answer[output]) and np.array_equal(want, answer[output])
    a = answer[output]
    if not isinstance(a, np.ndarray) or list(a.shape) != wrong["shape"]:
        return False
    n = np.reshape(numbers(wrong), a.shape)
    distance = 1.0
    if wrong["shape"] == right["shape"]:
        distance = away(n, np.reshape(numbers(right), a.shape), right["scale"])
    finite = n[np.isfinite(n)]
    size = float(np.abs(finite).max()) / right["scale"] if finite.size else 0.0
    allowed = budget(right, dtype) * max(8.0, 8 * size) + 2e-8 * size
    return away(a, n, right["scale"]) <= max(allowed, min(distance, 1e6) * 1e-4)


def told(case, near, dtype):
    """Whether no answer of this dtype can be within the budget of both the right value and the near miss."""
    for output, wrong in near["expect"].items():
        right = case["expect"][output]
        if "scale" not in right or wrong["shape"] != right["shape"] or wrong["dtype"] != right["dtype"]:
            return True
        a, r = numbers(wrong), numbers(right)
        if away(a, r, right["scale"]) > 2 * budget(right, dtype):
            return True
    return False


def grade(case, answer, dtype, gradients=True):
    """The Graded of one case; `answer` is None where there is none."""
    wanted = [o for o in case["expect"] if gradients or not o.startswith(("grad.", "after.", "L_step"))]
    if answer is None:
        return Graded(case["id"], case["op"], MISSING, {}, why="not answered")
    if "refused" in answer and "refused" not in wanted:
        lost = Outcome(False, math.inf, 0.0, 0.0, "refused")
        return Graded(case["id"], case["op"], FAIL, {wanted[0]: lost}, why="refused")
    outcomes = {o: outcome(case["expect"][o], answer[o], dtype) for o in wanted if o in answer}
    absent = [o for o in wanted if o not in answer]
    fits = fitting(case, answer, outcomes, dtype) if not all(o.passed for o in outcomes.values()) else ()
    if not all(o.passed for o in outcomes.values()):
        state = FAIL
    else:
        state = MISSING if absent else PASS
    unseen = tuple(near["name"] for near in case["near_misses"] if near["shows"] and not told(case, near, dtype))
    if state == PASS and unseen:
        state = UNDECIDED
    why = f"no output {', '.join(absent[:3])}{' ...' if len(absent) > 3 else ''}" if absent else ""
    return Graded(case["id"], case["op"], state, outcomes, fits, unseen, why)


# ---------------------------------------------------------------- other readings


def rests_on(op):
    """An operation and all that it rests on."""
    found = {op}
    for parent in OPS[op].parents:
        found |= rests_on(parent)
    return found


def for_readings(kit_cases, readings, wanted=lambda name: True):
    """The cases under other readings: expected values are worked out anew where they change, of those wanted."""
    if not readings:
        return kit_cases
    changed, table = {}, dict(EXACT)
    for name, word in readings.items():
        wrong = next(w for w in WRONG if w.reading == (name, word))  # the first: of the operation it belongs to
        if wrong.entry in changed:
            raise ValueError(f"profile: {name} and {changed[wrong.entry]} cannot be graded together")
        changed[wrong.entry], table[wrong.entry] = name, wrong.function
    ops = {"sgd" if entry == "sgd_step" else entry for entry in changed}
    ours = ", ".join(f"{name} {READINGS[name]}" for name in readings)
    made_cases: dict[str, made.Case] = {case.id: case for members in all_cases().values() for case in members}
    out = {}
    for name, case in kit_cases.items():
        if wanted(name) and ops & rests_on(case["op"]):
            expect, _, _ = expectations(made_cases[name], table)
            near = [n for n in case["near_misses"] if not (n["reading"] and set(n["reading"]) & set(readings))]
            near.append(
                {
                    "name": f"the paper as read here ({ours})",
                    "reading": None,
                    "shows": True,
                    "expect": case["expect"],
                }
            )
            case = case | {"expect": expect, "near_misses": [n for n in near if differs(n, expect)]}
        out[name] = case
    return out


def differs(near, expect):
    """Whether a near miss is still one under the readings now graded."""
    for name, t in near["expect"].items():
        e = expect[name]
        if t["shape"] != e["shape"] or "scale" not in e:
            if t["data"] != e["data"]:
                return True
        elif away(numbers(t), numbers(e), e["scale"]) > 10 * budget(e, "float32"):
            return True
    return False

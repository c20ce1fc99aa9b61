"""What is wrong with an answer that fails: the known reading, the empty answer, or the coarse dtype.

    accepted(case, ...)   another way that is no mistake explains all that differs
    names(case, ...)      the wrong readings that the answer equals; else those of an operation inside;
                          else an answer without computation; else a coarser dtype

A near miss of an operation with dozens of taps is stored in part: where the last of it fits, the wrong reading is
worked out in float64 and compared in full.
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import autograd.numpy as anp
import numpy as np
from autograd.extend import defvjp, primitive

from bplcz_ref.conform import exact, kit, networks
from bplcz_ref.conform.kit import EPS, FACTOR, MARGIN, budget, case_of, coarse, distance, floats
from bplcz_ref.conform.ops import FORMULAS, OPS, rests_on, windows
from bplcz_ref.conform.wrong import WRONG, Wrong

SLACK = 8  # budgets: the budget was measured on the right formula, and the wrong one may amplify errors more
STORED = 2e-8  # relative error of a near miss as stored: four times what rounding to 9 digits can reach
ON_THE_WAY = 1e-4  # an answer this near to a near miss, as a part of its way from the right value, equals it
FARTHEST = 1e6  # a way that is longer counts as this long


TF32 = "TF32 products"
TIES = "another of equal values has the gradient"


def accepted(case: dict, answer: dict, outcomes: dict, dtype: str, products: str | None = None) -> tuple:
    """The first accepted way that explains every difference, as a tuple of its name, or an empty one.

    `products` is "tf32" if the profile declares that factors of matrix products have TF32's 11 bits.
    """
    for near in case["near_misses"]:
        if not near.get("accepted"):
            continue
        if "expect" in near:
            explained = all(_agreement(case, near, answer, outcomes, dtype).values())
        else:
            limit = lambda o, near=near: FACTOR * near["amplification"].get(o, 0) * EPS[dtype]
            explained = all(found.passed or found.error <= limit(o) for o, found in outcomes.items())
        if explained:
            return (near["name"],)
    for way in WRONG:
        if way.op == case["op"] and way.worst and as_rounded(case, way.entry, way.worst, outcomes, dtype):
            return () if known(case, answer, outcomes, dtype) else (way.name,)
    if case["op"] == "max_pool2d" and among_equals(case, answer, outcomes):
        return (TIES,)
    if products == "tf32" and rests_on(case["op"]) & set(PRODUCTS):
        near_enough = lambda o: (
            "scale" in case["expect"][o] and outcomes[o].error <= budget(case["expect"][o], "float16")
        )
        if all(f.passed or near_enough(o) for o, f in outcomes.items()) and not known(
            case, answer, outcomes, dtype
        ):
            return (TF32,)
    return ()


def as_rounded(case: dict, entry: str, worst: Callable, outcomes: dict, dtype: str) -> bool:
    """Whether every error is one that rounding may make in an accepted way.

    What cancels there is as wrong as the kit lets any sum be, by FACTOR eps of its terms, up or down.
    """
    if any("scale" not in case["expect"][o] or found.malformed for o, found in outcomes.items()):
        return False
    ways = [by_floats(case, {entry: worst(sign * FACTOR * EPS[dtype])}) for sign in (1, -1)]
    for o, found in outcomes.items():
        right = case["expect"][o]
        reached = max(distance(out[o], floats(right), right["scale"]) for out in ways)
        if not (found.passed or found.error <= reached + found.allowed):
            return False
    return True


def among_equals(case: dict, answer: dict, outcomes: dict) -> bool:
    """Whether a max-pool is right except that other entries that equal the largest of a window have its gradient.

    Whichever of them has it, or in what shares, the sum over a window is the gradient there.
    """
    if [o for o, found in outcomes.items() if not found.passed] != ["grad.x"] or outcomes["grad.x"].malformed:
        return False
    of_windows = lambda x: np.stack([*windows(x, 2, 2, 2, 0, 0).values()])
    expected, given = case["expect"]["grad.x"], answer["grad.x"].astype(float)
    x, g, slopes = of_windows(floats(case["inputs"]["x"])), floats(case["cotangents"]["y"]), of_windows(given)
    largest = x == x.max(0)
    wrong = [np.where(largest, 0, slopes), slopes.sum(0) - g, np.minimum(slopes * np.sign(g), 0)]
    wrong.append(np.abs(given).sum() - np.abs(slopes).sum())  # in a row or column that is dropped
    return all(np.abs(part).max() <= budget(expected, "float32") * expected["scale"] for part in wrong)


def names(case: dict, answer: dict, outcomes: dict, dtype: str, kit_cases: dict) -> tuple:
    """All names that explain a failing answer, of the first kind that has any."""
    if "refused" in outcomes or "refused" in answer:
        return known(case, answer, {}, dtype)
    found = known(case, answer, outcomes, dtype)
    slopes = [o for o in outcomes if o.startswith("grad.") and not OPS[case["op"]].tapped]
    if found and slopes and all(outcomes[o].passed for o in slopes):
        return found + precision(case, answer, outcomes, dtype)  # rounding may meet values by chance, not slopes
    return (
        found
        or inside(case, answer, outcomes, dtype)
        or hollow(case, answer, outcomes, kit_cases)
        or precision(case, answer, outcomes, dtype)
    )


# ---------------------------------------------------------------- known wrong readings


def known(case: dict, answer: dict, outcomes: dict, dtype: str) -> tuple:
    """Names of the near misses that an answer equals: all that they change fits them, all else is right.

    Where none fits in all, values alone decide: gradients of a wrong formula depend on how it is worked out.
    """
    full, values = [], []
    wrong_values = {o for o, found in outcomes.items() if not found.passed and not o.startswith("grad.")}
    for near in case["near_misses"]:
        if "expect" not in near or near.get("accepted"):
            continue
        fits = _agreement(case, near, answer, outcomes, dtype)
        without_gradients = {o: fit for o, fit in fits.items() if not o.startswith("grad.")}
        if fits and all(fits.values()):
            full.append(near["name"])
        elif all(without_gradients.values()) and wrong_values & set(near["expect"]):
            values.append(near["name"])
    return tuple(full or values)


def _agreement(case, near, answer, outcomes, dtype):
    """{output: whether the answer is what a near miss gives}; what it does not change has to be right."""
    if ("refused" in near["expect"]) != ("refused" in answer):
        return {"refused": False}
    if "refused" in answer:
        return {"refused": True}
    expect = {o: t for o, t in near["expect"].items() if o in answer}
    fits = {o: equals(t, case["expect"].get(o, t), answer[o], dtype) for o, t in expect.items()}
    if OPS[case["op"]].tapped and "read" not in case and [*fits.values()][-1:] == [True]:  # stored in part
        wrong = next((w for w in WRONG if (w.op, w.name) == (case["op"], near["name"])), None)
        out = by_floats(case, {wrong.entry: wrong.function}) if wrong else {}
        if out:
            expect = case["expect"]
            return {o: equals(kit.tensor(out[o]), expect[o], answer[o], dtype) for o in outcomes if o in out}
    return fits | {o: slight(found, case["expect"][o]) for o, found in outcomes.items() if o not in expect}


def slight(found: Any, expected: dict) -> bool:
    """Whether an output is right, or wrong by less than the vectors keep near misses for.

    They keep what lies 1 / MARGIN budgets of float32 or more from the right value; up to twice that is slight.
    """
    most = 2 / MARGIN * budget(expected, "float32") if "scale" in expected else 0.0
    return found.passed or found.error <= most


def by_floats(case: dict, changes: dict, rounded: str | None = None, slopes: str | None = None) -> dict:
    """{output: array} of a case in float64 by the formulas with some changed; {} where they do not fit its shapes.

    `rounded` is a coarser dtype that the inputs are rounded to, `slopes` one for the cotangents.
    """
    table, c = FORMULAS | changes, case_of(case)
    inputs = {name: coarse(x, rounded) if rounded else x for name, x in c.inputs.items()}
    cotangents = {name: coarse(g, slopes) if slopes else g for name, g in c.cotangents.items()}

    def weighed(varied):
        out = table[c.op](table, **(inputs | {name: varied[name] for name in c.gradients}))
        return sum(anp.sum(out[o] * g) for o, g in cotangents.items()), out

    with np.errstate(all="ignore"):
        try:
            if not c.gradients:
                return {o: exact.value(x) for o, x in table[c.op](table, **inputs).items()}
            _, out, grads = exact.differentiate(weighed, {n: np.asarray(inputs[n], float) for n in c.gradients})
        except (ValueError, IndexError):
            return {}
    return out | {f"grad.{name}": g for name, g in grads.items()}


def equals(wrong: dict, right: dict, answer: Any, dtype: str) -> bool:
    """Whether an answer is what a wrong reading gives, up to rounding."""
    if "scale" not in right or wrong["dtype"] != "float64":
        want = kit.array(wrong, "vectors")
        near = np.allclose if wrong["dtype"] == "float64" and isinstance(answer, np.ndarray) else np.array_equal
        return np.shape(want) == np.shape(answer) and near(want, answer)
    if not isinstance(answer, np.ndarray) or list(answer.shape) != wrong["shape"]:
        return False
    value, scale = floats(wrong), right["scale"]
    way = distance(value, floats(right), scale) if wrong["shape"] == right["shape"] else 1.0
    finite = value[np.isfinite(value)]
    size = float(np.abs(finite).max()) / scale if finite.size else 0.0  # errors grow with the wrong value itself
    allowed = budget(right, dtype) * SLACK * max(1.0, size) + STORED * size
    return distance(answer, value, scale) <= max(allowed, min(way, FARTHEST) * ON_THE_WAY)


# ---------------------------------------------------------------- a wrong reading of an operation inside


def inside(case: dict, answer: dict, outcomes: dict, dtype: str) -> tuple:
    """ "operation: name" of the wrong readings inside a composed operation that explain its whole answer."""
    if "read" in case or not outcomes or any(not isinstance(answer[o], np.ndarray) for o in outcomes):
        return ()
    return tuple(dict.fromkeys(f"{w.op}: {w.name}" for w in _candidates(case, answer, outcomes, dtype)))


def _candidates(case, answer, outcomes, dtype) -> Iterator[Wrong]:
    op = case["op"]
    failing = [o for o, found in outcomes.items() if not found.passed]
    if op != "training":
        ops = rests_on(op) - {op}
    elif failing[0].startswith("grad."):
        ops = set()  # values are right: only what `known` has tried changes gradients alone
    else:
        ops = (
            {"sgd"}
            if failing[0].startswith(("after.", "L_step"))
            else rests_on(networks.origin(failing[0], ())[0])
        )
    for wrong in WRONG:
        if wrong.op in ops and not wrong.accepted and OPS[wrong.op].suite not in (0, 5):
            if (
                op == "training"
                and "sgd" not in ops
                and not _first_taps_fit(case, wrong, answer, failing[0], dtype)
            ):
                continue
            out = by_floats(case, {wrong.entry: wrong.function})
            if _fit_in_full(case, out, answer, failing, outcomes, dtype):
                yield wrong


def _fit_in_full(case, out, answer, failing, outcomes, dtype):
    """Whether an answer is `out` in every output, and `out` is not the right one."""
    if not all(o in out for o in outcomes):
        return False
    made = {o: kit.tensor(out[o]) for o in outcomes}
    right = lambda o: equals(made[o], case["expect"][o], kit.array(case["expect"][o], "vectors"), dtype)
    return all(equals(made[o], case["expect"][o], answer[o], dtype) for o in outcomes) and not all(
        map(right, failing)
    )


def _first_taps_fit(case, wrong, answer, first, dtype):
    """Whether the first symbol of the chain that fails is what a wrong reading gives, without any gradient."""
    table, given = FORMULAS | {wrong.entry: wrong.function}, dict(case_of(case).inputs)
    sen1, sen2, y, ids = (given.pop(name) for name in ("sen1", "sen2", "y", "ids"))
    alpha, beta, heads, *_ = (given.pop(n) for n in ("alpha", "beta", "heads", "lr", "momentum", "weight_decay"))
    try:
        with np.errstate(all="ignore"):
            X = table["band_groups"](table, sen1=sen1, sen2=sen2)
            _, taps = networks.figure_1(table, given, X, y, ids, alpha, beta, heads)
        return equals(kit.tensor(taps[first]), case["expect"][first], answer[first], dtype)
    except (ValueError, IndexError, TypeError):
        return False


# ---------------------------------------------------------------- answers without computation


CLEAR = 1e-3  # a smaller error than this is no other answer


def hollow(case: dict, answer: dict, outcomes: dict, kit_cases: dict) -> tuple:
    """Names for answers that nothing was computed for, of all values that fail."""
    failing = [o for o, found in outcomes.items() if not found.passed and not o.startswith(("grad.", "after."))]
    only_slopes = not failing
    failing = failing or [o for o, found in outcomes.items() if not found.passed]
    if not all(isinstance(answer[o], np.ndarray) and answer[o].size for o in failing):
        return ()
    if min(outcomes[o].error for o in failing) < CLEAR:
        return ()
    given = [kit.array(t, "vectors") for t in case["inputs"].values()]
    same = lambda a, b: isinstance(b, np.ndarray) and a.shape == b.shape and np.allclose(a, b, rtol=1e-5, atol=0)
    others = [c["expect"] for c in kit_cases.values() if c["op"] == case["op"] and c["id"] != case["id"]]
    tests = {
        f"zeros for the {'gradient' if only_slopes else 'answer'}": lambda o, a: not a.any(),
        "ones for the answer": lambda o, a: bool((a == 1).all()),
        "an input returned": lambda o, a: any(same(a, x) for x in given),
        "the answer of another case": lambda o, a: any(same(a, kit.array(e[o], "v")) for e in others if o in e),
        "the right numbers in another order": lambda o, a: _permuted(a, case["expect"][o]),
    }
    return tuple(name for name, holds in tests.items() if all(holds(o, answer[o]) for o in failing))[:1]


def _permuted(a, expected):
    want = kit.array(expected, "vectors")
    if not isinstance(want, np.ndarray) or a.size != want.size or len(np.unique(want)) < 3:
        return False
    return bool(np.allclose(np.sort(a.ravel()), np.sort(want.ravel()), rtol=1e-5, atol=1e-7 * np.abs(want).max()))


# ---------------------------------------------------------------- precision

ROUNDED = "rounded as in "
LABELS = {"float32": "float32", "float16": "float16 or TF32", "bfloat16": "bfloat16"}
PRODUCTS = ("linear", "conv2d", "attention", "similarity", "text_encoder")  # operations that multiply matrices


def precision(case: dict, answer: dict, outcomes: dict, dtype: str) -> tuple:
    """ "rounded as in bfloat16" for each coarser dtype that explains every output that fails.

    It explains an output whose numbers all lie on its grid, next to the right ones, and one that equals what
    rounded inputs or rounded products give. The size of an error alone explains nothing.
    """
    failing = {o: found for o, found in outcomes.items() if not found.passed}
    if not all("scale" in case["expect"][o] and np.isfinite(found.error) for o, found in failing.items()):
        return ()
    found = []
    for c in reversed(list(EPS)[list(EPS).index(dtype) + 1 :]):
        rest = {o for o, f in failing.items() if not _on_grid(answer[o], case["expect"][o], f.error, c)}
        for out in _recomputed(case, c):
            if not rest:
                break
            rest -= {o for o in rest & set(out) if equals(kit.tensor(out[o]), case["expect"][o], answer[o], dtype)}
        if not rest:
            found.append(f"{ROUNDED}{LABELS[c]}")
    return tuple(found)


def told_apart(fits: set, exact_cases_fail: bool) -> set:
    """Of names of precision alone the coarsest, and none if a case of all 53 bits passes."""
    if not fits or not all(name.startswith(ROUNDED) for name in fits):
        return fits
    coarsest = [f"{ROUNDED}{label}" for label in reversed(LABELS.values()) if f"{ROUNDED}{label}" in fits][:1]
    return set(coarsest) if exact_cases_fail else set()


def _on_grid(answer, expect, error, c):
    """Whether an answer has only numbers of a coarser dtype, where the right numbers are none of it but near."""
    right = floats(expect)
    if not isinstance(answer, np.ndarray) or answer.shape != right.shape or error > budget(expect, c):
        return False
    wrong = answer != right
    return bool(
        (coarse(answer.astype(float), c) == answer).all() and (coarse(right, c) != right)[wrong].mean() > 0.5
    )


def _recomputed(case, c) -> Iterator[dict]:
    """{output: array} of inputs, cotangents, and factors of matrix products that a coarser dtype has rounded."""
    for rounded, slopes in ((c, None), (None, c), (c, c)):
        yield by_floats(case, {}, rounded, slopes)
    if rests_on(case["op"]) & set(PRODUCTS) and not OPS[case["op"]].tapped:
        for backward in (False, True):
            product = functools.partial(rounded_product, c=c, backward=backward)
            yield by_floats(case, {"matmul": product})
            if case["op"] == "similarity":
                yield by_floats(case, {"matmul": product, "similarity": _one_product})


def _one_product(f, I_i, T_i):
    """Similarities whose S_hat is S transposed: their gradients meet before the product's rounding."""
    S = FORMULAS["similarity"](f, I_i=I_i, T_i=T_i)["S_i"]
    return {"S_i": S, "S_hat_i": S.T}


def rounded_product(a: Any, b: Any, c: str, backward: bool) -> Any:
    """a @ b of rounded factors; `backward` rounds the gradient too, a factor of the products that follow."""
    y = _forward(a, c) @ _forward(b, c)
    return _backward(y, c) if backward else y


@primitive
def _forward(x, c):
    return coarse(x, c)


@primitive
def _backward(y, c):
    return y


defvjp(_forward, lambda ans, x, c: lambda g: g, argnums=(0,))
defvjp(_backward, lambda ans, y, c: lambda g: coarse(g, c), argnums=(0,))

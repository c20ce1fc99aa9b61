"""Writes the vectors: expected values, scales, measured amplifications and near misses of every case.

All arithmetic is decimal, with 50 digits, so the files are the same bytes on every platform. A case is refused if
the loops and the arrays disagree, or if a wrong reading that it is there for lies within ten budgets of float32; a
wrong reading is refused if no case shows it.
"""

import decimal
import hashlib
import json
import shutil
from decimal import Decimal
from pathlib import Path

import numpy as np

from bplcz_ref import files, tokenizer
from bplcz_ref.conform import cases, cases_encoders, exact
from bplcz_ref.conform.certify import certified
from bplcz_ref.conform.ops import EXACT, OPS, SUITES
from bplcz_ref.conform.tensors import tensor
from bplcz_ref.conform.wrong import CANNOT_SHOW, READINGS
from bplcz_ref.conform.wrong_layers import WRONG

KIT = "1.0.0"  # MAJOR: the formats; MINOR: cases or near misses; PATCH: a case that was wrong
DIGITS = 50
ROUGH = (8, 10)  # digits at which the amplification is measured
FACTOR = 8
EPS = {"float64": 2.0**-52, "float32": 2.0**-23, "float16": 2.0**-10, "bfloat16": 2.0**-7}
MARGIN = 10  # a near miss is shown where it lies this many budgets away
EXPONENTIAL = ("bce", "contrastive_loss", "cross_entropy")  # e^x is uncertain by |x| eps, however it is computed
TAPPED = ("image_encoder", "text_encoder", "training")

MAKERS = {
    0: [cases.canaries],
    1: [cases.equations],
    2: [cases.supervised_matrix],
    3: [cases.sgd],
    4: [cases.bands],
    5: [cases.text],
    6: [cases_encoders.layers, cases_encoders.encoders],
    7: [cases_encoders.chain],
    8: [cases_encoders.metrics],
}


def all_cases():
    """{suite: [Case, ...]}."""
    return {suite: [case for make in makers for case in make()] for suite, makers in MAKERS.items()}


def evaluate(case, f, digits=DIGITS, moved=False):
    """{output: Exact, or an array of ints, or text} of a case by the table f, in decimal arithmetic.

    `moved` shifts every number by half a unit in its last digit, up or down: an error that arises inside the
    computation acts like one in its inputs, which rounding alone may miss where it happens to be exact.
    """
    context = decimal.Context(prec=digits, traps=[], Emax=999999, Emin=-999999)
    with decimal.localcontext(context):
        half = Decimal(10) ** (1 - digits) / 2 if moved else Decimal(0)
        inputs = {}
        for name, x in case.inputs.items():
            if isinstance(x, float) or (isinstance(x, np.ndarray) and x.dtype.kind == "f" and name != "lr"):
                signs = 1 - 2 * (cases.whole(f"{case.id} {name}", np.shape(x), 0, 1))
                x = exact.exact(x) * (1 + exact.exact(signs) * half)
                if name in case.gradients:
                    x = exact.variable(x)
                elif x.shape == ():
                    x = x.value[()]
            inputs[name] = x
        out = dict(f[case.op](f, **inputs))
        if case.cotangents and all(out[name].shape == np.shape(g) for name, g in case.cotangents.items()):
            J = exact.exact(0)
            for name, g in case.cotangents.items():
                J = J + exact.sum(exact.exact(out[name]) * exact.Exact(exact.exact(g).value))
            grads = exact.gradients(J, [inputs[name] for name in case.gradients])
            out |= {f"grad.{name}": g for name, g in zip(case.gradients, grads, strict=True)}
        if case.op == "band_groups":  # whole numbers that are only copied: to be equal, not near
            out = {name: x.value.astype(int) for name, x in out.items()}
        return out


def up(x, digits=3):
    """A positive Decimal rounded up to a few digits, as a float: a bound that is short to write."""
    return float(Decimal(x).normalize(decimal.Context(prec=digits, rounding=decimal.ROUND_UP)))


def is_exact(x):
    return isinstance(x, exact.Exact)


def largest(array):
    """The largest entry of an array of Decimals; infinity if one is not a number."""
    entries = [x for x in np.ravel(array)]
    return Decimal("Infinity") if any(not x.is_finite() for x in entries) else max(entries)


def away(a, r, scale):
    """max |a - r| / scale of two outputs; 1e6 where they differ in kind, shape or as whole numbers or text."""
    far = Decimal(10) ** 6
    if not is_exact(r):
        return Decimal(0) if not is_exact(a) and np.array_equal(a, r) else far
    if not is_exact(a) or a.shape != r.shape:
        return far
    return min(largest(abs(np.asarray(a.value - r.value, dtype=object))) / Decimal(scale), far)


def settled(x):
    """An output as it is written: what is 0 but for the last of the digits is 0."""
    if not is_exact(x) or not x.value.size:
        return x
    noise = largest(x.mass) * Decimal("1e-35")
    value = np.empty(x.shape, dtype=object)
    for place in np.ndindex(x.shape):
        value[place] = x.value[place] if abs(x.value[place]) > noise else Decimal(0)
    return exact.Exact(value, x.mass)


def agree(case, out):
    """The outputs by loops.py in place of the arrays', after both were found to agree to 40 digits."""
    with decimal.localcontext(decimal.Context(prec=DIGITS)):
        loops = certified(case)
        for name, value in (loops or {}).items():
            if not is_exact(out[name]):
                if not np.array_equal(out[name], value):
                    raise ValueError(f"{case.id}: {name} differs between loops.py and the kit's definition")
                continue
            mine = np.asarray(out[name].value)
            theirs = np.empty(mine.shape, dtype=object)
            theirs[...] = np.asarray(value, dtype=object)
            if largest(abs(np.asarray(mine - theirs, dtype=object))) > largest(out[name].mass) * Decimal("1e-40"):
                raise ValueError(f"{case.id}: {name} differs between loops.py and the kit's definition")
            out[name] = exact.Exact(theirs, out[name].mass)
    return out, loops is not None


def expectations(case, f=EXACT):
    """({output: TENSOR with scale and amplification}, the outputs themselves, whether loops.py gave them)."""
    out, by_loops = evaluate(case, f), False
    if f is EXACT:
        out, by_loops = agree(case, out)
    rough = [(p, evaluate(case, f, p, moved=True)) for p in ROUGH]
    expect, least = {}, 1.0
    if case.op in EXPONENTIAL:
        least = max(1.0, *(float(np.max(np.abs(x))) / FACTOR for x in case.inputs.values()))
    for name, r in out.items():
        expect[name] = tensor(settled(r))
        if is_exact(r):
            mass = largest(r.mass)
            scale = up(mass) if mass else 1.0
            errors = [away(o[name], r, scale) / Decimal(10) ** (1 - p) for p, o in rough]
            expect[name] |= {"scale": scale, "amplification": up(max(Decimal(least), *errors), 2)}
    if case.op in TAPPED:  # so many outputs that some are measured by luck: those of a kind share the largest
        kinds = {}
        for name in [name for name in expect if "scale" in expect[name]]:
            kinds.setdefault(name.split(".")[0] if name.startswith(("grad.", "after.")) else "", []).append(name)
        for names in kinds.values():
            most = max(expect[name]["amplification"] for name in names)
            for name in names:
                expect[name]["amplification"] = most
    return expect, out, by_loops


def budget(expected, dtype):
    """What an output may be wrong by, in units of its scale."""
    return FACTOR * expected["amplification"] * EPS[dtype]


def near_misses(case, expect, out):
    """What wrong readings give where it is not the right value; `shows`: float32 tells it by a wide margin."""
    found = []
    for wrong in WRONG:
        if wrong.op != case.op:
            continue
        other = evaluate(case, EXACT | {wrong.entry: wrong.function})
        changed, most, shows = {}, Decimal(0), False
        for name in [name for name in out if name in other]:
            r = out[name]
            limit = budget(expect[name], "float32") if is_exact(r) else 0
            distance = away(other[name], r, expect[name].get("scale", 1))
            if distance > limit / MARGIN:
                changed[name], most = other[name], max(most, distance)
                shows = shows or distance > limit * MARGIN
        if changed:
            if case.op in TAPPED:
                first, last = list(changed)[0], [n for n in changed if not n.startswith("grad.")][-1]
                changed = {name: changed[name] for name in dict.fromkeys((first, last))}
            found.append(
                {
                    "name": wrong.name,
                    "reading": dict([wrong.reading]) if wrong.reading else None,
                    "distance": float(f"{most:.3g}"),
                    "shows": shows,
                    "expect": {name: tensor(x, digits=9) for name, x in changed.items()},
                }
            )
    missed = set(case.shows) - {near["name"] for near in found if near["shows"]}
    if missed:
        raise ValueError(f"{case.id}: does not show {', '.join(sorted(missed))} in float32")
    return found


def made(case):
    """One case as it stands in the file."""
    op = OPS[case.op]
    expect, out, by_loops = expectations(case)
    inputs = {name: tensor(x) for name, x in case.inputs.items()}
    cotangents = (
        {"cotangents": {name: tensor(x) for name, x in case.cotangents.items()}} if case.cotangents else {}
    )
    return {
        "id": case.id,
        "op": case.op,
        "equation": op.equation,
        "symbol": op.symbol,
        "formula": op.formula,
        "why": case.why,
        "flag": case.flag,
        "parents": list(op.parents),
        "inputs": inputs,
        **cotangents,
        "expect": expect,
        "near_misses": near_misses(case, expect, out),
        "source": {
            "paper": "arXiv 2412.18235",
            "method": f"{'scalar loops' if by_loops else 'arrays'} of Decimal, {DIGITS} digits",
        },
    }


def regenerate(folder):
    """Write all vectors and their manifest into `folder`; the same bytes every time."""
    texts, counts, shown = {}, {}, set()
    for suite, members in all_cases().items():
        made_cases = [made(case) for case in members]
        near = [(case["op"], n) for case in made_cases for n in case["near_misses"]]
        shown |= {(op, n["name"]) for op, n in near if n["shows"]}
        lines = ",\n".join(json.dumps(case, ensure_ascii=True, allow_nan=False) for case in made_cases)
        head = json.dumps({"kit": KIT, "suite": suite, "name": SUITES[suite]})[:-1]
        name = f"{suite}-{SUITES[suite]}.json"
        texts[name], counts[name] = f'{head}, "cases": [\n{lines}\n]}}\n', len(members)
    unseen = [f"{w.op}: {w.name}" for w in WRONG if (w.op, w.name) not in shown]
    if unseen:
        raise ValueError(f"no case shows these wrong readings in float32: {'; '.join(unseen)}")
    merges = tokenizer.vocabulary_folder() / tokenizer.MACHINE_FILE
    texts["merges.txt"], counts["merges.txt"] = merges.read_bytes().decode(), 0
    digest = {name: hashlib.sha256(text.encode()).hexdigest() for name, text in texts.items()}
    manifest = {
        "kit": KIT,
        "paper": "arXiv 2412.18235",
        "factor": FACTOR,
        "eps": EPS,
        "cases": sum(counts.values()),
        "files": {name: {"sha256": digest[name], "cases": counts[name]} for name in texts},
        "readings": READINGS,
        "cannot_show": CANNOT_SHOW,
    }
    for name, text in {**texts, "manifest.json": json.dumps(manifest, indent=1) + "\n"}.items():
        with files.whole(Path(folder) / name) as temporary:
            temporary.write_text(text, encoding="utf-8", newline="\n")
    return manifest


def export(folder):
    """Copy the packaged vectors, checked, into `folder`, which must be new or empty."""
    from bplcz_ref.conform.vectors import VECTORS, load

    kit, folder = load(), files.make_folder(folder)
    if any(folder.iterdir()):
        raise ValueError(f"{folder} is not empty; give a new folder")
    for name in (*kit.manifest["files"], "manifest.json"):
        shutil.copyfile(VECTORS / name, folder / name)
    return kit

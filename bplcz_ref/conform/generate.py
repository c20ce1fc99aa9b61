"""Writes the vectors: every case with its expected values and its near misses.

A case is refused if the loops and the formulas disagree, or if a wrong reading in its `shows` lies within ten
budgets of float32. A wrong reading is refused if no case shows it.
"""

import hashlib
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

from bplcz_ref import files, tokenizer
from bplcz_ref.conform import cases_encoders, cases_equations, cases_text
from bplcz_ref.conform.kit import (
    EPS,
    FACTOR,
    MARGIN,
    MERGES,
    RANGES,
    SUITES,
    VERSION,
    Case,
    budget,
    coarse,
    tensor,
)
from bplcz_ref.conform.ops import FORMULAS, OPS
from bplcz_ref.conform.oracle import (
    DIGITS,
    FAR,
    amplification,
    distance,
    evaluate,
    expectations,
    magnitudes,
    roughly,
    settled,
)
from bplcz_ref.conform.wrong import CANNOT_SHOW, READINGS, WRONG

PAPER = "arXiv 2412.18235"
NEAR_DIGITS = 9  # of a near miss: enough to recognise one, and the files stay small


def all_cases() -> dict:
    """{suite: [Case, ...]}: a case belongs to the suite of its operation; canaries are their own suite."""
    suites: dict = {suite: [] for suite in SUITES}
    for case in [*cases_equations.cases(), *cases_text.cases(), *cases_encoders.cases()]:
        suites[0 if case.flag == "CANARY" else OPS[case.op].suite].append(case)
    return suites


def near_misses(case: Case, expect: dict, out: dict) -> list:
    """What wrong readings give where it is not the right value; `shows`: float32 tells it by a wide margin."""
    found = []
    for wrong in [w for w in WRONG if w.op == case.op]:
        table = FORMULAS | {wrong.entry: wrong.function}
        other = evaluate(case, table)
        changed, gaps, shows = {}, {"": Decimal(0)}, False
        if ("refused" in other) != ("refused" in out):
            changed, gaps, shows = dict(other), {"": FAR}, True
        for name in [name for name in out if name in other]:
            limit = budget(expect[name], "float32") if "scale" in expect[name] else 0  # whole numbers have none
            gap = distance(other[name], out[name], expect[name].get("scale", 1))
            if gap > limit / MARGIN:
                changed[name], gaps[name] = other[name], gap
                shows = shows or gap > limit * MARGIN
        near = {"name": wrong.name, "reading": wrong.reading}
        if wrong.accepted and not changed:
            if wider := _wider(case, expect, out, table):
                found.append(near | {"distance": 0.0, "shows": False, "accepted": True, "amplification": wider})
            continue
        if not changed:
            continue
        if OPS[case.op].tapped:  # of dozens of taps a few suffice; grading works out the others
            changed = _telling(changed, gaps)
        near |= {"distance": float(f"{max(gaps.values()):.3g}"), "shows": shows}
        near |= {"accepted": True} if wrong.accepted else {}
        found.append(
            near | {"expect": {name: tensor(settled(x), digits=NEAR_DIGITS) for name, x in changed.items()}}
        )
    missed = set(case.shows) - {near["name"] for near in found if near["shows"]}
    if missed:
        raise ValueError(f"{case.id}: does not show {', '.join(sorted(missed))} in float32")
    return found


def _telling(changed, gaps):
    """The first output that a wrong reading changes, the last before the gradients, and the one farthest away."""
    plain = [name for name in changed if not name.startswith(("grad.", "after."))]
    farthest = max(gaps, key=gaps.__getitem__)
    return {name: changed[name] for name in dict.fromkeys((next(iter(changed)), *plain[-1:], farthest))}


def _wider(case, expect, out, table):
    """{output: amplification} where an accepted way, right in exact arithmetic, loses more digits than ours."""
    rough = roughly(case, table)
    found = {name: amplification(name, out[name], e["scale"], rough) for name, e in expect.items() if "scale" in e}
    return {name: a for name, a in found.items() if a > 2 * expect[name]["amplification"]}


COARSE, COARSE_DIGITS = "float16", 4  # of 11 bits; arithmetic of 4 digits is no coarser


def certify_precision(case: Case, expect: dict, out: dict) -> None:
    """Refuse a case of the flag PRECISION in which coarse inputs or arithmetic stay within ten budgets."""
    rounded = case._replace(
        inputs={name: coarse(x, COARSE) for name, x in case.inputs.items()},
        cotangents={name: coarse(g, COARSE) for name, g in case.cotangents.items()},
    )
    shown = set()
    for other in (evaluate(rounded, FORMULAS), evaluate(case, FORMULAS, COARSE_DIGITS)):
        gaps = {o: distance(other[o], out[o], e["scale"]) for o, e in expect.items() if "scale" in e}
        far = {o for o, gap in gaps.items() if gap > MARGIN * budget(expect[o], "float32")}
        shown |= far
        if not far and not OPS[case.op].picks:
            raise ValueError(f"{case.id}: does not show arithmetic of {COARSE} in float32")
    blind = {o for o, e in expect.items() if "scale" in e} - shown
    if blind and not OPS[case.op].tapped:
        raise ValueError(f"{case.id}: {', '.join(sorted(blind))} would not show {COARSE} in float32")


def _one_pass():
    """The formulas with accepted ways of the norms: a network built on them has to pass too."""
    return FORMULAS | {w.entry: w.function for w in WRONG if w.accepted and w.op in ("batch_norm", "layer_norm")}


def as_json(case: Case, near: bool = True) -> dict:
    """The CASE of the file; `near` asks for its near misses."""
    op = OPS[case.op]
    expect, out = expectations(case, also=(_one_pass(),) if op.tapped else ())
    if case.flag == "PRECISION":
        certify_precision(case, expect, out)
    tensors = lambda arrays: {name: tensor(x) for name, x in arrays.items()}
    return {
        "id": case.id,
        "op": case.op,
        "equation": op.equation,
        "symbol": op.symbol,
        "formula": op.formula,
        "why": case.why,
        "flag": case.flag,
        "parents": list(op.parents),
        "inputs": tensors(case.inputs),
        **({"cotangents": tensors(case.cotangents)} if case.cotangents else {}),
        "expect": expect,
        "range": magnitudes(case, out),
        "near_misses": near_misses(case, expect, out) if near else [],
        "source": {
            "paper": PAPER,
            "method": f"{'scalar loops' if op.loops else 'arrays'} of Decimal, {DIGITS} digits",
        },
    }


def contents(suites: dict, **head: Any) -> dict:
    """{file: text} of a whole kit: a file for each suite that has cases, the merges, and the manifest.

    `suites` is {suite: [CASE, ...]}; `head` is added to the manifest.
    """
    texts, counts = {}, {}
    for suite, made in suites.items():
        lines = ",\n".join(json.dumps(case, ensure_ascii=True, allow_nan=False) for case in made)
        first = json.dumps({"kit": VERSION, "suite": suite, "name": SUITES[suite]})[:-1]  # without its brace
        name = f"{suite}-{SUITES[suite]}.json"
        texts[name], counts[name] = f'{first}, "cases": [\n{lines}\n]}}\n', len(made)
    merges = (tokenizer.vocabulary_folder() / tokenizer.MACHINE_FILE).read_bytes().decode()
    digest = lambda text: hashlib.sha256(text.encode()).hexdigest()
    manifest = {
        "kit": VERSION,
        "paper": PAPER,
        **head,
        "factor": FACTOR,
        "eps": EPS,
        "ranges": RANGES,
        "cases": sum(counts.values()),
        "files": {name: {"sha256": digest(text), "cases": counts[name]} for name, text in texts.items()},
        "other_files": {MERGES.name: {"sha256": digest(merges)}},
        "readings": READINGS,
        "cannot_show": CANNOT_SHOW,
    }
    return texts | {MERGES.name: merges, "manifest.json": json.dumps(manifest, indent=1, allow_nan=False) + "\n"}


def write(folder: Path, texts: dict) -> None:
    """The files of a kit into a folder."""
    for name, text in texts.items():
        with files.whole(folder / name) as temporary:
            temporary.write_text(text, encoding="utf-8", newline="\n")


def unseen(suites: dict) -> list:
    """The wrong readings that no case shows, and the accepted ones that none recognises."""
    shown = {
        (case["op"], near["name"])
        for made in suites.values()
        for case in made
        for near in case["near_misses"]
        if near["shows"] or near.get("accepted")
    }
    return [w for w in WRONG if (w.op, w.name) not in shown]


def regenerate(folder: str | Path) -> int:
    """Write all vectors and their manifest into `folder`, the same bytes every time; returns how many cases."""
    folder = files.make_folder(folder)  # before the work of a minute
    for name in (*(f"{suite}-{title}.json" for suite, title in SUITES.items()), MERGES.name, "manifest.json"):
        if (folder / name).exists() and not (folder / name).is_file():
            raise ValueError(f"{folder / name} is no regular file; move it away, or give another folder")
    suites = {suite: [as_json(case) for case in members] for suite, members in all_cases().items()}
    if missed := unseen(suites):
        raise ValueError(f"no case shows these in float32: {'; '.join(f'{w.op}: {w.name}' for w in missed)}")
    write(folder, contents(suites))
    return sum(map(len, suites.values()))

"""Writes the vectors: every case with its expected values and its near misses.

A case is refused if the loops and the formulas disagree, or if a wrong reading in its `shows` lies within ten
budgets of float32. A wrong reading is refused if no case shows it.
"""

import hashlib
import json
from decimal import Decimal
from pathlib import Path

from bplcz_ref import files, tokenizer
from bplcz_ref.conform import cases_encoders, cases_equations
from bplcz_ref.conform.kit import EPS, FACTOR, MARGIN, MERGES, SUITES, VERSION, Case, budget, tensor
from bplcz_ref.conform.ops import FORMULAS, OPS
from bplcz_ref.conform.oracle import DIGITS, distance, evaluate, expectations
from bplcz_ref.conform.wrong import CANNOT_SHOW, READINGS, WRONG

PAPER = "arXiv 2412.18235"
NEAR_DIGITS = 9  # of a near miss: enough to recognise one, and the files stay small


def all_cases() -> dict:
    """{suite: [Case, ...]}: a case belongs to the suite of its operation; canaries are their own suite."""
    suites: dict = {suite: [] for suite in SUITES}
    for case in [*cases_equations.cases(), *cases_encoders.cases()]:
        suites[0 if case.flag == "CANARY" else OPS[case.op].suite].append(case)
    return suites


def near_misses(case: Case, expect: dict, out: dict) -> list:
    """What wrong readings give where it is not the right value; `shows`: float32 tells it by a wide margin."""
    found = []
    for wrong in [w for w in WRONG if w.op == case.op]:
        other = evaluate(case, FORMULAS | {wrong.entry: wrong.function})
        changed, most, shows = {}, Decimal(0), False
        for name in [name for name in out if name in other]:
            limit = budget(expect[name], "float32") if "scale" in expect[name] else 0  # whole numbers have none
            gap = distance(other[name], out[name], expect[name].get("scale", 1))
            if gap > limit / MARGIN:
                changed[name], most = other[name], max(most, gap)
                shows = shows or gap > limit * MARGIN
        if not changed:
            continue
        if OPS[case.op].tapped:  # of dozens of taps the first and the last change suffice
            first, last = next(iter(changed)), [name for name in changed if not name.startswith("grad.")][-1]
            changed = {name: changed[name] for name in dict.fromkeys((first, last))}
        found.append(
            {
                "name": wrong.name,
                "reading": wrong.reading,
                "distance": float(f"{most:.3g}"),
                "shows": shows,
                "expect": {name: tensor(x, digits=NEAR_DIGITS) for name, x in changed.items()},
            }
        )
    missed = set(case.shows) - {near["name"] for near in found if near["shows"]}
    if missed:
        raise ValueError(f"{case.id}: does not show {', '.join(sorted(missed))} in float32")
    return found


def as_json(case: Case) -> dict:
    """The CASE of the file."""
    op = OPS[case.op]
    expect, out = expectations(case)
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
        "near_misses": near_misses(case, expect, out),
        "source": {
            "paper": PAPER,
            "method": f"{'scalar loops' if op.loops else 'arrays'} of Decimal, {DIGITS} digits",
        },
    }


def regenerate(folder: str | Path) -> dict:
    """Write all vectors and their manifest into `folder`, the same bytes every time; returns the manifest."""
    folder = files.make_folder(folder)  # before the work of a minute
    for name in (*(f"{suite}-{title}.json" for suite, title in SUITES.items()), MERGES.name, "manifest.json"):
        if (folder / name).exists() and not (folder / name).is_file():
            raise ValueError(f"{folder / name} is no regular file; move it away, or give another folder")
    texts, counts, shown = {}, {}, set()
    for suite, members in all_cases().items():
        made = [as_json(case) for case in members]
        shown |= {(case["op"], near["name"]) for case in made for near in case["near_misses"] if near["shows"]}
        lines = ",\n".join(json.dumps(case, ensure_ascii=True, allow_nan=False) for case in made)
        head = json.dumps({"kit": VERSION, "suite": suite, "name": SUITES[suite]})[:-1]  # without its brace
        name = f"{suite}-{SUITES[suite]}.json"
        texts[name], counts[name] = f'{head}, "cases": [\n{lines}\n]}}\n', len(members)
    unseen = [f"{w.op}: {w.name}" for w in WRONG if (w.op, w.name) not in shown]
    if unseen:
        raise ValueError(f"no case shows these wrong readings in float32: {'; '.join(unseen)}")
    merges = tokenizer.vocabulary_folder() / tokenizer.MACHINE_FILE
    texts[MERGES.name], counts[MERGES.name] = merges.read_bytes().decode(), 0
    digest = {name: hashlib.sha256(text.encode()).hexdigest() for name, text in texts.items()}
    manifest = {
        "kit": VERSION,
        "paper": PAPER,
        "factor": FACTOR,
        "eps": EPS,
        "cases": sum(counts.values()),
        "files": {name: {"sha256": digest[name], "cases": counts[name]} for name in texts},
        "readings": READINGS,
        "cannot_show": CANNOT_SHOW,
    }
    for name, text in {**texts, "manifest.json": json.dumps(manifest, indent=1) + "\n"}.items():
        with files.whole(folder / name) as temporary:
            temporary.write_text(text, encoding="utf-8", newline="\n")
    return manifest

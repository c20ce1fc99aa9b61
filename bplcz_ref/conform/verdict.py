"""From graded cases to a verdict: what is guilty, what is blocked by it, what drifts; never more than a screen.

guilty   fails when fed the reference's own inputs, and nothing that it rests on fails
blocked  fails below something that is guilty: ignore it until that is fixed
drift    fails in the chain although it passes alone and what it is computed from passes: the parts are right, and
         their joining, or a setting of the training program, is not
"""

import textwrap
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from bplcz_ref.conform.grading import (
    EVERYTHING,
    FAIL,
    MISSING,
    NOT_ASKED,
    NOT_RUN,
    PASS,
    UNDECIDED,
    Answers,
    Graded,
    Profile,
    grade,
    under_readings,
)
from bplcz_ref.conform.kit import SUITES, Kit
from bplcz_ref.conform.naming import ROUNDED, names, slight, told_apart
from bplcz_ref.conform.networks import origin
from bplcz_ref.conform.ops import OPS, Op, rests_on

LINES = 24
WIDTH = 160


class Finding(NamedTuple):
    state: str  # guilty, blocked, drift
    op: str
    output: str  # the first that fails
    names: tuple  # the wrong reading that every failing case fits, or nothing
    alike: tuple  # two or more that fit equally well: none of them is named
    cases: tuple  # ids of the failing cases
    total: int
    error: float
    allowed: float
    note: str


class Report(NamedTuple):
    kit: str
    dtype: str
    profile: Profile
    graded: dict  # id -> Graded
    suites: dict  # id -> number of its suite
    findings: tuple
    defects: tuple
    exit_code: int

    @property
    def ok(self) -> bool:
        return self.exit_code == 0

    def of(self, state: str) -> list:
        """The graded cases in a state."""
        return [g for g in self.graded.values() if g.state == state]

    def __str__(self):
        return text(self)


def report(vectors: Kit, answers: Answers, dtype: str, profile: Profile = EVERYTHING) -> Report:
    """Grade answers under a profile: each case, then the findings, then the exit code."""
    declared = {name for name, case in vectors.cases.items() if profile.declares(case, vectors.suites[name])}
    cases = under_readings(vectors.cases, profile.readings, wanted=declared)
    graded, defects = {}, list(answers.defects)
    for name, case in cases.items():
        if name in declared:
            graded[name] = grade(case, answers.given.get(name), dtype, profile.gradients, profile.products)
        else:
            graded[name] = Graded(name, case["op"], NOT_RUN, {})
            if name in answers.given:
                defects.append(f"{name}: answered, but the profile declares it absent; change the profile")
    failing = {g.op for g in graded.values() if g.state == FAIL}
    for g in [g for g in graded.values() if g.state == FAIL and not (rests_on(g.op) - {g.op}) & failing]:
        fits = names(cases[g.id], answers.given[g.id], g.outcomes, dtype, cases)  # of what is not blocked
        graded[g.id] = g._replace(fits=fits)
    for g in graded.values():
        defects += [f"{g.id}: {name}: {o.note}" for name, o in g.outcomes.items() if o.malformed]
    states = {g.state for g in graded.values()}
    if defects or any(_incomplete(g) for g in graded.values()) or not {PASS, FAIL} & states:
        exit_code = 2
    else:
        exit_code = 1 if FAIL in states else 0
    return Report(
        kit=vectors.manifest["kit"],
        dtype=dtype,
        profile=profile,
        graded=graded,
        suites=vectors.suites,
        findings=tuple(_findings(cases, graded)),
        defects=tuple(defects),
        exit_code=exit_code,
    )


def _incomplete(g):
    return g.state == MISSING or g.why.startswith("no output")


# ---------------------------------------------------------------- findings


def _findings(cases, graded):
    """What fails, in topological order, guilty first."""
    failing = {}
    for g in graded.values():
        if g.state == FAIL:
            failing.setdefault(g.op, []).append(g)
    chains = failing.pop("training", [])
    found = []
    for op in OPS:
        if op in failing:
            state = "blocked" if (rests_on(op) - {op}) & set(failing) else "guilty"
            found.append(_finding(state, op, failing[op], cases, graded))
    named = [set(g.fits) for g in chains if g.fits]
    common = tuple(told_apart(set.intersection(*named) if named else set(), len(named) == len(chains)))
    for g in chains:
        found += _in_chain(g._replace(fits=common), cases[g.id], set(failing), graded)
    return sorted(found, key=lambda f: ("guilty", "drift", "blocked").index(f.state))


def _finding(state, op, failed, cases, graded):
    """One Finding on an operation from its failing cases."""
    telling = [g for g in failed if not _overflowed(g) and not _slight(g, cases[g.id]["expect"])] or failed
    common = lambda cases: set(cases[0].fits).intersection(*(g.fits for g in cases))
    fits = common([g for g in telling if not _rounded(g)] or telling)  # a wrong formula may also lose digits
    own = [g for g in graded.values() if g.op == op]
    for g in own:
        if g.state == PASS or (g.state == FAIL and _rounded(g)):  # a wrong reading that this case would have shown
            fits -= {near["name"] for near in cases[g.id]["near_misses"] if near["shows"]}
    if fits and all(name.startswith(ROUNDED) for name in fits):
        fits = common(telling)
    fits = told_apart(fits, not any(cases[g.id]["flag"] == "PRECISION" and g.state == PASS for g in own))
    worst = max(failed, key=lambda g: (bool(g.fits), max(o.error for o in g.outcomes.values())))
    output, first = next((o, found) for o, found in worst.outcomes.items() if not found.passed)
    return Finding(
        state,
        op,
        output,
        names=tuple(fits) if len(fits) == 1 else (),
        alike=tuple(sorted(fits)) if len(fits) > 1 else (),
        cases=(worst.id, *(g.id for g in failed if g is not worst)),
        total=sum(g.state != NOT_RUN for g in own),
        error=first.error,
        allowed=first.allowed,
        note=first.note,
    )


def _overflowed(g):
    """Whether an answer is not finite where a wrong reading in exact arithmetic is: it then fits none."""
    return (not g.fits or _rounded(g)) and any(
        o.error == float("inf") and o.note == "nan" for o in g.outcomes.values()
    )


def _rounded(g):
    """Whether a coarse dtype would explain a case."""
    return bool(g.fits) and all(name.startswith(ROUNDED) for name in g.fits)


def _slight(g, expect):
    """Whether a case fails by less than the vectors keep near misses for: it then fits none and denies none."""
    return (not g.fits or _rounded(g)) and all(slight(found, expect[o]) for o, found in g.outcomes.items())


def _in_chain(g, case, guilty, graded):
    """Findings on the chain: the outputs that fail first, that is, while what they are computed from passes.

    An output below anything guilty is blocked, whatever lies between: a small error may pass there and not here.
    """
    failed = {o for o, found in g.outcomes.items() if not found.passed}
    out, below, before = [], set(), []
    for output in case["expect"]:
        op, parents = origin(output, tuple(before))
        before.append(output)
        fed_by = {"band_groups"} if op == "image_encoder" else set()  # its images in the chain are the groups
        if guilty & (rests_on(op) | fed_by) or below & set(parents):
            below.add(output)
        if output not in failed or failed & set(parents):
            continue
        state = "blocked" if output in below else "drift"
        run = [other.state for other in graded.values() if other.op == op != "training"]
        note = (
            f"{op} passes alone" if run and {PASS, UNDECIDED, NOT_ASKED} >= set(run) else f"{op} was not run alone"
        )
        if any((f.state, f.note) == (state, note) for f in out):
            continue  # the same operation in another group says nothing new
        o = g.outcomes[output]
        fits = g.fits if state == "drift" else ()
        named = (fits, ()) if len(fits) == 1 else ((), fits)
        out.append(Finding(state, "training", output, *named, (g.id,), 1, o.error, o.allowed, note))
    return out


# ---------------------------------------------------------------- the screen


def place(op: Op) -> str | None:
    """Where the paper has an operation: Eq. (7), or a section."""
    return f"Eq. ({op.equation})" if isinstance(op.equation, int) else op.equation


def _label(op):
    """Eq. (7) L_i2t [bce]."""
    return f"{place(OPS[op]) or 'reading'} {OPS[op].symbol} [{op}]"


def _line(f):
    if f.state == "blocked":
        where = f" at {f.output}" if f.op == "training" else ""
        return f"blocked  {_label(f.op)}{where}: ignore it until the guilty are fixed"
    meaning = "no known wrong reading fits"
    if f.names:
        meaning = f'this is "{f.names[0]}"'
    elif f.alike:
        meaning = f"these fit alike: {', '.join(f.alike[:3])}"
    size = f.note if f.error == float("inf") and f.note else f"error {f.error:.2g}, budget {f.allowed:.2g}"
    if f.state == "drift":
        return f"drift    {f.output} in {f.cases[0]} ({f.note}): {meaning}; {size}"
    return f"GUILTY   {_label(f.op)}: {meaning}; {len(f.cases)} of {f.total} cases, first at {f.output}: {size}"


def head(r: Report) -> str:
    """The first line: the verdict and how many cases are in which state."""
    counts = {state: len(r.of(state)) for state in (PASS, FAIL, MISSING, UNDECIDED, NOT_ASKED, NOT_RUN)}
    word = {0: "PASS", 1: "DIVERGES", 2: "INCOMPLETE"}[r.exit_code]
    if r.exit_code == 0 and counts[NOT_RUN]:
        word = "PASS of the declared part"
    rest = "".join(f", {n} {state}" for state, n in counts.items() if n and state != PASS)
    return f"{word}: {counts[PASS]} of {len(r.graded)} cases pass{rest} ({r.dtype}, kit {r.kit})"


def _not_run(r):
    """([suites of which nothing ran], {operation that lacks cases in the others: (cases not run, of all)})."""
    ran = {r.suites[g.id] for g in r.graded.values() if g.state != NOT_RUN}
    absent, every = Counter(g.op for g in r.of(NOT_RUN)), Counter(g.op for g in r.graded.values())
    ops = dict.fromkeys(g.op for g in r.of(NOT_RUN) if r.suites[g.id] in ran)
    return [s for s in SUITES if s not in ran], {op: (absent[op], every[op]) for op in ops}


def _absent_lines(r):
    """All that was not run: nothing passes by being cut from the screen."""
    suites, ops = _not_run(r)
    names = [f"all of suite {s} {SUITES[s]}" for s in suites]
    names += [f"{op} {n} of {m} cases" for op, (n, m) in ops.items()]
    lines = _wrapped("not run, as the profile declares:", names) if names else []
    if not r.profile.gradients:
        lines.append("not run, as the profile declares: gradients, and the training steps that need them")
    return lines


def _wrapped(start, items):
    """Lines of at most WIDTH, broken between items only (textwrap does not break at U+00A0)."""
    line = f"{start} {', '.join(item.replace(' ', chr(0xA0)) for item in items)}"
    lines = textwrap.wrap(line, WIDTH, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
    return [part.replace(chr(0xA0), " ") for part in lines]


def text(r: Report, folder: str | Path | None = None) -> str:
    """The report as at most LINES lines; `folder` is where the answers are, if they are files."""
    where = f" --answers {folder}" if folder else ""
    lines = [head(r)]
    lines += [f"  {line}" for line in r.defects[:5]]
    lines += [f"  ... and {len(r.defects) - 5} more defects"] * (len(r.defects) > 5)
    missing = [g for g in r.graded.values() if _incomplete(g)]
    if missing:
        lines.append(f"incomplete: {', '.join(f'{g.id} ({g.why})' for g in missing[:3])}")
        lines[-1] += f" and {len(missing) - 3} more" * (len(missing) > 3)
    found, last = [], []
    for f in r.findings:
        found.append(_line(f))
        if f.state != "blocked":
            found.append(f"         python -m bplcz_ref conform explain {f.cases[0]}{where}")
    if undecided := r.of(UNDECIDED):
        unseen = sorted({name for g in undecided for name in g.unseen})
        last.append(
            f"{r.dtype} cannot discriminate in {len(undecided)} cases, not counted as passes: {', '.join(unseen)}"
        )
    if unasked := r.of(NOT_ASKED):
        last += _wrapped(f"{r.dtype} has not the range for", [g.id for g in unasked])
    ways = dict.fromkeys((g.op, name) for g in r.graded.values() for name in g.accepted)
    if ways:
        last += _wrapped("accepted differences:", [f"{op}: {name}" for op, name in ways])
    last += _absent_lines(r)
    if r.profile.readings:
        last += _wrapped("graded on the readings", [f"{n}: {w}" for n, w in r.profile.readings.items()])
    agreed = [o.digits for g in r.of(PASS) for o in g.outcomes.values() if o.allowed]
    if agreed:
        last.append(
            f"digits agreed in what passes: {min(agreed):.1f} at least, {sorted(agreed)[len(agreed) // 2]:.1f} mid"
        )
    room = LINES - len(lines) - len(last)
    if len(found) > room:  # only findings are left out: the first are the ones to fix
        found = [*found[: room - 1], f"... {len(found) - room + 1} more lines; --json FILE has all of it"]
    lines += found + last
    return "\n".join(line if len(line) <= WIDTH else line[: WIDTH - 3] + "..." for line in lines)


def as_json(r: Report) -> dict:
    """Everything, as JSON values."""
    return {
        "kit": r.kit,
        "dtype": r.dtype,
        "exit_code": r.exit_code,
        "verdict": head(r),
        "profile": r.profile._asdict(),
        "defects": list(r.defects),
        "not_run": dict(zip(("suites", "operations"), _not_run(r), strict=True)),
        "findings": [f._asdict() | {"error": _finite(f.error)} for f in r.findings],
        "cases": {g.id: _case_json(g, r.suites[g.id]) for g in r.graded.values()},
    }


def _case_json(g, suite):
    outputs = {
        name: {"passed": o.passed, "error": _finite(o.error), "budget": o.allowed}
        | {"digits": round(o.digits, 2), "note": o.note}
        for name, o in g.outcomes.items()
    }
    case = {"op": g.op, "suite": suite, "state": g.state, "why": g.why, "fits": list(g.fits)}
    case |= {"accepted": list(g.accepted)}
    return case | {"cannot_discriminate": list(g.unseen), "outputs": outputs}


def _finite(x):
    return x if abs(x) < float("inf") else "Infinity"

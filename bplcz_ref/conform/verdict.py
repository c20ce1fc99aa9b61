"""From answers to a verdict: each case passes or fails, and the first operation that fails is guilty.

An operation that fails although all that it rests on passes is guilty; what all its answers equal is its name.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np

from bplcz_ref import program
from bplcz_ref.conform.exchange import VERSION, Answers, brief, finite, load
from bplcz_ref.conform.mistakes import LISTED, after, as_if, chosen, scales
from bplcz_ref.conform.numbers import BITS, EPS, RANGES, apart, coarse, expected, largest, limit, reach, solved
from bplcz_ref.conform.ops import OPS, Case, is_float, rests_on, worked_out

PASS, FAIL, MISSING, NOT_RUN = "pass", "fail", "missing", "not run"
UNDECIDED = "cannot discriminate"  # right, but the dtype cannot tell a listed mistake from it
NOT_ASKED = "cannot be asked"  # the case needs numbers that the dtype does not have
LINES, WIDTH = 24, 160  # of the screen
SHOWN = 3  # names, or cases, of one finding
DTYPES = ("float32", "float64")  # in which a chain or a trace can be judged


class Graded(NamedTuple):
    """One case."""

    case: Case
    state: str
    answer: dict
    wrong: dict  # {output: (error, the largest that passes)} of what fails, in the order of computation
    lacking: tuple = ()  # outputs that are not answered
    unseen: tuple = ()  # listed mistakes that no case of this dtype tells from the right answer


class Finding(NamedTuple):
    """One operation that fails."""

    state: str  # guilty, blocked
    op: str
    output: str  # the first that fails
    names: tuple  # what gives all the answers
    cases: tuple  # ids of the cases that fail, the most telling first
    total: int
    error: float
    allowed: float


class Report(NamedTuple):
    """The verdict; `str` of it is the screen."""

    answers: Answers  # with its declarations
    graded: dict  # id -> Graded
    findings: tuple
    defects: tuple
    path: str | None = None  # of the answers, for the lines to be run
    chain: Any = None  # what `diff` says of the chain (a Difference); None where it is not answered
    lacking: tuple = ()  # names of the chain that are not answered

    @property
    def exit_code(self) -> int:
        """0 all that is declared is answered and passes; 1 something diverges; 2 incomplete, odd or undecided."""
        states = {g.state for g in self.graded.values()}
        lacking = self.lacking or any(g.lacking for g in self.graded.values())
        if self.defects or lacking or not ({PASS, FAIL} & states or self.chain):
            return 2
        return 1 if FAIL in states or (self.chain and not self.chain.ok) else 0

    @property
    def ok(self) -> bool:
        return self.exit_code == 0

    def of(self, state: str) -> list:
        """The graded cases in a state."""
        return [g for g in self.graded.values() if g.state == state]

    def __str__(self):
        return text(self)


def check(
    functions: dict,
    gradients: Callable | None = None,
    from_numpy: Callable | None = None,
    to_numpy: Callable = np.asarray,
    dtype: str = "float32",
    *,
    seed: int = 0,
    readings: dict | None = None,
) -> Report:
    """Grade functions of another implementation; operations that are not given are reported as not run.

    functions   {operation: function}. A function takes the inputs of the case by name (arrays through
                from_numpy, numbers, text) and returns its outputs: a dict by name, a tuple in the order of the
                case, or the only one. `conform explain` lists the operations, with a case id their inputs.
                "chain" is a function of weights, x, y, tokens, alpha, beta, heads and SGD's numbers; it returns
                {name: array} of a trace (docs/trace.md), the names that the chain of the set expects at least.
    gradients   function(f, inputs, names, cotangents) -> {input name: gradient} of sum over outputs of
                sum(cotangent * output), cotangents by output name; None declares that there are no gradients.
    from_numpy  from a NumPy array of floats or ints to the framework's; to_numpy is the way back
    dtype       "float64", "float32", "tf32", "float16" or "bfloat16": what the functions compute in
    seed        0 for the public cases, else fresh ones
    readings    {reading: word} of docs/readings.md that the functions have in place of ours
    Returns a Report: `ok`, `exit_code`, `findings`; str(report) is the verdict.

    >>> print(check({"total_loss": lambda L_cls, L_con, beta: L_cls * beta + L_con}))  # doctest: +ELLIPSIS
    DIVERGES: 0 of ... cases pass, 3 fail, ... not run (float32, kit ...)
    GUILTY   Eq. (10) L [total_loss]: this is "beta on the other term"; 3 of 3 cases, first at L: error ...
             python -m bplcz_ref conform explain total_loss/...
    not run: gradients; read_array, band_groups, ...
    """
    if dtype not in EPS:
        raise ValueError(f"dtype is {dtype!r}; expected one of {', '.join(EPS)}")
    strange = [name for name in functions if name not in OPS and name != "chain"]
    if strange or not functions:
        raise ValueError(f"functions: {strange or 'none given'}; expected names among {', '.join(OPS)}")
    chosen(readings or {})
    defects: list[str] = []
    start = "float64" if dtype == "float64" else "float32"  # NumPy has no bfloat16; k / 32 is exact in each

    def convert(x):
        if not isinstance(x, np.ndarray):
            return x
        x = x.astype(start) if x.dtype.kind == "f" else x.copy()  # a function may change it in place
        return from_numpy(x) if from_numpy else x

    fresh = lambda arrays: {name: convert(x) for name, x in arrays.items()}

    def run(case):
        outputs = [o for o in case.expect if not o.startswith("grad.")]
        f = lambda **inputs: _named(functions[case.op](**inputs), outputs)
        out = f(**fresh(case.inputs))
        if gradients and case.slopes:
            slopes = gradients(f, fresh(case.inputs), list(case.slopes), fresh(case.cotangents))
            out = out | {f"grad.{name}": g for name, g in slopes.items()}
        return out if "refused" in (*out, *case.expect) else {o: x for o, x in out.items() if o in case.expect}

    def run_chain():
        from bplcz_ref.conform import chain  # it rests on this module

        _, inputs = chain.drawn(seed)
        return functions["chain"](**fresh(inputs | {"weights": fresh(inputs["weights"])}))

    def attempt(where, function, *arguments):
        try:  # a stranger's function may raise anything; that is a finding, not our crash
            return {o: _plain(x, o, to_numpy) for o, x in function(*arguments).items()}
        except Exception as error:
            defects.append(f"{where}: raised {type(error).__name__}: {brief(str(error))}")
            return {}

    cases = load(seed, tuple(functions))
    given = {case.id: attempt(case.id, run, case) for case in cases if case.op in functions}
    answered = attempt("chain", run_chain) if "chain" in functions else {}
    chain = {name: np.asarray(x) for name, x in answered.items()}
    without = tuple(op for op in OPS if op not in functions)
    answers = Answers(given, dtype, seed, without, gradients is not None, readings or {}, tuple(defects), chain)
    return report(cases, answers)


def _named(out, outputs):
    """{output: value} of what a function returned."""
    if isinstance(out, dict):
        return out
    values = out if isinstance(out, tuple) else (out,)
    if len(values) != len(outputs):
        raise ValueError(f"expected a dict or a tuple of {', '.join(outputs)}")
    return dict(zip(outputs, values, strict=True))


def _plain(x, output, to_numpy):
    """A function's output as text or as an array of real numbers."""
    if isinstance(x, str) or (isinstance(x, list) and all(isinstance(entry, str) for entry in x)):
        return x
    x = np.asarray(to_numpy(x))
    if x.dtype.kind not in "biuf":
        raise ValueError(f"{output} came as {x.dtype}; expected real numbers or a list of text")
    return x.astype(np.float64 if x.dtype.kind == "f" else np.int64)


def report(cases: Iterable[Case], answers: Answers, path: str | None = None) -> Report:
    """Grade answers: each case, then the findings."""
    ways, graded, defects = chosen(answers.readings), {}, list(answers.defects)
    for case in cases:
        if case.op in answers.without:
            graded[case.id] = Graded(case, NOT_RUN, {}, {})
            if case.id in answers.given:
                defects.append(f"{case.id}: answered, but `without` declares {case.op} absent; change one of them")
            continue
        case = solved(case, ways[case.op]) if case.op in ways else case
        if not answers.gradients:
            case = case._replace(expect={o: x for o, x in case.expect.items() if not o.startswith("grad.")})
        graded[case.id] = grade(case, answers.given.get(case.id), answers.dtype)
    graded |= undecided(graded, answers.dtype)
    made = Report(answers, graded, tuple(found_in(graded, answers)), tuple(defects), path)
    if answers.chain and answers.dtype in DTYPES:
        from bplcz_ref.conform import chain  # it rests on this module

        found, lacking = chain.judge(answers.chain, answers.seed, answers.dtype)
        made = made._replace(chain=found, lacking=tuple(lacking))
    return made


def grade(case: Case, answer: dict | None, dtype: str) -> Graded:
    """One solved case; `answer` is None where there is none."""
    (smallest, most), (least, high) = reach(case), RANGES[dtype]
    if smallest < least or most > high:
        return Graded(case, NOT_ASKED, answer or {}, {})
    if not answer:
        return Graded(case, MISSING, {}, {}, tuple(case.expect))
    if ("refused" in answer) != ("refused" in case.expect):
        return Graded(case, FAIL, answer, {next(iter(case.expect)): (math.inf, 0.0)})
    errors = {o: (apart(answer[o], x), limit(a, dtype)) for o, (x, a) in case.expect.items() if o in answer}
    wrong = {o: pair for o, pair in errors.items() if not pair[0] <= pair[1]}
    lacking = tuple(o for o in case.expect if o not in answer)
    return Graded(case, FAIL if wrong else MISSING if lacking else PASS, answer, wrong, lacking)


def undecided(graded: dict, dtype: str) -> dict:
    """The cases whose passing says too little: a listed mistake that float32 shows there is hidden in this dtype
    wherever the operation passes."""
    found: dict = {}
    failing = {g.case.op for g in graded.values() if g.state == FAIL}
    for op in [op for op in LISTED if op not in failing and EPS[dtype] > EPS["float32"]]:
        passing = [g for g in graded.values() if g.case.op == op and g.state == PASS]
        for name, way in LISTED[op].items():
            shown = [g for g in passing if told(g.case, way, "float32")]
            for g in [] if any(told(g.case, way, dtype) for g in shown) else shown:
                before = found.get(g.case.id, g)
                found[g.case.id] = before._replace(state=UNDECIDED, unseen=(*before.unseen, name))
    return found


def told(case: Case, way: Callable, dtype: str) -> bool:
    """Whether no answer of this dtype can be within what is allowed of both the right value and another way."""
    try:
        out = worked_out(way, case)
    except (ValueError, IndexError, TypeError):
        return True
    return any(o not in out or apart(out[o], x) > 2 * limit(a, dtype) for o, (x, a) in case.expect.items())


def found_in(graded: dict, answers: Answers) -> list[Finding]:
    """What fails in topological order, guilty first."""
    failing = {op: [g for g in graded.values() if g.case.op == op and g.state == FAIL] for op in OPS}
    failing = {op: own for op, own in failing.items() if own}
    found = []
    for op, wrong in failing.items():
        blocked = bool((rests_on(op) - {op}) & set(failing))
        own = [g for g in graded.values() if g.case.op == op and g.state in (PASS, FAIL)]
        names = () if blocked else tuple(explanations(op, own, answers.dtype, answers.readings))
        worst = max(wrong, key=clarity)
        output, pair = next(iter(worst.wrong.items()))
        ids = (worst.case.id, *(g.case.id for g in wrong if g is not worst))
        found.append(Finding("blocked" if blocked else "guilty", op, output, names, ids, len(own), *pair))
    return sorted(found, key=lambda f: f.state == "blocked")


def clarity(g: Graded) -> tuple:
    """How far beyond what passes a case is; what is not finite says less than any number."""
    error, allowed = next(iter(g.wrong.values()))
    return (True, error / allowed) if allowed and math.isfinite(error) else (not allowed, 0.0)


def explanations(op: str, own: list[Graded], dtype: str, readings: dict | None = None) -> list[str]:
    """Names of the ways to run an operation that give all its answers, in `own`."""
    run = chosen(readings or {}).get(op, OPS[op].run)
    ours = ", ".join(f"{n} {w}" for n, w in (readings or {}).items())
    known = {f"the paper as read here (not {ours})": OPS[op].run} if run is not OPS[op].run else {}
    return named_ways(run, LISTED.get(op, {}) | known, own, dtype)


def named_ways(run: Callable, listed: dict, own: list[Graded], dtype: str) -> list[str]:
    """Names of the ways that give all answers where `run` is right: listed ones first, else by rule.

    A way counts only if it accounts for what is wrong (fits). More than three of a kind say nothing: no name then.
    Where no way fits in all, values alone decide: gradients of a wrong formula depend on how it is worked out.
    """
    finite = [g for g in own if all(np.isfinite(x).all() for x in g.answer.values() if is_float(x))]
    own = finite if any(g.wrong for g in finite) else own  # overflow hides the way
    own = sorted(own, key=lambda g: (g.state == PASS, -len(g.wrong)))
    if any("refused" in {*g.answer, *g.case.expect} for g in own if g.wrong):
        return []
    outputs = [o for o in own[0].case.expect if not o.startswith("grad.")]
    inputs = own[0].case.inputs
    values_fail = any(not o.startswith("grad.") for g in own for o in g.wrong)
    for values_alone in (False, True) if values_fail else (False,):
        for ways in (listed.items(), as_if(run, inputs), after(run, outputs, inputs)):
            if names := [name for name, way in ways if fits(way, own, dtype, values_alone)]:
                return names if len(names) <= SHOWN else []
    return scaled(own, dtype) or shorter(own, dtype)


def fits(way: Callable, own: list[Graded], dtype: str, values_alone: bool = False) -> bool:
    """Whether a way gives every answer within its own rounding, and leaves little of each error."""
    for g in own:
        case = g.case._replace(slopes=(), cotangents={}) if values_alone else g.case
        try:
            out = worked_out(way, case)
            asked = [o for o in g.case.expect if o in g.answer and not (values_alone and o.startswith("grad."))]
            if not all(o in out and _near(way, case, g, o, out[o], dtype) for o in asked):
                return False
        except (ValueError, IndexError, TypeError, ZeroDivisionError, AttributeError, KeyError):
            return False  # a way that makes no sense of these inputs
    return True


def _near(way, case, g, o, x, dtype):
    """Whether the answer to output o is x, what a way gives; what is wrong has to be wrong because of it."""
    error = apart(g.answer[o], x)
    if o in g.wrong:
        if error <= 1e-6 * g.wrong[o][0] < math.inf:
            return True  # another form of the way, with other rounding
        if not error <= min(g.wrong[o][0] / 4, 1e300):
            return False
    allowed = g.case.expect[o][1]
    if allowed is None:
        return error == 0 or (is_float(x) and error <= 8 * EPS[dtype] * largest(x))
    if error <= 4 * limit(allowed + largest(x), dtype):
        return True
    value, own = expected(case, way)[o]  # the rounding of the wrong way itself, which takes longer to find
    return apart(g.answer[o], value) <= limit(own, dtype)


def scaled(own: list[Graded], dtype: str) -> list[str]:
    """ "L and grad.S times the size of W": one factor, told by the case, that makes all answers of what fails."""
    failing = list(dict.fromkeys(o for g in own for o in g.wrong))
    words = set(scales(next(g for g in own if g.wrong).case))

    def near(g, o, c):
        right, allowed = g.case.expect[o]
        if not is_float(right) or np.shape(right) != np.shape(g.answer[o]):
            return False
        gap = apart(g.answer[o], c * right)
        return gap <= min(4 * max(1.0, abs(c)) * limit(allowed, dtype), g.wrong.get(o, (math.inf,))[0] / 4)

    told = {}
    for word in sorted(words, reverse=True):
        factors = tuple(scales(g.case).get(word) for g in own)
        known = [(g, c) for g, c in zip(own, factors, strict=True) if c is not None]
        if all(near(g, o, c) for g, c in known for o in failing if o in g.answer):
            told[factors] = word
    return [f"{' and '.join(failing)} {word}" for word in told.values()] if len(told) <= SHOWN else []


def shorter(own: list[Graded], dtype: str) -> list[str]:
    """ "computed in float32" where no number of an answer has more bits than those of a coarser dtype."""
    pairs = [(g.answer[o], *right) for g in own for o, right in g.case.expect.items() if o in g.answer]
    for short in [short for short in BITS if EPS[short] > EPS[dtype]]:
        near = lambda x, right, a, _s=short: is_float(x) and apart(x, right) <= limit(a, _s)
        if all(near(*p) and np.array_equal(coarse(p[0], short), p[0]) for p in pairs):
            return [f"computed in {short}: no number has more than {BITS[short]} bits"]
    return []


def place(op: str) -> str:
    """Eq. (7) L_i2t [bce]."""
    return f"{OPS[op].place} {OPS[op].symbol} [{op}]".strip()


def head(r: Report) -> str:
    """The first line: the verdict and how many cases are in which state."""
    counts = Counter(g.state for g in r.graded.values())
    word = {0: "PASS", 1: "DIVERGES", 2: "INCOMPLETE"}[r.exit_code]
    if r.ok and (counts[NOT_RUN] or not r.answers.gradients or not r.chain):
        word = "PASS of the declared part"
    rest = "".join(f", {counts[s]} {s}" for s in (FAIL, MISSING, UNDECIDED, NOT_ASKED, NOT_RUN) if counts[s])
    which = f"{r.answers.dtype}, kit {VERSION}" + f", seed {r.answers.seed}" * (r.answers.seed > 0)
    return f"{word}: {counts[PASS]} of {len(r.graded)} cases pass{rest} ({which})"


def said_of(r: Report, f: Finding) -> list[str]:
    """The lines of a finding; the last of a guilty one runs as it stands."""
    if f.state == "blocked":
        return [f"blocked  {place(f.op)}: ignore it until the guilty are mended"]
    first = r.graded[f.cases[0]]
    right, allowed = first.case.expect[f.output]
    count = f"{len(f.cases)} of {f.total} cases"
    if f.names:
        said = f'this is "{" | ".join(f.names)}"; {count}'
    elif allowed is not None:
        said = f"no known mistake gives all its answers; {count}"
    else:  # the cases that fail are the diagnosis
        why = "; ".join(f"{c.split('/')[1]} ({r.graded[c].case.why})" for c in f.cases[:SHOWN])
        said = f"{count} fail: {why}"
    lines = [f"GUILTY   {place(f.op)}: {said}"]
    if allowed is not None and math.isfinite(f.error):
        lines[0] += f", first at {f.output}: error {f.error:.2g}, allowed {f.allowed:.2g}"
    else:
        answer = first.answer.get(f.output, "refused" if "refused" in first.answer else "missing")
        other_shape = is_float(right) and np.shape(answer) != np.shape(right) and not isinstance(answer, str)
        shown = (lambda x: f"of shape {list(np.shape(x))}") if other_shape else in_short
        lines.append(f"         {f.output} of {first.case.id} is {shown(answer)}, expected {shown(right)}")
    answers = ["--answers", r.path] if r.path else ["--seed", r.answers.seed] if r.answers.seed else []
    return [*lines, f"         {program('conform', 'explain', first.case.id, *answers)}"]


def in_short(x: Any) -> str:
    """A value as short text, an array as one flat list."""
    if isinstance(x, (np.ndarray, np.generic)):
        x = x.ravel().tolist() if x.ndim else x.item()
    return brief(x)


def text(r: Report) -> str:
    """The report as at most LINES lines. Lines to be run are never cut."""
    some = lambda names: ", ".join(names[:SHOWN]) + f" and {len(names) - SHOWN} more" * (len(names) > SHOWN)
    lines = [head(r), *(f"  {line}" for line in r.defects[:5])]
    lines += [f"  ... and {len(r.defects) - 5} more defects"] * (len(r.defects) > 5)
    missing = [f"{g.case.id} ({', '.join(g.lacking[:2])})" for g in r.graded.values() if g.lacking]
    lines += [f"missing: {some(missing)}"] * bool(missing)
    lines += [f"missing of the chain: {some(r.lacking)}"] * bool(r.lacking)
    last = [f"chain: {line}" for line in str(r.chain).splitlines()[: 1 if r.chain.ok else 2]] if r.chain else []
    if hidden := r.of(UNDECIDED):
        unseen = dict.fromkeys(f"{g.case.op}: {name}" for g in hidden for name in g.unseen)
        last.append(f"{r.answers.dtype} cannot tell these from what is right: {'; '.join(unseen)}")
    if unasked := r.of(NOT_ASKED):
        last.append(f"{r.answers.dtype} has not the range for {', '.join(g.case.id for g in unasked)}")
    ops = ", ".join(dict.fromkeys(g.case.op for g in r.of(NOT_RUN)))
    absent = {"gradients": not r.answers.gradients, ops: bool(ops), "the chain": not r.chain}
    last += [f"not run: {'; '.join(name for name in absent if absent[name])}"] * any(absent.values())
    if r.answers.readings:
        last.append(f"graded on the readings {', '.join(f'{n}: {w}' for n, w in r.answers.readings.items())}")
    blocked = [f.op for f in r.findings if f.state == "blocked"]
    found = [said_of(r, f) for f in r.findings if f.op not in blocked[SHOWN:]]
    found += [[f"blocked  {', '.join(blocked[SHOWN:])} too"]] * (len(blocked) > SHOWN)
    room = LINES - len(lines) - len(last)
    if sum(map(len, found)) > room:  # only findings are left out: the first are the ones to mend
        kept = sum(total < room for total in accumulate(map(len, found)))
        found = [*found[:kept], [f"... and {len(found) - kept} more findings; --json FILE has all of them"]]
    short = lambda line: line if len(line) <= WIDTH or "conform explain" in line else line[: WIDTH - 3] + "..."
    return "\n".join(map(short, [*lines, *(line for own in found for line in own), *last]))


def as_json(r: Report) -> dict:
    """Everything, as JSON values."""
    error = lambda x: x if math.isfinite(x) else "Infinity"
    wrong = lambda g: {o: {"error": error(e), "allowed": a} for o, (e, a) in g.wrong.items()}
    told_of = lambda g: {"state": g.state, "wrong": wrong(g), "lacking": g.lacking, "unseen": g.unseen}
    cases = {id: {"op": g.case.op} | told_of(g) for id, g in r.graded.items()}
    declared = {k: v for k, v in r.answers._asdict().items() if k not in ("given", "defects", "chain")}
    findings = [finite(f) for f in r.findings]
    head_ = {"kit": VERSION, "exit_code": r.exit_code, "verdict": head(r)} | declared
    chain = r.chain and {"guilty": [finite(f) for f in r.chain.guilty], "lacking": list(r.lacking)}
    return head_ | {"defects": list(r.defects), "findings": findings, "cases": cases, "chain": chain}

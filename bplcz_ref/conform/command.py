"""`python -m bplcz_ref conform export | check | explain | selftest | trace | diff`.

For maintainers: `regenerate` writes the public set anew.
"""

import argparse
from typing import Any

import numpy as np

from bplcz_ref import program, systems
from bplcz_ref.conform import chain, difference, exchange, given, numbers, verdict
from bplcz_ref.conform.cases import drawn
from bplcz_ref.conform.mistakes import LISTED
from bplcz_ref.conform.ops import OPS, Case, worked_out
from bplcz_ref.storage import files

ROWS = 8  # of a matrix that `explain` shows; the file holds all of it


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The sub-commands of `conform`, each with the function that runs it."""
    listed = "export|check|explain|selftest|trace|diff"
    actions = parser.add_subparsers(dest="action", required=True, metavar=listed)

    def action(run, example=None):
        """The `add_argument` of a sub-command; one without an example is for maintainers, and is not listed."""
        epilog = f"example:\n  {program('conform', run.__name__)} {example}".rstrip()
        words = {"help": run.__doc__, "epilog": epilog, "formatter_class": argparse.RawDescriptionHelpFormatter}
        a = actions.add_parser(run.__name__, description=run.__doc__, **({} if example is None else words))
        a.set_defaults(conform=run)
        if run in (export, check, trace, diff):
            files.overwrite_option(a)
        return a.add_argument

    path, seed, report_here = {"type": files.path}, {"type": int, "metavar": "N"}, "write the whole report here"
    add = action(export, "SET.json")
    add("file", **path, metavar="SET.json")
    add("--seed", **seed, help="fresh cases, drawn from this seed")
    add("--blind", action="store_true", help="with --seed: leave out the expected values")
    add = action(check, "ANSWERS.json")
    add("file", **path, metavar="ANSWERS.json")
    add("--seed", **seed, help="refuse answers of another seed; by default the file says it")
    add("--json", **path, metavar="FILE", help=report_here)
    add = action(explain, "bce/saturated --answers ANSWERS.json")
    add("case", nargs="?", metavar="CASE", help="without one: all operations and cases")
    add("--answers", **path, metavar="ANSWERS.json", help="show these values beside ours")
    add("--seed", **seed, help="the cases of this seed; by default those of the answers")
    action(selftest, "")("--seed", **seed, help="with the cases of this seed")
    action(regenerate)("folder", **path, metavar="DIR")
    add = action(trace, "WEIGHTS BATCH.npz OURS.npz")
    add("weights", **path, metavar="WEIGHTS", help="a run folder; or .npz, .h5 or .safetensors, public names")
    add("batch", **path, metavar="BATCH", help=".npz with x (or sen1 and sen2) and y")
    add("out", **path, metavar="OUT.npz")
    add("--system", choices=systems.SYSTEMS, help="default: the one whose names the weights have")
    add("--set", nargs="+", action="extend", default=[], metavar="NAME=VALUE",
        help="in place of the paper's setting, such as learning_rate=0.01 or text_heads=4")  # fmt: skip
    add("--steps", type=int, default=2, metavar="N", help="steps of SGD; default: %(default)s")
    add("--dtype", choices=verdict.DTYPES, default="float32",
        help="of the arrays; float64 judges float64 programs too; default: %(default)s")  # fmt: skip
    add("--only", action="append", metavar="PATTERN", help="names to keep, such as 'layer4.*'")
    add = action(diff, "OURS.npz THEIRS.npz")
    add("ours", **path, metavar="OURS.npz", help="what `trace` wrote")
    add("theirs", **path, metavar="THEIRS.npz", help="arrays under the same names, or a part; or weights")
    add("--dtype", choices=verdict.DTYPES, help="what theirs were computed in; default: their dtype")
    add("--json", **path, metavar="FILE", help=report_here)


def export(options: argparse.Namespace) -> None:
    """write the cases, the public ones or those of a seed, into a file"""
    if options.blind and not options.seed:
        raise ValueError("--blind needs --seed: everybody has the public answers")
    files.refuse_existing(options, options.file)
    seed = options.seed or 0
    cases = exchange.load(seed)
    exchange.write(options.file, exchange.set_of(cases, seed, options.blind))
    print(f"{options.file}: {len(cases)} cases of kit {exchange.VERSION}, seed {seed}")


def check(options: argparse.Namespace) -> int:
    """grade a file of answers: exit 0 all pass, 1 something diverges, 2 incomplete"""
    files.refuse_existing(options, options.json)
    answers = exchange.read(options.file, options.seed)
    found = verdict.report(exchange.load(answers.seed), answers, str(options.file))
    print(found)
    if options.json:
        files.write_json(options.json, verdict.as_json(found))
    return found.exit_code


def explain(options: argparse.Namespace) -> None:
    """one case in full, with an answer beside it, or the list of all"""
    answers = exchange.read(options.answers, options.seed) if options.answers else None
    cases = {case.id: case for case in exchange.load(answers.seed if answers else options.seed or 0)}
    if options.case is None:
        print(listing(list(cases.values())))
        return
    if options.case not in cases:
        near = [name for name in cases if name.split("/")[0] == options.case.split("/")[0]]
        raise ValueError(f"there is no case {options.case!r}; there are {', '.join(near or cases)}")
    case, graded = cases[options.case], None
    if answers:
        for line in [line for line in answers.defects if options.case in line][:5]:
            print(line)
        answers = answers._replace(without=())
        graded = verdict.report([case], answers).graded[case.id]
    print(explained(graded.case if graded else case, graded, answers.dtype if answers else "float32"))


def selftest(options: argparse.Namespace) -> int:
    """the package passes, and every listed mistake is found, located and named"""
    seed, good = options.seed or 0, True
    cases = exchange.load(seed)
    for dtype in ("float64", "float32"):
        right = {case.id: worked_out(OPS[case.op].run, case, dtype) for case in cases}
        answers = exchange.Answers(right, dtype, seed, chain=chain.answered(seed, dtype))
        found = verdict.report(cases, answers)
        good = good and found.ok
        print(f"the package: {verdict.head(found)}")
        print(f"its chain: {found.chain}".splitlines()[0])
    results = []  # of each mistake: found, located, named
    for op, name, way in [(op, name, way) for op, ways in LISTED.items() for name, way in ways.items()]:
        own = [case for case in cases if case.op == op or op in OPS[case.op].parents]
        wrong = {case.id: worked_out(way, case, "float32") for case in own if case.op == op}
        found = verdict.report(own, exchange.Answers(right | wrong, "float32", seed))
        located = [f.op for f in found.findings] == [op]
        results.append((found.exit_code > 0, located, located and found.findings[0].names == (name,)))
        if not results[-1][-1]:
            print(f"  not named: {op}: {name}; said: {[f.names for f in found.findings]}")
    counts = [sum(column) for column in zip(*results, strict=True)]
    good = good and set(counts) == {len(results)}
    print("{} listed mistakes in float32: {} found, {} located, {} named".format(len(results), *counts))
    silent = ", ".join(op for op in OPS if op not in LISTED)
    print(f"not run: mistakes by rule, and those of {silent}, which have no list; the cases that fail say")
    print("  what is wrong there (tests/peers runs mistakes that are in no list)")
    print("the self-test passes" if good else "THE SELF-TEST FAILS")
    return 0 if good else 1


def regenerate(options: argparse.Namespace) -> None:
    """write the public set anew"""
    target = files.make_folder(options.folder) / exchange.PUBLIC.name
    made = [numbers.solved(case) for case in drawn()]
    exchange.write(target, exchange.set_of(made))
    print(f"{target}: {len(made)} cases of kit {exchange.VERSION}")


def listing(cases: list) -> str:
    """Every operation with its formula, its inputs and outputs, and its cases with their reasons."""
    lines = []
    for op, o in OPS.items():
        own = [case for case in cases if case.op == op]
        outputs = [name for name in own[0].expect if not name.startswith("grad.")]
        lines.append(f"{op}({', '.join(own[0].inputs)}) -> {', '.join(outputs)}: {o.formula}")
        lines += [f"  {case.id}: {case.why}" for case in own]
    return "\n".join(lines)


def explained(case: Case, graded: verdict.Graded | None, dtype: str) -> str:
    """The text on one case, with the answer to it if it is `graded`."""
    op = OPS[case.op]
    lines = [f"{case.id}  {verdict.place(case.op)}", f"  {case.why}", f"  formula: {op.formula}"]
    lines += [f"  rests on: {', '.join(op.parents) or 'nothing'}"]
    for title, members in (("inputs", case.inputs), ("cotangents", case.cotangents)):
        lines += [title] * bool(members)
        lines += [line for name, x in members.items() for line in shown(name, x)]
    lines.append("expected")
    for output, (x, allowed) in case.expect.items():
        lines += shown(output, x)
        if graded and output not in graded.answer:
            lines.append("    not answered" + ": refused" * ("refused" in graded.answer))
        elif graded:
            answer, most = graded.answer[output], verdict.limit(allowed, dtype)
            word = "DIFFERS" if output in graded.wrong else "agrees"
            size = f": error {verdict.apart(answer, x):.3g}, allowed {most:.3g} ({dtype})" if most else ""
            lines.append(f"    {word}{size}")
            if output in graded.wrong:
                first, *rest = shown(output, answer)
                lines += [f"  answered: {first.strip()}", *rest]
    if graded and graded.wrong:
        names = verdict.explanations(case.op, [graded], dtype)
        lines += [f"this answer alone equals: {' | '.join(names)}"] * bool(names)
    return "\n".join(lines)


def shown(name: str, x: Any) -> list[str]:
    """A name and its numbers, at most ROWS rows."""
    if isinstance(x, (str, list)):
        return [f"  {name} = {x!r}"]
    x = np.asarray(x)
    shape = f" {x.shape}" if x.shape else ""
    if x.ndim < 2 and x.size <= 8:
        return [f"  {name}{shape} = {' '.join(f'{v:.9g}' for v in x.ravel())}"]
    rows = x.reshape(-1, x.shape[-1])
    lines = [f"  {name}{shape}"]
    lines += ["    " + " ".join(f"{v:12.6g}" for v in row[:10]) + " ..." * (len(row) > 10) for row in rows[:ROWS]]
    return lines + [f"    ... {len(rows) - ROWS} more rows"] * (len(rows) > ROWS)


def trace(options: argparse.Namespace) -> None:
    """every symbol, layer and gradient of steps on your weights and batch, by name"""
    files.refuse_existing(options, options.out)
    found = given.from_files(
        options.weights, options.batch, options.system, systems.chosen(options.set),
        steps=options.steps, dtype=options.dtype, only=options.only or ["*"],
    )  # fmt: skip
    print(f"{options.out}: {len(found) - 1} arrays, {sum(a.nbytes for a in found.values()) / 1e6:,.0f} MB")
    with files.whole(options.out) as temporary, open(temporary, "wb") as file:
        np.savez(file, allow_pickle=False, **found)  # type: ignore[arg-type]


def diff(options: argparse.Namespace) -> int:
    """the first name in which another program's arrays part from a trace: exit 0, 1 or 2"""
    files.refuse_existing(options, options.json)
    ours, (theirs, _) = files.read_npz(options.ours), given.read_weights(options.theirs)
    # weights under their own names are those before the first step
    theirs = {f"step0.{name}" if f"step0.{name}" in ours else name: array for name, array in theirs.items()}
    found = difference.diff(ours, theirs, dtype=options.dtype)
    print(found)
    if options.json:
        files.write_json(options.json, difference.as_json(found))
    return found.exit_code

"""`python -m bplcz_ref conform export | check | report | explain | selftest | ...`, and the text of `explain`."""

import argparse
import shutil

import numpy as np
from scipy.special import expit

from bplcz_ref import archives, files, systems
from bplcz_ref.conform import (
    difference,
    generate,
    grading,
    kit,
    naming,
    reference,
    scoreboard,
    seeds,
    tracing,
    verdict,
)
from bplcz_ref.conform.kit import EPS, SUITES, Kit
from bplcz_ref.conform.ops import OPS, bce_terms, log_softmax, normalise, pick


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The sub-commands of `conform`, each with the function that runs it."""
    actions = parser.add_subparsers(
        dest="action", required=True, metavar="export|check|report|explain|selftest|regenerate|trace|diff"
    )

    def action(name, run, help):
        a = actions.add_parser(name, help=help)
        a.set_defaults(conform=run)
        return a

    a = action("export", export, "write the vectors, or fresh ones of a seed, into a new folder")
    a.add_argument("folder", type=files.path, metavar="VECTORS")
    seeded(a)
    a.add_argument("--blind", action="store_true", help="with --seed: leave out the expected values")
    a = action("check", check, "grade a folder of answers: exit 0 all pass, 1 divergence, 2 incomplete")
    a.add_argument("folder", type=files.path, metavar="ANSWERS")
    a.add_argument("--dtype", choices=EPS, default="float32", help="default: %(default)s")
    profile = "the consumer's readings, and what it does not answer"
    a.add_argument("--profile", type=files.path, metavar="FILE", help=profile)
    a.add_argument("--json", type=files.path, metavar="FILE", help="write the whole report here")
    seeded(a)
    a = action("explain", explain, "one case: formula, inputs, intermediates, expected values")
    a.add_argument("case", nargs="?", metavar="CASE-ID", help="without one: the list of cases")
    a.add_argument("--answers", type=files.path, metavar="ANSWERS", help="show this consumer's values beside them")
    a.add_argument("--dtype", choices=EPS, default="float32", help="default: %(default)s")
    a = action("selftest", selftest, "the reference passes, and every mutant fails under its own name")
    a.add_argument("--chain", action="store_true", help="run the mutants through the chain too (slower)")
    a = action("regenerate", regenerate, "write the vectors anew, byte for byte")
    a.add_argument("folder", type=files.path, metavar="DIR")
    a = action("report", report, "reports of `check --json` side by side, as a table in Markdown")
    a.add_argument("reports", type=files.path, nargs="+", metavar="REPORT.json", help="its name heads its column")
    add_trace(action)
    add_diff(action)


def run(options: argparse.Namespace) -> int | None:
    """One sub-command; returns the exit code."""
    return options.conform(options)


def seeded(parser: argparse.ArgumentParser) -> None:
    """The options that choose a fresh set of cases."""
    parser.add_argument("--seed", type=int, metavar="N", help="fresh cases, drawn from this seed (under a minute)")
    parser.add_argument(
        "--size", choices=seeds.SIZES, default="small", help="of drawn shapes; default: %(default)s"
    )


def drawn(options: argparse.Namespace) -> tuple:
    """({file: text} of the whole set of a seed, the same without expected values)."""
    if options.seed < 0:
        raise ValueError(f"--seed is {options.seed}; expected a whole number, 0 or more")
    suites = seeds.fresh(options.seed, options.size)
    head = {"seed": options.seed, "size": options.size}
    return generate.contents(suites, **head), generate.contents(seeds.blind(suites), **head, blind=True)


def export(options: argparse.Namespace) -> None:
    """Write the packaged vectors, checked, or those of a seed, into a folder, which must be new or empty."""
    folder = options.folder
    if folder.is_dir() and any(folder.iterdir()):
        raise ValueError(f"{folder} is not empty; give a new folder")
    if options.blind and options.seed is None:
        raise ValueError("--blind needs --seed: everybody has the packaged answers")
    texts = None if options.seed is None else drawn(options)[options.blind]
    vectors = kit.load() if texts is None else assembled(texts)
    with files.whole_folder(folder) as made:
        if texts is not None:
            generate.write(made, texts)
        for name in (*kit.listed(vectors.manifest), "manifest.json") if texts is None else ():
            shutil.copyfile(kit.VECTORS / name, made / name)
    version = vectors.manifest["kit"]
    print(f"{options.folder}: {len(vectors.cases)} cases of kit {version}, manifest {vectors.digest}")


def assembled(texts: dict) -> Kit:
    """The Kit of the files' texts."""
    data = {name: text.encode() for name, text in texts.items()}
    return kit.assembled(data["manifest.json"], data)


def check(options: argparse.Namespace) -> int:
    """From a folder of answers to the verdict."""
    also: tuple = ()
    if options.seed is None:
        vectors = kit.load()
    else:
        vectors, without = map(assembled, drawn(options))
        also = (without.digest,)
    profile = grading.read_profile(options.profile) if options.profile else grading.EVERYTHING
    answers = grading.read(options.folder, vectors, skip=options.profile, also=also)
    found = verdict.report(vectors, answers, options.dtype, profile)
    print(verdict.text(found, options.folder))
    if options.json:
        files.write_json(options.json, verdict.as_json(found))
    return found.exit_code


def report(options: argparse.Namespace) -> int:
    """A table of several implementations."""
    table = scoreboard.read(options.reports)
    print(scoreboard.markdown(table))
    return max(entry["exit_code"] for entry in table.values())


def explain(options: argparse.Namespace) -> None:
    """One case in full, or the list of all."""
    vectors, answer = kit.load(), None
    if options.case is None:
        print(listing(vectors))
        return
    if options.answers:
        answers = grading.read(options.answers, vectors)
        answer = answers.given.get(options.case, {})
        for line in [line for line in answers.defects if options.case in line or not answer][:5]:
            print(line)
    print(explained(vectors, options.case, answer, options.dtype))


def selftest(options: argparse.Namespace) -> int:
    """The reference and every mutant through the kit."""
    found = reference.selftest(chain=options.chain)
    print(found)
    return 0 if found.ok else 1


def regenerate(options: argparse.Namespace) -> None:
    """Write the vectors anew."""
    print(f"{options.folder}: {generate.regenerate(options.folder)} cases of kit {kit.VERSION}")


# ---------------------------------------------------------------- a real model, a real batch


def add_trace(action):
    a = action("trace", trace, "every symbol, layer and gradient of steps on your weights and batch, by name")
    a.add_argument("weights", type=files.path, metavar="WEIGHTS", help=".npz, .h5 or .safetensors, public names")
    a.add_argument("batch", type=files.path, metavar="BATCH", help=".npz with x (or sen1 and sen2) and y")
    a.add_argument("out", type=files.path, metavar="OUT.npz")
    a.add_argument("--system", choices=systems.SYSTEMS, help="default: the one whose names the weights have")
    a.add_argument("--set", nargs="+", action="extend", default=[], metavar="NAME=VALUE",
                   help="in place of the paper's setting, such as learning_rate=0.01 or text_heads=4")  # fmt: skip
    a.add_argument("--steps", type=int, default=2, metavar="N", help="steps of SGD; default: %(default)s")
    a.add_argument("--dtype", choices=tracing.PRECISIONS, default="float32",
                   help="of the arrays; float64 judges float64 programs too; default: %(default)s")  # fmt: skip
    a.add_argument("--only", action="append", metavar="PATTERN", help="names to keep, such as 'layer4.*'")


def trace(options: argparse.Namespace) -> None:
    """Write a trace, after its size has been printed."""
    only = options.only or ["*"]
    found = tracing.from_files(
        options.weights, options.batch, options.system, systems.chosen(options.set), print,
        steps=options.steps, dtype=options.dtype, only=only,
    )  # fmt: skip
    tracing.write(options.out, found, print)


def add_diff(action):
    a = action("diff", diff, "the first name in which another program's arrays part from a trace: exit 0, 1 or 2")
    a.add_argument("ours", type=files.path, metavar="OURS.npz", help="what `trace` wrote")
    a.add_argument("theirs", type=files.path, metavar="THEIRS.npz", help="arrays under the same names, or a part")
    a.add_argument(
        "--dtype", choices=tracing.PRECISIONS, help="what theirs were computed in; default: their dtype"
    )
    a.add_argument("--json", type=files.path, metavar="FILE", help="write the whole report here")


def diff(options: argparse.Namespace) -> int:
    """From two files of arrays to the first name that differs."""
    ours, theirs = map(archives.read_npz, (options.ours, options.theirs))
    found = difference.diff(ours, theirs, dtype=options.dtype)
    print(found)
    if options.json:
        files.write_json(options.json, difference.as_json(found))
    return found.exit_code


# ---------------------------------------------------------------- the text of `explain`

ROWS = 8  # of a matrix; the files hold all of it


def _between(case):
    """[(symbol, value)] of what lies between inputs and outputs, in float64, only for reading."""
    i, op = _arrays(case["inputs"]), case["op"]
    if op == "similarity":
        norms = [(f"||{name}||", np.sqrt(np.sum(x * x, axis=-1, keepdims=True))) for name, x in i.items()]
        return [*norms, ("u", normalise(i["I_i"])), ("v", normalise(i["T_i"]))]
    if op == "fuse":
        return [("sum_i S_i", i["S_groups"].sum(0))]
    if op in ("bce", "contrastive_loss"):
        return [("sigma(S)", expit(i["S"])), ("terms", bce_terms(i["S"], i["W"]))]
    if op == "cross_entropy":
        z = log_softmax(i["c_hat"])
        return [("softmax(c_hat)", np.exp(z)), ("log softmax at c", pick(z, i["c"]))]
    if op == "sgd":
        return [("gradient + decay w, first step", i["gradients"][0] + i["weight_decay"] * i["w"])]
    if op == "metrics":
        C = kit.array(case["expect"]["confusion"], "C")
        rows, columns = C.sum(1), C.sum(0)
        return [("row sums", rows), ("column sums", columns), ("p_e", (rows * columns).sum() / C.sum() ** 2)]
    return []


def _shown(name, value):
    """A name and its numbers, at most ROWS rows."""
    if isinstance(value, (str, list)):
        return [f"  {name} = {value!r}"]
    value = np.asarray(value)
    shape = f" {value.shape}" if value.shape else ""
    if value.ndim < 2 and value.size <= 8:
        return [f"  {name}{shape} = {' '.join(f'{x:.9g}' for x in value.ravel())}"]
    rows = value.reshape(-1, value.shape[-1])
    lines = [f"  {name}{shape}"]
    for row in rows[:ROWS]:
        lines.append("    " + " ".join(f"{x:12.6g}" for x in row[:10]) + " ..." * (len(row) > 10))
    return lines + [f"    ... {len(rows) - ROWS} more rows"] * (len(rows) > ROWS)


def listing(vectors: Kit) -> str:
    """Every operation with its formula, its inputs and outputs and its cases."""
    lines = []
    for op, o in OPS.items():
        own = [case for case in vectors.cases.values() if case["op"] == op]
        outputs = [name for name in own[0]["expect"] if not name.startswith(("grad.", "after."))]
        lines.append(f"{op}({_brief(own[0]['inputs'])}) -> {_brief(outputs)}: {o.formula}")
        lines += [f"  {case['id']}: {case['why']}" for case in own]
    return "\n".join(lines)


def _brief(names):
    names = list(names)
    return ", ".join(names[:12]) + ", ..." * (len(names) > 12)


def _arrays(tensors):
    return {name: kit.array(t, name) for name, t in tensors.items()}


def explained(vectors: Kit, case_id: str, answer: dict | None = None, dtype: str = "float32") -> str:
    """The text on one case; with `answer` ({output: array}) its values and errors too."""
    if case_id not in vectors.cases:
        near = [name for name in vectors.cases if case_id.split("/")[0] in name]
        raise ValueError(f"there is no case {case_id!r}; there are {', '.join(near or vectors.cases)}")
    case, suite = vectors.cases[case_id], vectors.suites[case_id]
    where = verdict.place(OPS[case["op"]]) or "-"
    lines = [
        f"{case_id}  (suite {suite} {SUITES[suite]}, {where}, {case['flag']})",
        f"  {case['why']}",
        f"  formula: {case['formula']}",
        f"  rests on: {', '.join(case['parents']) or 'nothing'}; expected values by {case['source']['method']}",
    ]
    for title, members in (
        ("inputs", _arrays(case["inputs"]).items()),
        ("cotangents", _arrays(case.get("cotangents", {})).items()),
        ("between", _between(case)),
    ):
        if members:
            lines += [title, *(line for name, value in members for line in _shown(name, value))]
    lines.append("expected")
    graded = None if answer is None else grading.grade(case, answer, dtype)
    for name, value in _arrays(case["expect"]).items():
        lines += _shown(name, value)
        if graded:
            lines += _compared(graded.outcomes.get(name), name, answer, dtype)
    if case["near_misses"]:
        lines.append("wrong readings that show here (distance in units of the scale)")
        lines += [f"  {n['distance']:9.3g}  {n['name']}" for n in case["near_misses"] if n["shows"]]
    if graded and graded.state == grading.FAIL:
        found = naming.names(case, answer or {}, graded.outcomes, dtype, vectors.cases)
        lines += [f"the answer equals: {', '.join(found)}"] if found else []
    return "\n".join(lines)


def _compared(outcome, name, answer, dtype):
    """Lines on one answered output."""
    if outcome is None:
        return ["    not answered"]
    size = (
        f"error {outcome.error:.3g} of scale, budget {outcome.allowed:.3g} ({dtype}), {outcome.digits:.1f} digits"
    )
    lines = [f"    {'agrees' if outcome.passed else 'DIFFERS'}: {size} {outcome.note}"]
    if not outcome.passed:
        first, *rest = _shown(name, answer[name])
        lines += [f"  answered: {first.strip()}", *rest]
    return lines

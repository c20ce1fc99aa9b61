"""`python -m bplcz_ref conform export | check | explain | selftest | regenerate`."""

from bplcz_ref import files
from bplcz_ref.conform import answers as reading
from bplcz_ref.conform import explaining, generate, selftest, vectors, verdict


def add_arguments(parser):
    """The sub-commands of `conform`."""
    actions = parser.add_subparsers(
        dest="action", required=True, metavar="export|check|explain|selftest|regenerate"
    )
    a = actions.add_parser("export", help="copy the vectors into a new folder")
    a.add_argument("folder", type=files.path, metavar="VECTORS")
    a = actions.add_parser("check", help="grade a folder of answers: exit 0 all pass, 1 divergence, 2 incomplete")
    a.add_argument("folder", type=files.path, metavar="ANSWERS")
    a.add_argument("--dtype", choices=generate.EPS, default="float32", help="default: %(default)s")
    a.add_argument(
        "--profile", type=files.path, metavar="FILE", help="the consumer's readings, and what it has not got"
    )
    a.add_argument("--json", type=files.path, metavar="FILE", help="write the whole report here")
    a = actions.add_parser("explain", help="one case: formula, inputs, intermediates, expected values")
    a.add_argument("case", nargs="?", metavar="CASE-ID", help="without one: the list of cases")
    a.add_argument("--answers", type=files.path, metavar="ANSWERS", help="set this consumer's values beside them")
    a.add_argument("--dtype", choices=generate.EPS, default="float32", help="default: %(default)s")
    a = actions.add_parser("selftest", help="the reference passes, and every mutant fails under its own name")
    a.add_argument("--chain", action="store_true", help="run the mutants through the chain too (slower)")
    a = actions.add_parser("regenerate", help="write the vectors anew, byte for byte")
    a.add_argument("folder", type=files.path, metavar="DIR")


def run(options):
    """One sub-command; returns the exit code."""
    return globals()[f"run_{options.action}"](options)


def run_export(options):
    kit = generate.export(options.folder)
    print(f"{options.folder}: {len(kit.cases)} cases of kit {kit.manifest['kit']}, manifest {kit.digest}")


def run_check(options):
    kit = vectors.load()
    profile = reading.read_profile(options.profile) if options.profile else reading.EVERYTHING
    given = reading.read(options.folder, kit, skip=options.profile)
    report = verdict.report(kit, given, options.dtype, profile)
    print(verdict.text(report, options.folder))
    if options.json:
        files.write_json(options.json, verdict.as_json(report))
    return report.exit_code


def run_explain(options):
    kit, answer = vectors.load(), None
    if options.case is None:
        print(explaining.listing(kit))
        return
    if options.answers:
        given = reading.read(options.answers, kit)
        answer = given.given.get(options.case, {})
        for line in [line for line in given.defects if options.case in line or not answer][:5]:
            print(line)
    print(explaining.explain(kit, options.case, answer, options.dtype))


def run_selftest(options):
    found = selftest.run(chain=options.chain)
    print(found)
    return 0 if found.ok else 1


def run_regenerate(options):
    manifest = generate.regenerate(options.folder)
    print(f"{options.folder}: {manifest['cases']} cases of kit {manifest['kit']}")

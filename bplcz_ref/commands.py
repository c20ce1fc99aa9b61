"""What each command of __main__.py does: run_NAME(options) calls the rooms, prints, and returns the exit code.

A mistake of the user is a ValueError, which __main__.py says in one line.
"""

import contextlib
import sys
from argparse import Namespace
from functools import partial

from bplcz_ref import nn, paper, program, prompts, systems
from bplcz_ref.data import inspection, simulate, so2sat
from bplcz_ref.report import explain, figures, pages
from bplcz_ref.storage import files, weights
from bplcz_ref.training import evaluate, runs, tables, train


def warn(options: Namespace, line: str) -> None:
    """A line on stderr under the command's name."""
    print(f"{program()} {options.command}: {line}", file=sys.stderr)


def chosen_settings(options) -> tuple:
    """(the preset with the settings that were given in place of its own, {name: value} of these)."""
    short = {name: getattr(options, name) for name in ("epochs", "split", "twins")}
    given = systems.chosen(options.set) | {name: value for name, value in short.items() if value is not None}
    return systems.PRESETS[options.preset or "small"]._replace(**given), given


def run_explain(options: Namespace) -> None:
    groups = list(paper.GROUPS) if "all" in options.groups else options.groups
    own = {"with_gradients": options.gradients, "seed": options.seed, "samples": options.samples}
    print(explain.page(options.equation, groups=groups, **own))


def run_simulate(options: Namespace) -> None:
    files.refuse_existing(options, options.out)
    simulate.write_file(options.out, per_class=options.per_class, rows=options.rows, seed=options.seed)
    print(f"{options.out}: {17 * options.per_class + options.rows} SIMULATED patches")


def run_inspect(options: Namespace) -> int:
    found = inspection.inspect(options.file, None if options.all else inspection.ROWS, options.compare)
    print(found)
    return 1 if found.problems else 0


def run_subset(options: Namespace) -> None:
    files.refuse_existing(options, options.out)
    own = options.per_class, options.test, options.seed, options.geo, options.skip_bad
    if bad := so2sat.subset(options.file, options.out, *own):
        warn(options, f"rows left out: {len(bad)}, the first: {bad[0]}")
    print(f"{options.out}: {17 * options.per_class} training and {options.test} test rows of {options.file}")


def run_train(options: Namespace) -> None:
    places = {name: getattr(options, name) for name in ("data", "test_data", "validation", "geo")}
    if options.resume is not None:
        if any(
            (options.system, options.out, options.set, options.split, options.twins, options.preset, options.dtype)
        ):
            raise ValueError("--resume takes all from the run's folder: beside it, --epochs and moved files alone")
        result = train.resume(options.resume, epochs=options.epochs, **places)
    else:
        if missing := [name for name in ("data", "system", "out") if getattr(options, name) is None]:
            raise ValueError(f"--{missing[0]} is missing; expected --data, --system and --out, or --resume RUN")
        settings, given = chosen_settings(options)
        own: dict = {"dtype": options.dtype or "float32", "given": given, "resume": False}
        result = train.train(options.out, system=options.system, settings=settings, **own, **places)
    print(pages.run_line(result))


def run_evaluate(options: Namespace) -> int:
    if options.out is not None:
        out, matrix = options.out, options.out / f"confusion.{options.format}"
        if (out / "config.json").exists():
            raise ValueError(f"--out {out} is a run folder, with a confusion.csv of its own: name another one")
        files.refuse_existing(options, out / "evaluation.json", out / "confusion.csv", matrix)
    trained = evaluate.load(options.folder)
    with so2sat.open_file(options.data) as patches:
        rows, which = evaluate.rows_to_evaluate(trained, patches, options.training_rows)
        C, kind = evaluate.confusion(trained, patches, rows), "SIMULATED " * patches.simulated + "samples"
    found = pages.evaluation(C)
    print(evaluate.origin(options.folder, trained))
    print(f"{pages.one_line(found, kind)}: {which}", pages.class_table(found), sep="\n\n")
    if options.out is None:
        return 0
    files.make_folder(options.out)
    files.write_json(options.out / "evaluation.json", {"rows": which, "simulated": patches.simulated, **found})
    runs.write_confusion(options.out, C)
    print("", options.out / "evaluation.json", options.out / "confusion.csv", sep="\n")
    try:
        drawn = figures.confusion(options.folder, C, kind)
        print(figures.save(drawn, matrix))
    except ValueError as error:
        warn(options, f"no {matrix.name}: {error}")
        return 1
    return 0


def run_predict(options: Namespace) -> None:
    places = options.folder, options.data, options.out, options.embeddings
    files.refuse_existing(options, *places[2:])
    print("\n".join(evaluate.predict(*places, options.probabilities, warn=lambda line: warn(options, line))))


def run_export(options: Namespace) -> None:
    files.refuse_existing(options, options.out)
    trained = evaluate.load(options.folder)
    weights.export(trained, options.out)
    print(f"{options.out}: {weights.count(trained.params):,} parameters, and how input is standardised")


def run_import(options: Namespace) -> None:
    train.imported(options.folder, options.file, options.out)
    print(f"{options.out}: the run {options.folder} at step 0, with the weights of {options.file}")


def run_report(options: Namespace) -> int:
    results = {run: runs.read_metrics(run) for run in filter(runs.complete, options.folders)}
    written: list[str] = []
    own = {"ending": options.format, "check": partial(files.refuse_existing, options), "say": written.append}
    missing = figures.write_figures(options.folders, options.out, options.data, **own)
    for run, result in results.items():
        print(f"{run}: {pages.run_line(result)}")
    for path in written:
        print(path)
    for line in missing:
        warn(options, line)
    return 1 if missing else 0


def run_tables(options: Namespace) -> None:
    if options.workers is None:
        options.workers = nn.thread_count()
    for name in ("seeds", "workers"):
        if getattr(options, name) < 1:
            raise ValueError(f"--{name} is {getattr(options, name)}; expected 1 or more")
    settings, given = chosen_settings(options)
    seeds = range(settings.seed, settings.seed + options.seeds)
    vary = None if options.vary is None else systems.varied(options.vary)
    asked = options.systems or ([*systems.TABLE_II, *systems.TABLE_III] if vary is None else ["ebcnn-bplcz"])
    for name in asked:
        systems.find(name)
    names = [name for name in systems.SYSTEMS if name in asked]
    given |= {} if vary is None else {vary[0]: None}
    own = {"given": given, "vary": vary, "test_data": options.test_data, "geo": options.geo}
    with tables.on_dask(options.dask) if options.dask else contextlib.nullcontext() as executor:
        own |= {"workers": options.workers, "executor": executor}
        results = tables.tables(options.data, options.out, names, seeds, settings, **own)
    files.write_text(options.out / "tables.csv", pages.tables_csv(results))
    if vary is None:
        page = pages.tables_markdown(results, sum(tables.run_seconds(name, systems.PAPER) for name in names))
    else:
        page = pages.variants_markdown(results)
    files.write_text(options.out / "tables.md", page + "\n")
    print(page)


def run_conform(options: Namespace) -> int | None:
    return options.conform(options)


def run_tokenizer(options: Namespace) -> None:
    words = systems.tokenizer(options.merges)
    for phrase in prompts.prompts() if options.text == "-" else [options.text]:
        ids = words.encode(phrase)
        print(" ".join(map(str, ids)), "|", " ".join(repr(words.decode([i])) for i in ids))

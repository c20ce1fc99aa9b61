"""python -m bplcz_ref COMMAND: every job of the library from the command line. Also installed as bplcz-ref.

Each command is a pair of functions: `add_NAME` declares its arguments and an example, `run_NAME` runs it, and its
docstring is the command's help. They come in the order in which a person uses them.
"""

import argparse
import errno
import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

from bplcz_ref import __version__, explain, files, paper, prompts, systems, vocabulary, weights
from bplcz_ref.conform import command as conform
from bplcz_ref.data import inspection, simulate, so2sat
from bplcz_ref.report import figures
from bplcz_ref.report import text as report
from bplcz_ref.training import evaluate, runs, tables, train

# After an interruption, how it goes on.
RESUMING = {
    "train": "; `bplcz_ref train --resume RUN` goes on from the last checkpoint",
    "tables": "; the same command goes on where it stopped",
}


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit code. Errors that a user can mend are one line on stderr, code 2."""
    options = parser().parse_args(arguments)
    try:
        code = options.run(options) or 0
        sys.stdout.flush()  # a reader that is gone, or a full disk, is noticed here at the latest
        return code
    except BrokenPipeError:  # the reader has seen enough, as in `... | head -1`
        no_output()
        return 0
    except MemoryError:
        print(f"bplcz_ref {options.command}: needs more memory than there is", file=sys.stderr)
        return 2
    except ValueError as error:
        print(f"bplcz_ref {options.command}: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        place = error.filename if error.filename is not None else "the output"
        print(f"bplcz_ref {options.command}: {place}: {error.strerror or error}", file=sys.stderr)
        if error.errno == errno.ENOSPC:
            no_output()
        return 2
    except KeyboardInterrupt:
        print(f"bplcz_ref {options.command}: interrupted{RESUMING.get(options.command, '')}", file=sys.stderr)
        return 130


def no_output() -> None:
    """Nothing more goes to stdout, where the interpreter would complain once more as it ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(prog="bplcz_ref", description="BP-LCZ as exact, runnable mathematics.")
    top.add_argument("--version", action="version", version=f"bplcz_ref {__version__}")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    adders = [add_explain, add_simulate, add_inspect, add_subset]
    adders += [add_train, add_evaluate, add_predict, add_report, add_tables, add_conform, add_tokenizer]
    for add in adders:
        add(commands)
    return top


def command(commands, run: Callable, *examples: str) -> argparse.ArgumentParser:
    """A new command: its name is the first example's first word, its help is the docstring of `run`."""
    shown = "\n".join(f"  python -m bplcz_ref {example}" for example in examples)
    made = commands.add_parser(
        examples[0].split()[0],
        help=run.__doc__,
        description=run.__doc__,
        epilog=f"example{'s' * (len(examples) > 1)}:\n{shown}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.set_defaults(run=run)
    return made


# ---------------------------------------------------------------------------------- what several commands share


def filled(text: str) -> str:
    """A path that stays text, as it goes into JSON; not empty."""
    return str(files.path(text))


def data_option(c, **options) -> None:
    """--data FILE.h5"""
    c.add_argument("--data", metavar="FILE.h5", type=filled, **options)


def preset_options(c) -> None:
    """--preset, and what takes the place of its settings."""
    c.add_argument("--preset", choices=systems.PRESETS, help="default: small")
    c.add_argument("--set", nargs="+", action="extend", default=[], metavar="NAME=VALUE",
                   help="settings in place of the preset's, such as alpha=0.5 contrastive=unicl")  # fmt: skip
    c.add_argument("--settings", action=ListSettings, help="list all settings, with the presets' values, and end")
    c.add_argument("--epochs", type=int, metavar="N", help="short for --set epochs=N")
    c.add_argument("--split", choices=("file", "random", "city"),
                   help="short for --set split=NAME: a subset's own parts (file, the default), a new draw from all"
                   " rows, or whole cities left out for the test")  # fmt: skip


def data_options(c) -> None:
    """The files beside --data."""
    c.add_argument("--test-data", metavar="FILE.h5", type=filled,
                   help="an official test file; --data trains, as a whole or per_class rows each")  # fmt: skip
    geo_option(c)


def geo_option(c) -> None:
    """--geo FILE.h5"""
    c.add_argument("--geo", metavar="FILE.h5", type=filled, help="the *_geo.h5 of the file, for the rows' cities")


class ListSettings(argparse.Action):
    """Print every setting with its values in the presets and its meaning, and end."""

    def __init__(self, option_strings, dest, help=None):
        super().__init__(option_strings, argparse.SUPPRESS, nargs=0, help=help)

    def __call__(self, parser, namespace, values, option_string=None):
        print("\n".join(report.settings_table()))
        parser.exit()


def settings_from(options) -> systems.Settings:
    """The preset, with the settings that were given in place of its own."""
    return systems.PRESETS[options.preset or "small"]._replace(**given_settings(options))


def given_settings(options) -> dict:
    """{name: value} of the settings that were given."""
    short = {"epochs": options.epochs, "split": options.split}
    return systems.chosen(options.set) | {name: value for name, value in short.items() if value is not None}


def refuse_existing(path: str | Path) -> None:
    """ValueError if `path` exists: data files are not written over, since 52 GB do not come back."""
    if Path(path).exists():
        raise ValueError(f"{path} exists already: remove it, or name another file")


# ----------------------------------------------------------------------------------------------- the mathematics


def add_explain(commands) -> None:
    c = command(commands, run_explain, "explain --equation 7 --gradients")
    c.add_argument("--equation", type=int, choices=range(1, 12), metavar="1..11", help="one equation only")
    c.add_argument("--groups", nargs="+", choices=[*paper.GROUPS, "all"], metavar="NAME",
                   default=list(explain.SHOWN), help="band groups to show, or all; default: RGB VH")  # fmt: skip
    c.add_argument("--gradients", action="store_true", help="show dL/d(symbol) of every symbol too")
    c.add_argument("--samples", type=int, default=explain.SAMPLES, metavar="N", help="default: %(default)s")
    c.add_argument("--seed", type=int, default=paper.SEED, metavar="N", help="default: %(default)s")


def run_explain(options) -> None:
    """Print every number of a tiny batch in the order of computation, by its symbol and with its formula."""
    shown = list(paper.GROUPS) if "all" in options.groups else options.groups
    print(
        explain.page(
            options.equation,
            groups=shown,
            with_gradients=options.gradients,
            seed=options.seed,
            samples=options.samples,
        )
    )


# ---------------------------------------------------------------------------------------------------------- data


def add_simulate(commands) -> None:
    c = command(commands, run_simulate, "simulate OUT.h5 --per-class 60 --seed 47")
    c.add_argument("out", metavar="OUT.h5", type=files.path)
    c.add_argument("--per-class", type=int, default=0, metavar="N", help="rows of each class")
    c.add_argument("--rows", type=int, default=0, metavar="N", help="rows with training.h5's class frequencies")
    c.add_argument("--seed", type=int, default=paper.SEED, metavar="N", help="default: %(default)s")


def run_simulate(options) -> None:
    """Write So2Sat-like simulated patches in So2Sat's own layout."""
    refuse_existing(options.out)
    simulate.write_file(options.out, per_class=options.per_class, rows=options.rows, seed=options.seed)
    print(f"{options.out}: {17 * options.per_class + options.rows} SIMULATED patches")


def add_inspect(commands) -> None:
    c = command(commands, run_inspect, "inspect training.h5", "inspect mine.h5 --compare")
    c.add_argument("file", metavar="FILE.h5", type=filled)
    c.add_argument("--compare", action="store_true", help="with the published statistics: permuted, or scaled?")


def run_inspect(options) -> int:
    """Show a file's rows, classes and bands, and what is wrong with it."""
    found = inspection.inspect(options.file, compare=options.compare)
    print(found)
    return 1 if found.problems else 0


def add_subset(commands) -> None:
    c = command(commands, run_subset, "subset training.h5 OUT.h5 --per-class 1306 --test 12117 --seed 47",
                "subset training.h5 OUT.h5 --per-class 100 --test 1500 --geo training_geo.h5")  # fmt: skip
    c.add_argument("file", metavar="FILE.h5", type=filled)
    c.add_argument("out", metavar="OUT.h5", type=filled)
    defaults = (("per-class", paper.TRAIN_PER_CLASS), ("test", paper.TEST), ("seed", paper.SEED))
    for name, default in defaults:
        c.add_argument(f"--{name}", type=int, default=default, metavar="N", help="default: %(default)s")
    geo_option(c)


def run_subset(options) -> None:
    """Draw the paper's split from a large file into a small one."""
    refuse_existing(options.out)
    so2sat.subset(options.file, options.out, options.per_class, options.test, options.seed, options.geo)
    print(f"{options.out}: {17 * options.per_class} training and {options.test} test rows of {options.file}")


# ------------------------------------------------------------------------------------------------------- one run


def add_train(commands) -> None:
    c = command(
        commands,
        run_train,
        "train --data subset.h5 --system ebcnn-bplcz --out RUN",
        "train --data training.h5 --test-data testing.h5 --validation validation.h5 --system ebcnn --out RUN"
        " --set per_class=500 clip_sen1=none",
        "train --data training.h5 --geo training_geo.h5 --split city --system ebcnn-bplcz --out RUN",
        "train --resume RUN --epochs 20",
    )
    data_option(c, help="what to train on")
    c.add_argument("--system", choices=systems.SYSTEMS, help="a row of Table II or III")
    c.add_argument("--out", type=files.path, metavar="RUN", help="the run folder to write")
    c.add_argument("--resume", type=files.path, metavar="RUN",
                   help="go on with a run by its folder alone, to more --epochs if they are given")  # fmt: skip
    data_options(c)
    c.add_argument("--validation", metavar="FILE.h5", type=filled,
                   help="a file whose accuracy is noted each epoch; nothing is selected by it")  # fmt: skip
    c.add_argument("--dtype", choices=("float32", "float64"), help="default: float32")
    preset_options(c)


def run_train(options) -> None:
    """Train one system into a run folder, or go on with a run."""
    places = {name: getattr(options, name) for name in ("data", "test_data", "validation", "geo")}
    if options.resume is not None:
        if any((options.system, options.out, options.set, options.split, options.preset, options.dtype)):
            raise ValueError("--resume takes all from the run's folder: beside it, --epochs and moved files alone")
        result = train.resume(options.resume, epochs=options.epochs, **places)
    else:
        if missing := [name for name in ("data", "system", "out") if getattr(options, name) is None]:
            raise ValueError(f"--{missing[0]} is missing; expected --data, --system and --out, or --resume RUN")
        settings, given = settings_from(options), given_settings(options)
        own: dict = {"dtype": options.dtype or "float32", "given": given, "resume": False}
        result = train.train(options.out, system=options.system, settings=settings, **own, **places)
    print(report.run_line(result))


def add_evaluate(commands) -> None:
    c = command(
        commands, run_evaluate, "evaluate RUN --data testing.h5", "evaluate RUN --data testing.h5 --out DIR"
    )
    c.add_argument("folder", metavar="RUN", type=files.path)
    data_option(c, required=True)
    c.add_argument("--training-rows", choices=("skip", "include"),
                   help="what to do with rows of another file that were trained on; default: refuse")  # fmt: skip
    c.add_argument("--out", type=files.path, metavar="DIR",
                   help="write evaluation.json, confusion.csv and confusion.png there too")  # fmt: skip


def run_evaluate(options) -> int:
    """Print the accuracy on a file, by class too; on the file that a run was tested on, on its test part."""
    trained = evaluate.load(options.folder)
    with so2sat.open_file(options.data) as patches:
        rows, which = evaluate.rows_to_evaluate(trained, patches, options.training_rows)
        C = evaluate.confusion(trained, patches, rows)
        kind = "SIMULATED" if patches.simulated else "given"
    found = report.evaluation(C)
    print(origin(options.folder, trained))
    print(f"{report.one_line(found, kind)}: {which}", report.class_table(found), sep="\n\n")
    if options.out is None:
        return 0
    files.make_folder(options.out)
    files.write_json(options.out / "evaluation.json", {"rows": which, "simulated": kind == "SIMULATED", **found})
    runs.write_confusion(options.out, C)
    print("", options.out / "evaluation.json", options.out / "confusion.csv", sep="\n")
    try:
        print(figures.evaluation_figure(C, options.folder, f"{kind} samples", options.out / "confusion.png"))
    except ValueError as error:
        print(f"bplcz_ref evaluate: no confusion.png: {error}", file=sys.stderr)
        return 1
    return 0


def add_predict(commands) -> None:
    c = command(commands, run_predict, "predict RUN --data FILE.h5 --out LABELS.csv",
                "predict RUN --data FILE.h5 --out LABELS.csv --probabilities --embeddings I.npz")  # fmt: skip
    c.add_argument("folder", metavar="RUN", type=files.path)
    data_option(c, required=True)
    c.add_argument("--out", required=True, type=files.path, metavar="LABELS.csv")
    c.add_argument("--probabilities", action="store_true", help="a column for the probability of each class too")
    c.add_argument("--embeddings", type=files.path, metavar="OUT.npz",
                   help="write the fused feature I of Eq. (9) of each row too")  # fmt: skip


def run_predict(options) -> None:
    """Write the class of every row of a file."""
    for path in filter(None, (options.out, options.embeddings)):
        if path.exists() and Path(options.data).exists() and path.samefile(options.data):
            raise ValueError(f"{path} is the data itself: name another file for the labels")
        files.replaceable(path)
    if options.embeddings is not None:
        weights.check_ending(options.embeddings)
    trained = evaluate.load(options.folder)
    lines = ["row,class,name,simulated" + "".join(f",p_{k}" for k, _ in paper.CLASSES if options.probabilities)]
    with so2sat.open_file(options.data, labels=False) as patches:
        for line in inspection.constant_channels(patches):
            print(f"bplcz_ref predict: {options.data}: {line}", file=sys.stderr)
        simulated = str(patches.simulated or trained.config["data"]["simulated"]).lower()
        every = np.arange(len(patches))
        for rows, c_hat in evaluate.logits(trained, patches, every):
            for row, p in zip(rows, evaluate.probabilities(c_hat), strict=True):
                cells = [str(row), *paper.CLASSES[np.argmax(p)], simulated]
                cells += [f"{value:.6f}" for value in p] if options.probabilities else []
                lines.append(",".join(cells))
        I = None if options.embeddings is None else evaluate.fused(trained, patches, every)
    said = origin(options.folder, trained)  # last of what may fail: labels are written when all else is known
    files.write_text(options.out, "\n".join(lines) + "\n")
    print(said)
    print(f"{options.out}: the classes of {len(lines) - 1} rows")
    if I is not None:
        weights.save(options.embeddings, {"I": I})
        print(f"{options.embeddings}: I {I.shape}")


def origin(folder: Path, trained: evaluate.Trained) -> str:
    """In a line, what a trained network's results rest on."""
    on = "SIMULATED data" if trained.config["data"]["simulated"] else trained.config["data"]["path"]
    epochs, asked = len(runs.read_log(folder)), trained.config["settings"]["epochs"]
    unfinished = "" if runs.complete(folder) else f", NOT complete: epoch {epochs} of {asked}"
    return f"{folder}: {trained.config['system']} trained on {on}{unfinished}"


# -------------------------------------------------------------------------------------------------- several runs


def add_report(commands) -> None:
    c = command(commands, run_report, "report runs/small/ebcnn runs/small/ebcnn-bplcz --out figures")
    c.add_argument("folders", metavar="RUN", type=files.path, nargs="+", help="run folders, as train writes them")
    data_option(c, help="the file of their test part; default: the path in config.json")
    c.add_argument("--out", type=files.path, default=Path("figures"), metavar="DIR", help="default: %(default)s")


def run_report(options) -> int:
    """Print the accuracy of runs, and draw figures: confusion matrix, t-SNE of I, curves."""
    results = {run: runs.read_metrics(run) for run in filter(runs.complete, options.folders)}
    written: list[str] = []
    missing = figures.write_figures(options.folders, options.out, options.data, say=written.append)
    for run, result in results.items():
        print(f"{run}: {report.run_line(result)}")
    print("\n".join(written))
    for line in missing:
        print(f"bplcz_ref report: {line}", file=sys.stderr)
    return 1 if missing else 0


def add_tables(commands) -> None:
    c = command(commands, run_tables, "tables --data FILE.h5 --seeds 3 --workers 2 --out runs/tables",
                "tables --data FILE.h5 --vary contrastive=paper,unicl,none --out runs/losses",
                "tables --data FILE.h5 --vary alpha=0.25,0.5,1 --set epochs=20 --out runs/alpha")  # fmt: skip
    data_option(c, required=True)
    c.add_argument("--out", required=True, type=files.path, metavar="DIR",
                   help="run folders and tables; the same command goes on after an interruption")  # fmt: skip
    c.add_argument("--systems", nargs="+", choices=systems.SYSTEMS, metavar="NAME",
                   help="default: all, " + ", ".join(systems.SYSTEMS) + "; with --vary: ebcnn-bplcz")  # fmt: skip
    c.add_argument("--vary", metavar="NAME=V1,V2,...",
                   help="values of one setting: a row for each, and its difference from the first")  # fmt: skip
    c.add_argument("--seeds", type=int, default=3, metavar="N", help="47, 48, ...; default: %(default)s")
    data_options(c)
    preset_options(c)
    place = c.add_mutually_exclusive_group()
    place.add_argument("--workers", type=int, default=1, metavar="N", help="processes here; default: %(default)s")
    place.add_argument("--dask", metavar="ADDRESS", help="a Dask scheduler, such as tcp://host:8786")


def run_tables(options) -> None:
    """Train every system of Tables II and III, or every value of a setting, with every seed; print both sides."""
    for name in ("seeds", "workers"):
        if getattr(options, name) < 1:
            raise ValueError(f"--{name} is {getattr(options, name)}; expected 1 or more")
    settings = settings_from(options)
    seeds = range(settings.seed, settings.seed + options.seeds)
    vary = None if options.vary is None else systems.varied(options.vary)
    asked = options.systems or (list(systems.SYSTEMS) if vary is None else ["ebcnn-bplcz"])
    names = [name for name in systems.SYSTEMS if name in asked]
    given = given_settings(options) if vary is None else {**given_settings(options), vary[0]: None}
    own = {name: getattr(options, name) for name in ("test_data", "geo", "workers", "dask")}
    results = tables.tables(options.data, options.out, names, seeds, settings, given=given, vary=vary, **own)
    files.write_text(options.out / "tables.csv", report.tables_csv(results))
    if vary is None:
        text = report.tables_markdown(results, sum(tables.run_seconds(name, systems.PAPER) for name in names))
    else:
        text = report.variants_markdown(results)
    files.write_text(options.out / "tables.md", text + "\n")
    print(text)


# ---------------------------------------------------------------------------------------- other implementations


def add_conform(commands) -> None:
    c = command(commands, run_conform, "conform check ANSWERS.json")
    conform.add_arguments(c)


def run_conform(options) -> int | None:
    """Does another implementation compute BP-LCZ? A set of cases out, answers graded."""
    return conform.run(options)


def add_tokenizer(commands) -> None:
    c = command(commands, run_tokenizer, 'tokenizer encode "a photo of a lake"')
    actions = c.add_subparsers(dest="action", required=True, metavar="train|encode")
    a = actions.add_parser("train", help="retrain from tokenizer_vocab/corpus.txt into a folder")
    a.add_argument("--out", required=True, type=files.path, metavar="DIR")
    a = actions.add_parser("encode", help="token ids and pieces of a text")
    a.add_argument("text", metavar="TEXT", help="a text, or '-' for the 119 prompts")
    a.add_argument("--merges", metavar="FILE", type=filled,
                   help="a merges file, such as CLIP's; default: the bundled one")  # fmt: skip


def run_tokenizer(options) -> None:
    """Train the bundled vocabulary again, or encode a text."""
    if options.action == "train":
        vocabulary.write_vocabulary(options.out)
        print(f"{options.out}: the vocabulary, trained again")
        return
    words = systems.tokenizer(options.merges)
    for text in prompts.prompts() if options.text == "-" else [options.text]:
        ids = words.encode(text)
        print(" ".join(map(str, ids)), "|", " ".join(repr(words.decode([i])) for i in ids))


if __name__ == "__main__":
    sys.exit(main())

"""python -m bplcz_ref COMMAND: every job of the library from the command line. Also installed as bplcz-ref."""

import argparse
import os
import sys
from pathlib import Path

import numpy as np

from bplcz_ref import __version__, explain, files, metrics, paper, prompts, systems, tokenizer
from bplcz_ref.conform import command as conform
from bplcz_ref.data import inspection, simulate, so2sat
from bplcz_ref.report import figures
from bplcz_ref.report import text as report
from bplcz_ref.training import tables, train


def main(arguments=None):
    """Run one command; returns the exit code. Errors that a user can mend are one line on stderr, code 2."""
    options = parser().parse_args(arguments)
    try:
        code = options.run(options) or 0
        sys.stdout.flush()  # a reader that is gone shows here at the latest
        return code
    except BrokenPipeError:  # the reader has seen enough, as in `... | head -1`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the interpreter complains as it ends
        return 0
    except MemoryError:
        print(f"bplcz_ref {options.command}: needs more memory than there is", file=sys.stderr)
        return 2
    except (ValueError, OSError) as error:
        print(f"bplcz_ref {options.command}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        then = {
            "train": "; the same command with --resume goes on from the last checkpoint",
            "tables": "; the same command goes on where it stopped",
        }.get(options.command, "")
        print(f"bplcz_ref {options.command}: interrupted{then}", file=sys.stderr)
        return 130


def parser():
    """The command line, a function each below."""
    top = argparse.ArgumentParser(prog="bplcz_ref", description="BP-LCZ as exact, runnable mathematics.")
    top.add_argument("--version", action="version", version=f"bplcz_ref {__version__}")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name, run, text, example):
        made = commands.add_parser(
            name,
            help=text,
            description=text,
            epilog=f"example:\n  python -m bplcz_ref {example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        made.set_defaults(run=run)
        return made

    c = command("simulate", run_simulate, "Write So2Sat-like simulated patches in So2Sat's own layout.",
                "simulate OUT.h5 --per-class 60 --seed 47")  # fmt: skip
    c.add_argument("out", metavar="OUT.h5", type=files.path)
    c.add_argument("--per-class", type=int, default=0, metavar="N", help="rows of each class")
    c.add_argument("--rows", type=int, default=0, metavar="N", help="rows with training.h5's class frequencies")
    c.add_argument("--seed", type=int, default=paper.SEED, metavar="N", help="default: %(default)s")

    c = command("inspect", run_inspect, "Show a file's rows, classes and bands, and what is wrong with it.",
                "inspect training.h5")  # fmt: skip
    c.add_argument("file", metavar="FILE.h5", type=filled)

    c = command("subset", run_subset, "Draw the paper's split from a large file into a small one.",
                "subset training.h5 OUT.h5 --per-class 1306 --test 12117 --seed 47")  # fmt: skip
    c.add_argument("file", metavar="FILE.h5", type=filled)
    c.add_argument("out", metavar="OUT.h5", type=filled)
    c.add_argument(
        "--per-class", type=int, default=paper.TRAIN_PER_CLASS, metavar="N", help="default: %(default)s"
    )
    c.add_argument("--test", type=int, default=paper.TEST, metavar="N", help="default: %(default)s")
    c.add_argument("--seed", type=int, default=paper.SEED, metavar="N", help="default: %(default)s")

    c = command("train", run_train, "Train one system into a run folder, or go on with an interrupted run.",
                "train --data FILE.h5 --system ebcnn-bplcz --out RUN --resume")  # fmt: skip
    c.add_argument("--data", required=True, metavar="FILE.h5", type=filled)
    c.add_argument("--system", required=True, choices=systems.SYSTEMS)
    c.add_argument("--out", required=True, type=files.path, metavar="RUN")
    c.add_argument("--resume", action="store_true", help="go on with the run in RUN instead of refusing it")
    c.add_argument("--preset", choices=systems.PRESETS, default="small", help="default: %(default)s")
    c.add_argument("--dtype", choices=("float32", "float64"), default="float32", help="default: %(default)s")
    for name, kind in (("epochs", int), ("per-class", int), ("test", int), ("seed", int), ("batch", int)):
        c.add_argument(f"--{name}", type=kind, metavar="N", help="in place of the preset's")
    c.add_argument("--learning-rate", type=float, metavar="X", help="in place of the preset's")
    c.add_argument(
        "--vocabulary",
        metavar="MERGES",
        type=filled,
        help="a merges file, such as CLIP's; default: the bundled one",
    )

    for name, run, text, example in (
        ("evaluate", run_evaluate, "Accuracy on a file, or on the own test part.", "evaluate RUN --data FILE.h5"),
        ("predict", run_predict, "Write the class of every row of a file.",
         "predict RUN --data FILE.h5 --out LABELS.csv"),
    ):  # fmt: skip
        c = command(name, run, text, example)
        c.add_argument("folder", metavar="RUN", type=files.path)
        c.add_argument("--data", required=True, metavar="FILE.h5", type=filled)
        if name == "predict":
            c.add_argument("--out", required=True, type=files.path, metavar="LABELS.csv")

    c = command("tables", run_tables, "Tables II and III: every system with every seed, paper beside ours.",
                "tables --data FILE.h5 --seeds 3 --preset small --workers 2 --out runs/tables")  # fmt: skip
    c.add_argument("--data", required=True, metavar="FILE.h5", type=filled)
    c.add_argument(
        "--out", required=True, type=files.path, metavar="DIR", help="interrupted, it goes on where it stopped"
    )
    c.add_argument("--systems", nargs="+", choices=systems.SYSTEMS, default=list(systems.SYSTEMS), metavar="NAME",
                   help="default: all, " + ", ".join(systems.SYSTEMS))  # fmt: skip
    c.add_argument("--seeds", type=int, default=3, metavar="N", help="47, 48, ...; default: %(default)s")
    c.add_argument("--preset", choices=systems.PRESETS, default="small", help="default: %(default)s")
    for name in ("epochs", "per-class", "test"):
        c.add_argument(f"--{name}", type=int, metavar="N", help="in place of the preset's")
    place = c.add_mutually_exclusive_group()
    place.add_argument("--workers", type=int, default=1, metavar="N", help="processes here; default: %(default)s")
    place.add_argument("--dask", metavar="ADDRESS", help="a Dask scheduler, such as tcp://host:8786")

    c = command("report", run_report, "Accuracy of runs, and figures: confusion matrix, t-SNE of I, curves.",
                "report runs/small/ebcnn runs/small/ebcnn-bplcz --out figures")  # fmt: skip
    c.add_argument("folders", metavar="RUN", type=files.path, nargs="+", help="run folders, as train writes them")
    c.add_argument(
        "--data",
        metavar="FILE.h5",
        type=filled,
        help="what they were trained on; default: the path in config.json",
    )
    c.add_argument("--out", type=files.path, default=Path("figures"), metavar="DIR", help="default: %(default)s")

    c = command("explain", run_explain, "Every intermediate of a tiny batch, by its symbol in the paper.",
                "explain --equation 7")  # fmt: skip
    c.add_argument("--equation", type=int, choices=range(1, 12), metavar="1..11", help="one equation only")

    c = command("conform", conform.run, "Does another implementation compute BP-LCZ? Vectors out, answers graded.",
                "conform check ANSWERS --dtype float32")  # fmt: skip
    conform.add_arguments(c)

    c = command("tokenizer", run_tokenizer, "Train the bundled vocabulary again, or encode a text.",
                'tokenizer encode "a photo of a lake"')  # fmt: skip
    actions = c.add_subparsers(dest="action", required=True, metavar="train|encode")
    a = actions.add_parser("train", help="retrain from tokenizer_vocab/corpus.txt into a folder")
    a.add_argument("--out", required=True, type=files.path, metavar="DIR")
    a = actions.add_parser("encode", help="token ids and pieces of a text")
    a.add_argument("text", metavar="TEXT", help="a text, or '-' for the 119 prompts")
    a.add_argument(
        "--merges", metavar="FILE", type=filled, help="a merges file, such as CLIP's; default: the bundled one"
    )
    return top


def filled(text):
    """A path that stays text, as it goes into JSON; not empty."""
    return str(files.path(text))


def refuse_existing(path):
    """Data files are not written over: 52 GB do not come back."""
    if Path(path).exists():
        raise ValueError(f"{path} exists already: remove it, or name another file")


def run_simulate(options):
    refuse_existing(options.out)
    simulate.write_file(options.out, per_class=options.per_class, rows=options.rows, seed=options.seed)
    print(f"{options.out}: {17 * options.per_class + options.rows} SIMULATED patches")


def run_inspect(options):
    found = inspection.inspect(options.file)
    print(found)
    return 1 if found.problems else 0


def run_subset(options):
    refuse_existing(options.out)
    so2sat.subset(options.file, options.out, options.per_class, options.test, options.seed)
    print(f"{options.out}: {17 * options.per_class} training and {options.test} test rows of {options.file}")


def run_train(options):
    given = ("epochs", "per_class", "test", "seed", "batch", "learning_rate", "vocabulary")
    chosen = {name: getattr(options, name) for name in given if getattr(options, name) is not None}
    settings = systems.PRESETS[options.preset]._replace(**chosen)
    result = train.train(
        options.out, options.data, options.system, settings, dtype=options.dtype, resume=options.resume
    )
    print(describe(result, "SIMULATED" if result["data_simulated"] else "test"))


def run_evaluate(options):
    trained = train.load(options.folder)
    with so2sat.open_file(options.data) as patches:
        rows, which = np.arange(len(patches)), f"all {len(patches)} rows of {options.data}"
        if files.digest(patches.labels) == trained.config["data"]["labels"]:
            _, rows = train.parts(patches, train.settings_of(options.folder, trained.config))
            which = f"the test part of {options.data}, on which it was trained"
        C = train.confusion(trained, patches, rows)
        print(standing(options.folder, trained))
        print(f"{describe(metrics.summary(C), 'SIMULATED' if patches.simulated else 'given')}: {which}")


def run_predict(options):
    if options.out.exists() and Path(options.data).exists() and options.out.samefile(options.data):
        raise ValueError(f"{options.out} is the data itself: name another file for the labels")
    if options.out.is_dir():
        raise ValueError(f"{options.out} is a folder; expected a file to write")
    trained = train.load(options.folder)
    lines = ["row,class,name,simulated"]
    with so2sat.open_file(options.data, labels=False) as patches:  # what is to be predicted need not be labelled
        simulated = str(patches.simulated or trained.config["data"]["simulated"]).lower()
        for rows, c_hat in train.logits(trained, patches, np.arange(len(patches))):
            classes = [paper.CLASSES[k] for k in np.argmax(c_hat, axis=1)]
            lines += [f"{row},{name},{text},{simulated}" for row, (name, text) in zip(rows, classes, strict=True)]
    with files.whole(options.out) as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(standing(options.folder, trained))
    print(f"{options.out}: the classes of {len(lines) - 1} rows")


def standing(folder, trained):
    """What a trained network's figures rest on, in a line."""
    on = "SIMULATED data" if trained.config["data"]["simulated"] else trained.config["data"]["path"]
    epochs, asked = len(train.read_log(folder)), trained.config["settings"]["epochs"]
    done = "" if (folder / "metrics.json").exists() else f", NOT complete: epoch {epochs} of {asked}"
    return f"{folder}: {trained.config['system']} trained on {on}{done}"


def run_tables(options):
    for name in ("seeds", "workers"):
        if getattr(options, name) < 1:
            raise ValueError(f"--{name} is {getattr(options, name)}; expected 1 or more")
    settings = systems.PRESETS[options.preset]
    chosen = {name: getattr(options, name) for name in ("epochs", "per_class", "test")}
    settings = settings._replace(**{name: value for name, value in chosen.items() if value is not None})
    seeds = range(settings.seed, settings.seed + options.seeds)
    names = [name for name in systems.SYSTEMS if name in options.systems]
    print(
        tables.tables(
            options.data, options.out, names, seeds, settings, workers=options.workers, dask=options.dask
        )
    )


def run_report(options):
    for run in options.folders:
        if (run / "metrics.json").exists():
            result = files.read_json(run / "metrics.json")
            print(f"{run}: {describe(result, 'SIMULATED' if result['data_simulated'] else 'test')}")
    missing = figures.write(options.folders, options.out, options.data)
    for line in missing:
        print(f"bplcz_ref report: {line}", file=sys.stderr)
    return 1 if missing else 0


def run_explain(options):
    print(explain.explain(options.equation))


def run_tokenizer(options):
    if options.action == "train":
        tokenizer.write_vocabulary(options.out)
        print(f"{options.out}: the vocabulary, trained again")
        return
    words = systems.tokenizer(options.merges)
    for text in prompts.prompts() if options.text == "-" else [options.text]:
        ids = words.encode(text)
        print(" ".join(map(str, ids)), "|", " ".join(repr(words.decode([i])) for i in ids))


def describe(result, kind):
    """One line of a result."""
    oa, average, kappa = (
        report.spread([result[name]]) for name in ("overall_accuracy", "average_accuracy", "kappa")
    )
    return f"OA {oa} %, average accuracy {average} %, kappa {kappa} % on {result['samples']} {kind} samples"


if __name__ == "__main__":
    sys.exit(main())

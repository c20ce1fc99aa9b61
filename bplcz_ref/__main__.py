"""python -m bplcz_ref COMMAND: every job of the library from the command line. Also installed as bplcz-ref.

The function of a command's name declares its arguments; its docstring is the help, then examples. What commands do
is in commands.py, which is imported when one is called, so that --help answers at once.
"""

import argparse
import contextlib
import errno
import os
import sys
import warnings
from pathlib import Path

from bplcz_ref import __version__, paper, program
from bplcz_ref.storage import files


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit code. Errors that a user can mend are one line on stderr, code 2."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options = parser(arguments).parse_args(arguments)
    warnings.formatwarning = lambda message, *place: f"{program()} {options.command}: {message}\n"
    with contextlib.suppress(AttributeError):  # of a stream that cannot: names of files that are not UTF-8
        sys.stdout.reconfigure(errors="surrogateescape")  # type: ignore[union-attr]
    try:
        from bplcz_ref import commands

        code = getattr(commands, f"run_{options.command}")(options) or 0
        sys.stdout.flush()  # a reader that is gone, or a full disk, is noticed here at the latest
        return code
    except BrokenPipeError:  # the reader has seen enough, as in `... | head -1`
        no_output()
        return 0
    except KeyboardInterrupt:
        said, code = f"interrupted{resuming(options)}", 130
    except MemoryError:
        said, code = "needs more memory than there is", 2
    except ValueError as error:
        said, code = str(error), 2
    except OSError as error:
        place = error.filename if error.filename is not None else "the output"
        said, code = f"{place}: {error.strerror or error}", 2
        if error.errno == errno.ENOSPC:
            no_output()
    print(f"{program()} {options.command}: {said}", file=sys.stderr)
    return code


def no_output() -> None:
    """Nothing more goes to stdout, where the interpreter would complain once more as it ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def resuming(options: argparse.Namespace) -> str:
    """How a command goes on that was interrupted."""
    if options.command == "tables":
        return "; the same command goes on where it stopped"
    if options.command != "train":
        return ""
    run = options.resume or options.out
    if not (run / "config.json").exists():
        return " before anything was kept; the same command begins again"
    place = "from the last checkpoint" if (run / "checkpoint.npz").exists() else "from the start"
    return f"; `{program('train', '--resume', run)}` goes on {place}"


def parser(arguments: list[str]) -> argparse.ArgumentParser:
    """The command line: every command by name, and the arguments of the one that `arguments` names."""
    about = "BP-LCZ as exact, runnable mathematics. No command replaces a file without --overwrite."
    top = argparse.ArgumentParser(prog=program(), description=about)
    top.add_argument("--version", action="version", version=f"bplcz_ref {__version__}")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for declare in COMMANDS:
        name = declare.__name__.rstrip("_")  # import is a word of Python
        what, *examples = filter(None, map(str.strip, (declare.__doc__ or name).split("\n")))
        made = commands.add_parser(
            name,
            help=what,
            description=what,
            epilog="\n  ".join(["examples:", *(f"{program()} {name} {example}" for example in examples)]),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        if name in arguments:
            declare(made)
    return top


# ---------------------------------------------------------------------------------- what several commands share


FILE: dict = {"metavar": "FILE.h5", "type": files.path}
RUN: dict = {"metavar": "RUN", "type": files.path}
GEO: dict = FILE | {"help": "the *_geo.h5 of the file, for the rows' cities"}
N: dict = {"metavar": "N", "type": int}


def run_options(c) -> None:
    """RUN, --data FILE.h5 and --import, of commands on a trained run."""
    c.add_argument("folder", **RUN)
    c.add_argument("--data", **FILE, required=True)
    import_option(c)


def import_option(c) -> None:
    """--import FILE.py"""

    def imported(text):
        from bplcz_ref import register

        try:
            register.import_file(files.path(text))
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    c.add_argument("--import", dest="imports", metavar="FILE.py", type=imported, action="append",
                   help="a Python file that registers a loss, an encoder or a network of your own")  # fmt: skip


def figure_options(c) -> None:
    """--format and --overwrite, of commands that draw."""
    c.add_argument("--format", choices=("png", "pdf", "svg"), default="png", help="of figures; default: png")
    files.overwrite_option(c)


def training_options(c) -> None:
    """The files beside --data, --preset, and what takes the place of its settings."""
    c.add_argument("--test-data", **FILE,
                   help="an official test file; --data trains, as a whole or per_class rows each")  # fmt: skip
    c.add_argument("--geo", **GEO)
    import_option(c)
    c.add_argument("--preset", choices=("paper", "small"), help="default: small")
    c.add_argument("--set", nargs="+", action="extend", default=[], metavar="NAME=VALUE",
                   help="settings in place of the preset's, such as alpha=0.5 contrastive=unicl")  # fmt: skip
    c.add_argument(
        "--settings", action=ListSettings, nargs=0, help="list all settings and their values, then exit"
    )
    c.add_argument("--epochs", **N, help="short for --set epochs=N")
    c.add_argument("--split", choices=("file", "random", "city"), help="short for --set split=NAME")
    c.add_argument("--twins", choices=("refuse", "drop"),
                   help="short for --set twins=NAME: for test rows that copy training rows")  # fmt: skip


class ListSettings(argparse.Action):
    """Print every setting with its values in the presets and its meaning, then exit."""

    def __call__(self, parser, namespace, values, option_string=None):
        from bplcz_ref.report import pages

        print("\n".join(pages.settings_table()))
        parser.exit()


# ----------------------------------------------------------------------------------- the arguments of each command


def explain(c) -> None:
    """Follow a pair of a tiny batch from its features to L, and back: every number by its symbol and formula.

    --equation 7 --gradients
    """
    c.add_argument("--equation", type=int, choices=range(1, 12), metavar="1..11", help="one equation only")
    c.add_argument("--groups", nargs="+", choices=[*paper.GROUPS, "all"], metavar="NAME",
                   default=["RGB"], help="band groups to show, or all; default: RGB")  # fmt: skip
    c.add_argument("--gradients", action="store_true", help="show dL/d(symbol) of every symbol too")
    c.add_argument("--samples", **N, default=6, help="default: %(default)s")
    c.add_argument("--seed", **N, default=paper.SEED, help="default: %(default)s")


def simulate(c) -> None:
    """Write So2Sat-like simulated patches in So2Sat's own layout.

    OUT.h5 --per-class 60 --seed 47
    """
    c.add_argument("out", metavar="OUT.h5", type=files.path)
    c.add_argument("--per-class", **N, default=0, help="rows of each class")
    c.add_argument("--rows", **N, default=0, help="rows with training.h5's class frequencies")
    c.add_argument("--seed", **N, default=paper.SEED, help="default: %(default)s")


def inspect(c) -> None:
    """Show a file's rows, classes and bands, and what is wrong with it.

    training.h5
    mine.h5 --compare
    """
    c.add_argument("file", **FILE)
    c.add_argument("--all", action="store_true", help="look at every row; default: at 4096, spread over the file")
    c.add_argument("--compare", action="store_true", help="with the published statistics: permuted, or scaled?")


def subset(c) -> None:
    """Draw the paper's split from a large file into a small one.

    training.h5 OUT.h5 --per-class 1306 --test 12117 --seed 47
    training.h5 OUT.h5 --per-class 100 --test 1500 --geo training_geo.h5
    """
    c.add_argument("file", **FILE)
    c.add_argument("out", metavar="OUT.h5", type=files.path)
    defaults = (("per-class", paper.TRAIN_PER_CLASS), ("test", paper.TEST), ("seed", paper.SEED))
    for name, default in defaults:
        c.add_argument(f"--{name}", **N, default=default, help="default: %(default)s")
    c.add_argument("--skip-bad", action="store_true",
                   help="leave out rows with no data, values that cannot be, or padding")  # fmt: skip
    c.add_argument("--geo", **GEO)


def train(c) -> None:
    """Train one system into a run folder, or go on with a run.

    --data subset.h5 --system ebcnn-bplcz --out RUN
    --data training.h5 --test-data testing.h5 --system ebcnn --out RUN --set per_class=500 clip_sen1=none
    --data training.h5 --geo training_geo.h5 --split city --system ebcnn-bplcz --out RUN
    --import mine.py --data subset.h5 --system mine --set contrastive=focal --out RUN
    --resume RUN --epochs 20
    """
    c.add_argument("--data", **FILE, help="what to train on")
    c.add_argument("--system", metavar="NAME",
                   help="a row of Table II or III, such as ebcnn-bplcz, or a name that you gave")  # fmt: skip
    c.add_argument("--out", **RUN, help="the run folder to write")
    c.add_argument("--resume", **RUN,
                   help="go on with a run by its folder alone, to more --epochs if they are given")  # fmt: skip
    c.add_argument("--validation", **FILE,
                   help="a file whose accuracy is noted each epoch; nothing is selected by it")  # fmt: skip
    c.add_argument("--dtype", choices=("float32", "float64"), help="default: float32")
    training_options(c)


def evaluate(c) -> None:
    """Print the accuracy on a file, by class too; on the file that a run was tested on, on its test part.

    RUN --data testing.h5
    RUN --data testing.h5 --out DIR
    """
    run_options(c)
    c.add_argument("--training-rows", choices=("skip", "include"),
                   help="what to do with rows of another file that were trained on; default: refuse")  # fmt: skip
    c.add_argument("--out", type=files.path, metavar="DIR",
                   help="write evaluation.json, confusion.csv and a figure of it there too")  # fmt: skip
    figure_options(c)


def predict(c) -> None:
    """Write the class of every row of a file.

    RUN --data FILE.h5 --out LABELS.csv
    RUN --data FILE.h5 --out LABELS.csv --probabilities --embeddings I.npz
    """
    run_options(c)
    c.add_argument("--out", required=True, type=files.path, metavar="LABELS.csv")
    c.add_argument("--probabilities", action="store_true", help="a column for the probability of each class too")
    c.add_argument("--embeddings", type=files.path, metavar="OUT.npz",
                   help="write the fused feature I of Eq. (9) of each row too")  # fmt: skip
    files.overwrite_option(c)


def export(c) -> None:
    """Write the weights of a run into a file for other programs, under public names.

    RUN OUT.safetensors
    """
    c.add_argument("folder", **RUN)
    c.add_argument("out", metavar="OUT", type=files.path, help=".npz, .h5 or .safetensors, by its ending")
    import_option(c)
    files.overwrite_option(c)


def import_(c) -> None:
    """Make a new run folder of a run's settings and the weights of a file, to evaluate or to train from there.

    RUN WEIGHTS.safetensors NEW-RUN
    """
    c.add_argument("folder", **RUN)
    c.add_argument("file", metavar="WEIGHTS", type=files.path, help="as export writes it, trained further or not")
    c.add_argument("out", metavar="NEW-RUN", type=files.path)
    import_option(c)


def report(c) -> None:
    """Print the accuracy of runs, and draw figures: confusion matrix, t-SNE of I, curves.

    runs/small/ebcnn runs/small/ebcnn-bplcz --out figures --format pdf
    """
    c.add_argument("folders", **RUN, nargs="+", help="run folders, as train writes them")
    c.add_argument("--data", **FILE, help="the file of their test part; default: the path in config.json")
    import_option(c)
    c.add_argument("--out", type=files.path, default=Path("figures"), metavar="DIR", help="default: %(default)s")
    figure_options(c)


def tables(c) -> None:
    """Train every system of Tables II and III, or every value of a setting, with every seed; print both sides.

    --data FILE.h5 --seeds 3 --out runs/tables
    --data FILE.h5 --vary contrastive=paper,unicl,none --out runs/losses
    --data FILE.h5 --vary alpha=0.25,0.5,1 --set epochs=20 --out runs/alpha
    """
    c.add_argument("--data", **FILE, required=True)
    c.add_argument("--out", required=True, type=files.path, metavar="DIR",
                   help="run folders and tables; the same command goes on after an interruption")  # fmt: skip
    c.add_argument("--systems", nargs="+", metavar="NAME",
                   help="default: all rows of Tables II and III; with --vary: ebcnn-bplcz")  # fmt: skip
    c.add_argument("--vary", metavar="NAME=V1,V2,...",
                   help="values of one setting: a row for each, and its difference from the first")  # fmt: skip
    c.add_argument("--seeds", **N, default=3, help="47, 48, ...; default: %(default)s")
    training_options(c)
    place = c.add_mutually_exclusive_group()
    place.add_argument("--workers", **N, help="processes here, which share its cores; default: one on each core")
    place.add_argument("--dask", metavar="ADDRESS", help="a Dask scheduler, such as tcp://host:8786")


def conform(c) -> None:
    """Does another implementation compute BP-LCZ? A set of cases out, answers graded.

    check ANSWERS.json
    """
    from bplcz_ref.conform import command

    command.add_arguments(c)


def tokenizer(c) -> None:
    """Show a text as the token ids and pieces that the text encoder reads.

    encode "a photo of a lake"
    encode - --merges MERGES.txt
    """
    c.add_argument("action", choices=("encode",))
    c.add_argument("text", metavar="TEXT", help="a text, or '-' for the 119 prompts")
    c.add_argument("--merges", metavar="FILE", type=files.path,
                   help="a merges file, such as CLIP's; default: the bundled one")  # fmt: skip


COMMANDS = (explain, simulate, inspect, subset, train, evaluate, predict, report, tables, export, import_, conform,
            tokenizer)  # fmt: skip

if __name__ == "__main__":
    sys.exit(main())

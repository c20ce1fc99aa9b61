"""The main job: train the three rows of the paper's ablation (Table III) and print them beside the paper's.

    python run_small.py                        simulates a small So2Sat-like file first; 1.5 minutes on 2 cores
    python run_small.py --data training.h5     the same on a file in So2Sat LCZ42's own layout

Run it again to resume an interrupted run; a complete one is not repeated.
"""

import argparse
import sys
from pathlib import Path

from bplcz_ref import nn, program, systems
from bplcz_ref.data import simulate
from bplcz_ref.report import figures, pages
from bplcz_ref.training import tables


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, prog="run_small.py"
    )
    parser.add_argument("--data", metavar="FILE.h5", help="a file with sen1, sen2 and label; default: simulated")
    parser.add_argument("--out", metavar="DIR", type=Path, default=Path("runs/small"), help="default: %(default)s")
    parser.add_argument("--preset", choices=systems.PRESETS, default="small", help="default: %(default)s")
    parser.add_argument(
        "--set", nargs="+", default=[], metavar="NAME=VALUE",
        help=f"settings in place of the preset's, such as epochs=8; all: {program()} train --settings",
    )  # fmt: skip
    parser.add_argument("--workers", metavar="N", type=int, help="processes; default: one on each core")
    options = parser.parse_args()
    given = systems.chosen(options.set)
    settings = systems.PRESETS[options.preset]._replace(**given)
    systems.check(settings, *systems.TABLE_III)

    data = options.data
    if data is None:
        data = options.out / f"simulated-{settings.per_class}-{settings.test}-{settings.seed}.h5"
        if not data.exists():
            print(f"No --data: simulating So2Sat-like patches into {data}", file=sys.stderr)
            simulate.write_file(data, per_class=settings.per_class, rows=settings.test, seed=settings.seed)

    workers, names = options.workers or nn.thread_count(), list(systems.TABLE_III)
    own: dict = {"given": given, "workers": workers, "by_seed": False}
    results = tables.tables(data, options.out, names, [settings.seed], settings, **own)
    folders = [options.out / name for name in names]
    print(pages.ablation([result for (result,) in results.values()], folders))

    print("\nFigures:")
    for missing in figures.write_figures(
        folders, options.out / "figures", data, say=lambda path: print(f"  {path}")
    ):
        print(f"  {missing}")


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError) as error:
        sys.exit(f"run_small.py: {error}")
    except KeyboardInterrupt:
        sys.exit("run_small.py: interrupted; the same command goes on where it stopped")

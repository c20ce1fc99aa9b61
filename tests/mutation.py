"""Are the tests able to fail? One-token changes of the package, each run against the tests of its module.

    python tests/mutation.py --count 300 --seed 1

It copies the checkout into a temporary folder, changes one operator, comparison, constant or boolean there, runs
the module's tests, and prints each change that no test noticed. A survivor is either equivalent to the original or
a hole in the tests. It takes about five seconds per change and is not part of the test run.
"""

import argparse
import ast
import random
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# module -> its tests; a module's doctests are always run too
TESTS = {
    "equations.py": ["test_equations.py"],
    "checks.py": ["test_checks.py", "test_equations.py"],
    "loops.py": ["test_loops.py", "test_by_hand.py", "test_equations.py"],
    "theory.py": ["test_theory.py"],
    "variants.py": ["test_variants.py"],
    "model.py": ["test_model.py"],
    "exvit_bplcz.py": ["test_exvit.py", "test_figures.py"],
    "in_one_file.py": ["test_in_one_file.py"],
    "nn.py": ["test_kernels_image.py", "test_kernels_text.py", "test_model.py"],
    "optim.py": ["test_optim.py"],
    "metrics.py": ["test_metrics.py"],
    "schema.py": ["test_schema.py"],
    "archives.py": ["test_archives.py"],
    "files.py": ["test_files.py"],
    "weights.py": ["test_weights.py"],
    "tokenizer.py": ["test_tokenizer.py"],
    "vocabulary.py": ["test_vocabulary.py"],
    "systems.py": ["test_systems.py", "test_tables.py"],
    "explain.py": ["test_explain.py"],
    "hdf5.py": ["test_hdf5.py"],
    "encoders/text.py": ["test_encoders.py"],
    "encoders/prefixes.py": ["test_encoders.py"],
    "data/so2sat.py": ["test_so2sat.py"],
    "data/layout.py": ["test_layout.py", "test_so2sat.py"],
    "data/inspection.py": ["test_inspection.py"],
    "data/comparison.py": ["test_comparison.py"],
    "data/augment.py": ["test_augment.py"],
    "data/standardise.py": ["test_standardise.py"],
    "data/scene.py": ["test_simulate.py"],
    "data/simulate.py": ["test_simulate.py"],
    "training/train.py": ["test_train.py"],
    "training/progress.py": ["test_progress.py"],
    "training/averages.py": ["test_averages.py", "test_train.py"],
    "training/split.py": ["test_split.py", "test_evaluate.py"],
    "training/runs.py": ["test_runs.py", "test_train.py"],
    "training/checkpoint.py": ["test_checkpoint.py", "test_train.py"],
    "training/evaluate.py": ["test_evaluate.py", "test_train.py", "test_command_line.py"],
    "training/tables.py": ["test_tables.py"],
    "report/text.py": ["test_report_text.py", "test_command_line.py"],
    "report/figures.py": ["test_figures.py"],
    "report/plots.py": ["test_plots.py", "test_figures.py"],
}
OPERATORS = {
    ast.Add: ("+", "-"),
    ast.Sub: ("-", "+"),
    ast.Mult: ("*", "/"),
    ast.Div: ("/", "*"),
    ast.FloorDiv: ("//", "*"),
    ast.Mod: ("%", "*"),
    ast.Pow: ("**", "*"),
    ast.BitAnd: ("&", "|"),
    ast.BitOr: ("|", "&"),
}
COMPARISONS = {
    ast.Lt: ("<", "<="),
    ast.LtE: ("<=", "<"),
    ast.Gt: (">", ">="),
    ast.GtE: (">=", ">"),
    ast.Eq: ("==", "!="),
    ast.NotEq: ("!=", "=="),
    ast.Is: ("is", "is not"),
    ast.IsNot: ("is not", "is"),
    ast.In: ("in", "not in"),
    ast.NotIn: ("not in", "in"),
}


def changes(source):
    """Every possible change of a source: (start, end, replacement) in characters."""
    starts = [0]
    for line in source.splitlines(keepends=True):
        starts.append(starts[-1] + len(line.encode()))
    raw = source.encode()
    at = lambda line, column: starts[line - 1] + column
    found = []

    def between(left, right, old, new):
        low, high = at(left.end_lineno, left.end_col_offset), at(right.lineno, right.col_offset)
        place = raw.find(old.encode(), low, high)
        if place >= 0:
            found.append((place, place + len(old), new))

    def visit(node):
        match node:
            case ast.BinOp() if type(node.op) in OPERATORS:
                between(node.left, node.right, *OPERATORS[type(node.op)])
            case ast.Compare():
                for left, operator, right in zip(
                    [node.left, *node.comparators], node.ops, node.comparators, strict=False
                ):
                    between(left, right, *COMPARISONS[type(operator)])
            case ast.BoolOp():
                old, new = ("and", "or") if isinstance(node.op, ast.And) else ("or", "and")
                between(node.values[0], node.values[1], old, new)
            case ast.UnaryOp(op=ast.Not()):
                start = at(node.lineno, node.col_offset)
                found.append((start, start + 4, ""))
            case ast.Constant(value=bool() as value):
                found.append(
                    (at(node.lineno, node.col_offset), at(node.end_lineno, node.end_col_offset), str(not value))
                )
            case ast.Constant(value=int() | float() as value):
                new = repr(value + 1 if isinstance(value, int) else value * 1.5 + (value == 0))
                found.append((at(node.lineno, node.col_offset), at(node.end_lineno, node.end_col_offset), new))
        for name, child in ast.iter_fields(node):
            if name in ("annotation", "returns"):  # no code
                continue
            for part in child if isinstance(child, list) else [child]:
                if isinstance(part, ast.AST):
                    visit(part)

    visit(ast.parse(source))
    return found


def survives(work, module, change):
    """Whether the module's tests pass on the changed module, in the copy `work`."""
    path = work / "bplcz_ref" / module
    raw = path.read_bytes()
    start, end, new = change
    path.write_bytes(raw[:start] + new.encode() + raw[end:])
    tests = [f"tests/{name}" for name in TESTS[module]]
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", f"bplcz_ref/{module}", *tests]
    try:
        return subprocess.run(command, cwd=work, capture_output=True, timeout=300).returncode == 0
    except subprocess.TimeoutExpired:
        return False  # a loop without an end is noticed too
    finally:
        path.write_bytes(raw)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("modules", nargs="*", default=list(TESTS))
    options = parser.parse_args()
    sources = {module: (ROOT / "bplcz_ref" / module).read_text(encoding="utf-8") for module in options.modules}
    possible = [(module, change) for module, source in sources.items() for change in changes(source)]
    chosen = random.Random(options.seed).sample(possible, min(options.count, len(possible)))
    print(f"{len(chosen)} of {len(possible)} one-token changes", flush=True)
    with tempfile.TemporaryDirectory() as place:
        copies = [Path(place) / str(k) for k in range(options.workers)]
        for copy in copies:
            shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(".git", "runs", "__pycache__", ".*_cache"))

        def work(k):
            left = []
            for module, change in chosen[k :: options.workers]:
                if survives(copies[k], module, change):
                    start, end, new = change
                    raw = sources[module].encode()
                    line = raw[:start].count(b"\n") + 1
                    text = sources[module].splitlines()[line - 1].strip()
                    print(
                        f"SURVIVES {module}:{line}: {raw[start:end].decode()!r} -> {new!r} in: {text}", flush=True
                    )
                    left.append((module, change))
            return left

        with ThreadPoolExecutor(options.workers) as pool:
            survivors = sum(pool.map(work, range(options.workers)), [])
    print(f"{len(chosen) - len(survivors)} of {len(chosen)} noticed, {len(survivors)} survive")


if __name__ == "__main__":
    main()

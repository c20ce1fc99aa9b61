"""The example consumers of the conformance kit: each passes unchanged, and one wrong line in it is named."""

import functools
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bplcz_ref.__main__ import main
from bplcz_ref.conform import kit, reference, seeds

pytestmark = pytest.mark.slow  # each runs a program with its framework

EXAMPLES = Path(__file__).parents[2] / "examples"
TORCH, JAX, NODE = "conform_pytorch.py", "conform_jax.py", "conform_javascript.mjs"
CPP, TEXT = "conform_cpp.cpp", "conform_text.py"
COLUMNS = {"pytorch": TORCH, "jax": JAX, "javascript": NODE, "cpp": CPP}
DTYPES = {TORCH: "float32", JAX: "float64", NODE: "float64", CPP: "float64"}
SEED = "7"
NOT_RUN = {CPP: "not run, as the profile declares: pre_tokens 50 of 50 cases, tokenize 60 of 60 cases"}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """run(program, vectors, answers) runs an example as its first lines say, or skips without its framework."""

    @functools.cache
    def compiled(program):
        if not shutil.which("g++"):
            return None
        binary = tmp_path_factory.mktemp("compiled") / program.stem
        options = ["-std=c++17", "-O1", "-Wall", "-Wextra", "-Werror", "-o", str(binary)]
        subprocess.run(["g++", *options, str(program)], check=True, timeout=300)
        return str(binary)

    def command(program):
        if program.suffix == ".cpp":
            return [compiled(program)]
        if program.suffix == ".mjs":
            return [shutil.which("node"), str(program)]
        framework = "jax" if "jax" in program.name else "torch"
        return [importlib.util.find_spec(framework) and sys.executable, str(program)]

    environment = os.environ | {"OMP_NUM_THREADS": "1", "JAX_PLATFORMS": "cpu"}
    # What JAX compiles for one set of cases serves the others.
    environment |= {"JAX_COMPILATION_CACHE_DIR": str(tmp_path_factory.mktemp("jax"))}
    environment |= {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}

    def run(program, vectors, answers):
        line = command(program)
        if line[0] is None:
            pytest.skip(f"{program.name}: what it needs is not installed")
        line += [str(vectors), str(answers)]
        done = subprocess.run(line, capture_output=True, text=True, env=environment, timeout=300)
        assert done.returncode == 0, done.stderr

    return run


def check(answers, dtype, capsys, *options):
    """(exit code, report) of the answers with the profile beside them, if there is one."""
    if (answers / "profile.json").exists():
        options += ("--profile", str(answers / "profile.json"))
    capsys.readouterr()
    code = main(["conform", "check", str(answers), "--dtype", dtype, *options])
    return code, capsys.readouterr().out


@pytest.fixture(scope="module")
def vectors(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kit") / "vectors"
    assert main(["conform", "export", str(folder)]) == 0
    for path in folder.glob("[0-9]-*.json"):  # names of outputs without their values: there is nothing to copy
        suite = json.loads(path.read_text("utf-8"))
        for case in suite["cases"]:
            case["expect"], case["near_misses"] = dict.fromkeys(case["expect"], {}), []
        path.write_text(json.dumps(suite), "utf-8")
    return folder


@pytest.fixture(scope="module")
def answered(run, vectors, tmp_path_factory):
    """answered(name) is the folder with an example's answers to the packaged cases; each runs once."""

    @functools.cache
    def answered(name):
        folder = tmp_path_factory.mktemp("packaged") / "answers"
        run(EXAMPLES / name, vectors, folder)
        return folder

    return answered


@pytest.fixture(scope="module")
def blind(tmp_path_factory):
    """A blind set; it is drawn once, for the export and for every check."""
    folder = tmp_path_factory.mktemp("seed") / "vectors"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(seeds, "fresh", functools.cache(seeds.fresh))
        assert main(["conform", "export", str(folder), "--seed", SEED, "--size", "small", "--blind"]) == 0
        yield folder


@pytest.mark.parametrize("name", DTYPES)
def test_each_example_passes_and_declares_what_is_missing(name, answered, tmp_path, capsys):
    answers = answered(name)
    code, report = check(answers, DTYPES[name], capsys)
    assert code == 0, report
    given = json.loads((answers / "answers.json").read_text("utf-8"))["answers"]
    part = " of the declared part" if name in NOT_RUN else ""
    assert report.startswith(f"PASS{part}: {len(given)} of "), "every answer was graded and passed"
    assert (answers / "profile.json").exists() == (name in NOT_RUN)
    if name in NOT_RUN:
        assert NOT_RUN[name] in report.replace("\n  ", " ").splitlines(), report
        # Without the profile the missing operations count as not answered: the same answers must not pass.
        shutil.copytree(answers, tmp_path / "bare")
        (tmp_path / "bare" / "profile.json").unlink()
        assert check(tmp_path / "bare", DTYPES[name], capsys)[0] == 2
    else:
        assert "not run" not in report
        assert len(given) == len(kit.load().cases)


@pytest.mark.parametrize("name", DTYPES)
def test_each_example_passes_a_blind_set_of_a_seed(name, run, blind, tmp_path, capsys):
    run(EXAMPLES / name, blind, tmp_path / "answers")
    code, report = check(tmp_path / "answers", DTYPES[name], capsys, "--seed", SEED)
    assert code == 0, report
    given = json.loads((tmp_path / "answers" / "answers.json").read_text("utf-8"))["answers"]
    assert f": {len(given)} of " in report.splitlines()[0]
    assert "conv2d/drawn" in given, "shapes that the packaged cases do not have"
    assert len(given) > len(kit.load().cases) or name in NOT_RUN


def test_a_blind_set_is_answered_by_the_package_and_one_wrong_value_is_seen(blind, tmp_path, capsys):
    cases = kit.load(blind)
    assert all(not t for case in cases.cases.values() for t in case["expect"].values())
    ours = {name: reference.answer(case, reference.WHOLE, "float32") for name, case in cases.cases.items()}
    reference.write(tmp_path, cases, ours)
    code, report = check(tmp_path, "float32", capsys, "--seed", SEED)
    assert code == 0, report
    ours["bce/ordinary"]["L"] = ours["bce/ordinary"]["L"] * 1.0001
    reference.write(tmp_path, cases, ours)
    code, report = check(tmp_path, "float32", capsys, "--seed", SEED)
    assert code == 1
    assert "[bce]" in report
    assert check(tmp_path, "float32", capsys)[0] == 2, "the packaged cases are others"


# example, the suite that is run, the right line's part, the wrong one, what the report has to call it
WRONG = [
    (TORCH, 1, "logits(S, W.to(S))", 'logits(S, W.to(S), reduction="sum")', "[bce]", "sum for mean"),
    (TORCH, 5, "html.unescape(html.unescape(text))", "html.unescape(text)", "[pre_tokens]",
     "entities resolved once"),
    (TORCH, 8, "[rows > 0].mean()", ".nan_to_num().mean()", "[metrics]", ""),
    (TORCH, 9, "order[~torch.isin(order, train)]", "order", "[split]", ""),
    (JAX, 3, "+ gradient + weight_decay * w", "+ (1 - momentum) * (gradient + weight_decay * w)", "[sgd]",
     "(1 - momentum) on every gradient"),
    (JAX, 3, "+ gradient + weight", "+ (1 - momentum) * gradient + weight", "[sgd]", "no known wrong reading"),
    (JAX, 9, "running, train=0)", "running, train=1)", "[inference]", "batch norm in training mode"),
    (NODE, 1, ".over(S.flat().length)", "", "[bce]", "sum for mean"),
    (NODE, 2, "Number(j === k)", "Number(j !== k)", "[supervised_matrix]", "0 where labels agree"),
    (NODE, 4, "16], NIR: [15]", "15], NIR: [16]", "[band_groups]", "bands 7 and 8 swapped"),
    (NODE, 5, 'word.push(word.pop() + "</w>");', "", "[tokenize]", "no </w> at the end of a piece"),
    (NODE, 6, 'tap("residual_1", add(x, y))', 'tap("residual_1", y)', "[text_encoder]",
     "no sum around the attention"),
    (NODE, 6, "[[x, y * (1 - y)]]", "[[x, y]]", "[quick_gelu]", ""),
    (CPP, 1, "return sum / number(static_cast<double>(S.data.size()));", "return sum;", "[bce]", "sum for mean"),
    (CPP, 9, "running, false).at", "running, true).at", "[inference]", "batch norm in training mode"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "suite", "right", "wrong", "op", "near_miss"), WRONG)
def test_one_wrong_line_is_named(name, suite, right, wrong, op, near_miss, run, vectors, tmp_path, capsys):
    found = 0
    for path in EXAMPLES.glob("conform_*"):  # the program, and what it includes
        source = path.read_text("utf-8")
        found += source.count(right) * (path.name in (name, TEXT))
        (tmp_path / path.name).write_text(source.replace(right, wrong), "utf-8")
    assert found == 1, "the example has changed; change this test too"
    part, answers = tmp_path / "vectors", tmp_path / "answers"
    part.mkdir()  # one suite is enough, and quicker
    for file in [*vectors.glob(f"{suite}-*.json"), vectors / "manifest.json", vectors / "merges.txt"]:
        shutil.copy(file, part)
    run(tmp_path / name, part, answers)
    (answers / "profile.json").write_text(json.dumps({"suites": [suite]}), "utf-8")
    code, report = check(answers, DTYPES[name], capsys)
    assert code == 1, report
    guilty = [line for line in report.splitlines() if line.startswith("GUILTY")]
    assert len(guilty) == 1, report
    assert op in guilty[0], report
    assert near_miss in guilty[0], report
    assert "explain" in report


def test_the_table_in_the_documentation_is_what_the_four_print(answered, tmp_path, capsys):
    reports = {name: tmp_path / f"{name}.json" for name in COLUMNS}
    for name, program in COLUMNS.items():
        check(answered(program), DTYPES[program], capsys, "--json", str(reports[name]))
    capsys.readouterr()
    assert main(["conform", "report", *map(str, reports.values())]) == 0
    printed = capsys.readouterr().out.strip()
    page = (EXAMPLES.parent / "docs" / "implementations.md").read_text("utf-8")
    assert printed in page, f"docs/implementations.md should show\n{printed}"

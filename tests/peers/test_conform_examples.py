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
from bplcz_ref.conform import exchange

pytestmark = pytest.mark.slow  # each runs a program with its framework

EXAMPLES = Path(__file__).parents[2] / "examples"
TORCH, JAX, NODE = "conform_pytorch.py", "conform_jax.py", "conform_javascript.mjs"
CPP, TEXT = "conform_cpp.cpp", "conform_text.py"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """run(program, set, answers) runs an example as its first lines say, or skips without its framework."""

    @functools.cache
    def compiled(program):
        header = "#include <nlohmann/json.hpp>\n"
        asked, given = ["g++", "-x", "c++", "-fsyntax-only", "-"], {"input": header, "text": True}
        if not shutil.which("g++") or subprocess.run(asked, capture_output=True, **given).returncode:
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

    def run(program, given, answers):
        line = command(program)
        if line[0] is None:
            pytest.skip(f"{program.name}: what it needs is not installed")
        line += [str(given), str(answers)]
        done = subprocess.run(line, capture_output=True, text=True, env=environment, timeout=300)
        assert done.returncode == 0, done.stderr

    return run


def check(answers, capsys, *options):
    """(exit code, report) of a file of answers."""
    capsys.readouterr()
    code = main(["conform", "check", str(answers), *options])
    return code, capsys.readouterr().out


@pytest.fixture(scope="module")
def public(tmp_path_factory):
    """The public set, as blind as those of a seed: there is nothing to copy."""
    path = tmp_path_factory.mktemp("set") / "set.json"
    exchange.write(path, exchange.set_of(exchange.load(), blind=True))
    return path


@pytest.fixture(scope="module")
def answered(run, public, tmp_path_factory):
    """answered(name) is the file with an example's answers to the public cases; each runs once."""

    @functools.cache
    def answered(name):
        path = tmp_path_factory.mktemp("public") / "answers.json"
        run(EXAMPLES / name, public, path)
        return path

    return answered


@pytest.mark.parametrize("name", [TORCH, JAX, NODE, CPP])
def test_each_example_passes_and_declares_what_is_missing(name, answered, capsys):
    code, report = check(answered(name), capsys)
    assert code == 0, report
    given = json.loads(answered(name).read_text("utf-8"))
    assert f": {len(given['answers'])} of {len(exchange.load())} cases pass" in report, "every answer was graded"
    if name == CPP:
        assert "not run: pre_tokens, tokenize" in report
        part = {key: x for key, x in given.items() if key != "without"}
        answered(name).with_name("part.json").write_text(json.dumps(part), "utf-8")
        assert check(answered(name).with_name("part.json"), capsys)[0] == 2, "what is absent has to be declared"
    else:
        assert "not run" not in report or report.rstrip().endswith("not run: the chain")


@pytest.mark.parametrize("name", [TORCH, NODE])
def test_an_example_passes_a_blind_set_of_a_seed(name, run, tmp_path, capsys):
    assert main(["conform", "export", str(tmp_path / "set.json"), "--seed", "7", "--blind"]) == 0
    run(EXAMPLES / name, tmp_path / "set.json", tmp_path / "answers.json")
    code, report = check(tmp_path / "answers.json", capsys, "--seed", "7")
    assert code == 0, report
    assert "seed 7)" in report


# example, the operation, the right line's part, the wrong one, what the report has to say
WRONG = [
    (TORCH, "bce", "logits(S, W.to(S))", 'logits(S, W.to(S), reduction="sum")', "sum for mean"),
    (TORCH, "pre_tokens", "html.unescape(html.unescape(text))", "html.unescape(text)", "(entities are resolved"),
    (TORCH, "split", "order[~torch.isin(order, train)]", "order", "cases fail: all (2 rows of each class"),
    (JAX, "sgd", "+ gradient + weight", "+ (1 - momentum) * gradient + weight", "no known mistake"),
    (NODE, "band_groups", "16], NIR: [15]", "15], NIR: [16]", "bands 7 and 8 swapped"),
    (NODE, "tokenize", 'word.push(word.pop() + "</w>");', "", "a piece ends with </w>"),
    (NODE, "quick_gelu", "[[x, y * (1 - y)]]", "[[x, y]]", ""),
    (CPP, "bce", "return sum / number(static_cast<double>(S.data.size()));", "return sum;", "sum for mean"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "op", "right", "wrong", "said"), WRONG)
def test_one_wrong_line_is_located_and_named(name, op, right, wrong, said, run, public, tmp_path, capsys):
    found = 0
    for path in EXAMPLES.glob("conform_*"):  # the program, and what it imports
        source = path.read_text("utf-8")
        found += source.count(right) * (path.name in (name, TEXT))
        (tmp_path / path.name).write_text(source.replace(right, wrong), "utf-8")
    assert found == 1, "the example has changed; change this test too"
    run(tmp_path / name, public, tmp_path / "answers.json")
    code, report = check(tmp_path / "answers.json", capsys)
    assert code == 1, report
    guilty = [line for line in report.splitlines() if line.startswith("GUILTY")]
    assert len(guilty) == 1, report
    assert f"[{op}]" in guilty[0], report
    assert said in guilty[0], report

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
CPP = "conform_cpp.cpp"
DTYPES = {TORCH: "float32", JAX: "float64", NODE: "float64", CPP: "float64"}
NOT_RUN = {
    TORCH: "not run, as the profile declares: all of suite 5 text, split 4 of 4 cases",
    JAX: "not run, as the profile declares: all of suite 5 text, all of suite 7 chain, text_encoder 3 of 3 cases, "
    "split 4 of 4 cases, inference 2 of 2 cases",
    NODE: "not run, as the profile declares: all of suite 7 chain, prompt 21 of 21 cases, image_encoder 2 of 2 "
    "cases, text_encoder 3 of 3 cases, split 4 of 4 cases, inference 2 of 2 cases",
    CPP: "not run, as the profile declares: all of suite 5 text, all of suite 7 chain, all of suite 9 inference, "
    "text_encoder 3 of 3 cases",
}


def run(program, vectors, answers):
    """Run the example as its first lines say; skip it where its framework is not installed."""
    if program.suffix == ".cpp":
        command, needs = [], shutil.which("g++")
        if needs:
            binary = answers.parent / program.stem
            options = ["-std=c++17", "-O1", "-Wall", "-Wextra", "-Werror", "-o", str(binary)]
            subprocess.run(["g++", *options, str(program)], check=True, timeout=300)
            program = binary
    elif program.suffix == ".mjs":
        command, needs = ["node"], shutil.which("node")
    else:
        command, needs = [sys.executable], importlib.util.find_spec("jax" if "jax" in program.name else "torch")
    if needs is None:
        pytest.skip(f"{program.name}: what it needs is not installed")
    environment = os.environ | {"OMP_NUM_THREADS": "1", "JAX_PLATFORMS": "cpu"}
    command += [str(program), str(vectors), str(answers)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr


def check(answers, dtype, capsys):
    """(exit code, report) of the answers with the profile beside them."""
    options = ["--dtype", dtype, "--profile", str(answers / "profile.json")]
    capsys.readouterr()
    code = main(["conform", "check", str(answers), *options])
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


@pytest.mark.parametrize("name", DTYPES)
def test_each_example_passes_and_declares_what_is_missing(name, vectors, tmp_path, capsys):
    answers = tmp_path / "answers"
    run(EXAMPLES / name, vectors, answers)
    code, report = check(answers, DTYPES[name], capsys)
    assert code == 0, report
    assert report.startswith("PASS of the declared part: "), report
    assert NOT_RUN[name] in report.replace("\n  ", " ").splitlines(), report
    assert ("gradients, and the training steps" in report) == (name == NODE), "only JavaScript has none"
    given = json.loads((answers / "answers.json").read_text("utf-8"))["answers"]
    assert f": {len(given)} of " in report.splitlines()[0], "every answer was graded and passed"
    # Without the profile the missing operations count as not answered: the same answers must not pass.
    (answers / "profile.json").rename(tmp_path / "profile.json")
    assert main(["conform", "check", str(answers), "--dtype", DTYPES[name]]) == 2


def test_a_blind_set_of_a_seed_is_answered_by_the_package_and_by_pytorch(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(seeds, "fresh", functools.cache(seeds.fresh))  # it is drawn once instead of three times
    vectors = tmp_path / "vectors"
    assert main(["conform", "export", str(vectors), "--seed", "7", "--blind"]) == 0
    blind = kit.load(vectors)
    assert all(not t for case in blind.cases.values() for t in case["expect"].values())
    (tmp_path / "ours").mkdir()
    ours = {name: reference.answer(case, reference.WHOLE, "float32") for name, case in blind.cases.items()}
    reference.write(tmp_path / "ours", blind, ours)
    run(EXAMPLES / TORCH, vectors, tmp_path / "torch")
    capsys.readouterr()
    assert main(["conform", "check", str(tmp_path / "ours"), "--seed", "7"]) == 0, capsys.readouterr().out
    profile = str(tmp_path / "torch" / "profile.json")
    code = main(["conform", "check", str(tmp_path / "torch"), "--seed", "7", "--profile", profile])
    assert code == 0, capsys.readouterr().out
    ours["bce/ordinary"]["L"] = ours["bce/ordinary"]["L"] * 1.0001
    reference.write(tmp_path / "ours", blind, ours)
    assert main(["conform", "check", str(tmp_path / "ours"), "--seed", "7"]) == 1
    assert "[bce]" in capsys.readouterr().out
    assert main(["conform", "check", str(tmp_path / "ours")]) == 2, "the packaged cases are others"


# example, the suite that is run, the right line's part, the wrong one, what the report has to call it
WRONG = [
    (TORCH, 1, "logits(S, W.to(S))", 'logits(S, W.to(S), reduction="sum")', "[bce]", "sum for mean"),
    (JAX, 3, "+ gradient + weight_decay * w", "+ (1 - momentum) * (gradient + weight_decay * w)", "[sgd]",
     "(1 - momentum) on every gradient"),
    (JAX, 3, "+ gradient + weight", "+ (1 - momentum) * gradient + weight", "[sgd]", "no known wrong reading"),
    (NODE, 1, " / S.flat().length", "", "[bce]", "sum for mean"),
    (NODE, 2, "Number(j === k)", "Number(j !== k)", "[supervised_matrix]", "0 where labels agree"),
    (NODE, 4, "bands(m, [4, 5, 6, 8]), X_NIR: bands(m, [7])", "bands(m, [4, 5, 6, 7]), X_NIR: bands(m, [8])",
     "[band_groups]", "bands 7 and 8 swapped"),
    (TORCH, 8, "[rows > 0].mean()", ".nan_to_num().mean()", "[metrics]", ""),
    (CPP, 1, "return sum / number(static_cast<double>(S.data.size()));", "return sum;", "[bce]", "sum for mean"),
    (CPP, 6, "if (other.v > best.v) best = other;", "if (other.v < best.v) best = other;", "[max_pool2d]", ""),
    (NODE, 5, 'word.push(word.pop() + "</w>");', "", "[tokenize]", "no </w> at the end of a piece"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "suite", "right", "wrong", "op", "near_miss"), WRONG)
def test_one_wrong_line_is_named(name, suite, right, wrong, op, near_miss, vectors, tmp_path, capsys):
    source = (EXAMPLES / name).read_text("utf-8")
    assert source.count(right) == 1, "the example has changed; change this test too"
    copy, part, answers = tmp_path / name, tmp_path / "vectors", tmp_path / "answers"
    copy.write_text(source.replace(right, wrong), "utf-8")
    part.mkdir()  # one suite is enough, and quicker
    for file in [*vectors.glob(f"{suite}-*.json"), vectors / "manifest.json", vectors / "merges.txt"]:
        shutil.copy(file, part)
    run(copy, part, answers)
    profile = json.loads((answers / "profile.json").read_text("utf-8")) | {"suites": [suite]}
    (answers / "profile.json").write_text(json.dumps(profile), "utf-8")
    code, report = check(answers, DTYPES[name], capsys)
    assert code == 1, report
    guilty = [line for line in report.splitlines() if line.startswith("GUILTY")]
    assert len(guilty) == 1, report
    assert op in guilty[0], report
    assert near_miss in guilty[0], report
    assert "explain" in report


def test_the_table_in_the_documentation_is_what_the_four_print(vectors, tmp_path, capsys):
    columns = {"pytorch": TORCH, "jax": JAX, "javascript": NODE, "cpp": CPP}
    for name, program in columns.items():
        run(EXAMPLES / program, vectors, tmp_path / name)
        profile, report = tmp_path / name / "profile.json", tmp_path / f"{name}.json"
        options = ["--dtype", DTYPES[program], "--profile", str(profile), "--json", str(report)]
        main(["conform", "check", str(tmp_path / name), *options])
    capsys.readouterr()
    assert main(["conform", "report", *(str(tmp_path / f"{name}.json") for name in columns)]) == 0
    printed = capsys.readouterr().out.strip()
    page = (EXAMPLES.parent / "docs" / "implementations.md").read_text("utf-8")
    assert printed in page, f"docs/implementations.md should show\n{printed}"

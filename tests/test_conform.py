"""The conformance kit end to end: right, wrong, partial and broken answers, in files and in process.

The checker is tested with wrong code: a verdict that could not fail would be worth nothing.
"""

import json
import re
import shlex

import autograd.numpy as anp
import numpy as np
import pytest
from autograd import make_vjp

from bplcz_ref import conform, equations, nn
from bplcz_ref.__main__ import main
from bplcz_ref.conform import chain, command, exchange, numbers, verdict
from bplcz_ref.conform.exchange import VERSION, Answers
from bplcz_ref.conform.mistakes import LISTED, READINGS
from bplcz_ref.conform.ops import OPS, is_float, worked_out

CASES = exchange.load()
SUM = LISTED["bce"]["sum for mean"]


def answered(cases=CASES, dtype="float32", **ways):
    """The package's answers, with other ways for some operations."""
    return {case.id: worked_out(ways.get(case.op, OPS[case.op].run), case, dtype) for case in cases}


def of(*ops):
    """The public cases of some operations."""
    return [case for case in CASES if case.op in ops]


def report(given, dtype="float32", cases=CASES, **declared):
    return verdict.report(cases, Answers(given, dtype, **declared))


def as_json(given, seed=0, **head):
    """An answer file to some operations; the others are declared absent."""
    answers = {id: {o: exchange.tensor(x) for o, x in outputs.items()} for id, outputs in given.items()}
    without = sorted({*OPS} - {id.split("/")[0] for id in given})
    made = {"kit": VERSION, "seed": seed, "dtype": "float32", "without": without, "answers": answers}
    return json.dumps(made | head)


@pytest.fixture(scope="module")
def right():
    return answered()


@pytest.fixture
def path(right, tmp_path):
    """A file with right answers to some operations, in a folder whose name needs quotes."""
    folder = tmp_path / "my answers $HOME"
    folder.mkdir()
    few = {id: right[id] for id in right if id.startswith(("bce/", "prompt/", "tokenize/", "sgd/"))}
    (folder / "it's.json").write_text(as_json(few))
    return folder / "it's.json"


def run(capsys, *arguments):
    """(exit code, what is printed); nothing is a traceback."""
    code = main(["conform", *map(str, arguments)])
    printed = capsys.readouterr()
    assert "Traceback" not in printed.out + printed.err
    return code, printed.out + printed.err


def rows(table):
    """The rows of a text table, whose columns are two blanks or more apart."""
    return [re.split(" {2,}", line.strip()) for line in table.strip().split("\n")]


def on_screen(text):
    lines = text.rstrip().split("\n")
    assert len(lines) <= verdict.LINES
    assert all(len(line) <= verdict.WIDTH or " conform explain " in line for line in lines)
    return lines


# ---------------------------------------------------------------- verdicts


@pytest.mark.long
def test_the_self_test_finds_locates_and_names_every_listed_mistake(capsys):
    code, text = run(capsys, "selftest")
    assert code == 0, text
    assert "198 listed mistakes in float32: 198 found, 198 located, 198 named" in text


@pytest.mark.long
def test_a_self_test_of_a_blind_kit_fails(capsys, monkeypatch):
    """Were what is allowed too wide, the self-test would have to say so."""
    wide = lambda case: {o: (x, a and 1e9 * a) for o, (x, a) in case.expect.items()}
    monkeypatch.setattr(exchange, "load", lambda seed=0: [c._replace(expect=wide(c)) for c in CASES])
    code, text = run(capsys, "selftest")
    assert (code, "THE SELF-TEST FAILS" in text) == (1, True)


UNKNOWN = {
    "all outputs by 0.01 %": {"L": lambda x: x * 1.0001, "grad.S": lambda x: x * 1.0001},
    "a little more than is allowed": {"L": lambda x: x * (1 + 3e-6)},
    "a number that is short by chance": {"L": lambda x: x if x < 100 else x * 0 + 128},
    "noise": {"L": lambda x: x * 1.01 + 0.003, "grad.S": lambda x: x * 0.99},
}


@pytest.mark.parametrize("what", UNKNOWN)
def test_no_name_that_is_not_true(what):
    """A way is named only if it accounts for what is wrong, in each case."""
    change = lambda o: UNKNOWN[what].get(o, lambda x: x)
    given = {id: {o: change(o)(x) for o, x in out.items()} for id, out in answered(of("bce")).items()}
    r = report(given, cases=of("bce"))
    assert [(f.state, f.op, f.names) for f in r.findings] == [("guilty", "bce", ())]
    assert "no known mistake gives all its answers" in str(r)


short = lambda x: numbers.coarse(x, "bfloat16")
RULES = {
    "alpha 0.25, as in the paper": ("fuse", lambda S_groups, alpha: 0.25 * S_groups.sum(0)),
    "bias 0": ("linear", lambda x, weight, bias: x @ weight.T),
    "y and y_hat exchanged": ("metrics", lambda y, y_hat, K: OPS["metrics"].run(y_hat, y, K)),
    "weight reversed along its third axis": (
        "conv2d", lambda weight, **i: nn.conv2d.definition(weight=weight[:, :, ::-1], **i)),
    "S_i and S_hat_i rounded to bfloat16": (
        "similarity", lambda I_i, T_i: tuple(map(short, equations.similarity(I_i, T_i)))),
    "L divided by axis 1 of S": ("bce", lambda S, W: np.logaddexp(0, S - 2 * W * S).mean() / S.shape[1]),
}  # fmt: skip


@pytest.mark.parametrize("name", RULES)
def test_mistakes_by_rule_are_named(name):
    op, function = RULES[name]
    (finding,) = conform.check({op: function}, dtype="float64").findings
    assert finding.names == (name,)


# ---------------------------------------------------------------- dtypes


def test_float32_answers_called_float64_are_recognised(right):
    r = report(right, "float64")
    assert r.exit_code == 1
    assert ("computed in float32: no number has more than 24 bits",) in [f.names for f in r.findings]


def test_a_coarse_dtype_is_no_mistake_and_no_proof(right):
    own = of("gelu", "similarity", "prompt")
    r = report(right, "bfloat16", own)
    assert r.exit_code == 0
    hidden = {g.case.id: g.unseen for g in r.of("cannot discriminate")}
    assert "tanh approximation" in hidden["gelu/ordinary"]
    assert f"{len(own) - len(hidden)} of {len(own)} cases pass" in str(r)
    assert not report(right, cases=own).of("cannot discriminate")
    r = report(right, "float16", own)
    assert "float16 has not the range for" in str(r)
    assert "similarity/between" in {g.case.id for g in r.of("cannot be asked")}


# ---------------------------------------------------------------- what is declared


def test_what_is_declared_absent_is_not_run_and_must_not_be_answered(right):
    part = {id: out for id, out in right.items() if not id.startswith(("concat/", "sgd/"))}
    bare = {id: {o: x for o, x in out.items() if not o.startswith("grad.")} for id, out in right.items()}
    wrong = part | answered(of("bce"), bce=SUM)
    for given, declared, code, line in (
        (part, {}, 2, "missing: concat/ordinary (I, grad.I_groups), concat/one (I, grad.I_groups)"),
        (wrong, {}, 2, 'GUILTY   Eq. (7) L_i2t [bce]: this is "sum for mean"; 7 of 8 cases'),
        (part, {"without": ("concat", "sgd")}, 0, "not run: concat, sgd"),
        (right, {"without": ("concat",)}, 2, "concat/ordinary: answered, but `without` declares concat absent"),
        ({}, {"without": tuple(OPS)}, 2, "not run"),
        (bare, {}, 2, "missing: "),
        (bare, {"gradients": False}, 0, "not run: gradients"),
    ):
        r = report(given, **declared)
        assert (r.exit_code, line in str(r)) == (code, True), str(r)
        assert code or str(r).startswith("PASS of the declared part: ")


@pytest.mark.slow
@pytest.mark.parametrize("reading", READINGS)
def test_a_declared_reading_is_what_is_graded(reading):
    our_word, ops, others = READINGS[reading]
    own = of(*ops)
    for word, mistake in others.items():
        theirs = answered(own, **{op: LISTED[op][mistake] for op in ops})
        r = report(theirs, cases=own, readings={reading: word})
        assert r.exit_code == 0, str(r)
        assert f"graded on the readings {reading}: {word}" in str(r)
        first = report(answered(own), cases=own, readings={reading: word}).findings[0]
        assert first.names[0].startswith("the paper as read here") or reading == "prompt-grammar"
        assert report(theirs, cases=own, readings={reading: our_word}).exit_code == 1


# ---------------------------------------------------------------- broken answers

HEADS = """
    {"kit": "2.0.0", "profile": {}}       kit is '2.0.0'; expected 3.0.0: export the set again
    {"kit": 3}                            kit is 3; expected
    {"seed": -1}                          seed is -1; expected a whole number
    {"dtype": "half"}                     dtype is 'half'; expected one of
    {"without": ["bse"]}                  without is ['bse']; expected a list of read_array
    {"gradients": 0}                      gradients is 0; expected true or false
    {"readings": {"ce": "median"}}        expected one of logits, sum, probabilities
    {"readings": {"ce": ["sum"]}}         readings: ce is ['sum']; expected one of logits
    {"readings": {"bse": "mean"}}         'bse' is no reading that this kit grades
    {"readings": {"momentum": "nesterov", "weight-decay": "decoupled"}}   they cannot be graded together
    {"answers": []}                       answers is []; expected an object
    {"more": 1}                           missing or unknown: 'more'; expected an object of kit
"""
UNREADABLE = """
    {"kit": "3.0.0", "se                  cannot be read (JSONDecodeError:
    {"data": [NaN]}                       NaN is no number
    []                                    missing or unknown: 'answers, dtype, kit, seed'; expected an object
    {"kit": "3.0.0", "seed": 0}           missing or unknown: 'answers, dtype'; expected
"""


@pytest.mark.parametrize(("text", "line"), [*rows(HEADS), ("", "is empty (0 bytes)"), *rows(UNREADABLE)])
def test_a_file_that_cannot_be_read_or_has_a_wrong_head_is_one_line(text, line, path, capsys):
    head = [text, line] in rows(HEADS)
    path.write_text(json.dumps(json.loads(path.read_text()) | json.loads(text)) if head else text)
    code, said = run(capsys, "check", path)
    assert (code, said.count("\n")) == (2, 1)
    assert str(path) in said
    assert line in said


ANSWERS = """
    bce/odd          {}                                       2  there is no case 'bce/odd'
    bce/ordinary     {"Z": {"shape": [], "data": [1]}}        2  there is no output 'Z'; expected L, grad.S
    bce/ordinary     {}                                       2  missing: bce/ordinary (L, grad.S)
    bce/ordinary     [1]                                      2  bce/ordinary: expected {output: tensor}
    bce/ordinary     {"L": 0.77}                              2  L: expected {"shape": [whole numbers]
    bce/ordinary     {"L": {"shape": [5, 6], "data": [1]}}    2  means 30 entries, found 1
    bce/ordinary     {"L": {"shape": [], "data": [null]}}     2  entry 0 is None, expected a number
    bce/ordinary     {"L": {"shape": [], "data": ["NaN"]}}    1  L of bce/ordinary is nan, expected 0.8
    bce/ordinary     {"L": {"shape": [1], "data": [0.7]}}     1  is of shape [1], expected of shape []
    prompt/1-RGB     {"text": {"shape": [], "data": [1]}}     1  text of prompt/1-RGB is 1, expected 'a photo of a
    tokenize/words   {"refused": {"shape": [], "data": [1]}}  1  ids of tokenize/words is 'refused', expected [
    tokenize/special  {"ids": {"shape": [1], "data": [1]}}    1  refused of tokenize/special is 'missing', expec
"""


@pytest.mark.parametrize(("id", "put", "code", "line"), rows(ANSWERS))
def test_an_odd_answer_is_one_line_and_a_wrong_one_is_shown_beside_the_right_one(
    id, put, code, line, path, capsys
):
    data, put = json.loads(path.read_text()), json.loads(put)
    beside = put and isinstance(put, dict) and not id.startswith("tokenize/")
    data["answers"][id] = data["answers"][id] | put if beside else put
    path.write_text(json.dumps(data))
    found, text = run(capsys, "check", path)
    assert (found, line in text) == (int(code), True), text
    assert ("GUILTY" in text) == (found == 1)
    on_screen(text)


def test_the_screen_has_24_lines_whatever_is_wrong(right, monkeypatch):
    monkeypatch.setattr(verdict, "explanations", lambda *arguments: ["a name"])
    given = {id: {o: x + 7 if is_float(x) else x for o, x in out.items()} for id, out in right.items()}
    given |= {id: {} for id in list(given)[:40]}
    defects = tuple(f"line {k}" for k in range(50))
    r = report(given, gradients=False, readings={"ce": "sum"}, defects=defects)
    lines = on_screen(str(r))
    assert len(lines) > verdict.LINES - 3
    assert "more findings; --json FILE has all of them" in str(r)
    assert lines[-1] == "graded on the readings ce: sum"
    assert json.dumps(verdict.as_json(r), allow_nan=False)


# ---------------------------------------------------------------- in process


def reverse(f, inputs, names, cotangents):
    """The gradients of any function of autograd arrays."""

    def weighed(varied):
        out = f(**(inputs | {name: varied[name] for name in names}))
        return sum(anp.sum(out[o] * g) for o, g in cotangents.items())

    pull, _ = make_vjp(weighed)({name: np.asarray(inputs[name], np.float32) for name in names})
    return pull(np.float32(1))


KERNELS = {name: getattr(nn, name) for name in ("linear", "conv2d", "layer_norm", "relu", "gelu", "quick_gelu")}
KERNELS |= {"max_pool2d": lambda x: nn.max_pool2d(x, 2)}


def test_the_packages_fast_kernels_pass():
    r = conform.check({op: o.run for op, o in OPS.items()} | KERNELS, gradients=reverse)
    assert r.exit_code == 0, str(r)
    assert not r.of("not run")


def test_functions_that_raise_or_answer_oddly_are_findings():
    def raises(S, W):
        raise RuntimeError("out of memory")

    greedy = lambda x: [np.where(x <= 0, 0, x), x.fill(0)][0]  # it changes its own inputs, nobody else's
    assert [conform.check({"relu": greedy}).exit_code for _ in range(2)] == [0, 0]
    for functions, line in (
        ({"bce": raises}, "bce/ordinary: raised RuntimeError: 'out of memory'"),
        ({"total_loss": lambda **_: None}, "total_loss/ordinary: raised ValueError: 'L came as"),
        ({"total_loss": lambda **_: 5j}, "total_loss/ordinary: raised ValueError: 'L came as"),
        ({"contrastive_loss": lambda S, W: 1.0}, "expected a dict or a tuple of L_i2t, L_t2i, L_con"),
    ):
        r = conform.check(functions)
        assert (r.exit_code, line in str(r)) == (2, True), str(r)
        on_screen(str(r))
    never = lambda text, context, truncate: OPS["tokenize"].run(text, context, 1)  # refuses nothing that is long
    assert [f.op for f in conform.check({"tokenize": never}).findings] == ["tokenize"]
    r = conform.check({"bce": equations.bce}, gradients=lambda *a: {})
    assert r.exit_code == 2, "gradients that were promised are missing"
    for functions, options, line in (
        ({"loss": raises}, {}, "expected names among read_array"),
        ({}, {}, "none given"),
        ({"bce": raises}, {"dtype": "half"}, "dtype is 'half'"),
        ({"bce": raises}, {"seed": -1}, "seed is -1; expected a whole number"),
    ):
        with pytest.raises(ValueError, match=line):
            conform.check(functions, **options)


# ---------------------------------------------------------------- the commands


def test_the_line_that_a_report_prints_runs_as_it_stands(tmp_path, capsys):
    folder = tmp_path / ("a folder with a long name, $and 'quotes' " * 5)
    folder.mkdir()
    (folder / "answers.json").write_text(as_json(answered(of("bce"), bce=SUM)))
    code, text = run(capsys, "check", folder / "answers.json")
    assert code == 1
    for printed in (text, str(conform.check({"bce": lambda S, W: equations.bce(S, W) * S.size}))):
        (line,) = [line.strip() for line in printed.split("\n") if " conform explain " in line]
        words = shlex.split(line)
        assert words[:5] == ["python", "-m", "bplcz_ref", "conform", "explain"]
        code, said = run(capsys, *words[4:])
        assert code == 0
        if printed is text:
            assert "DIFFERS: error" in said
            assert "this answer alone equals: sum for mean" in said


@pytest.mark.long
def test_export_check_and_a_blind_seed(tmp_path, capsys):
    file = lambda name: tmp_path / f"{name}.json"
    code, text = run(capsys, "export", file("set"))
    assert (code, text) == (0, f"{file('set')}: {len(CASES)} cases of kit {VERSION}, seed 0\n")
    data = json.loads(file("set").read_text())
    assert (len(data["cases"]), data["merges"][0].count(" "), len(data["descriptions"])) == (len(CASES), 1, 17)
    assert run(capsys, "export", file("set"))[0] == 2, "nothing is overwritten"
    assert run(capsys, "export", file("b"), "--blind")[0] == 2
    assert run(capsys, "export", file("blind"), "--seed", 5, "--blind")[0] == 0
    blind = json.loads(file("blind").read_text())
    assert all(not t for case in blind["cases"] for t in case["expect"].values())
    tied = {name: exchange.tensor(chain.ours(5)[name]) for name in chain.expected_names(5)}
    file("a").write_text(as_json(answered(exchange.load(5)), 5, chain=tied))
    code, text = run(capsys, "check", file("a"), "--seed", 5)
    assert code == 0
    assert text.startswith(f"PASS: {len(CASES)} of {len(CASES)} cases pass (float32, kit {VERSION}, seed 5)")
    code, text = run(capsys, "check", file("a"), "--seed", 6)
    assert (code, "answers of seed 5; expected those of seed 6" in text) == (2, True)
    wrong = conform.check({"bce": lambda S, W: equations.bce(S, W) * S.size}, seed=5)
    assert re.search(" conform explain bce/.* --seed 5", str(wrong))


def test_explain_shows_every_case_and_the_answer_beside_it(right, path, capsys):
    for case in CASES:
        text = command.explained(case, verdict.grade(case, right[case.id], "float32"), "float32")
        assert "formula: " in text
        assert "DIFFERS" not in text
    code, text = run(capsys, "explain")
    assert all(f"  {case.id}: {case.why}" in text for case in CASES)
    assert "bce(S, W) -> L: mean of -(W log sigma(S)" in text
    code, text = run(capsys, "explain", "bce/ordinary", "--answers", path)
    assert (code, "agrees: error" in text) == (0, True)
    code, text = run(capsys, "explain", "bce/none")
    assert (code, "there are bce/ordinary" in text) == (2, True)

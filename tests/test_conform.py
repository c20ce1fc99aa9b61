"""The conformance kit end to end: right, wrong, partial and broken answers, in files and in process.

The checker is tested with wrong code: a verdict that could not fail would be worth nothing.
"""

import json
import shlex
import subprocess
import sys
from pathlib import Path

import autograd.numpy as anp
import numpy as np
import pytest
from autograd import make_vjp

from bplcz_ref import conform, equations, nn, optim
from bplcz_ref.__main__ import main
from bplcz_ref.conform import chain, command, exchange, numbers, scoreboard, verdict
from bplcz_ref.conform.exchange import VERSION, Answers
from bplcz_ref.conform.mistakes import LISTED, OTHERS, READINGS
from bplcz_ref.conform.ops import OPS, is_float, worked_out

CASES = exchange.load()
PUBLIC = {case.id: case for case in CASES}


def answered(dtype="float32", seed=0, **ways):
    """The package's answers, with other ways for some operations."""
    run = lambda case: ways.get(case.op, OPS[case.op].run)
    return {case.id: worked_out(run(case), case, dtype) for case in exchange.load(seed)}


@pytest.fixture(scope="module")
def right():
    return answered()


def report(given, dtype="float32", **declared):
    return verdict.report(exchange.load(declared.get("seed", 0)), Answers(given, dtype, **declared))


def as_json(given, **head):
    answers = {id: {o: exchange.tensor(x) for o, x in outputs.items()} for id, outputs in given.items()}
    made = {"kit": VERSION, "seed": 0, "dtype": "float32", "answers": answers} | head
    return made | {"chain": chained(made["seed"])} if type(made["seed"]) is int and made["seed"] >= 0 else made


def chained(seed):
    """The package's answer to the chain."""
    return {name: exchange.tensor(chain.ours(seed)[name]) for name in chain.expected_names(seed)}


@pytest.fixture
def path(right, tmp_path):
    """A file with right answers, in a folder whose name needs quotes."""
    folder = tmp_path / "my answers $HOME"
    folder.mkdir()
    (folder / "it's.json").write_text(json.dumps(as_json(right)))
    return folder / "it's.json"


def run(capsys, *arguments):
    """(exit code, what is printed); nothing is a traceback."""
    code = main(["conform", *map(str, arguments)])
    printed = capsys.readouterr()
    assert "Traceback" not in printed.out + printed.err
    return code, printed.out + printed.err


def on_screen(text):
    lines = text.rstrip().split("\n")
    assert len(lines) <= verdict.LINES
    assert all(len(line) <= verdict.WIDTH or " conform explain " in line for line in lines)
    return lines


# ---------------------------------------------------------------- verdicts


@pytest.mark.long
def test_the_self_test_finds_locates_and_names_every_listed_mistake(capsys):
    code, text = run(capsys, "selftest")
    total = sum(map(len, LISTED.values()))
    assert code == 0, text
    assert total > 150
    assert f"{total} listed mistakes in float32: {total} found, {total} located, {total} named" in text
    assert "not run: mistakes by rule" in text


@pytest.mark.long
@pytest.mark.parametrize("broken", ["allowed", "names"])
def test_a_self_test_of_a_blind_kit_fails(broken, capsys, monkeypatch):
    """Were what is allowed too wide, or were no name ever found, the self-test would have to say so."""
    if broken == "allowed":
        wide = lambda case: {o: (x, a and 1e9 * a) for o, (x, a) in case.expect.items()}
        monkeypatch.setattr(exchange, "load", lambda seed=0: [c._replace(expect=wide(c)) for c in CASES])
    else:
        monkeypatch.setattr(verdict, "fits", lambda *arguments: False)
    code, text = run(capsys, "selftest")
    assert code == 1
    assert "THE SELF-TEST FAILS" in text


def test_two_mistakes_at_once_are_both_located_and_named_and_what_rests_on_them_is_blocked(right):
    summed = LISTED["contrastive_loss"]["sum for mean"]
    two = {"bce": LISTED["bce"]["sum for mean"], "conv2d": LISTED["conv2d"]["edges repeated for zeros"]}
    r = report(answered(**two, contrastive_loss=summed))
    assert r.exit_code == 1
    assert [(f.state, f.op, f.names) for f in r.findings] == [
        ("guilty", "conv2d", ("edges repeated for zeros",)),
        ("guilty", "bce", ("sum for mean",)),
        ("blocked", "contrastive_loss", ()),
    ]
    lines = on_screen(str(r))
    assert lines[0].startswith("DIVERGES: ")
    assert 'Eq. (7) L_i2t [bce]: this is "sum for mean"; 7 of 8 cases, first at L: error ' in lines[3]
    assert lines[5] == "blocked  Eq. (6) L_con [contrastive_loss]: ignore it until the guilty are mended"


def test_a_mistake_nobody_foresaw_is_guilty_without_a_name(right):
    ids = ("cross_entropy/ordinary", "cross_entropy/large")
    r = report(right | {id: {o: x * 1.0001 for o, x in right[id].items()} for id in ids})
    assert r.exit_code == 1
    assert [(f.state, f.op, f.names) for f in r.findings] == [("guilty", "cross_entropy", ())]
    assert "no known mistake gives all its answers" in str(r)


def test_where_numbers_leave_no_doubt_the_cases_that_fail_are_the_diagnosis():
    once = lambda text: {"pieces": OPS["pre_tokens"].run(text.replace("&amp;amp;", "&amp;amp;amp;"))["pieces"]}
    r = report(answered(pre_tokens=once))
    (finding,) = r.findings
    assert finding.cases == ("pre_tokens/entities", "pre_tokens/entities-thrice")
    _, first, second, *_ = str(r).split("\n")
    assert "[pre_tokens]: 2 of 50 cases fail: entities (entities are resolved twice); entities-thrice (" in first
    assert "pieces of pre_tokens/entities is ['built', '&', 'amp', ';'" in second


WEAK = {
    "a clamp of one gradient": {"grad.S": lambda x: np.clip(x, -0.02, 0.02)},
    "a little more than is allowed": {"L": lambda x: x * (1 + 3e-6), "grad.S": lambda x: x},
    "a number that is short by chance": {"L": lambda x: x if x < 100 else x * 0 + 128},
    "noise": {"L": lambda x: x * 1.01 + 0.003, "grad.S": lambda x: x * 0.99},
}


@pytest.mark.parametrize("what", WEAK)
def test_no_name_that_is_not_true(what, right):
    """A way is named only if it accounts for what is wrong, in each case."""
    given = {
        id: {o: WEAK[what].get(o, lambda x: x)(x) for o, x in out.items()} if id.startswith("bce/") else out
        for id, out in right.items()
    }
    r = report(given)
    assert [(f.op, f.names) for f in r.findings] == [("bce", ())]


RULES = {
    "beta 1": ("total_loss", lambda L_cls, L_con, beta: L_cls + L_con),
    "alpha 0.25, as in the paper": ("fuse", lambda S_groups, alpha: 0.25 * S_groups.sum(0)),
    "bias 0": ("linear", lambda x, weight, bias: x @ weight.T),
    "weight reversed along its third axis": (
        "conv2d",
        lambda x, weight, stride, padding: nn.conv2d.definition(
            x, weight[:, :, ::-1], stride=stride, padding=padding
        ),
    ),
    "y and y_hat exchanged": ("metrics", lambda y, y_hat, K: OPS["metrics"].run(y_hat, y, K)),
    "S_i and S_hat_i rounded to bfloat16": (
        "similarity",
        lambda I_i, T_i: tuple(numbers.coarse(S, "bfloat16") for S in equations.similarity(I_i, T_i)),
    ),
    "L divided by axis 1 of S": (
        "bce",
        lambda S, W: np.logaddexp(0, (1 - 2 * W) * S).sum() / S.size / S.shape[1],
    ),
}


@pytest.mark.parametrize("name", RULES)
def test_mistakes_by_rule_are_named(name):
    op, function = RULES[name]
    (finding,) = conform.check({op: function}, dtype="float64").findings
    assert finding.names == (name,)


def test_float32_answers_called_float64_are_recognised(right):
    r = report(right, "float64")
    assert r.exit_code == 1
    assert ("computed in float32: no number has more than 24 bits",) in [f.names for f in r.findings]


# ---------------------------------------------------------------- dtypes


def test_a_coarse_dtype_is_no_mistake_and_no_proof(right):
    r = report(right, "bfloat16")
    assert r.exit_code == 0
    undecided = {g.case.id for g in r.of("cannot discriminate")}
    assert "gelu/ordinary" in undecided
    assert f"{len(CASES) - len(undecided)} of {len(CASES)} cases pass" in str(r)
    assert "gelu: tanh approximation" in {
        f"{g.case.op}: {n}" for g in r.of("cannot discriminate") for n in g.unseen
    }
    assert not report(right).of("cannot discriminate")
    r = report(right, "float16")
    assert "float16 has not the range for" in str(r)
    assert "similarity/between" in {g.case.id for g in r.of("cannot be asked")}


def test_answers_that_can_prove_nothing_do_not_pass():
    own = [case for case in CASES if case.op == "gelu"]
    tanh = {case.id: worked_out(LISTED["gelu"]["tanh approximation"], case, "float32") for case in own}
    for given in (tanh, {case.id: worked_out(OPS["gelu"].run, case, "float32") for case in own}):
        r = verdict.report([c for c in own if c.id != "gelu/wide"], Answers(given, "bfloat16"))
        assert r.of("cannot discriminate")
        assert not r.of("fail")


@pytest.mark.long
def test_pools_in_bfloat16_are_not_called_a_mistake():
    """Rounding makes no ties: values that are equal after it have no gradient asked for."""
    coarse = lambda case: case._replace(
        inputs={n: numbers.coarse(x, "bfloat16") if is_float(x) else x for n, x in case.inputs.items()}
    )
    for seed in range(4):
        own = [case for case in exchange.load(seed) if case.op in ("max_pool2d", "predict")]
        given = {case.id: worked_out(OPS[case.op].run, coarse(case), "float32") for case in own}
        assert not verdict.report(own, Answers(given, "bfloat16", seed)).findings


# ---------------------------------------------------------------- what is declared


def test_what_is_declared_absent_is_not_run_and_must_not_be_answered(right):
    part = {id: out for id, out in right.items() if not id.startswith(("concat/", "sgd/"))}
    r = report(part)
    assert r.exit_code == 2
    assert "missing: concat/ordinary (I, grad.I_groups), concat/one (I, grad.I_groups)" in str(r)
    r = report(part, without=("concat", "sgd"))
    assert r.exit_code == 0
    assert str(r).startswith(f"PASS of the declared part: {len(part)} of {len(CASES)} cases pass, 11 not run")
    assert "not run: concat, sgd" in str(r)
    r = report(right, without=("concat",))
    assert r.exit_code == 2
    assert "concat/ordinary: answered, but `without` declares concat absent" in str(r)
    r = report({}, without=tuple(OPS))
    assert r.exit_code == 2, "nothing passes by declaring everything absent"


def test_a_consumer_without_gradients_says_so(right):
    bare = {id: {o: x for o, x in out.items() if not o.startswith("grad.")} for id, out in right.items()}
    assert report(bare).exit_code == 2
    r = report(bare, gradients=False)
    assert r.exit_code == 0
    assert str(r).startswith("PASS of the declared part")
    assert "not run: gradients" in str(r)


@pytest.mark.parametrize("reading", OTHERS)
def test_a_declared_reading_is_what_is_graded(reading, right):
    for word, (ops, mistake) in OTHERS[reading].items():
        theirs = answered(**{op: LISTED[op][mistake] for op in ops})
        r = report(theirs, readings={reading: word})
        assert r.exit_code == 0, str(r)
        assert f"graded on the readings {reading}: {word}" in str(r)
        first = report(right, readings={reading: word}).findings[0]
        assert first.names[0].startswith("the paper as read here") or reading == "prompt-grammar"
        assert report(theirs, readings={reading: READINGS[reading]}).exit_code == 1


@pytest.mark.parametrize(
    ("head", "line"),
    [
        ({"kit": "2.0.0"}, f"answers of kit '2.0.0', this is {VERSION}; export the set again"),
        ({"kit": 3}, "kit is 3; expected"),
        ({"seed": -1}, "seed is -1; expected a whole number"),
        ({"dtype": "half"}, "dtype is 'half'; expected one of"),
        ({"without": ["bse"]}, "without[0] is 'bse'; expected one of"),
        ({"gradients": 0}, "gradients is 0; expected true or false"),
        ({"readings": {"bce-reduction": "median"}}, "expected one of mean, sum, row-sum"),
        ({"readings": {"bse": "mean"}}, "'bse' is no reading that this kit grades"),
        ({"readings": {"momentum": "nesterov", "weight-decay": "decoupled"}}, "they cannot be graded together"),
        ({"answers": []}, "answers is []; expected an object"),
        ({"more": 1}, "has also more"),
    ],
)
def test_a_head_that_means_nothing_is_one_line(head, line, right, tmp_path, capsys):
    (tmp_path / "a.json").write_text(json.dumps(as_json(right, **head)))
    code, text = run(capsys, "check", tmp_path / "a.json")
    assert code == 2
    assert text.count("\n") == 1
    assert f"{tmp_path}/a.json" in text
    assert line in text


# ---------------------------------------------------------------- broken answers


def text_of(text):
    return lambda path: path.write_bytes(text if isinstance(text, bytes) else text.encode())


def edited(change):
    def breaking(path):
        data = json.loads(path.read_text())
        change(data["answers"])
        path.write_text(json.dumps(data))

    return breaking


def bce(**tensors):
    return edited(lambda answers: answers["bce/ordinary"].update(tensors))


UNREADABLE = {
    "no file": (Path.unlink, "there is no such file"),
    "a folder": (lambda p: (p.unlink(), p.mkdir()), "is a folder"),
    "empty": (text_of(""), "is empty (0 bytes)"),
    "cut": (lambda p: p.write_text(p.read_text()[:5000]), "cannot be read (JSONDecodeError: "),
    "bare NaN": (
        lambda p: p.write_text(p.read_text().replace('"data": [', '"data": [NaN,', 1)),
        "NaN is no number",
    ),
    "not UTF-8": (text_of(b"\xff\xfe{}"), "UnicodeDecodeError"),
    "a list": (text_of("[]"), 'expected {"kit", "seed", "dtype", "answers"}'),
    "without a dtype": (text_of('{"kit": "3.0.0", "seed": 0, "answers": {}}'), "lacks dtype"),
}
ODD = {
    "an unknown case": (edited(lambda a: a.update({"bce/odd": {}})), "there is no case 'bce/odd'"),
    "an unknown output": (bce(Z={"shape": [], "data": [1]}), "there is no output 'Z'; expected L, grad.S"),
    "no outputs": (edited(lambda a: a.update({"bce/ordinary": {}})), "missing: bce/ordinary (L, grad.S)"),
    "a case left out": (edited(lambda a: a.pop("sgd/plain")), "missing: sgd/plain (w, v)"),
    "outputs a list": (
        edited(lambda a: a.update({"bce/ordinary": [1]})),
        "bce/ordinary: expected {output: tensor}",
    ),
    "a bare number": (bce(L=0.77), 'bce/ordinary: L: expected {"shape"'),
    "wrong count": (bce(L={"shape": [5, 6], "data": [0.7] * 25}), "means 30 entries, found 25"),
    "nested data": (bce(L={"shape": [], "data": [[0.7]]}), "entry 0 is [0.7], expected a number"),
    "null": (bce(L={"shape": [], "data": [None]}), "entry 0 is None, expected a number"),
    "true": (bce(L={"shape": [], "data": [True]}), "entry 0 is True, expected a number"),
    "negative shape": (bce(L={"shape": [-1, -1], "data": [1]}), "expected a list of whole numbers"),
}
WRONG = {
    "not a number": (bce(L={"shape": [], "data": ["NaN"]}), "L of bce/ordinary is nan, expected 0.8"),
    "text for a number": (bce(L={"shape": [], "data": ["0.77"]}), "L of bce/ordinary is '0.77', expected 0.8"),
    "another shape": (bce(L={"shape": [1], "data": [0.7]}), "is of shape [1], expected of shape []"),
    "a large whole number": (bce(L={"shape": [], "data": [10**20]}), "first at L: error 1e+20"),
    "numbers for text": (
        edited(lambda a: a["prompt/1-RGB"].update(text={"shape": [], "data": [1]})),
        "text of prompt/1-RGB is 1, expected 'a photo of a",
    ),
    "refused": (
        edited(lambda a: a.update({"tokenize/words": {"refused": {"shape": [], "data": [1]}}})),
        "ids of tokenize/words is 'refused', expected [",
    ),
    "not refused": (
        edited(lambda a: a.update({"tokenize/too-long": a["tokenize/cut"]})),
        "refused of tokenize/too-long is 'missing', expected 1",
    ),
}


@pytest.mark.parametrize("kind", UNREADABLE)
def test_a_file_that_cannot_be_read_is_one_line(kind, path, capsys):
    breaking, line = UNREADABLE[kind]
    breaking(path)
    code, text = run(capsys, "check", path)
    assert (code, text.count("\n")) == (2, 1)
    assert str(path) in text
    assert line in text


@pytest.mark.parametrize("kind", ODD)
def test_an_odd_answer_is_one_line_and_code_2(kind, path, capsys):
    breaking, line = ODD[kind]
    breaking(path)
    code, text = run(capsys, "check", path)
    assert code == 2
    assert line in text
    assert len(on_screen(text)) <= 4


@pytest.mark.parametrize("kind", WRONG)
def test_a_wrong_answer_is_shown_beside_the_right_one(kind, path, capsys):
    breaking, line = WRONG[kind]
    breaking(path)
    code, text = run(capsys, "check", path)
    assert code in (1, 2)
    assert "GUILTY" in text
    assert line in text, text


HOLLOW = {  # what the right array becomes without computation
    "zeros": lambda a, inputs: np.zeros_like(a),
    "ones": lambda a, inputs: np.ones_like(a),
    "an input": lambda a, inputs: next((x for x in inputs if np.shape(x) == np.shape(a)), np.zeros_like(a)),
    "in reverse": lambda a, inputs: a.ravel()[::-1].reshape(a.shape),
}


@pytest.mark.parametrize("way", HOLLOW)
def test_answers_without_computation_fail_in_every_operation(way, right):
    made = lambda id, a: HOLLOW[way](a, PUBLIC[id].inputs.values()) if isinstance(a, np.ndarray) else a
    given = {id: {o: made(id, x) for o, x in out.items()} for id, out in right.items()}
    changed = {
        PUBLIC[id].op for id, out in given.items() if any(numbers.apart(x, right[id][o]) for o, x in out.items())
    }
    failing = {g.case.op for g in report(given).of("fail")}
    assert failing == changed
    assert len(changed) > 20


def test_defects_hide_no_divergence(right):
    given = answered(bce=LISTED["bce"]["sum for mean"])
    del given["sgd/plain"]
    r = report(given)
    assert r.exit_code == 2
    assert 'this is "sum for mean"' in str(r)
    assert "missing: sgd/plain" in str(r)


def test_the_screen_has_24_lines_whatever_is_wrong(right):
    given = {id: {o: x + 7 if is_float(x) else x for o, x in out.items()} for id, out in right.items()}
    given |= {id: {} for id in list(given)[:40]}
    defects = tuple(f"line {k}" for k in range(50))
    r = report(given, "float32", gradients=False, readings={"ce": "sum"}, defects=defects)
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


def fast_batch_norm(x, weight, bias, running_mean, running_var, train):
    state = {"running_mean": running_mean, "running_var": running_var, "num_batches_tracked": np.array(0)}
    y, new = nn.batch_norm(x, weight, bias, state, train=bool(train))
    return {"y": y, "new_running_mean": new["running_mean"], "new_running_var": new["running_var"]}


def fast_sgd(w, gradients, lr, momentum, weight_decay):
    steps, p, v = [], {"w": w}, None
    for g, rate in zip(gradients, lr, strict=True):
        p, v = optim.sgd(p, v, {"w": g}, learning_rate=rate, momentum=momentum, weight_decay=weight_decay)
        steps.append((p["w"], v["w"]))
    return tuple(map(np.stack, zip(*steps, strict=True)))


KERNELS = {
    "linear": nn.linear,
    "conv2d": nn.conv2d,
    "batch_norm": fast_batch_norm,
    "layer_norm": nn.layer_norm,
    "relu": nn.relu,
    "max_pool2d": lambda x: nn.max_pool2d(x, 2),
    "gelu": nn.gelu,
    "quick_gelu": nn.quick_gelu,
    "sgd": fast_sgd,
}


@pytest.mark.parametrize("seed", [0, 6])
def test_the_packages_fast_kernels_pass(seed):
    functions = {op: o.run for op, o in OPS.items()} | KERNELS
    r = conform.check(functions, gradients=reverse, seed=seed)
    assert r.exit_code == 0, str(r)
    assert not r.of("not run")
    assert (", seed 6)" in str(r)) == (seed == 6)


def test_functions_that_raise_or_answer_oddly_are_findings():
    def raises(S, W):
        raise RuntimeError("out of memory")

    r = conform.check({"bce": raises})
    assert r.exit_code == 2
    assert "bce/ordinary: raised RuntimeError: 'out of memory'" in str(r)
    on_screen(str(r))
    for odd in (None, 5j):
        r = conform.check({"total_loss": lambda L_cls, L_con, beta, odd=odd: odd})
        assert r.exit_code == 2
        assert "total_loss/ordinary: raised ValueError: 'L came as" in str(r)
    r = conform.check({"contrastive_loss": lambda S, W: 1.0})
    assert "expected a dict or a tuple of L_i2t, L_t2i, L_con" in str(r)
    never = lambda text, context, truncate: OPS["tokenize"].run(text, context, 1)  # refuses nothing that is long
    assert [f.op for f in conform.check({"tokenize": never}).findings] == ["tokenize"]
    r = conform.check({"bce": lambda S, W: equations.bce(S, W)}, gradients=lambda *a: {})
    assert r.exit_code == 2, "gradients that were promised are missing"
    for arguments, line in (
        (({"loss": raises},), "expected names among read_array"),
        (({},), "none given"),
        (({"bce": raises}, None, None, np.asarray, "half"), "dtype is 'half'"),
    ):
        with pytest.raises(ValueError, match=line):
            conform.check(*arguments)
    with pytest.raises(ValueError, match="seed is -1; expected a whole number"):
        conform.check({"bce": raises}, seed=-1)


def test_a_function_that_changes_its_inputs_changes_nobody_elses():
    def greedy(x):
        y = np.where(x <= 0, 0, x)
        x *= 0
        return y

    for _ in range(2):
        assert conform.check({"relu": greedy}).exit_code == 0


# ---------------------------------------------------------------- the commands


@pytest.mark.parametrize("seed", [0, 5])
def test_the_line_that_a_report_prints_runs_as_it_stands(seed, tmp_path, capsys):
    folder = tmp_path / ("a folder with a long name, $and 'quotes' " * 5)
    folder.mkdir()
    given = answered(seed=seed, bce=LISTED["bce"]["sum for mean"])
    (folder / "answers.json").write_text(json.dumps(as_json(given, seed=seed)))
    code, text = run(capsys, "check", folder / "answers.json")
    assert code == 1
    (line,) = [line.strip() for line in text.split("\n") if " conform explain " in line]
    words = shlex.split(line)
    assert words[:5] == ["python", "-m", "bplcz_ref", "conform", "explain"]
    code, text = run(capsys, *words[4:])
    assert code == 0
    assert "DIFFERS: error" in text
    assert "this answer alone equals: sum for mean" in text
    r = conform.check({"bce": lambda S, W: equations.bce(S, W) * S.size}, seed=seed)
    (line,) = [line.strip() for line in str(r).split("\n") if " conform explain " in line]
    assert run(capsys, *shlex.split(line)[4:])[0] == 0
    assert ("--seed 5" in line) == (seed == 5)


def test_export_check_and_a_blind_seed(tmp_path, capsys):
    code, text = run(capsys, "export", tmp_path / "set.json")
    assert (code, text) == (0, f"{tmp_path}/set.json: {len(CASES)} cases of kit {VERSION}, seed 0\n")
    data = json.loads((tmp_path / "set.json").read_text())
    assert len(data["cases"]) == len(CASES)
    assert data["merges"][0].count(" ") == 1
    assert len(data["descriptions"]) == 17
    assert run(capsys, "export", tmp_path / "set.json")[0] == 2, "nothing is overwritten"
    assert run(capsys, "export", tmp_path / "b.json", "--blind")[0] == 2
    assert run(capsys, "export", tmp_path / "blind.json", "--seed", 5, "--blind")[0] == 0
    blind = json.loads((tmp_path / "blind.json").read_text())
    assert all(not t for case in blind["cases"] for t in case["expect"].values())
    (tmp_path / "a.json").write_text(json.dumps(as_json(answered(seed=5), seed=5)))
    code, text = run(capsys, "check", tmp_path / "a.json")
    assert code == 0
    assert text.startswith(f"PASS: {len(CASES)} of {len(CASES)} cases pass (float32, kit {VERSION}, seed 5)")
    assert run(capsys, "check", tmp_path / "a.json", "--seed", 5)[0] == 0
    code, text = run(capsys, "check", tmp_path / "a.json", "--seed", 6)
    assert (code, "answers of seed 5; expected those of seed 6" in text) == (2, True)


def test_explain_shows_every_case_and_the_answer_beside_it(right, path, capsys):
    for case in CASES:
        text = command.explained(case, verdict.grade(case, right[case.id], "float32"), "float32")
        assert "formula: " in text
        assert "DIFFERS" not in text
    code, text = run(capsys, "explain")
    assert all(f"  {case.id}: {case.why}" in text for case in CASES)
    assert "bce(S, W) -> L: mean of -(W log sigma(S)" in text
    code, text = run(capsys, "explain", "bce/ordinary", "--answers", path)
    assert code == 0
    assert "agrees: error" in text
    code, text = run(capsys, "explain", "bce/none")
    assert (code, "there are bce/ordinary" in text) == (2, True)


def test_a_report_side_by_side(path, tmp_path, capsys):
    (tmp_path / "wrong.json").write_text(json.dumps(as_json(answered(bce=LISTED["bce"]["sum for mean"]))))
    names = tmp_path / "ours.json", tmp_path / "a|b <script>.json"
    for answers, name in zip((path, tmp_path / "wrong.json"), names, strict=True):
        run(capsys, "check", answers, "--json", name)
    code, text = run(capsys, "report", *names)
    assert code == 1
    rows = [[c.strip() for c in line.strip("|").split("|")] for line in text.splitlines()]
    assert rows[0] == [f"kit {VERSION}", "ours", "a&#124;b &lt;script&gt;"]
    assert ["Eq. (7) bce", "8/8", "guilty: sum for mean"] in rows
    assert ["Eq. (1) conv2d", "11/11", "11/11"] in rows
    damaged = json.loads(names[0].read_text())
    for change in (
        {"exit_code": 7},
        {"cases": {"bce/a": "pass"}},
        {"findings": ["x"]},
        {"cases": {"a": {"op": "x"}}},
    ):
        names[1].write_text(json.dumps(damaged | change))
        with pytest.raises(ValueError, match="no report of `conform check --json`"):
            scoreboard.read([names[1]])
    names[1].write_text(json.dumps(damaged | {"kit": "2.0.0"}))
    with pytest.raises(ValueError, match="different kits cannot be compared"):
        scoreboard.read(list(names))


def test_help_has_examples_and_leaves_out_what_is_for_maintainers(capsys):
    def help_of(*words):
        with pytest.raises(SystemExit):
            main(["conform", *words, "--help"])
        return capsys.readouterr().out

    top = help_of()
    assert "regenerate" not in top
    assert "report" not in top
    for name in ("export", "check", "explain", "selftest", "trace", "diff"):
        assert f"  python -m bplcz_ref conform {name}" in help_of(name)
        assert f"    {name} " in top
    assert "DIR" in help_of("regenerate")


def test_a_command_imports_no_more_than_it_needs():
    code = "import sys, bplcz_ref.__main__; print([m for m in sys.modules if m.startswith('bplcz_ref.conform.')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

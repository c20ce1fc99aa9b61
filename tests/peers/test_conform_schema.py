"""docs/conformance.schema.json accepts every file of the kit, and refuses each that has one field wrong."""

import copy
import json
from pathlib import Path

import pytest

from bplcz_ref.conform import exchange, verdict
from bplcz_ref.conform.exchange import Answers
from bplcz_ref.conform.ops import OPS, worked_out

jsonschema = pytest.importorskip("jsonschema")

pytestmark = pytest.mark.slow  # the whole kit is read, answered and graded

SCHEMA = json.loads((Path(__file__).parents[2] / "docs" / "conformance.schema.json").read_text("utf-8"))


@pytest.fixture(scope="module")
def files():
    """{kind of file: its content}."""
    given = {case.id: worked_out(OPS[case.op].run, case) for case in exchange.load()}
    given["bce/saturated"]["L"] = given["bce/saturated"]["L"] * 2  # so that the report has a finding
    tensors = {id: {o: exchange.tensor(x) for o, x in out.items()} for id, out in given.items()}
    answers = {"kit": exchange.VERSION, "seed": 0, "dtype": "float64", "without": [], "answers": tensors}
    report = verdict.as_json(verdict.report(exchange.load(), Answers(given, "float64", readings={"ce": "logits"})))
    blind = exchange.set_of(exchange.load(), 3, blind=True)
    public = json.loads(exchange.PUBLIC.read_text("utf-8"))
    return {"set": public, "blind": blind, "answers": answers, "report": json.loads(json.dumps(report))}


def test_every_file_of_the_kit_validates(files):
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    assert files["report"]["exit_code"] == 1
    for name, content in files.items():
        errors = [error.message for error in jsonschema.Draft202012Validator(SCHEMA).iter_errors(content)]
        assert not errors, (name, errors[0][:300])


FIRST, BCE = ("set", "cases", 0), ("answers", "answers", "bce/saturated")
WRONG = {
    "another kit": (("set", "kit"), "2.0.0"),
    "a seed below 0": (("set", "seed"), -1),
    "a field more": ((*FIRST, "hint"), "x"),
    "an id without its operation": ((*FIRST, "id"), "digits"),
    "a needed constant of 0": ((*FIRST, "needs"), 0),
    "null for not-a-number": ((*FIRST, "inputs", "a", "data", 0), None),
    "text among floats": ((*FIRST, "inputs", "a", "data", 0), "nan"),
    "a negative length": ((*FIRST, "inputs", "a", "shape", 0), -1),
    "a number for a version": (("answers", "kit"), 1),
    "an unknown dtype": (("answers", "dtype"), "half"),
    "nested data": ((*BCE, "L", "data"), [[1.0]]),
    "an answer without its shape": ((*BCE, "L"), {"data": [1.0]}),
    "gradients by word": (("answers", "gradients"), "no"),
    "an exit code of 3": (("report", "exit_code"), 3),
    "a state that does not exist": (("report", "cases", "bce/saturated", "state"), "drift"),
}


@pytest.mark.parametrize("what", WRONG)
def test_one_wrong_field_is_refused(files, what):
    (name, *path, last), value = WRONG[what]
    content = copy.deepcopy(files[name])
    place = content
    for key in path:
        place = place[key]
    place[last] = value
    assert not jsonschema.Draft202012Validator(SCHEMA).is_valid(content)

"""docs/conformance.schema.json accepts every file of the kit, and refuses each that has one field wrong."""

import copy
import json
from pathlib import Path

import pytest

from bplcz_ref.__main__ import main
from bplcz_ref.conform import kit

jsonschema = pytest.importorskip("jsonschema")

pytestmark = pytest.mark.slow  # the whole kit is read, answered and graded

SCHEMA = json.loads((Path(__file__).parents[2] / "docs" / "conformance.schema.json").read_text("utf-8"))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """{kind of file: its content}."""
    folder = tmp_path_factory.mktemp("schema")
    vectors = kit.load()
    answers = {name: case["expect"] for name, case in vectors.cases.items()}
    plain = {c: {o: {k: t[k] for k in ("shape", "data")} for o, t in out.items()} for c, out in answers.items()}
    plain["bce/saturated"] = {"L": {"shape": [], "data": [1.0]}} | {
        k: t for k, t in plain["bce/saturated"].items() if k != "L"
    }  # one wrong answer, so that the report has a finding
    given = {"kit": vectors.manifest["kit"], "manifest": vectors.digest, "answers": plain}
    (folder / "answers").mkdir()
    (folder / "answers" / "a.json").write_text(json.dumps(given), "utf-8")
    profile = {"bce-logarithm": "exact", "suites": [*range(9)], "without": ["prompt"], "gradients": True}
    for case in [name for name, c in vectors.cases.items() if c["op"] == "prompt" or vectors.suites[name] > 8]:
        del plain[case]
    (folder / "answers" / "a.json").write_text(json.dumps(given), "utf-8")
    (folder / "profile.json").write_text(json.dumps(profile), "utf-8")
    options = ["--dtype", "float64", "--profile", str(folder / "profile.json"), "--json", str(folder / "r.json")]
    assert main(["conform", "check", str(folder / "answers"), *options]) == 1
    assert main(["conform", "export", str(folder / "vectors")]) == 0
    suites = {path.name: path for path in sorted((folder / "vectors").glob("[0-9]-*.json"))}
    paths = suites | {"manifest": folder / "vectors" / "manifest.json", "report": folder / "r.json"}
    read = {name: json.loads(path.read_text("utf-8")) for name, path in paths.items()}
    return read | {"answers": given, "profile": profile}


def test_the_schema_is_one():
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


def test_every_file_of_the_kit_validates(files):
    assert len(files) > 12
    for name, content in files.items():
        errors = [error.message for error in jsonschema.Draft202012Validator(SCHEMA).iter_errors(content)]
        assert not errors, (name, errors[0][:300])


CASE = ("1-equations.json", "cases", 0)
WRONG = {
    "a digest that is cut": (("manifest", "files", "1-equations.json", "sha256"), "ab12"),
    "cases as text": (("manifest", "cases"), "94"),
    "a flag that does not exist": ((*CASE, "flag"), "HARD"),
    "a field more": ((*CASE, "hint"), "x"),
    "an id without its operation": ((*CASE, "id"), "saturated"),
    "a scale of 0": ((*CASE, "expect", "S_i", "scale"), 0),
    "null for not-a-number": ((*CASE, "inputs", "I_i", "data", 0), None),
    "text among floats": ((*CASE, "inputs", "I_i", "data", 0), "nan"),
    "a negative length": ((*CASE, "inputs", "I_i", "shape", 0), -1),
    "a number for a version": (("answers", "kit"), 1),
    "nested data": (("answers", "answers", "bce/saturated", "L", "data"), [[1.0]]),
    "an answer without its shape": (("answers", "answers", "bce/saturated", "L"), {"data": [1.0]}),
    "gradients by word": (("profile", "gradients"), "no"),
    "a suite by name": (("profile", "suites"), ["text"]),
    "an exit code of 3": (("report", "exit_code"), 3),
    "passed as a number": (("report", "cases", "bce/saturated", "outputs", "L", "passed"), 1),
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

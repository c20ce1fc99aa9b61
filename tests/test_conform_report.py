"""conform/scoreboard.py: several reports as one table; absent is no pass; what is no report is refused."""

import json

import pytest

from bplcz_ref.__main__ import main
from bplcz_ref.conform import check, scoreboard, verdict


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    """Two reports as `check --json` writes them: one right, one whose loss is summed."""
    folder = tmp_path_factory.mktemp("reports")
    total = {"total_loss": lambda L_cls, L_con, beta: L_cls + beta * L_con}
    for name, functions in (
        ("right", total),
        ("wrong", {"total_loss": lambda L_cls, L_con, beta: L_cls * beta + L_con}),
    ):
        found = verdict.as_json(check(functions, dtype="float64"))
        (folder / f"{name}.json").write_text(json.dumps(found), "utf-8")
    return folder / "right.json", folder / "wrong.json"


def test_the_table_shows_what_passes_what_is_wrong_and_what_is_absent(reports, capsys):
    assert main(["conform", "report", *map(str, reports)]) == 1
    rows = [[c.strip() for c in line.strip("|").split("|")] for line in capsys.readouterr().out.splitlines()]
    table = {row[0]: row[1:] for row in rows}
    assert rows[0][1:] == ["right", "wrong"]
    assert table["precision"] == ["float64", "float64"]
    assert table["verdict"][0].startswith("**PASS** of the declared part, 3 of ")
    assert table["verdict"][1].startswith("**DIVERGES** 0 of ")
    assert table["1 equations: total_loss"][0].count("/") == 1
    assert table["1 equations: total_loss"][1] == "guilty: beta on the other term"
    assert table["1 equations: bce"] == ["-", "-"], "absent, not passed"
    assert {len(row) for row in rows} == {3}


def test_a_name_cannot_break_the_table(reports, tmp_path):
    odd = tmp_path / "a|b <script>.json"
    odd.write_bytes(reports[0].read_bytes())
    head = scoreboard.markdown(scoreboard.read([odd])).splitlines()[0]
    assert head.endswith("| a&#124;b &lt;script&gt; |")


def damaged(change):
    def make(text):
        report = json.loads(text)
        change(report)
        return json.dumps(report)

    return make


DAMAGE = {
    "not JSON": lambda text: text[:-2],
    "a list": lambda text: "[]",
    "answers": lambda text: '{"kit": "1.0.0", "manifest": "", "answers": {}}',
    "exit code": damaged(lambda report: report.update(exit_code=7)),
    "state": damaged(lambda report: next(iter(report["cases"].values())).update(state=1)),
    "a case as text": damaged(lambda report: report["cases"].update({"bce/a": "pass"})),
    "findings": damaged(lambda report: report.update(findings=["x"])),
    "deep": lambda text: "[" * 10**6,
}


@pytest.mark.parametrize("what", DAMAGE)
def test_what_is_no_report_is_refused(what, reports, tmp_path, capsys):
    path = tmp_path / "r.json"
    path.write_text(DAMAGE[what](reports[0].read_text("utf-8")), "utf-8")
    assert main(["conform", "report", str(path)]) == 2
    kind = "not valid JSON" if what in ("not JSON", "deep") else "no report of `conform check --json`"
    assert f"r.json: {kind}" in capsys.readouterr().err


def test_two_of_one_name_and_two_kits_are_refused(reports, tmp_path):
    other = tmp_path / "right.json"
    other.write_bytes(reports[0].read_bytes())
    with pytest.raises(ValueError, match="another report is called 'right' too"):
        scoreboard.read([reports[0], other])
    old = tmp_path / "old.json"
    old.write_text(json.dumps(json.loads(reports[0].read_text("utf-8")) | {"kit": "0.9.0"}), "utf-8")
    with pytest.raises(
        ValueError, match=r"different kits cannot be compared: right of kit .*, old of kit 0\.9\.0"
    ):
        scoreboard.read([reports[0], old])

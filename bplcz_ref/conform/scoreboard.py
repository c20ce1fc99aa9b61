"""`conform report`: what `check --json` wrote for several implementations, side by side as one table in Markdown.

A cell says how an operation fared: how many of its cases pass, or which wrong reading its answers equal. What an
implementation declares absent is "-", never a pass.
"""

from pathlib import Path

from bplcz_ref import files, schema
from bplcz_ref.conform.kit import EPS, SUITES

LARGEST = 1 << 26  # bytes of a report; one of the whole kit has under a million


def read(paths: list[Path]) -> dict[str, dict]:
    """{implementation: report}, the implementation being the file's name without its ending.

    Errors: ValueError for what is no report of `check --json`, two of one name, or reports of different kits.
    """
    found: dict[str, dict] = {}
    for path in paths:
        if path.stem in found:
            raise ValueError(
                f"{path}: another report is called {path.stem!r} too; rename one, names head the columns"
            )
        found[path.stem] = one(path)
    kits = {name: report["kit"] for name, report in found.items()}
    if len(set(kits.values())) > 1:
        listed = ", ".join(f"{name} of kit {kit}" for name, kit in kits.items())
        raise ValueError(f"reports of different kits cannot be compared: {listed}; check the answers again")
    return found


def one(path: Path) -> dict:
    """One report, checked as far as the table reads it."""
    report = files.read_json(path, LARGEST)
    try:
        wanted = {
            "kit": schema.TEXT,
            "dtype": schema.one_of(EPS),
            "exit_code": schema.whole(0, 2),
            "cases": schema.Rule("an object of cases", lambda x: isinstance(x, dict)),
            "findings": schema.Rule("a list of findings", lambda x: isinstance(x, list)),
        }
        schema.check({key: report[key] for key in wanted}, wanted, "")
        case = {"op": schema.TEXT, "suite": schema.whole(0), "state": schema.TEXT}
        for name, graded in report["cases"].items():
            schema.check({key: graded[key] for key in case}, case, f"cases.{schema.brief(name)}")
        finding = {"op": schema.TEXT, "state": schema.TEXT, "names": [schema.TEXT]}
        for each in report["findings"]:
            part = {"op": each["op"], "state": each["state"], "names": list(each["names"])}
            schema.check(part, finding, "findings")
    except (ValueError, KeyError, TypeError) as error:
        said = f"it lacks {error}" if isinstance(error, KeyError) else error
        raise ValueError(f"{path}: no report of `conform check --json` ({said})") from None
    return report


def markdown(reports: dict[str, dict]) -> str:
    """The table: a row for each operation of the kit, in the order of its suites, and the verdicts on top.

    >>> case = {"op": "bce", "suite": 1, "state": "pass"}
    >>> ours = {"kit": "1.0.0", "dtype": "float64", "exit_code": 0, "cases": {"bce/a": case}, "findings": []}
    >>> finding = {"op": "bce", "state": "guilty", "names": ["sum for mean"]}
    >>> other = ours | {"exit_code": 1, "cases": {"bce/a": case | {"state": "fail"}}, "findings": [finding]}
    >>> print(markdown({"ours": ours, "other": other}))
    | kit 1.0.0 | ours | other |
    |---|---|---|
    | precision | float64 | float64 |
    | verdict | **PASS** 1 of 1 | **DIVERGES** 0 of 1 |
    | 1 equations: bce | 1/1 | guilty: sum for mean |
    """
    kit = next(iter(reports.values()))["kit"]
    suites: dict[str, int] = {}
    for report in reports.values():
        for case in report["cases"].values():
            suites.setdefault(case["op"], case["suite"])
    rows = [
        [f"kit {kit}", *map(escaped, reports)],
        ["---"] * (len(reports) + 1),
        ["precision", *(report["dtype"] for report in reports.values())],
        ["verdict", *map(verdict, reports.values())],
    ]
    for op in sorted(suites, key=lambda op: suites[op]):
        number = suites[op]
        place = f"{number} {SUITES.get(number, '')}".strip()
        rows.append([f"{place}: {escaped(op)}", *(cell(report, op) for report in reports.values())])
    return "\n".join(f"|{'|'.join(row)}|" if row[0] == "---" else f"| {' | '.join(row)} |" for row in rows)


def verdict(report: dict) -> str:
    """A report in two words and the number of cases that pass."""
    states = [case["state"] for case in report["cases"].values()]
    run = [state for state in states if state != "not run"]
    word = {0: "PASS", 1: "DIVERGES", 2: "INCOMPLETE"}[report["exit_code"]]
    part = " of the declared part," if len(run) < len(states) and report["exit_code"] == 0 else ""
    return f"**{word}**{part} {states.count('pass')} of {len(states)}"


def cell(report: dict, op: str) -> str:
    """How one operation fared."""
    states = [case["state"] for case in report["cases"].values() if case["op"] == op]
    finding = next((f for f in report["findings"] if f["op"] == op), None)
    if finding is not None:
        names = ", ".join(map(escaped, finding["names"]))
        return f"{escaped(finding['state'])}: {names}" if names else f"{escaped(finding['state'])}"
    run = [state for state in states if state != "not run"]
    if not run:
        return "-"
    return f"{run.count('pass')}/{len(states)}"


def escaped(text: str) -> str:
    """Text that Markdown shows as it is, in a cell.

    >>> escaped("a|b <c>")
    'a&#124;b &lt;c&gt;'
    """
    plain = "".join(c if c.isprintable() else "?" for c in text)
    return plain.replace("&", "&amp;").replace("|", "&#124;").replace("<", "&lt;").replace(">", "&gt;")

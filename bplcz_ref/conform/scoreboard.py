"""`conform report`: what `check --json` wrote for several implementations, side by side as one table in Markdown.

A cell says how an operation fared: how many of its cases pass, or what its answers equal. What an implementation
declares absent is "-", never a pass.
"""

from pathlib import Path

from bplcz_ref.conform.ops import OPS
from bplcz_ref.storage import files


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
        report = found[path.stem] = files.read_json(path)
        wanted = ("kit", "dtype", "exit_code", "cases", "findings")
        lacking = [key for key in wanted if not isinstance(report, dict) or key not in report]
        if lacking:
            raise ValueError(f"{path}: no report of `conform check --json` (it lacks {', '.join(lacking)})")
    kits = {name: report["kit"] for name, report in found.items()}
    if len(set(kits.values())) > 1:
        listed = ", ".join(f"{name} of kit {kit}" for name, kit in kits.items())
        raise ValueError(f"reports of different kits cannot be compared: {listed}; check the answers again")
    return found


def markdown(reports: dict[str, dict]) -> str:
    """The table: a row for each operation of the kit, and the verdicts on top.

    >>> case = {"op": "bce", "state": "pass"}
    >>> ours = {"kit": "3.0.0", "dtype": "float64", "exit_code": 0, "cases": {"bce/a": case}, "findings": []}
    >>> finding = {"op": "bce", "state": "guilty", "names": ["sum for mean"]}
    >>> other = ours | {"exit_code": 1, "cases": {"bce/a": case | {"state": "fail"}}, "findings": [finding]}
    >>> print(markdown({"ours": ours, "other": other}))
    | kit 3.0.0 | ours | other |
    |---|---|---|
    | precision | float64 | float64 |
    | verdict | **PASS** 1 of 1 | **DIVERGES** 0 of 1 |
    | Eq. (7) bce | 1/1 | guilty: sum for mean |
    """
    kit = next(iter(reports.values()))["kit"]
    asked = {case["op"] for report in reports.values() for case in report["cases"].values()}
    rows = [[f"kit {kit}", *map(escaped, reports)], ["---"] * (len(reports) + 1)]
    rows.append(["precision", *(report["dtype"] for report in reports.values())])
    rows.append(["verdict", *map(verdict, reports.values())])
    for op in [op for op in OPS if op in asked]:
        rows.append([f"{OPS[op].place} {op}".strip(), *(cell(report, op) for report in reports.values())])
    return "\n".join(f"|{'|'.join(row)}|" if row[0] == "---" else f"| {' | '.join(row)} |" for row in rows)


def verdict(report: dict) -> str:
    """A report in two words and the number of cases that pass."""
    states = [case["state"] for case in report["cases"].values()]
    word = {0: "PASS", 1: "DIVERGES", 2: "INCOMPLETE"}[report["exit_code"]]
    part = " of the declared part," if "not run" in states and report["exit_code"] == 0 else ""
    return f"**{word}**{part} {states.count('pass')} of {len(states)}"


def cell(report: dict, op: str) -> str:
    """How one operation fared."""
    states = [case["state"] for case in report["cases"].values() if case["op"] == op]
    for f in report["findings"]:
        if f["op"] == op:
            return escaped(": ".join(filter(None, (f["state"], ", ".join(f["names"])))))
    return f"{states.count('pass')}/{len(states)}" if set(states) - {"not run"} else "-"


def escaped(text: str) -> str:
    """Text that Markdown shows as it is, in a cell.

    >>> escaped("a|b <c>")
    'a&#124;b &lt;c&gt;'
    """
    plain = "".join(c if c.isprintable() else "?" for c in text)
    return plain.replace("&", "&amp;").replace("|", "&#124;").replace("<", "&lt;").replace(">", "&gt;")

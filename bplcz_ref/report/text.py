"""Results of training as text: Tables II and III with the paper's numbers beside ours.

Numbers from simulated data are marked so. Figures are figures.py's.
"""

import os
from collections.abc import Iterable

from bplcz_ref import systems

OURS = "EB-CNN's layers and 14 of the 17 descriptions are our reading of the paper (docs/readings.md)."
OPTIMUM = (
    "optimum: the least expected L_con, if all classes were equally likely; a batch's own floor may be lower "
    "(docs/mathematics.md)"
)
MEASURES = ("overall_accuracy", "average_accuracy", "kappa")
CSV_KEYS = (*MEASURES, "test_samples", "parameters", "training_seconds")


def one_line(result: dict, kind: str) -> str:
    """A result, which has metrics.summary's entries, in one line; `kind` says which samples."""
    oa, average, kappa = (percent([result[name]]) for name in MEASURES)
    return f"OA {oa} %, average accuracy {average} %, kappa {kappa} % on {result['samples']} {kind} samples"


def ablation(results: list[dict], folders: list) -> str:
    """The rows of Table III as text, from metrics.json of each run: the paper's numbers beside ours.

    Below it, for rows with band group prompting: how far L_con is above its expected optimum, and the mean entry
    of S over positive and negative pairs, in the last epoch.
    """
    simulated = any(result["data_simulated"] for result in results)
    ours = "ours, SIMULATED data" if simulated else "ours"
    table: list[tuple] = [
        ("", "paper", "", ours, "", "", ""),
        ("row", "OA %", "kappa %", "OA %", "kappa %", "training", "parameters"),
    ]
    losses: list[tuple] = [("last epoch", "L_con", "optimum", "above it", "mean S, positive", "mean S, negative")]
    for result in results:
        label = systems.SYSTEMS[result["system"]].label
        own = [percent([result[name]]) for name in ("overall_accuracy", "kappa")]
        time = f"{result['training_seconds']:.0f} s"
        table.append((label, *published(result["system"]), *own, time, f"{result['parameters']:,}"))
        row, optimum = result["last_epoch"], result["L_con_optimum"]
        if row["L_con"] is not None:
            above = None if optimum is None else row["L_con"] - optimum
            numbers = (row["L_con"], optimum, above, row["S_positive"], row["S_negative"])
            losses.append((label, *("-" if number is None else f"{number:.4f}" for number in numbers)))
    lines = [f"Table III, {protocol(results[0])}, {results[0]['test_samples']:,} test samples."]
    if simulated:
        lines.append(
            "SIMULATED data: these figures say nothing about So2Sat, only that the method runs and learns."
        )
    lines += [OURS, "", *columns(table)]
    if len(losses) > 1:
        lines += ["", *columns(losses), OPTIMUM]
    return "\n".join([*lines, "", "Run folders:", *(f"  {folder}" for folder in folders)])


def tables_markdown(results: dict[str, list[dict]], paper_seconds: float) -> str:
    """Tables II and III from {system: metrics of each seed}: mean and deviation over seeds beside the paper's.

    paper_seconds: how long one seed of these systems would take here by the paper's protocol.
    """
    lines = []
    for title, names in (("Table II", systems.TABLE_II), ("Table III", systems.TABLE_III)):
        chosen = {name: results[name] for name in names if name in results}
        if chosen:
            lines += [f"## {title}", "", *markdown(_rows(chosen)), ""]
    return "\n".join([*lines, *_footer(results, paper_seconds)])


def _rows(results):
    simulated = any(result["data_simulated"] for of_seeds in results.values() for result in of_seeds)
    ours = "ours (SIMULATED)" if simulated else "ours"
    yield ("system", "paper OA", "paper kappa", f"{ours} OA", f"{ours} kappa", "seeds", "parameters", "s/epoch")
    for name, of_seeds in results.items():
        own = [percent([result[key] for result in of_seeds]) for key in ("overall_accuracy", "kappa")]
        epoch = sum(r["training_seconds"] / r["last_epoch"]["epoch"] for r in of_seeds) / len(of_seeds)
        counts = (str(len(of_seeds)), f"{of_seeds[0]['parameters']:,}", f"{epoch:.1f}")
        yield (systems.SYSTEMS[name].label, *published(name), *own, *counts)


def _footer(results, paper_seconds):
    """What the numbers are, and what it takes to reproduce the paper's."""
    every = [result for of_seeds in results.values() for result in of_seeds]
    if any(result["data_simulated"] for result in every):
        yield "Ours is from SIMULATED data: it says that the systems run and learn, nothing about So2Sat."
    yield f"Ours: {protocol(every[0])}."
    yield OURS
    yield "The accuracies of Tables II and III can be reproduced only from the real 52 GB file, So2Sat LCZ42's"
    yield "training.h5:"
    command = "  python -m bplcz_ref tables --data training.h5 --preset paper --systems"
    yield f"{command} {' '.join(results)} --seeds 1 --out runs/tables"
    days = paper_seconds / 86400
    yield f"which would take about {days:.1f} days here ({os.cpu_count()} cores), by the time of one step."


def tables_csv(results: dict[str, list[dict]]) -> str:
    """CSV with a line per run: system, seed number, the paper's numbers and ours, as fractions."""
    lines = [["system", "seed", "paper_overall_accuracy", "paper_kappa", *CSV_KEYS, "data_simulated"]]
    for name, of_seeds in results.items():
        paper = [f"{value / 100:.4f}" for value in systems.SYSTEMS[name].figures]
        for result in of_seeds:
            ours = [str(result[key]) for key in CSV_KEYS]
            simulated = str(result["data_simulated"]).lower()
            lines.append([name, str(result["settings"]["seed"]), *paper, *ours, simulated])
    return "".join(",".join(line) + "\n" for line in lines)


# -------------------------------------------------------------------------------------------------------- cells


def published(system: str) -> list[str]:
    """The paper's OA and kappa of a system, in percent.

    >>> published("ebcnn")
    ['79.29', '77.39']
    """
    return [f"{value:.2f}" for value in systems.SYSTEMS[system].figures]


def percent(fractions: list[float | None]) -> str:
    """Mean and standard deviation over seeds (divided by n - 1) in percent, or the value of one seed.

    >>> percent([0.80, 0.82]), percent([0.80]), percent([0.80, None])
    ('81.00 ± 1.41', '80.00', 'undefined')
    """
    values = [100 * fraction for fraction in fractions if fraction is not None]
    if len(values) < len(fractions):  # kappa where all samples are of one class
        return "undefined"
    mean = sum(values) / len(values)
    if len(values) == 1:
        return f"{mean:.2f}"
    return f"{mean:.2f} ± {(sum((v - mean) ** 2 for v in values) / (len(values) - 1)) ** 0.5:.2f}"


def protocol(result: dict) -> str:
    """The preset of a result, and how it differs from the paper's protocol.

    >>> protocol({"settings": systems.PAPER._replace(epochs=1)._asdict()})
    "preset paper, but epochs 1: not the paper's protocol"
    """
    settings = systems.Settings(**result["settings"])
    changed = ", ".join(f"{name} {value}" for name, value in systems.changed(settings).items())
    text = f"preset {settings.preset}" + (f", but {changed}" if changed else "")
    return text if settings.preset == "paper" and not changed else f"{text}: not the paper's protocol"


# ------------------------------------------------------------------------------------------------------- layout


def columns(table: Iterable[tuple]) -> list[str]:
    """Rows of text as aligned lines: the first column to the left, the rest to the right.

    >>> print("\\n".join(columns([("row", "OA %"), ("EB-CNN", "79.29")])))
    row      OA %
    EB-CNN  79.29
    """
    return ["  ".join(cells).rstrip() for cells in _aligned(table)]


def markdown(table: Iterable[tuple]) -> list[str]:
    """Rows of text as a Markdown table that is aligned to be read as text too.

    >>> print("\\n".join(markdown([("row", "OA"), ("EB-CNN", "79.29")])))
    | row    |    OA |
    |:-------|------:|
    | EB-CNN | 79.29 |
    """
    head, *rows = _aligned(table)
    first, *rest = ("-" * (len(cell) + 1) for cell in head)
    rule = "|".join([f":{first}", *(f"{dashes}:" for dashes in rest)])
    head, *rows = (f"| {' | '.join(cells)} |" for cells in [head, *rows])
    return [head, f"|{rule}|", *rows]


def _aligned(table):
    table = list(table)
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return [
        [row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))]
        for row in table
    ]

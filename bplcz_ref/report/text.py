"""Tables of what training gave, as text: the paper's numbers beside ours.

Whatever comes from simulated data says so. Refuses to draw: Figs. 2 and 3 and the curves are figures.py's.
"""

from bplcz_ref import systems


def ablation(results, runs):
    """The rows of Table III as text: the paper's figures beside those of `results` (metrics.json of each run).

    Below it, for rows with band group prompting: where L_con stands above its floor, and the mean entry of S
    over positive and negative pairs, in the last epoch.
    """
    simulated = any(result["data_simulated"] for result in results)
    ours = "ours, SIMULATED data" if simulated else "ours"
    table = [
        ("", "paper", "", ours, "", "", ""),
        ("row", "OA %", "kappa %", "OA %", "kappa %", "training", "parameters"),
    ]
    for result in results:
        system = systems.SYSTEMS[result["system"]]
        figures = [f"{value:.2f}" for value in system.figures]
        own = [spread([result[name]]) for name in ("overall_accuracy", "kappa")]
        time = f"{result['training_seconds']:.0f} s"
        table.append((system.label, *figures, *own, time, f"{result['parameters']:,}"))
    lines = [title(results, simulated), "", *columns(table)]
    prompted = [r for r in results if r["L_con_floor"] is not None]
    if prompted:
        table = [("last epoch", "L_con", "floor", "above it", "mean S, positive", "mean S, negative")]
        for result in prompted:
            row, floor = result["last_epoch"], result["L_con_floor"]
            numbers = (row["L_con"], floor, row["L_con"] - floor, row["S_positive"], row["S_negative"])
            shown = ("-" if number is None else f"{number:.4f}" for number in numbers)
            table.append((systems.SYSTEMS[result["system"]].label, *shown))
        lines += ["", *columns(table)]
    lines += ["", "Run folders:", *(f"  {run}" for run in runs)]
    return "\n".join(lines)


def tables(rows, footer):
    """Tables II and III as Markdown: the paper's figures beside ours, mean and deviation over seeds.

    `rows` is {system: metrics of each seed}, `footer` lines to stand below.
    """
    text = []
    for title, names in (("Table II", systems.TABLE_II), ("Table III", systems.TABLE_III)):
        chosen = [name for name in names if name in rows]
        if not chosen:
            continue
        simulated = any(result["data_simulated"] for name in chosen for result in rows[name])
        ours = "ours (SIMULATED)" if simulated else "ours"
        table = [
            ("system", "paper OA", "paper kappa", f"{ours} OA", f"{ours} kappa", "seeds", "parameters", "s/epoch")
        ]
        for name in chosen:
            system, results = systems.SYSTEMS[name], rows[name]
            figures = [f"{value:.2f}" for value in system.figures]
            own = [spread([r[key] for r in results]) for key in ("overall_accuracy", "kappa")]
            epoch = sum(r["training_seconds"] / r["last_epoch"]["epoch"] for r in results) / len(results)
            counts = (str(len(results)), f"{results[0]['parameters']:,}", f"{epoch:.1f}")
            table.append((system.label, *figures, *own, *counts))
        text += [f"## {title}", "", *markdown(table), ""]
    return "\n".join([*text, *footer])


def tables_csv(rows):
    """Every run as a line of CSV: system, seed number, the paper's figures and ours."""
    keys = ("overall_accuracy", "average_accuracy", "kappa", "test_samples", "parameters", "training_seconds")
    lines = [",".join(["system", "seed", "paper_overall_accuracy", "paper_kappa", *keys, "data_simulated"])]
    for name, results in rows.items():
        figures = [f"{value / 100:.4f}" for value in systems.SYSTEMS[name].figures]
        for result in results:
            values = [str(result[key]) for key in keys]
            lines.append(
                ",".join(
                    [
                        name,
                        str(result["settings"]["seed"]),
                        *figures,
                        *values,
                        str(result["data_simulated"]).lower(),
                    ]
                )
            )
    return "\n".join(lines) + "\n"


def spread(fractions):
    """Mean and standard deviation over seeds (divided by n - 1) in percent, or the one value there is.

    >>> spread([0.80, 0.82]), spread([0.80]), spread([0.80, None])
    ('81.00 ± 1.41', '80.00', 'undefined')
    """
    if None in fractions:  # kappa of one class alone
        return "undefined"
    values = [100 * fraction for fraction in fractions]
    mean = sum(values) / len(values)
    if len(values) == 1:
        return f"{mean:.2f}"
    return f"{mean:.2f} ± {(sum((v - mean) ** 2 for v in values) / (len(values) - 1)) ** 0.5:.2f}"


def markdown(table):
    """Rows of text as a Markdown table that is aligned to be read as text too.

    >>> print("\\n".join(markdown([("row", "OA"), ("EB-CNN", "79.29")])))
    | row    |    OA |
    |:-------|------:|
    | EB-CNN | 79.29 |
    """
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]

    def line(row):
        cells = [row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))]
        return f"| {' | '.join(cells)} |"

    rule = "|".join([":" + "-" * (widths[0] + 1), *("-" * (w + 1) + ":" for w in widths[1:])])
    return [line(table[0]), f"|{rule}|", *map(line, table[1:])]


def title(results, simulated):
    """What the figures come from, in a few sentences."""
    lines = [f"Table III, {protocol(results[0])}, {results[0]['test_samples']:,} test samples."]
    if simulated:
        lines.append(
            "SIMULATED data: these figures say nothing about So2Sat, only that the method runs and learns."
        )
    return "\n".join([*lines, OURS])


OURS = "EB-CNN's layers and 14 of the 17 descriptions are our reading of the paper (docs/readings.md)."


def protocol(result):
    """The preset of a result, and by how much it is not the paper's protocol.

    >>> protocol({"settings": systems.PAPER._replace(epochs=1)._asdict()})
    "preset paper, but epochs 1: not the paper's protocol"
    """
    settings = systems.Settings(**result["settings"])
    changed = "".join(f", {name} {value}" for name, value in systems.changed(settings).items())
    text = f"preset {settings.preset}" + (f", but{changed[1:]}" if changed else "")
    return text if settings.preset == "paper" and not changed else f"{text}: not the paper's protocol"


def columns(table):
    """Rows of text as aligned lines: the first column to the left, the rest to the right.

    >>> print("\\n".join(columns([("row", "OA %"), ("EB-CNN", "79.29")])))
    row      OA %
    EB-CNN  79.29
    """
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return [
        "  ".join(
            [row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))]
        ).rstrip()
        for row in table
    ]

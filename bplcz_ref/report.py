"""What a person looks at after training: tables, the confusion matrix (Fig. 2), t-SNE (Fig. 3), curves.

Tables are text and need nothing. Figures need matplotlib, t-SNE scikit-learn too: `pip install bplcz-ref[report]`;
where they are missing, that line is said and the rest goes on. The paper's figures stand beside ours, and
whatever comes from simulated data says so.
"""

from bplcz_ref import paper, systems


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
        own = [f"{100 * result[name]:.2f}" for name in ("overall_accuracy", "kappa")]
        time = f"{result['training_seconds']:.0f} s"
        table.append((system.label, *figures, *own, time, f"{result['parameters']:,}"))
    lines = [title(results, simulated), "", *columns(table)]
    prompted = [r for r in results if r["L_con_floor"] is not None]
    if prompted:
        table = [("last epoch", "L_con", "floor", "above it", "mean S, positive", "mean S, negative")]
        for result in prompted:
            row, floor = result["last_epoch"], result["L_con_floor"]
            numbers = (row["L_con"], floor, row["L_con"] - floor, row["S_positive"], row["S_negative"])
            table.append((systems.SYSTEMS[result["system"]].label, *(f"{number:.4f}" for number in numbers)))
        lines += ["", *columns(table)]
    lines += ["", "Run folders:", *(f"  {run}" for run in runs)]
    return "\n".join(lines)


def title(results, simulated):
    """What the figures come from, in a sentence or two."""
    preset, tested = results[0]["preset"], results[0]["test_samples"]
    text = f"Table III, preset {preset}, {tested:,} test samples."
    if simulated:
        text += "\nSIMULATED data: these figures say nothing about So2Sat, only that the method runs and learns."
    elif preset != "paper":
        text += (
            f"\nA small preset: not the paper's protocol ({paper.EPOCHS} epochs, {paper.TRAIN_PER_CLASS} a class)."
        )
    return text


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

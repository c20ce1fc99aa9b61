"""Results of training as text: Tables II and III with the paper's numbers beside ours, and one result in detail.

Numbers from simulated data are marked so, and every table names its split: accuracies of a random split and of a
city split do not compare. Figures are figures.py's.
"""

from collections.abc import Iterable, Iterator

import numpy as np

from bplcz_ref import metrics, nn, paper, settings, systems

OURS = "EB-CNN's layers and 14 of the 17 descriptions are our reading of the paper (docs/readings.md)."
FLOOR = "floor: the least L_con that the labels of the epoch's batches permit (docs/mathematics.md)"
MEASURES = ("overall_accuracy", "average_accuracy", "macro_f1", "kappa")
CSV_KEYS = (*MEASURES, "test_samples", "parameters", "training_seconds")
LAG_STEPS = 100  # of a run; batch norm's running values then still hold their start or weights of long ago


def one_line(result: dict, kind: str) -> str:
    """A result, which has metrics.summary's entries, in one line; `kind` says which samples."""
    oa, average, f1, kappa = (percent([result[name]]) for name in MEASURES)
    return (
        f"OA {oa} %, average accuracy {average} %, macro-F1 {f1} %, kappa {kappa} % on {result['samples']} {kind}"
        " samples"
    )


def run_line(result: dict) -> str:
    """The result of a run, by its metrics.json, in one line that names the split."""
    return f"{one_line(result, 'SIMULATED' if result['data_simulated'] else 'test')}, {result['split']}"


def evaluation(C: np.ndarray) -> dict:  # (17, 17)
    """All figures of merit of a confusion matrix, as JSON: a summary, kappa's interval, and each class."""
    low, high = metrics.kappa_interval(C)
    classes = zip(paper.CLASSES, metrics.by_class(C), strict=True)
    return {
        **metrics.summary(C),
        "kappa_95_bootstrap": None if np.isnan(low) else [low, high],
        "classes": [{"class": name, "name": words, **found} for (name, words), found in classes],
    }


def class_table(found: dict) -> str:
    """The classes of an `evaluation`, and the interval of its kappa, as text.

    >>> for line in class_table(evaluation(np.diag([8] * 17))).splitlines()[:2]:
    ...     print(line)
    class  name                  support  precision %  recall %    F1 %
    1      compact high-rise           8       100.00    100.00  100.00
    """
    width = max(len(words) for _, words in paper.CLASSES)
    rows: list[tuple] = [("class", "name".ljust(width), "support", "precision %", "recall %", "F1 %")]
    for each in found["classes"]:
        shares = ("-" if each[key] is None else percent([each[key]]) for key in ("precision", "recall", "f1"))
        rows.append((each["class"], each["name"].ljust(width), str(each["support"]), *shares))
    lines = columns(rows)
    missed = [each["class"] for each in found["classes"] if each["support"] and each["recall"] == 0]
    if missed:
        lines.append(f"No sample of class {', '.join(missed)} was found.")
    if found["kappa_95_bootstrap"] is not None:
        low, high = (100 * value for value in found["kappa_95_bootstrap"])
        lines.append(f"kappa: {low:.2f} to {high:.2f} % in 95 % of bootstrap samples of these rows.")
    return "\n".join(lines)


def ablation(results: list[dict], folders: list) -> str:
    """The rows of Table III as text, from metrics.json of each run: the paper's numbers beside ours.

    Below it, for rows with band group prompting: how far L_con is above the floor of its batches, and the mean
    entry of S over positive and negative pairs, in the last epoch.
    """
    simulated = any(result["data_simulated"] for result in results)
    ours = "ours, SIMULATED data" if simulated else "ours"
    table: list[tuple] = [
        ("", "paper", "(random)", ours, "", "", "", ""),
        ("row", "OA %", "kappa %", "OA %", "kappa %", "macro-F1 %", "training", "parameters"),
    ]
    for result in results:
        label = systems.SYSTEMS[result["system"]].label
        own = [percent([result[name]]) for name in ("overall_accuracy", "kappa", "macro_f1")]
        time = f"{result['training_seconds']:.0f} s"
        table.append((label, *published(result["system"]), *own, time, f"{result['parameters']:,}"))
    first = results[0]
    lines = [f"Table III, {protocol(first)}, {first['test_samples']:,} test samples, {first['split']}."]
    if simulated:
        lines.append(
            "SIMULATED data: these figures say nothing about So2Sat, only that the method runs and learns."
        )
    lines += [OURS, "", *columns(table)]
    losses = _losses((systems.SYSTEMS[result["system"]].label, [result]) for result in results)
    lines += ["", *columns(losses), FLOOR] if losses else []
    lines += ["", lag] if (lag := lagging(results)) else []
    return "\n".join([*lines, "", "Run folders:", *(f"  {folder}" for folder in folders)])


def _losses(rows):  # of (label, results of each seed)
    """A table of L_con and its floor in the last epoch, means over seeds; [] if no row has L_con."""
    table = [("last epoch", "L_con", "floor", "above it", "mean S, positive", "mean S, negative")]
    for label, of_seeds in rows:
        last = [result["last_epoch"] for result in of_seeds]
        if last[0]["L_con"] is not None:
            names = ("L_con", "L_con_floor", "S_positive", "S_negative")
            L_con, floor, *S = (_mean([row[name] for row in last]) for name in names)
            numbers = (L_con, floor, None if floor is None else L_con - floor, *S)
            table.append((label, *("-" if number is None else f"{number:.4f}" for number in numbers)))
    return table if len(table) > 1 else []


def _mean(values):
    return None if None in values else sum(values) / len(values)


def lagging(results: list[dict]) -> str:
    """A sentence if runs are so short that batch norm's running statistics lag, or nothing.

    >>> lagging([{"settings": {"epochs": 1, "batch": 32}, "training_samples": 1020}])[:51]
    'Note: runs of 32 steps are so short that batch norm'
    """
    steps = min(r["settings"]["epochs"] * -(-r["training_samples"] // r["settings"]["batch"]) for r in results)
    if steps >= LAG_STEPS:
        return ""
    return (
        f"Note: runs of {steps} steps are so short that batch norm's running statistics lag behind the weights"
        f" ({100 * 0.9**steps:.0f} % of\ntheir start is left, the rest is of earlier weights): accuracies in"
        " evaluation mode may be far below those in training."
    )


def tables_markdown(results: dict[str, list[dict]], paper_seconds: float) -> str:
    """Tables II and III from {row: metrics of each seed}: mean and deviation over seeds beside the paper's.

    paper_seconds: how long one seed of these systems would take here by the paper's protocol.
    """
    lines = []
    own = [name for name, system in systems.SYSTEMS.items() if system.published is None]
    for title, names in (
        ("Table II", systems.TABLE_II),
        ("Table III", systems.TABLE_III),
        ("Not in the paper", own),
    ):
        chosen = {name: results[name] for name in names if name in results}
        if chosen:
            lines += [f"## {title}", "", *markdown(_rows(chosen)), ""]
    pairs = [
        (without, name)
        for name in results
        for without in results
        if systems.SYSTEMS[name].prompting
        and not systems.SYSTEMS[without].prompting
        and systems.SYSTEMS[name].images == systems.SYSTEMS[without].images
    ]
    labels = {name: systems.SYSTEMS[name].label for name in results}
    return "\n".join([*lines, *_details(results, labels, pairs), *_footer(results, paper_seconds)])


def variants_markdown(results: dict[str, list[dict]]) -> str:
    """A table of variants from {row: metrics of each seed}; below it, each less the first one, seed by seed."""
    simulated = any(result["data_simulated"] for of_seeds in results.values() for result in of_seeds)
    own = " (SIMULATED)" if simulated else ""
    table: list[tuple] = [("row", f"OA{own}", f"kappa{own}", f"macro-F1{own}", "seeds", "parameters", "s/epoch")]
    for row, of_seeds in results.items():
        found = [
            percent([result[key] for result in of_seeds]) for key in ("overall_accuracy", "kappa", "macro_f1")
        ]
        table.append((row, *found, *_counts(of_seeds)))
    first, *others = results
    every = [result for of_seeds in results.values() for result in of_seeds]
    lines = [*markdown(table), "", *_details(results, {row: row for row in results}, [(first, r) for r in others])]
    if simulated:
        lines.append("From SIMULATED data: nothing here is about So2Sat.\n")
    lines.append(f"The first row: {protocol(every[0])}, {every[0]['split']}.")
    return "\n".join(lines)


def _details(results, labels, pairs) -> Iterator[str]:
    """What stands below a table: paired differences, L_con and its floor, whether batch norm lags."""
    found = [(labels[a], labels[b], paired(results[a], results[b])) for a, b in pairs]
    if found:
        head = ("difference, seed by seed", "OA, points", "95 % interval", "kappa, points", "95 % interval")
        yield from markdown([head, *((f"{b} less {a}", *numbers) for a, b, numbers in found)])
        yield ""
        yield "An interval (Student's t over seeds) that holds 0 does not tell the two apart."
        yield ""
    losses = _losses((labels[row], of_seeds) for row, of_seeds in results.items())
    if losses:
        yield from markdown(losses)
        yield ""
        yield FLOOR
        yield ""
    lag = lagging([result for of_seeds in results.values() for result in of_seeds])
    if lag:
        yield f"{lag}\n"


def paired(first: list[dict], second: list[dict]) -> tuple[str, str, str, str]:
    """OA and kappa of `second` less `first` over the seeds that both have: mean and deviation, 95 % interval.

    Formula: d +- t(0.975, n - 1) s / sqrt(n), of the n differences d_i with mean d and deviation s.

    >>> run = lambda seed, oa: {"settings": {"seed": seed}, "overall_accuracy": oa, "kappa": oa}
    >>> paired([run(47, 0.5), run(48, 0.6), run(49, 0.7)], [run(48, 0.61), run(47, 0.53), run(49, 0.72)])[:2]
    ('+2.00 ± 1.00', '-0.48 to +4.48')
    """
    cells: list[str] = []
    for key in ("overall_accuracy", "kappa"):
        old = {result["settings"]["seed"]: result[key] for result in first}
        pairs = [(old[r["settings"]["seed"]], r[key]) for r in second if r["settings"]["seed"] in old]
        if not pairs or any(None in pair for pair in pairs):
            cells += ["undefined", "-"]
            continue
        d = 100 * np.array([b - a for a, b in pairs])
        if len(d) == 1:
            cells += [f"{d[0]:+.2f}", "one seed: none"]
            continue
        from scipy import stats  # here, since it takes most of a second

        half = stats.t.ppf(0.975, len(d) - 1) * d.std(ddof=1) / len(d) ** 0.5
        cells += [f"{d.mean():+.2f} ± {d.std(ddof=1):.2f}", f"{d.mean() - half:+.2f} to {d.mean() + half:+.2f}"]
    return tuple(cells)  # type: ignore[return-value]


def _rows(results):
    simulated = any(result["data_simulated"] for of_seeds in results.values() for result in of_seeds)
    ours = "ours (SIMULATED)" if simulated else "ours"
    head = ("system", "paper OA (random)", "paper kappa", f"{ours} OA", f"{ours} kappa", f"{ours} macro-F1")
    yield (*head, "seeds", "parameters", "s/epoch")
    for name, of_seeds in results.items():
        own = [percent([result[key] for result in of_seeds]) for key in ("overall_accuracy", "kappa", "macro_f1")]
        yield (systems.SYSTEMS[name].label, *published(name), *own, *_counts(of_seeds))


def _counts(of_seeds):
    epoch = sum(r["training_seconds"] / r["last_epoch"]["epoch"] for r in of_seeds) / len(of_seeds)
    return str(len(of_seeds)), f"{of_seeds[0]['parameters']:,}", f"{epoch:.1f}"


def _footer(results, paper_seconds):
    """What the numbers are, and what it takes to reproduce the paper's: paragraphs of Markdown."""
    every = [result for of_seeds in results.values() for result in of_seeds]
    if any(result["data_simulated"] for result in every):
        yield "Ours is from SIMULATED data: it says that the systems run and learn, nothing about So2Sat.\n"
    yield f"Ours: {protocol(every[0])}, {every[0]['split']}. The paper's is a random split of training.h5.\n"
    yield f"{OURS}\n"
    days = paper_seconds / 86400
    yield "The accuracies of Tables II and III can be reproduced only from the real 52 GB file, So2Sat LCZ42's"
    yield f"training.h5, in about {days:.1f} days here ({nn.thread_count()} cores; by the time of one step):\n"
    command = "python -m bplcz_ref tables --data training.h5 --preset paper --systems"
    yield f"    {command} {' '.join(results)} --seeds 1 --out runs/tables"


def tables_csv(results: dict[str, list[dict]]) -> str:
    """CSV with a line per run: its row, system and seed, the paper's numbers and ours, as fractions, the split."""
    head = ["row", "system", "seed", "paper_overall_accuracy", "paper_kappa", *CSV_KEYS, "split", "data_simulated"]
    lines = [head]
    for row, of_seeds in results.items():
        for result in of_seeds:
            figures = systems.SYSTEMS[result["system"]].published if row == result["system"] else None
            paper_ = [f"{value / 100:.4f}" for value in figures or ()] or ["", ""]  # a variant is not in the paper
            ours = [str(result[key]) for key in CSV_KEYS]
            words = [f'"{words}"' for words in (row, result["split"])]
            own = [result["system"], str(result["settings"]["seed"]), *paper_, *ours]
            lines.append([words[0], *own, words[1], str(result["data_simulated"]).lower()])
    return "".join(",".join(line) + "\n" for line in lines)


def settings_table() -> list[str]:
    """Lines of a table: each setting, its value in each preset, its meaning, and its values where it has names.

    >>> print("\\n".join(line[:63] for line in settings_table()[12:15]))
    beta                  2         2  weight of L_con in L, Eq. (1
    contrastive       paper     paper  in the place of Eqs. (5) to
    epochs              200         4  passes over the training par
    """
    rows = [("setting", *settings.PRESETS)]
    meanings = ["meaning"]
    for name, row in settings.TABLE.items():
        rows.append((name, *(settings.said(name, preset) for preset in settings.PRESETS.values())))
        known = settings.words(name)
        meanings.append(row.meaning + (f" [{', '.join(known)}]" if known else ""))
    return [f"{line}  {meaning}" for line, meaning in zip(columns(rows), meanings, strict=True)]


# -------------------------------------------------------------------------------------------------------- cells


def published(system: str) -> list[str]:
    """The paper's OA and kappa of a system, in percent; for one of a user's own there are none.

    >>> published("ebcnn")
    ['79.29', '77.39']
    """
    return [f"{value:.2f}" for value in systems.SYSTEMS[system].published or ()] or ["-", "-"]


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

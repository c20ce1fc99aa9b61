"""Results of training as text: Tables II and III with the paper's numbers beside ours, and one result in detail.

Numbers from simulated data are marked so, and every table names its split: accuracies of a random split and of a
city split do not compare. A page is blocks with an empty line between them; `columns` and `markdown` lay out the
same rows for a terminal and for Markdown. Pictures are figures.py's.
"""

from collections.abc import Iterable, Iterator

import numpy as np

from bplcz_ref import metrics, nn, paper, program, settings, systems

OURS = "EB-CNN's layers and 14 of the 17 descriptions are our reading of the paper (docs/readings.md)."
BGP = (
    "BGP: band group prompting, L_con beside L_cls. MSM: the multivariate supervised matrix W, 1 for\n"
    "two samples of one class and 0 for others; without MSM, W is the identity matrix."
)
RANDOM = "(random): the paper drew training and test rows at random, from the same cities."
FLOOR = (
    "floor: the least L_con that the labels of the epoch's batches permit (docs/mathematics.md)\n"
    "mean S, positive or negative: the mean similarity S, Eq. (3), over pairs of one class or of two classes"
)
MEASURES = dict(overall_accuracy="OA", average_accuracy="average accuracy", macro_f1="macro-F1", kappa="kappa")
TABLED = ("overall_accuracy", "kappa", "macro_f1")  # the measures in a table or a title
CSV_KEYS = (*MEASURES, "test_samples", "parameters", "training_seconds")
LAG_STEPS = 100  # of a run; batch norm's running values then still hold their start or weights of long ago

# ------------------------------------------------------------------------------------------------------ one result


def measures(result: dict, names: Iterable[str] = MEASURES) -> str:
    """Measures of a result, which has metrics.summary's entries.

    >>> measures({"overall_accuracy": 0.5, "kappa": None}, ["overall_accuracy", "kappa"])
    'OA 50.00 %, kappa undefined %'
    """
    return ", ".join(f"{MEASURES[name]} {percent([result[name]])} %" for name in names)


def one_line(result: dict, kind: str) -> str:
    """A result in one line; `kind` says which samples, such as "test samples"."""
    return f"{measures(result)} on {result['samples']} {kind}"


def run_line(result: dict) -> str:
    """The result of a run, by its metrics.json, in one line that names the split."""
    kind = "SIMULATED samples" if result["data_simulated"] else "test samples"
    return f"{one_line(result, kind)}, {result['split']}"


def evaluation(C: np.ndarray) -> dict:  # (17, 17)
    """All measures of a confusion matrix, as JSON: a summary, kappa's interval, and each class."""
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
    rows: list[tuple] = [("class", "name", "support", "precision %", "recall %", "F1 %")]
    for each in found["classes"]:
        shares = (percent([each[key]], undefined="-") for key in ("precision", "recall", "f1"))
        rows.append((each["class"], each["name"], str(each["support"]), *shares))
    lines = columns(rows, left=(0, 1))
    if missed := [each for each in found["classes"] if each["support"] and each["recall"] == 0]:
        none = [f"{n} sample{'s' * (n > 1)} of class {each['class']}" for each in missed if (n := each["support"])]
        lines.append(f"recall 0: none of the {', '.join(none)} was recognised")
    if found["kappa_95_bootstrap"] is not None:
        low, high = (100 * value for value in found["kappa_95_bootstrap"])
        lines.append(f"kappa: 95 % bootstrap interval {low:.2f} to {high:.2f} %")
    return "\n".join(lines)


# -------------------------------------------------------------------------------------- pages from several results


def ablation(results: list[dict], folders: list) -> str:
    """The rows of Table III as text, from metrics.json of each run: the paper's numbers beside ours.

    Below it, for rows with band group prompting: how far L_con is above the floor of its batches, and the mean
    entry of S over positive and negative pairs, in the last epoch.
    """
    first, simulated = results[0], _simulated(results)
    title = [f"Table III, {protocol(first)}, {first['test_samples']:,} test samples, {first['split']}."]
    if simulated:
        title += ["SIMULATED data: these figures say nothing about So2Sat, only that the method runs and learns."]
    own = "ours, SIMULATED data" if simulated else "ours"
    table = [
        ("", "paper", "(random)", own, "", "", "", ""),
        ("row", "OA %", "kappa %", "OA %", "kappa %", "macro-F1 %", "training", "parameters"),
    ]
    for result in results:
        time = f"{result['training_seconds']:.0f} s"
        table.append((*_stated(result), *_ours([result]), time, f"{result['parameters']:,}"))
    blocks = ["\n".join([*title, OURS]), "\n".join([*columns(table), RANDOM, BGP])]
    if losses := _losses((_stated(result)[0], [result]) for result in results):
        blocks.append("\n".join([*columns(losses), FLOOR]))
    blocks += [lagging(results), "\n  ".join(["Run folders:", *map(str, folders)])]
    return "\n\n".join(filter(None, blocks))


def tables_markdown(results: dict[str, list[dict]], paper_seconds: float) -> str:
    """Tables II and III from {row: metrics of each seed}: mean and deviation over seeds beside the paper's.

    paper_seconds: how long one seed of these systems would take here by the paper's protocol.
    """
    every, found = [result for of_seeds in results.values() for result in of_seeds], systems.SYSTEMS
    tables = {"Table II": systems.TABLE_II, "Table III": systems.TABLE_III}
    tables["Not in the paper"] = tuple(name for name in found if found[name].stated is None)
    blocks, ours = [], "ours (SIMULATED) {}" if _simulated(every) else "ours {}"
    for title, names in tables.items():
        if rows := [(_stated(results[name][0]), results[name]) for name in names if name in results]:
            blocks += [f"## {title}", _table(("system", "paper OA (random)", "paper kappa"), ours, rows)]
    prompted = [name for name in results if found[name].prompting]
    plain = {found[name].images: name for name in results if not found[name].prompting}
    pairs = [(plain[found[name].images], name) for name in prompted if found[name].images in plain]
    blocks += _details(results, {name: _stated(results[name][0])[0] for name in results}, pairs)
    if _simulated(every):
        blocks.append("Ours is from SIMULATED data: it says that the systems run and learn, nothing about So2Sat.")
    command = program("tables", "--data", "training.h5", "--preset", "paper", "--systems", *results)
    days = paper_seconds / 86400
    blocks += [
        f"Ours: {protocol(every[0])}, {every[0]['split']}. The paper's is a random split of training.h5.",
        OURS,
        *[BGP] * ("ebcnn-bgp" in results),
        "The accuracies of Tables II and III can be reproduced only from the real 52 GB file, So2Sat LCZ42's\n"
        f"training.h5, in about {days:.1f} days here ({nn.thread_count()} cores; by the time of one step):",
        f"    {command} --seeds 1 --out runs/tables",
    ]
    return "\n\n".join(blocks)


def variants_markdown(results: dict[str, list[dict]]) -> str:
    """A table of variants from {row: metrics of each seed}; below it, each less the first one, seed by seed."""
    every = [result for of_seeds in results.values() for result in of_seeds]
    own, (first, *others) = "{} (SIMULATED)" if _simulated(every) else "{}", results
    names = {row: row + systems.reduced(of_seeds[0]) for row, of_seeds in results.items()}
    blocks = [_table(("row",), own, [((names[row],), of_seeds) for row, of_seeds in results.items()])]
    blocks += _details(results, names, [(first, row) for row in others])
    if _simulated(every):
        blocks.append("From SIMULATED data: nothing here is about So2Sat.")
    return "\n\n".join([*blocks, f"The first row: {protocol(every[0])}, {every[0]['split']}."])


def tables_csv(results: dict[str, list[dict]]) -> str:
    """CSV with a line per run: its row, system and seed, the paper's numbers and ours, as fractions, the split."""
    head = ("row", "system", "seed", "paper_overall_accuracy", "paper_kappa", *CSV_KEYS, "split", "data_simulated")
    lines = [head]
    for row, of_seeds in results.items():
        for result in of_seeds:
            stated = systems.SYSTEMS[result["system"]].stated if row == result["system"] else None
            paper_ = [f"{value / 100:.4f}" for value in stated or ()] or ["", ""]  # a variant is not in the paper
            cells = [f'"{row}{systems.reduced(result)}"', result["system"], result["settings"]["seed"], *paper_]
            cells += [*(result[key] for key in CSV_KEYS), f'"{result["split"]}"']
            lines.append((*map(str, cells), str(result["data_simulated"]).lower()))
    return "".join(",".join(line) + "\n" for line in lines)


def settings_table() -> list[str]:
    """Lines of a table: each setting, its value in each preset, its meaning, and its values where it has names.

    >>> print("\\n".join(line[:63] for line in settings_table()[12:15]))
    beta                  2         2  weight of L_con in L, Eq. (1
    contrastive       paper     paper  in the place of Eqs. (5) to
    epochs              200         4  passes over the training par
    """
    rows = [("setting", *settings.PRESETS, "meaning")]
    for name, row in settings.TABLE.items():
        known = f" [{', '.join(settings.words(name))}]" if settings.words(name) else ""
        values = (settings.said(name, preset) for preset in settings.PRESETS.values())
        rows.append((name, *values, row.meaning + known))
    return columns(rows, left=(0, 3))


# ----------------------------------------------------------------------------------------------- blocks of a page


def _simulated(results):
    return any(result["data_simulated"] for result in results)


def _table(head, ours, rows):
    """Markdown of rows (first cells, metrics of each seed); the pattern `ours` heads our measures."""
    table = [(*head, *(ours.format(MEASURES[name]) for name in TABLED), "seeds", "parameters", "s/epoch")]
    for cells, of_seeds in rows:
        epoch = np.mean([result["training_seconds"] / result["last_epoch"]["epoch"] for result in of_seeds])
        sizes = (str(len(of_seeds)), f"{of_seeds[0]['parameters']:,}", f"{epoch:.1f}")
        table.append((*cells, *_ours(of_seeds), *sizes))
    return markdown(table)


def _details(results, labels, pairs) -> Iterator[str]:
    """What stands below a table: paired differences, L_con and its floor, whether batch norm lags."""
    differences = [(f"{labels[b]} less {labels[a]}", *paired(results[a], results[b])) for a, b in pairs]
    if differences:
        head = ("difference, seed by seed", "OA, points", "95 % interval", "kappa, points", "95 % interval")
        yield markdown([head, *differences])
        yield "An interval (Student's t over seeds) that holds 0 does not tell the two apart."
    if losses := _losses((labels[row], of_seeds) for row, of_seeds in results.items()):
        yield markdown(losses)
        yield FLOOR
    if lag := lagging([result for of_seeds in results.values() for result in of_seeds]):
        yield lag


def _losses(rows):  # of (label, results of each seed)
    """A table of L_con and its floor in the last epoch, means over seeds; [] if no row has L_con."""
    table = [("last epoch", "L_con", "floor", "above it", "mean S, positive", "mean S, negative")]
    for label, of_seeds in rows:
        last = [result["last_epoch"] for result in of_seeds]
        if last[0]["L_con"] is not None:
            names = ("L_con", "L_con_floor", "S_positive", "S_negative")
            L_con, floor, *S = (np.mean(floats(last, name)) for name in names)  # a loss may have no floor: nan
            cells = (L_con, floor, L_con - floor, *S)
            table.append((label, *("-" if np.isnan(cell) else f"{cell:.4f}" for cell in cells)))
    return table if len(table) > 1 else []


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


def protocol(result: dict) -> str:
    """The preset of a result, and how it differs from the paper's protocol.

    >>> protocol({"settings": settings.PAPER._replace(epochs=1)._asdict()})
    "preset paper, but epochs 1: not the paper's protocol"
    """
    own = settings.Settings(**result["settings"])
    changed = ", ".join(f"{name} {value}" for name, value in settings.changed(own).items())
    text = f"preset {own.preset}" + (f", but {changed}" if changed else "")
    return text if own.preset == "paper" and not changed else f"{text}: not the paper's protocol"


# ----------------------------------------------------------------------------------------------- cells and layout


def paired(first: list[dict], second: list[dict]) -> tuple[str, ...]:
    """OA and kappa of `second` less `first` over the seeds that both have: mean and deviation, 95 % interval.

    Formula: d +- t(0.975, n - 1) s / sqrt(n), of the n differences d_i with mean d and deviation s.

    >>> run = lambda seed, oa: {"settings": {"seed": seed}, "overall_accuracy": oa, "kappa": oa}
    >>> paired([run(47, 0.5), run(48, 0.6), run(49, 0.7)], [run(48, 0.61), run(47, 0.53), run(49, 0.72)])[:2]
    ('+2.00 ± 1.00', '-0.48 to +4.48')
    """
    old = {result["settings"]["seed"]: result for result in first}
    new = [result for result in second if result["settings"]["seed"] in old]
    same = [old[result["settings"]["seed"]] for result in new]
    cells: list[str] = []
    for key in ("overall_accuracy", "kappa"):
        d = 100 * (floats(new, key) - floats(same, key))
        if not len(d) or np.isnan(d).any():
            cells += ["undefined", "-"]
        elif len(d) == 1:
            cells += [f"{d[0]:+.2f}", "one seed: none"]
        else:
            from scipy import stats  # here, since it takes most of a second

            mean, s = d.mean(), d.std(ddof=1)
            half = stats.t.ppf(0.975, len(d) - 1) * s / len(d) ** 0.5
            cells += [f"{mean:+.2f} ± {s:.2f}", f"{mean - half:+.2f} to {mean + half:+.2f}"]
    return tuple(cells)


def percent(fractions: list[float | None], undefined: str = "undefined") -> str:
    """Mean and standard deviation over seeds (divided by n - 1) in percent, or the value of one seed.

    >>> percent([0.80, 0.82]), percent([0.80]), percent([0.80, None])
    ('81.00 ± 1.41', '80.00', 'undefined')
    """
    values = 100 * np.array(fractions, float)
    if np.isnan(values).any():  # kappa where all samples are of one class
        return undefined
    return f"{values.mean():.2f}" + (f" ± {values.std(ddof=1):.2f}" if len(values) > 1 else "")


def _ours(of_seeds):
    return [percent([result[name] for result in of_seeds]) for name in TABLED]


def _stated(result):
    """The label of a result's system, and the paper's OA and kappa in percent; there are none for a user's own."""
    label, stated = systems.SYSTEMS[result["system"]][:2]
    return label + systems.reduced(result), *([f"{value:.2f}" for value in stated or ()] or ["-", "-"])


def floats(results: list[dict], name: str) -> np.ndarray:
    """An entry of each result; nan for None."""
    return np.array([result[name] for result in results], float)


def columns(table: Iterable[tuple], left: Iterable[int] = (0,)) -> list[str]:
    """Rows of text as aligned lines: the columns `left` to the left, the rest to the right.

    >>> print("\\n".join(columns([("row", "OA %"), ("EB-CNN", "79.29")])))
    row      OA %
    EB-CNN  79.29
    """
    return ["  ".join(cells).rstrip() for cells in _aligned(table, left)]


def markdown(table: Iterable[tuple]) -> str:
    """Rows of text as a Markdown table that is aligned to be read as text too.

    >>> print(markdown([("row", "OA"), ("EB-CNN", "79.29")]))
    | row    |    OA |
    |:-------|------:|
    | EB-CNN | 79.29 |
    """
    table = list(_aligned(table))
    first, *rest = ("-" * (len(cell) + 1) for cell in table[0])
    head, *rows = (f"| {' | '.join(cells)} |" for cells in table)
    return "\n".join([head, f"|:{first}|{'|'.join(f'{dashes}:' for dashes in rest)}|", *rows])


def _aligned(table, left=(0,)):
    aligned = []
    for k, column in enumerate(zip(*table, strict=True)):
        side, width = str.ljust if k in left else str.rjust, max(map(len, column))
        aligned.append([side(cell, width) for cell in column])
    return zip(*aligned, strict=True)

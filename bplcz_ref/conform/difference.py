"""`conform diff`: where do two runs of one model on one batch part? Ours is a trace, theirs a part of its names.

Every name that both have is compared within the tolerance that the trace has measured (tracing.py). A name is guilty if
it differs while all that it is made of agrees, or if its layer, computed again from their own input, gives something
else; what differs only because of something before it is blocked. As names
come in the order of computation, the first guilty one is where the two part: in value, then in gradient, then after
the step. recognise.py says what the difference looks like.
"""

import difflib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bplcz_ref import archives, schema
from bplcz_ref.conform import layers, recognise
from bplcz_ref.conform.rounding import size
from bplcz_ref.conform.tracing import FORMAT, META, PRECISIONS

SYMBOLS = ("I_i.", "T_i.", "S_i.", "S_hat_i.", "I", "c_hat", "S", "S_hat", "W")  # their layout is the paper's
SHOWN = 3  # guilty names in the report; further ones are counted


class Finding(NamedTuple):
    """A name that differs although all that it is made of agrees."""

    name: str
    error: float  # root mean square of theirs - ours, as a part of that of ours
    allowed: float  # what rounding may make of it, likewise
    looks: str  # what the difference looks like; "" if like nothing known
    made_of: tuple  # the nearest names before it that were compared; they agree
    by: str  # the layer, or the functions on the way from there
    itself: bool = False  # whether it was found by computing a layer again from their own input


class Difference(NamedTuple):
    """What was found; str() is the report."""

    dtype: str
    guilty: list[Finding]
    blocked: list[str]
    agree: list[str]
    undecided: list[str]  # they agree, but rounding alone may change them by as much as they are
    layouts: dict[str, str]  # what had to be rearranged, and in how many names: {words: first name}
    unknown: dict[str, str]  # names of theirs that are not in the trace, with the nearest one that is
    missing: int  # names of the trace that theirs has not

    @property
    def ok(self) -> bool:
        """Whether something was compared and nothing differs."""
        return bool(self.agree) and not self.guilty

    @property
    def exit_code(self) -> int:
        """0 all that was compared agrees, 1 something differs, 2 nothing could be compared."""
        return 1 if self.guilty else 0 if self.agree else 2

    def __str__(self) -> str:
        return text(self)


def diff(ours: dict, theirs: dict, *, dtype: str | None = None) -> Difference:
    """Compare the arrays of another program with a trace.

    ours    what `trace` returned, or an .npz that `conform trace` wrote, read with archives.read_npz
    theirs  {name: array} under the same names, as many as there are
    dtype   "float32" or "float64", the precision of theirs; None: float64 if all their arrays are, else float32
    Layer outputs may be channels-first; the report says so. Errors: ValueError for what is no trace or no number.

    >>> from bplcz_ref import nn
    >>> from bplcz_ref.conform.tracing import trace
    >>> from bplcz_ref.model import classification
    >>> def apply(params, state, x, *, train, rng=None):
    ...     return nn.linear(nn.spatial_mean(x), **params["fc"]), state
    >>> model = classification(nn.Network(lambda rng, dtype: ({"fc": nn.linear_init(rng, 18, 17, dtype)}, {}), apply))
    >>> params, state = model.init(np.random.default_rng(0), "float64")
    >>> ours = trace(model, params, state, (np.ones((2, 4, 4, 18)), np.array([3, 5])), steps=1)
    >>> theirs = {"c_hat": ours["fc"], "L": ours["L_cls"], "grad.c_hat": 2 * ours["grad.fc"]}  # names of one array
    >>> print(diff(ours, theirs))
    DIVERGES in gradient: grad.c_hat is the first of 3 compared names that differs (float32)
    GUILTY   grad.c_hat: this is 2 times ours; error 1 of ours, rounding allows 1.2e-06
             made by the backward pass of c_hat, from L, c_hat, which agree
    2 agree, 0 differ as a consequence, 14 of ours are not in theirs
    """
    meta = read_meta(ours)
    names, graph = meta["names"], meta["graph"]
    floats = [
        np.asarray(a).dtype for name, a in theirs.items() if name != META and np.asarray(a).dtype.kind == "f"
    ]
    judged = [*meta["tolerance"]]
    if dtype is None:
        dtype = "float64" if "float64" in judged and all(d == np.float64 for d in floats) else "float32"
    if dtype not in judged:
        raise ValueError(f"this trace judges {' and '.join(judged)}; for {dtype} trace again with --dtype {dtype}")
    tolerance = {name: np.array(allowed) for name, allowed in meta["tolerance"][dtype].items()}
    mine = {name: stored(name, graph) for name in names}
    given, unknown = resolved(theirs, mine, ours)
    shown: dict[
        str, str
    ] = {}  # where theirs has only the second name of an array, it stands for the first, and is shown
    for name in [name for name in given if mine[name] not in given]:
        given.setdefault(mine[name], given.pop(name))
        shown.setdefault(mine[name], name)
    labels = np.asarray(ours["y"]) if "y" in ours else None
    comparison = {
        name: compare(name, np.asarray(ours[mine[name]]), np.asarray(a), tolerance.get(mine[name]), labels, graph)
        for name, a in given.items()
    }
    itself = dict(by_itself(given, mine, ours, comparison, meta, dtype))
    above = ancestors(names, graph, meta["steps"])
    found = Difference(dtype, [], [], [], [], {}, unknown, 0)
    differs: dict[str, bool] = {}  # whether a name does, or, where it was not compared, one of those before it
    for name in above:
        before = any(differs.get(n, False) for n in above[name])
        if name not in comparison:
            differs[name] = before
            continue
        this, alone, label = comparison[name], itself.get(name), shown.get(name, name)
        weights = [n for n in above[name] if n.startswith("step0.")]
        wrong_itself = alone is not None and not alone.agrees and not any(differs.get(n, False) for n in weights)
        differs[name] = wrong_itself or not this.agrees
        if this.layout:
            found.layouts.setdefault(this.layout, label)
        if not differs[name]:
            found.agree.append(label)
            found.undecided.extend([label] * this.undecided)
        elif before and not wrong_itself:
            found.blocked.append(label)
        else:
            made_of = [shown.get(n, n) for n in nearest(name, above, comparison)]
            known = alone if alone is not None and wrong_itself else this
            looks = recognise.looks(name, ours, known.ours, known.theirs, known.limit, known.layer, meta)
            by = graph.get(name, {}).get("by", "")
            found.guilty.append(
                Finding(label, known.error, known.allowed, looks, tuple(made_of), by, wrong_itself)
            )
    kept = {mine[name] for name in names if mine[name] in ours}
    return found._replace(missing=len(kept - {mine[name] for name in comparison}))


def by_itself(
    given: dict, mine: dict, ours: dict, comparison: dict, meta: dict, dtype: str
) -> Iterator[tuple[str, "Comparison"]]:
    """(name, Comparison) of what each layer gives from their own input, and of its parameters' gradients."""
    graph, theirs = meta["graph"], {mine[name]: array for name, array in given.items()}
    first = any(found.layout.startswith("channels first") for found in comparison.values())
    for name, way in graph.items():
        entry = f"{name}.input"
        x = given.get(entry, theirs.get(mine.get(entry)))
        if "call" not in way or name not in given or x is None:
            continue
        layer = layers.alone(name, x, given[name], ours, graph, first)
        if layer is None:
            continue
        right, limit = layers.output(layer, dtype)
        output = judged(right, layer.y, limit, layer=layer)
        yield name, output
        if not output.agrees:
            continue  # its gradients are those of another layer
        g = theirs.get(f"grad.{mine[name]}")
        for parameter, (slope, allowed) in ({} if g is None else layers.gradients(layer, g, dtype)).items():
            if f"grad.{parameter}" in given:
                array = np.asarray(given[f"grad.{parameter}"], np.float64)
                yield f"grad.{parameter}", judged(slope, array, allowed)


def read_meta(ours: dict) -> dict:
    """What the trace says about itself. Errors: ValueError if it is none."""
    rule = {
        "format": schema.whole(FORMAT, FORMAT),
        "dtype": schema.one_of(PRECISIONS),
        "names": [schema.TEXT],
        "steps": schema.whole(1),
    }
    if META not in ours or np.asarray(ours[META]).dtype != np.uint8:
        raise ValueError(f"the first file is no trace: it has no entry {META}; make one with `conform trace`")
    try:
        meta = json.loads(bytes(np.asarray(ours[META])).decode())
        schema.check({key: meta.get(key) for key in rule}, rule, META)
    except (ValueError, AttributeError, RecursionError) as error:
        raise ValueError(f"{META}: {error}; trace again with this version") from None
    return meta


def read(path: str | Path) -> dict:
    """The arrays of an .npz that anybody may have written."""
    return archives.read_npz(path)


# -------------------------------------------------------------------------------------------- names and their order


def stored(name: str, graph: dict) -> str:
    """The name under which the trace has an array."""
    head = "grad." * name.startswith("grad.")
    own = name.removeprefix(head)
    return head + graph.get(own, {}).get("same", own)


# Modules that call no layer of their own for what they give and take: PyTorch's MultiheadAttention uses the weights.
INSIDE = {".attn": ".attn.out_proj", ".attn.input": ".attn.in_proj.input"}


def resolved(theirs: dict, mine: dict, ours: dict) -> tuple[dict, dict]:
    """({our name: their array}, {their name that we do not have: the nearest that we have})."""
    found: dict[str, Any] = {}
    unknown: dict[str, str] = {}
    for name, array in theirs.items():
        own = name
        for module, layer in INSIDE.items():
            if name.endswith(module) and name.removesuffix(module) + layer in mine:
                own = name.removesuffix(module) + layer
        if own in mine and mine[own] in ours:
            if np.asarray(array).dtype.kind not in "biuf":
                raise ValueError(f"{name} is {np.asarray(array).dtype}; expected real numbers")
            found[own] = array
        elif own not in mine and name != META:
            near = difflib.get_close_matches(name, mine, 1, 0.5)
            unknown[name] = near[0] if near else ""
    return found, unknown


def ancestors(names: list, graph: dict, steps: int) -> dict[str, list]:
    """{name: the names that it is made of}, in the order of computation; "step1" stands for all that follows it."""
    value = lambda n: n if n in graph or n in ("x", "y") else f"step0.{n}"  # a parameter, as it was given
    same = lambda n: graph.get(n, {}).get("same", n)
    constants = {"L_i2t": "W", "L_t2i": "W", "L_con": "W", "L_cls": "y"}  # what carries no gradient
    above: dict[str, list] = {name: [] for name in names}
    for name, way in graph.items():
        entry = [f"{name}.input"] if f"{name}.input" in above else []
        above[name] = [value(n) for n in way["from"]] + entry + [n for n in [constants.get(name)] if n in above]
        for n in way["from"] if "same" not in way else ():
            if f"grad.{n}" in above:
                above[f"grad.{n}"] += [f"grad.{name}", name, *(value(m) for m in way["from"])]
    for name, way in graph.items():
        if "same" in way and f"grad.{name}" in above:  # what uses one of the two names uses the other
            above[f"grad.{name}"] += above[f"grad.{way['same']}"]
    for name in names:
        place, _, rest = name.partition(".")
        if place == "grad":
            above[name].append(same("L"))
        if not place.startswith("step") or place == "step0" or not place[4:].isdigit():
            continue
        k = int(place[4:])
        if rest.startswith("velocity."):
            own = rest.removeprefix("velocity.")
            above[name] = [f"grad.{own}", f"step0.{own}"] if k == 1 else [f"step{k - 1}.{rest}", f"after {k - 1}"]
        elif f"step{k}.velocity.{rest}" in above:
            above[name] = [f"step{k}.velocity.{rest}", f"step{k - 1}.{rest}"]
        else:  # running statistics
            entry = rest.rpartition(".")[0] + ".input"
            layer = [same(entry), entry, entry.removesuffix(".input")]
            above[name] = [f"step{k - 1}.{rest}", *(layer if k == 1 else [f"after {k - 1}"])]
    ordered: dict[str, list] = {}
    for name in names:
        place = name.partition(".")[0]
        if name.startswith("step") and place != "step0" and f"after {int(place[4:]) - 1}" not in ordered:
            ordered[f"after {int(place[4:]) - 1}"] = [
                n for n in ordered if n.startswith(f"step{int(place[4:]) - 1}.")
            ]
        ordered[name] = above[name]
    return ordered


def nearest(name: str, above: dict, compared: dict) -> list[str]:
    """The nearest names before `name` that were compared."""
    found: dict[str, None] = {}
    queue, seen = list(above[name]), {name}
    while queue:
        n = queue.pop(0)
        if n in seen:
            continue
        seen.add(n)
        if n in compared:
            found[n] = None
        else:
            queue += above.get(n, [])
    return list(found)


# ------------------------------------------------------------------------------------------------- one comparison


class Comparison(NamedTuple):
    """One name on both sides, laid out alike."""

    ours: np.ndarray
    theirs: np.ndarray
    limit: np.ndarray | None  # root mean square and largest magnitude of what rounding may change; None: nothing
    agrees: bool
    error: float
    allowed: float
    layout: str = ""
    layer: layers.Alone | None = None

    @property
    def undecided(self) -> bool:
        """Whether rounding may change it by its own size."""
        return bool(self.allowed > 1)


def judged(
    o: np.ndarray, t: np.ndarray, limit: np.ndarray, layout: str = "", layer: layers.Alone | None = None
) -> Comparison:
    """Two arrays, compared."""
    scale = max(size(o)[0], np.finfo(np.float64).tiny)
    with np.errstate(invalid="ignore", over="ignore"):
        error = size(t - o) if o.shape == t.shape else np.full(2, np.inf)
    agrees = bool(np.isfinite(t).all() and (error <= limit).all())
    return Comparison(o, t, limit, agrees, float(error[0] / scale), float(limit[0] / scale), layout, layer)


def compare(
    name: str, o: np.ndarray, t: np.ndarray, limit: np.ndarray | None, labels: np.ndarray | None, graph: dict
) -> Comparison:
    """The first layout in which the two agree, or the first whose shapes fit; whole numbers have to be equal."""
    whole = o.dtype.kind != "f" or limit is None
    o, t, best = o.astype(np.float64), t.astype(np.float64), None
    limit = np.zeros(2) if limit is None else limit
    for words, mine, other in layouts(name, o, t, labels, graph):
        this = judged(mine, other, limit, words)
        if this.agrees:
            return this
        best = best or this
    best = best or judged(o, t, limit)
    return best._replace(limit=None) if whole else best


def layouts(
    name: str, o: np.ndarray, t: np.ndarray, labels: np.ndarray | None, graph: dict
) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """(words, ours, theirs) for each way in which theirs may be laid out: images, tokens, rows of prompts."""
    if o.shape == t.shape:
        yield "", o, t
    if o.size == t.size == 1:
        yield "", o.reshape(()), t.reshape(())
    own = name.removeprefix("grad.")
    if own not in ("x", *graph) or own.startswith(SYMBOLS[:4]) or own in SYMBOLS:
        return  # parameters and symbols have one layout
    if o.ndim == 4 and t.ndim == 4 and np.moveaxis(t, 1, -1).shape == o.shape:
        yield "channels first (B, C, H, W), ours last", o, np.moveaxis(t, 1, -1)
    if o.ndim == 3 and t.ndim == 3 and t.shape[0] != o.shape[0]:
        t_ = np.swapaxes(t, 0, 1)
        if t_.shape[0] == o.shape[0] and t_.shape[1] >= o.shape[1] and t_.shape[2] == o.shape[2]:
            yield "tokens first (L, N, d), ours second", o, t_[:, : o.shape[1]]
    if own.startswith("text.") and o.ndim == 3 and labels is not None and t.shape[-1] == o.shape[-1]:
        yield from prompt_rows(name, o, t, labels)


def prompt_rows(
    name: str, o: np.ndarray, t: np.ndarray, labels: np.ndarray
) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Ours has the prompts of each class of the batch once, (classes n, L, d); theirs may have those of every sample.

    In a causal transformer what follows EOT changes nothing before it, so more padding is cut off. The gradients at
    the prompts of equal labels add up to ours.
    """
    classes, place = np.unique(labels, return_inverse=True)
    n, L, d = len(o) // len(classes), *o.shape[1:]
    each = o.reshape(len(classes), n, L, d)
    longer = t.shape[-2] >= L
    if longer and t.ndim == 3 and len(t) == len(o):
        yield "more padding after EOT than ours", o, t[:, :L]
    for order, axes in (("samples, then groups", (0, 1)), ("groups, then samples", (1, 0))):
        shape = (len(labels), n) if axes == (0, 1) else (n, len(labels))
        if longer and t.size == len(labels) * n * t.shape[-2] * d and t.shape[-2:] == t.shape[-2:]:
            rows = np.moveaxis(t.reshape(*shape, t.shape[-2], d), axes, (0, 1))[:, :, :L]
            words = f"the prompts of every sample ({order}), ours of every class once"
            if not name.startswith("grad."):
                yield words, each[place], rows
            else:
                folded = np.zeros_like(each)
                np.add.at(folded, place, rows)
                yield words, each, folded


# ------------------------------------------------------------------------------------------------------ the report


def stage(name: str) -> str:
    """Where in a step a name belongs."""
    if name.startswith("step0.") or name in ("x", "y"):
        return "what was given"
    if name.startswith("step"):
        return f"after step {name.partition('.')[0][4:]}"
    return "gradient" if name.startswith("grad.") else "value"


def text(found: Difference) -> str:
    """At most a screen: the first name that differs, further independent ones, and what was compared."""
    total = len(found.agree) + len(found.blocked) + len(found.guilty)
    if not total:
        lines = ["NOTHING COMPARED: no name of theirs is in the trace"]
    elif found.guilty:
        first = found.guilty[0].name
        where = stage(first) if stage(first).startswith("after") else f"in {stage(first)}"
        lines = [f"DIVERGES {where}: {first} is the first of {total} compared names that differs ({found.dtype})"]
    else:
        lines = [f"AGREES: all {total} compared names, within what rounding allows ({found.dtype})"]
    for each in found.guilty[:SHOWN]:
        looks = f"this is {each.looks}" if each.looks else "like nothing known here"
        lines.append(
            f"GUILTY   {each.name}: {looks}; error {each.error:.2g} of ours, rounding allows {each.allowed:.2g}"
        )
        lines.append(f"         {made(each)}")
    if len(found.guilty) > SHOWN:
        lines.append(f"         and {len(found.guilty) - SHOWN} more that do not depend on these")
    if total:
        lines.append(
            f"{len(found.agree)} agree, {len(found.blocked)} differ as a consequence, "
            f"{found.missing} of ours are not in theirs"
        )
    if found.undecided:
        lines.append(
            f"{len(found.undecided)} of those that agree show nothing: rounding may change them by their own size, "
            f"such as {found.undecided[0]}"
        )
    lines += [f"layout: {words} (first in {name})" for words, name in found.layouts.items()]
    for name, near in [*found.unknown.items()][:SHOWN]:
        lines.append(f"unknown: {name}" + (f"; did you mean {near}?" if near else ""))
    if len(found.unknown) > SHOWN:
        lines.append(f"unknown: {len(found.unknown) - SHOWN} more names")
    return "\n".join(lines)


def made(finding: Finding) -> str:
    """How a guilty name is made, and from what that agrees."""
    if finding.name.startswith("grad."):
        how = f"made by the backward pass of {finding.name.removeprefix('grad.')}"
    elif finding.by:
        how = f"made by {finding.by}"
    else:
        how = "given" if stage(finding.name) == "what was given" else f"made {stage(finding.name)}"
    listed = ", ".join(finding.made_of[:4]) + f" and {len(finding.made_of) - 4} more" * (len(finding.made_of) > 4)
    if finding.itself:
        return f"{how}; computed again from their own input it is another"
    verb = "agrees" if len(finding.made_of) == 1 else "agree"
    return f"{how}, from {listed}, which {verb}" if listed else f"{how}; nothing before it was compared"


def as_json(found: Difference) -> dict[str, Any]:
    """The report for programs."""
    guilty = [f._asdict() | {"stage": stage(f.name), "error": finite(f.error)} for f in found.guilty]
    return found._asdict() | {"guilty": guilty, "ok": found.ok, "exit_code": found.exit_code}


def finite(x: float) -> float | str:
    """A number as JSON can write it."""
    return float(x) if np.isfinite(x) else str(x)

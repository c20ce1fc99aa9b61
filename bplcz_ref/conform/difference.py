"""`conform diff`: where do two runs of one model on one batch part? Ours is a trace, theirs a part of its names.

Every name that both have is compared within the tolerance that the trace has measured (tracing.py). A name is
guilty if it differs while all that it is made of agrees, or if its layer, computed again from their own input
(layers.py), gives something else; what differs only because of something before it is blocked. Names come in order
of computation, so the first guilty one is where the two part: in value, then in gradient, then after the step.
recognise.py says what the difference looks like.
"""

import difflib
import json
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from bplcz_ref import schema
from bplcz_ref.conform import layers, recognise
from bplcz_ref.conform.layouts import Comparison, compare, judged
from bplcz_ref.conform.tracing import FORMAT, META, PRECISIONS, kind_of


def by_name(holds: Callable[[Any], bool], words: str) -> schema.Rule:
    """An object whose values all hold."""
    return schema.Rule(f"an object of {words}", lambda x: isinstance(x, dict) and all(map(holds, x.values())))


def is_pair(x: Any) -> bool:
    """Whether this is a tolerance: the root of the mean square and the largest magnitude."""
    return isinstance(x, list) and len(x) == 2 and all(map(schema.is_number, x))


def is_way(way: Any) -> bool:
    """Whether this can say how a name is made."""
    rule = {"from": [schema.TEXT], "by": schema.TEXT}
    optional = {"same": schema.TEXT, "call": CALL}
    return isinstance(way, dict) and not schema.first_broken(
        way, rule | {key: part for key, part in optional.items() if key in way}
    )


NAMES = by_name(schema.TEXT.holds, "texts")
OPTIONS = by_name(lambda x: isinstance(x, (bool, int, float)), "numbers")
CALL = {"op": schema.one_of(layers.READINGS), "arguments": NAMES, "options": OPTIONS}
TRACE = {  # what META holds
    "format": schema.whole(FORMAT, FORMAT),
    "dtype": schema.one_of(PRECISIONS),
    "names": [schema.TEXT],
    "graph": by_name(is_way, 'ways, {"from": names, "by": text}'),
    "tolerance": by_name(by_name(is_pair, "pairs of numbers").holds, "tolerances by name"),
    "arrays": NAMES,
    "rule": {name: schema.number() for name in ("learning_rate", "momentum", "weight_decay")},
    "steps": schema.whole(1, 10**6),
}

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


@np.errstate(all="ignore")  # numbers may be absurd; what becomes of them differs, and is named
def diff(ours: dict, theirs: dict, *, dtype: str | None = None) -> Difference:
    """Compare the arrays of another program with a trace.

    ours    what `trace` returned, or an .npz that `conform trace` wrote, read with archives.read_npz
    theirs  {name: array} under the same names, as many as there are
    dtype   "float32" or "float64", the precision of theirs; None: float64 if all their arrays are, else float32
    Layer outputs may be channels-first; the report says so. Errors: ValueError for what is no trace or no number.

    >>> from bplcz_ref.conform.tracing import trace
    >>> from bplcz_ref.layers import linear, serial, spatial_mean
    >>> from bplcz_ref.model import classification
    >>> model = classification(serial(spatial_mean, ("fc", linear(18, 17))))
    >>> params, state = model.init(np.random.default_rng(0), "float64")
    >>> ours = trace(model, params, state, (np.ones((2, 4, 4, 18)), np.array([3, 5])), steps=1)
    >>> theirs = {"c_hat": ours["fc"], "L": ours["L_cls"], "grad.c_hat": 2 * ours["grad.fc"]}  # names of one array
    >>> print(diff(ours, theirs))  # doctest: +ELLIPSIS
    DIVERGES in gradient: grad.c_hat is the first of 3 compared names that differs (float32)
    GUILTY   grad.c_hat: this is 2 times ours; error 1 of ours, rounding allows 3...e-06
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
    shown: dict[str, str] = {}  # a second name that stands for the first, where theirs has no other
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
        if this.layout and this.agrees:
            found.layouts.setdefault(this.layout, label)
        if not differs[name]:
            found.agree.append(label)
            found.undecided.extend([label] * (this.undecided and alone is None))
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
) -> Iterator[tuple[str, Comparison]]:
    """(name, Comparison) of what each layer gives from their own input, and of its parameters' gradients."""
    graph = meta["graph"]
    theirs = {mine[name]: array for name, array in given.items()} | given
    first = any(found.layout.startswith("channels first") for found in comparison.values())
    for name, way in graph.items():
        entry = f"{name}.input"
        x = theirs.get(entry, theirs.get(mine.get(entry)))
        if "call" not in way or name not in given or x is None:
            continue
        x_first = channels_first(
            comparison.get(entry, comparison.get(mine[entry])), np.shape(x), ours, mine[entry], first
        )
        y_first = channels_first(comparison[name], np.shape(given[name]), ours, mine[name], x_first)
        layer = layers.alone(name, x, given[name], ours, graph, x_first, y_first)
        if layer is None:
            continue
        right, limit = layers.output(layer, dtype)
        if layer.y.shape != right.shape and comparison[name].agrees:
            continue  # laid out otherwise than its input, and right
        output = judged(right, layer.y, limit, layer=layer)
        yield name, output
        if not output.agrees:
            continue  # its gradients are those of another layer
        g = given.get(f"grad.{name}")  # not that of a second name, which may be laid out otherwise
        for parameter, (slope, allowed) in ({} if g is None else layers.gradients(layer, g, dtype)).items():
            if f"grad.{parameter}" in given:
                array = np.asarray(given[f"grad.{parameter}"], np.float64)
                yield f"grad.{parameter}", judged(slope, array, allowed)


def channels_first(found: Comparison | None, shape: tuple, ours: dict, name: str, otherwise: bool) -> bool:
    """Whether their array has its channels first: as it agrees, else as its shape says, else `otherwise`."""
    if found is not None and found.agrees:
        return found.layout.startswith("channels first")
    last = np.shape(ours[name]) if name in ours else shape
    first = (last[0], last[-1], *last[1:-1]) if len(last) == 4 else last
    return otherwise if first == last or shape not in (first, last) else shape == first


def read_meta(ours: dict) -> dict:
    """What the trace says about itself. Errors: ValueError if it is none, or does not fit its arrays."""
    if META not in ours or np.asarray(ours[META]).dtype != np.uint8:
        raise ValueError(f"the first file is no trace: it has no entry {META}; make one with `conform trace`")
    try:
        meta = json.loads(bytes(np.asarray(ours[META])).decode())
        schema.check(meta, TRACE, META)
        names = set(meta["names"])
        found = {name: kind_of(np.asarray(a)) for name, a in ours.items() if name != META}
        strange = [name for name in found if name not in names or meta["arrays"].get(name) != found[name]]
        made_of = {n for way in meta["graph"].values() for n in (*way["from"], way.get("same", "x"))}
        strange += [name for name in made_of if name not in names and f"step0.{name}" not in names]
        floats = [name for name, a in ours.items() if np.asarray(a).dtype.kind == "f"]
        strange += [n for allowed in meta["tolerance"].values() for n in floats if n not in allowed]
        strange += [precision for precision in meta["tolerance"] if precision not in PRECISIONS]
        if strange or not {*meta["graph"]} <= names:
            raise ValueError(f"{META}: it does not fit the arrays, such as {schema.brief([*strange, 'graph'][0])}")
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{error}; it is damaged or of another version: trace again") from None
    return meta


# ------------------------------------------------------------------------------------------- names and their order


def stored(name: str, graph: dict) -> str:
    """The name under which the trace has an array."""
    head = "grad." * name.startswith("grad.")
    own = name.removeprefix(head)
    return head + graph.get(own, {}).get("same", own)


# Modules that call no layer for what they give and take: PyTorch's MultiheadAttention uses the weights directly.
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
        elif own not in mine and name != META and not container(name, mine):
            near = difflib.get_close_matches(name, mine, 1, 0.5)
            unknown[name] = near[0] if near else ""
    return found, unknown


def container(name: str, mine: dict) -> bool:
    """Whether this is what a module of several layers takes or gives: these are compared one by one."""
    part = name.removeprefix("grad.").removesuffix(".input")
    return part == "" or any(n.startswith(f"{part}.") for n in mine) or part in mine


def ancestors(names: list, graph: dict, steps: int) -> dict[str, list]:
    """{name: the names that it is made of}, in the order of computation; "after 1" stands for all of step 1."""
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
            f"{len(found.undecided)} of those that agree show nothing, as rounding may change them by their own "
            f"size: {found.undecided[0]}{', ...' * (len(found.undecided) > 1)}"
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

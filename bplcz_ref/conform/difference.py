"""`conform diff`: where do two runs of one model on one batch part? Ours is a trace, theirs a part of its names.

Two questions are asked. Which name is the first, in the order of computation, that differs by more than the trace
allows (tracing.py)? And which relation between names is wrong by itself: a layer, the gradients of its
parameters, an equation, SGD's rule? Each is an operation of the kit, worked out again from THEIR inputs, so that
what happened before does not matter, and a mistake has a name (mistakes.py).

A name is guilty if its relation is wrong by itself, or if it is the first that differs and no relation before it
is wrong. All others that differ are consequences, or unseen behind the first: mend that, and look again.
"""

import difflib
import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from itertools import product
from typing import Any, NamedTuple

import numpy as np

from bplcz_ref import nn, paper
from bplcz_ref.conform.exchange import finite
from bplcz_ref.conform.layouts import Comparison, as_ours, compare
from bplcz_ref.conform.mistakes import LISTED
from bplcz_ref.conform.numbers import EPS, expected
from bplcz_ref.conform.ops import OPS, Case
from bplcz_ref.conform.tracing import FEW, FORMAT, META, RUNS
from bplcz_ref.conform.verdict import FAIL, Graded, grade, named_ways

SHOWN = 3  # guilty names in the report; further ones are counted


class Finding(NamedTuple):
    """A name that differs, and not because of what came before it."""

    name: str
    names: tuple  # what gives exactly this
    error: float  # root mean square of theirs - ours, as a part of that of ours
    allowed: float  # what rounding may make of it, likewise
    op: str  # the operation that is wrong by itself; "" for a name that is the first to differ


class Difference(NamedTuple):
    """What was found; str() is the report."""

    dtype: str
    guilty: list[Finding]
    blocked: list[str]
    agree: list[str]
    undecided: list[str]  # they agree, but rounding alone may change them by as much as they are
    layouts: dict[str, str]  # what had to be rearranged: {in words: first name}
    unknown: dict[str, str]  # names of theirs that are not in the trace, with the nearest one that is
    missing: int  # names of the trace that theirs has not

    @property
    def exit_code(self) -> int:
        """0 all that was compared agrees, 1 something differs, 2 nothing could be compared."""
        return 1 if self.guilty else 0 if self.agree else 2

    @property
    def ok(self) -> bool:
        """Whether something was compared and nothing differs."""
        return self.exit_code == 0

    def __str__(self) -> str:
        return text(self)


@np.errstate(all="ignore")  # numbers may be absurd; what becomes of them differs, and is named
def diff(ours: dict, theirs: dict, *, dtype: str | None = None) -> Difference:
    """Compare the arrays of another program with a trace.

    ours    what `trace` returned, or an .npz that `conform trace` wrote, read with files.read_npz
    theirs  {name: array} under the same names, as many as there are
    dtype   "float32" or "float64", the precision of theirs; None: float64 if all their arrays are, else float32
    Layer outputs may be channels-first; the report says so. Errors: ValueError for what is no trace or no number.

    >>> from bplcz_ref.conform.tracing import trace
    >>> from bplcz_ref.layers import linear, serial, spatial_mean
    >>> from bplcz_ref.model import classification
    >>> model = classification(serial(spatial_mean, ("fc", linear(18, 17))))
    >>> params, state = model.init(np.random.default_rng(0), "float64")
    >>> ours = trace(model, params, state, (np.ones((2, 4, 4, 18)), np.array([3, 5])), steps=1)
    >>> theirs = {"c_hat": ours["fc"], "L": ours["L_cls"], "grad.c_hat": 2 * ours["grad.fc"]}
    >>> print(diff(ours, theirs))  # doctest: +ELLIPSIS
    DIVERGES in gradient: grad.c_hat is the first of 3 compared names that differs (float32)
    GUILTY   grad.c_hat: this is "grad.c_hat times 2"; error 1 of ours, rounding allows 3...e-06
             cross_entropy, worked out again from their own input, gives something else
    2 agree, 0 more differ, 15 of ours are not in theirs
    """
    meta = read_meta(ours)
    ours, theirs = ({n: np.asarray(a) for n, a in arrays.items() if n != META} for arrays in (ours, theirs))
    mine = {name: meta["same"].get(name, name) for name in meta["names"]}
    mine |= {f"grad.{name}": f"grad.{own}" for name, own in meta["same"].items()}
    if dtype is None:
        floats = {a.dtype for a in theirs.values() if a.dtype.kind == "f"}
        dtype = "float64" if "float64" in meta["tolerance"] and floats == {np.dtype("f8")} else "float32"
    if dtype not in meta["tolerance"]:
        judges = " and ".join(meta["tolerance"])
        raise ValueError(f"this trace judges {judges}; for {dtype} trace again with --dtype {dtype}")
    given, unknown = resolved(theirs, mine, ours)
    limits = {name: np.array(pair) for name, pair in meta["tolerance"][dtype].items()}
    known = {name: ours[own] for name, own in mine.items() if own in ours}
    compared: dict[str, Comparison] = {}
    for name in (name for name in mine if name in given):
        layer = name.removeprefix("grad.").removesuffix(".input")
        free = layer in meta["layers"] or layer == "x"  # parameters and symbols have one layout
        limit = limits.get(mine[name])
        compared[name] = compare(name, known[name], given[name], limit, ours.get("y"), free)
    differ = [name for name, c in compared.items() if not c.agrees]
    here = {name: as_ours(given[name], c, compared) for name, c in compared.items()}
    wrong = wrong_relations(meta, known, here, dtype)
    place = {name: k for k, name in enumerate(mine)}
    if not wrong and (not differ or differ[0].startswith("step") and not differ[0].startswith("step0.")):
        for name, step in wrong_step(meta, known, here, dtype, limits).items():
            wrong = {min([name, *differ[:1]], key=lambda n: place[n]): step}
    if differ and all(place[name] > place[differ[0]] for name in wrong):
        # Nothing before it differs, so what theirs lacks may be taken from ours.
        found = [*wrong_relations(meta, known, known | here, dtype, only=differ[0]).values()]
        wrong[differ[0]] = found[0] if found else ("", looks(differ[0], compared[differ[0]], dtype))
    guilty = [
        Finding(name, tuple(names), compared[name].error, compared[name].allowed, op)
        for name, (op, names) in sorted(wrong.items(), key=lambda item: place[item[0]])
    ]
    layouts: dict[str, str] = {}
    for name, c in compared.items():
        if c.layout:
            layouts.setdefault(c.layout, name)
    agree = [name for name, c in compared.items() if c.agrees and name not in wrong]
    return Difference(
        dtype,
        guilty, [name for name in differ if name not in wrong],
        agree, [name for name in agree if compared[name].allowed > 1],
        layouts, unknown, len({*mine.values()} - {mine[name] for name in compared}),
    )  # fmt: skip


# ------------------------------------------------------------------------------- relations: names worked out again


class Relation(NamedTuple):
    """Names that one operation makes of others: its case, and what each of its outputs is called."""

    case: Case
    run: Callable
    outputs: dict  # output of the operation -> name
    standard: bool  # whether the mistakes listed for the operation apply


def wrong_relations(meta: dict, ours: dict, here: dict, dtype: str, only: str | None = None) -> dict:
    """{name: (operation, what gives exactly this)} of the relations that are wrong in `here`, or of `only` one."""
    found = {}
    strict = only is not None
    theirs, right = ({r.case.id: r for r in relations(meta, ours, arrays) if r} for arrays in (here, ours))
    for id, relation in theirs.items():
        if strict and only not in relation.outputs.values():
            continue
        g = judged(relation, here, dtype, strict)
        if g.wrong:  # what is wrong in ours too is no mistake
            own = judged(right[id], ours, dtype, strict)
            holds = {o: name for o, name in relation.outputs.items() if o not in own.wrong}
            g = judged(relation._replace(outputs=holds), here, dtype, strict)
        if g.wrong:
            listed = LISTED.get(g.case.op, {}) if relation.standard else {}
            first = relation.outputs[next(iter(g.wrong))]
            found[first] = g.case.op, named_ways(relation.run, listed, [g], dtype) or fitted(g)
    return found


def judged(relation: Relation, arrays: dict, dtype: str, strict: bool) -> Graded:
    """A relation, graded; nothing is wrong where its names are not all there.

    strict: without the rounding of other right ways (ops.Op.also), which hides small mistakes.
    """
    answer = {output: arrays[name] for output, name in relation.outputs.items() if name in arrays}
    case, right = relation.case, {}
    if answer:
        with suppress(ValueError):  # shapes that do not fit are seen by name
            right = expected(case, (lambda **i: relation.run(**i)) if strict else relation.run, RUNS)
    x = case.inputs.get("x")
    # Another program may add term by term, with an error of sqrt(terms) / 4 times that of sums by pairs.
    wide = 1.0 if x is None else max(1.0, (x.size / x.shape[-1]) ** 0.5 / 16)
    expect = {
        o: (value, (allowed or 0.0) * wide * (FEW if o.startswith("grad.") else 1))
        for o, (value, allowed) in right.items()
        if o in answer and answer[o].size == np.size(value)
    }
    answer = {o: answer[o].astype(np.float64).reshape(np.shape(value)) for o, (value, _) in expect.items()}
    return grade(case._replace(expect=expect), answer, dtype)


def relations(meta: dict, ours: dict, here: dict) -> Iterator[Relation | None]:
    """Every relation between names, with inputs from `here`; None where one of them is not there."""
    for name, layer in meta["layers"].items():
        yield layer_relation(name, layer, ours, here)
    get, whole = here.get, {name: here[name].astype(int) for name in ("y", "W") if name in here}.get
    for g in paper.GROUPS:
        inputs = {"I_i": get(f"I_i.{g}"), "T_i": get(f"T_i.{g}")}
        yield relation("similarity", here, inputs, {o: f"{o}.{g}" for o in ("S_i", "S_hat_i", "grad.T_i")})
    for S in ("S", "S_hat"):
        parts = [f"{S}_i.{g}" for g in paper.GROUPS]
        if {S, *parts} <= {*ours} and {*parts} <= {*here}:
            total = sum(ours[part] for part in parts)
            alpha = float(np.vdot(total, ours[S]) / np.vdot(total, total))
            inputs = {"S_groups": np.stack([here[part] for part in parts]), "alpha": alpha}
            yield relation("fuse", here, inputs, {"S": S})
    yield relation("supervised_matrix", here, {"y": whole("y")}, {"W": "W"})
    for S, L in (("S", "L_i2t"), ("S_hat", "L_t2i")):
        yield relation("bce", here, {"S": get(S), "W": whole("W")}, {"L": L, "grad.S": f"grad.{S}"})
    inputs = {"c_hat": get("c_hat"), "c": whole("y")}
    yield relation("cross_entropy", here, inputs, {o: o for o in ("L_cls", "grad.c_hat")})
    if {"L", "L_cls", "L_con"} <= {*ours}:
        beta = float((ours["L"] - ours["L_cls"]) / ours["L_con"])
        inputs = {"L_cls": get("L_cls"), "L_con": get("L_con"), "beta": beta}
        yield relation("total_loss", here, inputs, {"L": "L"})


def relation(op: str, here: dict, inputs: dict, outputs: dict, run: Callable | None = None) -> Relation | None:
    """An operation of `inputs`, where None is what is not there; `run` in place of that of the kit.

    "grad.X" among its outputs needs the gradients of the others in `here`.
    """
    if any(x is None for x in inputs.values()):
        return None
    values = {o: name for o, name in outputs.items() if not o.startswith("grad.")}
    slopes = {o: name for o, name in outputs.items() if o.startswith("grad.") and name in here}
    cotangents = {o: here.get(f"grad.{name}") for o, name in values.items() if not o.startswith("new_")}
    case = Case(f"{op}/{next(iter(values.values()))}", "", inputs)
    if slopes and not any(g is None for g in cotangents.values()):
        case = case._replace(slopes=tuple(o.removeprefix("grad.") for o in slopes), cotangents=cotangents)
        values |= slopes
    return Relation(case, run or OPS[op].run, values, run is None)


def layer_relation(name: str, layer: dict, ours: dict, here: dict) -> Relation | None:
    """A layer from their input: its output, the gradients at its input and parameters, new running statistics."""
    op, options, parameters = layer["op"], layer["options"], layer["parameters"]
    before = lambda n: here.get(f"step0.{n}", ours.get(f"step0.{n}"))
    inputs = {"x": here.get(f"{name}.input")} | {key: before(n) for key, n in parameters.items()}
    outputs = {"y": name}
    if op == "batch_norm":
        for key in ("running_mean", "running_var"):
            inputs[key], outputs[f"new_{key}"] = before(f"{name}.{key}"), f"step1.{name}.{key}"
        inputs["train"] = 1
    outputs |= {"grad.x": f"grad.{name}.input"} | {f"grad.{key}": f"grad.{n}" for key, n in parameters.items()}
    standard = {
        "linear": "bias" in parameters,
        "conv2d": "bias" not in parameters and options.get("groups", 1) == 1,
        "batch_norm": options.items() <= {"momentum": 0.1, "eps": 1e-5}.items(),
        "layer_norm": options.get("eps", 1e-5) == 1e-5,
    }.get(op, True)
    run: Callable | None = None
    if op == "conv2d" and standard:
        inputs |= {key: options[key] for key in ("stride", "padding")}
    elif op == "batch_norm" and not standard:
        run = partial(OPS[op].run, **options)
    elif not standard:  # no operation of the kit: in groups, with a bias, another eps
        run = lambda **i: {"y": getattr(nn, op)(**i, **options)}
    return relation(op, here, inputs, outputs, run)


def wrong_step(meta: dict, ours: dict, here: dict, dtype: str, limits: dict) -> dict:
    """{name: ("sgd", names)} of the first parameter that SGD's rule does not move as theirs moves.

    Their gradients of later steps are not known; they are those by which the rule moves ours.
    """
    lr, momentum, decay = (meta["rule"][key] for key in ("learning_rate", "momentum", "weight_decay"))
    flat = lambda n: here.get(n, ours[n]).ravel()
    names = [n.removeprefix("step0.") for n in here if n.startswith("step0.") and f"grad.{n[6:]}" in here]
    for steps, name in product(dict.fromkeys((1, meta["steps"])), names):
        ks = range(1, steps + 1)
        after = {"v": [f"step{k}.velocity.{name}" for k in ks], "w": [f"step{k}.{name}" for k in ks]}
        if not {*after["v"], *after["w"]} <= {*ours}:
            continue
        v, w = ([ours[n].ravel() for n in own] for own in after.values())
        later = [v[k] - momentum * v[k - 1] - decay * w[k - 1] for k in range(1, steps)]
        inputs = {"w": flat(f"step0.{name}"), "gradients": np.stack([flat(f"grad.{name}"), *later])}
        inputs |= {"lr": np.full(steps, lr), "momentum": momentum, "weight_decay": decay}
        case = Case(f"sgd/{name}", "", inputs)
        known = {o: [limits[n][1] / EPS[dtype] for n in own[1:]] for o, own in after.items()}  # of later steps
        expect = {o: (x, max(allowed, *known[o], 0.0)) for o, (x, allowed) in expected(case).items()}
        answer = {o: np.stack([flat(n) for n in own]) for o, own in after.items()}
        g = grade(case._replace(expect=expect), answer, dtype)
        for k, (o, own) in product(range(steps), after.items()):
            error = np.abs(answer[o][k] - expect[o][0][k]).max(initial=0)
            if own[k] in here and o in g.wrong and error > g.wrong[o][1]:
                # The gradients of later steps are known too roughly for a name.
                ways = named_ways(OPS["sgd"].run, LISTED["sgd"], [g], dtype) if steps == 1 else []
                return {own[k]: ("sgd", ways)}
    return {}


def fitted(g: Graded) -> list[str]:
    """ "y times 4", or "y shifted by 0.5": one number that makes their first wrong output of the right one."""
    output, (error, allowed) = next(iter(g.wrong.items()))
    right, answer = g.case.expect[output][0], g.answer[output]
    if right.shape != answer.shape or right.size < 2:
        return []
    factor, shift = float(np.vdot(right, answer) / np.vdot(right, right)), float(np.mean(answer - right))
    near = min(4 * max(1, abs(factor)) * allowed, error / 50)
    ways = {f"times {factor:.4g}": factor * right, f"shifted by {shift:.4g}": right + shift}
    return [f"{output} {way}" for way, x in ways.items() if np.abs(answer - x).max() <= near][:1]


def looks(name: str, c: Comparison, dtype: str) -> list[str]:
    """What a difference looks like, where no operation is known: ours, changed by rule."""
    if c.limit is None or c.ours.dtype.kind != "f":
        return []
    case = Case(f"read_array/{name}", "", {"ours": c.ours}, expect={"ours": (c.ours, c.limit[1] / EPS[dtype])})
    g = Graded(case, FAIL, {"ours": c.theirs}, {"ours": (c.error, c.limit[1])})
    return named_ways(lambda ours: {"ours": ours}, {}, [g], dtype) or fitted(g)


def read_meta(ours: dict) -> dict:
    """What the trace says about itself. Errors: ValueError if it is none, or does not fit its arrays."""
    if META not in ours or np.asarray(ours[META]).dtype != np.uint8:
        raise ValueError(f"the first file is no trace: it has no entry {META}; make one with `conform trace`")
    try:
        meta = json.loads(bytes(np.asarray(ours[META])).decode())
        if meta["format"] != FORMAT:
            raise ValueError(f"it is of format {meta['format']}")
    except (ValueError, KeyError) as error:
        raise ValueError(f"{META}: {error}; it is damaged or of another version: trace again") from None
    return meta


# Modules that call no layer for what they give and take: PyTorch's MultiheadAttention uses the weights directly.
INSIDE = {".attn": ".attn.out_proj", ".attn.input": ".attn.in_proj.input"}


def resolved(theirs: dict, mine: dict, ours: dict) -> tuple[dict, dict]:
    """({our name: their array}, {their name that we do not have: the nearest that we have})."""

    def container(name):  # a module of several layers, which are compared one by one
        part = name.removeprefix("grad.").removesuffix(".input")
        return part == "" or part in mine or any(n.startswith(f"{part}.") for n in mine)

    found: dict[str, Any] = {}
    unknown: dict[str, str] = {}
    for name, array in theirs.items():
        own = name
        for module, layer in INSIDE.items():
            if name.endswith(module) and name.removesuffix(module) + layer in mine:
                own = name.removesuffix(module) + layer
        if own in mine and mine[own] in ours:
            if array.dtype.kind not in "biuf":
                raise ValueError(f"{name} is {array.dtype}; expected real numbers")
            found[own] = array
        elif own not in mine and not container(name):
            near = difflib.get_close_matches(name, mine, 1, 0.5)
            unknown[name] = near[0] if near else ""
    return found, unknown


def stage(name: str) -> str:
    """Where in a step a name belongs."""
    if name.startswith("step0.") or name in ("x", "y"):
        return "in what was given"
    if name.startswith("step"):
        return f"after step {name.partition('.')[0][4:]}"
    if name.startswith("eval."):
        return "in evaluation"
    return "in gradient" if name.startswith("grad.") else "in value"


def text(found: Difference) -> str:
    """At most a screen: the first name that differs, further independent ones, and what was compared."""
    total = len(found.agree) + len(found.blocked) + len(found.guilty)
    if not total:
        lines = ["NOTHING COMPARED: no name of theirs is in the trace"]
    elif found.guilty:
        first = found.guilty[0].name
        said = f"{first} is the first of {total} compared names that differs ({found.dtype})"
        lines = [f"DIVERGES {stage(first)}: {said}"]
    else:
        lines = [f"AGREES: all {total} compared names, within what rounding allows ({found.dtype})"]
    for each in found.guilty[:SHOWN]:
        said = f'this is "{" | ".join(each.names)}"' if each.names else "like nothing known here"
        size = f"error {each.error:.2g} of ours, rounding allows {each.allowed:.2g}"
        lines.append(f"GUILTY   {each.name}: {said}; {size}")
        if each.op:
            lines.append(f"         {each.op}, worked out again from their own input, gives something else")
    if len(found.guilty) > SHOWN:
        lines.append(f"         and {len(found.guilty) - SHOWN} more that do not depend on these")
    if total:
        counts = f"{len(found.agree)} agree, {len(found.blocked)} more differ"
        lines.append(f"{counts}, {found.missing} of ours are not in theirs")
    if found.undecided:
        said = "of those that agree show nothing, as rounding may change them by their own size"
        more = ", ..." * (len(found.undecided) > 1)
        lines.append(f"{len(found.undecided)} {said}: {found.undecided[0]}{more}")
    lines += [f"layout: {words} (first in {name})" for words, name in found.layouts.items()]
    for name, near in [*found.unknown.items()][:SHOWN]:
        lines.append(f"unknown: {name}" + (f"; did you mean {near}?" if near else ""))
    if len(found.unknown) > SHOWN:
        lines.append(f"unknown: {len(found.unknown) - SHOWN} more names")
    return "\n".join(lines)


def as_json(found: Difference) -> dict[str, Any]:
    """The report for programs."""
    guilty = [finite(f) | {"stage": stage(f.name)} for f in found.guilty]
    return found._asdict() | {"guilty": guilty, "ok": found.ok, "exit_code": found.exit_code}

"""The set of cases and the answers as JSON, both ways. What is wrong with an answer file is one line a defect.

The format is described in bplcz_ref/conform/__init__.py.
"""

import functools
import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bplcz_ref import paper, program, prompts, tokenizer
from bplcz_ref.conform.cases import drawn
from bplcz_ref.conform.mistakes import chosen
from bplcz_ref.conform.numbers import EPS, solved
from bplcz_ref.conform.ops import OPS, Case
from bplcz_ref.storage import files, schema

VERSION = "3.0.0"  # MAJOR: the format; MINOR: cases; PATCH: a case that was wrong
PUBLIC = Path(__file__).resolve().parent.parent / "vectors" / "set-0.json"
brief = functools.partial(schema.brief, length=60)  # a value as short text
WORDS = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


def tensor(x: Any) -> dict:
    """A TENSOR of an array, a number or text.

    >>> tensor(np.array([[1.5, np.inf]])), tensor("vh")
    ({'dtype': 'float64', 'shape': [1, 2], 'data': [1.5, 'Infinity']},
     {'dtype': 'string', 'shape': [], 'data': ['vh']})
    """
    if isinstance(x, str):
        return {"dtype": "string", "shape": [], "data": [x]}
    if isinstance(x, list) and all(isinstance(s, str) for s in x):
        return {"dtype": "string", "shape": [len(x)], "data": x}
    x = np.asarray(x)
    if x.dtype.kind in "iub":
        return {"dtype": "int64", "shape": list(x.shape), "data": [int(v) for v in x.ravel()]}
    words = {str(v): word for word, v in WORDS.items()}
    data = [words.get(str(v), v + 0.0) for v in map(float, x.ravel())]  # + 0.0 turns -0.0 into 0.0
    return {"dtype": "float64", "shape": list(x.shape), "data": data}


def finite(finding: Any) -> dict:
    """A finding as JSON values: what is not finite in it becomes a word, as in a TENSOR."""
    return {key: tensor(x)["data"][0] if isinstance(x, float) else x for key, x in finding._asdict().items()}


def array(t: Any, where: str) -> Any:
    """The array of a TENSOR, or text, or a list of text; ValueError names `where` and what is wrong.

    >>> array({"shape": [1, 2], "data": [1, "NaN"]}, "answers.json: bce/ordinary: S").tolist()
    [[1.0, nan]]
    """
    own: Any = t if isinstance(t, dict) else {}
    shape, data = own.get("shape"), own.get("data")
    lists = isinstance(shape, list) and isinstance(data, list)
    if not lists or not all(type(n) is int and n >= 0 for n in shape):
        expected = '{"shape": [whole numbers], "data": [one flat list]}'
        raise ValueError(f"{where}: expected {expected}, found {brief(t)}")
    if math.prod(shape) != len(data):
        raise ValueError(f"{where}: shape {brief(shape)} means {math.prod(shape)} entries, found {len(data)}")
    if data and all(type(v) is str and v not in WORDS for v in data):
        return data if shape else data[0]
    if not data and own.get("dtype") == "string":
        return []
    if data and all(type(v) is int and abs(v) < 2**63 for v in data) and own.get("dtype") != "float64":
        return np.array(data, dtype=np.int64).reshape(shape)  # JavaScript writes floats without a point too
    data = [WORDS.get(v, v) if type(v) is str else v for v in data]
    for place, v in enumerate(data):
        if type(v) not in (int, float):
            raise ValueError(f'{where}: entry {place} is {brief(v)}, expected a number or "NaN", "Infinity"')
    return np.array(data, np.float64).reshape(shape)


def set_of(cases: Iterable[Case], seed: int = 0, blind: bool = False) -> dict:
    """The SET of solved cases, and the chain; `blind` leaves out what is expected."""
    from bplcz_ref.conform import chain  # it rests on this module

    merges = (tokenizer.vocabulary_folder() / tokenizer.MACHINE_FILE).read_text("utf-8").split("\n")[1:]
    ops = {op: {"place": o.place, "formula": o.formula, "rests_on": list(o.parents)} for op, o in OPS.items()}
    head = {"kit": VERSION, "seed": seed, "paper": f"arXiv {paper.ARXIV}", "eps": EPS, "operations": ops}
    head |= {"descriptions": list(prompts.DESCRIPTIONS), "merges": [line for line in merges if line]}
    _, given = chain.drawn(seed)
    named = {name: tensor(x) if isinstance(x, np.ndarray) else x for name, x in given.items()}
    named["weights"] = {name: tensor(a) for name, a in given["weights"].items()}
    expect = {name: {} if blind else tensor(chain.ours(seed)[name]) for name in chain.expected_names(seed)}
    return head | {"cases": [_case_json(case, blind) for case in cases], "chain": named | {"expect": expect}}


def _case_json(case, blind):
    tensors = lambda arrays: {name: tensor(x) for name, x in arrays.items()}
    made = {"id": case.id, "op": case.op, "why": case.why, "inputs": tensors(case.inputs)}
    made |= {"cotangents": tensors(case.cotangents)} if case.cotangents else {}
    made |= {"needs": case.needs} if case.needs < 1 else {}
    allowed = lambda a: {} if a is None else {"allowed": float(f"{a:.3g}")}
    hidden = lambda x, a: {} if blind else tensor(x) | allowed(a)
    return made | {"expect": {o: hidden(x, a) for o, (x, a) in case.expect.items()}}


def write(path: str | Path, data: dict) -> None:
    """A set as a file, one case a line, and the chain last."""
    line = functools.partial(json.dumps, ensure_ascii=True, allow_nan=False)
    head = line({k: v for k, v in data.items() if k not in ("cases", "chain")})[:-1]
    cases = ",\n".join(map(line, data["cases"]))
    text = f'{head}, "cases": [\n{cases}\n],\n"chain": {line(data["chain"])}}}\n'
    with files.whole(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def case_of(data: dict) -> Case:
    """The Case of a CASE that this kit wrote."""
    arrays = lambda key: {name: array(t, f"{data['id']}: {name}") for name, t in data.get(key, {}).items()}
    single = lambda x: x.item() if isinstance(x, np.ndarray) and not x.shape else x
    inputs = {name: single(x) for name, x in arrays("inputs").items()}
    expect = {o: (x, data["expect"][o].get("allowed")) for o, x in arrays("expect").items()}
    asked = tuple(o.removeprefix("grad.") for o in expect if o.startswith("grad."))
    return Case(data["id"], data["why"], inputs, asked, arrays("cotangents"), data.get("needs", 1.0), expect)


@functools.cache
def load(seed: int = 0, ops: tuple = ()) -> tuple[Case, ...]:
    """The solved cases of a seed: the public ones from their file, others worked out, or those of `ops` alone."""
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise ValueError(f"seed is {seed!r}; expected a whole number, 0 or more")
    if seed:
        return tuple(solved(case) if not ops or case.op in ops else case for case in drawn(seed))
    return tuple(map(case_of, files.read_json(PUBLIC)["cases"]))


class Answers(NamedTuple):
    """What a consumer gives, and what it declares."""

    given: dict  # case id -> {output: array, text or list of text}
    dtype: str = "float32"
    seed: int = 0
    without: tuple = ()  # operations that are not answered
    gradients: bool = True
    readings: dict = {}
    defects: tuple = ()  # lines
    chain: dict = {}  # name -> array; empty: it is not answered


KIT = schema.Rule(f"{VERSION}: export the set again", lambda x: x == VERSION)
NAMES = schema.Rule(f"a list of {', '.join(OPS)}", lambda x: isinstance(x, list) and all(o in [*OPS] for o in x))
OBJECT = schema.Rule("an object {name: ...}", lambda x: isinstance(x, dict))
HEAD = {"kit": KIT, "seed": schema.whole(0), "dtype": schema.one_of(EPS), "without": NAMES}
HEAD |= {"gradients": schema.BOOLEAN, "readings": OBJECT, "answers": OBJECT, "chain": OBJECT}


def read(path: str | Path, seed: int | None = None) -> Answers:
    """The answers of a file. ValueError for a file that cannot be read, or whose head is wrong, in one line."""
    data = files.read_json(path)
    own: dict = {"without": [], "gradients": True, "readings": {}, "chain": {}}
    own |= data if isinstance(data, dict) else {}
    for name, rule in HEAD.items():
        if name in own:  # the kit is the first: one of another may have other members
            schema.check(own[name], rule, f"{path}: {name}")
    if odd := own.keys() ^ HEAD.keys():
        found = brief(", ".join(sorted(odd)))
        raise ValueError(f"{path}: missing or unknown: {found}; expected an object of {', '.join(HEAD)}")
    if seed not in (None, own["seed"]):
        raise ValueError(f"{path}: answers of seed {own['seed']}; expected those of seed {seed}")
    try:
        chosen(own["readings"])
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    defects: list[str] = []

    def arrays(where, tensors):
        found = {}
        for name, t in tensors.items():
            try:
                found[name] = array(t, f"{where}: {name}")
            except ValueError as error:
                defects.append(str(error))
        return found

    cases, given = {case.id: case for case in load(own["seed"])}, {}
    for id, outputs in own["answers"].items():
        names = [*cases[id].expect] if id in cases else []
        if not names:
            defects.append(f"there is no case {brief(id)}; `{program('conform', 'explain')}` lists them")
        elif not isinstance(outputs, dict):
            defects.append(f"{id}: expected {{output: tensor}}, found {brief(outputs)}")
        else:
            known = {o: t for o, t in outputs.items() if o in names or "refused" in (o, *names)}
            strange = [brief(o) for o in outputs if o not in known]
            defects += [f"{id}: there is no output {o}; expected {', '.join(names)}" for o in strange]
            given[id] = arrays(id, known)
    chain = {name: np.asarray(a) for name, a in arrays("chain", own["chain"]).items()}
    declared = {name: own[name] for name in ("dtype", "seed", "gradients", "readings")}
    return Answers(given, without=tuple(own["without"]), defects=tuple(defects), chain=chain, **declared)

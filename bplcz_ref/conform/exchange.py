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

from bplcz_ref import files, program, schema
from bplcz_ref.conform.numbers import EPS, solved
from bplcz_ref.conform.ops import OPS, Case

VERSION = "3.0.0"  # MAJOR: the format; MINOR: cases; PATCH: a case that was wrong
VECTORS = Path(__file__).resolve().parent.parent / "vectors"
PUBLIC = VECTORS / "set-0.json"
WORDS = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}

# ---------------------------------------------------------------- tensors


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
    return {"dtype": "float64", "shape": list(x.shape), "data": [_written(float(v)) for v in x.ravel()]}


def _written(v):
    if math.isfinite(v):
        return v + 0.0  # turns -0.0 into 0.0
    return "NaN" if math.isnan(v) else "Infinity" if v > 0 else "-Infinity"


def array(t: Any, where: str) -> Any:
    """The array of a TENSOR, or text, or a list of text; ValueError names `where` and what is wrong.

    >>> array({"shape": [1, 2], "data": [1, "NaN"]}, "answers.json: bce/ordinary: S").tolist()
    [[1.0, nan]]
    """
    if not isinstance(t, dict) or not {"shape", "data"} <= set(t):
        raise ValueError(f'{where}: expected {{"shape": [...], "data": [...]}}, found {brief(t)}')
    shape, data = t["shape"], t["data"]
    if not isinstance(shape, list) or not all(type(n) is int and n >= 0 for n in shape):
        raise ValueError(f"{where}: shape is {brief(shape)}, expected a list of whole numbers")
    if not isinstance(data, list):
        raise ValueError(f"{where}: data is {brief(data)}, expected one flat list")
    if math.prod(shape) != len(data):
        raise ValueError(f"{where}: shape {brief(shape)} means {math.prod(shape)} entries, found {len(data)}")
    if data and all(type(v) is str and v not in WORDS for v in data):
        return data if shape else data[0]
    if not data and t.get("dtype") == "string":
        return []
    if data and all(type(v) is int and abs(v) < 2**63 for v in data) and t.get("dtype") != "float64":
        return np.array(data, dtype=np.int64).reshape(shape)  # JavaScript writes floats without a point too
    numbers = []
    for place, v in enumerate(data):
        v = WORDS[v] if type(v) is str and v in WORDS else v
        if type(v) not in (int, float):
            raise ValueError(f'{where}: entry {place} is {brief(v)}, expected a number or "NaN", "Infinity"')
        numbers.append(float(v))
    return np.array(numbers).reshape(shape)


def brief(x: Any) -> str:
    """A value as short text."""
    return schema.brief(x, 60)


# ---------------------------------------------------------------- the set


def set_of(cases: Iterable[Case], seed: int = 0, blind: bool = False) -> dict:
    """The SET of solved cases, and the chain; `blind` leaves out what is expected."""
    from bplcz_ref import paper, prompts, tokenizer
    from bplcz_ref.conform import chain

    merges = (tokenizer.vocabulary_folder() / tokenizer.MACHINE_FILE).read_text("utf-8").split("\n")[1:]
    ops = {op: {"place": o.place, "formula": o.formula, "rests_on": list(o.parents)} for op, o in OPS.items()}
    head = {"kit": VERSION, "seed": seed, "paper": f"arXiv {paper.ARXIV}", "eps": EPS, "operations": ops}
    head |= {"descriptions": list(prompts.DESCRIPTIONS), "merges": [line for line in merges if line]}
    given = chain.given(seed)
    named = {"weights": {name: tensor(a) for name, a in given.pop("weights").items()}}
    named |= {name: tensor(x) if isinstance(x, np.ndarray) else x for name, x in given.items()}
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
    whole = lambda arrays: {name: array(t, f"{data['id']}: {name}") for name, t in arrays.items()}
    inputs = {
        n: x.item() if isinstance(x, np.ndarray) and not x.shape else x for n, x in whole(data["inputs"]).items()
    }
    values = {o: array(t, f"{data['id']}: {o}") for o, t in data["expect"].items()}
    expect = {o: (x, data["expect"][o].get("allowed")) for o, x in values.items()}
    asked = tuple(o.removeprefix("grad.") for o in expect if o.startswith("grad."))
    return Case(
        data["id"], data["why"], inputs, asked, whole(data.get("cotangents", {})), data.get("needs", 1.0), expect
    )


@functools.cache
def load(seed: int = 0) -> tuple[Case, ...]:
    """The solved cases of a seed: the public ones from their file, others worked out."""
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise ValueError(f"seed is {seed!r}; expected a whole number, 0 or more")
    if seed:
        from bplcz_ref.conform.cases import drawn

        return tuple(solved(case) for case in drawn(seed))
    data = files.read_json(PUBLIC)
    if data.get("kit") != VERSION:
        raise ValueError(
            f"{PUBLIC}: is of kit {brief(data.get('kit'))}, expected {VERSION}; install the package again"
        )
    return tuple(case_of(case) for case in data["cases"])


# ---------------------------------------------------------------- the answers


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


def read(path: str | Path, seed: int | None = None) -> Answers:
    """The answers of a file. ValueError for a file that cannot be read, or whose head is wrong, in one line."""
    data = files.read_json(path)
    head = {
        "kit": schema.one_of([VERSION]),
        "seed": schema.whole(0),
        "dtype": schema.one_of(EPS),
        "without": [schema.one_of(OPS)],
        "gradients": schema.Rule("true or false", lambda x: isinstance(x, bool)),
        "readings": schema.Rule("an object {reading: word}", lambda x: isinstance(x, dict)),
        "answers": schema.Rule("an object {case id: {output: tensor}}", lambda x: isinstance(x, dict)),
        "chain": schema.Rule("an object {name: tensor}", lambda x: isinstance(x, dict)),
    }
    if not isinstance(data, dict):
        raise ValueError(f'{path}: expected {{"kit", "seed", "dtype", "answers"}}, found {brief(data)}')
    own: dict = {"without": [], "gradients": True, "readings": {}, "chain": {}} | data
    if isinstance(own.get("kit"), str) and own["kit"] != VERSION:
        raise ValueError(f"{path}: answers of kit {brief(own['kit'])}, this is {VERSION}; export the set again")
    schema.check(own, head, str(path))
    if seed not in (None, own["seed"]):
        raise ValueError(f"{path}: answers of seed {own['seed']}; expected those of seed {seed}")
    from bplcz_ref.conform.mistakes import chosen

    try:
        chosen(own["readings"])
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    cases = {case.id: case for case in load(own["seed"])}
    given, defects = {}, []
    for name, outputs in own.pop("answers").items():
        if name not in cases:
            defects.append(f"there is no case {brief(name)}; `{program('conform', 'explain')}` lists them")
        else:
            given[name], lines = _outputs(outputs, cases[name])
            defects += lines
    chain = {}
    for name, t in own.pop("chain").items():
        try:
            chain[name] = np.asarray(array(t, f"chain: {name}"))
        except ValueError as error:
            defects.append(str(error))
    own |= {"given": given, "without": tuple(own["without"]), "defects": tuple(defects), "chain": chain}
    own.pop("kit")
    return Answers(**own)


def _outputs(outputs, case):
    """({output: array}, lines) of one case's answer."""
    if not isinstance(outputs, dict):
        return {}, [f"{case.id}: expected {{output: tensor}}, found {brief(outputs)}"]
    arrays, lines = {}, []
    for name, t in outputs.items():
        if name not in case.expect and "refused" not in (name, *case.expect):
            lines.append(f"{case.id}: there is no output {brief(name)}; expected {', '.join(case.expect)}")
            continue
        try:
            arrays[name] = array(t, f"{case.id}: {name}")
        except ValueError as error:
            lines.append(str(error))
    return arrays, lines

"""How answers become graded cases. The steps, in the order of this file:

    read(folder, vectors)        the answers of a folder of files, which programs we do not know have written
    read_profile(path)           what a consumer declares: other readings, and what it does not answer
    under_readings(cases, ...)   the cases with the values that are right under those readings
    grade(case, answer, dtype)   one case: the error of each output, and the wrong readings that it equals

Then `report` in verdict.py takes the steps 3 and 4 for all cases and turns their outcomes into a verdict. Nothing
is guessed or repaired: a defect of the files is one line and makes the exit code 2. What could be read is graded
nevertheless.
"""

import math
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np

from bplcz_ref import files
from bplcz_ref.conform import kit, naming
from bplcz_ref.conform.kit import MARGIN, RANGES, SUITES, Kit, brief, budget, case_of, distance, floats
from bplcz_ref.conform.ops import FORMULAS, OPS, rests_on
from bplcz_ref.conform.oracle import expectations
from bplcz_ref.conform.wrong import READINGS, WRONG

# ---------------------------------------------------------------- 1. reading the answers

LARGEST_FILE = 64 * 2**20  # bytes


class Answers(NamedTuple):
    given: dict  # case id -> {output: array, text or list of text}
    defects: list  # lines


def read(folder: str | Path, vectors: Kit, skip: Path | None = None, also: tuple = ()) -> Answers:
    """All answers of a folder; `skip` is a file that is no answer (the profile).

    `also` are digests of other manifests that these vectors answer to: of the same set without expected values.
    """
    folder = Path(folder)
    if not folder.is_dir():
        return Answers({}, [f"{folder}: there is no such folder"])
    given: dict = {}
    defects = []
    profile = None if skip is None else os.path.realpath(skip)  # Path.resolve raises where links lead in a circle
    try:
        paths = sorted(p for p in folder.iterdir() if os.path.realpath(p) != profile)
    except OSError as error:
        return Answers({}, [f"{folder}: cannot be listed ({error.strerror})"])
    for path in paths:
        shown = _printable(path.name)
        if path.is_dir() or path.suffix != ".json":
            defects.append(f"{shown}: is not an answer file (*.json); keep other files elsewhere")
            continue
        try:
            part = _answers_of(_read_json(path), shown, vectors, also)
        except ValueError as error:
            defects.append(str(error))
            continue
        for name, outputs in part.items():
            if name not in vectors.cases:
                defects.append(f"{shown}: there is no case {brief(name)}")
            elif name in given:
                defects.append(f"{shown}: case {name!r} was already answered in another file")
            else:
                given[name], lines = _arrays_of(outputs, f"{shown}: {name}", vectors.cases[name])
                defects += lines
    if not paths:
        defects.append(f"{folder}: holds no answers")
    return Answers(given, defects)


def _read_json(path):
    """The JSON of a file that we did not write; an error calls it by its name alone, on one line."""
    try:
        return files.read_json(path, LARGEST_FILE)
    except ValueError as error:
        raise ValueError(str(error).replace(str(path), _printable(path.name))) from None


def _printable(name):
    """A file's name without bytes that are not text, and on one line."""
    return "".join(c if c.isprintable() else "?" for c in name)


def _answers_of(data, path, vectors, also=()):
    """The answers of one file (`path` is its name), after its head has been checked."""
    if not isinstance(data, dict) or not isinstance(data.get("answers"), dict):
        raise ValueError(f'{path}: expected {{"kit", "manifest", "answers": {{case id: outputs}}}}')
    version, again = vectors.manifest["kit"], "export the vectors again"
    if data.get("kit") != version:
        raise ValueError(f"{path}: answers of kit {brief(data.get('kit'))}, this is {version}; {again}")
    if data.get("manifest") not in (vectors.digest, *also):
        raise ValueError(f"{path}: manifest is not the SHA-256 of this kit's manifest.json; {again}")
    return data["answers"]


def _arrays_of(outputs, where, case):
    """({output: array}, lines) of one case's answer."""
    if not isinstance(outputs, dict):
        return {}, [f"{where}: expected {{output: tensor}}, found {brief(outputs)}"]
    arrays, lines = {}, []
    for name, t in outputs.items():
        if name not in case["expect"] and "refused" not in (name, *case["expect"]):
            lines.append(f"{where}: there is no output {brief(name)}")
            continue
        try:
            arrays[name] = kit.array(t, f"{where}: {name}")
        except ValueError as error:
            lines.append(str(error))
    return arrays, lines


# ---------------------------------------------------------------- 2. reading the profile


class Profile(NamedTuple):
    readings: dict  # name -> word, those that differ from the project's
    suites: tuple
    without: tuple
    gradients: bool
    products: str | None = None  # "tf32": the factors of matrix products are rounded to TF32's 11 bits

    def declares(self, case: dict, suite: int) -> bool:
        """Whether the consumer says that it answers this case."""
        return suite in self.suites and case["op"] not in self.without


EVERYTHING = Profile(readings={}, suites=tuple(SUITES), without=(), gradients=True)


def read_profile(path: str | Path) -> Profile:
    """A profile; ValueError names what in it is unknown."""
    return profile_of(_read_json(Path(path)), str(path))


def profile_of(data: dict, where: str = "profile") -> Profile:
    """The Profile of its JSON object."""
    if not isinstance(data, dict):
        raise ValueError(f"{where}: expected an object, found {brief(data)}")
    data = dict(data)
    suites = _members(data.pop("suites", list(SUITES)), SUITES, f"{where}: suites")
    if not suites:
        raise ValueError(f"{where}: suites is [], expected a list of at least one")
    without = _members(data.pop("without", []), OPS, f"{where}: without")
    gradients = data.pop("gradients", True)
    if not isinstance(gradients, bool):
        raise ValueError(f"{where}: gradients is {brief(gradients)}, expected true or false")
    products = data.pop("products", None)
    if products not in (None, "tf32"):
        raise ValueError(f'{where}: products is {brief(products)}; expected "tf32", or leave it out')
    for name, word in data.items():
        if name not in READINGS:
            known = ", ".join(READINGS)
            raise ValueError(f"{where}: {brief(name)} is no reading that this kit grades; it knows {known}")
        words = [READINGS[name], *(w.reading[name] for w in WRONG if w.reading and name in w.reading)]
        if word not in words:
            expected = ", ".join(dict.fromkeys(words))
            raise ValueError(f"{where}: {name} is {brief(word)}; expected one of {expected}")
    readings = {name: word for name, word in data.items() if word != READINGS[name]}
    return Profile(readings, tuple(suites), tuple(without), gradients, products)


def _members(value, known, where):
    """A list of known suites or operations."""
    if not isinstance(value, list):
        raise ValueError(f"{where} is {brief(value)}, expected a list")
    strange = [v for v in value if not isinstance(v, (str, int)) or isinstance(v, bool) or v not in known]
    if strange:
        raise ValueError(f"{where}: {brief(strange[0])} is not one of {', '.join(map(str, sorted(known)))}")
    return value


# ---------------------------------------------------------------- 3. the cases under other readings


def under_readings(cases: dict, readings: dict, wanted: set) -> dict:
    """The cases under other readings: expected values that change are worked out anew, for the cases `wanted`.

    The project's own reading becomes a near miss of each such case; the one that is now right is none any more.
    """
    if not readings:
        return cases
    table, ops = dict(FORMULAS), set()
    changed: dict = {}
    for name, word in readings.items():
        wrong = next(w for w in WRONG if w.reading == {name: word})  # the first: of the operation it belongs to
        if wrong.entry in changed:
            raise ValueError(f"profile: {name} and {changed[wrong.entry]} cannot be graded together")
        table[wrong.entry], changed[wrong.entry] = wrong.function, name
        ops.add(wrong.op)
    ours = ", ".join(f"{name} {READINGS[name]}" for name in readings)
    out = {}
    for name, case in cases.items():
        if name in wanted and ops & rests_on(case["op"]):
            expect, _ = expectations(case_of(case), table)
            near = [
                n for n in case["near_misses"] if not set(n["reading"] or {}) & set(readings) and "expect" in n
            ]
            paper = {"name": f"the paper as read here ({ours})", "reading": None, "shows": True}
            near.append(paper | {"expect": case["expect"]})
            case = case | {
                "expect": expect,
                "near_misses": [n for n in near if _is_far(n, expect)],
                "read": readings,
            }
        out[name] = case
    return out


def _is_far(near, expect):
    """Whether a near miss is still one where these values are right."""
    for name, t in near["expect"].items():
        e = expect.get(name)
        if e is None:
            return True
        if t["shape"] != e["shape"] or "scale" not in e:
            if t["data"] != e["data"]:
                return True
        elif distance(floats(t), floats(e), e["scale"]) > MARGIN * budget(e, "float32"):
            return True
    return False


# ---------------------------------------------------------------- 4. grading one case

PASS, FAIL, MISSING, UNDECIDED, NOT_RUN = "pass", "fail", "incomplete", "cannot discriminate", "not run"
NOT_ASKED = "cannot be asked"  # the case needs numbers that the dtype does not have
ALL_DIGITS = float(kit.ALL_DIGITS)  # what equal numbers agree to
NEED_GRADIENTS = ("grad.", "after.", "L_step")  # outputs of these names are left out by "gradients": false


class Outcome(NamedTuple):
    """One output of one case."""

    passed: bool
    error: float  # max |answer - expected| / scale; infinite for another shape, kind or text
    allowed: float
    digits: float  # decimal digits that agree, relative to the scale
    note: str = ""
    malformed: bool = False  # another shape or kind of data: an answer that cannot be compared


class Graded(NamedTuple):
    """One case."""

    id: str
    op: str
    state: str
    outcomes: dict  # output -> Outcome, in the order of computation
    fits: tuple = ()  # names of the wrong readings that the answer equals
    accepted: tuple = ()  # names of accepted differences that explain all that differs
    unseen: tuple = ()  # near misses that this dtype cannot tell from the right value
    why: str = ""


def grade(
    case: dict, answer: dict | None, dtype: str, gradients: bool = True, products: str | None = None
) -> Graded:
    """The Graded of one case, without names for what is wrong; `answer` is None where there is none."""
    graded = Graded(case["id"], case["op"], MISSING, {}, why="not answered")
    (smallest, largest), (least, most) = case.get("range", (1, 1)), RANGES[dtype]
    if smallest < least or largest > most:
        return graded._replace(state=NOT_ASKED, why=f"needs numbers from {smallest:g} to {largest:g}")
    if answer is None:
        return graded
    wanted = [o for o in case["expect"] if gradients or not o.startswith(NEED_GRADIENTS)]
    if "refused" in answer and "refused" not in wanted:
        graded = graded._replace(
            state=FAIL, outcomes={wanted[0]: _lost("refused", malformed=False)}, why="refused"
        )
        return graded._replace(fits=naming.known(case, answer, graded.outcomes, dtype))
    if "refused" in wanted and answer and "refused" not in answer:
        lost = {"refused": _lost("not refused", malformed=False)}
        return graded._replace(state=FAIL, outcomes=lost, why="answered")
    outcomes = {o: outcome(case["expect"][o], answer[o], dtype) for o in wanted if o in answer}
    absent = [o for o in wanted if o not in answer]
    why = f"no output {', '.join(absent[:3])}{' ...' if len(absent) > 3 else ''}" if absent else ""
    unseen = _hidden(case, dtype)
    graded = graded._replace(outcomes=outcomes, unseen=unseen, why=why)
    if not all(o.passed for o in outcomes.values()):
        if accepted := naming.accepted(case, answer, outcomes, dtype, products):
            if accepted == (naming.TF32,):
                graded = graded._replace(unseen=_hidden(case, "float16"))
            right = {
                o: found._replace(passed=True, note=f"accepted: {accepted[0]}") for o, found in outcomes.items()
            }
            state = MISSING if absent else UNDECIDED if graded.unseen else PASS
            return graded._replace(state=state, outcomes=right, accepted=accepted)
        return graded._replace(state=FAIL)
    return graded._replace(state=MISSING if absent else UNDECIDED if unseen else PASS)


def outcome(expected: dict, answer: np.ndarray | str | list, dtype: str) -> Outcome:
    """The Outcome of one answer."""
    if expected["dtype"] == "string":
        if isinstance(answer, np.ndarray) and answer.shape != (0,):  # without entries: neither numbers nor text
            return _lost("numbers for text")
        return _equal(answer, kit.array(expected, "vectors"))
    allowed = budget(expected, dtype) if "scale" in expected else 0.0
    if not isinstance(answer, np.ndarray):
        return _lost("text for numbers", allowed)
    if list(answer.shape) != expected["shape"]:
        return _lost(f"shape {list(answer.shape)} for {expected['shape']}", allowed)
    if "scale" not in expected:
        return _equal(answer, kit.array(expected, "vectors"))
    error = distance(answer, floats(expected), expected["scale"])
    digits = ALL_DIGITS if error == 0 else max(0.0, min(ALL_DIGITS, -math.log10(error)))
    note = "" if np.isfinite(answer).all() else "nan"
    return Outcome(error <= allowed, error, allowed, digits, note)


def _lost(note, allowed=0.0, malformed=True):
    return Outcome(False, math.inf, allowed, 0.0, note, malformed)


def _equal(answer, want):
    """The Outcome of whole numbers or text, which have to agree exactly."""
    if np.shape(answer) == np.shape(want) and np.array_equal(answer, want):
        return Outcome(True, 0.0, 0.0, ALL_DIGITS)
    plain = lambda x: x.ravel().tolist() if isinstance(x, np.ndarray) else x
    return _lost(f"{brief(plain(answer))} for {brief(plain(want))}", malformed=False)


def _hidden(case, dtype):
    """The near misses of a case that a dtype cannot tell from the right value."""
    return tuple(n["name"] for n in case["near_misses"] if n["shows"] and not _can_tell(case, n, dtype))


def _can_tell(case, near, dtype):
    """Whether no answer of this dtype can be within the budget of both the right value and the near miss."""
    for output, wrong in near["expect"].items():
        right = case["expect"].get(output)
        if right is None:  # refused, or not
            return True
        if "scale" not in right or wrong["shape"] != right["shape"] or wrong["dtype"] != right["dtype"]:
            return True
        if distance(floats(wrong), floats(right), right["scale"]) > 2 * budget(right, dtype):
            return True
    return False

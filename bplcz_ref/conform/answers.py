"""Reads a folder of answers and a profile, written by programs we do not know: what is wrong becomes one line.

Nothing is guessed and nothing is repaired. A defect makes the exit code 2; what could be read is graded
all the same.
"""

import json
from pathlib import Path
from typing import NamedTuple

from bplcz_ref.conform import tensors
from bplcz_ref.conform.ops import OPS, SUITES
from bplcz_ref.conform.wrong import READINGS
from bplcz_ref.conform.wrong_layers import WRONG

LARGEST = 64 * 2**20  # bytes of one file


class Answers(NamedTuple):
    given: dict  # case id -> {output: array, text or list of text}
    defects: list  # lines


class Profile(NamedTuple):
    readings: dict  # name -> word, those that differ from the project's
    suites: tuple
    without: tuple
    gradients: bool

    def declares(self, case, suite):
        """Whether the consumer says that it answers this case."""
        return suite in self.suites and case["op"] not in self.without


EVERYTHING = Profile({}, tuple(SUITES), (), True)


def no_constant(word):
    raise ValueError(f'{word} is not JSON; write the string "{word}"')


def no_twins(pairs):
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{twice!r} stands twice in one object")
    return found


def read_json(path):
    """The JSON of a file we did not write."""
    try:
        size = path.stat().st_size
        if size > LARGEST:
            raise ValueError(f"{path.name}: {size} bytes, more than the {LARGEST} that an answer file may have")
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path.name}: cannot be read as UTF-8 text ({error})") from None
    if not text.strip():
        raise ValueError(f"{path.name}: the file is empty")
    try:
        return json.loads(text, parse_constant=no_constant, object_pairs_hook=no_twins)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path.name}: not valid JSON ({error or 'nested too deeply'}); is it cut?") from None


def read(folder, kit, skip=None):
    """All answers of a folder; `skip` is a file that is no answer (the profile)."""
    folder = Path(folder)
    if not folder.is_dir():
        return Answers({}, [f"{folder}: there is no such folder"])
    given, defects = {}, []
    paths = sorted(p for p in folder.iterdir() if skip is None or p.resolve() != Path(skip).resolve())
    for path in paths:
        if path.is_dir() or path.suffix != ".json":
            defects.append(f"{path.name}: is not an answer file (*.json); keep other files elsewhere")
            continue
        try:
            part = content(read_json(path), path.name, kit)
        except ValueError as error:
            defects.append(str(error))
            continue
        for name, outputs in part.items():
            if name in given:
                defects.append(f"{path.name}: case {name!r} was already answered in another file")
            elif name not in kit.cases:
                defects.append(f"{path.name}: there is no case {tensors.brief(name)}")
            else:
                given[name], lines = outputs_of(outputs, f"{path.name}: {name}", kit.cases[name])
                defects += lines
    if not paths:
        defects.append(f"{folder}: holds no answers")
    return Answers(given, defects)


def content(data, path, kit):
    """The answers of one file (`path` is its name), after its head has been checked."""
    if not isinstance(data, dict) or not isinstance(data.get("answers"), dict):
        raise ValueError(f'{path}: expected {{"kit", "manifest", "answers": {{case id: outputs}}}}')
    if data.get("kit") != kit.manifest["kit"]:
        found = tensors.brief(data.get("kit"))
        raise ValueError(
            f"{path}: answers of kit {found}, this is {kit.manifest['kit']}; export the vectors again"
        )
    if data.get("manifest") != kit.digest:
        raise ValueError(
            f"{path}: manifest is not the SHA-256 of this kit's manifest.json; export the vectors again"
        )
    return data["answers"]


def outputs_of(outputs, where, case):
    """({output: array}, lines) of one case's answer."""
    if not isinstance(outputs, dict):
        return {}, [f"{where}: expected {{output: tensor}}, found {tensors.brief(outputs)}"]
    arrays, lines = {}, []
    for name, t in outputs.items():
        if name not in case["expect"] and name != "refused":
            lines.append(f"{where}: there is no output {tensors.brief(name)}")
            continue
        try:
            arrays[name] = tensors.array(t, f"{where}: {name}")
        except ValueError as error:
            lines.append(str(error))
    return arrays, lines


def read_profile(path):
    """A profile; ValueError that says what in it is not known."""
    return profile_of(read_json(Path(path)), path)


def profile_of(data, where="profile"):
    """A Profile of its JSON object."""
    if not isinstance(data, dict):
        raise ValueError(f"{where}: expected an object, found {tensors.brief(data)}")
    data = dict(data)
    suites = listed(data.pop("suites", list(SUITES)), set(SUITES), f"{where}: suites")
    without = listed(data.pop("without", []), set(OPS), f"{where}: without")
    gradients = data.pop("gradients", True)
    if not isinstance(gradients, bool):
        raise ValueError(f"{where}: gradients is {tensors.brief(gradients)}, expected true or false")
    readings = {}
    for name, word in data.items():
        if name not in READINGS:
            raise ValueError(
                f"{where}: {name!r} is no reading that this kit grades; it knows {', '.join(READINGS)}"
            )
        words = (w.reading[1] for w in WRONG if w.reading and w.reading[0] == name)
        known = list(dict.fromkeys([READINGS[name], *words]))
        if word not in known:
            raise ValueError(f"{where}: {name} is {tensors.brief(word)}; expected one of {', '.join(known)}")
        if word != READINGS[name]:
            readings[name] = word
    return Profile(readings, tuple(suites), tuple(without), gradients)


def listed(value, known, where):
    if not isinstance(value, list) or not value and "suites" in where:
        raise ValueError(f"{where} is {tensors.brief(value)}, expected a list")
    strange = [v for v in value if not isinstance(v, (str, int)) or isinstance(v, bool) or v not in known]
    if strange:
        raise ValueError(
            f"{where}: {tensors.brief(strange[0])} is not one of {', '.join(map(str, sorted(known)))}"
        )
    return value

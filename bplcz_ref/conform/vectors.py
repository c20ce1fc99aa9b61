"""Reads the packaged vectors, each file against its checksum in the manifest."""

import functools
import hashlib
import json
from pathlib import Path
from typing import NamedTuple

VECTORS = Path(__file__).resolve().parent.parent / "vectors"


class Kit(NamedTuple):
    manifest: dict
    digest: str  # sha256 of manifest.json
    cases: dict  # id -> case, in order
    suites: dict  # id -> suite number


@functools.cache
def load(folder=VECTORS):
    """The vectors of a folder; ValueError that names the file which is missing or was changed."""
    text = read(folder / "manifest.json")
    manifest = json.loads(text)
    cases, suites = {}, {}
    for name, entry in manifest["files"].items():
        data = read(folder / name)
        if hashlib.sha256(data).hexdigest() != entry["sha256"]:
            raise ValueError(f"{folder / name}: checksum differs from manifest.json; install the package again")
        if name.endswith(".json"):
            suite = json.loads(data)
            for case in suite["cases"]:
                cases[case["id"]], suites[case["id"]] = case, suite["suite"]
    return Kit(manifest, hashlib.sha256(text).hexdigest(), cases, suites)


def read(path):
    try:
        return path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror}); install the package again") from None

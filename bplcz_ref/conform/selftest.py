"""Does the kit find what it should? The reference passes, and every wrong reading fails under its own name.

A mutant is the reference with ONE function replaced; its answers are worked out from the vectors and graded like
anybody's. Only the operations that rest on the replaced function are run again.
"""

import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np

from bplcz_ref import files
from bplcz_ref.conform import answers as reading
from bplcz_ref.conform import consumer, tensors, vectors, verdict
from bplcz_ref.conform.grade import rests_on
from bplcz_ref.conform.wrong import CANNOT_SHOW
from bplcz_ref.conform.wrong_layers import WRONG

HEAVY = "training"  # its three steps cost more than all else: mutants run it only on demand


class Mutant(NamedTuple):
    op: str
    name: str
    killed: bool  # the verdict is not a pass
    located: bool  # its operation is guilty, and nothing else is
    named: bool  # ... and its own name is given
    names: tuple


class Selftest(NamedTuple):
    reference: dict  # "float64 parts" -> Report
    mutants: tuple

    @property
    def ok(self):
        return all(r.ok for r in self.reference.values()) and all(
            m.killed and m.located and m.named for m in self.mutants
        )

    def __str__(self):
        return text(self)


def by_file(kit, f, dtype):
    """The answers of a table as a folder of files, read back: the way that a stranger's go."""
    with tempfile.TemporaryDirectory() as folder:
        write(folder, kit, consumer.answers(kit.cases, f, dtype))
        return reading.read(folder, kit)


def write(folder, kit, given):
    """Answers as one file a suite."""
    suites = {kit.suites[name] for name in given}
    for suite in suites:
        own = {name: given[name] for name in given if kit.suites[name] == suite}
        head = {"kit": kit.manifest["kit"], "manifest": kit.digest, "answers": own}
        files.write_json(Path(folder) / f"{suite}.json", head)


def affected(kit, op, chain):
    """The cases whose operation is, or rests on, `op`."""
    return {
        name: case
        for name, case in kit.cases.items()
        if op in rests_on(case["op"]) and (chain or case["op"] != HEAVY or op == HEAVY)
    }


def mutant(kit, right, wrong, dtype="float32", chain=False):
    """The verdict on the reference with one function replaced."""
    table = consumer.PARTS | {wrong.entry: wrong.function}
    given = dict(right)
    for name, case in affected(kit, wrong.op, chain).items():
        try:
            with np.errstate(all="ignore"):  # mutants divide by zero and overflow; that is their point
                given[name] = {o: plain(x) for o, x in consumer.answer(case, table, dtype).items()}
        except ValueError:  # further on, the package's own functions may refuse what the mutant made
            del given[name]
    r = verdict.report(kit, reading.Answers(given, []), dtype)
    guilty = [f for f in r.findings if f.state in ("guilty", "drift")]
    located = [f.op for f in guilty] == [wrong.op]
    names = guilty[0].names if guilty else ()
    return Mutant(wrong.op, wrong.name, r.exit_code != 0, located, located and wrong.name in names, names), r


def plain(x):
    """What a consumer's answer is after it went through a file."""
    return tensors.array(tensors.tensor(x), "answer")


def run(dtypes=("float64", "float32"), chain=False):
    """Everything: the reference twice in each dtype, then every mutant."""
    kit = vectors.load()
    reference, right = {}, None
    for dtype in dtypes:
        for kind, table in (("parts", consumer.PARTS), ("whole", consumer.WHOLE)):
            given = by_file(kit, table, dtype)
            reference[f"{dtype} {kind}"] = verdict.report(kit, given, dtype)
            if kind == "parts":
                right = given.given
    return Selftest(reference, tuple(mutant(kit, right, w, dtypes[-1], chain)[0] for w in WRONG))


def text(s):
    lines = [f"reference, {name}: {verdict.head(r)}" for name, r in s.reference.items()]
    killed, located, named = (sum(getattr(m, k) for m in s.mutants) for k in ("killed", "located", "named"))
    n = len(s.mutants)
    lines.append(f"mutants: {n}; found {killed}, located exactly {located}, named {named}")
    for m in s.mutants:
        if not m.named:
            lines.append(
                f"  not named: {m.op}: {m.name} (located: {m.located}; said: {', '.join(m.names) or 'nothing'})"
            )
    shared = [m for m in s.mutants if m.named and len(m.names) > 1]
    lines += [f"  {m.op}: {m.name} cannot be told from {', '.join(set(m.names) - {m.name})}" for m in shared]
    lines += [f"cannot be shown: {c['op']}: {c['name']}: {c['why']}" for c in CANNOT_SHOW]
    return "\n".join([*lines, "the self-test passes" if s.ok else "THE SELF-TEST FAILS"])

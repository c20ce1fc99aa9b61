"""One case in full: formula, inputs, every intermediate by symbol, what is expected, an answer beside it."""

import numpy as np

from bplcz_ref.conform import grade, tensors
from bplcz_ref.conform.ops import OPS, SUITES

ROWS = 8  # of a matrix; the files hold all of it


def norms(x):
    return np.sqrt(np.sum(x * x, axis=-1, keepdims=True))


def softmax(x):
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def between(case):
    """[(symbol, value)] of what lies between inputs and outputs, in float64, for reading only."""
    i = {name: tensors.array(t, name) for name, t in case["inputs"].items()}
    op = case["op"]
    if op == "similarity":
        u, v = (i[n] / np.maximum(norms(i[n]), 1e-12) for n in ("I_i", "T_i"))
        return [("||I_i||", norms(i["I_i"])), ("||T_i||", norms(i["T_i"])), ("u", u), ("v", v)]
    if op == "fuse":
        return [("sum_i S_i", i["S_groups"].sum(0))]
    if op in ("bce", "contrastive_loss"):
        return [("sigma(S)", 1 / (1 + np.exp(-i["S"]))), ("terms", np.logaddexp(0, (1 - 2 * i["W"]) * i["S"]))]
    if op == "cross_entropy":
        p = softmax(i["c_hat"])
        return [("softmax(c_hat)", p), ("log softmax at c", np.log(p[np.arange(len(p)), i["c"]]))]
    if op == "sgd":
        return [("gradient + decay w, first step", i["gradients"][0] + i["weight_decay"] * i["w"])]
    if op == "metrics":
        C = tensors.array(case["expect"]["confusion"], "C")
        return [
            ("row sums", C.sum(1)),
            ("column sums", C.sum(0)),
            ("p_e", (C.sum(1) * C.sum(0)).sum() / C.sum() ** 2),
        ]
    return []


def shown(name, value):
    """A name and its numbers, at most ROWS rows."""
    if isinstance(value, (str, list)):
        return [f"  {name} = {value!r}"]
    value = np.asarray(value)
    shape = f" {value.shape}" if value.shape else ""
    if value.ndim < 2 and value.size <= 8:
        return [f"  {name}{shape} = {' '.join(f'{x:.9g}' for x in value.ravel())}"]
    rows = value.reshape(-1, value.shape[-1])
    lines = [f"  {name}{shape}"]
    for row in rows[:ROWS]:
        lines.append("    " + " ".join(f"{x:12.6g}" for x in row[:10]) + " ..." * (len(row) > 10))
    return lines + [f"    ... {len(rows) - ROWS} more rows"] * (len(rows) > ROWS)


def listing(kit):
    """Every operation with its formula, its inputs and outputs and its cases."""
    lines = []
    for op, o in OPS.items():
        own = [case for case in kit.cases.values() if case["op"] == op]
        outputs = [name for name in own[0]["expect"] if not name.startswith(("grad.", "after."))]
        lines.append(f"{op}({brief(own[0]['inputs'])}) -> {brief(outputs)}: {o.formula}")
        lines += [f"  {case['id']}: {case['why']}" for case in own]
    return "\n".join(lines)


def brief(names):
    names = list(names)
    return ", ".join(names[:12]) + ", ..." * (len(names) > 12)


def explain(kit, case_id, answer=None, dtype="float32"):
    """The text on one case; with `answer` ({output: array}) its values and errors too."""
    if case_id not in kit.cases:
        near = [name for name in kit.cases if case_id.split("/")[0] in name]
        raise ValueError(f"there is no case {case_id!r}; there are {', '.join(near or kit.cases)}")
    case = kit.cases[case_id]
    o = OPS[case["op"]]
    place = f"Eq. ({o.equation})" if isinstance(o.equation, int) else o.equation or "-"
    lines = [
        f"{case_id}  (suite {kit.suites[case_id]} {SUITES[kit.suites[case_id]]}, {place}, {case['flag']})",
        f"  {case['why']}",
        f"  formula: {case['formula']}",
        f"  rests on: {', '.join(case['parents']) or 'nothing'}; expected values by {case['source']['method']}",
    ]
    parts = [("inputs", [(n, tensors.array(t, n)) for n, t in case["inputs"].items()])]
    parts.append(("cotangents", [(n, tensors.array(t, n)) for n, t in case.get("cotangents", {}).items()]))
    parts.append(("between", between(case)))
    for title, members in parts:
        if members:
            lines += [title, *(line for name, value in members for line in shown(name, value))]
    lines.append("expected")
    graded = None if answer is None else grade.grade(case, answer, dtype)
    for name, t in case["expect"].items():
        lines += shown(name, tensors.array(t, name))
        if graded and name in graded.outcomes:
            found = graded.outcomes[name]
            word = "agrees" if found.passed else "DIFFERS"
            lines.append(
                f"    {word}: error {found.error:.3g} of scale, budget {found.allowed:.3g} ({dtype}), "
                f"{found.digits:.1f} digits {found.note}"
            )
            if not found.passed:
                lines += [
                    f"  answered: {line.strip()}" if k == 0 else line
                    for k, line in enumerate(shown(name, answer[name]))
                ]
        elif graded:
            lines.append("    not answered")
    if case["near_misses"]:
        lines.append("wrong readings that show here (distance in units of the scale)")
        lines += [f"  {n['distance']:9.3g}  {n['name']}" for n in case["near_misses"] if n["shows"]]
    if graded and graded.fits:
        lines.append(f"the answer equals: {', '.join(graded.fits)}")
    return "\n".join(lines)

"""The kit called from Python, for frameworks that can be imported: functions in, a report out."""

from collections.abc import Callable

import numpy as np

from bplcz_ref.conform import kit
from bplcz_ref.conform.grading import Answers, profile_of
from bplcz_ref.conform.kit import EPS, brief
from bplcz_ref.conform.ops import OPS
from bplcz_ref.conform.verdict import Report, report


def check(
    functions: dict,
    gradients: Callable | None = None,
    from_numpy: Callable | None = None,
    to_numpy: Callable = np.asarray,
    dtype: str = "float32",
    profile: dict | None = None,
) -> Report:
    """Grade functions of another implementation; operations that are not given are reported as not run.

    functions   {operation: function}. A function takes the inputs of the case by name (arrays through
                from_numpy, numbers, text) and returns its outputs: a dict by name, a tuple in the order of the
                case, or the only one. `conform explain` lists the operations, with a case id their inputs.
    gradients   function(f, inputs, names, cotangents) -> {input name: gradient} of sum over outputs of
                sum(cotangent * output), cotangents by output name; None declares that there are no gradients.
    from_numpy  from a NumPy array of floats or ints to the framework's; to_numpy is the way back
    dtype       "float64", "float32", "float16" or "bfloat16": what the functions compute in
    profile     a dict as in profile.json
    Returns a Report: `ok`, `exit_code`, `findings`; str(report) is the verdict.

    >>> print(check({"total_loss": lambda L_cls, L_con, beta: L_cls * beta + L_con}))  # doctest: +ELLIPSIS
    DIVERGES: 0 of ... cases pass, 3 fail, ... not run (float32, kit ...)
    GUILTY   Eq. (10) L [total_loss]: this is "beta on the other term"; 3 of 3 cases, first at L: error ...
             python -m bplcz_ref conform explain total_loss/...
    not run, as the profile declares: all of suite 0 canaries, ..., all of suite 9 inference,
      similarity 8 of 8 cases, fuse ...
    not run, as the profile declares: gradients, and the training steps that need them
    """
    if dtype not in EPS:
        raise ValueError(f"dtype is {dtype!r}; expected one of {', '.join(EPS)}")
    strange = [name for name in functions if name not in OPS]
    if strange or not functions:
        raise ValueError(f"functions: {strange or 'none given'}; expected names among {', '.join(OPS)}")
    vectors, given, defects = kit.load(), {}, []
    declared = profile_of(dict(profile or {}))
    without = [op for op in OPS if op not in functions or op in declared.without]
    declared = declared._replace(without=tuple(without), gradients=declared.gradients and gradients is not None)
    start = "float64" if dtype == "float64" else "float32"  # NumPy has no bfloat16; the grid starts exact in each
    convert = lambda x: from_numpy(x) if from_numpy and isinstance(x, np.ndarray) else x
    for name, data in vectors.cases.items():
        if not declared.declares(data, vectors.suites[name]):
            continue
        case = kit.case_of(data, start)
        wanted = [output for output in data["expect"] if not output.startswith("grad.")]
        f = lambda _function=functions[case.op], _wanted=wanted, **inputs: _named(_function(**inputs), _wanted)
        inputs = {name: convert(x) for name, x in case.inputs.items()}
        try:
            out = f(**inputs)
            if gradients and declared.gradients and case.gradients:
                cotangents = {output: convert(g) for output, g in case.cotangents.items()}
                slopes = gradients(f, inputs, list(case.gradients), cotangents)
                out = out | {f"grad.{name}": g for name, g in slopes.items()}
            given[name] = {output: _plain(x, f"{name}: {output}", to_numpy) for output, x in out.items()}
        except Exception as error:  # a stranger's function may raise anything; that is a finding, not our crash
            defects.append(f"{name}: raised {type(error).__name__}: {brief(str(error))}")
    return report(vectors, Answers(given, defects), dtype, declared)


def _named(out, wanted):
    """{output: value} of what a function returned."""
    if isinstance(out, dict):
        return out
    if isinstance(out, tuple):
        return dict(zip(wanted, out, strict=True))
    if len(wanted) != 1:
        raise ValueError(f"expected a dict or a tuple of {', '.join(wanted)}")
    return {wanted[0]: out}


def _plain(x, where, to_numpy):
    """A function's output as text or as an array of real numbers."""
    if isinstance(x, str) or (isinstance(x, list) and all(isinstance(entry, str) for entry in x)):
        return x
    x = np.asarray(to_numpy(x))
    if x.dtype.kind not in "biuf":
        raise ValueError(f"{where} came as {x.dtype}; expected real numbers or a list of text")
    return x

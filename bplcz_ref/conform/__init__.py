"""The conformance kit: does another implementation compute BP-LCZ, and if not, which equation is the first wrong one?

Two file formats, both plain JSON (UTF-8, RFC 8259: no bare NaN), are all that an implementation has to know.

TENSOR       {"dtype": "float64" | "int64" | "string", "shape": [...], "data": [...]}
             `data` is flat and row-major (C order, the last index fastest); a scalar has shape [] and one entry.
             Not-a-number and infinity are the strings "NaN", "Infinity", "-Infinity".

VECTORS      what `conform export DIR` writes: manifest.json, one file a suite (0-canaries.json ... 8-metrics.json),
             and merges.txt, the tokenizer's merges (CLIP's format: a version line, then "first second" a line).

manifest     {"kit": "1.0.0", "factor": 8, "eps": {"float64": 2^-52, "float32": 2^-23, "float16": 2^-10,
              "bfloat16": 2^-7}, "cases": N, "files": {name: {"sha256": hex, "cases": n}}, "readings": {name: word},
              "cannot_show": [{"op", "name", "why"}]}

suite file   {"kit": "1.0.0", "suite": 1, "name": "equations", "cases": [CASE, ...]}

CASE         {"id": "bce/saturated", "op": "bce",               what to compute; ops.py lists the operations
              "equation": 7, "symbol": "L_i2t", "formula": text, "why": text, "flag": "ORDINARY" | "EDGE" | "CANARY",
              "parents": ["read_array"],                        operations that this one rests on
              "inputs": {name: TENSOR},
              "cotangents": {output: TENSOR},                   absent where no gradient is asked for
              "expect": {output: TENSOR + {"scale": x, "amplification": a}},
              "near_misses": [{"name": "sum for mean", "reading": {"bce-reduction": "sum"} | null, "distance": x,
                               "shows": true | false,           whether float32 tells it apart by 10 budgets
                               "expect": {output: TENSOR}}],    what that wrong reading gives (9 digits)
              "source": {...}}

Outputs named "grad.X" are gradients of sum over outputs o of sum(cotangents[o] * o) with respect to input X. In the
suite "chain" they are gradients of L, and "after.X" is parameter X after the last step.

ANSWERS      a folder with any number of *.json files, each
             {"kit": "1.0.0", "manifest": sha256 of manifest.json as hex, "answers": {case id: {output: TENSOR}}}
             Every case id and every output of `expect` once; `dtype` may be left out. Integers and text must agree
             exactly; floats may come in any precision, of which --dtype says what is to be expected.

PROFILE      optional, --profile FILE: {reading: word, ...} by docs/readings.md (of those in manifest "readings"; the
             consumer is then graded on its own reading), and the explicit declarations of what is not implemented:
             "suites": [0, 1, 2] (only these are answered), "without": ["attention", ...] (operations), "gradients":
             false (no "grad." outputs, hence no parameters "after." training either). What is declared absent is
             reported as not run.

Error of an output = max |answer - expected| / scale, scale = the largest sum of absolute terms. It passes up to
8 x amplification x eps(dtype), the amplification having been measured. Exit codes: 0 all that was declared is
answered and passes; 1 divergence; 2 incomplete, empty, malformed, or of another kit.

In process: `check(functions, ...)`, see `inprocess.check`.
"""

from bplcz_ref.conform.inprocess import check

__all__ = ["check"]

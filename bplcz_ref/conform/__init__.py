"""The conformance kit: does another implementation compute BP-LCZ, and if not, which equation is wrong first?

An implementation has to know two file formats, both plain JSON (UTF-8, RFC 8259: no bare NaN).

TENSOR   {"dtype": "float64" | "int64" | "string", "shape": [...], "data": [...]}
         `data` is flat and row-major (C order, the last index fastest); a scalar has shape [] and one entry.
         Not-a-number and infinities are the strings "NaN", "Infinity", "-Infinity".

VECTORS  what `conform export DIR` writes: manifest.json, one file per suite (0-canaries.json ... 9-inference.json)
         and merges.txt, the tokenizer's merges in CLIP's format: a version line, then one "first second" per line.

manifest {"kit": "2.0.0", "paper": text, "factor": 8,
          "eps": {"float64": 2^-52, "float32": 2^-23, "float16": 2^-10, "bfloat16": 2^-7},
          "ranges": {dtype: [smallest with all bits, largest]},
          "cases": N, "files": {name of a suite's file: {"sha256": hex, "cases": n}},
          "other_files": {"merges.txt": {"sha256": hex}}, "readings": {name: word},
          "cannot_show": [{"op", "name", "why"}]}
          of a seed also "seed": N, "size": text and, where expected values are left out, "blind": true

suite    {"kit": "2.0.0", "suite": 1, "name": "equations", "cases": [CASE, ...]}, one case per line

CASE     {"id": "bce/saturated", "op": "bce",          what to compute; `conform explain` lists the operations
          "equation": 7 | "II-A" | null, "symbol": text, "formula": text, "why": text,
          "flag": "ORDINARY" | "EDGE" | "CANARY" | "PRECISION",
          "parents": ["read_array"],                   the operations that this one rests on
          "inputs": {name: TENSOR},
          "cotangents": {output: TENSOR},              absent where no gradient is asked for
          "expect": {output: TENSOR, floats with "scale": x, "amplification": a},   in the order of computation
          "range": [smallest, largest],                sizes of numbers that the case cannot do without
          "near_misses": [{"name": "sum for mean", "reading": {"bce-reduction": "sum"} | null,
                           "distance": x,              from the right value, in units of the scale
                           "shows": true | false,      whether it lies 10 budgets of float32 away
                           "accepted": true,           only there: a difference that passes and is listed
                           "amplification": {output: a},   only there, in place of expect: a wider budget
                           "expect": {output: TENSOR}}],   what that wrong reading gives (9 digits)
          "source": {"paper": text, "method": text}}

Outputs named "grad.X" are gradients, with respect to input X, of the sum over outputs o of
sum(cotangents[o] * o). In the suite "chain" they are gradients of L at the first step, "L_step2" is L at the
second step, and "after.X" is parameter X after the last. A text that does not fit is answered by {"refused": 1}.
Layouts: images (B, H, W, C); convolutions (O, C, kh, kw); linear weights (out, in); parameters under the names of
the public implementations' state_dicts.
What the formulas of these operations do not say (docs/conformance.md says more):
tokenize       ids: the 256 bytes in CLIP's order, the same with </w>, the lines of merges.txt, SOT, EOT; padding 0
text_encoder   taps: attn and mlp are the branches after their last linear layer, residual_1 and residual_2 the
               sums with x, gelu the QuickGELU of c_fc, at_eot the row of EOT
training       ids is (classes, groups, tokens), groups in the order of `concat-order`
sgd            without momentum the velocity v is the gradient with its decay

ANSWERS  a folder that contains only *.json files, any number of them, each
         {"kit": "2.0.0", "manifest": SHA-256 of manifest.json as hex, "answers": {case id: {output: TENSOR}}}
         Every case is answered once, with every output of its `expect`; `dtype` may be left out. Whole numbers and
         text must agree exactly. Floats may have any precision, and no point, as JavaScript writes 1e20; --dtype
         is the precision they were computed in. JavaScript's JSON.stringify turns NaN into null, which is refused.

PROFILE  optional, --profile FILE: {reading: word, ...} of the readings in the manifest (docs/readings.md); the
         consumer is then graded on its own readings. It also declares what the consumer does not answer:
         "suites": [0, 1, 2]        only these suites are answered
         "without": ["attention"]   these operations are not answered
         "gradients": false         outputs "grad." are not answered, nor "after." and "L_step", which need them
         What is declared absent must not be answered. It is reported as not run: whole suites, or n of m cases.

The error of an output is max |answer - expected| / scale, where the scale is the largest sum of absolute terms. It
passes up to 8 x amplification x eps(dtype), where the amplification has been measured. Exit codes: 0 all that was
declared is answered and passes; 1 divergence; 2 incomplete, empty, malformed, or of another kit.

In process: `check(functions, ...)`, see inprocess.py.

The rooms, in the order in which they import each other: exact (arithmetic) and kit (formats, vectors, budgets);
words (text), networks, ops (formulas), the tables of wrong readings, and clauses; oracle (expected values). Then
naming, grading and verdict, that take answers to a verdict; inprocess and reference (our own consumer, the
self-test) call them. Apart from these, cases_* and generate write the vectors, and seeds draws fresh ones.
command is the command line.
Beside the kit, for a real model and batch: tape and tracing (`trace`), recognise and difference (`diff`);
docs/trace.md.
"""

from bplcz_ref.conform.difference import diff
from bplcz_ref.conform.inprocess import check
from bplcz_ref.conform.tracing import trace

__all__ = ["check", "diff", "trace"]

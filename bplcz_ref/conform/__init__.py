"""The conformance kit: does another implementation compute BP-LCZ, and if not, which equation is wrong first?

An implementation reads one file and writes one, both plain JSON (UTF-8, RFC 8259: no bare NaN).

TENSOR   {"dtype": "float64" | "int64" | "string", "shape": [...], "data": [...]}
         `data` is flat and row-major (C order, the last index fastest); a scalar has shape [] and one entry.
         Not-a-number and infinities are the strings "NaN", "Infinity", "-Infinity".

SET      what `conform export SET.json` writes
         {"kit": "3.0.0", "seed": 0, "paper": text, "eps": {"float64": 2^-52, "float32": 2^-23, "tf32": 2^-10,
          "float16": 2^-10, "bfloat16": 2^-7},
          "operations": {operation: {"place": "Eq. (7)", "formula": text, "rests_on": [operations]}},
          "descriptions": [text of each class], "merges": ["first second", ...],     for prompt and tokenize
          "cases": [CASE, ...]}                                                      one case a line

CASE     {"id": "bce/saturated", "op": "bce", "why": what the case isolates,
          "inputs": {name: TENSOR},
          "cotangents": {output: TENSOR},              absent where no gradient is asked for
          "needs": 1e-12,                              a constant that decides here, where it is below 1
          "expect": {output: TENSOR, floats with "allowed": a}}   in the order of computation; {} in a blind set

CHAIN    one tiny model, two steps of SGD on one batch, and an evaluation: {"weights": {name: TENSOR}, "x", "y",
         "tokens": TENSOR, "alpha", "beta", "heads", "learning_rate", "momentum", "weight_decay": numbers,
         "expect": {name: TENSOR}}, names as in docs/trace.md; it is the last member, "chain", of the set

ANSWERS  {"kit": "3.0.0", "seed": that of the set, "dtype": a name in `eps`, what it was computed in,
          "without": [operations that are not answered], "gradients": true | false,   these three may be left out
          "readings": {reading: word},                                                (docs/readings.md)
          "answers": {case id: {output: TENSOR}},
          "chain": {name: TENSOR}}                  all names of its `expect`, and others of a trace; or left out
         Every case is answered once, with every output of its `expect`; "dtype" of a tensor may be left out, and
         floats may be written without a point. What is declared absent must not be answered.

An answer passes if max |answer - expected| <= a eps(dtype); whole numbers and text have to be equal. Outputs named
"grad.X" are gradients, with respect to input X, of the sum over outputs o of sum(cotangents[o] * o). A text or a
split that does not fit is answered by {"refused": 1}.
Layouts: images (B, H, W, C); convolutions (O, C, kh, kw); linear weights (out, in).
Exit codes: 0 all that was declared is answered and passes; 1 divergence; 2 incomplete, empty, odd, or undecided.

The modules, in the order in which they import each other: ops (the table of operations, worked out by this
package), numbers (what rounding may change), cases (inputs and reasons), mistakes (other ways to run an
operation), exchange (JSON), verdict (grade, locate, name, `check`), command.
For a real model and batch (docs/trace.md): tracing (what ours computes, by name), given (its weights and batch,
from files), layouts and difference (where theirs parts from it); chain is the set's tiny model, which they judge.
"""

from bplcz_ref.conform.difference import diff
from bplcz_ref.conform.tracing import trace
from bplcz_ref.conform.verdict import check

__all__ = ["check", "diff", "trace"]

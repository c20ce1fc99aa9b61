"""Wrong readings: mistakes that a competent person makes in a port, each as one function with a name.

A wrong reading replaces one entry of a table of operations (ops.FORMULAS or reference.PARTS). Over Decimals it
gives the near misses of the vectors, over floats the mutants of the self-test. The tables of the files wrong_*.py
list them as {entry that is replaced: {name: function}}. Instead of a function, (function, reading, word) marks a
choice that docs/readings.md names: who declares it in a profile is graded on it.
"""

from collections.abc import Callable
from typing import NamedTuple

from bplcz_ref.conform.wrong_data import DATA, Accepted
from bplcz_ref.conform.wrong_equations import EQUATIONS
from bplcz_ref.conform.wrong_layers import LAYERS
from bplcz_ref.conform.wrong_networks import NETWORKS
from bplcz_ref.conform.wrong_text import TEXT


class Wrong(NamedTuple):
    op: str  # the operation whose cases show it
    name: str
    function: Callable
    entry: str  # the entry of the table that it replaces
    reading: dict | None  # {reading: word} of docs/readings.md
    accepted: bool  # no mistake: recognised, listed, and passed
    worst: Callable | None  # of an accepted way that cancels: see Accepted


READINGS = {  # the project's own word for each reading that the kit can grade another way
    "similarity-eps": "max",
    "group-sum": "sum",
    "msm-diagonal": "one",
    "bce-reduction": "mean",
    "bce-logarithm": "exact",
    "features-in-concat": "raw",
    "concat-order": "prompts",
    "ce": "logits",
    "prompt-grammar": "printed",
    "momentum": "pytorch",
    "weight-decay": "coupled",
    "decayed": "all",
}

CANNOT_SHOW = [
    {
        "op": "contrastive_loss",
        "name": "one direction alone, without the half",
        "why": "S_hat = S^T and W = W^T, so L_t2i = L_i2t = L_con for every S: the readings are one",
    },
    {
        "op": "cross_entropy",
        "name": "a constant added to each row of logits",
        "why": "the softmax does not see it: value and gradient are the same",
    },
    {
        "op": "text_encoder",
        "name": "the context cut after the longest row's EOT",
        "why": "the causal mask: no token sees what follows it, so T_i is the same",
    },
]


def _listed(tables):
    for entry, known in tables.items():
        op = "sgd" if entry == "sgd_step" else entry  # a step is an entry of the table without cases of its own
        for name, value in known.items():
            function, *choice = value if isinstance(value, tuple) else (value,)
            if isinstance(value, Accepted):
                yield Wrong(op, name, function, entry, None, True, value.worst)
            else:
                reading = {choice[0]: choice[1]} if choice else None
                yield Wrong(op, name, function, entry, reading, False, None)


WRONG = list(_listed(EQUATIONS | DATA | TEXT | LAYERS | NETWORKS))

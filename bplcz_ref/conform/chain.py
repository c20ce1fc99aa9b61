"""The last part of a set: one tiny model with everything in it, two steps on a batch, and an evaluation.

EB-CNN (BP-LCZ) with a channel or two, on patches of 4 by 4 pixels, and a text tower of twelve tokens. An answer
has names of a trace (tracing.py), those of `expected_names` at least; `diff` judges them.
"""

import functools
from typing import Any

import numpy as np

from bplcz_ref import bands, layers, model, optim, paper
from bplcz_ref.conform.difference import Difference, diff
from bplcz_ref.conform.numbers import Draw
from bplcz_ref.conform.tracing import META, both, cast, trace
from bplcz_ref.encoders import ebcnn, text
from bplcz_ref.storage import weights

RULE = {"learning_rate": 0.0625, "momentum": 0.75, "weight_decay": 0.125}
ALPHA, BETA = 0.375, 1.5
SIZES = {"vocabulary": 12, "width": 4, "layers": 1, "heads": 2, "features": 3, "context": 6}
SYMBOLS = ("W", "S", "S_hat", "c_hat", "L_i2t", "L_t2i", "L_con", "L_cls", "L", "eval.c_hat")


@functools.cache
def drawn(seed: int) -> tuple[tuple[model.Model, dict, dict], dict[str, Any]]:
    """(model, parameters, state), and what an implementation needs, by name: weights, batch, tokens, numbers.

    All numbers that are drawn are k / 32, those of weights divided by a power of 2.
    """
    d = Draw(seed, "chain")
    ids = np.zeros((len(paper.CLASSES), len(paper.GROUPS), SIZES["context"]), int)
    for k, i in np.ndindex(ids.shape[:2]):  # a class begins alike, as its prompts do; 10 and 11 are SOT and EOT
        words = [1 + k % 9, 1 + (k + d.seed) // 9, 1 + i, *([2] if i % 2 else [])]
        ids[k, i, : len(words) + 2] = [10, *words, 11]
    d_ = SIZES["features"]
    encoders = {group: ebcnn.encoder(len(index), 1, d_) for group, index in bands.INDEX.items()}
    network = model.bplcz(
        encoders, layers.linear(len(encoders) * d_, len(paper.CLASSES)),
        text=text.encoder(**SIZES), tokens=ids, alpha=ALPHA, beta=BETA,
    )  # fmt: skip
    params, state = (
        {name: number(d, name, np.shape(a)) for name, a in weights.named(tree).items()}
        for tree in network.init(np.random.default_rng(0), "float64")
    )
    y = d.renamed([3, 16, 3, 0, 8])
    x = d(len(y), 4, 4, 18, low=-64, high=64)
    given = {"weights": params | state, "x": x, "y": y, "tokens": ids, "alpha": ALPHA, "beta": BETA}
    given |= {"heads": SIZES["heads"], **RULE}
    return (network, weights.nested(params), weights.nested(state)), given


def number(d: Draw, name: str, shape: tuple) -> np.ndarray:
    """The value of a parameter or running statistic before the first step."""
    last = name.rpartition(".")[2]
    if last == "num_batches_tracked":
        return np.array(3)
    if last == "running_var" or (last == "weight" and len(shape) == 1):
        return 1 + d(*shape, low=-8, high=16)
    fan_in = int(np.prod(shape[1:])) if len(shape) > 1 else 4
    return d(*shape) / 2.0 ** round(np.log2(fan_in) / 2)


@functools.cache
def ours(seed: int) -> dict:
    """The trace of a seed."""
    start, given = drawn(seed)
    return trace(*start, (given["x"], given["y"]), dtype="float64", **RULE)  # type: ignore[arg-type]


def expected_names(seed: int) -> list[str]:
    """What has to be answered: the symbols from S on, and all that two steps leave behind."""
    return [n for n in ours(seed) if n in SYMBOLS or n.startswith("step2.")]


def answered(seed: int, dtype: str, rule: dict[str, float] = RULE) -> dict[str, np.ndarray]:
    """What the package's own training gives in a dtype, by its kernels: the answer of a consumer."""
    (network, *trees), given = drawn(seed)
    params, state = (optim.leaves(lambda a: cast(a, dtype), tree) for tree in trees)
    x, velocity, found = cast(given["x"], dtype), None, dict[str, np.ndarray]()
    for k in (1, 2):
        _, gradients, symbols = model.loss_and_gradients(network.loss, params, state, (x, given["y"]))
        state = symbols.pop("state")
        found = found or weights.named(symbols)
        params, velocity = optim.sgd(params, velocity, gradients, **rule)
        found |= {f"step{k}.{name}": a for name, a in both(params, state).items()}
        found |= {f"step{k}.velocity.{name}": a for name, a in weights.named(velocity).items()}
    return found | {"eval.c_hat": network.apply(params, state, x, train=False)[0]}


def judge(answer: dict, seed: int, dtype: str) -> tuple[Difference, list[str]]:
    """(what `diff` finds, names that are lacking)."""
    lacking = [name for name in expected_names(seed) if name not in answer]
    return diff(ours(seed), {n: a for n, a in answer.items() if n != META}, dtype=dtype), lacking

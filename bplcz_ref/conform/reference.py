"""The reference as a consumer of its own kit, and the self-test: does the kit find what it should?

`PARTS` are the package's public functions under the kit's names, joined by networks.py, so that a mutant of one
of them shows wherever it is used. `WHOLE` takes the package's own encoders, model and loss for the cases that
have one: its training is `model.bplcz`, and so `equations.objective`. Both have to pass. `answer` works out one
case from its JSON alone, as a consumer in another language would.

A mutant is the reference with ONE function replaced by a wrong reading. Its answers are worked out from the
vectors and graded like anybody's, and every mutant has to fail under its own name.
"""

import functools
import operator
import tempfile
from pathlib import Path
from typing import NamedTuple

import autograd.numpy as np
import numpy

from bplcz_ref import (
    bands,
    equations,
    files,
    layers,
    metrics,
    model,
    nn,
    optim,
    paper,
    prompts,
    tokenizer,
    weights,
)
from bplcz_ref.conform import exact, kit, networks, ops, verdict
from bplcz_ref.conform.clauses import CLAUSES, uncovered
from bplcz_ref.conform.grading import FAIL, Answers, grade, read
from bplcz_ref.conform.kit import Kit
from bplcz_ref.conform.wrong import CANNOT_SHOW, WRONG, Wrong
from bplcz_ref.data import so2sat, standardise
from bplcz_ref.encoders import ebcnn
from bplcz_ref.encoders import text as text_encoders

# ---------------------------------------------------------------- the package's functions


@functools.cache
def _words():
    return tokenizer.Tokenizer.from_merges(kit.MERGES)


def tokenize(f: dict, text: str, context: int, truncate: int) -> dict:
    try:
        ids = _words().batch([text], context_length=int(context), truncate=bool(truncate))[0]
    except ValueError:
        return {"refused": 1}
    return {"ids": ids, "end": int(numpy.argmax(ids))}


def _batch_norm(f, x, weight, bias, running_mean, running_var, train=1):
    state = {"running_mean": running_mean, "running_var": running_var, "num_batches_tracked": numpy.array(0)}
    state = {name: exact.value(v) for name, v in state.items()}
    y, new = nn.batch_norm(x, weight, bias, state, train=bool(train))
    return {"y": y, "new_running_mean": new["running_mean"], "new_running_var": new["running_var"]}


def _attention(f, x, in_proj_weight, in_proj_bias, out_weight, out_bias, heads):
    W = x.shape[-1]
    qkv = nn.linear(x, in_proj_weight, in_proj_bias)
    q, k, v = (ops.split_heads(qkv[..., i * W : (i + 1) * W], int(heads)) for i in range(3))
    return {"y": nn.linear(ops.join_heads(nn.attention(q, k, v, causal=True)), out_weight, out_bias)}


def _sgd_step(w, v, g, lr, momentum, weight_decay):
    velocity = None if v is None else {"w": v}
    options = {"learning_rate": lr, "momentum": momentum, "weight_decay": weight_decay}
    w, v = optim.sgd({"w": w}, velocity, {"w": g}, **options)
    return w["w"], v["w"]


def _metrics(f, y, y_hat, K):
    C = metrics.confusion_matrix(y, y_hat, int(K))
    found = metrics.summary(C)
    return {"confusion": C} | {name: found[name] for name in ("overall_accuracy", "average_accuracy", "kappa")}


def _standardise(f, x, mean, std):
    pad = lambda a: np.concatenate([a, np.ones((*a.shape[:-1], 18 - a.shape[-1]), a.dtype)], axis=-1)
    given = [exact.value(pad(a)) for a in (mean, std)]
    return {"y": standardise.standardise(pad(x), standardise.Statistics(*given))[..., : x.shape[-1]]}


def _statistics(f, x):
    moments = standardise.Moments()
    for some in (x[:1], x[1:]):
        moments.add(numpy.concatenate([some, numpy.ones((*some.shape[:-1], 18 - x.shape[-1]))], axis=-1))
    found = moments.statistics()
    return {"mean": found.mean[: x.shape[-1]], "std": found.std[: x.shape[-1]]}


def _split(f, y, per_class, test, seed):
    try:
        train, rest = so2sat.split(y, per_class, test, seed)
    except ValueError:
        return {"refused": 1}
    count = lambda rows: numpy.bincount(y[rows], minlength=17)
    repeated = len(train) + len(rest) - len(set(train)) - len(set(rest))
    common = len(set(train) & set(rest))
    return {"train": count(train), "test": count(rest), "repeated": repeated, "common": common}


PARTS = {
    "matmul": operator.matmul,
    "read_array": lambda f, a: {f"sum_{axis}": a.sum(axis=axis) for axis in range(3)},
    "band_groups": lambda f, sen1, sen2: {f"X_{name}": x for name, x in bands.split(sen1, sen2).items()},
    "prompt": lambda f, class_index, group: {"text": prompts.prompt(class_index, group)},
    "pre_tokens": lambda f, text: {"pieces": tokenizer.pre_tokens(text)},
    "tokenize": tokenize,
    "linear": lambda f, **i: {"y": nn.linear(**i)},
    "conv2d": lambda f, x, weight, stride, padding: {"y": nn.conv2d(x, weight, stride=stride, padding=padding)},
    "batch_norm": _batch_norm,
    "layer_norm": lambda f, **i: {"y": nn.layer_norm(**i)},
    "relu": lambda f, x: {"y": nn.relu(x)},
    "max_pool2d": lambda f, x: {"y": nn.max_pool2d(x, 2)},
    "gelu": lambda f, x: {"y": nn.gelu(x)},
    "quick_gelu": lambda f, x: {"y": nn.quick_gelu(x)},
    "attention": _attention,
    "image_encoder": networks.image_encoder,
    "text_encoder": networks.text_encoder,
    "similarity": lambda f, **i: dict(zip(("S_i", "S_hat_i"), equations.similarity(**i), strict=True)),
    "fuse": lambda f, S_groups, alpha: {"S": equations.fuse([S_groups[i] for i in range(len(S_groups))], alpha)},
    "supervised_matrix": lambda f, y: {"W": equations.supervised_matrix(y)},
    "bce": lambda f, S, W: {"L": equations.bce(S, W)},
    "contrastive_loss": ops.contrastive_loss,
    "concat": lambda f, I_groups: {"I": equations.concat([I_groups[i] for i in range(len(I_groups))])},
    "cross_entropy": lambda f, c_hat, c: {"L_cls": equations.cross_entropy(c_hat, c)},
    "total_loss": lambda f, L_cls, L_con, beta: {"L": equations.total_loss(L_cls, L_con, beta)},
    "sgd_step": _sgd_step,
    "sgd": ops.sgd,
    "metrics": _metrics,
    "training": networks.training,
    "statistics": _statistics,
    "standardise": _standardise,
    "split": _split,
    "predict": lambda f, c_hat: {"y_hat": numpy.argmax(exact.value(c_hat), axis=1)},
    "inference": networks.inference,
}


# ---------------------------------------------------------------- the package's own networks


def _branch(x, w):
    """(EB-CNN's branch with the sizes of the weights, its first running statistics)."""
    network = ebcnn.encoder(x.shape[-1], width=w["conv1.weight"].shape[0], features=w["proj.bias"].shape[0])
    return network, network.init(numpy.random.default_rng(0), exact.value(x).dtype)[1]


def _whole_image_encoder(f, x, **w):
    network, state = _branch(x, w)
    I_i, _ = network.apply(weights.nested(w), state, x, train=True)
    return networks.image_encoder(f, x, **w) | {"I_i": I_i}


def _whole_inference(f, batches, x, **w):
    network, state = _branch(x, w)
    params = weights.nested(w)
    head = params.pop("classifier")
    for batch in batches:
        _, state = network.apply(params, state, batch, train=True)
    I_i, _ = network.apply(params, state, x, train=False)
    c_hat = nn.linear(I_i, **head)
    running = {name: v for name, v in weights.named(state).items() if "running" in name}
    return running | {"I_i": I_i, "c_hat": c_hat, "y_hat": numpy.argmax(c_hat, axis=1)}


def _text_network(heads, w):
    (V, W), d = w["token_embedding.weight"].shape, w["text_projection"].shape[1]
    layers = len({name.split(".")[2] for name in w if name.startswith("transformer.")})
    context = w["positional_embedding"].shape[0]
    return text_encoders.encoder(V, width=W, layers=layers, heads=int(heads), features=d, context=context)


def _whole_text_encoder(f, ids, heads, **w):
    T_i, _ = _text_network(heads, w).apply(weights.nested(w), {}, ids, train=True)
    return networks.text_encoder(f, ids, heads, **w) | {"T_i": T_i}


def _whole_contrastive_loss(f, S, W):
    return equations.contrastive_loss(S, S.T, W)._asdict()


def _whole_training(f, sen1, sen2, y, ids, lr, momentum, weight_decay, alpha, beta, heads, **w):
    d, width = w["branches.RGB.proj.bias"].shape[0], w["branches.RGB.conv1.weight"].shape[0]
    encoders = {name: ebcnn.encoder(len(i), width=width, features=d) for name, i in bands.INDEX.items()}
    head = layers.linear(len(encoders) * d, len(ids))
    text = _text_network(heads, networks.under(w, "text"))
    network = model.bplcz(encoders, head, text=text, tokens=ids, alpha=alpha, beta=beta)
    x = bands.join(sen1, sen2)
    _, state = network.init(numpy.random.default_rng(0), x.dtype)
    params, velocity, out = weights.nested(w), None, {}
    for t, rate in enumerate(lr.tolist()):
        L, grads, trace = model.loss_and_gradients(network.loss, params, state, (x, y))
        if t == 0:
            for symbol in ("I", "T", "S", "S_hat"):
                out |= {f"{symbol}_{g}": trace[f"{symbol}_i"][g] for g in paper.GROUPS}
            own = ("S", "S_hat", "W", "L_i2t", "L_t2i", "L_con", "I", "c_hat", "L_cls", "L")
            out |= {symbol: trace[symbol] for symbol in own}
            out |= {f"grad.{name}": g for name, g in weights.named(grads).items()}
        else:
            out[f"L_step{t + 1}"] = L
        options = {"learning_rate": rate, "momentum": momentum, "weight_decay": weight_decay}
        params, velocity = optim.sgd(params, velocity, grads, **options)
    return out | {f"after.{name}": v for name, v in weights.named(params).items()}


WHOLE = PARTS | {
    "image_encoder": _whole_image_encoder,
    "text_encoder": _whole_text_encoder,
    "contrastive_loss": _whole_contrastive_loss,
    "training": _whole_training,
    "inference": _whole_inference,
}


# ---------------------------------------------------------------- answers


def answer(data: dict, f: dict, dtype: str) -> dict:
    """{output: array or text} of a CASE by the table f, gradients by autograd."""
    case = kit.case_of(data, dtype)
    run, inputs = f[case.op], case.inputs
    if not case.gradients:
        return run(f, **inputs)

    def weighed(varied):
        out = run(f, **(inputs | {name: varied[name] for name in case.gradients}))
        return sum(np.sum(out[name] * g) for name, g in case.cotangents.items()), out

    varied = {name: numpy.asarray(inputs[name], dtype=dtype) for name in case.gradients}
    try:
        _, out, grads = exact.differentiate(weighed, varied)
    except ValueError:  # a shape that the cotangent does not fit: the values alone then show it
        return {name: exact.value(x) for name, x in run(f, **inputs).items()}
    return out | {f"grad.{name}": g for name, g in grads.items()}


def as_read(outputs: dict) -> dict:
    """An answer as it comes back from a file."""
    return {name: kit.array(kit.tensor(x), "answer") for name, x in outputs.items()}


def write(folder: str | Path, vectors: Kit, given: dict) -> None:
    """Answers as one file per suite."""
    suites: dict = {}
    for name, outputs in given.items():
        suites.setdefault(vectors.suites[name], {})[name] = {o: kit.tensor(x) for o, x in outputs.items()}
    for suite, own in suites.items():
        head = {"kit": vectors.manifest["kit"], "manifest": vectors.digest, "answers": own}
        files.write_json(Path(folder) / f"{suite}.json", head)


def _by_file(vectors, f, dtype):
    """The answers of a table, written and read back: the way that a stranger's go."""
    with tempfile.TemporaryDirectory() as folder:
        write(folder, vectors, {name: answer(case, f, dtype) for name, case in vectors.cases.items()})
        return read(folder, vectors)


# ---------------------------------------------------------------- the self-test

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
    uncovered: tuple  # what the table of clauses lacks
    hollow: tuple  # answers without computation that an operation's cases let pass

    @property
    def ok(self) -> bool:
        passed = all(r.ok for r in self.reference.values())
        found = all(m.killed and m.located and m.named for m in self.mutants)
        return passed and found and not self.uncovered and not self.hollow

    def __str__(self):
        lines = [f"reference, {name}: {verdict.head(r)}" for name, r in self.reference.items()]
        killed, located, named = (sum(getattr(m, k) for m in self.mutants) for k in ("killed", "located", "named"))
        lines.append(f"mutants: {len(self.mutants)}; found {killed}, located exactly {located}, named {named}")
        for m in self.mutants:
            if not m.named:
                said = ", ".join(m.names) or "nothing"
                lines.append(f"  not named: {m.op}: {m.name} (located: {m.located}; said: {said})")
            elif len(m.names) > 1:
                others = ", ".join(set(m.names) - {m.name})
                lines.append(f"  {m.op}: {m.name} cannot be distinguished from {others}")
        clauses = sum(map(len, CLAUSES.values()))
        lines.append(f"clauses: {clauses}; without a case or a mutant that shows them: {len(self.uncovered)}")
        lines += [f"  {line}" for line in self.uncovered]
        lines.append(
            f"ways to answer without computing: {len(HOLLOW)}; operations that let one pass: {len(self.hollow)}"
        )
        lines += [f"  {line}" for line in self.hollow]
        lines += [f"cannot be shown: {c['op']}: {c['name']}: {c['why']}" for c in CANNOT_SHOW]
        return "\n".join([*lines, "the self-test passes" if self.ok else "THE SELF-TEST FAILS"])


def affected(vectors: Kit, op: str, chain: bool = False) -> dict:
    """The cases whose operation is, or rests on, `op`; those of the chain only on demand."""
    return {
        name: case
        for name, case in vectors.cases.items()
        if op in ops.rests_on(case["op"]) and (chain or case["op"] != HEAVY or op == HEAVY)
    }


def mutant(vectors: Kit, right: dict, wrong: Wrong, dtype: str = "float32", chain: bool = False) -> tuple:
    """(Mutant, Report on what rests on it) of the reference (answers: `right`) with one function replaced."""
    table = PARTS | {wrong.entry: wrong.function}
    cases = affected(vectors, wrong.op, chain)
    given = {name: right[name] for name in cases}
    for name, case in cases.items():
        try:
            with np.errstate(all="ignore"):  # mutants divide by zero and overflow; that is their point
                given[name] = as_read(answer(case, table, dtype))
        except ValueError:  # further on, the package's own functions may refuse what the mutant made
            del given[name]
    r = verdict.report(vectors._replace(cases=cases), Answers(given, []), dtype)  # all others pass as they did
    guilty = [f for f in r.findings if f.state in ("guilty", "drift")]
    located = {f.op for f in guilty} == {wrong.op}
    names = tuple(dict.fromkeys(name for f in guilty for name in (f.names or f.alike)))
    if wrong.accepted:
        ways = {name for g in r.graded.values() if g.op == wrong.op for name in g.accepted}
        return Mutant(wrong.op, wrong.name, r.exit_code == 0, not guilty, ways <= {wrong.name}, tuple(ways)), r
    return Mutant(wrong.op, wrong.name, r.exit_code != 0, located, located and names == (wrong.name,), names), r


def _other_of_shape(a, others):
    """The first other array of the same shape; without one, the same again."""
    return next((x for x in others if numpy.shape(x) == numpy.shape(a)), a)


HOLLOW = {  # what (the right array, the inputs, the answers to other cases) become without computation
    "zeros": lambda a, inputs, others: numpy.zeros_like(a),
    "ones": lambda a, inputs, others: numpy.ones_like(a),
    "an input returned": lambda a, inputs, others: _other_of_shape(a, inputs),
    "the right numbers in reverse": lambda a, inputs, others: a.ravel()[::-1].reshape(a.shape),
    "the answer of another case": lambda a, inputs, others: _other_of_shape(a, others),
}


def passing_hollow(vectors: Kit, right: dict, dtype: str) -> list:
    """Lines "operation: way" where answers without computation differ from the right ones and no case fails."""
    lines = []
    for way, made in HOLLOW.items():
        changed, failed = set(), set()
        for name, case in vectors.cases.items():
            inputs = [kit.array(t, name) for t in case["inputs"].values()]
            given = {}
            for o, a in right[name].items():
                others = [
                    right[n][o]
                    for n, c in vectors.cases.items()
                    if c["op"] == case["op"] and n != name and o in right[n]
                ]
                given[o] = made(a, inputs, others) if isinstance(a, numpy.ndarray) else a
            if any(
                not numpy.array_equal(given[o], a, equal_nan=a.dtype.kind == "f")
                for o, a in right[name].items()
                if isinstance(a, numpy.ndarray)
            ):
                changed.add(case["op"])
                if grade(case, given, dtype).state == FAIL:
                    failed.add(case["op"])
        lines += [f"{op}: {way}" for op in ops.OPS if op in changed - failed]
    return lines


def selftest(dtypes: tuple = ("float64", "float32"), chain: bool = False) -> Selftest:
    """The reference twice in each dtype, then every mutant in the last one; those of the chain only on demand."""
    vectors, reference, right = kit.load(), {}, {}
    for dtype in dtypes:
        for kind, table in (("parts", PARTS), ("whole", WHOLE)):
            given = _by_file(vectors, table, dtype)
            reference[f"{dtype} {kind}"] = verdict.report(vectors, given, dtype)
            if kind == "parts":
                right = given.given
    chosen = [w for w in WRONG if chain or w.op != HEAVY]
    mutants = tuple(mutant(vectors, right, w, dtypes[-1], chain)[0] for w in chosen)
    return Selftest(
        reference, mutants, tuple(uncovered(vectors)), tuple(passing_hollow(vectors, right, dtypes[-1]))
    )

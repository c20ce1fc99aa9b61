"""in_one_file.py against the package: every value, gradient and step; and the file broken on purpose."""

import ast
import functools
import types
from pathlib import Path

import numpy as np
import pytest
from comparing import agree

from bplcz_ref import bands, equations, in_one_file, layers, model, nn, optim, paper, prompts, systems
from bplcz_ref.data.streams import stream
from bplcz_ref.encoders import ebcnn, text
from bplcz_ref.storage import weights

SOURCE = Path(in_one_file.__file__).read_text(encoding="utf-8")
K, n, L, d, HEADS = 17, 7, 6, 3, 2
Y = np.array([3, 16, 3, 0, 8])
TOKENS = np.zeros((K, n, L), int)  # distinct prompts of 4 to 6 tokens: SOT 28, words, EOT 29, zeros
for k, i in np.ndindex(K, n):
    row = [28, 1 + k, 1 + (k + 3 * i) % 27, *([1 + i] * (i % 2)), 29]
    TOKENS[k, i, : len(row)] = row


@pytest.fixture(autouse=True)
def one_blas_thread():
    """The file itself leaves the number of threads to NumPy; on a busy machine that costs a multiple."""
    with nn.one_blas_thread():
        yield


def network():
    encoders = {group: ebcnn.encoder(len(i), width=2, features=d) for group, i in bands.INDEX.items()}
    tower = text.encoder(30, width=8, layers=2, heads=HEADS, features=d, context=9)
    return model.bplcz(encoders, layers.linear(n * d, K), text=tower, tokens=TOKENS)


def batch(seed):
    return np.random.default_rng(seed).standard_normal((len(Y), 8, 8, 18))


def start():
    """Initial values, moved so that no weight is 1 and no bias 0; NIR has short features, where eps shows."""
    params, state = network().init(stream(47, "init"), np.dtype(float))
    rng = np.random.default_rng(2)
    params = optim.leaves(lambda w: w + 0.1 * rng.standard_normal(w.shape), params)
    params["branches"]["NIR"]["proj"] = optim.leaves(lambda w: 1e-4 * w, params["branches"]["NIR"]["proj"])
    return params, state


@functools.cache
def expected():
    """The package: trace, gradients, state and logits of one batch; params and velocity after three steps."""
    made, (params, state), velocity = network(), start(), None
    for step in range(3):
        _, gradients, trace = model.loss_and_gradients(made.loss, params, state, (batch(step), Y))
        state = trace.pop("state")
        if step == 0:
            c_hat, _ = made.apply(params, state, batch(9), train=False)
            first = {"trace": trace, "gradients": gradients, "state": state, "evaluation": {"c_hat": c_hat}}
        rule = {"learning_rate": 0.02, "momentum": paper.MOMENTUM, "weight_decay": paper.WEIGHT_DECAY}
        params, velocity = optim.sgd(params, velocity, gradients, **rule)
    return first | {"params": params, "velocity": velocity}


def found(one):
    """The same by `one`, the file or a changed copy of it."""
    (params, state), velocity = start(), None
    for step in range(3):
        X_i = one.grouped(batch(step)[..., :8], batch(step)[..., 8:])
        trace, gradients, state = one.loss_and_gradients(params, state, X_i, TOKENS, Y, HEADS)
        if step == 0:
            c_hat = one.evaluate(params, state, one.grouped(batch(9)[..., :8], batch(9)[..., 8:]))
            first = {"trace": trace, "gradients": gradients, "state": state, "evaluation": {"c_hat": c_hat}}
        params, velocity = one.sgd(params, velocity, gradients, eta=0.02)
    return first | {"params": params, "velocity": velocity}


def differences(mine, theirs, tolerance=1e-12):
    """The dotted names of what differs by more than `tolerance` of the array's largest value."""
    mine, theirs = weights.named(mine), weights.named(theirs)
    assert mine.keys() == theirs.keys()
    return [name for name in theirs if not agree(mine[name], theirs[name], tolerance)]


def test_every_symbol_gradient_and_step_is_that_of_the_package():
    names = set(weights.named(expected()))
    assert {"trace.L", "trace.S_hat_i.PolSAR", "gradients.text.positional_embedding"} < names
    assert {"state.branches.VH.bn6.running_var", "evaluation.c_hat", "velocity.classifier.bias"} < names
    assert differences(found(in_one_file), expected()) == []


def changed(old, new):
    """The file as a module, with one line changed."""
    assert SOURCE.count(old) == 1, f"in_one_file.py holds {old!r} {SOURCE.count(old)} times; expected once"
    module = types.ModuleType("changed")
    exec(compile(SOURCE.replace(old, new), "changed", "exec"), module.__dict__)
    return module


NORM = "np.sqrt((x * x).sum(1, keepdims=True)"
VELOCITY = "MOMENTUM * v + "
WRONG = {  # mistake: (the text in the file, the wrong text, a name that must differ)
    "eps inside the root": (f"{NORM})", f"{NORM} + EPS)", "trace.S_i.NIR"),
    "sum for mean": ("N = W.size", "N = 1", "trace.L_i2t"),
    "W = I": ("W = (y[:, None] == y[None, :]).astype(float)", "W = np.eye(len(y))", "trace.W"),
    "a band of another group": ("(1, 2, 5)", "(1, 2, 6)", "trace.I_i.VH"),
    "attention without its mask": ("np.tri(L, dtype=bool)", "np.ones((L, L), bool)", "trace.T_i.RGB"),
    "mean without a gradient": ("q.mean(axes, keepdims=True) - z", "z", "gradients.branches.RGB.conv1.weight"),
    "biased running variance": (", ddof=1", "", "state.branches.RGB.bn1.running_var"),
    "dampened velocity": (f"{VELOCITY}g", f"{VELOCITY}(1 - MOMENTUM) * g", "params.branches.RGB.conv1.weight"),
}


@pytest.mark.slow
@pytest.mark.parametrize("mistake", WRONG)
def test_a_changed_line_is_noticed(mistake):
    old, new, name = WRONG[mistake]
    assert name in differences(found(changed(old, new)), expected())


def test_initial_values_are_the_same_bits_from_the_same_generator():
    mine = in_one_file.initial(np.random.default_rng(47), K, width=2, d=d, V=30, W=8, layers=2, context=9)
    theirs = network().init(np.random.default_rng(47), np.dtype(float))
    assert [differences(*trees, tolerance=0) for trees in zip(mine, theirs, strict=True)] == [[], []]


@pytest.mark.slow
def test_the_small_preset_has_the_same_loss_and_gradients():
    settings = systems.SMALL
    made = systems.build("ebcnn-bplcz", settings)
    params, state = made.init(stream(47, "init"), np.dtype(float))
    x, y = np.random.default_rng(3).standard_normal((4, 32, 32, 18)), np.array([16, 0, 16, 5])
    t = systems.prompt_tokens(systems.tokenizer(settings.vocabulary))
    L, gradients, _ = model.loss_and_gradients(made.loss, params, state, (x, y))
    X_i = in_one_file.grouped(x[..., :8], x[..., 8:])
    trace, mine, _ = in_one_file.loss_and_gradients(params, state, X_i, t, y, settings.text_heads)
    assert differences({"L": trace["L"]} | mine, {"L": L} | gradients) == []


def test_constants_and_prompts_are_the_papers():
    groups = {i: {"sensor": s, "bands": b, "text": words} for i, (s, b, words) in in_one_file.GROUPS.items()}
    assert groups == paper.GROUPS
    assert list(groups) == list(paper.GROUPS)
    one = in_one_file
    for name in ("ALPHA", "BETA", "LEARNING_RATE", "MOMENTUM", "WEIGHT_DECAY", "SEED"):
        assert getattr(one, name) == getattr(paper, name)
    assert one.EPS == equations.EPS
    assert paper.DESCRIPTIONS == one.DESCRIPTIONS
    for name, description in one.DESCRIPTIONS.items():
        k = [name for name, _ in paper.CLASSES].index(name)
        assert all(one.prompt(description, group) == prompts.prompt(k, group) for group in groups)


def test_it_imports_numpy_alone():
    names = set()
    for node in ast.walk(ast.parse(SOURCE)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module)
    assert names == {"collections.abc", "typing", "numpy", "numpy.lib.stride_tricks"}


@pytest.mark.slow
def test_the_toy_run_shows_the_loss_falling(capsys):
    in_one_file.main(steps=10)
    printed = capsys.readouterr().out
    table = [line.split() for line in printed.split("\n\n")[0].splitlines()[1:]]
    assert [row[0] for row in table] == ["0", "10"]
    losses = [float(row[1]) for row in table]
    assert losses[1] < 0.8 * losses[0]
    assert all(f"\n{symbol}:" in printed for symbol in found(in_one_file)["trace"])

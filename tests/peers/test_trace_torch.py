"""`conform trace` and `conform diff` on PyTorch models: the right one agrees; a wrong layer deep inside is named.

The models are those of test_bplcz.py (EB-CNN with CLIP's text tower, every sample's prompts encoded and padded to
77 tokens) and twins.py (ResNet), hooked by examples/trace_pytorch.py. Most of the mistakes change one module after
it has been built, as a slip in a port would.
"""

import importlib
import sys
import types
from pathlib import Path

import numpy as np
import pytest

from bplcz_ref import conform, systems
from bplcz_ref.__main__ import main
from bplcz_ref.encoders import resnet
from bplcz_ref.model import classification
from bplcz_ref.storage import weights

torch = pytest.importorskip("torch")
tnn = torch.nn
F = torch.nn.functional

import test_bplcz as bplcz  # noqa: E402
import twins  # noqa: E402
from adversary import short  # noqa: E402

pytestmark = pytest.mark.slow  # each trains two steps in both programs

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="module")
def record():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(EXAMPLES)  # the example imports its neighbour
        return importlib.import_module("trace_pytorch").record


y = np.array([3, 16, 3, 0, 3, 8])
SGD = {"lr": 0.05, "momentum": 0.9, "weight_decay": 0.002}


@pytest.fixture(scope="module")
def ours():
    """{model: (trace, parameters and buffers, x)} in float32."""
    rng, found, made = np.random.default_rng(3), {}, {}
    network, *trees = bplcz.start("ebcnn-bplcz")
    found["text"] = network, *map(weights.named, trees), rng.standard_normal((6, 12, 8, 18))
    network = classification(resnet.resnet(18, 17, depths=(2, 1), widths=(4, 8)))
    params, state = (weights.named(tree) for tree in network.init(rng, np.float64))
    shift = {n: 0.2 if a.ndim == 1 else 0.2 * a.std() for n, a in params.items()}
    params = {n: a + shift[n] * rng.standard_normal(a.shape) for n, a in params.items()}
    found["resnet"] = network, params, state, rng.standard_normal((6, 32, 32, 18))
    for name, (network, *flat, x) in found.items():
        flat = [{n: a if a.dtype.kind in "iu" else a.astype("f4") for n, a in part.items()} for part in flat]
        trees, x = map(weights.nested, flat), x.astype("f4")
        made[name] = conform.trace(network, *trees, (x, y), dtype="float32", **bplcz.RULE), flat[0] | flat[1], x
    return made


def difference(ours, record, name, change=lambda module: None, rule=SGD, **conventions):
    trace, tensors, x = ours[name]
    if name == "text":
        module = bplcz.BPLCZ("ebcnn-bplcz", **conventions)
    else:
        module = twins.ResNet(18, 17, (2, 1), (4, 8))
    twins.loaded(module, tensors, {}).train()
    torch.manual_seed(0)
    change(module)
    x, labels = torch.from_numpy(x), torch.from_numpy(y)
    images = x if name == "text" else x.permute(0, 3, 1, 2)
    L = (lambda: module.loss(x, labels)) if name == "text" else (lambda: F.cross_entropy(module(images), labels))
    optimiser = torch.optim.SGD(module.parameters(), **rule)
    return conform.diff(trace, record(module, lambda: (L(), {}), optimiser))


@pytest.mark.parametrize("name", ["text", "resnet"])
def test_the_right_model_agrees_in_every_value_gradient_and_step(ours, record, name):
    found = difference(ours, record, name)
    assert found.ok, str(found)
    assert (found.exit_code, found.dtype, found.undecided) == (0, "float32", []), "as theirs was computed"
    assert len(found.agree) > (1800 if name == "text" else 400)
    assert any(words.startswith("channels first") for words in found.layouts), "ours are channels-last"
    if name == "text":
        assert any("prompts of every sample" in words for words in found.layouts), "ours has each class once"


# ------------------------------------------------------------------------------------ one wrong layer, deep inside


def forward(name, function):
    """Give one module another forward pass."""

    def change(module):
        part = module.get_submodule(name)
        part.forward = types.MethodType(function, part)

    return change


def attribute(name, key, value):
    return lambda module: setattr(module.get_submodule(name), key, value)


def heads(module):
    attention = module.get_submodule("text.transformer.resblocks.1.attn")
    attention.num_heads, attention.head_dim = 2, 6


def flattened(self, x):  # the mean, as if the map had been flattened channels-last
    B, C, H, W = (x := self.layer2(self.layer1(F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 3, 2, 1)))).shape
    return self.fc(x.permute(0, 2, 3, 1).reshape(B, C, H * W).mean(2))


deep, wide = "layer1.0.conv2", "layer2.0.conv2"
tower = "text.transformer.resblocks"


def conv(change_x=lambda x: x, change_w=lambda w: w, padding=1):
    """The convolution `deep` with another x or weight."""
    return forward(deep, lambda self, x: F.conv2d(change_x(x), change_w(self.weight), None, 1, padding))


def edited(name, change):
    """Change one module in some other way."""
    return lambda module: change(module.get_submodule(name))


BREAKS = {  # what is changed: (how, the name that is first to differ, what it has to be called)
    "resnet": {
        "eps within float32's noise": (attribute("layer1.1.bn2", "eps", 1e-6), "layer1.1.bn2", "eps 1e-06"),
        "stride's padding": (
            forward(wide, lambda self, x: F.conv2d(F.pad(x, (0, 1, 0, 1)), self.weight, None, 2)),
            wide, "padding on one side"),
        "reflected border": (conv(lambda x: F.pad(x, (1, 1, 1, 1), "reflect"), padding=0), deep, "edges mirrored"),
        "TF32 products": (conv(short, short), deep, "all inputs rounded to TF32"),
        "flattened in another order": (forward("", flattened), "fc.input", ""),
    },
    "text": {
        "evaluation mode": (edited("branches.VH.bn5", lambda part: part.eval()), "branches.VH.bn5", "train 0"),
        "heads swapped": (heads, f"{tower}.1.attn.out_proj", ""),
        "another GELU": (attribute(f"{tower}.0.mlp", "gelu", tnn.GELU()), f"{tower}.0.mlp.c_proj.input", ""),
        "dropout on": (
            edited("branches.RGB.proj", lambda part: part.register_forward_pre_hook(
                lambda _, inputs: F.dropout(inputs[0], 0.3))),
            "branches.RGB.proj.input", ""),
        "weights not loaded right": (
            edited("text.token_embedding", lambda part: part.weight.data.copy_(part.weight.flip(0))),
            "step0.text.token_embedding.weight", "ours in reverse order"),
        "a detached feature": (
            forward("branches.VV.proj", lambda self, x: F.linear(x.detach() + 0 * x, self.weight, self.bias)),
            "grad.branches.VV.proj.input", "x without gradient"),
        "momentum of the statistics": (
            attribute("branches.VH.bn3", "momentum", 0.01),
            "step1.branches.VH.bn3.running_mean", "a share of 0.01"),
    },
}  # fmt: skip


@pytest.mark.parametrize(("name", "mistake"), [(name, mistake) for name, own in BREAKS.items() for mistake in own])
def test_a_wrong_layer_is_located_and_named(ours, record, name, mistake):
    change, expected, words = BREAKS[name][mistake]
    found = difference(ours, record, name, change)
    assert found.exit_code == 1
    first = found.guilty[0]
    assert (first.name, words in " | ".join(first.names)) == (expected, True), str(found)
    assert len(found.guilty) <= 3, f"what follows from it is not guilty:\n{found}"


RULES = {  # what the rule of SGD is given, the name that is first to differ, what it has to be called
    "Nesterov": ({"nesterov": True}, "step1.conv1.weight", "Nesterov"),
    "no decay": ({"weight_decay": 0}, "step1.velocity.conv1.weight", "weight_decay 0"),
    "dampening": ({"dampening": 0.1}, "step2.velocity.", ""),
}
SWIR = {"groups": bplcz.GROUPS | {"SWIR": ("sen2", (10, 9), "short wave infrared")}}
CONVENTIONS = {  # the same of another reading of the paper
    "beta": ({"beta": 1.0}, "L", "beta 1"),
    "bands": (SWIR, "branches.SWIR.conv1.input", "ours reversed along its last axis"),
}


@pytest.mark.parametrize("name", RULES | CONVENTIONS)
def test_another_rule_or_reading_is_located_where_it_shows(ours, record, name):
    changed, expected, words = (RULES | CONVENTIONS)[name]
    given = ("resnet", {"rule": SGD | changed}) if name in RULES else ("text", changed)
    first = difference(ours, record, given[0], **given[1]).guilty[0]
    assert first.name.startswith(expected), first.name
    assert words in " | ".join(first.names)


# ------------------------------------------------------------------------------------- the example, as printed


def test_the_example_runs_as_its_first_lines_say(tmp_path, monkeypatch, capsys):
    rng = np.random.default_rng(0)
    network = systems.build("ebcnn", systems.SMALL._replace(width=2, features=5))
    weights.save(tmp_path / "w.npz", *network.init(rng, np.float32))
    x = rng.standard_normal((4, 32, 32, 18), dtype=np.float32)
    np.savez(tmp_path / "b.npz", x=x, y=np.array([3, 16, 3, 0]))
    w, b, o, t = (str(tmp_path / f"{name}.npz") for name in "wbot")
    assert main(["conform", "trace", w, b, o]) == 0
    said = capsys.readouterr().out
    assert said.startswith("ebcnn, ")
    assert " MB" in said, "the size is said before it is written"
    script = EXAMPLES / "trace_pytorch.py"
    assert len(script.read_text("utf-8").splitlines()) <= 60
    monkeypatch.setattr(sys, "argv", [str(script), w, b, t])
    monkeypatch.syspath_prepend(EXAMPLES)
    exec(compile(script.read_text("utf-8"), script, "exec"), {"__name__": "__main__"})
    assert main(["conform", "diff", o, t, "--json", str(tmp_path / "r.json")]) == 0
    assert capsys.readouterr().out.startswith("AGREES: all ")
    assert '"exit_code": 0' in (tmp_path / "r.json").read_text("utf-8")

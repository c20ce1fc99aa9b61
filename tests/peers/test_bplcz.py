"""BP-LCZ's whole training step beside PyTorch, for the three rows of Table III.

The peer is written from the paper as a user of PyTorch would write it: torch.nn.Conv2d, BatchNorm2d and the tower
of twins.py, the prompts of every sample as strings, each one encoded and padded to 77 tokens; both
matrices S and S_hat; torch.nn.BCELoss of their sigmoid; torch.optim.SGD. Compared over three steps: loss, every
gradient by name, running statistics, and how far every parameter has moved.
"""

import numpy as np
import pytest

from bplcz_ref import model, optim, prompts, systems, weights
from bplcz_ref.tokenizer import Tokenizer

torch = pytest.importorskip("torch")
tnn = torch.nn
F = torch.nn.functional

from networks import relative, worst  # noqa: E402
from twins import Tower  # noqa: E402

ROWS = ("ebcnn", "ebcnn-bgp", "ebcnn-bplcz")
SMALL = systems.SMALL._replace(width=2, features=6, text_width=12, text_layers=2, text_heads=3)
RULE = {"learning_rate": 0.05, "momentum": 0.9, "weight_decay": 0.002}  # the paper's rate would hardly move them

# II-A and II-B1, as printed: bands counted from 1 in their sensor, and the words of the prompt.
GROUPS = {
    "RGB": ("sen2", (1, 2, 3), "red green blue"),
    "VRE": ("sen2", (4, 5, 6, 8), "vegetation red edge"),
    "NIR": ("sen2", (7,), "near infrared"),
    "SWIR": ("sen2", (9, 10), "short wave infrared"),
    "VH": ("sen1", (1, 2, 5), "vh"),
    "VV": ("sen1", (3, 4, 6), "vv"),
    "PolSAR": ("sen1", (7, 8), "pol"),
}


class BandEncoder(tnn.Module):
    """E_m of one group, EB-CNN: six 3 x 3 convolutions, pooled after the second and the fourth."""

    def __init__(self, channels, width, features):
        super().__init__()
        for k, outputs in enumerate((width, width, 2 * width, 2 * width, 4 * width, 4 * width), 1):
            self.add_module(f"conv{k}", tnn.Conv2d(channels, outputs, 3, padding=1, bias=False))
            self.add_module(f"bn{k}", tnn.BatchNorm2d(outputs))
            channels = outputs
        self.proj = tnn.Linear(channels, features)

    def forward(self, x):
        for k in range(1, 7):
            x = F.relu(self.get_submodule(f"bn{k}")(self.get_submodule(f"conv{k}")(x)))
            if k in (2, 4):
                x = F.max_pool2d(x, 2)
        return self.proj(x.mean((2, 3)))


class BPLCZ(tnn.Module):
    """Fig. 1. What follows `settings` are conventions, for the mistakes below to break."""

    def __init__(
        self,
        row,
        settings=SMALL,
        *,
        groups=GROUPS,
        sar_first=True,
        alpha=0.25,
        beta=2.0,
        reduction="mean",
        raw=False,
        fused_unit=False,
        shift=0,
    ):
        super().__init__()
        d = settings.features
        self.branches = tnn.ModuleDict(
            {name: BandEncoder(len(bands), settings.width, d) for name, (_, bands, _) in groups.items()}
        )
        self.classifier = tnn.Linear(7 * d, 17)
        self.words = Tokenizer.bundled()
        if row != "ebcnn":
            sizes = settings.text_width, settings.text_layers, settings.text_heads, d
            self.text = Tower(self.words.vocab_size, *sizes)
        self.row, self.groups, self.sar_first, self.shift = row, groups, sar_first, shift
        self.alpha, self.beta, self.bce = alpha, beta, tnn.BCELoss(reduction=reduction)
        self.raw, self.fused_unit = raw, fused_unit

    def image_features(self, x):  # (B, H, W, 18) -> {group: (B, d)}, Eq. (1)
        x = x.permute(0, 3, 1, 2)
        sensors = (x[:, :8], x[:, 8:]) if self.sar_first else (x[:, 10:], x[:, :10])
        sensors = dict(zip(("sen1", "sen2"), sensors, strict=True))
        return {
            name: self.branches[name](sensors[sensor][:, [band - 1 for band in bands]])
            for name, (sensor, bands, _) in self.groups.items()
        }

    def text_features(self, y):  # (B,) -> {group: (B, d)}, Eq. (2)
        T = {}
        for name, (_, _, said) in self.groups.items():
            t = [
                f"a photo of a {prompts.DESCRIPTIONS[(k + self.shift) % 17]} with {said} bands" for k in y.tolist()
            ]
            T[name] = self.text(torch.from_numpy(self.words.batch(t)))
        return T

    def forward(self, x):
        I = torch.cat([F.normalize(i) if self.fused_unit else i for i in self.image_features(x).values()], dim=1)
        return self.classifier(I)  # Eq. (9)

    def loss(self, x, y):
        I = self.image_features(x)
        fused = torch.cat([F.normalize(i) if self.fused_unit else i for i in I.values()], dim=1)
        L_cls = tnn.CrossEntropyLoss()(self.classifier(fused), y)  # Eq. (11)
        if self.row == "ebcnn":
            return L_cls
        T, S, S_hat = self.text_features(y), 0, 0
        for name in self.groups:  # Eqs. (3), (4)
            u, v = (I[name], T[name]) if self.raw else (F.normalize(I[name]), F.normalize(T[name]))
            S, S_hat = S + self.alpha * u @ v.T, S_hat + self.alpha * v @ u.T
        same = y[:, None] == y[None, :] if self.row == "ebcnn-bplcz" else torch.eye(len(y))  # Eq. (5)
        W = same.to(S.dtype)
        L_con = (self.bce(torch.sigmoid(S), W) + self.bce(torch.sigmoid(S_hat), W)) / 2  # Eqs. (6)-(8)
        return L_cls + self.beta * L_con  # Eq. (10)


# ----------------------------------------------------------------------------------------------- the comparison


def start(row):
    """A row of systems.py in float64, its parameters and statistics off their initial values."""
    network, rng = systems.build(row, SMALL), np.random.default_rng(11)
    params, state = (weights.named(tree) for tree in network.init(rng, np.float64))
    shift = {n: 0.2 if a.ndim == 1 else 0.2 * a.std() for n, a in params.items()}
    params = {n: a + shift[n] * rng.standard_normal(a.shape) for n, a in params.items()}
    state = {n: a + 3 if n.endswith("tracked") else a + rng.uniform(0.1, 0.5, a.shape) for n, a in state.items()}
    return network, params, state


def batches():
    """Three, of noise; labels with and without company, the last batch a short one."""
    rng = np.random.default_rng(12)
    labels = ([3, 16, 3, 0, 3, 8], [5, 5, 5, 5, 5, 5], [1, 2, 1])
    return [(rng.standard_normal((len(y), 12, 8, 18)), np.array(y)) for y in labels]


def cast(flat, dtype):
    return {name: a if a.dtype.kind in "iu" else a.astype(dtype) for name, a in flat.items()}


def ours(row, params, state, data):
    """{quantity: array} over the steps."""
    network, begin, found, velocity = systems.build(row, SMALL), params, {}, None
    params, state = weights.nested(params), weights.nested(state)
    for t, batch in enumerate(data):
        L, gradients, trace = model.loss_and_gradients(network.loss, params, state, batch)
        params, velocity = optim.sgd(params, velocity, gradients, **RULE)
        state = trace["state"]
        found |= record(t, L, gradients, state, params, begin)
    found["logits"] = network.apply(params, state, data[0][0], train=False)[0]
    return found


def record(t, L, gradients, state, params, begin):
    moved = {name: a - begin[name] for name, a in weights.named(params).items()}
    parts = {"gradient": weights.named(gradients), "state": weights.named(state), "moved": moved}
    named = {f"{t} {part} {name}": np.array(a) for part, flat in parts.items() for name, a in flat.items()}
    return {f"{t} loss": np.asarray(L), **named}


def theirs(row, params, state, data, begin=None, sgd=None, train=True, **conventions):
    module = BPLCZ(row, **conventions).to(getattr(torch, params["classifier.weight"].dtype.name)).train(train)
    module.load_state_dict({n: torch.tensor(a) for n, a in {**params, **state}.items()}, strict=True)
    options = {"lr": RULE["learning_rate"], "momentum": 0.9, "weight_decay": 0.002}
    optimiser = torch.optim.SGD(module.parameters(), **options | (sgd or {}))
    begin, found = begin or params, {}
    for t, (x, y) in enumerate(data):
        optimiser.zero_grad()
        L = module.loss(torch.tensor(x), torch.tensor(y))
        L.backward()
        optimiser.step()
        gradients = {n: p.grad.numpy() for n, p in module.named_parameters()}
        buffers = {n: b.numpy() for n, b in module.named_buffers()}
        now = {n: p.detach().numpy() for n, p in module.named_parameters()}
        found |= record(t, L.item(), gradients, buffers, now, begin)
    with torch.no_grad():
        found["logits"] = module.eval()(torch.tensor(data[0][0])).numpy()
    return found


def errors(found, expected):
    assert set(found) == set(expected)
    return {name: relative(found[name], expected[name]) for name in expected}


@pytest.mark.parametrize("row", ROWS)
def test_three_steps_in_float64(row):
    _, params, state = start(row)
    expected = theirs(row, params, state, batches())
    nothing = [n for n, b in expected.items() if "gradient" in n and np.linalg.norm(b) < 1e-9]
    assert not nothing, "a comparison of rounding errors shows nothing"
    error = worst(errors(ours(row, params, state, batches()), expected))
    assert error[0] < 1e-10, error


@pytest.mark.parametrize("row", ROWS)
def test_names_and_shapes_are_those_of_the_module(row):
    _, params, state = start(row)
    module = BPLCZ(row)
    assert {n: tuple(p.shape) for n, p in module.named_parameters()} == {n: a.shape for n, a in params.items()}
    assert {n: tuple(b.shape) for n, b in module.named_buffers()} == {n: a.shape for n, a in state.items()}
    assert list(dict(module.branches.named_parameters(prefix="branches"))) == [n for n in params if "branch" in n]


STEP = 2.0**-21  # eight roundings of float32


def wholes(found):
    """The quantities that float32 settles: losses, and each step's gradients, statistics and moves as one vector.

    One gradient by itself hangs on single relu and max-pool choices, which a rounding can turn.
    """
    joined = {}
    for name, a in sorted(found.items()):
        if "num_batches" not in name:
            joined.setdefault(" ".join(name.split()[:2]), []).append(np.ravel(a))
    return {name: np.concatenate(parts) for name, parts in joined.items()}


@pytest.mark.parametrize("row", ROWS)
def test_three_steps_in_float32(row):
    """Every parameter, statistic and pixel moved by +-STEP of itself, in float64: what that changes of a quantity,
    float32 may lose of it."""
    _, params, state = start(row)
    params, state = cast(params, np.float32), cast(state, np.float32)
    data = [(x.astype(np.float32), y) for x, y in batches()]
    found = ours(row, params, state, data)
    assert {str(a.dtype) for name, a in found.items() if "num_batches" not in name} == {"float32"}
    params, state = cast(params, np.float64), cast(state, np.float64)
    data = [(x.astype(np.float64), y) for x, y in data]
    exact, allowed, rng = wholes(theirs(row, params, state, data)), {}, np.random.default_rng(13)

    def moved(a):
        return a if a.dtype.kind in "iu" else a * (1 + STEP * rng.choice([-1.0, 1.0], a.shape))

    for _ in range(4):
        near = ({n: moved(a) for n, a in flat.items()} for flat in (params, state))
        change = errors(wholes(theirs(row, *near, [(moved(x), y) for x, y in data], begin=params)), exact)
        allowed = {n: max(allowed.get(n, 2.0**-21), c) for n, c in change.items()}
    assert max(allowed.values()) < 1e-2, "a bound as loose as this would not see a wrong layer"
    error = worst({n: e / allowed[n] for n, e in errors(wholes(found), exact).items()})
    assert error[0] < 1, error


SWAPPED = GROUPS | {"VH": ("sen1", (1, 2, 6), "vh"), "VV": ("sen1", (3, 4, 5), "vv")}
SAID = GROUPS | {"VH": ("sen1", (1, 2, 5), "vv"), "VV": ("sen1", (3, 4, 6), "vh")}
ORDER = {name: GROUPS[name] for name in ("VRE", "RGB", *list(GROUPS)[2:])}
MISTAKES = {  # the first quantity that must differ
    "0 loss": [
        {"groups": SWAPPED},
        {"groups": SAID},
        {"groups": ORDER},
        {"sar_first": False},
        {"alpha": 0.25 / 7},
        {"beta": 1.0},
        {"reduction": "sum"},
        {"raw": True},
        {"fused_unit": True},
        {"shift": 1},
        {"train": False},
    ],
    "0 moved classifier.weight": [{"sgd": {"weight_decay": 0.0}}, {"sgd": {"nesterov": True}}],
    "1 moved classifier.weight": [{"sgd": {"momentum": 0.0}}, {"sgd": {"dampening": 0.1}}],
}


@pytest.mark.parametrize(("quantity", "mistake"), [(q, m) for q, some in MISTAKES.items() for m in some], ids=str)
def test_a_mistake_is_seen(quantity, mistake):
    _, params, state = start("ebcnn-bplcz")
    data = batches()[: int(quantity[0]) + 1]
    found = errors(ours("ebcnn-bplcz", params, state, data), theirs("ebcnn-bplcz", params, state, data, **mistake))
    assert found[quantity] > 1e-6


def test_a_wrong_matrix_is_seen():
    """Table III's last two rows differ in W alone: each one's step must not pass for the other's."""
    _, params, state = start("ebcnn-bplcz")
    found = ours("ebcnn-bplcz", params, state, batches()[:1])
    wrong = errors(found, theirs("ebcnn-bgp", params, state, batches()[:1]))
    assert wrong["0 loss"] > 1e-3
    assert wrong["0 gradient text.text_projection"] > 1e-3

"""BP-LCZ's whole training step beside PyTorch, for the three rows of Table III.

The peer is written from the paper as a user of PyTorch would write it: the encoders of twins.py, the prompts of
every sample as strings, each one encoded and padded to 77 tokens; both matrices S and S_hat; torch.nn.BCELoss of
their sigmoid; torch.optim.SGD. Compared over three steps: loss, every gradient by name, running statistics, and
how far every parameter has moved.
"""

import numpy as np
import pytest

from bplcz_ref import model, optim, prompts, systems
from bplcz_ref.storage import weights
from bplcz_ref.tokenizer import Tokenizer

torch = pytest.importorskip("torch")
tnn = torch.nn
F = torch.nn.functional

from networks import relative, started, worst  # noqa: E402
from twins import BandEncoder, Tower, loaded  # noqa: E402

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


class BPLCZ(tnn.Module):
    """Fig. 1 of a row; what follows it is for test_trace_torch.py to read otherwise."""

    def __init__(self, row, groups=GROUPS, beta=2.0):
        super().__init__()
        d, self.groups, self.beta = SMALL.features, groups, beta
        encoders = {name: BandEncoder(len(bands), SMALL.width, d) for name, (_, bands, _) in groups.items()}
        self.branches, self.classifier = tnn.ModuleDict(encoders), tnn.Linear(7 * d, 17)
        self.row, self.words, self.bce = row, Tokenizer.bundled(), tnn.BCELoss()
        if row != "ebcnn":
            sizes = SMALL.text_width, SMALL.text_layers, SMALL.text_heads, d
            self.text = Tower(self.words.vocab_size, *sizes)

    def image_features(self, x):  # (B, H, W, 18) -> {group: (B, d)}, Eq. (1)
        x = x.permute(0, 3, 1, 2)
        sensors = {"sen1": x[:, :8], "sen2": x[:, 8:]}
        return {
            name: self.branches[name](sensors[sensor][:, [band - 1 for band in bands]])
            for name, (sensor, bands, _) in self.groups.items()
        }

    def text_features(self, y):  # (B,) -> {group: (B, d)}, Eq. (2)
        T = {}
        for name, (_, _, said) in self.groups.items():
            t = [f"a photo of a {prompts.DESCRIPTIONS[k]} with {said} bands" for k in y.tolist()]
            T[name] = self.text(torch.from_numpy(self.words.batch(t)))
        return T

    def logits(self, I):
        return self.classifier(torch.cat(list(I.values()), dim=1))  # Eq. (9)

    def forward(self, x):
        return self.logits(self.image_features(x))

    def loss(self, x, y):
        I = self.image_features(x)
        L_cls = tnn.CrossEntropyLoss()(self.logits(I), y)  # Eq. (11)
        if self.row == "ebcnn":
            return L_cls
        T, S, S_hat = self.text_features(y), 0, 0
        for name in self.groups:  # Eqs. (3), (4)
            u, v = F.normalize(I[name]), F.normalize(T[name])
            S, S_hat = S + 0.25 * u @ v.T, S_hat + 0.25 * v @ u.T
        same = y[:, None] == y[None, :] if self.row == "ebcnn-bplcz" else torch.eye(len(y))  # Eq. (5)
        W = same.to(S.dtype)
        L_con = (self.bce(torch.sigmoid(S), W) + self.bce(torch.sigmoid(S_hat), W)) / 2  # Eqs. (6)-(8)
        return L_cls + self.beta * L_con  # Eq. (10)


# ----------------------------------------------------------------------------------------------- the comparison


def start(row):
    """A row of systems.py in float64, its parameters and statistics off their initial values."""
    network = systems.build(row, SMALL)
    return network, *started(network)


def batches():
    """Three, of noise; labels with and without company, the last batch a short one."""
    rng = np.random.default_rng(12)
    labels = ([3, 16, 3, 0, 3, 8], [5, 5, 5, 5, 5, 5], [1, 2, 1])
    return [(rng.standard_normal((len(y), 12, 8, 18)), np.array(y)) for y in labels]


def record(t, L, **parts):
    """{quantity: array} of step t."""
    named = {f"{t} {part} {name}": np.array(a) for part, flat in parts.items() for name, a in flat.items()}
    return {f"{t} loss": np.asarray(L), **named}


def ours(network, params, state):
    begin, found, velocity = weights.named(params), {}, None
    for t, batch in enumerate(batches()):
        L, gradients, trace = model.loss_and_gradients(network.loss, params, state, batch)
        params, velocity = optim.sgd(params, velocity, gradients, **RULE)
        state = trace["state"]
        moved = {name: a - begin[name] for name, a in weights.named(params).items()}
        found |= record(t, L, gradient=weights.named(gradients), state=weights.named(state), moved=moved)
    return found | {"logits": network.apply(params, state, batches()[0][0], train=False)[0]}


def theirs(row, params, state):
    module, begin, found = loaded(BPLCZ(row), params, state).train(), weights.named(params), {}
    optimiser = torch.optim.SGD(module.parameters(), lr=RULE["learning_rate"], momentum=0.9, weight_decay=0.002)
    for t, (x, y) in enumerate(batches()):
        optimiser.zero_grad()
        L = module.loss(torch.tensor(x), torch.tensor(y))
        L.backward()
        optimiser.step()
        gradient = {n: p.grad.numpy() for n, p in module.named_parameters()}
        moved = {n: p.detach().numpy() - begin[n] for n, p in module.named_parameters()}
        state = {n: b.numpy() for n, b in module.named_buffers()}
        found |= record(t, L.item(), gradient=gradient, state=state, moved=moved)
    with torch.no_grad():
        return found | {"logits": module.eval()(torch.tensor(batches()[0][0])).numpy()}


@pytest.mark.parametrize("row", ROWS)
def test_three_steps_in_float64(row):
    network, *trees = start(row)
    found, expected = ours(network, *trees), theirs(row, *trees)
    nothing = [n for n, b in expected.items() if "gradient" in n and np.linalg.norm(b) < 1e-9]
    assert not nothing, "a comparison of rounding errors shows nothing"
    assert set(found) == set(expected)
    error = worst({name: relative(found[name], expected[name]) for name in expected})
    assert error[0] < 1e-10, error

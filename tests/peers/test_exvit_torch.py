"""ExViT beside PyTorch: a twin in torch.nn, written from the description, with the same weights by the same names.

Outputs, running statistics and the gradient of every parameter, in evaluation and in training, without dropout
and with the same masks. float64 is judged tensor by tensor; float32 as a whole, by how far PyTorch's own float32
is from float64.
"""

import sys
from pathlib import Path

import numpy as np
import pytest

from bplcz_ref import equations, model, weights
from bplcz_ref.encoders import exvit

sys.path.insert(0, str(Path(__file__).parent.parent))

from test_encoders_single_stream import LITERALS, NETWORKS, case, gist  # noqa: E402

torch = pytest.importorskip("torch")
tnn = torch.nn
F = torch.nn.functional

TINY = exvit.Size(stem=2, width=6, layers=2, joint=1, heads=2, head=4, hidden=5, dropout=0.0)
ONE_HEAD = TINY._replace(heads=1, head=6, layers=1, joint=2)


class Twin(tnn.Module):
    """ExViT's modules under the names of its public code; `masks` of (place, shape) gives the dropout factors."""

    def __init__(self, channels, patch, grid, classes, size):
        super().__init__()
        self.grid, self.size = grid, size
        w, inner = size.width, size.heads * size.head
        self.pos_embedding = tnn.Parameter(torch.zeros(1, (patch // grid) ** 2, w))

        def stem(c):
            blocks, outputs = [], size.stem
            for _ in range(3):
                blocks += [tnn.Conv2d(c, c, 3, padding=1, groups=c), tnn.Conv2d(c, outputs, 1)]
                blocks += [tnn.BatchNorm2d(outputs), tnn.GELU()]
                c, outputs = outputs, 2 * outputs
            return tnn.Sequential(*blocks)

        def normed(**parts):
            return tnn.ModuleDict({"fn": tnn.ModuleDict({"norm": tnn.LayerNorm(w), "fn": tnn.ModuleDict(parts)})})

        def transformer(layers):
            return tnn.ModuleDict(
                {
                    "layers": tnn.ModuleList(
                        tnn.ModuleList(
                            [
                                normed(
                                    to_qkv=tnn.Linear(w, 3 * inner, bias=False),
                                    to_out=tnn.ModuleDict({"0": tnn.Linear(inner, w)}),
                                ),
                                normed(
                                    net=tnn.ModuleDict(
                                        {"0": tnn.Linear(w, size.hidden), "3": tnn.Linear(size.hidden, w)}
                                    )
                                ),
                            ]
                        )
                        for _ in range(layers)
                    )
                }
            )

        self.separable1, self.separable2 = map(stem, channels)
        self.to_patch_embedding2 = tnn.Linear(4 * size.stem, w)
        self.to_patch_embedding2c = tnn.Linear(4 * size.stem, w)
        self.transformer1, self.transformer2 = transformer(size.layers), transformer(size.layers)
        self.transformer = transformer(size.joint)
        self.mlp_head0 = tnn.Sequential(tnn.LayerNorm(w), tnn.Linear(w, 1))
        self.mlp_head1 = tnn.Sequential(tnn.LayerNorm(w), tnn.Linear(w, classes))

    def attention(self, part, x):
        B, N, _ = x.shape
        q, k, v = (
            t.view(B, N, self.size.heads, self.size.head).transpose(1, 2)
            for t in part["to_qkv"](x).split(self.size.heads * self.size.head, dim=2)
        )
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return part["to_out"]["0"](y)

    def layers(self, transformer, x, drop):
        for one, two in transformer["layers"]:
            x = x + drop(self.attention(one["fn"]["fn"], one["fn"]["norm"](x)))
            net = two["fn"]["fn"]["net"]
            h = drop(F.gelu(net["0"](two["fn"]["norm"](x))))
            x = x + drop(net["3"](h))
        return x

    def forward(self, x1, x2, masks=None):
        drops = [(lambda t, k=k: t if masks is None else t * masks(k, t.shape)) for k in range(3)]
        streams = (
            (x1, self.separable1, self.to_patch_embedding2, self.transformer1, drops[0]),
            (x2, self.separable2, self.to_patch_embedding2c, self.transformer2, drops[1]),
        )
        both = []
        for x, stem, embedding, transformer, drop in streams:
            x = F.avg_pool2d(stem(x), self.grid)
            x = drop(embedding(x.flatten(2).transpose(1, 2)) + self.pos_embedding)
            both.append(self.layers(transformer, x, drop))
        x = self.layers(self.transformer, torch.cat(both, 1), drops[2])
        a = F.softmax(self.mlp_head0(x).squeeze(2), dim=1)
        return self.mlp_head1(torch.einsum("bn,bnd->bd", a, x))


def masks(seed, batch, rate, dtype):
    """The dropout factors of exvit.two_modalities for a Generator of this seed, drawn as its docstring says."""
    *own, third = np.random.default_rng(seed).spawn(3)
    parts = [len(range(i, min(i + exvit.PART, batch))) for i in range(0, batch, exvit.PART)]
    streams = [[(g, batch)] for g in own] + [list(zip(third.spawn(len(parts)), parts, strict=True))]

    def draw(k, shape):
        keep = [g.random((n, *shape[1:]), dtype=np.float32) >= rate for g, n in streams[k]]
        return torch.from_numpy(np.concatenate(keep).astype(dtype) / (1 - rate)).to(
            getattr(torch, np.dtype(dtype).name)
        )

    return draw


def start(channels, patch, grid, classes, size, batch, dtype):
    """network, its parameters and a state that is not the initial one, images, labels."""
    network = exvit.two_modalities(*channels, patch, grid, classes, size)
    rng = np.random.default_rng(7)
    params, state = network.init(rng, np.float64)
    # Off the start: norms with other weights than 1 and 0, running statistics that are not 0 and 1.
    params = {n: leaf + 0.3 * rng.standard_normal(leaf.shape) for n, leaf in weights.named(params).items()}
    state = {
        n: leaf + 3 if n.endswith("tracked") else leaf + rng.uniform(0.1, 0.5, leaf.shape)
        for n, leaf in weights.named(state).items()
    }
    x = [rng.standard_normal((batch, patch, patch, c)).astype(dtype) for c in channels]
    params = weights.nested({n: leaf.astype(dtype) for n, leaf in params.items()})
    state = weights.nested({n: leaf if n.endswith("tracked") else leaf.astype(dtype) for n, leaf in state.items()})
    return network, params, state, x, rng.integers(0, classes, batch)


def ours(network, params, state, x, y, train, seed):
    def loss(p, state, batch):
        rng = None if seed is None else np.random.default_rng(seed)
        c_hat, new = network.apply(p, state, x, train=train, rng=rng)
        return equations.cross_entropy(c_hat, y), {"c_hat": c_hat, "state": new}

    L, gradients, trace = model.loss_and_gradients(loss, params, state, None)
    return L, trace["c_hat"], weights.named(trace["state"]), weights.named(gradients)


def theirs(setting, params, state, x, y, train, seed, dtype):
    channels, patch, grid, classes, size, batch = setting
    twin = Twin(channels, patch, grid, classes, size).to(getattr(torch, np.dtype(dtype).name)).train(train)
    flat = weights.named(params) | weights.named(state)
    twin.load_state_dict({n: torch.tensor(np.array(leaf)) for n, leaf in flat.items()}, strict=True)
    images = [torch.from_numpy(np.ascontiguousarray(part.transpose(0, 3, 1, 2))) for part in x]
    factors = None if seed is None else masks(seed, batch, size.dropout, dtype)
    c_hat = twin(*images, factors)
    L = F.cross_entropy(c_hat, torch.from_numpy(y))
    L.backward()
    gradients = {n: p.grad.numpy() for n, p in twin.named_parameters()}
    buffers = {n: b.numpy() for n, b in twin.named_buffers()}
    return L.item(), c_hat.detach().numpy(), buffers, gradients


def without_gradient(name, train):
    """Biases whose effect a later step takes away: batch norm's mean (in training), softmax over the tokens."""
    conv = name.startswith("separable") and name.split(".")[1] in ("0", "1", "4", "5", "8", "9")
    return name.endswith("bias") and ((train and conv) or name.startswith("mlp_head0"))


#            channels, patch, grid, classes, size, batch
SETTINGS = {
    "tiny": ((3, 2), 8, 2, 5, TINY, 3),
    "one of a batch": ((3, 2), 8, 4, 5, TINY, 1),
    "every pixel a token, odd patch": ((4, 1), 5, 1, 3, ONE_HEAD, 2),
    "so2sat, grid 4": ((10, 8), 32, 4, 17, exvit.SIZE._replace(dropout=0.0), 2),
    "dropout, more than one part": ((3, 2), 6, 2, 5, TINY._replace(dropout=0.3), exvit.PART + 3),
    "public sizes, dropout": ((5, 1), 7, 1, 15, exvit.SIZE, 2),
}


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("name", SETTINGS)
def test_float64_equals_torch(name, train):
    setting = SETTINGS[name]
    network, params, state, x, y = start(*setting, np.float64)
    seed = 11 if train and setting[4].dropout else None
    L, c_hat, new, gradients = ours(network, params, state, x, y, train, seed)
    twin_L, twin_c_hat, buffers, twin_gradients = theirs(setting, params, state, x, y, train, seed, np.float64)
    assert abs(L - twin_L) <= 1e-12 * abs(twin_L)
    assert np.abs(c_hat - twin_c_hat).max() <= 1e-11 * np.abs(twin_c_hat).max()
    assert set(new) == set(buffers)
    for buffer, value in buffers.items():
        assert np.abs(new[buffer] - value).max() <= 1e-12 * np.abs(value).max(), buffer
    assert set(gradients) == set(twin_gradients)
    largest = max(np.abs(g).max() for g in twin_gradients.values())
    for parameter, twin in twin_gradients.items():
        scale = largest if without_gradient(parameter, train) else np.abs(twin).max()
        assert scale > 1e-7 * largest, f"{parameter}: nothing to compare"
        assert np.abs(gradients[parameter] - twin).max() <= 1e-10 * scale, parameter
        if without_gradient(parameter, train):
            assert np.abs(gradients[parameter]).max() <= 1e-12 * largest, parameter


@pytest.mark.parametrize("name", ["tiny", "so2sat, grid 4", "dropout, more than one part"])
def test_float32_is_as_near_to_float64_as_torch_is(name):
    setting = SETTINGS[name]
    seed = 11 if setting[4].dropout else None
    network, params, state, x, y = start(*setting, np.float32)
    single = ours(network, params, state, x, y, True, seed)
    peer = theirs(setting, params, state, x, y, True, seed, np.float32)
    wide = {n: np.asarray(a, np.float64) for n, a in weights.named(params).items()}
    exact = theirs(
        setting,
        weights.nested(wide),
        weights.nested({n: np.asarray(a, float) for n, a in weights.named(state).items()}),
        [part.astype(np.float64) for part in x],
        y,
        True,
        seed,
        np.float64,
    )

    def apart(gradients):
        total = sum(np.sum((gradients[n] - g) ** 2.0) for n, g in exact[3].items())
        return (total / sum(np.sum(g**2) for g in exact[3].values())) ** 0.5

    assert {g.dtype for g in single[3].values()} == {np.dtype(np.float32)}
    assert apart(single[3]) <= 4 * max(apart(peer[3]), np.finfo(np.float32).eps)
    scale = np.abs(exact[1]).max()
    peer_error = np.abs(peer[1] - exact[1]).max() / scale
    assert np.abs(single[1] - exact[1]).max() / scale <= 4 * max(peer_error, np.finfo(np.float32).eps)


def test_the_twin_sees_a_wrong_order_of_modalities_and_a_wrong_split_of_heads():
    setting = SETTINGS["tiny"]
    _, params, state, x, y = start(*setting, np.float64)
    right = theirs(setting, params, state, x, y, True, None, np.float64)[1]
    swapped = params | {"transformer1": params["transformer2"], "transformer2": params["transformer1"]}
    assert np.abs(theirs(setting, swapped, state, x, y, True, None, np.float64)[1] - right).max() > 1e-6
    other = exvit.two_modalities(*setting[0], *setting[1:4], setting[4]._replace(heads=4, head=2))
    assert np.abs(other.apply(params, state, x, train=True)[0] - right).max() > 1e-6


def test_the_numbers_that_are_kept_are_the_twins():
    params, state, x, R = case(NETWORKS["exvit"](), (4, 32, 32, 18))
    twin = Twin((10, 8), 32, 4, 17, exvit.SIZE).double()
    flat = weights.named(params) | weights.named(state)
    twin.load_state_dict({n: torch.tensor(np.array(leaf)) for n, leaf in flat.items()}, strict=True)
    images = [torch.from_numpy(x[..., part].transpose(0, 3, 1, 2)) for part in (slice(8, 18), slice(8))]
    found = {"eval": twin.eval()(*images).detach().numpy()}
    c_hat = twin.train()(*images)
    found["train"] = c_hat.detach().numpy()
    (c_hat * torch.from_numpy(R)).sum().backward()
    own = dict(twin.named_parameters()) | dict(twin.named_buffers())
    found |= {f"state {name}": own[name].numpy() for name in weights.named(state)}
    found |= {f"gradient {name}": own[name].grad.numpy() for name in weights.named(params)}
    np.testing.assert_allclose(gist(found), LITERALS["exvit"], rtol=1e-10)

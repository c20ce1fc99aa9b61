"""encoders/text.py beside CLIP's text tower in PyTorch: features, and the gradient of every parameter by name.

Two peers. `Tower` below is written from the description of openai/CLIP's model.py, on torch.nn.MultiheadAttention,
with none of our savings: every prompt is a row of its own, padded to the whole context. Where transformers is
installed, its CLIP classes are asked as well, with the weights they start from, so nothing is downloaded.
"""

import importlib.util
from pathlib import Path

import autograd.numpy as anp
import numpy as np
import pytest

from bplcz_ref import nn, prompts, weights
from bplcz_ref.encoders import prefixes, text
from bplcz_ref.tokenizer import Tokenizer

torch = pytest.importorskip("torch")
tnn = torch.nn

spec = importlib.util.spec_from_file_location(
    "names", Path(__file__).parents[2] / "examples/hugging_face_names.py"
)
example = importlib.util.module_from_spec(spec)
spec.loader.exec_module(example)
openai_names = example.openai_names


class QuickGELU(tnn.Module):
    def forward(self, x):
        return x * torch.sigmoid(1.702 * x)


class Block(tnn.Module):
    def __init__(self, width, heads, activation, eps, post_norm):
        super().__init__()
        self.attn = tnn.MultiheadAttention(width, heads, batch_first=True)
        self.ln_1, self.ln_2 = tnn.LayerNorm(width, eps), tnn.LayerNorm(width, eps)
        self.mlp = tnn.Sequential()
        self.mlp.c_fc, self.mlp.gelu = tnn.Linear(width, 4 * width), activation()
        self.mlp.c_proj = tnn.Linear(4 * width, width)
        self.post_norm = post_norm

    def forward(self, x, mask, r):
        def attend(x):
            return r(self.attn(r(x), r(x), r(x), need_weights=False, attn_mask=mask)[0])

        def perceive(x):
            for layer in self.mlp:
                x = r(layer(x))
            return x

        if self.post_norm:
            x = self.ln_1(x + attend(x))
            return self.ln_2(x + perceive(x))
        x = r(x + attend(self.ln_1(x)))
        return r(x + perceive(r(self.ln_2(x))))


class Tower(tnn.Module):
    """CLIP's text tower; what follows `context` are its conventions, for the mistakes below to break.

    `rounding` is applied to every intermediate value, and autograd applies it to the gradient there.
    """

    def __init__(
        self,
        vocabulary,
        width,
        layers,
        heads,
        features,
        context=77,
        *,
        activation=QuickGELU,
        eps=1e-5,
        post_norm=False,
        causal=True,
        pooled="EOT",
        positions=True,
        rounding=lambda x: x,
    ):
        super().__init__()
        self.token_embedding = tnn.Embedding(vocabulary, width)
        self.positional_embedding = tnn.Parameter(torch.zeros(context, width))
        self.transformer = tnn.Module()
        self.transformer.resblocks = tnn.ModuleList(
            Block(width, heads, activation, eps, post_norm) for _ in range(layers)
        )
        self.ln_final = tnn.LayerNorm(width, eps)
        self.text_projection = tnn.Parameter(torch.zeros(width, features))
        self.context, self.causal, self.pooled, self.positions = context, causal, pooled, positions
        self.rounding = rounding

    def forward(self, ids):  # (N, context) -> (N, d)
        hidden = torch.full((self.context, self.context), -torch.inf, dtype=self.text_projection.dtype).triu(1)
        x = self.token_embedding(ids)
        if self.positions:
            x = x + self.positional_embedding
        for block in self.transformer.resblocks:
            x = block(x, hidden if self.causal else None, self.rounding)
        x = self.rounding(self.ln_final(x))
        end = {"EOT": ids.argmax(dim=-1), "last": self.context - 1, "first": 0}[self.pooled]
        return x[torch.arange(len(ids)), end] @ self.text_projection


# ----------------------------------------------------------------------------------------------- the comparison


def start(sizes, seed=0):
    """Parameters in float64, off the initial values: biases that are not 0, norms that are not 1 and 0."""
    rng = np.random.default_rng(seed)
    flat = weights.named(text.encoder(*sizes).init(rng, np.float64)[0])
    shift = {n: 0.2 if a.ndim == 1 else 0.2 * a.std() for n, a in flat.items()}
    return weights.nested({n: a + shift[n] * rng.standard_normal(a.shape) for n, a in flat.items()})


def cast(params, dtype):
    return weights.nested({n: a.astype(dtype) for n, a in weights.named(params).items()})


def ours(sizes, params, ids, R):
    """{quantity: array}: the features of ids, an array or a Packed, and the gradients of sum(features * R)."""
    encoder = text.encoder(*sizes)
    encoder = prefixes.encoder(encoder) if isinstance(ids, prefixes.Packed) else encoder

    def loss(p):
        T, _ = encoder.apply(p, {}, ids, train=True)
        return anp.sum(T * R), T

    _, gradients, T = nn.value_and_gradients(loss, params)
    return {"features": T.reshape(-1, T.shape[-1])} | weights.named(gradients)


def padded(ids, context):
    return torch.nn.functional.pad(torch.as_tensor(ids), (0, context - np.shape(ids)[-1]))


def theirs(sizes, params, ids, R, **conventions):
    """The same by `Tower`; ids (N, L)."""
    flat = weights.named(params)
    tower = Tower(*sizes, **conventions).to(getattr(torch, flat["text_projection"].dtype.name))
    tower.load_state_dict({name: torch.tensor(leaf) for name, leaf in flat.items()}, strict=True)
    T = tower(padded(ids, tower.context))
    (T * torch.tensor(R)).sum().backward()
    zero = torch.zeros(())
    return {"features": T.detach().numpy()} | {
        n: (zero.expand_as(p) if p.grad is None else p.grad).numpy() for n, p in tower.named_parameters()
    }


def relative(a, b):
    """||a - b|| / ||b||; 0 / 0 is 0."""
    norm, apart = np.linalg.norm(b), np.linalg.norm(np.asarray(a, np.float64) - b)
    return apart / norm if norm else (0.0 if apart == 0 else np.inf)


def errors(found, expected, thirds=True):
    """{quantity: relative error}: tables row by row and packed thirds one by one, so that none hides another."""
    assert set(found) == set(expected)
    apart = {}
    for name, b in expected.items():
        a = found[name]
        assert a.shape == b.shape, name
        if name == "features" or name.endswith("embedding") or name == "token_embedding.weight":
            apart |= {f"{name}[{i}]": relative(a[i], b[i]) for i in range(len(b))}
        elif thirds and "in_proj" in name:
            parts = dict(zip("qkv", zip(np.split(a, 3), np.split(b, 3), strict=True), strict=True))
            if name.endswith("bias"):  # a key bias moves every score of a query alike: softmax takes that away
                whole = np.linalg.norm(b)
                for side in parts.pop("k"):
                    assert np.linalg.norm(side) < 64 * np.finfo(side.dtype).eps * whole, name
            apart |= {f"{name} {letter}": relative(*pair) for letter, pair in parts.items()}
        else:
            assert np.linalg.norm(b) > 0, f"{name}: nothing to compare"
            apart[name] = relative(a, b)
    return apart


def worst(apart):
    name = max(apart, key=apart.get)
    return apart[name], name


def sequences(vocabulary, lengths, rng):
    """One row a length: SOT, words, EOT (the largest id); then other words and, in every second row, EOT again."""
    ids = rng.integers(0, vocabulary - 2, (len(lengths), max(lengths) + 2))
    ids[:, 0] = vocabulary - 2
    for row, length in enumerate(lengths):
        ids[row, length - 1] = vocabulary - 1
        if row % 2:
            ids[row, length] = vocabulary - 1
    return ids


#       (vocabulary, width, layers, heads, features, context), lengths of the prompts
CASES = {
    "one block": ((12, 8, 1, 2, 4, 9), (3, 7, 5)),
    "a head of width 1": ((12, 6, 2, 6, 6, 14), (12, 2, 2)),
    "one head": ((40, 10, 3, 1, 17, 20), (18, 5, 9, 9)),
    "one prompt of two tokens": ((5, 4, 2, 2, 3, 77), (2,)),
    "whole context": ((60, 24, 4, 3, 10, 77), (75, 31, 40)),
    "twelve blocks": ((90, 32, 12, 4, 16, 77), (26, 30, 24, 28)),
}


def case(name):
    sizes, lengths = CASES[name]
    rng = np.random.default_rng(3)
    return sizes, start(sizes), sequences(sizes[0], lengths, rng), rng.standard_normal((len(lengths), sizes[4]))


@pytest.mark.parametrize("name", CASES)
def test_names_and_shapes_are_the_tower_s(name):
    sizes, params, *_ = case(name)
    state_dict = Tower(*sizes).state_dict()
    assert {n: tuple(t.shape) for n, t in state_dict.items()} == {
        n: a.shape for n, a in weights.named(params).items()
    }
    loaded, _ = weights.load({n: t.numpy() for n, t in state_dict.items()}, text.encoder(*sizes))
    assert all(np.array_equal(leaf, state_dict[n].numpy()) for n, leaf in weights.named(loaded).items())


@pytest.mark.parametrize("name", CASES)
def test_float64_equals_torch(name):
    sizes, params, ids, R = case(name)
    error = worst(errors(ours(sizes, params, ids, R), theirs(sizes, params, ids, R)))
    assert error[0] < 1e-10, error


STEP = 2.0**-21  # eight roundings of float32: a sum of W products has W of them, of either sign; W is 32 or less


@pytest.mark.parametrize("name", CASES)
def test_float32_is_within_the_tower_s_conditioning(name):
    """Every parameter and every intermediate moved by +-STEP of itself, in float64: what that changes of a
    quantity, float32 may lose of it. The thirds of in_proj are judged together: the gradients of q and k are sums
    over scores that cancel, and the rounding of the scores happens where nothing can be moved from outside."""
    sizes, params, ids, R = case(name)
    params, R = cast(params, np.float32), R.astype(np.float32)
    found = ours(sizes, params, ids, R)
    assert {a.dtype for a in found.values()} == {np.dtype(np.float32)}
    params, R, allowed = cast(params, np.float64), R.astype(np.float64), {}
    exact, signs = theirs(sizes, params, ids, R), torch.Generator().manual_seed(5)

    def rounding(x):
        return x * (1 + STEP * (2.0 * torch.randint(0, 2, x.shape, generator=signs) - 1))

    for _ in range(4):
        moved = {n: rounding(torch.tensor(a)).numpy() for n, a in weights.named(params).items()}
        change = errors(theirs(sizes, weights.nested(moved), ids, R, rounding=rounding), exact, thirds=False)
        allowed = {n: max(allowed.get(n, 2.0**-22), c) for n, c in change.items()}
    assert max(allowed.values()) < 1e-3, "a bound as loose as this would not see a wrong layer"
    error = worst({n: e / allowed[n] for n, e in errors(found, exact, thirds=False).items()})
    assert error[0] < 1, error


# -------------------------------------------------------------------------------------------------- prefix trees

PACKED = np.array([
    [[28, 5, 6, 7, 8, 29, 0, 0], [28, 5, 6, 9, 29, 0, 0, 0], [28, 5, 6, 7, 29, 29, 3, 0]],
    [[28, 5, 6, 3, 29, 0, 0, 0], [28, 5, 6, 3, 2, 2, 4, 29], [28, 4, 29, 0, 0, 0, 0, 0]],
    [[28, 0, 0, 0, 29, 0, 0, 0], [28, 0, 29, 0, 0, 0, 0, 0], [28, 0, 0, 0, 29, 1, 1, 1]],
])  # fmt: skip
TREE = (30, 12, 3, 3, 5, 20)


def test_prefix_trees_equal_torch_prompt_by_prompt():
    params, R = start(TREE), np.random.default_rng(4).standard_normal((3, 3, 5))
    rows, R_rows = PACKED.reshape(9, -1), R.reshape(9, -1)
    error = worst(errors(ours(TREE, params, prefixes.pack(PACKED), R), theirs(TREE, params, rows, R_rows)))
    assert error[0] < 1e-10, error
    some = [2, 0]  # the classes of a batch
    found = ours(TREE, params, prefixes.pack(PACKED).of(some), R[some])
    error = worst(errors(found, theirs(TREE, params, PACKED[some].reshape(6, -1), R[some].reshape(6, -1))))
    assert error[0] < 1e-10, error


def test_the_119_prompts_equal_torch_padded_to_77():
    words = Tokenizer.bundled()
    ids = words.batch(prompts.prompts())
    assert ids.shape == (119, 77)
    sizes = (words.vocab_size, 16, 2, 2, 8)
    params, R = start(sizes), np.random.default_rng(4).standard_normal((119, 8))
    found = ours(sizes, params, prefixes.pack(ids.reshape(17, 7, 77)), R.reshape(17, 7, 8))
    error = worst(errors(found, theirs(sizes, params, ids, R)))
    assert error[0] < 1e-10, error


# ------------------------------------------------------------------------------------- what the peers must see


@pytest.mark.parametrize(
    "mistake",
    [
        {"activation": tnn.GELU},
        {"eps": 1e-6},
        {"post_norm": True},
        {"causal": False},
        {"pooled": "last"},
        {"pooled": "first"},
        {"positions": False},
    ],
    ids=str,
)
def test_a_wrong_convention_is_seen(mistake):
    sizes, params, ids, R = case("one head")
    found, wrong = ours(sizes, params, ids, R), theirs(sizes, params, ids, R, **mistake)
    assert relative(found["features"], wrong["features"]) > 1e-6
    inner = "transformer.resblocks.1.mlp.c_fc.weight"
    assert relative(found[inner], wrong[inner]) > 1e-6


def test_wrong_heads_a_wrong_order_and_a_transposed_projection_are_seen():
    sizes, params, ids, R = case("twelve blocks")
    right = theirs(sizes, params, ids, R)["features"]
    vocabulary, width, layers, heads, *rest = sizes
    other = ours((vocabulary, width, layers, heads // 2, *rest), params, ids, R)["features"]
    assert relative(other, right) > 1e-3
    flat = weights.named(params)
    rolled = {n: np.roll(a, len(a) // 3, 0) if "in_proj" in n else a for n, a in flat.items()}  # v, q, k
    assert relative(ours(sizes, weights.nested(rolled), ids, R)["features"], right) > 1e-3
    square = (*sizes[:4], sizes[1], sizes[5])
    params, R = start(square), np.ones((len(ids), sizes[1]))
    right = theirs(square, params, ids, R)["features"]
    turned = params | {"text_projection": params["text_projection"].T.copy()}
    assert relative(ours(square, turned, ids, R)["features"], right) > 1e-3


@pytest.mark.parametrize("part", ["seen", "position", "eot"])
def test_a_wrong_tree_is_seen(part):
    tree, params, R = prefixes.pack(PACKED), start(TREE), np.ones((3, 3, 5))
    S = tree.ids.shape[1]
    wrong = {
        "seen": np.tile(np.tri(S, dtype=bool), (3, 1, 1)),  # as if the tree were one sequence
        "position": np.minimum(np.arange(S), TREE[5] - 1) + 0 * tree.position,
        "eot": tree.eot - 1,
    }[part]
    right = theirs(TREE, params, PACKED.reshape(9, -1), R.reshape(9, -1))["features"]
    assert relative(ours(TREE, params, tree._replace(**{part: wrong}), R)["features"], right) > 1e-3


# ------------------------------------------------------------------------------------------------- transformers


@pytest.fixture
def clip(monkeypatch):
    """The library transformers, which must not look for anything on a network."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return pytest.importorskip("transformers")


def configuration(clip, sizes, **options):
    vocabulary, width, layers, heads, features, context = sizes
    return clip.CLIPTextConfig(
        **{
            "vocab_size": vocabulary,
            "hidden_size": width,
            "intermediate_size": 4 * width,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "projection_dim": features,
            "max_position_embeddings": context,
            "bos_token_id": vocabulary - 2,
            "eos_token_id": vocabulary - 1,
            "attn_implementation": "sdpa",  # its "eager" takes the softmax in float32, whatever the dtype
        }
        | options
    )


def shaken(module, scale=0.2):
    """Its starting weights, biases and norms moved off 0 and 1."""
    torch.manual_seed(0)
    with torch.no_grad():
        for p in module.parameters():
            if p.ndim == 1:
                p += scale * torch.randn_like(p)
    return module.eval()


def huggingface(module, ids, R):
    """{quantity: array} as `ours` has them: the gradients, too, pass from name to name."""
    T = module(input_ids=torch.as_tensor(ids)).text_embeds
    (T * torch.tensor(R)).sum().backward()
    gradients, _ = weights.load(openai_names({n: p.grad.numpy() for n, p in module.named_parameters()}))
    return {"features": T.detach().numpy()} | weights.named(gradients)


def arrays(module):
    return openai_names({name: leaf.numpy() for name, leaf in module.state_dict().items()})


SMALL = (30, 24, 3, 3, 10, 13)


@pytest.mark.parametrize("eos", [29, 2], ids=["pooled at eos_token_id", "pooled at the largest id"])
def test_transformers_small(clip, eos):
    """transformers takes the first EOT, or, for the old eos_token_id 2, the largest id, as openai/CLIP does."""
    module = shaken(clip.CLIPTextModelWithProjection(configuration(clip, SMALL, eos_token_id=eos)).double())
    ids = np.array([
        [28, 5, 2, 7, 2, 29, 0, 0, 2], [28, 2, 29, 3, 3, 3, 3, 3, 3],
        [28, 0, 1, 2, 3, 4, 5, 6, 29], [28, 29, 29, 2, 29, 1, 1, 1, 1],
    ])  # fmt: skip
    R = np.random.default_rng(1).standard_normal((4, 10))
    params, state = weights.load(arrays(module), text.encoder(*SMALL), dtype="float64")
    assert state == {}
    found = ours(SMALL, params, ids, R)
    error = worst(errors(found, huggingface(module, ids, R)))
    assert error[0] < 1e-10, error
    error = worst(errors(ours(SMALL, params, prefixes.pack(ids[None]), R[None]), theirs(SMALL, params, ids, R)))
    assert error[0] < 1e-10, error


def test_transformers_files_are_read(clip, tmp_path):
    """What save_pretrained writes: the text tower by itself, and out of a whole CLIP."""
    pytest.importorskip("safetensors")
    ids = np.array([[28, 5, 6, 29, 0]])
    written = configuration(clip, SMALL)
    tower = shaken(clip.CLIPTextModelWithProjection(written))
    tower.save_pretrained(tmp_path / "tower")
    whole = clip.CLIPConfig(
        text_config=written.to_dict(),
        vision_config={
            "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1,
            "image_size": 4, "patch_size": 2, "projection_dim": 10,
        },
        projection_dim=10,
    )  # fmt: skip
    both = shaken(clip.CLIPModel(whole))
    both.save_pretrained(tmp_path / "whole")
    image_side = ("vision_model.", "visual_projection.", "logit_scale")
    for folder, ignore in (("tower", ()), ("whole", image_side)):
        renamed = openai_names(weights.read_arrays(tmp_path / folder / "model.safetensors"))
        params, _ = weights.load(renamed, text.encoder(*SMALL), ignore=ignore)
        T, _ = text.encoder(*SMALL).apply(params, {}, ids, train=False)
        module = tower if folder == "tower" else both
        with torch.no_grad():
            pooled = module.text_model(input_ids=torch.tensor(ids)).pooler_output
            expected = module.text_projection(pooled).numpy()
        assert T.dtype == np.float32
        assert relative(T, expected) < 1e-5


def test_transformers_at_the_size_of_vit_b_32(clip):
    """63,428,096 parameters, forward and backward; float64, where a wrong digit has nowhere to hide."""
    sizes = (49408, 512, 12, 8, 512, 77)
    config = clip.CLIPTextConfig(attn_implementation="sdpa")
    assert {n: getattr(config, n) for n in ("hidden_act", "layer_norm_eps", "eos_token_id")} == {
        "hidden_act": "quick_gelu",
        "layer_norm_eps": 1e-5,
        "eos_token_id": 49407,
    }
    module = shaken(clip.CLIPTextModelWithProjection(config).double())
    rng = np.random.default_rng(2)
    ids = rng.integers(0, 49406, (3, 12))
    ids[:, 0] = 49406
    ids[1, :5], ids[0, 11], ids[1, 8], ids[2, 5:] = ids[0, :5], 49407, 49407, 49407
    R = rng.standard_normal((3, 512))
    params, _ = weights.load(arrays(module), text.encoder(*sizes))
    assert weights.count(params) == 63_428_096
    error = worst(errors(ours(sizes, params, prefixes.pack(ids[None]), R[None]), huggingface(module, ids, R)))
    assert error[0] < 1e-10, error

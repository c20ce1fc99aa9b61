"""Every encoder's parameters counted; resnet, convnext, densenet, exvit: literal numbers of PyTorch; mistakes."""

from functools import partial
from types import SimpleNamespace

import autograd.numpy as anp
import numpy as np
import pytest
from autograd import grad, make_vjp
from comparing import slope_errors

from bplcz_ref import layers, nn, systems, weights
from bplcz_ref.encoders import convnext, densenet, ebcnn, exvit, resnet, text

FULL = {  # the four of Table II
    "resnet50": resnet.resnet50,
    "resnext50_32x4d": resnet.resnext50_32x4d,
    "convnext_tiny": convnext.convnext_tiny,
    "densenet121": densenet.densenet121,
}
NETWORKS = FULL | {"exvit": partial(exvit.exvit, size=exvit.SIZE._replace(dropout=0.0))}
OTHERS = {  # other published sizes, built by the general forms
    "resnext101_64x4d": partial(resnet.resnet, depths=(3, 4, 23, 3), groups=64, width_per_group=4),
    "wide_resnet50_2": partial(resnet.resnet, depths=(3, 4, 6, 3), width_per_group=128),
    "convnext_base": partial(convnext.convnext, depths=(3, 3, 27, 3), widths=(128, 256, 512, 1024)),
    "densenet161": partial(densenet.densenet, depths=(6, 12, 36, 24), growth=48, width=96),
}
PUBLISHED = (25557032, 25028904, 28589128, 7978856, 83455272, 68883240, 88591464, 28681000)
OFFICIAL = {"in_channels": 3, "classes": 1000}
TOWER = text.encoder(30, width=8, layers=1, heads=2, features=512)

COUNTS = [  # network, its parameters; with OFFICIAL sizes the published count
    *((FULL[name](), here) for name, here in zip(FULL, (23589905, 23061777, 27856241, 7018321), strict=True)),
    *((build(**OFFICIAL), n) for build, n in zip((FULL | OTHERS).values(), PUBLISHED, strict=True)),
    (text.encoder(vocabulary=49408), 63428096),  # CLIP's text tower
    # EB-CNN's branch of C channels: 9 C w + 279 w^2 + 28 w + 4 w d + d, at w = 16 and d = 64
    *((ebcnn.encoder(C, width=16, features=64), 144 * C + 71424 + 448 + 4096 + 64) for C in (1, 2, 3, 4)),
    # stems 3,636 + 3,584; projections 2 x 4,160; transformers 2 x 83,584 + 41,792; fusion 193; head 1,233; 64 N
    *((exvit.exvit(grid=g), 3636 + 3584 + 8320 + 208960 + 193 + 1233 + 64 * (32 // g) ** 2) for g in (1, 2, 4)),
    (exvit.two_modalities(144, 1, patch=13, grid=1, classes=15), 239914),  # the released checkpoint
    *((systems.exvit_bplcz("A", 512, 32, g, size=exvit.SIZE), n) for g, n in ((1, 1007164), (4, 945724))),
    (systems.exvit_bplcz("B", 512, 32, 4, size=exvit.SIZE), 685622),
]

# gist() of torchvision 0.28.0's own models and, for ExViT, of the twin in tests/peers, on the hashed numbers below
# (torch 2.13.0, float64).
LITERALS = {
    "resnet50": [
        793.6989931108, -479.7998161847, -277.1669547715, -1.048121861437, -4.954454592627, 0.1402325797732,
        148779.9635107, 179371.1316685, 47.00108701267, 179.6154985184,
    ],
    "resnext50_32x4d": [
        -375.3434264014, -224.6381437341, -155.0831888971, 6.012156863056, -4.551904831365, 3.585185197373,
        269807.6891779, 294314.4298395, 53.19736169249, 204.1100426640,
    ],
    "convnext_tiny": [
        0.4300477100141, -1.201114418910, -0.9200842086581, 0.3893298567802, -1.112310331367, -1.068165461200,
        19.34788653110, 223.4355166278, 0, 0,
    ],
    "densenet121": [
        1.043538526877, -0.3903033851474, -0.3603336506274, 0.1872126177242, -0.07677103316722, 0.5090954769847,
        6193.993509282, 8278.087350544, 54.31395424304, 199.2373844407,
    ],
    "exvit": [
        0.5115737970637, -1.334781359098, -1.991812156877, 0.842571139564, -1.954062305303, -1.959225994504,
        1.215931084453, 48.33209565196, 4.158243690537, 16.17239030776,
    ],
}  # fmt: skip


def hashed(seed, shape, dtype=np.float64):
    """Numbers in [0, 1) that depend on seed and place alone, by splitmix64: the same bits on every machine."""
    z = np.arange(1, int(np.prod(shape)) + 1, dtype=np.uint64) + np.uint64(seed << 40)
    z *= np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z ^= z >> np.uint64(31)
    return ((z >> np.uint64(11)) * 2.0**-53).reshape(shape).astype(dtype)


class Unwritten(np.ndarray):
    """A zero spread over a shape, which stays that under the arithmetic of initialisers: shapes without memory."""

    def __mul__(self, other):
        return self

    def astype(self, dtype):
        return self


def outline(network):
    """params, state of a network whose drawn tensors have shapes alone; takes no time at any size."""

    def draw(shape):
        return np.broadcast_to(np.float32(0), shape).view(Unwritten)

    rng = SimpleNamespace(standard_normal=draw, uniform=lambda low, high, shape: draw(shape))
    rng.spawn = lambda n: [rng] * n
    return network.init(rng, np.float32)


def hashed_network(network, dtype=np.float64):
    """params, state of hashed numbers, none at its neutral value: running statistics other than 0 and 1, a layer
    scale that lets the blocks speak."""
    trees = []
    for base, tree in zip((0, 500), outline(network), strict=True):
        flat = {}
        for k, (name, leaf) in enumerate(weights.named(tree).items(), base):
            shape = np.shape(leaf)
            if name.endswith("num_batches_tracked"):
                flat[name] = np.array(7)
                continue
            u = hashed(k, shape, dtype)
            if len(shape) > 1 and not name.endswith("layer_scale"):
                flat[name] = (u - dtype(0.5)) * dtype((24 / np.prod(shape[1:])) ** 0.5)  # variance 2 / fan_in
            elif name.endswith(("bias", "running_mean")):
                flat[name] = u - dtype(0.5)
            else:
                flat[name] = u + dtype(0.5)
        trees.append(weights.nested(flat))
    return trees


def everything(network, params, state, x, R):
    """{quantity: array}: logits of both modes, new state, gradients of sum(R * logits in training)."""
    found, kept = {"eval": network.apply(params, state, x, train=False)[0]}, {}

    def run(p):
        y, kept["state"] = network.apply(p, state, x, train=True)
        return y

    vjp, found["train"] = make_vjp(run)(params)
    found |= {f"state {name}": np.asarray(leaf) for name, leaf in weights.named(kept["state"]).items()}
    return found | {f"gradient {name}": leaf for name, leaf in weights.named(vjp(R)).items()}


def gist(found):
    """Ten numbers of `everything`: three logits of each mode, and the lengths of the first gradient, the whole
    gradient, the running means and the running variances."""
    gradients = [leaf for name, leaf in found.items() if name.startswith("gradient")]
    measured = [
        [leaf.ravel() for name, leaf in found.items() if name.startswith("state") and name.endswith(kind)]
        for kind in ("mean", "var")
    ]
    return [
        *(*found["eval"][0, :3], *found["train"][1, :3], np.linalg.norm(gradients[0])),
        np.sqrt(sum(np.sum(g**2) for g in gradients)),
        *(np.linalg.norm(np.concatenate([[0.0], *kind])) for kind in measured),
    ]


def case(network, shape, dtype=np.float64):
    """Hashed parameters, state, images and weights R of the logits: nowhere 0 or equal, so nothing can hide."""
    params, state = hashed_network(network, dtype)
    half = dtype(0.5)
    return params, state, hashed(1000, shape, dtype) - half, hashed(1001, (shape[0], 17), dtype) - half


# ------------------------------------------------------------------------------------- counts, names, literals


@pytest.mark.parametrize(("network", "count"), COUNTS, ids=[str(count) for _, count in COUNTS])
def test_parameter_counts(network, count):
    assert weights.count(outline(network)[0]) == count


def test_reading_b_adds_a_head_for_vectors_to_each_group():
    tokens = np.ones((17, 7, 4), int)
    params = outline(systems.exvit_bplcz("B", 512, 32, 4, size=exvit.SIZE, text=TOWER, tokens=tokens))[0]
    assert weights.count(params) - weights.count(params["text"]) == 685622 + 7 * (193 + 33408)


def test_names():
    params, state = (weights.named(tree) for tree in outline(resnet.resnext50_32x4d()))
    assert params["layer1.0.conv1.weight"].shape == (128, 64, 1, 1)
    assert params["layer1.0.conv2.weight"].shape == (128, 4, 3, 3)
    assert params["layer1.0.downsample.0.weight"].shape == (256, 64, 1, 1)
    assert params["fc.weight"].shape == (17, 2048)
    assert state["layer1.0.downsample.1.running_mean"].shape == (256,)
    assert state["layer4.2.bn3.num_batches_tracked"].dtype == np.int64
    assert len([name for name in state if name.endswith("running_var")]) == 53
    params = weights.named(outline(text.encoder(vocabulary=49408))[0])
    assert params["transformer.resblocks.11.attn.in_proj_weight"].shape == (1536, 512)
    assert params["transformer.resblocks.0.mlp.c_fc.bias"].shape == (2048,)
    assert params["text_projection"].shape == (512, 512)
    params, state = (weights.named(tree) for tree in outline(convnext.convnext_tiny()))
    assert params["features.0.0.weight"].shape == (96, 18, 4, 4)
    assert params["features.1.0.block.0.weight"].shape == (96, 1, 7, 7)
    assert params["features.1.0.layer_scale"].shape == (96, 1, 1)
    assert params["features.7.2.block.3.weight"].shape == (3072, 768)
    assert params["classifier.2.weight"].shape == (17, 768)
    assert state == {}
    params, state = (weights.named(tree) for tree in outline(densenet.densenet121()))
    assert params["features.denseblock1.denselayer1.norm1.weight"].shape == (64,)
    assert params["features.denseblock4.denselayer16.conv1.weight"].shape == (128, 992, 1, 1)
    assert params["features.transition3.conv.weight"].shape == (512, 1024, 1, 1)
    assert state["features.norm5.running_var"].shape == (1024,)
    assert len([name for name in state if name.endswith("running_var")]) == 121


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_numbers_of_pytorch(name):
    network = NETWORKS[name]()
    found = everything(network, *case(network, (4, 32, 32, 18)))
    np.testing.assert_allclose(gist(found), LITERALS[name], rtol=1e-9)


# -------------------------------------------------------------------------- the comparison, tried on wrong code


def tanh_gelu(call):
    x = call.x
    return 0.5 * x * (1 + np.tanh((2 / np.pi) ** 0.5 * (x + 0.044715 * x**3))), {}


def new_channels_in_front(call):
    y, state = call.run()
    C = call.x.shape[-1]
    return np.concatenate([y[..., C:], y[..., :C]], axis=-1), state


def no_joint_attention(call):
    return (call.x, {}) if call.name == "transformer" else call.run()


MISTAKES = {  # kind of layer -> what answers in its place, or the options that are changed
    "stride on the 1x1": (
        "resnet50",
        "conv2d",
        {"layer2.0.conv1": {"stride": 2}, "layer2.0.conv2": {"stride": 1}},
    ),
    "eps 1e-5": ("convnext_tiny", "layer_norm", {"": {"eps": 1e-5}}),
    "tanh gelu": ("convnext_tiny", "gelu", tanh_gelu),
    "no layer scale": ("convnext_tiny", "parameter", lambda call: (call.x, {})),
    "new channels in front": ("densenet121", "dense", new_channels_in_front),
    "no norm before attention": ("exvit", "layer_norm", lambda call: (call.x, {})),
    "no joint attention": ("exvit", "serial", no_joint_attention),
    "columns before rows": ("exvit", "in_one_row", lambda call: call.run(np.swapaxes(call.x, 1, 2))),
    "mean pool for max pool": ("densenet121", "max_pool2d", lambda call: (nn.avg_pool2d(call.x, 2), {})),
}


@pytest.mark.slow
@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_seen(mistake):
    name, kind, wrong = MISTAKES[mistake]
    network = NETWORKS[name]()
    params, state, x, _ = case(network, (4, 32, 32, 18))
    met = []

    def watch(call):
        if not call.layer.kind.startswith(kind):
            return call.run()
        if callable(wrong):
            met.append(call.name)
            return wrong(call)
        changed = [options for part, options in wrong.items() if part in call.name]
        met.extend([call.name] * len(changed))
        return call.layer.op(call.x, **call.params, **{**call.layer.options, **(changed or [{}])[0]}), {}

    with layers.watching(watch):
        logits = network.apply(params, state, x[:1], train=False)[0]
    assert met
    right = np.array(LITERALS[name][:3])
    assert np.min(np.abs(logits[0, :3] - right)) > 1e-7 * np.max(np.abs(right))  # the test above holds 1e-9


# -------------------------------------------------------------------------------------------------- gradients

SMALL = {
    "bottleneck": lambda: resnet.resnet(depths=(2, 1), widths=(4, 8), groups=2, width_per_group=32),
    "convnext": lambda: convnext.convnext(depths=(1, 2), widths=(4, 6)),
    "densenet": lambda: densenet.densenet(depths=(2, 2), growth=3, width=5, bottleneck=2),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_gradients_by_differences(name):
    network = SMALL[name]()
    params, state, x, R = case(network, (3, 19, 16, 18))
    loss = lambda p: anp.sum(R * network.apply(p, state, x, train=True)[0])
    gradients = grad(loss)(params)
    errors = slope_errors(loss, params, gradients, h=1e-6)
    assert max(errors.values()) < 1e-5, max(errors.items(), key=lambda item: item[1])
    some = list(errors)[-2:]
    for wrong in (lambda g: 1.001 * g, lambda g: g[::-1]):  # a wrong gradient would show
        assert min(slope_errors(loss, params, layers_with(gradients, some, wrong), some, h=1e-6).values()) > 1e-4


def layers_with(tree, names, change):
    """The tree with its leaves of these names changed."""
    flat = weights.named(tree)
    return weights.nested(flat | {name: change(flat[name]) for name in names})


# ------------------------------------------------------------------------------------------------ initial values


def drawn(network):
    params, state = network.init(np.random.default_rng(0), np.float64)
    again, _ = network.init(np.random.default_rng(0), np.float32)
    for name, leaf in weights.named(again).items():
        assert leaf.dtype == np.float32, name
        np.testing.assert_array_equal(leaf, weights.named(params)[name].astype(np.float32))
    return weights.named(params), weights.named(state)


def assert_normal(values, std):
    n = values.size
    assert abs(values.mean()) < 5 * std / n**0.5
    assert abs(values.std() / std - 1) < 5 / (2 * n) ** 0.5
    assert abs(np.mean(np.abs(values) < std) - 0.6827) < 5 * (0.6827 * 0.3173 / n) ** 0.5


def assert_uniform(values, bound):
    n = values.size
    assert np.abs(values).max() <= bound
    assert abs(values.std() / (bound / 3**0.5) - 1) < 5 * (0.2 / n) ** 0.5


def test_initial_values():
    grouped = {"groups": 8, "width_per_group": 8}
    p, s = drawn(resnet.resnet(depths=(1, 2), widths=(64, 128), **grouped))
    assert_normal(p["conv1.weight"], (2 / (64 * 49)) ** 0.5)
    assert p["layer2.1.conv2.weight"].shape == (128, 16, 3, 3)
    assert_normal(p["layer2.1.conv2.weight"], (2 / (128 * 9)) ** 0.5)  # fan_out of all groups together
    assert_normal(p["layer2.0.downsample.0.weight"], (2 / 512) ** 0.5)
    assert_uniform(p["fc.weight"], 512**-0.5)
    assert_uniform(p["fc.bias"], 512**-0.5)
    assert all(np.all(v == 1) for k, v in p.items() if "bn" in k and k.endswith("weight"))  # the last ones too
    assert all(np.all(v == 0) for k, v in p.items() if "bn" in k and k.endswith("bias"))
    assert all(np.all(v == (1 if k.endswith("var") else 0)) for k, v in s.items())
    p, _ = drawn(convnext.convnext(depths=(1, 1), widths=(32, 64)))
    for k, v in p.items():
        if k.endswith("layer_scale"):
            assert np.all(v == 1e-6)
        elif v.ndim > 1:
            assert_normal(v, 0.02)
        else:
            assert np.all(v == (1 if k.endswith("weight") else 0)), k
    p, _ = drawn(densenet.densenet(depths=(2, 2), growth=32, width=64))
    assert_normal(p["features.conv0.weight"], (2 / (18 * 49)) ** 0.5)
    assert_normal(p["features.denseblock1.denselayer2.conv1.weight"], (2 / 96) ** 0.5)  # fan_in, not fan_out
    assert_normal(p["features.denseblock1.denselayer2.conv2.weight"], (2 / (128 * 9)) ** 0.5)
    assert_normal(p["features.transition1.conv.weight"], (2 / 128) ** 0.5)
    assert_uniform(p["classifier.weight"], 128**-0.5)
    assert np.all(p["classifier.bias"] == 0)


# ----------------------------------------------------------------------------------------- dtypes, sizes, errors


@pytest.mark.parametrize("name", SMALL)
def test_nothing_is_mutated(name):
    network = SMALL[name]()
    params, state, x, R = case(network, (3, 16, 16, 18), np.float32)
    before = {k: v.copy() for k, v in (weights.named(params) | weights.named(state)).items()}
    _, new = network.apply(params, state, x, train=True)
    assert list(weights.named(new)) == list(weights.named(state))
    for k, v in (weights.named(params) | weights.named(state)).items():
        np.testing.assert_array_equal(v, before[k], err_msg=k)
    kept = weights.named(network.apply(params, state, x, train=False)[1])
    assert kept.keys() == weights.named(state).keys()
    assert all(kept[k] is v for k, v in weights.named(state).items())


FOUR_STAGES = {
    "resnet": lambda: resnet.resnet(depths=(1, 1, 1, 1), widths=(4, 4, 4, 4)),
    "convnext": lambda: convnext.convnext(depths=(1, 1, 1, 1), widths=(4, 4, 4, 4)),
    "densenet": lambda: densenet.densenet(depths=(1, 1, 1, 1), growth=4, width=4),
}


@pytest.mark.parametrize("size", [(32, 32), (33, 33), (64, 64), (40, 75)])
@pytest.mark.parametrize("name", FOUR_STAGES)
def test_input_sizes(name, size):
    network = FOUR_STAGES[name]()
    params, state, x, _ = case(network, (2, *size, 18), np.float32)
    for train in (False, True):
        y, _ = network.apply(params, state, x, train=train)
        assert y.shape == (2, 17)
        assert np.all(np.isfinite(y))
    if name == "convnext" and size == (33, 33):  # strides without padding: the last row and column are not seen
        np.testing.assert_array_equal(y, network.apply(params, state, x[:, :32, :32], train=True)[0])


def test_a_batch_of_one():
    """At 1x1 maps a variance over one sample does not exist; a larger map has one; layer norm needs none."""
    for name in ("resnet", "densenet"):
        network = FOUR_STAGES[name]()
        params, state, x, _ = case(network, (1, 64, 64, 18))
        assert np.all(np.isfinite(network.apply(params, state, x, train=True)[0]))
        assert np.all(np.isfinite(network.apply(params, state, x[:, :32, :32], train=False)[0]))
        with pytest.raises(ValueError, match="2 or more values per channel"):
            network.apply(params, state, x[:, :32, :32], train=True)
    network = FOUR_STAGES["convnext"]()
    params, state, x, _ = case(network, (1, 32, 32, 18))
    assert np.all(np.isfinite(network.apply(params, state, x, train=True)[0]))


def test_errors():
    network = convnext.convnext(depths=(1, 1), widths=(2, 2))
    params, state, x, _ = case(network, (1, 8, 7, 18))
    with pytest.raises(ValueError, match="each must be 8 or more, got \\(1, 8, 7, 18\\)"):
        network.apply(params, state, x, train=False)
    with pytest.raises(ValueError, match="18"):
        network.apply(params, state, np.zeros((1, 8, 8, 10)), train=False)

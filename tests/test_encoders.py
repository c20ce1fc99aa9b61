"""encoders/: counts, names, starts, literal numbers of PyTorch, gradients by differences, and exact savings.

tests/peers compares every quantity with PyTorch; networks.py has what both share.
"""

from fnmatch import fnmatch

import autograd.numpy as anp
import numpy as np
import pytest
from autograd import grad
from comparing import slope_errors
from networks import FULL, LITERALS, NETWORKS, OTHERS, everything, gist, hashed, images, outline, started, worst
from networks import errors as differences

from bplcz_ref import bands, layers, model, systems
from bplcz_ref.encoders import convnext, densenet, ebcnn, exvit, prefixes, resnet, text
from bplcz_ref.storage import weights

TINY = exvit.Size(stem=2, width=5, layers=2, joint=1, heads=2, head=3, hidden=4, dropout=0.0)
PATCH, GRID, K, B = 4, 2, 3, 3
IDS = np.array([[28, 3, 4, 29, 0], [28, 5, 29, 0, 0]])


def pair(size=TINY):
    return exvit.two_modalities(3, 2, PATCH, GRID, K, size)


def pair_images(batch=B):
    return tuple(images((batch, PATCH, PATCH, c)) for c in (3, 2))


SMALL = {  # name: (network, x)
    "ebcnn": (ebcnn.encoder(3, width=2, features=4), images((3, 8, 8, 3))),
    "bottleneck": (
        resnet.resnet(depths=(2, 1), widths=(4, 8), groups=2, width_per_group=32), images((3, 19, 16, 18))),
    "convnext": (convnext.convnext(depths=(1, 2), widths=(4, 6)), images((3, 19, 16, 18))),
    "densenet": (
        densenet.densenet(depths=(2, 2), growth=3, width=5, bottleneck=2), images((3, 19, 16, 18))),
    "text": (text.encoder(30, width=12, layers=2, heads=3, features=5, context=9), IDS),
    "exvit": (pair(), pair_images()),
    "exvit, dropout": (pair(TINY._replace(dropout=0.4)), pair_images()),
}  # fmt: skip


def exvit_bplcz(reading, *sizes, **options):
    """With prompts: four tokens each, all different."""
    ids = np.full((17, 7, 4), [28, 1, 1, 29])
    ids[:, :, 1] += np.arange(17)[:, None]
    ids[:, :, 2] += np.arange(7)
    tower = text.encoder(30, width=4, layers=1, heads=2, features=sizes[0], context=4)
    return systems.exvit_bplcz(reading, *sizes, text=tower, tokens=ids, **options)


def prompted():
    """(reading A, reading B), small."""
    return [exvit_bplcz(reading, 3, PATCH, GRID, size=TINY) for reading in "AB"]


# ------------------------------------------------------------------------------------- counts, names, literals

PUBLISHED = (25557032, 25028904, 28589128, 7978856, 83455272, 68883240, 88591464, 28681000)
COUNTS = [  # network, its parameters; of 3 channels and 1000 classes the published count
    *((FULL[name](), here) for name, here in zip(FULL, (23589905, 23061777, 27856241, 7018321), strict=True)),
    *((build(3, 1000), n) for build, n in zip((FULL | OTHERS).values(), PUBLISHED, strict=True)),
    (text.encoder(vocabulary=49408), 63428096),  # CLIP's text tower
    # EB-CNN's branch of C channels: 9 C w + 279 w^2 + 28 w + 4 w d + d, at w = 16 and d = 64
    *((ebcnn.encoder(C, width=16, features=64), 144 * C + 71424 + 448 + 4096 + 64) for C in (1, 2, 3, 4)),
    # stems 3,636 + 3,584; projections 2 x 4,160; transformers 2 x 83,584 + 41,792; fusion 193; head 1,233; 64 N
    *((exvit.exvit(grid=g), 3636 + 3584 + 8320 + 208960 + 193 + 1233 + 64 * (32 // g) ** 2) for g in (1, 2, 4)),
    (exvit.two_modalities(144, 1, patch=13, grid=1, classes=15), 239914),  # the released checkpoint
    *((systems.exvit_bplcz("A", 512, 32, g), n) for g, n in ((1, 1007164), (4, 945724))),
    (systems.exvit_bplcz("B", 512, 32, 4), 685622),
    # with prompts, reading B has a head for vectors in each group; the small text tower has 2,436
    (exvit_bplcz("B", 512, 32, 4), 685622 + 7 * (193 + 33408) + 2436),
]


@pytest.mark.parametrize(("network", "count"), COUNTS, ids=[str(count) for _, count in COUNTS])
def test_parameter_counts(network, count):
    assert weights.count(outline(network)[0]) == count


NAMES = [  # some names of each, and their shapes; tests/peers compares all with the twins
    (resnet.resnext50_32x4d(), """
        layer1.0.conv2.weight 128,4,3,3          layer1.0.downsample.1.running_mean 256"""),
    (convnext.convnext_tiny(), """
        features.1.0.layer_scale 96,1,1          features.7.2.block.3.weight 3072,768"""),
    (densenet.densenet121(), """
        features.norm5.running_var 1024          features.denseblock4.denselayer16.conv1.weight 128,992,1,1"""),
    (text.encoder(vocabulary=49408), """
        text_projection 512,512                  transformer.resblocks.11.attn.in_proj_weight 1536,512"""),
    (exvit.two_modalities(144, 1, patch=13, grid=1, classes=15), """
        pos_embedding 1,169,64                   separable1.0.weight 144,1,3,3      mlp_head0.1.weight 1,64
        separable2.10.running_var 64             to_patch_embedding2c.weight 64,64  mlp_head1.1.bias 15
        transformer.layers.1.0.fn.fn.to_qkv.weight 192,64
        transformer2.layers.3.1.fn.fn.net.3.weight 64,32"""),
]  # fmt: skip


def test_names_and_shapes_are_the_published_ones():
    tensors = []
    for network, expected in NAMES:
        params, state = map(weights.named, outline(network))
        found = {name: ",".join(map(str, np.shape(leaf))) for name, leaf in (params | state).items()}
        words = expected.split()
        assert {name: found.get(name) for name in words[::2]} == dict(zip(words[::2], words[1::2], strict=True))
        tensors.append(len(found))
    assert tensors[-1] == 177  # in ExViT's released checkpoint
    own = (["branches.RGB.mlp_head1.1.weight", "classifier.1.weight"],
           ["vectors.RGB.mlp_head1.1.weight", "classifier.mlp_head0.1.weight"])  # fmt: skip
    for made, of_reading in zip(prompted(), own, strict=True):
        names = list(weights.named(outline(made)[0]))
        assert [name for name in names if name.endswith("pos_embedding")] == ["shared.pos_embedding"]
        assert {"branches.PolSAR.separable1.0.weight", *of_reading} <= set(names)


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_numbers_of_pytorch(name):
    network = NETWORKS[name]()
    found = everything(network, *started(network), images((4, 32, 32, 18)))
    np.testing.assert_allclose(gist(found), LITERALS[name], rtol=1e-9)


# -------------------------------------------------------------------------------------------------- gradients


def silent(name):
    """Biases that a later step takes away: batch norm's mean, softmax over the tokens."""
    conv = name.startswith("separable") and name.split(".")[1] in ("0", "1", "4", "5", "8", "9")
    return name.endswith("bias") and (conv or name.startswith("mlp_head0"))


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(SMALL.keys() - {"exvit"}))
def test_every_gradient_by_differences(name):
    """With dropout, the same masks each time."""
    network, x = SMALL[name]
    params, state = started(network)

    def loss(p):
        y = network.apply(p, state, x, train=True, rng=np.random.default_rng(8))[0]
        return anp.sum(y * hashed(1001, y.shape))

    flat = weights.named(grad(loss)(params))
    largest = max(np.abs(g).max() for g in flat.values())
    heard = {key: g for key, g in flat.items() if np.abs(g).max() > 1e-10 * largest}
    assert set(heard) == {key for key in weights.named(params) if not silent(key)}
    found = slope_errors(loss, params, weights.nested(flat), heard, h=1e-6)
    assert max(found.values()) < 1e-5, worst(found)
    some = list(heard)[:2]
    wrong = weights.nested(flat | {key: 1.001 * flat[key] for key in some})
    assert min(slope_errors(loss, params, wrong, some, h=1e-6).values()) > 1e-4


# ---------------------------------------------------------------------------------------------- initial values

# test_in_one_file.py compares those of EB-CNN and of the text tower, bit by bit.
STARTS = [  # network; names, how they are drawn, standard deviation, bound or value
    (resnet.resnet(depths=(1, 2), widths=(64, 128), groups=8, width_per_group=8), [
        ("conv1.weight", "normal", (2 / (64 * 49)) ** 0.5),
        ("layer2.1.conv2.weight", "normal", (2 / (128 * 9)) ** 0.5),  # fan_out of all groups together
        ("layer2.0.downsample.0.weight", "normal", (2 / 512) ** 0.5),
        ("fc.*", "uniform", 512**-0.5),
        ("*bn?.weight *running_var", "equal", 1),  # the last ones of the blocks too
        ("*bn?.bias *running_mean", "equal", 0),
    ]),
    (convnext.convnext(depths=(1, 1), widths=(32, 64)), [
        ("*layer_scale", "equal", 1e-6),
        ("*bias", "equal", 0),
        ("*.block.[035].weight features.0.0.weight features.2.1.weight classifier.2.weight", "normal", 0.02),
        ("features.?.0.block.2.weight", "equal", 1),
    ]),
    (densenet.densenet(depths=(2, 2), growth=32, width=64), [
        ("features.conv0.weight", "normal", (2 / (18 * 49)) ** 0.5),
        ("*denseblock1.denselayer2.conv1.weight", "normal", (2 / 96) ** 0.5),  # fan_in, not fan_out
        ("*denselayer2.conv2.weight", "normal", (2 / (128 * 9)) ** 0.5),
        ("features.transition1.conv.weight", "normal", (2 / 128) ** 0.5),
        ("classifier.weight", "uniform", 128**-0.5),
        ("*bias", "equal", 0),
    ]),
    (exvit.exvit(), [
        ("pos_embedding", "normal", 1),
        ("separable1.0.* separable2.4.*", "uniform", 9**-0.5),  # PyTorch's default, weights and biases alike
        ("separable1.1.*", "uniform", 10**-0.5),
        ("separable?.9.* *net.3.*", "uniform", 32**-0.5),
        ("to_patch_embedding* *to_qkv.weight *net.0.* mlp_head?.1.*", "uniform", 64**-0.5),
        ("*.norm.weight", "equal", 1),
        ("separable?.10.bias", "equal", 0),
    ]),
]  # fmt: skip


def drawn_as(values, how, size):
    """Within five standard errors, for what is drawn."""
    n = values.size
    if how == "equal":
        return np.all(values == size)
    if how == "uniform":
        return np.abs(values).max() <= size and abs(values.std() * 3**0.5 / size - 1) < 5 * (0.2 / n) ** 0.5
    inside = np.mean(np.abs(values) < size)
    return (
        abs(values.mean()) < 5 * size / n**0.5
        and abs(values.std() / size - 1) < 5 / (2 * n) ** 0.5
        and abs(inside - 0.6827) < 5 * (0.6827 * 0.3173 / n) ** 0.5
    )


@pytest.mark.parametrize(("network", "rules"), STARTS, ids=["resnet", "convnext", "densenet", "exvit"])
def test_initial_values(network, rules):
    """In float32 they are the same numbers, rounded."""
    found, rounded = (
        weights.named(params) | weights.named(state)
        for params, state in (network.init(np.random.default_rng(0), dtype) for dtype in (np.float64, np.float32))
    )
    for name, leaf in rounded.items():
        assert leaf.dtype == (np.int64 if name.endswith("tracked") else np.float32), name
        np.testing.assert_array_equal(leaf, found[name].astype(leaf.dtype))
    for pattern, how, size in ((part, *rule) for patterns, *rule in rules for part in patterns.split()):
        own = {name: leaf for name, leaf in found.items() if fnmatch(name, pattern)}
        assert own, pattern
        for name, leaf in own.items():
            assert drawn_as(leaf, how, size), (pattern, name)


# -------------------------------------------------------------------------------------------- state, sizes, errors


@pytest.mark.parametrize("name", SMALL)
def test_nothing_is_mutated_and_every_statistic_is_measured_in_training_only(name):
    network, x = SMALL[name]
    params, state = started(network)
    before = {key: v.copy() for key, v in (weights.named(params) | weights.named(state)).items()}
    new = weights.named(network.apply(params, state, x, train=True, rng=np.random.default_rng(0))[1])
    assert list(new) == list(weights.named(state))
    assert all(np.all(new[key] != before[key]) for key in new)
    kept = weights.named(network.apply(params, state, x, train=False)[1])
    assert all(kept[key] is v for key, v in weights.named(state).items())
    for key, v in (weights.named(params) | weights.named(state)).items():
        np.testing.assert_array_equal(v, before[key], err_msg=key)


def run(name, x):
    network = prefixes.encoder(SMALL["text"][0]) if name == "trees" else SMALL[name][0]
    return network.apply(*started(network), x, train=False)


WRONG = [  # call, arguments, what the error says
    (run, ("ebcnn", np.zeros((1, 6, 6, 3))), "divisible by 4"),
    (run, ("convnext", np.zeros((1, 8, 7, 18))), r"each must be 8 or more, got \(1, 8, 7, 18\)"),
    (run, ("convnext", np.zeros((1, 8, 8, 10))), "18"),
    (run, ("text", np.arange(10)[None]), "context is 9 tokens, found 10"),
    (run, ("text", np.arange(3)), r"found shape \(3,\), expected \(N, L\)"),
    (run, ("trees", prefixes.pack(np.arange(10)[None, None])), "context is 9 tokens, found 10"),
    (run, ("exvit", pair_images()[::-1]), r"images \(B, 4, 4, 3\), as it was built, got \(3, 4, 4, 2\)"),
    (run, ("exvit", (np.zeros((3, 6, 4, 3)), pair_images()[1])), r"got \(3, 6, 4, 3\)"),
    (text.encoder, (10, 10, 12, 3), "multiple of heads"),
    (exvit.exvit, (32, 3), "grid=3, patch=32"),
    *((prefixes.pack, (ids,), r"expected integers \(K, n, L\)")
      for ids in (np.zeros((1, 2, 3)), np.zeros((2, 3), int), np.zeros((1, 0, 3), int))),
]  # fmt: skip


@pytest.mark.parametrize(("call", "given", "message"), WRONG)
def test_a_wrong_input_is_named(call, given, message):
    with pytest.raises(ValueError, match=message):
        call(*given)


# ------------------------------------------------------------------------------------------ texts and prefix trees


PROMPTS = np.array([  # a common beginning in each class, endings of different lengths, words and an EOT behind EOT
    [[28, 5, 6, 7, 8, 29, 0, 0], [28, 5, 6, 9, 29, 0, 0, 0], [28, 5, 6, 7, 29, 0, 0, 0]],
    [[28, 5, 6, 3, 29, 0, 0, 0], [28, 5, 6, 3, 2, 2, 4, 29], [28, 0, 29, 7, 29, 1, 0, 0]],
])  # fmt: skip


def test_the_prefix_tree_is_exact():
    """Values and gradients are those of single sequences; each prefix is held once, nothing after EOT."""
    network, _ = SMALL["text"]
    inputs, tree = started(network), prefixes.pack(PROMPTS)
    beginnings = [{tuple(s[: i + 1]) for s in rows for i in range(list(s).index(29) + 1)} for rows in PROMPTS]
    assert tree.ids.shape[1] == max(map(len, beginnings))
    found = everything(prefixes.encoder(network), *inputs, tree)
    found |= {mode: found[mode].reshape(-1, 5) for mode in ("eval", "train")}
    apart = differences(found, everything(network, *inputs, PROMPTS.reshape(-1, 8)))
    assert max(apart.values()) < 1e-12, worst(apart)


def test_another_tower_gets_the_prompts_up_to_EOT_and_no_longer_than_the_longest_of_the_batch():
    ids, given = PROMPTS.copy(), []
    ids[0, 1, 5:] = 3  # after EOT
    own = layers.plain(lambda rows: given.append(rows) or rows.sum(axis=1, keepdims=True))
    T, _ = prefixes.encoder(own).apply({}, {}, prefixes.pack(ids).of([0]), train=False)
    np.testing.assert_array_equal(given[0], PROMPTS[0, :, :6])
    assert T.tolist() == [[[83], [77], [75]]]


# ------------------------------------------------------------------------------------------------ ExViT's dropout


def test_dropout_needs_a_generator_and_is_the_same_for_the_same_seed(monkeypatch):
    network, x = pair(TINY._replace(dropout=0.5)), pair_images(exvit.PART + 2)
    params, state = started(network)
    with pytest.raises(ValueError, match="dropout in training needs rng"):
        network.apply(params, state, x, train=True)

    def run(seed, threads):
        monkeypatch.setenv("BPLCZ_THREADS", threads)
        return network.apply(params, state, x, train=True, rng=np.random.default_rng(seed))[0]

    assert np.array_equal(run(5, "1"), run(5, "3"))
    assert np.abs(run(5, "1") - run(6, "1")).max() > 1e-3
    evaluated = network.apply(params, state, x, train=False)[0]
    assert np.array_equal(evaluated, network.apply(params, state, x, train=False, rng=np.random.default_rng(5))[0])


def test_samples_taken_in_parts_give_what_they_give_at_once(monkeypatch):
    network, x = pair(), pair_images(5)
    whole = everything(network, *started(network), x)
    monkeypatch.setattr(exvit, "PART", 2)
    apart = differences(everything(network, *started(network), x), whole)
    assert max(apart.values()) < 1e-11, worst(apart)


# ------------------------------------------------------------------------------------------------- ExViT (BP-LCZ)

LABELS = np.array([3, 16, 3])


@pytest.mark.slow
def test_readings_by_hand_and_b_by_differences():
    """peers/test_gradient_error.py compares the gradient of reading A."""
    x = images((B, PATCH, PATCH, 18))
    for reading, made in zip("AB", prompted(), strict=True):
        params, state = started(made)
        _, gradients, trace = model.loss_and_gradients(made.loss, params, state, (x, LABELS))
        groups, I_i, tokens = bands.grouped(*bands.separate(x)), [], []
        for group, index in bands.INDEX.items():
            own = params["branches"][group] | params["shared"]
            body = exvit.tokens(len(index), PATCH, GRID, TINY)
            tokens.append(body.apply(own, state["branches"][group], groups[group], train=True)[0])
            head = own if reading == "A" else params["vectors"][group]
            I_i.append(exvit.vector(3, TINY).apply(head, {}, tokens[-1], train=True)[0])
            assert np.abs(trace["I_i"][group] - I_i[-1]).max() < 1e-12
        D, parts = (exvit.head(21, 17), I_i) if reading == "A" else (exvit.joint(17, TINY), tokens)
        c_hat = D.apply(params["classifier"], {}, np.concatenate(parts, 1), train=True)[0]
        assert np.abs(trace["c_hat"] - c_hat).max() < 1e-12
        assert set(weights.named(params)) == set(weights.named(gradients))
    names = [
        "shared.pos_embedding", "branches.NIR.to_patch_embedding2.weight", "text.text_projection",
        "branches.VV.transformer1.layers.1.0.fn.fn.to_qkv.weight", "vectors.VH.mlp_head1.1.weight",
        "classifier.mlp_head1.1.weight",
    ]  # fmt: skip
    found = slope_errors(lambda p: made.loss(p, state, (x, LABELS))[0], params, gradients, names)
    assert max(found.values()) < 1e-5, worst(found)


def test_prediction_needs_neither_text_nor_vectors():
    for made in prompted():
        params, state = started(made)
        x = images((B, PATCH, PATCH, 18))
        bare = {part: params[part] for part in ("branches", "shared", "classifier")}
        c_hat = made.apply(params, state, x, train=False)[0]
        assert np.array_equal(c_hat, made.apply(bare, state, x, train=False)[0])

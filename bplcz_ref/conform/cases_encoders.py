"""The kit's cases, third part: layers, the tiny encoders, the chain, figures of merit. See cases_equations.py."""

from collections.abc import Callable, Iterator

import numpy as np

from bplcz_ref import bands, paper
from bplcz_ref.conform.cases_equations import precise, with_gradient
from bplcz_ref.conform.kit import Case, full, grid, whole


def cases() -> Iterator[Case]:
    """All of this file, in the order of the vectors."""
    for make in (convolutions, norms, activations, attention, encoders, chain, metrics, inference):
        yield from make()


def convolutions() -> Iterator[Case]:
    """Suite 6, first part: linear maps, convolutions, pooling."""
    for name, why, B, d, out in (
        ("ordinary", "weight (out, in)", 4, 3, 5),
        ("square", "as many outputs as inputs: a transpose of the weight shows", 2, 4, 4),
        ("one", "a batch of 1, one output", 1, 3, 1),
    ):
        x = {"x": grid(f"linear x {name}", (B, d)), "weight": grid(f"linear w {name}", (out, d))}
        x["bias"] = grid(f"linear b {name}", (out,))
        yield with_gradient(Case(f"linear/{name}", why, x), *x)
    x = {"x": full("linear x f", (3, 5)), "weight": full("linear w f", (4, 5)), "bias": full("linear b f", (4,))}
    yield precise("linear/full", x, *x)
    one_sided: tuple = ("stride-2 padding on one side",)
    for name, why, stride, padding, size, kernel, shows in (
        ("ordinary", "3 by 3, padding 1", 1, 1, (2, 4, 5, 3), (2, 3, 3), ("kernel flipped",)),
        (
            "stride-2",
            "stride 2, even sizes: padding 1 on both sides, not one",
            2,
            1,
            (1, 6, 4, 2),
            (2, 3, 3),
            one_sided,
        ),
        ("stride-2-odd", "stride 2, odd sizes: the last row is used", 2, 1, (1, 5, 7, 2), (3, 3, 3), ()),
        ("stride-2-mixed", "stride 2, rows even and columns odd", 2, 0, (2, 6, 5, 1), (2, 3, 3), ()),
        ("no-padding", "3 by 3 without padding", 1, 0, (1, 4, 5, 2), (2, 3, 3), ()),
        ("padding-2", "stride 3, padding 2: neither is built in", 3, 2, (1, 5, 6, 2), (2, 3, 3), ()),
        ("not-square", "2 by 3, even: no middle row", 1, 1, (1, 4, 5, 2), (3, 2, 3), ()),
        ("pointwise", "1 by 1: a linear map of each pixel", 1, 0, (2, 2, 3, 3), (2, 1, 1), ()),
        ("one-pixel", "a single pixel and its zeros", 1, 1, (2, 1, 1, 2), (2, 3, 3), ()),
    ):
        x = {
            "x": grid(f"conv x {name}", size),
            "weight": grid(f"conv w {name}", (kernel[0], size[-1], *kernel[1:])),
        }
        case = Case(f"conv2d/{name}", why, x | {"stride": stride, "padding": padding}, shows=shows)
        yield with_gradient(case, *x)
    x = {"x": full("conv x f", (2, 3, 4, 2)), "weight": full("conv w f", (3, 2, 3, 3))}
    yield precise("conv2d/full", x | {"stride": 1, "padding": 1}, *x)
    distinct = ((np.arange(96) * 37 % 97 - 48) / 32).reshape(2, 4, 6, 2)  # ties have their own case
    yield with_gradient(Case("max_pool2d/ordinary", "4 by 6", {"x": distinct}), "x")
    odd = ((np.arange(70) * 41 % 71 - 35) / 32).reshape(1, 5, 7, 2)
    case = Case("max_pool2d/odd", "5 by 7: the last row and column are dropped", {"x": odd}, flag="EDGE")
    yield with_gradient(case, "x")
    negative = {"x": distinct[:1] - 2.0}
    yield with_gradient(
        Case("max_pool2d/negative", "all below 0: zeros at an edge show", negative, flag="EDGE"), "x"
    )
    case = Case(
        "max_pool2d/ties",
        "equal values in every window, 0 among them",
        {"x": whole("ties", (1, 4, 6, 2), 0, 1) / 2},
    )
    yield with_gradient(case._replace(flag="EDGE"), "x")
    yield precise("max_pool2d/full", {"x": full("pool f", (2, 4, 4, 1))}, "x")


def norms() -> Iterator[Case]:
    """Suite 6, second part: batch and layer normalisation. A flat x has a spread at which eps shows."""
    shape = (2, 2, 3, 2)
    normal = {"x": grid("bn x", shape), "weight": grid("bn w", (2,), 16, 48), "bias": grid("bn b", (2,))}
    flat = normal | {"x": grid("bn flat", shape, -8, 8) / 64}
    far = normal | {"x": grid("bn far", shape, -8, 8) / 8 + np.array([4.0, -6.0])}
    running = {"running_mean": grid("bn m", (2,)), "running_var": grid("bn v", (2,), 16, 48)}
    narrow = {"running_mean": grid("bn m n", (2,), -8, 8) / 64, "running_var": np.array([2.0**-17, 2.0**-15])}
    single = normal | {"x": grid("bn single", (1, 1, 2, 2))}
    tall = normal | {"x": grid("bn tall", (4, 1, 1, 2))}
    trained: tuple = ("variances swapped", "running statistics with 0.9 for 0.1")
    eps = ("eps 1e-3 in the variance", "eps 1e-6 in the variance", "eps outside the root")
    for name, why, x, kept, train, shows in (
        (
            "training",
            "12 values a channel: biased to normalise, unbiased to remember",
            normal,
            running,
            1,
            trained,
        ),
        ("evaluation", "the running statistics are used and kept", normal, running, 0, ()),
        ("flat", "standard deviation 0.002: only here does eps show", flat, running, 1, eps),
        ("flat-evaluation", "running variances of 1e-5: eps shows", flat, narrow, 0, eps),
        (
            "far",
            "means of 4 and -6 with a small spread: E[x^2] - E[x]^2 cancels, and is accepted",
            far,
            running,
            1,
            (),
        ),
        ("two-values", "a batch of 1, two pixels", single, running, 1, ()),
        ("one-pixel", "four samples of one pixel", tall, running, 1, ()),
    ):
        case = Case(f"batch_norm/{name}", why, x | kept | {"train": train}, shows=shows)
        yield with_gradient(case, *x, of="y")
    x = {"x": full("bn x f", (3, 2, 2, 2)), "weight": full("bn w f", (2,), 0.5, 1.5), "bias": full("bn b f", (2,))}
    running = {"running_mean": full("bn m f", (2,)), "running_var": full("bn v f", (2,), 0.5, 1.5)}
    for name, train in (("full", 1), ("full-evaluation", 0)):
        yield precise(f"batch_norm/{name}", x | running | {"train": train}, *x, of="y")
    normal = {"x": grid("ln x", (3, 5)), "weight": grid("ln w", (5,), 16, 48), "bias": grid("ln b", (5,))}
    yield with_gradient(Case("layer_norm/ordinary", "5 features", normal), *normal)
    case = Case(
        "layer_norm/tokens", "2 texts of 3 tokens: each token by itself", normal | {"x": grid("ln t", (2, 3, 5))}
    )
    yield with_gradient(case, *normal)
    flat = normal | {"x": grid("ln flat", (3, 5), -8, 8) / 64}
    yield with_gradient(Case("layer_norm/flat", "features that hardly differ: eps shows", flat, shows=eps), *flat)
    far = normal | {"x": grid("ln far", (3, 5), -8, 8) / 8 + np.array([[4.0], [-6.0], [3.0]])}
    why = "means of 3 to 6 with a small spread: E[x^2] - E[x]^2 cancels, and is accepted"
    yield with_gradient(Case("layer_norm/far", why, far), *far)
    equal = normal | {"x": normal["x"] * np.array([[1.0], [0.0], [1.0]]) + np.array([[0.0], [0.75], [0.0]])}
    case = Case(
        "layer_norm/equal-features", "a row without any spread: y is the bias", equal, flag="EDGE", needs=1e-5
    )
    yield with_gradient(case, *equal)
    x = {"x": full("ln x f", (3, 6)), "weight": full("ln w f", (6,), 0.5, 1.5), "bias": full("ln b f", (6,))}
    yield precise("layer_norm/full", x, *x)


def activations() -> Iterator[Case]:
    """Suite 6, third part."""
    numbers = np.array([[-4.0, -2.5, -1.5, -1.0, -0.5, -0.25], [0.25, 0.5, 1.0, 1.5, 2.5, 4.0]])
    wide = np.array([[-24.0, -12.0, -8.0, -6.0, -5.0, -3.0, 0.0], [3.0, 5.0, 6.0, 6.5, 8.0, 12.0, 24.0]])
    far = np.array([[-448.0, -104.0, -60.0], [448.0, 104.0, 60.0]])
    for op in ("relu", "gelu", "quick_gelu"):
        yield with_gradient(Case(f"{op}/ordinary", "both signs, up to 4", {"x": numbers}), "x")
        why = "0 itself, and sizes up to 24"
        yield with_gradient(Case(f"{op}/wide", why, {"x": wide}, flag="EDGE"), "x")
        yield precise(f"{op}/full", {"x": full(f"{op} f", (3, 5), -3, 3)}, "x")
    small = np.array([[-1.0, -0.5, -0.25], [0.25, 0.5, 1.0]])
    for op in ("gelu", "quick_gelu"):
        why = "sizes from 60: e^x overflows, and the tails are 0 or x"
        yield with_gradient(Case(f"{op}/far", why, {"x": far}, flag="EDGE"), "x")
        yield with_gradient(Case(f"{op}/small", "near 0, where the curves differ least", {"x": small / 16}), "x")


def attention_weights(name: str, W: int, size: int = 24) -> dict:
    shapes = {"in_proj_weight": (3 * W, W), "in_proj_bias": (3 * W,), "out_weight": (W, W), "out_bias": (W,)}
    return {part: grid(f"{name} {part}", shape, -size, size) for part, shape in shapes.items()}


def attention() -> Iterator[Case]:
    """Suite 6, fourth part."""
    w = attention_weights("mha", 6)
    for name, why, tokens, heads in (
        ("two-heads", "5 tokens, 2 heads of 3", grid("mha x", (2, 5, 6)), 2),
        ("one-head", "one head: how heads are split does not matter", grid("mha one", (1, 4, 6)), 1),
        ("three-heads", "3 heads of 2: heads and their size cannot be exchanged", grid("mha three", (1, 4, 6)), 3),
        ("one-token", "one token: it sees itself alone", grid("mha token", (2, 1, 6)), 2),
    ):
        yield with_gradient(Case(f"attention/{name}", why, {"x": tokens} | w | {"heads": heads}), "x", *w)
    steep = {**w, "in_proj_weight": w["in_proj_weight"].copy(), "in_proj_bias": w["in_proj_bias"] * 0}
    steep["in_proj_weight"][:12] = np.vstack([np.eye(6), np.eye(6)]) * np.array([[16.0] * 6 + [12.0] * 6]).T
    x = np.array([[3, 2, 1, 3, 1, 2], [3, 2, 1, 3, 2, 1], [2, 3, 1, 3, 2, 2], [-2, -3, -1, 2, 2, 3]], float)
    case = Case(
        "attention/large-scores",
        "scores up to 2500, several near the largest: e^score overflows without the shift",
        {"x": x[None]} | steep | {"heads": 2},
        flag="EDGE",
        least=1000.0,
    )
    yield with_gradient(case, "x", *w)
    opposed = steep | {
        "in_proj_weight": steep["in_proj_weight"] * np.array([[1.0] * 6 + [-1.0] * 6 + [1.0] * 6]).T
    }
    case = Case(
        "attention/masked-larger",
        "seen scores far below 0 and masked ones far above: a finite number taken off them does not hide them",
        {"x": x[None] * np.array([[[2.5], [1.25], [-2.5], [-1.25]]])} | opposed | {"heads": 1},
        flag="EDGE",
        least=4000.0,
    )
    yield with_gradient(case, "x", *w)
    shapes = {"in_proj_weight": (12, 4), "in_proj_bias": (12,), "out_weight": (4, 4), "out_bias": (4,)}
    w = {name: full(f"mha f {name}", shape, -1, 1) for name, shape in shapes.items()}
    yield precise("attention/full", {"x": full("mha x f", (2, 4, 4))} | w | {"heads": 2}, "x", *w)


def dense(name: str, shape: tuple, low: int, high: int) -> np.ndarray:
    """`grid` with all 53 bits."""
    return full(name, shape, low / 32, high / 32)


def image_weights(name: str, C: int, w: int, d: int, draw: Callable = grid) -> dict:
    """Weights of EB-CNN's branch by their names."""
    weights, width = {}, C
    for k, out in enumerate((w, w, 2 * w, 2 * w, 4 * w, 4 * w), 1):
        weights[f"conv{k}.weight"] = draw(f"{name} conv{k}", (out, width, 3, 3), -24, 24)
        weights[f"bn{k}.weight"] = draw(f"{name} bn{k} w", (out,), 20, 44)
        weights[f"bn{k}.bias"] = draw(f"{name} bn{k} b", (out,), -12, 20)
        width = out
    weights["proj.weight"] = draw(f"{name} proj w", (d, width), -24, 24)
    weights["proj.bias"] = draw(f"{name} proj b", (d,), -12, 12)
    return weights


def text_weights(name: str, V: int, W: int, layers: int, d: int, context: int, draw: Callable = grid) -> dict:
    """Weights of CLIP's text transformer by their names."""
    shapes: dict = {"token_embedding.weight": (V, W), "positional_embedding": (context, W)}
    for k in range(layers):
        block = f"transformer.resblocks.{k}"
        shapes |= {
            f"{block}.attn.in_proj_weight": (3 * W, W),
            f"{block}.attn.in_proj_bias": (3 * W,),
            f"{block}.attn.out_proj.weight": (W, W),
            f"{block}.attn.out_proj.bias": (W,),
            f"{block}.ln_1.weight": (W,),
            f"{block}.ln_1.bias": (W,),
            f"{block}.mlp.c_fc.weight": (4 * W, W),
            f"{block}.mlp.c_fc.bias": (4 * W,),
            f"{block}.mlp.c_proj.weight": (W, 4 * W),
            f"{block}.mlp.c_proj.bias": (W,),
            f"{block}.ln_2.weight": (W,),
            f"{block}.ln_2.bias": (W,),
        }
    shapes |= {"ln_final.weight": (W,), "ln_final.bias": (W,), "text_projection": (W, d)}
    ranges = {"ln_1.weight": (20, 44), "ln_2.weight": (20, 44), "ln_final.weight": (20, 44)}
    return {
        n: draw(f"{name} {n}", shape, *ranges.get(".".join(n.split(".")[-2:]), (-24, 24)))
        for n, shape in shapes.items()
    }


def encoders() -> Iterator[Case]:
    """Suite 6, last part: the two encoders with a tap after every sub-layer."""
    w = image_weights("image", C=3, w=2, d=4)
    inputs = {"x": grid("image x", (3, 4, 8, 3))} | w
    case = Case("image_encoder/ebcnn", "3 patches of 4 by 8, width 2, training mode", inputs)
    yield with_gradient(case, *inputs, of="I_i")
    w = image_weights("image 8", C=1, w=1, d=3, draw=dense)
    inputs = {"x": full("image x 8", (2, 8, 8, 1))} | w
    yield precise(
        "image_encoder/full", inputs, *inputs, of="I_i", why="8 by 8: the mean is over 4 pixels; all 53 bits"
    )
    w = text_weights("text", V=10, W=6, layers=2, d=4, context=7)
    ids = np.array([[8, 3, 1, 9, 0, 0], [8, 2, 2, 5, 7, 9], [8, 9, 0, 0, 0, 0]])
    why = "2 blocks, 2 heads, rows that end at 3, 5 and 1; zeros follow EOT"
    yield with_gradient(Case("text_encoder/clip", why, {"ids": ids, "heads": 2} | w), *w, of="T_i")
    w = text_weights("text zero", V=9, W=4, layers=1, d=4, context=6)
    ids = np.array([[7, 0, 3, 0, 8], [7, 0, 0, 8, 0], [7, 4, 8, 2, 8], [7, 1, 8, 8, 8]])
    why = "id 0 before EOT, a second EOT after it, ids after it; as many features as the width"
    yield with_gradient(Case("text_encoder/zeros", why, {"ids": ids, "heads": 2} | w, flag="EDGE"), *w, of="T_i")
    w = text_weights("text full", V=8, W=4, layers=1, d=3, context=6, draw=dense)
    ids = np.array([[6, 1, 2, 7, 0], [6, 3, 7, 0, 0]])
    yield precise("text_encoder/full", {"ids": ids, "heads": 1} | w, *w, of="T_i", why="one head; all 53 bits")


def chain_inputs(
    name: str, B: int, d: int, K: int, labels: list, draw: Callable = grid, settings: dict | None = None
) -> dict:
    """One batch of 4 by 4 patches, the ids of K classes, and all weights."""
    w: dict = {}
    for group, index in bands.INDEX.items():
        own = image_weights(f"{name} {group}", C=len(index), w=1, d=d, draw=draw)
        w |= {f"branches.{group}.{part}": v for part, v in own.items()}
    w["classifier.weight"] = draw(f"{name} classifier w", (K, 7 * d), -24, 24)
    w["classifier.bias"] = draw(f"{name} classifier b", (K,), -12, 12)
    text = text_weights(f"{name} text", V=13, W=4, layers=1, d=d, context=7, draw=draw)
    w |= {f"text.{part}": v for part, v in text.items()}
    endings = [[2], [3], [4], [5, 6], [7], [8], [9]]
    ids = np.zeros((K, len(paper.GROUPS), 6), np.int64)
    for k in range(K):
        for i, ending in enumerate(endings):
            row = [11, k % 2, 1 + k // 2, *ending, 12]  # SOT, two ids of the class, the group's, EOT
            ids[k, i, : len(row)] = row
    images = {
        "sen1": draw(f"{name} sen1", (B, 4, 4, 8), -64, 64),
        "sen2": draw(f"{name} sen2", (B, 4, 4, 10), -64, 64),
    }
    return images | {"y": np.array(labels), "ids": ids} | (settings or {}) | w


def chain() -> Iterator[Case]:
    """Suite 7: from bands and labels to L, every gradient, some steps. Id 10 of the text is not used."""
    settings = {"lr": np.array([0.015625, 0.0078125, 0.03125]), "momentum": 0.9, "weight_decay": 0.125}
    settings |= {"alpha": 0.25, "beta": 2.0, "heads": 2}
    why = "one batch of 5 with class 1 absent and class 3 three times; the rate changes"
    inputs = chain_inputs("chain", B=5, d=3, K=4, labels=[3, 0, 3, 2, 3], settings=settings)
    yield Case("training/three-steps", why, inputs)
    settings = {"lr": np.array([0.0325, 0.0575]), "momentum": 0.75, "weight_decay": 0.28125}
    settings |= {"alpha": 0.6875, "beta": 0.8125, "heads": 1}
    why = "alpha, beta, momentum and decay are not the paper's; batch of 4, all labels different; all 53 bits"
    inputs = chain_inputs("other", B=4, d=2, K=4, labels=[2, 0, 3, 1], draw=dense, settings=settings)
    yield precise("training/other-settings", inputs, why=why)


def metrics() -> Iterator[Case]:
    """Suite 8."""
    y, y_hat = whole("truth", (40,), 0, 4), whole("prediction", (40,), 0, 4)
    agree = whole("agree", (40,), 0, 2)
    y = np.where(y == 3, 0, y)  # unbalanced, and class 3 absent from the truth
    yield Case(
        "metrics/unbalanced",
        "class 3 is absent from the truth but predicted: it counts in kappa, not in the average",
        {"y": y, "y_hat": np.where(agree > 0, y, y_hat), "K": 5},
    )
    yield Case(
        "metrics/worse-than-chance",
        "kappa below 0",
        {"y": np.array([0, 0, 1, 1, 2]), "y_hat": np.array([1, 1, 0, 2, 0]), "K": 3},
    )
    few = [0, 1, 1, 2, 2, 2, 3]
    yield Case(
        "metrics/perfect", "all right: OA and kappa are 1", {"y": np.array(few), "y_hat": np.array(few), "K": 4}
    )
    one = {"y": np.array(few), "y_hat": np.full(len(few), 2), "K": 5}
    yield Case("metrics/one-predicted", "one class predicted for all: kappa 0", one, flag="EDGE")
    y, y_hat = whole("seventeen truth", (119,), 0, 16), whole("seventeen prediction", (119,), 0, 16)
    seventeen = {"y": y, "y_hat": np.where(whole("seventeen agree", (119,), 0, 3) > 0, y, y_hat), "K": 17}
    yield Case("metrics/seventeen", "the 17 classes", seventeen)


def inference() -> Iterator[Case]:
    """Suite 9: before the training, and after it."""
    x = grid("statistics x", (3, 2, 2, 3)) * np.array([1.0, 4.0, 0.25]) + np.array([0.0, 3.0, -1.0])
    yield Case("statistics/ordinary", "three channels of other scales", {"x": x})
    flat = x * np.array([1.0, 0.0, 1.0]) + np.array([0.0, 0.75, 0.0])
    yield Case("statistics/constant", "a channel without spread has std 0", {"x": flat}, flag="EDGE")
    yield precise("statistics/full", {"x": full("statistics f", (2, 2, 3, 2))})
    given = {"mean": np.array([0.5, 3.0, -1.0]), "std": np.array([0.75, 4.0, 0.25])}
    yield with_gradient(Case("standardise/ordinary", "each channel by its own", {"x": x} | given), "x")
    constant = {"x": flat, "mean": np.array([0.5, 0.5, -1.0]), "std": np.array([0.75, 0.0, 2.0**-9])}
    why = "std 0: divided by 1, so not always 0; and a std of 0.002"
    yield with_gradient(Case("standardise/constant", why, constant, flag="EDGE"), "x")
    own = {
        "x": full("standardise f", (2, 2, 2, 3)),
        "mean": full("mean f", (3,)),
        "std": full("std f", (3,), 0.3, 1.3),
    }
    yield precise("standardise/full", own, "x")
    y = np.repeat(np.arange(17), [3 + k * 7 % 5 for k in range(17)])
    y = y[np.argsort(full("shuffled", y.shape))]
    draw = {"y": y, "per_class": 2, "test": len(y) - 34, "seed": 47}
    yield Case("split/all", "2 rows of each class, all others in the test, whose classes are unbalanced", draw)
    yield Case("split/three", "every row of the rarest classes", draw | {"per_class": 3, "test": len(y) - 51})
    why = "4 of each class where one has 3: refused"
    yield Case("split/too-few", why, draw | {"per_class": 4, "test": 1}, flag="EDGE")
    why = "one test row more than are left: refused"
    yield Case("split/too-many", why, draw | {"test": len(y) - 33}, flag="EDGE")
    yield Case(
        "predict/ordinary",
        "4 rows, 6 classes; the largest size is not the largest",
        {"c_hat": grid("predict", (4, 6))},
    )
    ties = np.array([[1.0, 2.0, 2.0], [-1.0, -1.0, -2.0], [0.0, 0.0, 0.0], [3.0, 1.0, 3.0]])
    yield Case("predict/ties", "of equal logits the first class", {"c_hat": ties}, flag="EDGE")
    w = image_weights("inference", C=2, w=1, d=3)
    w |= {
        "classifier.weight": grid("inference cw", (4, 3), -24, 24),
        "classifier.bias": grid("inference cb", (4,)),
    }
    inputs = {"batches": grid("inference b", (2, 2, 8, 8, 2)), "x": grid("inference x", (2, 8, 8, 2))} | w
    yield Case("inference/two-batches", "two batches of 2 move the running statistics; then 2 images", inputs)
    w = image_weights("inference f", C=1, w=1, d=2, draw=dense)
    w |= {"classifier.weight": full("inference f w", (3, 2)), "classifier.bias": full("inference f b", (3,))}
    inputs = {"batches": full("inference f x", (3, 2, 8, 8, 1)), "x": full("inference f y", (2, 8, 8, 1))} | w
    yield precise("inference/full", inputs, why="three batches of 2, then 2 images; all 53 bits")

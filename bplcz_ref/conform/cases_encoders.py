"""The kit's cases, second part: layers, the tiny encoders, the chain, figures of merit. See cases_equations.py."""

from collections.abc import Iterator

import numpy as np

from bplcz_ref import bands, paper
from bplcz_ref.conform.cases_equations import with_gradient
from bplcz_ref.conform.kit import Case, grid, whole


def cases() -> Iterator[Case]:
    """All of this file, in the order of the vectors."""
    for make in (layers, encoders, chain, metrics):
        yield from make()


def layers() -> Iterator[Case]:
    """Suite 6, first part: each layer alone."""
    x = {"x": grid("linear x", (4, 3)), "weight": grid("linear w", (5, 3)), "bias": grid("linear b", (5,))}
    yield with_gradient(Case("linear/ordinary", "weight (out, in)", x), *x)
    one_sided: tuple = ("stride-2 padding on one side",)
    for name, why, stride, padding, size, shows in (
        ("ordinary", "3 by 3, padding 1", 1, 1, (2, 4, 5, 3), ("kernel flipped",)),
        ("stride-2", "stride 2, even sizes: padding 1 on both sides, not one", 2, 1, (1, 6, 4, 2), one_sided),
        ("no-padding", "3 by 3 without padding", 1, 0, (1, 4, 5, 2), ()),
    ):
        x = {"x": grid(f"conv x {name}", size), "weight": grid(f"conv w {name}", (2, size[-1], 3, 3))}
        case = Case(f"conv2d/{name}", why, x | {"stride": stride, "padding": padding}, shows=shows)
        yield with_gradient(case, *x)
    shape = (2, 2, 3, 2)
    normal = {"x": grid("bn x", shape), "weight": grid("bn w", (2,), 16, 48), "bias": grid("bn b", (2,))}
    flat = normal | {"x": np.rint(grid("bn flat", shape, -1, 1) * 32) / 64 + 1.0}
    running = {"running_mean": grid("bn m", (2,)), "running_var": grid("bn v", (2,), 16, 48)}
    trained: tuple = ("variances swapped", "running statistics with 0.9 for 0.1")
    eps = ("eps 1e-3 in the variance",)
    for name, why, x, train, shows in (
        ("training", "12 values a channel: biased to normalise, unbiased to remember", normal, 1, trained),
        ("evaluation", "the running statistics are used and kept", normal, 0, ()),
        ("flat", "standard deviation 0.01: only here does eps show", flat, 1, eps),
    ):
        case = Case(f"batch_norm/{name}", why, x | running | {"train": train}, shows=shows)
        yield with_gradient(case, *x, of="y")
    normal = {"x": grid("ln x", (3, 5)), "weight": grid("ln w", (5,), 16, 48), "bias": grid("ln b", (5,))}
    yield with_gradient(Case("layer_norm/ordinary", "5 features", normal), *normal)
    flat = normal | {"x": grid("ln flat", (3, 5), -1, 1) / 2 + 1.0}
    yield with_gradient(Case("layer_norm/flat", "features that hardly differ: eps shows", flat, shows=eps), *flat)
    numbers = np.array([[-4.0, -2.5, -1.5, -1.0, -0.5, -0.25], [0.25, 0.5, 1.0, 1.5, 2.5, 4.0]])
    for op in ("relu", "gelu", "quick_gelu"):
        yield with_gradient(Case(f"{op}/ordinary", "both signs, up to 4", {"x": numbers}), "x")
    distinct = ((np.arange(96) * 37 % 97 - 48) / 32).reshape(2, 4, 6, 2)  # ties are not this case's concern
    yield with_gradient(Case("max_pool2d/ordinary", "4 by 6", {"x": distinct}), "x")
    shapes = {"in_proj_weight": (18, 6), "in_proj_bias": (18,), "out_weight": (6, 6), "out_bias": (6,)}
    w = {name: grid(f"mha {name}", shape, -24, 24) for name, shape in shapes.items()}
    for name, why, tokens, heads in (
        ("two-heads", "5 tokens, 2 heads of 3", grid("mha x", (2, 5, 6)), 2),
        ("one-head", "one head: how heads are split does not matter", grid("mha one", (1, 4, 6)), 1),
    ):
        yield with_gradient(Case(f"attention/{name}", why, {"x": tokens} | w | {"heads": heads}), "x", *w)


def image_weights(name: str, C: int, w: int, d: int) -> dict:
    """Weights of EB-CNN's branch by their names, on the grid."""
    weights, width = {}, C
    for k, out in enumerate((w, w, 2 * w, 2 * w, 4 * w, 4 * w), 1):
        weights[f"conv{k}.weight"] = grid(f"{name} conv{k}", (out, width, 3, 3), -24, 24)
        weights[f"bn{k}.weight"] = grid(f"{name} bn{k} w", (out,), 20, 44)
        weights[f"bn{k}.bias"] = grid(f"{name} bn{k} b", (out,), -12, 20)
        width = out
    weights["proj.weight"] = grid(f"{name} proj w", (d, width), -24, 24)
    weights["proj.bias"] = grid(f"{name} proj b", (d,), -12, 12)
    return weights


def text_weights(name: str, V: int, W: int, layers: int, d: int, context: int) -> dict:
    """Weights of CLIP's text transformer by their names, on the grid."""
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
        n: grid(f"{name} {n}", shape, *ranges.get(".".join(n.split(".")[-2:]), (-24, 24)))
        for n, shape in shapes.items()
    }


def encoders() -> Iterator[Case]:
    """Suite 6, second part: the two encoders with a tap after every sub-layer."""
    w = image_weights("image", C=3, w=2, d=4)
    inputs = {"x": grid("image x", (3, 4, 8, 3))} | w
    case = Case("image_encoder/ebcnn", "3 patches of 4 by 8, width 2, training mode", inputs)
    yield with_gradient(case, *inputs, of="I_i")
    w = text_weights("text", V=10, W=6, layers=2, d=4, context=7)
    ids = np.array([[8, 3, 1, 9, 0, 0], [8, 2, 2, 5, 7, 9], [8, 9, 0, 0, 0, 0]])
    why = "2 blocks, 2 heads, rows that end at 3, 5 and 1; zeros follow EOT"
    yield with_gradient(Case("text_encoder/clip", why, {"ids": ids, "heads": 2} | w), *w, of="T_i")


def chain() -> Iterator[Case]:
    """Suite 7: from bands and labels to L, every gradient, three steps."""
    B, H, W, d, K = 5, 4, 4, 3, 4
    w: dict = {}
    for group, index in bands.INDEX.items():
        own = image_weights(f"chain {group}", C=len(index), w=1, d=d)
        w |= {f"branches.{group}.{name}": v for name, v in own.items()}
    w["classifier.weight"] = grid("chain classifier w", (K, 7 * d), -24, 24)
    w["classifier.bias"] = grid("chain classifier b", (K,), -12, 12)
    w |= {f"text.{name}": v for name, v in text_weights("chain text", V=12, W=4, layers=1, d=d, context=6).items()}
    endings = [[2], [3], [4], [5, 6], [7], [8], [9]]
    ids = np.zeros((K, len(paper.GROUPS), 6), np.int64)
    for k in range(K):
        for i, ending in enumerate(endings):
            row = [10, k % 2, 1 + k // 2, *ending, 11]  # SOT, two ids of the class, the group's, EOT
            ids[k, i, : len(row)] = row
    inputs = {
        "sen1": grid("chain sen1", (B, H, W, 8), -64, 64),
        "sen2": grid("chain sen2", (B, H, W, 10), -64, 64),
        "y": np.array([3, 0, 3, 2, 3]),
        "ids": ids,
        "lr": np.array([0.015625, 0.0078125, 0.03125]),
        "momentum": 0.9,
        "weight_decay": 0.125,
        "alpha": 0.25,
        "beta": 2.0,
        "heads": 2,
    }
    why = "one batch of 5 with class 1 absent and class 3 three times; the rate changes"
    yield Case("training/three-steps", why, inputs | w)


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

"""The two encoders, the training of Fig. 1 and its inference in their plainest form: joints between operations.

Like the formulas of ops.py these run on Decimals and on floats, and they ask the table `f` for every operation
that they join. The encoders return a tap after each sub-layer, in the order of computation. The options of a
function are for wrong readings; the right reading takes their defaults.

The kit keeps this chain of its own although the package has `equations.objective`: an oracle that calls the code
which it judges proves nothing. reference.py holds the package's networks to the same cases.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy

from bplcz_ref import paper
from bplcz_ref.conform import exact as xp
from bplcz_ref.conform.exact import Array


def varied(function: Callable, **options: Any) -> Callable:
    """A function of a table with some of its inputs or options set: a wrong reading."""
    return lambda f, **inputs: function(f, **(inputs | options))


# ---------------------------------------------------------------- Eqs. (1), (2): the encoders


def under(w: dict, prefix: str) -> dict:
    """The weights below a name, with the rest of their names."""
    return {name[len(prefix) + 1 :]: x for name, x in w.items() if name.startswith(prefix + ".")}


def _recorder(taps, prefix=""):
    """tap(name, y) keeps y under its name and returns it."""

    def tap(name, y):
        taps[prefix + name] = y
        return y

    return tap


def over_pixels(x: Array) -> Array:  # (B, H, W, C) -> (B, C)
    return xp.mean(x, (1, 2))


def image_encoder(
    f: dict,
    x: Array,
    pooled: Callable = over_pixels,
    order: tuple = ("bn", "relu"),
    pools: tuple = (2, 4),
    rectified: range = range(1, 7),
    running: dict | None = None,
    train: int = 1,
    **w: Array,
) -> dict:
    """I_i = E_m(X_i), EB-CNN's branch in training mode

    Eq. (1): conv-BN-ReLU twice, max-pool, twice, max-pool, twice, mean, linear. `running` holds the running
    statistics by name, and takes the new ones.
    """
    taps: dict = {}
    tap = _recorder(taps)
    for k in range(1, 7):
        x = tap(f"conv{k}", f["conv2d"](f, x=x, weight=w[f"conv{k}.weight"], stride=1, padding=1)["y"])
        bias, means, variances = w[f"bn{k}.bias"], f"bn{k}.running_mean", f"bn{k}.running_var"
        kept = running or {means: bias * 0, variances: bias * 0 + 1}  # training mode does not read them
        weights = {"weight": w[f"bn{k}.weight"], "bias": bias}
        weights |= {"running_mean": kept[means], "running_var": kept[variances]}
        for layer in order:
            if layer == "bn":
                out = f["batch_norm"](f, x=x, train=train, **weights)
                x = tap(f"bn{k}", out["y"])
                if running is not None:
                    running[means], running[variances] = out["new_running_mean"], out["new_running_var"]
            elif k in rectified:
                x = tap(f"relu{k}", f["relu"](f, x=x)["y"])
        if k in pools:
            x = tap(f"pool{k}", f["max_pool2d"](f, x=x)["y"])
    x = tap("mean", pooled(x))
    tap("I_i", f["linear"](f, x=x, weight=w["proj.weight"], bias=w["proj.bias"])["y"])
    return taps


def inference(f: dict, batches: Array, x: Array, start: float = 1.0, train: int = 0, **w: Array) -> dict:
    """batches (T, B, H, W, C) pass in training mode, then x in evaluation mode -> I_i -> c_hat -> y_hat

    One branch of EB-CNN and the classifier. No weight changes; the running statistics begin at mean 0, variance 1,
    and every batch moves them. Then x is normalised by them.
    """
    running: dict = {}
    for k in range(1, 7):
        bias = w[f"bn{k}.bias"]
        running |= {f"bn{k}.running_mean": bias * 0, f"bn{k}.running_var": bias * 0 + xp.like(bias, start)}
    branch = {name: v for name, v in w.items() if not name.startswith("classifier.")}
    for t in range(batches.shape[0]):
        image_encoder(f, batches[t], running=running, **branch)
    I_i = image_encoder(f, x, running=dict(running), train=train, **branch)["I_i"]
    c_hat = f["linear"](f, x=I_i, **under(w, "classifier"))["y"]
    return running | {"I_i": I_i, "c_hat": c_hat} | f["predict"](f, c_hat=c_hat)


def pre_norm(f: dict, x: Array, heads: int, w: dict, tap: Callable) -> Array:
    """One block of CLIP's text transformer: x + attention(LN(x)), then x + c_proj(QuickGELU(c_fc(LN(x))))."""
    x = tap("residual_1", x + self_attention(f, tap("ln_1", norm(f, x, w, "ln_1")), heads, w, tap))
    return tap("residual_2", x + mlp(f, tap("ln_2", norm(f, x, w, "ln_2")), w, tap))


def norm(f: dict, x: Array, w: dict, name: str) -> Array:
    return f["layer_norm"](f, x=x, weight=w[f"{name}.weight"], bias=w[f"{name}.bias"])["y"]


def self_attention(f: dict, x: Array, heads: int, w: dict, tap: Callable) -> Array:
    weights = {"in_proj_weight": w["attn.in_proj_weight"], "in_proj_bias": w["attn.in_proj_bias"]}
    weights |= {"out_weight": w["attn.out_proj.weight"], "out_bias": w["attn.out_proj.bias"]}
    return tap("attn", f["attention"](f, x=x, heads=heads, **weights)["y"])


def mlp(f: dict, x: Array, w: dict, tap: Callable) -> Array:
    x = f["linear"](f, x=x, weight=w["mlp.c_fc.weight"], bias=w["mlp.c_fc.bias"])["y"]
    x = tap("gelu", f["quick_gelu"](f, x=x)["y"])
    return tap("mlp", f["linear"](f, x=x, weight=w["mlp.c_proj.weight"], bias=w["mlp.c_proj.bias"])["y"])


def rows_at(places: Callable) -> Callable:
    """x (N, L, W) -> (N, W), at the places (N,) that a function of the ids (N, L) gives."""
    return lambda x, ids: x[numpy.arange(len(ids)), places(ids)]


at_end = rows_at(lambda ids: numpy.argmax(ids, axis=1))  # the first place of each row's largest id, which is EOT


def text_encoder(
    f: dict,
    ids: numpy.ndarray,
    heads: int,
    block: Callable = pre_norm,
    pooled: Callable = at_end,
    positions: Callable = lambda table, L: table[:L],
    final: bool = True,
    order: Callable = list,
    embedded: Callable = lambda table, ids: table[ids],
    **w: Array,
) -> dict:
    """T_i = E_t(t_i), CLIP's text transformer, the row of EOT

    Eq. (2): ids (N, L), L at most the number of positions.
    """
    ids = numpy.asarray(ids)
    taps: dict = {}
    tap = _recorder(taps)
    x = embedded(w["token_embedding.weight"], ids) + positions(w["positional_embedding"], ids.shape[1])
    tap("embedding", x)
    blocks = under(w, "transformer.resblocks")
    for n, k in enumerate(order(range(len({name.split(".")[0] for name in blocks})))):
        x = block(f, x, heads, under(blocks, str(k)), _recorder(taps, f"block{n}."))
    x = tap("ln_final", norm(f, x, w, "ln_final") if final else x)
    x = tap("at_eot", pooled(x, ids))
    tap("T_i", f["matmul"](x, w["text_projection"]))
    return taps


# ---------------------------------------------------------------- Fig. 1


def as_they_are(I_i: Array, T_i: Array) -> tuple:
    return I_i, T_i


def figure_1(
    f: dict,
    w: dict,
    X: dict,
    labels: numpy.ndarray,
    ids: numpy.ndarray,
    alpha: Array,
    beta: Array,
    heads: int,
    contrasted: Callable = as_they_are,
) -> tuple:
    """(L, every symbol of Fig. 1): bands X (group -> B H W C) and labels (B,) to the loss, by the weights w.

    `contrasted` stands between the features and the similarity, for a wrong reading.
    """
    classes, place = numpy.unique(labels, return_inverse=True)  # T_i of each class is worked out once
    n, L, groups = len(paper.GROUPS), ids.shape[2], list(paper.GROUPS)
    taps = {}
    for g in groups:
        taps[f"I_{g}"] = f["image_encoder"](f, x=X[f"X_{g}"], **under(w, f"branches.{g}"))["I_i"]
    T = f["text_encoder"](f, ids=ids[classes].reshape(-1, L), heads=heads, **under(w, "text"))["T_i"]
    for i, g in enumerate(groups):
        taps[f"T_{g}"] = T[place * n + i]
    for g in groups:
        S = f["similarity"](
            f, **dict(zip(("I_i", "T_i"), contrasted(taps[f"I_{g}"], taps[f"T_{g}"]), strict=True))
        )
        taps[f"S_{g}"], taps[f"S_hat_{g}"] = S["S_i"], S["S_hat_i"]
    stacked = lambda symbol: xp.stack([taps[f"{symbol}_{g}"] for g in groups])
    for symbol in ("S", "S_hat"):
        taps[symbol] = f["fuse"](f, S_groups=stacked(symbol), alpha=alpha)["S"]
    taps |= f["supervised_matrix"](f, y=labels)
    taps |= f["contrastive_loss"](f, S=taps["S"], W=taps["W"])
    taps |= f["concat"](f, I_groups=stacked("I"))
    taps["c_hat"] = f["linear"](f, x=taps["I"], **under(w, "classifier"))["y"]
    taps |= f["cross_entropy"](f, c_hat=taps["c_hat"], c=labels)
    taps |= f["total_loss"](f, L_cls=taps["L_cls"], L_con=taps["L_con"], beta=beta)
    return taps["L"], taps


class Steps(NamedTuple):
    """How a training program uses gradients and settings. The defaults are right."""

    decays: Callable = lambda name, w, g: 1  # the share of the decay, a number or an array like w
    moves: Callable = lambda name: True  # whether a parameter is updated
    gradients: Callable = lambda grads, before, B: grads  # before: those that the last step used
    rate: Callable = lambda lr, t: lr[t]
    forget: bool = False  # the velocity begins anew at each step


STEPS = Steps()


def training(
    f: dict,
    sen1: Array,
    sen2: Array,
    y: numpy.ndarray,
    ids: numpy.ndarray,
    lr: Array,
    momentum: Array,
    weight_decay: Array,
    alpha: Array,
    beta: Array,
    heads: int,
    how: Steps = STEPS,
    prompts: Callable = lambda ids: ids,
    contrasted: Callable = as_they_are,
    **w: Array,
) -> dict:
    """all of Fig. 1 on one batch, its gradients, and len(lr) steps of SGD

    Every symbol and gradient at the first step, then L at each step and the parameters after the last.
    """
    X = f["band_groups"](f, sen1=sen1, sen2=sen2)
    labels, ids = numpy.asarray(y), prompts(numpy.asarray(ids))
    loss = lambda p: figure_1(f, p, X, labels, ids, alpha, beta, heads, contrasted)
    out: dict = {}
    velocity: dict = dict.fromkeys(w)
    before: dict = {}
    rates = numpy.asarray(lr).tolist()
    for t in range(len(rates)):
        L, taps, grads = xp.differentiate(loss, w)
        if t == 0:
            out = taps | {f"grad.{name}": g for name, g in grads.items()}
        else:
            out[f"L_step{t + 1}"] = L
        before = grads = how.gradients(grads, before, len(labels))
        for name, g in grads.items():
            if not how.moves(name):
                continue
            settings = [xp.like(g, x) for x in (how.rate(rates, t), momentum, weight_decay)]
            share = how.decays(name, w[name], g)
            if not numpy.all(share == 1):  # taken off beforehand, as the step adds all of it
                g = g - w[name] * (1 - share) * settings[2]
            w[name], velocity[name] = f["sgd_step"](w[name], None if how.forget else velocity[name], g, *settings)
    return out | {f"after.{name}": x for name, x in w.items()}


# ---------------------------------------------------------------- which operation makes a tap, and from what

_GROUPS = tuple(paper.GROUPS)
_CHAIN = {  # symbol of Fig. 1 -> its operation and what it is computed from
    **{f"I_{g}": ("image_encoder", ()) for g in _GROUPS},
    **{f"T_{g}": ("text_encoder", ()) for g in _GROUPS},
    **{f"S_{g}": ("similarity", (f"I_{g}", f"T_{g}")) for g in _GROUPS},
    **{f"S_hat_{g}": ("similarity", (f"I_{g}", f"T_{g}")) for g in _GROUPS},
    "S": ("fuse", tuple(f"S_{g}" for g in _GROUPS)),
    "S_hat": ("fuse", tuple(f"S_hat_{g}" for g in _GROUPS)),
    "W": ("supervised_matrix", ()),
    "L_i2t": ("contrastive_loss", ("S", "W")),
    "L_t2i": ("contrastive_loss", ("S_hat", "W")),
    "L_con": ("contrastive_loss", ("L_i2t", "L_t2i")),
    "I": ("concat", tuple(f"I_{g}" for g in _GROUPS)),
    "c_hat": ("linear", ("I",)),
    "L_cls": ("cross_entropy", ("c_hat",)),
    "L": ("total_loss", ("L_cls", "L_con")),
}


def origin(output: str, before: tuple) -> tuple:
    """(operation, names of outputs): what computes an output of `training`, and from which of those before it."""
    if output.startswith("grad."):
        return "training", tuple(o for o in before if not o.startswith("grad."))
    if output in _CHAIN:
        return _CHAIN[output]
    return "sgd", tuple(o for o in before if o in _CHAIN or o.startswith("grad."))

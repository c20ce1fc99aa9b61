"""The two encoders and the training of Fig. 1 as joints between the kit's operations, with a tap after each.

Like definitions.py these run on Decimals and on floats, and ask the table `f` for every operation they join. Taps
come in the order of computation. The package's own networks (encoders/, model.py) are written independently; the
self-test holds them to the same cases.
"""

import numpy

from bplcz_ref import paper
from bplcz_ref.conform import exact as xp
from bplcz_ref.conform.definitions import like


def under(w, prefix):
    """The weights below a name, with the rest of their names."""
    return {name[len(prefix) + 1 :]: x for name, x in w.items() if name.startswith(prefix + ".")}


def image_encoder(f, x, pooled=lambda x: xp.mean(x, (1, 2)), order=("bn", "relu"), **w):
    """Eq. (1) with E_m as EB-CNN's branch: conv-BN-ReLU twice, max-pool, twice, max-pool, twice, mean, linear.

    The options are for wrong readings; the right one takes their defaults.
    """
    taps = {}

    def tap(name, y):
        taps[name] = y
        return y

    for k in range(1, 7):
        x = tap(f"conv{k}", f["conv2d"](f, x=x, weight=w[f"conv{k}.weight"], stride=1, padding=1)["y"])
        fresh = {"running_mean": w[f"bn{k}.bias"] * 0, "running_var": w[f"bn{k}.bias"] * 0 + 1}  # not looked at
        for layer in order:
            if layer == "bn":
                weights = {"weight": w[f"bn{k}.weight"], "bias": w[f"bn{k}.bias"]}
                x = tap(f"bn{k}", f["batch_norm"](f, x=x, **weights, **fresh, train=1)["y"])
            else:
                x = tap(f"relu{k}", f["relu"](f, x=x)["y"])
        if k in (2, 4):
            x = tap(f"pool{k}", f["max_pool2d"](f, x=x)["y"])
    x = tap("mean", pooled(x))
    tap("I_i", f["linear"](f, x=x, weight=w["proj.weight"], bias=w["proj.bias"])["y"])
    return taps


def pre_norm(f, x, heads, w, tap):
    """One block of CLIP's text transformer: x + attention(LN(x)), then x + c_proj(QuickGELU(c_fc(LN(x))))."""
    x = tap("residual_1", x + self_attention(f, tap("ln_1", norm(f, x, w, "ln_1")), heads, w, tap))
    return tap("residual_2", x + mlp(f, tap("ln_2", norm(f, x, w, "ln_2")), w, tap))


def norm(f, x, w, name):
    return f["layer_norm"](f, x=x, weight=w[f"{name}.weight"], bias=w[f"{name}.bias"])["y"]


def self_attention(f, x, heads, w, tap):
    names = {"in_proj_weight": "in_proj_weight", "in_proj_bias": "in_proj_bias"}
    names |= {"out_weight": "out_proj.weight", "out_bias": "out_proj.bias"}
    weights = {name: w[f"attn.{of}"] for name, of in names.items()}
    return tap("attn", f["attention"](f, x=x, heads=heads, **weights)["y"])


def mlp(f, x, w, tap):
    x = f["linear"](f, x=x, weight=w["mlp.c_fc.weight"], bias=w["mlp.c_fc.bias"])["y"]
    x = tap("gelu", f["quick_gelu"](f, x=x)["y"])
    return tap("mlp", f["linear"](f, x=x, weight=w["mlp.c_proj.weight"], bias=w["mlp.c_proj.bias"])["y"])


def at_end(ids):
    """The first place of each row's largest id, which is EOT."""
    return numpy.argmax(ids, axis=1)


def text_encoder(f, ids, heads, block=pre_norm, pooled=at_end, positions=True, final=True, **w):
    """Eq. (2) with E_t as CLIP's text transformer; ids (N, L), L at most the number of positions.

    The options are for wrong readings; the right one takes their defaults.
    """
    ids, taps = numpy.asarray(ids), {}

    def tap(name, y, prefix=""):
        taps[prefix + name] = y
        return y

    x = w["token_embedding.weight"][ids]
    if positions:
        x = x + w["positional_embedding"][: ids.shape[1]]
    tap("embedding", x)
    blocks = under(w, "transformer.resblocks")
    for k in range(len({name.split(".")[0] for name in blocks})):
        x = block(f, x, heads, under(blocks, str(k)), lambda name, y, k=k: tap(name, y, f"block{k}."))
    if final:
        x = tap("ln_final", norm(f, x, w, "ln_final"))
    x = tap("at_eot", x[numpy.arange(len(ids)), pooled(ids)])
    tap("T_i", x @ w["text_projection"])
    return taps


def training(
    f,
    sen1,
    sen2,
    y,
    ids,
    lr,
    momentum,
    weight_decay,
    alpha,
    beta,
    heads,
    decays=lambda name, x: True,
    forget=False,
    accumulate=False,
    **w,
):
    """Fig. 1 on one batch, and len(lr) steps of SGD on it: every symbol and gradient at the first step, then L at
    each step and the parameters after the last.

    The options are for wrong readings; the right one takes their defaults.
    """
    X = f["band_groups"](f, sen1=sen1, sen2=sen2)
    labels = numpy.asarray(y)
    classes, place = numpy.unique(labels, return_inverse=True)
    groups, ids = list(paper.GROUPS), numpy.asarray(ids)

    def loss(p):
        taps = {}
        for g in groups:
            taps[f"I_{g}"] = f["image_encoder"](f, x=X[f"X_{g}"], **under(p, f"branches.{g}"))["I_i"]
        n, L = len(groups), ids.shape[2]
        T = f["text_encoder"](f, ids=ids[classes].reshape(-1, L), heads=heads, **under(p, "text"))["T_i"]
        for i, g in enumerate(groups):
            taps[f"T_{g}"] = T[place * n + i]
        for g in groups:
            S = f["similarity"](f, I_i=taps[f"I_{g}"], T_i=taps[f"T_{g}"])
            taps[f"S_{g}"], taps[f"S_hat_{g}"] = S["S_i"], S["S_hat_i"]
        taps["S"] = f["fuse"](f, S_groups=xp.stack([taps[f"S_{g}"] for g in groups]), alpha=alpha)["S"]
        taps["S_hat"] = f["fuse"](f, S_groups=xp.stack([taps[f"S_hat_{g}"] for g in groups]), alpha=alpha)["S"]
        taps |= f["supervised_matrix"](f, y=labels)
        taps |= f["contrastive_loss"](f, S=taps["S"], W=taps["W"])
        taps |= f["concat"](f, I_groups=xp.stack([taps[f"I_{g}"] for g in groups]))
        head = under(p, "classifier")
        taps["c_hat"] = f["linear"](f, x=taps["I"], weight=head["weight"], bias=head["bias"])["y"]
        taps |= f["cross_entropy"](f, c_hat=taps["c_hat"], c=labels)
        taps |= f["total_loss"](f, L_cls=taps["L_cls"], L_con=taps["L_con"], beta=beta)
        return taps["L"], taps

    out, velocity, before = {}, dict.fromkeys(w), {}
    for t, rate in enumerate(numpy.asarray(lr).tolist()):
        L, taps, grads = xp.value_and_gradients(loss, w)
        if t == 0:
            out = taps | {f"grad.{name}": g for name, g in grads.items()}
        else:
            out[f"L_step{t + 1}"] = L
        if accumulate:
            grads = {name: g + before[name] if before else g for name, g in grads.items()}
            before = grads
        for name, g in grads.items():
            c = [like(g, x) for x in (rate, momentum, weight_decay if decays(name, g) else 0)]
            v = None if forget else velocity[name]
            w[name], velocity[name] = f["sgd_step"](w[name], v, g, *c)
    return out | {f"after.{name}": x for name, x in w.items()}

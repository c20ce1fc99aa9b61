"""ExViT (BP-LCZ), Table II: two readings of how the paper adopts its method in ExViT, made of model.py's parts.

The paper (III-B1) says no more than that BP-LCZ "is adopted in" ExViT. In both readings each band group has an
ExViT branch of its own, up to its tokens, and the seven branches share one position table, as ExViT's two do.

A  Eq. (9) to the letter, the default: a branch ends in a vector I_i, and D is LN and a linear map on their
   concatenation. No attention crosses groups.
B  D is ExViT's attention over the tokens of all groups, so it needs no vectors; those that the contrastive loss
   compares with the prompts come from a head of their own in each group.
"""

import autograd.numpy as np

from bplcz_ref import bands, equations, nn, paper
from bplcz_ref.encoders import exvit
from bplcz_ref.model import Model, bplcz, encode, init_branches, prompting

SHARED = "pos_embedding"


def reading_a(
    features: int = 512,
    patch: int = paper.PATCH,
    grid: int = 4,
    classes: int = exvit.CLASSES,
    size: exvit.Size = exvit.SIZE,
    **options,
) -> Model:
    """Seven ExViT encoders with one position table, Eq. (9), D = Linear(LN(I)); options as of model.bplcz.

    >>> import numpy
    >>> from bplcz_ref import weights
    >>> weights.count(reading_a().init(numpy.random.default_rng(0), numpy.float32)[0])
    945724
    """
    encoders = {
        group: exvit.encoder(len(index), patch, grid, features, size) for group, index in bands.INDEX.items()
    }
    return with_one_position_table(bplcz(encoders, exvit.head(len(encoders) * features, classes), **options))


def reading_b(
    features: int = 512,
    patch: int = paper.PATCH,
    grid: int = 4,
    classes: int = exvit.CLASSES,
    size: exvit.Size = exvit.SIZE,
    *,
    text=None,
    tokens=None,
    alpha: float = paper.ALPHA,
    beta: float = paper.BETA,
    contrastive: str = "paper",
) -> Model:
    """Seven ExViT branches with one position table; D attends to the tokens of all groups, Z = [Z_1, ..., Z_7].

    The trace has Z (B, 7 N, w) in the place of I; `fused` gives Eq. (9) of the vectors I_i.
    """
    encoders = {group: exvit.tokens(len(index), patch, grid, size) for group, index in bands.INDEX.items()}
    vector, classifier = exvit.vector(features, size), exvit.joint(classes, size)
    prompts = prompting(list(encoders), text, tokens, alpha, beta, contrastive)

    def init(rng, dtype):
        streams = rng.spawn(len(encoders) + 2)
        params, state = init_branches(encoders, streams, dtype)
        params["classifier"], _ = classifier.init(streams[len(encoders)], dtype)
        params |= prompts.init(streams[-1], dtype)
        if text is not None:
            starts = zip(encoders, rng.spawn(len(encoders)), strict=True)
            params["vectors"] = {group: vector.init(start, dtype)[0] for group, start in starts}
        return params, state

    def decide(params, Z_i, train, rng):  # {group: (B, N, w)} -> (B, 7 N, w), (B, K)
        Z = np.concatenate(list(Z_i.values()), axis=1)
        return Z, classifier.apply(params["classifier"], {}, Z, train=train, rng=rng)[0]

    def vectors(params, Z_i, train):  # {group: (B, N, w)} -> {group: (B, d)}
        return {group: vector.apply(params["vectors"][group], {}, Z, train=train)[0] for group, Z in Z_i.items()}

    @nn.one_blas_thread()
    def apply(params, state, x, *, train, rng=None):
        Z_i, _, state = encode(encoders, params, state, x, train=train, rng=rng)
        return decide(params, Z_i, train, rng)[1], state

    @nn.one_blas_thread()
    def fused(params, state, x):
        if text is None:
            raise ValueError("reading B without prompts has no I_i to fuse: its classifier takes tokens")
        Z_i, _, _ = encode(encoders, params, state, x, train=False)
        return equations.concat(list(vectors(params, Z_i, False).values()))

    def loss(params, state, batch, *, rng=None):
        x, y = batch
        Z_i, T_i, state = encode(encoders, params, state, x, y, prompts, train=True, rng=rng)
        I_i = {} if T_i is None else vectors(params, Z_i, True)
        Z, c_hat = decide(params, Z_i, True, rng)
        trace = prompts.objective(params, I_i, T_i, y, c_hat)
        named = {"I_i": I_i, "T_i": T_i} if T_i is not None else {}
        return trace["L"], named | {"I": Z, "c_hat": c_hat} | trace | {"state": state}

    return with_one_position_table(Model(init, apply, loss, fused))


def with_one_position_table(network: Model) -> Model:
    """The same model with one position table for all branches, params["shared"], which starts as the first's.

    Every branch is handed the one array, so on the tape its gradients add up.
    """

    def spread(params):  # the one table into every branch
        branches = {group: own | params["shared"] for group, own in params["branches"].items()}
        return params | {"branches": branches}

    def init(rng, dtype):
        params, state = network.init(rng, dtype)
        tables = [own.pop(SHARED) for own in params["branches"].values()]
        return params | {"shared": {SHARED: tables[0]}}, state

    return Model(
        init,
        lambda params, state, x, *, train, rng=None: network.apply(spread(params), state, x, train=train, rng=rng),
        lambda params, state, batch, *, rng=None: network.loss(spread(params), state, batch, rng=rng),
        lambda params, state, x: network.fused(spread(params), state, x),
    )

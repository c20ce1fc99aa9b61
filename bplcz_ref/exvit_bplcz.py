"""ExViT (BP-LCZ), Table II: two readings of how the paper adopts its method in ExViT, made of model.py's parts.

The paper (III-B1) says no more than that BP-LCZ "is adopted in" ExViT. In both readings each band group has an
ExViT branch of its own, up to its tokens, and the seven branches share one position table, as ExViT's two do.

A  Eq. (9) to the letter, the default: a branch ends in a vector I_i, and D is LN and a linear map on their
   concatenation. No attention crosses groups.
B  D is ExViT's attention over the tokens of all groups, so it needs no vectors; those that the contrastive loss
   compares with the prompts come from a head of their own in each group.
"""

from bplcz_ref import bands, paper
from bplcz_ref.encoders import exvit
from bplcz_ref.model import Model, bplcz

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
    **options,
) -> Model:
    """Seven ExViT branches with one position table; D attends to the tokens of all groups, Z = [Z_1, ..., Z_7].

    The trace has Z (B, 7 N, w) in the place of I; `fused` gives Eq. (9) of the vectors I_i.
    """
    encoders = {group: exvit.tokens(len(index), patch, grid, size) for group, index in bands.INDEX.items()}
    network = bplcz(encoders, exvit.joint(classes, size), vector=exvit.vector(features, size), **options)
    return with_one_position_table(network)


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

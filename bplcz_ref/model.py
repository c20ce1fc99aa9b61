"""Fig. 1 of the paper: encoders and equations put together into networks with a loss, every intermediate by name.

A model computes what equations.py states on features that encoders/ computes; it adds no mathematics. Two exact
savings are made here: each distinct prompt is encoded once and gathered (gradients add through the gather), and
only the classes in the batch are encoded. encoders/prefixes.py adds a third, the tree of common beginnings.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import autograd.numpy as np
from numpy.random import Generator

from bplcz_ref import bands, equations, nn, paper
from bplcz_ref.encoders import prefixes
from bplcz_ref.layers import Call, Network, side_by_side
from bplcz_ref.variants import VARIANTS


class Model(NamedTuple):
    """A Network with a loss.

    init(rng, dtype) -> (params, state)
    apply(params, state, x, *, train, rng=None) -> (c_hat, new_state): logits of the image side alone; no text.
    loss(params, state, batch, *, rng=None) -> (L, trace): batch = (x, y) of images (B, H, W, 18) and labels (B,);
        trace holds every intermediate under the paper's symbol, and "state", the new state.
    fused(params, state, x) -> I (B, n d), Eq. (9) in evaluation mode, as Fig. 3 shows it; None for a network that
        takes all bands at once and so fuses nothing.
    about: what it is, in words; its repr.
    """

    init: Callable
    apply: Callable
    loss: Callable
    fused: Any = None  # a function, or None
    about: str = "a model of its own parts"

    def __repr__(self) -> str:
        return f"<{self.about}>"


def bplcz(
    encoders: dict[str, Network],
    classifier: Network,
    *,
    vector: Network | None = None,
    text: Network | None = None,
    tokens: np.ndarray | None = None,
    alpha: float = paper.ALPHA,
    beta: float = paper.BETA,
    contrastive: str = "paper",
    shared: str | None = None,
) -> Model:
    """Fig. 1: seven group encoders, a classifier on their concatenation, and text prompts in training.

    encoders     {group: Network (B, H, W, C_i) -> (B, d)} in the paper's order, E_m of Eq. (1)
    classifier   Network (B, n d) -> (B, K), D of II-D
    vector       None; or a Network (B, N, w) -> (B, d), where the encoders give N tokens of width w: then D takes
                 the tokens of all groups (B, n N, w), and each group has a `vector` of its own to make I_i, which
                 the contrastive loss compares with the prompts (ExViT, reading B)
    text         Network, token ids (N, L) -> (N, d), E_t of Eq. (2); None trains with Eq. (11) alone (Table III's
                 first row)
    tokens       (K, n, L) token ids of the prompt of every class and group
    contrastive  "paper", or another name in variants.VARIANTS ("identity" is Table III's "without MSM")
    shared       the name of an array that all branches have in common: params["shared"], at first the first one's

    >>> from bplcz_ref.encoders import ebcnn
    >>> from bplcz_ref.layers import linear
    >>> small = {group: ebcnn.encoder(len(i), width=1, features=3) for group, i in bands.INDEX.items()}
    >>> network = bplcz(small, linear(7 * 3, 17))
    >>> params, state = network.init(np.random.default_rng(0), np.float64)
    >>> c_hat, _ = network.apply(params, state, np.zeros((2, 8, 8, 18)), train=False)
    >>> c_hat.shape
    (2, 17)
    >>> network.fused(params, state, np.zeros((2, 8, 8, 18))).shape
    (2, 21)
    """
    n = len(encoders)
    tower = trees = None
    if text is not None and tokens is not None:
        if np.shape(tokens)[1] != n:
            raise ValueError(f"tokens: found shape {np.shape(tokens)}, expected (K, n, L) with n = {n} groups")
        tower, trees = prefixes.encoder(text), prefixes.pack(tokens)
    elif text is not None or tokens is not None:
        raise ValueError("text and tokens belong together: give both (band group prompting) or neither")
    if contrastive not in VARIANTS:
        raise ValueError(f"contrastive is {contrastive!r}; expected one of {', '.join(VARIANTS)}")
    variant = VARIANTS[contrastive]
    axis = -1 if vector is None else 1  # of Eq. (9): the features' axis, or that of the tokens

    def init(rng, dtype):
        # Each part draws from a stream of its own; text comes last, so that without it the image side is the same.
        *streams, stream_D, stream_t = rng.spawn(n + 2)
        params: dict = {"branches": {}}
        state: dict = {"branches": {}}
        for (i, E_m), stream in zip(encoders.items(), streams, strict=True):
            params["branches"][i], state["branches"][i] = E_m.init(stream, dtype)
        params["classifier"], _ = classifier.init(stream_D, dtype)
        if text is not None:
            params["text"], _ = text.init(stream_t, dtype)
            learnt = variant.init(dtype)
            params |= {"contrastive": learnt} if learnt else {}
        if vector is not None and text is not None:
            starts = zip(encoders, rng.spawn(n), strict=True)
            params["vectors"] = {i: vector.init(stream, dtype)[0] for i, stream in starts}
        if shared:
            first, *_ = [own.pop(shared) for own in params["branches"].values()]
            params["shared"] = {shared: first}
        return params, state

    def images(params, state, x, train, rng=None):  # (B, H, W, 18) -> {group: (B, d)}, new state
        """Eq. (1), the encoders of all groups side by side, each with a random stream of its own."""
        X_i = bands.grouped(*bands.separate(bands.not_raw(x)))  # II-A
        streams = [None] * n if rng is None else rng.spawn(n)
        calls = []
        for (i, E_m), stream in zip(encoders.items(), streams, strict=True):
            own = params.get("branches", {}).get(i, {})  # a file keeps no empty ones
            measured = state.get("branches", {}).get(i, {})
            if shared:
                own = own | params["shared"]  # the one array, so on the tape its gradients add up
            calls.append(Call(f"branches.{i}", E_m, own, measured, X_i[i], train, stream))
        features, states = side_by_side(calls)
        return dict(zip(encoders, features, strict=True)), {"branches": dict(zip(encoders, states, strict=True))}

    def texts(params, y):  # (B,) -> {group: (B, d)}
        """Eq. (2) for the classes in the batch, whose products are large enough to be shared by all cores.

        Sample j takes the texts of its class, number place[j].
        """
        classes, place = np.unique(y, return_inverse=True)
        (T,), _ = side_by_side([Call("text", tower, params["text"], {}, trees.of(classes), True)])
        T_j = np.reshape(nn.embedding(np.reshape(T, (len(T), -1)), place), (len(place), n, -1))
        return {group: T_j[:, i] for i, group in enumerate(encoders)}

    def decide(params, features, train, rng):  # {group: (B, d)} -> I (B, n d), c_hat (B, K)
        I = np.concatenate(list(features.values()), axis=axis)
        return I, Call("classifier", classifier, params["classifier"], {}, I, train, rng).answer()[0]

    def vectors(params, features, train):  # {group: what its encoder gives} -> {group: I_i (B, d)}
        if vector is None:
            return features
        own = params["vectors"]
        return {i: Call(f"vectors.{i}", vector, own[i], {}, Z, train).answer()[0] for i, Z in features.items()}

    @nn.one_blas_thread()
    def apply(params, state, x, *, train, rng=None):
        features, state = images(params, state, x, train, rng)
        return decide(params, features, train, rng)[1], state

    @nn.one_blas_thread()
    def fused(params, state, x):
        if vector is not None and text is None:
            raise ValueError("reading B without prompts has no I_i to fuse: its classifier takes tokens")
        features, _ = images(params, state, x, False)
        return equations.concat(list(vectors(params, features, False).values()))

    def loss(params, state, batch, *, rng=None):
        x, y = batch
        features, state = images(params, state, x, True, rng)  # Eq. (1)
        T_i = None if text is None else texts(params, y)  # Eq. (2)
        I_i = vectors(params, features, True) if vector is None or T_i is not None else {}
        I, c_hat = decide(params, features, True, rng)  # Eq. (9), D
        compare = partial(variant.loss, params.get("contrastive", {}), alpha_n=alpha * n)
        trace = equations.objective(  # Eqs. (3)-(8), (10), (11)
            I_i, T_i, y, c_hat, alpha, beta, matrix=variant.matrix, contrastive=compare
        )
        named = ({"I_i": I_i} if I_i else {}) | ({} if T_i is None else {"T_i": T_i}) | {"I": I, "c_hat": c_hat}
        return trace["L"], named | trace | {"state": state}

    return Model(init, apply, loss, fused)


def classification(network: Network) -> Model:
    """A Network of images to logits, trained with Eq. (11) alone: Table II's rows without band groups."""

    @nn.one_blas_thread()
    def apply(params, state, x, *, train, rng=None):
        return network.apply(params, state, bands.not_raw(x), train=train, rng=rng)

    def loss(params, state, batch, *, rng=None):
        x, y = batch
        c_hat, state = apply(params, state, x, train=True, rng=rng)
        L = equations.cross_entropy(c_hat, y)
        return L, {"c_hat": c_hat, "L_cls": L, "L": L, "state": state}

    return Model(network.init, apply, loss)


def loss_and_gradients(
    loss: Callable, params: dict, state: dict, batch: tuple | None, *, rng: Generator | None = None
) -> tuple[np.ndarray, dict, dict]:
    """-> (L, gradients in the shape of params, trace); the trace holds plain arrays.

    >>> quadratic = lambda params, state, batch: (np.sum(params["w"] ** 2), {"w": params["w"]})
    >>> L, gradients, trace = loss_and_gradients(quadratic, {"w": np.array([3.0])}, {}, None)
    >>> float(L), gradients["w"].tolist(), trace["w"].tolist()
    (9.0, [6.0], [3.0])
    """
    options = {} if rng is None else {"rng": rng}
    return nn.value_and_gradients(lambda p: loss(p, state, batch, **options), params)

"""Fig. 1 of the paper: encoders and equations put together into networks with a loss, every intermediate by name.

A model computes what equations.py states on features that encoders/ computes; it adds no mathematics. Two exact
savings are made here: each distinct prompt is encoded once and gathered (gradients add through the gather), and
only the classes in the batch are encoded. encoders/text.py adds a third, the tree of common beginnings.
"""

from typing import NamedTuple

import autograd.numpy as np
from autograd.tracer import getval

from bplcz_ref import bands, equations, nn, paper, variants
from bplcz_ref.encoders.text import pack


class Model(NamedTuple):
    """A Network with a loss.

    init(rng, dtype) -> (params, state)
    apply(params, state, x, *, train, rng=None) -> (c_hat, new_state): logits of the image side alone; no text.
    loss(params, state, batch, *, rng=None) -> (L, trace): batch = (x, y) of images (B, H, W, 18) and labels (B,);
        trace holds every intermediate under the paper's symbol, and "state", the new state.
    fused(params, state, x) -> I (B, n d), Eq. (9) in evaluation mode, as Fig. 3 shows it; None for a network that
        takes all bands at once and so fuses nothing.
    """

    init: object
    apply: object
    loss: object
    fused: object = None


def bplcz(
    encoders,
    classifier,
    *,
    text=None,
    tokens=None,
    alpha=paper.ALPHA,
    beta=paper.BETA,
    contrastive="paper",
    shared=(),
    vector=None,
):
    """Fig. 1: seven group encoders, a classifier on their concatenation, and text prompts in training.

    encoders     {group: Network (B, H, W, C_i) -> (B, d)} in the paper's order, E_m of Eq. (1)
    classifier   Network (B, n d) -> (B, K), D of II-D
    text         Network, Packed of (K, n) prompts -> (K, n, d), E_t of Eq. (2); None trains with Eq. (11) alone
                 (Table III's first row)
    tokens       (K, n, L) token ids of the prompt of every class and group
    contrastive  "paper", or another name in variants.VARIANTS ("identity" is Table III's "without MSM")
    shared       names of parameters that all encoders have in common, such as a position table: each encoder finds
                 them among its own, but they stand once, in params["shared"], and their gradients add
    vector       None: encoders return the vectors I_i and the classifier sees Eq. (9). Otherwise encoders return
                 tokens (B, N, w), vector is a Network (B, N, w) -> (B, d) that makes I_i of them for the
                 contrastive loss (weights of its own a group), and the classifier sees the tokens of all groups,
                 (B, n N, w), which is I in the trace: attention across groups is then possible, unlike in Eq. (9)

    >>> import numpy
    >>> from bplcz_ref.encoders import ebcnn
    >>> small = {group: ebcnn.encoder(len(i), width=1, features=3) for group, i in bands.INDEX.items()}
    >>> network = bplcz(small, nn.dense(7 * 3, 17))
    >>> params, state = network.init(numpy.random.default_rng(0), numpy.float64)
    >>> c_hat, _ = network.apply(params, state, numpy.zeros((2, 8, 8, 18)), train=False)
    >>> c_hat.shape
    (2, 17)
    >>> network.fused(params, state, numpy.zeros((2, 8, 8, 18))).shape
    (2, 21)
    """
    if (text is None) != (tokens is None):
        raise ValueError("text and tokens belong together: give both (band group prompting) or neither")
    if tokens is not None and np.shape(tokens)[1] != len(encoders):
        raise ValueError(f"tokens are (K, n, L) with n = {len(encoders)} groups, got shape {np.shape(tokens)}")
    trees = None if tokens is None else pack(tokens)
    names = list(encoders)
    if contrastive not in variants.VARIANTS:
        raise ValueError(f"contrastive is {contrastive!r}; expected one of {', '.join(variants.VARIANTS)}")
    variant = variants.VARIANTS[contrastive]

    def init(rng, dtype):
        streams = iter(rng.spawn(len(names) + 2))  # so that adding text leaves the image side's start unchanged
        params, state = {"branches": {}}, {"branches": {}}
        for name in names:
            own, state["branches"][name] = encoders[name].init(next(streams), dtype)
            if not set(shared) <= set(own):
                raise ValueError(f"shared is {shared}, but the encoder of {name} has only {', '.join(own)}")
            params["branches"][name] = {part: leaf for part, leaf in own.items() if part not in shared}
            if shared:  # they start as in the first encoder
                params.setdefault("shared", {part: own[part] for part in shared})
        params["classifier"], _ = classifier.init(next(streams), dtype)
        if text is not None:
            params["text"], _ = text.init(next(streams), dtype)
            if vector is not None:
                starts = zip(names, rng.spawn(len(names)), strict=True)
                params["vectors"] = {name: vector.init(start, dtype)[0] for name, start in starts}
            if variant.init(dtype):
                params["contrastive"] = variant.init(dtype)
        return params, state

    def encode(params, state, x, *, train, rng, classes=None):
        """-> {group: what its encoder returns}, new state, T (len(classes), n, d) or None; all side by side."""
        groups = bands.split(*bands.separate(x))
        streams = [None] * len(names) if rng is None else rng.spawn(len(names))

        def branch(name, stream):
            return lambda p: encoders[name].apply(
                {**p[0], **p[1]}, state["branches"][name], groups[name], train=train, rng=stream
            )

        functions = [branch(name, stream) for name, stream in zip(names, streams, strict=True)]
        parameters = [(params["branches"][name], params["shared"] if shared else {}) for name in names]
        if classes is not None:
            functions.append(lambda p: text.apply(p, {}, trees.of(classes), train=train))
            parameters.append(params["text"])
        features, states = nn.concurrently(functions, parameters)
        T = None if classes is None else features[-1]
        branches = dict(zip(names, states, strict=False))
        return dict(zip(names, features, strict=False)), {"branches": branches}, T

    def classify(params, features, train, rng):  # -> I, c_hat
        features = list(features.values())
        I = equations.concat(features) if vector is None else np.concatenate(features, axis=1)
        return I, classifier.apply(params["classifier"], {}, I, train=train, rng=rng)[0]

    def apply(params, state, x, *, train, rng=None):
        features, new_state, _ = encode(params, state, x, train=train, rng=rng)
        return classify(params, features, train, rng)[1], new_state

    def vectors(params, features, train):  # what encoders return -> {group: I_i}
        if vector is None:
            return features
        return {k: vector.apply(params["vectors"][k], {}, z, train=train)[0] for k, z in features.items()}

    def fused(params, state, x):
        if vector is not None and text is None:
            raise ValueError("there is no I_i to fuse: with `vector` they exist for the contrastive loss alone")
        features, _, _ = encode(params, state, x, train=False, rng=None)
        return equations.concat(list(vectors(params, features, False).values()))

    def loss(params, state, batch, *, rng=None):
        x, y = batch
        if text is None:
            features, new_state, _ = encode(params, state, x, train=True, rng=rng)
            trace = {"I_i": features} if vector is None else {}
        else:
            classes, place = np.unique(y, return_inverse=True)
            features, new_state, T = encode(params, state, x, train=True, rng=rng, classes=classes)
            I_i = vectors(params, features, True)
            T = np.reshape(T, (len(classes), -1))
            T = np.reshape(nn.embedding(T, place), (len(y), len(names), -1))  # equal labels share their texts
            trace = {"I_i": I_i, "T_i": {name: T[:, i] for i, name in enumerate(names)}}
            both = [equations.similarity(I_i[name], trace["T_i"][name]) for name in names]
            trace["S_i"], trace["S_hat_i"] = ({n: s[k] for n, s in zip(names, both, strict=True)} for k in (0, 1))
            trace["S"] = S = equations.fuse(list(trace["S_i"].values()), alpha)
            trace["S_hat"] = S_hat = equations.fuse(list(trace["S_hat_i"].values()), alpha)
            same = equations.supervised_matrix(y, getval(S).dtype)
            trace["W"] = np.eye(len(y), dtype=same.dtype) if contrastive == "identity" else same
            learnt = params.get("contrastive", {})
            trace |= variant.loss(learnt, S, S_hat, trace["W"], alpha * len(names))._asdict()
            trace |= mean_entries(getval(S), same)
        trace["I"], trace["c_hat"] = classify(params, features, True, rng)
        trace["L_cls"] = L = equations.cross_entropy(trace["c_hat"], y)
        if text is not None:
            L = equations.total_loss(trace["L_cls"], trace["L_con"], beta)
        return L, trace | {"L": L, "state": new_state}

    return Model(init, apply, loss, fused)


def classification(network):
    """A Network of images to logits, trained with Eq. (11) alone: Table II's rows without band groups."""

    def loss(params, state, batch, *, rng=None):
        x, y = batch
        c_hat, new_state = network.apply(params, state, x, train=True, rng=rng)
        L = equations.cross_entropy(c_hat, y)
        return L, {"c_hat": c_hat, "L_cls": L, "L": L, "state": new_state}

    return Model(network.init, network.apply, loss)


def mean_entries(S, W):
    """The mean of S where W is 1 and where it is 0; nan where there is no such entry.

    >>> means = mean_entries(np.array([[0.5, -0.5], [-0.7, 0.3]]), np.eye(2))
    >>> {name: round(float(mean), 6) for name, mean in means.items()}
    {'S_positive': 0.4, 'S_negative': -0.6}
    """
    positive = W == 1
    return {
        "S_positive": S[positive].mean() if positive.any() else np.nan,
        "S_negative": S[~positive].mean() if not positive.all() else np.nan,
    }


def loss_and_gradients(loss, params, state, batch, *, rng=None):
    """-> (L, gradients in the shape of params, trace); the trace holds plain arrays.

    >>> import numpy
    >>> quadratic = lambda params, state, batch: (np.sum(params["w"] ** 2), {"w": params["w"]})
    >>> L, gradients, trace = loss_and_gradients(quadratic, {"w": numpy.array([3.0])}, {}, None)
    >>> float(L), gradients["w"].tolist(), trace["w"].tolist()
    (9.0, [6.0], [3.0])
    """
    options = {} if rng is None else {"rng": rng}
    return nn.value_and_gradients(lambda p: loss(p, state, batch, **options), params)

"""Every intermediate of a tiny batch, by its symbol in the paper: `python -m bplcz_ref explain`.

The batch is made of small whole numbers over 4, so that each line can be followed with pencil and paper. The
features stand in for what encoders would give; everything after them is equations.py as it trains.
"""

import numpy as np

from bplcz_ref import equations, paper, prompts

LABELS = np.array([16, 0, 16])  # water, compact high-rise, water: samples 1 and 3 share a class
CLASSES = [0, 8, 16]  # the classes of the tiny classifier's three logits
FEATURES = 2


def trace():
    """[(equation, symbol, what it is, value)] in the order of the paper.

    >>> [symbol for equation, symbol, _, _ in trace() if equation == 6]
    ['L_con']
    """
    rng = np.random.default_rng(paper.SEED)
    names = list(paper.GROUPS)
    I_i = {name: rng.integers(-8, 9, (len(LABELS), FEATURES)) / 4 for name in names}
    texts = {name: rng.integers(-8, 9, (len(prompts.DESCRIPTIONS), FEATURES)) / 4 for name in names}
    T_i = {name: texts[name][LABELS] for name in names}
    both = {name: equations.similarity(I_i[name], T_i[name]) for name in names}
    S = equations.fuse([S_i for S_i, _ in both.values()], paper.ALPHA)
    S_hat = equations.fuse([S_hat_i for _, S_hat_i in both.values()], paper.ALPHA)
    W = equations.supervised_matrix(LABELS)
    L_i2t, L_t2i, L_con = equations.contrastive_loss(S, S_hat, W)
    I = equations.concat(list(I_i.values()))
    D = rng.integers(-4, 5, (I.shape[1], len(CLASSES))) / 16
    c_hat = I @ D
    c = np.searchsorted(CLASSES, LABELS)
    L_cls = equations.cross_entropy(c_hat, c)
    columns = [paper.CLASSES[k][0] for k in CLASSES]

    def each(equation, symbol, meaning, values):  # one entry a group
        return [(equation, f"{symbol}_{name}", f"{name} group: {meaning}", value) for name, value in values]

    return [
        *each(1, "I", "image features in place of E_m, a row per sample", I_i.items()),
        *each(2, "T", "text features; equal labels share a prompt", T_i.items()),
        *each(3, "S", "cosine similarity, images by texts", ((name, S_i) for name, (S_i, _) in both.items())),
        (3, "S", f"alpha = {paper.ALPHA} times the sum over {len(names)} groups", S),
        *each(4, "S_hat", "cosine similarity, texts by images", ((name, s) for name, (_, s) in both.items())),
        (4, "S_hat", f"alpha = {paper.ALPHA} times the sum over {len(names)} groups; the transpose of S", S_hat),
        (5, "W", f"1 where labels agree; labels {LABELS.tolist()}", W),
        (6, "L_con", "(L_i2t + L_t2i) / 2", L_con),
        (7, "sigma(S)", "probabilities of a pair being positive", 1 / (1 + np.exp(-S))),
        (7, "L_i2t", "BCE(sigma(S), W), the mean over the entries", L_i2t),
        (8, "sigma(S_hat)", "the same, texts by images", 1 / (1 + np.exp(-S_hat))),
        (8, "L_t2i", "BCE(sigma(S_hat), W); equal to L_i2t, as S_hat = S^T and W = W^T", L_t2i),
        (9, "I", "the groups' features side by side", I),
        (10, "L", f"L_cls + beta L_con, beta = {paper.BETA}", equations.total_loss(L_cls, L_con, paper.BETA)),
        (11, "D", f"weights of the linear D, a column for each of the classes {columns}; its bias is 0 here", D),
        (11, "c_hat", f"logits D(I) of classes {columns}", c_hat),
        (11, "L_cls", f"CE(c_hat, c), c = {c.tolist()}", L_cls),
    ]


def explain(equation=None):
    """The trace as text, of one equation or of all.

    >>> print(explain(5))
    Eq. (5)  W: 1 where labels agree; labels [16, 0, 16]
      1.0000   0.0000   1.0000
      0.0000   1.0000   0.0000
      1.0000   0.0000   1.0000
    """
    lines = []
    for number, symbol, meaning, value in trace():
        if equation in (None, number):
            lines.append(f"Eq. ({number})  {symbol}: {meaning}")
            lines += ["".join(f"{x:8.4f} " for x in row).rstrip() for row in np.atleast_2d(value)]
    return "\n".join(lines)

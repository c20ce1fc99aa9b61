"""Every intermediate of a tiny batch, by its symbol in the paper: `python -m bplcz_ref explain`.

The batch is made of small whole numbers over 4, so that each line can be followed with pencil and paper. The
features take the place of what encoders would give; everything after them is `equations.objective` as it trains.
"""

import numpy as np

from bplcz_ref import equations, paper, prompts

LABELS = np.array([16, 0, 16])  # water, compact high-rise, water: samples 1 and 3 share a class
CLASSES = [0, 8, 16]  # the classes of the tiny classifier's three logits
FEATURES = 2


def trace() -> list[tuple[int, str, str, np.ndarray]]:
    """[(equation, symbol, what it is, value)] in the order of the paper.

    >>> [symbol for equation, symbol, _, _ in trace() if equation == 6]
    ['L_con']
    """
    rng = np.random.default_rng(paper.SEED)
    groups = list(paper.GROUPS)
    I_i = {group: rng.integers(-8, 9, (len(LABELS), FEATURES)) / 4 for group in groups}
    texts = {group: rng.integers(-8, 9, (len(prompts.DESCRIPTIONS), FEATURES)) / 4 for group in groups}
    T_i = {group: texts[group][LABELS] for group in groups}
    I = equations.concat(list(I_i.values()))
    D = rng.integers(-4, 5, (I.shape[1], len(CLASSES))) / 16
    c = np.searchsorted(CLASSES, LABELS)  # the labels as columns of the tiny classifier: 2, 0, 2
    t = equations.objective(I_i, T_i, c, I @ D, paper.ALPHA, paper.BETA)
    columns = [paper.CLASSES[k][0] for k in CLASSES]

    def each(equation, symbol, meaning, values):  # one entry per group
        return [(equation, f"{symbol}_{group}", f"{group} group: {meaning}", x) for group, x in values.items()]

    def probabilities(S):
        return 1 / (1 + np.exp(-S))

    total = f"alpha = {paper.ALPHA} times the sum over {len(groups)} groups"
    return [
        *each(1, "I", "image features in place of E_m, one row per sample", I_i),
        *each(2, "T", "text features; equal labels share a prompt", T_i),
        *each(3, "S", "cosine similarity, images by texts", t["S_i"]),
        (3, "S", total, t["S"]),
        *each(4, "S_hat", "cosine similarity, texts by images", t["S_hat_i"]),
        (4, "S_hat", f"{total}; the transpose of S", t["S_hat"]),
        (5, "W", f"1 where labels agree; labels {LABELS.tolist()}", t["W"]),
        (6, "L_con", "(L_i2t + L_t2i) / 2", t["L_con"]),
        (7, "sigma(S)", "probabilities of a pair being positive", probabilities(t["S"])),
        (7, "L_i2t", "BCE(sigma(S), W), the mean over the entries", t["L_i2t"]),
        (8, "sigma(S_hat)", "the same, texts by images", probabilities(t["S_hat"])),
        (8, "L_t2i", "BCE(sigma(S_hat), W); equal to L_i2t, as S_hat = S^T and W = W^T", t["L_t2i"]),
        (9, "I", "the groups' features side by side", I),
        (10, "L", f"L_cls + beta L_con, beta = {paper.BETA}", t["L"]),
        (11, "D", f"weights of the linear D, a column for each of the classes {columns}; its bias is 0 here", D),
        (11, "c_hat", f"logits D(I) of classes {columns}", I @ D),
        (11, "L_cls", f"CE(c_hat, c), c = {c.tolist()}", t["L_cls"]),
    ]


def page(equation: int | None = None) -> str:
    """The trace as text, of one equation or of all.

    >>> print(page(5))
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

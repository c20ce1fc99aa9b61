"""What L_con wants: the least value that it can take, in closed form (docs/mathematics.md has the proofs)."""

import math
from typing import NamedTuple


class Floor(NamedTuple):
    L_con: float  # the least value
    a: float  # logit of a positive pair there
    b: float  # logit of a negative pair there
    collapsed: bool  # a = b = -alpha n: every image opposite to every text


def contrastive_floor(alpha_n, K, p):
    """The least value of Eq. (6) over all unit features (d >= K), for K classes of equal weight and mean(W) = p.

    Formula:  with R = alpha n, the attainable mean logits (a of positive, b of negative pairs) end at the segment
              a(t) = R (1 - 2t),  b(t) = -R (1 + t (K - 2)) / (K - 1),  0 <= t <= 1;
              L_con(t) = p log(1 + e^-a) + (1 - p) log(1 + e^b) is convex, least where
              2 p sigma(-a) = (1 - p) (K - 2)/(K - 1) sigma(b).
              Collapse, t = 1, is the best there is exactly when (1 - p) (K - 2)/(K - 1) >= 2 p e^R;
              at p = 1/K that is K >= 2 + 2 e^R, which is K >= 14 at the paper's R = 1.75.
    Errors:   ValueError unless R > 0, K >= 2 is an integer and 0 <= p <= 1.
    Source:   derived for this project; tests/test_equations.py descends on free unit vectors to the same values.

    >>> floor = contrastive_floor(1.75, K=17, p=1 / 17)
    >>> round(floor.L_con, 4), floor.a, floor.b, floor.collapsed
    (0.2632, -1.75, -1.75, True)
    """
    R = float(alpha_n)
    if not 0 < R < math.inf:
        raise ValueError(f"alpha_n: found {alpha_n}, expected alpha times n, a number above 0")
    if K != int(K) or K < 2:
        raise ValueError(f"K: found {K}, expected a whole number of classes, at least 2")
    if not 0 <= p <= 1:
        raise ValueError(f"p: found {p}, expected the fraction of ones in W, between 0 and 1")

    def logits(t):
        return R * (1 - 2 * t), -R * (1 + t * (K - 2)) / (K - 1)

    def slope(t):  # of L_con(t) / R; increasing, since L_con is convex
        a, b = logits(t)
        return 2 * p / (1 + math.exp(a)) - (1 - p) * (K - 2) / (K - 1) / (1 + math.exp(-b))

    low, high = 0.0, 1.0
    collapsed = slope(1.0) <= 0
    if collapsed or slope(0.0) >= 0:
        low = high = 1.0 if collapsed else 0.0
    while high - low > 1e-15:
        middle = (low + high) / 2
        if middle in (low, high):
            break
        low, high = (middle, high) if slope(middle) < 0 else (low, middle)
    a, b = logits((low + high) / 2)
    return Floor(p * _softplus(-a) + (1 - p) * _softplus(b), a, b, collapsed)


def _softplus(x):
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))

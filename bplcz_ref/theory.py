"""What L_con wants: the least value that it can take on unit features, in closed form.

docs/mathematics.md has the argument, tests/test_theory.py descends on free unit vectors to the same values.

Index letters: B samples, K classes. R = alpha n is the bound of |S|: 1.75 in the paper.
"""

import math
from typing import NamedTuple


class Floor(NamedTuple):
    """The least L_con, and the logits of all positive and of all negative pairs where it is taken."""

    L_con: float
    a: float  # logit of a positive pair
    b: float  # logit of a negative pair
    collapsed: bool  # a = b = -R: every image opposite to every text


def contrastive_floor(alpha_n: float, K: int, p: float) -> Floor:
    """The least value of Eq. (6) over all unit features (d >= K), for K classes of equal weight and mean(W) = p.

    Formula:  with R = alpha n, the attainable mean logits (a of positive, b of negative pairs) end at the segment
              a(t) = R (1 - 2t),  b(t) = -R (1 + t (K - 2)) / (K - 1),  0 <= t <= 1;
              L_con(t) = p log(1 + e^-a) + (1 - p) log(1 + e^b) is convex, least where
              2 p sigma(-a) = (1 - p) (K - 2)/(K - 1) sigma(b).
              Collapse, t = 1, is the best there is exactly when (1 - p) (K - 2)/(K - 1) >= 2 p e^R;
              at p = 1/K that is K >= 2 + 2 e^R, which is K >= 14 at the paper's R = 1.75.
    Errors:   ValueError unless R > 0, K >= 2 is a whole number and 0 <= p <= 1.
    Source:   derived for this project.

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

    collapsed = slope(1.0) <= 0
    if collapsed or slope(0.0) >= 0:  # the least value is at an end of the segment
        low = high = 1.0 if collapsed else 0.0
    else:  # bisection, down to neighbouring numbers
        low, high = 0.0, 1.0
        while high - low > 1e-15 and (middle := (low + high) / 2) not in (low, high):
            low, high = (middle, high) if slope(middle) < 0 else (low, middle)
    a, b = logits((low + high) / 2)
    return Floor(p * softplus(-a) + (1 - p) * softplus(b), a, b, collapsed)


def softplus(x: float) -> float:
    """log(1 + e^x), which never overflows.

    >>> softplus(0.0) == math.log(2), softplus(1e4)
    (True, 10000.0)
    """
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))

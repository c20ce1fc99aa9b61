"""III-B, the figures of merit: confusion matrix, overall accuracy (OA), average accuracy, Cohen's kappa.

All are fractions (the paper's tables print percent). Sums are taken in integers, so every figure is the
correctly rounded quotient of two whole numbers, or a mean of such quotients. Labels are class numbers 0..K-1; a
confusion matrix is square and holds counts; anything else raises ValueError (checks.py).

Index letters: N samples, K classes. C[j, k] counts the samples of class j that were predicted as k.
"""

import numpy as np

from bplcz_ref.checks import takes

counted = takes(C="counts K K")


@takes(K="size", y="labels N < K", y_hat="labels N < K")
def confusion_matrix(y: np.ndarray, y_hat: np.ndarray, K: int = 17) -> np.ndarray:  # (N,), (N,) -> (K, K)
    """C[j, k] = number of samples with truth y = j and prediction y_hat = k: rows truth, columns predicted.

    (Other reading: the transpose, as in some remote sensing tables; it changes average accuracy alone.)
    dtype: int64 for labels of any integer type.

    >>> confusion_matrix([0, 0, 1, 2], [0, 1, 1, 1], K=3).tolist()
    [[1, 1, 0], [0, 1, 0], [0, 1, 0]]
    """
    flat = y.astype(np.int64) * K + y_hat.astype(np.int64)  # 16 * 17 + 16 does not fit uint8
    return np.bincount(flat, minlength=K * K).reshape(K, K)


@counted
def overall_accuracy(C: np.ndarray) -> float:  # (K, K)
    """OA = sum_k C[k, k] / N: the fraction of samples with a correct prediction.

    >>> overall_accuracy([[3, 1], [2, 4]])
    0.7
    """
    return int(np.trace(C)) / int(C.sum())


@counted
def recalls(C: np.ndarray) -> np.ndarray:  # (K, K) -> (K,)
    """C[k, k] / sum_j C[k, j], the fraction of each class that was found; NaN where a class has no sample.

    >>> recalls([[3, 1], [0, 0]]).tolist()
    [0.75, nan]
    """
    return _quotients(np.diag(C), C.sum(axis=1))


@counted
def precisions(C: np.ndarray) -> np.ndarray:  # (K, K) -> (K,)
    """C[k, k] / sum_j C[j, k], the fraction of predictions of each class that are right; NaN where there is none.

    >>> precisions([[3, 1], [2, 4]]).tolist(), precisions([[3, 0], [1, 0]]).tolist()
    ([0.6, 0.8], [0.75, nan])
    """
    return recalls(C.T)


@counted
def f1(C: np.ndarray) -> np.ndarray:  # (K, K) -> (K,)
    """2 C[k, k] / (row sum k + column sum k), the harmonic mean of precision and recall.

    NaN where a class is neither in the truth nor predicted; 0 where it is never predicted.

    >>> f1([[3, 1], [2, 4]]).round(4).tolist(), f1([[3, 0], [1, 0]]).round(4).tolist()
    ([0.6667, 0.7273], [0.8571, 0.0])
    """
    return _quotients(2 * np.diag(C), C.sum(axis=0) + C.sum(axis=1))


@counted
def macro_f1(C: np.ndarray) -> float:  # (K, K)
    """The mean of `f1` over the classes that have a sample in the truth.

    (Other reading: over all K, or over those that are predicted too, as scikit-learn does.)

    >>> round(macro_f1([[3, 1], [2, 4]]), 4)
    0.697
    """
    return float(np.mean(f1(C)[C.sum(axis=1) > 0]))


@counted
def kappa_interval(C: np.ndarray, *, share: float = 0.95, draws: int = 2000, seed: int = 47) -> tuple:  # (K, K)
    """A bootstrap interval of kappa over rows: the middle `share` of kappa over `draws` samples of the N rows.

    N rows drawn with replacement from N give counts that are multinomial with the shares C / N, so C is enough.
    It says how far the draw of the test rows moves kappa: not another training, and not another city, since rows
    of one city resemble each other. (NaN, NaN) where kappa is undefined.
    Source: B. Efron, The Annals of Statistics 7(1), 1979; percentiles.

    >>> low, high = kappa_interval([[30, 10], [20, 40]])
    >>> round(low, 2), round(kappa([[30, 10], [20, 40]]), 2), round(high, 2)
    (0.21, 0.4, 0.56)
    """
    N = int(C.sum())
    drawn = np.random.default_rng(seed).multinomial(N, C.ravel() / N, draws).reshape(draws, *C.shape)
    agree = np.trace(drawn, axis1=1, axis2=2) / N
    chance = np.sum(drawn.sum(axis=1) * drawn.sum(axis=2), axis=1) / N**2
    defined = chance < 1
    if np.isnan(kappa(C)) or not defined.any():
        return float("nan"), float("nan")
    found = (agree - chance)[defined] / (1 - chance)[defined]
    return tuple(np.quantile(found, [(1 - share) / 2, (1 + share) / 2]).tolist())


@counted
def average_accuracy(C: np.ndarray) -> float:  # (K, K)
    """The mean of `recalls` over the classes that have a sample in the truth.

    (Other reading: over all K, with 0 for an absent class; the draw of the test set would then count.)

    >>> average_accuracy([[3, 1], [2, 4]])                       # (3/4 + 4/6) / 2
    0.7083333333333333
    """
    return float(np.nanmean(recalls(C)))


@counted
def kappa(C: np.ndarray) -> float:  # (K, K)
    """kappa = (OA - pe) / (1 - pe), pe = sum_k (row sum k)(column sum k) / N^2: Cohen's kappa, unweighted.

    NaN if truth and prediction are all one and the same class: pe = 1 and kappa is 0/0. (Other readings: 1 for
    full agreement, or 0 for none beyond chance; the data can show neither.)
    Source: J. Cohen, Educational and Psychological Measurement 20(1), 1960.

    >>> round(kappa([[3, 1], [2, 4]]), 12)                       # OA .7, pe = (4*5 + 6*5)/100 = .5
    0.4
    """
    N, agree = int(C.sum()), int(np.trace(C))
    chance = sum(int(row) * int(column) for row, column in zip(C.sum(1), C.sum(0), strict=True))
    return (N * agree - chance) / (N * N - chance) if chance != N * N else float("nan")


@counted
def summary(C: np.ndarray) -> dict:  # (K, K)
    """The numbers of a result: samples, overall_accuracy, average_accuracy, macro_f1, kappa, as fractions.

    A kappa of 0/0 is None here, since the result is stored as JSON, which has no NaN.

    >>> found = summary([[3, 1], [2, 4]])
    >>> {name: round(value, 4) for name, value in found.items()}
    {'samples': 10, 'overall_accuracy': 0.7, 'average_accuracy': 0.7083, 'macro_f1': 0.697, 'kappa': 0.4}
    """
    figures = (overall_accuracy, average_accuracy, macro_f1, kappa)
    return {"samples": int(C.sum())} | {figure.__name__: _json(figure(C)) for figure in figures}


@counted
def by_class(C: np.ndarray) -> list[dict]:  # (K, K)
    """precision, recall, f1 and support of each class, None where a quotient is 0/0.

    >>> by_class([[3, 0], [1, 0]])[1]
    {'precision': None, 'recall': 0.0, 'f1': 0.0, 'support': 1}
    """
    columns = {"precision": precisions(C), "recall": recalls(C), "f1": f1(C)}
    supports = enumerate(C.sum(axis=1).tolist())
    return [{name: _json(x[k]) for name, x in columns.items()} | {"support": n} for k, n in supports]


def _quotients(a, b):  # (K,), (K,) -> (K,)
    """a / b, NaN where b is 0."""
    return np.divide(a, b, out=np.full(len(b), np.nan), where=b > 0)


def _json(x):
    return None if np.isnan(x) else float(x)

"""Layers as pure functions, by their textbook definitions. No parameters are kept, nothing is mutated.

Each function body is the reference definition. A call of a function below `@runs(kernel)` runs that fast kernel
instead, which computes the same values and gradients; tests/test_kernels_*.py compare the two, and the definition
stays callable as `conv2d.definition(...)`. A reader who never opens kernels/ misses nothing but speed.

"Backward" gives the gradient of a loss with respect to each argument from g = dL/dy.

Index letters: B batch, H W rows and columns, C channels, O output channels, L tokens, Q queries, d features.
Images are channels-last; weights keep PyTorch's layout (convolution O, I/groups, kh, kw; linear out, in).
The dtype of the result is the dtype of the arguments.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import autograd.numpy as np
import numpy as onp
from autograd import make_vjp
from autograd.extend import defvjp, primitive
from autograd.tracer import getval
from numpy.random import Generator
from numpy.typing import DTypeLike
from scipy import special

from bplcz_ref.kernels import activation, convolution, norm, pooling, products, tape, threads, transformer

# autograd.scipy has an erf too, but importing it takes all of scipy.stats, most of a second.
erf = primitive(special.erf)
defvjp(erf, lambda y, x: lambda g: g * (2 * np.pi**-0.5) * np.exp(-x * x))

# A context, and a decorator: after one product with more BLAS threads, these spin on the cores that the kernels'
# own threads need, and on a busy machine they cost a multiple.
one_blas_thread = threads.one_blas_thread
keep_memory = threads.keep_memory
thread_count = threads.thread_count  # of the cores that this process may use


def runs(kernel: Callable | None = None) -> Callable[[Callable], Any]:
    """Make a call run `kernel` (None: the definition); the decorated body stays available as `.definition`."""

    def decorate(definition):
        fast = kernel or definition

        @functools.wraps(definition)
        def layer(*args, **options):
            return fast(*args, **options)

        layer.definition = definition  # type: ignore[attr-defined]
        return layer

    return decorate


# ---------------------------------------------------------------------------------------------- linear maps


@runs(products.linear)
def linear(x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None = None) -> np.ndarray:
    # (..., C), (O, C), (O,) -> (..., O)
    """y = x W^T + b over the last axis.

    Backward: dx = g W,  dW = g^T x,  db = sum g, with all leading axes taken as one axis of rows.

    >>> linear(np.array([[1.0, 2.0]]), np.array([[3.0, 4.0], [5.0, 6.0]]), np.array([0.5, 0.0])).tolist()
    [[11.5, 17.0]]
    """
    y = np.matmul(x, weight.T)
    return y if bias is None else y + bias


@runs(convolution.conv2d)
def conv2d(
    x: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray | None = None,
    *,
    stride: int = 1,
    padding: int = 0,
    groups: int = 1,
) -> np.ndarray:  # (B, H, W, C), (O, C/groups, kh, kw), (O,) -> (B, H', W', O)
    """Cross-correlation, as deep learning means "convolution": the kernel is not flipped.

    y[b, i, j, o] = bias[o] + sum_{u, v, c} x_pad[b, i*stride + u, j*stride + v, c] * weight[o, c, u, v]

    with zeros for padding, on both sides; c runs over the channels of o's group.
    H' = floor((H + 2 padding - kh) / stride) + 1.
    Backward: dx_pad[b, i*stride + u, j*stride + v, c] += sum_o g[b, i, j, o] * weight[o, c, u, v];
    dweight[o, c, u, v] = sum_{b, i, j} g[b, i, j, o] * x_pad[b, i*stride + u, j*stride + v, c];
    dbias[o] = sum_{b, i, j} g[b, i, j, o]. At stride 1, dx is g correlated with the kernel turned by 180 degrees.

    >>> x = np.arange(9.0).reshape(1, 3, 3, 1)
    >>> conv2d(x, np.array([[[[1.0, 0.0], [0.0, -1.0]]]])).ravel().tolist()
    [-4.0, -4.0, -4.0, -4.0]
    """
    each, width, taps = len(weight) // groups, weight.shape[1], weight.shape[2:]
    x = np.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)), "constant")
    y = []
    for g in range(groups):
        x_g, w_g = x[..., g * width : (g + 1) * width], weight[g * each : (g + 1) * each]
        y.append(
            sum(np.matmul(_under_tap(x_g, u, v, taps, stride), w_g[:, :, u, v].T) for u, v in onp.ndindex(taps))
        )
    y = np.concatenate(y, axis=-1)
    return y if bias is None else y + bias


def _under_tap(x, u, v, size, stride):  # (B, H, W, C) -> (B, H', W', C)
    """The pixels that tap (u, v) of a window of this size meets, one for each place of the window."""
    rows, columns = ((n - k) // stride * stride + 1 for n, k in zip(x.shape[1:3], size, strict=True))
    return x[:, u : u + rows : stride, v : v + columns : stride]


@runs()
def embedding(table: np.ndarray, ids: np.ndarray) -> np.ndarray:  # (V, d), integers (...) -> (..., d)
    """y[...] = table[ids[...]], the rows `ids` of a table.

    Backward: dtable[r] = sum of g over the places where ids = r; equal ids share a row, so their gradients add.

    >>> embedding(np.array([[0.0, 1.0], [2.0, 3.0]]), [1, 1, 0]).tolist()
    [[2.0, 3.0], [2.0, 3.0], [0.0, 1.0]]
    """
    ids = onp.asarray(ids)
    if ids.dtype.kind not in "iu":
        raise ValueError(f"embedding needs integer ids, got {ids.dtype}")
    if ids.size and not 0 <= ids.min() <= ids.max() < len(table):  # NumPy would count negative ones from the end
        raise ValueError(f"embedding needs ids in 0..{len(table) - 1}, got {ids.min()}..{ids.max()}")
    return table[ids]


# -------------------------------------------------------------------------------------------- normalisation


@runs(norm.batch_norm)
def batch_norm(
    x: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray,
    state: dict,
    *,
    train: bool,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> tuple[np.ndarray, dict]:  # (..., C), (C,), (C,) -> (..., C), new state
    """y = z * weight + bias, z = (x - mean) / sqrt(var + eps) per channel.

    Training: mean and var of this batch, var divided by N (biased); the running values move by
    running <- (1 - momentum) * running + momentum * batch, where the batch's var is divided by N - 1
    (PyTorch's rule; momentum 0.1 is the share of the new batch). Evaluation: the running values, unchanged.
    `state` holds running_mean, running_var and num_batches_tracked and carries no gradient. In training, N = 1 is
    an error: a variance needs two values.
    Backward:  dbias = sum g,  dweight = sum g z,  and in training
    dx = weight / sqrt(var + eps) * (g - mean(g) - z mean(g z)): the statistics move with x. In evaluation,
    dx = weight / sqrt(var + eps) * g.

    >>> state = {"running_mean": np.zeros(1), "running_var": np.ones(1), "num_batches_tracked": np.array(0)}
    >>> y, state = batch_norm(np.array([[0.0], [2.0]]), np.ones(1), np.zeros(1), state, train=True, eps=0.0)
    >>> y.ravel().tolist(), state["running_mean"].tolist(), state["running_var"].tolist()
    ([-1.0, 1.0], [0.1], [1.1])
    """
    if train:
        axes = tuple(range(x.ndim - 1))
        N = x.size // x.shape[-1]
        if N < 2:
            raise ValueError(
                f"batch_norm in training needs 2 or more values per channel, found {N} (x is {x.shape})"
            )
        mean = np.mean(x, axis=axes)
        var = np.mean((x - mean) ** 2, axis=axes)
        state = {
            "running_mean": (1 - momentum) * state["running_mean"] + momentum * getval(mean),
            "running_var": (1 - momentum) * state["running_var"] + momentum * getval(var) * (N / (N - 1)),
            "num_batches_tracked": state["num_batches_tracked"] + 1,
        }
    else:
        mean, var = state["running_mean"], state["running_var"]
    return (x - mean) / np.sqrt(var + eps) * weight + bias, state


@runs(norm.layer_norm)
def layer_norm(x: np.ndarray, weight: np.ndarray, bias: np.ndarray, eps: float = 1e-5) -> np.ndarray:
    # (..., d), (d,), (d,) -> (..., d)
    """y = z * weight + bias, z = (x - mean) / sqrt(var + eps) over the last axis; var divided by d.

    Backward, with q = g weight:  dx = (q - mean(q) - z mean(q z)) / sqrt(var + eps), means over the last axis;
    dweight = sum g z,  dbias = sum g, sums over all other axes.

    >>> layer_norm(np.array([1.0, 3.0]), np.ones(2), np.zeros(2), eps=0.0).tolist()
    [-1.0, 1.0]
    """
    mean = np.mean(x, axis=-1, keepdims=True)
    var = np.mean((x - mean) ** 2, axis=-1, keepdims=True)
    return (x - mean) / np.sqrt(var + eps) * weight + bias


# ---------------------------------------------------------------------------------------------- activations


@runs(activation.relu)
def relu(x: np.ndarray) -> np.ndarray:
    """max(x, 0). Backward: dx = g where x > 0, else 0; the slope at 0 is 0.

    >>> relu(np.array([-1.0, 0.0, 2.0])).tolist()
    [0.0, 0.0, 2.0]
    """
    return np.where(x <= 0, 0, x)  # x <= 0, so that nan stays nan


@runs(activation.gelu)
def gelu(x: np.ndarray) -> np.ndarray:
    """x Phi(x), Phi the normal distribution function: exact, by erf, not the tanh approximation.

    Backward: dx = g (Phi(x) + x phi(x)), phi(x) = e^(-x^2 / 2) / sqrt(2 pi).

    >>> float(gelu(np.array(1.0)).round(6))
    0.841345
    """
    return x * 0.5 * (1 + erf(x * 2**-0.5))


@runs(activation.quick_gelu)
def quick_gelu(x: np.ndarray) -> np.ndarray:
    """x s, s = sigma(1.702 x): CLIP's activation. Backward: dx = g (s + 1.702 x s (1 - s)).

    >>> float(quick_gelu(np.array(1.0)).round(6))
    0.845796
    """
    return x * 0.5 * (1 + np.tanh(0.851 * x))  # sigma(z) = (1 + tanh(z/2)) / 2: no overflow at either end


@runs()
def softmax(x: np.ndarray) -> np.ndarray:  # (..., d) -> (..., d)
    """y = exp(x) / sum exp(x) over the last axis, shifted by the largest entry so that nothing overflows.

    Backward: dx = y (g - sum(g y)).

    >>> softmax(np.array([0.0, np.log(3.0)])).round(6).tolist()
    [0.25, 0.75]
    """
    e = np.exp(x - np.max(getval(x), axis=-1, keepdims=True))  # the shift cancels, so it needs no gradient
    return e / np.sum(e, axis=-1, keepdims=True)


# -------------------------------------------------------------------------------------------------- pooling


@runs(pooling.max_pool2d)
def max_pool2d(x: np.ndarray, size: int, stride: int | None = None, padding: int = 0) -> np.ndarray:
    # (B, H, W, C) -> (B, H', W', C)
    """The largest value of each size x size window; padding counts as -infinity; stride defaults to size.

    Backward: g goes to the place of the maximum; among equal values to the first in row order (PyTorch's rule).

    >>> max_pool2d(np.arange(16.0).reshape(1, 4, 4, 1), 2).ravel().tolist()
    [5.0, 7.0, 13.0, 15.0]
    """
    windows = _windows(x, size, stride or size, padding, -np.inf)
    first = np.argmax(getval(windows), axis=0)
    return sum(np.where(first == k, windows[k], 0) for k in range(size * size))


@runs(pooling.avg_pool2d)
def avg_pool2d(x: np.ndarray, size: int, stride: int | None = None) -> np.ndarray:
    # (B, H, W, C) -> (B, H', W', C)
    """The mean of each size x size window; stride defaults to size; rows and columns left over are dropped.

    Backward: each pixel of a window gets g / size^2.

    >>> avg_pool2d(np.arange(16.0).reshape(1, 4, 4, 1), 2).ravel().tolist()
    [2.5, 4.5, 10.5, 12.5]
    """
    return np.mean(_windows(x, size, stride or size, 0, 0.0), axis=0)


@runs(pooling.spatial_mean)
def spatial_mean(x: np.ndarray) -> np.ndarray:  # (B, H, W, C) -> (B, C)
    """The mean over rows and columns: global average pooling. Backward: each pixel gets g / (H W).

    >>> spatial_mean(np.arange(8.0).reshape(1, 2, 2, 2)).tolist()
    [[3.0, 4.0]]
    """
    return np.mean(x, axis=(1, 2))


def _windows(x, size, stride, padding, fill):  # (B, H, W, C) -> (size*size, B, H', W', C)
    x = np.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)), "constant", constant_values=fill)
    return np.stack([_under_tap(x, u, v, (size, size), stride) for u, v in onp.ndindex(size, size)])


# ------------------------------------------------------------------------------------------------ attention


@runs(transformer.attention)
def attention(
    q: np.ndarray, k: np.ndarray, v: np.ndarray, *, causal: bool = False, mask: np.ndarray | None = None
) -> np.ndarray:  # (..., Q, d), (..., L, d), (..., L, e) -> (..., Q, e)
    """y = P v, P = softmax(q k^T / sqrt(d)): scaled dot-product attention; the softmax runs over the keys.

    `causal`: query i sees keys 0..i only (Q = L). `mask`: boolean, fits (..., Q, L); a query sees the keys where
    it is True, at least one. There is no dropout on the weights.
    Backward: dv = P^T g;  with dP = g v^T,  dS = P (dP - rowsum(P dP)):  dq = dS k / sqrt(d),
    dk = dS^T q / sqrt(d).

    >>> one = np.ones((1, 2, 1))
    >>> attention(one, one, np.array([[[1.0], [3.0]]]), causal=True).ravel().tolist()
    [1.0, 2.0]
    """
    scores = np.matmul(q, np.swapaxes(k, -1, -2)) * q.shape[-1] ** -0.5
    if causal:
        hidden = np.triu(np.ones(scores.shape[-2:], bool), 1)
        scores = np.where(hidden, -np.inf, scores)
    if mask is not None:
        scores = np.where(mask, scores, -np.inf)
    return np.matmul(softmax(scores), v)


# ------------------------------------------------------------------------------------- independent branches


@runs(tape.concurrently)
def concurrently(functions: Sequence[Callable], parameters: Sequence[Any]) -> tuple[list, list]:
    # n functions, n trees -> n arrays, n aux
    """f_i(parameters_i) for every i: branches that share nothing, on as many cores as there are.

    f_i returns an array, or (array, aux); aux comes back as plain arrays and carries no gradient (None if f_i
    returned an array alone). parameters_i is a tree: dicts, lists and tuples of arrays, some of which may be
    traced by autograd. A gradient reaches what is in parameters_i, nothing else: a traced value that f_i
    uses from elsewhere is an error, not a zero.

    Each branch runs in a thread, forward and backward, on a tape of its own. BPLCZ_THREADS in the environment
    sets the number of threads; the results are the same bits for any number.

    >>> double = lambda p: (2 * p["a"], {"seen": p["a"]})
    >>> [y], [aux] = concurrently([double], [{"a": np.ones(2)}])
    >>> y.tolist(), aux["seen"].tolist()
    ([2.0, 2.0], [1.0, 1.0])
    """
    results = [f(p) for f, p in zip(functions, parameters, strict=True)]
    pairs = [r if isinstance(r, tuple) else (r, None) for r in results]
    return [y for y, _ in pairs], [tape.unboxed(aux) for _, aux in pairs]


@runs(tape.value_and_gradients)
def value_and_gradients(function: Callable, params: Any) -> tuple[Any, Any, Any]:
    """function(params) -> y or (y, aux), y one number: (y, dy/dparams in the shape of params, aux).

    aux comes back as plain arrays, or None if there was none. autograd's own value_and_grad would trace `params`
    as one dict, and every look-up in a traced dict costs zeros of the dict's size.

    >>> y, gradients, aux = value_and_gradients(lambda p: (np.sum(p["w"] ** 2), p["w"]), {"w": np.array([3.0])})
    >>> float(y), gradients["w"].tolist(), aux.tolist()
    (9.0, [6.0], [3.0])
    """
    kept = {}

    def scalar(p):
        result = function(p)
        y, kept["aux"] = result if isinstance(result, tuple) else (result, None)
        return y

    vjp, y = make_vjp(scalar)(params)
    return y, vjp(np.ones_like(y)), tape.unboxed(kept["aux"])


# -------------------------------------------------------------------------------------------------- dropout


@runs()
def dropout(x: np.ndarray, rate: float, *, train: bool, rng: Generator | None = None) -> np.ndarray:
    """Training: each value is 0 with probability `rate`, otherwise divided by 1 - rate. Evaluation: x.

    >>> dropout(np.ones(4), 0.5, train=True, rng=np.random.default_rng(0)).tolist()
    [2.0, 2.0, 2.0, 0.0]
    """
    return x if not train or rate == 0 else x * dropout_factors(rng, x.shape, rate, x.dtype)


@runs()
def dropout_factors(rng: Generator | None, shape: tuple, rate: float, dtype: DTypeLike) -> np.ndarray:
    """What dropout in training multiplies by: 0 with probability `rate`, otherwise 1 / (1 - rate)."""
    if rng is None:
        raise ValueError("dropout in training needs rng, a numpy.random.Generator")
    keep = (rng.random(shape, dtype=np.float32) >= rate).astype(dtype)
    keep *= 1 / (1 - rate)
    return keep

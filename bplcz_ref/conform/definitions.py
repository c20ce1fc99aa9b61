"""Every operation of the kit as a formula that runs on Decimals and on floats alike (exact.py).

An operation is called as `DEFINITIONS[op](f, **inputs)` and returns {output name: array}. `f` is a table like
DEFINITIONS itself: what is made of other operations asks f for them, so that replacing one entry of f replaces it
wherever it is used. These are the yardstick of the kit's encoder cases and the second opinion on its equations,
whose yardstick is loops.py. Nothing here is fast, and nothing in the package but the kit uses it.

Index letters: B images, P prompts, N sequences, L tokens, d features, n groups, H W rows and columns, C channels.
"""

import numpy

from bplcz_ref.conform import exact as xp

EPS_NORM, EPS_VARIANCE = "1e-12", "1e-5"


def like(x, number):
    """A coefficient: text for Decimals, a Python float for floats."""
    return xp.decimal_of(number) if isinstance(x, xp.Exact) else float(number)


def classes(y):
    return [int(k) for k in numpy.asarray(y).ravel()]


# ---------------------------------------------------------------- Eqs. (3)-(11)


def normalise(x):
    """II-B2: x / max(||x||, 1e-12), row by row."""
    square = xp.sum(x * x, axis=-1, keepdims=True)
    above = xp.mask(xp.value(square) > like(x, EPS_NORM) ** 2, x)
    norm = xp.sqrt(square * above + (1 - above))
    return x / (norm * above + (1 - above) * like(x, EPS_NORM))


def similarity(f, I_i, T_i):
    u, v = normalise(I_i), normalise(T_i)
    return {"S_i": u @ v.T, "S_hat_i": v @ u.T}


def fuse(f, S_groups, alpha):
    return {"S": xp.sum(S_groups, axis=0) * like(S_groups, alpha)}


def supervised_matrix(f, y):
    y = numpy.asarray(y)
    return {"W": (y[:, None] == y[None, :]).astype(int)}


def bce(f, S, W):
    terms = xp.softplus((1 - 2 * xp.mask(W, S)) * S)
    return {"L": xp.mean(terms)}


def contrastive_loss(f, S, W):
    L_i2t, L_t2i = f["bce"](f, S=S, W=W)["L"], f["bce"](f, S=S.T, W=W)["L"]
    return {"L_i2t": L_i2t, "L_t2i": L_t2i, "L_con": (L_i2t + L_t2i) / 2}


def concat(f, I_groups):
    return {"I": xp.concat([I_groups[i] for i in range(I_groups.shape[0])], 1)}


def log_softmax(x):
    z = x - xp.value(x).max(axis=-1, keepdims=True)
    return z - xp.log(xp.sum(xp.exp(z), axis=-1, keepdims=True))


def pick(x, c):
    """x[j, c_j], each row's entry."""
    return x[numpy.arange(len(c)), numpy.array(c)]


def cross_entropy(f, c_hat, c):
    return {"L_cls": -xp.mean(pick(log_softmax(c_hat), classes(c)))}


def total_loss(f, L_cls, L_con, beta):
    return {"L": L_cls + L_con * like(L_con, beta)}


def sgd_step(w, v, g, lr, momentum, weight_decay):
    """III-A, PyTorch's rule; v is None at the first step."""
    g = g + w * weight_decay
    v = g if v is None else v * momentum + g
    return w - v * lr, v


def sgd(f, w, gradients, lr, momentum, weight_decay):
    """Parameters and velocity after each of len(lr) steps."""
    w_all, v_all, v = [], [], None
    for t, rate in enumerate(numpy.asarray(lr).tolist()):
        w, v = f["sgd_step"](w, v, gradients[t], like(w, rate), like(w, momentum), like(w, weight_decay))
        w_all.append(w)
        v_all.append(v)
    return {"w": xp.stack(w_all), "v": xp.stack(v_all)}


# ---------------------------------------------------------------- layers


def linear(f, x, weight, bias):
    return {"y": x @ weight.T + bias}


def windows(x, kh, kw, stride, before, after):
    """{(u, v): pixels under tap (u, v)}, and H', W'; zeros `before` the first and `after` the last row, column."""
    x = xp.pad(x, ((0, 0), (before, after), (before, after), (0, 0)))
    rows, columns = (x.shape[1] - kh) // stride + 1, (x.shape[2] - kw) // stride + 1
    at = lambda u, n: slice(u, u + stride * (n - 1) + 1, stride)
    return {(u, v): x[:, at(u, rows), at(v, columns)] for u in range(kh) for v in range(kw)}


def conv2d(f, x, weight, stride=1, padding=1):
    """Cross-correlation, channels last, weight (O, C, kh, kw), zeros on both sides."""
    total = None
    for (u, v), pixels in windows(x, *weight.shape[2:], int(stride), int(padding), int(padding)).items():
        part = pixels @ weight[:, :, u, v].T
        total = part if total is None else total + part
    return {"y": total}


def batch_norm(f, x, weight, bias, running_mean, running_var, train=1):
    """Normalised by the biased variance; the running one takes a tenth of the unbiased."""
    n = x.size // x.shape[-1]
    new_mean, new_var = running_mean, running_var
    mean, var = running_mean, running_var
    if int(train):
        axes = tuple(range(x.ndim - 1))
        mean = xp.mean(x, axes)
        var = xp.mean((x - mean) * (x - mean), axes)
        share, rest = like(x, "0.1"), like(x, "0.9")
        new_mean = running_mean * rest + mean * share
        new_var = running_var * rest + var * n / (n - 1) * share
    y = (x - mean) / xp.sqrt(var + like(x, EPS_VARIANCE)) * weight + bias
    return {"y": y, "new_running_mean": new_mean, "new_running_var": new_var}


def layer_norm(f, x, weight, bias):
    centred = x - xp.mean(x, -1, keepdims=True)
    var = xp.mean(centred * centred, -1, keepdims=True)
    return {"y": centred / xp.sqrt(var + like(x, EPS_VARIANCE)) * weight + bias}


def relu(f, x):
    return {"y": x * xp.mask(xp.value(x) > 0, x)}


def max_pool2d(f, x):
    """2 x 2, stride 2."""
    taps = list(windows(x, 2, 2, 2, 0, 0).values())
    first = numpy.argmax(numpy.stack([xp.value(t) for t in taps]), axis=0)
    total = taps[0] * xp.mask(first == 0, x)
    for k in range(1, 4):
        total = total + taps[k] * xp.mask(first == k, x)
    return {"y": total}


def gelu(f, x):
    return {"y": x * (1 + xp.erf(x / xp.root(2, x))) / 2}


def quick_gelu(f, x):
    return {"y": x * xp.sigmoid(x * like(x, "1.702"))}


def split_heads(x, heads):  # (N, L, W) -> (N, heads, L, W / heads)
    N, L, W = x.shape
    return xp.transpose(xp.reshape(x, (N, L, heads, W // heads)), (0, 2, 1, 3))


def join_heads(x):  # (N, heads, L, W / heads) -> (N, L, W)
    N, heads, L, each = x.shape
    return xp.reshape(xp.transpose(x, (0, 2, 1, 3)), (N, L, heads * each))


def attention(
    f,
    x,
    in_proj_weight,
    in_proj_bias,
    out_weight,
    out_bias,
    heads,
    divide=True,
    reach=0,
    split=split_heads,
    order="qkv",
    causal=True,
):
    """CLIP's self-attention: token l sees tokens 0..l; in_proj holds queries, keys, values; W / heads each head.

    The options are for wrong readings; the right one takes their defaults.
    """
    W, L = x.shape[-1], x.shape[-2]
    parts = {}
    for i, name in enumerate(order):
        rows = slice(i * W, (i + 1) * W)
        parts[name] = split(x @ in_proj_weight[rows].T + in_proj_bias[rows], int(heads))
    scores = parts["q"] @ xp.transpose(parts["k"], (0, 1, 3, 2))
    if divide:
        scores = scores / xp.root(W // int(heads), x)
    seen = xp.mask(numpy.tril(numpy.ones((L, L)), reach) if causal else numpy.ones((L, L)), x)
    plain = xp.value(scores)
    shown = numpy.where(seen == 1, plain, plain.min())  # the largest of what is seen; it cancels
    e = xp.exp((scores - shown.max(axis=-1, keepdims=True)) * seen) * seen
    y = (e / xp.sum(e, -1, keepdims=True)) @ parts["v"]
    return {"y": join_heads(y) @ out_weight.T + out_bias}


# ---------------------------------------------------------------- figures of merit, bands


def band_groups(f, sen1, sen2):
    """II-A, with the paper's 1-based band numbers."""
    bands = {
        "RGB": (sen2, (1, 2, 3)),
        "VRE": (sen2, (4, 5, 6, 8)),
        "NIR": (sen2, (7,)),
        "SWIR": (sen2, (9, 10)),
        "VH": (sen1, (1, 2, 5)),
        "VV": (sen1, (3, 4, 6)),
        "PolSAR": (sen1, (7, 8)),
    }
    return {f"X_{name}": sensor[..., [b - 1 for b in numbers]] for name, (sensor, numbers) in bands.items()}


def read_array(f, a):
    """The sums over each axis of a (x, y, z) in turn: wrong as soon as the flat data are read in another order."""
    return {f"sum_{axis}": xp.sum(a, axis=axis) for axis in range(3)}


def metrics(f, y, y_hat, K):
    K, y, y_hat = int(K), classes(y), classes(y_hat)
    C = numpy.zeros((K, K), int)
    for j, k in zip(y, y_hat, strict=True):
        C[j, k] += 1
    N, agree = len(y), int(numpy.trace(C))
    rows, columns = C.sum(1), C.sum(0)
    present = [k for k in range(K) if rows[k]]
    one = xp.exact(1)
    chance = int((rows * columns).sum())
    average = xp.sum(xp.stack([one * int(C[k, k]) / int(rows[k]) for k in present])) / len(present)
    return {
        "confusion": C,
        "overall_accuracy": one * agree / N,
        "average_accuracy": average,
        "kappa": one * (N * agree - chance) / (N * N - chance),
    }


DEFINITIONS = {
    f.__name__: f
    for f in (
        *(read_array, band_groups, linear, conv2d, batch_norm, layer_norm, relu, max_pool2d, gelu, quick_gelu),
        *(attention, similarity, fuse, supervised_matrix, bce, contrastive_loss, concat, cross_entropy),
        *(total_loss, sgd_step, sgd, metrics),
    )
}

"""BP-LCZ (arXiv 2412.18235), the whole method in one file: NumPy alone, float64, every gradient by hand.

    python -m bplcz_ref.in_one_file     trains on simulated toy patches and prints the symbols, in a few seconds

Left out on purpose: checks of arguments, savings of time and memory (each prompt of each sample is encoded by
itself), So2Sat's files, and byte pairs (the toy run numbers whole words). The rest of the package has them;
tests/test_in_one_file.py compares every value and gradient of this file with it.

A function returns (y, back), where back maps g = dL/dy to the gradients of its arguments; a docstring gives them
after "back:". A layer takes (p, x), where p holds its parameters, and its back gives (dL/dx, dL/dp). Names and
layouts of parameters are those of the public implementations.

Index letters: B images (j, k), H W rows and columns, C channels, O outputs, n = 7 groups (i), K classes,
N prompts, L tokens, d features. Images are channels-last.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

Pass = tuple[np.ndarray, Callable]  # y, back

# ---------------------------------------------------------------- II-A, II-B1, III-A: bands, prompts, constants

GROUPS = {  # name: (sensor, its bands, 1-based as printed, the words in the prompt)
    "RGB": ("sen2", (1, 2, 3), "red green blue"),
    "VRE": ("sen2", (4, 5, 6, 8), "vegetation red edge"),
    "NIR": ("sen2", (7,), "near infrared"),
    "SWIR": ("sen2", (9, 10), "short wave infrared"),
    "VH": ("sen1", (1, 2, 5), "vh"),
    "VV": ("sen1", (3, 4, 6), "vv"),
    "PolSAR": ("sen1", (7, 8), "pol"),
}
DESCRIPTIONS = {  # Table I prints these three of the 17
    "1": "dense clusters of vertical edifices with limited spatial gaps, representing urban centers",
    "9": "areas with minimal building density, characterized by isolated structures and significant open spaces",
    "G": "bodies of water such as rivers, lakes, or seas, appearing as uniform blue areas on images",
}
ALPHA, BETA = 0.25, 2  # Eqs. (3), (4) and Eq. (10)
LEARNING_RATE, MOMENTUM, WEIGHT_DECAY, SEED = 1e-4, 0.9, 0.002, 47
NORM_EPS = 1e-5  # inside the root of batch norm and layer norm
EPS = 1e-12  # the least length that a feature is divided by, outside the root


def grouped(sen1: np.ndarray, sen2: np.ndarray) -> dict:  # (..., 8), (..., 10) -> {group: (..., C_i)}
    """II-A: {X_i}, the bands of each group."""
    sensors = {"sen1": sen1, "sen2": sen2}
    return {i: sensors[sensor][..., np.array(bands) - 1] for i, (sensor, bands, _) in GROUPS.items()}


def prompt(description: str, group: str) -> str:
    """II-B1: the prompt t_i.

    >>> prompt(DESCRIPTIONS["G"], "NIR")  # doctest: +ELLIPSIS
    'a photo of a bodies of water such as ... uniform blue areas on images with near infrared bands'
    """
    return f"a photo of a {description} with {GROUPS[group][2]} bands"


# ---------------------------------------------------------------- Eqs. (3) to (11)


def sigma(x: np.ndarray) -> np.ndarray:
    """1 / (1 + e^-x), in a form that does not overflow; its slope is sigma (1 - sigma)."""
    return (1 + np.tanh(x / 2)) / 2


def log_softmax(x: np.ndarray) -> np.ndarray:  # (..., K) -> (..., K)
    """x - log sum e^x over the last axis, shifted by the largest entry so that nothing overflows."""
    z = x - x.max(-1, keepdims=True)
    return z - np.log(np.exp(z).sum(-1, keepdims=True))


def unit_rows(x: np.ndarray) -> Pass:  # (B, d) -> (B, d)
    """u = x / max(|x|, eps).  back: dx = (g - u (u . g)) / |x|; for |x| < eps it is g / eps."""
    length = np.sqrt((x * x).sum(1, keepdims=True))
    r = np.maximum(length, EPS)
    u = x / r
    return u, lambda g: (g - u * (u * g).sum(1, keepdims=True) * (length > EPS)) / r


def similarity(I_i: np.ndarray, T_i: np.ndarray) -> Pass:  # (B, d), (B, d) -> (B, B)
    """II-B2: S_i = u v^T, cosines by the unit rows of I_i and T_i.  back: dI_i, dT_i from du = g v, dv = g^T u.

    >>> S_i, back = similarity(np.array([[3.0, 4.0]]), np.array([[2.0, 0.0]]))
    >>> S_i.tolist(), back(np.ones((1, 1)))[0].round(3).tolist()
    ([[0.6]], [[0.128, -0.096]])
    """
    (u, back_u), (v, back_v) = unit_rows(I_i), unit_rows(T_i)
    return u @ v.T, lambda g: (back_u(g @ v), back_v(g.T @ u))


def bce(S: np.ndarray, W: np.ndarray) -> Pass:  # (B, B), (B, B) -> scalar
    """BCE(sigma(S), W) = the mean of log(1 + e^S) - W S.  back: dS = g (sigma(S) - W) / B^2."""
    N = W.size  # the mean is over all B^2 entries
    return (np.logaddexp(0, S) - W * S).sum() / N, lambda g: g * (sigma(S) - W) / N


def linear(p: dict, x: np.ndarray) -> Pass:  # (..., C) -> (..., O)
    """y = x W^T + b.  back: dx = g W,  dW = g^T x,  db = sum g."""
    rows = tuple(range(x.ndim - 1))

    def back(g):
        return g @ p["weight"], {"weight": np.tensordot(g, x, (rows, rows)), "bias": g.sum(rows)}

    return x @ p["weight"].T + p["bias"], back


def cross_entropy(c_hat: np.ndarray, c: np.ndarray) -> Pass:  # (B, K), (B,) -> scalar
    """CE(c_hat, c) = the mean of -log softmax(c_hat)[c].  back: dc_hat = g (softmax(c_hat) - onehot(c)) / B."""
    log_p, onehot = log_softmax(c_hat), np.eye(c_hat.shape[1])[c]
    return -(onehot * log_p).sum() / len(c), lambda g: g * (np.exp(log_p) - onehot) / len(c)


def objective(p: dict, I_i: dict, T_i: dict, y: np.ndarray) -> tuple[dict, dict]:
    # p of D, {group: (B, d)}, {group: (B, d)}, (B,) -> {symbol: value}, {symbol: dL/d(symbol)}
    """Eqs. (3) to (11): from the features of images and texts to L, and back."""
    pairs = {i: similarity(I_i[i], T_i[i]) for i in I_i}
    S_i = {i: cosines for i, (cosines, _) in pairs.items()}
    S_hat_i = {i: cosines.T for i, cosines in S_i.items()}
    S = ALPHA * np.sum(list(S_i.values()), axis=0)  # Eq. (3)
    S_hat = ALPHA * np.sum(list(S_hat_i.values()), axis=0)  # Eq. (4)
    W = (y[:, None] == y[None, :]).astype(float)  # Eq. (5)
    L_i2t, back_i2t = bce(S, W)  # Eq. (7)
    L_t2i, back_t2i = bce(S_hat, W)  # Eq. (8)
    L_con = (L_i2t + L_t2i) / 2  # Eq. (6)
    I = np.concatenate(list(I_i.values()), axis=1)  # Eq. (9)
    c_hat, back_D = linear(p, I)  # II-D
    L_cls, back_cls = cross_entropy(c_hat, y)  # Eq. (11)
    L = L_cls + BETA * L_con  # Eq. (10)

    # Backward, from the last line to the first.
    dc_hat = back_cls(1.0)
    dI, dD = back_D(dc_hat)
    dS, dS_hat = back_i2t(BETA / 2), back_t2i(BETA / 2)
    dS_i = ALPHA * (dS + dS_hat.T)  # by both directions, the same for every group
    dI_i, dT_i = {}, {}
    for i, from_D in zip(I_i, np.split(dI, len(I_i), axis=1), strict=True):
        _, back = pairs[i]
        from_S, dT_i[i] = back(dS_i)
        dI_i[i] = from_D + from_S  # I_i serves D and S_i: its two gradients add

    trace = {"I_i": I_i, "T_i": T_i, "S_i": S_i, "S_hat_i": S_hat_i, "S": S, "S_hat": S_hat, "W": W}
    trace |= {"L_i2t": L_i2t, "L_t2i": L_t2i, "L_con": L_con, "I": I, "c_hat": c_hat, "L_cls": L_cls, "L": L}
    return trace, {"I_i": dI_i, "T_i": dT_i, "S": dS, "S_hat": dS_hat, "I": dI, "c_hat": dc_hat, "D": dD}


# ---------------------------------------------------------------- layers: (p, x) -> (y, back)


def conv3x3(p: dict, x: np.ndarray) -> Pass:  # (B, H, W, C) -> (B, H, W, O)
    """y[b,i,j,o] = sum_{c,u,v} x[b,i+u-1,j+v-1,c] w[o,c,u,v], with zeros around x.

    back: dx is the same sum over g with w turned by 180 degrees;
    dw[o,c,u,v] = sum_{b,i,j} g[b,i,j,o] x[b,i+u-1,j+v-1,c].
    """
    w = p["weight"]

    def around(x):  # (B, H, W, C) -> (B, H, W, C, 3, 3): each pixel's neighbourhood
        return sliding_window_view(np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))), (3, 3), axis=(1, 2))

    def back(g):
        dx = np.einsum("bijouv,ocuv->bijc", around(g), w[:, :, ::-1, ::-1], optimize=True)
        return dx, {"weight": np.einsum("bijo,bijcuv->ocuv", g, around(x), optimize=True)}

    return np.einsum("bijcuv,ocuv->bijo", around(x), w, optimize=True), back


def normalise(p: dict, x: np.ndarray, axes: tuple = (-1,)) -> Pass:
    """y = w z + b, z = (x - mean) / sqrt(var + eps): layer norm; with axes (0, 1, 2), batch norm.

    back: with q = g w,  dx = (q - mean(q) - z mean(q z)) / sqrt(var + eps),  dw = sum g z,  db = sum g.
    """
    mean, var = x.mean(axes, keepdims=True), x.var(axes, keepdims=True)  # var is divided by the number of values
    root = np.sqrt(var + NORM_EPS)
    z = (x - mean) / root

    def back(g):
        q, rows = g * p["weight"], tuple(range(x.ndim - 1))
        dx = (q - q.mean(axes, keepdims=True) - z * (q * z).mean(axes, keepdims=True)) / root
        return dx, {"weight": (g * z).sum(rows), "bias": g.sum(rows)}

    return z * p["weight"] + p["bias"], back


def batch_norm(running: dict, train: bool) -> Callable:
    """Evaluation normalises with the running statistics. Training does so with the batch's and moves the running
    ones by running <- 0.9 running + 0.1 batch, where the batch's variance is divided by (number of values - 1).
    """

    def layer(p, x):
        if not train:  # no gradient is needed
            z = (x - running["running_mean"]) / np.sqrt(running["running_var"] + NORM_EPS)
            return z * p["weight"] + p["bias"], None
        running["running_mean"] = 0.9 * running["running_mean"] + 0.1 * x.mean((0, 1, 2))
        running["running_var"] = 0.9 * running["running_var"] + 0.1 * x.var((0, 1, 2), ddof=1)
        running["num_batches_tracked"] = running["num_batches_tracked"] + 1
        return normalise(p, x, axes=(0, 1, 2))

    return layer


def relu(p: dict, x: np.ndarray) -> Pass:
    """y = max(x, 0).  back: dx = g where x > 0."""
    return np.maximum(x, 0), lambda g: (g * (x > 0), {})


def quick_gelu(p: dict, x: np.ndarray) -> Pass:
    """y = x s, s = sigma(1.702 x).  back: dx = g (s + 1.702 x s (1 - s))."""
    s = sigma(1.702 * x)
    return x * s, lambda g: (g * (s + 1.702 * x * s * (1 - s)), {})


def max_pool(p: dict, x: np.ndarray) -> Pass:  # (B, H, W, C) -> (B, H/2, W/2, C)
    """y = the largest of each 2 x 2 pixels.  back: dx = g at its place, the first of equal ones."""
    B, H, W, C = x.shape
    four = x.reshape(B, H // 2, 2, W // 2, 2, C).transpose(0, 1, 3, 5, 2, 4).reshape(B, H // 2, W // 2, C, 4)
    first = np.arange(4) == four.argmax(-1)[..., None]

    def back(g):
        four = (g[..., None] * first).reshape(B, H // 2, W // 2, C, 2, 2)
        return four.transpose(0, 1, 4, 2, 5, 3).reshape(x.shape), {}

    return four.max(-1), back


def spatial_mean(p: dict, x: np.ndarray) -> Pass:  # (B, H, W, C) -> (B, C)
    """y = the mean over the pixels.  back: dx = g / (H W)."""
    _, H, W, _ = x.shape
    return x.mean((1, 2)), lambda g: (np.broadcast_to(g[:, None, None] / (H * W), x.shape), {})


def attention(heads: int) -> Callable:  # layer (N, L, W) -> (N, L, W)
    """y = P v, P = softmax(q k^T / sqrt(d)), head by head; each token sees itself and the tokens before it.

    back: dv = P^T g;  with dP = g v^T and dS = P (dP - rowsum(P dP)), dq = dS k / sqrt(d), dk = dS^T q / sqrt(d).
    """

    def layer(p, x):
        N, L, W = x.shape
        qkv, back_in = linear({"weight": p["in_proj_weight"], "bias": p["in_proj_bias"]}, x)
        q, k, v = qkv.reshape(N, L, 3, heads, W // heads).transpose(2, 0, 3, 1, 4)  # (N, heads, L, d) each
        scale = (W // heads) ** -0.5
        S = np.where(np.tri(L, dtype=bool), q @ k.swapaxes(-1, -2) * scale, -np.inf)
        P = np.exp(log_softmax(S))
        y, back_out = linear(p["out_proj"], (P @ v).swapaxes(1, 2).reshape(N, L, W))

        def back(g):
            g, d_out = back_out(g)
            g = g.reshape(N, L, heads, W // heads).swapaxes(1, 2)
            dP = g @ v.swapaxes(-1, -2)
            dS = P * (dP - (P * dP).sum(-1, keepdims=True))
            d_qkv = np.stack([dS @ k * scale, dS.swapaxes(-1, -2) @ q * scale, P.swapaxes(-1, -2) @ g])
            dx, d_in = back_in(d_qkv.transpose(1, 3, 0, 2, 4).reshape(N, L, 3 * W))
            return dx, {"in_proj_weight": d_in["weight"], "in_proj_bias": d_in["bias"], "out_proj": d_out}

        return y, back

    return layer


def chain(*steps: Any) -> Callable:
    """y = f_m(... f_1(x)); a step is (name, f), where f takes p[name], or f alone.  back: in reverse order."""

    def layer(p, x):
        backs = []
        for step in steps:
            name, f = step if isinstance(step, tuple) else ("", step)
            x, back_f = f(p[name] if name else p, x)
            backs.append((name, back_f))

        def back(g):
            gradients = {}
            for name, back_f in reversed(backs):
                g, d = back_f(g)
                gradients |= {name: d} if name else d
            return g, gradients

        return x, back

    return layer


def residual(f: Callable) -> Callable:
    """y = x + f(x).  back: dx = g + the dx of f."""

    def layer(p, x):
        y, back_f = f(p, x)

        def back(g):
            dx, d = back_f(g)
            return g + dx, d

        return x + y, back

    return layer


# ---------------------------------------------------------------- Eq. (1), Eq. (2): the encoders


def E_m(p: dict, X_i: np.ndarray, state: dict, train: bool = True) -> tuple[np.ndarray, Callable, dict]:
    # (B, H, W, C_i) -> I_i (B, d), back, new state
    """Eq. (1): EB-CNN's branch: convolution, batch norm, ReLU six times, pooling after 2 and 4; mean; linear."""
    new = {name: dict(running) for name, running in state.items()}
    steps: list = []
    for k in range(1, 7):
        steps += [(f"conv{k}", conv3x3), (f"bn{k}", batch_norm(new[f"bn{k}"], train)), relu]
        if k in (2, 4):
            steps.append(max_pool)
    I_i, back = chain(*steps, spatial_mean, ("proj", linear))(p, X_i)
    return I_i, back, new


def E_t(p: dict, t: np.ndarray, heads: int) -> Pass:  # ints (N, L) -> T (N, d), back: dT -> dp
    """Eq. (2): CLIP's text transformer; EOT is the largest id of a row.

    x = token_embedding[t] + positional_embedding;  T = LN(blocks(x))[EOT] text_projection
    block:  x = x + attention(LN(x));  x = x + c_proj(QuickGELU(c_fc(LN(x))))
    """
    N, L = t.shape
    mlp = chain(("c_fc", linear), quick_gelu, ("c_proj", linear))
    attend = residual(chain(("ln_1", normalise), ("attn", attention(heads))))
    block = chain(attend, residual(chain(("ln_2", normalise), ("mlp", mlp))))
    blocks = chain(*((str(k), block) for k in range(len(p["transformer"]["resblocks"]))))
    table, positions, eot = p["token_embedding"]["weight"], p["positional_embedding"], (np.arange(N), t.argmax(1))
    x, back_blocks = blocks(p["transformer"]["resblocks"], table[t] + positions[:L])
    h, back_ln = normalise(p["ln_final"], x[eot])

    def back(g):
        dh, d_ln = back_ln(g @ p["text_projection"].T)
        dx, d_table, d_positions = np.zeros_like(x), np.zeros_like(table), np.zeros_like(positions)
        dx[eot] = dh
        dx, d_blocks = back_blocks(dx)
        np.add.at(d_table, t, dx)  # equal tokens share a row, so their gradients add
        d_positions[:L] = dx.sum(0)
        return {
            "token_embedding": {"weight": d_table},
            "positional_embedding": d_positions,
            "transformer": {"resblocks": d_blocks},
            "ln_final": d_ln,
            "text_projection": h.T @ g,
        }

    return h @ p["text_projection"], back


# ---------------------------------------------------------------- Fig. 1


def loss_and_gradients(
    params: dict, state: dict, X_i: dict, t: np.ndarray, y: np.ndarray, heads: int
) -> tuple[dict, dict, dict]:  # {group: (B, H, W, C_i)}, ints (K, n, L), (B,)
    """Fig. 1 in training -> ({symbol: value}, dL/dparams, new state). t[k, i]: the prompt of class k, group i."""
    B, n = len(y), len(X_i)
    encoded = {i: E_m(params["branches"][i], X_i[i], state["branches"][i]) for i in X_i}
    I_i = {i: feature for i, (feature, _, _) in encoded.items()}  # Eq. (1)
    T, back_t = E_t(params["text"], t[y].reshape(B * n, -1), heads)  # Eq. (2)
    T_i = dict(zip(X_i, T.reshape(B, n, -1).swapaxes(0, 1), strict=True))
    trace, d = objective(params["classifier"], I_i, T_i, y)
    branches = {i: back(d["I_i"][i])[1] for i, (_, back, _) in encoded.items()}
    text = back_t(np.stack(list(d["T_i"].values()), axis=1).reshape(B * n, -1))
    new_state = {"branches": {i: new for i, (_, _, new) in encoded.items()}}
    return trace, {"branches": branches, "classifier": d["D"], "text": text}, new_state


def evaluate(params: dict, state: dict, X_i: dict) -> np.ndarray:  # {group: (B, H, W, C_i)} -> (B, K)
    """c_hat = D(Concat(I_i)) with running statistics and without text. The predicted class is the largest."""
    I_i = [E_m(params["branches"][i], X_i[i], state["branches"][i], train=False)[0] for i in X_i]
    return linear(params["classifier"], np.concatenate(I_i, axis=1))[0]


# ---------------------------------------------------------------- III-A: SGD; initial values


def sgd(w: Any, v: Any, g: Any, eta: float = LEARNING_RATE) -> tuple[Any, Any]:
    """g <- g + decay w;  v <- momentum v + g (v = g at first);  w <- w - eta v, for every leaf -> (w, v)."""
    if isinstance(w, dict):
        new = {name: sgd(w[name], v and v[name], g[name], eta) for name in w}
        return {name: pair[0] for name, pair in new.items()}, {name: pair[1] for name, pair in new.items()}
    g = g + WEIGHT_DECAY * w
    v = g if v is None else MOMENTUM * v + g
    return w - eta * v, v


def initial_linear(rng: np.random.Generator, C: int, O: int) -> dict:
    """Weight and bias uniform within 1 / sqrt(C)."""
    return {"weight": rng.uniform(-(C**-0.5), C**-0.5, (O, C)), "bias": rng.uniform(-(C**-0.5), C**-0.5, O)}


def initial_norm(C: int) -> dict:
    """Weight 1, bias 0."""
    return {"weight": np.ones(C), "bias": np.zeros(C)}


def initial_branch(rng: np.random.Generator, C: int, width: int, d: int) -> tuple[dict, dict]:
    """E_m -> (p, state): convolutions normal with deviation sqrt(2 / (9 O)); running mean 0, variance 1."""
    p, state = {}, {}
    for k, O in enumerate((width, width, 2 * width, 2 * width, 4 * width, 4 * width), start=1):
        p[f"conv{k}"] = {"weight": rng.standard_normal((O, C, 3, 3)) * (2 / (O * 9)) ** 0.5}
        p[f"bn{k}"] = initial_norm(O)
        state[f"bn{k}"] = {"running_mean": np.zeros(O), "running_var": np.ones(O), "num_batches_tracked": 0}
        C = O
    return p | {"proj": initial_linear(rng, C, d)}, state


def initial_text(rng: np.random.Generator, V: int, W: int, layers: int, d: int, context: int = 77) -> dict:
    """E_t as CLIP starts: weights normal, and smaller in deeper transformers where a layer adds to x."""
    std, residual_std = W**-0.5, W**-0.5 * (2 * layers) ** -0.5
    p = {
        "token_embedding": {"weight": rng.standard_normal((V, W)) * 0.02},
        "positional_embedding": rng.standard_normal((context, W)) * 0.01,
        "transformer": {"resblocks": {}},
        "ln_final": initial_norm(W),
        "text_projection": rng.standard_normal((W, d)) * std,
    }
    for k in range(layers):
        mlp = {"c_fc": initial_linear(rng, W, 4 * W), "c_proj": initial_linear(rng, 4 * W, W)}
        mlp["c_fc"]["weight"] = rng.standard_normal((4 * W, W)) * (2 * W) ** -0.5  # their biases stay uniform
        mlp["c_proj"]["weight"] = rng.standard_normal((W, 4 * W)) * residual_std
        attn = {"in_proj_weight": rng.standard_normal((3 * W, W)) * std, "in_proj_bias": np.zeros(3 * W)}
        attn["out_proj"] = {"weight": rng.standard_normal((W, W)) * residual_std, "bias": np.zeros(W)}
        block = {"ln_1": initial_norm(W), "attn": attn, "ln_2": initial_norm(W), "mlp": mlp}
        p["transformer"]["resblocks"][str(k)] = block
    return p


def initial(rng: np.random.Generator, K: int, width: int, d: int, **text: int) -> tuple[dict, dict]:
    """-> (params, state), with a random stream for each group, for the classifier and for the text."""
    *streams, stream_D, stream_t = rng.spawn(len(GROUPS) + 2)
    params: dict = {"branches": {}}
    state: dict = {"branches": {}}
    for (i, (_, bands, _)), stream in zip(GROUPS.items(), streams, strict=True):
        params["branches"][i], state["branches"][i] = initial_branch(stream, len(bands), width, d)
    params["classifier"] = initial_linear(stream_D, len(GROUPS) * d, K)
    params["text"] = initial_text(stream_t, d=d, **text)
    return params, state


# ---------------------------------------------------------------- a toy run: three classes, simulated patches


def word_ids(texts: list[str]) -> np.ndarray:  # -> ints (N, L)
    """SOT, a number for each word, EOT (the largest id), then zeros: in the place of CLIP's byte pairs.

    >>> word_ids(["a b", "b"]).tolist()
    [[3, 1, 2, 4], [3, 2, 4, 0]]
    """
    number = {word: k for k, word in enumerate(sorted({w for text in texts for w in text.split()}), start=1)}
    rows = [[len(number) + 1, *(number[w] for w in text.split()), len(number) + 2] for text in texts]
    return np.array([row + [0] * (max(map(len, rows)) - len(row)) for row in rows])


def main(steps: int = 50, heads: int = 2) -> None:
    """Train a small network on six toy patches: L as it falls, every symbol, and the accuracy on new ones."""
    rng, K = np.random.default_rng(SEED), len(DESCRIPTIONS)
    t = word_ids([prompt(text, i) for text in DESCRIPTIONS.values() for i in GROUPS]).reshape(K, len(GROUPS), -1)
    params, state = initial(rng, K, width=4, d=8, V=t.max() + 1, W=8, layers=2)
    velocity = None
    spectra = rng.standard_normal((K, 18))

    def patches(y):  # (B,) -> {group: (B, 8, 8, C_i)}: simulated, each its class's spectrum and noise
        x = spectra[y][:, None, None] + rng.standard_normal((len(y), 8, 8, 18))
        return grouped(x[..., :8], x[..., 8:])

    y = np.repeat(np.arange(K), 2)
    X_i = patches(y)
    print("step       L   L_cls   L_con   (six simulated patches)")
    for step in range(steps + 1):
        trace, gradients, state = loss_and_gradients(params, state, X_i, t, y, heads)
        if step % 10 == 0:
            print(f"{step:4d}" + "".join(f"{trace[symbol]:8.4f}" for symbol in ("L", "L_cls", "L_con")))
        params, velocity = sgd(params, velocity, gradients, eta=0.01)  # 1e-4 suits the paper's 138,800 steps
    print(f"\nAt step {steps}, y = {y.tolist()}:")
    for symbol, value in trace.items():
        if isinstance(value, dict):
            print(f"{symbol}: {value['RGB'].shape} for each of {', '.join(value)}")
        else:
            print(f"{symbol}: {value.shape}" if value.size > 36 else f"{symbol}:\n{value.round(4)}")
    y = rng.integers(K, size=100)
    right = evaluate(params, state, patches(y)).argmax(1) == y
    print(f"\n{right.mean():.0%} of {len(y)} new simulated patches are classified correctly (chance: {1 / K:.0%})")


if __name__ == "__main__":
    main()

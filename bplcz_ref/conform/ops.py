"""The kit's operations in topological order: their names, their places in the paper, what they rest on."""

from typing import NamedTuple

from bplcz_ref import paper
from bplcz_ref.conform import text, wiring
from bplcz_ref.conform.definitions import DEFINITIONS


class Op(NamedTuple):
    suite: int
    equation: object  # number, or the section of the paper
    symbol: str
    formula: str
    parents: tuple = ()


SUITES = {
    0: "canaries",
    1: "equations",
    2: "supervised-matrix",
    3: "sgd",
    4: "bands",
    5: "text",
    6: "encoders",
    7: "chain",
    8: "metrics",
}

OPS = {
    "read_array": Op(
        0, None, "a", "sum_0[y, z] = sum_x a[x, y, z], and sum_1, sum_2 likewise; data are row-major"
    ),
    "band_groups": Op(
        4, "II-A", "X_i", "X_i = the group's bands, 1-based as printed, channels last", ("read_array",)
    ),
    "prompt": Op(5, "II-B1", "t_i", '"a photo of a {class} with {group} bands", {class} its description'),
    "pre_tokens": Op(
        5, "II-B1", "pieces", "entities twice, lower case, contractions, letters, ONE number, others"
    ),
    "tokenize": Op(
        *(
            5,
            "II-B1",
            "ids",
            "[SOT] byte pairs, lowest rank first, </w> at a piece's end [EOT] 0 0 ...; end: EOT's place",
        ),
        ("pre_tokens",),
    ),
    "linear": Op(6, "II-D", "D", "y = x weight^T + bias", ("read_array",)),
    "conv2d": Op(
        *(
            6,
            1,
            "conv",
            "y[b, i, j, o] = sum_uvc x_pad[b, stride i + u, stride j + v, c] weight[o, c, u, v]; not flipped",
        ),
        ("read_array",),
    ),
    "batch_norm": Op(
        *(
            6,
            1,
            "BN",
            "(x - mean) / sqrt(var + 1e-5) weight + bias, var / N; running: 0.9 old + 0.1 new, var / (N - 1)",
        ),
        ("read_array",),
    ),
    "layer_norm": Op(
        6, 2, "LN", "(x - mean) / sqrt(var + 1e-5) weight + bias over the last axis", ("read_array",)
    ),
    "relu": Op(6, 1, "ReLU", "max(x, 0), slope 0 at 0", ("read_array",)),
    "max_pool2d": Op(6, 1, "max-pool", "the largest of each 2 x 2 window", ("read_array",)),
    "gelu": Op(6, "ExViT", "GELU", "x (1 + erf(x / sqrt 2)) / 2, exact", ("read_array",)),
    "quick_gelu": Op(6, 2, "QuickGELU", "x sigma(1.702 x)", ("read_array",)),
    "attention": Op(
        *(6, 2, "MHA", "softmax(q k^T / sqrt(W / heads)) v, token l sees 0..l; in_proj holds q, k, v; then out"),
        ("linear",),
    ),
    "image_encoder": Op(
        *(6, 1, "I_i", "I_i = E_m(X_i), EB-CNN's branch in training mode"),
        ("conv2d", "batch_norm", "relu", "max_pool2d", "linear"),
    ),
    "text_encoder": Op(
        *(6, 2, "T_i", "T_i = E_t(t_i), CLIP's text transformer, the row of EOT"),
        ("layer_norm", "attention", "quick_gelu", "linear"),
    ),
    "similarity": Op(
        *(1, "II-B2", "S_i", "S_i[j, k] = cos(I_i^j, T_i^k), S_hat_i = S_i^T; x / max(||x||, 1e-12)"),
        ("read_array",),
    ),
    "fuse": Op(1, 3, "S", "S = alpha sum_i S_i; Eq. (4) is the same for S_hat", ("read_array",)),
    "supervised_matrix": Op(2, 5, "W", "W[j, k] = 1 if y_j = y_k else 0"),
    "bce": Op(
        1, 7, "L_i2t", "mean of -(W log sigma(S) + (1 - W) log(1 - sigma(S))); Eq. (8) likewise", ("read_array",)
    ),
    "contrastive_loss": Op(1, 6, "L_con", "(BCE(S, W) + BCE(S^T, W)) / 2", ("bce",)),
    "concat": Op(1, 9, "I", "I = Concat([I_1, ..., I_n]), features as they left E_m", ("read_array",)),
    "cross_entropy": Op(1, 11, "L_cls", "mean over j of -log softmax(c_hat_j)[c_j]", ("read_array",)),
    "total_loss": Op(1, 10, "L", "L = L_cls + beta L_con"),
    "sgd": Op(3, "III-A", "w", "g += decay w; v = momentum v + g (first v = g); w -= lr v", ("read_array",)),
    "metrics": Op(
        8, "III-B", "OA, kappa", "OA = trace / N; kappa = (OA - p_e) / (1 - p_e), p_e = sum row column / N^2"
    ),
}
OPS["training"] = Op(
    *(7, "Fig. 1", "L", "all of Fig. 1 on one batch, its gradients, and three steps of SGD"),
    tuple(op for op in OPS if op not in ("read_array", "prompt", "pre_tokens", "tokenize", "gelu", "metrics")),
)

EXACT = DEFINITIONS | {
    "prompt": text.prompt,
    "pre_tokens": text.pre_tokens,
    "tokenize": text.tokenize,
    "image_encoder": wiring.image_encoder,
    "text_encoder": wiring.text_encoder,
    "training": wiring.training,
}

_GROUPS = tuple(paper.GROUPS)
_CHAIN = {  # symbol of Fig. 1 -> its operation and what it is computed from
    **{f"I_{g}": ("image_encoder", ()) for g in _GROUPS},
    **{f"T_{g}": ("text_encoder", ()) for g in _GROUPS},
    **{f"S_{g}": ("similarity", (f"I_{g}", f"T_{g}")) for g in _GROUPS},
    **{f"S_hat_{g}": ("similarity", (f"I_{g}", f"T_{g}")) for g in _GROUPS},
    "S": ("fuse", tuple(f"S_{g}" for g in _GROUPS)),
    "S_hat": ("fuse", tuple(f"S_hat_{g}" for g in _GROUPS)),
    "W": ("supervised_matrix", ()),
    "L_i2t": ("contrastive_loss", ("S", "W")),
    "L_t2i": ("contrastive_loss", ("S_hat", "W")),
    "L_con": ("contrastive_loss", ("L_i2t", "L_t2i")),
    "I": ("concat", tuple(f"I_{g}" for g in _GROUPS)),
    "c_hat": ("linear", ("I",)),
    "L_cls": ("cross_entropy", ("c_hat",)),
    "L": ("total_loss", ("L_cls", "L_con")),
}
_LAYERS = {"conv": "conv2d", "bn": "batch_norm", "relu": "relu", "pool": "max_pool2d", "I_i": "linear"}
_LAYERS |= {"ln_1": "layer_norm", "ln_2": "layer_norm", "ln_final": "layer_norm", "attn": "attention"}
_LAYERS |= {"gelu": "quick_gelu", "mlp": "linear", "T_i": "linear"}


def rests_on(op, output, before):  # -> (operation, names of outputs)
    """What the output of a case with taps is computed by and from; `before` are the outputs ahead of it."""
    if output.startswith("grad."):
        return op, tuple(o for o in before if not o.startswith("grad."))
    if op in ("image_encoder", "text_encoder"):
        layer = output.split(".")[-1]
        return _LAYERS.get(layer, _LAYERS.get(layer.rstrip("0123456789"), op)), tuple(before)
    if op != "training":
        return op, ()
    if output in _CHAIN:
        return _CHAIN[output]
    return "sgd", tuple(o for o in before if o in _CHAIN or o.startswith("grad."))

"""The equations' expected values from loops.py: scalar loops over Decimal, gradients derived by hand."""

from bplcz_ref import loops
from bplcz_ref.conform.exact import decimal_of


def numbers(array):
    """Nested lists of Decimals (of ints, where the array holds ints)."""
    if isinstance(array, list):
        return [numbers(x) for x in array]
    return array if isinstance(array, int) else decimal_of(array)


def similarity(i, g):
    S_i, S_hat_i = loops.similarity(i["I_i"], i["T_i"])
    out = {"S_i": S_i, "S_hat_i": S_hat_i}
    if g:
        out["grad.I_i"], out["grad.T_i"] = loops.similarity_vjp(i["I_i"], i["T_i"], g["S_i"], g["S_hat_i"])
    return out


def fuse(i, g):
    grads, _ = loops.fuse_vjp(i["S_groups"], i["alpha"], g["S"])
    return {"S": loops.fuse(i["S_groups"], i["alpha"]), "grad.S_groups": grads}


def supervised_matrix(i, g):
    return {"W": loops.supervised_matrix(i["y"])}


def bce(i, g):
    return {"L": loops.bce(i["S"], i["W"]), "grad.S": loops.bce_vjp(i["S"], i["W"], g["L"])}


def contrastive_loss(i, g):
    S, W = i["S"], i["W"]
    L_i2t, L_t2i, L_con = loops.contrastive_loss(S, loops.transpose(S), W)
    dS = loops.bce_vjp(S, W, g["L_i2t"] + g["L_con"] / 2)
    dS_hat = loops.transpose(loops.bce_vjp(loops.transpose(S), W, g["L_t2i"] + g["L_con"] / 2))
    grad = [[a + b for a, b in zip(p, q, strict=True)] for p, q in zip(dS, dS_hat, strict=True)]
    return {"L_i2t": L_i2t, "L_t2i": L_t2i, "L_con": L_con, "grad.S": grad}


def concat(i, g):
    return {"I": loops.concat(i["I_groups"]), "grad.I_groups": loops.concat_vjp(i["I_groups"], g["I"])}


def cross_entropy(i, g):
    return {
        "L_cls": loops.cross_entropy(i["c_hat"], i["c"]),
        "grad.c_hat": loops.cross_entropy_vjp(i["c_hat"], i["c"], g["L_cls"]),
    }


def total_loss(i, g):
    a, b, _ = loops.total_loss_vjp(i["L_cls"], i["L_con"], i["beta"], g["L"])
    return {"L": loops.total_loss(i["L_cls"], i["L_con"], i["beta"]), "grad.L_cls": a, "grad.L_con": b}


def sgd(i, g):
    w, v, ws, vs = i["w"], None, [], []
    for gradient, lr in zip(i["gradients"], i["lr"], strict=True):
        w, v = loops.sgd(w, gradient, v, lr, i["momentum"], i["weight_decay"])
        ws.append(w)
        vs.append(v)
    return {"w": ws, "v": vs}


CERTIFIED = {
    f.__name__: f
    for f in (similarity, fuse, supervised_matrix, bce, contrastive_loss, concat, cross_entropy, total_loss, sgd)
}


def certified(case):
    """The outputs of a case by loops.py as nested lists, or None where loops.py has no such equation."""
    if case.op not in CERTIFIED:
        return None
    plain = lambda d: {k: numbers(v.tolist() if hasattr(v, "tolist") else v) for k, v in d.items()}
    return CERTIFIED[case.op](plain(case.inputs), plain(case.cotangents))

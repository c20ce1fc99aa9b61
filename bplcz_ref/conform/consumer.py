"""The reference as a consumer of its own kit: the package's public functions under the kit's names.

`PARTS` joins single functions by wiring.py, so that a mutant of one of them shows wherever it is used;
`WHOLE` takes the package's own encoders, model and loss for the cases that have one. Both have to pass.
`answer` works out one case from its JSON alone, as a consumer in another language would.
"""

import functools

import autograd.numpy as np
import numpy

from bplcz_ref import bands, equations, metrics, model, nn, optim, paper, prompts, tokenizer, weights
from bplcz_ref.conform import definitions, exact, tensors, text, wiring
from bplcz_ref.encoders import ebcnn
from bplcz_ref.encoders import text as text_encoders


@functools.cache
def words():
    return tokenizer.Tokenizer.from_merges(text.MERGES)


def tokenize(f, text, context, truncate):
    try:
        ids = words().batch([text], context_length=int(context), truncate=bool(truncate))[0]
    except ValueError:
        return {"refused": 1}
    return {"ids": ids, "end": int(numpy.argmax(ids))}


def batch_norm(f, x, weight, bias, running_mean, running_var, train=1):
    state = {"running_mean": running_mean, "running_var": running_var, "num_batches_tracked": numpy.array(0)}
    state = {name: exact.value(v) for name, v in state.items()}
    y, new = nn.batch_norm(x, weight, bias, state, train=bool(train))
    return {"y": y, "new_running_mean": new["running_mean"], "new_running_var": new["running_var"]}


def attention(f, x, in_proj_weight, in_proj_bias, out_weight, out_bias, heads):
    W = x.shape[-1]
    qkv = nn.linear(x, in_proj_weight, in_proj_bias)
    q, k, v = (definitions.split_heads(qkv[..., i * W : (i + 1) * W], int(heads)) for i in range(3))
    return {"y": nn.linear(definitions.join_heads(nn.attention(q, k, v, causal=True)), out_weight, out_bias)}


def sgd_step(w, v, g, lr, momentum, weight_decay):
    velocity = None if v is None else {"w": v}
    options = {"learning_rate": lr, "momentum": momentum, "weight_decay": weight_decay}
    w, v = optim.sgd({"w": w}, velocity, {"w": g}, **options)
    return w["w"], v["w"]


def figures(f, y, y_hat, K):
    C = metrics.confusion_matrix(y, y_hat, int(K))
    found = metrics.summary(C)
    return {"confusion": C} | {name: found[name] for name in ("overall_accuracy", "average_accuracy", "kappa")}


PARTS = {
    "read_array": lambda f, a: {f"sum_{axis}": a.sum(axis=axis) for axis in range(3)},
    "band_groups": lambda f, sen1, sen2: {f"X_{name}": x for name, x in bands.split(sen1, sen2).items()},
    "prompt": lambda f, class_index, group: {"text": prompts.prompt(class_index, group)},
    "pre_tokens": lambda f, text: {"pieces": tokenizer.pre_tokens(text)},
    "tokenize": tokenize,
    "linear": lambda f, **i: {"y": nn.linear(**i)},
    "conv2d": lambda f, x, weight, stride, padding: {"y": nn.conv2d(x, weight, stride=stride, padding=padding)},
    "batch_norm": batch_norm,
    "layer_norm": lambda f, **i: {"y": nn.layer_norm(**i)},
    "relu": lambda f, x: {"y": nn.relu(x)},
    "max_pool2d": lambda f, x: {"y": nn.max_pool2d(x, 2)},
    "gelu": lambda f, x: {"y": nn.gelu(x)},
    "quick_gelu": lambda f, x: {"y": nn.quick_gelu(x)},
    "attention": attention,
    "image_encoder": wiring.image_encoder,
    "text_encoder": wiring.text_encoder,
    "similarity": lambda f, **i: dict(zip(("S_i", "S_hat_i"), equations.similarity(**i), strict=True)),
    "fuse": lambda f, S_groups, alpha: {"S": equations.fuse([S_groups[i] for i in range(len(S_groups))], alpha)},
    "supervised_matrix": lambda f, y: {"W": equations.supervised_matrix(y)},
    "bce": lambda f, S, W: {"L": equations.bce(S, W)},
    "contrastive_loss": definitions.contrastive_loss,
    "concat": lambda f, I_groups: {"I": equations.concat([I_groups[i] for i in range(len(I_groups))])},
    "cross_entropy": lambda f, c_hat, c: {"L_cls": equations.cross_entropy(c_hat, c)},
    "total_loss": lambda f, L_cls, L_con, beta: {"L": equations.total_loss(L_cls, L_con, beta)},
    "sgd_step": sgd_step,
    "sgd": definitions.sgd,
    "metrics": figures,
    "training": wiring.training,
}


# ---------------------------------------------------------------- the package's own networks


def whole_image_encoder(f, x, **w):
    network = ebcnn.encoder(x.shape[-1], width=w["conv1.weight"].shape[0], features=w["proj.bias"].shape[0])
    _, state = network.init(numpy.random.default_rng(0), exact.value(x).dtype)
    I_i, _ = network.apply(weights.nested(w), state, x, train=True)
    return wiring.image_encoder(f, x, **w) | {"I_i": I_i}


def text_network(heads, w):
    (V, W), d = w["token_embedding.weight"].shape, w["text_projection"].shape[1]
    layers = len({name.split(".")[2] for name in w if name.startswith("transformer.")})
    context = w["positional_embedding"].shape[0]
    return text_encoders.encoder(V, width=W, layers=layers, heads=int(heads), features=d, context=context)


def whole_text_encoder(f, ids, heads, **w):
    T_i, _ = text_network(heads, w).apply(weights.nested(w), {}, ids, train=True)
    return wiring.text_encoder(f, ids, heads, **w) | {"T_i": T_i}


def whole_contrastive_loss(f, S, W):
    return equations.contrastive_loss(S, S.T, W)._asdict()


def whole_training(f, sen1, sen2, y, ids, lr, momentum, weight_decay, alpha, beta, heads, **w):
    d, width = w["branches.RGB.proj.bias"].shape[0], w["branches.RGB.conv1.weight"].shape[0]
    encoders = {name: ebcnn.encoder(len(i), width=width, features=d) for name, i in bands.INDEX.items()}
    head = nn.dense(len(encoders) * d, len(ids))
    text = text_network(heads, wiring.under(w, "text"))
    network = model.bplcz(encoders, head, text=text, tokens=ids, alpha=alpha, beta=beta)
    x = bands.join(sen1, sen2)
    _, state = network.init(numpy.random.default_rng(0), x.dtype)
    params, velocity, out = weights.nested(w), None, {}
    for t, rate in enumerate(lr.tolist()):
        L, grads, trace = model.loss_and_gradients(network.loss, params, state, (x, y))
        if t == 0:
            for symbol in ("I", "T", "S", "S_hat"):
                out |= {f"{symbol}_{g}": trace[f"{symbol}_i"][g] for g in paper.GROUPS}
            own = ("S", "S_hat", "W", "L_i2t", "L_t2i", "L_con", "I", "c_hat", "L_cls", "L")
            out |= {symbol: trace[symbol] for symbol in own}
            out |= {f"grad.{name}": g for name, g in weights.named(grads).items()}
        else:
            out[f"L_step{t + 1}"] = L
        options = {"learning_rate": rate, "momentum": momentum, "weight_decay": weight_decay}
        params, velocity = optim.sgd(params, velocity, grads, **options)
    return out | {f"after.{name}": v for name, v in weights.named(params).items()}


WHOLE = PARTS | {
    "image_encoder": whole_image_encoder,
    "text_encoder": whole_text_encoder,
    "contrastive_loss": whole_contrastive_loss,
    "training": whole_training,
}


# ---------------------------------------------------------------- one case


def inputs_of(case, dtype):
    """{name: array of dtype, int array, number or text} of a case's JSON."""
    inputs = {}
    for name, t in case["inputs"].items():
        x = tensors.array(t, f"{case['id']}: {name}")
        if isinstance(x, numpy.ndarray) and x.dtype.kind == "f" and x.shape:
            x = x.astype(dtype)
        elif isinstance(x, numpy.ndarray) and not x.shape:
            x = x.item()
        inputs[name] = x
    return inputs


def asked(case):
    """The inputs whose gradients a case asks for."""
    names = (name[5:] for name in case["expect"] if name.startswith("grad."))
    return [name for name in names if name in case["inputs"]] if "cotangents" in case else []


def answer(case, f, dtype):
    """{output: array or text} of one case by the table f, gradients by autograd."""
    inputs, run, names = inputs_of(case, dtype), f[case["op"]], asked(case)
    if not names:
        return run(f, **inputs)
    cotangents = {name: tensors.array(t, name).astype(dtype) for name, t in case["cotangents"].items()}

    def weighed(varied):
        out = run(f, **(inputs | {name: varied[name] for name in names}))
        return sum(np.sum(out[name] * g) for name, g in cotangents.items()), out

    varied = {name: numpy.asarray(inputs[name], dtype=dtype) for name in names}
    try:
        _, out, grads = exact.value_and_gradients(weighed, varied)
    except ValueError:  # a shape that the cotangent does not fit: the values alone then show it
        return {name: exact.value(x) for name, x in run(f, **inputs).items()}
    return out | {f"grad.{name}": g for name, g in grads.items()}


def answers(cases, f, dtype):
    """{case id: {output: TENSOR}} of many cases."""
    return {
        case["id"]: {name: tensors.tensor(x) for name, x in answer(case, f, dtype).items()}
        for case in cases.values()
    }

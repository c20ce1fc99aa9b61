"""`conform trace`: every symbol, layer and gradient of a few steps by name, and what rounding may change of each.

Names, in the order of computation:

    x, y                            the batch; images are (B, H, W, 18)
    step0.conv1.weight              parameters and running statistics before the first step, by their public names
    conv1.input, conv1              what a layer takes and gives, by the dotted name of its module
    I_i.RGB, T_i.RGB, ..., S, L     the symbols of the paper
    grad.L, grad.S, grad.conv1, ... dL/d(value), for values and parameters, in the order of the backward pass
    step1.velocity.conv1.weight     SGD's velocity after the first step
    step1.conv1.weight              parameters and running statistics after the first step; step2 and so on

Everything is computed in float64 by the definitions of nn.py, layer by layer; only convolutions in groups run by
their kernel. The tolerance of each name is measured: the same steps run again, RUNS times, in the other program's
precision with a rounding error put into every layer's output and its gradient; and once more with every ReLU and
max-pool turned that rounding could turn. A value may differ by FACTOR times the most that the first runs changed,
plus what the last one changed; gradients, and what SGD makes of them, by FEW times that, since another program
turns some of these gates and not all, and since a sum over a batch is one number, of which a few runs do not show
the largest error.
"""

import fnmatch
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from bplcz_ref import archives, files, optim, paper, prompts, systems, weights
from bplcz_ref.conform import tape
from bplcz_ref.conform.numbers import EPS, FACTOR
from bplcz_ref.model import Model

META = "trace.json"  # the entry of the archive that holds what is no array, as bytes of JSON
FORMAT = 1
FEW = 4
RUNS = 3  # disturbed runs for each precision
PRECISIONS = {"float32": ("float32",), "float64": ("float64", "float32")}  # of a trace: those that it can judge


def trace(
    network: Model,
    params: dict,
    state: dict,
    batch: tuple,
    *,
    steps: int = 2,
    learning_rate: float = paper.LEARNING_RATE,
    momentum: float = paper.MOMENTUM,
    weight_decay: float = paper.WEIGHT_DECAY,
    dtype: str = "float32",
    only: Iterable[str] = ("*",),
) -> dict[str, np.ndarray]:
    """{name: array} of training steps on one batch (x, y), and META: what `diff` needs to judge another program.

    dtype   of the arrays that come back: a float32 trace judges float32 programs and takes half the memory
    only    patterns of names to keep, such as "layer4.*" and "grad.*"; default: all
    Dropout is off, batch normalisation in training mode. The batch is the same in every step.

    >>> from bplcz_ref.layers import linear, serial, spatial_mean
    >>> from bplcz_ref.model import classification
    >>> model = classification(serial(spatial_mean, ("fc", linear(18, 17))))
    >>> params, state = model.init(np.random.default_rng(0), "float64")
    >>> found = trace(model, params, state, (np.ones((2, 4, 4, 18)), np.array([3, 5])), steps=1)
    >>> [name for name in found if not name.startswith(("grad.", "step"))]
    ['x', 'y', 'fc.input', 'fc', 'L_cls', 'trace.json']
    """
    x, y = np.asarray(batch[0], np.float64), np.asarray(batch[1])
    if steps < 1:
        raise ValueError(f"steps is {steps}; expected 1 or more")
    if dtype not in PRECISIONS:
        raise ValueError(f"dtype is {dtype!r}; expected float32 or float64")
    rule = {"learning_rate": learning_rate, "momentum": momentum, "weight_decay": weight_decay}
    gates: list[list] = [[] for _ in range(steps)]

    def run(precision, noises=None):
        return several_steps(network, params, state, (x, y), precision, rule, gates, noises)

    ours, first = run("float64")
    kept = {n for n in ours if any(fnmatch.fnmatchcase(n, pattern) for pattern in only)}
    if not kept:
        raise ValueError(f"no name matches {', '.join(only)}; some names are {', '.join([*ours][:5])} ...")
    tolerance = {p: measured(ours, kept, gates, p, run) for p in PRECISIONS[dtype]}
    meta = {
        "format": FORMAT,
        "dtype": dtype,
        "names": order(ours, first),
        "graph": first.graph,
        "tolerance": tolerance,
        "rule": rule,
        "steps": steps,
    }
    arrays = {name: cast(a, dtype) for name, a in ours.items() if name in kept}
    meta["arrays"] = {name: kind_of(a) for name, a in arrays.items()}
    return arrays | {META: np.frombuffer(json.dumps(meta).encode(), np.uint8)}


def size(a: np.ndarray) -> np.ndarray:
    """(root of the mean square, largest magnitude).

    >>> size(np.array([3.0, -4.0, 0.0, 0.0])).tolist()
    [2.5, 4.0]
    """
    return np.array([np.sqrt(np.mean(np.square(a))), np.max(np.abs(a))]) if a.size else np.zeros(2)


def kind_of(a: np.ndarray) -> str:
    """What an array is, in words.

    >>> kind_of(np.zeros((2, 3)))
    'float64 (2, 3)'
    """
    return f"{a.dtype} {a.shape}"


def several_steps(
    network: Model,
    params: dict,
    state: dict,
    batch: tuple,
    precision: str,
    rule: dict,
    gates: list[list],
    noises: list | None,
) -> tuple[dict, Any]:
    """({name: array}, the first tape.Step) of as many steps as `gates` has entries; these are filled, or used."""
    params, state = (optim.leaves(lambda leaf: cast(leaf, precision), tree) for tree in (params, state))
    batch = cast(batch[0], precision), batch[1]
    velocity, first = None, None
    found: dict[str, np.ndarray] = {}
    for k, own in enumerate(gates):
        found |= {f"step{k}.{name}": a for name, a in both(params, state).items()}
        step = tape.step(network.loss, params, state, batch, gates=own, noise=noises[k] if noises else None)
        if first is None:
            first = step
            same = [name for name, way in step.graph.items() if "same" in way]  # an equal array has another name
            found |= {name: a for name, a in step.values.items() if name not in same}
            found |= {f"grad.{name}": a for name, a in step.gradients.items() if name not in same}
        gradients = weights.nested({name: step.gradients[name] for name in weights.named(params)})
        params, velocity = optim.sgd(params, velocity, gradients, **rule)
        state = weights.nested(step.state)
        found |= {f"step{k + 1}.velocity.{n}": a for n, a in weights.named(velocity).items()}
    found |= {f"step{len(gates)}.{name}": a for name, a in both(params, state).items()}
    return found, first


def both(params: dict, state: dict) -> dict[str, np.ndarray]:
    """Parameters and buffers by name."""
    return {name: np.asarray(a) for name, a in (weights.named(params) | weights.named(state)).items()}


def order(found: dict, first: tape.Step) -> list[str]:
    """All names in the order of computation, those of arrays that are stored under another name too."""
    steps = [name for name in found if name.startswith("step")]
    given = ["x", "y", *(name for name in steps if name.startswith("step0."))]
    backward = [f"grad.{name}" for name in backward_order(first)]
    return list(dict.fromkeys([*given, *first.values, *backward, *steps]))


def backward_order(step: tape.Step) -> list[str]:
    """The names of the gradients in the order of the backward pass, each layer's parameters after its output."""
    order: dict[str, None] = {}
    for name in reversed(step.values):
        made_of = step.graph.get(name, {"from": []})["from"]
        order |= dict.fromkeys([name, *(n for n in made_of if n not in step.values)])
    return [name for name in order if name in step.gradients]


def cast(a: np.ndarray, dtype: str) -> np.ndarray:
    """`a` in this dtype, if it is floating."""
    a = np.asarray(a)
    return a.astype(dtype) if a.dtype.kind == "f" else a


def measured(ours: dict, kept: set, gates: list[list], precision: str, run: Callable) -> dict:
    """{name: [rms, largest]} of the difference from `ours` that a correct program of this precision may have."""
    eps, reach = EPS[precision], [[0.0] * len(own) for own in gates]
    spread = {name: np.zeros(2) for name in kept if ours[name].dtype.kind == "f"}
    turned = dict(spread)
    for seed in range(RUNS + 1):
        turn = seed == RUNS
        rng = np.random.default_rng(seed)
        noises = [tape.Noise(rng, eps, own, far, turn) for own, far in zip(gates, reach, strict=True)]
        found, _ = run(precision, noises)
        into = turned if turn else spread
        for name in spread:
            into[name] = np.maximum(into[name], size(found[name].astype(np.float64) - ours[name]))
    allowed = {}
    for name, changed in spread.items():
        later = name.startswith(("grad.", "step"))  # made by the backward pass
        limit = (FEW if later else 1) * (FACTOR * changed + turned[name])
        if later and turned[name][0] > changed[0]:  # what a gate turns may be a single entry: only rms counts
            limit[1] = max(limit[1], limit[0] * ours[name].size ** 0.5)
        allowed[name] = (limit + FACTOR / 2 * eps * size(ours[name])).tolist()
    return allowed


# ------------------------------------------------------------------------------------------------ the command


def from_files(
    weights_file: Path,
    batch_file: Path,
    name: str | None,
    chosen: dict,
    say: Callable[[str], None],
    **options: Any,
) -> dict[str, np.ndarray]:
    """`trace` of a system of systems.py with weights and a batch from files."""
    arrays = weights.read_arrays(weights_file)
    name = name or system_of(arrays, weights_file)
    settings = settings_of(arrays, name, chosen)
    network = systems.build(name, settings)
    params, state = weights.load(arrays, network, dtype="float64")
    x, y = read_batch(batch_file, name, settings)
    say(f"{name}, {weights.count(params):,} parameters, {len(x)} patches")
    rule = {key: getattr(settings, key) for key in ("learning_rate", "momentum", "weight_decay")}
    return trace(network, params, state, (x, y), **rule, **options)


# Parameters by which a system is told; the first that fits. EB-CNN with prompts is taken as the full method.
TELLTALE = {
    "branches.RGB.conv1.weight text.ln_final.weight": "ebcnn-bplcz",
    "branches.RGB.conv1.weight": "ebcnn",
    "shared.pos_embedding": "exvit-bplcz",
    "pos_embedding": "exvit",
    "features.0.0.weight": "convnext",
    "features.conv0.weight": "densenet121",
    "layer1.0.conv3.weight": "resnet50",
}


def system_of(arrays: dict, source: Path) -> str:
    """The system that has these names."""
    for names, system in TELLTALE.items():
        if all(name in arrays for name in names.split()):
            grouped = system == "resnet50" and len({*arrays["layer1.0.conv2.weight"].shape[:2]}) > 1
            return "resnext50" if grouped else system
    raise ValueError(f"{source}: its names fit no system; give --system, one of {', '.join(systems.SYSTEMS)}")


def settings_of(arrays: dict, name: str, chosen: dict) -> systems.Settings:
    """The settings with the sizes that the weights have, as far as these tell them; `chosen` outranks them."""
    found: dict[str, Any] = {}
    if "branches.RGB.conv1.weight" in arrays:
        found["width"] = len(arrays["branches.RGB.conv1.weight"])
    for vector in (
        "branches.RGB.proj.weight",
        "branches.RGB.mlp_head1.1.weight",
        "vectors.RGB.mlp_head1.1.weight",
    ):
        if vector in arrays:
            found["features"] = len(arrays[vector])
    if "vectors.RGB.mlp_head1.1.weight" in arrays:
        found["reading"] = "B"
    for positions in ("shared.pos_embedding", "pos_embedding"):
        if positions in arrays and arrays[positions].ndim == 3:
            found["grid"] = max(1, round(paper.PATCH / max(1, arrays[positions].shape[1]) ** 0.5))
            found["published"] = arrays[positions].shape[2] == systems.exvit.SIZE.width
    if name in systems.PUBLISHED:
        network, _ = systems.PUBLISHED[name]().init(np.random.default_rng(0), np.float32)
        found["published"] = {*weights.named(network)} <= {*arrays}
    if "text.token_embedding.weight" in arrays:
        width = arrays["text.token_embedding.weight"].shape[-1]
        blocks = {n.split(".")[3] for n in arrays if n.startswith("text.transformer.resblocks.")}
        heads = width // 64 if width % 64 == 0 else 1  # CLIP's rule
        found |= {"text_width": width, "text_layers": len(blocks), "text_heads": heads}
    settings = systems.PAPER._replace(**found | chosen)
    systems.check(settings)
    return settings


def read_batch(path: Path, name: str, settings: systems.Settings) -> tuple[np.ndarray, np.ndarray]:
    """(x, y) of an .npz with x, or sen1 and sen2, and y; its `tokens`, if any, must be those of our prompts."""

    def accept(entries):
        names = {entry.name for entry in entries}
        if "y" not in names or not ({"x"} <= names or {"sen1", "sen2"} <= names):
            raise ValueError(f"{path}: found {', '.join(sorted(names))}; expected y, and x or both sen1 and sen2")

    arrays = archives.read_npz(path, accept, only=("x", "sen1", "sen2", "y", "tokens"))
    x = arrays["x"] if "x" in arrays else np.concatenate([arrays["sen1"], arrays["sen2"]], axis=-1)
    y = arrays["y"]
    patch = (paper.PATCH, paper.PATCH, sum(paper.CHANNELS.values()))
    if x.dtype.kind != "f" or x.shape[1:] != patch or not np.isfinite(x).all():
        raise ValueError(
            f"{path}: x is {x.dtype} of shape {x.shape}; expected finite floats (B, {str(patch)[1:-1]}), "
            "standardised, channels last: 8 of sen1, then 10 of sen2"
        )
    if y.dtype.kind not in "iu" or y.shape != (len(x),) or not len(y) or y.min() < 0 or y.max() > 16:
        raise ValueError(
            f"{path}: y is {y.dtype} of shape {y.shape}; expected {len(x)} whole numbers, classes from 0 to 16"
        )
    if "tokens" in arrays and systems.find(name).prompting:
        check_tokens(path, arrays["tokens"], systems.prompt_tokens(systems.tokenizer(settings.vocabulary)))
    return x, y.astype(int)


def check_tokens(path: Path, theirs: np.ndarray, ours: np.ndarray) -> None:
    """ValueError that names the first prompt whose token ids differ; padding may have any length."""
    length = ours.shape[-1]
    if theirs.dtype.kind not in "iu" or theirs.shape[:-1] != ours.shape[:-1] or theirs.shape[-1] < length:
        raise ValueError(
            f"{path}: tokens are {theirs.dtype} of shape {theirs.shape}; expected whole numbers {ours.shape[:-1]} "
            f"+ (L,) with L of {length} or more: the prompt of every class and band group"
        )
    wrong = np.argwhere((theirs[..., :length] != ours).any(-1))
    if len(wrong):
        k, i = wrong[0]
        text = prompts.prompts()[k * ours.shape[1] + i]
        raise ValueError(
            f"{path}: tokens differ from ours in {len(wrong)} of {ours[..., 0].size} prompts, first in {text!r}: "
            f"found {theirs[k, i, :length].tolist()}, ours {ours[k, i].tolist()}; for another vocabulary give "
            "--set vocabulary=MERGES"
        )


def write(path: Path, arrays: dict[str, np.ndarray], say: Callable[[str], None]) -> None:
    """The trace as .npz, whole or not at all; its size is said first."""
    total = sum(a.nbytes for a in arrays.values())
    say(f"{path}: {len(arrays) - 1} arrays, {total / 1e6:,.0f} MB")
    with files.whole(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, allow_pickle=False, **arrays)  # type: ignore[arg-type]

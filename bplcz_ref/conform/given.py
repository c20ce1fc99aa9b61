"""What `conform trace` is given: weights and a batch from files, and the system that the weights belong to."""

from pathlib import Path
from typing import Any

import numpy as np

from bplcz_ref import paper, prompts, systems
from bplcz_ref.conform.tracing import trace
from bplcz_ref.storage import files, weights
from bplcz_ref.training import evaluate, runs


def from_files(
    weights_file: Path, batch_file: Path, name: str | None, chosen: dict, **options: Any
) -> dict[str, np.ndarray]:
    """`trace` of a system of systems.py with weights and a batch from files; prints which system it is."""
    arrays, config = read_weights(weights_file)
    name = name or (config["system"] if config else system_of(arrays, weights_file))
    settings = runs.settings_of(config)._replace(**chosen) if config else settings_of(arrays, name, chosen)
    network = systems.build(name, settings)
    params, state = weights.load(arrays, network, dtype="float64")
    x, y = read_batch(batch_file, name, settings)
    reduced = systems.reduced({"system": name, "settings": settings._asdict()})
    print(f"{name}{reduced}, {weights.count(params):,} parameters, {len(x)} patches")
    rule = {key: getattr(settings, key) for key in ("learning_rate", "momentum", "weight_decay")}
    return trace(network, params, state, (x, y), **rule, **options)


def read_weights(path: Path) -> tuple[dict, dict | None]:
    """({public name: array}, config.json) of a run folder or its checkpoint.npz; other files have no config."""
    run = path.parent if path.name == "checkpoint.npz" else path
    if path.is_dir() or (run / "config.json").exists():
        trained = evaluate.load(run)
        return weights.named(trained.params) | weights.named(trained.state), trained.config
    return {name: a for name, a in weights.read_arrays(path).items() if name not in weights.INPUT}, None


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
    for last in ("branches.RGB.proj", "branches.RGB.mlp_head1.1", "vectors.RGB.mlp_head1.1"):
        if f"{last}.weight" in arrays:
            found["features"] = len(arrays[f"{last}.weight"])
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
    arrays = files.read_npz(path)
    if "y" not in arrays or not ({"x"} <= arrays.keys() or {"sen1", "sen2"} <= arrays.keys()):
        raise ValueError(f"{path}: found {', '.join(sorted(arrays))}; expected y, and x or both sen1 and sen2")
    x = arrays["x"] if "x" in arrays else np.concatenate([arrays["sen1"], arrays["sen2"]], axis=-1)
    y = arrays["y"]
    is_ = lambda name, a: f"{path}: {name} is {a.dtype} of shape {a.shape}; expected"
    patch = (paper.PATCH, paper.PATCH, sum(paper.CHANNELS.values()))
    if x.dtype.kind != "f" or x.shape[1:] != patch or not np.isfinite(x).all():
        last = "standardised, channels last: 8 of sen1, then 10 of sen2"
        raise ValueError(f"{is_('x', x)} finite floats (B, {str(patch)[1:-1]}), {last}")
    if y.dtype.kind not in "iu" or y.shape != (len(x),) or not len(y) or y.min() < 0 or y.max() > 16:
        raise ValueError(f"{is_('y', y)} {len(x)} whole numbers, classes from 0 to 16")
    if "tokens" in arrays and systems.find(name).prompting:
        check_tokens(path, arrays["tokens"], systems.prompt_tokens(systems.tokenizer(settings.vocabulary)))
    return x, y.astype(int)


def check_tokens(path: Path, theirs: np.ndarray, ours: np.ndarray) -> None:
    """ValueError that names the first prompt whose token ids differ; padding may have any length."""
    *rows, length = ours.shape
    if theirs.dtype.kind not in "iu" or [*theirs.shape[:-1]] != rows or theirs.shape[-1] < length:
        said = f"whole numbers {rows} + [L] with L of {length} or more: the prompt of every class and band group"
        raise ValueError(f"{path}: tokens are {theirs.dtype} of shape {theirs.shape}; expected {said}")
    wrong = np.argwhere((theirs[..., :length] != ours).any(-1))
    if len(wrong):
        k, i = wrong[0]
        text = prompts.prompts()[k * rows[1] + i]
        said = f"{len(wrong)} of {ours[..., 0].size} prompts, first in {text!r}: found"
        both = f"{theirs[k, i, :length].tolist()}, ours {ours[k, i].tolist()}"
        vocabulary = "for another vocabulary give --set vocabulary=MERGES"
        raise ValueError(f"{path}: tokens differ from ours in {said} {both}; {vocabulary}")

"""Parameters by the names of the public implementations: flat views, and files to and from other programs.

A network's parameters are nested dicts whose dotted names, shapes and layouts are those of the public state_dict
(torchvision, openai/CLIP, ExViT); its buffers are in a second dict, the state. So a file needs no conversion:
`load` reads .npz, .h5 and .safetensors, `save` writes them. PyTorch's .pt is a pickle and is not opened.
examples/hugging_face_names.py renames the arrays of Hugging Face's text towers.
"""

import importlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from bplcz_ref import layers
from bplcz_ref.storage import files

COUNT = "num_batches_tracked"
BUFFERS = ("running_mean", "running_var", COUNT)
PICKLES = (".pt", ".pth", ".bin", ".pkl", ".ckpt")


def named(tree: dict, prefix: str = "") -> dict:
    """{dotted name: leaf} of a nested dict, in order; it serves parameters and their gradients.

    >>> named({"conv1": {"weight": 1, "bias": 2}, "scale": 3})
    {'conv1.weight': 1, 'conv1.bias': 2, 'scale': 3}
    """
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat |= named(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def nested(flat: dict) -> dict:
    """The inverse of `named`.

    >>> nested({"conv1.weight": 1, "conv1.bias": 2, "scale": 3})
    {'conv1': {'weight': 1, 'bias': 2}, 'scale': 3}
    """
    tree: dict[str, Any] = {}
    for name, leaf in flat.items():
        node = tree
        *path, last = name.split(".")
        for part in path:
            node = node.setdefault(part, {})
        node[last] = leaf
    return tree


def like(tree: dict, flat: dict, source: str) -> dict:
    """`flat` arrays in the shape of `tree`, each in the dtype of its place; every difference named at once.

    >>> like({"w": np.zeros(2), "b": np.zeros(1)}, {"w": np.zeros(3), "c": np.zeros(1)}, "here.npz")
    Traceback (most recent call last):
      ...
    ValueError: here.npz does not fit this network:
      missing: b
      unexpected: c
      w: shape (3,), expected (2,)
    """
    want = named(tree)
    check_like(want, flat, source)
    return nested({name: placed(np.asarray(flat[name], np.asarray(leaf).dtype)) for name, leaf in want.items()})


def placed(leaf: np.ndarray) -> np.ndarray:
    """A leaf as the layers take it fastest: weights of convolutions in layers.kernel_order."""
    return layers.kernel_order(leaf) if leaf.ndim == 4 else leaf


def check_like(want: dict, flat: dict, source: str) -> None:
    """ValueError that names every missing, unexpected and misshapen array of `flat`."""
    own = [name for name in flat if name.split(".")[-1] != COUNT]  # which `load` may have added
    prefix = os.path.commonprefix(own)
    prefix = prefix[: prefix.rfind(".") + 1]
    if prefix and not want.keys() & set(own) and want.keys() & {name.removeprefix(prefix) for name in own}:
        raise ValueError(
            f"{source}: all names begin with {prefix!r}, as DataParallel or torch.compile make them: give"
            f" {{name.removeprefix({prefix!r}): array for name, array in weights.items()}}"
        )
    missing, unexpected = (", ".join(n for n in a if n not in b) for a, b in ((want, flat), (flat, want)))
    wrong = [f"missing: {missing}"] * bool(missing) + [f"unexpected: {unexpected}"] * bool(unexpected)
    wrong += [
        f"{name}: shape {np.shape(flat[name])}, expected {np.shape(leaf)}"
        for name, leaf in want.items()
        if name in flat and np.shape(flat[name]) != np.shape(leaf)
    ]
    if wrong:
        raise ValueError("\n  ".join([f"{source} does not fit this network:", *wrong]))


def count(params: dict) -> int:
    """How many numbers a nested dict of arrays holds.

    >>> count({"weight": np.zeros((2, 3)), "bias": np.zeros(2)})
    8
    """
    return sum(np.size(leaf) for leaf in named(params).values())


def sizes(params: dict) -> dict[str, int]:
    """{part: how many numbers it holds} of the first level of a nested dict.

    >>> sizes({"branches": {"RGB": {"weight": np.zeros((2, 3))}}, "classifier": {"bias": np.zeros(2)}})
    {'branches': 6, 'classifier': 2}
    """
    return {name: count({name: tree}) for name, tree in params.items()}


def load(
    source: dict | str | Path, network: Any = None, *, dtype: Any = None, ignore: Iterable[str] = ()
) -> tuple[dict, dict]:
    """Weights under public names -> (params, state), nested; buffers (running statistics) go to the state.

    source    a dict {name: array}, or a .npz, .h5 or .safetensors file (the last needs the library safetensors)
    network   a Network or Model to fit: missing, unexpected and misshapen names are listed all at once
    dtype     of the floating arrays; None keeps what is stored
    ignore    beginnings of names to leave out, such as ("visual.", "logit_scale") of a whole CLIP

    Errors: ValueError that names the file and every array that does not fit, is not floating or is not finite.

    >>> from bplcz_ref import layers
    >>> params, state = load({"weight": np.ones((2, 3)), "bias": np.zeros(2)}, layers.linear(3, 2))
    >>> params["weight"].shape, state
    ((2, 3), {})
    """
    found, where = (source, "the dict") if isinstance(source, dict) else (read_arrays(source), str(source))
    arrays = {name: np.asarray(a) for name, a in found.items() if not name.startswith(tuple(ignore))}
    if dtype is not None:
        with np.errstate(over="ignore"):  # a value too large for dtype becomes infinite, which is found below
            arrays = {name: a.astype(dtype) if a.dtype.kind == "f" else a for name, a in arrays.items()}
    buffers = [name for name in arrays if name.split(".")[-1] in BUFFERS]
    if network is not None:
        params, state = map(named, network.init(np.random.default_rng(0), np.dtype(dtype or "float32")))
        # Older files lack the count of batches, which is 0 then.
        arrays = {name: np.array(0) for name in state if name.endswith(COUNT)} | arrays
        check_like(params | state, arrays, where)
        arrays, buffers = {name: placed(arrays[name]) for name in params | state}, list(state)
    check_finite_floats(arrays, where)
    state = {name: arrays.pop(name) for name in buffers}
    return nested(arrays), nested(state)


def check_finite_floats(arrays: dict, where: str) -> None:
    """ValueError that names every array that is not floating (a count of batches may be whole) or not finite."""
    wrong = []
    for name, leaf in arrays.items():
        if leaf.dtype.kind == "f" and not (finite := np.isfinite(leaf)).all():
            count = np.count_nonzero(~finite)
            wrong.append(f"{name}: {count} of {leaf.size} values are not finite in {leaf.dtype}")
        elif leaf.dtype.kind not in ("iuf" if name.split(".")[-1] == COUNT else "f"):
            wrong.append(f"{name}: dtype {leaf.dtype}; expected float16, float32 or float64")
    if wrong:
        raise ValueError("\n  ".join([f"{where} cannot be used as weights:", *wrong]))


def read_arrays(path: str | Path) -> dict:
    """{name: array} of a .npz, .h5 or .safetensors file, as stored. Errors: ValueError that names the file."""
    path = check_ending(path)
    if path.suffix == ".npz":
        return files.read_npz(path)
    if path.suffix == ".h5":
        with files.reading(path), h5py.File(path, "r") as file:
            return _tree(file, f"{path}: ")
    library = safetensors_numpy(path)
    with files.reading(
        path, f"{files.DAMAGED}, or hold bfloat16 or float8, which NumPy lacks: save it as float32"
    ):
        return library.load_file(path)


def _tree(group, where, prefix=""):
    """{dotted name: array} of all that is in an HDF5 group, through its links."""
    arrays = {}
    for name in group:
        item = group[name]
        if isinstance(item, h5py.Group):
            arrays |= _tree(item, where, f"{prefix}{name}.")
        else:
            files.check_stored(item, f"{where}{prefix}{name}")
            arrays[f"{prefix}{name}"] = item[()]
    return arrays


def save(path: str | Path, params: dict, state: dict | None = None) -> None:
    """Write parameters and buffers under their public names, by the file's ending: .npz, .h5 or .safetensors.

    In PyTorch: module.load_state_dict(safetensors.torch.load_file(path)), or from the .npz by torch.from_numpy.
    Errors: ValueError for values that are no numbers, and for a name with a slash, which .h5 files take for two.
    """
    path = check_ending(path)
    # safetensors writes memory in the order it has, so the arrays must be in C order
    arrays = {name: np.asarray(leaf, order="C") for name, leaf in (named(params) | named(state or {})).items()}
    for name, leaf in arrays.items():
        if "/" in name or leaf.dtype.kind not in "fiu":
            raise ValueError(f"{path}: {name} is {leaf.dtype}; expected numbers under a name without a slash")
    with files.whole(path) as temporary:
        if path.suffix == ".npz":
            with open(temporary, "wb") as binary:
                np.savez(binary, **arrays)  # type: ignore[arg-type]
        elif path.suffix == ".h5":
            with h5py.File(temporary, "w", libver=files.HDF5_FORMAT) as file:
                for name, leaf in arrays.items():
                    file[name] = leaf
        else:
            safetensors_numpy(path).save_file(arrays, temporary)


def check_ending(path: str | Path) -> Path:
    """The path; ValueError unless it ends in .npz, .h5 or .safetensors."""
    path = Path(path)
    if path.suffix in PICKLES:
        raise ValueError(
            f"{path}: {path.suffix} files are pickles, which run code when opened, so they are not read here; in "
            "PyTorch, safetensors.torch.save_file(module.state_dict(), 'weights.safetensors') makes one that is"
        )
    if path.suffix not in (".npz", ".h5", ".safetensors"):
        raise ValueError(f"{path}: the ending is {path.suffix!r}; expected .npz, .h5 or .safetensors")
    return path


def safetensors_numpy(path: Path) -> Any:
    """The module safetensors.numpy; ValueError where it is not installed."""
    try:
        return importlib.import_module("safetensors.numpy")
    except ImportError:
        raise ValueError(f"{path} needs the library safetensors: python -m pip install safetensors") from None


INPUT = ("input.mean", "input.std", "input.clip_sen1")  # beside the weights in an exported file


def export(run: Any, path: str | Path) -> None:
    """Write what a trained run needs to classify: weights, and how its input is standardised.

    run: what `training.evaluate.load(FOLDER)` gives. Beside the weights under their public names stand
    `input.mean` and `input.std` (18,), and `input.clip_sen1` (), inf where sen1 is not clipped.
    examples/pytorch_classify.py opens such a file in PyTorch; `imported` brings it back, trained further or not.
    """
    mean, std, clip = run.statistics
    own = zip(INPUT, (mean, std, np.array(np.inf if clip is None else clip)), strict=True)
    save(path, run.params | nested(dict(own)), run.state)


def imported(run: Any, path: str | Path) -> Any:
    """`run` with the weights, buffers and standardisation of an exported file.

    Errors: ValueError for a file that does not fit the run's network or lacks its standardisation.
    """
    arrays = read_arrays(path)
    if missing := [name for name in INPUT if name not in arrays]:
        raise ValueError(f"{path} lacks {', '.join(missing)}: it was not written by weights.export")
    mean, std, clip = (np.asarray(arrays[name], np.float64) for name in INPUT)
    shapes = mean.shape == std.shape == run.statistics.mean.shape and clip.shape == ()
    if not (shapes and clip > 0 and np.isfinite([mean, std]).all() and (std >= 0).all()):
        raise ValueError(
            f"{path}: input.mean is {mean.shape}, input.std {std.shape}, input.clip_sen1 {clip}; expected (18,)"
            " twice, finite, deviations of 0 or more, and a positive bound"
        )
    params, state = load(arrays, run.network, dtype=run.dtype, ignore=("input.",))
    statistics = run.statistics._replace(mean=mean, std=std, clip_sen1=None if np.isinf(clip) else float(clip))
    return run._replace(params=params, state=state, statistics=statistics)

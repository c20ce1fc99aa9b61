"""Parameters by the names of the public implementations: flat views, and files to and from other programs.

A network's parameters are nested dicts whose dotted names, shapes and layouts are those of the public state_dict
(torchvision, openai/CLIP, ExViT); its buffers are in a second dict, the state. So a file needs no conversion:
`load` reads .npz, .h5 and .safetensors, `save` writes them. PyTorch's .pt is a pickle and is not opened.
"""

import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from bplcz_ref import files

COUNT = "num_batches_tracked"
BUFFERS = ("running_mean", "running_var", COUNT)
PICKLES = (".pt", ".pth", ".bin", ".pkl", ".ckpt")

# --------------------------------------------------------------------------------- names: nested and flat dicts


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


def nested(flat: dict, source: str = "the dict") -> dict:
    """The inverse of `named`. Errors: ValueError for a name that is also the beginning of another ("a", "a.b").

    >>> nested({"conv1.weight": 1, "conv1.bias": 2, "scale": 3})
    {'conv1': {'weight': 1, 'bias': 2}, 'scale': 3}
    """
    tree: dict[str, Any] = {}
    for name, leaf in flat.items():
        *path, last = name.split(".")
        node = tree
        for i, part in enumerate(path, 1):
            above = ".".join(path[:i])
            if above in flat:
                raise ValueError(
                    f"{source} holds both {above} and {name}: an array and a part cannot share a name"
                )
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
    missing = [name for name in want if name not in flat]
    unexpected = [name for name in flat if name not in want]
    wrong = [
        f"{name}: shape {np.shape(flat[name])}, expected {np.shape(want[name])}"
        for name in want
        if name in flat and np.shape(flat[name]) != np.shape(want[name])
    ]
    lines = [f"missing: {', '.join(missing)}"] * bool(missing)
    lines += [f"unexpected: {', '.join(unexpected)}"] * bool(unexpected) + wrong
    if lines:
        raise ValueError("\n  ".join([f"{source} does not fit this network:", *lines]))
    return nested({name: np.asarray(flat[name], dtype=np.asarray(leaf).dtype) for name, leaf in want.items()})


def count(params: dict) -> int:
    """How many numbers a nested dict of arrays holds.

    >>> count({"weight": np.zeros((2, 3)), "bias": np.zeros(2)})
    8
    """
    return sum(np.size(leaf) for leaf in named(params).values())


# -------------------------------------------------------------------------------------------- load and save


def load(
    source: dict | str | Path, network: Any = None, *, dtype: Any = None, ignore: Iterable[str] = ()
) -> tuple[dict, dict]:
    """Weights under public names -> (params, state), nested; buffers (running statistics) go to the state.

    source    a dict {name: array}, or a .npz, .h5 or .safetensors file (the last needs the library safetensors)
    network   a Network or Model to fit: missing, unexpected and misshapen names are listed all at once
    dtype     of the floating arrays; None keeps what is stored
    ignore    beginnings of names to leave out, such as ("visual.", "logit_scale") of a whole CLIP

    Names of torchvision, openai/CLIP and ExViT are used unchanged. Those of Hugging Face's text towers begin with
    "text_model." (CLIPTextModelWithProjection, CLIPModel); `openai_names` turns them into openai/CLIP's.
    Errors: ValueError that names the file and every array that does not fit, is not floating or is not finite.

    >>> from bplcz_ref import nn
    >>> params, state = load({"weight": np.ones((2, 3)), "bias": np.zeros(2)}, nn.dense(3, 2))
    >>> params["weight"].shape, state
    ((2, 3), {})
    """
    arrays, where = (source, "the dict") if isinstance(source, dict) else (read_arrays(source), str(source))
    arrays = {name: np.asarray(leaf) for name, leaf in arrays.items() if not name.startswith(tuple(ignore))}
    if any(name.startswith("text_model.") for name in arrays):
        arrays = openai_names(arrays, where)
    if dtype is not None:
        with np.errstate(over="ignore"):  # a value too large for dtype becomes infinite, which is found below
            arrays = {name: a.astype(dtype) if a.dtype.kind == "f" else a for name, a in arrays.items()}
    if network is not None:
        return _fitted(arrays, network, np.dtype(dtype or "float32"), where)
    check_finite_floats(arrays, where)
    state = {name: leaf for name, leaf in arrays.items() if name.split(".")[-1] in BUFFERS}
    params = {name: leaf for name, leaf in arrays.items() if name not in state}
    return nested(params, where), nested(state, where)


def _fitted(arrays, network, dtype, where):
    """The arrays in the shape of the network's own params and state, after checking that they fit."""
    params, state = (named(tree) for tree in network.init(np.random.default_rng(0), dtype))
    shapes = {name: np.broadcast_to(0, np.shape(leaf)) for name, leaf in (params | state).items()}
    for name in shapes:
        if name.endswith(COUNT):  # older files lack it; PyTorch assumes 0 then
            arrays.setdefault(name, np.array(0))
    check_finite_floats({name: arrays[name] for name in shapes if name in arrays}, where)
    like(nested(shapes), arrays, where)
    return nested({name: arrays[name] for name in params}), nested({name: arrays[name] for name in state})


def check_finite_floats(arrays: dict, where: str) -> None:
    """ValueError that names every array that is not floating (a count of batches may be whole) or not finite."""
    wrong = [
        f"{name}: dtype {leaf.dtype}; expected float16, float32 or float64"
        for name, leaf in arrays.items()
        if leaf.dtype.kind != "f" and not (leaf.dtype.kind in "iu" and name.split(".")[-1] == COUNT)
    ]
    wrong += [
        f"{name}: {np.count_nonzero(~np.isfinite(leaf))} of {leaf.size} values are not finite in {leaf.dtype}"
        for name, leaf in arrays.items()
        if leaf.dtype.kind == "f" and not np.isfinite(leaf).all()
    ]
    if wrong:
        raise ValueError("\n  ".join([f"{where} cannot be used as weights:", *wrong]))


def save(path: str | Path, params: dict, state: dict | None = None) -> None:
    """Write parameters and buffers under their public names, by the file's ending: .npz, .h5 or .safetensors.

    In PyTorch: module.load_state_dict(safetensors.torch.load_file(path)), or from the .npz by torch.from_numpy.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "w.npz"
    >>> save(path, {"weight": np.ones(2)})
    >>> load(path)
    ({'weight': array([1., 1.])}, {})
    """
    path = Path(path)
    params, state = named(params), named(state or {})
    for name in state:
        if name in params:
            raise ValueError(f"{name} is both a parameter and a buffer")
    # safetensors writes memory in the order it has, so the arrays must be in C order
    arrays: dict[str, Any] = {name: np.asarray(leaf, order="C") for name, leaf in (params | state).items()}
    check_ending(path)
    with files.whole(path) as temporary:
        if path.suffix == ".npz":
            with open(temporary, "wb") as file:
                np.savez(file, **arrays)
        elif path.suffix == ".h5":
            with h5py.File(temporary, "w") as file:
                for name, leaf in arrays.items():
                    file[name] = leaf
        else:
            safetensors_numpy(path).save_file(arrays, temporary)


# ---------------------------------------------------------------------------------------------------- files


def read_arrays(path: str | Path) -> dict:
    """{name: array} of a .npz, .h5 or .safetensors file, as stored. Errors: ValueError that names the file."""
    path = Path(path)
    check_ending(path)
    if not path.is_file():
        raise ValueError(f"{path}: there is no such file")
    read = {".npz": _read_npz, ".h5": _read_h5}.get(path.suffix) or safetensors_numpy(path).load_file
    try:
        return read(path)
    except Exception as error:
        raise ValueError(f"{path} cannot be read as {path.suffix}: {error}") from None


def _read_npz(path):
    if not zipfile.is_zipfile(path):  # numpy would mistake it for a pickle, and its message would mislead
        raise ValueError("it is not a zip archive of arrays, as numpy.savez writes it")
    with np.load(path, allow_pickle=False) as file:
        return dict(file)


def _read_h5(path):
    arrays = {}

    def take(name, item):
        if isinstance(item, h5py.Dataset):
            arrays[name.replace("/", ".")] = item[()]

    with h5py.File(path, "r") as file:
        file.visititems(take)
    return arrays


def check_ending(path: Path) -> None:
    """ValueError unless the file is .npz, .h5 or .safetensors."""
    if path.suffix in PICKLES:
        raise ValueError(
            f"{path}: {path.suffix} files are pickles, which run code when opened, so they are not read here; in "
            "PyTorch, safetensors.torch.save_file(module.state_dict(), 'weights.safetensors') makes one that is"
        )
    if path.suffix not in (".npz", ".h5", ".safetensors"):
        raise ValueError(f"{path}: the ending is {path.suffix!r}; expected .npz, .h5 or .safetensors")


def safetensors_numpy(path: Path) -> Any:
    """The module safetensors.numpy; ValueError where it is not installed."""
    try:
        import safetensors.numpy
    except ImportError:
        raise ValueError(f"{path} needs the library safetensors: python -m pip install safetensors") from None
    return safetensors.numpy


# ------------------------------------------------------------------------------------- Hugging Face's names

HUGGING_FACE = {
    "text_model.embeddings.token_embedding.weight": "token_embedding.weight",
    "text_model.embeddings.position_embedding.weight": "positional_embedding",
    "text_model.final_layer_norm.weight": "ln_final.weight",
    "text_model.final_layer_norm.bias": "ln_final.bias",
}
HUGGING_FACE_LAYER = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}


def openai_names(arrays: dict, where: str) -> dict:
    """Hugging Face's CLIPTextModelWithProjection under openai/CLIP's names.

    q, k and v are packed into in_proj, and the projection is transposed. Unknown names stay as they are.
    Errors: ValueError for a layer without all of q, k and v.

    >>> sorted(openai_names({"text_model.final_layer_norm.bias": np.zeros(1),
    ...                      "text_model.embeddings.position_ids": np.zeros(1)}, "a dict"))
    ['ln_final.bias']
    """
    renamed: dict[str, Any] = {}
    packed: dict[str, dict] = {}  # in_proj -> its thirds by letter
    for name, leaf in arrays.items():
        if name in HUGGING_FACE:
            renamed[HUGGING_FACE[name]] = leaf
        elif name == "text_projection.weight":
            renamed["text_projection"] = leaf.T
        elif name.startswith("text_model.encoder.layers."):
            layer, rest = name.removeprefix("text_model.encoder.layers.").split(".", 1)
            piece, kind = rest.rsplit(".", 1)  # such as "mlp.fc1" and "weight"
            block = f"transformer.resblocks.{layer}"
            if piece in HUGGING_FACE_LAYER:
                renamed[f"{block}.{HUGGING_FACE_LAYER[piece]}.{kind}"] = leaf
            elif piece in ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"):
                letter = piece.removeprefix("self_attn.")[0]
                packed.setdefault(f"{block}.attn.in_proj_{kind}", {})[letter] = leaf
            else:
                renamed[name] = leaf
        elif name != "text_model.embeddings.position_ids":  # 0, 1, 2, ...: not a weight
            renamed[name] = leaf
    for name, thirds in packed.items():
        if set(thirds) != set("qkv"):
            raise ValueError(f"{where}: {name} needs q_proj, k_proj and v_proj, found {', '.join(sorted(thirds))}")
        renamed[name] = np.concatenate([thirds[letter] for letter in "qkv"])
    return renamed

"""Parameters by the names of the public implementations: flat views, and files from elsewhere and for elsewhere.

A network's parameters are nested dicts whose dotted names, shapes and layouts are those of the public state_dict
(torchvision, openai/CLIP, ExViT); its buffers stand in a second dict, the state. So a file needs no conversion:
`load` reads .npz, .h5 and .safetensors, `save` writes them. PyTorch's .pt is a pickle and is not opened.
"""

import zipfile
from pathlib import Path

import h5py
import numpy as np

from bplcz_ref import files

BUFFERS = ("running_mean", "running_var", "num_batches_tracked")


def named(tree, prefix=""):
    """{dotted name: leaf} of a nested dict, in order: of parameters, and of their gradients just so.

    >>> named({"conv1": {"weight": 1, "bias": 2}, "scale": 3})
    {'conv1.weight': 1, 'conv1.bias': 2, 'scale': 3}
    """
    flat = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat |= named(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def nested(flat, source="the dict"):
    """The inverse of `named`. Errors: ValueError for a name that is also the beginning of another ("a", "a.b").

    >>> nested({"conv1.weight": 1, "conv1.bias": 2, "scale": 3})
    {'conv1': {'weight': 1, 'bias': 2}, 'scale': 3}
    """
    tree = {}
    for name, leaf in flat.items():
        *path, last = name.split(".")
        node = tree
        for i in range(1, len(path) + 1):
            above = ".".join(path[:i])
            if above in flat:
                raise ValueError(
                    f"{source} holds both {above} and {name}: an array and a part cannot share a name"
                )
            node = node.setdefault(path[i - 1], {})
        node[last] = leaf
    return tree


def like(tree, flat, source):
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


def count(params):
    """How many numbers a nested dict of arrays holds.

    >>> count({"weight": np.zeros((2, 3)), "bias": np.zeros(2)})
    8
    """
    return sum(np.size(leaf) for leaf in named(params).values())


def load(source, network=None, *, dtype=None, ignore=()):
    """Weights under public names -> (params, state), nested; buffers (running statistics) go to the state.

    source    a dict {name: array}, or a .npz, .h5 or .safetensors file (the last needs the library safetensors)
    network   a Network or Model to fit: missing, unexpected and misshapen names are listed all at once
    dtype     of the floating arrays; None keeps what is stored
    ignore    beginnings of names to leave out, such as ("visual.", "logit_scale") of a whole CLIP

    Names of torchvision, openai/CLIP and ExViT are taken as they are; those of Hugging Face's text towers, which
    begin with "text_model." (CLIPTextModelWithProjection, CLIPModel), are recognised and turned into openai/CLIP's
    (q, k, v packed into in_proj, the projection transposed).

    Errors: ValueError that names the file and what does not fit; arrays that are not floating (buffers that count
    may be whole numbers), or not finite in the dtype they end up in; a name that is also the beginning of another.

    >>> from bplcz_ref import nn
    >>> params, state = load({"weight": np.ones((2, 3)), "bias": np.zeros(2)}, nn.dense(3, 2))
    >>> params["weight"].shape, state
    ((2, 3), {})
    """
    arrays, text = ({**source}, "the dict") if isinstance(source, dict) else (read_arrays(source), str(source))
    arrays = {name: np.asarray(leaf) for name, leaf in arrays.items() if not name.startswith(tuple(ignore))}
    if any(name.startswith("text_model.") for name in arrays):
        arrays = openai_names(arrays, text)
    if dtype is not None:
        with np.errstate(over="ignore"):  # what is too large for dtype is found as not finite
            arrays = {n: a.astype(dtype) if a.dtype.kind == "f" else a for n, a in arrays.items()}
    if network is not None:
        wanted = [named(tree) for tree in network.init(np.random.default_rng(0), np.dtype(dtype or "float32"))]
        shapes = {name: np.broadcast_to(0, np.shape(leaf)) for tree in wanted for name, leaf in tree.items()}
        for name in shapes:
            if name.endswith("num_batches_tracked"):  # older files lack it; PyTorch takes 0 then
                arrays.setdefault(name, np.array(0))
        check_values({name: arrays[name] for name in shapes if name in arrays}, text)
        like(nested(shapes), arrays, text)
        return tuple(nested({name: arrays[name] for name in tree}) for tree in wanted)
    check_values(arrays, text)
    state = {name: leaf for name, leaf in arrays.items() if name.split(".")[-1] in BUFFERS}
    return nested({n: leaf for n, leaf in arrays.items() if n not in state}, text), nested(state, text)


def check_values(arrays, text):
    """Floating and finite, all of them; a count of batches may be whole."""
    wrong = [
        f"{name}: dtype {leaf.dtype}; expected float16, float32 or float64"
        for name, leaf in arrays.items()
        if leaf.dtype.kind != "f" and not (leaf.dtype.kind in "iu" and name.split(".")[-1] == BUFFERS[-1])
    ]
    wrong += [
        f"{name}: {np.count_nonzero(~np.isfinite(leaf))} of {leaf.size} values are not finite in {leaf.dtype}"
        for name, leaf in arrays.items()
        if leaf.dtype.kind == "f" and not np.isfinite(leaf).all()
    ]
    if wrong:
        raise ValueError("\n  ".join([f"{text} cannot be used as weights:", *wrong]))


def save(path, params, state=None):
    """Write parameters and buffers under their public names, by the file's ending: .npz, .h5 or .safetensors.

    In PyTorch: module.load_state_dict(safetensors.torch.load_file(path)), or from the .npz by torch.from_numpy.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "w.npz"
    >>> save(path, {"weight": np.ones(2)})
    >>> load(path)
    ({'weight': array([1., 1.])}, {})
    """
    path = Path(path)
    arrays = {name: np.asarray(leaf, order="C") for name, leaf in named({**params}).items()}
    for name, leaf in named(state or {}).items():
        if name in arrays:
            raise ValueError(f"{name} is both a parameter and a buffer")
        arrays[name] = np.asarray(leaf, order="C")  # safetensors writes memory as it lies
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


def read_arrays(path):
    """{name: array} of a file, as stored."""
    path = Path(path)
    check_ending(path)
    if not path.is_file():
        raise ValueError(f"{path}: there is no such file")
    safetensors = safetensors_numpy(path) if path.suffix == ".safetensors" else None
    try:
        if path.suffix == ".npz":
            if not zipfile.is_zipfile(path):  # numpy would take it for a pickle and say so
                raise ValueError("it is not a zip archive of arrays, as numpy.savez writes it")
            with np.load(path, allow_pickle=False) as file:
                return dict(file)
        if path.suffix == ".h5":
            arrays = {}

            def take(name, item):
                if isinstance(item, h5py.Dataset):
                    arrays[name.replace("/", ".")] = item[()]

            with h5py.File(path, "r") as file:
                file.visititems(take)
            return arrays
        return safetensors.load_file(path)
    except Exception as error:
        raise ValueError(f"{path} cannot be read as {path.suffix}: {error}") from None


def check_ending(path):
    if path.suffix in (".pt", ".pth", ".bin", ".pkl", ".ckpt"):
        raise ValueError(
            f"{path}: {path.suffix} files are pickles, which run code when opened, so they are not; in PyTorch, "
            "safetensors.torch.save_file(module.state_dict(), 'weights.safetensors') makes one that is read here"
        )
    if path.suffix not in (".npz", ".h5", ".safetensors"):
        raise ValueError(f"{path}: the ending is {path.suffix!r}; expected .npz, .h5 or .safetensors")


def safetensors_numpy(path):
    try:
        import safetensors.numpy
    except ImportError:
        raise ValueError(f"{path} needs the library safetensors: python -m pip install safetensors") from None
    return safetensors.numpy


def openai_names(arrays, text):
    """Hugging Face's CLIPTextModelWithProjection under openai/CLIP's names.

    >>> sorted(openai_names({"text_model.final_layer_norm.bias": np.zeros(1),
    ...                      "text_model.embeddings.position_ids": np.zeros(1)}, "a dict"))
    ['ln_final.bias']
    """
    whole = {
        "text_model.embeddings.token_embedding.weight": "token_embedding.weight",
        "text_model.embeddings.position_embedding.weight": "positional_embedding",
        "text_model.final_layer_norm.weight": "ln_final.weight",
        "text_model.final_layer_norm.bias": "ln_final.bias",
    }
    part = {
        "layer_norm1": "ln_1",
        "layer_norm2": "ln_2",
        "mlp.fc1": "mlp.c_fc",
        "mlp.fc2": "mlp.c_proj",
        "self_attn.out_proj": "attn.out_proj",
    }
    renamed, packed = {}, {}
    for name, leaf in arrays.items():
        if name in whole:
            renamed[whole[name]] = leaf
        elif name == "text_projection.weight":
            renamed["text_projection"] = leaf.T
        elif name.startswith("text_model.encoder.layers."):
            layer, rest = name.removeprefix("text_model.encoder.layers.").split(".", 1)
            piece, kind = rest.rsplit(".", 1)
            block = f"transformer.resblocks.{layer}"
            if piece in part:
                renamed[f"{block}.{part[piece]}.{kind}"] = leaf
            elif piece in ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"):
                packed.setdefault(f"{block}.attn.in_proj_{kind}", {})[piece[10]] = leaf
            else:
                renamed[name] = leaf
        elif name != "text_model.embeddings.position_ids":  # 0, 1, 2, ...: not a weight
            renamed[name] = leaf
    for name, thirds in packed.items():
        if set(thirds) != set("qkv"):
            raise ValueError(f"{text}: {name} needs q_proj, k_proj and v_proj, found {', '.join(sorted(thirds))}")
        renamed[name] = np.concatenate([thirds[letter] for letter in "qkv"])
    return renamed

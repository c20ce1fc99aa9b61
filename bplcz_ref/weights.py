"""Parameters by the names of the public implementations: flat views, and files to and from other programs.

A network's parameters are nested dicts whose dotted names, shapes and layouts are those of the public state_dict
(torchvision, openai/CLIP, ExViT); its buffers are in a second dict, the state. So a file needs no conversion:
`load` reads .npz, .h5 and .safetensors, `save` writes them. PyTorch's .pt is a pickle and is not opened.
"""

import json
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np

from bplcz_ref import archives, files, hdf5, layers, schema
from bplcz_ref.archives import LIMIT, Entry, reading

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
    check_like(want, flat, source)
    return nested({name: placed(np.asarray(flat[name], np.asarray(leaf).dtype)) for name, leaf in want.items()})


def placed(leaf: np.ndarray) -> np.ndarray:
    """A leaf as the layers take it fastest: weights of convolutions in layers.kernel_order."""
    return layers.kernel_order(leaf) if leaf.ndim == 4 else leaf


def check_like(want: dict, flat: dict, source: str) -> None:
    """ValueError that names every missing, unexpected and misshapen array of `flat`."""
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


def count(params: dict) -> int:
    """How many numbers a nested dict of arrays holds.

    >>> count({"weight": np.zeros((2, 3)), "bias": np.zeros(2)})
    8
    """
    return sum(np.size(leaf) for leaf in named(params).values())


def parts(params: dict) -> dict[str, int]:
    """{part: how many numbers it holds} of the first level of a nested dict.

    >>> parts({"branches": {"RGB": {"weight": np.zeros((2, 3))}}, "classifier": {"bias": np.zeros(2)}})
    {'branches': 6, 'classifier': 2}
    """
    return {name: count({name: tree}) for name, tree in params.items()}


# -------------------------------------------------------------------------------------------- load and save


def load(
    source: dict | str | Path,
    network: Any = None,
    *,
    dtype: Any = None,
    ignore: Iterable[str] = (),
    limit: int = LIMIT,
) -> tuple[dict, dict]:
    """Weights under public names -> (params, state), nested; buffers (running statistics) go to the state.

    source    a dict {name: array}, or a .npz, .h5 or .safetensors file (the last needs the library safetensors)
    network   a Network or Model to fit: missing, unexpected and misshapen names are listed all at once
    dtype     of the floating arrays; None keeps what is stored
    ignore    beginnings of names to leave out, such as ("visual.", "logit_scale") of a whole CLIP
    limit     bytes that a file may declare

    Names of torchvision, openai/CLIP and ExViT are used unchanged. Those of Hugging Face's text towers begin with
    "text_model." (CLIPTextModelWithProjection, CLIPModel); `openai_names` turns them into openai/CLIP's.
    What a file declares must fit before any of it takes memory.
    Errors: ValueError that names the file and every array that does not fit, is not floating or is not finite.

    >>> from bplcz_ref import layers
    >>> params, state = load({"weight": np.ones((2, 3)), "bias": np.zeros(2)}, layers.linear(3, 2))
    >>> params["weight"].shape, state
    ((2, 3), {})
    """
    fit = None if network is None else expected(network, np.dtype(dtype or "float32"))
    where = "the dict" if isinstance(source, dict) else str(source)

    def wanted(arrays):
        arrays = {name: leaf for name, leaf in arrays.items() if not name.startswith(tuple(ignore))}
        if any(name.startswith("text_model.") for name in arrays):
            arrays = openai_names(arrays, where)
        return arrays

    def accept(entries):
        if fit is not None:
            kept = [entry for entry in entries if not entry.name.startswith(tuple(ignore))]
            packed = sum(e.size for e in kept if e.name.startswith(LAYERS))
            if packed > (most := LARGEST_ITEM * fit.numbers):  # the stand-ins of q, k and v are joined below
                raise ValueError(f"{where} declares {packed:,} bytes of layers; this network has at most {most:,}")
            fit.check(wanted({e.name: np.broadcast_to(np.zeros((), e.dtype), e.shape) for e in kept}), where)

    arrays = source if isinstance(source, dict) else read_arrays(source, accept, limit)
    arrays = {name: np.asarray(leaf) for name, leaf in wanted(arrays).items()}
    if dtype is not None:
        with np.errstate(over="ignore"):  # a value too large for dtype becomes infinite, which is found below
            arrays = {name: a.astype(dtype) if a.dtype.kind == "f" else a for name, a in arrays.items()}
    if fit is not None:
        arrays |= {name: np.array(0) for name in fit.shapes if name.endswith(COUNT) and name not in arrays}
        check_finite_floats({name: arrays[name] for name in fit.shapes if name in arrays}, where)
        fit.check(arrays, where)
        params = nested({name: placed(arrays[name]) for name in fit.params})
        return params, nested({name: arrays[name] for name in fit.state})
    check_finite_floats(arrays, where)
    state = {name: leaf for name, leaf in arrays.items() if name.split(".")[-1] in BUFFERS}
    params = {name: leaf for name, leaf in arrays.items() if name not in state}
    return nested(params, where), nested(state, where)


LARGEST_ITEM = 8  # bytes of a number


class Expected(NamedTuple):
    """The names of a network's parameters and buffers, and a stand-in of the shape of each."""

    params: list
    state: list
    shapes: dict

    @property
    def numbers(self) -> int:
        """How many numbers they are."""
        return sum(np.size(leaf) for leaf in self.shapes.values())

    def check(self, arrays: dict, where: str) -> None:
        """ValueError that names all differences; older files lack the count of batches, which is 0 then."""
        counts = {name: leaf for name, leaf in self.shapes.items() if name.endswith(COUNT)}
        check_like(self.shapes, counts | arrays, where)


def expected(network: Any, dtype: np.dtype) -> Expected:
    """What a Network or Model needs."""
    params, state = (named(tree) for tree in network.init(np.random.default_rng(0), dtype))
    stand_ins = {name: np.broadcast_to(0, np.shape(leaf)) for name, leaf in (params | state).items()}
    return Expected(list(params), list(state), stand_ins)


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
    Errors: ValueError for a name that the format cannot keep, or for values that `load` would not take.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "w.npz"
    >>> save(path, {"weight": np.ones(2)})
    >>> load(path)
    ({'weight': array([1., 1.])}, {})
    """
    path = archives.plain_path(path)
    check_ending(path)
    params, state = named(params), named(state or {})
    for name in state:
        if name in params:
            raise ValueError(f"{name} is both a parameter and a buffer")
    # safetensors writes memory in the order it has, so the arrays must be in C order
    arrays: dict[str, Any] = {name: np.asarray(leaf, order="C") for name, leaf in (params | state).items()}
    for name, leaf in arrays.items():
        check_storable(path, name, leaf)
    with files.whole(path) as temporary:
        if path.suffix == ".npz":
            with zipfile.ZipFile(temporary, "w") as archive:  # numpy.savez takes names such as "file" for its own
                for name, leaf in arrays.items():
                    with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
                        np.lib.format.write_array(entry, leaf, allow_pickle=False)
        elif path.suffix == ".h5":
            with h5py.File(temporary, "w", libver=hdf5.CHECKED) as file:
                for name, leaf in arrays.items():
                    file[name] = leaf
        else:
            safetensors_numpy(path).save_file(arrays, temporary)


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
    if mean.shape != run.statistics.mean.shape or std.shape != mean.shape or clip.shape or not clip > 0:
        raise ValueError(
            f"{path}: input.mean {mean.shape}, std {std.shape}, clip_sen1 {clip}; expected (18,) twice, a bound"
        )
    if not np.isfinite(mean).all() or not (np.isfinite(std) & (std >= 0)).all():
        raise ValueError(f"{path}: input.mean or input.std holds a value that is not finite, or below 0")
    params, state = load(arrays, run.network, dtype=run.dtype, ignore=("input.",))
    statistics = run.statistics._replace(mean=mean, std=std, clip_sen1=None if np.isinf(clip) else float(clip))
    return run._replace(params=params, state=state, statistics=statistics)


LONGEST_NAME = 1000  # bytes


def check_storable(path: Path, name: str, leaf: np.ndarray) -> None:
    """ValueError unless the format of `path` gives back this name and these values."""
    size = len(name.encode(errors="surrogatepass"))
    reserved = {".h5": ("", "."), ".safetensors": ("__metadata__",)}.get(path.suffix, ())
    unfit = "\0" in name or any("\ud800" <= c <= "\udfff" for c in name) or size > LONGEST_NAME
    if unfit or name in reserved or (path.suffix == ".h5" and "/" in name):
        raise ValueError(
            f"{path}: {path.suffix} cannot keep the name {schema.brief(name)}; give the array another"
        )
    if leaf.dtype.kind not in "fiu" or leaf.dtype.itemsize > 8:
        raise ValueError(
            f"{path}: {name} has dtype {leaf.dtype}; expected floating point or whole numbers of up to 64 bits"
        )


# ---------------------------------------------------------------------------------------------------- files


def read_arrays(path: str | Path, accept: Callable[[list[Entry]], None] | None = None, limit: int = LIMIT) -> dict:
    """{name: array} of a .npz, .h5 or .safetensors file, as stored. Errors: ValueError that names the file.

    accept sees what the file declares before any of it takes memory; it raises ValueError for what is not wanted.
    """
    check_ending(Path(path))
    path = archives.regular_file(path)

    def seen(entries):
        total = sum(entry.size for entry in entries)
        if total > limit:
            raise ValueError(
                f"{path}: its arrays declare {total:,} bytes, more than the {limit:,} that are read; give"
                " load(..., limit=BYTES) if it is to be trusted"
            )
        if accept is not None:
            accept(entries)

    if path.suffix == ".npz":
        return archives.read_npz(path, seen, limit=2**63)
    return (_read_h5 if path.suffix == ".h5" else _read_safetensors)(path, seen)


def _read_h5(path, seen):
    with reading(path, "the file"):
        file = h5py.File(path, "r")
    with file:
        sets = dict(hdf5.tree(path, file))
        seen([Entry(name, data.shape, data.dtype) for name, data in sets.items()])
        arrays = {}
        for name, data in sets.items():
            with reading(path, name):
                arrays[name] = data[()]
        return arrays


SAFETENSORS = {f"{kind}{8 * size}": f"{kind.lower()}{size}" for kind in "FIU" for size in (1, 2, 4, 8)}
SAFETENSORS |= {"BOOL": "?"}
LARGEST_HEADER = 16 << 20  # bytes; DenseNet-121's has 70,000


def _read_safetensors(path, seen):
    module = safetensors_numpy(path)
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(size - 8, LARGEST_HEADER):
            raise ValueError(
                f"{path}: its header declares {length:,} bytes, in a file of {size:,}; is it safetensors?"
            )
        with reading(path, "the header"):
            header = json.loads(file.read(length))
    if not isinstance(header, dict):
        raise ValueError(f"{path}: the header is {schema.brief(header)}; expected an object")
    rule = {"dtype": schema.one_of(SAFETENSORS), "shape": [schema.whole(0)], "data_offsets": [schema.whole(0)]}
    entries = []
    for name, item in header.items():
        if name != "__metadata__":
            schema.check(item, rule, f"{path}: {schema.brief(name)}")
            entries.append(Entry(name, tuple(item["shape"]), np.dtype(SAFETENSORS[item["dtype"]])))
            begin, *end = item["data_offsets"] or [0]
            if end != [begin + entries[-1].size]:
                raise ValueError(
                    f"{path}: {schema.brief(name)} has offsets that do not fit its shape; is it damaged?"
                )
    seen(entries)
    with reading(path, "the file"):
        return module.load_file(path)


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
LAYERS = "text_model.encoder.layers."
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

    def put(name, leaf):
        if name in renamed:
            raise ValueError(
                f"{where}: {name} is there under Hugging Face's name and openai's; take one of them out"
            )
        renamed[name] = leaf

    for name, leaf in arrays.items():
        # text_model.encoder.layers.LAYER.PIECE.KIND, such as 0, "mlp.fc1" and "weight"
        layer, _, rest = name.removeprefix(LAYERS).partition(".")
        piece, _, kind = rest.rpartition(".")
        block = f"transformer.resblocks.{layer}"
        if name in HUGGING_FACE:
            put(HUGGING_FACE[name], leaf)
        elif name == "text_projection.weight":
            put("text_projection", leaf.T)
        elif name.startswith(LAYERS) and piece in HUGGING_FACE_LAYER:
            put(f"{block}.{HUGGING_FACE_LAYER[piece]}.{kind}", leaf)
        elif name.startswith(LAYERS) and piece in ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"):
            letter = piece.removeprefix("self_attn.")[0]
            packed.setdefault(f"{block}.attn.in_proj_{kind}", {})[letter] = leaf
        elif name != "text_model.embeddings.position_ids":  # 0, 1, 2, ...: not a weight
            put(name, leaf)
    for name, thirds in packed.items():
        if set(thirds) != set("qkv"):
            raise ValueError(f"{where}: {name} needs q_proj, k_proj and v_proj, found {', '.join(sorted(thirds))}")
        shapes = [np.shape(thirds[letter]) for letter in "qkv"]
        if shapes[0] == () or len(set(shapes)) != 1:
            raise ValueError(f"{where}: {name} is packed of shapes {shapes} (q, k, v); expected the same three")
        put(name, np.concatenate([thirds[letter] for letter in "qkv"]))
    return renamed

"""weights.py: flat names and back, and errors that list every difference at once."""

import json
import os
import tracemalloc
import zipfile

import h5py
import numpy as np
import pytest

from bplcz_ref import weights
from bplcz_ref.encoders import ebcnn, text


def test_named_and_nested_are_inverse():
    tree = {"a": {"weight": np.ones(2), "b": {"c": np.zeros(1)}}, "d": np.array(3.0)}
    flat = weights.named(tree)
    assert list(flat) == ["a.weight", "a.b.c", "d"]
    again = weights.nested(flat)
    assert again["a"]["b"]["c"] is tree["a"]["b"]["c"]
    assert list(weights.named(again)) == list(flat)


def test_like_takes_the_dtype_of_its_place():
    tree = {"w": np.zeros((2, 1), np.float32)}
    assert weights.like(tree, {"w": np.ones((2, 1))}, "x")["w"].dtype == np.float32


def test_like_names_all_differences_at_once():
    tree = {"a": np.zeros(2), "b": np.zeros(1), "c": np.zeros((1, 2))}
    with pytest.raises(ValueError, match="missing: b") as error:
        weights.like(tree, {"a": np.zeros(3), "c": np.zeros((2, 1)), "z": np.zeros(1)}, "run/checkpoint.npz")
    text = str(error.value)
    assert "run/checkpoint.npz" in text
    assert "unexpected: z" in text
    assert "a: shape (3,), expected (2,)" in text
    assert "c: shape (2, 1), expected (1, 2)" in text


def network():
    return ebcnn.encoder(3, width=1, features=2)


def start():
    return network().init(np.random.default_rng(1), np.dtype("float32"))


@pytest.mark.parametrize("ending", [".npz", ".h5", ".safetensors"])
def test_save_and_load_are_inverse(tmp_path, ending):
    if ending == ".safetensors":
        pytest.importorskip("safetensors")
    params, state = start()
    path = tmp_path / f"weights{ending}"
    weights.save(path, params, state)
    for again in (weights.load(path, network()), weights.load(path)):
        for tree, old in zip(again, (params, state), strict=True):
            assert list(sorted(weights.named(tree))) == sorted(weights.named(old))
            for name, leaf in weights.named(old).items():
                assert np.array_equal(weights.named(tree)[name], leaf)
                assert weights.named(tree)[name].dtype == np.asarray(leaf).dtype
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_load_lists_what_does_not_fit(tmp_path):
    params, state = start()
    flat = weights.named(params) | weights.named(state)
    flat["proj.weight"] = flat["proj.weight"].T
    del flat["bn2.running_var"]
    with pytest.raises(ValueError, match="missing: bn2.running_var") as error:
        weights.load(flat | {"visual.proj": np.ones(1)}, network())
    assert "unexpected: visual.proj" in str(error.value)
    assert "proj.weight: shape (4, 2), expected (2, 4)" in str(error.value)
    flat = weights.named(params) | weights.named(state)
    weights.load(flat | {"visual.proj": np.ones(1)}, network(), ignore=("visual.",))


def test_load_casts_floats_only():
    params, state = start()
    flat = weights.named(params) | weights.named(state)
    params, state = weights.load(flat, network(), dtype="float64")
    assert params["conv1"]["weight"].dtype == np.float64
    assert np.asarray(state["bn1"]["num_batches_tracked"]).dtype.kind == "i"


def test_a_pickle_is_not_opened(tmp_path):
    (tmp_path / "model.pt").write_bytes(b"")
    with pytest.raises(ValueError, match="pickles, which run code when opened"):
        weights.load(tmp_path / "model.pt")
    with pytest.raises(ValueError, match="expected .npz, .h5 or .safetensors"):
        weights.save(tmp_path / "model", {})
    with pytest.raises(ValueError, match="no such file"):
        weights.load(tmp_path / "model.npz")
    (tmp_path / "broken.npz").write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(ValueError, match="broken.npz: the archive cannot be read"):
        weights.load(tmp_path / "broken.npz")


def hugging_face(params):
    """A tiny text tower under Hugging Face's names, the way its documentation lays them out."""
    flat, width = {}, params["ln_final"]["weight"].shape[0]
    for name, leaf in weights.named(params).items():
        for ours, theirs in (
            ("token_embedding", "text_model.embeddings.token_embedding"),
            ("ln_final", "text_model.final_layer_norm"),
            ("transformer.resblocks", "text_model.encoder.layers"),
            ("attn.out_proj", "self_attn.out_proj"),
            ("ln_1", "layer_norm1"),
            ("ln_2", "layer_norm2"),
            ("mlp.c_fc", "mlp.fc1"),
            ("mlp.c_proj", "mlp.fc2"),
        ):
            name = name.replace(ours, theirs)
        if "in_proj" in name:
            for i, letter in enumerate("qkv"):
                third = leaf[i * width : (i + 1) * width]
                flat[name.replace("attn.in_proj_", f"self_attn.{letter}_proj.")] = third
        elif name == "positional_embedding":
            flat["text_model.embeddings.position_embedding.weight"] = leaf
        elif name == "text_projection":
            flat["text_projection.weight"] = leaf.T
        else:
            flat[name] = leaf
    return flat | {"text_model.embeddings.position_ids": np.arange(9)[None]}


def test_hugging_face_names_are_recognised():
    tower = text.encoder(30, width=8, layers=2, heads=2, features=6, context=9)
    params, _ = tower.init(np.random.default_rng(0), np.dtype("float64"))
    flat = hugging_face(params)
    assert "text_model.encoder.layers.1.self_attn.k_proj.bias" in flat
    again, _ = weights.load(flat, tower, dtype="float64")
    for name, leaf in weights.named(params).items():
        assert np.array_equal(weights.named(again)[name], leaf), name
    del flat["text_model.encoder.layers.1.self_attn.k_proj.bias"]
    with pytest.raises(ValueError, match="found q, v"):
        weights.load(flat, tower)


def test_garbage_is_named(tmp_path):
    for name, content in (("a.npz", b"garbage"), ("b.npz", b""), ("c.h5", b"garbage")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=f"{name}: the (archive|file) cannot be read"):
            weights.load(tmp_path / name)
    np.savez(tmp_path / "d.npz", w=np.array([None]))
    with pytest.raises(ValueError, match=r"d.npz: w holds Python objects, which are pickled"):
        weights.load(tmp_path / "d.npz")


@pytest.mark.parametrize("names", [("a.b", "a"), ("a", "a.b"), ("a", "a.b.c"), ("a.b.c", "x", "a")])
def test_a_name_that_is_also_the_beginning_of_another_is_an_error(tmp_path, names):
    flat = {name: np.ones(1) for name in names}
    with pytest.raises(ValueError, match=r"the dict holds both a and a\.b"):
        weights.nested(flat)
    np.savez(tmp_path / "w.npz", **flat)
    with pytest.raises(ValueError, match=r"w.npz holds both a and a\.b"):
        weights.load(tmp_path / "w.npz")


def test_a_common_beginning_without_a_dot_is_no_clash():
    assert weights.nested({"a": 1, "ab.c": 2}) == {"a": 1, "ab": {"c": 2}}


@pytest.mark.parametrize("fit", [True, False])
def test_arrays_that_cannot_be_weights_are_named(fit):
    flat = {}
    for tree in start():
        flat |= weights.named(tree)
    to = network() if fit else None
    weights.load(flat, to)
    weight = flat["proj.weight"]
    for wrong in (weight.astype(int), weight.astype(complex), weight.astype(bool), weight.astype("S3")):
        with pytest.raises(ValueError, match=r"the dict cannot be used as weights:\n  proj.weight: dtype "):
            weights.load(flat | {"proj.weight": wrong}, to)
    broken = weight.copy()
    broken[0, :2] = np.nan, np.inf
    with pytest.raises(ValueError, match=r"proj.weight: 2 of 8 values are not finite in float32"):
        weights.load(flat | {"proj.weight": broken}, to)
    large = weight.astype(float)
    large[1, 1] = 1e300
    with pytest.raises(ValueError, match=r"proj.weight: 1 of 8 values are not finite in float32"):
        weights.load(flat | {"proj.weight": large}, to, dtype="float32")
    with pytest.raises(ValueError, match=r"bn1.running_var: 1 of \d+ values are not finite"):
        weights.load(flat | {"bn1.running_var": np.where(np.arange(len(flat["bn1.running_var"])), 1, np.nan)}, to)


@pytest.mark.parametrize("ending", [".npz", ".h5", ".safetensors"])
def test_scalars_and_strided_arrays_come_back_as_they_were(tmp_path, ending):
    if ending == ".safetensors":
        pytest.importorskip("safetensors")
    params = {"logit_scale": np.array(2.5), "w": np.arange(6.0).reshape(2, 3).T}
    state = {"running_mean": np.arange(4.0)[::2]}
    weights.save(tmp_path / f"w{ending}", params, state)
    again, measured = weights.load(tmp_path / f"w{ending}")
    assert again["logit_scale"].shape == ()
    assert float(again["logit_scale"]) == 2.5
    assert again["w"].tolist() == params["w"].tolist()
    assert measured["running_mean"].tolist() == [0.0, 2.0]


def test_a_file_without_the_count_of_batches_is_read():
    params, state = start()
    flat = weights.named(params) | weights.named(state)
    flat = {name: leaf for name, leaf in flat.items() if not name.endswith("num_batches_tracked")}
    _, measured = weights.load(flat, network())
    assert measured["bn1"]["num_batches_tracked"] == 0


# --- files that anybody may have written -----------------------------------------------------------------------

ENDINGS = [".npz", ".h5", ".safetensors"]
NAMES = [
    "w",
    ".",
    "..",
    "",
    "/",
    "a/b",
    "/a",
    "a//b",
    "./a",
    "file",
    "allow_pickle",
    "args",
    "w.npy",
    "a.",
    "__metadata__",
]
NAMES += ["\0", "a\0b", "\ud800", "weights of \u00e4", "w" * 5000, "weight w", "CON", "a\\b", "../a"]


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_name_comes_back_or_is_refused(tmp_path, ending):
    if ending == ".safetensors":
        pytest.importorskip("safetensors")
    kept = []
    for name in NAMES:
        tree = {name: np.arange(3.0), "other": np.ones(1)}
        path = tmp_path / f"w{ending}"
        path.write_bytes(b"older")
        error = None
        try:
            weights.save(path, tree)
        except ValueError as found:
            error = found
        if error:
            assert f"{ending} cannot keep the name" in str(error)
            assert path.read_bytes() == b"older"
            continue
        again = weights.named(weights.load(path)[0])
        assert set(again) == {name, "other"}
        assert again[name].tolist() == [0, 1, 2]
        kept.append(name)
    assert {"w", "..", "file", "allow_pickle", "w.npy", "a.", "weights of \u00e4"} <= set(kept)
    assert [p.name for p in tmp_path.iterdir()] == [f"w{ending}"]


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize(
    "value", [np.array([None]), np.array(["a"]), np.ones(2) * 1j, np.ones(2, bool), np.longdouble(1)]
)
def test_values_that_would_not_be_read_are_not_written(tmp_path, ending, value):
    with pytest.raises(ValueError, match="w has dtype .*expected floating point or whole numbers"):
        weights.save(tmp_path / f"x{ending}", {"w": value})
    assert list(tmp_path.iterdir()) == []


def declaring(path, shape):
    """A file of a few kB whose array w declares `shape` of float64."""
    if path.suffix == ".npz":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("w.npy", "w") as file:
            np.lib.format.write_array_header_1_0(file, {"descr": "<f8", "fortran_order": False, "shape": shape})
            for _ in range(int(np.prod(shape)) * 8 >> 20):
                file.write(bytes(1 << 20))
    elif path.suffix == ".h5":
        with h5py.File(path, "w") as file:
            file.create_dataset("w", shape, "f8", chunks=(1 << 17,), compression="gzip")[:] = 0
    else:
        size = int(np.prod(shape)) * 8
        header = json.dumps({"w": {"dtype": "F64", "shape": shape, "data_offsets": [0, size]}}).encode()
        with path.open("wb") as file:
            file.write(len(header).to_bytes(8, "little") + header)
            file.truncate(8 + len(header) + size)


@pytest.mark.slow
@pytest.mark.parametrize("ending", ENDINGS)
def test_declared_sizes_are_looked_at_before_they_take_memory(tmp_path, ending):
    if ending == ".safetensors":
        pytest.importorskip("safetensors")
    declaring(path := tmp_path / f"w{ending}", (1 << 22,))
    tracemalloc.start()
    with pytest.raises(ValueError, match=r"declare 33,554,432 bytes, more than the 1,000,000.*limit=BYTES"):
        weights.load(path, limit=1_000_000)
    with pytest.raises(ValueError, match=r"w: shape \(4194304,\), expected \(2,\)"):
        weights.load(path, Small(w=np.ones(2)))
    assert tracemalloc.get_traced_memory()[1] < 3e6
    tracemalloc.stop()
    assert weights.load(path, limit=1 << 26)[0]["w"].shape == (1 << 22,)


class Small:
    """A network of given parameters."""

    def __init__(self, **params):
        self.params = params

    def init(self, rng, dtype):
        return self.params, {}


def test_a_large_text_tower_is_refused_before_it_is_packed(tmp_path):
    path = tmp_path / "w.npz"
    np.savez_compressed(path, **{"text_model.encoder.layers.0.self_attn.q_proj.weight": np.zeros(1 << 20)})
    with pytest.raises(ValueError, match="declares 8,388,608 bytes of layers; this network has at most"):
        weights.load(path, Small(w=np.ones(2)))


def h5_links(change):
    def write(path):
        with h5py.File(path, "w") as file:
            file["a/w"] = np.ones(3)
            change(file)

    return write


def deep(file):
    for _ in range(2000):
        file = file.create_group("g")


def odd_float(file):
    kind = h5py.h5t.IEEE_F32LE.copy()
    kind.set_fields(0, 1, 8, 9, 23)
    h5py.h5d.create(file.id, b"b", kind, h5py.h5s.create_simple((3,)))


LINKS = {
    "a circle of groups": (
        lambda f: f["a"].__setitem__("b", f["a"]),
        "the group a.b is in the file twice, or in itself",
    ),
    "the root": (lambda f: f["a"].__setitem__("b", f["/"]), "the group a.b is in the file twice"),
    "a soft link": (lambda f: f.__setitem__("b", h5py.SoftLink("/a/w")), "b is a link; expected the array itself"),
    "a soft circle": (lambda f: f.__setitem__("b", h5py.SoftLink("/b")), "b is a link"),
    "another file": (lambda f: f.__setitem__("b", h5py.ExternalLink("/dev/zero", "w")), "b is a link"),
    "deep groups": (deep, "deeper than 50 groups"),
    "never written": (lambda f: f.create_dataset("b", (1 << 40,), "f4"), "b declares .* and 0 are stored"),
    "odd floats": (odd_float, "b has dtype .* in a number format of 4 bytes"),
    "null": (lambda f: f.__setitem__("b", h5py.Empty("f4")), "b is empty"),
    "text": (lambda f: f.__setitem__("b", "text"), "b has dtype object"),
}


@pytest.mark.parametrize("kind", LINKS)
def test_h5_files_that_are_no_plain_tree_of_numbers_are_named(tmp_path, kind):
    change, message = LINKS[kind]
    h5_links(change)(path := tmp_path / "w.h5")
    with pytest.raises(ValueError, match=rf"w\.h5: .*{message}"):
        weights.load(path)


def test_one_array_under_two_names_of_an_h5_file_is_both(tmp_path):
    with h5py.File(tmp_path / "w.h5", "w") as file:
        file["a"] = np.ones(2)
        file["b"] = file["a"]
        file["c"] = np.ones(2, ">f4")
        file["num_batches_tracked"] = np.array(7, ">i2")
    params, state = weights.load(tmp_path / "w.h5")
    assert sorted(params) == ["a", "b", "c"]
    assert state["num_batches_tracked"] == 7


HEADERS = {
    "huge": (b"\xff" * 8 + b"{}", "its header declares 18,446,744,073,709,551,615 bytes, in a file of 10"),
    "short": (b"\x01", "its header declares 1 bytes, in a file of 1"),
    "nested": ((100_000).to_bytes(8, "little") + b"[" * 100_000, "the header cannot be read"),
    "a list": ((2).to_bytes(8, "little") + b"[]", r"the header is \[\]; expected an object"),
    "bfloat16": (
        (55).to_bytes(8, "little") + b'{"w":{"dtype":"BF16","shape":[1],"data_offsets":[0,2]}}12',
        "'w': dtype is 'BF16'; expected one of F8",
    ),
    "no offsets": (
        (51).to_bytes(8, "little") + b'{"w":{"dtype":"F32","shape":[9],"data_offsets":[]}}12',
        "'w' has offsets that do not fit its shape",
    ),
    "offsets": (
        (54).to_bytes(8, "little") + b'{"w":{"dtype":"F32","shape":[9],"data_offsets":[0,2]}}12',
        "'w' has offsets that do not fit its shape",
    ),
}


@pytest.mark.parametrize("kind", HEADERS)
def test_a_header_of_safetensors_that_is_none_is_named(tmp_path, kind):
    pytest.importorskip("safetensors")
    data, message = HEADERS[kind]
    (tmp_path / "w.safetensors").write_bytes(data)
    with pytest.raises(ValueError, match=rf"w\.safetensors: {message}"):
        weights.load(tmp_path / "w.safetensors")


@pytest.mark.parametrize("path", ["/dev/zero", "a\0b", "pipe", "."])
def test_only_regular_files_are_read(tmp_path, path):
    for ending in ENDINGS:
        place = tmp_path / f"{path}{ending}" if path in ("pipe", ".") else f"{path}{ending}"
        if path == "pipe":
            os.mkfifo(place)
        elif path == ".":
            place.mkdir()
        with pytest.raises(ValueError, match="no regular file|no such file|null byte|is a folder"):
            weights.load(place)
    with pytest.raises(ValueError, match="null byte, which no path can have"):
        weights.save("a\0b.npz", {"w": np.ones(1)})


PREFIX = "text_model.encoder.layers"


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({f"{PREFIX}.0": np.ones(1)}, None),
        ({f"{PREFIX}.": np.ones(1)}, None),
        ({f"{PREFIX}.0.mlp": np.ones(1)}, None),
        ({f"{PREFIX}.0.self_attn.{k}_proj.bias": np.ones(()) for k in "qkv"}, r"packed of shapes \[\(\), "),
        (
            {f"{PREFIX}.0.self_attn.{k}_proj.bias": np.ones(1 + (k == "v")) for k in "qkv"},
            r"packed of shapes \[\(1",
        ),
        (
            {"text_model.final_layer_norm.bias": np.ones(1), "ln_final.bias": np.ones(1)},
            "ln_final.bias is there under",
        ),
    ],
)
def test_odd_names_of_a_text_tower_are_kept_or_named(arrays, message):
    if message is None:
        with pytest.raises(ValueError, match=f"missing: w\n  unexpected: {PREFIX}"):
            weights.load(arrays, Small(w=np.ones(1)))
    else:
        with pytest.raises(ValueError, match=message):
            weights.load(arrays)

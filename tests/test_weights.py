"""weights.py: flat names and back, and errors that list every difference at once."""

import json

import h5py
import numpy as np
import pytest

from bplcz_ref import weights
from bplcz_ref.encoders import ebcnn


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
    with pytest.raises(ValueError, match="broken.npz: it cannot be read .BadZipFile"):
        weights.load(tmp_path / "broken.npz")


@pytest.mark.parametrize("names", [("a.b", "a"), ("a.b.c", "x", "a")])
def test_a_name_that_is_also_the_beginning_of_another_is_an_error(tmp_path, names):
    flat = {name: np.ones(1) for name in names}
    with pytest.raises(ValueError, match=r"the dict holds both a and a\.b"):
        weights.nested(flat)
    np.savez(tmp_path / "w.npz", **flat)
    with pytest.raises(ValueError, match=r"w.npz holds both a and a\.b"):
        weights.load(tmp_path / "w.npz")


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


@pytest.mark.parametrize("ending", [".npz", ".h5", ".safetensors"])
def test_what_a_format_cannot_keep_is_not_written(tmp_path, ending):
    (path := tmp_path / f"w{ending}").write_bytes(b"older")
    for name in ("", ".", "/", "a/b", "a\0b", "\ud800", "__metadata__"):
        with pytest.raises(ValueError, match="cannot be kept; give the array another"):
            weights.save(path, {name: np.ones(1)})
    for value in (np.array([None]), np.array(["a"]), np.ones(2) * 1j, np.ones(2, bool), np.longdouble(1)):
        with pytest.raises(ValueError, match="w has dtype .*expected floating point or whole numbers"):
            weights.save(path, {"w": value})
    assert path.read_bytes() == b"older"
    for name in ("..", "file", "allow_pickle", "w.npy", "weights of \u00e4", "CON"):
        weights.save(path, {name: np.arange(3.0)}) if ending != ".safetensors" else None
        assert ending == ".safetensors" or weights.named(weights.load(path)[0])[name].tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f.__setitem__("b", f["/"]), "it cannot be read .RecursionError"),
        (lambda f: f.__setitem__("b", h5py.SoftLink("/none")), "it cannot be read .KeyError"),
        (lambda f: f.__setitem__("b", h5py.ExternalLink("none.h5", "w")), "it cannot be read .KeyError"),
        (lambda f: f.create_dataset("b", (1 << 40,), "f4"), "b declares .* and 0 are stored"),
        (lambda f: f.__setitem__("b", "text"), "cannot be used as weights:\n  b: dtype .S4"),
    ],
)
def test_an_h5_file_that_is_no_tree_of_numbers_is_named(tmp_path, change, message):
    with h5py.File(tmp_path / "w.h5", "w") as file:
        file["a/w"] = np.ones(3)
        change(file)
    with pytest.raises(ValueError, match=rf"w\.h5.* {message}"):
        weights.load(tmp_path / "w.h5")


def test_links_of_an_h5_file_are_followed(tmp_path):
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["x"] = np.arange(2.0)
    with h5py.File(tmp_path / "w.h5", "w") as file:
        file["a"] = np.ones(2)
        file["b"], file["c"], file["d"] = file["a"], h5py.SoftLink("/a"), h5py.ExternalLink("other.h5", "x")
        file["num_batches_tracked"] = np.array(7, ">i2")
    params, state = weights.load(tmp_path / "w.h5")
    assert {name: leaf.tolist() for name, leaf in params.items()} == {n: [1, 1] for n in "abc"} | {"d": [0, 1]}
    assert state["num_batches_tracked"] == 7


@pytest.mark.parametrize("dtype", ["BF16", "F8_E4M3", "F8"])
def test_a_number_format_of_safetensors_that_numpy_lacks_is_named(tmp_path, dtype):
    pytest.importorskip("safetensors")
    size = 2 if dtype == "BF16" else 1
    header = json.dumps({"w": {"dtype": dtype, "shape": [1], "data_offsets": [0, size]}}).encode()
    data = len(header).to_bytes(8, "little") + header + bytes(size)
    (tmp_path / "w.safetensors").write_bytes(data)
    with pytest.raises(ValueError, match=r"w\.safetensors: .*(numbers that NumPy lacks|F8).*; ") as error:
        weights.load(tmp_path / "w.safetensors")
    assert "\n" not in str(error.value)

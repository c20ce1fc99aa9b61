"""weights.py: flat names and back, and errors that list every difference at once."""

import json

import h5py
import numpy as np
import pytest

from bplcz_ref.encoders import ebcnn
from bplcz_ref.storage import weights

ENDINGS = [".npz", ".h5", ".safetensors"]
NETWORK = ebcnn.encoder(3, width=1, features=2)
PARAMS, STATE = NETWORK.init(np.random.default_rng(1), np.dtype("float32"))
FLAT = weights.named(PARAMS) | weights.named(STATE)


@pytest.mark.parametrize("ending", ENDINGS)
def test_save_and_load_are_inverse(tmp_path, ending):
    if ending == ".safetensors":
        pytest.importorskip("safetensors")
    weights.save(path := tmp_path / f"weights{ending}", PARAMS, STATE)
    for again in (weights.load(path, NETWORK), weights.load(path)):
        for tree, old in zip(map(weights.named, again), map(weights.named, (PARAMS, STATE)), strict=True):
            assert sorted(tree) == sorted(old)
            for name, leaf in old.items():
                assert np.array_equal(tree[name], leaf)
                assert tree[name].dtype == np.asarray(leaf).dtype
    assert weights.load(path, NETWORK)[0]["conv1"]["weight"].transpose(2, 3, 1, 0).flags.c_contiguous
    strided = np.arange(6.0).reshape(2, 3).T
    weights.save(path, {"scale": np.array(2.5), "w": strided}, {"running_mean": np.ones(4)[::2]})
    again, measured = weights.load(path)
    assert (again["scale"].shape, float(again["scale"])) == ((), 2.5)
    assert np.array_equal(again["w"], strided)
    assert measured["running_mean"].tolist() == [1, 1]
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("ending", ENDINGS)
def test_what_is_no_number_or_has_a_slash_is_not_written(tmp_path, ending):
    (path := tmp_path / f"w{ending}").write_bytes(b"older")
    for name, value in (("a/b", np.ones(1)), ("w", np.array([None])), ("w", np.array(["a"]))):
        with pytest.raises(ValueError, match="expected numbers under a name without a slash"):
            weights.save(path, {name: value})
    assert path.read_bytes() == b"older"


@pytest.mark.parametrize("prefix", ["module.", "module._orig_mod."])
def test_a_common_prefix_is_named_in_one_line(prefix):
    wrapped = {prefix + name: leaf for name, leaf in FLAT.items()}
    with pytest.raises(ValueError, match=f"all names begin with '{prefix}'") as error:
        weights.load(wrapped, NETWORK)
    assert "\n" not in str(error.value)
    fitting = {name.removeprefix(prefix): array for name, array in wrapped.items()}  # as the message says
    assert weights.named(weights.load(fitting, NETWORK)[0]).keys() == weights.named(PARAMS).keys()


def test_load_ignores_what_it_is_told_to_casts_floats_only_and_does_without_the_count_of_batches():
    with pytest.raises(ValueError, match="unexpected: visual.proj"):
        weights.load(FLAT | {"visual.proj": np.ones(1)}, NETWORK)
    params, state = weights.load(FLAT | {"visual.proj": np.ones(1)}, NETWORK, dtype="float64", ignore=("visual.",))
    assert params["conv1"]["weight"].dtype == np.float64
    assert np.asarray(state["bn1"]["num_batches_tracked"]).dtype.kind == "i"
    flat = {name: leaf for name, leaf in FLAT.items() if not name.endswith("num_batches_tracked")}
    assert weights.load(flat, NETWORK)[1]["bn1"]["num_batches_tracked"] == 0


def test_a_file_that_holds_no_weights_is_named(tmp_path):
    for name, message in (
        ("model.pt", "pickles, which run code when opened"),
        ("model", "expected .npz, .h5 or .safetensors"),
        ("broken.npz", "broken.npz: it cannot be read"),
        ("broken.h5", "broken.h5: it cannot be read"),
    ):
        (tmp_path / name).write_bytes(b"text")
        with pytest.raises(ValueError, match=message):
            weights.load(tmp_path / name)


@pytest.mark.parametrize("to", [NETWORK, None])
def test_arrays_that_cannot_be_weights_are_named(to):
    w = FLAT["proj.weight"]
    for wrong, message in (
        (w.astype(int), "proj.weight: dtype int64; expected float16, float32 or float64"),
        (w.astype("S3"), "proj.weight: dtype .S3"),
        (np.where(w == w[0, 0], np.nan, w), "proj.weight: 1 of 8 values are not finite"),
        (1e300 * np.eye(2, 4), "proj.weight: 2 of 8 values are not finite in float32"),
    ):
        with pytest.raises(ValueError, match=rf"the dict cannot be used as weights:\n  .*{message}"):
            weights.load(FLAT | {"proj.weight": wrong}, to, dtype="float32")


def test_an_h5_file_that_is_no_tree_of_numbers_is_named(tmp_path):
    for change, message in (
        (lambda f: f.__setitem__("b", h5py.ExternalLink("none.h5", "w")), "it cannot be read .KeyError"),
        (lambda f: f.create_dataset("b", (1 << 40,), "f4"), "b declares .* and 0 are stored"),
        (lambda f: f.__setitem__("b", "text"), "cannot be used as weights:\n  b: dtype .S4"),
    ):
        with h5py.File(tmp_path / "w.h5", "w") as file:
            file["a/w"] = np.ones(3)
            change(file)
        with pytest.raises(ValueError, match=rf"w\.h5.* {message}"):
            weights.load(tmp_path / "w.h5")


def test_links_of_an_h5_file_are_followed(tmp_path):
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["x"] = np.arange(2.0)
    with h5py.File(tmp_path / "w.h5", "w") as file:
        file["a"], file["c.w"] = np.ones(2), h5py.SoftLink("/a")
        file["b"], file["d"] = file["a"], h5py.ExternalLink("other.h5", "x")
        file["num_batches_tracked"] = np.array(7, ">i2")
    params, state = weights.load(tmp_path / "w.h5")
    found = {name: leaf.tolist() for name, leaf in weights.named(params).items()}
    assert found == {"a": [1, 1], "b": [1, 1], "c.w": [1, 1], "d": [0, 1]}
    assert state["num_batches_tracked"] == 7


@pytest.mark.parametrize("dtype", ["BF16", "F8_E4M3"])
def test_a_number_format_of_safetensors_that_numpy_lacks_is_named(tmp_path, dtype):
    pytest.importorskip("safetensors")
    size = 2 if dtype == "BF16" else 1
    header = json.dumps({"w": {"dtype": dtype, "shape": [1], "data_offsets": [0, size]}}).encode()
    (tmp_path / "w.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(size))
    message = r"w\.safetensors: [^\n]*hold bfloat16 or float8, which NumPy lacks: save it as float32$"
    if dtype == "BF16" and "bfloat16" in np.sctypeDict:  # as JAX has it, once it is imported
        message = r"w\.safetensors cannot be used as weights:\n  w: dtype bfloat16; expected float16, float32 or"
    with pytest.raises(ValueError, match=message):
        weights.load(tmp_path / "w.safetensors")

"""train.py: run folders, honest metrics, and resumption to the same bits after a kill at any moment."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time

import h5py
import numpy as np
import pytest

from bplcz_ref import files, metrics, model, systems, theory, weights
from bplcz_ref.data import so2sat, standardise
from bplcz_ref.streams import stream
from bplcz_ref.training import train

SETTINGS = systems.SMALL._replace(
    width=1, features=4, text_width=8, text_layers=1, text_heads=1, epochs=3, per_class=3, test=20, batch=8
)  # 51 samples: six batches of 8 and one of 3


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """100 patches whose classes differ in brightness, so that something can be learnt."""
    path = tmp_path_factory.mktemp("data") / "patches.h5"
    rng = np.random.default_rng(0)
    y = np.concatenate([np.repeat(np.arange(17), 5), rng.integers(0, 17, 15)])
    sen2 = rng.uniform(0.1, 0.2, (100, 32, 32, 10)) + 0.02 * y[:, None, None, None]
    sen1 = np.abs(rng.normal(0, 0.2, (100, 32, 32, 8)))
    so2sat.write_file(path, 100, [(sen1, sen2, y)], {"simulated": True})
    return path


def arrays(run):
    """The checkpoint without the seconds it took."""
    with np.load(run / "checkpoint.npz", allow_pickle=False) as file:
        return {name: value.tobytes() for name, value in file.items() if name != "sums"}


@pytest.fixture(scope="module")
def uninterrupted(data, tmp_path_factory):
    run = tmp_path_factory.mktemp("runs") / "whole"
    train.train(run, data, "ebcnn-bplcz", SETTINGS, say=lambda line: None)
    return run


def test_a_run_folder_is_complete_and_honest(uninterrupted, data):
    config, result = (files.read_json(uninterrupted / name) for name in ("config.json", "metrics.json"))
    assert config["settings"] == SETTINGS._asdict()
    assert config["data"]["simulated"]
    assert result["data_simulated"]
    rows = train.read_log(uninterrupted)
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    assert rows[-1] == result["last_epoch"]
    assert abs(rows[-1]["L"] - (rows[-1]["L_cls"] + 2 * rows[-1]["L_con"])) < 1e-5
    assert result["L_con_floor"] < rows[-1]["L_con"]
    table = np.loadtxt(uninterrupted / "confusion.csv", delimiter=",", skiprows=1, usecols=range(1, 18), dtype=int)
    assert table.sum() == result["test_samples"] == 20
    assert metrics.overall_accuracy(table) == result["overall_accuracy"]
    assert metrics.kappa(table) == result["kappa"]


def test_training_reduces_the_loss(uninterrupted):
    rows = train.read_log(uninterrupted)
    assert rows[-1]["L"] < rows[0]["L"]


def test_the_reported_metrics_come_from_the_saved_weights(uninterrupted, data):
    trained = train.load(uninterrupted)
    with so2sat.open_file(data) as patches:
        _, test = train.parts(patches, SETTINGS)
        C = train.confusion(trained, patches, test)
    assert metrics.summary(C)["kappa"] == files.read_json(uninterrupted / "metrics.json")["kappa"]


def test_a_complete_run_is_not_repeated(uninterrupted, data):
    before = (uninterrupted / "checkpoint.npz").stat().st_mtime_ns
    again = train.train(uninterrupted, data, "ebcnn-bplcz", SETTINGS, say=lambda line: None)
    assert again == files.read_json(uninterrupted / "metrics.json")
    assert (uninterrupted / "checkpoint.npz").stat().st_mtime_ns == before


def test_another_run_in_the_folder_is_refused(uninterrupted, data):
    with pytest.raises(ValueError, match="settings.seed is 47 there and 48 now"):
        train.train(uninterrupted, data, "ebcnn-bplcz", SETTINGS._replace(seed=48))
    with pytest.raises(ValueError, match="holds a run already"):
        train.train(uninterrupted, data, "ebcnn-bplcz", SETTINGS, resume=False)


@pytest.mark.parametrize("stop", [1, 7, 10])
def test_resuming_gives_the_same_bits(uninterrupted, data, tmp_path, monkeypatch, stop):
    """Stopped after so many steps: within the first epoch, at its end, within the second."""
    step = train.one_step

    def until(*arguments):
        if arguments[4].step == stop:
            raise KeyboardInterrupt
        return step(*arguments)

    monkeypatch.setattr(train, "one_step", until)
    with pytest.raises(KeyboardInterrupt):
        train.train(tmp_path, data, "ebcnn-bplcz", SETTINGS, say=lambda line: None, checkpoint_seconds=0)
    monkeypatch.setattr(train, "one_step", step)
    train.train(tmp_path, data, "ebcnn-bplcz", SETTINGS, say=lambda line: None)
    assert arrays(tmp_path) == arrays(uninterrupted)
    logs = [[{k: v for k, v in row.items() if k != "seconds"} for row in train.read_log(run)]
            for run in (tmp_path, uninterrupted)]  # fmt: skip
    assert logs[0] == logs[1]


def test_forgetting_the_velocity_is_seen(uninterrupted, data, tmp_path, monkeypatch):
    """The comparison above would catch a checkpoint that leaves the momentum out."""
    save, load = train.save_checkpoint, train.load_checkpoint
    monkeypatch.setattr(train, "save_checkpoint", lambda run, at: save(run, at._replace(velocity=None)))
    monkeypatch.setattr(train, "one_step", stop_at(10, train.one_step))
    with pytest.raises(KeyboardInterrupt):
        train.train(tmp_path, data, "ebcnn-bplcz", SETTINGS, say=lambda line: None, checkpoint_seconds=0)
    monkeypatch.undo()
    assert load is train.load_checkpoint
    train.train(tmp_path, data, "ebcnn-bplcz", SETTINGS, say=lambda line: None)
    assert arrays(tmp_path) != arrays(uninterrupted)


def stop_at(count, step):
    def until(*arguments):
        if arguments[4].step == count:
            raise KeyboardInterrupt
        return step(*arguments)

    return until


CHILD = """
import sys
from bplcz_ref import systems
from bplcz_ref.training import train
settings = systems.Settings(**__import__("json").loads(sys.argv[3]))
train.train(sys.argv[1], sys.argv[2], "ebcnn-bplcz", settings, checkpoint_seconds=0)
"""


def test_a_process_killed_several_times_ends_with_the_same_bits(uninterrupted, data, tmp_path):
    """SIGKILL at random moments, in steps and in writes; started again until the run is complete."""
    run, kills, rng = tmp_path / "run", 0, random.Random(0)
    command = [sys.executable, "-c", CHILD, str(run), str(data), json.dumps(SETTINGS._asdict())]
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1"}
    checkpoint = run / "checkpoint.npz"
    while not (run / "metrics.json").exists():
        seen = checkpoint.stat().st_mtime_ns if checkpoint.exists() else 0
        child = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
        if kills < 4:
            deadline = time.monotonic() + 60
            while child.poll() is None and time.monotonic() < deadline:
                if checkpoint.exists() and checkpoint.stat().st_mtime_ns > seen:
                    break
            time.sleep(rng.uniform(0, 0.02))
            if child.poll() is None:
                child.send_signal(signal.SIGKILL)
                kills += 1
        _, errors = child.communicate(timeout=120)
        assert child.returncode in (0, -signal.SIGKILL), errors
    assert kills >= 3
    assert arrays(run) == arrays(uninterrupted)
    assert not list(run.glob(".*.part"))  # what killed processes left half written


def test_a_failed_write_keeps_the_last_checkpoint(uninterrupted, tmp_path, monkeypatch):
    at = train.load(uninterrupted)
    progress = train.Progress(5, dict.fromkeys(train.SUMS, 0.0), at.params, None, at.state, at.statistics)
    train.save_checkpoint(tmp_path, progress)
    before = arrays(tmp_path)

    def full(file, **arrays):
        file.write(b"PK half of it")
        raise OSError("no space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(OSError, match="no space"):
        train.save_checkpoint(tmp_path, progress._replace(step=6))
    assert arrays(tmp_path) == before
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint.npz"]


def test_a_damaged_checkpoint_is_named(uninterrupted, data, tmp_path):
    (tmp_path / "config.json").write_bytes((uninterrupted / "config.json").read_bytes())
    (tmp_path / "checkpoint.npz").write_bytes((uninterrupted / "checkpoint.npz").read_bytes()[:1000])
    with pytest.raises(ValueError, match="checkpoint.npz cannot be read"):
        train.train(tmp_path, data, "ebcnn-bplcz", SETTINGS, say=lambda line: None)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_diverging_run_says_so(data, tmp_path):
    with pytest.raises(ValueError, match="try a smaller learning rate"):
        train.train(tmp_path, data, "ebcnn", SETTINGS._replace(learning_rate=1e30), say=lambda line: None)


def test_no_test_sample_is_trained_on(data):
    with so2sat.open_file(data) as patches:
        rows, test = train.parts(patches, SETTINGS)
    assert not set(rows) & set(test)


def test_two_processes_do_not_share_a_run_folder(data, tmp_path):
    with files.alone(tmp_path / "run"), pytest.raises(ValueError, match="another process is at work there"):
        train.train(tmp_path / "run", data, "ebcnn", SETTINGS, say=lambda line: None)


def test_a_last_batch_of_one_is_refused_before_training(data, tmp_path):
    settings = SETTINGS._replace(batch=10)  # 51 samples
    with pytest.raises(ValueError, match="51 samples in batches of 10 leave a last batch of one"):
        train.train(tmp_path / "resnet", data, "resnet50", settings, say=lambda line: None)
    train.train(tmp_path / "ebcnn", data, "ebcnn", settings._replace(epochs=1), say=lambda line: None)


def test_a_bad_test_row_is_found_before_training(data, tmp_path):
    bad = tmp_path / "bad.h5"
    shutil.copy(data, bad)
    with so2sat.open_file(data) as patches:
        _, test = train.parts(patches, SETTINGS)
    with h5py.File(bad, "a") as file:
        file["sen2"][test[-1], 0, 0, 0] = np.nan
    said = []
    with pytest.raises(ValueError, match=f"row {test[-1]}, channel B2"):
        train.train(tmp_path / "run", bad, "ebcnn", SETTINGS, say=said.append)
    assert not said
    assert not (tmp_path / "run" / "config.json").exists()


def test_a_run_does_not_go_on_with_other_pixels_or_without_its_config(uninterrupted, data, tmp_path):
    other = tmp_path / "other.h5"
    shutil.copy(data, other)
    with h5py.File(other, "a") as file:
        file["sen2"][...] = 1 - file["sen2"][...]
    with pytest.raises(ValueError, match="data.pixels is"):
        train.train(uninterrupted, other, "ebcnn-bplcz", SETTINGS)
    (tmp_path / "run").mkdir()
    shutil.copy(uninterrupted / "checkpoint.npz", tmp_path / "run")
    with pytest.raises(ValueError, match="checkpoint.npz without config.json"):
        train.train(tmp_path / "run", data, "ebcnn-bplcz", SETTINGS)


def test_the_floor_without_msm_takes_the_identity_that_was_used(data, tmp_path):
    settings = SETTINGS._replace(epochs=1)
    result = train.train(tmp_path, data, "ebcnn-bgp", settings, say=lambda line: None)
    fraction = (6 * 8 + 3) / (6 * 8 * 8 + 3 * 3)  # six batches of 8 and one of 3: B ones in B^2 entries
    assert abs(result["last_epoch"]["positive_fraction"] - fraction) < 1e-15
    assert result["L_con_floor"] == theory.expected_optimum(1.75, 17, fraction).L_con


def test_the_loop_is_the_plain_one(data, tmp_path, uninterrupted):
    """Statistics of the training part, a new order each epoch, batches in that order, SGD: written out again."""
    settings = SETTINGS._replace(epochs=2, momentum=0.7, weight_decay=0.05, learning_rate=0.01, grid=16)
    for system in ("ebcnn", "exvit"):  # without and with dropout
        train.train(tmp_path / system, data, system, settings, say=lambda line: None)
        with so2sat.open_file(data) as patches:
            index, _ = so2sat.split(patches.labels, 3, 20, 47)
            x = patches.images(index, np.float64)
            clipped = np.concatenate([np.clip(x[..., :8], -1.0, 1.0), x[..., 8:]], axis=-1)
            mean, std = clipped.mean((0, 1, 2)), clipped.std((0, 1, 2))
            network = systems.build(system, settings)
            params, state = network.init(stream(47, "init"), np.dtype("float32"))
            velocity, step, orders = None, 0, []
            statistics = standardise.Statistics(mean, std, 1.0)
            for epoch in range(2):
                order = stream(47, "shuffle", epoch).permutation(index)
                orders.append(order.tolist())
                for start in range(0, 51, 8):
                    rows = order[start : start + 8]
                    x = standardise.standardise(patches.images(rows), statistics)
                    batch = x, patches.labels[rows]
                    rng = stream(47, "dropout", step)
                    _, g, trace = model.loss_and_gradients(network.loss, params, state, batch, rng=rng)
                    g, w = weights.named(g), weights.named(params)
                    g = {name: g[name] + 0.05 * w[name] for name in w}
                    velocity = g if velocity is None else {name: 0.7 * velocity[name] + g[name] for name in w}
                    params = weights.nested({name: w[name] - 0.01 * velocity[name] for name in w})
                    state, step = trace["state"], step + 1
        assert orders[0] != orders[1]
        found = train.load(tmp_path / system)
        assert np.abs(found.statistics.mean - mean).max() < 1e-12
        for name, leaf in weights.named(params).items():
            gap = np.abs(weights.named(found.params)[name] - leaf).max()
            assert gap <= 1e-4 * np.abs(leaf).max(), (system, name)


def test_evaluation_is_in_evaluation_mode(uninterrupted, data):
    """A sample's logits do not depend on its batch, and are those of apply with train=False."""
    trained = train.load(uninterrupted)
    with so2sat.open_file(data) as patches:
        one = np.concatenate([c_hat for _, c_hat in train.logits(trained, patches, np.arange(12), size=1)])
        many = np.concatenate([c_hat for _, c_hat in train.logits(trained, patches, np.arange(12), size=12)])
        x = standardise.standardise(patches.images(np.arange(12)), trained.statistics)
    plain, _ = trained.network.apply(trained.params, trained.state, x, train=False)
    assert np.abs(one - many).max() < 1e-4 * np.abs(many).max()
    assert np.abs(plain - many).max() < 1e-4 * np.abs(many).max()

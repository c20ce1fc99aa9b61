"""train.py: the loop written out again, resumption to the same bits, and what ends a run early."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from small import TINY, bits, quiet

from bplcz_ref import files, model, systems, weights
from bplcz_ref.data import layout, so2sat, standardise
from bplcz_ref.streams import stream
from bplcz_ref.training import checkpoint, evaluate, runs, split, train


def test_training_reduces_the_loss(whole):
    rows = runs.read_log(whole)
    assert rows[-1]["L"] < rows[0]["L"]
    assert abs(rows[-1]["L"] - (rows[-1]["L_cls"] + 2 * rows[-1]["L_con"])) < 1e-5


@pytest.mark.slow
def test_a_subset_is_trained_on_its_own_training_part(subset, tmp_path):
    """The preset's sizes give way, the run says so and keeps it, and the same command goes on with the run."""
    preset = systems.SMALL._replace(**{n: v for n, v in TINY._asdict().items() if n not in ("per_class", "test")})
    said, seen, one_step = [], [], train.one_step

    def watched(patches, rows, *rest):
        seen.extend(rows.tolist())
        return one_step(patches, rows, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "one_step", watched)
        result = train.train(tmp_path / "run", subset, "ebcnn", preset, given=["epochs"], say=said.append)
    assert sorted(seen) == sorted(2 * list(range(34)))
    assert "its own split is used, per_class 2 and test 30" in said[0]
    assert (result["settings"]["per_class"], result["test_samples"]) == (2, 30)
    used = runs.read_config(tmp_path / "run")["data"]["split"]
    assert (used["from"], used["training"], used["test"]) == ("file", 34, 30)
    assert train.train(tmp_path / "run", subset, "ebcnn", preset, given=["epochs"], say=quiet) == result
    with pytest.raises(ValueError, match="per_class 60 asked for"):
        train.train(tmp_path / "new", subset, "ebcnn", preset, given=["per_class"], say=quiet)


def test_a_complete_run_is_not_repeated(whole, small_file):
    before = (whole / "checkpoint.npz").stat().st_mtime_ns
    again = train.train(whole, small_file, "ebcnn-bplcz", TINY, say=quiet)
    assert again == runs.read_metrics(whole)
    assert (whole / "checkpoint.npz").stat().st_mtime_ns == before


def stopping_before(stop):
    """`one_step` that is interrupted instead of taking the step numbered `stop`."""
    one_step = train.one_step

    def until(patches, rows, network, settings, at, dtype):
        if at.step == stop:
            raise KeyboardInterrupt
        return one_step(patches, rows, network, settings, at, dtype)

    return until


def interrupted_and_resumed(run, data, stop, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(train, "one_step", stopping_before(stop))
        with pytest.raises(KeyboardInterrupt):
            train.train(run, data, "ebcnn-bplcz", TINY, say=quiet, checkpoint_seconds=0)
    train.train(run, data, "ebcnn-bplcz", TINY, say=quiet)


@pytest.mark.slow
@pytest.mark.parametrize("stop", [1, 3, 4])
def test_resuming_gives_the_same_bits(whole, small_file, tmp_path, monkeypatch, stop):
    """Stopped after `stop` steps of 3 per epoch: within the first epoch, at its end, within the second."""
    interrupted_and_resumed(tmp_path, small_file, stop, monkeypatch)
    assert bits(tmp_path) == bits(whole)
    logs = [[row | {"seconds": 0} for row in runs.read_log(run)] for run in (tmp_path, whole)]
    assert logs[0] == logs[1]


@pytest.mark.slow
def test_more_epochs_go_on_exactly(small_file, tmp_path):
    """A run of two epochs that is asked for three ends with the bits of a run of three; a cosine rate refuses."""
    long, short = tmp_path / "long", tmp_path / "short"
    settings = TINY._replace(epochs=3, augmentation="turns")
    expected = train.train(long, small_file, "ebcnn-bplcz", settings, say=quiet)
    train.train(short, small_file, "ebcnn-bplcz", settings._replace(epochs=2), say=quiet)
    with pytest.raises(ValueError, match="has 2 epochs already; ask for more than that, not for 1"):
        train.train(short, small_file, "ebcnn-bplcz", settings._replace(epochs=1), say=quiet)
    found = train.resume(short, epochs=3, say=quiet)
    assert bits(short) == bits(long)
    assert np.array_equal(runs.read_confusion(short), runs.read_confusion(long))
    assert [{**r["last_epoch"], "seconds": 0} for r in (found, expected)] == 2 * [
        {**found["last_epoch"], "seconds": 0}
    ]
    cosine = settings._replace(schedule="cosine", epochs=2)
    train.train(tmp_path / "cosine", small_file, "ebcnn", cosine, say=quiet)
    before = bits(tmp_path / "cosine")
    with pytest.raises(ValueError, match="has a cosine rate over 2 epochs, so 3 epochs are another run"):
        train.resume(tmp_path / "cosine", epochs=3, say=quiet)
    assert bits(tmp_path / "cosine") == before
    config = files.read_json(tmp_path / "cosine" / "config.json")
    config["settings"]["epochs"] = 3  # by hand: the rates of a cosine would be others
    files.write_json(tmp_path / "cosine" / "config.json", config)
    with pytest.raises(ValueError, match="belongs to another config.json"):
        evaluate.load(tmp_path / "cosine")
    config["settings"]["epochs"] = 2
    files.write_json(tmp_path / "cosine" / "config.json", config)
    assert train.resume(tmp_path / "cosine", say=quiet) == runs.read_metrics(tmp_path / "cosine")


@pytest.mark.slow
def test_a_kill_while_a_run_is_prolonged_leaves_one_that_can_be_resumed(whole, small_file, tmp_path, monkeypatch):
    """Killed after the old result is gone and before config.json asks for more."""
    run = tmp_path / "run"
    shutil.copytree(whole, run)

    def killed(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(files, "write_json", killed)
        with pytest.raises(KeyboardInterrupt):
            train.resume(run, epochs=3, say=quiet)
    assert not (run / "metrics.json").exists()
    assert train.resume(run, say=quiet) == runs.read_metrics(whole)


def test_the_schedule_by_hand():
    settings = TINY._replace(learning_rate=1.0, epochs=4, schedule="cosine")
    rates = [train.learning_rate(settings, step, 3) for step in range(12)]
    assert rates[0] == 1.0
    assert rates[6] == pytest.approx(0.5, abs=1e-15)  # half of the way
    assert rates[9] == pytest.approx((1 - 0.5**0.5) / 2, abs=1e-15)  # cos(3 pi / 4)
    assert 0 < rates[11] < 0.02
    warm = settings._replace(schedule="constant", warmup=2)
    assert [train.learning_rate(warm, step, 3) for step in range(7)] == pytest.approx(
        [1 / 6, 1 / 3, 0.5, 2 / 3, 5 / 6, 1, 1]
    )
    with pytest.raises(ValueError, match="warmup is 4; expected fewer than the 4 epochs"):
        systems.check(settings._replace(warmup=4))


@pytest.mark.slow
def test_the_rate_and_the_turns_reach_the_training(small_file, tmp_path, monkeypatch):
    rates, sgd = [], train.optim.sgd

    def spy(*arguments, **options):
        rates.append(options["learning_rate"])
        return sgd(*arguments, **options)

    monkeypatch.setattr(train.optim, "sgd", spy)
    settings = TINY._replace(schedule="cosine")
    train.train(tmp_path / "cosine", small_file, "ebcnn", settings, say=quiet)
    assert rates == [train.learning_rate(settings, step, 3) for step in range(6)]
    losses = [
        train.train(tmp_path / kind, small_file, "ebcnn", TINY._replace(epochs=1, augmentation=kind), say=quiet)
        for kind in ("none", "turns")
    ]
    assert losses[0]["last_epoch"]["L"] != losses[1]["last_epoch"]["L"]


@pytest.mark.slow
def test_forgetting_the_velocity_is_seen(whole, small_file, tmp_path, monkeypatch):
    """The comparison above would catch a checkpoint that leaves the momentum out."""
    save = checkpoint.save

    def forgetting(run, at):
        zeros = {name: np.zeros_like(v) for name, v in weights.named(at.velocity).items()}
        save(run, at._replace(velocity=weights.nested(zeros)))

    monkeypatch.setattr(checkpoint, "save", forgetting)
    interrupted_and_resumed(tmp_path, small_file, 4, monkeypatch)
    monkeypatch.undo()
    params = [{n: a for n, a in bits(run).items() if n.startswith("params/")} for run in (tmp_path, whole)]
    assert params[0].keys() == params[1].keys()
    assert params[0] != params[1]


@pytest.mark.slow
@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize("threads", ["1", "2"])
def test_a_diverging_run_says_so_and_nothing_else(small_file, tmp_path, monkeypatch, threads):
    """NumPy's warnings reach nobody, from no thread."""
    monkeypatch.setenv("BPLCZ_THREADS", threads)
    for system in ("ebcnn-bplcz", "exvit"):
        with pytest.raises(ValueError, match="try a smaller learning rate"):
            train.train(tmp_path / system, small_file, system, TINY._replace(learning_rate=1e30), say=quiet)


@pytest.mark.slow
def test_a_diverging_run_is_one_line_for_its_user(small_file, tmp_path):
    """As a process of its own, where every warning would be an error."""
    asked = ["train", "--data", str(small_file), "--system", "ebcnn-bplcz", "--out", str(tmp_path / "run")]
    asked += ["--epochs", "2", "--set", "per_class=2", "test=40", "learning_rate=1e4"]
    command = [sys.executable, "-W", "error", "-m", "bplcz_ref", *asked]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    *progress, error = done.stderr.splitlines()
    assert all("epoch" in line or "parameters" in line for line in progress)
    assert error.startswith("python -m bplcz_ref train: the ")
    assert error.endswith("try a smaller learning rate")


@pytest.mark.slow
def test_an_update_that_is_not_finite_is_found_before_it_is_saved(small_file, tmp_path, monkeypatch):
    """The loss of the last step may still be finite."""
    sgd = train.optim.sgd

    def last(*arguments, **options):
        params, velocity = sgd(*arguments, **options)
        if last.steps == 2:
            params["classifier"]["bias"][3] = np.inf
        last.steps += 1
        return params, velocity

    last.steps = 0
    monkeypatch.setattr(train.optim, "sgd", last)
    message = "parameter classifier.bias is not finite after step 3: try a smaller"
    with pytest.raises(ValueError, match=message):
        train.train(tmp_path, small_file, "ebcnn", TINY._replace(epochs=1), say=quiet)
    assert not (tmp_path / "checkpoint.npz").exists()


@pytest.mark.slow
@pytest.mark.parametrize("what", ["sen2", "label"])
def test_a_file_that_changes_during_training_gives_no_result(small_file, tmp_path, monkeypatch, what):
    data, run = tmp_path / "data.h5", tmp_path / "run"
    shutil.copy(small_file, data)
    with h5py.File(data, "r+") as file:  # a file of others has no digest of its labels
        del file.attrs[layout.LABELS_DIGEST]
    one_step = train.one_step

    def changing(patches, rows, network, settings, at, dtype):
        if at.step == 4:
            offset, rows_ = places[what], 136
            with open(data, "r+b") as file:
                file.seek(offset)
                old = np.fromfile(file, "f8", rows_ * sizes[what]).reshape(rows_, -1)
                file.seek(offset)
                old[::-1].tofile(file)
        return one_step(patches, rows, network, settings, at, dtype)

    with h5py.File(data) as file:
        places = {name: file[name].id.get_offset() for name in file}
        sizes = {name: file[name].size // 136 for name in file}
    monkeypatch.setattr(train, "one_step", changing)
    with pytest.raises(ValueError, match=r"data.h5: its .*(labels|pixels) changed while .*run was trained on it"):
        train.train(run, data, "ebcnn", TINY, say=quiet)
    assert not runs.complete(run)


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="symbolic links")
def test_the_data_may_be_a_link_that_leads_elsewhere_at_the_end(small_file, tmp_path, monkeypatch):
    """Such as the current one of several copies: it is the content that counts."""
    copies = [tmp_path / "one.h5", tmp_path / "two.h5"]
    for copy in copies:
        shutil.copy(small_file, copy)
    (link := tmp_path / "data.h5").symlink_to(copies[0])
    finished = train.evaluate.confusion

    def moving(*arguments):
        link.unlink()
        link.symlink_to(copies[1])
        return finished(*arguments)

    monkeypatch.setattr(train.evaluate, "confusion", moving)
    assert train.train(tmp_path / "run", link, "ebcnn", TINY._replace(epochs=1), say=quiet)["samples"] == 40


def test_an_absurd_value_is_named_before_training(small_file, tmp_path):
    data = tmp_path / "absurd.h5"
    shutil.copy(small_file, data)
    with so2sat.open_file(small_file) as patches:
        training, test = split.parts(patches, TINY)
    for dtype in ("float32", "float64"):
        for row in (training[3], test[5]):
            with h5py.File(data, "a") as file:
                old = file["sen2"][row, 1, 2, 4]
                file["sen2"][row, 1, 2, 4] = 1e300
            said = []
            with pytest.raises(ValueError, match=rf"row {row}, channel B6, pixel \(1, 2\) is (1e\+300|inf)"):
                train.train(tmp_path / "run", data, "ebcnn", TINY, dtype=dtype, say=said.append)
            assert not said
            with h5py.File(data, "a") as file:
                file["sen2"][row, 1, 2, 4] = old


def test_two_processes_do_not_share_a_run_folder(small_file, tmp_path, monkeypatch):
    monkeypatch.setattr(files, "LOCK_SECONDS", 0.1)
    with files.alone(tmp_path / "run"), pytest.raises(ValueError, match="another process is at work there"):
        train.train(tmp_path / "run", small_file, "ebcnn", TINY, say=quiet)


def test_a_last_batch_of_one_is_refused_before_training(small_file, tmp_path, monkeypatch):
    settings = TINY._replace(batch=11)  # 34 samples
    with pytest.raises(ValueError, match="34 samples in batches of 11 leave a last batch of one"):
        train.train(tmp_path / "resnet", small_file, "resnet50", settings, say=quiet)
    monkeypatch.setattr(train, "one_step", stopping_before(0))
    with pytest.raises(KeyboardInterrupt):  # EB-CNN comes as far as its first step
        train.train(tmp_path / "ebcnn", small_file, "ebcnn", settings, say=quiet)


def test_a_bad_test_row_is_found_before_training(small_file, tmp_path):
    bad = tmp_path / "bad.h5"
    shutil.copy(small_file, bad)
    with so2sat.open_file(small_file) as patches:
        _, test = split.parts(patches, TINY)
    with h5py.File(bad, "a") as file:
        file["sen2"][test[-2], 0, 0, 0] = np.nan
    said = []
    with pytest.raises(ValueError, match=f"row {test[-2]}, channel B2"):
        train.train(tmp_path / "run", bad, "ebcnn", TINY, say=said.append)
    assert not said
    assert not (tmp_path / "run" / "config.json").exists()


@pytest.mark.slow
@pytest.mark.parametrize("system", ["ebcnn", "exvit"])  # without and with dropout
def test_the_loop_is_the_plain_one(small_file, tmp_path, system):
    """Statistics of the training part, a new order each epoch, batches in that order, SGD: written out again."""
    settings = TINY._replace(momentum=0.7, weight_decay=0.05, learning_rate=0.01)
    train.train(tmp_path, small_file, system, settings, say=quiet)
    with so2sat.open_file(small_file) as patches:
        index, _ = so2sat.split(patches.labels, 2, 40, 47)
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
            for start in (0, 16, 32):
                rows = order[start : start + 16]
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
    found = evaluate.load(tmp_path)
    assert np.abs(found.statistics.mean - mean).max() < 1e-12
    for name, leaf in weights.named(params).items():
        gap = np.abs(weights.named(found.params)[name] - leaf).max()
        assert gap <= 1e-4 * np.abs(leaf).max(), (system, name)


def test_a_batch_larger_than_the_rows_is_said(small_file, tmp_path):
    said = []
    train.train(tmp_path, small_file, "ebcnn", TINY._replace(batch=100000, epochs=1), say=said.append)
    assert "batch is 100000: every step takes all 34 training rows" in said


def test_run_small_refuses_a_loss_that_a_row_cannot_have_before_it_trains(small_file, tmp_path):
    asked = ["--data", str(small_file), "--out", str(tmp_path / "out"), "--set", "contrastive=unicl"]
    script = Path(__file__).parent.parent / "run_small.py"
    done = subprocess.run([sys.executable, str(script), *asked], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("run_small.py: contrastive is 'unicl', but ebcnn-bgp")
    assert not (tmp_path / "out").exists()

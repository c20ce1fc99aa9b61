"""training/train.py: the loop written out again, resumption to the same bits, and what ends a run early."""

import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
from small import TINY, bits, quiet, steady

from bplcz_ref import model, systems, theory
from bplcz_ref.data import so2sat, standardise
from bplcz_ref.data.streams import stream
from bplcz_ref.storage import files, weights
from bplcz_ref.training import evaluate, runs, split, train
from bplcz_ref.training.progress import Reporter


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


@pytest.mark.slow
def test_each_batch_is_shown_before_its_update(tmp_path):
    """By `watch`, on standardised images in the place of an open file, as docs/record.py trains."""
    x, y = np.random.default_rng(0).standard_normal((34, 32, 32, 18)).astype("f4"), np.arange(34) % 17
    in_place = {"images": lambda rows, dtype: x[rows].astype(dtype), "digests": lambda rows: rows}
    patches = SimpleNamespace(labels=y, **in_place)
    config = {"system": "ebcnn", "settings": TINY._asdict(), "dtype": "float32"}
    run = train.Run(tmp_path, config, patches, np.arange(34), systems.build("ebcnn", TINY), TINY)
    at, seen = train.start(run, None, np.arange(0)), []
    first = at.params["classifier"]["weight"].copy()

    def watch(step, params, trace, y):
        seen.append((step, len(y), float(trace["L"]), np.array_equal(params["classifier"]["weight"], first)))

    train.fit(run, at, Reporter(say=quiet), watch)
    assert [(step, B, same) for step, B, _, same in seen] == [
        (0, 16, True), (1, 16, False), (2, 2, False), (3, 16, False), (4, 16, False), (5, 2, False)
    ]  # fmt: skip
    losses = [sum(B * L for _, B, L, _ in part) / 34 for part in (seen[:3], seen[3:])]
    assert [row["L"] for row in runs.read_log(tmp_path)] == pytest.approx(losses, rel=1e-12)


@pytest.mark.slow
def test_the_floor_is_that_of_the_very_batches(small_file, tmp_path):
    """Of the labels in each batch, with W = I without MSM, weighted by the samples; none for another loss."""
    settings = TINY._replace(epochs=1)
    with so2sat.open_file(small_file) as patches:
        rows = split.decide(patches, settings).training
        order = stream(47, "shuffle", 0).permutation(rows)
        labels = [patches.labels[order[start : start + 16]] for start in (0, 16, 32)]
    for system, msm in (("ebcnn-bgp", False), ("ebcnn-bplcz", True)):
        last = train.train(tmp_path / system, small_file, system, settings, say=quiet)["last_epoch"]
        floors = [len(y) * theory.batch_floor(y, 1.75, msm).lower for y in labels]
        assert abs(last["L_con_floor"] - sum(floors) / 34) < 1e-9
        assert last["L_con_floor"] < last["L_con"]
    for contrastive in ("unicl", "none"):
        own = settings._replace(contrastive=contrastive)
        last = train.train(tmp_path / contrastive, small_file, "ebcnn-bplcz", own, say=quiet)["last_epoch"]
        assert last["L_con_floor"] is None
    train.train(tmp_path / "plain", small_file, "ebcnn", settings, say=quiet)
    none, plain = (weights.named(evaluate.load(tmp_path / run).params) for run in ("none", "plain"))
    assert none.keys() == plain.keys()
    assert all(np.array_equal(none[name], plain[name]) for name in plain)


# ------------------------------------------------------------------------------------------------- going on


def stopping_before(stop, monkeypatch):
    """`one_step` is interrupted instead of taking the step numbered `stop`."""
    one_step = train.one_step

    def until(run, at, *rest):
        if at.step == stop:
            raise KeyboardInterrupt
        return one_step(run, at, *rest)

    monkeypatch.setattr(train, "one_step", until)


@pytest.mark.slow
@pytest.mark.parametrize("stop", [1, 3, 4])
def test_resuming_gives_the_same_bits(whole, small_file, tmp_path, monkeypatch, stop):
    """Stopped after `stop` steps of 3 per epoch: within the first epoch, at its end, within the second."""
    with monkeypatch.context() as patch:
        stopping_before(stop, patch)
        patch.setattr(train, "CHECKPOINT_SECONDS", 0)
        with pytest.raises(KeyboardInterrupt):
            train.train(tmp_path, small_file, "ebcnn-bplcz", TINY, say=quiet)
    train.train(tmp_path, small_file, "ebcnn-bplcz", TINY, say=quiet)
    assert bits(tmp_path) == bits(whole)
    assert steady(tmp_path) == steady(whole)


@pytest.mark.slow
def test_more_epochs_go_on_exactly(whole, small_file, tmp_path, monkeypatch):
    """A run of two epochs that is asked for three ends with the bits of a run of three; a cosine rate refuses."""
    long, short = tmp_path / "long", tmp_path / "short"
    expected = train.train(long, small_file, "ebcnn-bplcz", TINY._replace(epochs=3), say=quiet)
    shutil.copytree(whole, short)
    with pytest.raises(ValueError, match="has 2 epochs already; ask for more than that, not for 1"):
        train.resume(short, epochs=1, say=quiet)
    with monkeypatch.context() as patch:
        patch.setattr(files, "write_json", None)  # ends it before config.json asks for more
        with pytest.raises(TypeError):
            train.resume(short, epochs=3, say=quiet)
    assert train.resume(short, say=quiet) == runs.read_metrics(whole)
    found = train.resume(short, epochs=3, say=quiet)
    assert bits(short) == bits(long)
    assert steady(short) == steady(long)
    assert found["kappa"] == expected["kappa"]
    cosine = TINY._replace(schedule="cosine", epochs=2)
    train.train(tmp_path / "cosine", small_file, "ebcnn", cosine, say=quiet)
    with pytest.raises(ValueError, match="has a cosine rate over 2 epochs, so 3 epochs are another run"):
        train.resume(tmp_path / "cosine", epochs=3, say=quiet)


# ------------------------------------------------------------------------------------------- what settings do


@pytest.mark.slow
def test_the_rate_and_the_turns_reach_the_training(small_file, tmp_path, monkeypatch):
    rates, sgd = [], train.optim.sgd

    def spy(*arguments, **options):
        rates.append(options["learning_rate"])
        return sgd(*arguments, **options)

    monkeypatch.setattr(train.optim, "sgd", spy)
    settings, losses = TINY._replace(schedule="cosine"), []
    for kind in ("none", "turns"):
        own = settings._replace(augmentation=kind)
        losses.append(train.train(tmp_path / kind, small_file, "ebcnn", own, say=quiet)["last_epoch"]["L"])
    assert rates == 2 * [train.learning_rate(settings, step, 3) for step in range(6)]
    assert losses[0] != losses[1]


# ------------------------------------------------------------------------------------------- what ends a run early


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
def test_an_update_that_is_not_finite_is_found_before_it_is_saved(small_file, tmp_path, monkeypatch):
    """The loss of the last step, here of all rows, may still be finite."""
    said, sgd = [], train.optim.sgd

    def last(*arguments, **options):
        params, velocity = sgd(*arguments, **options)
        params["classifier"]["bias"][3] = np.inf
        return params, velocity

    monkeypatch.setattr(train.optim, "sgd", last)
    message = "parameter classifier.bias is not finite after step 1: try a smaller"
    with pytest.raises(ValueError, match=message):
        train.train(tmp_path, small_file, "ebcnn", TINY._replace(epochs=1, batch=100000), say=said.append)
    assert said[0] == "batch is 100000: every step takes all 34 training rows"
    assert not (tmp_path / "checkpoint.npz").exists()


@pytest.mark.parametrize(("part", "bad"), [(0, 1e300), (1, 1e300), (1, np.nan)])
def test_a_bad_value_of_either_part_is_named_before_training(small_file, tmp_path, part, bad):
    data, said = shutil.copy(small_file, tmp_path / "bad.h5"), []
    with so2sat.open_file(small_file) as patches:
        row = split.decide(patches, TINY)[part][3]
    with h5py.File(data, "a") as file:
        file["sen2"][row, 1, 2, 4] = bad
    for dtype in ("float32", "float64"):
        with pytest.raises(ValueError, match=rf"row {row}, channel B6, pixel \(1, 2\) is (1e\+300|inf|nan)"):
            train.train(tmp_path / "run", data, "ebcnn", TINY, dtype=dtype, say=said.append)
    assert not said
    assert not (tmp_path / "run" / "config.json").exists()


def test_two_processes_do_not_share_a_run_folder(small_file, tmp_path, monkeypatch):
    monkeypatch.setattr(files, "LOCK_SECONDS", 0.1)
    with files.alone(tmp_path / "run"), pytest.raises(ValueError, match="another process is at work there"):
        train.train(tmp_path / "run", small_file, "ebcnn", TINY, say=quiet)


def test_a_last_batch_of_one_is_refused_before_training(small_file, tmp_path, monkeypatch):
    settings = TINY._replace(batch=11)  # 34 samples
    with pytest.raises(ValueError, match="34 samples in batches of 11 leave a last batch of one"):
        train.train(tmp_path / "resnet", small_file, "resnet50", settings, say=quiet)
    stopping_before(0, monkeypatch)
    with pytest.raises(KeyboardInterrupt):  # EB-CNN comes as far as its first step
        train.train(tmp_path / "ebcnn", small_file, "ebcnn", settings, say=quiet)


@pytest.mark.slow
def test_run_small_refuses_a_loss_that_a_row_cannot_have_before_it_trains(small_file, tmp_path):
    asked = ["--data", str(small_file), "--out", str(tmp_path / "out"), "--set", "contrastive=unicl"]
    script = Path(__file__).parent.parent / "run_small.py"
    done = subprocess.run([sys.executable, str(script), *asked], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("run_small.py: contrastive is 'unicl', but ebcnn-bgp")
    assert not (tmp_path / "out").exists()

"""Every reader of the package on spoilt files: it reads what it would have read, or raises ValueError.

    python -m pytest tests/test_fuzz.py --fuzz 20000        # 20,000 cases, spread over all readers

A case damages bytes (flips, cuts, repeats, zeros), or puts a value of another type, size or depth in the place of
one that was there. It fails on any exception that is not the project's own ValueError, warnings of NumPy included;
on damaged bytes that are accepted although what is read differs; and on a file that has changed by being read.

What no checksum protects may differ: the values of pixels and of weights in .h5 and .safetensors files, and text
(JSON, tables, plain merges files), where another digit is another number. Their names, shapes and types may not.
"""

import functools
import gzip
import importlib.util
import json
import shutil
import traceback
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import damage
import h5py
import numpy as np
import pytest

from bplcz_ref import archives, conform, model, systems, tokenizer, weights
from bplcz_ref.conform import difference, exchange, verdict
from bplcz_ref.conform.ops import OPS, worked_out
from bplcz_ref.data import inspection, so2sat
from bplcz_ref.encoders import ebcnn
from bplcz_ref.report import figures
from bplcz_ref.report import text as report
from bplcz_ref.training import evaluate, runs

SHORT = {"own": 120, "run": 90}  # cases of the normal run: about 3 seconds
SEED, LINES = 47, 6  # of the damage; of a reader's failures that are shown
NETWORK = ebcnn.encoder(3, width=1, features=2)


class Reader(NamedTuple):
    """`make` writes files into a folder and returns the one to spoil; `read` reads it; `spoil` sets odd values."""

    make: Callable[[Path], Path]
    read: Callable[[Path], Any]
    spoil: Callable | None = None  # without it, all cases damage bytes
    ranges: Callable[[Path], list] = lambda path: [(0, path.stat().st_size)]  # of bytes to damage
    protected: bool = True  # damaged bytes must not be another file of the same kind
    sealed: bool = False  # nor may another value that is valid


# ------------------------------------------------------------------------------------------- what is read, and how


def so2sat_file(folder, **options):
    """17 rows, one per class; 17 * 147 kB."""
    rng, path = np.random.default_rng(0), folder / "x.h5"
    sen1, sen2 = rng.random((17, 32, 32, 8), "f4"), rng.random((17, 32, 32, 10), "f4")
    notes = {"simulated": True, "train_rows": 10, "test_rows": 7, "seed": 47}
    so2sat.write_file(path, 17, [(sen1, sen2, np.arange(17))], notes)
    if options:  # as other programs write it
        with h5py.File(path) as old, h5py.File(folder / "y.h5", "w") as new:
            for name in old:
                new.create_dataset(name, data=old[name][:], **options)
            new.attrs.update(old.attrs)
        (folder / "y.h5").rename(path)
    return path


def metadata(path):
    """The ranges of an HDF5 file's bytes that are no values, and the labels."""
    with h5py.File(path) as file:
        values = []
        for name in [name for name in file if name != "label"]:
            if file[name].chunks is None:
                values.append((file[name].id.get_offset(), file[name].id.get_storage_size()))
            else:
                infos = [file[name].id.get_chunk_info(i) for i in range(file[name].id.get_num_chunks())]
                values += [(info.byte_offset, info.size) for info in infos]
    ranges, at = [], 0
    for offset, size in [*sorted(values), (path.stat().st_size, 0)]:
        if at < offset:
            ranges.append((at, offset))
        at = offset + size
    return ranges


def read_so2sat(path, pixels=True):
    with so2sat.open_file(path, labels=None) as patches:
        x = patches.images(range(len(patches)), np.float64)
        parts = None if patches.parts is None else [part.tolist() for part in patches.parts]
        labels = None if patches.labels is None else patches.labels.tolist()
        notes = {name: repr(value) for name, value in patches.attributes.items()}
        return labels, parts, patches.simulated, str(patches.dtype), notes, x if pixels else x.shape


def read_inspection(path):
    found = inspection.inspect(path)
    text = str(found)
    if found.problems:
        raise ValueError(text)
    return found.counts.tolist() if found.counts is not None else None, found.rows, found.simulated


def weights_file(ending):
    def make(folder):
        params, state = NETWORK.init(np.random.default_rng(0), np.dtype("f4"))
        weights.save(folder / f"w{ending}", params, state)
        return folder / f"w{ending}"

    return make


def read_weights(network, values):
    def read(path):
        flat = {}
        for tree in weights.load(path, network):
            flat |= weights.named(tree)
        return flat if values else {name: (leaf.shape, leaf.dtype.str) for name, leaf in flat.items()}

    return read


def merges_file(packed):
    def make(folder):
        data = (tokenizer.vocabulary_folder() / tokenizer.MACHINE_FILE).read_bytes()
        (folder / "merges").write_bytes(gzip.compress(data) if packed else data)
        return folder / "merges"

    return make


def answers_file(folder):
    """Answers to a few equations, with readings and absences."""
    answers = {
        case.id: worked_out(OPS[case.op].run, case, "float32") for case in exchange.load() if "bce" in case.id
    }
    answers["prompt/1-RGB"] = {"text": "a photo"}
    tensors = {id: {o: exchange.tensor(x) for o, x in out.items()} for id, out in answers.items()}
    head = {"kit": exchange.VERSION, "seed": 0, "dtype": "float32", "without": ["sgd"], "gradients": True}
    content = head | {"readings": {"ce": "logits", "bce-reduction": "sum"}, "answers": tensors}
    (folder / "answers.json").write_text(json.dumps(content))
    return folder / "answers.json"


def read_answers(path):
    answers = exchange.read(path, seed=0)
    report = verdict.report([case for case in exchange.load() if case.id in answers.given], answers, str(path))
    assert len(verdict.text(report).split("\n")) <= verdict.LINES
    verdict.text(report).encode()  # can be printed
    json.dumps(verdict.as_json(report), allow_nan=False)


def geo_file(cities):
    def make(folder):
        so2sat_file(folder)
        with h5py.File(folder / "x_geo.h5", "w") as file:
            file["city"], file["epsg"] = np.resize(cities, 17), np.full(17, 32748)
        return folder / "x_geo.h5"

    return make


def read_geo(path):
    with so2sat.open_file(path.parent / "x.h5", geo=path) as patches:
        return list(patches.cities)


def trace_file(folder):
    network = model.classification(ebcnn.encoder(18, width=1, features=2))
    params, state = network.init(np.random.default_rng(0), "float64")
    x, y = np.random.default_rng(1).standard_normal((2, 8, 8, 18)), np.array([1, 0])
    made = conform.trace(network, params, state, (x, y), learning_rate=0.1, momentum=0.9, weight_decay=0.01)
    for name in ("whole", "trace"):
        weights.save(folder / f"{name}.npz", made)
    return folder / "trace.npz"


def read_trace(path):
    """As ours, and as theirs; what is damaged may differ, and is then named."""
    other = archives.read_npz(path.parent / "whole.npz")
    for pair in ((archives.read_npz(path), other), (other, archives.read_npz(path))):
        found = difference.diff(*pair)
        json.dumps(difference.as_json(found), allow_nan=False)
    return found.exit_code


OWN = {
    "so2sat, pixels and all": Reader(so2sat_file, read_so2sat, damage.spoil_hdf5, metadata),
    "so2sat": Reader(so2sat_file, functools.partial(read_so2sat, pixels=False)),
    "so2sat of other programs": Reader(
        functools.partial(so2sat_file, chunks=True, compression="gzip"),
        read_so2sat,
        ranges=metadata,
        protected=False,
    ),
    "inspect": Reader(so2sat_file, read_inspection, damage.spoil_hdf5, metadata),
    "weights .npz": Reader(weights_file(".npz"), read_weights(NETWORK, True), damage.spoil_npz),
    "weights .npz, any": Reader(weights_file(".npz"), read_weights(None, True), damage.spoil_npz),
    "weights .h5": Reader(weights_file(".h5"), read_weights(NETWORK, False), damage.spoil_hdf5),
    "weights .safetensors": Reader(
        weights_file(".safetensors"), read_weights(NETWORK, False), damage.spoil_safetensors
    ),
    "merges": Reader(
        merges_file(False), lambda path: tokenizer.Tokenizer.from_merges(path).merges, protected=False
    ),
    "merges, packed": Reader(merges_file(True), lambda path: tokenizer.Tokenizer.from_merges(path).merges),
    "geo": Reader(geo_file([b"Jakarta", b"Zurich"]), read_geo, protected=False),
    "geo, numbers": Reader(geo_file([3, 7, 7]), read_geo, damage.spoil_hdf5, protected=False),
    "trace": Reader(trace_file, read_trace, damage.spoil_npz),
    "answers": Reader(answers_file, read_answers, damage.spoil_json_file, protected=False),
}
if importlib.util.find_spec("safetensors") is None:  # an optional library
    del OWN["weights .safetensors"]


# --------------------------------------------------------------------------------------------------- the cases


def equal(a, b):
    """Whether two results are the same, arrays by their bits."""
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple) and type(a) is type(b):
        return len(a) == len(b) and all(map(equal, a, b))
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    return type(a) is type(b) and a == b


def one_case(name, reader, pristine, path, right, number):
    """None, or what went wrong: `path` becomes a spoilt copy of `pristine`; its neighbours are whole."""
    rng = np.random.default_rng([SEED, zlib.crc32(name.encode()), number])
    shutil.copyfile(pristine, path)
    typed = reader.spoil is not None and number % 2
    words = reader.spoil(rng, path) if typed else damage.spoil_bytes(rng, path, reader.ranges(pristine))
    before = path.read_bytes()
    found, problem = None, None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", RuntimeWarning)
            found = reader.read(path)
    except Exception as error:
        if type(error) is not ValueError:
            place = traceback.extract_tb(error.__traceback__)[-1]
            problem = f"traceback: {type(error).__name__}: {str(error)[:100]} ({place.name}, line {place.lineno})"
        found = error
    must_be_right = reader.sealed if typed else reader.protected
    if problem is None and not isinstance(found, Exception) and must_be_right and not equal(found, right):
        problem = "wrong result accepted"
    if not path.is_file() or path.read_bytes() != before:
        problem = "target destroyed"
    return problem and f"{name}, case {number}, {words}: {problem}"


def fuzz(readers, count, folder):
    """Run `count` cases, spread over the readers; fails with a line for each that went wrong."""
    wrong, done = [], 0
    for k, (name, reader) in enumerate(readers.items()):
        (pristine := folder / f"{k}-whole").mkdir()
        path = reader.make(pristine)
        work = Path(shutil.copytree(pristine, folder / f"{k}-spoilt"))
        right = reader.read(path)
        assert right is None or equal(right, reader.read(work / path.relative_to(pristine)))
        for number in range(count // len(readers) + (k < count % len(readers))):
            wrong.append(one_case(name, reader, path, work / path.relative_to(pristine), right, number))
            done += 1
    wrong = [line for line in wrong if line]
    shown = [
        line for name in readers for line in [line for line in wrong if line.startswith(f"{name}, case")][:LINES]
    ]
    kinds = {kind: sum(kind in line for line in wrong) for kind in ("traceback", "accepted", "destroyed")}
    print(f"{done} cases over {len(readers)} readers: {kinds}")
    assert not wrong, "\n".join([f"{len(wrong)} of {done} cases, {kinds}", *shown])


def share(config, part):
    """How many cases: those of the normal run, or this part's share of --fuzz N."""
    asked, parts = config.getoption("--fuzz"), {"own": OWN, "run": RUN}
    return SHORT[part] if asked is None else asked * len(parts[part]) // sum(map(len, parts.values()))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_no_reader_of_foreign_files_is_taken_in(tmp_path, request):
    fuzz(OWN, share(request.config, "own"), tmp_path)


# ------------------------------------------------------------------------------------------------- a run folder


def run_file(name):
    def make(folder):
        shutil.copytree(WHOLE["run"], folder / "run")
        return folder / "run" / name

    return make


WHOLE: dict = {}  # the fixture's run folder, once a test has it


def read_trained(path):
    """All that evaluation takes from a run; the version and the data's path may be others."""
    trained = evaluate.load(path.parent)
    config = trained.config
    data = {name: value for name, value in config["data"].items() if name != "path"}
    settings = runs.settings_of(config)
    arrays = [trained.params, trained.state, trained.statistics._asdict()]
    return config["system"], settings._asdict(), config["dtype"], data, *map(flat, arrays)


def flat(tree):
    return {name: leaf if leaf is None else np.asarray(leaf) for name, leaf in weights.named(tree).items()}


def read_report(path):
    """The lines and tables of `report` and `tables`, and the figures, which are drawn and not saved."""
    run = path.parent
    if runs.complete(run):
        result = runs.read_metrics(run)
        report.one_line(result, "test")
        report.tables_csv({result["system"]: [result]})
        report.tables_markdown({result["system"]: [result]}, 1.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(figures, "save", lambda figure, path: path)
        patch.setattr(systems, "fuses", lambda name: False)  # t-SNE needs the data file
        figures.write_figures([run], run / "figures", say=lambda line: None)


RUN = {
    "config.json": Reader(run_file("config.json"), read_trained, damage.spoil_json_file, sealed=True),
    "checkpoint.npz": Reader(run_file("checkpoint.npz"), read_trained, damage.spoil_npz),
    "log.jsonl": Reader(
        run_file("log.jsonl"), lambda path: runs.read_log(path.parent), damage.spoil_json_lines, protected=False
    ),
    "metrics.json": Reader(
        run_file("metrics.json"),
        lambda path: runs.read_metrics(path.parent),
        damage.spoil_json_file,
        protected=False,
    ),
    "confusion.csv": Reader(
        run_file("confusion.csv"), lambda path: runs.read_confusion(path.parent), damage.spoil_csv, protected=False
    ),
    "report, metrics.json": Reader(run_file("metrics.json"), read_report, damage.spoil_json_file, protected=False),
    "report, log.jsonl": Reader(run_file("log.jsonl"), read_report, damage.spoil_json_lines, protected=False),
    "report, config.json": Reader(run_file("config.json"), read_report, damage.spoil_json_file, protected=False),
    "report, confusion.csv": Reader(run_file("confusion.csv"), read_report, damage.spoil_csv, protected=False),
}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_no_reader_of_a_run_folder_is_taken_in(whole, tmp_path, request):
    pytest.importorskip("matplotlib")
    WHOLE["run"] = whole
    fuzz(RUN, share(request.config, "run"), tmp_path)

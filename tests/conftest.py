"""Fixtures that several test files share."""

import numpy as np
import pytest
from small import NAMES, TINY, quiet
from so2sat_files import make

from bplcz_ref.data import so2sat
from bplcz_ref.training import tables

SLOW = ("6-exercises.md", "5-dynamics.md", "4-what-l-con-wants.md", "conformance.md", "trace.md")


def pytest_ignore_collect(collection_path, config):
    """`-m "not slow"` leaves out comparisons with other libraries, whose import alone takes seconds."""
    return True if collection_path.name == "peers" and config.option.markexpr == "not slow" else None


def pytest_collection_modifyitems(items):
    for item in items:
        if item.name in ("guide.md", *SLOW):  # doctests of about a second, in files without a place for a mark
            item.add_marker(pytest.mark.long if item.name == "guide.md" else pytest.mark.slow)
        if item.get_closest_marker("long"):
            item.add_marker(pytest.mark.slow)


# --- data, training, report, the command line --------------------------------------------------------------------


@pytest.fixture(scope="session")
def plain(tmp_path_factory):
    """A So2Sat file of 340 rows whose values tell row and channel, and its arrays."""
    path = tmp_path_factory.mktemp("so2sat") / "plain.h5"
    return path, make(path)


@pytest.fixture(scope="session")
def small_file(tmp_path_factory):
    """136 patches whose classes differ in brightness; class G is rare in what is left for the test part."""
    path = tmp_path_factory.mktemp("data") / "patches.h5"
    rng = np.random.default_rng(0)
    y = np.concatenate([np.repeat(np.arange(17), 2), rng.permutation(np.resize(np.arange(16), 100)), [16, 16]])
    sen2 = rng.uniform(0.1, 0.2, (136, 32, 32, 10)) + 0.02 * y[:, None, None, None]
    sen1 = np.abs(rng.normal(0, 0.2, (136, 32, 32, 8)))
    so2sat.write_file(path, 136, [(sen1, sen2, y)], {"simulated": True})
    return path


@pytest.fixture(scope="session")
def subset(small_file, tmp_path_factory):
    """A subset of `small_file`: 34 training rows, then 30 test rows."""
    path = tmp_path_factory.mktemp("subset") / "subset.h5"
    so2sat.subset(small_file, path, per_class=2, test=30, seed=5)
    return path


@pytest.fixture(scope="session")
def table(small_file, tmp_path_factory):
    """(folder, results) of a table of EB-CNN and EB-CNN (BP-LCZ) with seed 47; no test changes the folder."""
    out = tmp_path_factory.mktemp("table")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tables, "step_seconds", lambda name, settings: 1.0)  # of the estimate; not timed
        return out, tables.tables(small_file, out, NAMES, [47], TINY, say=quiet)


@pytest.fixture(scope="session")
def runs(table):
    """The two complete run folders of `table`."""
    return [table[0] / name / "seed-47" for name in NAMES]


@pytest.fixture(scope="session")
def whole(runs):
    """The uninterrupted run of EB-CNN (BP-LCZ)."""
    return runs[1]

"""Fixtures that several test files share."""

import pytest
from so2sat_files import make

# --- data, training, report, the command line --------------------------------------------------------------------


@pytest.fixture(scope="session")
def plain(tmp_path_factory):
    """A So2Sat file of 340 rows whose values tell row and channel, and its arrays."""
    path = tmp_path_factory.mktemp("so2sat") / "plain.h5"
    return path, make(path)

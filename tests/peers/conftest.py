"""What the comparisons with other libraries share."""

import pytest

from bplcz_ref import nn

collect_ignore = ["twins.py"]  # no tests, and it needs PyTorch as it is imported

try:
    import torch
except ImportError:
    torch = None


def pytest_ignore_collect(collection_path, config):
    """`-m "not slow"` leaves out comparisons with other libraries, whose import alone takes seconds."""
    return True if config.option.markexpr == "not slow" else None


@pytest.fixture(autouse=True)
def _one_thread():
    """One thread for PyTorch and BLAS: sums then have one order, and a busy machine does not slow them down."""
    before = torch.get_num_threads() if torch else None
    if torch:
        torch.set_num_threads(1)
    with nn.one_blas_thread():
        yield
    if torch:
        torch.set_num_threads(before)

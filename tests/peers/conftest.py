"""What the comparisons with other libraries share."""

import sys
from pathlib import Path

import pytest

from bplcz_ref import nn

sys.path.append(str(Path(__file__).parents[2] / "examples"))
collect_ignore = ["twins.py"]  # no tests, and it needs PyTorch as it is imported


@pytest.fixture(autouse=True)
def _one_thread():
    """One thread for PyTorch and BLAS: sums then have one order, and a busy machine does not slow them down."""
    torch = sys.modules.get("torch")  # where a test has imported it
    before = torch.get_num_threads() if torch else None
    if torch:
        torch.set_num_threads(1)
    with nn.one_blas_thread():
        yield
    if torch:
        torch.set_num_threads(before)

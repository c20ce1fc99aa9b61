"""What the comparisons with other libraries share."""

import pytest

try:
    import torch
except ImportError:
    torch = None


def pytest_collection_modifyitems(items):
    """Comparisons with other libraries are left out by `-m "not slow"`: importing those takes seconds."""
    for item in items:
        if "peers" in item.path.parts:
            item.add_marker(pytest.mark.slow)


@pytest.fixture(autouse=True)
def _one_thread():
    """One thread for PyTorch: its sums then have one order, and a busy machine does not slow it down."""
    before = torch.get_num_threads() if torch else None
    if torch:
        torch.set_num_threads(1)
    yield
    if torch:
        torch.set_num_threads(before)

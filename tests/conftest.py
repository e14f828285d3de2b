"""Fixtures of all tests."""

from collections.abc import Iterator

import pytest
import torch
from hypothesis import HealthCheck, settings

# How long examples take to be drawn says how busy the machine is, not what is right.
settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")


@pytest.fixture(autouse=True, scope="module")
def threads() -> Iterator[None]:
    """As many threads of torch after a file's tests as before them."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)

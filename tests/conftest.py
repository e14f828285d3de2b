"""Fixtures of all tests."""

import os
from collections import Counter
from collections.abc import Iterator

import pytest
import torch
from hypothesis import HealthCheck, settings

# Processes that run as another user are forked, and the handlers of gRPC for that crash some.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

# How long examples take to be drawn says how busy the machine is, not what is right.
settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that have the most slow tests: one that starts last delays the end."""
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -slow[item.path])


@pytest.fixture(autouse=True, scope="module")
def threads() -> Iterator[None]:
    """As many threads of torch after a file's tests as before them."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def mask() -> Iterator[None]:
    """The umask of the process: a test that leaves another one fails."""
    before = os.umask(0o022)
    os.umask(before)
    yield
    after = os.umask(before)
    assert after == before, "the test has changed the umask; run what changes it as a process"

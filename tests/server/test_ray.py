"""A server whose workers run in a Ray cluster of two nodes, which lose processes and nodes."""

import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from ctypes.util import find_library
from pathlib import Path

import pytest

from metanas_protos.v1.adaptation_pb2 import Adaptation, AdaptationOptions
from tests.ray_nodes import Nodes, started
from tests.server.calls import CANCELLED, LONG, QUEUED, SUCCEEDED, Api, images, spec
from tests.server.processes import ENVIRONMENT, ServerProcess, run, serving

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]  # a start of Ray may take minutes
SOME = AdaptationOptions(steps=60)
SECONDS = 240.0
HEAD, OTHER = 0, 1
OF_NODE = "glibc.malloc.arena_test=3"
"""Allocator settings in the environment of the nodes."""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Nodes]:
    """A cluster of two nodes with room for one worker each."""
    with started("1 1", GLIBC_TUNABLES=OF_NODE) as nodes:
        yield nodes


@pytest.fixture(scope="module")
def relative(checkpoints: Path) -> Path:
    """The folder of the checkpoints by a path that leads nowhere in the cluster."""
    return Path(os.path.relpath(checkpoints))


@pytest.fixture(scope="module")
def server(relative: Path, cluster: Nodes, data: Path) -> Iterator[ServerProcess]:
    flags = ("--workers", cluster.address, "--devices=cpu,cpu", "--max-attempts=2")
    with serving(relative, data, *flags) as running:
        yield running


@pytest.fixture
def log(data: Path) -> Path:
    return data.with_suffix(".log")


def until(condition: Callable[[], bool]) -> None:
    latest = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < latest
        time.sleep(0.05)


def actors(log: Path, name: str) -> list[int]:
    """Return the process ids of the workers that an adaptation was given to."""
    pattern = rf"{name.removeprefix('adaptations/')}: attempt \d+ on cpu \((\d+)\)"
    return [int(pid) for pid in re.findall(pattern, log.read_text(encoding="utf-8"))]


def until_attempt(api: Api, name: str, number: int) -> None:
    """Wait until this attempt of an adaptation goes on."""
    until(lambda: (each := api.get(name)).attempts == number and each.progress.attempt == number)


def ends(api: Api, names: list[str]) -> list[Adaptation]:
    """Wait for the end of adaptations; return their final states."""
    until(lambda: all(api.get(name).HasField("end_time") for name in names))
    return [api.get(name) for name in names]


def test_a_server_without_a_cluster_does_not_start(checkpoints: Path, tmp_path: Path) -> None:
    done = run(checkpoints, tmp_path / "data", "--workers=127.0.0.1:1", "--start-seconds=5")
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert "127.0.0.1:1" in line
    assert line.endswith("(CLUSTER_UNREACHABLE)")


def test_actors_end_with_their_front(relative: Path, cluster: Nodes, tmp_path: Path) -> None:
    data = tmp_path / "data"
    with serving(relative, data, "--workers", cluster.address) as server:
        name = server.api.create(spec(options=LONG), images()).name
        until_attempt(server.api, name, 1)
        (pid,) = actors(data.with_suffix(".log"), name)
        assert Path(f"/proc/{pid}").exists()
        server.kill()
        until(lambda: not Path(f"/proc/{pid}").exists())


def test_actors_have_the_allocator_settings_of_workers_and_of_their_node(
    server: ServerProcess, api: Api, log: Path
) -> None:
    name = api.create(spec(options=LONG), images()).name
    until_attempt(api, name, 1)
    process = Path(f"/proc/{actors(log, name)[-1]}")
    variables = re.split("[\0:=]", (process / "environ").read_text(encoding="utf-8"))
    assert "glibc.malloc.hugetlb" in variables
    assert variables.index("glibc.malloc.arena_test") > variables.index("glibc.malloc.hugetlb")
    if "LD_PRELOAD" not in ENVIRONMENT:
        loaded = "tcmalloc" in (process / "maps").read_text(encoding="utf-8")
        assert loaded == (find_library("tcmalloc_minimal") is not None)
    api.cancel(name)
    assert [each.state for each in ends(api, [name])] == [CANCELLED]


def test_a_killed_actor_costs_an_attempt_and_no_job(
    server: ServerProcess, api: Api, log: Path
) -> None:
    name = api.create(spec(options=LONG), images()).name
    until_attempt(api, name, 1)
    os.kill(actors(log, name)[-1], signal.SIGKILL)
    until_attempt(api, name, 2)
    api.cancel(name)
    assert [each.state for each in ends(api, [name])] == [CANCELLED]


def test_the_loss_of_the_driver_is_not_the_fault_of_jobs(server: ServerProcess, api: Api) -> None:
    name = api.create(spec(options=LONG), images()).name
    for attempt in (1, 2):
        until_attempt(api, name, attempt)
        (driver,) = server.workers()
        os.kill(driver, signal.SIGKILL)
    until_attempt(api, name, 3)  # a job that lost two workers would have failed
    api.cancel(name)
    assert [each.state for each in ends(api, [name])] == [CANCELLED]


def test_jobs_of_a_killed_node_go_on_elsewhere(
    server: ServerProcess, api: Api, cluster: Nodes
) -> None:
    names = [api.create(spec(options=SOME, seed=seed), images()).name for seed in range(6)]
    for name in names:
        until_attempt(api, name, 1)
    cluster.kill(OTHER)
    ended = ends(api, names)
    assert {each.state for each in ended} == {SUCCEEDED}
    assert {each.attempts for each in ended} <= {1, 2}
    assert len({each.model for each in ended}) == len(names)


def test_a_server_without_its_cluster_accepts_jobs_and_says_that_it_cannot_run_them(
    server: ServerProcess, api: Api, cluster: Nodes
) -> None:
    cluster.kill(HEAD)
    until(lambda: not server.is_serving())
    name = api.create(spec(), images()).name
    assert api.get(name).state == QUEUED
    server.process.terminate()
    assert server.process.wait(SECONDS) == 0

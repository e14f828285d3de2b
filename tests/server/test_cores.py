"""The cores: how many there are, and how the workers share them."""

import asyncio
import math
import os
import signal
from multiprocessing import Pipe
from pathlib import Path

import pytest
from grpc import aio

from metanas.spec.examples import Limits
from metanas_protos.v1.adaptation_service_pb2 import CancelAdaptationRequest
from metanas_protos.v1.adaptation_service_pb2_grpc import AdaptationServiceStub
from metanas_server.app import build_server
from metanas_server.config import ServerConfig
from metanas_server.cores import MOST_WORKERS, quota, share, usable_cores
from metanas_server.storage.support_file import pack
from metanas_server.workers.main import Worker
from metanas_server.workers.process import WorkerProcess
from metanas_server.workers.protocol import Beat, Ended, Made, Order, Setup
from tests.core.small import examples
from tests.server.calls import LONG, SUCCEEDED, create, end_of, images, spec
from tests.server.telling import LABELS, Told


@pytest.fixture
def told(tmp_path: Path) -> Told:
    return Told(tmp_path)


@pytest.mark.parametrize(
    ("cores", "busy", "threads"), [(8, 0, 8), (8, 1, 8), (8, 2, 4), (8, 3, 2), (1, 1, 1), (2, 4, 1)]
)
def test_the_busy_have_equal_shares_of_at_least_one(cores: int, busy: int, threads: int) -> None:
    assert share(cores, busy) == threads


@pytest.mark.parametrize(
    ("limits", "own", "cores"),
    [
        ({}, "0::/", math.inf),
        ({".": "max 100000"}, "0::/", math.inf),
        ({".": "150000 100000"}, "0::/", 1.5),
        ({"a": "50000 100000", "a/b": "max 100000"}, "1:cpu:/x\n0::/a/b\n", 0.5),
        ({".": "400000 100000", "a": "300000 100000"}, "0::/a", 3),
        ({".": "200000 100000"}, "0::/not/seen/from/here", 2),
        ({".": "200000 100000"}, "4:cpu:/\n", math.inf),
    ],
)
def test_the_least_quota_counts(
    tmp_path: Path, limits: dict[str, str], own: str, cores: float
) -> None:
    (tmp_path / "own").write_text(own, encoding="ascii")
    for name, text in limits.items():
        (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / name / "cpu.max").write_text(f"{text}\n", encoding="ascii")
    assert quota(tmp_path, tmp_path / "own") == cores
    assert quota(tmp_path, tmp_path / "none") == math.inf


def test_there_is_a_worker_for_each_core() -> None:
    assert 1 <= usable_cores() <= len(os.sched_getaffinity(0))
    assert ServerConfig().devices == ("cpu",) * min(usable_cores(), MOST_WORKERS)


async def test_those_who_are_busy_share_the_cores(told: Told, tmp_path: Path) -> None:
    """Two adaptations are made by two workers; each step has the cores that nobody else is at."""
    cores = usable_cores()
    config = ServerConfig(
        checkpoints=told.checkpoints,
        data=tmp_path / "data",
        listen="127.0.0.1:0",
        devices=("cpu", "cpu"),
    )
    async with (
        build_server(config, load=told.load) as server,
        aio.insecure_channel(f"127.0.0.1:{server.port}") as channel,
    ):
        stub = AdaptationServiceStub(channel)
        first, second = server.worker_pids
        one = await create(channel, spec(options=LONG), images(LABELS))
        await until(told, {first: cores})
        other = await create(channel, spec(options=LONG), images(LABELS))
        await until(told, dict.fromkeys((first, second), share(cores, 2)))
        os.kill(second, signal.SIGKILL)
        while second in server.worker_pids or len(server.worker_pids) < 2:
            await asyncio.sleep(0.05)
        await until(told, dict.fromkeys(server.worker_pids, share(cores, 2)))
        await stub.CancelAdaptation(CancelAdaptationRequest(name=other))
        await until(told, {first: cores})
        await stub.CancelAdaptation(CancelAdaptationRequest(name=one))


async def until(told: Told, wanted: dict[int, int]) -> None:
    """Wait until these processes tell these numbers of threads."""
    told.forget()
    while not wanted.items() <= told.threads().items():
        await asyncio.sleep(0.05)


async def test_a_configured_number_of_threads_is_shared_with_nobody(
    told: Told, tmp_path: Path
) -> None:
    config = ServerConfig(
        checkpoints=told.checkpoints,
        data=tmp_path / "data",
        listen="127.0.0.1:0",
        devices=("cpu",),
        threads=usable_cores() + 1,
    )
    async with (
        build_server(config, load=told.load) as server,
        aio.insecure_channel(f"127.0.0.1:{server.port}") as channel,
    ):
        name = await create(channel, spec(), images(LABELS))
        assert (await end_of(channel, name)).state == SUCCEEDED
    assert set(told.threads().values()) == {config.threads}


def setup_of(told: Told, *, beat: float) -> Setup:
    """What a worker of its own is told."""
    return Setup(
        checkpoints=told.checkpoints,
        limits=Limits(),
        device="cpu",
        threads=1,
        stack_images=1,
        stack_bytes=2**30,
        beat=beat,
        start_seconds=120.0,
    )


async def test_a_worker_that_is_told_its_share_again_and_again_gives_signs_of_life(
    told: Told,
) -> None:
    """Others begin and end: their company must not be taken for its silence."""
    setup = setup_of(told, beat=1.0)
    worker = WorkerProcess(setup)
    await worker.start()
    ready = worker.heard
    for number in range(200):  # four times as long as it may be silent
        worker.share(1 + number % 2)
        await asyncio.sleep(0.02)
        if worker.heard > ready:
            break
    assert worker.heard > ready
    await worker.close()


def test_a_worker_gives_signs_of_life_while_it_makes_a_model(told: Told, tmp_path: Path) -> None:
    """A large support set takes its trunk for longer than a worker may be silent."""
    setup = setup_of(told, beat=0.0)
    front, own = Pipe()
    folder = next(told.checkpoints.iterdir())
    checkpoint = told.load(folder, device="cpu")
    worker = Worker({"tiny": checkpoint}, setup, own)
    given = tmp_path / "support"
    given.write_bytes(pack(examples((2, 2))))
    order = Order(
        number=1,
        checkpoint="tiny",
        digest=checkpoint.card.digest,
        overrides={},
        seed=0,
        classes=None,
        support=given,
    )
    front.send(order)
    said = list[object]()
    while not any(isinstance(each, Ended) for each in said):
        worker.turn()
        while front.poll(0):
            said.append(front.recv())
    assert isinstance(said[-1], Ended)
    assert isinstance(said[-1].outcome, Made)
    assert sum(isinstance(each, Beat) for each in said) > 1

"""The number of usable cores, and the share of each worker."""

import asyncio
import math
import os
import signal
import sys
from multiprocessing import Pipe
from pathlib import Path

import pytest
from grpc import aio

from metanas.spec.examples import Limits
from metanas_protos.v1.adaptation_service_pb2 import CancelAdaptationRequest
from metanas_protos.v1.adaptation_service_pb2_grpc import AdaptationServiceStub
from metanas_server.app import Server
from metanas_server.config import ServerConfig
from metanas_server.cores import MOST_WORKERS, quota, share, usable_cores
from metanas_server.storage.artefacts import sha256
from metanas_server.storage.support_file import pack
from metanas_server.workers.main import Checkpoints, Runner
from metanas_server.workers.process import Processes
from metanas_server.workers.protocol import Beat, Ended, Made, Order, Setup
from metanas_server.workers.worker import Worker
from tests.core.small import examples
from tests.server.calls import LONG, SUCCEEDED, create, end_of, images, spec
from tests.server.thread_reports import LABELS, ThreadReports


@pytest.fixture
def reports(tmp_path: Path) -> ThreadReports:
    return ThreadReports(tmp_path)


def test_cores_of_macos(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.delattr(os, "sched_getaffinity")
    assert usable_cores() == os.cpu_count()


@pytest.mark.parametrize(
    ("cores", "busy", "threads"), [(8, 0, 8), (8, 1, 8), (8, 2, 4), (8, 3, 2), (1, 1, 1), (2, 4, 1)]
)
def test_busy_workers_have_equal_shares_of_at_least_one_core(
    cores: int, busy: int, threads: int
) -> None:
    assert share(cores, busy) == threads


@pytest.mark.parametrize(
    ("limits", "membership", "cores"),
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
    tmp_path: Path, limits: dict[str, str], membership: str, cores: float
) -> None:
    (tmp_path / "membership").write_text(membership, encoding="ascii")
    for name, text in limits.items():
        (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / name / "cpu.max").write_text(f"{text}\n", encoding="ascii")
    assert quota(tmp_path, tmp_path / "membership") == cores
    assert quota(tmp_path, tmp_path / "none") == math.inf


def test_there_is_a_worker_for_each_core() -> None:
    assert 1 <= usable_cores() <= len(os.sched_getaffinity(0))
    assert ServerConfig().devices == ("cpu",) * min(usable_cores(), MOST_WORKERS)


async def test_busy_workers_share_the_cores(reports: ThreadReports, tmp_path: Path) -> None:
    """Two workers run two adaptations; each has the cores that the other does not use."""
    cores = usable_cores()
    config = ServerConfig(
        checkpoints=reports.checkpoints,
        data=tmp_path / "data",
        listen="127.0.0.1:0",
        devices=("cpu", "cpu"),
    )
    async with (
        Server(config, load=reports.load) as server,
        aio.insecure_channel(f"127.0.0.1:{server.port}") as channel,
    ):
        stub = AdaptationServiceStub(channel)
        first, second = server.worker_pids
        one = await create(channel, spec(options=LONG), images(LABELS))
        await until(reports, {first: cores})
        other = await create(channel, spec(options=LONG), images(LABELS))
        await until(reports, dict.fromkeys((first, second), share(cores, 2)))
        os.kill(second, signal.SIGKILL)
        while second in server.worker_pids or len(server.worker_pids) < 2:
            await asyncio.sleep(0.05)
        await until(reports, dict.fromkeys(server.worker_pids, share(cores, 2)))
        await stub.CancelAdaptation(CancelAdaptationRequest(name=other))
        await until(reports, {first: cores})
        await stub.CancelAdaptation(CancelAdaptationRequest(name=one))


async def until(reports: ThreadReports, expected: dict[int, int]) -> None:
    """Wait until these processes report these numbers of threads."""
    reports.clear()
    while not expected.items() <= reports.threads().items():
        await asyncio.sleep(0.05)


async def test_a_configured_number_of_threads_is_not_shared(
    reports: ThreadReports, tmp_path: Path
) -> None:
    config = ServerConfig(
        checkpoints=reports.checkpoints,
        data=tmp_path / "data",
        listen="127.0.0.1:0",
        devices=("cpu",),
        threads=usable_cores() + 1,
    )
    async with (
        Server(config, load=reports.load) as server,
        aio.insecure_channel(f"127.0.0.1:{server.port}") as channel,
    ):
        name = await create(channel, spec(), images(LABELS))
        assert (await end_of(channel, name)).state == SUCCEEDED
    assert set(reports.threads().values()) == {config.threads}


def setup_of(reports: ThreadReports, *, beat: float) -> Setup:
    """Return the settings of a worker outside of a server."""
    return Setup(
        checkpoints=reports.checkpoints,
        limits=Limits(),
        device="cpu",
        threads=1,
        stack_images=1,
        stack_bytes=2**30,
        beat=beat,
        start_seconds=120.0,
    )


async def test_a_worker_that_receives_many_messages_sends_beats(
    reports: ThreadReports,
) -> None:
    """Messages of the front must not delay the beats of an idle worker."""
    setup = setup_of(reports, beat=1.0)
    worker = Worker(setup, Processes())
    await worker.start()
    ready = worker.last_message
    for number in range(200):  # 4 s, and a beat is due each second
        worker.share(1 + number % 2)
        await asyncio.sleep(0.02)
        if worker.last_message > ready:
            break
    assert worker.last_message > ready
    await worker.close()


def test_a_worker_sends_beats_during_an_adaptation(reports: ThreadReports, tmp_path: Path) -> None:
    """The trunk may need longer for a large support set than a worker may be silent."""
    setup = setup_of(reports, beat=0.0)
    front, there = Pipe()
    folder = next(reports.checkpoints.iterdir())
    checkpoint = reports.load(folder, device="cpu")
    worker = Runner(Checkpoints({"tiny": checkpoint}, None), setup, there)
    packed = pack(examples((2, 2)))
    support = tmp_path / sha256(packed)
    support.write_bytes(b"".join(packed))
    order = Order(
        number=1,
        checkpoint="tiny",
        digest=checkpoint.card.digest,
        overrides={},
        seed=0,
        classes=None,
        support=support,
    )
    front.send(order)
    messages = list[object]()
    while not any(isinstance(each, Ended) for each in messages):
        worker.turn()
        while front.poll(0):
            messages.append(front.recv())
    (ended,) = [each for each in messages if isinstance(each, Ended)]  # a beat may follow it
    assert isinstance(ended.outcome, Made)
    assert sum(isinstance(each, Beat) for each in messages) > 1

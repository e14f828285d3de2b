"""One contract for workers behind a pipe and for workers in a Ray cluster."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from metanas.errors import Cancelled, MetanasError
from metanas.spec.examples import Limits
from metanas.spec.options import AdaptConfig
from metanas.spec.progress import Progress
from metanas.testing import make_checkpoint
from metanas_server.errors import StartError, StoreError, WorkerKilled, WorkerLost
from metanas_server.storage.artefacts import sha256
from metanas_server.storage.support_file import pack
from metanas_server.workers.checkpoint_files import digest_of, folder_with, read_files
from metanas_server.workers.cluster.launcher import RayWorkers
from metanas_server.workers.link import Launcher
from metanas_server.workers.process import Processes
from metanas_server.workers.protocol import Load, Made, Order, Setup
from metanas_server.workers.worker import Worker
from tests.core.small import examples
from tests.server import crashing, failing

pytestmark = pytest.mark.asyncio(loop_scope="module")
OPTIONS = AdaptConfig(steps=2, tuning_steps=1, patience=0)
LONG: dict[str, Any] = {"steps": 500, "tuning_steps": 500}
"""Options of a job that takes longer than any test."""
NUMBERS = count(1)


@pytest_asyncio.fixture(
    scope="module",
    loop_scope="module",
    params=["processes", pytest.param("ray", marks=pytest.mark.slow)],
)
async def launcher(request: pytest.FixtureRequest) -> AsyncIterator[Launcher]:
    """Each kind of workers; one local Ray cluster serves all tests."""
    launcher = Processes() if request.param == "processes" else RayWorkers(None, cpus=2)
    yield launcher
    await launcher.close()


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("checkpoints")
    for name in ("basic", crashing.CRASHING):
        make_checkpoint(root / name, channels=1, options=OPTIONS)
    return root


@dataclass(frozen=True)
class Caller:
    """Gives jobs to a worker."""

    worker: Worker
    support: Path

    def give(self, name: str = "basic", **overrides: Any) -> "Given":
        """Give a job."""
        order = Order(
            number=next(NUMBERS),
            checkpoint=name,
            digest=self.worker.cards.digests[name],
            overrides=overrides,
            seed=0,
            classes=None,
            support=self.support,
        )
        heard = list[Progress]()
        return Given(order.number, self.worker.give(order, heard.append), heard)


@dataclass(frozen=True)
class Given:
    """A job that runs, and its progress."""

    number: int
    result: asyncio.Future[Made]
    heard: list[Progress]

    async def until_running(self) -> None:
        await until(lambda: bool(self.heard))


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.01)


def setup(root: Path, load: Load | None = None, start_seconds: float = 240.0) -> Setup:
    return Setup(
        checkpoints=root,
        limits=Limits(),
        device="cpu",
        threads=1,
        stack_images=512,
        stack_bytes=2**30,
        beat=10.0,
        start_seconds=start_seconds,
        load=load,
    )


@asynccontextmanager
async def serving(launcher: Launcher, settings: Setup, tmp_path: Path) -> AsyncIterator[Caller]:
    """A worker that is ready, and a support set for it."""
    packed = pack(examples((2, 2)))
    support = tmp_path / sha256(packed)
    support.write_bytes(b"".join(packed))
    worker = Worker(settings, launcher)
    try:
        await worker.start()
        yield Caller(worker, support)
    finally:
        await worker.close()


async def test_jobs_run_together_and_errors_end_one_job(
    launcher: Launcher, checkpoints: Path, tmp_path: Path
) -> None:
    async with serving(launcher, setup(checkpoints), tmp_path) as caller:
        long, *short = caller.give(**LONG), caller.give(), caller.give()
        first, second = [await each.result for each in short]
        assert sha256((first.onnx,)) == first.sha256 == second.sha256
        steps = [each.step for each in short[0].heard if each.stage == "adapt"]
        assert steps == sorted(steps)
        assert steps
        caller.worker.stop(long.number, patience=600.0)
        with pytest.raises(Cancelled):
            await long.result
        caller.support.write_bytes(b"changed")
        with pytest.raises(StoreError) as damaged:
            await caller.give().result
        caller.support.unlink()
        with pytest.raises(StoreError) as lost:
            await caller.give().result
    assert (damaged.value.reason, lost.value.reason) == ("ARTEFACT_DAMAGED", "ARTEFACT_LOST")
    assert caller.worker.ended.is_set()


async def test_a_crash_ends_the_jobs_of_the_worker_and_the_next_start_serves(
    launcher: Launcher, checkpoints: Path, tmp_path: Path
) -> None:
    async with serving(launcher, setup(checkpoints, crashing.load), tmp_path) as caller:
        before = caller.worker.pid
        other = caller.give(**LONG)
        await other.until_running()
        crash = caller.give(crashing.CRASHING)
        errors = [await ended(each) for each in (other, crash)]
        assert [type(error) for error in errors] == [WorkerLost, WorkerLost]
        assert caller.worker.ended.is_set()
        assert not caller.worker.ready
        await caller.worker.start()
        assert caller.worker.pid not in (None, before)
        assert (await caller.give().result).checkpoint == "basic"


async def test_a_worker_that_does_not_stop_a_job_is_killed_for_that_job_alone(
    launcher: Launcher, checkpoints: Path, tmp_path: Path
) -> None:
    async with serving(launcher, setup(checkpoints), tmp_path) as caller:
        stuck, other = caller.give(**LONG), caller.give(**LONG)
        await stuck.until_running()
        assert caller.worker.pid is not None
        os.kill(caller.worker.pid, signal.SIGSTOP)
        caller.worker.stop(stuck.number, patience=0.0)
        assert [type(await ended(each)) for each in (stuck, other)] == [WorkerLost, WorkerKilled]


async def test_a_reload_is_used_by_later_jobs_after_its_adoption(
    launcher: Launcher, tmp_path: Path
) -> None:
    root = tmp_path / "checkpoints"
    make_checkpoint(root / "basic", channels=1, options=OPTIONS)
    async with serving(launcher, setup(root), tmp_path) as caller:
        old = caller.worker.cards.digests
        make_checkpoint(root / "basic", channels=1, options=OPTIONS, seed=1)
        for adopted in (False, True):
            cards = await caller.worker.reload()
            assert cards.digests != old
            caller.worker.adopt(cards if adopted else None)
            assert (await caller.give().result).checkpoint == "basic"
        assert caller.worker.cards.digests == cards.digests


async def test_a_worker_that_cannot_start_says_why(
    launcher: Launcher, checkpoints: Path, tmp_path: Path
) -> None:
    worker = Worker(setup(checkpoints, failing.odd), launcher)
    with pytest.raises(MetanasError, match="odd"):
        await worker.start()
    await worker.close()


async def test_a_start_that_takes_too_long_is_given_up(
    launcher: Launcher, checkpoints: Path, tmp_path: Path
) -> None:
    worker = Worker(setup(checkpoints, failing.slow, start_seconds=0.5), launcher)
    with pytest.raises(StartError, match="--start-seconds"):
        await worker.start()
    await worker.close()
    assert worker.ended.is_set()


async def ended(given: Given) -> Exception:
    """Return the error of a job that ends with one."""
    with pytest.raises(MetanasError) as caught:
        await given.result
    return caught.value


@dataclass(frozen=True)
class Files:
    """A copy of checkpoints in memory."""

    digest: str
    files: Mapping[str, bytes]

    def read(self) -> Mapping[str, bytes]:
        return self.files


async def test_a_copy_is_used_where_the_files_are_others(checkpoints: Path, tmp_path: Path) -> None:
    files = read_files(checkpoints)
    copy = Files(digest_of(files), files)
    with folder_with(checkpoints, copy) as folder:
        assert folder == checkpoints
    settings = replace(setup(tmp_path / "nowhere"), copy=copy)
    async with serving(Processes(), settings, tmp_path) as caller:
        assert (await caller.give().result).checkpoint == "basic"

"""Checkpoints that change on disk, and errors on their way from a worker process."""

import asyncio
import multiprocessing
import os
import resource
import shutil
import signal
import threading
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from grpc import aio

from metanas import errors as core
from metanas.checkpoint import load_checkpoint
from metanas.errors import InvalidInput, MetanasError, Violation
from metanas.spec.examples import Limits
from metanas.spec.options import AdaptConfig
from metanas.testing import make_checkpoint
from metanas_protos.v1.checkpoint_service_pb2 import GetCheckpointRequest
from metanas_protos.v1.checkpoint_service_pb2_grpc import CheckpointServiceStub
from metanas_server import errors as service
from metanas_server.app import Server
from metanas_server.config import ServerConfig
from metanas_server.errors import StartError
from metanas_server.status import describe
from metanas_server.workers.failures import failed
from metanas_server.workers.link import Died
from metanas_server.workers.process import Processes, read
from metanas_server.workers.protocol import Load, Setup
from metanas_server.workers.worker import Worker
from tests.server import failing
from tests.server.calls import FAILED, SUCCEEDED, create, end_of, images, spec
from tests.server.processes import ServerProcess, serving

OPTIONS = AdaptConfig(steps=2, tuning_steps=1, patience=0)


def digest(server: ServerProcess) -> str:
    stub = CheckpointServiceStub(server.channel)
    answer = stub.GetCheckpoint(GetCheckpointRequest(name="checkpoints/grey"))
    return str(answer.checkpoint.digest)


def made(server: ServerProcess) -> tuple[str, int]:
    """Make a model of the checkpoint: the reason of its failure, and its state."""
    ended = server.api.end_of(server.api.create(spec(checkpoint="grey"), images()).name)
    return ended.failure.reason, ended.state


def replace_workers(server: ServerProcess) -> None:
    before = set(server.workers())
    changes = server.health()
    next(changes)
    server.signal_workers(signal.SIGKILL)
    for _ in changes:
        if len(server.workers()) == len(before) and before.isdisjoint(server.workers()):
            return


def test_a_checkpoint_that_changes_on_disk_is_used_after_a_reload_only(tmp_path: Path) -> None:
    root, data = tmp_path / "checkpoints", tmp_path / "data"
    make_checkpoint(root / "grey", channels=1, options=OPTIONS)
    with serving(root, data) as server:
        pinned = digest(server)
        make_checkpoint(root / "grey", channels=1, options=OPTIONS, seed=1)
        assert made(server) == ("", SUCCEEDED)  # the workers hold what they have loaded
        replace_workers(server)
        assert made(server) == ("CHECKPOINT_CHANGED", FAILED)
        assert digest(server) == pinned
        server.process.send_signal(signal.SIGHUP)
        while digest(server) == pinned:
            pass
        assert made(server) == ("", SUCCEEDED)


def test_a_damaged_checkpoint_is_not_taken_by_a_reload(tmp_path: Path) -> None:
    root, data = tmp_path / "checkpoints", tmp_path / "data"
    make_checkpoint(root / "grey", channels=1, options=OPTIONS)
    with serving(root, data) as server:
        pinned = digest(server)
        (weights,) = (root / "grey").glob("*.safetensors")
        weights.write_bytes(b"damaged")
        server.process.send_signal(signal.SIGHUP)
        log = data.with_suffix(".log")
        while "not loaded again" not in log.read_text(encoding="utf-8"):
            pass
        assert digest(server) == pinned
        assert made(server) == ("", SUCCEEDED)


def config(tmp_path: Path, workers: int) -> ServerConfig:
    make_checkpoint(tmp_path / "checkpoints" / "grey", channels=1, options=OPTIONS)
    return ServerConfig(
        checkpoints=tmp_path / "checkpoints",
        data=tmp_path / "data",
        listen="127.0.0.1:0",
        devices=("cpu",) * workers,
        threads=1,
    )


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.01)


async def test_a_worker_that_starts_during_a_reload_serves_the_new_files(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    load = partial(failing.held, gate)
    async with Server(config(tmp_path, 2), load=load) as server:
        first, second = server._pool._workers
        gate.touch()
        assert first.pid is not None
        os.kill(first.pid, signal.SIGKILL)
        await until(gate.with_suffix(".taken").exists)  # it has read the old files
        make_checkpoint(tmp_path / "checkpoints" / "grey", channels=1, options=OPTIONS, seed=1)
        assert await server.reload()
        pinned = server._pool.checkpoints["grey"].digest
        assert second.has("grey", pinned)
        gate.with_suffix(".taken").unlink()
        await until(lambda: first.ready and first.has("grey", pinned))


async def test_a_reload_waits_for_a_worker_that_starts(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    load = partial(failing.held, gate)
    async with Server(config(tmp_path, 1), load=load) as server:
        (worker,) = server._pool._workers
        pinned = server._pool.checkpoints["grey"].digest
        gate.touch()
        assert worker.pid is not None
        os.kill(worker.pid, signal.SIGKILL)
        await until(gate.with_suffix(".taken").exists)  # it has read the old files
        await until(lambda: worker.pid is not None)
        before = worker.pid
        make_checkpoint(tmp_path / "checkpoints" / "grey", channels=1, options=OPTIONS, seed=1)
        reloading = asyncio.create_task(server.reload())
        await asyncio.sleep(0)
        gate.with_suffix(".taken").unlink()
        assert await reloading
        assert server._pool.checkpoints["grey"].digest != pinned
        assert worker.has("grey", server._pool.checkpoints["grey"].digest)
        await until(lambda: not server._pool._reload_lock.locked())
        assert worker.ready
        assert worker.pid == before  # a process that has the new files is not replaced


async def test_a_job_does_not_wait_for_a_worker_that_cannot_start(tmp_path: Path) -> None:
    async with (
        Server(config(tmp_path, 2)) as server,
        aio.insecure_channel(f"127.0.0.1:{server.port}") as channel,
    ):
        first, second = server._pool._workers
        before = first.pid
        assert before is not None
        assert second.pid is not None
        make_checkpoint(tmp_path / "checkpoints" / "grey", channels=1, options=OPTIONS, seed=1)
        os.kill(before, signal.SIGKILL)
        await until(lambda: first.ready and first.pid != before)  # it has read the new files
        shutil.rmtree(tmp_path / "checkpoints" / "grey")
        os.kill(second.pid, signal.SIGKILL)  # each of its starts fails
        name = await create(channel, spec(checkpoint="grey"), images())
        ended = await end_of(channel, name)
    assert ended.failure.reason == "CHECKPOINT_CHANGED"


async def test_reloads_at_the_same_time_end(tmp_path: Path) -> None:
    async with Server(config(tmp_path, 1)) as server:
        assert all(await asyncio.gather(server.reload(), server.reload()))


async def test_a_reload_may_take_longer_than_the_longest_silence(tmp_path: Path) -> None:
    pause = tmp_path / "pause"
    settings = replace(config(tmp_path, 1), max_silence=3)
    async with Server(settings, load=partial(failing.paused, pause)) as server:
        pids = server.worker_pids
        pause.write_text("7", encoding="ascii")
        assert await server.reload()
        assert server.worker_pids == pids


async def test_a_reload_that_takes_too_long_ends_the_process(tmp_path: Path) -> None:
    make_checkpoint(tmp_path / "checkpoints" / "grey", channels=1, options=OPTIONS)
    pause = tmp_path / "pause"
    load = partial(failing.paused, pause)
    worker = Worker(setup(tmp_path / "checkpoints", load), Processes())
    await worker.start()
    pause.write_text("3600", encoding="ascii")
    worker._setup = replace(worker._setup, start_seconds=0.5)
    with pytest.raises(StartError, match="--start-seconds"):
        await worker.reload()
    await worker.ended.wait()
    await worker.close()


async def test_a_defect_while_a_worker_is_replaced_loses_no_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Server(config(tmp_path, 1)) as server:
        (worker,) = server._pool._workers
        defects = [ZeroDivisionError("a defect")]
        on_change = server._pool._on_change

        async def defective() -> None:
            if defects:
                raise defects.pop()
            await on_change()

        monkeypatch.setattr(server._pool, "_on_change", defective)
        before = worker.pid
        assert before is not None
        os.kill(before, signal.SIGKILL)
        await until(lambda: not defects and worker.ready)
        assert worker.pid != before


def setup(root: Path, load: Load, start_seconds: float = 120.0) -> Setup:
    return Setup(
        checkpoints=root,
        limits=Limits(),
        device="cpu",
        threads=1,
        stack_images=1,
        stack_bytes=2**30,
        beat=1.0,
        start_seconds=start_seconds,
        load=load,
    )


async def test_a_process_that_cannot_be_started_is_tried_again(tmp_path: Path) -> None:
    make_checkpoint(tmp_path / "grey", channels=1, options=OPTIONS)
    worker = Worker(setup(tmp_path, load_checkpoint), Processes())
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = len(list(Path("/proc/self/fd").iterdir()))
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + 3, hard))
    try:
        with pytest.raises(OSError, match="Too many open files"):
            await worker.start()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert "grey" in (await worker.start()).checkpoints
    await worker.close()


@pytest.mark.parametrize(
    ("load", "text"), [(failing.odd, "odd"), (failing.mute, "Mute"), (failing.careless, "Careless")]
)
async def test_errors_of_extensions_cross_the_pipe(tmp_path: Path, load: Load, text: str) -> None:
    make_checkpoint(tmp_path / "grey", channels=1, options=OPTIONS)
    worker = Worker(setup(tmp_path, load), Processes())
    with pytest.raises(MetanasError) as caught:
        await worker.start()
    assert type(caught.value) is MetanasError
    assert text in str(caught.value)
    await worker.close()


async def test_a_start_that_takes_too_long_is_given_up(tmp_path: Path) -> None:
    make_checkpoint(tmp_path / "grey", channels=1, options=OPTIONS)
    worker = Worker(setup(tmp_path, failing.slow, start_seconds=0.5), Processes())
    with pytest.raises(StartError) as caught:
        await worker.start()
    assert caught.value.reason == "WORKER_FAILED"
    assert "--start-seconds" in str(caught.value)
    await worker.close()


async def test_a_message_that_cannot_be_read_is_the_end_of_the_process() -> None:
    front, worker = multiprocessing.Pipe()
    heard: asyncio.Queue[object] = asyncio.Queue()
    loop = asyncio.get_running_loop()
    reader = threading.Thread(target=read, args=(front, loop, heard.put_nowait))
    reader.start()
    worker.send(failing.Unreadable())
    assert isinstance(await heard.get(), Died)
    await asyncio.to_thread(reader.join)
    front.close()
    worker.close()


@pytest.mark.parametrize(
    "error",
    [
        InvalidInput((Violation("examples[0].image", "IMAGE_FORMAT", "is GIF"),), 3),
        core.UnknownName("op", "x", ("y", "z"), "name it"),
        core.CheckpointError("CHECKPOINT_DAMAGED", "m"),
        core.DatasetError("DATASET_IMAGE", "m"),
        core.Cancelled(),
        core.Diverged(),
        core.OutOfMemory("m"),
        core.ExportMismatch("m"),
        core.MetanasError("R", "m"),
        service.StartError("DEVICE_MISSING", "m"),
        service.StoreError("ARTEFACT_LOST", "m"),
        service.WorkerFailed("INTERNAL", "m"),
    ],
)
def test_errors_are_described_alike_on_both_sides(error: MetanasError) -> None:
    again = failed(error).error()
    assert type(again) is type(error)
    assert describe(again) == describe(error)

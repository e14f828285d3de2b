"""Disks that drop what was not synced, or become read-only: nothing acknowledged is lost."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from grpc_health.v1.health_pb2 import HealthCheckResponse

from metanas_protos.v1.adaptation_pb2 import AdaptationOptions
from metanas_protos.v1.adaptation_service_pb2 import DeleteAdaptationRequest
from metanas_protos.v1.model_service_pb2 import DeleteModelRequest
from metanas_server.errors import NotFound
from metanas_server.records.address import DATABASE
from metanas_server.resources import State
from metanas_server.storage.archive import open_archive
from tests.server.calls import LONG, SUCCEEDED, images, refused, spec
from tests.server.preload import LossyDisk, ReadOnlyDisk
from tests.server.processes import ENVIRONMENT, ServerProcess, serving


async def nothing() -> None:
    """Take note of no change."""


@contextmanager
def standing_still(server: ServerProcess) -> Iterator[None]:
    os.kill(server.process.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(server.process.pid, signal.SIGCONT)


def check(data: Path, acknowledged: dict[str, State | None]) -> None:
    """Open the data folder as a start does, and compare it with the answers of the server.

    acknowledged: the state of each adaptation; None if it was deleted with its model.
    """
    archive = open_archive(data, data / DATABASE, nothing)
    with closing(archive.records) as records:
        for name, state in acknowledged.items():
            id_ = name.removeprefix("adaptations/")
            if state is None:
                for look in (records.adaptation, records.models.get):
                    assert is_missing(look, id_)
                continue
            found = records.adaptation(id_, None)
            if state is State.QUEUED:
                assert found.state in (State.QUEUED, State.RUNNING)
                archive.store.check(found.support)
            else:
                assert found.state is state
            if state is State.SUCCEEDED:
                archive.store.check(records.models.get(id_, None).sha256)


def is_missing(look: Callable[[str, None], object], id_: str) -> bool:
    try:
        look(id_, None)
    except NotFound:
        return True
    return False


def test_a_power_loss_after_each_answer(checkpoints: Path, tmp_path: Path) -> None:
    disk = LossyDisk(tmp_path)
    environment = {**ENVIRONMENT, **disk.environment}
    acknowledged: dict[str, State | None] = {}
    losses = iter(range(100))

    def lose_power() -> Path:
        with standing_still(server):
            left = disk.after_power_loss(tmp_path / f"left{next(losses)}")
        check(left / "data", acknowledged)
        return left / "data"

    with serving(
        checkpoints, disk.root / "data", "--max-stack=1", environment=environment
    ) as server:
        api = server.api
        done = [api.create(spec(seed=number), images()).name for number in range(3)]
        acknowledged |= dict.fromkeys(done, State.QUEUED)
        for name in done:
            assert api.end_of(name).state == SUCCEEDED
            acknowledged[name] = State.SUCCEEDED
            lose_power()
        busy = api.create(spec(options=LONG), images()).name
        acknowledged[busy] = State.QUEUED
        lose_power()
        waiting = [api.create(spec(seed=n), images(seed=n)).name for n in range(3, 6)]
        acknowledged |= dict.fromkeys(waiting, State.QUEUED)
        lose_power()
        for name in done[:2]:
            api.models.DeleteModel(DeleteModelRequest(name=name.replace("adaptations", "models")))
            api.adaptations.DeleteAdaptation(DeleteAdaptationRequest(name=name))
            acknowledged[name] = None
            lose_power()
        api.cancel(waiting[0])
        acknowledged[waiting[0]] = State.CANCELLED
        data = lose_power()
        server.kill()
    with serving(checkpoints, data, "--max-stack=1") as server:
        server.api.cancel(busy)
        for name in waiting[1:]:
            assert server.api.end_of(name).state == SUCCEEDED
        assert server.api.download(done[2].replace("adaptations", "models"))


def test_a_disk_that_becomes_read_only(checkpoints: Path, tmp_path: Path) -> None:
    """The jobs wait until it can be written again; reading goes on."""
    data = tmp_path / "data"
    disk = ReadOnlyDisk(data, tmp_path)
    environment = {**ENVIRONMENT, **disk.environment}
    with serving(checkpoints, data, "--max-stack=1", environment=environment) as server:
        api = server.api
        done = api.end_of(api.create(spec(), images()).name)
        options = AdaptationOptions(steps=30)
        running = api.create(spec(options=options, seed=1), images()).name
        waiting = api.create(spec(seed=2), images()).name
        api.until_running(running)
        health = server.health("metanas.v1.AdaptationService")
        assert next(health) == HealthCheckResponse.SERVING
        with disk.read_only():
            answer = refused(api.create, spec(seed=3), images())
            assert answer.reason == "STORE_FAILED"
            assert answer.retry_seconds
            while next(health) != HealthCheckResponse.NOT_SERVING:
                pass
            assert api.get(done.name) == done
            assert api.download(done.model)
        while next(health) != HealthCheckResponse.SERVING:
            pass
        for name in (running, waiting):
            ended = api.end_of(name)
            assert (ended.state, ended.attempts) == (SUCCEEDED, 1)
            assert api.download(ended.model)

"""Workers that die or hang: jobs end or start again, and the next one succeeds."""

import signal
from io import BytesIO
from pathlib import Path

import grpc
import PIL.Image
import pytest
import torch
from grpc_health.v1.health_pb2 import HealthCheckResponse

from metanas_protos.v1.adaptation_pb2 import AdaptationOptions
from metanas_protos.v1.example_pb2 import Example
from metanas_server.errors import WorkerFailed
from metanas_server.workers.main import _failure
from tests.server.calls import (
    CANCELLED,
    FAILED,
    LONG,
    QUEUED,
    RUNNING,
    SUCCEEDED,
    Api,
    images,
    spec,
)
from tests.server.processes import ServerProcess

SOME = AdaptationOptions(steps=30)


@pytest.fixture(scope="module")
def flags() -> tuple[str, ...]:
    return ("--max-attempts=2", "--stop-seconds=0.5")


def test_a_killed_worker_costs_an_attempt_and_no_job(server: ServerProcess, api: Api) -> None:
    name = api.create(spec(options=SOME), images()).name
    waiting = api.create(spec(), images()).name
    api.until_running(name)
    before = server.workers()
    server.signal_workers(signal.SIGKILL)
    ended = api.end_of(name)
    assert (ended.state, ended.attempts) == (SUCCEEDED, 2)
    assert server.workers() != before
    assert api.end_of(waiting).state == SUCCEEDED
    progress = [e.progress for e in api.watch(name) if e.HasField("progress")]
    assert [p.sequence for p in progress] == list(range(1, len(progress) + 1))
    assert {p.attempt for p in progress} == {1, 2}


def test_a_watch_shows_that_a_job_waits_again(server: ServerProcess, api: Api) -> None:
    name = api.create(spec(options=SOME), images()).name
    api.until_running(name)
    watch = api.watch(name)
    assert next(watch).adaptation.state == RUNNING
    server.signal_workers(signal.SIGKILL)
    states = [event.adaptation.state for event in watch if event.HasField("adaptation")]
    assert states == [QUEUED, RUNNING, SUCCEEDED]


def test_a_job_that_ends_its_workers_fails(server: ServerProcess, api: Api) -> None:
    name = api.create(spec(options=LONG), images()).name
    for attempt in (1, 2):
        next(event for event in api.watch(name) if event.progress.attempt == attempt)
        server.signal_workers(signal.SIGKILL)
    ended = api.end_of(name)
    assert (ended.state, ended.failure.reason) == (FAILED, "WORKER_LOST")
    assert ended.failure.code == grpc.StatusCode.INTERNAL.value[0]
    api.serves()


def test_an_idle_worker_that_dies_is_replaced(server: ServerProcess, api: Api) -> None:
    api.serves()
    before = server.workers()
    changes = server.health()
    assert next(changes) == HealthCheckResponse.SERVING
    server.signal_workers(signal.SIGKILL)
    assert next(changes) == HealthCheckResponse.NOT_SERVING
    assert next(changes) == HealthCheckResponse.SERVING
    assert set(before).isdisjoint(server.workers())
    name = api.create(spec(), images()).name
    assert api.end_of(name).attempts == 1


def test_a_worker_that_hangs_is_replaced_when_its_job_is_cancelled(
    server: ServerProcess, api: Api
) -> None:
    name = api.create(spec(options=LONG), images()).name
    api.until_running(name)
    server.signal_workers(signal.SIGSTOP)
    api.cancel(name)
    assert api.end_of(name).state == CANCELLED
    api.serves()


def test_a_worker_that_hangs_does_not_outlast_the_timeout(server: ServerProcess, api: Api) -> None:
    limited = spec(options=LONG)
    limited.timeout.FromSeconds(5)
    name = api.create(limited, images()).name
    api.until_running(name)
    server.signal_workers(signal.SIGSTOP)
    assert api.end_of(name).failure.reason == "ADAPTATION_TIMEOUT"
    api.serves()


def test_a_warning_of_a_worker_is_a_line_of_the_log(api: Api, data: Path) -> None:
    file = BytesIO()
    PIL.Image.new("L", (40, 40), 200).save(file, "BMP")
    lost = bytearray(file.getvalue())
    lost[len(lost) // 2 :] = bytes(len(lost) - len(lost) // 2)
    support = [*images(), Example(label=b"a", encoded=bytes(lost))]
    name = api.create(spec(), support).name
    assert api.end_of(name).state == SUCCEEDED
    log = data.with_suffix(".log").read_text(encoding="utf-8")
    place = f"examples[{len(support) - 1}].image"
    assert f"WARNING metanas_data.decode {place}: the second half of the BMP file" in log


def test_the_front_has_no_torch(server: ServerProcess, api: Api) -> None:
    api.serves()
    maps = Path(f"/proc/{server.process.pid}/maps").read_text(encoding="utf-8")
    assert "libtorch" not in maps
    assert "onnxruntime" not in maps
    (worker,) = server.workers()
    assert "libtorch" in Path(f"/proc/{worker}/maps").read_text(encoding="utf-8")


def test_a_device_that_is_lost_ends_the_worker_and_a_defect_does_not() -> None:
    with pytest.raises(torch.AcceleratorError):
        _failure(torch.AcceleratorError("an illegal memory access was encountered"), "job 1")
    assert isinstance(_failure(ZeroDivisionError(), "job 1").error(), WorkerFailed)

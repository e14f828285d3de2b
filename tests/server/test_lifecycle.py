"""Starting, stopping, crashing and starting again."""

import os
import select
import shutil
import signal
import subprocess
import sys
from ctypes.util import find_library
from pathlib import Path

import grpc
from grpc_health.v1.health_pb2 import HealthCheckResponse

from metanas_protos.v1.adaptation_pb2 import AdaptationOptions
from tests.server.calls import (
    CANCELLED,
    FAILED,
    LONG,
    QUEUED,
    RUNNING,
    SUCCEEDED,
    images,
    refused,
    spec,
)
from tests.server.processes import ENVIRONMENT, command, maintain, run, serving, workers_of

SOME = AdaptationOptions(steps=30)


def test_the_ready_line(checkpoints: Path, tmp_path: Path) -> None:
    with serving(checkpoints, tmp_path / "data") as server:
        listen = server.address
        assert server.ready == (
            f"metanas-server ready on {listen} (cpu, 2 checkpoints: colour, grey)"
        )
        for service in ("", "liveness", "metanas.v1.AdaptationService", "metanas.v1.ModelService"):
            assert next(server.health(service)) == HealthCheckResponse.SERVING
        assert server.stop() == 0
        assert server.process.stdout is not None
        assert server.process.stdout.read() == ""


def test_ended_adaptations_survive_a_restart(checkpoints: Path, tmp_path: Path) -> None:
    once = spec(request_id="once", seed=4)
    with serving(checkpoints, tmp_path / "data") as server:
        name = server.api.create(once, images()).name
        ended = server.api.end_of(name)
        progress = [e.progress for e in server.api.watch(name) if e.HasField("progress")]
        model = server.api.model(ended.model)
        file = server.api.download(ended.model)
        assert server.stop() == 0
    with serving(checkpoints, tmp_path / "data") as server:
        assert server.api.get(name) == ended
        assert [e.progress for e in server.api.watch(name) if e.HasField("progress")] == progress
        assert server.api.model(ended.model) == model
        assert server.api.download(ended.model) == file
        assert server.api.create(once, images()).name == name


def test_a_start_without_the_database_keeps_the_models(checkpoints: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    with serving(checkpoints, data) as server:
        name = server.api.end_of(server.api.create(spec(), images()).name).model
        digest, file = server.api.model(name).sha256, server.api.download(name)
        assert server.stop() == 0
    (data / "records.sqlite3").rename(tmp_path / "backup")
    refusal = run(checkpoints, data)
    assert refusal.returncode == 2
    assert refusal.stderr.rstrip().endswith("(DATABASE_MISSING)")
    assert maintain("repair", "--data", str(data)) == (
        f"moved 1 files without a record to {data / 'artefacts' / 'quarantine'}\n"
    )
    assert (data / "artefacts" / "quarantine" / digest).exists()
    with serving(checkpoints, data) as server:
        assert refused(server.api.download, name).reason == "UNKNOWN_MODEL"
        assert server.stop() == 0
    (tmp_path / "backup").replace(data / "records.sqlite3")
    with serving(checkpoints, data) as server:
        assert server.api.download(name) == file


def test_a_crash_costs_no_created_adaptation(checkpoints: Path, tmp_path: Path) -> None:
    with serving(checkpoints, tmp_path / "data") as server:
        done = server.api.end_of(server.api.create(spec(), images()).name)
        running = server.api.create(spec(options=SOME), images()).name
        queued = server.api.create(spec(seed=2), images()).name
        server.api.until_running(running)
        server.kill()
    unfinished = tmp_path / "data" / "artefacts" / f"{64 * '0'}.01234567.partial"
    unfinished.write_bytes(b"cut off by the crash")
    with serving(checkpoints, tmp_path / "data") as server:
        assert server.api.get(done.name) == done
        for name in (running, queued):
            assert server.api.end_of(name).state == SUCCEEDED
        assert not unfinished.exists()


def test_the_deaths_of_the_server_are_counted(checkpoints: Path, tmp_path: Path) -> None:
    """The bound on attempts is in the record, and the numbers of the progress never go back."""
    name, last = "", 0
    for _ in range(2):
        with serving(checkpoints, tmp_path / "data", "--max-attempts=2") as server:
            name = name or server.api.create(spec(options=LONG), images()).name
            events = (each.progress for each in server.api.watch(name) if each.progress.sequence)
            begun = next(each for each in events if each.stage == "adapt")
            assert begun.sequence > last
            last = begun.sequence
            server.kill()
    with serving(checkpoints, tmp_path / "data", "--max-attempts=2") as server:
        ended = server.api.get(name)
        assert (ended.state, ended.failure.reason) == (FAILED, "WORKER_LOST")
        assert ended.attempts == 2


def test_unfinished_work_continues_after_a_graceful_shutdown(
    checkpoints: Path, tmp_path: Path
) -> None:
    with serving(checkpoints, tmp_path / "data", "--grace=0") as server:
        created = server.api.create(spec(options=LONG), images()).name
        server.api.until_running(created)
        queued = server.api.create(spec(), images()).name
        watches = [server.api.watch(name) for name in (created, queued)]
        for watch in watches:
            next(watch)
        assert server.stop() == 0
        for watch in watches:
            answer = refused(list, watch)
            assert (answer.code, answer.reason) == (
                grpc.StatusCode.UNAVAILABLE,
                "SERVER_STOPPING",
            )
            assert answer.retry_seconds
    with serving(checkpoints, tmp_path / "data") as server:
        assert server.api.get(created).state in (QUEUED, RUNNING)
        server.api.cancel(created)
        assert server.api.end_of(created).state == CANCELLED
        assert server.api.end_of(queued).state == SUCCEEDED


def test_stopping_lets_running_work_end(checkpoints: Path, tmp_path: Path) -> None:
    with serving(checkpoints, tmp_path / "data", "--grace=60") as server:
        name = server.api.create(spec(options=SOME), images()).name
        server.api.until_running(name)
        watch = server.api.watch(name)
        next(watch)
        changes = server.health()
        assert next(changes) == HealthCheckResponse.SERVING
        server.process.terminate()
        assert next(changes) == HealthCheckResponse.NOT_SERVING
        assert refused(server.api.create, spec(), images()).reason == "SERVER_STOPPING"
        assert list(watch)[-1].adaptation.state == SUCCEEDED
        assert server.process.wait(timeout=60) == 0


def test_a_second_signal_ends_the_server_at_once(checkpoints: Path, tmp_path: Path) -> None:
    with serving(checkpoints, tmp_path / "data", "--grace=600") as server:
        name = server.api.create(spec(options=LONG), images()).name
        server.api.until_running(name)
        (worker,) = server.workers()
        ended = os.pidfd_open(worker)
        changes = server.health()
        next(changes)
        server.process.send_signal(signal.SIGINT)
        next(changes)
        server.process.send_signal(signal.SIGINT)
        assert server.process.wait(timeout=60) == 130
        assert select.select([ended], [], [], 60)[0]
        os.close(ended)


HANGING = """
import asyncio, pathlib, sys
from metanas_server.app import Server
from metanas_server.config import ServerConfig
from tests.server import failing
async def main():
    checkpoints, data = map(pathlib.Path, sys.argv[1:])
    config = ServerConfig(
        checkpoints=checkpoints, data=data, listen="127.0.0.1:0", devices=("cpu",)
    )
    await Server(config, load=failing.slow).start()
asyncio.run(main())
"""
"""A server whose worker is busy for an hour, without a look at its pipe."""


def test_a_busy_worker_ends_with_its_front(checkpoints: Path, tmp_path: Path) -> None:
    arguments = [sys.executable, "-c", HANGING, str(checkpoints), str(tmp_path / "data")]
    with subprocess.Popen(arguments, env=ENVIRONMENT) as front:
        while not (workers := workers_of(front.pid)):
            assert front.poll() is None
        ended = os.pidfd_open(workers[0])
        front.kill()
    assert select.select([ended], [], [], 60)[0]
    os.close(ended)


def test_workers_have_sleeping_threads_and_the_allocator_for_large_blocks(
    checkpoints: Path, tmp_path: Path
) -> None:
    with serving(checkpoints, tmp_path / "data") as server:
        (worker,) = server.workers()
        process = Path(f"/proc/{worker}")
        variables = (process / "environ").read_text(encoding="utf-8").split("\0")
        loaded = "tcmalloc" in (process / "maps").read_text(encoding="utf-8")
    assert f"OMP_WAIT_POLICY={ENVIRONMENT.get('OMP_WAIT_POLICY', 'PASSIVE')}" in variables
    if "LD_PRELOAD" not in ENVIRONMENT:
        assert loaded == (find_library("tcmalloc_minimal") is not None)


def test_a_signal_during_the_start(checkpoints: Path, tmp_path: Path) -> None:
    with subprocess.Popen(
        command(checkpoints, tmp_path / "data"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
    ) as process:
        lock = tmp_path / "data" / "records.sqlite3"
        while not lock.exists():
            assert process.poll() is None
        process.terminate()
        output, errors = process.communicate(timeout=60)
    assert (process.returncode, output) == (0, "")
    assert "Traceback" not in errors


def test_a_checkpoint_that_is_gone_after_a_restart(checkpoints: Path, tmp_path: Path) -> None:
    shutil.copytree(checkpoints, tmp_path / "checkpoints")
    with serving(tmp_path / "checkpoints", tmp_path / "data", "--grace=0") as server:
        name = server.api.create(spec(options=LONG), images()).name
        server.api.until_running(name)
        assert server.stop() == 0
    shutil.rmtree(tmp_path / "checkpoints" / "grey")
    with serving(tmp_path / "checkpoints", tmp_path / "data") as server:
        assert "1 checkpoint: colour" in server.ready
        assert server.api.end_of(name).failure.reason == "UNKNOWN_CHECKPOINT"

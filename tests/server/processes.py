"""Servers that the command starts as a separate process, on a free port."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.server.calls import Api, with_token

ENVIRONMENT = {name: value for name, value in os.environ.items() if "METANAS" not in name}


class ServerProcess:
    """A server that has printed its ready line."""

    def __init__(self, process: "subprocess.Popen[str]", ready: str) -> None:
        self.process = process
        self.ready = ready
        self.address = ready.split(" ready on ")[1].split()[0]
        self.channel = grpc.insecure_channel(self.address)
        self.api = Api(self.channel)
        self._health: Any = health_pb2_grpc.HealthStub(self.channel)

    def api_of(self, token: str) -> Api:
        """Return stubs whose calls carry this token."""
        return Api(with_token(self.channel, token))

    def health(self, service: str = "") -> Iterator[Any]:
        """Yield the health of a service, now and after each change."""
        for answer in self._health.Watch(health_pb2.HealthCheckRequest(service=service)):
            yield answer.status

    def is_serving(self) -> bool:
        """Return True if the server is healthy now."""
        answer = self._health.Check(health_pb2.HealthCheckRequest())
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)

    def workers(self) -> list[int]:
        """Return the process ids of the workers."""
        return workers_of(self.process.pid)

    def signal_workers(self, number: signal.Signals) -> None:
        for pid in self.workers():
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    def kill(self) -> None:
        """Kill the server and its workers, as a power cut would."""
        workers = self.workers()
        self.process.kill()
        self.process.wait()
        for pid in workers:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def stop(self) -> int:
        """Stop the server with SIGTERM and return its exit code."""
        self.process.terminate()
        return self.process.wait(timeout=60)


def workers_of(server: int) -> list[int]:
    """Return the process ids of a server's workers, without the helper of multiprocessing."""
    children: list[int] = []
    for thread in Path(f"/proc/{server}/task").glob("*/children"):
        with suppress(OSError):  # the thread has ended
            children += map(int, thread.read_text(encoding="ascii").split())
    workers = []
    for pid in children:
        with suppress(OSError):
            if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes():
                workers.append(pid)
    return workers


def command(checkpoints: Path, data: Path, *flags: str) -> list[str]:
    """Return the command line of a server with one worker on a free port; later flags win.

    It waits for no job when it stops.
    """
    start = [sys.executable, "-m", "metanas_server", "--listen", "127.0.0.1:0"]
    start += ["--devices=cpu", "--threads=1", "--grace=0"]
    return [*start, "--checkpoints", str(checkpoints), "--data", str(data), *flags]


@contextmanager
def serving(
    checkpoints: Path, data: Path, *flags: str, environment: Mapping[str, str] = ENVIRONMENT
) -> Iterator[ServerProcess]:
    """Start a server, wait until it is ready, and stop it at the exit."""
    log = data.with_suffix(".log")
    with (
        log.open("a", encoding="utf-8") as errors,
        subprocess.Popen(
            command(checkpoints, data, *flags),
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env={**environment},
        ) as process,
    ):
        assert process.stdout is not None
        ready = process.stdout.readline().strip()
        assert " ready on " in ready, log.read_text(encoding="utf-8")
        server = ServerProcess(process, ready)
        try:
            yield server
        finally:
            server.channel.close()
            process.terminate()


def maintain(*arguments: str, environment: Mapping[str, str] = ENVIRONMENT) -> str:
    """Run a sub-command for a data folder; return its output."""
    done = attempt(*arguments, environment=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def attempt(
    *arguments: str, environment: Mapping[str, str] = ENVIRONMENT, folder: Path | None = None
) -> "subprocess.CompletedProcess[str]":
    """Run a sub-command that may fail, in a folder."""
    return subprocess.run(
        [sys.executable, "-m", "metanas_server", *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
        env={**environment},
        timeout=120,
    )


def run(checkpoints: Path, data: Path, *flags: str) -> "subprocess.CompletedProcess[str]":
    """Run the command until it ends: a server that cannot start."""
    return subprocess.run(
        command(checkpoints, data, *flags),
        capture_output=True,
        text=True,
        check=False,
        env=ENVIRONMENT,
        timeout=120,
    )

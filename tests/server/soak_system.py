"""Servers of the soak test, whose fronts, workers and database can be killed and come back.

Embedded is one server with SQLite and a folder. Distributed are two servers with one PostgreSQL and
one bucket, and, where it is asked for, with workers on a Ray cluster of two nodes.
"""

import os
import re
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from random import Random

from tests.ray_nodes import started
from tests.server.databases import Postgres, free_port, running_postgres
from tests.server.processes import ENVIRONMENT, ServerProcess, serving
from tests.server.s3 import s3_server

FLAGS = (
    "--max-attempts=1000",  # a killed worker is no fault of its jobs
    "--upload-idle-seconds=1",
    f"--max-open-bytes={32 * 2**20}",  # full within minutes, so that growth is a leak
)
TAIL = 2**16
"""Bytes at the end of a log that name the present actors."""


@dataclass
class System:
    """Running servers; each keeps its address and its data folder."""

    checkpoints: Path
    folder: Path
    flags: list[str]
    environment: Mapping[str, str]
    stack: ExitStack
    addresses: list[str]
    servers: list[ServerProcess]
    postgres: Postgres | None
    ray: bool

    def start(self, number: int) -> None:
        """Start a server, or start it again."""
        listen = f"--listen={self.addresses[number]}"
        data = self.folder / f"data{number}"
        running = serving(self.checkpoints, data, *self.flags, listen, environment=self.environment)
        self.servers[number : number + 1] = [self.stack.enter_context(running)]

    def fronts(self) -> list[int]:
        return [server.process.pid for server in self.servers]

    def workers(self) -> list[int]:
        """Return the process ids of the workers: those of the actors are in the logs."""
        if not self.ray:
            return [pid for server in self.servers for pid in server.workers()]
        named = [re.findall(r" on cpu \((\d+)\)", tail(log)) for log in self.folder.glob("*.log")]
        pids = {int(pid) for found in named for pid in found}
        return [pid for pid in pids if Path(f"/proc/{pid}").exists()]

    def crashes(self) -> list[str]:
        """Start fronts again that have ended by themselves; return how they ended."""
        found = []
        for number, server in enumerate(self.servers):
            if (code := server.process.poll()) is not None:
                found.append(f"front {number} has ended with code {code}")
                self.start(number)
        return found

    def kill(self, random: Random) -> str:
        """Kill something; a front or a database comes back. Returns its kind."""
        kinds = ["front", "worker"] + ["database"] * (self.postgres is not None)
        kinds += ["driver of Ray"] * self.ray
        kind = random.choice(kinds)
        number = random.randrange(len(self.servers))
        if kind == "database" and self.postgres is not None:
            self.postgres.kill()
            time.sleep(5 * random.random())
            self.postgres.start()
        elif kind == "front":
            self.servers[number].process.kill()
            self.servers[number].process.wait()
            self.start(number)
        elif kind == "driver of Ray":
            self.servers[number].signal_workers(signal.SIGKILL)
        elif workers := self.workers():
            with suppress(ProcessLookupError):
                os.kill(random.choice(workers), signal.SIGKILL)
        return kind


def tail(log: Path) -> str:
    """Read the end of a log."""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - TAIL))
        return file.read().decode(errors="replace")


@contextmanager
def running(checkpoints: Path, folder: Path, fronts: int, *, ray: bool) -> Iterator[System]:
    """Start the servers, and all that they need."""
    with ExitStack() as stack:
        flags, environment, postgres = list(FLAGS), ENVIRONMENT, None
        if fronts > 1:
            postgres = stack.enter_context(running_postgres())
            bucket = stack.enter_context(s3_server())
            flags += [f"--records={postgres.create()}", "--artefacts=s3://bucket/soak"]
            flags += ["--lease-seconds=3"]
            environment = {**environment, **bucket.environment}
        if ray:
            cluster = stack.enter_context(started("2 2"))
            flags += ["--workers", cluster.address]
        addresses = [f"127.0.0.1:{free_port()}" for _ in range(fronts)]
        system = System(
            checkpoints, folder, flags, environment, stack, addresses, [], postgres, ray
        )
        for number in range(fronts):
            system.start(number)
        yield system

"""Databases that the tests lock, and a PostgreSQL server that they kill and start again."""

import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.server.preload import HostClock

MISSING = "PostgreSQL is not installed; run: apt install postgresql"
PATIENCE = 120.0
SETTINGS = ("fsync=off", "unix_socket_directories=", "max_connections=100")
"""The tests kill processes, not the machine: the kernel keeps what they wrote."""


def programs() -> Path:
    """Return the folder of PostgreSQL's programs; skip the test if there is none."""
    found = shutil.which("pg_ctl")
    folders = [Path(found).resolve().parent] if found else []
    folders += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    for folder in folders:
        if (folder / "initdb").exists():
            return folder
    pytest.skip(MISSING)


USER, GROUP = "nobody", "nogroup"


def as_other_user() -> list[str]:
    """Return the words before a command of PostgreSQL, which refuses to run as root.

    With `Popen(user=…)` this process would fork, and its threads of gRPC can crash then.
    """
    words = ["setpriv", f"--reuid={USER}", f"--regid={GROUP}", "--clear-groups"]
    return words if os.getuid() == 0 else []


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Postgres:
    """A PostgreSQL server on a free port of loopback, which trusts everybody.

    clock: the clock of its host.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._programs = programs()
        self._port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self.clock = HostClock(folder)
        self._run("initdb", "--no-sync", "--auth=trust", "--username=metanas", "--encoding=UTF8")

    def url(self, name: str = "postgres") -> str:
        return f"postgresql://metanas:secret@127.0.0.1:{self._port}/{name}"

    def start(self) -> None:
        """Start the server, and wait until it answers."""
        command = [
            *as_other_user(),
            str(self._programs / "postgres"),
            "-D",
            str(self._folder / "data"),
        ]
        command += ["-p", str(self._port), "-h", "127.0.0.1"]
        command += [part for each in SETTINGS for part in ("-c", each)]
        end = time.monotonic() + PATIENCE
        while True:
            if self._process is None or self._process.poll() is not None:
                with (self._folder / "log").open("ab") as log:
                    environment = {**os.environ, **self.clock.environment}
                    self._process = subprocess.Popen(
                        command, stdout=log, stderr=log, cwd="/", env=environment
                    )
            try:
                psycopg.connect(self.url(), connect_timeout=5).close()
            except psycopg.OperationalError:
                assert time.monotonic() < end, (self._folder / "log").read_text()
                time.sleep(0.1)
            else:
                lines = (self._folder / "log").read_text(encoding="utf-8")
                assert "cannot be preloaded" not in lines, lines  # else its clock stays right
                return

    @property
    def pid(self) -> int:
        """Return the process id of the server that has started."""
        assert self._process is not None
        return self._process.pid

    def kill(self) -> None:
        """Kill the server with its processes: one that goes on would answer a last statement."""
        if self._process is not None:
            children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text("ascii")
            self._process.send_signal(signal.SIGKILL)
            for child in map(int, children.split()):
                with suppress(ProcessLookupError):
                    os.kill(child, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def create(self) -> str:
        """Create an empty database; return its URL."""
        name = f"test_{uuid.uuid4().hex}"
        self.execute(f"CREATE DATABASE {name}")
        return self.url(name)

    def execute(self, statement: str, name: str = "postgres") -> list[Any]:
        """Run a statement; return its rows."""
        with psycopg.connect(self.url(name), autocommit=True) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def _run(self, program: str, *arguments: str) -> None:
        command = [
            *as_other_user(),
            str(self._programs / program),
            "-D",
            str(self._folder / "data"),
            *arguments,
        ]
        subprocess.run(command, check=True, capture_output=True, cwd="/")


@contextmanager
def running_postgres() -> Iterator[Postgres]:
    """Start a server in a folder of its own; its user cannot enter the folders of pytest."""
    programs()
    folder = Path(tempfile.mkdtemp(prefix="metanas-postgres-"))
    if as_other_user():
        shutil.chown(folder, USER, GROUP)
    try:
        server = Postgres(folder)
        server.start()
        try:
            yield server
        finally:
            server.kill()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def locked(data: Path) -> Iterator[None]:
    """Hold the lock of the database, as another program would."""
    with closing(sqlite3.connect(data / "records.sqlite3", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield
        other.execute("ROLLBACK")

"""A server as its users run it: the command, in a process of its own, on a free port."""

import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from metanas_client import Client
from tests.server.processes import workers_of

ROOT = Path(__file__).resolve().parents[2]
DIGITS = ROOT / "examples" / "digits"
CHROMIUM = shutil.which("chromium")
FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking")
"""Flags of Chromium."""
ENVIRONMENT = {name: value for name, value in os.environ.items() if "METANAS" not in name}


@dataclass(frozen=True)
class Running:
    """A server that is ready."""

    address: str
    process: "subprocess.Popen[str]"

    def client(self) -> Client:
        return Client(self.address, patience=10.0)

    def kill(self) -> None:
        """As a power cut would: nothing is finished, nothing is said."""
        workers = self.workers()
        self.process.kill()
        self.process.wait()
        for pid in workers:
            _end(pid)

    def kill_workers(self) -> None:
        """As the kernel does when memory is short."""
        for pid in self.workers():
            _end(pid)

    def workers(self) -> list[int]:
        """Process ids of its worker processes."""
        return workers_of(self.process.pid)


def _end(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def command(checkpoints: Path, data: Path, *flags: str) -> list[str]:
    """Return the command line of a server with one worker on a free port; later flags win.

    It waits for no job when it stops.
    """
    start = [sys.executable, "-m", "metanas_server", "--listen", "127.0.0.1:0", "--grace=0"]
    # one thread: sums are then added in the same order as in the tests' own process
    start += ["--devices=cpu", "--threads=1"]
    return [*start, "--checkpoints", str(checkpoints), "--data", str(data), *flags]


@contextmanager
def running(checkpoints: Path, data: Path, *flags: str) -> Iterator[Running]:
    """Start a server, wait until it is ready, and stop it by SIGTERM at the end."""
    assert ROOT not in data.resolve().parents, f"{data} lies in the checkout"
    log = data.parent / f"{data.name}.log"
    with (
        log.open("a", encoding="utf-8") as errors,
        subprocess.Popen(
            command(checkpoints, data, *flags),
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env=ENVIRONMENT,
        ) as process,
    ):
        try:
            assert process.stdout is not None
            ready = process.stdout.readline()
            assert " ready on " in ready, log.read_text(encoding="utf-8")
            yield Running(ready.split(" ready on ")[1].split()[0], process)
        finally:
            process.terminate()


@contextmanager
def serving_files(folder: Path) -> Iterator[str]:
    """Serve a folder on a free port; yields its address."""
    handler = partial(SimpleHTTPRequestHandler, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()

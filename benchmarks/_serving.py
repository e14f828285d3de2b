"""A server as its users run it, for measuring: the command, on a free port, stopped at the end."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks._cases import CHECKPOINTS
from benchmarks._machine import allocator, status

WIDE = ("--max-queue=1000", "--max-jobs-per-caller=1000")
"""What a benchmark may do and a caller may not."""


@dataclass(frozen=True)
class Server:
    """A server that is ready."""

    address: str
    front: int
    """Process id of the process that speaks gRPC."""

    def workers(self) -> list[int]:
        """Process ids of its workers; multiprocessing keeps a helper of its own beside them."""
        threads = Path(f"/proc/{self.front}/task").glob("*/children")
        children = " ".join(path.read_text(encoding="ascii") for path in threads).split()
        commands = {int(pid): Path(f"/proc/{pid}/cmdline").read_bytes() for pid in children}
        return [pid for pid, command in commands.items() if b"spawn_main" in command]

    def allocator(self) -> str | None:
        """The workers', which is not always that of whoever asks."""
        return allocator(self.workers()[0])

    def memory(self) -> dict[str, int]:
        """Bytes resident: the front's, and those of the workers together."""
        workers = sum(status(pid)["VmRSS"] for pid in self.workers())
        return {"front": status(self.front)["VmRSS"], "workers": workers}


@contextmanager
def serving(threads: int, *flags: str) -> Iterator[Server]:
    """Start a server with the shipped checkpoints and wait until it is ready."""
    with TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "metanas_server", "--listen=127.0.0.1:0"]
        command += [f"--checkpoints={CHECKPOINTS}", f"--data={folder}/data"]
        command += [f"--threads={threads}", *WIDE, *flags]
        environment = {name: value for name, value in os.environ.items() if "METANAS" not in name}
        with (
            open(f"{folder}/log", "w+", encoding="utf-8") as log,
            subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=log, text=True, env=environment
            ) as process,
        ):
            try:
                assert process.stdout is not None
                ready = process.stdout.readline()
                if " ready on " not in ready:
                    log.seek(0)
                    raise RuntimeError(f"the server did not start: {log.read()}")
                yield Server(ready.split(" ready on ")[1].split()[0], process.pid)
            finally:
                process.terminate()

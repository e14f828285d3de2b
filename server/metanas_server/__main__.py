"""The command `metanas-server`: reads the configuration, runs the server until it is told to stop.

Exit codes: 0 after a stop by SIGTERM or SIGINT, 1 when the server cannot start, 2 when the command
line is wrong.
"""

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Sequence
from ctypes.util import find_library

from metanas.errors import MetanasError
from metanas_server.app import Server, build_server
from metanas_server.config import ServerConfig, parse
from metanas_server.errors import ServiceError

HURRIED = 130
ENVIRONMENT = {
    # torch's threads sleep while they wait for one another: spinning, they take the cores from the
    # other processes, and where all cores are busy an adaptation takes ten times as long
    "OMP_WAIT_POLICY": "PASSIVE",
    # with glibc's allocator activations of 4 MiB and more go back to the system as soon as they are
    # free, and come in huge pages: holes in its heap made the peak 1.7 times as high
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1:glibc.malloc.mmap_threshold=4194304",
    # ONNX Runtime 1.31 and later reports its use to its makers otherwise
    "ORT_DISABLE_TELEMETRY": "1",
}
"""What the worker processes inherit unless the environment says something else."""
ALLOCATOR = "tcmalloc_minimal"
"""The allocator that they use where it is installed: it keeps large activations for the next ones
without leaving holes, and so spares the clearing of fresh pages, a third of a step on large images.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the server; returns the exit code."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    try:
        config = parse(sys.argv[1:] if arguments is None else arguments, os.environ)
    except ServiceError as error:
        print(f"metanas-server: {error} ({error.reason})", file=sys.stderr)
        return 2
    for name, value in (ENVIRONMENT | _allocator()).items():
        os.environ.setdefault(name, value)
    try:
        asyncio.run(serve(config))
    except (MetanasError, ServiceError) as error:
        print(f"metanas-server: {error} ({error.reason})", file=sys.stderr)
        return 1
    return 0


def _allocator() -> dict[str, str]:
    library = find_library(ALLOCATOR) if sys.platform == "linux" else None
    return {"LD_PRELOAD": library} if library else {}


async def serve(config: ServerConfig) -> None:
    """Run a server until SIGTERM or SIGINT; a second one ends the process at once."""
    told = asyncio.Event()
    loop = asyncio.get_running_loop()

    def on_signal() -> None:
        if told.is_set():
            os._exit(HURRIED)
        told.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    starting = asyncio.ensure_future(_started(config))
    reloads = set[asyncio.Task[bool]]()

    def on_hangup() -> None:
        if starting.done() and not starting.cancelled() and starting.exception() is None:
            task = loop.create_task(starting.result().reload())
            reloads.add(task)
            task.add_done_callback(reloads.discard)

    loop.add_signal_handler(signal.SIGHUP, on_hangup)
    waiting = asyncio.ensure_future(told.wait())
    await asyncio.wait((starting, waiting), return_when=asyncio.FIRST_COMPLETED)
    if not starting.done():
        starting.cancel()
        await asyncio.wait((starting,))
        return
    server = starting.result()
    print(ready_line(config, server), flush=True)
    await waiting
    await server.stop()


async def _started(config: ServerConfig) -> Server:
    server = build_server(config)
    await server.start()
    return server


def ready_line(config: ServerConfig, server: Server) -> str:
    """Return the line that is printed once the server answers; scripts wait for it."""
    names = server.checkpoints
    listen = f"{config.listen.rpartition(':')[0]}:{server.port}"
    plural = "" if len(names) == 1 else "s"
    what = f"{', '.join(config.devices)}, {len(names)} checkpoint{plural}: {', '.join(names)}"
    return f"metanas-server ready on {listen} ({what})"


if __name__ == "__main__":
    sys.exit(main())

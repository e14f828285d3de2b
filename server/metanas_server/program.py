"""The program `metanas-server`: read the configuration and run the server until a signal.

`metanas-server tokens` changes the tokens instead (`metanas_server.callers.command`),
`metanas-server doctor` checks all that a server needs (`metanas_server.doctor`), and the commands
of `metanas_server.commands` maintain a data folder.

Exit codes: 0 after SIGTERM or SIGINT, 130 after a second one, 2 if the server cannot start. Code 1
with a traceback is a defect.
"""

import asyncio
import gc
import multiprocessing
import os
import signal
import sys
from collections.abc import Sequence
from io import TextIOWrapper

from metanas.errors import MetanasError
from metanas.spec.universal import UNIVERSAL
from metanas_server.app import Server
from metanas_server.callers import command as tokens
from metanas_server.commands import COMMANDS, run
from metanas_server.config import ServerConfig, parse
from metanas_server.doctor import report as doctor
from metanas_server.observation import logs
from metanas_server.workers.environment import set_defaults

SECOND_SIGNAL = 130
PRIVATE = 0o077  # umask: no other user can read records, images, models or tokens


def run_server(words: Sequence[str]) -> int:
    """Run the server with these arguments and return the exit code."""
    os.umask(PRIVATE)
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names in damaged records
    try:
        if words[:1] == ["tokens"]:
            tokens.run(words[1:], os.environ)
            return 0
        if words and words[0] in COMMANDS:
            run(words[0], words[1:], os.environ)
            return 0
        set_defaults(os.environ)
        if words[:1] == ["doctor"]:
            return doctor.run(words[1:], os.environ)
        config = parse(words, os.environ)
        logs.configure(config.log_level, config.log_format)
        asyncio.run(serve(config))
    except MetanasError as error:
        print(f"metanas-server: {error} ({error.reason})", file=sys.stderr)
        return 2
    finally:
        # After a defect the interpreter waits for worker processes, which ignore SIGTERM.
        for worker in multiprocessing.active_children():
            worker.kill()
    return 0


async def serve(config: ServerConfig) -> None:
    """Run a server until SIGTERM or SIGINT; a second signal ends the process at once."""
    stopped, hangup = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, _stop, stopped)
    loop.add_signal_handler(signal.SIGHUP, hangup.set)
    server = Server(config)
    starting = loop.create_task(server.start())
    waiting = loop.create_task(stopped.wait())
    await asyncio.wait((starting, waiting), return_when=asyncio.FIRST_COMPLETED)
    if not starting.done():
        starting.cancel()
        await asyncio.wait((starting,))
        return
    starting.result()
    gc.collect()
    gc.freeze()  # else each full collection passes all modules again, and stops calls for 90 ms
    print(ready_line(config, server), flush=True)
    if server.studio_port is not None:
        print(studio_line(config, server.studio_port), flush=True)
    reloading = loop.create_task(_reload(server, hangup))
    await waiting
    reloading.cancel()
    await server.stop()


def _stop(stopped: asyncio.Event) -> None:
    if stopped.is_set():
        os._exit(SECOND_SIGNAL)
    stopped.set()


async def _reload(server: Server, hangup: asyncio.Event) -> None:
    while await hangup.wait():
        hangup.clear()
        await server.reload()


def ready_line(config: ServerConfig, server: Server) -> str:
    """Return the line to print when the server answers calls; scripts wait for it."""
    names = server.checkpoints
    listen = f"{config.listen.rpartition(':')[0]}:{server.port}"
    plural = "" if len(names) == 1 else "s"
    contents = f"{', '.join(config.devices)}, {len(names)} checkpoint{plural}: {', '.join(names)}"
    if server.has_universal:
        contents += f", and {UNIVERSAL}"
    metrics = ""
    if config.metrics_address is not None:
        host = config.metrics_address[0]
        host = f"[{host}]" if ":" in host else host
        metrics = f"; metrics on http://{host}:{server.metrics_port}/metrics"
    return f"metanas-server ready on {listen} ({contents}){metrics}"


def studio_line(config: ServerConfig, port: int) -> str:
    """Return the line to print with the address of the page."""
    scheme = "http" if config.tls_cert is None else "https"
    host = (config.studio or "").rpartition(":")[0]
    return f"studio ready on {scheme}://{host}:{port}/"

"""Workers in child processes of the server, each behind a pipe."""

import asyncio
import gc
import logging
import multiprocessing
import os
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from queue import SimpleQueue
from typing import Generic, TypeVar

from metanas_server.workers.link import Deliver, Died
from metanas_server.workers.protocol import FromWorker, Setup, ToWorker

LOG = logging.getLogger(__name__)
To = TypeVar("To")
From = TypeVar("From")


class Processes:
    """Start worker processes.

    They are spawned, never forked: a forked copy of grpc's and torch's threads hangs.
    """

    hint = ""

    async def launch(self, setup: Setup, deliver: Deliver, /) -> "Child[ToWorker, FromWorker]":
        """Start a worker process.

        Raises:
            OSError: there are too many processes or open files.
        """
        context = multiprocessing.get_context("spawn")
        connection, child_end = context.Pipe()
        process = context.Process(
            target=_enter,
            args=(child_end, setup),
            name=f"metanas-worker-{setup.device}",
            daemon=True,
        )
        process.start()
        child_end.close()  # else the end of the process would not end the pipe
        return Child(process, connection, deliver)

    async def close(self) -> None:
        """Do nothing: each process ends with its link."""


class Child(Generic[To, From]):
    """A child process and its pipe, which two threads write and read."""

    def __init__(
        self, process: SpawnProcess, connection: Connection, deliver: Callable[[From | Died], None]
    ) -> None:
        self._process, self._connection = process, connection
        self._outbox: SimpleQueue[To | None] = SimpleQueue()
        loop = asyncio.get_running_loop()
        self._threads = (
            threading.Thread(target=read, args=(connection, loop, deliver), daemon=True),
            threading.Thread(target=_write, args=(connection, self._outbox), daemon=True),
        )
        for thread in self._threads:
            thread.start()

    def send(self, message: To, /) -> None:
        """Send a message, without waiting."""
        self._outbox.put(message)

    def kill(self) -> None:
        """Kill the process."""
        if self._process.is_alive():
            self._process.kill()

    async def close(self, patience: float | None = None) -> None:
        """Wait for the end of the process and of the threads.

        patience: seconds after which a process that goes on is killed; None waits for ever.
        """
        await asyncio.to_thread(self._process.join, patience)
        self.kill()
        await asyncio.to_thread(self._process.join)
        # The end of the process ends the pipe, and with it the threads. Close the pipe only then:
        # a thread may still read from it.
        self._outbox.put(None)
        for thread in self._threads:
            await asyncio.to_thread(thread.join)
        self._connection.close()
        self._process.close()


def _enter(connection: Connection, setup: Setup) -> None:
    """Run the worker; the entry point of the process."""
    end_with_front(0.0)
    gc.disable()  # the collector would search the objects of torch again and again
    # Imported here, in the worker process: the front must not import torch.
    from metanas_server.workers.main import main

    gc.freeze()
    gc.enable()
    main(connection, setup)


def end_with_front(seconds: float) -> None:
    """End this process so many seconds after the end of the front, also in the middle of a step."""
    threading.Thread(target=_wait_for_front, args=(seconds,), daemon=True).start()


def _wait_for_front(seconds: float) -> None:
    front = multiprocessing.parent_process()
    if front is not None:
        front.join()
        time.sleep(seconds)
        os._exit(1)


def read(
    connection: Connection,
    loop: asyncio.AbstractEventLoop,
    deliver: Callable[[From | Died], None],
) -> None:
    """Deliver each message of the process; `Died` at its end or if one cannot be read."""
    message: From | Died
    while True:
        try:
            message = connection.recv()
        except (EOFError, OSError):
            message = Died()
        except Exception:
            LOG.exception("a message of a worker process cannot be read; the process is ended")
            message = Died()
        try:
            loop.call_soon_threadsafe(deliver, message)
        except RuntimeError:
            return  # the loop is closed
        if isinstance(message, Died):
            return


def _write(connection: Connection, outbox: SimpleQueue[To | None]) -> None:
    """Send messages from a thread: a worker in a long step does not read, and the pipe is short."""
    while (message := outbox.get()) is not None:
        try:
            connection.send(message)
        except OSError:
            return  # the process has died; the reader reports it

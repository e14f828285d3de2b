"""The front's side of a worker process: start it, give it a job, stop the job, notice its death."""

import asyncio
import ctypes
import multiprocessing
import threading
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from typing import Any

from metanas.card import CheckpointCard
from metanas_server.errors import StartError, WorkerLost
from metanas_server.pipe import Job, Made, Ready, Setup, Step

NO_JOB = 0


def _enter(connection: Connection, stop: Any, setup: Setup) -> None:
    """What runs in the process."""
    # Imported here because this function is all that the front knows of the module, and the front
    # must not import torch.
    from metanas_server.worker import main

    main(connection, stop, setup)


class WorkerProcess:
    """One worker process at a time, for one job at a time.

    The process is spawned, never forked: a forked copy of grpc's and torch's threads hangs. All
    methods are called from the event loop's thread; only reading the pipe happens in another one.

    ended: set when the process has died; `start` begins anew with another event.
    """

    def __init__(self, setup: Setup, device: str) -> None:
        self.device = device
        self._setup = setup
        self._context = multiprocessing.get_context("spawn")
        self._process: Any = None
        self._connection: Connection | None = None
        self._pump: threading.Thread | None = None
        self._inbox: asyncio.Queue[Any] = asyncio.Queue()
        self.ended = asyncio.Event()
        # Plain shared memory without a lock: a process that is killed cannot leave it locked.
        self._stop = self._context.RawValue(ctypes.c_longlong, NO_JOB)

    @property
    def pid(self) -> int | None:
        """The process id, None while there is no process."""
        return None if self._process is None else self._process.pid

    async def start(self) -> Mapping[str, CheckpointCard]:
        """Start a process in place of whatever was before; returns the checkpoints it has loaded.

        Raises:
            StartError: WORKER_FAILED, it died before it was ready.
            MetanasError, ServiceError: why it could not load the checkpoints.
        """
        await self.close()
        here, there = self._context.Pipe()
        self._inbox, self.ended, self._stop.value = asyncio.Queue(), asyncio.Event(), NO_JOB
        self._connection = here
        self._process = self._context.Process(
            target=_enter,
            args=(there, self._stop, self._setup),
            name=f"metanas-worker-{self.device}",
            daemon=True,
        )
        self._process.start()
        there.close()  # or the end of the process would not be seen as the end of the pipe
        self._pump = threading.Thread(
            target=_pump, args=(here, asyncio.get_running_loop(), self._deliver_to()), daemon=True
        )
        self._pump.start()
        message = await self._inbox.get()
        if isinstance(message, Ready):
            return message.checkpoints
        if isinstance(message, Exception):
            raise message
        raise StartError("WORKER_FAILED", "the worker process died before it was ready")

    async def run(self, job: Job, on_step: Callable[[Step], None]) -> Made:
        """Have a model made.

        Raises:
            WorkerLost: the process has died; `start` makes a new one.
            MetanasError, ServiceError: what the worker says.
        """
        assert self._connection is not None
        try:
            self._connection.send(job)
        except OSError:
            await self.ended.wait()
            raise _lost() from None
        while True:
            message = await self._inbox.get()
            if isinstance(message, Step):
                on_step(message)
            elif isinstance(message, Made):
                return message
            elif isinstance(message, Exception):
                raise message
            else:
                raise _lost()

    def _deliver_to(self) -> Callable[[Any], None]:
        """Where messages of this process go; those of an earlier one have their own place."""
        inbox, ended = self._inbox, self.ended

        def deliver(message: Any) -> None:
            inbox.put_nowait(message)
            if message is None:
                ended.set()

        return deliver

    def stop(self, number: int) -> None:
        """Have the job with this number stop between two steps; any other job is left alone."""
        self._stop.value = number

    def kill(self) -> None:
        """End the process at once; `run` then raises WorkerLost."""
        if self._process is not None and self._process.is_alive():
            self._process.kill()

    async def close(self) -> None:
        """End the process. It has nothing to lose: all that it makes goes through the pipe."""
        if self._process is None:
            return
        assert self._connection is not None
        assert self._pump is not None
        self.kill()
        await asyncio.to_thread(self._process.join)
        # The end of the process is the end of the pipe, and that of the thread that reads it. Only
        # then may the pipe be closed: not under the feet of a reader.
        await asyncio.to_thread(self._pump.join)
        self._connection.close()
        self._process.close()
        self._process = None


def _pump(
    connection: Connection, loop: asyncio.AbstractEventLoop, deliver: Callable[[Any], None]
) -> None:
    """Pass on what the worker says; None at the end."""
    while True:
        try:
            message = connection.recv()
        except (EOFError, OSError):
            message = None
        try:
            loop.call_soon_threadsafe(deliver, message)
        except RuntimeError:
            return  # the loop is closed, nobody listens
        if message is None:
            return


def _lost() -> WorkerLost:
    return WorkerLost("WORKER_LOST", "the worker process died while it was at it")

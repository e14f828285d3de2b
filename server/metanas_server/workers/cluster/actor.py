"""A worker as a Ray actor: messages wait in queues until the driver brings or fetches them."""

import os
import threading
import time
import traceback
from queue import Empty, SimpleQueue

from metanas_server.workers.environment import set_defaults
from metanas_server.workers.link import Died
from metanas_server.workers.protocol import FromWorker, Setup, Step, ToWorker

GATHER_SECONDS = 0.02
"""Longest wait of progress for more messages."""
LEASE_BEATS = 8
"""Beats without a call of the driver after which an actor ends: twice the longest silence."""


class Queues:
    """The worker's end of the way to the front (`metanas_server.workers.link.Channel`)."""

    def __init__(self) -> None:
        self.inbox: SimpleQueue[ToWorker] = SimpleQueue()
        self.outbox: SimpleQueue[FromWorker | Died] = SimpleQueue()
        self._next: ToWorker | None = None

    def poll(self, seconds: float, /) -> bool:
        """Wait for a message, at most so long; return True if there is one."""
        if self._next is None:
            try:
                self._next = self.inbox.get(seconds > 0, seconds or None)
            except Empty:
                return False
        return True

    def recv(self) -> ToWorker:
        """Wait for a message and return it."""
        message = self.inbox.get() if self._next is None else self._next
        self._next = None
        return message

    def send(self, message: FromWorker, /) -> None:
        """Send a message."""
        self.outbox.put(message)


class Actor:
    """One worker. Two calls may run at the same time: one `post` and one `collect`."""

    def __init__(self, setup: Setup) -> None:
        """Begin to load the checkpoints; the outbox says when that is done."""
        set_defaults(os.environ)  # of libraries that are imported later
        self._queues = Queues()
        self._beat = setup.beat
        self._called = time.monotonic()
        threading.Thread(target=self._run, args=(setup,), daemon=True).start()
        threading.Thread(target=self._end_without_calls, daemon=True).start()

    def post(self, message: ToWorker) -> None:
        """Take a message of the front."""
        self._queues.inbox.put(message)

    def collect(self) -> list[FromWorker | Died]:
        """Return the messages for the front; wait a limited time for the first one.

        Progress waits a moment for more, since a call costs more than a message.
        """
        self._called = time.monotonic()
        outbox, messages = self._queues.outbox, list[FromWorker | Died]()
        latest = self._called + self._beat
        try:
            while True:
                wait = latest - time.monotonic()
                messages.append(outbox.get(timeout=wait) if wait > 0 else outbox.get_nowait())
                gather = GATHER_SECONDS if isinstance(messages[-1], Step) else 0.0
                latest = min(latest, time.monotonic() + gather)
        except Empty:
            self._called = time.monotonic()
            return messages

    def _run(self, setup: Setup) -> None:
        died = Died()
        try:
            # Imported here, in the actor: the driver must not import torch.
            from metanas_server.workers.main import run

            run(self._queues, setup)
        except BaseException as error:
            traceback.print_exc()  # into the log of Ray
            died = Died(f"the worker process failed with {type(error).__name__}")
        self._queues.outbox.put(died)

    def _end_without_calls(self) -> None:
        """End this process if the front has gone without a word."""
        lease = LEASE_BEATS * self._beat
        while time.monotonic() - self._called < lease:
            time.sleep(min(1.0, lease))
        os._exit(1)

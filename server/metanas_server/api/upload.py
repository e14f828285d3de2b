"""Receive a support set example by example, and refuse it as soon as it breaks a limit."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Self

from metanas.errors import MAX_VIOLATIONS, InvalidInput, Violation
from metanas.spec.examples import Example, Limits, check_examples
from metanas_server.config import ServerConfig
from metanas_server.errors import Overloaded, TimedOut
from metanas_server.jobs.job_table import stopping_error

OVERHEAD = 1024  # bytes of the objects around an image in memory


class UploadBudget:
    """Limit the bytes of all uploads, and the bytes and the number of the uploads of a caller."""

    def __init__(self, limit: int, share: int, uploads: int, noun: str = "uploads") -> None:
        """Set the limits.

        limit: bytes that all uploads hold.
        share: bytes that the uploads of a caller hold.
        uploads: uploads of a caller at the same time.
        noun: "uploads" or "queries", for errors.
        """
        self._noun = noun
        self._reason = f"{noun.upper()}_FULL"
        self._limit = limit
        self._share = share
        self._uploads = uploads
        self._used = Counter[str]()
        self._open = Counter[str]()

    def open(self, caller: str) -> None:
        """Begin an upload; `close` must follow.

        Raises:
            Overloaded: UPLOADS_FULL or QUERIES_FULL.
        """
        if self._open[caller] >= self._uploads:
            message = f"you have {self._uploads} {self._noun} in progress; finish one of them first"
            raise Overloaded(self._reason, message)
        self._open[caller] += 1

    def take(self, caller: str, size: int) -> None:
        """Take bytes for an upload of this caller.

        Raises:
            Overloaded: UPLOADS_FULL or QUERIES_FULL.
        """
        if self._used[caller] + size > self._share:
            message = f"your {self._noun} hold too many bytes; send them one after the other"
            raise Overloaded(self._reason, message)
        if self._used.total() + size > self._limit:
            message = f"too many {self._noun} are in progress; try again shortly"
            raise Overloaded(self._reason, message)
        self._used[caller] += size

    def close(self, caller: str, size: int) -> None:
        """End an upload that has taken this many bytes."""
        for counter, number in ((self._used, size), (self._open, 1)):
            counter[caller] -= number
            if not counter[caller]:
                del counter[caller]

    @contextmanager
    def hold(self, caller: str, size: int) -> Iterator[None]:
        """Hold bytes for an upload that has arrived whole, from the entry to the exit.

        Raises:
            Overloaded: UPLOADS_FULL or QUERIES_FULL.
        """
        self.open(caller)
        taken = 0
        try:
            self.take(caller, size)
            taken = size
            yield
        finally:
            self.close(caller, taken)


class Intake:
    """The support set of one request while it arrives.

    A broken limit ends the upload at once, before the rest is received. All other violations are
    reported together at the end. Use it as a context manager: the upload is in progress from the
    entry to the exit, which gives its bytes back to the budget.
    """

    def __init__(self, limits: Limits, budget: UploadBudget, caller: str) -> None:
        self._limits = limits
        self._budget = budget
        self._caller = caller
        self._examples = list[Example]()
        self._shots = Counter[str]()
        self._violations = list[Violation]()
        self._bytes = 0
        self._reserved = 0

    def __enter__(self) -> Self:
        self._budget.open(self._caller)
        return self

    def __exit__(self, *_: object) -> None:
        self._budget.close(self._caller, self._reserved)

    @property
    def count(self) -> int:
        """Number of examples received so far: the index of the next one."""
        return len(self._examples)

    def add(self, example: Example, violations: Sequence[Violation] = ()) -> None:
        """Add an example, and the violations of its parts that could not be read.

        Raises:
            InvalidInput: TOO_MANY_EXAMPLES, TOO_MANY_WAYS, TOO_MANY_SHOTS, TOO_MANY_BYTES, or there
                are more violations than an answer can carry.
            Overloaded: UPLOADS_FULL.
        """
        self._violations += violations
        if len(self._violations) >= MAX_VIOLATIONS:
            raise InvalidInput(self._violations)
        size = len(example.image) if isinstance(example.image, bytes) else example.image.nbytes
        memory = size + len(example.label) + OVERHEAD
        self._shots[example.label] += 1
        self._check_growth(example.label, size)
        self._budget.take(self._caller, memory)
        self._reserved += memory
        self._bytes += size
        self._examples.append(example)

    def finish(self, classes: Sequence[str] | None) -> tuple[Example, ...]:
        """Return the complete support set.

        Raises:
            InvalidInput: all violations together.
        """
        check_examples(self._examples, self._limits, classes, self._violations)
        return tuple(self._examples)

    def _check_growth(self, label: str, size: int) -> None:
        limits = self._limits
        grown = (
            ("TOO_MANY_EXAMPLES", "examples", self.count + 1, limits.max_examples),
            ("TOO_MANY_WAYS", "classes", len(self._shots), limits.max_ways),
            ("TOO_MANY_SHOTS", "examples of one class", self._shots[label], limits.max_shots),
            ("TOO_MANY_BYTES", "bytes of images", self._bytes + size, limits.max_total_bytes),
        )
        for reason, things, number, limit in grown:
            if number > limit:
                message = f"there are more than {limit} {things}; send fewer"
                raise InvalidInput.single(f"examples[{self.count}]", reason, message)


class Uploads:
    """The uploads of a server: their budget, their deadlines, and their end when it stops."""

    def __init__(self, config: ServerConfig) -> None:
        self._limits = config.limits
        self._idle, self._total = config.upload_idle_seconds, config.upload_seconds
        self._budget = UploadBudget(
            config.max_upload_bytes,
            config.max_upload_bytes_per_caller,
            config.max_uploads_per_caller,
        )
        self._waits = set[asyncio.Timeout]()
        self._is_stopping = False

    def intake(self, caller: str) -> Intake:
        """Return the support set of a request that begins to arrive."""
        return Intake(self._limits, self._budget, caller)

    def stop(self) -> None:
        """End the uploads, which a stopping server would refuse when they are complete."""
        self._is_stopping = True
        for wait in self._waits:
            if not wait.expired():
                wait.reschedule(0)

    async def receive(self, parts: AsyncIterator[Any]) -> AsyncIterator[Any]:
        """Yield the messages of an upload, within its deadlines.

        Raises:
            TimedOut: UPLOAD_TOO_SLOW.
            Unavailable: SERVER_STOPPING.
        """
        loop = asyncio.get_running_loop()
        end = loop.time() + self._total
        while True:
            if self._is_stopping:
                raise stopping_error()
            try:
                part = await self._within(min(loop.time() + self._idle, end), anext(parts, None))
            except TimeoutError:
                if self._is_stopping:
                    raise stopping_error() from None
                limits = f"{self._idle:g} seconds for a message and {self._total:g} seconds in all"
                text = f"the upload is too slow: it may take {limits}; send fewer or smaller images"
                raise TimedOut("UPLOAD_TOO_SLOW", text) from None
            if part is None:
                return
            yield part

    async def _within(self, time: float, message: Awaitable[Any]) -> Any:
        """Wait for a message until a time of the event loop, or until the server stops."""
        async with asyncio.timeout_at(time) as wait:
            self._waits.add(wait)
            try:
                return await message
            finally:
                self._waits.remove(wait)

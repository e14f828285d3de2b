"""Admission: the limits that a new adaptation must meet."""

import asyncio
import math
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace

from metanas_server.callers.access import Caller
from metanas_server.config import ServerConfig
from metanas_server.errors import Overloaded, QuotaReached
from metanas_server.jobs.dispatcher import SMALL_STACK, Dispatcher
from metanas_server.records.records import Load, Records
from metanas_server.resources import Spec

DEFAULT_RETRY, SHORTEST_RETRY, LONGEST_RETRY = 2.0, 0.5, 60.0  # seconds
MARGIN = 1.25
"""Of requests that get a place: the pace varies with other load, and they are not refused later."""


class Admission:
    """The limits of the queue, of a caller and of the store.

    A request has a place in the queue before it has a record: from its first message on. Otherwise
    requests that arrive together would all be received and written down one after the other, and
    those beyond the queue would be refused late.
    """

    def __init__(self, config: ServerConfig, records: Records, dispatcher: Dispatcher) -> None:
        self._config = config
        self._records = records
        self._dispatcher = dispatcher
        self._places = Counter[str]()  # of requests without a record, by caller

    @property
    def per_minute(self) -> int:
        """Most adaptations that a caller starts in a minute; 0 sets no limit."""
        return self._config.max_adaptations_per_minute

    @asynccontextmanager
    async def place(self, caller: Caller, spec: Spec) -> AsyncIterator[None]:
        """Refuse a request that has no chance now; hold its place until the exit.

        Raises:
            Overloaded, QuotaReached, StoreUnavailable: see `check`.
        """
        before = Counter(self._places)
        load = await asyncio.to_thread(self._look, caller)
        # Some of the places before may have records now, which the load does not have.
        self.admit(beside(load, before | self._places, caller.name), spec, MARGIN)
        self._places[caller.name] += 1
        try:
            yield
        finally:
            self._places[caller.name] -= 1
            if not self._places[caller.name]:
                del self._places[caller.name]

    async def check(self, caller: Caller, spec: Spec) -> None:
        """Refuse a request that has no chance now.

        Raises:
            Overloaded: CALLER_RATE, QUEUE_FULL, CALLER_QUOTA, DEADLINE_TOO_SHORT.
            QuotaReached: STORE_PINNED.
            StoreUnavailable: the database cannot be used now.
        """
        self.admit(await asyncio.to_thread(self._look, caller), spec)

    def _look(self, caller: Caller) -> Load:
        """Look at the store and the load in the database."""
        self._check_store()
        return self._records.load(caller.name, self.per_minute)

    def admit(self, load: Load, spec: Spec, margin: float = 1.0) -> None:
        """Refuse a request that the load of all fronts does not allow.

        margin: factor on the time that an adaptation probably takes.

        Raises:
            Overloaded: CALLER_RATE, QUEUE_FULL, CALLER_QUOTA, DEADLINE_TOO_SHORT.
        """
        if load.pause:
            text = f"you may start {self.per_minute} adaptations a minute"
            message = f"{text}; try again in {math.ceil(load.pause)} s"
            raise Overloaded("CALLER_RATE", message, load.pause)
        if load.waiting >= self._config.max_queue:
            message = f"{load.waiting} adaptations are waiting already; try again shortly"
            raise Overloaded("QUEUE_FULL", message, self._retry_seconds())
        if load.unfinished >= self._config.max_jobs_per_caller:
            text = f"{load.unfinished} of your adaptations have not ended yet"
            raise Overloaded("CALLER_QUOTA", f"{text}; wait for one of them", self._retry_seconds())
        self._check_deadline(load, spec, margin)

    def _check_deadline(self, load: Load, spec: Spec, margin: float) -> None:
        """Refuse a deadline that an adaptation would perhaps not meet.

        The only adaptation of a caller is accepted if it begins at once. After slow adaptations the
        pace could otherwise refuse all others, and no end of one would correct it.
        """
        slots = self._dispatcher.slots * max(load.fronts, 1)
        if not load.unfinished and load.ahead + load.running < slots:
            return
        ends = ends_before(load, slots)
        seconds = margin * ends * self._dispatcher.pace / max(load.fronts, 1)
        if spec.deadline is not None and seconds > spec.deadline:
            message = (
                f"beside {load.ahead + load.running} others an adaptation takes up to"
                f" {seconds:.1f} s, longer than the deadline of {spec.deadline:g} s; try again"
                " later or allow more time"
            )
            raise Overloaded("DEADLINE_TOO_SHORT", message, self._retry_seconds())

    def _check_store(self) -> None:
        """Refuse work whose model retention would delete at once, since pinned ones fill the store.

        The model is assumed to be as large as the largest one.
        """
        most, models = self._config.max_store_bytes, self._records.models
        pinned = models.total_bytes(pinned=True) if most else 0
        if pinned and pinned + models.largest_bytes() > most:
            message = (
                f"pinned models take {pinned} of the {most} bytes of the store, which leaves no"
                " room for another model; unpin or delete some, or ask the operator for a larger"
                " --max-store-bytes"
            )
            raise QuotaReached("STORE_PINNED", message)

    def _retry_seconds(self) -> float:
        """Return the seconds until the next job probably ends and makes room."""
        pace = self._dispatcher.pace
        return min(max(pace, SHORTEST_RETRY), LONGEST_RETRY) if pace else DEFAULT_RETRY


def beside(load: Load, places: Mapping[str, int], caller: str) -> Load:
    """Return the load of a caller's next request as if each place were a waiting adaptation."""
    unfinished = load.unfinished + places.get(caller, 0)
    return replace(
        load,
        waiting=load.waiting + sum(places.values()),
        unfinished=unfinished,
        ahead=load.ahead + sum(min(number, unfinished + 1) for number in places.values()),
    )


def ends_before(load: Load, slots: int) -> int:
    """Return the ends of adaptations until the next one has ended, at most; its own included.

    Adaptations that step together end together. So one that waits ends with all of its full stack,
    after those that run now. One that begins at once is in a small stack: if that is needed for its
    deadline, the dispatcher keeps others away.

    slots: most adaptations at once.
    """
    before = load.ahead + load.running
    if before < slots:
        return min(SMALL_STACK * (before + 1), slots)
    return load.running + slots * math.ceil((load.ahead + 1) / slots)

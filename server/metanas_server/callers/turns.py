"""Places for work at the same time; callers that wait for one take turns."""

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from metanas_server.shielded import shielded

Value = TypeVar("Value")


class Turns:
    """A number of places. A free place goes to the caller whose last turn is the longest ago."""

    def __init__(self, places: int) -> None:
        self._free = places
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}

    async def enter(self, caller: str) -> None:
        """Wait for a place; `leave` must follow."""
        if self._free:
            self._free -= 1
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(caller, deque()).append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():
                self.leave()  # the place was given at the same moment
            raise

    async def run(self, caller: str, work: Callable[[], Coroutine[Any, Any, Value]]) -> Value:
        """Do work on a place; it goes on, and keeps the place, if the caller leaves."""
        await self.enter(caller)
        task = asyncio.get_running_loop().create_task(work())
        task.add_done_callback(lambda _: self.leave())
        return await shielded(task)

    def leave(self) -> None:
        """Give a place back."""
        while self._waiting:
            caller = next(iter(self._waiting))
            turns = self._waiting.pop(caller)
            turn = turns.popleft()
            if turns:
                self._waiting[caller] = turns  # behind all others
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1

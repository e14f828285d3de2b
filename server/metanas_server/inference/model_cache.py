"""Open models in memory, up to a number of bytes; the least recently used one is closed first."""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable

from metanas_server.inference.open_model import OpenModel
from metanas_server.shielded import shielded


class ModelCache:
    """Open models by the SHA-256 of their files. Use it on the event loop's thread only."""

    def __init__(self, most_bytes: int) -> None:
        """Keep open models of at most this size together."""
        self._most_bytes = most_bytes
        self._bytes = 0
        self._open: OrderedDict[str, OpenModel] = OrderedDict()
        self._opening: dict[str, asyncio.Task[OpenModel]] = {}

    async def get(self, digest: str, load: Callable[[], Awaitable[OpenModel]]) -> OpenModel:
        """Return a model; queries that arrive while `load` opens it wait for the same load."""
        model = self._open.get(digest)
        if model is not None:
            self._open.move_to_end(digest)
            return model
        task = self._opening.get(digest)
        if task is None:
            task = asyncio.ensure_future(self._load(digest, load))
            self._opening[digest] = task
        return await shielded(task)  # a caller that leaves does not stop it for the others

    def close(self, digest: str) -> None:
        """Forget a model; its memory is free when the last query that uses it has ended."""
        model = self._open.pop(digest, None)
        if model is not None:
            self._bytes -= model.size_bytes

    def size(self, digest: str) -> int:
        """Return the bytes of a model; 0 for one that is not open."""
        model = self._open.get(digest)
        return 0 if model is None else model.size_bytes

    async def _load(self, digest: str, load: Callable[[], Awaitable[OpenModel]]) -> OpenModel:
        try:
            model = await load()
        finally:
            del self._opening[digest]
        self._open[digest] = model
        self._bytes += model.size_bytes
        while self._bytes > self._most_bytes:
            self.close(next(iter(self._open)))
        return model

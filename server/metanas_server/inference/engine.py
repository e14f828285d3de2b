"""The threads that open models and answer queries."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from metanas_server.callers.turns import Turns
from metanas_server.inference.clock import Clock
from metanas_server.inference.model_cache import ModelCache
from metanas_server.inference.open_model import OpenModel
from metanas_server.resources import ModelRecord
from metanas_server.storage.archive import Archive

T = TypeVar("T")


class Engine:
    """A few threads for the queries to all models."""

    def __init__(self, archive: Archive, *, threads: int, open_bytes: int) -> None:
        """Start no thread yet.

        threads: queries that run at the same time.
        open_bytes: most bytes of open models.
        """
        self._archive = archive
        self._cache = ModelCache(open_bytes)
        self._turns = Turns(threads)
        self._threads = ThreadPoolExecutor(threads, "query")

    async def close(self) -> None:
        """Wait for the threads to end."""
        await asyncio.to_thread(self._threads.shutdown)

    async def model(self, record: ModelRecord, caller: str) -> OpenModel:
        """Return an open model.

        Raises:
            StoreError: ARTEFACT_LOST, ARTEFACT_DAMAGED, STORE_FAILED.
        """

        async def load() -> OpenModel:
            async with self._archive.open(record.sha256) as path:
                return await self._in_thread(
                    lambda: OpenModel(path.read_bytes(), record.sha256), caller
                )

        return await self._cache.get(record.sha256, load)

    async def answer(
        self,
        record: ModelRecord,
        caller: str,
        work: Callable[[OpenModel], T],
        clock: Clock,
    ) -> T:
        """Do work with a model in a thread; at the next phase it stops if the caller has gone."""
        try:
            model = await self.model(record, caller)
            return await self._in_thread(lambda: work(model), caller)
        finally:
            clock.cancel()

    def forget(self, record: ModelRecord) -> None:
        """Close a model; the next query opens it again."""
        self._cache.close(record.sha256)

    def open_bytes(self, digest: str) -> int:
        """Return the memory of an open model; 0 for one that is not open."""
        return self._cache.size(digest)

    async def _in_thread(self, work: Callable[[], T], caller: str) -> T:
        # Work waits for its turn here and not in the queue of the threads, which would keep the
        # images of a caller that has left.
        await self._turns.enter(caller)
        loop = asyncio.get_running_loop()
        done = self._threads.submit(work)
        done.add_done_callback(lambda _: loop.call_soon_threadsafe(self._turns.leave))
        return await asyncio.wrap_future(done)

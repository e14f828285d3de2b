"""Records and files together: no record whose file is missing, no file that no record needs."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace

from metanas_server.resources import AdaptationRecord, ModelRecord, ProgressRecord
from metanas_server.storage.artefacts import Store
from metanas_server.storage.database import Records


class Archive:
    """Keeps support sets and models.

    Equal content is one file, whoever needs it. The lock is what keeps a file that one record is
    just about to need from being removed because another one no longer does.
    """

    def __init__(self, records: Records, store: Store) -> None:
        """Use these records and files; files without a record move into quarantine."""
        self.records = records
        self.store = store
        self._lock = asyncio.Lock()
        store.sweep(records.digests())

    async def add(self, record: AdaptationRecord, support: bytes) -> AdaptationRecord:
        """Keep a new adaptation and its support set; returns the record as it was kept.

        Raises:
            StoreError: nothing was kept.
        """
        async with self._lock:
            digest = await asyncio.to_thread(self.store.put, support)
            kept = replace(record, support=digest)
            self.records.insert(kept)
        return kept

    async def finish(
        self,
        record: AdaptationRecord,
        progress: Sequence[ProgressRecord],
        model: ModelRecord,
        onnx: bytes,
    ) -> None:
        """Keep a model and the adaptation that has made it.

        Raises:
            StoreError: neither was kept.
        """
        async with self._lock:
            await asyncio.to_thread(self.store.put, onnx)
            self.records.update(record, progress, model)

    async def delete_model(self, id_: str) -> None:
        """Forget a model and, if no other model has the same bytes, its file.

        Raises:
            NotFound: UNKNOWN_MODEL.
        """
        digest = self.records.model(id_).sha256
        self.records.delete_model(id_)
        await self.discard(digest)

    async def discard(self, digest: str) -> None:
        """Remove a file unless some record needs it."""
        async with self._lock:
            if not self.records.needs(digest):
                await asyncio.to_thread(self.store.remove, digest)

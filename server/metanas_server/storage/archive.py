"""Records together with their files: each record has its file, and each file a record."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace

from metanas_server.resources import AdaptationRecord, ModelRecord, ProgressRecord
from metanas_server.storage.artefacts import Store
from metanas_server.storage.database import Records


class Archive:
    """Store adaptations with their support sets, and models.

    Records with equal content share one file. The lock keeps a file from being deleted for one
    record while another record that needs it is being written.
    """

    def __init__(self, records: Records, store: Store) -> None:
        """Use these records and files; move files without a record into quarantine."""
        self.records = records
        self.store = store
        self._lock = asyncio.Lock()
        store.sweep(records.digests())

    async def add(
        self, record: AdaptationRecord, support: Sequence[bytes | memoryview]
    ) -> AdaptationRecord:
        """Store a new adaptation and its support set; return the record with the file's digest.

        Raises:
            StoreError: nothing was stored.
        """
        async with self._lock:
            digest = await asyncio.to_thread(self.store.put, *support)
            record = replace(record, support=digest)
            self.records.insert(record)
        return record

    async def finish(
        self,
        record: AdaptationRecord,
        progress: Sequence[ProgressRecord],
        model: ModelRecord,
        onnx: bytes,
    ) -> None:
        """Store a model and the final record of its adaptation.

        Raises:
            StoreError: neither was stored.
        """
        async with self._lock:
            await asyncio.to_thread(self.store.put, onnx)
            self.records.update(record, progress, model)

    async def delete_model(self, id_: str, scope: str | None) -> None:
        """Delete a model and, if no other model has the same bytes, its file.

        The file goes first: on a full disk the database needs its space to delete the record.

        scope: see `Records`.

        Raises:
            NotFound: UNKNOWN_MODEL.
            StoreError: the record cannot be deleted; the file may be gone.
        """
        digest = self.records.model(id_, scope).sha256
        async with self._lock:
            if not self.records.needs(digest, except_model=id_):
                await asyncio.to_thread(self.store.remove, digest)
            self.records.delete_model(id_)

    async def discard(self, digest: str) -> None:
        """Delete a file unless a record needs it."""
        async with self._lock:
            if not self.records.needs(digest):
                await asyncio.to_thread(self.store.remove, digest)

"""Retention: delete models that are no longer used, and old records of adaptations."""

import asyncio
import logging
from contextlib import suppress

from metanas_server.callers.audit import OK, AuditLog
from metanas_server.errors import NotFound, StoreError, StoreUnavailable
from metanas_server.storage.archive import Archive

LOG = logging.getLogger(__name__)
PERIOD = 60.0  # seconds between two sweeps
BATCH = 100  # rows that are read at once
CALLER = "retention"
"""The caller of its deletions in the audit log."""


class Retention:
    """Delete what is too old or too much, once a minute.

    A use of a model is its creation, a download or a query. The models whose last use is the
    oldest go first. Pinned models stay.
    """

    def __init__(
        self, archive: Archive, audit: AuditLog | None, *, ttl: float, max_bytes: int
    ) -> None:
        """Set the limits; 0 stands for none.

        ttl: seconds after the last use of a model, or the end of an adaptation.
        max_bytes: of the files of all models.
        """
        self._archive = archive
        self._records = archive.records
        self._models = archive.records.models
        self._audit = audit
        self._ttl = ttl
        self._max_bytes = max_bytes

    async def run(self) -> None:
        """Sweep until this is cancelled; then write down the last uses."""
        try:
            while True:
                try:
                    await self.sweep(self._records.clock.earliest())
                except StoreError as error:
                    LOG.warning("cannot delete old models now: %s", error)
                await asyncio.sleep(PERIOD)
        finally:
            with suppress(StoreUnavailable):
                await self._archive.write_uses()

    async def sweep(self, now: int) -> None:
        """Delete what is too old at this time (nanoseconds since 1970) or too much.

        Raises:
            StoreUnavailable: the rest stays until the next sweep.
        """
        await self._archive.write_uses()
        oldest = now - round(self._ttl * 1e9) if self._ttl else 0
        while models := await asyncio.to_thread(self._unused, oldest):
            for id_ in models:
                with suppress(NotFound):  # a caller was faster, or has pinned it
                    await self._archive.delete_model(id_, None, unless_pinned=True)
                    self._write("ModelService/DeleteModel", f"models/{id_}")
        while ended := await asyncio.to_thread(self._records.ended, oldest, BATCH):
            for id_ in ended:
                await self._archive.delete_adaptation(id_)
                self._write("AdaptationService/DeleteAdaptation", f"adaptations/{id_}")

    def _unused(self, oldest: int) -> list[str]:
        """Return models to delete next; models with the same file may leave some for later."""
        excess = 0
        if self._max_bytes and self._models.total_bytes() > self._max_bytes:
            excess = self._models.sound_bytes() - self._max_bytes
        chosen = list[str]()
        for id_, used, size in self._models.longest_unused(BATCH):
            if used >= oldest and excess <= 0:
                break
            chosen.append(id_)
            excess -= size
        return chosen

    def _write(self, method: str, name: str) -> None:
        LOG.info("deleted %s by --ttl or --max-store-bytes", name)
        if self._audit is not None:
            self._audit.write(caller=CALLER, address="", method=method, resource=name, result=OK)

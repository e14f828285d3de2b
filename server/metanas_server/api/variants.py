"""Variants of stored models for downloads, converted in a thread."""

import asyncio
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import BinaryIO

from metanas.errors import InvalidInput
from metanas.spec.variant import Variant
from metanas_server.callers.turns import Turns
from metanas_server.resources import ModelRecord
from metanas_server.storage.archive import Archive
from metanas_server.storage.artefacts import disk_errors, sha256


class Converter:
    """Convert one model at a time; callers take turns."""

    def __init__(self, archive: Archive, folder: Path) -> None:
        """Convert models of an archive.

        folder: has room for the files of unfinished downloads.
        """
        self._archive = archive
        self._folder = folder
        self._turns = Turns(1)

    async def file(self, record: ModelRecord, variant: Variant, caller: str) -> bytes:
        """Return the variant of a model.

        Raises:
            InvalidInput: VARIANT_REFUSED.
            StoreError: ARTEFACT_LOST, ARTEFACT_DAMAGED.
        """
        return await self._turns.run(caller, partial(self._convert, record, variant))

    @asynccontextmanager
    async def spooled(
        self, record: ModelRecord, variant: Variant, caller: str
    ) -> AsyncIterator[tuple[ModelRecord, BinaryIO]]:
        """Yield the record of a variant, and its file, so that slow downloads need no memory.

        Raises:
            InvalidInput, StoreError: as `file`.
            StoreUnavailable: STORE_FULL or STORE_FAILED.
        """
        data = await self.file(record, variant, caller)
        made = replace(record, sha256=sha256((data,)), size_bytes=len(data))
        with tempfile.TemporaryFile(dir=self._folder) as file:
            with disk_errors():
                await asyncio.to_thread(file.write, data)
            del data
            yield made, file

    async def _convert(self, record: ModelRecord, variant: Variant) -> bytes:
        async with self._archive.open(record.sha256) as path:
            data = await asyncio.to_thread(path.read_bytes)
        return await asyncio.to_thread(_converted, data, variant)


def _converted(data: bytes, variant: Variant) -> bytes:
    # here, since a server without conversions starts faster without onnx
    from metanas.export.variants import convert

    try:
        return convert(data, variant)
    except InvalidInput as error:
        raise error.within("variant") from None

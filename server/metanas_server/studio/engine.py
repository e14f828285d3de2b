"""The job engine for the routes: JSON and bytes enter and leave, as in the gRPC services."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from importlib.metadata import version
from typing import Any

from metanas.errors import InvalidInput
from metanas.spec.budget import footprint_of
from metanas.spec.examples import Example
from metanas.spec.variant import Variant
from metanas_server.api import answers, convert
from metanas_server.api.upload import Intake, Uploads
from metanas_server.api.variants import Converter
from metanas_server.callers.access import Caller
from metanas_server.config import ServerConfig
from metanas_server.jobs.manager import JobManager
from metanas_server.jobs.reuse import Accepted
from metanas_server.resources import ModelRecord, ProgressRecord
from metanas_server.storage.archive import Archive
from metanas_server.studio.convert import parse_spec, to_json
from metanas_server.studio.multipart import Part, read_parts
from metanas_server.workers.pool import WorkerPool

Json = dict[str, Any]


class StudioEngine:
    """Adaptations, models and checkpoints of this server, as JSON by the contract's names."""

    def __init__(
        self,
        config: ServerConfig,
        jobs: JobManager,
        pool: WorkerPool,
        archive: Archive,
        uploads: Uploads,
    ) -> None:
        self._config = config
        self._jobs = jobs
        self._pool = pool
        self._archive = archive
        self._uploads = uploads
        self._converter = Converter(archive, config.data)

    def describe(self) -> Json:
        """Return the release, the limits, the checkpoints, and the branches with their costs."""
        cards, limits = self._pool.checkpoints, self._config.limits
        shown = [answers.write_checkpoint(name, cards[name], limits) for name in sorted(cards)]
        return {
            "version": version("metanas-server"),
            "chooses_checkpoint": self._pool.cards.universal is not None or len(cards) == 1,
            "limits": {field: getattr(limits, field) for field in type(limits).__annotations__},
            "checkpoints": [to_json(each) for each in shown],
            "branches": self._branches(),
        }

    def _branches(self) -> list[Json]:
        """Return the branches of the universal search space; none without one."""
        cards, universal = self._pool.checkpoints, self._pool.cards.universal
        if universal is None:
            return []
        costs = {name: footprint_of(universal, cards, [name]) for name in universal.branches}
        return [
            {
                "name": name,
                "checkpoint": branch.checkpoint,
                "size": branch.size or cards[branch.checkpoint].input.size,
                "macs": costs[name].macs,
                "parameters": costs[name].parameters,
            }
            for name, branch in universal.branches.items()
        ]

    async def create(self, content_type: str, chunks: AsyncIterator[bytes], caller: Caller) -> Json:
        """Receive a support set and return its adaptation.

        content_type: of the upload: a part "spec", then a part "images" for each of its labels.

        Raises:
            InvalidInput, Overloaded, Unavailable, StoreError, TimedOut: it was not accepted.
        """
        config = self._config
        most = max(config.limits.max_image_bytes, config.max_request_bytes)
        with self._uploads.intake(caller.name) as intake:
            parts = read_parts(content_type, self._uploads.receive(chunks), most)
            accepted = await self._receive(parts, caller, intake)
        return await self.adaptation(accepted.id, caller)

    async def adaptation(self, id_: str, caller: Caller) -> Json:
        """Return an adaptation with its last progress.

        Raises:
            NotFound: UNKNOWN_ADAPTATION.
        """
        return to_json(answers.write_adaptation(*await self._jobs.get(id_, caller.scope)))

    async def events(self, id_: str, caller: Caller, after: int) -> AsyncIterator[tuple[str, Json]]:
        """Yield ("adaptation", its state) and ("progress", a step beyond `after`) to the end.

        Raises:
            NotFound: UNKNOWN_ADAPTATION.
            Unavailable: the server stops before the adaptation has ended.
        """
        async for event in self._jobs.events(id_, caller.scope, after):
            if isinstance(event, ProgressRecord):
                yield "progress", to_json(answers.write_progress(event))
            else:
                last = await self._jobs.last_progress(id_)
                yield "adaptation", to_json(answers.write_adaptation(event, last))

    async def cancel(self, id_: str, caller: Caller) -> Json:
        """Stop an adaptation and return it.

        Raises:
            NotFound: UNKNOWN_ADAPTATION.
        """
        await self._jobs.cancel(id_, caller.scope)
        return await self.adaptation(id_, caller)

    async def record(self, id_: str, caller: Caller) -> ModelRecord:
        """Return the record of a model.

        Raises:
            NotFound: UNKNOWN_MODEL.
        """
        return await asyncio.to_thread(self._archive.records.models.get, id_, caller.scope)

    async def model(self, id_: str, caller: Caller) -> Json:
        """Return a model with its genotype and its report as objects.

        Raises:
            NotFound: UNKNOWN_MODEL.
        """
        record = await self.record(id_, caller)
        shown = to_json(answers.write_model(record))
        shown["genotype"] = json.loads(shown.pop("genotype_json"))
        shown["report"] = json.loads(record.report_json)  # all of its entries
        return shown

    async def file(self, record: ModelRecord, variant: Variant | None, caller: Caller) -> bytes:
        """Return the file of a model, or a variant, for a download, which is a use of the model.

        Raises:
            InvalidInput: VARIANT_REFUSED.
            StoreError: ARTEFACT_LOST, the file is gone; ARTEFACT_DAMAGED, its bytes have changed.
        """
        self._archive.records.models.mark_used(record.id)
        if variant is not None:
            return await self._converter.file(record, variant, caller.name)
        async with self._archive.open(record.sha256) as path:
            return await asyncio.to_thread(path.read_bytes)

    async def _receive(
        self, parts: AsyncIterator[Part], caller: Caller, intake: Intake
    ) -> Accepted:
        first = await anext(parts, None)
        if first is None or first.name != "spec":
            raise InvalidInput.single("spec", "NO_SPEC", 'the first part must be "spec"')
        fields, labels = self._read_spec(first.data)
        cards = self._pool.cards
        message = parse_spec(fields)
        spec = convert.read_spec(message, cards.checkpoints, cards.universal, self._config.limits)
        async with self._jobs.place(caller, spec):
            async for part in parts:
                if part.name != "images" or intake.count == len(labels):
                    text = 'after "spec" send a part "images" for each label'
                    raise InvalidInput.single("images", "LABELS_MISSING", text)
                intake.add(Example(labels[intake.count], part.data))
            if intake.count < len(labels):
                text = (
                    f"there are {len(labels)} labels for {intake.count} images; send one for each"
                )
                raise InvalidInput.single("spec.labels", "LABELS_MISSING", text)
            return await self._jobs.submit(spec, intake.finish(spec.classes), caller)

    def _read_spec(self, data: bytes) -> tuple[Json, Sequence[str]]:
        """Return the fields of the contract's spec, and the labels of the images."""
        if len(data) > self._config.max_request_bytes:
            most = self._config.max_request_bytes
            text = f"the spec has {len(data)} bytes; at most {most} are allowed"
            raise InvalidInput.single("spec", "REQUEST_TOO_LARGE", text)
        try:
            fields = json.loads(data)
        except (ValueError, RecursionError) as error:
            text = f"the spec is no JSON: {error}"
            raise InvalidInput.single("spec", "REQUEST_MALFORMED", text) from error
        labels = fields.pop("labels", None) if isinstance(fields, dict) else None
        if not isinstance(labels, list) or not all(isinstance(each, str) for each in labels):
            text = 'the spec must be an object whose "labels" hold a class name for each image'
            raise InvalidInput.single("spec.labels", "LABELS_MISSING", text)
        return fields, labels

"""The three services: read a request, call the job manager or the archive, write the answer.

The methods implement the calls of the same names in `metanas_protos/v1/*_service.proto`, which
document them.
"""
# ruff: noqa: N802 (the contract names the methods)

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, BinaryIO

from grpc import aio

from metanas.errors import InvalidInput
from metanas.spec.universal import UNIVERSAL
from metanas.spec.variant import Variant
from metanas_protos.v1 import (
    adaptation_pb2,
    adaptation_service_pb2,
    adaptation_service_pb2_grpc,
    checkpoint_pb2,
    checkpoint_service_pb2,
    checkpoint_service_pb2_grpc,
    model_pb2,
    model_service_pb2,
    model_service_pb2_grpc,
)
from metanas_server.api import answers, convert, pagination
from metanas_server.api.upload import Intake, Uploads
from metanas_server.api.variants import Converter
from metanas_server.callers.access import Caller, Callers
from metanas_server.callers.turns import Turns
from metanas_server.config import ServerConfig
from metanas_server.errors import OutOfRange, StoreError
from metanas_server.jobs.manager import JobManager
from metanas_server.jobs.reuse import Accepted
from metanas_server.records.models import ModelLimits, Models
from metanas_server.resources import ModelRecord, ProgressRecord
from metanas_server.storage.archive import Archive
from metanas_server.workers.pool import WorkerPool

CHUNK = 256 * 1024
Context = aio.ServicerContext[Any, Any]
Parts = AsyncIterator[adaptation_service_pb2.CreateAdaptationRequest]


class AdaptationService(adaptation_service_pb2_grpc.AdaptationServiceServicer):
    """Adaptations: create, follow, list, cancel and delete them."""

    def __init__(
        self,
        config: ServerConfig,
        callers: Callers,
        jobs: JobManager,
        pool: WorkerPool,
        archive: Archive,
        uploads: Uploads,
    ) -> None:
        self._callers = callers
        self._limits = config.limits
        self._uploads = uploads
        self._jobs = jobs
        self._pool = pool
        self._archive = archive

    async def CreateAdaptation(
        self, request_iterator: Parts, context: Context
    ) -> adaptation_service_pb2.CreateAdaptationResponse:
        """See the .proto file."""
        caller = self._callers.of(context)
        with self._uploads.intake(caller.name) as intake:
            accepted = await self._receive(request_iterator, caller, intake)
        adaptation = await self._show(accepted.id, caller.scope)
        return adaptation_service_pb2.CreateAdaptationResponse(
            adaptation=adaptation, reused=accepted.reused
        )

    async def GetAdaptation(
        self, request: adaptation_service_pb2.GetAdaptationRequest, context: Context
    ) -> adaptation_service_pb2.GetAdaptationResponse:
        """See the .proto file."""
        id_ = convert.read_id(request.name, "adaptation")
        adaptation = await self._show(id_, self._callers.of(context).scope)
        return adaptation_service_pb2.GetAdaptationResponse(adaptation=adaptation)

    async def ListAdaptations(
        self, request: adaptation_service_pb2.ListAdaptationsRequest, context: Context
    ) -> adaptation_service_pb2.ListAdaptationsResponse:
        """See the .proto file."""
        state, scope = convert.read_state(request.state), self._callers.of(context).scope
        size, query = pagination.page_size(request.page_size), f"adaptations {state or ''}"
        before = pagination.read_token(request.page_token, query)

        def page() -> adaptation_service_pb2.ListAdaptationsResponse:
            rows = self._jobs.page(before, size + 1, state, scope)
            entries = (
                (number, answers.write_adaptation(record, last)) for number, record, last in rows
            )
            shown, token = pagination.cut(entries, size, query)
            return adaptation_service_pb2.ListAdaptationsResponse(
                adaptations=shown, next_page_token=token
            )

        return await asyncio.to_thread(page)

    async def WatchAdaptation(
        self, request: adaptation_service_pb2.WatchAdaptationRequest, context: Context
    ) -> AsyncIterator[adaptation_service_pb2.WatchAdaptationResponse]:
        """See the .proto file."""
        id_ = convert.read_id(request.name, "adaptation")
        scope = self._callers.of(context).scope
        async for event in self._jobs.events(id_, scope, request.after_sequence):
            if isinstance(event, ProgressRecord):
                progress = answers.write_progress(event)
                yield adaptation_service_pb2.WatchAdaptationResponse(progress=progress)
            else:
                last = await self._jobs.last_progress(id_)
                adaptation = answers.write_adaptation(event, last)
                yield adaptation_service_pb2.WatchAdaptationResponse(adaptation=adaptation)

    async def CancelAdaptation(
        self, request: adaptation_service_pb2.CancelAdaptationRequest, context: Context
    ) -> adaptation_service_pb2.CancelAdaptationResponse:
        """See the .proto file."""
        id_ = convert.read_id(request.name, "adaptation")
        scope = self._callers.of(context).scope
        await self._jobs.cancel(id_, scope)
        adaptation = await self._show(id_, scope)
        return adaptation_service_pb2.CancelAdaptationResponse(adaptation=adaptation)

    async def DeleteAdaptation(
        self, request: adaptation_service_pb2.DeleteAdaptationRequest, context: Context
    ) -> adaptation_service_pb2.DeleteAdaptationResponse:
        """See the .proto file."""
        id_ = convert.read_id(request.name, "adaptation")
        await self._jobs.delete(id_, self._callers.of(context).scope)
        return adaptation_service_pb2.DeleteAdaptationResponse()

    async def _show(self, id_: str, scope: str | None) -> adaptation_pb2.Adaptation:
        return answers.write_adaptation(*await self._jobs.get(id_, scope))

    async def _receive(self, parts: Parts, caller: Caller, intake: Intake) -> Accepted:
        """Receive a request and submit it; refuse it as early as possible."""
        parts = self._uploads.receive(parts)  # messages: the spec, then the examples
        first = await anext(parts, None)
        if first is None or first.WhichOneof("part") != "spec":
            raise InvalidInput.single("spec", "NO_SPEC", "the first message must carry the spec")
        cards = self._pool.cards
        spec = convert.read_spec(first.spec, cards.checkpoints, cards.universal, self._limits)
        async with self._jobs.place(caller, spec):
            async for part in parts:
                if part.WhichOneof("part") != "example":
                    message = "every message but the first must carry an example"
                    raise InvalidInput.single(f"examples[{intake.count}]", "NO_EXAMPLE", message)
                intake.add(*convert.read_example(part.example, intake.count, self._limits))
            return await self._jobs.submit(spec, intake.finish(spec.classes), caller)


class ModelService(model_service_pb2_grpc.ModelServiceServicer):
    """Models: show, list, change, download and delete them."""

    def __init__(self, config: ServerConfig, callers: Callers, archive: Archive) -> None:
        self._callers = callers
        self._archive = archive
        self._models = archive.records.models
        self._converter = Converter(archive, config.data)
        # All changes of records wait for one another: many of one caller must not delay others.
        self._turns = Turns(1)
        self._change_limits = ModelLimits(
            pinned=config.max_pinned_per_caller, shares=config.max_shares_per_model
        )

    async def GetModel(
        self, request: model_service_pb2.GetModelRequest, context: Context
    ) -> model_service_pb2.GetModelResponse:
        """See the .proto file."""
        caller, id_ = self._callers.of(context), convert.read_id(request.name, "model")
        found = await asyncio.to_thread(self._models.get, id_, caller.scope)
        model = answers.write_model_for(found, caller.owner, caller.scope)
        return model_service_pb2.GetModelResponse(model=model)

    async def ListModels(
        self, request: model_service_pb2.ListModelsRequest, context: Context
    ) -> model_service_pb2.ListModelsResponse:
        """See the .proto file."""
        caller, size = self._callers.of(context), pagination.page_size(request.page_size)
        query = "shared models" if request.shared else "models"
        before = pagination.read_token(request.page_token, query)

        def page() -> model_service_pb2.ListModelsResponse:
            if request.shared:
                rows = self._models.shared(before, size + 1, caller.owner)
            else:
                rows = self._models.page(before, size + 1, caller.scope)
            entries = (
                (number, answers.write_model_for(model, caller.owner, caller.scope))
                for number, model in rows
            )
            shown, token = pagination.cut(entries, size, query)
            return model_service_pb2.ListModelsResponse(models=shown, next_page_token=token)

        return await asyncio.to_thread(page)

    async def UpdateModel(
        self, request: model_service_pb2.UpdateModelRequest, context: Context
    ) -> model_service_pb2.UpdateModelResponse:
        """See the .proto file."""
        caller, limits = self._callers.of(context), self._change_limits
        change = convert.read_change(request, limits.shares)
        id_ = convert.read_id(request.name, "model")
        update = partial(self._archive.update_model, id_, caller.scope, change, limits)
        changed = await self._turns.run(caller.name, update)
        model = answers.write_model_for(changed, caller.owner, caller.scope)
        return model_service_pb2.UpdateModelResponse(model=model)

    async def DeleteModel(
        self, request: model_service_pb2.DeleteModelRequest, context: Context
    ) -> model_service_pb2.DeleteModelResponse:
        """See the .proto file."""
        caller, id_ = self._callers.of(context), convert.read_id(request.name, "model")
        delete = partial(self._archive.delete_model, id_, caller.scope)
        await self._turns.run(caller.name, delete)
        return model_service_pb2.DeleteModelResponse()

    async def DownloadModel(
        self, request: model_service_pb2.DownloadModelRequest, context: Context
    ) -> AsyncIterator[model_service_pb2.DownloadModelResponse]:
        """See the .proto file."""
        caller, id_ = self._callers.of(context), convert.read_id(request.name, "model")
        record = await asyncio.to_thread(self._models.get, id_, caller.scope)
        self._models.mark_used(record.id)
        opened = _stored(self._archive, record)
        if request.HasField("variant"):
            opened = self._converter.spooled(record, _read_variant(request.variant), caller.name)
        async with opened as (shown, file):
            async for chunk in chunks(file, shown, request.offset):
                await check_access(self._models, record, caller)
                yield model_service_pb2.DownloadModelResponse(chunk=chunk)


class CheckpointService(checkpoint_service_pb2_grpc.CheckpointServiceServicer):
    """Checkpoints that adaptations can start from: show and list them."""

    def __init__(self, config: ServerConfig, pool: WorkerPool) -> None:
        self._limits = config.limits
        self._pool = pool

    async def ListCheckpoints(
        self, request: checkpoint_service_pb2.ListCheckpointsRequest, context: Context
    ) -> checkpoint_service_pb2.ListCheckpointsResponse:
        """See the .proto file."""
        names = sorted(self._pool.cards.digests, key=lambda name: (name != UNIVERSAL, name))
        start = pagination.read_token(request.page_token, "checkpoints") or 0
        end = start + pagination.page_size(request.page_size)
        return checkpoint_service_pb2.ListCheckpointsResponse(
            checkpoints=[self._show(name) for name in names[start:end]],
            next_page_token=pagination.write_token(end, "checkpoints") if end < len(names) else "",
        )

    async def GetCheckpoint(
        self, request: checkpoint_service_pb2.GetCheckpointRequest, context: Context
    ) -> checkpoint_service_pb2.GetCheckpointResponse:
        """See the .proto file."""
        name = convert.read_checkpoint_name(request.name, self._pool.cards.digests)
        return checkpoint_service_pb2.GetCheckpointResponse(checkpoint=self._show(name))

    def _show(self, name: str) -> checkpoint_pb2.Checkpoint:
        cards = self._pool.cards
        if name == UNIVERSAL and cards.universal is not None:
            return answers.write_universal(cards.universal, cards.checkpoints, self._limits)
        return answers.write_checkpoint(name, cards.checkpoints[name], self._limits)


async def check_access(models: Models, record: ModelRecord, caller: Caller) -> None:
    """Refuse the next answer about a model that is not shared with a caller any more.

    Raises:
        NotFound: UNKNOWN_MODEL.
    """
    if caller.scope not in (None, record.owner):
        await asyncio.to_thread(models.get, record.id, caller.scope)


def _read_variant(message: model_pb2.ModelVariant) -> Variant:
    """Read the variant that a download asks for.

    Raises:
        InvalidInput: OPTION_OUT_OF_RANGE.
    """
    given = {field.name: value for field, value in message.ListFields()}
    try:
        return Variant(**given)
    except InvalidInput as error:
        raise error.within("variant") from None


@asynccontextmanager
async def _stored(
    archive: Archive, record: ModelRecord
) -> AsyncIterator[tuple[ModelRecord, BinaryIO]]:
    """Yield the file of a model, after it was compared with its digest.

    Raises:
        StoreError: ARTEFACT_LOST, the file is gone; ARTEFACT_DAMAGED, its bytes have changed.
    """
    async with archive.open(record.sha256) as path:
        with await asyncio.to_thread(path.open, "rb") as file:
            yield record, file


async def chunks(
    file: BinaryIO, record: ModelRecord, offset: int
) -> AsyncIterator[model_pb2.ModelChunk]:
    """Yield a file from `offset` on; at the end of the file, one empty chunk.

    record: the size and the digest of the file.

    Raises:
        OutOfRange: OFFSET_OUT_OF_RANGE.
        StoreError: ARTEFACT_LOST, the file is too short.
    """
    if not 0 <= offset <= record.size_bytes:
        message = f"offset {offset} is not within 0 to {record.size_bytes}"
        raise OutOfRange("OFFSET_OUT_OF_RANGE", message)
    file.seek(offset)
    first = True
    while first or offset < record.size_bytes:
        data = await asyncio.to_thread(file.read, CHUNK)
        if not data and offset < record.size_bytes:
            raise StoreError("ARTEFACT_LOST", f"the file of models/{record.id} is too short")
        yield answers.write_chunk(record, offset, data, first)
        offset, first = offset + len(data), False

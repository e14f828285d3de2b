"""The service of the Open Inference Protocol.

The methods implement the calls of the same names in
`metanas_protos/inference/inference_service.proto`, which documents them.
"""
# ruff: noqa: N802 (the protocol names the methods)

import asyncio
from importlib.metadata import version
from typing import Any

from grpc import aio

from metanas_data.limits import ImageLimits
from metanas_protos.inference import inference_service_pb2 as protocol
from metanas_protos.inference import inference_service_pb2_grpc as stubs
from metanas_server.api.service import check_access
from metanas_server.api.upload import UploadBudget
from metanas_server.callers.access import Callers
from metanas_server.config import ServerConfig
from metanas_server.errors import NotFound
from metanas_server.inference import convert
from metanas_server.inference.clock import Clock, Phase
from metanas_server.inference.engine import Engine
from metanas_server.inference.open_model import OpenModel
from metanas_server.inference.statistics import Statistics
from metanas_server.records.records import Records
from metanas_server.resources import ModelRecord

Context = aio.ServicerContext[Any, Any]
SERVER_NAME = "metanas-server"
EXTENSIONS = ("classification", "model_repository", "model_configuration", "statistics")
MOST_COUNTED, MOST_LISTED = 1000, 10_000
"""Most models with statistics, and in the index of the repository; the .proto file says so."""


class InferenceService(stubs.GRPCInferenceServiceServicer):
    """Queries to the models of this server."""

    ready = True
    """False during a graceful shutdown."""

    def __init__(
        self, config: ServerConfig, callers: Callers, records: Records, engine: Engine
    ) -> None:
        self._callers = callers
        limits = config.limits
        self._limits = ImageLimits(
            max_bytes=limits.max_image_bytes, max_pixels=limits.max_pixels, min_side=limits.min_side
        )
        self._most_images = config.max_query_images
        self._seconds = config.query_seconds
        self._budget = UploadBudget(
            config.max_upload_bytes,
            config.max_upload_bytes_per_caller,
            config.max_queries_per_caller,
            noun="queries",
        )
        self._models = records.models
        self._engine = engine
        self._statistics = Statistics(MOST_COUNTED)

    async def ServerLive(
        self, request: protocol.ServerLiveRequest, context: Context
    ) -> protocol.ServerLiveResponse:
        """See the .proto file."""
        return protocol.ServerLiveResponse(live=True)

    async def ServerReady(
        self, request: protocol.ServerReadyRequest, context: Context
    ) -> protocol.ServerReadyResponse:
        """See the .proto file."""
        return protocol.ServerReadyResponse(ready=self.ready)

    async def ModelReady(
        self, request: protocol.ModelReadyRequest, context: Context
    ) -> protocol.ModelReadyResponse:
        """See the .proto file."""
        try:
            await self._find(request.name, request.version, context)
        except NotFound:
            return protocol.ModelReadyResponse(ready=False)
        return protocol.ModelReadyResponse(ready=self.ready)

    async def ServerMetadata(
        self, request: protocol.ServerMetadataRequest, context: Context
    ) -> protocol.ServerMetadataResponse:
        """See the .proto file."""
        return protocol.ServerMetadataResponse(
            name=SERVER_NAME, version=version("metanas-server"), extensions=EXTENSIONS
        )

    async def ModelMetadata(
        self, request: protocol.ModelMetadataRequest, context: Context
    ) -> protocol.ModelMetadataResponse:
        """See the .proto file."""
        record = await self._find(request.name, request.version, context)
        model = await self._engine.model(record, self._callers.of(context).name)
        return convert.write_metadata(request.name, model)

    async def ModelInfer(
        self, request: protocol.ModelInferRequest, context: Context
    ) -> protocol.ModelInferResponse:
        """See the .proto file."""
        record = await self._find(request.model_name, request.model_version, context)
        self._models.mark_used(record.id)
        clock = Clock(self._seconds)

        def work(model: OpenModel) -> protocol.ModelInferResponse:
            clock.enter(Phase.INPUT)
            query = convert.read_query(request, model, self._limits, self._most_images)
            names = [each.name for each in query.wanted]
            outputs = model.run(query.images, names, self._limits, clock)
            clock.enter(Phase.OUTPUT)
            return convert.write_answer(request, model, query, outputs)

        caller, size = self._callers.of(context), request.ByteSize()
        try:
            with self._budget.hold(caller.name, size):
                answer = await self._engine.answer(record, caller.name, work, clock)
            await check_access(self._models, record, caller)
        except BaseException:
            self._statistics.failed(record, clock)
            raise
        self._statistics.answered(record, request.inputs[0].shape[0], clock)
        return answer

    async def ModelConfig(
        self, request: protocol.ModelConfigRequest, context: Context
    ) -> protocol.ModelConfigResponse:
        """See the .proto file."""
        record = await self._find(request.name, request.version, context)
        model = await self._engine.model(record, self._callers.of(context).name)
        return convert.write_config(request.name, model, self._most_images)

    async def ModelStatistics(
        self, request: protocol.ModelStatisticsRequest, context: Context
    ) -> protocol.ModelStatisticsResponse:
        """See the .proto file."""
        if request.name:
            record = await self._find_own(request.name, request.version, context)
            counts = [self._statistics.of(record)]
        else:
            scope = self._callers.of(context).scope
            visible = set(await asyncio.to_thread(self._models.ids, MOST_LISTED, scope))
            counts = [each for each in self._statistics.all() if each.id in visible]
        return protocol.ModelStatisticsResponse(
            model_stats=[
                convert.write_statistics(each, self._engine.open_bytes(each.digest))
                for each in counts
            ]
        )

    async def RepositoryIndex(
        self, request: protocol.RepositoryIndexRequest, context: Context
    ) -> protocol.RepositoryIndexResponse:
        """See the .proto file."""
        caller = self._callers.of(context)

        def index() -> protocol.RepositoryIndexResponse:
            ids = self._models.ids(MOST_LISTED, caller.scope)
            if caller.scope is not None:
                ids += self._models.shared_ids(MOST_LISTED - len(ids), caller.owner)
            return convert.write_index(ids)

        return await asyncio.to_thread(index)

    async def RepositoryModelLoad(
        self, request: protocol.RepositoryModelLoadRequest, context: Context
    ) -> protocol.RepositoryModelLoadResponse:
        """See the .proto file."""
        convert.refuse_parameters(request)
        record = await self._find(request.model_name, "", context)
        await self._engine.model(record, self._callers.of(context).name)
        return protocol.RepositoryModelLoadResponse()

    async def RepositoryModelUnload(
        self, request: protocol.RepositoryModelUnloadRequest, context: Context
    ) -> protocol.RepositoryModelUnloadResponse:
        """See the .proto file."""
        self._engine.forget(await self._find_own(request.model_name, "", context))
        return protocol.RepositoryModelUnloadResponse()

    async def _find(self, name: str, version: str, context: Context) -> ModelRecord:
        id_ = convert.read_model_id(name, version)
        return await asyncio.to_thread(self._models.get, id_, self._callers.of(context).scope)

    async def _find_own(self, name: str, version: str, context: Context) -> ModelRecord:
        """Return a model that the caller may change, not only read."""
        record, scope = await self._find(name, version, context), self._callers.of(context).scope
        if scope not in (None, record.owner):
            raise NotFound("model", f"models/{record.id}")
        return record

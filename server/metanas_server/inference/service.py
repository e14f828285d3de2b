"""The service of the Open Inference Protocol.

The methods implement the calls of the same names in
`metanas_protos/inference/inference_service.proto`, which documents them.
"""
# ruff: noqa: N802 (the protocol names the methods)

from importlib.metadata import version
from typing import Any

from grpc import aio

from metanas_data.limits import ImageLimits
from metanas_protos.inference import inference_service_pb2 as protocol
from metanas_protos.inference import inference_service_pb2_grpc as stubs
from metanas_server.api.upload import UploadBudget
from metanas_server.callers.access import Callers
from metanas_server.config import ServerConfig
from metanas_server.errors import NotFound
from metanas_server.inference import convert
from metanas_server.inference.engine import Engine
from metanas_server.inference.open_model import OpenModel
from metanas_server.inference.query import Deadline
from metanas_server.resources import ModelRecord
from metanas_server.storage.database import Records

Context = aio.ServicerContext[Any, Any]
SERVER_NAME = "metanas-server"
EXTENSIONS = ("classification",)


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
        self._records = records
        self._engine = engine

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
            self._find(request.name, request.version, context)
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
        record = self._find(request.name, request.version, context)
        model = await self._engine.model(record, self._callers.of(context).name)
        return convert.write_metadata(request.name, model)

    async def ModelInfer(
        self, request: protocol.ModelInferRequest, context: Context
    ) -> protocol.ModelInferResponse:
        """See the .proto file."""
        record = self._find(request.model_name, request.model_version, context)
        deadline = Deadline(self._seconds)

        def work(model: OpenModel) -> protocol.ModelInferResponse:
            query = convert.read_query(request, model, self._limits, self._most_images)
            names = [each.name for each in query.wanted]
            outputs = model.run(query.images, names, self._limits, deadline)
            return convert.write_answer(request, model, query, outputs)

        caller, size = self._callers.of(context).name, request.ByteSize()
        with self._budget.hold(caller, size):
            return await self._engine.answer(record, caller, work, deadline)

    def _find(self, name: str, version: str, context: Context) -> ModelRecord:
        id_ = convert.read_model_id(name, version)
        return self._records.model(id_, self._callers.of(context).scope)

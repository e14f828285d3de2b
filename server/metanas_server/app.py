"""Assemble the server, start it and stop it."""

import asyncio
import logging
import os
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Self

from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2
from sqlalchemy import URL

from metanas_protos.inference import inference_service_pb2, inference_service_pb2_grpc
from metanas_protos.v1 import (
    adaptation_service_pb2,
    adaptation_service_pb2_grpc,
    checkpoint_service_pb2,
    checkpoint_service_pb2_grpc,
    model_service_pb2,
    model_service_pb2_grpc,
)
from metanas_server.api.descriptors import pool_of
from metanas_server.api.health import Health
from metanas_server.api.interceptors import CallInterceptor
from metanas_server.api.observer import Observer
from metanas_server.api.service import AdaptationService, CheckpointService, ModelService
from metanas_server.api.upload import Uploads
from metanas_server.callers.access import Callers, TokenFile
from metanas_server.callers.audit import AuditLog
from metanas_server.callers.open_calls import OpenCalls
from metanas_server.config import ServerConfig
from metanas_server.cores import MOST_WORKERS, usable_cores
from metanas_server.errors import StartError
from metanas_server.folders import folders_of, lock_folder
from metanas_server.inference.engine import Engine
from metanas_server.inference.service import InferenceService
from metanas_server.jobs.dispatcher import Dispatcher
from metanas_server.jobs.figures import snapshot
from metanas_server.jobs.job_table import JobTable
from metanas_server.jobs.manager import JobManager
from metanas_server.jobs.mirrors import Mirrors
from metanas_server.jobs.retention import Retention
from metanas_server.jobs.sharing import Sharing
from metanas_server.observation.calls import CallObserver
from metanas_server.observation.endpoint import metrics_endpoint
from metanas_server.observation.metrics import CallMetrics, Metrics
from metanas_server.observation.snapshot import Figures
from metanas_server.observation.watchdog import watch
from metanas_server.records.address import read_address
from metanas_server.records.postgresql import listen
from metanas_server.sockets import bind
from metanas_server.storage.archive import Archive, open_archive
from metanas_server.storage.place import folder_of
from metanas_server.tls import Certificates
from metanas_server.workers.assembly import make_pool
from metanas_server.workers.pool import WorkerPool
from metanas_server.workers.protocol import Load

if TYPE_CHECKING:
    from metanas_server.observation.traces import Traces

LOG = logging.getLogger(__name__)

MESSAGE_OVERHEAD = 64 * 1024  # label, shape and framing around the largest image
FLUSH_SECONDS = 2.0
KEEPALIVE_MS, KEEPALIVE_TIMEOUT_MS = 30_000, 10_000
SHORTEST_PING_MS = 500  # of a client: a connection with more frequent ones is closed
SERVICES = tuple(
    module.DESCRIPTOR.services_by_name[name].full_name
    for module, name in (
        (adaptation_service_pb2, "AdaptationService"),
        (model_service_pb2, "ModelService"),
        (checkpoint_service_pb2, "CheckpointService"),
    )
)
INFERENCE = inference_service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"].full_name
DESCRIBED = (
    adaptation_service_pb2.DESCRIPTOR,
    model_service_pb2.DESCRIPTOR,
    checkpoint_service_pb2.DESCRIPTOR,
    inference_service_pb2.DESCRIPTOR,
    health_pb2.DESCRIPTOR,
    reflection_pb2.DESCRIPTOR,
)
"""Files for server reflection."""

WRITES = SERVICES[0]
"""The service that is not healthy while the data folder cannot be written."""


class Server:
    """A server with `start` and `stop`; also an async context manager."""

    port: int
    """The port of a server that has started."""
    metrics_port: int | None = None
    """The port of its metrics; None without `--metrics`."""
    studio_port: int | None = None
    """The port of its page in the browser; None without `--studio`."""

    def __init__(self, config: ServerConfig, *, load: Load | None = None) -> None:
        """Build a server, in a running event loop; start it afterwards.

        load: loads a checkpoint folder in the worker processes, for instance
            `functools.partial(load_checkpoint, ops={**OPS, "mine": mine})`. It must be picklable.
            None is `metanas.checkpoint.load_checkpoint`.
        """
        self._config = config
        self._load = load
        self._undo = AsyncExitStack()
        self._health = Health((*SERVICES, INFERENCE))
        self._metrics = Metrics()
        self._traces: Traces | None = None
        self._answers = False
        self._archive: Archive
        self._pool: WorkerPool
        self._dispatcher: Dispatcher
        self._jobs: JobManager
        self._inference: InferenceService

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    @property
    def checkpoints(self) -> tuple[str, ...]:
        """Names of the checkpoints."""
        return tuple(sorted(self._pool.checkpoints))

    @property
    def has_universal(self) -> bool:
        """True if requests may leave the choice of the checkpoint to the images."""
        return self._pool.cards.universal is not None

    @property
    def worker_pids(self) -> tuple[int, ...]:
        """Process ids of the worker processes."""
        return self._pool.pids

    async def start(self) -> None:
        """Open the data folder, load the checkpoints, queue unfinished work, answer calls.

        Raises:
            MetanasError: the server cannot start; nothing stays open.
        """
        async with AsyncExitStack() as undo:
            await self._start(undo)
            self._undo = undo.pop_all()

    async def reload(self) -> bool:
        """Load the checkpoints again in all workers; running adaptations keep the old ones.

        Return False, with the reason in the log, if the old ones stay in use.
        """
        return await self._pool.reload()

    async def stop(self, grace: float | None = None) -> None:
        """Shut down gracefully: refuse new work, and give running work `grace` seconds to end.

        Unfinished work stays in the database as queued. None stands for the configured grace.
        """
        self._answers = False
        self._health.stop()
        self._inference.ready = False
        self._uploads.stop()
        await self._jobs.stop(self._config.grace if grace is None else grace)
        self._health.close()
        await self._undo.aclose()

    async def _start(self, undo: AsyncExitStack) -> None:
        config = self._config
        self._traces = self._open_traces(undo)
        address = read_address(config.records, config.data)
        archive = self._archive = await self._open_archive(undo, address)
        callers = Callers(None if config.token_file is None else TokenFile(config.token_file))
        longer = {f"/{INFERENCE}/ModelInfer": config.max_query_bytes}
        audit = None if config.audit_log is None else AuditLog(config.audit_log)
        calls = OpenCalls(config.max_calls, config.max_calls_per_caller)
        interceptors = [
            Observer(self._call_observer(self._metrics.rpcs), self._metrics, callers),
            CallInterceptor(config.max_request_bytes, longer, callers, calls, audit),
        ]
        server = aio.server(options=_options(config), interceptors=interceptors)
        self.port = _bind(server, config)
        self._pool = make_pool(config, self._load, self._on_change)
        table = JobTable(archive, self._metrics, self._traces)
        self._dispatcher = Dispatcher(config, table, self._pool)
        mirrors = Mirrors(archive.records.fronts)
        self._jobs = JobManager(config, archive, table, self._dispatcher, mirrors)
        threads = config.query_threads or min(usable_cores(), MOST_WORKERS)
        engine = Engine(archive, threads=threads, open_bytes=config.max_open_bytes)
        undo.push_async_callback(engine.close)
        self._inference = InferenceService(config, callers, archive.records, engine)
        undo.push_async_callback(self._dispatcher.close)
        await self._observe(undo, table)
        retention = Retention(archive, audit, ttl=config.ttl, max_bytes=config.max_store_bytes)
        undo.push_async_callback(_end, asyncio.create_task(retention.run()))
        await self._pool.start()
        if isinstance(address, URL):
            await self._share(undo, table, mirrors, address)
        else:
            await self._jobs.take_orphans()
        self._uploads = Uploads(config)
        self._add_services(server, callers, archive)
        undo.push_async_callback(server.stop, FLUSH_SECONDS)
        await server.start()
        if config.studio is not None:
            await self._start_studio(undo, callers, audit, archive)
        self._health.set(INFERENCE, healthy=True)
        self._answers = True
        await self._on_change()

    async def _open_archive(self, undo: AsyncExitStack, address: Path | URL) -> Archive:
        """Lock the folders of this server, and open its records and files."""
        config = self._config
        for folder in folders_of(config.data, address, config.artefacts):
            undo.callback(os.close, lock_folder(folder))
        archive = await asyncio.to_thread(
            open_archive, config.data, address, self._on_change, place=config.artefacts
        )
        undo.push_async_callback(archive.close)
        return archive

    async def _share(
        self, undo: AsyncExitStack, table: JobTable, mirrors: Mirrors, address: URL
    ) -> None:
        """Join the fronts on a database, and leave them at the end."""
        fronts = self._archive.records.fronts
        sharing = Sharing(
            fronts,
            table,
            self._dispatcher,
            self._jobs,
            mirrors=mirrors,
            listen=partial(listen, address),
            lease=self._config.lease_seconds,
        )
        await asyncio.to_thread(fronts.beat)
        undo.push_async_callback(sharing.leave)
        await self._jobs.take_orphans()
        undo.push_async_callback(_end, asyncio.create_task(sharing.run()))

    async def _start_studio(
        self,
        undo: AsyncExitStack,
        callers: Callers,
        audit: AuditLog | None,
        archive: Archive,
    ) -> None:
        try:
            from metanas_server.studio.engine import StudioEngine
            from metanas_server.studio.routes import make_app
            from metanas_server.studio.server import StudioServer
        except ModuleNotFoundError as error:
            message = f'--studio needs {error.name}; run: pip install "metanas-server[studio]"'
            raise StartError("STUDIO_MISSING", message) from error
        engine = StudioEngine(self._config, self._jobs, self._pool, archive, self._uploads)
        observer = self._call_observer(self._metrics.requests)
        studio = StudioServer(self._config, make_app(engine, callers, audit), observer)
        undo.push_async_callback(studio.stop)
        self.studio_port = await studio.start()

    def _open_traces(self, undo: AsyncExitStack) -> "Traces | None":
        if self._config.traces is None:
            return None
        try:
            from metanas_server.observation.traces import Traces
        except ModuleNotFoundError as error:
            message = f'--traces needs {error.name}; run: pip install "metanas-server[otel]"'
            raise StartError("OTEL_MISSING", message) from error
        traces = Traces(self._config.traces)
        undo.push_async_callback(traces.close)
        return traces

    def _call_observer(self, kind: CallMetrics) -> CallObserver:
        log = self._config.access_log
        return CallObserver(self._metrics, kind, log=log, traces=self._traces)

    async def _observe(self, undo: AsyncExitStack, table: JobTable) -> None:
        """Start the watchdog, and serve the metrics if the configuration has an address."""
        config, metrics = self._config, self._metrics
        figures = Figures(config.data, folder_of(config.artefacts, config.data))
        metrics.registry.register(figures)
        watching = asyncio.create_task(
            watch(metrics, figures, partial(snapshot, table, self._pool))
        )
        undo.callback(watching.cancel)
        address = config.metrics_address
        if address is not None:
            endpoint = metrics_endpoint(*address, metrics.registry)
            self.metrics_port = await undo.enter_async_context(endpoint)

    def _add_services(self, server: aio.Server, callers: Callers, archive: Archive) -> None:
        config, jobs, pool = self._config, self._jobs, self._pool
        adaptations = AdaptationService(config, callers, jobs, pool, archive, self._uploads)
        adaptation_service_pb2_grpc.add_AdaptationServiceServicer_to_server(adaptations, server)
        models = ModelService(config, callers, archive)
        model_service_pb2_grpc.add_ModelServiceServicer_to_server(models, server)
        checkpoints = CheckpointService(config, pool)
        checkpoint_service_pb2_grpc.add_CheckpointServiceServicer_to_server(checkpoints, server)
        inference_service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(
            self._inference, server
        )
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        if config.reflection:
            standard = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name
            names = (*SERVICES, INFERENCE, standard, reflection.SERVICE_NAME)
            reflection.enable_server_reflection(names, server, pool_of(DESCRIBED))

    async def _on_change(self) -> None:
        """Start waiting jobs, and report the health: workers or the data folder have changed."""
        if not self._answers:
            return
        self._dispatcher.dispatch()
        for name in ("", *SERVICES):
            writable = name != WRITES or self._archive.is_writable
            self._health.set(name, healthy=self._pool.is_ready and writable)


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def _options(config: ServerConfig) -> list[tuple[str, int]]:
    longest = max(config.limits.max_image_bytes, config.max_query_bytes) + MESSAGE_OVERHEAD
    return [
        # Otherwise a second server could share the port, and each call would reach one of them.
        ("grpc.so_reuseport", 0),
        ("grpc.max_receive_message_length", longest),
        ("grpc.max_allowed_incoming_connections", config.max_connections),
        # A caller whose network is gone must not keep its upload open.
        ("grpc.keepalive_time_ms", KEEPALIVE_MS),
        ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_MS),
        ("grpc.http2.min_ping_interval_without_data_ms", SHORTEST_PING_MS),
        ("grpc.keepalive_permit_without_calls", 1),
    ]


def _bind(server: aio.Server, config: ServerConfig) -> int:
    files = certificates(config)
    check_address("listen", *config.address)
    try:
        if files is None:
            return server.add_insecure_port(config.listen)
        return server.add_secure_port(config.listen, files.credentials())
    except RuntimeError as error:
        message = f"cannot listen on {config.listen}; choose another --listen"
        raise StartError("ADDRESS_INVALID", message) from error


def check_address(option: str, host: str, port: int) -> None:
    """Bind a plain socket for a moment: grpc logs the cause of a failure, but does not return it.

    option: name of the option with the address.

    Raises:
        StartError: PORT_IN_USE, ADDRESS_INVALID.
    """
    bind(option, host, port).close()


def certificates(config: ServerConfig) -> Certificates | None:
    """Read the files of TLS; return None if the configuration names none.

    Raises:
        StartError: TLS_INVALID.
    """
    if config.tls_cert is None or config.tls_key is None:
        return None
    return Certificates(config.tls_cert, config.tls_key, config.tls_client_ca)

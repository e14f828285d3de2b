"""Remote calls as coroutines over plain values, with retries after a broken connection."""

import asyncio
import hashlib
import logging
import os
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import aclosing, contextmanager

import grpc

from metanas_client import convert
from metanas_client.channel import Connection, broken, open_channel, translate
from metanas_client.errors import DownloadDamaged, ServerFault
from metanas_client.resources import AdaptationInfo, Checkpoint, ModelInfo, Progress, Variant
from metanas_client.support import Content
from metanas_client.text import bare
from metanas_client.traces import Metadata, traced
from metanas_protos.v1 import (
    adaptation_service_pb2,
    adaptation_service_pb2_grpc,
    checkpoint_service_pb2,
    checkpoint_service_pb2_grpc,
    model_service_pb2,
    model_service_pb2_grpc,
)

ADAPTATIONS = "metanas.v1.AdaptationService"
CHECKPOINTS = "metanas.v1.CheckpointService"
MODELS = "metanas.v1.ModelService"
FIRST_PAUSE = 0.1
LONGEST_PAUSE = 2.0

log = logging.getLogger(__name__)


class Calls:
    """Services behind one channel, bound to the event loop that opened it."""

    def __init__(self, connection: Connection) -> None:
        self.process = os.getpid()
        self._connection = connection
        self._channel = open_channel(connection)
        self._adaptations = adaptation_service_pb2_grpc.AdaptationServiceStub(self._channel)
        self._models = model_service_pb2_grpc.ModelServiceStub(self._channel)
        self._checkpoints = checkpoint_service_pb2_grpc.CheckpointServiceStub(self._channel)
        self._metadata = tuple(connection.metadata)
        self._lost = False

    async def close(self) -> None:
        """Close the channel; unfinished calls end with an error."""
        await self._channel.close()

    async def create_adaptation(
        self, spec: convert.Spec, contents: Sequence[Content]
    ) -> tuple[AdaptationInfo, bool]:
        """Send a support set, and again after a broken connection: the request id makes it safe.

        Returns:
            the adaptation, and True if another request with the same work has made it.
        """
        try:
            return await self._create(spec, contents)
        except grpc.aio.AioRpcError as error:
            # gRPC itself retries only calls that fit its buffer. Give up if no server listens.
            unreachable = grpc.ChannelConnectivity.TRANSIENT_FAILURE
            if not broken(error) or self._channel.get_state() == unreachable:
                raise translate(error, self._connection) from error
        with self._translated():
            return await self._create(spec, contents)

    async def _create(
        self, spec: convert.Spec, contents: Sequence[Content]
    ) -> tuple[AdaptationInfo, bool]:
        requests = convert.create_requests(spec, contents)
        with traced(f"{ADAPTATIONS}/CreateAdaptation", self._metadata) as metadata:
            reply = await self._adaptations.CreateAdaptation(requests, metadata=metadata)
        return convert.adaptation_info(reply.adaptation), reply.reused

    async def get_adaptation(self, name: str) -> AdaptationInfo:
        """Return the state of an adaptation."""
        request = adaptation_service_pb2.GetAdaptationRequest(name=name)
        with self._call(f"{ADAPTATIONS}/GetAdaptation", come_back(name)) as metadata:
            reply = await self._adaptations.GetAdaptation(request, metadata=metadata)
        return convert.adaptation_info(reply.adaptation)

    async def list_adaptations(self, page_size: int) -> AsyncIterator[AdaptationInfo]:
        """Yield all adaptations, the latest first."""
        token = ""
        while True:
            request = adaptation_service_pb2.ListAdaptationsRequest(
                page_size=page_size, page_token=token
            )
            with self._call(f"{ADAPTATIONS}/ListAdaptations") as metadata:
                reply = await self._adaptations.ListAdaptations(request, metadata=metadata)
            for adaptation in reply.adaptations:
                yield convert.adaptation_info(adaptation)
            token = reply.next_page_token
            if not token:
                return

    async def cancel_adaptation(self, name: str) -> AdaptationInfo:
        """Cancel an adaptation."""
        request = adaptation_service_pb2.CancelAdaptationRequest(name=name)
        with self._call(f"{ADAPTATIONS}/CancelAdaptation", come_back(name)) as metadata:
            reply = await self._adaptations.CancelAdaptation(request, metadata=metadata)
        return convert.adaptation_info(reply.adaptation)

    async def delete_adaptation(self, name: str) -> None:
        """Delete the record of an adaptation that has ended."""
        request = adaptation_service_pb2.DeleteAdaptationRequest(name=name)
        with self._call(f"{ADAPTATIONS}/DeleteAdaptation") as metadata:
            await self._adaptations.DeleteAdaptation(request, metadata=metadata)

    async def watch_adaptation(
        self, name: str, after_sequence: int
    ) -> AsyncGenerator[AdaptationInfo | Progress, None]:
        """Yield all events of an adaptation up to its final state."""
        pause = Pause(self._connection.patience)
        while True:
            try:
                async with aclosing(self._watch_once(name, after_sequence)) as events:
                    async for event in events:
                        pause, self._lost = Pause(self._connection.patience), False
                        if isinstance(event, Progress):
                            after_sequence = event.sequence
                        yield event
            except grpc.aio.AioRpcError as error:
                if not broken(error) or not pause.fits():
                    raise translate(error, self._connection, come_back(name)) from error
            else:
                return
            self._warn()
            await pause.wait()

    async def _watch_once(
        self, name: str, after_sequence: int
    ) -> AsyncGenerator[AdaptationInfo | Progress, None]:
        request = adaptation_service_pb2.WatchAdaptationRequest(
            name=name, after_sequence=after_sequence
        )
        ended = False
        # If the adaptation has ended, the final state is the first event and the last one. So only
        # the end of the stream means that there is no more progress.
        with traced(f"{ADAPTATIONS}/WatchAdaptation", self._metadata) as metadata:
            async for reply in self._adaptations.WatchAdaptation(request, metadata=metadata):
                event = convert.watch_event(reply)
                if event is None:
                    continue
                ended = isinstance(event, AdaptationInfo) and event.state.final
                yield event
        if not ended:
            raise ServerFault("WATCH_ENDED", f"the events of {name} stopped before its end")

    async def get_model(self, name: str) -> ModelInfo:
        """Return a model without its bytes."""
        request = model_service_pb2.GetModelRequest(name=name)
        with self._call(f"{MODELS}/GetModel", fetch_later(name)) as metadata:
            reply = await self._models.GetModel(request, metadata=metadata)
        return convert.model_info(reply.model)

    async def update_model(
        self, name: str, pinned: bool | None, share_with: Sequence[str], unshare: Sequence[str]
    ) -> ModelInfo:
        """Change a model; None leaves its pin as it is."""
        request = model_service_pb2.UpdateModelRequest(
            name=name, pinned=pinned, share_with=share_with, unshare=unshare
        )
        with self._call(f"{MODELS}/UpdateModel") as metadata:
            reply = await self._models.UpdateModel(request, metadata=metadata)
        return convert.model_info(reply.model)

    async def list_models(self, page_size: int, shared: bool) -> AsyncIterator[ModelInfo]:
        """Yield your models, or those that others share with you, the latest first."""
        token = ""
        while True:
            request = model_service_pb2.ListModelsRequest(
                page_size=page_size, page_token=token, shared=shared
            )
            with self._call(f"{MODELS}/ListModels") as metadata:
                reply = await self._models.ListModels(request, metadata=metadata)
            for model in reply.models:
                yield convert.model_info(model)
            token = reply.next_page_token
            if not token:
                return

    async def delete_model(self, name: str) -> None:
        """Delete a model and its file."""
        request = model_service_pb2.DeleteModelRequest(name=name)
        with self._call(f"{MODELS}/DeleteModel") as metadata:
            await self._models.DeleteModel(request, metadata=metadata)

    async def download_model(self, info: ModelInfo, variant: Variant) -> tuple[bytes, ModelInfo]:
        """Download a variant of a model's file. A broken connection continues at its offset.

        Returns:
            the file, and the information with its size and SHA-256.

        Raises:
            DownloadDamaged: size or SHA-256 differ from those that the server has announced.
        """
        received = bytearray()
        pause = Pause(self._connection.patience)
        while True:
            request = convert.download_request(info, len(received), variant)
            try:
                with traced(f"{MODELS}/DownloadModel", self._metadata) as metadata:
                    async for reply in self._models.DownloadModel(request, metadata=metadata):
                        if reply.chunk.offset != len(received):
                            raise damaged(info, f"a chunk at {reply.chunk.offset} came too early")
                        if not received and request.HasField("variant"):
                            info = convert.variant_info(info, reply.chunk)
                        received += reply.chunk.data
                        pause, self._lost = Pause(self._connection.patience), False
            except grpc.aio.AioRpcError as error:
                if not broken(error) or not pause.fits():
                    raise translate(error, self._connection, fetch_later(info.name)) from error
            else:
                return verified(info, bytes(received)), info
            self._warn()
            await pause.wait()

    async def list_checkpoints(self, page_size: int) -> AsyncIterator[Checkpoint]:
        """Yield all checkpoints by name."""
        token = ""
        while True:
            request = checkpoint_service_pb2.ListCheckpointsRequest(
                page_size=page_size, page_token=token
            )
            with self._call(f"{CHECKPOINTS}/ListCheckpoints") as metadata:
                reply = await self._checkpoints.ListCheckpoints(request, metadata=metadata)
            for checkpoint in reply.checkpoints:
                yield convert.checkpoint(checkpoint)
            token = reply.next_page_token
            if not token:
                return

    async def get_checkpoint(self, name: str) -> Checkpoint:
        """Return one checkpoint."""
        request = checkpoint_service_pb2.GetCheckpointRequest(name=name)
        with self._call(f"{CHECKPOINTS}/GetCheckpoint") as metadata:
            reply = await self._checkpoints.GetCheckpoint(request, metadata=metadata)
        return convert.checkpoint(reply.checkpoint)

    @contextmanager
    def _call(self, method: str, unfinished: str = "") -> Iterator[Metadata]:
        """Run a call; yields its metadata."""
        with self._translated(unfinished), traced(method, self._metadata) as metadata:
            yield metadata

    @contextmanager
    def _translated(self, unfinished: str = "") -> Iterator[None]:
        try:
            yield
        except grpc.aio.AioRpcError as error:
            raise translate(error, self._connection, unfinished) from error

    def _warn(self) -> None:
        """Say that the connection is lost, once for all calls until an answer arrives."""
        if not self._lost:
            address, patience = self._connection.address, self._connection.patience
            log.warning(
                "the connection to the server %s is lost; trying again for %g s", address, patience
            )
        self._lost = True


def come_back(name: str) -> str:
    """Say how to come back to an adaptation whose server no longer answers."""
    return (
        f"{name} continues, at the latest when its server runs again. Come back to it with "
        f"`metanas adaptations watch {bare(name)}`, or `client.adaptation({name!r})` in Python."
    )


def fetch_later(name: str) -> str:
    """Say how to download a model whose server no longer answers."""
    return f"{name} stays on the server. Fetch it later with `metanas models get {bare(name)}`."


class Pause:
    """Growing pauses between attempts, within `patience` seconds from the first interruption."""

    def __init__(self, patience: float) -> None:
        self._patience = patience
        self._end: float | None = None
        self._length = FIRST_PAUSE

    def fits(self) -> bool:
        """Return True if the next pause fits into the time; call it after an interruption."""
        now = asyncio.get_running_loop().time()
        if self._end is None:  # silence before the interruption does not count
            self._end = now + self._patience
        return now + self._length < self._end

    async def wait(self) -> None:
        """Wait before the next attempt."""
        await asyncio.sleep(self._length)
        self._length = min(2 * self._length, LONGEST_PAUSE)


def verified(info: ModelInfo, data: bytes) -> bytes:
    """Return the bytes if size and SHA-256 are as announced.

    Raises:
        DownloadDamaged: they are not.
    """
    digest = hashlib.sha256(data).hexdigest()
    if len(data) != info.size or digest != info.sha256:
        raise damaged(info, f"{len(data)} bytes with sha256 {digest}")
    return data


def damaged(info: ModelInfo, fault: str) -> DownloadDamaged:
    """Make the error of a download that differs from its announcement."""
    return DownloadDamaged(
        "DOWNLOAD_DAMAGED",
        f"{info.name} did not arrive as announced ({info.size} bytes with sha256 {info.sha256}): "
        f"{fault}. Try again; if the error repeats, the server's store is damaged.",
    )

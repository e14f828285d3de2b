"""Requests by hand for the tests of the server, and errors taken apart."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from typing import Any

import grpc
import numpy as np
import PIL.Image
import pytest
from google.rpc import error_details_pb2
from grpc import aio
from grpc_status import rpc_status  # type: ignore[import-untyped]

from metanas_protos.v1 import (
    adaptation_pb2,
    adaptation_service_pb2,
    adaptation_service_pb2_grpc,
    checkpoint_service_pb2_grpc,
    example_pb2,
    model_pb2,
    model_service_pb2,
    model_service_pb2_grpc,
)
from metanas_protos.v1.adaptation_pb2 import Adaptation, AdaptationOptions, AdaptationSpec
from metanas_protos.v1.adaptation_service_pb2 import (
    CreateAdaptationRequest,
    WatchAdaptationRequest,
    WatchAdaptationResponse,
)
from metanas_protos.v1.example_pb2 import Example, RawTensor
from metanas_protos.v1.failure_pb2 import Failure

SECONDS = 60
LONG = AdaptationOptions(steps=500, tuning_steps=500)
"""Options of an adaptation that takes longer than any test."""


@dataclass(frozen=True)
class Answer:
    """A successful adaptation: all events of its watch, its final state, the model, its bytes."""

    events: list[WatchAdaptationResponse]
    adaptation: Adaptation
    model: model_pb2.Model
    onnx: bytes


class Api:
    """The stubs of a channel."""

    def __init__(self, channel: grpc.Channel) -> None:
        self.channel = channel
        self.adaptations = adaptation_service_pb2_grpc.AdaptationServiceStub(channel)
        self.models = model_service_pb2_grpc.ModelServiceStub(channel)
        self.checkpoints = checkpoint_service_pb2_grpc.CheckpointServiceStub(channel)

    def adapt(self, spec: AdaptationSpec, examples: Iterable[Example]) -> Answer:
        """Create an adaptation, watch it to its end, and download the model."""
        events = list(self.watch(self.create(spec, examples).name))
        ended = events[-1].adaptation
        assert ended.state == SUCCEEDED, ended.failure
        onnx = b"".join(chunk.data for chunk in self.download(ended.model))
        return Answer(events, ended, self.model(ended.model), onnx)

    def create(self, spec: AdaptationSpec, examples: Iterable[Example]) -> Adaptation:
        request = parts(spec, examples)
        return self.adaptations.CreateAdaptation(request, timeout=SECONDS).adaptation

    def failure(self, spec: AdaptationSpec, examples: Iterable[Example]) -> Failure:
        """Create an adaptation and wait until it has failed."""
        ended = self.end_of(self.create(spec, examples).name)
        assert ended.state == FAILED
        return ended.failure

    def get(self, name: str) -> Adaptation:
        request = adaptation_service_pb2.GetAdaptationRequest(name=name)
        return self.adaptations.GetAdaptation(request, timeout=SECONDS).adaptation

    def cancel(self, name: str) -> Adaptation:
        request = adaptation_service_pb2.CancelAdaptationRequest(name=name)
        return self.adaptations.CancelAdaptation(request, timeout=SECONDS).adaptation

    def watch(self, name: str, after: int = 0) -> Iterator[WatchAdaptationResponse]:
        request = WatchAdaptationRequest(name=name, after_sequence=after)
        return iter(self.adaptations.WatchAdaptation(request, timeout=SECONDS))

    def end_of(self, name: str) -> Adaptation:
        """Wait for the end of an adaptation; returns its final state."""
        *_, last = self.watch(name)
        return last.adaptation

    def until_running(self, name: str) -> None:
        """Wait until an adaptation's steps are going on."""
        next(event for event in self.watch(name) if event.progress.stage == "adapt")

    def model(self, name: str) -> model_pb2.Model:
        request = model_service_pb2.GetModelRequest(name=name)
        return self.models.GetModel(request, timeout=SECONDS).model

    def download(
        self, name: str, offset: int = 0, variant: model_pb2.ModelVariant | None = None
    ) -> list[model_pb2.ModelChunk]:
        request = model_service_pb2.DownloadModelRequest(name=name, offset=offset, variant=variant)
        return [part.chunk for part in self.models.DownloadModel(request, timeout=SECONDS)]

    def serves(self) -> None:
        """The next request is served."""
        assert self.adapt(spec(), images()).onnx


class _WithToken:
    """A channel whose calls carry a token."""

    def __init__(self, channel: grpc.Channel, token: str) -> None:
        self._channel = channel
        self._metadata = (("authorization", f"Bearer {token}"),)

    def __getattr__(self, shape: str) -> Any:
        """Return the constructor of calls of a shape, for instance `unary_unary`."""
        make = getattr(self._channel, shape)
        return lambda *given, **named: partial(make(*given, **named), metadata=self._metadata)


def with_token(channel: grpc.Channel, token: str) -> Any:
    """Return a channel whose calls carry this token."""
    return _WithToken(channel, token)


async def create(channel: aio.Channel, spec: AdaptationSpec, examples: Iterable[Example]) -> str:
    """Create an adaptation in an event loop; returns its name."""
    stub = adaptation_service_pb2_grpc.AdaptationServiceStub(channel)
    return (await stub.CreateAdaptation(parts(spec, examples))).adaptation.name


async def end_of(channel: aio.Channel, name: str) -> Adaptation:
    """Wait for the end of an adaptation in an event loop; returns its final state."""
    stub = adaptation_service_pb2_grpc.AdaptationServiceStub(channel)
    call = stub.WatchAdaptation(WatchAdaptationRequest(name=name))
    return [event async for event in call][-1].adaptation


def parts(spec: AdaptationSpec, examples: Iterable[Example]) -> Iterator[CreateAdaptationRequest]:
    """The messages of a request."""
    yield CreateAdaptationRequest(spec=spec)
    for example in examples:
        yield CreateAdaptationRequest(example=example)


def spec(**fields: Any) -> AdaptationSpec:
    return AdaptationSpec(**{"checkpoint": "checkpoints/grey", **fields})


def image(label: str, seed: int = 0, size: int = 12) -> Example:
    pixels = np.random.default_rng(seed).integers(0, 256, (size, size, 1), dtype=np.uint8)
    tensor = RawTensor(
        shape=pixels.shape, type=example_pb2.TENSOR_TYPE_UINT8, data=pixels.tobytes()
    )
    return Example(label=label.encode(), tensor=tensor)


def picture(label: str, side: int) -> Example:
    """A small file of a large grey image."""
    file = BytesIO()
    PIL.Image.new("L", (side, side), side % 256).save(file, "PNG")
    return Example(label=label.encode(), encoded=file.getvalue())


def images(labels: tuple[str, ...] = ("a", "b"), seed: int = 0) -> list[Example]:
    """Two examples of each class."""
    return [image(label, seed + i) for i, label in enumerate(labels * 2)]


@dataclass(frozen=True)
class Refusal:
    """An error as the caller sees it."""

    code: grpc.StatusCode
    reason: str
    message: str
    violations: list[tuple[str, str]]
    retry_seconds: float | None
    metadata: dict[str, str]


def refusal_of(call: grpc.RpcError) -> Refusal:
    status = rpc_status.from_call(call)
    assert status is not None, f"no details: {call}"
    info = _detail(status.details, error_details_pb2.ErrorInfo())
    request = _detail(status.details, error_details_pb2.BadRequest())
    retry = _detail(status.details, error_details_pb2.RetryInfo())
    assert info is not None
    assert info.domain == "metanas"
    return Refusal(
        code=call.code(),
        reason=info.reason,
        message=status.message,
        violations=[(v.field, v.reason) for v in request.field_violations] if request else [],
        retry_seconds=retry.retry_delay.ToMilliseconds() / 1000 if retry else None,
        metadata=dict(info.metadata),
    )


def refused(do: Any, *arguments: Any) -> Refusal:
    """Calls and expects to be refused."""
    with pytest.raises(grpc.RpcError) as caught:
        do(*arguments)
    return refusal_of(caught.value)


def _detail(details: Iterable[Any], empty: Any) -> Any:
    for detail in details:
        if detail.Unpack(empty):
            return empty
    return None


QUEUED = adaptation_pb2.ADAPTATION_STATE_QUEUED
RUNNING = adaptation_pb2.ADAPTATION_STATE_RUNNING
SUCCEEDED = adaptation_pb2.ADAPTATION_STATE_SUCCEEDED
FAILED = adaptation_pb2.ADAPTATION_STATE_FAILED
CANCELLED = adaptation_pb2.ADAPTATION_STATE_CANCELLED

"""Tokens, and servers that would be open to the world. TLS is tested with the client."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1.health_pb2 import HealthCheckResponse
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from metanas_protos.inference.inference_service_pb2 import ModelReadyRequest
from metanas_protos.v1.adaptation_service_pb2 import WatchAdaptationRequest
from metanas_protos.v1.checkpoint_service_pb2 import ListCheckpointsRequest
from metanas_protos.v1.model_service_pb2 import DownloadModelRequest
from metanas_server.callers import tokens
from metanas_server.callers.tokens import Role
from tests.server.calls import images, parts, refusal_of, refused, spec
from tests.server.processes import ServerProcess, serving
from tests.server.queries import Queries


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The token file."""
    return tmp_path_factory.mktemp("guarded") / "tokens"


@pytest.fixture(scope="module")
def token(path: Path) -> str:
    return tokens.create(path, "workshop", Role.USE)


@pytest.fixture(scope="module")
def guarded(checkpoints: Path, path: Path, token: str) -> Iterator[ServerProcess]:
    with serving(checkpoints, path.parent / "data", "--token-file", str(path)) as server:
        yield server


@pytest.mark.parametrize(
    "metadata",
    [
        (),
        (("authorization", "{token}"),),
        (("authorization", "Bearer"),),
        (("authorization", "Bearer wrong"),),
        (("authorization", "Bearer workshop"),),
        (("authorization", "Bearer {digest}"),),
        (("authorization", "Bearer {token}x"),),
        (("authorization", "Bearer {token} {token}"),),
        (("authorization-bin", b"\xff"),),
    ],
)
def test_calls_without_a_valid_token_are_refused(
    guarded: ServerProcess, token: str, metadata: Any
) -> None:
    api, digest = guarded.api, tokens.digest_of(token.encode())
    metadata = [
        (key, value if isinstance(value, bytes) else value.format(token=token, digest=digest))
        for key, value in metadata
    ]
    for do in (
        lambda: api.checkpoints.ListCheckpoints(ListCheckpointsRequest(), metadata=metadata),
        lambda: list(api.models.DownloadModel(DownloadModelRequest(), metadata=metadata)),
        lambda: list(api.adaptations.WatchAdaptation(WatchAdaptationRequest(), metadata=metadata)),
        lambda: api.adaptations.CreateAdaptation(parts(spec(), images()), metadata=metadata),
    ):
        answer = refused(do)
        assert (answer.code, answer.reason) == (
            grpc.StatusCode.UNAUTHENTICATED,
            "UNAUTHENTICATED",
        )
        assert token not in answer.message


def test_health_checks_need_no_token(guarded: ServerProcess) -> None:
    assert next(guarded.health()) == HealthCheckResponse.SERVING


def services(server: ServerProcess, metadata: Any = ()) -> set[str]:
    stub: Any = reflection_pb2_grpc.ServerReflectionStub(server.channel)
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    (answer,) = stub.ServerReflectionInfo(iter([request]), metadata=metadata)
    return {service.name for service in answer.list_services_response.service}


def test_reflection_lists_the_services(server: ServerProcess) -> None:
    assert services(server) == {
        "grpc.health.v1.Health",
        "grpc.reflection.v1alpha.ServerReflection",
        "inference.GRPCInferenceService",
        "metanas.v1.AdaptationService",
        "metanas.v1.CheckpointService",
        "metanas.v1.ModelService",
    }


def test_reflection_describes_the_services_of_each_pool(server: ServerProcess) -> None:
    stub: Any = reflection_pb2_grpc.ServerReflectionStub(server.channel)
    for symbol in services(server):
        request = reflection_pb2.ServerReflectionRequest(file_containing_symbol=symbol)
        (answer,) = stub.ServerReflectionInfo(iter([request]))
        assert answer.file_descriptor_response.file_descriptor_proto, symbol


def test_queries_need_the_token_too(guarded: ServerProcess, token: str) -> None:
    ready = Queries(guarded.channel).stub.ModelReady
    answer = refused(ready, ModelReadyRequest(name="none"))
    assert answer.reason == "UNAUTHENTICATED"
    metadata = (("authorization", f"Bearer {token}"),)
    assert not ready(ModelReadyRequest(name="none"), metadata=metadata).ready


def test_reflection_needs_the_token_too(guarded: ServerProcess, token: str) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        services(guarded)
    assert refusal_of(caught.value).reason == "UNAUTHENTICATED"
    assert services(guarded, (("authorization", f"Bearer {token}"),))


def test_beyond_loopback_when_it_is_asked_for(checkpoints: Path, tmp_path: Path) -> None:
    flags = ("--listen=0.0.0.0:0", "--insecure-listen", "--no-reflection")
    with serving(checkpoints, tmp_path / "data", *flags) as server:
        server.api.serves()
        with pytest.raises(grpc.RpcError) as caught:
            services(server)
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED

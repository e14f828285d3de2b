"""Tokens, and servers that would be open to the world. TLS is tested with the client."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1.health_pb2 import HealthCheckResponse
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from metanas_protos.v1.adaptation_service_pb2 import WatchAdaptationRequest
from metanas_protos.v1.checkpoint_service_pb2 import ListCheckpointsRequest
from metanas_protos.v1.model_service_pb2 import DownloadModelRequest
from tests.server.calls import images, parts, refusal_of, refused, spec
from tests.server.processes import ServerProcess, serving

TOKEN, SECOND = "correct-horse-battery", "staple"


@pytest.fixture(scope="module")
def guarded(checkpoints: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("guarded")
    (folder / "token").write_text(f"# workshop\n{TOKEN}\n\n {SECOND}\n")
    with serving(checkpoints, folder / "data", "--token-file", str(folder / "token")) as server:
        yield server


@pytest.mark.parametrize(
    "metadata",
    [
        (),
        (("authorization", TOKEN),),
        (("authorization", "Bearer"),),
        (("authorization", "Bearer wrong"),),
        (("authorization", "Bearer workshop"),),
        (("authorization", "Bearer #"),),
        (("authorization", f"Bearer {TOKEN}x"),),
        (("authorization", f"Bearer {TOKEN} {SECOND}"),),
        (("authorization-bin", b"\xff"),),
    ],
)
def test_calls_without_a_valid_token_are_refused(guarded: ServerProcess, metadata: Any) -> None:
    api = guarded.api
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
        assert TOKEN not in answer.message


@pytest.mark.parametrize("token", [TOKEN, SECOND])
def test_each_token_is_accepted(guarded: ServerProcess, token: str) -> None:
    metadata = (("authorization", f"Bearer {token}"),)
    create = guarded.api.adaptations.CreateAdaptation
    assert create(parts(spec(), images()), metadata=metadata).adaptation.name


def test_health_checks_need_no_token(guarded: ServerProcess) -> None:
    assert next(guarded.health()) == HealthCheckResponse.SERVING


@pytest.mark.parametrize("mode", [0o600, 0o644])
def test_a_token_file_that_others_can_read_is_named_in_the_log(
    checkpoints: Path, tmp_path: Path, mode: int
) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text(TOKEN)
    tokens.chmod(mode)
    with serving(checkpoints, tmp_path / "data", "--token-file", str(tokens)):
        log = (tmp_path / "data.log").read_text(encoding="utf-8")
    assert (f"run: chmod 600 {tokens}" in log) == (mode == 0o644)


def services(server: ServerProcess, metadata: Any = ()) -> set[str]:
    stub: Any = reflection_pb2_grpc.ServerReflectionStub(server.channel)
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    (answer,) = stub.ServerReflectionInfo(iter([request]), metadata=metadata)
    return {service.name for service in answer.list_services_response.service}


def test_reflection_lists_the_services(server: ServerProcess) -> None:
    assert services(server) == {
        "grpc.health.v1.Health",
        "grpc.reflection.v1alpha.ServerReflection",
        "metanas.v1.AdaptationService",
        "metanas.v1.CheckpointService",
        "metanas.v1.ModelService",
    }


def test_reflection_needs_the_token_too(guarded: ServerProcess) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        services(guarded)
    assert refusal_of(caught.value).reason == "UNAUTHENTICATED"
    assert services(guarded, (("authorization", f"Bearer {TOKEN}"),))


def test_beyond_loopback_when_it_is_asked_for(checkpoints: Path, tmp_path: Path) -> None:
    flags = ("--listen=0.0.0.0:0", "--insecure-listen", "--no-reflection")
    with serving(checkpoints, tmp_path / "data", *flags) as server:
        server.api.serves()
        with pytest.raises(grpc.RpcError) as caught:
            services(server)
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED

"""Callers who leave in the middle of a stream: the server goes on, and logs them."""

import json
from pathlib import Path

import grpc

from metanas_protos.v1.adaptation_service_pb2 import WatchAdaptationRequest
from metanas_protos.v1.model_service_pb2 import DownloadModelRequest
from tests.server.calls import Api, images, spec
from tests.server.processes import ServerProcess, serving

TIMES = 40
SLOW = (("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 1))
"""Options of a channel whose server waits until a message is read."""


def leave(server: ServerProcess, adaptation: str, model: str) -> None:
    """Open streams, read the first message of each, and drop the connection."""
    with grpc.insecure_channel(server.address, options=SLOW) as channel:
        api = Api(channel)
        watch = api.adaptations.WatchAdaptation(WatchAdaptationRequest(name=adaptation))
        download = api.models.DownloadModel(DownloadModelRequest(name=model))
        for stream in (watch, download):
            next(iter(stream))


def test_streams_that_are_left(checkpoints: Path, tmp_path: Path) -> None:
    """gRPC ends such a call before the method, which must not ask it for its caller then."""
    audit = tmp_path / "audit"
    with serving(checkpoints, tmp_path / "data", "--audit-log", str(audit)) as server:
        ended = server.api.end_of(server.api.create(spec(), images()).name)
        for _ in range(TIMES):
            leave(server, ended.name, ended.model)
            assert server.is_serving()
        server.api.serves()
    lines = [json.loads(line) for line in audit.read_text(encoding="utf-8").splitlines()]
    assert {line["caller"] for line in lines} == {"ipv4:127.0.0.1"}

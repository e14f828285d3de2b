"""Callers who leave in the middle of a stream, and calls without a readable method."""

import json
import socket
from pathlib import Path
from random import Random

import grpc

from metanas_protos.v1.adaptation_service_pb2 import WatchAdaptationRequest
from metanas_protos.v1.model_service_pb2 import DownloadModelRequest
from tests.server.calls import Api, images, spec
from tests.server.fuzz_bytes import call_frames
from tests.server.processes import ServerProcess, serving
from tests.server.soak_calls import HELLO

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


def test_a_path_that_is_not_utf8(server: ServerProcess) -> None:
    """Such a call must not end the server: gRPC 1.84 and 1.85 stop listening."""
    host, _, port = server.address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=60) as connection:
        connection.sendall(HELLO + call_frames(Random(0), b"/\x80/GetModel", b""))
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(65536):
            pass
    with grpc.insecure_channel(server.address) as channel:
        Api(channel).serves()

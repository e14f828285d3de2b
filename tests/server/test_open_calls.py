"""Limits of connections and of calls in progress."""

import socket
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest
from grpc_health.v1.health_pb2 import HealthCheckResponse

from metanas_protos.v1.checkpoint_service_pb2 import ListCheckpointsRequest
from metanas_server.callers import tokens
from metanas_server.callers.open_calls import OpenCalls
from metanas_server.callers.tokens import Role
from metanas_server.errors import Overloaded
from tests.server.calls import LONG, Api, images, refused, spec
from tests.server.processes import serving


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def listed(api: Api) -> bool:
    return bool(api.checkpoints.ListCheckpoints(ListCheckpointsRequest()).checkpoints)


def test_streams_of_one_caller_and_of_all(checkpoints: Path, tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    one, two = (tokens.create(path, name, Role.USE) for name in ("one", "two"))
    flags = ("--token-file", str(path), "--max-calls=3", "--max-calls-per-caller=2", "--grace=0")
    with serving(checkpoints, tmp_path / "data", *flags) as server:
        greedy, modest = server.api_of(one), server.api_of(two)
        name = greedy.create(spec(options=LONG), images()).name
        streams = [greedy.watch(name) for _ in range(2)]
        for stream in streams:
            next(stream)
        answer = refused(lambda: listed(greedy))
        assert (answer.reason, bool(answer.retry_seconds)) == ("CALLS_FULL", True)
        theirs = modest.watch(modest.create(spec(options=LONG), images()).name)
        next(theirs)
        assert refused(lambda: listed(modest)).reason == "CALLS_FULL"
        health = [server.health() for _ in range(2)]
        assert [next(each) for each in health] == [HealthCheckResponse.SERVING] * 2
        assert refused(lambda: next(server.health())).reason == "CALLS_FULL"
        streams[0].cancel()  # type: ignore[attr-defined]
        until(lambda: not _is_refused(modest))


def _is_refused(api: Api) -> bool:
    try:
        return not listed(api)
    except Exception as error:
        assert "too many calls" in str(error)  # noqa: PT017
        return True


def test_connections(checkpoints: Path, tmp_path: Path) -> None:
    with serving(checkpoints, tmp_path / "data", "--max-connections=3") as server:
        server.api.serves()  # its channel is the first
        host, _, port = server.address.rpartition(":")
        with ExitStack() as opened:
            idle = [
                opened.enter_context(socket.create_connection((host, int(port)), timeout=60))
                for _ in range(2)
            ]
            for each in idle:
                assert each.recv(9)  # the settings of HTTP/2
            refusal = opened.enter_context(socket.create_connection((host, int(port)), timeout=60))
            assert not _bytes_of(refusal)
            server.api.serves()


def _bytes_of(connection: socket.socket) -> bytes:
    try:
        return connection.recv(9)
    except ConnectionResetError:
        return b""


def test_calls_are_forgotten_at_their_end() -> None:
    calls = OpenCalls(2, 1)
    with calls.hold_probe("one"), calls.hold("one"), calls.hold("two"):
        for full in (calls.hold("one"), calls.hold("three"), calls.hold_probe("one")):
            with pytest.raises(Overloaded), full:
                pass
        with calls.hold_probe("two"):
            pass
    with calls.hold("one"), calls.hold("three"):
        pass

"""The server as a value within another program: built, started and stopped in its event loop."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from grpc import aio

from metanas.checkpoint import load_checkpoint
from metanas.errors import CheckpointError, MetanasError
from metanas.nn.ops import OPS
from metanas_protos.v1.model_service_pb2 import GetModelRequest
from metanas_protos.v1.model_service_pb2_grpc import ModelServiceStub
from metanas_server.app import Server
from metanas_server.config import ServerConfig
from metanas_server.errors import StartError
from tests.server.calls import create, end_of, images, spec


@pytest.fixture
def config(checkpoints: Path, tmp_path: Path) -> ServerConfig:
    return ServerConfig(
        checkpoints=checkpoints,
        data=tmp_path / "data",
        listen="127.0.0.1:0",
        devices=("cpu",),
        threads=1,
    )


async def adapt(port: int) -> str:
    """The digest of a model that the server at this port makes."""
    async with aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        ended = await end_of(channel, await create(channel, spec(), images()))
        answer = await ModelServiceStub(channel).GetModel(GetModelRequest(name=ended.model))
    return answer.model.sha256


async def test_a_server_starts_and_stops_again_and_again(config: ServerConfig) -> None:
    digests = set[str]()
    for _ in range(2):
        async with Server(config) as server:
            assert server.checkpoints == ("colour", "grey")
            digests.add(await adapt(server.port))
    assert len(digests) == 1


async def test_workers_load_checkpoints_with_a_function_of_the_caller(config: ServerConfig) -> None:
    """The worker processes get an operation of an extension as a value."""
    mine = {**OPS, "mine": OPS["skip_connect"]}
    async with Server(config, load=partial(load_checkpoint, ops=mine)) as server:
        assert await adapt(server.port)


async def test_an_operation_that_the_workers_do_not_know(config: ServerConfig) -> None:
    server = Server(config, load=partial(load_checkpoint, ops={}))
    with pytest.raises(MetanasError) as caught:
        await server.start()
    assert caught.value.reason == "UNKNOWN_OP"


async def test_a_failed_start_leaves_nothing_open(config: ServerConfig, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    broken = replace(config, checkpoints=tmp_path / "empty")
    with pytest.raises((StartError, CheckpointError)):
        await Server(broken).start()
    async with Server(config) as server:  # the folder's lock is free
        assert await adapt(server.port)

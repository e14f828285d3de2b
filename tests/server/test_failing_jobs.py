"""Errors that a running job raises: each ends its job only, with a status that fits."""

import shutil
from pathlib import Path

import grpc
from grpc import aio

from metanas_server.app import Server
from metanas_server.config import ServerConfig
from tests.server import failing
from tests.server.calls import SUCCEEDED, create, end_of, images, spec


async def test_an_error_of_a_running_job_ends_that_job_only(
    checkpoints: Path, tmp_path: Path
) -> None:
    shutil.copytree(checkpoints / "grey", tmp_path / "checkpoints" / "grey")
    for name in failing.ERRORS:
        shutil.copytree(checkpoints / "grey", tmp_path / "checkpoints" / name)
    config = ServerConfig(
        checkpoints=tmp_path / "checkpoints",
        data=tmp_path / "data",
        listen="127.0.0.1:0",
        devices=("cpu",),
        threads=1,
    )
    async with (
        Server(config, load=failing.while_running) as server,
        aio.insecure_channel(f"127.0.0.1:{server.port}") as channel,
    ):
        before = server.worker_pids
        failures = {}
        for checkpoint in failing.ERRORS:
            name = await create(channel, spec(checkpoint=checkpoint), images())
            failures[checkpoint] = (await end_of(channel, name)).failure
        name = await create(channel, spec(), images())
        assert (await end_of(channel, name)).state == SUCCEEDED
        assert server.worker_pids == before
    internal, not_found = (
        each.value[0] for each in (grpc.StatusCode.INTERNAL, grpc.StatusCode.NOT_FOUND)
    )
    assert {name: (each.code, each.reason) for name, each in failures.items()} == {
        "mute": (internal, "INTERNAL"),
        "odd": (internal, "ODD"),
        "table": (not_found, "UNKNOWN_TABLE"),
        "zero": (internal, "INTERNAL"),
    }
    assert failures["odd"].message == "odd: running"
    assert failures["table"].message == "there is no table named 'c'; known: a, b"

"""A server that dies: the client says so at once, and in the end how to come back."""

import asyncio
import logging
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from metanas_client import AsyncClient, Client, Unavailable
from tests.client.conftest import ENVIRONMENT, server_process
from tests.client.proxy import cutting

SUPPORT = {"a": [np.zeros((9, 9), np.uint8)], "b": [np.full((9, 9), 255, np.uint8)]}
SHORT, LONG = {"steps": 0, "tuning_steps": 0}, {"steps": 500}


@pytest.fixture
def dying(checkpoints: Path, tmp_path: Path) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """The address of a server, and its process."""
    with server_process(checkpoints, tmp_path / "data") as server:
        yield server


def lost(caplog: pytest.LogCaptureFixture) -> list[str]:
    """The warnings of lost connections."""
    return [each.message for each in caplog.records if "is lost" in each.message]


def comes_back(error: object, name: str) -> bool:
    """True if an error says how to come back to an adaptation."""
    bare = name.removeprefix("adaptations/")
    parts = (
        f"{name} continues",
        f"`metanas adaptations watch {bare}`",
        f"`client.adaptation('{name}')`",
    )
    return all(part in str(error) for part in parts)


def test_a_dead_server_is_told_and_the_way_back(
    dying: tuple[str, subprocess.Popen[str]],
    folder: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The client in Python, and the command line, which is interrupted."""
    address, server = dying
    warning = f"the connection to the server {address} is lost; trying again for"
    command = [sys.executable, "-m", "metanas_client", "adapt", str(folder), "--steps=500"]
    command += [f"--server={address}", f"--out={tmp_path / 'm.onnx'}"]
    with (
        Client(address, patience=2) as client,
        caplog.at_level(logging.WARNING),
        subprocess.Popen(
            command, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process,
    ):
        model = client.adapt(SUPPORT, options=SHORT).result().name
        adaptation = client.adapt(SUPPORT, options=LONG)
        progress = adaptation.progress()
        next(progress)
        names: list[str] = []
        while not names:
            names = [each.name for each in client.adaptations() if each.examples == 6]
        next(client.adaptation(names[0]).progress())

        server.kill()
        with pytest.raises(Unavailable) as caught:
            list(progress)
        assert lost(caplog) == [f"{warning} 2 s"]
        assert comes_back(caught.value, adaptation.name)
        with pytest.raises(Unavailable) as caught:
            client.model(model)
        assert f"`metanas models get {model.removeprefix('models/')}`" in str(caught.value)

        assert process.stderr is not None
        assert process.stderr.readline() == f"{warning} 30 s\n"
        process.send_signal(signal.SIGINT)
        said = process.stderr.read()
        assert process.wait(60) == 3
    assert comes_back(said, names[0])
    assert "Traceback" not in said


async def test_the_asynchronous_client_tells_the_same(
    dying: tuple[str, subprocess.Popen[str]], caplog: pytest.LogCaptureFixture
) -> None:
    address, server = dying
    async with AsyncClient(address, patience=1) as client:
        handles = [await client.adapt(SUPPORT, options=LONG, seed=seed) for seed in range(2)]
        server.kill()
        errors = await asyncio.gather(*(each.result() for each in handles), return_exceptions=True)
    for handle, error in zip(handles, errors, strict=True):
        assert isinstance(error, Unavailable)
        assert comes_back(error, handle.name)
    assert len(lost(caplog)) == 1  # for all calls of a client


def test_an_answer_ends_a_loss(server: str, folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    with Client(server) as client:
        whole = client.adapt(folder, options=SHORT).result()
        with cutting(server, [6000, 6000]) as (address, proxy), Client(address) as other:
            assert other.model(whole.name).onnx == whole.onnx
        assert proxy.connections == 3
    assert 1 <= len(lost(caplog)) <= 2

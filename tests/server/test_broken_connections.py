"""Connections that break in the middle of an answer: the server goes on."""

from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from tests.client.proxy import cutting
from tests.server.calls import LONG, Api, images, spec
from tests.server.processes import ServerProcess

ROUNDS = 12


@pytest.fixture(scope="module")
def flags(data: Path) -> tuple[str, ...]:
    return ("--access-log", f"--audit-log={data.with_name('audit')}", "--grace=0")


@pytest.fixture(scope="module")
def model(api: Api) -> str:
    return api.adapt(spec(), images()).adaptation.model


def broken(server: ServerProcess, budget: int) -> Iterator[Api]:
    """Yield stubs whose connection breaks after so many bytes of answers."""
    with cutting(server.address, [budget]) as (address, _), grpc.insecure_channel(address) as cut:
        yield Api(cut)


@pytest.mark.parametrize("budget", range(2000, 8000, 500))
def test_downloads(server: ServerProcess, model: str, budget: int) -> None:
    for api in broken(server, budget):
        with pytest.raises(grpc.RpcError):
            api.download(model)
    assert server.is_serving()


def test_watches(server: ServerProcess, api: Api) -> None:
    name = api.create(spec(options=LONG), images()).name
    for budget in range(600, 1800, 100):
        for cut in broken(server, budget):
            with pytest.raises(grpc.RpcError):
                list(cut.watch(name))
    api.cancel(name)
    assert server.is_serving()

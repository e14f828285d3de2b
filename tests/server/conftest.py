"""Fixtures of the tests of the server: tiny checkpoints, and a server for each module."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from metanas.spec.options import AdaptConfig
from metanas.testing import make_checkpoint
from tests.server.calls import Api
from tests.server.databases import Postgres, running_postgres
from tests.server.processes import ServerProcess, serving
from tests.server.s3 import Bucket, s3_server


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the untrained checkpoints `colour` (RGB) and `grey`."""
    root = tmp_path_factory.mktemp("checkpoints")
    options = AdaptConfig(steps=2, tuning_steps=1, patience=0)  # LONG sets more
    make_checkpoint(root / "grey", channels=1, options=options)
    make_checkpoint(root / "colour", channels=3, options=options)
    return root


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data folder of the module's server."""
    return tmp_path_factory.mktemp("server") / "data"


@pytest.fixture(scope="session")
def bucket() -> Iterator[Bucket]:
    """A bucket of an S3 server."""
    pytest.importorskip("moto", reason="needs an S3 server: make install")
    with s3_server() as running:
        yield running


@pytest.fixture(scope="module")
def flags() -> tuple[str, ...]:
    """Flags of the module's server; a module that needs some has a fixture of the same name."""
    return ()


@pytest.fixture(scope="module")
def server(checkpoints: Path, data: Path, flags: tuple[str, ...]) -> Iterator[ServerProcess]:
    """The server of a whole module."""
    with serving(checkpoints, data, *flags) as running:
        yield running


@pytest.fixture(scope="module")
def api(server: ServerProcess) -> Api:
    """Its stubs."""
    return server.api


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A PostgreSQL server for all tests of the process; a test creates a database of its own."""
    with running_postgres() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of an empty database of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/records.sqlite3"
    postgres: Postgres = request.getfixturevalue("postgres")
    return postgres.create()

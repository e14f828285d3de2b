"""A server whose records are in PostgreSQL, which is locked, killed and started again."""

import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import grpc
import psycopg
import pytest
from grpc_health.v1.health_pb2 import HealthCheckResponse

from metanas_protos.v1.adaptation_pb2 import AdaptationOptions
from metanas_server.records.address import open_database, read_address
from metanas_server.records.records import Records
from tests.server.calls import LONG, SUCCEEDED, images, refused, spec
from tests.server.databases import Postgres
from tests.server.processes import ServerProcess, attempt, maintain, serving

SERVING, NOT_SERVING = HealthCheckResponse.SERVING, HealthCheckResponse.NOT_SERVING
WRITES = "metanas.v1.AdaptationService"
SOME = AdaptationOptions(steps=30)


@pytest.fixture(scope="module")
def records(postgres: Postgres) -> str:
    return postgres.create()


@pytest.fixture(scope="module")
def server(checkpoints: Path, data: Path, records: str) -> Iterator[ServerProcess]:
    with serving(checkpoints, data, f"--records={records}", "--max-stack=1") as running:
        yield running


def test_a_locked_table(server: ServerProcess, records: str) -> None:
    api = server.api
    done = api.end_of(api.create(spec(), images()).name)
    assert done.state == SUCCEEDED
    health = server.health(WRITES)
    assert next(health) == SERVING
    with psycopg.connect(records) as other:
        other.execute("LOCK TABLE loose_files")
        answer = refused(api.create, spec(), images())
        assert (answer.code, answer.reason) == (grpc.StatusCode.UNAVAILABLE, "STORE_BUSY")
        assert answer.retry_seconds
        assert next(health) == NOT_SERVING
        assert api.get(done.name) == done  # reading goes on
        assert api.download(done.model)
    assert next(health) == SERVING
    assert api.end_of(api.create(spec(seed=2), images()).name).state == SUCCEEDED


def test_a_killed_database(server: ServerProcess, postgres: Postgres, data: Path) -> None:
    log = data.with_suffix(".log")
    api = server.api
    running = api.create(spec(options=SOME, seed=78), images()).name
    waiting = api.create(spec(seed=3), images()).name
    api.until_running(running)
    health = server.health(WRITES)
    assert next(health) == SERVING
    postgres.kill()
    try:
        for call in (lambda: api.create(spec(), images()), lambda: api.model("models/0")):
            answer = refused(call)
            assert (answer.code, answer.reason) == (grpc.StatusCode.UNAVAILABLE, "STORE_FAILED")
            assert answer.retry_seconds
            assert "127.0.0.1" not in answer.message
        end = time.monotonic() + 120
        while "fronts cannot share the database now" not in log.read_text(encoding="utf-8"):
            assert time.monotonic() < end, "the log does not name the cause"
            time.sleep(0.1)
        while next(health) != NOT_SERVING:
            pass
    finally:
        postgres.start()
    while next(health) != SERVING:
        pass
    for name in (running, waiting):
        ended = api.end_of(name)
        assert ended.state == SUCCEEDED
        assert api.download(ended.model)


def test_the_first_statement_after_a_restart_of_the_database(postgres: Postgres) -> None:
    """It meets a connection that the database has closed."""
    address = read_address(postgres.create(), Path())
    with closing(Records(open_database(address), "front")) as records:
        records.fronts.beat()
        postgres.kill()
        postgres.start()
        assert records.fronts.count() == 1


def test_a_restart_continues(checkpoints: Path, tmp_path: Path, postgres: Postgres) -> None:
    data, flag = tmp_path / "data", f"--records={postgres.create()}"
    with serving(checkpoints, data, flag, "--max-stack=1") as server:
        running = server.api.create(spec(options=LONG), images()).name
        waiting = server.api.create(spec(request_id="r"), images()).name
        server.api.until_running(running)
        server.kill()
    with serving(checkpoints, data, flag, "--max-stack=1") as server:
        assert server.api.create(spec(request_id="r"), images()).name == waiting
        server.api.cancel(running)
        assert server.api.end_of(waiting).state == SUCCEEDED


def test_the_commands(checkpoints: Path, tmp_path: Path, postgres: Postgres) -> None:
    data, records = tmp_path / "data", postgres.create()
    data.mkdir()
    flags = ("--data", str(data), "--records", records)
    assert "version" in maintain("migrate", *flags)
    checks = attempt("doctor", *flags, "--checkpoints", str(checkpoints)).stdout
    assert "0 of 0 files are whole" in checks
    assert maintain("repair", *flags) == "nothing to repair\n"
    for name in ("backup", "restore"):
        refused = attempt(name, str(tmp_path / "copy"), *flags)
        assert (refused.returncode, "pg_dump" in refused.stderr) == (2, True)

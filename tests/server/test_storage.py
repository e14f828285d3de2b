"""Disks that are full, locked databases, damaged files and backups: nothing accepted is lost."""

import hashlib
import resource
import shutil
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import grpc
import pytest
from grpc_health.v1.health_pb2 import HealthCheckResponse

from metanas_protos.v1.adaptation_pb2 import AdaptationOptions
from metanas_protos.v1.adaptation_service_pb2 import DeleteAdaptationRequest
from metanas_server.errors import StartError
from metanas_server.records.address import open_database
from metanas_server.records.records import Records
from tests.server.calls import FAILED, LONG, SUCCEEDED, Api, image, images, refused, spec
from tests.server.databases import locked
from tests.server.processes import ServerProcess, maintain, run, serving

SOME = AdaptationOptions(steps=30)
SERVING, NOT_SERVING = HealthCheckResponse.SERVING, HealthCheckResponse.NOT_SERVING
WRITES, READS = "metanas.v1.AdaptationService", "metanas.v1.ModelService"


@pytest.fixture(scope="module")
def flags() -> tuple[str, ...]:
    return ("--max-stack=1",)


@contextmanager
def largest_file(server: ServerProcess, size: int) -> Iterator[None]:
    """Let the front write no file beyond this size: the kernel refuses as on a full disk."""
    resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
    try:
        yield
    finally:
        unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, unlimited)


def test_a_start_on_a_full_disk_takes_the_reserve(tmp_path: Path) -> None:
    path, reserve = tmp_path / "records.sqlite3", tmp_path / "reserve"
    with closing(Records(open_database(path))) as records:
        records.fill_reserve()
    _, hard = before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        with pytest.raises(StartError, match="make room on its disk") as caught:
            open_database(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert caught.value.reason == "DATA_NOT_WRITABLE"
    assert not reserve.exists()
    open_database(path).close()


def test_a_full_disk_refuses_new_work_and_jobs_wait(
    server: ServerProcess, api: Api, data: Path
) -> None:
    name = api.create(spec(options=SOME, seed=77), images()).name
    api.until_running(name)
    before = set((data / "artefacts").iterdir())
    health = server.health(WRITES)
    assert next(health) == SERVING
    with largest_file(server, 4096):
        big = [image(label, i, size=60) for label in "ab" for i in (1, 2)]
        answer = refused(api.create, spec(), big)
        assert answer.reason in ("STORE_FULL", "STORE_FAILED")
        assert answer.retry_seconds
        assert next(health) == NOT_SERVING
        assert next(server.health(READS)) == next(server.health()) == SERVING
        assert set((data / "artefacts").iterdir()) == before
    assert next(health) == SERVING
    assert api.end_of(name).state == SUCCEEDED
    for path in (data / "artefacts").iterdir():  # nothing half-written
        assert hashlib.sha256(path.read_bytes()).hexdigest() == path.name


def test_a_locked_database(server: ServerProcess, api: Api, data: Path) -> None:
    done = api.end_of(api.create(spec(), images()).name)
    running = api.create(spec(options=SOME, seed=78), images()).name
    waiting = api.create(spec(options=LONG), images()).name
    api.until_running(running)
    health = server.health(WRITES)
    assert next(health) == SERVING
    with locked(data):
        answer = refused(api.create, spec(), images())
        assert (answer.code, answer.reason) == (grpc.StatusCode.UNAVAILABLE, "STORE_BUSY")
        assert answer.retry_seconds
        assert refused(api.cancel, waiting).reason == "STORE_BUSY"
        assert next(health) == NOT_SERVING
        assert api.get(done.name) == done  # reading goes on
        assert api.download(done.model)
    assert next(health) == SERVING
    assert api.end_of(running).state == SUCCEEDED
    api.cancel(waiting)


def test_a_support_set_with_a_flipped_bit(api: Api, data: Path) -> None:
    running = api.create(spec(options=LONG), images()).name
    before = set((data / "artefacts").iterdir())
    waiting = api.create(spec(), images(seed=99)).name
    (file,) = set((data / "artefacts").iterdir()) - before
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    api.cancel(running)
    ended = api.end_of(waiting)
    assert (ended.state, ended.failure.reason) == (FAILED, "ARTEFACT_DAMAGED")
    again = api.create(spec(), images(seed=99)).name
    assert api.end_of(again).state == SUCCEEDED


def test_deletions_on_a_full_disk(checkpoints: Path, tmp_path: Path) -> None:
    """The reserve makes room for the deletion of a record."""
    data = tmp_path / "data"
    with serving(checkpoints, data) as server:
        done = server.api.end_of(server.api.create(spec(), images()).name)
        reserve = data / "reserve"
        assert reserve.stat().st_size == 2**20
        with largest_file(server, 4096):
            request = DeleteAdaptationRequest(name=done.name)
            refused(server.api.adaptations.DeleteAdaptation, request)  # the limit is no full disk
            assert not reserve.exists()
        server.api.adaptations.DeleteAdaptation(request)
        assert refused(server.api.get, done.name).reason == "UNKNOWN_ADAPTATION"
        assert reserve.exists()
        assert server.api.download(done.model)


def test_backups(checkpoints: Path, tmp_path: Path) -> None:
    data, copy = tmp_path / "data", str(tmp_path / "copy")
    with serving(checkpoints, data, "--max-stack=1") as server:
        model = server.api.end_of(server.api.create(spec(), images()).name).model
        file = server.api.download(model)
        running = server.api.create(spec(options=LONG), images()).name
        waiting = server.api.create(spec(seed=3), images()).name
        server.api.until_running(running)
        output = maintain("backup", copy, "--data", str(data))
        assert output == f"copied the database and 2 files to {copy}\n"
        server.api.cancel(running)
        later = server.api.end_of(waiting).model
        assert server.stop() == 0

    shutil.copy(tmp_path / "copy" / "records.sqlite3", data)
    refusal = run(checkpoints, data)
    assert refusal.stderr.rstrip().endswith("(DATABASE_OLDER)")
    lines = maintain("restore", copy, "--data", str(data)).splitlines()
    assert lines[1:] == [
        "restored the database and 2 files",
        f"moved 1 files without a record to {data / 'artefacts' / 'quarantine'}",
    ]
    with serving(checkpoints, data) as server:
        assert server.api.download(model) == file
        server.api.cancel(running)
        assert server.api.end_of(waiting).model == later


def test_the_repair_of_a_damaged_folder(checkpoints: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    with serving(checkpoints, data, "--grace=0") as server:
        model = server.api.end_of(server.api.create(spec(), images()).name).model
        queued = server.api.create(spec(options=LONG), images(seed=5)).name
        digest = server.api.model(model).sha256
        assert server.stop() == 0
    for path in (data / "artefacts").iterdir():
        path.write_bytes(b"damaged")
    lines = maintain("repair", "--data", str(data)).splitlines()
    assert [line.split(":")[0] for line in lines][2:] == [queued]
    assert len(list((data / "artefacts" / "quarantine").iterdir())) == 2
    assert maintain("repair", "--data", str(data)) == f"the file {digest} is gone\n"
    with serving(checkpoints, data) as server:
        assert server.api.get(queued).failure.reason == "ARTEFACT_LOST"
        assert refused(server.api.download, model).reason == "ARTEFACT_LOST"
    (data / "records.sqlite3").write_bytes(b"no database" * 1000)
    assert "moved the former database" in maintain("repair", "--data", str(data))
    with serving(checkpoints, data) as server:
        server.api.serves()

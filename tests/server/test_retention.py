"""Models that are no longer used, and old records of adaptations, are deleted."""

import json
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from metanas_protos.v1.model_service_pb2 import ListModelsRequest
from metanas_server.callers.audit import AuditLog
from metanas_server.jobs.retention import Retention
from metanas_server.records.address import DATABASE
from metanas_server.records.models import ModelLimits
from metanas_server.resources import ModelChange, State
from metanas_server.storage.archive import Archive, open_archive
from metanas_server.storage.artefacts import sha256
from tests.server.calls import Api, images, refused, spec
from tests.server.processes import ServerProcess, serving
from tests.server.queries import Queries, pixels, raw_query
from tests.server.test_parts import MODEL, RECORD

SECOND = 10**9


async def nothing() -> None:
    """Take note of no change."""


@pytest.fixture
async def archive(tmp_path: Path) -> AsyncIterator[Archive]:
    (tmp_path / "data").mkdir()
    archive = open_archive(tmp_path / "data", tmp_path / "data" / DATABASE, nothing)
    yield archive
    await archive.close()


async def store(archive: Archive, id_: str, made: int, onnx: bytes) -> None:
    """Store an ended adaptation and its model, made at this time in seconds."""
    record = await archive.add(replace(RECORD, id=id_), (b"support",))
    ended = replace(record, state=State.SUCCEEDED, end_time=made * SECOND, support="", model=id_)
    digest = sha256((onnx,))
    model = replace(MODEL, id=id_, sha256=digest, size_bytes=len(onnx), create_time=made * SECOND)
    await archive.finish(ended, (), model, onnx)


def left(archive: Archive) -> tuple[set[str], set[str]]:
    """Return the ids of the adaptations and models that are left."""
    records = archive.records
    adaptations = {record.id for _, record, _ in records.adaptations(None, 9, None, None)}
    return adaptations, {model.id for _, model in records.models.page(None, 9, None)}


async def test_what_is_older_than_its_time(archive: Archive, tmp_path: Path) -> None:
    for number, id_ in enumerate(("a", "b", "c")):
        await store(archive, id_, 100 + number, id_.encode())
    retention = Retention(archive, AuditLog(tmp_path / "audit"), ttl=10, max_bytes=0)
    await retention.sweep(110 * SECOND)
    assert left(archive) == ({"a", "b", "c"}, {"a", "b", "c"})
    await retention.sweep(112 * SECOND)
    assert left(archive) == ({"c"}, {"c"})
    lines = [json.loads(line) for line in (tmp_path / "audit").read_text().splitlines()]
    assert {line["caller"] for line in lines} == {"retention"}
    deleted = {"models/a", "models/b", "adaptations/a", "adaptations/b"}
    assert {line["resource"] for line in lines} == deleted


async def test_a_used_model_stays(archive: Archive) -> None:
    await store(archive, "a", 100, b"a")
    archive.records.models.mark_used("a")
    now = time.time_ns()
    await Retention(archive, None, ttl=3600, max_bytes=0).sweep(now)
    assert left(archive) == (set(), {"a"})
    await Retention(archive, None, ttl=3600, max_bytes=0).sweep(now + 3601 * SECOND)
    assert left(archive) == (set(), set())


async def test_the_oldest_unused_models_make_room(archive: Archive) -> None:
    for number, id_ in enumerate(("a", "b", "c", "d")):
        await store(archive, id_, 100 + number, id_.encode() * 10)
    archive.records.models.mark_used("a")
    await Retention(archive, None, ttl=0, max_bytes=25).sweep(time.time_ns())
    assert left(archive) == ({"a", "b", "c", "d"}, {"a", "d"})
    assert archive.records.models.total_bytes() == 20


async def test_models_with_the_same_file_count_once(archive: Archive) -> None:
    for number, id_ in enumerate(("a", "b", "c")):
        await store(archive, id_, 100 + number, b"other" if id_ == "c" else b"same")
    await Retention(archive, None, ttl=0, max_bytes=9).sweep(time.time_ns())
    assert left(archive)[1] == {"a", "b", "c"}
    await Retention(archive, None, ttl=0, max_bytes=8).sweep(time.time_ns())
    assert left(archive)[1] == {"c"}


async def test_pinned_models_stay(archive: Archive) -> None:
    for number, id_ in enumerate(("a", "b", "c")):
        await store(archive, id_, 100 + number, id_.encode() * 10)
    pin = ModelChange(pinned=True, share_with=(), unshare=())
    await archive.update_model("a", None, pin, ModelLimits(pinned=1, shares=1))
    await Retention(archive, None, ttl=0, max_bytes=15).sweep(time.time_ns())
    assert left(archive)[1] == {"a"}
    await Retention(archive, None, ttl=1, max_bytes=5).sweep(2**62)
    assert left(archive) == (set(), {"a"})


async def test_unfinished_adaptations_stay(archive: Archive) -> None:
    await archive.add(RECORD, (b"support",))
    await Retention(archive, None, ttl=1, max_bytes=1).sweep(2**62)
    assert left(archive)[0] == {RECORD.id}


async def test_without_limits_all_stay(archive: Archive) -> None:
    await store(archive, "a", 1, b"a")
    await Retention(archive, None, ttl=0, max_bytes=0).sweep(time.time_ns())
    assert left(archive) == ({"a"}, {"a"})


def query(api: Api, name: str) -> None:
    Queries(api.channel).infer(raw_query(name, pixels()))


def models(server: ServerProcess) -> list[str]:
    listed = server.api.models.ListModels(ListModelsRequest()).models
    return [each.name for each in listed]


@pytest.mark.parametrize("use", [Api.download, query], ids=["download", "query"])
def test_the_model_of_the_oldest_use_goes(
    checkpoints: Path, tmp_path: Path, use: Callable[[Api, str], object]
) -> None:
    """Uses survive the end of the server; the next one deletes the model of the oldest use."""
    with serving(checkpoints, tmp_path / "data") as server:
        first, second = (server.api.adapt(spec(seed=n), images()).model for n in range(2))
        use(server.api, first.name)
        assert server.stop() == 0
    room = first.size_bytes + second.size_bytes - 1
    with serving(checkpoints, tmp_path / "data", f"--max-store-bytes={room}") as server:
        end = time.monotonic() + 60
        while time.monotonic() < end and len(models(server)) > 1:
            time.sleep(0.05)
        assert models(server) == [first.name]
        assert refused(server.api.model, second.name).reason == "UNKNOWN_MODEL"

"""A database and its artefacts belong together: other pairs are refused at the start."""

import uuid
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from sqlalchemy import URL

from metanas_server.doctor.findings import FAILURE
from metanas_server.doctor.report import examine
from metanas_server.errors import StartError
from metanas_server.records.address import open_database, read_address
from metanas_server.records.records import Records
from metanas_server.storage.archive import Archive, open_archive
from metanas_server.storage.maintenance import repair
from metanas_server.storage.place import open_store
from tests.server.databases import Postgres
from tests.server.s3 import Bucket


async def nothing() -> None:
    """Take note of no change."""


@dataclass
class Machine:
    """Archives in data folders of their own, which end with the test."""

    folder: Path
    stack: ExitStack = field(default_factory=ExitStack)
    count: int = 0

    def start(self, address: Path | URL, place: str | None) -> Archive:
        self.count += 1
        data = self.folder / f"data{self.count}"
        data.mkdir()
        archive = open_archive(data, address, nothing, place=place)
        self.stack.callback(archive.records.close)
        return archive

    def refused(self, address: Path | URL, place: str | None) -> str:
        with pytest.raises(StartError) as caught:
            self.start(address, place)
        assert caught.value.reason == "ARTEFACTS_FOREIGN"
        return str(caught.value)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], Path | URL]:
    """The function that returns the address of another empty database."""
    if request.param == "sqlite":
        return lambda: tmp_path / f"{uuid.uuid4().hex}.sqlite3"
    postgres: Postgres = request.getfixturevalue("postgres")
    return lambda: read_address(postgres.create(), tmp_path)


@pytest.fixture(params=["folder", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """An empty place for artefacts."""
    if request.param == "folder":
        return str(tmp_path / "artefacts")
    bucket: Bucket = request.getfixturevalue("bucket")
    for name, value in bucket.environment.items():
        monkeypatch.setenv(name, value)
    return f"s3://bucket/{uuid.uuid4().hex}"


def test_two_databases_on_the_same_artefacts(
    machine: Machine, database: Callable[[], Path | URL], place: str
) -> None:
    one, two = database(), database()
    with machine.stack:
        machine.start(one, place)
        machine.start(one, place)
        message = machine.refused(two, place)
        assert f"the artefacts in {place} belong to another database" in message
        data = machine.folder / "repaired"
        data.mkdir()
        store = open_store(place, data)
        lines = repair(data, two, store)
        assert lines == [f"the artefacts in {place} belong to this database from now on"]
        assert repair(data, two, store) == ["nothing to repair"]
        machine.start(two, place)
        machine.refused(one, place)


def test_servers_of_a_database_have_the_same_artefacts(
    machine: Machine, postgres: Postgres, place: str
) -> None:
    """Also before the first artefact: its own folder would be lost for the other servers."""
    address = read_address(postgres.create(), machine.folder)
    with machine.stack:
        machine.start(address, place)
        for other in (None, str(machine.folder / "other")):
            message = machine.refused(address, other)
            assert "give all servers on it the same --artefacts" in message
        machine.start(address, place)


def test_a_start_that_was_killed_between_both_marks(
    machine: Machine, postgres: Postgres, place: str
) -> None:
    address = read_address(postgres.create(), machine.folder)
    with closing(Records(open_database(address))) as records:
        open_store(place, machine.folder).set_mark(records.files.mark())
    with machine.stack:
        machine.start(address, place)
        machine.refused(address, None)


def test_the_doctor_compares_the_marks(machine: Machine, tmp_path: Path) -> None:
    artefacts = tmp_path / "artefacts"
    with machine.stack:
        machine.start(tmp_path / "data1" / "records.sqlite3", str(artefacts))
        (artefacts / "database").write_text("another one")
    flags = ["--data", str(tmp_path / "data1"), "--artefacts", str(artefacts), "--devices=cpu"]
    texts = [each.text for each in examine(flags, {}) if each.level == FAILURE]
    assert (
        f"the artefacts in {artefacts} belong to another database; check --artefacts and --records"
        in texts
    )

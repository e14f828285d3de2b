"""Damaged pins, shares and last uses: nothing is deleted or shown, and the repair restores them."""

import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import text

from metanas_server.errors import NotFound, StoreError
from metanas_server.jobs.retention import Retention
from metanas_server.records.address import open_database, read_address
from metanas_server.records.database import Database
from metanas_server.records.migrate import Use
from metanas_server.records.models import ModelLimits
from metanas_server.records.records import Records
from metanas_server.records.tables import is_sealed_time, seal, seal_time
from metanas_server.resources import ModelChange
from metanas_server.storage.archive import Archive
from metanas_server.storage.folder_store import FolderStore
from tests.server.test_models_contract import add

HOUR = 3600 * 10**9
"""Nanoseconds."""
SETTINGS = ModelChange(pinned=True, unshare=(), share_with=("bob", "eva"))


@pytest.fixture
def database(address: str) -> Iterator[Database]:
    """A database with three models of "ann", the second with settings."""
    with closing(open_database(read_address(address, Path()))) as database:
        records = Records(database)
        for id_ in ("one", "two", "three"):
            add(records, id_)
        records.models.update("two", "ann", SETTINGS, ModelLimits(pinned=9, shares=9))
        assert records.damage.find() == []
        yield database


def write(database: Database, statement: str) -> None:
    """Change rows past the records."""
    with database.change() as connection:
        assert connection.execute(text(statement)).rowcount == 1


def reason(records: Records, id_: str, caller: str) -> str:
    """Return why a caller cannot read a model; empty if it can."""
    try:
        records.models.get(id_, caller)
    except (NotFound, StoreError) as error:
        return error.reason
    return ""


def unused(records: Records) -> set[str]:
    return {id_ for id_, _, _ in records.models.longest_unused(9)}


FLIPS = [
    ("UPDATE models SET pinned = 0 WHERE id = 'two'", "pinned"),
    ("UPDATE models SET pinned = 3 WHERE id = 'two'", "pinned"),
    ("UPDATE shares SET name = 'boc' WHERE name = 'bob'", "shares"),
    ("UPDATE shares SET name = '*' WHERE name = 'bob'", "shares"),
    ("UPDATE shares SET model = 9 WHERE name = 'bob'", "shares"),
    ("DELETE FROM shares WHERE name = 'bob'", "shares"),
    ("INSERT INTO shares (model, name) VALUES (2, 'boc')", "shares"),
]


@pytest.mark.parametrize(("statement", "part"), FLIPS)
def test_a_damaged_pin_or_share(
    database: Database, tmp_path: Path, statement: str, part: str
) -> None:
    records = Records(database)
    wanted = records.models.get("two", "ann")
    write(database, statement)
    assert {reason(records, "two", each) for each in ("ann", "bob", "boc", "new")} <= {
        "RECORD_DAMAGED",
        "UNKNOWN_MODEL",
    }
    assert reason(records, "two", "ann") == "RECORD_DAMAGED"
    for caller in ("bob", "boc", "new"):
        assert records.models.shared(None, 9, caller) == []
    assert unused(records) == {"one", "three"}
    with pytest.raises((NotFound, StoreError)):
        records.models.delete("two", None, unless_pinned=True)
    with pytest.raises(StoreError):
        records.models.update("two", "ann", SETTINGS, ModelLimits(pinned=9, shares=9))
    assert [reason(records, each, "ann") for each in ("one", "three")] == ["", ""]
    lost = tmp_path / "lost"
    assert records.damage.mend(lost)[0] == f"models/two: mended the record ({part})"
    assert records.damage.find() == []
    assert records.models.get("two", "bob") == wanted
    assert (wanted.pinned, wanted.shared_with) == (True, ("bob", "eva"))
    assert [reason(records, "two", each) for each in ("eva", "boc")] == ["", "UNKNOWN_MODEL"]
    if "model = 9" in statement:
        assert json.loads(lost.read_text()) == {"model": 9, "name": "bob"}


def test_a_share_that_becomes_one_of_another_model(database: Database, tmp_path: Path) -> None:
    records = Records(database)
    write(database, "UPDATE shares SET model = 3 WHERE name = 'bob'")
    assert [reason(records, each, "bob") for each in ("two", "three")] == [
        "UNKNOWN_MODEL",
        "RECORD_DAMAGED",
    ]
    lines = [f"models/{each}: mended the record (shares)" for each in ("two", "three")]
    assert records.damage.mend(tmp_path / "lost") == lines
    assert [reason(records, each, "bob") for each in ("two", "three")] == ["", "UNKNOWN_MODEL"]


def test_the_shares_of_a_damaged_model(database: Database, tmp_path: Path) -> None:
    """They move to the file with it."""
    records, lost = Records(database), tmp_path / "lost"
    write(database, "UPDATE models SET body = '00000000 {}' WHERE id = 'two'")
    assert records.damage.mend(lost) == [f"models/two: moved the damaged record to {lost}"]
    rows = [json.loads(line) for line in lost.read_text().splitlines()]
    assert [row.get("name") for row in rows] == [None, "bob", "eva"]
    assert records.damage.find() == []


def test_each_flipped_bit_of_a_time_is_found() -> None:
    now = 1_800_000_000_000_000_001
    sealed = seal_time(now)
    assert abs(sealed - now) < 2**16
    assert is_sealed_time(sealed)
    flips = [1 << bit for bit in range(63)] + [-(2**63)]
    for one in flips:
        assert not is_sealed_time(sealed ^ one)
        assert not any(is_sealed_time(sealed ^ one ^ other) for other in flips if other != one)
    for other in (None, "1", -1):
        assert not is_sealed_time(other)


async def nothing() -> None:
    """Take note of no change."""


async def test_retention_beside_damaged_settings(
    database: Database, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It deletes the sound models only, also if damage makes a last use the oldest one."""
    add(Records(database), "four")
    archive = Archive(Records(database), FolderStore(tmp_path / "artefacts"), nothing)
    models = archive.records.models
    write(database, "UPDATE models SET pinned = 0 WHERE id = 'two'")
    write(database, "UPDATE models SET used = used - 1 WHERE id = 'three'")
    models.mark_used("four")
    retention = Retention(archive, None, ttl=3600, max_bytes=0)
    now = archive.records.clock.latest()
    await retention.sweep(now)
    assert models.ids(9, None) == ["four", "three", "two"]
    assert "the record of models/three has changed on the disk" in caplog.text
    lines = archive.records.damage.mend(tmp_path / "lost")
    mended = [f"{id_}: mended the record" for id_ in ("models/two", "models/three")]
    assert lines == [f"{mended[0]} (pinned)", f"{mended[1]} (used)"]
    await retention.sweep(now)
    assert models.ids(9, None) == ["four", "three", "two"]
    await retention.sweep(now + 3 * HOUR)
    assert models.ids(9, None) == ["two"]  # the pinned one
    assert archive.records.damage.find() == []


def test_the_settings_of_an_older_database(database: Database, address: str) -> None:
    """The migration keeps them, and marks no other row as damaged."""
    wanted = Records(database).models.get("two", "ann")
    with database.change() as connection:
        for id_ in ("one", "two", "three"):
            row = text("SELECT body FROM models WHERE id = :id")
            fields = json.loads(str(connection.scalar(row, {"id": id_})).partition(" ")[2])
            del fields["pinned"], fields["shared_with"]
            row = text("UPDATE models SET used = 5, body = :body WHERE id = :id")
            connection.execute(row, {"id": id_, "body": seal(json.dumps(fields))})
        connection.execute(text("UPDATE models SET body = '00000000 {}' WHERE id = 'three'"))
        connection.execute(text("UPDATE alembic_version SET version_num = '6'"))
    database.close()
    with closing(Records(open_database(read_address(address, Path()), Use.MIGRATE))) as records:
        assert records.models.get("two", "bob") == wanted
        assert [each.name for each in records.damage.find()] == ["models/three"]
        assert unused(records) == {"one"}

"""The contract of the records, on SQLite and on PostgreSQL."""

import json
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import inspect, text

from metanas.errors import Violation
from metanas_server.errors import NotFound, StartError, StoreUnavailable
from metanas_server.records import migrate
from metanas_server.records.address import open_database, read_address
from metanas_server.records.database import Database
from metanas_server.records.migrate import HEAD, Use
from metanas_server.records.records import Records
from metanas_server.records.tables import METADATA
from metanas_server.resources import Failure, ProgressRecord, State
from metanas_server.storage.folder_store import FolderStore
from tests.server.processes import maintain
from tests.server.test_parts import MODEL, RECORD

FOLDER = Path(migrate.__file__).parent
PROGRESS = tuple(
    ProgressRecord(sequence=i, attempt=1, time=i, stage="adapt", step=i, steps=2, loss=0.1 * i)
    for i in (1, 2)
)
FAILURE = Failure(
    code=3, reason="R", message="m", violations=(Violation("f", "R", "m"),), retry_seconds=0.5
)
ENDED = replace(RECORD, state=State.FAILED, failure=FAILURE, support="", classes=None, end_time=7)
HOSTILE = "a\0'\"\\\n\x7f é \U0001f600 %s $1 :x"


def opened(address: str, use: Use = Use.SERVE) -> Database:
    return open_database(read_address(address, Path()), use)


@pytest.fixture
def database(address: str) -> Iterator[Database]:
    database = opened(address)
    yield database
    database.close()


@pytest.fixture
def records(database: Database) -> Records:
    return Records(database)


def test_records_come_back_as_they_were(records: Records, address: str) -> None:
    records.insert(RECORD)
    assert records.adaptation("one", None) == RECORD
    assert records.unfinished() == [RECORD]
    assert records.files.is_needed(RECORD.support)
    assert (records.progress("one"), records.last_progress("one")) == ((), None)
    records.update(ENDED, PROGRESS, MODEL)
    with closing(Records(opened(address))) as again:
        assert again.adaptation("one", None) == ENDED
        assert again.progress("one") == PROGRESS
        assert again.last_progress("one") == PROGRESS[-1]
        assert again.models.get("one", None) == MODEL
        assert again.unfinished() == []
        assert again.files.needed() == {MODEL.sha256}
        assert again.files.loose() == {RECORD.support}
        assert again.models.delete("one", None) == MODEL.sha256
        again.delete_adaptation("one")
        for look in (again.models.get, again.adaptation):
            with pytest.raises(NotFound):
                look("one", None)
        assert again.files.loose() == {RECORD.support, MODEL.sha256}


def test_a_change_may_be_made_again(records: Records) -> None:
    """A broken connection does not tell whether a transaction has ended well."""
    records.insert(RECORD)
    for _ in range(2):
        records.update(ENDED, PROGRESS, MODEL)
    assert records.models.get("one", None) == MODEL
    assert [model for _, model in records.models.page(None, 9, None)] == [MODEL]


def test_a_change_happens_as_a_whole_or_not_at_all(records: Records) -> None:
    records.insert(RECORD)
    nothing: Any = None
    broken = replace(MODEL, sha256=nothing)
    with pytest.raises(Exception, match=r"(?i)not.null"):
        records.update(ENDED, PROGRESS, broken)
    assert records.adaptation("one", None) == RECORD
    assert records.files.loose() == set()


def test_a_request_id_stands_for_one_adaptation_of_an_owner(records: Records) -> None:
    asked = replace(RECORD, request_id=HOSTILE, owner="ann")
    records.insert(asked)
    assert records.by_request("ann", HOSTILE) == asked
    assert records.by_request("bob", HOSTILE) is None
    assert records.by_request("ann", "") is None
    with pytest.raises(Exception, match=r"(?i)unique"):
        records.insert(replace(asked, id="two"))
    records.insert(replace(asked, id="two", owner="bob"))
    records.update(replace(asked, state=State.CANCELLED))
    assert records.by_request("ann", HOSTILE) is None
    records.insert(replace(asked, id="three"))
    records.insert(replace(RECORD, id="four"))
    records.insert(replace(RECORD, id="five"))  # without a request id, as many as you like


def test_text_of_callers_is_kept(records: Records) -> None:
    record = replace(RECORD, id="x", owner=HOSTILE, labels=(HOSTILE,), classes=(HOSTILE,))
    records.insert(record)
    assert records.adaptation("x", HOSTILE) == record
    with pytest.raises(NotFound):
        records.adaptation(HOSTILE, None)
    with pytest.raises(NotFound):
        records.models.get("x", HOSTILE)


def test_pages_are_newest_first_within_a_scope(records: Records) -> None:
    for number in range(6):
        id_, owner = f"{number}", "ab"[number % 2]
        records.insert(replace(RECORD, id=id_, owner=owner))
        state = State.SUCCEEDED if number < 3 else State.QUEUED
        model = replace(MODEL, id=id_, owner=owner)
        records.update(replace(RECORD, id=id_, owner=owner, state=state), PROGRESS, model)
    rows = records.adaptations(None, 4, None, None)
    assert [record.id for _, record, _ in rows] == ["5", "4", "3", "2"]
    assert [last for _, _, last in rows] == [PROGRESS[-1]] * 4
    rows = records.adaptations(rows[-1][0], 9, None, None)
    assert [record.id for _, record, _ in rows] == ["1", "0"]
    rows = records.adaptations(None, 9, State.QUEUED, "b")
    assert [record.id for _, record, _ in rows] == ["5", "3"]
    first = records.models.page(None, 2, "a")
    assert [model.id for _, model in first] == ["4", "2"]
    assert [model.id for _, model in records.models.page(first[-1][0], 9, "a")] == ["0"]
    assert records.models.page(2**63 - 1, 9, "a") == records.models.page(None, 9, "a")
    assert records.models.ids(2, None) == ["5", "4"]


def test_sizes_and_uses_of_models(records: Records) -> None:
    for id_, digest in (("a", "s"), ("b", "s"), ("c", "t")):
        records.insert(replace(RECORD, id=id_))
        model = replace(MODEL, id=id_, sha256=digest, size_bytes=2**40, create_time=ord(id_))
        records.update(replace(ENDED, id=id_, end_time=ord(id_)), (), model)
    assert records.models.total_bytes() == 2 * 2**40
    records.models.mark_used("a")
    records.models.write_uses()
    assert [id_ for id_, _, _ in records.models.longest_unused(9)] == ["b", "c", "a"]
    assert records.ended(ord("c"), 9) == ["a", "b"]
    assert records.files.is_needed("t")
    assert not records.files.is_needed("u")


def test_loose_files(records: Records) -> None:
    for digest in ("x", "x", RECORD.support):
        records.files.loosen(digest)
    assert records.files.loose() == {"x", RECORD.support}
    records.insert(RECORD)
    assert records.files.loose() == {"x"}
    removed = list[str]()
    for digest in ("x", RECORD.support):
        records.files.discard(digest, removed.append)
    assert removed == ["x"]
    records.probe()
    assert records.files.loose() == set()


def test_many_threads_change_the_records(records: Records) -> None:
    """None waits for another one longer than a lock is held."""
    records.insert(RECORD)
    failed = list[BaseException]()

    def work(name: str) -> None:
        try:
            for number in range(5):
                records.insert(replace(RECORD, id=f"{name}{number}"))
                records.update(replace(RECORD, id=f"{name}{number}", losses=number), PROGRESS)
        except StoreUnavailable as error:
            failed.append(error)

    threads = [Thread(target=work, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert len(records.unfinished()) == 21


def test_the_steps_make_the_tables(database: Database) -> None:
    with database.changes.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, METADATA) == []
        assert context.get_current_revision() == str(HEAD)
    script = ScriptDirectory(str(FOLDER), version_locations=[str(FOLDER / "versions")])
    assert script.get_heads() == [str(HEAD)]


def other_version(version: object) -> Callable[[Database], None]:
    def write(database: Database) -> None:
        with database.change() as connection:
            connection.execute(text(f"UPDATE alembic_version SET version_num = '{version}'"))

    return write


def foreign(database: Database) -> None:
    with database.change() as connection:
        connection.execute(text("DROP TABLE alembic_version"))


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (other_version(HEAD + 1), f"has version {HEAD + 1}, and this release reads {HEAD}; use"),
        (other_version("ae1027a6acf"), "tables of another program"),
        (foreign, "tables of another program"),
    ],
)
def test_databases_that_are_refused(
    address: str, write: Callable[[Database], None], words: str
) -> None:
    with closing(opened(address)) as database:
        write(database)
        before = inspect(database.reads).get_table_names()
    for use in Use:
        with pytest.raises(StartError, match=words) as caught:
            opened(address, use)
        assert caught.value.reason == "DATABASE_VERSION"
        assert "secret" not in str(caught.value)
    if address.startswith("sqlite"):
        with closing(sqlite3.connect(address.removeprefix("sqlite:///"))) as connection:
            query = "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sql%'"
            assert {name for (name,) in connection.execute(query)} <= set(before)


def test_a_migration_waits_for_the_servers(address: str) -> None:
    with closing(opened(address)) as database:
        Records(database, "node-1").fronts.beat()
        other_version(HEAD - 1)(database)
        with pytest.raises(StartError, match="node-1 use the database; stop them") as caught:
            opened(address, Use.MIGRATE)
        assert caught.value.reason == "DATA_IN_USE"
        hour = 3_600_000
        for jump in (hour, -2 * hour):  # it has died, and then the clock of the database jumped
            with database.change() as connection:
                connection.execute(text(f"UPDATE fronts SET seen = seen + {jump}"))
            assert Records(database).fronts.running() == []


def test_a_look_changes_nothing(address: str) -> None:
    if address.startswith("sqlite"):
        opened(address).close()
        path = Path(address.removeprefix("sqlite:///"))
        with closing(sqlite3.connect(path)) as empty:
            empty.executescript("".join(f"DROP TABLE {each};" for each in TABLES))
            empty.execute("PRAGMA journal_mode = DELETE")
    with pytest.raises(StartError) as caught:
        opened(address, Use.LOOK)
    assert caught.value.reason == "DATABASE_EMPTY"
    with closing(opened(address)) as database:
        Records(database).insert(RECORD)
    with closing(Records(opened(address, Use.LOOK))) as records:
        assert records.files.needed() == {RECORD.support}


FORMAT_5 = """
CREATE TABLE adaptations (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    owner TEXT NOT NULL DEFAULT '',
    state TEXT NOT NULL,
    request_id TEXT NOT NULL,
    support TEXT NOT NULL,
    ended INTEGER NOT NULL DEFAULT 0,
    body TEXT NOT NULL,
    last_progress TEXT NOT NULL DEFAULT 'null',
    progress TEXT NOT NULL DEFAULT '[]'
);
CREATE UNIQUE INDEX adaptation_request ON adaptations (owner, request_id)
    WHERE request_id <> '' AND state <> 'cancelled';
CREATE INDEX adaptation_owner ON adaptations (owner);
CREATE INDEX adaptation_ended ON adaptations (ended);
CREATE TABLE models (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    owner TEXT NOT NULL DEFAULT '',
    sha256 TEXT NOT NULL,
    size INTEGER NOT NULL DEFAULT 0,
    used INTEGER NOT NULL DEFAULT 0,
    body TEXT NOT NULL
);
CREATE INDEX model_owner ON models (owner);
CREATE INDEX model_used ON models (used);
CREATE TABLE loose (digest TEXT PRIMARY KEY) WITHOUT ROWID;
PRAGMA user_version = 5;
"""


def write_format_5(path: Path, support: str) -> None:
    """Write a database of the format before Alembic, with one adaptation."""
    record = replace(RECORD, support=support, request_id="r")
    with closing(sqlite3.connect(path)) as old, old:
        old.executescript(FORMAT_5)
        query = "INSERT INTO adaptations (id, state, request_id, support, body)"
        row = (record.id, record.state, "r", support, json.dumps(asdict(record)))
        old.execute(f"{query} VALUES (?, ?, ?, ?, ?)", row)


def test_a_backup_of_an_older_database(tmp_path: Path) -> None:
    """A backup is made before `migrate`, and is good for the older release and for this one."""
    data, copy, restored = tmp_path / "data", tmp_path / "copy", tmp_path / "restored"
    support = FolderStore(data / "artefacts").put(b"support")
    write_format_5(data / "records.sqlite3", support)
    assert "and 1 files" in maintain("backup", str(copy), "--data", str(data))
    with closing(sqlite3.connect(copy / "records.sqlite3")) as old:
        assert old.execute("PRAGMA user_version").fetchone() == (5,)
    assert not [path for path in copy.iterdir() if path.name.startswith("tmp")]
    assert "and 1 files" in maintain("restore", str(copy), "--data", str(restored))
    with closing(Records(open_database(restored / "records.sqlite3"))) as records:
        assert records.unfinished() == [replace(RECORD, support=support, request_id="r")]


def test_a_file_of_the_format_before_alembic(tmp_path: Path) -> None:
    path = tmp_path / "records.sqlite3"
    write_format_5(path, RECORD.support)
    with pytest.raises(StartError, match="and run: metanas-server migrate") as caught:
        open_database(path)
    assert caught.value.reason == "DATABASE_VERSION"
    assert f"version {HEAD}" in maintain("migrate", "--data", str(tmp_path))
    with closing(Records(open_database(path))) as records:
        asked = replace(RECORD, request_id="r")
        assert records.unfinished() == [asked]
        assert records.by_request("", "r") == asked
        records.update(ENDED, PROGRESS, MODEL)
        assert records.models.get("one", None) == MODEL


TABLES = (*METADATA.tables, "alembic_version")


@pytest.mark.parametrize(
    "text",
    [
        "records.db",
        "sqlite://",
        "sqlite:///:memory:",
        "sqlite://host/x",
        "mysql://a/b",
        "postgresql://host",
        "postgresql://host:port/name",
        "a b",
        "",
    ],
)
def test_addresses_that_are_refused(text: str) -> None:
    with pytest.raises(StartError, match="--records must be") as caught:
        read_address(text, Path())
    assert caught.value.reason == "CONFIG_INVALID"


def test_an_address_that_nobody_answers() -> None:
    with pytest.raises(StartError, match="check --records") as caught:
        opened("postgresql://user:secret@127.0.0.1:1/name")
    assert caught.value.reason == "DATABASE_UNREACHABLE"
    assert "secret" not in str(caught.value)

"""Bits that flip in the database: an error for the damaged record alone, and the repair."""

import asyncio
import json
import random
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path

import grpc
import pytest
from sqlalchemy import text
from sqlalchemy.dialects import sqlite

from metanas_protos.v1.adaptation_service_pb2 import ListAdaptationsRequest
from metanas_protos.v1.model_service_pb2 import ListModelsRequest
from metanas_server.doctor.findings import FAILURE
from metanas_server.doctor.report import examine
from metanas_server.errors import NotFound, StartError, StoreError
from metanas_server.jobs.mirrors import Mirrors
from metanas_server.jobs.retention import Retention
from metanas_server.records.address import open_database, read_address
from metanas_server.records.database import Database
from metanas_server.records.migrate import Use
from metanas_server.records.records import Load, Records
from metanas_server.records.tables import Sealed
from metanas_server.resources import ProgressRecord, State
from metanas_server.storage.archive import Archive, open_archive
from metanas_server.storage.folder_store import FolderStore
from metanas_server.storage.maintenance import repair
from tests.server.calls import LONG, SUCCEEDED, images, refused, spec
from tests.server.processes import ENVIRONMENT, maintain, serving
from tests.server.test_parts import MODEL, RECORD
from tests.server.test_records import write_format_5


async def nothing() -> None:
    """Take note of no change."""


IDS = ("one", "two", "three")
STEPS = (ProgressRecord(sequence=1, attempt=1, time=1, stage="adapt", step=1, steps=2),)


@pytest.fixture
def database(address: str) -> Iterator[Database]:
    with closing(open_database(read_address(address, Path()))) as database:
        yield database


def fill_one(records: Records, id_: str) -> None:
    """Store a long record of an ended adaptation, and its model."""
    record = replace(RECORD, id=id_, classes=("c" * 200,), support="")
    records.insert(record)
    model = replace(MODEL, id=id_, sha256=id_, create_time=1)
    records.update(replace(record, state=State.SUCCEEDED, end_time=1), (), model)


def fill(records: Records) -> None:
    """Store ended adaptations with models."""
    for number, id_ in enumerate(IDS, 1):
        support, digest = (letter * 63 + str(number) for letter in "sm")
        record = replace(RECORD, id=id_, support=support)
        records.insert(record)
        ended = replace(record, state=State.SUCCEEDED, support="", end_time=number, model=id_)
        records.update(ended, STEPS, replace(MODEL, id=id_, sha256=digest, create_time=number))


def reason(look: object) -> str:
    assert callable(look)
    try:
        look()
    except StoreError as error:
        return error.reason
    return ""


def change(database: Database, table: str, column: str, value: object) -> None:
    """Write a value into the row of `two`, past the records."""
    with database.change() as connection:
        query = text(f"UPDATE {table} SET {column} = :value WHERE id = 'two'")
        connection.execute(query, {"value": value})


def test_each_flipped_bit_of_a_text_is_found() -> None:
    sealed, dialect = Sealed(), sqlite.dialect()
    written = sealed.process_bind_param('{"id": "é"}', dialect)
    assert written is not None
    raw = written.encode()
    assert sealed.process_result_value(written, dialect) == '{"id": "é"}'
    for bit in range(8 * len(raw)):
        flipped = bytearray(raw)
        flipped[bit // 8] ^= 1 << bit % 8
        found = flipped.decode("utf-8", "surrogateescape")
        assert sealed.process_result_value(found, dialect) is None
    for other in (raw, 7, "", None):
        assert sealed.process_result_value(other, dialect) is None


@pytest.mark.parametrize(
    ("table", "column", "value"),
    [
        ("adaptations", "body", "00000000 {}"),
        ("adaptations", "state", "succeedee"),
        ("adaptations", "owner", "b"),
        ("adaptations", "ended", 3),
        ("models", "body", "00000000 {}"),
        ("models", "sha256", "m" * 62 + "n2"),
        ("models", "size", 2**62),
        ("models", "pinned", 1),
    ],
)
def test_a_damaged_record_is_refused_alone(
    database: Database, tmp_path: Path, table: str, column: str, value: object
) -> None:
    records = Records(database)
    fill(records)
    assert records.damage.find() == []
    change(database, table, column, value)
    looks = {"adaptations": records.adaptation, "models": records.models.get}
    assert reason(lambda: looks[table]("two", None)) == "RECORD_DAMAGED"
    for kind, look in looks.items():
        for id_ in IDS:
            if (kind, id_) != (table, "two"):
                look(id_, None)
    others = {"one", "three"}
    for count in (9, 3, 2):  # a shorter page would look like the last one
        left = {
            "adaptations": {each.id for _, each, _ in records.adaptations(None, count, None, None)},
            "models": {each.id for _, each in records.models.page(None, count, None)},
        }
        assert left[table] == others
        assert all(len(ids) == min(count, 3) for kind, ids in left.items() if kind != table)
        if table == "models":
            assert {id_ for id_, _, _ in records.models.longest_unused(count)} == others
        else:
            assert set(records.ended(2**62, count)) == others
    assert records.models.sound_bytes() == (3 - (table == "models")) * MODEL.size_bytes
    [flaw] = records.damage.find()
    assert flaw.name == f"{table}/two"
    [line] = records.damage.mend(tmp_path / "damaged.jsonl")
    assert records.damage.find() == []
    if column == "body":
        assert line == f"{table}/two: moved the damaged record to {tmp_path / 'damaged.jsonl'}"
        assert json.loads((tmp_path / "damaged.jsonl").read_text())["body"] == value
        with pytest.raises(NotFound):
            looks[table]("two", None)
    else:
        assert line == f"{table}/two: mended the record ({column})"
        looks[table]("two", None)


def test_damaged_progress_is_no_progress(database: Database, tmp_path: Path) -> None:
    records = Records(database)
    fill(records)
    for column in ("progress", "last_progress"):
        change(database, "adaptations", column, "00000000 {}")
    assert records.adaptation("two", None).id == "two"
    assert (records.progress("two"), records.last_progress("two")) == ((), None)
    assert records.damage.mend(tmp_path / "none") == [
        "adaptations/two: mended the record (progress, last_progress)"
    ]
    assert records.damage.find() == []


@pytest.mark.parametrize("column", ["body", "support"])
def test_a_damaged_record_of_waiting_work(database: Database, tmp_path: Path, column: str) -> None:
    """The other work goes on; work whose record can be mended is done after the repair."""
    records = Records(database)
    for id_ in IDS:
        records.insert(replace(RECORD, id=id_, request_id=id_), "ann")
    change(database, "adaptations", column, "00000000 {}")
    assert [each.record.id for each in records.fronts.orphans()] == ["one", "three"]
    assert records.load("ann") == Load(waiting=2, unfinished=2, fronts=0, ahead=2)
    assert "two" not in records.fronts.mine()
    assert reason(lambda: records.adaptation("two", None)) == "RECORD_DAMAGED"
    assert reason(lambda: records.by_request("", "two")) == "RECORD_DAMAGED"
    records.damage.mend(tmp_path / "damaged.jsonl")
    mended = [] if column == "body" else ["two"]
    assert [each.record.id for each in records.fronts.orphans()] == ["one", *mended, "three"]


def test_flipped_bits_of_a_file(tmp_path: Path) -> None:
    """No flip changes a record unseen; a file that cannot be read at all is refused at once."""
    path, copy = tmp_path / "records.sqlite3", tmp_path / "copy.sqlite3"
    with closing(Records(open_database(path))) as records:
        fill(records)
        wanted = {
            id_: (records.adaptation(id_, None), records.models.get(id_, None)) for id_ in IDS
        }
    content = path.read_bytes()
    used = [at for at, byte in enumerate(content) if byte]
    numbers = random.Random(7)
    refused_files = damaged = 0
    for _ in range(150):
        flipped = bytearray(content)
        flipped[numbers.choice(used)] ^= 1 << numbers.randrange(8)
        copy.write_bytes(flipped)
        try:
            database = open_database(copy)
        except StartError:
            refused_files += 1
            continue
        with closing(Records(database)) as records:
            flaws = {flaw.name.partition("/")[0] for flaw in records.damage.find()}
            for id_, (adaptation, model) in wanted.items():
                for look, right in ((records.adaptation, adaptation), (records.models.get, model)):
                    try:
                        assert look(id_, None) == right
                    except (NotFound, StoreError):
                        assert flaws
                        damaged += 1
    assert damaged > 10
    assert refused_files > 1


def test_the_repair_of_a_damaged_page(tmp_path: Path) -> None:
    """The records on the other pages stay."""
    data, many = tmp_path / "data", range(60)
    store = FolderStore(data / "artefacts")
    path = data / "records.sqlite3"
    with closing(Records(open_database(path))) as records:
        for number in many:
            record = replace(RECORD, id=f"{number:03}", classes=("c" * 200,), support="")
            records.insert(record)
            model = replace(MODEL, id=record.id, sha256=store.put(f"{number}".encode()))
            records.update(replace(record, state=State.SUCCEEDED, end_time=1), (), model)
    content = bytearray(path.read_bytes())
    for id_ in (b"010", b"050"):  # texts that are no UTF-8
        content[content.index(b'{"id": "%b", "owner": "", "state": "succeeded"' % id_)] |= 0x80
    at = content.index(b'{"id": "030", "owner": "", "state": "succeeded"')
    content[at // 4096 * 4096 : at // 4096 * 4096 + 8] = bytes(8)
    path.write_bytes(content)
    with pytest.raises(StartError) as caught:
        open_database(path)
    assert caught.value.reason == "DATABASE_DAMAGED"
    lines = repair(data, path, store)
    assert "copied" in lines[0]
    with closing(Records(open_database(path))) as records:
        assert records.damage.find() == []
        ids = {each.id for _, each, _ in records.adaptations(None, 99, None, None)}
        assert {"010", "030", "050"}.isdisjoint(ids)
        assert {"011", "049"} <= ids
        assert len(ids) > 40
        assert len(records.models.page(None, 99, None)) == len(many)
    assert len(store.digests()) == len(many)
    open_archive(data, path, nothing).records.close()


def test_records_of_an_older_release(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """They are not damaged, but those that have changed before they had checksums."""
    path = tmp_path / "records.sqlite3"
    write_format_5(path, RECORD.support)
    with closing(sqlite3.connect(path)) as old, old:
        [(body,)] = old.execute("SELECT body FROM adaptations")
        body = body.replace(', "work": ""', "")
        old.execute("UPDATE adaptations SET body = ?", (body,))
        bodies = [body[:-1], "5", "{}", body.replace("owner", "ownar"), body.replace("que", "quf")]
        texts = [each.encode() for each in bodies] + [b"\xfb" + body[1:].encode()]
        row = "INSERT INTO adaptations (id, state, request_id, support, body, progress)"
        for number, each in enumerate(texts):
            values = (b"\xe4%d" % number, each)
            cast = "CAST(? AS TEXT), 'queued', '', '', CAST(? AS TEXT), '[]'"
            old.execute(f"{row} VALUES ({cast})", values)
        model = replace(MODEL, sha256="m" * 64)
        columns = (model.id, model.sha256, model.size_bytes, json.dumps(asdict(model))[:-1])
        old.execute("INSERT INTO models (id, sha256, size, body) VALUES (?, ?, ?, ?)", columns)
        progress = replace(RECORD, id="ended", support="", state=State.FAILED, end_time=1)
        body = json.dumps(asdict(progress))
        row = f"{row.removesuffix(')')}, ended) VALUES ('ended', 'failed', '', '', ?, '[', 1)"
        old.execute(row, (body,))
    assert "version" in maintain("migrate", "--data", str(tmp_path))
    with closing(Records(open_database(path))) as records:
        assert records.adaptation("ended", None) == progress
        assert records.progress("ended") == ()
        assert records.adaptation(RECORD.id, None).request_id == "r"
        assert len(records.damage.find()) == len(texts) + 2
        assert [each.record.id for each in records.fronts.orphans()] == [RECORD.id]
    assert "adaptations/\\udce40 has changed" in caplog.text
    caplog.text.encode()  # nothing that no log can carry
    strict = ENVIRONMENT | {"PYTHONIOENCODING": "utf-8:strict"}
    lines = maintain("repair", "--data", str(tmp_path), environment=strict).splitlines()
    assert sum("moved the damaged record to" in line for line in lines) == len(texts) + 1
    assert "adaptations/\\udce40: moved" in "".join(lines)
    with closing(Records(open_database(path))) as records:
        assert records.damage.find() == []


def test_a_damaged_file_of_an_older_release(tmp_path: Path) -> None:
    """No command sends the user back to another one that has refused."""
    path = tmp_path / "records.sqlite3"
    write_format_5(path, RECORD.support)
    content = bytearray(path.read_bytes())
    at = content.index(b'{"id": "one"') // 4096 * 4096
    content[at : at + 8] = bytes(8)
    path.write_bytes(content)
    with pytest.raises(StartError, match="run: metanas-server migrate") as caught:
        repair(tmp_path, path, FolderStore(tmp_path / "artefacts"))
    assert caught.value.reason == "DATABASE_VERSION"
    words = "use metanas-server restore, or metanas-server repair of the release that wrote it"
    with pytest.raises(StartError, match=words) as caught:
        open_database(path, Use.MIGRATE)
    assert caught.value.reason == "DATABASE_DAMAGED"


async def test_a_watcher_of_a_damaged_record(database: Database) -> None:
    """It is told, also if the adaptation runs at another front."""
    records = Records(database)
    records.insert(replace(RECORD, id="two"))
    events = Mirrors(records.fronts).events(records.adaptation("two", None), 0)
    assert (await anext(events)) == records.adaptation("two", None)
    change(database, "adaptations", "body", "00000000 {}")
    with pytest.raises(StoreError) as caught:
        await asyncio.wait_for(anext(events), 60)
    assert caught.value.reason == "RECORD_DAMAGED"


async def test_retention_goes_on_beside_a_damaged_page(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "records.sqlite3"
    with closing(Records(open_database(path))) as records:
        for number in range(60):
            fill_one(records, f"{number:03}")
    database = open_database(path)
    archive = Archive(Records(database), FolderStore(tmp_path / "artefacts"), nothing)
    content = path.read_bytes()
    at = content.rindex(b'{"id": "030", "owner": ""') // 4096 * 4096
    for engine in (database.reads, database.changes):
        engine.dispose()  # their pages in memory are whole
    path.write_bytes(content[:at] + bytes(8) + content[at + 8 :])
    task = asyncio.create_task(Retention(archive, None, ttl=1, max_bytes=0).run())
    while not task.done() and "cannot delete old models now" not in caplog.text:
        await asyncio.sleep(0.01)
    assert not task.done()
    task.cancel()
    await asyncio.wait((task,))
    await archive.close()


def flip(path: Path, content: bytes) -> None:
    """Flip the lowest bit of the last byte of some content of a file."""
    raw = bytearray(path.read_bytes())
    assert raw.count(content) >= 1
    raw[raw.index(content) + len(content) - 1] ^= 1
    path.write_bytes(raw)


def test_a_server_with_flipped_bits(checkpoints: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    database = data / "records.sqlite3"
    with serving(checkpoints, data, "--grace=0", "--max-stack=1") as server:
        done = [server.api.end_of(server.api.create(spec(seed=n), images()).name) for n in (1, 2)]
        server.api.until_running(server.api.create(spec(options=LONG), images()).name)
        waiting = [server.api.create(spec(seed=n), images()).name for n in (3, 4)]
        assert server.stop() == 0
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    flip(database, f'"model": "{done[0].model.removeprefix("models/")}'.encode())
    flip(database, f'{{"id": "{waiting[0].removeprefix("adaptations/")}", "owner": "", "s'.encode())
    with serving(checkpoints, data, "--max-stack=2") as server:
        for name in (done[0].name, waiting[0]):
            answer = refused(server.api.get, name)
            assert (answer.code, answer.reason) == (grpc.StatusCode.DATA_LOSS, "RECORD_DAMAGED")
            assert "run metanas-server repair" in answer.message
        listed = server.api.adaptations.ListAdaptations(ListAdaptationsRequest()).adaptations
        assert {done[0].name, waiting[0]}.isdisjoint(each.name for each in listed)
        assert server.api.get(done[1].name) == done[1]
        assert len(server.api.models.ListModels(ListModelsRequest()).models) >= 2
        assert server.api.download(done[0].model)
        assert server.api.end_of(waiting[1]).state == SUCCEEDED
        assert server.stop() == 0
    found = [str(each) for each in examine(["--data", str(data), "--devices=cpu"], {})]
    lines = [line for line in found if line.startswith(FAILURE) and "the record of" in line]
    assert len(lines) == 2
    lines = maintain("repair", "--data", str(data)).splitlines()
    assert sum("moved the damaged record to" in line for line in lines) == 2
    with closing(Records(open_database(database))) as records:
        assert records.damage.find() == []
        assert len(records.models.page(None, 9, None)) == 3

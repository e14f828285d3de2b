"""The database: records of adaptations and models in one SQLite file."""

import json
import os
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from metanas_server.errors import NotFound, StartError, StoreUnavailable
from metanas_server.resources import (
    AdaptationRecord,
    ModelRecord,
    ProgressRecord,
    State,
)
from metanas_server.storage.rows import dump, read_adaptation, read_model, read_progress
from metanas_server.storage.schema import prepare

BUSY_SECONDS = 1.0  # longest wait of a change for the lock of another program
RESERVE_BYTES = 2**20  # room on a full disk for the deletion of a record

REASONS = {
    sqlite3.SQLITE_FULL: "STORE_FULL",
    sqlite3.SQLITE_BUSY: "STORE_BUSY",
    sqlite3.SQLITE_LOCKED: "STORE_BUSY",
}


class Records:
    """The records; all methods may be called from any thread.

    Reads never wait. A change waits for the disk and for locks of other programs, so call it from
    another thread than the event loop's. Each change is one transaction, which is on the disk when
    the method returns. `BEGIN IMMEDIATE`: SQLite waits for a lock only at the beginning of a
    transaction; in its middle it fails at once.

    Both raise `StoreUnavailable` if the database cannot be used now.

    scope: the owner whose rows the caller sees; None stands for all owners. A row of another owner
    is found as little as a row that does not exist.
    """

    def __init__(self, path: Path) -> None:
        """Open the database; create it if it is missing.

        Raises:
            StartError: DATABASE_DAMAGED; DATA_NOT_WRITABLE, it cannot be written or has another
                version.
        """
        self._reserve = path.with_name("reserve")
        self._lock = threading.Lock()  # of the connection for changes
        self._uses = dict[str, int]()
        try:
            self._db, self._reads = self._open(path)
        except sqlite3.Error as error:
            code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF
            damaged = code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
            reason = "DATABASE_DAMAGED" if damaged else "DATA_NOT_WRITABLE"
            repair = "use metanas-server restore, or metanas-server repair"
            todo = repair if damaged else "make room on its disk, and check its permissions"
            message = f"cannot use the database {path}: {error}; {todo}"
            raise StartError(reason, message) from error

    def _open(self, path: Path) -> tuple[sqlite3.Connection, sqlite3.Connection]:
        """Return the connections for changes and for reads; a full disk gets room first."""
        try:
            return _connections(path)
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF not in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR):
                raise
            with suppress(OSError):
                self._reserve.unlink()
            return _connections(path)

    def close(self) -> None:
        """Close the file."""
        self._reads.close()
        self._db.close()

    def copy(self, path: Path) -> None:
        """Write a copy of the database to a new file."""
        with _as_store_error(), closing(sqlite3.connect(path)) as copy:
            self._reads.backup(copy)

    def probe(self) -> None:
        """Check that the database can be changed.

        Raises:
            StoreUnavailable: it cannot.
        """
        with self._change():
            self._db.execute("INSERT INTO loose VALUES ('probe')")
            self._db.execute("DELETE FROM loose WHERE digest = 'probe'")

    def loosen(self, digest: str) -> None:
        """Note that a file may exist without a record."""
        with self._change():
            self._loosen(digest)

    def forget(self, digest: str) -> None:
        """Note that a loose file no longer exists."""
        with self._change():
            self._db.execute("DELETE FROM loose WHERE digest = ?", (digest,))

    def loose(self) -> set[str]:
        """Return the digests of the files that may exist although no record needs them."""
        rows = self._read("SELECT digest FROM loose")
        return {digest for (digest,) in rows} - self.digests()

    def insert(self, record: AdaptationRecord) -> None:
        """Add an adaptation; its support set is no longer loose."""
        with self._change():
            self._db.execute(
                "INSERT INTO adaptations (id, owner, state, request_id, support, body)"
                " VALUES (?, ?, ?, ?, ?, ?)",
                (
                    *(record.id, record.owner, record.state, record.request_id),
                    *(record.support, dump(record)),
                ),
            )
            self._db.execute("DELETE FROM loose WHERE digest = ?", (record.support,))

    def update(
        self,
        record: AdaptationRecord,
        progress: Sequence[ProgressRecord] | None = None,
        model: ModelRecord | None = None,
    ) -> None:
        """Replace an adaptation; also store its progress and its model if they are given.

        A support set that the record no longer needs becomes loose.
        """
        with self._change():
            self._db.execute(
                "INSERT OR IGNORE INTO loose SELECT support FROM adaptations"
                " WHERE id = ? AND support NOT IN ('', ?)",
                (record.id, record.support),
            )
            self._db.execute(
                "UPDATE adaptations SET state = ?, support = ?, ended = ?, body = ? WHERE id = ?",
                (record.state, record.support, record.end_time, dump(record), record.id),
            )
            if progress is not None:
                entries = [json.dumps(asdict(entry)) for entry in progress]
                self._db.execute(
                    "UPDATE adaptations SET progress = ?, last_progress = ? WHERE id = ?",
                    (f"[{', '.join(entries)}]", entries[-1] if entries else "null", record.id),
                )
            if model is not None:
                self._db.execute(
                    "INSERT INTO models (id, owner, sha256, size, used, body)"
                    " VALUES (?, ?, ?, ?, ?, ?)",
                    (
                        *(model.id, model.owner, model.sha256, model.size_bytes),
                        *(model.create_time, json.dumps(asdict(model))),
                    ),
                )
                self._db.execute("DELETE FROM loose WHERE digest = ?", (model.sha256,))

    def adaptation(self, id_: str, scope: str | None) -> AdaptationRecord:
        """Return the adaptation with this id.

        Raises:
            NotFound: UNKNOWN_ADAPTATION.
        """
        return read_adaptation(self._body("adaptations", "adaptation", id_, scope))

    def progress(self, id_: str) -> tuple[ProgressRecord, ...]:
        """Return the progress of an adaptation that has ended; empty before.

        It may be long: call this from another thread than the event loop's.
        """
        rows = self._read("SELECT progress FROM adaptations WHERE id = ?", id_)
        return tuple(ProgressRecord(**entry) for (text,) in rows for entry in json.loads(text))

    def last_progress(self, id_: str) -> ProgressRecord | None:
        """Return the last progress of an adaptation that has ended; None before."""
        rows = self._read("SELECT last_progress FROM adaptations WHERE id = ?", id_)
        return read_progress(rows[0][0]) if rows else None

    def by_request(self, owner: str, request_id: str) -> AdaptationRecord | None:
        """Return the owner's adaptation with this request id, unless it is cancelled."""
        rows = self._read(
            "SELECT body FROM adaptations WHERE owner = ? AND request_id = ?"
            " AND request_id <> '' AND state <> ?",
            *(owner, request_id, State.CANCELLED),
        )
        return read_adaptation(json.loads(rows[0][0])) if rows else None

    def unfinished(self) -> list[AdaptationRecord]:
        """Return the adaptations that have not ended, oldest first."""
        rows = self._read(
            "SELECT body FROM adaptations WHERE state IN (?, ?) ORDER BY number",
            *(State.QUEUED, State.RUNNING),
        )
        return [read_adaptation(json.loads(body)) for (body,) in rows]

    def adaptations(
        self, before: int | None, count: int, state: State | None, scope: str | None
    ) -> list[tuple[int, AdaptationRecord, ProgressRecord | None]]:
        """Return adaptations with their numbers and last progress, newest first.

        before: the number above theirs; None begins with the newest.
        count: most adaptations.
        """
        conditions = {"number < ?": before, "state = ?": state, "owner = ?": scope}
        rows = self._page("number, body, last_progress FROM adaptations", count, conditions)
        return [
            (number, read_adaptation(json.loads(body)), read_progress(last))
            for number, body, last in rows
        ]

    def delete_adaptation(self, id_: str) -> None:
        """Delete an adaptation; also on a full disk."""
        self._delete("DELETE FROM adaptations WHERE id = ?", id_)

    def model(self, id_: str, scope: str | None) -> ModelRecord:
        """Return the model with this id.

        Raises:
            NotFound: UNKNOWN_MODEL.
        """
        return read_model(self._body("models", "model", id_, scope))

    def models(
        self, before: int | None, count: int, scope: str | None
    ) -> list[tuple[int, ModelRecord]]:
        """Return at most `count` models with their numbers below `before`, newest first."""
        conditions = {"number < ?": before, "owner = ?": scope}
        rows = self._page("number, body FROM models", count, conditions)
        return [(number, read_model(json.loads(body))) for number, body in rows]

    def model_ids(self, count: int, scope: str | None) -> list[str]:
        """Return the ids of at most `count` models, newest first."""
        rows = self._page("id FROM models", count, {"owner = ?": scope})
        return [id_ for (id_,) in rows]

    def delete_model(self, id_: str, scope: str | None) -> str:
        """Delete the record of a model, also on a full disk; return the digest of its file.

        The file stays and becomes loose.

        Raises:
            NotFound: UNKNOWN_MODEL.
        """
        digest = self.model(id_, scope).sha256
        self._delete("DELETE FROM models WHERE id = ?", id_, loose=digest)
        return digest

    def mark_used(self, id_: str) -> None:
        """Note in memory that a model is used now; `write_uses` writes it down."""
        self._uses[id_] = time.time_ns()

    def write_uses(self) -> None:
        """Write down the uses since the last call."""
        uses, self._uses = self._uses, {}
        if not uses:
            return
        try:
            with self._change():
                rows = [(time, id_) for id_, time in uses.items()]
                self._db.executemany("UPDATE models SET used = ? WHERE id = ?", rows)
        except StoreUnavailable:
            self._uses = uses | self._uses
            raise

    def longest_unused(self, count: int) -> list[tuple[str, int, int]]:
        """Return id, time of the last use, and bytes of the models whose last use is the oldest."""
        return self._read("SELECT id, used, size FROM models ORDER BY used, number LIMIT ?", count)

    def model_bytes(self) -> int:
        """Return the bytes of the files of all models."""
        query = "SELECT COALESCE(SUM(size), 0) FROM (SELECT DISTINCT sha256, size FROM models)"
        ((size,),) = self._read(query)
        return int(size)

    def ended(self, before: int, count: int) -> list[str]:
        """Return the ids of adaptations that ended before a time, the oldest first."""
        query = "SELECT id FROM adaptations WHERE ended > 0 AND ended < ? ORDER BY ended LIMIT ?"
        return [id_ for (id_,) in self._read(query, before, count)]

    def digests(self) -> set[str]:
        """Return the digests of all files that a record needs."""
        rows = self._read(
            "SELECT support FROM adaptations WHERE support <> '' UNION SELECT sha256 FROM models"
        )
        return {digest for (digest,) in rows}

    def needs(self, digest: str) -> bool:
        """Return True if a record needs the file of this digest."""
        ((needed,),) = self._read(
            "SELECT EXISTS (SELECT 1 FROM adaptations WHERE support = ?)"
            " OR EXISTS (SELECT 1 FROM models WHERE sha256 = ?)",
            *(digest, digest),
        )
        return bool(needed)

    def fill_reserve(self) -> None:
        """Write the file whose removal makes room for a deletion, if there is room for it."""
        with suppress(OSError):
            if not self._reserve.exists():
                self._reserve.write_bytes(os.urandom(RESERVE_BYTES))  # a hole takes no room

    def _loosen(self, digest: str) -> None:
        self._db.execute("INSERT OR IGNORE INTO loose VALUES (?)", (digest,))

    @contextmanager
    def _change(self) -> Iterator[None]:
        with self._lock, _as_store_error():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    def _delete(self, statement: str, id_: str, loose: str = "") -> None:
        """Delete a record; a full disk gets room from the reserve."""
        for is_last in (False, True):
            try:
                with self._change():
                    if loose:
                        self._loosen(loose)
                    self._db.execute(statement, (id_,))
            except StoreUnavailable as error:
                if is_last or error.reason == "STORE_BUSY":
                    raise
                self._reserve.unlink(missing_ok=True)
            else:
                return

    def _read(self, query: str, *values: object) -> list[Any]:
        with _as_store_error():
            return self._reads.execute(query, values).fetchall()

    def _page(
        self, columns: str, count: int, conditions: Mapping[str, str | int | None]
    ) -> list[Any]:
        """Return the newest rows of a table that meet the conditions.

        conditions: values by condition; None drops a condition.
        """
        wanted = {text: value for text, value in conditions.items() if value is not None}
        where = f"WHERE {' AND '.join(wanted)}" if wanted else ""
        query = f"SELECT {columns} {where} ORDER BY number DESC LIMIT ?"
        return self._read(query, *wanted.values(), count)

    def _body(self, table: str, kind: str, id_: str, scope: str | None) -> dict[str, Any]:
        query = f"SELECT body FROM {table} WHERE id = ? AND (? IS NULL OR owner = ?)"
        rows = self._read(query, id_, scope, scope)
        if not rows:
            raise NotFound(kind, f"{table}/{id_}")
        body: dict[str, Any] = json.loads(rows[0][0])
        return body


def _connect(path: Path, patience: float) -> sqlite3.Connection:
    return sqlite3.connect(path, timeout=patience, isolation_level=None, check_same_thread=False)


def _connections(path: Path) -> tuple[sqlite3.Connection, sqlite3.Connection]:
    database = _connect(path, BUSY_SECONDS)
    try:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = FULL")
        prepare(database, path)
        return database, _connect(path, 0)
    except BaseException:
        database.close()
        raise


@contextmanager
def _as_store_error() -> Iterator[None]:
    """Turn the errors of SQLite, except for defects of a statement, into `StoreUnavailable`."""
    try:
        yield
    except (sqlite3.IntegrityError, sqlite3.ProgrammingError):
        raise
    except sqlite3.DatabaseError as error:
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)
        reason = REASONS.get(code & 0xFF, "STORE_FAILED")  # the primary code
        message = f"the server's database cannot be used now: {error}; try again shortly"
        raise StoreUnavailable(reason, message) from error

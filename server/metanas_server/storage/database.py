"""The database: records of adaptations and models in one SQLite file."""

import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from metanas.errors import Violation
from metanas_server.errors import NotFound, StartError, StoreError
from metanas_server.resources import (
    AdaptationRecord,
    Failure,
    ModelRecord,
    ProgressRecord,
    State,
)

FORMAT = 3
BUSY_SECONDS = 5.0

# Columns are searched; all other fields are JSON in `body`.
SCHEMA = """
CREATE TABLE adaptations (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    owner TEXT NOT NULL DEFAULT '',
    state TEXT NOT NULL,
    request_id TEXT NOT NULL,
    support TEXT NOT NULL,
    body TEXT NOT NULL,
    progress TEXT NOT NULL DEFAULT '[]'
);
CREATE UNIQUE INDEX adaptation_request ON adaptations (owner, request_id)
    WHERE request_id <> '' AND state <> 'cancelled';
CREATE INDEX adaptation_owner ON adaptations (owner);
CREATE TABLE models (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    owner TEXT NOT NULL DEFAULT '',
    sha256 TEXT NOT NULL,
    body TEXT NOT NULL
);
CREATE INDEX model_owner ON models (owner);
"""
STEPS = {
    2: """
ALTER TABLE adaptations ADD COLUMN owner TEXT NOT NULL DEFAULT '';
ALTER TABLE models ADD COLUMN owner TEXT NOT NULL DEFAULT '';
DROP INDEX adaptation_request;
CREATE UNIQUE INDEX adaptation_request ON adaptations (owner, request_id)
    WHERE request_id <> '' AND state <> 'cancelled';
CREATE INDEX adaptation_owner ON adaptations (owner);
CREATE INDEX model_owner ON models (owner);
""",
}
"""For each older format, the step to the next one. A step keeps the rows."""


class Records:
    """The records. Methods take well under a millisecond; call them from one thread only.

    Each change is one `BEGIN IMMEDIATE` transaction. SQLite waits for a lock only at the beginning
    of a transaction; in its middle it fails at once.

    scope: the owner whose rows the caller sees; None stands for all owners. A row of another owner
    is found as little as a row that does not exist.
    """

    def __init__(self, path: Path) -> None:
        """Open the database; create it if it is missing.

        Raises:
            StartError: DATA_NOT_WRITABLE, the file is damaged, not writable or of another version.
        """
        try:
            self._db = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None)
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = NORMAL")
            self._prepare(path)
        except sqlite3.Error as error:
            message = f"cannot use the database {path}: {error}; restore a backup of --data"
            raise StartError("DATA_NOT_WRITABLE", message) from error

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def insert(self, record: AdaptationRecord) -> None:
        """Add an adaptation."""
        with self._change():
            self._db.execute(
                "INSERT INTO adaptations (id, owner, state, request_id, support, body)"
                " VALUES (?, ?, ?, ?, ?, ?)",
                (
                    *(record.id, record.owner, record.state, record.request_id),
                    *(record.support, _dump(record)),
                ),
            )

    def update(
        self,
        record: AdaptationRecord,
        progress: Sequence[ProgressRecord] | None = None,
        model: ModelRecord | None = None,
    ) -> None:
        """Replace an adaptation; also store its progress and its model if they are given."""
        with self._change():
            self._db.execute(
                "UPDATE adaptations SET state = ?, support = ?, body = ? WHERE id = ?",
                (record.state, record.support, _dump(record), record.id),
            )
            if progress is not None:
                text = json.dumps([asdict(entry) for entry in progress])
                self._db.execute(
                    "UPDATE adaptations SET progress = ? WHERE id = ?", (text, record.id)
                )
            if model is not None:
                self._db.execute(
                    "INSERT INTO models (id, owner, sha256, body) VALUES (?, ?, ?, ?)",
                    (model.id, model.owner, model.sha256, json.dumps(asdict(model))),
                )

    def adaptation(self, id_: str, scope: str | None) -> AdaptationRecord:
        """Return the adaptation with this id.

        Raises:
            NotFound: UNKNOWN_ADAPTATION.
        """
        return _adaptation(self._body("adaptations", "adaptation", id_, scope))

    def progress(self, id_: str) -> tuple[ProgressRecord, ...]:
        """Return the progress of an adaptation that has ended; empty before."""
        row = self._db.execute("SELECT progress FROM adaptations WHERE id = ?", (id_,)).fetchone()
        return tuple(ProgressRecord(**entry) for entry in json.loads(row[0])) if row else ()

    def by_request(self, owner: str, request_id: str) -> AdaptationRecord | None:
        """Return the owner's adaptation with this request id, unless it is cancelled."""
        row = self._db.execute(
            "SELECT body FROM adaptations WHERE owner = ? AND request_id = ?"
            " AND request_id <> '' AND state <> ?",
            (owner, request_id, State.CANCELLED),
        ).fetchone()
        return _adaptation(json.loads(row[0])) if row else None

    def unfinished(self) -> list[AdaptationRecord]:
        """Return the adaptations that have not ended, oldest first."""
        rows = self._db.execute(
            "SELECT body FROM adaptations WHERE state IN (?, ?) ORDER BY number",
            (State.QUEUED, State.RUNNING),
        )
        return [_adaptation(json.loads(body)) for (body,) in rows]

    def adaptations(
        self, before: int | None, count: int, state: State | None, scope: str | None
    ) -> list[tuple[int, AdaptationRecord]]:
        """Return at most `count` adaptations with their numbers below `before`, newest first."""
        rows = self._page("adaptations", before, count, {"state = ?": state, "owner = ?": scope})
        return [(number, _adaptation(body)) for number, body in rows]

    def delete_adaptation(self, id_: str) -> None:
        """Delete an adaptation."""
        with self._change():
            self._db.execute("DELETE FROM adaptations WHERE id = ?", (id_,))

    def model(self, id_: str, scope: str | None) -> ModelRecord:
        """Return the model with this id.

        Raises:
            NotFound: UNKNOWN_MODEL.
        """
        return _model(self._body("models", "model", id_, scope))

    def models(
        self, before: int | None, count: int, scope: str | None
    ) -> list[tuple[int, ModelRecord]]:
        """Return at most `count` models with their numbers below `before`, newest first."""
        rows = self._page("models", before, count, {"owner = ?": scope})
        return [(number, _model(body)) for number, body in rows]

    def model_ids(self, count: int, scope: str | None) -> list[str]:
        """Return the ids of at most `count` models, newest first."""
        rows = self._db.execute(
            "SELECT id FROM models WHERE :owner IS NULL OR owner = :owner"
            " ORDER BY number DESC LIMIT :count",
            {"owner": scope, "count": count},
        )
        return [id_ for (id_,) in rows]

    def delete_model(self, id_: str) -> None:
        """Delete the record of a model; its file stays."""
        with self._change():
            self._db.execute("DELETE FROM models WHERE id = ?", (id_,))

    def digests(self) -> set[str]:
        """Return the digests of all files that a record needs."""
        rows = self._db.execute(
            "SELECT support FROM adaptations WHERE support <> '' UNION SELECT sha256 FROM models"
        )
        return {digest for (digest,) in rows}

    def needs(self, digest: str, except_model: str = "") -> bool:
        """Return True if a record, except for that of this model, needs the file of this digest."""
        row = self._db.execute(
            "SELECT EXISTS (SELECT 1 FROM adaptations WHERE support = :digest)"
            " OR EXISTS (SELECT 1 FROM models WHERE sha256 = :digest AND id <> :model)",
            {"digest": digest, "model": except_model},
        ).fetchone()
        return bool(row[0])

    def _prepare(self, path: Path) -> None:
        version = self._db.execute("PRAGMA user_version").fetchone()[0]
        if version == 0:
            self._run(SCHEMA, FORMAT)
        elif version in STEPS:
            for step in range(version, FORMAT):
                self._run(STEPS[step], step + 1)
        elif version != FORMAT:
            message = (
                f"the database {path} has format {version}, and this server reads {FORMAT};"
                " use the release that wrote it or another --data"
            )
            raise StartError("DATA_NOT_WRITABLE", message)
        (result,) = self._db.execute("PRAGMA quick_check(1)").fetchone()
        if result != "ok":
            raise sqlite3.DatabaseError("the file is damaged")
        self._db.execute("SELECT support, sha256 FROM adaptations, models LIMIT 1")

    def _run(self, script: str, version: int) -> None:
        """Run a script and set the version of the database, both or neither."""
        script = f"BEGIN IMMEDIATE; {script} PRAGMA user_version = {version}; COMMIT;"
        self._db.executescript(script)

    @contextmanager
    def _change(self) -> Iterator[None]:
        try:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")
        except sqlite3.OperationalError as error:
            full = error.sqlite_errorcode == sqlite3.SQLITE_FULL
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            reason = "STORE_FULL" if full else "STORE_FAILED"
            raise StoreError(reason, f"the server cannot write its database: {error}") from error

    def _page(
        self, table: str, before: int | None, count: int, wanted: Mapping[str, str | None]
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yield the newest rows of a table below a number, as far as they meet the conditions.

        wanted: values by condition; None drops a condition.
        """
        conditions = {"number < ?": before, **wanted}
        conditions = {text: value for text, value in conditions.items() if value is not None}
        where = f"WHERE {' AND '.join(conditions)}" if conditions else ""
        rows = self._db.execute(
            f"SELECT number, body FROM {table} {where} ORDER BY number DESC LIMIT ?",
            (*conditions.values(), count),
        )
        return ((number, json.loads(body)) for number, body in rows)

    def _body(self, table: str, kind: str, id_: str, scope: str | None) -> dict[str, Any]:
        query = f"SELECT body FROM {table} WHERE id = :id AND (:scope IS NULL OR owner = :scope)"
        row = self._db.execute(query, {"id": id_, "scope": scope}).fetchone()
        if row is None:
            raise NotFound(kind, f"{table}/{id_}")
        body: dict[str, Any] = json.loads(row[0])
        return body


def _dump(record: AdaptationRecord) -> str:
    return json.dumps(asdict(record))


def _adaptation(body: dict[str, Any]) -> AdaptationRecord:
    failure, classes = body.pop("failure"), body.pop("classes")
    return AdaptationRecord(
        **{**body, "state": State(body["state"]), "labels": tuple(body["labels"])},
        classes=None if classes is None else tuple(classes),
        failure=None if failure is None else _failure(failure),
    )


def _failure(body: dict[str, Any]) -> Failure:
    violations = tuple(Violation(**entry) for entry in body.pop("violations"))
    return Failure(**body, violations=violations)


def _model(body: dict[str, Any]) -> ModelRecord:
    return ModelRecord(**{**body, "labels": tuple(body["labels"])})

"""The records: adaptations, models and loose files, as rows of a database."""

import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Delete,
    Select,
    Table,
    bindparam,
    delete,
    exists,
    func,
    insert,
    select,
    union,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite

from metanas_server.errors import NotFound, StoreUnavailable
from metanas_server.records.database import Database
from metanas_server.records.rows import dump, read_adaptation, read_model, read_progress
from metanas_server.records.tables import ADAPTATIONS, LOOSE, MODELS
from metanas_server.resources import (
    AdaptationRecord,
    ModelRecord,
    ProgressRecord,
    State,
)

UNFINISHED = (State.QUEUED, State.RUNNING)


class Records:
    """The records; all methods may be called from any thread.

    All of them may wait for the database: call them from another thread than the event loop's. Each
    change is one transaction, which is on the disk when the method returns.

    All raise `StoreUnavailable` if the database cannot be used now.

    scope: the owner whose rows the caller sees; None stands for all owners. A row of another owner
    is found as little as a row that does not exist.
    """

    def __init__(self, database: Database) -> None:
        """Use an open database, and close it at the end."""
        self._database = database
        self._uses = dict[str, int]()

    def close(self) -> None:
        """Close the database."""
        self._database.close()

    def probe(self) -> None:
        """Check that the database can be changed.

        Raises:
            StoreUnavailable: it cannot.
        """
        with self._database.change() as connection:
            _loosen(connection, "probe")
            connection.execute(_forget("probe"))

    def loosen(self, digest: str) -> None:
        """Note that a file may exist without a record."""
        with self._database.change() as connection:
            _loosen(connection, digest)

    def forget(self, digest: str) -> None:
        """Note that a loose file no longer exists."""
        with self._database.change() as connection:
            connection.execute(_forget(digest))

    def loose(self) -> set[str]:
        """Return the digests of the files that may exist although no record needs them."""
        rows = self._database.read(select(LOOSE.c.digest))
        return {digest for (digest,) in rows} - self.digests()

    def insert(self, record: AdaptationRecord) -> None:
        """Add an adaptation; its support set is no longer loose."""
        row = insert(ADAPTATIONS).values(
            id=record.id,
            owner=record.owner,
            state=record.state,
            request_id=record.request_id,
            support=record.support,
            body=dump(record),
        )
        with self._database.change() as connection:
            connection.execute(row)
            connection.execute(_forget(record.support))

    def update(
        self,
        record: AdaptationRecord,
        progress: Sequence[ProgressRecord] | None = None,
        model: ModelRecord | None = None,
    ) -> None:
        """Replace an adaptation; also store its progress and its model if they are given.

        A support set that the record no longer needs becomes loose. The same change may be made
        again: a broken connection does not tell whether it was made.
        """
        row = ADAPTATIONS.c.id == record.id
        values: dict[str, Any] = {
            "state": record.state,
            "support": record.support,
            "ended": record.end_time,
            "body": dump(record),
        }
        if progress is not None:
            entries = [json.dumps(asdict(entry)) for entry in progress]
            values["progress"] = f"[{', '.join(entries)}]"
            values["last_progress"] = entries[-1] if entries else "null"
        with self._database.change() as connection:
            former = connection.scalar(select(ADAPTATIONS.c.support).where(row))
            if former and former != record.support:
                _loosen(connection, former)
            connection.execute(update(ADAPTATIONS).where(row).values(values))
            if model is not None:
                _insert_model(connection, model)

    def adaptation(self, id_: str, scope: str | None) -> AdaptationRecord:
        """Return the adaptation with this id.

        Raises:
            NotFound: UNKNOWN_ADAPTATION.
        """
        return read_adaptation(self._body(ADAPTATIONS, "adaptation", id_, scope))

    def progress(self, id_: str) -> tuple[ProgressRecord, ...]:
        """Return the progress of an adaptation that has ended; empty before."""
        query = select(ADAPTATIONS.c.progress).where(ADAPTATIONS.c.id == id_)
        rows = self._database.read(query)
        return tuple(ProgressRecord(**entry) for (text,) in rows for entry in json.loads(text))

    def last_progress(self, id_: str) -> ProgressRecord | None:
        """Return the last progress of an adaptation that has ended; None before."""
        query = select(ADAPTATIONS.c.last_progress).where(ADAPTATIONS.c.id == id_)
        rows = self._database.read(query)
        return read_progress(rows[0][0]) if rows else None

    def by_request(self, owner: str, request_id: str) -> AdaptationRecord | None:
        """Return the owner's adaptation with this request id, unless it is cancelled."""
        if not request_id:
            return None
        query = select(ADAPTATIONS.c.body).where(
            ADAPTATIONS.c.owner == owner,
            ADAPTATIONS.c.request_id == request_id,
            ADAPTATIONS.c.state != State.CANCELLED,
        )
        rows = self._database.read(query)
        return read_adaptation(json.loads(rows[0][0])) if rows else None

    def unfinished(self) -> list[AdaptationRecord]:
        """Return the adaptations that have not ended, oldest first."""
        columns = ADAPTATIONS.c
        query = select(columns.body).where(columns.state.in_(UNFINISHED)).order_by(columns.number)
        return [read_adaptation(json.loads(body)) for (body,) in self._database.read(query)]

    def adaptations(
        self, before: int | None, count: int, state: State | None, scope: str | None
    ) -> list[tuple[int, AdaptationRecord, ProgressRecord | None]]:
        """Return adaptations with their numbers and last progress, newest first.

        before: the number above theirs; None begins with the newest.
        count: most adaptations.
        """
        columns = ADAPTATIONS.c
        query = select(columns.number, columns.body, columns.last_progress)
        if state is not None:
            query = query.where(columns.state == state)
        rows = self._database.read(_page(query, ADAPTATIONS, before, count, scope))
        return [
            (number, read_adaptation(json.loads(body)), read_progress(last))
            for number, body, last in rows
        ]

    def delete_adaptation(self, id_: str) -> None:
        """Delete an adaptation; also on a full disk."""
        self._delete(delete(ADAPTATIONS).where(ADAPTATIONS.c.id == id_))

    def model(self, id_: str, scope: str | None) -> ModelRecord:
        """Return the model with this id.

        Raises:
            NotFound: UNKNOWN_MODEL.
        """
        return read_model(self._body(MODELS, "model", id_, scope))

    def models(
        self, before: int | None, count: int, scope: str | None
    ) -> list[tuple[int, ModelRecord]]:
        """Return at most `count` models with their numbers below `before`, newest first."""
        query = _page(select(MODELS.c.number, MODELS.c.body), MODELS, before, count, scope)
        rows = self._database.read(query)
        return [(number, read_model(json.loads(body))) for number, body in rows]

    def model_ids(self, count: int, scope: str | None) -> list[str]:
        """Return the ids of at most `count` models, newest first."""
        rows = self._database.read(_page(select(MODELS.c.id), MODELS, None, count, scope))
        return [id_ for (id_,) in rows]

    def delete_model(self, id_: str, scope: str | None) -> str:
        """Delete the record of a model, also on a full disk; return the digest of its file.

        The file stays and becomes loose.

        Raises:
            NotFound: UNKNOWN_MODEL.
        """
        digest = self.model(id_, scope).sha256
        self._delete(delete(MODELS).where(MODELS.c.id == id_), loose=digest)
        return digest

    def mark_used(self, id_: str) -> None:
        """Note in memory that a model is used now; `write_uses` writes it down."""
        self._uses[id_] = time.time_ns()

    def write_uses(self) -> None:
        """Write down the uses since the last call."""
        uses, self._uses = self._uses, {}
        if not uses:
            return
        row = update(MODELS).where(MODELS.c.id == bindparam("model")).values(used=bindparam("time"))
        try:
            with self._database.change() as connection:
                connection.execute(row, [{"model": id_, "time": t} for id_, t in uses.items()])
        except StoreUnavailable:
            self._uses = uses | self._uses
            raise

    def longest_unused(self, count: int) -> list[tuple[str, int, int]]:
        """Return id, time of the last use, and bytes of the models whose last use is the oldest."""
        columns = MODELS.c
        query = select(columns.id, columns.used, columns.size)
        query = query.order_by(columns.used, columns.number).limit(count)
        return [(id_, used, size) for id_, used, size in self._database.read(query)]

    def model_bytes(self) -> int:
        """Return the bytes of the files of all models."""
        files = select(MODELS.c.sha256, MODELS.c.size).distinct().subquery()
        ((size,),) = self._database.read(select(func.coalesce(func.sum(files.c.size), 0)))
        return int(size)

    def ended(self, before: int, count: int) -> list[str]:
        """Return the ids of adaptations that ended before a time, the oldest first."""
        column = ADAPTATIONS.c.ended
        query = select(ADAPTATIONS.c.id).where(column > 0, column < before)
        return [id_ for (id_,) in self._database.read(query.order_by(column).limit(count))]

    def digests(self) -> set[str]:
        """Return the digests of all files that a record needs."""
        supports = select(ADAPTATIONS.c.support).where(ADAPTATIONS.c.support != "")
        rows = self._database.read(union(supports, select(MODELS.c.sha256)))
        return {digest for (digest,) in rows}

    def needs(self, digest: str) -> bool:
        """Return True if a record needs the file of this digest."""
        support = exists().where(ADAPTATIONS.c.support == digest)
        ((needed,),) = self._database.read(
            select(support | exists().where(MODELS.c.sha256 == digest))
        )
        return bool(needed)

    def fill_reserve(self) -> None:
        """Reserve room on the disk for a deletion, if there is any."""
        if self._database.reserve is not None:
            self._database.reserve.fill()

    def _delete(self, statement: Delete, loose: str = "") -> None:
        """Delete a record; a full disk gets room from the reserve."""
        try:
            self._try_delete(statement, loose)
        except StoreUnavailable as error:
            if self._database.reserve is None or error.reason == "STORE_BUSY":
                raise
            self._database.reserve.release()
            self._try_delete(statement, loose)

    def _try_delete(self, statement: Delete, loose: str) -> None:
        with self._database.change() as connection:
            if loose:
                _loosen(connection, loose)
            connection.execute(statement)

    def _body(self, table: Table, kind: str, id_: str, scope: str | None) -> dict[str, Any]:
        query = select(table.c.body).where(table.c.id == id_, *_within(table, scope))
        rows = self._database.read(query)
        if not rows:
            raise NotFound(kind, f"{table.name}/{id_}")
        body: dict[str, Any] = json.loads(rows[0][0])
        return body


def _insert_model(connection: Connection, model: ModelRecord) -> None:
    """Add a model, unless it is there; its file is no longer loose."""
    row = _insert_into(connection, MODELS).values(
        id=model.id,
        owner=model.owner,
        sha256=model.sha256,
        size=model.size_bytes,
        used=model.create_time,
        body=json.dumps(asdict(model)),
    )
    connection.execute(row.on_conflict_do_nothing(index_elements=[MODELS.c.id]))
    connection.execute(_forget(model.sha256))


def _loosen(connection: Connection, digest: str) -> None:
    row = _insert_into(connection, LOOSE).values(digest=digest)
    connection.execute(row.on_conflict_do_nothing())


def _insert_into(connection: Connection, table: Table) -> Any:
    """Return an insertion that can ignore a conflict, which each database spells its own way."""
    inserts = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}
    return inserts[connection.dialect.name](table)


def _forget(digest: str) -> Delete:
    return delete(LOOSE).where(LOOSE.c.digest == digest)


def _within(table: Table, scope: str | None) -> list[ColumnElement[bool]]:
    """Return the condition for the rows of a scope."""
    return [] if scope is None else [table.c.owner == scope]


def _page(
    query: Select[Any], table: Table, before: int | None, count: int, scope: str | None
) -> Select[Any]:
    """Return a query for the newest rows of a table within a scope."""
    if before is not None:
        query = query.where(table.c.number < before)
    query = query.where(*_within(table, scope))
    return query.order_by(table.c.number.desc()).limit(count)

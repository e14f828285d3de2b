"""The models: their records, uses and pins, and the callers that share them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Select,
    bindparam,
    delete,
    exists,
    func,
    insert,
    select,
    update,
)

from metanas_server.clock import Clock
from metanas_server.errors import NotFound, QuotaReached, StoreUnavailable
from metanas_server.records.database import Database
from metanas_server.records.files import Files
from metanas_server.records.rows import (
    MODEL,
    enough,
    later,
    read_model,
    read_unused,
    sound,
    write_model,
)
from metanas_server.records.tables import IS_PINNED, MODELS, SHARES, seal_time
from metanas_server.resources import EVERYBODY, ModelChange, ModelRecord


@dataclass(frozen=True, kw_only=True)
class ModelLimits:
    """Limits of changes of models.

    pinned: pinned models of one owner.
    shares: names that a model is shared with.
    """

    pinned: int
    shares: int


class Models:
    """The models; all methods may be called from any thread, and may wait for the database.

    All raise `StoreUnavailable` if the database cannot be used now. `scope` is that of `Records`; a
    shared model is found by those that it is shared with where a method says so.
    """

    def __init__(self, database: Database, files: Files, clock: Clock) -> None:
        """Use a database, the notes of its files, and the time."""
        self._database = database
        self._clock = clock
        self._files = files
        self._uses = dict[str, int]()

    def get(self, id_: str, scope: str | None) -> ModelRecord:
        """Return the model with this id, also one that is shared with the scope.

        Raises:
            NotFound: UNKNOWN_MODEL.
        """
        rows = self._database.read(select(*MODEL).where(MODELS.c.id == id_, *_readable(scope)))
        if not rows:
            raise NotFound("model", f"models/{id_}")
        return read_model(rows[0])

    def page(
        self, before: int | None, count: int, scope: str | None
    ) -> list[tuple[int, ModelRecord]]:
        """Return at most `count` models with their numbers below `before`, newest first.

        Those that are shared with the scope are not among them; see `shared`.
        """
        return self._page(select(*MODEL).where(*_owned(scope)), before, count)

    def shared(self, before: int | None, count: int, reader: str) -> list[tuple[int, ModelRecord]]:
        """Return models of others that a caller may read, as `page` does."""
        return self._page(select(*MODEL).where(*_shared(reader)), before, count)

    def ids(self, count: int, scope: str | None) -> list[str]:
        """Return the ids of at most `count` models, newest first."""
        return self._ids(_owned(scope), count)

    def shared_ids(self, count: int, reader: str) -> list[str]:
        """Return the ids of models of others that a caller may read, newest first."""
        return self._ids(_shared(reader), count)

    def update(
        self, id_: str, scope: str | None, change: ModelChange, limits: ModelLimits
    ) -> ModelRecord:
        """Change a model of the scope as a whole or not at all, and return it.

        Raises:
            NotFound: UNKNOWN_MODEL.
            QuotaReached: PINS_FULL, SHARES_FULL.
        """
        with self._database.change() as connection:
            number, record = _locked(connection, id_, scope)
            if change.pinned and not record.pinned:
                self._check_pins(connection, record.owner, limits.pinned)
            names = set(record.shared_with).difference(change.unshare).union(change.share_with)
            if change.share_with and len(names) > limits.shares:
                text = f"a model may be shared with {limits.shares} names; remove some, or share it"
                raise QuotaReached("SHARES_FULL", f"{text} with all callers ({EVERYBODY!r})")
            pinned = record.pinned if change.pinned is None else change.pinned
            changed = replace(record, pinned=pinned, shared_with=tuple(sorted(names)))
            row = update(MODELS).where(MODELS.c.number == number)
            connection.execute(row.values(write_model(changed)))
            write_shares(connection, number, changed.shared_with)
        return changed

    def delete(self, id_: str, scope: str | None, *, unless_pinned: bool = False) -> str:
        """Delete the record of a model, also on a full disk; return the digest of its file.

        The file stays and becomes loose.

        unless_pinned: find no pinned model.

        Raises:
            NotFound: UNKNOWN_MODEL.
        """
        found = _owned(scope) + ([MODELS.c.pinned == 0] if unless_pinned else [])
        if not self._database.read(select(MODELS.c.id).where(MODELS.c.id == id_, *found)):
            raise NotFound("model", f"models/{id_}")

        def delete_row(connection: Connection) -> str:
            number, record = _locked(connection, id_, scope)
            if unless_pinned and record.pinned:
                raise NotFound("model", f"models/{id_}")
            self._files.note(connection, record.sha256)
            connection.execute(delete(SHARES).where(SHARES.c.model == number))
            connection.execute(delete(MODELS).where(MODELS.c.number == number))
            return record.sha256

        return self._database.make_room(delete_row)

    def insert(self, connection: Connection, model: ModelRecord) -> None:
        """Add a model, unless it is there, as a part of a transaction; its file is needed now."""
        columns = write_model(model)
        used = seal_time(model.create_time)
        row = self._database.insert_into(MODELS).values(used=used, **columns)
        connection.execute(row.on_conflict_do_nothing(index_elements=[MODELS.c.id]))
        self._files.forget(connection, model.sha256)

    def mark_used(self, id_: str) -> None:
        """Note in memory that a model is used now; `write_uses` writes it down."""
        self._uses[id_] = seal_time(self._clock.latest())

    def write_uses(self) -> None:
        """Write down the uses since the last call."""
        uses, self._uses = self._uses, {}
        if not uses:
            return
        row = update(MODELS).where(MODELS.c.id == bindparam("model")).values(used=bindparam("time"))
        try:
            with self._database.change() as connection:
                # All fronts lock the rows in one order: two orders are a deadlock.
                rows = [{"model": id_, "time": time} for id_, time in sorted(uses.items())]
                connection.execute(row, rows)
        except StoreUnavailable:
            self._uses = uses | self._uses
            raise

    def longest_unused(self, count: int) -> list[tuple[str, int, int]]:
        """Return id, time of the last use, and bytes of the models whose last use is the oldest.

        Pinned ones and damaged ones are not among them.
        """
        columns = MODELS.c
        query = select(*MODEL, columns.used).where(columns.pinned == 0)
        query = query.order_by(columns.used, columns.number)

        def after(last: Any, most: int) -> Sequence[Any]:
            rest = query if last is None else query.where(later(columns.used, columns.number, last))
            return self._database.read(rest.limit(most))

        found = enough(count, after, read_unused)
        return [(each.id, max(row.used, each.create_time), each.size_bytes) for row, each in found]

    def sound_bytes(self) -> int:
        """Return the bytes of the files of models that are not damaged; this reads all of them."""
        found = sound(self._database.read(select(*MODEL)), read_model)
        return sum({each.sha256: each.size_bytes for _, each in found}.values())

    def total_bytes(self, *, pinned: bool = False) -> int:
        """Return the bytes of the files of all models, or of the pinned ones."""
        # As an expression: in the order of the index of files, SQLite would read all models.
        files = select(MODELS.c.sha256.concat("").label("file"), MODELS.c.size).distinct()
        if pinned:
            files = files.where(IS_PINNED)
        query = select(func.coalesce(func.sum(files.subquery().c.size), 0))
        ((size,),) = self._database.read(query)
        return int(size)

    def largest_bytes(self) -> int:
        """Return the bytes of the largest file; 0 without models."""
        ((size,),) = self._database.read(select(func.coalesce(func.max(MODELS.c.size), 0)))
        return int(size)

    def _check_pins(self, connection: Connection, owner: str, most: int) -> None:
        self._database.lock(connection, f"pins {owner}")
        pinned = select(func.count()).where(MODELS.c.owner == owner, IS_PINNED)
        if connection.execute(pinned.select_from(MODELS)).scalar_one() >= most:
            text = f"a caller may have {most} pinned models; unpin or delete one of them first"
            raise QuotaReached("PINS_FULL", text)

    def _page(
        self, query: Select[Any], before: int | None, count: int
    ) -> list[tuple[int, ModelRecord]]:
        if before is not None:
            query = query.where(MODELS.c.number < before)
        query = query.order_by(MODELS.c.number.desc())

        def after(last: Any, most: int) -> Sequence[Any]:
            below = query if last is None else query.where(MODELS.c.number < last.number)
            return self._database.read(below.limit(most))

        return [(row.number, record) for row, record in enough(count, after, read_model)]

    def _ids(self, found: list[ColumnElement[bool]], count: int) -> list[str]:
        query = select(MODELS.c.id).where(*found)
        rows = self._database.read(query.order_by(MODELS.c.number.desc()).limit(count))
        return [id_ for (id_,) in rows]


def write_shares(connection: Connection, model: int, names: Sequence[str]) -> None:
    """Replace the shares of a model."""
    connection.execute(delete(SHARES).where(SHARES.c.model == model))
    if names:
        connection.execute(insert(SHARES), [{"model": model, "name": name} for name in names])


def _locked(connection: Connection, id_: str, scope: str | None) -> tuple[int, ModelRecord]:
    """Return the number and the record of a model, and keep changes of other fronts waiting.

    Raises:
        NotFound: UNKNOWN_MODEL.
        StoreError: RECORD_DAMAGED.
    """
    query = select(MODELS.c.number).where(MODELS.c.id == id_, *_owned(scope)).with_for_update()
    number = connection.scalar(query)
    if number is None:
        raise NotFound("model", f"models/{id_}")
    # A statement of its own: one that has waited for the lock may see shares of before.
    row = connection.execute(select(*MODEL).where(MODELS.c.number == number)).one()
    return number, read_model(row)


def _owned(scope: str | None) -> list[ColumnElement[bool]]:
    """Return the condition for the models of a scope."""
    return [] if scope is None else [MODELS.c.owner == scope]


def _readable(scope: str | None) -> list[ColumnElement[bool]]:
    """Return the condition for one model that a scope may read.

    The shares of the model alone are looked up: the time tells nothing about an unknown id.
    """
    if scope is None:
        return []
    names = SHARES.c.name.in_((scope, EVERYBODY))
    return [(MODELS.c.owner == scope) | exists().where(SHARES.c.model == MODELS.c.number, names)]


def _shared(reader: str) -> list[ColumnElement[bool]]:
    """Return the condition for the models that others share with a caller."""
    shared = select(SHARES.c.model).where(SHARES.c.name.in_((reader, EVERYBODY)))
    return [MODELS.c.number.in_(shared), MODELS.c.owner != reader]

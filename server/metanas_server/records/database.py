"""A database: its connections for changes and for reads, and its errors."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import (
    ColumnElement,
    Connection,
    Engine,
    Executable,
    Table,
    literal_column,
    text,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DBAPIError, IntegrityError, ProgrammingError
from sqlalchemy.exc import TimeoutError as NoConnection

from metanas_server.errors import StoreError, StoreUnavailable

CHANNEL = "metanas"
"""The channel of notices in PostgreSQL."""
PAGE_DAMAGED = "PAGE_DAMAGED"
"""The reason of an error that says: a part of the database has changed on its disk."""
RESERVE_BYTES = 2**20  # room on a full disk for the deletion of a record
Value = TypeVar("Value")
CLOCKS = {
    "postgresql": "(extract(epoch from clock_timestamp()) * 1000)::bigint",
    "sqlite": "CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)",
}
"""The clock of each kind of database, in milliseconds since 1970."""


@dataclass(frozen=True)
class Reserve:
    """The file `reserve` beside an SQLite database."""

    path: Path

    def fill(self) -> None:
        """Write the file if there is room for it."""
        with suppress(OSError):
            if not self.path.exists():
                self.path.write_bytes(os.urandom(RESERVE_BYTES))  # a hole takes no room

    def release(self) -> None:
        """Remove the file."""
        with suppress(OSError):
            self.path.unlink(missing_ok=True)


@dataclass(frozen=True, kw_only=True)
class Database:
    """A database that may be used from any thread. Both kinds of it have the same methods.

    changes: connections whose transactions may change rows.
    reads: connections without transactions.
    reason: finds the reason of an error: STORE_FULL, STORE_BUSY, STORE_FAILED or PAGE_DAMAGED.
    reserve: room for deletions; None where the server does not see the disk of the database.
    """

    changes: Engine
    reads: Engine
    reason: Callable[[BaseException], str]
    reserve: Reserve | None = None

    @contextmanager
    def change(self) -> Iterator[Connection]:
        """Yield a connection in a transaction, which is on the disk after the block.

        Raises:
            StoreUnavailable: nothing has changed; or, if the connection broke in the last moment,
                the whole transaction is there.
        """
        with self._as_store_error(), self.changes.begin() as connection:
            yield connection

    def make_room(self, deletion: Callable[[Connection], Value]) -> Value:
        """Run a deletion as one transaction; a full disk gets room from the reserve.

        Raises:
            StoreUnavailable: see `change`.
        """
        try:
            with self.change() as connection:
                return deletion(connection)
        except StoreUnavailable as error:
            if self.reserve is None or error.reason == "STORE_BUSY":
                raise
            self.reserve.release()
        with self.change() as connection:
            return deletion(connection)

    def read(self, query: Executable) -> Sequence[Any]:
        """Return the rows of a query.

        Raises:
            StoreError: RECORD_DAMAGED, a part of the database that the query needs is damaged.
            StoreUnavailable: the database cannot be used now.
        """
        with self._as_store_error(reading=True), self.reads.connect() as connection:
            return connection.execute(query).all()

    @property
    def is_shared(self) -> bool:
        """True if several fronts may use the database at the same time."""
        return self.changes.dialect.name == "postgresql"

    @property
    def clock(self) -> ColumnElement[Any]:
        """Return the expression for the time of the database, in milliseconds since 1970."""
        return literal_column(CLOCKS[self.changes.dialect.name])

    def insert_into(self, table: Table) -> Any:
        """Return an insertion that can ignore a conflict, which each kind spells its own way."""
        inserts = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}
        return inserts[self.changes.dialect.name](table)

    def lock(self, connection: Connection, name: str) -> None:
        """Keep other fronts' transactions with a lock of this name waiting until the end."""
        if self.is_shared:
            query = text("SELECT pg_advisory_xact_lock(hashtextextended(:name, 0))")
            connection.execute(query, {"name": name})

    def notify(self, connection: Connection, front: str, ids: Sequence[str]) -> None:
        """Send the fronts notices that adaptations have changed, at the end of a transaction."""
        if self.is_shared and ids:
            query = (
                "SELECT pg_notify(:channel, notice) FROM unnest(CAST(:notices AS text[])) notice"
            )
            notices = [f"{front} {id_}" for id_ in ids]
            connection.execute(text(query), {"channel": CHANNEL, "notices": notices})

    def do_not_wait_for_the_disk(self, connection: Connection) -> None:
        """End a transaction before it is on the disk: a power cut may undo it as a whole."""
        if self.is_shared:
            connection.execute(text("SET LOCAL synchronous_commit TO OFF"))

    def close(self) -> None:
        """Close the connections."""
        self.changes.dispose()
        self.reads.dispose()

    @contextmanager
    def _as_store_error(self, *, reading: bool = False) -> Iterator[None]:
        """Turn errors, except for defects of a statement, into `StoreUnavailable`.

        reading: damage is an error of its own.
        """
        try:
            yield
        except NoConnection as error:
            message = "all connections to the server's database are in use; try again shortly"
            raise StoreUnavailable("STORE_BUSY", message) from error
        except (IntegrityError, ProgrammingError):
            raise
        except DBAPIError as error:
            reason = self.reason(error.orig or error)
            if reason == PAGE_DAMAGED and reading:
                message = "a part of the server's database is damaged; restore a backup of it"
                raise StoreError("RECORD_DAMAGED", message) from error
            reason = reason if reason in MEANINGS else "STORE_FAILED"
            message = f"the server's database cannot be used now: {MEANINGS[reason]}"
            raise StoreUnavailable(reason, message) from error


MEANINGS = {
    "STORE_FULL": "its disk is full; delete models or adaptations",
    "STORE_BUSY": "another program has locked it; try again shortly",
    "STORE_FAILED": "the server's log says why; try again shortly",
}
"""Meanings of the reasons, for callers. The details of a database are not for them."""

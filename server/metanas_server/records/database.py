"""A database: its connections for changes and for reads, and its errors."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Engine, Executable
from sqlalchemy.exc import DBAPIError, IntegrityError, ProgrammingError
from sqlalchemy.exc import TimeoutError as NoConnection

from metanas_server.errors import StoreUnavailable
from metanas_server.records.reserve import Reserve


@dataclass(frozen=True, kw_only=True)
class Database:
    """A database that may be used from any thread. Both kinds of it have the same methods.

    changes: connections whose transactions may change rows.
    reads: connections without transactions.
    reason: finds the reason of an error: STORE_FULL, STORE_BUSY or STORE_FAILED.
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

    def read(self, query: Executable) -> Sequence[Any]:
        """Return the rows of a query.

        Raises:
            StoreUnavailable: the database cannot be used now.
        """
        with self._as_store_error(), self.reads.connect() as connection:
            return connection.execute(query).all()

    def close(self) -> None:
        """Close the connections."""
        self.changes.dispose()
        self.reads.dispose()

    @contextmanager
    def _as_store_error(self) -> Iterator[None]:
        """Turn errors, except for defects of a statement, into `StoreUnavailable`."""
        try:
            yield
        except NoConnection as error:
            message = "all connections to the server's database are in use; try again shortly"
            raise StoreUnavailable("STORE_BUSY", message) from error
        except (IntegrityError, ProgrammingError):
            raise
        except DBAPIError as error:
            reason = self.reason(error.orig or error)
            message = f"the server's database cannot be used now: {MEANINGS[reason]}"
            raise StoreUnavailable(reason, message) from error


MEANINGS = {
    "STORE_FULL": "its disk is full; delete models or adaptations",
    "STORE_BUSY": "another program has locked it; try again shortly",
    "STORE_FAILED": "the server's log says why; try again shortly",
}
"""Meanings of the reasons, for callers. The details of a database are not for them."""

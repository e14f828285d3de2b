"""SQLite: one file in WAL mode, which one server uses at a time."""

import sqlite3
from pathlib import Path

from sqlalchemy import Connection, Engine, NullPool, QueuePool, create_engine, event
from sqlalchemy.exc import DatabaseError, DBAPIError

from metanas_server.errors import StartError
from metanas_server.records.database import Database
from metanas_server.records.migrate import Use, prepare
from metanas_server.records.reserve import Reserve

BUSY_SECONDS = 1.0  # longest wait of a change for the lock of another program
REASONS = {
    sqlite3.SQLITE_FULL: "STORE_FULL",
    sqlite3.SQLITE_BUSY: "STORE_BUSY",
    sqlite3.SQLITE_LOCKED: "STORE_BUSY",
}
NO_ROOM = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR)
DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def open_sqlite(path: Path, use: Use) -> Database:
    """Open the file, or create it. A full disk gets room from the reserve first.

    use: SERVE or MIGRATE.

    Raises:
        StartError: DATABASE_DAMAGED; DATABASE_VERSION, another release has written it;
            DATA_NOT_WRITABLE, it cannot be written.
    """
    reserve = Reserve(path.with_name("reserve"))
    try:
        try:
            return _open(path, reserve, use)
        except DBAPIError as error:
            if _code(error.orig) not in NO_ROOM:
                raise
            reserve.release()
            return _open(path, reserve, use)
    except DBAPIError as error:
        damaged = _code(error.orig) in DAMAGED
        reason = "DATABASE_DAMAGED" if damaged else "DATA_NOT_WRITABLE"
        repair = "use metanas-server restore, or metanas-server repair"
        todo = repair if damaged else "make room on its disk, and check its permissions"
        message = f"cannot use the database {path}: {error.orig}; {todo}"
        raise StartError(reason, message) from error


def look_at_sqlite(path: Path) -> Database:
    """Open an existing file for reads alone; nothing changes, also not beside the file.

    Raises:
        StartError: DATABASE_DAMAGED, DATABASE_VERSION, DATABASE_EMPTY.
    """
    # A database without a log is complete, and as "immutable" it is read without new files.
    mode = "mode=ro" if path.with_name(f"{path.name}-wal").exists() else "immutable=1"
    address = f"{path.resolve().as_uri()}?{mode}"
    engine = create_engine(
        "sqlite://", creator=lambda: sqlite3.connect(address, uri=True), poolclass=NullPool
    )
    try:
        with engine.connect() as connection:
            prepare(connection, f"the database {path}", Use.LOOK)
            _check(connection)
    except DBAPIError as error:
        message = f"{path} is damaged ({error.orig}); restore a backup of --data"
        raise StartError("DATABASE_DAMAGED", message) from error
    return Database(changes=engine, reads=engine, reason=_reason)


def _open(path: Path, reserve: Reserve, use: Use) -> Database:
    changes = _engine(path, BUSY_SECONDS)
    try:
        with changes.connect() as connection:
            connection.exec_driver_sql("PRAGMA journal_mode = WAL")
        event.listen(changes, "begin", _begin)
        with changes.begin() as connection:
            prepare(connection, f"the database {path}", use)
            _check(connection)
    except BaseException:
        changes.dispose()
        raise
    reads = _engine(path, 0)
    return Database(changes=changes, reads=reads, reason=_reason, reserve=reserve)


def _engine(path: Path, patience: float) -> Engine:
    """Make the connections; all of them leave transactions to `_begin`.

    patience: seconds that a statement waits for a lock.
    """

    def connect() -> sqlite3.Connection:
        opened = sqlite3.connect(
            path, timeout=patience, isolation_level=None, check_same_thread=False
        )
        opened.execute("PRAGMA synchronous = FULL")
        return opened

    return create_engine("sqlite://", creator=connect, poolclass=QueuePool)


def _begin(connection: Connection) -> None:
    """Take the lock at once: in the middle of a transaction SQLite would not wait for it."""
    connection.exec_driver_sql("BEGIN IMMEDIATE")


def _check(connection: Connection) -> None:
    (result,) = connection.exec_driver_sql("PRAGMA quick_check(1)").one()
    if result != "ok":
        damaged = sqlite3.DatabaseError("the file is damaged")
        damaged.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
        raise DatabaseError("PRAGMA quick_check(1)", None, damaged)


def _reason(error: BaseException) -> str:
    return REASONS.get(_code(error), "STORE_FAILED")


def _code(error: BaseException | None) -> int:
    """Return the primary code of an error of SQLite."""
    code: int = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)
    return code & 0xFF

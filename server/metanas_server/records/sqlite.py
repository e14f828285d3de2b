"""SQLite: one file in WAL mode, which one server uses at a time."""

import logging
import sqlite3
from pathlib import Path

from sqlalchemy import Connection, Engine, NullPool, QueuePool, create_engine, event, select
from sqlalchemy.exc import DatabaseError, DBAPIError

from metanas_server.errors import StartError
from metanas_server.records.database import PAGE_DAMAGED, Database, Reserve
from metanas_server.records.migrate import Use, prepare
from metanas_server.records.tables import METADATA

LOG = logging.getLogger(__name__)
BUSY_SECONDS = 1.0  # longest wait of a change for the lock of another program
REASONS = {
    sqlite3.SQLITE_FULL: "STORE_FULL",
    sqlite3.SQLITE_BUSY: "STORE_BUSY",
    sqlite3.SQLITE_LOCKED: "STORE_BUSY",
    sqlite3.SQLITE_CORRUPT: PAGE_DAMAGED,
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
    except UnicodeDecodeError as error:
        raise _damaged(path, error, use) from error
    except DBAPIError as error:
        if _code(error.orig) in DAMAGED:
            raise _damaged(path, error.orig, use) from error
        todo = "make room on its disk, and check its permissions"
        message = f"cannot use the database {path}: {error.orig}; {todo}"
        raise StartError("DATA_NOT_WRITABLE", message) from error


def look_at_sqlite(path: Path) -> Database:
    """Open an existing file for reads alone; nothing changes, also not beside the file.

    Raises:
        StartError: DATABASE_DAMAGED, DATABASE_VERSION, DATABASE_EMPTY.
    """
    # A database without a log is complete, and as "immutable" it is read without new files.
    mode = "mode=ro" if path.with_name(f"{path.name}-wal").exists() else "immutable=1"
    address = f"{path.resolve().as_uri()}?{mode}"

    def connect() -> sqlite3.Connection:
        opened = sqlite3.connect(address, uri=True)
        opened.text_factory = _text
        return opened

    engine = create_engine("sqlite://", creator=connect, poolclass=NullPool)
    try:
        with engine.connect() as connection:
            prepare(connection, f"the database {path}", Use.LOOK)
            _check(connection, "integrity_check")
            _check_columns(connection)
    except UnicodeDecodeError as error:
        raise _damaged(path, error, Use.LOOK) from error
    except DBAPIError as error:
        raise _damaged(path, error.orig, Use.LOOK) from error
    return Database(changes=engine, reads=engine, reason=_reason)


def _damaged(path: Path, cause: BaseException | None, use: Use) -> StartError:
    todo = "use metanas-server restore, or metanas-server repair"
    if use is Use.MIGRATE:
        todo += " of the release that wrote it"  # this one repairs no older tables
    return StartError("DATABASE_DAMAGED", f"cannot use the database {path}: {cause}; {todo}")


def _open(path: Path, reserve: Reserve, use: Use) -> Database:
    changes = _engine(path, BUSY_SECONDS)
    try:
        with changes.connect() as connection:
            connection.exec_driver_sql("PRAGMA journal_mode = WAL")
        event.listen(changes, "begin", _begin)
        with changes.begin() as connection:
            prepare(connection, f"the database {path}", use)
            _check(connection, "quick_check")
            _check_columns(connection)
            _mend_indexes(connection, path)
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
        opened.text_factory = _text
        opened.execute("PRAGMA synchronous = FULL")
        return opened

    return create_engine("sqlite://", creator=connect, poolclass=QueuePool)


def _begin(connection: Connection) -> None:
    """Take the lock at once: in the middle of a transaction SQLite would not wait for it."""
    connection.exec_driver_sql("BEGIN IMMEDIATE")


def _text(raw: bytes) -> str:
    """Decode text also if it is damaged: its checksum differs then."""
    return raw.decode("utf-8", "surrogateescape")


def _check(connection: Connection, pragma: str) -> None:
    """Check the file: `quick_check` its structure, `integrity_check` its indexes, too."""
    (result,) = connection.exec_driver_sql(f"PRAGMA {pragma}(1)").one()
    if result != "ok":
        raise _corrupt("the file is damaged")


def _check_columns(connection: Connection) -> None:
    """Check that no name of a column has changed."""
    try:
        for table in METADATA.tables.values():
            connection.execute(select(table).limit(0))
    except DBAPIError as error:
        raise _corrupt(f"the file is damaged: {error.orig}") from error


def _corrupt(cause: str) -> DatabaseError:
    """Make the error of SQLite for a damaged file."""
    damaged = sqlite3.DatabaseError(cause)
    damaged.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
    return DatabaseError("PRAGMA", None, damaged)


def _mend_indexes(connection: Connection, path: Path) -> None:
    """Make the indexes again if one of them differs from its table."""
    try:
        _check(connection, "integrity_check")
    except DatabaseError:
        LOG.warning("an index of %s was damaged, and is made again", path)
        connection.exec_driver_sql("REINDEX")
        _check(connection, "integrity_check")


def _reason(error: BaseException) -> str:
    return REASONS.get(_code(error), "STORE_FAILED")


def _code(error: BaseException | None) -> int:
    """Return the primary code of an error of SQLite."""
    code: int = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)
    return code & 0xFF

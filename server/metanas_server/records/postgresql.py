"""PostgreSQL: a database of its own, reached over a network, which sends notices of changes."""

import select
from collections.abc import AsyncGenerator
from typing import Any

from sqlalchemy import URL, create_engine, event, text
from sqlalchemy.exc import DBAPIError, DisconnectionError

from metanas_server.errors import StartError, StoreUnavailable
from metanas_server.records.database import CHANNEL, PAGE_DAMAGED, Database
from metanas_server.records.migrate import Use, prepare

CONNECTIONS = 8
CONNECT_SECONDS, POOL_SECONDS = 3, 5
SETTINGS = {
    "statement_timeout": 10_000,
    "lock_timeout": 2_000,
    "idle_in_transaction_session_timeout": 60_000,
}
"""Settings of each session, in milliseconds: no thread of the server waits for ever."""
NETWORK = {
    "connect_timeout": CONNECT_SECONDS,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
}
"""Options of libpq: a database that is gone without a word is noticed within seconds."""
REASONS = {
    "53100": "STORE_FULL",  # disk_full
    "40001": "STORE_BUSY",  # serialization_failure
    "40P01": "STORE_BUSY",  # deadlock_detected
    "55P03": "STORE_BUSY",  # lock_not_available
    "57014": "STORE_BUSY",  # query_canceled, by statement_timeout
    "XX001": PAGE_DAMAGED,  # data_corrupted
    "XX002": PAGE_DAMAGED,  # index_corrupted
}
"""Reasons by SQLSTATE."""
MIGRATION_LOCK = 0x6D65_7461  # only one server creates the tables


def open_postgresql(url: URL, use: Use) -> Database:
    """Connect to the database of a URL, and create the tables if it is empty.

    Raises:
        StartError: DATABASE_VERSION, another release has written it; DATABASE_EMPTY;
            DATABASE_UNREACHABLE; DRIVER_MISSING, psycopg is not installed.
    """
    settings = " ".join(f"-c {name}={value}" for name, value in SETTINGS.items())
    try:
        engine = create_engine(
            url.set(drivername="postgresql+psycopg"),
            connect_args={**NETWORK, "options": settings, "application_name": "metanas-server"},
            pool_size=CONNECTIONS,
            pool_timeout=POOL_SECONDS,
        )
        event.listen(engine, "checkout", _check_open)
    except ModuleNotFoundError as error:
        message = f'PostgreSQL needs {error.name}; run: pip install "metanas-server[postgres]"'
        raise StartError("DRIVER_MISSING", message) from error
    name = f"the database {url.render_as_string(hide_password=True)}"
    try:
        with engine.begin() as connection:
            connection.execute(
                text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": MIGRATION_LOCK}
            )
            prepare(connection, name, use)
    except DBAPIError as error:
        engine.dispose()
        cause = str(error.orig).strip().splitlines()[0]
        message = f"{name} cannot be used: {cause}; check --records and the database"
        raise StartError("DATABASE_UNREACHABLE", message) from error
    except StartError:
        engine.dispose()
        raise
    reads = engine.execution_options(isolation_level="AUTOCOMMIT")
    return Database(changes=engine, reads=reads, reason=_reason)


async def listen(url: URL) -> AsyncGenerator[tuple[str, str]]:
    """Yield the front that has made a change, and the id of the changed adaptation.

    The first pair is empty: notices are heard from now on.

    Raises:
        StoreUnavailable: STORE_FAILED, the connection is broken, and notices may be lost.
    """
    import psycopg  # an extra of the package
    from psycopg.conninfo import make_conninfo

    address = make_conninfo(url.render_as_string(hide_password=False), **NETWORK)
    try:
        opened = await psycopg.AsyncConnection.connect(address, autocommit=True)
        async with opened:
            await opened.execute(f"LISTEN {CHANNEL}".encode())
            yield "", ""
            async for notice in opened.notifies():
                front, _, id_ = notice.payload.partition(" ")
                yield front, id_
    except psycopg.Error as error:
        raise StoreUnavailable("STORE_FAILED", "the database sends no notices now") from error


def _check_open(connection: Any, *_: Any) -> None:
    """Have the pool replace a connection that the database has closed.

    An open one has nothing to read between two statements. A ping would say the same, but half of
    the statements of an adaptation would be pings.
    """
    if not connection.closed:
        look = select.poll()
        look.register(connection.fileno(), select.POLLIN)
        if not look.poll(0):
            return
    raise DisconnectionError


def _reason(error: BaseException) -> str:
    return REASONS.get(getattr(error, "sqlstate", None) or "", "STORE_FAILED")

"""The address of the records: `sqlite:///FILE` or `postgresql://USER:PASSWORD@HOST:PORT/NAME`."""

from pathlib import Path

from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

from metanas_server.errors import StartError
from metanas_server.records.database import Database
from metanas_server.records.migrate import Use
from metanas_server.records.postgresql import open_postgresql
from metanas_server.records.sqlite import look_at_sqlite, open_sqlite

DATABASE = "records.sqlite3"
"""The file in the data folder, which has the records without an address."""


def read_address(text: str | None, data: Path) -> Path | URL:
    """Return the file of SQLite or the URL of PostgreSQL.

    text: the address; None stands for the file in the data folder.

    Raises:
        StartError: CONFIG_INVALID, it is no address.
    """
    if text is None:
        return data / DATABASE
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):  # ValueError: the port is no number
        url = URL.create("unknown")
    is_file = url.database not in (None, "", ":memory:") and not url.host and not url.query
    if url.drivername == "sqlite" and url.database and is_file:
        return Path(url.database)
    if url.drivername == "postgresql" and url.database:
        return url
    message = (
        "--records must be sqlite:///FILE (with four slashes for an absolute path) or"
        " postgresql://USER:PASSWORD@HOST:PORT/NAME"
    )
    raise StartError("CONFIG_INVALID", message)


def open_database(address: Path | URL, use: Use = Use.SERVE) -> Database:
    """Open a database.

    Raises:
        StartError: DATABASE_DAMAGED, DATABASE_VERSION, DATABASE_EMPTY, DATABASE_UNREACHABLE,
            DATA_NOT_WRITABLE, DRIVER_MISSING.
    """
    if isinstance(address, URL):
        return open_postgresql(address, use)
    return look_at_sqlite(address) if use is Use.LOOK else open_sqlite(address, use)

"""Bring the tables of a database up to date, with the steps of the folder `versions`."""

from collections.abc import Sequence
from enum import Enum, auto
from pathlib import Path

from sqlalchemy import Connection, TextClause, inspect, text

from metanas_server.errors import StartError
from metanas_server.records.database import CLOCKS

HEAD = 7
"""The version that this release reads; each step of the folder `versions` makes the next one."""
FORMAT_BEFORE = 5
"""The format of SQLite files before version 1, with the same tables."""
VERSIONS = "alembic_version"
"""The table with the version."""


SILENCE = 60
"""Seconds without a beat after which a server counts as stopped."""


class Use(Enum):
    """The use of a database: it says which changes of its tables are allowed."""

    LOOK = auto()
    """None."""
    SERVE = auto()
    """Create the tables in an empty database."""
    MIGRATE = auto()
    """Also bring older tables up to date."""


def prepare(connection: Connection, name: str, use: Use) -> None:
    """Create the tables in an empty database, and check the version of another one.

    name: of the database, for the errors.

    Raises:
        StartError: DATABASE_VERSION, another release or another program has written it;
            DATABASE_EMPTY, it may not be changed; DATA_IN_USE, servers use the older tables.
    """
    tables = set(inspect(connection).get_table_names())
    version = _version(connection, tables)
    if version == HEAD:
        return
    if version > HEAD:
        todo = f"has version {version}, and this release reads {HEAD}; use the release that wrote"
        raise StartError("DATABASE_VERSION", f"{name} {todo} it, or a newer one")
    if version < 0:
        todo = "has tables of another program or of a trial version; name an empty database"
        raise StartError("DATABASE_VERSION", f"{name} {todo}")
    if not tables and use is Use.LOOK:
        raise StartError("DATABASE_EMPTY", f"{name} is empty; the server creates its tables")
    if tables and use is not Use.MIGRATE:
        todo = f"has version {version}, and this release reads {HEAD}; make a backup, stop all"
        todo = f"{todo} servers that use it, and run: metanas-server migrate"
        raise StartError("DATABASE_VERSION", f"{name} {todo}")
    if "fronts" in tables:
        names = connection.execute(running(connection.dialect.name)).scalars().all()
        if names:
            raise in_use(names)
    _upgrade(connection, version)


def running(dialect: str) -> TextClause:
    """Return the query for the servers that use a database; a jump of its clock hides none."""
    return text(
        f"SELECT id FROM fronts WHERE abs({CLOCKS[dialect]} - seen) < {SILENCE * 1000} ORDER BY id"
    )


def in_use(names: Sequence[str]) -> StartError:
    """Make the error for a database that servers use."""
    message = f"{', '.join(names)} use the database; stop them, or wait for {SILENCE} s"
    return StartError("DATA_IN_USE", message)


def _version(connection: Connection, tables: set[str]) -> int:
    """Return the version of the tables; 0 before the first one, -1 for foreign tables."""
    if VERSIONS in tables:
        row = connection.exec_driver_sql(f"SELECT version_num FROM {VERSIONS}").first()
        text = "" if row is None else str(row[0])
        return int(text) if text.isdecimal() else -1
    if not tables:
        return 0
    if connection.dialect.name == "sqlite":
        (before,) = connection.exec_driver_sql("PRAGMA user_version").one()
        if before == FORMAT_BEFORE and "loose" in tables:
            return 0
    return -1


def _upgrade(connection: Connection, version: int) -> None:
    """Run the steps after a version; the tables of `FORMAT_BEFORE` have taken the first one."""
    from alembic.migration import MigrationContext  # takes 0.2 s
    from alembic.operations import Operations
    from alembic.script import ScriptDirectory

    folder = str(Path(__file__).parent)
    script = ScriptDirectory(folder, version_locations=[f"{folder}/versions"])
    context = MigrationContext.configure(connection)
    if version == 0 and inspect(connection).get_table_names():
        version = 1
    steps = list(script.iterate_revisions(str(HEAD), str(version) if version else "base"))
    with Operations.context(context):
        for step in reversed(steps):
            step.module.upgrade()
    context.stamp(script, str(HEAD))

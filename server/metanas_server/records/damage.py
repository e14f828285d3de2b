"""Rows that have changed since they were written: find them, and mend them or take them out."""

import json
import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Column, Connection, Integer, Table, delete, select, update

from metanas_server.disk import sync_folder
from metanas_server.records.database import Database
from metanas_server.records.rows import (
    ADAPTATION,
    MODEL,
    is_progress,
    parse_adaptation,
    parse_model,
    write_adaptation,
    write_model,
    write_progress,
)
from metanas_server.records.tables import ADAPTATIONS, LOOSE, MODELS, SHARES

BATCH = 500  # rows that are read at once


@dataclass(frozen=True)
class Flaw:
    """A damaged row.

    name: of its record.
    columns: the right columns, if its body is sound.
    """

    table: Table
    number: int
    name: str
    columns: dict[str, Any] | None


class Damage:
    """The damaged rows of a database; all methods raise `StoreUnavailable` if it cannot be used."""

    def __init__(self, database: Database) -> None:
        """Use an open database."""
        self._database = database

    def find(self) -> list[Flaw]:
        """Return all damaged rows; this reads the whole database."""
        progress = [ADAPTATIONS.c.progress, ADAPTATIONS.c.last_progress]
        found = list(self._find(ADAPTATIONS, [*ADAPTATION, *progress], _adaptation))
        return found + list(self._find(MODELS, MODEL, _model))

    def mend(self, path: Path) -> list[str]:
        """Mend the damaged rows, or move them to a file; return lines for people.

        A sound body gives the right columns. Without one the row moves to the file, as JSON.

        path: the file, which is created if a row moves.
        """
        lines = list[str]()
        for flaw in self.find():
            row = flaw.table.c.number == flaw.number
            with self._database.change() as connection:
                if flaw.columns is not None:
                    connection.execute(update(flaw.table).where(row).values(flaw.columns))
                    lines.append(f"{flaw.name}: mended the record")
                else:
                    _append(path, _raw(connection, flaw))
                    connection.execute(delete(flaw.table).where(row))
                    lines.append(f"{flaw.name}: moved the damaged record to {path}")
        return lines

    def _find(
        self,
        table: Table,
        columns: list[Column[Any]],
        right: Callable[[Any], dict[str, Any] | None],
    ) -> Iterator[Flaw]:
        number = table.c.number
        query = select(*columns, number).order_by(number).limit(BATCH)
        rows = self._database.read(query)
        while rows:
            for row in rows:
                wanted = right(row)
                if wanted is None or _differs(row, wanted):
                    yield Flaw(table, row.number, f"{table.name}/{row.id}", wanted)
            rows = self._database.read(query.where(number > rows[-1].number))


def _differs(row: Any, wanted: dict[str, Any]) -> bool:
    """Return True if a row has other columns; another release may have written other bodies."""
    return any(getattr(row, key) != wanted[key] for key in wanted if key != "body")


def _adaptation(row: Any) -> dict[str, Any] | None:
    """Return the right columns of an adaptation; damaged progress becomes empty."""
    record = parse_adaptation(row.body)
    if record is None:
        return None
    columns, last = write_adaptation(record), row.last_progress
    is_whole = is_progress(row.progress) and is_progress(None if last is None else f"[{last}]")
    return columns if is_whole else columns | write_progress(())


def _model(row: Any) -> dict[str, Any] | None:
    record = parse_model(row.body)
    return None if record is None else write_model(record)


def _raw(connection: Connection, flaw: Flaw) -> dict[str, Any]:
    """Return a row as it is in the database."""
    query = f"SELECT * FROM {flaw.table.name} WHERE number = {flaw.number:d}"
    return dict(connection.exec_driver_sql(query).mappings().one())


def _append(path: Path, row: dict[str, Any]) -> None:
    with path.open("a", encoding="utf-8") as file:
        print(json.dumps(row, default=repr), file=file)
        file.flush()
        os.fsync(file.fileno())
    sync_folder(path.parent)


def salvage(path: Path, database: Database) -> int:
    """Copy what can be read of a damaged file of SQLite into an empty one; return the records.

    The rows may be damaged themselves: `Damage` finds them.
    """
    count = 0
    with closing(sqlite3.connect(path)) as old, database.change() as connection:
        old.text_factory = bytes  # a damaged text need not be UTF-8
        for table in (ADAPTATIONS, MODELS, SHARES, LOOSE):
            names = [column.name for column in table.columns]
            numbers = [isinstance(column.type, Integer) for column in table.columns]
            marks = ", ".join("?" if each else "CAST(? AS TEXT)" for each in numbers)
            row = f"INSERT OR IGNORE INTO {table.name} ({', '.join(names)}) VALUES ({marks})"
            for values in _readable(old, table.name, names):
                copied = connection.exec_driver_sql(row, values).rowcount
                count += copied if table in (ADAPTATIONS, MODELS) else 0
    return count


def _readable(old: sqlite3.Connection, table: str, names: list[str]) -> Iterator[tuple[Any, ...]]:
    """Yield the rows before the first damaged page of a table, and those after the last one."""
    for order in ("ASC", "DESC"):
        with suppress(sqlite3.Error):
            yield from old.execute(f"SELECT {', '.join(names)} FROM {table} ORDER BY 1 {order}")

"""Rows that have changed since they were written: find them, and mend them or take them out."""

import json
import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import ColumnElement, Connection, Integer, Table, delete, select, update

from metanas_server.disk import sync_folder
from metanas_server.records.database import Database
from metanas_server.records.models import write_shares
from metanas_server.records.rows import (
    ADAPTATION,
    MODEL,
    has_shares,
    is_progress,
    parse_adaptation,
    parse_model,
    write_adaptation,
    write_model,
    write_progress,
)
from metanas_server.records.tables import (
    ADAPTATIONS,
    LOOSE,
    MODELS,
    SHARES,
    is_sealed_time,
    seal_time,
)

BATCH = 500  # rows that are read at once


@dataclass(frozen=True)
class Flaw:
    """A damaged row.

    number: its own, or that of the model for shares.
    name: of its record.
    columns: the right columns, if its body is sound.
    shares: the names that the body of a model has.
    parts: the columns, and the shares, that differ from the body.
    """

    table: Table
    number: int
    name: str
    columns: dict[str, Any] | None = None
    shares: tuple[str, ...] = ()
    parts: tuple[str, ...] = ()


class Damage:
    """The damaged rows of a database; all methods raise `StoreUnavailable` if it cannot be used."""

    def __init__(self, database: Database) -> None:
        """Use an open database."""
        self._database = database

    def find(self) -> list[Flaw]:
        """Return all damaged rows; this reads the whole database."""
        columns = ADAPTATIONS.c
        progress = [columns.progress, columns.last_progress, columns.number]
        found = list(self._find(ADAPTATIONS, [*ADAPTATION, *progress], _adaptation))
        found += self._find(MODELS, [*MODEL, MODELS.c.used], _model)
        return found + self._stray_shares()

    def mend(self, path: Path) -> list[str]:
        """Mend the damaged rows, or move them to a file; return lines for people.

        A sound body gives the right columns and shares. Without one the row moves to the file, as
        JSON. A model whose last use is damaged is used now.

        path: the file, which is created if a row moves.
        """
        lines = list[str]()
        for flaw in self.find():
            with self._database.change() as connection:
                if flaw.columns is None:
                    _move(connection, flaw, path)
                    lines.append(f"{flaw.name}: moved the damaged record to {path}")
                else:
                    row = update(flaw.table).where(flaw.table.c.number == flaw.number)
                    connection.execute(row.values(flaw.columns))
                    if flaw.table is MODELS:
                        write_shares(connection, flaw.number, flaw.shares)
                    lines.append(f"{flaw.name}: mended the record ({', '.join(flaw.parts)})")
        return lines

    def _find(
        self,
        table: Table,
        columns: Sequence[ColumnElement[Any]],
        look: Callable[[Any], Flaw],
    ) -> Iterator[Flaw]:
        number = table.c.number
        query = select(*columns).order_by(number).limit(BATCH)
        rows = self._database.read(query)
        while rows:
            flaws = map(look, rows)
            yield from (flaw for flaw in flaws if flaw.columns is None or flaw.parts)
            rows = self._database.read(query.where(number > rows[-1].number))

    def _stray_shares(self) -> list[Flaw]:
        """Return the shares of models that are not there."""
        stray = select(SHARES.c.model).where(SHARES.c.model.not_in(select(MODELS.c.number)))
        rows = self._database.read(stray.distinct().order_by(SHARES.c.model))
        return [Flaw(SHARES, number, f"shares/{number}") for (number,) in rows]


def _adaptation(row: Any) -> Flaw:
    """Compare an adaptation with its body; damaged progress becomes empty."""
    record = parse_adaptation(row.body)
    if record is None:
        return Flaw(ADAPTATIONS, row.number, f"adaptations/{row.id}")
    columns, last = write_adaptation(record), row.last_progress
    if not (is_progress(row.progress) and is_progress(None if last is None else f"[{last}]")):
        columns |= write_progress(())
    parts = _differing(row, columns)
    return Flaw(ADAPTATIONS, row.number, f"adaptations/{row.id}", columns, parts=parts)


def _model(row: Any) -> Flaw:
    record = parse_model(row.body)
    if record is None:
        return Flaw(MODELS, row.number, f"models/{row.id}")
    columns = write_model(record)
    if not is_sealed_time(row.used):
        columns["used"] = seal_time(time.time_ns())
    parts = _differing(row, columns) + (() if has_shares(row, record) else ("shares",))
    return Flaw(MODELS, row.number, f"models/{row.id}", columns, record.shared_with, parts)


def _differing(row: Any, columns: dict[str, Any]) -> tuple[str, ...]:
    """Return the columns that a row has otherwise; another release writes other bodies."""
    return tuple(key for key in columns if key != "body" and getattr(row, key) != columns[key])


def _move(connection: Connection, flaw: Flaw, path: Path) -> None:
    """Move a row to a file; with a model move its shares."""
    for table in (MODELS, SHARES) if flaw.table is MODELS else (flaw.table,):
        key = SHARES.c.model if table is SHARES else table.c.number
        query = f"SELECT * FROM {table.name} WHERE {key.name} = {flaw.number:d}"
        for row in connection.exec_driver_sql(query).mappings().all():
            _append(path, dict(row))
        connection.execute(delete(table).where(key == flaw.number))


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

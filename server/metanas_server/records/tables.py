"""The tables of the database.

The record of a row is JSON in `body`, with its checksum. The columns and the table `shares` repeat
the fields that are searched: a row that differs from its body is damaged. The time of the last use
of a model, which changes often, has a checksum of its own. `loose_files` lists the files that
may exist without a record: those that are being written, and those that are being deleted.

`front` is the server that an unfinished adaptation belongs to, or that has noted a loose file. With
SQLite there is one, without a name. `progress` has the progress of running adaptations for the
other fronts; at its end the row of an adaptation has all of it.

`store` has one row: the mark of the store that belongs to the database.
"""

import json
import zlib
from binascii import crc_hqx
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    func,
    literal_column,
    select,
    text,
)
from sqlalchemy.types import TypeDecorator

from metanas_server.resources import State

METADATA = MetaData()
UNFINISHED = (State.QUEUED, State.RUNNING)
NUMBER = BigInteger().with_variant(Integer, "sqlite")
"""The type of a number that the database counts up; SQLite does so for INTEGER only."""


class Sent(TypeDecorator[str]):
    """Text that a caller may have sent: control characters are escaped as in JSON.

    PostgreSQL stores no NUL.
    """

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: object) -> str | None:
        return None if value is None else json.dumps(value, ensure_ascii=False)[1:-1]

    def process_result_value(self, value: Any, dialect: object) -> str | None:
        return None if value is None else read_sent(value)


def read_sent(text: Any) -> str:
    """Return the text that a caller has sent."""
    try:
        return str(json.loads(f'"{text}"'))
    except ValueError:  # it is damaged, and differs from the body of its row
        return str(text)


def seal(text: str) -> str:
    """Return a text with its checksum in front of it."""
    return f"{zlib.crc32(text.encode('utf-8', 'surrogateescape')):08x} {text}"


class Sealed(TypeDecorator[str]):
    """Text with its CRC-32, which finds each change of one or two bits.

    Text that has changed since it was written is read as None.
    """

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: object) -> str | None:
        return None if value is None else seal(value)

    def process_result_value(self, value: Any, dialect: object) -> str | None:
        _, _, text = str(value).partition(" ")
        return text if seal(text) == value else None


def seal_time(time: int) -> int:
    """Return nearly the same time: its last 16 bits are the CRC-16 of those before them.

    time: in nanoseconds since 1970; 16 bits are 66 µs.
    """
    stored = time >> 16 & 2**48 - 1
    return stored << 16 | crc_hqx(stored.to_bytes(6, "big"), 0xFFFF)


def is_sealed_time(value: object) -> bool:
    """Return True for a time of `seal_time` that has not changed since."""
    return isinstance(value, int) and seal_time(value) == value


ADAPTATIONS = Table(
    "adaptations",
    METADATA,
    Column("number", NUMBER, primary_key=True),
    Column("id", Sent, nullable=False, unique=True),
    Column("owner", Sent, nullable=False, server_default=""),
    Column("state", Text, nullable=False),
    Column("request_id", Sent, nullable=False),
    Column("support", Text, nullable=False),
    Column("ended", BigInteger, nullable=False, server_default="0"),
    Column("body", Sealed, nullable=False),
    Column("last_progress", Sealed, nullable=False),
    Column("progress", Sealed, nullable=False),
    Column("front", Text, nullable=False, server_default=""),
    Column("caller", Sent, nullable=False, server_default=""),
    Column("cancel", Integer, nullable=False, server_default="0"),
    Column("work", Text, nullable=False, server_default=""),
    Index("adaptation_owner", "owner"),
    Index("adaptation_ended", "ended"),
    sqlite_autoincrement=True,
)
REPEATED = text("request_id <> '' AND state <> 'cancelled'")
Index(
    "adaptation_request",
    ADAPTATIONS.c.owner,
    ADAPTATIONS.c.request_id,
    unique=True,
    sqlite_where=REPEATED,
    postgresql_where=REPEATED,
)
NOT_ENDED = text("state IN ('queued', 'running')")
Index(
    "adaptation_unfinished",
    ADAPTATIONS.c.front,
    ADAPTATIONS.c.caller,
    sqlite_where=NOT_ENDED,
    postgresql_where=NOT_ENDED,
)
IS_UNFINISHED = ADAPTATIONS.c.state.in_([literal_column(f"'{each}'") for each in UNFINISHED])
"""The condition of that index: SQLite uses the index only if its values are no parameters."""
WITH_WORK = text("work <> ''")
Index(
    "adaptation_work",
    ADAPTATIONS.c.owner,
    ADAPTATIONS.c.work,
    sqlite_where=WITH_WORK,
    postgresql_where=WITH_WORK,
)
WITH_SUPPORT = ADAPTATIONS.c.support != literal_column("''")
"""The condition of the index of support sets, for queries that use it."""
NOT_EMPTY = text("support <> ''")
Index(
    "adaptation_support",
    ADAPTATIONS.c.support,
    sqlite_where=NOT_EMPTY,
    postgresql_where=NOT_EMPTY,
)
STARTS = Table(
    "starts",
    METADATA,
    Column("adaptation", Sent, primary_key=True),
    Column("caller", Sent, nullable=False),
    Column("time", BigInteger, nullable=False),
    Index("start_caller", "caller", "time"),
)
"""The adaptations of the last minute, deleted ones too, if their number is limited."""
MODELS = Table(
    "models",
    METADATA,
    Column("number", NUMBER, primary_key=True),
    Column("id", Sent, nullable=False, unique=True),
    Column("owner", Sent, nullable=False, server_default=""),
    Column("sha256", Text, nullable=False),
    Column("size", BigInteger, nullable=False, server_default="0"),
    Column("used", BigInteger, nullable=False, server_default="0"),
    Column("body", Sealed, nullable=False),
    Column("pinned", Integer, nullable=False, server_default="0"),
    Index("model_owner", "owner"),
    Index("model_used", "used"),
    Index("model_file", "sha256"),
    sqlite_autoincrement=True,
)
SHARES = Table(
    "shares",
    METADATA,
    Column("model", BigInteger, primary_key=True, autoincrement=False),
    Column("name", Sent, primary_key=True),
    Index("share_name", "name"),
)
"""The callers that models are shared with, by the number of the model."""
BETWEEN = "\n"
"""A character that no stored name has."""
SHARED_WITH = (
    select(func.aggregate_strings(SHARES.c.name, BETWEEN))
    .where(SHARES.c.model == MODELS.c.number)
    .scalar_subquery()
)
"""The names of the shares of a model, as they are stored; NULL without shares."""
IS_PINNED = MODELS.c.pinned == literal_column("1")
PINNED = text("pinned = 1")
Index("model_pinned", MODELS.c.owner, sqlite_where=PINNED, postgresql_where=PINNED)
LOOSE = Table(
    "loose_files",
    METADATA,
    Column("digest", Text, primary_key=True),
    Column("front", Text, primary_key=True, server_default=""),
)
FRONTS = Table(
    "fronts",
    METADATA,
    Column("id", Text, primary_key=True),
    Column("seen", BigInteger, nullable=False),
)
PROGRESS = Table(
    "progress",
    METADATA,
    Column("adaptation", Text, primary_key=True),
    Column("sequence", BigInteger, primary_key=True),
    Column("body", Sealed, nullable=False),
)
STORE = Table(
    "store",
    METADATA,
    Column("mark", Text, primary_key=True),
    Column("placed", Integer, nullable=False, server_default="0"),
)

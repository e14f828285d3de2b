"""The tables of the database.

Columns are searched; all other fields of a record are JSON in `body`. `loose` lists the files that
may exist without a record: those that are being written, and those that are being deleted.
"""

import json
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    text,
)
from sqlalchemy.types import TypeDecorator

METADATA = MetaData()
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
        return None if value is None else str(json.loads(f'"{value}"'))


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
    Column("body", Text, nullable=False),
    Column("last_progress", Text, nullable=False, server_default="null"),
    Column("progress", Text, nullable=False, server_default="[]"),
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
MODELS = Table(
    "models",
    METADATA,
    Column("number", NUMBER, primary_key=True),
    Column("id", Sent, nullable=False, unique=True),
    Column("owner", Sent, nullable=False, server_default=""),
    Column("sha256", Text, nullable=False),
    Column("size", BigInteger, nullable=False, server_default="0"),
    Column("used", BigInteger, nullable=False, server_default="0"),
    Column("body", Text, nullable=False),
    Index("model_owner", "owner"),
    Index("model_used", "used"),
    sqlite_autoincrement=True,
)
LOOSE = Table("loose", METADATA, Column("digest", Text, primary_key=True))

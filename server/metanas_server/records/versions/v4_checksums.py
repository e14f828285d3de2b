"""Add checksums to the texts of records, and the mark of the store that belongs to the database."""

import secrets
import zlib

import sqlalchemy as sa
from alembic import op

revision = "4"
down_revision = "3"

SEALED = {"adaptations": ("body", "last_progress", "progress"), "models": ("body",)}
BATCH = 500


def upgrade() -> None:
    """Change the tables; the adaptations that have not ended begin their progress again."""
    op.execute("DELETE FROM progress")
    for table, columns in SEALED.items():
        _seal(table, columns)
    store = op.create_table(
        "store",
        sa.Column("mark", sa.Text, primary_key=True),
        sa.Column("placed", sa.Integer, nullable=False, server_default="0"),
    )
    op.get_bind().execute(sa.insert(store).values(mark=secrets.token_hex(16)))


def _seal(name: str, columns: tuple[str, ...]) -> None:
    number = sa.Column("number", sa.BigInteger)
    table = sa.table(name, number, *(sa.Column(each, sa.Text) for each in columns))
    row = sa.update(table).where(number == sa.bindparam("row"))
    row = row.values({each: sa.bindparam(f"new_{each}") for each in columns})
    connection, last = op.get_bind(), 0
    query = sa.select(table).where(number > sa.bindparam("last")).order_by(number).limit(BATCH)
    while rows := connection.execute(query, {"last": last}).all():
        last = rows[-1].number
        changes = [
            {f"new_{each}": _sealed(getattr(found, each)) for each in columns}
            | {"row": found.number}
            for found in rows
        ]
        connection.execute(row, changes)


def _sealed(text: str) -> str:
    """Return a text with its checksum, which differs if the text is damaged and no UTF-8."""
    sealed = f"{zlib.crc32(text.encode('utf-8', 'surrogateescape')):08x} {text}"
    return sealed.encode("utf-8", "backslashreplace").decode()

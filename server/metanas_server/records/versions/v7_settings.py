"""Add pins and shares to the bodies of models, and checksums to the times of their last uses."""

import json
import zlib
from binascii import crc_hqx
from collections import defaultdict
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "7"
down_revision = "6"

BATCH = 500
MODELS = sa.table(
    "models",
    *(sa.Column(name, sa.BigInteger) for name in ("number", "used", "pinned")),
    sa.Column("body", sa.Text),
)
SHARES = sa.table("shares", sa.Column("model", sa.BigInteger), sa.Column("name", sa.Text))


def upgrade() -> None:
    """Change the rows; a damaged body stays as it is."""
    connection, number, last = op.get_bind(), MODELS.c.number, 0
    change = sa.update(MODELS).where(number == sa.bindparam("row"))
    change = change.values(body=sa.bindparam("new_body"), used=sa.bindparam("new_used"))
    query = sa.select(MODELS).where(number > sa.bindparam("last")).order_by(number).limit(BATCH)
    while rows := connection.execute(query, {"last": last}).all():
        last = rows[-1].number
        shares = sa.select(SHARES).where(SHARES.c.model.in_([row.number for row in rows]))
        names = defaultdict[int, list[str]](list)
        for model, name in connection.execute(shares):
            names[model].append(name)
        changes = [
            {
                "row": row.number,
                "new_body": _with_settings(row, names[row.number]),
                "new_used": _sealed(row.used),
            }
            for row in rows
        ]
        connection.execute(change, changes)


def _with_settings(row: Any, stored: list[str]) -> str:
    """Return the body of a model with its settings."""
    checksum, _, text = str(row.body).partition(" ")
    if f"{zlib.crc32(text.encode('utf-8', 'surrogateescape')):08x}" != checksum:
        return str(row.body)
    try:
        fields = dict(json.loads(text))
        names = sorted(json.loads(f'"{name}"') for name in stored)
    except (ValueError, TypeError):  # it was damaged before it had a checksum
        return str(row.body)
    new = json.dumps(fields | {"pinned": row.pinned == 1, "shared_with": names})
    return f"{zlib.crc32(new.encode()):08x} {new}"


def _sealed(used: Any) -> Any:
    """Return a time whose last 16 bits are the CRC-16 of the others."""
    if not isinstance(used, int):
        return used
    stored = used >> 16 & 2**48 - 1
    return stored << 16 | crc_hqx(stored.to_bytes(6, "big"), 0xFFFF)

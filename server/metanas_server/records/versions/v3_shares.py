"""Add pins of models, and the callers that models are shared with."""

import sqlalchemy as sa
from alembic import op

revision = "3"
down_revision = "2"

PINNED = sa.text("pinned = 1")


def upgrade() -> None:
    """Change the tables; models are neither pinned nor shared."""
    op.add_column("models", sa.Column("pinned", sa.Integer, nullable=False, server_default="0"))
    op.create_index(
        "model_pinned", "models", ["owner"], sqlite_where=PINNED, postgresql_where=PINNED
    )
    op.create_table(
        "shares",
        sa.Column("model", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("name", sa.Text, primary_key=True),
    )
    op.create_index("share_name", "shares", ["name"])

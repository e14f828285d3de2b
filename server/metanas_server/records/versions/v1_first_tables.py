"""Create the tables of adaptations, models and loose files."""

import sqlalchemy as sa
from alembic import op

revision = "1"
down_revision = None

NUMBER = sa.BigInteger().with_variant(sa.Integer, "sqlite")
REPEATED = sa.text("request_id <> '' AND state <> 'cancelled'")


def upgrade() -> None:
    """Create them; the format 5 of SQLite files before alembic has the same ones."""
    op.create_table(
        "adaptations",
        sa.Column("number", NUMBER, primary_key=True),
        sa.Column("id", sa.Text, nullable=False, unique=True),
        sa.Column("owner", sa.Text, nullable=False, server_default=""),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("request_id", sa.Text, nullable=False),
        sa.Column("support", sa.Text, nullable=False),
        sa.Column("ended", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("body", sa.Text, nullable=False),
        sa.Column("last_progress", sa.Text, nullable=False, server_default="null"),
        sa.Column("progress", sa.Text, nullable=False, server_default="[]"),
        sqlite_autoincrement=True,
    )
    op.create_index("adaptation_owner", "adaptations", ["owner"])
    op.create_index("adaptation_ended", "adaptations", ["ended"])
    op.create_index(
        "adaptation_request",
        "adaptations",
        ["owner", "request_id"],
        unique=True,
        sqlite_where=REPEATED,
        postgresql_where=REPEATED,
    )
    op.create_table(
        "models",
        sa.Column("number", NUMBER, primary_key=True),
        sa.Column("id", sa.Text, nullable=False, unique=True),
        sa.Column("owner", sa.Text, nullable=False, server_default=""),
        sa.Column("sha256", sa.Text, nullable=False),
        sa.Column("size", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("used", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("body", sa.Text, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("model_owner", "models", ["owner"])
    op.create_index("model_used", "models", ["used"])
    op.create_table("loose", sa.Column("digest", sa.Text, primary_key=True))

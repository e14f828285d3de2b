"""Add the fronts that share the database, and the progress of running adaptations."""

import sqlalchemy as sa
from alembic import op

revision = "2"
down_revision = "1"

UNFINISHED = sa.text("state IN ('queued', 'running')")


def upgrade() -> None:
    """Change the tables; adaptations that have not ended get no front, as after a crash."""
    for name in ("front", "caller"):
        op.add_column("adaptations", sa.Column(name, sa.Text, nullable=False, server_default=""))
    cancel = sa.Column("cancel", sa.Integer, nullable=False, server_default="0")
    op.add_column("adaptations", cancel)
    op.create_index(
        "adaptation_unfinished",
        "adaptations",
        ["front", "caller"],
        sqlite_where=UNFINISHED,
        postgresql_where=UNFINISHED,
    )
    op.create_table(
        "fronts",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("seen", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "progress",
        sa.Column("adaptation", sa.Text, primary_key=True),
        sa.Column("sequence", sa.BigInteger, primary_key=True),
        sa.Column("body", sa.Text, nullable=False),
    )
    op.create_table(
        "loose_files",
        sa.Column("digest", sa.Text, primary_key=True),
        sa.Column("front", sa.Text, primary_key=True, server_default=""),
    )
    op.execute("INSERT INTO loose_files (digest) SELECT digest FROM loose")
    op.drop_table("loose")

"""Add the digest of the work of adaptations, and the adaptations of the last minute."""

import sqlalchemy as sa
from alembic import op

revision = "5"
down_revision = "4"

WITH_WORK = sa.text("work <> ''")


def upgrade() -> None:
    """Change the tables; the work of earlier adaptations is unknown, so none is reused."""
    op.add_column("adaptations", sa.Column("work", sa.Text, nullable=False, server_default=""))
    op.create_index(
        "adaptation_work",
        "adaptations",
        ["owner", "work"],
        sqlite_where=WITH_WORK,
        postgresql_where=WITH_WORK,
    )
    op.create_table(
        "starts",
        sa.Column("adaptation", sa.Text, primary_key=True),
        sa.Column("caller", sa.Text, nullable=False),
        sa.Column("time", sa.BigInteger, nullable=False),
    )
    op.create_index("start_caller", "starts", ["caller", "time"])

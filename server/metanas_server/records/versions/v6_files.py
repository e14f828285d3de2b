"""Add indexes of the files that records need."""

import sqlalchemy as sa
from alembic import op

revision = "6"
down_revision = "5"

NOT_EMPTY = sa.text("support <> ''")


def upgrade() -> None:
    """Create them: a file is looked up among all records before it is deleted."""
    op.create_index(
        "adaptation_support",
        "adaptations",
        ["support"],
        sqlite_where=NOT_EMPTY,
        postgresql_where=NOT_EMPTY,
    )
    op.create_index("model_file", "models", ["sha256"])

"""Jobs tell how far they are."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Add a column that servers of the previous version leave empty."""
    op.add_column("inference_jobs", sa.Column("progress", sa.Text))

"""Jobs keep their images, take turns by tenant, and can be submitted again under a client's key."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Add columns with defaults and a table, so that servers of 0.1.0 can still write jobs."""
    for column in (
        sa.Column("turn", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("image", sa.String(64)),
        sa.Column("request_key", sa.String(64)),
        sa.Column("request_digest", sa.String(64)),
        sa.Column("submissions", sa.Integer, nullable=False, server_default="1"),
        sa.Column("cache_hit", sa.Boolean),
        sa.Column("image_mismatch", sa.Boolean),
        sa.Column("stages", sa.Text),
    ):
        op.add_column("inference_jobs", column)
    op.create_index("inference_jobs_tenant_turn", "inference_jobs", ["tenant", "turn"])
    op.create_index("inference_jobs_turn", "inference_jobs", ["turn"])
    op.create_index(
        "inference_jobs_request_key", "inference_jobs", ["tenant", "request_key"], unique=True
    )
    op.create_table(
        "inference_job_images",
        sa.Column("tenant", sa.String(64), primary_key=True),
        sa.Column("digest", sa.String(64), primary_key=True),
        sa.Column("jobs", sa.Integer, nullable=False),
        sa.Column("nbytes", sa.BigInteger, nullable=False),
        sa.Column("content", sa.LargeBinary, nullable=False),
    )

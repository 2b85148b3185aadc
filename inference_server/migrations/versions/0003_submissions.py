"""Each submission has a row, and images of jobs are transferred apart from their records."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Replace a counter by rows, and move the content of images to a table of its own."""
    op.create_table(
        "inference_job_submissions",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("job_id", sa.String(32), nullable=False),
    )
    op.create_index("inference_job_submissions_job_id", "inference_job_submissions", ["job_id"])
    op.execute(
        "insert into inference_job_submissions (id, job_id) select id, id from inference_jobs"
    )
    op.drop_column("inference_jobs", "submissions")
    op.create_table(
        "inference_job_image_files",
        sa.Column("id", sa.String(129), primary_key=True),
        sa.Column("content", sa.LargeBinary, nullable=False),
    )
    op.execute(
        "insert into inference_job_image_files (id, content) "
        "select tenant || '/' || digest, content from inference_job_images"
    )
    op.add_column(
        "inference_job_images",
        sa.Column("file", sa.String(129), nullable=False, server_default=""),
    )
    op.execute("update inference_job_images set file = tenant || '/' || digest")
    op.drop_column("inference_job_images", "content")

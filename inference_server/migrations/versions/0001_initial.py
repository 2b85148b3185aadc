"""The tables of version 0.1.0: facts, keys, usage, jobs, payloads, charges, files.

Databases of 0.1.0 have no revision and hold some of these tables or all of them, depending on
whether a server or only the `keys` command opened them. What exists is left as it is.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Create the tables that do not exist."""
    op.create_table(
        "inference_job_facts",
        sa.Column("name", sa.String(32), primary_key=True),
        sa.Column("value", sa.String(255), nullable=False),
        if_not_exists=True,
    )
    op.create_table(
        "inference_keys",
        sa.Column("id", sa.String(12), primary_key=True),
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("tenant", sa.String(48)),
        sa.Column("salt", sa.LargeBinary, nullable=False),
        sa.Column("digest", sa.LargeBinary, nullable=False),
        sa.Column("scopes", sa.String(64), nullable=False),
        sa.Column("rate", sa.String(64)),
        sa.Column("credits", sa.BigInteger),
        sa.Column("created", sa.Double, nullable=False),
        sa.Column("expires", sa.Double),
        sa.Column("revoked", sa.Double),
        if_not_exists=True,
    )
    op.create_table(
        "inference_key_usage",
        sa.Column("key_id", sa.String(32), primary_key=True),
        sa.Column("day", sa.String(10), primary_key=True),
        sa.Column("requests", sa.BigInteger, nullable=False),
        sa.Column("failures", sa.BigInteger, nullable=False),
        sa.Column("credits", sa.BigInteger, nullable=False),
        if_not_exists=True,
    )
    op.create_table(
        "inference_jobs",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("kind", sa.String(64), nullable=False),
        sa.Column("status", sa.String(10), nullable=False),
        sa.Column("token", sa.Integer, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("due", sa.Double),
        sa.Column("owner", sa.String(32)),
        sa.Column("created", sa.Double, nullable=False),
        sa.Column("expires", sa.Double),
        sa.Column("seconds", sa.Double),
        sa.Column("nbytes", sa.BigInteger, nullable=False),
        sa.Column("model", sa.Text),
        sa.Column("error", sa.Text),
        if_not_exists=True,
    )
    for name in ("due", "expires"):
        op.create_index(f"inference_jobs_{name}", "inference_jobs", [name], if_not_exists=True)
    op.create_table(
        "inference_job_payloads",
        sa.Column("job_id", sa.String(32), primary_key=True),
        sa.Column("content", sa.LargeBinary, nullable=False),
        if_not_exists=True,
    )
    op.create_table(
        "inference_job_charges",
        sa.Column("job_id", sa.String(32), primary_key=True),
        sa.Column("key_id", sa.String(32), nullable=False),
        sa.Column("credits", sa.BigInteger, nullable=False),
        sa.Column("day", sa.String(10), nullable=False),
        if_not_exists=True,
    )
    op.create_table(
        "inference_job_files",
        sa.Column("job_id", sa.String(32), primary_key=True),
        sa.Column("position", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("name", sa.String(255), nullable=False),
        sa.Column("media_type", sa.String(255), nullable=False),
        sa.Column("nbytes", sa.BigInteger, nullable=False),
        sa.Column("content", sa.LargeBinary, nullable=False),
        if_not_exists=True,
    )

"""Alembic's entry point: runs revisions on the connection that `upgrade` passes."""

from __future__ import annotations

from alembic import context

from inference_server.migrations import VERSION_TABLE

context.configure(
    connection=context.config.attributes["connection"],
    version_table=VERSION_TABLE,
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()

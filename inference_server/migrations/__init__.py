"""Database migrations: creates the tables, and upgrades those of an earlier version.

Each change of the schema is a revision in `versions/`. To add one, run
`alembic revision --rev-id NNNN -m "what changes"` with the number after `LATEST`, write its
`upgrade()` by hand (SQLite needs `op.batch_alter_table` for most changes of a column), and set
`LATEST`. A test compares the migrated tables with those that the packages declare.

Servers of the previous version may still be running while a revision is applied. Add columns and
tables first, and remove the old ones a version later.
"""

from __future__ import annotations

import logging
import threading
from pathlib import Path

from sqlalchemy import Connection, column, inspect, select, table

logger = logging.getLogger(__name__)

LATEST = "0004"
"""The revision that this version of the package works with."""

VERSION_TABLE = "inference_schema_version"
"""Holds the database's revision. Prefixed, because other applications may share the database."""

_LEGACY_VERSION = "1"
"""The fact `version` of a database of 0.1.0, which had no migrations."""

_ALEMBIC = threading.Lock()
"""Alembic keeps its context in module globals, so one thread at a time may use it."""


class NewerDatabaseError(RuntimeError):
    """The database was written by a newer version of this package.

    Args:
        revision: the schema revision of the database.
    """

    def __init__(self, revision: str) -> None:
        super().__init__(
            f"The database was written by a newer inference-server (revision {revision}, this "
            f"version knows {LATEST}). Upgrade inference-server, or use another INFERENCE_DATA_DIR "
            "or INFERENCE_DATABASE_URL."
        )


def upgrade(connection: Connection) -> None:
    """Create the tables, or upgrade them to `LATEST`.

    Args:
        connection: in a transaction that excludes other processes that upgrade.

    Raises:
        NewerDatabaseError: this version of the package does not know the database's revision.
    """
    revision = _revision(connection)
    if revision == LATEST:
        return
    if revision is None:
        _refuse_unknown_legacy(connection)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    # Imported here: most starts need no migration, and most commands no database.
    from alembic import command
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    with _ALEMBIC:
        known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
        if revision is not None and revision not in known:
            raise NewerDatabaseError(revision)
        command.upgrade(config, LATEST)
    logger.info("Database schema upgraded to revision %s (before: %s)", LATEST, revision or "none")


def _revision(connection: Connection) -> str | None:
    """The database's revision; None if it is empty or of 0.1.0."""
    if not inspect(connection).has_table(VERSION_TABLE):
        return None
    query = select(table(VERSION_TABLE, column("version_num")).c.version_num)
    revision: str | None = connection.execute(query).scalar_one_or_none()
    return revision


def _refuse_unknown_legacy(connection: Connection) -> None:
    """Refuse a database without revision that is neither empty nor of 0.1.0."""
    if not inspect(connection).has_table("inference_job_facts"):
        return
    facts = table("inference_job_facts", column("name"), column("value"))
    query = select(facts.c.value).where(facts.c.name == "version")
    version = connection.execute(query).scalar_one_or_none()
    if version not in (None, _LEGACY_VERSION):
        raise NewerDatabaseError(version)

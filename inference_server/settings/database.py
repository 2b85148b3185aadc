"""Settings: timeouts of the database."""

from __future__ import annotations

from pydantic import Field

from inference_server.settings.types import EnvironmentSettings


class DatabaseSettings(EnvironmentSettings):
    """Timeouts of the database."""

    database_lock_timeout: float = Field(
        15.0,
        gt=0,
        description="Seconds to wait for a lock that another process holds on the database; then "
        "jobs and credits get 503, and background tasks try again.",
    )
    database_statement_timeout: float = Field(
        30.0,
        gt=0,
        description="Seconds that a statement may take (PostgreSQL).",
    )
    database_idle_timeout: float = Field(
        10.0,
        gt=0,
        description="Seconds that a server may pause within a transaction (PostgreSQL), so that a "
        "frozen server does not hold up the others. Keep it below INFERENCE_DATABASE_LOCK_TIMEOUT; "
        "raise both if results are large and the connection is slow.",
    )

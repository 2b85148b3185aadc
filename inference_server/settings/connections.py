"""Settings: bounds on connections and headers."""

from __future__ import annotations

from pydantic import Field

from inference_server.settings.types import EnvironmentSettings


class ConnectionSettings(EnvironmentSettings):
    """Bounds on connections and headers."""

    max_connections: int = Field(
        512,
        ge=1,
        description="Maximum number of connections that wait for a request; beyond it, the one "
        "that has waited longest is closed. Connections whose request is being answered do not "
        "count.",
    )
    max_header_kb: int = Field(
        64, ge=1, description="Maximum size of URL and headers of a request in KiB."
    )
    header_timeout: float = Field(
        20.0, gt=0, description="Seconds within which the headers of a request must arrive."
    )
    body_timeout: float = Field(
        120.0,
        gt=0,
        description="Seconds within which the body of a request must arrive; later it gets 408.",
    )

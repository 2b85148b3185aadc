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
    keep_alive_timeout: float = Field(
        130.0,
        gt=0,
        description="Seconds for which a connection is kept open after a response without a "
        "further request. Must be greater than the time for which a proxy in front keeps its idle "
        "connections.",
    )
    min_rate_kb: float = Field(
        8.0,
        gt=0,
        description="Minimum rate in KiB/s at which a client must send a request body and read a "
        "response. A slower body gets 408; a slower reader is disconnected.",
    )
    min_rate_window: float = Field(
        20.0,
        gt=0,
        description="Seconds over which INFERENCE_MIN_RATE_KB is measured.",
    )
    response_memory_mb: int = Field(
        1024,
        ge=1,
        description="Maximum size in MiB of all responses together that wait to be read; beyond "
        "it, the slowest readers are disconnected.",
    )
    body_timeout: float = Field(
        120.0,
        gt=0,
        description="Seconds within which the body of a request must arrive; later it gets 408.",
    )

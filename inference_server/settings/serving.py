"""Settings: where the server listens and how it logs."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from inference_server.settings.types import EnvironmentSettings


class ServingSettings(EnvironmentSettings):
    """Where the server listens and how it logs."""

    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(9001, ge=0, le=65535, description="Port to listen on; 0 picks a free one.")
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Minimum level of log messages."
    )
    log_format: Literal["auto", "text", "json"] = Field(
        "auto",
        description="Log format: `text`, `json` (one JSON object per line), or `auto` for text on "
        "a terminal and JSON elsewhere.",
    )

"""Settings: running behind a proxy."""

from __future__ import annotations

from pydantic import Field

from inference_server.settings import types
from inference_server.settings.types import EnvironmentSettings


class ProxySettings(EnvironmentSettings):
    """Running behind a proxy."""

    public_url: types.PublicUrl = Field(
        "",
        description="URL at which clients reach this server, such as `https://masks.example.com`, "
        "for links to job results. Empty: the address that the client connected to.",
    )
    trusted_proxies: types.Networks = Field(
        (),
        description="Comma-separated networks (CIDR) of proxies whose `X-Forwarded-Proto` and "
        "`X-Forwarded-Host` headers are trusted.",
    )

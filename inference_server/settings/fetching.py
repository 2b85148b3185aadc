"""Settings: fetching images by URL."""

from __future__ import annotations

from pydantic import Field

from inference_server.settings import types
from inference_server.settings.types import EnvironmentSettings


class FetchSettings(EnvironmentSettings):
    """Fetching images by URL."""

    fetch_timeout: float = Field(
        10.0, gt=0, description="Timeout in seconds for fetching an image by URL, in total."
    )
    fetch_redirects: int = Field(
        3, ge=0, le=10, description="Maximum number of redirects when fetching an image."
    )
    fetch_https_only: bool = Field(False, description="Fetch images over `https` only.")
    fetch_hosts: types.HostPatterns = Field(
        (),
        description="Comma-separated hosts from which images may be fetched, such as "
        "`images.example.com`, or `*.example.com` for all subdomains. Empty: any host.",
    )
    fetch_networks: types.Networks = Field(
        (),
        description="Comma-separated private or loopback networks (CIDR) from which images may be "
        "fetched. Public addresses are always allowed.",
    )

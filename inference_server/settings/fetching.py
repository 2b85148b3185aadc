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
    fetch_memory_mb: int = Field(
        1024,
        ge=1,
        description="Maximum size in MiB of all fetched images in progress together; beyond it, "
        "requests get 429.",
    )
    fetch_tenant_memory_mb: int = Field(
        512,
        ge=1,
        description="Maximum size in MiB of one tenant's fetched images in progress together; "
        "beyond it, its requests get 429.",
    )
    fetch_lookups: int = Field(
        128,
        ge=1,
        le=1024,
        description="Maximum number of host names being resolved; further fetches wait. Each takes "
        "a thread until the DNS server answers or the system's resolver gives up.",
    )
    fetch_tenant_lookups: int = Field(
        32,
        ge=1,
        le=1024,
        description="Maximum number of host names being resolved for one tenant, so that names "
        "whose DNS server does not answer delay only this tenant's fetches.",
    )
    fetch_max_header_kb: int = Field(
        64,
        ge=4,
        description="Maximum size in KiB of the headers of a fetched image's response, together "
        "with the interim responses (1xx) before it.",
    )
    fetch_max_interim: int = Field(
        32,
        ge=0,
        description="Maximum number of interim responses (1xx) before the response of a fetched "
        "image.",
    )
    fetch_max_addresses: int = Field(
        4,
        ge=1,
        description="Maximum number of addresses of a host to try to connect to, so that a long "
        "DNS response cannot cause a port scan.",
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

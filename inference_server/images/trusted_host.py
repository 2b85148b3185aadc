"""A host that the operator names in the settings, with the credentials for it."""

from __future__ import annotations

from dataclasses import dataclass, field

import httpx


@dataclass(frozen=True, slots=True)
class TrustedHost:
    """A host that may be on a private network, and that gets credentials.

    Attributes:
        url: A URL of the host; scheme, host name and port decide.
        authorization: Value of the header `Authorization`; empty sends none. Default: none.
    """

    url: str
    authorization: str = field(default="", repr=False)

    def covers(self, url: httpx.URL) -> bool:
        """Whether a URL has the scheme, the host name and the port of this host.

        Args:
            url: An absolute URL.
        """
        return _origin(url) == _origin(httpx.URL(self.url))


def _origin(url: httpx.URL) -> tuple[str, bytes, int | None]:
    # httpx drops a port that is the scheme's own.
    return url.scheme, url.raw_host.lower(), url.port

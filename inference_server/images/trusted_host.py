"""A host that the operator names in the settings, with the credentials for it."""

from __future__ import annotations

from dataclasses import dataclass, field
from urllib.parse import unquote

import httpx

_MOST_DECODED = 4
"""Times that a path is percent-decoded; a path that is encoded more often gets no credentials."""


@dataclass(frozen=True, slots=True)
class TrustedHost:
    """A host that may be on a private network, and that gets credentials.

    Attributes:
        url: A URL of the host: scheme, host name and port decide what may be connected to, and the
            path decides what gets credentials.
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

    def authorizes(self, url: httpx.URL) -> bool:
        """Whether a URL gets the credentials: it is on this host, below the configured path.

        Args:
            url: An absolute URL.
        """
        return self.below(url) is not None

    def below(self, url: httpx.URL) -> str | None:
        """Return the decoded path of a URL below the configured path; None if it is not below.

        A path that a server or a proxy may read as one outside is not below.

        Args:
            url: An absolute URL.

        Returns:
            The rest of the path, with a slash at its beginning.
        """
        if not self.covers(url):
            return None
        path = _plain(url.path)
        base = _plain(httpx.URL(self.url).path.rstrip("/"))
        if path is None or base is None or not path.startswith(f"{base}/"):
            return None
        return path.removeprefix(base)


def _origin(url: httpx.URL) -> tuple[str, bytes, int | None]:
    # httpx drops a port that is the scheme's own.
    return url.scheme, url.raw_host.lower(), url.port


def _plain(path: str) -> str | None:
    """Decode a path until it stays the same; None if it has dot segments or too many encodings."""
    for _ in range(_MOST_DECODED):
        # Some servers read a backslash as a slash, or ignore what follows a semicolon.
        segments = path.replace("\\", "/").split("/")
        if any(segment.partition(";")[0] in (".", "..") for segment in segments):
            return None
        decoded = unquote(path)
        if decoded == path:
            return path
        path = decoded
    return None

"""Signed links to result files, valid without an API key until the result expires."""

from __future__ import annotations

import base64
import hashlib
import hmac
from urllib.parse import quote


class LinkSigner:
    """Creates and verifies links.

    Args:
        secret: the signing key, from the database, so that links stay valid after a restart.
    """

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    def path(self, job_id: str, name: str, expires: float) -> str:
        """Create the path and query of a link.

        Args:
            job_id: the job's id.
            name: the file's name.
            expires: when the link expires, in seconds since 1970; rounded down to whole seconds.

        Returns:
            The path with its query, to be appended to the server's base URL.
        """
        until = str(int(expires))
        signature = self._signature(job_id, name, until)
        where = f"/v2/requests/{job_id}/files/{quote(name, safe='')}"
        return f"{where}?expires={until}&signature={signature}"

    def is_signed(self, job_id: str, name: str, expires: str, signature: str) -> bool:
        """Verify a link's signature; the caller checks that it has not expired.

        Args:
            job_id: the job's id from the path.
            name: the file's name from the path.
            expires: the parameter `expires`.
            signature: the parameter `signature`.

        Returns:
            Whether a server with this secret created the link.
        """
        expected = self._signature(job_id, name, expires)
        return hmac.compare_digest(expected.encode(), signature.encode("utf-8", "replace"))

    def _signature(self, job_id: str, name: str, expires: str) -> str:
        message = "\n".join((job_id, name, expires)).encode("utf-8", "replace")
        digest = hmac.digest(self._secret, message, hashlib.sha256)
        return base64.urlsafe_b64encode(digest).decode().rstrip("=")

"""Signed links to the files of results, good without a key until the result expires."""

from __future__ import annotations

import base64
import hashlib
import hmac
from urllib.parse import quote


class LinkSigner:
    """Makes and checks links.

    Args:
        secret: that signs; kept with the jobs, so that links outlive the process that made them.
    """

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    def path(self, job_id: str, name: str, expires: float) -> str:
        """The path and query of a file.

        Args:
            job_id: whose file it is.
            name: of the file.
            expires: when the link ends, in seconds since 1970.
        """
        until = str(int(expires))
        signature = self._signature(job_id, name, until)
        where = f"/v2/requests/{job_id}/files/{quote(name, safe='')}"
        return f"{where}?expires={until}&signature={signature}"

    def is_signed(self, job_id: str, name: str, expires: str, signature: str) -> bool:
        """Whether this server made the link; when it ends is for the store to judge."""
        expected = self._signature(job_id, name, expires)
        return hmac.compare_digest(expected.encode(), signature.encode("utf-8", "replace"))

    def _signature(self, job_id: str, name: str, expires: str) -> str:
        message = "\n".join((job_id, name, expires)).encode("utf-8", "replace")
        digest = hmac.digest(self._secret, message, hashlib.sha256)
        return base64.urlsafe_b64encode(digest).decode().rstrip("=")

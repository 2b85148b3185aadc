"""API keys: how they are made, found in a request, and recognised."""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from inference_server.errors import AuthError

_HOW_TO_SEND = (
    "Send it in one of five ways: query parameter `api_key`, JSON body field `api_key`, header "
    "`Authorization: Bearer KEY`, header `x-api-key: KEY`, or HTTP Basic with the key as password."
)


@dataclass(frozen=True, slots=True)
class Tenant:
    """Whom a request is answered for.

    Attributes:
        name: stable for a key, apart for different keys; tells nothing of the key, so it may stand
            in logs and in the keys of caches.
    """

    name: str


ANONYMOUS = Tenant("anonymous")


class KeyRing:
    """The keys that may call the server, held only as digests.

    Args:
        auth: `off` lets everyone in as one anonymous tenant.
        api_keys: comma-separated keys. With `auth` on and no key, nobody gets in.
    """

    def __init__(self, *, auth: Literal["on", "off"], api_keys: str) -> None:
        self._open = auth == "off"
        keys = {key.strip() for key in api_keys.split(",")} - {""}
        self._tenants = {_digest(key): Tenant(_name(key)) for key in keys}

    def authenticate(self, candidate: str | None) -> Tenant:
        """Tells whose key this is.

        Raises:
            AuthError: the key is missing or wrong.
        """
        if self._open:
            return ANONYMOUS
        if not candidate:
            raise AuthError(f"The API key is missing. {_HOW_TO_SEND}")
        digest = _digest(candidate)
        # Every digest is compared, each in constant time: how long it takes tells nothing.
        matches = [
            tenant for known, tenant in self._tenants.items() if hmac.compare_digest(known, digest)
        ]
        if not matches:
            raise AuthError(f"The API key is wrong. {_HOW_TO_SEND}")
        return matches[0]


def generate_key() -> str:
    """Makes a new key of 256 random bits that needs no quoting in URLs and shells."""
    return f"inf_{secrets.token_urlsafe(32)}"


def key_from_request(
    query: Mapping[str, str],
    headers: Mapping[str, str],
    body: Mapping[str, object] | None = None,
) -> str | None:
    """Finds the key that came with a request; of several, the first in this order.

    Args:
        query: query parameters: `api_key`.
        headers: headers by lower-case name: `authorization`, as Bearer or Basic, and `x-api-key`.
        body: the JSON body, where it is an object: `api_key`.

    Returns:
        The key, or `None` where there is none. Empty keys, and keys that are no text, do not count.
    """
    scheme, _, credentials = headers.get("authorization", "").strip().partition(" ")
    authorization = None
    if scheme.lower() == "bearer":
        authorization = credentials.strip()
    elif scheme.lower() == "basic":
        authorization = _key_from_basic(credentials)
    candidates = (
        query.get("api_key"),
        body.get("api_key") if body is not None else None,
        authorization,
        headers.get("x-api-key"),
    )
    return next((key for key in candidates if isinstance(key, str) and key), None)


def _key_from_basic(credentials: str) -> str | None:
    """The password of HTTP Basic credentials, or the user name where the password is empty."""
    try:
        decoded = base64.b64decode(credentials.strip(), validate=True).decode()
    except ValueError:  # no base64, or no UTF-8
        return None
    user, _, password = decoded.partition(":")
    return password or user


def _digest(key: str) -> bytes:
    return hashlib.sha256(_encode(key)).digest()


def _name(key: str) -> str:
    # Personalised, so that the name gives away no part of the digest that authenticates.
    return hashlib.blake2b(_encode(key), digest_size=8, person=b"tenant").hexdigest()


def _encode(key: str) -> bytes:
    # JSON can carry half of a surrogate pair, which has no place in UTF-8 but may be in a guess.
    return key.encode("utf-8", "surrogatepass")

"""API keys: scopes, generation, extraction from a request, and lookup."""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from limits import RateLimitItem

from inference_server.settings.types import SCOPES, Scope

_STORED = re.compile(r"inf_([0-9a-f]{12})_[A-Za-z0-9_-]{43}")


@dataclass(frozen=True, slots=True)
class Tenant:
    """The owner of a request's data.

    Attributes:
        name: identifies the owner of embeddings, images, mask inputs, jobs and results. It reveals
            nothing about a key, so it may appear in logs and cache keys.
    """

    name: str


@dataclass(frozen=True, slots=True)
class Key:
    """The permissions and limits of an authenticated key.

    Attributes:
        id: identifies the key without revealing it, in usage records and on the command line.
        tenant: the owner of the key's data; several keys may share one.
        scopes: the operations that it permits.
        rates: rate limits for segmentation requests, all of which apply.
        has_credits: whether the key has a credit balance that requests are charged to.
    """

    id: str
    tenant: Tenant
    scopes: frozenset[Scope]
    rates: tuple[RateLimitItem, ...] = ()
    has_credits: bool = False


ANONYMOUS = Key("anonymous", Tenant("anonymous"), frozenset(SCOPES))
"""The key of every request if authentication is off."""


class KeyRing:
    """The keys in the settings, held as digests only.

    Args:
        api_keys: keys in plain text.
        scopes: scopes of each key. Default: all.
    """

    def __init__(self, api_keys: Iterable[str], scopes: Iterable[Scope] = SCOPES) -> None:
        scopes = frozenset(scopes)
        names = {key: _name(key) for key in sorted(api_keys)}
        self._keys = {_digest(key): Key(name, Tenant(name), scopes) for key, name in names.items()}

    def __len__(self) -> int:
        return len(self._keys)

    def find(self, candidate: str) -> Key | None:
        """Look up a key in plain text; return None if it is unknown."""
        digest = _digest(candidate)
        # Compare all digests in constant time, so that the duration reveals nothing.
        matches = [key for known, key in self._keys.items() if hmac.compare_digest(known, digest)]
        return matches[0] if matches else None


def generate_key() -> str:
    """Generate a key of 256 random bits that needs no quoting in URLs and shells."""
    return f"inf_{secrets.token_urlsafe(32)}"


def generate_stored_key() -> tuple[str, str]:
    """Generate a key for the database.

    The key contains its id, which selects the one salted digest to compare it with.

    Returns:
        (id, key).
    """
    key_id = secrets.token_hex(6)
    return key_id, f"inf_{key_id}_{secrets.token_urlsafe(32)}"


def id_of(candidate: str) -> str | None:
    """Extract the id from a key; return None if it does not have the form of a stored key."""
    match = _STORED.fullmatch(candidate)
    return match[1] if match else None


def salted_digest(key: str, salt: bytes) -> bytes:
    """Compute the digest that is stored for a key.

    A fast hash is enough: keys have 256 random bits and cannot be guessed.

    Args:
        key: the key in plain text.
        salt: random bytes that are stored with the digest.

    Returns:
        32 bytes.
    """
    return hmac.digest(salt, _encode(key), hashlib.sha256)


def key_from_request(
    query: Mapping[str, str],
    headers: Mapping[str, str],
    body: Mapping[str, object] | None = None,
) -> str | None:
    """Extract the API key from a request; if there are several, the first in this order.

    Args:
        query: query parameters; the key is in `api_key`.
        headers: headers by lower-case name; the key is in `authorization`, as Bearer or Basic, or
            in `x-api-key`, or in `token`, which X-AnyLabeling sends.
        body: a JSON object or form; the key is in `api_key`. None if there is no such body.

    Returns:
        The key; None if there is none. Keys that are empty or not strings are ignored.
    """
    header = headers.get("authorization", "")
    scheme, _, credentials = header.strip().partition(" ")
    authorization = None
    if scheme.lower() == "bearer":
        authorization = credentials.strip()
    elif basic := basic_credentials(header):
        user, password = basic
        authorization = password or user
    candidates = (
        query.get("api_key"),
        body.get("api_key") if body is not None else None,
        authorization,
        headers.get("x-api-key"),
        headers.get("token"),
    )
    return next((key for key in candidates if isinstance(key, str) and key), None)


def basic_credentials(header: str) -> tuple[str, str] | None:
    """Return the user name and the password of HTTP Basic.

    Args:
        header: value of the header `Authorization`.

    Returns:
        (user name, password), which may be empty; None if the header has another scheme, or is
        malformed.
    """
    scheme, _, credentials = header.strip().partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        decoded = base64.b64decode(credentials.strip(), validate=True).decode()
    except ValueError:  # invalid Base64 or UTF-8
        return None
    user, _, password = decoded.partition(":")
    return user, password


def _digest(key: str) -> bytes:
    return hashlib.sha256(_encode(key)).digest()


def _name(key: str) -> str:
    # Personalised, so that the name reveals no part of the digest that authenticates the key.
    return hashlib.blake2b(_encode(key), digest_size=8, person=b"tenant").hexdigest()


def _encode(key: str) -> bytes:
    # JSON may contain lone surrogates, which UTF-8 cannot encode.
    return key.encode("utf-8", "surrogatepass")

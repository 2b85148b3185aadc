"""API keys: what they may do, how they are made, found in a request, and recognised."""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from limits import RateLimitItem

from inference_server.setting_types import SCOPES, Scope

_STORED = re.compile(r"inf_([0-9a-f]{12})_[A-Za-z0-9_-]{43}")


@dataclass(frozen=True, slots=True)
class Tenant:
    """Whom a request is answered for.

    Attributes:
        name: of whom embeddings, images, logits, jobs and results belong to. It tells nothing of a
            key, so it may stand in logs and in the keys of caches.
    """

    name: str


@dataclass(frozen=True, slots=True)
class Key:
    """What a recognised key may do.

    Attributes:
        id: names the key without giving it away; stands in usage and in the command line.
        tenant: whose key it is; several keys may share one.
        scopes: what it may do.
        rates: how often it may ask for work; each of them holds.
        has_credits: its work is paid for in credits.
    """

    id: str
    tenant: Tenant
    scopes: frozenset[Scope]
    rates: tuple[RateLimitItem, ...] = ()
    has_credits: bool = False


ANONYMOUS = Key("anonymous", Tenant("anonymous"), frozenset(SCOPES))
"""Everybody, where no key is asked for."""


class KeyRing:
    """Keys of the settings, held only as digests.

    Args:
        api_keys: keys in plain text.
        scopes: what each of them may do.
    """

    def __init__(self, api_keys: Iterable[str], scopes: Iterable[Scope] = SCOPES) -> None:
        scopes = frozenset(scopes)
        names = {key: _name(key) for key in sorted(api_keys)}
        self._keys = {_digest(key): Key(name, Tenant(name), scopes) for key, name in names.items()}

    def __len__(self) -> int:
        return len(self._keys)

    def find(self, candidate: str) -> Key | None:
        """Whose key this is; None if it is none of these."""
        digest = _digest(candidate)
        # Every digest is compared, each in constant time: how long it takes tells nothing.
        matches = [key for known, key in self._keys.items() if hmac.compare_digest(known, digest)]
        return matches[0] if matches else None


def generate_key() -> str:
    """Makes a new key of 256 random bits that needs no quoting in URLs and shells."""
    return f"inf_{secrets.token_urlsafe(32)}"


def generate_stored_key() -> tuple[str, str]:
    """Makes a new key for the database: (its id, the key), which has the id in front of its bits.

    With the id, the one salted digest that it has to be compared with is found at once.
    """
    key_id = secrets.token_hex(6)
    return key_id, f"inf_{key_id}_{secrets.token_urlsafe(32)}"


def id_of(candidate: str) -> str | None:
    """The id in what may be a key of the database; None if it cannot be one."""
    match = _STORED.fullmatch(candidate)
    return match[1] if match else None


def salted_digest(key: str, salt: bytes) -> bytes:
    """What is stored of a key. It has 256 random bits: no slow digest is needed against guesses."""
    return hmac.digest(salt, _encode(key), hashlib.sha256)


def key_from_request(
    query: Mapping[str, str],
    headers: Mapping[str, str],
    body: Mapping[str, object] | None = None,
) -> str | None:
    """Finds the key that came with a request; of several, the first in this order.

    Args:
        query: query parameters: `api_key`.
        headers: headers by lower-case name: `authorization`, as Bearer or Basic, and `x-api-key`.
        body: the JSON body, where it is an object, or the form: `api_key`.

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

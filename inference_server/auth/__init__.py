"""API keys: authentication, scopes, rate limits, credits and usage.

`AuthService` checks requests in a running server; `KeyRepository` stores keys and their usage.
"""

from inference_server.auth.billing import Receipt
from inference_server.auth.keys import (
    Key,
    KeyRing,
    Tenant,
    basic_credentials,
    generate_key,
    key_from_request,
)
from inference_server.auth.rate_limit import parse_rate
from inference_server.auth.repository import (
    Charge,
    KeyRepository,
    StoredKey,
    Usage,
    day_of,
    give_back,
    take,
)
from inference_server.auth.service import AuthService, AuthTiming, Work

__all__ = [
    "AuthService",
    "AuthTiming",
    "Charge",
    "Key",
    "KeyRepository",
    "KeyRing",
    "Receipt",
    "StoredKey",
    "Tenant",
    "Usage",
    "Work",
    "basic_credentials",
    "day_of",
    "generate_key",
    "give_back",
    "key_from_request",
    "parse_rate",
    "take",
]

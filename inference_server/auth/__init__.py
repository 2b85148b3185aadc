"""Who may call the server, how often, and for how many credits.

`Gate` answers that in a running server; `KeyStore` is where keys are made, changed and counted.
"""

from inference_server.auth.gate import Gate, Work
from inference_server.auth.keys import Key, KeyRing, Tenant, generate_key, key_from_request
from inference_server.auth.ledger import Receipt
from inference_server.auth.rates import parse_rate
from inference_server.auth.store import (
    Charge,
    KeyStore,
    StoredKey,
    Usage,
    day_of,
    give_back,
    take,
)

__all__ = [
    "Charge",
    "Gate",
    "Key",
    "KeyRing",
    "KeyStore",
    "Receipt",
    "StoredKey",
    "Tenant",
    "Usage",
    "Work",
    "day_of",
    "generate_key",
    "give_back",
    "key_from_request",
    "parse_rate",
    "take",
]

"""Who may call the server."""

from inference_server.auth.keys import KeyRing, Tenant, generate_key, key_from_request

__all__ = ["KeyRing", "Tenant", "generate_key", "key_from_request"]

"""The API key as Label Studio sends it: HTTP Basic, as the password or as the user name."""

from __future__ import annotations

from contextlib import suppress

from starlette.requests import Request

from inference_server.api.dependencies import state_of
from inference_server.auth import basic_credentials
from inference_server.errors import AuthError, ScopeError, StorageError


def with_basic_user(request: Request) -> Request:
    """Let the user name of HTTP Basic be the key, if the password is none.

    Label Studio requires both a user name and a password.

    Args:
        request: a request whose body was not read.

    Returns:
        The request; with the user name as its only credentials if that is a valid key and the
        password is not.
    """
    told = basic_credentials(request.headers.get("authorization", ""))
    if told is None or not all(told):
        return request
    user, password = told
    auth = state_of(request).auth
    # Only "wrong" counts here: the handler reports every other problem of the key.
    with suppress(ScopeError, StorageError):
        try:
            auth.authenticate(password)
        except AuthError:
            with suppress(AuthError):
                auth.authenticate(user)
                return _with_bearer(request, user)
    return request


def _with_bearer(request: Request, key: str) -> Request:
    headers = [each for each in request.scope["headers"] if each[0] != b"authorization"]
    headers.append((b"authorization", f"Bearer {key}".encode()))
    return Request({**request.scope, "headers": headers}, request.receive)

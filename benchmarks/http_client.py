"""A cheap HTTP client.

Clients share the machine with the server, so they do as little as possible: one kept connection,
bodies prepared in advance, and responses that are parsed on request only.
"""

from __future__ import annotations

import http.client
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import orjson

_JSON = "application/json"


@dataclass(frozen=True, slots=True)
class Response:
    """A response.

    Attributes:
        headers: values by lower-case name.
        body: body as received.
    """

    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return orjson.loads(self.body)

    @property
    def stages(self) -> dict[str, float]:
        """Milliseconds by stage, from the header `server-timing`."""
        parts = re.findall(r"([\w-]+);dur=([\d.]+)", self.headers.get("server-timing", ""))
        return {stage: float(duration) for stage, duration in parts}


class Client:
    """One connection, for one thread; a context manager that closes it.

    Args:
        url: address of the server, `http://HOST:PORT`.
    """

    def __init__(self, url: str) -> None:
        host, _, port = url.removeprefix("http://").rpartition(":")
        self._connection = http.client.HTTPConnection(host, int(port), timeout=600)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._connection.close()

    def post(self, path: str, body: bytes, media_type: str = _JSON) -> Response:
        """Send a POST request.

        Args:
            path: path of the request.
            body: the body.
            media_type: its type. Default: JSON.

        Raises:
            RuntimeError: The status is not 200.
        """
        return self._successful(path, *self.ask("POST", path, body, media_type))

    def get(self, path: str) -> Response:
        """Send a GET request.

        Args:
            path: path of the request.

        Raises:
            RuntimeError: The status is not 200.
        """
        return self._successful(path, *self.ask("GET", path))

    def ask(
        self, method: str, path: str, body: bytes | None = None, media_type: str = _JSON
    ) -> tuple[int, Response]:
        """Send a request, and accept any status.

        Args:
            method: HTTP method.
            path: path of the request.
            body: the body. Default: no body.
            media_type: its type. Default: JSON.

        Returns:
            Status and response.
        """
        headers = {} if body is None else {"content-type": media_type}
        try:
            response = self._response(method, path, body, headers)
        except ConnectionError:  # the server closed the idle connection
            self._connection.close()
            response = self._response(method, path, body, headers)
        content = response.read()
        named = {name.lower(): value for name, value in response.getheaders()}
        return response.status, Response(named, content)

    def _response(
        self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]
    ) -> http.client.HTTPResponse:
        self._connection.request(method, path, body, headers)
        return self._connection.getresponse()

    @staticmethod
    def _successful(path: str, status: int, response: Response) -> Response:
        if status != 200:
            raise RuntimeError(f"{path}: {status} {response.body[:500]!r}")
        return response

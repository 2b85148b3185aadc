"""A proxy that keeps the requests which a vendor's program sends."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx

from tests.api.serving import TIMEOUT

PASSED = ("content-type", "x-api-key", "authorization", "token")


@dataclass
class Forwarding:
    """A proxy in front of a server.

    Attributes:
        url: its address.
        paths: paths of the requests, in order, with their queries.
        bodies: their JSON.
        statuses: statuses of the responses.
        before: called with the number of earlier requests, and the JSON, before one is passed on.
    """

    url: str
    paths: list[str] = field(default_factory=list)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)
    before: Callable[[int, dict[str, Any]], None] | None = None


@contextmanager
def forwarding(to: str) -> Iterator[Forwarding]:
    """Run a proxy on 127.0.0.1 that passes POST requests on.

    Args:
        to: address of the server.
    """

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            data = self.rfile.read(int(self.headers["content-length"]))
            body = json.loads(data)
            if kept.before is not None:
                kept.before(len(kept.bodies), body)
            kept.paths.append(self.path)
            kept.bodies.append(body)
            headers = {name: self.headers[name] for name in PASSED if name in self.headers}
            response = client.post(to + self.path, content=data, headers=headers)
            kept.statuses.append(response.status_code)
            self.send_response(response.status_code)
            self.send_header("content-type", response.headers["content-type"])
            self.send_header("content-length", str(len(response.content)))
            self.end_headers()
            self.wfile.write(response.content)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name
            pass

    with (
        httpx.Client(timeout=TIMEOUT) as client,
        ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server,
    ):
        kept = Forwarding(f"http://127.0.0.1:{server.server_port}")
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield kept
        server.shutdown()

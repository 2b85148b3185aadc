"""The real server with a free SAM 2 decoder, and a server that only echoes JSON.

The CPU time of the first is the server's overhead; that of the second is the minimum of the HTTP
stack.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click
import orjson
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from benchmarks.reference_server import serve
from benchmarks.requests import SEGMENT
from benchmarks.synthetic import mask_logits
from inference_server.engines.base import Candidates, Query, VisualPrompt

SEED = 3
"""Seed of a mask that covers about 5 % of the image."""


def stub_app() -> Starlette:
    """Build the application with settings from the environment and canned logits for SAM 2."""
    from inference_server.api.app import create_app
    from inference_server.engines.sam2 import engine as visual

    canned = mask_logits(1, seed=SEED)
    base: Any = visual.VisualEngine

    class StubEngine(base):  # type: ignore[misc]
        """Encodes with the demo model; returns the same logits for every prompt."""

        def decode(self, queries: Sequence[Query[VisualPrompt]]) -> list[Candidates]:
            scores = canned[:, 0, 0] * 0 + 0.9
            return [Candidates(canned, 0.0, scores, canned) for _ in queries]

    visual.VisualEngine = StubEngine  # type: ignore[misc]
    return create_app()


def echo_app(size: int) -> Starlette:
    """Build an application that parses JSON and returns constant JSON.

    Args:
        size: approximate size of the response in bytes.
    """
    content = {"masks": [[[100, 100]] * (size // 10)]}

    async def echo(request: Request) -> Response:
        orjson.loads(await request.body())
        return Response(orjson.dumps(content), media_type="application/json")

    async def readyz(request: Request) -> Response:
        del request
        return Response(b'{"status":"ok"}', media_type="application/json")

    return Starlette(routes=[Route(SEGMENT, echo, methods=["POST"]), Route("/readyz", readyz)])


@click.command()
@click.option("--echo", type=int, help="Only return constant JSON of this size in bytes.")
def main(echo: int | None) -> None:
    """Serve on a free port."""
    serve(stub_app() if echo is None else echo_app(echo))


if __name__ == "__main__":
    main()

"""The real server around a SAM 2 whose clicks cost nothing, and a server that only echoes JSON.

What the first takes of the processor is the server's own; what the second takes is the least that
the HTTP stack can do with.
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
from benchmarks.serving import SEGMENT
from benchmarks.synthetic import mask_logits
from inference_server.engines.base import Candidates, Query, VisualPrompt

SEED = 3
"""Of a mask that covers some 5 % of the image."""


def stub_app() -> Starlette:
    """The application with its settings from the environment, and canned logits for SAM 2."""
    from inference_server.api.app import create_app
    from inference_server.engines.sam2 import engine as visual

    canned = mask_logits(1, seed=SEED)
    base: Any = visual.VisualEngine

    class StubEngine(base):  # type: ignore[misc]
        """Encodes with the demo, and answers every prompt with the same logits at once."""

        def decode(self, queries: Sequence[Query[VisualPrompt]]) -> list[Candidates]:
            scores = canned[:, 0, 0] * 0 + 0.9
            return [Candidates(canned, 0.0, scores, canned) for _ in queries]

    visual.VisualEngine = StubEngine  # type: ignore[misc]
    return create_app()


def echo_app(size: int) -> Starlette:
    """JSON in, and JSON of so many bytes out.

    Args:
        size: of the answer in bytes, about.
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
@click.option("--echo", type=int, help="Only echo, with answers of so many bytes.")
def main(echo: int | None) -> None:
    """Serve."""
    serve(stub_app() if echo is None else echo_app(echo))


if __name__ == "__main__":
    main()

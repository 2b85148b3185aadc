"""The pages for browsers: the playground, the API reference, and the files that they load."""

from __future__ import annotations

import asyncio
from types import MappingProxyType

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from inference_server.api.responses import accepts_gzip
from inference_server.playground import NAMES, load

_NOTHING = (
    "default-src 'none'; script-src 'self'; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'; "
)
_POLICIES = MappingProxyType(
    {
        "index.html": _NOTHING
        + "style-src 'self'; img-src 'self' blob:; require-trusted-types-for 'script'; "
        "trusted-types 'none'",
        # Swagger UI writes styles into its elements and carries its icons along as data.
        "docs.html": _NOTHING + "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:",
    }
)
"""What each page may load: nothing from anywhere else."""

_HEADERS = MappingProxyType(
    {
        "x-content-type-options": "nosniff",
        "referrer-policy": "no-referrer",
        # A file's name stays the same when the server is upgraded: browsers ask by the etag.
        "cache-control": "no-cache",
    }
)


def wants_page(request: Request) -> bool:
    """Whether the client asks for HTML by name, and likes it at least as much as JSON.

    Browsers name it; `curl`, `requests` and generated clients take anything or JSON.
    """
    liked: dict[str, float] = {}
    for part in ",".join(request.headers.getlist("accept")).lower().split(","):
        name, *parameters = (piece.strip() for piece in part.split(";"))
        quality = next((p[2:] for p in parameters if p.startswith("q=")), "1")
        try:
            liked[name] = float(quality)
        except ValueError:
            liked[name] = 0.0
    html = liked.get("text/html", 0.0)
    return html > 0 and html >= liked.get("application/json", 0.0)


async def file(request: Request, name: str) -> Response:
    """A file of the pages, or word that the browser's copy is still good.

    Args:
        request: that is answered.
        name: of the file.

    Raises:
        HTTPException: there is no such file.
    """
    if name not in NAMES:
        raise HTTPException(404)
    asset = await asyncio.to_thread(load, name)
    headers = {**_HEADERS, "etag": asset.etag, "vary": "accept, accept-encoding"}
    headers["content-security-policy"] = _POLICIES.get(name, "default-src 'none'; sandbox")
    if asset.etag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    content = asset.content
    if asset.zipped is not None and accepts_gzip(request.headers.get("accept-encoding", "")):
        content = asset.zipped
        headers["content-encoding"] = "gzip"
    return Response(content, headers={**headers, "content-type": asset.media_type})


async def playground(request: Request) -> Response:
    """The page at `/`, for `wants_page`."""
    return await file(request, "index.html")


async def _asset(request: Request) -> Response:
    return await file(request, request.path_params["name"])


async def _reference(request: Request) -> Response:
    return await file(request, "docs.html")


ROUTES = (
    Route("/docs", _reference, name="apiReference"),
    Route("/playground/{name}", _asset, name="playgroundFile"),
)
"""Served to anyone, and no part of the API. `/` is, as long as nobody asks for HTML."""
